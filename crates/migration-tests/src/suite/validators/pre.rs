//! What pre-validate passes, and what it must find.

use std::fs::{self, DirBuilder};
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};

use ms5_common::sql::escape_identifier;

use super::{Before, Broken, Finds, SMALL, broken, find, finds, makes_all};
use crate::case::{Case, Done, Stop, must, refused};

const TOOL: &str = "pre-validate";

/// Checks that the tests below break by themselves.
#[cfg(test)]
pub(super) const CHECKS: &[&str] = &[
    "disk-root",
    "disk-home",
    "memory",
    "round-trip",
    "name",
    "port",
    "connection",
    "way-back",
    "create",
    "statements",
    "longest-transaction",
    "files",
    "dependencies",
    "extension",
    "conversion",
];

/// What is in the way in the database, or beside it.
pub(super) const TABLE: &[Broken] = &[
    Broken {
        check: "accounts",
        verdict: "warn",
        make: |case, _| {
            case.sql(
                "CREATE TABLE users (username text, email text); INSERT INTO users VALUES ('admin', 'x')",
            )?;
            Ok(Some(String::new()))
        },
    },
    Broken {
        check: "backup-folder",
        verdict: "warn",
        make: |case, _| {
            fs::set_permissions(case.home().join("backups"), fs::Permissions::from_mode(0o755))?;
            Ok(Some(String::new()))
        },
    },
    // A clock that was wrong: a chunk far away from all others.
    Broken {
        check: "locks",
        verdict: "warn",
        make: |case, _| {
            case.sql(
                "CREATE TABLE public.ms5_suite_rows (ts timestamptz NOT NULL);
                 INSERT INTO public.ms5_suite_rows SELECT now() - i * interval '1 hour' FROM generate_series(1, 100) i;
                 INSERT INTO public.ms5_suite_rows VALUES ('1970-01-01Z')",
            )?;
            Ok(Some("public.ms5_suite_rows".to_owned()))
        },
    },
    // Without a key nobody can tell which rows were there.
    Broken {
        check: "fingerprint",
        verdict: "warn",
        make: |_, _| Ok(Some("public.ms5_suite_rows".to_owned())),
    },
];

pub(super) fn passes(case: &mut Case<'_>) -> Done {
    let before = Before::take(case)?;
    let ran = case.tool(TOOL, SMALL)?.exits(0)?;
    ran.says(&[
        "Starting MS5.0 pre-migration validation",
        "Database connection successful",
        "Pre-migration validation passed",
    ])?;
    before.is_kept(case)?;
    let log = case.log("validation")?;
    must(log.contains("Pre-migration validation passed"), || {
        "the log file does not hold what was printed".to_owned()
    })?;
    let ran = case.tool(TOOL, &format!("{SMALL} --json"))?.exits(0)?;
    must(ran.records("inventory").len() == 1, || "there is no record of what the database holds".to_owned())?;
    let promised = super::promised(case).map(|promised| promised.hypertables).unwrap_or_default();
    for wanted in &promised {
        let there =
            case.ask(&format!("SELECT to_regclass('{}') IS NOT NULL", wanted.table.replace('\'', "''")))?;
        let told = ran
            .records("table")
            .iter()
            .any(|table| format!("{}.{}", word(&table["schema"]), word(&table["table"])) == wanted.table);
        must(told || there != "true", || format!("the rows of {} were not counted", wanted.table))?;
    }
    makes_all(case, TOOL, &ran)?;
    before.is_kept(case)
}

fn word(value: &serde_json::Value) -> &str {
    value.as_str().unwrap_or_default()
}

pub(super) fn machine(case: &mut Case<'_>) -> Done {
    let ran = case.tool(TOOL, "--quick --json")?;
    let checks = ran.records("check");
    let mut small = false;
    for id in ["disk-root", "disk-home", "memory"] {
        let check = checks.iter().find(|check| check["id"] == id);
        let Some(check) = check else { return Err(ran.wrong(&format!("says nothing of the check {id}"))) };
        // What the tool only warns of is no finding of ours.
        if check["verdict"] == "fail" {
            small = true;
            case.warn(format!(
                "{id}: {} is seen, {} is wanted; of a small machine: MS5_MIN_DISK_GB, MS5_MIN_MEMORY_GB",
                check["seen"], check["wanted"]
            ));
        }
    }
    let others = checks.iter().any(|check| {
        check["verdict"] == "fail"
            && !["disk-root", "disk-home", "memory", "disk-data"].contains(&word(&check["id"]))
    });
    // What is wrong with the rest is for other tests to say.
    if others { Ok(()) } else { ran.exits(i32::from(small)).map(drop) }
}

pub(super) fn limits(case: &mut Case<'_>) -> Done {
    for (words, id, verdict, code) in [
        ("--quick --min-disk=100000000 --min-memory=1 --min-available=1", "disk-home", "fail", 1),
        ("--quick --min-disk=100000000 --min-memory=1 --min-available=1", "disk-root", "fail", 1),
        ("--quick --min-disk=1 --min-memory=100000000 --min-available=1", "memory", "fail", 1),
        ("--quick --min-disk=1 --min-memory=1 --min-available=100000000", "memory", "warn", 0),
        ("--quick --min-disk=1 --min-memory=1 --min-available=1 --max-round-trip=0", "round-trip", "warn", 0),
    ] {
        let ran = case.tool(TOOL, &format!("{words} --json"))?;
        let fits = |check: &serde_json::Value| check["id"] == id && check["verdict"] == verdict;
        if !ran.records("check").iter().any(fits) {
            return Err(ran.wrong(&format!("does not say {verdict} of the check {id}")));
        }
        ran.exits(code)?;
    }
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
    let quick = format!("--quick {SMALL}");
    for (variables, id, code) in [
        ([("DB_HOST", "no-such-host.invalid"), ("DB_PORT", "5432")], "name", 4),
        ([("DB_HOST", "127.0.0.1"), ("DB_PORT", port.as_str())], "port", 4),
    ] {
        let wanted = [Finds { check: id, verdict: "fail", object: String::new() }];
        finds(case, TOOL, &quick, &variables, &wanted, code)?;
    }
    let variable = case.settings().environment.defaults().password_variable;
    if case.ground.password().is_some() {
        let ran = case.tool_with(TOOL, &quick, &[(variable, "wrong-on-purpose")])?;
        if ran.code == 0 {
            case.warn("the server takes any password for this role (trust): look at pg_hba.conf");
        } else {
            let wanted = [Finds { check: "connection", verdict: "fail", object: String::new() }];
            finds(case, TOOL, &quick, &[(variable, "wrong-on-purpose")], &wanted, 3)?;
        }
    }
    let nobody = format!("{quick} --restore-user=ms5_suite_nobody");
    find(case, (TOOL, &nobody), ("way-back", "warn", ""), 0)
}

pub(super) fn rights(case: &mut Case<'_>) -> Done {
    if case.ask("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")? == "true" {
        return Err(Stop::Skipped("the role is a superuser, from whom no right can be taken".to_owned()));
    }
    let role = escape_identifier(&case.settings().connection.user);
    folder(case, &[("001_a.sql", "ALTER SYSTEM SET work_mem = '8MB';")])?;
    let flag = format!("--quick {SMALL} --migrations-dir=files");
    find(case, (TOOL, &flag), ("statements", "fail", ""), 1)?;
    case.sql(&format!("REVOKE CREATE ON DATABASE {} FROM {role}, PUBLIC", case.database()))?;
    find(case, (TOOL, &format!("--quick {SMALL}")), ("create", "fail", ""), 1)
}

pub(super) fn transaction(case: &mut Case<'_>) -> Done {
    let words = format!("--quick {SMALL} --max-transaction=1");
    let mut other = case.session()?;
    other
        .batch_execute("BEGIN; SELECT pg_current_xact_id(); SELECT pg_sleep(1.5)")
        .map_err(|error| refused("BEGIN", &error))?;
    let found = find(case, (TOOL, &words), ("longest-transaction", "warn", ""), 0);
    drop(other);
    found?;
    case.until("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in %')")?;
    // Others may have one open too: on a server that is in use the warning can be theirs.
    let ran = case.tool(TOOL, &format!("{words} --json"))?.exits(0)?;
    let seen = ran.records("check").into_iter().find(|check| check["id"] == "longest-transaction");
    let ours =
        seen.is_none_or(|check| check["verdict"] != "pass" && check.to_string().contains(case.database()));
    must(!ours, || "the transaction that has ended is still warned of".to_owned())
}

pub(super) fn files(case: &mut Case<'_>) -> Done {
    let flag = format!("--quick {SMALL} --migrations-dir=files");
    let object = case.home().join("files").display().to_string();
    folder(case, &[("001_a.sql", "CREATE TABLE a (id int);")])?;
    find(case, (TOOL, &flag), ("files", "pass", &object), 0)?;
    find(case, (TOOL, &flag), ("dependencies", "pass", ""), 0)?;
    folder(case, &[("002_b.sql", "ALTER TABLE public.ms5_suite_later ADD b int;")])?;
    find(case, (TOOL, &flag), ("dependencies", "warn", ""), 0)?;
    let file = case.home().join("files");
    fs::rename(file.join("002_b.sql"), file.join("003_c.sql"))?;
    find(case, (TOOL, &flag), ("files", "fail", &object), 3)?;
    case.tool(TOOL, &flag)?.exits(3)?.says(&["the number 002 is missing"])?;
    fs::remove_file(file.join("003_c.sql"))?;
    folder(case, &[("002_b.sql", "SELECT 'no end")])?;
    find(case, (TOOL, &flag), ("files", "fail", &object), 3)?;
    case.tool(TOOL, &flag)?.exits(3)?.says(&["002_b.sql:1:8"]).map(drop)
}

/// Writes files of the test's own into its folder `files`.
fn folder(case: &Case<'_>, files: &[(&str, &str)]) -> Done {
    let folder = case.home().join("files");
    fs::create_dir_all(&folder)?;
    for (name, text) in files {
        fs::write(folder.join(name), text)?;
    }
    Ok(())
}

pub(super) fn database(case: &mut Case<'_>) -> Done {
    folder(case, &[("001_a.sql", "CREATE TABLE a (id int);")])?;
    fs::write(
        case.home().join("expected.json"),
        r#"{"hypertables": [{"table": "public.ms5_suite_rows", "time_column": "ts", "chunk_interval": "1 day"}]}"#,
    )?;
    DirBuilder::new().mode(0o700).create(case.home().join("backups"))?;
    let flags = format!("{SMALL} --migrations-dir=files --expected=expected.json");
    for id in ["accounts", "backup-folder"] {
        find(case, (TOOL, &flags), (id, "pass", ""), 0)?;
    }
    let wanted = broken(case, &expected(), TABLE)?;
    finds(case, TOOL, &flags, &[], &wanted, 0)?;
    // Rows without a time, which no migration may invent.
    find(case, (TOOL, &flags), ("conversion", "pass", "public.ms5_suite_rows"), 0)?;
    case.sql("ALTER TABLE public.ms5_suite_rows ALTER ts DROP NOT NULL; INSERT INTO public.ms5_suite_rows VALUES (NULL)")?;
    find(case, (TOOL, &flags), ("conversion", "fail", "public.ms5_suite_rows"), 1)
}

fn expected() -> ms5_common::expected::Expected {
    ms5_common::expected::Expected::default()
}

pub(super) fn extension(case: &mut Case<'_>) -> Done {
    let words = format!("--quick {SMALL}");
    if case.ground.extension.available.is_none() {
        return find(case, (TOOL, &words), ("extension", "fail", ""), 1);
    }
    find(case, (TOOL, &words), ("extension", "info", ""), 0)?;
    case.sql("CREATE EXTENSION IF NOT EXISTS timescaledb")?;
    find(case, (TOOL, &words), ("extension", "pass", ""), 0)
}
