//! The command line of migration-tests.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ms5_common::cli::{
    ENVIRONMENT, Flag, HELP, HTML, JOBS, JSON, LOG_DIR, MAINTENANCE_DB, MIGRATIONS_DIR, Parsed, REPORT,
    RESTORE_USER, Spec, VERBOSE, VERSION,
};
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::machine;

/// The binary's name.
pub(crate) const TOOL: &str = "migration-tests";

const NO_CLEANUP: &str = "--no-cleanup";
const PARALLEL: &str = "--parallel";
const FILTER: &str = "--filter";
const LIST: &str = "--list";
const STRICT: &str = "--strict";
const TIMEOUT: &str = "--timeout";
const FIELD_DIR: &str = "--field-dir";
const YES: &str = "--yes";
const BEYOND: &str = "--beyond-database";
/// What PostgreSQL takes for statement_timeout, in whole seconds.
const LONGEST: u64 = 2_147_483;
/// The flag that names a file for JUnit's XML.
pub(crate) const JUNIT: &str = "--junit";

/// Flags as the old script had them, and what all tools share.
pub(crate) const SPEC: Spec = Spec {
    tool: TOOL,
    about: "Proves an installation (these binaries, this server, these files) before the night of the migration.",
    usage: "[FLAGS]",
    flags: &[
        ENVIRONMENT.default("test"),
        Flag::value(FILTER, "WORDS", "Only tests whose name holds one of these, separated by commas"),
        Flag::switch(LIST, "Show the tests, and run none"),
        Flag::switch(NO_CLEANUP, "Leave what the tests made, and say how to remove all of it"),
        Flag::switch(PARALLEL, "Run tests side by side"),
        Flag::value(JOBS, "N", "With --parallel: tests at once, as far as the server has connections").default("twice the number of cores"),
        Flag::value(TIMEOUT, "SECONDS", "How long a test may take").default("300"),
        Flag::switch(STRICT, "A warning or a test that could not be made is a failure"),
        Flag::switch(YES, "Really run under --environment=production, or on a server that has production's database"),
        Flag::switch(BEYOND, "Run files with statements that reach beyond a database: roles, settings of the server, other databases"),
        RESTORE_USER,
        MAINTENANCE_DB,
        Flag::value(FIELD_DIR, "DIR", "schema.sql, reference.sql and data.sql of the database in the field")
            .default("MS5_HOME/tests/fixtures/field"),
        Flag::value(JUNIT, "FILE", "Write the results as JUnit's XML too"),
        REPORT,
        HTML.default("MS5_HOME/logs/tests/test_report_STAMP.html"),
        VERBOSE,
        JSON,
        MIGRATIONS_DIR,
        LOG_DIR,
        HELP,
        VERSION,
    ],
    positionals: &[],
    epilog: "\
Where no server is named (none of DB_HOST, DB_PORT, DB_NAME, DB_USER and the password's variable is set, environment test)
it starts a private one by scripts/sandbox.sh and removes it at the end. On a server that is named it makes databases of its
own, called ms5_suite_ and eight hexadecimal digits, drops them again with what restores and rollbacks have made of them, and
touches nothing else; what a killed run has left goes with the next one. With --no-cleanup they are called ms5_kept_... and stay.

Roles, tablespaces, settings of the server and other databases are everybody's: migration files, or SQL of the field, with a statement
that reaches for them, or with \\connect, are refused by name (exit 3) on a server that is named, unless --beyond-database says that
it may be changed. What a function does when it is called is not seen.

Production is tested with the flag --environment=production and --yes only; a server that has a database called as
production's by default wants --yes too. Without the SQL of the field tests begin with an empty database where they can.

The page logs/tests/test_report_STAMP.html has every test with its command lines and what they printed. Durations and
throughput are compared with the last runs of the same server, kept in logs/tests/measures_ENVIRONMENT.jsonl.

Variables (they name the server; PGHOST, PGPORT, PGUSER, PGDATABASE and PGSERVICE are ignored):
  DB_HOST, DB_PORT, DB_USER   defaults by environment, DB_HOST localhost (a path is a socket folder)
  POSTGRES_PASSWORD_PRODUCTION, _STAGING, _DEV, _TEST   the password; then PGPASSWORD, then the password file
  MS5_RESTORE_PASSWORD        the password of --restore-user
  PGSSLMODE, PGSSLROOTCERT, PGSSLCERT, PGSSLKEY, PGCONNECT_TIMEOUT, PGOPTIONS, PGAPPNAME   as for libpq
  MS5_BIN_DIR                 where the other four tools are, if not beside this one
  MS5_MIN_DISK_GB, MS5_MIN_MEMORY_GB   as for pre-validate, of a machine that is meant to be small
  ENVIRONMENT, MS5_HOME, MS5_MIGRATIONS_DIR, MS5_LOG_DIR   as the flags; MS5_HOME holds migrations/ and logs/
  MS5_EXIT=classic            every failure is exit 1, as in the old scripts

Exit codes:
  0 every test passed (the last line names those that could not be made); 1 a test failed, or none of a category could be
  made (with --strict: or one warned, or could not be made); 2 wrong usage; 3 wrong configuration; 4 cannot connect;
  70 a bug; 129, 130, 143 stopped by a signal, what was made is removed",
};

/// The command line, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)]
pub(crate) struct Options {
    pub(crate) filter: Vec<String>,
    pub(crate) list: bool,
    pub(crate) cleanup: bool,
    pub(crate) strict: bool,
    /// Production may be tested on.
    pub(crate) yes: bool,
    /// Statements that reach beyond their database may run.
    pub(crate) beyond: bool,
    /// Tests at once.
    pub(crate) jobs: usize,
    pub(crate) timeout: Duration,
    pub(crate) restore_user: Option<String>,
    pub(crate) maintenance: String,
    pub(crate) field_dir: Option<String>,
    pub(crate) junit: Option<String>,
}

impl Options {
    /// Understands a command line that is well formed.
    ///
    /// # Errors
    /// Wrong usage: a number that is none, flags that mean nothing together.
    pub(crate) fn of(arguments: &Parsed) -> Result<Self> {
        let text = |flag: &str| arguments.value(flag).map(str::to_owned);
        let jobs = arguments.jobs()?;
        if jobs.is_some() && !arguments.has(PARALLEL) {
            return Err(Error::new(Exit::Usage, "--jobs is for --parallel")
                .hint("give both, or neither: tests then run one after the other"));
        }
        if arguments.has(LIST) && arguments.has(JSON.name) {
            return Err(Error::new(Exit::Usage, "--list and --json exclude each other")
                .hint("migration-tests --help lists the flags"));
        }
        let timeout = arguments.number(TIMEOUT)?.unwrap_or(300);
        if timeout == 0 {
            return Err(Error::new(Exit::Usage, "--timeout=0 would leave no time for a test")
                .hint("give it in seconds, such as --timeout=600"));
        }
        if timeout > LONGEST {
            return Err(Error::new(
                Exit::Usage,
                format!("--timeout={timeout} is longer than PostgreSQL can wait"),
            )
            .hint(format!("give it in seconds, {LONGEST} at most")));
        }
        let words = arguments.value(FILTER).unwrap_or_default().split(',').map(str::trim);
        let filter: Vec<String> = words.filter(|word| !word.is_empty()).map(str::to_owned).collect();
        if filter.is_empty() && arguments.value(FILTER).is_some() {
            return Err(Error::new(Exit::Usage, "--filter names no test")
                .hint("name a part of one, such as --filter=backup; all are made without the flag"));
        }
        one_file_each(arguments)?;
        Ok(Self {
            filter,
            list: arguments.has(LIST),
            cleanup: !arguments.has(NO_CLEANUP),
            strict: arguments.has(STRICT),
            yes: arguments.has(YES),
            beyond: arguments.has(BEYOND),
            jobs: if arguments.has(PARALLEL) { jobs.unwrap_or_else(|| machine::processors() * 2) } else { 1 },
            timeout: Duration::from_secs(timeout),
            restore_user: text(RESTORE_USER.name),
            maintenance: text(MAINTENANCE_DB.name).unwrap_or_else(|| "postgres".to_owned()),
            field_dir: text(FIELD_DIR),
            junit: text(JUNIT),
        })
    }

    /// Whether a test is wanted.
    pub(crate) fn wants(&self, id: &str) -> bool {
        self.filter.is_empty() || self.filter.iter().any(|word| id.contains(word.as_str()))
    }
}

/// That no two flags name one file: the last to be written would be all that is in it.
fn one_file_each(arguments: &Parsed) -> Result<()> {
    let named = [JUNIT, REPORT.name, HTML.name];
    let named = named.iter().filter_map(|flag| Some((*flag, identity(Path::new(arguments.value(flag)?)))));
    let mut seen: BTreeMap<PathBuf, &str> = BTreeMap::new();
    for (flag, path) in named {
        if let Some(other) = seen.insert(path.clone(), flag).filter(|_| !is_special(&path)) {
            return Err(Error::new(
                Exit::Usage,
                format!("{other} and {flag} name one file: {}", path.display()),
            )
            .hint("give each a file of its own"));
        }
    }
    Ok(())
}

/// A file by its folder without links and dots; it itself need not be there.
fn identity(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match (fs::canonicalize(path), fs::canonicalize(folder), path.file_name()) {
        (Ok(whole), ..) => whole,
        (_, Ok(folder), Some(name)) => folder.join(name),
        _ => path.to_owned(),
    }
}

/// Whether it is no file: /dev/null takes everything.
fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|there| !there.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Result<Options> {
        let words = line.split_whitespace().map(std::ffi::OsString::from).collect();
        Options::of(&ms5_common::cli::parse(&SPEC, words)?)
    }

    #[test]
    fn defaults_and_flags() {
        let plain = of("").unwrap();
        assert!(plain.cleanup && !plain.list && plain.jobs == 1 && plain.wants("runner.help"));
        let all = of("--parallel --jobs=3 --filter=runner,backup.verify --no-cleanup --timeout 9").unwrap();
        assert_eq!((all.jobs, all.timeout), (3, Duration::from_secs(9)));
        assert!(all.wants("runner.help") && all.wants("backup.verify-deep") && !all.wants("backup.create"));
        for wrong in ["--jobs=2", "--timeout=0", "--timeout=x", "more"] {
            assert_eq!(of(wrong).unwrap_err().exit(), Exit::Usage, "{wrong}");
        }
    }
}
