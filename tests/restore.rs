//! Restores: beside the old database, compared row by row, swapped last; and the proof by a scratch database.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use migration_tests::backups::{Backups, Dice, HYPERTABLES, PLAIN, content, gunzip, half};
use migration_tests::server::{Engine, Server, not_run};
use serde_json::Value;

#[test]
fn brings_back_what_was_there_and_keeps_what_is_replaced() {
    for (engine, sql) in [(Engine::Plain, PLAIN.to_owned()), (Engine::Pg17, format!("{PLAIN}{HYPERTABLES}"))]
    {
        let backups = Backups::new(engine, &sql);
        let name = backups.lab.database.name.clone();
        let (before, inventory) = (backups.content(), backups.lab.database.inventory());
        let folder = backups.backup("pre_migration full");
        let full = folder.file_name().unwrap().to_str().unwrap().to_owned();
        backups.lab.sql(
            "DROP TABLE \"line\nbreak\"; UPDATE parent SET name = 'changed'; CREATE TABLE later (id int)",
        );

        let _ = backups.restorer("restore pre_migration").run().expect(1).shows(&["holds data", "--force"]);
        // Somebody is connected, and in a transaction.
        let mut guest = backups.lab.client();
        guest.batch_execute("BEGIN; SELECT 1").unwrap();
        let ran = backups.restorer("restore pre_migration --force").run().expect(0).shows(&[
            "Every row and every object is as it was backed up",
            "is kept, closed, as",
            "✅ Restore completed",
        ]);
        assert!(guest.batch_execute("SELECT 1").is_err(), "its session was of the old database");
        assert_eq!(backups.content(), before, "{ran}");
        backups.has_objects_of(&inventory);
        assert_eq!(backups.lab.ask("SELECT backup_name FROM migration_restores"), full);
        assert_eq!(
            backups
                .lab
                .ask("SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()"),
            backups.lab.ask("SELECT current_user")
        );
        let kept = backups.databases(&format!("{name}_before_restore_"));
        assert_eq!(kept.len(), 1);
        let mut admin = backups.superuser("postgres");
        admin.batch_execute(&format!("ALTER DATABASE {} ALLOW_CONNECTIONS true", kept[0])).unwrap();
        let changed: String = backups
            .superuser(&kept[0])
            .query_one("SELECT name FROM parent WHERE id = 1", &[])
            .unwrap()
            .get(0);
        assert_eq!(changed, "changed");
        if engine == Engine::Pg17 {
            // It works on: a new chunk, a later version of a row.
            backups.lab.sql(
                "INSERT INTO m (ts, dev, v) VALUES (now(), 1, 1); DELETE FROM m WHERE ts > '2030-01-01'",
            );
        }
        // A database that is gone comes back as well, and what is replaced can be dropped at once.
        drop(admin);
        let _ = backups.restorer("restore pre_migration --force --drop-old --start-jobs").run().expect(0);
        assert_eq!(backups.databases(&format!("{name}_before_restore_")), kept);
        backups.superuser("postgres").batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).unwrap();
        let ran = backups.restorer(&format!("restore {full}")).run().expect(0);
        assert_eq!(backups.content(), before);
        assert!(backups.databases(&half(&ran).unwrap()).is_empty());
    }
}

/// What is sound, and is printed differently once it was read, named anew, or left out by pg_dump.
const ODD: &str = "
CREATE TABLE checked (s varchar(9) CHECK (s IN ('a','b')), n int, CHECK (n BETWEEN 1 AND 5 AND n <> 3));
INSERT INTO checked VALUES ('a', 1), ('b', 2);
CREATE VIEW seen AS SELECT s FROM checked WHERE s IN ('a','b') AND n BETWEEN 1 AND 5 AND n <> 3;
CREATE INDEX part ON checked (n) WHERE s IN ('a','b') AND n BETWEEN 1 AND 5 AND n <> 3;
CREATE TABLE twice AS SELECT 1 AS a FROM generate_series(1, 2);
CREATE TABLE p (a int);
CREATE TABLE c (x int) INHERITS (p);
ALTER TABLE p ADD b int;
INSERT INTO c (x, b) VALUES (1, 2);
CREATE TABLE months (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE months_rest PARTITION OF months DEFAULT;
CREATE TABLE months_1 PARTITION OF months FOR VALUES FROM (1) TO (9);
INSERT INTO months VALUES (1), (20);
CREATE TABLE refers (m int REFERENCES months);
INSERT INTO refers VALUES (1), (20);
CREATE MATERIALIZED VIEW filled AS SELECT count(*) FROM checked;
CREATE TABLE audit (at timestamptz, tag text);
CREATE FUNCTION audit() RETURNS event_trigger LANGUAGE plpgsql AS $x$ BEGIN INSERT INTO audit VALUES (now(), tg_tag); END $x$;
";

#[test]
fn a_sound_backup_comes_back_however_the_server_prints_it_and_who_was_frozen_is_frozen_again() {
    let backups = Backups::new(Engine::Plain, ODD);
    let name = backups.lab.database.name.clone();
    let mut admin = backups.superuser("postgres");
    assert!(
        backups.lab.client().batch_execute("CREATE UNIQUE INDEX CONCURRENTLY failed ON twice (a)").is_err()
    );
    backups
        .superuser(&name)
        .batch_execute(
            "CREATE EVENT TRIGGER audit ON ddl_command_end EXECUTE FUNCTION audit();
             COMMENT ON EVENT TRIGGER audit IS 'who did what'",
        )
        .unwrap();
    admin.batch_execute(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on")).unwrap();
    let before = backups.content();
    let _ = backups.restorer("backup odd full").run().expect(0).shows(&["public.failed is not valid"]);
    let _ = backups.restorer("verify odd --deep").run().expect(0);
    let ran = backups.restorer("restore odd --force --drop-old").run().expect(0);
    assert!(!ran.to_string().contains("could not be marked"), "{ran}");
    assert_eq!(backups.lab.ask("SELECT current_setting('default_transaction_read_only')"), "on");
    // The column that came to the parent later stands before the child's own now.
    assert_eq!(without(&backups.content(), "public.c:"), without(&before, "public.c:"));
    assert_eq!(backups.lab.ask("SELECT format('%s|%s|%s', a, x, b) FROM c"), "|1|2");
    let folder = backups.folder().join(backups.names().remove(0));
    let file = folder.join("full_database.sql.gz");
    let text = String::from_utf8(gunzip(&fs::read(&file).unwrap())).unwrap();
    assert!(text.contains("n <> 3") && !text.contains("INDEX failed"), "{text}");
}

/// The lines of a content but for those of one table.
fn without(content: &[String], table: &str) -> Vec<String> {
    content.iter().filter(|line| !line.contains(table)).cloned().collect()
}

#[test]
fn large_tables_are_frozen_and_an_index_that_reads_another_table_waits_for_it() {
    let backups = Backups::new(
        Engine::Plain,
        "CREATE TABLE lookup (id int PRIMARY KEY, name text);
         INSERT INTO lookup SELECT i, 'name ' || i FROM generate_series(0, 9) i;
         CREATE FUNCTION named(int) RETURNS text IMMUTABLE LANGUAGE sql
             RETURN (SELECT name FROM public.lookup WHERE id = $1);
         CREATE TABLE large (id int PRIMARY KEY, x int, y text);
         INSERT INTO large SELECT i, i % 10, repeat('y', 200) FROM generate_series(1, 20000) i;
         CREATE INDEX large_x ON large (x);
         CREATE TABLE larger AS SELECT * FROM large UNION ALL SELECT id + 20000, x, y FROM large;
         CREATE INDEX larger_named ON larger (named(x));",
    );
    let before = backups.content();
    let _ = backups.backup("large full");
    for jobs in [1, 2] {
        let _ = backups.restorer(&format!("restore large --force --drop-old --jobs={jobs}")).run().expect(0);
        assert_eq!(backups.content(), before);
        backups.lab.sql("ANALYZE");
        // Not the pages on which one batch of rows ends and the next begins.
        let visible = "SELECT relallvisible > relpages / 2 FROM pg_class WHERE relname = ";
        assert_eq!(backups.lab.ask(&format!("{visible}'large'")), "true");
        // With two sessions it is more than one's share, and comes in parts.
        assert_eq!(backups.lab.ask(&format!("{visible}'larger'")), (jobs == 1).to_string());
        let mut client = backups.lab.client();
        client.batch_execute("SET enable_seqscan = off").unwrap();
        let found: i64 =
            client.query_one("SELECT count(*) FROM larger WHERE named(x) = 'name 3'", &[]).unwrap().get(0);
        assert_eq!(found, 4000);
    }
}

#[test]
fn an_old_database_is_kept_under_a_name_that_is_free() {
    let backups = Backups::new(Engine::Plain, PLAIN);
    let name = backups.lab.database.name.clone();
    let _ = backups.restorer("rollback-point twice").run().expect(0);
    let script = backups.rollback_script();
    let prefix = format!("{name}_before_restore_");
    // As if every one of the seconds to come had seen a restore.
    let mut admin = backups.superuser("postgres");
    let taken: Vec<String> = admin
        .query(
            "SELECT to_char(now() AT TIME ZONE 'UTC' + make_interval(secs => i), 'YYYYMMDD_HH24MISS')
             FROM generate_series(0, 30) i",
            &[],
        )
        .unwrap()
        .iter()
        .map(|row| format!("{prefix}{}", row.get::<_, String>(0)))
        .collect();
    for name in &taken {
        admin.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE template0")).unwrap();
    }
    let before = backups.content();
    let _ = backups.restorer("restore twice --force").run().expect(0);
    let _ = backups.by_hand(&script).args(["--force"]).run().expect(0);
    assert_eq!(backups.content(), before);
    let kept = backups.databases(&prefix);
    assert_eq!(kept.len(), taken.len() + 2);
    assert!(kept[taken.len()] > taken[taken.len() - 1]);
}

#[test]
fn without_hypertables_no_superuser_is_needed_and_with_them_it_is_said_in_time() {
    // A server of its own: what a role may is the whole server's, and others restore at the same time.
    let server = Server::start(Engine::Pg17, &[]).unwrap();
    let plain = Backups::on(
        &server,
        "CREATE EXTENSION timescaledb; CREATE TABLE t (id int); INSERT INTO t VALUES (7);",
    );
    let _ = plain.backup("small full");
    plain.superuser("postgres").batch_execute("ALTER ROLE ms5_user_test NOCREATEDB").unwrap();
    let _ = plain.run("restore small --force").expect(3).shows(&[
        "may not create databases",
        "CREATEDB",
        "nothing was touched",
    ]);
    plain.superuser("postgres").batch_execute("ALTER ROLE ms5_user_test CREATEDB").unwrap();
    let _ = plain.run("verify small --deep").expect(0);
    let _ = plain.run("restore small --force").expect(0);
    assert_eq!(plain.lab.ask("SELECT id FROM t"), "7");
    plain.lab.sql("CREATE TABLE m (ts timestamptz NOT NULL); SELECT create_hypertable('m', 'ts')");

    let _ = plain.backup("large full");
    let ran = plain
        .run("restore large --force")
        .expect(3)
        .shows(&["only a superuser can load", "--restore-user=ROLE"]);
    assert_eq!(half(&ran), None);
}

#[test]
fn a_restore_that_fails_leaves_the_old_database_in_service() {
    let backups = Backups::new(
        Engine::Plain,
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1); CREATE TABLE u (id int REFERENCES t (id)); INSERT INTO u VALUES (1);",
    );
    let name = backups.lab.database.name.clone();
    // A row that its foreign key forbids: the load goes well until the very end.
    backups
        .superuser(&name)
        .batch_execute("SET session_replication_role = replica; INSERT INTO u VALUES (2)")
        .unwrap();
    let folder = backups.backup("broken full");
    for command in ["restore broken --force", "verify broken --deep"] {
        let ran = backups.restorer(command).run().expect(1);
        let ran = ran.shows(&["violates foreign key constraint", "ADD CONSTRAINT"]);
        assert!(backups.databases(&half(&ran).unwrap()).is_empty(), "{ran}");
        assert_eq!(backups.lab.ask("SELECT count(*) FROM u"), "2");
    }
    assert!(!folder.join("verified.json").exists());
    assert!(backups.databases(&format!("{name}_before")).is_empty());
    // Damage is found before anything is begun.
    let path = folder.join("full_database.sql.gz");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let _ = backups
        .restorer("restore broken --force")
        .run()
        .expect(1)
        .shows(&["is damaged", "nothing was touched"]);
}

/// Changes the SQL of a backup that is not compressed and makes every checksum anew, as whoever changes it could.
fn forge(folder: &Path, metadata: &str, sound: &[u8], changed: &[u8]) {
    let (sql, text) = (folder.join("full_database.sql"), folder.join("metadata.json"));
    let sum = |path: &Path| {
        let out = std::process::Command::new("sha256sum").arg(path).output().unwrap().stdout;
        String::from_utf8(out).unwrap().split_whitespace().next().unwrap().to_owned()
    };
    fs::write(&sql, sound).unwrap();
    let old_sum = sum(&sql);
    fs::write(&sql, changed).unwrap();
    let mut forged = metadata.replace(&old_sum, &sum(&sql));
    let whole: Value = serde_json::from_str(metadata).unwrap();
    for member in whole["members"].as_array().unwrap() {
        let number = |key: &str| usize::try_from(member[key].as_u64().unwrap()).unwrap();
        let part = &changed[number("offset")..number("offset") + number("length")];
        let old = member["xxh3"].as_str().unwrap();
        forged = forged.replace(old, &format!("{:016x}", xxhash_rust::xxh3::xxh3_64(part)));
    }
    fs::write(&text, forged).unwrap();
    let sums = format!("{}  metadata.json\n{}  full_database.sql\n", sum(&text), sum(&sql));
    fs::write(folder.join("checksums.sha256"), sums).unwrap();
}

/// Where a change of one letter or digit means something: not in comments, not in the settings of a session.
fn meaningful(sql: &[u8]) -> Vec<usize> {
    let (mut places, mut at) = (Vec::new(), 0);
    for line in sql.split_inclusive(|byte| *byte == b'\n') {
        let text = String::from_utf8_lossy(line);
        if !["--", "SET ", "\\", "SELECT pg_catalog.set_config"].iter().any(|start| text.starts_with(start)) {
            places.extend((at..at + line.len()).filter(|place| sql[*place].is_ascii_alphanumeric()));
        }
        at += line.len();
    }
    places
}

#[test]
fn fifty_changes_with_every_sum_made_anew_are_found_by_deep() {
    let backups = Backups::new(
        Engine::Plain,
        "CREATE TABLE t (id int PRIMARY KEY, x text DEFAULT 'abc'); INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 50) i;
         CREATE INDEX t_x ON t (x); CREATE SEQUENCE s START 100; SELECT nextval('s'); COMMENT ON TABLE t IS 'abcdef';
         CREATE VIEW v AS SELECT id + 1 AS one FROM t; CREATE FUNCTION f(a int) RETURNS int LANGUAGE sql AS 'SELECT a * 2';
         CREATE TABLE u (id int REFERENCES t, CHECK (id > 3)); GRANT SELECT ON t TO PUBLIC",
    );
    let folder = backups.backup("sums full --no-compression");
    let sound = fs::read(folder.join("full_database.sql")).unwrap();
    let metadata = fs::read_to_string(folder.join("metadata.json")).unwrap();
    let whole: Value = serde_json::from_str(&metadata).unwrap();
    // As many in the definitions, small as they are, as in the rows.
    let mut stages: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for member in whole["members"].as_array().unwrap() {
        let number = |key: &str| usize::try_from(member[key].as_u64().unwrap()).unwrap();
        let stage = member["stage"].as_str().unwrap().to_owned();
        let (from, to) = (number("offset"), number("offset") + number("length"));
        let places = meaningful(&sound[from..to]).into_iter().map(|place| from + place);
        stages.entry(stage).or_default().extend(places);
    }
    let replayed = ["pre-data", "table", "sequences", "post-data"];
    let mut dice = Dice(50);
    for turn in 0..50 {
        let places = &stages[replayed[turn % replayed.len()]];
        let place = places[dice.below(places.len())];
        let mut changed = sound.clone();
        let old = changed[place];
        while changed[place] == old {
            let letter = u8::try_from(dice.below(26)).unwrap();
            changed[place] = match old {
                b'0'..=b'9' => b'0' + letter % 10,
                b'A'..=b'Z' => b'A' + letter,
                _ => b'a' + letter,
            };
        }
        forge(&folder, &metadata, &sound, &changed);
        let ran = backups.restorer("verify sums --deep").run();
        let from = place.saturating_sub(40);
        let around = String::from_utf8_lossy(&changed[from..(place + 20).min(changed.len())]).into_owned();
        assert_eq!(
            ran.code(),
            1,
            "turn {turn}: {:?} is now {:?} in {around:?}\n{ran}",
            char::from(old),
            char::from(changed[place])
        );
        if let Some(half) = half(&ran) {
            assert!(backups.databases(&half).is_empty(), "{ran}");
        }
    }
    forge(&folder, &metadata, &sound, &sound);
    let _ = backups.restorer("verify sums --deep").run().expect(0);
}

#[test]
fn one_restore_at_a_time_and_none_during_a_run() {
    let backups = Backups::new(Engine::Plain, "CREATE TABLE t (id int);");
    let _ = backups.backup("lock full");
    let mut run = backups.lab.client();
    // The key that every tool takes, "MS5_MIGR".
    run.batch_execute("SELECT pg_advisory_lock(x'4d53355f4d494752'::bigint)").unwrap();
    for command in ["restore lock --force --lock-wait=0", "backup other --lock-wait=0"] {
        let _ = backups.restorer(command).run().expect(4).shows(&["another run holds the lock"]);
    }
    run.batch_execute(
        "SELECT pg_advisory_unlock_all(); SELECT pg_advisory_lock_shared(x'4d53355f4d494752'::bigint)",
    )
    .unwrap();
    let _ = backups.restorer("restore lock --force --lock-wait=0").run().expect(4);
    let _ = backups.run("backup other --lock-wait=0").expect(0);
}

#[test]
fn a_session_that_is_refused_in_the_middle_is_a_failure_and_not_the_start() {
    // A server of its own: how many sessions a role may have is the whole server's.
    let server = Server::start(Engine::Plain, &[]).unwrap();
    let tables: String =
        (0..20).map(|i| format!("CREATE TABLE t{i} AS SELECT generate_series(1, 1000) i;\n")).collect();
    let backups = Backups::on(&server, &tables);
    let before = backups.content();
    let _ = backups.backup("many full");
    backups
        .superuser("postgres")
        .batch_execute("ALTER ROLE ms5_user_test CREATEDB CONNECTION LIMIT 4")
        .unwrap();
    let ran = backups
        .run("restore many --force --jobs=8")
        .expect(1)
        .shows(&["too many connections", "is as it was, in service; the half-made database is dropped"]);
    assert!(!ran.to_string().contains("nothing was touched"), "{ran}");
    assert_eq!(backups.content(), before);
    assert!(backups.databases("ms5_half_").is_empty());
}

/// Compressed chunks, a continuous aggregate, policies.
const COMMUNITY: &str = "
CREATE EXTENSION IF NOT EXISTS timescaledb;
CREATE TABLE m (id bigserial, ts timestamptz NOT NULL, dev int NOT NULL, v float8, tag text, PRIMARY KEY (id, ts));
SELECT create_hypertable('m', 'ts', chunk_time_interval => interval '1 day');
INSERT INTO m (ts, dev, v, tag) SELECT '2025-01-01'::timestamptz + i * interval '2 minutes', i % 7, sin(i), 'x' || i FROM generate_series(1, 9000) i;
ALTER TABLE m SET (timescaledb.compress, timescaledb.compress_segmentby = 'dev');
SELECT compress_chunk(c) FROM (SELECT show_chunks('m') c ORDER BY 1 LIMIT 7) x;
INSERT INTO m (ts, dev, v) VALUES ('2025-01-02', 3, 3), ('2025-01-03', 3, 3);
CREATE MATERIALIZED VIEW hourly WITH (timescaledb.continuous) AS
    SELECT time_bucket('1 hour', ts) b, dev, avg(v) a, count(*) n FROM m GROUP BY 1, 2;
CREATE MATERIALIZED VIEW plain AS SELECT count(*), sum(dev) FROM m;
SELECT add_retention_policy('m', interval '100 years', initial_start => '2035-01-01');
SELECT add_compression_policy('m', interval '7 days', initial_start => '2035-01-01');
SELECT add_continuous_aggregate_policy('hourly', interval '3 days', interval '1 hour', interval '1 hour', initial_start => '2035-01-01');
";

#[test]
fn compressed_chunks_aggregates_and_policies_come_back() {
    let Some(server) = Server::community() else {
        return not_run("compressed_chunks_aggregates_and_policies_come_back");
    };
    let backups = Backups::on(&server, COMMUNITY);
    let (before, inventory) = (backups.content(), backups.lab.database.inventory());
    let folder = backups.backup("community full");
    let name = backups.lab.database.name.clone();
    // By hand.
    let to = format!("{name}_psql");
    backups.superuser("postgres").batch_execute(&format!("CREATE DATABASE {to} TEMPLATE template0")).unwrap();
    let script = gunzip(&fs::read(folder.join("full_database.sql.gz")).unwrap());
    let _ = backups.psql(&to, script).expect(0);
    let by_psql = content(&mut backups.superuser(&to));
    backups.superuser("postgres").batch_execute(&format!("DROP DATABASE {to} WITH (FORCE)")).unwrap();
    assert_eq!(by_psql, before);
    // By us.
    let _ = backups.restorer("verify community --deep").run().expect(0);
    backups.lab.sql("DELETE FROM m WHERE dev = 1");
    let _ = backups.restorer("restore community --force --drop-old --start-jobs").run().expect(0);
    assert_eq!(backups.content(), before);
    backups.has_objects_of(&inventory);
    // Without --start-jobs they stay where they are, and the line that starts them does so.
    let ran = backups.restorer("restore community --force --drop-old").run().expect(0);
    let jobs = "SELECT string_agg(DISTINCT scheduled::text, ',') FROM timescaledb_information.jobs WHERE job_id >= 1000";
    assert_eq!(backups.lab.ask(jobs), "false");
    let text = ran.stdout();
    let start = text
        .lines()
        .find(|line| line.contains("alter_job("))
        .and_then(|line| line.find("SELECT").map(|at| &line[at..]));
    backups.lab.sql(start.unwrap());
    assert_eq!(backups.lab.ask(jobs), "true");
    assert_eq!(
        backups.lab.ask("SELECT count(*) FROM timescaledb_information.chunks WHERE is_compressed"),
        "7"
    );
    backups.lab.sql("SELECT decompress_chunk(c) FROM (SELECT show_chunks('m') c ORDER BY 1 LIMIT 2) x");
    backups.lab.sql("CALL refresh_continuous_aggregate('hourly', NULL, NULL)");
}

#[test]
fn a_chunk_that_is_being_compressed_is_not_lost() {
    let Some(server) = Server::community() else {
        return not_run("a_chunk_that_is_being_compressed_is_not_lost");
    };
    let backups = Backups::on(&server, COMMUNITY);
    let before = backups.content();
    let mut other = backups.superuser(&backups.lab.database.name);
    other
        .batch_execute(
            "BEGIN; SELECT compress_chunk(c) FROM (SELECT show_chunks('m') c ORDER BY 1 DESC LIMIT 2) x",
        )
        .unwrap();
    let run = backups.tool("backup race full").start();
    backups
        .lab
        .wait_for("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND mode = 'AccessShareLock')");
    other.batch_execute("COMMIT").unwrap();
    let _ = run.wait().expect(0);
    let _ = backups.restorer("restore race --force --drop-old").run().expect(0);
    assert_eq!(backups.content(), before);
}

#[test]
fn a_column_that_was_added_to_compressed_chunks_keeps_its_values() {
    let Some(server) = Server::community() else {
        return not_run("a_column_that_was_added_to_compressed_chunks_keeps_its_values");
    };
    let backups = Backups::on(
        &server,
        "CREATE EXTENSION IF NOT EXISTS timescaledb;
CREATE TYPE mood AS ENUM ('calm', 'it''s $ms5$ busy');
CREATE TABLE m (ts timestamptz NOT NULL, dev int NOT NULL, v float8);
SELECT create_hypertable('m', 'ts', chunk_time_interval => interval '1 day');
INSERT INTO m SELECT '2025-01-01'::timestamptz + i * interval '10 minutes', i % 7, i FROM generate_series(0, 1000) i;
ALTER TABLE m SET (timescaledb.compress, timescaledb.compress_segmentby = 'dev');
SELECT compress_chunk(c) FROM show_chunks('m') c LIMIT 3;
ALTER TABLE m ADD COLUMN number int DEFAULT 6, ADD COLUMN \"it's\" mood DEFAULT 'it''s $ms5$ busy', ADD COLUMN at timestamptz DEFAULT '2025-01-01 12:00+03';
UPDATE m SET number = NULL WHERE v < 10;
",
    );
    let before = backups.content();
    let folder = backups.backup("x");
    let _ = backups.restorer("verify x --deep").run().expect(0);
    let to = backups.empty_database("hand");
    let _ = backups.psql(&to, gunzip(&fs::read(folder.join("full_database.sql.gz")).unwrap())).expect(0);
    assert_eq!(content(&mut backups.superuser(&to)), before);
    let _ = backups.restorer("restore x --force --drop-old").run().expect(0);
    assert_eq!(backups.content(), before);
}

#[test]
fn a_limit_of_transactions_or_locks_is_for_others() {
    let backups = Backups::new(
        Engine::Plain,
        "CREATE TABLE t AS SELECT i AS id, repeat('x', 100) AS words FROM generate_series(1, 200000) i",
    );
    let name = backups.lab.database.name.clone();
    let mut admin = backups.superuser("postgres");
    admin
        .batch_execute(&format!(
            "ALTER DATABASE {name} SET transaction_timeout = '20ms'; ALTER DATABASE {name} SET lock_timeout = '1ms'"
        ))
        .unwrap();
    let folder = backups.backup("limited full");
    let by_hand = backups.empty_database("limited");
    admin.batch_execute(&format!("ALTER DATABASE {by_hand} SET transaction_timeout = '20ms'")).unwrap();
    let script = gunzip(&fs::read(folder.join("full_database.sql.gz")).unwrap());
    let _ = backups.psql(&by_hand, script).expect(0);
    let _ = backups.restorer("restore limited --force").run().expect(0);
    let _ = backups.restorer("verify limited --deep").run().expect(0);
    admin.batch_execute(&format!("DROP DATABASE {by_hand}")).unwrap();
}

#[test]
fn a_password_in_a_statement_that_fails_is_not_shown() {
    let backups = Backups::new(Engine::Plain, "CREATE TABLE t (id int)");
    let role = format!("gone_{}", std::process::id());
    let mut client = backups.superuser(&backups.lab.database.name);
    client
        .batch_execute(&format!(
            "CREATE ROLE {role}; CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;
             CREATE USER MAPPING FOR {role} SERVER s OPTIONS (\"user\" 'x', password 'geheim')"
        ))
        .unwrap();
    let server = Server::shared(Engine::Plain);
    let _ = backups
        .tool("backup secret full")
        .env("DB_USER", server.variable("MS5_SANDBOX_SUPERUSER"))
        .env("POSTGRES_PASSWORD_TEST", server.variable("MS5_SANDBOX_SUPERUSER_PASSWORD"))
        .run()
        .expect(0);
    client.batch_execute(&format!("DROP USER MAPPING FOR {role} SERVER s; DROP ROLE {role}")).unwrap();
    let ran =
        backups.restorer("restore secret --force --json").run().expect(1).shows(&["CREATE USER MAPPING FOR"]);
    assert!(!ran.to_string().contains("geheim"), "{ran}");
}

#[test]
fn a_damaged_proof_is_no_damage_of_the_backup() {
    let backups = Backups::new(Engine::Plain, "CREATE TABLE t AS SELECT 1 AS id");
    let before = backups.content();
    let folder = backups.backup("proven full");
    fs::write(folder.join("verified.json"), "{}").unwrap();
    let _ = backups.run("verify proven").expect(1).shows(&["verified.json"]);
    let _ = backups.restorer("restore proven --force").run().expect(0).shows(&["verified.json"]);
    assert_eq!(backups.content(), before);
}

#[test]
fn a_signal_ends_the_wait_for_the_lock_of_the_database() {
    let backups = Backups::new(Engine::Plain, "CREATE TABLE t AS SELECT 1 AS id");
    let _ = backups.backup("wait full");
    let mut other = backups.lab.client();
    other.batch_execute("SELECT pg_advisory_lock(x'4d53355f4d494752'::bigint)").unwrap();
    let waits = backups.restorer("restore wait --force --lock-wait=20").start();
    // What a superuser runs, only a superuser sees.
    let mut watch = backups.superuser(&backups.lab.database.name);
    let asks = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                AND application_name = 'backup-manager lock' AND query ~ 'pg_locks'";
    let begun = Instant::now();
    while watch.query_one(asks, &[]).unwrap().get::<_, i64>(0) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "it does not wait for the lock");
        std::thread::sleep(Duration::from_millis(20));
    }
    waits.signal("TERM");
    let _ = waits.wait().expect(143);
}
