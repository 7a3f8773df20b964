//! `restore --in-place`, for a role that may not create databases: one transaction, so that whatever ends it early leaves the
//! database as it was.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use migration_tests::backups::{Backups, HYPERTABLES, PLAIN};
use migration_tests::server::{Engine, Server};

static ROLE: Mutex<()> = Mutex::new(());

/// A database of a role that may make no other.
fn backups(engine: Engine, sql: &str) -> Backups<'static> {
    let backups = Backups::new(engine, sql);
    // Two that alter a role at once disturb each other.
    let _turn = ROLE.lock().unwrap_or_else(PoisonError::into_inner);
    backups.superuser("postgres").batch_execute("ALTER ROLE ms5_user_test NOCREATEDB").unwrap();
    backups
}

/// Everything that a migration might leave behind.
const CHANGES: &str = r#"
    DROP TABLE "line
break";
    UPDATE parent SET name = 'changed';
    DELETE FROM parts;
    CREATE TABLE later (id int);
    CREATE SCHEMA extra;
    CREATE TABLE extra.more (id int PRIMARY KEY);
    CREATE TABLE public.points (id int REFERENCES extra.more);
    CREATE FUNCTION newer() RETURNS int LANGUAGE sql AS 'SELECT 1';
    CREATE TYPE kind AS ENUM ('a', 'b');
    CREATE DOMAIN small AS int CHECK (VALUE < 10);
    CREATE VIEW w AS SELECT * FROM later;
    CREATE SEQUENCE another;
    SELECT lo_from_bytea(0, 'later');
"#;

#[test]
fn brings_back_what_was_there_without_the_right_to_create_databases() {
    for engine in [Engine::Plain, Engine::Pg17] {
        let backups = backups(engine, &format!("{PLAIN}SELECT lo_from_bytea(4711, 'large');\n"));
        let (before, inventory) = (backups.content(), backups.lab.database.inventory());
        let folder = backups.backup("before full");
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        backups.lab.sql(CHANGES);
        if engine == Engine::Pg17 {
            backups.lab.sql("CREATE EXTENSION timescaledb");
            for statement in HYPERTABLES.split(";\n").skip(1).filter(|statement| !statement.trim().is_empty())
            {
                backups.lab.sql(statement);
            }
        }
        let _ = backups.run("restore before --force").expect(3).shows(&["may not create databases"]);
        let _ =
            backups.run("restore before --in-place").expect(1).shows(&["holds data", "nothing was touched"]);
        let _ = backups.run("restore before --in-place --force --drop-old").expect(2);
        let ran = backups.run("restore before --in-place --force").expect(0).shows(&[
            "What that cannot promise",
            "the way back is another backup",
            "Every row and every object is as it was backed up",
            "✅ Restore completed",
        ]);
        assert_eq!(backups.content(), before, "{ran}");
        backups.has_objects_of(&inventory);
        assert_eq!(backups.lab.ask("SELECT convert_from(lo_get(4711), 'UTF8')"), "large");
        assert_eq!(backups.lab.ask("SELECT count(*) FROM pg_largeobject_metadata"), "1");
        assert_eq!(backups.databases(&format!("{}_before", backups.lab.database.name)).len(), 0);
        backups.lab.write("001_a.sql", b"SELECT 1;");
        let _ = backups
            .post_validate("--no-data-integrity")
            .expect(0)
            .shows(&[&format!("The database is rolled back to {name}")]);
        // Once more, over what it has just made.
        let _ = backups.run("rollback before --in-place --force").expect(0);
        assert_eq!(backups.content(), before);
    }
}

#[test]
fn whatever_ends_it_early_leaves_the_database_as_it_was() {
    let backups = backups(Engine::Plain, PLAIN);
    let _ = backups.backup("before full");
    backups.lab.sql(CHANGES);
    let before = backups.content();
    let restore = || backups.tool("restore before --in-place --force");
    // A table that somebody uses is waited for, and not for ever.
    let mut holder = backups.lab.client();
    holder.batch_execute("BEGIN; LOCK TABLE later IN ACCESS SHARE MODE").unwrap();
    let ran = restore().run().expect(1).shows(&["lock timeout", "is as it was: all was rolled back"]);
    assert_eq!(backups.content(), before, "{ran}");
    // Signals, while it waits.
    for (signal, code) in [("TERM", 143), ("KILL", 137)] {
        let run = restore().start();
        backups.lab.wait_for(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'backup-manager restore'
                            AND datname = current_database() AND wait_event_type = 'Lock')",
        );
        let begun = Instant::now();
        run.signal(signal);
        let _ = run.wait().expect(code);
        assert!(begun.elapsed() < Duration::from_secs(8), "it waited for the lock");
        holder.batch_execute("SELECT 1").unwrap();
        backups.lab.wait_for(
            "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name LIKE 'backup-manager%'
                                AND datname = current_database())",
        );
        assert_eq!(backups.content(), before);
    }
    drop(holder);
    // What belongs to somebody else cannot be dropped.
    let mut superuser = backups.superuser(&backups.lab.database.name);
    superuser.batch_execute("CREATE SCHEMA theirs; CREATE TABLE theirs.t (id int)").unwrap();
    let before = backups.content();
    let ran = restore()
        .run()
        .expect(1)
        .shows(&["must be owner of schema theirs", "is as it was: all was rolled back"]);
    assert_eq!(backups.content(), before, "{ran}");
    superuser.batch_execute("DROP SCHEMA theirs CASCADE").unwrap();
    let _ = restore().run().expect(0);
}

#[test]
fn what_only_a_superuser_can_load_is_refused_before_anything_is_touched() {
    let backups = backups(Engine::Pg17, HYPERTABLES);
    let before = backups.content();
    let _ = backups.backup("before full");
    let _ = backups.run("restore before --in-place --force").expect(3).shows(&[
        "cannot be restored in place",
        "hypertables",
        "nothing was touched",
    ]);
    assert_eq!(backups.content(), before);
}

#[test]
fn a_commit_whose_answer_is_lost_is_looked_up() {
    // A server of its own: every COMMIT of it waits for a standby that there is not.
    let server = Server::start(Engine::Plain, &["synchronous_commit=on"]).unwrap();
    let backups = Backups::on(&server, PLAIN);
    let before = backups.content();
    let _ = backups.backup("before full");
    backups.lab.sql("UPDATE parent SET name = 'changed'");
    let mut admin = backups.superuser("postgres");
    admin.batch_execute("ALTER SYSTEM SET synchronous_standby_names TO 'nobody'").unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").unwrap();
    let run = backups.tool("restore before --in-place --force").start();
    let waits = "SELECT pid FROM pg_stat_activity
                 WHERE application_name = 'backup-manager restore' AND wait_event = 'SyncRep'";
    backups.lab.wait_for(&format!("SELECT EXISTS ({waits})"));
    admin.batch_execute(&format!("SELECT pg_terminate_backend(pid) FROM ({waits}) w")).unwrap();
    let _ = run.wait().expect(0).shows(&["the server says that it was done", "✅ Restore completed"]);
    admin.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").unwrap();
    assert_eq!(backups.content(), before);
}
