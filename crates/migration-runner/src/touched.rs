//! Which tables a file changes, as far as its text tells.

use ms5_common::migrations::Migration;

/// The tables as SQL text; None where the file runs code that is not looked into, and so may change any.
pub(crate) fn tables(_migration: &Migration) -> Option<Vec<String>> {
    None
}
