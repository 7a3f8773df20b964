//! Which statements are kept with a success, for --repair to show later what a changed file changes.

use ms5_common::migrations::Migration;

use crate::run::Input;
use crate::secret::holds_password;

/// Longer files are not kept: the ledger is not an archive.
const MOST: usize = 256 * 1024;

/// For each migration, its statements; None where they must not be kept.
pub(crate) fn texts(input: &Input) -> Vec<Option<Vec<&str>>> {
    let one = |migration| if input.has_variables { None } else { statements(migration) };
    input.migrations.iter().map(one).collect()
}

/// The statements of a file, unless they are too long, come with rows, or seem to hold a password.
pub(crate) fn statements(migration: &Migration) -> Option<Vec<&str>> {
    let mut length = 0;
    let mut texts = Vec::new();
    for statement in migration.statements() {
        length += statement.text.len();
        if length > MOST || holds_password(statement) || !statement.copy_data.is_empty() {
            return None;
        }
        texts.push(statement.text.as_str());
    }
    Some(texts)
}
