//! Fingerprints on real servers: equal where rows are, whatever happened to the table; and every loss found and named.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use migration_tests::lab::{Lab, Stops};
use migration_tests::program::project_root;
use migration_tests::server::{Engine, Server, not_run};
use ms5_common::db::connect::{Connected, Secret, Settings, SslMode, connect};
use ms5_common::error::Error;
use ms5_common::fingerprint::{self, Fingerprint, Options, Verdict, Wanted, compare};
use ms5_common::sql::TableName;

const HYPERTABLES: [(&str, &str); 5] = [
    ("metric_hist", "ts"),
    ("oee_calculations", "calculation_time"),
    ("energy_consumption", "consumption_time"),
    ("production_kpis", "created_at"),
    ("production_context_history", "changed_at"),
];

/// A session as the tools open theirs.
fn open(lab: &Lab<'_>) -> Result<Connected, Error> {
    let variables = lab.database.variables();
    let of = |name: &str| variables.iter().find(|(other, _)| other == name).map_or("", |(_, value)| value);
    let mut settings =
        Settings::new(of("DB_HOST"), of("DB_PORT").parse().unwrap(), of("DB_NAME"), of("DB_USER"));
    settings.password = Some(Secret::new(of("POSTGRES_PASSWORD_TEST")));
    settings.sslmode = Some(SslMode::Disable);
    Ok(connect(&settings, |_| {}).unwrap())
}

fn options(jobs: usize) -> Options {
    Options { jobs, ..Options::default() }
}

fn first<'a>(table: &str, time_column: Option<&str>) -> Wanted<'a> {
    let (schema, table) = table.split_once('.').unwrap_or(("public", table));
    Wanted::First {
        table: TableName::new(schema, table),
        time_column: time_column.map(str::to_owned),
        changing: false,
    }
}

/// Takes one, and has it go through a record as it does between the tools.
fn take(lab: &Lab<'_>, table: &str, time_column: Option<&str>, options: &Options) -> Fingerprint {
    let taken =
        fingerprint::take(options, &[first(table, time_column)], || open(lab)).unwrap().remove(0).unwrap();
    let text = taken.to_json().to_string();
    let read = Fingerprint::from_json(&serde_json::from_str(&text).unwrap()).unwrap();
    assert_eq!(read, taken);
    read
}

fn again(lab: &Lab<'_>, before: &Fingerprint, jobs: usize) -> Verdict {
    let now = fingerprint::take(&options(jobs), &[Wanted::Again(before)], || open(lab)).unwrap().remove(0);
    compare(before, now.as_ref())
}

/// A verdict as lines: what it is, then its differences.
fn said(verdict: &Verdict) -> Vec<String> {
    let (word, differences) = match verdict {
        Verdict::Same { added } => (format!("same, {added} added"), &Vec::new()),
        Verdict::Different { differences, added } => (format!("different, {added} added"), differences),
        Verdict::NotProven { why, differences } => (format!("not proven: {}", why.join("; ")), differences),
    };
    std::iter::once(word).chain(differences.iter().map(ToString::to_string)).collect()
}

fn lab(setup: &str) -> Lab<'static> {
    let lab = Lab::new(Server::shared(Engine::Pg17), &[]);
    lab.database.superuser().unwrap().batch_execute("CREATE EXTENSION IF NOT EXISTS timescaledb").unwrap();
    lab.sql(setup);
    lab
}

/// Ten days with rows in each, keys from a sequence.
const HISTORY: &str = "CREATE TABLE history (id bigserial PRIMARY KEY, ts timestamptz NOT NULL, name varchar(20), v float8);
    INSERT INTO history (ts, name, v) SELECT '2025-03-01Z'::timestamptz + g * interval '100 seconds', 'n' || g % 7, g / 3.0
    FROM generate_series(0, 8639) g;";

const CONVERT: &str = "ALTER TABLE history DROP CONSTRAINT history_pkey, ADD PRIMARY KEY (id, ts);
    SELECT create_hypertable('history', 'ts', chunk_time_interval => interval '1 day', migrate_data => true);";

#[test]
fn a_conversion_changes_nothing_whatever_the_settings_and_the_order_of_columns() {
    let lab = lab(HISTORY);
    let before = take(&lab, "history", Some("ts"), &options(1));
    assert!(before.proven(), "{:?}", before.why_not);
    assert_eq!((before.rows, before.highest, before.buckets.len()), (8640, Some(8640), 10));
    assert_eq!(before.buckets[0].day.as_deref(), Some("2025-03-01"));
    assert!(before.buckets.iter().all(|bucket| bucket.rows == 864));
    let settings = format!(
        "ALTER DATABASE {db} SET TimeZone = 'Asia/Tokyo'; ALTER DATABASE {db} SET DateStyle = 'German';
         ALTER DATABASE {db} SET extra_float_digits = -5; ALTER DATABASE {db} SET search_path = ''",
        db = lab.database.name
    );
    lab.sql(&settings);
    assert_eq!(take(&lab, "history", Some("ts"), &options(1)), before);
    lab.sql(&format!("ALTER DATABASE {} RESET ALL", lab.database.name));
    lab.sql(CONVERT);
    let after = take(&lab, "history", Some("ts"), &options(2));
    assert_eq!(after, before, "the same key is found, and the same rows");
    assert_eq!(said(&again(&lab, &before, 1)), ["same, 0 added"]);

    // Columns that come later are not looked at; the order of columns does not matter; varchar and text are hashed alike.
    lab.sql("ALTER TABLE history ADD COLUMN a_new int DEFAULT 5; ALTER TABLE history ALTER name TYPE text");
    lab.sql("INSERT INTO history (ts, name) VALUES ('2025-03-02 12:00Z', 'late')");
    assert_eq!(said(&again(&lab, &before, 3)), ["same, 1 added"]);
    lab.sql("CREATE TABLE other (v float8, name text, ts timestamptz, id bigint); INSERT INTO other SELECT v, name, ts, id FROM history WHERE id <= 8640 ORDER BY v;
             DROP TABLE history; ALTER TABLE other RENAME TO history");
    assert_eq!(said(&again(&lab, &before, 1)), ["same, 0 added"]);
    lab.sql("UPDATE history SET name = 'x' WHERE id = 1");
    assert_eq!(
        said(&again(&lab, &before, 1)),
        ["not proven: the type of column name was character varying(20) and is text"]
    );
    lab.sql("ALTER TABLE history DROP COLUMN v");
    assert_eq!(said(&again(&lab, &before, 1)), ["different, 0 added", "column v is gone"]);
    lab.sql("DROP TABLE history");
    assert_eq!(
        said(&again(&lab, &before, 1)),
        ["different, 0 added", "the table is gone, and with it 8640 rows"]
    );
}

#[test]
fn each_tampering_is_found_and_named() {
    let lab = lab(HISTORY);
    let before = take(&lab, "history", Some("ts"), &options(1));
    lab.sql(CONVERT);
    // New rows come meanwhile, into old days as well.
    lab.sql("INSERT INTO history (ts) SELECT '2025-03-03Z'::timestamptz + g * interval '1 hour' FROM generate_series(1, 100) g");
    assert_eq!(said(&again(&lab, &before, 2)), ["same, 100 added"]);
    let check = |tampering: &str, seen: &[&str]| {
        let mut client = lab.client();
        let saved = "CREATE TABLE saved AS TABLE history";
        client.batch_execute(saved).unwrap();
        client.batch_execute(tampering).unwrap();
        assert_eq!(said(&again(&lab, &before, 2)), seen, "{tampering}");
        client
            .batch_execute("TRUNCATE history; INSERT INTO history SELECT * FROM saved; DROP TABLE saved")
            .unwrap();
        assert_eq!(said(&again(&lab, &before, 2)), ["same, 100 added"], "after {tampering}");
    };
    check(
        "DELETE FROM history WHERE id = 900",
        &["different, 100 added", "1 row of 2025-03-02 (UTC) lost: 864 before, 863 now"],
    );
    check(
        "UPDATE history SET v = v + 1 WHERE id = 900",
        &[
            "different, 100 added",
            "rows of 2025-03-02 (UTC) changed: 864 rows before and now, with other content",
        ],
    );
    check(
        "DELETE FROM history WHERE id = 900; INSERT INTO history (ts, name, v) VALUES ('2025-03-02 10:00Z', 'n1', 1)",
        &["different, 101 added", "1 row of 2025-03-02 (UTC) lost: 864 before, 863 now"],
    );
    check(
        "DELETE FROM history WHERE id = 900; INSERT INTO history (id, ts, name, v) VALUES (900, '2025-03-02 10:00Z', 'n1', 1)",
        &[
            "different, 100 added",
            "rows of 2025-03-02 (UTC) changed: 864 rows before and now, with other content",
        ],
    );
    check(
        "INSERT INTO history SELECT id, ts + interval '1 day', name, v FROM history WHERE id = 900;
         DELETE FROM history WHERE id = 900 AND ts < '2025-03-03Z'",
        &[
            "different, 100 added",
            "1 row of 2025-03-02 (UTC) lost: 864 before, 863 now",
            "1 row more of 2025-03-03 (UTC) than before: 864 before, 865 now",
        ],
    );
    check(
        "UPDATE history SET v = NULL, name = '' WHERE id = 900",
        &[
            "different, 100 added",
            "rows of 2025-03-02 (UTC) changed: 864 rows before and now, with other content",
        ],
    );
    check(
        "SELECT drop_chunks('history', '2025-03-02Z'::timestamptz)",
        &["different, 100 added", "864 rows of 2025-03-01 (UTC) lost: 864 before, 0 now"],
    );
    // A row that is there twice hides nothing: a sum is not a parity.
    check(
        "ALTER TABLE history DROP CONSTRAINT history_pkey; INSERT INTO history SELECT * FROM history WHERE id IN (1, 900);
         DELETE FROM history WHERE id = 2",
        &[
            "different, 100 added",
            "rows of 2025-03-01 (UTC) changed: 864 rows before and now, with other content",
            "1 row more of 2025-03-02 (UTC) than before: 864 before, 865 now",
        ],
    );
    // An old key given by hand is not called a gain.
    check(
        "INSERT INTO history (id, ts) VALUES (7, '2025-03-05 07:00Z')",
        &[
            "not proven: rows with old keys were added since: keys were given by hand or taken long before",
            "1 row more of 2025-03-05 (UTC) than before: 864 before, 865 now",
        ],
    );
}

#[test]
fn the_fields_tables_are_the_same_after_the_nine_migrations() {
    let lab = Lab::new(Server::shared(Engine::Pg17), &[]);
    let files = ["schema.sql", "reference.sql", "data.sql"]
        .map(|name| project_root().join("tests/fixtures/field").join(name));
    let files: Vec<&std::path::Path> = files.iter().map(std::path::PathBuf::as_path).collect();
    let _ = lab.database.psql_files(&[], &files).expect(0);
    let wanted: Vec<Wanted<'_>> = HYPERTABLES
        .iter()
        .map(|(table, time)| first(&format!("factory_telemetry.{table}"), Some(time)))
        .collect();
    let take = |wanted: &[Wanted<'_>], jobs| {
        fingerprint::take(&options(jobs), wanted, || open(&lab))
            .unwrap()
            .into_iter()
            .map(Option::unwrap)
            .collect::<Vec<_>>()
    };
    let before = take(&wanted, 2);
    for taken in &before {
        assert!(taken.proven(), "{}: {:?}", taken.name, taken.why_not);
        assert_eq!(taken.key.as_deref(), Some("id"), "{}", taken.name);
        assert!(taken.rows > 0 && taken.above == 0, "{}: {} rows", taken.name, taken.rows);
    }
    let _ = lab.runner("").arg("--migrations-dir").arg(project_root().join("migrations")).run().expect(0);
    let now = take(&before.iter().map(Wanted::Again).collect::<Vec<_>>(), 2);
    for (before, now) in before.iter().zip(&now) {
        assert_eq!(said(&compare(before, Some(now))), ["same, 0 added"], "{}", before.name);
    }
    // What a second run would take first is the same again: the same key, the same days.
    for (before, now) in before.iter().zip(take(&wanted, 1)) {
        let columns = |taken: &Fingerprint| taken.columns.len();
        assert_eq!(now.key, before.key, "{}", before.name);
        if columns(before) == columns(&now) {
            assert_eq!(now.buckets, before.buckets, "{}", before.name);
        }
    }
}

#[test]
fn values_of_every_kind_are_told_apart() {
    let lab = lab("CREATE TYPE mood AS ENUM ('glad', 'sad'); CREATE DOMAIN short AS text CHECK (length(value) < 9);
        CREATE DOMAIN loose AS json; CREATE TYPE pair AS (a int, b text); CREATE TYPE odd AS (a int, b json);
        CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
        CREATE TABLE kinds (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, \"Zähler \"\"x\"\"\" int, \"select\" text, js json, jb jsonb, f4 real,
            f8 float8, n numeric, arr int[], texts text[], moods mood[], e mood, d short, l loose, r int4range, mr int4multirange,
            b bytea, p pair, o odd, bits bit varying, pt point, x xml, tz timestamptz, iv interval, m money, u uuid,
            bl text COLLATE blind, c char(5), ip inet, doc tsvector, jp jsonpath, reg regclass,
            g int GENERATED ALWAYS AS (length(\"select\")) STORED);
        INSERT INTO kinds VALUES (DEFAULT, 1, 'a', '{\"a\": 1}', '{\"a\": 1}', 1.5, 'NaN', 1.0, '{1,2}', '{a,NULL}', '{glad}', 'glad', 'd',
            '{\"l\":1}', '[1,3)', '{[1,3)}', '\\x00ff', '(1,x)', '(1,\"{}\")', '101', '(1,2)', '<a/>', '2025-01-01Z', '1 day', 5,
            '00000000-0000-0000-0000-000000000001', 'Ab', 'c', '10.0.0.1', 'a b', '$.a', 'pg_class', DEFAULT);
        INSERT INTO kinds (e) VALUES (NULL);");
    let before = take(&lab, "kinds", None, &options(1));
    assert_eq!((before.rows, before.key.as_deref(), before.buckets.len()), (2, Some("id"), 1));
    let mut texts: Vec<&str> =
        before.columns.iter().filter(|column| column.as_text).map(|column| column.name.as_str()).collect();
    texts.sort_unstable();
    assert_eq!(texts, ["bits", "bl", "doc", "e", "jp", "js", "l", "m", "moods", "o", "pt", "x"]);
    assert_eq!(before.columns.len(), 33);
    for set in [
        "\"Zähler \"\"x\"\"\" = 2",
        "\"select\" = ''",
        "\"select\" = NULL",
        "js = '{\"a\":  1}'",
        "js = NULL",
        "jb = '{\"a\": 2}'",
        "f4 = 1.25",
        "f8 = 0",
        "f8 = 'Infinity'",
        "n = 1.01",
        "arr = '{2,1}'",
        "arr = '{}'",
        "arr = '{NULL}'",
        "texts = '{a,\"NULL\"}'",
        "moods = '{sad}'",
        "e = 'sad'",
        "d = 'D'",
        "l = '1'",
        "r = '[1,4)'",
        "r = 'empty'",
        "mr = '{[1,2)}'",
        "b = '\\x00fe'",
        "b = ''",
        "p = '(1,y)'",
        "p = '(1,)'",
        "o = '(2,\"{}\")'",
        "bits = '1010'",
        "pt = '(1,3)'",
        "x = '<b/>'",
        "tz = '2025-01-01 00:00:00.000001Z'",
        "iv = '2 days'",
        "m = 6",
        "u = NULL",
        "bl = 'aB'",
        "c = 'd'",
        "ip = '10.0.0.2'",
        "doc = 'a'",
        "jp = '$.b'",
        "reg = 'pg_type'",
    ] {
        let mut client = lab.client();
        client.batch_execute("CREATE TABLE saved AS TABLE kinds").unwrap();
        client.batch_execute(&format!("UPDATE kinds SET {set} WHERE id = 1")).unwrap();
        assert_eq!(
            said(&again(&lab, &before, 1)),
            ["different, 0 added", "rows changed: 2 rows before and now, with other content"],
            "{set}"
        );
        let columns: String = client
            .query_one(
                "SELECT string_agg(quote_ident(attname), ', ') FROM pg_attribute
                 WHERE attrelid = 'kinds'::regclass AND attnum > 0 AND attname <> 'g'",
                &[],
            )
            .unwrap()
            .get(0);
        client
            .batch_execute(&format!(
                "DELETE FROM kinds; INSERT INTO kinds ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM saved; DROP TABLE saved"
            ))
            .unwrap();
        assert_eq!(said(&again(&lab, &before, 1)), ["same, 0 added"], "after {set}");
    }
    // What `=` calls equal is equal, and an enum's labels go by name.
    lab.sql("UPDATE kinds SET n = 1.000, iv = '24 hours' WHERE id = 1");
    assert_eq!(said(&again(&lab, &before, 1)), ["same, 0 added"]);
    lab.sql("UPDATE kinds SET f8 = '-0' WHERE id = 2; UPDATE kinds SET f8 = NULL WHERE id = 2");
    assert_eq!(said(&again(&lab, &before, 1)), ["same, 0 added"]);
}

#[test]
fn without_a_key_that_grows_nothing_is_called_gained() {
    let lab = lab("CREATE TABLE keyless (ts timestamptz, v int); INSERT INTO keyless VALUES ('2025-01-01Z', 1), (NULL, 2), ('infinity', 3);
        CREATE TABLE empty (id serial PRIMARY KEY, ts timestamp NOT NULL);
        CREATE TABLE cached (id serial PRIMARY KEY); ALTER SEQUENCE cached_id_seq CACHE 20;
        CREATE TABLE byhand (id serial PRIMARY KEY); INSERT INTO byhand SELECT generate_series(1, 9);
        CREATE TABLE uuids (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), day date);
        CREATE TABLE second (a serial, id bigint GENERATED BY DEFAULT AS IDENTITY, ts date, UNIQUE (a), PRIMARY KEY (ts, id));
        CREATE TABLE none (); INSERT INTO none DEFAULT VALUES;");
    let keyless = take(&lab, "keyless", Some("ts"), &options(2));
    assert_eq!(keyless.why_not, ["it has no key that only grows"]);
    let days: Vec<Option<&str>> = keyless.buckets.iter().map(|bucket| bucket.day.as_deref()).collect();
    assert_eq!(days, [None, Some("2025-01-01"), Some("infinity")]);
    assert_eq!(said(&again(&lab, &keyless, 1)), ["same, 0 added"]);
    lab.sql("INSERT INTO keyless VALUES ('2025-01-01 23:59:59.999999Z', 1)");
    assert_eq!(
        said(&again(&lab, &keyless, 1)),
        [
            "not proven: it has no key that only grows",
            "1 row more of 2025-01-01 (UTC) than before: 1 before, 2 now"
        ]
    );
    lab.sql("DELETE FROM keyless WHERE v = 2");
    assert_eq!(
        said(&again(&lab, &keyless, 1)),
        [
            "not proven: it has no key that only grows",
            "1 row lost: 1 before, 0 now",
            "1 row more of 2025-01-01 (UTC) than before: 1 before, 2 now"
        ]
    );
    assert_eq!(take(&lab, "uuids", Some("day"), &options(1)).key, None);
    assert_eq!(take(&lab, "none", None, &options(1)).rows, 1);

    let empty = take(&lab, "empty", Some("ts"), &options(4));
    assert!(empty.proven() && empty.buckets.is_empty());
    assert_eq!((empty.rows, empty.hash, empty.highest), (0, 0, Some(0)));
    lab.sql("INSERT INTO empty (ts) VALUES ('2025-01-01')");
    assert_eq!(said(&again(&lab, &empty, 1)), ["same, 1 added"]);

    let cached = take(&lab, "cached", None, &options(1));
    assert_eq!(
        cached.why_not,
        ["its sequence public.cached_id_seq hands out 20 keys in advance to each session"]
    );
    let byhand = take(&lab, "byhand", None, &options(1));
    assert_eq!(byhand.why_not, ["it has keys that its sequence public.byhand_id_seq has not handed out yet"]);
    assert_eq!((byhand.highest, byhand.rows), (Some(9), 9));
    // The primary key's column goes before another unique one.
    assert_eq!(take(&lab, "second", Some("ts"), &options(1)).key.as_deref(), Some("id"));
    let gone = fingerprint::take(&options(2), &[first("nowhere", None)], || open(&lab)).unwrap();
    assert_eq!(gone, [None]);
}

#[test]
fn a_writer_is_waited_for_and_named_where_it_does_not_end() {
    let lab = lab(HISTORY);
    // It has a key, and no row yet: it has no transaction number either.
    let mut writer = lab.client();
    writer
        .batch_execute("SET application_name = 'slow one'; BEGIN; SELECT nextval('history_id_seq')")
        .unwrap();
    let patience = Duration::from_millis(300);
    let late = take(&lab, "history", Some("ts"), &Options { jobs: 2, patience });
    assert!(!late.proven());
    assert!(late.why_not[0].contains("(slow one)"), "{:?}", late.why_not);
    assert!(late.why_not[0].starts_with("pid "), "{:?}", late.why_not);
    writer
        .batch_execute(
            "INSERT INTO history (id, ts) VALUES (currval('history_id_seq'), '2025-03-02Z'); COMMIT",
        )
        .unwrap();
    let verdict = said(&again(&lab, &late, 1));
    assert!(verdict[0].starts_with("not proven: pid "), "{verdict:?}");

    // One that ends in time is part of the fingerprint; one that only reads is not waited for.
    let mut reader = lab.client();
    reader.batch_execute("BEGIN; SELECT count(*) FROM history").unwrap();
    writer.batch_execute("BEGIN; INSERT INTO history (ts) VALUES ('2025-03-02Z')").unwrap();
    let ends = thread::spawn(move || {
        thread::sleep(Duration::from_millis(400));
        writer.batch_execute("COMMIT").unwrap();
    });
    let taken = take(&lab, "history", Some("ts"), &options(1));
    ends.join().unwrap();
    assert!(taken.proven(), "{:?}", taken.why_not);
    assert_eq!(taken.rows, 8642);

    // A table that stays locked is an error that says so, soon.
    let mut holder = lab.client();
    reader.batch_execute("COMMIT").unwrap();
    holder.batch_execute("BEGIN; LOCK TABLE history IN ACCESS EXCLUSIVE MODE").unwrap();
    let error = fingerprint::take(&Options { jobs: 1, patience }, &[Wanted::Again(&taken)], || open(&lab))
        .unwrap_err();
    assert_eq!(error.exit().code(), 4, "{:?}", error.lines());
    assert_eq!(error.sqlstate(), Some("55P03"));
}

#[test]
fn a_transaction_that_is_prepared_meanwhile_is_waited_for_too() {
    let server = Server::start(Engine::Pg17, &["max_prepared_transactions=5"]).unwrap();
    let lab = Lab::new(&server, &[]);
    lab.sql(HISTORY);
    let mut writer = lab.client();
    writer.batch_execute("BEGIN; INSERT INTO history (ts) VALUES ('2025-03-02Z')").unwrap();
    let ends = thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        writer.batch_execute("PREPARE TRANSACTION 'p'").unwrap();
        thread::sleep(Duration::from_millis(900));
        writer.batch_execute("COMMIT PREPARED 'p'").unwrap();
    });
    let taken = take(&lab, "history", Some("ts"), &options(1));
    ends.join().unwrap();
    assert!(taken.proven(), "{:?}", taken.why_not);
    assert_eq!(taken.rows, 8641);
}

/// Writes until told to stop: single rows, long transactions, transactions that roll back, keys taken early.
fn write(lab: &Lab<'_>, number: u32, stop: &AtomicBool) {
    let mut client = lab.client();
    let mut turn = number;
    while !stop.load(Ordering::Relaxed) {
        turn = turn.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let day = 1 + turn / 7 % 10;
        let insert = format!("INSERT INTO history (ts, name) VALUES ('2025-03-{day} 12:00Z', 'w{number}')");
        let pause = Duration::from_millis(u64::from(turn / 11 % 30));
        match turn / 64 % 4 {
            0 => client.batch_execute(&insert).unwrap(),
            1 => {
                client.batch_execute(&format!("BEGIN; {insert}")).unwrap();
                thread::sleep(pause);
                client.batch_execute(&format!("{insert}; COMMIT")).unwrap();
            }
            2 => {
                client.batch_execute("BEGIN; SELECT nextval('history_id_seq')").unwrap();
                thread::sleep(pause);
                let insert = insert
                    .replace("(ts,", "(id, ts,")
                    .replace("VALUES (", "VALUES (currval('history_id_seq'), ");
                client.batch_execute(&format!("{insert}; COMMIT")).unwrap();
            }
            _ => {
                client.batch_execute(&format!("BEGIN; SAVEPOINT s; {insert}; ROLLBACK TO s")).unwrap();
                thread::sleep(pause);
                client
                    .batch_execute(&format!(
                        "{insert}; {}",
                        if (turn / 5).is_multiple_of(3) { "ROLLBACK" } else { "COMMIT" }
                    ))
                    .unwrap();
            }
        }
    }
}

#[test]
fn writers_at_work_never_give_a_false_alarm() {
    let lab = lab(HISTORY);
    let stop = AtomicBool::new(false);
    let proven = AtomicU32::new(0);
    thread::scope(|scope| {
        for number in 1..=4 {
            scope.spawn({
                let (lab, stop) = (&lab, &stop);
                move || write(lab, number, stop)
            });
        }
        let _stops = Stops(&stop);
        let mut kept: Vec<Fingerprint> = Vec::new();
        for round in 0..30 {
            // In the midst of it the table is converted.
            if round == 10 {
                lab.sql(CONVERT);
            }
            let taken = take(&lab, "history", Some("ts"), &options(1 + round % 3));
            assert!(taken.proven(), "{:?}", taken.why_not);
            proven.fetch_add(1, Ordering::Relaxed);
            kept.push(taken);
            thread::sleep(Duration::from_millis(40));
            for (number, before) in kept.iter().enumerate().rev().take(6) {
                let verdict = again(&lab, before, 1 + round % 2);
                assert!(
                    matches!(verdict, Verdict::Same { .. }),
                    "round {round}, {number}: {:?}",
                    said(&verdict)
                );
            }
        }
        // And each of them still sees what is taken away.
        lab.sql("DELETE FROM history WHERE id = (SELECT max(id) FROM history WHERE id < 8640)");
        for before in &kept {
            let verdict = again(&lab, before, 2);
            assert!(matches!(verdict, Verdict::Different { .. }), "{:?}", said(&verdict));
        }
    });
    assert_eq!(proven.load(Ordering::Relaxed), 30);
}

#[test]
fn several_sessions_see_what_one_sees() {
    let lab = lab("CREATE TABLE wide (id bigserial PRIMARY KEY, ts timestamp NOT NULL, filler text);
        INSERT INTO wide (ts, filler) SELECT '2025-01-01'::timestamp + g * interval '1 minute', repeat('x', 900) FROM generate_series(1, 30000) g;
        CREATE TABLE parts (id bigserial, ts date NOT NULL, PRIMARY KEY (id, ts)) PARTITION BY RANGE (ts);
        CREATE TABLE p1 PARTITION OF parts FOR VALUES FROM ('2025-01-01') TO ('2025-02-01');
        CREATE TABLE p2 PARTITION OF parts DEFAULT; INSERT INTO parts (ts) SELECT '2025-01-20'::date + g / 10 FROM generate_series(1, 300) g;");
    let wide = take(&lab, "wide", Some("ts"), &options(1));
    assert!(wide.rows == 30_000 && wide.buckets.len() == 21, "{} rows", wide.rows);
    let size = lab.ask("SELECT pg_relation_size('wide') / 8192 > 3000");
    assert_eq!(size, "true", "too small to be cut");
    let parts = take(&lab, "parts", Some("ts"), &options(1));
    assert_eq!(parts.rows, 300);
    for jobs in [2, 3, 4, 8] {
        assert_eq!(take(&lab, "wide", Some("ts"), &options(jobs)), wide, "{jobs} jobs");
        let both = [first("wide", Some("ts")), first("nowhere", None), first("parts", Some("ts"))];
        let taken = fingerprint::take(&options(jobs), &both, || open(&lab)).unwrap();
        assert_eq!(taken, [Some(wide.clone()), None, Some(parts.clone())]);
    }
    // By hand it is the same sum.
    let sum = lab.ask("SELECT sum(hash_record_extended(ROW(filler, id, ts), 0)) FROM wide");
    assert_eq!(sum, wide.hash.to_string());
    lab.wait_for("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%')");
}

#[test]
fn compressed_chunks_are_read() {
    let Some(server) = Server::community() else {
        not_run("compressed_chunks_are_read");
        return;
    };
    let lab = Lab::new(&server, &[]);
    lab.database.superuser().unwrap().batch_execute("CREATE EXTENSION IF NOT EXISTS timescaledb").unwrap();
    lab.sql(HISTORY);
    let before = take(&lab, "history", Some("ts"), &options(2));
    lab.sql(CONVERT);
    lab.sql("ALTER TABLE history SET (timescaledb.compress, timescaledb.compress_segmentby = 'name');
             SELECT compress_chunk(c) FROM show_chunks('history', older_than => '2025-03-06Z'::timestamptz) c");
    assert_eq!(said(&again(&lab, &before, 1)), ["same, 0 added"]);
    assert_eq!(take(&lab, "history", Some("ts"), &options(3)), before);
    // Partly compressed, then a row of a compressed chunk less, then a chunk less.
    lab.sql("INSERT INTO history (ts, name) VALUES ('2025-03-02 12:00Z', 'late')");
    assert_eq!(said(&again(&lab, &before, 2)), ["same, 1 added"]);
    lab.sql("DELETE FROM history WHERE id = 900");
    assert_eq!(
        said(&again(&lab, &before, 2)),
        ["different, 1 added", "1 row of 2025-03-02 (UTC) lost: 864 before, 863 now"]
    );
    lab.sql("SELECT drop_chunks('history', '2025-03-03Z'::timestamptz)");
    assert_eq!(
        said(&again(&lab, &before, 2)),
        [
            "different, 0 added",
            "864 rows of 2025-03-01 (UTC) lost: 864 before, 0 now",
            "864 rows of 2025-03-02 (UTC) lost: 864 before, 0 now"
        ]
    );
}
