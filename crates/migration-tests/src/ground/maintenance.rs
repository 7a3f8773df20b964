//! The session from which databases are made, and which holds the run's number: where it is lost, the run goes on with another one.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ms5_common::config::Settings;
use ms5_common::db::client::Client;
use ms5_common::db::server_error::reasons;
use ms5_common::db::session::{self, Tuning};
use ms5_common::error::Result;
use ms5_common::interrupt;
use postgres::error::SqlState;

use super::names;
use crate::args::TOOL;
use crate::case::{Stop, refused};

/// The space of the advisory locks: the letters `ms5t`.
const LOCKS: i32 = 0x6D73_3574;
/// How long the server may take to notice that the session which had the number is gone.
const PATIENCE: Duration = Duration::from_secs(20);

/// The session.
pub(super) struct Maintenance {
    settings: Settings,
    timeout: Duration,
    run: u32,
    client: Mutex<Client>,
}

impl Maintenance {
    /// Keeps a session that holds the number of the run.
    pub(super) fn new(settings: Settings, timeout: Duration, run: u32, client: Client) -> Self {
        Self { settings, timeout, run, client: Mutex::new(client) }
    }

    /// Another session of the same kind.
    ///
    /// # Errors
    /// That it cannot be opened.
    pub(super) fn another(&self) -> Result<Client> {
        open(&self.settings, self.timeout)
    }

    /// Works with the session, and once more with a new one where it was lost meanwhile.
    ///
    /// # Errors
    /// What the server says, or that the number is no longer ours.
    pub(super) fn with<T>(
        &self,
        what: &str,
        mut work: impl FnMut(&mut Client) -> std::result::Result<T, postgres::Error>,
    ) -> std::result::Result<T, Stop> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if client.is_closed() {
            self.again(&mut client)?;
        }
        match work(&mut client) {
            Err(error) if is_lost(&client, &error) => {
                self.again(&mut client)?;
                work(&mut client)
            }
            other => other,
        }
        .map_err(|error| refused(what, &error))
    }

    /// Makes a database; what the server says where it does not.
    pub(super) fn create(
        &self,
        name: &str,
        template: &str,
    ) -> std::result::Result<std::result::Result<(), postgres::Error>, Stop> {
        let sql = format!("CREATE DATABASE {name} TEMPLATE {template}");
        let mut again = false;
        self.with(&sql, |client| {
            // A session that is lost may have done its work.
            if std::mem::replace(&mut again, true) {
                client.batch_execute(&format!("DROP DATABASE IF EXISTS {name}"))?;
            }
            match client.batch_execute(&sql) {
                Err(error) if is_lost(client, &error) => Err(error),
                other => Ok(other),
            }
        })
    }

    /// Opens it again, and takes the number that others would take for a dead run's.
    fn again(&self, client: &mut Client) -> std::result::Result<(), Stop> {
        log::warn!("The session that holds the number of this run was lost; opening another one");
        *client = self.another()?;
        let deadline = Instant::now() + PATIENCE;
        let taken = |client: &mut Client| {
            try_lock(client, self.run).map_err(|error| refused("taking the number of the run again", &error))
        };
        while !taken(client)? {
            if Instant::now() >= deadline {
                return Err(Stop::failed(
                    "the number of this run is somebody else's now: another run sweeps its databases",
                ));
            }
            if !interrupt::sleep(Duration::from_millis(200)) {
                return Err(Stop::Signal);
            }
        }
        Ok(())
    }

    /// The last one to work with it: what it says is said by a new session where it was lost. That shows only once it is used.
    pub(super) fn last(self) -> std::result::Result<Client, String> {
        let mut client = self.client.into_inner().unwrap_or_else(PoisonError::into_inner);
        if client.batch_execute("SELECT 1").is_ok() {
            return Ok(client);
        }
        open(&self.settings, self.timeout).map_err(|error| error.lines().join("; "))
    }
}

/// Whether a session has ended: the server says so before the connection is closed.
fn is_lost(client: &Client, error: &postgres::Error) -> bool {
    let code = error.code().map(SqlState::code);
    client.is_closed()
        || error.is_closed()
        || code.is_some_and(|code| code.starts_with("08") || code.starts_with("57P"))
}

/// A session in the maintenance database, in which nothing takes longer than a test may.
///
/// # Errors
/// That it cannot be opened.
pub(super) fn open(settings: &Settings, timeout: Duration) -> Result<Client> {
    let mut tuning = Tuning::default();
    tuning.demand("statement_timeout", &format!("{}s", timeout.as_secs()));
    // TimescaleDB says of its own workers what we know.
    tuning.demand("client_min_messages", "error");
    Ok(session::open(settings, TOOL, "ground", &tuning)?.client)
}

/// Takes the lock of a number, where nobody has it. An advisory lock is one database's, and others may be made from another one
/// than ours: so it is looked at all of them.
pub(super) fn try_lock(client: &mut Client, run: u32) -> std::result::Result<bool, postgres::Error> {
    let row = client.query_one(
        "SELECT NOT EXISTS (SELECT FROM pg_catalog.pg_locks
                            WHERE locktype = 'advisory' AND classid = $1::int4::oid AND objid = $2::int8::oid AND granted)
            AND pg_catalog.pg_try_advisory_lock($1, $3)",
        &[&LOCKS, &i64::from(run), &run.cast_signed()],
    )?;
    Ok(row.get(0))
}

/// Gives a number back.
pub(super) fn unlock(client: &mut Client, run: u32) -> std::result::Result<(), postgres::Error> {
    client.query("SELECT pg_catalog.pg_advisory_unlock($1, $2)", &[&LOCKS, &run.cast_signed()]).map(drop)
}

/// A number that nobody has.
pub(super) fn number(client: &mut Client) -> std::result::Result<u32, postgres::Error> {
    loop {
        let run = names::random();
        if try_lock(client, run)? {
            return Ok(run);
        }
    }
}

/// Why databases could not be looked for.
pub(super) fn unseen(what: &str, error: &postgres::Error) {
    log::warn!("Cannot look for the databases of {what}: {}", reasons(error).join("; "));
}
