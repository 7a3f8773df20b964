//! The plant of a row: an installation in a folder of its own, its server, and the state that the row begins with.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use migration_tests::program::{Program, TempDir, bin_dir, project_root};
use migration_tests::server::{Engine, Server};
use postgres::Client;

/// The scripts that stand in for the old ones.
pub(crate) const SHIMS: [&str; 5] = [
    "migration-runner.sh",
    "pre-migration-validation.sh",
    "post-migration-validation.sh",
    "backup-rollback-manager.sh",
    "test-migration-scripts.sh",
];

/// Environment, port, database, role, password's variable: the contract's table, written down a second time on purpose.
const ENVIRONMENTS: [[&str; 5]; 4] = [
    ["production", "5432", "factory_telemetry", "ms5_user_production", "POSTGRES_PASSWORD_PRODUCTION"],
    ["staging", "5433", "factory_telemetry_staging", "ms5_user_staging", "POSTGRES_PASSWORD_STAGING"],
    ["development", "5434", "factory_telemetry_dev", "ms5_user_dev", "POSTGRES_PASSWORD_DEV"],
    ["test", "5435", "factory_telemetry_test", "ms5_user_test", "POSTGRES_PASSWORD_TEST"],
];

/// What is there before the first line of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    /// Nothing listens.
    NoServer,
    /// A server without the database.
    NoDatabase,
    /// A server without TimescaleDB on its disk.
    NoExtension,
    /// An empty database.
    Empty,
    /// The database as it is in the field.
    Field,
    /// The same where the old scripts stopped half-way.
    HalfDone,
    /// The field's after the nine migrations.
    Migrated,
    /// The field's, with files of the old scripts beside it.
    OldPlant,
    /// The field's, with a table locked by another session.
    TableInUse,
    /// The field's, while another run holds the lock.
    AnotherRun,
}

/// A state, and the environment whose database is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Given {
    /// The state.
    pub(crate) state: State,
    /// A row of the table of environments.
    environment: usize,
}

impl Given {
    /// The states by their names on the page.
    pub(crate) const NAMED: [(&str, State); 10] = [
        ("no server", State::NoServer),
        ("no database", State::NoDatabase),
        ("no extension", State::NoExtension),
        ("empty", State::Empty),
        ("field", State::Field),
        ("half done", State::HalfDone),
        ("migrated", State::Migrated),
        ("old plant", State::OldPlant),
        ("table in use", State::TableInUse),
        ("another run", State::AnotherRun),
    ];

    /// A state by its name and, behind it, an environment's.
    pub(crate) fn of(names: &[&str]) -> Option<Self> {
        let (name, environment) = match names {
            [name] => (name, "production"),
            [name, environment] => (name, *environment),
            _ => return None,
        };
        let (_, state) = Self::NAMED.iter().find(|(known, _)| known == name)?;
        let environment = ENVIRONMENTS.iter().position(|known| known[0] == environment)?;
        Some(Self { state: *state, environment })
    }
}

/// A server on which one row after the other runs, each on fresh copies of databases that are made once.
pub(crate) struct Lane {
    server: Server,
    passwords: Vec<String>,
    templates: Mutex<BTreeSet<String>>,
}

impl Lane {
    /// Starts its server.
    pub(crate) fn start(engine: Engine) -> Self {
        let server = Server::start(engine, &[]).expect("a server");
        let password = |[name, _, _, _, variable]: [&str; 5]| {
            let exports = server.sandbox(&["env", &format!("--environment={name}")]).expect("its variables");
            let line = exports.lines().find_map(|line| line.strip_prefix(&format!("export {variable}=")));
            line.expect("a password").trim_matches('\'').to_owned()
        };
        let passwords = ENVIRONMENTS.into_iter().map(password).collect();
        Self { server, passwords, templates: Mutex::default() }
    }

    fn admin(&self) -> Client {
        self.server.superuser("postgres").expect("a session of the superuser")
    }

    /// Removes what the row before has left: databases that are neither the server's nor copied from.
    fn sweep(&self) {
        let mut admin = self.admin();
        let names = admin.query(
            "SELECT quote_ident(datname) FROM pg_database
             WHERE datname NOT IN ('postgres', 'template0', 'template1') AND datname NOT LIKE 'given_%'",
            &[],
        );
        for row in names.expect("the databases") {
            let name: String = row.get(0);
            admin
                .batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)"))
                .expect("a database is dropped");
        }
    }

    fn copy(&self, from: &str, to: &str, owner: &str) {
        let made = format!("CREATE DATABASE {to} TEMPLATE {from} OWNER {owner}");
        self.admin().batch_execute(&made).expect("a copy of a database");
    }

    /// The database of an environment in a state that the server holds.
    fn fill(&self, given: Given) {
        let [environment, _, database, role, _] = ENVIRONMENTS[given.environment];
        let state = match given.state {
            State::NoServer | State::NoDatabase => return,
            State::NoExtension | State::Empty => return self.copy("template0", database, role),
            State::OldPlant | State::TableInUse | State::AnotherRun => State::Field,
            state => state,
        };
        let template = format!("given_{state:?}_{environment}").to_lowercase();
        if self.templates.lock().expect("the templates").insert(template.clone()) {
            self.make(given, state);
            let text = format!(
                "ALTER DATABASE {database} ALLOW_CONNECTIONS false;
                 SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = '{database}';
                 ALTER DATABASE {database} RENAME TO {template}"
            );
            for statement in text.split(';') {
                self.admin().batch_execute(statement).expect("a database to copy from");
            }
        }
        self.copy(&template, database, role);
    }

    fn make(&self, given: Given, state: State) {
        let [_, _, database, role, _] = ENVIRONMENTS[given.environment];
        if state == State::Migrated {
            self.fill(Given { state: State::Field, ..given });
            let plant = Plant::bare(self, given);
            let _ = plant.bash("./migration-runner.sh").expect(0);
            return;
        }
        self.copy("template0", database, role);
        let files: &[&str] = match state {
            State::HalfDone => &["half_done.sql"],
            _ => &["schema.sql", "reference.sql", "data.sql"],
        };
        let plant = Plant::bare(self, given);
        for file in files {
            let file = project_root().join("tests/fixtures/field").join(file);
            let _ = plant.bash(&format!("sql -q -v ON_ERROR_STOP=1 -f {}", file.display())).expect(0);
        }
    }
}

/// An installation, as an operator has it, and the database that it is for.
pub(crate) struct Plant<'a> {
    home: TempDir,
    lane: &'a Lane,
    given: Given,
    /// The variables that an operator has set.
    pub(crate) variables: Vec<(String, String)>,
    /// Sessions of others, which last as long as this.
    others: Vec<Client>,
}

impl<'a> Plant<'a> {
    /// The state that a row begins with.
    pub(crate) fn new(lane: &'a Lane, given: Given) -> Self {
        lane.sweep();
        lane.fill(given);
        let mut plant = Self::bare(lane, given);
        match given.state {
            State::NoServer => fs::remove_dir_all(plant.home().join("run")).expect("the sockets go"),
            State::OldPlant => {
                let script = project_root().join("tests/conformance/old_plant.sh");
                let _ = plant.bash(&format!("bash {}", script.display())).expect(0);
            }
            State::TableInUse => plant.other("BEGIN; LOCK TABLE factory_telemetry.metric_hist"),
            State::AnotherRun => plant.other("SELECT pg_advisory_lock(x'4d53355f4d494752'::bigint)"),
            _ => {}
        }
        plant
    }

    /// The installation alone.
    fn bare(lane: &'a Lane, given: Given) -> Self {
        let home = TempDir::new("conformance").expect("a folder");
        let at = |name: &str| home.path().join(name);
        for folder in ["scripts", "migrations", "target", "run", "bin"] {
            fs::create_dir(at(folder)).expect("a folder");
        }
        let project = project_root();
        // By a process of its own: a program that this one has open for writing could not be started.
        let copied = Program::at(Path::new("/bin/sh"))
            .arg("-c")
            .arg(format!(
                "cp -P {0}/Makefile {1} && cp -P {0}/migrations/* {1}/migrations && cd {0}/scripts && cp -P {2} rollback {1}/scripts",
                project.display(),
                home.path().display(),
                SHIMS.join(" "),
            ))
            .run();
        let _ = copied.expect(0);
        symlink(bin_dir().expect("binaries"), at("target/release")).expect("a link");
        let server = &lane.server;
        let socket = Path::new(server.variable("MS5_SANDBOX_SOCKET"));
        let socket = socket.join(format!(".s.PGSQL.{}", server.port()));
        let mut variables = vec![
            ("HOME", home.path().display().to_string()),
            ("LOGNAME", "operator".to_owned()),
            ("LANG", "C.UTF-8".to_owned()),
            ("PATH", format!("{}:{}:{}", at("bin").display(), server.bin().display(), system_path())),
            ("DB_HOST", at("run").display().to_string()),
            ("SERVER_PORT", server.port().to_string()),
            ("MS5_RESTORE_PASSWORD", server.variable("MS5_SANDBOX_SUPERUSER_PASSWORD").to_owned()),
            // What any machine that runs the tests has.
            ("MS5_MIN_DISK_GB", "1".to_owned()),
            ("MS5_MIN_MEMORY_GB", "1".to_owned()),
            ("MS5_MIN_AVAILABLE_GB", "1".to_owned()),
        ];
        for ([_, port, _, _, variable], password) in ENVIRONMENTS.iter().zip(&lane.passwords) {
            symlink(&socket, at("run").join(format!(".s.PGSQL.{port}"))).expect("a link");
            variables.push((variable, password.clone()));
        }
        let variables: Vec<_> = variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let plant = Self { home, lane, given, variables, others: Vec::new() };
        plant.write_sql();
        plant
    }

    /// `sql`, which the page uses to look into the database.
    fn write_sql(&self) {
        let [_, port, database, role, password] = ENVIRONMENTS[self.given.environment];
        let text = format!(
            "#!/bin/sh\nPGPASSWORD=\"${{{password}}}\" exec psql -X -A -t -h \"$DB_HOST\" -p {port} -U {role} -d {database} \"$@\"\n"
        );
        self.write_program("sql", text);
    }

    /// A stand-in for docker, as the page describes it.
    pub(crate) fn write_docker(&self) {
        let [_, port, _, _, password] = ENVIRONMENTS[self.given.environment];
        let text = format!(
            "#!/bin/sh\ncase $1 in\n\
             exec) shift 2; PGHOST=\"$DB_HOST\" PGPORT={port} PGPASSWORD=\"${{{password}}}\" exec \"$@\" ;;\n\
             ps) echo 'ms5_postgres_production' ;;\n\
             *) echo \"docker $*\" ;;\nesac\n"
        );
        self.write_program("docker", text);
    }

    /// A script on the row's PATH.
    fn write_program(&self, name: &str, text: String) {
        let file = self.home().join("bin").join(name);
        let _ = Program::at(Path::new("/bin/sh"))
            .args(["-c", "cat > \"$0\" && chmod +x \"$0\""])
            .arg(file)
            .input(text)
            .run()
            .expect(0);
    }

    fn other(&mut self, text: &str) {
        let database = ENVIRONMENTS[self.given.environment][2];
        let mut session = self.lane.server.superuser(database).expect("another session");
        session.batch_execute(text).expect("what another session does");
        self.others.push(session);
    }

    /// The folder of the server's programs.
    pub(crate) fn server_bin(&self) -> PathBuf {
        self.lane.server.bin()
    }

    /// The folder that the page calls /opt/ms5.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// A line, typed in scripts/.
    fn bash(&self, line: &str) -> migration_tests::program::Ran {
        crate::ways::Way::Typed.program(self, line).run()
    }

    /// The page's words for this machine's: /opt/ms5 is this folder, localhost is the folder of the server's socket.
    pub(crate) fn to_machine(&self, text: &str) -> String {
        let home = self.home().display().to_string();
        text.replace("/opt/ms5", &home).replace("-h localhost", &format!("-h {home}/run"))
    }

    /// The other way round.
    pub(crate) fn to_page(&self, text: &str) -> String {
        let home = self.home().display().to_string();
        text.replace(&format!("{home}/run"), "localhost").replace(&home, "/opt/ms5")
    }
}

/// A PATH with everything of the system but cargo, wherever that is.
fn system_path() -> &'static str {
    for folder in ["/usr/bin", "/bin"] {
        assert!(
            !Path::new(folder).join("cargo").exists(),
            "cargo is in {folder}: the rows are to run without"
        );
    }
    "/usr/bin:/bin"
}
