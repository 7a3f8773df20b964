//! Which tables a file changes, as far as its text tells.

use ms5_common::effects::{self, LockMode};
use ms5_common::migrations::Migration;

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
    migration.statements().any(|statement| {
        statement.tokens().any(|token| token.name().is_some_and(|name| FUNCTIONS.contains(&name.as_ref())))
    })
}
