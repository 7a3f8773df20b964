//! The tokens of one statement's text, as the server's scanner reads them.
//!
//! Source: `src/backend/parser/scan.l` (PostgreSQL 18). Unlike psql's scanner this one sees the whole text, so a
//! string that goes on behind a newline is one token. It is total: every text has tokens, whatever it holds.

use std::borrow::Cow;
use std::ops::Range;

use super::rules::{
    blank_end, dollar_delimiter_end, find_from, is_ident_cont, is_ident_start, is_operator_char, is_pair,
    number_end, operator_end, quote_continues, run_end,
};

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// A keyword or an identifier without quotes.
    Word,
    /// A quoted identifier.
    Identifier,
    /// A quoted identifier with Unicode escapes, `U&"..."`.
    UnicodeIdentifier,
    /// A string without escapes but doubled quotes.
    String,
    /// A string with backslash escapes: `E'...'`, or any with standard_conforming_strings off.
    EscapeString,
    /// A string with Unicode escapes, `U&'...'`.
    UnicodeString,
    /// A bit string, `B'...'` or `X'...'`.
    BitString,
    /// A dollar-quoted string.
    DollarString,
    /// A number.
    Number,
    /// A parameter, `$1`.
    Parameter,
    /// An operator, `::`, `:=` and `..` among them.
    Operator,
    /// One of `( ) [ ] , ; . :`, or any other character.
    Punctuation,
    /// A string, quoted identifier or comment without an end.
    Unterminated,
}

/// A token of a statement's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token<'a> {
    /// What it is.
    pub kind: TokenKind,
    /// The token as it is written.
    pub text: &'a str,
    /// Where it stands in the statement's text, in bytes.
    pub range: Range<usize>,
}

impl<'a> Token<'a> {
    /// Is it this keyword (or unquoted identifier)? `word` is given in lower case.
    pub fn is_word(&self, word: &str) -> bool {
        self.kind == TokenKind::Word && self.text.eq_ignore_ascii_case(word)
    }

    /// Is it this punctuation or operator?
    pub fn is_symbol(&self, symbol: &str) -> bool {
        matches!(self.kind, TokenKind::Punctuation | TokenKind::Operator) && self.text == symbol
    }

    /// The name, if it is an identifier: in lower case, or what the quotes hold. Unicode escapes are left alone.
    pub fn name(&self) -> Option<Cow<'a, str>> {
        match self.kind {
            TokenKind::Word if self.text.bytes().any(|byte| byte.is_ascii_uppercase()) => {
                Some(Cow::Owned(self.text.to_ascii_lowercase()))
            }
            TokenKind::Word => Some(Cow::Borrowed(self.text)),
            TokenKind::Identifier => {
                let inner = self.text.get(1..self.text.len().checked_sub(1)?)?;
                Some(if inner.contains('"') {
                    Cow::Owned(inner.replace("\"\"", "\""))
                } else {
                    Cow::Borrowed(inner)
                })
            }
            _ => None,
        }
    }

    /// What a string holds. None for other tokens, for Unicode and bit strings, and for escape strings that hold
    /// an octal, hexadecimal or Unicode escape.
    pub fn string_value(&self) -> Option<Cow<'a, str>> {
        match self.kind {
            TokenKind::DollarString => {
                let delimiter = dollar_delimiter_end(self.text.as_bytes(), 0)?;
                self.text.get(delimiter..self.text.len().checked_sub(delimiter)?).map(Cow::Borrowed)
            }
            TokenKind::String | TokenKind::EscapeString => self.quoted_value().map(Cow::Owned),
            _ => None,
        }
    }

    fn quoted_value(&self) -> Option<String> {
        let bytes = self.text.as_bytes();
        let mut value = Vec::with_capacity(bytes.len());
        let mut at = find_from(bytes, 0, b'\'') + 1;
        loop {
            match (bytes.get(at)?, bytes.get(at + 1)) {
                (b'\'', Some(b'\'')) => {
                    value.push(b'\'');
                    at += 2;
                }
                (b'\'', _) => match quote_continues(bytes, at + 1) {
                    Some(next) => at = next,
                    None => return String::from_utf8(value).ok(),
                },
                (b'\\', Some(escape)) if self.kind == TokenKind::EscapeString => {
                    value.push(match escape {
                        b'b' => 0x08,
                        b'f' => 0x0c,
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        b'v' => 0x0b,
                        b'0'..=b'7' | b'x' | b'u' | b'U' => return None,
                        other => *other,
                    });
                    at += 2;
                }
                (byte, _) => {
                    value.push(*byte);
                    at += 1;
                }
            }
        }
    }
}

/// Iterates over the tokens of a text, whitespace and comments left out.
#[derive(Debug, Clone)]
pub struct Tokens<'a> {
    text: &'a str,
    at: usize,
    std_strings: bool,
}

/// The tokens of `text`, read under this setting of standard_conforming_strings.
pub fn tokens(text: &str, standard_conforming_strings: bool) -> Tokens<'_> {
    Tokens { text, at: 0, std_strings: standard_conforming_strings }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        let bytes = self.text.as_bytes();
        // Whitespace and comments.
        loop {
            self.at = blank_end(bytes, self.at);
            if !is_pair(bytes, self.at, b'/', b'*') {
                break;
            }
            match comment_end(bytes, self.at) {
                Some(end) => self.at = end,
                None => return self.token(TokenKind::Unterminated, bytes.len()),
            }
        }
        let at = self.at;
        let byte = *bytes.get(at)?;
        let next = bytes.get(at + 1).copied();
        let standard = if self.std_strings { TokenKind::String } else { TokenKind::EscapeString };
        let (kind, end) = match byte {
            b'\'' => string(bytes, at, standard),
            b'b' | b'B' | b'x' | b'X' if next == Some(b'\'') => string(bytes, at + 1, TokenKind::BitString),
            b'e' | b'E' if next == Some(b'\'') => string(bytes, at + 1, TokenKind::EscapeString),
            b'n' | b'N' if next == Some(b'\'') => string(bytes, at + 1, standard),
            b'u' | b'U' if is_pair(bytes, at + 1, b'&', b'\'') => {
                string(bytes, at + 2, TokenKind::UnicodeString)
            }
            b'u' | b'U' if is_pair(bytes, at + 1, b'&', b'"') => {
                identifier(bytes, at + 2, TokenKind::UnicodeIdentifier)
            }
            b'"' => identifier(bytes, at, TokenKind::Identifier),
            _ if is_ident_start(byte) => (TokenKind::Word, run_end(bytes, at, is_ident_cont)),
            b'0'..=b'9' => (TokenKind::Number, number_end(bytes, at)),
            b'.' if next.is_some_and(|byte| byte.is_ascii_digit()) => {
                (TokenKind::Number, number_end(bytes, at))
            }
            b'$' => dollar(bytes, at),
            _ if is_operator_char(byte) => (TokenKind::Operator, operator_end(bytes, at)),
            b':' if matches!(next, Some(b':' | b'=')) => (TokenKind::Operator, at + 2),
            b'.' if next == Some(b'.') => (TokenKind::Operator, at + 2),
            _ => (TokenKind::Punctuation, at + 1),
        };
        self.token(kind, end)
    }
}

impl<'a> Tokens<'a> {
    fn token(&mut self, kind: TokenKind, end: usize) -> Option<Token<'a>> {
        let range = self.at..end;
        self.at = end;
        self.text.get(range.clone()).map(|text| Token { kind, text, range })
    }
}

/// Is there no token in `text`, only whitespace, comments and semicolons?
pub(super) fn is_blank(text: &str, std_strings: bool) -> bool {
    let begins_with_token = text.bytes().next().is_some_and(is_ident_start);
    !begins_with_token && tokens(text, std_strings).all(|token| token.is_symbol(";"))
}

fn comment_end(text: &[u8], at: usize) -> Option<usize> {
    let mut depth = 0_u32;
    let mut at = at;
    loop {
        at = run_end(text, at, |byte| byte != b'*' && byte != b'/');
        if is_pair(text, at, b'/', b'*') {
            depth = depth.saturating_add(1);
            at += 2;
        } else if is_pair(text, at, b'*', b'/') {
            depth = depth.saturating_sub(1);
            at += 2;
            if depth == 0 {
                return Some(at);
            }
        } else if at < text.len() {
            at += 1;
        } else {
            return None;
        }
    }
}

/// A string whose opening quote stands at `quote`.
fn string(text: &[u8], quote: usize, kind: TokenKind) -> (TokenKind, usize) {
    let mut at = quote + 1;
    loop {
        at = run_end(text, at, |byte| byte != b'\'' && byte != b'\\');
        match text.get(at) {
            None => return (TokenKind::Unterminated, text.len()),
            Some(b'\\') if kind == TokenKind::EscapeString => at = (at + 2).min(text.len()),
            Some(b'\\') => at += 1,
            Some(_) if kind != TokenKind::BitString && text.get(at + 1) == Some(&b'\'') => at += 2,
            Some(_) => match quote_continues(text, at + 1) {
                Some(next) => at = next,
                None => return (kind, at + 1),
            },
        }
    }
}

fn identifier(text: &[u8], quote: usize, kind: TokenKind) -> (TokenKind, usize) {
    let mut at = quote + 1;
    loop {
        at = find_from(text, at, b'"');
        if at == text.len() {
            return (TokenKind::Unterminated, at);
        }
        if text.get(at + 1) != Some(&b'"') {
            return (kind, at + 1);
        }
        at += 2;
    }
}

fn dollar(text: &[u8], at: usize) -> (TokenKind, usize) {
    let Some(start) = dollar_delimiter_end(text, at) else {
        let digits = run_end(text, at + 1, |byte| byte.is_ascii_digit());
        if digits == at + 1 {
            return (TokenKind::Punctuation, digits);
        }
        let junk = text.get(digits).is_some_and(|&byte| is_ident_start(byte));
        return (TokenKind::Parameter, if junk { run_end(text, digits, is_ident_cont) } else { digits });
    };
    let delimiter = text.get(at..start).unwrap_or_default();
    let mut end = start;
    loop {
        end = find_from(text, end, b'$');
        match text.get(end..) {
            Some(rest) if rest.starts_with(delimiter) => {
                return (TokenKind::DollarString, end + delimiter.len());
            }
            Some([_, ..]) => end += 1,
            _ => return (TokenKind::Unterminated, text.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<(TokenKind, &str)> {
        tokens(text, true).map(|token| (token.kind, token.text)).collect()
    }

    #[test]
    fn kinds_of_tokens() {
        use TokenKind::{
            BitString, DollarString, EscapeString, Identifier, Number, Operator, Parameter, Punctuation,
            String, UnicodeIdentifier, UnicodeString, Unterminated, Word,
        };
        for (text, expected) in [
            ("Select a$b, ä", &[(Word, "Select"), (Word, "a$b"), (Punctuation, ","), (Word, "ä")][..]),
            ("\"a\"\"b\"u&\"c\"", &[(Identifier, "\"a\"\"b\""), (UnicodeIdentifier, "u&\"c\"")]),
            ("'a\\'e'\\''n'x'", &[(String, "'a\\'"), (EscapeString, "e'\\''"), (String, "n'x'")]),
            ("U&'\\'b'1'X'f'", &[(UnicodeString, "U&'\\'"), (BitString, "b'1'"), (BitString, "X'f'")]),
            ("'a' -- c\n 'b'  'd'", &[(String, "'a' -- c\n 'b'"), (String, "'d'")]),
            (
                "$1$$a$b$$$x$ $$ $x$",
                &[(Parameter, "$1"), (DollarString, "$$a$b$$"), (DollarString, "$x$ $$ $x$")],
            ),
            ("1.5e3+.5", &[(Number, "1.5e3"), (Operator, "+"), (Number, ".5")]),
            (
                "a::b:=c..d",
                &[
                    (Word, "a"),
                    (Operator, "::"),
                    (Word, "b"),
                    (Operator, ":="),
                    (Word, "c"),
                    (Operator, ".."),
                    (Word, "d"),
                ],
            ),
            ("1 /* /* */ - */ @-- x\n-2", &[(Number, "1"), (Operator, "@"), (Operator, "-"), (Number, "2")]),
            ("u&x", &[(Word, "u"), (Operator, "&"), (Word, "x")]),
            ("a 'b", &[(Word, "a"), (Unterminated, "'b")]),
            ("a /* b", &[(Word, "a"), (Unterminated, "/* b")]),
            ("a \"b", &[(Word, "a"), (Unterminated, "\"b")]),
            ("a $x$ $", &[(Word, "a"), (Unterminated, "$x$ $")]),
            (
                "$a [1]",
                &[(Punctuation, "$"), (Word, "a"), (Punctuation, "["), (Number, "1"), (Punctuation, "]")],
            ),
        ] {
            assert_eq!(kinds(text), expected, "{text}");
        }
        assert_eq!(tokens("'\\''", false).map(|token| token.kind).collect::<Vec<_>>(), [EscapeString]);
    }

    #[test]
    fn values() {
        let name = |text| tokens(text, true).next().and_then(|token| token.name().map(Cow::into_owned));
        assert_eq!(name("AbC").as_deref(), Some("abc"));
        assert_eq!(name("\"A\"\"b\"").as_deref(), Some("A\"b"));
        assert_eq!(name("'a'"), None);
        let value =
            |text| tokens(text, true).next().and_then(|token| token.string_value().map(Cow::into_owned));
        assert_eq!(value("'a''b'").as_deref(), Some("a'b"));
        assert_eq!(value("'a'\n'b'").as_deref(), Some("ab"));
        assert_eq!(value("e'a\\n\\''").as_deref(), Some("a\n'"));
        assert_eq!(value("e'\\x41'"), None);
        assert_eq!(value("$x$a$x$").as_deref(), Some("a"));
        assert_eq!(value("$$$$").as_deref(), Some(""));
        assert_eq!(value("a"), None);
    }

    #[test]
    fn blank_texts() {
        for text in ["", " \n", "-- a", "/* a */ ; -- b"] {
            assert!(is_blank(text, true), "{text}");
        }
        assert!(!is_blank("/* a */ b", true));
        assert!(!is_blank("/* a", true));
    }
}
