//! The chain: pre-validate, the runner and post-validate behind gates, by pipe and by file, as a shell starts them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use migration_tests::lab::Lab;
use migration_tests::program::{Program, Ran, bin_dir, project_root};
use migration_tests::server::{Engine, Server};

const A: (&str, &str) = ("001_a.sql", "CREATE TABLE a (id int);");

fn lab() -> Lab<'static> {
    Lab::new(Server::shared(Engine::Pg17), &[A])
}

/// A line of sh, in which the tools are found and `$PRE` is a pre-validate with limits that any machine keeps.
fn sh(lab: &Lab<'_>, line: &str) -> Ran {
    let path = format!("{}:/usr/bin:/bin", bin_dir().unwrap().display());
    Program::at(Path::new("/bin/sh"))
        .envs(&lab.database.variables())
        .env("MS5_HOME", lab.home())
        .env("PATH", path)
        .env("PRE", "pre-validate --json --quick --min-disk=1 --min-memory=1")
        .current_dir(lab.home())
        .args(["-c", line])
        .run()
}

fn untouched(lab: &Lab<'_>, ran: &Ran) {
    let nothing = "SELECT to_regclass('a') IS NULL AND to_regclass('migration_log') IS NULL";
    assert_eq!(lab.ask(nothing), "true", "{ran}");
}

#[test]
fn by_pipe_the_last_one_holds_the_whole_story() {
    let lab = lab();
    let ran = sh(&lab, "$PRE | migration-runner --gate=- --json").expect(0);
    let records = ran.records();
    let verdicts: Vec<_> = records.iter().filter(|record| record["type"] == "verdict").collect();
    assert_eq!(verdicts.len(), 2);
    assert!(verdicts.iter().all(|verdict| verdict["ok"] == true), "{ran}");
    assert!(records.iter().any(|record| record["type"] == "check"), "the checks are passed on");
    assert_eq!(lab.ask("SELECT to_regclass('a') IS NOT NULL"), "true");
}

#[test]
fn by_files_one_after_the_other() {
    let lab = lab();
    let _ = sh(&lab, "$PRE > pre.json && migration-runner --gate=pre.json").expect(0);
    assert_eq!(lab.ask("SELECT to_regclass('a') IS NOT NULL"), "true");
}

#[test]
fn whatever_is_wrong_upstream_nothing_is_touched_without_pipefail_too() {
    let lab = lab();
    let other = Server::shared(Engine::Pg17).database().unwrap();
    for (upstream, why) in [
        ("true".to_owned(), "no record of pre-validate"),
        ("$PRE --min-disk=1000000".to_owned(), "did not pass"),
        ("$PRE --bogus".to_owned(), "did not pass"),
        ("$PRE | head -c 700".to_owned(), "not a record"),
        ("$PRE | head -n 3".to_owned(), "did not come to a verdict"),
        // The shell ends it before it can have said anything.
        ("( $PRE & kill -9 $! )".to_owned(), "no record of pre-validate"),
        (format!("DB_NAME={} $PRE", other.name), "looked at another database"),
        ("echo '\\restrict'".to_owned(), "not a record"),
    ] {
        let ran = sh(&lab, &format!("{upstream} | migration-runner --gate=-")).expect(1);
        let ran = ran.shows(&[why]);
        untouched(&lab, &ran);
    }
    let _ = sh(&lab, "$PRE > pre.json; sleep 1.2").expect(0);
    let ran =
        sh(&lab, "migration-runner --gate=pre.json --gate-max-age=0").expect(1).shows(&["--gate-max-age"]);
    untouched(&lab, &ran);
    lab.write("001_a.sql", b"CREATE TABLE a (id bigint);");
    let ran = sh(&lab, "migration-runner --gate=pre.json").expect(1).shows(&["other migration files"]);
    untouched(&lab, &ran);
}

const FIELD: [&str; 3] = ["schema.sql", "reference.sql", "data.sql"];

/// The field's database, not yet migrated.
fn field() -> Lab<'static> {
    let lab = Lab::new(Server::shared(Engine::Pg17), &[]);
    let files: Vec<PathBuf> =
        FIELD.iter().map(|file| project_root().join("tests/fixtures/field").join(file)).collect();
    let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    let _ = lab.database.psql_files(&[], &files).expect(0);
    lab
}

const CHAIN: &str = "pre-validate --json --min-disk=1 --min-memory=1 | migration-runner --gate=- --json | post-validate --against=- --json";

fn chain(lab: &Lab<'_>, line: &str) -> Ran {
    let folder = project_root().join("migrations");
    sh(lab, &format!("export MS5_MIGRATIONS_DIR='{}'; {line}", folder.display()))
}

#[test]
fn every_row_of_the_field_is_proven_and_each_tampering_is_found() {
    let lab = field();
    lab.sql(
        "GRANT SELECT ON factory_telemetry.users TO ms5_user_staging;
         COMMENT ON COLUMN factory_telemetry.users.id IS 'never reused'",
    );
    let ran = chain(&lab, &format!("{CHAIN} > story.json")).expect(0);
    let ran = ran.shows(&[
        "Rows of factory_telemetry.metric_hist: all ",
        "are there as they were",
        "✅ Post-migration validation passed",
    ]);
    assert_eq!(ran.stderr().matches("are there as they were").count(), 5, "{ran}");
    let mut superuser = lab.database.superuser().unwrap();
    let mut tamper = |sql: &str, code: i32, words: &[&str]| {
        superuser.batch_execute(sql).unwrap();
        let _ = chain(&lab, "post-validate --against=story.json").expect(code).shows(words);
    };
    tamper(
        "INSERT INTO factory_telemetry.energy_consumption (equipment_code, consumption_time, power_consumption_kw, energy_consumption_kwh)
         SELECT equipment_code, consumption_time, 1, 1 FROM factory_telemetry.energy_consumption LIMIT 3",
        0,
        &["; 3 were added since"],
    );
    tamper(
        "UPDATE factory_telemetry.metric_hist SET value_real = coalesce(value_real, 0) + 1
         WHERE (id, ts) = (SELECT id, ts FROM factory_telemetry.metric_hist WHERE value_real IS NOT NULL LIMIT 1)",
        1,
        &["Rows of factory_telemetry.metric_hist are lost or are not what they were", "with other content"],
    );
    tamper(
        "CREATE TEMP TABLE gone AS SELECT * FROM factory_telemetry.oee_calculations ORDER BY id LIMIT 1;
         DELETE FROM factory_telemetry.oee_calculations WHERE id = (SELECT id FROM gone);
         UPDATE gone SET id = 1000000000;
         INSERT INTO factory_telemetry.oee_calculations SELECT * FROM gone",
        1,
        &["Rows of factory_telemetry.oee_calculations are lost", "1 row of ", " (UTC) lost: "],
    );
    tamper(
        "SELECT drop_chunks('factory_telemetry.production_context_history', newer_than => '-infinity'::timestamptz)",
        1,
        &["Rows of factory_telemetry.production_context_history are lost"],
    );
    tamper(
        "DROP INDEX factory_telemetry.idx_users_department",
        1,
        &["Objects: 1 object gone, and no file says so", "index factory_telemetry.idx_users_department"],
    );
    tamper(
        "REVOKE SELECT ON factory_telemetry.users FROM ms5_user_staging;
         COMMENT ON COLUMN factory_telemetry.users.id IS NULL",
        1,
        &[
            "Objects: 3 objects gone, and no file says so",
            "comment on table column factory_telemetry.users.id",
            "grant SELECT to ms5_user_staging on factory_telemetry.users",
        ],
    );
    tamper(
        "DROP TABLE factory_telemetry.production_kpis CASCADE",
        1,
        &["Rows of factory_telemetry.production_kpis are lost", "the table is gone, and with it "],
    );
}

#[test]
fn a_writer_all_the_while_raises_no_alarm() {
    let lab = field();
    let stop = AtomicBool::new(false);
    let written = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut client = lab.client();
            let mut written = 0;
            while !stop.load(Ordering::SeqCst) {
                let inserted = client.execute(
                    "INSERT INTO factory_telemetry.metric_hist (metric_def_id, ts, value_real)
                     SELECT metric_def_id, now(), 1 FROM factory_telemetry.metric_hist LIMIT 1",
                    &[],
                );
                written += inserted.unwrap_or(0);
                thread::sleep(Duration::from_millis(5));
            }
            written
        });
        let ran = chain(&lab, CHAIN);
        stop.store(true, Ordering::SeqCst);
        let _ = ran.expect(0).shows(&["Rows of factory_telemetry.metric_hist: all ", "were added since"]);
        writer.join().unwrap()
    });
    assert!(written > 20, "{written} rows were written meanwhile");
}

#[test]
fn post_validate_refuses_what_is_no_whole_chain() {
    let lab = lab();
    let _ = sh(&lab, "$PRE > pre.json && migration-runner --gate=pre.json --report=run.json").expect(0);
    for (line, why) in [
        ("post-validate --against=pre.json", "no record of migration-runner"),
        ("migration-runner --json --dry-run --gate=pre.json | post-validate --against=-", "it was a dry run"),
        ("true | post-validate --against=-", "no record of pre-validate"),
        ("head -c 900 run.json | post-validate --against=-", "not a record"),
    ] {
        let _ = sh(&lab, line).expect(1).shows(&[why]);
    }
    let _ = sh(&lab, "post-validate --against=run.json").expect(0).shows(&["has counted no rows"]);
    let _ = sh(&lab, "post-validate --against=run.json --strict").expect(1);
}
