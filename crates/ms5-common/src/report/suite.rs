//! The tests of migration-tests: each with its commands and what they printed.

use serde_json::Value;

use super::html::{Markup, el};
use super::outcome::{Outcome, badge_in, outcome_in};
use super::story::Story;
use super::svg::{self, Bar, Block};
use super::table::{Row, figures, table, words};
use super::words::{count, count_in, duration, figure, len, list, many, seconds_in, text, text_in, texts};

/// The most bars of the chart of durations.
const LONGEST: usize = 12;

/// Every test in the suite's order: side by side they end, and are recorded, in another one each time.
fn in_order<'a>(story: &Story<'a>) -> Vec<&'a Value> {
    let mut tests = story.kind("test");
    tests.sort_by_key(|test| test["order"].as_u64().unwrap_or(u64::MAX));
    tests
}

/// Every test that is not passed, the failed ones first.
pub(super) fn not_passed(story: &Story<'_>) -> Markup {
    let mut tests: Vec<&Value> =
        in_order(story).into_iter().filter(|test| outcome_in(test, "outcome") != Outcome::Good).collect();
    tests.sort_by_key(|test| outcome_in(test, "outcome"));
    tests.into_iter().map(shown).collect()
}

/// Every test that is passed, category by category.
pub(super) fn passed(story: &Story<'_>) -> Markup {
    let tests: Vec<&Value> =
        in_order(story).into_iter().filter(|test| outcome_in(test, "outcome") == Outcome::Good).collect();
    categories(&tests)
        .into_iter()
        .map(|category| {
            let of_it: Markup = tests
                .iter()
                .filter(|test| text(test, "category") == category)
                .map(|test| shown(test))
                .collect();
            [el("h3", &[], titled(category)), of_it].into()
        })
        .collect()
}

/// The categories in the order in which they come.
fn categories<'a>(tests: &[&'a Value]) -> Vec<&'a str> {
    let mut found = Vec::new();
    for category in tests.iter().map(|test| text(test, "category")) {
        if !found.contains(&category) {
            found.push(category);
        }
    }
    found
}

fn titled(category: &str) -> String {
    let mut letters = category.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Category by category, how long, and when.
pub(super) fn results(story: &Story<'_>) -> Markup {
    let tests = in_order(story);
    if tests.is_empty() {
        return Markup::default();
    }
    let rows = categories(&tests)
        .into_iter()
        .map(|category| {
            let of_it: Vec<&&Value> =
                tests.iter().filter(|test| text(test, "category") == category).collect();
            let number = |word: &'static str| {
                let number = len(&of_it.iter().filter(|test| test["outcome"] == word).collect::<Vec<_>>());
                let shown =
                    if number == 0 { el("span", &[("class", "none")], "0") } else { count(number).into() };
                figure(word, &Value::from(number), shown)
            };
            let seconds: f64 = of_it.iter().filter_map(|test| test["seconds"].as_f64()).sum();
            Row::new(
                "category",
                category,
                vec![
                    titled(category).into(),
                    number("failed"),
                    number("warned"),
                    number("passed"),
                    number("skipped"),
                    figure("tests", &Value::from(len(&of_it)), count(len(&of_it))),
                    duration(seconds).into(),
                ],
            )
        })
        .collect();
    let columns = [
        words("Category"),
        figures("Failed"),
        figures("Warned"),
        figures("Passed"),
        figures("Skipped"),
        figures("Tests"),
        figures("Time, summed"),
    ];
    [table("Tests by category", &columns, rows), timeline(&tests), durations(&tests)].into()
}

/// What each worker did and when.
fn timeline(tests: &[&Value]) -> Markup {
    let mut lanes: Vec<(String, Vec<Block>)> = Vec::new();
    for test in tests {
        let (Some(began), Some(seconds), Some(lane)) = (
            test["began"].as_f64(),
            test["seconds"].as_f64(),
            test["lane"].as_u64().and_then(|lane| usize::try_from(lane).ok()),
        ) else {
            continue;
        };
        // A number that nobody can mean does not make a page of a million lanes.
        if lane > 255 {
            continue;
        }
        while lanes.len() <= lane {
            lanes.push((format!("Worker {}", lanes.len() + 1), Vec::new()));
        }
        lanes[lane].1.push(Block {
            label: format!("{}: {}, {}", text(test, "id"), text(test, "outcome"), duration(seconds)),
            begin: began,
            end: began + seconds,
            height: 1.0,
            class: outcome_in(test, "outcome").class(),
        });
    }
    let most = lanes.iter().flat_map(|(_, blocks)| blocks).map(|block| block.end).fold(0.0, f64::max);
    let about = format!(
        "{} on {} over {}; each test's begin and duration stand with it below.",
        many(len(tests), "test"),
        many(len(&lanes), "worker"),
        duration(most)
    );
    let legend: Vec<(&str, &str)> = ["passed", "warned", "failed", "skipped"]
        .into_iter()
        .filter(|word| tests.iter().any(|test| test["outcome"] == *word))
        .map(|word| (Outcome::of(word).class(), word))
        .collect();
    let title = "Timeline of the run: each test as a block, on the worker that made it";
    svg::lanes("chart-timeline", title, &about, &lanes, &svg::ticks(most), &legend)
}

/// The tests that took longest.
fn durations(tests: &[&Value]) -> Markup {
    let mut timed: Vec<(&Value, f64)> =
        tests.iter().filter_map(|test| Some((*test, test["seconds"].as_f64()?))).collect();
    timed.sort_by(|one, other| other.1.total_cmp(&one.1));
    timed.truncate(LONGEST);
    let bars: Vec<Bar> = timed
        .into_iter()
        .map(|(test, seconds)| Bar {
            label: text(test, "id").to_owned(),
            figure: duration(seconds),
            begin: 0.0,
            end: seconds,
            class: outcome_in(test, "outcome").class(),
        })
        .collect();
    let title = if tests.len() > LONGEST {
        format!("The {LONGEST} longest tests")
    } else {
        "Duration of each test".to_owned()
    };
    svg::bars(
        "chart-durations",
        &title,
        "Each test as a bar as long as it took; its duration stands with it below.",
        &bars,
        &[],
    )
}

/// A test: folded where it is passed.
fn shown(test: &Value) -> Markup {
    let outcome = outcome_in(test, "outcome");
    let reasons: Markup = texts(test, "reasons").into_iter().map(|reason| el("li", &[], reason)).collect();
    let left: Markup =
        texts(test, "left").into_iter().map(|thing| el("li", &[], el("code", &[], thing))).collect();
    let commands: Markup = list(test, "commands")
        .iter()
        .enumerate()
        .map(|(place, one)| command(test, outcome, place, one))
        .collect();
    let summary = el(
        "summary",
        &[],
        el(
            "span",
            &[("class", "test-row")],
            [
                badge_in(test, "outcome"),
                el(
                    "span",
                    &[("class", "test-title")],
                    [text_in(test, "title"), " ".into(), el("code", &[], text(test, "id"))],
                ),
                el("span", &[("class", "took")], seconds_in(test, "seconds")),
            ],
        ),
    );
    let body = el(
        "div",
        &[("class", "body")],
        [
            if reasons.is_empty() { reasons } else { el("ul", &[("class", "reasons")], reasons) },
            el(
                "p",
                &[("class", "meta")],
                [
                    "Began ".into(),
                    seconds_in(test, "began"),
                    " after the run did, on worker ".into(),
                    figure(
                        "lane",
                        &test["lane"],
                        test["lane"]
                            .as_u64()
                            .map_or_else(|| "–".to_owned(), |lane| count(lane.saturating_add(1))),
                    ),
                    ".".into(),
                ],
            ),
            commands,
            if left.is_empty() {
                left
            } else {
                [
                    el("p", &[], "Left where it was, as --no-cleanup says:"),
                    el("ul", &[("class", "reasons")], left),
                ]
                .into()
            },
        ],
    );
    let class = format!("test {}", outcome.class());
    let (class, record, key) =
        (("class", class.as_str()), ("data-record", "test"), ("data-key", text(test, "id")));
    if outcome != Outcome::Good {
        el("details", &[class, record, key, ("open", "")], [summary, body])
    } else {
        el("details", &[class, record, key], [summary, body])
    }
}

/// A command line whose words stay in one piece where they can: a flag is not to lose its dashes to the line above.
fn line(command: &Value) -> Markup {
    let words: Vec<Markup> =
        text(command, "line").split(' ').map(|word| el("span", &[("class", "piece")], word)).collect();
    let spaced: Markup = words
        .into_iter()
        .enumerate()
        .map(|(place, word)| if place == 0 { word } else { [" ".into(), word].into() })
        .collect();
    figure("line", &command["line"], spaced)
}

/// A command line as one would type it, and what it printed: folded, but for what failed.
fn command(test: &Value, outcome: Outcome, place: usize, command: &Value) -> Markup {
    let output = text(command, "output");
    let key = format!("{} {place}", text(test, "id"));
    let lines = len(&output.lines().collect::<Vec<_>>());
    let printed = if output.is_empty() {
        el("p", &[("class", "meta")], "It printed nothing.")
    } else {
        let cut = if command["cut"] == true { ", cut" } else { "" };
        let summary = el("summary", &[], format!("Output, {}{cut}", many(lines, "line")));
        let label = format!("Output of command {} of {}", place + 1, text(test, "id"));
        let text = el(
            "pre",
            &[("class", "output"), ("tabindex", "0"), ("role", "group"), ("aria-label", &label)],
            output,
        );
        if outcome == Outcome::Bad {
            el("details", &[("open", "")], [summary, text])
        } else {
            el("details", &[], [summary, text])
        }
    };
    el(
        "div",
        &[("class", "command"), ("data-record", "command"), ("data-key", &key)],
        [
            el(
                "pre",
                &[("class", "line")],
                [el("span", &[("class", "prompt"), ("aria-hidden", "true")], "$ "), line(command)],
            ),
            el(
                "p",
                &[("class", "meta")],
                ["exit ".into(), count_in(command, "exit"), " · ".into(), seconds_in(command, "seconds")],
            ),
            printed,
        ],
    )
}
