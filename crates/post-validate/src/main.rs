//! Checks, after a migration, that everything promised is there and works, and leaves nothing behind.

mod args;
mod catalog;
mod checks;
mod plan;
mod probe;
mod run;

use std::process::ExitCode;

fn main() -> ExitCode {
    ms5_common::tool::run(&args::SPEC, module_path!(), args::TOOL_VERSION, run::run)
}
