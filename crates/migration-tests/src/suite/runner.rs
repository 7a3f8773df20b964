//! migration-runner: what it shows, what it does, and that it does nothing where it must not.

use std::fs;
use std::time::Duration;

use ms5_common::config::Environment;
use ms5_common::migrations;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::backup::same_state;
use super::{Start, Test};
use crate::case::{Case, Done, Ran, Stop, must};

pub(super) const TESTS: &[Test] = &[
    Test {
        id: "runner.help",
        title: "--help shows the flags of the runbooks",
        start: Start::Nothing,
        run: help,
    },
    Test {
        id: "runner.dry-run",
        title: "A dry run names every file and leaves nothing in the database",
        start: Start::Field,
        run: dry_run,
    },
    Test {
        id: "runner.environments",
        title: "Each environment is taken as it is called, and no other",
        start: Start::Empty,
        run: environments,
    },
    Test {
        id: "runner.migrates",
        title: "All files are applied and recorded, and a second run has nothing to do",
        start: Start::Field,
        run: migrates,
    },
    Test {
        id: "runner.forced-again",
        title: "With --force what is applied is executed again, and every row is kept",
        start: Start::Migrated,
        run: forced,
    },
    Test { id: "runner.usage", title: "Wrong usage is refused by name", start: Start::Empty, run: usage },
    Test {
        id: "runner.no-files",
        title: "A folder without files is refused before the database is touched",
        start: Start::Empty,
        run: no_files,
    },
    Test {
        id: "runner.unreachable",
        title: "A server that does not answer is told from one that refuses the password",
        start: Start::Empty,
        run: unreachable,
    },
    Test {
        id: "runner.refused-files",
        title: "Files that are not whole, not SQL or not in order are refused by name; a byte-order mark and CRLF are not",
        start: Start::Empty,
        run: refused_files,
    },
    Test {
        id: "runner.gate",
        title: "The gate opens only for a good verdict on this database and these files, and of today",
        start: Start::Empty,
        run: gate,
    },
    Test {
        id: "runner.past-a-failure",
        title: "With --force a run goes on after a failure, and says so with exit 5",
        start: Start::Empty,
        run: past_a_failure,
    },
    Test {
        id: "runner.broken-file",
        title: "A file that fails is rolled back whole, named with its line, and applied once it is mended",
        start: Start::Empty,
        run: broken,
    },
    Test {
        id: "runner.changed-file",
        title: "A file that has changed since it was applied stops the next run",
        start: Start::Migrated,
        run: changed,
    },
    Test {
        id: "runner.one-at-a-time",
        title: "A second run beside a first one is refused, and touches nothing",
        start: Start::Empty,
        run: one_at_a_time,
    },
    Test {
        id: "runner.interrupted",
        title: "A run that is interrupted rolls back, and the next one goes on",
        start: Start::Empty,
        run: interrupted,
    },
    Test {
        id: "runner.killed",
        title: "A run that is killed leaves nothing half done, and the next one goes on",
        start: Start::Empty,
        run: killed,
    },
];

/// Whether a file of a test is at work.
const SLEEPS: &str = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep')";

/// How many files there are, as the runner reads them.
fn count(case: &Case<'_>) -> Result<usize, Stop> {
    Ok(migrations::read_folder(&case.ground.migrations, true, &[])?.len())
}

fn help(case: &mut Case<'_>) -> Done {
    let ran = case.tool_with("migration-runner", "--help", &[("ENVIRONMENT", "test")])?.exits(0)?;
    ran.says(&["--environment", "--dry-run", "--verbose", "--force", "--help"]).map(drop)
}

fn dry_run(case: &mut Case<'_>) -> Done {
    let before = (case.inventory()?, case.state()?);
    let ran =
        case.tool("migration-runner", "--dry-run --verbose --json")?.exits(0)?.says(&["Dry run: true"])?;
    let (named, files) = (ran.records("migration").len(), count(case)?);
    must(named == files, || format!("the dry run names {named} files of {files}"))?;
    let differences = before.0.compare(&case.inventory()?);
    must(differences.is_empty(), || {
        format!("the dry run has left {} changes, such as {}", differences.len(), differences[0])
    })?;
    same_state(case, &before.1)
}

fn environments(case: &mut Case<'_>) -> Done {
    let password = case.ground.password().unwrap_or_default();
    for environment in Environment::ALL {
        let defaults = environment.defaults();
        let name = defaults.name;
        let words = format!("--status --environment={name}");
        let says = format!("Environment: {name}");
        // The database is the same: only the words differ, and where the password is read.
        for variable in ["PGPASSWORD", defaults.password_variable] {
            let mut variables: Vec<(&str, &str)> =
                Environment::ALL.iter().map(|other| (other.defaults().password_variable, "")).collect();
            variables.push((variable, &password));
            case.tool_with("migration-runner", &words, &variables)?.exits(0)?.says(&[&says])?;
        }
        // And what it takes where nothing is said: of a server that is not there.
        let unset = [("DB_HOST", "/ms5_suite_nowhere"), ("DB_PORT", ""), ("DB_NAME", ""), ("DB_USER", "")];
        case.tool_with("migration-runner", &words, &unset)?.exits(4)?;
        let log = case.log("migrations")?;
        let database = format!("Database: {}@/ms5_suite_nowhere:{}", defaults.database, defaults.port);
        for line in [format!("Environment: {name}"), database, format!("User: {}", defaults.user)] {
            must(log.lines().any(|one| one.trim_start_matches('#').trim() == line), || {
                format!("the log of a run under {name} does not say {line:?}")
            })?;
        }
        case.tool_with("migration-runner", "--status", &[("ENVIRONMENT", name), ("PGPASSWORD", &password)])?
            .exits(0)?
            .says(&[&says])?;
    }
    case.tool("migration-runner", "--environment=ms5_nowhere")?.exits(2)?.says(&["\"ms5_nowhere\""])?;
    case.tool_with("migration-runner", "", &[("ENVIRONMENT", "ms5_nowhere")])?
        .exits(3)?
        .says(&["\"ms5_nowhere\" in the variable ENVIRONMENT"])?;
    untouched(case)
}

fn migrates(case: &mut Case<'_>) -> Done {
    let before = case.inventory()?;
    let ran = case.tool("migration-runner", "")?.exits(0)?;
    ran.says(&["Starting MS5.0 database migration process", "All migrations completed successfully"])?;
    let files = count(case)?;
    let recorded = "SELECT count(*) FROM public.migration_log WHERE success AND checksum IS NOT NULL";
    must(case.ask(recorded)? == files.to_string(), || {
        "not every file stands in the ledger as applied".to_owned()
    })?;
    let new: Vec<String> = before.compare(&case.inventory()?).iter().map(ToString::to_string).collect();
    must(new.iter().any(|one| !one.contains("migration_") && !one.contains("timescaledb")), || {
        "the runner says that all is done, and nothing is in the database but its ledger".to_owned()
    })?;
    if let Ok(promised) = super::validators::promised(case) {
        for table in promised.tables.keys() {
            let there =
                case.ask(&format!("SELECT to_regclass('{}') IS NOT NULL", table.replace('\'', "''")))?;
            must(there == "true", || format!("the runner says that all is done, and there is no {table}"))?;
        }
    }
    let log = case.log("migrations")?;
    must(log.contains("All migrations completed successfully"), || {
        "the log file does not hold what was printed".to_owned()
    })?;
    let ledger = "SELECT string_agg(format('%s %s', migration_name, applied_at), ',' ORDER BY id) FROM public.migration_log";
    let applied = case.ask(ledger)?;
    case.tool("migration-runner", "")?.exits(0)?;
    must(case.ask(ledger)? == applied, || "a second run has applied files again".to_owned())?;
    let status = case.tool("migration-runner", "--status --exit-code --json")?.exits(0)?;
    let standing = status.records("migration").iter().filter(|file| file["standing"] == "applied").count();
    must(standing == files, || format!("--status calls {standing} of {files} files applied"))
}

fn forced(case: &mut Case<'_>) -> Done {
    let files = migrations::read_folder(&case.ground.migrations, true, &[])?;
    if let Some(once) = files.iter().find(|file| !file.idempotent) {
        return Err(Stop::Skipped(format!(
            "{} does not say that it may run again: -- ms5: idempotent",
            once.file
        )));
    }
    let kept = |case: &Case<'_>| -> Result<Vec<String>, Stop> {
        Ok(case.rows()?.into_iter().filter(|table| !table.starts_with("public.migration_")).collect())
    };
    let before = kept(case)?;
    let attempts = |case: &Case<'_>| -> Result<usize, Stop> {
        let number = case.ask("SELECT count(*) FROM public.migration_attempts WHERE outcome = 'applied'")?;
        number.parse().map_err(|_| Stop::failed("the attempts cannot be counted"))
    };
    let attempted = attempts(case)?;
    case.tool("migration-runner", "--force")?.exits(0)?;
    let executed = attempts(case)?.saturating_sub(attempted);
    must(executed == files.len(), || format!("{executed} of {} files were executed again", files.len()))?;
    let after = kept(case)?;
    let lost = before.iter().find(|table| !after.contains(table));
    must(lost.is_none(), || format!("rows are not what they were: {}", lost.map_or("", String::as_str)))
}

fn usage(case: &mut Case<'_>) -> Done {
    case.tool("migration-runner", "--dryrun")?.exits(2)?.says(&["--dryrun", "--dry-run"])?;
    case.tool("migration-runner", "sideways")?.exits(2)?.says(&["\"sideways\""])?;
    case.tool("migration-runner", "--environment=test --target")?
        .exits(2)?
        .says(&["--target wants a value"])?;
    case.tool_with("migration-runner", "--dryrun", &[("MS5_EXIT", "classic")])?.exits(1)?;
    untouched(case)
}

fn no_files(case: &mut Case<'_>) -> Done {
    fs::create_dir_all(case.home().join("ms5_no_files"))?;
    for folder in ["ms5_no_files", "ms5_no_folder"] {
        case.tool("migration-runner", &format!("--migrations-dir={folder}"))?.exits(3)?.says(&[folder])?;
    }
    untouched(case)
}

fn unreachable(case: &mut Case<'_>) -> Done {
    // A port that was free a moment ago, and that nobody listens on.
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
    case.tool_with("migration-runner", "", &[("DB_HOST", "127.0.0.1"), ("DB_PORT", &port)])?
        .exits(4)?
        .says(&[&port])?;
    let settings = case.settings();
    if case.ground.password().is_none() {
        case.warn("the server asks for no password: that a wrong one is refused was not seen");
        return untouched(case);
    }
    let variable = settings.environment.defaults().password_variable;
    let ran = case.tool_with("migration-runner", "", &[(variable, "wrong-on-purpose")])?;
    if ran.code == 0 {
        case.warn("the server takes any password for this role (trust): look at pg_hba.conf");
        return Ok(());
    }
    ran.exits(3).map(drop)?;
    untouched(case)
}

fn refused_files(case: &mut Case<'_>) -> Done {
    let flag = files(case, &[("001_good.sql", "CREATE TABLE good (id int);")])?;
    let cases: [(&str, &[u8], &str); 8] = [
        ("001_again.sql", b"SELECT 1;\n", "the number 001 is there twice"),
        ("003_gap.sql", b"SELECT 1;\n", "the number 002 is missing"),
        ("002_empty.sql", b"", "002_empty.sql is empty"),
        ("002_latin1.sql", b"SELECT 'M\xfcller';\n", "not UTF-8"),
        ("002_quote.sql", b"SELECT 1;\nSELECT 'abc;\nSELECT 2;\n", "002_quote.sql:2:8"),
        ("002_command.sql", b"\\frobnicate\n", "frobnicate"),
        ("002_commit.sql", b"SELECT 1;\nCOMMIT;\nSELECT 2;\n", ":2:1: COMMIT in a migration"),
        ("002_text.sql", b"Dear colleagues,\nplease run this;\n", "002_text.sql"),
    ];
    for (name, bytes, message) in cases {
        let file = case.home().join("files").join(name);
        fs::write(&file, bytes)?;
        case.tool("migration-runner", &flag)?.exits(3)?.says(&[message])?;
        fs::remove_file(file)?;
    }
    untouched(case)?;
    let windows = "\u{feff}-- 002 - Of Windows\r\nCREATE TABLE windows (id int);\r\nINSERT INTO windows VALUES (1);\r\n";
    files(case, &[("002_windows.sql", windows)])?;
    case.tool("migration-runner", &flag)?.exits(0)?.says(&["byte-order mark"])?;
    must(case.ask("SELECT count(*) FROM windows")? == "1", || "its row is not there".to_owned())
}

fn gate(case: &mut Case<'_>) -> Done {
    let flag = files(case, &[("001_good.sql", "CREATE TABLE good (id int);")])?;
    let pre = format!("{flag} --quick --min-disk=1 --min-memory=1 --min-available=1 --json");
    let seen = case.tool("pre-validate", &pre)?.exits(0)?;
    let record = |kind: &str| {
        seen.records(kind).pop().ok_or_else(|| seen.wrong(&format!("writes no record of the type {kind}")))
    };
    let (start, verdict) = (record("start")?, record("verdict")?);
    let with = |value: &Value, key: &str, new: Value| {
        let mut value = value.clone();
        value[key] = new;
        value
    };
    let mut other = start.clone();
    other["database"]["oid"] = json!(1);
    let lines = |start: &Value, verdict: &Value| format!("{start}\n{verdict}\n");
    let words = format!("{flag} --gate=gate.jsonl");
    case.tool("migration-runner", &words)?.exits(3)?.says(&["gate.jsonl"])?;
    for (text, why) in [
        (String::new(), "no record of pre-validate"),
        (format!("{start}\n"), "did not come to a verdict"),
        (lines(&start, &with(&verdict, "ok", json!(false))), "did not pass"),
        (lines(&other, &verdict), "looked at another database"),
        (lines(&with(&start, "migrations_digest", json!("0")), &verdict), "other migration files"),
        (lines(&start, &with(&verdict, "time", json!("2020-01-01T00:00:00.000Z"))), "--gate-max-age"),
    ] {
        fs::write(case.home().join("gate.jsonl"), text)?;
        case.tool("migration-runner", &words)?.exits(1)?.says(&[why])?;
    }
    untouched(case)?;
    fs::write(case.home().join("gate.jsonl"), lines(&start, &verdict))?;
    case.tool("migration-runner", &words)?.exits(0)?.says(&["The gate is open"])?;
    must(case.ask("SELECT to_regclass('good') IS NOT NULL")? == "true", || {
        "the gate is open, and the file was not applied".to_owned()
    })
}

fn past_a_failure(case: &mut Case<'_>) -> Done {
    let flag = files(
        case,
        &[
            ("001_first.sql", "CREATE TABLE one (id int);"),
            ("002_second.sql", "CREATE TABLE two (id int);\nSELECT 1/0;\n"),
            ("003_third.sql", "CREATE TABLE three (id int);"),
        ],
    )?;
    case.tool("migration-runner", &format!("{flag} --force"))?.exits(5)?.says(&["002_second.sql"])?;
    let there = "SELECT to_regclass('one') IS NOT NULL AND to_regclass('two') IS NULL AND to_regclass('three') IS NOT NULL";
    must(case.ask(there)? == "true", || {
        "the file behind it is not there, or the one that failed is not rolled back".to_owned()
    })?;
    case.tool("migration-runner", &format!("{flag} --status --exit-code"))?.exits(1).map(drop)
}

fn broken(case: &mut Case<'_>) -> Done {
    let folder = files(
        case,
        &[
            ("001_first.sql", "CREATE TABLE one (id int);"),
            ("002_second.sql", "CREATE TABLE two (id int);\nSELECT 1/0;\n"),
        ],
    )?;
    let ran = case.tool("migration-runner", &folder)?.exits(1)?;
    ran.says(&["002_second.sql", "22012"])?;
    let there = "SELECT to_regclass('one') IS NOT NULL AND to_regclass('two') IS NULL";
    must(case.ask(there)? == "true", || {
        "the file before it is not there, or the one that failed is not rolled back".to_owned()
    })?;
    let failed =
        "SELECT count(*) FROM public.migration_attempts WHERE outcome = 'failed' AND sqlstate = '22012'";
    must(case.ask(failed)? == "1", || {
        "the attempt that failed is not recorded with its SQLSTATE".to_owned()
    })?;
    files(case, &[("002_second.sql", "CREATE TABLE two (id int);")])?;
    case.tool("migration-runner", &folder)?.exits(0)?;
    must(case.ask("SELECT to_regclass('two') IS NOT NULL")? == "true", || {
        "the mended file was not applied".to_owned()
    })
}

fn changed(case: &mut Case<'_>) -> Done {
    let (folder, words) = case.copied_migrations()?;
    let all = migrations::read_folder(&folder, true, &[])?;
    let name = all.first().map(|first| first.file.clone()).unwrap_or_default();
    let first = folder.join(&name);
    let text = fs::read_to_string(&first)?;
    fs::write(&first, format!("{text}\nSELECT 'changed by a test';\n"))?;
    case.tool("migration-runner", &words)?
        .exits(1)?
        .says(&[&format!("{name} has changed since it was applied")])?;
    case.tool("migration-runner", &format!("{words} --force"))?.exits(1)?;
    case.tool("migration-runner", &format!("{words} --status --exit-code"))?.exits(1).map(drop)
}

fn one_at_a_time(case: &mut Case<'_>) -> Done {
    let folder = files(case, &[("001_slow.sql", "SELECT pg_sleep(600);")])?;
    let first = case.start("migration-runner", &folder, &[])?;
    let first = case.until_beside(first, SLEEPS)?;
    let second = case.tool("migration-runner", &format!("{folder} --lock-wait=0"))?.exits(4);
    first.signal(Signal::TERM)?;
    let first = case.wait(first)?;
    second?.says(&["lock"])?;
    first.exits(143).map(drop)
}

fn interrupted(case: &mut Case<'_>) -> Done {
    // A shell's background job ignores SIGINT, and so does all that it starts.
    let (signal, code) = if ignores_interrupts() { (Signal::TERM, 143) } else { (Signal::INT, 130) };
    struck(case, signal, &|ran| ran.exits(code))
}

fn ignores_interrupts() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 0b10 != 0)
}

fn killed(case: &mut Case<'_>) -> Done {
    struck(case, Signal::KILL, &|ran| ran.exits(137))
}

/// Strikes a run in the middle of its second file, and runs it again.
fn struck(case: &mut Case<'_>, signal: Signal, ended: &dyn Fn(Ran) -> Result<Ran, Stop>) -> Done {
    let second = |seconds: u32| {
        format!("CREATE TABLE two (id int);\nSELECT pg_sleep({seconds});\nCREATE TABLE three (id int);")
    };
    let folder =
        files(case, &[("001_first.sql", "CREATE TABLE one (id int);"), ("002_second.sql", &second(600))])?;
    let run = case.start("migration-runner", &folder, &[])?;
    let run = case.until_beside(run, SLEEPS)?;
    run.signal(signal)?;
    let ran = case.wait(run)?;
    ended(ran)?;
    // The server may still be rolling back what a killed client had begun.
    std::thread::sleep(Duration::from_millis(50));
    files(case, &[("002_second.sql", &second(0))])?;
    case.tool("migration-runner", &folder)?.exits(0)?;
    let all = "SELECT to_regclass('one') IS NOT NULL AND to_regclass('two') IS NOT NULL AND to_regclass('three') IS NOT NULL";
    must(case.ask(all)? == "true", || "the next run has not gone on".to_owned())?;
    let applied = case.ask("SELECT count(*) FROM public.migration_log WHERE success")?;
    must(applied == "2", || format!("{applied} files stand in the ledger as applied instead of 2"))
}

/// Writes migration files of the test's own; gives the flag that leads to them.
fn files(case: &Case<'_>, files: &[(&str, &str)]) -> Result<String, Stop> {
    let folder = case.home().join("files");
    fs::create_dir_all(&folder)?;
    for (name, text) in files {
        fs::write(folder.join(name), text)?;
    }
    Ok("--migrations-dir=files".to_owned())
}

/// That there is nothing in a database that began empty.
fn untouched(case: &Case<'_>) -> Done {
    let objects = case.inventory()?;
    let ledger = case.ask("SELECT to_regclass('public.migration_log') IS NULL")?;
    must(ledger == "true" && case.state()?.is_empty(), || {
        format!("the database was to be left alone, and has {} objects", objects.len())
    })
}
