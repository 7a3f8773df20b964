//! What was measured: throughput and times, now and in the last runs.

use serde_json::Value;

use super::html::{Markup, el};
use super::outcome::Outcome;
use super::story::Story;
use super::svg::{self, Bar};
use super::table::{Row, figures, table, words};
use super::words::{field, figure, len, list, many, measured, text, text_in};

/// The part.
pub(super) fn part(story: &Story<'_>) -> Markup {
    let measures = story.kind("measure");
    if measures.is_empty() {
        return Markup::default();
    }
    let rows = measures
        .iter()
        .map(|record| {
            let unit = text(record, "unit");
            let before = list(record, "before");
            let usual = median(record);
            let change =
                usual.filter(|usual| *usual > 0.0).and_then(|usual| Some(record["value"].as_f64()? / usual));
            let better = if record["better"] == "higher" { "higher" } else { "lower" };
            Row::of(
                record,
                &key(record),
                vec![
                    [
                        text_in(record, "name"),
                        el(
                            "span",
                            &[("class", "under")],
                            [
                                el("code", &[], text_in(record, "test")),
                                format!(", {better} is better").into(),
                            ],
                        ),
                    ]
                    .into(),
                    match (record["regressed"] == true, before.is_empty()) {
                        (true, _) => Outcome::Warn.badge("regression"),
                        (false, true) => Outcome::Note.badge("first time"),
                        (false, false) => Outcome::Good.badge("no regression"),
                    },
                    field(record, "value", |value| value.as_f64().map(|value| measured(value, unit))),
                    usual.map_or("–".into(), |usual| measured(usual, unit).into()),
                    change.map_or("–".into(), |change| format!("×{change:.2}").into()),
                    field(record, "limit", |value| value.as_f64().map(|limit| format!("×{limit}"))),
                    figure("before", &Value::from(len(before)), len(before).to_string()),
                ],
            )
        })
        .collect();
    let columns = [
        words("Measure"),
        words("Outcome"),
        figures("Now"),
        figures("Median before"),
        figures("Ratio"),
        figures("Limit"),
        figures("Runs before"),
    ];
    [throughput(&measures), table("What was measured", &columns, rows), trends(&measures)].into()
}

fn key(record: &Value) -> String {
    format!("{} {}", text(record, "test"), text(record, "name"))
}

fn outcome(record: &Value) -> Outcome {
    if record["regressed"] == true { Outcome::Warn } else { Outcome::Good }
}

fn before(record: &Value) -> Vec<f64> {
    list(record, "before").iter().filter_map(|run| run["value"].as_f64()).collect()
}

/// What it usually was.
fn median(record: &Value) -> Option<f64> {
    let mut values = before(record);
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

/// Backup and restore, side by side.
fn throughput(measures: &[&Value]) -> Markup {
    let bars: Vec<Bar> = measures
        .iter()
        .filter(|record| record["unit"] == "MB/s")
        .filter_map(|record| {
            let value = record["value"].as_f64()?;
            Some(Bar {
                label: text(record, "name").to_owned(),
                figure: measured(value, "MB/s"),
                begin: 0.0,
                end: value,
                class: outcome(record).class(),
            })
        })
        .collect();
    svg::bars(
        "chart-throughput",
        "Throughput",
        "Each throughput as a bar; the table below has the figures.",
        &bars,
        &[],
    )
}

/// A small chart for each that was measured before.
fn trends(measures: &[&Value]) -> Markup {
    let charts: Markup = measures.iter().enumerate().map(|(place, record)| trend(place, record)).collect();
    if charts.is_empty() {
        return charts;
    }
    [
        el("h3", &[], "Trend over the last runs"),
        el(
            "p",
            &[("class", "about")],
            "Oldest on the left, this run on the right. The dashed line is where a regression begins.",
        ),
        el("div", &[("class", "trends")], charts),
    ]
    .into()
}

fn trend(place: usize, record: &Value) -> Markup {
    let (Some(value), Some(usual)) = (record["value"].as_f64(), median(record)) else {
        return Markup::default();
    };
    let unit = text(record, "unit");
    let mut values = before(record);
    let number = values.len();
    values.push(value);
    let limit =
        record["limit"].as_f64().filter(|limit| *limit > 0.0).map(|limit| match record["better"].as_str() {
            Some("higher") if limit > 1.0 => usual / limit,
            _ => usual * limit,
        });
    let (least, most) = values
        .iter()
        .fold((f64::INFINITY, 0.0), |(least, most): (f64, f64), value| (least.min(*value), most.max(*value)));
    let title = format!("{}: {}", text(record, "name"), measured(value, unit));
    let about = format!(
        "{} in {} before and now, between {} and {}, now {}.",
        text(record, "name"),
        many(len(&values[..number]), "run"),
        measured(least, unit),
        measured(most, unit),
        measured(value, unit)
    );
    let runs: Vec<String> = list(record, "before")
        .iter()
        .map(|run| {
            format!(
                "{} ({})",
                run["value"].as_f64().map(|value| measured(value, unit)).unwrap_or_default(),
                text(run, "time")
            )
        })
        .collect();
    el(
        "div",
        &[("class", "trend")],
        [
            svg::trend(
                &format!("chart-trend-{place}"),
                &title,
                &about,
                &values,
                limit,
                outcome(record).class(),
            ),
            el(
                "details",
                &[],
                [
                    el("summary", &[], many(len(&runs), "run") + " before"),
                    el(
                        "ul",
                        &[("class", "reasons")],
                        runs.into_iter().map(|run| el("li", &[], run)).collect::<Markup>(),
                    ),
                ],
            ),
        ],
    )
}
