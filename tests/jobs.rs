//! Background jobs on tables that a file changes: paused before, given back after, also after a kill.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use migration_tests::lab::Lab;
use migration_tests::server::{Server, Wasm, not_run};

const SETUP: &str = "
CREATE TABLE h (t timestamptz NOT NULL, v int);
SELECT create_hypertable('h', 't');
ALTER TABLE h SET (timescaledb.compress);
SELECT add_compression_policy('h', interval '7 days');
CREATE MATERIALIZED VIEW hourly WITH (timescaledb.continuous) AS SELECT time_bucket('1 hour', t) AS b, sum(v) AS s FROM h GROUP BY 1 WITH NO DATA;
SELECT add_continuous_aggregate_policy('hourly', interval '1 month', interval '1 hour', interval '1 hour');
CREATE TABLE g (t timestamptz NOT NULL, v int);
SELECT create_hypertable('g', 't');
ALTER TABLE g SET (timescaledb.compress);
SELECT add_compression_policy('g', interval '7 days');";

/// The tables whose policies are scheduled now. The jobs of a continuous aggregate go by its view or by its own table.
const SCHEDULED: &str = "SELECT coalesce(string_agg(x, ',' ORDER BY x), '') FROM (
    SELECT CASE WHEN hypertable_name IN ('h', 'g') THEN hypertable_name::text ELSE 'hourly' END AS x
    FROM timescaledb_information.jobs WHERE hypertable_name IS NOT NULL AND scheduled) y";

/// Notes what is scheduled while the file runs.
const NOTE: &str = "CREATE TABLE IF NOT EXISTS seen (x text);
INSERT INTO seen SELECT coalesce(string_agg(CASE WHEN hypertable_name IN ('h', 'g') THEN hypertable_name::text ELSE 'hourly' END, ',' ORDER BY hypertable_name), '')
FROM timescaledb_information.jobs WHERE hypertable_name IS NOT NULL AND scheduled;
";

#[test]
fn jobs_are_paused_while_a_file_changes_their_table_and_given_back() {
    let Some(server) = Server::community() else {
        not_run("jobs_are_paused_while_a_file_changes_their_table_and_given_back");
        return;
    };
    let lab = Lab::new(&server, &[("001_a.sql", SETUP)]);
    let _ = lab.run("").expect(0);
    assert_eq!(lab.ask(SCHEDULED), "g,h,hourly");
    lab.write("002_b.sql", format!("{NOTE}ALTER TABLE h ADD COLUMN w int;\n").as_bytes());
    let _ = lab.run("").expect(0).shows(&["is paused until the end of this run", "is scheduled again"]);
    assert_eq!(
        lab.ask("SELECT x FROM seen"),
        "g",
        "the policies of h and of the aggregate over it rest, that of g does not"
    );
    assert_eq!(lab.ask(SCHEDULED), "g,h,hourly");
    assert_eq!(lab.ask("SELECT count(*) FROM migration_paused_jobs"), "0");

    // A failure gives them back too, and a file that decides itself is left to it.
    lab.write("003_c.sql", b"ALTER TABLE h ADD COLUMN w int;");
    let _ = lab.run("").expect(1).shows(&["42701", "is scheduled again"]);
    assert_eq!(lab.ask(SCHEDULED), "g,h,hourly");
    lab.write("003_c.sql", b"SELECT alter_job(job_id, scheduled => false) FROM timescaledb_information.jobs WHERE hypertable_name = 'g';\nALTER TABLE g ADD COLUMN w int;\n");
    let _ = lab.run("").expect(0);
    assert_eq!(lab.ask(SCHEDULED), "h,hourly");
}

#[test]
fn jobs_of_a_killed_run_are_given_back_by_the_next() {
    let Some(server) = Server::community() else {
        not_run("jobs_of_a_killed_run_are_given_back_by_the_next");
        return;
    };
    let lab = Lab::new(
        &server,
        &[("001_a.sql", SETUP), ("002_b.sql", "ALTER TABLE h ADD COLUMN w int;\nSELECT pg_sleep(600);\n")],
    );
    let run = lab.runner("").start();
    lab.wait_for_sleep();
    run.signal("KILL");
    let _ = run.wait();
    assert_eq!(lab.ask(SCHEDULED), "");
    let _ = lab.run("--status").expect(0).shows(&["is paused by a run that has not given it back"]);
    assert_eq!(lab.ask(SCHEDULED), "", "a status changes nothing");
    lab.write("002_b.sql", b"SELECT 1;");
    let _ = lab.run("--target=1").expect(0).shows(&["is scheduled again"]);
    assert_eq!(lab.ask(SCHEDULED), "g,h,hourly");
}

/// The same where there is no full Community server: PostgreSQL in WebAssembly has the jobs' catalog, and one session.
#[test]
fn jobs_are_paused_and_given_back_in_webassembly_too() {
    let server = Wasm::start().unwrap();
    let home = migration_tests::program::TempDir::new("jobs").unwrap();
    std::fs::create_dir(home.path().join("migrations")).unwrap();
    let write =
        |file: &str, text: &str| std::fs::write(home.path().join("migrations").join(file), text).unwrap();
    let run = |arguments: &[&str]| {
        migration_tests::program::Program::tool("migration-runner")
            .envs(&server.variables())
            .env("MS5_HOME", home.path())
            .arg("--unsafe-single-session")
            .args(arguments)
            .run()
    };
    let ask = |query: &str| server.connect().unwrap().query_one(query, &[]).unwrap().get::<_, String>(0);
    write("001_a.sql", SETUP);
    let _ = run(&[]).expect(0);
    assert_eq!(ask(SCHEDULED), "g,h,hourly");
    write("002_b.sql", &format!("{NOTE}ALTER TABLE h ADD COLUMN w int;\n"));
    let _ = run(&[]).expect(0).shows(&["is paused until the end of this run", "is scheduled again"]);
    assert_eq!(ask("SELECT x FROM seen"), "g");
    assert_eq!(ask(SCHEDULED), "g,h,hourly");
    // What a killed run has left, as it would stand in the database.
    server
        .connect()
        .unwrap()
        .batch_execute(
            "INSERT INTO migration_paused_jobs (job_id, job, run_id)
             SELECT job_id, application_name, 'killed' FROM timescaledb_information.jobs WHERE hypertable_name = 'h';
             SELECT alter_job(job_id, scheduled => false) FROM migration_paused_jobs;
             INSERT INTO migration_paused_jobs VALUES (999999, 'gone', 'killed')",
        )
        .unwrap();
    assert_eq!(ask(SCHEDULED), "g,hourly");
    let _ = run(&[]).expect(0).shows(&["is scheduled again"]);
    assert_eq!(ask(SCHEDULED), "g,h,hourly");
    assert_eq!(ask("SELECT count(*)::text FROM migration_paused_jobs"), "0");
}

#[test]
fn jobs_that_a_file_switches_off_stay_off() {
    let Some(server) = Server::community() else {
        not_run("jobs_that_a_file_switches_off_stay_off");
        return;
    };
    let off = |table: &str| {
        format!(
            "DO $$ BEGIN PERFORM alter_job(job_id, scheduled => false) FROM timescaledb_information.jobs
                   WHERE hypertable_name = '{table}'; END $$;\n"
        )
    };
    let lab = Lab::new(&server, &[("001_a.sql", SETUP)]);
    let _ = lab.run("").expect(0);
    // In a block of code, on a table that the file changes itself.
    lab.write("002_b.sql", format!("{}ALTER TABLE g ADD COLUMN w int;\n", off("g")).as_bytes());
    let _ = lab.run("").expect(0);
    assert_eq!(lab.ask(SCHEDULED), "h,hourly");
    // On a table whose jobs the file before has paused.
    lab.write("003_c.sql", b"ALTER TABLE h ADD COLUMN w int;\n");
    lab.write("004_d.sql", off("h").as_bytes());
    let _ = lab.run("").expect(0).shows(&["is paused until the end of this run", "is scheduled again"]);
    assert_eq!(lab.ask(SCHEDULED), "hourly");
    // What another run has paused is that run's to give back.
    lab.write(
        "005_e.sql",
        b"INSERT INTO migration_paused_jobs (job_id, job, run_id) VALUES (999999, 'gone', 'another');\n",
    );
    let _ = lab.run("").expect(0);
    assert_eq!(lab.ask("SELECT count(*) FROM migration_paused_jobs"), "1");
    let _ = lab.run("").expect(0);
    assert_eq!(lab.ask("SELECT count(*) FROM migration_paused_jobs"), "0");
}
