//! `--rollback-point`: a backup and a script that brings it back, made by backup-manager before anything is locked or changed; and
//! the script of a backup that is there, after a failure.

use std::path::PathBuf;

use ms5_common::cli::{BACKUP_DIR, ENVIRONMENT, LOG_DIR, RESTORE_USER};
use ms5_common::clock;
use ms5_common::config::Settings;
use ms5_common::db::client::Client;
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::rollback_points::{self, FAILURE};
use ms5_common::tool::Context;
use ms5_common::{interrupt, sibling};

use crate::look::Seen;
use crate::plan::Step;
use crate::run::Input;

/// What a point is called that was given no name.
pub(crate) const NAME: &str = "migration";

/// The tool that makes it.
pub(crate) const BACKUP_MANAGER: &str = "backup-manager";

/// A rollback point that is there.
#[derive(Debug)]
pub(crate) struct Point {
    name: String,
    folder: PathBuf,
}

/// Whether there is anything to go back from.
pub(crate) fn is_needed(steps: &[Step]) -> bool {
    steps.iter().any(|step| matches!(step, Step::Apply { .. }))
}

/// Makes the point that was asked for, with what was seen before; none where no file is to be applied.
///
/// # Errors
/// That it cannot be made, or that nobody could go back to it. Then nothing was touched.
pub(crate) fn make(context: &Context, input: &Input, client: &mut Client) -> Result<Option<(Point, Seen)>> {
    let Some(name) = &input.options.rollback_point else { return Ok(None) };
    let seen = Seen::take(client, input)?;
    if !is_needed(&seen.steps(input)?) {
        log::info!("No file is to be applied: no rollback point is made");
        return Ok(None);
    }
    let untouched = |error: Error| error.because("no migration was begun; the database is as it was");
    let Some(_work) = interrupt::work() else {
        let exit = interrupt::requested().unwrap_or(Exit::Terminate);
        return Err(untouched(Error::new(exit, "stopped by a signal")));
    };
    log::info!("Making the rollback point {name} first");
    let point = call(context, arguments(context, &input.settings, name), untouched)?;
    Ok(Some((point, seen)))
}

/// Has the script of a backup that is there made, after a failure.
///
/// # Errors
/// Why it cannot be made.
pub(crate) fn of_backup(context: &Context, input: &Input, backup: &str) -> Result<Point> {
    let mut words = arguments(context, &input.settings, FAILURE.trim_end_matches('_'));
    words.push(format!("--of={backup}"));
    call(context, words, |error| error)
}

fn call(context: &Context, words: Vec<String>, told_as: impl Fn(Error) -> Error) -> Result<Point> {
    let told = sibling::run(BACKUP_MANAGER, &words, context)?;
    for line in &told.lines {
        context.recorder.pass_on(line);
    }
    told.ended_well("the rollback point could not be made").map_err(&told_as)?;
    let record = told.records.iter().find(|record| record["type"] == "rollback_point");
    let text = |key: &str| record.and_then(|record| record[key].as_str()).map(str::to_owned);
    match (text("name"), text("path")) {
        (Some(name), Some(path)) => Ok(Point { name, folder: path.into() }),
        _ => Err(told_as(Error::new(
            Exit::Bug,
            format!("{BACKUP_MANAGER} does not tell of the point it made"),
        ))
        .hint("is it of the same version as this runner? --version tells")),
    }
}

fn arguments(context: &Context, settings: &Settings, name: &str) -> Vec<String> {
    let mut words = vec![
        "rollback-point".to_owned(),
        name.to_owned(),
        format!("{}={}", ENVIRONMENT.name, settings.environment.defaults().name),
        format!("{}={}", BACKUP_DIR.name, settings.backup_dir.display()),
        format!("{}={}", LOG_DIR.name, settings.log_dir.display()),
    ];
    if let Some(role) = context.arguments.value(RESTORE_USER.name) {
        words.push(format!("{}={role}", RESTORE_USER.name));
    }
    words
}

impl Point {
    /// The command that goes back, after a failure: of rollback/migration_failure_STAMP, where the runbook looks for it.
    pub(crate) fn of_failure(&self, settings: &Settings) -> String {
        let name = format!("{FAILURE}{}", clock::file_stamp());
        let script = rollback_points::link(settings, &name, &self.folder).unwrap_or_else(|error| {
            log::warn!("{}/{name} cannot be made: {error}", rollback_points::SHORT);
            self.script()
        });
        format!("{} --force", script.display())
    }

    /// The script itself.
    pub(crate) fn script(&self) -> PathBuf {
        self.folder.join(rollback_points::SCRIPT)
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}
