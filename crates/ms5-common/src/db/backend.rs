//! Server processes: the one behind a session of ours, and those that a killed run has left working.

use std::fmt;
use std::time::{Duration, Instant};

use crate::db::client::Client;

use crate::db::server_error::reasons;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::interrupt;

/// How often it is looked whether a server process has ended.
const POLL: Duration = Duration::from_millis(100);

/// What a session is for that applies files: its application_name ends with it.
pub const RUN: &str = "run";

/// The server process behind a session. A pid alone may belong to another process tomorrow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// pg_backend_pid().
    pub pid: i32,
    /// pg_stat_activity.backend_start, as the server prints it.
    pub since: String,
    /// Whether the server can look for a client that is gone while a statement runs.
    watches_client: bool,
    /// Whether its role, its database or the server ends a transaction that takes long.
    limits_transactions: bool,
}

impl Backend {
    /// Asks a session which process serves it.
    ///
    /// # Errors
    /// The client's.
    pub fn of(client: &mut Client) -> std::result::Result<Self, postgres::Error> {
        let row = client.query_one(
            "SELECT pg_backend_pid(), coalesce((SELECT backend_start FROM pg_catalog.pg_stat_activity
                                                WHERE pid = pg_backend_pid()), now())::text,
                    EXISTS (SELECT FROM pg_catalog.pg_settings
                            WHERE name = 'transaction_timeout' AND setting <> '0' AND source <> 'client')",
            &[],
        )?;
        let mut backend = Self {
            pid: row.get(0),
            since: row.get(1),
            watches_client: true,
            limits_transactions: row.get(2),
        };
        // Not every system can (it wants POLLRDHUP); the server says so by refusing the value.
        backend.watches_client = client.batch_execute(&backend.prefix()).is_ok();
        Ok(backend)
    }

    /// A process that was not asked, as that would be the session's first statement.
    #[must_use]
    pub fn unknown() -> Self {
        Self { pid: 0, since: String::new(), watches_client: false, limits_transactions: false }
    }

    /// Whether the process still serves its session, asked on another one.
    ///
    /// # Errors
    /// The client's.
    pub fn lives(&self, client: &mut Client) -> std::result::Result<bool, postgres::Error> {
        let row = client.query_one(
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_activity
                            WHERE pid = $1 AND backend_start = $2::text::timestamptz AND pid <> pg_backend_pid())",
            &[&self.pid, &self.since],
        )?;
        Ok(row.get(0))
    }

    /// The settings that a session gets beside those it was started with; each file begins with them.
    #[must_use]
    pub fn prefix(&self) -> String {
        let mut settings = String::new();
        // A server otherwise notices that its client was killed only when the statement ends, hours later.
        if self.watches_client {
            settings.push_str("SET client_connection_check_interval TO '2s';");
        }
        // Not among what a session is started with: servers before PostgreSQL 17 do not know it.
        if self.limits_transactions {
            settings.push_str("SET transaction_timeout TO 0;");
        }
        settings
    }
}

/// Ends one server process whose connection was lost: nobody can hear it any more, and it may still change things.
/// False where it does not end within `wait`, or may not be ended by this role.
///
/// # Errors
/// The client's.
pub fn end_one(
    client: &mut Client,
    backend: &Backend,
    wait: Duration,
) -> std::result::Result<bool, postgres::Error> {
    let deadline = Instant::now() + wait;
    loop {
        let row = client.query_opt(
            "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
             WHERE pid = $1 AND backend_start = $2::text::timestamptz",
            &[&backend.pid, &backend.since],
        )?;
        if row.is_none() {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        let _ = interrupt::sleep(POLL);
    }
}

/// Ends the server processes that runs of ours have left working: their runner is gone, they still hold locks, and
/// one may be in the middle of a COMMIT. Only the holder of the exclusive lock may, before it reads the ledger.
///
/// Behind a pooler (`pooled`) a server process serves others after us: there only one is ours that carries the name which sessions
/// get that apply files.
///
/// # Errors
/// [`Exit::Unreachable`] where one does not end within `wait`.
pub fn end_orphans(client: &mut Client, pooled: bool, wait: Duration) -> Result<()> {
    let failed = |error: postgres::Error| {
        Error::new(Exit::Failed, "cannot look for sessions of an earlier run")
            .because_all(reasons(&error))
            .because("nothing was touched")
    };
    let deadline = Instant::now() + wait;
    let mut told = false;
    loop {
        let rows = client
            .query(
                "SELECT a.pid, coalesce(a.application_name, ''), m.migration_name::text,
                        pg_catalog.pg_has_role(a.usesysid, 'USAGE') OR pg_catalog.pg_has_role('pg_signal_backend', 'USAGE')
                 FROM public.migration_attempts m
                 JOIN pg_catalog.pg_stat_activity a ON a.pid = m.backend_pid AND a.backend_start = m.backend_start
                 WHERE m.outcome = 'running' AND a.pid <> pg_backend_pid()
                   AND (NOT $1 OR a.application_name LIKE '% ' || $2)",
                &[&pooled, &RUN],
            )
            .map_err(failed)?;
        if rows.is_empty() {
            return Ok(());
        }
        for row in &rows {
            let (pid, application, migration): (i32, &str, &str) = (row.get(0), row.get(1), row.get(2));
            if !told {
                log::warn!(
                    "An earlier run's session still works on {migration} (pid {pid}, {application:?}); ending it"
                );
            }
            if row.get(3) {
                client.execute("SELECT pg_terminate_backend($1)", &[&pid]).map_err(failed)?;
            }
        }
        told = true;
        if Instant::now() >= deadline {
            let pids: Vec<String> = rows.iter().map(|row| row.get::<_, i32>(0).to_string()).collect();
            return Err(Error::new(
                Exit::Unreachable,
                "an earlier run's session still works on this database",
            )
            .because(format!("pid {} does not end within {} s", pids.join(", "), wait.as_secs()))
            .because("nothing was touched")
            .hint(format!(
                "wait for it, or end it as a superuser: SELECT pg_terminate_backend({});",
                pids[0]
            )));
        }
        let _ = interrupt::sleep(POLL);
    }
}

/// A transaction that a client of this database has open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenTransaction {
    /// Its server process.
    pub pid: i32,
    /// Since it began.
    pub age: Duration,
    /// The session's application and user, and what it does.
    who: String,
}

impl fmt::Display for OpenTransaction {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "pid {}, {}, {} s", self.pid, self.who, self.age.as_secs())
    }
}

/// The oldest open transactions besides this session's own, three at most. (Other roles' are hidden from a role without
/// pg_read_all_stats.)
///
/// # Errors
/// The client's.
pub fn open_transactions(client: &mut Client) -> std::result::Result<Vec<OpenTransaction>, postgres::Error> {
    let rows = client.query_typed(
        "SELECT pid, format('%s, user %s, %s', coalesce(nullif(application_name, ''), '?'), coalesce(usename::text, '?'),
                            coalesce(state, '?')),
                extract(epoch FROM clock_timestamp() - xact_start)::float8
         FROM pg_catalog.pg_stat_activity
         WHERE datname = current_database() AND xact_start IS NOT NULL AND pid <> pg_backend_pid()
           AND backend_type = 'client backend'
         ORDER BY xact_start LIMIT 3",
        &[],
    )?;
    let open = |row: &postgres::Row| OpenTransaction {
        pid: row.get(0),
        age: Duration::try_from_secs_f64(row.get(2)).unwrap_or_default(),
        who: row.get(1),
    };
    Ok(rows.iter().map(open).collect())
}
