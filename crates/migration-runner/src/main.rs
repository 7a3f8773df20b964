//! Applies the migrations of a folder in order, each in one transaction with its ledger row.

mod apply;
mod args;
mod failure;
mod plan;
mod run;
mod status;
mod system;

use std::process::ExitCode;

fn main() -> ExitCode {
    ms5_common::tool::run(&args::SPEC, module_path!(), args::TOOL_VERSION, run::run)
}
