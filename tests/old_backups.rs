//! Backups of the old script, as it made them: pg_dump --create --clean, gzip, a checksum. Piped into the database itself they
//! double every row; here they bring back what was there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use migration_tests::backups::{Backups, HYPERTABLES, PLAIN, half};
use migration_tests::server::{Engine, Server};

/// Makes a backup as the old script did: metadata.json as the spec shows it, sums with or without their prefix.
fn old_backup(backups: &Backups<'_>, engine: Engine, name: &str, kind: &str) -> PathBuf {
    let folder = backups.folder().join(name);
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("full_database.sql.gz");
    dump(backups, engine, &file, "--create --clean --if-exists");
    describe(backups, &folder, name, kind, "sha256:");
    folder
}

/// What pg_dump writes with these words, packed.
fn dump(backups: &Backups<'_>, engine: Engine, file: &Path, words: &str) {
    let server = Server::shared(engine);
    let dumped = Command::new("/bin/bash")
        .args(["-c", r#"set -o pipefail; "$PG_DUMP" $WORDS --no-password | gzip > "$FILE""#])
        .env("PG_DUMP", server.bin().join("pg_dump"))
        .env("WORDS", words)
        .env("FILE", file)
        .env("PGHOST", server.variable("DB_HOST"))
        .env("PGPORT", server.variable("DB_PORT"))
        .env("PGDATABASE", &backups.lab.database.name)
        .env("PGUSER", server.variable("MS5_SANDBOX_SUPERUSER"))
        .env("PGPASSWORD", server.variable("MS5_SANDBOX_SUPERUSER_PASSWORD"))
        .env("PGSSLMODE", "disable")
        .output()
        .unwrap();
    assert!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
}

fn describe(backups: &Backups<'_>, folder: &Path, name: &str, kind: &str, prefix: &str) {
    describe_files(backups, folder, name, kind, prefix, &["full_database.sql.gz"]);
}

/// The same of these files.
fn describe_files(
    backups: &Backups<'_>,
    folder: &Path,
    name: &str,
    kind: &str,
    prefix: &str,
    files: &[&str],
) {
    let sum_of = |file: &&str| {
        let sum = Command::new("sha256sum").arg(folder.join(file)).output().unwrap().stdout;
        let sum = String::from_utf8(sum).unwrap().split_whitespace().next().unwrap().to_owned();
        format!("\"{file}\": \"{prefix}{sum}\"")
    };
    let sums = files.iter().map(sum_of).collect::<Vec<_>>().join(", ");
    let database = &backups.lab.database.name;
    fs::write(
        folder.join("metadata.json"),
        format!(
            r#"{{"backup_name": "{name}", "backup_type": "{kind}", "environment": "test",
  "database": {{"host": "localhost", "port": "5432", "name": "{database}", "user": "ms5_user_test"}},
  "backup_info": {{"created_at": "2024-01-15T10:30:00Z", "created_by": "root", "database_size": "1 MB",
                  "table_count": "10", "hypertable_count": "2"}},
  "files": {files:?}, "checksums": {{{sums}}}}}"#
        ),
    )
    .unwrap();
}

#[test]
fn they_bring_back_what_was_there() {
    for (engine, sql) in [(Engine::Plain, PLAIN.to_owned()), (Engine::Pg17, format!("{PLAIN}{HYPERTABLES}"))]
    {
        let backups = Backups::new(engine, &sql);
        let name = backups.lab.database.name.clone();
        backups
            .superuser("postgres")
            .batch_execute(&format!(
                "ALTER DATABASE {name} SET work_mem = '7MB'; COMMENT ON DATABASE {name} IS 'plant'"
            ))
            .unwrap();
        let (before, inventory) = (backups.content(), backups.lab.database.inventory());
        let folder = old_backup(&backups, engine, "pre_migration", "full");
        describe(&backups, &folder, "pre_migration", "full", "");
        backups.lab.sql("UPDATE parent SET name = 'changed'; CREATE TABLE later (id int)");
        let _ = backups.run("list").expect(0).shows(&["pre_migration"]);
        let _ = backups.run("verify pre_migration").expect(0);
        let _ = backups.restorer("restore pre_migration").run().expect(1).shows(&["holds data"]);
        if engine == Engine::Pg17 {
            let _ = backups.run("restore pre_migration --force").expect(3).shows(&["only a superuser"]);
        }
        let ran = backups.restorer("restore pre_migration --force").run().expect(0).shows(&[
            "made by the old script",
            "as many as in the file",
            "✅ Restore completed",
        ]);
        assert_eq!(backups.content(), before, "{ran}");
        backups.has_objects_of(&inventory);
        assert_eq!(backups.lab.ask("SELECT current_setting('work_mem')"), "7MB");
        assert_eq!(backups.lab.ask("SELECT backup_name FROM migration_restores"), "pre_migration");
        assert_eq!(backups.databases(&format!("{name}_before_restore_")).len(), 1);
        if engine == Engine::Pg17 {
            backups.lab.sql("INSERT INTO m (ts, dev, v) VALUES (now(), 1, 1)");
            assert_eq!(backups.lab.ask("SELECT current_setting('timescaledb.restoring')"), "off");
        }
        // Where the database is gone altogether.
        backups.superuser("postgres").batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).unwrap();
        let ran = backups.restorer("restore pre_migration").run().expect(0);
        assert_eq!(backups.content(), before, "{ran}");
        assert!(backups.databases(&half(&ran).unwrap()).is_empty());
        let _ = backups.restorer("verify pre_migration --deep").run().expect(3).shows(&["counted no rows"]);
    }
}

/// The spec's own example: definitions in one file, rows in another, and no checksums beside metadata.json.
#[test]
fn definitions_and_rows_in_two_files_come_back_together() {
    for (engine, sql) in [(Engine::Plain, PLAIN.to_owned()), (Engine::Pg17, format!("{PLAIN}{HYPERTABLES}"))]
    {
        let backups = Backups::new(engine, &sql);
        let (before, inventory) = (backups.content(), backups.lab.database.inventory());
        let folder = old_backup(&backups, engine, "post_migration_20240115_104500", "full");
        fs::remove_file(folder.join("full_database.sql.gz")).unwrap();
        dump(&backups, engine, &folder.join("schema.sql.gz"), "--schema-only --create --clean --if-exists");
        dump(&backups, engine, &folder.join("data.sql.gz"), "--data-only");
        describe_files(
            &backups,
            &folder,
            "post_migration_20240115_104500",
            "full",
            "sha256:",
            &["schema.sql.gz", "data.sql.gz"],
        );
        let _ = backups.run("verify post_migration").expect(0);
        backups.lab.sql("UPDATE parent SET name = 'changed'; CREATE TABLE later (id int)");
        let _ = backups.run("restore post_migration --force").expect(3).shows(&["only a superuser"]);
        let ran = backups.restorer("restore post_migration --force").run().expect(0);
        let ran = ran.shows(&["as many as in the file", "✅ Restore completed"]);
        assert_eq!(backups.content(), before, "{ran}");
        backups.has_objects_of(&inventory);
        // One of the two is no database.
        fs::remove_file(folder.join("data.sql.gz")).unwrap();
        let _ = backups.restorer("restore post_migration --force").run().expect(1).shows(&["data.sql.gz"]);
        assert_eq!(backups.content(), before);
    }
}

#[test]
fn what_cannot_be_replayed_leaves_the_database_in_service() {
    let backups = Backups::new(
        Engine::Plain,
        "CREATE TABLE t (id int PRIMARY KEY, x text); INSERT INTO t SELECT i, 'x' FROM generate_series(1, 1000) i",
    );
    let folder = old_backup(&backups, Engine::Plain, "old_20240115_103000", "full");
    let file = folder.join("full_database.sql.gz");
    let sound = migration_tests::backups::gunzip(&fs::read(&file).unwrap());
    let sound = String::from_utf8(sound).unwrap();
    let before = backups.content();
    let pack = |text: &str| {
        fs::write(folder.join("full_database.sql"), text).unwrap();
        assert!(
            Command::new("gzip").arg("-kf").arg(folder.join("full_database.sql")).status().unwrap().success()
        );
        fs::remove_file(folder.join("full_database.sql")).unwrap();
        describe(&backups, &folder, "old_20240115_103000", "full", "sha256:");
    };
    // Cut off at the end of a row, its checksum right: plain psql restores it with exit 0.
    pack(&sound[..sound.find("\n500\t").unwrap() + 1]);
    let _ = backups.run("verify old").expect(1).shows(&["is cut off"]);
    let _ =
        backups.restorer("restore old --force").run().expect(1).shows(&["is cut off", "nothing was touched"]);
    // A statement that fails, one that would leave the new database, rows that do not arrive: found by nobody's checksum.
    for (from, to, words) in [
        ("COPY public.t", "CREATE TABLE public.t (id int);\nCOPY public.t".to_owned(), "already exists"),
        ("COPY public.t", "\\connect postgres\nCOPY public.t".to_owned(), "would leave the database"),
        (
            "COPY public.t",
            "CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$;\n\
             CREATE TRIGGER g BEFORE INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION public.f();\nCOPY public.t"
                .to_owned(),
            "0 rows instead of 1000",
        ),
    ] {
        pack(&sound.replacen(from, &to, 1));
        let _ = backups.run("verify old").expect(0);
        let ran = backups.restorer("restore old --force").run().expect(1).shows(&[words, "is as it was, in service"]);
        assert_eq!(backups.content(), before, "{ran}");
        assert!(backups.databases(&half(&ran).unwrap()).is_empty(), "{ran}");
    }
    pack(&sound);
    // A signal while psql loads.
    let mut holder = backups.superuser("postgres");
    let slow = sound.replacen("COPY public.t", "SELECT pg_catalog.pg_sleep(600);\nCOPY public.t", 1);
    pack(&slow);
    let run = backups.restorer("restore old --force").start();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let query =
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname LIKE 'ms5_half%'";
        if holder.query_one(query, &[]).unwrap().get::<_, i64>(0) > 0 {
            break;
        }
        assert!(std::time::Instant::now() < deadline);
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    run.signal("TERM");
    let ran = run.wait().expect(143);
    assert!(backups.databases(&half(&ran).unwrap()).is_empty(), "{ran}");
    assert_eq!(backups.content(), before);
    describe(&backups, &folder, "old_20240115_103000", "schema", "sha256:");
    let _ = backups.restorer("restore old --force").run().expect(3).shows(&["is of type schema"]);
}
