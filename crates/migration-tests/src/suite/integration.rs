//! The whole flow, as the night of the migration goes; and as it goes when it goes wrong.

use std::fs;
use std::path::PathBuf;

use ms5_common::migrations;
use serde_json::Value;

use super::backup::{as_before, made};
use super::{Start, Test};
use crate::case::{Case, Content, Done, Ran, Stop, must};

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
/// What a file that fails has made, and what makes it fail.
const FAILS: &str =
    "CREATE TABLE public.ms5_suite_half_done (id int);\nSELECT ms5_suite_no_such_function();\n";

fn flow(case: &mut Case<'_>) -> Done {
    let before = Content::of(&mut *case.session()?)?;
    let words = PRE.split_once(' ').map_or("", |(_, words)| words);
    case.tool("pre-validate", words)?.exits(0)?;
    made(case, "pre_migration", "full")?;
    case.tool("backup-manager", "verify pre_migration")?.exits(0)?;
    case.tool("migration-runner", "--dry-run --verbose")?.exits(0)?;
    case.tool("migration-runner", "")?.exits(0)?;
    case.tool("post-validate", "")?.exits(0)?;
    made(case, "post_migration", "full")?;
    case.tool("backup-manager", "verify post_migration")?.exits(0)?;
    converted(case, &before)?;
    for folder in ["migrations", "validation", "backup"] {
        case.log(folder)?;
    }
    Ok(())
}

/// That there are hypertables, all that are promised, and that no row was lost: as the database itself says.
fn converted(case: &mut Case<'_>, before: &Content) -> Done {
    let hypertables = super::hypertables(case)?;
    let promised = super::validators::promised(case);
    if hypertables.is_empty() && promised.as_ref().is_ok_and(|promised| promised.hypertables.is_empty()) {
        case.warn("the files make no hypertable, and none is promised: is this the right folder?");
    }
    let promised = promised.map(|promised| promised.hypertables).unwrap_or_default();
    let missing = promised.iter().find(|wanted| !hypertables.contains(&wanted.table));
    must(missing.is_none(), || {
        format!("{} is no hypertable", missing.map_or("", |wanted| wanted.table.as_str()))
    })?;
    let after = before.again(&mut *case.session()?)?;
    for (table, then) in &before.0 {
        let now = after.0.get(table);
        if hypertables.contains(table) {
            must(now.is_none_or(|now| now == then), || {
                let now = now.map(|now| now.count).unwrap_or_default();
                format!("{table} has {now} rows, and not the {} that it had, or others", then.count)
            })?;
        } else {
            must(now.is_none_or(|now| now.count >= then.count), || {
                format!("{table} has fewer rows than the {} that it had", then.count)
            })?;
        }
        if now.is_none() {
            case.warn(format!("{table} or a column of it has gone: its rows were not compared"));
        }
    }
    Ok(())
}

/// The flags that all tools of a line get.
fn environment(case: &Case<'_>) -> String {
    format!("--environment={}", case.ground.environment())
}

/// pre-validate and the runner behind its gate, as they are typed.
fn begin(case: &Case<'_>) -> (String, String) {
    let (flag, gaps) = (environment(case), case.ground.gaps_flag());
    (format!("{PRE} {flag} {gaps}"), format!("migration-runner {flag} {gaps}"))
}

fn chain(case: &mut Case<'_>) -> Done {
    let before = Content::of(&mut *case.session()?)?;
    let ((pre, runner), flag) = (begin(case), environment(case));
    let line = format!("{pre} --json | {runner} --gate=- --json | post-validate {flag} --against=- --json");
    let ran = case.sh(&line, &[])?.exits(0)?;
    let verdicts = ran.records("verdict");
    must(verdicts.len() == 3 && verdicts.iter().all(|verdict| verdict["ok"] == true), || {
        format!("the story has {} verdicts, and not three that say yes", verdicts.len())
    })?;
    let rows = checks(&ran, "rows");
    let promised = super::validators::promised(case).is_ok_and(|promised| !promised.hypertables.is_empty());
    let wrong = rows.iter().find(|check| match check["verdict"].as_str() {
        Some("pass") => false,
        Some(verdict) => promised || verdict == "fail",
        None => true,
    });
    must(wrong.is_none() && (!promised || !rows.is_empty()), || {
        "the rows of the converted tables were not compared, or are not what they were".to_owned()
    })?;
    converted(case, &before)
}

fn checks(ran: &Ran, id: &str) -> Vec<Value> {
    ran.records("check").into_iter().filter(|check| check["id"] == id).collect()
}

fn gate(case: &mut Case<'_>) -> Done {
    let (objects, state) = (case.inventory()?, case.state()?);
    let ((_, runner), flag) = (begin(case), environment(case));
    let fails = format!(
        "pre-validate {flag} {} --min-disk=100000000 --min-memory=1 --min-available=1 --json",
        case.ground.gaps_flag()
    );
    for (upstream, why) in [(fails.as_str(), "did not pass"), ("true", "no record of pre-validate")] {
        let line = format!("{upstream} | {runner} --gate=- --json | post-validate {flag} --against=- --json");
        let ran = case.sh(&line, &[])?.exits(1)?.says(&[why])?;
        let verdicts = ran.records("verdict");
        let runner = verdicts.iter().find(|verdict| verdict["tool"] == "migration-runner");
        must(runner.is_some_and(|verdict| verdict["exit"] == 1), || {
            "the runner did not refuse to begin behind a gate that is shut".to_owned()
        })?;
    }
    as_before(case, &objects, &state)
}

fn row_lost(case: &mut Case<'_>) -> Done {
    case.needs_field()?;
    let tables = super::validators::promised(case)?.hypertables;
    let ((pre, runner), flag) = (begin(case), environment(case));
    case.sh(&format!("{pre} --json > pre.json && {runner} --gate=pre.json --report=run.json"), &[])?
        .exits(0)?;
    case.sh(&format!("post-validate {flag} --against=run.json"), &[])?.exits(0)?;
    let filled = tables.into_iter().find(|wanted| {
        case.ask(&format!("SELECT EXISTS (SELECT FROM {})", wanted.table)).is_ok_and(|there| there == "true")
    });
    let wanted = filled.ok_or_else(|| {
        Stop::Skipped("no promised hypertable has rows in the database of the field".to_owned())
    })?;
    let (table, time) = (wanted.table, wanted.time_column);
    // By its time and not by its place: a row of a compressed chunk has none.
    case.sql(&format!("DELETE FROM {table} WHERE {time} = (SELECT {time} FROM {table} LIMIT 1)"))?;
    let ran = case.sh(&format!("post-validate {flag} --against=run.json --json"), &[])?;
    let failed = |check: &Value| check["verdict"] == "fail" && check["object"] == table;
    if !checks(&ran, "rows").iter().any(failed) {
        return Err(ran.wrong(&format!("does not say of {table} that a row is lost")));
    }
    ran.exits(1).map(drop)
}

fn failure(case: &mut Case<'_>) -> Done {
    let who = case.ground.restore_flags(true)?;
    let (objects, state, prints) = (case.inventory()?, case.state()?, fingerprints(case)?);
    let (folder, flags) = case.copied_migrations()?;
    let all = migrations::read_folder(&folder, true, &[])?;
    // In one transaction, so that all of it goes; where it begins and ends one itself, the failure is in there.
    let whole = |number: &usize| !all[*number].stepwise;
    let middle = all.len() / 2;
    let broken = (middle..all.len())
        .chain((0..middle).rev())
        .find(whole)
        .ok_or_else(|| Stop::Skipped("no migration file runs in one transaction".to_owned()))?;
    let file = all[broken].file.clone();
    let text = fs::read_to_string(folder.join(&file))?;
    let end = text.to_ascii_uppercase().rfind("\nCOMMIT").map_or(text.len(), |place| place + 1);
    fs::write(folder.join(&file), format!("{}\n{FAILS}{}", &text[..end], &text[end..]))?;
    migrations::read_folder(&folder, true, &[])?;
    case.tool("migration-runner", &format!("{flags} --rollback-point {who}"))?.exits(1)?.says(&[&file])?;
    must(case.ask("SELECT to_regclass('public.ms5_suite_half_done') IS NULL")? == "true", || {
        format!("{file} has failed, and what it had made is there")
    })?;
    for (number, one) in all.iter().enumerate().take(broken + 1) {
        let recorded = case.ask(&format!(
            "SELECT count(*) FROM public.migration_log WHERE success AND checksum IS NOT NULL AND migration_file = '{}'",
            one.file.replace('\'', "''")
        ))?;
        let wanted = if number < broken { "1" } else { "0" };
        must(recorded == wanted, || {
            format!("{} stands in the ledger as applied {recorded} times instead of {wanted}", one.file)
        })?;
    }
    let script = point(case)?;
    case.sh(&format!("sh {script} --force"), &[])?.exits(0)?;
    as_before(case, &objects, &state)?;
    must(fingerprints(case)? == prints, || {
        "the fingerprints of pre-validate are not what they were at the start".to_owned()
    })?;
    case.tool("post-validate", "--no-data-integrity")?.exits(0)?.says(&["rolled back to"]).map(drop)
}

/// The rows and hashes of the tables that are to be converted, as pre-validate takes them.
fn fingerprints(case: &mut Case<'_>) -> Result<Vec<String>, Stop> {
    let words = PRE.split_once(' ').map_or("", |(_, words)| words);
    let ran = case.tool("pre-validate", &format!("{words} --json"))?.exits(0)?;
    let print =
        |table: &Value| format!("{} {} {} {}", table["schema"], table["table"], table["rows"], table["hash"]);
    Ok(ran.records("table").iter().map(print).collect())
}

/// rollback/migration_failure_*/rollback.sh, of which there is one; from the test's home on.
fn point(case: &Case<'_>) -> Result<String, Stop> {
    let folder = case.home().join("rollback");
    let points: Vec<PathBuf> = fs::read_dir(&folder)
        .map_err(|error| Stop::failed(format!("no rollback point in {}: {error}", folder.display())))?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("migration_failure_"))
        .map(|entry| entry.path().join("rollback.sh"))
        .filter(|script| script.is_file())
        .collect();
    match points.as_slice() {
        [script] => Ok(super::backup::from_home(case, script)),
        other => Err(Stop::failed(format!(
            "rollback/migration_failure_*/rollback.sh means {} scripts instead of one",
            other.len()
        ))),
    }
}

fn restore(case: &mut Case<'_>) -> Done {
    let who = case.ground.restore_flags(true)?;
    let (objects, state) = (case.inventory()?, case.state()?);
    made(case, "pre_migration", "full")?;
    case.tool("migration-runner", "")?.exits(0)?;
    case.tool("backup-manager", &format!("restore pre_migration --force {who}"))?.exits(0)?;
    as_before(case, &objects, &state)?;
    case.tool("post-validate", "--no-data-integrity")?.exits(0)?.says(&["rolled back to"])?;
    // And once more forward: the way back is no dead end.
    case.tool("migration-runner", "")?.exits(0)?;
    case.tool("post-validate", "")?.exits(0).map(drop)
}
