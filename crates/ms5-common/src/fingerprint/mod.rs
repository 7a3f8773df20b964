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
mod watch;

pub use compare::{Difference, Verdict, compare};
pub use locked::take_locked;
pub use take::{Options, Wanted, take};

use crate::sql::TableName;

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
