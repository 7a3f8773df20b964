//! The command line of post-validate.

use ms5_common::cli::{ENVIRONMENT, Flag, HELP, JSON, LOG_DIR, MIGRATIONS_DIR, Spec, VERBOSE, VERSION};

/// Flags as the old script had them, and what all tools share.
pub(crate) const SPEC: Spec = Spec {
    tool: "post-validate",
    about: "Checks, after a migration, that everything promised is there and that nothing was lost.",
    usage: "[FLAGS]",
    flags: &[
        ENVIRONMENT.default("production"),
        Flag::switch("--performance-test", "Time the queries of expected.json and show their plans"),
        Flag::switch("--no-data-integrity", "Leave out the rows written, read back and rolled back"),
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
