//! pre-validate on real servers: each check passing, and failing where it should.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use migration_tests::bouncer::Bouncer;
use migration_tests::lab::Lab;
use migration_tests::program::{Program, Ran, project_root};
use migration_tests::server::{Engine, Server, Wasm};
use serde_json::{Value, json};

const A: (&str, &str) = ("001_a.sql", "CREATE TABLE a (id int);");

fn lab(files: &[(&str, &str)]) -> Lab<'static> {
    Lab::new(Server::shared(Engine::Pg17), files)
}

fn program(lab: &Lab<'_>, arguments: &str) -> Program {
    Program::tool("pre-validate")
        .envs(&lab.database.variables())
        .env("MS5_HOME", lab.home())
        .current_dir(lab.home())
        .args(arguments.split_whitespace())
}

fn post_validate(lab: &Lab<'_>, arguments: &str) -> Program {
    Program::tool("post-validate")
        .envs(&lab.database.variables())
        .env("MS5_HOME", lab.home())
        .current_dir(lab.home())
        .args(arguments.split_whitespace())
}

fn validate(lab: &Lab<'_>, arguments: &str) -> Ran {
    program(lab, arguments).run()
}

/// The record of a check.
fn of(ran: &Ran, id: &str) -> Value {
    ran.records()
        .into_iter()
        .find(|record| record["type"] == "check" && record["id"] == id)
        .unwrap_or_else(|| panic!("no check {id}\n{ran}"))
}

fn verdict(ran: &Ran, id: &str) -> String {
    of(ran, id)["verdict"].as_str().unwrap().to_owned()
}

/// All of a record that a person would look for.
fn words(ran: &Ran, id: &str) -> String {
    of(ran, id).to_string()
}

#[test]
fn the_lines_of_the_spec_in_their_order_and_nothing_is_left_behind() {
    let lab = lab(&[A]);
    lab.database.superuser().unwrap().batch_execute("CREATE EXTENSION timescaledb").unwrap();
    lab.sql("CREATE TABLE rows (id int); INSERT INTO rows VALUES (1)");
    let before = lab.database.inventory();
    let ran = validate(&lab, "--min-disk=1 --min-memory=1 --min-available=1").expect(0);
    let out = ran.stdout();
    let mut from = 0;
    for line in [
        "[INFO] Starting MS5.0 pre-migration validation",
        "[INFO] Environment: test",
        "[SUCCESS] Root filesystem space: ",
        "[SUCCESS] Total memory: ",
        "CPU cores available: ",
        "[SUCCESS] Database connection successful",
        "[SUCCESS] Database permissions validated",
        "[SUCCESS] TimescaleDB extension verified (version: ",
        "[SUCCESS] TimescaleDB functionality verified",
        "[SUCCESS] All migration files validated",
        "[SUCCESS] ✅ Pre-migration validation passed",
    ] {
        let at = out[from..].find(line).unwrap_or_else(|| panic!("{line} in its place\n{ran}"));
        from += at;
    }
    assert_eq!(before, lab.database.inventory(), "something was left behind");
    let log = std::fs::read_dir(lab.home().join("logs/validation")).unwrap().next().unwrap().unwrap();
    assert!(log.file_name().to_string_lossy().starts_with("pre_migration_validation_test_"));
    let text = std::fs::read_to_string(log.path()).unwrap();
    assert!(text.contains("Pre-migration validation passed") && text.contains("Version: "), "{text}");
}

#[test]
fn an_extension_that_is_only_available_is_news_and_no_fault() {
    let lab = lab(&[A]);
    let ran = validate(&lab, "--json --min-disk=1").expect(0);
    assert_eq!(verdict(&ran, "extension"), "info");
    assert!(words(&ran, "extension").contains("the runner creates it"));
    assert!(words(&ran, "hypertable").contains("can be created, tried and rolled back"));
    assert_eq!(lab.ask("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'"), "0");
}

#[test]
fn a_quick_look_says_what_it_leaves_out() {
    let ran = validate(&lab(&[A]), "--quick --json --min-disk=1").expect(0);
    for id in ["hypertable", "activity", "accounts"] {
        assert_eq!(verdict(&ran, id), "skipped", "{id}");
        assert!(words(&ran, id).contains("--quick"));
    }
}

#[test]
fn limits_are_flags_and_variables_and_strict_takes_warnings_seriously() {
    let lab = lab(&[A]);
    let ran = validate(&lab, "--quick --json --min-disk=1000000 --min-memory=100000").expect(1);
    for id in ["disk-root", "disk-home", "memory"] {
        assert_eq!(verdict(&ran, id), "fail", "{id}");
    }
    assert!(ran.stderr().contains("[ERROR] ❌ Root filesystem space: "), "{ran}");
    let ran = program(&lab, "--quick --json").env("MS5_MIN_DISK_GB", "1000000").run().expect(1);
    assert_eq!(verdict(&ran, "disk-root"), "fail");
    let enough =
        program(&lab, "--quick --json --min-disk=1").env("MS5_MIN_DISK_GB", "1000000").run().expect(0);
    assert_eq!(verdict(&enough, "disk-root"), "pass", "a flag wins over its variable");
    let ran = validate(&lab, "--quick --json --min-disk=1 --min-available=100000").expect(0);
    assert_eq!(verdict(&ran, "memory"), "warn");
    let _ =
        validate(&lab, "--quick --min-disk=1 --min-available=100000 --strict").expect(1).shows(&["--strict"]);
    let _ = program(&lab, "").env("MS5_MIN_DISK_GB", "ten").run().expect(3).shows(&["MS5_MIN_DISK_GB"]);
}

#[test]
fn no_way_to_the_database_and_all_else_is_still_looked_at() {
    let lab = lab(&[A]);
    for (variable, value, id) in [("DB_PORT", "1", "port"), ("DB_HOST", "no-such-host.invalid", "name")] {
        let ran = program(&lab, "--json --min-disk=1").env(variable, value).run().expect(4);
        assert_eq!(verdict(&ran, id), "fail");
        assert_eq!(verdict(&ran, "connection"), "skipped");
        assert_eq!((verdict(&ran, "disk-root"), verdict(&ran, "files")), ("pass".into(), "pass".into()));
        assert!(words(&ran, id).contains("docker ps | grep postgres"));
    }
    let ran =
        program(&lab, "--json --min-disk=1").env("POSTGRES_PASSWORD_TEST", "Sesame-0pen").run().expect(3);
    assert_eq!((verdict(&ran, "connection"), verdict(&ran, "files")), ("fail".into(), "pass".into()));
    assert!(!ran.to_string().contains("Sesame-0pen"));
}

#[test]
fn broken_files_are_named_all_of_them() {
    let lab = lab(&[
        ("001_empty.sql", ""),
        ("002_quote.sql", "SELECT 'never ends"),
        ("004_gap.sql", "SELECT 1;"),
        ("005_savepoint.sql", "SAVEPOINT a;"),
    ]);
    lab.write("006_latin.sql", b"SELECT '\xe4';");
    let ran = validate(&lab, "--quick --json --min-disk=1").expect(3);
    let text = words(&ran, "files");
    for name in ["001_empty.sql", "002_quote.sql", "003", "005_savepoint.sql", "006_latin.sql"] {
        assert!(text.contains(name), "{name}: {text}");
    }
    let none = program(&lab, "--quick --min-disk=1 --migrations-dir=nowhere").run();
    let _ = none.expect(3).shows(&["cannot read the migrations folder"]);
}

#[test]
fn files_that_depend_on_what_is_not_there() {
    let lab = lab(&[
        ("001_a.sql", "CREATE TABLE a (id int); ALTER TABLE a ADD b int;"),
        ("002_b.sql", "ALTER TABLE public.later ADD c int;"),
        ("003_c.sql", "CREATE TABLE later (id int);"),
    ]);
    let ran = validate(&lab, "--quick --json --min-disk=1").expect(0);
    assert_eq!(verdict(&ran, "dependencies"), "warn");
    assert!(words(&ran, "dependencies").contains("002_b.sql:1:1 works on public.later"), "{ran}");
    lab.sql("CREATE TABLE later (id int)");
    assert_eq!(verdict(&validate(&lab, "--quick --json --min-disk=1").expect(0), "dependencies"), "pass");
}

/// A role of its own on the shared server.
fn role(lab: &Lab<'_>, name: &str, rest: &str) {
    lab.database
        .superuser()
        .unwrap()
        .batch_execute(&format!(
            "DROP ROLE IF EXISTS {name}; CREATE ROLE {name} LOGIN PASSWORD 'weak' {rest}"
        ))
        .unwrap();
}

fn as_role(lab: &Lab<'_>, name: &str, password: &str, arguments: &str) -> Ran {
    program(lab, arguments).env("DB_USER", name).env("POSTGRES_PASSWORD_TEST", password).run()
}

#[test]
fn a_role_without_rights_is_told_what_it_needs() {
    let lab = lab(&[
        ("001_a.sql", "ALTER TABLE public.theirs ADD b int;"),
        ("002_system.sql", "ALTER SYSTEM SET work_mem = '8MB';"),
    ]);
    lab.sql("CREATE TABLE theirs (id int)");
    let soon = lab.ask("SELECT now() + interval '2 days'");
    role(&lab, "ms5_weak", &format!("VALID UNTIL '{soon}'"));
    let ran = as_role(&lab, "ms5_weak", "weak", "--json --min-disk=1").expect(1);
    for id in ["create", "owner", "statements", "extension"] {
        assert_eq!(verdict(&ran, id), "fail", "{id}\n{ran}");
    }
    assert!(words(&ran, "create").contains("GRANT CREATE ON DATABASE"));
    assert!(words(&ran, "owner").contains("theirs belongs to ms5_user_test; 001_a.sql alters it"), "{ran}");
    assert!(words(&ran, "statements").contains("002_system.sql:1:1 ALTER SYSTEM needs a superuser"), "{ran}");
    assert_eq!(verdict(&ran, "password"), "warn");
    // The owner may all of it but ALTER SYSTEM.
    let ran = validate(&lab, "--json --min-disk=1").expect(1);
    for (id, wanted) in [("create", "pass"), ("owner", "pass"), ("statements", "fail"), ("password", "pass")]
    {
        assert_eq!(verdict(&ran, id), wanted, "{id}\n{ran}");
    }
}

#[test]
fn who_could_restore_a_backup_is_said_in_time() {
    let lab = lab(&[("001_a.sql", "SELECT 1;")]);
    let quick = "--quick --json --min-disk=1";
    let superuser = Server::shared(Engine::Pg17).variable("MS5_SANDBOX_SUPERUSER");
    let asked = |arguments: &str| {
        let ran = validate(&lab, &format!("{quick} {arguments}")).expect(0);
        (verdict(&ran, "way-back"), words(&ran, "way-back"))
    };
    let (today, why) = asked("");
    assert_eq!(today, "pass");
    assert!(why.contains("a backup of today") && why.contains("only a superuser can"), "{why}");
    let (verdict_of, why) = asked("--restore-user=ms5_nobody");
    assert_eq!(verdict_of, "warn");
    assert!(why.contains("There is no role ms5_nobody"), "{why}");
    role(&lab, "ms5_poor", "NOCREATEDB");
    let (verdict_of, why) = asked("--restore-user=ms5_poor");
    assert!(verdict_of == "warn" && why.contains("CREATEDB; or name another"), "{why}");
    lab.sql("CREATE EXTENSION timescaledb");
    assert_eq!(asked("").0, "pass", "an extension that holds nothing wants no superuser");
    lab.sql("CREATE TABLE m (ts timestamptz NOT NULL); SELECT create_hypertable('m', 'ts')");
    let (verdict_of, why) = asked("");
    assert!(verdict_of == "warn" && why.contains("--restore-user=ROLE"), "{why}");
    assert_eq!(asked(&format!("--restore-user={superuser}")).0, "pass");
}

#[test]
fn a_superuser_a_borrowed_role_and_hba_lines() {
    let server = Server::start(Engine::Pg17, &[]).unwrap();
    let lab = Lab::new(&server, &[("001_system.sql", "ALTER SYSTEM SET work_mem = '8MB';")]);
    let superuser =
        (server.variable("MS5_SANDBOX_SUPERUSER"), server.variable("MS5_SANDBOX_SUPERUSER_PASSWORD"));
    let ran = as_role(&lab, superuser.0, superuser.1, "--quick --json --min-disk=1").expect(0);
    assert_eq!((verdict(&ran, "superuser"), verdict(&ran, "statements")), ("warn".into(), "pass".into()));
    assert_eq!((verdict(&ran, "hba"), verdict(&ran, "disk-data")), ("pass".into(), "pass".into()));
    lab.database
        .superuser()
        .unwrap()
        .batch_execute(
            "DO $$ BEGIN EXECUTE format('COPY (SELECT ''host all all 10.0.0.0/8 trust'') TO PROGRAM ''cat >> %s''',
                 current_setting('hba_file')); END $$",
        )
        .unwrap();
    let ran = as_role(&lab, superuser.0, superuser.1, "--quick --json --min-disk=1").expect(0);
    assert_eq!(verdict(&ran, "hba"), "warn");
    assert!(words(&ran, "hba").contains("host 10.0.0.0 trust"), "{ran}");

    assert_eq!(verdict(&validate(&lab, "--quick --json --min-disk=1"), "same-role"), "pass");
    let mut owner = lab.database.superuser().unwrap();
    owner.batch_execute("ALTER ROLE ms5_user_staging PASSWORD 'weak'").unwrap();
    let ran = as_role(&lab, "ms5_user_staging", "weak", "--quick --json --min-disk=1");
    assert_eq!(verdict(&ran, "same-role"), "warn");
    // An address that this machine answers, and that is not spelled as its own.
    let far = program(&lab, "--quick --json --min-disk=1").env("DB_HOST", "127.1").run();
    assert_eq!((verdict(&far, "tls"), verdict(&far, "container")), ("warn".into(), "skipped".into()));
}

#[test]
fn accounts_that_everybody_tries_and_a_backup_folder_that_all_may_read() {
    let lab = lab(&[A]);
    lab.sql("CREATE TABLE users (username text, email text); INSERT INTO users VALUES ('Admin', 'x'), ('mueller', 'y')");
    std::fs::create_dir(lab.home().join("backups")).unwrap();
    let open = |mode| {
        std::fs::set_permissions(lab.home().join("backups"), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(0o755);
    let ran = validate(&lab, "--json --min-disk=1").expect(0);
    assert_eq!((verdict(&ran, "accounts"), verdict(&ran, "backup-folder")), ("warn".into(), "warn".into()));
    let text = words(&ran, "accounts");
    assert!(text.contains("users: Admin") && !text.contains("mueller"), "{text}");
    lab.sql("DELETE FROM users WHERE username = 'Admin'");
    open(0o700);
    let ran = validate(&lab, "--json --min-disk=1").expect(0);
    assert_eq!((verdict(&ran, "accounts"), verdict(&ran, "backup-folder")), ("pass".into(), "pass".into()));
}

#[test]
fn an_old_transaction_is_named() {
    let lab = lab(&[A]);
    let mut other = lab.client();
    other.batch_execute("SET application_name = 'the forgotten one'; BEGIN; SELECT 1").unwrap();
    std::thread::sleep(Duration::from_millis(1200));
    let ran = validate(&lab, "--quick --json --min-disk=1 --max-transaction=1").expect(0);
    assert_eq!(verdict(&ran, "longest-transaction"), "warn");
    assert!(words(&ran, "longest-transaction").contains("the forgotten one"), "{ran}");
    assert_eq!(verdict(&validate(&lab, "--quick --json --min-disk=1"), "longest-transaction"), "pass");
}

#[test]
fn a_lock_of_others_is_a_warning_after_a_second_and_no_wait() {
    let server = Server::start(Engine::Pg17, &[]).unwrap();
    let lab = Lab::new(&server, &[A]);
    let mut superuser = lab.database.superuser().unwrap();
    superuser.batch_execute("CREATE EXTENSION timescaledb").unwrap();
    let ran = validate(&lab, "--json --min-disk=1").expect(0);
    assert_eq!(
        (verdict(&ran, "create"), verdict(&ran, "hypertable")),
        ("pass".into(), "pass".into()),
        "{ran}"
    );
    superuser.batch_execute("BEGIN; LOCK TABLE pg_catalog.pg_namespace IN SHARE MODE").unwrap();
    let begun = Instant::now();
    let ran = validate(&lab, "--json --min-disk=1").expect(0);
    assert!(begun.elapsed() < Duration::from_secs(20), "it waited {:?}\n{}", begun.elapsed(), ran.stderr());
    assert_eq!(
        (verdict(&ran, "create"), verdict(&ran, "hypertable")),
        ("warn".into(), "warn".into()),
        "{ran}"
    );
}

#[test]
fn servers_that_are_not_ready() {
    let plain = Lab::new(Server::shared(Engine::Plain), &[A]);
    let ran = validate(&plain, "--json --min-disk=1").expect(1);
    assert_eq!((verdict(&ran, "extension"), verdict(&ran, "hypertable")), ("fail".into(), "skipped".into()));
    assert!(words(&ran, "extension").contains("docker exec ms5_postgres_test psql"));

    let server = Server::start(
        Engine::Pg17,
        &["shared_preload_libraries=", "max_worker_processes=9", "shared_buffers=1MB", "max_wal_size=32MB"],
    )
    .unwrap();
    let unloaded = Lab::new(&server, &[A]);
    let ran = validate(&unloaded, "--json --min-disk=1").expect(1);
    for (id, wanted) in
        [("preload", "fail"), ("hypertable", "fail"), ("workers", "warn"), ("shared-buffers", "warn")]
    {
        assert_eq!(verdict(&ran, id), wanted, "{id}\n{ran}");
    }
    assert!(words(&ran, "preload").contains("shared_preload_libraries"));

    let restoring = lab(&[A]);
    let mut superuser = restoring.database.superuser().unwrap();
    superuser.batch_execute("CREATE EXTENSION timescaledb; SELECT timescaledb_pre_restore()").unwrap();
    let ran = validate(&restoring, "--json --min-disk=1").expect(1);
    assert_eq!(verdict(&ran, "restoring"), "fail");
    let ran = validate(&restoring, "--json --min-disk=1 --fingerprint=public.any").expect(1);
    assert_eq!(verdict(&ran, "fingerprint"), "fail", "compressed rows would not be seen\n{ran}");
    superuser.batch_execute("SELECT timescaledb_post_restore()").unwrap();
    assert_eq!(verdict(&validate(&restoring, "--json --min-disk=1").expect(0), "restoring"), "pass");
}

/// A table with a row.
const MOODS: &str = "CREATE TYPE mood AS ENUM ('calm'); CREATE TABLE moods (id int, mood mood);
    INSERT INTO moods VALUES (1, 'calm')";
/// From here on a row of it takes a minute and a half to be hashed, as many rows would.
const ENDLESS: &str = "CREATE FUNCTION slowly(mood) RETURNS text LANGUAGE plpgsql
        AS $$ BEGIN PERFORM pg_sleep(90); RETURN 'calm'; END $$;
    CREATE CAST (mood AS text) WITH FUNCTION slowly(mood)";

/// Somebody who wants the table for himself, and gets it.
fn the_night_shift_alters(lab: &Lab<'_>) {
    let mut production = lab.client();
    production.batch_execute("SET application_name = 'the night shift'; SET lock_timeout = '30s'").unwrap();
    production.batch_execute("ALTER TABLE moods ADD COLUMN secret text DEFAULT 'hunter2'").unwrap();
}

#[test]
fn who_waits_for_a_table_that_is_being_counted_gets_it_after_a_second() {
    for jobs in [1, 2] {
        let lab = lab(&[A]);
        lab.sql(MOODS);
        lab.sql("CREATE TABLE other AS SELECT * FROM moods");
        lab.sql(ENDLESS);
        let arguments = format!("--json --min-disk=1 --jobs={jobs} --fingerprint=public.moods,public.other");
        let counting = program(&lab, &arguments).start();
        lab.wait_for_sleep();
        the_night_shift_alters(&lab);
        let ran = counting.wait().expect(0);
        assert_eq!(verdict(&ran, "fingerprint"), "warn", "{ran}");
        for text in ["the night shift", "ALTER TABLE", "public.moods", "no rows are counted", "run it again"]
        {
            assert!(words(&ran, "fingerprint").contains(text), "{text}\n{ran}");
        }
        assert!(!ran.to_string().contains("hunter2"), "{ran}");
        assert!(!ran.records().iter().any(|record| record["type"] == "table"), "{ran}");
    }
}

#[test]
fn a_comparison_that_keeps_somebody_waiting_is_ended_and_says_that_nothing_is_proven() {
    let lab = lab(&[A]);
    lab.sql(MOODS);
    let _ = validate(&lab, "--min-disk=1 --report=pre --fingerprint=public.moods").expect(0);
    let _ = lab.run("--gate=pre --report=run").expect(0);
    lab.sql(ENDLESS);
    let comparing = post_validate(&lab, "--json --against=run").start();
    lab.wait_for_sleep();
    the_night_shift_alters(&lab);
    let ran = comparing.wait().expect(0);
    assert_eq!(verdict(&ran, "rows"), "warn", "{ran}");
    assert!(words(&ran, "rows").contains("no rows are counted and hashed"), "{ran}");
}

#[test]
fn a_size_that_takes_long_to_add_up_is_a_warning_and_no_end() {
    let server = Server::start(Engine::Pg17, &[]).unwrap();
    let lab = Lab::new(&server, &[A]);
    // A function that the server has built in cannot be replaced, but can be called something else.
    let mut superuser = lab.database.superuser().unwrap();
    superuser.batch_execute("ALTER FUNCTION pg_catalog.pg_database_size(name) RENAME TO quick_size").unwrap();
    let mut slow = |seconds: u32| {
        superuser
            .batch_execute(&format!(
                "CREATE OR REPLACE FUNCTION pg_catalog.pg_database_size(name) RETURNS int8 LANGUAGE plpgsql AS
                     $$ BEGIN PERFORM pg_sleep({seconds}); RETURN 1 << 20; END $$"
            ))
            .unwrap();
    };
    slow(2);
    let ran = validate(&lab, "--quick --json --min-disk=1").expect(0);
    assert_eq!(verdict(&ran, "max-wal-size"), "pass", "{ran}");
    slow(60);
    let ran = validate(&lab, "--quick --json --min-disk=1").expect(0);
    assert_eq!(verdict(&ran, "max-wal-size"), "warn", "{ran}");
    assert!(words(&ran, "max-wal-size").contains("not known after 10 s"), "{ran}");
    assert_eq!(verdict(&ran, "longest-transaction"), "pass", "what comes behind it is looked at");
}

#[test]
fn a_database_that_takes_no_writes_is_no_matter_of_rights() {
    let lab = lab(&[A]);
    let name = &lab.database.name;
    lab.sql(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on"));
    let ran = validate(&lab, "--json --min-disk=1").expect(1);
    let text = words(&ran, "create");
    assert_eq!((verdict(&ran, "create"), verdict(&ran, "hypertable")), ("fail".into(), "skipped".into()));
    assert!(text.contains("takes no writes: default_transaction_read_only is on"), "{ran}");
    assert!(text.contains(&format!("ALTER DATABASE {name} RESET")) && !text.contains("GRANT"), "{ran}");
    let ran = lab.run("").expect(3);
    let _ = ran.shows(&["takes no writes", "nothing was touched", &format!("ALTER DATABASE {name} RESET")]);
    let forced = "-c default_transaction_read_only=off";
    let ran = program(&lab, "--json --min-disk=1").env("PGOPTIONS", forced).run().expect(0);
    assert_eq!(verdict(&ran, "create"), "pass");
    let _ = lab.runner("").env("PGOPTIONS", forced).run().expect(0);
}

#[test]
fn a_standby_is_no_matter_of_rights() {
    let server = Server::start(Engine::Pg17, &[]).unwrap();
    let lab = Lab::new(&server, &[A]);
    let mut superuser = lab.database.superuser().unwrap();
    superuser
        .batch_execute(&format!(
            "DO $$ BEGIN EXECUTE format($c$COPY (SELECT 1) TO PROGRAM
                 'cat > /dev/null; touch %1$s/standby.signal; setsid {}/pg_ctl -D %1$s -m fast restart > /dev/null 2>&1 &'$c$,
                 current_setting('data_directory')); END $$",
            server.bin().display()
        ))
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let standby = || -> Result<bool, postgres::Error> {
        Ok(lab.database.connect()?.query_one("SELECT pg_is_in_recovery()", &[])?.get(0))
    };
    while !standby().unwrap_or_default() {
        assert!(Instant::now() < deadline, "it does not become a standby");
        std::thread::sleep(Duration::from_millis(50));
    }
    let ran = validate(&lab, "--quick --json --min-disk=1").expect(1);
    assert_eq!(verdict(&ran, "create"), "fail");
    let text = words(&ran, "create");
    assert!(text.contains("it is a standby") && text.contains("DB_HOST") && !text.contains("GRANT"), "{ran}");
    let _ = lab.run("").expect(3).shows(&["it is a standby", "nothing was touched"]);
}

#[test]
fn docker_gets_no_password() {
    let lab = lab(&[A]);
    let tools = lab.home().join("tools");
    std::fs::create_dir(&tools).unwrap();
    let docker = tools.join("docker");
    let script =
        format!("#!/bin/sh\nset > {}/environment\necho '{{\"Status\":\"running\"}}'\n", lab.home().display());
    std::fs::write(&docker, script).unwrap();
    std::fs::set_permissions(&docker, std::fs::Permissions::from_mode(0o755)).unwrap();
    let ran = program(&lab, "--quick --json --min-disk=1")
        .env("PATH", &tools)
        .env("PGPASSWORD", "hunter2")
        .env("MS5_RESTORE_PASSWORD", "hunter3")
        .env("DOCKER_HOST", "unix:///nowhere")
        .run()
        .expect(0);
    assert_eq!(verdict(&ran, "container"), "pass", "{ran}");
    let given = std::fs::read_to_string(lab.home().join("environment")).unwrap();
    assert!(given.contains("unix:///nowhere"), "{given}");
    for secret in ["hunter", "PASSWORD", "DB_", "PGOPTIONS"] {
        assert!(!given.contains(secret), "{secret}: {given}");
    }
}

#[test]
fn a_report_that_cannot_be_finished_leaves_no_other_under_its_name() {
    let lab = lab(&[A]);
    let report = lab.home().join("report.jsonl");
    std::fs::write(&report, "of yesterday").unwrap();
    // No file may have more than so many blocks, as on a full disk.
    let limited = "trap '' XFSZ; ulimit -f 4; exec \"$0\" \"$@\"";
    let ran = Program::at(std::path::Path::new("/bin/sh"))
        .args(["-c", limited])
        .arg(migration_tests::program::bin_dir().unwrap().join("pre-validate"))
        .envs(&lab.database.variables())
        .env("MS5_HOME", lab.home())
        .current_dir(lab.home())
        .args(["--quick", "--min-disk=1", "--report=report.jsonl"])
        .run()
        .expect(0);
    assert!(!report.exists(), "yesterday's passes for today's\n{ran}");
    let _ = ran.shows(&["cannot finish", "what had that name before was removed"]);
    let _ = lab.run("--gate=report.jsonl").expect(3);
    assert!(
        !std::fs::read_dir(lab.home())
            .unwrap()
            .any(|entry| { entry.unwrap().file_name().to_string_lossy().ends_with(".part") })
    );
}

/// Promises hypertables `public.rows` and `public.later`, by `ts`.
fn promise(lab: &Lab<'_>, interval: &str) {
    let promised = json!({"hypertables": [
        {"table": "public.rows", "time_column": "ts", "chunk_interval": interval},
        {"table": "public.later", "time_column": "ts", "chunk_interval": interval},
    ]});
    lab.write("expected.json", promised.to_string().as_bytes());
}

#[test]
fn chunks_to_be_are_held_against_the_room_for_locks() {
    let options =
        ["max_locks_per_transaction=64", "max_connections=20", "timescaledb.max_background_workers=1"];
    let server = Server::start(Engine::Pg17, &options).unwrap();
    let lab = Lab::new(&server, &[A]);
    let locks = |text: &str| {
        let ran = validate(&lab, "--quick --json --min-disk=1").expect(0);
        let (verdict, words) = (verdict(&ran, "locks"), words(&ran, "locks"));
        assert!(words.contains(text), "{text}\n{ran}");
        verdict
    };
    promise(&lab, "1 day");
    assert_eq!(locks("no table is there that is to become a hypertable"), "skipped");
    lab.sql("CREATE TABLE rows (ts timestamptz NOT NULL, text text); CREATE INDEX ON rows (ts)");
    assert_eq!(locks("no table is there"), "skipped", "an empty one makes no chunks");
    lab.sql("INSERT INTO rows SELECT d FROM generate_series(now() - interval '365 days', now(), '1 day') d");
    // The chunk, the table's index and create_hypertable's, TOAST with its index.
    assert_eq!(
        locks("at most 1830 in one transaction, for 366 chunks; the server has room for 1280"),
        "warn"
    );
    let ran = validate(&lab, "--quick --json --min-disk=1").expect(0);
    assert!(words(&ran, "locks").contains("SET max_locks_per_transaction = 183;"), "{ran}");
    assert_eq!(verdict(&ran, "workers"), "warn");
    assert!(words(&ran, "workers").contains("timescaledb.max_background_workers: 1, for "), "{ran}");
    promise(&lab, "1 month");
    assert_eq!(locks("at most 65 in one transaction, for 13 chunks"), "pass");
    lab.sql("INSERT INTO rows VALUES ('1970-01-01 00:00+00')");
    assert_eq!(locks("clocks that were wrong"), "warn");
    lab.sql("UPDATE rows SET ts = 'infinity' WHERE ts < '2000-01-01'");
    assert_eq!(locks("rows at the end of time"), "warn");
    lab.sql("DROP TABLE rows; CREATE TABLE rows (ts bigint NOT NULL); INSERT INTO rows VALUES (-5), (9223372036854775807)");
    assert_eq!(locks("cannot be forecast"), "warn");
    promise(&lab, "1000000000000000000");
    assert_eq!(locks("at most 20 in one transaction, for 10 chunks"), "pass");
    lab.database.superuser().unwrap().batch_execute("CREATE EXTENSION timescaledb").unwrap();
    lab.sql("SELECT create_hypertable('rows', by_range('ts', 1000000000000000000), migrate_data => true)");
    assert_eq!(locks("no table is there"), "skipped", "it has its chunks already");
}

#[test]
fn what_keeps_a_table_from_becoming_a_hypertable_is_found_before_the_night() {
    let names = "-- keeps no 'named_by_a_file' of ours\nSELECT 'named_by_a_file';";
    let lab = lab(&[A, ("002_b.sql", names)]);
    promise(&lab, "1 day");
    let mut superuser = lab.database.superuser().unwrap();
    let mut conversion = |sql: &str, exit: i32, texts: &[&str]| {
        superuser.batch_execute(sql).unwrap();
        let ran = validate(&lab, "--quick --json --min-disk=1").expect(exit);
        let words = words(&ran, "conversion");
        for text in texts {
            assert!(words.contains(text), "{text} after {sql}\n{ran}");
        }
        verdict(&ran, "conversion")
    };
    assert_eq!(conversion("", 0, &["no table is there"]), "skipped");
    // As the field has it: a key without the time, a time that may be NULL and never is.
    let field =
        "CREATE TABLE rows (id bigserial PRIMARY KEY, ts timestamptz, a int); CREATE INDEX ON rows (ts);
         INSERT INTO rows (ts, a) SELECT now(), i FROM generate_series(1, 100) i;
         CREATE UNIQUE INDEX named_by_a_file ON rows (a); CREATE UNIQUE INDEX right_so ON rows (a, ts);
         ALTER TABLE rows OWNER TO ms5_user_test";
    assert_eq!(conversion(field, 0, &["nothing keeps it"]), "pass");
    for (sql, undo, why, cure) in [
        (
            "INSERT INTO rows (a) VALUES (-1)",
            "DELETE FROM rows WHERE ts IS NULL",
            "rows have no ts",
            "WHERE \\\"ts\\\" IS NULL",
        ),
        (
            "CREATE PUBLICATION ms5_all FOR ALL TABLES",
            "DROP PUBLICATION ms5_all",
            "publication ms5_all publishes it",
            "DROP PUBLICATION ms5_all",
        ),
        (
            "CREATE TABLE child (r bigint CONSTRAINT child_r REFERENCES rows)",
            "DROP TABLE child",
            "foreign key child_r of child points to it",
            "ALTER TABLE child DROP CONSTRAINT child_r",
        ),
        (
            "CREATE TABLE heir () INHERITS (rows)",
            "DROP TABLE heir",
            "heir inherits from rows",
            "ALTER TABLE heir NO INHERIT rows",
        ),
        (
            "CREATE RULE no_delete AS ON DELETE TO rows DO INSTEAD NOTHING",
            "DROP RULE no_delete ON rows",
            "it has the rule no_delete",
            "DROP RULE no_delete ON public.rows",
        ),
        (
            "ALTER TABLE rows ADD CONSTRAINT one_each UNIQUE (id, a)",
            "ALTER TABLE rows DROP CONSTRAINT one_each",
            "unique index one_each does not hold ts",
            "drop one_each, or make it anew",
        ),
        (
            "ALTER TABLE rows ADD CONSTRAINT own CHECK (a < 1000) NO INHERIT",
            "ALTER TABLE rows DROP CONSTRAINT own",
            "check own is NO INHERIT",
            "DROP CONSTRAINT own",
        ),
        ("ALTER TABLE rows SET UNLOGGED", "ALTER TABLE rows SET LOGGED", "it is unlogged", "SET LOGGED"),
    ] {
        assert_eq!(conversion(sql, 1, &["cannot become a hypertable", why, cure]), "fail", "{sql}");
        assert_eq!(conversion(undo, 0, &["nothing keeps it"]), "pass", "{undo}");
    }
    // A time that is text, and one that is made of another column.
    let text = "DROP TABLE rows; CREATE TABLE rows (ts text); ALTER TABLE rows OWNER TO ms5_user_test";
    assert_eq!(conversion(text, 1, &["is of type text, which is no time"]), "fail");
    let made = "DROP TABLE rows;
         CREATE TABLE rows (a int, ts bigint GENERATED ALWAYS AS (a * 2) STORED); ALTER TABLE rows OWNER TO ms5_user_test";
    assert_eq!(conversion(made, 1, &["its time column ts is generated"]), "fail");
    let hypertable =
        "DROP TABLE rows; CREATE EXTENSION timescaledb; CREATE TABLE rows (ts timestamptz NOT NULL);
         SELECT create_hypertable('rows', 'ts'); INSERT INTO rows VALUES (now());
         ALTER TABLE rows OWNER TO ms5_user_test";
    assert_eq!(conversion(hypertable, 0, &["no table is there"]), "skipped", "it is one");
}

#[test]
fn files_with_variables_are_read_as_the_runner_reads_them() {
    let text = "\\if :fresh\nCREATE TABLE a (id int);\n\\endif\nCOMMENT ON SCHEMA public IS :'site';\n";
    let lab = lab(&[("001_a.sql", text)]);
    let ran = validate(&lab, "--quick --json --min-disk=1").expect(3);
    assert_eq!(verdict(&ran, "files"), "fail", "{ran}");
    lab.write("../values", b"# of this factory\nsite=hunter2\n");
    let variables = "--vars=fresh=on --vars-file=values";
    let ran = validate(&lab, &format!("--quick --min-disk=1 --report=pre {variables}")).expect(0);
    assert!(!ran.to_string().contains("hunter2"), "{ran}");
    let _ = lab.run(&format!("--gate=pre --report=run {variables}")).expect(0);
    let _ = post_validate(&lab, "--gate=run").run().expect(3);
    let open = post_validate(&lab, &format!("--gate=run {variables}")).run().expect(0);
    let _ = open.shows(&["The gate is open"]);
    let _ = validate(&lab, "--quick --vars=fresh").expect(2).shows(&["--vars takes NAME=VALUE"]);
}

#[test]
fn a_table_that_takes_long_to_be_searched_for_rows_without_time_is_a_warning() {
    let lab = lab(&[A]);
    promise(&lab, "1 day");
    lab.sql("CREATE TABLE rows (ts timestamptz); INSERT INTO rows VALUES (now())");
    // What an index would tell at once: here it is busy.
    let mut other = lab.client();
    other.batch_execute("BEGIN; LOCK TABLE rows IN ACCESS EXCLUSIVE MODE").unwrap();
    let ran = validate(&lab, "--quick --json --min-disk=1").expect(0);
    assert_eq!(verdict(&ran, "conversion"), "warn", "{ran}");
    assert!(words(&ran, "conversion").contains("look yourself: SELECT count(*)"), "{ran}");
}

#[test]
fn what_is_too_small_for_the_database_or_too_far_away() {
    let server = Server::start(Engine::Pg17, &["max_wal_size=32MB", "maintenance_work_mem=64MB"]).unwrap();
    let lab = Lab::new(&server, &[A]);
    let superuser =
        (server.variable("MS5_SANDBOX_SUPERUSER"), server.variable("MS5_SANDBOX_SUPERUSER_PASSWORD"));
    let look =
        |arguments: &str| as_role(&lab, superuser.0, superuser.1, &format!("--quick --json {arguments}"));
    let verdicts = |ran: &Ran| {
        ["max-wal-size", "maintenance-work-mem", "round-trip", "disk-data"].map(|id| verdict(ran, id))
    };
    let small = look("--min-disk=1 --max-round-trip=1000").expect(0);
    assert_eq!(verdicts(&small), ["pass"; 4], "{small}");
    // A file with nothing in it, in the database's folder, counts into the size that the server tells.
    lab.database
        .superuser()
        .unwrap()
        .batch_execute(
            "DO $$ BEGIN EXECUTE format($c$COPY (SELECT 1) TO PROGRAM 'cat >/dev/null && truncate -s 2G %s/base/%s/ms5'$c$,
                 current_setting('data_directory'),
                 (SELECT oid FROM pg_database WHERE datname = current_database())); END $$",
        )
        .unwrap();
    let ran = look("--min-disk=1 --max-round-trip=0").expect(0);
    assert_eq!(verdicts(&ran)[..3], ["warn"; 3], "{ran}");
    let full = look("--min-disk=1000000").expect(1);
    assert_eq!(verdict(&full, "disk-data"), "fail", "{full}");
}

#[test]
fn a_pooler_that_drops_the_time_limits_is_refused() {
    let lab = lab(&[A]);
    let settings = ["pool_mode=session", "ignore_startup_parameters=options"];
    let bouncer = Bouncer::start(Server::shared(Engine::Pg17), &settings).unwrap();
    let ran = program(&lab, "--json --min-disk=1").envs(&bouncer.variables()).run().expect(3);
    assert_eq!(verdict(&ran, "connection"), "fail");
    assert!(words(&ran, "connection").contains("drops the settings"), "{ran}");
}

#[test]
fn without_docker_there_is_nothing_to_look_at() {
    let lab = lab(&[A]);
    let ran = program(&lab, "--quick --json --min-disk=1").env("PATH", lab.home()).run().expect(0);
    assert_eq!(verdict(&ran, "container"), "skipped");
    assert!(words(&ran, "container").contains("there is no Docker here"), "{ran}");
}

#[test]
fn one_session_will_do() {
    let server = Wasm::start().unwrap();
    let home = Lab::new(Server::shared(Engine::Pg17), &[A]);
    let mut client = server.connect().unwrap();
    client
        .batch_execute("CREATE EXTENSION timescaledb; CREATE TABLE rows (ts timestamptz NOT NULL)")
        .unwrap();
    drop(client);
    promise(&home, "1 day");
    let program = |tool: &str| {
        Program::tool(tool).envs(&server.variables()).env("MS5_HOME", home.home()).current_dir(home.home())
    };
    let ran = program("pre-validate").args(["--json", "--min-disk=1"]).run().expect(0);
    for id in ["hypertable", "inventory"] {
        assert_eq!(verdict(&ran, id), "pass", "{ran}");
    }
    assert!(words(&ran, "fingerprint").contains("Rows of public.rows: 0 counted and hashed"), "{ran}");
    assert!(words(&ran, "licence").contains("timescale (Community)"), "{ran}");

    std::fs::write(home.home().join("story"), ran.stdout()).unwrap();
    let run = "--gate=story --report=story --unsafe-single-session";
    let _ = program("migration-runner").args(run.split(' ')).run().expect(0);
    let ran = program("post-validate").arg("--against=story").run();
    let _ = ran.expect(3).shows(&["it has one session only", "take --gate instead"]);
    let _ = program("post-validate").arg("--gate=story").run().shows(&["The gate is open"]);
}

#[test]
fn the_list_is_what_the_documentation_says() {
    let list = Program::tool("pre-validate").arg("--list-checks").run().expect(0).stdout();
    let page = std::fs::read_to_string(project_root().join("docs/checks.md")).unwrap();
    let section = page.split("## pre-validate").nth(1).unwrap().split("\n## ").next().unwrap();
    let lines: Vec<&str> =
        section.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| id ")).collect();
    assert_eq!(lines, list.lines().collect::<Vec<_>>());
}
