//! The advisory lock on a database's name: whoever makes, replaces or clears away a database by that name takes it in the
//! maintenance database (backup-manager's restore, a rollback.sh, the suite of migration-tests).

use postgres::types::Type;
use sha2::{Digest, Sha256};

use crate::db::client::Client;

/// The number of the lock on a database's name. The rollback.sh that backup-manager writes holds it as a text.
#[must_use]
pub fn key(name: &str) -> i64 {
    let digest = Sha256::digest(format!("ms5 restore {name}").as_bytes());
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest[..8]);
    i64::from_be_bytes(bytes)
}

/// Takes the lock for as long as the session lives, or says that somebody else has it.
///
/// An advisory lock is one database's, and others may be at work from another maintenance database than ours: once ours is held
/// it is looked at those of all.
///
/// # Errors
/// The server's.
pub fn try_lock(session: &mut Client, name: &str) -> Result<bool, postgres::Error> {
    let key = key(name);
    let row = session.query_typed_one("SELECT pg_catalog.pg_try_advisory_lock($1)", &[(&key, Type::INT8)])?;
    if !row.get::<_, bool>(0) {
        return Ok(false);
    }
    let row = session.query_typed_one(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks
                        WHERE locktype = 'advisory' AND objsubid = 1 AND granted
                          AND classid::int8 = ($1 >> 32) & 4294967295 AND objid::int8 = $1 & 4294967295
                          AND pid IS DISTINCT FROM pg_catalog.pg_backend_pid())",
        &[(&key, Type::INT8)],
    )?;
    let elsewhere: bool = row.get(0);
    if elsewhere {
        unlock(session, name)?;
    }
    Ok(!elsewhere)
}

/// Gives the lock back.
///
/// # Errors
/// The server's.
pub fn unlock(session: &mut Client, name: &str) -> Result<(), postgres::Error> {
    session.query_typed("SELECT pg_catalog.pg_advisory_unlock($1)", &[(&key(name), Type::INT8)]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_has_a_lock_of_its_own() {
        assert_ne!(key("a"), key("b"));
    }
}
