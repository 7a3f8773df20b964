//! What can be wrong with a file of SQL, and where.

use std::fmt;

use super::position::{FileId, Pos};

/// The kinds of errors, for callers that tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A string, identifier, dollar quote, comment, parenthesis or function body that is never closed.
    Unterminated,
    /// COPY data without `\.`, or in binary.
    CopyData,
    /// Bytes that no SQL file can hold: NUL, or a custom-format dump.
    NotSql,
    /// A name psql does not know either.
    UnknownCommand,
    /// A psql command that is not carried out here.
    UnsupportedCommand,
    /// Wrong arguments of a psql command.
    Arguments,
    /// A psql command between `\restrict` and `\unrestrict`.
    Restricted,
    /// `\if`, `\elif`, `\else`, `\endif` that don't match.
    Conditional,
    /// A variable whose value only psql knows, or that changes how psql sends statements.
    Variable,
    /// A file that cannot be included.
    Include,
    /// A file that cannot be read, or is not UTF-8.
    Read,
}

/// An error with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlError {
    /// The kind.
    pub kind: ErrorKind,
    /// The file.
    pub file: FileId,
    /// The file's name, as it was given or included.
    pub path: String,
    /// The place in the file: where the thing began that is not closed, or where the command stands.
    pub at: Pos,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<&'static str>,
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.at, self.message)
    }
}

impl std::error::Error for SqlError {}

/// An error before its place is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) kind: ErrorKind,
    pub(super) message: String,
    pub(super) hint: Option<&'static str>,
}

impl Problem {
    pub(super) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    pub(super) fn hint(mut self, hint: &'static str) -> Self {
        self.hint = Some(hint);
        self
    }
}
