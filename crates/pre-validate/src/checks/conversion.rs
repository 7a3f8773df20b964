//! What keeps a table from becoming a hypertable, asked of the live catalog before the night in which it is to become one.
//!
//! TimescaleDB refuses these, or takes them and harms what stands on them, and so do migrations that know it. What a file names (a
//! foreign key, an index, a publication), be it in a comment, is that file's to take away, and is no finding. The primary key is
//! none either: no table gets here that has one with the time in it, so files that convert make it anew.

use std::collections::HashSet;

use ms5_common::check::{Finding, Report};
use ms5_common::db::client::Client;
use ms5_common::db::server_error::{gave_up, reasons};
use ms5_common::expected::{Expected, Hypertable};
use ms5_common::migrations::Migration;
use ms5_common::sql::{TableName, escape_identifier};
use ms5_common::timescale::hypertables;
use postgres::types::Type;

use super::CONVERSION;

type SqlResult<T> = Result<T, postgres::Error>;

/// Makes the check for every promised hypertable that is none yet. `files` is None where they could not be read.
pub(crate) fn check(
    report: &mut Report<'_>,
    client: &mut Client,
    files: Option<&[Migration]>,
    expected: Option<&Expected>,
) {
    let Some(files) = files else {
        report.add(&CONVERSION, Finding::skipped("the files cannot be read"));
        return;
    };
    let named = named(files);
    let mut looked = false;
    for promised in expected.iter().flat_map(|expected| &expected.hypertables) {
        let finding = match look(client, promised, &named) {
            Ok(None) => continue,
            Ok(Some(finding)) => finding,
            Err(error) => {
                let line = format!("Whether {} can become a hypertable is not known", promised.table);
                Finding::warn(line).because_all(reasons(&error)).remedy("run it again")
            }
        };
        looked = true;
        report.add(&CONVERSION, finding.on(&promised.table));
    }
    if !looked {
        report.add(&CONVERSION, Finding::skipped("no table is there that is to become a hypertable"));
    }
}

/// Every word of the files.
fn named(files: &[Migration]) -> HashSet<&str> {
    files
        .iter()
        .flat_map(Migration::statements)
        .flat_map(|statement| statement.text.split(|letter: char| !letter.is_alphanumeric() && letter != '_'))
        .collect()
}

/// What is in the way of a table; None where there is no such table, or it is a hypertable.
fn look(client: &mut Client, promised: &Hypertable, named: &HashSet<&str>) -> SqlResult<Option<Finding>> {
    let Some(name) = TableName::parse(&promised.table) else { return Ok(None) };
    let there = client.query_typed(
        "SELECT c.oid, EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'timescaledb')
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')",
        &[(&name.schema, Type::TEXT), (&name.table, Type::TEXT)],
    )?;
    let Some(there) = there.first() else { return Ok(None) };
    if there.get(1) && hypertables::names(client)?.contains(&name) {
        return Ok(None);
    }
    let oid: u32 = there.get(0);
    let rows = client.query_typed(OBSTACLES, &[(&oid, Type::OID), (&promised.time_column, Type::TEXT)])?;
    let mut obstacles: Vec<(String, String)> = rows
        .iter()
        .filter(|row| row.get::<_, Option<&str>>(0).is_none_or(|object| !named.contains(object)))
        .map(|row| (row.get(1), row.get(2)))
        .collect();
    let mut unsure = Vec::new();
    match without_time(client, oid, &name, &promised.time_column) {
        Ok(None) => {}
        Ok(Some(obstacle)) => obstacles.push(obstacle),
        Err(error) if gave_up(&error) => unsure.push((
            format!("whether rows have no {} cannot be found within a second", promised.time_column),
            format!("look yourself: {}", nulls(&name, &promised.time_column)),
        )),
        Err(error) => return Err(error),
    }
    if promised.compression.is_some() && excludes_compression(client, oid)? {
        unsure.push((
            "it has row security, which excludes compression: it would stay uncompressed".to_owned(),
            format!("ALTER TABLE {} DISABLE ROW LEVEL SECURITY; or do without compression", name.quoted()),
        ));
    }
    let finding = match (obstacles.is_empty(), unsure.is_empty()) {
        (true, true) => {
            return Ok(Some(Finding::pass(format!("{name}: nothing keeps it from becoming a hypertable"))));
        }
        (false, _) => Finding::fail(format!("{name} cannot become a hypertable as it is")),
        (true, false) => Finding::warn(format!("{name} may not become the hypertable that is promised")),
    };
    let (why, cures): (Vec<String>, Vec<String>) = obstacles.into_iter().chain(unsure).unzip();
    Ok(Some(finding.because_all(why).remedies(cures)))
}

/// Of table $1 with the time column $2: the object in the way, where it has a name of its own; what it is; what to do.
const OBSTACLES: &str = "WITH live AS (
         SELECT c.oid, c.relkind, c.relpersistence, c.relnamespace, n.nspname, format('%I.%I', n.nspname, c.relname) AS name
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1),
     time AS (SELECT a.attnum, a.attname, a.attgenerated, a.atttypid, format_type(a.atttypid, a.atttypmod) AS type
              FROM pg_catalog.pg_attribute a WHERE a.attrelid = $1 AND a.attname = $2 AND NOT a.attisdropped)
     SELECT p.pubname::text, format('publication %I publishes it', p.pubname),
            CASE WHEN p.puballtables THEN format('DROP PUBLICATION %I; and make it again for the other tables', p.pubname)
                 WHEN r.oid IS NOT NULL THEN format('ALTER PUBLICATION %I DROP TABLE %s;', p.pubname, live.name)
                 ELSE format('ALTER PUBLICATION %I DROP TABLES IN SCHEMA %I;', p.pubname, live.nspname) END
     FROM live CROSS JOIN pg_catalog.pg_publication p
     LEFT JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = live.oid
     LEFT JOIN pg_catalog.pg_publication_namespace s ON s.pnpubid = p.oid AND s.pnnspid = live.relnamespace
     WHERE p.puballtables OR r.oid IS NOT NULL OR s.oid IS NOT NULL
   UNION ALL
     SELECT t.tgname::text, format('row trigger %I uses transition tables', t.tgname),
            format('DROP TRIGGER %I ON %s; and make it a statement trigger', t.tgname, live.name)
     FROM live JOIN pg_catalog.pg_trigger t ON t.tgrelid = live.oid
     WHERE t.tgtype & 1 = 1 AND (t.tgoldtable IS NOT NULL OR t.tgnewtable IS NOT NULL)
   UNION ALL
     SELECT k.conname::text, format('foreign key %I of %s points to it', k.conname, k.conrelid::regclass),
            format('ALTER TABLE %s DROP CONSTRAINT %I;', k.conrelid::regclass, k.conname)
     FROM live JOIN pg_catalog.pg_constraint k ON k.confrelid = live.oid AND k.contype = 'f'
   UNION ALL
     SELECT w.rulename::text, format('it has the rule %I', w.rulename), format('DROP RULE %I ON %s;', w.rulename, live.name)
     FROM live JOIN pg_catalog.pg_rewrite w ON w.ev_class = live.oid
   UNION ALL
     SELECT NULL, format('%s inherits from %s', h.inhrelid::regclass, h.inhparent::regclass),
            format('ALTER TABLE %s NO INHERIT %s;', h.inhrelid::regclass, h.inhparent::regclass)
     FROM live JOIN pg_catalog.pg_inherits h ON live.oid IN (h.inhrelid, h.inhparent) WHERE live.relkind = 'r'
   UNION ALL
     SELECT NULL, 'it is partitioned by PostgreSQL itself', 'copy its rows to a plain table of that name'
     FROM live WHERE live.relkind = 'p'
   UNION ALL
     SELECT k.conname::text, format('check %I is NO INHERIT', k.conname),
            format('ALTER TABLE %s DROP CONSTRAINT %I; and add it without NO INHERIT', live.name, k.conname)
     FROM live JOIN pg_catalog.pg_constraint k ON k.conrelid = live.oid AND k.contype = 'c' AND k.connoinherit
   UNION ALL
     SELECT NULL, 'it is unlogged', format('ALTER TABLE %s SET LOGGED;', live.name)
     FROM live WHERE live.relpersistence = 'u'
   UNION ALL
     SELECT NULL, format('its time column %I is generated', time.attname),
            format('ALTER TABLE %s ALTER COLUMN %I DROP EXPRESSION;', live.name, time.attname)
     FROM live CROSS JOIN time WHERE time.attgenerated <> ''
   UNION ALL
     SELECT NULL, format('its time column %I is of type %s, which is no time', time.attname, time.type),
            format('ALTER TABLE %s ALTER COLUMN %I TYPE timestamptz USING ...;', live.name, time.attname)
     FROM live CROSS JOIN time
     WHERE (SELECT CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END FROM pg_catalog.pg_type t WHERE t.oid = time.atttypid)
           <> ALL ('{timestamptz,timestamp,date,int2,int4,int8}'::regtype[])
   UNION ALL
     SELECT i.relname::text, format('unique index %I does not hold %I', i.relname, time.attname),
            format('drop %I, or make it anew with %I as its last column; look for ON CONFLICT in applications', i.relname, time.attname)
     FROM live CROSS JOIN time JOIN pg_catalog.pg_index x ON x.indrelid = live.oid
     JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid
     WHERE (x.indisunique OR x.indisexclusion) AND NOT x.indisprimary AND time.attnum <> ALL (x.indkey::int2[])
   ORDER BY 2";

/// Rows without a time, which no file may invent.
fn without_time(
    client: &mut Client,
    oid: u32,
    name: &TableName,
    time_column: &str,
) -> SqlResult<Option<(String, String)>> {
    let nullable = client.query_typed(
        "SELECT FROM pg_catalog.pg_attribute
         WHERE attrelid = $1 AND attname = $2 AND NOT attnotnull AND NOT attisdropped",
        &[(&oid, Type::OID), (&time_column, Type::TEXT)],
    )?;
    if nullable.is_empty() {
        return Ok(None);
    }
    let column = escape_identifier(time_column);
    let any = format!("SELECT FROM {} WHERE {column} IS NULL LIMIT 1", name.quoted());
    if client.query_typed(&any, &[])?.is_empty() {
        return Ok(None);
    }
    Ok(Some((
        format!("rows have no {time_column}, and no migration may invent one: {}", nulls(name, time_column)),
        format!("decide on their time: UPDATE {} SET {column} = ... WHERE {column} IS NULL;", name.quoted()),
    )))
}

fn nulls(name: &TableName, time_column: &str) -> String {
    format!("SELECT count(*) FROM {} WHERE {} IS NULL;", name.quoted(), escape_identifier(time_column))
}

/// Whether row security keeps the table from being compressed, where the licence would let it be.
fn excludes_compression(client: &mut Client, oid: u32) -> SqlResult<bool> {
    let row = client.query_typed_one(
        "SELECT relrowsecurity AND coalesce(current_setting('timescaledb.license', true), 'timescale') = 'timescale'
         FROM pg_catalog.pg_class WHERE oid = $1",
        &[(&oid, Type::OID)],
    )?;
    Ok(row.get(0))
}
