//! Attempts: begun before the work, ended with it.

use postgres::{Client, SimpleQueryMessage};
use postgres_protocol::escape::escape_literal as quoted;

use super::{SqlResult, State};
use crate::db::backend::Backend;
use crate::db::lock;

/// Who runs an attempt, on what.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// migration_name.
    pub name: &'a str,
    /// migration_file.
    pub file: &'a str,
    /// The file's checksum.
    pub checksum: &'a str,
    /// The statements, to be kept with the success; None where they must not be or are too long.
    pub kept: Option<&'a [&'a str]>,
    /// The first attempt at a file whose steps this one goes on with.
    pub continues: Option<i64>,
    /// The run it belongs to.
    pub run_id: &'a str,
    /// The tool's version.
    pub tool_version: &'a str,
    /// The machine the tool runs on.
    pub host: &'a str,
}

/// An attempt that has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// migration_attempts.id.
    pub id: i64,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Everything is done.
    Applied,
    /// A statement, the COMMIT or the connection failed.
    Failed,
    /// A signal stopped it.
    Interrupted,
    /// Recorded without being run: the objects were found to be there.
    Adopted,
    /// Recorded without being run: a changed file was accepted.
    Repaired,
}

impl End {
    const fn word(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
            Self::Adopted => "adopted",
            Self::Repaired => "repaired",
        }
    }

    const fn success(self) -> bool {
        matches!(self, Self::Applied | Self::Adopted | Self::Repaired)
    }
}

/// What an end is recorded with.
#[derive(Debug, Clone, Copy)]
pub struct Ended<'a> {
    /// How.
    pub end: End,
    /// The attempt's whole time.
    pub milliseconds: u64,
    /// The server's code, where it gave one.
    pub sqlstate: Option<&'a str>,
    /// What is to be read of it.
    pub message: Option<&'a str>,
    /// Whether migration_log's row is written too: not where it tells of an earlier success that still holds.
    pub replace: bool,
}

/// How a session is made fresh for a file.
const RESET: &str = "RESET ALL; RESET SESSION AUTHORIZATION; DISCARD TEMP";
/// How the transaction of a file begins.
const BEGIN: &str = "BEGIN;";

/// Resets the session, records the attempt, and, unless the file runs statement by statement, opens the transaction
/// that applies it: one round trip.
///
/// The record is committed before the work begins, so that a killed run leaves a trace; without waiting for
/// the disk, since losing it to a crash of the server loses nothing but the trace.
///
/// # Errors
/// The client's; 22012 also where the run's lock is no longer held, as its `token` tells.
pub fn begin(
    client: &mut Client,
    attempt: Attempt<'_>,
    backend: &Backend,
    token: Option<i64>,
    stepwise: bool,
) -> SqlResult<Begun> {
    let answers = client.simple_query(&format!(
        "{}{RESET}; {}
         BEGIN; SET LOCAL synchronous_commit TO off;
         INSERT INTO public.migration_attempts
             (migration_name, migration_file, run_id, checksum, tool_version, host, backend_pid, backend_start, continues)
             VALUES ({}, {}, {}, {}, {}, {}, {}, {}, {}) RETURNING id;
         COMMIT; {}",
        guard(token),
        backend.prefix(),
        quoted(attempt.name),
        quoted(attempt.file),
        quoted(attempt.run_id),
        quoted(attempt.checksum),
        quoted(attempt.tool_version),
        quoted(attempt.host),
        backend.pid,
        quoted(&backend.since),
        attempt.continues.map_or_else(|| "NULL".to_owned(), |first| first.to_string()),
        if stepwise { "" } else { BEGIN },
    ))?;
    let id = value(&answers, "id").and_then(|text| text.parse().ok()).unwrap_or_default();
    Ok(Begun { id })
}

/// Opens the transaction once more, after a rollback, for the same attempt.
///
/// # Errors
/// The client's.
pub fn again(client: &mut Client, backend: &Backend) -> SqlResult<()> {
    client.batch_execute(&format!("{RESET}; {} {BEGIN}", backend.prefix()))
}

/// Notes that another session works on the attempt now: a later run looks for that one.
///
/// # Errors
/// The client's.
pub fn moved(client: &mut Client, id: i64, backend: &Backend) -> SqlResult<()> {
    client.batch_execute(&format!(
        "UPDATE public.migration_attempts SET backend_pid = {}, backend_start = {} WHERE id = {id}",
        backend.pid,
        quoted(&backend.since)
    ))
}

/// The value of a column in the first row that has it.
pub(super) fn value(answers: &[SimpleQueryMessage], column: &str) -> Option<String> {
    answers.iter().find_map(|answer| match answer {
        SimpleQueryMessage::Row(row) => row.try_get(column).ok().flatten().map(str::to_owned),
        _ => None,
    })
}

/// Fails the message it stands in where the run's lock is gone.
pub(super) fn guard(token: Option<i64>) -> String {
    token.map(|token| format!("{}; ", lock::guard(token))).unwrap_or_default()
}

/// Records the success inside the file's transaction and commits both: one round trip.
///
/// # Errors
/// The client's; 22012 also where the run's lock is no longer held, as its `token` tells. A lost connection leaves the
/// outcome open: ask [`committed`].
pub fn commit(
    client: &mut Client,
    attempt: Attempt<'_>,
    begun: &Begun,
    token: Option<i64>,
    milliseconds: u64,
) -> SqlResult<()> {
    let ended = Ended { end: End::Applied, milliseconds, sqlstate: None, message: None, replace: true };
    // SET ROLE or search_path of the file must not reach the ledger.
    client.batch_execute(&format!(
        "RESET SESSION AUTHORIZATION; {}{}; COMMIT",
        guard(token),
        write(attempt, begun.id, ended)
    ))
}

/// Whether the transaction of an attempt was committed, asked on a new session after a lost answer, once the process that
/// worked on it is gone. Its own row knows; txid_status does not after a crash, which gives the ids of lost transactions
/// to others.
///
/// # Errors
/// The client's.
pub fn committed(client: &mut Client, attempt: Attempt<'_>, begun: &Begun) -> SqlResult<bool> {
    let row = client.query_one(
        "SELECT EXISTS (SELECT FROM public.migration_attempts WHERE id = $1 AND run_id = $2 AND outcome = 'applied')",
        &[&begun.id, &attempt.run_id],
    )?;
    Ok(row.get(0))
}

/// Ends an attempt outside of the file's transaction: a failure after the rollback, or a file whose statements
/// are all done.
///
/// # Errors
/// The client's.
pub fn end(client: &mut Client, attempt: Attempt<'_>, id: i64, ended: Ended<'_>) -> SqlResult<()> {
    client.batch_execute(&write(attempt, id, ended))
}

/// Records a success that nothing was run for.
///
/// # Errors
/// The client's.
pub fn record(
    client: &mut Client,
    attempt: Attempt<'_>,
    backend: &Backend,
    end: End,
    message: &str,
) -> SqlResult<()> {
    let begun = begin(client, attempt, backend, None, true)?;
    let ended = Ended { end, milliseconds: 0, sqlstate: None, message: Some(message), replace: true };
    self::end(client, attempt, begun.id, ended)
}

/// The one statement that ends an attempt and writes migration_log, both with the same time; and the texts.
fn write(attempt: Attempt<'_>, id: i64, ended: Ended<'_>) -> String {
    let optional = |text: Option<&str>| text.map_or_else(|| "NULL".to_owned(), quoted);
    let success = ended.end.success();
    // A NUL cannot stand in a text value; a message of the server never holds one, ours might quote a file.
    let message = ended.message.map(|text| text.replace('\0', "\u{fffd}"));
    let update = format!(
        "UPDATE public.migration_attempts SET outcome = {}, finished_at = pg_catalog.clock_timestamp(),
             sqlstate = {}, message = {}, replaced = (SELECT r FROM old) WHERE id = {id} RETURNING id, finished_at",
        quoted(ended.end.word()),
        optional(ended.sqlstate),
        optional(message.as_deref()),
    );
    let old = format!(
        "old AS (SELECT pg_catalog.to_jsonb(l) AS r FROM public.migration_log l WHERE {} AND migration_name = {})",
        ended.replace,
        quoted(attempt.name)
    );
    if !ended.replace {
        return format!("WITH {old} {update}");
    }
    let kept = attempt.kept.filter(|_| success).map(|statements| {
        let texts: Vec<String> = statements.iter().map(|text| quoted(text)).collect();
        format!(
            ", kept AS (INSERT INTO public.migration_texts VALUES ({}, ARRAY[{}]::text[]) ON CONFLICT DO NOTHING)",
            quoted(attempt.checksum),
            texts.join(", ")
        )
    });
    format!(
        "WITH {old}, done AS ({update}){}
         INSERT INTO public.migration_log (migration_name, migration_file, applied_at, applied_by,
             execution_time_ms, success, error_message, checksum, attempt_id)
         SELECT {}, {}, finished_at, current_user, {}, {success}, {}, {}, id FROM done
         ON CONFLICT (migration_name) DO UPDATE SET migration_file = excluded.migration_file,
             applied_at = excluded.applied_at, applied_by = excluded.applied_by,
             execution_time_ms = excluded.execution_time_ms, success = excluded.success,
             error_message = excluded.error_message, checksum = excluded.checksum,
             attempt_id = excluded.attempt_id",
        kept.unwrap_or_default(),
        quoted(attempt.name),
        quoted(attempt.file),
        i32::try_from(ended.milliseconds).unwrap_or(i32::MAX),
        optional(message.as_deref().filter(|_| !success)),
        quoted(attempt.checksum),
    )
}

/// How the last attempt at a migration ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastAttempt {
    /// migration_name.
    pub name: String,
    /// Whether it has no proper end: its runner was killed, was stopped by a signal, or still runs.
    pub unfinished: bool,
    /// Whether all of it is done.
    pub applied: bool,
    /// What was written down of the end.
    pub message: Option<String>,
    /// The first attempt of the series that it belongs to.
    pub series: i64,
    /// How many statements of that series are recorded as started, each by itself.
    pub steps: i64,
}

/// The last attempt at each migration.
///
/// # Errors
/// The client's.
pub fn last_attempts(client: &mut Client, state: State) -> SqlResult<Vec<LastAttempt>> {
    // What this version asks for beside the outcome is not there before the ledger is brought up to date.
    let (series, steps) = match state {
        State::Absent | State::Old => return Ok(Vec::new()),
        State::Earlier => ("a.id", "0::bigint"),
        State::Current => (
            "coalesce(a.continues, a.id)",
            "(SELECT count(*) FROM public.migration_steps s WHERE s.series = coalesce(a.continues, a.id))",
        ),
    };
    let rows = client.query(
        &format!(
            "SELECT a.migration_name::text, a.outcome, a.message, {series}, {steps}
             FROM public.migration_attempts a
             WHERE NOT EXISTS (SELECT FROM public.migration_attempts b
                               WHERE b.migration_name = a.migration_name AND b.id > a.id)
             ORDER BY a.migration_name"
        ),
        &[],
    )?;
    Ok(rows
        .iter()
        .map(|row| {
            let outcome: &str = row.get(1);
            LastAttempt {
                name: row.get(0),
                unfinished: matches!(outcome, "running" | "interrupted"),
                applied: matches!(outcome, "applied" | "adopted" | "repaired"),
                message: row.get(2),
                series: row.get(3),
                steps: row.get(4),
            }
        })
        .collect())
}

/// Marks attempts without an end as interrupted. Only the holder of the exclusive lock may, after
/// [`crate::db::backend::end_orphans`]: nobody else runs.
///
/// # Errors
/// The client's.
pub fn close_interrupted(client: &mut Client) -> SqlResult<u64> {
    client.execute(
        "UPDATE public.migration_attempts
         SET outcome = 'interrupted', finished_at = clock_timestamp(), message = $1 WHERE outcome = 'running'",
        &[&SILENT],
    )
}

/// What is written down of an attempt whose runner was killed.
const SILENT: &str = "the runner ended without a word";
