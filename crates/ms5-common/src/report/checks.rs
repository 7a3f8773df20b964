//! Every check of the validators, run by run, the failed ones first.

use serde_json::Value;

use super::html::{Markup, el};
use super::outcome::{badge_in, outcome_in};
use super::story::{Run, Story};
use super::table::{Row, code, table, words};
use super::words::{len, many, text_in, texts};

/// The part.
pub(super) fn part(story: &Story<'_>) -> Markup {
    story.runs.iter().map(of_run).collect()
}

fn of_run(run: &Run<'_>) -> Markup {
    let mut checks: Vec<(usize, &Value)> = run.of("check").enumerate().collect();
    if checks.is_empty() {
        return Markup::default();
    }
    checks.sort_by_key(|(place, check)| (outcome_in(check, "verdict"), *place));
    let number = len(&checks);
    let rows = checks
        .into_iter()
        .map(|(place, check)| {
            Row::of(
                check,
                &format!("{} {place}", run.id),
                vec![
                    el("code", &[], text_in(check, "id")),
                    badge_in(check, "verdict"),
                    el("code", &[], text_in(check, "object")),
                    [text_in(check, "seen"), reasons(check)].into(),
                    text_in(check, "wanted"),
                ],
            )
        })
        .collect();
    let columns = [code("Check"), words("Outcome"), code("On"), words("Seen"), words("Wanted")];
    el(
        "details",
        &[("class", "print")],
        [
            el("summary", &[], [el("strong", &[], run.tool), format!(": {}", many(number, "check")).into()]),
            table(&format!("Checks of {} (run {})", run.tool, run.id), &columns, rows),
        ],
    )
}

fn reasons(check: &Value) -> Markup {
    let mut lines: Vec<Markup> =
        texts(check, "reasons").into_iter().map(|reason| el("li", &[], reason)).collect();
    if let Some(remedy) = check["remedy"].as_str() {
        lines.push(el("li", &[], [el("strong", &[], "Next: "), remedy.into()]));
    }
    if lines.is_empty() { Markup::default() } else { el("ul", &[("class", "reasons")], lines) }
}
