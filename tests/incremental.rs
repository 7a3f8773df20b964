//! Incremental backups: what has not changed is stored once, what has changed is never missed, and each is restorable alone.
//!
//! The model goes through rounds of changes, each followed by a backup; a random one of all that are there is restored and must
//! be what was recorded when it was made. MS5_MODEL_ROUNDS sets how many rounds there are (24; an operator's proof: 200),
//! MS5_MODEL_SEED repeats one run.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use migration_tests::backups::{Backups, Dice, EVERY_TYPE, HYPERTABLES, PLAIN, content, gunzip};
use migration_tests::program::Program;
use migration_tests::server::{Engine, Server, not_run};
use postgres::Client;
use serde_json::Value;

/// Rows in chunks that are large enough for the store, and tables beside them.
const ROWS: &str = "CREATE EXTENSION IF NOT EXISTS timescaledb;
CREATE TABLE m (ts timestamptz NOT NULL, dev int NOT NULL, v float8, note text);
SELECT create_hypertable('m', 'ts', chunk_time_interval => interval '1 day');
INSERT INTO m SELECT '2025-01-01'::timestamptz + i * interval '2 minutes', i % 7, i, 'row ' || i FROM generate_series(0, 7199) i;
CREATE TYPE mood AS ENUM ('calm', 'busy');
CREATE TABLE p (id int PRIMARY KEY, mood mood, words text);
INSERT INTO p SELECT i, CASE WHEN i % 2 = 0 THEN 'calm' ELSE 'busy' END::mood, repeat(md5(i::text), 3) FROM generate_series(1, 1500) i;
CREATE TABLE wide (id int PRIMARY KEY, words text);
ALTER TABLE wide ALTER words SET STORAGE EXTERNAL;
INSERT INTO wide SELECT i, repeat(md5(i::text), 200) FROM generate_series(1, 20) i;
CREATE TABLE small (id int);
INSERT INTO small VALUES (1);
VACUUM (FREEZE, ANALYZE);
";

/// backup-manager as the superuser, who can look at pages.
fn as_superuser(backups: &Backups<'_>, server: &Server, line: &str) -> Program {
    backups
        .tool(line)
        .env("DB_USER", server.variable("MS5_SANDBOX_SUPERUSER"))
        .env("POSTGRES_PASSWORD_TEST", server.variable("MS5_SANDBOX_SUPERUSER_PASSWORD"))
}

/// Asks until it holds, for a minute at most, and tells whether it does; not much later than it does.
fn holds_soon(client: &mut Client, condition: &str) -> bool {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let holds = client.query_one(condition, &[]).unwrap().get(0);
        if holds || Instant::now() > deadline {
            return holds;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The files of the store.
fn store(backups: &Backups<'_>) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(backups.folder().join(".chunks"))
        .into_iter()
        .flatten()
        .flatten()
        .flat_map(|folder| fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path()))
        .collect();
    files.sort();
    files
}

fn metadata(folder: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(folder.join("metadata.json")).unwrap()).unwrap()
}

/// The same, where a process may have few files open.
fn with_few_files(backups: &Backups<'_>, tool: Program) -> Program {
    let command = tool.into_command();
    let program = Program::at(Path::new("/bin/sh"))
        .args(["-c", "ulimit -n 100; exec \"$0\" \"$@\""])
        .arg(command.get_program())
        .args(command.get_args());
    let variables = command.get_envs().filter_map(|(name, value)| Some((name.to_str()?, value?)));
    variables.fold(program, |program, (name, value)| program.env(name, value)).current_dir(backups.lab.home())
}

#[test]
fn there_may_be_more_pieces_than_a_process_may_have_files() {
    let backups = Backups::new(
        Engine::Plain,
        "DO $$ BEGIN FOR i IN 1..150 LOOP EXECUTE format('CREATE TABLE many_%s AS SELECT i AS id, repeat(md5(i::text), 3) AS words FROM generate_series(%s, %s) i', i, i, i + 400); END LOOP; END $$",
    );
    let before = backups.content();
    let _ = with_few_files(&backups, backups.tool("backup many full --incremental")).run().expect(0);
    assert!(store(&backups).len() >= 150);
    let limited = |tool| with_few_files(&backups, tool).run().expect(0);
    let _ = limited(backups.tool("verify many"));
    let _ = limited(backups.restorer("restore many --force"));
    assert_eq!(backups.content(), before);
    let _ = limited(backups.tool("export many"));
}

#[test]
fn what_is_unchanged_is_taken_from_the_store_and_each_is_restorable_alone() {
    // A vacuum that nobody has asked for changes pages.
    let server = Server::start(Engine::Pg17, &["autovacuum=off"]).expect("a server of its own");
    let backups = Backups::on(&server, &format!("{PLAIN}{ROWS}"));
    for (kind, superuser) in [("full", true), ("full", false), ("hypertables", true), ("hypertables", false)]
    {
        let name = format!("{kind}_{superuser}");
        let run = |line: &str| {
            let ran = if superuser { as_superuser(&backups, &server, line).run() } else { backups.run(line) };
            ran.expect(0)
        };
        let told = if superuser { "by their pages" } else { "only a superuser can look at pages" };
        let _ = run(&format!("backup {name} {kind} --incremental"));
        let first =
            backups.folder().join(backups.names().into_iter().find(|one| one.starts_with(&name)).unwrap());
        let before = backups.content();
        let first = metadata(&first);
        let pieces = first["pieces"].as_array().unwrap();
        // Enums and arrays of them have none.
        let keyed = pieces.iter().filter(|piece| !piece["key"].is_null()).count();
        let pieces = pieces.len();
        assert!(
            pieces >= 10
                && if superuser { keyed >= 10 && (keyed < pieces) == (kind == "full") } else { keyed == 0 },
            "{first}"
        );
        let stored = store(&backups);
        let ran = run(&format!("backup {name} {kind} --incremental")).shows(&[told]);
        let line = format!("{pieces} of {pieces} pieces are unchanged ({keyed} by their pages");
        assert!(ran.to_string().contains(&line), "{line}\n{ran}");
        assert_eq!(store(&backups), stored, "nothing new is stored");

        // One chunk changes; the other backup stays what it was.
        backups.lab.sql("UPDATE m SET v = v + 1 WHERE ts >= '2025-01-03' AND ts < '2025-01-03 01:00'");
        let after = backups.content();
        let _ = run(&format!("backup {name} {kind} --incremental"))
            .shows(&[&format!("{} of {pieces} pieces", pieces - 1)]);
        assert_eq!(store(&backups).len(), stored.len() + 1);
        let _ = backups.run("list").expect(0).shows(&["complete, incremental", "shared"]);
        // Pages that were written anew with the same rows: the file that others need is not touched.
        let files =
            || store(&backups).iter().map(|file| fs::metadata(file).unwrap().ino()).collect::<Vec<_>>();
        let there = files();
        backups.superuser(&backups.lab.database.name).batch_execute("VACUUM FULL m").unwrap();
        let _ = run(&format!("backup again_{kind}_{superuser} {kind} --incremental"));
        assert_eq!(files(), there);
        let mut names: Vec<String> =
            backups.names().into_iter().filter(|one| one.starts_with(&name)).collect();
        names.sort();
        let sums = Program::at(Path::new("/usr/bin/sha256sum"))
            .args(["-c", "--quiet", "checksums.sha256"])
            .current_dir(&backups.folder().join(&names[2]))
            .run();
        let _ = sums.expect(0);
        if kind == "full" {
            let _ = backups.restorer(&format!("verify {} --deep", names[2])).run().expect(0);
        }
        // The second is lost, the first is cleaned away; the third does not mind.
        fs::remove_dir_all(backups.folder().join(&names[1])).unwrap();
        restores(&backups, kind, &names[0], &before);
        fs::remove_dir_all(backups.folder().join(&names[0])).unwrap();
        let _ = backups.run("clean 9999").expect(0).shows(&["pieces that no backup needs"]);
        let _ = backups.run(&format!("verify {}", names[2])).expect(0);
        restores(&backups, kind, &names[2], &after);
        for name in backups.names() {
            fs::remove_dir_all(backups.folder().join(name)).unwrap();
        }
        let _ = backups.run("clean 9999").expect(0);
        assert!(store(&backups).is_empty());
    }
}

/// Restores a backup in place of what is there.
fn restores(backups: &Backups<'_>, kind: &str, name: &str, wanted: &[String]) {
    if kind == "full" {
        let _ = backups.restorer(&format!("restore {name} --force --drop-old")).run().expect(0);
    } else {
        let _ = backups.run(&format!("restore {name} --force")).expect(0);
    }
    assert_eq!(backups.content(), wanted, "{name}");
}

#[test]
fn a_writer_that_was_open_and_a_label_that_was_renamed_are_not_missed() {
    let server = Server::shared(Engine::Pg17);
    let backups = Backups::new(Engine::Pg17, ROWS);
    let backup = |name: &str| {
        let _ = as_superuser(&backups, server, &format!("backup {name} full --incremental")).run().expect(0);
    };
    let restored = |name: &str, wanted: &[String]| {
        let to = backups.empty_database(name);
        let full = backups.names().into_iter().rfind(|full| full.starts_with(&format!("{name}_"))).unwrap();
        backups.superuser("postgres").batch_execute(&format!("DROP DATABASE {to}")).unwrap();
        let _ =
            backups.restorer(&format!("restore {full} --other-database")).env("DB_NAME", &to).run().expect(0);
        assert_eq!(content(&mut backups.superuser(&to)), wanted, "{name}");
    };
    // It has written, and its pages stay as they are when it commits.
    let mut writer = backups.lab.client();
    writer
        .batch_execute("BEGIN; DELETE FROM m WHERE ts < '2025-01-02'; UPDATE p SET words = 'x' WHERE id = 7")
        .unwrap();
    backups.superuser("postgres").batch_execute("CHECKPOINT").unwrap();
    let open = backups.content();
    backup("open");
    writer.batch_execute("COMMIT").unwrap();
    let ended = backups.content();
    assert_ne!(open, ended);
    backup("ended");
    backups.lab.sql("ALTER TYPE mood RENAME VALUE 'busy' TO 'hectic'");
    let renamed = backups.content();
    assert_ne!(renamed, ended);
    backup("renamed");
    backups.lab.sql("ALTER TABLE m ADD COLUMN extra int DEFAULT 7; ALTER TABLE wide DROP COLUMN words");
    let altered = backups.content();
    backup("altered");
    for (name, wanted) in [("open", &open), ("ended", &ended), ("renamed", &renamed), ("altered", &altered)] {
        restored(name, wanted);
    }
}

fn set_buffers(backups: &Backups<'_>, size: &str) {
    backups
        .superuser("postgres")
        .batch_execute(&format!("ALTER SYSTEM SET shared_buffers = '{size}'"))
        .unwrap();
}

#[test]
fn pages_are_the_same_in_files_and_in_buffers_and_none_that_is_not_written_is_missed() {
    // Nothing but a checkpoint writes a page, nothing but us changes one.
    let settings = ["shared_buffers=6MB", "bgwriter_lru_maxpages=0", "autovacuum=off"];
    let server = Server::start(Engine::Pg17, &settings).expect("a server of its own");
    let backups = Backups::on(&server, ROWS);
    let backup = |name: &str, way: &str, told: &str| {
        let ran =
            as_superuser(&backups, &server, &format!("backup {name} full --incremental --verbose")).run();
        let ran = ran.expect(0).shows(&[way]).to_string();
        assert!(ran.contains(told), "{told}\n{ran}");
    };
    let (files, buffers) = ("pages are looked at in files", "pages are looked at through the buffers");
    backup("first", files, "0 of 13 pieces");
    // One page, in a buffer alone.
    backups.superuser("postgres").batch_execute("CHECKPOINT").unwrap();
    backups.lab.sql("DELETE FROM m WHERE ts = '2025-01-03 23:58'");
    backup("second", files, "12 of 13 pieces are unchanged (11 by their pages");
    // A page is tidied up when it is read.
    let changed = backups.content();
    backup("tidied", files, "of 13 pieces are unchanged");
    set_buffers(&backups, "128MB");
    server.sandbox(&["stop", "--mode=immediate"]).unwrap();
    server.sandbox(&["start"]).unwrap();
    // What pages say is worth nothing to a server that was started anew: see the next test.
    backup("third", buffers, "13 of 13 pieces are unchanged (0 by their pages, 13 by their content");
    backup("fourth", buffers, "13 of 13 pieces are unchanged (12 by their pages");
    for name in ["second", "third", "fourth"] {
        restores(&backups, "full", name, &changed);
    }
}

/// A copy of the server's folder is put back, and what was done since is done again with another value: the same pages then
/// bear the same places in the WAL.
#[test]
fn a_server_that_was_set_back_is_not_taken_for_what_it_was() {
    let server = Server::start(Engine::Pg17, &["autovacuum=off", "bgwriter_lru_maxpages=0"])
        .expect("a server of its own");
    let backups = Backups::on(&server, ROWS);
    let copied = |from: &Path, to: &Path| {
        let _ = Program::at(Path::new("/bin/sh"))
            .args(["-c", "rm -rf \"$2\" && cp -a \"$1\" \"$2\"", "sh"])
            .arg(from)
            .arg(to)
            .run()
            .expect(0);
    };
    let stop = || server.sandbox(&["stop"]).unwrap();
    let start = || server.sandbox(&["start"]).unwrap();
    let data = PathBuf::from(server.variable("MS5_SANDBOX_DATA"));
    let kept = data.with_file_name("kept");
    let change = |value: i32| {
        backups
            .lab
            .sql(&format!("UPDATE m SET v = {value} WHERE ts >= '2025-01-04' AND ts < '2025-01-04 06:00'"));
        // A line that a writer of WAL adds by itself, at its own time, would move all behind it.
        backups.content()
    };
    let backup = |name: &str| {
        let line = format!("backup {name} full --incremental");
        as_superuser(&backups, &server, &line).run().expect(0)
    };
    stop();
    copied(&data, &kept);
    start();
    let _ = change(777);
    let _ = backup("one");
    stop();
    copied(&kept, &data);
    start();
    let wanted = change(888);
    let _ = backup("two").shows(&["(0 by their pages"]);
    restores(&backups, "full", "two", &wanted);
    fs::remove_dir_all(kept).unwrap();
}

/// Nothing but a look at the rows shows what was changed without the server's knowledge.
#[test]
fn one_that_is_unchanged_by_its_pages_is_read_all_the_same() {
    let server = Server::start(Engine::Pg17, &["autovacuum=off"]).expect("a server of its own");
    let backups = Backups::on(
        &server,
        "CREATE EXTENSION IF NOT EXISTS timescaledb;
CREATE TABLE m (ts timestamptz NOT NULL, note text);
SELECT create_hypertable('m', 'ts', chunk_time_interval => interval '1 day');
INSERT INTO m SELECT '2025-01-01'::timestamptz + i * interval '2 minutes', 'row ' || i FROM generate_series(0, 7199) i;
VACUUM (FREEZE, ANALYZE);
",
    );
    let backup = |name: &str| {
        as_superuser(&backups, &server, &format!("backup {name} full --incremental --verbose")).run()
    };
    let _ = backup("one").expect(0);
    let sound = backup("two").expect(0);
    let _ = sound.shows(&["10 of 10 pieces are unchanged (10 by their pages", "and is what its pages say"]);
    let mut superuser = backups.superuser(&backups.lab.database.name);
    superuser
        .batch_execute(
            "CREATE EXTENSION pg_buffercache; CHECKPOINT;
             SELECT pg_buffercache_evict(bufferid) FROM pg_buffercache JOIN show_chunks('m') c ON relfilenode = pg_relation_filenode(c)",
        )
        .unwrap();
    for row in superuser.query("SELECT pg_relation_filepath(c) FROM show_chunks('m') c", &[]).unwrap() {
        let path = Path::new(server.variable("MS5_SANDBOX_DATA")).join(row.get::<_, String>(0));
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.windows(4).position(|text| text == b"row ").unwrap();
        bytes[at] = b'R';
        fs::write(&path, bytes).unwrap();
    }
    let _ =
        backup("three").expect(1).shows(&["are not those that its pages stand for", "without --incremental"]);
    assert_eq!(backups.names().len(), 2);
    let _ = backups.backup("four full");
}

/// Rows are read by the names of their tables, which no lock keeps: that of a schema goes from one to another meanwhile.
#[test]
fn schemas_that_change_places_meanwhile_are_noticed() {
    let server = Server::start(Engine::Pg17, &[]).expect("a server of its own");
    let swapped = |one: &str, other: &str| {
        format!(
            "ALTER SCHEMA {one} RENAME TO away; ALTER SCHEMA {other} RENAME TO {one}; ALTER SCHEMA away RENAME TO {other}"
        )
    };
    let rows = |schema: &str| {
        format!(
            "CREATE SCHEMA {schema}; CREATE TABLE {schema}.t AS SELECT i, '{schema}' words FROM generate_series(1, 300000) i;\n"
        )
    };
    let backups =
        Backups::on(&server, &format!("{}{}VACUUM (FREEZE, ANALYZE);\n", rows("live"), rows("next")));
    let during = |line: &str, sql: &str| {
        let running = as_superuser(&backups, &server, line).start();
        let begun = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name LIKE 'backup-manager %' AND query LIKE 'COPY%')";
        let mut other = backups.superuser(&backups.lab.database.name);
        assert!(holds_soon(&mut other, begun));
        other.batch_execute(sql).unwrap();
        running.wait()
    };
    for line in ["backup one full --incremental --jobs=1", "backup one full --jobs=1"] {
        let ran = during(line, &swapped("live", "next")).expect(1);
        let _ = ran.shows(&["schemas were given other names", "nothing of the backup is kept"]);
        assert_eq!(backups.all_names().into_iter().filter(|name| name.contains("one")).count(), 0);
    }
    // Back again in time, or another right: the rows are right, and nothing is told of pages.
    let both = format!("{};{}", swapped("live", "next"), swapped("live", "next"));
    let ran = during("backup two full --incremental --jobs=1", &both).expect(0);
    let _ = ran.shows(&["not kept for the next backup: schemas were changed meanwhile"]);
    let _ = as_superuser(&backups, &server, "backup three full --incremental")
        .run()
        .expect(0)
        .shows(&["2 of 2 pieces are unchanged (0 by their pages, 2 by their content"]);
}

#[test]
fn compressed_rows_of_hypertables_are_in_the_store_too() {
    let Some(server) = Server::community() else {
        return not_run("compressed_rows_of_hypertables_are_in_the_store_too");
    };
    let backups = Backups::on(
        &server,
        "CREATE EXTENSION IF NOT EXISTS timescaledb;
CREATE TABLE m (ts timestamptz NOT NULL, dev int NOT NULL, v float8, note text);
SELECT create_hypertable('m', 'ts', chunk_time_interval => interval '1 day');
INSERT INTO m SELECT '2025-01-01'::timestamptz + i * interval '1 minute', i % 7, random(), md5(i::text) FROM generate_series(0, 14399) i;
ALTER TABLE m SET (timescaledb.compress, timescaledb.compress_segmentby = 'dev', timescaledb.compress_orderby = 'ts');
SELECT compress_chunk(c) FROM show_chunks('m') c;
",
    );
    let before = backups.content();
    let backup = |name: &str| {
        as_superuser(&backups, &server, &format!("backup {name} hypertables --incremental")).run().expect(0)
    };
    let _ = backup("one").shows(&["0 of 10 pieces"]);
    let _ = backup("two").shows(&["10 of 10 pieces are unchanged (10 by their pages"]);
    backups.lab.sql("UPDATE m SET v = -1 WHERE ts = '2025-01-03 12:00'");
    let changed = backups.content();
    let _ = backup("three").shows(&["9 of 10 pieces are unchanged"]);
    restores(&backups, "hypertables", "two", &before);
    restores(&backups, "hypertables", "three", &changed);
}

#[test]
fn somebody_who_wants_a_table_for_himself_does_not_hold_a_backup_up_for_ever() {
    let server = Server::start(Engine::Pg17, &["shared_buffers=6MB"]).expect("a server of its own");
    let backups = Backups::on(&server, ROWS);
    let _ = as_superuser(&backups, &server, "backup first full --incremental").run().expect(0);
    let chunks = backups.lab.ask("SELECT string_agg(c::text, ',') FROM show_chunks('m') c");
    std::thread::scope(|scope| {
        for chunk in chunks.split(',') {
            // As a job that drops chunks: it waits behind the locks that the backup has by then, and everybody else behind it.
            let mut other = backups.superuser(&backups.lab.database.name);
            scope.spawn(move || {
                // That session comes when all others have their locks.
                let held = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'backup-manager keys')";
                assert!(holds_soon(&mut other, held));
                other
                    .batch_execute(&format!("BEGIN; LOCK TABLE {chunk} IN ACCESS EXCLUSIVE MODE; COMMIT"))
                    .unwrap();
            });
        }
        let line = "backup second full --incremental --jobs=2 --lock-timeout=5";
        // pg_dump, which has to lock too, may give up; nobody waits for ever.
        let ran = as_superuser(&backups, &server, line).run_within(Duration::from_secs(60));
        let told =
            ["pg_dump cannot dump", "holds the backup up"].map(|words| ran.to_string().contains(words));
        assert!(ran.code() == 0 || told.contains(&true), "{ran}");
    });
    let third = as_superuser(&backups, &server, "backup third full --incremental").run().expect(0);
    let _ = third.shows(&["13 of 13 pieces are unchanged"]);
}

/// As an update of the extension: it waits for the locks that the backup has, and whoever asks the catalog waits behind it.
#[test]
fn somebody_who_wants_the_catalog_for_himself_does_not_hold_a_backup_up_for_ever() {
    let server = Server::start(Engine::Pg17, &[]).expect("a server of its own");
    let backups = Backups::on(&server, ROWS);
    let mut watcher = backups.superuser(&backups.lab.database.name);
    let reads = "SELECT count(DISTINCT pid) = 3 FROM pg_locks JOIN pg_stat_activity USING (pid)
           WHERE application_name = 'backup-manager reads' AND granted AND relation = 'm'::regclass";
    let waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock')";
    // A backup that is over too soon is taken again.
    let held_up = (1..=5).any(|_| {
        let line = "backup first full --incremental --jobs=2 --lock-timeout=5";
        let mut running = as_superuser(&backups, &server, line).start();
        let mut holds = |condition: &str| watcher.query_one(condition, &[]).unwrap().get::<_, bool>(0);
        while !holds(reads) && running.runs() {
            std::thread::sleep(Duration::from_millis(1));
        }
        if !running.runs() {
            let _ = running.wait().expect(0);
            fs::remove_dir_all(backups.folder()).unwrap();
            return false;
        }
        running.signal("STOP");
        let mut updater = backups.superuser(&backups.lab.database.name);
        let updater = std::thread::spawn(move || {
            let wanted = "BEGIN; LOCK TABLE _timescaledb_catalog.compression_settings IN ACCESS EXCLUSIVE MODE; COMMIT";
            updater.batch_execute(wanted).unwrap();
        });
        while !holds(waits) && !updater.is_finished() {
            std::thread::sleep(Duration::from_millis(5));
        }
        running.signal("CONT");
        let deadline = Instant::now() + Duration::from_secs(60);
        while running.runs() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        let ran = if running.runs() { running.kill() } else { running.wait() };
        updater.join().unwrap();
        if ran.code() == 0 {
            fs::remove_dir_all(backups.folder()).unwrap();
            return false;
        }
        let ran = ran.expect(4).shows(&["What has changed is told by reading it", "holds the backup up"]);
        assert!(ran.to_string().contains("LOCK TABLE _timescaledb_catalog.compression_settings"), "{ran}");
        true
    });
    assert!(held_up, "each of five backups was over too soon");
    let _ = as_superuser(&backups, &server, "backup second full --incremental").run().expect(0);
}

#[test]
fn damage_in_the_store_is_found_and_the_next_backup_mends_it() {
    let backups = Backups::new(Engine::Pg17, ROWS);
    let _ = backups.backup("x full --incremental");
    let piece = store(&backups).into_iter().max_by_key(|file| fs::metadata(file).unwrap().len()).unwrap();
    let sound = fs::read(&piece).unwrap();
    let mut bytes = sound.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    for (bytes, listed) in
        [(Some(bytes), "complete"), (Some(sound[..middle].to_vec()), "DAMAGED"), (None, "DAMAGED")]
    {
        match &bytes {
            Some(bytes) => fs::write(&piece, bytes).unwrap(),
            None => fs::remove_file(&piece).unwrap(),
        }
        let _ = backups.run("list").expect(0).shows(&[listed]);
        let _ = backups.run("verify x").expect(1).shows(&[".chunks/"]);
        let _ = backups
            .restorer("restore x --force")
            .run()
            .expect(1)
            .shows(&["is damaged", "nothing was touched"]);
        let _ = backups.run("export x").expect(1).shows(&["is damaged"]);
        let _ = backups.backup("next full --incremental");
        assert_eq!(fs::read(&piece).unwrap(), sound);
        let _ = backups.run("verify x").expect(0);
    }
    // What says something else than was written is nothing to build on, and may need any of them.
    let first =
        backups.folder().join(backups.names().into_iter().find(|name| name.starts_with("x_")).unwrap());
    let (path, before) = (first.join("metadata.json"), store(&backups));
    let text = fs::read_to_string(&path).unwrap();
    let at = text.rfind("\"xxh3\":\"").unwrap() + 8;
    let digit = if &text[at..=at] == "0" { "1" } else { "0" };
    fs::write(&path, format!("{}{digit}{}", &text[..at], &text[at + 1..])).unwrap();
    for other in backups.names().into_iter().filter(|name| name.starts_with("next_")) {
        fs::remove_dir_all(backups.folder().join(other)).unwrap();
    }
    let ran = backups.run("backup after full --incremental").expect(0);
    assert!(ran.to_string().contains("] 0 of "), "{ran}");
    let _ = backups.run("verify after").expect(0);
    let _ = backups.run("clean 9999").expect(0).shows(&["not as it was written"]);
    assert_eq!(store(&backups), before);
    fs::write(&path, text).unwrap();
    // The same where a folder was moved and a link is in its place.
    let away = backups.lab.home().join("away");
    fs::rename(&first, &away).unwrap();
    symlink(&away, &first).unwrap();
    let _ = backups.run("verify x").expect(0);
    let _ = backups.run("clean 9999").expect(0);
    assert_eq!(store(&backups), before);
    let _ = backups.run("verify x").expect(0);
    // What cannot be read may need any of them.
    let broken = backups.backup("broken full --incremental");
    backups.lab.sql("UPDATE m SET v = 0");
    let _ = backups.backup("later full --incremental");
    fs::write(broken.join("metadata.json"), "{").unwrap();
    let before = store(&backups);
    let _ = backups.run("clean 0").expect(0).shows(&["cannot be read"]);
    assert_eq!(store(&backups), before);
}

#[test]
fn an_export_holds_all_by_itself() {
    for (engine, kind, more) in [
        (Engine::Plain, "full", ""),
        (Engine::Pg17, "full", " --no-compression"),
        (Engine::Pg17, "hypertables", ""),
    ] {
        let sql = if engine == Engine::Plain {
            format!(
                "{PLAIN}{EVERY_TYPE}CREATE TABLE large AS SELECT i, md5(i::text) FROM generate_series(1, 200000) i;\nSELECT lo_from_bytea(0, 'large');\n"
            )
        } else {
            format!("{PLAIN}{HYPERTABLES}{}", ROWS.replace(" m ", " m3 ").replace("'m'", "'m3'"))
        };
        let backups = Backups::new(engine, &sql);
        let before = backups.content();
        let made = backups.backup(&format!("x {kind} --incremental{more}"));
        assert!(!metadata(&made)["pieces"].as_array().unwrap().is_empty());
        assert!(fs::read_dir(&made).unwrap().all(|file| file.unwrap().file_name() != "full_database.sql.gz"));
        let _ =
            backups.tool("send x").arg("--pipe-to").arg("cat >/dev/null").run().expect(3).shows(&["export"]);
        let _ = backups.run("export x").expect(0).shows(&["✅ Backup exported: x_export_"]);
        fs::remove_dir_all(&made).unwrap();
        let _ = backups.run("clean 9999").expect(0);
        assert!(store(&backups).is_empty());
        let _ = backups.run("verify x_export").expect(0);
        let _ = backups.tool("send x_export").arg("--pipe-to").arg("cat >/dev/null").run().expect(0);
        let _ = backups.run("export x_export").expect(3).shows(&["is not incremental"]);
        let folder = backups.folder().join(&backups.names()[0]);
        if kind == "full" {
            let file =
                folder.join(if more.is_empty() { "full_database.sql.gz" } else { "full_database.sql" });
            let bytes = fs::read(file).unwrap();
            let to = backups.empty_database("hand");
            let _ = backups.psql(&to, if more.is_empty() { gunzip(&bytes) } else { bytes }).expect(0);
            assert_eq!(content(&mut backups.superuser(&to)), before);
            let _ = backups.restorer("restore x_export --force --drop-old").run().expect(0);
        } else {
            let _ = backups.run("restore x_export --force").expect(0);
        }
        assert_eq!(backups.content(), before);
    }
}

#[test]
fn two_at_once_and_what_makes_no_sense() {
    let backups = Backups::new(Engine::Pg17, ROWS);
    let before = backups.content();
    let running: Vec<_> = ["a", "b", "c"]
        .iter()
        .map(|name| backups.tool(&format!("backup {name} full --incremental")).start())
        .collect();
    for run in running {
        let _ = run.wait().expect(0);
    }
    for name in ["a", "b", "c"] {
        let _ = backups.run(&format!("verify {name}")).expect(0);
    }
    // Which is the newest is never left to chance.
    let stamps: BTreeSet<String> = backups.names().iter().map(|name| name[2..].to_owned()).collect();
    assert_eq!(stamps.len(), 3, "{stamps:?}");
    let _ = backups.restorer("restore b --force --drop-old").run().expect(0);
    assert_eq!(backups.content(), before);
    for line in [
        "backup x schema --incremental",
        "backup x data --incremental",
        "backup x full --incremental --encrypt-to=age1x",
        "backup x incremental",
    ] {
        let _ = backups.run(line).expect(2);
    }
    let _ = backups.run("backup x --incremental --pipe-to=cat").expect(2);
    let left: Vec<String> =
        backups.all_names().into_iter().filter(|name| name.starts_with(".partial")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// What has happened, for who must repeat it.
struct Model<'a> {
    backups: Backups<'a>,
    server: &'a Server,
    dice: Dice,
    /// Whether the server can be stopped, and whether it compresses.
    ours: bool,
    compresses: bool,
    writer: Option<Client>,
    /// What each backup must come back as.
    recorded: BTreeMap<String, (String, Vec<String>)>,
    story: Vec<String>,
}

impl Model<'_> {
    fn sql(&mut self, text: &str) {
        self.story.push(text.to_owned());
        let mut client = self.backups.superuser(&self.backups.lab.database.name);
        // Against a writer that is open some must not wait.
        client.batch_execute("SET lock_timeout = '300ms'").unwrap();
        if let Err(error) = client.batch_execute(text) {
            self.story.push(format!("  not done: {error}"));
        }
    }

    fn chunk(&mut self) -> Option<String> {
        let mut client = self.backups.superuser(&self.backups.lab.database.name);
        let rows = client.query("SELECT show_chunks('m')::text", &[]).unwrap();
        (!rows.is_empty()).then(|| rows[self.dice.below(rows.len())].get(0))
    }

    fn change(&mut self) {
        let day = self.dice.below(12) + 1;
        let span = format!("ts >= '2025-01-{day:02}' AND ts < '2025-01-{day:02} 12:00'");
        let many = self.dice.below(40) + 1;
        let async_commit = if self.dice.below(2) == 0 { "SET synchronous_commit = off; " } else { "" };
        let chunk = self.chunk();
        match self.dice.below(20) {
            0..=2 => self.sql(&format!(
                "{async_commit}INSERT INTO m SELECT '2025-01-{day:02}'::timestamptz + i * interval '7 minutes', i, random(), 'new'
                 FROM generate_series(1, {many}) i"
            )),
            3 | 4 => self.sql(&format!("{async_commit}UPDATE m SET v = v + 1 WHERE {span} AND dev = 3")),
            5 => self.sql(&format!("{async_commit}DELETE FROM m WHERE {span} AND dev = 2")),
            6 => self.sql(&format!("BEGIN; UPDATE m SET v = -1 WHERE {span}; DELETE FROM p WHERE id < {many}; ROLLBACK")),
            7 => self.sql(&format!("UPDATE p SET words = md5(random()::text) WHERE id % 50 = {}", many % 50)),
            8 => self.sql(&format!("UPDATE wide SET words = repeat(md5(random()::text), 200) WHERE id = {many}")),
            9 => {
                let (from, to) = if self.dice.below(2) == 0 { ("calm", "busy") } else { ("busy", "calm") };
                self.sql(&format!(
                    "ALTER TYPE mood RENAME VALUE '{from}' TO 'other'; ALTER TYPE mood RENAME VALUE '{to}' TO '{from}';
                     ALTER TYPE mood RENAME VALUE 'other' TO '{to}'"
                ));
            }
            10 => self.sql(&format!("ALTER TABLE m ADD COLUMN IF NOT EXISTS extra_{} int DEFAULT {many}", many % 4)),
            11 => self.sql("VACUUM"),
            12 => self.sql("CHECKPOINT"),
            13 => {
                if let Some(chunk) = chunk {
                    self.sql(&format!("VACUUM FULL {chunk}"));
                }
            }
            14 => {
                if let Some(chunk) = chunk {
                    self.sql(&format!("TRUNCATE {chunk}"));
                }
            }
            15 => self.sql(&format!(
                "SELECT drop_chunks('m', older_than => '2025-01-{:02}'::timestamptz, newer_than => '2025-01-{day:02}'::timestamptz)",
                day + 1
            )),
            16 | 17 if self.compresses => {
                if let Some(chunk) = chunk {
                    let call = if self.dice.below(2) == 0 { "compress_chunk" } else { "decompress_chunk" };
                    self.sql(&format!("SELECT {call}('{chunk}', true)"));
                }
            }
            18 => match self.writer.take() {
                Some(mut writer) => {
                    let end = if self.dice.below(2) == 0 { "COMMIT" } else { "ROLLBACK" };
                    self.story.push(format!("the writer: {end}"));
                    if let Err(error) = writer.batch_execute(end) {
                        self.story.push(format!("  not done: {error}"));
                    }
                }
                None => {
                    let mut writer = self.backups.superuser(&self.backups.lab.database.name);
                    let text = format!("BEGIN; UPDATE m SET v = -v WHERE {span}; UPDATE p SET words = 'w' WHERE id = {many}");
                    self.story.push(format!("the writer: {text}"));
                    if writer.batch_execute(&text).is_ok() {
                        self.writer = Some(writer);
                    }
                }
            },
            19 if self.ours => {
                let mode = if self.dice.below(2) == 0 { "immediate" } else { "fast" };
                // Pages are looked at in files where the buffers hold less than the database has.
                let buffers = if self.dice.below(2) == 0 { "6MB" } else { "128MB" };
                self.story.push(format!("restart, {mode}, shared_buffers = {buffers}"));
                self.writer = None;
                set_buffers(&self.backups, buffers);
                self.server.sandbox(&["stop", &format!("--mode={mode}")]).unwrap();
                self.server.sandbox(&["start"]).unwrap();
            }
            _ => self.story.push("nothing".to_owned()),
        }
    }

    fn backup(&mut self, round: usize) {
        let kind = if self.dice.below(3) == 0 { "hypertables" } else { "full" };
        let line = format!("backup r{round} {kind} --incremental");
        let superuser = self.dice.below(3) > 0;
        let tool = |model: &Self| {
            if superuser {
                as_superuser(&model.backups, model.server, &line)
            } else {
                model.backups.tool(&line)
            }
        };
        if self.dice.below(5) == 0 {
            let wait = self.dice.below(600) as u64;
            self.story.push(format!("{line}, killed after {wait} ms"));
            let mut running =
                tool(self).into_command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(wait));
            let _ = running.kill();
            let _ = running.wait();
        }
        let state = self.backups.content();
        let known = self.backups.names();
        let _ = tool(self).run().expect(0);
        assert_eq!(self.backups.content(), state, "nobody writes meanwhile");
        let name = self.backups.names().into_iter().find(|name| !known.contains(name)).unwrap();
        self.story.push(format!("{line} as {name}{}", if superuser { "" } else { ", by content" }));
        // One that came to its end before it was killed is as good.
        for other in known.into_iter().filter(|name| !self.recorded.contains_key(name)).collect::<Vec<_>>() {
            self.recorded.insert(other, (kind.to_owned(), state.clone()));
        }
        self.recorded.insert(name, (kind.to_owned(), state));
    }

    fn lose(&mut self) {
        match self.dice.below(6) {
            0 => {
                let names: Vec<String> = self.recorded.keys().cloned().collect();
                let name = names[self.dice.below(names.len())].clone();
                self.story.push(format!("{name} is lost"));
                fs::remove_dir_all(self.backups.folder().join(&name)).unwrap();
                self.recorded.remove(&name);
            }
            1 => {
                let line = format!("clean 0 --keep-last={}", self.dice.below(6) + 1);
                self.story.push(line.clone());
                let _ = self.backups.run(&line).expect(0);
                let left = self.backups.names();
                self.recorded.retain(|name, _| left.contains(name));
            }
            _ => {}
        }
    }

    /// Restores one and compares it.
    fn restore(&mut self) {
        let names: Vec<String> = self.recorded.keys().cloned().collect();
        let Some(name) = (!names.is_empty()).then(|| names[self.dice.below(names.len())].clone()) else {
            return;
        };
        let (kind, wanted) = self.recorded[&name].clone();
        self.story.push(format!("restore {name}"));
        let to = format!("{}_back", self.backups.lab.database.name);
        let drop = format!("DROP DATABASE IF EXISTS {to} WITH (FORCE)");
        self.backups.superuser("postgres").batch_execute(&drop).unwrap();
        if kind == "full" {
            let _ = self
                .backups
                .restorer(&format!("restore {name} --other-database"))
                .env("DB_NAME", &to)
                .run()
                .expect(0);
            assert_eq!(content(&mut self.backups.superuser(&to)), wanted, "{name}");
        } else {
            let _ = self.backups.empty_database("back");
            self.backups.superuser(&to).batch_execute("CREATE EXTENSION IF NOT EXISTS timescaledb").unwrap();
            let restore =
                as_superuser(&self.backups, self.server, &format!("restore {name} --other-database"));
            let _ = restore.env("DB_NAME", &to).run().expect(0);
            let is_m = |line: &&String| line.starts_with("public.m:");
            let back = content(&mut self.backups.superuser(&to));
            assert_eq!(back.iter().find(is_m), wanted.iter().find(is_m), "{name}");
        }
        self.backups.superuser("postgres").batch_execute(&drop).unwrap();
    }
}

fn model(server: &Server, ours: bool) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let rounds = usize::try_from(number("MS5_MODEL_ROUNDS").unwrap_or(24)).unwrap();
    let seed = number("MS5_MODEL_SEED").unwrap_or_else(|| {
        if number("MS5_MODEL_ROUNDS").is_some() { u64::from(std::process::id()) } else { 7 }
    });
    println!("MS5_MODEL_SEED={seed}, {rounds} rounds");
    let backups = Backups::on(server, ROWS);
    if !ours {
        backups.lab.sql("ALTER TABLE m SET (timescaledb.compress, timescaledb.compress_segmentby = 'dev', timescaledb.compress_orderby = 'ts')");
    }
    let mut model = Model {
        backups,
        server,
        dice: Dice(seed),
        ours,
        compresses: !ours,
        writer: None,
        recorded: BTreeMap::new(),
        story: Vec::new(),
    };
    let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for round in 0..rounds {
            for _ in 0..=model.dice.below(3) {
                model.change();
            }
            model.backup(round);
            model.lose();
            model.restore();
        }
        for name in model.recorded.keys() {
            let _ = model.backups.run(&format!("verify {name}")).expect(0);
        }
    }));
    if let Err(panic) = ran {
        println!("MS5_MODEL_SEED={seed}\n{}", model.story.join("\n"));
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn every_backup_of_the_model_comes_back_as_it_was() {
    let settings = ["wal_writer_delay=10s", "autovacuum_naptime=1s", "shared_buffers=6MB"];
    model(&Server::start(Engine::Pg17, &settings).expect("a server of its own"), true);
}

#[test]
fn every_backup_of_the_model_comes_back_with_compressed_chunks() {
    let Some(server) = Server::community() else {
        return not_run("every_backup_of_the_model_comes_back_with_compressed_chunks");
    };
    model(&server, false);
}

#[test]
fn labels_inside_what_is_compressed_are_not_missed() {
    let Some(server) = Server::community() else {
        return not_run("labels_inside_what_is_compressed_are_not_missed");
    };
    let backups = Backups::on(
        &server,
        "CREATE EXTENSION IF NOT EXISTS timescaledb;
SET timescaledb.enable_sparse_index_bloom = off;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TABLE src (t timestamptz NOT NULL, d int, s text);
SELECT create_hypertable('src', 't', chunk_time_interval => interval '100 day');
INSERT INTO src SELECT '2024-01-01'::timestamptz + g * interval '1 min', g, (ARRAY['sad', 'ok', 'happy'])[1 + (g * 7919 + g / 3) % 3] FROM generate_series(1, 60000) g;
CREATE MATERIALIZED VIEW ca WITH (timescaledb.continuous) AS SELECT time_bucket('1 minute', t) b, d, last(s::mood, t) m FROM src GROUP BY 1, 2 WITH NO DATA;
CALL refresh_continuous_aggregate('ca', NULL, NULL);
ALTER MATERIALIZED VIEW ca SET (timescaledb.compress, timescaledb.compress_segmentby = '', timescaledb.compress_orderby = 'b');
SELECT compress_chunk(c) FROM show_chunks('ca') c;
",
    );
    let backup = |name: &str| {
        let _ = as_superuser(&backups, &server, &format!("backup {name} full --incremental")).run().expect(0);
    };
    backup("one");
    backups.lab.sql(
        "ALTER TYPE mood RENAME VALUE 'happy' TO 'tmp'; ALTER TYPE mood RENAME VALUE 'sad' TO 'happy'; ALTER TYPE mood RENAME VALUE 'tmp' TO 'sad'",
    );
    let (of_views, swapped) = (backups.lab.ask("SELECT string_agg(m::text || n, ',') FROM (SELECT m, count(*) n FROM ca GROUP BY 1 ORDER BY 1) x"), backups.content());
    backup("two");
    let _ = backups.restorer("restore two --force --drop-old").run().expect(0);
    assert_eq!(backups.content(), swapped);
    assert_eq!(
        backups.lab.ask(
            "SELECT string_agg(m::text || n, ',') FROM (SELECT m, count(*) n FROM ca GROUP BY 1 ORDER BY 1) x"
        ),
        of_views
    );
}
