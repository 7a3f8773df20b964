//! A file that runs statement by statement: each is recorded as started and as done, and a later run goes on at the one
//! that failed.
//!
//! What can run in a transaction runs in one of its own, together with its record: it is done exactly once. What cannot
//! is recorded before and after; [`recover`] decides what a start without an end means.

use ms5_common::db::ledger::steps::{self, Place, Step};
use ms5_common::db::ledger::{self, Begun, End, Ended};
use ms5_common::db::lock;
use ms5_common::db::server_error::{ServerError, connection_lost, reasons};
use ms5_common::effects::{self, Outside};
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::interrupt;
use ms5_common::migrations::{Action, Migration, statement_checksum};
use ms5_common::sql::Statement;

use super::recover::{self, TakenUp, Verdict};
use super::{Earlier, Job, Left, Outcome, Stop, Worker, indexes, send};
use crate::failure::Failure;
use crate::retry::Retries;
use crate::secret::{first_words, first_words_of};
use crate::sessions::Session;

/// Checks that a file still begins with what was done of it.
///
/// # Errors
/// [`Exit::Failed`], naming the statement that was changed after it had been executed.
pub(crate) fn fits(migration: &Migration, earlier: &Earlier) -> Result<()> {
    let counted = migration.statements().filter(|statement| !effects::session_only(statement));
    let statements: Vec<&Statement> = counted.collect();
    for (number, step) in earlier.steps.iter().filter(|(_, step)| step.done) {
        let index = usize::try_from(*number - 1).unwrap_or(usize::MAX);
        let same =
            statements.get(index).is_some_and(|statement| statement_checksum(statement) == step.checksum);
        if !same {
            let place =
                statements.get(index).map(|statement| format!(":{}", statement.head())).unwrap_or_default();
            return Err(Error::new(
                Exit::Failed,
                format!("{} has changed in a part that is already executed", migration.file),
            )
            .because(format!(
                "statement {number} ({}{place}) is done, and is another one now",
                migration.file
            ))
            .because("nothing was touched")
            .hint(
                "restore the statements that are done as they were, and change only what comes after them",
            ));
        }
    }
    Ok(())
}

/// Applies what is left of the file.
pub(super) fn apply(worker: &mut Worker<'_>, job: &Job<'_>, earlier: &Earlier, begun: &Begun) -> Outcome {
    let mut run = Run {
        worker,
        job,
        earlier,
        attempt: begun.id,
        series: job.attempt.continues.unwrap_or(begun.id),
        setup: Vec::new(),
        done: 0,
        notes: Vec::new(),
    };
    let result = run.statements();
    let (done, notes) = (run.done, std::mem::take(&mut run.notes));
    let of = job.migration.statements().filter(|statement| !effects::session_only(statement)).count();
    let left = if done == 0 && notes.is_empty() { Left::Nothing } else { Left::Part { done, of, notes } };
    let stop = match result.and_then(|()| finish(worker, job, begun)) {
        Ok(()) => return Outcome::Applied { proof: None },
        Err(stop) => stop,
    };
    worker.conclude(job, begun, stop, left)
}

/// All statements are done: the ledger's row.
fn finish(worker: &mut Worker<'_>, job: &Job<'_>, begun: &Begun) -> std::result::Result<(), Stop> {
    let ended = Ended { end: End::Applied, sqlstate: None, message: None, replace: true };
    log::debug!("recording that {} is applied", job.migration.title);
    let guard = worker.lock.token.map(|token| format!("{}; ", lock::guard(token))).unwrap_or_default();
    let mut result = Ok(());
    for _ in 0..2 {
        let client = &mut worker.session.client;
        result = client
            .batch_execute(&format!("{guard}RESET SESSION AUTHORIZATION"))
            .and_then(|()| ledger::end(client, job.attempt, begun.id, ended));
        match &result {
            Err(error) if connection_lost(error) => worker.reconnect()?,
            _ => break,
        }
    }
    result.map_err(|error| {
        if let Err(lost) = worker.lock.check() {
            return lost.into();
        }
        Error::new(
            Exit::Failed,
            format!("Migration {} is done, but its ledger row could not be written", job.migration.title),
        )
        .because_all(reasons(&error))
        .hint("run it again: no statement is executed twice")
        .into()
    })
}

struct Run<'w, 'a, 'j> {
    worker: &'w mut Worker<'a>,
    job: &'j Job<'j>,
    earlier: &'j Earlier,
    attempt: i64,
    series: i64,
    /// What has set up the session so far; a fresh session gets it again.
    setup: Vec<&'j Statement>,
    done: usize,
    /// What a statement that failed may have left behind.
    notes: Vec<String>,
}

impl<'j> Run<'_, '_, 'j> {
    fn statements(&mut self) -> std::result::Result<(), Stop> {
        let migration = self.job.migration;
        let mut outside = migration.outside().iter();
        let mut step = 0;
        for action in &migration.actions {
            let statement = match action {
                Action::Say(text) => {
                    log::info!("{text}");
                    continue;
                }
                Action::Run(statement) => statement,
            };
            let outside = outside.next().and_then(Option::as_ref);
            // A value that an enum gets is used by a later statement, so a transaction of its own is enough.
            let outside = outside.filter(|outside| !matches!(outside, Outside::EnumValue { .. }));
            if effects::session_only(statement) {
                send::send(&mut self.worker.session, migration, statement)?;
                self.setup.push(statement);
                continue;
            }
            step += 1;
            let known = self.earlier.steps.get(&step);
            if known.is_some_and(|known| known.done) {
                log::debug!("{}:{} is done already", migration.file, statement.head());
                self.done += 1;
                continue;
            }
            log::debug!("{}:{} {}", migration.file, statement.head(), first_words(statement));
            self.one(statement, step, outside, known)?;
            self.done += 1;
        }
        Ok(())
    }

    /// One statement, again after each lock that could not be had in time.
    fn one(
        &mut self,
        statement: &'j Statement,
        step: i32,
        outside: Option<&Outside>,
        known: Option<&Step>,
    ) -> std::result::Result<(), Stop> {
        let checksum = statement_checksum(statement);
        let place = Place { series: self.series, step, attempt: self.attempt, checksum: &checksum };
        // Another statement in the place of one that failed is a new one.
        let known = known.filter(|known| known.checksum == checksum);
        let mut bare = outside.cloned();
        let mut retries = Retries::new(self.worker.lock_retries);
        let mut tried = None;
        loop {
            let result = match &bare {
                None => self.in_transaction(statement, place),
                Some(outside) => self.bare(statement, place, outside, known, &mut tried),
            };
            let Err(stop) = result else { return Ok(()) };
            let Stop::Failed(failure) = &stop else { return Err(stop) };
            if bare.is_none() {
                let rolled_back = self.worker.session.roll_back();
                let refused = matches!(failure.error.sqlstate(), Some("25001" | "2D000"));
                if refused && rolled_back && interrupt::requested().is_none() {
                    log::debug!("the server will not run it inside a transaction: running it outside of one");
                    bare = Some(Outside::Commits {
                        what: format!("{}:{}", self.job.migration.file, statement.head()),
                    });
                    continue;
                }
            }
            // What commits by itself was not rolled back.
            let stays = matches!(bare, Some(Outside::Commits { .. }));
            if stays || !self.worker.try_again(self.job, failure, &mut retries) {
                return Err(stop);
            }
        }
    }

    fn in_transaction(&mut self, statement: &Statement, place: Place<'_>) -> std::result::Result<(), Stop> {
        let lock = self.worker.lock.token;
        steps::begin(&mut self.worker.session.client, place, lock)
            .map_err(|error| self.unrecorded(&error))?;
        indexes::drop_invalid(&mut self.worker.session.client, statement)?;
        self.run(statement, place.step)?;
        log::debug!("COMMIT of step {} of {}", place.step, self.job.migration.title);
        match steps::commit(&mut self.worker.session.client, place) {
            Ok(()) => Ok(()),
            Err(error) if connection_lost(&error) => {
                let title = &self.job.migration.title;
                self.worker.look_up(title, |client| steps::committed(client, place), &error)?;
                self.set_up_again()
            }
            Err(error) => Err(Error::new(
                Exit::Failed,
                format!("Migration {} failed at the COMMIT of step {}", self.job.migration.title, place.step),
            )
            .because_all(reasons(&error))
            .with_sqlstate(ServerError::of(&error).map(|server| server.sqlstate))
            .into()),
        }
    }

    fn bare(
        &mut self,
        statement: &'j Statement,
        place: Place<'_>,
        outside: &Outside,
        known: Option<&Step>,
        tried: &mut Option<Step>,
    ) -> std::result::Result<(), Stop> {
        if matches!(outside, Outside::UpdateExtension { .. }) {
            // It has to be the first statement of its session.
            let lock = self.worker.lock.token;
            steps::start(&mut self.worker.session.client, place, lock, None)
                .map_err(|error| self.unrecorded(&error))?;
            self.worker.session = self.worker.sessions.open_untouched()?;
            self.run(statement, place.step)?;
            self.worker.session = self.worker.sessions.open_again()?;
            self.set_up_again()?;
            return self.note_done(place);
        }
        // After a lock that could not be had, this run's own start is the one to be taken up.
        let started = tried.as_ref().or(known);
        let again = self.job.force || self.job.migration.idempotent;
        let wanted = match outside {
            Outside::CreateIndex { .. } => effects::create_index(statement),
            _ => None,
        };
        let client = &mut self.worker.session.client;
        let TakenUp { verdict, before } = recover::take_up(client, outside, wanted.as_ref(), started, again)?;
        if verdict == Verdict::Done {
            log::info!("{}:{} was done by an earlier run", self.job.migration.file, statement.head());
            return self.note_done(place);
        }
        let lock = self.worker.lock.token;
        steps::start(&mut self.worker.session.client, place, lock, before.as_deref())
            .map_err(|error| self.unrecorded(&error))?;
        *tried = Some(Step { checksum: place.checksum.to_owned(), done: false, failed: true, before });
        let patient = matches!(
            outside,
            Outside::CreateIndex { .. }
                | Outside::DropIndex { .. }
                | Outside::Reindex { .. }
                | Outside::DetachPartition { .. }
        );
        let limit = if patient { self.without_lock_timeout()? } else { None };
        let result = match &verdict {
            Verdict::Instead(text) => {
                log::info!("Finishing what an earlier run began: {}", first_words_of(text));
                self.run(&statement.with_text(text), place.step)
            }
            _ => self.run(statement, place.step),
        };
        if let Some(limit) = limit {
            // Where the session is gone this fails, and the next one has its own limit.
            let client = &mut self.worker.session.client;
            let _ = client.execute("SELECT set_config('lock_timeout', $1, false)", &[&limit]);
        }
        if result.is_err() {
            self.notes.extend(recover::leftover(outside));
            // Where the session is gone this fails too, and that is the point.
            let _ = steps::failed(&mut self.worker.session.client, place);
            return result;
        }
        self.note_done(place)
    }

    /// A build that gives up its wait leaves an INVALID index behind: it waits as long as it takes. Gives the limit
    /// that was in force.
    fn without_lock_timeout(&mut self) -> std::result::Result<Option<String>, Stop> {
        let client = &mut self.worker.session.client;
        let limit = client.query_one("SHOW lock_timeout", &[]).map(|row| row.get::<_, String>(0));
        let limit = limit.and_then(|limit| client.batch_execute("SET lock_timeout TO 0").map(|()| limit));
        limit.map(Some).map_err(|error| self.unrecorded(&error))
    }

    fn run(&mut self, statement: &Statement, step: i32) -> std::result::Result<(), Stop> {
        let migration = self.job.migration;
        self.worker
            .watched(
                || format!("{}: step {step}", migration.title),
                |session| send::send(session, migration, statement),
            )
            .map_err(Stop::Failed)
    }

    /// Writes down that a statement is done which has committed by itself.
    fn note_done(&mut self, place: Place<'_>) -> std::result::Result<(), Stop> {
        log::debug!("recording that step {} of {} is done", place.step, self.job.migration.title);
        let mut result = steps::done(&mut self.worker.session.client, place);
        if result.as_ref().is_err_and(connection_lost) {
            self.worker.reconnect()?;
            self.set_up_again()?;
            result = steps::done(&mut self.worker.session.client, place);
        }
        result.map_err(|error| {
            self.notes.push(format!("step {} is done, which could not be written down", place.step));
            self.unrecorded(&error)
        })
    }

    /// A fresh session gets what the file has set so far, and is the one that a later run looks for.
    fn set_up_again(&mut self) -> std::result::Result<(), Stop> {
        let Session { client, backend, .. } = &mut self.worker.session;
        ledger::moved(client, self.attempt, backend).map_err(|error| self.unrecorded(&error))?;
        for statement in &self.setup {
            send::send(&mut self.worker.session, self.job.migration, statement)?;
        }
        Ok(())
    }

    fn unrecorded(&self, error: &postgres::Error) -> Stop {
        let code = error.code().map(|code| code.code().to_owned());
        if code.as_deref() == Some("22012")
            && let Err(lost) = self.worker.lock.check()
        {
            return lost.into();
        }
        Failure::from(
            Error::new(
                Exit::Failed,
                format!("Migration {} failed: a step could not be recorded", self.job.migration.title),
            )
            .because_all(reasons(error))
            .with_sqlstate(code),
        )
        .into()
    }
}
