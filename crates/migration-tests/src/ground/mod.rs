//! Where tests are made: databases and folders of our own, known by their names, and gone when the run is over.
//!
//! A name holds the number of its run, and the run holds the advisory lock of that number, in a session of its own. So what
//! belongs to a number that nobody on the server holds was left by a run that was killed, and goes. What is to be kept
//! (`--no-cleanup`) has another name.

pub(crate) mod edition;
mod sandbox;
mod template;

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::fs::{self, DirBuilder, File};
use std::hash::{BuildHasher, Hasher};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ms5_common::config::{Settings, Variables};
use ms5_common::db::client::Client;
use ms5_common::db::connect::Secret;
use ms5_common::db::server_error::reasons;
use ms5_common::db::session::{self, Server, Tuning};
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::timescale::{self, Extension};
use postgres::error::SqlState;
use rustix::fs::{FlockOperation, flock};
use rustix::process::getuid;

pub(crate) use sandbox::Sandbox;

use self::template::Templates;
use crate::args::{Options, TOOL};
use crate::case::{Stop, refused};
use crate::suite::Start;

/// What the names of our databases and folders begin with; the run's number follows, as eight hexadecimal digits.
const PREFIX: &str = "ms5_suite_";
/// The same of what is to be kept.
const KEPT: &str = "ms5_kept_";
/// The space of the advisory locks: the letters `ms5t`.
const LOCKS: i32 = 0x6D73_3574;
/// How long sessions of the server's own are waited for, and how often it is looked.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(200);
/// What tools get of our own variables, as it is.
const PASSED_ON: [&str; 13] = [
    "HOME",
    "TZ",
    "PGSSLMODE",
    "PGSSLROOTCERT",
    "PGSSLCERT",
    "PGSSLKEY",
    "PGSSLCRL",
    "PGCONNECT_TIMEOUT",
    "PGOPTIONS",
    "PGPASSFILE",
    "DOCKER_HOST",
    "DOCKER_CONTEXT",
    "DOCKER_CONFIG",
];

/// Who restores what holds hypertables.
struct Restorer {
    role: String,
    password: Option<Secret>,
}

/// The server, the tools and the files that a run is about.
pub(crate) struct Ground<'a> {
    settings: Settings,
    variables: &'a Variables,
    /// The folder of the tools' binaries.
    pub(crate) tools: PathBuf,
    /// The folder of the migration files.
    pub(crate) migrations: PathBuf,
    /// The folder of the SQL of the database in the field.
    pub(crate) field: PathBuf,
    /// PostgreSQL's programs that belong to a server of our own.
    bin: Option<String>,
    restorer: Option<Restorer>,
    pub(crate) server: Server,
    pub(crate) extension: Extension,
    /// Whether our role is a superuser.
    superuser: bool,
    id: u32,
    maintenance: Mutex<Client>,
    templates: Templates,
    number: AtomicUsize,
    folder: PathBuf,
    /// Held as long as the folder is in use.
    _folder: File,
    cleanup: bool,
    /// How long a test may take.
    timeout: Duration,
}

impl<'a> Ground<'a> {
    /// Connects, takes a number, and removes what dead runs have left.
    ///
    /// # Errors
    /// That the server cannot be reached, or that its role may not make databases.
    pub(crate) fn open(
        settings: Settings,
        variables: &'a Variables,
        sandbox: Option<&Sandbox>,
        options: &Options,
        tools: PathBuf,
    ) -> Result<Self> {
        let of = |name: &str| sandbox.and_then(|sandbox| sandbox.variables().get(name)).cloned();
        let named = options
            .restore_user
            .clone()
            .map(|role| Restorer { role, password: variables.get("MS5_RESTORE_PASSWORD").map(Secret::new) });
        let ours = of("MS5_SANDBOX_SUPERUSER")
            .map(|role| Restorer { role, password: of("MS5_SANDBOX_SUPERUSER_PASSWORD").map(Secret::new) });
        let mut settings = settings;
        settings.connection.dbname.clone_from(&options.maintenance);
        let mut tuning = Tuning::default();
        // TimescaleDB says of its own workers what we know.
        tuning.demand("client_min_messages", "error");
        let mut client = session::open(&settings, TOOL, "ground", &tuning)
            .map_err(|error| {
                error.hint(format!(
                    "databases are made from {}; another one: --maintenance-db=NAME",
                    options.maintenance
                ))
            })?
            .client;
        let server = session::identify(&mut client, &settings)?;
        let asked = |error: postgres::Error| {
            Error::new(Exit::Failed, "cannot ask the server what it is")
                .because_all(reasons(&error))
                .because("nothing was touched")
        };
        let extension = timescale::extension(&mut client).map_err(asked)?;
        let row = client
            .query_typed_one(
                "SELECT rolsuper, rolcreatedb FROM pg_catalog.pg_roles WHERE rolname = current_user",
                &[],
            )
            .map_err(asked)?;
        let (superuser, creates): (bool, bool) = (row.get(0), row.get(1));
        if !superuser && !creates {
            let role = &settings.connection.user;
            return Err(Error::new(Exit::Config, format!("the role {role} may not create databases"))
                .because("each test gets one of its own")
                .because("nothing was touched")
                .hint(format!(
                    "let a superuser run: ALTER ROLE {role} CREATEDB; and NOCREATEDB when the night is over"
                )));
        }
        sweep(&mut client).map_err(asked)?;
        let id = number(&mut client).map_err(asked)?;
        let prefix = if options.cleanup { PREFIX } else { KEPT };
        let folder = std::env::temp_dir().join(format!("{prefix}{id:08x}"));
        let cannot = |error: std::io::Error| {
            Error::new(Exit::Config, format!("cannot make the folder {}", folder.display()))
                .because(error)
                .because("nothing was touched")
        };
        // Backups come to lie in it.
        DirBuilder::new().mode(0o700).create(&folder).map_err(cannot)?;
        let held = File::create(folder.join("held")).map_err(cannot)?;
        hold(&held).map_err(cannot)?;
        let home = settings.home.clone();
        Ok(Self {
            migrations: ms5_common::config::absolute(&settings.migrations_dir),
            field: ms5_common::config::absolute(
                &options.field_dir.as_ref().map_or_else(|| home.join("tests/fixtures/field"), PathBuf::from),
            ),
            settings,
            variables,
            tools,
            bin: of("MS5_SANDBOX_BIN"),
            restorer: named.or(ours),
            server,
            extension,
            superuser,
            id,
            maintenance: Mutex::new(client),
            templates: Templates::default(),
            number: AtomicUsize::new(0),
            _folder: held,
            folder,
            cleanup: options.cleanup,
            timeout: options.timeout,
        })
    }

    /// The environment's name.
    pub(crate) fn environment(&self) -> &'static str {
        self.settings.environment.defaults().name
    }

    /// Settings that lead to a database of this server.
    pub(crate) fn settings(&self, database: &str) -> Settings {
        let mut settings = self.settings.clone();
        settings.connection.dbname = database.to_owned();
        settings
    }

    /// A session in a database of this server, in which nothing takes longer than a test may.
    pub(crate) fn session(&self, database: &str) -> std::result::Result<Client, Stop> {
        let mut tuning = Tuning::default();
        tuning.demand("statement_timeout", &format!("{}s", self.timeout.as_secs()));
        Ok(session::open(&self.settings(database), TOOL, "test", &tuning)?.client)
    }

    /// The flags for who restores, and from which database; where there are `hypertables`, only a superuser can.
    pub(crate) fn restore_flags(&self, hypertables: bool) -> std::result::Result<String, Stop> {
        let maintenance = self.settings.connection.dbname.as_str();
        let flags = if maintenance == "postgres" {
            String::new()
        } else {
            format!("--maintenance-db={maintenance} ")
        };
        match &self.restorer {
            Some(restorer) if hypertables => Ok(format!("{flags}--restore-user={}", restorer.role)),
            None if hypertables && !self.superuser => Err(Stop::Skipped(format!(
                "only a superuser can restore hypertables, and {} is none: give --restore-user=ROLE, its password in MS5_RESTORE_PASSWORD",
                self.settings.connection.user
            ))),
            _ => Ok(flags),
        }
    }

    /// What no output may show, as it is and as it stands in JSON.
    pub(crate) fn secrets(&self) -> Vec<String> {
        let restorer = self.restorer.as_ref().and_then(|restorer| restorer.password.as_ref());
        let all = [self.settings.connection.password.as_ref(), restorer].into_iter().flatten();
        let texts = all.filter_map(|secret| std::str::from_utf8(secret.expose()).ok());
        // A short one stands in any text by chance.
        let texts = texts.filter(|secret| secret.len() >= 6);
        texts
            .flat_map(|secret| {
                let quoted = serde_json::Value::from(secret).to_string();
                [secret.to_owned(), quoted.trim_matches('"').to_owned()]
            })
            .collect()
    }

    /// New files for what a command prints.
    pub(crate) fn output(&self) -> [PathBuf; 2] {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        ["out", "err"].map(|end| self.folder.join(format!("{number}.{end}")))
    }

    /// The environment that the tools of a test are started with.
    pub(crate) fn variables(&self, database: &str, home: &Path) -> BTreeMap<String, String> {
        let connection = &self.settings.connection;
        let path = self.variables.get("PATH").unwrap_or("/usr/bin:/bin");
        let mut path = format!("{}:{path}", self.tools.display());
        if let Some(bin) = &self.bin {
            path = format!("{bin}:{path}");
        }
        let mut all: BTreeMap<String, String> = PASSED_ON
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), self.variables.get(name)?.to_owned())))
            .collect();
        let mut set = |name: &str, value: String| all.insert(name.to_owned(), value);
        set("PATH", path);
        set("DB_HOST", connection.host.clone());
        set("DB_PORT", connection.port.to_string());
        set("DB_NAME", database.to_owned());
        set("DB_USER", connection.user.clone());
        set("MS5_HOME", home.display().to_string());
        set("MS5_MIGRATIONS_DIR", self.migrations.display().to_string());
        set("MS5_BIN_DIR", self.tools.display().to_string());
        let text = |secret: &Secret| String::from_utf8_lossy(secret.expose()).into_owned();
        if let Some(password) = &connection.password {
            set(self.settings.environment.defaults().password_variable, text(password));
        }
        if let Some(password) = self.restorer.as_ref().and_then(|restorer| restorer.password.as_ref()) {
            set("MS5_RESTORE_PASSWORD", text(password));
        }
        all
    }

    /// A new folder.
    pub(crate) fn home(&self) -> std::result::Result<PathBuf, Stop> {
        let home = self.folder.join(format!("home{}", self.number.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir_all(&home)?;
        Ok(home)
    }

    /// A new name for a database.
    pub(crate) fn name(&self) -> String {
        let prefix = if self.cleanup { PREFIX } else { KEPT };
        format!("{prefix}{:08x}_{}", self.id, self.number.fetch_add(1, Ordering::Relaxed))
    }

    /// A new database that begins as the test wants it.
    pub(crate) fn database(&self, start: Start) -> std::result::Result<Option<String>, Stop> {
        if start == Start::Nothing {
            return Ok(None);
        }
        self.templates.copy(self, start).map(Some)
    }

    /// Makes a database.
    fn create(&self, name: &str, template: &str) -> std::result::Result<(), postgres::Error> {
        self.maintenance().batch_execute(&format!("CREATE DATABASE {name} TEMPLATE {template}"))
    }

    fn maintenance(&self) -> MutexGuard<'_, Client> {
        self.maintenance.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes what a test has made, or says how that is done.
    pub(crate) fn give_back(&self, database: Option<&str>, home: &Path) -> Vec<String> {
        if !self.cleanup {
            return database.into_iter().map(drop_sql).chain([format!("rm -r {}", home.display())]).collect();
        }
        if let Some(database) = database {
            // What a restore has kept beside it bears its name too.
            let query = "SELECT datname::text FROM pg_catalog.pg_database WHERE datname = $1 OR pg_catalog.starts_with(datname, $1 || '_')";
            let mut client = self.maintenance();
            let names: Vec<String> = client
                .query(query, &[&database])
                .map(|rows| rows.iter().map(|row| row.get(0)).collect())
                .unwrap_or_default();
            drop_all(&mut client, &names);
        }
        let _ = fs::remove_dir_all(home);
        Vec::new()
    }

    /// Removes what all tests had in common; gives how to do that by hand, where that is wanted instead.
    pub(crate) fn end(self) -> Vec<String> {
        let templates = self.templates.names();
        if !self.cleanup {
            return templates
                .iter()
                .map(|name| drop_sql(name))
                .chain([format!("rm -r {}", self.folder.display())])
                .collect();
        }
        let mut client = self.maintenance.into_inner().unwrap_or_else(PoisonError::into_inner);
        let of_this = names(&mut client, Some(self.id)).unwrap_or_default();
        drop_all(&mut client, &of_this);
        let _ = fs::remove_dir_all(&self.folder);
        Vec::new()
    }
}

/// Holds a file until it is closed, where nobody else does.
fn hold(file: &File) -> std::io::Result<()> {
    Ok(flock(file, FlockOperation::NonBlockingLockExclusive)?)
}

fn drop_sql(name: &str) -> String {
    format!("DROP DATABASE {name} WITH (FORCE);")
}

/// Drops databases with their sessions. The server's own (autovacuum, TimescaleDB's scheduler) cannot be ended by any role, and
/// leave soon.
fn drop_all(client: &mut Client, names: &[String]) {
    for name in names {
        let sql =
            format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", ms5_common::sql::escape_identifier(name));
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = client.batch_execute(&sql) {
            let busy = [&SqlState::OBJECT_IN_USE, &SqlState::INSUFFICIENT_PRIVILEGE]
                .map(Some)
                .contains(&error.code());
            if !busy || Instant::now() >= deadline {
                log::warn!("Cannot drop the database {name}: {}", reasons(&error).join("; "));
                log::warn!("Next: drop it by hand: {}", drop_sql(name));
                break;
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// Databases of runs on a server, of one run or of all: named as we name them, and owned by our role.
fn names(client: &mut Client, id: Option<u32>) -> std::result::Result<Vec<String>, postgres::Error> {
    let number = id.map_or_else(|| "[0-9a-f]{8}".to_owned(), |id| format!("{id:08x}"));
    let pattern = format!("^{PREFIX}{number}_[0-9]+(_before_restore_.*)?$");
    let rows = client.query(
        "SELECT datname::text FROM pg_catalog.pg_database
         WHERE datname ~ $1 AND pg_catalog.pg_get_userbyid(datdba) = current_user ORDER BY 1",
        &[&pattern],
    )?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Takes the lock of a number, where nobody has it. An advisory lock is one database's, and others may be made from another one
/// than ours: so it is looked at all of them.
fn try_lock(client: &mut Client, id: u32) -> std::result::Result<bool, postgres::Error> {
    let row = client.query_one(
        "SELECT NOT EXISTS (SELECT FROM pg_catalog.pg_locks
                            WHERE locktype = 'advisory' AND classid = $1::int4::oid AND objid = $2::int8::oid AND granted)
            AND pg_catalog.pg_try_advisory_lock($1, $3)",
        &[&LOCKS, &i64::from(id), &id.cast_signed()],
    )?;
    Ok(row.get(0))
}

/// A number that nobody has.
fn number(client: &mut Client) -> std::result::Result<u32, postgres::Error> {
    loop {
        let [a, b, c, d, ..] = RandomState::new().build_hasher().finish().to_be_bytes();
        let id = u32::from_be_bytes([a, b, c, d]);
        if try_lock(client, id)? {
            return Ok(id);
        }
    }
}

/// Drops what runs have left that were killed.
fn sweep(client: &mut Client) -> std::result::Result<(), postgres::Error> {
    let mut of_runs: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for name in names(client, None)? {
        let id = name.get(PREFIX.len()..PREFIX.len() + 8).and_then(|id| u32::from_str_radix(id, 16).ok());
        if let Some(id) = id {
            of_runs.entry(id).or_default().push(name);
        }
    }
    for (id, names) in of_runs {
        if try_lock(client, id)? {
            log::warn!("Dropping what a run that was killed has left: {}", names.join(", "));
            drop_all(client, &names);
            client.query("SELECT pg_catalog.pg_advisory_unlock($1, $2)", &[&LOCKS, &id.cast_signed()])?;
        }
    }
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let named = entry.file_name().to_string_lossy().strip_prefix(PREFIX).is_some_and(|id| id.len() == 8);
        let held = entry.path().join("held");
        let ours = |file: fs::Metadata| file.is_file() && file.uid() == getuid().as_raw();
        if named
            && held.symlink_metadata().is_ok_and(ours)
            && File::open(&held).is_ok_and(|held| hold(&held).is_ok())
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// That the server will not make a database.
fn cannot_make(name: &str, error: &postgres::Error) -> Stop {
    refused(&format!("CREATE DATABASE {name}"), error)
}
