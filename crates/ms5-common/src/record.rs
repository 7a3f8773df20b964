//! Records: one JSON object a line on stdout under `--json`, for pipelines and for the next tool, in a report file, and as a page.
//!
//! docs/records.md documents the types; docs/records.schema.json is the schema that a test holds the tools to.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde_json::{Map, Value, json};

use crate::clock;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::report;
use crate::whole_file::WholeFile;

/// Which database a run worked on, so that a gate can tell it from another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// `pg_control_system().system_identifier`: one cluster, for good.
    pub system_identifier: String,
    /// The database's oid in `pg_database`.
    pub oid: u32,
    /// The database's name.
    pub name: String,
    /// The host as the operator gave it.
    pub host: String,
    /// The port as the operator gave it.
    pub port: u16,
    /// The server's version, such as `17.11`.
    pub server_version: String,
}

impl Identity {
    /// As it stands in a `start` record.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "system_identifier": self.system_identifier,
            "oid": self.oid,
            "name": self.name,
            "host": self.host,
            "port": self.port,
            "server_version": self.server_version,
        })
    }
}

/// Writes a tool's records, or drops them where `--json` was not given.
pub struct Recorder {
    tool: &'static str,
    version: &'static str,
    run_id: String,
    begun: Instant,
    state: Mutex<State>,
}

struct State {
    /// None without `--json`, and after the reader has gone away.
    out: Option<Box<dyn Write + Send>>,
    report: Option<WholeFile>,
    page: Option<Page>,
    environment: Option<String>,
    started: bool,
    /// A verdict was asked for: whoever asks next comes too late.
    ended: bool,
    /// The verdict is written: nothing follows it.
    closed: bool,
    counts: Map<String, Value>,
}

impl Recorder {
    /// A recorder for one run of `tool`.
    #[must_use]
    pub fn new(tool: &'static str, version: &'static str, json: bool) -> Self {
        Self::to(tool, version, json.then(|| Box::new(io::stdout()) as Box<dyn Write + Send>))
    }

    fn to(tool: &'static str, version: &'static str, out: Option<Box<dyn Write + Send>>) -> Self {
        Self {
            tool,
            version,
            run_id: new_run_id(),
            begun: Instant::now(),
            state: Mutex::new(State {
                out,
                report: None,
                page: None,
                environment: None,
                started: false,
                ended: false,
                closed: false,
                counts: Map::new(),
            }),
        }
    }

    /// The tool's name.
    #[must_use]
    pub fn tool(&self) -> &'static str {
        self.tool
    }

    /// The tool's version.
    #[must_use]
    pub fn version(&self) -> &'static str {
        self.version
    }

    /// The id that ties the records, the ledger's attempts and the log of one run together.
    #[must_use]
    pub fn run_id(&self) -> &str {
        &self.run_id
    }

    /// Writes every record from now on to a file too. It has its name once the verdict is in it: a report that was there
    /// before stays until then, or goes away where this one cannot be finished: neither half a report nor an earlier run's is
    /// taken for this run's.
    ///
    /// # Errors
    /// [`Exit::Config`] where it cannot be created.
    pub fn report_to(&self, path: &Path) -> Result<()> {
        let report = WholeFile::create(path).map_err(|error| {
            Error::new(Exit::Config, format!("cannot write the report {}", path.display()))
                .because(error)
                .because("nothing was touched")
                .hint("name a file in a folder that you may write to: --report=FILE")
        })?;
        self.state().report = Some(report);
        Ok(())
    }

    /// Writes a page of every record from now on to a file, at the verdict; the file is made now, beside its name.
    ///
    /// # Errors
    /// [`Exit::Config`] where it cannot be created.
    pub fn page_to(&self, path: &Path) -> Result<()> {
        let file = WholeFile::create(path).map_err(|error| {
            Error::new(Exit::Config, format!("cannot write the page {}", path.display()))
                .because(error)
                .because("nothing was touched")
                .hint("name a file in a folder that you may write to: --html=FILE")
        })?;
        self.state().page = Some(Page { file, lines: Vec::new() });
        Ok(())
    }

    /// Whether anybody reads the records.
    #[must_use]
    pub fn is_read(&self) -> bool {
        let state = self.state();
        state.out.is_some() || state.report.is_some() || state.page.is_some()
    }

    /// How long after the run's start a moment was, in seconds.
    #[must_use]
    pub fn since_start(&self, moment: Instant) -> Value {
        let milliseconds = moment.saturating_duration_since(self.begun).as_millis();
        seconds(u64::try_from(milliseconds).unwrap_or(u64::MAX))
    }

    /// The environment that the run is for, known once the settings are.
    pub fn environment(&self, environment: &str) {
        self.state().environment = Some(environment.to_owned());
    }

    /// The first record. `identity` is None where the database could not be asked.
    pub fn start(&self, identity: Option<&Identity>, migrations_digest: Option<&str>) {
        let environment = {
            let mut state = self.state();
            state.started = true;
            state.environment.clone()
        };
        self.write(
            "start",
            json!({
                "version": self.version,
                "environment": environment,
                "database": identity.map(Identity::to_json),
                "migrations_digest": migrations_digest,
            }),
        );
    }

    /// A record of the given type; `fields` is an object.
    pub fn emit(&self, kind: &str, fields: Value) {
        self.begin();
        self.write(kind, fields);
    }

    /// The first record is `start`, whatever happens.
    fn begin(&self) {
        if !self.state().started {
            self.start(None, None);
        }
    }

    /// Counts something for the verdict.
    pub fn count(&self, what: &str, number: usize) {
        self.state().counts.insert(what.to_owned(), json!(number));
    }

    /// The last record. A second one is dropped, and so is every record behind it: a signal's verdict may come while the
    /// work still goes on.
    pub fn verdict(&self, exit: Exit, error: Option<&str>) {
        let counts = {
            let mut state = self.state();
            if std::mem::replace(&mut state.ended, true) {
                return;
            }
            state.counts.clone()
        };
        let milliseconds = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let fields = json!({
            "ok": exit == Exit::Done,
            "exit": exit.code(),
            "counts": counts,
            "seconds": seconds(milliseconds),
            "error": error,
        });
        self.begin();
        let line = self.record("verdict", fields);
        let (report, page) = {
            let mut state = self.state();
            state.put(&line);
            state.closed = true;
            (state.report.take(), state.page.take())
        };
        for file in report.into_iter().chain(page.map(Page::drawn)) {
            if let Err(unfinished) = file.finish() {
                log::warn!("{unfinished}");
            }
        }
    }

    /// Passes on a line that another tool wrote.
    pub fn pass_on(&self, line: &str) {
        self.state().put(line);
    }

    fn write(&self, kind: &str, fields: Value) {
        let line = self.record(kind, fields);
        self.state().put(&line);
    }

    fn record(&self, kind: &str, fields: Value) -> String {
        let mut record = Map::new();
        record.insert("type".into(), json!(kind));
        record.insert("tool".into(), json!(self.tool));
        record.insert("run_id".into(), json!(self.run_id));
        record.insert("time".into(), json!(clock::record_time()));
        if let Value::Object(fields) = fields {
            record.extend(fields);
        }
        Value::Object(record).to_string()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn put(&mut self, line: &str) {
        if self.closed {
            return;
        }
        if let Some(out) = &mut self.out
            && (writeln!(out, "{line}").is_err() || out.flush().is_err())
        {
            // The reader is gone; the work goes on and the exit code still tells how it ended.
            self.out = None;
        }
        if let Some(report) = &mut self.report {
            report.put(line);
        }
        if let Some(page) = &mut self.page {
            page.lines.push(line.to_owned());
        }
    }
}

/// A page to be, and the records that it will show.
struct Page {
    file: WholeFile,
    lines: Vec<String>,
}

impl Page {
    /// The file with the page in it.
    fn drawn(self) -> WholeFile {
        let Self { mut file, lines } = self;
        let records: Vec<Value> = lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
        file.put(report::page(&records).trim_end());
        file
    }
}

/// Milliseconds as a decimal number of seconds, without a lossy cast.
#[must_use]
pub fn seconds(milliseconds: u64) -> Value {
    let text = format!("{}.{:03}", milliseconds / 1000, milliseconds % 1000);
    text.parse::<f64>().map_or(Value::Null, |number| json!(number))
}

/// Unique enough to tell runs apart: the second, the process, and the randomness that seeds a hash map.
fn new_run_id() -> String {
    let random = RandomState::new().build_hasher().finish();
    format!("{}-{}-{random:016x}", clock::file_stamp(), std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_first_is_start_and_the_last_is_verdict_even_when_nothing_happened() {
        let sink = Shared::default();
        let recorder = Recorder::to("tool", "0", Some(Box::new(sink.clone())));
        recorder.count("applied", 3);
        recorder.verdict(Exit::Unreachable, Some("cannot connect"));
        recorder.emit("check", json!({}));
        recorder.verdict(Exit::Done, None);
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(records.len(), 2);
        assert_eq!(records[0]["type"], "start");
        assert_eq!(records[1]["type"], "verdict");
        assert_eq!(records[1]["exit"], 4);
        assert_eq!(records[1]["ok"], false);
        assert_eq!(records[1]["counts"]["applied"], 3);
        assert_eq!(records[0]["run_id"], records[1]["run_id"]);
    }

    #[test]
    fn a_report_has_its_name_once_it_is_whole_and_is_its_owners_only() {
        use std::os::unix::fs::PermissionsExt;
        let folder = std::env::temp_dir().join(format!("ms5-report-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("report.jsonl");
        fs::write(&path, "of yesterday").unwrap();
        let recorder = Recorder::to("tool", "0", None);
        recorder.report_to(&path).unwrap();
        recorder.pass_on("{}");
        recorder.start(None, None);
        assert_eq!(fs::read_to_string(&path).unwrap(), "of yesterday");
        recorder.verdict(Exit::Done, None);
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 3);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        let nowhere = folder.join("nowhere/report.jsonl");
        assert_eq!(Recorder::to("tool", "0", None).report_to(&nowhere).unwrap_err().exit(), Exit::Config);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_page_has_its_name_at_the_verdict_and_holds_what_was_passed_on() {
        use std::os::unix::fs::PermissionsExt;
        let folder = std::env::temp_dir().join(format!("ms5-page-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("page.html");
        let recorder = Recorder::to("tool", "0", None);
        assert!(!recorder.is_read());
        recorder.page_to(&path).unwrap();
        assert!(recorder.is_read());
        recorder.pass_on(r#"{"type":"start","tool":"pre-validate","run_id":"upstream-1"}"#);
        recorder.start(None, None);
        assert!(!path.exists());
        recorder.verdict(Exit::Done, None);
        let page = fs::read_to_string(&path).unwrap();
        assert!(page.contains("upstream-1") && page.contains(recorder.run_id()), "{page}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        let nowhere = folder.join("nowhere/page.html");
        assert_eq!(Recorder::to("tool", "0", None).page_to(&nowhere).unwrap_err().exit(), Exit::Config);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn seconds_keep_milliseconds() {
        assert_eq!(seconds(1250).to_string(), "1.25");
    }
}
