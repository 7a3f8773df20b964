//! What migration-runner refuses before it touches anything: wrong usage, wrong settings, broken files, closed gates.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::fs;

use migration_tests::lab::Lab;
use migration_tests::program::{Program, bin_dir, project_root};
use migration_tests::server::{Engine, Server};
use serde_json::{Value, json};

const GOOD: (&str, &str) = ("001_good.sql", "-- 001 - Good\nCREATE TABLE good (id int);\n");

fn lab(files: &[(&str, &str)]) -> Lab<'static> {
    Lab::new(Server::shared(Engine::Pg17), files)
}

fn untouched(lab: &Lab<'_>) {
    let made = lab.ask("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace");
    let extensions = lab.ask("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'");
    assert_eq!((made.as_str(), extensions.as_str()), ("0", "0"), "the database was touched");
}

#[test]
fn wrong_usage_is_exit_2_and_names_the_word() {
    let lab = lab(&[GOOD]);
    for (arguments, message) in [
        ("--dry-ran", "did you mean --dry-run?"),
        ("--environment", "--environment wants a value"),
        ("--environment=test --environment=test", "--environment is given 2 times"),
        ("--environment=moon", "unknown environment \"moon\""),
        ("--force=yes", "--force takes no value"),
        ("now", "one argument too many: \"now\""),
        ("--lock-wait=soon", "--lock-wait takes a whole number"),
        ("-f", "unknown flag -f"),
    ] {
        let _ = lab.run(arguments).expect(2).shows(&[message, "[ERROR]"]);
    }
    untouched(&lab);
    assert!(!lab.home().join("logs").exists(), "wrong usage leaves no log folder");
}

#[test]
fn help_and_version_need_nothing() {
    let help = Program::tool("migration-runner").arg("--help").run().expect(0);
    for word in [
        "--environment=ENV",
        "--dry-run",
        "--verbose",
        "--force",
        "--status",
        "--gate=FILE",
        "POSTGRES_PASSWORD_PRODUCTION",
        "129, 130, 143",
    ] {
        assert!(help.stdout().contains(word), "{word} is not in\n{help}");
    }
    let _ =
        Program::tool("migration-runner").arg("--version").run().expect(0).shows(&["migration-runner 0."]);
}

#[test]
fn wrong_settings_are_exit_3_and_name_the_variable() {
    let lab = lab(&[GOOD]);
    for (name, value) in
        [("DB_PORT", "abc"), ("PGSSLMODE", "sometimes"), ("PGCONNECT_TIMEOUT", "x"), ("ENVIRONMENT", "moon")]
    {
        let _ = lab.runner("").env(name, value).run().expect(3).shows(&[name]);
    }
    let _ =
        lab.run("--migrations-dir=/nonexistent").expect(3).shows(&["/nonexistent", "--migrations-dir=DIR"]);
    untouched(&lab);
}

#[test]
fn broken_files_are_exit_3_with_their_place_and_nothing_is_touched() {
    let cases: &[(&str, &[u8], &str)] = &[
        ("002_empty.sql", b"", "002_empty.sql is empty"),
        ("002_comment.sql", b"-- nothing\n", "is empty: it holds no SQL statement"),
        ("002_utf16.sql", b"\xff\xfeS\0E\0L\0", "not UTF-8"),
        ("002_latin1.sql", b"SELECT 'M\xfcller';\n", "not UTF-8"),
        ("002_quote.sql", b"SELECT 1;\nSELECT 'abc;\nSELECT 2;\n", ":2:8"),
        ("002_dollar.sql", b"DO $x$ BEGIN END $y$;\n", ":1:4"),
        ("002_comment2.sql", b"SELECT 1; /* open\n", ":1:11"),
        ("002_command.sql", b"SELECT 1;\n\\copy t from x\n", ":2:1"),
        ("002_command2.sql", b"\\frobnicate\n", "frobnicate"),
        ("002_text.sql", b"Dear colleagues,\nplease run this;\n", "is not the beginning of an SQL statement"),
        ("002_commit.sql", b"SELECT 1;\nCOMMIT;\nSELECT 2;\n", ":2:1: COMMIT in a migration"),
        ("002_auth.sql", b"SET SESSION AUTHORIZATION postgres;\n", "SESSION AUTHORIZATION"),
        ("002_unlock.sql", b"SELECT pg_advisory_unlock_all();\n", "advisory unlock"),
        (
            "002_stdout.sql",
            b"SELECT 1;\nCOPY (SELECT 1) TO STDOUT;\n",
            ":2:1: COPY ... TO STDOUT in a migration",
        ),
        (
            "002_stdout2.sql",
            b"SELECT 1 \\; COPY t (a) TO STDIN;\n",
            ":1:13: COPY ... TO STDOUT in a migration",
        ),
        ("002_latin.sql", b"SET client_encoding = 'LATIN1';\n", ":1:1: client_encoding LATIN1"),
        ("002_names.sql", b"SET NAMES 'latin1';\n", ":1:1: client_encoding latin1"),
        (
            "002_config.sql",
            b"SELECT set_config('client_encoding', 'WIN1252', false);\n",
            ":1:1: client_encoding WIN1252",
        ),
        ("002_copy.sql", b"COPY t FROM stdin;\n1\n2\n", "002_copy.sql:1:1"),
        ("002_include.sql", b"\\ir missing.sql\n", "missing.sql"),
        ("002_if.sql", b"\\if true\nSELECT 1;\n", "\\if"),
        ("002_directive.sql", b"-- ms5: idempotant\nSELECT 1;\n", "idempotant"),
        ("001_again.sql", b"SELECT 1;\n", "the number 001 is there twice"),
        ("003_gap.sql", b"SELECT 1;\n", "the number 002 is missing"),
        ("fix-it.sql", b"SELECT 1;\n", "fix-it.sql is not a migration's name"),
        ("002_twin.sql", b"-- 001 - Good\nSELECT 1;\n", "carry the same title"),
    ];
    let server = Server::shared(Engine::Pg17);
    let lab = Lab::new(server, &[GOOD]);
    for (file, bytes, message) in cases {
        lab.write(file, bytes);
        let _ = lab.run("").expect(3).shows(&[message, "Next: "]);
        fs::remove_file(lab.migrations().join(file)).unwrap();
    }
    // Unreadable: as root every file is readable, so a folder stands in for one that is not.
    fs::create_dir(lab.migrations().join("002_folder.sql")).unwrap();
    let _ = lab.run("").expect(3).shows(&["002_folder.sql"]);
    untouched(&lab);
}

#[test]
fn everything_that_is_wrong_is_named_at_once() {
    let lab = lab(&[GOOD, ("002_a.sql", ""), ("004_b.sql", "SELECT 'x")]);
    let _ = lab.run("").expect(3).shows(&[
        "3 things are wrong",
        "002_a.sql is empty",
        "004_b.sql:1:8",
        "number 003 is missing",
    ]);
}

#[test]
fn a_byte_order_mark_and_crlf_are_accepted() {
    let lab = lab(&[(
        "001_bom.sql",
        "\u{feff}-- 001 - Bom\r\nCREATE TABLE bom (id int);\r\nINSERT INTO bom VALUES (1);\r\n",
    )]);
    let _ = lab.run("").expect(0).shows(&["byte-order mark", "Migration 001 - Bom completed"]);
    assert_eq!(lab.ask("SELECT count(*) FROM bom"), "1");
}

#[test]
fn no_way_to_connect_is_exit_4_and_bad_credentials_exit_3() {
    let lab = lab(&[GOOD]);
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let _ = lab
        .runner("")
        .env("DB_PORT", &port)
        .run()
        .expect(4)
        .shows(&["docker logs ms5_postgres_test", "nothing was touched"]);
    let _ = lab
        .runner("")
        .env("DB_HOST", "no-such-host.invalid")
        .run()
        .expect(4)
        .shows(&["no-such-host.invalid"]);
    let wrong = lab
        .runner("")
        .env("POSTGRES_PASSWORD_TEST", "Sesame-0pen")
        .run()
        .expect(3)
        .shows(&["28P01", "POSTGRES_PASSWORD_TEST"]);
    assert!(!format!("{wrong}{}", lab.log()).contains("Sesame-0pen"));
    let _ = lab.runner("").env("POSTGRES_PASSWORD_TEST", "").run().expect(3).shows(&["password"]);
    let _ = lab.runner("").env("DB_NAME", "no_such_db").run().expect(3).shows(&["3D000"]);
    let _ = lab.runner("").env("DB_USER", "nobody_here").run().expect(3);
    untouched(&lab);
}

/// What pre-validate will print for this database and these files, with the identity that the runner itself gives.
fn records(lab: &Lab<'_>) -> (Value, Value) {
    let seen = lab.run("--status --json").expect(0).records();
    let mut start = seen[0].clone();
    start["tool"] = json!("pre-validate");
    let mut verdict = seen[seen.len() - 1].clone();
    verdict["tool"] = json!("pre-validate");
    assert_eq!((start["type"].as_str(), verdict["type"].as_str()), (Some("start"), Some("verdict")));
    (start, verdict)
}

#[test]
fn the_gate_opens_for_an_ok_verdict_on_this_database_and_these_files_only() {
    let lab = lab(&[GOOD]);
    let (start, verdict) = records(&lab);
    let lines = |start: &Value, verdict: &Value| format!("{start}\n{verdict}\n");
    let with = |value: &Value, key: &str, new: Value| {
        let mut value = value.clone();
        value[key] = new;
        value
    };
    let mut other = start.clone();
    other["database"]["oid"] = json!(1);
    for (input, why) in [
        (String::new(), "no record of pre-validate"),
        (format!("{start}\n"), "did not come to a verdict"),
        (lines(&start, &with(&verdict, "ok", json!(false))), "did not pass"),
        (lines(&with(&start, "migrations_digest", json!("0")), &verdict), "other migration files"),
        (lines(&start, &with(&verdict, "time", json!("2020-01-01T00:00:00.000Z"))), "--gate-max-age"),
        (lines(&other, &verdict), "looked at another database"),
        (lines(&start, &verdict)[..300].to_owned(), "not a record"),
    ] {
        let _ = lab.runner("--gate=-").input(input).run().expect(1).shows(&[why]);
    }
    let _ = lab.run("--gate=/no/such/file").expect(3);
    untouched(&lab);
    let ran = lab.runner("--gate - --json").input(lines(&start, &verdict)).run().expect(0);
    let story = ran.records();
    assert_eq!(story[0], start, "what was read is passed on first");
    assert_eq!(story[1], verdict);
    assert_eq!(story[2]["type"], "start");
    assert_eq!(story.last().unwrap()["ok"], true);
    assert!(ran.stderr().contains("The gate is open"), "{ran}");
}

#[test]
fn a_script_names_scripts_in_its_hints_and_knows_the_old_exit_codes() {
    let scripts = project_root().join("scripts");
    let script = |folder: &std::path::Path| {
        Program::at(&folder.join("migration-runner.sh")).env("PATH", "/usr/bin:/bin").args(["--dry-ran"])
    };
    let _ = script(&scripts)
        .env("MS5_BIN_DIR", bin_dir().unwrap())
        .run()
        .expect(2)
        .shows(&[&format!("{}/migration-runner.sh --help lists the flags", scripts.display())]);
    let lab = Lab::new(Server::shared(Engine::Plain), &[]);
    let alone = lab.home().join("alone");
    fs::create_dir_all(&alone).unwrap();
    fs::copy(scripts.join("migration-runner.sh"), alone.join("migration-runner.sh")).unwrap();
    let _ = script(&alone).run().expect(3);
    let _ = script(&alone).env("MS5_EXIT", "classic").run().expect(1);
}
