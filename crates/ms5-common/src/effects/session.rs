//! What lives as long as the session or the transaction: settings, temporary objects.
//!
//! A message of several statements counts as what any of them makes, or as what all of them do.

use super::body;
use super::cursor::Cursor;
use crate::sql::{Facts, Scope, SessionControl, Statement, Token, TransactionControl, tokens};

/// Has the statement no effect but on the session, such as SET, RESET, LISTEN, LOAD, PREPARE? A run that goes on in a
/// new session must repeat it.
#[must_use]
pub fn session_only(statement: &Statement) -> bool {
    statement.facts().all(|facts| {
        if is_local(&facts) {
            return false;
        }
        if facts.setting().is_some() {
            return true;
        }
        if facts.transaction_control() == Some(TransactionControl::SetSessionCharacteristics) {
            return true;
        }
        match facts.session_control() {
            // A cursor without HOLD ends with the transaction, a notification is for others.
            Some(SessionControl::DeclareCursor) => is_held_cursor(&facts),
            Some(SessionControl::Notify) => false,
            Some(_) => true,
            None => is_set_config(&facts),
        }
    })
}

/// Does the statement set something for its transaction alone: SET LOCAL, SET CONSTRAINTS, set_config(..., true)?
#[must_use]
pub fn set_local(statement: &Statement) -> bool {
    statement.facts().any(|facts| {
        is_local(&facts) || facts.set_config_calls().iter().any(|setting| setting.scope == Scope::Local)
    })
}

fn is_local(facts: &Facts<'_>) -> bool {
    facts.begins_with(&["set", "local"]) || facts.begins_with(&["set", "constraints"])
}

fn is_held_cursor(facts: &Facts<'_>) -> bool {
    let tokens: Vec<_> = facts.tokens().collect();
    let mut cursor = Cursor::new(&tokens);
    cursor.seek(&["cursor"]) && cursor.are(&["cursor", "with", "hold"])
}

/// `SELECT set_config('a', 'b', false)` and nothing else, as pg_dump writes it.
fn is_set_config(facts: &Facts<'_>) -> bool {
    let calls = facts.set_config_calls();
    if !facts.begins_with(&["select"]) || calls.is_empty() {
        return false;
    }
    let tokens: Vec<_> = facts.tokens().skip(1).collect();
    let items = Cursor::new(&tokens).by_commas();
    let is_call = |mut item: Cursor<'_, '_>| {
        let is_named = item.name().is_some_and(|name| name.last() == "set_config");
        is_named && item.group().is_some() && item.is_at_end()
    };
    // Arguments that are no constants, which might do more, are no calls to `set_config_calls`.
    items.len() == calls.len()
        && calls.iter().all(|setting| setting.scope == Scope::Session)
        && items.into_iter().all(is_call)
}

/// Does the statement make something temporary: CREATE TEMP, SELECT INTO TEMP, an object in pg_temp? In a DO block too.
#[must_use]
pub fn makes_temporary(statement: &Statement) -> bool {
    let std_strings = statement.standard_conforming_strings;
    statement.facts().any(|facts| {
        let is_candidate = ["create", "select", "with", "do"].iter().any(|word| facts.begins_with(&[word]));
        if !is_candidate {
            return false;
        }
        let all: Vec<_> = facts.tokens().collect();
        let mut cursor = Cursor::new(&all);
        if cursor.take(&["do"]) {
            let body = body::of_do(cursor);
            return body.is_some_and(|body| {
                let all: Vec<_> = tokens(&body, std_strings).collect();
                (0..all.len()).any(|start| {
                    let mut cursor = Cursor::new(all.get(start..).unwrap_or_default());
                    cursor.take(&["create"]) && is_temporary(cursor)
                })
            });
        }
        if cursor.take(&["create"]) { is_temporary(cursor) } else { is_into_temporary(cursor) }
    })
}

/// The cursor stands behind CREATE.
fn is_temporary(mut cursor: Cursor<'_, '_>) -> bool {
    cursor.take(&["or", "replace"]);
    cursor.take_any(&["local", "global"]);
    if cursor.take_any(&["temp", "temporary"]) {
        return true;
    }
    // A view of something temporary is temporary too, whatever is made in pg_temp is, and what hangs on it.
    let is_view = cursor.are(&["view"]) || cursor.are(&["recursive", "view"]);
    let rest = cursor.rest();
    let end = if is_view { None } else { rest.iter().position(|token| token.is_word("as") || is_end(token)) };
    in_pg_temp(rest.get(..end.unwrap_or(rest.len())).unwrap_or_default())
}

fn is_end(token: &Token<'_>) -> bool {
    token.is_symbol(";") || token.is_symbol("(")
}

fn in_pg_temp(tokens: &[Token<'_>]) -> bool {
    tokens
        .windows(2)
        .any(|pair| pair[0].name().is_some_and(|name| name == "pg_temp") && pair[1].is_symbol("."))
}

/// SELECT ... INTO TEMP t; the cursor stands at SELECT or WITH.
fn is_into_temporary(mut cursor: Cursor<'_, '_>) -> bool {
    if !cursor.seek(&["into"]) {
        return false;
    }
    cursor.advance(1);
    cursor.take_any(&["local", "global"]);
    // A table may have the name of a keyword.
    let is_kind = |word: &str| {
        cursor.is(word) && cursor.ahead(1).is_some_and(|next| next.name().is_some() && !next.is_word("from"))
    };
    is_kind("temp") || is_kind("temporary") || in_pg_temp(cursor.rest().get(..2).unwrap_or_default())
}
