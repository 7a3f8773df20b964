//! Which backup a database was restored from: a row a restore, beside the ledger.

use super::SqlResult;
use crate::db::client::Client;
use crate::sql::{escape_identifier, escape_literal};

/// The table, in the database that was restored: `backup_name text`, `backup_created_at timestamptz` (NULL where the backup does
/// not say), `restored_at timestamptz`, `restored_by text`. (A setting of the database would want a superuser.)
pub const RESTORES: &str = "public.migration_restores";

/// What writes a restore down, in the database that was restored: `created` is the backup's own time, `owner` who the table is
/// to belong to, us where it is not known.
#[must_use]
pub fn note_restore(backup: &str, created: Option<&str>, owner: Option<&str>) -> [String; 3] {
    let owner = owner.map_or_else(|| "CURRENT_USER".to_owned(), escape_identifier);
    // libpq writes a blank before a literal with backslashes in it.
    let literal = |text: &str| escape_literal(text).trim_start().to_owned();
    [
        format!(
            "CREATE TABLE IF NOT EXISTS {RESTORES} (backup_name text NOT NULL, backup_created_at timestamptz,
             restored_at timestamptz NOT NULL DEFAULT now(), restored_by text NOT NULL DEFAULT session_user)"
        ),
        format!("ALTER TABLE {RESTORES} OWNER TO {owner}"),
        format!(
            "INSERT INTO {RESTORES} (backup_name, backup_created_at) VALUES ({}, {})",
            literal(backup),
            created.map_or_else(|| "NULL".to_owned(), literal)
        ),
    ]
}

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

/// Since when a database is as it is, as far as its tables beside migration_log tell; times in RFC 3339.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traces {
    /// When the last statement of a file that runs statement by statement was done.
    pub step_done: Option<String>,
    /// The backup of the last restore, and when that was.
    pub restored: Option<(String, String)>,
}

/// Reads them, where the ledger is a current one.
///
/// # Errors
/// The client's.
pub fn traces(client: &mut Client) -> SqlResult<Traces> {
    let row = client.query_typed_one(
        "SELECT (SELECT to_jsonb(max(done_at)) #>> '{}' FROM public.migration_steps),
                to_regclass('public.migration_restores') IS NOT NULL",
        &[],
    )?;
    let step_done = row.get(0);
    if !row.get::<_, bool>(1) {
        return Ok(Traces { step_done, restored: None });
    }
    let row = client.query_opt(
        &format!(
            "SELECT backup_name, to_jsonb(restored_at) #>> '{{}}' FROM {RESTORES} ORDER BY restored_at DESC LIMIT 1"
        ),
        &[],
    )?;
    Ok(Traces { step_done, restored: row.map(|row| (row.get(0), row.get(1))) })
}
