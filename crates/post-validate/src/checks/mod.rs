//! The checks: their list, in the order in which they are made, and what makes them. One that fails keeps none from running.

pub(crate) mod connection;
mod functions;
pub(crate) mod health;
mod hypertables;
mod integrity;
mod jobs;
mod ledger;
mod objects;
mod performance;
mod restored;
mod rows;
mod schema;
mod views;

use std::collections::BTreeMap;

use ms5_common::check::{Check, Finding, Report};
use ms5_common::db::client::Client;
use ms5_common::db::ledger::Restored;
use ms5_common::db::server_error::{connection_lost, gave_up, reasons};
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::expected::Expected;
use ms5_common::timescale::hypertables::Hypertable;
use ms5_common::timescale::policies::Job;
use ms5_common::timescale::{Extension, Version};

use crate::catalog;
use crate::run::Input;

/// Every check, in order: what `--list-checks` shows and docs/checks.md holds.
pub(crate) const ALL: &[Check] = &[
    connection::CONNECTION,
    connection::EXTENSION,
    connection::PROMISES,
    restored::ROLLED_BACK,
    ledger::FILES,
    ledger::STRANGERS,
    ledger::ATTEMPTS,
    ledger::PAUSED_JOBS,
    schema::SCHEMAS,
    schema::TABLES,
    schema::COLUMNS,
    schema::FUNCTIONS,
    schema::TRIGGERS,
    schema::REFERENCE_ROWS,
    hypertables::HYPERTABLES,
    hypertables::COMPRESSION,
    hypertables::COMPRESSION_POLICIES,
    views::AGGREGATES,
    jobs::REFRESH_POLICIES,
    jobs::RESULTS,
    schema::INDEXES,
    schema::CONSTRAINTS,
    views::VIEWS,
    views::SELECTED,
    objects::OBJECTS,
    rows::ROWS,
    integrity::INTEGRITY,
    functions::TIMESCALE_FUNCTIONS,
    performance::QUERIES,
    performance::EXCLUSION,
    performance::SAVINGS,
    health::SIZE,
    health::CONNECTIONS,
    health::JOBS_DUE,
    health::DEAD_TUPLES,
    health::TRANSACTIONS,
    health::DISK,
    health::WAL,
];

/// What the checks work with, and what they have learned for those behind them.
pub(crate) struct Bench<'a> {
    pub(crate) client: Client,
    pub(crate) report: Report<'a>,
    pub(crate) input: &'a Input,
    pub(crate) extension: Extension,
    /// The backup that the database was restored from since the last migration.
    restored: Option<Restored>,
    /// What is there of the promised hypertables.
    hypertables: Vec<Hypertable>,
    /// What the intervals of expected.json are, in the unit of the hypertables' own.
    intervals: BTreeMap<String, i64>,
    /// Every background job.
    jobs: Vec<Job>,
    wal: health::Wal,
}

type SqlResult = std::result::Result<(), postgres::Error>;

impl<'a> Bench<'a> {
    pub(crate) fn new(
        client: Client,
        report: Report<'a>,
        input: &'a Input,
        extension: Extension,
        restored: Option<Restored>,
        wal: health::Wal,
    ) -> Self {
        let (hypertables, intervals, jobs) = (Vec::new(), BTreeMap::new(), Vec::new());
        Self { client, report, input, extension, restored, hypertables, intervals, jobs, wal }
    }

    /// What is promised; nothing where there is no file, and then no check asks.
    fn expected(&self) -> &'a Expected {
        static NOTHING: std::sync::LazyLock<Expected> = std::sync::LazyLock::new(Expected::default);
        self.input.expected.as_ref().unwrap_or(&NOTHING)
    }

    fn add(&mut self, check: &Check, finding: Finding) {
        self.report.add(check, finding);
    }

    /// The version of TimescaleDB; the oldest there is where it says none.
    fn version(&self) -> Version {
        self.extension.version().unwrap_or(Version { major: 0, minor: 0 })
    }

    /// The schema of TimescaleDB's functions.
    fn functions_in(&self) -> &str {
        self.extension.schema.as_deref().unwrap_or("public")
    }

    /// The schemas that something is promised in.
    fn schemas(&self) -> Vec<String> {
        let expected = self.expected();
        let of_relations = expected
            .tables
            .keys()
            .chain(expected.views.keys())
            .chain(expected.materialized_views.keys())
            .chain(expected.continuous_aggregates.keys())
            .map(|name| schema_of(name).to_owned());
        let mut schemas: Vec<String> = expected.schemas.iter().cloned().chain(of_relations).collect();
        schemas.sort();
        schemas.dedup();
        schemas
    }
}

/// The schema of `schema.name`, where the schema's name may be quoted and hold a dot.
fn schema_of(name: &str) -> &str {
    let mut quoted = false;
    let end = name.find(|letter: char| {
        quoted ^= letter == '"';
        letter == '.' && !quoted
    });
    end.map_or(name, |end| &name[..end])
}

/// What a stage needs to be of any use.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    /// What the files and the ledger say holds: not in a database that was rolled back.
    Migrated,
    Promises,
    Extension,
    Both,
}

/// Checks that are made together, as they look at the same facts.
struct Stage {
    /// The check under which a failure to look is reported.
    check: &'static Check,
    needs: Needs,
    run: fn(&mut Bench<'_>) -> SqlResult,
}

const STAGES: &[Stage] = &[
    Stage { check: &connection::EXTENSION, needs: Needs::Nothing, run: connection::extension },
    Stage { check: &connection::PROMISES, needs: Needs::Migrated, run: connection::promises },
    Stage { check: &restored::ROLLED_BACK, needs: Needs::Nothing, run: restored::check },
    Stage { check: &ledger::FILES, needs: Needs::Migrated, run: ledger::check },
    Stage { check: &schema::SCHEMAS, needs: Needs::Promises, run: schema::schemas },
    Stage { check: &schema::TABLES, needs: Needs::Promises, run: schema::tables },
    Stage { check: &schema::FUNCTIONS, needs: Needs::Promises, run: schema::functions },
    Stage { check: &schema::TRIGGERS, needs: Needs::Promises, run: schema::triggers },
    Stage { check: &schema::REFERENCE_ROWS, needs: Needs::Promises, run: schema::reference_rows },
    Stage { check: &hypertables::HYPERTABLES, needs: Needs::Both, run: hypertables::check },
    Stage { check: &jobs::RESULTS, needs: Needs::Extension, run: jobs::read },
    Stage { check: &hypertables::COMPRESSION, needs: Needs::Both, run: hypertables::compression },
    Stage { check: &views::AGGREGATES, needs: Needs::Both, run: views::aggregates },
    Stage { check: &jobs::RESULTS, needs: Needs::Extension, run: jobs::results },
    Stage { check: &schema::INDEXES, needs: Needs::Promises, run: schema::indexes },
    Stage { check: &schema::CONSTRAINTS, needs: Needs::Promises, run: schema::constraints },
    Stage { check: &views::VIEWS, needs: Needs::Promises, run: views::views },
    Stage { check: &views::SELECTED, needs: Needs::Promises, run: views::selected },
    Stage { check: &objects::OBJECTS, needs: Needs::Migrated, run: objects::check },
    Stage { check: &rows::ROWS, needs: Needs::Migrated, run: rows::check },
    Stage { check: &integrity::INTEGRITY, needs: Needs::Both, run: integrity::check },
    Stage { check: &functions::TIMESCALE_FUNCTIONS, needs: Needs::Extension, run: functions::check },
    Stage { check: &performance::QUERIES, needs: Needs::Promises, run: performance::queries },
    Stage { check: &performance::EXCLUSION, needs: Needs::Both, run: performance::exclusion },
    Stage { check: &performance::SAVINGS, needs: Needs::Both, run: performance::savings },
    Stage { check: &health::SIZE, needs: Needs::Nothing, run: health::database },
    Stage { check: &health::JOBS_DUE, needs: Needs::Extension, run: health::jobs_due },
    Stage { check: &health::DEAD_TUPLES, needs: Needs::Nothing, run: health::dead_tuples },
    Stage { check: &health::TRANSACTIONS, needs: Needs::Nothing, run: health::transactions },
    Stage { check: &health::WAL, needs: Needs::Nothing, run: health::wal },
];

/// Makes every check.
///
/// # Errors
/// The connection is gone: nothing more can be asked.
pub(crate) fn all(bench: &mut Bench<'_>) -> Result<()> {
    for stage in STAGES {
        if lacking(bench, stage.needs) {
            continue;
        }
        if let Err(error) = (stage.run)(bench) {
            if connection_lost(&error) || bench.client.is_closed() {
                return Err(Error::new(
                    Exit::Failed,
                    format!("lost the connection to {} while checking", bench.input.settings.database()),
                )
                .because_all(reasons(&error))
                .because("nothing is left in the database: the server has rolled back what was open")
                .hint("look at the server's log, then run it again"));
            }
            bench.report.add(stage.check, trouble(stage.check.about, &error));
        }
    }
    Ok(())
}

/// What is lacking is reported once, by the check on it.
fn lacking(bench: &Bench<'_>, needs: Needs) -> bool {
    let rolled_back = bench.restored.is_some();
    let promises = rolled_back || bench.input.expected.is_none();
    let extension = bench.extension.installed.is_none();
    match needs {
        Needs::Nothing => false,
        Needs::Migrated => rolled_back,
        Needs::Promises => promises,
        Needs::Extension => extension,
        Needs::Both => promises || extension,
    }
}

/// Whether somebody else was in the way: a lock, a deadlock or the second was over.
fn is_busy(error: &postgres::Error) -> bool {
    gave_up(error) || error.code().is_some_and(|code| matches!(code.code(), "40P01" | "40001"))
}

/// A question that the server has not answered.
fn trouble(what: &str, error: &postgres::Error) -> Finding {
    if is_busy(error) {
        return Finding::warn(format!("Busy: {what} could not be looked at within a second"))
            .because_all(reasons(error))
            .remedy("run it again when the server has less to do, or look who holds the lock: SELECT * FROM pg_locks WHERE NOT granted");
    }
    let finding = Finding::fail(format!("Cannot look at {what}")).because_all(reasons(error));
    if error.code().is_some_and(|code| code.code() == "42501") {
        return finding.remedy("give the role the rights that the server names, then run it again");
    }
    finding.remedy("mend what the server names, then run it again")
}

/// `1 table`, `2 tables`.
fn number(count: usize, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
}

/// The rows of `tables` that `relations` lacks are not asked for.
fn present<'b>(
    bench: &mut Bench<'_>,
    names: impl Iterator<Item = &'b String>,
) -> std::result::Result<Vec<&'b String>, postgres::Error> {
    let schemas = bench.schemas();
    let relations = catalog::relations(&mut bench.client, &schemas)?;
    Ok(names.filter(|name| relations.contains_key(*name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_check_has_an_id_of_its_own_and_fits_into_a_table() {
        for (index, check) in ALL.iter().enumerate() {
            assert!(check.id.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{}", check.id);
            assert!(!ALL[..index].iter().any(|other| other.id == check.id), "{}", check.id);
            assert!(!check.row().replace(" | ", "").trim_matches('|').contains('|'), "{}", check.row());
        }
        for stage in STAGES {
            assert!(ALL.contains(stage.check), "{}", stage.check.id);
        }
    }

    #[test]
    fn schemas_may_be_quoted() {
        assert_eq!(schema_of("a.b"), "a");
        assert_eq!(schema_of(r#""a.b".c"#), r#""a.b""#);
    }
}
