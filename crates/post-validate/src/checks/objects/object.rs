//! An object of an inventory, taken apart: what it is, what it is called, and to which table it belongs.

use std::borrow::Cow;

use ms5_common::sql::{self, Token};

/// Kinds whose name has a blank.
const KINDS: [&str; 8] = [
    "materialized view",
    "foreign table",
    "partitioned table",
    "owner of",
    "comment on",
    "compression setting",
    "continuous aggregate",
    "row policy",
];

/// An object, as an inventory names and defines it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object {
    /// As the inventory names it.
    pub(super) text: String,
    pub(super) kind: String,
    /// Its name in full: the schema first, a table before its part.
    pub(super) path: Vec<String>,
    /// The table or view that it is, or belongs to, with its schema.
    pub(super) relation: Option<Vec<String>>,
    /// Every name in its definition.
    mentions: Vec<String>,
}

impl Object {
    pub(super) fn of(object: &str, definition: &str) -> Self {
        let kind = KINDS
            .iter()
            .find(|kind| object.strip_prefix(**kind).is_some_and(|rest| rest.starts_with(' ')))
            .copied()
            .unwrap_or_else(|| object.split(' ').next().unwrap_or_default());
        let path = path(object);
        // An index and a sequence name their table in their definition only.
        let relation = match kind {
            "index" => definition
                .split_once(" ON ")
                .map(|(_, behind)| self::path(behind.trim_start_matches("ONLY "))),
            "sequence" => definition.split_once("owned by ").map(|(_, behind)| self::path(behind)),
            "schema" | "extension" | "function" | "type" | "statistics" | "publication" => None,
            _ => (path.len() > 1).then(|| path.clone()),
        };
        let relation = relation.filter(|path| path.len() > 1).map(|mut path| {
            path.truncate(2);
            path
        });
        let mentions = sql::tokens(definition, true).filter_map(|token| name(&token)).collect();
        Self { text: object.to_owned(), kind: kind.to_owned(), path, relation, mentions }
    }

    /// Its own name.
    pub(super) fn own(&self) -> &str {
        self.path.last().map_or("", String::as_str)
    }

    pub(super) fn is(&self, kinds: &[&str]) -> bool {
        kinds.contains(&self.kind.as_str())
    }

    /// Whether its definition names this.
    pub(super) fn mentions(&self, name: &str) -> bool {
        self.mentions.iter().any(|word| word == name)
    }
}

/// Whether a name, as far as it is given, may mean this one.
pub(in crate::checks) fn may_be(name: &[String], path: &[String]) -> bool {
    !path.is_empty() && name.iter().rev().zip(path.iter().rev()).all(|(one, other)| one == other)
}

fn name(token: &Token<'_>) -> Option<String> {
    token.name().map(Cow::into_owned)
}

/// The first name with a dot in it; the last word where there is none.
fn path(text: &str) -> Vec<String> {
    let tokens: Vec<Token<'_>> = sql::tokens(text, true).collect();
    let dotted = tokens.windows(2).position(|pair| pair[0].name().is_some() && pair[1].is_symbol("."));
    let start = dotted.unwrap_or(tokens.len().saturating_sub(1));
    // Behind a whole name the next word belongs to something else.
    let mut after_dot = true;
    (tokens.iter().skip(start))
        .take_while(|token| {
            let goes_on = if after_dot { token.name().is_some() } else { token.is_symbol(".") };
            after_dot = token.is_symbol(".");
            goes_on
        })
        .filter_map(name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::Object;

    #[test]
    fn what_an_object_is_called_and_where_it_belongs() {
        for (object, definition, kind, path, relation) in [
            ("constraint a.b.\"C\"", "", "constraint", "a|b|C", "a|b"),
            ("materialized view a.m", "", "materialized view", "a|m", "a|m"),
            ("function a.f(text, integer)", "", "function", "a|f", ""),
            ("schema a", "", "schema", "a", ""),
            ("index a.i", "CREATE INDEX i ON a.t USING btree (x)", "index", "a|i", "a|t"),
            ("sequence a.s", "bigint, owned by a.t.id", "sequence", "a|s", "a|t"),
            ("sequence a.s", "bigint, owned by nothing", "sequence", "a|s", ""),
            (
                "index \"A b\".\"i x\"",
                "CREATE INDEX \"i x\" ON ONLY \"A b\".\"T, z\" USING btree (x)",
                "index",
                "A b|i x",
                "A b|T, z",
            ),
            ("grant SELECT to \"Bob Y\" on a.t", "", "grant", "a|t", "a|t"),
            ("grant EXECUTE to public on a.f(integer, a.b)", "", "grant", "a|f", "a|f"),
            ("grant USAGE to joe on schema \"S s\"", "", "grant", "S s", ""),
            ("comment on table column a.t.c", "text", "comment on", "a|t|c", "a|t"),
            ("policy policy_compression on a.t", "every 1 day", "policy", "a|t", "a|t"),
        ] {
            let found = Object::of(object, definition);
            let relation_found = found.relation.as_deref().unwrap_or_default().join("|");
            assert_eq!(
                (found.kind.as_str(), found.path.join("|").as_str(), relation_found.as_str()),
                (kind, path, relation),
                "{object}"
            );
        }
    }
}
