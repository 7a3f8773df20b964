//! What CREATE locks: tables that were there before.

use super::cursor::Cursor;
use super::locks::{Effects, LockMode, Rewrite};
use super::query;
use super::statement::{CODE, next, on_table, published};
use LockMode::{AccessExclusive, AccessShare, Share, ShareRowExclusive, ShareUpdateExclusive};

/// The cursor stands behind CREATE.
pub(super) fn of_create(mut cursor: Cursor<'_, '_>) -> Effects {
    let replaces = cursor.take(&["or", "replace"]);
    while cursor.take_any(&[
        "global",
        "local",
        "temp",
        "temporary",
        "unlogged",
        "unique",
        "constraint",
        "recursive",
        "foreign",
    ]) {}
    if cursor.take(&["index"]) {
        let concurrently = cursor.take(&["concurrently"]);
        let mode = if concurrently { ShareUpdateExclusive } else { Share };
        return on_table(mode, cursor).with(Rewrite::Scan);
    }
    if cursor.take(&["trigger"]) {
        return on_table(ShareRowExclusive, cursor);
    }
    if cursor.take(&["policy"]) {
        return on_table(AccessExclusive, cursor);
    }
    if cursor.take(&["rule"]) {
        cursor.seek(&["to"]);
        cursor.advance(1);
        return next(AccessExclusive, cursor);
    }
    if cursor.take(&["statistics"]) {
        cursor.seek(&["from"]);
        cursor.advance(1);
        return next(ShareUpdateExclusive, cursor);
    }
    if cursor.take(&["publication"]) {
        return published(cursor);
    }
    if cursor.take(&["table"]) {
        return create_table(cursor);
    }
    let is_view = cursor.take(&["view"]) || cursor.take(&["materialized", "view"]);
    if is_view {
        cursor.take_if();
        let name = cursor.name();
        let mut effects = behind_as(cursor);
        if replaces {
            effects.lock(AccessExclusive, name);
        }
        return effects;
    }
    Effects::NONE
}

/// The query behind AS.
fn behind_as(mut cursor: Cursor<'_, '_>) -> Effects {
    if !cursor.seek(&["as"]) {
        return Effects::NONE;
    }
    cursor.advance(1);
    if cursor.is("execute") { Effects::opaque(CODE) } else { query::of_query(cursor) }
}

fn create_table(mut cursor: Cursor<'_, '_>) -> Effects {
    cursor.take_if();
    cursor.name();
    let mut effects = Effects::NONE;
    if cursor.take(&["partition", "of"]) {
        effects.lock(AccessExclusive, cursor.name());
    }
    for mut element in cursor.group().map(Cursor::by_commas).unwrap_or_default() {
        if element.take(&["like"]) {
            effects.lock(AccessShare, element.name());
        } else if element.seek(&["references"]) {
            element.advance(1);
            effects.lock(ShareRowExclusive, element.name());
        }
    }
    if cursor.take(&["inherits"]) {
        for mut parent in cursor.group().map(Cursor::by_commas).unwrap_or_default() {
            effects.lock(ShareUpdateExclusive, parent.name());
        }
    }
    effects.merge(behind_as(cursor));
    effects
}
