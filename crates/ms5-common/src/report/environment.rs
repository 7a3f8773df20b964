//! What the tests ran with: machine, server, edition, tools.

use serde_json::Value;

use super::head;
use super::html::{Markup, el};
use super::story::Story;
use super::table::{Row, code, table, words};
use super::words::{bytes, count_in, field, list, text, text_in};

/// The part.
pub(super) fn part(story: &Story<'_>) -> Markup {
    story.kind("installation").into_iter().map(shown).collect()
}

fn shown(record: &Value) -> Markup {
    let machine = &record["machine"];
    let sandbox =
        if record["sandbox"] == true { "a private one, started for this run" } else { "the operator's own" };
    let processors: Markup =
        [count_in(machine, "processors"), " × ".into(), text_in(machine, "processor")].into();
    let edition = field(record, "license", |_| head::edition(record).map(str::to_owned));
    let facts: Vec<(&str, Markup)> = vec![
        ("Host", text_in(machine, "host")),
        ("Operating system", text_in(machine, "os")),
        ("Kernel", text_in(machine, "kernel")),
        ("Processors", processors),
        ("Memory", field(machine, "memory_bytes", |value| value.as_f64().map(bytes))),
        ("PostgreSQL", text_in(record, "server")),
        ("TimescaleDB", text_in(record, "timescaledb")),
        ("Licence of TimescaleDB", edition),
        ("Whose server", sandbox.into()),
        ("Tests side by side", count_in(record, "jobs")),
    ];
    let facts: Markup = facts
        .into_iter()
        .map(|(name, value)| el("div", &[], [el("dt", &[], name), el("dd", &[], value)]))
        .collect();
    let tools = list(record, "tools")
        .iter()
        .map(|tool| {
            Row::new(
                "tool",
                text(tool, "tool"),
                vec![text_in(tool, "tool"), text_in(tool, "version"), el("code", &[], text_in(tool, "path"))],
            )
        })
        .collect();
    let list = el(
        "dl",
        &[("class", "facts"), ("data-record", "installation"), ("data-key", text(record, "run_id"))],
        facts,
    );
    [list, table("Tools", &[words("Tool"), words("Version"), code("Path")], tools)].into()
}
