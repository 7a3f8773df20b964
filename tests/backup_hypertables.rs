//! Backups of type hypertables: CSV files that we and plain psql read, as a whole or in part, into what is there or made anew.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;

use migration_tests::backups::{Backups, EVERY_TYPE, HYPERTABLES, content, gunzip};
use migration_tests::server::{Engine, Server, not_run};
use serde_json::Value;

/// Hypertables of every type, with names that are hard on a file system, a key to a plain table and a loud trigger.
fn hard() -> String {
    format!(
        "{HYPERTABLES}{EVERY_TYPE}CREATE TABLE every_type_2 (LIKE every_type);
SELECT create_hypertable('every_type_2', 'at', chunk_time_interval => interval '1000 years');
INSERT INTO every_type_2 SELECT * FROM every_type;
CREATE SCHEMA \"f/../ü\";
CREATE TABLE \"f/../ü\".\"it's, a \"\"name\"\" 50%\" (id bigint GENERATED ALWAYS AS IDENTITY, \"a,b\" text, \"at\" bigint NOT NULL,
    dev int NOT NULL, twice bigint GENERATED ALWAYS AS (dev * 2) STORED);
SELECT create_hypertable('\"f/../ü\".\"it''s, a \"\"name\"\" 50%\"', 'at', chunk_time_interval => 100);
CREATE TABLE dev (id int PRIMARY KEY);
INSERT INTO dev SELECT generate_series(0, 6);
INSERT INTO \"f/../ü\".\"it's, a \"\"name\"\" 50%\" (\"a,b\", \"at\", dev) SELECT CASE i % 3 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE E'\\n' || i END, i, i % 7
    FROM generate_series(1, 1000) i;
ALTER TABLE \"f/../ü\".\"it's, a \"\"name\"\" 50%\" ADD CONSTRAINT k FOREIGN KEY (dev) REFERENCES dev;
CREATE FUNCTION loud() RETURNS trigger LANGUAGE plpgsql AS $x$ BEGIN RAISE EXCEPTION 'no rows here'; END $x$;
CREATE TRIGGER loud BEFORE INSERT ON \"f/../ü\".\"it's, a \"\"name\"\" 50%\" FOR EACH ROW EXECUTE FUNCTION loud();
"
    )
}

const HARD: &str = "\"f/../ü\".\"it's, a \"\"name\"\" 50%\"";

fn outlines(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("hypertables.json")).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    value["hypertables"].as_array().unwrap().clone()
}

#[test]
fn every_value_comes_back_from_csv() {
    let backups = Backups::new(Engine::Pg17, &hard());
    let (before, inventory) = (backups.content(), backups.lab.database.inventory());
    let empty = format!("TRUNCATE m, \"M 2\", every_type_2, {HARD}");
    for more in ["", " --no-compression --jobs=1"] {
        let folder = backups.backup(&format!("h hypertables{more}"));
        let end = if more.is_empty() { ".csv.gz" } else { ".csv" };
        for file in [
            "public.m",
            "public.M%202",
            "public.every_type_2",
            "f%2F%2E%2E%2Fü.it%27s%2C%20a%20%22name%22%2050%25",
        ] {
            assert!(folder.join(format!("{file}{end}")).is_file(), "{file}");
        }
        let _ = backups.run("verify h").expect(0).shows(&["checksums fit"]);
        let _ = backups.run("restore h").expect(1).shows(&["holds rows", "--force", "all was rolled back"]);
        backups.lab.sql(&empty);
        assert_ne!(backups.content(), before);
        let _ = backups.run("restore h").expect(0).shows(&["7,510 rows of 4 hypertables"]);
        assert_eq!(backups.content(), before);
        // What has changed is replaced, with --force.
        backups.lab.sql("DELETE FROM m WHERE dev = 3; UPDATE every_type_2 SET text_ = 'changed'; INSERT INTO \"M 2\" VALUES (now(), 'x')");
        let _ = backups.run("restore h --force").expect(0);
        assert_eq!(backups.content(), before);
        backups.has_objects_of(&inventory);
    }
    let _ = backups.run("list").expect(0).shows(&[" hypertables "]);
    let _ = backups.run("verify h --deep").expect(3).shows(&["no tables in it"]);
    // Missing ones are made anew, with what they need and their sequence.
    backups.lab.sql(&format!("DROP TABLE {HARD}; DROP SCHEMA \"f/../ü\"; DROP TABLE \"M 2\""));
    let ran = backups.tool("restore h").arg(format!("--tables=public.\"M 2\",{HARD}")).run().expect(0);
    assert_eq!(ran.stdout().matches("made anew").count(), 2, "{ran}");
    assert_eq!(backups.content(), before);
    backups.has_objects_of(&inventory);
    backups.lab.sql(&format!("DROP TRIGGER loud ON {HARD}; INSERT INTO {HARD} (at, dev) VALUES (7, 1)"));
    assert_eq!(backups.lab.ask(&format!("SELECT max(id) FROM {HARD}")), "1001");
    // What they need must be there.
    backups.lab.sql(&format!("DROP TABLE {HARD}; DROP TABLE dev"));
    let _ = backups
        .run("restore h --force")
        .expect(1)
        .shows(&["is missing, and cannot be made anew", "all was rolled back"]);
}

#[test]
fn plain_psql_reads_each_file() {
    let backups = Backups::new(Engine::Pg17, &hard());
    // psql before 18 takes a line of \. for the end also where it stands in quotes.
    backups.lab.sql("DELETE FROM every_type_2 WHERE id = 5");
    backups.lab.sql(&format!("DROP TRIGGER loud ON {HARD}"));
    let before = backups.content();
    for more in ["", " --no-compression"] {
        let folder = backups.backup(&format!("h hypertables{more}"));
        let mut script = format!("TRUNCATE m, \"M 2\", every_type_2, {HARD};\n\\cd '{}'\n", folder.display());
        for outline in outlines(&folder) {
            script.push_str(outline["psql"].as_str().unwrap());
            script.push('\n');
        }
        let _ = backups.psql(&backups.lab.database.name, script.into_bytes()).expect(0);
        assert_eq!(backups.content(), before);
    }
    let folder = backups.backup("h hypertables");
    let text = gunzip(&fs::read(folder.join("public.m.csv.gz")).unwrap());
    let text = String::from_utf8(text).unwrap();
    assert!(text.starts_with("id,ts,dev,v\n"), "{}", &text[..40]);
    assert_eq!(text.lines().count(), 6001);
}

#[test]
fn a_stretch_of_time_comes_back_alone() {
    let backups = Backups::new(Engine::Pg17, &hard());
    backups.lab.sql(&format!("DROP TRIGGER loud ON {HARD}"));
    backups.lab.sql(&format!("ALTER DATABASE {} SET TimeZone = 'UTC'", backups.lab.database.name));
    let before = backups.content();
    let _ = backups.backup("h hypertables");
    let wrong = "UPDATE m SET v = -1";
    backups.lab.sql(wrong);
    // In the middle of chunks, at their bounds, without one end, and of no row at all.
    for (since, until) in [
        ("2025-01-03 07:30:00+00", "2025-01-05 12:00:00+00"),
        ("2025-01-03", "2025-01-04"),
        ("", "2025-01-02 00:00:01+00"),
        ("2025-01-20 03:00:00+02", ""),
        ("2031-01-01", "2032-01-01"),
        ("infinity", ""),
    ] {
        backups.lab.sql(wrong);
        let mut tool = backups.tool("restore h --tables=public.m --force");
        let mut wanted = "true".to_owned();
        for (flag, operator, at) in [("--since", ">=", since), ("--until", "<", until)] {
            if !at.is_empty() {
                tool = tool.arg(format!("{flag}={at}"));
                wanted.push_str(&format!(" AND ts {operator} timestamptz '{at}'"));
            }
        }
        let ran = tool.run().expect(0);
        let right = "v = sin(extract(epoch FROM ts - '2025-01-01Z'::timestamptz) / 300)";
        let ask = |rows: &str| backups.lab.ask(&format!("SELECT count(*) FROM m WHERE {rows}"));
        let in_it: u64 = ask(&wanted).parse().unwrap();
        assert_eq!(ask(&format!("({wanted}) AND v <> -1")), in_it.to_string(), "{since} {until}: {ran}");
        assert_eq!(ask(&format!("NOT ({wanted}) AND v <> -1")), "0", "{since} {until}: {ran}");
        assert_eq!(ask(&format!("v <> -1 AND NOT {right}")), "0");
        assert_eq!(ask("true"), "6000");
    }
    // A number where time is one, and both ends in all tables at once.
    backups.lab.sql(&format!("DELETE FROM {HARD} WHERE at BETWEEN 150 AND 749"));
    let _ = backups
        .tool("restore h --since=150 --until=750")
        .args(["--tables", HARD])
        .run()
        .expect(0)
        .shows(&["600 rows of 1 hypertables"]);
    let _ = backups
        .tool("restore h --since=150")
        .args(["--tables", HARD])
        .run()
        .expect(1)
        .shows(&["holds rows of that time"]);
    let _ = backups.run("restore h --since=nonsense").expect(2).shows(&[
        "nonsense",
        "as a time of",
        "all was rolled back",
    ]);
    let _ = backups.run("restore h --force").expect(0);
    assert_eq!(backups.content(), before);
    let _ = backups
        .run("restore h --tables=public.none")
        .expect(3)
        .shows(&["there is no public.none", "public.m"]);
    let _ = backups.run("backup f full").expect(0);
    let _ = backups.restorer("restore f --force --since=2025-01-01").run().expect(2).shows(&["hypertables"]);
}

#[test]
fn rows_of_other_tables_do_not_go_with_those_that_are_replaced() {
    let backups = Backups::new(
        Engine::Pg17,
        "CREATE EXTENSION timescaledb;
CREATE TABLE h (ts timestamptz PRIMARY KEY, a int);
SELECT create_hypertable('h', 'ts');
INSERT INTO h SELECT '2025-01-01Z'::timestamptz + i * interval '1 day', i FROM generate_series(1, 30) i;
CREATE TABLE cascades (ts timestamptz REFERENCES h ON DELETE CASCADE, note text);
INSERT INTO cascades VALUES ('2025-01-05Z', 'kept'), ('2025-01-20Z', 'kept too');
CREATE TABLE nulls (ts timestamptz REFERENCES h ON DELETE SET NULL);
INSERT INTO nulls VALUES ('2025-01-21Z');
",
    );
    let (before, inventory) = (backups.content(), backups.lab.database.inventory());
    let _ = backups.backup("h hypertables");
    for part in ["", " --since=2025-01-10", " --until=2025-01-22"] {
        let _ = backups.run(&format!("restore h --force{part}")).expect(0);
        assert_eq!(backups.content(), before, "{part}");
        backups.has_objects_of(&inventory);
    }
    // The database as a whole comes back too, by us, by its definitions and rows, and by hand.
    let folder = backups.backup("f full");
    let _ = backups.restorer("restore f --force --drop-old").run().expect(0);
    assert_eq!(backups.content(), before);
    backups.has_objects_of(&inventory);
    let _ = (backups.backup("s schema"), backups.backup("d data"));
    let _ = backups.restorer("restore s --force --drop-old").run().expect(0);
    let _ = backups.run("restore d").expect(0);
    assert_eq!(backups.content(), before);
    backups.has_objects_of(&inventory);
    let to = format!("{}_hand", backups.lab.database.name);
    backups.superuser("postgres").batch_execute(&format!("CREATE DATABASE {to} TEMPLATE template0")).unwrap();
    let _ = backups.psql(&to, gunzip(&fs::read(folder.join("full_database.sql.gz")).unwrap())).expect(0);
    let mut by_hand = backups.superuser(&to);
    assert_eq!(content(&mut by_hand), before);
    let dangling = by_hand.batch_execute("INSERT INTO nulls VALUES ('2027-01-01Z')");
    assert!(dangling.is_err(), "the key holds");
    // Where what they refer to is not in the backup, nothing happens.
    backups.lab.sql("INSERT INTO h VALUES ('2026-01-01Z', 1); INSERT INTO nulls VALUES ('2026-01-01Z')");
    let before = backups.content();
    let _ =
        backups.run("restore h --force").expect(1).shows(&["violates foreign key", "all was rolled back"]);
    assert_eq!(backups.content(), before);
}

#[test]
fn names_mean_one_table_and_times_their_zone() {
    let backups = Backups::new(
        Engine::Pg17,
        "CREATE EXTENSION timescaledb;
CREATE SCHEMA \"a.b\";
CREATE SCHEMA a;
CREATE TABLE \"a.b\".c (at timestamp NOT NULL);
CREATE TABLE a.\"b.c\" (at date NOT NULL);
SELECT create_hypertable('\"a.b\".c', 'at'), create_hypertable('a.\"b.c\"', 'at');
INSERT INTO \"a.b\".c SELECT '2025-01-01'::timestamp + i * interval '1 hour' FROM generate_series(0, 239) i;
INSERT INTO a.\"b.c\" SELECT '2025-01-01'::date + i FROM generate_series(0, 9) i;
",
    );
    let before = backups.content();
    let _ = backups.backup("h hypertables");
    backups.lab.sql("TRUNCATE \"a.b\".c; TRUNCATE a.\"b.c\"");
    let _ = backups.run("restore h --tables=a.b.c").expect(3).shows(&["there is no a.b.c"]);
    let only =
        |table: &str, more: &str| backups.tool(&format!("restore h {more}")).args(["--tables", table]).run();
    let timestamps = "\"a.b\".c";
    let _ = backups
        .tool("restore h --until=2025-01-06")
        .args(["--tables", timestamps, "--since", "2025-01-05 12:00+05"])
        .run()
        .expect(0)
        .shows(&["17 rows of 1 hypertables"]);
    assert_eq!(backups.lab.ask("SELECT count(*) FROM a.\"b.c\""), "0");
    let _ = only(timestamps, "--since=2025-01-07 --until=2025-01-07").expect(2).shows(&["is not after"]);
    let _ = backups
        .tool("restore h")
        .args(["--tables", "a.\"b.c\"", "--since", "2025-01-05 12:00"])
        .run()
        .expect(0)
        .shows(&["5 rows of 1 hypertables"]);
    let _ = backups.run("restore h --force").expect(0);
    assert_eq!(backups.content(), before);
}

#[test]
fn damage_is_found_and_what_has_no_hypertable_is_refused() {
    let backups = Backups::new(Engine::Plain, "CREATE TABLE a (id int);\n");
    let _ =
        backups.run("backup h hypertables").expect(3).shows(&["there is no hypertable", "backup NAME data"]);
    assert!(backups.names().is_empty());
    let backups = Backups::new(Engine::Pg17, HYPERTABLES);
    let folder = backups.backup("h hypertables");
    backups.lab.sql("TRUNCATE m, \"M 2\"");
    for file in ["public.m.csv.gz", "public.M%202.csv.gz", "hypertables.json", "metadata.json"] {
        let path = folder.join(file);
        let sound = fs::read(&path).unwrap();
        for at in [0, sound.len() / 2, sound.len() - 1] {
            let mut wrong = sound.clone();
            wrong[at] ^= 1;
            fs::write(&path, &wrong).unwrap();
            let _ = backups.run("verify h").expect(1).shows(&["is damaged"]);
            let _ = backups.run("restore h").expect(1).shows(&["nothing was touched"]);
        }
        fs::write(&path, sound).unwrap();
    }
    fs::rename(folder.join("public.m.csv.gz"), folder.join("away")).unwrap();
    let _ = backups.run("verify h").expect(1).shows(&["public.m.csv.gz is missing"]);
    fs::rename(folder.join("away"), folder.join("public.m.csv.gz")).unwrap();
    let _ = backups.run("restore h").expect(0);
}

#[test]
fn compressed_chunks_and_policies_come_back() {
    let Some(server) = Server::community() else {
        return not_run("compressed_chunks_and_policies_come_back");
    };
    let backups = Backups::on(
        &server,
        "CREATE EXTENSION IF NOT EXISTS timescaledb;
CREATE TABLE m (id bigserial, ts timestamptz NOT NULL, dev int NOT NULL, v float8, PRIMARY KEY (id, ts));
SELECT create_hypertable('m', 'ts', chunk_time_interval => interval '1 day');
ALTER TABLE m SET (timescaledb.compress, timescaledb.compress_segmentby = 'dev');
SELECT add_compression_policy('m', INTERVAL '9000 days');
SELECT add_retention_policy('m', INTERVAL '500 years');
INSERT INTO m (ts, dev, v) SELECT '2025-01-01'::timestamptz + i * interval '5 minutes', i % 7, sin(i) FROM generate_series(1, 6000) i;
SELECT compress_chunk(c) FROM (SELECT show_chunks('m') c ORDER BY 1 LIMIT 15) x;
",
    );
    let (before, inventory) = (backups.content(), backups.lab.database.inventory());
    let _ = backups.backup("h hypertables");
    // Rows of compressed chunks go and come.
    backups.lab.sql("UPDATE m SET v = 0 WHERE ts < '2025-01-03'");
    let _ = backups.run("restore h --since=2025-01-01 --until=2025-01-03 --force").expect(0);
    assert_eq!(backups.content(), before);
    let _ = backups.run("restore h --force").expect(0);
    assert_eq!(backups.content(), before);
    backups.lab.sql("DROP TABLE m");
    let ran = backups.run("restore h").expect(0).shows(&["made anew", "do not run"]);
    assert_eq!(backups.content(), before);
    let text = ran.stdout();
    let start = text.lines().find_map(|line| line.find("SELECT public.alter_job").map(|at| &line[at..]));
    backups.lab.sql(start.unwrap());
    backups.has_objects_of(&inventory);
    let _ = content(&mut backups.superuser(&backups.lab.database.name));
}
