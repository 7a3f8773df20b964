//! `migration-runner --rollback-point`: a way back that is there before anything is changed, and the runbook that takes it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use migration_tests::backups::{Backups, HYPERTABLES, PLAIN};
use migration_tests::program::{Program, Ran, bin_dir, project_root};
use migration_tests::server::{Engine, Server};
use serde_json::Value;

const GOOD: (&str, &[u8]) =
    ("001_good.sql", b"CREATE TABLE good (id int); UPDATE parent SET name = 'changed';");
const BAD: (&str, &[u8]) = ("002_bad.sql", b"CREATE TABLE bad (id int); SELECT 1/0;");

fn backups(sql: &str) -> Backups<'static> {
    let backups = Backups::new(Engine::Pg17, sql);
    for (name, text) in [GOOD, BAD] {
        backups.lab.write(name, text);
    }
    backups
}

/// The runner, where the server's own programs are found.
fn runner(backups: &Backups<'_>, arguments: &str) -> Program {
    let path = std::env::var("PATH").unwrap();
    backups
        .lab
        .runner(arguments)
        .env("PATH", format!("{}:{path}", Server::shared(Engine::Pg17).bin().display()))
        .env("MS5_RESTORE_PASSWORD", Server::shared(Engine::Pg17).variable("MS5_SANDBOX_SUPERUSER_PASSWORD"))
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .map(|entries| entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
        .unwrap_or_default();
    names.sort();
    names
}

fn failures(backups: &Backups<'_>) -> Vec<PathBuf> {
    let folder = backups.lab.home().join("rollback");
    names(&folder)
        .iter()
        .filter(|name| name.starts_with("migration_failure_"))
        .map(|name| folder.join(name))
        .collect()
}

/// The line of the runbook, as a shell in MS5_HOME runs it, with none of our tools on PATH.
fn runbook(backups: &Backups<'_>) -> Ran {
    let server = Server::shared(Engine::Pg17);
    Program::at(Path::new("/bin/sh"))
        .env("PATH", format!("{}:/usr/bin:/bin", server.bin().display()))
        .env("POSTGRES_PASSWORD_TEST", server.variable("POSTGRES_PASSWORD_TEST"))
        .env("MS5_RESTORE_PASSWORD", server.variable("MS5_SANDBOX_SUPERUSER_PASSWORD"))
        .env("PGSSLMODE", "disable")
        .current_dir(backups.lab.home())
        .args(["-c", "./rollback/migration_failure_*/rollback.sh --force"])
        .run()
}

#[test]
fn the_procedure_of_the_runbook_works_to_its_end() {
    let backups = backups(PLAIN);
    let before = backups.content();
    let _ = runner(&backups, "--rollback-point --dry-run")
        .run()
        .expect(0)
        .shows(&["Would make the rollback point migration first"]);
    assert!(backups.names().is_empty());

    let ran = runner(&backups, "--rollback-point").run().expect(1).shows(&[
        "Making the rollback point migration first",
        "✅ Rollback point created: migration_",
        "❌ Migration 002 - Bad failed",
        "To go back to what was there before this run: ",
        "rollback.sh --force",
    ]);
    assert!(!ran.to_string().contains("restore pre_migration"), "another way back is named too: {ran}");
    assert_eq!(backups.lab.ask("SELECT to_regclass('good') IS NOT NULL"), "true");
    let failed = failures(&backups);
    assert_eq!(failed.len(), 1);
    assert_eq!(fs::metadata(failed[0].join("rollback.sh")).unwrap().permissions().mode() & 0o777, 0o700);

    let _ = runbook(&backups).expect(0).shows(&["✅ Rolled back"]);
    assert_eq!(backups.content(), before);
    assert_eq!(backups.lab.ask("SELECT to_regclass('migration_log') IS NULL"), "true");
    let point = backups.names().into_iter().find(|name| name.starts_with("migration_")).unwrap();
    let _ = backups
        .post_validate("--no-data-integrity")
        .expect(0)
        .shows(&[&format!("The database is rolled back to {point}")]);

    // The next failure is the one that the runbook means; the first point stays, and clean needs it.
    let _ = runner(&backups, "--rollback-point=second").run().expect(1);
    let now = failures(&backups);
    assert_eq!(now.len(), 1, "{now:?}");
    let reference = fs::read_to_string(now[0].join("backup_reference.txt")).unwrap();
    assert!(reference.starts_with("second_"), "{reference}");
    let points = names(&backups.folder().join("rollback_points"));
    assert!(points.len() == 2 && points[0] == point, "{points:?}");
    let _ = backups.run("clean 0").expect(0);
    assert!(backups.names().contains(&point));
    let _ = runbook(&backups).expect(0);
    assert_eq!(backups.content(), before);
}

#[test]
fn a_run_that_goes_well_keeps_its_point_and_one_with_nothing_to_do_makes_none() {
    let backups = backups(PLAIN);
    backups.lab.write(BAD.0, b"CREATE TABLE bad (id int);");
    let ran = runner(&backups, "--rollback-point=before --json").run().expect(0);
    let text = fs::read_to_string(project_root().join("docs/records.schema.json")).unwrap();
    let validator = jsonschema::validator_for(&serde_json::from_str(&text).unwrap()).unwrap();
    let records = ran.records();
    for record in &records {
        let errors: Vec<String> = validator.iter_errors(record).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{record}\n{}", errors.join("\n"));
    }
    let of = |tool: &str, kind: &str| {
        records.iter().filter(|record| record["tool"] == tool && record["type"] == kind).count()
    };
    assert_eq!((of("backup-manager", "verdict"), of("backup-manager", "rollback_point")), (1, 1), "{ran}");
    let last: &Value = records.last().unwrap();
    assert_eq!((last["tool"].as_str(), last["ok"].as_bool()), (Some("migration-runner"), Some(true)));
    assert!(ran.stderr().contains("✅ Rollback point created"), "{ran}");
    assert_eq!((backups.names().len(), failures(&backups).len()), (2, 0), "{:?}", backups.names());
    let _ = runner(&backups, "--rollback-point").run().expect(0).shows(&["no rollback point is made"]);
    assert_eq!(backups.names().len(), 2);
}

#[test]
fn where_there_can_be_no_way_back_nothing_is_begun() {
    let backups = backups(&format!("{PLAIN}{HYPERTABLES}"));
    let untouched = |ran: Ran| {
        assert_eq!(
            backups.lab.ask("SELECT to_regclass('migration_log') IS NULL AND to_regclass('good') IS NULL"),
            "true",
            "{ran}"
        );
        assert!(backups.names().iter().all(|name| name == "rollback_points"), "{:?}", backups.names());
        assert!(failures(&backups).is_empty());
    };
    let no_migration = "no migration was begun";
    untouched(
        runner(&backups, "--rollback-point").run().expect(3).shows(&["only a superuser", no_migration]),
    );
    untouched(
        backups
            .lab
            .runner("--rollback-point")
            .env("PATH", "/nowhere")
            .run()
            .expect(3)
            .shows(&["pg_dump", no_migration]),
    );
    let copy = backups.lab.home().join("migration-runner");
    fs::copy(bin_dir().unwrap().join("migration-runner"), &copy).unwrap();
    let alone =
        Program::at(&copy).envs(&backups.lab.database.variables()).env("MS5_HOME", backups.lab.home());
    untouched(
        alone
            .args(["--rollback-point"])
            .run()
            .expect(3)
            .shows(&["backup-manager is not here", "MS5_BIN_DIR"]),
    );
    for arguments in ["--rollback-point=../x", "--rollback-point=-x"] {
        untouched(runner(&backups, arguments).run().expect(2).shows(&[no_migration]));
    }
    for arguments in
        ["--rollback-point --status", "--restore-user=x", "--backup-dir=x", "--rollback-point=a b"]
    {
        untouched(runner(&backups, arguments).run().expect(2));
    }

    // With somebody who could go back, it is made, and leads back.
    let before = backups.content();
    let role = Server::shared(Engine::Pg17).variable("MS5_SANDBOX_SUPERUSER");
    let _ = runner(&backups, &format!("--rollback-point --restore-user={role}")).run().expect(1);
    let _ = runbook(&backups).expect(0);
    assert_eq!(backups.content(), before);
}

#[test]
fn a_signal_ends_the_backup_too() {
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let backups = backups(PLAIN);
        let mut holder = backups.lab.client();
        holder.batch_execute("BEGIN; LOCK TABLE parent").unwrap();
        let run = runner(&backups, "--rollback-point").start();
        backups.lab.wait_for(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
                            AND application_name LIKE 'backup-manager%')",
        );
        let begun = Instant::now();
        run.signal(signal);
        let _ = run.wait().expect(code).shows(&["no migration was begun"]);
        assert!(begun.elapsed() < Duration::from_secs(20), "it waited for the lock");
        drop(holder);
        assert_eq!(
            backups.lab.ask(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                 AND application_name ~ '^(backup-manager|migration-runner)'"
            ),
            "0"
        );
        assert!(backups.names().is_empty(), "{:?}", backups.names());
        assert_eq!(backups.lab.ask("SELECT to_regclass('migration_log') IS NULL"), "true");
    }
}
