//! What a statement says it takes away, renames, or makes anew, whether it does so itself, in a block of code, or in a string that
//! is executed. Names that code computes are not known.

use super::cursor::Cursor;
use super::name::Name;
use crate::sql::{Statement, Token, TokenKind, tokens};

/// What is spoken of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A table or view of any kind.
    Relation,
    /// A schema.
    Schema,
    /// An index.
    Index,
    /// A sequence.
    Sequence,
    /// A function, procedure or aggregate.
    Routine,
    /// A type or domain.
    Type,
    /// An extension.
    Extension,
    /// Extended statistics.
    Statistics,
    /// A publication.
    Publication,
    /// A column.
    Column,
    /// A constraint.
    Constraint,
    /// A trigger.
    Trigger,
    /// A policy of row security.
    Policy,
    /// A rule.
    Rule,
    /// That a column is an identity, and with it its sequence.
    Identity,
    /// Rights on what is named, which its owner may have had as well.
    Rights,
    /// Rights on what is in a schema.
    RightsIn,
    /// A comment.
    Comment,
    /// Rows of a table.
    Rows,
    /// A job of TimescaleDB's on a relation.
    Job,
    /// Nothing is taken away: what is named is altered, or made anew.
    Altered,
}

/// Something that a statement says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Of what.
    pub class: Class,
    /// Its name, as far as it is given: the schema first, a table before its part. Quotes are taken off.
    pub name: Vec<String>,
    /// Whether all that depends on it goes too.
    pub cascade: bool,
}

/// What the statements that are read begin with.
const FIRST: [&str; 7] = ["drop", "alter", "revoke", "comment", "create", "delete", "truncate"];

/// What the statement says, that in its strings first.
#[must_use]
pub fn says(statement: &Statement) -> Vec<Said> {
    let mut found = Vec::new();
    collect(&statement.text, statement.standard_conforming_strings, &mut found);
    found
}

fn collect(text: &str, standard_strings: bool, found: &mut Vec<Said>) {
    let all: Vec<_> = tokens(text, standard_strings).collect();
    for token in &all {
        if matches!(token.kind, TokenKind::DollarString | TokenKind::String | TokenKind::EscapeString)
            && let Some(body) = token.string_value()
            && body.len() > "drop x".len()
        {
            collect(&body, standard_strings, found);
        }
    }
    // Blocks of code hold statements behind BEGIN, THEN and others: each is looked for by its first word.
    for part in all.split(|token| token.is_symbol(";")) {
        let before = found.len();
        for (start, token) in part.iter().enumerate() {
            if FIRST.iter().any(|word| token.is_word(word)) {
                of_statement(Cursor::new(part.get(start..).unwrap_or_default()), found);
            }
            if found.len() > before {
                break;
            }
        }
        calls(part, standard_strings, found);
    }
}

fn of_statement(mut cursor: Cursor<'_, '_>, found: &mut Vec<Said>) {
    if cursor.take(&["drop"]) {
        drop(cursor, found);
    } else if cursor.take(&["alter"]) {
        alter(cursor, found);
    } else if cursor.take(&["revoke"]) {
        revoke(cursor, found);
    } else if cursor.take(&["comment", "on"]) {
        comment(cursor, found);
    } else if cursor.take(&["create"]) {
        create(cursor, found);
    } else if cursor.take(&["delete", "from"]) {
        found.extend(cursor.relation().map(|table| said(Class::Rows, &table, false)));
    } else if cursor.take(&["truncate"]) {
        cursor.take(&["table"]);
        for mut table in cursor.by_commas() {
            found.extend(table.relation().map(|table| said(Class::Rows, &table, false)));
        }
    }
}

fn said(class: Class, name: &Name, cascade: bool) -> Said {
    Said { class, name: name.parts.clone(), cascade }
}

/// A part of a relation; of any, where the relation's name is computed.
fn part(class: Class, of: Option<&Name>, name: &Name, cascade: bool) -> Said {
    let of = of.map(|of| of.parts.clone()).unwrap_or_default();
    Said { class, name: of.into_iter().chain([name.last().to_owned()]).collect(), cascade }
}

/// Reads the words of a kind of objects.
fn class(cursor: &mut Cursor<'_, '_>) -> Option<Class> {
    const CLASSES: [(&[&str], Class); 19] = [
        (&["table"], Class::Relation),
        (&["foreign", "table"], Class::Relation),
        (&["view"], Class::Relation),
        (&["materialized", "view"], Class::Relation),
        (&["schema"], Class::Schema),
        (&["index"], Class::Index),
        (&["sequence"], Class::Sequence),
        (&["function"], Class::Routine),
        (&["procedure"], Class::Routine),
        (&["routine"], Class::Routine),
        (&["aggregate"], Class::Routine),
        (&["type"], Class::Type),
        (&["domain"], Class::Type),
        (&["extension"], Class::Extension),
        (&["statistics"], Class::Statistics),
        (&["publication"], Class::Publication),
        (&["trigger"], Class::Trigger),
        (&["policy"], Class::Policy),
        (&["rule"], Class::Rule),
    ];
    CLASSES.iter().find(|(words, _)| cursor.take(words)).map(|(_, class)| *class)
}

const fn is_of_a_table(class: Class) -> bool {
    matches!(class, Class::Trigger | Class::Policy | Class::Rule)
}

fn drop(mut cursor: Cursor<'_, '_>, found: &mut Vec<Said>) {
    let Some(class) = class(&mut cursor) else { return };
    cursor.take(&["concurrently"]);
    cursor.take_if();
    let cascade = cursor.rest().iter().any(|token| token.is_word("cascade"));
    if is_of_a_table(class) {
        if let Some(name) = cursor.name() {
            let of = cursor.take(&["on"]).then(|| cursor.relation()).flatten();
            found.push(part(class, of.as_ref(), &name, cascade));
        }
        return;
    }
    while let Some(name) = cursor.name() {
        found.push(said(class, &name, cascade));
        cursor.group();
        if !cursor.take_symbol(",") {
            return;
        }
    }
}

fn alter(mut cursor: Cursor<'_, '_>, found: &mut Vec<Said>) {
    let Some(class) = class(&mut cursor) else { return };
    cursor.take_if();
    if class == Class::Relation {
        let relation = cursor.relation();
        if let Some(relation) = &relation {
            found.push(said(Class::Altered, relation, false));
        } else {
            cursor.seek(&["drop", "rename"]);
        }
        for command in cursor.by_commas() {
            subcommand(command, relation.as_ref(), found);
        }
        return;
    }
    let Some(name) = cursor.name() else { return };
    if is_of_a_table(class) {
        let of = cursor.take(&["on"]).then(|| cursor.relation()).flatten();
        let class = if cursor.are(&["rename", "to"]) { class } else { Class::Altered };
        found.push(part(class, of.as_ref(), &name, false));
        return;
    }
    cursor.group();
    found.push(said(Class::Altered, &name, false));
    if cursor.are(&["rename", "to"]) || cursor.are(&["set", "schema"]) {
        found.push(said(class, &name, false));
    } else if cursor.are(&["owner", "to"]) {
        found.push(said(Class::Rights, &name, false));
    }
}

fn subcommand(mut cursor: Cursor<'_, '_>, relation: Option<&Name>, found: &mut Vec<Said>) {
    let cascade = cursor.rest().iter().any(|token| token.is_word("cascade"));
    if cursor.are(&["rename", "to"]) || cursor.are(&["set", "schema"]) {
        found.extend(relation.map(|relation| said(Class::Relation, relation, false)));
    } else if cursor.are(&["owner", "to"]) {
        found.extend(relation.map(|relation| said(Class::Rights, relation, false)));
    } else if cursor.take_any(&["drop", "rename"]) {
        let class = if cursor.take(&["constraint"]) { Class::Constraint } else { Class::Column };
        cursor.take(&["column"]);
        cursor.take_if();
        found.extend(cursor.name().map(|name| part(class, relation, &name, cascade)));
    } else if cursor.take(&["alter"]) {
        cursor.take(&["column"]);
        if let Some(name) = cursor.name()
            && cursor.are(&["drop", "identity"])
        {
            found.push(part(Class::Identity, relation, &name, false));
        }
    }
}

fn revoke(mut cursor: Cursor<'_, '_>, found: &mut Vec<Said>) {
    // Without ON it is about a role.
    if !cursor.seek(&["on"]) {
        return;
    }
    cursor.advance(1);
    let mut class_of = Class::Rights;
    if cursor.take(&["all"]) {
        cursor.advance(1);
        if cursor.take(&["in", "schema"]) {
            class_of = Class::RightsIn;
        }
    } else {
        class(&mut cursor);
    }
    while let Some(name) = cursor.name() {
        found.push(said(class_of, &name, false));
        cursor.group();
        if !cursor.take_symbol(",") {
            return;
        }
    }
}

/// A comment goes where it becomes NULL or nothing.
fn comment(cursor: Cursor<'_, '_>, found: &mut Vec<Said>) {
    let Some(is) = cursor.rest().iter().position(|token| token.is_word("is")) else { return };
    let (of, behind) = cursor.rest().split_at(is);
    let goes =
        |token: &Token<'_>| token.is_word("null") || token.string_value().is_some_and(|text| text.is_empty());
    if !behind.get(1).is_some_and(goes) {
        return;
    }
    let mut cursor = Cursor::new(of);
    // The words of a kind are names without a dot before another name.
    while let Some(name) = cursor.name() {
        cursor.group();
        if cursor.take(&["on"]) {
            cursor.take(&["domain"]);
            let of = cursor.relation();
            found.push(part(Class::Comment, of.as_ref(), &name, false));
            return;
        }
        if cursor.is_at_end() {
            found.push(said(Class::Comment, &name, false));
        }
    }
}

/// What is made under a name may take the place of another: it is moved there, or replaces it. A table replaces none.
fn create(mut cursor: Cursor<'_, '_>, found: &mut Vec<Said>) {
    cursor.take(&["or", "replace"]);
    while cursor.take_any(&["temp", "temporary", "unlogged", "recursive", "constraint", "unique"]) {}
    if cursor.is("table") || cursor.is("schema") {
        return;
    }
    let Some(class) = class(&mut cursor) else { return };
    cursor.take(&["concurrently"]);
    cursor.take_if();
    let Some(name) = cursor.name() else { return };
    if class == Class::Trigger || class == Class::Policy {
        cursor.seek(&["on"]);
        cursor.advance(1);
        let of = cursor.relation();
        found.push(part(Class::Altered, of.as_ref(), &name, false));
    } else {
        found.push(Said { class: Class::Altered, name: vec![name.last().to_owned()], cascade: false });
    }
}

/// Calls of TimescaleDB's that take a relation's job or its rows: `remove_..._policy('relation')`.
fn calls(part: &[Token<'_>], standard_strings: bool, found: &mut Vec<Said>) {
    for call in part.windows(3) {
        let [function, open, argument] = call else { continue };
        let class = match function.name().as_deref() {
            Some("drop_chunks" | "add_retention_policy") => Class::Rows,
            Some(name) if name.starts_with("remove_") && name.ends_with("_policy") => Class::Job,
            _ => continue,
        };
        if open.is_symbol("(")
            && let Some(relation) = argument.string_value()
        {
            let tokens: Vec<_> = tokens(&relation, standard_strings).collect();
            found.extend(Cursor::new(&tokens).name().map(|name| said(class, &name, false)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::statement;
    use super::*;

    #[test]
    fn what_goes_and_of_what_it_is() {
        for (text, wanted) in [
            ("DROP INDEX CONCURRENTLY IF EXISTS a.old_index, \"B\"", "Index a.old_index, Index B"),
            ("DROP TABLE a.t, u CASCADE", "Relation a.t cascade, Relation u cascade"),
            ("DROP FUNCTION a.f(int, text), g", "Routine a.f, Routine g"),
            ("DROP TRIGGER IF EXISTS g ON a.t", "Trigger a.t.g"),
            ("DROP POLICY p ON t", "Policy t.p"),
            (
                "ALTER TABLE IF EXISTS ONLY t DROP CONSTRAINT IF EXISTS \"Key\", DROP x, ADD COLUMN y int",
                "Altered t, Constraint t.Key, Column t.x",
            ),
            ("ALTER TABLE t ALTER c DROP NOT NULL, ALTER COLUMN d DROP IDENTITY", "Altered t, Identity t.d"),
            ("ALTER TABLE a RENAME TO b", "Altered a, Relation a"),
            ("ALTER TABLE a RENAME COLUMN x TO y", "Altered a, Column a.x"),
            ("ALTER TABLE a RENAME CONSTRAINT x TO y", "Altered a, Constraint a.x"),
            ("ALTER VIEW s.v SET SCHEMA old", "Altered s.v, Relation s.v"),
            ("ALTER INDEX i RENAME TO j", "Altered i, Index i"),
            ("ALTER TYPE y RENAME VALUE 'a' TO 'b'", "Altered y"),
            ("ALTER TABLE t OWNER TO joe", "Altered t, Rights t"),
            (
                "DO $$ BEGIN IF x THEN EXECUTE 'DROP VIEW v'; DROP TABLE x; END IF; CREATE INDEX i ON y (a); END $$",
                "Relation v, Relation x, Altered i",
            ),
            (
                "DO $$ BEGIN EXECUTE format('ALTER TABLE %s DROP CONSTRAINT k', x); EXECUTE format('DROP INDEX %I.%I', a, b); END $$",
                "Constraint k",
            ),
            (
                "REVOKE GRANT OPTION FOR SELECT (c), UPDATE ON TABLE a.t, u FROM public",
                "Rights a.t, Rights u",
            ),
            ("REVOKE ALL ON ALL TABLES IN SCHEMA a FROM joe", "RightsIn a"),
            ("REVOKE USAGE ON SCHEMA a FROM joe", "Rights a"),
            ("REVOKE boss FROM joe", ""),
            ("COMMENT ON TABLE a.t IS 'the table'", ""),
            ("COMMENT ON MATERIALIZED VIEW a.t IS NULL", "Comment a.t"),
            ("COMMENT ON COLUMN a.t.c IS ''", "Comment a.t.c"),
            ("COMMENT ON TRIGGER g ON a.t IS NULL", "Comment a.t.g"),
            ("COMMENT ON FUNCTION a.f(int, text) IS NULL", "Comment a.f"),
            ("CREATE TABLE old (a int)", ""),
            ("CREATE OR REPLACE FUNCTION s.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "Altered f"),
            ("CREATE OR REPLACE TRIGGER g BEFORE INSERT ON a.t EXECUTE FUNCTION f()", "Altered a.t.g"),
            ("CREATE UNIQUE INDEX IF NOT EXISTS i ON t (a)", "Altered i"),
            ("SELECT remove_retention_policy('a.t', if_exists => true)", "Job a.t"),
            ("WITH x AS (DELETE FROM ONLY a.t RETURNING *) SELECT 1", "Rows a.t"),
            ("TRUNCATE TABLE a.t, u CASCADE", "Rows a.t, Rows u"),
            ("SELECT drop_chunks('a.t', older_than => now())", "Rows a.t"),
            ("SELECT 'drop' FROM v", ""),
        ] {
            let found: Vec<String> = says(&statement(text))
                .iter()
                .map(|said| {
                    let cascade = if said.cascade { " cascade" } else { "" };
                    format!("{:?} {}{cascade}", said.class, said.name.join("."))
                })
                .collect();
            assert_eq!(found.join(", "), wanted, "{text}");
        }
    }
}
