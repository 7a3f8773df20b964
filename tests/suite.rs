//! migration-tests: that it is green where all is well, and red, naming what is wrong, where it is not. What it is given here in
//! place of a tool, a file or a backup is broken as installations are.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use migration_tests::program::{Program, Ran, Started, TempDir, bin_dir, project_root};
use migration_tests::server::{Engine, Server};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The four tools that the suite is about.
const TOOLS: [&str; 4] = ["migration-runner", "pre-validate", "post-validate", "backup-manager"];

/// An installation: a home, a folder with all tools, and a server.
struct Place<'a> {
    home: TempDir,
    server: &'a Server,
}

impl Place<'static> {
    fn new() -> Self {
        Self::on(Server::shared(Engine::Pg17))
    }
}

impl<'a> Place<'a> {
    fn on(server: &'a Server) -> Self {
        let place = Self { home: TempDir::new("suite").unwrap(), server };
        for folder in ["scripts", "migrations", "tests"] {
            symlink(project_root().join(folder), place.home.path().join(folder)).unwrap();
        }
        fs::create_dir(place.bin()).unwrap();
        for tool in TOOLS {
            symlink(bin_dir().unwrap().join(tool), place.bin().join(tool)).unwrap();
        }
        place
    }

    fn bin(&self) -> PathBuf {
        self.home.path().join("bin")
    }

    /// Puts a script in a tool's place; in it `$REAL` is the tool.
    fn stand_in(&self, tool: &str, script: &str) {
        let path = self.bin().join(tool);
        fs::remove_file(&path).unwrap();
        let real = bin_dir().unwrap().join(tool);
        fs::write(&path, format!("#!/bin/bash\nREAL='{}'\n{script}\n", real.display())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// migration-tests without a server that is named.
    fn bare(&self, words: &str) -> Program {
        Program::at(&bin_dir().unwrap().join("migration-tests"))
            .env("MS5_HOME", self.home.path())
            .env("MS5_BIN_DIR", self.bin())
            .args(words.split_whitespace())
    }

    /// The same on the server, with a role that restores. It is a sandbox, with a database of every environment: so `--yes`.
    fn suite(&self, words: &str) -> Program {
        self.named(words).arg("--yes")
    }

    fn named(&self, words: &str) -> Program {
        let of = |name: &str| self.server.variable(name).to_owned();
        let path = format!("{}:{}", self.server.bin().display(), std::env::var("PATH").unwrap());
        let mut program = self.bare(words).env("PATH", path);
        for name in ["DB_HOST", "DB_PORT", "DB_USER", "POSTGRES_PASSWORD_TEST"] {
            program = program.env(name, of(name));
        }
        program
            .arg(format!("--restore-user={}", of("MS5_SANDBOX_SUPERUSER")))
            .env("MS5_RESTORE_PASSWORD", of("MS5_SANDBOX_SUPERUSER_PASSWORD"))
    }

    fn databases(&self) -> Vec<String> {
        let rows = self
            .server
            .superuser("postgres")
            .unwrap()
            .query("SELECT datname::text FROM pg_database ORDER BY 1", &[]);
        rows.unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// What is left of runs.
    fn left(&self) -> Vec<String> {
        self.databases().into_iter().filter(|name| name.starts_with("ms5_suite_")).collect()
    }
}

/// psql on the test's database, as a stand-in calls it.
const PSQL: &str = "PGPASSWORD=$POSTGRES_PASSWORD_TEST psql -qX -v ON_ERROR_STOP=1 -h \"$DB_HOST\" -p \"$DB_PORT\" -U \"$DB_USER\" -d \"$DB_NAME\"";

/// The tests and their outcomes, in the order that the records give them.
fn tests(ran: &Ran) -> Vec<(String, String)> {
    let of = |record: &Value, key: &str| record[key].as_str().unwrap().to_owned();
    let mut tests: Vec<Value> = ran.records().into_iter().filter(|record| record["type"] == "test").collect();
    tests.sort_by_key(|test| test["order"].as_u64().unwrap());
    tests.iter().map(|test| (of(test, "id"), of(test, "outcome"))).collect()
}

/// The outcome of each test.
fn outcomes(ran: &Ran) -> BTreeMap<String, String> {
    tests(ran).into_iter().collect()
}

/// That the suite turns red, and that these tests are among those that it names.
fn is_red(ran: Ran, named: &[&str]) {
    let ran = ran.expect(1);
    let outcomes = outcomes(&ran);
    for test in named {
        assert_eq!(outcomes.get(*test).map(String::as_str), Some("failed"), "{test}\n{ran}");
        assert!(ran.stderr().contains(&format!("❌ {test} failed")), "{test}\n{ran}");
    }
    assert!(ran.stderr().contains("❌ Migration tests failed"), "{ran}");
}

/// The drop-in, with nothing but what a machine has after `make setup`: no server, no arguments. What the caller has said of
/// another server leads nowhere.
#[test]
fn without_arguments_and_without_a_server_all_is_green_and_so_it_is_side_by_side() {
    let place = Place::new();
    let run = |words: &str| {
        Program::at(&place.home.path().join("scripts/test-migration-scripts.sh"))
            .env("MS5_HOME", place.home.path())
            .env("MS5_BIN_DIR", bin_dir().unwrap())
            .env("HOME", std::env::var_os("HOME").unwrap_or_default())
            .env("MS5_SANDBOX", std::env::var_os("MS5_SANDBOX").unwrap_or_else(|| "debian".into()))
            .env("MS5_SANDBOX_HOME", std::env::var_os("MS5_SANDBOX_HOME").unwrap_or_default())
            .envs(&[
                ("PGSSLMODE".to_owned(), "verify-full".to_owned()),
                ("PGOPTIONS".to_owned(), "-c no_such=1".to_owned()),
            ])
            .current_dir(Path::new("/"))
            .args(words.split_whitespace())
            .run()
            .expect(0)
    };
    let ran = run("").shows(&["Starting MS5.0 migration test suite"]);
    assert!(ran.stdout().trim_end().ends_with("✅ Migration tests passed"), "{ran}");
    let passed = |line: &str| Some(line.split_once("✅ ")?.1.split_once(" (")?.0.to_owned());
    let serial: BTreeSet<String> = ran.stdout().lines().filter_map(passed).collect();
    let logs = place.home.path().join("logs/tests");
    let file = |begin: &str, end: &str| {
        let names = fs::read_dir(&logs).unwrap().map(|entry| entry.unwrap().path());
        let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        names.filter(|path| name(path).starts_with(begin) && name(path).ends_with(end)).collect::<Vec<_>>()
    };
    let [page] = file("test_report_", ".html").try_into().unwrap();
    let [log] = file("migration_tests_test_", ".log").try_into().unwrap();
    let [_measures] = file("measures_test", ".jsonl").try_into().unwrap();
    let page = fs::read_to_string(page).unwrap();
    for test in ["environment.connection", "integration.failure", "performance.queries"] {
        assert!(page.contains(test), "{test}");
        assert!(fs::read_to_string(&log).unwrap().contains(test), "{test}");
    }
    assert!(
        !ran.to_string().contains("could not be made here"),
        "a private server has all that is needed\n{ran}"
    );
    // Side by side: the same tests, the same outcomes, the records with the suite's order.
    let side = run("--parallel --json --filter=environment,runner,validators.post,integration.chain");
    let order: Vec<String> = tests(&side).into_iter().map(|(id, _)| id).collect();
    assert!(order.len() >= 30 && tests(&side).iter().all(|(_, outcome)| outcome == "passed"), "{side}");
    let list = place.bare("--list").run().expect(0).stdout();
    let all = list.lines().filter_map(|line| line.split_whitespace().next());
    assert_eq!(all.clone().map(str::to_owned).collect::<BTreeSet<_>>(), serial);
    assert_eq!(all.filter(|id| order.iter().any(|made| made == id)).collect::<Vec<_>>(), order);
}

/// A tool that got slow is a warning after three runs that were not; with `--strict` a failure.
#[test]
fn what_got_slow_is_found_out() {
    let place = Place::new();
    let run = |words: &str| place.suite(&format!("--json --filter=performance.tools {words}")).run();
    for _ in 0..3 {
        assert_eq!(outcomes(&run("").expect(0))["performance.tools"], "passed");
    }
    place.stand_in("post-validate", "sleep 3; exec \"$REAL\" \"$@\"");
    let ran = run("").expect(0);
    assert_eq!(outcomes(&ran)["performance.tools"], "warned");
    assert!(ran.stderr().contains("post-validate: "), "{ran}");
    let measures = ran.records().into_iter().filter(|record| record["type"] == "measure");
    let slow: Vec<Value> = measures.filter(|record| record["regressed"] == true).collect();
    assert!(slow.iter().any(|record| record["name"] == "post-validate"), "{slow:?}");
    // The slow run is one of the last ones now, and not yet in their middle.
    let _ = run("--strict").expect(1);
}

#[test]
fn a_tool_that_does_nothing_is_found_out() {
    let place = Place::new();
    for (tool, tests) in [
        (
            "migration-runner",
            &["environment.tools", "runner.migrates", "runner.dry-run", "integration.flow"][..],
        ),
        ("pre-validate", &["validators.pre-passes", "validators.pre-rights", "integration.chain"]),
        ("post-validate", &["validators.post-passes", "validators.post-objects", "integration.chain"]),
        ("backup-manager", &["backup.create", "backup.verify", "backup.damage", "integration.failure"]),
    ] {
        place.stand_in(tool, "exit 0");
        is_red(place.suite(&format!("--json --filter={}", tests.join(","))).run(), tests);
        let path = place.bin().join(tool);
        fs::remove_file(&path).unwrap();
        symlink(bin_dir().unwrap().join(tool), path).unwrap();
    }
}

#[test]
fn a_tool_that_only_prints_the_right_lines_is_found_out() {
    let place = Place::new();
    // It prints what a run prints, which was recorded once, and touches nothing.
    place.stand_in(
        "migration-runner",
        "case \"$*\" in
             --version) exec \"$REAL\" --version ;;
             *--dry-run*) echo '[2024-01-15 10:30:00] [INFO] Dry run: true' ;;
         esac
         echo '[2024-01-15 10:30:00] [INFO] Starting MS5.0 database migration process'
         echo '[2024-01-15 10:35:00] [SUCCESS] 🎉 All migrations completed successfully!'
         mkdir -p \"$MS5_HOME/logs/migrations\"
         echo '[2024-01-15 10:35:00] [SUCCESS] 🎉 All migrations completed successfully!' > \"$MS5_HOME/logs/migrations/migration_test_1.log\"",
    );
    let tests = [
        "runner.migrates",
        "runner.broken-file",
        "runner.killed",
        "integration.flow",
        "validators.post-passes",
    ];
    is_red(
        place.suite(&format!("--json --parallel --timeout=20 --filter={}", tests.join(","))).run(),
        &tests,
    );
    let other = Place::new();
    other.stand_in(
        "backup-manager",
        "case \"$1\" in
             --version) exec \"$REAL\" --version ;;
             backup) folder=$MS5_HOME/backups/$2_20240115_103000
                 mkdir -p \"$folder\" && echo | gzip > \"$folder/full_database.sql.gz\"
                 echo '{\"backup_type\": \"full\", \"database\": {\"name\": \"'\"$DB_NAME\"'\"}}' > \"$folder/metadata.json\"
                 (cd \"$folder\" && sha256sum full_database.sql.gz > checksums.sha256) ;;
         esac
         echo '[2024-01-15 10:35:00] [SUCCESS] ✅ done'",
    );
    let tests = ["backup.restore", "backup.damage", "backup.refuses", "integration.restore"];
    is_red(other.suite(&format!("--json --filter={}", tests.join(","))).run(), &tests);
}

#[test]
fn a_broken_migration_is_named() {
    let place = Place::new();
    let files = place.home.path().join("files");
    fs::create_dir(&files).unwrap();
    for entry in fs::read_dir(project_root().join("migrations")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, files.join(path.file_name().unwrap())).unwrap();
    }
    fs::write(
        files.join("010_broken.sql"),
        "ALTER TABLE factory_telemetry.no_such_table ADD COLUMN x int;\n",
    )
    .unwrap();
    let words = format!(
        "--json --migrations-dir={} --filter=runner.migrates,integration.flow,runner.help",
        files.display()
    );
    let ran = place.suite(&words).run();
    assert!(ran.to_string().contains("010_broken.sql"), "{ran}");
    assert_eq!(outcomes(&ran)["runner.help"], "passed");
    is_red(ran, &["runner.migrates", "integration.flow"]);
}

#[test]
fn a_backup_that_is_damaged_where_it_lies_is_named() {
    let place = Place::new();
    place.stand_in(
        "backup-manager",
        "\"$REAL\" \"$@\"
         code=$?
         if [[ $1 == backup && $code == 0 ]]; then
             for file in \"$MS5_HOME\"/backups/*/full_database.sql.gz; do
                 printf 'x' | dd of=\"$file\" bs=1 seek=$(($(stat -c %s \"$file\") / 2)) conv=notrunc status=none
             done
         fi
         exit $code",
    );
    let ran = place.suite("--json --filter=backup.verify,backup.restore,backup.create").run();
    assert!(ran.to_string().contains("full_database.sql.gz"), "{ran}");
    is_red(ran, &["backup.verify", "backup.restore"]);
}

#[test]
fn environments_that_are_not_whole_are_named() {
    let place = Place::new();
    // No TimescaleDB on the server's disk.
    let plain = Server::shared(Engine::Plain);
    let mut program = place.suite("--json --filter=environment");
    for name in ["DB_HOST", "DB_PORT", "DB_USER", "POSTGRES_PASSWORD_TEST"] {
        program = program.env(name, plain.variable(name));
    }
    is_red(program.run(), &["environment.extension"]);
    // A tool that is not there at all.
    fs::remove_file(place.bin().join("post-validate")).unwrap();
    fs::write(place.home.path().join("own"), "").unwrap();
    let _ = place.suite("").run().expect(3).shows(&["not all in one folder"]);
    // A server that is not there, a password that is wrong, a role that may not.
    let place = Place::new();
    let _ = place.suite("").env("DB_PORT", "1").run().expect(4);
    let _ = place.suite("").env("POSTGRES_PASSWORD_TEST", "wrong-on-purpose").run().expect(3);
    place
        .server
        .superuser("postgres")
        .unwrap()
        .batch_execute("CREATE ROLE may_not LOGIN PASSWORD 'may_not_much'")
        .unwrap();
    let ran = place.suite("").env("DB_USER", "may_not").env("POSTGRES_PASSWORD_TEST", "may_not_much").run();
    let _ = ran.expect(3).shows(&["may not create databases", "CREATEDB"]);
}

#[test]
fn a_secret_that_is_printed_is_hidden_and_a_failure() {
    let place = Place::new();
    let secret = place.server.variable("POSTGRES_PASSWORD_TEST");
    // Among what it prints, and in the line that a failure quotes.
    for then in ["exec \"$REAL\" \"$@\"", "exit 1"] {
        place
            .stand_in("pre-validate", &format!("echo \"[ERROR] password: $POSTGRES_PASSWORD_TEST\"; {then}"));
        let ran = place.suite("--json --filter=validators.pre-passes").run();
        assert!(!ran.to_string().contains(secret) && ran.to_string().contains("password: ***"), "{ran}");
        assert!(ran.stderr().contains("a password is among what was printed"), "{ran}");
        is_red(ran, &["validators.pre-passes"]);
    }
}

#[test]
fn a_secret_that_is_written_to_a_file_or_comes_from_one_is_a_failure() {
    let place = Place::new();
    let secret = place.server.variable("POSTGRES_PASSWORD_TEST");
    place.stand_in(
        "pre-validate",
        "mkdir -p \"$MS5_HOME/backups/of\"; echo \"$POSTGRES_PASSWORD_TEST\" > \"$MS5_HOME/backups/of/metadata.json\"
         exec \"$REAL\" \"$@\"",
    );
    let ran = place.suite("--json --filter=validators.pre-passes").run();
    assert!(ran.stderr().contains("a password stands in the file backups/of/metadata.json"), "{ran}");
    is_red(ran, &["validators.pre-passes"]);
    // The password file, and no variable.
    let file = place.home.path().join("pgpass");
    fs::write(&file, format!("*:*:*:*:{secret}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    place.stand_in("pre-validate", "echo \"[ERROR] \"$(cut -d: -f5 \"$PGPASSFILE\"); exec \"$REAL\" \"$@\"");
    let words = "--json --filter=validators.pre-passes,runner.unreachable,runner.environments";
    let ran = place.suite(words).env("POSTGRES_PASSWORD_TEST", "").env("PGPASSFILE", &file).run();
    assert!(!ran.to_string().contains(secret) && ran.to_string().contains("[ERROR] ***"), "{ran}");
    for test in ["runner.unreachable", "runner.environments"] {
        assert_eq!(outcomes(&ran)[test], "passed", "{ran}");
    }
    is_red(ran, &["validators.pre-passes"]);
}

#[test]
fn a_tool_that_does_half_of_it_is_found_out() {
    let place = Place::new();
    let red = |tool: &str, script: &str, test: &str| {
        place.stand_in(tool, script);
        is_red(place.suite(&format!("--json --filter={test}")).run(), &[test]);
        fs::remove_file(place.bin().join(tool)).unwrap();
        symlink(bin_dir().unwrap().join(tool), place.bin().join(tool)).unwrap();
    };
    // A proof that is none.
    let without = |flag: &str| {
        format!(
            "words=(); for word; do [[ $word == {flag} ]] || words+=(\"$word\"); done; exec \"$REAL\" \"${{words[@]}}\""
        )
    };
    red("backup-manager", &without("--deep*"), "backup.verify");
    red("post-validate", &without("--against*"), "validators.post-lost");
    red("migration-runner", &without("--gate*"), "runner.gate");
    red("migration-runner", &without("--force"), "runner.past-a-failure");
    // A validator that looks at no object, and one that forgets which.
    red(
        "post-validate",
        "\"$REAL\" \"$@\" | sed 's/\"object\":\"[^\"]*\"/\"object\":null/'; exit \"${PIPESTATUS[0]}\"",
        "validators.post-objects",
    );
    // A rollback.sh that needs our tools.
    red(
        "backup-manager",
        "\"$REAL\" \"$@\" || exit
         for script in \"$MS5_HOME\"/backups/rollback_points/*/rollback.sh; do
             sed -i '2i backup-manager --version || exit 9' \"$script\"
         done",
        "backup.rollback",
    );
    // One row less than there was.
    red(
        "migration-runner",
        "\"$REAL\" \"$@\"; code=$?
         [[ \"$*\" == *--dry-run* || $code != 0 ]] || PGPASSWORD=$POSTGRES_PASSWORD_TEST psql -qX -h \"$DB_HOST\" -p \"$DB_PORT\" -U \"$DB_USER\" \"$DB_NAME\" \\
             -c 'DELETE FROM factory_telemetry.metric_hist WHERE id = (SELECT min(id) FROM factory_telemetry.metric_hist)'
         exit $code",
        "integration.flow",
    );
}

/// Every row and every object is there, and the next row gets a number that was given before; or a view has no rows.
#[test]
fn a_restore_that_loses_a_sequence_or_the_rows_of_a_view_is_found_out() {
    let place = Place::new();
    for (kind, sql, named) in [
        ("S", "ALTER SEQUENCE %s RESTART", "ms5_suite_counter"),
        ("m", "REFRESH MATERIALIZED VIEW %s WITH NO DATA", "ms5_suite_sum"),
    ] {
        place.stand_in(
            "backup-manager",
            &format!(
                "\"$REAL\" \"$@\" || exit
                 [[ $1 != restore ]] || {PSQL} -c \"DO 'DECLARE one regclass; BEGIN
                     FOR one IN SELECT oid FROM pg_class WHERE relkind = ''{kind}'' AND relname LIKE ''ms5_suite_%'' LOOP
                         EXECUTE format(''{sql}'', one);
                     END LOOP; END'\""
            ),
        );
        let ran = place.suite("--json --filter=backup.restore").run();
        assert!(ran.stderr().contains(&format!("public.{named}")), "{ran}");
        is_red(ran, &["backup.restore"]);
    }
}

/// What nobody looks at any more, though the lines are all there.
#[test]
fn a_validator_that_leaves_a_check_out_is_found_out() {
    let place = Place::new();
    place.stand_in(
        "pre-validate",
        "\"$REAL\" \"$@\" | grep -v '\"id\":\"shared-buffers\"'; exit \"${PIPESTATUS[0]}\"",
    );
    let ran = place.suite("--json --filter=validators.pre-passes").run();
    assert!(ran.stderr().contains("nothing of the check shared-buffers"), "{ran}");
    is_red(ran, &["validators.pre-passes"]);
}

/// TimescaleDB's other edition has policies and continuous aggregates: that they are lost is found there.
#[test]
fn on_the_community_edition_lost_policies_are_found() {
    let Some(server) = Server::community() else {
        eprintln!("NOT RUN: MS5_COMMUNITY_URL is not set");
        return;
    };
    let place = Place::on(&server);
    let run = || place.suite("--json --filter=validators.post-hypertables").run();
    let ran = run().expect(0);
    assert_eq!(outcomes(&ran)["validators.post-hypertables"], "passed", "{ran}");
    assert!(!ran.stderr().contains("was not broken here"), "{ran}");
    place.stand_in(
        "post-validate",
        "\"$REAL\" \"$@\" | sed '/\"id\":\"compression-policies\"/s/\"verdict\":\"fail\"/\"verdict\":\"pass\"/'; exit \"${PIPESTATUS[0]}\"",
    );
    is_red(run(), &["validators.post-hypertables"]);
}

/// What a licence does not have cannot be lost: that is said, and no warning.
#[test]
fn what_could_not_be_broken_is_said() {
    let place = Place::new();
    let ran = place.suite("--json --strict --filter=validators.post-hypertables").run().expect(0);
    assert!(
        ran.stderr().contains("was not broken here: compression-policies, continuous-aggregates"),
        "{ran}"
    );
}

/// The suite makes databases of its own; roles, settings of the server and other databases are everybody's.
#[test]
fn files_that_reach_beyond_their_database_are_executed_only_where_that_is_said() {
    let place = Place::new();
    let files = place.home.path().join("files");
    fs::create_dir(&files).unwrap();
    fs::write(files.join("001_good.sql"), "CREATE TABLE good (id int);\n").unwrap();
    for (sql, says) in [
        ("CREATE ROLE ms5_suite_reader;", "002_reach.sql:2:1: CREATE ROLE"),
        (
            "DO $$ BEGIN IF true THEN EXECUTE 'ALTER ROLE ms5_suite_reader NOLOGIN'; END IF; END $$;",
            "002_reach.sql:2:1: ALTER ROLE",
        ),
        (
            "GRANT CONNECT ON DATABASE factory_telemetry TO PUBLIC;",
            "002_reach.sql:2:1: GRANT ... ON DATABASE",
        ),
        ("GRANT pg_monitor TO CURRENT_USER;", "002_reach.sql:2:1: GRANT of a role"),
    ] {
        fs::write(files.join("002_reach.sql"), format!("SELECT 1;\n{sql}\n")).unwrap();
        let words = format!("--migrations-dir={} --filter=runner.help", files.display());
        let _ = place.suite(&words).run().expect(3).shows(&[says, "--beyond-database"]);
        let _ = place.suite(&format!("{words} --beyond-database")).run().expect(0);
    }
}

/// The SQL of the field is executed too, and a dump with \connect would go into another database.
#[test]
fn sql_of_the_field_that_leads_elsewhere_is_refused() {
    let place = Place::new();
    let field = place.home.path().join("of_the_field");
    fs::create_dir(&field).unwrap();
    for (sql, says) in [
        ("\\connect factory_telemetry\n", "schema.sql:2:1: \\connect"),
        ("ALTER SYSTEM SET work_mem = '8MB';\n", "schema.sql:2:1: ALTER SYSTEM"),
    ] {
        fs::write(field.join("schema.sql"), format!("CREATE TABLE a (id int);\n{sql}")).unwrap();
        let words = format!("--field-dir={} --filter=runner.help", field.display());
        let _ = place.suite(&words).run().expect(3).shows(&[says, "--beyond-database"]);
    }
}

/// Nothing failed, and nothing more is made: that the session is lost is found out when it has to work.
#[test]
fn a_session_that_is_lost_at_the_end_is_opened_again() {
    let server = Server::start(Engine::Pg17, &[]).expect("a server of its own");
    let place = Place::on(&server);
    place.stand_in(
        "migration-runner",
        &format!(
            "{PSQL} -Atc \"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'migration-tests ground'\" > /dev/null
             exec \"$REAL\" \"$@\""
        ),
    );
    let _ = place.suite("--filter=runner.dry-run").run().expect(0);
    assert_eq!(place.left(), Vec::<String>::new());
}

#[test]
fn a_database_that_cannot_be_dropped_is_named_to_the_end() {
    let server = Server::start(Engine::Pg17, &[]).expect("a server of its own");
    let place = Place::on(&server);
    place.stand_in(
        "migration-runner",
        &format!("{PSQL} -c \"ALTER DATABASE $DB_NAME IS_TEMPLATE true\"; exec \"$REAL\" \"$@\""),
    );
    let free = || {
        let mut superuser = server.superuser("postgres").unwrap();
        for name in place.left() {
            let sql = format!("ALTER DATABASE {name} IS_TEMPLATE false");
            superuser.batch_execute(&sql).unwrap();
            superuser.batch_execute(&format!("DROP DATABASE {name}")).unwrap();
        }
    };
    let ran = place.suite("--json --filter=runner.usage").run().expect(0);
    let [left] = place.left().try_into().unwrap();
    assert_eq!(outcomes(&ran)["runner.usage"], "warned", "{ran}");
    let test = ran.records().into_iter().find(|record| record["type"] == "test").unwrap();
    assert!(
        test["left"].to_string().contains(&left) && test["reasons"].to_string().contains(&left),
        "{test}"
    );
    let removal = format!("DROP DATABASE {left} WITH (FORCE);");
    assert!(ran.stderr().contains("Could not be removed; remove it with:"), "{ran}");
    assert!(ran.stderr().matches(&removal).count() > 1, "{ran}");
    free();
    let _ = place.suite("--strict --filter=runner.usage").run().expect(1);
    free();
}

/// A password that is a word stands everywhere: it can be neither hidden nor looked for, and is no leak.
#[test]
fn a_password_that_is_a_common_word_is_warned_of_and_no_failure() {
    let place = Place::new();
    let mut superuser = place.server.superuser("postgres").unwrap();
    for (role, password) in [("plant_suite", "plant_suite"), ("plant_short", "x1")] {
        superuser.batch_execute(&format!("CREATE ROLE {role} LOGIN CREATEDB PASSWORD '{password}'")).unwrap();
        let ran = place
            .suite("--json --filter=runner.gate")
            .env("DB_USER", role)
            .env("POSTGRES_PASSWORD_TEST", password)
            .run()
            .expect(0);
        assert_eq!(outcomes(&ran)["runner.gate"], "passed", "{ran}");
        assert_eq!(ran.stderr().matches(&format!("The password of the role {role}")).count(), 1, "{ran}");
    }
}

/// Nothing of the field is known: what needs it is not proven, and that is not green.
#[test]
fn what_could_not_be_made_is_named_at_the_end() {
    let place = Place::new();
    let run = |words: &str| place.suite(&format!("--json --field-dir=/nowhere --filter={words}")).run();
    let ran = run("environment.connection,environment.test-data,runner.migrates").expect(0);
    let outcomes = outcomes(&ran);
    assert_eq!(outcomes["environment.test-data"], "skipped");
    assert_eq!(outcomes["runner.migrates"], "passed", "the files are proven on an empty database");
    assert_eq!(ran.stderr().matches("begin with an empty one").count(), 1);
    let last = |ran: &Ran| ran.stderr().trim_end().lines().last().unwrap().to_owned();
    assert!(last(&ran).ends_with("✅ Migration tests passed; not proven: environment.test-data"), "{ran}");
    let ran = run("runner.help,backup.restore").expect(1);
    assert!(last(&ran).contains("failed; not proven: backup"), "{ran}");
}

#[test]
fn production_is_meant_when_it_is_said() {
    let server = Server::start(Engine::Pg17, &[]).expect("a server of its own");
    let place = Place::on(&server);
    let _ = place.bare("--environment=production").run().expect(2).shows(&["--yes"]);
    let _ = place.bare("--yes").env("ENVIRONMENT", "production").run().expect(2).shows(&["--environment="]);
    let before = place.databases();
    let ran = place.named("--filter=runner.help").run().expect(2);
    let _ = ran.shows(&["has a database factory_telemetry", "nothing was touched", "--yes"]);
    assert_eq!(place.databases(), before);
}

/// A folder of logs that cannot be written to is no reason not to test.
#[test]
fn without_a_page_the_tests_are_made() {
    let place = Place::new();
    let ran = place.suite("--log-dir=/dev/null/logs --filter=runner.help,runner.usage").run().expect(0);
    let _ = ran.shows(&["[WARN] There will be no page"]);
    let _ = place.suite("--html=/dev/null/page.html --filter=runner.help").run().expect(3);
}

#[test]
fn a_private_server_that_is_being_started_is_given_up_at_once() {
    let place = Place::new();
    let scripts = place.home.path().join("scripts");
    fs::remove_file(&scripts).unwrap();
    fs::create_dir(&scripts).unwrap();
    let script = scripts.join("sandbox.sh");
    let began = place.home.path().join("began");
    let text = format!("#!/bin/bash\n[[ $1 == down ]] && exit\n: > {}\nsleep 60 & wait\n", began.display());
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let mut running = place.bare("").start();
    while !began.exists() && running.runs() {
        std::thread::sleep(Duration::from_millis(20));
    }
    running.signal("INT");
    let begun = std::time::Instant::now();
    let _ = running.wait().expect(130).shows(&["while a private server was being started"]);
    assert!(begun.elapsed() < Duration::from_secs(20));
}

/// The session that holds the run's number is ended by others: the run goes on, and removes what is its own.
#[test]
fn a_session_that_is_lost_is_opened_again_and_connections_are_not_all_taken() {
    let server = Server::start(Engine::Pg17, &["max_connections=25"]).expect("a server of its own");
    let place = Place::on(&server);
    let mut running = place
        .suite("--parallel --jobs=9 --filter=integration.chain,runner.killed,runner.broken-file,validators.post-health")
        .start();
    in_the_middle(&place, &mut running);
    let mut superuser = server.superuser("postgres").unwrap();
    let ended = superuser.query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'migration-tests ground'",
        &[],
    );
    assert!(!ended.unwrap().is_empty());
    let ran = running.wait().expect(0);
    let _ = ran.shows(&["tests at once instead of 9", "opening another one"]);
    assert_eq!(place.left(), Vec::<String>::new());
}

#[test]
fn without_a_superuser_what_needs_one_is_said_and_strict_minds() {
    let place = Place::new();
    let run = |words: &str| {
        let mut program = place.bare(words).arg("--yes");
        for name in ["DB_HOST", "DB_PORT", "DB_USER", "POSTGRES_PASSWORD_TEST"] {
            program = program.env(name, place.server.variable(name));
        }
        program
            .env("PATH", format!("{}:{}", place.server.bin().display(), std::env::var("PATH").unwrap()))
            .run()
    };
    let ran = run("--json --filter=integration.restore,integration.gate").expect(0);
    assert_eq!(outcomes(&ran)["integration.restore"], "skipped");
    assert!(ran.stderr().contains("--restore-user"), "{ran}");
    let _ = run("--strict --filter=integration.restore,integration.gate").expect(1);
    let _ = run("--filter=integration.restore").expect(1).shows(&["not proven: integration"]);
}

/// Waits until a run has made databases.
fn in_the_middle(place: &Place<'_>, running: &mut Started) {
    while place.left().len() < 2 {
        assert!(running.runs(), "it has ended before anything was made");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_is_struck_leaves_nothing_or_the_next_run_removes_it() {
    let server = Server::start(Engine::Pg17, &[]).expect("a server of its own");
    let place = Place::on(&server);
    let others: Vec<String> =
        place.databases().into_iter().filter(|name| !name.starts_with("ms5_")).collect();
    let mut running = place.suite("--filter=integration").start();
    in_the_middle(&place, &mut running);
    running.signal("INT");
    let _ = running.wait().expect(130);
    assert_eq!(place.left(), Vec::<String>::new(), "an interrupt cleans up");
    let mut running = place.suite("--filter=integration").start();
    in_the_middle(&place, &mut running);
    let _ = running.kill();
    let left = place.left();
    assert!(!left.is_empty());
    // A rollback of one of them was killed too, and one of somebody else's is at work.
    let number = |name: &str| {
        let digest = Sha256::digest(format!("ms5 restore {name}").as_bytes());
        i64::from_be_bytes(digest[..8].try_into().unwrap()).unsigned_abs()
    };
    let half = format!("ms5_rollback_{}_20260101_000000_1", number(&left[0]));
    let foreign = format!("ms5_rollback_{}_20260101_000000_1", number("elsewhere"));
    // So was a restore.
    let restored = "ms5_half_20260101_000000_0123abcd".to_owned();
    let mut superuser = server.superuser("postgres").unwrap();
    for name in [&half, &foreign, &restored] {
        superuser
            .batch_execute(&format!("CREATE DATABASE {name} OWNER {}", server.variable("DB_USER")))
            .unwrap();
    }
    let _ = place.suite("--filter=runner.help").run().expect(0).shows(&["a run that was killed has left"]);
    assert_eq!(place.left(), Vec::<String>::new());
    assert!(!place.databases().contains(&half) && place.databases().contains(&foreign));
    assert!(!place.databases().contains(&restored));
    superuser.batch_execute(&format!("DROP DATABASE {foreign}")).unwrap();
    // What another run is using stays.
    let mut beside = place.suite("--filter=integration.chain,runner.killed").start();
    in_the_middle(&place, &mut beside);
    let _ = place.suite("--filter=runner.dry-run").run().expect(0);
    let _ = beside.wait().expect(0);
    assert_eq!(place.left(), Vec::<String>::new());
    let now: Vec<String> = place.databases().into_iter().filter(|name| !name.starts_with("ms5_")).collect();
    assert_eq!(now, others);
}

#[test]
fn what_is_left_as_asked_is_named_with_how_to_remove_it() {
    let server = Server::start(Engine::Pg17, &[]).expect("a server of its own");
    let place = Place::on(&server);
    let ran = place.suite("--no-cleanup --filter=runner.forced-again").run().expect(0);
    let ran = ran.shows(&["Left as asked; remove it with:", "DROP DATABASE ms5_kept_"]);
    let kept = || place.databases().into_iter().filter(|name| name.starts_with("ms5_kept_")).count();
    assert_eq!((kept(), place.left()), (3, Vec::new()), "two templates and the test's own");
    // The next run leaves it where it is.
    let _ = place.suite("--filter=runner.help").run().expect(0);
    assert_eq!(kept(), 3);
    let mut superuser = place.server.superuser("postgres").unwrap();
    for line in
        ran.stdout().lines().filter_map(|line| line.split_once("[INFO]   ")).map(|(_, line)| line.to_owned())
    {
        match line.strip_prefix("rm -r ") {
            Some(folder) => drop(fs::remove_dir_all(folder)),
            None => superuser.batch_execute(&line).unwrap(),
        }
    }
    assert_eq!(kept(), 0);
}

#[test]
fn a_test_that_takes_too_long_is_ended() {
    let place = Place::new();
    // What it has started does not end with it, and holds what it prints to.
    place.stand_in(
        "migration-runner",
        "setsid sleep 120 & echo begun; trap '' TERM; while :; do sleep 1; done",
    );
    let ran = place.suite("--json --timeout=2 --filter=runner.help").run_within(Duration::from_secs(60));
    assert!(ran.stdout().contains("begun"), "what it printed is shown\n{ran}");
    is_red(ran, &["runner.help"]);
}

#[test]
fn usage_and_what_else_is_written() {
    let place = Place::new();
    let list = place.bare("--list").run().expect(0).stdout();
    assert!(list.lines().count() >= 50 && list.contains("runner.dry-run"), "{list}");
    let _ = place.bare("--filter=nothing-like-it").run().expect(2);
    let _ = place.bare("--filter=,").run().expect(2).shows(&["--filter"]);
    let _ = place.bare("--timeout=99999999").run().expect(2).shows(&["--timeout"]);
    let one = format!("--junit={0}/x --report={0}/./x", place.home.path().display());
    let _ = place.bare(&one).run().expect(2).shows(&["--junit", "--report"]);
    let _ = place.bare("--jobs=2").run().expect(2);
    let _ = place.bare("--list --json").run().expect(2);
    let _ = place.suite("--junit=/nowhere/junit.xml --filter=runner.help").run().expect(3);
    let junit = place.home.path().join("junit.xml");
    let page = place.home.path().join("page.html");
    let report = place.home.path().join("records.jsonl");
    let files = format!(
        "--parallel --junit={} --html={} --report={}",
        junit.display(),
        page.display(),
        report.display()
    );
    let _ =
        place.suite(&format!("{files} --filter=runner.help,runner.usage,environment.files")).run().expect(0);
    let junit = fs::read_to_string(junit).unwrap();
    assert!(
        junit.contains("tests=\"3\" failures=\"0\" skipped=\"0\"")
            && junit.matches("<testcase ").count() == 3,
        "{junit}"
    );
    assert!(fs::read_to_string(page).unwrap().contains("runner.usage"));
    let records: Vec<Value> =
        fs::read_to_string(report).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let schema: Value =
        serde_json::from_str(&fs::read_to_string(project_root().join("docs/records.schema.json")).unwrap())
            .unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    for record in &records {
        assert!(
            schema.is_valid(record),
            "{record}: {:?}",
            schema.iter_errors(record).map(|error| error.to_string()).collect::<Vec<_>>()
        );
    }
    assert!(records.iter().any(|record| record["type"] == "installation"));
    assert_eq!(records.last().unwrap()["counts"]["passed"], 3);
}
