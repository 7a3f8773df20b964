//! Hypertables: their chunks over time, how large they are and which are compressed.

use serde_json::Value;
use time::OffsetDateTime;

use super::html::{Markup, el};
use super::outcome::Outcome;
use super::story::Story;
use super::svg::{self, Block};
use super::table::{Row, figures, table, words};
use super::words::{
    bytes, bytes_in, count, count_in, figure, len, list, many, moment_in, parted, text, text_in, total,
};
use crate::clock;

/// The most bars of a chart; neighbours share one where there are more chunks.
const MOST: usize = 120;

/// The part: of each hypertable as it was seen last.
pub(super) fn part(story: &Story<'_>) -> Markup {
    let name = |record: &Value| format!("{}.{}", text(record, "schema"), text(record, "table"));
    let all = story.kind("hypertable");
    let last: Vec<&Value> = all
        .iter()
        .enumerate()
        .filter(|(place, record)| !all[place + 1..].iter().any(|other| name(other) == name(record)))
        .map(|(_, record)| *record)
        .collect();
    if last.is_empty() {
        return Markup::default();
    }
    let rows = last
        .iter()
        .map(|record| {
            let chunks = list(record, "chunks");
            let packed = len(&chunks.iter().filter(|chunk| chunk["compressed"] == true).collect::<Vec<_>>());
            let size = total(chunks.iter().filter_map(|chunk| chunk["bytes"].as_u64()));
            Row::of(
                record,
                &name(record),
                vec![
                    parted(&name(record)),
                    text_in(record, "time_column"),
                    figure("chunks", &Value::from(len(chunks)), count(len(chunks))),
                    figure("compressed", &Value::from(packed), count(packed)),
                    figure("bytes", &Value::from(size), size_text(size)),
                    count_in(record, "rows_estimate"),
                ],
            )
        })
        .collect();
    let columns = [
        words("Hypertable"),
        words("Time column"),
        figures("Chunks"),
        figures("Compressed"),
        figures("Size"),
        figures("Rows, estimated"),
    ];
    let charts: Markup =
        last.iter().enumerate().map(|(place, record)| one(place, &name(record), record)).collect();
    [table("Hypertables after the migration", &columns, rows), el("div", &[("class", "hypertables")], charts)]
        .into()
}

fn size_text(size: u64) -> String {
    Value::from(size).as_f64().map(bytes).unwrap_or_default()
}

fn one(place: usize, name: &str, record: &Value) -> Markup {
    let chunks = list(record, "chunks");
    if chunks.is_empty() {
        return Markup::default();
    }
    let rows = chunks
        .iter()
        .enumerate()
        .map(|(number, chunk)| {
            let packed = chunk["compressed"] == true;
            let state = if packed { Outcome::Good.badge("compressed") } else { "as rows".into() };
            Row::new(
                "chunk",
                &format!("{name} {number}"),
                vec![
                    moment_in(chunk, "begin"),
                    moment_in(chunk, "end"),
                    bytes_in(chunk, "bytes"),
                    figure("compressed", &chunk["compressed"], state),
                ],
            )
        })
        .collect();
    let columns = [words("From"), words("Until"), figures("Size"), words("Kept")];
    el(
        "div",
        &[("class", "hypertable")],
        [
            el("h3", &[], parted(name)),
            chart(place, name, chunks),
            el(
                "details",
                &[],
                [
                    el("summary", &[], format!("Each of the {}", many(len(chunks), "chunk"))),
                    table(&format!("Chunks of {name}"), &columns, rows),
                ],
            ),
        ],
    )
}

/// A bar for each chunk, over its stretch of time.
fn chart(place: usize, name: &str, chunks: &[Value]) -> Markup {
    let of_time = chunks.iter().filter_map(|chunk| {
        let size = chunk["bytes"].as_f64()?;
        Some((at(&chunk["begin"])?, at(&chunk["end"])?, size, chunk["compressed"] == true))
    });
    // Partitions by something else beside time share a stretch: one bar for all of them, or they would hide each other.
    let mut spans: Vec<(f64, f64, f64, bool)> = Vec::new();
    for (begin, end, size, packed) in of_time {
        match spans.iter_mut().find(|span| (span.0, span.1) == (begin, end)) {
            Some(span) => {
                span.2 += size;
                span.3 &= packed;
            }
            None => spans.push((begin, end, size, packed)),
        }
    }
    let group = spans.len().div_ceil(MOST).max(1);
    let grouped: Vec<(f64, f64, f64, bool)> = spans
        .chunks(group)
        .map(|several| {
            let (first, last) = (several[0], several[several.len() - 1]);
            let size = several.iter().map(|span| span.2).sum();
            (first.0, last.1, size, several.iter().all(|span| span.3))
        })
        .collect();
    let most = grouped.iter().map(|span| span.2).fold(1.0, f64::max);
    let blocks: Vec<Block> = grouped
        .iter()
        .map(|(begin, end, size, packed)| Block {
            label: format!("{}{}", bytes(*size), if *packed { ", compressed" } else { "" }),
            begin: *begin,
            end: *end,
            height: size / most,
            class: if *packed { "packed" } else { "plain" },
        })
        .collect();
    let edge = |chunk: Option<&Value>, field: &str| {
        chunk
            .and_then(|chunk| chunk[field].as_str())
            .map(|text| text.split('T').next().unwrap_or(text).to_owned())
    };
    let begin = edge(chunks.iter().find(|chunk| chunk["begin"].is_string()), "begin").unwrap_or_default();
    let end = edge(chunks.iter().rev().find(|chunk| chunk["end"].is_string()), "end").unwrap_or_default();
    let several =
        if group > 1 { format!(" Each bar stands for {group} stretches of time.") } else { String::new() };
    let about = format!(
        "{} of {name} from {begin} until {end}; the highest bar is {}.{several}",
        many(len(chunks), "chunk"),
        bytes(most)
    );
    let title = format!("Chunks over time; the highest bar is {}", bytes(most));
    let legend: &[(&str, &str)] = if grouped.iter().any(|span| span.3) {
        &[("packed", "compressed"), ("plain", "as rows")]
    } else {
        &[]
    };
    svg::blocks(&format!("chart-chunks-{place}"), &title, &about, &blocks, (&begin, &end), legend)
}

/// Where a chunk begins or ends, as a number.
fn at(edge: &Value) -> Option<f64> {
    let text = edge.as_str()?;
    let time: Option<OffsetDateTime> = clock::parse_record_time(text);
    match time {
        Some(time) => Some((time - OffsetDateTime::UNIX_EPOCH).as_seconds_f64()),
        None => text.parse().ok(),
    }
}
