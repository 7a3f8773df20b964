//! What post-validate passes, and what it must find.

use std::fs;

use ms5_common::expected::{Expected, Hypertable};
use ms5_common::sql::escape_literal;

use super::{Before, Broken, Finds, SMALL, broken, find, finds, promised};
use crate::case::{Case, Done, Stop, must, refused};

const TOOL: &str = "post-validate";
/// The licence that has compression and continuous aggregates.
const COMMUNITY: &str = "timescale";

/// Checks that the tests below break by themselves.
#[cfg(test)]
pub(super) const CHECKS: &[&str] = &[
    "extension",
    "promises",
    "schemas",
    "rows",
    "objects",
    "queries",
    "dead-tuples",
    "transactions",
    "rolled-back",
];

/// The tables.
#[cfg(test)]
pub(super) const TABLES: &[&[Broken]] = &[LEDGER, OBJECTS, HYPERTABLES];

const LEDGER: &[Broken] = &[
    Broken {
        check: "ledger-strangers",
        verdict: "warn",
        make: |case, _| {
            case.sql("INSERT INTO public.migration_log (migration_name, migration_file) VALUES ('999 - Nobody Knows', '999_nobody.sql')")?;
            Ok(Some("999_nobody.sql".to_owned()))
        },
    },
    Broken {
        check: "ledger-jobs",
        verdict: "warn",
        make: |case, _| {
            case.sql(
                "INSERT INTO public.migration_paused_jobs (job_id, job, run_id) VALUES (1042, 'a job', 'r')",
            )?;
            Ok(Some(String::new()))
        },
    },
    Broken {
        check: "ledger-attempts",
        verdict: "warn",
        make: |case, _| {
            let name = case.ask("SELECT max(migration_name) FROM public.migration_log WHERE migration_file <> '999_nobody.sql'")?;
            case.sql(&format!(
                "UPDATE public.migration_attempts SET outcome = 'failed' WHERE migration_name = {}",
                escape_literal(&name)
            ))?;
            Ok(Some(name))
        },
    },
    // Another text than the file's has run.
    Broken {
        check: "ledger-files",
        verdict: "fail",
        make: |case, _| {
            let file = case.ask("SELECT min(migration_file) FROM public.migration_log")?;
            case.sql(&format!(
                "UPDATE public.migration_attempts SET checksum = repeat('0', 64)
                 WHERE migration_name = (SELECT migration_name FROM public.migration_log WHERE migration_file = {0});
                 UPDATE public.migration_log SET checksum = repeat('0', 64) WHERE migration_file = {0}",
                escape_literal(&file)
            ))?;
            Ok(Some(file))
        },
    },
];

const OBJECTS: &[Broken] = &[
    Broken {
        check: "tables",
        verdict: "fail",
        make: |case, expected| {
            let Some((table, _)) = plain(expected).next() else { return Ok(None) };
            case.sql(&format!("ALTER TABLE {table} RENAME TO ms5_suite_gone"))?;
            Ok(Some(table.to_owned()))
        },
    },
    Broken {
        check: "columns",
        verdict: "fail",
        make: |case, expected| {
            let Some((table, columns)) = plain(expected).nth(1) else { return Ok(None) };
            let Some(column) = columns.keys().next_back() else { return Ok(None) };
            case.sql(&format!("ALTER TABLE {table} RENAME COLUMN {column} TO ms5_suite_gone"))?;
            Ok(Some(format!("{table}.{column}")))
        },
    },
    Broken {
        check: "functions",
        verdict: "fail",
        make: |case, expected| {
            let Some(function) = expected.functions.first() else { return Ok(None) };
            case.sql(&format!("ALTER FUNCTION {function} RENAME TO ms5_suite_gone"))?;
            Ok(Some(function.clone()))
        },
    },
    Broken {
        check: "triggers",
        verdict: "fail",
        make: |case, expected| {
            let gone = plain(expected).next().map_or("", |(table, _)| table);
            for trigger in &expected.triggers {
                let Some((table, name)) = trigger.rsplit_once('.') else { continue };
                if table != gone {
                    case.sql(&format!("ALTER TABLE {table} DISABLE TRIGGER {name}"))?;
                    return Ok(Some(trigger.clone()));
                }
            }
            Ok(None)
        },
    },
    Broken {
        check: "reference-rows",
        verdict: "info",
        make: |case, expected| {
            let gone = plain(expected).next().map_or("", |(table, _)| table);
            // One that no other table refers to.
            let mut tables = expected.reference_rows.keys().filter(|table| *table != gone);
            Ok(tables.find(|table| case.sql(&format!("DELETE FROM {table}")).is_ok()).cloned())
        },
    },
    // Two rows that are alike leave one behind, as in the field.
    Broken {
        check: "indexes",
        verdict: "fail",
        make: |case, expected| {
            let schema = schema(expected);
            case.sql(&format!(
                "CREATE TABLE {schema}.ms5_suite_twins AS SELECT 1 AS a FROM generate_series(1, 2)"
            ))?;
            let built = case.sql(&format!(
                "CREATE UNIQUE INDEX CONCURRENTLY ms5_suite_twins_a ON {schema}.ms5_suite_twins (a)"
            ));
            must(built.is_err(), || "the server builds a unique index on rows that are alike".to_owned())?;
            Ok(Some(format!("{schema}.ms5_suite_twins_a")))
        },
    },
    Broken {
        check: "constraints",
        verdict: "fail",
        make: |case, expected| {
            let table = format!("{}.ms5_suite_twins", schema(expected));
            case.sql(&format!("ALTER TABLE {table} ADD CONSTRAINT ms5_suite_named CHECK (a > 0) NOT VALID"))?;
            Ok(Some(format!("{table}.ms5_suite_named")))
        },
    },
    Broken {
        check: "views",
        verdict: "fail",
        make: |case, expected| {
            let Some(view) = expected.views.keys().next() else { return Ok(None) };
            case.sql(&format!("ALTER VIEW {view} RENAME TO ms5_suite_gone_view"))?;
            Ok(Some(view.clone()))
        },
    },
    // A view that is there and gives an error.
    Broken {
        check: "views-select",
        verdict: "fail",
        make: |case, expected| {
            let Some(view) =
                expected.views.keys().skip(1).find(|view| case.sql(&format!("DROP VIEW {view}")).is_ok())
            else {
                return Ok(None);
            };
            case.sql(&format!(
                "CREATE FUNCTION {0}.ms5_suite_no() RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RAISE EXCEPTION ''no''; END';
                 CREATE VIEW {view} AS SELECT {0}.ms5_suite_no() AS no",
                schema(expected)
            ))?;
            Ok(Some(view.clone()))
        },
    },
];

const HYPERTABLES: &[Broken] = &[
    // A check that gives an error for any row.
    Broken {
        check: "data-integrity",
        verdict: "fail",
        make: |case, expected| {
            let Some(table) = expected.hypertables.first().map(|first| first.table.as_str()) else {
                return Ok(None);
            };
            case.sql(&format!(
                "CREATE FUNCTION public.ms5_suite_none() RETURNS bool LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no''; END';
                 ALTER TABLE {table} ADD CONSTRAINT ms5_suite_none CHECK (public.ms5_suite_none()) NOT VALID"
            ))?;
            Ok(Some(table.to_owned()))
        },
    },
    Broken {
        check: "hypertables",
        verdict: "fail",
        make: |case, expected| {
            let Some(table) = by_time(expected).next() else { return Ok(None) };
            case.ask(&format!(
                "SELECT count(*) FROM (SELECT set_chunk_time_interval({}, interval '13 days')) x",
                escape_literal(&table.table)
            ))?;
            Ok(Some(table.table.clone()))
        },
    },
    // A plain table again.
    Broken {
        check: "hypertables",
        verdict: "fail",
        make: |case, expected| {
            let Some(Hypertable { table, .. }) = by_time(expected).nth(1) else { return Ok(None) };
            case.sql(&format!("CREATE TABLE public.ms5_suite_plain AS TABLE {table}"))?;
            case.sql(&format!(
                "DROP TABLE {table} CASCADE; CREATE TABLE {table} AS TABLE public.ms5_suite_plain; DROP TABLE public.ms5_suite_plain"
            ))?;
            Ok(Some(table.clone()))
        },
    },
    Broken {
        check: "compression-policies",
        verdict: "fail",
        make: |case, expected| {
            let after = |table: &&Hypertable| {
                table.compression.as_ref().is_some_and(|compression| compression.after.is_some())
            };
            let Some(table) = expected.hypertables.iter().find(after) else { return Ok(None) };
            if !is_community(case)? {
                return Ok(None);
            }
            case.sql(&format!("SELECT remove_compression_policy({})", escape_literal(&table.table)))?;
            Ok(Some(table.table.clone()))
        },
    },
    Broken {
        check: "continuous-aggregates",
        verdict: "fail",
        make: |case, expected| {
            let Some(view) = expected.continuous_aggregates.keys().next() else { return Ok(None) };
            if !is_community(case)? {
                return Ok(None);
            }
            case.sql(&format!("ALTER MATERIALIZED VIEW {view} RENAME TO ms5_suite_gone"))?;
            Ok(Some(view.clone()))
        },
    },
];

/// Whether the server has that licence. It is told where the extension is created: in the database of the test.
fn is_community(case: &Case<'_>) -> Result<bool, Stop> {
    Ok(case.ask("SELECT current_setting('timescaledb.license', true)")? == COMMUNITY)
}

/// Tables promised that are not to become hypertables.
fn plain(expected: &Expected) -> impl Iterator<Item = (&str, &ms5_common::expected::Columns)> {
    let is = |table: &str| expected.hypertables.iter().any(|hypertable| hypertable.table == table);
    let plain = move |(table, columns)| {
        let table: &String = table;
        (!is(table)).then_some((table.as_str(), columns))
    };
    expected.tables.iter().filter_map(plain)
}

/// Hypertables that are divided by time.
fn by_time(expected: &Expected) -> impl Iterator<Item = &Hypertable> {
    expected.hypertables.iter().filter(|table| table.chunk_interval.parse::<i64>().is_err())
}

/// One that is looked into.
fn schema(expected: &Expected) -> &str {
    expected.schemas.first().map_or("public", String::as_str)
}

pub(super) fn passes(case: &mut Case<'_>) -> Done {
    let before = Before::take(case)?;
    let ran = case.tool(TOOL, "")?.exits(0)?;
    ran.says(&[
        "Starting MS5.0 post-migration validation",
        "Database connection successful",
        "Post-migration validation passed",
    ])?;
    before.is_kept(case)?;
    // Without promises it says so.
    let (folder, flags) = case.copied_migrations()?;
    let _ = fs::remove_file(folder.join("expected.json"));
    let flags = flags.split_whitespace().next().unwrap_or_default().to_owned();
    find(case, (TOOL, &flags), ("promises", "warn", "migrations/expected.json"), 0)
}

pub(super) fn unmigrated(case: &mut Case<'_>) -> Done {
    let first = ms5_common::migrations::read_folder(&case.ground.migrations, true, &[])?;
    let first = first.first().map(|first| first.file.clone()).unwrap_or_default();
    let hypertables = promised(case).is_ok_and(|promised| !promised.hypertables.is_empty());
    let ran = case.tool(TOOL, "--json")?.exits(1)?;
    let failed: Vec<String> = ran
        .records("check")
        .iter()
        .filter(|check| check["verdict"] == "fail")
        .filter_map(|check| check["id"].as_str().map(str::to_owned))
        .collect();
    for id in ["ledger-files", "extension"] {
        if !failed.iter().any(|failed| failed == id) && (hypertables || id == "ledger-files") {
            return Err(ran.wrong(&format!("does not fail at the check {id}, though {first} never ran")));
        }
    }
    Ok(())
}

pub(super) fn ledger(case: &mut Case<'_>) -> Done {
    let expected = promised(case).unwrap_or_default();
    // A stranger alone is a warning, and no failure.
    let (warnings, failures) = LEDGER.split_at(2);
    let wanted = broken(case, &expected, warnings)?;
    finds(case, TOOL, "--no-data-integrity", &[], &wanted, 0)?;
    finds(case, TOOL, "--no-data-integrity --strict", &[], &wanted, 1)?;
    let wanted = broken(case, &expected, failures)?;
    finds(case, TOOL, "--no-data-integrity", &[], &wanted, 1).map(drop)
}

pub(super) fn schemas(case: &mut Case<'_>) -> Done {
    let expected = promised(case)?;
    let own = expected.schemas.iter().find(|schema| *schema != "public");
    let own = own.ok_or_else(|| Stop::Skipped("no schema but public is promised".to_owned()))?;
    case.sql(&format!("ALTER SCHEMA {own} RENAME TO ms5_suite_gone"))?;
    find(case, (TOOL, "--no-data-integrity"), ("schemas", "fail", own), 1)
}

pub(super) fn objects(case: &mut Case<'_>) -> Done {
    let expected = promised(case)?;
    let wanted = broken(case, &expected, OBJECTS)?;
    finds(case, TOOL, "--no-data-integrity", &[], &wanted, 1).map(drop)
}

pub(super) fn hypertables(case: &mut Case<'_>) -> Done {
    let expected = promised(case)?;
    let wanted = broken(case, &expected, HYPERTABLES)?;
    if wanted.is_empty() {
        return Err(Stop::Skipped("expected.json promises no hypertable".to_owned()));
    }
    finds(case, TOOL, "", &[], &wanted, 1).map(drop)
}

pub(super) fn lost(case: &mut Case<'_>) -> Done {
    case.sql(
        "CREATE TABLE public.ms5_suite_kept (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, value int);
         INSERT INTO public.ms5_suite_kept (value) SELECT generate_series(1, 100);
         CREATE INDEX ms5_suite_kept_value ON public.ms5_suite_kept (value)",
    )?;
    let pre = format!("{SMALL} --fingerprint=public.ms5_suite_kept --report=pre.jsonl");
    case.tool("pre-validate", &pre)?.exits(0)?;
    case.tool("migration-runner", "--gate=pre.jsonl --report=run.jsonl")?.exits(0)?;
    let words = "--no-data-integrity --against=run.jsonl";
    let table = "public.ms5_suite_kept";
    finds(
        case,
        TOOL,
        words,
        &[],
        &[
            Finds { check: "rows", verdict: "pass", object: table.to_owned() },
            Finds { check: "objects", verdict: "pass", object: String::new() },
        ],
        0,
    )?;
    case.sql("DELETE FROM public.ms5_suite_kept WHERE id = 50; DROP INDEX public.ms5_suite_kept_value")?;
    let wanted = [
        Finds { check: "rows", verdict: "fail", object: table.to_owned() },
        Finds { check: "objects", verdict: "fail", object: String::new() },
    ];
    let ran = finds(case, TOOL, words, &[], &wanted, 1)?;
    ran.says(&["ms5_suite_kept_value"]).map(drop)
}

pub(super) fn health(case: &mut Case<'_>) -> Done {
    fs::write(
        case.home().join("slow.json"),
        r#"{"queries": [{"name": "ms5 suite: slow", "sql": "SELECT pg_sleep(0.2)", "max_ms": 50},
                        {"name": "ms5 suite: wrong", "sql": "SELECT 1 / 0", "max_ms": 50},
                        {"name": "ms5 suite: quick", "sql": "SELECT 1", "max_ms": 10000}]}"#,
    )?;
    case.sql(
        "CREATE TABLE public.ms5_suite_dead (id int) WITH (autovacuum_enabled = false);
         INSERT INTO public.ms5_suite_dead SELECT generate_series(1, 20000)",
    )?;
    case.sql("DELETE FROM public.ms5_suite_dead WHERE id % 2 = 0")?;
    case.until("SELECT coalesce(max(n_dead_tup), 0) >= 10000 FROM pg_stat_user_tables WHERE relname = 'ms5_suite_dead'")?;
    let mut other = case.session()?;
    other
        .batch_execute("BEGIN; SELECT pg_current_xact_id(); SELECT pg_sleep(1.5)")
        .map_err(|error| refused("BEGIN", &error))?;
    let query =
        |verdict, name: &str| Finds { check: "queries", verdict, object: format!("ms5 suite: {name}") };
    let wanted = [
        query("fail", "slow"),
        query("fail", "wrong"),
        query("pass", "quick"),
        Finds { check: "dead-tuples", verdict: "warn", object: "public.ms5_suite_dead".to_owned() },
        Finds { check: "transactions", verdict: "warn", object: String::new() },
    ];
    let words = "--no-data-integrity --performance-test --expected=slow.json --max-transaction=1";
    let found = finds(case, TOOL, words, &[], &wanted, 1);
    drop(other);
    found.map(drop)
}

pub(super) fn rolled_back(case: &mut Case<'_>) -> Done {
    case.sql("CREATE TABLE public.ms5_suite_kept AS SELECT generate_series(1, 10) id")?;
    super::super::backup::made(case, "before", "full")?;
    let who = case.ground.restore_flags(false)?;
    case.tool("backup-manager", &format!("restore before --force --drop-old {who}"))?.exits(0)?;
    find(case, (TOOL, "--no-data-integrity"), ("rolled-back", "pass", ""), 0)?;
    case.sql("CREATE TABLE public.ms5_suite_later (id int)")?;
    find(case, (TOOL, "--no-data-integrity"), ("rolled-back", "fail", ""), 1)
}
