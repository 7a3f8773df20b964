//! Which names a statement says are to go, or are to lose a right or a comment.

use std::collections::BTreeSet;

use crate::sql::{Statement, TokenKind, tokens};

/// What takes something away.
const TAKES: [&str; 3] = ["drop", "revoke", "comment"];

/// How many tokens behind it may hold the names: `DROP MATERIALIZED VIEW IF EXISTS a.b`.
const REACH: usize = 12;

/// The names, without schema and quotes, that stand behind a DROP, REVOKE or COMMENT, or in a statement that renames; also in blocks of code and
/// in strings that it executes.
#[must_use]
pub fn drops(statement: &Statement) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    collect(&statement.text, statement.standard_conforming_strings, &mut names);
    names
}

fn collect(text: &str, standard_strings: bool, names: &mut BTreeSet<String>) {
    let all: Vec<_> = tokens(text, standard_strings).collect();
    let renames = all.iter().any(|token| token.is_word("rename"));
    for (index, token) in all.iter().enumerate() {
        if TAKES.iter().any(|word| token.is_word(word)) {
            let behind = all.iter().skip(index + 1).take(REACH).take_while(|token| !token.is_symbol(";"));
            names.extend(behind.filter_map(|token| token.name()).map(std::borrow::Cow::into_owned));
        }
        if renames && let Some(name) = token.name() {
            names.insert(name.into_owned());
        }
        if matches!(token.kind, TokenKind::DollarString | TokenKind::String | TokenKind::EscapeString)
            && let Some(body) = token.string_value()
            && body.len() > "drop x".len()
        {
            collect(&body, standard_strings, names);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::statement;
    use super::*;

    #[test]
    fn names_that_go() {
        for (text, name, goes) in [
            ("DROP INDEX IF EXISTS a.old_index", "old_index", true),
            ("ALTER TABLE t DROP CONSTRAINT \"Key\"", "Key", true),
            ("DO $$ BEGIN EXECUTE 'DROP VIEW v'; DROP TABLE x; END $$", "v", true),
            ("DO $$ BEGIN EXECUTE 'DROP VIEW v'; DROP TABLE x; END $$", "x", true),
            ("DO $$ BEGIN DROP TABLE x; CREATE INDEX i ON y (a); END $$", "i", false),
            ("REVOKE SELECT ON a.t FROM public", "t", true),
            ("COMMENT ON TABLE a.t IS NULL", "t", true),
            ("ALTER TABLE a RENAME TO b", "a", true),
            ("CREATE INDEX old_index ON t (a)", "old_index", false),
            ("SELECT 'drop' FROM v", "v", false),
        ] {
            assert_eq!(drops(&statement(text)).contains(name), goes, "{text}: {name}");
        }
    }
}
