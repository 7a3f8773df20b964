//! Is pg_dump held up behind somebody who waits for this very backup?
//!
//! Whoever wants a table for himself (an ALTER TABLE, an update of the extension) waits for the locks that the backup has, and
//! everybody else who asks for that table waits behind him, pg_dump too: it reads definitions of tables that it has not
//! locked. The server sees no deadlock there, since it cannot know that the backup waits for pg_dump.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use ms5_common::config::Settings;
use ms5_common::db::client::Client;
use ms5_common::db::server_error::reasons;
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::interrupt;

use crate::args::TOOL;

/// How long pg_dump may wait for a lock, whatever is asked for: what it needs, the backup has.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked.
const PAUSE: Duration = Duration::from_secs(1);

/// How long pg_dump may wait for a lock where the backup itself waits so long.
pub(super) fn patience(lock_timeout: Duration) -> Duration {
    PATIENCE.min(lock_timeout)
}

/// What the application names of this backup's pg_dump end with.
///
/// # Errors
/// The server's.
pub(super) fn name(client: &mut Client) -> std::result::Result<String, postgres::Error> {
    let pid: i32 = client.query_typed_one("SELECT pg_catalog.pg_backend_pid()", &[])?.get(0);
    Ok(format!("pg_dump for {pid}"))
}

/// The settings for a pg_dump that has that name behind its own.
pub(super) fn named(settings: &Settings, name: &str) -> Settings {
    let mut settings = settings.clone();
    let own = settings.connection.application_name.as_deref().unwrap_or(TOOL);
    // The server cuts at 63 bytes.
    let own: String = own.chars().filter(char::is_ascii).take(30).collect();
    settings.connection.application_name = Some(format!("{own} {name}"));
    settings
}

/// Does the work, and ends what its pg_dump asks where that waits for a lock for too long.
///
/// # Errors
/// The work's; [`Exit::Unreachable`] with who stands between where that is why.
pub(super) fn beside<T>(
    client: &mut Client,
    name: &str,
    patience: Duration,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let (done, ended) = mpsc::channel::<()>();
    let (worked, between) = thread::scope(|scope| {
        let watcher = scope.spawn(move || watch(client, name, patience, &ended));
        let worked = work();
        drop(done);
        (worked, watcher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    match (worked, between) {
        (Err(_), Some(between)) if interrupt::requested().is_none() => {
            Err(Error::new(Exit::Unreachable, "another session holds the backup up")
                .because(between)
                .because("it waits for the locks of the backup, and pg_dump has to wait behind it")
                .because("nothing of the backup is kept")
                .hint("run it again when that has ended"))
        }
        (worked, _) => worked,
    }
}

/// Looks until the work is done; gives who stood between where pg_dump was ended for it.
fn watch(client: &mut Client, name: &str, patience: Duration, ended: &mpsc::Receiver<()>) -> Option<String> {
    let mut since = None;
    while ended.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
        let between = match waits(client, name) {
            Ok(between) => between,
            Err(error) => {
                log::debug!("whether pg_dump is held up is not known: {}", reasons(&error).join("; "));
                return None;
            }
        };
        let Some(between) = between else {
            since = None;
            continue;
        };
        if since.get_or_insert_with(Instant::now).elapsed() >= patience {
            let sql = "SELECT pg_catalog.pg_cancel_backend(pid) FROM pg_catalog.pg_stat_activity WHERE pg_catalog.right(application_name, pg_catalog.length($1)) = $1";
            if let Err(error) = client.query(sql, &[&name]) {
                log::debug!("pg_dump cannot be ended: {}", reasons(&error).join("; "));
            }
            return Some(between);
        }
    }
    None
}

/// Who a pg_dump waits for, where one waits for a lock.
fn waits(client: &mut Client, name: &str) -> std::result::Result<Option<String>, postgres::Error> {
    let rows = client.query(
        "SELECT format('pid %s (%s, user %s): %s', b.pid, coalesce(nullif(b.application_name, ''), 'without a name'),
                       b.usename, left(regexp_replace(b.query, '\\s+', ' ', 'g'), 120))
         FROM pg_catalog.pg_stat_activity d
         CROSS JOIN LATERAL unnest(pg_catalog.pg_blocking_pids(d.pid)) blocker
         JOIN pg_catalog.pg_stat_activity b ON b.pid = blocker
         WHERE pg_catalog.right(d.application_name, pg_catalog.length($1)) = $1 AND d.wait_event_type = 'Lock' LIMIT 1",
        &[&name],
    )?;
    Ok(rows.first().map(|row| row.get(0)))
}
