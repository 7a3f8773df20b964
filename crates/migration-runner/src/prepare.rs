//! What comes before the first file: the lock, what earlier runs have left, the extension, the ledger.

use std::time::Duration;

use ms5_common::db::backend;
use ms5_common::db::client::Client;
use ms5_common::db::connect::Connected;
use ms5_common::db::ledger::{self, State, steps};
use ms5_common::db::lock::{Mode as LockMode, RunLock};
use ms5_common::db::server_error::reasons;
use ms5_common::db::session::{self, Server};
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::interrupt::{self, Work};
use ms5_common::success;
use ms5_common::timescale::{self, Extension, jobs};
use ms5_common::tool::Context;

use crate::apply::{self, Earlier};
use crate::args::Mode;
use crate::look::{Seen, say_extension};
use crate::plan::{Known, Step, last_of};
use crate::run::{Input, unreadable};
use crate::sessions::{Session, Sessions};

/// How often, and after which pause, it is tried again beside the session of a killed run.
const ORPHAN_TRIES: usize = 5;
const ORPHAN_PAUSE: Duration = Duration::from_millis(300);

/// A database that is ready, with what is to be done to it.
pub(crate) struct Ready {
    pub(crate) session: Session,
    /// None only on a server with a single session.
    pub(crate) lock: Option<RunLock>,
    pub(crate) extension: Extension,
    pub(crate) seen: Seen,
    /// For each migration, what happens to it. Empty for --repair and --adopt, which decide for themselves.
    pub(crate) steps: Vec<Step>,
    /// For each migration, what earlier attempts have done of it, and the first of them.
    pub(crate) earlier: Vec<Option<(i64, Earlier)>>,
}

/// Makes everything ready, or refuses before anything is touched. `before` is what was seen before the rollback point.
pub(crate) fn prepare(
    context: &Context,
    input: &Input,
    sessions: &Sessions<'_>,
    connected: Connected,
    server: &Server,
    before: Option<&Seen>,
) -> Result<(Ready, Work)> {
    let (lock, mut session) = lock(input, sessions, server, connected)?;
    let client = &mut session.client;
    if let Some(refused) = session::read_only(client).map_err(unreadable("whether it takes writes"))? {
        return Err(refused);
    }
    // Before the ledger is read: a session that a killed run has left behind may be in the middle of a COMMIT.
    if ledger::state(client).map_err(unreadable("the ledger"))? == State::Current {
        let pooled = lock.as_ref().is_some_and(RunLock::pooled);
        backend::end_orphans(client, pooled, input.options.lock_wait)?;
    }
    let mut seen = Seen::take(client, input)?;
    if before.is_some_and(|before| before.last != seen.last) {
        return Err(overtaken());
    }
    let plans = !matches!(input.options.mode, Mode::Repair | Mode::Adopt);
    let steps = if plans { seen.steps(input)? } else { Vec::new() };
    let earlier = earlier(client, input, &seen, &steps)?;

    say_extension(&seen.extension, &input.settings, false)?;
    let work = interrupt::work().ok_or_else(|| {
        Error::new(interrupt::requested().unwrap_or(Exit::Terminate), "stopped by a signal")
            .because("nothing was touched")
    })?;
    let mut extension = seen.extension.clone();
    if extension.installed.is_none() {
        log::info!("Creating the extension timescaledb");
        beside_an_orphan(|| timescale::create_extension(client))?;
        extension = timescale::extension(client).map_err(unreadable("the extension's state"))?;
        say_extension(&extension, &input.settings, false)?;
    }
    if seen.state == State::Current {
        ledger::close_interrupted(client).map_err(unreadable("the ledger"))?;
    } else {
        beside_an_orphan(|| ensure_ledger(client))?;
    }
    success!("Migration log table created/verified");
    let known = input.known();
    for last in known.iter().filter_map(|known| last_of(known, &seen.last)).filter(|last| last.unfinished) {
        let left = if last.steps > 0 {
            "it goes on at the statement after the last one that is done"
        } else {
            "its transaction was rolled back, nothing of it is left"
        };
        log::warn!("An earlier run ended in the middle of {}; {left}", last.name);
    }
    // Every run of which jobs are on record has ended: this one holds the lock.
    count_given_back(context, give_back(client, None));
    seen.paused.clear();
    Ok((Ready { session, lock, extension, seen, steps, earlier }, work))
}

/// Another run was at work between the rollback point and this run's lock.
fn overtaken() -> Error {
    Error::new(Exit::Unreachable, "another run has migrated this database while the rollback point was made")
        .because("the rollback point is from before that run: going back to it would take that run's work away too")
        .because("nothing was touched")
        .hint("run it again: it makes a new rollback point")
}

/// The advisory lock on a session of its own, with the session that works; no lock where there is but one session,
/// which only a test may allow.
fn lock(
    input: &Input,
    sessions: &Sessions<'_>,
    server: &Server,
    worker: Connected,
) -> Result<(Option<RunLock>, Session)> {
    let canceller = worker.canceller.clone();
    if !server.single_session {
        let (lock, client) = RunLock::acquire(
            &input.settings,
            sessions.connect("lock")?,
            worker,
            LockMode::Exclusive,
            input.options.lock_wait,
        )?;
        return Ok((Some(lock), Session::of(client, canceller)?));
    }
    if input.options.single_session {
        log::warn!(
            "This server has one session only: running without the lock, as --unsafe-single-session says"
        );
        return Ok((None, Session::of(worker.client, canceller)?));
    }
    Err(Error::new(Exit::Config, "this server has one session only and cannot hold the run's lock")
        .because("its backend pid is 0: PostgreSQL in WebAssembly, or something that stands in for a server")
        .because("nothing was touched")
        .hint("use a full PostgreSQL server; for a test on this one: --unsafe-single-session"))
}

/// What earlier attempts have done of files that run statement by statement.
fn earlier(
    client: &mut Client,
    input: &Input,
    seen: &Seen,
    steps: &[Step],
) -> Result<Vec<Option<(i64, Earlier)>>> {
    let mut found = Vec::new();
    for (migration, step) in input.migrations.iter().zip(steps) {
        let last = last_of(&Known::of(migration), &seen.last);
        let open = last.filter(|last| !last.applied && last.steps > 0 && matches!(step, Step::Apply { .. }));
        let Some(last) = open else {
            found.push(None);
            continue;
        };
        let earlier =
            Earlier { steps: steps::read(client, last.series).map_err(unreadable("the ledger's steps"))? };
        apply::fits(migration, &earlier)?;
        found.push(Some((last.series, earlier)));
    }
    Ok(found)
}

/// Tries again where a run that was killed at this very point is still at it on the server: before there is a ledger,
/// nobody has written down which session that is.
fn beside_an_orphan(mut make: impl FnMut() -> Result<()>) -> Result<()> {
    // unique_violation in a catalog, duplicate table, column or object, a lock that could not be had.
    const MET: [&str; 6] = ["23505", "42P07", "42701", "42710", "55P03", "40P01"];
    for _ in 0..ORPHAN_TRIES {
        match make() {
            Err(error) if error.sqlstate().is_some_and(|code| MET.contains(&code)) => {
                log::warn!("Somebody else is making the same: {}; trying again", error.reasons().join("; "));
                let _ = interrupt::sleep(ORPHAN_PAUSE);
            }
            other => return other,
        }
    }
    make()
}

fn ensure_ledger(client: &mut Client) -> Result<()> {
    ledger::ensure(client).map_err(|error| {
        Error::new(Exit::Failed, "cannot create the ledger (public.migration_log, public.migration_attempts)")
            .because_all(reasons(&error))
            .because("no migration was begun")
            .hint(
                "the role needs CREATE on schema public, and must own a migration_log that is there already",
            )
    })
}

/// Schedules again what a run has paused, or every run where None. Gives the number of jobs.
pub(crate) fn give_back(client: &mut Client, run_id: Option<&str>) -> usize {
    match jobs::give_back(client, run_id) {
        Ok(given) => {
            for job in &given {
                log::info!("Background job {job} is scheduled again");
            }
            given.len()
        }
        Err(error) => {
            log::warn!(
                "background jobs stay paused, and are given back by the next run: {}",
                reasons(&error).join("; ")
            );
            0
        }
    }
}

/// For the verdict.
pub(crate) fn count_given_back(context: &Context, given: usize) {
    if given > 0 {
        context.recorder.count("jobs_given_back", given);
    }
}
