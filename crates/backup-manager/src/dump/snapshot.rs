//! The moment that a backup shows: every table locked first, then a snapshot that all sessions share.
//!
//! A snapshot that is older than a lock it waits for would see a table as it was before, and read it as it is now: after a
//! TRUNCATE or compress_chunk() in between that is nothing at all, without an error. So the locks come first, and are listed
//! again until there is nothing new, also in the snapshot itself.

use std::collections::BTreeSet;
use std::panic::resume_unwind;
use std::thread;
use std::time::Duration;

use ms5_common::config::Settings;
use ms5_common::db::client::Client;
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use postgres::error::SqlState;

use crate::sessions::{self, Session, failed, stopped};

/// How often all is begun again, where a table goes away or is wanted by others between two steps.
const TRIES: usize = 5;
/// How many tables one statement locks.
const BATCH: usize = 500;
/// How long a session that follows waits for a lock that the first one has already: somebody stands between.
const FOLLOWING: Duration = Duration::from_secs(5);

/// Sessions that see the same moment, and the locks that make it true.
pub(crate) struct Snapshot {
    /// Each in the snapshot, with locks of its own: none can be made to wait.
    pub(crate) sessions: Vec<Session>,
    /// As pg_export_snapshot() calls it.
    pub(crate) id: String,
    /// Where the server was writing right before.
    pub(crate) wal_position: String,
    /// Where what had been inserted into the WAL by then ended; None on a standby.
    pub(crate) inserted: Option<String>,
    /// Relations that somebody held a lock to write on, after that and before the snapshot.
    pub(crate) writers: Vec<u32>,
}

/// Tables with rows, and those above them: the user's, and what extensions say is the user's of theirs.
pub(super) const TABLES: &str = "SELECT format('%I.%I', n.nspname, c.relname)
     FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
       AND (EXISTS (SELECT FROM pg_catalog.pg_extension e WHERE c.oid = ANY (e.extconfig))
            OR (n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
                AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                                WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid
                                  AND d.deptype = 'e')))
     ORDER BY 1";

/// Takes it over `count` sessions.
///
/// # Errors
/// [`Exit::Unreachable`] where a table stays locked by others; [`Exit::Failed`] where the server refuses.
pub(crate) fn take(settings: &Settings, count: usize, patience: Duration) -> Result<Snapshot> {
    let mut turn = 1;
    loop {
        stopped()?;
        match attempt(settings, count, patience) {
            Ok(snapshot) => return Ok(snapshot),
            Err(Trouble::Moved(why)) if turn < TRIES => log::debug!("the tables moved, once more: {why}"),
            Err(Trouble::Moved(why)) => {
                return Err(Error::new(Exit::Unreachable, "cannot lock the tables for reading")
                    .because(why)
                    .because(format!("tried {TRIES} times; nothing was written"))
                    .hint("run it again when no tables are being made, dropped or locked"));
            }
            Err(Trouble::Failed(error)) => return Err(error),
        }
        turn += 1;
    }
}

enum Trouble {
    /// Worth another try.
    Moved(String),
    Failed(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

fn attempt(settings: &Settings, count: usize, patience: Duration) -> std::result::Result<Snapshot, Trouble> {
    thread::scope(|scope| {
        // A log-in takes as long as what comes before it is needed.
        let open = || sessions::open(settings, "reads");
        let opening: Vec<_> = (0..count).map(|_| scope.spawn(open)).collect();
        let opened =
            opening.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        attempt_with(settings, opened, patience)
    })
}

/// The same with the sessions for it, which may still be logging in.
fn attempt_with(
    settings: &Settings,
    opened: impl Iterator<Item = Result<Session>>,
    patience: Duration,
) -> std::result::Result<Snapshot, Trouble> {
    // One session locks in READ COMMITTED: each of its statements sees what is there by then.
    let mut first = sessions::open(settings, "locks")?;
    begin(&mut first.client, "READ COMMITTED", patience)?;
    let mut locked: BTreeSet<String> = BTreeSet::new();
    loop {
        let new: Vec<String> =
            list(&mut first.client)?.into_iter().filter(|table| !locked.contains(table)).collect();
        if new.is_empty() {
            break;
        }
        lock(&mut first.client, &new, patience)?;
        locked.extend(new);
    }
    let tables: Vec<String> = locked.iter().cloned().collect();
    let row = first
        .client
        .query_typed_one(
            "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
                         ELSE pg_catalog.pg_current_wal_lsn() END::text,
                    CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_current_wal_insert_lsn() END::text",
            &[],
        )
        .map_err(|error| failed("ask for the WAL position", &error))?;
    let (wal_position, inserted) = (row.get(0), row.get(1));
    let writers = first
        .client
        .query_typed(
            "SELECT DISTINCT relation FROM pg_catalog.pg_locks
             WHERE locktype = 'relation' AND mode NOT IN ('AccessShareLock', 'RowShareLock')
               AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())",
            &[],
        )
        .map_err(|error| failed("ask who is writing", &error))?;
    let writers = writers.iter().map(|row| row.get(0)).collect();
    let mut joined = Vec::new();
    let mut id = String::new();
    for session in opened {
        stopped()?;
        let mut session = session?;
        let client = &mut session.client;
        begin(client, "REPEATABLE READ, READ ONLY", FOLLOWING.min(patience))?;
        // LOCK takes no snapshot, so one can still be chosen behind it.
        lock(client, &tables, FOLLOWING)?;
        if joined.is_empty() {
            id = client
                .query_typed_one("SELECT pg_catalog.pg_export_snapshot()", &[])
                .map_err(|error| failed("export the snapshot", &error))?
                .get(0);
            let seen: BTreeSet<String> = list(client)?.into_iter().collect();
            if let Some(new) = seen.difference(&locked).next() {
                return Err(Trouble::Moved(format!("{new} was made between the locks and the snapshot")));
            }
        } else {
            client
                .batch_execute(&format!("SET TRANSACTION SNAPSHOT '{id}'"))
                .map_err(|error| failed("share the snapshot", &error))?;
        }
        joined.push(session);
    }
    // Each session has its own locks now.
    let _ = first.client.batch_execute("COMMIT");
    Ok(Snapshot { sessions: joined, id, wal_position, inserted, writers })
}

fn begin(client: &mut Client, mode: &str, patience: Duration) -> Result<()> {
    client
        .batch_execute(&format!(
            "START TRANSACTION ISOLATION LEVEL {mode}; SET LOCAL lock_timeout = '{}ms'; SET LOCAL synchronize_seqscans = off",
            patience.as_millis().max(1)
        ))
        .map_err(|error| failed("begin reading", &error))
}

fn list(client: &mut Client) -> Result<Vec<String>> {
    let rows = client.query_typed(TABLES, &[]).map_err(|error| failed("list the tables", &error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

fn lock(client: &mut Client, tables: &[String], patience: Duration) -> std::result::Result<(), Trouble> {
    for batch in tables.chunks(BATCH) {
        stopped()?;
        let names: Vec<String> = batch.iter().map(|table| format!("ONLY {table}")).collect();
        let sql = format!("LOCK TABLE {} IN ACCESS SHARE MODE", names.join(", "));
        if let Err(error) = client.batch_execute(&sql) {
            let failure = failed("lock the tables for reading", &error);
            return Err(match error.code() {
                Some(code) if [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME].contains(code) => {
                    Trouble::Moved(failure.reasons().join("; "))
                }
                Some(code) if *code == SqlState::T_R_DEADLOCK_DETECTED => {
                    Trouble::Moved(failure.reasons().join("; "))
                }
                Some(code) if *code == SqlState::LOCK_NOT_AVAILABLE && patience == FOLLOWING => {
                    Trouble::Moved(failure.reasons().join("; "))
                }
                Some(code) if *code == SqlState::LOCK_NOT_AVAILABLE => Trouble::Failed(
                    failure
                        .with_exit(Exit::Unreachable)
                        .because(format!("another session locks one of them, after {} s of waiting", patience.as_secs()))
                        .because("nothing was written")
                        .hint("run it again when that has ended, or wait longer: --lock-timeout=SECONDS")
                        .hint("who it is: SELECT pid, relation::regclass, mode FROM pg_locks WHERE mode = 'AccessExclusiveLock'"),
                ),
                Some(code) if *code == SqlState::OUT_OF_MEMORY => Trouble::Failed(
                    failure
                        .because(format!("each of the sessions locks all {} tables", tables.len()))
                        .hint("raise max_locks_per_transaction in postgresql.conf, or use fewer sessions: --jobs=1"),
                ),
                Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => Trouble::Failed(
                    failure.hint("a backup reads everything: GRANT pg_read_all_data TO the role, or back up as the owner"),
                ),
                _ => Trouble::Failed(failure),
            });
        }
    }
    Ok(())
}
