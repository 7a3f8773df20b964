//! Files with statements that cannot run inside a transaction: run one by one, taken up where they stopped.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use migration_tests::lab::Lab;
use migration_tests::server::{Engine, Server, not_run};

fn lab(files: &[(&str, &str)]) -> Lab<'static> {
    Lab::new(Server::shared(Engine::Pg17), files)
}

fn outcomes(lab: &Lab<'_>) -> String {
    lab.ask("SELECT string_agg(outcome, ',' ORDER BY id) FROM migration_attempts")
}

fn steps(lab: &Lab<'_>) -> String {
    lab.ask("SELECT string_agg(step || CASE WHEN done_at IS NULL THEN '?' ELSE '' END, ',' ORDER BY series, step) FROM migration_steps")
}

fn valid(lab: &Lab<'_>, index: &str) -> String {
    lab.ask(&format!("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('{index}')"))
}

const CONCURRENT: &str = "-- 001 - Concurrent
CREATE TABLE t (id int, a int);
INSERT INTO t SELECT i, i % 7 FROM generate_series(1, 1000) i;
SET work_mem = '5MB';
CREATE INDEX CONCURRENTLY t_a ON t (a);
VACUUM ANALYZE t;
REINDEX INDEX CONCURRENTLY t_a;
CREATE INDEX CONCURRENTLY ON t (id, a);
INSERT INTO t VALUES (-1, (current_setting('work_mem') = '5MB')::int);
";

#[test]
fn statements_that_cannot_run_inside_a_transaction_run_one_by_one() {
    let lab = lab(&[("001_a.sql", CONCURRENT), ("002_b.sql", "ALTER SYSTEM RESET work_mem;")]);
    lab.database
        .superuser()
        .unwrap()
        .batch_execute("GRANT ALTER SYSTEM ON PARAMETER work_mem TO ms5_user_test")
        .unwrap();
    let _ = lab.run("").expect(0).shows(&[
        "Executing migration 001 - Concurrent (001_a.sql), statement by statement",
        "✅ Migration 001 - Concurrent completed successfully",
    ]);
    assert_eq!(lab.ask("SELECT a FROM t WHERE id = -1"), "1", "the session's setting holds for the file");
    assert_eq!(
        lab.ask(
            "SELECT count(*) || ' ' || bool_and(indisvalid) FROM pg_index WHERE indrelid = 't'::regclass"
        ),
        "2 true"
    );
    // SET is not a step: it is repeated in every session.
    assert_eq!(steps(&lab), "1,2,3,4,5,6,7,1");
    assert_eq!(outcomes(&lab), "applied,applied");
    let _ = lab.run("").expect(0).shows(&["0 applied, 2 already applied"]);
}

#[test]
fn a_run_goes_on_at_the_statement_that_failed() {
    let text = "-- 001 - Broken
CREATE TABLE t (id int);
INSERT INTO t VALUES (1);
SET work_mem = '5MB';
VACUUM t;
INSERT INTO t SELECT 1 / x FROM switch;
INSERT INTO t VALUES (10 + (current_setting('work_mem') = '5MB')::int);
";
    let lab = lab(&[("001_a.sql", text)]);
    lab.sql("CREATE TABLE switch (x int); INSERT INTO switch VALUES (0)");
    let _ = lab.run("").expect(5).shows(&[
        "❌ Migration 001 - Broken failed at 001_a.sql:6:1",
        "22012",
        "Of 001 - Broken, 3 of 5 statements are done and stay",
        "then go on there with: migration-runner",
        "There is no way back to what was there before this run",
    ]);
    assert_eq!(steps(&lab), "1,2,3");
    let _ =
        lab.run("--status").expect(0).shows(&["001 - Broken: failed", "a part of its statements is done"]);
    // Again, with the cause still there.
    let _ = lab.run("").expect(5).shows(&["failed at 001_a.sql:6:1"]);
    assert_eq!(lab.ask("SELECT count(*) FROM t"), "1");
    lab.sql("UPDATE switch SET x = 1");
    let _ = lab.run("").expect(0);
    assert_eq!(
        lab.ask("SELECT string_agg(id::text, ',' ORDER BY id) FROM t"),
        "1,1,11",
        "once each, and the SET again"
    );
    assert_eq!(outcomes(&lab), "failed,failed,applied");
    assert_eq!(steps(&lab), "1,2,3,4,5");
    // The whole file again: nothing of the old steps counts.
    let _ = lab.run("--force").expect(5).shows(&["42P07", "Nothing of 001 - Broken is in the database"]);
}

#[test]
fn what_is_done_must_not_change_and_what_failed_may() {
    let text = "CREATE TABLE t (id int);\nVACUUM t;\nINSERT INTO t VALUES (nonsense);\n";
    let lab = lab(&[("001_a.sql", text)]);
    let _ = lab.run("").expect(5);
    lab.write("001_a.sql", text.replace("(id int)", "(id bigint)").as_bytes());
    for flags in ["", "--force"] {
        let _ = lab
            .run(flags)
            .expect(1)
            .shows(&["has changed in a part that is already executed", "001_a.sql:1:1"]);
    }
    lab.write("001_a.sql", text.replace("nonsense", "7").as_bytes());
    let _ = lab.run("").expect(0);
    assert_eq!(lab.ask("SELECT sum(id) FROM t"), "7");
}

#[test]
fn directives_override_what_was_found_and_are_checked() {
    let lab = lab(&[(
        "001_a.sql",
        "-- ms5: no-transaction\nCREATE TABLE a (id int);\nINSERT INTO a VALUES (x);\n",
    )]);
    let _ = lab.run("").expect(5);
    assert_eq!(lab.ask("SELECT to_regclass('a') IS NOT NULL"), "true", "each statement commits by itself");
    for (text, message) in [
        (
            "-- ms5: transaction\nVACUUM;",
            "001_a.sql:2:1: VACUUM cannot run inside a transaction, which the file asks for",
        ),
        (
            "BEGIN;\nCREATE INDEX CONCURRENTLY i ON t (a);\nCOMMIT;",
            "001_a.sql:2:1: CREATE INDEX CONCURRENTLY cannot run",
        ),
        ("VACUUM \\; SELECT 1;", "VACUUM joined to another statement"),
        ("VACUUM;\nCREATE TEMP TABLE x (id int);", "001_a.sql:2:1: something temporary in a file"),
        ("VACUUM;\nSET LOCAL work_mem = '1MB';", "001_a.sql:2:1: SET LOCAL in a file"),
        ("VACUUM;\nSET ROLE bob;", "001_a.sql:2:1: SET ROLE in a file"),
    ] {
        lab.write("001_a.sql", text.as_bytes());
        let _ = lab.run("").expect(3).shows(&[message]);
    }
}

#[test]
fn an_invalid_index_is_dropped_and_built_again_never_accepted() {
    // The table's own rows make the index fail: that is how most INVALID ones come about.
    let text = "-- 001 - Unique\nCREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS t_id ON t (id);\n";
    let lab = lab(&[("001_a.sql", text)]);
    lab.sql("CREATE TABLE t (id int); INSERT INTO t VALUES (1), (1)");
    let _ = lab
        .run("")
        .expect(5)
        .shows(&["23505", "an INVALID index may be left; the next run drops it and builds it again"]);
    assert_eq!(valid(&lab, "t_id"), "false");
    lab.sql("DELETE FROM t WHERE ctid = '(0,1)'");
    let _ = lab.run("").expect(0).shows(&["The index public.t_id is INVALID", "dropping it"]);
    assert_eq!(valid(&lab, "t_id"), "true");

    // Inside a transaction too; psql would take the INVALID one for the wanted one.
    assert!(lab.client().batch_execute("DROP INDEX t_id; INSERT INTO t VALUES (1)").is_ok());
    assert!(lab.client().batch_execute("CREATE UNIQUE INDEX CONCURRENTLY t_id ON t (id)").is_err());
    lab.write("002_b.sql", b"DELETE FROM t;\nCREATE UNIQUE INDEX IF NOT EXISTS t_id ON t (id);\n");
    let _ = lab.run("").expect(0).shows(&["The index public.t_id is INVALID"]);
    assert_eq!(valid(&lab, "t_id"), "true");
}

#[test]
fn an_index_without_a_name_is_not_built_twice_after_a_kill() {
    let lab =
        lab(&[("001_a.sql", "CREATE TABLE t (id int);\nCREATE INDEX CONCURRENTLY ON t (id);\nSELECT 1;\n")]);
    lab.sql("CREATE TABLE other (id int)");
    // A session with an old snapshot holds the build up in its last phase.
    let mut old = lab.client();
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM other").unwrap();
    let waiting = "SELECT EXISTS (SELECT FROM pg_stat_progress_create_index WHERE datname = current_database() AND phase LIKE 'waiting%')";
    let run = lab.runner("").start();
    lab.wait_for(waiting);
    run.signal("KILL");
    let _ = run.wait();
    drop(old);
    lab.wait_for("SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'",
    );
    let _ = lab.run("").expect(0).shows(&["An earlier run ended in the middle of 001 - A"]);
    assert_eq!(
        lab.ask(
            "SELECT count(*) || ' ' || bool_and(indisvalid) FROM pg_index WHERE indrelid = 't'::regclass"
        ),
        "1 true"
    );
    assert_eq!(outcomes(&lab), "interrupted,applied");
}

#[test]
fn reindex_concurrently_leaves_no_second_index_after_a_kill() {
    let lab = lab(&[(
        "001_a.sql",
        "CREATE TABLE t (id int);\nCREATE INDEX t_id ON t (id);\nREINDEX TABLE CONCURRENTLY t;\n",
    )]);
    lab.sql("CREATE TABLE other (id int)");
    let mut old = lab.client();
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM other").unwrap();
    let waiting = "SELECT EXISTS (SELECT FROM pg_stat_progress_create_index WHERE datname = current_database() AND phase LIKE 'waiting%')";
    let run = lab.runner("").start();
    lab.wait_for(waiting);
    run.signal("KILL");
    let _ = run.wait();
    // The old snapshot still holds the orphan up: the next run ends it.
    let next = lab.runner("").start();
    lab.wait_for("SELECT count(*) = 2 FROM migration_attempts");
    drop(old);
    let _ = next.wait().expect(0);
    assert_eq!(lab.ask("SELECT string_agg(indexrelid::regclass || ' ' || indisvalid, ',') FROM pg_index WHERE indrelid = 't'::regclass"), "t_id true");
}

#[test]
fn an_enum_value_is_used_after_it_is_committed() {
    let lab = lab(&[
        ("001_a.sql", "CREATE TYPE mood AS ENUM ('sad'); CREATE TABLE m (x mood);"),
        ("002_b.sql", "ALTER TYPE mood ADD VALUE 'glad';\nINSERT INTO m VALUES ('glad');\n"),
    ]);
    let _ = lab.run("").expect(0).shows(&["Executing migration 002 - B (002_b.sql), statement by statement"]);
    assert_eq!(lab.ask("SELECT x FROM m"), "glad");
}

#[test]
fn a_procedure_that_commits_is_not_repeated_blindly() {
    let text = "-- 001 - Commits
CREATE TABLE p (id int);
CREATE PROCEDURE fill() LANGUAGE plpgsql AS $$ BEGIN INSERT INTO p VALUES (1); COMMIT; PERFORM pg_sleep(s) FROM wait; END $$;
CALL fill();
INSERT INTO p VALUES (2);
";
    let lab = lab(&[("001_a.sql", text)]);
    lab.sql("CREATE TABLE wait (s int); INSERT INTO wait VALUES (600)");
    let run = lab.runner("").start();
    lab.wait_for_sleep();
    run.signal("KILL");
    let _ = run.wait();
    lab.sql("UPDATE wait SET s = 0");
    let _ = lab.run("").expect(5).shows(&[
        "it is not known how much of",
        "--force",
        "Of 001 - Commits, 2 of 4 statements",
    ]);
    let _ = lab.run("--force").expect(0);
    assert_eq!(lab.ask("SELECT string_agg(id::text, ',' ORDER BY id) FROM p"), "1,1,2");
}

#[test]
fn what_was_there_before_is_not_taken_for_the_result_of_a_statement_that_failed() {
    // A server of its own: databases are the server's.
    let server = Server::start(Engine::Pg17, &[]).unwrap();
    let lab = Lab::new(&server, &[("001_a.sql", "CREATE TABLE t (id int);\nCREATE DATABASE postgres;\n")]);
    for _ in 0..2 {
        let _ = lab.run("").expect(5).shows(&["42P04", "001_a.sql:2:1"]);
    }
    lab.write("001_a.sql", b"CREATE TABLE t (id int);\nCREATE DATABASE another;\n");
    let _ = lab.run("").expect(0);
    assert_eq!(lab.ask("SELECT count(*) FROM pg_database WHERE datname = 'another'"), "1");
}

#[test]
fn a_copy_and_a_dropped_index_in_a_stepwise_file() {
    let lab = lab(&[(
        "001_a.sql",
        "CREATE TABLE t (id int);\nCREATE INDEX t_id ON t (id);\nCOPY t FROM stdin;\n1\n2\n\\.\nDROP INDEX CONCURRENTLY t_id;\nALTER TABLE t ADD COLUMN b int;\n",
    )]);
    let _ = lab.run("").expect(0);
    assert_eq!(lab.ask("SELECT count(*) FROM t"), "2");
    assert_eq!(lab.ask("SELECT to_regclass('t_id') IS NULL"), "true");
}

#[test]
fn the_extension_is_updated_in_a_session_that_has_done_nothing_else() {
    let lab = lab(&[(
        "001_a.sql",
        "SET work_mem = '5MB';\nSELECT create_hypertable('h', 't');\nALTER EXTENSION timescaledb UPDATE;\nINSERT INTO h VALUES (now(), current_setting('work_mem'));\n",
    )]);
    lab.sql("CREATE EXTENSION timescaledb; CREATE TABLE h (t timestamptz NOT NULL, x text)");
    let mut session = lab.client();
    session.batch_execute("SELECT count(*) FROM timescaledb_information.hypertables").unwrap();
    let refused = session.batch_execute("ALTER EXTENSION timescaledb UPDATE").unwrap_err();
    assert!(refused.to_string().contains("db error"), "the reason for all this is gone: {refused}");
    let _ = lab.run("").expect(0);
    assert_eq!(lab.ask("SELECT x FROM h"), "5MB", "the session after it is set up again");
}

#[test]
fn timescale_statements_that_refuse_a_transaction() {
    let Some(server) = Server::community() else {
        not_run("timescale_statements_that_refuse_a_transaction");
        return;
    };
    let text = "-- 001 - Hyper
CREATE TABLE h (t timestamptz NOT NULL, v int);
SELECT create_hypertable('h', 't', chunk_time_interval => interval '1 day');
INSERT INTO h SELECT '2024-01-01'::timestamptz + i * interval '1 hour', i FROM generate_series(0, 239) i;
CREATE INDEX h_v ON h (v) WITH (timescaledb.transaction_per_chunk);
CREATE MATERIALIZED VIEW hourly WITH (timescaledb.continuous) AS SELECT time_bucket('1 day', t) AS d, sum(v) AS s FROM h GROUP BY 1;
CALL refresh_continuous_aggregate('hourly', NULL, NULL);
INSERT INTO h VALUES ('2024-02-01', 1 / (SELECT x FROM switch));
";
    let lab = Lab::new(&server, &[("001_a.sql", text)]);
    lab.sql("CREATE TABLE switch (x int); INSERT INTO switch VALUES (0)");
    let _ = lab.run("").expect(5).shows(&["6 of 7 statements are done"]);
    lab.sql("UPDATE switch SET x = 1");
    let _ = lab.run("").expect(0);
    assert_eq!(lab.ask("SELECT count(*) || ' ' || sum(s) FROM hourly WHERE d < '2024-01-20'"), "10 28680");
    assert_eq!(valid(&lab, "h_v"), "true");
}

#[test]
fn a_statement_that_commits_by_itself_is_not_tried_again() {
    let text = "-- 001 - Commits
CREATE TABLE p (id int);
CREATE PROCEDURE fill() LANGUAGE plpgsql AS $$ BEGIN INSERT INTO p VALUES (1); COMMIT; LOCK TABLE held; END $$;
CALL fill();
";
    let lab = lab(&[("001_a.sql", text)]);
    lab.sql("CREATE TABLE held (id int)");
    let mut holder = lab.client();
    holder.batch_execute("BEGIN; LOCK TABLE held").unwrap();
    let ran = lab.run("--lock-timeout=0.2").expect(5).shows(&["55P03", "what fill had committed stays"]);
    assert!(!ran.stdout().contains("trying again"), "{ran}");
    assert_eq!(lab.ask("SELECT count(*) FROM p"), "1");
    holder.batch_execute("COMMIT").unwrap();
    let _ = lab.run("").expect(5).shows(&["it is not known how much of fill was done", "failed", "--force"]);
    assert_eq!(lab.ask("SELECT count(*) FROM p"), "1");
    // The file says now that it may run again.
    lab.write("001_a.sql", text.replacen('\n', "\n-- ms5: idempotent\n", 1).as_bytes());
    let _ = lab.run("").expect(0);
    assert_eq!(lab.ask("SELECT count(*) FROM p"), "2");
}

#[test]
fn a_file_goes_on_where_it_stopped_under_another_title_too() {
    let text = |title: &str, last: &str| {
        format!("-- 001 - {title}\nCREATE TABLE t (id int);\nINSERT INTO t VALUES (1);\nVACUUM t;\n{last}\n")
    };
    let lab = lab(&[("001_a.sql", &text("Broken", "INSERT INTO t VALUES (1 / 0);"))]);
    let _ = lab.run("").expect(5).shows(&["Of 001 - Broken, 3 of 4 statements are done and stay"]);
    lab.write("001_a.sql", text("Mended", "INSERT INTO t VALUES (2);").as_bytes());
    let _ =
        lab.run("--status").expect(0).shows(&["a part of its statements is done, a run goes on behind them"]);
    let _ = lab.run("").expect(0);
    assert_eq!(lab.ask("SELECT string_agg(id::text, ',' ORDER BY id) FROM t"), "1,2");
    assert_eq!(
        lab.ask(
            "SELECT string_agg(DISTINCT migration_name || success, ',') FROM migration_log WHERE success"
        ),
        "001 - Mendedtrue"
    );
}

#[test]
fn a_failed_update_of_the_extension_is_told_though_no_session_can_be_had() {
    let lab = lab(&[("001_a.sql", "CREATE TABLE t (id int);\nALTER EXTENSION timescaledb UPDATE;\n")]);
    lab.sql("CREATE EXTENSION timescaledb");
    let mut superuser = lab.database.superuser().unwrap();
    superuser
        .batch_execute(
            "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
                 PERFORM pg_advisory_xact_lock(42); RAISE EXCEPTION 'refused by a trigger'; END $$;
             CREATE EVENT TRIGGER refuse ON ddl_command_start WHEN TAG IN ('ALTER EXTENSION') EXECUTE FUNCTION refuse();
             SELECT pg_advisory_lock(42)",
        )
        .unwrap();
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
    superuser.batch_execute("SELECT pg_advisory_unlock(42)").unwrap();
    let ran = run.wait().expect(5).shows(&["refused by a trigger", "001_a.sql:2:1"]);
    allow(true);
    assert!(!ran.stdout().contains("nothing was touched"), "{ran}");
}
