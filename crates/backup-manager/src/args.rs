//! The command line of backup-manager.

use ms5_common::cli::{ENVIRONMENT, Flag, HELP, JSON, LOG_DIR, Spec, VERBOSE, VERSION};

/// Flags as the old script had them, and what all tools share.
pub(crate) const SPEC: Spec = Spec {
    tool: "backup-manager",
    about: "Backs the database up, proves the backup, and brings it back.",
    usage: "[FLAGS] backup [NAME] [full|schema|data|hypertables] | restore NAME | list | verify NAME | clean [DAYS]",
    flags: &[
        ENVIRONMENT.default("production"),
        Flag::switch("--no-compression", "Write plain files instead of .gz"),
        Flag::switch("--force", "Replace a target that holds data (restore)"),
        Flag::value("--retention-days", "N", "Age from which clean removes a backup").default("30"),
        VERBOSE,
        JSON,
        LOG_DIR,
        HELP,
        VERSION,
    ],
    positionals: &["COMMAND", "NAME", "TYPE"],
    epilog: "This tool is not built yet: beyond --help and --version it ends with exit 70 and touches nothing.",
};
