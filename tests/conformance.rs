//! docs/runbook.md, typed: each of its rows on a server of its own state, in each way that the row names.
//!
//! The page is the table, so it cannot differ from what is tested. `MS5_RUNBOOK_ROW='TEXT|TEXT'` runs the rows whose heading has one
//! of them; with `MS5_RUNBOOK_SHOW=1` it shows what each line prints, and goes on where that is not what the page says: for who writes a row.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "conformance/page.rs"]
mod page;
#[path = "conformance/pattern.rs"]
mod pattern;
#[path = "conformance/plant.rs"]
mod plant;
#[path = "conformance/readme.rs"]
mod readme;
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
const LANES: usize = 3;
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
    let chosen = |row: &&Row| wanted.split('|').any(|words| row.title.contains(words));
    for row in rows.iter().filter(chosen) {
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
        for _ in 0..LANES.min(count) {
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
    if row.steps.iter().any(|step| step.line.contains("docker ")) {
        plant.write_docker();
    }
    let show = std::env::var_os("MS5_RUNBOOK_SHOW").is_some();
    let (mut wrong, mut shown) = (Vec::new(), format!("{row}, {}\n", way.name()));
    let begun = Instant::now();
    for step in &row.steps {
        // What is called in another way are the tools; the lines between are a look at what they did.
        let tool = is_tool(&step.line);
        let (way, logs) = (if tool { way } else { Way::Typed }, logs(plant.home()));
        let ran = way.program(&plant, &plant.to_machine(&step.line)).run_within(LIMIT);
        let mut new: Vec<_> = self::logs(plant.home()).difference(&logs).cloned().collect();
        new.sort_by_key(|file| fs::metadata(file).and_then(|of| of.modified()).ok());
        let exit = if tool { way.exit(step.exit) } else { step.exit };
        let seen = || plant.to_page(&ran.to_string());
        if show {
            shown.push_str(&format!("$ {}\n{}{} logs\n", step.line, seen(), new.len()));
        }
        let as_said = compare(&plant, step, exit, &ran).and_then(|()| logged(step, &ran, &new));
        if let Err(why) = as_said {
            wrong.push(format!("$ {}\n{why}\n{}", step.line, seen()));
            if !show {
                break;
            }
        }
    }
    if show {
        shown.push_str(&format!("{:.1} s\n", begun.elapsed().as_secs_f64()));
        let _ = std::io::stderr().write_all(shown.as_bytes());
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
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

/// Whether a line is one for people: `[time] [LEVEL] message`.
fn human(line: &str) -> bool {
    LEVELS.iter().any(|level| fits(&format!("[<time>] [{level}] <text>"), line))
}

/// How many log files a line writes: one a call of ours, unless the page says another number below it.
fn wanted_logs(step: &Step) -> usize {
    let count = |words: &str| step.line.matches(words).count();
    let silent = ["--help", "--version", "--list"].iter().any(|flag| step.line.contains(flag));
    // make has exit 2 of its own.
    let refused = step.exit == 2 && count("make ") == 0;
    let calls = count("make ") + SHIMS.iter().map(|shim| count(&format!("/{shim}"))).sum::<usize>();
    step.logs.unwrap_or(if silent || refused { 0 } else { calls })
}

/// That there are as many new log files as there have to be, each with its header and, below it, the very lines that were shown.
fn logged(step: &Step, ran: &Ran, new: &[PathBuf]) -> Result<(), String> {
    let wanted = wanted_logs(step);
    if new.len() != wanted {
        return Err(format!("wanted {wanted} new log files, there are {}: {new:?}", new.len()));
    }
    let mut bodies: Vec<String> = new.iter().map(|file| body(file)).collect::<Result<_, _>>()?;
    // What a tool has another one do stands in both logs.
    let inside = |one: &String, other: &String| {
        one.len() < other.len() && one.lines().all(|line| other.lines().any(|same| same == line))
    };
    let all = bodies.clone();
    bodies.retain(|one| !all.iter().any(|other| inside(one, other)));
    let shown = if step.line.contains("--json") { ran.stderr() } else { ran.stdout() };
    let logged = bodies.concat();
    // What other programs of the line print is not in the log.
    let lines: Vec<&str> = shown.lines().filter(|line| human(line)).collect();
    let result = if wanted == 0 {
        Ok(())
    } else if !hides(&step.line) {
        let whole = bodies.len() == 1 && !step.line.contains([';', '&']) && !step.line.contains("make ");
        let sorted = |mut lines: Vec<&str>| {
            lines.sort_unstable();
            lines.join("\n")
        };
        let same = if whole {
            logged == shown
        } else if bodies.len() == 1 {
            lines.iter().copied().eq(logged.lines())
        } else {
            sorted(lines) == sorted(logged.lines().collect())
        };
        if same { Ok(()) } else { Err("the log does not hold just what was shown".to_owned()) }
    } else if bodies.len() == 1 {
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        in_order("the log", &lines, &logged, false)
    } else {
        // Tools of a pipeline print side by side.
        let missing = lines.iter().find(|line| !logged.lines().any(|other| other == **line));
        missing.map_or(Ok(()), |line| Err(format!("shown and not in a log: {line}")))
    };
    result.map_err(|why| format!("{why}\n{logged}"))
}

/// Whether a line keeps something of what our tools print from being seen.
fn hides(line: &str) -> bool {
    line.contains(['|', '>', '`']) || line.contains("$(")
}

/// What stands in a log file below its header.
fn body(file: &Path) -> Result<String, String> {
    let name = file.display();
    let text = fs::read_to_string(file).map_err(|error| format!("{name}: {error}"))?;
    let rule = format!("{}\n", "=".repeat(60));
    let parts: Vec<&str> = text.splitn(3, &rule).collect();
    let ["", header, body] = parts[..] else {
        return Err(format!("no header in {name}:\n{text}"));
    };
    let keys: Vec<_> = header.lines().filter_map(|line| Some(line.split_once(": ")?.0)).skip(1).collect();
    if keys != ["Environment", "Started", "Database", "User", "Version", "Run"] {
        return Err(format!("another header in {name}:\n{header}"));
    }
    match body.lines().find(|line| !human(line)) {
        Some(line) => Err(format!("not of the form [time] [LEVEL] message in {name}: {line}")),
        None => Ok(body.to_owned()),
    }
}

/// Every log file of an installation, wherever it was told to put them; rollback.sh's own is none of the tools'.
fn logs(home: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(home).into_iter().flatten().flatten() {
        let path = entry.path();
        // Links lead out of it.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(logs(&path));
        } else if path.extension().is_some_and(|end| end == "log") && !path.ends_with("rollback.log") {
            found.insert(path);
        }
    }
    found
}
