//! Functions and procedures that are known by their names.

use super::cursor::Cursor;
use super::locks::{Effects, LockMode, Rewrite};
use super::name::Name;
use super::outside::Outside;

/// Functions that refuse a transaction block, or one that has written: a migration's has.
const FUNCTIONS: [&str; 3] = ["reorder_chunk", "move_chunk", "pg_create_logical_replication_slot"];

/// A query that calls one of them.
pub(super) fn refusing_function(mut cursor: Cursor<'_, '_>) -> Option<Outside> {
    if !cursor.is("select") && !cursor.is("with") {
        return None;
    }
    while let Some(token) = cursor.peek() {
        cursor.advance(1);
        let name = token.name().filter(|name| FUNCTIONS.contains(&name.as_ref()));
        if let Some(name) = name
            && cursor.peek().is_some_and(|next| next.is_symbol("("))
        {
            return Some(Outside::Commits { what: name.into_owned() });
        }
    }
    None
}

/// Procedures of TimescaleDB that commit, in some version from 2.11.
const PROCEDURES: [&str; 8] = [
    "cagg_migrate",
    "merge_chunks_concurrently",
    "policy_compression",
    "policy_compression_execute",
    "policy_recompression",
    "policy_refresh_continuous_aggregate",
    "recompress_chunk",
    "run_job",
];

/// What a CALL of this procedure is; the cursor stands at its arguments.
pub(super) fn known_procedure(name: &Name, mut arguments: Cursor<'_, '_>) -> Option<Outside> {
    let what = name.last();
    if what == "refresh_continuous_aggregate" {
        return Some(Outside::Refresh);
    }
    let is_committing =
        PROCEDURES.contains(&what) || what == "merge_chunks" && is_concurrent(arguments.group()?);
    is_committing.then(|| Outside::Commits { what: what.to_owned() })
}

/// merge_chunks(chunk1, chunk2, concurrently).
fn is_concurrent(arguments: Cursor<'_, '_>) -> bool {
    let arguments = arguments.by_commas();
    let named = arguments.iter().find(|argument| argument.is("concurrently"));
    let value = match named {
        Some(argument) => argument.ahead(2),
        None => arguments.get(2).and_then(Cursor::peek),
    };
    value.is_some_and(|value| !value.is_word("false"))
}

/// create_hypertable(relation, ...): all rows move if `migrate_data` is on. The cursor stands at the arguments.
pub(super) fn create_hypertable(mut cursor: Cursor<'_, '_>) -> Effects {
    let arguments = cursor.group().map(Cursor::by_commas).unwrap_or_default();
    let table =
        arguments.first().and_then(|first| first.rest().iter().find_map(|token| token.string_value()));
    let Some(table) = table else { return Effects::opaque(FUNCTION) };
    let mut effects = Effects::NONE;
    effects.lock_on(LockMode::AccessExclusive, table.into_owned());
    let is_named = |argument: &&Cursor<'_, '_>| {
        argument.ahead(1).is_some_and(|next| next.is_symbol("=>") || next.is_symbol(":="))
    };
    let migrate = arguments.iter().filter(is_named).find(|argument| argument.is("migrate_data"));
    // The oldest form has it as the eleventh argument, the newest as the fifth.
    let may_be_given = arguments.iter().filter(|argument| !is_named(argument)).count() > 4;
    effects.with(match migrate.and_then(|argument| argument.ahead(2)) {
        Some(value) if value.is_word("false") => Rewrite::No,
        Some(value) if value.is_word("true") => Rewrite::Yes,
        None if !may_be_given => Rewrite::No,
        _ => Rewrite::Perhaps("if migrate_data is on, all rows are moved"),
    })
}

/// Why a query may do more than its text says.
pub(super) const FUNCTION: &str = "calls functions that are not looked into";

/// Is it no function, or one that locks no table? Functions that are not in this list may be harmless too.
pub(super) fn is_known(name: &Name) -> bool {
    /// Words before parentheses that call nothing.
    const KEYWORDS: [&str; 43] = [
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
        "group",
        "grouping",
        "having",
        "ilike",
        "in",
        "intersect",
        "is",
        "like",
        "limit",
        "materialized",
        "not",
        "offset",
        "on",
        "or",
        "over",
        "rollup",
        "row",
        "select",
        "sets",
        "some",
        "then",
        "to",
        "union",
        "using",
        "values",
        "when",
        "where",
        "with",
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
