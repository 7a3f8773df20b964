//! The flow of a run: read everything, check everything, then apply file after file.

use std::fs::File;
use std::io::{self, BufReader, IsTerminal};

use ms5_common::config::{self, Choices, Environment, Settings};
use ms5_common::db::connect::Connected;
use ms5_common::db::ledger::{self, Attempt, State};
use ms5_common::db::lock::{Mode, RunLock};
use ms5_common::db::server_error::reasons;
use ms5_common::db::session::{self, Server};
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::gate::Story;
use ms5_common::migrations::{self, Migration};
use ms5_common::timescale::{self, Extension};
use ms5_common::tool::Context;
use ms5_common::{clock, logging, success, troubleshooting};
use serde_json::json;
use sysinfo::System;

use crate::apply::{Outcome, Worker, first_words};
use crate::args::{Options, TOOL, TOOL_VERSION};
use crate::failure::Failure;
use crate::plan::{self, Known, Permissions, Step};
use crate::{status, system};

/// Everything a run has read before it connects.
struct Input {
    options: Options,
    settings: Settings,
    migrations: Vec<Migration>,
    digest: String,
    story: Option<Story>,
}

/// The whole tool.
pub(crate) fn run(context: &Context) -> Result<Exit> {
    let input = read(context)?;
    let mut connected = session::open(&input.settings, TOOL, "run")?;
    let server = session::identify(&mut connected.client, &input.settings)?;
    success!("Database connection successful");
    log::info!("Server: PostgreSQL {}, database {}", server.version, input.settings.database());
    context.recorder.start(Some(&server.identity), Some(&input.digest));
    if let Some(story) = &input.story {
        story
            .require("pre-validate", &input.digest, input.options.gate_max_age)?
            .same_database(&server.identity)?;
        success!("The gate is open: pre-validate passed on this database and these files");
    }
    let known: Vec<Known<'_>> = input.migrations.iter().map(known).collect();
    if input.options.status || input.options.dry_run {
        return look(context, &input, &known, &mut connected.client);
    }
    let (lock, client) = lock(&input, &server, connected)?;
    apply_all(context, &input, &known, Worker::new(&input.settings, client, lock))
}

/// Flags, variables, files and the gate: all that can be wrong before a server is asked.
fn read(context: &Context) -> Result<Input> {
    let options = Options::of(&context.arguments)?;
    if options.gate.as_deref() == Some("-") && io::stdin().is_terminal() {
        return Err(Error::new(Exit::Usage, "--gate=- reads records from stdin, which is a terminal")
            .hint("pre-validate --json | migration-runner --gate=-"));
    }
    let settings =
        config::load(Choices::of(&context.arguments), &context.variables, Environment::Production)?;
    let environment = settings.environment.defaults().name;
    context.recorder.environment(environment);
    logging::open_file(
        &settings.log_dir.join("migrations"),
        &format!("migration_{environment}_{}", clock::file_stamp()),
        &[
            ("MS5.0 migration log", TOOL.to_owned()),
            ("Environment", environment.to_owned()),
            ("Started", clock::line_time()),
            ("Database", settings.database()),
            ("User", settings.connection.user.clone()),
            ("Version", TOOL_VERSION.to_owned()),
            ("Run", context.recorder.run_id().to_owned()),
        ],
    );
    log::info!("Starting MS5.0 database migration process");
    log::info!("Environment: {environment}");
    log::info!("Dry run: {}", options.dry_run);
    // To the end, before anything is connected or locked: the whole pipeline started at once.
    let story = options.gate.as_deref().map(read_gate).transpose()?;
    for line in story.iter().flat_map(Story::lines) {
        context.recorder.pass_on(line);
    }
    system::check(&settings.home);
    let migrations = migrations::read_folder(&settings.migrations_dir, options.out_of_order)?;
    let digest = migrations::digest(&migrations);
    if let Some(story) = &story {
        story.require("pre-validate", &digest, options.gate_max_age)?;
    }
    let statements: usize = migrations.iter().map(Migration::statement_count).sum();
    log::info!(
        "Found {} migration files with {statements} statements in {}",
        migrations.len(),
        settings.migrations_dir.display()
    );
    Ok(Input { options, settings, migrations, digest, story })
}

fn read_gate(gate: &str) -> Result<Story> {
    if gate == "-" {
        return Story::read(io::stdin().lock());
    }
    let file = File::open(gate).map_err(|error| {
        Error::new(Exit::Config, format!("cannot read the records of {gate}"))
            .because(error)
            .hint("pre-validate --json > FILE writes them; then --gate=FILE")
    })?;
    Story::read(BufReader::new(file))
}

fn known(migration: &Migration) -> Known<'_> {
    Known {
        number: migration.number,
        name: &migration.title,
        file: &migration.file,
        checksum: &migration.checksum,
        idempotent: migration.idempotent,
    }
}

/// The advisory lock on a session of its own, with the session that works; no lock where there is but one session,
/// which only a test may allow.
fn lock(input: &Input, server: &Server, worker: Connected) -> Result<(Option<RunLock>, postgres::Client)> {
    let settings = &input.settings;
    if !server.single_session {
        let lock = session::open(settings, TOOL, "lock")?;
        let wait = input.options.lock_wait;
        return RunLock::acquire(settings, lock, worker, Mode::Exclusive, wait)
            .map(|(lock, client)| (Some(lock), client));
    }
    if input.options.single_session {
        log::warn!(
            "This server has one session only: running without the lock, as --unsafe-single-session says"
        );
        return Ok((None, worker.client));
    }
    Err(Error::new(Exit::Config, "this server has one session only and cannot hold the run's lock")
        .because("its backend pid is 0: PostgreSQL in WebAssembly, or something that stands in for a server")
        .because("nothing was touched")
        .hint("use a full PostgreSQL server; for a test on this one: --unsafe-single-session"))
}

/// A failed look at the database, before anything was touched.
fn unreadable(what: &str) -> impl Fn(postgres::Error) -> Error + '_ {
    move |error| {
        Error::new(Exit::Failed, format!("cannot read {what}"))
            .because_all(reasons(&error))
            .because("nothing was touched")
            .hint("give the role the rights that the server names, then run it again")
    }
}

/// `--status` and `--dry-run`: read and show, write nothing.
fn look(
    context: &Context,
    input: &Input,
    known: &[Known<'_>],
    client: &mut postgres::Client,
) -> Result<Exit> {
    let extension = timescale::extension(client).map_err(unreadable("the extension's state"))?;
    let state = ledger::state(client).map_err(unreadable("the ledger"))?;
    let entries = ledger::read(client, state).map_err(unreadable("the ledger"))?;
    let unfinished = ledger::unfinished(client, state).map_err(unreadable("the ledger"))?;
    let standings = plan::standings(known, &entries, &unfinished);
    if input.options.status {
        status::show(&context.recorder, known, &standings, &entries);
        return Ok(Exit::Done);
    }
    say_extension(&extension, &input.settings, true)?;
    match state {
        State::Absent => log::info!("Migration log table: not there; it would be created"),
        State::Old => log::info!("Migration log table: made by the old scripts; columns would be added"),
        State::Current => success!("Migration log table verified"),
    }
    let steps = plan::steps(known, &standings, &entries, permissions(&input.options))?;
    let mut would = 0;
    for (migration, step) in input.migrations.iter().zip(&steps) {
        let Step::Apply { again, .. } = step else {
            log::info!("Already applied: {}", migration.title);
            continue;
        };
        would += 1;
        let why = again.map(|why| format!(", again ({why})")).unwrap_or_default();
        log::info!(
            "Would execute: {} ({}, {} statements{why})",
            migration.title,
            migration.file,
            migration.statement_count()
        );
        for statement in migration.statements() {
            log::debug!("    {}:{} {}", migration.file, statement.head(), first_words(&statement.text));
        }
        context.recorder.emit(
            "migration",
            json!({
                "name": migration.title, "file": migration.file, "checksum": migration.checksum,
                "outcome": "would run", "statements": migration.statement_count(),
            }),
        );
    }
    context.recorder.count("would_run", would);
    success!("Dry run: {would} migrations would be executed; nothing was changed");
    Ok(Exit::Done)
}

fn permissions(options: &Options) -> Permissions {
    Permissions { force: options.force, out_of_order: options.out_of_order }
}

/// Says which TimescaleDB there is, and stops where the server has none.
fn say_extension(extension: &Extension, settings: &Settings, dry_run: bool) -> Result<()> {
    if extension.restoring {
        return Err(Error::new(Exit::Failed, "this database was left in the middle of a restore")
            .because("timescaledb.restoring is on: compressed rows are hidden and inserts are swallowed")
            .because("nothing was touched")
            .hint(
                "finish the restore, or end that state as a superuser: SELECT timescaledb_post_restore();",
            ));
    }
    match (&extension.installed, &extension.available) {
        (Some(version), _) => {
            success!("TimescaleDB extension verified (version: {version})");
            if !extension.community() {
                log::info!(
                    "TimescaleDB runs under the {} license: compression, policies and continuous aggregates are left out",
                    extension.license.as_deref().unwrap_or("Apache")
                );
            }
            Ok(())
        }
        (None, Some(version)) if dry_run => {
            log::info!("TimescaleDB extension: version {version} is available; it would be created");
            Ok(())
        }
        (None, Some(_)) => Ok(()),
        (None, None) => {
            let mut error =
                Error::new(Exit::Failed, "this server has no TimescaleDB").because("nothing was touched");
            for command in troubleshooting::extension_missing(settings) {
                error = error.hint(command);
            }
            Err(error)
        }
    }
}

fn apply_all(context: &Context, input: &Input, known: &[Known<'_>], mut worker: Worker<'_>) -> Result<Exit> {
    let client = worker.client();
    let mut extension = timescale::extension(client).map_err(unreadable("the extension's state"))?;
    let state = ledger::state(client).map_err(unreadable("the ledger"))?;
    let entries = ledger::read(client, state).map_err(unreadable("the ledger"))?;
    let unfinished = ledger::unfinished(client, state).map_err(unreadable("the ledger"))?;
    let standings = plan::standings(known, &entries, &unfinished);
    let steps = plan::steps(known, &standings, &entries, permissions(&input.options))?;

    say_extension(&extension, &input.settings, false)?;
    if extension.installed.is_none() {
        log::info!("Creating the extension timescaledb");
        timescale::create_extension(client)?;
        extension = timescale::extension(client).map_err(unreadable("the extension's state"))?;
        say_extension(&extension, &input.settings, false)?;
    }
    if state != State::Current {
        ledger::ensure(client).map_err(|error| {
            Error::new(
                Exit::Failed,
                "cannot create the ledger (public.migration_log, public.migration_attempts)",
            )
            .because_all(reasons(&error))
            .because("no migration was begun")
            .hint(
                "the role needs CREATE on schema public, and must own a migration_log that is there already",
            )
        })?;
    } else if !unfinished.is_empty() {
        ledger::close_interrupted(client).map_err(unreadable("the ledger"))?;
    }
    success!("Migration log table created/verified");
    for name in &unfinished {
        log::warn!(
            "An earlier run ended in the middle of {name}; its transaction was rolled back, nothing of it is left"
        );
    }

    let host = System::host_name().unwrap_or_else(|| "unknown".to_owned());
    let mut tally = Tally::default();
    for (migration, step) in input.migrations.iter().zip(&steps) {
        let Step::Apply { again, keep } = *step else {
            log::info!("Migration {} already applied, skipping", migration.title);
            tally.skipped += 1;
            continue;
        };
        let why = again.map(|why| format!(" again: {why}")).unwrap_or_default();
        log::info!("Executing migration {} ({}){why}", migration.title, migration.file);
        for warning in &migration.warnings {
            log::warn!("{}: {warning}", migration.file);
        }
        let attempt = Attempt {
            name: &migration.title,
            file: &migration.file,
            checksum: &migration.checksum,
            run_id: context.recorder.run_id(),
            tool_version: TOOL_VERSION,
            host: &host,
        };
        let (outcome, milliseconds, stop) = match worker.apply(migration, attempt, keep)? {
            Outcome::Applied { milliseconds } => {
                success!("✅ Migration {} completed successfully ({milliseconds}ms)", migration.title);
                tally.applied.push(migration.title.clone());
                ("applied", milliseconds, false)
            }
            Outcome::Failed { failure, milliseconds } => {
                say_failure(&failure.error);
                context.recorder.emit("finding", finding(migration, &failure));
                tally.failed.push(migration.title.clone());
                let go_on = input.options.force;
                if go_on {
                    log::warn!("Going on after the failure, as --force says");
                }
                ("failed", milliseconds, !go_on)
            }
            Outcome::Unknown { error } => {
                say_failure(&error);
                tally.unknown = Some(migration.title.clone());
                ("unknown", 0, true)
            }
        };
        context.recorder.emit(
            "migration",
            json!({
                "name": migration.title, "file": migration.file, "checksum": migration.checksum,
                "outcome": outcome, "milliseconds": milliseconds, "statements": migration.statement_count(),
            }),
        );
        if stop {
            break;
        }
    }
    Ok(tally.conclude(context, input))
}

/// A failed migration as data.
fn finding(migration: &Migration, failure: &Failure) -> serde_json::Value {
    let place = failure.place.as_ref();
    let error = &failure.error;
    json!({
        "id": "migration-failed",
        "level": "error",
        "file": place.map_or(migration.file.as_str(), |place| place.file.as_str()),
        "line": place.map(|place| place.line),
        "column": place.map(|place| place.column),
        "message": error.lines().join("\n"),
        "remedy": "mend the cause, then run it again: it goes on at this file",
        "sqlstate": error.sqlstate(),
    })
}

fn say_failure(error: &Error) {
    log::error!("❌ {}", error.message());
    for line in error.reasons() {
        log::error!("{line}");
    }
    for hint in error.hints() {
        log::error!("Next: {hint}");
    }
}

/// What a run has done so far.
#[derive(Default)]
struct Tally {
    applied: Vec<String>,
    skipped: usize,
    failed: Vec<String>,
    unknown: Option<String>,
}

impl Tally {
    /// The summary, what to do next, and the exit code.
    fn conclude(&self, context: &Context, input: &Input) -> Exit {
        let total = input.migrations.len();
        let done =
            self.applied.len() + self.skipped + self.failed.len() + usize::from(self.unknown.is_some());
        context.recorder.count("applied", self.applied.len());
        context.recorder.count("skipped", self.skipped);
        context.recorder.count("failed", self.failed.len());
        context.recorder.count("not_begun", total - done);
        log::info!(
            "Summary: {} applied, {} already applied, {} failed, {} not begun, of {total} migrations",
            self.applied.len(),
            self.skipped,
            self.failed.len(),
            total - done
        );
        if let Some(name) = &self.unknown {
            log::error!("Stopped: it is not known whether {name} was committed");
            return Exit::Partial;
        }
        let Some(first) = self.failed.first() else {
            success!("🎉 All migrations completed successfully!");
            return Exit::Done;
        };
        log::error!(
            "Nothing of {} is in the database: each failed file was rolled back whole",
            self.failed.join(", ")
        );
        if !self.applied.is_empty() {
            log::error!("Applied by this run, and staying: {}", self.applied.join(", "));
        }
        log::error!("Next: mend the cause of {first}; then run it again: it goes on there");
        log::error!("To see the ledger: {}", troubleshooting::show_ledger(&input.settings));
        if input.options.force { Exit::Partial } else { Exit::Failed }
    }
}
