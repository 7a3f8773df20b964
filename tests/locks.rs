//! Locks that others hold: waited for a short time, named, tried again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use migration_tests::lab::Lab;
use migration_tests::server::{Engine, Server};

fn lab(files: &[(&str, &str)]) -> Lab<'static> {
    let lab = Lab::new(Server::shared(Engine::Pg17), files);
    lab.sql("CREATE TABLE busy (id int); CREATE TABLE other (id int)");
    lab
}

const ALTER: (&str, &str) =
    ("001_a.sql", "-- 001 - Alter\nCREATE TABLE made (id int);\nALTER TABLE busy ADD COLUMN b int;\n");

#[test]
fn a_file_that_gets_no_lock_is_rolled_back_tried_again_and_says_whom_it_waited_for() {
    let lab = lab(&[ALTER]);
    let mut reader = lab.client();
    reader.batch_execute("SET application_name = 'the slow report'; BEGIN; SELECT * FROM busy").unwrap();
    let run = lab.runner("--lock-timeout=0.6 --lock-retries=20").start();
    // Rolled back between two tries, the file holds nothing.
    lab.wait_for("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')");
    lab.wait_for("SELECT NOT EXISTS (SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database WHERE d.datname = current_database() AND mode = 'AccessExclusiveLock')");
    std::thread::sleep(Duration::from_secs(4));
    reader.batch_execute("COMMIT").unwrap();
    let ran = run.wait().expect(0).shows(&[
        "waiting for a lock",
        "did not get a lock in time at 001_a.sql:3:1; rolled back, trying again in",
        "(try 1 of 20)",
        "It waited for pid ",
        "\"the slow report\", user ms5_user_test, idle in transaction",
        "SELECT * FROM busy",
        "completed successfully",
    ]);
    assert!(!ran.stdout().contains("already exists"), "{ran}");
    assert_eq!(
        lab.ask("SELECT string_agg(outcome, ',') FROM migration_attempts"),
        "applied",
        "one attempt, tried again"
    );
}

#[test]
fn when_the_tries_are_used_up_it_fails_and_names_the_holder() {
    let lab = lab(&[ALTER]);
    let mut reader = lab.client();
    reader.batch_execute("SET application_name = 'the slow report'; BEGIN; SELECT * FROM busy").unwrap();
    let begun = Instant::now();
    let _ = lab.run("--lock-timeout=2 --lock-retries=1").expect(1).shows(&[
        "55P03",
        "the lock is held by pid",
        "\"the slow report\"",
        "Nothing of 001 - Alter is in the database",
    ]);
    assert!(begun.elapsed() < Duration::from_secs(60));
    assert_eq!(lab.ask("SELECT sqlstate FROM migration_attempts"), "55P03");
    assert_eq!(lab.ask("SELECT message LIKE '%the slow report%' FROM migration_attempts"), "true");
    // PGOPTIONS is the operator's word too, and a flag wins over it.
    let _ = lab
        .runner("--lock-retries=0")
        .env("PGOPTIONS", "-c lock_timeout=100ms")
        .run()
        .expect(1)
        .shows(&["55P03"]);
    let waits =
        lab.runner("--lock-timeout=0 --lock-retries=0").env("PGOPTIONS", "-c lock_timeout=100ms").start();
    std::thread::sleep(Duration::from_secs(2));
    reader.batch_execute("COMMIT").unwrap();
    let _ = waits.wait().expect(0);
}

#[test]
fn a_deadlock_is_tried_again() {
    let lab = lab(&[(
        "001_a.sql",
        "LOCK TABLE other IN ACCESS EXCLUSIVE MODE;\nSELECT pg_sleep(4);\nLOCK TABLE busy IN ACCESS EXCLUSIVE MODE;\n",
    )]);
    let mut session = lab.client();
    session.batch_execute("SET deadlock_timeout TO '100s'").unwrap_or(());
    let run = lab.runner("--lock-timeout=0").start();
    lab.wait_for_sleep();
    session.batch_execute("BEGIN; LOCK TABLE busy IN ACCESS EXCLUSIVE MODE").unwrap();
    // The one that has waited longest is the victim; both outcomes are fine for this session.
    let mine = session.batch_execute("LOCK TABLE other IN ACCESS EXCLUSIVE MODE; COMMIT");
    let ran = run.wait().expect(0);
    assert!(mine.is_err() || ran.stdout().contains("met a deadlock"), "{ran}");
}

#[test]
fn a_concurrent_index_waits_as_long_as_it_takes() {
    let lab = lab(&[(
        "001_a.sql",
        "CREATE INDEX CONCURRENTLY b_id ON busy (id);\nSELECT 1 / (current_setting('lock_timeout') = '200ms')::int;\n",
    )]);
    let mut writer = lab.client();
    writer.batch_execute("BEGIN; INSERT INTO busy VALUES (1)").unwrap();
    let run = lab.runner("--lock-timeout=0.2 --lock-retries=0").start();
    lab.wait_for(
        "SELECT EXISTS (SELECT FROM pg_stat_progress_create_index WHERE datname = current_database())",
    );
    std::thread::sleep(Duration::from_secs(2));
    writer.batch_execute("COMMIT").unwrap();
    let _ = run.wait().expect(0).shows(&["waiting for a lock", "INSERT INTO busy"]);
    assert_eq!(lab.ask("SELECT indisvalid FROM pg_index WHERE indexrelid = 'b_id'::regclass"), "true");
}

#[test]
fn time_and_memory_are_limited_by_flags() {
    let lab = lab(&[("001_a.sql", "SELECT pg_sleep(600);")]);
    let _ = lab.run("--statement-timeout=0.3").expect(1).shows(&["57014", "statement timeout"]);
    lab.write("001_a.sql", b"CREATE TABLE seen AS SELECT current_setting('maintenance_work_mem') AS m, current_setting('lock_timeout') AS l;");
    let _ = lab.run("--maintenance-work-mem=77MB").expect(0);
    assert_eq!(lab.ask("SELECT m || ' ' || l FROM seen"), "77MB 5s");
    let _ = lab.run("--maintenance-work-mem=much").expect(2).shows(&["--maintenance-work-mem takes a size"]);
    let _ = lab.run("--lock-timeout=soon").expect(2).shows(&["--lock-timeout takes a number of seconds"]);
}
