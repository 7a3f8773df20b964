//! The chain: pre-validate, the runner and post-validate behind gates, by pipe and by file, as a shell starts them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use migration_tests::lab::Lab;
use migration_tests::program::{Program, Ran, bin_dir, project_root};
use migration_tests::server::{Engine, Server};

const A: (&str, &str) = ("001_a.sql", "CREATE TABLE a (id int);");

fn lab() -> Lab<'static> {
    Lab::new(Server::shared(Engine::Pg17), &[A])
}

/// A line of sh, in which the tools are found and `$PRE` is a pre-validate with limits that any machine keeps.
fn sh(lab: &Lab<'_>, line: &str) -> Ran {
    let path = format!("{}:/usr/bin:/bin", bin_dir().unwrap().display());
    Program::at(Path::new("/bin/sh"))
        .envs(&lab.database.variables())
        .env("MS5_HOME", lab.home())
        .env("PATH", path)
        .env("PRE", "pre-validate --json --quick --min-disk=1 --min-memory=1")
        .current_dir(lab.home())
        .args(["-c", line])
        .run()
}

fn untouched(lab: &Lab<'_>, ran: &Ran) {
    let nothing = "SELECT to_regclass('a') IS NULL AND to_regclass('migration_log') IS NULL";
    assert_eq!(lab.ask(nothing), "true", "{ran}");
}

#[test]
fn by_pipe_the_last_one_holds_the_whole_story() {
    let lab = lab();
    let ran = sh(&lab, "$PRE | migration-runner --gate=- --json").expect(0);
    let records = ran.records();
    let verdicts: Vec<_> = records.iter().filter(|record| record["type"] == "verdict").collect();
    assert_eq!(verdicts.len(), 2);
    assert!(verdicts.iter().all(|verdict| verdict["ok"] == true), "{ran}");
    assert!(records.iter().any(|record| record["type"] == "check"), "the checks are passed on");
    assert_eq!(lab.ask("SELECT to_regclass('a') IS NOT NULL"), "true");
}

#[test]
fn by_files_one_after_the_other() {
    let lab = lab();
    let _ = sh(&lab, "$PRE > pre.json && migration-runner --gate=pre.json").expect(0);
    assert_eq!(lab.ask("SELECT to_regclass('a') IS NOT NULL"), "true");
}

#[test]
fn whatever_is_wrong_upstream_nothing_is_touched_without_pipefail_too() {
    let lab = lab();
    let other = Server::shared(Engine::Pg17).database().unwrap();
    for (upstream, why) in [
        ("true".to_owned(), "no record of pre-validate"),
        ("$PRE --min-disk=1000000".to_owned(), "did not pass"),
        ("$PRE --bogus".to_owned(), "did not pass"),
        ("$PRE | head -c 700".to_owned(), "not a record"),
        ("$PRE | head -n 3".to_owned(), "did not come to a verdict"),
        // The shell ends it before it can have said anything.
        ("( sh -c 'kill -9 $$; exec false' )".to_owned(), "no record of pre-validate"),
        (format!("DB_NAME={} $PRE", other.name), "looked at another database"),
        ("echo '\\restrict'".to_owned(), "not a record"),
    ] {
        let ran = sh(&lab, &format!("{upstream} | migration-runner --gate=-")).expect(1);
        let ran = ran.shows(&[why]);
        untouched(&lab, &ran);
    }
    let _ = sh(&lab, "$PRE > pre.json; sleep 1.2").expect(0);
    let ran =
        sh(&lab, "migration-runner --gate=pre.json --gate-max-age=0").expect(1).shows(&["--gate-max-age"]);
    untouched(&lab, &ran);
    lab.write("001_a.sql", b"CREATE TABLE a (id bigint);");
    let ran = sh(&lab, "migration-runner --gate=pre.json").expect(1).shows(&["other migration files"]);
    untouched(&lab, &ran);
}

const FIELD: [&str; 3] = ["schema.sql", "reference.sql", "data.sql"];

/// The field's database, not yet migrated.
fn field() -> Lab<'static> {
    let lab = Lab::new(Server::shared(Engine::Pg17), &[]);
    let files: Vec<PathBuf> =
        FIELD.iter().map(|file| project_root().join("tests/fixtures/field").join(file)).collect();
    let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    let _ = lab.database.psql_files(&[], &files).expect(0);
    lab
}

const CHAIN: &str = "pre-validate --json --min-disk=1 --min-memory=1 | migration-runner --gate=- --json | post-validate --against=- --json";

fn chain(lab: &Lab<'_>, line: &str) -> Ran {
    let folder = project_root().join("migrations");
    sh(lab, &format!("export MS5_MIGRATIONS_DIR='{}'; {line}", folder.display()))
}

#[test]
fn every_row_of_the_field_is_proven_and_each_tampering_is_found() {
    let lab = field();
    lab.sql(
        "GRANT SELECT ON factory_telemetry.users TO ms5_user_staging;
         COMMENT ON COLUMN factory_telemetry.users.id IS 'never reused'",
    );
    let ran = chain(&lab, &format!("{CHAIN} > story.json")).expect(0);
    let ran = ran.shows(&[
        "Rows of factory_telemetry.metric_hist: all ",
        "are there as they were",
        "✅ Post-migration validation passed",
    ]);
    assert_eq!(ran.stderr().matches("are there as they were").count(), 5, "{ran}");
    let mut superuser = lab.database.superuser().unwrap();
    let mut tamper = |sql: &str, code: i32, words: &[&str]| {
        superuser.batch_execute(sql).unwrap();
        let _ = chain(&lab, "post-validate --against=story.json").expect(code).shows(words);
    };
    tamper(
        "INSERT INTO factory_telemetry.energy_consumption (equipment_code, consumption_time, power_consumption_kw, energy_consumption_kwh)
         SELECT equipment_code, consumption_time, 1, 1 FROM factory_telemetry.energy_consumption LIMIT 3",
        0,
        &["; 3 were added since"],
    );
    tamper(
        "UPDATE factory_telemetry.metric_hist SET value_real = coalesce(value_real, 0) + 1
         WHERE (id, ts) = (SELECT id, ts FROM factory_telemetry.metric_hist WHERE value_real IS NOT NULL LIMIT 1)",
        1,
        &["Rows of factory_telemetry.metric_hist are lost or are not what they were", "with other content"],
    );
    tamper(
        "CREATE TEMP TABLE gone AS SELECT * FROM factory_telemetry.oee_calculations ORDER BY id LIMIT 1;
         DELETE FROM factory_telemetry.oee_calculations WHERE id = (SELECT id FROM gone);
         UPDATE gone SET id = 1000000000;
         INSERT INTO factory_telemetry.oee_calculations SELECT * FROM gone",
        1,
        &["Rows of factory_telemetry.oee_calculations are lost", "1 row of ", " (UTC) lost: "],
    );
    tamper(
        "SELECT drop_chunks('factory_telemetry.production_context_history', newer_than => '-infinity'::timestamptz)",
        1,
        &["Rows of factory_telemetry.production_context_history are lost"],
    );
    tamper(
        "DROP INDEX factory_telemetry.idx_users_department",
        1,
        &["Objects: 1 object gone, and no file says so", "index factory_telemetry.idx_users_department"],
    );
    tamper(
        "REVOKE SELECT ON factory_telemetry.users FROM ms5_user_staging;
         COMMENT ON COLUMN factory_telemetry.users.id IS NULL",
        1,
        &[
            "Objects: 3 objects gone, and no file says so",
            "comment on table column factory_telemetry.users.id",
            "grant SELECT to ms5_user_staging on factory_telemetry.users",
        ],
    );
    tamper(
        "DROP TABLE factory_telemetry.production_kpis CASCADE",
        1,
        &["Rows of factory_telemetry.production_kpis are lost", "the table is gone, and with it "],
    );
}

/// A chain on the lab's own files that notes all objects, and the rows of these tables.
fn noted(lab: &Lab<'_>, tables: &str) {
    let pre = format!("pre-validate --json --min-disk=1 --min-memory=1 --fingerprint={tables}");
    let _ = sh(lab, &format!("{pre} | migration-runner --gate=- --json > story.json")).expect(0);
}

#[test]
fn what_is_lost_of_a_hypertable_and_what_guards_less_is_found() {
    let lab = field();
    lab.sql(
        "SET search_path = factory_telemetry;
         GRANT SELECT ON metric_hist TO ms5_user_staging;
         COMMENT ON COLUMN metric_hist.value_text IS 'as sent';
         ALTER TABLE users ADD badge int NOT NULL DEFAULT 7, ADD seat int GENERATED ALWAYS AS IDENTITY;
         CREATE UNIQUE INDEX users_names ON users (lower(username));
         CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         CREATE TRIGGER stamp BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION stamp();
         ALTER TABLE production_lines ENABLE ROW LEVEL SECURITY; CREATE POLICY all_rows ON production_lines USING (true)",
    );
    let _ = chain(&lab, &format!("{CHAIN} > story.json")).expect(0).shows(&["Objects: nothing is gone of "]);
    lab.sql(
        "SET search_path = factory_telemetry;
         DROP INDEX ix_metric_hist_def_ts;
         REVOKE SELECT ON metric_hist FROM ms5_user_staging;
         COMMENT ON COLUMN metric_hist.value_text IS NULL;
         ALTER TABLE users ALTER badge DROP NOT NULL, ALTER badge DROP DEFAULT, ALTER seat DROP IDENTITY, DISABLE TRIGGER stamp,
             DROP CONSTRAINT users_role_check, ADD CONSTRAINT users_role_check CHECK (role <> '');
         DROP INDEX users_names; CREATE INDEX users_names ON users (lower(username));
         CREATE OR REPLACE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END';
         ALTER TABLE production_lines DISABLE ROW LEVEL SECURITY",
    );
    let _ = chain(&lab, "post-validate --no-data-integrity --against=story.json").expect(1).shows(&[
        "objects gone, and no file says so",
        "index factory_telemetry.ix_metric_hist_def_ts",
        "grant SELECT to ms5_user_staging on factory_telemetry.metric_hist",
        "comment on table column factory_telemetry.metric_hist.value_text",
        "Objects: 6 objects changed for the worse, and no file says so",
        "column factory_telemetry.users.badge: has lost NOT NULL and default 7",
        "column factory_telemetry.users.seat: has lost identity a",
        "constraint factory_telemetry.users.users_role_check: was CHECK",
        "index factory_telemetry.users_names: was CREATE UNIQUE INDEX",
        "trigger factory_telemetry.users.stamp: was CREATE TRIGGER",
        "table factory_telemetry.production_lines: row security is switched off",
        "Objects: 1 object defined otherwise than before, and no file says so",
        "function factory_telemetry.stamp()",
    ]);
}

#[test]
fn what_the_files_drop_rename_and_alter_is_no_loss_and_nothing_beside_it_is_excused() {
    let lab = Lab::new(
        Server::shared(Engine::Pg17),
        &[(
            "001_a.sql",
            "DROP TABLE gone CASCADE;
             ALTER TABLE old_name RENAME TO new_name;
             ALTER TABLE cut DROP COLUMN b, ALTER COLUMN id DROP IDENTITY, ALTER c DROP NOT NULL, ALTER c DROP DEFAULT;
             ALTER TABLE kept RENAME COLUMN a TO b;
             REVOKE SELECT ON kept FROM public;
             COMMENT ON TABLE kept IS NULL;
             COMMENT ON COLUMN kept.b IS 'this one stays';
             DROP TRIGGER g ON kept;
             CREATE OR REPLACE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END';
             DO $$ DECLARE name text := 'kept'; BEGIN
                 EXECUTE format('ALTER TABLE %I RENAME CONSTRAINT %I TO %I', name, 'kept_b_key', 'kept_is_unique');
                 IF true THEN DROP INDEX kept_e; END IF;
             END $$;",
        )],
    );
    lab.sql(
        "CREATE TABLE gone (id int PRIMARY KEY, v int CHECK (v > 0)); CREATE INDEX gone_v ON gone (v);
         CREATE VIEW on_gone AS SELECT v FROM gone; CREATE VIEW on_that AS SELECT * FROM on_gone; GRANT SELECT ON on_that TO public;
         CREATE TABLE old_name (id int PRIMARY KEY); GRANT SELECT ON old_name TO public;
         CREATE TABLE to_both (g int CONSTRAINT to_gone REFERENCES gone, o int CONSTRAINT to_old REFERENCES old_name);
         CREATE TABLE cut (id int GENERATED ALWAYS AS IDENTITY, b int UNIQUE, c int NOT NULL DEFAULT 5);
         CREATE INDEX cut_b_c ON cut (b, c);
         CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
         CREATE TABLE kept (a int, d int CONSTRAINT kept_b_key UNIQUE, e int); CREATE INDEX kept_a ON kept (a);
         CREATE INDEX kept_e ON kept (e); CREATE INDEX kept_d_e ON kept (d, e); GRANT SELECT ON kept TO public;
         CREATE TRIGGER g BEFORE UPDATE ON kept FOR EACH ROW EXECUTE FUNCTION f();
         CREATE TRIGGER h BEFORE UPDATE ON kept FOR EACH ROW EXECUTE FUNCTION f();
         COMMENT ON TABLE kept IS 'a'; COMMENT ON COLUMN kept.a IS 'b'",
    );
    noted(&lab, "public.to_both");
    let validate = || sh(&lab, "post-validate --no-data-integrity --against=story.json");
    let ran = validate().expect(0).shows(&["Objects: nothing is gone of "]);
    assert!(!ran.to_string().contains("otherwise than before"), "{ran}");
    lab.sql(
        "DROP TRIGGER h ON kept; DROP INDEX kept_d_e; COMMENT ON COLUMN kept.b IS NULL;
         ALTER TABLE to_both DROP CONSTRAINT to_old",
    );
    let _ = validate().expect(1).shows(&[
        "Objects: 3 objects gone, and no file says so",
        "trigger public.kept.h",
        "index public.kept_d_e",
        "constraint public.to_both.to_old",
    ]);
}

#[test]
fn fewer_rows_are_a_loss_without_a_key_too_unless_a_file_takes_rows() {
    const SETUP: &str = "CREATE TABLE keyless (v int); INSERT INTO keyless SELECT generate_series(1, 5);
                         CREATE TABLE swept (v int); INSERT INTO swept SELECT generate_series(1, 5)";
    let lab =
        Lab::new(Server::shared(Engine::Pg17), &[("001_a.sql", "DELETE FROM public.swept WHERE v = 1;")]);
    lab.sql(SETUP);
    noted(&lab, "public.keyless,public.swept");
    let validate = || sh(&lab, "post-validate --no-data-integrity --against=story.json");
    let _ = validate().expect(0).shows(&["Rows of public.swept: not proven that all are there", "4 now"]);
    // One for one: which was which, nobody can tell.
    lab.sql("DELETE FROM keyless WHERE v = 1; INSERT INTO keyless VALUES (6)");
    let _ = validate().expect(0).shows(&["Rows of public.keyless: not proven that all are there"]);
    lab.sql("DELETE FROM keyless WHERE v = 2");
    let _ = validate().expect(1).shows(&["Rows of public.keyless are lost", "1 row lost: 5 before, 4 now"]);
}

#[test]
fn the_way_back_is_a_backup_from_before_the_migration() {
    let lab = lab();
    lab.sql("CREATE TABLE t (id serial PRIMARY KEY); INSERT INTO t SELECT FROM generate_series(1, 5)");
    noted(&lab, "public.t");
    let backup = |name: &str| {
        let path = format!("{}:/usr/bin:/bin", Server::shared(Engine::Pg17).bin().display());
        let _ = Program::tool("backup-manager")
            .envs(&lab.database.variables())
            .env("MS5_HOME", lab.home())
            .env("PATH", path)
            .args(["backup", name, "full", "--environment=test"])
            .run()
            .expect(0);
    };
    // What is taken after the loss has it in it.
    lab.sql("DELETE FROM t WHERE id = 3");
    backup("post_migration");
    let validate = || sh(&lab, "post-validate --no-data-integrity --against=story.json").expect(1);
    let ran = validate().shows(&["Rows of public.t are lost", "no full backup", "is from before "]);
    assert!(!ran.to_string().contains("restore post_migration"), "{ran}");
    lab.sql("INSERT INTO t VALUES (3)");
    backup("pre_migration");
    lab.write("002_b.sql", b"CREATE TABLE b (id int);");
    noted(&lab, "public.t");
    lab.sql("DELETE FROM t WHERE id = 3");
    backup("post_migration");
    let ran = validate().shows(&["restore pre_migration_", " --force", "as it was at "]);
    assert!(!ran.to_string().contains("restore post_migration"), "{ran}");
}

#[test]
fn a_session_that_is_refused_midway_is_no_failure_to_reach() {
    let lab = lab();
    lab.sql("CREATE TABLE t (id serial PRIMARY KEY)");
    noted(&lab, "public.t");
    lab.sql(&format!("ALTER DATABASE {} CONNECTION LIMIT 1", lab.database.name));
    let line = "post-validate --no-data-integrity --against=story.json";
    let _ = sh(&lab, line).expect(1).shows(&["too many connections"]);
}

#[test]
fn a_writer_all_the_while_raises_no_alarm() {
    let lab = field();
    let stop = AtomicBool::new(false);
    let written = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut client = lab.client();
            let mut written = 0;
            while !stop.load(Ordering::SeqCst) {
                let inserted = client.execute(
                    "INSERT INTO factory_telemetry.metric_hist (metric_def_id, ts, value_real)
                     SELECT metric_def_id, now(), 1 FROM factory_telemetry.metric_hist LIMIT 1",
                    &[],
                );
                written += inserted.unwrap_or(0);
                thread::sleep(Duration::from_millis(5));
            }
            written
        });
        let ran = chain(&lab, CHAIN);
        stop.store(true, Ordering::SeqCst);
        let _ = ran.expect(0).shows(&["Rows of factory_telemetry.metric_hist: all ", "were added since"]);
        writer.join().unwrap()
    });
    assert!(written > 20, "{written} rows were written meanwhile");
}

#[test]
fn post_validate_refuses_what_is_no_whole_chain() {
    let lab = lab();
    let _ = sh(&lab, "$PRE > pre.json && migration-runner --gate=pre.json --report=run.json").expect(0);
    for (line, why) in [
        ("post-validate --against=pre.json", "no record of migration-runner"),
        ("migration-runner --json --dry-run --gate=pre.json | post-validate --against=-", "it was a dry run"),
        ("true | post-validate --against=-", "no record of pre-validate"),
        ("head -c 900 run.json | post-validate --against=-", "not a record"),
    ] {
        let _ = sh(&lab, line).expect(1).shows(&[why]);
    }
    let _ = sh(&lab, "post-validate --against=run.json").expect(0).shows(&["has counted no rows"]);
    let _ = sh(&lab, "post-validate --against=run.json --strict").expect(1);
}
