//! The COMMIT of what was restored in place, and what became of it where its answer was lost.

use std::thread;
use std::time::{Duration, Instant};

use ms5_common::config::Settings;
use ms5_common::db::lock::{RunLock, guard};
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use postgres::types::Type;

use crate::sessions::{self, Session, failed};

/// How long a server that has not answered is asked what became of the transaction, and how often.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(200);

/// Commits, as long as the database's lock is held; `last` does what no ROLLBACK would undo. `look` says how to find out by hand
/// whether it was done.
///
/// # Errors
/// [`Exit::Failed`] where all was rolled back; [`Exit::Partial`] where it cannot be learned whether it was.
pub(super) fn commit(
    settings: &Settings,
    session: &mut Session,
    held: &RunLock,
    look: &str,
    last: impl FnOnce(&mut Session) -> Result<()>,
) -> Result<()> {
    sessions::stopped()?;
    let rolled_back = |error: Error| error.because("all was rolled back");
    // Not asked of the lock's own session: where TimescaleDB goes, that one would wait for this transaction.
    session
        .client
        .batch_execute(&guard(held.token()))
        .map_err(|error| rolled_back(failed("see that the database's lock is still held", &error)))?;
    // Keys that wait for the COMMIT are looked at before it.
    session
        .client
        .batch_execute("SET CONSTRAINTS ALL IMMEDIATE")
        .map_err(|error| rolled_back(failed("check the constraints that are deferred", &error)))?;
    last(session).map_err(rolled_back)?;
    let row = session
        .client
        .query_typed_one("SELECT pg_catalog.txid_current(), pg_catalog.pg_postmaster_start_time()::text", &[])
        .map_err(|error| rolled_back(failed("ask for the transaction's number", &error)))?;
    let (number, start): (i64, String) = (row.get(0), row.get(1));
    let Err(error) = session.client.batch_execute("COMMIT") else { return Ok(()) };
    let refused = error.as_db_error().is_some();
    let error = failed("commit the restore", &error);
    if refused {
        return Err(rolled_back(error));
    }
    match outcome(settings, number, &start) {
        Some(true) => {
            log::warn!(
                "The connection was lost before the COMMIT was answered; the server says that it was done"
            );
            Ok(())
        }
        Some(false) => Err(rolled_back(error)),
        None => {
            Err(error.with_exit(Exit::Partial).because("whether it was done could not be learned").hint(look))
        }
    }
}

/// Whether a transaction was committed. None: the server does not answer, or was started anew: then the numbers of transactions
/// that were lost are given to others.
fn outcome(settings: &Settings, number: i64, start: &str) -> Option<bool> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Ok(mut session) = sessions::open_again(settings, "restore", &[])
            && let Ok(row) = session.client.query_typed_one(
                "SELECT pg_catalog.pg_postmaster_start_time()::text, pg_catalog.txid_status($1)",
                &[(&number, Type::INT8)],
            )
        {
            if row.get::<_, String>(0) != start {
                return None;
            }
            match row.get::<_, Option<&str>>(1) {
                Some("committed") => return Some(true),
                Some("aborted") => return Some(false),
                // In progress: the server has not yet seen that we are gone.
                Some(_) => {}
                None => return None,
            }
        }
        thread::sleep(PAUSE);
    }
    None
}
