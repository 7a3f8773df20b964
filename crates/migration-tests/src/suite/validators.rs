//! pre-validate and post-validate: that they pass what is well, and find what is not. Each tampering is one that happens.

use std::fs;

use ms5_common::expected::{self, Expected};

use super::{Start, Test};
use crate::case::{Case, Done, Ran, Stop, must};

pub(super) const TESTS: &[Test] = &[
    Test {
        id: "validators.pre-passes",
        title: "pre-validate passes the database in the field, and leaves nothing in it",
        start: Start::Field,
        run: pre_passes,
    },
    Test {
        id: "validators.pre-machine",
        title: "This machine has the disk and the memory that pre-validate asks for",
        start: Start::Field,
        run: pre_machine,
    },
    Test {
        id: "validators.pre-resources",
        title: "pre-validate finds too little disk and memory",
        start: Start::Empty,
        run: |case| {
            pre_finds(case, "--quick --min-disk=100000000", "disk-home", "fail", 1)?;
            pre_finds(case, "--quick --min-memory=100000000", "memory", "fail", 1)
        },
    },
    Test {
        id: "validators.pre-rights",
        title: "pre-validate finds that the role may not create a schema",
        start: Start::Empty,
        run: pre_rights,
    },
    Test {
        id: "validators.pre-transaction",
        title: "pre-validate warns of a transaction that is left open",
        start: Start::Empty,
        run: pre_transaction,
    },
    Test {
        id: "validators.pre-files",
        title: "pre-validate refuses a broken file, a missing number, and names both",
        start: Start::Empty,
        run: pre_files,
    },
    Test {
        id: "validators.pre-extension",
        title: "pre-validate tells an extension that is there from one that is only available",
        start: Start::Empty,
        run: pre_extension,
    },
    Test {
        id: "validators.post-passes",
        title: "post-validate passes the migrated database, and leaves nothing in it",
        start: Start::Migrated,
        run: post_passes,
    },
    Test {
        id: "validators.post-unmigrated",
        title: "post-validate does not pass a database that nobody has migrated",
        start: Start::Empty,
        run: |case| post_finds(case, "ledger-files", "fail"),
    },
    Test {
        id: "validators.post-ledger",
        title: "post-validate finds a failure and a stranger in the ledger",
        start: Start::Migrated,
        run: post_ledger,
    },
    Test {
        id: "validators.post-table",
        title: "post-validate finds a promised table that is gone",
        start: Start::Migrated,
        run: |case| {
            let table = promised(case)?.tables.keys().next().cloned().ok_or_else(nothing_promised)?;
            case.sql(&format!("DROP TABLE {table} CASCADE"))?;
            post_finds(case, "tables", "fail")
        },
    },
    Test {
        id: "validators.post-column",
        title: "post-validate finds a promised column that is gone",
        start: Start::Migrated,
        run: post_column,
    },
    Test {
        id: "validators.post-plain-table",
        title: "post-validate finds a hypertable that is a plain table again",
        start: Start::Migrated,
        run: post_plain,
    },
    Test {
        id: "validators.post-interval",
        title: "post-validate finds a chunk interval that is not the promised one",
        start: Start::Migrated,
        run: post_interval,
    },
];

/// Limits that any machine keeps: what is tested is the database.
const SMALL: &str = "--min-disk=1 --min-memory=1 --min-available=1";

fn pre_passes(case: &mut Case<'_>) -> Done {
    let before = case.inventory()?;
    let ran = case.tool("pre-validate", SMALL)?.exits(0)?;
    ran.says(&[
        "Starting MS5.0 pre-migration validation",
        "Database connection successful",
        "Pre-migration validation passed",
    ])?;
    same(case, &before)?;
    let log = case.log("validation")?;
    must(log.contains("Pre-migration validation passed"), || {
        "the log file does not hold what was printed".to_owned()
    })
}

fn pre_machine(case: &mut Case<'_>) -> Done {
    let ran = case.tool("pre-validate", "--quick --json")?;
    for id in ["disk-root", "disk-home", "memory"] {
        if let Some(check) =
            ran.records("check").iter().find(|check| check["id"] == id && check["verdict"] != "pass")
        {
            case.warn(format!("{id}: {} is seen, {} is wanted", check["seen"], check["wanted"]));
        }
    }
    Ok(())
}

fn pre_rights(case: &mut Case<'_>) -> Done {
    if case.ask("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")? == "true" {
        return Err(Stop::Skipped("the role is a superuser, from whom no right can be taken".to_owned()));
    }
    let role = ms5_common::sql::escape_identifier(&case.settings().connection.user);
    case.sql(&format!("REVOKE CREATE ON DATABASE {} FROM {role}, PUBLIC", case.database()))?;
    pre_finds(case, &format!("--quick {SMALL}"), "create", "fail", 1)
}

fn pre_transaction(case: &mut Case<'_>) -> Done {
    let words = format!("--quick {SMALL} --max-transaction=1");
    let mut other = case.session()?;
    other
        .batch_execute("BEGIN; SELECT pg_current_xact_id(); SELECT pg_sleep(1.5)")
        .map_err(|error| crate::case::refused("BEGIN", &error))?;
    let found = pre_finds(case, &words, "longest-transaction", "warn", 0);
    drop(other);
    found?;
    case.until("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in %')")?;
    pre_finds(case, &words, "longest-transaction", "pass", 0)
}

fn pre_files(case: &mut Case<'_>) -> Done {
    let folder = case.home().join("files");
    fs::create_dir_all(&folder)?;
    let flag = format!("--quick {SMALL} --migrations-dir={}", folder.display());
    fs::write(folder.join("001_a.sql"), "CREATE TABLE a (id int);")?;
    case.tool("pre-validate", &flag)?.exits(0)?;
    fs::write(folder.join("003_c.sql"), "CREATE TABLE c (id int);")?;
    case.tool("pre-validate", &flag)?.exits(3)?.says(&["002"])?;
    fs::rename(folder.join("003_c.sql"), folder.join("002_b.sql"))?;
    fs::write(folder.join("002_b.sql"), "SELECT 'no end")?;
    case.tool("pre-validate", &flag)?.exits(3)?.says(&["002_b.sql"]).map(drop)
}

fn pre_extension(case: &mut Case<'_>) -> Done {
    if case.ground.extension.available.is_none() {
        return pre_finds(case, &format!("--quick {SMALL}"), "extension", "fail", 1);
    }
    pre_finds(case, &format!("--quick {SMALL}"), "extension", "info", 0)?;
    case.sql("CREATE EXTENSION IF NOT EXISTS timescaledb")?;
    pre_finds(case, &format!("--quick {SMALL}"), "extension", "pass", 0)
}

fn post_passes(case: &mut Case<'_>) -> Done {
    let before = (case.inventory()?, case.rows()?);
    let ran = case.tool("post-validate", "--performance-test")?.exits(0)?;
    ran.says(&[
        "Starting MS5.0 post-migration validation",
        "Database connection successful",
        "Post-migration validation passed",
    ])?;
    same(case, &before.0)?;
    must(before.1 == case.rows()?, || "post-validate has left rows, or taken some".to_owned())
}

fn post_ledger(case: &mut Case<'_>) -> Done {
    case.sql("INSERT INTO public.migration_log (migration_name, migration_file) VALUES ('999 - Nobody Knows', '999_nobody.sql')")?;
    let ran = case.tool("post-validate", "--json")?;
    found(&ran, "ledger-strangers", |verdict| verdict != "pass")?;
    case.sql("DELETE FROM public.migration_log WHERE migration_file = '999_nobody.sql'")?;
    case.sql("UPDATE public.migration_log SET success = false WHERE id = (SELECT max(id) FROM public.migration_log)")?;
    post_finds(case, "ledger-files", "fail")
}

fn post_column(case: &mut Case<'_>) -> Done {
    let promised = promised(case)?;
    let (table, columns) = promised.tables.iter().next().ok_or_else(nothing_promised)?;
    let column = columns.keys().next_back().ok_or_else(nothing_promised)?;
    case.sql(&format!("ALTER TABLE {table} DROP COLUMN {column} CASCADE"))?;
    post_finds(case, "columns", "fail")
}

fn post_plain(case: &mut Case<'_>) -> Done {
    let table = hypertable(case)?.table;
    case.sql(&format!("CREATE TABLE public.plain_again AS TABLE {table}"))?;
    case.sql(&format!("DROP TABLE {table} CASCADE; CREATE TABLE {table} AS TABLE public.plain_again; DROP TABLE public.plain_again"))?;
    post_finds(case, "hypertables", "fail")
}

fn post_interval(case: &mut Case<'_>) -> Done {
    let table = hypertable(case)?.table;
    case.ask(&format!(
        "SELECT count(*) FROM (SELECT set_chunk_time_interval('{}', interval '13 days')) x",
        table.replace('\'', "''")
    ))?;
    post_finds(case, "hypertables", "fail")
}

/// What the migrations promise.
pub(super) fn promised(case: &Case<'_>) -> Result<Expected, Stop> {
    let file = case.ground.migrations.join("expected.json");
    let text = fs::read_to_string(&file)
        .map_err(|_| Stop::Skipped(format!("nothing is promised: there is no {}", file.display())))?;
    Ok(expected::parse(&text, &file.display().to_string())?)
}

fn nothing_promised() -> Stop {
    Stop::Skipped("expected.json promises nothing of this kind".to_owned())
}

/// The first hypertable that is promised and divided by time.
fn hypertable(case: &Case<'_>) -> Result<expected::Hypertable, Stop> {
    let all = promised(case)?.hypertables;
    all.into_iter().find(|table| table.chunk_interval.parse::<i64>().is_err()).ok_or_else(nothing_promised)
}

/// That every object is as it was.
fn same(case: &Case<'_>, before: &ms5_common::catalog::Inventory) -> Done {
    let differences = before.compare(&case.inventory()?);
    must(differences.is_empty(), || {
        format!("{} objects are not as they were, such as {}", differences.len(), differences[0])
    })
}

fn pre_finds(case: &mut Case<'_>, words: &str, id: &str, verdict: &str, code: i32) -> Done {
    let ran = case.tool("pre-validate", &format!("{words} --json"))?;
    found(&ran, id, |is| is == verdict)?;
    ran.exits(code).map(drop)
}

fn post_finds(case: &mut Case<'_>, id: &str, verdict: &str) -> Done {
    let ran = case.tool("post-validate", "--json")?;
    found(&ran, id, |is| is == verdict)?;
    ran.exits(1).map(drop)
}

/// That a check has that verdict, at least for one of its objects.
fn found(ran: &Ran, id: &str, wanted: impl Fn(&str) -> bool) -> Done {
    let verdicts: Vec<String> = ran
        .records("check")
        .iter()
        .filter(|check| check["id"] == id)
        .filter_map(|check| check["verdict"].as_str().map(str::to_owned))
        .collect();
    if verdicts.iter().any(|verdict| wanted(verdict)) {
        return Ok(());
    }
    Err(ran.wrong(&format!(
        "says of the check {id}: {}",
        if verdicts.is_empty() { "nothing".to_owned() } else { verdicts.join(", ") }
    )))
}
