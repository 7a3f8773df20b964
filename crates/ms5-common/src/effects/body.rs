//! Blocks and procedures in PL/pgSQL: the code that they hold, and whether it ends the transaction.

use super::cursor::Cursor;
use super::name::Name;
use crate::sql::{Token, TokenKind, tokens};

/// The PL/pgSQL that a DO statement holds; the cursor stands behind DO.
pub(super) fn of_do(mut cursor: Cursor<'_, '_>) -> Option<String> {
    let mut body = None;
    while let Some(token) = cursor.peek() {
        if cursor.take(&["language"]) {
            if !is_plpgsql(cursor.peek()?) {
                return None;
            }
        } else {
            body = token.string_value().or(body);
        }
        cursor.advance(1);
    }
    body.map(std::borrow::Cow::into_owned)
}

/// The PL/pgSQL that a CREATE PROCEDURE holds; the cursor stands behind the name.
pub(super) fn of_procedure(mut cursor: Cursor<'_, '_>) -> Option<String> {
    let mut body = None;
    let mut is_known = false;
    while cursor.seek(&["as", "language"]) {
        let is_language = cursor.is("language");
        cursor.advance(1);
        let token = cursor.peek()?;
        if is_language {
            is_known = is_plpgsql(token);
        } else {
            body = token.string_value();
        }
    }
    body.filter(|_| is_known).map(std::borrow::Cow::into_owned)
}

fn is_plpgsql(token: &Token<'_>) -> bool {
    token.string_value().or_else(|| token.name()).is_some_and(|name| name.eq_ignore_ascii_case("plpgsql"))
}

/// The first statement of a PL/pgSQL body that ends the transaction: COMMIT, ROLLBACK, or a CALL of what
/// `committing` knows.
pub(super) fn commits(
    body: &str,
    std_strings: bool,
    committing: impl Fn(&Name, Cursor<'_, '_>) -> Option<String>,
) -> Option<String> {
    let tokens: Vec<_> = tokens(body, std_strings).collect();
    let mut cursor = Cursor::new(&tokens);
    let mut is_start = true;
    while let Some(token) = cursor.peek() {
        cursor.advance(1);
        if is_start && (token.is_word("commit") || token.is_word("rollback")) {
            let is_alone = cursor.peek().is_none_or(|next| next.is_symbol(";") || next.is_word("and"));
            if is_alone {
                return token.name().map(|word| word.to_ascii_uppercase());
            }
        }
        if is_start && token.is_word("call") {
            let mut call = cursor;
            if let Some(what) = call.name().and_then(|name| committing(&name, call)) {
                return Some(what);
            }
        }
        is_start = is_before_statement(token);
    }
    None
}

/// May a statement begin behind this token? A label ends in `>>`.
fn is_before_statement(token: &Token<'_>) -> bool {
    token.is_symbol(";")
        || token.is_symbol(">>")
        || token.kind == TokenKind::Word
            && ["begin", "then", "else", "loop"].iter().any(|word| token.is_word(word))
}
