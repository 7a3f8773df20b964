//! What a test is given: a database and a home of its own, the tools, and words for what it finds.

mod command;
mod content;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ms5_common::catalog::Inventory;
use ms5_common::config::{Settings, Variables};
use ms5_common::db::client::Client;
use ms5_common::db::clients;
use ms5_common::db::server_error::reasons;
use ms5_common::error::Error;
use ms5_common::interrupt;
use serde_json::Value;

pub(crate) use command::{Ran, Running, launch, seconds};
pub(crate) use content::Content;

use self::command::{Call, Shown};
use crate::ground::{Ground, Session};
use crate::measures::Measure;
use crate::suite::Start;

/// Why a test has ended before its end.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Something is not as it should be; the first line says what.
    Failed(Vec<String>),
    /// It cannot be made here, and why.
    Skipped(String),
    /// The whole run was told to stop.
    Signal,
}

/// How a test, or a step of it, ended.
pub(crate) type Done = Result<(), Stop>;

impl Stop {
    /// A failure in one line.
    pub(crate) fn failed(why: impl Into<String>) -> Self {
        Self::Failed(vec![why.into()])
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error.lines())
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Self::failed(error.to_string())
    }
}

/// That a condition holds.
pub(crate) fn must(holds: bool, what: impl FnOnce() -> String) -> Done {
    if holds { Ok(()) } else { Err(Stop::Failed(vec![what()])) }
}

/// A test at work.
pub(crate) struct Case<'a> {
    pub(crate) ground: &'a Ground<'a>,
    home: PathBuf,
    database: Option<String>,
    deadline: Instant,
    /// What only counts as a warning.
    pub(crate) warnings: Vec<String>,
    /// What is worth knowing of a test that is passed.
    pub(crate) notes: Vec<String>,
    pub(crate) measures: Vec<Measure>,
    shown: Vec<Shown>,
    /// Whether a password was among what was printed.
    leaked: bool,
}

impl<'a> Case<'a> {
    /// Makes the home, and the database that the test begins with.
    pub(crate) fn new(ground: &'a Ground<'a>, start: Start, patience: Duration) -> Result<Self, Stop> {
        let home = ground.home()?;
        let database = ground.database(start).inspect_err(|_| drop(ground.give_back(None, &home)))?;
        Ok(Self {
            ground,
            home,
            database,
            // What it begins with was made before its time begins.
            deadline: Instant::now() + patience,
            warnings: Vec::new(),
            notes: Vec::new(),
            measures: Vec::new(),
            shown: Vec::new(),
            leaked: false,
        })
    }

    /// That there are rows of the field in its database.
    pub(crate) fn needs_field(&self) -> Done {
        if self.ground.has_field() { Ok(()) } else { Err(Stop::Skipped(self.ground.no_field())) }
    }

    /// MS5_HOME of its tools: logs, backups and rollback points come here.
    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// The name of its database.
    pub(crate) fn database(&self) -> &str {
        self.database.as_deref().unwrap_or_default()
    }

    /// Settings that lead to its database.
    pub(crate) fn settings(&self) -> Settings {
        self.ground.settings(self.database())
    }

    /// A session in its database.
    pub(crate) fn session(&self) -> Result<Session, Stop> {
        self.ground.session(self.database())
    }

    /// Runs SQL in its database.
    pub(crate) fn sql(&self, sql: &str) -> Done {
        self.session()?.batch_execute(sql).map_err(|error| refused(sql, &error))
    }

    /// The one value that a query gives, as text; empty for NULL.
    pub(crate) fn ask(&self, query: &str) -> Result<String, Stop> {
        ask(&mut *self.session()?, query)
    }

    /// Every object of its database.
    pub(crate) fn inventory(&self) -> Result<Inventory, Stop> {
        Inventory::take(&mut *self.session()?)
            .map_err(|error| refused("the inventory of the database", &error))
    }

    /// How many rows each table has and what they sum up to, as a SELECT gives them: equal texts, equal rows.
    pub(crate) fn rows(&self) -> Result<Vec<String>, Stop> {
        rows(&mut *self.session()?)
    }

    /// The same, with the rows of materialized views, and where each sequence stands: all that is in a database beside its objects.
    pub(crate) fn state(&self) -> Result<Vec<String>, Stop> {
        let mut session = self.session()?;
        contents(&mut session, &[TABLES, "m", "S"].concat())
    }

    /// Runs one of the tools with words separated by blanks, to its end.
    pub(crate) fn tool(&mut self, tool: &str, words: &str) -> Result<Ran, Stop> {
        self.tool_with(tool, words, &[])
    }

    /// The same with variables of its own.
    pub(crate) fn tool_with(
        &mut self,
        tool: &str,
        words: &str,
        variables: &[(&str, &str)],
    ) -> Result<Ran, Stop> {
        let running = self.start(tool, words, variables)?;
        self.wait(running)
    }

    /// Starts one of the tools and goes on.
    pub(crate) fn start(&self, tool: &str, words: &str, variables: &[(&str, &str)]) -> Result<Running, Stop> {
        let program = self.ground.tools.join(tool);
        let environment_flag = format!("--environment={}", self.ground.environment());
        let mut all: Vec<&str> = words.split_whitespace().collect();
        let ours = !words.contains("--migrations-dir") && !words.starts_with("--help");
        if ours && ["migration-runner", "pre-validate"].contains(&tool) && words != "--version" {
            all.extend(self.ground.gaps_flag().split_whitespace());
        }
        if !words.contains("--environment") && !variables.iter().any(|(name, _)| *name == "ENVIRONMENT") {
            all.push(&environment_flag);
        }
        let typed = std::iter::once(tool).chain(all.iter().copied()).collect::<Vec<_>>().join(" ");
        self.call(&program, &typed, &all, variables)
    }

    /// Runs a line of sh in which the tools are found, as a pipeline of them is typed.
    pub(crate) fn sh(&mut self, line: &str, variables: &[(&str, &str)]) -> Result<Ran, Stop> {
        let running = self.call(Path::new("/bin/sh"), line, &["-c", line], variables)?;
        self.wait(running)
    }

    /// Runs a line of sh that finds psql and what every system has, and none of our tools.
    pub(crate) fn sh_without_tools(&mut self, line: &str) -> Result<Ran, Stop> {
        let variables = Variables::default().with(self.ground.variables(self.database(), &self.home));
        let major = clients::major(&self.ground.server.version).unwrap_or_default();
        let psql = clients::find("psql", major, &self.settings(), &variables)?.place();
        let folder = Path::new(&psql).parent().filter(|folder| folder.is_absolute());
        let path = folder.map_or(String::new(), |folder| format!("{}:", folder.display()));
        let path = format!("{path}/usr/bin:/bin");
        self.sh(line, &[("PATH", &path), ("MS5_BIN_DIR", "")])
    }

    fn call(
        &self,
        program: &Path,
        typed: &str,
        words: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<Running, Stop> {
        let mut environment = self.ground.variables(self.database(), &self.home);
        for (name, value) in variables {
            // Empty is not set.
            if value.is_empty() {
                environment.remove(*name);
            } else {
                environment.insert((*name).to_owned(), (*value).to_owned());
            }
        }
        let told: BTreeMap<&str, &str> =
            std::iter::once(("DB_NAME", self.database())).chain(variables.iter().copied()).collect();
        let told = told.iter().filter(|(name, value)| !value.is_empty() && !name.contains("PASSWORD"));
        let line = told.map(|(name, value)| format!("{name}={value} ")).collect::<String>() + typed;
        Call {
            program,
            line,
            words,
            environment,
            folder: &self.home,
            output: self.ground.output(),
            deadline: self.deadline,
        }
        .start()
    }

    /// Waits for a tool's end.
    pub(crate) fn wait(&mut self, running: Running) -> Result<Ran, Stop> {
        let (mut ran, mut shown, stopped) = running.wait()?;
        for secret in self.ground.secrets() {
            self.leaked |= shown.hide(secret);
            ran.hide(secret);
        }
        self.shown.push(shown);
        stopped.map_or(Ok(ran), Err)
    }

    /// Waits until a query gives `true`.
    pub(crate) fn until(&self, query: &str) -> Done {
        let mut session = self.session()?;
        while ask(&mut session, query)? != "true" {
            self.once_more(query)?;
        }
        Ok(())
    }

    /// The same beside a tool that is at work; that it has ended before is a failure.
    pub(crate) fn until_beside(&mut self, running: Running, query: &str) -> Result<Running, Stop> {
        let mut session = self.session()?;
        while ask(&mut session, query)? != "true" {
            if running.ended()?.is_some() {
                let ran = self.wait(running)?;
                return Err(
                    ran.wrong(&format!("ended with {} before what was waited for came to be", ran.code))
                );
            }
            self.once_more(query)?;
        }
        Ok(running)
    }

    fn once_more(&self, query: &str) -> Done {
        must(Instant::now() < self.deadline, || format!("it never came to be: {query}"))?;
        if interrupt::sleep(Duration::from_millis(20)) { Ok(()) } else { Err(Stop::Signal) }
    }

    /// The newest log file of a tool, by its folder.
    pub(crate) fn log(&self, folder: &str) -> Result<String, Stop> {
        let folder = self.home.join("logs").join(folder);
        let mut files: Vec<PathBuf> = fs::read_dir(&folder)
            .map_err(|error| Stop::failed(format!("no log in {}: {error}", folder.display())))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        files.sort_by_key(|file| file.metadata().and_then(|data| data.modified()).ok());
        let newest = files.last().ok_or_else(|| Stop::failed(format!("no log in {}", folder.display())))?;
        Ok(fs::read_to_string(newest)?)
    }

    /// A folder with copies of the migration files, to be changed at will, and the flags that lead to it.
    pub(crate) fn copied_migrations(&self) -> Result<(PathBuf, String), Stop> {
        let to = self.home.join("migrations");
        copy_folder(&self.ground.migrations, &to)?;
        Ok((to, format!("--migrations-dir=migrations {}", self.ground.gaps_flag())))
    }

    /// Notes what is not as it should be and no failure.
    pub(crate) fn warn(&mut self, what: impl Into<String>) {
        self.warnings.push(what.into());
    }

    /// The commands for the report.
    pub(crate) fn commands(&self) -> Vec<Value> {
        self.shown.iter().map(Shown::to_json).collect()
    }

    /// Where a password stands that was not to be written: among what was printed, or in a file of its home.
    pub(crate) fn leaks(&self) -> Vec<String> {
        let mut all = Vec::new();
        if self.leaked {
            all.push("a password is among what was printed; it is hidden here".to_owned());
        }
        search(&self.home, self.ground.secrets(), &mut |file| {
            let file = file.strip_prefix(&self.home).unwrap_or(file);
            all.push(format!("a password stands in the file {} of MS5_HOME", file.display()));
        });
        all
    }

    /// Hides what must not be read in what is told of the test.
    pub(crate) fn hide(&self, lines: &mut [String]) {
        for line in lines {
            for secret in self.ground.secrets() {
                *line = line.replace(secret, command::HIDDEN);
            }
        }
    }

    /// Removes its home, and leaves its database to others.
    pub(crate) fn keep(mut self) {
        self.database = None;
        self.end();
    }

    /// Removes what it has made; gives how to do that by hand, where that is wanted instead or could not be done.
    pub(crate) fn end(self) -> Vec<String> {
        self.ground.give_back(self.database.as_deref(), &self.home)
    }
}

/// Copies a folder with all that is in it; what is a link there is a file here.
fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (path, to) = {
            let entry = entry?;
            (entry.path(), to.join(entry.file_name()))
        };
        if path.is_dir() {
            copy_folder(&path, &to)?;
        } else if path.is_file() {
            fs::copy(&path, to)?;
        }
    }
    Ok(())
}

/// Tells of each file of a folder that holds one of these texts. What is packed or encrypted cannot.
fn search(folder: &Path, texts: &[String], found: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type());
        let packed = path.extension().is_some_and(|end| end == "gz" || end == "age");
        if kind.as_ref().is_ok_and(fs::FileType::is_dir) {
            search(&path, texts, found);
        } else if kind.is_ok_and(|kind| kind.is_file())
            && !packed
            && let Ok(bytes) = fs::read(&path)
            && texts.iter().any(|text| String::from_utf8_lossy(&bytes).contains(text.as_str()))
        {
            found(&path);
        }
    }
}

/// The one value that a query gives, as text; empty for NULL.
pub(crate) fn ask(client: &mut Client, query: &str) -> Result<String, Stop> {
    let text = format!("SELECT ({query})::text");
    let row = client.query_one(&text, &[]).map_err(|error| refused(query, &error))?;
    Ok(row.get::<_, Option<String>>(0).unwrap_or_default())
}

/// That the server refuses what a test asks it.
pub(crate) fn refused(what: &str, error: &postgres::Error) -> Stop {
    let mut all = vec![format!("the server refuses: {}", what.trim())];
    all.extend(reasons(error));
    Stop::Failed(all)
}

/// Tables, as pg_class has their kind.
const TABLES: &str = "rp";

/// As [`Case::rows`], of any database.
pub(crate) fn rows(client: &mut Client) -> Result<Vec<String>, Stop> {
    contents(client, TABLES)
}

/// What is in each relation of some kinds, in one line.
fn contents(client: &mut Client, kinds: &str) -> Result<Vec<String>, Stop> {
    let relations = client
        .query(
            "SELECT format('%I.%I', n.nspname, c.relname), c.relkind = 'S', c.relispopulated
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE pg_catalog.strpos($1, c.relkind::text) > 0 AND NOT c.relispartition
               AND n.nspname !~ '^(pg_|_timescaledb_|timescaledb_)' AND n.nspname <> 'information_schema'
               AND c.relname <> 'migration_restores'
               AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                               AND d.objid = c.oid AND d.deptype = 'e')
             ORDER BY 1",
            &[&kinds],
        )
        .map_err(|error| refused("the list of tables", &error))?;
    relations
        .iter()
        .map(|row| {
            let (name, sequence, filled): (String, bool, bool) = (row.get(0), row.get(1), row.get(2));
            let query = match (sequence, filled) {
                (true, _) => format!("SELECT last_value || ' ' || is_called FROM {name}"),
                (false, true) => format!(
                    "SELECT count(*) || ' ' || coalesce(sum(pg_catalog.hashtextextended(t::text, 0)::numeric), 0) FROM {name} t"
                ),
                (false, false) => return Ok(format!("{name}: not filled")),
            };
            Ok(format!("{name}: {}", ask(client, &query)?))
        })
        .collect()
}
