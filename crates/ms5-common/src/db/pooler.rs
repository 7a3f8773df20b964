//! Poolers in between: whether each of a run's two sessions has a backend of its own that it keeps.
//!
//! Behind a pooler in transaction or statement mode it has not: the advisory lock would be taken on a backend that
//! the next transaction of anybody may get, and stay there when the run is over. What tells:
//!
//! - PostgreSQL gives every session its backend's pid when it logs in, as part of the key for cancel requests. Where
//!   `pg_backend_pid()` says the same, no pooler is in between. That is the common case; it costs one query.
//! - A pooler gives a key of its own, in every mode. Then both sessions are watched over several rounds, one of them
//!   in a transaction, which pins its backend. A backend that answers for both, or a session that changes its
//!   backend, is the proof. A pooler that hands out the backend used last shows the first, one that takes turns
//!   the second.
//! - On a socket file the key is not seen. There the sessions are watched too, and a direct one passes.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use crate::db::client::Client;
use postgres::SimpleQueryMessage;

use crate::config::Settings;
use crate::db::connect::Connected;
use crate::db::server_error::reasons;
use crate::error::{Error, Result};
use crate::exit::Exit;

/// How often the sessions are watched behind a pooler. One round finds PgBouncer's both orders; more are against
/// other clients of the same pool, which may take a backend away just when it would have told.
const ROUNDS: usize = 5;

/// How long the sessions may take for that: a pool with no second connection to give would let one wait for ever.
const PATIENCE: Duration = Duration::from_secs(20);

/// Two sessions, each with a backend of its own.
pub(super) struct Pair {
    pub(super) lock: Client,
    pub(super) lock_backend: i32,
    pub(super) worker: Client,
    pub(super) worker_backend: i32,
    /// Whether a pooler is in between, in session mode.
    pub(super) pooled: bool,
}

/// Makes sure that each session has a backend that it keeps. Nothing is locked or changed for that.
///
/// # Errors
/// [`Exit::Config`] behind a pooler that does not leave a session on one backend, has no two backends to give, or
/// drops PGOPTIONS; [`Exit::Unreachable`] when the connection fails.
pub(super) fn examine(settings: &Settings, lock: Connected, worker: Connected) -> Result<Pair> {
    let mut client = worker.client;
    let worker_backend = backend(&mut client).map_err(|error| unanswered(settings, &error))?;
    if let Some(lock_backend) = lock.backend
        && worker.backend == Some(worker_backend)
    {
        return Ok(Pair { lock: lock.client, lock_backend, worker: client, worker_backend, pooled: false });
    }
    let certain = worker.backend.is_some() && lock.backend.is_some();
    let who = if certain { "A pooler answers" } else { "A pooler may answer" };
    log::debug!("{who} on {}: looking whether it leaves a session on one backend", lock.address);
    let mut pair = Pair { lock: lock.client, lock_backend: 0, worker: client, worker_backend, pooled: true };
    // In a thread that is left behind where the pooler does not answer it.
    let (send, receive) = sync_channel(1);
    let watching = thread::Builder::new().name("pooler".to_owned()).spawn(move || {
        let found = watch(&mut pair);
        let _ = send.send((pair, found));
    });
    if let Err(error) = watching {
        return Err(Error::new(Exit::Unreachable, "cannot start a thread to look at the pooler with")
            .because(error)
            .because("nothing was touched")
            .hint("free memory and processes on this host, then run it again"));
    }
    let (pair, found) = match receive.recv_timeout(PATIENCE) {
        Ok(answer) => answer,
        Err(RecvTimeoutError::Timeout) if certain => {
            let seconds = PATIENCE.as_secs();
            let why = format!("it had no second connection to PostgreSQL for us within {seconds} s");
            return Err(refusal(settings, vec![why]));
        }
        Err(error) => return Err(silent(settings, vec![error.to_string()])),
    };
    match found {
        Ok(()) => {}
        Err(Finding::Shared(pid)) => return Err(shared(settings, pid)),
        Err(Finding::Moved(from, to)) => return Err(moved(settings, from, to)),
        Err(Finding::Cut(error)) if certain => {
            let mut why =
                vec!["it ended the session when a transaction was opened: this is statement mode".to_owned()];
            why.extend(reasons(&error));
            return Err(refusal(settings, why));
        }
        Err(Finding::Failed(error) | Finding::Cut(error)) => return Err(unanswered(settings, &error)),
    }
    if certain {
        log::info!(
            "The connection goes through a pooler, which leaves each session on one backend (session mode)"
        );
    }
    keeps_options(settings, pair)
}

/// What speaks against a pooler.
enum Finding {
    /// One backend answered for both sessions.
    Shared(i32),
    /// A session was answered by one backend, then by another.
    Moved(i32, i32),
    /// The session ended when it opened a transaction. The pooler's words are often lost with it.
    Cut(postgres::Error),
    Failed(postgres::Error),
}

impl From<postgres::Error> for Finding {
    fn from(error: postgres::Error) -> Self {
        Self::Failed(error)
    }
}

fn watch(pair: &mut Pair) -> std::result::Result<(), Finding> {
    let Pair { lock, lock_backend, worker, worker_backend, .. } = pair;
    *lock_backend = backend(lock)?;
    for _ in 0..ROUNDS {
        // Right after a statement of the lock's session its backend would be the first, or the only one, to be given
        // to the worker's transaction.
        stays(lock, *lock_backend)?;
        let pinned = begin(worker).map_err(|error| match error.code() {
            None => Finding::Cut(error),
            Some(_) => Finding::Failed(error),
        })?;
        if pinned == *lock_backend {
            return Err(Finding::Shared(pinned));
        }
        same(*worker_backend, pinned)?;
        stays(lock, *lock_backend)?;
        worker.batch_execute("ROLLBACK")?;
        // Now the worker's would be the first; and of two that take turns, one of two statements gets the other.
        stays(lock, *lock_backend)?;
        stays(lock, *lock_backend)?;
        stays(worker, *worker_backend)?;
        stays(worker, *worker_backend)?;
    }
    Ok(())
}

fn stays(session: &mut Client, pid: i32) -> std::result::Result<(), Finding> {
    same(pid, backend(session)?)
}

fn same(from: i32, to: i32) -> std::result::Result<(), Finding> {
    if from == to { Ok(()) } else { Err(Finding::Moved(from, to)) }
}

fn backend(session: &mut Client) -> std::result::Result<i32, postgres::Error> {
    Ok(session.query_typed_one("SELECT pg_catalog.pg_backend_pid()", &[])?.get(0))
}

/// Opens a transaction and tells its backend, in one message; 0 where the answer is no number.
fn begin(session: &mut Client) -> std::result::Result<i32, postgres::Error> {
    let messages = session.simple_query("BEGIN; SELECT pg_catalog.pg_backend_pid()")?;
    let mut rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    Ok(rows.next().and_then(|pid| pid.parse().ok()).unwrap_or_default())
}

/// A pooler that takes our start-up options and drops them (PgBouncer's `ignore_startup_parameters`): without those
/// of the operator a migration could end in another schema, or run without its time limit.
fn keeps_options(settings: &Settings, mut pair: Pair) -> Result<Pair> {
    let row = pair
        .worker
        .query_typed_one(
            "SELECT bool_and(source IN ('client', 'session')), bool_and(setting = '0')
             FROM pg_catalog.pg_settings WHERE name = 'idle_in_transaction_session_timeout'",
            &[],
        )
        .map_err(|error| unanswered(settings, &error))?;
    let (kept, harmless) = (row.get::<_, Option<bool>>(0), row.get::<_, Option<bool>>(1));
    if kept == Some(true) {
        return Ok(pair);
    }
    if settings.connection.options.is_some() {
        return Err(Error::new(
            Exit::Config,
            format!("a pooler answers for {} and drops PGOPTIONS", settings.database()),
        )
        .because("a migration would run without the settings that PGOPTIONS asks for")
        .because("nothing was touched")
        .hint("connect to PostgreSQL itself, with DB_HOST and DB_PORT; or unset PGOPTIONS"));
    }
    if harmless != Some(true) {
        log::warn!(
            "The pooler drops what a session of ours is started with, so the server's idle_in_transaction_session_timeout may end a run in the middle of a file"
        );
    }
    Ok(pair)
}

/// Nothing can be run through this pooler, and what told.
fn refusal(settings: &Settings, reasons: Vec<String>) -> Error {
    Error::new(
        Exit::Config,
        format!(
            "a pooler answers for {} and does not give a run two backends of its own",
            settings.database()
        ),
    )
    .because_all(reasons)
    .because("the lock, the settings and the temporary tables of a run would be shared with others, or lost")
    .because("nothing was touched")
    .hint("connect to PostgreSQL itself, with DB_HOST and DB_PORT")
    .hint("through a pooler only in session mode, and with two connections free for this role and database")
}

/// One backend answered for both sessions.
fn shared(settings: &Settings, pid: i32) -> Error {
    let why =
        format!("backend {pid} answered for two sessions: this is transaction mode (or statement mode)");
    refusal(settings, vec![why])
}

/// A session was answered by one backend, then by another.
pub(super) fn moved(settings: &Settings, from: i32, to: i32) -> Error {
    let why = format!(
        "a session was answered by backend {from}, then by backend {to}: this is transaction mode (or statement mode)"
    );
    refusal(settings, vec![why])
}

/// A question that failed. 08P01 (protocol violation) is how PgBouncer says everything that it refuses.
fn unanswered(settings: &Settings, error: &postgres::Error) -> Error {
    if error.code().is_some_and(|code| code.code() == "08P01") {
        return refusal(settings, reasons(error));
    }
    silent(settings, reasons(error))
}

/// No answer.
fn silent(settings: &Settings, reasons: Vec<String>) -> Error {
    Error::new(Exit::Unreachable, format!("cannot ask {} for its backends", settings.database()))
        .because_all(reasons)
        .because("nothing was touched")
        .hint("run it again once the server answers")
}
