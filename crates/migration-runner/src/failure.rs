//! What an operator reads of a statement that failed: where, the line with a caret, and all the server said.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use ms5_common::db::server_error::{ServerError, reasons};
use ms5_common::error::Error;
use ms5_common::exit::Exit;
use ms5_common::migrations::Migration;
use ms5_common::sql::Statement;

/// How much of a long line is shown around the place.
const WIDTH: usize = 120;

/// Why a migration failed, and where.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What to print.
    pub(crate) error: Box<Error>,
    /// The place in a file, where a statement is to blame.
    pub(crate) place: Option<Place>,
}

/// A place in a migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The file's name without folder.
    pub(crate) file: String,
    /// Counted from 1.
    pub(crate) line: u32,
    /// Counted from 1, in characters.
    pub(crate) column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}:{}", self.file, self.line, self.column)
    }
}

impl Failure {
    /// Adds what was seen of the sessions that held the lock.
    pub(crate) fn explain(&mut self, blockers: Vec<String>) {
        for blocker in blockers {
            self.error.add_reason(format!("the lock is held by {blocker}"));
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error: Box::new(error), place: None }
    }
}

/// The failure of a statement that the server refused, or at which the connection was lost.
pub(crate) fn of_statement(migration: &Migration, statement: &Statement, error: &postgres::Error) -> Failure {
    let server = ServerError::of(error);
    let position = server.as_ref().and_then(|server| server.position);
    let place =
        position.map_or_else(|| statement.head(), |position| statement.pos_of_server_position(position));
    let path = migration.path_of(statement.file);
    let shown = path
        .file_name()
        .map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
    let mut lines = reasons(error);
    let excerpt = excerpt(path, place.line, place.column);
    // The place belongs right below the server's message.
    let after = lines.len().min(1);
    lines.splice(after..after, excerpt);
    let at = Place { file: shown, line: place.line, column: place.column };
    let error = Error::new(Exit::Failed, format!("Migration {} failed at {at}", migration.title))
        .because_all(lines)
        .with_sqlstate(server.map(|server| server.sqlstate));
    Failure { error: Box::new(error), place: Some(at) }
}

/// The line of the file with a caret below the column; nothing where the file cannot be read any more.
fn excerpt(path: &Path, line: u32, column: u32) -> Vec<String> {
    let Ok(index) = usize::try_from(line.saturating_sub(1)) else { return Vec::new() };
    let text = File::open(path).ok().and_then(|file| BufReader::new(file).lines().nth(index)?.ok());
    text.map(|text| caret(&text, line, column)).unwrap_or_default()
}

/// Two lines: the text, cut to a width around the column, and the caret.
fn caret(text: &str, line: u32, column: u32) -> Vec<String> {
    let column = usize::try_from(column.saturating_sub(1)).unwrap_or(0);
    let skip = if column >= WIDTH { column - WIDTH / 2 } else { 0 };
    // A tab is one character wide for the server, and wider on a terminal.
    let shown: String = text
        .trim_end()
        .chars()
        .skip(skip)
        .take(WIDTH)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let number = line.to_string();
    vec![
        format!("  {number} | {shown}"),
        format!("  {} | {}^", " ".repeat(number.len()), " ".repeat(column - skip)),
    ]
}

#[cfg(test)]
mod tests {
    use super::caret;

    #[test]
    fn the_caret_stands_below_the_column() {
        assert_eq!(caret("SELECT x;", 12, 8), ["  12 | SELECT x;", "     |        ^"]);
        assert_eq!(caret("\tä x", 1, 4), ["  1 |  ä x", "    |    ^"]);
    }

    #[test]
    fn a_long_line_is_cut_around_the_column() {
        let long = format!("{}HERE{}", "a".repeat(1000), "b".repeat(1000));
        let lines = caret(&long, 1, 1001);
        let at = lines[1].find('^').unwrap();
        assert_eq!(&lines[0][at..at + 4], "HERE");
        assert!(lines[0].len() < 140);
    }
}
