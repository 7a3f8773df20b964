//! README.md, held against what the tools say of themselves and against the rows of the page.

use std::collections::BTreeSet;

use migration_tests::program::{Program, project_root};

use crate::page;

const TOOLS: [&str; 5] =
    ["pre-validate", "migration-runner", "post-validate", "backup-manager", "migration-tests"];

/// What stands in README.md between a heading of the second level and the next.
fn section(heading: &str) -> String {
    let text = std::fs::read_to_string(project_root().join("README.md")).expect("the README");
    let begins = format!("\n## {heading}\n");
    let from = text.find(&begins).unwrap_or_else(|| panic!("no heading {heading}")) + begins.len();
    text[from..].split("\n## ").next().unwrap_or_default().to_owned()
}

/// The words in backquotes of the first cells of a section's tables.
fn first_cells(section: &str) -> Vec<String> {
    let cells = section.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    cells.flat_map(page::quoted).map(str::to_owned).collect()
}

/// A flag without its value.
fn name(flag: &str) -> String {
    flag.split(['=', '[', ' ']).next().unwrap_or_default().to_owned()
}

#[test]
fn every_flag_of_help_stands_in_the_readme_and_no_other() {
    for tool in TOOLS {
        let help = Program::tool(tool).arg("--help").run().stdout();
        let shown =
            help.lines().filter_map(|line| line.strip_prefix("  ").filter(|flag| flag.starts_with("--")));
        let shown: BTreeSet<String> = shown.map(name).collect();
        let cells = first_cells(&section(tool));
        let told: BTreeSet<String> =
            cells.iter().filter(|cell| cell.starts_with("--")).map(|flag| name(flag)).collect();
        assert!(shown.len() > 5, "{tool}: {shown:?}");
        assert_eq!(shown, told, "--help of {tool} and its table in README.md");
    }
}

#[test]
fn every_variable_stands_in_a_row_or_is_said_to_have_none() {
    let mut named = BTreeSet::new();
    for word in first_cells(&section("Variables")) {
        // `POSTGRES_PASSWORD_PRODUCTION`, `_STAGING`: the end alone.
        let whole = if word.starts_with('_') { format!("POSTGRES_PASSWORD{word}") } else { word };
        named.insert(whole);
    }
    let text = page::text();
    let rows = page::rows(&text);
    let lines: Vec<&str> = rows.iter().flat_map(|row| &row.steps).map(|step| step.line.as_str()).collect();
    let typed = |variable: &String| {
        let letter = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        lines.iter().any(|line| line.split(|other| !letter(other)).any(|word| word == variable))
    };
    let without: BTreeSet<String> = named.iter().filter(|variable| !typed(variable)).cloned().collect();
    let said: BTreeSet<String> = page::names(&text, "## Variables without a row").into_iter().collect();
    assert!(named.len() > 30, "{named:?}");
    assert_eq!(
        without, said,
        "variables of README.md without a row, and those that docs/runbook.md says have none"
    );
}
