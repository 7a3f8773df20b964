//! The command line of post-validate.

use std::time::Duration;

use ms5_common::called::called;
use ms5_common::cli::{
    BACKUP_DIR, ENVIRONMENT, Flag, HELP, HTML, JOBS, JSON, LOG_DIR, MIGRATIONS_DIR, Parsed, REPORT, Spec,
    VARS, VARS_FILE, VERBOSE, VERSION,
};
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::expected;
use ms5_common::machine;

/// The tool's name, as it stands in records and in pg_stat_activity.
pub(crate) const TOOL: &str = "post-validate";
/// The tool's version, as it stands in records.
pub(crate) const TOOL_VERSION: &str = env!("CARGO_PKG_VERSION");

const PERFORMANCE: &str = "--performance-test";
const NO_INTEGRITY: &str = "--no-data-integrity";
const STRICT: &str = "--strict";
const GATE: &str = "--gate";
const AGAINST: &str = "--against";
const MAX_TRANSACTION: &str = "--max-transaction";
const GATE_MAX_AGE: &str = "--gate-max-age";
const LIST_CHECKS: &str = "--list-checks";

/// Flags as the old script had them, what all tools share, and additions.
pub(crate) const SPEC: Spec = Spec {
    tool: TOOL,
    about: "Checks, after a migration, that everything promised is there and works. Changes nothing.",
    usage: "[FLAGS]",
    flags: &[
        ENVIRONMENT.default("production"),
        Flag::switch(
            PERFORMANCE,
            "Time the queries of expected.json, look at their plans and at what compression saves",
        ),
        Flag::switch(NO_INTEGRITY, "Leave out the rows written, read back and rolled back"),
        VERBOSE,
        Flag::switch(STRICT, "A warning is a failure"),
        expected::FLAG,
        MIGRATIONS_DIR,
        VARS,
        VARS_FILE,
        LOG_DIR,
        BACKUP_DIR,
        JSON,
        REPORT,
        HTML,
        Flag::value(
            GATE,
            "FILE",
            "Start only if these records (- is stdin) say that pre-validate passed and migration-runner ran",
        ),
        Flag::value(
            AGAINST,
            "FILE",
            "The same as --gate, and compare every row with what pre-validate has counted and hashed",
        ),
        Flag::value(JOBS, "N", "With --against: sessions that count and hash at once").default("number of cores"),
        Flag::value(MAX_TRANSACTION, "SECONDS", "How old an open transaction may be").default("3600"),
        Flag::value(GATE_MAX_AGE, "HOURS", "How old those records may be").default("24"),
        Flag::switch(LIST_CHECKS, "Show what is looked at, as a table, and do nothing"),
        HELP,
        VERSION,
    ],
    positionals: &[],
    epilog: "\
It leaves nothing in the database: rows it writes are rolled back at once and take no value of a sequence. It makes
nobody wait: no statement waits for a lock longer than a second; what is busy is a WARN. None takes longer, but for
those of --against, which read objects for as long as that takes, and rows until somebody has waited a second for their
table, which is a WARN; and the queries of --performance-test, which may take ten times their limit, at least 10 s.

It exits with 1 where a check failed, with --strict also where one warned, or where the gate is closed.",
};

/// The command line, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)]
pub(crate) struct Options {
    pub(crate) performance: bool,
    pub(crate) integrity: bool,
    pub(crate) strict: bool,
    pub(crate) gate: Option<String>,
    /// Whether the gate's records are what rows are compared with.
    pub(crate) against: bool,
    pub(crate) jobs: usize,
    pub(crate) gate_max_age: Duration,
    pub(crate) max_transaction: Duration,
    pub(crate) list_checks: bool,
}

impl Options {
    /// Understands a command line that is well formed.
    ///
    /// # Errors
    /// Wrong usage: a number that is none, flags that exclude each other.
    pub(crate) fn of(arguments: &Parsed) -> Result<Self> {
        let text = |flag: &str| arguments.value(flag).map(str::to_owned);
        let hours = arguments.number(GATE_MAX_AGE)?.unwrap_or(24);
        let list_checks = arguments.has(LIST_CHECKS);
        if list_checks && arguments.has(JSON.name) {
            return Err(Error::new(Exit::Usage, "--list-checks and --json exclude each other")
                .hint(format!("{} --help lists the flags", called(TOOL))));
        }
        if arguments.value(GATE).is_some() && arguments.value(AGAINST).is_some() {
            return Err(Error::new(Exit::Usage, "--against is a gate itself: it excludes --gate")
                .hint(format!("{} --help lists the flags", called(TOOL))));
        }
        Ok(Self {
            performance: arguments.has(PERFORMANCE),
            integrity: !arguments.has(NO_INTEGRITY),
            strict: arguments.has(STRICT),
            gate: text(GATE).or_else(|| text(AGAINST)),
            against: arguments.value(AGAINST).is_some(),
            jobs: arguments.jobs()?.unwrap_or_else(machine::processors),
            max_transaction: Duration::from_secs(arguments.number(MAX_TRANSACTION)?.unwrap_or(3600)),
            gate_max_age: Duration::from_secs(hours.saturating_mul(3600)),
            list_checks,
        })
    }
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
        assert!(plain.integrity && !plain.performance && !plain.strict && plain.gate.is_none());
        assert_eq!(plain.gate_max_age, Duration::from_secs(86_400));
        let all = of("--performance-test --no-data-integrity --strict --gate - --gate-max-age=1").unwrap();
        assert!(all.performance && !all.integrity && all.strict);
        assert_eq!((all.gate.as_deref(), all.gate_max_age), (Some("-"), Duration::from_secs(3600)));
        assert_eq!(of("--list-checks --json").unwrap_err().exit(), Exit::Usage);
    }
}
