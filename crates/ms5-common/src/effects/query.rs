//! SELECT, INSERT, UPDATE, DELETE, MERGE: the relations that they name, wherever they stand, and the functions.

use super::cursor::Cursor;
use super::locks::{Effects, LockMode, Rewrite};
use super::name::Name;
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

/// Words that end the list behind FROM.
const AFTER_FROM: [&str; 16] = [
    "where",
    "group",
    "having",
    "window",
    "order",
    "limit",
    "offset",
    "fetch",
    "for",
    "union",
    "intersect",
    "except",
    "returning",
    "set",
    "when",
    "select",
];

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
                "using" if level.has_using && !cursor.peek().is_some_and(|next| next.is_symbol("(")) => {
                    self.source(&mut cursor);
                }
                "table" if matches!(before, "" | "as" | "union" | "all") => self.source(&mut cursor),
                "for" if is_row_lock(cursor) => {
                    level.in_from = false;
                    for name in std::mem::take(&mut level.sources) {
                        self.effects.lock_on(LockMode::RowShare, name.text);
                    }
                }
                _ if AFTER_FROM.contains(&word) => level.in_from = false,
                _ if token.is_symbol("(") => self.levels.push(Level::default()),
                _ if token.is_symbol(")") => {
                    self.levels.pop();
                }
                _ if token.is_symbol(",") && level.in_from => self.source(&mut cursor),
                _ if token.is_symbol("::") || word == "as" => {
                    // A type with its modifier, an alias with its columns.
                    let mut type_or_alias = cursor;
                    if type_or_alias.name().is_some() {
                        type_or_alias.group();
                        if word != "as" || !is_query_start(cursor) {
                            cursor = type_or_alias;
                        }
                    }
                }
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
            let holds_list =
                !is_query_start(inside) && !inside.peek().is_some_and(|next| next.is_symbol("("));
            if holds_list {
                *cursor = inside;
                self.levels.push(Level { is_query: true, ..Level::default() });
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
        cursor.take(&["as"]);
        let mut alias = *cursor;
        if alias.name().is_some()
            && alias.group().is_some()
            && !["on", "using"].iter().any(|word| cursor.is(word))
        {
            *cursor = alias;
        }
        if name.parts.len() == 1 && self.common.iter().any(|common| common == name.last()) {
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
            self.create_hypertable(*cursor);
        } else if !is_known(&name) {
            self.effects.opaque = Some(FUNCTION);
        }
    }

    /// create_hypertable(relation, ...): all rows move if `migrate_data` is on.
    fn create_hypertable(&mut self, mut cursor: Cursor<'_, '_>) {
        let arguments = cursor.group().map(Cursor::by_commas).unwrap_or_default();
        let table =
            arguments.first().and_then(|first| first.rest().iter().find_map(|token| token.string_value()));
        match table {
            Some(table) => self.effects.lock_on(LockMode::AccessExclusive, table.into_owned()),
            None => self.effects.opaque = Some(FUNCTION),
        }
        let is_named = |argument: &&Cursor<'_, '_>| {
            argument.ahead(1).is_some_and(|next| next.is_symbol("=>") || next.is_symbol(":="))
        };
        let migrate = arguments.iter().filter(is_named).find(|argument| argument.is("migrate_data"));
        // The oldest form has it as the eleventh argument, the newest as the fifth.
        let may_be_given = arguments.iter().filter(|argument| !is_named(argument)).count() > 4;
        self.effects.rewrite = match migrate.and_then(|argument| argument.ahead(2)) {
            Some(value) if value.is_word("false") => Rewrite::No,
            Some(value) if value.is_word("true") => Rewrite::Yes,
            None if !may_be_given => Rewrite::No,
            _ => Rewrite::Perhaps("if migrate_data is on, all rows are moved"),
        };
    }
}

/// The words that another is read with.
const WORDS: [&str; 9] = ["for", "key", "do", "then", "distinct", "as", "union", "all", "not"];

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

const FUNCTION: &str = "calls functions that are not looked into";

/// Is it no function, or one that locks no table? Functions that are not in this list may be harmless too.
fn is_known(name: &Name) -> bool {
    /// Words before parentheses that call nothing.
    const KEYWORDS: [&str; 34] = [
        "all",
        "and",
        "any",
        "array",
        "as",
        "between",
        "by",
        "case",
        "cube",
        "distinct",
        "else",
        "except",
        "exists",
        "filter",
        "from",
        "grouping",
        "having",
        "in",
        "intersect",
        "like",
        "not",
        "on",
        "or",
        "over",
        "rollup",
        "row",
        "select",
        "sets",
        "some",
        "then",
        "union",
        "using",
        "values",
        "when",
    ];
    const FUNCTIONS: [&str; 64] = [
        "abs",
        "age",
        "array_agg",
        "array_length",
        "avg",
        "by_hash",
        "by_range",
        "cast",
        "ceil",
        "clock_timestamp",
        "coalesce",
        "concat",
        "concat_ws",
        "count",
        "current_setting",
        "currval",
        "date_part",
        "date_trunc",
        "extract",
        "first",
        "first_value",
        "floor",
        "format",
        "gen_random_uuid",
        "generate_series",
        "greatest",
        "json_agg",
        "json_build_object",
        "jsonb_agg",
        "jsonb_build_object",
        "lag",
        "last",
        "last_value",
        "lead",
        "least",
        "length",
        "lower",
        "make_interval",
        "max",
        "md5",
        "min",
        "nextval",
        "now",
        "nullif",
        "overlay",
        "percentile_cont",
        "position",
        "random",
        "rank",
        "regexp_replace",
        "replace",
        "round",
        "row_number",
        "set_config",
        "split_part",
        "string_agg",
        "substring",
        "sum",
        "time_bucket",
        "to_char",
        "to_timestamp",
        "trim",
        "unnest",
        "upper",
    ];
    KEYWORDS.contains(&name.last()) || FUNCTIONS.contains(&name.last())
}
