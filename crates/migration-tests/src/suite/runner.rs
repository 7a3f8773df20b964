//! migration-runner: what it shows, what it does, and that it does nothing where it must not.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;

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

/// How many files there are, as the runner reads them.
fn count(case: &Case<'_>) -> Result<usize, Stop> {
    Ok(ms5_common::migrations::read_folder(&case.ground.migrations, false, &[])?.len())
}

fn help(case: &mut Case<'_>) -> Done {
    let ran = case.tool_with("migration-runner", "--help", &[("ENVIRONMENT", "test")])?.exits(0)?;
    ran.says(&["--environment", "--dry-run", "--verbose", "--force", "--help"]).map(drop)
}

fn dry_run(case: &mut Case<'_>) -> Done {
    let before = (case.inventory()?, case.rows()?);
    let ran =
        case.tool("migration-runner", "--dry-run --verbose --json")?.exits(0)?.says(&["Dry run: true"])?;
    let (named, files) = (ran.records("migration").len(), count(case)?);
    must(named == files, || format!("the dry run names {named} files of {files}"))?;
    let differences = before.0.compare(&case.inventory()?);
    must(differences.is_empty(), || {
        format!("the dry run has left {} changes, such as {}", differences.len(), differences[0])
    })?;
    must(before.1 == case.rows()?, || "the dry run has changed rows".to_owned())
}

fn environments(case: &mut Case<'_>) -> Done {
    let settings = case.settings();
    let password = settings
        .connection
        .password
        .as_ref()
        .map(|secret| String::from_utf8_lossy(secret.expose()).into_owned());
    for environment in ["production", "staging", "development", "test"] {
        // The database is the same: only the words differ, and where the password is read.
        let variables: Vec<(&str, &str)> =
            password.iter().map(|password| ("PGPASSWORD", password.as_str())).collect();
        let words = format!("--status --environment={environment}");
        case.tool_with("migration-runner", &words, &variables)?
            .exits(0)?
            .says(&[&format!("Environment: {environment}")])?;
    }
    case.tool("migration-runner", "--environment=nowhere")?.exits(2)?.says(&["nowhere"])?;
    untouched(case)
}

fn migrates(case: &mut Case<'_>) -> Done {
    let before = case.ask("SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'p')")?;
    let ran = case.tool("migration-runner", "")?.exits(0)?;
    ran.says(&["Starting MS5.0 database migration process", "All migrations completed successfully"])?;
    let files = count(case)?;
    let recorded = "SELECT count(*) FROM public.migration_log WHERE success AND checksum IS NOT NULL";
    must(case.ask(recorded)? == files.to_string(), || {
        "not every file stands in the ledger as applied".to_owned()
    })?;
    must(case.ask("SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'p')")? != before, || {
        "the runner says that all is done, and the database has no table more than before".to_owned()
    })?;
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
    let kept = |case: &Case<'_>| -> Result<Vec<String>, Stop> {
        Ok(case.rows()?.into_iter().filter(|table| !table.starts_with("public.migration_")).collect())
    };
    let before = kept(case)?;
    let attempts = |case: &Case<'_>| {
        case.ask("SELECT count(*) FROM public.migration_attempts WHERE outcome = 'applied'")
    };
    let attempted = attempts(case)?;
    case.tool("migration-runner", "--force")?.exits(0)?;
    must(attempts(case)? != attempted, || "no file was executed again".to_owned())?;
    let after = kept(case)?;
    let lost = before.iter().find(|table| !after.contains(table));
    must(lost.is_none(), || format!("rows are not what they were: {}", lost.map_or("", String::as_str)))
}

fn usage(case: &mut Case<'_>) -> Done {
    case.tool("migration-runner", "--dryrun")?.exits(2)?.says(&["--dryrun", "--dry-run"])?;
    case.tool("migration-runner", "now")?.exits(2)?.says(&["now"])?;
    case.tool("migration-runner", "--target")?.exits(2)?.says(&["--target"])?;
    case.tool_with("migration-runner", "--dryrun", &[("MS5_EXIT", "classic")])?.exits(1)?;
    untouched(case)
}

fn no_files(case: &mut Case<'_>) -> Done {
    let folder = case.home().join("nothing");
    fs::create_dir_all(&folder)?;
    let words = format!("--migrations-dir={}", folder.display());
    case.tool("migration-runner", &words)?.exits(3)?.says(&["nothing"])?;
    untouched(case)
}

fn unreachable(case: &mut Case<'_>) -> Done {
    // A port that was free a moment ago, and that nobody listens on.
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
    case.tool_with("migration-runner", "", &[("DB_HOST", "127.0.0.1"), ("DB_PORT", &port)])?
        .exits(4)?
        .says(&[&port])?;
    let settings = case.settings();
    if settings.connection.password.is_none() {
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
    let folder = case.copied_migrations()?;
    let mut all: Vec<_> = fs::read_dir(&folder)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    all.retain(|file| file.extension().is_some_and(|end| end == "sql"));
    all.sort();
    let first = all.first().ok_or_else(|| Stop::failed("there is no migration file"))?;
    let text = fs::read_to_string(first)?;
    fs::write(first, format!("{text}\nSELECT 'changed by a test';\n"))?;
    let words = format!("--migrations-dir={}", folder.display());
    let name = first.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let ran = case.tool("migration-runner", &words)?;
    must(ran.code != 0, || format!("{name} has changed since it was applied, and the runner does not mind"))?;
    ran.says(&[&name])?;
    case.tool("migration-runner", &format!("{words} --status --exit-code"))?.exits(1).map(drop)
}

fn one_at_a_time(case: &mut Case<'_>) -> Done {
    let folder = files(case, &[("001_slow.sql", "SELECT pg_sleep(600);")])?;
    let first = case.start("migration-runner", &folder, &[])?;
    case.until("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep')")?;
    let second = case.tool("migration-runner", &format!("{folder} --lock-wait=0"))?.exits(4);
    first.signal(Signal::TERM)?;
    let first = case.wait(first)?;
    second?.says(&["lock"])?;
    first.exits(143).map(drop)
}

fn interrupted(case: &mut Case<'_>) -> Done {
    struck(case, Signal::INT, &|ran| ran.exits(130))
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
    case.until("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep')")?;
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
    Ok(format!("--migrations-dir={}", folder.display()))
}

/// That there is nothing in a database that began empty.
fn untouched(case: &Case<'_>) -> Done {
    let objects = case.inventory()?;
    let ledger = case.ask("SELECT to_regclass('public.migration_log') IS NULL")?;
    must(ledger == "true" && case.rows()?.is_empty(), || {
        format!("the database was to be left alone, and has {} objects", objects.len())
    })
}
