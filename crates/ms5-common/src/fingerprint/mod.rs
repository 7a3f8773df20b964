//! What the rows of a table are, in few numbers: counted and hashed before a migration, and compared afterwards.
//!
//! A fingerprint holds, for each day (UTC) of the time column, the number of rows and the sum of their hashes: the sum does
//! not depend on the order of the rows, and partial sums add up however the rows are spread over chunks. It covers the
//! rows up to a highest key only, so that rows which were added since are told apart from rows that were lost.
//!
//! Two rows count as equal where `=` says so: 1.0 and 1.00, 0 and -0, one day and 24 hours are the same to it. The types that
//! cannot be hashed as they are go by their text (see [`Column::as_text`]).

mod compare;
mod json;
mod locked;
mod plan;
mod read;
mod shape;
mod sql;
mod take;
mod trouble;
mod wait;

use std::fmt;

pub use compare::{Difference, Verdict, compare};
pub use locked::take_locked;
pub use take::{Options, Wanted, take};

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
    /// Reads `schema.table` as SQL does, in lower case unless quoted; None where it is not that.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut tokens = crate::sql::tokens(text, true);
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

/// A column that goes into the hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name, unquoted.
    pub name: String,
    /// Its type with modifier, as format_type prints it.
    pub type_name: String,
    /// Whether its text is hashed, under pinned settings, since its type has no hash that tells values apart: json, enums
    /// (whose hash is an oid), types of extensions (citext calls `a` and `A` equal), nondeterministic collations.
    pub as_text: bool,
}

/// The rows of one day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// The day in UTC, as `2025-03-01`; None where the table has no time column, or the rows no time.
    pub day: Option<String>,
    /// How many.
    pub rows: u64,
    /// The sum of their hashes.
    pub hash: i128,
}

/// The rows of a table up to a highest key, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// Which table.
    pub name: TableName,
    /// The hashed columns, in the order of their names.
    pub columns: Vec<Column>,
    /// The column whose days are the buckets.
    pub time_column: Option<String>,
    /// The column whose values only grow, as a sequence hands them out.
    pub key: Option<String>,
    /// The highest key that is covered; rows above it are new ones. None without a key: then all rows are covered.
    pub highest: Option<i64>,
    /// Why rows up to the highest key may still have come later; empty where that is proven not to be.
    pub why_not: Vec<String>,
    /// Whether old rows are known to change in normal work, so that a difference proves no loss.
    pub changing: bool,
    /// How many rows are covered.
    pub rows: u64,
    /// The sum of their hashes.
    pub hash: i128,
    /// The rows above the highest key.
    pub above: u64,
    /// The covered rows, day by day.
    pub buckets: Vec<Bucket>,
}

impl Fingerprint {
    /// Whether every row that will ever have a key up to the highest one was there when this was taken.
    #[must_use]
    pub fn proven(&self) -> bool {
        self.why_not.is_empty()
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
