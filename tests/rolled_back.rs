//! A database that was restored from a backup: post-validate holds it to that backup, until it is migrated again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;

use migration_tests::backups::{Backups, HYPERTABLES, PLAIN};
use migration_tests::server::Engine;

#[test]
fn what_was_rolled_back_is_held_to_its_backup_until_it_is_migrated_again() {
    held_to_its_backup(&format!("{PLAIN}{HYPERTABLES}"));
}

#[test]
fn a_backup_from_before_the_extension_too() {
    held_to_its_backup(PLAIN);
}

fn held_to_its_backup(sql: &str) {
    let backups = Backups::new(Engine::Pg17, sql);
    let lab = &backups.lab;
    lab.write("001_a.sql", b"CREATE TABLE a (id int);");
    lab.write(
        "expected.json",
        br#"{"hypertables": [{"table": "public.h", "time_column": "ts", "chunk_interval": "1 day"}]}"#,
    );
    let folder = backups.backup("pre_migration full");
    let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
    lab.write("002_bad.sql", b"ALTER TABLE parent ADD COLUMN more int; SELECT 1/0;");
    let _ = lab.run("").expect(1);
    assert_eq!(lab.ask("SELECT count(*) FROM migration_attempts"), "2");
    let ran = backups.post_validate("--no-data-integrity").expect(1);
    assert!(!ran.to_string().contains("rolled back to"), "{ran}");

    let _ = backups.restorer("restore pre_migration --force --drop-old").run().expect(0);
    let back = format!("The database is rolled back to {name}");
    let ran =
        backups.post_validate("--no-data-integrity --json").expect(0).shows(&[&back, "are as they were"]);
    let of = |id: &str| ran.records().iter().filter(|record| record["id"] == id).count();
    assert_eq!((of("rolled-back"), of("files")), (1, 0), "{ran}");
    // With everything that can be asked of it, too.
    let _ = backups.post_validate("").expect(0).shows(&[&back]);

    // What was changed since is named.
    lab.sql("DROP VIEW v; CREATE TABLE later (id int)");
    let _ = backups.post_validate("--no-data-integrity").expect(1).shows(&[
        &format!("{back}, and is not what that was"),
        "view public.v",
        "table public.later",
    ]);
    lab.sql("CREATE VIEW v AS SELECT count(*) FROM parts; DROP TABLE later");
    let _ = backups.post_validate("--no-data-integrity").expect(0).shows(&[&back]);

    // Without the backup's folder there is nothing to compare with, and that is said.
    let away = backups.folder().join(".away");
    fs::rename(&folder, &away).unwrap();
    let ran = backups.post_validate("--no-data-integrity --json").expect(0).shows(&[
        &back,
        "its objects are not compared",
        "metadata.json",
    ]);
    let doubt = |record: &serde_json::Value| record["id"] == "rolled-back" && record["verdict"] == "warn";
    assert!(ran.records().iter().any(doubt), "{ran}");
    let _ = backups
        .post_validate(&format!("--no-data-integrity --backup-dir={}", away.parent().unwrap().display()))
        .expect(0)
        .shows(&["its objects are not compared"]);
    fs::rename(&away, &folder).unwrap();

    // A new attempt is a new story, even one that fails.
    let _ = lab.run("").expect(1);
    let ran = backups.post_validate("--no-data-integrity").expect(1);
    assert!(!ran.to_string().contains("rolled back to"), "{ran}");
    lab.write(
        "002_bad.sql",
        b"CREATE TABLE h (ts timestamptz NOT NULL);
          SELECT create_hypertable('h', 'ts', chunk_time_interval => interval '1 day');",
    );
    let _ = lab.run("").expect(0);
    let ran = backups.post_validate("--no-data-integrity").expect(0);
    assert!(!ran.to_string().contains("rolled back to"), "{ran}");
}
