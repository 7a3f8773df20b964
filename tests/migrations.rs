//! The nine migrations on real servers: from every start to one schema, and no row lost on the way.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use migration_tests::lab::Lab;
use migration_tests::program::{Program, Ran, project_root};
use migration_tests::server::{Engine, Server, Wasm, not_run};
use ms5_common::catalog::Inventory;
use postgres::Client;

const NAMES: [&str; 9] = [
    "001 - Initialize Telemetry",
    "002 - PLC Equipment Management",
    "003 - Production Management",
    "004 - Advanced Production Features",
    "005 - Andon Escalation System",
    "006 - Report System",
    "007 - PLC Integration Phase 1",
    "008 - Fix Critical Schema Issues",
    "009 - Database Optimization",
];

const HYPERTABLES: [(&str, &str); 5] = [
    ("metric_hist", "ts"),
    ("oee_calculations", "calculation_time"),
    ("energy_consumption", "consumption_time"),
    ("production_kpis", "created_at"),
    ("production_context_history", "changed_at"),
];

/// How a database is when the migrations meet it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    Empty,
    Field,
    HalfDone,
}

impl Start {
    /// Loads it with the real psql.
    fn load(self, psql: impl FnOnce(&[&std::path::Path]) -> Ran) {
        let file = |name: &str| project_root().join("tests/fixtures/field").join(name);
        let files = match self {
            Self::Empty => return,
            Self::Field => vec![file("schema.sql"), file("reference.sql"), file("data.sql")],
            Self::HalfDone => vec![file("half_done.sql")],
        };
        let files: Vec<&std::path::Path> = files.iter().map(std::path::PathBuf::as_path).collect();
        let _ = psql(&files).expect(0);
    }
}

fn start<'a>(server: &'a Server, start: Start) -> Lab<'a> {
    let lab = Lab::new(server, &[]);
    start.load(|files| lab.database.psql_files(&[], files));
    lab
}

fn migrate(lab: &Lab<'_>, arguments: &str) -> Ran {
    lab.runner(arguments).arg("--migrations-dir").arg(project_root().join("migrations")).run()
}

/// Keeps every row as it is before, in a schema beside.
fn keep_rows(client: &mut Client) -> Vec<String> {
    client.batch_execute("CREATE SCHEMA kept").unwrap();
    let tables: Vec<String> = client
        .query(
            "SELECT relname::text FROM pg_class WHERE relkind = 'r'
             AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'factory_telemetry') ORDER BY 1",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    for table in &tables {
        client
            .batch_execute(&format!("CREATE TABLE kept.{table} AS TABLE factory_telemetry.{table}"))
            .unwrap();
    }
    tables
}

/// Every kept row is still there, value by value and as often as it was; answers with the number of rows.
fn all_rows_are_there(client: &mut Client, tables: &[String]) -> i64 {
    let mut rows = 0;
    for table in tables {
        let columns: String = client
            .query_one(
                "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
                 WHERE attrelid = to_regclass('kept.' || quote_ident($1)) AND attnum > 0",
                &[table],
            )
            .unwrap()
            .get(0);
        let lost: i64 = client
            .query_one(
                &format!(
                    "SELECT count(*) FROM (SELECT {columns} FROM kept.{table}
                                           EXCEPT ALL SELECT {columns} FROM factory_telemetry.{table}) lost"
                ),
                &[],
            )
            .unwrap()
            .get(0);
        assert_eq!(lost, 0, "rows of {table} are gone or changed");
        rows +=
            client.query_one(&format!("SELECT count(*) FROM kept.{table}"), &[]).unwrap().get::<_, i64>(0);
    }
    client.batch_execute("DROP SCHEMA kept CASCADE").unwrap();
    rows
}

fn equal(what: &str, first: &Inventory, second: &Inventory) {
    let differences: Vec<String> = first.compare(second).iter().map(ToString::to_string).collect();
    assert!(differences.is_empty(), "{what}: {} differences\n{}", differences.len(), differences.join("\n"));
    assert!(first.len() > 900, "an inventory of {} objects proves nothing", first.len());
}

fn five_hypertables(client: &mut Client) {
    for (table, column) in HYPERTABLES {
        let row = client
            .query_opt(
                "SELECT column_name::text FROM timescaledb_information.dimensions
                 WHERE hypertable_schema = 'factory_telemetry' AND hypertable_name = $1",
                &[&table],
            )
            .unwrap();
        assert_eq!(row.map(|row| row.get::<_, String>(0)).as_deref(), Some(column), "{table}");
        let key: String = client
            .query_one(
                "SELECT pg_get_constraintdef(oid) FROM pg_constraint
                 WHERE conrelid = ('factory_telemetry.' || $1)::regclass AND contype = 'p'",
                &[&table],
            )
            .unwrap()
            .get(0);
        assert_eq!(key, format!("PRIMARY KEY (id, {column})"));
    }
}

/// Every view can be read, and the schema is the same from every start.
fn views_work(client: &mut Client) {
    let views = client
        .query(
            "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('v', 'm') AND (n.nspname = 'factory_telemetry'
                OR n.nspname = 'public' AND c.relname LIKE 'v\\_%')",
            &[],
        )
        .unwrap();
    assert!(views.len() >= 16, "{} views", views.len());
    for view in views {
        let name: String = view.get(0);
        client
            .batch_execute(&format!("SELECT * FROM {name} LIMIT 5"))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

fn from_every_start(engine: Engine) {
    let server = Server::shared(engine);
    let empty = start(server, Start::Empty);
    let ran = migrate(&empty, "").expect(0);
    for name in NAMES {
        assert!(
            ran.stdout().contains(&format!("✅ Migration {name} completed successfully (")),
            "{name}\n{ran}"
        );
    }
    let wanted = empty.database.inventory();
    five_hypertables(&mut empty.client());
    views_work(&mut empty.client());
    assert_eq!(empty.ask("SELECT count(*) FROM factory_telemetry.users"), "0", "no account is created");

    let field = start(server, Start::Field);
    let mut client = field.client();
    let tables = keep_rows(&mut client);
    assert_eq!(tables.len(), 49);
    let _ = migrate(&field, "").expect(0).shows(&["9 applied", "the old scripts' word alone is not trusted"]);
    assert!(all_rows_are_there(&mut client, &tables) > 30_000);
    views_work(&mut client);
    equal("empty and field", &wanted, &field.database.inventory());

    // Again, and again by force: nothing to do, and nothing changes.
    let _ = migrate(&field, "").expect(0).shows(&["0 applied, 9 already applied"]);
    let _ = migrate(&field, "--force").expect(0).shows(&["9 applied"]);
    equal("field and field by force", &wanted, &field.database.inventory());
}

#[test]
fn from_every_start_to_one_schema_on_postgresql_17() {
    from_every_start(Engine::Pg17);
}

#[test]
fn from_every_start_to_one_schema_on_postgresql_18() {
    from_every_start(Engine::Pg18);
}

#[test]
fn over_a_half_done_run_of_the_old_scripts() {
    let server = Server::shared(Engine::Pg17);
    let empty = start(server, Start::Empty);
    let _ = migrate(&empty, "").expect(0);
    let half = start(server, Start::HalfDone);
    let mut client = half.client();
    let tables = keep_rows(&mut client);
    let _ = migrate(&half, "").expect(0);
    all_rows_are_there(&mut client, &tables);
    five_hypertables(&mut client);
    views_work(&mut client);
    // A column that was missing comes last: the one difference that is accepted, as migrations/README.md says.
    let inventory = |lab: &Lab<'_>| lab.database.inventory().without_positions();
    assert_eq!(inventory(&empty), inventory(&half));
}

#[test]
fn a_row_without_a_time_stops_the_file_with_the_count_and_the_cure() {
    let field = start(Server::shared(Engine::Pg17), Start::Field);
    field.sql(
        "INSERT INTO factory_telemetry.production_context_history (equipment_code, context_data, changed_at)
               SELECT 'X', '{}', NULL FROM generate_series(1, 3)",
    );
    let _ = migrate(&field, "").expect(1).shows(&["3 ", "changed_at", "HINT: ", "UPDATE "]);
    assert_eq!(
        field.ask(
            "SELECT count(*) FROM factory_telemetry.production_context_history WHERE changed_at IS NULL"
        ),
        "3"
    );
    // With the cure applied, it goes on.
    field.sql("UPDATE factory_telemetry.production_context_history SET changed_at = '2025-10-01' WHERE changed_at IS NULL");
    let _ = migrate(&field, "").expect(0);
}

#[test]
fn every_file_runs_by_plain_psql_too() {
    let server = Server::shared(Engine::Pg17);
    let by_runner = start(server, Start::Field);
    let _ = migrate(&by_runner, "").expect(0);
    let by_psql = start(server, Start::Field);
    let files: Vec<_> = std::fs::read_dir(project_root().join("migrations"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sql"))
        .collect();
    let mut files: Vec<&std::path::Path> = files.iter().map(std::path::PathBuf::as_path).collect();
    files.sort();
    assert_eq!(files.len(), 9);
    let _ = by_psql.database.psql_files(&[], &files).expect(0);
    equal("runner and psql", &by_runner.database.inventory(), &by_psql.database.inventory());
}

#[test]
fn expected_json_is_what_the_migrations_make() {
    let text = std::fs::read_to_string(project_root().join("migrations/expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&text).unwrap();
    let empty = start(Server::shared(Engine::Pg17), Start::Empty);
    let _ = migrate(&empty, "").expect(0);
    let inventory = empty.database.inventory();
    let mut columns = 0;
    for kind in ["tables", "views", "materialized_views", "continuous_aggregates"] {
        for (relation, of) in expected[kind].as_object().unwrap() {
            let of = of.get("columns").unwrap_or(of).as_object().unwrap();
            for (column, want) in of {
                let have = inventory
                    .definition(&format!("column {relation}.{column}"))
                    .unwrap_or_else(|| panic!("{relation}.{column} is not there"));
                let required = have.contains(", not null");
                let shown = format!(
                    "{}{}",
                    have.split(", position ").next().unwrap(),
                    if required { " not null" } else { "" }
                );
                assert_eq!(shown, want.as_str().unwrap(), "{relation}.{column}");
                columns += 1;
            }
        }
    }
    assert!(columns > 700, "{columns} columns");
    for hypertable in expected["hypertables"].as_array().unwrap() {
        let (table, time) =
            (hypertable["table"].as_str().unwrap(), hypertable["time_column"].as_str().unwrap());
        let dimension =
            inventory.definition(&format!("dimension {table}.{time}")).unwrap_or_else(|| panic!("{table}"));
        let interval = hypertable["chunk_interval"].as_str().unwrap();
        assert!(dimension.contains(&format!("interval {interval},")), "{table}: {dimension}");
    }
    for query in expected["queries"].as_array().unwrap() {
        let sql = query["sql"].as_str().unwrap();
        empty.client().batch_execute(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

#[test]
fn the_helper_block_is_the_same_in_all_nine_files() {
    let block = |name: &str| {
        let text = std::fs::read_to_string(project_root().join("migrations").join(name)).unwrap();
        let from = text.find("\nDROP SCHEMA IF EXISTS ms5_shape CASCADE").expect("the block's first line");
        text[from..].to_owned()
    };
    let first = block("001_init_telemetry.sql");
    // The functions of the block, each with its body, must stand in every file letter for letter.
    let functions: Vec<&str> = first
        .split("CREATE OR REPLACE FUNCTION pg_temp.")
        .skip(1)
        .filter(|function| !function.starts_with("ms5_hypertable"))
        .filter_map(|function| function.split_inclusive("$ms5$;").next())
        .collect();
    assert!(functions.len() >= 3, "{} functions", functions.len());
    for name in std::fs::read_dir(project_root().join("migrations")).unwrap() {
        let name = name.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".sql") {
            let text = block(&name);
            for function in &functions {
                assert!(text.contains(function), "{name} has another {}", function.lines().next().unwrap());
            }
        }
    }
}

#[test]
fn the_field_fixture_is_what_the_facts_say() {
    let field = start(Server::shared(Engine::Plain), Start::Field);
    let facts = |name: &str| -> Vec<String> {
        let path = project_root().join("tests/fixtures/field").join(name);
        let mut lines: Vec<String> =
            std::fs::read_to_string(path).unwrap().lines().skip(1).map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let seen = |query: &str| -> Vec<String> {
        let mut lines: Vec<String> =
            field.client().query(query, &[]).unwrap().iter().map(|row| row.get(0)).collect();
        lines.sort();
        lines
    };
    let columns = seen(
        "SELECT concat_ws(E'\\t', c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
                CASE WHEN a.attnotnull THEN 'no' ELSE 'yes' END, coalesce(pg_get_expr(d.adbin, d.adrelid), ''))
         FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
         LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
         WHERE c.relkind = 'r' AND a.attnum > 0 AND c.relnamespace = 'factory_telemetry'::regnamespace",
    );
    assert_eq!(columns, facts("columns.tsv"));
    let constraints = seen(
        "SELECT concat_ws(E'\\t', c.relname, CASE k.contype WHEN 'p' THEN 'primary key' WHEN 'u' THEN 'unique'
                WHEN 'f' THEN 'foreign key' ELSE 'check' END, pg_get_constraintdef(k.oid))
         FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
         WHERE k.contype <> 'n' AND c.relnamespace = 'factory_telemetry'::regnamespace",
    );
    assert_eq!(constraints, facts("constraints.tsv"));
    for (table, rows) in [
        ("andon_escalation_recipients", "5"),
        ("andon_escalation_rules", "8"),
        ("checklist_templates", "1"),
        ("defect_codes", "8"),
        ("equipment_config", "2"),
        ("equipment_line_mapping", "2"),
        ("plc_config", "2"),
        ("product_types", "3"),
        ("production_lines", "1"),
        ("production_shifts", "3"),
        ("report_categories", "6"),
        ("report_permissions", "15"),
        ("report_templates", "3"),
        ("users", "1"),
    ] {
        assert_eq!(field.ask(&format!("SELECT count(*) FROM factory_telemetry.{table}")), rows, "{table}");
    }
}

/// What only the timescale licence has, on a database that the migrations made.
fn community_features(client: &mut Client) {
    let policies: i64 = client
        .query_one(
            "SELECT count(*) FROM timescaledb_information.jobs
             WHERE proc_name IN ('policy_compression', 'policy_columnstore') AND hypertable_schema = 'factory_telemetry'",
            &[],
        )
        .unwrap()
        .get(0);
    assert_eq!(policies, 5, "compression policies");
    let retention: i64 = client
        .query_one(
            "SELECT count(*) FROM timescaledb_information.jobs WHERE proc_name = 'policy_retention'",
            &[],
        )
        .unwrap()
        .get(0);
    assert_eq!(retention, 0, "nobody asked for retention");
    let aggregates: i64 = client
        .query_one("SELECT count(*) FROM timescaledb_information.continuous_aggregates", &[])
        .unwrap()
        .get(0);
    assert!(aggregates >= 2, "{aggregates} continuous aggregates");
}

#[test]
fn under_the_timescale_licence_in_webassembly() {
    let mut inventories = Vec::new();
    for begin in [Start::Empty, Start::Field] {
        let server = Wasm::start().unwrap();
        begin.load(|files| server.psql_files(Server::shared(Engine::Pg17).bin().as_path(), files));
        let mut tables = Vec::new();
        if begin == Start::Field {
            tables = keep_rows(&mut server.connect().unwrap());
        }
        let home = migration_tests::program::TempDir::new("wasm").unwrap();
        let runner = |arguments: &str| {
            Program::tool("migration-runner")
                .envs(&server.variables())
                .env("MS5_HOME", home.path())
                .args(arguments.split_whitespace())
                .arg("--migrations-dir")
                .arg(project_root().join("migrations"))
                .run()
        };
        let _ = runner("").expect(3).shows(&["one session only", "nothing was touched"]);
        let _ = runner("--unsafe-single-session").expect(0).shows(&["running without the lock", "9 applied"]);
        let _ = runner("--unsafe-single-session --force").expect(0);
        let validate = || {
            Program::tool("post-validate")
                .envs(&server.variables())
                .env("MS5_HOME", home.path())
                .arg("--migrations-dir")
                .arg(project_root().join("migrations"))
                .run()
                .expect(0)
        };
        let _ = validate().shows(&["Background jobs run when they are due", "Data integrity test passed"]);
        let overdue = "SELECT alter_job(job_id, next_start => now() - interval '2 hours')
                       FROM timescaledb_information.jobs WHERE job_id >= 1000 LIMIT 1";
        server.connect().unwrap().batch_execute(overdue).unwrap();
        let _ = validate().shows(&["1 background job overdue by more than an hour"]);
        let mut client = server.connect().unwrap();
        if begin == Start::Field {
            assert!(all_rows_are_there(&mut client, &tables) > 30_000);
        }
        five_hypertables(&mut client);
        views_work(&mut client);
        community_features(&mut client);
        drop(client);
        inventories.push(server.inventory());
    }
    equal("empty and field in WebAssembly", &inventories[0], &inventories[1]);
}

#[test]
fn under_the_timescale_licence_on_a_full_community_server() {
    let Some(server) = Server::community() else {
        not_run("under_the_timescale_licence_on_a_full_community_server");
        return;
    };
    let empty = start(&server, Start::Empty);
    let _ = migrate(&empty, "").expect(0);
    let field = start(&server, Start::Field);
    let mut client = field.client();
    let tables = keep_rows(&mut client);
    let _ = migrate(&field, "").expect(0);
    assert!(all_rows_are_there(&mut client, &tables) > 30_000);
    community_features(&mut client);
    let wanted = empty.database.inventory();
    equal("empty and field on Community", &wanted, &field.database.inventory());
    let _ = migrate(&field, "--force").expect(0);
    equal("again by force on Community", &wanted, &field.database.inventory());
}
