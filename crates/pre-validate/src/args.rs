//! The command line of pre-validate.

use std::time::Duration;

use ms5_common::called::called;
use ms5_common::cli::{
    ENVIRONMENT, Flag, HELP, HTML, JOBS, JSON, LOG_DIR, MIGRATIONS_DIR, Parsed, REPORT, RESTORE_USER, Spec,
    VARS, VARS_FILE, VERBOSE, VERSION,
};
use ms5_common::config::Variables;
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::expected;
use ms5_common::machine::{self, GIB};
use ms5_common::sql::TableName;

/// The tool's name, as it stands in records and in pg_stat_activity.
pub(crate) const TOOL: &str = "pre-validate";
/// The tool's version.
pub(crate) const TOOL_VERSION: &str = env!("CARGO_PKG_VERSION");

const QUICK: &str = "--quick";
const STRICT: &str = "--strict";
const FINGERPRINT: &str = "--fingerprint";
const NO_FINGERPRINT: &str = "--no-fingerprint";
const WRITERS: &str = "--wait-for-writers";
const LIST: &str = "--list-checks";
const OUT_OF_ORDER: &str = "--allow-out-of-order";
const MIN_DISK: &str = "--min-disk";
const MIN_MEMORY: &str = "--min-memory";
const MIN_AVAILABLE: &str = "--min-available";
const MAX_ROUND_TRIP: &str = "--max-round-trip";
const MAX_TRANSACTION: &str = "--max-transaction";
const NETWORK_TIMEOUT: &str = "--network-timeout";

/// Flags as the old script had them, and what all tools share.
pub(crate) const SPEC: Spec = Spec {
    tool: TOOL,
    about: "Checks, before a migration, that this machine, the server and the files are ready for it.",
    usage: "[FLAGS]",
    flags: &[
        ENVIRONMENT.default("production"),
        Flag::switch(QUICK, "Leave out the checks that take long; each is named"),
        Flag::switch(STRICT, "A warning is a failure"),
        Flag::value(
            FINGERPRINT,
            "TABLES",
            "Count and hash the rows of these (schema.table,schema.table), for post-validate --against",
        )
        .default("the hypertables to be, of expected.json; none with --quick"),
        Flag::switch(NO_FINGERPRINT, "Count and hash no rows"),
        Flag::value(JOBS, "N", "Sessions that count and hash at once").default("number of cores"),
        Flag::value(WRITERS, "SECONDS", "How long transactions that write to these tables are waited for").default("30"),
        expected::FLAG,
        RESTORE_USER,
        REPORT,
        HTML,
        Flag::value(MIN_DISK, "GB", "Free disk that is wanted (variable MS5_MIN_DISK_GB)").default("10"),
        Flag::value(MIN_MEMORY, "GB", "Memory that is wanted in all (variable MS5_MIN_MEMORY_GB)").default("4"),
        Flag::value(MIN_AVAILABLE, "GB", "Memory that should be available (variable MS5_MIN_AVAILABLE_GB)")
            .default("2"),
        Flag::value(MAX_ROUND_TRIP, "MS", "Longest round trip to a server that is near (variable MS5_MAX_ROUND_TRIP_MS)")
            .default("10"),
        Flag::value(NETWORK_TIMEOUT, "SECONDS", "How long a name and a port may take to answer (variable MS5_NETWORK_TIMEOUT)")
            .default("5"),
        Flag::value(
            MAX_TRANSACTION,
            "SECONDS",
            "How old an open transaction may be (variable MS5_MAX_TRANSACTION)",
        )
        .default("300"),
        Flag::switch(OUT_OF_ORDER, "Accept gaps in the numbers of the files, as the runner's flag does"),
        VARS,
        VARS_FILE,
        Flag::switch(LIST, "Show what is checked, and check nothing"),
        VERBOSE,
        JSON,
        MIGRATIONS_DIR,
        LOG_DIR,
        HELP,
        VERSION,
    ],
    positionals: &[],
    epilog: "Nothing is left in the database, and nobody waits for these checks longer than a second: rows are counted and hashed for as long as
it takes, and no longer once somebody has waited a second for their table, which is a warning. docs/checks.md tells of each. It exits with 1 where a check failed, with --strict also where one warned; with 3 where the password
or the files are at fault, with 4 where the server cannot be reached.

Variables of its limits: MS5_MIN_DISK_GB, MS5_MIN_MEMORY_GB, MS5_MIN_AVAILABLE_GB, MS5_MAX_ROUND_TRIP_MS, MS5_NETWORK_TIMEOUT,
MS5_MAX_TRANSACTION, as the flags.",
};

/// The command line, understood.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) quick: bool,
    pub(crate) strict: bool,
    pub(crate) list: bool,
    pub(crate) out_of_order: bool,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) jobs: usize,
    /// How long writers are waited for before rows are counted.
    pub(crate) writers: Duration,
    /// Who is to restore, if it comes to that.
    pub(crate) restore_user: Option<String>,
    pub(crate) limits: Limits,
}

/// Whose rows are counted and hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fingerprint {
    /// Nobody's; with the flag that says so.
    None(&'static str),
    /// Those of the tables that are to become hypertables.
    Hypertables,
    /// These tables'.
    Tables(Vec<TableName>),
}

/// What is enough.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of free disk.
    pub(crate) disk: u64,
    /// Bytes of memory in all.
    pub(crate) memory: u64,
    /// Bytes of memory that can be had.
    pub(crate) available: u64,
    pub(crate) round_trip: Duration,
    pub(crate) network: Duration,
    pub(crate) transaction: Duration,
}

impl Options {
    /// Understands a command line that is well formed.
    ///
    /// # Errors
    /// A limit that is no number.
    pub(crate) fn of(arguments: &Parsed, variables: &Variables) -> Result<Self> {
        let limit = |flag: &str, variable: &str, default: u64| {
            if let Some(number) = arguments.number(flag)? {
                return Ok(number);
            }
            match variables.get(variable) {
                None => Ok(default),
                Some(text) => text.trim().parse().map_err(|_| {
                    Error::new(Exit::Config, format!("the variable {variable} is {text:?}"))
                        .hint(format!("it is a whole number; {flag} wins over it"))
                }),
            }
        };
        Ok(Self {
            quick: arguments.has(QUICK),
            strict: arguments.has(STRICT),
            list: arguments.has(LIST),
            out_of_order: arguments.has(OUT_OF_ORDER),
            fingerprint: fingerprint(arguments)?,
            jobs: arguments.jobs()?.unwrap_or_else(machine::processors),
            writers: Duration::from_secs(arguments.number(WRITERS)?.unwrap_or(30)),
            restore_user: arguments.value(RESTORE_USER.name).map(str::to_owned),
            limits: Limits {
                disk: limit(MIN_DISK, "MS5_MIN_DISK_GB", 10)?.saturating_mul(GIB),
                memory: limit(MIN_MEMORY, "MS5_MIN_MEMORY_GB", 4)?.saturating_mul(GIB),
                available: limit(MIN_AVAILABLE, "MS5_MIN_AVAILABLE_GB", 2)?.saturating_mul(GIB),
                round_trip: Duration::from_millis(limit(MAX_ROUND_TRIP, "MS5_MAX_ROUND_TRIP_MS", 10)?),
                network: Duration::from_secs(limit(NETWORK_TIMEOUT, "MS5_NETWORK_TIMEOUT", 5)?),
                transaction: Duration::from_secs(limit(MAX_TRANSACTION, "MS5_MAX_TRANSACTION", 300)?),
            },
        })
    }
}

fn usage(message: impl Into<String>) -> Error {
    Error::new(Exit::Usage, message).hint(format!("{} --help lists the flags", called(TOOL)))
}

fn fingerprint(arguments: &Parsed) -> Result<Fingerprint> {
    match (arguments.value(FINGERPRINT), arguments.has(NO_FINGERPRINT)) {
        (Some(_), true) => Err(usage("--fingerprint and --no-fingerprint exclude each other")),
        (None, true) => Ok(Fingerprint::None(NO_FINGERPRINT)),
        (None, false) if arguments.has(QUICK) => Ok(Fingerprint::None(QUICK)),
        (None, false) => Ok(Fingerprint::Hypertables),
        (Some(list), false) => {
            let name = |text: &str| {
                TableName::parse(text)
                    .ok_or_else(|| usage(format!("--fingerprint names tables as schema.table, not {text:?}")))
            };
            list.split(',').map(name).collect::<Result<_>>().map(Fingerprint::Tables)
        }
    }
}
