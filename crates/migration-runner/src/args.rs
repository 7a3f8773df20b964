//! The command line of migration-runner.

use std::time::Duration;

use ms5_common::called::called;
use ms5_common::cli::{
    BACKUP_DIR, ENVIRONMENT, Flag, HELP, HTML, JOBS, JSON, LOG_DIR, MIGRATIONS_DIR, Parsed, REPORT,
    RESTORE_USER, Spec, VARS, VARS_FILE, VERBOSE, VERSION,
};
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::{expected, machine};

use crate::rollback_point;

/// The tool's name, as it stands in records and in pg_stat_activity.
pub(crate) const TOOL: &str = "migration-runner";
/// The tool's version, as it stands in records and in the ledger.
pub(crate) const TOOL_VERSION: &str = env!("CARGO_PKG_VERSION");

const DRY_RUN: &str = "--dry-run";
const FORCE: &str = "--force";
const STATUS: &str = "--status";
const OUT_OF_ORDER: &str = "--allow-out-of-order";
const EXIT_CODE: &str = "--exit-code";
const PLAN: &str = "--plan";
const TARGET: &str = "--target";
const PROVE: &str = "--prove";
/// The flag of a run that makes its own way back.
pub(crate) const ROLLBACK_POINT: &str = "--rollback-point";
const REPAIR: &str = "--repair";
const ADOPT: &str = "--adopt";
const PARALLEL: &str = "--parallel";
const LOCK_TIMEOUT: &str = "--lock-timeout";
const LOCK_RETRIES: &str = "--lock-retries";
const STATEMENT_TIMEOUT: &str = "--statement-timeout";
const MAINTENANCE_WORK_MEM: &str = "--maintenance-work-mem";
const GATE: &str = "--gate";
const GATE_MAX_AGE: &str = "--gate-max-age";
const LOCK_WAIT: &str = "--lock-wait";
const SINGLE_SESSION: &str = "--unsafe-single-session";

/// How long a statement waits for a lock where neither the flag nor PGOPTIONS says, in seconds.
pub(crate) const LOCK_TIMEOUT_DEFAULT: f64 = 5.0;
/// How often a file is tried again that did not get a lock.
const LOCK_RETRIES_DEFAULT: u32 = 10;

/// Everything that is accepted.
pub(crate) const SPEC: Spec = Spec {
    tool: TOOL,
    about: "Applies the migrations of a folder in order, each in one transaction with its ledger row where that is possible.",
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
        Flag::switch(EXIT_CODE, "With --status: exit 1 unless every file is applied"),
        Flag::switch(
            PLAN,
            "Show each statement that would run: in or out of a transaction, its strongest lock, what it rewrites",
        ),
        Flag::value(TARGET, "NNN", "Stop after the migration with this number"),
        Flag::switch(
            PROVE,
            "Commit a file that converts tables only if every row is there as it was: counted and hashed under its locks",
        ),
        expected::FLAG,
        Flag::perhaps(
            ROLLBACK_POINT,
            "NAME",
            "First make a rollback point: a full backup, and a script that brings it back (default NAME: migration)",
        ),
        BACKUP_DIR,
        RESTORE_USER,
        Flag::switch(REPAIR, "Accept files that changed since they were applied, after showing what changed"),
        Flag::switch(
            ADOPT,
            "Record files that another tool applied, after applying them to a scratch database and comparing catalogs",
        ),
        VARS,
        VARS_FILE,
        Flag::switch(OUT_OF_ORDER, "Accept a missing number, and apply a number below one that is applied"),
        Flag::switch(PARALLEL, "Run files side by side that declare themselves independent of each other"),
        Flag::value(JOBS, "N", "With --parallel: the most sessions at once").default("number of cores"),
        MIGRATIONS_DIR,
        LOG_DIR,
        JSON,
        Flag::value(
            GATE,
            "FILE",
            "Start only if these records of pre-validate (- is stdin) say that all is well",
        ),
        Flag::value(GATE_MAX_AGE, "HOURS", "How old those records may be").default("24"),
        REPORT,
        HTML,
        Flag::value(LOCK_WAIT, "SECONDS", "How long to wait while another run holds the lock").default("10"),
        Flag::value(
            LOCK_TIMEOUT,
            "SECONDS",
            "How long a statement waits for a lock before its file is rolled back and tried again; 0: as long as it takes",
        )
        .default("5"),
        Flag::value(LOCK_RETRIES, "N", "How often a file is tried again that did not get a lock").default("10"),
        Flag::value(STATEMENT_TIMEOUT, "SECONDS", "How long a statement may take; 0: as long as it takes")
            .default("0"),
        Flag::value(MAINTENANCE_WORK_MEM, "SIZE", "Memory for building indexes, such as 1GB")
            .default("the server's"),
        Flag::switch(
            SINGLE_SESSION,
            "For tests on a server with one session only: run without the lock, with a warning",
        ),
        HELP,
        VERSION,
    ],
    positionals: &[],
    epilog: "\
Where a run without --rollback-point fails, the newest full backup that was taken since the migration before is looked for, and
rollback/migration_failure_TIME/rollback.sh made for it.
It exits with 1 where a migration failed and is rolled back; with 5 where --force went past a failure, a file that runs statement by
statement stopped midway, or a COMMIT's outcome could not be learned.",
};

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Apply what is to be applied.
    Apply,
    /// `--dry-run`.
    DryRun,
    /// `--status`.
    Status,
    /// `--plan`.
    Plan,
    /// `--repair`.
    Repair,
    /// `--adopt`.
    Adopt,
}

impl Mode {
    /// Whether the database stays as it is, the ledger included.
    pub(crate) const fn only_looks(self) -> bool {
        matches!(self, Self::DryRun | Self::Status | Self::Plan)
    }
}

/// The command line, understood.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::struct_excessive_bools)]
pub(crate) struct Options {
    pub(crate) mode: Mode,
    pub(crate) force: bool,
    pub(crate) prove: bool,
    /// The name of the point to make first.
    pub(crate) rollback_point: Option<String>,
    pub(crate) exit_code: bool,
    pub(crate) out_of_order: bool,
    pub(crate) target: Option<u64>,
    /// NAME=VALUE as given.
    /// The most files at once.
    pub(crate) jobs: usize,
    pub(crate) gate: Option<String>,
    pub(crate) gate_max_age: Duration,
    pub(crate) lock_wait: Duration,
    /// Seconds; None where it was not given.
    pub(crate) lock_timeout: Option<f64>,
    pub(crate) lock_retries: u32,
    /// Seconds; None where it was not given.
    pub(crate) statement_timeout: Option<f64>,
    pub(crate) maintenance_work_mem: Option<String>,
    pub(crate) single_session: bool,
}

impl Options {
    /// Understands a command line that is well formed.
    ///
    /// # Errors
    /// Wrong usage: a number that is none, flags that exclude each other.
    pub(crate) fn of(arguments: &Parsed) -> Result<Self> {
        let hours = arguments.number(GATE_MAX_AGE)?.unwrap_or(24);
        let seconds = arguments.number(LOCK_WAIT)?.unwrap_or(10);
        let mode = mode(arguments)?;
        if arguments.has(EXIT_CODE) && mode != Mode::Status {
            return Err(usage("--exit-code goes with --status only"));
        }
        if arguments.has(PROVE) && matches!(mode, Mode::Status | Mode::Repair | Mode::Adopt) {
            return Err(usage("--prove goes with a run: --status, --repair and --adopt convert nothing"));
        }
        if arguments.value(expected::FLAG.name).is_some() && !arguments.has(PROVE) {
            return Err(usage("--expected goes with --prove only"));
        }
        let rollback_point = arguments
            .has(ROLLBACK_POINT)
            .then(|| arguments.value(ROLLBACK_POINT).unwrap_or(rollback_point::NAME).to_owned());
        if rollback_point.is_some() && !matches!(mode, Mode::Apply | Mode::DryRun) {
            return Err(usage(format!("{ROLLBACK_POINT} goes with a run: nothing else applies a file")));
        }
        let of_way_back =
            [BACKUP_DIR.name, RESTORE_USER.name].into_iter().find(|flag| arguments.value(flag).is_some());
        if let Some(flag) = of_way_back.filter(|_| !matches!(mode, Mode::Apply | Mode::DryRun)) {
            return Err(usage(format!("{flag} goes with a run: nothing else needs a way back")));
        }
        Ok(Self {
            mode,
            force: arguments.has(FORCE),
            prove: arguments.has(PROVE),
            rollback_point,
            exit_code: arguments.has(EXIT_CODE),
            out_of_order: arguments.has(OUT_OF_ORDER),
            target: arguments.number(TARGET)?,
            jobs: jobs(arguments)?,
            gate: arguments.value(GATE).map(str::to_owned),
            gate_max_age: Duration::from_secs(hours.saturating_mul(3600)),
            lock_wait: Duration::from_secs(seconds),
            lock_timeout: arguments.seconds(LOCK_TIMEOUT)?,
            lock_retries: arguments
                .number(LOCK_RETRIES)?
                .map_or(LOCK_RETRIES_DEFAULT, |number| u32::try_from(number).unwrap_or(u32::MAX)),
            statement_timeout: arguments.seconds(STATEMENT_TIMEOUT)?,
            maintenance_work_mem: memory(arguments)?,
            single_session: arguments.has(SINGLE_SESSION),
        })
    }
}

fn usage(message: impl Into<String>) -> Error {
    Error::new(Exit::Usage, message).hint(format!("{} --help lists the flags", called(TOOL)))
}

fn mode(arguments: &Parsed) -> Result<Mode> {
    let modes = [
        (DRY_RUN, Mode::DryRun),
        (STATUS, Mode::Status),
        (PLAN, Mode::Plan),
        (REPAIR, Mode::Repair),
        (ADOPT, Mode::Adopt),
    ];
    let given: Vec<_> = modes.iter().filter(|(flag, _)| arguments.has(flag)).collect();
    match given.as_slice() {
        [] => Ok(Mode::Apply),
        [(_, mode)] => Ok(*mode),
        [(one, _), (other, _), ..] => Err(usage(format!("{one} and {other} exclude each other"))),
    }
}

fn jobs(arguments: &Parsed) -> Result<usize> {
    match (arguments.jobs()?, arguments.has(PARALLEL)) {
        (number, true) => Ok(number.unwrap_or_else(machine::processors)),
        (None, false) => Ok(1),
        (Some(_), false) => Err(usage("--jobs goes with --parallel only")),
    }
}

/// A size as the server writes it; the server itself decides whether it is too small or too large.
fn memory(arguments: &Parsed) -> Result<Option<String>> {
    let Some(text) = arguments.value(MAINTENANCE_WORK_MEM) else { return Ok(None) };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() || !["", "B", "kB", "MB", "GB", "TB"].contains(&unit) {
        return Err(Error::new(
            Exit::Usage,
            format!("{MAINTENANCE_WORK_MEM} takes a size with its unit, not {text:?}"),
        )
        .hint(format!("give it as {MAINTENANCE_WORK_MEM}=1GB (B, kB, MB, GB, TB)")));
    }
    Ok(Some(text.to_owned()))
}
