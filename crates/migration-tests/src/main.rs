//! Proves an installation (these binaries, this server, these files) before the night of the migration.

mod args;
mod case;
mod ground;
mod junit;
mod lanes;
mod measures;
mod run;
mod suite;

use std::process::ExitCode;

use ms5_common::tool;

fn main() -> ExitCode {
    tool::run(&args::SPEC, module_path!(), env!("CARGO_PKG_VERSION"), run::run)
}
