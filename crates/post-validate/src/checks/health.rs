//! The server's health: size, connections, overdue jobs, dead tuples, long transactions, disk and write-ahead log.

use std::time::Instant;

use ms5_common::check::{Check, Finding};
use ms5_common::db::backend;
use ms5_common::db::client::Client;

use super::{Bench, SqlResult, number};

/// Size.
pub(super) const SIZE: Check = Check::new("size", "the size of the database", "shown, never a fault");
/// Connections.
pub(super) const CONNECTIONS: Check =
    Check::new("connections", "connections in use of max_connections", "at most 80 %");
/// Jobs that should run.
pub(super) const JOBS_DUE: Check =
    Check::new("jobs-due", "background jobs whose time has come", "none is overdue by more than an hour");
/// Dead tuples.
pub(super) const DEAD_TUPLES: Check =
    Check::new("dead-tuples", "the share of dead rows in tables of more than 10000 rows", "at most 20 %");
/// Open transactions.
pub(super) const TRANSACTIONS: Check =
    Check::new("transactions", "the longest open transaction", "not older than an hour (--max-transaction)");
/// Disk.
pub(super) const DISK: Check =
    Check::new("disk-io", "what the database has read from disk and from memory", "shown, never a fault");
/// Write-ahead log.
pub(super) const WAL: Check =
    Check::new("wal-rate", "write-ahead log written while this tool ran", "shown, never a fault");

/// Where the write-ahead log was, and when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wal {
    bytes: i64,
    at: Instant,
}

/// Looks how far the write-ahead log is; on a standby, how far it is replayed.
pub(crate) fn wal_position(client: &mut Client) -> Result<Wal, postgres::Error> {
    let row = client.query_typed_one(
        "SELECT ((CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END)
                 - '0/0'::pg_lsn)::bigint",
        &[],
    )?;
    Ok(Wal { bytes: row.get::<_, Option<i64>>(0).unwrap_or_default(), at: Instant::now() })
}

pub(super) fn database(bench: &mut Bench<'_>) -> SqlResult {
    // Of other roles' sessions a role without pg_read_all_stats sees no more than that they are there, in which database.
    let row = bench.client.query_typed_one(
        "SELECT pg_size_pretty(pg_database_size(current_database())),
                (SELECT count(*) FROM pg_catalog.pg_stat_activity
                 WHERE backend_type = 'client backend' OR backend_type IS NULL AND datid IS NOT NULL),
                current_setting('max_connections')::bigint,
                d.blks_read, d.blks_hit, d.temp_files, d.deadlocks
         FROM pg_catalog.pg_stat_database d WHERE d.datname = current_database()",
        &[],
    )?;
    bench.add(&SIZE, Finding::info(format!("Database size: {}", row.get::<_, String>(0))));
    let (used, most): (i64, i64) = (row.get(1), row.get(2));
    let seen = format!("Connections: {used} of {most}");
    let finding = if used * 100 > most * 80 {
        Finding::warn(seen).remedy("find who holds them: SELECT usename, application_name, state, count(*) FROM pg_stat_activity GROUP BY 1, 2, 3")
    } else {
        Finding::pass(seen)
    };
    bench.add(&CONNECTIONS, finding);
    let (read, hit, files, deadlocks): (i64, i64, i64, i64) =
        (row.get(3), row.get(4), row.get(5), row.get(6));
    let share = (hit * 100).checked_div(read + hit).unwrap_or(100);
    let seen = format!(
        "Disk I/O: {read} blocks read from disk, {share} % found in memory, {files} temporary files, {deadlocks} deadlocks"
    );
    bench.add(&DISK, Finding::info(seen).because("since the statistics were last reset"));
    Ok(())
}

pub(super) fn jobs_due(bench: &mut Bench<'_>) -> SqlResult {
    let late: Vec<String> = bench
        .jobs
        .iter()
        .filter(|job| job.overdue.is_some_and(|seconds| seconds > 3600))
        .map(|job| job.name.clone())
        .collect();
    let finding = if late.is_empty() {
        Finding::pass(format!("Background jobs run when they are due: {}", number(bench.jobs.len(), "job")))
    } else {
        Finding::warn(format!("{} overdue by more than an hour", number(late.len(), "background job")))
            .because_all(late)
            .remedy("raise timescaledb.max_background_workers and max_worker_processes, or start them: SELECT _timescaledb_functions.start_background_workers();")
    };
    bench.add(&JOBS_DUE, finding);
    Ok(())
}

pub(super) fn dead_tuples(bench: &mut Bench<'_>) -> SqlResult {
    let rows = bench.client.query_typed(
        "SELECT quote_ident(schemaname) || '.' || quote_ident(relname), n_dead_tup * 100 / (n_live_tup + n_dead_tup)
         FROM pg_catalog.pg_stat_user_tables
         WHERE n_live_tup + n_dead_tup > 10000 AND n_dead_tup * 100 > (n_live_tup + n_dead_tup) * 20
         ORDER BY n_dead_tup DESC LIMIT 10",
        &[],
    )?;
    for row in &rows {
        let (table, share): (String, i64) = (row.get(0), row.get(1));
        let finding = Finding::warn(format!("{share} % of the rows of {table} are dead"))
            .on(&table)
            .remedy(format!("VACUUM (ANALYZE) {table}; and look why autovacuum has not"));
        bench.add(&DEAD_TUPLES, finding);
    }
    if rows.is_empty() {
        bench.add(&DEAD_TUPLES, Finding::pass("Dead tuples: no table has more than 20 %"));
    }
    Ok(())
}

pub(super) fn transactions(bench: &mut Bench<'_>) -> SqlResult {
    let open = backend::open_transactions(&mut bench.client)?;
    let finding = match open.first() {
        None => Finding::pass("Transactions: none is open besides this tool's own"),
        Some(oldest) => {
            let seen = format!("Longest transaction: {oldest}");
            if oldest.age > bench.input.options.max_transaction {
                Finding::warn(seen)
                    .because("what is deleted meanwhile cannot be cleaned up, and DDL waits for it")
                    .remedy(format!("ask who it is, then: SELECT pg_terminate_backend({});", oldest.pid))
            } else {
                Finding::pass(seen)
            }
        }
    };
    bench.add(&TRANSACTIONS, finding);
    Ok(())
}

pub(super) fn wal(bench: &mut Bench<'_>) -> SqlResult {
    let begun = bench.wal;
    let now = wal_position(&mut bench.client)?;
    let milliseconds = i64::try_from(now.at.duration_since(begun.at).as_millis()).unwrap_or(i64::MAX).max(1);
    let rate = (now.bytes - begun.bytes).max(0).saturating_mul(1000) / milliseconds / 1024;
    let seen = format!("Write-ahead log: {rate} kB/s over {milliseconds} ms, by the whole server");
    bench.add(&WAL, Finding::info(seen));
    Ok(())
}
