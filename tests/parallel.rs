//! Files side by side, where they say that they may.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use migration_tests::lab::Lab;
use migration_tests::server::{Engine, Server};

fn lab(files: &[(&str, &str)]) -> Lab<'static> {
    Lab::new(Server::shared(Engine::Pg17), files)
}

/// A file that notes when it began and ended, as the clock of the server has it.
fn timed(directive: &str, name: &str, body: &str) -> String {
    format!(
        "{directive}CREATE TABLE {name} AS SELECT clock_timestamp() AS begun;\n{body}\nSELECT pg_sleep(2);\nALTER TABLE {name} ADD COLUMN ended timestamptz;\nUPDATE {name} SET ended = clock_timestamp();\n"
    )
}

fn overlap(lab: &Lab<'_>, one: &str, other: &str) -> String {
    lab.ask(&format!("SELECT a.begun < b.ended AND b.begun < a.ended FROM {one} a, {other} b"))
}

#[test]
fn independent_files_run_side_by_side_and_undeclared_ones_never() {
    let lab = lab(&[
        ("001_a.sql", &timed("", "a", "")),
        ("002_b.sql", &timed("", "b", "")),
        ("003_c.sql", &timed("-- ms5: independent-of 002\n", "c", "")),
        ("004_d.sql", &timed("-- ms5: independent-of 002 003\n", "d", "")),
        ("005_e.sql", &timed("", "e", "")),
    ]);
    let ran = lab.run("--parallel --jobs=3").expect(0).shows(&["5 applied, 0 already applied"]);
    for (one, other, expected) in [
        ("a", "b", "false"),
        ("b", "c", "true"),
        ("b", "d", "true"),
        ("c", "d", "true"),
        ("a", "d", "false"),
        ("d", "e", "false"),
    ] {
        assert_eq!(overlap(&lab, one, other), expected, "{one} and {other}\n{ran}");
    }
    assert_eq!(lab.ask("SELECT count(*) FROM migration_log WHERE success"), "5");
    assert_eq!(lab.ask("SELECT count(*) FROM migration_attempts WHERE outcome = 'applied'"), "5");
}

#[test]
fn without_the_flag_nothing_overlaps_and_jobs_limits_how_many() {
    let files = [
        ("001_a.sql", timed("", "a", "")),
        ("002_b.sql", timed("-- ms5: independent-of 001\n", "b", "")),
        ("003_c.sql", timed("-- ms5: independent-of 001 002\n", "c", "")),
    ];
    let files: Vec<(&str, &str)> = files.iter().map(|(file, text)| (*file, text.as_str())).collect();
    let one = lab(&files);
    let _ = one.run("").expect(0);
    assert_eq!(overlap(&one, "a", "b"), "false");
    let two = lab(&files);
    let _ = two.run("--parallel --jobs=2").expect(0);
    let pairs = [("a", "b"), ("a", "c"), ("b", "c")];
    let overlaps = pairs.iter().filter(|(one, other)| overlap(&two, one, other) == "true").count();
    assert!(overlaps == 1 || overlaps == 2, "two at once, never three: {overlaps}");
    let _ = two.run("--jobs=2").expect(2).shows(&["--jobs goes with --parallel only"]);
    let _ = two.run("--parallel --jobs=0").expect(2);
}

#[test]
fn a_failure_beside_others_is_reported_right_and_the_next_run_goes_on() {
    let lab = lab(&[
        ("001_a.sql", &timed("", "a", "SELECT 1 / x FROM switch;")),
        ("002_b.sql", &timed("-- ms5: independent-of 001\n", "b", "")),
        ("003_c.sql", &timed("", "c", "")),
        ("004_d.sql", &timed("-- ms5: independent-of 001 002 003\n", "d", "")),
    ]);
    lab.sql("CREATE TABLE switch (x int); INSERT INTO switch VALUES (0)");
    let ran = lab.run("--parallel --jobs=3").expect(1).shows(&[
        "❌ Migration 001 - A failed at 001_a.sql:2:1",
        "Nothing of 001 - A is in the database",
        "mend the cause of 001 - A",
        "2 applied, 0 already applied, 1 failed, 1 not begun, of 4 migrations",
        "Applied by this run, and staying: 002 - B, 004 - D",
    ]);
    assert_eq!(lab.ask("SELECT to_regclass('a') IS NULL AND to_regclass('c') IS NULL"), "true", "{ran}");
    lab.sql("UPDATE switch SET x = 1");
    // 003 comes late, and 004 has said that it may: nothing is out of order.
    let _ = lab.run("--parallel").expect(0).shows(&["2 applied, 2 already applied"]);
}

#[test]
fn a_signal_stops_all_of_them() {
    let slow = |directive: &str, name: &str| {
        format!("{directive}CREATE TABLE {name} (id int);\nSELECT pg_sleep(600);\n")
    };
    let lab =
        lab(&[("001_a.sql", &slow("", "a")), ("002_b.sql", &slow("-- ms5: independent-of 001\n", "b"))]);
    let run = lab.runner("--parallel --jobs=2").start();
    lab.wait_for("SELECT count(*) = 2 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'");
    run.signal("TERM");
    let _ = run.wait().expect(143).shows(&[
        "001 - A was stopped",
        "002 - B was stopped",
        "Nothing of 001 - A, 002 - B is in the database",
    ]);
    assert_eq!(lab.ask("SELECT string_agg(outcome, ',') FROM migration_attempts"), "interrupted,interrupted");
}
