//! One writer at a time for a database: an advisory lock, held by a session of its own that runs nothing else.
//!
//! The lock is polled with `pg_try_advisory_lock`, never waited in: a session that waits for an advisory lock
//! holds a snapshot, and CREATE INDEX CONCURRENTLY in the session that holds the lock would wait for it for ever.

use std::thread;
use std::time::{Duration, Instant};

use postgres::Client;

use crate::db::server_error::reasons;
use crate::error::{Error, Result};
use crate::exit::Exit;

/// The key, "MS5_MIGR" in ASCII: the same for every tool, so that they see each other's locks.
const KEY: i64 = 0x4d53_355f_4d49_4752;

/// How often a busy lock is tried again.
const POLL: Duration = Duration::from_millis(200);

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
    pid: i32,
}

impl RunLock {
    /// Takes the lock on `session`, trying for up to `wait`.
    ///
    /// # Errors
    /// [`Exit::Unreachable`] when another run holds it (named by pid, application, user, host and age);
    /// [`Exit::Config`] when the session does not stay with one backend, as behind a transaction pooler.
    pub fn acquire(mut session: Client, mode: Mode, wait: Duration) -> Result<Self> {
        let failed = |error: &postgres::Error| {
            Error::new(Exit::Unreachable, "cannot take the advisory lock of this database")
                .because_all(reasons(error))
                .hint("run it again once the server answers")
        };
        let function = match mode {
            Mode::Exclusive => "pg_try_advisory_lock",
            Mode::Shared => "pg_try_advisory_lock_shared",
        };
        let deadline = Instant::now() + wait;
        let mut told = false;
        let pid = loop {
            let row = session
                .query_one(&format!("SELECT {function}($1), pg_backend_pid()"), &[&KEY])
                .map_err(|error| failed(&error))?;
            if row.get::<_, bool>(0) {
                break row.get::<_, i32>(1);
            }
            let holder = holder(&mut session).map_err(|error| failed(&error))?;
            if Instant::now() >= deadline {
                return Err(Error::new(Exit::Unreachable, "another run holds the lock of this database")
                    .because(holder)
                    .because("nothing was touched")
                    .hint("wait for it to end, or give more time with --lock-wait=SECONDS"));
            }
            if !told {
                log::info!(
                    "Another run holds the lock of this database; waiting up to {} s: {holder}",
                    wait.as_secs()
                );
                told = true;
            }
            thread::sleep(POLL);
        };
        let mut lock = Self { session, pid };
        // A transaction pooler gives the lock to one backend and the next statement to another.
        if lock.held_by().map_err(|error| failed(&error))? != Some(pid) {
            return Err(Error::new(Exit::Config, "the advisory lock does not stay with this session")
                .because("the connection seems to go through a pooler in transaction mode")
                .hint(
                    "connect to PostgreSQL itself, or to the pooler's session mode, with DB_HOST and DB_PORT",
                ));
        }
        Ok(lock)
    }

    /// The server process that holds the lock.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
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
        match self.held_by() {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(lost(vec!["the lock's session no longer holds it".to_owned()])),
            Err(error) => Err(lost(reasons(&error))),
        }
    }

    /// The backend that answers for this session, if it holds the lock.
    fn held_by(&mut self) -> std::result::Result<Option<i32>, postgres::Error> {
        let row = self.session.query_opt(
            "SELECT pid FROM pg_catalog.pg_locks
             WHERE locktype = 'advisory' AND granted AND pid = pg_backend_pid() AND objsubid = 1
               AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
               AND (classid::bigint << 32) | objid::bigint = $1",
            &[&KEY],
        )?;
        Ok(row.map(|row| row.get(0)))
    }
}

/// A statement that fails with 22012 (division by zero) where the exclusive lock is not held by the server process `pid`:
/// put in front of a COMMIT, it keeps a run that has lost its lock from writing, without a round trip of its own.
#[must_use]
pub fn guard(pid: i32) -> String {
    format!(
        "SELECT 1 / (SELECT count(*) FROM pg_catalog.pg_locks
                     WHERE locktype = 'advisory' AND granted AND mode = 'ExclusiveLock' AND pid = {pid} AND objsubid = 1
                       AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
                       AND (classid::bigint << 32) | objid::bigint = {KEY}) AS the_lock_is_held"
    )
}

/// Who holds the lock, in words.
fn holder(session: &mut Client) -> std::result::Result<String, postgres::Error> {
    let rows = session.query(
        "SELECT l.pid, coalesce(a.application_name, ''), coalesce(a.usename, '?')::text,
                coalesce(host(a.client_addr), 'the local socket'),
                coalesce(to_char(a.backend_start, 'YYYY-MM-DD HH24:MI:SS TZ'), '?')
         FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
         WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
           AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
           AND (l.classid::bigint << 32) | l.objid::bigint = $1",
        &[&KEY],
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
