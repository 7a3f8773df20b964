//! Two fingerprints of a table: the same rows, lost or changed ones, or nothing that can be said.

use std::collections::BTreeMap;
use std::fmt;

use super::{Column, Fingerprint};

/// How a table's old rows differ from what they were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// The table is not there any more.
    TableGone {
        /// How many rows it had.
        rows: u64,
    },
    /// A column is not there any more.
    ColumnGone {
        /// Its name.
        column: String,
    },
    /// A bucket has fewer rows than it had.
    Lost {
        /// Its day; None: rows without a time, or the whole table.
        day: Option<String>,
        /// How many there were.
        before: u64,
        /// How many there are.
        now: u64,
    },
    /// A bucket has as many rows as it had, and they are not the same.
    Changed {
        /// Its day; None: rows without a time, or the whole table.
        day: Option<String>,
        /// How many there are.
        rows: u64,
    },
    /// A bucket has more rows than it had, all with keys up to the highest of then.
    More {
        /// Its day; None: rows without a time, or the whole table.
        day: Option<String>,
        /// How many there were.
        before: u64,
        /// How many there are.
        now: u64,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = |count: u64| if count == 1 { "1 row".to_owned() } else { format!("{count} rows") };
        let place =
            |day: &Option<String>| day.as_ref().map_or_else(String::new, |day| format!(" of {day} (UTC)"));
        match self {
            Self::TableGone { rows: count } => write!(out, "the table is gone, and with it {}", rows(*count)),
            Self::ColumnGone { column } => write!(out, "column {column} is gone"),
            Self::Lost { day, before, now } => {
                let lost = before.saturating_sub(*now);
                write!(out, "{}{} lost: {before} before, {now} now", rows(lost), place(day))
            }
            Self::Changed { day, rows: count } => {
                write!(out, "rows{} changed: {} before and now, with other content", place(day), rows(*count))
            }
            Self::More { day, before, now } => {
                let more = now.saturating_sub(*before);
                write!(out, "{} more{} than before: {before} before, {now} now", rows(more), place(day))
            }
        }
    }
}

/// What a comparison says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every row that the first fingerprint covers is there as it was.
    Same {
        /// The rows with higher keys: new ones.
        added: u64,
    },
    /// Old rows are gone or are not what they were.
    Different {
        /// What is different, bucket by bucket.
        differences: Vec<Difference>,
        /// The rows with higher keys: new ones.
        added: u64,
    },
    /// Something is different, and whether a row was lost cannot be told from it.
    NotProven {
        /// Why not.
        why: Vec<String>,
        /// What is different, bucket by bucket.
        differences: Vec<Difference>,
    },
}

/// Compares the rows of a table with what they were. `now` was taken with
/// [`Wanted::Again`](super::Wanted::Again) for `before`; None where the table is gone.
///
/// Fewer rows, or as many with other content, are a fact whatever happened meanwhile, unless old rows are known to change, or
/// the table has no key that tells old rows from new ones. More rows are not: keys may have been given by hand or earlier,
/// and a lost row may hide behind one that came. So more rows are never called gained, they are not proven.
#[must_use]
pub fn compare(before: &Fingerprint, now: Option<&Fingerprint>) -> Verdict {
    let Some(now) = now else {
        return Verdict::Different {
            differences: vec![Difference::TableGone { rows: before.rows }],
            added: 0,
        };
    };
    let mut differences = Vec::new();
    let mut retyped = Vec::new();
    let mut retimed = before.time_column != now.time_column;
    for column in &before.columns {
        match now.columns.iter().find(|other| other.name == column.name) {
            None => differences.push(Difference::ColumnGone { column: column.name.clone() }),
            Some(other) if !alike(column, other) => {
                retimed |= before.time_column.as_ref() == Some(&column.name);
                retyped.push(format!(
                    "the type of column {} was {} and is {}",
                    column.name, column.type_name, other.type_name
                ));
            }
            Some(_) => {}
        }
    }
    let whole = differences.is_empty();
    let mut unlike = false;
    for (day, (then, is)) in pairs(before, now, retimed) {
        if is.0 < then.0 {
            differences.push(Difference::Lost { day, before: then.0, now: is.0 });
        } else if is.0 > then.0 {
            differences.push(Difference::More { day, before: then.0, now: is.0 });
        } else if is.1 != then.1 && whole {
            // A value of another type may have another hash and still be the same.
            if retyped.is_empty() {
                differences.push(Difference::Changed { day, rows: is.0 });
            } else {
                unlike = true;
            }
        }
    }
    let a_fact = differences.iter().any(|difference| match difference {
        Difference::TableGone { .. } | Difference::ColumnGone { .. } => true,
        Difference::Lost { .. } | Difference::Changed { .. } => !before.changing && before.key.is_some(),
        Difference::More { .. } => false,
    });
    if a_fact {
        return Verdict::Different { differences, added: now.above };
    }
    if differences.is_empty() && !unlike {
        return Verdict::Same { added: now.above };
    }
    let mut why = before.why_not.clone();
    why.extend(now.why_not.iter().filter(|reason| !before.why_not.contains(reason)).cloned());
    if before.changing {
        why.push("its old rows change in normal work".to_owned());
    }
    why.extend(retyped);
    if why.is_empty() {
        why.push(
            "rows with old keys were added since: keys were given by hand or taken long before".to_owned(),
        );
    }
    Verdict::NotProven { why, differences }
}

/// Whether a column is what it was, and its hash as well.
fn alike(before: &Column, now: &Column) -> bool {
    before.type_name == now.type_name && before.as_text == now.as_text
}

/// Rows and hash.
type Sums = (u64, i128);

/// What was and what is, bucket by bucket; as a whole where the buckets cannot be the same ones.
fn pairs(before: &Fingerprint, now: &Fingerprint, retimed: bool) -> BTreeMap<Option<String>, (Sums, Sums)> {
    if retimed {
        return BTreeMap::from([(None, ((before.rows, before.hash), (now.rows, now.hash)))]);
    }
    let mut pairs: BTreeMap<Option<String>, (Sums, Sums)> = BTreeMap::new();
    for bucket in &before.buckets {
        pairs.entry(bucket.day.clone()).or_default().0 = (bucket.rows, bucket.hash);
    }
    for bucket in &now.buckets {
        pairs.entry(bucket.day.clone()).or_default().1 = (bucket.rows, bucket.hash);
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fingerprint::Bucket;
    use crate::sql::TableName;

    fn taken(buckets: &[(&str, u64, i128)]) -> Fingerprint {
        let buckets: Vec<Bucket> = (buckets.iter())
            .map(|(day, rows, hash)| Bucket { day: Some((*day).to_owned()), rows: *rows, hash: *hash })
            .collect();
        let column = |name: &str, type_name: &str| Column {
            name: name.to_owned(),
            type_name: type_name.to_owned(),
            as_text: false,
        };
        Fingerprint {
            name: TableName::new("s", "t"),
            columns: vec![column("id", "bigint"), column("ts", "date"), column("v", "character varying(9)")],
            time_column: Some("ts".to_owned()),
            key: Some("id".to_owned()),
            highest: Some(10),
            why_not: Vec::new(),
            changing: false,
            rows: buckets.iter().map(|bucket| bucket.rows).sum(),
            hash: buckets.iter().map(|bucket| bucket.hash).sum(),
            above: 0,
            buckets,
        }
    }

    fn said(verdict: &Verdict) -> Vec<String> {
        match verdict {
            Verdict::Same { added } => vec![format!("same, {added} added")],
            Verdict::Different { differences, .. } => differences.iter().map(ToString::to_string).collect(),
            Verdict::NotProven { why, differences } => (why.iter().cloned())
                .chain(differences.iter().map(|difference| format!("not proven: {difference}")))
                .collect(),
        }
    }

    #[test]
    fn rows_above_the_highest_key_are_added_ones() {
        let before = taken(&[("2025-01-01", 2, 5)]);
        let now = Fingerprint { above: 4, ..before.clone() };
        assert_eq!(compare(&before, Some(&now)), Verdict::Same { added: 4 });
    }

    #[test]
    fn lost_and_changed_are_named_by_day_with_their_counts() {
        let before = taken(&[("2025-01-01", 2, 5), ("2025-01-02", 3, 9), ("2025-01-03", 1, 1)]);
        let now = taken(&[("2025-01-01", 2, 6), ("2025-01-02", 2, 7), ("2025-01-04", 1, 1)]);
        assert_eq!(
            said(&compare(&before, Some(&now))),
            [
                "rows of 2025-01-01 (UTC) changed: 2 rows before and now, with other content",
                "1 row of 2025-01-02 (UTC) lost: 3 before, 2 now",
                "1 row of 2025-01-03 (UTC) lost: 1 before, 0 now",
                "1 row more of 2025-01-04 (UTC) than before: 0 before, 1 now",
            ]
        );
        assert_eq!(said(&compare(&before, None)), ["the table is gone, and with it 6 rows"]);
    }

    #[test]
    fn more_rows_are_never_gained_ones() {
        let before = taken(&[("2025-01-01", 2, 5)]);
        let now = taken(&[("2025-01-01", 3, 7)]);
        assert_eq!(
            said(&compare(&before, Some(&now))),
            [
                "rows with old keys were added since: keys were given by hand or taken long before",
                "not proven: 1 row more of 2025-01-01 (UTC) than before: 2 before, 3 now"
            ]
        );
        let doubtful = Fingerprint { why_not: vec!["pid 7 held it up".to_owned()], ..before };
        let Verdict::NotProven { why, .. } = compare(&doubtful, Some(&now)) else { panic!() };
        assert_eq!(why, ["pid 7 held it up"]);
        // What is the same needs no proof.
        assert_eq!(compare(&doubtful, Some(&doubtful)), Verdict::Same { added: 0 });
    }

    #[test]
    fn where_old_rows_change_or_no_key_grows_nothing_is_proven() {
        let before = taken(&[("2025-01-01", 2, 5)]);
        let (other, fewer) = (taken(&[("2025-01-01", 2, 6)]), taken(&[("2025-01-01", 1, 6)]));
        let different =
            |before: &Fingerprint, now| matches!(compare(before, Some(now)), Verdict::Different { .. });
        let changing = Fingerprint { changing: true, ..before.clone() };
        assert!(different(&before, &other) && different(&before, &fewer));
        assert!(!different(&changing, &other) && !different(&changing, &fewer));
        let keyless = Fingerprint { key: None, highest: None, ..before };
        assert!(!different(&keyless, &other) && !different(&keyless, &fewer));
    }

    #[test]
    fn columns_that_went_or_have_another_type_are_named() {
        let before = taken(&[("2025-01-01", 2, 5)]);
        let mut now = taken(&[("2025-01-01", 2, 6)]);
        now.columns[2].type_name = "text".to_owned();
        assert_eq!(
            said(&compare(&before, Some(&now))),
            ["the type of column v was character varying(9) and is text"]
        );
        // The same hash is the same content, whatever the type is called.
        now.buckets.clone_from(&before.buckets);
        assert_eq!(said(&compare(&before, Some(&now))), ["same, 0 added"]);
        now.columns.pop();
        now.buckets[0].hash = 77;
        assert_eq!(said(&compare(&before, Some(&now))), ["column v is gone"]);
        // Days under another type are other days: the table is compared as a whole.
        let mut moved = taken(&[("2024-12-31", 1, 3), ("2025-01-01", 1, 2)]);
        moved.columns[1].type_name = "timestamp with time zone".to_owned();
        assert_eq!(said(&compare(&before, Some(&moved))), ["same, 0 added"]);
    }
}
