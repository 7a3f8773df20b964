//! How long the tools and the main queries take, compared with the last runs.

use std::time::{Duration, Instant};

use super::backup::{made, same_state};
use super::{Start, Test};
use crate::case::{Case, Done, Stop, must, refused};
use crate::measures::{Measure, Unit};

pub(super) const TESTS: &[Test] = &[
    Test {
        id: "performance.tools",
        title: "How long validation and migration of the database in the field take",
        start: Start::Field,
        run: tools,
    },
    Test {
        id: "performance.backup",
        title: "How much of a table is backed up, verified and restored in a second",
        start: Start::Empty,
        run: backup,
    },
    Test {
        id: "performance.queries",
        title: "How long the queries of expected.json take",
        start: Start::Migrated,
        run: queries,
    },
];

/// Rows of the table that is backed up: some 30 MB.
const ROWS: u32 = 400_000;
/// How often a query is run; the fastest counts.
const TURNS: usize = 5;

fn tools(case: &mut Case<'_>) -> Done {
    let small = "--min-disk=1 --min-memory=1 --min-available=1";
    timed(case, "pre-validate --quick", "pre-validate", &format!("--quick {small}"))?;
    timed(case, "migration-runner --dry-run", "migration-runner", "--dry-run")?;
    timed(case, "migration-runner, all files", "migration-runner", "")?;
    timed(case, "migration-runner, nothing to do", "migration-runner", "")?;
    timed(case, "post-validate", "post-validate", "")?;
    timed(case, "post-validate --performance-test", "post-validate", "--performance-test")
}

fn timed(case: &mut Case<'_>, name: &str, tool: &str, words: &str) -> Done {
    let took = case.tool(tool, words)?.exits(0)?.took;
    note(case, name, Unit::Seconds, took.as_secs_f64());
    Ok(())
}

fn note(case: &mut Case<'_>, name: &str, unit: Unit, value: f64) {
    case.measures.push(Measure { name: name.to_owned(), unit, value });
}

fn backup(case: &mut Case<'_>) -> Done {
    case.sql(&format!(
        "CREATE TABLE many (id bigint PRIMARY KEY, at timestamptz NOT NULL, value float8, quality text);
         INSERT INTO many SELECT i, '2025-01-01Z'::timestamptz + i * interval '1 second', (i::bigint * 7919 % 100003) / 7.0, 'good'
         FROM generate_series(1, {ROWS}) i;
         ANALYZE many"
    ))?;
    // Without its index, of which a backup holds a line.
    let bytes: f64 = case
        .ask("SELECT pg_table_size('many')")?
        .parse()
        .map_err(|_| Stop::failed("the size of the table is not known"))?;
    let state = case.state()?;
    let rate = |took: Duration| bytes / 1e6 / took.as_secs_f64().max(0.001);
    let begun = Instant::now();
    made(case, "many", "full")?;
    note(case, "backup, full", Unit::MegabytesPerSecond, rate(begun.elapsed()));
    let took = case.tool("backup-manager", "verify many")?.exits(0)?.took;
    note(case, "verify", Unit::MegabytesPerSecond, rate(took));
    let who = case.ground.restore_flags(false)?;
    let took = case.tool("backup-manager", &format!("restore many --force --drop-old {who}"))?.exits(0)?.took;
    note(case, "restore", Unit::MegabytesPerSecond, rate(took));
    same_state(case, &state)
}

fn queries(case: &mut Case<'_>) -> Done {
    let queries = super::validators::promised(case)?.queries;
    if queries.is_empty() {
        return Err(Stop::Skipped("expected.json names no queries".to_owned()));
    }
    let mut session = case.session()?;
    for query in queries {
        let mut fastest = Duration::MAX;
        for _ in 0..TURNS {
            let begun = Instant::now();
            session.query_typed(&query.sql, &[]).map_err(|error| refused(&query.name, &error))?;
            fastest = fastest.min(begun.elapsed());
        }
        must(fastest <= Duration::from_millis(query.max_ms), || {
            format!("{} takes {} ms, and {} are promised", query.name, fastest.as_millis(), query.max_ms)
        })?;
        note(case, &format!("query: {}", query.name), Unit::Milliseconds, fastest.as_secs_f64() * 1e3);
    }
    Ok(())
}
