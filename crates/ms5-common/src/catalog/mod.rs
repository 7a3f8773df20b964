//! What a database consists of, object by object, as text that can be compared.
//!
//! An inventory maps each object (`index factory_telemetry.ix_metric_hist_def_ts`) to its definition as the
//! server prints it. Two inventories of one server version are equal exactly if the schemas are. Chunks,
//! objects that belong to an extension, and the ledger are not part of it.

mod queries;
mod reload;

use std::collections::BTreeMap;
use std::fmt;

use postgres::types::{ToSql, Type};
use serde_json::{Value, json};

use crate::db::client::Client;
use crate::timescale::hypertables;

/// Every object of a database with its definition, in the order of the names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory(BTreeMap<String, String>);

/// How one object differs between two inventories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// Only the first has it.
    Missing {
        /// Kind and name.
        object: String,
        /// Its definition there.
        was: String,
    },
    /// Only the second has it.
    Added {
        /// Kind and name.
        object: String,
        /// Its definition here.
        is: String,
    },
    /// Both have it, defined differently.
    Changed {
        /// Kind and name.
        object: String,
        /// The first's definition.
        was: String,
        /// The second's definition.
        is: String,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Some objects have no definition beside their name.
            Self::Missing { object, was } if was.is_empty() => write!(out, "missing: {object}"),
            Self::Missing { object, was } => write!(out, "missing: {object}: {was}"),
            Self::Added { object, is } if is.is_empty() => write!(out, "added: {object}"),
            Self::Added { object, is } => write!(out, "added: {object}: {is}"),
            Self::Changed { object, was, is } => write!(out, "changed: {object}\n  was: {was}\n  is:  {is}"),
        }
    }
}

impl Inventory {
    /// Takes the inventory of the database that `client` is connected to, in one snapshot.
    ///
    /// # Errors
    /// The client's.
    pub fn take(client: &mut Client) -> Result<Self, postgres::Error> {
        Self::of(&mut *client.transaction("ISOLATION LEVEL REPEATABLE READ, READ ONLY")?)
    }

    /// Takes the inventory inside a transaction that is open already, whose snapshot decides what is there.
    ///
    /// # Errors
    /// The client's.
    pub fn of(transaction: &mut Client) -> Result<Self, postgres::Error> {
        // Definitions are printed with what search_path makes necessary: with none, all names are qualified.
        transaction.batch_execute("SET LOCAL search_path TO ''")?;
        let mut objects = BTreeMap::new();
        let timescale = transaction
            .query_opt("SELECT FROM pg_catalog.pg_extension WHERE extname = 'timescaledb'", &[])?
            .is_some();
        let of_timescale = if timescale { queries::TIMESCALE } else { &[] };
        let chunks = if timescale { hypertables::chunk_oids(transaction)? } else { Vec::new() };
        for query in queries::POSTGRES.iter().chain(of_timescale) {
            let parameters: &[(&(dyn ToSql + Sync), Type)] =
                if query.contains("$1") { &[(&chunks, Type::OID_ARRAY)] } else { &[] };
            for row in transaction.query_typed(query, parameters)? {
                objects.insert(row.get::<_, String>(0), row.get::<_, Option<String>>(1).unwrap_or_default());
            }
        }
        Ok(Self(objects))
    }

    /// As it stands in a record of type `inventory`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({ "objects": self.0 })
    }

    /// Reads what [`Inventory::to_json`] gives; None where it is something else.
    #[must_use]
    pub fn from_json(value: &Value) -> Option<Self> {
        let object =
            |(name, definition): (&String, &Value)| Some((name.clone(), definition.as_str()?.to_owned()));
        value.get("objects")?.as_object()?.iter().map(object).collect::<Option<_>>().map(Self)
    }

    /// The definition of an object, named as `kind schema.name`.
    #[must_use]
    pub fn definition(&self, object: &str) -> Option<&str> {
        self.0.get(object).map(String::as_str)
    }

    /// The same without the positions of columns: a column that was missing and was added comes last, for good.
    #[must_use]
    pub fn without_positions(&self) -> Self {
        let cut = |(object, definition): (&String, &String)| {
            let place = definition.split_once(", position ").filter(|_| object.starts_with("column "));
            let definition = place.map_or_else(
                || definition.clone(),
                |(kind, rest)| format!("{kind}{}", rest.trim_start_matches(|c: char| c.is_ascii_digit())),
            );
            (object.clone(), definition)
        };
        Self(self.0.iter().map(cut).collect())
    }

    /// The same as far as a restore promises it: no job runs by schedule, and the table that holds a continuous aggregate's rows
    /// has whatever number it got.
    #[must_use]
    pub fn as_restored(&self) -> Self {
        let same = |(object, definition): (&String, &String)| {
            let is = if object.starts_with("policy ") {
                definition.replacen(", scheduled t, ", ", scheduled f, ", 1)
            } else if object.starts_with("view ") || object.starts_with("continuous aggregate ") {
                ["_materialized_hypertable_", "cagg_watermark("]
                    .iter()
                    .fold(definition.clone(), |text, before| without_number(&text, before))
            } else {
                definition.clone()
            };
            (object.clone(), is)
        };
        Self(self.0.iter().map(same).collect())
    }

    /// What is different in `restored`, which was made from a dump of this, but for what dumping and loading change of themselves.
    #[must_use]
    pub fn compare_restored(&self, restored: &Self) -> Vec<Difference> {
        reload::differences(self, restored)
    }

    /// Every object with its definition.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(object, definition)| (object.as_str(), definition.as_str()))
    }

    /// How many objects there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the database is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is different in `other`, object by object.
    #[must_use]
    pub fn compare(&self, other: &Self) -> Vec<Difference> {
        let mut differences = Vec::new();
        for (object, was) in &self.0 {
            match other.0.get(object) {
                None => differences.push(Difference::Missing { object: object.clone(), was: was.clone() }),
                Some(is) if is != was => differences.push(Difference::Changed {
                    object: object.clone(),
                    was: was.clone(),
                    is: is.clone(),
                }),
                Some(_) => {}
            }
        }
        for (object, is) in other.0.iter().filter(|(object, _)| !self.0.contains_key(*object)) {
            differences.push(Difference::Added { object: object.clone(), is: is.clone() });
        }
        differences
    }
}

/// Leaves out the digits behind a word, wherever it stands.
fn without_number(text: &str, before: &str) -> String {
    let mut parts = text.split(before);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |out, part| {
        out + before + part.trim_start_matches(|letter: char| letter.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inventory(objects: &[(&str, &str)]) -> Inventory {
        Inventory(objects.iter().map(|(object, is)| ((*object).to_owned(), (*is).to_owned())).collect())
    }

    #[test]
    fn compares_object_by_object() {
        let before = inventory(&[("table a", "x"), ("table b", "x"), ("view c", "y")]);
        let after = inventory(&[("table a", "x"), ("table b", "z"), ("view d", "y")]);
        let found: Vec<String> = before.compare(&after).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["changed: table b\n  was: x\n  is:  z", "missing: view c: y", "added: view d: y"]);
        assert!(before.compare(&before).is_empty());
    }

    #[test]
    fn records_keep_it() {
        let all = inventory(&[("table a", "x"), ("view \"b\"", "")]);
        assert_eq!(Inventory::from_json(&all.to_json()), Some(all));
        assert_eq!(Inventory::from_json(&json!({"objects": {"a": 1}})), None);
    }

    #[test]
    fn what_a_restore_may_change_is_no_difference() {
        let of = |policy: &str, view: &str| {
            let view = view.to_owned();
            inventory(&[("policy p on a.t", policy), ("view a.v", &view), ("table t", "cagg_watermark(1)")])
        };
        let was = of(
            "every 1 day, scheduled t, {}",
            "SELECT a FROM _materialized_hypertable_12.a > cagg_watermark(12)",
        );
        let is = of(
            "every 1 day, scheduled f, {}",
            "SELECT a FROM _materialized_hypertable_5.a > cagg_watermark(5)",
        );
        assert_ne!(was, is);
        assert_eq!(was.as_restored(), is.as_restored());
        let slower = of(
            "every 2 days, scheduled f, {}",
            "SELECT a FROM _materialized_hypertable_5.a > cagg_watermark(5)",
        );
        let other = of(
            "every 1 day, scheduled f, {}",
            "SELECT b FROM _materialized_hypertable_5.a > cagg_watermark(5)",
        );
        assert_ne!(was.as_restored(), slower.as_restored());
        assert_ne!(was.as_restored(), other.as_restored());
        assert_eq!(was.as_restored().definition("table t"), Some("cagg_watermark(1)"));
    }

    #[test]
    fn positions_of_columns_can_be_left_out() {
        let one = inventory(&[("column t.a", "int, position 1, not null"), ("view v", "x, position 1")]);
        let other = inventory(&[("column t.a", "int, position 12, not null"), ("view v", "x, position 1")]);
        assert_ne!(one, other);
        assert_eq!(one.without_positions(), other.without_positions());
        assert_eq!(one.without_positions().definition("column t.a"), Some("int, not null"));
        assert_eq!(one.without_positions().definition("view v"), Some("x, position 1"));
    }
}
