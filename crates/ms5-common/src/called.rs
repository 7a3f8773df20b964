//! What an operator calls our tools by, for the commands that messages print: the scripts where those were called, else the
//! binaries.

use std::path::Path;
use std::sync::OnceLock;

/// The variable in which scripts/*.sh say the folder by which they were called.
pub const SCRIPTS: &str = "MS5_SCRIPTS";

/// Each tool and its script.
const NAMES: [(&str, &str); 5] = [
    ("migration-runner", "migration-runner.sh"),
    ("pre-validate", "pre-migration-validation.sh"),
    ("post-validate", "post-migration-validation.sh"),
    ("backup-manager", "backup-rollback-manager.sh"),
    ("migration-tests", "test-migration-scripts.sh"),
];

static FOLDER: OnceLock<Option<String>> = OnceLock::new();

/// Remembers the folder of the scripts, where one of them was called.
pub fn init(scripts: Option<&str>) {
    let _ = FOLDER.set(scripts.map(str::to_owned));
}

/// A tool as it stands at the beginning of a command that an operator can type here.
#[must_use]
pub fn called(tool: &str) -> String {
    named(FOLDER.get().and_then(Option::as_deref), tool)
}

fn named(folder: Option<&str>, tool: &str) -> String {
    let script = NAMES.iter().find(|(name, _)| *name == tool).map(|(_, script)| *script);
    match folder.zip(script) {
        Some((folder, script)) => quoted(&Path::new(folder).join(script).display().to_string()),
        None => tool.to_owned(),
    }
}

/// A word as a shell takes it.
#[must_use]
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_where_scripts_were_called() {
        assert_eq!(named(None, "post-validate"), "post-validate");
        assert_eq!(named(Some("."), "post-validate"), "./post-migration-validation.sh");
        assert_eq!(named(Some("scripts"), "backup-manager"), "scripts/backup-rollback-manager.sh");
        assert_eq!(named(Some("/opt/a b"), "migration-runner"), "'/opt/a b/migration-runner.sh'");
    }
}
