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
    let is_end =
        |token: &Token<'_>| token.is_symbol(";") || !is_view && (token.is_symbol("(") || token.is_word("as"));
    let rest = cursor.rest();
    let end = rest.iter().position(is_end).unwrap_or(rest.len());
    in_pg_temp(rest.get(..end).unwrap_or_default())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effects::testing::statement;

    #[test]
    fn what_only_the_session_keeps() {
        for text in [
            "SET search_path = factory",
            "set /* a */ session statement_timeout to 0",
            "set time zone 'UTC'",
            "RESET ALL",
            "reset work_mem",
            "set role bob",
            "reset role",
            "set session characteristics as transaction read only",
            "select set_config('a.b', 'c', false)",
            "SELECT pg_catalog.set_config('search_path', '', false)",
            "select set_config('a.b', 'c', false), set_config('a.c', 'd', false)",
            "listen a",
            "unlisten *",
            "load 'timescaledb'",
            "prepare p as insert into t values ($1)",
            "deallocate all",
            "discard plans",
            "declare c cursor with hold for select 1",
            "set a.b = 1 \\; set a.c = 2",
        ] {
            assert!(session_only(&statement(text)), "{text}");
        }
        for text in [
            "set local work_mem = '1MB'",
            "set local role bob",
            "set constraints all deferred",
            "select set_config('a.b', 'c', true)",
            "select set_config('a.b', f(), false)",
            "select set_config('a.b', 'c', false), f()",
            "select set_config('a.b', 'c', false) from t",
            "select f(set_config('a.b', 'c', false))",
            "insert into t select set_config('a.b', 'c', false)",
            "notify a",
            "declare c cursor for select 1",
            "prepare transaction 'a'",
            "select 1",
            "show all",
            "set a.b = 1 \\; create table t ()",
            "alter role bob set a.b = 1",
        ] {
            assert!(!session_only(&statement(text)), "{text}");
        }
    }

    #[test]
    fn what_only_the_transaction_keeps() {
        for text in [
            "set local work_mem = '1MB'",
            "SET LOCAL ROLE bob",
            "set constraints all deferred",
            "select set_config('a.b', 'c', true)",
            "select 1 \\; set local a.b = 1",
        ] {
            assert!(set_local(&statement(text)), "{text}");
        }
        for text in
            ["set work_mem = '1MB'", "set session a.b = 'local'", "select set_config('a.b', 'c', false)"]
        {
            assert!(!set_local(&statement(text)), "{text}");
        }
    }

    #[test]
    fn what_is_temporary() {
        for text in [
            "create temp table t (a int)",
            "create temporary view v as select 1",
            "CREATE LOCAL TEMPORARY TABLE t AS SELECT 1",
            "create global temp table t ()",
            "create or replace temp view v as select 1",
            "create temp sequence s",
            "create table pg_temp.t (a int)",
            "create table if not exists \"pg_temp\".t (a int)",
            "create function pg_temp.f() returns int language sql as 'select 1'",
            "create index on pg_temp.t (a)",
            "create view v as select * from pg_temp.t",
            "create recursive view v (a) as select a from pg_temp.t",
            "select 1 as a into global temporary t",
            "select 1 as a into temp t",
            "select 1 as a into temporary table t from b",
            "select 1 as a into local temp t",
            "select 1 as a into pg_temp.t",
            "with a as (select 1) select * into temp t from a",
            "do $$ begin create temp table t (); end $$",
            "do $$ begin create table pg_temp.t (); end $$",
            "select 1 \\; create temp table t ()",
        ] {
            assert!(makes_temporary(&statement(text)), "{text}");
        }
        for text in [
            "create table temp (a int)",
            "create table pg_temp (a int)",
            "create table s.t (a int)",
            "create table t as select * from pg_temp.t",
            "create table t (a int default pg_temp.f())",
            "create view v as select 'pg_temp.t'",
            "select 1 as a into temp",
            "select 1 as a into temp from t",
            "insert into temp select 1",
            "insert into pg_temp.t values (1)",
            "select * from pg_temp.t",
            "do $$ begin perform 'create temp'; end $$",
            "do $$ begin create view v as select 1; perform pg_temp.f(); end $$",
            "drop table pg_temp.t",
        ] {
            assert!(!makes_temporary(&statement(text)), "{text}");
        }
    }
}
