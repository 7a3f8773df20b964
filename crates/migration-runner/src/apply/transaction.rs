//! A file in one transaction with its ledger row.

use std::time::Instant;

use ms5_common::db::ledger::{self, Begun};
use ms5_common::db::server_error::{ServerError, connection_lost, reasons};
use ms5_common::error::Error;
use ms5_common::exit::Exit;
use ms5_common::interrupt;
use ms5_common::migrations::Action;

use super::{Job, Left, Outcome, Stop, Worker, elapsed, indexes, send};
use crate::retry::Retries;
use crate::words::first_words;

/// Applies the file, again after each lock that could not be had in time.
pub(super) fn apply(worker: &mut Worker<'_>, job: &Job<'_>, begun: Begun, clock: Instant) -> Outcome {
    let mut retries = Retries::new(worker.lock_retries);
    loop {
        let worked = statements(worker, job).and_then(|()| commit(worker, job, &begun, clock));
        let stop = match worked {
            Ok(()) => return Outcome::Applied,
            Err(stop) => stop,
        };
        if let Stop::Failed(failure) = &stop {
            // The locks go before the pause, or everyone behind them would wait for it too.
            let rolled_back = worker.session.roll_back();
            if rolled_back && worker.try_again(job, failure, &mut retries) {
                let session = &mut worker.session;
                match ledger::again(&mut session.client, &session.backend) {
                    Ok(()) => continue,
                    Err(error) => log::warn!("cannot try again: {}", reasons(&error).join("; ")),
                }
            }
        }
        return worker.conclude(job, &begun, clock, stop, Left::Nothing);
    }
}

fn statements(worker: &mut Worker<'_>, job: &Job<'_>) -> Result<(), Stop> {
    let migration = job.migration;
    let count = migration.statement_count();
    let mut number = 0;
    for action in &migration.actions {
        match action {
            Action::Say(text) => log::info!("{text}"),
            Action::Run(statement) => {
                number += 1;
                log::debug!("{}:{} {}", migration.file, statement.head(), first_words(&statement.text));
                indexes::drop_invalid(&mut worker.session.client, statement)?;
                worker.watched(
                    || format!("{}: statement {number} of {count}", migration.title),
                    |session| send::send(session, migration, statement),
                )?;
            }
        }
    }
    Ok(())
}

fn commit(worker: &mut Worker<'_>, job: &Job<'_>, begun: &Begun, clock: Instant) -> Result<(), Stop> {
    let title = &job.migration.title;
    if interrupt::requested().is_some() {
        return Err(
            Error::new(Exit::Failed, format!("Migration {title} was stopped before its COMMIT")).into()
        );
    }
    log::debug!("COMMIT of {title}");
    let lock = worker.lock.token;
    let result = worker.watched(
        || format!("{title}: COMMIT"),
        |session| ledger::commit(&mut session.client, job.attempt, begun, lock, elapsed(clock)),
    );
    match result {
        Ok(()) => Ok(()),
        Err(error) if connection_lost(&error) => {
            worker.look_up(title, |client| ledger::committed(client, job.attempt, begun), &error)
        }
        Err(error) => {
            let server = ServerError::of(&error);
            if server.as_ref().is_some_and(|server| server.sqlstate == "22012") {
                worker.lock.check()?;
            }
            Err(Error::new(Exit::Failed, format!("Migration {title} failed at its COMMIT"))
                .because_all(reasons(&error))
                .with_sqlstate(server.map(|server| server.sqlstate))
                .into())
        }
    }
}
