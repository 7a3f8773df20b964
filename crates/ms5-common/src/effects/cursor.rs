//! A place in the tokens of one statement, to read its grammar from left to right.

use super::name::Name;
use crate::sql::{Token, TokenKind, parse_bool};

/// Tokens that are still to be read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'t, 'a> {
    rest: &'t [Token<'a>],
}

/// An option of a list in parentheses.
#[derive(Debug)]
pub(super) struct OptionItem {
    /// The name, in lower case.
    pub(super) name: Name,
    /// The value, as far as it is one token.
    value: Option<String>,
}

impl OptionItem {
    /// Is it on? Without a value it is, and with one that no switch has, so that nothing is overlooked.
    pub(super) fn is_on(&self) -> bool {
        self.value.as_deref().is_none_or(|value| parse_bool(value).unwrap_or(true))
    }

    /// Is it this option of TimescaleDB's, which has a short name too?
    pub(super) fn is_timescale(&self, option: &str) -> bool {
        let [namespace, name] = self.name.parts.as_slice() else { return false };
        matches!(namespace.as_str(), "timescaledb" | "tsdb") && name == option
    }
}

impl<'t, 'a> Cursor<'t, 'a> {
    /// At the first of these tokens.
    pub(super) fn new(tokens: &'t [Token<'a>]) -> Self {
        Self { rest: tokens }
    }

    /// The next token.
    pub(super) fn peek(&self) -> Option<&'t Token<'a>> {
        self.rest.first()
    }

    /// The token at this distance.
    pub(super) fn ahead(&self, distance: usize) -> Option<&'t Token<'a>> {
        self.rest.get(distance)
    }

    /// Are all tokens read?
    pub(super) fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// What is still to be read.
    pub(super) fn rest(&self) -> &'t [Token<'a>] {
        self.rest
    }

    /// Is the next token this keyword?
    pub(super) fn is(&self, word: &str) -> bool {
        self.peek().is_some_and(|token| token.is_word(word))
    }

    /// Do these keywords come next?
    pub(super) fn are(&self, words: &[&str]) -> bool {
        words
            .iter()
            .enumerate()
            .all(|(index, word)| self.rest.get(index).is_some_and(|token| token.is_word(word)))
    }

    /// Reads these keywords, if they come next.
    pub(super) fn take(&mut self, words: &[&str]) -> bool {
        let found = self.are(words);
        if found {
            self.advance(words.len());
        }
        found
    }

    /// Reads one of these keywords, if it comes next.
    pub(super) fn take_any(&mut self, words: &[&str]) -> bool {
        words.iter().any(|word| self.take(&[word]))
    }

    /// Reads a symbol, if it comes next.
    pub(super) fn take_symbol(&mut self, symbol: &str) -> bool {
        let found = self.peek().is_some_and(|token| token.is_symbol(symbol));
        if found {
            self.advance(1);
        }
        found
    }

    /// Goes on by so many tokens.
    pub(super) fn advance(&mut self, count: usize) {
        self.rest = self.rest.get(count..).unwrap_or_default();
    }

    /// Reads one token; for an opening parenthesis, all up to the one that closes it.
    pub(super) fn skip(&mut self) -> Option<&'t Token<'a>> {
        let token = self.peek()?;
        if self.group().is_none() {
            self.advance(1);
        }
        Some(token)
    }

    /// Reads parentheses, if they come next, and gives what they hold.
    pub(super) fn group(&mut self) -> Option<Cursor<'t, 'a>> {
        if !self.peek()?.is_symbol("(") {
            return None;
        }
        let mut depth = 0_usize;
        let end = self.rest.iter().position(|token| {
            if token.is_symbol("(") {
                depth += 1;
            } else if token.is_symbol(")") {
                depth = depth.saturating_sub(1);
            }
            depth == 0
        });
        let end = end.unwrap_or(self.rest.len());
        let inside = Cursor::new(self.rest.get(1..end).unwrap_or_default());
        self.advance(end + 1);
        Some(inside)
    }

    /// Goes to the first of these keywords outside of parentheses, and says whether there is one.
    pub(super) fn seek(&mut self, words: &[&str]) -> bool {
        while !self.is_at_end() {
            if words.iter().any(|word| self.is(word)) {
                return true;
            }
            self.skip();
        }
        false
    }

    /// The pieces between commas outside of parentheses.
    pub(super) fn by_commas(mut self) -> Vec<Cursor<'t, 'a>> {
        let mut pieces = Vec::new();
        let mut start = self.rest;
        while !self.is_at_end() {
            if self.peek().is_some_and(|token| token.is_symbol(",")) {
                let length = start.len() - self.rest.len();
                pieces.push(Cursor::new(start.get(..length).unwrap_or_default()));
                self.advance(1);
                start = self.rest;
            } else {
                self.skip();
            }
        }
        if !start.is_empty() {
            pieces.push(Cursor::new(start));
        }
        pieces
    }

    /// Reads a name, which may have dots.
    pub(super) fn name(&mut self) -> Option<Name> {
        let mut name = Name { text: String::new(), parts: Vec::new() };
        loop {
            let token = self.peek().filter(|token| is_name(token))?;
            self.advance(1);
            name.text.push_str(token.text);
            // Unicode escapes are left as they are written.
            name.parts.push(token.name().map_or_else(|| token.text.to_owned(), |part| part.into_owned()));
            if !self.take_symbol(".") {
                return Some(name);
            }
            name.text.push('.');
        }
    }

    /// Reads a name as it is written.
    pub(super) fn name_text(&mut self) -> Option<String> {
        self.name().map(|name| name.text)
    }

    /// Reads a table's name, with ONLY before it or an asterisk behind it.
    pub(super) fn relation(&mut self) -> Option<Name> {
        let name = if self.take(&["only"]) {
            match self.group() {
                Some(mut inside) => inside.name(),
                None => self.name(),
            }
        } else {
            self.name()
        };
        self.take_symbol("*");
        name
    }

    /// Reads IF EXISTS or IF NOT EXISTS.
    pub(super) fn take_if(&mut self) -> bool {
        self.take(&["if", "exists"]) || self.take(&["if", "not", "exists"])
    }

    /// Reads a list of options in parentheses: `name`, `name value` or `name = value`.
    pub(super) fn options(&mut self) -> Vec<OptionItem> {
        let Some(inside) = self.group() else { return Vec::new() };
        let option = |mut item: Cursor<'_, '_>| {
            let name = item.name()?;
            item.take_symbol("=");
            let value = item.peek().map(|token| {
                let value = token.string_value().or_else(|| token.name());
                value.map_or_else(|| token.text.to_owned(), |value| value.into_owned())
            });
            Some(OptionItem { name, value })
        };
        inside.by_commas().into_iter().filter_map(option).collect()
    }

    /// The options of the first `WITH (...)` outside of parentheses.
    pub(super) fn with_options(mut self) -> Vec<OptionItem> {
        while self.seek(&["with"]) {
            self.advance(1);
            if self.peek().is_some_and(|token| token.is_symbol("(")) {
                return self.options();
            }
        }
        Vec::new()
    }
}

fn is_name(token: &Token<'_>) -> bool {
    matches!(token.kind, TokenKind::Word | TokenKind::Identifier | TokenKind::UnicodeIdentifier)
}
