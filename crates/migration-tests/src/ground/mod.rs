//! Where tests are made: databases and folders of our own, known by their names, and gone when the run is over.
//!
//! A name holds the number of its run, and the run holds the advisory lock of that number, in a session of its own. So what
//! belongs to a number that nobody on the server holds was left by a run that was killed, and goes. What is to be kept
//! (`--no-cleanup`) has another name.

mod beyond;
pub(crate) mod edition;
mod maintenance;
mod names;
mod sandbox;
mod template;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ms5_common::called;
use ms5_common::config::{Environment, Settings, Variables};
use ms5_common::db::client::Client;
use ms5_common::db::connect::{self, Connected, Secret};
use ms5_common::db::server_error::reasons;
use ms5_common::db::session::{self, Server, Tuning};
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::interrupt::{self, Cancellable};
use ms5_common::timescale::{self, Extension};
use ms5_common::{clock, machine, migrations};
use rustix::fs::{FlockOperation, flock};
use rustix::process::getuid;
use sha2::{Digest, Sha256};

pub(crate) use sandbox::Sandbox;

use self::maintenance::Maintenance;
use self::names::{KEPT, PREFIX, drop_sql};
use self::template::Templates;
use crate::args::{Options, SPEC, TOOL};
use crate::case::Stop;
use crate::suite::Start;

/// What tools get of our own variables, as it is.
const PASSED_ON: [&str; 20] = [
    "HOME",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
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
    "DOCKER_TLS_VERIFY",
    "DOCKER_CERT_PATH",
    "MS5_MIN_DISK_GB",
    "MS5_MIN_MEMORY_GB",
    "MS5_MIN_AVAILABLE_GB",
];
/// Sessions that a test may have beside those of backup-manager, which takes one a processor.
const SESSIONS: usize = 6;
/// A shorter password stands in any text by chance.
const SHORTEST_SECRET: usize = 6;

/// Who restores what holds hypertables.
struct Restorer {
    role: String,
    password: Option<Secret>,
}

/// A session whose statement a signal cancels.
pub(crate) struct Session {
    client: Client,
    _cancellable: Cancellable,
}

impl Session {
    fn of(connected: Connected) -> Self {
        let Connected { client, canceller, .. } = connected;
        Self { client, _cancellable: interrupt::cancellable(&canceller) }
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
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
    maintenance: Maintenance,
    templates: Templates,
    /// How many databases have a name.
    databases: AtomicUsize,
    number: AtomicUsize,
    /// When the run began, as a restore's half-made databases say it.
    since: String,
    secrets: Vec<String>,
    /// Numbers are missing in the folder of the migration files.
    gaps: bool,
    folder: PathBuf,
    /// Held as long as the folder is in use.
    _folder: File,
    cleanup: bool,
    /// The server may be loaded, whatever it is.
    yes: bool,
    /// Tests at once.
    jobs: usize,
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
        let mut client = maintenance::open(&settings, options.timeout).map_err(|error| {
            error.hint(format!(
                "databases are made from {}; another one: --maintenance-db=NAME",
                options.maintenance
            ))
        })?;
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
        if sandbox.is_none() && !options.yes {
            spare_production(&mut client, &settings)?;
        }
        let field = ms5_common::config::absolute(
            &options
                .field_dir
                .as_ref()
                .map_or_else(|| settings.home.join("tests/fixtures/field"), PathBuf::from),
        );
        if sandbox.is_none() && !options.beyond {
            beyond::refuse(&settings.migrations_dir, &template::field_files(&field))?;
        }
        sweep(&mut client).map_err(asked)?;
        let id = maintenance::number(&mut client).map_err(asked)?;
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
        let restorer = named.or(ours);
        let maintenance = Maintenance::new(settings.clone(), options.timeout, id, client);
        let read = |gaps| migrations::read_folder(&settings.migrations_dir, gaps, &[]).is_ok();
        Ok(Self {
            secrets: secrets(&settings, restorer.as_ref(), prefix),
            gaps: !read(false) && read(true),
            since: stamp(),
            migrations: ms5_common::config::absolute(&settings.migrations_dir),
            field,
            yes: options.yes,
            jobs: options.jobs,
            settings,
            variables,
            tools,
            bin: of("MS5_SANDBOX_BIN"),
            restorer,
            server,
            extension,
            superuser,
            id,
            maintenance,
            templates: Templates::default(),
            databases: AtomicUsize::new(0),
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
    pub(crate) fn session(&self, database: &str) -> std::result::Result<Session, Stop> {
        let mut tuning = Tuning::default();
        tuning.demand("statement_timeout", &format!("{}s", self.timeout.as_secs()));
        Ok(Session::of(session::open(&self.settings(database), TOOL, "test", &tuning)?))
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

    /// What no output and no file may show, as it is and as it stands in JSON.
    pub(crate) fn secrets(&self) -> &[String] {
        &self.secrets
    }

    /// The password of our role, wherever it stands.
    pub(crate) fn password(&self) -> Option<String> {
        let found = connect::find_password(&self.settings.connection).password?;
        Some(String::from_utf8_lossy(found.expose()).into_owned())
    }

    /// What tells the migration files and the SQL of the field from others.
    pub(crate) fn digest(&self) -> String {
        let mut hash = Sha256::new();
        let files = migrations::read_folder(&self.migrations, true, &[]).unwrap_or_default();
        hash.update(migrations::digest(&files));
        for file in template::field_files(&self.field) {
            // One that cannot be read is named by the test that wants it.
            hash.update(fs::read(&file).unwrap_or_default());
        }
        hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether there is SQL of a database in the field.
    pub(crate) fn has_field(&self) -> bool {
        !template::field_files(&self.field).is_empty()
    }

    /// Why a test that needs rows of the field cannot be made.
    pub(crate) fn no_field(&self) -> String {
        format!(
            "there is no SQL of a database in the field in {}: give --field-dir=DIR with schema.sql, reference.sql, data.sql",
            self.field.display()
        )
    }

    /// The flag that a folder with missing numbers asks for.
    pub(crate) fn gaps_flag(&self) -> &'static str {
        if self.gaps { "--allow-out-of-order" } else { "" }
    }

    /// How many tests the server has room for at once.
    ///
    /// # Errors
    /// That it cannot be asked.
    pub(crate) fn lanes(&self, wanted: usize) -> std::result::Result<usize, Stop> {
        let free = self.maintenance.with("the free connections of the server", |client| {
            client.query_typed_one(
                "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
                      - coalesce(current_setting('reserved_connections', true)::int, 0)
                      - (SELECT count(*)::int FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend')",
                &[],
            )
        })?;
        let free = usize::try_from(free.get::<_, i32>(0)).unwrap_or_default();
        let room = (free / (SESSIONS + machine::processors())).max(1);
        if room < wanted {
            log::warn!("The server has {free} connections left: {room} tests at once instead of {wanted}");
        }
        Ok(room.min(wanted))
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
        // One of the password file is found there by the tools too.
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
        names::database(self.prefix(), self.id, self.databases.fetch_add(1, Ordering::Relaxed))
    }

    fn prefix(&self) -> &'static str {
        if self.cleanup { PREFIX } else { KEPT }
    }

    /// A new database that begins as the test wants it.
    pub(crate) fn database(&self, start: Start) -> std::result::Result<Option<String>, Stop> {
        if start == Start::Nothing {
            return Ok(None);
        }
        self.templates.copy(self, start).map(Some)
    }

    /// Makes what others are copied from, before they are wanted.
    pub(crate) fn prepare(&self, start: Start) {
        // Who wants it hears why there is none.
        let _ = self.templates.prepare(self, start);
    }

    /// Removes what a test has made; says how that is done, where it is not wanted or cannot be done. By a session of its own: dropping
    /// takes its time.
    pub(crate) fn give_back(&self, database: Option<&str>, home: &Path) -> Vec<String> {
        if !self.cleanup {
            return database.into_iter().map(drop_sql).chain([format!("rm -r {}", quoted(home))]).collect();
        }
        let left = database.map(|database| self.discard(database)).unwrap_or_default();
        let _ = fs::remove_dir_all(home);
        left.iter().map(|name| drop_sql(name)).collect()
    }

    /// Drops a database, and what tools have made beside it; gives those that stay.
    fn discard(&self, database: &str) -> Vec<String> {
        let why = match self.maintenance.another() {
            Ok(mut client) => match names::beside(&mut client, database) {
                Ok(all) => return names::drop_all(&mut client, &all),
                Err(error) => reasons(&error),
            },
            Err(error) => error.lines(),
        };
        names::stays(database, &why.join("; "));
        vec![database.to_owned()]
    }

    /// Whether what tests make is removed.
    pub(crate) const fn cleans_up(&self) -> bool {
        self.cleanup
    }

    /// Removes all that is left of the run, told by its names; gives how to do that by hand, where that is wanted instead or could not
    /// be done.
    pub(crate) fn end(self) -> Vec<String> {
        let (prefix, run) = (self.prefix(), self.id);
        let Self { maintenance, folder, since, cleanup, .. } = self;
        let mut all = Vec::new();
        match maintenance.last() {
            Ok(mut client) => {
                for found in [names::of_run(&mut client, prefix, run), names::halves(&mut client, &since)] {
                    match found {
                        Ok(mut found) => all.append(&mut found),
                        Err(error) => maintenance::unseen(&format!("{prefix}{run:08x}_*"), &error),
                    }
                }
                if cleanup {
                    all = names::drop_all(&mut client, &all);
                }
            }
            Err(why) => log::warn!(
                "The server cannot be asked what is left of {prefix}{run:08x}_*: {why}; the next run sweeps it"
            ),
        }
        let mut left: Vec<String> = all.iter().map(|name| drop_sql(name)).collect();
        if !cleanup {
            left.push(format!("rm -r {}", quoted(&folder)));
        } else if let Err(error) = fs::remove_dir_all(&folder) {
            log::warn!("Cannot remove {}: {error}", folder.display());
        }
        left
    }
}

/// A path as sh takes it.
pub(crate) fn quoted(path: &Path) -> String {
    called::quoted(&path.display().to_string())
}

/// Now, as a restore's half-made databases say it.
fn stamp() -> String {
    let time = clock::record_time();
    let of = |part: &str| part.chars().filter(char::is_ascii_digit).collect::<String>();
    let (day, time) = time.split_once('T').unwrap_or((&time, ""));
    format!("{}_{}", of(day), of(time.split('.').next().unwrap_or_default()))
}

/// Every password that a tool could print: given, or found in the password file. One that stands in words that are printed anyway
/// cannot be told from them.
fn secrets(settings: &Settings, restorer: Option<&Restorer>, prefix: &str) -> Vec<String> {
    let mut all: BTreeMap<Vec<u8>, String> = BTreeMap::new();
    let mut find = |connection: &connect::Settings| {
        if let Some(secret) = connect::find_password(connection).password {
            all.entry(secret.expose().to_vec()).or_insert_with(|| connection.user.clone());
        }
    };
    // The password file may tell databases apart.
    for database in [settings.connection.dbname.clone(), names::database(prefix, 0, 0)] {
        let mut connection = settings.connection.clone();
        connection.dbname = database;
        find(&connection);
        if let Some(restorer) = restorer {
            connection.user.clone_from(&restorer.role);
            if restorer.password.is_some() {
                connection.password.clone_from(&restorer.password);
            }
            find(&connection);
        }
    }
    let common = common_words(settings, restorer, prefix);
    let texts = all.into_iter().filter_map(|(secret, role)| Some((String::from_utf8(secret).ok()?, role)));
    let mut texts: Vec<String> = texts
        .filter(|(secret, role)| {
            let why = if secret.len() < SHORTEST_SECRET {
                "is so short that it stands in any text by chance"
            } else if common.iter().any(|word| word.contains(secret.as_str())) {
                "stands in a name that is printed anyway"
            } else {
                return true;
            };
            log::warn!("The password of the role {role} {why}: it is neither hidden nor looked for in what the tools print and write");
            log::warn!("Next: give the role another password: \\password {role} in psql");
            false
        })
        .flat_map(|(secret, _)| {
            let quoted = serde_json::Value::from(secret.as_str()).to_string();
            [secret, quoted.trim_matches('"').to_owned()]
        })
        .collect();
    // One may be the beginning of another.
    texts.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    texts.dedup();
    texts
}

/// What tools print and write of a run: names, folders, flags.
fn common_words(settings: &Settings, restorer: Option<&Restorer>, prefix: &str) -> Vec<String> {
    let connection = &settings.connection;
    let production = Environment::ALL.map(Environment::defaults);
    let named = production.iter().flat_map(|defaults| [defaults.name, defaults.database, defaults.user]);
    let ours = [
        "migration-runner",
        "backup-manager",
        "pre-validate",
        "post-validate",
        TOOL,
        prefix,
        "factory_telemetry",
    ];
    let flags = SPEC.flags.iter().map(|flag| flag.name);
    let mut all: Vec<String> = named.chain(ours).chain(flags).map(str::to_owned).collect();
    all.extend([connection.user.clone(), connection.host.clone(), connection.dbname.clone()]);
    all.extend(restorer.map(|restorer| restorer.role.clone()));
    all.extend([&settings.home, &settings.migrations_dir].map(|folder| folder.display().to_string()));
    all
}

/// Refuses a server that production's database is on, whatever it is called by.
fn spare_production(client: &mut Client, settings: &Settings) -> Result<()> {
    let production = Environment::Production.defaults().database;
    let there = client
        .query_opt("SELECT FROM pg_catalog.pg_database WHERE datname = $1", &[&production])
        .map_err(|error| {
            Error::new(Exit::Failed, "cannot ask the server for its databases")
                .because_all(reasons(&error))
                .because("nothing was touched")
        })?;
    if there.is_none() {
        return Ok(());
    }
    let connection = &settings.connection;
    Err(Error::new(
        Exit::Usage,
        format!("{}:{} has a database {production}, as production has", connection.host, connection.port),
    )
    .because("tests load the server that they are made on")
    .because("nothing was touched")
    .hint("test another server first")
    .hint("if this one may be loaded: migration-tests --yes"))
}

/// Holds a file until it is closed, where nobody else does.
fn hold(file: &File) -> std::io::Result<()> {
    Ok(flock(file, FlockOperation::NonBlockingLockExclusive)?)
}

/// Drops what runs have left that were killed.
fn sweep(client: &mut Client) -> std::result::Result<(), postgres::Error> {
    for run in names::runs(client)? {
        if maintenance::try_lock(client, run)? {
            let names = names::of_run(client, PREFIX, run)?;
            log::warn!("Dropping what a run that was killed has left: {}", names.join(", "));
            names::drop_all(client, &names);
            maintenance::unlock(client, run)?;
        }
    }
    // Their restores were killed with them, or later.
    let halves = names::halves(client, "")?;
    if !halves.is_empty() {
        log::warn!("Dropping what a restore that was killed has left: {}", halves.join(", "));
        names::drop_all(client, &halves);
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
