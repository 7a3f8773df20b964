//! Every run of every tool: when, how long, how it ended.

use serde_json::Value;
use time::OffsetDateTime;

use super::html::{Markup, el};
use super::story::{Run, Story};
use super::svg::{self, Bar};
use super::table::{Row, code, figures, table, words};
use super::words::{count, count_in, duration, moment, seconds_in, text, when};

/// The part.
pub(super) fn part(story: &Story<'_>) -> Markup {
    let rows = story.runs.iter().map(row).collect();
    let columns = [
        words("Tool"),
        words("Outcome"),
        words("Began"),
        figures("Took"),
        figures("Exit"),
        words("Counts"),
        code("Run"),
    ];
    let about = if story.runs.len() > 1 {
        el(
            "p",
            &[("class", "about")],
            "In a chain all tools start together; one behind a gate waits for the one before it, and its time counts that too.",
        )
    } else {
        Markup::default()
    };
    [
        databases(story),
        timeline(story),
        table(if story.runs.len() > 1 { "Runs in order" } else { "The one run" }, &columns, rows),
        about,
    ]
    .into()
}

/// The databases that the runs were for: mostly one.
fn databases(story: &Story<'_>) -> Markup {
    let mut all: Vec<String> = Vec::new();
    for run in &story.runs {
        let Some(database) = run.start().map(|start| &start["database"]).filter(|found| found.is_object())
        else {
            continue;
        };
        let cluster = text(database, "system_identifier");
        // The tests have databases of their own.
        let said = if run.tool == "migration-tests" {
            format!("databases of the tests' own (cluster {cluster})")
        } else {
            format!("{} (cluster {cluster}, oid {})", text(database, "name"), database["oid"])
        };
        if !all.contains(&said) {
            all.push(said);
        }
    }
    if all.is_empty() {
        return Markup::default();
    }
    el("p", &[("class", "about")], format!("On {}.", all.join("; ")))
}

fn row(run: &Run<'_>) -> Row {
    let nothing = Value::Null;
    let verdict = run.verdict().unwrap_or(&nothing);
    let counts: Vec<String> = verdict["counts"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, number)| **number != 0)
        .map(|(name, number)| {
            format!(
                "{} {}",
                number.as_u64().map_or_else(|| number.to_string(), count),
                name.replace('_', " ")
            )
        })
        .collect();
    Row::new(
        "verdict",
        run.id,
        vec![
            run.tool.into(),
            run.outcome().badge(run.word()),
            run.began().map(when).map_or_else(Markup::default, |time| moment(&time)),
            seconds_in(verdict, "seconds"),
            count_in(verdict, "exit"),
            if counts.is_empty() { "–".into() } else { counts.join(", ").into() },
            el("code", &[], run.id),
        ],
    )
}

/// Who ran when, where there is more than one.
fn timeline(story: &Story<'_>) -> Markup {
    let spans: Vec<(&Run<'_>, OffsetDateTime, OffsetDateTime)> =
        story.runs.iter().filter_map(|run| Some((run, run.began()?, run.ended()?))).collect();
    let Some(first) = spans.iter().map(|(_, began, _)| *began).min().filter(|_| spans.len() > 1) else {
        return Markup::default();
    };
    let since = |time: OffsetDateTime| (time - first).as_seconds_f64().max(0.0);
    let bars: Vec<Bar> = spans
        .into_iter()
        .map(|(run, began, ended)| Bar {
            label: run.tool.to_owned(),
            figure: duration((ended - began).as_seconds_f64().max(0.0)),
            begin: since(began),
            end: since(ended),
            class: run.outcome().class(),
        })
        .collect();
    let most = bars.iter().map(|bar| bar.end).fold(0.0, f64::max);
    let about = format!("Each run as a bar, from its first record to its last, over {}.", duration(most));
    svg::bars("chart-runs", "When each tool ran", &about, &bars, &svg::ticks(most))
}
