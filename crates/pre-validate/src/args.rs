//! The command line of pre-validate.

use ms5_common::cli::{ENVIRONMENT, Flag, HELP, JSON, LOG_DIR, MIGRATIONS_DIR, Spec, VERBOSE, VERSION};

/// Flags as the old script had them, and what all tools share.
pub(crate) const SPEC: Spec = Spec {
    tool: "pre-validate",
    about: "Checks, before a migration, that this machine, the server and the files are ready for it.",
    usage: "[FLAGS]",
    flags: &[
        ENVIRONMENT.default("production"),
        Flag::switch("--quick", "Leave out the checks that take long"),
        VERBOSE,
        JSON,
        MIGRATIONS_DIR,
        LOG_DIR,
        HELP,
        VERSION,
    ],
    positionals: &[],
    epilog: "This tool is not built yet: beyond --help and --version it ends with exit 70 and touches nothing.",
};
