//! The files of a migration: when each ran, how it ended, what it locked.

use serde_json::Value;

use super::html::{Markup, el};
use super::outcome::{badge_in, outcome_in};
use super::story::{Run, Story};
use super::svg::{self, Bar};
use super::table::{Row, code, figures, table, words};
use super::words::{count, count_in, duration, field, len, list, many, moment_in, text, text_in, texts};

/// The part: the timeline and the files.
pub(super) fn part(story: &Story<'_>) -> Markup {
    let runs: Vec<&Run<'_>> = story.runs.iter().filter(|run| run.of("migration").next().is_some()).collect();
    let alone = runs.len() == 1;
    runs.into_iter().enumerate().map(|(place, run)| of_run(place, run, alone)).collect()
}

/// The files of one run; what it is called where there are others.
fn of_run(place: usize, run: &Run<'_>, alone: bool) -> Markup {
    let (stand, ran): (Vec<&Value>, Vec<&Value>) =
        run.of("migration").partition(|record| record["standing"].is_string());
    let named = |alone_says: &str, says: &str| {
        if alone { alone_says.to_owned() } else { format!("{says} {}", run.id) }
    };
    let key = |record: &Value| named(text(record, "file"), text(record, "file"));
    let ran_rows = ran
        .iter()
        .map(|record| {
            Row::of(
                record,
                &key(record),
                vec![
                    text_in(record, "name"),
                    badge_in(record, "outcome"),
                    field(record, "milliseconds", |value| value.as_f64().map(|ms| duration(ms / 1000.0))),
                    field(record, "began", |value| value.as_f64().map(duration)),
                    count_in(record, "statements"),
                    file(record),
                ],
            )
        })
        .collect();
    let stand_rows = stand
        .iter()
        .map(|record| {
            Row::of(
                record,
                &key(record),
                vec![
                    text_in(record, "name"),
                    badge_in(record, "standing"),
                    moment_in(record, "applied_at"),
                    text_in(record, "applied_by"),
                    file(record),
                ],
            )
        })
        .collect();
    let ran_columns = [
        words("Migration"),
        words("Outcome"),
        figures("Took"),
        figures("Began after"),
        figures("Statements"),
        code("File, sha256"),
    ];
    let stand_columns =
        [words("Migration"), words("Standing"), words("Applied at"), words("By"), code("File, sha256")];
    [
        timeline(place, &ran),
        table(&named("Files of this run", "Files of the run"), &ran_columns, ran_rows),
        table(&named("How each file stands", "How each file stood in the run"), &stand_columns, stand_rows),
    ]
    .into()
}

/// Which file, and which text of it.
fn file(record: &Value) -> Markup {
    [
        el("code", &[], text_in(record, "file")),
        " ".into(),
        el("code", &[("class", "digest")], text_in(record, "checksum")),
    ]
    .into()
}

/// Each file as a bar over the time of the run.
fn timeline(place: usize, ran: &[&Value]) -> Markup {
    let spans: Vec<(&Value, f64, f64)> = ran
        .iter()
        .filter_map(|record| {
            Some((*record, record["began"].as_f64()?, record["milliseconds"].as_f64()? / 1000.0))
        })
        .collect();
    let Some(first) = spans.iter().map(|(_, began, _)| *began).reduce(f64::min) else {
        return Markup::default();
    };
    let bars: Vec<Bar> = spans
        .iter()
        .map(|(record, began, took)| Bar {
            label: text(record, "file").trim_end_matches(".sql").to_owned(),
            figure: duration(*took),
            begin: began - first,
            end: began - first + took,
            class: outcome_in(record, "outcome").class(),
        })
        .collect();
    let most = bars.iter().map(|bar| bar.end).fold(0.0, f64::max);
    let about = format!(
        "{} over {}, from when the first began; the table below has the figures.",
        many(len(&bars), "file"),
        duration(most)
    );
    let id = if place == 0 { "chart-migrations".to_owned() } else { format!("chart-migrations-{place}") };
    svg::bars(&id, "Timeline of the migration", &about, &bars, &svg::ticks(most))
}

/// The part on locks: of each file that ran, and of each statement of a plan.
pub(super) fn locks(story: &Story<'_>) -> Markup {
    let locking: Vec<&Value> =
        story.migrations().into_iter().filter(|record| record["locks"].is_array()).collect();
    // A dry run says the same of a file as the run behind it.
    let again =
        |place: usize| locking[place + 1..].iter().any(|other| other["file"] == locking[place]["file"]);
    let of_files: Markup =
        (0..locking.len()).filter(|place| !again(*place)).map(|place| of_file(locking[place])).collect();
    let statements: Vec<Row> = story
        .kind("statement")
        .into_iter()
        .map(|record| {
            let place = format!("{}:{}:{}", text(record, "file"), record["line"], record["column"]);
            let in_transaction = if record["in_transaction"] == true { "yes" } else { "no" };
            Row::of(
                record,
                &place,
                vec![
                    el("code", &[], place.as_str()),
                    el("code", &[], text_in(record, "statement")),
                    text_in(record, "lock"),
                    text_in(record, "on"),
                    in_transaction.into(),
                    text_in(record, "rewrites"),
                    text_in(record, "unknown"),
                ],
            )
        })
        .collect();
    let columns = [
        code("Place"),
        code("Statement"),
        words("Strongest lock"),
        words("On"),
        words("In a transaction"),
        words("Reads or rewrites"),
        words("Unknown"),
    ];
    if of_files.is_empty() && statements.is_empty() {
        return Markup::default();
    }
    let about = "The strongest lock that a file takes on each relation, as its text says. AccessExclusiveLock makes readers and writers \
                 wait, ShareLock and ShareRowExclusiveLock writers; a file holds its locks until it commits. \
                 “At least” stands where functions that it calls may take stronger ones, as those of TimescaleDB do while they convert a table.";
    let plan = table("Locks of each statement", &columns, statements);
    [el("p", &[("class", "about")], about), of_files, plan].into()
}

fn of_file(record: &Value) -> Markup {
    let locks = list(record, "locks");
    let file = text(record, "file");
    let strongest: Vec<&Value> = locks.iter().filter(|lock| lock["lock"] == locks[0]["lock"]).collect();
    let unknown = texts(record, "unknown");
    let least = if unknown.is_empty() { "" } else { "at least " };
    let says = match strongest.as_slice() {
        [] if unknown.is_empty() => "locks no relation".to_owned(),
        [] => "names no relation that it locks, but may lock some".to_owned(),
        [one] => format!("{least}{} on {}", text(one, "lock"), text(one, "on")),
        all => format!("{least}{} on {}", text(all[0], "lock"), many(len(all), "relation")),
    };
    let rewritten = locks.iter().filter(|lock| lock["rewrites"] != "no").count();
    let rewrites = match rewritten {
        0 => String::new(),
        number => format!("; {} read whole or rewritten", many(len(&locks[..number]), "relation")),
    };
    let rows = locks
        .iter()
        .map(|lock| {
            Row::new(
                "lock",
                &format!("{file} {}", text(lock, "on")),
                vec![
                    text_in(lock, "on"),
                    text_in(lock, "lock"),
                    field(lock, "statements", |value| value.as_u64().map(count)),
                    text_in(lock, "rewrites"),
                ],
            )
        })
        .collect();
    let columns = [words("On"), words("Strongest lock"), figures("Statements"), words("Reads or rewrites")];
    let more = if unknown.is_empty() {
        Markup::default()
    } else {
        el("p", &[("class", "about")], format!("There may be more: it {}.", unknown.join("; it ")))
    };
    el(
        "details",
        &[],
        [
            el(
                "summary",
                &[],
                [el("code", &[], file), " ".into(), el("span", &[("class", "says")], says + &rewrites)],
            ),
            table(&format!("Locks of {file}"), &columns, rows),
            more,
        ],
    )
}
