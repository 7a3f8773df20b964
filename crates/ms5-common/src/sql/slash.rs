//! The arguments of psql's backslash commands.
//!
//! A port of `src/bin/psql/psqlscanslash.l` (PostgreSQL 18); the names in the comments are its states.

use super::error::{ErrorKind, Problem};
use super::lexer::{ReferenceKind, variable_reference};
use super::rules::{is_space, run_end};
use super::variables::Variables;
use super::{escape_identifier, escape_literal};

/// The text of a variable that is being read in place of its reference (`StackElem`).
#[derive(Debug, Clone)]
pub(super) struct Expansion {
    pub(super) name: String,
    pub(super) text: String,
    pub(super) at: usize,
}

/// A line and the variables that are being read in the middle of it.
///
/// Both scanners read from the innermost variable, and from what is around it when that is used up; no token
/// reaches over the end of a variable's text.
#[derive(Debug, Clone, Default)]
pub(super) struct Input {
    pub(super) line: String,
    pub(super) at: usize,
    pub(super) expansions: Vec<Expansion>,
}

impl Input {
    /// The text being read and the place in it.
    pub(super) fn current(&self) -> (&str, usize) {
        match self.expansions.last() {
            Some(expansion) => (&expansion.text, expansion.at),
            None => (&self.line, self.at),
        }
    }

    /// Goes to `at` in the text being read.
    pub(super) fn seek(&mut self, at: usize) {
        match self.expansions.last_mut() {
            Some(expansion) => expansion.at = at,
            None => self.at = at,
        }
    }

    /// The rest of the text being read, not empty; None at the end of the line.
    fn rest(&mut self) -> Option<&[u8]> {
        while self.expansions.last().is_some_and(|expansion| expansion.at >= expansion.text.len()) {
            self.expansions.pop();
        }
        let (text, at) = self.current();
        text.as_bytes().get(at..).filter(|rest| !rest.is_empty())
    }

    fn skip(&mut self, count: usize) {
        let (_, at) = self.current();
        self.seek(at + count);
    }
}

/// What an argument may be (`enum slash_option_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ArgumentKind {
    /// `OT_NORMAL`: up to a blank or backslash, with quotes and variables.
    Normal,
    /// `OT_FILEPIPE`: the same, but `|` makes the rest of the line a shell command.
    FilePipe,
    /// `OT_WHOLE_LINE`: the rest of the line as it is.
    WholeLine,
}

/// One argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Argument {
    pub(super) text: String,
    /// Whether any of it was quoted or came out of a variable (`option_quote`).
    pub(super) quoted: bool,
}

/// Reads the name and the arguments of one command.
pub(super) struct Arguments<'a> {
    pub(super) input: &'a mut Input,
    pub(super) variables: &'a Variables,
    /// Outside of a skipped `\if` branch: variables have values, backticks would run.
    pub(super) active: bool,
}

impl Arguments<'_> {
    /// `xslashcmd`: the command's name, up to a blank or backslash.
    pub(super) fn name(&mut self) -> Result<String, Problem> {
        let mut name = Vec::new();
        while let Some(rest) = self.input.rest() {
            let end = run_end(rest, 0, |byte| !is_space(byte) && byte != b'\\');
            name.extend_from_slice(rest.get(..end).unwrap_or_default());
            let used_up = end == rest.len();
            self.input.skip(end);
            if !used_up {
                break;
            }
        }
        into_text(name)
    }

    /// The next argument, or None if there are no more (`psql_scan_slash_option`). With `semicolons`, unquoted
    /// semicolons at its end are not part of it.
    pub(super) fn next(&mut self, kind: ArgumentKind, semicolons: bool) -> Result<Option<Argument>, Problem> {
        if kind != ArgumentKind::WholeLine {
            // xslashargstart
            loop {
                let Some(rest) = self.input.rest() else { return Ok(None) };
                let blank = run_end(rest, 0, is_space);
                if blank == 0 {
                    break;
                }
                self.input.skip(blank);
            }
            if kind == ArgumentKind::Normal || self.input.rest().and_then(<[u8]>::first) != Some(&b'|') {
                return self.word(semicolons);
            }
        }
        // xslashwholeline
        let mut text = Vec::new();
        while let Some(rest) = self.input.rest() {
            let blank = if text.is_empty() { run_end(rest, 0, is_space) } else { 0 };
            text.extend_from_slice(rest.get(blank..).unwrap_or_default());
            let length = rest.len();
            self.input.skip(length);
        }
        if semicolons {
            let end =
                text.iter().rposition(|&byte| byte != b';' && !byte.is_ascii_whitespace() && byte != 0x0b);
            text.truncate(end.map_or(0, |last| last + 1));
        }
        Ok(if text.is_empty() { None } else { Some(Argument { text: into_text(text)?, quoted: false }) })
    }

    /// `xslasharg`, with `xslashquote`, `xslashdquote` and `xslashbackquote` inside.
    fn word(&mut self, semicolons: bool) -> Result<Option<Argument>, Problem> {
        let mut text = Vec::new();
        let mut quoted = false;
        let mut unquoted_chars = 0_usize;
        while let Some(rest) = self.input.rest() {
            let Some(&byte) = rest.first() else { break };
            match byte {
                b'\\' => break,
                _ if is_space(byte) => break,
                b'\'' => {
                    (quoted, unquoted_chars) = (true, 0);
                    self.input.skip(1);
                    self.single_quoted(&mut text)?;
                }
                b'"' => {
                    (quoted, unquoted_chars) = (true, 0);
                    self.input.skip(1);
                    text.push(b'"');
                    self.up_to(b'"', &mut text)?;
                    text.push(b'"');
                }
                b'`' => {
                    (quoted, unquoted_chars) = (true, 0);
                    if self.active {
                        return Err(Problem::new(
                            ErrorKind::UnsupportedCommand,
                            "backticks, which run a shell command, are not supported",
                        )
                        .hint("write the value into the file, or give it as a variable"));
                    }
                    self.input.skip(1);
                    self.up_to(b'`', &mut Vec::new())?;
                }
                b':' => match variable_reference(rest, 0) {
                    Some((reference, end)) => {
                        let name = into_text(rest.get(reference.name.clone()).unwrap_or_default().to_vec())?;
                        let as_written = rest.get(..end).unwrap_or_default().to_vec();
                        self.input.skip(end);
                        if reference.kind != ReferenceKind::Test {
                            (quoted, unquoted_chars) = (true, 0);
                        }
                        match resolve(self.variables, self.active, reference.kind, &name)? {
                            Some(value) => text.extend_from_slice(value.as_bytes()),
                            None => text.extend_from_slice(&as_written),
                        }
                    }
                    None => {
                        unquoted_chars += 1;
                        text.push(byte);
                        self.input.skip(1);
                    }
                },
                _ => {
                    unquoted_chars += 1;
                    text.push(byte);
                    self.input.skip(1);
                }
            }
        }
        if semicolons {
            while unquoted_chars > 0 && text.last() == Some(&b';') {
                text.pop();
                unquoted_chars -= 1;
            }
        }
        Ok(if text.is_empty() && !quoted { None } else { Some(Argument { text: into_text(text)?, quoted }) })
    }

    fn up_to(&mut self, closing: u8, text: &mut Vec<u8>) -> Result<(), Problem> {
        while let Some(rest) = self.input.rest() {
            let end = run_end(rest, 0, |byte| byte != closing);
            text.extend_from_slice(rest.get(..end).unwrap_or_default());
            let closed = end < rest.len();
            self.input.skip(end + usize::from(closed));
            if closed {
                return Ok(());
            }
        }
        self.unterminated()
    }

    fn single_quoted(&mut self, text: &mut Vec<u8>) -> Result<(), Problem> {
        while let Some(rest) = self.input.rest() {
            let used = match rest {
                [b'\'', b'\'', ..] => {
                    text.push(b'\'');
                    2
                }
                [b'\'', ..] => {
                    self.input.skip(1);
                    return Ok(());
                }
                [b'\\', escape, ..] if *escape != b'\n' => {
                    let (byte, used) = unescape(rest, *escape);
                    text.push(byte);
                    used
                }
                [byte, ..] => {
                    text.push(*byte);
                    1
                }
                [] => break,
            };
            self.input.skip(used);
        }
        self.unterminated()
    }

    fn unterminated(&self) -> Result<(), Problem> {
        if self.active {
            Err(Problem::new(ErrorKind::Arguments, "unterminated quoted string"))
        } else {
            Ok(())
        }
    }

    /// Drops what is left of the command: further arguments, which psql ignores with a warning, and the `\\`
    /// that may end it.
    pub(super) fn finish(&mut self) -> Result<(), Problem> {
        self.active = false;
        while self.next(ArgumentKind::Normal, false)?.is_some() {}
        if self.input.rest().is_some_and(|rest| rest.starts_with(b"\\\\")) {
            self.input.skip(2);
        }
        Ok(())
    }
}

/// The text that stands for a reference; None leaves it as it is (`psql_get_variable`).
pub(super) fn resolve(
    variables: &Variables,
    active: bool,
    kind: ReferenceKind,
    name: &str,
) -> Result<Option<String>, Problem> {
    let value = if active { variables.get(name)? } else { None };
    Ok(match kind {
        ReferenceKind::Plain => value.map(str::to_owned),
        ReferenceKind::Literal => value.map(escape_literal),
        ReferenceKind::Identifier => value.map(escape_identifier),
        ReferenceKind::Test => Some(if value.is_some() { "TRUE" } else { "FALSE" }.to_owned()),
    })
}

/// The byte that a backslash sequence of a single-quoted argument stands for, and the length of the sequence.
fn unescape(text: &[u8], escape: u8) -> (u8, usize) {
    let number = |digits: &[u8], radix: u32| {
        let value = digits
            .iter()
            .filter_map(|&byte| char::from(byte).to_digit(radix))
            .fold(0, |n, digit| n * radix + digit);
        u8::try_from(value & 0xff).unwrap_or_default()
    };
    match escape {
        b'n' => (b'\n', 2),
        b't' => (b'\t', 2),
        b'b' => (0x08, 2),
        b'r' => (b'\r', 2),
        b'f' => (0x0c, 2),
        b'0'..=b'7' => {
            let end = run_end(text, 1, |byte| matches!(byte, b'0'..=b'7')).min(4);
            (number(text.get(1..end).unwrap_or_default(), 8), end)
        }
        b'x' if text.get(2).is_some_and(u8::is_ascii_hexdigit) => {
            let end = run_end(text, 2, |byte| byte.is_ascii_hexdigit()).min(4);
            (number(text.get(2..end).unwrap_or_default(), 16), end)
        }
        other => (other, 2),
    }
}

fn into_text(bytes: Vec<u8>) -> Result<String, Problem> {
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(Problem::new(ErrorKind::Arguments, "an argument is not UTF-8 text")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables() -> Variables {
        let given = [("v", "a b"), ("q", "it's"), ("e", "")];
        Variables::new(&given.map(|(name, value)| (name.to_owned(), value.to_owned())))
    }

    fn words(line: &str, semicolons: bool) -> Result<Vec<String>, Problem> {
        let variables = variables();
        let mut input = Input { line: line.to_owned(), ..Input::default() };
        let mut arguments = Arguments { input: &mut input, variables: &variables, active: true };
        let mut words = Vec::new();
        while let Some(argument) = arguments.next(ArgumentKind::Normal, semicolons)? {
            words.push(argument.text);
        }
        Ok(words)
    }

    #[test]
    fn words_with_quotes_and_variables() {
        for (line, expected) in [
            ("", &[][..]),
            ("  a  b ", &["a", "b"]),
            ("'a b'c", &["a bc"]),
            ("'it''s'", &["it's"]),
            (r"'a\nb\t\\\'\101\x42\q'", &["a\nb\t\\'ABq"]),
            ("\"a b\"", &["\"a b\""]),
            ("x\"a b\"'c d'", &["x\"a b\"c d"]),
            (":v x:v", &["a b", "xa b"]),
            (":'q' :\"v\"", &["'it''s'", "\"a b\""]),
            (":{?v} :{?w}", &["TRUE", "FALSE"]),
            (":w ::v :'w' :", &[":w", ":a b", ":'w'", ":"]),
            (":e", &[""]),
            ("''", &[""]),
            ("a|b | c", &["a|b", "|", "c"]),
            ("a;; b';'", &["a;;", "b;"]),
            ("a\\b", &["a"]),
        ] {
            assert_eq!(words(line, false).unwrap(), expected, "{line}");
        }
        assert_eq!(words("a;; b';'; ';':v;", true).unwrap(), ["a", "b;", ";a b"]);
        for line in ["'a", "\"a", "`date`", r"'\xff'", r"'\0'"] {
            assert!(words(line, false).is_err(), "{line}");
        }
    }

    #[test]
    fn names_end_at_blanks_and_backslashes() {
        let variables = variables();
        for (line, name, rest) in
            [("echo a", "echo", " a"), ("q\\q", "q", "\\q"), ("!x", "!x", ""), (" a", "", " a")]
        {
            let mut input = Input { line: line.to_owned(), ..Input::default() };
            let mut arguments = Arguments { input: &mut input, variables: &variables, active: true };
            assert_eq!(arguments.name().unwrap(), name);
            assert_eq!(&input.line[input.at..], rest);
        }
    }

    #[test]
    fn a_double_backslash_ends_a_command() {
        let variables = variables();
        for (line, rest) in [("a b \\\\ c", " c"), ("a b \\c", "\\c"), ("", "")] {
            let mut input = Input { line: line.to_owned(), ..Input::default() };
            let mut arguments = Arguments { input: &mut input, variables: &variables, active: true };
            arguments.finish().unwrap();
            assert_eq!(&input.line[input.at..], rest);
        }
    }

    #[test]
    fn whole_lines() {
        let variables = variables();
        let mut input = Input { line: "  a  :v 'b ;; ".to_owned(), ..Input::default() };
        let mut arguments = Arguments { input: &mut input, variables: &variables, active: true };
        let argument = arguments.next(ArgumentKind::WholeLine, true).unwrap();
        assert_eq!(argument.map(|argument| argument.text).as_deref(), Some("a  :v 'b"));
        assert_eq!(arguments.next(ArgumentKind::WholeLine, true), Ok(None));
    }
}
