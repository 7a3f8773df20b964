//! Divides a file that runs in one transaction into rounds: statements that are sent one behind the other without waiting
//! for the answers in between, each as a message of its own.

use ms5_common::migrations::Action;
use ms5_common::sql::Statement;

use super::indexes;

/// The most bytes of statements in one round, so that what waits to be sent stays small.
const BYTES: usize = 64 * 1024;

/// Actions in order, sent at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Round<'a> {
    pub(super) actions: &'a [Action],
}

impl<'a> Round<'a> {
    /// Its statements, in order.
    pub(super) fn statements(self) -> impl Iterator<Item = &'a Statement> {
        self.actions.iter().filter_map(|action| match action {
            Action::Run(statement) => Some(statement),
            Action::Say(_) => None,
        })
    }
}

/// The rounds of a file: one at least, and the last one lets the COMMIT follow it.
pub(super) fn of(actions: &[Action]) -> Vec<Round<'_>> {
    let mut rounds = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    let mut cut = |start: &mut usize, end: usize| {
        if *start < end {
            rounds.push(Round { actions: &actions[*start..end] });
        }
        *start = end;
    };
    for (index, action) in actions.iter().enumerate() {
        let Action::Run(statement) = action else { continue };
        let alone = waits(statement);
        bytes += statement.text.len();
        if alone || bytes > BYTES || indexes::asks(statement) {
            cut(&mut start, index);
            bytes = statement.text.len();
        }
        if alone {
            cut(&mut start, index + 1);
            bytes = 0;
        }
    }
    let alone =
        actions.last().is_some_and(|action| matches!(action, Action::Run(statement) if waits(statement)));
    let end = actions.len();
    cut(&mut start, end);
    if alone || rounds.is_empty() {
        rounds.push(Round { actions: &actions[end..] });
    }
    rounds
}

/// Whether nothing may be sent behind a statement before its answer is known: rows of the file follow it.
///
/// Behind any other statement that fails the open transaction refuses all that comes. Only ROLLBACK TO a savepoint would
/// make it well again, and no file with savepoints is run (migrations/rules).
fn waits(statement: &Statement) -> bool {
    !statement.copy_data.is_empty()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::{BufReader, Cursor};

    use ms5_common::sql::{Item, Options, Script};

    use super::*;

    /// The rounds of a file, each as the texts of its actions.
    fn rounds(text: &str) -> Vec<Vec<String>> {
        let files = |_: &str| Ok(BufReader::new(Cursor::new(text.to_owned())));
        let options = Options { in_transaction: true, ..Options::default() };
        let actions: Vec<Action> = Script::open(files, options)
            .unwrap()
            .filter_map(|item| match item.unwrap() {
                Item::Statement(statement) => Some(Action::Run(statement)),
                Item::Echo { text, .. } => Some(Action::Say(text)),
                _ => None,
            })
            .collect();
        let shown = |action: &Action| match action {
            Action::Run(statement) => statement.text.chars().take(12).collect(),
            Action::Say(text) => format!("say {}", text.trim_end()),
        };
        of(&actions).iter().map(|round| round.actions.iter().map(shown).collect()).collect()
    }

    #[test]
    fn one_round_where_nothing_has_to_be_known_in_between() {
        assert_eq!(rounds("SELECT 1;\n\\echo a\nSELECT 2;"), [["SELECT 1", "say a", "SELECT 2"]]);
    }

    #[test]
    fn a_last_round_for_the_commit_also_where_there_is_nothing_else() {
        assert_eq!(rounds(""), [[""; 0]]);
        assert_eq!(rounds("COPY t FROM STDIN;\n1\n\\.\n"), [vec!["COPY t FROM "], vec![]]);
        assert_eq!(
            rounds("SELECT 1; COPY t FROM STDIN;\n1\n\\.\nSELECT 2;"),
            [["SELECT 1"], ["COPY t FROM "], ["SELECT 2"]]
        );
    }

    #[test]
    fn a_question_to_the_server_comes_first_in_its_round() {
        let all =
            rounds("SELECT 1; CREATE INDEX IF NOT EXISTS i ON t (a); SELECT 2; CREATE INDEX j ON t (a);");
        assert_eq!(all, [vec!["SELECT 1"], vec!["CREATE INDEX", "SELECT 2", "CREATE INDEX"]]);
    }

    #[test]
    fn a_round_is_of_limited_size() {
        let lengths = |text: &str| rounds(text).iter().map(Vec::len).collect::<Vec<_>>();
        let third = format!("SELECT '{}';", "x".repeat(BYTES / 3));
        assert_eq!(lengths(&third.repeat(5)), [2, 2, 1]);
        assert_eq!(lengths(&format!("SELECT '{}'; SELECT 1;", "x".repeat(BYTES))), [1, 1]);
    }
}
