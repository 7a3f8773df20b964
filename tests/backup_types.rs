//! Backups of type schema and data: by us and by hand, alone and together, and what they must not do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;

use migration_tests::backups::{Backups, EVERY_TYPE, HYPERTABLES, PLAIN, content, gunzip};
use migration_tests::server::{Engine, Server, not_run};
use postgres::Client;
use serde_json::Value;

/// The SQL of a backup's file.
fn script(folder: &Path, stem: &str) -> Vec<u8> {
    let packed = folder.join(format!("{stem}.sql.gz"));
    if packed.exists() {
        gunzip(&fs::read(packed).unwrap())
    } else {
        fs::read(folder.join(format!("{stem}.sql"))).unwrap()
    }
}

/// How many rows there are in all tables of users.
fn rows(client: &mut Client) -> i64 {
    let tables = client
        .query(
            "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^(pg_|_timescaledb_)' AND n.nspname <> 'information_schema'
               AND c.relname <> 'migration_restores'",
            &[],
        )
        .unwrap();
    tables
        .iter()
        .map(|row| {
            let sql = format!("SELECT count(*) FROM {}", row.get::<_, String>(0));
            client.query_one(&sql, &[]).unwrap().get::<_, i64>(0)
        })
        .sum()
}

#[test]
fn schema_and_data_together_are_the_database() {
    for (engine, sql) in [
        (Engine::Plain, format!("{PLAIN}{EVERY_TYPE}")),
        (Engine::Pg17, format!("{PLAIN}{EVERY_TYPE}{HYPERTABLES}")),
    ] {
        let backups = Backups::new(engine, &sql);
        if engine == Engine::Pg17 {
            // Every type in chunks as well.
            backups.lab.sql(
                "CREATE TABLE every_type_2 (LIKE every_type);
                 SELECT create_hypertable('every_type_2', 'at', chunk_time_interval => interval '1000 years');
                 INSERT INTO every_type_2 SELECT * FROM every_type",
            );
        }
        let (before, inventory) = (backups.content(), backups.lab.database.inventory());
        for more in ["", " --no-compression --jobs=1"] {
            let schema = backups.backup(&format!("s schema{more}"));
            let data = backups.backup(&format!("d data{more}"));
            let _ = backups.run("verify s").expect(0);
            let _ = backups.run("verify d").expect(0).shows(&["checksums fit"]);
            // By hand; then again, which would double the rows.
            let to = backups.empty_database(if more.is_empty() { "hand" } else { "plain" });
            let ran = backups.psql(&to, script(&schema, "schema")).expect(0);
            assert!(!ran.stderr().contains("ERROR"), "{ran}");
            assert_eq!(rows(&mut backups.superuser(&to)), 0, "a schema has no rows");
            let _ = backups.psql(&to, script(&data, "data")).expect(0);
            assert_eq!(content(&mut backups.superuser(&to)), before);
            let _ =
                backups.psql(&to, script(&data, "data")).expect(3).shows(&["holds rows: nothing was loaded"]);
            let _ = backups.psql(&to, script(&schema, "schema")).expect(3).shows(&["is not empty"]);
            assert_eq!(content(&mut backups.superuser(&to)), before);
        }
        let _ = backups.run("list").expect(0).shows(&[" schema ", " data "]);
        // By us, as the owner and no superuser: definitions beside the old database, rows into what is there.
        let _ = backups.run("verify s --deep").expect(0).shows(&["verified by restoring it"]);
        let _ = backups.run("verify d --deep").expect(3).shows(&["no tables in it", "compared"]);
        let _ = backups.run("restore s").expect(1).shows(&["holds data", "--force"]);
        let _ = backups.run("restore s --force --drop-old").expect(0);
        backups.has_objects_of(&inventory);
        assert_eq!(rows(&mut backups.superuser(&backups.lab.database.name)), 0);
        let _ = backups.run("restore d").expect(0).shows(&["Every row is as it was backed up"]);
        assert_eq!(backups.content(), before);
        backups.has_objects_of(&inventory);
        // What is there is not added to; with --force it is replaced.
        let _ = backups.run("restore d").expect(1).shows(&["holds rows", "--force", "all was rolled back"]);
        backups.lab.sql(
            "UPDATE parent SET name = 'changed'; DELETE FROM parts WHERE id > 7; SELECT nextval('counter')",
        );
        let _ = backups.run("restore d --force").expect(0);
        assert_eq!(backups.content(), before);
        backups.has_objects_of(&inventory);
    }
}

#[test]
fn keys_and_triggers_come_back_as_they_were() {
    let backups = Backups::new(
        Engine::Plain,
        "CREATE TABLE a (id int PRIMARY KEY, b int, up int REFERENCES a DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE b (id int PRIMARY KEY, a int NOT NULL REFERENCES a ON DELETE CASCADE);
INSERT INTO a SELECT i, i, 5000 - i FROM generate_series(0, 5000) i;
INSERT INTO b SELECT i, 5000 - i FROM generate_series(0, 5000) i;
ALTER TABLE a ADD CONSTRAINT \"circle's\" FOREIGN KEY (b) REFERENCES b;
COMMENT ON CONSTRAINT \"circle's\" ON a IS 'it''s';
ALTER TABLE b ADD CONSTRAINT unchecked FOREIGN KEY (id) REFERENCES a NOT VALID;
CREATE SEQUENCE far;
CREATE TABLE log (id int);
CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS $x$ BEGIN INSERT INTO log VALUES (1); RETURN NEW; END $x$;
CREATE TRIGGER noted AFTER INSERT ON a FOR EACH ROW EXECUTE FUNCTION noted();
CREATE TRIGGER off BEFORE UPDATE ON a FOR EACH ROW EXECUTE FUNCTION noted();
CREATE TRIGGER always BEFORE DELETE ON a FOR EACH STATEMENT EXECUTE FUNCTION noted();
COMMENT ON TRIGGER off ON a IS 'switched off';
ALTER TABLE a DISABLE TRIGGER off;
ALTER TABLE a ENABLE ALWAYS TRIGGER always;
CREATE TABLE p (id int, at date) PARTITION BY RANGE (at);
CREATE TABLE p1 PARTITION OF p FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
ALTER TABLE p ADD CONSTRAINT of_a FOREIGN KEY (id) REFERENCES a;
CREATE TRIGGER noted AFTER INSERT ON p FOR EACH ROW EXECUTE FUNCTION noted();
INSERT INTO p VALUES (1, '2025-05-05');
TRUNCATE log;
",
    );
    let (before, inventory) = (backups.content(), backups.lab.database.inventory());
    let _ = backups.backup("d data");
    backups.lab.sql("DELETE FROM p; UPDATE a SET up = 0; INSERT INTO log VALUES (7)");
    let _ = backups.run("restore d --force").expect(0);
    assert_eq!(backups.content(), before, "no trigger has seen the rows");
    backups.has_objects_of(&inventory);
    // A key that the rows do not fit is found when it is put back, and nothing has changed.
    backups.lab.sql(
        "ALTER TABLE b ADD CONSTRAINT other FOREIGN KEY (id) REFERENCES log2 (id)"
            .replace("ALTER", "CREATE TABLE log2 (id int PRIMARY KEY); TRUNCATE b CASCADE; ALTER")
            .as_str(),
    );
    // No ROLLBACK would set a sequence back.
    backups.lab.sql("SELECT setval('far', 1000)");
    let (before, inventory) = (backups.content(), backups.lab.database.inventory());
    let _ = backups
        .run("restore d --force")
        .expect(1)
        .shows(&["violates foreign key constraint", "all was rolled back"]);
    assert_eq!(backups.content(), before);
    backups.has_objects_of(&inventory);
    // A table that is missing, a column that is: named, nothing has changed.
    backups.lab.sql("ALTER TABLE b DROP CONSTRAINT other; ALTER TABLE p RENAME at TO ta");
    let _ = backups.run("restore d --force").expect(1).shows(&["\"at\"", "does not exist"]);
    backups.lab.sql("DROP TABLE log");
    let _ = backups
        .run("restore d --force")
        .expect(1)
        .shows(&["the table public.log is missing", "all was rolled back"]);
    let _ = backups.run("restore d --in-place --drop-old").expect(2);
    let _ = backups.run("restore d --drop-old").expect(2).shows(&["nothing was touched"]);
}

#[test]
fn a_file_that_ends_early_and_a_killed_restore_load_nothing() {
    let backups = Backups::new(
        Engine::Plain,
        "CREATE TABLE kind (id int PRIMARY KEY);
INSERT INTO kind SELECT generate_series(0, 9);
CREATE TABLE big (id int PRIMARY KEY, kind int REFERENCES kind, what text);
INSERT INTO big SELECT i, i % 10, repeat(md5(i::text), 4) FROM generate_series(1, 200000) i;
",
    );
    let (before, inventory) = (backups.content(), backups.lab.database.inventory());
    let folder = backups.backup("d data");
    let metadata: Value =
        serde_json::from_str(&fs::read_to_string(folder.join("metadata.json")).unwrap()).unwrap();
    let packed = fs::read(folder.join("data.sql.gz")).unwrap();
    backups.lab.sql("TRUNCATE big, kind");
    for member in metadata["members"].as_array().unwrap() {
        let end = usize::try_from(member["offset"].as_u64().unwrap()).unwrap();
        let ran = backups.psql(&backups.lab.database.name, gunzip(&packed[..end]));
        assert_eq!(rows(&mut backups.lab.client()), 0, "cut at {end}: {ran}");
    }
    backups.has_objects_of(&inventory);
    for signal in ["KILL", "TERM"] {
        let run = backups.tool("restore d").start();
        backups
            .lab
            .wait_for("SELECT EXISTS (SELECT FROM pg_stat_progress_copy WHERE datname = current_database() AND tuples_processed > 1000)");
        run.signal(signal);
        let ran = run.wait();
        if signal == "TERM" {
            let _ = ran.expect(143).shows(&["all was rolled back"]);
        }
        backups.lab.wait_for(
            "SELECT NOT EXISTS (SELECT FROM pg_stat_progress_copy WHERE datname = current_database())",
        );
        assert_eq!(rows(&mut backups.lab.client()), 0);
        backups.has_objects_of(&inventory);
    }
    let _ = backups.run("restore d").expect(0);
    assert_eq!(backups.content(), before);
}

#[test]
fn rows_of_plain_tables_are_loaded_into_hypertables() {
    let backups = Backups::new(
        Engine::Pg18,
        "CREATE TABLE m (ts timestamptz NOT NULL, v int);
INSERT INTO m SELECT '2025-01-01Z'::timestamptz + i * interval '1 hour', i FROM generate_series(1, 1000) i;
CREATE TABLE parent (id int);
CREATE TABLE child () INHERITS (parent);
INSERT INTO parent VALUES (1);
INSERT INTO child VALUES (2);
",
    );
    let before = backups.content();
    let folder = backups.backup("d data");
    backups
        .lab
        .sql("CREATE EXTENSION timescaledb; SELECT create_hypertable('m', 'ts', migrate_data => true)");
    backups.lab.sql("UPDATE m SET v = 0");
    let _ = backups.run("restore d --force").expect(0);
    assert_eq!(backups.content(), before);
    backups.lab.sql("TRUNCATE m; TRUNCATE parent, child");
    let _ = backups.psql(&backups.lab.database.name, script(&folder, "data")).expect(0);
    assert_eq!(backups.content(), before);
    // And a schema of this one, on the newest server.
    let inventory = backups.lab.database.inventory();
    let _ = backups.backup("s schema");
    let _ = backups.run("restore s --force --drop-old").expect(0);
    backups.has_objects_of(&inventory);
}

#[test]
fn schemas_with_names_of_timescaledb_are_not_left_out_in_silence() {
    let backups = Backups::new(
        Engine::Pg17,
        "CREATE SCHEMA _timescaledb_mine; CREATE TABLE _timescaledb_mine.t (id int);\n",
    );
    for kind in ["schema", "data"] {
        let _ =
            backups.run(&format!("backup x {kind}")).expect(3).shows(&["_timescaledb_mine", "a full backup"]);
    }
    assert!(backups.names().is_empty());
}

#[test]
fn what_stands_on_a_chunk_is_in_no_schema_backup() {
    let backups = Backups::new(
        Engine::Pg17,
        "CREATE EXTENSION timescaledb;
CREATE SCHEMA f;
CREATE TABLE f.m (t int NOT NULL);
SELECT create_hypertable('f.m', 't', chunk_time_interval => 10, associated_schema_name => 'f', associated_table_prefix => 'mine');
INSERT INTO f.m SELECT generate_series(1, 30);
",
    );
    let (before, inventory) = (backups.content(), backups.lab.database.inventory());
    assert!(inventory.iter().all(|(object, _)| !object.contains("_chunk")), "chunks are no objects of users");
    let _ = backups.backup("s schema");
    let _ = backups.backup("d data");
    let _ = backups.restorer("restore s --force --drop-old").run().expect(0);
    let _ = backups.run("restore d").expect(0);
    assert_eq!(
        before.iter().filter(|line| !line.contains("_chunk")).collect::<Vec<_>>(),
        backups.content().iter().filter(|line| !line.contains("_chunk")).collect::<Vec<_>>()
    );
    let chunk = backups.lab.ask("SELECT show_chunks('f.m') LIMIT 1");
    backups.lab.sql(&format!("CREATE VIEW f.v AS SELECT * FROM {chunk}"));
    let _ =
        backups.run("backup s schema").expect(1).shows(&["cannot hold", "CREATE VIEW f.v", "a full backup"]);
    assert_eq!(backups.names().len(), 2, "nothing of it is kept");
}

/// Whatever TimescaleDB knows of a hypertable that is not its table.
const COMMUNITY: &str = "CREATE EXTENSION IF NOT EXISTS timescaledb;
CREATE SCHEMA f;
CREATE TABLE f.line (id int PRIMARY KEY, name text);
CREATE FUNCTION f.now_int() RETURNS bigint LANGUAGE sql STABLE AS $x$ SELECT 1000::bigint $x$;
CREATE FUNCTION f.part(x anyelement) RETURNS int LANGUAGE sql IMMUTABLE AS $x$ SELECT length(x::text) $x$;
CREATE FUNCTION f.loud() RETURNS trigger LANGUAGE plpgsql AS $x$ BEGIN RAISE EXCEPTION 'no rows here'; END $x$;
CREATE TABLE f.m (id bigserial, ts timestamptz NOT NULL, dev int NOT NULL REFERENCES f.line, v float8, w text, PRIMARY KEY (id, ts));
SELECT create_hypertable('f.m', 'ts', chunk_time_interval => interval '1 day', create_default_indexes => false);
CREATE INDEX m_dev ON f.m (dev, ts DESC);
ALTER TABLE f.m SET (timescaledb.compress, timescaledb.compress_segmentby = 'dev', timescaledb.compress_orderby = 'ts DESC, id', timescaledb.compress_chunk_time_interval = '1 week');
SELECT add_compression_policy('f.m', INTERVAL '7 days', schedule_interval => interval '3 hours', initial_start => '2090-01-01', timezone => 'Europe/Berlin');
SELECT add_retention_policy('f.m', INTERVAL '500 years');
SELECT add_reorder_policy('f.m', 'm_dev');
CREATE TABLE f.\"N 2\" (t bigint NOT NULL, \"Dev\" text NOT NULL, v numeric);
SELECT create_hypertable('f.\"N 2\"', 't', 'Dev', 3, chunk_time_interval => 100, associated_schema_name => 'f', associated_table_prefix => '_zz', partitioning_func => 'f.part');
SELECT set_integer_now_func('f.\"N 2\"', 'f.now_int');
SELECT add_retention_policy('f.\"N 2\"', BIGINT '500000');
ALTER TABLE f.\"N 2\" SET (timescaledb.compress, timescaledb.compress_segmentby = '\"Dev\"');
CREATE TABLE f.d (day date NOT NULL, a int, b text);
SELECT create_hypertable('f.d', 'day', chunk_time_interval => interval '1 month');
SELECT add_dimension('f.d', 'a', number_partitions => 2);
CREATE MATERIALIZED VIEW f.z_hour WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS SELECT time_bucket('1 hour', ts) AS h, dev, avg(v) AS a, count(*) AS c FROM f.m GROUP BY 1, 2 WITH NO DATA;
CREATE MATERIALIZED VIEW f.a_day WITH (timescaledb.continuous, timescaledb.materialized_only = true, timescaledb.create_group_indexes = false) AS SELECT time_bucket('1 day', h, 'Europe/Berlin') AS d, dev, max(a) AS a FROM f.z_hour GROUP BY 1, 2 WITH NO DATA;
CREATE VIEW f.b_view AS SELECT * FROM f.a_day JOIN f.line ON id = dev;
COMMENT ON VIEW f.z_hour IS 'it''s hourly';
GRANT SELECT ON f.z_hour TO PUBLIC;
CREATE INDEX a_day_a ON f.a_day (a);
SELECT add_continuous_aggregate_policy('f.z_hour', start_offset => NULL, end_offset => interval '1 hour', schedule_interval => interval '30 min', initial_start => '2090-01-01');
ALTER MATERIALIZED VIEW f.z_hour SET (timescaledb.compress = true);
SELECT add_compression_policy('f.z_hour', compress_after => interval '4500 days');
SELECT set_chunk_time_interval('f.a_day', interval '90 days');
CREATE PROCEDURE f.mine(job int, config jsonb) LANGUAGE plpgsql AS $x$ BEGIN END $x$;
SELECT add_job('f.mine', '1 day', config => '{\"x\": \"it''s\"}', scheduled => false, timezone => 'Europe/Berlin', initial_start => '2090-01-01');
SELECT add_job('f.mine', '2 days', timezone => 'Asia/Tokyo', initial_start => '2090-01-01');
SELECT add_job('f.mine', '3 days');
INSERT INTO f.line SELECT i, 'l' || i FROM generate_series(0, 9) i;
INSERT INTO f.m (ts, dev, v) SELECT '2025-11-01'::timestamptz + i * interval '1 min', i % 10, i FROM generate_series(1, 20000) i;
INSERT INTO f.\"N 2\" SELECT i, repeat('d', i % 4), i FROM generate_series(1, 1000) i;
INSERT INTO f.d SELECT '2025-01-01'::date + i, i, 'x' FROM generate_series(1, 100) i;
SELECT compress_chunk(c) FROM (SELECT show_chunks('f.m') c ORDER BY 1 LIMIT 5) x;
CREATE TRIGGER loud BEFORE INSERT ON f.m FOR EACH ROW EXECUTE FUNCTION f.loud();
CALL refresh_continuous_aggregate('f.z_hour', NULL, NULL);
CALL refresh_continuous_aggregate('f.a_day', NULL, NULL);
";

/// What no dump of tables says, as text.
fn known_to_timescale(client: &mut Client) -> Vec<String> {
    const QUERIES: [&str; 4] = [
        "SELECT format('%s %s %s %s: %s %s %s %s %s %s %s', h.schema_name, h.table_name, h.associated_schema_name, h.num_dimensions,
                d.column_name, d.column_type, d.num_slices, d.partitioning_func, d.interval_length, d.compress_interval_length,
                d.integer_now_func)
         FROM _timescaledb_catalog.hypertable h LEFT JOIN _timescaledb_catalog.dimension d ON d.hypertable_id = h.id
         WHERE h.schema_name !~ '^_timescaledb' ORDER BY 1",
        "SELECT format('%s %s %s %s %s', a.user_view_name, a.materialized_only, d.interval_length,
                coalesce(s.segmentby, '{}'), s.orderby)
         FROM _timescaledb_catalog.continuous_agg a
         JOIN _timescaledb_catalog.dimension d ON d.hypertable_id = a.mat_hypertable_id
         JOIN _timescaledb_catalog.hypertable h ON h.id = a.mat_hypertable_id
         LEFT JOIN _timescaledb_catalog.compression_settings s
           ON s.relid = format('%I.%I', h.schema_name, h.table_name)::regclass ORDER BY 1",
        "SELECT format('%s %s %s %s %s %s %s %s %s %s %s', proc_name, regexp_replace(application_name, '[[].*', ''),
                schedule_interval, max_runtime, max_retries, retry_period, owner, fixed_schedule, initial_start, timezone,
                config - 'hypertable_id' - 'mat_hypertable_id')
         FROM _timescaledb_catalog.bgw_job WHERE id >= 1000 ORDER BY 1",
        "SELECT regexp_replace(regexp_replace(indexdef, '_materialized_hypertable_[0-9]+', 'M', 'g'), 'INDEX M_.* ON', '')
         FROM pg_indexes WHERE tablename ~ '^_mat' ORDER BY 1",
    ];
    QUERIES
        .iter()
        .flat_map(|query| client.query(*query, &[]).unwrap())
        .map(|row| row.get::<_, String>(0))
        .collect()
}

#[test]
fn hypertables_aggregates_and_policies_are_made_anew() {
    let Some(server) = Server::community() else {
        return not_run("hypertables_aggregates_and_policies_are_made_anew");
    };
    let backups = Backups::on(&server, COMMUNITY);
    let of_users = |lines: Vec<String>| -> Vec<String> {
        lines.into_iter().filter(|line| !line.contains("_chunk")).collect()
    };
    let (before, inventory) = (of_users(backups.content()), backups.lab.database.inventory());
    let name = backups.lab.database.name.clone();
    let known = known_to_timescale(&mut backups.superuser(&name));
    let scheduled = backups.lab.ask(
        "SELECT string_agg(proc_name || schedule_interval || scheduled, ',' ORDER BY job_id)
         FROM timescaledb_information.jobs WHERE job_id >= 1000",
    );
    assert!(known.len() > 15, "{known:?}");
    let schema = backups.backup("s schema");
    let data = backups.backup("d data");
    let made_anew = || {
        let now = backups.lab.database.inventory().as_restored();
        let differences: Vec<String> =
            inventory.as_restored().compare(&now).iter().map(ToString::to_string).collect();
        assert!(differences.is_empty(), "{}", differences.join("\n"));
    };
    // By hand.
    let to = backups.empty_database("hand");
    let _ = backups.psql(&to, script(&schema, "schema")).expect(0).shows(&["alter_job("]);
    let _ = backups.psql(&to, script(&data, "data")).expect(0);
    assert_eq!(known_to_timescale(&mut backups.superuser(&to)), known);
    backups.superuser("postgres").batch_execute(&format!("DROP DATABASE {to} WITH (FORCE)")).unwrap();
    // By us.
    let _ = backups.restorer("verify s --deep").run().expect(0);
    let ran = backups.restorer("restore s --force --drop-old").run().expect(0);
    assert_eq!(known_to_timescale(&mut backups.superuser(&name)), known);
    let running = "SELECT string_agg(proc_name || schedule_interval || scheduled, ',' ORDER BY job_id)
                   FROM timescaledb_information.jobs WHERE job_id >= 1000";
    assert!(!backups.lab.ask(running).contains("true"));
    let text = ran.stdout();
    let start = text.lines().find_map(|line| line.find("SELECT public.alter_job").map(|at| &line[at..]));
    backups.lab.sql(start.unwrap());
    assert_eq!(backups.lab.ask(running), scheduled, "one was not scheduled before");
    assert_eq!(known_to_timescale(&mut backups.superuser(&name)), known, "time zones are kept");
    made_anew();
    let _ = backups.run("restore d").expect(0).shows(&["drops the rows that are old by its rule"]);
    for view in ["f.z_hour", "f.a_day"] {
        // Its policy may be at it.
        let sql = format!("CALL refresh_continuous_aggregate('{view}', NULL, NULL)");
        let refreshed = (0..100).any(|_| {
            backups.lab.client().batch_execute(&sql).is_ok() || {
                std::thread::sleep(std::time::Duration::from_millis(100));
                false
            }
        });
        assert!(refreshed, "{view}");
    }
    assert_eq!(of_users(backups.content()), before);
    made_anew();
    // Into compressed chunks too.
    backups.lab.sql("SELECT compress_chunk(c) FROM (SELECT show_chunks('f.m') c ORDER BY 1 LIMIT 5) x");
    let _ = backups.run("restore d --force").expect(0);
    assert_eq!(backups.lab.ask("SELECT count(*) FROM f.m"), "20000");
}
