//! Records as migration-tests writes them, made by hand: a run as it may be, one with names that want to be HTML, an empty one.

use serde_json::{Value, json};

const RUN: &str = "20260115_103000-4242-00000000cafe0000";

fn record(kind: &str, time: &str, fields: Value) -> Value {
    let mut record = json!({
        "type": kind, "tool": "migration-tests", "run_id": RUN, "time": format!("2026-01-15T10:{time}Z"),
    });
    record.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    record
}

fn start() -> Value {
    record(
        "start",
        "30:00.120",
        json!({
            "version": "0.1.0", "environment": "test", "migrations_digest": null,
            "database": {"system_identifier": "7412345678901234567", "oid": 16384, "name": "factory_telemetry_test", "host": "127.0.0.1", "port": 54321, "server_version": "17.6 (Debian 17.6-0+deb13u1)"},
        }),
    )
}

fn installation() -> Value {
    let tool = |name: &str| json!({"tool": name, "version": "0.1.0", "path": format!("/srv/ms5/bin/{name}")});
    let tools =
        ["migration-runner", "pre-validate", "post-validate", "backup-manager", "migration-tests"].map(tool);
    record(
        "installation",
        "30:00.130",
        json!({
            "machine": {"host": "plant-7", "os": "Debian GNU/Linux 12", "kernel": "6.1.0-38-amd64", "processor": "Intel(R) Xeon(R) E-2378 CPU @ 2.60GHz",
                        "processors": 8, "memory_bytes": 33_554_432_000_u64},
            "server": "17.6 (Debian 17.6-0+deb13u1)", "timescaledb": "2.19.3", "license": "apache",
            "tools": tools,
            "sandbox": true, "jobs": 4,
        }),
    )
}

fn verdict(counts: [u32; 4], ok: bool) -> Value {
    let [passed, warned, failed, skipped] = counts;
    record(
        "verdict",
        "31:12.480",
        json!({
            "ok": ok, "exit": u8::from(!ok), "seconds": 72.36, "error": null,
            "counts": {"passed": passed, "warned": warned, "failed": failed, "skipped": skipped},
        }),
    )
}

/// id, category, title, outcome, lane, began, seconds, commands (line, exit, output)
type Test<'a> = (&'a str, &'a str, &'a str, &'a str, u32, f64, f64, &'a [(&'a str, i32, &'a str)]);

const TESTS: &[Test<'_>] = &[
    (
        "environment.tools",
        "environment",
        "Every tool is there and says its version",
        "passed",
        0,
        0.12,
        0.41,
        &[
            ("migration-runner --version", 0, "migration-runner 0.1.0\n"),
            ("backup-manager --version", 0, "backup-manager 0.1.0\n"),
        ],
    ),
    (
        "environment.server",
        "environment",
        "The server answers, and TimescaleDB can be created",
        "passed",
        1,
        0.12,
        1.93,
        &[("psql -X -d factory_telemetry_test -c 'CREATE EXTENSION timescaledb'", 0, "CREATE EXTENSION\n")],
    ),
    (
        "runner.dry-run",
        "runner",
        "A dry run names every file and changes nothing",
        "passed",
        2,
        0.12,
        1.214,
        &[(
            "migration-runner --environment=test --dry-run",
            0,
            "[2026-01-15 10:30:01] [INFO] Starting MS5.0 database migration process\n[2026-01-15 10:30:01] [INFO] Dry run: true\n[2026-01-15 10:30:01] [SUCCESS] Database connection successful\n",
        )],
    ),
    (
        "runner.apply",
        "runner",
        "Nine files are applied in order, and a second run has nothing to do",
        "passed",
        3,
        0.12,
        9.87,
        &[
            (
                "migration-runner --environment=test",
                0,
                "[2026-01-15 10:30:09] [SUCCESS] 🎉 All migrations completed successfully!\n",
            ),
            (
                "migration-runner --environment=test",
                0,
                "[2026-01-15 10:30:10] [INFO] Nothing to do: 9 migrations are applied\n",
            ),
        ],
    ),
    (
        "runner.stops-at-failure",
        "runner",
        "A file that fails is rolled back whole, and those behind it are not begun",
        "passed",
        0,
        0.56,
        3.02,
        &[(
            "migration-runner --environment=test --migrations-dir=broken",
            1,
            "[2026-01-15 10:30:02] [ERROR] ❌ Migration 002 - Broken failed\n[2026-01-15 10:30:02] [ERROR] column \"nonsense\" does not exist (SQLSTATE 42703)\n",
        )],
    ),
    (
        "runner.killed",
        "runner",
        "A run that is killed with SIGKILL in the middle of a file goes on there",
        "passed",
        2,
        1.36,
        12.6,
        &[
            ("migration-runner --environment=test", 137, ""),
            (
                "migration-runner --environment=test",
                0,
                "[2026-01-15 10:30:13] [WARN] An earlier run ended in the middle of 004 - Advanced Production Features\n",
            ),
        ],
    ),
    (
        "validators.before",
        "validators",
        "pre-validate passes on a database that is ready",
        "passed",
        1,
        2.08,
        4.4,
        &[(
            "pre-validate --environment=test --quick",
            0,
            "[2026-01-15 10:30:06] [SUCCESS] ✅ Pre-migration validation passed\n",
        )],
    ),
    (
        "validators.after",
        "validators",
        "post-validate finds a dropped index by its name",
        "failed",
        1,
        6.6,
        5.31,
        &[
            (
                "migration-runner --environment=test",
                0,
                "[2026-01-15 10:30:09] [SUCCESS] All migrations completed successfully!\n",
            ),
            (
                "psql -X -d factory_telemetry_test -c 'DROP INDEX factory_telemetry.idx_users_department'",
                0,
                "DROP INDEX\n",
            ),
            (
                "post-validate --environment=test --strict --expected=/srv/ms5/migrations/expected.json --migrations-dir=/srv/ms5/migrations",
                0,
                "[2026-01-15 10:30:11] [SUCCESS] Expected tables validated: 41\n[2026-01-15 10:30:11] [SUCCESS] Expected indexes validated: 112\n[2026-01-15 10:30:12] [SUCCESS] ✅ Post-migration validation passed\n",
            ),
        ],
    ),
    (
        "backup.full",
        "backup",
        "A full backup is made, verified and proven by restoring it",
        "passed",
        0,
        3.7,
        18.2,
        &[
            (
                "backup-manager backup suite full",
                0,
                "[2026-01-15 10:30:14] [SUCCESS] Backup suite_20260115_103004 created: 214 MB\n",
            ),
            (
                "backup-manager verify suite --deep",
                0,
                "[2026-01-15 10:30:21] [SUCCESS] Backup suite_20260115_103004 is proven: restored, and every row is there\n",
            ),
        ],
    ),
    (
        "backup.restore",
        "backup",
        "A restore brings back every row, and keeps the old database beside it",
        "passed",
        3,
        10.1,
        21.7,
        &[(
            "backup-manager restore suite --force",
            0,
            "[2026-01-15 10:30:31] [SUCCESS] Restored: 1,204,331 rows in 41 tables\n",
        )],
    ),
    (
        "backup.encrypted",
        "backup",
        "A backup that is encrypted opens with its key alone",
        "skipped",
        1,
        12.0,
        0.004,
        &[],
    ),
    (
        "integration.chain",
        "integration",
        "The chain of three tools behind gates keeps every row of the field's database",
        "passed",
        1,
        12.05,
        26.3,
        &[(
            "pre-validate --json | migration-runner --gate=- --json | post-validate --against=- --json",
            0,
            "{\"type\":\"verdict\",\"tool\":\"post-validate\",\"ok\":true,\"exit\":0}\n",
        )],
    ),
    (
        "integration.rollback",
        "integration",
        "rollback.sh brings back the state before, without any of the tools",
        "passed",
        2,
        14.0,
        15.9,
        &[(
            "rollback/migration_failure_20260115_103017/rollback.sh --force",
            0,
            "The database is rolled back to migration_20260115_103014\n",
        )],
    ),
    (
        "performance.backup",
        "performance",
        "A backup is not slower than in the last runs",
        "warned",
        0,
        32.0,
        22.4,
        &[(
            "backup-manager backup measured full --jobs=4",
            0,
            "[2026-01-15 10:30:54] [SUCCESS] Backup measured_20260115_103032 created: 1.9 GB\n",
        )],
    ),
    (
        "performance.restore",
        "performance",
        "A restore is not slower than in the last runs",
        "passed",
        3,
        32.1,
        40.2,
        &[(
            "backup-manager restore measured --force --drop-old",
            0,
            "[2026-01-15 10:31:12] [SUCCESS] Restored: 9,812,004 rows in 41 tables\n",
        )],
    ),
    (
        "performance.migration",
        "performance",
        "Nine files on a million rows take no longer than in the last runs",
        "passed",
        2,
        32.2,
        11.3,
        &[(
            "migration-runner --environment=test --prove",
            0,
            "[2026-01-15 10:30:43] [INFO] The proof took 1.2 s before and 1.4 s after, while others could not write\n",
        )],
    ),
];

fn reasons(id: &str) -> Vec<&'static str> {
    match id {
        "validators.after" => vec![
            "expected exit 1 of post-validate, it was 0",
            "its output does not name factory_telemetry.idx_users_department",
        ],
        "performance.backup" => vec![
            "backup: 88.3 MB/s, and the middle of 8 runs is 187.9 MB/s: a regression begins below 93.95 MB/s",
        ],
        "backup.encrypted" => vec!["age is not installed: apt-get install age, or set MS5_AGE to its folder"],
        _ => Vec::new(),
    }
}

fn test((order, test): (usize, &Test<'_>)) -> Value {
    let (id, category, title, outcome, lane, began, seconds, commands) = test;
    let command = |(line, exit, output): &(&str, i32, &str)| json!({"line": line, "exit": exit, "seconds": 0.25 + f64::from(*lane), "output": output, "cut": output.len() > 250});
    let left: &[&str] = if *id == "validators.after" {
        &["database ms5_suite_validators_after on 127.0.0.1, port 54321"]
    } else {
        &[]
    };
    record(
        "test",
        "30:44.000",
        json!({
            "id": id, "category": category, "order": order, "title": title, "outcome": outcome, "seconds": seconds, "began": began, "lane": lane,
            "reasons": reasons(id), "commands": commands.iter().map(command).collect::<Vec<_>>(), "left": left,
        }),
    )
}

fn measure(
    test: &str,
    name: &str,
    unit: &str,
    better: &str,
    value: f64,
    before: &[f64],
    regressed: bool,
) -> Value {
    let mut sorted = before.to_vec();
    sorted.sort_by(f64::total_cmp);
    let limit = if better == "higher" { 2.0 } else { 1.5 };
    let usual = (before.len() >= 3).then(|| sorted[sorted.len() / 2]);
    let threshold = usual.map(|usual| if better == "higher" { usual / limit } else { usual * limit });
    let before: Vec<Value> = before
        .iter()
        .enumerate()
        .map(|(day, value)| json!({"time": format!("2026-01-{:02}T10:30:00.000Z", day + 5), "value": value, "regressed": false}))
        .collect();
    record(
        "measure",
        "31:12.400",
        json!({
            "test": test, "name": name, "unit": unit, "value": value, "better": better, "before": before, "limit": limit,
            "compared": usual.map_or(0, |_| before.len()), "usual": usual, "threshold": threshold, "regressed": regressed,
        }),
    )
}

/// A run as it may be: a failure, a warning, a skipped test.
pub(crate) fn records() -> Vec<Value> {
    let mut records = vec![start(), installation()];
    records.extend(TESTS.iter().enumerate().map(test));
    let speeds = [183.2, 191.0, 187.4, 190.2, 176.9, 188.8, 186.1, 187.9];
    records.push(measure("performance.backup", "backup", "MB/s", "higher", 88.3, &speeds, true));
    records.push(measure(
        "performance.restore",
        "restore",
        "MB/s",
        "higher",
        96.4,
        &[88.1, 90.4, 91.7, 95.0, 93.2, 96.0],
        false,
    ));
    records.push(measure(
        "performance.migration",
        "nine files, a million rows",
        "s",
        "lower",
        10.42,
        &[11.8, 11.2, 10.9, 10.7, 10.6],
        false,
    ));
    records.push(measure(
        "performance.migration",
        "run with nothing to do",
        "ms",
        "lower",
        58.0,
        &[61.0],
        false,
    ));
    records.push(measure("performance.restore", "verify", "MB/s", "higher", 412.0, &[], false));
    records.push(verdict([13, 1, 1, 1], false));
    records
}

/// Names that want to be HTML, to turn the line round, or not to fit on a phone.
pub(crate) fn hostile() -> Vec<Value> {
    let script = "<script>alert(1)</script><img src=x onerror=alert(2)>\" onclick='alert(3)' &lt; \u{202e}drow \u{1b}[31mred";
    let long = "x".repeat(400);
    let mut records = vec![start(), installation()];
    for (place, outcome) in ["passed", "failed", "warned", "skipped"].iter().enumerate() {
        records.push(record(
            "test",
            "30:01.000",
            json!({
                "id": format!("{script} {place}"), "category": "runner", "order": place, "title": format!("{script} {long}"), "outcome": outcome,
                "seconds": 1e7, "began": 0.0, "lane": place, "reasons": [script, long.as_str()],
                "commands": [{"line": format!("{script} {long}"), "exit": -1, "seconds": 0.000_001, "output": format!("{long}\n</pre>{script}"), "cut": true}],
                "left": [script],
            }),
        ));
    }
    records.push(measure(script, &long, "MB/s", "higher", 1e12, &[1e-9, 5.0], false));
    records.push(measure(script, script, "s", "lower", 0.0, &[0.0], true));
    records.push(verdict([1, 1, 1, 1], false));
    records
}

/// A run that was ended before its first test.
pub(crate) fn empty() -> Vec<Value> {
    vec![start()]
}
