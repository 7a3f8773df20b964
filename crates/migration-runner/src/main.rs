//! Applies the migrations of a folder in order, each in one transaction with its ledger row where that is possible.

mod adopt;
mod apply;
mod args;
mod cluster_wide;
mod execute;
mod explain;
mod failure;
mod kept;
mod locked;
mod look;
mod plan;
mod prepare;
mod prove;
mod repair;
mod retry;
mod rollback_point;
mod run;
mod schedule;
mod secret;
mod sessions;
mod status;
mod summary;
mod system;
mod touched;
mod watch;
mod way_back;

use std::process::ExitCode;

fn main() -> ExitCode {
    ms5_common::tool::run(&args::SPEC, module_path!(), args::TOOL_VERSION, run::run)
}
