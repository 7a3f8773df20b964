//! A database that is backed up and brought back in a test: filled with what is hard to carry over, and compared as a user
//! would see it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ms5_common::catalog::Inventory;
use postgres::Client;

use crate::lab::Lab;
use crate::program::{Program, Ran};
use crate::server::{Engine, Server};

/// What is hard to carry over, on any PostgreSQL. The role owns the database and is no superuser.
pub const PLAIN: &str = r#"
CREATE SCHEMA "f ü";
COMMENT ON SCHEMA "f ü" IS 'it''s "quoted"';
CREATE TYPE "f ü".mood AS ENUM ('ok', 'it''s', 'back\slash');
CREATE DOMAIN "f ü".positive AS int CHECK (VALUE > 0);
CREATE TABLE "f ü"."a ""quoted"" $ms5$ name; DROP TABLE x" (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    "it's" text, mood "f ü".mood, p "f ü".positive, b bytea, j json, ts timestamptz, ds date, iv interval, n numeric,
    f float8, m money, a int[], doubled int GENERATED ALWAYS AS (p * 2) STORED);
INSERT INTO "f ü"."a ""quoted"" $ms5$ name; DROP TABLE x" ("it's", mood, p, b, j, ts, ds, iv, n, f, m, a)
SELECT E'tab\there\nand \\. and \\\\ ' || i, (ARRAY['ok', 'it''s', 'back\slash'])[1 + i % 3]::"f ü".mood, i,
       decode(md5(i::text), 'hex'), '{"a": 1, "a": 2}', '2025-01-01'::timestamptz + i * interval '1 hour', '2025-01-01'::date + i,
       i * interval '1 day 2 hours', i / 7.0, 1 / i::float8, i, ARRAY[i, NULL]
FROM generate_series(1, 3000) i;
INSERT INTO "f ü"."a ""quoted"" $ms5$ name; DROP TABLE x" ("it's") VALUES (NULL), (''), ('\.'), (E'\\N'), ('$ms5$');
CREATE TABLE "line
break" ("c
d" int);
INSERT INTO "line
break" VALUES (1);
CREATE TABLE nothing ();
INSERT INTO nothing DEFAULT VALUES;
CREATE TABLE empty (id int);
CREATE TABLE parts (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE parts_2025 PARTITION OF parts FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE parts_rest PARTITION OF parts DEFAULT;
INSERT INTO parts SELECT i, '2025-06-01'::date + i FROM generate_series(1, 500) i;
CREATE TABLE parent (id int PRIMARY KEY, name text UNIQUE);
CREATE TABLE child (extra text) INHERITS (parent);
INSERT INTO parent VALUES (1, 'p');
INSERT INTO child VALUES (2, 'c', 'x');
CREATE UNLOGGED TABLE quick (id int REFERENCES parent (id));
INSERT INTO quick VALUES (1);
CREATE SEQUENCE counter START 5;
SELECT nextval('counter'), nextval('counter');
CREATE SEQUENCE never_called;
CREATE FUNCTION loud() RETURNS trigger LANGUAGE plpgsql AS $x$ BEGIN RAISE EXCEPTION 'no rows here'; END $x$;
CREATE TRIGGER loud BEFORE INSERT ON parent FOR EACH ROW EXECUTE FUNCTION loud();
CREATE TABLE ruled (id int, who text);
INSERT INTO ruled VALUES (1, 'a'), (2, 'b');
ALTER TABLE ruled ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON ruled USING (who = 'a');
CREATE VIEW v AS SELECT count(*) FROM parts;
CREATE MATERIALIZED VIEW mv AS SELECT id, name FROM parent;
CREATE UNIQUE INDEX mv_id ON mv (id);
CREATE INDEX expression ON parts (lower(id::text)) WHERE id > 3;
ALTER TABLE parts ADD CONSTRAINT later CHECK (id >= 0) NOT VALID;
COMMENT ON COLUMN parent.name IS E'two\nlines \\! touch /tmp/never';
COMMENT ON TABLE parts IS '$ms5$; it''s 100%';
GRANT SELECT ON parent TO PUBLIC;
"#;

/// One column of every built-in type that can be stored, with the values at its edges; several columns for what users make of
/// them. Without rows of the server's own kinds (`pg_node_tree` and the like take no input).
pub const EVERY_TYPE: &str = r#"
CREATE TYPE day_state AS ENUM ('', 'NULL', 'a,"b"', '{x}');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN short_text AS varchar(5) CHECK (VALUE <> 'never');
CREATE TYPE float_range AS RANGE (subtype = float8);
CREATE TABLE every_type (
    id int PRIMARY KEY, at timestamptz NOT NULL DEFAULT '2025-01-01Z',
    boolean_ bool, smallint_ int2, integer_ int4, bigint_ int8, real_ float4, double_ float8, numeric_ numeric, money_ money,
    char_ "char", bpchar_ char(3), varchar_ varchar(4), text_ text, name_ name, bytea_ bytea, bit_ bit(3), varbit_ varbit,
    date_ date, time_ time, timetz_ timetz, timestamp_ timestamp, timestamptz_ timestamptz, interval_ interval,
    uuid_ uuid, json_ json, jsonb_ jsonb, jsonpath_ jsonpath, xml_ xml, tsvector_ tsvector, tsquery_ tsquery,
    inet_ inet, cidr_ cidr, macaddr_ macaddr, macaddr8_ macaddr8,
    point_ point, line_ line, lseg_ lseg, box_ box, path_ path, polygon_ polygon, circle_ circle,
    int4range_ int4range, int8range_ int8range, numrange_ numrange, tsrange_ tsrange, tstzrange_ tstzrange, daterange_ daterange,
    int4multirange_ int4multirange, tstzmultirange_ tstzmultirange, float_range_ float_range,
    oid_ oid, regclass_ regclass, regtype_ regtype, tid_ tid, xid_ xid, pg_lsn_ pg_lsn, pg_snapshot_ pg_snapshot,
    xid8_ xid8, refcursor_ refcursor, regconfig_ regconfig, int2vector_ int2vector,
    ints int[], texts text[], matrix float8[][], dates timestamptz[], states day_state[],
    state day_state, pair_ pair, pairs pair[], short_ short_text,
    doubled int GENERATED ALWAYS AS (integer_ * 2) STORED);
INSERT INTO every_type (id) VALUES (1);
INSERT INTO every_type VALUES (2, '0001-01-01 00:00:00+00 BC',
    true, -32768, -1073741824, -9223372036854775808, 'NaN', 'NaN', 'NaN', '-92233720368547758.08',
    '\001', 'ä', 'ab  ', '', '', '', B'000', B'',
    '4713-01-01 BC', '00:00:00', '00:00:00+15:59', '4713-01-01 00:00:00 BC', '-infinity', '-178000000 years',
    '00000000-0000-0000-0000-000000000000', 'null', 'null', '$', '', '', '',
    '0.0.0.0/0', '::/0', '00:00:00:00:00:00', '00:00:00:00:00:00:00:00',
    '(NaN,-Infinity)', '{1,0,0}', '[(0,0),(0,0)]', '(0,0),(0,0)', '[(0,0)]', '((0,0))', '<(0,0),0>',
    'empty', '(,)', '[NaN,NaN]', '[-infinity,infinity]', '(,infinity)', '[4713-01-01 BC,)',
    '{}', '{}', '[NaN,NaN]',
    0, '-', '-', '(0,0)', '0', '0/0', '1:1:', '0', '', '-', '',
    '{}', '{}', '{}', '{}', '{}', '', ROW(NULL, ''), '{}', '');
INSERT INTO every_type VALUES (3, '290000-12-31 23:59:59.999999+00',
    false, 32767, 1073741823, 9223372036854775807, 'Infinity', 'Infinity', 'Infinity', '92233720368547758.07',
    'x', '   ', '\N', E'\\N', 'name', '\x00ff5c2e0a2c22', B'111', B'10110',
    'infinity', '24:00:00', '24:00:00-15:59', 'infinity', 'infinity', '178000000 years 11 mons 2147483647 days -00:00:00.000001',
    'ffffffff-ffff-ffff-ffff-ffffffffffff', '{"a": 1, "a": 2, "": [null, 1e400]}', '{"": [null, "\\u00e4\"", 1e400]}',
    'strict $."a,b"[*] ? (@ > 1)', '<a b="c&quot;">,&amp;</a>', '''a'':1A,2B ''b c'':3', '!''a b'' & (c | d:*A) <2> e',
    'ffff::1.2.3.4/128', '10.0.0.0/8', 'ff:ff:ff:ff:ff:ff', 'ff:ff:ff:ff:ff:ff:ff:ff',
    '(1e-300,0.1)', '{0,-1,0.30000000000000004}', '[(1,2),(3,4)]', '(1e300,1),(0,0)', '((0,0),(1,1))', '((0,0),(1,1),(1,0))', '<(0.1,0.2),1e300>',
    '[-2147483648,2147483647)', '[1,1]', '(-Infinity,Infinity)', '[0044-03-15 BC,)', '[2025-01-01Z,2025-01-02Z)', '(,infinity)',
    '{[1,2),[5,)}', '{(,2025-01-01Z),[2026-01-01Z,)}', '(-Infinity,0.30000000000000004]',
    4294967295, 'pg_class', 'timestamptz', '(4294967294,65534)', '4294967295', 'FFFFFFFF/FFFFFFFF', '10:20:10,14,15', '18446744073709551615', 'a "c"', 'simple', '1 -2',
    '[-1:1]={1,NULL,3}', '{NULL,"NULL","",",","\"","{}"," a "}', '{{NaN,Infinity},{-0,0.1}}', '{infinity,NULL,"0044-03-15 BC"}', '{"",NULL,"NULL"}',
    'a,"b"', ROW(NULL, 'a,"(b)\'), ARRAY[ROW(1, NULL)::pair, NULL], ' "', DEFAULT);
INSERT INTO every_type (id, text_, json_, texts, double_, real_, numeric_) VALUES
    (4, E'\r\n\t\b\f\v\x7f', '"\n"', ARRAY[E'a\nb', E'\\.', '\'], -0.0, 1e-45, 1e-1000),
    (5, E'line\n\\.\nline', '[]', '{"\\"}', 1.7976931348623157e308, 3.4028235e38, -0.000),
    (6, '""', '{}', '{"\"\""}', 5e-324, -0.0, 1e1000), (7, '\.', '0', NULL, 0.1, 0.1, 1.10), (8, ' ', '-0', '{" "}', 1, 1, 1),
    (9, '#', '1.0', '{#}', 2.5, 2.5, 0.00), (10, ',', '1e5', '{","}', NULL, NULL, NULL);
"#;

/// A hypertable of two dimensions and one with rows in many chunks.
pub const HYPERTABLES: &str = r#"
CREATE EXTENSION IF NOT EXISTS timescaledb;
CREATE TABLE m (id bigserial, ts timestamptz NOT NULL, dev int NOT NULL, v float8, PRIMARY KEY (id, ts));
SELECT create_hypertable('m', 'ts', chunk_time_interval => interval '1 day');
INSERT INTO m (ts, dev, v) SELECT '2025-01-01'::timestamptz + i * interval '5 minutes', i % 7, sin(i) FROM generate_series(1, 6000) i;
CREATE INDEX m_dev ON m (dev, ts DESC);
CREATE TABLE "M 2" (ts timestamptz NOT NULL, dev text NOT NULL);
SELECT create_hypertable('"M 2"', 'ts', 'dev', 2);
INSERT INTO "M 2" SELECT '2025-01-01'::timestamptz + i * interval '1 hour', 'd' || i % 5 FROM generate_series(1, 500) i;
CREATE MATERIALIZED VIEW per_day AS SELECT time_bucket('1 day', ts) AS day, count(*) FROM m GROUP BY 1;
CREATE PROCEDURE mine(job int, config jsonb) LANGUAGE plpgsql AS $x$ BEGIN DELETE FROM m; END $x$;
"#;

/// Every table that is not the server's or an extension's: its rows counted and hashed as SELECT gives them, in the order of
/// the names, and where each sequence stands.
///
/// # Panics
/// Where a table cannot be read.
#[must_use]
#[allow(clippy::expect_used)]
pub fn content(client: &mut Client) -> Vec<String> {
    let relations = client
        .query(
            "SELECT format('%I.%I', n.nspname, c.relname), c.relkind = 'S'
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'p', 'm', 'v', 'S') AND n.nspname !~ '^(pg_|_timescaledb_|timescaledb_)'
               AND n.nspname <> 'information_schema' AND c.relname <> 'migration_restores'
               AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                               AND d.deptype = 'e')
             ORDER BY 1",
            &[],
        )
        .expect("the relations");
    let mut lines = Vec::new();
    for row in relations {
        let (name, sequence): (String, bool) = (row.get(0), row.get(1));
        let query = if sequence {
            format!("SELECT last_value || ' ' || is_called FROM {name}")
        } else {
            format!("SELECT count(*) || ' ' || coalesce(sum(hashtextextended(t::text, 0)), 0) FROM {name} t")
        };
        let text: String = client.query_one(&query, &[]).expect("its rows").get(0);
        lines.push(format!("{name}: {text}"));
    }
    lines
}

/// A database, a home, and backup-manager on both.
pub struct Backups<'a> {
    /// The database and its home.
    pub lab: Lab<'a>,
    server: &'a Server,
}

impl Backups<'static> {
    /// A new database on a shared server, filled by `sql` as a superuser; the tables are the test role's where it can own them.
    ///
    /// # Panics
    /// Where the SQL fails.
    #[must_use]
    #[allow(clippy::expect_used)]
    pub fn new(engine: Engine, sql: &str) -> Self {
        Self::on(Server::shared(engine), sql)
    }
}

impl<'a> Backups<'a> {
    /// The same on any server.
    ///
    /// # Panics
    /// Where the SQL fails.
    #[must_use]
    #[allow(clippy::panic)]
    pub fn on(server: &'a Server, sql: &str) -> Self {
        let lab = Lab::new(server, &[]);
        let mut client = lab.client();
        // One by one: not everything may stand in a transaction with others.
        for statement in sql.split(";\n").filter(|statement| !statement.trim().is_empty()) {
            client.batch_execute(statement).unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        }
        Self { lab, server }
    }

    /// backup-manager for this database and home, as the role of the environment; arguments are separated by blanks.
    #[must_use]
    pub fn tool(&self, arguments: &str) -> Program {
        let path = std::env::var("PATH").unwrap_or_default();
        Program::tool("backup-manager")
            .envs(&self.lab.database.variables())
            .env("MS5_HOME", self.lab.home())
            .env("MS5_RESTORE_PASSWORD", self.server.variable("MS5_SANDBOX_SUPERUSER_PASSWORD"))
            .env("PATH", format!("{}:{path}", self.server.bin().display()))
            .current_dir(self.lab.home())
            .args(arguments.split_whitespace())
    }

    /// The same, where databases are made: as the superuser.
    #[must_use]
    pub fn restorer(&self, arguments: &str) -> Program {
        self.tool(arguments).arg(format!("--restore-user={}", self.server.variable("MS5_SANDBOX_SUPERUSER")))
    }

    /// Runs it.
    #[must_use]
    pub fn run(&self, arguments: &str) -> Ran {
        self.tool(arguments).run()
    }

    /// post-validate as after a rollback, with what else is asked of it, on this database and home.
    #[must_use]
    pub fn post_validate(&self, arguments: &str) -> Ran {
        Program::tool("post-validate")
            .envs(&self.lab.database.variables())
            .env("MS5_HOME", self.lab.home())
            .current_dir(self.lab.home())
            .args(arguments.split_whitespace())
            .run()
    }

    /// The rollback.sh of the only rollback point.
    ///
    /// # Panics
    /// Where there is none.
    #[must_use]
    #[allow(clippy::expect_used)]
    pub fn rollback_script(&self) -> PathBuf {
        let mut points = fs::read_dir(self.lab.home().join("rollback")).expect("rollback/").flatten();
        points.next().expect("a rollback point").path().join("rollback.sh")
    }

    /// Such a script, where psql is found and none of our tools.
    #[must_use]
    pub fn by_hand(&self, script: &Path) -> Program {
        Program::at(script)
            .env("PATH", format!("{}:/usr/bin:/bin", self.server.bin().display()))
            .env("MS5_RESTORE_PASSWORD", self.server.variable("MS5_SANDBOX_SUPERUSER_PASSWORD"))
            .env("PGSSLMODE", "disable")
    }

    /// That every object is as it was.
    ///
    /// # Panics
    /// Where one is not, naming all.
    pub fn has_objects_of(&self, inventory: &Inventory) {
        let now = self.lab.database.inventory();
        let differences: Vec<String> = inventory.compare(&now).iter().map(ToString::to_string).collect();
        assert!(differences.is_empty(), "{}", differences.join("\n"));
    }

    /// The folder of the backups.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.lab.home().join("backups")
    }

    /// The names of what lies in it, hidden files left out.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.all_names().into_iter().filter(|name| !name.starts_with('.')).collect();
        names.sort();
        names
    }

    /// The same with the hidden ones.
    #[must_use]
    pub fn all_names(&self) -> Vec<String> {
        fs::read_dir(self.folder())
            .map(|entries| {
                entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
            })
            .unwrap_or_default()
    }

    /// Makes a backup; gives its folder.
    ///
    /// # Panics
    /// Where that fails.
    #[must_use]
    #[allow(clippy::expect_used)]
    pub fn backup(&self, arguments: &str) -> PathBuf {
        let before = self.names();
        let _ = self.run(&format!("backup {arguments}")).expect(0);
        let new = self.names().into_iter().find(|name| !before.contains(name)).expect("a new backup");
        self.folder().join(new)
    }

    /// A session of the superuser on a database of the server.
    ///
    /// # Panics
    /// Where it is refused.
    #[must_use]
    #[allow(clippy::expect_used)]
    pub fn superuser(&self, database: &str) -> Client {
        self.server.superuser(database).expect("a session of the superuser")
    }

    /// A new empty database beside this one, and its name.
    ///
    /// # Panics
    /// Where it cannot be made.
    #[must_use]
    #[allow(clippy::expect_used)]
    pub fn empty_database(&self, name: &str) -> String {
        let name = format!("{}_{name}", self.lab.database.name);
        self.superuser("postgres")
            .batch_execute(&format!("CREATE DATABASE {name} TEMPLATE template0"))
            .expect("a new database");
        name
    }

    /// The database's content as its owner's superuser sees it.
    #[must_use]
    pub fn content(&self) -> Vec<String> {
        content(&mut self.superuser(&self.lab.database.name))
    }

    /// Pipes bytes into the real psql, as the superuser, on a database.
    ///
    /// # Panics
    /// Where psql cannot be started.
    #[must_use]
    pub fn psql(&self, database: &str, script: Vec<u8>) -> Ran {
        Program::at(&self.server.bin().join("psql"))
            .args(["-X", "-q", "-h", self.server.variable("DB_HOST"), "-p", self.server.variable("DB_PORT")])
            .args([
                "-U",
                self.server.variable("MS5_SANDBOX_SUPERUSER"),
                "-v",
                "ON_ERROR_STOP=1",
                "-d",
                database,
            ])
            .env("PGPASSWORD", self.server.variable("MS5_SANDBOX_SUPERUSER_PASSWORD"))
            .env("PGSSLMODE", "disable")
            .input(script)
            .run()
    }

    /// Databases whose names begin so, sorted.
    ///
    /// # Panics
    /// Where the server refuses.
    #[must_use]
    #[allow(clippy::expect_used)]
    pub fn databases(&self, beginning: &str) -> Vec<String> {
        self.superuser("postgres")
            .query(
                "SELECT datname::text FROM pg_database WHERE starts_with(datname::text, $1) ORDER BY 1",
                &[&beginning],
            )
            .expect("the databases")
            .iter()
            .map(|row| row.get(0))
            .collect()
    }
}

/// The half-made database that a run has made, by what it says.
#[must_use]
pub fn half(ran: &Ran) -> Option<String> {
    let text = ran.to_string();
    let at = text.find("ms5_half_")?;
    text[at..].split(|letter: char| !letter.is_alphanumeric() && letter != '_').next().map(str::to_owned)
}

/// What gunzip makes of bytes; nothing of the tool's own libraries is in between.
///
/// # Panics
/// Where it cannot be started.
#[must_use]
#[allow(clippy::expect_used)]
pub fn gunzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut child = Command::new("gunzip")
        .arg("-c")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("gunzip");
    let mut stdin = child.stdin.take().expect("its input");
    let bytes = bytes.to_vec();
    let feeder = std::thread::spawn(move || {
        let _ = stdin.write_all(&bytes);
    });
    let output = child.wait_with_output().expect("gunzip ends");
    let _ = feeder.join();
    output.stdout
}

/// A small generator of numbers, so that a failure can be repeated.
#[derive(Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// A number below `end`.
    #[must_use]
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or(0) % end
    }
}
