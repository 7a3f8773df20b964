//! The definitions: pg_dump's sections before and after the rows, made fit for the file.
//!
//! pg_dump's text is split by psql's rules. What is psql's alone in it (`\restrict`), and settings that the file makes by
//! itself, are left out; any other command of psql's in it is refused: nothing that is in a database may run as one.

use std::io::Read;
use std::time::Duration;

use duct::Expression;
use ms5_common::db::clients::ClientProgram;
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::sql::{Facts, Item, Options, Script, Statement, TableName};

use crate::sessions::stopped;
use crate::sqltext::{self, PINNED};

/// How often it is looked for a signal while pg_dump works.
const LOOK: Duration = Duration::from_millis(100);

/// The text of one section, of a call of pg_dump.
///
/// # Errors
/// What pg_dump said.
pub(super) fn text(program: &ClientProgram, call: Expression, section: &str) -> Result<String> {
    let failed = |error: std::io::Error| cannot(program, section).because(error);
    let handle = call.stdout_capture().stderr_capture().unchecked().start().map_err(failed)?;
    while handle.wait_timeout(LOOK).map_err(failed)?.is_none() {
        // A signal to us alone is none to it.
        if let Err(signal) = stopped() {
            let _ = handle.kill();
            return Err(signal);
        }
    }
    let output = handle.into_output().map_err(failed)?;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        stopped()?;
        return Err(cannot(program, section)
            .because_all(words.lines().map(str::to_owned).collect::<Vec<_>>())
            .because(format!("it ended with {}", output.status)));
    }
    words.lines().for_each(|line| log::debug!("{line}"));
    String::from_utf8(output.stdout).map_err(|error| cannot(program, section).because(error))
}

/// That pg_dump has failed.
pub(crate) fn cannot(program: &ClientProgram, section: &str) -> Error {
    Error::new(Exit::Failed, format!("pg_dump cannot dump the section {section}"))
        .because(format!("{} {}", program.place(), program.version))
        .hint("run it by hand to see more; nothing was written under a backup's name")
}

/// A statement of a script, and what stood before it: comments and blank lines.
pub(crate) struct Piece {
    pub(crate) before: String,
    pub(crate) statement: Statement,
}

impl Piece {
    /// Both, as they go into the file.
    pub(super) fn write(&self, out: &mut String) {
        out.push_str(&self.before);
        out.push_str(&self.statement.text);
        out.push(';');
    }
}

/// The statements of a script without data.
///
/// # Errors
/// Where it holds what is no statement.
pub(crate) fn pieces(text: &str) -> Result<Vec<Piece>> {
    let wrong = |why: String| {
        Error::new(Exit::Failed, "the definitions hold what psql would not send to the server").because(why)
    };
    let options = Options { path: "pg_dump".to_owned(), ..Options::default() };
    let script =
        Script::open(|_: &str| Ok(text.as_bytes()), options).map_err(|error| wrong(error.to_string()))?;
    let mut pieces = Vec::new();
    let mut end = 0;
    for item in script {
        match item.map_err(|error| wrong(error.to_string()))? {
            Item::Statement(statement) => {
                let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
                let before = text.get(end..at(statement.head().offset)).unwrap_or_default();
                end = at(statement.end_offset);
                pieces.push(Piece { before: comments(before), statement });
            }
            Item::Ignored { command, .. } if command == "restrict" || command == "unrestrict" => {}
            other => return Err(wrong(format!("{other:?}"))),
        }
    }
    Ok(pieces)
}

/// The comments between two statements, without psql's commands there.
fn comments(text: &str) -> String {
    let kept = text.lines().filter(|line| line.is_empty() || line.starts_with("--"));
    let text: Vec<&str> = kept.collect();
    if text.iter().all(|line| line.is_empty()) { "\n\n".to_owned() } else { format!("{}\n", text.join("\n")) }
}

/// Settings that each member makes by itself, or that an older server does not know.
pub(super) fn is_ours(facts: &Facts<'_>) -> bool {
    const OURS: [&str; 11] = [
        "statement_timeout",
        "lock_timeout",
        "idle_in_transaction_session_timeout",
        "transaction_timeout",
        "client_encoding",
        "standard_conforming_strings",
        "check_function_bodies",
        "xmloption",
        "client_min_messages",
        "row_security",
        "search_path",
    ];
    let calls = facts.set_config_calls();
    let setting = facts.setting();
    setting.iter().chain(&calls).any(|setting| OURS.contains(&setting.name.as_str()))
}

/// What the definitions need to know of TimescaleDB.
pub(crate) struct Extension<'a> {
    pub(crate) version: &'a str,
    /// Of its functions, as SQL.
    pub(crate) schema: &'a str,
    pub(crate) superuser: bool,
}

/// The section before the rows: the extension in its exact version, and told of the restore before anything is made.
///
/// # Errors
/// Those of [`pieces`], and that the extension is not in it.
pub(crate) fn before_rows(text: &str, extension: Option<&Extension<'_>>) -> Result<String> {
    let mut out = PINNED.to_owned();
    let mut found = false;
    for mut piece in pieces(text)? {
        let facts = Facts::of(&piece.statement.text, true);
        if is_ours(&facts) {
            continue;
        }
        let of_timescale = creates_timescale(&facts);
        if let Some(extension) = extension.filter(|_| of_timescale) {
            let version = ms5_common::sql::escape_literal(extension.version);
            piece.statement =
                piece.statement.with_text(&format!("{} VERSION {version}", piece.statement.text));
            piece.write(&mut out);
            out.push_str(&sqltext::after_extension(extension.version, extension.schema, extension.superuser));
            found = true;
        } else {
            piece.write(&mut out);
        }
    }
    if extension.is_some() && !found {
        return Err(Error::new(Exit::Bug, "pg_dump's definitions do not create the extension timescaledb"));
    }
    out.push_str("\n\n");
    Ok(out)
}

/// Whether a statement makes the extension.
pub(crate) fn creates_timescale(facts: &Facts<'_>) -> bool {
    facts.begins_with(&["create", "extension"])
        && facts.tokens().take(6).any(|token| token.name().is_some_and(|name| name == "timescaledb"))
}

/// The section after the rows, in the order in which its parts are run.
pub(crate) struct AfterRows {
    rest: String,
    refresh: String,
    last: String,
}

impl AfterRows {
    /// What reads no rows of other tables.
    pub(crate) fn rest(&self) -> String {
        member(&self.rest)
    }

    /// What does.
    pub(crate) fn refresh(&self) -> String {
        member(&self.refresh)
    }

    /// The same, and what comes behind everything.
    pub(crate) fn refresh_and_last(&self) -> String {
        member(&format!("{}{}", self.refresh, self.last))
    }
}

/// A member of its own, where there is something in it.
fn member(text: &str) -> String {
    if text.trim().is_empty() { String::new() } else { format!("{PINNED}{text}\n\n") }
}

/// The section after the rows, and apart from it what reads rows: materialized views are filled last of all, and keys that refer
/// to a hypertable find its rows only once TimescaleDB is back to work. Event triggers come behind them, or they would hear of
/// them: one that keeps a record of DDL would write to a table that is complete.
///
/// # Errors
/// Those of [`pieces`].
pub(crate) fn after_rows(text: &str, hypertables: &[TableName]) -> Result<AfterRows> {
    let (mut rest, mut refresh, mut last) = (String::new(), String::new(), String::new());
    for piece in pieces(text)? {
        let facts = Facts::of(&piece.statement.text, true);
        if is_ours(&facts) {
            continue;
        }
        let late = facts.begins_with(&["refresh", "materialized", "view"])
            || refers_to(&facts).is_some_and(|table| hypertables.contains(&table));
        piece.write(match () {
            () if is_event_trigger(&facts) => &mut last,
            () if late => &mut refresh,
            () => &mut rest,
        });
    }
    Ok(AfterRows { rest, refresh, last })
}

/// Whether a statement makes an event trigger, or says more of one.
fn is_event_trigger(facts: &Facts<'_>) -> bool {
    [
        ["create", "event", "trigger"].as_slice(),
        &["alter", "event", "trigger"],
        &["comment", "on", "event", "trigger"],
    ]
    .iter()
    .any(|words| facts.begins_with(words))
}

/// The table that a foreign key refers to, where the statement adds one.
fn refers_to(facts: &Facts<'_>) -> Option<TableName> {
    if !facts.begins_with(&["alter", "table"]) {
        return None;
    }
    let tokens: Vec<_> = facts.tokens().collect();
    let at = tokens.iter().position(|token| token.is_word("references"))?;
    let (schema, table) = (tokens.get(at + 1)?.name()?, tokens.get(at + 3)?.name()?);
    Some(TableName::new(schema, table))
}

/// Passes pg_dump's text of large objects on, without its head and its end.
///
/// # Errors
/// The system's, or that something else than statements is in it.
pub(crate) fn large_objects(from: impl Read, out: &mut dyn std::io::Write) -> std::io::Result<()> {
    let wrong = |error: String| std::io::Error::new(std::io::ErrorKind::InvalidData, error);
    let mut reader = Some(std::io::BufReader::with_capacity(1 << 16, from));
    let options = Options { path: "pg_dump".to_owned(), ..Options::default() };
    let script = Script::open(
        |_: &str| reader.take().ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotFound)),
        options,
    )
    .map_err(|error| wrong(error.to_string()))?;
    out.write_all(PINNED.as_bytes())?;
    for item in script {
        match item.map_err(|error| wrong(error.to_string()))? {
            Item::Statement(statement) if is_ours(&Facts::of(&statement.text, true)) => {}
            Item::Statement(statement) => writeln!(out, "{};", statement.text)?,
            _ => {}
        }
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRE: &str = "--\n-- PostgreSQL database dump\n--\n\n\\restrict abc\n\nSET statement_timeout = 0;\n\
        SET transaction_timeout = 0;\nSELECT pg_catalog.set_config('search_path', '', false);\n\n--\n-- Name: timescaledb\n--\n\n\
        CREATE EXTENSION IF NOT EXISTS timescaledb WITH SCHEMA public;\n\n\n--\n-- Name: t\n--\n\n\
        SET default_tablespace = '';\n\nCREATE TABLE public.t (\n    a text DEFAULT ';'::text\n);\n\n\\unrestrict abc\n\n";

    #[test]
    fn the_extension_gets_its_version_and_hears_of_the_restore() {
        let extension = Extension { version: "2.19.3", schema: "public", superuser: true };
        let text = before_rows(PRE, Some(&extension)).unwrap();
        let at = |words: &str| text.find(words).unwrap_or_else(|| panic!("{words} is not in\n{text}"));
        let create = at("CREATE EXTENSION IF NOT EXISTS timescaledb WITH SCHEMA public VERSION '2.19.3';");
        assert!(
            create < at("public.timescaledb_pre_restore()")
                && at("pre_restore()") < at("CREATE TABLE public.t")
        );
        assert!(text.contains("-- Name: t\n") && text.contains("SET default_tablespace = '';"));
        assert!(!text.contains("restrict abc") && !text.contains("transaction_timeout"), "{text}");
        let quiet = Extension { superuser: false, ..extension };
        assert!(!before_rows(PRE, Some(&quiet)).unwrap().contains("pre_restore"));
        assert!(before_rows("SELECT 1;\n", Some(&quiet)).is_err());
    }

    #[test]
    fn materialized_views_are_filled_last() {
        let post = "CREATE INDEX i ON t (a);\nCREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION f.e();\n\
            ALTER EVENT TRIGGER e OWNER TO o;\nREFRESH MATERIALIZED VIEW v;\nALTER TABLE t ADD CONSTRAINT f CHECK (true);\n\
            ALTER TABLE ONLY f.a ADD CONSTRAINT k FOREIGN KEY (b) REFERENCES f.\"H\"(b);\nALTER TABLE ONLY f.a ADD CONSTRAINT l FOREIGN KEY (b) REFERENCES f.h(b);\n";
        let hypertables = [TableName::new("f", "H")];
        let sorted = after_rows(post, &hypertables).unwrap();
        let (rest, refresh) = (sorted.rest(), sorted.refresh());
        assert!(
            rest.contains("CREATE INDEX") && rest.contains("ADD CONSTRAINT") && !rest.contains("REFRESH")
        );
        assert!(refresh.contains("REFRESH MATERIALIZED VIEW v;") && refresh.contains("CONSTRAINT k"));
        assert!(rest.contains("CONSTRAINT l") && !refresh.contains("CONSTRAINT l"), "{refresh}");
        assert!(!refresh.contains("EVENT") && !rest.contains("EVENT"), "{rest}{refresh}");
        let all = sorted.refresh_and_last();
        assert!(
            all.find("REFRESH") < all.find("CREATE EVENT TRIGGER") && all.contains("ALTER EVENT TRIGGER"),
            "{all}"
        );
        let none = after_rows("SET lock_timeout = 0;\n", &[]).unwrap();
        assert!(none.rest().is_empty() && none.refresh_and_last().is_empty());
    }

    #[test]
    fn commands_of_psql_in_definitions_are_refused() {
        assert!(pieces("SELECT 1;\n\\! touch /tmp/x\n").is_err());
        assert!(pieces("SELECT 1;\n\\echo x\n").is_err());
    }

    #[test]
    fn large_objects_lose_pg_dumps_head() {
        let text = "\\restrict a\nSET lock_timeout = 0;\nBEGIN;\nSELECT pg_catalog.lo_open('1', 131072);\nCOMMIT;\n\\unrestrict a\n";
        let mut out = Vec::new();
        large_objects(text.as_bytes(), &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(out.ends_with("BEGIN;\nSELECT pg_catalog.lo_open('1', 131072);\nCOMMIT;\n\n"), "{out}");
    }
}
