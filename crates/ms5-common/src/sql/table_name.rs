//! The name of a table in its schema.

use std::fmt;

use super::{escape_identifier, tokens};

/// A table by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableName {
    /// Its schema, unquoted.
    pub schema: String,
    /// Its own name, unquoted.
    pub table: String,
}

impl TableName {
    /// A table in a schema; names as the catalog has them, without quotes.
    pub fn new(schema: impl Into<String>, table: impl Into<String>) -> Self {
        Self { schema: schema.into(), table: table.into() }
    }
}

impl TableName {
    /// Both names as SQL text.
    #[must_use]
    pub fn quoted(&self) -> String {
        format!("{}.{}", escape_identifier(&self.schema), escape_identifier(&self.table))
    }

    /// Reads `schema.table` as SQL does, in lower case unless quoted; None where it is not that.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut tokens = tokens(text, true);
        let schema = tokens.next()?.name()?.into_owned();
        let dot = tokens.next()?.is_symbol(".");
        let table = tokens.next()?.name()?.into_owned();
        (dot && tokens.next().is_none() && !schema.is_empty() && !table.is_empty())
            .then_some(Self { schema, table })
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.schema, self.table)
    }
}

#[cfg(test)]
mod tests {
    use super::TableName;

    #[test]
    fn names_are_read() {
        for (text, wanted) in [
            ("a.b", Some(("a", "b"))),
            (" a.\"B c\" ", Some(("a", "B c"))),
            ("\"x.y\".z", Some(("x.y", "z"))),
            ("\"x\"\"y\".Z", Some(("x\"y", "z"))),
            ("a.\"\"", None),
            ("a.b c", None),
            ("a", None),
            ("a.b.c", None),
            ("a.", None),
            ("\"a.b", None),
            ("\"a\"b.c", None),
        ] {
            let wanted = wanted.map(|(schema, table)| TableName::new(schema, table));
            assert_eq!(TableName::parse(text), wanted, "{text}");
        }
    }
}
