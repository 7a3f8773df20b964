//! Which backup a database was restored from: a row a restore, beside the ledger.

use super::SqlResult;
use crate::db::client::Client;

/// The table, in the database that was restored: `backup_name text`, `backup_created_at timestamptz` (NULL where the backup does
/// not say), `restored_at timestamptz`, `restored_by text`. (A setting of the database would want a superuser.)
pub const RESTORES: &str = "public.migration_restores";

/// The last restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The backup's name.
    pub backup: String,
    /// When, as the server prints it.
    pub at: String,
}

/// The backup that the database was restored from, where no migration was tried since.
///
/// # Errors
/// The client's.
pub fn restored(client: &mut Client) -> SqlResult<Option<Restored>> {
    let there = client.query_typed_one(
        "SELECT to_regclass('public.migration_restores') IS NOT NULL, to_regclass('public.migration_attempts') IS NOT NULL,
                to_regclass('public.migration_log') IS NOT NULL",
        &[],
    )?;
    if !there.get::<_, bool>(0) {
        return Ok(None);
    }
    // The old scripts write to migration_log alone.
    let since = [
        (1, "public.migration_attempts a WHERE a.started_at > r.restored_at"),
        (2, "public.migration_log l WHERE l.applied_at > r.restored_at"),
    ];
    let since: Vec<String> = (since.iter())
        .filter(|(column, _)| there.get::<_, bool>(*column))
        .map(|(_, from)| format!(" AND NOT EXISTS (SELECT FROM {from})"))
        .collect();
    let row = client.query_opt(
        &format!(
            "SELECT r.backup_name, r.restored_at::text FROM
                 (SELECT * FROM {RESTORES} ORDER BY restored_at DESC LIMIT 1) r WHERE true{}",
            since.concat()
        ),
        &[],
    )?;
    Ok(row.map(|row| Restored { backup: row.get(0), at: row.get(1) }))
}
