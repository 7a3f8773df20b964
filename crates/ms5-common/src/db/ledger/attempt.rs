//! Attempts: begun before the work, ended with it.

use crate::db::client::Client;
use crate::sql::escape_literal as quoted;
use postgres::SimpleQueryMessage;
use postgres::error::SqlState;

use super::{SqlResult, State, statements};
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

impl Begun {
    /// The attempt of an answer.
    #[must_use]
    pub fn of(answers: &[SimpleQueryMessage]) -> Self {
        Self { id: value(answers, "id").and_then(|text| text.parse().ok()).unwrap_or_default() }
    }
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
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
            Self::Adopted => "adopted",
            Self::Repaired => "repaired",
        }
    }

    pub(super) const fn success(self) -> bool {
        matches!(self, Self::Applied | Self::Adopted | Self::Repaired)
    }
}

/// What an end is recorded with.
#[derive(Debug, Clone, Copy)]
pub struct Ended<'a> {
    /// How.
    pub end: End,
    /// The server's code, where it gave one.
    pub sqlstate: Option<&'a str>,
    /// What is to be read of it.
    pub message: Option<&'a str>,
    /// Whether migration_log's row is written too: not where it tells of an earlier success that still holds.
    pub replace: bool,
}

/// How a session is made fresh for a file.
const RESET: &str = "RESET ALL; RESET SESSION AUTHORIZATION; DISCARD TEMP;";

/// Resets the session and records the attempt at a file that runs statement by statement: one round trip.
///
/// # Errors
/// The client's; 22012 also where the run's lock is no longer held, as its `token` tells.
pub fn begin_stepwise(
    client: &mut Client,
    attempt: Attempt<'_>,
    backend: &Backend,
    token: Option<i64>,
) -> SqlResult<Begun> {
    let insert = statements::begin(attempt, backend);
    let answers =
        client.simple_query(&format!("{}{RESET} {} {}", guard(token), backend.prefix(), traced(&insert)))?;
    Ok(Begun::of(&answers))
}

/// A record that is committed before the work begins, so that a killed run leaves a trace; without waiting for the disk,
/// since losing it to a crash of the server loses nothing but the trace.
fn traced(insert: &str) -> String {
    format!("BEGIN; SET LOCAL synchronous_commit TO off; {insert}; COMMIT;")
}

/// A session that applies files in transactions: whether it has our statements prepared.
#[derive(Debug, Default)]
pub struct Prepared(bool);

impl Prepared {
    /// The statements have to be prepared again: a file that ran may have thrown them away.
    pub fn forget(&mut self) {
        self.0 = false;
    }

    fn again(&mut self) -> String {
        if std::mem::replace(&mut self.0, true) { String::new() } else { statements::prepare() }
    }
}

/// Resets the session, records the attempt, and opens the transaction that applies the file: one round trip.
///
/// # Errors
/// The client's; 22012 also where the run's lock is no longer held, as its `token` tells.
pub fn begin(
    client: &mut Client,
    attempt: Attempt<'_>,
    backend: &Backend,
    token: Option<i64>,
    prepared: &mut Prepared,
) -> SqlResult<Begun> {
    let insert = statements::begin_prepared(attempt, backend);
    let answers = client.simple_query(&format!(
        "{}{RESET} {} {} {} BEGIN;",
        guard(token),
        backend.prefix(),
        prepared.again(),
        traced(&insert)
    ));
    if answers.is_err() {
        prepared.forget();
    }
    Ok(Begun::of(&answers?))
}

/// Opens the transaction once more, after a rollback, for the same attempt.
///
/// # Errors
/// The client's.
pub fn again(client: &mut Client, backend: &Backend) -> SqlResult<()> {
    client.batch_execute(&format!("{RESET} {} BEGIN;", backend.prefix()))
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

/// The message that records the success inside the file's transaction and commits both.
///
/// With a `next` attempt it is also what [`begin`] does for that one, whose record is in the same transaction: a file that
/// follows at once costs no message of its own. Read the answer with [`Begun::of`].
///
/// Its failure has SQLSTATE 22012 also where the run's lock is no longer held, as its `token` tells, and 26000 where the
/// file has thrown away what was prepared. After a failure with a `next`, and after a lost connection, only [`committed`]
/// tells the outcome.
#[must_use]
pub fn commit(
    attempt: Attempt<'_>,
    begun: &Begun,
    token: Option<i64>,
    prepared: &mut Prepared,
    next: Option<(Attempt<'_>, &Backend)>,
) -> String {
    let (record, fresh) = match next {
        None => (String::new(), String::new()),
        Some((next, backend)) => (
            format!("{};", statements::begin_prepared(next, backend)),
            format!("; {RESET} {} BEGIN", backend.prefix()),
        ),
    };
    // SET ROLE or search_path of the file must not reach the ledger.
    format!(
        "RESET SESSION AUTHORIZATION; {}{} {}; {record} COMMIT{fresh}",
        guard(token),
        prepared.again(),
        statements::end_prepared(attempt, begun.id),
    )
}

/// Whether the message of [`commit`] failed since the row of its attempt is not there any more.
#[must_use]
pub fn attempt_is_gone(error: &postgres::Error) -> bool {
    error.as_db_error().is_some_and(|server| {
        *server.code() == SqlState::NOT_NULL_VIOLATION
            && server.table() == Some("migration_log")
            && server.column() == Some("migration_name")
    })
}

/// Takes back the record of an attempt whose file was not begun after all.
///
/// # Errors
/// The client's.
pub fn withdraw(client: &mut Client, attempt: Attempt<'_>) -> SqlResult<()> {
    client.batch_execute(&format!(
        "DELETE FROM public.migration_attempts WHERE migration_name = {} AND run_id = {} AND outcome = 'running'",
        quoted(attempt.name),
        quoted(attempt.run_id)
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
    client.batch_execute(&statements::ended(attempt, id, ended))
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
    let begun = begin_stepwise(client, attempt, backend, None)?;
    let ended = Ended { end, sqlstate: None, message: Some(message), replace: true };
    self::end(client, attempt, begun.id, ended)
}

/// How the last attempt at a migration ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastAttempt {
    /// migration_name.
    pub name: String,
    /// migration_file.
    pub file: String,
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

/// The last attempt at each migration, the newest first.
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
            "SELECT a.migration_name::text, a.migration_file::text, a.outcome, a.message, {series}, {steps}
             FROM public.migration_attempts a
             WHERE NOT EXISTS (SELECT FROM public.migration_attempts b
                               WHERE b.migration_name = a.migration_name AND b.id > a.id)
             ORDER BY a.id DESC"
        ),
        &[],
    )?;
    Ok(rows
        .iter()
        .map(|row| {
            let outcome: &str = row.get(2);
            LastAttempt {
                name: row.get(0),
                file: row.get(1),
                unfinished: matches!(outcome, "running" | "interrupted"),
                applied: matches!(outcome, "applied" | "adopted" | "repaired"),
                message: row.get(3),
                series: row.get(4),
                steps: row.get(5),
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
