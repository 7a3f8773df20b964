//! What VACUUM, ANALYZE, CLUSTER, REINDEX and REFRESH lock.

use super::cursor::Cursor;
use super::locks::{Effects, LockMode, Rewrite, UNREAD};
use super::name::Name;
use super::statement::{each, next, tables_of};
use LockMode::{AccessExclusive, Exclusive, Share, ShareUpdateExclusive};

/// The cursor stands behind CLUSTER.
pub(super) fn cluster(mut cursor: Cursor<'_, '_>) -> Effects {
    cursor.take(&["verbose"]);
    cursor.group();
    // The old form names the index first.
    if cursor.ahead(1).is_some_and(|next| next.is_word("on")) {
        cursor.advance(2);
    }
    or_every(AccessExclusive, "every clustered table", cursor).with(Rewrite::Yes)
}

/// One lock on what comes next, or on all if nothing does.
fn or_every(mode: LockMode, every: &str, cursor: Cursor<'_, '_>) -> Effects {
    if cursor.is_at_end() {
        let mut effects = Effects::NONE;
        effects.lock_on(mode, every.to_owned());
        effects
    } else {
        each(mode, cursor)
    }
}

/// VACUUM and ANALYZE; the cursor stands at the word.
pub(super) fn vacuum(mut cursor: Cursor<'_, '_>) -> Effects {
    let is_vacuum = cursor.is("vacuum");
    cursor.advance(1);
    let options = cursor.options();
    let mut full = options.iter().any(|option| option.name.parts == ["full"] && option.is_on());
    while !cursor.is_at_end() {
        full |= cursor.is("full");
        if !cursor.take_any(&["full", "freeze", "verbose", "analyze", "analyse"]) {
            break;
        }
    }
    let mode = if full { AccessExclusive } else { ShareUpdateExclusive };
    let rewrite = if full {
        Rewrite::Yes
    } else if is_vacuum {
        Rewrite::Scan
    } else {
        Rewrite::No
    };
    or_every(mode, "every table", cursor).with(rewrite)
}

/// The cursor stands behind REINDEX.
pub(super) fn reindex(mut cursor: Cursor<'_, '_>) -> Effects {
    let options = cursor.options();
    let kind = cursor;
    cursor.advance(1);
    let concurrently = cursor.take(&["concurrently"])
        || options.iter().any(|option| option.name.parts == ["concurrently"] && option.is_on());
    let mode = |usual| if concurrently { ShareUpdateExclusive } else { usual };
    let mut effects = if kind.is("table") {
        next(mode(Share), cursor)
    } else if kind.is("index") {
        let mut effects = tables_of(mode(Share), cursor);
        effects.merge(next(mode(AccessExclusive), cursor));
        effects
    } else {
        let mut effects = Effects::NONE;
        let what = if kind.is("schema") { cursor.name() } else { None };
        let on = what.map_or("every table".to_owned(), |Name { text, .. }| format!("every table of {text}"));
        effects.lock_on(mode(Share), on);
        effects
    };
    effects.rewrite = Rewrite::Scan;
    effects
}

/// The cursor stands behind REFRESH.
pub(super) fn refresh(mut cursor: Cursor<'_, '_>) -> Effects {
    if !cursor.take(&["materialized", "view"]) {
        return Effects::opaque(UNREAD);
    }
    if cursor.take(&["concurrently"]) {
        return next(Exclusive, cursor).with(Rewrite::Scan);
    }
    let is_emptied = cursor.rest().iter().any(|token| token.is_word("no"));
    next(AccessExclusive, cursor).with(if is_emptied { Rewrite::No } else { Rewrite::Yes })
}
