//! Which relations a statement brings about.

use super::cursor::Cursor;
use crate::sql::Statement;

/// The tables and views that a statement creates, as SQL text, with their schemas where they are given.
#[must_use]
pub fn creates(statement: &Statement) -> Vec<String> {
    let of = |tokens: &[_]| {
        let mut cursor = Cursor::new(tokens);
        if !cursor.take(&["create"]) {
            return None;
        }
        while cursor.take_any(&[
            "or",
            "replace",
            "global",
            "local",
            "temp",
            "temporary",
            "unlogged",
            "foreign",
            "materialized",
            "recursive",
        ]) {}
        if !cursor.take_any(&["table", "view", "sequence"]) {
            return None;
        }
        cursor.take_if();
        cursor.name_text()
    };
    statement.facts().filter_map(|facts| of(&facts.tokens().collect::<Vec<_>>())).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::statement;
    use super::*;

    #[test]
    fn names_of_what_is_created() {
        for (text, names) in [
            ("CREATE TABLE a.b (id int)", vec!["a.b"]),
            ("CREATE UNLOGGED TABLE IF NOT EXISTS \"B\" ()", vec!["\"B\""]),
            ("CREATE OR REPLACE VIEW v AS SELECT 1", vec!["v"]),
            ("CREATE MATERIALIZED VIEW IF NOT EXISTS s.m AS SELECT 1", vec!["s.m"]),
            ("CREATE INDEX i ON t (a)", vec![]),
            ("ALTER TABLE t ADD a int", vec![]),
            ("CREATE TABLE a () \\; CREATE TABLE b ()", vec!["a", "b"]),
        ] {
            assert_eq!(creates(&statement(text)), names, "{text}");
        }
    }
}
