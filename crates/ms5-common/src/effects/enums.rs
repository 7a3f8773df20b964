//! Values that ALTER TYPE ... ADD VALUE adds: the transaction that adds one may not use it (55P04), unless it made
//! the type too.

use super::cursor::Cursor;
use super::name::Name;
use super::outside::Outside;
use crate::sql::{Statement, Token, TokenKind, tokens};

/// Marks the statements whose value must be committed before the file goes on.
///
/// The statements between two that stand outside are taken for one transaction. Not seen are values in the rows
/// of a COPY, in arrays written as one string, and in functions of earlier files.
pub(super) fn mark(statements: &[&Statement], found: &mut [Option<Outside>]) {
    let mut made: Vec<Name> = Vec::new();
    for index in 0..statements.len().min(found.len()) {
        if found[index].is_some() {
            made.clear();
            continue;
        }
        let end = found[index..].iter().position(Option::is_some).map_or(statements.len(), |end| index + end);
        let statement = statements[index];
        let std_strings = statement.standard_conforming_strings;
        let parts: Vec<_> = statement.parts().map(|(_, text)| text).collect();
        for (place, text) in parts.iter().enumerate() {
            let tokens: Vec<_> = tokens(text, std_strings).take(LONGEST).collect();
            let cursor = Cursor::new(&tokens);
            made.extend(made_type(cursor));
            let Some((name, value)) = added_value(cursor) else { continue };
            let rest = statements.get(index + 1..end).unwrap_or_default().iter();
            let later = rest
                .flat_map(|later| later.parts().map(|(_, text)| (text, later.standard_conforming_strings)));
            let joined = parts.get(place + 1..).unwrap_or_default().iter().map(|text| (*text, std_strings));
            let is_made_here = made.iter().any(|made| made.may_be(&name));
            if !is_made_here && joined.chain(later).any(|(text, std_strings)| uses(text, std_strings, &value))
            {
                let outside = Outside::EnumValue { type_name: name.text, value };
                let is_alone = parts.len() == 1;
                found[index] = Some(if is_alone { outside } else { Outside::Joined(Box::new(outside)) });
                made.clear();
                break;
            }
        }
    }
}

/// As many tokens as ALTER TYPE ... ADD VALUE has before and with the value.
const LONGEST: usize = 16;

/// The type that a CREATE TYPE ... AS ENUM makes.
fn made_type(mut cursor: Cursor<'_, '_>) -> Option<Name> {
    if cursor.take(&["create", "type"]) { cursor.name() } else { None }
}

fn added_value(mut cursor: Cursor<'_, '_>) -> Option<(Name, String)> {
    if !cursor.take(&["alter", "type"]) {
        return None;
    }
    let name = cursor.name()?;
    if !cursor.take(&["add", "value"]) {
        return None;
    }
    cursor.take_if();
    let value = cursor.peek()?;
    Some((name, text_of(value)))
}

fn text_of(token: &Token<'_>) -> String {
    token.string_value().map_or_else(|| token.text.to_owned(), |value| value.into_owned())
}

/// Does a statement hold this value as a string? ALTER TYPE may: a neighbour's name is not a use.
fn uses(text: &str, std_strings: bool, value: &str) -> bool {
    let mut found = tokens(text, std_strings).peekable();
    if found.next_if(|token| token.is_word("alter")).is_some()
        && found.peek().is_some_and(|next| next.is_word("type"))
    {
        return false;
    }
    found.any(|token| match token.kind {
        TokenKind::String | TokenKind::EscapeString | TokenKind::UnicodeString => text_of(&token) == value,
        TokenKind::DollarString => {
            token.string_value().is_some_and(|body| body == value || uses(&body, std_strings, value))
        }
        _ => false,
    })
}
