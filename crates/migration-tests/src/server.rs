//! Private servers: started by scripts/sandbox.sh, ended with the process that asked for them, however it ends.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use postgres::{Client, NoTls};

use crate::program::{Program, Ran, project_root};

/// Which server to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// PostgreSQL 17 with TimescaleDB 2.19, Apache edition.
    Pg17,
    /// PostgreSQL 18 with TimescaleDB 2.31, Apache edition.
    Pg18,
    /// PostgreSQL 17 without TimescaleDB on its disk.
    Plain,
}

impl Engine {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Pg17 => &["--engine=pg17"],
            Self::Pg18 => &["--engine=pg18"],
            Self::Plain => &["--engine=pg17", "--plain"],
        }
    }
}

/// A private server.
#[derive(Debug)]
pub struct Server {
    name: String,
    variables: BTreeMap<String, String>,
}

impl Server {
    /// Starts one, with `settings` (`key=value`) beside the sandbox's own. It ends with this value, and at the
    /// latest with this process.
    ///
    /// # Errors
    /// What the script said.
    pub fn start(engine: Engine, settings: &[&str]) -> Result<Self, String> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("t{}-{number}", std::process::id());
        let mut arguments = vec!["up".to_owned(), format!("--owner-pid={}", std::process::id())];
        arguments.extend(engine.arguments().iter().map(|argument| (*argument).to_owned()));
        arguments.extend(settings.iter().map(|setting| format!("--set={setting}")));
        sandbox(&name, &arguments)?;
        let mut server = Self { name, variables: BTreeMap::new() };
        server.variables = exports(&server.sandbox(&["env", "--environment=test"])?);
        Ok(server)
    }

    /// Calls the script for this server.
    ///
    /// # Errors
    /// What the script said.
    pub fn sandbox(&self, arguments: &[&str]) -> Result<String, String> {
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        sandbox(&self.name, &arguments)
    }

    /// A variable that the script exports; empty where there is none.
    #[must_use]
    pub fn variable(&self, name: &str) -> &str {
        self.variables.get(name).map_or("", String::as_str)
    }

    /// The TCP port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.variable("DB_PORT").parse().unwrap_or_default()
    }

    /// The folder with psql and pg_dump.
    #[must_use]
    pub fn bin(&self) -> PathBuf {
        PathBuf::from(self.variable("MS5_SANDBOX_BIN"))
    }

    /// A session of the superuser.
    ///
    /// # Errors
    /// The client's.
    pub fn superuser(&self, database: &str) -> Result<Client, postgres::Error> {
        self.connect(
            database,
            self.variable("MS5_SANDBOX_SUPERUSER"),
            self.variable("MS5_SANDBOX_SUPERUSER_PASSWORD"),
        )
    }

    fn connect(&self, database: &str, user: &str, password: &str) -> Result<Client, postgres::Error> {
        postgres::Config::new()
            .host("127.0.0.1")
            .port(self.port())
            .user(user)
            .password(password)
            .dbname(database)
            .connect(NoTls)
    }

    /// A new database, owned by the test environment's role (not a superuser).
    ///
    /// # Errors
    /// The client's.
    pub fn database(&self) -> Result<Database<'_>, postgres::Error> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let name = format!("db_{}", COUNTER.fetch_add(1, Ordering::Relaxed));
        let owner = self.variable("DB_USER");
        self.superuser("postgres")?.batch_execute(&format!("CREATE DATABASE {name} OWNER {owner}"))?;
        Ok(Database { server: self, name })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.sandbox(&["down"]);
    }
}

fn sandbox(name: &str, arguments: &[String]) -> Result<String, String> {
    let script = project_root().join("scripts/sandbox.sh");
    let (command, options) = arguments.split_first().ok_or("no command")?;
    let output = Command::new(&script)
        .arg(command)
        .arg(format!("--name={name}"))
        .args(options)
        // Debian's packages on every machine: the same server for everyone who runs the tests.
        .env("MS5_SANDBOX", std::env::var_os("MS5_SANDBOX").unwrap_or_else(|| "debian".into()))
        .env_remove("ENVIRONMENT")
        .output()
        .map_err(|error| format!("cannot run {}: {error}", script.display()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!(
        "{} {}: {}{}",
        script.display(),
        arguments.join(" "),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}

/// `export NAME='value'` lines, as a map.
fn exports(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| line.strip_prefix("export ")?.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.trim_matches('\'').replace("'\\''", "'")))
        .collect()
}

/// A database of its own on a private server; dropped with the server.
#[derive(Debug)]
pub struct Database<'a> {
    server: &'a Server,
    /// Its name.
    pub name: String,
}

impl Database<'_> {
    /// A session of the role that owns it.
    ///
    /// # Errors
    /// The client's.
    pub fn connect(&self) -> Result<Client, postgres::Error> {
        let server = self.server;
        server.connect(&self.name, server.variable("DB_USER"), server.variable("POSTGRES_PASSWORD_TEST"))
    }

    /// A session of the superuser.
    ///
    /// # Errors
    /// The client's.
    pub fn superuser(&self) -> Result<Client, postgres::Error> {
        self.server.superuser(&self.name)
    }

    /// The variables that lead a tool to it, under `--environment=test`.
    #[must_use]
    pub fn variables(&self) -> Vec<(String, String)> {
        let server = self.server;
        [
            ("ENVIRONMENT", "test"),
            ("DB_HOST", "127.0.0.1"),
            ("DB_PORT", server.variable("DB_PORT")),
            ("DB_NAME", &self.name),
            ("DB_USER", server.variable("DB_USER")),
            ("POSTGRES_PASSWORD_TEST", server.variable("POSTGRES_PASSWORD_TEST")),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
    }

    /// Runs the real psql on files, stopping at the first error.
    #[must_use]
    pub fn psql_files(&self, variables: &[(&str, &str)], files: &[&Path]) -> Ran {
        let server = self.server;
        let mut psql = Program::at(&server.bin().join("psql"))
            .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1"])
            .args(["-p", server.variable("DB_PORT"), "-U", server.variable("DB_USER"), "-d", &self.name])
            .env("PGPASSWORD", server.variable("POSTGRES_PASSWORD_TEST"))
            .env("PGSSLMODE", "disable");
        for (name, value) in variables {
            psql = psql.arg("-v").arg(format!("{name}={value}"));
        }
        for file in files {
            psql = psql.arg("-f").arg(file);
        }
        psql.run()
    }
}
