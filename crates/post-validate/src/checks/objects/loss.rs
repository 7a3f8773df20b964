//! What an object has lost that is still there under its name: what it guarded, it guards no more.

use std::collections::BTreeSet;

use ms5_common::sql;

/// What was lost, in words; None where it is only another one.
pub(super) fn lost(kind: &str, was: &str, is: &str, of_hypertable: bool) -> Option<String> {
    let another = || Some(format!("was {was}, is {is}"));
    let had = |words: &str| was.contains(words) && !is.contains(words);
    match kind {
        "column" => column(was, is),
        // A key of a hypertable has to hold its time.
        "constraint" | "index" if of_hypertable && is_longer_key(was, is) => None,
        "constraint" if same(was, is, NOT_VALIDATED) && was.ends_with(NOT_VALIDATED) => None,
        "constraint" | "trigger" | "row policy" | "rule" => another(),
        "index" if had("CREATE UNIQUE INDEX ") || (is.ends_with(INVALID) && !was.ends_with(INVALID)) => {
            another()
        }
        "table" | "partitioned table" if had("row security; ") => {
            Some("row security is switched off".to_owned())
        }
        "table" | "partitioned table" if is.starts_with("unlogged; ") && !was.starts_with("unlogged; ") => {
            Some("is unlogged now: a crash empties it".to_owned())
        }
        _ => None,
    }
}

/// Whether an object is another one, beyond what a conversion makes of it and beyond what guards more than before.
pub(super) fn is_another(kind: &str, was: &str, is: &str, of_hypertable: bool) -> bool {
    match kind {
        "column" => {
            let (was, is) = (Column::of(was), Column::of(is));
            was.type_name != is.type_name || was.value != is.value
        }
        "constraint" | "index" => !(same(was, is, NOT_VALIDATED) || of_hypertable && is_longer_key(was, is)),
        "function" | "view" | "materialized view" | "sequence" | "type" | "owner of" | "grant" => true,
        // What TimescaleDB keeps has checks of its own; a comment, and a storage parameter, guards nothing.
        _ => false,
    }
}

/// How an inventory ends the definition of a constraint that old rows may break.
const NOT_VALIDATED: &str = " (not validated)";
/// And that of an index whose build has failed.
const INVALID: &str = " (invalid)";

/// Whether both are the same but for an ending.
fn same(was: &str, is: &str, ending: &str) -> bool {
    // pg_get_constraintdef says it as well.
    let bare = |text: &str| {
        let text = text.strip_suffix(ending).unwrap_or(text);
        text.strip_suffix(" NOT VALID").unwrap_or(text).to_owned()
    };
    bare(was) == bare(is)
}

/// Whether a key of the same kind has all that it had, and more.
fn is_longer_key(was: &str, is: &str) -> bool {
    let kind = ["PRIMARY KEY ", "UNIQUE ", "EXCLUDE ", "CREATE UNIQUE INDEX "]
        .into_iter()
        .find(|kind| was.starts_with(kind) && is.starts_with(kind));
    let names = |text: &str| -> BTreeSet<String> {
        sql::tokens(text, true).filter_map(|token| token.name().map(std::borrow::Cow::into_owned)).collect()
    };
    kind.is_some() && names(was).is_subset(&names(is))
}

/// A column's definition, taken apart.
struct Column<'a> {
    type_name: &'a str,
    not_null: bool,
    /// Identity, what it is generated as, default, collation.
    value: &'a str,
}

impl<'a> Column<'a> {
    fn of(definition: &'a str) -> Self {
        let (type_name, rest) = definition.split_once(", position ").unwrap_or((definition, ""));
        let rest = rest.trim_start_matches(|letter: char| letter.is_ascii_digit());
        let bare = rest.strip_prefix(", not null");
        Self { type_name, not_null: bare.is_some(), value: bare.unwrap_or(rest) }
    }

    /// Whether a row that names no value of it gets one.
    fn has_value(&self) -> bool {
        [", identity ", ", generated", ", default "].iter().any(|word| self.value.starts_with(word))
    }
}

fn column(was: &str, is: &str) -> Option<String> {
    let (was, is) = (Column::of(was), Column::of(is));
    let mut lost = Vec::new();
    if was.not_null && !is.not_null {
        lost.push("NOT NULL".to_owned());
    }
    // An identity may take the place of a default, and the other way round.
    if was.has_value() && !is.has_value() {
        lost.push(was.value.trim_start_matches(", ").to_owned());
    }
    (!lost.is_empty()).then(|| format!("has lost {}", lost.join(" and ")))
}

#[cfg(test)]
mod tests {
    use super::{is_another, lost};

    #[test]
    fn what_is_a_loss_and_what_is_only_another_one() {
        for (kind, was, is, loses, other) in [
            (
                "column",
                "numeric(9,2), position 3, not null",
                "numeric(9,2), position 2",
                Some("has lost NOT NULL"),
                false,
            ),
            ("column", "int, position 1, default 5", "int, position 1", Some("has lost default 5"), true),
            (
                "column",
                "int, position 1, not null, identity d",
                "int, position 1, not null",
                Some("has lost identity d"),
                true,
            ),
            ("column", "int, position 1, default nextval('s')", "int, position 1, identity a", None, true),
            ("column", "int, position 1", "int, position 4, not null, default 5", None, true),
            ("column", "timestamp, position 1", "timestamp, position 1, not null", None, false),
            ("column", "int, position 1", "bigint, position 1", None, true),
            ("constraint", "CHECK (a) NOT VALID (not validated)", "CHECK (a)", None, false),
            (
                "constraint",
                "CHECK (a)",
                "CHECK (a) NOT VALID (not validated)",
                Some("was CHECK (a), is CHECK (a) NOT VALID (not validated)"),
                false,
            ),
            (
                "index",
                "CREATE UNIQUE INDEX i ON t (a)",
                "CREATE INDEX i ON t (a)",
                Some("was CREATE UNIQUE INDEX i ON t (a), is CREATE INDEX i ON t (a)"),
                true,
            ),
            ("index", "CREATE INDEX i ON t (a)", "CREATE INDEX i ON t (b)", None, true),
            ("table", "row security; ", "", Some("row security is switched off"), false),
            ("table", "", "unlogged; ", Some("is unlogged now: a crash empties it"), false),
            ("function", "1", "2", None, true),
            ("comment on", "1", "2", None, false),
        ] {
            assert_eq!(lost(kind, was, is, false).as_deref(), loses, "{kind} {was}");
            assert_eq!(is_another(kind, was, is, false), other, "{kind} {was}");
        }
        let (key, longer) = ("PRIMARY KEY (id)", "PRIMARY KEY (ts, id)");
        assert_eq!(lost("constraint", key, longer, true), None);
        assert!(
            !is_another("constraint", key, longer, true) && lost("constraint", key, longer, false).is_some()
        );
        assert!(lost("constraint", longer, key, true).is_some());
    }
}
