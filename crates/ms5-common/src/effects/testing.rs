//! Statements for tests.

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
