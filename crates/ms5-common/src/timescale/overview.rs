//! Hypertables with their chunks over time, as records. A look that nobody waits for: what is not answered within a second is left out.

use postgres::Row;
use serde_json::{Value, json};

use super::{Version, hypertables};
use crate::db::client::Client;
use crate::db::server_error::reasons;
use crate::record::Recorder;

/// Sizes are of a chunk with its indexes and its compressed rows. Reading one takes a lock that only ACCESS EXCLUSIVE is in the way
/// of; behind such a one nobody is to queue, so the wait is short.
const BOUNDS: &str = "BEGIN READ ONLY; SET LOCAL statement_timeout = '1s'; SET LOCAL lock_timeout = '100ms'";

/// Records every hypertable of users, where anybody reads records.
pub fn record(client: &mut Client, version: Option<Version>, recorder: &Recorder) {
    let Some(version) = version.filter(|_| recorder.is_read()) else { return };
    let found = client.batch_execute(BOUNDS).and_then(|()| client.query_typed(&query(version), &[]));
    let ended = client.batch_execute("ROLLBACK");
    match found.and_then(|rows| ended.map(|()| rows)) {
        Ok(rows) => in_records(&rows).into_iter().for_each(|fields| recorder.emit("hypertable", fields)),
        Err(error) => log::debug!("Hypertables are not recorded: {}", reasons(&error).join("; ")),
    }
}

/// A row for each chunk, and one for a hypertable without any.
fn query(version: Version) -> String {
    let packed = hypertables::packed(version);
    format!(
        "WITH packed (chunk, store) AS ({packed}),
              chunks AS (
                  SELECT c.*, to_regclass(format('%I.%I', c.chunk_schema, c.chunk_name))::oid AS oid
                  FROM timescaledb_information.chunks c)
         SELECT h.hypertable_schema::text, h.hypertable_name::text, d.column_name::text,
                CASE WHEN isfinite(c.range_start) THEN to_char(c.range_start AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')
                     ELSE c.range_start_integer::text END,
                CASE WHEN isfinite(c.range_end) THEN to_char(c.range_end AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')
                     ELSE c.range_end_integer::text END,
                (pg_total_relation_size(c.oid::regclass) + coalesce(pg_total_relation_size(p.store::regclass), 0))::bigint,
                coalesce(c.is_compressed, false), r.reltuples::float8
         FROM timescaledb_information.hypertables h
         JOIN timescaledb_information.dimensions d ON d.hypertable_schema = h.hypertable_schema
              AND d.hypertable_name = h.hypertable_name AND d.dimension_number = 1
         LEFT JOIN chunks c ON c.hypertable_schema = h.hypertable_schema AND c.hypertable_name = h.hypertable_name
         LEFT JOIN packed p ON p.chunk = c.oid
         LEFT JOIN pg_catalog.pg_class r ON r.oid = c.oid
         WHERE h.hypertable_schema !~ '^_timescaledb_'
         ORDER BY h.hypertable_schema, h.hypertable_name, c.range_start, c.range_start_integer, c.chunk_name"
    )
}

/// The rows of each hypertable as one record.
fn in_records(rows: &[Row]) -> Vec<Value> {
    let name = |row: &Row| (row.get::<_, String>(0), row.get::<_, String>(1));
    rows.chunk_by(|one, next| name(one) == name(next))
        .map(|rows| {
            let (schema, table) = name(&rows[0]);
            let chunks: Vec<Value> = rows.iter().filter_map(chunk).collect();
            json!({
                "schema": schema, "table": table, "time_column": rows[0].get::<_, String>(2),
                "rows_estimate": estimate(rows), "chunks": chunks,
            })
        })
        .collect()
}

fn chunk(row: &Row) -> Option<Value> {
    let bytes: Option<i64> = row.get(5);
    let (begin, end): (Option<String>, Option<String>) = (row.get(3), row.get(4));
    Some(json!({"begin": begin, "end": end, "bytes": bytes?, "compressed": row.get::<_, bool>(6)}))
}

/// What the planner counts with, in all; None where a chunk was never analyzed, or is compressed, of which it knows batches only.
fn estimate(rows: &[Row]) -> Option<u64> {
    let of_chunk = |row: &Row| {
        let tuples: Option<f64> = row.get(7);
        match tuples {
            None => Some(0),
            Some(tuples) if tuples < 0.0 || row.get(6) => None,
            Some(tuples) => format!("{tuples:.0}").parse::<u64>().ok(),
        }
    };
    rows.iter().map(of_chunk).sum()
}
