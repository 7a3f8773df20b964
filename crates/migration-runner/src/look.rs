//! `--status` and `--dry-run`: read and show, write nothing.

use ms5_common::config::Settings;
use ms5_common::db::client::Client;
use ms5_common::db::ledger::{self, Entry, LastAttempt, State};
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::timescale::{self, Extension, jobs};
use ms5_common::tool::Context;
use ms5_common::{success, troubleshooting};
use serde_json::json;

use crate::plan::{self, Known, Standing, Step, last_of};
use crate::run::{Input, unreadable};
use crate::secret::first_words;
use crate::{rollback_point, status};

/// What the database says before anything is touched.
pub(crate) struct Seen {
    pub(crate) extension: Extension,
    pub(crate) state: State,
    pub(crate) entries: Vec<Entry>,
    pub(crate) last: Vec<LastAttempt>,
    /// Jobs that an earlier run has paused.
    pub(crate) paused: Vec<String>,
}

impl Seen {
    /// Looks.
    pub(crate) fn take(client: &mut Client, input: &Input) -> Result<Self> {
        let extension = timescale::extension(client).map_err(unreadable("the extension's state"))?;
        if !matches!(input.options.mode, crate::args::Mode::Status) {
            refuse_restoring(&extension)?;
        }
        let state = ledger::state(client).map_err(unreadable("the ledger"))?;
        let entries = ledger::read(client, state).map_err(unreadable("the ledger"))?;
        let last = ledger::last_attempts(client, state).map_err(unreadable("the ledger"))?;
        let paused = match state {
            State::Current => jobs::paused(client).map_err(unreadable("the paused jobs"))?,
            _ => Vec::new(),
        };
        Ok(Self { extension, state, entries, last, paused })
    }

    /// How each file stands.
    pub(crate) fn standings(&self, known: &[Known<'_>]) -> Vec<Standing> {
        let open = |known: &&Known<'_>| last_of(known, &self.last).is_some_and(|last| last.unfinished);
        let unfinished: Vec<String> = known.iter().filter(open).map(|known| known.name.to_owned()).collect();
        plan::standings(known, &self.entries, &unfinished)
    }

    /// What is to be done to each file.
    pub(crate) fn steps(&self, input: &Input) -> Result<Vec<Step>> {
        let known = input.known();
        plan::steps(&known, &self.standings(&known), &self.entries, input.permissions())
    }
}

/// `--status`.
pub(crate) fn status(context: &Context, input: &Input, seen: &Seen) -> Exit {
    let known = input.known();
    let standings = seen.standings(&known);
    if let Err(restoring) = refuse_restoring(&seen.extension) {
        restoring.lines().iter().for_each(|line| log::warn!("{line}"));
    }
    status::show(&context.recorder, &known, &standings, seen);
    let all = standings.iter().all(|standing| *standing == Standing::Applied);
    if input.options.exit_code && !all { Exit::Failed } else { Exit::Done }
}

/// `--dry-run`.
pub(crate) fn dry_run(context: &Context, input: &Input, seen: &Seen) -> Result<Exit> {
    say_extension(&seen.extension, &input.settings, true)?;
    match seen.state {
        State::Absent => log::info!("Migration log table: not there; it would be created"),
        State::Old => log::info!("Migration log table: made by the old scripts; columns would be added"),
        State::Earlier => {
            log::info!("Migration log table: of an earlier version; what is new would be added");
        }
        State::Current => success!("Migration log table verified"),
    }
    let steps = seen.steps(input)?;
    if let Some(name) = input.options.rollback_point.as_ref().filter(|_| rollback_point::is_needed(&steps)) {
        log::info!("Would make the rollback point {name} first");
    }
    let mut would = 0;
    for (migration, step) in input.migrations.iter().zip(&steps) {
        let again = match step {
            Step::Skip => {
                log::info!("Already applied: {}", migration.title);
                continue;
            }
            Step::Beyond => {
                log::info!("Beyond the target: {}", migration.title);
                continue;
            }
            Step::Apply { again, .. } => again,
        };
        would += 1;
        let why = again.map(|why| format!(", again ({why})")).unwrap_or_default();
        log::info!(
            "Would execute: {} ({}, {} statements{}{why})",
            migration.title,
            migration.file,
            migration.statement_count(),
            if migration.stepwise { ", statement by statement" } else { "" },
        );
        for statement in migration.statements() {
            log::debug!("    {}:{} {}", migration.file, statement.head(), first_words(statement));
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

/// A database in the middle of a restore hides rows and swallows inserts.
fn refuse_restoring(extension: &Extension) -> Result<()> {
    if extension.restoring { Err(timescale::left_restoring(extension)) } else { Ok(()) }
}

/// Says which TimescaleDB there is, and stops where the server has none.
pub(crate) fn say_extension(extension: &Extension, settings: &Settings, dry_run: bool) -> Result<()> {
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
