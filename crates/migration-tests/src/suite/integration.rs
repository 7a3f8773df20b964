//! The whole flow, as the night of the migration goes; and as it goes when it goes wrong.

use std::fs;
use std::path::PathBuf;

use super::backup::{as_before, made};
use super::{Start, Test};
use crate::case::{Case, Done, Stop, must};

pub(super) const TESTS: &[Test] = &[
    Test {
        id: "integration.flow",
        title: "Validated, backed up, migrated, validated and backed up again: the database in the field is on hypertables",
        start: Start::Field,
        run: flow,
    },
    Test {
        id: "integration.chain",
        title: "The chain of gates proves that every row is there as it was",
        start: Start::Field,
        run: chain,
    },
    Test {
        id: "integration.gate",
        title: "The chain touches nothing where the first tool did not pass",
        start: Start::Field,
        run: gate,
    },
    Test {
        id: "integration.row-lost",
        title: "The end of the chain finds one row that was lost in between",
        start: Start::Field,
        run: row_lost,
    },
    Test {
        id: "integration.failure",
        title: "A migration that fails in the middle is rolled back by the script that was made before, to the last row",
        start: Start::Field,
        run: failure,
    },
    Test {
        id: "integration.restore",
        title: "A migrated database goes back to the backup of before, and post-validate says so",
        start: Start::Field,
        run: restore,
    },
];

const PRE: &str = "pre-validate --min-disk=1 --min-memory=1 --min-available=1";

fn flow(case: &mut Case<'_>) -> Done {
    let words = PRE.split_once(' ').map_or("", |(_, words)| words);
    case.tool("pre-validate", words)?.exits(0)?;
    made(case, "pre_migration", "full")?;
    case.tool("backup-manager", "verify pre_migration")?.exits(0)?;
    case.tool("migration-runner", "--dry-run --verbose")?.exits(0)?;
    case.tool("migration-runner", "")?.exits(0)?;
    case.tool("post-validate", "--performance-test")?.exits(0)?;
    made(case, "post_migration", "full")?;
    let hypertables = case.ask("SELECT count(*) FROM timescaledb_information.hypertables")?;
    must(hypertables != "0", || "all tools say that all is well, and there is no hypertable".to_owned())?;
    for folder in ["migrations", "validation", "backup"] {
        case.log(folder)?;
    }
    Ok(())
}

/// The flag that all tools of a line get.
fn environment(case: &Case<'_>) -> String {
    format!("--environment={}", case.ground.environment())
}

fn chain(case: &mut Case<'_>) -> Done {
    let flag = environment(case);
    let line = format!(
        "{PRE} {flag} --json | migration-runner {flag} --gate=- --json | post-validate {flag} --against=- --json"
    );
    let ran = case.sh(&line, &[])?.exits(0)?;
    let verdicts = ran.records("verdict");
    must(verdicts.len() == 3 && verdicts.iter().all(|verdict| verdict["ok"] == true), || {
        format!("the story has {} verdicts, and not three that say yes", verdicts.len())
    })?;
    let rows: Vec<_> = ran.records("check").into_iter().filter(|check| check["id"] == "rows").collect();
    must(!rows.is_empty() && rows.iter().all(|check| check["verdict"] == "pass"), || {
        "the rows of the converted tables were not compared, or are not what they were".to_owned()
    })
}

fn gate(case: &mut Case<'_>) -> Done {
    let (objects, rows) = (case.inventory()?, case.rows()?);
    let flag = environment(case);
    let runner = format!("migration-runner {flag} --gate=- --json");
    let fails = "pre-validate --min-disk=100000000 --min-memory=1 --min-available=1";
    for (upstream, why) in
        [(format!("{fails} {flag} --json"), "did not pass"), ("true".to_owned(), "no record of pre-validate")]
    {
        let line = format!("{upstream} | {runner} | post-validate {flag} --against=- --json");
        let ran = case.sh(&line, &[])?.exits(1)?.says(&[why])?;
        let verdicts = ran.records("verdict");
        let runner = verdicts.iter().find(|verdict| verdict["tool"] == "migration-runner");
        must(runner.is_some_and(|verdict| verdict["exit"] == 1), || {
            "the runner did not refuse to begin behind a gate that is shut".to_owned()
        })?;
    }
    as_before(case, &objects, &rows)
}

fn row_lost(case: &mut Case<'_>) -> Done {
    let table = super::validators::promised(case)?.hypertables.into_iter().map(|hypertable| hypertable.table);
    let tables: Vec<String> = table.collect();
    let flag = environment(case);
    case.sh(
        &format!(
            "{PRE} {flag} --json > pre.json && migration-runner {flag} --gate=pre.json --report=run.json"
        ),
        &[],
    )?
    .exits(0)?;
    case.sh(&format!("post-validate {flag} --against=run.json"), &[])?.exits(0)?;
    let filled = tables.into_iter().find(|table| {
        case.ask(&format!("SELECT EXISTS (SELECT FROM {table})")).is_ok_and(|there| there == "true")
    });
    let table = filled.ok_or_else(|| {
        Stop::Skipped("no promised hypertable has rows in the database of the field".to_owned())
    })?;
    case.sql(&format!(
        "DELETE FROM {table} WHERE (tableoid, ctid) = (SELECT tableoid, ctid FROM {table} LIMIT 1)"
    ))?;
    let ran = case.sh(&format!("post-validate {flag} --against=run.json"), &[])?.exits(1)?;
    ran.says(&[&table]).map(drop)
}

fn failure(case: &mut Case<'_>) -> Done {
    let who = case.ground.restore_flags(true)?;
    let (objects, rows) = (case.inventory()?, case.rows()?);
    let folder = case.copied_migrations()?;
    let last = ms5_common::migrations::read_folder(&folder, false, &[])?.len() + 1;
    let file = format!("{last:03}_fails.sql");
    fs::write(folder.join(&file), "CREATE TABLE public.half_done (id int);\nSELECT no_such_function();\n")?;
    let words = format!("--migrations-dir={} --rollback-point {who}", folder.display());
    case.tool("migration-runner", &words)?.exits(1)?.says(&[&file])?;
    let script = point(case)?;
    case.sh(&format!("{} --force", script.display()), &[])?.exits(0)?;
    as_before(case, &objects, &rows)?;
    case.tool("post-validate", "--no-data-integrity")?.exits(0)?.says(&["rolled back to"]).map(drop)
}

/// rollback/migration_failure_*/rollback.sh, of which there is one.
fn point(case: &Case<'_>) -> Result<PathBuf, Stop> {
    let folder = case.home().join("rollback");
    let points: Vec<PathBuf> = fs::read_dir(&folder)
        .map_err(|error| Stop::failed(format!("no rollback point in {}: {error}", folder.display())))?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("migration_failure_"))
        .map(|entry| entry.path().join("rollback.sh"))
        .filter(|script| script.is_file())
        .collect();
    match points.as_slice() {
        [script] => Ok(script.clone()),
        other => Err(Stop::failed(format!(
            "rollback/migration_failure_*/rollback.sh means {} scripts instead of one",
            other.len()
        ))),
    }
}

fn restore(case: &mut Case<'_>) -> Done {
    let who = case.ground.restore_flags(true)?;
    let (objects, rows) = (case.inventory()?, case.rows()?);
    made(case, "pre_migration", "full")?;
    case.tool("migration-runner", "")?.exits(0)?;
    case.tool("backup-manager", &format!("restore pre_migration --force {who}"))?.exits(0)?;
    as_before(case, &objects, &rows)?;
    case.tool("post-validate", "--no-data-integrity")?.exits(0)?.says(&["rolled back to"])?;
    // And once more forward: the way back is no dead end.
    case.tool("migration-runner", "")?.exits(0)?;
    case.tool("post-validate", "")?.exits(0).map(drop)
}
