//! Records as one page for people: self-contained, without script, pure. Whatever tools wrote the records, one or a whole chain,
//! the page tells of all of them; types that it does not know it passes over.
//!
//! In reading order: `html` (what escapes), `words` (numbers as people read them), `outcome`, `table`, `svg`; `story` (the runs);
//! then a module for each part of the page, in the order in which they stand there.

mod html;
mod words;

mod outcome;
mod table;

mod svg;

mod story;

mod head;

mod attention;
mod backups;
mod checks;
mod environment;
mod hypertables;
mod measures;
mod migrations;
mod rows;
mod runs;
mod suite;

use serde_json::Value;

use html::{Markup, el, opened};
use story::Story;

/// Colours and places; no page loads anything.
const STYLE: &str = include_str!("style.css");
/// A browser is to fetch and run nothing, whatever stands in a page.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// A part of the page, with its heading; it is left out where it has nothing to say.
type Part = (&'static str, &'static str, fn(&Story<'_>) -> Markup);

/// The parts in order: how it went comes first, what it went with last.
const PARTS: &[Part] = &[
    ("attention", "What needs attention", attention::part),
    ("not-passed", "Tests that did not pass", suite::not_passed),
    ("rows", "Rows before and after", rows::part),
    ("migrations", "Migrations", migrations::part),
    ("locks", "Locks", migrations::locks),
    ("hypertables", "Hypertables", hypertables::part),
    ("results", "Results", suite::results),
    ("measurements", "Measurements", measures::part),
    ("tests", "Tests that passed", suite::passed),
    ("runs", "Runs", runs::part),
    ("checks", "Checks", checks::part),
    ("backups", "Backups", backups::part),
    ("environment", "Environment", environment::part),
];

/// The page of some records.
#[must_use]
pub fn page(records: &[Value]) -> String {
    let story = Story::of(records);
    let title = head::title(&story);
    let parts: Vec<(&str, &str, Markup)> = PARTS
        .iter()
        .map(|(id, heading, make)| (*id, *heading, make(&story)))
        .filter(|(_, _, content)| !content.is_empty())
        .collect();
    let links: Markup = parts
        .iter()
        .map(|(id, heading, _)| el("li", &[], el("a", &[("href", &format!("#{id}"))], *heading)))
        .collect();
    let sections: Markup = parts
        .into_iter()
        .map(|(id, heading, content)| {
            let name = format!("{id}-heading");
            let heading = el("h2", &[("id", &name)], heading);
            el("section", &[("id", id), ("aria-labelledby", &name)], [heading, content])
        })
        .collect();
    let head = el(
        "head",
        &[],
        [
            opened("meta", &[("charset", "utf-8")]),
            opened("meta", &[("name", "viewport"), ("content", "width=device-width, initial-scale=1")]),
            opened("meta", &[("http-equiv", "Content-Security-Policy"), ("content", POLICY)]),
            opened("meta", &[("name", "color-scheme"), ("content", "light dark")]),
            opened("meta", &[("name", "referrer"), ("content", "no-referrer")]),
            el("title", &[], title.as_str()),
            el("style", &[], Markup::ours(STYLE)),
        ],
    );
    let main = el(
        "main",
        &[("id", "top")],
        [
            head::part(&story, &title),
            el("nav", &[("aria-label", "On this page")], el("ol", &[], links)),
            sections,
        ],
    );
    let body = el("body", &[], [main, head::foot(records)]);
    let html = el("html", &[("lang", "en")], [head, body]).into_string();
    format!("<!doctype html>\n{html}\n")
}

#[cfg(test)]
mod tests;
