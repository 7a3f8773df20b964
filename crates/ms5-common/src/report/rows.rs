//! Do the rows agree: each table as it was before the migration and as it is after it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::html::{Markup, el};
use super::outcome::{Outcome, badge_in};
use super::story::Story;
use super::table::{Row, figures, table, words};
use super::words::{count, count_in, field, len, list, many, parted, text, total};

/// What is known of a table.
#[derive(Default)]
struct Known<'a> {
    /// pre-validate's.
    before: Option<&'a Value>,
    /// The runner's, of --prove.
    proof: Option<&'a Value>,
    /// post-validate's.
    after: Option<&'a Value>,
}

fn known<'a>(story: &Story<'a>) -> BTreeMap<String, Known<'a>> {
    let mut tables: BTreeMap<String, Known<'a>> = BTreeMap::new();
    let name = |record: &Value| format!("{}.{}", text(record, "schema"), text(record, "table"));
    for record in story.kind("table") {
        tables.entry(name(record)).or_default().before = Some(record);
    }
    for (table, proof) in story.proven() {
        tables.entry(table.to_owned()).or_default().proof = Some(proof);
    }
    for record in story.kind("rows") {
        tables.entry(name(record)).or_default().after = Some(record);
    }
    tables
}

/// The one sentence for the top of the page.
pub(super) fn sentence(story: &Story<'_>) -> Option<String> {
    let tables = known(story);
    if tables.is_empty() {
        return None;
    }
    let compared: Vec<&Value> = tables.values().filter_map(|known| known.after).collect();
    if compared.is_empty() {
        let proven: Vec<u64> = tables.values().filter_map(|known| known.proof?["rows"].as_u64()).collect();
        if proven.is_empty() {
            let counted = total(tables.values().filter_map(|known| known.before?["rows"].as_u64()));
            return Some(format!(
                "{} in {} counted and hashed.",
                many(counted, "row"),
                many(len(&Vec::from_iter(&tables)), "table")
            ));
        }
        let rows = total(proven.iter().copied());
        return Some(format!(
            "Proven under lock: {} in {}, each as it was.",
            many(rows, "row"),
            many(len(&proven), "table")
        ));
    }
    let of = |verdict: &str| -> Vec<&&Value> {
        compared.iter().filter(|record| record["verdict"] == verdict).collect()
    };
    let sum = |records: &[&&Value]| total(records.iter().filter_map(|record| record["before"].as_u64()));
    let (equal, different, open) = (of("equal"), of("different"), of("not proven"));
    let mut parts = Vec::new();
    if !different.is_empty() {
        parts.push(format!("In {} rows are lost or are not what they were.", many(len(&different), "table")));
    }
    if !equal.is_empty() {
        parts.push(format!(
            "{} in {}: every one is there as it was.",
            many(sum(&equal), "row"),
            many(len(&equal), "table")
        ));
    }
    if !open.is_empty() {
        parts.push(format!("Of {} it is not proven.", many(len(&open), "table")));
    }
    Some(parts.join(" "))
}

/// The part.
pub(super) fn part(story: &Story<'_>) -> Markup {
    let tables = known(story);
    let rows: Vec<Row> = tables
        .iter()
        .map(|(name, known)| {
            let nothing = Value::Null;
            let (before, proof, after) = (
                known.before.unwrap_or(&nothing),
                known.proof.unwrap_or(&nothing),
                known.after.unwrap_or(&nothing),
            );
            let verdict = match (known.after, known.proof) {
                (Some(after), _) => badge_in(after, "verdict"),
                (None, Some(_)) => Outcome::Good.badge("equal, under lock"),
                (None, None) => Outcome::Skipped.badge("not compared"),
            };
            let rows_before =
                if known.before.is_some() { count_in(before, "rows") } else { count_in(after, "before") };
            let rows_after = match known.after {
                Some(after) if after["after"].is_null() => "the table is gone".into(),
                _ => count_in(after, "after"),
            };
            Row::new(
                "rows",
                name,
                vec![
                    [parted(name), hash(before)].into(),
                    verdict,
                    rows_before,
                    count_in(proof, "rows"),
                    rows_after,
                    count_in(after, "added"),
                    days(before),
                ],
            )
        })
        .collect();
    if rows.is_empty() {
        return Markup::default();
    }
    let columns = [
        words("Table"),
        words("Rows agree"),
        figures("Before"),
        figures("Under lock"),
        figures("After"),
        figures("Added since"),
        figures("Days compared"),
    ];
    let about = "Every row was counted and hashed, day by day where a column says when it is of, up to the highest key that was there before. Rows with higher keys came \
                 while production went on; they are told apart.";
    [el("p", &[("class", "about")], about), table("Rows of each table, before and after", &columns, rows)]
        .into()
}

/// How many days were compared one by one: none where there are no rows, or no column says when they are of.
fn days(before: &Value) -> Markup {
    if before["time_column"].is_null() || before["rows"] == 0 {
        return "–".into();
    }
    field(before, "buckets", |_| Some(count(len(list(before, "buckets")))))
}

/// What all rows together hash to, under the table's name.
fn hash(before: &Value) -> Markup {
    if before["hash"].is_null() {
        return Markup::default();
    }
    el(
        "span",
        &[("class", "under")],
        ["hash ".into(), field(before, "hash", |value| value.as_str().map(str::to_owned))],
    )
}
