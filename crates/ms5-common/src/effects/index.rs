//! CREATE INDEX, inside a transaction or outside.

use super::cursor::Cursor;
use crate::sql::Statement;

/// What CREATE INDEX says of the index. Names are SQL text, with quotes and schema as they are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateIndex {
    /// The index, without a schema; None: the server makes its name up.
    pub name: Option<String>,
    /// The table.
    pub table: String,
    /// IF NOT EXISTS, which accepts an index that is there but invalid.
    pub if_not_exists: bool,
}

/// What the statement says of an index, if it makes one. Several statements in one message are not looked into.
#[must_use]
pub fn create_index(statement: &Statement) -> Option<CreateIndex> {
    let tokens: Vec<_> = statement.tokens().take(HEAD).collect();
    let mut cursor = Cursor::new(&tokens);
    if !cursor.take(&["create"]) {
        return None;
    }
    cursor.take(&["unique"]);
    if !cursor.take(&["index"]) {
        return None;
    }
    cursor.take(&["concurrently"]);
    described(&mut cursor)
}

/// The description that follows CREATE INDEX CONCURRENTLY, at which the cursor stands, up to the table.
pub(super) fn described(cursor: &mut Cursor<'_, '_>) -> Option<CreateIndex> {
    let if_not_exists = cursor.take(&["if", "not", "exists"]);
    let name = if cursor.is("on") { None } else { Some(cursor.name_text()?) };
    if !cursor.take(&["on"]) {
        return None;
    }
    Some(CreateIndex { name, table: cursor.relation()?.text, if_not_exists })
}

/// CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS name ON ONLY database.schema.table, and one more.
const HEAD: usize = 16;

#[cfg(test)]
mod tests {
    use super::super::testing::statement;
    use super::*;

    #[test]
    fn names_and_table() {
        for (text, expected) in [
            ("create index on t (a)", Some((None, "t", false))),
            (
                "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS \"I x\" ON ONLY \"S\".t USING btree (a)",
                Some((Some("\"I x\""), "\"S\".t", true)),
            ),
            ("create /* c */ index if not exists i on a.b (c)", Some((Some("i"), "a.b", true))),
            ("create table t (a int)", None),
            ("drop index i", None),
        ] {
            let found = create_index(&statement(text));
            let found = found.as_ref().map(|i| (i.name.as_deref(), i.table.as_str(), i.if_not_exists));
            assert_eq!(found, expected, "{text}");
        }
    }
}
