//! What each kind of statement locks.
//!
//! Source: "Explicit Locking" and the reference pages of PostgreSQL 15 to 18, held against `pg_locks`.

use super::cursor::Cursor;
use super::locks::{Effects, LockMode, Rewrite, UNREAD};
use super::{alter_table, create, query, upkeep};
use crate::sql::Statement;
use LockMode::{
    AccessExclusive, AccessShare, Exclusive, RowExclusive, RowShare, Share, ShareRowExclusive,
    ShareUpdateExclusive,
};

/// What a statement locks, and how much work it does under the lock. Only what its text names: what depends on it, what
/// a trigger or a foreign key reaches and the chunks of a hypertable are locked too.
#[must_use]
pub fn effects(statement: &Statement) -> Effects {
    let mut all = Effects::NONE;
    for facts in statement.facts() {
        let tokens: Vec<_> = facts.tokens().collect();
        all.merge(of_text(Cursor::new(&tokens)));
    }
    all
}

/// For statements that run code.
pub(super) const CODE: &str = "runs code that is not looked into";
const DEPENDENTS: &str = "reaches objects that its text does not name";

fn of_text(mut cursor: Cursor<'_, '_>) -> Effects {
    let start = cursor;
    let first = cursor.peek().and_then(|token| token.name());
    cursor.advance(1);
    match first.as_deref().unwrap_or_default() {
        "select" | "values" | "table" | "with" | "" => query::of_query(start),
        "insert" | "update" | "delete" | "merge" => {
            // The functions of an expression are taken for what they mostly are.
            Effects { opaque: None, ..query::of_query(start) }
        }
        "explain" => {
            cursor.group();
            while cursor.take_any(&["analyze", "analyse", "verbose"]) {}
            of_text(cursor)
        }
        "prepare" if cursor.seek(&["as"]) => {
            cursor.advance(1);
            of_text(cursor)
        }
        "declare" if cursor.seek(&["for"]) => {
            cursor.advance(1);
            query::of_query(cursor)
        }
        "do" | "call" | "execute" => Effects::opaque(CODE),
        "create" => create::of_create(cursor),
        "alter" => alter(cursor),
        "drop" => drop(cursor),
        "copy" => copy(cursor),
        "lock" => lock(cursor),
        "truncate" => {
            cursor.take(&["table"]);
            each(AccessExclusive, cursor)
        }
        "comment" | "security" => comment(cursor),
        "vacuum" | "analyze" | "analyse" => upkeep::vacuum(start),
        "cluster" => upkeep::cluster(cursor),
        "reindex" => upkeep::reindex(cursor),
        "refresh" => upkeep::refresh(cursor),
        "reassign" => Effects::opaque(DEPENDENTS),
        "import" => Effects::opaque(CODE),
        "grant" | "revoke" | "set" | "reset" | "show" | "listen" | "unlisten" | "notify" | "load"
        | "prepare" | "deallocate" | "discard" | "checkpoint" | "begin" | "start" | "commit" | "end"
        | "rollback" | "abort" | "savepoint" | "release" | "fetch" | "move" | "close" => Effects::NONE,
        _ => Effects::opaque(UNREAD),
    }
}

/// One lock on what comes next.
pub(super) fn next(mode: LockMode, mut cursor: Cursor<'_, '_>) -> Effects {
    let mut effects = Effects::NONE;
    effects.lock(mode, cursor.relation());
    effects
}

/// The same lock on each of a list.
pub(super) fn each(mode: LockMode, cursor: Cursor<'_, '_>) -> Effects {
    let mut effects = Effects::NONE;
    for mut item in cursor.by_commas() {
        effects.lock(mode, item.relation());
    }
    if cursor.rest().last().is_some_and(|last| last.is_word("cascade")) {
        effects.opaque = Some(DEPENDENTS);
    }
    effects
}

/// The same lock on the table of each of a list of indexes.
pub(super) fn tables_of(mode: LockMode, cursor: Cursor<'_, '_>) -> Effects {
    let mut effects = Effects::NONE;
    for name in cursor.by_commas().into_iter().filter_map(|mut item| item.name_text()) {
        effects.lock_on(mode, format!("the table of {name}"));
    }
    effects
}

/// A lock on the table behind ON.
pub(super) fn on_table(mode: LockMode, mut cursor: Cursor<'_, '_>) -> Effects {
    cursor.seek(&["on"]);
    cursor.advance(1);
    next(mode, cursor)
}

/// The tables of a publication.
pub(super) fn published(mut cursor: Cursor<'_, '_>) -> Effects {
    let mut effects = Effects::NONE;
    if !cursor.seek(&["table"]) {
        return effects;
    }
    for mut item in cursor.by_commas() {
        item.take(&["table"]);
        if !item.is("tables") {
            effects.lock(ShareUpdateExclusive, item.relation());
        }
    }
    effects
}

fn alter(mut cursor: Cursor<'_, '_>) -> Effects {
    cursor.take(&["foreign"]);
    if cursor.take_any(&["table", "view"]) || cursor.take(&["materialized", "view"]) {
        return alter_table::of_alter(cursor);
    }
    if cursor.take(&["index"]) {
        let is_renamed = cursor.rest().iter().any(|token| token.is_word("rename"));
        cursor.take_if();
        return if is_renamed { next(ShareUpdateExclusive, cursor) } else { alter_table::of_alter(cursor) };
    }
    if cursor.take(&["sequence"]) {
        cursor.take_if();
        let mut behind = cursor;
        behind.name();
        let is_whole = behind.is("rename") || behind.is("owner") || behind.is("set");
        return next(if is_whole { AccessExclusive } else { ShareRowExclusive }, cursor);
    }
    if cursor.take(&["policy"]) || cursor.take(&["trigger"]) || cursor.take(&["rule"]) {
        return on_table(AccessExclusive, cursor);
    }
    if cursor.take(&["publication"]) {
        return published(cursor);
    }
    if cursor.take(&["domain"]) {
        let name = cursor.name_text().unwrap_or_default();
        let is_checked = cursor.is("add") || cursor.is("validate") || cursor.are(&["set", "not", "null"]);
        let is_valid = cursor.rest().iter().any(|token| token.is_word("valid"));
        if !is_checked || is_valid {
            return Effects::NONE;
        }
        let mut effects = Effects::NONE;
        effects.lock_on(Share, format!("every table with a column of {name}"));
        return effects.with(Rewrite::Scan);
    }
    if cursor.is("extension") { Effects::opaque(CODE) } else { Effects::NONE }
}

fn drop(mut cursor: Cursor<'_, '_>) -> Effects {
    cursor.take(&["foreign"]);
    let is_cascade = cursor.rest().last().is_some_and(|last| last.is_word("cascade"));
    if cursor.take_any(&["table", "view", "sequence"]) || cursor.take(&["materialized", "view"]) {
        cursor.take_if();
        return each(AccessExclusive, cursor);
    }
    if cursor.take(&["index"]) {
        let concurrently = cursor.take(&["concurrently"]);
        let mode = if concurrently { ShareUpdateExclusive } else { AccessExclusive };
        cursor.take_if();
        let mut effects = each(mode, cursor);
        effects.merge(tables_of(mode, cursor));
        return effects;
    }
    if cursor.take_any(&["trigger", "rule", "policy"]) {
        return on_table(AccessExclusive, cursor);
    }
    let reaches = is_cascade || cursor.is("owned") || cursor.is("extension");
    if reaches { Effects::opaque(DEPENDENTS) } else { Effects::NONE }
}

fn copy(mut cursor: Cursor<'_, '_>) -> Effects {
    if let Some(inside) = cursor.group() {
        return query::of_query(inside);
    }
    let is_binary = cursor.is("binary")
        && cursor.ahead(1).is_some_and(|next| !next.is_word("from") && !next.is_word("to"));
    if is_binary {
        cursor.advance(1);
    }
    let mut direction = cursor;
    let reads = direction.seek(&["from", "to"]) && direction.is("to");
    next(if reads { AccessShare } else { RowExclusive }, cursor)
}

fn lock(mut cursor: Cursor<'_, '_>) -> Effects {
    cursor.take(&["table"]);
    let mut mode = cursor;
    let mode = if mode.seek(&["in"]) {
        mode.advance(1);
        let modes = [
            (&["access", "share"][..], AccessShare),
            (&["row", "share"], RowShare),
            (&["row", "exclusive"], RowExclusive),
            (&["share", "update"], ShareUpdateExclusive),
            (&["share", "row"], ShareRowExclusive),
            (&["share"], Share),
            (&["exclusive"], Exclusive),
        ];
        modes.iter().find(|(words, _)| mode.are(words)).map_or(AccessExclusive, |(_, mode)| *mode)
    } else {
        AccessExclusive
    };
    each(mode, cursor)
}

/// COMMENT ON TABLE t, COLUMN t.c, CONSTRAINT c ON t; SECURITY LABEL FOR p ON TABLE t.
fn comment(mut cursor: Cursor<'_, '_>) -> Effects {
    cursor.seek(&["on"]);
    cursor.advance(1);
    cursor.take(&["foreign"]);
    if cursor.take(&["column"]) {
        let mut effects = Effects::NONE;
        let table =
            cursor.name().and_then(|name| name.text.rsplit_once('.').map(|(table, _)| table.to_owned()));
        match table {
            Some(table) => effects.lock_on(ShareUpdateExclusive, table),
            None => effects.opaque = Some(UNREAD),
        }
        return effects;
    }
    if cursor.take_any(&["table", "view", "sequence", "index"]) || cursor.take(&["materialized", "view"]) {
        return next(ShareUpdateExclusive, cursor);
    }
    let is_part = cursor.take_any(&["constraint", "trigger", "policy", "rule"]);
    if is_part && cursor.seek(&["on"]) && !cursor.are(&["on", "domain"]) {
        return on_table(AccessShare, cursor);
    }
    Effects::NONE
}
