//! The command line of migration-runner.

use std::time::Duration;

use ms5_common::cli::{
    ENVIRONMENT, Flag, HELP, JSON, LOG_DIR, MIGRATIONS_DIR, Parsed, Spec, VERBOSE, VERSION,
};
use ms5_common::error::Result;

/// The tool's name, as it stands in records and in pg_stat_activity.
pub(crate) const TOOL: &str = "migration-runner";
/// The tool's version, as it stands in records and in the ledger.
pub(crate) const TOOL_VERSION: &str = env!("CARGO_PKG_VERSION");

const DRY_RUN: &str = "--dry-run";
const FORCE: &str = "--force";
const STATUS: &str = "--status";
const OUT_OF_ORDER: &str = "--allow-out-of-order";
const GATE: &str = "--gate";
const GATE_MAX_AGE: &str = "--gate-max-age";
const LOCK_WAIT: &str = "--lock-wait";
const SINGLE_SESSION: &str = "--unsafe-single-session";

/// Everything that is accepted.
pub(crate) const SPEC: Spec = Spec {
    tool: TOOL,
    about: "Applies the migrations of a folder in order, each in one transaction with its ledger row.",
    usage: "[FLAGS]",
    flags: &[
        ENVIRONMENT.default("production"),
        Flag::switch(DRY_RUN, "Show what would be executed without making changes"),
        VERBOSE,
        Flag::switch(FORCE, "Execute again what is applied, and go on after a failure (then exit 5)"),
        Flag::switch(
            STATUS,
            "Show what is applied, pending, changed, unverified or failed, and change nothing",
        ),
        Flag::switch(OUT_OF_ORDER, "Accept a missing number, and apply a number below one that is applied"),
        MIGRATIONS_DIR,
        LOG_DIR,
        JSON,
        Flag::value(
            GATE,
            "FILE",
            "Start only if these records of pre-validate (- is stdin) say that all is well",
        ),
        Flag::value(GATE_MAX_AGE, "HOURS", "How old those records may be").default("24"),
        Flag::value(LOCK_WAIT, "SECONDS", "How long to wait while another run holds the lock").default("10"),
        Flag::switch(
            SINGLE_SESSION,
            "For tests on a server with one session only: run without the lock, with a warning",
        ),
        HELP,
        VERSION,
    ],
    positionals: &[],
    epilog: "\
Variables (they name the database; PGHOST, PGPORT, PGUSER, PGDATABASE and PGSERVICE are ignored):
  DB_HOST, DB_PORT, DB_NAME, DB_USER   defaults by environment, DB_HOST localhost (a path is a socket folder)
  POSTGRES_PASSWORD_PRODUCTION, _STAGING, _DEV, _TEST   the password; then PGPASSWORD, then the password file
  PGSSLMODE, PGSSLROOTCERT, PGSSLCERT, PGSSLKEY, PGCONNECT_TIMEOUT, PGOPTIONS, PGAPPNAME   as for libpq
  ENVIRONMENT, MS5_HOME, MS5_MIGRATIONS_DIR, MS5_LOG_DIR   as the flags; MS5_HOME holds migrations/ and logs/
  MS5_EXIT=classic   every failure is exit 1, as in the old scripts

Exit codes:
  0 done or nothing to do; 1 a migration failed and is rolled back; 2 wrong usage; 3 wrong configuration or
  input; 4 cannot connect, or another run holds the lock; 5 partly applied (--force went past a failure, or a
  COMMIT's outcome could not be learned); 70 a bug; 129, 130, 143 stopped by a signal",
};

/// The command line, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)]
pub(crate) struct Options {
    pub(crate) dry_run: bool,
    pub(crate) force: bool,
    pub(crate) status: bool,
    pub(crate) out_of_order: bool,
    pub(crate) gate: Option<String>,
    pub(crate) gate_max_age: Duration,
    pub(crate) lock_wait: Duration,
    pub(crate) single_session: bool,
}

impl Options {
    /// Understands a command line that is well formed.
    ///
    /// # Errors
    /// Wrong usage: a number that is none.
    pub(crate) fn of(arguments: &Parsed) -> Result<Self> {
        let hours = arguments.number(GATE_MAX_AGE)?.unwrap_or(24);
        let seconds = arguments.number(LOCK_WAIT)?.unwrap_or(10);
        Ok(Self {
            dry_run: arguments.has(DRY_RUN),
            force: arguments.has(FORCE),
            status: arguments.has(STATUS),
            out_of_order: arguments.has(OUT_OF_ORDER),
            gate: arguments.value(GATE).map(str::to_owned),
            gate_max_age: Duration::from_secs(hours.saturating_mul(3600)),
            lock_wait: Duration::from_secs(seconds),
            single_session: arguments.has(SINGLE_SESSION),
        })
    }
}
