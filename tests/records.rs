//! Records keep to docs/records.schema.json, the first is start, the last is verdict, and secrets are in none.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use migration_tests::backups::Backups;
use migration_tests::lab::Lab;
use migration_tests::program::{Program, Ran, TempDir, project_root};
use migration_tests::server::{Engine, Server, Wasm};
use serde_json::{Value, json};

fn schema() -> Value {
    serde_json::from_str(&std::fs::read_to_string(project_root().join("docs/records.schema.json")).unwrap())
        .unwrap()
}

/// Checks every record of a run, and answers with the types in order.
fn check(ran: &Ran) -> Vec<String> {
    let schema = schema();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let records = ran.records();
    for record in &records {
        let errors: Vec<String> = validator.iter_errors(record).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{record}\n{}", errors.join("\n"));
    }
    let types: Vec<String> =
        records.iter().map(|record| record["type"].as_str().unwrap().to_owned()).collect();
    assert_eq!(types.first().map(String::as_str), Some("start"), "{ran}");
    assert_eq!(types.last().map(String::as_str), Some("verdict"), "{ran}");
    assert_eq!(types.iter().filter(|kind| *kind == "verdict").count(), 1);
    let verdict = records.last().unwrap();
    assert_eq!(verdict["exit"], json!(ran.code()));
    assert_eq!(verdict["ok"], json!(ran.code() == 0));
    types
}

#[test]
fn every_way_to_end_keeps_to_the_schema() {
    let server = Server::shared(Engine::Pg17);
    let lab =
        Lab::new(server, &[("001_a.sql", "CREATE TABLE a (id int);"), ("002_b.sql", "SELECT nonsense;")]);
    assert_eq!(check(&lab.run("--dry-run --json").expect(0)), ["start", "migration", "migration", "verdict"]);
    assert_eq!(check(&lab.run("--status --json").expect(0)), ["start", "migration", "migration", "verdict"]);
    assert_eq!(check(&lab.run("--plan --json").expect(0)), ["start", "statement", "statement", "verdict"]);
    let failed = lab.run("--json").expect(1);
    assert_eq!(check(&failed), ["start", "migration", "finding", "migration", "verdict"]);
    let finding = &failed.records()[2];
    assert_eq!(
        (&finding["file"], &finding["line"], &finding["column"]),
        (&json!("002_b.sql"), &json!(1), &json!(8))
    );
    assert_eq!(finding["sqlstate"], "42703");
    assert_eq!(
        failed.records()[4]["counts"],
        json!({"applied": 1, "failed": 1, "interrupted": 0, "not_begun": 0, "skipped": 0})
    );
    assert!(failed.stderr().contains("[ERROR] ❌ Migration 002 - B failed"), "human lines are on stderr");
    lab.write("002_b.sql", b"SELECT 1;");
    assert_eq!(check(&lab.run("--json").expect(0)), ["start", "migration", "verdict"]);
    lab.write("002_b.sql", b"");
    assert_eq!(check(&lab.run("--json").expect(3)), ["start", "verdict"]);
    let wrong = lab.runner("--json").env("POSTGRES_PASSWORD_TEST", "Sesame-0pen").run();
    lab.write("002_b.sql", b"SELECT 1;");
    assert_eq!(check(&wrong.expect(3)), ["start", "verdict"]);
    let wrong = lab.runner("--json").env("POSTGRES_PASSWORD_TEST", "Sesame-0pen").run().expect(3);
    assert!(!wrong.to_string().contains("Sesame-0pen"));
    assert_eq!(check(&lab.run("--json --bogus").expect(2)), ["start", "verdict"]);
    // The code under MS5_EXIT=classic is the caller's; the record keeps the real one.
    let classic = lab.runner("--json --bogus").env("MS5_EXIT", "classic").run().expect(1);
    assert_eq!(classic.records().last().unwrap()["exit"], 2);
    assert_eq!(check(&Program::tool("backup-manager").arg("--json").run().expect(2)), ["start", "verdict"]);
    let checks = |ran: &Ran| check(ran).iter().filter(|kind| *kind == "check").count();
    let validate = || {
        Program::tool("pre-validate")
            .envs(&lab.database.variables())
            .env("MS5_HOME", lab.home())
            .args(["--json", "--quick"])
    };
    let wanted = Program::tool("pre-validate").arg("--list-checks").run().expect(0).stdout().lines().count();
    assert_eq!(checks(&validate().run()), wanted);
    assert!(checks(&validate().env("DB_PORT", "1").run().expect(4)) > 8);
}

const HYPERTABLES: &str = "CREATE TABLE t (ts timestamptz NOT NULL, v int);
    SELECT create_hypertable('t', 'ts', chunk_time_interval => interval '1 day');
    INSERT INTO t SELECT '2025-03-01T12:00Z'::timestamptz + n * interval '1 hour', n FROM generate_series(0, 47) n;
    CREATE TABLE \"By Number\" (id bigint NOT NULL, v int);
    SELECT create_hypertable('\"By Number\"', 'id', chunk_time_interval => 100);
    INSERT INTO \"By Number\" SELECT n, n FROM generate_series(-100, 99) n;
    CREATE TABLE empty (ts timestamptz NOT NULL);
    SELECT create_hypertable('empty', 'ts');
    ANALYZE t;";

/// The edges of a hypertable's chunks, and which are compressed.
fn chunks<'a>(records: &'a [Value], table: &str) -> Vec<(&'a Value, &'a Value, bool)> {
    let found: Vec<&Value> =
        records.iter().filter(|record| record["type"] == "hypertable" && record["table"] == table).collect();
    assert_eq!(found.len(), 1, "{table}");
    let chunks = found[0]["chunks"].as_array().unwrap();
    assert!(chunks.iter().all(|chunk| chunk["bytes"].as_u64().unwrap() >= 8192), "{chunks:?}");
    chunks.iter().map(|chunk| (&chunk["begin"], &chunk["end"], chunk["compressed"] == true)).collect()
}

#[test]
fn hypertables_and_locks_stand_in_the_records_of_every_version() {
    for engine in [Engine::Pg17, Engine::Pg18] {
        let lab = Lab::new(Server::shared(engine), &[("001_a.sql", HYPERTABLES)]);
        let ran = lab.run("--json").expect(0);
        assert_eq!(
            check(&ran),
            ["start", "migration", "hypertable", "hypertable", "hypertable", "verdict"],
            "{engine:?}: {ran}"
        );
        let records = ran.records();
        assert!(records[1]["began"].as_f64().unwrap() > 0.0);
        assert!(records[1]["locks"].as_array().unwrap().iter().any(|lock| lock["on"] == "t"), "{ran}");
        let days =
            ["2025-03-01T00:00:00Z", "2025-03-02T00:00:00Z", "2025-03-03T00:00:00Z", "2025-03-04T00:00:00Z"]
                .map(Value::from);
        let of_days: Vec<_> = days.windows(2).map(|day| (&day[0], &day[1], false)).collect();
        assert_eq!(chunks(&records, "t"), of_days);
        let [begin, middle, end] = ["-100", "0", "100"].map(Value::from);
        assert_eq!(chunks(&records, "By Number"), [(&begin, &middle, false), (&middle, &end, false)]);
        assert!(chunks(&records, "empty").is_empty());
        let estimate = |table: &str| {
            let found =
                records.iter().find(|record| record["type"] == "hypertable" && record["table"] == table);
            found.unwrap()["rows_estimate"].clone()
        };
        assert_eq!(estimate("t"), json!(48));
        // Nobody has analyzed it, if autovacuum has not.
        assert!(estimate("By Number").is_null() || estimate("By Number").is_number());
        // Somebody who holds a chunk for himself is not waited for: there is no record then, and the run is none the worse.
        let mut holder = lab.client();
        let chunk = lab.ask("SELECT min(c::text) FROM show_chunks('t') c");
        let mut holding = holder.transaction().unwrap();
        holding.batch_execute(&format!("LOCK TABLE {chunk} IN ACCESS EXCLUSIVE MODE")).unwrap();
        let ran = lab.run("--json").expect(0);
        assert_eq!(check(&ran), ["start", "verdict"], "{ran}");
        drop(holding);
    }
}

#[test]
fn compressed_chunks_are_said_to_be() {
    let wasm = Wasm::start().unwrap();
    let home = TempDir::new("wasm").unwrap();
    std::fs::create_dir_all(home.path().join("migrations")).unwrap();
    let compressed = "ALTER TABLE t SET (timescaledb.compress); SELECT compress_chunk(min(c::text)::regclass) FROM show_chunks('t') c;";
    let text = HYPERTABLES.replace("ANALYZE t;", compressed);
    std::fs::write(home.path().join("migrations/001_a.sql"), text).unwrap();
    let run = Program::tool("migration-runner").envs(&wasm.variables()).env("MS5_HOME", home.path());
    let ran = run.args(["--json", "--unsafe-single-session"]).run().expect(0);
    assert_eq!(
        check(&ran),
        ["start", "migration", "hypertable", "hypertable", "hypertable", "verdict"],
        "{ran}"
    );
    let states: Vec<bool> =
        chunks(&ran.records(), "t").into_iter().map(|(_, _, compressed)| compressed).collect();
    assert_eq!(states, [true, false, false]);
}

#[test]
fn the_schema_can_fail() {
    let schema = schema();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let good = json!({"type": "verdict", "tool": "migration-runner", "run_id": "12345678", "time": "2026-01-01T00:00:00.000Z",
                      "ok": true, "exit": 0, "counts": {}, "seconds": 1.5, "error": null});
    assert!(validator.is_valid(&good));
    for (key, value) in
        [("ok", json!("yes")), ("type", json!("verdikt")), ("time", json!("now")), ("extra", json!(1))]
    {
        let mut bad = good.clone();
        bad[key] = value;
        assert!(!validator.is_valid(&bad), "{key}");
    }
}

#[test]
fn backups_keep_to_the_schema() {
    let backups = Backups::new(Engine::Plain, "CREATE TABLE t (id int)");
    assert_eq!(check(&backups.run("backup a --json").expect(0)), ["start", "file", "backup", "verdict"]);
    for command in ["list", "verify a", "clean --dry-run"] {
        assert_eq!(
            check(&backups.run(&format!("{command} --json")).expect(0)),
            ["start", "backup", "verdict"],
            "{command}"
        );
    }
    for command in ["verify a --deep", "restore a --force --drop-old"] {
        let ran = backups.restorer(&format!("{command} --json")).run().expect(0);
        assert_eq!(check(&ran), ["start", "backup", "verdict"], "{command}");
    }
    assert_eq!(check(&backups.run("verify nothing --json").expect(3)), ["start", "verdict"]);
    let piped = |words: &str, flag: &str| backups.restorer(words).arg("--json").arg(flag).run().expect(0);
    let (put, get) = ("--pipe-to=cat > far.tar", "--from=cat far.tar");
    assert_eq!(check(&piped("send a", put)), ["start", "file", "backup", "verdict"]);
    let fetch = format!("fetch --backup-dir={}", backups.lab.home().join("elsewhere").display());
    for (words, outcome) in [("verify", "intact"), (&*fetch, "fetched")] {
        let ran = piped(words, get);
        assert_eq!(check(&ran), ["start", "file", "backup", "verdict"], "{words}");
        assert_eq!(ran.records()[2]["outcome"], outcome);
    }
    assert_eq!(check(&piped(&fetch, get)), ["start", "backup", "verdict"]);
    assert_eq!(check(&piped("restore --force --drop-old", get)), ["start", "backup", "verdict"]);
    let made = piped("backup b", put);
    assert_eq!(check(&made), ["start", "file", "backup", "file", "backup", "verdict"]);
    assert_eq!(made.records()[4]["outcome"], "sent");
}
