//! Checks, before a migration, that this machine, the server and the files are ready for it.

mod args;
mod checks;
mod run;

use std::process::ExitCode;

fn main() -> ExitCode {
    ms5_common::tool::run(&args::SPEC, module_path!(), args::TOOL_VERSION, run::run)
}
