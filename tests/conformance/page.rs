//! docs/runbook.md as a table: each heading of the third level is a row.

use std::fmt;

use migration_tests::program::project_root;

use crate::plant::Given;
use crate::ways::Way;

/// A row of the page: lines that an operator types, and what comes of each.
#[derive(Debug)]
pub(crate) struct Row {
    /// The heading.
    pub(crate) title: String,
    /// Where it stands on the page.
    pub(crate) at: usize,
    /// What is there before the first line.
    pub(crate) given: Given,
    /// Ways of calling it that are tried too.
    pub(crate) ways: Vec<Way>,
    /// The lines in their order.
    pub(crate) steps: Vec<Step>,
}

/// A line that is typed, and what it does.
#[derive(Debug, Default)]
pub(crate) struct Step {
    /// What is typed.
    pub(crate) line: String,
    /// Lines on stdout.
    pub(crate) stdout: Vec<String>,
    /// Lines on stderr.
    pub(crate) stderr: Vec<String>,
    /// The exit status.
    pub(crate) exit: i32,
    /// How many log files it writes, where the page says so.
    pub(crate) logs: Option<usize>,
}

impl fmt::Display for Row {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "docs/runbook.md:{} {}", self.at, self.title)
    }
}

/// The page's text.
pub(crate) fn text() -> String {
    std::fs::read_to_string(project_root().join("docs/runbook.md")).expect("the page")
}

/// The words in backquotes of a text.
pub(crate) fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// First cells of the Markdown table below a heading.
pub(crate) fn names(text: &str, heading: &str) -> Vec<String> {
    let from = text.find(heading).unwrap_or_else(|| panic!("no heading {heading}"));
    let rows = text[from..].lines().skip(1).skip_while(|line| !line.starts_with('|'));
    let rows = rows.take_while(|line| line.starts_with("|"));
    rows.filter_map(|line| quoted(line).first().map(|name| (*name).to_owned())).collect()
}

/// Every row of the page.
pub(crate) fn rows(text: &str) -> Vec<Row> {
    let lines: Vec<&str> = text.lines().collect();
    let starts: Vec<usize> = (0..lines.len()).filter(|at| lines[*at].starts_with("### ")).collect();
    starts.iter().map(|start| row(&lines, *start)).collect()
}

fn row(lines: &[&str], start: usize) -> Row {
    let title = lines[start].trim_start_matches("### ").to_owned();
    let end = (start + 1..lines.len()).find(|at| lines[*at].starts_with('#') && !in_block(lines, *at));
    let body = &lines[start + 1..end.unwrap_or(lines.len())];
    let place = format!("docs/runbook.md:{} {title}", start + 1);
    let mut givens = body.iter().filter(|line| line.starts_with("Given "));
    let (Some(given), None) = (givens.next(), givens.next()) else {
        panic!("{place}: a row has one line that begins with Given");
    };
    let (given, source) = given.split_once(". ").unwrap_or_else(|| panic!("{place}: no source behind Given"));
    assert!(source.starts_with("Spec") || source.starts_with("Contract"), "{place}: {source}");
    let (given, ways) = given.split_once("; also ").unwrap_or((given, ""));
    let given = Given::of(&quoted(given)).unwrap_or_else(|| panic!("{place}: no such state: {given}"));
    let way = |name: &str| Way::of(name).unwrap_or_else(|| panic!("{place}: no such way: {name}"));
    let ways = quoted(ways).into_iter().map(way).collect();
    let mut blocks = body.iter().enumerate().filter(|(_, line)| **line == "```console");
    let (Some((block, _)), None) = (blocks.next(), blocks.next()) else {
        panic!("{place}: a row has one block of lines");
    };
    let steps = steps(body[block + 1..].iter().take_while(|line| **line != "```"), &place);
    Row { title, at: start + 1, given, ways, steps }
}

/// Whether a line stands between fences.
fn in_block(lines: &[&str], at: usize) -> bool {
    lines[..at].iter().filter(|line| line.starts_with("```")).count() % 2 == 1
}

fn steps<'a>(lines: impl Iterator<Item = &'a &'a str>, place: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in lines {
        if let Some(line) = line.strip_prefix("$ ") {
            steps.push(Step { line: line.to_owned(), ..Step::default() });
            continue;
        }
        let step = steps.last_mut().unwrap_or_else(|| panic!("{place}: a block begins with $"));
        if let Some(more) = line.strip_prefix("> ") {
            step.line = format!("{}\n{more}", step.line);
        } else if let Some(number) = line.strip_prefix("# exit ") {
            step.exit = number.parse().unwrap_or_else(|_| panic!("{place}: {line}"));
        } else if *line == "# no log" {
            step.logs = Some(0);
        } else if let Some(number) = line.strip_prefix("# ").and_then(|line| line.strip_suffix(" logs")) {
            step.logs = Some(number.parse().unwrap_or_else(|_| panic!("{place}: {line}")));
        } else if let Some(line) = line.strip_prefix("2> ") {
            step.stderr.push(line.to_owned());
        } else {
            step.stdout.push((*line).to_owned());
        }
    }
    steps
}
