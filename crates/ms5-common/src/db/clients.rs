//! PostgreSQL's own programs (pg_dump, psql) in a version that fits the server: found on this machine, else run inside the
//! environment's container.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use duct::{Expression, cmd};

use crate::config::{Settings, Variables};
use crate::db::connect::SslMode;
use crate::error::{Error, Result};
use crate::exit::Exit;

/// Folders whose sub-folders are versions, each with the programs in bin: Debian, Red Hat, source, macOS.
const VERSIONED: [&str; 5] = [
    "/usr/lib/postgresql",
    "/usr",
    "/usr/local",
    "/opt/homebrew/opt",
    "/Applications/Postgres.app/Contents/Versions",
];
/// How those of the folders above begin that are versions; Debian's and Postgres.app's are numbers.
const BEGINNINGS: [&str; 3] = ["pgsql-", "pgsql", "postgresql@"];
/// How long a program may take to say its version.
const PATIENCE: Duration = Duration::from_secs(10);

/// A program that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientProgram {
    way: Way,
    /// Its version, such as `17.6`.
    pub version: String,
    major: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    /// A file on this machine.
    File(PathBuf),
    /// A program in a container, started by `docker exec`.
    Container { container: String, program: String },
}

impl ClientProgram {
    /// Where it is, for messages.
    #[must_use]
    pub fn place(&self) -> String {
        match &self.way {
            Way::File(path) => path.display().to_string(),
            Way::Container { container, program } => format!("{program} in the container {container}"),
        }
    }

    /// A call of it. The database, the role and the password go by the environment, which holds nothing else of libpq.
    pub fn call(&self, settings: &Settings, variables: &Variables, arguments: &[&str]) -> Expression {
        let environment = environment(settings, variables, matches!(self.way, Way::Container { .. }));
        match &self.way {
            Way::File(path) => cmd(path, arguments).full_env(environment),
            Way::Container { container, program } => {
                let mut words: Vec<OsString> = vec!["exec".into(), "-i".into()];
                // By name alone: docker takes the values from its own environment.
                for name in environment.keys().filter(|name| name.starts_with("PG") || *name == "LC_ALL") {
                    words.extend(["-e".into(), name.into()]);
                }
                words.extend([container.into(), program.into()]);
                words.extend(arguments.iter().map(OsString::from));
                cmd("docker", words).full_env(environment)
            }
        }
    }
}

/// Finds `program` in the server's major version or, of the newer ones, the oldest.
///
/// # Errors
/// [`Exit::Config`] where there is none, with what was found instead.
pub fn find(
    program: &str,
    server_major: u32,
    settings: &Settings,
    variables: &Variables,
) -> Result<ClientProgram> {
    let mut found: Vec<ClientProgram> = Vec::new();
    for path in places(program, variables) {
        if let Some((version, major)) = version(cmd(&path, ["--version"]).full_env(plain(variables))) {
            let there = ClientProgram { way: Way::File(path), version, major };
            if there.major == server_major {
                return Ok(there);
            }
            found.push(there);
        }
    }
    if let Some(newer) =
        found.iter().filter(|there| there.major > server_major).min_by_key(|there| there.major)
    {
        return Ok(newer.clone());
    }
    let container = settings.environment.defaults().container;
    let asked = cmd("docker", ["exec", container, program, "--version"]).full_env(plain(variables));
    if let Some((version, major)) = version(asked).filter(|(_, major)| *major >= server_major) {
        let way = Way::Container { container: container.to_owned(), program: program.to_owned() };
        return Ok(ClientProgram { way, version, major });
    }
    let mut error = Error::new(
        Exit::Config,
        format!(
            "{program} of PostgreSQL {server_major} or newer is needed, as the server is, and is not here"
        ),
    );
    for there in &found {
        error = error.because(format!("{} is of version {}, which is too old", there.place(), there.version));
    }
    Err(error
        .because(format!("the container {container} has none either, or there is no Docker"))
        .because("nothing was touched")
        .hint(format!("install it, such as: apt install postgresql-client-{server_major}"))
        .hint("or put its folder on PATH"))
}

/// The files that PATH would give for a program, if they are there.
fn on_path(program: &str, variables: &Variables) -> Vec<PathBuf> {
    let path = variables.get("PATH").unwrap_or_default();
    std::env::split_paths(path).map(|folder| folder.join(program)).collect()
}

/// Whether PATH leads to a program.
#[must_use]
pub fn is_on_path(program: &str, variables: &Variables) -> bool {
    on_path(program, variables).iter().any(|place| place.is_file())
}

/// Every file that may be the program: what PATH finds first, then the usual folders. Behind all of them what only leads to
/// one, as Debian's pg_wrapper does: a script of 50 ms that has an opinion of its own on the version.
fn places(program: &str, variables: &Variables) -> Vec<PathBuf> {
    let mut places = on_path(program, variables);
    for folder in VERSIONED {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        let mut versions: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        versions.sort();
        places.extend(
            versions.into_iter().filter(|path| is_version(path)).map(|path| path.join("bin").join(program)),
        );
    }
    let mut seen = Vec::new();
    for place in places {
        if place.is_file() && !seen.contains(&place) {
            seen.push(place);
        }
    }
    seen.sort_by_key(|place| place.canonicalize().is_ok_and(|file| !file.ends_with(program)));
    seen
}

fn is_version(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.bytes().next().is_some_and(|byte| byte.is_ascii_digit())
        || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

/// `pg_dump (PostgreSQL) 17.6 (Debian 17.6-1)`: the version and its first number.
fn version(asked: Expression) -> Option<(String, u32)> {
    let handle = asked.stdin_null().stdout_capture().stderr_null().unchecked().start().ok()?;
    let Ok(Some(output)) = handle.wait_timeout(PATIENCE) else {
        let _ = handle.kill();
        return None;
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    parse_version(&text)
}

fn parse_version(text: &str) -> Option<(String, u32)> {
    let version = text.split_once("(PostgreSQL) ")?.1.split_whitespace().next()?;
    Some((version.to_owned(), major(version)?))
}

/// The first number of a version of PostgreSQL: 17 of `17.6 (Debian 17.6-1)`, 18 of `18beta1`.
#[must_use]
pub fn major(version: &str) -> Option<u32> {
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// The environment of a program that is no client of the database: what any needs, what Docker needs, and nothing of libpq or
/// of ours, so that no password goes with it.
#[must_use]
pub fn plain(variables: &Variables) -> BTreeMap<String, String> {
    let mut environment = BTreeMap::from([("LC_ALL".to_owned(), "C".to_owned())]);
    for name in [
        "PATH",
        "HOME",
        "DOCKER_HOST",
        "DOCKER_CONFIG",
        "DOCKER_CONTEXT",
        "DOCKER_CERT_PATH",
        "DOCKER_TLS_VERIFY",
        "SSH_AUTH_SOCK",
    ] {
        if let Some(value) = variables.get(name) {
            environment.insert(name.to_owned(), value.to_owned());
        }
    }
    environment
}

fn environment(settings: &Settings, variables: &Variables, in_container: bool) -> BTreeMap<String, String> {
    let connection = &settings.connection;
    let mut environment = plain(variables);
    let mut set = |name: &str, value: String| environment.insert(name.to_owned(), value);
    // PGDATABASE is a name, where an argument that holds a = would be taken for a connection string.
    set("PGDATABASE", connection.dbname.clone());
    set("PGUSER", connection.user.clone());
    set("PGAPPNAME", connection.application_name.clone().unwrap_or_else(|| "backup-manager".to_owned()));
    if let Some(password) = &connection.password {
        set("PGPASSWORD", String::from_utf8_lossy(password.expose()).into_owned());
    }
    if let Some(options) = &connection.options {
        set("PGOPTIONS", options.clone());
    }
    if let Some(limit) = connection.connect_timeout {
        set("PGCONNECT_TIMEOUT", limit.as_secs().max(1).to_string());
    }
    if in_container {
        // The server is the container's own there, whatever port leads to it from here.
        return environment;
    }
    set("PGHOST", connection.host.clone());
    set("PGPORT", connection.port.to_string());
    if let Some(mode) = connection.sslmode {
        set("PGSSLMODE", word(mode).to_owned());
    }
    for (name, path) in [
        ("PGSSLROOTCERT", &connection.sslrootcert),
        ("PGSSLCRL", &connection.sslcrl),
        ("PGSSLCERT", &connection.sslcert),
        ("PGSSLKEY", &connection.sslkey),
        ("PGPASSFILE", &connection.passfile),
    ] {
        if let Some(path) = path {
            set(name, path.to_string_lossy().into_owned());
        }
    }
    environment
}

fn word(mode: SslMode) -> &'static str {
    match mode {
        SslMode::Disable => "disable",
        SslMode::Allow => "allow",
        SslMode::Prefer => "prefer",
        SslMode::Require => "require",
        SslMode::VerifyCa => "verify-ca",
        SslMode::VerifyFull => "verify-full",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Choices, Environment, load};

    #[test]
    fn versions_as_the_programs_say_them() {
        assert_eq!(parse_version("pg_dump (PostgreSQL) 17.6 (Debian 17.6-1)\n"), Some(("17.6".into(), 17)));
        assert_eq!(parse_version("psql (PostgreSQL) 18beta1\n"), Some(("18beta1".into(), 18)));
        assert_eq!(parse_version("pg_dump: error\n"), None);
    }

    #[test]
    fn the_environment_is_ours_alone() {
        let variables = Variables::of(&[
            ("PATH", "/bin"),
            ("PGSERVICE", "other"),
            ("PGHOST", "elsewhere"),
            ("PGPASSWORD", "hunter2"),
            ("DB_NAME", "a = b"),
        ]);
        let settings = load(Choices::default(), &variables, Environment::Test).unwrap();
        let here = environment(&settings, &variables, false);
        assert_eq!(here["PGHOST"], "localhost");
        assert_eq!(here["PGDATABASE"], "a = b");
        assert_eq!(here["PGPASSWORD"], "hunter2");
        assert!(!here.contains_key("PGSERVICE"));
        assert!(!environment(&settings, &variables, true).contains_key("PGHOST"));
        let there = ClientProgram {
            way: Way::Container { container: "c".into(), program: "pg_dump".into() },
            version: "17".into(),
            major: 17,
        };
        assert!(
            !format!("{:?}", there.call(&settings, &variables, &["--schema-only"]))
                .contains("exec -e hunter2")
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let variables = Variables::of(&[("PATH", "/nowhere")]);
        let settings = load(Choices::default(), &variables, Environment::Test).unwrap();
        let error = find("pg_dump", 999, &settings, &variables).unwrap_err();
        assert_eq!(error.exit(), Exit::Config);
        assert!(error.message().contains("pg_dump of PostgreSQL 999 or newer"), "{error}");
    }
}
