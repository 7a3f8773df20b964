//! What migration-runner does beside applying everything: plan, status for scripts, target, repair, adopt, variables.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use migration_tests::lab::Lab;
use migration_tests::server::{Engine, Server};

fn lab(files: &[(&str, &str)]) -> Lab<'static> {
    Lab::new(Server::shared(Engine::Pg17), files)
}

const A: (&str, &str) = ("001_a.sql", "-- 001 - Apple\nCREATE TABLE a (id int);\n");
const B: (&str, &str) = ("002_b.sql", "-- 002 - Birne\nCREATE TABLE b (id int);\n");
const C: (&str, &str) = ("003_c.sql", "-- 003 - Citron\nCREATE TABLE c (id int);\n");

/// Everything a mode that only looks must leave as it is.
const STATE: &str = "SELECT md5(string_agg(c.oid || relname, ',' ORDER BY c.oid)) || coalesce((SELECT md5(string_agg(x::text, ',')) FROM pg_database x WHERE datname = current_database()), '') FROM pg_class c";

#[test]
fn a_plan_shows_transaction_lock_and_rewriting_of_each_statement() {
    let lab = lab(&[
        (
            "001_a.sql",
            "-- 001 - Plan\nALTER TABLE a ALTER COLUMN id TYPE bigint;\nCREATE INDEX i ON a (id);\nSELECT f();\n",
        ),
        ("002_b.sql", "CREATE INDEX CONCURRENTLY j ON a (id);\nUPDATE a SET id = 1;\n"),
    ]);
    lab.sql("CREATE TABLE a (id int)");
    let before = lab.ask(STATE);
    let _ = lab.run("--plan").expect(0).shows(&[
        "001 - Plan (001_a.sql), in one transaction",
        "001_a.sql:2:1 ALTER TABLE a ALTER COLUMN id TYPE bigint",
        "in the file's transaction; AccessExclusiveLock on a; may rewrite the table",
        "ShareLock on a",
        "002 - B (002_b.sql), statement by statement",
        "outside a transaction (CREATE INDEX CONCURRENTLY); ShareUpdateExclusiveLock on a",
        "in a transaction of its own; RowExclusiveLock on a",
        "Plan: 5 statements would be executed; nothing was changed",
    ]);
    assert_eq!(lab.ask(STATE), before);
    let records = lab.run("--plan --json").expect(0).records();
    let statements: Vec<_> = records.iter().filter(|record| record["type"] == "statement").collect();
    assert_eq!(statements.len(), 5);
    assert_eq!(statements[1]["lock"], "ShareLock");
    assert_eq!(statements[1]["on"], "a");
    assert!(statements[2]["unknown"].is_string(), "{}", statements[2]);
    assert_eq!(statements[3]["in_transaction"], false);
}

#[test]
fn status_with_exit_code_is_1_until_everything_is_applied() {
    let lab = lab(&[A, B]);
    let _ = lab.run("--status").expect(0);
    let _ = lab.run("--status --exit-code").expect(1).shows(&["002 - Birne: pending"]);
    let _ = lab.run("").expect(0);
    let _ = lab.run("--status --exit-code").expect(0);
    lab.write("002_b.sql", b"-- 002 - Birne\nCREATE TABLE b2 (id int);\n");
    let ran = lab.run("--status --exit-code --json").expect(1);
    let records = ran.records();
    assert!(records.iter().any(|record| record["standing"] == "changed"), "{ran}");
    let _ = lab.run("--exit-code").expect(2).shows(&["--exit-code goes with --status only"]);
    let _ = lab.run("--status --plan").expect(2).shows(&["exclude each other"]);
}

#[test]
fn a_target_stops_after_its_number() {
    let lab = lab(&[A, B, C]);
    let _ = lab.run("--dry-run --target=2").expect(0).shows(&["Beyond the target: 003 - Citron"]);
    let _ =
        lab.run("--target=2").expect(0).shows(&["All migrations up to 002 are applied", "of 2 migrations"]);
    assert_eq!(lab.ask("SELECT to_regclass('b') IS NOT NULL AND to_regclass('c') IS NULL"), "true");
    let _ = lab.run("--target=1").expect(0).shows(&["0 applied, 1 already applied"]);
    let _ = lab.run("--target=9").expect(2).shows(&["no migration has that number"]);
    let _ = lab.run("").expect(0).shows(&["1 applied, 2 already applied", "All migrations completed"]);
}

#[test]
fn repair_accepts_a_changed_file_after_showing_what_changed() {
    let lab = lab(&[A, B]);
    let _ = lab.run("").expect(0);
    let was = lab.ask("SELECT checksum FROM migration_log WHERE migration_file = '002_b.sql'");
    lab.write(B.0, b"-- 002 - Birne\nCREATE TABLE b (id bigint);\nSELECT 1;\n");
    let _ = lab.run("").expect(1).shows(&["--repair"]);
    let _ = lab.run("--repair").expect(0).shows(&[
        "002_b.sql has changed since it was applied",
        &format!("checksum then: {was}"),
        "checksum now:  ",
        "- CREATE TABLE b (id int)",
        "+ 002_b.sql:2:1 CREATE TABLE b (id bigint)",
        "+ 002_b.sql:3:1 SELECT 1",
        "nothing of it was executed",
    ]);
    assert_eq!(
        lab.ask(
            "SELECT atttypid::regtype FROM pg_attribute WHERE attrelid = 'b'::regclass AND attname = 'id'"
        ),
        "integer"
    );
    let _ = lab.run("").expect(0).shows(&["0 applied, 2 already applied"]);
    assert_eq!(
        lab.ask(&format!("SELECT outcome || ' ' || (replaced->>'checksum' = '{was}') FROM migration_attempts ORDER BY id DESC LIMIT 1")),
        "repaired true"
    );
    let _ = lab.run("--repair").expect(0).shows(&["nothing to repair"]);
    // Only a comment: the statements are the same.
    lab.write(B.0, b"-- 002 - Birne\n-- why\nCREATE TABLE b (id bigint);\nSELECT 1;\n");
    let _ = lab.run("--repair").expect(0).shows(&["the statements are the same"]);
}

#[test]
fn a_text_with_a_password_is_not_kept() {
    let lab = lab(&[("001_a.sql", "DO $$ BEGIN END $$;\nALTER ROLE CURRENT_USER PASSWORD NULL;\n")]);
    lab.write("001_a.sql", b"CREATE TABLE password (id int);\n");
    let _ = lab.run("").expect(0);
    assert_eq!(lab.ask("SELECT count(*) FROM migration_texts"), "0");
    lab.write("001_a.sql", b"CREATE TABLE passwords (id int);\n");
    let _ = lab.run("--repair").expect(0).shows(&["the text that was applied was not kept"]);
}

const OLD_LEDGER: &str = "
CREATE TABLE migration_log (id serial PRIMARY KEY, migration_name varchar(255) UNIQUE NOT NULL,
    migration_file varchar(255) NOT NULL, applied_at timestamptz DEFAULT now(),
    applied_by varchar(255) DEFAULT current_user, execution_time_ms integer, success boolean NOT NULL DEFAULT true,
    error_message text, checksum varchar(64));
INSERT INTO migration_log (migration_name, migration_file) VALUES ('001 - Apple', '001_a.sql'), ('002 - Birne', '002_b.sql');";

#[test]
fn adopt_proves_what_another_tool_applied_and_records_it() {
    // A server of its own: what the role may do, and which databases there are, is the server's.
    let server = Server::start(Engine::Pg17, &[]).unwrap();
    let lab = Lab::new(&server, &[A, B, C]);
    lab.sql(OLD_LEDGER);
    lab.sql("CREATE TABLE a (id int); CREATE TABLE own (id int); INSERT INTO a VALUES (1)");
    lab.database.superuser().unwrap().batch_execute("ALTER ROLE ms5_user_test NOCREATEDB").unwrap();
    // b is recorded as applied, and is not there: psql had printed an error.
    let denied = lab.run("--adopt").expect(1);
    let _ = denied.shows(&["cannot create a scratch database", "ALTER ROLE ms5_user_test CREATEDB"]);
    lab.database.superuser().unwrap().batch_execute("ALTER ROLE ms5_user_test CREATEDB").unwrap();
    let _ = lab.run("--adopt").expect(1).shows(&[
        "3 objects that the files make",
        "missing: table public.b",
        "nothing was recorded",
    ]);
    lab.sql("CREATE TABLE b (id bigint)");
    let _ = lab.run("--adopt").expect(1).shows(&["changed: column public.b.id"]);
    assert_eq!(lab.ask("SELECT count(*) FROM migration_attempts"), "0");
    lab.sql("ALTER TABLE b ALTER COLUMN id TYPE int");
    let _ = lab
        .run("--adopt")
        .expect(0)
        .shows(&["Migration 001 - Apple adopted", "Migration 002 - Birne adopted"]);
    assert_eq!(lab.ask("SELECT string_agg(outcome, ',') FROM migration_attempts"), "adopted,adopted");
    assert_eq!(
        lab.ask("SELECT count(*) FROM pg_database WHERE datname LIKE 'ms5_adopt%'"),
        "0",
        "the scratch database is gone"
    );
    let _ = lab.run("").expect(0).shows(&["1 applied, 2 already applied"]);
    assert_eq!(lab.ask("SELECT count(*) FROM a"), "1");
    let _ = lab.run("--adopt").expect(0).shows(&["nothing to adopt"]);

    // A file that wants what only the field has.
    let lab = Lab::new(&server, &[("001_a.sql", "-- 001 - Apple\nALTER TABLE field ADD COLUMN x int;\n")]);
    lab.sql(OLD_LEDGER);
    let _ = lab.run("--adopt").expect(1).shows(&[
        "it fails in an empty scratch database",
        "42P01",
        "nothing was touched",
    ]);
    assert_eq!(lab.ask("SELECT count(*) FROM pg_database WHERE datname LIKE 'ms5_adopt%'"), "0");
}

#[test]
fn variables_come_from_flags_and_from_a_file_and_no_value_is_shown() {
    let lab = lab(&[("001_a.sql", "CREATE TABLE :\"name\" AS SELECT :'one' AS a, :'two' AS b;\n")]);
    let _ = lab.run("--vars=name=t").expect(1);
    std::fs::write(lab.home().join("vars"), "# comment\none=from the file\ntwo = no, here\n").unwrap();
    let _ = lab.run("--vars-file=vars").expect(3).shows(&["vars:3: not NAME=VALUE"]);
    std::fs::write(lab.home().join("vars"), "one=file\ntwo=hunter2\n\n").unwrap();
    let ran = lab.runner("--vars-file=vars --vars name=t").args(["--vars=one=it's"]).run().expect(0);
    assert_eq!(lab.ask("SELECT a || ' ' || b FROM t"), "it's hunter2", "the command line wins");
    assert!(!ran.stdout().contains("hunter2") && !lab.log().contains("hunter2"));
    assert_eq!(lab.ask("SELECT count(*) FROM migration_texts"), "0", "what may hold a secret is not kept");
    lab.write("002_b.sql", b"SELECT :'one';\nSELECT nonsense;\n");
    let ran = lab
        .runner("--vars-file=vars --vars name=t")
        .args(["--vars=one=secret1", "--vars", "two=secret2"])
        .run()
        .expect(1);
    assert!(!ran.stdout().contains("secret") && !ran.stderr().contains("secret"), "{ran}");
    let _ = ran.shows(&["--vars name=... --vars=one=... --vars two=..."]);
    let _ = lab.run("--vars=nonsense").expect(2).shows(&["--vars takes NAME=VALUE"]);
    let _ = lab.run("--vars-file=/nonexistent").expect(3).shows(&["cannot read the variables"]);
}

#[test]
fn no_view_of_the_files_shows_a_secret() {
    let function = "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'ALTER ROLE a PASSWORD ' || quote_literal('hunter3'); END $$;\n";
    let lab = lab(&[
        ("001_a.sql", "SELECT :'one' AS a, :two AS b;\n"),
        ("002_b.sql", &format!("{function}SELECT 'password=hunter4';\n")),
    ]);
    std::fs::write(lab.home().join("vars"), "one=hunter1\ntwo='hunter2'\n").unwrap();
    for mode in ["--plan --json", "--plan", "--dry-run --verbose", "--verbose"] {
        let ran = lab.run(&format!("--vars-file=vars {mode}")).expect(0);
        for text in [format!("{}{}", ran.stdout(), ran.stderr()), lab.log()] {
            assert!(text.contains("SELECT :... AS a, :... AS b"), "{mode}: {text}");
            assert!(text.contains("CREATE FUNCTION f()"), "{mode}: {text}");
            assert!(!text.contains("hunter"), "{mode}: {text}");
        }
    }
    // Without variables the texts are kept, but for those with a password.
    lab.write("001_a.sql", b"SELECT 1;\n");
    lab.write("002_b.sql", function.as_bytes());
    let _ = lab.run("--repair").expect(0).shows(&["Migration 001 - A accepted as it is now"]);
    assert_eq!(lab.ask("SELECT string_agg(statements::text, ',') FROM migration_texts"), "{\"SELECT 1\"}");
}

#[test]
fn adopt_refuses_what_changes_the_whole_server_and_clears_away_what_killed_runs_have_left() {
    // A server of its own: roles and databases are the server's.
    let server = Server::start(Engine::Pg17, &[]).unwrap();
    let file = "-- 001 - Apple\nCREATE TABLE a (id int);\nDO $$ BEGIN CREATE ROLE adopted; END $$;\n";
    let lab = Lab::new(&server, &[("001_a.sql", file), B]);
    lab.sql(OLD_LEDGER);
    lab.sql("CREATE TABLE a (id int); CREATE TABLE b (id int)");
    let mut superuser = server.superuser("postgres").unwrap();
    superuser.batch_execute("ALTER ROLE ms5_user_test CREATEDB CREATEROLE").unwrap();
    let (dead, alive, other) =
        ("ms5_adopt_1_20240101_000000", "ms5_adopt_2_20240101_000000", "ms5_adopt_mine");
    for name in [dead, alive, other] {
        superuser.batch_execute(&format!("CREATE DATABASE {name} OWNER ms5_user_test")).unwrap();
    }
    assert!(name_lock_taken(&mut superuser, alive));
    let _ = lab.run("--adopt").expect(3).shows(&[
        "--adopt cannot prove files that change the whole server",
        "001_a.sql:3:4: CREATE ROLE",
        "nothing was touched",
        &format!("Dropped what a killed run has left: the scratch database {dead}"),
    ]);
    assert_eq!(lab.ask("SELECT count(*) FROM pg_roles WHERE rolname = 'adopted'"), "0");
    assert_eq!(
        lab.ask("SELECT string_agg(datname, ',' ORDER BY datname) FROM pg_database WHERE datname LIKE 'ms5\\_adopt%'"),
        format!("{alive},{other}")
    );
    lab.write("001_a.sql", b"-- 001 - Apple\nCREATE TABLE a (id int);\n");
    let _ = lab.run("--adopt").expect(0).shows(&["Migration 001 - Apple adopted"]);
}

/// Takes the lock on a database's name, as whoever makes one does.
fn name_lock_taken(client: &mut postgres::Client, name: &str) -> bool {
    let key = ms5_common::db::name_lock::key(name);
    client.query_one("SELECT pg_try_advisory_lock($1)", &[&key]).unwrap().get(0)
}
