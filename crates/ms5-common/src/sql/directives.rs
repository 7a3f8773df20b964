//! The title and the directives in the comments that a migration file begins with.

use std::fmt;

use super::rules::{is_pair, is_space, run_end};

/// What a file's leading comments say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Head {
    /// The first line of comment with a letter or digit in it, if it has the form `001 - Initialize Telemetry`.
    pub title: Option<String>,
    /// `-- ms5: idempotent`: the file may be run again.
    pub idempotent: bool,
    /// `-- ms5: transaction` or `-- ms5: no-transaction`.
    pub transaction: Option<bool>,
    /// `-- ms5: independent-of 004 005`: the numbers of migrations that need not come before.
    pub independent_of: Vec<u32>,
}

/// A directive that is not understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectiveError {
    /// The line, counted from 1.
    pub line: u32,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for DirectiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

impl std::error::Error for DirectiveError {}

impl Head {
    /// Reads the comments before the first statement. Lines of psql commands and block comments may stand between
    /// them, and say nothing; no line behind the first statement is asked for.
    pub fn read<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Self, DirectiveError> {
        let mut head = Self::default();
        let mut titled = false;
        let mut comment_depth = 0_u32;
        for (line_number, line) in (1_u32..).zip(lines) {
            let line = if line_number == 1 { line.strip_prefix('\u{feff}').unwrap_or(line) } else { line };
            let bytes = line.as_bytes();
            let mut at = 0;
            loop {
                if comment_depth > 0 {
                    (at, comment_depth) = skip_comment(bytes, at, comment_depth);
                }
                at = run_end(bytes, at, is_space);
                if !is_pair(bytes, at, b'/', b'*') {
                    break;
                }
                comment_depth = 1;
                at += 2;
            }
            match line.get(at..) {
                Some(comment) if comment.starts_with("--") => {
                    let comment = comment.trim_start_matches('-').trim();
                    if !titled && comment.contains(char::is_alphanumeric) {
                        titled = true;
                        head.title = is_title(comment).then(|| comment.to_owned());
                    }
                    if let Some(directive) = comment.strip_prefix("ms5:") {
                        head.directive(directive)
                            .map_err(|message| DirectiveError { line: line_number, message })?;
                    }
                }
                Some(rest) if rest.is_empty() || rest.starts_with('\\') => {}
                _ => break,
            }
        }
        Ok(head)
    }

    fn directive(&mut self, text: &str) -> Result<(), String> {
        let mut words = text.split_whitespace();
        let name = words.next().ok_or("\"-- ms5:\" without a directive")?;
        let arguments: Vec<&str> = words.collect();
        match (name, arguments.as_slice()) {
            ("idempotent", []) => self.idempotent = true,
            ("transaction" | "no-transaction", []) => {
                let wanted = name == "transaction";
                if self.transaction.is_some_and(|before| before != wanted) {
                    return Err("both transaction and no-transaction are asked for".to_owned());
                }
                self.transaction = Some(wanted);
            }
            ("independent-of", []) => return Err("independent-of needs the numbers of migrations".to_owned()),
            ("independent-of", numbers) => {
                for number in numbers {
                    let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
                    let number = number.parse().ok().filter(|_| is_number);
                    self.independent_of.push(number.ok_or_else(|| {
                        format!("independent-of wants numbers, not \"{text}\"", text = text.trim())
                    })?);
                }
            }
            ("idempotent" | "transaction" | "no-transaction", _) => {
                return Err(format!("{name} stands alone, not with \"{}\"", arguments.join(" ")));
            }
            _ => {
                return Err(format!(
                    "unknown directive \"{name}\"; known are idempotent, transaction, no-transaction, independent-of"
                ));
            }
        }
        Ok(())
    }
}

/// `001 - Initialize Telemetry`
fn is_title(comment: &str) -> bool {
    comment.split_once(" - ").is_some_and(|(number, name)| {
        let number = number.trim_end();
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) && !name.trim().is_empty()
    })
}

/// The place behind a block comment of this depth, or the end of the line and the depth there.
fn skip_comment(line: &[u8], mut at: usize, mut depth: u32) -> (usize, u32) {
    while at < line.len() && depth > 0 {
        if is_pair(line, at, b'/', b'*') {
            depth = depth.saturating_add(1);
            at += 2;
        } else if is_pair(line, at, b'*', b'/') {
            depth -= 1;
            at += 2;
        } else {
            at += 1;
        }
    }
    (at, depth)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Head, DirectiveError> {
        Head::read(text.lines())
    }

    #[test]
    fn title_and_directives() {
        let head = read(
            "\u{feff}-- =====\n-- 001 - Initialize Telemetry\n--\n\n--ms5: idempotent\n/* more /* words */\n-- ms5: nonsense\n*/ -- ms5: no-transaction\r\n\
             \\set ON_ERROR_STOP on\n--  ms5:independent-of 004 005\nselect 1; -- ms5: nonsense\n-- ms5: nonsense\n",
        );
        assert_eq!(
            head,
            Ok(Head {
                title: Some("001 - Initialize Telemetry".to_owned()),
                idempotent: true,
                transaction: Some(false),
                independent_of: vec![4, 5],
            })
        );
    }

    #[test]
    fn old_files_have_no_title() {
        for text in [
            "",
            "select 1;",
            "-- MS5.0 Floor Dashboard\n-- 001 - Later\n",
            "-- 001 -\n",
            "-- a1 - x\n",
            "create table a ();\n-- 001 - Later",
        ] {
            assert_eq!(read(text), Ok(Head::default()), "{text}");
        }
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for (text, line) in [
            ("\n-- ms5: idempotnt", 2),
            ("-- ms5:", 1),
            ("-- ms5: idempotent, transaction", 1),
            ("-- ms5: idempotent yes", 1),
            ("-- ms5: transaction\n-- ms5: no-transaction", 2),
            ("-- ms5: independent-of", 1),
            ("-- ms5: independent-of 4 five", 1),
            ("-- ms5: independent-of +4", 1),
        ] {
            assert_eq!(read(text).map_err(|error| error.line), Err(line), "{text}");
        }
        assert_eq!(
            read("-- ms5: transaction\n-- ms5: transaction").map(|head| head.transaction),
            Ok(Some(true))
        );
    }
}
