//! Statements for tests.

use super::{Rewrite, effects};
use crate::sql::{Item, Options, Splitter, Statement, Step};

/// The statements of a file.
pub(super) fn statements(text: &str) -> Vec<Statement> {
    let mut splitter = Splitter::new(Options { in_transaction: true, ..Options::default() });
    splitter.push(text);
    splitter.end_input();
    let mut found = Vec::new();
    loop {
        match splitter.step().unwrap_or_else(|error| panic!("{error}: {text}")) {
            Step::Item(Item::Statement(statement)) => found.push(statement),
            Step::Item(_) | Step::NeedInput(_) => {}
            Step::Include { path } => panic!("{path} in {text}"),
            Step::Done => return found,
        }
    }
}

/// The one statement of a text.
pub(super) fn statement(text: &str) -> Statement {
    let mut all = statements(text);
    assert_eq!(all.len(), 1, "{text}");
    all.remove(0)
}

/// Any [`Rewrite::Perhaps`].
pub(super) const PERHAPS: Rewrite = Rewrite::Perhaps("");

/// Compares statements with their locks, the strongest first as `ShareLock a, AccessShareLock b`, and their work.
pub(super) fn assert_effects(cases: &[(&str, &str, Rewrite)]) {
    for (text, locks, rewrite) in cases {
        let found = effects(&statement(text));
        let listed: Vec<_> = found.locks.iter().map(|lock| format!("{} {}", lock.mode, lock.on)).collect();
        assert_eq!(&listed.join(", "), locks, "{text}");
        let work = if matches!(found.rewrite, Rewrite::Perhaps(_)) { PERHAPS } else { found.rewrite };
        assert_eq!(work, *rewrite, "{text}");
        assert_eq!(found.opaque, None, "{text}");
    }
}
