//! What is not as it should be, with why and what to do, the worst first.

use serde_json::Value;

use super::html::{Markup, el};
use super::outcome::{Outcome, outcome_in};
use super::story::Story;
use super::words::{text, texts};

/// One thing.
struct Item<'a> {
    outcome: Outcome,
    word: &'static str,
    what: String,
    seen: &'a str,
    reasons: Vec<&'a str>,
    next: Option<&'a str>,
}

/// The part; a page of tests alone has its own.
pub(super) fn part(story: &Story<'_>) -> Markup {
    if story.runs.is_empty() || story.has("migration-tests") {
        return Markup::default();
    }
    let mut items: Vec<Item<'_>> = story.last("finding").into_iter().map(of_finding).collect();
    for run in story.last_runs() {
        items.extend(run.of("check").filter_map(|check| of_check(run.tool, check)));
        match run.verdict() {
            None => items.push(Item {
                outcome: Outcome::Bad,
                word: "no verdict",
                what: run.tool.to_owned(),
                seen: "It has not come to its end, or its last records are not here.",
                reasons: Vec::new(),
                next: None,
            }),
            Some(verdict) => items.extend(verdict["error"].as_str().map(|error| Item {
                outcome: Outcome::Bad,
                word: "failed",
                what: run.tool.to_owned(),
                seen: error,
                reasons: Vec::new(),
                next: None,
            })),
        }
    }
    items.extend(story.last("backup").into_iter().filter(|backup| super::head::any(backup, "damage")).map(
        |backup| Item {
            outcome: Outcome::Bad,
            word: "damaged",
            what: format!("backup {}", text(backup, "name")),
            seen: "",
            reasons: texts(backup, "damage"),
            next: None,
        },
    ));
    if items.is_empty() {
        return el(
            "p",
            &[("class", "calm")],
            [Outcome::Good.mark(), " Nothing: there is no failure and no warning.".into()],
        );
    }
    items.sort_by_key(|item| item.outcome);
    let items: Markup = items.into_iter().map(shown).collect();
    el("ul", &[("class", "items")], items)
}

fn of_check<'a>(tool: &str, check: &'a Value) -> Option<Item<'a>> {
    let outcome = outcome_in(check, "verdict");
    let object = check["object"].as_str().map(|object| format!(" on {object}")).unwrap_or_default();
    (outcome <= Outcome::Warn).then(|| Item {
        outcome,
        word: if outcome == Outcome::Bad { "failed" } else { "warning" },
        what: format!("{tool}, check {}{object}", text(check, "id")),
        seen: text(check, "seen"),
        reasons: texts(check, "reasons"),
        next: check["remedy"].as_str(),
    })
}

fn of_finding(finding: &Value) -> Item<'_> {
    let place = match (finding["line"].as_u64(), finding["column"].as_u64()) {
        (Some(line), Some(column)) => format!(", line {line}, column {column}"),
        (Some(line), None) => format!(", line {line}"),
        _ => String::new(),
    };
    let state = finding["sqlstate"].as_str().map(|state| format!(", SQLSTATE {state}")).unwrap_or_default();
    let outcome = match finding["level"].as_str() {
        Some("info") => Outcome::Note,
        Some("warning") => Outcome::Warn,
        _ => Outcome::Bad,
    };
    Item {
        outcome,
        word: "failed",
        what: format!("{}{place}{state}", text(finding, "file")),
        seen: text(finding, "message"),
        reasons: Vec::new(),
        next: finding["remedy"].as_str(),
    }
}

fn shown(item: Item<'_>) -> Markup {
    let reasons: Markup = item.reasons.into_iter().map(|reason| el("li", &[], reason)).collect();
    let next =
        item.next.map(|next| el("p", &[("class", "next")], [el("strong", &[], "Next: "), next.into()]));
    el(
        "li",
        &[("class", &format!("item {}", item.outcome.class()))],
        [
            el("p", &[("class", "what")], [item.outcome.badge(item.word), " ".into(), item.what.into()]),
            if item.seen.is_empty() { Markup::default() } else { el("p", &[("class", "seen")], item.seen) },
            if reasons.is_empty() { reasons } else { el("ul", &[("class", "reasons")], reasons) },
            next.unwrap_or_default(),
        ],
    )
}
