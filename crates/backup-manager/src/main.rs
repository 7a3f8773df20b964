//! Backs the database up, proves the backup, and brings it back.

mod archive;
mod args;
mod aside;
mod clean;
mod dump;
mod export;
mod folder;
mod list;
mod offsite;
mod remake;
mod restore;
mod rollback;
mod rows;
mod run;
mod seal;
mod sessions;
mod sqltext;
mod store;
mod verify;
mod words;

use std::process::ExitCode;

use ms5_common::tool;

fn main() -> ExitCode {
    tool::run(&args::SPEC, module_path!(), args::TOOL_VERSION, run::run)
}
