//! What stops a run: signals, and sessions that a killed run leaves working on the server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use migration_tests::lab::Lab;
use migration_tests::program::Program;
use migration_tests::server::{Engine, Server};

const SLOW: (&str, &str) = ("002_slow.sql", "CREATE TABLE s (id int);\nSELECT pg_sleep(600);\n");
const A: (&str, &str) = ("001_a.sql", "CREATE TABLE a (id int);");

fn lab(files: &[(&str, &str)]) -> Lab<'static> {
    Lab::new(Server::shared(Engine::Pg17), files)
}

const OUTCOMES: &str = "SELECT string_agg(outcome, ',' ORDER BY id) FROM migration_attempts";

#[test]
fn a_signal_cancels_rolls_back_records_and_ends_with_its_code() {
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let lab = lab(&[A, SLOW]);
        let run = lab.runner("").start();
        lab.wait_for_sleep();
        let begun = Instant::now();
        run.signal(signal);
        let _ = run.wait().expect(code).shows(&[
            &format!("SIG{signal}: cancelling the running statement and rolling back"),
            "❌ Migration 002 - Slow was stopped by a signal",
            "Applied by this run, and staying: 001 - A",
            "Nothing of 002 - Slow is in the database",
            "go on where it stopped with: migration-runner",
        ]);
        assert!(begun.elapsed() < Duration::from_secs(20), "the statement was not cancelled");
        assert_eq!(lab.ask("SELECT to_regclass('s') IS NULL"), "true");
        assert_eq!(lab.ask(OUTCOMES), "applied,interrupted");
        lab.wait_for("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'migration-runner%')");
        let _ = lab.run("--status").expect(0).shows(&["002 - Slow: interrupted; stopped by a signal"]);
        lab.write(SLOW.0, b"CREATE TABLE s (id int);");
        let _ = lab.run("").expect(0).shows(&["1 applied, 1 already applied"]);
    }
}

#[test]
fn a_signal_in_a_stepwise_file_tells_what_is_done() {
    let lab = lab(&[(
        "001_a.sql",
        "CREATE TABLE t (id int);\nVACUUM t;\nSELECT pg_sleep(600);\nINSERT INTO t VALUES (1);\n",
    )]);
    let run = lab.runner("--json").start();
    lab.wait_for_sleep();
    run.signal("TERM");
    let ran = run.wait().expect(143).shows(&["Of 001 - A, 2 of 4 statements are done and stay"]);
    let records = ran.records();
    assert_eq!(records.last().unwrap()["exit"], 143);
    assert!(records.iter().any(|record| record["outcome"] == "interrupted"), "{ran}");
    lab.write("001_a.sql", b"CREATE TABLE t (id int);\nVACUUM t;\nINSERT INTO t VALUES (1);\n");
    let _ = lab.run("").expect(0);
    assert_eq!(lab.ask("SELECT count(*) FROM t"), "1");
}

#[test]
fn a_second_signal_ends_at_once() {
    // A statement that will not be cancelled: it catches everything and goes on.
    let lab = lab(&[(
        "001_a.sql",
        "DO $$ BEGIN LOOP BEGIN PERFORM pg_sleep(600); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$;",
    )]);
    let mut run = lab.runner("").start();
    lab.wait_for_sleep();
    run.signal("TERM");
    // The same blow: timeout(1) sends each signal to the process and to its group.
    run.signal("TERM");
    std::thread::sleep(Duration::from_millis(700));
    assert!(run.runs(), "the statement was meant to go on");
    // On a slow machine the first may be taken for the same blow too.
    while run.runs() {
        run.signal("INT");
        std::thread::sleep(Duration::from_millis(400));
    }
    let _ = run.wait().expect(130).shows(&["SIGINT again: ending at once"]);
    // The server notices by itself that its client is gone, though the statement goes on.
    lab.wait_for("SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'");
    lab.write("001_a.sql", b"SELECT 1;");
    let _ = lab.run("").expect(0).shows(&["An earlier run ended in the middle of 001 - A"]);
}

#[test]
fn a_signal_before_anything_is_touched_ends_with_a_verdict() {
    let lab = lab(&[A]);
    let mut holder = lab.client();
    holder.batch_execute("SELECT pg_advisory_lock(x'4d53355f4d494752'::bigint)").unwrap();
    let run = lab.runner("--lock-wait=600 --json").start();
    lab.wait_for("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'migration-runner lock')");
    run.signal("INT");
    let ran = run.wait().expect(130);
    let records = ran.records();
    assert_eq!(records.last().unwrap()["type"], "verdict", "{ran}");
    assert_eq!(lab.ask("SELECT to_regclass('migration_log') IS NULL"), "true");
    // Or the next one would be taken to wait already.
    lab.wait_for("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'migration-runner lock')");
    assert_eq!(lab.runner("--lock-wait=600").env("MS5_EXIT", "classic").start().stop_by("TERM", &lab), 1);
}

trait StopBy {
    fn stop_by(self, signal: &str, lab: &Lab<'_>) -> i32;
}

impl StopBy for migration_tests::program::Started {
    fn stop_by(self, signal: &str, lab: &Lab<'_>) -> i32 {
        lab.wait_for("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'migration-runner lock')");
        self.signal(signal);
        self.wait().code()
    }
}

#[test]
fn a_signal_that_the_caller_ignores_stays_ignored() {
    let lab = lab(&[("001_a.sql", "SELECT pg_sleep(1.5);\nCREATE TABLE n (id int);")]);
    let runner = migration_tests::program::bin_dir().unwrap().join("migration-runner");
    let mut nohup = Program::at(std::path::Path::new("/bin/sh"))
        .args(["-c", "trap '' HUP; exec \"$0\""])
        .arg(runner)
        .env("MS5_HOME", lab.home());
    nohup = nohup.envs(&lab.database.variables());
    let run = nohup.start();
    lab.wait_for_sleep();
    run.signal("HUP");
    let _ = run.wait().expect(0);
    assert_eq!(lab.ask("SELECT to_regclass('n') IS NOT NULL"), "true");
}

#[test]
fn the_session_of_a_killed_run_is_ended_before_the_next_begins() {
    // A deferred trigger keeps the COMMIT itself busy, with what would be committed twice.
    let text = "CREATE TABLE IF NOT EXISTS k (id int);
CREATE OR REPLACE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(s) FROM wait; RETURN NULL; END $$;
CREATE OR REPLACE TRIGGER slow AFTER INSERT ON k FOR EACH ROW EXECUTE FUNCTION slow();
DROP TRIGGER slow ON k;
CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON k DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow();
INSERT INTO k VALUES (1);
";
    let lab = lab(&[("001_a.sql", text)]);
    lab.sql("CREATE TABLE wait (s float); INSERT INTO wait VALUES (600)");
    let run = lab.runner("").start();
    lab.wait_for_sleep();
    run.signal("KILL");
    let _ = run.wait();
    lab.sql("UPDATE wait SET s = 0");
    let _ = lab.run("").expect(0).shows(&["An earlier run's session still works on 001 - A", "ending it"]);
    assert_eq!(lab.ask("SELECT count(*) FROM k"), "1");
    assert_eq!(lab.ask(OUTCOMES), "interrupted,applied");
}

#[test]
fn a_server_notices_by_itself_that_its_runner_was_killed() {
    let lab = lab(&[SLOW]);
    std::fs::rename(lab.migrations().join(SLOW.0), lab.migrations().join("001_slow.sql")).unwrap();
    let run = lab.runner("").start();
    lab.wait_for_sleep();
    run.signal("KILL");
    let _ = run.wait();
    lab.wait_for("SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'migration-runner%'");
}

#[test]
fn a_signal_while_rows_are_counted_ends_at_once_on_the_server_too() {
    let lab = Lab::new(Server::shared(Engine::Pg17), &[("001_a.sql", "SELECT 1;")]);
    // Its text is asked for, and takes a tenth of a second for each row.
    lab.sql(
        "CREATE TYPE mood AS ENUM ('calm');
         CREATE FUNCTION slow(mood) RETURNS text LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_sleep(0.1); RETURN 'calm'; END $$;
         CREATE CAST (mood AS text) WITH FUNCTION slow(mood);
         CREATE TABLE rows (id serial PRIMARY KEY, m mood);
         INSERT INTO rows (m) SELECT 'calm' FROM generate_series(1, 10000);",
    );
    let validate = |arguments: &str| {
        Program::tool("pre-validate")
            .envs(&lab.database.variables())
            .env("MS5_HOME", lab.home())
            .args(["--json", "--min-disk=1", "--fingerprint=public.rows"])
            .args(arguments.split_whitespace())
            .start()
    };
    let reading = validate("");
    lab.wait_for_sleep();
    reading.signal("TERM");
    let ran = reading.wait().expect(143);
    assert_eq!(ran.records().last().unwrap()["error"], "stopped by a signal", "{ran}");
    let begun = Instant::now();
    lab.wait_for(
        "SELECT NOT EXISTS (SELECT FROM pg_stat_activity
                            WHERE datname = current_database() AND application_name LIKE 'pre-validate%')",
    );
    let mut writer = lab.client();
    writer.batch_execute("BEGIN; INSERT INTO rows (m) VALUES ('calm')").unwrap();
    let waiting = validate("--wait-for-writers=600");
    lab.wait_for(
        "SELECT EXISTS (SELECT FROM pg_stat_activity
                        WHERE datname = current_database() AND application_name = 'pre-validate fingerprint')",
    );
    waiting.signal("INT");
    let _ = waiting.wait().expect(130);
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}

#[test]
fn a_signal_while_a_lost_commit_is_looked_up_leaves_it_unknown() {
    let lab = lab(&[(
        "001_end.sql",
        "CREATE TABLE e (id int);
         CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             PERFORM pg_advisory_xact_lock(42); RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON e DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION wait();
         INSERT INTO e VALUES (1);",
    )]);
    let mut superuser = lab.database.superuser().unwrap();
    superuser.batch_execute("SELECT pg_advisory_lock(42)").unwrap();
    let run = lab.runner("--lock-timeout=0").start();
    lab.wait_for(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND NOT granted)",
    );
    let name = lab.ask("SELECT current_database()");
    let mut beside = Server::shared(Engine::Pg17).superuser("postgres").unwrap();
    let mut allow = |yes: bool| {
        beside.batch_execute(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {yes}")).unwrap();
    };
    allow(false);
    superuser.batch_execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND NOT granted").unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !lab.log().contains("asking the server how it ended") {
        assert!(Instant::now() < deadline, "the answer is not missed");
        std::thread::sleep(Duration::from_millis(20));
    }
    run.signal("TERM");
    let _ = run.wait().expect(5).shows(&["it is not known whether 001 - End was committed"]);
    allow(true);
}
