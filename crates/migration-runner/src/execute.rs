//! Applies what is to be applied, in order, side by side where the files allow it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use ms5_common::db::ledger::Attempt;
use ms5_common::db::session::Server;
use ms5_common::error::Result;
use ms5_common::exit::Exit;
use ms5_common::interrupt;
use ms5_common::machine;
use ms5_common::migrations::Migration;
use ms5_common::success;
use ms5_common::timescale::overview;
use ms5_common::tool::Context;
use serde_json::json;

use crate::apply::{Background, Job, Left, Outcome, Report, SharedLock, Worker};
use crate::args::{LOCK_TIMEOUT_DEFAULT, TOOL_VERSION};
use crate::failure::Failure;
use crate::plan::Step;
use crate::prepare::{Ready, count_given_back, give_back};
use crate::prove::Claim;
use crate::rollback_point::Point;
use crate::run::Input;
use crate::schedule::Schedule;
use crate::sessions::Sessions;
use crate::summary::{Fate, Summary, say_failure};
use crate::way_back::Before;
use crate::{kept, locked, prove, rollback_point, touched};

/// How an attempt came back from its thread.
type Answer = std::result::Result<Result<Report>, Box<dyn Any + Send>>;

/// Applies the files of a run that is ready.
pub(crate) fn run(
    context: &Context,
    input: &Input,
    sessions: &Sessions<'_>,
    ready: Ready,
    point: Option<&Point>,
    server: &Server,
) -> Result<Exit> {
    let Ready { mut session, lock, extension, seen, steps, earlier } = ready;
    let before = match point {
        Some(_) => None,
        None if !rollback_point::is_needed(&steps) => None,
        None => {
            let id = &server.identity.system_identifier;
            Some(Before::look(&mut session.client, &seen.entries, id)?)
        }
    };
    let lock = SharedLock::new(lock);
    let patience = (!input.options.single_session).then(|| patience(input));
    let new_worker = |session| Worker::new(sessions, session, &lock, patience, input.options.lock_retries);
    let known = input.known();
    let kept = kept::texts(input);
    let host = machine::host_name();
    let claims = claims(input, &steps)?;
    let jobs: Vec<Job<'_>> = (input.migrations.iter().zip(&steps).zip(earlier))
        .zip(kept.iter().zip(claims))
        .map(|(((migration, step), earlier), (kept, claims))| {
            let (continues, earlier) = earlier.unzip();
            Job {
                migration,
                attempt: Attempt {
                    name: &migration.title,
                    file: &migration.file,
                    checksum: &migration.checksum,
                    kept: kept.as_deref(),
                    continues,
                    run_id: context.recorder.run_id(),
                    tool_version: TOOL_VERSION,
                    host: &host,
                },
                keep: matches!(step, Step::Apply { keep: true, .. }),
                steps: earlier.or_else(|| migration.stepwise.then(Default::default)),
                force: input.options.force,
                claims,
                background: match extension.community() {
                    false => Background::Leave,
                    true if touched::alters_jobs(migration) => Background::GiveBack,
                    true => Background::Pause(touched::tables(migration)),
                },
            }
        })
        .collect();

    let mut summary = Summary::new(context, input, point, before.as_ref());
    let mut schedule = Schedule::new(&known, |index| matches!(steps[index], Step::Apply { .. }));
    let mut said = 0;
    let mut idle = vec![new_worker(session)];
    let mut running = 0;
    let mut stop = None;
    let mut begins = true;
    // One file after the other, by one worker: here, and each knows which one follows.
    let alone = input.options.jobs == 1;
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel::<(usize, Worker<'_>, Answer)>();
        loop {
            while begins && interrupt::requested().is_none() && running < input.options.jobs {
                let Some(index) = schedule.next() else { break };
                say_passed_over(input, &steps, &mut said, index, &mut summary);
                say(&input.migrations[index], steps[index], &mut summary);
                let mut worker = match idle.pop() {
                    Some(worker) => worker,
                    None => match sessions.open_again() {
                        Ok(session) => new_worker(session),
                        Err(error) => {
                            (stop, begins) = (Some(error), false);
                            break;
                        }
                    },
                };
                running += 1;
                let (sender, job) = (sender.clone(), &jobs[index]);
                let next = schedule.following().filter(|_| alone).map(|next| &jobs[next]);
                let work = move || {
                    let answer = catch_unwind(AssertUnwindSafe(|| worker.apply(job, next)));
                    let _ = sender.send((index, worker, answer));
                };
                if alone {
                    work();
                } else {
                    scope.spawn(work);
                }
            }
            if running == 0 {
                break;
            }
            let Ok((index, worker, answer)) = receiver.recv() else { break };
            running -= 1;
            idle.push(worker);
            schedule.ended(index);
            // After a failure nothing more begins; what still runs beside it comes to its own end.
            match answer {
                Err(panic) => resume_unwind(panic),
                Ok(Err(error)) => (stop, begins) = (Some(error), false),
                Ok(Ok(report)) => {
                    begins &= tell(context, input, &input.migrations[index], report, &mut summary);
                }
            }
        }
    });
    if stop.is_none() && summary.is_well() && interrupt::requested().is_none() {
        say_passed_over(input, &steps, &mut said, steps.len(), &mut summary);
    }
    if let Some(mut worker) = idle.pop() {
        worker.give_back_jobs(|client| {
            count_given_back(context, give_back(client, Some(context.recorder.run_id())));
            if stop.is_none() && interrupt::requested().is_none() {
                overview::record(client, extension.version(), &context.recorder);
            }
        });
    }
    if let Some(error) = stop {
        return Err(summary.stopped(error));
    }
    Ok(summary.conclude())
}

/// With `--prove`, what each file that is to run may convert.
fn claims<'a>(input: &'a Input, steps: &[Step]) -> Result<Vec<Vec<Claim<'a>>>> {
    let of_file = |(migration, step): (&Migration, &Step)| match step {
        Step::Apply { .. } => prove::claims(migration, &input.promised),
        _ => Ok(Vec::new()),
    };
    input.migrations.iter().zip(steps).map(of_file).collect()
}

/// How long a statement may take before it is watched: its blockers are to be seen before it gives up its wait.
fn patience(input: &Input) -> Duration {
    let limit = input.options.lock_timeout.unwrap_or(LOCK_TIMEOUT_DEFAULT);
    let second = Duration::from_secs(1);
    if limit <= 0.0 {
        return second;
    }
    Duration::try_from_secs_f64(limit / 2.0).map_or(second, |half| half.min(second))
}

/// Says of the files before `end` that do not run, each once, that they don't.
fn say_passed_over(input: &Input, steps: &[Step], said: &mut usize, end: usize, summary: &mut Summary<'_>) {
    for (migration, step) in input.migrations.iter().zip(steps).take(end).skip(*said) {
        if !matches!(step, Step::Apply { .. }) {
            say(migration, *step, summary);
        }
    }
    *said = end.max(*said);
}

/// What is about to happen to a file, as its line in the log.
fn say(migration: &Migration, step: Step, summary: &mut Summary<'_>) {
    match step {
        Step::Skip => {
            log::info!("Migration {} already applied, skipping", migration.title);
            summary.add(migration, Fate::Skipped);
        }
        Step::Beyond => log::info!("Migration {} is beyond the target, leaving it", migration.title),
        Step::Apply { again, .. } => {
            let why = again.map(|why| format!(" again: {why}")).unwrap_or_default();
            let how = if migration.stepwise { ", statement by statement" } else { "" };
            log::info!("Executing migration {} ({}){why}{how}", migration.title, migration.file);
            for warning in &migration.warnings {
                log::warn!("{}: {warning}", migration.file);
            }
        }
    }
}

/// Says and records how a file ended; false where no other file may begin.
fn tell(
    context: &Context,
    input: &Input,
    migration: &Migration,
    report: Report,
    summary: &mut Summary<'_>,
) -> bool {
    let Report { began, milliseconds, .. } = report;
    let mut proof = None;
    let (outcome, goes_on) = match report.outcome {
        Outcome::Applied { proof: found } => {
            success!("✅ Migration {} completed successfully ({milliseconds}ms)", migration.title);
            summary.add(migration, Fate::Applied);
            proof = found;
            ("applied", true)
        }
        Outcome::Failed { failure, left } => {
            say_failure(&failure.error);
            context.recorder.emit("finding", finding(migration, &failure, &left));
            summary.add(migration, Fate::Failed(left));
            if input.options.force {
                log::warn!("Going on after the failure, as --force says");
            }
            ("failed", input.options.force)
        }
        Outcome::Interrupted { left } => {
            log::error!("❌ Migration {} was stopped by a signal", migration.title);
            summary.add(migration, Fate::Interrupted(left));
            ("interrupted", false)
        }
        Outcome::Unknown { error } => {
            say_failure(&error);
            summary.add(migration, Fate::Unknown);
            ("unknown", false)
        }
    };
    let mut record = json!({
        "name": migration.title, "file": migration.file, "checksum": migration.checksum,
        "outcome": outcome, "began": context.recorder.since_start(began), "milliseconds": milliseconds,
        "statements": migration.statement_count(),
    });
    if let Some(record) = record.as_object_mut().filter(|_| context.recorder.is_read()) {
        record.extend(locked::members(migration));
    }
    if let Some(proof) = proof.filter(|proof| !proof.is_empty()) {
        record["proof"] = proof.to_json();
    }
    context.recorder.emit("migration", record);
    goes_on
}

/// A failed migration as data.
fn finding(migration: &Migration, failure: &Failure, left: &Left) -> serde_json::Value {
    let place = failure.place.as_ref();
    let error = &failure.error;
    let remedy = match left {
        Left::Nothing => "mend the cause, then run it again: it goes on at this file",
        Left::Part { .. } => "mend the cause, then run it again: it goes on at this statement",
    };
    json!({
        "id": "migration-failed",
        "level": "error",
        "file": place.map_or(migration.file.as_str(), |place| place.file.as_str()),
        "line": place.map(|place| place.line),
        "column": place.map(|place| place.column),
        "message": error.lines().join("\n"),
        "remedy": remedy,
        "sqlstate": error.sqlstate(),
    })
}
