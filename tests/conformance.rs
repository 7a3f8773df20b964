//! docs/runbook.md, typed: each of its rows on a server of its own state, in each way that the row names.
//!
//! The page is the table, so it cannot differ from what is tested. `MS5_RUNBOOK_ROW=TEXT` runs the rows whose heading has TEXT.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "conformance/page.rs"]
mod page;
#[path = "conformance/pattern.rs"]
mod pattern;
#[path = "conformance/plant.rs"]
mod plant;
#[path = "conformance/ways.rs"]
mod ways;

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use migration_tests::program::Ran;
use migration_tests::server::Engine;
use page::{Row, Step};
use pattern::fits;
use plant::{Given, Lane, Plant, SHIMS, State};
use ways::Way;

/// Servers, each with one row at a time.
const LANES: usize = 2;
/// More than any line takes, on a machine that has much else to do.
const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn the_page_names_every_state_and_way_once() {
    let text = page::text();
    let states: Vec<_> = Given::NAMED.iter().map(|(name, _)| *name).collect();
    assert_eq!(page::names(&text, "## What is there"), states);
    let named: Vec<_> = Way::NAMED.iter().map(|(name, _)| *name).collect();
    assert_eq!(page::names(&text, "## Ways of calling"), named);
    let rows = page::rows(&text);
    let titles: BTreeSet<_> = rows.iter().map(|row| &row.title).collect();
    assert_eq!(titles.len(), rows.len(), "two rows have one title");
    for (name, state) in Given::NAMED {
        assert!(rows.iter().any(|row| row.given.state == state), "no row begins with {name}");
    }
    for (name, way) in Way::NAMED {
        assert!(rows.iter().any(|row| row.ways.contains(&way)), "no row is called so: {name}");
    }
    // Every exit code that a line can reach.
    let exits: BTreeSet<_> = rows.iter().flat_map(|row| &row.steps).map(|step| step.exit).collect();
    for code in [0, 1, 2, 3, 4, 5, 129, 130, 143] {
        assert!(exits.contains(&code), "no row ends with {code}");
    }
}

#[test]
fn every_row_of_the_page() {
    let rows = page::rows(&page::text());
    let wanted = std::env::var("MS5_RUNBOOK_ROW").unwrap_or_default();
    let mut jobs: VecDeque<(&Row, Way)> = VecDeque::new();
    for row in rows.iter().filter(|row| row.title.contains(&wanted)) {
        jobs.extend([Way::Typed].iter().chain(&row.ways).map(|way| (row, *way)));
    }
    assert!(!jobs.is_empty(), "no row has {wanted:?} in its heading");
    let (count, begun) = (jobs.len(), Instant::now());
    let jobs = Mutex::new(jobs);
    let failures = Mutex::new(Vec::new());
    let plain: Mutex<Option<Lane>> = Mutex::new(None);
    let work = || {
        let lane = Lane::start(Engine::Pg17);
        loop {
            let Some((row, way)) = jobs.lock().unwrap().pop_front() else { break };
            let on = |lane: &Lane| catch_unwind(AssertUnwindSafe(|| play(lane, row, way)));
            let played = if row.given.state == State::NoExtension {
                on(plain.lock().unwrap().get_or_insert_with(|| Lane::start(Engine::Plain)))
            } else {
                on(&lane)
            };
            let broken = || Err("it broke off; see above".to_owned());
            if let Err(why) = played.unwrap_or_else(|_| broken()) {
                failures.lock().unwrap().push(format!("{row}, {}: {why}", way.name()));
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(work);
        }
    });
    let failures = failures.into_inner().unwrap();
    let seconds = begun.elapsed().as_secs();
    let told =
        format!("runbook: {} rows, {count} runs, {} failed, {seconds} s\n", rows.len(), failures.len());
    let _ = std::io::stderr().write_all(told.as_bytes());
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

/// Types the lines of a row. Gives what was not as the page says.
fn play(lane: &Lane, row: &Row, way: Way) -> Result<(), String> {
    let plant = Plant::new(lane, row.given);
    for step in &row.steps {
        // What is called in another way are the tools; the lines between are a look at what they did.
        let tool = is_tool(&step.line);
        let (way, logs) = (if tool { way } else { Way::Typed }, logs(plant.home()));
        let ran = way.program(&plant, &plant.to_machine(&step.line)).run_within(LIMIT);
        let new: Vec<_> = self::logs(plant.home()).difference(&logs).cloned().collect();
        let exit = if tool { way.exit(step.exit) } else { step.exit };
        let as_said = compare(&plant, step, exit, &ran);
        as_said
            .and_then(|()| logged(step, &ran, &new))
            .map_err(|why| format!("$ {}\n{why}\n{}", step.line, plant.to_page(&ran.to_string())))?;
    }
    Ok(())
}

fn is_tool(line: &str) -> bool {
    line.contains("make ")
        || SHIMS.iter().any(|shim| line.contains(&format!("/{shim}")))
        || line.contains("/rollback.sh")
}

fn compare(plant: &Plant<'_>, step: &Step, exit: i32, ran: &Ran) -> Result<(), String> {
    if ran.code() != exit {
        return Err(format!("wanted exit {exit}"));
    }
    let whole = !is_tool(&step.line);
    in_order("stdout", &step.stdout, &plant.to_page(&ran.stdout()), whole)?;
    in_order("stderr", &step.stderr, &plant.to_page(&ran.stderr()), step.stderr.is_empty())
}

/// That the lines stand in the text in their order; `whole`: and no others.
fn in_order(stream: &str, wanted: &[String], text: &str, whole: bool) -> Result<(), String> {
    let mut lines = text.lines();
    for pattern in wanted {
        let found = lines.position(|line| fits(pattern, line));
        if found.is_none_or(|skipped| whole && skipped > 0) {
            return Err(format!("missing on {stream}, or not in its place: {pattern}"));
        }
    }
    match lines.next() {
        Some(line) if whole => Err(format!("more on {stream} than the page has: {line}")),
        _ => Ok(()),
    }
}

const LEVELS: [&str; 5] = ["INFO", "WARN", "ERROR", "SUCCESS", "DEBUG"];

/// That each log file which is new has its header and, below it, the very lines that were shown.
fn logged(step: &Step, ran: &Ran, new: &[PathBuf]) -> Result<(), String> {
    let shown = if step.line.contains("--json") { ran.stderr() } else { ran.stdout() };
    for file in new {
        let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        let name = file.display();
        let rule = format!("{}\n", "=".repeat(60));
        let parts: Vec<&str> = text.splitn(3, &rule).collect();
        let ["", header, body] = parts[..] else {
            return Err(format!("no header in {name}:\n{text}"));
        };
        let keys: Vec<_> = header.lines().filter_map(|line| Some(line.split_once(": ")?.0)).skip(1).collect();
        if keys != ["Environment", "Started", "Database", "User", "Version", "Run"] {
            return Err(format!("another header in {name}:\n{header}"));
        }
        let form = |line: &&str| LEVELS.iter().any(|level| fits(&format!("[<time>] [{level}] <text>"), line));
        if let Some(line) = body.lines().find(|line| !form(line)) {
            return Err(format!("not of the form [time] [LEVEL] message in {name}: {line}"));
        }
        // Where a pipe or a file takes the output, or several tools run, all that is asked for is the header and the form.
        let alone =
            new.len() == 1 && !step.line.contains(['|', '>', '&', '`']) && !step.line.contains("make ");
        if alone && body != shown {
            return Err(format!("{name} does not hold what was shown:\n{body}"));
        }
    }
    Ok(())
}

/// Every log file of an installation; reports lie beside them.
fn logs(home: &Path) -> BTreeSet<PathBuf> {
    let folders = fs::read_dir(home.join("logs")).into_iter().flatten().flatten();
    let files = folders.flat_map(|folder| fs::read_dir(folder.path()).into_iter().flatten().flatten());
    files.map(|file| file.path()).filter(|file| file.extension().is_some_and(|end| end == "log")).collect()
}
