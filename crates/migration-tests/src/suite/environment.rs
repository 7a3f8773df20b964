//! Is everything there: the server, the extension, the tools, the files, data to test with?

use ms5_common::migrations;

use super::{Start, Test};
use crate::case::{Case, Done, Stop, ask, must};

pub(super) const TESTS: &[Test] = &[
    Test {
        id: "environment.connection",
        title: "A session opens on a database of its own, and the server is PostgreSQL 15 or newer",
        start: Start::Empty,
        run: connection,
    },
    Test {
        id: "environment.tools",
        title: "All five tools are of one version",
        start: Start::Nothing,
        run: tools,
    },
    Test {
        id: "environment.files",
        title: "Every migration file can be read, and their numbers are in order",
        start: Start::Nothing,
        run: files,
    },
    Test {
        id: "environment.extension",
        title: "TimescaleDB can be created, and a hypertable keeps its rows in chunks",
        start: Start::Empty,
        run: extension,
    },
    Test {
        id: "environment.test-data",
        title: "The database in the field can be made, with rows in it",
        start: Start::Field,
        run: test_data,
    },
];

fn connection(case: &mut Case<'_>) -> Done {
    let mut session = case.session()?;
    must(ask(&mut session, "pg_catalog.current_database()")? == case.database(), || {
        "the session is in another database than was asked for: a pooler in between?".to_owned()
    })?;
    let major: u32 =
        ask(&mut session, "current_setting('server_version_num')::int / 10000")?.parse().unwrap_or_default();
    must(major >= 15, || {
        format!(
            "the server is PostgreSQL {}, and 15 is the oldest that is supported",
            case.ground.server.version
        )
    })
}

fn tools(case: &mut Case<'_>) -> Done {
    let ours = env!("CARGO_PKG_VERSION");
    for tool in ["migration-runner", "pre-validate", "post-validate", "backup-manager"] {
        let ran = case.tool_with(tool, "--version", &[("ENVIRONMENT", "test")])?.exits(0)?;
        let version = ran.stdout.trim().strip_prefix(tool).unwrap_or_default().trim();
        must(version == ours, || format!("{tool} is of version {version:?}, and migration-tests of {ours}"))?;
    }
    Ok(())
}

fn files(case: &mut Case<'_>) -> Done {
    let gaps = !case.ground.gaps_flag().is_empty();
    if gaps {
        case.warn("numbers are missing: the runner and pre-validate take this folder only with --allow-out-of-order");
    }
    let files = migrations::read_folder(&case.ground.migrations, gaps, &[])?;
    must(!files.is_empty(), || format!("there is no migration file in {}", case.ground.migrations.display()))
}

fn extension(case: &mut Case<'_>) -> Done {
    if case.ground.extension.available.is_none() {
        return Err(Stop::failed(
            "the server has no TimescaleDB on its disk: install the package for its version of PostgreSQL",
        ));
    }
    case.sql("CREATE EXTENSION IF NOT EXISTS timescaledb")?;
    case.sql("CREATE TABLE m (at timestamptz NOT NULL, value float8)")?;
    case.ask("SELECT create_hypertable('m', 'at', chunk_time_interval => interval '1 day')")?;
    case.sql("INSERT INTO m SELECT '2025-01-01Z'::timestamptz + i * interval '1 hour', i FROM generate_series(0, 71) i")?;
    let chunks =
        case.ask("SELECT count(*) FROM timescaledb_information.chunks WHERE hypertable_name = 'm'")?;
    must(chunks == "3", || format!("the rows of three days are in {chunks} chunks instead of 3"))?;
    let days = case.ask(
        "SELECT string_agg(n::text, ',') FROM (SELECT count(*) n FROM m GROUP BY time_bucket('1 day', at)) x",
    )?;
    must(days == "24,24,24", || format!("time_bucket counts {days} rows a day instead of 24"))
}

fn test_data(case: &mut Case<'_>) -> Done {
    case.needs_field()?;
    let rows = case.rows()?;
    let filled = rows.iter().filter(|table| !table.contains(": 0 ")).count();
    must(filled > 0, || format!("the database in the field has {} tables and not one row", rows.len()))?;
    let extension = case.ask("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'")?;
    must(extension == "0", || {
        "it has TimescaleDB already: it is no database from before the migration".to_owned()
    })
}
