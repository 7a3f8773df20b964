//! What a backup holds: tables and their columns, rows of extensions that are the user's, sequences, the database itself.

use std::collections::{BTreeMap, BTreeSet};

use ms5_common::db::client::Client;
use ms5_common::sql::TableName;
use ms5_common::timescale::{self, Extension};
use postgres::error::SqlState;
use serde_json::{Map, Value, json};

use crate::folder::metadata::Table;

type SqlResult<T> = Result<T, postgres::Error>;

/// Everything that is read of the catalog.
pub(crate) struct Plan {
    /// Rows of extensions, in the order in which they can be loaded.
    pub(crate) catalog: Vec<Table>,
    /// Tables with their size in bytes, the largest first.
    pub(crate) tables: Vec<(Table, u64)>,
    /// Schemas of users with names of TimescaleDB's.
    pub(crate) strange_schemas: Vec<String>,
    pub(crate) hypertables: Vec<TableName>,
    /// Those that others inherit from.
    pub(crate) parents: BTreeSet<String>,
    /// Values that columns added later have in rows of before, where the rows do not hold them.
    pub(crate) added: Vec<Added>,
    pub(crate) sequences: Vec<(String, i64, bool)>,
    pub(crate) extension: Extension,
    /// Whether TimescaleDB has rows of its own, which only a superuser can load.
    pub(crate) superuser: bool,
    /// The table of the background jobs, and those that run by schedule.
    pub(crate) jobs_table: Option<String>,
    pub(crate) jobs: Vec<Scheduled>,
    pub(crate) large_objects: u64,
    pub(crate) table_count: u64,
    pub(crate) hypertable_count: u64,
    pub(crate) database: Map<String, Value>,
    pub(crate) database_bytes: u64,
}

/// A column that was added to a chunk when it had rows: those that are compressed do not hold its default, which the catalog alone
/// knows. `pg_dump` does not take it along, and they would come back as NULL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Added {
    /// `schema.name`, as SQL.
    pub(crate) table: String,
    pub(crate) column: String,
    /// As an array of one, in its text.
    pub(crate) value: String,
}

/// A job that runs by schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scheduled {
    pub(crate) id: i64,
    pub(crate) timezone: Option<String>,
}

/// The rows of an extension's table that `pg_dump` would take too.
struct Config {
    oid: u32,
    extension: String,
    table: Table,
    kind: String,
}

impl Plan {
    /// Reads it inside the snapshot.
    ///
    /// # Errors
    /// The client's.
    pub(crate) fn read(client: &mut Client) -> SqlResult<Self> {
        let extension = timescale::extension(client)?;
        let configs = configs(client)?;
        let superuser = has_rows(client, &configs)?;
        // Without hypertables these rows are those of any new extension, and nobody but a superuser could load them.
        let wanted: Vec<Config> =
            configs.into_iter().filter(|config| superuser || config.extension != "timescaledb").collect();
        let (sequences, tables): (Vec<Config>, Vec<Config>) =
            wanted.into_iter().partition(|config| config.kind == "S");
        let (jobs_table, jobs) = jobs_in(client, &tables)?;
        let number = |client: &mut Client, sql: &str| -> SqlResult<u64> {
            Ok(u64::try_from(client.query_typed_one(sql, &[])?.get::<_, i64>(0)).unwrap_or_default())
        };
        let hypertables =
            if extension.installed.is_some() { timescale::hypertables::names(client)? } else { Vec::new() };
        Ok(Self {
            sequences: sequence_values(client, sequences)?,
            catalog: in_order(client, tables)?,
            tables: plain_tables(client)?,
            strange_schemas: strange_schemas(client)?,
            parents: parents(client)?,
            added: if superuser { added(client)? } else { Vec::new() },
            extension,
            superuser,
            jobs_table,
            jobs,
            large_objects: number(client, "SELECT count(*) FROM pg_catalog.pg_largeobject_metadata")?,
            table_count: number(client, TABLE_COUNT)?,
            hypertable_count: hypertables.len() as u64,
            hypertables,
            database: database(client)?,
            database_bytes: number(
                client,
                "SELECT pg_catalog.pg_database_size(pg_catalog.current_database())",
            )?,
        })
    }
}

/// How many tables a user would count: not the server's, not an extension's.
pub(crate) const TABLE_COUNT: &str =
    "SELECT count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                 WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^(pg_|_timescaledb_)' AND n.nspname <> 'information_schema'
                   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                                   WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid
                                     AND d.deptype = 'e')";

const COLUMNS: &str =
    "coalesce((SELECT '(' || string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) || ')'
     FROM pg_catalog.pg_attribute a
     WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''), '')";

fn plain_tables(client: &mut Client) -> SqlResult<Vec<(Table, u64)>> {
    let rows = client.query_typed(
        &format!(
            "SELECT format('%I.%I', n.nspname, c.relname), {COLUMNS}, pg_catalog.pg_table_size(c.oid)
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
               AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                               WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid
                                 AND d.deptype = 'e')
             ORDER BY 3 DESC NULLS LAST, 1"
        ),
        &[],
    )?;
    Ok(rows
        .iter()
        .map(|row| {
            let table = Table { name: row.get(0), columns: row.get(1), ..Table::default() };
            (table, u64::try_from(row.get::<_, Option<i64>>(2).unwrap_or_default()).unwrap_or_default())
        })
        .collect())
}

fn strange_schemas(client: &mut Client) -> SqlResult<Vec<String>> {
    let rows = client.query_typed(
        "SELECT n.nspname::text FROM pg_catalog.pg_namespace n
         WHERE n.nspname ~ '^_timescaledb_'
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                           WHERE d.classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND d.objid = n.oid
                             AND d.deptype = 'e')
         ORDER BY 1",
        &[],
    )?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

fn parents(client: &mut Client) -> SqlResult<BTreeSet<String>> {
    let rows = client.query_typed(
        "SELECT DISTINCT format('%I.%I', n.nspname, c.relname)
         FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhparent
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace",
        &[],
    )?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Of tables that inherit, as chunks do. Rows that are not compressed are loaded whole.
fn added(client: &mut Client) -> SqlResult<Vec<Added>> {
    let rows = client.query_typed(
        "SELECT format('%I.%I', n.nspname, c.relname), a.attname::text, a.attmissingval::text
         FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE a.atthasmissing AND NOT a.attisdropped AND c.relkind = 'r'
           AND EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid)
         ORDER BY 1, 2",
        &[],
    )?;
    Ok(rows.iter().map(|row| Added { table: row.get(0), column: row.get(1), value: row.get(2) }).collect())
}

/// What pg_extension says is the user's: TimescaleDB's catalog, PostGIS' systems of reference.
fn configs(client: &mut Client) -> SqlResult<Vec<Config>> {
    let rows = client.query_typed(
        &format!(
            "SELECT c.oid, e.extname::text, format('%I.%I', n.nspname, c.relname), {COLUMNS},
                    coalesce(e.extcondition[i], ''), c.relkind::text
             FROM pg_catalog.pg_extension e
             CROSS JOIN LATERAL generate_subscripts(e.extconfig, 1) i
             JOIN pg_catalog.pg_class c ON c.oid = e.extconfig[i]
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'S') ORDER BY e.extname, n.nspname, c.relname"
        ),
        &[],
    )?;
    Ok(rows
        .iter()
        .map(|row| Config {
            oid: row.get(0),
            extension: row.get(1),
            table: Table {
                name: row.get(2),
                columns: row.get(3),
                condition: Some(row.get::<_, String>(4).trim().to_owned()),
                ..Table::default()
            },
            kind: row.get(5),
        })
        .collect())
}

/// The table of TimescaleDB's background jobs, whose schema moved between versions, and those of users that run by schedule.
pub(crate) fn jobs(client: &mut Client) -> SqlResult<(Option<String>, Vec<Scheduled>)> {
    let configs = configs(client)?;
    jobs_in(client, &configs)
}

fn jobs_in(client: &mut Client, configs: &[Config]) -> SqlResult<(Option<String>, Vec<Scheduled>)> {
    let Some(config) = configs.iter().find(|config| config.table.name.ends_with(".bgw_job")) else {
        return Ok((None, Vec::new()));
    };
    let table = config.table.name.clone();
    let sql = format!("SELECT id, timezone::text FROM {table} WHERE id >= 1000 AND scheduled ORDER BY id");
    let rows = client.query_typed(&sql, &[])?;
    let job = |row: &postgres::Row| Scheduled { id: i64::from(row.get::<_, i32>(0)), timezone: row.get(1) };
    Ok((Some(table), rows.iter().map(job).collect()))
}

/// Whether TimescaleDB's tables hold anything but what a new extension has: hypertables, jobs of users.
fn has_rows(client: &mut Client, configs: &[Config]) -> SqlResult<bool> {
    for config in configs {
        if config.extension != "timescaledb" || config.kind != "r" || config.table.name.ends_with(".metadata")
        {
            continue;
        }
        let condition = config.table.condition.as_deref().unwrap_or_default();
        let sql = format!("SELECT EXISTS (SELECT FROM {} {condition})", config.table.name);
        if client.query_typed_one(&sql, &[])?.get(0) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Puts tables behind those that they refer to; by name otherwise.
fn in_order(client: &mut Client, configs: Vec<Config>) -> SqlResult<Vec<Table>> {
    let mut waits: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let oids: Vec<u32> = configs.iter().map(|config| config.oid).collect();
    let rows = client.query(
        "SELECT conrelid, confrelid FROM pg_catalog.pg_constraint
         WHERE contype = 'f' AND conrelid = ANY ($1) AND confrelid = ANY ($1) AND conrelid <> confrelid",
        &[&oids],
    )?;
    for row in rows {
        waits.entry(row.get(0)).or_default().push(row.get(1));
    }
    Ok(order(configs.into_iter().map(|config| (config.oid, config.table)).collect(), &waits))
}

fn order(mut left: Vec<(u32, Table)>, waits: &BTreeMap<u32, Vec<u32>>) -> Vec<Table> {
    let mut ordered = Vec::new();
    while !left.is_empty() {
        let free = left.iter().position(|(oid, _)| {
            let behind = waits.get(oid).map_or(&[] as &[u32], Vec::as_slice);
            !left.iter().any(|(other, _)| other != oid && behind.contains(other))
        });
        // A circle has no right order; the load then says so.
        ordered.push(left.remove(free.unwrap_or(0)).1);
    }
    ordered
}

/// Where sequences stand. They move outside of any snapshot, forwards only, so what rows use is never ahead of them.
fn sequence_values(client: &mut Client, configs: Vec<Config>) -> SqlResult<Vec<(String, i64, bool)>> {
    let mut names: Vec<(String, String)> = configs
        .into_iter()
        .map(|config| (config.table.name, config.table.condition.unwrap_or_default()))
        .collect();
    let rows = client.query_typed(
        "SELECT format('%I.%I', n.nspname, c.relname)
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                           WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid
                             AND d.deptype = 'e')
         ORDER BY 1",
        &[],
    )?;
    names.extend(rows.iter().map(|row| (row.get(0), String::new())));
    let mut values = Vec::with_capacity(names.len());
    for batch in names.chunks(200) {
        let queries: Vec<String> = (batch.iter().enumerate())
            .map(|(number, (name, _))| format!("SELECT {number}, last_value, is_called FROM {name}"))
            .collect();
        for row in client.query_typed(&queries.join(" UNION ALL "), &[])? {
            let number = usize::try_from(row.get::<_, i32>(0)).unwrap_or_default();
            if let Some((name, _)) = batch.get(number) {
                values.push((name.clone(), row.get(1), row.get(2)));
            }
        }
    }
    values.sort();
    Ok(values)
}

/// The database as pg_database and its kin have it: what a plain dump leaves out.
pub(crate) fn database(client: &mut Client) -> SqlResult<Map<String, Value>> {
    let row = client.query_typed_one(
        "SELECT to_jsonb(d)::text, pg_catalog.pg_get_userbyid(d.datdba)::text,
                pg_catalog.pg_encoding_to_char(d.encoding)::text,
                (SELECT spcname::text FROM pg_catalog.pg_tablespace WHERE oid = d.dattablespace),
                pg_catalog.shobj_description(d.oid, 'pg_database'), d.datconnlimit
         FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()",
        &[],
    )?;
    let columns: Value = serde_json::from_str(row.get(0)).unwrap_or(Value::Null);
    let column = |names: &[&str]| {
        names.iter().find_map(|name| columns.get(name)).and_then(Value::as_str).map(str::to_owned)
    };
    let settings: Vec<Value> = client
        .query_typed(
            "SELECT (SELECT rolname::text FROM pg_catalog.pg_roles WHERE oid = s.setrole), c
             FROM pg_catalog.pg_db_role_setting s, unnest(s.setconfig) c
             WHERE s.setdatabase = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
               AND c !~ '^timescaledb\\.restoring='
             ORDER BY 1 NULLS FIRST, 2",
            &[],
        )?
        .iter()
        .map(|row| json!([row.get::<_, Option<String>>(0), row.get::<_, String>(1)]))
        .collect();
    let rights: Vec<Value> = match client.query_typed(
        "SELECT CASE WHEN a.grantee = 0 THEN NULL ELSE pg_catalog.pg_get_userbyid(a.grantee)::text END,
                a.privilege_type::text, a.is_grantable
         FROM pg_catalog.pg_database d, pg_catalog.aclexplode(d.datacl) a
         WHERE d.datname = pg_catalog.current_database() ORDER BY 1 NULLS FIRST, 2",
        &[],
    ) {
        Ok(rows) => rows
            .iter()
            .map(|row| {
                json!([row.get::<_, Option<String>>(0), row.get::<_, String>(1), row.get::<_, bool>(2)])
            })
            .collect(),
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_FUNCTION) => Vec::new(),
        Err(error) => return Err(error),
    };
    let value = json!({
        "owner": row.get::<_, String>(1),
        "encoding": row.get::<_, String>(2),
        "collate": column(&["datcollate"]),
        "ctype": column(&["datctype"]),
        "provider": column(&["datlocprovider"]),
        "locale": column(&["datlocale", "daticulocale"]),
        "icu_rules": column(&["daticurules"]),
        "tablespace": row.get::<_, Option<String>>(3),
        "comment": row.get::<_, Option<String>>(4),
        "connection_limit": row.get::<_, i32>(5),
        "settings": settings,
        "rights": rights,
    });
    Ok(value.as_object().cloned().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn referred_tables_come_first() {
        let table = |name: &str| Table { name: name.into(), ..Table::default() };
        let left =
            vec![(1, table("chunk")), (2, table("dimension")), (3, table("hypertable")), (4, table("a"))];
        let waits = BTreeMap::from([(1, vec![3, 2]), (2, vec![3])]);
        let names: Vec<String> = order(left, &waits).into_iter().map(|table| table.name).collect();
        assert_eq!(names, ["hypertable", "dimension", "chunk", "a"]);
        let circle = BTreeMap::from([(1, vec![2]), (2, vec![1])]);
        assert_eq!(order(vec![(1, table("a")), (2, table("b"))], &circle).len(), 2);
    }
}
