//! The SQL of a backup's file that is ours: guards, settings, the self-check, the end. No I/O.
//!
//! The file is a script for psql: `gunzip -c full_database.sql.gz | psql -d EMPTY_DATABASE`. What it needs it sets by
//! itself, and each member says all that it needs, so that any member can be loaded by any session.

use ms5_common::sql::{Facts, TokenKind, escape_identifier, escape_literal};
use serde_json::{Map, Value};

use crate::dump::{Added, Scheduled};
use crate::folder::metadata::{Kind, Table};
use crate::seal;

/// What a session that writes or reads the text of values is set to: the same on both sides, whatever the database, the role
/// or PGOPTIONS say.
pub(crate) const PINNED: &str = "SET statement_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SET search_path = '';
SET check_function_bodies = off;
SET xmloption = content;
SET xmlbinary = base64;
SET client_min_messages = warning;
SET row_security = off;
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = postgres;
SET TimeZone = 'UTC';
SET extra_float_digits = 3;
SET bytea_output = hex;
SET lc_monetary = 'C';
SET quote_all_identifiers = off;
";

/// Takes the limit of a transaction's time away, where the server has one (PostgreSQL 17), for all that follows.
pub(crate) const NO_TRANSACTION_TIMEOUT: &str = "SELECT pg_catalog.count(pg_catalog.set_config(name, '0', false)) AS ms5 \
     FROM pg_catalog.pg_settings WHERE name = 'transaction_timeout'";

/// What ends the rows of a COPY.
pub(crate) const ROWS_END: &str = "\\.\n\n";

/// What stands before a table's rows.
pub(crate) fn rows_begin(table: &Table) -> String {
    format!("{PINNED}{}", copy_begin(table))
}

fn copy_begin(table: &Table) -> String {
    format!("COPY {} FROM stdin;\n", table.target())
}

/// The rows in the SQL of a member; None where they are not those of this table. Another version may have pinned other settings
/// before them: they pass, unless one that is pinned here too has another value, with which the rows would mean something else.
pub(crate) fn rows_in<'a>(sql: &'a [u8], table: &Table) -> Option<&'a [u8]> {
    let copy = copy_begin(table);
    let mut rest = sql;
    loop {
        if let Some(rows) = rest.strip_prefix(copy.as_bytes()) {
            return rows.strip_suffix(ROWS_END.as_bytes());
        }
        let (line, behind) = rest.split_at(memchr::memchr(b'\n', rest)?);
        let (name, value) = setting_of(std::str::from_utf8(line).ok()?)?;
        let ours = PINNED.lines().filter_map(setting_of).find(|(ours, _)| *ours == name);
        if ours.is_some_and(|(_, ours)| ours != value) {
            return None;
        }
        rest = behind.get(1..)?;
    }
}

/// The name and the value of a line that sets something, and does no more.
fn setting_of(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.strip_prefix("SET ")?.strip_suffix(';')?.split_once(" = ")?;
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.".contains(&byte));
    (is_name && !value.contains(';')).then_some((name, value))
}

/// The command that shows the text of a file.
pub(crate) fn shown(file: &str) -> String {
    match file.strip_suffix(seal::ENDING) {
        Some(inner) if inner.ends_with(".gz") => format!("age -d -i KEY_FILE {file} | gunzip -c"),
        Some(_) => format!("age -d -i KEY_FILE {file}"),
        None if file.ends_with(".gz") => format!("gunzip -c {file}"),
        None => format!("cat {file}"),
    }
}

/// What the file is, for who reads it, and psql's guards.
fn head(kind: Kind, name: &str, file: &str, target: &str, database: &str) -> String {
    let show = shown(file);
    format!(
        "-- Backup {name} ({}) of MS5.0's backup-manager. By hand, into {target}:
--   {show} | psql -X -v ON_ERROR_STOP=1 -d {database}
-- A file that is cut off ends in an error: the \\if of this line has its \\endif at the end.
\\set ON_ERROR_STOP on
\\if true
SET lock_timeout = 0;
{NO_TRANSACTION_TIMEOUT} \\gset
",
        kind.word()
    )
}

/// The head of the file: what it is, and what must hold before anything is done.
pub(crate) fn begin(kind: Kind, name: &str, file: &str, superuser: bool) -> String {
    let mut text = format!(
        "{}{PINNED}DO $ms5$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
               WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
                 AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                                 WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid
                                   AND d.deptype = 'e')) THEN
        RAISE EXCEPTION 'this database is not empty: nothing was restored'
            USING HINT = 'Make one: CREATE DATABASE name TEMPLATE template0; or use backup-manager restore.';
    END IF;
",
        head(kind, name, file, "an EMPTY database (made with TEMPLATE template0)", "EMPTY_DATABASE")
    );
    if superuser {
        text.push_str(
            "    IF pg_catalog.current_setting('is_superuser') <> 'on' THEN
        RAISE EXCEPTION 'this backup holds hypertables: restoring it needs a superuser; nothing was restored';
    END IF;
",
        );
    }
    text.push_str("END\n$ms5$;\n\n");
    text
}

/// The head of a file that holds rows alone: all of it is one transaction.
pub(crate) fn begin_rows(name: &str, file: &str) -> String {
    let target = "a database that has the tables, all of them empty; all rows get there, or none";
    format!("{}BEGIN;\n\n", head(Kind::Data, name, file, target, "DATABASE"))
}

/// The end of a file that holds rows alone.
pub(crate) fn end_rows() -> String {
    "COMMIT;\n\\echo 'Loaded to its end. Now: ANALYZE;'\n\\endif\n".to_owned()
}

/// What stands behind CREATE EXTENSION timescaledb: the version must be the backup's own.
pub(crate) fn after_extension(version: &str, schema: &str, superuser: bool) -> String {
    let mut text = format!(
        "\n\nDO $ms5$
BEGIN
    IF (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'timescaledb') <> {version} THEN
        RAISE EXCEPTION 'this database has TimescaleDB %, and the backup is of %',
            (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'timescaledb'), {version}
            USING HINT = 'Make an empty database with TEMPLATE template0.';
    END IF;
",
        version = literal(version)
    );
    if superuser {
        text.push_str(&format!("    PERFORM {schema}.timescaledb_pre_restore();\n"));
    }
    text.push_str("END\n$ms5$;");
    text
}

/// Where sequences stand: name as SQL, last value, whether it was given out.
pub(crate) fn sequences(values: &[(String, i64, bool)]) -> String {
    if values.is_empty() {
        return String::new();
    }
    // A name may hold the quote that ends the block.
    let quote = dollar(values.iter().map(|(name, ..)| name.as_str()));
    let mut text = format!("{PINNED}DO {quote}\nBEGIN\n");
    for (name, value, called) in values {
        text.push_str(&format!("    PERFORM pg_catalog.setval({}, {value}, {called});\n", literal(name)));
    }
    text.push_str(&format!("END\n{quote};\n\n"));
    text
}

/// Gives columns that were added to chunks with rows their values back for those rows that do not hold them: the server keeps
/// them in its catalog, and only there can they be set for a table that has its rows.
pub(crate) fn added(columns: &[Added]) -> String {
    if columns.is_empty() {
        return String::new();
    }
    let each = columns.iter().flat_map(|one| [one.table.as_str(), one.column.as_str(), one.value.as_str()]);
    let quote = dollar(each);
    let values: Vec<String> = columns
        .iter()
        .map(|one| {
            format!(
                "            ({}, {}, {})",
                literal(&one.table),
                literal(&one.column),
                literal(&one.value)
            )
        })
        .collect();
    format!(
        "{PINNED}DO {quote}
DECLARE
    done bigint;
BEGIN
    UPDATE pg_catalog.pg_attribute a
    SET atthasmissing = true, attmissingval = pg_catalog.array_in(v.value::cstring, a.atttypid, a.atttypmod)
    FROM (VALUES
{}) v (name, col, value)
    WHERE a.attrelid = v.name::pg_catalog.regclass AND a.attname = v.col;
    GET DIAGNOSTICS done = ROW_COUNT;
    IF done <> {} THEN
        RAISE EXCEPTION 'the values of columns that were added to chunks cannot be given back: % of {}', done;
    END IF;
END
{quote};

",
        values.join(",\n"),
        columns.len(),
        columns.len()
    )
}

/// The self-check: every table has as many rows as were written, or the restore ends here.
pub(crate) fn check(tables: &[Table]) -> String {
    if tables.is_empty() {
        return String::new();
    }
    let quote = dollar(
        tables.iter().flat_map(|table| [table.name.as_str(), table.condition.as_deref().unwrap_or("")]),
    );
    let values: Vec<String> = tables
        .iter()
        .map(|table| format!("        ({}, {})", literal(&table.counted()), table.rows))
        .collect();
    format!(
        "{PINNED}DO {quote}
DECLARE
    wanted record;
    found bigint;
BEGIN
    FOR wanted IN SELECT * FROM (VALUES
{}
    ) AS w (relation, number) LOOP
        EXECUTE 'SELECT pg_catalog.count(*) FROM ' || wanted.relation INTO found;
        IF found <> wanted.number THEN
            RAISE EXCEPTION 'the backup holds % rows of %, and % are here: the restore is not complete',
                wanted.number, wanted.relation, found;
        END IF;
    END LOOP;
END
{quote};

",
        values.join(",\n")
    )
}

/// How a statement begins, for a message: up to the first literal alone where it may hold a password, as options of foreign
/// servers, connections of subscriptions and arguments of dblink do.
pub(crate) fn shown_start(sql: &str) -> String {
    const SECRETIVE: [&[&str]; 4] = [
        &["create", "user", "mapping"],
        &["create", "server"],
        &["create", "subscription"],
        &["alter", "subscription"],
    ];
    let facts = Facts::of(sql, true);
    let lower = sql.to_ascii_lowercase();
    // Wherever it stands, in a literal or a comment: too much is kept back rather than too little.
    let may_hold = SECRETIVE.iter().any(|words| facts.begins_with(words))
        || ["passw", "pwd", "secret", "://"].iter().any(|word| lower.contains(word));
    if !may_hold {
        return sql.chars().take(200).collect();
    }
    let words = facts.tokens().take_while(|token| token.kind == TokenKind::Word).take(4);
    format!("{} ...", words.map(|token| token.text).collect::<Vec<_>>().join(" "))
}

/// A text as SQL.
pub(crate) fn literal(text: &str) -> String {
    // Where it holds a backslash, a blank comes first.
    escape_literal(text).trim_start().to_owned()
}

/// A dollar quote that stands in none of the texts.
pub(crate) fn dollar<'a>(texts: impl Iterator<Item = &'a str> + Clone) -> String {
    (0..)
        .map(|number| if number == 0 { "$ms5$".to_owned() } else { format!("$ms5_{number}$") })
        .find(|quote| !texts.clone().any(|text| text.contains(quote.as_str())))
        .unwrap_or_default()
}

/// Jobs off, for they would start at once and a retention policy deletes; then TimescaleDB back to work.
pub(crate) fn finish(schema: &str, jobs_table: Option<&str>) -> String {
    let mut text = PINNED.to_owned();
    if let Some(table) = jobs_table {
        text.push_str(&format!("UPDATE {table} SET scheduled = false WHERE id >= 1000;\n"));
    }
    text.push_str(&format!("DO $ms5$ BEGIN PERFORM {schema}.timescaledb_post_restore(); END $ms5$;\n\n"));
    text
}

/// The statement that lets jobs run again. alter_job() forgets the time zone that is not given along; versions that know none
/// have no job with one.
pub(crate) fn start_jobs(schema: &str, jobs: &[Scheduled]) -> String {
    let numbers: Vec<String> = jobs.iter().map(|job| job.id.to_string()).collect();
    let zones: String = jobs
        .iter()
        .filter_map(|job| Some(format!(" WHEN {} THEN {}", job.id, literal(job.timezone.as_deref()?))))
        .collect();
    let zones = if zones.is_empty() { zones } else { format!(", timezone => CASE job{zones} END") };
    format!(
        "SELECT {schema}.alter_job(job, scheduled => true{zones}) FROM unnest(ARRAY[{}]) AS job;",
        numbers.join(", ")
    )
}

/// Settings and rights of the database, on whatever it is called by then.
pub(crate) fn settings(database: &Map<String, Value>) -> String {
    let mut lines = Vec::new();
    let entries = |key: &str| database.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    for entry in entries("settings") {
        let text = |number: usize| entry.get(number).and_then(Value::as_str);
        let Some((name, value)) = text(1).and_then(|setting| setting.split_once('=')) else { continue };
        let whose = match text(0) {
            Some(role) => format!("ALTER ROLE {} IN DATABASE %I", escape_identifier(role).replace('%', "%%")),
            None => "ALTER DATABASE %I".to_owned(),
        };
        lines.push(execute(&format!("{whose} SET {} TO {}", setting_name(name), setting_value(name, value))));
    }
    let rights = entries("rights");
    if !rights.is_empty() {
        lines.push(execute("REVOKE ALL ON DATABASE %I FROM PUBLIC"));
    }
    for right in rights {
        let text = |number: usize| right.get(number).and_then(Value::as_str);
        let Some(privilege) = text(1).filter(|word| word.bytes().all(|byte| byte.is_ascii_uppercase()))
        else {
            continue;
        };
        let whom = text(0).map_or_else(|| "PUBLIC".to_owned(), escape_identifier);
        let grant = if right.get(2) == Some(&Value::Bool(true)) { " WITH GRANT OPTION" } else { "" };
        lines.push(execute(&format!(
            "GRANT {privilege} ON DATABASE %I TO {}{grant}",
            whom.replace('%', "%%")
        )));
    }
    block(&lines)
}

/// The database's comment and its limit of connections.
pub(crate) fn last(database: &Map<String, Value>) -> String {
    let mut lines = Vec::new();
    if let Some(comment) = database.get("comment").and_then(Value::as_str) {
        let literal = escape_literal(comment);
        lines.push(execute(&format!("COMMENT ON DATABASE %I IS {}", literal.replace('%', "%%"))));
    }
    if let Some(limit) = database.get("connection_limit").and_then(Value::as_i64).filter(|limit| *limit >= 0)
    {
        lines.push(execute(&format!("ALTER DATABASE %I CONNECTION LIMIT {limit}")));
    }
    block(&lines)
}

/// A line of PL/pgSQL that runs `statement`, in which %I is the database.
fn execute(statement: &str) -> String {
    format!("    EXECUTE pg_catalog.format({}, pg_catalog.current_database());\n", literal(statement))
}

fn block(lines: &[String]) -> String {
    if lines.is_empty() { String::new() } else { format!("{};\n\n", quoted_block(&lines.concat())) }
}

/// A block of PL/pgSQL, in quotes that none of its lines can end.
pub(crate) fn quoted_block(lines: &str) -> String {
    let quote = dollar(std::iter::once(lines));
    format!("DO {quote}\nBEGIN\n{lines}END\n{quote}")
}

/// `timescaledb.max_open_chunks_per_insert`: its parts quoted.
fn setting_name(name: &str) -> String {
    name.split('.').map(escape_identifier).collect::<Vec<_>>().join(".")
}

/// As pg_dump writes it: lists of names are stored as SQL already, anything else is one text.
fn setting_value(name: &str, value: &str) -> String {
    const LISTS: [&str; 6] = [
        "search_path",
        "temp_tablespaces",
        "session_preload_libraries",
        "local_preload_libraries",
        "shared_preload_libraries",
        "unix_socket_directories",
    ];
    let text = if LISTS.contains(&name.to_ascii_lowercase().as_str()) && value != "\"\"" {
        // An empty name is none as SQL, and SET takes a text for any of a list.
        value.split(", ").map(|one| if one == "\"\"" { "''" } else { one }).collect::<Vec<_>>().join(", ")
    } else if value == "\"\"" {
        "''".to_owned()
    } else {
        literal(value).to_owned()
    };
    text.replace('%', "%%")
}

/// The end of the file: what is left to do, and the guard's other half.
pub(crate) fn end(start: Option<&str>) -> String {
    let mut text = String::new();
    if let Some(start) = start {
        text.push_str("\\echo 'The background jobs are unscheduled. To let them run again:'\n");
        // Single quotes are doubled in a psql argument too.
        text.push_str(&format!("\\echo '{}'\n", start.replace('\'', "''")));
    }
    text.push_str("\\echo 'Restored to its end. Now: ANALYZE;'\n\\endif\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_cannot_leave_their_quotes() {
        let hostile = Table { name: "f.\"$ms5$; it's\"".into(), rows: 1, ..Table::default() };
        let text = check(std::slice::from_ref(&hostile));
        assert!(text.contains("DO $ms5_1$") && text.contains("it''s"), "{text}");
        assert!(sequences(&[("f.\"$ms5$\"".into(), 1, true)]).contains("DO $ms5_1$"));
    }

    #[test]
    fn rows_of_another_version_are_known() {
        let table = Table { name: "f.t".into(), columns: "(a)".into(), ..Table::default() };
        let member = |head: &str| format!("{head}COPY f.t (a) FROM stdin;\n1\n2\n\\.\n\n");
        let of = |sql: &str| rows_in(sql.as_bytes(), &table).map(<[u8]>::to_vec);
        let fewer = PINNED.replacen("SET quote_all_identifiers = off;\n", "", 1);
        let more = format!("{PINNED}SET later.setting = 'on';\n");
        for head in [PINNED, &fewer, &more, ""] {
            assert_eq!(of(&member(head)).unwrap(), b"1\n2\n", "{head}");
        }
        for head in [
            PINNED.replace("'ISO, YMD'", "'SQL, DMY'"),
            format!("{PINNED}DELETE FROM f.t;\n"),
            format!("{PINNED}SET a = 1; DELETE FROM f.t;\n"),
            format!("{PINNED}\n"),
        ] {
            assert_eq!(of(&member(&head)), None, "{head}");
        }
        assert_eq!(of(&member(PINNED).replace("f.t", "f.u")), None);
        assert_eq!(of(&member(PINNED)[..member(PINNED).len() - 1]), None);
    }

    #[test]
    fn secrets_of_a_statement_are_not_shown() {
        for (sql, shows) in [
            (
                "CREATE USER MAPPING FOR a SERVER b OPTIONS (\"user\" 'c', password 'geheim')",
                "CREATE USER MAPPING FOR ...",
            ),
            (
                "CREATE SUBSCRIPTION s CONNECTION 'postgres://a:geheim@b/c' PUBLICATION p",
                "CREATE SUBSCRIPTION s CONNECTION ...",
            ),
            ("CREATE VIEW v AS SELECT dblink('host=a Password=geheim', 'SELECT 1')", "CREATE VIEW v AS ..."),
            ("CREATE TABLE t (a int)", "CREATE TABLE t (a int)"),
        ] {
            assert_eq!(shown_start(sql), shows);
        }
    }

    #[test]
    fn settings_of_the_database() {
        let database = json!({
            "settings": [[null, "search_path=\"$user\", public"], [null, "work_mem=64MB"], [null, "temp_tablespaces=\"\", fast"], ["a%b", "DateStyle=German"]],
            "rights": [["reader", "CONNECT", true], [null, "TEMPORARY", false], ["x", "DROP; --", false]],
            "comment": "50% it's",
            "connection_limit": 5,
        });
        let text = settings(database.as_object().unwrap());
        for piece in [
            "SET \"search_path\" TO \"$user\", public",
            "SET \"work_mem\" TO ''64MB''",
            "SET \"temp_tablespaces\" TO '''', fast",
            "ALTER ROLE \"a%%b\" IN DATABASE %I SET \"DateStyle\" TO ''German''",
            "GRANT CONNECT ON DATABASE %I TO \"reader\" WITH GRANT OPTION",
            "GRANT TEMPORARY ON DATABASE %I TO PUBLIC",
        ] {
            assert!(text.contains(piece), "{piece}\n{text}");
        }
        assert!(!text.contains("DROP"));
        let text = last(database.as_object().unwrap());
        assert!(text.contains("50%% it''''s") && text.contains("CONNECTION LIMIT 5"), "{text}");
        assert_eq!(settings(&Map::new()), "");
    }
}
