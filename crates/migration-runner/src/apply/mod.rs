//! Applies one migration: whole in one transaction with its ledger row, or statement by statement.

mod indexes;
mod proof;
mod recover;
mod rounds;
mod send;
mod stepwise;
mod transaction;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ms5_common::db::backend;
use ms5_common::db::client::Client;
use ms5_common::db::ledger::steps::Step;
use ms5_common::db::ledger::{self, Attempt, Begun, End, Ended};
use ms5_common::db::lock::RunLock;
use ms5_common::db::server_error::{connection_lost, reasons};
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::interrupt;
use ms5_common::migrations::Migration;
use ms5_common::timescale::jobs;

use crate::failure::Failure;
use crate::prepare::give_back;
use crate::prove::Claim;
use crate::retry::{Retries, is_conflict};
use crate::sessions::{Session, Sessions};
use crate::watch::Watch;

pub(crate) use proof::Proof;
pub(crate) use stepwise::fits;

/// How long a lost COMMIT is looked into before the outcome counts as unknown.
const LOST_COMMIT_PATIENCE: Duration = Duration::from_secs(60);

/// How long a session whose connection was lost is given to end.
const LOST_SESSION_PATIENCE: Duration = Duration::from_secs(10);

/// A file to apply.
pub(crate) struct Job<'a> {
    pub(crate) migration: &'a Migration,
    pub(crate) attempt: Attempt<'a>,
    /// The ledger tells of an earlier success of ours, which a failure does not undo.
    pub(crate) keep: bool,
    /// For a file that runs statement by statement: what earlier attempts at it have done.
    pub(crate) steps: Option<Earlier>,
    /// `--force`: also a statement is run again of which nobody knows whether it was done.
    pub(crate) force: bool,
    /// With `--prove`, where it may convert tables: the promised ones.
    pub(crate) claims: Vec<Claim<'a>>,
    /// What is done to background jobs before it.
    pub(crate) background: Background,
}

/// What is done to background jobs before a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Background {
    /// Nothing: there are none.
    Leave,
    /// Those of these tables are paused, of all tables where None.
    Pause(Option<Vec<String>>),
    /// Those that this run has paused are given back: the file says itself what they are to do, and that stays.
    GiveBack,
}

impl Job<'_> {
    /// Nothing has to be done between the COMMIT of the file before and the BEGIN of this one.
    fn begins_at_once(&self) -> bool {
        self.steps.is_none() && self.background == Background::Leave
    }
}

/// What earlier attempts at a file have done.
#[derive(Debug, Clone, Default)]
pub(crate) struct Earlier {
    /// Its statements that were begun, by number.
    pub(crate) steps: BTreeMap<i32, Step>,
}

/// How an attempt ended.
pub(crate) enum Outcome {
    /// Committed, with its ledger row; with `--prove`, and what that has proven.
    Applied { proof: Option<Proof> },
    /// Rolled back, or stopped in the middle of a file that runs statement by statement.
    Failed { failure: Failure, left: Left },
    /// A signal stopped it.
    Interrupted { left: Left },
    /// The answer to a COMMIT was lost and could not be learned.
    Unknown { error: Error },
}

/// What is in the database of a file that did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Left {
    /// Nothing.
    Nothing,
    /// Some of its statements.
    Part {
        /// How many are done.
        done: usize,
        /// Of how many.
        of: usize,
        /// What else an operator should know.
        notes: Vec<String>,
    },
}

/// An end, with when the attempt began and its whole time.
pub(crate) struct Report {
    pub(crate) outcome: Outcome,
    pub(crate) began: Instant,
    pub(crate) milliseconds: u64,
}

/// The lock of the run, shared by all workers. None only on a server with a single session.
pub(crate) struct SharedLock {
    lock: Option<Mutex<RunLock>>,
    token: Option<i64>,
}

impl SharedLock {
    pub(crate) fn new(lock: Option<RunLock>) -> Self {
        Self { token: lock.as_ref().map(RunLock::token), lock: lock.map(Mutex::new) }
    }

    fn check(&self) -> Result<()> {
        self.lock.as_ref().map_or(Ok(()), |lock| lock.lock().unwrap_or_else(PoisonError::into_inner).check())
    }
}

/// A session that applies one file at a time.
pub(crate) struct Worker<'a> {
    sessions: &'a Sessions<'a>,
    session: Session,
    lock: &'a SharedLock,
    watch: Option<Watch>,
    lock_retries: u32,
    /// The attempt that the last COMMIT has begun already.
    ahead: Option<(Attempt<'a>, Begun)>,
}

/// Why an attempt came to no good end.
enum Stop {
    Failed(Failure),
    Unknown(Error),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error.into())
    }
}

impl<'a> Worker<'a> {
    /// A worker on an open session. `patience` is how long a statement may take before it is watched; None where
    /// there can be no second session to watch from.
    pub(crate) fn new(
        sessions: &'a Sessions<'a>,
        session: Session,
        lock: &'a SharedLock,
        patience: Option<Duration>,
        lock_retries: u32,
    ) -> Self {
        let watch = patience.map(|patience| Watch::start(sessions.settings, patience));
        Self { sessions, session, lock, watch, lock_retries, ahead: None }
    }

    /// The working session.
    pub(crate) fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Runs one migration to its end, and records how it ended. `next` is the job that this worker gets after a success:
    /// its attempt begins in the message that commits this one.
    ///
    /// # Errors
    /// Where it could not even begin: the lock is lost, or the session.
    pub(crate) fn apply(&mut self, job: &Job<'a>, next: Option<&Job<'a>>) -> Result<Report> {
        let clock = Instant::now();
        match &job.background {
            Background::Leave => {}
            Background::Pause(tables) => self.pause_jobs(tables.as_deref(), job.attempt.run_id),
            Background::GiveBack => self.give_back_jobs(|client| {
                let _ = give_back(client, Some(job.attempt.run_id));
            }),
        }
        let begun = self.begin(job)?;
        let outcome = match &job.steps {
            None => transaction::apply(self, job, &begun, next.filter(|next| next.begins_at_once())),
            Some(earlier) => stepwise::apply(self, job, earlier, &begun),
        };
        let milliseconds = u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(Report { outcome, began: clock, milliseconds })
    }

    /// Unschedules the jobs of tables. One that cannot be is waited for as any other session is.
    fn pause_jobs(&mut self, tables: Option<&[String]>, run_id: &str) {
        let client = &mut self.session.client;
        let paused = client
            .batch_execute("RESET ALL; RESET SESSION AUTHORIZATION")
            .and_then(|()| jobs::pause(client, tables, run_id));
        match paused {
            Ok(paused) => {
                for job in paused {
                    log::info!("Background job {job} is paused until the end of this run");
                }
            }
            Err(error) => {
                log::warn!("cannot pause background jobs: {}; going on", reasons(&error).join("; "))
            }
        }
    }

    /// Takes back the beginning of a job that does not run after all.
    fn withdraw(&mut self) {
        if let Some((attempt, _)) = self.ahead.take() {
            self.session.roll_back();
            self.forget(attempt);
        }
    }

    fn forget(&mut self, attempt: Attempt<'_>) {
        if let Err(error) = ledger::withdraw(&mut self.session.client, attempt) {
            let reasons = reasons(&error).join("; ");
            log::warn!("the ledger tells of an attempt at {} that was not made: {reasons}", attempt.name);
        }
    }

    /// Ends the run's hold on background jobs, in a session that is clean.
    pub(crate) fn give_back_jobs(&mut self, give_back: impl FnOnce(&mut Client)) {
        self.withdraw();
        let clean = self.session.client.batch_execute("RESET ALL; RESET SESSION AUTHORIZATION").is_ok();
        if clean || self.reconnect().is_ok() {
            give_back(&mut self.session.client);
        }
    }

    fn begin(&mut self, job: &Job<'_>) -> Result<Begun> {
        match &self.ahead {
            Some((attempt, begun)) if attempt.name == job.attempt.name => {
                let begun = begun.clone();
                self.ahead = None;
                return Ok(begun);
            }
            _ => self.withdraw(),
        }
        let Session { client, backend, prepared, .. } = &mut self.session;
        let token = self.lock.token;
        let begun = if job.steps.is_none() {
            ledger::begin(client, job.attempt, backend, token, prepared)
        } else {
            prepared.forget();
            ledger::begin_stepwise(client, job.attempt, backend, token)
        };
        begun.map_err(|error| {
            self.lock.check().err().unwrap_or_else(|| {
                Error::new(Exit::Failed, format!("cannot begin migration {}", job.migration.title))
                    .because_all(reasons(&error))
                    .because("nothing of it was applied")
                    .hint("run it again")
            })
        })
    }

    /// Runs what is meant to change the database, watched.
    fn watched<T>(&mut self, what: impl FnOnce() -> String, run: impl FnOnce(&mut Session) -> T) -> T {
        if let Some(watch) = &self.watch {
            watch.begin(self.session.backend.pid, what);
        }
        let result = run(&mut self.session);
        if let Some(watch) = &self.watch {
            watch.end();
        }
        result
    }

    /// Whether it is worth another try; then it says whom it waited for, and has slept.
    fn try_again(&self, job: &Job<'_>, failure: &Failure, retries: &mut Retries) -> bool {
        if !is_conflict(failure.error.sqlstate()) || interrupt::requested().is_some() {
            return false;
        }
        let Some((number, pause)) = retries.next() else { return false };
        let lock = if failure.error.sqlstate() == Some("40P01") {
            "met a deadlock"
        } else {
            "did not get a lock in time"
        };
        log::warn!(
            "{} {lock}{}; rolled back, trying again in {:.1} s (try {number} of {})",
            job.migration.title,
            failure.place.as_ref().map(|place| format!(" at {place}")).unwrap_or_default(),
            pause.as_secs_f32(),
            self.lock_retries
        );
        for blocker in self.blockers() {
            log::warn!("It waited for {blocker}");
        }
        interrupt::sleep(pause)
    }

    fn blockers(&self) -> Vec<String> {
        self.watch.as_ref().map(Watch::blockers).unwrap_or_default()
    }

    /// What is known of a lock that could not be had, added to the failure.
    fn explained(&self, mut failure: Failure) -> Failure {
        if is_conflict(failure.error.sqlstate()) {
            failure.explain(self.blockers());
        }
        failure
    }

    /// Opens another session in the place of one that is gone, and makes sure that it is gone on the server too: where
    /// only the network is, its statement would go on there.
    fn reconnect(&mut self) -> Result<()> {
        let mut session = self.sessions.open_again()?;
        let lost = std::mem::replace(&mut self.session.backend, session.backend.clone());
        match backend::end_one(&mut session.client, &lost, LOST_SESSION_PATIENCE) {
            Ok(true) => {}
            Ok(false) => log::warn!("the lost session (pid {}) still works on the server", lost.pid),
            Err(error) => log::warn!("cannot end the lost session: {}", reasons(&error).join("; ")),
        }
        self.session = session;
        Ok(())
    }

    /// The answer to a COMMIT was lost: only the server knows how that ended.
    fn look_up(
        &mut self,
        title: &str,
        committed: impl Fn(&mut Client) -> std::result::Result<bool, postgres::Error>,
        lost: &postgres::Error,
    ) -> std::result::Result<(), Stop> {
        let worked = self.session.backend.clone();
        let what = if connection_lost(lost) {
            format!("The connection was lost during the COMMIT of {title}")
        } else {
            format!("What the server answered to the COMMIT of {title} cannot be read")
        };
        log::warn!("{what}; asking the server how it ended");
        let deadline = Instant::now() + LOST_COMMIT_PATIENCE;
        loop {
            let answer = self.reconnect().and_then(|()| {
                // In this order: what a process has committed that is gone is there to be seen.
                let client = &mut self.session.client;
                let known = worked
                    .lives(client)
                    .and_then(|lives| if lives { Ok(None) } else { committed(client).map(Some) });
                known.map_err(|error| {
                    Error::new(Exit::Partial, "the server did not say").because_all(reasons(&error))
                })
            });
            match answer {
                Ok(Some(true)) => return Ok(()),
                Ok(Some(false)) => {
                    return Err(Error::new(
                        Exit::Failed,
                        format!("Migration {title} failed: the connection was lost before its COMMIT"),
                    )
                    .because_all(reasons(lost))
                    .into());
                }
                Ok(None) | Err(_)
                    if Instant::now() < deadline && interrupt::sleep(Duration::from_secs(1)) => {}
                Ok(None) | Err(_) => {
                    let why = match interrupt::requested() {
                        Some(_) => "a signal ended the wait for the server's answer".to_owned(),
                        None => format!("the server gave no answer for {} s", LOST_COMMIT_PATIENCE.as_secs()),
                    };
                    return Err(Stop::Unknown(
                        Error::new(
                            Exit::Partial,
                            format!("it is not known whether migration {title} was committed"),
                        )
                        .because_all(reasons(lost))
                        .because(why)
                        .hint("once the server is back, --status tells; then run it again: it goes on from there"),
                    ));
                }
            }
        }
    }

    /// Writes the end down, after the rollback; what cannot be written is a warning, since the rollback stands.
    fn conclude(&mut self, job: &Job<'_>, begun: &Begun, stop: Stop, left: Left) -> Outcome {
        let failure = match stop {
            Stop::Failed(failure) => failure,
            Stop::Unknown(error) => return Outcome::Unknown { error },
        };
        let interrupted = interrupt::requested().is_some();
        let failure = self.explained(failure);
        let message =
            if interrupted { "stopped by a signal".to_owned() } else { failure.error.lines().join("\n") };
        let ended = Ended {
            end: if interrupted { End::Interrupted } else { End::Failed },
            sqlstate: failure.error.sqlstate(),
            message: Some(&message),
            replace: !job.keep && !interrupted,
        };
        self.record(job, begun, ended);
        if interrupted { Outcome::Interrupted { left } } else { Outcome::Failed { failure, left } }
    }

    fn record(&mut self, job: &Job<'_>, begun: &Begun, ended: Ended<'_>) {
        let mut result = Ok(());
        // Once more where the session is gone, or a cancel that was meant for the statement came late.
        for _ in 0..2 {
            let client = &mut self.session.client;
            result = client
                .batch_execute("RESET SESSION AUTHORIZATION")
                .and_then(|()| ledger::end(client, job.attempt, begun.id, ended));
            match &result {
                Ok(()) => return,
                Err(error) if connection_lost(error) => {
                    if self.reconnect().is_err() {
                        break;
                    }
                }
                Err(_) => {}
            }
        }
        if let Err(error) = result {
            log::warn!("how it ended could not be recorded in the ledger: {}", reasons(&error).join("; "));
        }
    }
}
