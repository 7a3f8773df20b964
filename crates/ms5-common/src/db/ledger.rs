//! The ledger: `public.migration_log` as the old scripts made it, `public.migration_attempts` beside it.
//!
//! A row of migration_log is trusted only if an attempt of ours stands behind it: the old scripts recorded
//! success even where psql had printed errors. The two are written by one statement and carry the same time, so
//! a row that an old script has written over since no longer matches its attempt.

use postgres::{Client, SimpleQueryMessage};
use postgres_protocol::escape::escape_literal as quoted;

type SqlResult<T> = Result<T, postgres::Error>;

/// Creates what is missing and adds what an older ledger lacks. Each step is a no-op on a current ledger.
const ENSURE: &str = "
CREATE TABLE IF NOT EXISTS public.migration_log (
    id serial PRIMARY KEY,
    migration_name varchar(255) UNIQUE NOT NULL,
    migration_file varchar(255) NOT NULL,
    applied_at timestamptz DEFAULT now(),
    applied_by varchar(255) DEFAULT current_user,
    execution_time_ms integer,
    success boolean NOT NULL DEFAULT true,
    error_message text,
    checksum varchar(64)
);
CREATE TABLE IF NOT EXISTS public.migration_attempts (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    migration_name varchar(255) NOT NULL,
    migration_file varchar(255) NOT NULL,
    run_id text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz,
    outcome text NOT NULL DEFAULT 'running'
        CHECK (outcome IN ('running', 'applied', 'failed', 'interrupted')),
    sqlstate varchar(5),
    message text,
    checksum varchar(64) NOT NULL,
    tool_version text NOT NULL,
    host text NOT NULL,
    applied_by varchar(255) NOT NULL DEFAULT current_user,
    replaced jsonb
);
COMMENT ON COLUMN public.migration_attempts.replaced IS
    'the row of migration_log that this attempt replaced, as it was';
CREATE INDEX IF NOT EXISTS migration_attempts_name_idx ON public.migration_attempts (migration_name);
ALTER TABLE public.migration_log
    ADD COLUMN IF NOT EXISTS applied_at timestamptz DEFAULT now(),
    ADD COLUMN IF NOT EXISTS applied_by varchar(255) DEFAULT current_user,
    ADD COLUMN IF NOT EXISTS execution_time_ms integer,
    ADD COLUMN IF NOT EXISTS success boolean NOT NULL DEFAULT true,
    ADD COLUMN IF NOT EXISTS error_message text,
    ADD COLUMN IF NOT EXISTS checksum varchar(64),
    ADD COLUMN IF NOT EXISTS attempt_id bigint;
";

/// What stands in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No ledger at all.
    Absent,
    /// The old scripts' ledger, without our columns and table.
    Old,
    /// A ledger of this tool.
    Current,
}

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

/// Looks which ledger there is, without touching anything.
///
/// # Errors
/// The client's.
pub fn state(client: &mut Client) -> SqlResult<State> {
    let row = client.query_one(
        "SELECT to_regclass('public.migration_log') IS NOT NULL,
                to_regclass('public.migration_attempts') IS NOT NULL AND EXISTS (
                    SELECT FROM pg_catalog.pg_attribute
                    WHERE attrelid = to_regclass('public.migration_log') AND attname = 'attempt_id'
                      AND NOT attisdropped)",
        &[],
    )?;
    Ok(match (row.get(0), row.get(1)) {
        (false, _) => State::Absent,
        (true, false) => State::Old,
        (true, true) => State::Current,
    })
}

/// Makes the ledger current, in one transaction.
///
/// # Errors
/// The client's.
pub fn ensure(client: &mut Client) -> SqlResult<()> {
    let mut transaction = client.transaction()?;
    transaction.batch_execute(ENSURE)?;
    transaction.commit()
}

/// Every row of migration_log, in the order of the names.
///
/// # Errors
/// The client's.
pub fn read(client: &mut Client, state: State) -> SqlResult<Vec<Entry>> {
    let verified = match state {
        State::Absent => return Ok(Vec::new()),
        State::Old => "false",
        State::Current => {
            "EXISTS (SELECT FROM public.migration_attempts a
                     WHERE a.id = l.attempt_id AND a.outcome = 'applied' AND a.finished_at = l.applied_at
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

/// The names of migrations whose last attempt has no end: its runner was killed, or still runs.
///
/// # Errors
/// The client's.
pub fn unfinished(client: &mut Client, state: State) -> SqlResult<Vec<String>> {
    if state != State::Current {
        return Ok(Vec::new());
    }
    let rows = client.query(
        "SELECT migration_name::text FROM public.migration_attempts a
         WHERE outcome IN ('running', 'interrupted')
           AND NOT EXISTS (SELECT FROM public.migration_attempts b
                           WHERE b.migration_name = a.migration_name AND b.id > a.id)",
        &[],
    )?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Marks attempts without an end as interrupted. Only the holder of the exclusive lock may: nobody else runs.
///
/// # Errors
/// The client's.
pub fn close_interrupted(client: &mut Client) -> SqlResult<u64> {
    client.execute(
        "UPDATE public.migration_attempts SET outcome = 'interrupted', finished_at = clock_timestamp(),
                message = 'the runner ended without a word; its transaction was rolled back'
         WHERE outcome = 'running'",
        &[],
    )
}

/// Who runs an attempt, on what.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// migration_name.
    pub name: &'a str,
    /// migration_file.
    pub file: &'a str,
    /// The file's checksum.
    pub checksum: &'a str,
    /// The run it belongs to.
    pub run_id: &'a str,
    /// The tool's version.
    pub tool_version: &'a str,
    /// The machine the tool runs on.
    pub host: &'a str,
}

/// An attempt that has begun: its id in migration_attempts, and the transaction that will apply it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// migration_attempts.id.
    pub id: i64,
    /// The transaction's id, to ask for its outcome should the answer to COMMIT be lost.
    pub xid: String,
}

/// Resets the session, records the attempt, and opens the transaction that applies the file: one round trip.
///
/// The record is committed before the work begins, so that a killed run leaves a trace; without waiting for
/// the disk, since losing it to a crash of the server loses nothing but the trace.
///
/// # Errors
/// The client's.
pub fn begin(client: &mut Client, attempt: Attempt<'_>) -> SqlResult<Begun> {
    let answers = client.simple_query(&format!(
        "RESET ALL; RESET SESSION AUTHORIZATION; DISCARD TEMP;
         BEGIN; SET LOCAL synchronous_commit TO off;
         INSERT INTO public.migration_attempts
             (migration_name, migration_file, run_id, checksum, tool_version, host)
             VALUES ({}, {}, {}, {}, {}, {}) RETURNING id;
         COMMIT;
         BEGIN; SELECT pg_catalog.pg_current_xact_id()",
        quoted(attempt.name),
        quoted(attempt.file),
        quoted(attempt.run_id),
        quoted(attempt.checksum),
        quoted(attempt.tool_version),
        quoted(attempt.host),
    ))?;
    let mut values = answers.iter().filter_map(|answer| match answer {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    let id = values.next().and_then(|text| text.parse().ok()).unwrap_or_default();
    let xid = values.next().unwrap_or_default().to_owned();
    Ok(Begun { id, xid })
}

/// Records the success inside the file's transaction and commits both: one round trip.
///
/// # Errors
/// The client's. A lost connection leaves the outcome open: ask [`committed`].
pub fn commit(client: &mut Client, attempt: Attempt<'_>, begun: &Begun, milliseconds: u64) -> SqlResult<()> {
    // SET ROLE or search_path of the file must not reach the ledger.
    client.batch_execute(&format!(
        "RESET SESSION AUTHORIZATION; {}; COMMIT",
        write(attempt, begun.id, "applied", milliseconds, None, None, true)
    ))
}

/// Whether the transaction of an attempt was committed, asked on a new session after a lost answer.
/// None while the server still works on it.
///
/// # Errors
/// The client's.
pub fn committed(client: &mut Client, begun: &Begun) -> SqlResult<Option<bool>> {
    let row = client.query_one(
        "SELECT pg_catalog.txid_status($1::text::bigint),
                (SELECT outcome = 'applied' FROM public.migration_attempts WHERE id = $2)",
        &[&begun.xid, &begun.id],
    )?;
    Ok(match row.get::<_, Option<String>>(0).as_deref() {
        Some("committed") => Some(true),
        Some("aborted") => Some(false),
        Some(_) => None,
        // Too long ago for the server to remember: the attempt's own row knows.
        None => Some(row.get::<_, Option<bool>>(1).unwrap_or(false)),
    })
}

/// Records a failure, after the rollback.
///
/// `replace` is false where migration_log tells of an earlier success of ours that still holds.
///
/// # Errors
/// The client's.
pub fn fail(
    client: &mut Client,
    attempt: Attempt<'_>,
    begun: &Begun,
    milliseconds: u64,
    sqlstate: Option<&str>,
    message: &str,
    replace: bool,
) -> SqlResult<()> {
    client.batch_execute(&write(attempt, begun.id, "failed", milliseconds, sqlstate, Some(message), replace))
}

/// The one statement that ends an attempt and writes migration_log, both with the same time.
fn write(
    attempt: Attempt<'_>,
    id: i64,
    outcome: &str,
    milliseconds: u64,
    sqlstate: Option<&str>,
    message: Option<&str>,
    replace: bool,
) -> String {
    let optional = |text: Option<&str>| text.map_or_else(|| "NULL".to_owned(), quoted);
    // A NUL cannot stand in a text value; a message of the server never holds one, ours might quote a file.
    let message = message.map(|text| text.replace('\0', "\u{fffd}"));
    let update = format!(
        "UPDATE public.migration_attempts SET outcome = {}, finished_at = pg_catalog.clock_timestamp(),
             sqlstate = {}, message = {}, replaced = (SELECT r FROM old) WHERE id = {id} RETURNING id, finished_at",
        quoted(outcome),
        optional(sqlstate),
        optional(message.as_deref()),
    );
    let old = format!(
        "old AS (SELECT pg_catalog.to_jsonb(l) AS r FROM public.migration_log l WHERE {replace} AND migration_name = {})",
        quoted(attempt.name)
    );
    if !replace {
        return format!("WITH {old} {update}");
    }
    format!(
        "WITH {old}, done AS ({update})
         INSERT INTO public.migration_log (migration_name, migration_file, applied_at, applied_by,
             execution_time_ms, success, error_message, checksum, attempt_id)
         SELECT {}, {}, finished_at, current_user, {}, {}, {}, {}, id FROM done
         ON CONFLICT (migration_name) DO UPDATE SET migration_file = excluded.migration_file,
             applied_at = excluded.applied_at, applied_by = excluded.applied_by,
             execution_time_ms = excluded.execution_time_ms, success = excluded.success,
             error_message = excluded.error_message, checksum = excluded.checksum,
             attempt_id = excluded.attempt_id",
        quoted(attempt.name),
        quoted(attempt.file),
        i32::try_from(milliseconds).unwrap_or(i32::MAX),
        outcome == "applied",
        optional(message.as_deref()),
        quoted(attempt.checksum),
    )
}
