//! Does somebody wait for what a fingerprint has locked?
//!
//! The locks are those of any reader, but they last until all is read, which may take an hour. Whoever wants such a table for
//! himself meanwhile (ALTER TABLE, TRUNCATE, drop_chunks) waits for them, and everybody else who asks for it waits behind him. So a
//! session of its own looks for that, and ends the reading: a fingerprint can be taken again, a line that stands still cannot.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use postgres::types::Type;

use super::trouble::failed;
use crate::db::client::Client;
use crate::db::server_error::reasons;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::interrupt;

/// How often it is looked.
const PAUSE: Duration = Duration::from_millis(250);

/// The sessions that hold locks, and whether they are to give them up.
#[derive(Debug, Default)]
pub(super) struct Held {
    pids: Mutex<Vec<i32>>,
    given_up: AtomicBool,
}

impl Held {
    /// Notes a session, before it locks anything.
    pub(super) fn add(&self, client: &mut Client) -> Result<()> {
        let pid = client
            .query_typed_one("SELECT pg_catalog.pg_backend_pid()", &[])
            .map_err(|error| failed("ask a session for its number", &error))?
            .get(0);
        self.pids.lock().unwrap_or_else(PoisonError::into_inner).push(pid);
        Ok(())
    }

    /// Refuses a further statement where somebody waits.
    pub(super) fn may_go_on(&self) -> Result<()> {
        if self.given_up.load(Ordering::Relaxed) {
            return Err(Error::new(
                Exit::Unreachable,
                "the reading of tables was ended for somebody who waits",
            ));
        }
        Ok(())
    }

    fn pids(&self) -> Vec<i32> {
        self.pids.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Does the work, and ends what its sessions ask where somebody has waited for a second for what they hold.
///
/// # Errors
/// The work's; [`Exit::Unreachable`] with who waited where that is why.
pub(super) fn beside<T>(mut watcher: Client, work: impl FnOnce(&Held) -> Result<T>) -> Result<T> {
    let held = &Held::default();
    let (done, ended) = mpsc::channel::<()>();
    let (worked, waited) = thread::scope(|scope| {
        let watching = scope.spawn(move || watch(&mut watcher, held, &ended));
        let worked = work(held);
        drop(done);
        (worked, watching.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    match (worked, waited) {
        (Err(_), Some(waited)) if interrupt::requested().is_none() => Err(waited),
        (worked, _) => worked,
    }
}

/// Looks until the work is done; gives why it was to be ended.
fn watch(client: &mut Client, held: &Held, ended: &mpsc::Receiver<()>) -> Option<Error> {
    let mut why = None;
    while ended.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
        if why.is_none() {
            why = match waits(client, &held.pids()) {
                Ok(None) => continue,
                Ok(Some(who)) => Some(held_up(&who)),
                Err(error) => Some(failed("see who waits for the tables that are read", &error)),
            };
            held.given_up.store(true, Ordering::Relaxed);
        }
        // Again and again: what arrives between two statements is lost.
        let sql = "SELECT pg_catalog.pg_cancel_backend(pid) FROM unnest($1) pid";
        if let Err(error) = client.query_typed(sql, &[(&held.pids(), Type::INT4_ARRAY)]) {
            log::debug!("the reading of tables cannot be cancelled: {}", reasons(&error).join("; "));
        }
    }
    why
}

fn held_up(who: &str) -> Error {
    Error::new(Exit::Unreachable, "the counting and hashing of rows was ended: it kept somebody waiting")
        .because(who)
        .because("whoever asks for that table waits behind it, and no check makes anybody wait for longer than a second")
        .because("no rows are counted and hashed; nothing was changed")
        .hint("run it again in a quiet minute, when nobody alters, truncates or drops these tables or parts of them")
        // lock_not_available: the lock that could not be had was the other one's.
        .with_sqlstate(Some("55P03".to_owned()))
}

/// Who has waited for a second for a lock that one of the sessions has. Of his statement no more than its first words, as it may
/// hold a secret. Who has no user is the server itself: autovacuum gives way by itself.
fn waits(client: &mut Client, pids: &[i32]) -> std::result::Result<Option<String>, postgres::Error> {
    let rows = client.query_typed(
        "SELECT pg_catalog.format('pid %s (%s, user %s) waits with %s for %s on %s', a.pid,
                    coalesce(nullif(a.application_name, ''), 'without a name'), coalesce(a.usename::text, '?'),
                    coalesce(pg_catalog.upper(pg_catalog.substring(a.query, '^\\s*([[:alpha:]]+(\\s+[[:alpha:]_]+)?)')), 'a statement'),
                    l.mode, coalesce(pg_catalog.format('%I.%I', n.nspname, c.relname), l.locktype))
         FROM pg_catalog.pg_locks l
         JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid AND a.usesysid IS NOT NULL
         LEFT JOIN pg_catalog.pg_class c ON c.oid = l.relation
         LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE NOT l.granted AND l.waitstart < pg_catalog.clock_timestamp() - interval '1 second'
           AND l.pid <> ALL ($1) AND pg_catalog.pg_blocking_pids(l.pid) && $1
         ORDER BY l.waitstart LIMIT 1",
        &[(&pids, Type::INT4_ARRAY)],
    )?;
    Ok(rows.first().map(|row| row.get(0)))
}
