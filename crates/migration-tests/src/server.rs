//! Private servers: started by scripts/sandbox.sh, ended with the process that asked for them, however it ends.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use ms5_common::catalog::Inventory;
use ms5_common::db::connect::{Secret, Settings, SslMode, connect};
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

/// A server to test on.
#[derive(Debug)]
pub struct Server {
    /// The sandbox instance; None for a server that is not ours to stop.
    instance: Option<String>,
    variables: BTreeMap<String, String>,
}

impl Server {
    /// The server of this test binary: started by the first test that asks, shared by all, ended with the process.
    ///
    /// # Panics
    /// Where it cannot be started: a test without its server fails.
    #[must_use]
    #[allow(clippy::panic)]
    pub fn shared(engine: Engine) -> &'static Self {
        static SERVERS: [OnceLock<Result<Server, String>>; 3] = [const { OnceLock::new() }; 3];
        let slot = match engine {
            Engine::Pg17 => &SERVERS[0],
            Engine::Pg18 => &SERVERS[1],
            Engine::Plain => &SERVERS[2],
        };
        match slot.get_or_init(|| Self::start(engine, &[])) {
            Ok(server) => server,
            Err(why) => panic!("no server to test on: {why}"),
        }
    }

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
        let variables = exports(&sandbox(&name, &["env".to_owned(), "--environment=test".to_owned()])?);
        Ok(Self { instance: Some(name), variables })
    }

    /// The full Community server that `MS5_COMMUNITY_URL` names, with a role that may do everything; None where
    /// the variable is not set, and then the test says NOT RUN.
    ///
    /// # Panics
    /// Where the variable cannot be understood: a server that was asked for must not be skipped.
    #[must_use]
    #[allow(clippy::panic)]
    pub fn community() -> Option<Self> {
        let url = std::env::var("MS5_COMMUNITY_URL").ok().filter(|url| !url.is_empty())?;
        let config: postgres::Config = match url.parse() {
            Ok(config) => config,
            Err(error) => panic!("MS5_COMMUNITY_URL is not a connection string: {error}"),
        };
        let host = match config.get_hosts().first() {
            Some(postgres::config::Host::Tcp(host)) => host.clone(),
            other => panic!("MS5_COMMUNITY_URL must name a TCP host, not {other:?}"),
        };
        let port = config.get_ports().first().copied().unwrap_or(5432).to_string();
        let user = config.get_user().unwrap_or("postgres").to_owned();
        let password = String::from_utf8_lossy(config.get_password().unwrap_or_default()).into_owned();
        let pairs = [
            ("DB_HOST", host),
            ("DB_PORT", port),
            ("DB_USER", user.clone()),
            ("POSTGRES_PASSWORD_TEST", password.clone()),
            ("MS5_SANDBOX_SUPERUSER", user),
            ("MS5_SANDBOX_SUPERUSER_PASSWORD", password),
            // Any newer psql serves; the sandbox has one.
            ("MS5_SANDBOX_BIN", Self::shared(Engine::Pg17).variable("MS5_SANDBOX_BIN").to_owned()),
        ];
        let variables = pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Some(Self { instance: None, variables })
    }

    /// Calls the script for this server.
    ///
    /// # Errors
    /// What the script said.
    pub fn sandbox(&self, arguments: &[&str]) -> Result<String, String> {
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        sandbox(self.instance.as_deref().ok_or("this server is not a sandbox")?, &arguments)
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
            .host(self.variable("DB_HOST"))
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
        let name = format!("ms5_test_{}_{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let owner = self.variable("DB_USER");
        self.superuser("postgres")?.batch_execute(&format!("CREATE DATABASE {name} OWNER {owner}"))?;
        Ok(Database { server: self, name })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.instance.is_some() {
            let _ = self.sandbox(&["down"]);
        }
    }
}

impl Drop for Database<'_> {
    fn drop(&mut self) {
        // A sandbox goes as a whole; on a server of others nothing may stay behind.
        if self.server.instance.is_none()
            && let Ok(mut client) = self.server.superuser("postgres")
        {
            let _ = client.batch_execute(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
        }
    }
}

fn sandbox(name: &str, arguments: &[String]) -> Result<String, String> {
    call("scripts/sandbox.sh", name, arguments)
}

fn call(script: &str, name: &str, arguments: &[String]) -> Result<String, String> {
    let script = project_root().join(script);
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
#[must_use]
pub fn exports(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| line.strip_prefix("export ")?.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.trim_matches('\'').replace("'\\''", "'")))
        .collect()
}

/// Says aloud that a test has not run for want of a full Community server. Written past the test runner, which shows
/// nothing of a test that passes.
pub fn not_run(test: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "NOT RUN: {test} (MS5_COMMUNITY_URL is not set)");
}

/// A database of its own on a private server; dropped with the server.
#[derive(Debug)]
pub struct Database<'a> {
    server: &'a Server,
    /// Its name.
    pub name: String,
}

/// What is in the database that a tool's variables lead to, read over a session of its own as the tools open theirs.
#[allow(clippy::expect_used)]
fn inventory(variables: &[(String, String)]) -> Inventory {
    let of = |name: &str| variables.iter().find(|(other, _)| other == name).map_or("", |(_, value)| value);
    let port = of("DB_PORT").parse().unwrap_or_default();
    let mut settings = Settings::new(of("DB_HOST"), port, of("DB_NAME"), of("DB_USER"));
    settings.password = Some(Secret::new(of("POSTGRES_PASSWORD_TEST")));
    settings.sslmode = Some(SslMode::Disable);
    let mut session = connect(&settings, |_| {}).expect("a session");
    Inventory::take(&mut session.client).expect("an inventory")
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

    /// What is in it, as the tools see it.
    ///
    /// # Panics
    /// Where it cannot be read.
    #[must_use]
    pub fn inventory(&self) -> Inventory {
        inventory(&self.variables())
    }

    /// The variables that lead a tool to it, under `--environment=test`.
    #[must_use]
    pub fn variables(&self) -> Vec<(String, String)> {
        let server = self.server;
        [
            ("ENVIRONMENT", "test"),
            ("DB_HOST", server.variable("DB_HOST")),
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
        psql(&server.bin(), &server.variables, &self.name, variables, files)
    }
}

fn psql(
    bin: &Path,
    server: &BTreeMap<String, String>,
    database: &str,
    variables: &[(&str, &str)],
    files: &[&Path],
) -> Ran {
    let of = |name: &str| server.get(name).map_or("", String::as_str);
    let mut psql = Program::at(&bin.join("psql"))
        .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", of("DB_HOST"), "-p", of("DB_PORT")])
        .args(["-U", of("DB_USER"), "-d", database])
        .env("PGPASSWORD", of("POSTGRES_PASSWORD_TEST"))
        .env("PGSSLMODE", "disable");
    for (name, value) in variables {
        psql = psql.arg("-v").arg(format!("{name}={value}"));
    }
    for file in files {
        psql = psql.arg("-f").arg(file);
    }
    psql.run()
}

/// PostgreSQL with TimescaleDB under the timescale licence, in WebAssembly: one session, one database.
#[derive(Debug)]
pub struct Wasm {
    name: String,
    variables: BTreeMap<String, String>,
}

impl Wasm {
    /// Starts one by scripts/pglite.sh. It ends with this value, and at the latest with this process.
    ///
    /// # Errors
    /// What the script said.
    pub fn start() -> Result<Self, String> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let script = "scripts/pglite.sh";
        call(script, &name, &["up".to_owned(), format!("--owner-pid={}", std::process::id())])?;
        let variables = exports(&call(script, &name, &["env".to_owned()])?);
        Ok(Self { name, variables })
    }

    /// What is in its database, as the tools see it; there must be no session.
    ///
    /// # Panics
    /// Where it cannot be read.
    #[must_use]
    pub fn inventory(&self) -> Inventory {
        inventory(&self.variables())
    }

    /// Its one session; there must be no other.
    ///
    /// # Errors
    /// The client's.
    pub fn connect(&self) -> Result<Client, postgres::Error> {
        let of = |name: &str| self.variables.get(name).map_or("", String::as_str);
        postgres::Config::new()
            .host(of("DB_HOST"))
            .port(of("DB_PORT").parse().unwrap_or_default())
            .user(of("DB_USER"))
            .password(of("POSTGRES_PASSWORD_TEST"))
            .dbname(of("DB_NAME"))
            .connect(NoTls)
    }

    /// The variables that lead a tool to it, under `--environment=test`.
    #[must_use]
    pub fn variables(&self) -> Vec<(String, String)> {
        let mut variables = self.variables.clone();
        variables.insert("ENVIRONMENT".to_owned(), "test".to_owned());
        variables.into_iter().collect()
    }

    /// Runs the psql of `bin` on files, stopping at the first error.
    #[must_use]
    pub fn psql_files(&self, bin: &Path, files: &[&Path]) -> Ran {
        psql(bin, &self.variables, "postgres", &[], files)
    }
}

impl Drop for Wasm {
    fn drop(&mut self) {
        let _ = call("scripts/pglite.sh", &self.name, &["down".to_owned()]);
    }
}
