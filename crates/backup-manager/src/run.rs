//! The flow: settings, log, and the command that was asked for.

use ms5_common::config::Variables;
use ms5_common::error::Result;
use ms5_common::exit::Exit;
use ms5_common::tool::{Context, LogFile};

use crate::args::{Command, Options};
use crate::{clean, dump, export, list, offsite, restore, rollback, verify};

/// Where a run is written down.
const LOG: LogFile = LogFile { folder: "backup", name: "backup_rollback", title: "backup and rollback" };

/// The whole tool.
pub(crate) fn run(context: &Context) -> Result<Exit> {
    let options = Options::of(&context.arguments)?;
    let settings = context.begin(LOG)?;
    match &options.command {
        Command::Backup { name, kind } => offsite::made(context, &options, &settings, || {
            dump::run(context, &options, &settings, name, *kind, |_| Ok(()))
        }),
        Command::Verify { name } => verify::run(context, &options, &settings, name),
        Command::List => list::run(context, &options, &settings),
        Command::Restore { name } => restore::run(context, &options, &settings, name),
        Command::Clean { days } => clean::run(context, &options, &settings, *days),
        Command::RollbackPoint { name } => match &options.of {
            Some(backup) => rollback::point_of(context, &options, &settings, name, backup),
            None => offsite::made(context, &options, &settings, || {
                rollback::point(context, &options, &settings, name)
            }),
        },
        Command::Rollback { name } => rollback::back(context, &options, &settings, name),
        Command::Export { name } => export::run(context, &options, &settings, name),
        Command::Send { name } => offsite::send(context, &options, &settings, name),
        Command::Fetch { name } => offsite::fetch(context, &options, &settings, name.as_deref()),
        Command::RestoreFrom { name } => offsite::restore(context, &options, &settings, name.as_deref()),
        Command::VerifyFrom { name } => offsite::verify(context, &options, name.as_deref()),
    }
}

/// The person at the keyboard, as far as the environment tells.
pub(crate) fn who(variables: &Variables) -> String {
    ["SUDO_USER", "USER", "LOGNAME"]
        .iter()
        .find_map(|name| variables.get(name))
        .unwrap_or("unknown")
        .to_owned()
}
