//! What was measured: throughput and times, now and in the last runs.

use serde_json::Value;

use super::html::{Markup, el};
use super::outcome::Outcome;
use super::story::Story;
use super::svg::{self, Bar};
use super::table::{Row, figures, narrow, table, words};
use super::words::{count_in, field, len, list, many, measured, text, text_in};

/// The part.
pub(super) fn part(story: &Story<'_>) -> Markup {
    let measures = story.kind("measure");
    if measures.is_empty() {
        return Markup::default();
    }
    let mut tests: Vec<&str> = Vec::new();
    for test in measures.iter().map(|record| text(record, "test")) {
        if !tests.contains(&test) {
            tests.push(test);
        }
    }
    let tables: Markup = tests.into_iter().map(|test| of_test(story, test, &measures)).collect();
    let about = if measures.iter().any(|record| is_compared(record)) {
        "Usual is the middle of the last ten runs on this server, those left out that had regressed; with fewer than three there is nothing \
         to compare with. Beyond the limit begins a regression."
    } else {
        "Nothing is compared yet: that takes three earlier runs on this server."
    };
    [el("p", &[("class", "about")], about), throughput(&measures), tables, trends(&measures)].into()
}

/// What one test has measured; what is usual stands there once there are runs to compare with.
fn of_test(story: &Story<'_>, test: &str, measures: &[&Value]) -> Markup {
    let of_it: Vec<&&Value> = measures.iter().filter(|record| text(record, "test") == test).collect();
    let compared = of_it.iter().any(|record| is_compared(record));
    let rows = of_it
        .iter()
        .map(|record| {
            let unit = text(record, "unit");
            let shown = |value: &Value| value.as_f64().map(|value| measured(value, unit));
            let mut cells = vec![text_in(record, "name"), outcome(record).badge(standing(record))];
            let now = field(record, "value", shown);
            if compared {
                cells.extend([
                    now,
                    field(record, "usual", shown),
                    change(record).map_or("–".into(), Markup::from),
                    field(record, "threshold", |value| Some(format!("{} {}", beyond(record), shown(value)?))),
                    count_in(record, "compared"),
                ]);
            } else {
                cells.push(now);
            }
            Row::of(record, &key(record), cells)
        })
        .collect();
    let titled = story.kind("test").into_iter().find(|record| text(record, "id") == test);
    let title = titled.map_or("", |record| text(record, "title"));
    let caption = if title.is_empty() { test.to_owned() } else { format!("{title} ({test})") };
    if !compared {
        return narrow(&caption, &[words("Measure"), words("Outcome"), figures("Now")], rows);
    }
    let columns = [
        words("Measure"),
        words("Outcome"),
        figures("Now"),
        figures("Usual"),
        figures("Change"),
        figures("Limit"),
        figures("Runs"),
    ];
    table(&caption, &columns, rows)
}

fn key(record: &Value) -> String {
    format!("{} {}", text(record, "test"), text(record, "name"))
}

/// Whether there was anything to compare with.
fn is_compared(record: &Value) -> bool {
    record["compared"].as_u64().is_some_and(|runs| runs > 0)
}

fn outcome(record: &Value) -> Outcome {
    match (record["regressed"] == true, is_compared(record)) {
        (true, _) => Outcome::Warn,
        (false, true) => Outcome::Good,
        (false, false) => Outcome::Note,
    }
}

fn standing(record: &Value) -> &'static str {
    match outcome(record) {
        Outcome::Warn => "regression",
        Outcome::Good => "no regression",
        _ if list(record, "before").is_empty() => "first run",
        _ => "too few runs to compare",
    }
}

fn is_better_higher(record: &Value) -> bool {
    record["better"] == "higher"
}

/// On which side of the threshold a regression is.
fn beyond(record: &Value) -> &'static str {
    if is_better_higher(record) { "under" } else { "over" }
}

/// `12 % slower`, `2.2 times faster`, whichever way the figures run.
fn change(record: &Value) -> Option<String> {
    let (value, usual) = (record["value"].as_f64()?, record["usual"].as_f64()?);
    if value <= 0.0 || usual <= 0.0 {
        return None;
    }
    let slower = if is_better_higher(record) { usual / value } else { value / usual };
    let (times, word) = if slower < 1.0 { (1.0 / slower, "faster") } else { (slower, "slower") };
    Some(match times {
        same if same < 1.005 => "the same".to_owned(),
        little if little < 1.995 => format!("{:.0} % {word}", (little - 1.0) * 100.0),
        much => format!("{much:.1} times {word}"),
    })
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
        "Throughput of backup, verification and restore, in megabytes of table a second: longer is faster",
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
    let limits = if measures.iter().any(|record| is_compared(record)) {
        " The dashed line is the limit of this run; small marked points were regressions when they were measured."
    } else {
        ""
    };
    let about = format!(
        "The last runs, the oldest on the left and this one, the large point, on the right; each from zero up.{limits}"
    );
    [
        el("h3", &[], "Trend over the last runs"),
        el("p", &[("class", "about")], about),
        el("div", &[("class", "trends")], charts),
    ]
    .into()
}

fn trend(place: usize, record: &Value) -> Markup {
    let runs = list(record, "before");
    let Some(value) = record["value"].as_f64().filter(|_| !runs.is_empty()) else {
        return Markup::default();
    };
    let unit = text(record, "unit");
    let class = |run: &Value| if run["regressed"] == true { "warn" } else { "before" };
    let mut points: Vec<(f64, &str)> =
        runs.iter().filter_map(|run| Some((run["value"].as_f64()?, class(run)))).collect();
    points.push((value, outcome(record).class()));
    let limit = record["threshold"].as_f64();
    let values = points.iter().map(|(value, _)| *value);
    let (least, most) =
        values.fold((f64::INFINITY, 0.0_f64), |(least, most), value| (least.min(value), most.max(value)));
    let title = format!("{}: {}", text(record, "name"), measured(value, unit));
    let about = format!(
        "{} in {} before and now, between {} and {}, now {}.",
        text(record, "name"),
        many(len(runs), "run"),
        measured(least, unit),
        measured(most, unit),
        measured(value, unit)
    );
    // Words in the drawing would be in the way of its lines.
    let limit_said = limit.map(|limit| format!(", limit {}", measured(limit, unit))).unwrap_or_default();
    let summary = format!("{} before{limit_said}", many(len(runs), "run"));
    let lines: Markup = runs
        .iter()
        .map(|run| {
            let value = run["value"].as_f64().map(|value| measured(value, unit)).unwrap_or_default();
            let worse = if run["regressed"] == true { ", a regression" } else { "" };
            el("li", &[], format!("{value} ({}){worse}", text(run, "time")))
        })
        .collect();
    el(
        "div",
        &[("class", "trend")],
        [
            svg::trend(&format!("chart-trend-{place}"), &title, &about, &points, limit),
            el("details", &[], [el("summary", &[], summary), el("ul", &[("class", "reasons")], lines)]),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_worse_is_slower_whichever_way_the_figures_run() {
        let of = |better: &str, value: f64, usual: f64| {
            change(&json!({ "better": better, "value": value, "usual": usual })).unwrap()
        };
        assert_eq!(of("higher", 45.0, 100.0), "2.2 times slower");
        assert_eq!(of("lower", 1.12, 1.0), "12 % slower");
        assert_eq!(of("lower", 0.25, 1.0), "4.0 times faster");
        assert_eq!(of("higher", 100.0, 100.2), "the same");
        assert_eq!(change(&json!({ "better": "higher", "value": 1.0 })), None);
    }

    #[test]
    fn what_was_not_compared_is_not_said_to_be_well() {
        let of = |before: usize, compared: u64| {
            let before: Vec<Value> = (0..before).map(|_| json!({ "value": 1.0, "time": "" })).collect();
            standing(&json!({ "before": before, "compared": compared, "regressed": false }))
        };
        assert_eq!(of(0, 0), "first run");
        assert_eq!(of(2, 0), "too few runs to compare");
        assert_eq!(of(3, 3), "no regression");
    }
}
