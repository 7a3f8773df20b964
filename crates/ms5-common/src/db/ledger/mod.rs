//! The ledger: `public.migration_log` as the old scripts made it, `public.migration_attempts` beside it.
//!
//! A row of migration_log is trusted only if an attempt of ours stands behind it: the old scripts recorded
//! success even where psql had printed errors. The two are written by one statement and carry the same time, so
//! a row that an old script has written over since no longer matches its attempt. Beside them: migration_steps for files
//! that run statement by statement, migration_texts with what was applied, migration_paused_jobs, migration_restores.

mod attempt;
mod layout;
mod restored;
pub mod standing;
mod statements;
pub mod steps;

use crate::db::client::Client;

pub use attempt::{
    Attempt, Begun, End, Ended, LastAttempt, Prepared, again, attempt_is_gone, begin, begin_stepwise,
    close_interrupted, commit, committed, end, last_attempts, moved, record, withdraw,
};
pub use layout::{State, ensure, state};
pub use restored::{RESTORES, Restored, Traces, note_restore, restored, traces};

type SqlResult<T> = Result<T, postgres::Error>;

/// A row of migration_log, with the word of the attempt behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// migration_name.
    pub name: String,
    /// migration_file without any folder.
    pub file: String,
    /// applied_at as the server prints it.
    pub applied_at: String,
    /// applied_by.
    pub applied_by: String,
    /// success.
    pub success: bool,
    /// error_message.
    pub error_message: Option<String>,
    /// checksum, in lower case.
    pub checksum: Option<String>,
    /// Whether an attempt of ours wrote exactly this row.
    pub verified: bool,
}

/// Every row of migration_log, in the order of the names.
///
/// # Errors
/// The client's.
pub fn read(client: &mut Client, state: State) -> SqlResult<Vec<Entry>> {
    let verified = match state {
        State::Absent => return Ok(Vec::new()),
        State::Old => "false",
        State::Earlier | State::Current => {
            "EXISTS (SELECT FROM public.migration_attempts a
                     WHERE a.id = l.attempt_id AND a.outcome IN ('applied', 'adopted', 'repaired')
                       AND a.finished_at = l.applied_at
                       AND a.checksum = l.checksum AND l.success)"
        }
    };
    // An old ledger may lack columns: the row as JSON has what there is.
    let rows = client.query(
        &format!(
            "SELECT l.migration_name::text, l.migration_file::text, r->>'applied_at', r->>'applied_by',
                    coalesce((r->>'success')::boolean, true), r->>'error_message', lower(r->>'checksum'), {verified}
             FROM public.migration_log l, LATERAL (SELECT to_jsonb(l) AS r) j
             ORDER BY l.migration_name"
        ),
        &[],
    )?;
    Ok(rows
        .iter()
        .map(|row| {
            let file: String = row.get(1);
            Entry {
                name: row.get(0),
                file: file.rsplit('/').next().unwrap_or(&file).to_owned(),
                applied_at: row.get::<_, Option<String>>(2).unwrap_or_default(),
                applied_by: row.get::<_, Option<String>>(3).unwrap_or_default(),
                success: row.get(4),
                error_message: row.get(5),
                checksum: row.get(6),
                verified: row.get(7),
            }
        })
        .collect())
}

/// The statements that were applied under a checksum, where they were kept.
///
/// # Errors
/// The client's.
pub fn kept_text(client: &mut Client, checksum: &str) -> SqlResult<Option<Vec<String>>> {
    let row = client
        .query_opt("SELECT statements FROM public.migration_texts WHERE checksum = $1", &[&checksum])?;
    Ok(row.map(|row| row.get(0)))
}
