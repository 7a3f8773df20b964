//! What a file is about, as far as its text tells: the tables that it changes, the names that it speaks of.

use std::collections::BTreeSet;

use ms5_common::effects::{self, LockMode};
use ms5_common::migrations::Migration;
use ms5_common::sql::{Tokens, tokens};

/// The tables as SQL text; None where the file runs code that is not looked into, and so may change any.
///
/// Rows that are written don't count: a background job lives with them.
pub(crate) fn tables(migration: &Migration) -> Option<Vec<String>> {
    let mut tables = Vec::new();
    for statement in migration.statements() {
        let effects = effects::effects(statement);
        if effects.opaque.is_some() {
            return None;
        }
        let changed = effects.locks.into_iter().filter(|lock| lock.mode >= LockMode::ShareUpdateExclusive);
        tables.extend(changed.map(|lock| lock.on));
    }
    tables.sort();
    tables.dedup();
    Some(tables)
}

/// Whether the file says itself what its jobs are to do: then they are left to it.
pub(crate) fn alters_jobs(migration: &Migration) -> bool {
    const FUNCTIONS: [&str; 3] = ["alter_job", "run_job", "delete_job"];
    let names = names(migration);
    FUNCTIONS.iter().any(|function| names.contains(*function))
}

/// Every name in a file, wherever it stands: also in strings, in bodies of functions, and in strings in those.
pub(crate) fn names(migration: &Migration) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for statement in migration.statements() {
        collect(statement.tokens(), &mut names);
    }
    names
}

fn collect(tokens_of: Tokens<'_>, names: &mut BTreeSet<String>) {
    for token in tokens_of {
        if let Some(name) = token.name() {
            names.insert(name.into_owned());
        } else if let Some(text) = token.string_value() {
            collect(tokens(&text, true), names);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_wherever_they_stand() {
        let text = "DO $a$ BEGIN PERFORM create_hypertable('s.\"T x\"', 'ts'); EXECUTE $b$ALTER TABLE s.other$b$; END $a$";
        let mut names = BTreeSet::new();
        collect(tokens(text, true), &mut names);
        for name in ["create_hypertable", "T x", "s", "other", "ts"] {
            assert!(names.contains(name), "{name}: {names:?}");
        }
        let mut none = BTreeSet::new();
        collect(tokens("SELECT 1 -- create_hypertable", true), &mut none);
        assert!(!none.contains("create_hypertable"));
    }
}
