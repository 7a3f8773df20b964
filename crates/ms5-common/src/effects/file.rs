//! All statements of a file: what each is that cannot run inside a transaction.

use super::cursor::Cursor;
use super::name::Name;
use super::outside::{self, Outside};
use super::{body, enums, routines};
use crate::sql::{Statement, Token, tokens};

/// Procedures that commit, of the files that were looked at so far: one for all files, in their order.
#[derive(Debug, Clone, Default)]
pub struct Procedures {
    names: Vec<Name>,
}

/// What each statement of a file is that cannot run inside a transaction, in the file's order; None: it can.
///
/// A message of several statements with such a one among them is an [`Outside::Joined`], to be refused.
#[must_use]
pub fn of_file(statements: &[&Statement], procedures: &mut Procedures) -> Vec<Option<Outside>> {
    let mut found: Vec<_> = statements.iter().map(|statement| procedures.outside(statement)).collect();
    enums::mark(statements, &mut found);
    found
}

/// Words that such a statement begins with; others, of which some are long, need not be read.
const BEGINNINGS: [&str; 11] =
    ["alter", "call", "cluster", "create", "discard", "do", "drop", "reindex", "select", "vacuum", "with"];

impl Procedures {
    fn outside(&mut self, statement: &Statement) -> Option<Outside> {
        let std_strings = statement.standard_conforming_strings;
        let mut found = None;
        for (_, text) in statement.parts() {
            let first = tokens(text, std_strings).next();
            if !first.is_some_and(|first| BEGINNINGS.iter().any(|word| first.is_word(word))) {
                continue;
            }
            let tokens: Vec<_> = tokens(text, std_strings).collect();
            found = found.or_else(|| self.part(&tokens, std_strings));
            self.learn(&tokens, std_strings);
        }
        if statement.parts().count() > 1 {
            found.map(|found| Outside::Joined(Box::new(found)))
        } else {
            found
        }
    }

    fn part(&self, tokens: &[Token<'_>], std_strings: bool) -> Option<Outside> {
        let mut cursor = Cursor::new(tokens);
        if cursor.take(&["call"]) {
            let name = cursor.name()?;
            return routines::known_procedure(&name, cursor)
                .or_else(|| self.knows(&name).then_some(Outside::Commits { what: name.text }));
        }
        if cursor.take(&["do"]) {
            let what = self.commits(&body::of_do(cursor)?, std_strings)?;
            return Some(Outside::Commits { what });
        }
        outside::of_text(cursor)
    }

    fn commits(&self, body: &str, std_strings: bool) -> Option<String> {
        body::commits(body, std_strings, |name, arguments| {
            let is_known = routines::known_procedure(name, arguments).is_some() || self.knows(name);
            is_known.then(|| name.text.clone())
        })
    }

    fn knows(&self, name: &Name) -> bool {
        self.names.iter().any(|known| known.may_be(name))
    }

    /// Takes note of a procedure that is made, replaced or dropped.
    fn learn(&mut self, tokens: &[Token<'_>], std_strings: bool) {
        let mut cursor = Cursor::new(tokens);
        if cursor.take(&["drop", "procedure"]) {
            cursor.take_if();
            for name in cursor.by_commas().into_iter().filter_map(|mut item| item.name()) {
                self.names.retain(|known| known != &name);
            }
        } else if cursor.take(&["create"]) {
            cursor.take(&["or", "replace"]);
            if !cursor.take(&["procedure"]) {
                return;
            }
            let Some(name) = cursor.name() else { return };
            self.names.retain(|known| known != &name);
            let body = body::of_procedure(cursor);
            if body.is_some_and(|body| self.commits(&body, std_strings).is_some()) {
                self.names.push(name);
            }
        }
    }
}
