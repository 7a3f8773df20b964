//! SELECT, INSERT, UPDATE, DELETE, MERGE: the relations that they name, wherever they stand, and the functions.

use super::cursor::Cursor;
use super::locks::{Effects, LockMode};
use super::name::Name;
use super::routines;
use crate::sql::TokenKind;

/// What is read between two parentheses, or outside of all.
#[derive(Debug, Default)]
struct Level {
    /// It is a query, so that FROM is not the word of `extract(day from t)`.
    is_query: bool,
    /// It deletes or merges, so that USING names relations.
    has_using: bool,
    /// The list behind FROM goes on: a comma begins another relation.
    in_from: bool,
    /// It is a part of the list before it: `from (a join b on ...)`.
    is_list: bool,
    /// The relations of the list, for FOR UPDATE.
    sources: Vec<Name>,
}

/// What a query locks, and whether it calls functions that are not known here. `cursor` stands at its beginning.
pub(super) fn of_query(cursor: Cursor<'_, '_>) -> Effects {
    let mut query = Query { effects: Effects::NONE, common: common_names(cursor), levels: Vec::new() };
    query.levels.push(Level::default());
    query.read(cursor);
    query.effects
}

struct Query {
    effects: Effects,
    /// The names that WITH gives.
    common: Vec<String>,
    levels: Vec<Level>,
}

/// Words that end the list behind FROM and have commas behind them.
const AFTER_FROM: [&str; 8] =
    ["except", "group", "intersect", "order", "returning", "set", "union", "window"];

impl Query {
    fn read(&mut self, mut cursor: Cursor<'_, '_>) {
        let mut before = "";
        while let Some(token) = cursor.peek() {
            let start = cursor;
            cursor.advance(1);
            let word = token.name().filter(|_| token.kind == TokenKind::Word);
            let word = word.as_deref().unwrap_or_default();
            let Some(level) = self.levels.last_mut() else { return };
            match word {
                "select" => level.is_query = true,
                "insert" | "merge" if cursor.take(&["into"]) => {
                    level.has_using = word == "merge";
                    self.target(&mut cursor);
                }
                "delete" if cursor.take(&["from"]) => {
                    level.has_using = true;
                    self.target(&mut cursor);
                }
                // not FOR UPDATE, FOR NO KEY UPDATE, DO UPDATE, THEN UPDATE
                "update" if !["for", "key", "do", "then"].contains(&before) => {
                    level.is_query = true;
                    self.target(&mut cursor);
                }
                "from" if level.is_query && before != "distinct" => self.source(&mut cursor),
                "join" if level.in_from => self.source(&mut cursor),
                // not that of a join
                "using" if level.has_using && !level.in_from => self.source(&mut cursor),
                "table" if before != "into" => self.source(&mut cursor),
                "for" if is_row_lock(cursor) => {
                    level.in_from = false;
                    for name in std::mem::take(&mut level.sources) {
                        self.effects.lock_on(LockMode::RowShare, name.text);
                    }
                }
                _ if AFTER_FROM.contains(&word) => level.in_from = false,
                _ if token.is_symbol("(") => self.levels.push(Level::default()),
                _ if token.is_symbol(")") => self.close(),
                _ if token.is_symbol(",") && level.in_from => self.source(&mut cursor),
                _ if token.is_symbol("::") || word == "as" => pass_alias(&mut cursor),
                _ => {
                    cursor = start;
                    self.call(&mut cursor);
                }
            }
            before = if word.is_empty() {
                token.text
            } else {
                WORDS.iter().find(|known| **known == word).copied().unwrap_or("?")
            };
        }
    }

    fn close(&mut self) {
        if let Some(Level { is_list: true, sources, .. }) = self.levels.pop()
            && let Some(level) = self.levels.last_mut()
        {
            level.sources.extend(sources);
        }
    }

    /// Reads the relation that is written to.
    fn target(&mut self, cursor: &mut Cursor<'_, '_>) {
        if let Some(level) = self.levels.last_mut() {
            level.in_from = false;
        }
        let name = cursor.relation();
        self.effects.lock(LockMode::RowExclusive, name);
    }

    /// Reads a relation that is read from, if one comes next.
    fn source(&mut self, cursor: &mut Cursor<'_, '_>) {
        if let Some(level) = self.levels.last_mut() {
            level.in_from = true;
        }
        cursor.take(&["lateral"]);
        let parenthesised = cursor.peek().is_some_and(|next| next.is_symbol("("));
        if parenthesised {
            let mut inside = *cursor;
            inside.advance(1);
            // (a join b on ...): the parenthesis holds a list, not a query.
            if !is_query_start(inside) {
                *cursor = inside;
                self.levels.push(Level { is_query: true, is_list: true, ..Level::default() });
                self.source(cursor);
            }
            return;
        }
        if cursor.are(&["rows", "from"]) {
            return;
        }
        let mut ahead = *cursor;
        let Some(name) = ahead.relation() else { return };
        if ahead.peek().is_some_and(|next| next.is_symbol("(")) {
            return;
        }
        *cursor = ahead;
        // The columns of an alias are no call.
        let mut alias = *cursor;
        let columns = alias.name().and_then(|_| alias.group());
        if columns.is_some_and(|columns| {
            columns.rest().iter().all(|token| token.name().is_some() || token.is_symbol(","))
        }) {
            *cursor = alias;
        }
        if self.is_common(&name) {
            return;
        }
        self.effects.lock_on(LockMode::AccessShare, name.text.clone());
        if let Some(level) = self.levels.last_mut() {
            level.sources.push(name);
        }
    }

    /// Reads a name; if it is a function that is called, says so. The arguments are read after it.
    fn call(&mut self, cursor: &mut Cursor<'_, '_>) {
        let Some(name) = cursor.name() else {
            cursor.advance(1);
            return;
        };
        if !cursor.peek().is_some_and(|next| next.is_symbol("(")) {
            return;
        }
        if name.last() == "create_hypertable" {
            self.effects.merge(routines::create_hypertable(*cursor));
        } else if !routines::is_known(&name) && !self.is_common(&name) {
            self.effects.opaque = Some(routines::FUNCTION);
        }
    }

    fn is_common(&self, name: &Name) -> bool {
        name.parts.len() == 1 && self.common.iter().any(|common| common == name.last())
    }
}

/// Reads a type with its modifier, or an alias with its columns, neither of which is a call.
fn pass_alias(cursor: &mut Cursor<'_, '_>) {
    let mut ahead = *cursor;
    let begins_query = is_query_start(ahead) || ahead.is("materialized");
    if !begins_query && ahead.name().is_some() {
        ahead.group();
        *cursor = ahead;
    }
}

/// The words that another is read with.
const WORDS: [&str; 6] = ["for", "key", "do", "then", "distinct", "into"];

fn is_row_lock(cursor: Cursor<'_, '_>) -> bool {
    [&["update"][..], &["share"], &["no", "key"], &["key", "share"]].iter().any(|words| cursor.are(words))
}

fn is_query_start(cursor: Cursor<'_, '_>) -> bool {
    ["select", "with", "values", "table", "insert", "update", "delete", "merge"]
        .iter()
        .any(|word| cursor.is(word))
}

/// The names in `WITH name [(columns)] AS [[NOT] MATERIALIZED] (query)`.
fn common_names(mut cursor: Cursor<'_, '_>) -> Vec<String> {
    let mut names = Vec::new();
    let mut may_begin = false;
    while let Some(token) = cursor.peek() {
        let mut item = cursor;
        if may_begin && let Some(name) = item.name() {
            item.group();
            if item.take(&["as"]) {
                item.take(&["not"]);
                item.take(&["materialized"]);
                names.extend(
                    item.group().filter(|inside| is_query_start(*inside)).map(|_| name.last().to_owned()),
                );
            }
        }
        may_begin = token.is_symbol(",") || token.is_word("with") || token.is_word("recursive");
        cursor.advance(1);
    }
    names
}
