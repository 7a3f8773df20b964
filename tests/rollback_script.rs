//! rollback.sh: the way back that needs none of our tools, beside restores, runs and settings of the caller's that have other ideas.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use migration_tests::backups::{Backups, HYPERTABLES, PLAIN};
use migration_tests::program::project_root;
use migration_tests::server::{Engine, Server};

#[test]
fn the_rollback_script_needs_none_of_our_tools() {
    for (engine, sql) in [(Engine::Plain, PLAIN.to_owned()), (Engine::Pg17, format!("{PLAIN}{HYPERTABLES}"))]
    {
        let backups = Backups::new(engine, &sql);
        let server = Server::shared(engine);
        let name = backups.lab.database.name.clone();
        let before = backups.content();
        if engine == Engine::Pg17 {
            let _ = backups
                .run("rollback-point nobody")
                .expect(3)
                .shows(&["only a superuser", "there is no rollback point"]);
        }
        let _ = backups
            .restorer("rollback-point migration_failure")
            .run()
            .expect(0)
            .shows(&["✅ Rollback point created", "rollback.sh --force"]);
        backups.lab.sql("UPDATE parent SET name = 'changed'; CREATE TABLE later (id int)");
        let script = backups.rollback_script();
        let point = script.parent().unwrap();
        let text = fs::read_to_string(&script).unwrap();
        assert!(text.starts_with("#!/bin/sh\n# MS5.0 Rollback Script\n# Created: "), "{text}");
        let password = server.variable("MS5_SANDBOX_SUPERUSER_PASSWORD");
        assert!(!text.contains(password) && !text.contains(server.variable("POSTGRES_PASSWORD_TEST")));
        let sh =
            |arguments: &[&str]| backups.by_hand(&script).args(arguments).env("PGDATABASE", "nonsense").run();
        let _ = sh(&["--force", "migration_failure"]).expect(2).shows(&["unknown argument"]);
        let _ = sh(&[]).expect(1).shows(&["holds data", "nothing was touched"]);
        let mut guest = backups.lab.client();
        guest.batch_execute("BEGIN; SELECT 1").unwrap();
        let ran = sh(&["--force"]).expect(0).shows(&["The backup's checksum fits", "✅ Rolled back"]);
        assert_eq!(backups.content(), before, "{ran}");
        assert!(
            backups.lab.ask("SELECT backup_name FROM migration_restores").starts_with("migration_failure_")
        );
        assert_eq!(backups.databases(&format!("{name}_before_restore_")).len(), 1, "{ran}");
        assert!(!fs::read_to_string(point.join("rollback.log")).unwrap().contains(password));
        // The fast path, by the point's name; and a backup that is damaged.
        let point_name = point.file_name().unwrap().to_str().unwrap().to_owned();
        let _ = backups.restorer(&format!("rollback {point_name} --force --drop-old")).run().expect(0);
        assert_eq!(backups.content(), before);
        let file = backups.folder().join(&point_name).join("full_database.sql.gz");
        let mut bytes = fs::read(&file).unwrap();
        bytes[100] ^= 1;
        fs::write(&file, bytes).unwrap();
        let _ = sh(&["--force"]).expect(1).shows(&["the backup is damaged", "nothing was touched"]);
    }
}

#[test]
fn the_rollback_script_and_a_restore_wait_for_each_other_and_clear_away_what_is_dead() {
    let backups = Backups::new(Engine::Plain, "CREATE TABLE t (id int);");
    let _ = backups.restorer("rollback-point turns").run().expect(0);
    let script = backups.rollback_script();
    let run = || backups.by_hand(&script).args(["--force"]).run();
    let text = fs::read_to_string(&script).unwrap();
    let key = text.split("LOCK_KEY='").nth(1).and_then(|rest| rest.split('\'').next()).unwrap();
    let mut admin = backups.superuser("postgres");
    admin.batch_execute(&format!("SELECT pg_advisory_lock({key})")).unwrap();
    let _ = run().expect(4).shows(&["another restore of", "lock timeout", "nothing was touched"]);
    let _ = backups
        .restorer("restore turns --force --lock-wait=0")
        .run()
        .expect(4)
        .shows(&["another restore of", "nothing was touched"]);
    admin.batch_execute(&format!("SELECT pg_advisory_unlock({key})")).unwrap();
    // One that a killed rollback of this database has left, and one that another database's is filling.
    let number = key.trim_start_matches('-');
    let (dead, others) = (format!("ms5_rollback_{number}_x"), format!("ms5_rollback_{number}1_x"));
    for name in [&dead, &others] {
        admin.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE template0")).unwrap();
    }
    let _ = run().expect(0);
    assert!(backups.databases(&dead).is_empty());
    assert_eq!(backups.databases(&others), std::slice::from_ref(&others));
    admin.batch_execute(&format!("DROP DATABASE {others}")).unwrap();
}

/// The number of the lock on a name, as SQL.
fn lock_key(name: &str) -> String {
    format!("('x' || encode(substr(sha256('ms5 restore {name}'), 1, 8), 'hex'))::bit(64)::bigint")
}

#[test]
fn a_restore_from_another_maintenance_database_is_seen() {
    let backups = Backups::new(Engine::Plain, "CREATE TABLE t (id int);");
    let name = backups.lab.database.name.clone();
    let _ = backups.restorer("rollback-point seen").run().expect(0);
    let script = backups.rollback_script();
    // What somebody makes who has named another database than postgres; locks are each database's own.
    let other = backups.empty_database("maintenance");
    let half = format!("ms5_half_20240115_103000_{:08x}", std::process::id());
    // The lock before the database, as a restore does it: without one, the restore of a test beside drops it.
    let mut maker = backups.superuser(&other);
    maker.batch_execute(&format!("SELECT pg_advisory_lock({})", lock_key(&half))).unwrap();
    backups
        .superuser("postgres")
        .batch_execute(&format!("CREATE DATABASE {half} TEMPLATE template0"))
        .unwrap();
    let _ = backups.restorer("restore seen --force --drop-old").run().expect(0);
    assert_eq!(backups.databases(&half), std::slice::from_ref(&half), "what somebody is making was dropped");

    // The same of the database that is replaced.
    maker.batch_execute(&format!("SELECT pg_advisory_lock({})", lock_key(&name))).unwrap();
    let _ = backups
        .restorer("restore seen --force --lock-wait=0")
        .run()
        .expect(4)
        .shows(&["another restore of", "nothing was touched"]);
    let _ = backups.by_hand(&script).args(["--force"]).run().expect(4).shows(&[
        "another restore of",
        "from another database than postgres",
        "nothing was touched",
    ]);
    drop(maker);
    let _ = backups.by_hand(&script).args(["--force"]).run().expect(0);
    // By this one, or by that of a test beside it, which may still be at it.
    let _ = backups.restorer("restore seen --force --drop-old").run().expect(0);
    backups.lab.wait_for(&format!("SELECT NOT EXISTS (SELECT FROM pg_database WHERE datname = '{half}')"));
}

#[test]
fn the_callers_address_is_not_followed_and_a_refused_password_is_no_dead_server() {
    let backups = Backups::new(Engine::Plain, "CREATE TABLE t (id int); INSERT INTO t VALUES (7);");
    let _ = backups.restorer("rollback-point address").run().expect(0);
    let script = backups.rollback_script();
    let before = backups.content();
    let call = || backups.by_hand(&script).args(["--force"]);
    // Another database's folder, of which none may be started.
    let elsewhere = backups.lab.home().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("docker-compose.test.yml"), "services: {}\n").unwrap();
    let _ = call().current_dir(&elsewhere).env("MS5_RESTORE_PASSWORD", "wrong").run().expect(3).shows(&[
        "cannot log in as",
        "nothing was touched",
        "MS5_RESTORE_PASSWORD POSTGRES_PASSWORD_TEST PGPASSWORD",
    ]);
    let _ = call()
        .env("MS5_RESTORE_PASSWORD", "")
        .env("PGPASSFILE", "/dev/null")
        .run()
        .expect(3)
        .shows(&["no password supplied"]);
    // The password where our own restore would find it too.
    let password = Server::shared(Engine::Plain).variable("MS5_SANDBOX_SUPERUSER_PASSWORD");
    let _ = call()
        .env("MS5_RESTORE_PASSWORD", "")
        .env("POSTGRES_PASSWORD_TEST", password)
        .env("PGHOSTADDR", "192.0.2.1")
        .env("PGCONNECT_TIMEOUT", "2")
        .env("PGPORT", "1")
        .run()
        .expect(0)
        .shows(&[
            "PGHOSTADDR is set and is ignored",
            "PGPORT is set and is ignored",
            "to drop it:      DROP DATABASE",
        ]);
    assert_eq!(backups.content(), before);
}

#[test]
fn nobody_who_works_on_the_database_is_ended() {
    let backups = Backups::new(Engine::Pg17, "CREATE TABLE t (id int); INSERT INTO t VALUES (7);");
    let _ = backups.restorer("rollback-point work").run().expect(0);
    let script = backups.rollback_script();
    backups.lab.write("001_slow.sql", b"INSERT INTO t VALUES (8); SELECT pg_sleep(600);");
    let mut run = backups.lab.runner("").start();
    backups.lab.wait_for_sleep();
    let _ = backups.by_hand(&script).args(["--force"]).run().expect(4).shows(&[
        "another run holds the lock",
        "migration-runner lock (pid ",
        "nothing was touched",
        "pg_terminate_backend",
    ]);
    assert!(run.runs(), "the run was ended");
    run.signal("TERM");
    let _ = run.wait().expect(143);
    // Who is idle is no work.
    let mut guest = backups.lab.client();
    guest.batch_execute("BEGIN; SELECT 1").unwrap();
    let _ = backups.by_hand(&script).args(["--force"]).run().expect(0);
    assert_eq!(backups.lab.ask("SELECT count(*) FROM t"), "1");
}

#[test]
fn an_answer_that_is_lost_while_the_names_are_swapped_is_looked_up() {
    let backups = Backups::new(Engine::Plain, "CREATE TABLE t (id int); INSERT INTO t VALUES (7);");
    let _ = backups.restorer("rollback-point lost").run().expect(0);
    backups.lab.sql("DELETE FROM t");
    let script = backups.rollback_script();
    let server = Server::shared(Engine::Plain);
    // The server's own psql, whose end nobody hears of where it has swapped the names.
    let folder = backups.lab.home().join("deaf");
    fs::create_dir(&folder).unwrap();
    let psql = folder.join("psql");
    fs::write(
        &psql,
        format!(
            "#!/bin/sh\ncase $* in *' -v db='*) ;; *) exec {real} \"$@\" ;; esac\ntext=$(cat)\nprintf '%s\\n' \"$text\" | {real} \"$@\"\ncode=$?\ncase $text in *'RENAME TO :\"db\"'*) exit 2 ;; esac\nexit $code\n",
            real = server.bin().join("psql").display()
        ),
    )
    .unwrap();
    fs::set_permissions(&psql, fs::Permissions::from_mode(0o755)).unwrap();
    let _ = backups
        .by_hand(&script)
        .env("PATH", format!("{}:/usr/bin:/bin", folder.display()))
        .args(["--force"])
        .run()
        .expect(0)
        .shows(&["✅ Rolled back"]);
    assert_eq!(backups.lab.ask("SELECT count(*) FROM t"), "1");
    assert_eq!(backups.databases(&format!("{}_before_restore_", backups.lab.database.name)).len(), 1);
}

#[test]
fn a_rollback_is_undone_as_the_readme_says() {
    let backups = Backups::new(Engine::Plain, "CREATE TABLE t (id int); INSERT INTO t VALUES (7);");
    let _ = backups.restorer("rollback-point undo").run().expect(0);
    backups.lab.sql("INSERT INTO t VALUES (8)");
    let before = backups.content();
    let _ = backups.by_hand(&backups.rollback_script()).args(["--force"]).run().expect(0);
    assert_ne!(backups.content(), before);
    let name = &backups.lab.database.name;
    let kept = backups.databases(&format!("{name}_before_restore_")).remove(0);
    let readme = fs::read_to_string(project_root().join("README.md")).unwrap();
    let statements: Vec<String> = readme
        .lines()
        .filter(|line| line.starts_with("    ALTER DATABASE factory_telemetry"))
        .map(|line| {
            line.replace("factory_telemetry_before_restore_STAMP", &kept).replace("factory_telemetry", name)
        })
        .collect();
    assert_eq!(statements.len(), 3);
    let mut admin = backups.superuser("postgres");
    for statement in statements {
        admin.batch_execute(&statement).unwrap();
    }
    assert_eq!(backups.content(), before);
}
