//! The statements that write attempts and their ends, as text: with the values in it, or prepared in a session that applies
//! many files, which spares the server most of the work.

use crate::sql::escape_literal as quoted;

use super::{Attempt, Ended};
use crate::db::backend::Backend;

/// Prepares [`begin_prepared`] and [`end_prepared`], whatever a file has made of the session.
pub(super) fn prepare() -> String {
    let parameter = |number: usize| format!("${number}");
    let begin = insert(&std::array::from_fn(|index| parameter(index + 1)));
    let end = end(&Terms {
        id: parameter(1),
        name: parameter(2),
        file: parameter(3),
        checksum: parameter(4),
        kept: Some(parameter(5)),
        outcome: "'applied'".to_owned(),
        sqlstate: NULL.to_owned(),
        message: NULL.to_owned(),
        success: true,
        replace: true,
    });
    format!(
        "DEALLOCATE ALL;
         PREPARE ms5_begin (text, text, text, text, text, text, int4, timestamptz, int8) AS {begin};
         PREPARE ms5_end (int8, text, text, text, text[]) AS {end};"
    )
}

/// The row of an attempt that begins; gives its id.
pub(super) fn begin(attempt: Attempt<'_>, backend: &Backend) -> String {
    insert(&values(attempt, backend))
}

/// The same, prepared.
pub(super) fn begin_prepared(attempt: Attempt<'_>, backend: &Backend) -> String {
    format!("EXECUTE ms5_begin ({})", values(attempt, backend).join(", "))
}

/// The one statement that ends an attempt and writes migration_log, both with the same time; and the texts.
pub(super) fn ended(attempt: Attempt<'_>, id: i64, ended: Ended<'_>) -> String {
    // A NUL cannot stand in a text value; a message of the server never holds one, ours might quote a file.
    let message = ended.message.map(|text| text.replace('\0', "\u{fffd}"));
    let success = ended.end.success();
    end(&Terms {
        id: id.to_string(),
        name: quoted(attempt.name),
        file: quoted(attempt.file),
        checksum: quoted(attempt.checksum),
        kept: success.then(|| kept(attempt)).flatten(),
        outcome: quoted(ended.end.word()),
        sqlstate: optional(ended.sqlstate),
        message: optional(message.as_deref()),
        success,
        replace: ended.replace,
    })
}

/// [`ended`] for a success, prepared.
pub(super) fn end_prepared(attempt: Attempt<'_>, id: i64) -> String {
    format!(
        "EXECUTE ms5_end ({id}, {}, {}, {}, {})",
        quoted(attempt.name),
        quoted(attempt.file),
        quoted(attempt.checksum),
        kept(attempt).unwrap_or_else(|| NULL.to_owned()),
    )
}

const NULL: &str = "NULL";

fn optional(text: Option<&str>) -> String {
    text.map_or_else(|| NULL.to_owned(), quoted)
}

fn kept(attempt: Attempt<'_>) -> Option<String> {
    let texts: Vec<String> = attempt.kept?.iter().map(|text| quoted(text)).collect();
    Some(format!("ARRAY[{}]::text[]", texts.join(", ")))
}

fn values(attempt: Attempt<'_>, backend: &Backend) -> [String; 9] {
    [
        quoted(attempt.name),
        quoted(attempt.file),
        quoted(attempt.run_id),
        quoted(attempt.checksum),
        quoted(attempt.tool_version),
        quoted(attempt.host),
        backend.pid.to_string(),
        quoted(&backend.since),
        attempt.continues.map_or_else(|| NULL.to_owned(), |first| first.to_string()),
    ]
}

fn insert(values: &[String; 9]) -> String {
    format!(
        "INSERT INTO public.migration_attempts (migration_name, migration_file, run_id, checksum, tool_version, host,
             backend_pid, backend_start, continues) VALUES ({}) RETURNING id",
        values.join(", ")
    )
}

/// The end of an attempt: each an expression, a value or a parameter.
struct Terms {
    id: String,
    name: String,
    file: String,
    checksum: String,
    /// The statements to keep; none where it may be NULL that is.
    kept: Option<String>,
    outcome: String,
    sqlstate: String,
    message: String,
    success: bool,
    /// Whether migration_log is written.
    replace: bool,
}

/// The attempt's whole time, as migration_log's integer holds it.
const MILLISECONDS: &str = "least(extract(epoch FROM finished_at - started_at) * 1000, 2147483647)::int4";

/// Where the attempt's row is gone the name is NULL, which migration_log refuses: without a row of ours there is no success.
fn end(terms: &Terms) -> String {
    let Terms { id, name, file, checksum, kept, outcome, sqlstate, message, success, replace } = terms;
    let old = format!(
        "old AS (SELECT pg_catalog.to_jsonb(l) AS r FROM public.migration_log l WHERE {replace} AND migration_name = {name})"
    );
    let update = format!(
        "UPDATE public.migration_attempts SET outcome = {outcome}, finished_at = pg_catalog.clock_timestamp(),
             sqlstate = {sqlstate}, message = {message}, replaced = (SELECT r FROM old)
         WHERE id = {id} RETURNING id, started_at, finished_at"
    );
    if !replace {
        return format!("WITH {old} {update}");
    }
    let kept = kept.as_ref().map(|kept| {
        format!(
            ", kept AS (INSERT INTO public.migration_texts SELECT {checksum}, {kept} WHERE {kept} IS NOT NULL
                        ON CONFLICT DO NOTHING)"
        )
    });
    let error = if *success { NULL } else { message };
    format!(
        "WITH {old}, done AS ({update}){}
         INSERT INTO public.migration_log (migration_name, migration_file, applied_at, applied_by,
             execution_time_ms, success, error_message, checksum, attempt_id)
         SELECT CASE WHEN id IS NOT NULL THEN {name} END, {file}, finished_at, current_user, {MILLISECONDS}, {success}, {error},
             {checksum}, id
         FROM (VALUES (1)) always LEFT JOIN done ON true
         ON CONFLICT (migration_name) DO UPDATE SET migration_file = excluded.migration_file,
             applied_at = excluded.applied_at, applied_by = excluded.applied_by,
             execution_time_ms = excluded.execution_time_ms, success = excluded.success,
             error_message = excluded.error_message, checksum = excluded.checksum,
             attempt_id = excluded.attempt_id",
        kept.unwrap_or_default(),
    )
}
