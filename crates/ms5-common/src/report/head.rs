//! The top of the page: did it go well, on which database, when, by which files, do the rows agree.

use std::collections::BTreeSet;

use serde_json::Value;

use super::html::{Markup, el};
use super::outcome::{Outcome, outcome_in};
use super::rows;
use super::story::{Run, Story};
use super::words::{bytes, count, duration, figure, len, list, many, text, texts, when};

/// What the page is about.
pub(super) fn title(story: &Story<'_>) -> String {
    let database = story.database().map_or("", |database| text(database, "name"));
    let of = |what: &str, link: &str| {
        if database.is_empty() { what.to_owned() } else { format!("{what} {link} {database}") }
    };
    let looked = only_looked(story);
    match story.runs.as_slice() {
        [] => "No records".to_owned(),
        _ if story.has("migration-tests") => "Test report".to_owned(),
        _ if looked.is_some() => of("State of the migrations", "of"),
        runs if story.has("migration-runner") || runs.len() > 1 && !all_of(runs, "backup-manager") => {
            of("Migration", "of")
        }
        [run, ..] => match run.tool {
            "pre-validate" => of("Validation before the migration", "of"),
            "post-validate" => of("Validation after the migration", "of"),
            "backup-manager" => of("Backups", "of"),
            _ => of("Run", "on"),
        },
    }
}

fn all_of(runs: &[Run<'_>], tool: &str) -> bool {
    runs.iter().all(|run| run.tool == tool)
}

/// How a run of the runner looked without changing anything: of itself, and of one behind others.
fn looked(run: &Run<'_>) -> Option<[&'static str; 2]> {
    if run.of("migration").any(|record| record["outcome"] == "would run") {
        return Some(["A dry run: nothing was changed.", "was a dry run: it changed nothing."]);
    }
    if run.of("migration").any(|record| record["standing"].is_string()) {
        return Some([
            "The state was looked at: nothing was changed.",
            "looked at the state: it changed nothing.",
        ]);
    }
    let plan = ["A plan was made: nothing was changed.", "made a plan: it changed nothing."];
    run.of("statement").next().map(|_| plan)
}

/// No run of the runner changed anything, and how the last one says so.
fn only_looked(story: &Story<'_>) -> Option<&'static str> {
    let all: Option<Vec<_>> = story.of_tool("migration-runner").map(looked).collect();
    all?.last().map(|[alone, _]| *alone)
}

/// What the last run of the runner says of itself, where an earlier one was a real one.
fn looked_last(story: &Story<'_>) -> Option<String> {
    let last = story.of_tool("migration-runner").last()?;
    let [_, behind] = looked(last).filter(|_| only_looked(story).is_none())?;
    Some(format!("The last run of the runner {behind}"))
}

/// Heading, verdict, facts and figures.
pub(super) fn part(story: &Story<'_>, title: &str) -> Markup {
    let outcome = story.outcome();
    let word = word(story, outcome);
    let says: Markup = sentences(story).into_iter().map(|sentence| el("p", &[], sentence)).collect();
    let verdict = el(
        "div",
        &[("class", &format!("verdict {}", outcome.class()))],
        [el("p", &[("class", "word")], [outcome.mark(), " ".into(), word.into()]), says],
    );
    el(
        "header",
        &[],
        [
            el("p", &[("class", "eyebrow")], "MS5.0 database migration"),
            el("h1", &[], title),
            verdict,
            tiles(story),
            el("dl", &[("class", "facts")], facts(story)),
        ],
    )
}

/// The verdict; what it does not hold for is part of it.
fn word(story: &Story<'_>, outcome: Outcome) -> String {
    match outcome {
        Outcome::Good => "Passed".to_owned(),
        Outcome::Warn => {
            let tests = story.last("test");
            let number = |wanted: Outcome| {
                let of_it = tests.iter().filter(|test| outcome_in(test, "outcome") == wanted);
                len(&of_it.collect::<Vec<_>>())
            };
            let parts: Vec<String> = [
                (number(Outcome::Warn), "with a warning"),
                (number(Outcome::Skipped), "could not be made here"),
            ]
            .into_iter()
            .filter(|(number, _)| *number > 0)
            .map(|(number, how)| format!("{} {how}", many(number, "test")))
            .collect();
            if parts.is_empty() {
                let warnings = story.last("check").into_iter().filter(|check| check["verdict"] == "warn");
                return match warnings.count() {
                    0 => "Passed, with warnings".to_owned(),
                    1 => "Passed, with a warning".to_owned(),
                    several => format!("Passed, with {several} warnings"),
                };
            }
            format!("Passed, {}", parts.join(", "))
        }
        Outcome::Skipped | Outcome::Note => "Nothing is recorded".to_owned(),
        Outcome::Bad if story.last_runs().iter().all(|run| run.verdict().is_some()) => "Failed".to_owned(),
        Outcome::Bad => "Not finished".to_owned(),
    }
}

/// What happened, in a few words each.
fn sentences(story: &Story<'_>) -> Vec<String> {
    let mut sentences = Vec::new();
    sentences.extend(only_looked(story).map(str::to_owned));
    sentences.extend(looked_last(story));
    sentences.extend(tests(story));
    let ended = |outcome: &str| {
        len(&story
            .last("migration")
            .into_iter()
            .filter(|record| record["outcome"] == outcome)
            .collect::<Vec<_>>())
    };
    let ends: Vec<String> = ["applied", "failed", "interrupted", "unknown", "repaired", "adopted"]
        .into_iter()
        .map(|outcome| (ended(outcome), outcome))
        .filter(|(number, _)| *number > 0)
        .map(|(number, outcome)| match outcome {
            "unknown" => format!("of {} it is not known whether it was committed", many(number, "file")),
            outcome => format!("{} {outcome}", many(number, "file")),
        })
        .collect();
    if !ends.is_empty() {
        sentences.push(format!("{}.", ends.join(", ")));
    }
    sentences.extend(rows::sentence(story));
    sentences.extend(not_checked(story));
    let errors = story.last_runs().into_iter().filter_map(|run| {
        let error = run.verdict()?["error"].as_str()?;
        Some(format!("{}: {error}", run.tool))
    });
    sentences.extend(errors);
    let unfinished = story.last_runs().into_iter().filter(|run| run.verdict().is_none());
    sentences.extend(unfinished.map(|run| format!("{} has not come to a verdict.", run.tool)));
    sentences
}

/// Categories of which no test could be made.
fn unproven<'a>(tests: &[&'a Value]) -> Vec<&'a str> {
    let categories: BTreeSet<&str> = tests.iter().map(|test| text(test, "category")).collect();
    let made = |category: &&str| {
        tests.iter().any(|test| test["category"] == *category && test["outcome"] != "skipped")
    };
    categories.into_iter().filter(|category| !made(category)).collect()
}

/// How many tests passed, which failed, and what is not proven.
fn tests(story: &Story<'_>) -> Vec<String> {
    let tests = story.last("test");
    if tests.is_empty() {
        return Vec::new();
    }
    let titles = |outcome: &str| -> Vec<&str> {
        tests.iter().filter(|test| test["outcome"] == outcome).map(|test| text(test, "title")).collect()
    };
    let [passed, warned, failed, skipped] = ["passed", "warned", "failed", "skipped"].map(titles);
    // As the log counts them: one with a warning is no failure, and not among those that passed.
    let others = [(&warned, "passed with a warning"), (&failed, "failed"), (&skipped, "could not be made")];
    let others = others.into_iter().filter(|(titles, _)| !titles.is_empty());
    let others: String = others.map(|(titles, how)| format!(", {} {how}", count(len(titles)))).collect();
    let mut sentences =
        vec![format!("{} of {} passed{others}.", count(len(&passed)), many(len(&tests), "test"))];
    if !failed.is_empty() {
        sentences.push(format!("Failed: {}.", failed.join("; ")));
    }
    let refused = story.last("verdict").iter().any(|verdict| verdict["ok"] == false);
    let unproven = unproven(&tests);
    if passed.is_empty() && warned.is_empty() && failed.is_empty() {
        sentences.push("Nothing was proven: no test could be made here.".to_owned());
    } else if refused && failed.is_empty() && !unproven.is_empty() {
        sentences.push(format!(
            "No test failed, but no test of {} could be made here: that is not proven.",
            unproven.join(", ")
        ));
    } else if refused && failed.is_empty() && !(warned.is_empty() && skipped.is_empty()) {
        sentences.push(
            "No test failed, but the run was strict: a warning, or a test that could not be made, is a failure then."
                .to_owned(),
        );
    } else if !skipped.is_empty() {
        sentences.push(match skipped.len() {
            1 => "What the one that could not be made would show is not proven.".to_owned(),
            _ => {
                format!("What the {} that could not be made would show is not proven.", count(len(&skipped)))
            }
        });
    }
    sentences
}

/// How many checks were left out.
fn not_checked(story: &Story<'_>) -> Option<String> {
    let skipped: Vec<&Value> =
        story.last("check").into_iter().filter(|check| check["verdict"] == "skipped").collect();
    match skipped.len() {
        0 => None,
        1 => Some("1 check was skipped.".to_owned()),
        _ => Some(format!("{} were skipped.", many(len(&skipped), "check"))),
    }
}

/// The numbers of passed, warned and failed things.
fn tiles(story: &Story<'_>) -> Markup {
    let of = |kind: &str, field: &'static str| -> Vec<Outcome> {
        story.last(kind).into_iter().map(|record| outcome_in(record, field)).collect()
    };
    let (name, outcomes) = match of("test", "outcome") {
        tests if tests.is_empty() => ("checks", of("check", "verdict")),
        tests => ("tests", tests),
    };
    if outcomes.is_empty() {
        return Markup::default();
    }
    let number = |wanted: &[Outcome]| {
        len(&outcomes.iter().filter(|outcome| wanted.contains(outcome)).collect::<Vec<_>>())
    };
    let tile = |outcome: Outcome, word: &str, number: u64| {
        let class = if number == 0 { "zero" } else { outcome.class() };
        let figure = figure(word, &Value::from(number), count(number));
        el(
            "li",
            &[("class", class)],
            [
                el("span", &[("class", "number")], figure),
                el("span", &[("class", "of")], [outcome.mark(), " ".into(), word.into()]),
            ],
        )
    };
    let label = format!("Number of {name}");
    el(
        "ul",
        &[("class", "tiles"), ("aria-label", &label), ("data-record", "counts"), ("data-key", name)],
        [
            el(
                "li",
                &[],
                [
                    el(
                        "span",
                        &[("class", "number")],
                        figure("all", &Value::from(len(&outcomes)), count(len(&outcomes))),
                    ),
                    el("span", &[("class", "of")], name),
                ],
            ),
            tile(Outcome::Bad, "failed", number(&[Outcome::Bad])),
            tile(
                Outcome::Warn,
                if name == "tests" { "warned" } else { "warnings" },
                number(&[Outcome::Warn]),
            ),
            tile(Outcome::Good, "passed", number(&[Outcome::Good, Outcome::Note])),
            tile(Outcome::Skipped, "skipped", number(&[Outcome::Skipped])),
        ],
    )
}

/// Where, when and by what.
fn facts(story: &Story<'_>) -> Markup {
    let mut facts = Vec::new();
    let mut fact =
        |name: &str, value: Markup| facts.push(el("div", &[], [el("dt", &[], name), el("dd", &[], value)]));
    let server =
        |database: &Value| database["server_version"].as_str().map(|version| format!("PostgreSQL {version}"));
    if let Some(database) = story.database() {
        let place = format!("{}, port {}", text(database, "host"), database["port"]);
        if story.has("migration-tests") {
            // The tests have databases of their own; the record names the one from which they are made.
            // What its package is called stands under Environment.
            let server = server(database).unwrap_or_else(|| "PostgreSQL".to_owned());
            let server = server.split(" (").next().unwrap_or_default();
            let whose = match story.last("installation").first().map(|record| &record["sandbox"]) {
                Some(Value::Bool(true)) => "a private one, started for this run",
                _ => "in databases of the tests' own",
            };
            fact(
                "Server",
                [
                    el("strong", &[], server),
                    el("span", &[("class", "under")], format!("on {place}")),
                    el("span", &[("class", "under")], whose),
                ]
                .into(),
            );
        } else {
            fact(
                "Database",
                [
                    el("strong", &[], text(database, "name")),
                    el("span", &[("class", "under")], format!("on {place}")),
                ]
                .into(),
            );
        }
    }
    let start = |name: &str| story.runs.iter().rev().find_map(|run| run.start()?[name].as_str());
    if let Some(environment) = start("environment") {
        fact("Environment", environment.into());
    }
    if let Some(began) = story.runs.iter().filter_map(Run::began).min() {
        let took = story.took().map(|took| match story.runs.as_slice() {
            [_] => format!("took {}", duration(took)),
            // A gate may be of the day before: nobody worked in between.
            _ => format!("{} from the first record to the last", duration(took)),
        });
        let took = took.unwrap_or_default();
        fact("Began", [when(began).into(), el("span", &[("class", "under")], took)].into());
    }
    if let Some(server) = story.database().filter(|_| !story.has("migration-tests")).and_then(server) {
        fact("Server", server.into());
    }
    if let Some(seen) = seen_last(story, "extension") {
        let more = texts(seen, "reasons").into_iter().map(|why| el("span", &[("class", "under")], why));
        fact("TimescaleDB", [text(seen, "seen").into(), more.collect()].into());
    }
    for installation in story.kind("installation") {
        let edition = edition(installation).map(|edition| format!(", {edition}")).unwrap_or_default();
        let version = installation["timescaledb"].as_str();
        fact(
            "TimescaleDB",
            version.map_or("not there".to_owned(), |version| format!("{version}{edition}")).into(),
        );
        let machine = &installation["machine"];
        let parts = [
            text(machine, "os").to_owned(),
            format!("{} × {}", machine["processors"], text(machine, "processor")),
            machine["memory_bytes"].as_f64().map(bytes).unwrap_or_default(),
        ];
        let host: Markup = text(machine, "host").into();
        fact("Machine", [host, el("span", &[("class", "under")], parts.join(", "))].into());
    }
    let mut tools: Vec<String> = Vec::new();
    for run in &story.runs {
        let version = run.start().map_or("", |start| text(start, "version"));
        let tool = format!("{} {version}", run.tool).trim_end().to_owned();
        if !tools.contains(&tool) {
            tools.push(tool);
        }
    }
    if story.has("migration-tests") {
        let of_all = story.last("installation").first().map_or(&[][..], |record| list(record, "tools"));
        let mut versions: Vec<&str> = of_all.iter().map(|tool| text(tool, "version")).collect();
        let number = len(&versions);
        versions.dedup();
        if let [version] = versions.as_slice() {
            tools = vec![format!("all {} of version {version}", count(number))];
        }
    }
    if !tools.is_empty() {
        let last = tools.len() - 1;
        let pieces = tools.into_iter().enumerate().map(|(place, tool)| {
            let comma = if place == last { "" } else { ", " };
            [el("span", &[("class", "piece")], tool), comma.into()].into()
        });
        fact("Tools", pieces.collect());
    }
    if let Some(digest) = start("migrations_digest") {
        let files = el("code", &[("class", "digest")], digest);
        fact("Migration files, sha256", files);
    }
    facts.into()
}

/// What the licence of TimescaleDB is called.
pub(super) fn edition(installation: &Value) -> Option<&'static str> {
    match installation["license"].as_str() {
        Some("timescale") => Some("Community edition"),
        Some("apache") => Some("Apache edition"),
        _ => None,
    }
}

/// The last check of a name.
fn seen_last<'a>(story: &Story<'a>, id: &str) -> Option<&'a Value> {
    story.kind("check").into_iter().rev().find(|check| check["id"] == id && check["seen"].is_string())
}

/// What the page was made of.
pub(super) fn foot(records: &[Value]) -> Markup {
    let mut kinds: Vec<(&str, u64)> = Vec::new();
    for record in records {
        let kind = text(record, "type");
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, number)) => *number += 1,
            None => kinds.push((kind, 1)),
        }
    }
    let parts: Vec<String> =
        kinds.iter().map(|(kind, number)| format!("{} {kind}", count(*number))).collect();
    let text = format!(
        "Made of {}{}{}. Times are UTC. Nothing was loaded from a network, and nothing on this page runs.",
        many(len(records), "record"),
        if parts.is_empty() { "" } else { ": " },
        parts.join(", ")
    );
    el("footer", &[], el("p", &[], text))
}

/// Whether a list of a record holds anything.
pub(super) fn any(record: &Value, name: &str) -> bool {
    !list(record, name).is_empty()
}
