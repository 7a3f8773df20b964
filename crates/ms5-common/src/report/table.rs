//! Tables with a caption and headings; on a phone each row becomes a block, its cells named by their headings.

use serde_json::Value;

use super::html::{Markup, el};

/// A column: its heading, and whether it holds figures.
#[derive(Clone, Copy)]
pub(super) struct Column(pub(super) &'static str, pub(super) Kind);

/// What a column holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Figure,
    Code,
}

pub(super) const fn words(heading: &'static str) -> Column {
    Column(heading, Kind::Text)
}

pub(super) const fn figures(heading: &'static str) -> Column {
    Column(heading, Kind::Figure)
}

pub(super) const fn code(heading: &'static str) -> Column {
    Column(heading, Kind::Code)
}

/// A row: what record it shows (its type, and what tells it from others), and its cells. The first is its heading.
pub(super) struct Row {
    record: String,
    key: String,
    cells: Vec<Markup>,
}

impl Row {
    /// A row of a record.
    pub(super) fn of(record: &Value, key: &str, cells: Vec<Markup>) -> Self {
        let kind = record["type"].as_str().unwrap_or_default();
        Self { record: kind.to_owned(), key: key.to_owned(), cells }
    }

    /// A row that is not one record's.
    pub(super) fn new(kind: &str, key: &str, cells: Vec<Markup>) -> Self {
        Self { record: kind.to_owned(), key: key.to_owned(), cells }
    }
}

/// The table; nothing where there is no row.
pub(super) fn table(caption: &str, columns: &[Column], rows: Vec<Row>) -> Markup {
    drawn("wide", caption, columns, rows)
}

/// A table of so few and short columns that a phone has room for it as it is.
pub(super) fn narrow(caption: &str, columns: &[Column], rows: Vec<Row>) -> Markup {
    drawn("narrow", caption, columns, rows)
}

fn drawn(class_of_table: &str, caption: &str, columns: &[Column], rows: Vec<Row>) -> Markup {
    if rows.is_empty() {
        return Markup::default();
    }
    // What is short stays on one sheet of paper.
    let class_of_table =
        if rows.len() <= 12 { format!("{class_of_table} short") } else { class_of_table.to_owned() };
    let class = |kind: Kind| match kind {
        Kind::Text => "text",
        Kind::Figure => "figure",
        Kind::Code => "code",
    };
    let headings: Markup = columns
        .iter()
        .map(|Column(heading, kind)| el("th", &[("scope", "col"), ("class", class(*kind))], *heading))
        .collect();
    let body: Markup = rows
        .into_iter()
        .map(|row| {
            let cells: Markup = row
                .cells
                .into_iter()
                .zip(columns)
                .enumerate()
                .map(|(place, (cell, Column(heading, kind)))| match place {
                    0 => el("th", &[("scope", "row"), ("class", class(*kind))], cell),
                    _ => el("td", &[("class", class(*kind)), ("data-label", heading)], el("span", &[], cell)),
                })
                .collect();
            el("tr", &[("data-record", &row.record), ("data-key", &row.key)], cells)
        })
        .collect();
    el(
        "table",
        &[("class", &class_of_table)],
        [el("caption", &[], caption), el("thead", &[], el("tr", &[], headings)), el("tbody", &[], body)],
    )
}
