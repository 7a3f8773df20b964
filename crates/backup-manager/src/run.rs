//! The flow: settings, log, and the command that was asked for.

use std::path::PathBuf;

use ms5_common::clock;
use ms5_common::config::{self, Choices, Environment, Settings, Variables};
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::logging;
use ms5_common::timescale::Extension;
use ms5_common::tool::Context;

use crate::args::{Command, Options, TOOL, TOOL_VERSION};
use crate::{clean, dump, list, restore, rollback, verify};

/// The whole tool.
pub(crate) fn run(context: &Context) -> Result<Exit> {
    let options = Options::of(&context.arguments)?;
    let settings =
        config::load(Choices::of(&context.arguments), &context.variables, Environment::Production)?;
    if let Some(file) = &options.report {
        context.recorder.report_to(file.as_ref())?;
    }
    begin(context, &settings);
    match &options.command {
        Command::Backup { name } => dump::run(context, &options, &settings, name).map(|_| Exit::Done),
        Command::Verify { name } => verify::run(context, &options, &settings, name),
        Command::List => list::run(context, &options, &settings),
        Command::Restore { name } => restore::run(context, &options, &settings, name),
        Command::Clean { days } => clean::run(context, &options, &settings, *days),
        Command::RollbackPoint { name } => rollback::point(context, &options, &settings, name),
        Command::Rollback { name } => rollback::back(context, &options, &settings, name),
    }
}

fn begin(context: &Context, settings: &Settings) {
    let environment = settings.environment.defaults().name;
    context.recorder.environment(environment);
    logging::open_file(
        &settings.log_dir.join("backup"),
        &format!("backup_rollback_{environment}_{}", clock::file_stamp()),
        &[
            ("MS5.0 backup and rollback log", TOOL.to_owned()),
            ("Environment", environment.to_owned()),
            ("Started", clock::line_time()),
            ("Database", settings.database()),
            ("User", settings.connection.user.clone()),
            ("Version", TOOL_VERSION.to_owned()),
            ("Run", context.recorder.run_id().to_owned()),
        ],
    );
}

/// Where the backups lie.
pub(crate) fn backup_dir(options: &Options, settings: &Settings) -> PathBuf {
    options.backup_dir.as_ref().map_or_else(|| settings.home.join("backups"), PathBuf::from)
}

/// The person at the keyboard, as far as the environment tells.
pub(crate) fn who(variables: &Variables) -> String {
    ["SUDO_USER", "USER", "LOGNAME"]
        .iter()
        .find_map(|name| variables.get(name))
        .unwrap_or("unknown")
        .to_owned()
}

/// Refuses a database that a restore has left in the middle: it hides compressed rows and swallows inserts.
///
/// # Errors
/// [`Exit::Failed`] with the remedy.
pub(crate) fn refuse_restoring(extension: &Extension, settings: &Settings) -> Result<()> {
    if !extension.restoring {
        return Ok(());
    }
    let schema = extension.schema.as_deref().unwrap_or("public");
    Err(Error::new(Exit::Failed, format!("{} is in the middle of a restore", settings.database()))
        .because("timescaledb.restoring is on: compressed rows are hidden, so a backup would miss them")
        .because("nothing was touched")
        .hint(format!(
            "if that restore is over, as a superuser: SELECT {schema}.timescaledb_post_restore();"
        )))
}
