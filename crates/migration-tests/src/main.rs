//! Proves an installation (these binaries, this server, these files) before the night of the migration.
//!
//! Not built yet: it parses its arguments, prints its help, and says so for the rest.

mod args;

use std::process::ExitCode;

use ms5_common::error::Error;
use ms5_common::exit::Exit;
use ms5_common::tool;

fn main() -> ExitCode {
    tool::run(&args::SPEC, module_path!(), env!("CARGO_PKG_VERSION"), |_| {
        Err(Error::new(Exit::Bug, "migration-tests is not built yet").because("nothing was touched"))
    })
}
