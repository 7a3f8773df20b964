//! A pg_dump of the field's database, replayed by psql and by the runner: the same objects, the same rows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use migration_tests::lab::Lab;
use migration_tests::program::{Program, project_root};
use migration_tests::server::{Database, Engine, Server};

fn rows(database: &Database<'_>) -> Vec<(String, i64, String)> {
    let mut client = database.connect().unwrap();
    let tables = client
        .query(
            "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r'
             AND relnamespace = 'factory_telemetry'::regnamespace ORDER BY relname",
            &[],
        )
        .unwrap();
    tables
        .iter()
        .map(|row| {
            let table: String = row.get(0);
            let sum = client
                .query_one(
                    &format!(
                        "SELECT count(*), coalesce(sum(hash_record_extended(t, 0)), 0)::text FROM {table} t"
                    ),
                    &[],
                )
                .unwrap();
            (table, sum.get(0), sum.get(1))
        })
        .collect()
}

#[test]
fn replayed_by_psql_and_by_the_runner() {
    let server = Server::shared(Engine::Pg17);
    let source = server.database().unwrap();
    let file = |name: &str| project_root().join("tests/fixtures/field").join(name);
    let (schema, reference, data) = (file("schema.sql"), file("reference.sql"), file("data.sql"));
    let _ = source.psql_files(&[], &[&schema, &reference, &data]).expect(0);

    // The ledger is the runner's own in the target, so the old one stays out.
    let dump = Program::at(&server.bin().join("pg_dump"))
        .args(["-h", "127.0.0.1", "-p", server.variable("DB_PORT"), "-U", server.variable("DB_USER")])
        .args(["--no-owner", "--exclude-table=public.migration_log*", "-d", &source.name])
        .env("PGPASSWORD", server.variable("POSTGRES_PASSWORD_TEST"))
        .run()
        .expect(0)
        .stdout();
    assert!(
        dump.contains("\\restrict ") && dump.contains("COPY factory_telemetry.metric_hist"),
        "a current pg_dump"
    );

    let by_runner = Lab::new(server, &[("001_dump.sql", &dump)]);
    let _ = by_runner.run("").expect(0);
    let by_psql = server.database().unwrap();
    let _ = by_psql.psql_files(&[], &[&by_runner.migrations().join("001_dump.sql")]).expect(0);

    assert_eq!(rows(&by_psql), rows(&source), "psql's replay");
    assert_eq!(rows(&by_runner.database), rows(&source), "the runner's replay");
    let differences: Vec<String> = by_psql
        .inventory()
        .compare(&by_runner.database.inventory())
        .iter()
        .map(ToString::to_string)
        .filter(|difference| !difference.starts_with("added: extension timescaledb"))
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
