//! Every run of every tool: when, how long, how it ended.

use serde_json::Value;
use time::OffsetDateTime;

use super::html::{Markup, el};
use super::story::{Run, Story};
use super::svg::{self, Bar};
use super::table::{Row, figures, table, words};
use super::words::{count, count_in, duration, seconds_in, text, when};

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
        words("Database and run"),
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
    [timeline(story), table("Runs in order", &columns, rows), about].into()
}

fn row(run: &Run<'_>) -> Row {
    let nothing = Value::Null;
    let verdict = run.verdict().unwrap_or(&nothing);
    let database = run.start().map(|start| &start["database"]).filter(|database| database.is_object());
    let database = database.map_or("not asked".to_owned(), |database| {
        let cluster = text(database, "system_identifier");
        // The tests have databases of their own.
        if run.tool == "migration-tests" {
            return format!("databases of its own (cluster {cluster})");
        }
        format!("{} (cluster {cluster}, oid {})", text(database, "name"), database["oid"])
    });
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
            run.began().map(when).unwrap_or_default().into(),
            seconds_in(verdict, "seconds"),
            count_in(verdict, "exit"),
            if counts.is_empty() { "–".into() } else { counts.join(", ").into() },
            [database.into(), el("span", &[("class", "under")], ["run ".into(), el("code", &[], run.id)])]
                .into(),
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
