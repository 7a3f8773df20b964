//! The flow: choose tests, find a server, make the tests, say how they ended.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ms5_common::cli::{ENVIRONMENT, HTML};
use ms5_common::config::{self, Choices, Environment, Settings};
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::tool::{Context, LogFile};
use ms5_common::whole_file::WholeFile;
use ms5_common::{clock, interrupt, machine, migrations, sibling, success};
use serde_json::{Value, json};

use crate::args::{JUNIT, Options, TOOL};
use crate::ground::{Ground, Sandbox, edition};
use crate::junit;
use crate::lanes::{self, Made, Outcome};
use crate::measures::{History, Measure};
use crate::suite::{self, Category, Test};

/// Where a run is written down.
const LOG: LogFile = LogFile { folder: "tests", name: "migration_tests", title: "migration test suite" };
/// The other tools.
const TOOLS: [&str; 4] = ["migration-runner", "pre-validate", "post-validate", "backup-manager"];

/// The whole tool.
pub(crate) fn run(context: &Context) -> Result<Exit> {
    let begun = Instant::now();
    let options = Options::of(&context.arguments)?;
    let tests: Vec<(&'static Category, &'static Test)> =
        suite::all().filter(|(_, test)| options.wants(test.id)).collect();
    if tests.is_empty() {
        return Err(Error::new(
            Exit::Usage,
            format!("no test has {:?} in its name", options.filter.join(",")),
        )
        .hint("migration-tests --list shows them all"));
    }
    if options.list {
        let lines: Vec<String> =
            tests.iter().map(|(_, test)| format!("{:28} {}", test.id, test.title)).collect();
        // A reader that went away has seen what it wanted.
        let _ = writeln!(std::io::stdout().lock(), "{}", lines.join("\n"));
        return Ok(Exit::Done);
    }
    let choices = Choices::of(&context.arguments);
    let settings = config::load(choices, &context.variables, Environment::Test)?;
    // By the flag alone: a variable may be what another command has left.
    let named = context.arguments.value(ENVIRONMENT.name).is_some();
    if settings.environment == Environment::Production && !(options.yes && named) {
        return Err(Error::new(Exit::Usage, "under --environment=production tests run only with --yes")
            .because("they make databases of their own on that server, and load it")
            .because("the flag has to stand on the command line: a variable may be another command's")
            .hint("test another server first; then: migration-tests --environment=production --yes"));
    }
    let _work = interrupt::work()
        .ok_or_else(|| Error::new(Exit::Interrupt, "stopped by a signal before anything was begun"))?;
    let junit = results_file(&options)?;
    let made = Mutex::new(Vec::new());
    let done = proven(context, &options, &tests, choices, settings, begun, &made);
    if let Some(junit) = junit {
        let made = made.into_inner().unwrap_or_else(PoisonError::into_inner);
        write_results(junit, &tests, &made, &done, options.strict, begun);
    }
    done
}

/// Every test that was made: how it ended, and its record.
type Records = Mutex<Vec<(Outcome, Value)>>;

/// Finds the server and makes the tests; what was made stands in `all`, whatever the end.
fn proven(
    context: &Context,
    options: &Options,
    wanted: &[(&'static Category, &'static Test)],
    choices: Choices<'_>,
    settings: Settings,
    begun: Instant,
    all: &Records,
) -> Result<Exit> {
    let tools = tools(context)?;
    let sandbox = if is_named(&settings, context) {
        None
    } else {
        log::info!("No server is named: starting a private one");
        Some(Sandbox::start(&settings.home, options.cleanup)?)
    };
    let variables = context
        .variables
        .with(sandbox.iter().flat_map(Sandbox::variables).map(|(name, value)| (name.clone(), value.clone())));
    let settings = config::load(choices, &variables, Environment::Test)?;
    context.begin_as(&settings, LOG)?;
    let folder = settings.log_dir.join(LOG.folder);
    let page = page(context, &folder);
    log::info!("Starting MS5.0 migration test suite");
    log::info!("Environment: {}", settings.environment.defaults().name);
    let ground = Ground::open(settings.clone(), &variables, sandbox.as_ref(), options, tools)?;
    let options = &Options { jobs: ground.lanes(options.jobs).unwrap_or(options.jobs), ..options.clone() };
    introduce(context, &ground, &settings, sandbox.is_some(), options);
    if !ground.has_field() && wanted.iter().any(|(_, test)| test.start.is_field()) {
        log::warn!("Tests that begin with the database in the field begin with an empty one");
        log::warn!("{}", ground.no_field());
    }
    log::info!("{} tests, {} at a time", wanted.len(), options.jobs);

    let history = History::read(&folder, ground.environment(), &place(&ground, sandbox.is_some()));
    let measured: Mutex<Vec<Measure>> = Mutex::new(Vec::new());
    lanes::run(&ground, wanted, options.jobs, options.timeout, begun, |mut made| {
        for measure in &made.measures {
            let (record, worse) = history.compare(made.id, measure);
            if let Some(worse) = worse {
                made.reasons.push(worse);
                if made.outcome == Outcome::Passed {
                    made.outcome = Outcome::Warned;
                }
            }
            context.recorder.emit("measure", record);
        }
        measured.lock().unwrap_or_else(PoisonError::into_inner).append(&mut made.measures);
        tell(&made);
        let record = made.to_json();
        context.recorder.emit("test", record.clone());
        all.lock().unwrap_or_else(PoisonError::into_inner).push((made.outcome, record));
    });
    let mut left = ground.end();
    if !options.cleanup {
        left.extend(sandbox.as_ref().map(Sandbox::removal));
    }
    let remains = options.cleanup && !left.is_empty();
    if remains {
        log::warn!("Could not be removed; remove it with:");
        left.iter().for_each(|line| log::warn!("  {line}"));
    } else if !options.cleanup {
        log::info!("Left as asked; remove it with:");
        left.iter().for_each(|line| log::info!("  {line}"));
    }
    if let Some(exit) = interrupt::requested() {
        let rest = match (options.cleanup, remains) {
            (true, false) => "what the tests had made is removed",
            (true, true) => "not all that the tests had made could be removed",
            (false, _) => "what they had made is left as asked",
        };
        return Err(Error::new(exit, format!("stopped by a signal; {rest}")));
    }
    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
    // In the suite's order, whatever ended first.
    all.sort_by_key(|(_, record)| wanted.iter().position(|(_, test)| record["id"] == test.id));
    let measured = measured.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Err(error) = history.add(context.recorder.run_id(), &clock::record_time(), &measured) {
        log::warn!("The measures of this run are not kept for the next ones: {error}");
    }
    if let Some(page) = page {
        log::info!("Report: {}", page.display());
    }
    Ok(conclude(context, &all, remains, options.strict, begun))
}

/// Where the page of the results will be: `--html`, or in the folder of the logs, without which the tests are made all the same.
fn page(context: &Context, folder: &Path) -> Option<PathBuf> {
    if let Some(named) = context.arguments.value(HTML.name) {
        return Some(PathBuf::from(named));
    }
    let page = free_name(folder, &clock::file_stamp());
    match context.recorder.page_to(&page) {
        Ok(()) => Some(page),
        Err(error) => {
            log::warn!("There will be no page: {}", error.lines().join("; "));
            None
        }
    }
}

/// A name that no page has: two runs may begin in one second.
fn free_name(folder: &Path, stamp: &str) -> PathBuf {
    let mut page = folder.join(format!("test_report_{stamp}.html"));
    let mut number = 2;
    while page.exists() {
        page = folder.join(format!("test_report_{stamp}_{number}.html"));
        number += 1;
    }
    page
}

/// Whether a server is named: by any variable, or by another environment than test.
fn is_named(settings: &Settings, context: &Context) -> bool {
    let password = settings.environment.defaults().password_variable;
    let names = ["DB_HOST", "DB_PORT", "DB_NAME", "DB_USER", password];
    settings.environment != Environment::Test
        || names.iter().any(|name| context.variables.get(name).is_some())
}

/// The folder of the other tools, all of which must be there: an installation is proven as a whole.
fn tools(context: &Context) -> Result<PathBuf> {
    let found = TOOLS.map(|tool| sibling::find(tool, &context.variables));
    let mut folders = BTreeSet::new();
    for path in found {
        folders.extend(path?.parent().map(config::absolute));
    }
    match (folders.pop_first(), folders.pop_first()) {
        (Some(folder), None) => Ok(folder),
        (one, other) => Err(Error::new(Exit::Config, "the tools are not all in one folder")
            .because_all([one, other].into_iter().flatten().map(|folder| folder.display().to_string()))
            .because("nothing was touched")
            .hint("install all five into one folder, or name it with MS5_BIN_DIR")),
    }
}

/// What a tool says of its version; None where it says nothing of the kind, which a test finds.
fn version_of(path: &Path, tool: &str) -> Option<String> {
    let handle =
        duct::cmd!(path, "--version").stdin_null().stdout_capture().stderr_null().unchecked().start().ok()?;
    let Ok(Some(said)) = handle.wait_timeout(Duration::from_secs(10)) else {
        let _ = handle.kill();
        return None;
    };
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    Some(said.strip_prefix(tool)?.trim().to_owned())
}

/// What tells this server's figures from those of others: a private one is another one each time, on the same kind of machine. The
/// machine's name says nothing of how fast it is, and a container has another one each time. Other files, or another database in
/// the field, are other work.
fn place(ground: &Ground<'_>, sandbox: bool) -> String {
    let server = if sandbox { "sandbox" } else { ground.server.identity.system_identifier.as_str() };
    let timescaledb = ground.extension.available.as_deref().unwrap_or("none");
    format!(
        "{server} from {} x {}, PostgreSQL {}, TimescaleDB {timescaledb}, files {}",
        machine::processors(),
        machine::processor(),
        ground.server.version,
        ground.digest()
    )
}

/// The first records, and the first lines.
fn introduce(context: &Context, ground: &Ground<'_>, settings: &Settings, sandbox: bool, options: &Options) {
    let digest = migrations::read_folder(&settings.migrations_dir, true, &[])
        .ok()
        .map(|files| migrations::digest(&files));
    context.recorder.start(Some(&ground.server.identity), digest.as_deref());
    let timescaledb = ground.extension.available.as_deref();
    let license = edition::license(ground);
    let others =
        TOOLS.map(|tool| (tool, version_of(&ground.tools.join(tool), tool), ground.tools.join(tool)));
    let own =
        (TOOL, Some(context.recorder.version().to_owned()), std::env::current_exe().unwrap_or_default());
    let tools: Vec<_> = others
        .into_iter()
        .chain([own])
        .map(|(tool, version, path)| json!({ "tool": tool, "version": version.unwrap_or_default(), "path": path.display().to_string() }))
        .collect();
    context.recorder.emit(
        "installation",
        json!({
            "machine": {
                "host": machine::host_name(),
                "os": machine::system(),
                "kernel": machine::kernel(),
                "processor": machine::processor(),
                "processors": machine::processors(),
                "memory_bytes": machine::memory().total,
            },
            "server": ground.server.version,
            "timescaledb": timescaledb,
            "license": license,
            "tools": tools,
            "sandbox": sandbox,
            "jobs": options.jobs,
        }),
    );
    log::info!(
        "Server: PostgreSQL {}, TimescaleDB {} ({}), {}:{}",
        ground.server.version,
        timescaledb.unwrap_or("not there"),
        license.as_deref().unwrap_or("licence not known"),
        settings.connection.host,
        settings.connection.port
    );
}

fn tell(made: &Made) {
    let took = format!("{}.{:03} s", made.took.as_secs(), made.took.subsec_millis());
    let reasons = || made.reasons.iter().map(|reason| format!("   {reason}"));
    let notes = || made.notes.iter().for_each(|note| log::info!("   {note}"));
    match made.outcome {
        Outcome::Passed => success!("✅ {} ({took})", made.id),
        Outcome::Warned => {
            log::warn!("{} passed, but ({took})", made.id);
            reasons().for_each(|line| log::warn!("{line}"));
        }
        Outcome::Failed => {
            log::error!("❌ {} failed ({took})", made.id);
            reasons().for_each(|line| log::error!("{line}"));
        }
        Outcome::Skipped => {
            log::warn!("{} could not be made here ({took})", made.id);
            reasons().for_each(|line| log::warn!("{line}"));
        }
    }
    notes();
}

/// Makes the file of `--junit`, before anything is begun.
fn results_file(options: &Options) -> Result<Option<WholeFile>> {
    let Some(path) = &options.junit else { return Ok(None) };
    let results = WholeFile::create(Path::new(path)).map_err(|error| {
        Error::new(Exit::Config, format!("cannot write {path}"))
            .because(error)
            .because("nothing was touched")
            .hint(format!("name a file in a folder that you may write to: {JUNIT}=FILE"))
    })?;
    Ok(Some(results))
}

/// Writes them, in the suite's order, whatever ended first; and that the run was stopped, failed, or proved nothing, which no test
/// of it would say.
fn write_results(
    mut results: WholeFile,
    tests: &[(&'static Category, &'static Test)],
    made: &[(Outcome, Value)],
    done: &Result<Exit>,
    strict: bool,
    begun: Instant,
) {
    let of = |id: &str| made.iter().find(|(_, record)| record["id"] == id).map(|(_, record)| record.clone());
    let records: Vec<_> = tests.iter().filter_map(|(_, test)| of(test.id)).collect();
    let trouble = match done {
        Err(error) => Some(format!(
            "{}\n{} of {} tests were made",
            error.lines().join("\n"),
            records.len(),
            tests.len()
        )),
        Ok(_) if nothing_proven(made) => Some(NOTHING_PROVEN.to_owned()),
        Ok(_) => match Unproven::of(made).categories {
            none if none.is_empty() => None,
            categories => Some(format!("not proven: {}", categories.join(", "))),
        },
    };
    results.put(junit::xml(&records, begun.elapsed().as_secs_f64(), strict, trouble.as_deref()).trim_end());
    if let Err(unfinished) = results.finish() {
        log::warn!("{unfinished}");
    }
}

/// What is said where no test could be made.
const NOTHING_PROVEN: &str = "Migration tests proved nothing: none of them could be made here";

fn nothing_proven(made: &[(Outcome, Value)]) -> bool {
    made.iter().all(|(outcome, _)| *outcome == Outcome::Skipped)
}

/// The end in words, and the exit code.
fn conclude(
    context: &Context,
    all: &[(Outcome, Value)],
    remains: bool,
    strict: bool,
    begun: Instant,
) -> Exit {
    let count = |wanted: Outcome| all.iter().filter(|(outcome, _)| *outcome == wanted).count();
    for outcome in Outcome::ALL {
        context.recorder.count(outcome.word(), count(outcome));
    }
    let [passed, warned, failed, skipped] = Outcome::ALL.map(count);
    log::info!(
        "{} tests in {:.1} s: {passed} passed, {warned} passed with a warning, {failed} failed, {skipped} could not be made",
        all.len(),
        begun.elapsed().as_secs_f64()
    );
    let Unproven { categories, tests } = Unproven::of(all);
    let names = categories.iter().chain(&tests).cloned().collect::<Vec<_>>().join(", ");
    let mut unproven = if names.is_empty() { String::new() } else { format!("; not proven: {names}") };
    if remains {
        unproven += "; not all that was made could be removed";
    }
    if nothing_proven(all) {
        log::error!("❌ {NOTHING_PROVEN}{unproven}");
        return Exit::Failed;
    }
    if failed > 0 || (strict && (warned + skipped > 0 || remains)) {
        log::error!("❌ Migration tests failed: this installation is not proven{unproven}");
        return Exit::Failed;
    }
    if !categories.is_empty() {
        log::error!("❌ Migration tests failed{unproven}");
        return Exit::Failed;
    }
    success!("✅ Migration tests passed{unproven}");
    Exit::Done
}

/// What could not be made: whole categories, and tests of others.
#[derive(Debug, PartialEq, Eq)]
struct Unproven {
    categories: Vec<String>,
    tests: Vec<String>,
}

impl Unproven {
    fn of(all: &[(Outcome, Value)]) -> Self {
        let text = |record: &Value, key: &str| record[key].as_str().unwrap_or_default().to_owned();
        let category = |made: &(Outcome, Value)| text(&made.1, "category");
        let seen: BTreeSet<String> =
            all.iter().filter(|(outcome, _)| *outcome != Outcome::Skipped).map(category).collect();
        let skipped = || all.iter().filter(|(outcome, _)| *outcome == Outcome::Skipped);
        let categories: BTreeSet<String> =
            skipped().map(category).filter(|name| !seen.contains(name)).collect();
        let tests = skipped().filter(|made| seen.contains(&category(made)));
        Self {
            tests: tests.map(|(_, record)| text(record, "id")).collect(),
            categories: categories.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_category_of_which_nothing_was_made_is_named_as_such() {
        let made = |outcome, id: &str| (outcome, json!({ "id": id, "category": id.split('.').next() }));
        let all = [
            made(Outcome::Passed, "a.one"),
            made(Outcome::Skipped, "a.two"),
            made(Outcome::Skipped, "b.one"),
            made(Outcome::Skipped, "b.two"),
        ];
        let Unproven { categories, tests } = Unproven::of(&all);
        assert_eq!((categories.join(","), tests.join(",")), ("b".to_owned(), "a.two".to_owned()));
    }
}
