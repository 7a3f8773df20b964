//! Backups: whole, of one moment, readable by plain gunzip and psql, and found out where a byte has changed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use migration_tests::backups::{Backups, Dice, HYPERTABLES, PLAIN, content, gunzip};
use migration_tests::lab::Stops;
use migration_tests::program::Program;
use migration_tests::server::{Engine, Server};
use serde_json::Value;

fn metadata(folder: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(folder.join("metadata.json")).unwrap()).unwrap()
}

#[test]
fn gunzip_and_psql_bring_back_what_was_there() {
    for (engine, sql) in [(Engine::Plain, PLAIN.to_owned()), (Engine::Pg17, format!("{PLAIN}{HYPERTABLES}"))]
    {
        let backups = Backups::new(engine, &sql);
        let name = &backups.lab.database.name;
        backups.lab.sql("SELECT lo_from_bytea(0, decode(repeat('ab', 70000), 'hex')), lo_from_bytea(0, '')");
        backups
            .superuser(name)
            .batch_execute(&format!(
                "ALTER DATABASE {name} SET search_path = '$user', public, \"f ü\";
                 ALTER DATABASE {name} SET DateStyle = 'German, DMY';
                 ALTER DATABASE {name} SET ms5.greeting = 'it''s 5%';
                 COMMENT ON DATABASE {name} IS 'the one; it''s 100%';
                 REVOKE CONNECT ON DATABASE {name} FROM PUBLIC"
            ))
            .unwrap();
        for arguments in ["pre_migration full", "plain full --no-compression --jobs=1"] {
            let folder = backups.backup(arguments);
            let packed = folder.join("full_database.sql.gz");
            let script = if packed.exists() {
                gunzip(&fs::read(packed).unwrap())
            } else {
                fs::read(folder.join("full_database.sql")).unwrap()
            };
            let to = backups.empty_database(&arguments[..5].trim().to_lowercase());
            let ran = backups.psql(&to, script.clone()).expect(0);
            assert!(!ran.stderr().contains("ERROR"), "{ran}");
            let mut client = backups.superuser(&to);
            assert_eq!(content(&mut client), backups.content());
            let large =
                "SELECT count(*)::text || ' ' || sum(length(lo_get(oid))) FROM pg_largeobject_metadata";
            assert_eq!(client.query_one(large, &[]).unwrap().get::<_, String>(0), "2 70000");
            let settings: String = client
                .query_one(
                    "SELECT string_agg(c, '; ' ORDER BY c) FROM pg_db_role_setting s, unnest(setconfig) c
                     WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())",
                    &[],
                )
                .unwrap()
                .get(0);
            assert_eq!(
                settings,
                "DateStyle=German, DMY; ms5.greeting=it's 5%; search_path=\"$user\", public, \"f ü\""
            );
            let row = client
                .query_one(
                    "SELECT shobj_description(oid, 'pg_database'), array_to_string(datacl, ',') !~ '(^|,)=[A-Z]*c'
                     FROM pg_database WHERE datname = current_database()",
                    &[],
                )
                .unwrap();
            assert_eq!(
                (row.get::<_, String>(0), row.get::<_, bool>(1)),
                ("the one; it's 100%".to_owned(), true)
            );
            // A second time would double the rows: the file refuses.
            let again = backups.psql(&to, script).expect(3).shows(&["this database is not empty"]);
            drop(again);
            assert_eq!(content(&mut client), backups.content());
        }
    }
}

#[test]
fn the_folder_is_as_the_spec_shows_it() {
    let backups = Backups::new(Engine::Pg17, HYPERTABLES);
    let folder = backups.backup("pre_migration full");
    let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
    assert!(
        name.starts_with("pre_migration_2") && name.len() == "pre_migration_20240115_103000".len(),
        "{name}"
    );
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&backups.folder()), mode(&folder)), (0o700, 0o700));
    let mut files: Vec<String> =
        fs::read_dir(&folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    assert_eq!(files, ["checksums.sha256", "full_database.sql.gz", "metadata.json"]);
    for file in &files {
        assert_eq!(mode(&folder.join(file)), 0o600, "{file}");
    }
    let sums =
        Command::new("sha256sum").args(["-c", "checksums.sha256"]).current_dir(&folder).output().unwrap();
    assert!(sums.status.success(), "{}", String::from_utf8_lossy(&sums.stdout));
    let metadata = metadata(&folder);
    assert_eq!(metadata["backup_name"], *name);
    assert_eq!(metadata["backup_type"], "full");
    assert_eq!(metadata["environment"], "test");
    assert_eq!(metadata["database"]["name"], *backups.lab.database.name);
    assert_eq!(metadata["backup_info"]["table_count"], "2");
    assert_eq!(metadata["backup_info"]["hypertable_count"], "2");
    assert_eq!(metadata["files"], serde_json::json!(["full_database.sql.gz"]));
    assert!(metadata["checksums"]["full_database.sql.gz"].as_str().unwrap().starts_with("sha256:"));
    let text = fs::read_to_string(folder.join("metadata.json")).unwrap();
    assert!(!text.contains(Server::shared(Engine::Pg17).variable("POSTGRES_PASSWORD_TEST")), "a password");

    let _ = backups.run("verify pre_migration").expect(0).shows(&["✅ Backup verified: pre_migration_"]);
    let _ = backups.run("list").expect(0).shows(&[&name, "full", "complete", "Total: 1 backups"]);
    let log = fs::read_dir(backups.lab.home().join("logs/backup")).unwrap().flatten().next().unwrap();
    assert!(log.file_name().into_string().unwrap().starts_with("backup_rollback_test_"));
    // Without a name as the old script, and the same second waits for the next.
    let _ = backups.run("backup").expect(0).shows(&["✅ Backup completed: backup_2"]);
}

#[test]
fn a_file_that_ends_early_is_refused_by_plain_psql() {
    let backups = Backups::new(Engine::Plain, PLAIN);
    let folder = backups.backup("cut full");
    let bytes = fs::read(folder.join("full_database.sql.gz")).unwrap();
    let metadata = metadata(&folder);
    let members = metadata["members"].as_array().unwrap();
    let offset = |member: &Value| usize::try_from(member["offset"].as_u64().unwrap()).unwrap();
    // At each boundary between members, and in the middle of each; right before the first nothing is restored at all.
    let middles = members
        .iter()
        .map(|member| offset(member) + usize::try_from(member["length"].as_u64().unwrap()).unwrap() / 2);
    let cuts: Vec<usize> = members.iter().skip(1).map(offset).chain(middles).collect();
    assert!(cuts.len() > 20, "{cuts:?}");
    for (number, &cut) in cuts.iter().enumerate() {
        let to = backups.empty_database(&format!("cut{number}"));
        let script = gunzip(&bytes[..cut]);
        // gunzip gives nothing of a member whose head alone is there.
        if script.is_empty() {
            continue;
        }
        let ran = backups.psql(&to, script);
        assert_ne!(ran.code(), 0, "cut at {cut}\n{ran}");
        backups.superuser("postgres").batch_execute(&format!("DROP DATABASE {to}")).unwrap();
    }
    for cut in cuts.into_iter().chain([bytes.len() - 1]) {
        fs::write(folder.join("full_database.sql.gz"), &bytes[..cut]).unwrap();
        assert_eq!(backups.run("verify cut").code(), 1, "cut at {cut}");
    }
    let _ = backups.run("verify cut").expect(1).shows(&["bytes instead of"]);
    let _ = backups.run("list").expect(0).shows(&["DAMAGED"]);
}

#[test]
fn a_truncate_that_was_open_when_the_backup_began_is_no_hole_in_it() {
    let backups = Backups::new(
        Engine::Plain,
        "CREATE TABLE t (id int); INSERT INTO t SELECT generate_series(1, 1000);",
    );
    let mut writer = backups.lab.client();
    writer.batch_execute("BEGIN; TRUNCATE t; INSERT INTO t SELECT generate_series(1, 777)").unwrap();
    let run = backups.tool("backup race full").start();
    backups
        .lab
        .wait_for("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND mode = 'AccessShareLock')");
    writer.batch_execute("COMMIT").unwrap();
    let _ = run.wait().expect(0);
    let folder = backups.folder().join(&backups.names()[0]);
    let rows: Vec<u64> = metadata(&folder)["tables"]
        .as_array()
        .unwrap()
        .iter()
        .map(|table| table["rows"].as_u64().unwrap())
        .collect();
    assert_eq!(rows, [777]);
    // Where it does not end, the backup gives up, and says who is in the way.
    writer.batch_execute("BEGIN; TRUNCATE t").unwrap();
    let _ = backups.run("backup stuck full --lock-timeout=1").expect(4).shows(&[
        "cannot lock the tables for reading",
        "55P03",
        "--lock-timeout=SECONDS",
    ]);
    assert_eq!(backups.names().len(), 1, "nothing of it stays: {:?}", backups.all_names());
}

#[test]
fn money_on_its_way_between_two_tables_is_counted_once() {
    let backups = Backups::new(
        Engine::Plain,
        "CREATE TABLE a (id int PRIMARY KEY, money bigint); CREATE TABLE b (id int PRIMARY KEY, money bigint);
         INSERT INTO a SELECT i, 1000 FROM generate_series(1, 20000) i; INSERT INTO b SELECT i, 1000 FROM generate_series(1, 20000) i;",
    );
    let stop = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        for writer in 0..2 {
            let (backups, stop) = (&backups, &stop);
            scope.spawn(move || {
                let mut client = backups.lab.client();
                let mut number = writer;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    number += 2;
                    let (id, amount) = (1 + number % 20000, 1 + number % 100);
                    client
                        .batch_execute(&format!(
                            "BEGIN; UPDATE a SET money = money - {amount} WHERE id = {id};
                             UPDATE b SET money = money + {amount} WHERE id = {id}; COMMIT"
                        ))
                        .unwrap();
                }
            });
        }
        let stops = Stops(&stop);
        backups.lab.wait_for("SELECT EXISTS (SELECT FROM a WHERE money <> 1000)");
        let folder = backups.backup("money full");
        drop(stops);
        let to = backups.empty_database("money");
        let _ = backups.psql(&to, gunzip(&fs::read(folder.join("full_database.sql.gz")).unwrap())).expect(0);
        let mut client = backups.superuser(&to);
        let total: String = client
            .query_one("SELECT ((SELECT sum(money) FROM a) + (SELECT sum(money) FROM b))::text", &[])
            .unwrap()
            .get(0);
        assert_eq!(total, "40000000");
        let moved: i64 = client.query_one("SELECT count(*) FROM a WHERE money <> 1000", &[]).unwrap().get(0);
        assert!(moved > 0, "nobody was writing");
    });
}

#[test]
fn what_is_no_backup_is_refused_before_anything_is_touched() {
    let backups = Backups::new(Engine::Plain, "CREATE TABLE t (id int)");
    for name in
        ["a/b", "..", "../x", "a'b", "a\"b", "a\nb", "a b", "a$(touch x)", ".hidden", "rollback_points"]
    {
        let ran = backups.tool("backup").arg(name).arg("full").run().expect(2);
        assert!(ran.to_string().contains("is no name for a backup"), "{ran}");
    }
    let _ = backups.tool("backup").arg("-x").run().expect(2);
    let _ = backups.run("backup x incremental").expect(2).shows(&["is no type", "backup NAME full"]);
    let _ =
        backups.run("backup x schem").expect(2).shows(&["unknown type", "full, schema, data, hypertables"]);
    let _ = backups.run("verify nothing").expect(3).shows(&["there is no backup \"nothing\""]);
    let _ = backups.run("restore").expect(2).shows(&["wants the name of a backup"]);
    let _ = backups.tool("backup x").env("DB_NAME", "not_there").run().expect(3);
    let none: Vec<String> = Vec::new();
    assert_eq!(backups.names(), none);
    let named = backups.backup("vor-Änderung@2 full");
    assert!(named.file_name().unwrap().to_str().unwrap().starts_with("vor-Änderung@2_"));
}

#[test]
fn a_database_in_the_middle_of_a_restore_is_refused() {
    let backups = Backups::new(Engine::Pg17, "CREATE EXTENSION timescaledb; CREATE TABLE t (id int)");
    let name = &backups.lab.database.name;
    backups.superuser(name).batch_execute("SELECT timescaledb_pre_restore()").unwrap();
    let _ = backups.run("backup x").expect(1).shows(&[
        "timescaledb.restoring is on",
        "SET scheduled = false",
        "SELECT public.timescaledb_post_restore();",
    ]);
    backups.superuser(name).batch_execute("SELECT timescaledb_post_restore()").unwrap();
    let _ = backups.run("backup x").expect(0);
}

#[test]
fn two_at_once_both_count_and_a_killed_one_leaves_nothing() {
    let backups = Backups::new(
        Engine::Plain,
        "CREATE TABLE t (id int, x text); INSERT INTO t SELECT i, repeat(md5(i::text), 20) FROM generate_series(1, 60000) i;",
    );
    let (one, two) = (backups.tool("backup twin full").start(), backups.tool("backup twin full").start());
    let (one, two) = (one.wait().expect(0), two.wait().expect(0));
    drop((one, two));
    assert_eq!(backups.names().len(), 2, "{:?}", backups.all_names());
    for name in backups.names() {
        let _ = backups.run(&format!("verify {name}")).expect(0);
    }
    // Killed at some moments of its work, seen by what it has written.
    for moment in [0, 30, 60, 120, 200, 300] {
        let run = backups.tool("backup killed full").start();
        let begun = Instant::now();
        let partial = || backups.all_names().iter().any(|name| name.starts_with(".partial-killed"));
        while !partial() && begun.elapsed() < Duration::from_secs(20) {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_millis(moment));
        run.signal("KILL");
        let killed = run.wait().code() != 0;
        let listed = backups.names().iter().filter(|name| name.starts_with("killed")).count();
        // One that was killed may have come to its backup's end before.
        assert!(listed <= 1 && (killed || listed == 1), "{:?}", backups.all_names());
        let _ = backups.run("list").expect(0);
        for name in backups.names().iter().filter(|name| name.starts_with("killed")) {
            let _ = backups.run(&format!("verify {name}")).expect(0);
            fs::remove_dir_all(backups.folder().join(name)).unwrap();
        }
    }
    // A signal unwinds.
    let run = backups.tool("backup stopped full").start();
    backups.lab.wait_for(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'backup-manager reads')",
    );
    run.signal("TERM");
    let stopped = run.wait();
    assert!([143, 0].contains(&stopped.code()), "{stopped}");
    let _ = backups.backup("after full");
    let left: Vec<String> =
        backups.all_names().into_iter().filter(|name| name.starts_with(".partial")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_changed_byte_anywhere_is_found() {
    let backups = Backups::new(
        Engine::Plain,
        "CREATE TABLE t (id int, x text); INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 500) i;",
    );
    let folder = backups.backup("damage full");
    let proof = backups.restorer("verify damage --deep").run().expect(0);
    drop(proof);
    let mut dice = Dice(5);
    let files = ["full_database.sql.gz", "metadata.json", "checksums.sha256", "verified.json"];
    for turn in 0..1000 {
        let path = folder.join(files[turn % files.len()]);
        let sound = fs::read(&path).unwrap();
        let mut damaged = sound.clone();
        let at = dice.below(damaged.len());
        damaged[at] ^= u8::try_from(1 + dice.below(255)).unwrap();
        fs::write(&path, &damaged).unwrap();
        let ran = backups.run("verify damage");
        assert_ne!(ran.code(), 0, "turn {turn}: byte {at} of {} is {}\n{ran}", path.display(), damaged[at]);
        fs::write(&path, &sound).unwrap();
    }
    for file in files {
        let path = folder.join(file);
        let sound = fs::read(&path).unwrap();
        fs::write(&path, &sound[..sound.len() / 2]).unwrap();
        assert_ne!(backups.run("verify damage").code(), 0, "half of {file}");
        fs::write(&path, [&sound[..], b"\n"].concat()).unwrap();
        assert_ne!(backups.run("verify damage").code(), 0, "more than {file}");
        if file != "verified.json" {
            fs::remove_file(&path).unwrap();
            assert_ne!(backups.run("verify damage").code(), 0, "no {file}");
        }
        fs::write(&path, &sound).unwrap();
    }
    let _ = backups.run("verify damage").expect(0).shows(&["Proven by restoring it"]);
    // Under another name it is another backup, which it says it is not.
    fs::rename(&folder, backups.folder().join("other_20250101_000000")).unwrap();
    let _ = backups.run("verify other").expect(1).shows(&["the folder's name is not"]);
}

/// Gives a backup another time, as if it had been made then.
fn age(folder: &Path, days: i64) {
    let text = fs::read_to_string(folder.join("metadata.json")).unwrap();
    let made = metadata(folder)["backup_info"]["created_at"].as_str().unwrap().to_owned();
    let then = format!("{:04}-01-01T00:00:00Z", 2020 - days);
    fs::write(folder.join("metadata.json"), text.replace(&made, &then)).unwrap();
    let sum = |file: &str| {
        let out = Command::new("sha256sum").arg(file).current_dir(folder).output().unwrap().stdout;
        String::from_utf8(out).unwrap()
    };
    fs::write(
        folder.join("checksums.sha256"),
        format!("{}{}", sum("metadata.json"), sum("full_database.sql.gz")),
    )
    .unwrap();
}

#[test]
fn clean_removes_what_is_old_and_never_what_is_needed() {
    let backups = Backups::new(Engine::Plain, "CREATE TABLE t (id int)");
    let (old, older) = (backups.backup("old full"), backups.backup("older full"));
    let needed = {
        let before = backups.names();
        let _ = backups.restorer("rollback-point needed").run().expect(0);
        backups.names().into_iter().find(|name| !before.contains(name) && name != "rollback_points").unwrap()
    };
    let damaged = backups.backup("damaged full");
    let newest = backups.backup("newest full");
    for (folder, years) in [(&old, 1), (&older, 2), (&backups.folder().join(&needed), 3), (&damaged, 4)] {
        age(folder, years);
    }
    fs::remove_file(damaged.join("full_database.sql.gz")).unwrap();
    fs::create_dir(backups.folder().join("foreign")).unwrap();
    fs::write(backups.folder().join("foreign/notes"), "of somebody").unwrap();
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let all = backups.names();
    let ran = backups.run("clean 30 --dry-run").expect(0);
    let ran = ran.shows(&[&format!("{}: would be removed", name(&old)), "2 backups would be removed"]);
    assert_eq!(backups.names(), all, "{ran}");
    let ran = backups.run("clean 30 --keep-last=2").expect(0).shows(&["1 backups removed"]);
    assert!(old.exists() && !older.exists(), "{ran}");
    let ran = backups.run("clean --retention-days=30").expect(0);
    let ran = ran.shows(&["foreign: kept, it is damaged or no backup", "is needed by a rollback point"]);
    let mut left =
        vec![needed.clone(), name(&damaged), name(&newest), "foreign".into(), "rollback_points".into()];
    left.sort();
    assert_eq!(backups.names(), left, "{ran}");
    // However small the room and short the time, one whole backup stays.
    let _ = backups.run("clean 0 --keep-last=0 --max-total=1").expect(0);
    assert_eq!(backups.names(), left);
    age(&newest, 5);
    let _ = backups.run("clean 0").expect(0);
    assert!(newest.exists() || backups.folder().join(needed).exists());
    // Points that cannot be read might need anything.
    let reference = backups.folder().join("rollback_points").join("odd/backup_reference.txt");
    fs::create_dir_all(&reference).unwrap();
    let _ = backups.run("clean 0").expect(3).shows(&["nothing was removed"]);
}

#[test]
fn a_full_disk_is_said_and_leaves_the_old_backups_as_they_were() {
    let backups = Backups::new(
        Engine::Plain,
        "CREATE TABLE t (id int, x bytea);
         INSERT INTO t SELECT i, decode(string_agg(md5(i || ' ' || j), ''), 'hex')
         FROM generate_series(1, 300) i, generate_series(1, 9000) j GROUP BY i;",
    );
    let small = backups.lab.home().join("small");
    fs::create_dir(&small).unwrap();
    let tool = backups.tool("").into_command();
    let binary = tool.get_program().to_str().unwrap().to_owned();
    // A file system of its own, in a name space of its own: it goes with the shell.
    let script = format!(
        "mount -t tmpfs -o size=$1 tmpfs {small} && mkdir -m 700 {small}/before_20240101_000000 &&
         echo kept > {small}/before_20240101_000000/notes
         {binary} backup full_disk full --backup-dir={small}; code=$?
         find {small} -mindepth 1 -not -name .lock | sort; cat {small}/before*/notes; exit $code",
        small = small.display()
    );
    for (size, why) in [("36m", "No space left on device"), ("20m", "less than 32 MiB are left")] {
        let mut shell = Command::new("unshare");
        shell.args(["-rm", "sh", "-c", &script, "sh", size]).env_clear();
        shell.envs(tool.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let ran = shell.output().unwrap();
        let text =
            format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        assert_eq!(ran.status.code(), Some(1), "{text}");
        for piece in
            ["cannot write the backup", why, "the backups that were there are untouched", "--backup-dir=DIR"]
        {
            assert!(text.contains(piece), "{piece}\n{text}");
        }
        let left: Vec<&str> = text.lines().rev().take(3).collect();
        assert_eq!(left[0], "kept", "{text}");
        assert!(
            left[1].ends_with("before_20240101_000000/notes") && left[2].ends_with("before_20240101_000000"),
            "{text}"
        );
    }
}

#[test]
fn a_pg_dump_that_fails_ends_the_backup_and_no_row_waits_for_it() {
    let backups = Backups::new(Engine::Plain, PLAIN);
    let server = Server::shared(Engine::Plain);
    let folder = backups.lab.home().join("fails");
    fs::create_dir(&folder).unwrap();
    let path = folder.join("pg_dump");
    for section in ["pre-data", "post-data"] {
        // Written by a process of its own: what we write may be held open by a child of another thread when it is executed.
        let script = format!(
            "cat >\"$0\" <<'E'\n#!/bin/sh\ncase $* in *{section}*) echo 'broken on purpose' >&2; exit 1 ;; esac\nexec '{}' \"$@\"\nE\nchmod +x \"$0\"\n",
            server.bin().join("pg_dump").display()
        );
        let _ = Program::at(Path::new("/bin/sh")).args(["-c", &script]).arg(&path).run().expect(0);
        let found = format!("{}:{}:/usr/bin:/bin", folder.display(), server.bin().display());
        let _ = backups.tool("backup broken full").env("PATH", found).run().expect(1).shows(&[
            &format!("pg_dump cannot dump the section {section}"),
            "broken on purpose",
            "nothing was written under a backup's name",
        ]);
        assert_eq!(backups.all_names(), [".lock"]);
    }
}

#[test]
fn a_signal_ends_pg_dump_too() {
    let backups = Backups::new(Engine::Plain, "CREATE TABLE t (id int);");
    // One that is of the right version and never comes to an end.
    let folder = backups.lab.home().join("slow");
    fs::create_dir(&folder).unwrap();
    let real = Server::shared(Engine::Plain).bin().join("pg_dump");
    let begun = folder.join("begun");
    let script = format!(
        "#!/bin/sh\n[ \"$1\" != --version ] || exec {} --version\ntouch {}\nexec sleep 600\n",
        real.display(),
        begun.display()
    );
    fs::write(folder.join("pg_dump"), script).unwrap();
    fs::set_permissions(folder.join("pg_dump"), fs::Permissions::from_mode(0o755)).unwrap();
    let run =
        backups.tool("backup slow full").env("PATH", format!("{}:/usr/bin:/bin", folder.display())).start();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !begun.exists() {
        assert!(Instant::now() < deadline, "it never calls pg_dump");
        thread::sleep(Duration::from_millis(20));
    }
    let sent = Instant::now();
    run.signal("TERM");
    let _ = run.wait().expect(143).shows(&["stopped by a signal"]);
    assert!(sent.elapsed() < Duration::from_secs(60));
    assert!(backups.names().is_empty());
}
