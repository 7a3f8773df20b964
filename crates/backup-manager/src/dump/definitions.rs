//! pg_dump's definitions without chunks, and with hypertables and continuous aggregates made anew among them. No I/O.
//!
//! pg_dump knows tables and views alone: of a hypertable it gives the root, chunks as tables that inherit, and of a continuous
//! aggregate a view on a table that only TimescaleDB makes. What is TimescaleDB's is left out here. Tables come first, then
//! they are made hypertables, then come continuous aggregates and whatever reads them, each behind what it reads.

use std::collections::{BTreeMap, BTreeSet};

use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::sql::{Facts, Token, escape_identifier};
use ms5_common::timescale::definition::Definition;

use super::sections::{Piece, creates_timescale, is_ours, pieces};
use crate::remake;
use crate::sqltext::PINNED;

/// What pg_dump leaves out by itself: whatever stands in schemas of TimescaleDB's own, and large objects, which it takes for
/// definitions.
pub(super) const LEFT_OUT: [&str; 2] = ["--exclude-schema=_timescaledb_*", "-B"];

/// What the names of tables in TimescaleDB's schemas begin with that belong to one hypertable each.
const INTERNAL: [&str; 6] = [
    "_hyper_",
    "_materialized_hypertable_",
    "_compressed_hypertable_",
    "compress_hyper_",
    "_partial_view_",
    "_direct_view_",
];

/// schema and name, as the catalog has them.
pub(super) type Name = (String, String);

/// The section before the rows.
///
/// # Errors
/// [`Exit::Failed`] where an object stands on what only TimescaleDB makes.
pub(super) fn before_rows(text: &str, definition: &Definition, schema: &str) -> Result<String> {
    let chunks: BTreeSet<&Name> = definition.chunks.iter().collect();
    let mut aggregates: BTreeMap<Name, String> = definition
        .aggregates
        .iter()
        .map(|aggregate| ((aggregate.schema.clone(), aggregate.name.clone()), remake::aggregate(aggregate)))
        .collect();
    let mut late_names: BTreeSet<Name> = aggregates.keys().cloned().collect();
    let (mut early, mut makers, mut followers) = (PINNED.to_owned(), Vec::new(), String::new());
    for piece in pieces(text)? {
        let facts = Facts::of(&piece.statement.text, true);
        if is_ours(&facts) || comments_on_timescale(&facts) {
            continue;
        }
        let made = made(&facts);
        if let Some(statement) = made.as_ref().and_then(|name| aggregates.remove(name)) {
            makers.push(Maker {
                name: made.unwrap_or_default(),
                reads: names(&statement),
                text: whole(&piece.before, &statement),
            });
            continue;
        }
        let names = names(&piece.statement.text);
        let of_chunk = names.iter().any(|name| chunks.contains(name));
        if of_chunk || names.iter().any(is_internal) {
            if of_chunk && is_of_a_table(&facts) {
                continue;
            }
            return Err(stands_on_internals(&piece));
        }
        if creates_timescale(&facts) {
            piece.write(&mut early);
            continue;
        }
        if names.is_disjoint(&late_names) {
            piece.write(&mut early);
        } else if let Some(name) = made {
            late_names.insert(name.clone());
            let text = whole(&piece.before, &piece.statement.text);
            makers.push(Maker { name, reads: names, text });
        } else {
            piece.write(&mut followers);
        }
    }
    if let Some(((schema, name), _)) = aggregates.into_iter().next() {
        return Err(Error::new(
            Exit::Bug,
            format!("pg_dump's definitions do not hold the view {schema}.{name}"),
        ));
    }
    for table in &definition.hypertables {
        early.push_str(&format!("\n\n{};", remake::hypertable(schema, table)));
    }
    for now in definition.hypertables.iter().filter_map(|table| remake::now(schema, table)) {
        early.push_str(&format!("\n\n{now};"));
    }
    early.push_str(&in_order(makers));
    early.push_str(&followers);
    early.push_str("\n\n");
    Ok(early)
}

/// The section after the rows: keys, indexes, triggers, for tables that are hypertables by then.
///
/// # Errors
/// Those of [`pieces`].
pub(super) fn after_rows(text: &str, definition: &Definition) -> Result<String> {
    let chunks: BTreeSet<&Name> = definition.chunks.iter().collect();
    let hypertables: BTreeSet<Name> =
        definition.hypertables.iter().map(|table| (table.schema.clone(), table.name.clone())).collect();
    let mut out = String::new();
    for mut piece in pieces(text)? {
        let facts = Facts::of(&piece.statement.text, true);
        if is_ours(&facts)
            || facts.begins_with(&["refresh", "materialized", "view"])
            || (facts.begins_with(&["create", "trigger"]) && runs_timescale(&facts))
            || names(&piece.statement.text).iter().any(|name| chunks.contains(name))
        {
            continue;
        }
        if let Some(text) = without_only(&facts, &piece.statement.text, &hypertables) {
            piece.statement = piece.statement.with_text(&text);
        }
        piece.write(&mut out);
    }
    Ok(if out.trim().is_empty() { String::new() } else { format!("{PINNED}{out}\n\n") })
}

/// What hypertables and continuous aggregates get once keys and indexes are there; then their jobs, which do not run yet.
pub(super) fn hypertables(definition: &Definition, schema: &str) -> String {
    let mut statements: Vec<String> =
        definition.hypertables.iter().flat_map(|table| remake::settings(schema, table)).collect();
    statements.extend(definition.aggregates.iter().flat_map(|view| remake::aggregate_settings(schema, view)));
    statements.extend(remake::jobs(schema, &definition.jobs));
    if statements.is_empty() {
        return String::new();
    }
    format!("{PINNED}{};\n\n", statements.join(";\n\n"))
}

/// What makes each hypertable anew, from pg_dump's sections of these tables: schema, table and its sequences, hypertable, keys
/// and indexes, settings.
///
/// # Errors
/// Those of [`pieces`].
pub(super) fn of_tables(
    pre: &str,
    post: &str,
    definition: &Definition,
    sequences: &[(Name, Name)],
    schema: &str,
) -> Result<BTreeMap<Name, Vec<String>>> {
    let hypertables: BTreeSet<Name> =
        definition.hypertables.iter().map(|table| (table.schema.clone(), table.name.clone())).collect();
    // The table that a statement is about is the first that it names; its sequences are made before they are its.
    let whose = |text: &str| {
        names_in_order(text).into_iter().find_map(|name| {
            match sequences.iter().find(|(own, _)| *own == name) {
                Some((_, table)) => Some(table.clone()),
                None => hypertables.contains(&name).then_some(name),
            }
        })
    };
    let sorted = |text: &str| -> Result<BTreeMap<Name, Vec<String>>> {
        let mut sorted: BTreeMap<Name, Vec<String>> = BTreeMap::new();
        for piece in pieces(text)? {
            let statement = piece.statement.text.as_str();
            let facts = Facts::of(statement, true);
            let theirs = facts.begins_with(&["create", "trigger"]) && runs_timescale(&facts);
            let Some(name) = whose(statement).filter(|_| !is_ours(&facts) && !theirs) else { continue };
            let statement = without_only(&facts, statement, &hypertables);
            sorted.entry(name).or_default().push(statement.unwrap_or(piece.statement.text));
        }
        Ok(sorted)
    };
    let (mut pre, mut post) = (sorted(pre)?, sorted(post)?);
    let mut all = BTreeMap::new();
    for table in &definition.hypertables {
        let name = (table.schema.clone(), table.name.clone());
        let mut statements =
            vec![format!("CREATE SCHEMA IF NOT EXISTS {}", escape_identifier(&table.schema))];
        statements.extend(pre.remove(&name).unwrap_or_default());
        statements.push(remake::hypertable(schema, table));
        statements.extend(remake::now(schema, table));
        statements.extend(post.remove(&name).unwrap_or_default());
        statements.extend(remake::settings(schema, table));
        all.insert(name, statements);
    }
    Ok(all)
}

fn whole(before: &str, statement: &str) -> String {
    format!("{before}{statement};")
}

/// A statement that makes what others may read.
struct Maker {
    name: Name,
    reads: BTreeSet<Name>,
    text: String,
}

/// Each behind what it reads, in their order otherwise.
fn in_order(mut left: Vec<Maker>) -> String {
    let mut out = String::new();
    while !left.is_empty() {
        let free = left.iter().position(|maker| {
            !left.iter().any(|other| other.name != maker.name && maker.reads.contains(&other.name))
        });
        // A circle has no right order; the server then says so.
        out.push_str(&left.remove(free.unwrap_or(0)).text);
    }
    out
}

/// Every `schema.name` in a statement.
fn names(text: &str) -> BTreeSet<Name> {
    names_in_order(text).into_iter().collect()
}

fn names_in_order(text: &str) -> Vec<Name> {
    let tokens: Vec<Token<'_>> = Facts::of(text, true).tokens().collect();
    tokens
        .windows(3)
        .filter(|three| three[1].is_symbol("."))
        .filter_map(|three| Some((three[0].name()?.into_owned(), three[2].name()?.into_owned())))
        .collect()
}

/// What a statement makes that others may read: a table, a view, a function.
fn made(facts: &Facts<'_>) -> Option<Name> {
    const KINDS: [&str; 8] =
        ["table", "view", "function", "procedure", "aggregate", "sequence", "type", "domain"];
    let tokens: Vec<Token<'_>> = facts.tokens().take(12).collect();
    if !tokens.first()?.is_word("create") {
        return None;
    }
    let kind = tokens.iter().position(|token| KINDS.iter().any(|kind| token.is_word(kind)))?;
    let [schema, dot, name] = tokens.get(kind + 1..kind + 4)? else { return None };
    dot.is_symbol(".").then_some(())?;
    Some((schema.name()?.into_owned(), name.name()?.into_owned()))
}

fn is_internal(name: &Name) -> bool {
    name.0 == "_timescaledb_internal" && INTERNAL.iter().any(|beginning| name.1.starts_with(beginning))
}

/// A table's own statements: what makes it, changes it, gives rights on it.
fn is_of_a_table(facts: &Facts<'_>) -> bool {
    [
        &["create", "table"] as &[_],
        &["create", "unlogged", "table"],
        &["alter", "table"],
        &["grant"],
        &["revoke"],
        &["comment", "on", "table"],
        &["comment", "on", "column"],
        &["create", "statistics"],
        &["alter", "statistics"],
    ]
    .iter()
    .any(|words| facts.begins_with(words))
}

fn comments_on_timescale(facts: &Facts<'_>) -> bool {
    facts.begins_with(&["comment", "on", "extension", "timescaledb"])
}

/// Whether a trigger runs a function of TimescaleDB's own.
fn runs_timescale(facts: &Facts<'_>) -> bool {
    let tokens: Vec<Token<'_>> = facts.tokens().collect();
    tokens.windows(3).any(|three| {
        three[0].is_word("execute")
            && three[2].name().is_some_and(|schema| schema.starts_with("_timescaledb_"))
    })
}

/// `ALTER TABLE ONLY f.m ...` without its ONLY, where `f.m` is a hypertable: it refuses that.
fn without_only(facts: &Facts<'_>, text: &str, hypertables: &BTreeSet<Name>) -> Option<String> {
    let tokens: Vec<Token<'_>> = facts.tokens().take(6).collect();
    let [alter, table, only, schema, dot, name] = tokens.as_slice() else { return None };
    let is = alter.is_word("alter") && table.is_word("table") && only.is_word("only") && dot.is_symbol(".");
    let named = (schema.name()?.into_owned(), name.name()?.into_owned());
    (is && hypertables.contains(&named))
        .then(|| format!("{}{}", &text[..only.range.start], text[only.range.end..].trim_start()))
}

fn stands_on_internals(piece: &Piece) -> Error {
    let start: String = piece.statement.text.chars().take(200).collect();
    Error::new(Exit::Failed, "a schema backup cannot hold an object that stands on a chunk or on another table of TimescaleDB's own")
        .because(start)
        .because("such tables get other names where hypertables are made anew; nothing of the backup is kept")
        .hint("take a full backup: backup NAME full")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ms5_common::timescale::definition::{Aggregate, Dimension, Hypertable};

    fn definition() -> Definition {
        let aggregate = |name: &str, query: &str| Aggregate {
            schema: "f".into(),
            name: name.into(),
            query: query.into(),
            ..Aggregate::default()
        };
        Definition {
            hypertables: vec![Hypertable {
                schema: "f".into(),
                name: "m".into(),
                dimensions: vec![Dimension {
                    column: "ts".into(),
                    interval: Some(1),
                    ..Dimension::default()
                }],
                ..Hypertable::default()
            }],
            aggregates: vec![
                aggregate("z_hour", "SELECT a FROM f.m GROUP BY 1"),
                aggregate("a_day", "SELECT a FROM f.z_hour GROUP BY 1"),
            ],
            chunks: vec![("f".into(), "_zz_1_chunk".into())],
            ..Definition::default()
        }
    }

    #[test]
    fn aggregates_stand_behind_hypertables_and_what_they_read() {
        let text = "CREATE VIEW f.a_day AS SELECT x FROM _timescaledb_internal._materialized_hypertable_6;
            ALTER TABLE f.a_day OWNER TO o;
            CREATE VIEW f.b AS SELECT * FROM f.a_day;
            CREATE TABLE f._zz_1_chunk () INHERITS (f.m);
            COMMENT ON EXTENSION timescaledb IS 'x';
            CREATE TABLE f.m (ts int);
            CREATE VIEW f.z_hour AS SELECT x FROM _timescaledb_internal._materialized_hypertable_5;
            CREATE TABLE f.last (ts int);
            GRANT SELECT ON TABLE f.z_hour TO o;\n";
        let out = before_rows(text, &definition(), "public").unwrap();
        let order = [
            "CREATE TABLE f.m",
            "CREATE TABLE f.last",
            "create_hypertable('\"f\".\"m\"'",
            "CREATE MATERIALIZED VIEW \"f\".\"z_hour\"",
            "CREATE MATERIALIZED VIEW \"f\".\"a_day\"",
            "CREATE VIEW f.b",
            "ALTER TABLE f.a_day OWNER",
            "GRANT SELECT ON TABLE f.z_hour",
        ];
        let places: Vec<usize> =
            order.iter().map(|words| out.find(words).unwrap_or_else(|| panic!("{words}\n{out}"))).collect();
        assert!(places.is_sorted(), "{places:?}\n{out}");
        assert!(!out.contains("_zz_1_chunk") && !out.contains("_materialized") && !out.contains("EXTENSION"));
    }

    #[test]
    fn each_table_has_its_statements() {
        let name = |name: &str| ("f".to_owned(), name.to_owned());
        let pre = "CREATE TABLE f.m (ts int); CREATE SEQUENCE f.m_id_seq; ALTER SEQUENCE f.m_id_seq OWNED BY f.m.id;
            ALTER TABLE ONLY f.m ALTER COLUMN id SET DEFAULT nextval('f.m_id_seq'::regclass);\n";
        let post = "ALTER TABLE ONLY f.m ADD CONSTRAINT k FOREIGN KEY (a) REFERENCES f.line(id);
            CREATE INDEX i ON f.m USING btree (ts);
            CREATE TRIGGER b BEFORE INSERT ON f.m FOR EACH ROW EXECUTE FUNCTION _timescaledb_functions.insert_blocker();\n";
        let all = of_tables(pre, post, &definition(), &[(name("m_id_seq"), name("m"))], "public").unwrap();
        let made = &all[&name("m")];
        let begins = |number: usize, words: &str| assert!(made[number].starts_with(words), "{made:#?}");
        begins(0, "CREATE SCHEMA IF NOT EXISTS \"f\"");
        begins(1, "CREATE TABLE f.m");
        begins(2, "CREATE SEQUENCE");
        begins(4, "ALTER TABLE f.m ALTER");
        begins(5, "DO $ms5$");
        begins(6, "ALTER TABLE f.m ADD CONSTRAINT k");
        begins(7, "CREATE INDEX");
        assert_eq!(made.len(), 8);
    }

    #[test]
    fn what_stands_on_internals_is_refused() {
        for text in [
            "CREATE VIEW f.own AS SELECT * FROM f._zz_1_chunk;\n",
            "CREATE VIEW f.own AS SELECT * FROM _timescaledb_internal._hyper_1_2_chunk;\n",
        ] {
            let only_table = Definition { aggregates: Vec::new(), ..definition() };
            assert!(before_rows(text, &only_table, "public").is_err(), "{text}");
        }
        let missing = before_rows("SELECT 1;\n", &definition(), "public").unwrap_err();
        assert_eq!(missing.exit(), Exit::Bug);
    }

    #[test]
    fn keys_of_hypertables_are_not_for_the_root_alone() {
        let text = "ALTER TABLE ONLY f.m\n    ADD CONSTRAINT p PRIMARY KEY (ts);
            ALTER TABLE ONLY f.n ADD CONSTRAINT p PRIMARY KEY (ts);
            CREATE INDEX i ON f._zz_1_chunk USING btree (ts);
            CREATE TRIGGER b BEFORE INSERT ON f.m FOR EACH ROW EXECUTE FUNCTION _timescaledb_functions.insert_blocker();
            CREATE TRIGGER c BEFORE INSERT ON f.m FOR EACH ROW EXECUTE FUNCTION f.mine();
            REFRESH MATERIALIZED VIEW f.v;\n";
        let out = after_rows(text, &definition()).unwrap();
        assert!(out.contains("ALTER TABLE f.m\n    ADD") && out.contains("ALTER TABLE ONLY f.n"), "{out}");
        assert!(!out.contains("chunk") && !out.contains("blocker") && !out.contains("REFRESH"), "{out}");
        assert!(out.contains("f.mine()"));
    }
}
