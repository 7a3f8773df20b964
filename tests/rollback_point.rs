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

/// The names of a folder that begin so.
fn begin_with(folder: &Path, beginning: &str) -> Vec<String> {
    names(folder).into_iter().filter(|name| name.starts_with(beginning)).collect()
}

#[test]
fn the_backup_that_was_taken_before_is_the_way_back_of_a_run_without_a_point() {
    let backups = backups(PLAIN);
    let before = backups.content();
    // The spec's own flow: a backup, a run that fails, the runbook's line.
    let _ = backups.backup("older full");
    let _ = backups.backup("pre_migration full");
    let full = begin_with(&backups.folder(), "pre_migration_").remove(0);
    let ran = runner(&backups, "").run().expect(1).shows(&[
        "To go back to what was there before this run: ",
        "rollback.sh --force",
        &format!("That is the backup {full} of "),
    ]);
    let failed = failures(&backups);
    assert_eq!(failed.len(), 1, "{ran}");
    assert!(ran.to_string().contains(&format!("{}/rollback.sh --force", failed[0].display())), "{ran}");
    assert_eq!(fs::read_to_string(failed[0].join("backup_reference.txt")).unwrap().trim(), full);
    let made = names(&backups.folder().join("rollback_points"));

    // A second run has found what the first has applied: no backup is of that. What is there is said to be another run's.
    let ran = runner(&backups, "").run().expect(1).shows(&[
        "There is no way back to what was there before this run",
        "is NOT of this run: it brings",
        &format!("of test back to the backup {full} of "),
        "Next time: first ",
    ]);
    assert!(!ran.to_string().contains("To go back to what was there before this run: "), "{ran}");
    assert_eq!(failures(&backups), failed);

    // One that is taken now is what the third run finds; once it is reached nothing is made again.
    // When a backup was made is known to the second, and one of the second of the run before might be older than it.
    std::thread::sleep(Duration::from_secs(1));
    let _ = backups.backup("between full");
    let between = begin_with(&backups.folder(), "between_").remove(0);
    for _ in 0..2 {
        let _ = runner(&backups, "")
            .run()
            .expect(1)
            .shows(&["This run has changed nothing", &format!("That is the backup {between} of ")]);
    }
    assert_eq!(failures(&backups).len(), 1);
    assert_eq!(names(&backups.folder().join("rollback_points")).len(), made.len() + 1);

    // By hand for the first one again, and back.
    let _ = backups
        .run(&format!("rollback-point migration_failure --of={full}"))
        .expect(0)
        .shows(&["✅ Rollback point created: migration_failure_", &full]);
    let _ = runbook(&backups).expect(0).shows(&["✅ Rolled back"]);
    assert_eq!(backups.content(), before);
    // It was taken before what was restored: the older one is no way back, the restored one is.
    let _ = runner(&backups, "").run().expect(1).shows(&[&format!("That is the backup {full} of ")]);
    // By the name that the README gives it.
    let _ = backups.restorer("rollback migration_failure --force").run().expect(0).shows(&[&full]);
    assert_eq!(backups.content(), before);
}

#[test]
fn no_other_backup_is_taken_for_the_way_back() {
    let backups = backups(PLAIN);
    let _ = backups.backup("definitions schema");
    let folder = backups.backup("others full");
    let text = fs::read_to_string(folder.join("metadata.json")).unwrap();
    for (from, to) in [
        ("\"environment\": \"test\"", "\"environment\": \"staging\""),
        ("\"system_identifier\": \"", "\"system_identifier\": \"9"),
    ] {
        assert!(text.contains(from), "{text}");
        fs::write(folder.join("metadata.json"), text.replacen(from, to, 1)).unwrap();
        let _ = runner(&backups, "").run().expect(1).shows(&[
            "There is no way back to what was there before this run",
            "There is no rollback/migration_failure_*/rollback.sh either",
            "backup pre_migration full --environment=test; or run this with --rollback-point",
        ]);
        assert!(failures(&backups).is_empty());
        backups.lab.sql("DROP TABLE good; DROP TABLE migration_log, migration_attempts CASCADE");
        backups.lab.sql("UPDATE parent SET name = 'p'");
    }
    // What cannot have a script is named by its command.
    fs::remove_dir_all(&folder).unwrap();
    let _ = backups.backup("shared full --incremental");
    let shared = begin_with(&backups.folder(), "shared_").remove(0);
    let _ = runner(&backups, "").run().expect(1).shows(&[
        "rollback.sh cannot be made",
        "it is incremental",
        &format!("To go back to what was there before this run: backup-manager restore {shared} --force --environment=test"),
    ]);
}

#[test]
fn going_on_makes_no_point_of_what_is_half_migrated_and_the_log_tells_of_the_point() {
    let backups = backups(PLAIN);
    let ran = runner(&backups, "--rollback-point=first --verbose").env("PGHOST", "ignored").run().expect(1);
    let go_on = ran.stdout().lines().find(|line| line.contains("then go on there with:")).unwrap().to_owned();
    assert!(go_on.ends_with("with: migration-runner --verbose"), "{go_on}");
    // What backup-manager says is in the runner's log as on its stdout, and libpq's variables are no business of its.
    let said = ran.stdout();
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("Rollback point created")).collect();
    assert_eq!(lines.len(), 1, "{ran}");
    assert!(backups.lab.log().contains(lines[0]), "{}", backups.lab.log());
    assert_eq!(ran.stdout().matches("PGHOST").count(), 1, "{ran}");
    let _ = backups.restorer("rollback migration_failure --force").run().expect(0).shows(&["first_"]);
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
    for arguments in [
        "--rollback-point --status",
        "--restore-user=x --status",
        "--backup-dir=x --plan",
        "--rollback-point=a b",
    ] {
        untouched(runner(&backups, arguments).run().expect(2));
    }
    untouched(
        runner(&backups, "--rollback-point a").run().expect(2).shows(&["give it as --rollback-point=a"]),
    );

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
        backups.lab.wait_for(
            "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database()
                                AND application_name ~ '^(backup-manager|migration-runner)')",
        );
        assert!(backups.names().is_empty(), "{:?}", backups.names());
        assert_eq!(backups.lab.ask("SELECT to_regclass('migration_log') IS NULL"), "true");
    }
}

#[test]
fn a_run_that_was_overtaken_while_its_point_was_made_is_refused() {
    let backups = backups(PLAIN);
    backups.lab.write(BAD.0, b"CREATE TABLE bad (id int);");
    // The real backup-manager, with another run behind it.
    let folder = backups.lab.home().join("bin");
    fs::create_dir(&folder).unwrap();
    let bin = bin_dir().unwrap();
    fs::copy(bin.join("migration-runner"), folder.join("migration-runner")).unwrap();
    let script = format!(
        "#!/bin/sh\n'{0}/backup-manager' \"$@\" && '{0}/migration-runner' --target=1 >/dev/null\n",
        bin.display()
    );
    fs::write(folder.join("backup-manager"), script).unwrap();
    fs::set_permissions(folder.join("backup-manager"), fs::Permissions::from_mode(0o755)).unwrap();
    let refused = runner(&backups, "--rollback-point").env("MS5_BIN_DIR", &folder).run().expect(4);
    let _ = refused.shows(&[
        "another run has migrated this database while the rollback point was made",
        "nothing was touched",
    ]);
    assert_eq!(backups.lab.ask("SELECT count(*) FROM migration_log"), "1");
    assert_eq!(backups.lab.ask("SELECT to_regclass('bad') IS NULL"), "true");
}
