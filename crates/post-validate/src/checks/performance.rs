//! `--performance-test`: the queries promised against their limits, chunk exclusion, what compression saves.

use std::collections::BTreeMap;

use ms5_common::check::{Check, Finding};
use ms5_common::db::client::Client;
use ms5_common::db::server_error::{connection_lost, reasons};
use ms5_common::expected::Query;
use ms5_common::timescale::hypertables;
use postgres::SimpleQueryMessage;

use super::{Bench, SqlResult, number};
use crate::plan::{self, Plan};

/// Queries.
pub(super) const QUERIES: Check = Check::new(
    "queries",
    "the time of each query of expected.json (--performance-test)",
    "within its max_ms, at the second try if not at the first",
);
/// Chunk exclusion.
pub(super) const EXCLUSION: Check = Check::new(
    "chunk-exclusion",
    "the plan for one moment of each hypertable (--performance-test)",
    "one chunk alone is read",
);
/// Compression.
pub(super) const SAVINGS: Check = Check::new(
    "compression-savings",
    "what compression saves, licence timescale (--performance-test)",
    "shown, never a fault",
);

const LEFT_OUT: &str = "it was not asked for";

pub(super) fn queries(bench: &mut Bench<'_>) -> SqlResult {
    if !bench.input.options.performance {
        bench.add(&QUERIES, Finding::skipped(LEFT_OUT));
        return Ok(());
    }
    let chunks: BTreeMap<String, String> = if bench.extension.installed.is_some() {
        hypertables::chunks(&mut bench.client)?.into_iter().collect()
    } else {
        BTreeMap::new()
    };
    for query in &bench.expected().queries {
        let finding = match timed(&mut bench.client, query) {
            Ok(plan) => judge(query, &plan, &chunks),
            Err(error) if connection_lost(&error) => return Err(error),
            Err(error) => {
                bench.client.batch_execute("ROLLBACK")?;
                failed(query, &error)
            }
        };
        let wanted = format!("at most {} ms", query.max_ms);
        bench.add(&QUERIES, finding.on(&query.name).wanted(wanted));
    }
    Ok(())
}

/// Runs a query once, and once more where it took too long: the first may have waited for the disk alone.
fn timed(client: &mut Client, query: &Query) -> Result<Plan, postgres::Error> {
    let limit = query.max_ms.saturating_mul(10).clamp(10_000, 3_600_000);
    let sql = query.sql.trim().trim_end_matches(';');
    let mut best: Option<Plan> = None;
    for _ in 0..2 {
        let plan = explained(
            client,
            &format!(
                "START TRANSACTION READ ONLY; SET LOCAL statement_timeout = {limit};
                 EXPLAIN (ANALYZE, TIMING OFF, VERBOSE, FORMAT JSON) {sql}"
            ),
        )?;
        client.batch_execute("ROLLBACK")?;
        let took = |plan: &Plan| plan.milliseconds.unwrap_or(f64::MAX);
        if best.as_ref().is_none_or(|best| took(&plan) < took(best)) {
            best = Some(plan);
        }
        if best.as_ref().is_some_and(|best| within(best, query.max_ms)) {
            break;
        }
    }
    Ok(best.unwrap_or(Plan { milliseconds: None, scanned: std::collections::BTreeSet::new() }))
}

fn explained(client: &mut Client, message: &str) -> Result<Plan, postgres::Error> {
    let answers = client.simple_query(message)?;
    let text: String = answers
        .iter()
        .filter_map(|answer| match answer {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        })
        .collect::<Vec<_>>()
        .join("\n");
    Ok(plan::read(&text).unwrap_or(Plan { milliseconds: None, scanned: std::collections::BTreeSet::new() }))
}

fn within(plan: &Plan, max_ms: u64) -> bool {
    let limit = std::time::Duration::from_millis(max_ms).as_secs_f64() * 1000.0;
    plan.milliseconds.is_some_and(|took| took <= limit)
}

fn judge(query: &Query, plan: &Plan, chunks: &BTreeMap<String, String>) -> Finding {
    let Some(took) = plan.milliseconds else {
        return Finding::fail(format!("The time of the query {:?} could not be read", query.name))
            .remedy("its sql must be one statement that EXPLAIN takes");
    };
    let mut read: BTreeMap<&str, usize> = BTreeMap::new();
    for table in plan.scanned.iter().filter_map(|scanned| chunks.get(scanned)) {
        *read.entry(table).or_default() += 1;
    }
    let of = read.iter().map(|(table, count)| {
        let all = chunks.values().filter(|of| of == table).count();
        format!("{count} of {all} chunks of {table} read")
    });
    let seen = format!("Query {:?}: {took:.1} ms, limit {} ms", query.name, query.max_ms);
    let seen = of.fold(seen, |seen, chunks| format!("{seen}; {chunks}"));
    if within(plan, query.max_ms) {
        Finding::pass(seen)
    } else {
        Finding::fail(seen)
            .because("it took too long twice")
            .remedy(format!("look at its plan: EXPLAIN (ANALYZE, BUFFERS) {}", query.sql))
            .remedy("ANALYZE the tables it reads, if they were just filled")
    }
}

fn failed(query: &Query, error: &postgres::Error) -> Finding {
    let code = error.code().map(postgres::error::SqlState::code);
    let finding = match code {
        Some("55P03") => Finding::warn(format!("Busy: the query {:?} met a lock", query.name))
            .remedy("run it again when what it reads is no longer locked"),
        Some("57014") => {
            Finding::fail(format!("The query {:?} was stopped after ten times its limit", query.name))
                .remedy(format!("look at its plan: EXPLAIN {}", query.sql))
        }
        _ => Finding::fail(format!("The query {:?} failed", query.name))
            .remedy("mend what the server names, or the query in expected.json"),
    };
    finding.because_all(reasons(error))
}

pub(super) fn exclusion(bench: &mut Bench<'_>) -> SqlResult {
    if !bench.input.options.performance {
        bench.add(&EXCLUSION, Finding::skipped(LEFT_OUT));
        return Ok(());
    }
    let tables: Vec<String> =
        bench.hypertables.iter().filter(|table| table.chunks > 1).map(|table| table.table.clone()).collect();
    let boundaries = hypertables::boundaries(&mut bench.client, &tables)?;
    let chunks: BTreeMap<String, String> = hypertables::chunks(&mut bench.client)?.into_iter().collect();
    let mut right = 0;
    for boundary in &boundaries {
        let Some(table) = bench.hypertables.iter().find(|table| table.table == boundary.table) else {
            continue;
        };
        let (name, column, kind) = (&table.table, &table.time_column, &table.time_type);
        let at = format!("CAST('{}' AS {kind})", boundary.at);
        let plan = explained(
            &mut bench.client,
            &format!("EXPLAIN (VERBOSE, FORMAT JSON) SELECT count(*) FROM {name} WHERE {column} = {at}"),
        )?;
        let read = plan.scanned.iter().filter(|scanned| chunks.contains_key(*scanned)).count();
        if read <= 1 {
            right += 1;
            continue;
        }
        let finding = Finding::warn(format!("A query on one moment of {name} reads {read} of {} chunks", table.chunks))
            .on(name)
            .remedy("look at timescaledb.enable_chunk_append, timescaledb.enable_optimizations and constraint_exclusion");
        bench.report.add(&EXCLUSION, finding);
    }
    let finding = if boundaries.is_empty() {
        Finding::info("No hypertable has chunks to leave out yet")
    } else if right == boundaries.len() {
        Finding::pass(format!("Chunk exclusion works on {}", number(right, "hypertable")))
    } else {
        return Ok(());
    };
    bench.add(&EXCLUSION, finding);
    Ok(())
}

pub(super) fn savings(bench: &mut Bench<'_>) -> SqlResult {
    if !bench.input.options.performance || !bench.extension.community() {
        let why = if bench.input.options.performance { "the license has no compression" } else { LEFT_OUT };
        bench.add(&SAVINGS, Finding::skipped(why));
        return Ok(());
    }
    let version = bench.version();
    let schema = bench.functions_in().to_owned();
    let tables: Vec<String> =
        bench.hypertables.iter().filter(|table| table.compression).map(|table| table.table.clone()).collect();
    for table in tables {
        let seen = match hypertables::savings(&mut bench.client, version, &schema, &table)? {
            None => format!("{table}: no chunk is compressed yet"),
            Some(savings) => format!(
                "{table}: {} of {} chunks compressed, {} bytes before, {} after",
                savings.compressed, savings.chunks, savings.before, savings.after
            ),
        };
        bench.add(&SAVINGS, Finding::info(seen).on(&table));
    }
    Ok(())
}
