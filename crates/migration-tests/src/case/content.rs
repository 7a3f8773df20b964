//! The rows of a database as a test counts and hashes them itself, by the columns that were there at first.

use std::collections::BTreeMap;

use ms5_common::db::client::Client;

use super::{Stop, ask, refused};

/// What is a user's table, as `c` of pg_class and `n` of pg_namespace.
const USERS: &str = "c.relkind IN ('r', 'p') AND NOT c.relispartition
    AND n.nspname !~ '^(pg_|_timescaledb_|timescaledb_)' AND n.nspname <> 'information_schema'
    AND c.relname NOT LIKE 'migration\\_%'
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                    AND d.objid = c.oid AND d.deptype = 'e')";

/// The rows of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rows {
    /// `"a" integer, "b" text`: the columns that they are hashed by.
    columns: Vec<(String, String)>,
    pub(crate) count: u64,
    pub(crate) hash: String,
}

/// The rows of every table, by the table as SQL writes it. The ledger is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content(pub(crate) BTreeMap<String, Rows>);

impl Content {
    /// Reads all.
    pub(crate) fn of(client: &mut Client) -> Result<Self, Stop> {
        let tables = columns(client)?;
        let rows = tables.into_iter().map(|(table, columns)| {
            let rows = rows(client, &table, columns)?;
            Ok((table, rows))
        });
        Ok(Self(rows.collect::<Result<_, Stop>>()?))
    }

    /// The same tables again, by the same columns; without those that have gone, or whose columns have.
    pub(crate) fn again(&self, client: &mut Client) -> Result<Self, Stop> {
        let there = columns(client)?;
        let mut all = BTreeMap::new();
        for (table, then) in &self.0 {
            let Some(now) = there.get(table) else { continue };
            if then.columns.iter().all(|column| now.contains(column)) {
                all.insert(table.clone(), rows(client, table, then.columns.clone())?);
            }
        }
        Ok(Self(all))
    }
}

type Columns = Vec<(String, String)>;

fn columns(client: &mut Client) -> Result<BTreeMap<String, Columns>, Stop> {
    let query = format!(
        "SELECT format('%I.%I', n.nspname, c.relname), format('%I', a.attname), pg_catalog.format_type(a.atttypid, a.atttypmod)
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         WHERE {USERS} ORDER BY 1, a.attnum"
    );
    let found = client.query_typed(&query, &[]).map_err(|error| refused("the list of tables", &error))?;
    let mut all: BTreeMap<String, Columns> = BTreeMap::new();
    for row in found {
        all.entry(row.get(0)).or_default().push((row.get(1), row.get(2)));
    }
    Ok(all)
}

fn rows(client: &mut Client, table: &str, columns: Columns) -> Result<Rows, Stop> {
    let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
    let query = format!(
        "SELECT count(*) || ' ' || coalesce(sum(pg_catalog.hashtextextended(ROW({})::text, 0)::numeric), 0) FROM {table}",
        names.join(", ")
    );
    let told = ask(client, &query)?;
    let (count, hash) = told.split_once(' ').unwrap_or_default();
    Ok(Rows { columns, count: count.parse().unwrap_or_default(), hash: hash.to_owned() })
}
