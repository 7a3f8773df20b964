//! Puts the new database in the old one's place: both names change in one transaction, or none.
//!
//! ALTER DATABASE ... RENAME locks the database first, so that nobody can connect any more, and then waits up to five seconds
//! for those who are connected. They are ended meanwhile by a second session. Nothing outside of that transaction is changed:
//! whoever is killed at any moment leaves the old database in service, or the new one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ms5_common::db::client::Client;
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::sql::escape_identifier;
use postgres::error::SqlState;
use time::OffsetDateTime;

use super::server::{Maintenance, There};
use crate::folder::name::{STAMP_LENGTH, stamp};
use crate::sessions::{failed, stopped};

/// How often it is tried; each try waits five seconds for sessions to end.
const TRIES: usize = 6;
const SESSIONS: &str =
    "end the sessions that remain: SELECT pid, usename, application_name FROM pg_stat_activity";
/// How long a server that has not answered is asked what became of the names, and how often.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(200);
/// The longest name that PostgreSQL keeps.
const LONGEST: usize = 63;

/// What the name of an old database that is kept begins with; a stamp follows.
pub(crate) fn kept_prefix(target: &str) -> String {
    const END: &str = "_before_restore_";
    let mut length = target.len().min(LONGEST - END.len() - STAMP_LENGTH);
    while !target.is_char_boundary(length) {
        length -= 1;
    }
    format!("{}{END}", &target[..length])
}

/// The name under which the old database is kept. Where one of this second is there already, a later second is taken.
///
/// # Errors
/// The server's.
pub(crate) fn kept_name(maintenance: &mut Maintenance, target: &str) -> Result<String> {
    let mut at = OffsetDateTime::now_utc();
    loop {
        let name = format!("{}{}", kept_prefix(target), stamp(at));
        if maintenance.look(&name)?.is_none() {
            return Ok(name);
        }
        at += Duration::from_secs(1);
    }
}

/// Gives `new` the name `target`, and `old`, where there is one, the name `kept`, closed to everybody.
///
/// # Errors
/// [`Exit::Failed`] where sessions cannot be ended; then nothing has changed. Where the answer to the COMMIT was lost, the
/// server is asked what it has done.
pub(crate) fn run(
    maintenance: &mut Maintenance,
    new: &str,
    target: &str,
    old: Option<There>,
    kept: &str,
) -> Result<()> {
    let quoted = escape_identifier;
    let mut statements = Vec::new();
    if old.is_some() {
        statements.push(format!("ALTER DATABASE {} RENAME TO {}", quoted(target), quoted(kept)));
        // Its jobs would go on, and somebody's session might write to what is of yesterday.
        statements.push(format!("ALTER DATABASE {} ALLOW_CONNECTIONS false", quoted(kept)));
    }
    statements.push(format!("ALTER DATABASE {} RENAME TO {}", quoted(new), quoted(target)));
    let fresh = maintenance.look(new)?.ok_or_else(|| Error::new(Exit::Bug, "the new database is gone"))?;
    let oids: Vec<u32> = old.iter().chain([&fresh]).map(|there| there.oid).collect();
    for turn in 1..=TRIES {
        stopped()?;
        let done = AtomicBool::new(false);
        let mut ender = maintenance.second()?;
        let result = thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    end_sessions(&mut ender.client, &oids);
                    thread::sleep(Duration::from_millis(20));
                }
            });
            let result = transaction(maintenance.client(), &statements);
            done.store(true, Ordering::Relaxed);
            result
        });
        match result {
            Ok(()) => return Ok(()),
            Err(Outcome::Refused(error))
                if error.code() == Some(&SqlState::OBJECT_IN_USE) && turn < TRIES =>
            {
                log::warn!("The databases are still in use; once more");
            }
            Err(Outcome::Refused(error)) => {
                let busy = error.code() == Some(&SqlState::OBJECT_IN_USE);
                let error = failed(&format!("swap the names of {new} and {target}"), &error)
                    .because("both are as they were");
                return Err(if busy { error.hint(SESSIONS) } else { error });
            }
            Err(Outcome::Unknown(error)) => {
                return match name_of(maintenance, fresh.oid) {
                    Some(name) if name == target => {
                        log::warn!("The connection was lost while the names were swapped; the server says that they were");
                        Ok(())
                    }
                    Some(_) => Err(failed("swap the names", &error).because("both are as they were")),
                    None => Err(failed("learn whether the names were swapped", &error)
                        .with_exit(Exit::Partial)
                        .hint(format!(
                            "look for {new} in pg_database: where it is still there, {target} is as it was, else it is restored"
                        ))),
                };
            }
        }
    }
    Err(Error::new(Exit::Bug, "the swap did not end"))
}

/// The name that a database has now. None: the server is not there to be asked.
fn name_of(maintenance: &Maintenance, oid: u32) -> Option<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let asked = maintenance.second().ok().and_then(|mut session| {
            session
                .client
                .query("SELECT datname::text FROM pg_catalog.pg_database WHERE oid = $1", &[&oid])
                .ok()
        });
        if let Some(rows) = asked {
            return Some(rows.first().map(|row| row.get(0)).unwrap_or_default());
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(PAUSE);
    }
}

enum Outcome {
    Refused(postgres::Error),
    Unknown(postgres::Error),
}

fn transaction(client: &mut Client, statements: &[String]) -> std::result::Result<(), Outcome> {
    let mut transaction = client.transaction("").map_err(Outcome::Refused)?;
    // TimescaleDB warns that its workers must be started again, which is what comes next.
    transaction.batch_execute("SET LOCAL client_min_messages = error").map_err(Outcome::Refused)?;
    for statement in statements {
        transaction.batch_execute(statement).map_err(Outcome::Refused)?;
    }
    transaction.commit().map_err(|error| {
        if error.as_db_error().is_some() { Outcome::Refused(error) } else { Outcome::Unknown(error) }
    })
}

/// Ends every session of these databases that this role may end.
fn end_sessions(client: &mut Client, oids: &[u32]) {
    let Ok(rows) = client.query(
        "SELECT pid FROM pg_catalog.pg_stat_activity WHERE datid = ANY ($1) AND pid <> pg_catalog.pg_backend_pid()",
        &[&oids],
    ) else {
        return;
    };
    for row in rows {
        let _ = client.query("SELECT pg_catalog.pg_terminate_backend($1)", &[&row.get::<_, i32>(0)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_names_fit() {
        assert_eq!(kept_prefix("factory"), "factory_before_restore_");
        let long = kept_prefix(&"a".repeat(63));
        assert_eq!(long.len() + stamp(OffsetDateTime::UNIX_EPOCH).len(), LONGEST, "{long}");
        // Never half a letter.
        assert!(kept_prefix(&"ä".repeat(31)).ends_with("ä_before_restore_"));
        assert!(kept_prefix(&format!("a{}", "ä".repeat(31))).ends_with("ä_before_restore_"));
    }
}
