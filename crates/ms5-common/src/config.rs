//! Settings: the only reader of the environment. A flag wins over a variable, a variable over a default.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::cli;
use crate::db::connect::{Secret, Settings as Connection, parse_connect_timeout};
use crate::error::{Error, Result};
use crate::exit::Exit;

/// The environment's variables, read once at the start.
#[derive(Debug, Clone, Default)]
pub struct Variables(BTreeMap<String, String>);

impl Variables {
    /// Reads the process's variables; one that is not UTF-8 counts as not set.
    #[must_use]
    pub fn read() -> Self {
        Self(
            std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
        )
    }

    /// A set of variables for tests.
    #[must_use]
    pub fn of(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    /// The same with others in place of those of their names.
    #[must_use]
    pub fn with(&self, pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut all = self.0.clone();
        all.extend(pairs);
        Self(all)
    }

    /// A variable; empty counts as not set, as in the old scripts (`${DB_HOST:-localhost}`).
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The names of those that hold passwords of ours, set or not: a program that is not ours gets none of them.
    #[must_use]
    pub fn passwords(&self) -> Vec<&str> {
        let ours = |name: &&str| {
            name.starts_with("POSTGRES_PASSWORD") || name.starts_with("MS5_") && name.ends_with("PASSWORD")
        };
        // By their names too: what is not UTF-8 is in the process's environment and not in here.
        let known = Environment::ALL.into_iter().map(|environment| environment.defaults().password_variable);
        let known = known.chain(["POSTGRES_PASSWORD", "PGPASSWORD", "MS5_RESTORE_PASSWORD"]);
        known.chain(self.0.keys().map(String::as_str).filter(ours)).collect()
    }

    /// Whether output to a terminal may be coloured.
    #[must_use]
    pub fn colour_allowed(&self) -> bool {
        self.get("NO_COLOR").is_none() && self.get("TERM").is_some_and(|term| term != "dumb")
    }

    /// Whether a terminal can redraw a line in place.
    #[must_use]
    pub fn terminal_can_redraw(&self) -> bool {
        self.get("TERM").is_some_and(|term| term != "dumb")
    }

    /// Whether `MS5_EXIT=classic` asks for the old scripts' exit codes.
    #[must_use]
    pub fn classic_exit(&self) -> bool {
        self.get("MS5_EXIT") == Some("classic")
    }
}

/// Which of the plant's databases a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    /// The default of all tools but migration-tests.
    Production,
    /// The rehearsal's.
    Staging,
    /// The developers'.
    Development,
    /// The default of migration-tests.
    Test,
}

/// What an environment's variables default to, and the names that runbooks print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Defaults {
    /// As in `--environment=`.
    pub name: &'static str,
    /// `DB_PORT`.
    pub port: u16,
    /// `DB_NAME`.
    pub database: &'static str,
    /// `DB_USER`.
    pub user: &'static str,
    /// The variable that holds the password.
    pub password_variable: &'static str,
    /// The Docker container of the database.
    pub container: &'static str,
}

impl Environment {
    /// Every environment.
    pub const ALL: [Self; 4] = [Self::Production, Self::Staging, Self::Development, Self::Test];

    /// The contract's table of environments.
    #[must_use]
    pub const fn defaults(self) -> Defaults {
        match self {
            Self::Production => Defaults {
                name: "production",
                port: 5432,
                database: "factory_telemetry",
                user: "ms5_user_production",
                password_variable: "POSTGRES_PASSWORD_PRODUCTION",
                container: "ms5_postgres_production",
            },
            Self::Staging => Defaults {
                name: "staging",
                port: 5433,
                database: "factory_telemetry_staging",
                user: "ms5_user_staging",
                password_variable: "POSTGRES_PASSWORD_STAGING",
                container: "ms5_postgres_staging",
            },
            Self::Development => Defaults {
                name: "development",
                port: 5434,
                database: "factory_telemetry_dev",
                user: "ms5_user_dev",
                password_variable: "POSTGRES_PASSWORD_DEV",
                container: "ms5_postgres_dev",
            },
            Self::Test => Defaults {
                name: "test",
                port: 5435,
                database: "factory_telemetry_test",
                user: "ms5_user_test",
                password_variable: "POSTGRES_PASSWORD_TEST",
                container: "ms5_postgres_test",
            },
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|environment| environment.defaults().name == text)
    }
}

/// What the command line says about things that variables say too.
#[derive(Debug, Clone, Copy, Default)]
pub struct Choices<'a> {
    /// `--environment`.
    pub environment: Option<&'a str>,
    /// `--migrations-dir`.
    pub migrations_dir: Option<&'a str>,
    /// `--log-dir`.
    pub log_dir: Option<&'a str>,
    /// `--backup-dir`.
    pub backup_dir: Option<&'a str>,
}

impl<'a> Choices<'a> {
    /// Picks them out of a command line.
    #[must_use]
    pub fn of(arguments: &'a cli::Parsed) -> Self {
        Self {
            environment: arguments.value(cli::ENVIRONMENT.name),
            migrations_dir: arguments.value(cli::MIGRATIONS_DIR.name),
            log_dir: arguments.value(cli::LOG_DIR.name),
            backup_dir: arguments.value(cli::BACKUP_DIR.name),
        }
    }
}

/// Everything a tool needs to know about where it runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which environment.
    pub environment: Environment,
    /// Where migrations/, logs/, backups/ and rollback/ lie.
    pub home: PathBuf,
    /// Folder of the migration files.
    pub migrations_dir: PathBuf,
    /// Folder of the log files; each tool has a folder of its own in it.
    pub log_dir: PathBuf,
    /// Folder of the backups.
    pub backup_dir: PathBuf,
    /// How to reach the database. Its `Debug` shows no password.
    pub connection: Connection,
}

impl Settings {
    /// The database as `name@host:port`, for headers and messages.
    #[must_use]
    pub fn database(&self) -> String {
        format!("{}@{}:{}", self.connection.dbname, self.connection.host, self.connection.port)
    }
}

/// Puts the settings together from flags, variables and defaults.
///
/// # Errors
/// [`Exit::Usage`] for an unknown `--environment`; [`Exit::Config`] for a variable that makes no sense.
pub fn load(choices: Choices<'_>, variables: &Variables, default: Environment) -> Result<Settings> {
    let environment = environment(choices.environment, variables, default)?;
    let home = PathBuf::from(variables.get("MS5_HOME").unwrap_or("."));
    let folder = |choice: Option<&str>, variable: &str, name: &str| {
        choice.or_else(|| variables.get(variable)).map_or_else(|| home.join(name), PathBuf::from)
    };
    Ok(Settings {
        environment,
        migrations_dir: folder(choices.migrations_dir, "MS5_MIGRATIONS_DIR", "migrations"),
        log_dir: folder(choices.log_dir, "MS5_LOG_DIR", "logs"),
        backup_dir: folder(choices.backup_dir, "MS5_BACKUP_DIR", "backups"),
        connection: connection(environment, variables)?,
        home,
    })
}

fn environment(flag: Option<&str>, variables: &Variables, default: Environment) -> Result<Environment> {
    let names = "production, staging, development or test";
    match (flag, variables.get("ENVIRONMENT")) {
        (Some(text), _) => Environment::parse(text).ok_or_else(|| {
            Error::new(Exit::Usage, format!("unknown environment {text:?} in --environment"))
                .hint(format!("it is one of {names}"))
        }),
        (None, Some(text)) => Environment::parse(text).ok_or_else(|| {
            Error::new(Exit::Config, format!("unknown environment {text:?} in the variable ENVIRONMENT"))
                .hint(format!("it is one of {names}; --environment=ENV wins over the variable"))
        }),
        (None, None) => Ok(default),
    }
}

/// The variables of libpq that would lead to another database than ours.
pub(crate) const IGNORED: [&str; 5] = ["PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGSERVICE"];

/// libpq's variables mean what they mean to libpq; PGHOST, PGPORT, PGUSER, PGDATABASE and PGSERVICE are ignored,
/// since a shell's leftovers must not redirect a migration.
fn connection(environment: Environment, variables: &Variables) -> Result<Connection> {
    let defaults = environment.defaults();
    for ignored in IGNORED {
        if variables.get(ignored).is_some() {
            log::warn!(
                "{ignored} is set and is ignored: DB_HOST, DB_PORT, DB_NAME and DB_USER name the database"
            );
        }
    }
    let port = match variables.get("DB_PORT") {
        None => defaults.port,
        Some(text) => text
            .trim()
            .parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| nonsense("DB_PORT", text).hint("a port is a number from 1 to 65535"))?,
    };
    let path = |name: &str| variables.get(name).map(PathBuf::from);
    let text = |name: &str| variables.get(name).map(str::to_owned);
    let sslmode = variables
        .get("PGSSLMODE")
        .map(|text| text.parse().map_err(|error| nonsense("PGSSLMODE", text).because(error)));
    let connect_timeout = variables.get("PGCONNECT_TIMEOUT").map(|text| {
        parse_connect_timeout(text).map_err(|error| nonsense("PGCONNECT_TIMEOUT", text).because(error))
    });
    let mut connection = Connection::new(
        variables.get("DB_HOST").unwrap_or("localhost"),
        port,
        variables.get("DB_NAME").unwrap_or(defaults.database),
        variables.get("DB_USER").unwrap_or(defaults.user),
    );
    connection.password_variables = vec![defaults.password_variable.to_owned(), "PGPASSWORD".to_owned()];
    connection.password =
        connection.password_variables.iter().find_map(|name| variables.get(name)).map(Secret::new);
    connection.sslmode = sslmode.transpose()?;
    connection.sslrootcert = path("PGSSLROOTCERT");
    connection.sslcrl = path("PGSSLCRL");
    connection.sslcert = path("PGSSLCERT");
    connection.sslkey = path("PGSSLKEY");
    connection.connect_timeout = connect_timeout.transpose()?.flatten();
    connection.options = text("PGOPTIONS");
    connection.application_name = text("PGAPPNAME");
    connection.passfile = path("PGPASSFILE");
    connection.home = path("HOME");
    Ok(connection)
}

fn nonsense(name: &str, value: &str) -> Error {
    Error::new(Exit::Config, format!("the variable {name} is {value:?}"))
}

/// A folder as an absolute path, for messages that are read in another folder than they were written in.
#[must_use]
pub fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(flag: Option<&str>, pairs: &[(&str, &str)]) -> Result<Settings> {
        load(
            Choices { environment: flag, ..Choices::default() },
            &Variables::of(pairs),
            Environment::Production,
        )
    }

    #[test]
    fn the_flag_wins_over_the_variable_and_the_variable_over_the_default() {
        assert_eq!(settings(None, &[]).unwrap().environment, Environment::Production);
        let staging = settings(None, &[("ENVIRONMENT", "staging")]).unwrap();
        assert_eq!((staging.environment, staging.connection.port), (Environment::Staging, 5433));
        let test = settings(Some("test"), &[("ENVIRONMENT", "staging"), ("DB_PORT", "6000")]).unwrap();
        assert_eq!((test.environment, test.connection.port), (Environment::Test, 6000));
        assert_eq!(test.connection.dbname, "factory_telemetry_test");
        assert_eq!(settings(Some("prod"), &[]).unwrap_err().exit(), Exit::Usage);
        assert_eq!(settings(None, &[("ENVIRONMENT", "prod")]).unwrap_err().exit(), Exit::Config);
    }

    #[test]
    fn the_environments_password_comes_before_pgpassword_and_is_never_shown() {
        let both = [("POSTGRES_PASSWORD_DEV", "hunter2"), ("PGPASSWORD", "other")];
        let settings = settings(Some("development"), &both).unwrap();
        assert_eq!(settings.connection.password.as_ref().map(Secret::expose), Some(b"hunter2".as_slice()));
        assert!(!format!("{settings:?}").contains("hunter2"));
    }

    #[test]
    fn passwords_are_known_by_their_names() {
        let variables = Variables::of(&[
            ("POSTGRES_PASSWORD_PLANT_7", "x"),
            ("RESTIC_PASSWORD", "x"),
            ("MS5_HOME", "/srv/ms5"),
            ("MS5_OTHER_PASSWORD", "x"),
        ]);
        let names = variables.passwords();
        for ours in ["POSTGRES_PASSWORD_PLANT_7", "POSTGRES_PASSWORD_DEV", "PGPASSWORD", "MS5_OTHER_PASSWORD"]
        {
            assert!(names.contains(&ours), "{ours}");
        }
        assert!(!names.contains(&"RESTIC_PASSWORD") && !names.contains(&"MS5_HOME"));
    }

    #[test]
    fn nonsense_is_named() {
        for (name, value) in [
            ("DB_PORT", "x"),
            ("DB_PORT", "0"),
            ("DB_PORT", "70000"),
            ("PGSSLMODE", "on"),
            ("PGCONNECT_TIMEOUT", "10s"),
        ] {
            let error = settings(None, &[(name, value)]).unwrap_err();
            assert_eq!(error.exit(), Exit::Config);
            assert!(error.message().contains(name), "{error}");
        }
    }

    #[test]
    fn folders_follow_home_and_have_overrides() {
        let plain = settings(None, &[("MS5_HOME", "/srv/ms5")]).unwrap();
        assert_eq!(plain.migrations_dir, Path::new("/srv/ms5/migrations"));
        let moved = settings(None, &[("MS5_HOME", "/srv/ms5"), ("MS5_LOG_DIR", "/var/log/ms5")]).unwrap();
        assert_eq!(moved.log_dir, Path::new("/var/log/ms5"));
        assert_eq!(moved.backup_dir, Path::new("/srv/ms5/backups"));
    }
}
