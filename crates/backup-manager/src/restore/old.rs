//! Dumps of the old script: one file as `pg_dump --create --clean` wrote it, or definitions and rows in two, replayed by psql
//! into a new database.
//!
//! Piped into the database itself, such a file fails at its DROP DATABASE and then adds every row a second time; so all that
//! drops, makes and connects to databases is left out. TimescaleDB is told of the restore as soon as it is there; without that
//! rows get lost. Nothing says how many rows there should be but the file itself: its rows are counted while they pass, and
//! counted again in the new database.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use flate2::bufread::MultiGzDecoder;
use ms5_common::config::{Settings, Variables};
use ms5_common::db::clients::{self, ClientProgram};
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::interrupt;
use ms5_common::sql::{Facts, Item, Options, Script};
use ms5_common::timescale;
use serde_json::{Map, Value};

use super::Jobs;
use super::load::run_all;
use super::server::{Needs, Wanted};
use crate::args::own;
use crate::dump;
use crate::folder::Entry;
use crate::sessions::{self, Session, failed, stopped};
use crate::sqltext;
use crate::words::count;

/// How much of a dump is looked through for what makes databases.
const HEAD: usize = 1 << 20;
/// What pg_dump writes last.
const END: &[u8] = b"-- PostgreSQL database dump complete";
/// What follows CREATE EXTENSION timescaledb, whose schema may be any. A newer dump restricts psql to SQL.
const PRE_RESTORE: &str = "DO $ms5$ BEGIN EXECUTE pg_catalog.format('SELECT %s.timescaledb_pre_restore()',
    (SELECT extnamespace::regnamespace FROM pg_catalog.pg_extension WHERE extname = 'timescaledb')); END $ms5$;
";
/// psql's commands that lead elsewhere: to other databases, files, programs.
const LEAVING: [&str; 12] =
    ["c", "connect", "!", "i", "ir", "include", "include_relative", "o", "out", "copy", "g", "w"];

/// What stands before rows that are in a file of their own: keys and triggers were made with the tables, and would see the rows
/// in the order of the file. TimescaleDB's own tables need theirs.
fn role(table: &str) -> &'static [u8] {
    if ["_timescaledb_catalog.", "_timescaledb_config."].iter().any(|schema| table.starts_with(schema)) {
        b"SET session_replication_role = origin;\n"
    } else {
        b"SET session_replication_role = replica;\n"
    }
}

/// A dump of the old script.
pub(super) struct Dump {
    /// One file, or that of the definitions and that of the rows.
    paths: Vec<PathBuf>,
    timescaledb: bool,
}

impl Dump {
    /// Looks at a backup of the old script.
    ///
    /// # Errors
    /// [`Exit::Config`] where it is not one that can be replayed.
    pub(super) fn look(entry: &Entry) -> Result<Self> {
        let refused = |why: String| {
            Error::new(Exit::Config, format!("{} cannot be restored", entry.name))
                .because(why)
                .because("nothing was touched")
        };
        let metadata = entry.metadata.as_ref().map_err(|why| refused(why.clone()))?;
        if metadata.kind != "full" {
            return Err(refused(format!(
                "it is of type {}, and only a full one is a whole database",
                metadata.kind
            ))
            .hint(format!("restore a full one: {} list", own())));
        }
        let file = |begins: &str| {
            let file = metadata.files.iter().map(|(file, _)| file).find(|file| file.starts_with(begins));
            file.map(|file| entry.path.join(file))
        };
        let two = || Some(vec![file("schema.sql")?, file("data.sql")?]);
        let paths = file("full_database.sql").map(|file| vec![file]).or_else(two).ok_or_else(|| {
            refused("it has neither full_database.sql nor both of schema.sql and data.sql".to_owned())
                .hint(format!("restore another one: {} list", own()))
        })?;
        let unreadable = |error: io::Error| refused(format!("{}: {error}", paths[0].display()));
        let mut lines = open(&paths[0]).map_err(unreadable)?;
        let mut line = Vec::new();
        let mut timescaledb = false;
        // Extensions come before the first rows.
        while !timescaledb && read_line(&mut lines, &mut line).map_err(unreadable)? && copies(&line).is_none()
        {
            timescaledb = makes_timescaledb(&line);
        }
        Ok(Self { paths, timescaledb })
    }

    /// What it asks of the server and the role.
    pub(super) fn needs(&self) -> Needs<'static> {
        // It does not say its version.
        Needs { superuser: self.timescaledb || self.paths.len() > 1, timescaledb: Wanted::Nothing }
    }

    /// Replays it into an empty database, with the settings and rights in `database`.
    ///
    /// # Errors
    /// What psql says, or that rows are missing.
    pub(super) fn build(
        &self,
        settings: &Settings,
        variables: &Variables,
        database: &Map<String, Value>,
        server: &str,
    ) -> Result<Option<Jobs>> {
        let psql = clients::find("psql", clients::major(server).unwrap_or_default(), settings, variables)?;
        log::warn!("It was made by the old script: its rows are counted, but what they were is not known");
        let rows = self.replay(&psql, settings, variables)?;
        let mut session = sessions::open_again(settings, "restore", &[])?;
        compare(&mut session, &rows)?;
        log::info!(
            "{} rows of {} tables are here, as many as in the file",
            count(rows.values().sum()),
            rows.len()
        );
        let jobs = if self.timescaledb { finish(&mut session)? } else { None };
        if self.paths.len() > 1 {
            fill_views(&mut session)?;
        }
        let statements = [sqltext::settings(database), sqltext::last(database)];
        let statements: Vec<&str> =
            statements.iter().map(String::as_str).filter(|text| !text.is_empty()).collect();
        run_all(&mut session.client, &statements)?;
        Ok(jobs)
    }

    /// Its files, for people.
    fn name(&self) -> String {
        let names: Vec<String> = self.paths.iter().map(|path| path.display().to_string()).collect();
        names.join(" and ")
    }

    /// Passes its files on to psql; gives the rows of each COPY's table.
    fn pass(&self, mut out: impl Write) -> io::Result<BTreeMap<String, u64>> {
        let mut rows = BTreeMap::new();
        for (number, path) in self.paths.iter().enumerate() {
            for (table, more) in pass(&mut open(path)?, &mut out, number > 0)? {
                *rows.entry(table).or_default() += more;
            }
        }
        Ok(rows)
    }

    /// Pipes it through psql; gives the rows of each COPY's table.
    fn replay(
        &self,
        psql: &ClientProgram,
        settings: &Settings,
        variables: &Variables,
    ) -> Result<BTreeMap<String, u64>> {
        let cannot = |error: io::Error| {
            Error::new(Exit::Failed, format!("cannot replay {} by psql", self.name())).because(error)
        };
        let (input, output) = io::pipe().map_err(cannot)?;
        let handle = psql
            .call(
                settings,
                variables,
                &[
                    "-X",
                    "-q",
                    "-w",
                    "-v",
                    "ON_ERROR_STOP=1",
                    "-v",
                    "VERBOSITY=verbose",
                    "-o",
                    "/dev/null",
                    "-f",
                    "-",
                ],
            )
            .stdin_file(input)
            .stdout_null()
            .stderr_capture()
            .unchecked()
            .start()
            .map_err(cannot)?;
        let done = AtomicBool::new(false);
        let passed = thread::scope(|scope| {
            // A signal must not wait for the statement that psql is at.
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    if !interrupt::sleep(Duration::from_millis(100)) {
                        let _ = handle.kill();
                        return;
                    }
                }
            });
            let passed = self.pass(BufWriter::with_capacity(1 << 18, output));
            if passed.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::BrokenPipe) {
                // Its transaction ends with it; the new database is dropped.
                let _ = handle.kill();
            }
            let _ = handle.wait();
            done.store(true, Ordering::Relaxed);
            passed
        });
        stopped()?;
        let output = handle.wait().map_err(cannot)?;
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        let words: Vec<String> = words.lines().map(str::to_owned).collect();
        match passed {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(cannot(error)),
            _ if !output.status.success() => {
                let last = words.len().saturating_sub(10);
                let error = Error::new(Exit::Failed, format!("psql cannot replay {}", self.name()))
                    .because_all(words[last..].to_vec());
                // undefined_object
                Err(if words.iter().any(|line| line.contains("ERROR:  42704:")) {
                    error.hint("roles and tablespaces are the server's, not the database's: make the missing ones first")
                } else {
                    error
                })
            }
            Err(error) => Err(cannot(error)),
            Ok(rows) => {
                words.iter().for_each(|line| log::debug!("psql: {line}"));
                Ok(rows)
            }
        }
    }
}

/// Fills materialized views, which a dump of definitions alone makes empty, those that others may read first.
fn fill_views(session: &mut Session) -> Result<()> {
    let asked = |error: postgres::Error| failed("fill the materialized views", &error);
    let views = session
        .client
        .query_typed(
            "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname)
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind = 'm' AND NOT c.relispopulated ORDER BY c.oid",
            &[],
        )
        .map_err(asked)?;
    for view in &views {
        stopped()?;
        let sql = format!("REFRESH MATERIALIZED VIEW {}", view.get::<_, String>(0));
        session.client.batch_execute(&sql).map_err(asked)?;
    }
    Ok(())
}

/// Whether a dump of the old script comes to its end: pg_dump may have been cut off before its checksum was taken.
///
/// # Errors
/// Why it cannot be read.
pub(crate) fn is_whole(path: &Path) -> io::Result<bool> {
    let mut lines = open(path)?;
    let mut line = Vec::new();
    let mut whole = false;
    while read_line(&mut lines, &mut line)? {
        whole |= line.starts_with(END);
    }
    Ok(whole)
}

fn open(path: &Path) -> io::Result<Box<dyn BufRead>> {
    let file = BufReader::with_capacity(1 << 18, File::open(path)?);
    Ok(if path.extension().is_some_and(|end| end == "gz") {
        Box::new(BufReader::with_capacity(1 << 18, MultiGzDecoder::new(file)))
    } else {
        Box::new(file)
    })
}

/// The next line with its end; false behind the last.
fn read_line(lines: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    Ok(lines.read_until(b'\n', line)? > 0)
}

/// Passes a dump on to psql, without what drops, makes or leaves the database; gives the rows of each COPY. `apart`: the tables
/// were made by another file, with their keys and triggers.
fn pass(lines: &mut impl BufRead, mut out: impl Write, apart: bool) -> io::Result<BTreeMap<String, u64>> {
    let wrong = |what: String| Err(io::Error::new(io::ErrorKind::InvalidData, what));
    let mut rows: BTreeMap<String, u64> = BTreeMap::new();
    let mut copying: Option<(String, u64)> = None;
    let (mut restoring, mut whole) = (false, false);
    let head = without_databases(&head(lines)?);
    let mut lines = io::Read::chain(head.as_slice(), lines);
    let mut line = Vec::new();
    while read_line(&mut lines, &mut line)? {
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        match &mut copying {
            Some((table, number)) if text == b"\\." => {
                *rows.entry(std::mem::take(table)).or_default() += *number;
                copying = None;
            }
            Some((_, number)) => *number += 1,
            None => {
                if let Some(command) = leaves(text) {
                    return wrong(format!(
                        "there is \\{command} in the middle of it, which would leave the database it is restored into"
                    ));
                }
                copying = copies(text).map(|table| (table, 0));
                if let Some((table, _)) = copying.as_ref().filter(|_| apart) {
                    out.write_all(role(table))?;
                }
                whole |= line.starts_with(END);
            }
        }
        out.write_all(&line)?;
        if copying.is_none() && !restoring && makes_timescaledb(text) {
            restoring = true;
            out.write_all(PRE_RESTORE.as_bytes())?;
        }
    }
    if copying.is_some() || !whole {
        return wrong("it is cut off: the line that pg_dump writes last is missing".to_owned());
    }
    out.flush()?;
    Ok(rows)
}

/// The lines before the first rows, as far as they are looked at.
fn head(lines: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let (mut head, mut line) = (Vec::new(), Vec::new());
    while head.len() < HEAD && read_line(lines, &mut line)? {
        head.extend_from_slice(&line);
        if copies(&line).is_some() {
            break;
        }
    }
    Ok(head)
}

/// Cuts off what stands before the last \connect that has nothing but databases and settings before it.
fn without_databases(head: &[u8]) -> Vec<u8> {
    let (mut from, mut at) = (0, 0);
    for line in head.split_inclusive(|byte| *byte == b'\n') {
        let end = at + line.len();
        if leaves(line).is_some_and(|command| ["c", "connect"].contains(&command.as_str())) {
            if !only_databases(&head[from..at]) {
                break;
            }
            from = end;
        }
        at = end;
    }
    head[from..].to_vec()
}

/// Whether statements are about databases and the session alone.
fn only_databases(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let mut reader = Some(text.as_bytes());
    let open = |_: &str| reader.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound));
    let Ok(script) = Script::open(open, Options::default()) else { return false };
    let is_one = |item| match item {
        Ok(Item::Statement(statement)) => statement.facts().all(|facts| {
            let words = |pattern: &[&str]| facts.begins_with(pattern);
            let about = |on: &str| facts.tokens().take(40).any(|token| token.is_word(on));
            words(&["set"])
                || words(&["drop", "database"])
                || words(&["create", "database"])
                || words(&["alter", "database"])
                || words(&["comment", "on", "database"])
                || words(&["select"]) && about("set_config")
                || (words(&["grant"]) || words(&["revoke"]) || words(&["alter", "role"])) && about("database")
        }),
        Ok(_) => true,
        Err(_) => false,
    };
    script.into_iter().all(is_one)
}

/// The command of a line that leads away from the database, where it begins with one.
fn leaves(line: &[u8]) -> Option<String> {
    let rest = line.strip_prefix(b"\\")?;
    let word: String =
        rest.iter().take_while(|byte| !byte.is_ascii_whitespace()).map(|byte| char::from(*byte)).collect();
    LEAVING.contains(&word.as_str()).then_some(word)
}

/// The table of a line that begins rows.
fn copies(line: &[u8]) -> Option<String> {
    if !line.starts_with(b"COPY ") {
        return None;
    }
    let facts = std::str::from_utf8(line).ok().map(|line| Facts::of(line, true))?;
    let tokens: Vec<_> = facts.tokens().collect();
    let from = tokens.iter().position(|token| token.is_word("from"))?;
    tokens.get(from + 1).filter(|token| token.is_word("stdin"))?;
    let name = tokens[1..from].iter().take_while(|token| token.text != "(").map(|token| token.text);
    Some(name.collect())
}

fn makes_timescaledb(line: &[u8]) -> bool {
    line.starts_with(b"CREATE EXTENSION")
        && std::str::from_utf8(line).is_ok_and(|line| dump::creates_timescale(&Facts::of(line, true)))
}

/// Counts every table whose rows passed. TimescaleDB's own had rows before.
fn compare(session: &mut Session, rows: &BTreeMap<String, u64>) -> Result<()> {
    let mut differences = Vec::new();
    for (table, wanted) in rows.iter().filter(|(table, _)| !is_catalog(table)) {
        stopped()?;
        let number: i64 = session
            .client
            .query_typed_one(&format!("SELECT count(*) FROM ONLY {table}"), &[])
            .map_err(|error| failed(&format!("count the rows of {table}"), &error))?
            .get(0);
        if u64::try_from(number) != Ok(*wanted) {
            differences.push(format!("{table}: {number} rows instead of {wanted}"));
        }
    }
    if differences.is_empty() { Ok(()) } else { Err(super::compare::differs(&differences)) }
}

fn is_catalog(table: &str) -> bool {
    ["_timescaledb_catalog.", "_timescaledb_config.", "_timescaledb_cache."]
        .iter()
        .any(|schema| table.starts_with(schema))
}

/// Jobs off and TimescaleDB back to work; gives the jobs that were on.
fn finish(session: &mut Session) -> Result<Option<Jobs>> {
    let extension =
        timescale::extension(&mut session.client).map_err(|error| failed("look for TimescaleDB", &error))?;
    let Some(schema) = extension.schema else { return Ok(None) };
    let (table, ids) =
        dump::jobs(&mut session.client).map_err(|error| failed("look for TimescaleDB's jobs", &error))?;
    run_all(&mut session.client, &[&sqltext::finish(&schema, table.as_deref())])?;
    Ok(Some(Jobs::numbered(&schema, &ids)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = "--
-- PostgreSQL database dump
--

SET statement_timeout = 0;
SELECT pg_catalog.set_config('search_path', '', false);

DROP DATABASE IF EXISTS factory;
CREATE DATABASE factory WITH TEMPLATE = template0 ENCODING = 'UTF8';
ALTER DATABASE factory OWNER TO ms5;

\\connect factory

SET statement_timeout = 0;
ALTER DATABASE factory SET work_mem TO '64MB';

\\connect factory

CREATE EXTENSION IF NOT EXISTS timescaledb WITH SCHEMA public;
CREATE TABLE public.t (id int, x text);
COPY public.t (id, x) FROM stdin;
1\t\\\\connect elsewhere
2\tDROP DATABASE factory;
\\.

--
-- PostgreSQL database dump complete
--
";

    fn passed(dump: &str) -> io::Result<(String, BTreeMap<String, u64>)> {
        let mut out = Vec::new();
        let rows = pass(&mut dump.as_bytes(), &mut out, false)?;
        Ok((String::from_utf8(out).unwrap(), rows))
    }

    #[test]
    fn what_is_about_databases_is_left_out_and_all_else_passes() {
        let (text, rows) = passed(DUMP).unwrap();
        assert!(!text.contains("CREATE DATABASE") && !text.contains("\n\\connect"), "{text}");
        assert!(text.starts_with("\nCREATE EXTENSION"), "{text}");
        assert!(
            text.contains(
                "WITH SCHEMA public;\nDO $ms5$ BEGIN EXECUTE pg_catalog.format('SELECT %s.timescaledb_pre_restore()"
            ),
            "{text}"
        );
        assert!(text.contains("2\tDROP DATABASE factory;\n\\.\n"));
        assert_eq!(rows, BTreeMap::from([("public.t".to_owned(), 2)]));
        // A dump that was made without --create has nothing to leave out.
        let plain = "SET a = 1;\nCREATE TABLE t (id int);\n-- PostgreSQL database dump complete\n";
        assert_eq!(passed(plain).unwrap().0, plain);
    }

    #[test]
    fn what_leads_elsewhere_or_ends_early_is_refused() {
        for (from, to) in [
            ("CREATE TABLE public.t", "\\connect postgres\nCREATE TABLE public.t"),
            ("CREATE TABLE public.t", "\\! id\nCREATE TABLE public.t"),
            ("-- PostgreSQL database dump complete", "--"),
            ("\\.\n", ""),
            // Something was made before: then this is no head, and the second \connect stays where it is.
            ("ALTER DATABASE factory SET", "CREATE TABLE early (id int); ALTER DATABASE factory SET"),
        ] {
            let error = passed(&DUMP.replacen(from, to, 1)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{to}");
        }
    }

    #[test]
    fn tables_of_copies() {
        assert_eq!(
            copies(b"COPY \"f (x\".\"from\" (a, b) FROM stdin;\n").as_deref(),
            Some("\"f (x\".\"from\"")
        );
        assert_eq!(copies(b"COPY t FROM stdin;").as_deref(), Some("t"));
        assert_eq!(copies(b"COPY t FROM '/etc/passwd';"), None);
        assert_eq!(copies(b"SELECT 1;"), None);
    }
}
