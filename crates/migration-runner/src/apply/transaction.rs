//! A file in one transaction with its ledger row.

use ms5_common::db::ledger::{self, Begun};
use ms5_common::db::server_error::{ServerError, connection_lost, reasons};
use ms5_common::error::Error;
use ms5_common::exit::Exit;
use ms5_common::interrupt;
use ms5_common::migrations::{Action, Migration};
use ms5_common::sql::Statement;
use postgres::SimpleQueryMessage;

use super::proof::{self, Proof};
use super::rounds::{self, Round};
use super::{Job, Left, Outcome, Stop, Worker, indexes, send};
use crate::failure::{self, Failure};
use crate::retry::Retries;
use crate::secret::first_words;
use crate::sessions::Session;
use crate::watch::Watch;

/// Applies the file, again after each lock that could not be had in time. After a success the attempt at `next` has begun.
pub(super) fn apply<'a>(
    worker: &mut Worker<'a>,
    job: &Job<'a>,
    begun: &Begun,
    next: Option<&Job<'a>>,
) -> Outcome {
    let mut retries = Retries::new(worker.lock_retries);
    let mut unprepared = false;
    loop {
        let stop = match rounds(worker, job, begun, next) {
            Ok(proof) => return Outcome::Applied { proof },
            Err(stop) => stop,
        };
        worker.session.prepared.forget();
        if let Stop::Failed(failure) = &stop {
            // The locks go before the pause, or everyone behind them would wait for it too.
            let rolled_back = worker.session.roll_back();
            // The file has thrown away what the ledger had prepared: with what its COMMIT now brings along it goes.
            let thrown_away =
                !unprepared && failure.place.is_none() && failure.error.sqlstate() == Some("26000");
            unprepared |= thrown_away;
            if rolled_back && (thrown_away || worker.try_again(job, failure, &mut retries)) {
                let session = &mut worker.session;
                match ledger::again(&mut session.client, &session.backend) {
                    Ok(()) => continue,
                    Err(error) => log::warn!("cannot try again: {}", reasons(&error).join("; ")),
                }
            }
        }
        return worker.conclude(job, begun, stop, Left::Nothing);
    }
}

fn rounds<'a>(
    worker: &mut Worker<'a>,
    job: &Job<'a>,
    begun: &Begun,
    next: Option<&Job<'a>>,
) -> Result<Option<Proof>, Stop> {
    let proving = match job.claims.as_slice() {
        [] => None,
        claims => {
            let title = &job.migration.title;
            Some(worker.watched(
                || format!("{title}: rows are counted and hashed before it"),
                |session| proof::begin(session, title, claims),
            )?)
        }
    };
    let Session { backend, prepared, .. } = &mut worker.session;
    let commit = ledger::commit(
        job.attempt,
        begun,
        worker.lock.token,
        prepared,
        next.map(|next| (next.attempt, &*backend)),
    );
    let rounds = rounds::of(&job.migration.actions);
    let mut number = 0;
    for (index, each) in rounds.iter().enumerate() {
        // A proof comes between the last statement and the COMMIT.
        let commit = (index + 1 == rounds.len() && proving.is_none()).then_some(commit.as_str());
        round(worker, job, begun, next, *each, commit, &mut number)?;
    }
    let Some(proving) = proving else { return Ok(None) };
    let proof = worker.watched(
        || format!("{}: rows are counted and hashed after it", job.migration.title),
        |session| proving.end(session, &job.claims),
    )?;
    round(worker, job, begun, next, Round { actions: &[] }, Some(&commit), &mut number)?;
    Ok(Some(proof))
}

/// One round, with the COMMIT behind it where it is the last one.
fn round<'a>(
    worker: &mut Worker<'a>,
    job: &Job<'a>,
    begun: &Begun,
    next: Option<&Job<'a>>,
    round: Round<'_>,
    commit: Option<&str>,
    number: &mut usize,
) -> Result<(), Stop> {
    if interrupt::requested().is_some() {
        let error = Error::new(Exit::Failed, format!("Migration {} was stopped", job.migration.title));
        return Err(error.into());
    }
    let mut course = Course {
        migration: job.migration,
        ahead: round.actions.iter(),
        commits: commit.is_some(),
        number,
        watch: worker.watch.as_ref(),
        pid: worker.session.backend.pid,
    };
    let statements: Vec<&Statement> = round.statements().collect();
    let result = send_round(&mut worker.session, &mut course, &statements, commit);
    if let Some(watch) = &worker.watch {
        watch.end();
    }
    match result {
        Ok(answers) => {
            worker.ahead = commit.and(next).map(|next| (next.attempt, Begun::of(&answers)));
            Ok(())
        }
        Err(Trouble::Failed(failure)) => Err(failure.into()),
        Err(Trouble::Statement(statement, error)) => {
            let failure = failure::of_statement(job.migration, statement, &error);
            // With the COMMIT on its way behind it, only the server's own word tells that it did not come through: neither a lost
            // connection nor an answer that the client does not understand does.
            if commit.is_none() || error.as_db_error().is_some() {
                return Err(failure.into());
            }
            match look_up(worker, job, begun, next, &error) {
                Err(Stop::Failed(_)) => Err(failure.into()),
                other => other,
            }
        }
        Err(Trouble::Commit(error)) => commit_failed(worker, job, begun, next, &error),
    }
}

/// What keeps a round from its end.
enum Trouble<'a> {
    Failed(Failure),
    Statement(&'a Statement, postgres::Error),
    Commit(postgres::Error),
}

impl<T: Into<Failure>> From<T> for Trouble<'_> {
    fn from(failure: T) -> Self {
        Self::Failed(failure.into())
    }
}

/// Sends a round, with the COMMIT behind it where it is the last one, and waits for all answers.
fn send_round<'a>(
    session: &mut Session,
    course: &mut Course<'_>,
    statements: &[&'a Statement],
    commit: Option<&str>,
) -> Result<Vec<SimpleQueryMessage>, Trouble<'a>> {
    if let Some(first) = statements.first() {
        indexes::drop_invalid(&mut session.client, first)?;
    }
    course.advance();
    if let [copy] = statements
        && !copy.copy_data.is_empty()
    {
        send::send(session, course.migration, copy)?;
        return Ok(Vec::new());
    }
    let mut under_signals = (!statements.is_empty()).then(|| interrupt::cancellable(&session.canceller));
    let messages: Vec<&str> =
        statements.iter().map(|statement| statement.text.as_str()).chain(commit).collect();
    let answered = |answered: usize| {
        if answered + 1 == statements.len() {
            under_signals = None;
        }
        course.advance();
    };
    session.client.pipeline(&messages, answered).map_err(|(number, error)| match statements.get(number) {
        Some(statement) => Trouble::Statement(statement, error),
        None => Trouble::Commit(error),
    })
}

/// How far a round is: what it says is said, and what runs is watched.
struct Course<'a> {
    migration: &'a Migration,
    ahead: std::slice::Iter<'a, Action>,
    commits: bool,
    /// How many statements of the file have begun.
    number: &'a mut usize,
    watch: Option<&'a Watch>,
    pid: i32,
}

impl Course<'_> {
    /// Goes on to the next statement, or to the COMMIT.
    fn advance(&mut self) {
        let title = &self.migration.title;
        for action in self.ahead.by_ref() {
            match action {
                Action::Say(text) => log::info!("{text}"),
                Action::Run(statement) => {
                    *self.number += 1;
                    let (number, count) = (*self.number, self.migration.statement_count());
                    let file = &self.migration.file;
                    log::debug!("{file}:{} {}", statement.head(), first_words(statement));
                    self.watched(|| format!("{title}: statement {number} of {count}"));
                    return;
                }
            }
        }
        if std::mem::take(&mut self.commits) {
            log::debug!("COMMIT of {title}");
            self.watched(|| format!("{title}: COMMIT"));
        }
    }

    fn watched(&self, what: impl FnOnce() -> String) {
        if let Some(watch) = self.watch {
            watch.begin(self.pid, what);
        }
    }
}

fn commit_failed(
    worker: &mut Worker<'_>,
    job: &Job<'_>,
    begun: &Begun,
    next: Option<&Job<'_>>,
    error: &postgres::Error,
) -> Result<(), Stop> {
    if connection_lost(error) || error.as_db_error().is_none() {
        return look_up(worker, job, begun, next, error);
    }
    if let Some(next) = next {
        // What failed may have been the beginning of the next one, behind the COMMIT. In a transaction that failed before
        // it this question fails too.
        match ledger::committed(&mut worker.session.client, job.attempt, begun) {
            Ok(true) => {
                worker.session.prepared.forget();
                worker.forget(next.attempt);
                return Ok(());
            }
            Err(lost) if connection_lost(&lost) => return look_up(worker, job, begun, Some(next), &lost),
            Ok(false) | Err(_) => {}
        }
    }
    let server = ServerError::of(error);
    if server.as_ref().is_some_and(|server| server.sqlstate == "22012") {
        worker.lock.check()?;
    }
    let failure = Error::new(Exit::Failed, format!("Migration {} failed at its COMMIT", job.migration.title))
        .because_all(reasons(error));
    let failure = if ledger::attempt_is_gone(error) {
        failure
            .because("its row of public.migration_attempts is gone, and without it there is no ledger row")
            .hint("take out of the file what deletes there, or find out who else does")
    } else {
        failure
    };
    Err(failure.with_sqlstate(server.map(|server| server.sqlstate)).into())
}

/// The answer was lost with the COMMIT on its way: Ok where it came through.
fn look_up(
    worker: &mut Worker<'_>,
    job: &Job<'_>,
    begun: &Begun,
    next: Option<&Job<'_>>,
    lost: &postgres::Error,
) -> Result<(), Stop> {
    worker.look_up(&job.migration.title, |client| ledger::committed(client, job.attempt, begun), lost)?;
    if let Some(next) = next {
        worker.forget(next.attempt);
    }
    Ok(())
}
