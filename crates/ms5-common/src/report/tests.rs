use serde_json::{Value, json};

use super::html::Markup;
use super::page;

fn record(tool: &str, kind: &str, fields: Value) -> Value {
    let mut record = json!({"type": kind, "tool": tool, "run_id": format!("{tool}-run"), "time": "2026-01-15T10:30:00.000Z"});
    record.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    record
}

fn verdict(tool: &str, exit: u8, error: Option<&str>) -> Value {
    let counts = json!({"counted_things": 1771});
    record(
        tool,
        "verdict",
        json!({"ok": exit == 0, "exit": exit, "counts": counts, "seconds": 5.5, "error": error}),
    )
}

fn check(verdict: &str) -> Value {
    let fields = json!({"id": "rows", "verdict": verdict, "object": "s.t", "seen": "seen 4711", "wanted": "wanted 4712",
                        "reasons": ["because 4713"], "remedy": "do 4714"});
    record("post-validate", "check", fields)
}

/// A record of each type, every number in it another one.
fn one_of_each() -> Vec<Value> {
    let database = json!({"system_identifier": "7999", "oid": 16_001, "name": "plant", "host": "db", "port": 5999, "server_version": "17.99"});
    vec![
        record(
            "pre-validate",
            "start",
            json!({"version": "0.1.77", "environment": "staging", "database": database, "migrations_digest": "d1"}),
        ),
        record(
            "pre-validate",
            "table",
            json!({
                "schema": "s", "table": "t", "columns": [], "time_column": "ts", "key": "id", "highest": "900", "proven": true, "why_not": [],
                "changing": false, "rows": 1_234_567, "hash": "-98765", "above": 0, "buckets": [],
            }),
        ),
        record("pre-validate", "inventory", json!({"objects": {}})),
        verdict("pre-validate", 0, None),
        record(
            "migration-runner",
            "migration",
            json!({
                "name": "001 - A", "file": "001_a.sql", "checksum": "c0ffee", "statements": 28, "outcome": "applied", "milliseconds": 1250,
                "began": 0.75, "locks": [{"on": "s.t", "lock": "ShareLock", "statements": 29, "rewrites": "reads the whole table"}],
                "unknown": ["runs code that is not looked into"],
                "proof": {"tables": [{"table": "s.t", "rows": 1_234_568, "hash": "5"}], "seconds_before": 1.0, "seconds_after": 1.0},
            }),
        ),
        record(
            "migration-runner",
            "migration",
            json!({
                "name": "002 - B", "file": "002_b.sql", "checksum": "decade", "standing": "changed", "applied_at": "2025-12-31 08:00:01", "applied_by": "ada",
            }),
        ),
        record(
            "migration-runner",
            "statement",
            json!({
                "migration": "001 - A", "file": "001_a.sql", "line": 31, "column": 7, "statement": "CREATE INDEX i ON t", "in_transaction": true,
                "lock": "ShareLock", "on": "t", "rewrites": "reads the whole table", "unknown": "no word",
            }),
        ),
        record(
            "migration-runner",
            "finding",
            json!({
                "id": "migration-failed", "level": "error", "file": "002_b.sql", "line": 33, "column": 9, "message": "it failed",
                "remedy": "mend it", "sqlstate": "42703",
            }),
        ),
        verdict("migration-runner", 1, Some("something went wrong")),
        check("fail"),
        record(
            "post-validate",
            "rows",
            json!({"schema": "s", "table": "t", "before": 1_234_567, "after": 1_234_501, "added": 17, "verdict": "different"}),
        ),
        record(
            "post-validate",
            "hypertable",
            json!({
                "schema": "s", "table": "t", "time_column": "ts", "rows_estimate": 1_230_001,
                "chunks": [{"begin": "2025-01-01T00:00:00Z", "end": "2025-01-08T00:00:00Z", "bytes": 81_921, "compressed": true},
                           {"begin": null, "end": null, "bytes": 81_922, "compressed": false}],
            }),
        ),
        record(
            "backup-manager",
            "backup",
            json!({
                "name": "b1", "outcome": "damaged", "backup_type": "full", "created_at": "2026-01-14T00:00:00Z", "path": "/b/b1", "bytes": 777_001,
                "tables": 41, "rows": 999_001, "verified_at": "2026-01-14T01:00:00Z", "recipients": null, "damage": ["file 3 is gone"],
            }),
        ),
        record(
            "backup-manager",
            "file",
            json!({"backup": "b1", "file": "f.gz", "bytes": 777_002, "sha256": "feed"}),
        ),
        record("backup-manager", "rollback_point", json!({"name": "p1", "path": "/b/points/p1"})),
    ]
}

fn of_tests() -> Vec<Value> {
    let of = |kind: &str, fields: Value| record("migration-tests", kind, fields);
    vec![
        of(
            "installation",
            json!({
                "machine": {"host": "plant-7", "os": "Debian 99", "kernel": "6.97", "processor": "EPYC 96", "processors": 24,
                            "memory_bytes": 34_000_000_001_u64},
                "server": "17.98",
                "timescaledb": "2.99.1", "license": "timescale", "tools": [{"tool": "x", "version": "9.8.7", "path": "/bin/x"}], "sandbox": true, "jobs": 23,
            }),
        ),
        of(
            "test",
            json!({
                "id": "runner.a", "category": "runner", "order": 7, "title": "It runs", "outcome": "failed", "seconds": 1.375, "began": 0.125, "lane": 3,
                "reasons": ["it did not"], "left": ["database left_behind"],
                "commands": [{"line": "migration-runner --dry-run", "exit": 137, "seconds": 0.625, "output": "what it printed", "cut": true}],
            }),
        ),
        of(
            "measure",
            json!({
                "test": "performance.a", "name": "backup", "unit": "MB/s", "value": 118.25, "better": "higher",
                "before": [{"time": "2026-01-01T00:00:00.000Z", "value": 187.0, "regressed": false}], "limit": 1.625, "compared": 9,
                "usual": 188.25, "threshold": 119.5, "regressed": true,
            }),
        ),
    ]
}

/// Every text and number in a record, with where it stands.
fn leaves(path: &str, value: &Value, found: &mut Vec<(String, String)>) {
    match value {
        Value::Object(members) => {
            members.iter().for_each(|(name, value)| leaves(&format!("{path}.{name}"), value, found))
        }
        Value::Array(items) => items.iter().for_each(|value| leaves(path, value, found)),
        Value::String(text) => found.push((path.to_owned(), text.clone())),
        Value::Number(number) => found.push((path.to_owned(), number.to_string())),
        Value::Null | Value::Bool(_) => {}
    }
}

/// What a page leaves out or says in other words: how the rows were covered, what the proof cost, and times of a run's records.
const NOT_SHOWN: &[&str] = &[
    "table.time_column",
    "table.key",
    "table.highest",
    "table.above",
    "migration.proof.tables.hash",
    "migration.proof.seconds_before",
    "migration.proof.seconds_after",
    "statement.migration",
    "finding.id",
    "finding.level",
    "backup.recipients",
    "measure.unit",
    "measure.better",
    "measure.limit",
    "test.category",
    "test.order",
];

fn holds_all(records: &[Value]) {
    let html = page(records);
    for record in records {
        let kind = record["type"].as_str().unwrap();
        let mut found = Vec::new();
        leaves(kind, record, &mut found);
        for (place, text) in found {
            let own = ["type", "time"].iter().any(|name| place == format!("{kind}.{name}"));
            if own || NOT_SHOWN.contains(&&*place) || place.starts_with("verdict.counts") {
                continue;
            }
            let shown = Markup::from(text.as_str()).into_string();
            let exact = [format!("value=\"{shown}\""), format!(">{shown}<")]
                .iter()
                .any(|wanted| html.contains(wanted));
            assert!(
                exact
                    || html.contains(&shown) && text.parse::<f64>().is_err()
                    || in_words(&html, &place, &text),
                "{place}: {text}"
            );
        }
    }
}

/// Figures that stand in a sentence.
fn in_words(html: &str, place: &str, text: &str) -> bool {
    match place {
        "start.database.oid" => html.contains(&format!("oid {text})")),
        "start.database.port" => html.contains(&format!("port {text}<")),
        "start.database.system_identifier" => html.contains(&format!("cluster {text},")),
        "start.database.server_version" => html.contains(&format!("PostgreSQL {text}<")),
        "finding.line" => html.contains(&format!("line {text},")),
        "finding.column" => html.contains(&format!("column {text},")),
        "finding.sqlstate" => html.contains(&format!("SQLSTATE {text}<")),
        "statement.line" => html.contains(&format!(":{text}:")),
        "statement.column" => html.contains(&format!(":{text}<")),
        "measure.before.value" => html.contains("187 MB/s (2026-01-01"),
        // pre-validate's own number stands there.
        "rows.before" => html.contains("1,234,567"),
        _ => false,
    }
}

#[test]
fn no_number_is_lost() {
    holds_all(&one_of_each());
    holds_all(&of_tests());
    assert!(page(&one_of_each()).contains("1,771 counted things"));
}

#[test]
fn a_page_of_nothing_is_a_page() {
    let html = page(&[]);
    assert!(
        html.starts_with("<!doctype html>")
            && html.contains("No records")
            && html.contains("Nothing is recorded"),
        "{html}"
    );
    assert!(!html.contains("<script"), "{html}");
}

#[test]
fn nothing_of_a_record_becomes_html() {
    let hostile = "</style></td><script>alert(1)</script><img src=x onerror=\"alert('2')\">";
    let poisoned = |value: &Value| {
        fn poison(value: &mut Value, text: &str) {
            match value {
                Value::Object(members) => {
                    members
                        .iter_mut()
                        .filter(|(name, _)| *name != "type" && *name != "time")
                        .for_each(|(_, value)| poison(value, text));
                }
                Value::Array(items) => items.iter_mut().for_each(|value| poison(value, text)),
                Value::String(old) => *old = text.to_owned(),
                _ => {}
            }
        }
        let mut value = value.clone();
        poison(&mut value, hostile);
        value
    };
    let mut records: Vec<Value> = one_of_each().iter().map(poisoned).collect();
    records.extend(of_tests().iter().map(poisoned));
    records.push(record(hostile, hostile, json!({hostile: hostile})));
    let html = page(&records);
    assert!(html.contains("&lt;script&gt;"));
    for tag in ["<script", "<img", "</style></td"] {
        assert!(!html.contains(tag), "{tag}");
    }
}

#[test]
fn records_that_are_not_what_they_should_be_do_no_harm() {
    let mut records = vec![
        json!(null),
        json!(7),
        json!([]),
        json!({}),
        json!({"type": 5}),
        json!({"type": "of a later version", "tool": "x"}),
    ];
    for whole in one_of_each().into_iter().chain(of_tests()) {
        for name in whole.as_object().unwrap().keys().filter(|name| *name != "type") {
            for wrong in [json!(null), json!({}), json!([1, {}]), json!(-1e300), json!(u64::MAX), json!("x")]
            {
                let mut changed = whole.clone();
                changed[name] = wrong;
                records.push(changed);
            }
        }
    }
    assert!(page(&records).ends_with("</html>\n"));
    let huge = record(
        "migration-tests",
        "test",
        json!({"id": "a", "lane": u64::MAX, "began": 1e308, "seconds": 1e308, "outcome": "passed"}),
    );
    assert!(page(&[huge]).len() < 100_000);
}

fn says(records: &[Value]) -> String {
    let html = page(records);
    let begin = html.find("<h1>").unwrap();
    html[begin..begin + html[begin..].find("<ul class=\"tiles\"").or(html[begin..].find("<dl")).unwrap()]
        .to_owned()
}

#[test]
fn the_verdict_is_that_of_the_last_run_of_each_tool() {
    let good = [check("pass"), verdict("post-validate", 0, None)];
    let again = |mut record: Value| {
        record["run_id"] = json!("another-run");
        record
    };
    assert!(says(&good).contains("Passed<"));
    assert!(says(&[check("warn"), verdict("post-validate", 0, None)]).contains("Passed, with a warning<"));
    assert!(says(&[check("fail"), verdict("post-validate", 1, None)]).contains("Failed"));
    assert!(says(&[check("pass")]).contains("Not finished"));
    let mended: Vec<Value> = [check("fail"), verdict("post-validate", 1, None)]
        .into_iter()
        .chain(good.clone().map(again))
        .collect();
    assert!(says(&mended).contains("Passed<"), "{}", says(&mended));
    let broken: Vec<Value> =
        good.into_iter().chain([again(check("fail")), again(verdict("post-validate", 1, None))]).collect();
    assert!(says(&broken).contains("Failed"));
}

fn test(id: &str, outcome: &str, order: u64) -> Value {
    let fields = json!({"id": id, "category": id.split('.').next(), "order": order, "title": format!("Title of {id}"), "outcome": outcome,
                        "seconds": 1.0, "began": 0.0, "lane": 0, "reasons": [], "commands": [], "left": []});
    record("migration-tests", "test", fields)
}

#[test]
fn what_could_not_be_made_is_part_of_the_verdict() {
    let of = |outcomes: &[&str], exit: u8| {
        let mut records: Vec<Value> = outcomes
            .iter()
            .zip(0..)
            .map(|(outcome, order)| test(&format!("runner.{order}"), outcome, order))
            .collect();
        records.push(verdict("migration-tests", exit, None));
        says(&records)
    };
    assert!(of(&["passed"], 0).contains("Passed<"));
    let skipped = of(&["passed", "skipped", "skipped", "skipped"], 0);
    assert!(skipped.contains("Passed, 3 tests could not be made here<"), "{skipped}");
    assert!(
        skipped.contains("verdict warn") && skipped.contains("What the 3 that could not be made would show")
    );
    let both = of(&["passed", "warned", "skipped"], 0);
    assert!(both.contains("Passed, 1 test with a warning, 1 test could not be made here<"), "{both}");
    assert!(of(&["passed", "skipped"], 1).contains("the run was strict"));
    let mut records = vec![test("runner.a", "passed", 0), test("backup.b", "skipped", 1)];
    records.push(verdict("migration-tests", 1, None));
    assert!(says(&records).contains("no test of backup could be made here"), "{}", says(&records));
    let nothing = of(&["skipped"], 1);
    assert!(nothing.contains("Failed") && nothing.contains("Nothing was proven"), "{nothing}");
    let skipped = says(&[check("pass"), check("skipped"), verdict("post-validate", 0, None)]);
    assert!(skipped.contains("1 check was skipped"), "{skipped}");
}

#[test]
fn tests_stand_in_the_suites_order_whatever_ended_first() {
    let records = [
        test("backup.b", "passed", 3),
        test("runner.b", "passed", 1),
        test("backup.a", "passed", 2),
        test("runner.a", "passed", 0),
    ];
    let html = page(&records);
    let places: Vec<usize> = ["runner.a", "runner.b", "backup.a", "backup.b"]
        .map(|id| html.find(&format!("data-record=\"test\" data-key=\"{id}\"")).unwrap())
        .to_vec();
    assert!(places.is_sorted(), "{places:?}");
    assert!(html.find(">Runner<").unwrap() < html.find(">Backup<").unwrap());
}

#[test]
fn the_database_of_the_tests_is_not_the_one_they_are_made_from() {
    let database = json!({"system_identifier": "7", "oid": 5, "name": "postgres", "host": "db", "port": 5999, "server_version": "17.99"});
    let start = record(
        "migration-tests",
        "start",
        json!({"version": "1", "environment": "test", "database": database, "migrations_digest": null}),
    );
    let mut records = vec![start];
    records.extend(of_tests());
    let html = page(&records);
    assert!(!html.contains("postgres<") && html.contains("PostgreSQL 17.99"), "{html}");
    assert!(html.contains("Community edition") && html.contains("Debian 99"), "{html}");
}

/// A run of the runner, and when its first and its last record are of.
fn runner(id: &str, began: &str, ended: &str, outcome: &str) -> Vec<Value> {
    let of = |kind: &str, time: &str, fields: Value| {
        let mut record = record("migration-runner", kind, fields);
        record["run_id"] = json!(id);
        record["time"] = json!(time);
        record
    };
    let file = json!({
        "name": "001 - A", "file": "001_a.sql", "checksum": "c0ffee", "statements": 2, "outcome": outcome, "milliseconds": null, "began": null,
        "locks": [], "unknown": [], "proof": null,
    });
    vec![
        of(
            "start",
            began,
            json!({"version": "1", "environment": "test", "database": null, "migrations_digest": null}),
        ),
        of("migration", began, file),
        of("verdict", ended, json!({"ok": true, "exit": 0, "counts": {}, "seconds": 2.0, "error": null})),
    ]
}

#[test]
fn what_a_dry_run_before_says_is_not_said_of_the_run() {
    let dry = runner("dry", "2026-01-14T10:00:00.000Z", "2026-01-14T10:00:02.000Z", "would run");
    let run = runner("run", "2026-01-15T06:00:00.000Z", "2026-01-15T06:00:02.000Z", "applied");
    assert!(page(&dry).contains("nothing was changed"));
    let both = page(&[dry.clone(), run.clone()].concat());
    assert!(!both.contains("nothing was changed") && !both.contains("State of the migrations"), "{both}");
    assert!(both.contains("1 file applied."));
    // Each run has a table of its own.
    assert!(both.contains("Files of the run dry") && both.contains("Files of the run run"), "{both}");
    // And the other way round.
    let after = page(&[run, dry].concat());
    assert!(after.contains("The last run of the runner was a dry run: it changed nothing."), "{after}");
}

#[test]
fn hours_between_two_runs_are_not_said_to_be_work() {
    let dry = runner("dry", "2026-01-14T10:00:00.000Z", "2026-01-14T10:00:02.000Z", "would run");
    assert!(page(&dry).contains("took 2.0 s"), "one run takes its time");
    let run = runner("run", "2026-01-15T06:00:00.000Z", "2026-01-15T06:00:02.000Z", "applied");
    let both = page(&[dry, run].concat());
    assert!(
        !both.contains("took 20 h") && both.contains("20 h 00 min from the first record to the last"),
        "{both}"
    );
}

#[test]
fn days_are_compared_only_where_there_are_rows_and_a_time() {
    let of = |rows: u64, time: Value| {
        let table = json!({
            "schema": "s", "table": "t", "columns": [], "time_column": time, "key": "id", "highest": null, "proven": true, "why_not": [],
            "changing": false, "rows": rows, "hash": "1", "above": 0, "buckets": [{"day": null, "rows": rows, "hash": "1"}],
        });
        page(&[record("pre-validate", "table", table), verdict("pre-validate", 0, None)])
    };
    assert!(of(5, json!("ts")).contains("data-field=\"buckets\""));
    assert!(!of(5, json!(null)).contains("data-field=\"buckets\""));
    assert!(!of(0, json!("ts")).contains("data-field=\"buckets\""));
}

#[test]
fn chunks_of_the_same_time_are_one_bar() {
    let chunk = |bytes: u64| json!({"begin": "2025-01-01T00:00:00Z", "end": "2025-01-08T00:00:00Z", "bytes": bytes, "compressed": false});
    let hypertable = json!({
        "schema": "s", "table": "t", "time_column": "ts", "rows_estimate": 1, "chunks": [chunk(1_000_000), chunk(3_000_000)],
    });
    let page = page(&[record("post-validate", "hypertable", hypertable), verdict("post-validate", 0, None)]);
    assert!(page.contains("the highest bar is 3.8 MiB"), "{page}");
    assert!(page.contains("2 chunks of s.t"));
}

#[test]
fn tests_that_passed_are_counted_as_the_log_counts_them() {
    let of = |id: &str, outcome: &str| {
        let fields = json!({
            "id": id, "category": "runner", "order": 1, "title": id, "outcome": outcome, "seconds": 1.0, "began": 0.0, "lane": 0,
            "reasons": [], "left": [], "commands": [],
        });
        record("migration-tests", "test", fields)
    };
    let page = page(&[
        of("a", "passed"),
        of("b", "warned"),
        of("c", "skipped"),
        verdict("migration-tests", 0, None),
    ]);
    assert!(page.contains("1 of 3 tests passed, 1 passed with a warning, 1 could not be made."), "{page}");
}
