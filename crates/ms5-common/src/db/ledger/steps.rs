//! Steps: the statements of a file that runs statement by statement, each recorded by itself.

use std::collections::BTreeMap;

use crate::db::client::Client;
use crate::sql::escape_literal as quoted;

use super::SqlResult;
use super::attempt::guard;

/// A statement that an attempt has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// sha256 of its text.
    pub checksum: String,
    /// Whether it is done.
    pub done: bool,
    /// Whether the server has said that it failed; where it is neither done nor this, nobody knows how it ended.
    pub failed: bool,
    /// The indexes that its table had before, for CREATE INDEX outside a transaction.
    pub before: Option<Vec<String>>,
}

/// Where a step is recorded.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The first attempt at the file.
    pub series: i64,
    /// The statement's number, from 1; statements that only set up the session are not counted.
    pub step: i32,
    /// The attempt that executes it.
    pub attempt: i64,
    /// sha256 of its text.
    pub checksum: &'a str,
}

/// The steps of a series, by number.
///
/// # Errors
/// The client's.
pub fn read(client: &mut Client, series: i64) -> SqlResult<BTreeMap<i32, Step>> {
    let rows = client.query(
        "SELECT step, checksum::text, done_at IS NOT NULL, failed_at IS NOT NULL, before FROM public.migration_steps WHERE series = $1",
        &[&series],
    )?;
    Ok(rows
        .iter()
        .map(|row| {
            let (checksum, done, failed, before) = (row.get(1), row.get(2), row.get(3), row.get(4));
            (row.get(0), Step { checksum, done, failed, before })
        })
        .collect())
}

/// Opens a transaction with the record of a step in it.
///
/// # Errors
/// The client's; 22012 also where the run's lock is no longer held, as its `token` tells.
pub fn begin(client: &mut Client, place: Place<'_>, token: Option<i64>) -> SqlResult<()> {
    client.batch_execute(&format!("{}BEGIN; {}", guard(token), started(place, None)))
}

/// Records the step as done inside its transaction and commits both.
///
/// # Errors
/// The client's. A lost connection leaves the outcome open.
pub fn commit(client: &mut Client, place: Place<'_>) -> SqlResult<()> {
    client.batch_execute(&format!("{}; COMMIT", stamped(place, "done_at")))
}

/// Whether the transaction of a step was committed, asked on a new session after a lost answer, once the process that
/// worked on it is gone.
///
/// # Errors
/// The client's.
pub fn committed(client: &mut Client, place: Place<'_>) -> SqlResult<bool> {
    let row = client.query_one(
        "SELECT EXISTS (SELECT FROM public.migration_steps
                        WHERE series = $1 AND step = $2 AND attempt_id = $3 AND done_at IS NOT NULL)",
        &[&place.series, &place.step, &place.attempt],
    )?;
    Ok(row.get(0))
}

/// Records that a step which cannot run in a transaction starts. Of a step that was started before, what was there
/// before the first start stays on record.
///
/// # Errors
/// The client's; 22012 also where the run's lock is no longer held, as its `token` tells.
pub fn start(
    client: &mut Client,
    place: Place<'_>,
    token: Option<i64>,
    before: Option<&[String]>,
) -> SqlResult<()> {
    client.batch_execute(&format!("{}{}", guard(token), started(place, before)))
}

/// Records that it is done.
///
/// # Errors
/// The client's.
pub fn done(client: &mut Client, place: Place<'_>) -> SqlResult<()> {
    client.batch_execute(&stamped(place, "done_at"))
}

/// Records that the server has refused or cancelled a step that runs outside of a transaction.
///
/// # Errors
/// The client's.
pub fn failed(client: &mut Client, place: Place<'_>) -> SqlResult<()> {
    client.batch_execute(&stamped(place, "failed_at"))
}

/// Sets one of a step's times to now.
fn stamped(place: Place<'_>, column: &str) -> String {
    format!(
        "UPDATE public.migration_steps SET {column} = pg_catalog.clock_timestamp() WHERE series = {} AND step = {}",
        place.series, place.step
    )
}

fn started(place: Place<'_>, before: Option<&[String]>) -> String {
    let before = before.map_or_else(
        || "NULL".to_owned(),
        |names| {
            let names: Vec<String> = names.iter().map(|name| quoted(name)).collect();
            format!("ARRAY[{}]::text[]", names.join(", "))
        },
    );
    format!(
        "INSERT INTO public.migration_steps AS s (series, step, attempt_id, checksum, started_at, done_at, before)
         VALUES ({}, {}, {}, {}, pg_catalog.clock_timestamp(), NULL, {before})
         ON CONFLICT (series, step) DO UPDATE SET attempt_id = excluded.attempt_id, checksum = excluded.checksum,
             started_at = excluded.started_at, done_at = excluded.done_at, failed_at = NULL,
             before = CASE WHEN s.checksum = excluded.checksum THEN coalesce(s.before, excluded.before)
                           ELSE excluded.before END",
        place.series,
        place.step,
        place.attempt,
        quoted(place.checksum),
    )
}
