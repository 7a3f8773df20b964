//! PostgreSQL's catalog, as far as the checks ask for it: one query for each kind of fact, typed.

use std::collections::BTreeMap;

use ms5_common::db::client::Client;
use ms5_common::sql::escape_literal;
use postgres::types::Type;

type SqlResult<T> = Result<T, postgres::Error>;

/// Whether a schema is there, for each of `schemas`.
pub(crate) fn missing_schemas(client: &mut Client, schemas: &[String]) -> SqlResult<Vec<String>> {
    let rows = client.query_typed(
        "SELECT s FROM unnest($1) s WHERE NOT EXISTS (
             SELECT FROM pg_catalog.pg_namespace WHERE s IN (nspname::text, quote_ident(nspname)))",
        &[(&schemas, Type::TEXT_ARRAY)],
    )?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Tables, views and materialized views of some schemas: `schema.name` and relkind.
pub(crate) fn relations(client: &mut Client, schemas: &[String]) -> SqlResult<BTreeMap<String, String>> {
    let rows = client.query_typed(
        "SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname), c.relkind::text
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE quote_ident(n.nspname) = ANY ($1) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')",
        &[(&schemas, Type::TEXT_ARRAY)],
    )?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// The columns of relations: relation, column, type, whether NOT NULL.
pub(crate) type Columns = BTreeMap<String, BTreeMap<String, (String, bool)>>;

/// The columns of `relations`; one that is not there has none.
pub(crate) fn columns(client: &mut Client, relations: &[String]) -> SqlResult<Columns> {
    // Types are printed with what search_path makes necessary: with none, all but the system's are qualified.
    let mut transaction = client.transaction("READ ONLY")?;
    transaction.batch_execute("SET LOCAL search_path TO ''")?;
    let rows = transaction.query_typed(
        "SELECT r, quote_ident(a.attname), format_type(a.atttypid, a.atttypmod), a.attnotnull
         FROM unnest($1) r JOIN pg_catalog.pg_attribute a ON a.attrelid = to_regclass(r)
         WHERE a.attnum > 0 AND NOT a.attisdropped",
        &[(&relations, Type::TEXT_ARRAY)],
    )?;
    transaction.commit()?;
    let mut columns = Columns::new();
    for row in rows {
        columns.entry(row.get(0)).or_default().insert(row.get(1), (row.get(2), row.get(3)));
    }
    Ok(columns)
}

/// Those of `functions` (`schema.name(types)`) that are not there.
pub(crate) fn missing_functions(client: &mut Client, functions: &[String]) -> SqlResult<Vec<String>> {
    let rows = client.query_typed(
        "SELECT f FROM unnest($1) f WHERE to_regprocedure(f) IS NULL",
        &[(&functions, Type::TEXT_ARRAY)],
    )?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Those of `triggers` (`schema.table.trigger`) that are not there, or are and are disabled.
pub(crate) fn triggers_amiss(client: &mut Client, triggers: &[String]) -> SqlResult<Vec<(String, bool)>> {
    let rows = client.query_typed(
        "SELECT w, t.oid IS NOT NULL FROM unnest($1) w LEFT JOIN (
             pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid AND NOT t.tgisinternal
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace)
           ON quote_ident(n.nspname) || '.' || quote_ident(c.relname) || '.' || quote_ident(t.tgname) = w
         WHERE t.oid IS NULL OR t.tgenabled = 'D'",
        &[(&triggers, Type::TEXT_ARRAY)],
    )?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// How many rows tables have, counted up to the number given with each.
pub(crate) fn rows_up_to(client: &mut Client, tables: &[(&str, u64)]) -> SqlResult<Vec<(String, i64)>> {
    let counts: Vec<String> = tables
        .iter()
        .map(|(table, most)| {
            format!(
                "SELECT {}, (SELECT count(*) FROM (SELECT FROM {table} LIMIT {most}) x)",
                escape_literal(table)
            )
        })
        .collect();
    if counts.is_empty() {
        return Ok(Vec::new());
    }
    let rows = client.query_typed(&counts.join(" UNION ALL "), &[])?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// A constraint or an index that does not do what it is there for.
pub(crate) struct Amiss {
    /// `schema.table`.
    pub(crate) table: String,
    /// The index with its schema, or the constraint's name.
    pub(crate) name: String,
    /// Its definition.
    pub(crate) definition: String,
    /// For an index: it is being built right now.
    pub(crate) building: bool,
}

/// Constraints that do not hold for the rows that are there, in some schemas and in chunks.
pub(crate) fn unvalidated(client: &mut Client, schemas: &[String]) -> SqlResult<Vec<Amiss>> {
    let rows = client.query_typed(
        "SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname), quote_ident(k.conname),
                pg_get_constraintdef(k.oid)
         FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE NOT k.convalidated AND quote_ident(n.nspname) = ANY ($1) ORDER BY 1, 2",
        &[(&schemas, Type::TEXT_ARRAY)],
    )?;
    Ok(rows
        .iter()
        .map(|row| Amiss { table: row.get(0), name: row.get(1), definition: row.get(2), building: false })
        .collect())
}

/// Indexes that are not valid, in some schemas and in chunks.
pub(crate) fn invalid_indexes(client: &mut Client, schemas: &[String]) -> SqlResult<Vec<Amiss>> {
    let rows = client.query_typed(
        "SELECT quote_ident(n.nspname) || '.' || quote_ident(t.relname),
                quote_ident(m.nspname) || '.' || quote_ident(c.relname), pg_get_indexdef(c.oid),
                EXISTS (SELECT FROM pg_catalog.pg_stat_progress_create_index p WHERE p.index_relid = c.oid)
         FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
         JOIN pg_catalog.pg_namespace m ON m.oid = c.relnamespace
         JOIN pg_catalog.pg_class t ON t.oid = i.indrelid
         JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
         WHERE NOT (i.indisvalid AND i.indisready AND i.indislive)
           AND (quote_ident(n.nspname) = ANY ($1) OR n.nspname ~ '^_timescaledb_internal') ORDER BY 1, 2",
        &[(&schemas, Type::TEXT_ARRAY)],
    )?;
    Ok(rows
        .iter()
        .map(|row| Amiss {
            table: row.get(0),
            name: row.get(1),
            definition: row.get(2),
            building: row.get(3),
        })
        .collect())
}

/// What texts mean as intervals, in microseconds as TimescaleDB compares them.
pub(crate) fn intervals(client: &mut Client, texts: &[String]) -> SqlResult<BTreeMap<String, i64>> {
    let rows = client.query_typed(
        "SELECT t, (extract(epoch FROM t::interval) * 1000000)::bigint FROM unnest($1) t",
        &[(&texts, Type::TEXT_ARRAY)],
    )?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// A column of a table that a probe writes to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Column {
    /// Quoted where SQL wants that.
    pub(crate) name: String,
    pub(crate) not_null: bool,
    pub(crate) has_default: bool,
    /// An identity, or a default that takes a value of a sequence.
    pub(crate) takes_sequence: bool,
    pub(crate) generated: bool,
    /// The type as SQL writes it.
    pub(crate) type_text: String,
    /// The type's name in pg_type; of a domain, that of the type below.
    pub(crate) type_name: String,
    /// typcategory.
    pub(crate) category: String,
    /// The first label of an enum.
    pub(crate) label: Option<String>,
}

/// The columns of tables, with what a probe has to know of them.
pub(crate) fn probe_columns(
    client: &mut Client,
    tables: &[String],
) -> SqlResult<BTreeMap<String, Vec<Column>>> {
    let rows = client.query_typed(
        "SELECT r, quote_ident(a.attname), a.attnotnull, d.oid IS NOT NULL,
                a.attidentity <> '' OR EXISTS (
                    SELECT FROM pg_catalog.pg_depend p JOIN pg_catalog.pg_class s ON s.oid = p.refobjid
                    WHERE p.classid = 'pg_catalog.pg_attrdef'::regclass AND p.objid = d.oid
                      AND p.refclassid = 'pg_catalog.pg_class'::regclass AND s.relkind = 'S'),
                a.attgenerated <> '', format_type(a.atttypid, a.atttypmod), b.typname::text, b.typcategory::text,
                (SELECT e.enumlabel::text FROM pg_catalog.pg_enum e WHERE e.enumtypid = b.oid
                 ORDER BY e.enumsortorder LIMIT 1)
         FROM unnest($1) r JOIN pg_catalog.pg_attribute a ON a.attrelid = to_regclass(r)
         JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
         JOIN pg_catalog.pg_type b ON b.oid = CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END
         LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
         WHERE a.attnum > 0 AND NOT a.attisdropped ORDER BY r, a.attnum",
        &[(&tables, Type::TEXT_ARRAY)],
    )?;
    let mut columns: BTreeMap<String, Vec<Column>> = BTreeMap::new();
    for row in rows {
        columns.entry(row.get(0)).or_default().push(Column {
            name: row.get(1),
            not_null: row.get(2),
            has_default: row.get(3),
            takes_sequence: row.get(4),
            generated: row.get(5),
            type_text: row.get(6),
            type_name: row.get(7),
            category: row.get(8),
            label: row.get(9),
        });
    }
    Ok(columns)
}

/// A foreign key of a table that a probe writes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ForeignKey {
    pub(crate) table: String,
    pub(crate) columns: Vec<String>,
    pub(crate) to: String,
    pub(crate) to_columns: Vec<String>,
}

/// The foreign keys of tables.
pub(crate) fn foreign_keys(client: &mut Client, tables: &[String]) -> SqlResult<Vec<ForeignKey>> {
    let rows = client.query_typed(
        "SELECT r, (SELECT array_agg(quote_ident(a.attname) ORDER BY u.n) FROM unnest(k.conkey) WITH ORDINALITY u(c, n)
                    JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.c),
                quote_ident(n.nspname) || '.' || quote_ident(c.relname),
                (SELECT array_agg(quote_ident(a.attname) ORDER BY u.n) FROM unnest(k.confkey) WITH ORDINALITY u(c, n)
                 JOIN pg_catalog.pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.c)
         FROM unnest($1) r JOIN pg_catalog.pg_constraint k ON k.conrelid = to_regclass(r) AND k.contype = 'f'
         JOIN pg_catalog.pg_class c ON c.oid = k.confrelid
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace ORDER BY r, k.conname",
        &[(&tables, Type::TEXT_ARRAY)],
    )?;
    Ok(rows
        .iter()
        .map(|row| ForeignKey {
            table: row.get(0),
            columns: row.get(1),
            to: row.get(2),
            to_columns: row.get(3),
        })
        .collect())
}

/// Triggers of the operator's that an INSERT fires: table and trigger.
pub(crate) fn insert_triggers(client: &mut Client, tables: &[String]) -> SqlResult<Vec<(String, String)>> {
    let rows = client.query_typed(
        "SELECT r, t.tgname::text FROM unnest($1) r JOIN pg_catalog.pg_trigger t ON t.tgrelid = to_regclass(r)
         WHERE NOT t.tgisinternal AND t.tgtype & 4 <> 0 AND t.tgenabled <> 'D'
           AND t.tgname NOT IN ('ts_insert_blocker', 'ts_cagg_invalidation_trigger')",
        &[(&tables, Type::TEXT_ARRAY)],
    )?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Those of `tables` that have no row.
pub(crate) fn empty_tables(client: &mut Client, tables: &[&str]) -> SqlResult<Vec<String>> {
    let tables: Vec<(&str, u64)> = tables.iter().map(|table| (*table, 1)).collect();
    let counted = rows_up_to(client, &tables)?;
    Ok(counted.into_iter().filter(|(_, rows)| *rows == 0).map(|(table, _)| table).collect())
}

/// Whether the session may do anything.
pub(crate) fn is_superuser(client: &mut Client) -> SqlResult<bool> {
    Ok(client.query_typed_one("SELECT current_setting('is_superuser') = 'on'", &[])?.get(0))
}
