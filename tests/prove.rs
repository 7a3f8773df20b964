//! `--prove`: a file that converts tables is committed only if every row is there as it was.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::thread;

use migration_tests::lab::Lab;
use migration_tests::program::project_root;
use migration_tests::server::{Engine, Server};
use serde_json::json;

/// A table of 1000 rows over ten days, promised to become a hypertable, and a second one without rows.
fn lab(convert: &str) -> Lab<'static> {
    let lab = Lab::new(Server::shared(Engine::Pg17), &[("001_convert.sql", convert)]);
    let table = |name: &str| json!({"table": name, "time_column": "ts", "chunk_interval": "1 day"});
    let promised = json!({"hypertables": [table("public.rows"), table("public.others")]});
    lab.write("expected.json", promised.to_string().as_bytes());
    lab.database.superuser().unwrap().batch_execute("CREATE EXTENSION timescaledb").unwrap();
    lab.sql(
        "CREATE TABLE rows (ts timestamptz NOT NULL, value int);
         INSERT INTO rows SELECT '2025-03-01 00:00+00'::timestamptz + n * interval '864 seconds', n
         FROM generate_series(0, 999) n;
         CREATE TABLE others (ts timestamptz NOT NULL)",
    );
    lab
}

const CONVERT: &str =
    "SELECT create_hypertable('rows', by_range('ts', INTERVAL '1 day'), migrate_data => true);";

fn is_hypertable(lab: &Lab<'_>, table: &str) -> String {
    lab.ask(&format!(
        "SELECT EXISTS (SELECT FROM timescaledb_information.hypertables WHERE hypertable_name = '{table}')"
    ))
}

#[test]
fn rows_that_are_as_they_were_are_committed_and_the_cost_is_told() {
    let lab = lab(CONVERT);
    let ran = lab.run("--prove --json").expect(0).shows(&[
        "Rows of public.rows: all 1000 are there as they were, proven under the lock",
        "The proof took ",
        "while others could not write",
    ]);
    let records = ran.records();
    let migration = records.iter().find(|record| record["type"] == "migration").unwrap();
    let proof = &migration["proof"];
    assert_eq!(
        (&proof["tables"][0]["table"], &proof["tables"][0]["rows"]),
        (&json!("public.rows"), &json!(1000))
    );
    assert!(
        proof["seconds_before"].as_f64().unwrap() > 0.0 && proof["seconds_after"].as_f64().unwrap() > 0.0
    );
    assert_eq!(proof["tables"].as_array().unwrap().len(), 1, "{ran}");
    assert_eq!((is_hypertable(&lab, "rows"), is_hypertable(&lab, "others")), ("true".into(), "false".into()));
    // The session's settings are the file's own again, and nothing is proven twice.
    let again = lab.run("--prove --force").expect(5);
    assert!(!again.to_string().contains("proven under the lock"), "{again}");
}

#[test]
fn one_row_less_or_another_value_and_nothing_is_committed() {
    for (tamper, why) in [
        (
            "DELETE FROM rows WHERE value = 777;",
            "1 row of 2025-03-08 (UTC) lost: 100 before, 99 now",
        ),
        (
            "UPDATE rows SET value = -1 WHERE value = 5;",
            "rows of 2025-03-01 (UTC) changed: 100 rows before and now, with other content",
        ),
        (
            "DELETE FROM rows WHERE value = 5; INSERT INTO rows VALUES ('2025-03-01 12:00+00', 5);",
            "rows of 2025-03-01 (UTC) changed",
        ),
        ("INSERT INTO rows VALUES ('2025-03-01 12:00+00', 5);", "1 row more of 2025-03-01 (UTC) than before"),
        ("ALTER TABLE rows DROP COLUMN value;", "column value is gone"),
        ("TRUNCATE rows;", "100 rows of 2025-03-01 (UTC) lost"),
        (
            "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN DELETE FROM rows WHERE value = 7; RETURN NULL; END $$;
             CREATE TABLE bait (id int);
             CREATE CONSTRAINT TRIGGER late AFTER INSERT ON bait DEFERRABLE INITIALLY DEFERRED
                 FOR EACH ROW EXECUTE FUNCTION late();
             INSERT INTO bait VALUES (1);",
            "1 row of 2025-03-01 (UTC) lost",
        ),
    ] {
        let lab = lab(&format!("{CONVERT}\n{tamper}\nSET LOCAL timezone = 'Asia/Tokyo';"));
        let before = lab.ask("SELECT sum(hashtext(r::text)) FROM rows r");
        let ran = lab.run("--prove").expect(1).shows(&["does not leave every row as it was", "public.rows: ", why]);
        assert_eq!(lab.ask("SELECT sum(hashtext(r::text)) FROM rows r"), before, "{ran}");
        assert_eq!(is_hypertable(&lab, "rows"), "false", "{ran}");
        assert_eq!(lab.ask("SELECT outcome FROM migration_attempts"), "failed", "{ran}");
        // Without the flag it is the file's own affair.
        let _ = lab.run("").expect(0);
    }
}

#[test]
fn writers_wait_for_the_proof_and_readers_do_not() {
    let lab = lab(&format!("SELECT pg_sleep(6);\n{CONVERT}"));
    thread::scope(|scope| {
        let run = scope.spawn(|| lab.run("--prove").expect(0));
        lab.wait_for_sleep();
        assert_eq!(lab.ask("SELECT count(*) FROM rows"), "1000", "a reader waits for nobody");
        let writer =
            lab.client().batch_execute("SET lock_timeout = '100ms'; INSERT INTO rows VALUES (now(), -1)");
        assert_eq!(writer.unwrap_err().code().unwrap().code(), "55P03", "a writer waits");
        lab.sql("INSERT INTO rows VALUES (now(), -1)");
        let _ = run.join().unwrap().shows(&["all 1000 are there"]);
    });
    assert_eq!(lab.ask("SELECT count(*) FROM rows"), "1001");
}

#[test]
fn a_table_that_others_write_to_is_tried_again() {
    let lab = lab(CONVERT);
    let mut writer = lab.client();
    writer.batch_execute("BEGIN; INSERT INTO rows VALUES (now(), -1)").unwrap();
    thread::scope(|scope| {
        let run = scope.spawn(|| lab.run("--prove --lock-timeout=3").expect(0));
        for _ in 0..2 {
            lab.wait_for(
                "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'rows'::regclass AND NOT granted)",
            );
            lab.wait_for(
                "SELECT NOT EXISTS (SELECT FROM pg_locks WHERE relation = 'rows'::regclass AND NOT granted)",
            );
        }
        writer.batch_execute("COMMIT").unwrap();
        let _ = run.join().unwrap().shows(&["did not get a lock in time", "all 1001 are there as they were"]);
    });
    let mut holder = lab.client();
    holder.batch_execute("BEGIN; LOCK TABLE others").unwrap();
    let free = self::lab(CONVERT);
    let _ = free.run("--prove --lock-timeout=3 --lock-retries=0").expect(0);
}

#[test]
fn what_cannot_be_proven_is_refused() {
    let lab = lab(
        "CREATE INDEX CONCURRENTLY later ON rows (value); SELECT create_hypertable('rows', by_range('ts'));",
    );
    let _ =
        lab.run("--prove").expect(1).shows(&["001_convert.sql cannot be proven", "statement by statement"]);
    assert_eq!(lab.ask("SELECT to_regclass('later') IS NULL"), "true");

    let hidden = self::lab(
        "DO $$ DECLARE name text := 'ro' || 'ws'; BEGIN
             PERFORM create_hypertable(name::regclass, by_range('ts'), migrate_data => true); END $$;",
    );
    let _ = hidden
        .run("--prove")
        .expect(1)
        .shows(&["is not proven: it converts public.rows", "does not name that table"]);
    assert_eq!(is_hypertable(&hidden, "rows"), "false");

    let _ = hidden.run("--prove --status").expect(2).shows(&["--prove goes with a run"]);
    let _ = hidden.run("--expected=a.json").expect(2).shows(&["--expected goes with --prove only"]);
    let _ = hidden.run("--prove --expected=none.json").expect(3).shows(&["there is no file none.json"]);
    std::fs::remove_file(hidden.migrations().join("expected.json")).unwrap();
    let _ = hidden.run("--prove").expect(3).shows(&["--prove has nothing to prove"]);
}

#[test]
fn the_nine_files_keep_every_row() {
    let lab = Lab::new(Server::shared(Engine::Pg17), &[]);
    let field = project_root().join("tests/fixtures/field");
    let files = ["schema.sql", "reference.sql", "data.sql"].map(|name| field.join(name));
    let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    let _ = lab.database.psql_files(&[], &files).expect(0);
    let folder = project_root().join("migrations");
    let ran = lab.runner("--prove --json").arg("--migrations-dir").arg(&folder).run().expect(0);
    let records = ran.records();
    let proven: Vec<&str> = (records.iter())
        .filter_map(|record| record["proof"]["tables"].as_array())
        .flatten()
        .map(|table| table["table"].as_str().unwrap())
        .collect();
    assert_eq!(proven.len(), 5, "{proven:?}");
}
