//! post-validate on real servers: what is whole passes in the spec's words, each thing that is broken is found, nothing is
//! left behind and nobody waits.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use migration_tests::bouncer::Bouncer;
use migration_tests::lab::Lab;
use migration_tests::program::{Program, Ran, project_root};
use migration_tests::server::{Engine, Server, not_run};
use serde_json::{Value, json};

fn migrations() -> PathBuf {
    project_root().join("migrations")
}

/// A database as it is in the field, migrated by the real runner.
fn migrated(server: &Server) -> Lab<'_> {
    let lab = Lab::new(server, &[]);
    let field = project_root().join("tests/fixtures/field");
    let files = ["schema.sql", "reference.sql", "data.sql"].map(|name| field.join(name));
    let files: Vec<&std::path::Path> = files.iter().map(PathBuf::as_path).collect();
    let _ = lab.database.psql_files(&[], &files).expect(0);
    let _ = lab.runner("").arg("--migrations-dir").arg(migrations()).run().expect(0);
    lab
}

fn tool(lab: &Lab<'_>, arguments: &str) -> Program {
    Program::tool("post-validate")
        .envs(&lab.database.variables())
        .env("MS5_HOME", lab.home())
        .current_dir(lab.home())
        .args(arguments.split_whitespace())
}

fn validate(lab: &Lab<'_>, arguments: &str) -> Ran {
    tool(lab, arguments).arg("--migrations-dir").arg(migrations()).run()
}

/// The records of a run that fails, every one of them checked against the schema.
fn records(ran: &Ran) -> Vec<Value> {
    let text = std::fs::read_to_string(project_root().join("docs/records.schema.json")).unwrap();
    let schema: Value = serde_json::from_str(&text).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let records = ran.records();
    for record in &records {
        let errors: Vec<String> = validator.iter_errors(record).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{record}\n{}", errors.join("\n"));
    }
    assert_eq!(records.first().unwrap()["type"], "start", "{ran}");
    assert_eq!(records.last().unwrap()["type"], "verdict", "{ran}");
    records
}

/// Runs once more where a second, which the tools allow themselves, was too short for this machine.
fn unhurried(run: impl Fn() -> Ran) -> Ran {
    let ran = run();
    if ran.to_string().contains("Busy: ") { run() } else { ran }
}

/// Checks that a run has found something: check, verdict, object (a part of it).
fn finds(records: &[Value], id: &str, verdict: &str, object: &str) {
    let found = records.iter().any(|record| {
        record["type"] == "check"
            && record["id"] == id
            && record["verdict"] == verdict
            && record["object"].as_str().unwrap_or_default().contains(object)
    });
    assert!(found, "no {verdict} of {id} on {object:?} in\n{}", lines(records));
}

fn lines(records: &[Value]) -> String {
    records.iter().map(|record| format!("{record}\n")).collect()
}

/// That the texts stand in the output in this order.
fn in_order(output: &str, texts: &[&str]) {
    let mut rest = output;
    for text in texts {
        let at =
            rest.find(text).unwrap_or_else(|| panic!("{text:?} is not there, or not in order:\n{output}"));
        rest = &rest[at + text.len()..];
    }
}

const HYPERTABLES: [&str; 5] = [
    "metric_hist",
    "oee_calculations",
    "energy_consumption",
    "production_kpis",
    "production_context_history",
];

/// Rows of every table and the state of every sequence.
fn content(lab: &Lab<'_>) -> String {
    let tables = lab
        .client()
        .query(
            "SELECT format('SELECT %L || count(*) FROM %I.%I', relname || ' ', relnamespace::regnamespace, relname)
             FROM pg_class WHERE relkind = 'r'
               AND relnamespace IN ('factory_telemetry'::regnamespace, 'public'::regnamespace)
             UNION ALL
             SELECT format('SELECT %L || last_value || is_called FROM %I.%I', relname || ' ',
                           relnamespace::regnamespace, relname)
             FROM pg_class WHERE relkind = 'S'
               AND relnamespace IN ('factory_telemetry'::regnamespace, 'public'::regnamespace) ORDER BY 1",
            &[],
        )
        .unwrap();
    let chunks = lab.ask("SELECT count(*) FROM timescaledb_information.chunks");
    let rows: Vec<String> = tables.iter().map(|row| lab.ask(row.get(0))).collect();
    format!("{chunks} chunks\n{}", rows.join("\n"))
}

#[test]
fn a_migrated_database_passes_in_the_words_of_the_spec_and_is_left_as_it_was() {
    let lab = migrated(Server::shared(Engine::Pg17));
    let (before, rows) = (lab.database.inventory(), content(&lab));
    let begun = Instant::now();
    let ran = validate(&lab, "").expect(0);
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    let validated: Vec<String> = HYPERTABLES
        .iter()
        .map(|name| format!("[SUCCESS] Hypertable validated: factory_telemetry.{name}\n"))
        .collect();
    let mut wanted = vec![
        "[INFO] Starting MS5.0 post-migration validation\n",
        "[INFO] Environment: test\n",
        "[SUCCESS] Database connection successful\n",
        "[SUCCESS] All migrations completed successfully\n",
        "[SUCCESS] All expected schemas validated\n",
        "[SUCCESS] Found 49 tables in factory_telemetry schema\n",
    ];
    wanted.extend(validated.iter().map(String::as_str));
    wanted.extend([
        "[SUCCESS] All expected hypertables validated\n",
        "[SUCCESS] Data integrity test passed\n",
        "[SUCCESS] TimescaleDB functions validated\n",
        "[SUCCESS] ✅ Post-migration validation passed\n",
    ]);
    in_order(&ran.stdout(), &wanted);
    // The log file has the same lines below its header.
    let log = std::fs::read_dir(lab.home().join("logs/validation")).unwrap().next().unwrap().unwrap();
    assert!(log.file_name().to_string_lossy().starts_with("post_migration_validation_test_"));
    let log = std::fs::read_to_string(log.path()).unwrap();
    assert!(log.contains("Environment: test\n") && log.contains("Run: "), "{log}");
    in_order(&log, &wanted);

    // With everything that can be asked for, strictly, as records on stdout and in a file.
    let report = lab.home().join("report.jsonl");
    let line = format!("--performance-test --strict --json --report={}", report.display());
    let ran = unhurried(|| validate(&lab, &line)).expect(0);
    let all = records(&ran);
    assert_eq!(std::fs::read_to_string(&report).unwrap(), ran.stdout());
    for (id, verdict) in [
        ("ledger-files", "pass"),
        ("columns", "pass"),
        ("compression", "info"),
        ("continuous-aggregates", "info"),
        ("chunk-exclusion", "pass"),
        ("compression-savings", "skipped"),
        ("wal-rate", "info"),
    ] {
        finds(&all, id, verdict, "");
    }
    assert_eq!(
        all.iter().filter(|record| record["id"] == "queries" && record["verdict"] == "pass").count(),
        15
    );
    assert_eq!(all.last().unwrap()["counts"]["failed"], 0);
    // A superuser may switch keys and triggers off; the result is the same.
    let server = Server::shared(Engine::Pg17);
    let as_superuser = || {
        tool(&lab, "--strict")
            .env("DB_USER", server.variable("MS5_SANDBOX_SUPERUSER"))
            .env("POSTGRES_PASSWORD_TEST", server.variable("MS5_SANDBOX_SUPERUSER_PASSWORD"))
            .arg("--migrations-dir")
            .arg(migrations())
            .run()
    };
    let _ = unhurried(as_superuser).expect(0).shows(&["Data integrity test passed"]);
    let _ = validate(&lab, "--no-data-integrity").expect(0).shows(&["--no-data-integrity leaves it out"]);

    assert_eq!(rows, content(&lab), "rows, sequences and chunks");
    let differences: Vec<String> =
        before.compare(&lab.database.inventory()).iter().map(ToString::to_string).collect();
    assert!(differences.is_empty(), "{differences:?}");
}

#[test]
fn the_newest_versions_pass_too() {
    let lab = migrated(Server::shared(Engine::Pg18));
    let ran = unhurried(|| validate(&lab, "--performance-test --strict"));
    let _ = ran.expect(0).shows(&["Data integrity test passed"]);
}

#[test]
fn everything_that_is_broken_is_found_in_one_run() {
    let lab = migrated(Server::shared(Engine::Pg17));
    lab.sql(
        "SET search_path TO factory_telemetry, public;
         ALTER TABLE metric_def DROP COLUMN unit;
         ALTER TABLE metric_def ALTER COLUMN description DROP NOT NULL;
         ALTER TABLE metric_def ALTER COLUMN min_value SET NOT NULL;
         ALTER TABLE fault_event ALTER COLUMN duration_s TYPE numeric;
         ALTER TABLE maintenance_log RENAME TO maintenance_book;
         ALTER TABLE plc_config ADD CONSTRAINT named CHECK (name <> '') NOT VALID;
         SELECT set_chunk_time_interval('factory_telemetry.oee_calculations', INTERVAL '1 day');
         DROP VIEW public.v_faults_active;
         CREATE OR REPLACE FUNCTION failing() RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RAISE EXCEPTION ''no''; END';
         DROP VIEW public.v_andon_escalation_statistics;
         CREATE VIEW public.v_andon_escalation_statistics AS SELECT failing() AS date;
         DROP FUNCTION maintain_tables();
         ALTER TABLE report_access_logs DISABLE TRIGGER trigger_update_report_download_count;
         TRUNCATE report_permissions;
         ALTER TABLE energy_consumption ADD CONSTRAINT plenty CHECK (power_consumption_kw > 5) NOT VALID;",
    );
    lab.sql("REFRESH MATERIALIZED VIEW factory_telemetry.mv_oee_summary WITH NO DATA");
    // Two rows that are alike leave an invalid index behind, as in the field.
    lab.sql("CREATE TABLE factory_telemetry.twins AS SELECT 1 AS a FROM generate_series(1, 2)");
    assert!(
        lab.client()
            .batch_execute("CREATE UNIQUE INDEX CONCURRENTLY twins_a ON factory_telemetry.twins (a)")
            .is_err()
    );
    lab.sql(
        "UPDATE migration_log SET checksum = repeat('0', 64) WHERE migration_name LIKE '002%';
         UPDATE migration_attempts SET checksum = repeat('0', 64) WHERE migration_name LIKE '002%';
         UPDATE migration_log SET success = false, error_message = 'out of luck' WHERE migration_name LIKE '003%';
         UPDATE migration_log SET applied_at = '2024-01-15', checksum = NULL, attempt_id = NULL
             WHERE migration_name LIKE '004%';
         DELETE FROM migration_log WHERE migration_name LIKE '009%';
         UPDATE migration_attempts SET outcome = 'running', finished_at = NULL WHERE migration_name LIKE '008%';
         INSERT INTO migration_log (migration_name, migration_file) VALUES ('042 - Of Others', '042_of_others.sql');
         INSERT INTO migration_paused_jobs (job_id, job, run_id) VALUES (1042, 'a job', 'r')",
    );
    let ran = validate(&lab, "--json").expect(1);
    let found = records(&ran);
    for (id, verdict, object) in [
        ("ledger-files", "fail", "002_"),
        ("ledger-files", "fail", "003_"),
        ("ledger-files", "fail", "004_"),
        ("ledger-files", "fail", "008_"),
        ("ledger-files", "fail", "009_"),
        ("ledger-strangers", "warn", "042_of_others.sql"),
        ("ledger-attempts", "warn", "008 - "),
        ("ledger-jobs", "warn", ""),
        ("tables", "fail", "factory_telemetry.maintenance_log"),
        ("columns", "fail", "metric_def.unit"),
        ("columns", "fail", "metric_def.description"),
        ("columns", "warn", "metric_def.min_value"),
        ("columns", "fail", "fault_event.duration_s"),
        ("functions", "fail", "maintain_tables()"),
        ("triggers", "fail", "trigger_update_report_download_count"),
        ("reference-rows", "info", "report_permissions"),
        ("hypertables", "fail", "oee_calculations"),
        ("hypertables", "pass", "metric_hist"),
        ("indexes", "fail", "twins_a"),
        ("constraints", "fail", "plc_config.named"),
        ("views", "fail", "public.v_faults_active"),
        ("views-select", "fail", "public.v_andon_escalation_statistics"),
        ("views-select", "fail", "mv_oee_summary"),
        ("data-integrity", "info", "energy_consumption"),
    ] {
        finds(&found, id, verdict, object);
    }
    for (record, text) in [
        ("002_", "--repair"),
        ("003_", "out of luck"),
        ("004_", "the old scripts"),
        ("009_", "never applied"),
    ] {
        let record =
            found.iter().find(|one| one["object"].as_str().is_some_and(|it| it.starts_with(record))).unwrap();
        assert!(record.to_string().contains(text), "{text}: {record}");
    }
    // Each failure says what to do.
    for record in found.iter().filter(|record| record["verdict"] == "fail") {
        assert!(record["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()), "{record}");
    }
    assert!(ran.stderr().contains("[ERROR] ❌ Post-migration validation failed: "), "{ran}");
    // The rest is still looked at.
    finds(&found, "timescaledb-functions", "pass", "");
    finds(&found, "wal-rate", "info", "");
}

#[test]
fn a_table_that_is_locked_is_a_warning_and_nobody_waits() {
    let lab = migrated(Server::shared(Engine::Pg17));
    let mut other = lab.client();
    let mut lock = other.transaction().unwrap();
    lock.batch_execute("LOCK TABLE factory_telemetry.metric_hist IN ACCESS EXCLUSIVE MODE").unwrap();
    let ran = tool(&lab, "--json")
        .arg("--migrations-dir")
        .arg(migrations())
        .run_within(Duration::from_secs(60))
        .expect(0);
    finds(&records(&ran), "data-integrity", "warn", "metric_hist");
    lock.batch_execute("LOCK TABLE factory_telemetry.oee_calculations, factory_telemetry.production_lines")
        .unwrap();
    let begun = Instant::now();
    let ran = tool(&lab, "--json --strict").arg("--migrations-dir").arg(migrations()).run().expect(1);
    let found = records(&ran);
    finds(&found, "views-select", "warn", "oee_");
    finds(&found, "data-integrity", "warn", "oee_calculations");
    finds(&found, "data-integrity", "warn", "metric_hist");
    assert!(!lines(&found).contains("\"fail\""), "{ran}");
    assert!(!ran.stderr().contains("SET LOCAL"), "{ran}");
    assert!(ran.stderr().contains("with --strict a warning is a failure"), "{ran}");
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    drop(lock);
    let _ = validate(&lab, "").expect(0);
}

#[test]
fn what_is_lacking_altogether_is_named() {
    let plain = Lab::new(Server::shared(Engine::Plain), &[]);
    let _ = validate(&plain, "").expect(1).shows(&[
        "❌ The extension timescaledb is not on this server",
        "❌ There is no ledger in this database",
        "❌ The schema factory_telemetry is missing",
        "Next: migration-runner --environment=test",
    ]);
    // A database without the extension on a server that has it, and before any migration.
    let empty = Lab::new(Server::shared(Engine::Pg17), &[]);
    let _ = validate(&empty, "")
        .expect(1)
        .shows(&["❌ The extension timescaledb is not created in this database"]);

    // Nobody answers.
    let gone =
        tool(&empty, "--json").env("DB_PORT", "1").arg("--migrations-dir").arg(migrations()).run().expect(4);
    let found = records(&gone);
    assert_eq!((found.len(), &found[1]["exit"]), (2, &json!(4)));
    // Wrong words, wrong files.
    let _ = validate(&empty, "--performance").expect(2).shows(&["did you mean --performance-test?"]);
    let _ = validate(&empty, "--expected=/nowhere.json").expect(3).shows(&["there is no file /nowhere.json"]);
    let _ = validate(&empty, "--report=/nowhere/report").expect(3).shows(&["cannot write the report"]);
    std::fs::write(empty.home().join("wrong.json"), r#"{"tables": 1}"#).unwrap();
    let _ = validate(&empty, "--expected=wrong.json").expect(3).shows(&["the key tables must be an object"]);
}

#[test]
fn a_server_under_strain_is_told_of() {
    let server = Server::start(Engine::Pg17, &["max_connections=30", "autovacuum=off"]).unwrap();
    let lab = Lab::new(&server, &[("001_a.sql", "CREATE TABLE a (id int);")]);
    lab.write(
        "expected.json",
        br#"{"queries": [
            {"name": "slow", "sql": "SELECT pg_sleep(0.2)", "max_ms": 50},
            {"name": "wrong", "sql": "SELECT 1 / 0", "max_ms": 50},
            {"name": "quick", "sql": "SELECT 1", "max_ms": 10000}]}"#,
    );
    let _ = lab.run("").expect(0);
    let look = |arguments: &str| records(&tool(&lab, &format!("--json {arguments}")).run());
    let well = look("");
    for id in ["connections", "dead-tuples", "transactions"] {
        finds(&well, id, "pass", "");
    }
    lab.sql("INSERT INTO a SELECT generate_series(1, 20000)");
    lab.sql("DELETE FROM a WHERE id % 2 = 0");
    lab.wait_for("SELECT n_dead_tup >= 10000 FROM pg_stat_user_tables WHERE relname = 'a'");
    let mut sessions: Vec<_> = (0..23).map(|_| lab.client()).collect();
    sessions.push(lab.database.superuser().unwrap());
    sessions[0].batch_execute("SET application_name = 'the old one'; BEGIN; SELECT 1").unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    let found = look("--performance-test --max-transaction=1");
    finds(&found, "connections", "warn", "");
    finds(&found, "dead-tuples", "warn", "public.a");
    finds(&found, "transactions", "warn", "");
    finds(&found, "queries", "fail", "slow");
    finds(&found, "queries", "fail", "wrong");
    finds(&found, "queries", "pass", "quick");
    assert!(lines(&found).contains("the old one"), "{}", lines(&found));
    finds(&look(""), "transactions", "pass", "");
}

#[test]
fn a_pooler_that_drops_the_time_limits_is_refused() {
    let lab = Lab::new(Server::shared(Engine::Pg17), &[("001_a.sql", "CREATE TABLE a (id int);")]);
    let settings = ["pool_mode=session", "ignore_startup_parameters=options"];
    let bouncer = Bouncer::start(Server::shared(Engine::Pg17), &settings).unwrap();
    let ran = tool(&lab, "").envs(&bouncer.variables()).run();
    let _ = ran.expect(3).shows(&["drops the settings", "connect to the server itself"]);
}

#[test]
fn a_folder_that_promises_nothing_is_a_warning() {
    let lab = Lab::new(Server::shared(Engine::Pg17), &[("001_a.sql", "CREATE TABLE a (id int);")]);
    let _ = lab.run("").expect(0);
    let _ = tool(&lab, "").run().expect(0).shows(&[
        "[WARN] Nothing is promised",
        "All migrations completed successfully",
        "Database size: ",
    ]);
    let _ = tool(&lab, "--strict").run().expect(1);
    // A hypertable of any name and shape, numbers for time, keys of every kind: nothing of MS5.0 is compiled in.
    lab.sql(
        "CREATE TYPE mood AS ENUM ('calm', 'wild');
         CREATE DOMAIN short AS varchar(4) CHECK (value <> '');
         CREATE SCHEMA \"Odd one\";
         CREATE TABLE \"Odd one\".parents (a int, b text, PRIMARY KEY (a, b));
         CREATE TABLE \"Odd one\".\"T\" (
             \"Id\" int GENERATED ALWAYS AS IDENTITY, tick bigint NOT NULL, m mood NOT NULL, s short NOT NULL,
             n numeric(3,3) NOT NULL, i interval NOT NULL, j json NOT NULL, x text[] NOT NULL, ip inet NOT NULL,
             r int4range NOT NULL, bits bit(5) NOT NULL, raw bytea NOT NULL, day date NOT NULL, c char(2) NOT NULL,
             twice bigint GENERATED ALWAYS AS (tick * 2) STORED, pa int NOT NULL, pb text NOT NULL,
             FOREIGN KEY (pa, pb) REFERENCES \"Odd one\".parents, PRIMARY KEY (\"Id\", tick));
         SELECT create_hypertable('\"Odd one\".\"T\"', 'tick', chunk_time_interval => 1000);",
    );
    std::fs::write(
        lab.home().join("migrations/expected.json"),
        r#"{"schemas": ["Odd one"], "hypertables": [{"table": "\"Odd one\".\"T\"", "time_column": "tick", "chunk_interval": 1000}]}"#,
    )
    .unwrap();
    // No row to refer to: left out for this role, done by a superuser.
    let _ = tool(&lab, "")
        .run()
        .expect(0)
        .shows(&["\"Odd one\".parents has no row that a new row could refer to"]);
    lab.sql("INSERT INTO \"Odd one\".parents VALUES (1, 'x')");
    let passed = ["Hypertable validated: \"Odd one\".\"T\"", "Data integrity test passed"];
    let _ = tool(&lab, "--strict").run().expect(0).shows(&passed);
    assert_eq!(lab.ask("SELECT count(*) FROM timescaledb_information.chunks"), "0");
    lab.sql(
        "INSERT INTO \"Odd one\".\"T\" (tick, m, s, n, i, j, x, ip, r, bits, raw, day, c, pa, pb)
         SELECT t, 'calm', 'a', 0, '1 s', '{}', '{}', '::1', 'empty', '00000', '', now(), '', 1, 'x'
         FROM (VALUES (500), (1500)) v (t)",
    );
    let _ = tool(&lab, "--strict --performance-test").run().expect(0).shows(&passed);
    assert_eq!(lab.ask("SELECT count(*) FROM \"Odd one\".\"T\""), "2");
    // A trigger that might leave something behind keeps the probe away.
    lab.sql(
        "CREATE FUNCTION fires() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
         CREATE TRIGGER fires BEFORE INSERT ON \"Odd one\".\"T\" FOR EACH ROW EXECUTE FUNCTION fires();",
    );
    let _ = tool(&lab, "").run().expect(0).shows(&["its trigger fires would fire"]);
}

#[test]
fn the_list_of_checks_is_what_the_documentation_says() {
    let listed = Program::tool("post-validate").arg("--list-checks").run().expect(0).stdout();
    let text = std::fs::read_to_string(project_root().join("docs/checks.md")).unwrap();
    let section =
        text.split("\n## ").find(|section| section.starts_with("post-validate")).expect("a section");
    let documented: Vec<&str> =
        section.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| id |")).collect();
    assert_eq!(documented, listed.lines().collect::<Vec<_>>());
    assert!(documented.len() > 30, "{}", documented.len());
    let _ = Program::tool("post-validate")
        .arg("--help")
        .run()
        .expect(0)
        .shows(&["--performance-test", "Exit codes"]);
}

#[test]
fn the_gate_opens_for_a_check_and_a_real_run_only() {
    let lab = Lab::new(Server::shared(Engine::Pg17), &[("001_a.sql", "CREATE TABLE a (id int);")]);
    let dry = lab.run("--json --dry-run").expect(0).stdout();
    let real = lab.run("--json").expect(0).stdout();
    let status = lab.run("--json --status").expect(0).stdout();
    // pre-validate is a tool of its own: its records are made of the runner's identity.
    let checked: String = real
        .lines()
        .filter(|line| line.contains("\"type\":\"start\"") || line.contains("\"type\":\"verdict\""))
        .map(|line| {
            format!(
                "{}\n",
                line.replace("migration-runner", "pre-validate")
                    .replace("\"run_id\":\"", "\"run_id\":\"pre-")
            )
        })
        .collect();
    for (records, why) in [
        (String::new(), "there is no record of pre-validate"),
        (real.clone(), "there is no record of pre-validate"),
        (checked.clone(), "there is no record of migration-runner"),
        (format!("{checked}{dry}"), "it was a dry run"),
        (format!("{checked}{status}"), "it only showed the status"),
        (checked.replace("\"ok\":true", "\"ok\":false"), "pre-validate did not pass"),
    ] {
        let ran = tool(&lab, "--gate=-").input(records).run().expect(1).shows(&[
            "the gate is closed",
            why,
            "nothing was touched",
        ]);
        assert!(!ran.stdout().contains("Database connection"), "{ran}");
    }
    let story = format!("{checked}{real}");
    let ran = tool(&lab, "--gate=- --json").input(story.clone()).run().expect(0);
    assert!(ran.stdout().starts_with(&story), "the records that were read come first");
    std::fs::write(lab.home().join("story"), &story).unwrap();
    let _ = tool(&lab, "--gate=story").run().expect(0).shows(&["The gate is open"]);
    let other = Lab::new(Server::shared(Engine::Pg17), &[("001_a.sql", "CREATE TABLE a (id int);")]);
    let _ = tool(&other, "--gate=-").input(story).run().expect(1).shows(&["looked at another database"]);
}

#[test]
fn under_the_timescale_licence() {
    let Some(server) = Server::community() else {
        not_run("under_the_timescale_licence");
        return;
    };
    let lab = migrated(&server);
    let all = records(&validate(&lab, "--json --strict --performance-test").expect(0));
    for (id, verdict) in [
        ("compression", "pass"),
        ("compression-policies", "pass"),
        ("continuous-aggregates", "pass"),
        ("refresh-policies", "pass"),
        ("jobs", "pass"),
        ("compression-savings", "info"),
    ] {
        finds(&all, id, verdict, "");
    }
    lab.sql(
        "SET search_path TO factory_telemetry, public;
         SELECT remove_compression_policy('metric_hist');
         SELECT alter_job(job_id, scheduled => false) FROM timescaledb_information.jobs
             WHERE proc_name ~ 'compression|columnstore' AND hypertable_name = 'production_kpis';
         SELECT remove_continuous_aggregate_policy('oee_hourly');
         DROP MATERIALIZED VIEW kpi_daily;
         CREATE VIEW kpi_daily AS SELECT now() AS bucket;
         SELECT remove_compression_policy('oee_calculations');
         ALTER TABLE oee_calculations SET (timescaledb.compress_segmentby = 'line_id');
         SELECT add_compression_policy('oee_calculations', INTERVAL '3 days');",
    );
    let found = records(&validate(&lab, "--json").expect(1));
    for (id, verdict, object) in [
        ("compression-policies", "fail", "metric_hist"),
        ("compression-policies", "warn", "production_kpis"),
        ("compression-policies", "fail", "oee_calculations"),
        ("compression", "fail", "oee_calculations"),
        ("refresh-policies", "fail", "oee_hourly"),
        ("continuous-aggregates", "warn", "kpi_daily"),
        ("views", "fail", "kpi_daily.line_id"),
        ("hypertables", "pass", "metric_hist"),
    ] {
        finds(&found, id, verdict, object);
    }
    // Compressed chunks are no obstacle to the probe.
    lab.sql("SELECT compress_chunk(c) FROM show_chunks('factory_telemetry.energy_consumption') c");
    let _ = validate(&lab, "").expect(1).shows(&["Data integrity test passed"]);
}
