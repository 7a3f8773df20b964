//! The command line of migration-tests.

use ms5_common::cli::{ENVIRONMENT, Flag, HELP, JSON, LOG_DIR, Spec, VERBOSE, VERSION};

/// Flags as the old script had them, and what all tools share.
pub(crate) const SPEC: Spec = Spec {
    tool: "migration-tests",
    about: "Proves an installation (these binaries, this server, these files) before the night of the migration.",
    usage: "[FLAGS]",
    flags: &[
        ENVIRONMENT.default("test"),
        Flag::switch("--no-cleanup", "Leave what the tests made, and say how to remove it"),
        Flag::switch("--parallel", "Run tests side by side"),
        VERBOSE,
        JSON,
        LOG_DIR,
        HELP,
        VERSION,
    ],
    positionals: &[],
    epilog: "This tool is not built yet: beyond --help and --version it ends with exit 70 and touches nothing.",
};
