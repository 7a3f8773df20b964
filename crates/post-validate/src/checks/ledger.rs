//! The ledger: every file applied, by these tools, and unchanged since.

use ms5_common::check::{Check, Finding};
use ms5_common::db::ledger::standing::{Known, Standing, entry_of, standings};
use ms5_common::db::ledger::{self, Entry, LastAttempt, State};
use ms5_common::timescale::jobs;

use super::{Bench, SqlResult, number};

/// Each file.
pub(super) const FILES: Check = Check::new(
    "ledger-files",
    "each migration file in the ledger (migration_log)",
    "applied by these tools, without failure, and unchanged since",
);
/// Rows without a file.
pub(super) const STRANGERS: Check =
    Check::new("ledger-strangers", "rows of the ledger that no file belongs to", "none");
/// Later attempts.
pub(super) const ATTEMPTS: Check =
    Check::new("ledger-attempts", "the last attempt at each migration (migration_attempts)", "it succeeded");
/// Jobs that a run has paused.
pub(super) const PAUSED_JOBS: Check =
    Check::new("ledger-jobs", "background jobs that a run has paused", "all are given back");

pub(super) fn check(bench: &mut Bench<'_>) -> SqlResult {
    let state = ledger::state(&mut bench.client)?;
    if state == State::Absent {
        let finding = Finding::fail("There is no ledger in this database: no migration was ever run here")
            .because("the table public.migration_log is not there")
            .remedy(bench.input.runner(""));
        bench.add(&FILES, finding);
        return Ok(());
    }
    let entries = ledger::read(&mut bench.client, state)?;
    let last = ledger::last_attempts(&mut bench.client, state)?;
    files(bench, &entries, &last);
    strangers(bench, &entries);
    attempts(bench, &last);
    if state == State::Current {
        let paused = jobs::paused(&mut bench.client)?;
        if !paused.is_empty() {
            let finding = Finding::warn(format!(
                "{} paused by a run that has not given them back",
                number(paused.len(), "background job")
            ))
            .because_all(paused)
            .remedy(format!("the next run gives them back: {}", bench.input.runner("")));
            bench.add(&PAUSED_JOBS, finding);
        }
    }
    Ok(())
}

fn files(bench: &mut Bench<'_>, entries: &[Entry], last: &[LastAttempt]) {
    let known: Vec<Known<'_>> = bench.input.migrations.iter().map(Known::of).collect();
    let unfinished: Vec<String> =
        last.iter().filter(|last| last.unfinished).map(|last| last.name.clone()).collect();
    let stand = standings(&known, entries, &unfinished);
    for (known, standing) in known.iter().zip(&stand).filter(|(_, standing)| **standing != Standing::Applied)
    {
        let entry = entry_of(known, entries);
        let mut finding = Finding::fail(format!("Migration {}: {}", known.name, standing.word()))
            .on(known.file)
            .because(why(*standing));
        if let Some(entry) = entry {
            if *standing == Standing::Changed {
                finding = finding.because(format!(
                    "checksum {} when it was applied, {} now",
                    entry.checksum.as_deref().unwrap_or("unknown"),
                    known.checksum
                ));
            }
            let message = entry.error_message.as_deref().filter(|_| *standing == Standing::Failed);
            finding = finding.because_all(message.unwrap_or_default().lines().map(str::to_owned));
        }
        for remedy in remedies(bench, *standing, known.idempotent) {
            finding = finding.remedy(remedy);
        }
        bench.add(&FILES, finding);
    }
    if stand.iter().all(|standing| *standing == Standing::Applied) {
        let finding = Finding::pass("All migrations completed successfully")
            .because(format!("{} applied and unchanged since", number(known.len(), "file")));
        bench.add(&FILES, finding);
    }
}

const fn why(standing: Standing) -> &'static str {
    match standing {
        Standing::Applied => "",
        Standing::Changed => "the file is not what was applied",
        Standing::Unverified => {
            "the ledger says success, but another tool wrote that: the old scripts recorded success even where psql had failed"
        }
        Standing::Failed => "its last attempt failed and is rolled back",
        Standing::Interrupted => "its last attempt has no end: the runner was stopped, or still runs",
        Standing::Pending => "it was never applied",
        Standing::OutOfOrder => "it was never applied, though a later number is",
    }
}

fn remedies(bench: &Bench<'_>, standing: Standing, idempotent: bool) -> Vec<String> {
    let runner = |flags| bench.input.runner(flags);
    match standing {
        Standing::Applied => Vec::new(),
        Standing::Failed | Standing::Interrupted | Standing::Pending => vec![runner("")],
        Standing::Unverified if idempotent => {
            vec![format!("run it again, the file says it may: {}", runner(""))]
        }
        Standing::Unverified => {
            vec![format!("prove what is there and record it: {}", runner("--adopt"))]
        }
        Standing::OutOfOrder => vec![runner("--allow-out-of-order")],
        Standing::Changed => vec![
            "bring back the file as it was applied".to_owned(),
            format!("or accept it as it is, after reading what changed: {}", runner("--repair")),
        ],
    }
}

fn strangers(bench: &mut Bench<'_>, entries: &[Entry]) {
    let migrations = &bench.input.migrations;
    for entry in entries {
        if migrations.iter().any(|one| one.title == entry.name || one.file == entry.file) {
            continue;
        }
        let finding = Finding::warn(format!(
            "{}: in the ledger, but its file {} is not in the folder",
            entry.name, entry.file
        ))
        .on(&entry.file)
        .remedy("bring the file back, or make sure that this is the right folder (--migrations-dir=DIR)");
        bench.report.add(&STRANGERS, finding);
    }
}

fn attempts(bench: &mut Bench<'_>, last: &[LastAttempt]) {
    let bad: Vec<&LastAttempt> = last.iter().filter(|last| !last.applied).collect();
    for last in bad {
        let how = if last.unfinished { "has no end" } else { "failed" };
        let finding = Finding::warn(format!("The last attempt at {} {how}", last.name))
            .on(&last.name)
            .because_all(last.message.as_deref().unwrap_or_default().lines().map(str::to_owned))
            .remedy(bench.input.runner("--status"));
        bench.add(&ATTEMPTS, finding);
    }
}
