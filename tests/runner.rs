//! migration-runner on a real server: what it applies, records, skips, refuses and says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::time::{Duration, Instant};

use migration_tests::lab::Lab;
use migration_tests::server::{Engine, Server};

const A: (&str, &str) = (
    "001_first.sql",
    "-- 001 - First Step\n-- ms5: idempotent\nCREATE TABLE IF NOT EXISTS a (id int PRIMARY KEY, t text);\n",
);
const B: (&str, &str) =
    ("002_second.sql", "-- 002 - Second Step\nCREATE TABLE b (id int);\nINSERT INTO b VALUES (1);\n");
const BAD: (&str, &str) = (
    "003_bad.sql",
    "-- 003 - Bad Step\nCREATE TABLE c (id int);\nINSERT INTO c\n    VALUES (1),\n           (nonsense);\n",
);
const D: (&str, &str) = ("004_fourth.sql", "-- 004 - Fourth Step\nCREATE TABLE d (id int);\n");

fn lab(files: &[(&str, &str)]) -> Lab<'static> {
    Lab::new(Server::shared(Engine::Pg17), files)
}

#[test]
fn a_second_run_skips_and_touches_nothing() {
    let lab = lab(&[A, B]);
    let _ = lab.run("").expect(0);
    let before = lab.ask("SELECT string_agg(l::text, ';' ORDER BY id) FROM migration_log l");
    let _ = lab
        .run("")
        .expect(0)
        .shows(&["Migration 001 - First Step already applied, skipping", "0 applied, 2 already"]);
    assert_eq!(lab.ask("SELECT string_agg(l::text, ';' ORDER BY id) FROM migration_log l"), before);
    assert_eq!(lab.ask("SELECT count(*) FROM migration_attempts"), "2");
}

#[test]
fn the_ledger_holds_what_runbooks_query() {
    let lab = lab(&[A, BAD]);
    std::fs::rename(lab.migrations().join(BAD.0), lab.migrations().join("002_bad.sql")).unwrap();
    let _ = lab.run("").expect(1);
    let row = |name: &str| {
        lab.ask(&format!(
            "SELECT migration_file || '|' || success || '|' || applied_by || '|' || length(checksum) || '|'
                    || (execution_time_ms >= 0) || '|' || (now() - applied_at < '1 minute') || '|'
                    || coalesce(error_message, '-') FROM migration_log WHERE migration_name = '{name}'"
        ))
    };
    assert_eq!(row("001 - First Step"), "001_first.sql|true|ms5_user_test|64|true|true|-");
    assert!(
        row("003 - Bad Step")
            .starts_with("002_bad.sql|false|ms5_user_test|64|true|true|Migration 003 - Bad Step failed")
    );
    assert_eq!(
        lab.ask(
            "SELECT string_agg(outcome || coalesce(sqlstate, ''), ',' ORDER BY id) FROM migration_attempts"
        ),
        "applied,failed42703"
    );
    assert_eq!(lab.ask("SELECT checksum FROM migration_log WHERE id = 1"), {
        use std::process::Command;
        let sum = Command::new("sha256sum").arg(lab.migrations().join("001_first.sql")).output().unwrap();
        String::from_utf8_lossy(&sum.stdout).split(' ').next().unwrap().to_owned()
    });
}

#[test]
fn a_failure_names_the_place_and_leaves_nothing_of_its_file() {
    let lab = lab(&[A, B, BAD, D]);
    let ran = lab.run("").expect(1).shows(&[
        "❌ Migration 003 - Bad Step failed at 003_bad.sql:5:13",
        "ERROR 42703: column \"nonsense\" does not exist",
        "  5 |            (nonsense);",
        "    |             ^",
        "Nothing of 003 - Bad Step is in the database",
        "2 applied, 0 already applied, 1 failed, 1 not begun",
    ]);
    assert!(!ran.stdout().contains("completed successfully!"), "{ran}");
    assert_eq!(lab.ask("SELECT to_regclass('c') IS NULL AND to_regclass('d') IS NULL"), "true");
    assert_eq!(lab.ask("SELECT count(*) FROM b"), "1");
    // Mended, it goes on at the file that failed.
    lab.write("003_bad.sql", b"-- 003 - Bad Step\nCREATE TABLE c (id int);\n");
    let _ = lab.run("").expect(0).shows(&["2 applied, 2 already applied, 0 failed"]);
    assert_eq!(lab.ask("SELECT success FROM migration_log WHERE migration_name = '003 - Bad Step'"), "true");
    let replaced =
        lab.ask("SELECT replaced->>'success' FROM migration_attempts ORDER BY id DESC OFFSET 1 LIMIT 1");
    assert_eq!(replaced, "false", "the row that was replaced is kept with the attempt");
}

#[test]
fn detail_hint_and_context_of_the_server_are_shown() {
    let lab = lab(&[(
        "001_a.sql",
        "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN\n RAISE 'no way' USING DETAIL = 'the detail', HINT = 'the hint', ERRCODE = 'P0042';\nEND $$;\n\n  SELECT f();\n",
    )]);
    let _ = lab.run("").expect(1).shows(&[
        "failed at 001_a.sql:5:3",
        "ERROR P0042: no way",
        "DETAIL: the detail",
        "HINT: the hint",
        "CONTEXT: PL/pgSQL function f() line 2 at RAISE",
    ]);
}

#[test]
fn force_goes_on_after_a_failure_and_says_so_with_exit_5() {
    let lab = lab(&[A, B, BAD, D]);
    let _ = lab
        .run("--force")
        .expect(5)
        .shows(&["Going on after the failure", "3 applied, 0 already applied, 1 failed, 0 not begun"]);
    assert_eq!(lab.ask("SELECT to_regclass('d') IS NOT NULL AND to_regclass('c') IS NULL"), "true");
}

#[test]
fn force_executes_again_and_a_failed_repetition_does_not_undo_the_success() {
    let lab = lab(&[A, B]);
    let _ = lab.run("").expect(0);
    // 001 may run again; 002 fails, since its table is there.
    let _ = lab.run("--force").expect(5).shows(&["again: --force", "42P07"]);
    assert_eq!(lab.ask("SELECT string_agg(success::text, ',' ORDER BY id) FROM migration_log"), "true,true");
    assert_eq!(
        lab.ask("SELECT string_agg(outcome, ',' ORDER BY id) FROM migration_attempts"),
        "applied,applied,applied,failed"
    );
    let _ = lab.run("").expect(0).shows(&["2 already applied"]);
}

#[test]
fn a_dry_run_and_a_status_write_nothing_not_even_the_ledger() {
    // A server of its own: transaction ids are counted for all databases together.
    let server = Server::start(Engine::Pg17, &["autovacuum=off"]).unwrap();
    let lab = Lab::new(&server, &[A, B]);
    let everything = "SELECT count(*) FROM pg_class WHERE relnamespace <> 'pg_toast'::regnamespace";
    let before = lab.ask(everything);
    let xid = lab.ask("SELECT pg_snapshot_xmax(pg_current_snapshot())");
    let _ = lab.run("--dry-run --verbose").expect(0).shows(&[
        "Dry run: true",
        "TimescaleDB extension: version 2.19.3 is available; it would be created",
        "Would execute: 001 - First Step (001_first.sql, 1 statements)",
        "001_first.sql:3:1 CREATE TABLE IF NOT EXISTS a",
    ]);
    let _ = lab.run("--status").expect(0).shows(&["001 - First Step: pending", "002 - Second Step: pending"]);
    assert_eq!(lab.ask(everything), before);
    assert_eq!(lab.ask("SELECT pg_snapshot_xmax(pg_current_snapshot())"), xid, "a transaction id was used");
    assert_eq!(lab.ask("SELECT to_regclass('migration_log') IS NULL"), "true");
    assert_eq!(lab.ask("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'"), "0");
}

/// A ledger as the old scripts made it.
const OLD_LEDGER: &str = "
CREATE TABLE migration_log (id serial PRIMARY KEY, migration_name varchar(255) UNIQUE NOT NULL,
    migration_file varchar(255) NOT NULL, applied_at timestamptz DEFAULT now(),
    applied_by varchar(255) DEFAULT current_user, execution_time_ms integer, success boolean NOT NULL DEFAULT true,
    error_message text, checksum varchar(64));
INSERT INTO migration_log (migration_name, migration_file, execution_time_ms) VALUES
    ('001 - First Step', '/opt/ms5/migrations/001_first.sql', 7);";

#[test]
fn a_row_of_the_old_scripts_is_unverified_and_its_file_runs_again_where_it_may() {
    let lab = lab(&[A, B]);
    lab.sql(OLD_LEDGER);
    let _ = lab.run("--status").expect(0).shows(&["001 - First Step: unverified", "proves nothing"]);
    assert_eq!(lab.ask("SELECT count(*) FROM pg_attribute WHERE attrelid = 'migration_log'::regclass AND attname = 'attempt_id'"), "0");
    let _ = lab.run("").expect(0).shows(&["Executing migration 001 - First Step (001_first.sql) again"]);
    assert_eq!(
        lab.ask("SELECT to_regclass('a') IS NOT NULL"),
        "true",
        "what the old row claimed is now true"
    );
    assert_eq!(
        lab.ask("SELECT replaced->>'execution_time_ms' FROM migration_attempts ORDER BY id LIMIT 1"),
        "7"
    );
    let _ = lab.run("").expect(0).shows(&["2 already applied"]);
    // An old script that writes over our row makes it unverified again, whatever of it it writes.
    lab.sql("UPDATE migration_log SET checksum = md5('') WHERE migration_name LIKE '001%'");
    let _ = lab.run("--status").expect(0).shows(&["001 - First Step: unverified"]);
    let _ = lab.run("").expect(0);
    lab.sql("UPDATE migration_log SET applied_at = now(), success = true WHERE migration_name LIKE '001%'");
    let _ = lab.run("--status").expect(0).shows(&["001 - First Step: unverified"]);
}

#[test]
fn an_unverified_row_whose_file_must_not_run_twice_stops_the_run() {
    let lab = lab(&[("001_first.sql", "-- 001 - First Step\nCREATE TABLE a (id int);\n")]);
    lab.sql(OLD_LEDGER);
    let _ = lab.run("").expect(1).shows(&["proves nothing", "-- ms5: idempotent"]);
    assert_eq!(
        lab.ask("SELECT to_regclass('migration_attempts') IS NULL AND to_regclass('a') IS NULL"),
        "true"
    );
    assert_eq!(
        lab.ask("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'"),
        "0",
        "nothing was touched"
    );
    let _ = lab.run("--force").expect(0);
}

#[test]
fn a_changed_file_is_refused_even_with_force_and_line_ends_are_no_change() {
    let lab = lab(&[A, B]);
    let _ = lab.run("").expect(0);
    lab.write(B.0, B.1.replace('\n', "\r\n").as_bytes());
    let _ = lab.run("").expect(0).shows(&["2 already applied"]);
    lab.write(B.0, format!("{}INSERT INTO b VALUES (2);\n", B.1).as_bytes());
    for flags in ["", "--force"] {
        let _ = lab
            .run(flags)
            .expect(1)
            .shows(&["002_second.sql has changed since it was applied", "nothing was touched"]);
    }
    assert_eq!(lab.ask("SELECT count(*) FROM b"), "1");
    let _ = lab.run("--status").expect(0).shows(&["002 - Second Step: changed"]);
}

#[test]
fn out_of_order_and_missing_files_are_refused_until_allowed() {
    let lab = lab(&[A, B, D]);
    let _ = lab.run("").expect(3).shows(&["the number 003 is missing before 004_fourth.sql"]);
    let _ = lab.run("--allow-out-of-order").expect(0);
    lab.write("003_third.sql", b"CREATE TABLE c (id int);");
    let _ = lab.run("").expect(1).shows(&["003_third.sql was never applied, but a later number is"]);
    let _ = lab.run("--status").expect(0).shows(&["003 - Third: out of order"]);
    let _ = lab.run("--allow-out-of-order").expect(0).shows(&["1 applied, 3 already applied"]);
    std::fs::remove_file(lab.migrations().join(D.0)).unwrap();
    let _ = lab.run("").expect(1).shows(&["its file 004_fourth.sql is not in the folder"]);
}

#[test]
fn copy_data_streams_and_a_bad_row_is_named() {
    let rows: String = (0..100_000).map(|i| format!("{i}\tline {i} \\t \\N\n")).collect();
    let lab = lab(&[(
        "001_copy.sql",
        &format!(
            "CREATE TABLE t (id int, x text);\nCOPY t (id, x) FROM stdin; SELECT 1;\n{rows}\\.\nINSERT INTO t VALUES (-1, 'after');\n"
        ),
    )]);
    let _ = lab.run("").expect(0);
    assert_eq!(lab.ask("SELECT count(*) || ' ' || sum(id) FROM t"), "100001 4999949999");
    assert_eq!(lab.ask("SELECT x FROM t WHERE id = 7"), "line 7 \t N");
    lab.write("002_bad.sql", b"COPY t FROM stdin;\n1\ta\nx\tb\n\\.\n");
    let _ = lab.run("").expect(1).shows(&["22P02", "COPY t, line 2, column id: \"x\""]);
    assert_eq!(lab.ask("SELECT count(*) FROM t"), "100001");
}

#[test]
fn the_session_is_reset_between_files() {
    let lab = lab(&[
        (
            "001_a.sql",
            "SET search_path TO pg_catalog; SET ROLE pg_read_all_data; CREATE TEMP TABLE x (id int); RESET ROLE; SET work_mem = '1MB';",
        ),
        (
            "002_b.sql",
            "CREATE TABLE here (id int);\nDO $$ BEGIN IF current_setting('work_mem') = '1MB' OR to_regclass('x') IS NOT NULL OR current_user <> session_user THEN RAISE 'not reset'; END IF; END $$;",
        ),
    ]);
    let mut superuser = lab.database.superuser().unwrap();
    superuser.batch_execute("GRANT pg_read_all_data TO ms5_user_test").unwrap();
    let _ = lab.run("").expect(0);
    assert_eq!(lab.ask("SELECT to_regclass('public.here') IS NOT NULL"), "true");
}

#[test]
fn a_file_that_leaves_another_role_behind_still_reaches_the_ledger() {
    let lab = lab(&[("001_a.sql", "CREATE TABLE r (id int); SET ROLE pg_monitor;")]);
    lab.database.superuser().unwrap().batch_execute("GRANT pg_monitor TO ms5_user_test").unwrap();
    let _ = lab.run("").expect(0);
    assert_eq!(lab.ask("SELECT applied_by FROM migration_log"), "ms5_user_test");
}

#[test]
fn notices_are_debug_and_warnings_are_warn() {
    let lab = lab(&[(
        "001_a.sql",
        "DO $$ BEGIN RAISE NOTICE 'a notice'; RAISE WARNING 'a warning'; END $$;\n\\echo said\n",
    )]);
    let quiet = lab.run("").expect(0).shows(&["[WARN] server: WARNING 01000: a warning", "[INFO] said"]);
    assert!(!quiet.stdout().contains("a notice"), "{quiet}");
    let _ = lab.run("--force --verbose").expect(0).shows(&["[DEBUG] server: NOTICE: a notice"]);
}

#[test]
fn a_deferred_constraint_fails_at_commit_and_is_rolled_back() {
    let lab = lab(&[(
        "001_a.sql",
        "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE q (id int REFERENCES p DEFERRABLE INITIALLY DEFERRED); INSERT INTO q VALUES (1);",
    )]);
    let _ = lab.run("").expect(1).shows(&["failed at its COMMIT", "23503"]);
    assert_eq!(lab.ask("SELECT to_regclass('p') IS NULL"), "true");
    assert_eq!(lab.ask("SELECT outcome || sqlstate FROM migration_attempts"), "failed23503");
}

#[test]
fn a_session_that_is_ended_in_the_middle_is_a_failure_of_its_file_and_never_exit_4() {
    let lab = lab(&[
        A,
        ("002_end.sql", "CREATE TABLE e (id int);\nSELECT pg_terminate_backend(pg_backend_pid());\n"),
    ]);
    let _ = lab.run("").expect(1).shows(&["Migration 002 - End failed at 002_end.sql:2:1", "57P01"]);
    assert_eq!(lab.ask("SELECT to_regclass('e') IS NULL"), "true");
    assert_eq!(
        lab.ask("SELECT outcome || sqlstate FROM migration_attempts ORDER BY id DESC LIMIT 1"),
        "failed57P01"
    );
}

#[test]
fn a_session_that_is_ended_during_commit_is_looked_up() {
    let lab = lab(&[(
        "001_end.sql",
        "CREATE TABLE e (id int);
         CREATE FUNCTION leave() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(5); RETURN NULL; END $$;
         CREATE CONSTRAINT TRIGGER leave AFTER INSERT ON e DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION leave();
         INSERT INTO e VALUES (1);",
    )]);
    let _ = lab.run("").expect(1).shows(&[
        "The connection was lost during the COMMIT of 001 - End",
        "the connection was lost before its COMMIT",
        "Nothing of 001 - End is in the database",
    ]);
    assert_eq!(lab.ask("SELECT to_regclass('e') IS NULL"), "true");
    assert_eq!(lab.ask("SELECT outcome FROM migration_attempts"), "failed");
}

#[test]
fn a_killed_run_leaves_a_trace_and_the_next_goes_on() {
    let lab = lab(&[A, ("002_slow.sql", "CREATE TABLE s (id int);\nSELECT pg_sleep(600);\n")]);
    let mut child = lab.runner("").into_command().stdout(std::process::Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while lab.ask("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND datname = current_database()") != "1" {
        assert!(Instant::now() < deadline, "the run does not get there");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // The server notices at the next message; a new run has the lock as soon as the old sessions are gone.
    lab.database.superuser().unwrap().batch_execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()").unwrap();
    let _ = lab.run("--status").expect(0).shows(&["002 - Slow: interrupted"]);
    lab.write("002_slow.sql", b"CREATE TABLE s (id int);");
    let _ = lab.run("").expect(0).shows(&["An earlier run ended in the middle of 002 - Slow"]);
    assert_eq!(
        lab.ask("SELECT string_agg(outcome, ',' ORDER BY id) FROM migration_attempts"),
        "applied,interrupted,applied"
    );
}

#[test]
fn a_second_run_waits_for_the_lock_and_then_names_its_holder() {
    let lab = lab(&[A]);
    let mut holder = lab.client();
    holder
        .batch_execute(
            "SET application_name = 'the other run'; SELECT pg_advisory_lock(x'4d53355f4d494752'::bigint)",
        )
        .unwrap();
    let started = Instant::now();
    let _ = lab.run("--lock-wait=1").expect(4).shows(&[
        "another run holds the lock",
        "the other run",
        "nothing was touched",
    ]);
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert_eq!(lab.ask("SELECT to_regclass('migration_log') IS NULL"), "true");
    drop(holder);
    let _ = lab.run("--lock-wait=5").expect(0);
}

#[test]
fn a_lock_that_is_lost_stops_the_run() {
    let lab = lab(&[
        (
            "001_a.sql",
            "CREATE TABLE l (id int);\nSELECT pg_terminate_backend(pid, 10000) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid() AND database = (SELECT oid FROM pg_database WHERE datname = current_database());\nSELECT pg_sleep(0.3);\n",
        ),
        ("002_b.sql", "CREATE TABLE m (id int);"),
    ]);
    lab.database.superuser().unwrap().batch_execute("GRANT pg_signal_backend TO ms5_user_test").unwrap();
    let _ = lab.run("").expect(1).shows(&["the advisory lock of this database was lost"]);
    assert_eq!(lab.ask("SELECT to_regclass('l') IS NULL AND to_regclass('m') IS NULL"), "true");
}

#[test]
fn a_server_without_timescaledb_is_exit_1_with_what_to_install() {
    let lab = Lab::new(Server::shared(Engine::Plain), &[A]);
    let _ = lab.run("").expect(1).shows(&[
        "this server has no TimescaleDB",
        "docker exec ms5_postgres_test psql -U ms5_user_test",
        "nothing was touched",
    ]);
    assert_eq!(lab.ask("SELECT to_regclass('migration_log') IS NULL"), "true");
}

#[test]
fn a_server_that_does_not_preload_timescaledb_says_so() {
    let server = Server::start(Engine::Pg17, &["shared_preload_libraries="]).unwrap();
    let lab = Lab::new(&server, &[A]);
    let _ = lab.run("").expect(1).shows(&["cannot create the extension", "shared_preload_libraries"]);
}

#[test]
fn a_database_left_in_a_restore_is_refused() {
    let lab = lab(&[A]);
    let mut superuser = lab.database.superuser().unwrap();
    superuser
        .batch_execute(
            "CREATE SCHEMA extensions; CREATE EXTENSION timescaledb SCHEMA extensions;
             SELECT extensions.timescaledb_pre_restore()",
        )
        .unwrap();
    for flags in ["", "--dry-run"] {
        let ran = lab.run(flags).expect(1).shows(&["in the middle of a restore"]);
        // What it says is to be done, in that order: jobs would delete rows as soon as they may.
        let said = ran.to_string();
        let quiet = said.find("UPDATE _timescaledb_config.bgw_job SET scheduled = false").unwrap();
        let end = said.find("SELECT extensions.timescaledb_post_restore();").unwrap();
        assert!(quiet < end, "{said}");
        let update = said[quiet..].lines().next().unwrap();
        superuser.batch_execute(&format!("BEGIN; {update} ROLLBACK")).unwrap();
    }
    let _ =
        lab.run("--status").expect(0).shows(&["[WARN] this database was left in the middle of a restore"]);
    assert_eq!(lab.ask("SELECT to_regclass('migration_log') IS NULL"), "true");
    superuser.batch_execute("SELECT extensions.timescaledb_post_restore()").unwrap();
    let _ = lab.run("").expect(0);
}

#[test]
fn output_that_cannot_be_written_changes_nothing_for_the_database() {
    use std::process::Stdio;
    let lab = lab(&[A, B]);
    // A reader that is gone from the start.
    let mut child = lab.runner("--verbose").into_command().stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(lab.ask("SELECT count(*) FROM migration_log WHERE success"), "2");
    assert!(lab.log().contains("All migrations completed successfully"));
    // A log folder that cannot be made.
    std::fs::write(lab.home().join("file"), "").unwrap();
    let _ = lab.run("--log-dir=file").expect(0).shows(&["[WARN] cannot open a log file"]);
    // A full disk on stdout.
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let status = lab.runner("--status").into_command().stdout(full).status().unwrap();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn classic_exit_codes_are_0_and_1() {
    let lab = lab(&[A, ("003_gap.sql", "SELECT 1;")]);
    assert_eq!(lab.runner("").env("MS5_EXIT", "classic").run().code(), 1);
    assert_eq!(lab.run("").code(), 3);
}

#[test]
fn a_commit_that_finds_no_attempt_to_end_is_none() {
    let lab = lab(&[("001_a.sql", "CREATE TABLE e (id int);\nDELETE FROM public.migration_attempts;\n")]);
    let _ = lab.run("").expect(1).shows(&[
        "Migration 001 - A failed at its COMMIT",
        "its row of public.migration_attempts is gone",
        "Nothing of 001 - A is in the database",
    ]);
    assert_eq!(lab.ask("SELECT to_regclass('e') IS NULL"), "true");
    assert_eq!(lab.ask("SELECT outcome FROM migration_attempts"), "failed");
}

#[test]
fn what_a_database_sets_for_its_sessions_changes_neither_the_text_nor_its_time() {
    let lab = lab(&[(
        "001_a.sql",
        "CREATE TABLE t (x text);\nINSERT INTO t VALUES ('a\\');\nSELECT pg_sleep(0.5);\nINSERT INTO t VALUES ('b');\n",
    )]);
    let set = |setting: &str| {
        lab.sql(&format!(
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET {setting}', current_database()); END $$"
        ));
    };
    set("standard_conforming_strings TO off");
    set("statement_timeout TO 300");
    set("transaction_timeout TO 300");
    let _ = lab.run("").expect(0);
    assert_eq!(lab.ask("SELECT string_agg(x, ',' ORDER BY x) FROM t"), "a\\,b");
    lab.write("002_b.sql", b"RESET ALL;\nINSERT INTO t VALUES ('c\\');\n");
    lab.write("003_c.sql", b"VACUUM t;\nSELECT pg_sleep(0.5);\n");
    let _ = lab.run("").expect(0);
    lab.write("004_d.sql", b"SELECT pg_sleep(60);\n");
    let _ = lab.run("--statement-timeout=0.2").expect(1).shows(&["57014"]);
}

#[test]
fn rows_that_are_changed_while_a_run_is_at_work_are_not_taken() {
    let lab = lab(&[
        ("001_a.sql", "CREATE TABLE t (id int);\nLOCK TABLE gate;\n"),
        ("002_b.sql", "COPY t FROM stdin;\n1\n2\n\\.\n"),
    ]);
    lab.sql("CREATE TABLE gate (id int)");
    let mut gate = lab.client();
    gate.batch_execute("BEGIN; LOCK TABLE gate").unwrap();
    let run = lab.runner("--lock-timeout=0").start();
    lab.wait_for("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')");
    lab.write("002_b.sql", b"COPY t FROM stdin;\n1\n3\n\\.\n");
    gate.batch_execute("COMMIT").unwrap();
    let _ = run.wait().expect(1).shows(&[
        "cannot read the COPY data",
        "002_b.sql from line 2",
        "was changed while it ran",
    ]);
    assert_eq!(lab.ask("SELECT count(*) FROM t"), "0");
}

#[test]
fn what_a_file_includes_is_part_of_it() {
    let lab = lab(&[("001_a.sql", "CREATE TABLE t (id int);\n\\ir more.inc\n")]);
    lab.write("more.inc", b"INSERT INTO t VALUES (1);\n");
    let _ = lab.run("").expect(0);
    lab.write("more.inc", b"INSERT INTO t VALUES (1);\r\n");
    let _ = lab.run("").expect(0).shows(&["0 applied, 1 already applied"]);
    lab.write("more.inc", b"INSERT INTO t VALUES (2);\n");
    let _ = lab.run("").expect(1).shows(&["001_a.sql", "--repair"]);
    let _ = lab.run("--repair").expect(0).shows(&["INSERT INTO t VALUES (2)"]);
    let _ = lab.run("").expect(0).shows(&["0 applied, 1 already applied"]);
    assert_eq!(lab.ask("SELECT string_agg(id::text, ',') FROM t"), "1");
}
