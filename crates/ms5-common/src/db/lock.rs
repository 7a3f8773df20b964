//! One writer at a time for a database: an advisory lock, held by a session of its own that runs nothing else.
//!
//! The lock is polled with `pg_try_advisory_lock`, never waited in: a session that waits for an advisory lock
//! holds a snapshot, and CREATE INDEX CONCURRENTLY in the session that holds the lock would wait for it for ever.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, Instant};

use crate::db::client::Client;
use postgres::types::Type;

use crate::config::Settings;
use crate::db::connect::Connected;
use crate::db::pooler::{self, Pair};
use crate::db::server_error::reasons;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::interrupt;

/// The key, "MS5_MIGR" in ASCII: the same for every tool, so that they see each other's locks.
pub const KEY: i64 = 0x4d53_355f_4d49_4752;

/// How often a busy lock is tried again.
const POLL: Duration = Duration::from_millis(200);

/// How often it is tried to give back a lock that a pooler has put out of our reach.
const RELEASES: usize = 10;

/// Who may hold the lock beside us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Nobody: migrations, conversions, restores.
    Exclusive,
    /// Others that only read: backups.
    Shared,
}

/// The lock, held for as long as this value lives: the session ends with it.
pub struct RunLock {
    session: Client,
    /// The backend that holds it.
    backend: i32,
    /// Whether a pooler is in between, which may keep the backend when the session ends.
    pooled: bool,
    mode: Mode,
    /// A second lock that is this run's alone, taken and lost together with the first.
    token: i64,
}

impl RunLock {
    /// Takes the lock on the session `lock`, trying for up to `wait`. `worker` is the session that it is for.
    ///
    /// # Errors
    /// [`Exit::Unreachable`] when another run holds it (named by pid, application, user, host and age);
    /// [`Exit::Config`] when the sessions do not have a backend each that they keep, as behind a transaction pooler.
    pub fn acquire(
        settings: &Settings,
        lock: Connected,
        worker: Connected,
        mode: Mode,
        wait: Duration,
    ) -> Result<(Self, Client)> {
        let mut pair = pooler::examine(settings, lock, worker)?;
        take(settings, &mut pair, mode, wait)?;
        let token = take_token(&mut pair)?;
        let Pair { lock, lock_backend, worker, pooled, .. } = pair;
        Ok((Self { session: lock, backend: lock_backend, pooled, mode, token }, worker))
    }

    /// What proves in a message of another session that the lock is still held; see [`guard`].
    #[must_use]
    pub fn token(&self) -> i64 {
        self.token
    }

    /// Whether a pooler is between us and the server.
    #[must_use]
    pub fn pooled(&self) -> bool {
        self.pooled
    }

    /// Checks that the lock is still held.
    ///
    /// # Errors
    /// [`Exit::Failed`] when it is not: the session was ended, and another run may have begun.
    pub fn check(&mut self) -> Result<()> {
        let lost = |reasons: Vec<String>| {
            Error::new(Exit::Failed, "the advisory lock of this database was lost")
                .because_all(reasons)
                .hint("find out who ended the session (the server's log), then run it again")
        };
        match holds(&mut self.session, self.backend) {
            Ok((pid, true)) if pid == self.backend => Ok(()),
            Ok((pid, _)) if pid == self.backend => {
                Err(lost(vec!["the lock's session no longer holds it".to_owned()]))
            }
            Ok((pid, _)) => Err(lost(vec![format!(
                "its session went from backend {} to backend {pid}: a pooler in between is in transaction mode",
                self.backend
            )])),
            Err(error) => Err(lost(reasons(&error))),
        }
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // PostgreSQL releases it when the session ends; a pooler may give the backend to the next one as it is.
        if self.pooled && !self.session.is_closed() {
            release(&mut self.session, self.backend, self.mode);
            let _ = self.session.query_typed("SELECT pg_advisory_unlock($1)", &[(&self.token, Type::INT8)]);
        }
    }
}

/// Takes the lock on the pair's first session, and sees it from the second.
fn take(settings: &Settings, pair: &mut Pair, mode: Mode, wait: Duration) -> Result<()> {
    let failed = |error: &postgres::Error| {
        Error::new(Exit::Unreachable, "cannot take the advisory lock of this database")
            .because_all(reasons(error))
            .hint("run it again once the server answers")
    };
    let session = &mut pair.lock;
    let function = match mode {
        Mode::Exclusive => "pg_try_advisory_lock",
        Mode::Shared => "pg_try_advisory_lock_shared",
    };
    // A backend that is not the session's own would keep the lock for ever.
    let attempt = format!("SELECT CASE WHEN pg_backend_pid() = $2 THEN {function}($1) END, pg_backend_pid()");
    let deadline = Instant::now() + wait;
    let mut told = false;
    loop {
        let row = session
            .query_typed_one(&attempt, &[(&KEY, Type::INT8), (&pair.lock_backend, Type::INT4)])
            .map_err(|error| failed(&error))?;
        match row.get::<_, Option<bool>>(0) {
            Some(true) => break,
            Some(false) => {}
            None => return Err(pooler::moved(settings, pair.lock_backend, row.get(1))),
        }
        let holder = holder(session).map_err(|error| failed(&error))?;
        if Instant::now() >= deadline {
            return Err(Error::new(Exit::Unreachable, "another run holds the lock of this database")
                .because(holder)
                .because("nothing was touched")
                .hint("wait for it to end, or give more time with --lock-wait=SECONDS")
                .hint("if its runner's machine is gone for good, end that session: SELECT pg_terminate_backend(PID)"));
        }
        if !told {
            log::info!(
                "Another run holds the lock of this database; waiting up to {} s: {holder}",
                wait.as_secs()
            );
            told = true;
        }
        if !interrupt::sleep(POLL) {
            let exit = interrupt::requested().unwrap_or(Exit::Terminate);
            return Err(Error::new(exit, "stopped by a signal").because("nothing was touched"));
        }
    }
    let (pid, seen) = holds(&mut pair.worker, pair.lock_backend).map_err(|error| failed(&error))?;
    if pid == pair.worker_backend && pid != pair.lock_backend && seen {
        return Ok(());
    }
    // The backend may not be the lock's session any more.
    for _ in 0..RELEASES {
        if release(&mut pair.lock, pair.lock_backend, mode)
            || release(&mut pair.worker, pair.lock_backend, mode)
        {
            break;
        }
    }
    if pid != pair.worker_backend {
        return Err(pooler::moved(settings, pair.worker_backend, pid));
    }
    Err(Error::new(Exit::Config, format!("the lock of {} is not seen by the session that works", settings.database()))
        .because(format!(
            "backend {} took it and backend {pid} does not see it: they seem to be of two servers behind one address",
            pair.lock_backend
        ))
        .because("nothing was touched")
        .hint("connect to one PostgreSQL server itself, with DB_HOST and DB_PORT"))
}

/// The backend that answers for `session`, and whether `holder` holds the lock.
fn holds(session: &mut Client, holder: i32) -> std::result::Result<(i32, bool), postgres::Error> {
    let row = session.query_typed_one(
        "SELECT pg_backend_pid(), EXISTS (
             SELECT FROM pg_catalog.pg_locks
             WHERE locktype = 'advisory' AND granted AND pid = $2 AND objsubid = 1
               AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
               AND (classid::bigint << 32) | objid::bigint = $1)",
        &[(&KEY, Type::INT8), (&holder, Type::INT4)],
    )?;
    Ok((row.get(0), row.get(1)))
}

/// Gives the lock back if `session` is answered by the backend that holds it; true if that is done.
fn release(session: &mut Client, holder: i32, mode: Mode) -> bool {
    let function = match mode {
        Mode::Exclusive => "pg_advisory_unlock",
        Mode::Shared => "pg_advisory_unlock_shared",
    };
    let query = format!("SELECT CASE WHEN pg_backend_pid() = $2 THEN {function}($1) ELSE false END");
    let row = session.query_typed_one(&query, &[(&KEY, Type::INT8), (&holder, Type::INT4)]);
    row.is_ok_and(|row| row.get(0))
}

/// A statement that fails with 22012 (division by zero) where the run's lock is no longer held: put in front of a COMMIT,
/// it keeps a run that has lost its lock from writing, without a round trip of its own, and without a look at all locks.
///
/// The token is a lock that nobody but the run's own lock session takes. Who gets it in its place knows that the session
/// is gone, and the run's lock with it.
#[must_use]
pub fn guard(token: i64) -> String {
    format!(
        "SELECT 1 / CASE WHEN pg_catalog.pg_try_advisory_xact_lock({token}) THEN 0 ELSE 1 END AS the_lock_is_held"
    )
}

/// Takes a lock of a number that nobody else thinks of.
fn take_token(pair: &mut Pair) -> Result<i64> {
    let failed = |why: Vec<String>| {
        Error::new(Exit::Unreachable, "cannot take the advisory lock of this run")
            .because_all(why)
            .because("nothing was touched")
            .hint("run it again")
    };
    let token = i64::from_ne_bytes(RandomState::new().build_hasher().finish().to_ne_bytes());
    let row = pair
        .lock
        .query_typed_one("SELECT pg_try_advisory_lock($1)", &[(&token, Type::INT8)])
        .map_err(|error| failed(reasons(&error)))?;
    if row.get(0) { Ok(token) } else { Err(failed(vec!["its number is taken".to_owned()])) }
}

/// Who holds the lock, in words.
fn holder(session: &mut Client) -> std::result::Result<String, postgres::Error> {
    let rows = session.query_typed(
        "SELECT l.pid, coalesce(a.application_name, ''), coalesce(a.usename, '?')::text,
                coalesce(host(a.client_addr), 'the local socket'),
                coalesce(to_char(a.backend_start, 'YYYY-MM-DD HH24:MI:SS TZ'), '?')
         FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
         WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
           AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
           AND (l.classid::bigint << 32) | l.objid::bigint = $1",
        &[(&KEY, Type::INT8)],
    )?;
    let words: Vec<String> = rows
        .iter()
        .map(|row| {
            format!(
                "held by pid {} ({:?}), user {}, from {}, connected since {}",
                row.get::<_, i32>(0),
                row.get::<_, String>(1),
                row.get::<_, String>(2),
                row.get::<_, String>(3),
                row.get::<_, String>(4)
            )
        })
        .collect();
    Ok(if words.is_empty() { "its holder has just gone".to_owned() } else { words.join("; ") })
}
