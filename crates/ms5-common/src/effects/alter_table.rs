//! ALTER TABLE, subcommand by subcommand.
//!
//! Source: `AlterTableGetLockLevel` in tablecmds.c, PostgreSQL 15 to 18, and the notes on ALTER TABLE in its manual.

use super::cursor::Cursor;
use super::locks::{Effects, LockMode, Rewrite};
use crate::sql::{Token, TokenKind};
use LockMode::{AccessExclusive, AccessShare, ShareRowExclusive, ShareUpdateExclusive};

/// The cursor stands behind `ALTER [FOREIGN] TABLE`, INDEX, VIEW or MATERIALIZED VIEW.
pub(super) fn of_alter(mut cursor: Cursor<'_, '_>) -> Effects {
    let mut effects = Effects::NONE;
    if cursor.take(&["all", "in", "tablespace"]) {
        let on = cursor.name_text().unwrap_or_default();
        effects.lock_on(AccessExclusive, format!("every relation in tablespace {on}"));
        return effects.with(Rewrite::Yes);
    }
    cursor.take_if();
    let Some(table) = cursor.relation() else { return Effects::opaque(super::locks::UNREAD) };
    let mut strongest = None;
    for command in cursor.by_commas() {
        let (mode, rewrite) = subcommand(command, &mut effects);
        strongest = strongest.max(Some(mode));
        effects.rewrite = effects.rewrite.or(rewrite);
    }
    effects.lock_on(strongest.unwrap_or(AccessExclusive), table.text);
    effects
}

/// The lock on the table, and the work; locks on other tables go to `effects`.
fn subcommand(mut cursor: Cursor<'_, '_>, effects: &mut Effects) -> (LockMode, Rewrite) {
    if cursor.take(&["add"]) {
        return add(cursor, effects);
    }
    if cursor.take(&["alter"]) {
        cursor.take(&["column"]);
        // A column, its number in an index; CONSTRAINT is read as one, to the same end.
        if cursor.name().is_none() {
            cursor.advance(1);
        }
        return alter_column(cursor);
    }
    if cursor.take(&["validate"]) {
        return (ShareUpdateExclusive, Rewrite::Scan);
    }
    if cursor.take(&["attach", "partition"]) {
        let partition = cursor.name();
        // An index is attached without a look at the rows.
        let is_index = cursor.is_at_end();
        effects.lock(AccessExclusive, partition);
        return (ShareUpdateExclusive, if is_index { Rewrite::No } else { Rewrite::Scan });
    }
    if cursor.take(&["detach", "partition"]) {
        effects.lock(AccessExclusive, cursor.name());
        let is_gentle = cursor.is("concurrently") || cursor.is("finalize");
        return (if is_gentle { ShareUpdateExclusive } else { AccessExclusive }, Rewrite::No);
    }
    if cursor.take(&["inherit"]) {
        effects.lock(ShareUpdateExclusive, cursor.name());
    } else if cursor.take(&["no", "inherit"]) {
        effects.lock(AccessShare, cursor.name());
    } else if cursor.are(&["cluster", "on"]) || cursor.are(&["set", "without", "cluster"]) {
        return (ShareUpdateExclusive, Rewrite::No);
    } else if cursor.take_any(&["enable", "disable"]) {
        cursor.take_any(&["always", "replica"]);
        return (if cursor.is("trigger") { ShareRowExclusive } else { AccessExclusive }, Rewrite::No);
    } else if cursor.take_any(&["set", "reset"]) {
        return set(cursor);
    }
    (AccessExclusive, Rewrite::No)
}

fn set(mut cursor: Cursor<'_, '_>) -> (LockMode, Rewrite) {
    if cursor.peek().is_some_and(|token| token.is_symbol("(")) {
        return (options_lock(&mut cursor), Rewrite::No);
    }
    let is_moved = cursor.is("tablespace")
        || cursor.is("logged")
        || cursor.is("unlogged")
        || cursor.are(&["access", "method"]);
    let why = "unless it is so already, the table is rewritten";
    (AccessExclusive, if is_moved { Rewrite::Perhaps(why) } else { Rewrite::No })
}

/// Storage parameters that need no more than SHARE UPDATE EXCLUSIVE (`lockmode` in reloptions.c).
fn options_lock(cursor: &mut Cursor<'_, '_>) -> LockMode {
    const GENTLE: [&str; 6] = [
        "fillfactor",
        "log_autovacuum_min_duration",
        "parallel_workers",
        "toast_tuple_target",
        "vacuum_index_cleanup",
        "vacuum_truncate",
    ];
    let options = cursor.options();
    let is_gentle = |name: &str| name.starts_with("autovacuum_") || GENTLE.contains(&name);
    if options.iter().all(|option| is_gentle(option.name.last())) {
        ShareUpdateExclusive
    } else {
        AccessExclusive
    }
}

fn add(mut cursor: Cursor<'_, '_>, effects: &mut Effects) -> (LockMode, Rewrite) {
    const CONSTRAINTS: [&str; 7] = ["constraint", "check", "unique", "primary", "exclude", "foreign", "not"];
    if !CONSTRAINTS.iter().any(|word| cursor.is(word)) {
        return add_column(cursor, effects);
    }
    if cursor.take(&["constraint"]) {
        cursor.name();
    }
    let is_foreign = cursor.is("foreign");
    let has = |words: &[&str]| {
        let mut rest = cursor;
        while !rest.is_at_end() && !rest.are(words) {
            rest.skip();
        }
        !rest.is_at_end()
    };
    let is_checked = !has(&["not", "valid"]) && !has(&["using", "index"]);
    if is_foreign && cursor.seek(&["references"]) {
        cursor.advance(1);
        effects.lock(ShareRowExclusive, cursor.name());
    }
    let mode = if is_foreign { ShareRowExclusive } else { AccessExclusive };
    (mode, if is_checked { Rewrite::Scan } else { Rewrite::No })
}

fn add_column(mut cursor: Cursor<'_, '_>, effects: &mut Effects) -> (LockMode, Rewrite) {
    cursor.take(&["column"]);
    cursor.take_if();
    cursor.name();
    let mut rewrite = type_of_column(cursor);
    let mut column = cursor;
    while let Some(token) = column.peek() {
        if column.take(&["default"]) {
            rewrite = rewrite.or(default(column));
        } else if column.take(&["generated"]) {
            while !column.is_at_end() && !column.is("as") {
                column.advance(1);
            }
            column.advance(1);
            let is_kept = column.is("identity") || column.rest().iter().any(|token| token.is_word("stored"));
            rewrite = rewrite.or(if is_kept { Rewrite::Yes } else { Rewrite::No });
        } else if column.take(&["references"]) {
            effects.lock(ShareRowExclusive, column.name());
            rewrite = rewrite.or(Rewrite::Scan);
        } else {
            let reads = ["check", "unique", "primary"].iter().any(|word| token.is_word(word));
            rewrite = rewrite.or(if reads { Rewrite::Scan } else { Rewrite::No });
            column.skip();
        }
    }
    (AccessExclusive, rewrite)
}

/// The work that a new column's type asks for.
fn type_of_column(mut cursor: Cursor<'_, '_>) -> Rewrite {
    const KNOWN: [&str; 45] = [
        "bigint",
        "bit",
        "bool",
        "boolean",
        "box",
        "bpchar",
        "bytea",
        "char",
        "character",
        "cidr",
        "circle",
        "date",
        "decimal",
        "double",
        "float",
        "float4",
        "float8",
        "inet",
        "int",
        "int2",
        "int4",
        "int8",
        "integer",
        "interval",
        "json",
        "jsonb",
        "line",
        "lseg",
        "macaddr",
        "money",
        "name",
        "national",
        "numeric",
        "oid",
        "path",
        "point",
        "polygon",
        "real",
        "smallint",
        "text",
        "time",
        "timestamp",
        "timestamptz",
        "uuid",
        "varchar",
    ];
    match cursor.name() {
        Some(name) => match name.last() {
            "serial" | "bigserial" | "smallserial" | "serial2" | "serial4" | "serial8" => Rewrite::Yes,
            known if KNOWN.contains(&known) => Rewrite::No,
            _ => {
                Rewrite::Perhaps("if the column's type is a domain with constraints, the table is rewritten")
            }
        },
        None => Rewrite::No,
    }
}

/// The work that a default asks for: one value for all rows, unless it is computed for each. The cursor stands
/// behind DEFAULT, the column's constraints follow.
fn default(cursor: Cursor<'_, '_>) -> Rewrite {
    const STABLE: [&str; 4] = ["now", "current_setting", "transaction_timestamp", "statement_timestamp"];
    const VOLATILE: [&str; 8] = [
        "clock_timestamp",
        "gen_random_uuid",
        "nextval",
        "random",
        "timeofday",
        "uuid_generate_v4",
        "uuidv4",
        "uuidv7",
    ];
    let mut rewrite = Rewrite::No;
    for pair in cursor.rest().windows(2) {
        let [name, open] = pair else { continue };
        let ends = ["references", "check", "unique", "primary"];
        if ends.iter().any(|word| name.is_word(word)) {
            break;
        }
        if !open.is_symbol("(") || !is_function(name) {
            continue;
        }
        let name = name.name().unwrap_or_default();
        rewrite = rewrite.or(if VOLATILE.contains(&name.as_ref()) {
            Rewrite::Yes
        } else if STABLE.contains(&name.as_ref()) {
            Rewrite::No
        } else {
            Rewrite::Perhaps("if the default's function is volatile, the table is rewritten")
        });
    }
    rewrite
}

/// A type's modifier looks like a call: `numeric(10, 2)`.
fn is_function(name: &Token<'_>) -> bool {
    const TYPES: [&str; 7] =
        ["numeric", "decimal", "varchar", "char", "timestamp", "timestamptz", "interval"];
    matches!(name.kind, TokenKind::Word | TokenKind::Identifier)
        && !TYPES.iter().any(|word| name.is_word(word))
}

fn alter_column(mut cursor: Cursor<'_, '_>) -> (LockMode, Rewrite) {
    if cursor.is("type") || cursor.are(&["set", "data", "type"]) {
        let why = "if the old type is not stored like the new one, the table is rewritten";
        return (AccessExclusive, Rewrite::Perhaps(why));
    }
    if cursor.are(&["set", "statistics"]) {
        return (ShareUpdateExclusive, Rewrite::No);
    }
    if cursor.are(&["set", "not", "null"]) {
        return (AccessExclusive, Rewrite::Scan);
    }
    if cursor.are(&["set", "expression"]) {
        return (
            AccessExclusive,
            Rewrite::Perhaps("if the generated column is stored, the table is rewritten"),
        );
    }
    let has_options =
        cursor.take_any(&["set", "reset"]) && cursor.peek().is_some_and(|token| token.is_symbol("("));
    (if has_options { ShareUpdateExclusive } else { AccessExclusive }, Rewrite::No)
}
