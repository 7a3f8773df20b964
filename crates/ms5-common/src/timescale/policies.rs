//! Policies, their jobs and how these last ended; continuous aggregates.

use crate::db::client::Client;

type SqlResult<T> = Result<T, postgres::Error>;

/// What a policy does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Compresses old chunks.
    Compression,
    /// Refreshes a continuous aggregate.
    Refresh,
    /// Drops old chunks.
    Retention,
    /// Anything else, a function of the operator's included.
    Other,
}

/// A background job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its number.
    pub id: i32,
    /// Its name, which holds the number.
    pub name: String,
    /// What it does.
    pub kind: Kind,
    /// The hypertable, or the continuous aggregate where it is about one: `schema.name`.
    pub on: Option<String>,
    /// compress_after or end_offset, in microseconds.
    pub offset: Option<i64>,
    /// The pause between two runs, in microseconds.
    pub every: i64,
    /// Whether it runs by schedule.
    pub scheduled: bool,
    /// `Success` or `Failed`; None before its first end.
    pub last_status: Option<String>,
    /// How often it has run, and failed.
    pub runs: (i64, i64),
    /// The words of the last failure that this role may read.
    pub last_error: Option<String>,
    /// For how many seconds it is overdue while it does not run; negative before its time.
    pub overdue: Option<i64>,
}

/// Every job of the database, TimescaleDB's own (below 1000) included.
///
/// # Errors
/// The client's.
pub fn jobs(client: &mut Client) -> SqlResult<Vec<Job>> {
    // A policy on a continuous aggregate names the materialization table, from 2.22 on the view. An offset that is a
    // number (integer time) has no interval.
    let rows = client.query_typed(
        "SELECT j.job_id, j.application_name::text, j.proc_name::text,
                coalesce(quote_ident(a.view_schema) || '.' || quote_ident(a.view_name),
                         quote_ident(j.hypertable_schema) || '.' || quote_ident(j.hypertable_name)),
                CASE WHEN o.x ~ '[a-zA-Z:]' THEN (extract(epoch FROM o.x::interval) * 1000000)::bigint END,
                (extract(epoch FROM j.schedule_interval) * 1000000)::bigint, j.scheduled,
                s.last_run_status, coalesce(s.total_runs, 0), coalesce(s.total_failures, 0),
                CASE WHEN s.last_run_status = 'Failed' THEN
                    (SELECT e.sqlerrcode || ': ' || e.err_message FROM timescaledb_information.job_errors e
                     WHERE e.job_id = j.job_id ORDER BY e.start_time DESC LIMIT 1) END,
                CASE WHEN j.scheduled AND s.job_status IS DISTINCT FROM 'Running' AND isfinite(j.next_start)
                     THEN extract(epoch FROM now() - j.next_start)::bigint END
         FROM timescaledb_information.jobs j
         LEFT JOIN timescaledb_information.job_stats s ON s.job_id = j.job_id
         LEFT JOIN timescaledb_information.continuous_aggregates a
           ON (a.materialization_hypertable_schema = j.hypertable_schema
               AND a.materialization_hypertable_name = j.hypertable_name)
           OR (a.view_schema = j.hypertable_schema AND a.view_name = j.hypertable_name)
         CROSS JOIN LATERAL (SELECT coalesce(j.config->>'compress_after', j.config->>'end_offset') AS x) o
         ORDER BY j.job_id",
        &[],
    )?;
    Ok(rows
        .iter()
        .map(|row| Job {
            id: row.get(0),
            name: row.get(1),
            kind: match row.get(2) {
                "policy_compression" | "policy_columnstore" => Kind::Compression,
                "policy_refresh_continuous_aggregate" => Kind::Refresh,
                "policy_retention" => Kind::Retention,
                _ => Kind::Other,
            },
            on: row.get(3),
            offset: row.get(4),
            every: row.get(5),
            scheduled: row.get(6),
            last_status: row.get(7),
            runs: (row.get(8), row.get(9)),
            last_error: row.get(10),
            overdue: row.get(11),
        })
        .collect())
}

/// The names of the continuous aggregates, `schema.name`.
///
/// # Errors
/// The client's.
pub fn continuous_aggregates(client: &mut Client) -> SqlResult<Vec<String>> {
    let rows = client.query_typed(
        "SELECT quote_ident(view_schema) || '.' || quote_ident(view_name)
         FROM timescaledb_information.continuous_aggregates ORDER BY 1",
        &[],
    )?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
