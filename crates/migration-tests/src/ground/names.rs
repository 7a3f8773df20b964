//! What belongs to a run on a server, told by its name alone; and how it goes.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, Instant};

use ms5_common::db::client::Client;
use ms5_common::db::name_lock;
use ms5_common::db::server_error::reasons;
use ms5_common::sql::escape_identifier;
use postgres::error::SqlState;

/// What the names of our databases and folders begin with; the run's number follows, as eight hexadecimal digits.
pub(super) const PREFIX: &str = "ms5_suite_";
/// The same of what is to be kept.
pub(super) const KEPT: &str = "ms5_kept_";
/// What the names of a restore's half-made databases begin with.
const HALF: &str = "ms5_half_";
/// The most databases that one run makes, as far as half-made rollbacks of them are looked for.
const MOST: usize = 1000;
/// How long sessions of the server's own are waited for, and how often it is looked.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(200);

/// The name of a run's database.
pub(super) fn database(prefix: &str, run: u32, number: usize) -> String {
    format!("{prefix}{run:08x}_{number}")
}

/// How a database is dropped by hand.
pub(super) fn drop_sql(name: &str) -> String {
    format!("DROP DATABASE {name} WITH (FORCE);")
}

/// What a rollback.sh calls the database that it makes for another one, up to its stamp.
fn rollback_prefix(database: &str) -> String {
    format!("ms5_rollback_{}_", name_lock::key(database).unsigned_abs())
}

/// The databases of a run: named as we name them, or made by a restore or a rollback of one so named, and owned by our role.
pub(super) fn of_run(client: &mut Client, prefix: &str, run: u32) -> Result<Vec<String>, postgres::Error> {
    let pattern = format!("^{prefix}{run:08x}_[0-9]+(_before_restore_.*)?$");
    let halves: Vec<String> =
        (0..MOST).map(|number| rollback_prefix(&database(prefix, run, number))).collect();
    let rows = client.query(
        "SELECT datname::text FROM pg_catalog.pg_database
         WHERE (datname ~ $1 OR substring(datname FROM '^ms5_rollback_[0-9]+_') = ANY ($2::text[]))
           AND pg_catalog.pg_get_userbyid(datdba) = current_user ORDER BY 1",
        &[&pattern, &halves],
    )?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// A database, what a restore has kept beside it, and what a rollback of it has left half-made.
pub(super) fn beside(client: &mut Client, database: &str) -> Result<Vec<String>, postgres::Error> {
    let rows = client.query(
        "SELECT datname::text FROM pg_catalog.pg_database
         WHERE datname = $1 OR pg_catalog.starts_with(datname::text, $1 || '_before_restore_')
            OR pg_catalog.starts_with(datname::text, $2) ORDER BY 1",
        &[&database, &rollback_prefix(database)],
    )?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Half-made databases of restores that began after a moment (as their stamp says it) and live no longer: nobody has the lock on
/// their name, from whichever database restores work. They are our role's, as every database of ours is.
pub(super) fn halves(client: &mut Client, since: &str) -> Result<Vec<String>, postgres::Error> {
    let rows = client.query(
        "SELECT datname::text FROM pg_catalog.pg_database
         WHERE datname ~ ('^' || $1 || '[0-9]{8}_[0-9]{6}_[0-9a-f]{8}$')
           AND substring(datname FROM length($1) + 1 FOR 15) >= $2
           AND pg_catalog.pg_get_userbyid(datdba) = current_user ORDER BY 1",
        &[&HALF, &since],
    )?;
    let mut dead = Vec::new();
    for name in rows.iter().map(|row| row.get::<_, String>(0)) {
        if name_lock::try_lock(client, &name)? {
            dead.push(name);
        }
    }
    Ok(dead)
}

/// A number that hardly anybody else has.
pub(super) fn random() -> u32 {
    let [a, b, c, d, ..] = RandomState::new().build_hasher().finish().to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

/// The runs that databases are there of.
pub(super) fn runs(client: &mut Client) -> Result<Vec<u32>, postgres::Error> {
    let rows = client.query(
        "SELECT DISTINCT substring(datname FROM length($1) + 1 FOR 8) FROM pg_catalog.pg_database
         WHERE datname ~ ('^' || $1 || '[0-9a-f]{8}_[0-9]+(_before_restore_.*)?$')
           AND pg_catalog.pg_get_userbyid(datdba) = current_user",
        &[&PREFIX],
    )?;
    Ok(rows.iter().filter_map(|row| u32::from_str_radix(row.get(0), 16).ok()).collect())
}

/// Drops databases with their sessions. The server's own (autovacuum, TimescaleDB's scheduler) cannot be ended by any role, and
/// leave soon. Gives those that stay, which were named.
pub(super) fn drop_all(client: &mut Client, names: &[String]) -> Vec<String> {
    let mut left = Vec::new();
    for name in names {
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", escape_identifier(name));
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = client.batch_execute(&sql) {
            let busy = [&SqlState::OBJECT_IN_USE, &SqlState::INSUFFICIENT_PRIVILEGE]
                .map(Some)
                .contains(&error.code());
            if !busy || Instant::now() >= deadline {
                stays(name, &reasons(&error).join("; "));
                left.push(name.clone());
                break;
            }
            std::thread::sleep(PAUSE);
        }
    }
    left
}

/// Says that a database could not be dropped.
pub(super) fn stays(name: &str, why: &str) {
    log::warn!("Cannot drop the database {name}: {why}");
    log::warn!("Next: drop it by hand: {}", drop_sql(name));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_the_other_tools_make_them() {
        assert_eq!(database(PREFIX, 0xAB, 7), "ms5_suite_000000ab_7");
        // Of backup-manager: `ms5_rollback_` and the lock's number without its sign.
        let prefix = rollback_prefix("ms5_suite_000000ab_7");
        let digits = prefix.strip_prefix("ms5_rollback_").unwrap().strip_suffix('_').unwrap();
        assert!(digits.bytes().all(|byte| byte.is_ascii_digit()));
        assert_ne!(prefix, rollback_prefix("ms5_suite_000000ab_70"));
        assert_eq!(drop_sql("a"), "DROP DATABASE a WITH (FORCE);");
    }
}
