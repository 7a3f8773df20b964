//! The tests, category by category, in the order in which they are made.

mod backup;
mod environment;
mod integration;
mod performance;
mod runner;
mod validators;

use crate::case::{Case, Done, Stop, refused};

/// What the database of a test is like when it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// There is none.
    Nothing,
    /// Nothing is in it.
    Empty,
    /// As the old scripts left it in the field; without its SQL an empty one.
    Field,
    /// The same after the migrations.
    Migrated,
}

impl Start {
    /// Whether it is of what the field has.
    pub(crate) const fn is_field(self) -> bool {
        matches!(self, Self::Field | Self::Migrated)
    }
}

/// A test.
pub(crate) struct Test {
    /// `category.name`, by which `--filter` knows it.
    pub(crate) id: &'static str,
    /// What it shows, as a sentence.
    pub(crate) title: &'static str,
    pub(crate) start: Start,
    pub(crate) run: fn(&mut Case<'_>) -> Done,
}

/// Tests of one subject.
pub(crate) struct Category {
    pub(crate) name: &'static str,
    pub(crate) tests: &'static [Test],
    /// They measure, and are never made beside others.
    pub(crate) alone: bool,
}

const ALL: [Category; 6] = [
    Category { name: "environment", tests: environment::TESTS, alone: false },
    Category { name: "runner", tests: runner::TESTS, alone: false },
    Category { name: "validators", tests: validators::TESTS, alone: false },
    Category { name: "backup", tests: backup::TESTS, alone: false },
    Category { name: "integration", tests: integration::TESTS, alone: false },
    Category { name: "performance", tests: performance::TESTS, alone: true },
];

static CATEGORIES: &[Category] = &ALL;

/// The hypertables of a test's database as SQL writes them; none without the extension.
fn hypertables(case: &Case<'_>) -> Result<Vec<String>, Stop> {
    if case.ask("SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb')")? != "true" {
        return Ok(Vec::new());
    }
    let rows = case.session()?.query_typed(
        "SELECT format('%I.%I', hypertable_schema, hypertable_name) FROM timescaledb_information.hypertables ORDER BY 1",
        &[],
    );
    let rows = rows.map_err(|error| refused("the list of hypertables", &error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Every test.
pub(crate) fn all() -> impl Iterator<Item = (&'static Category, &'static Test)> {
    CATEGORIES.iter().flat_map(|category| category.tests.iter().map(move |test| (category, test)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_test_has_a_name_of_its_own_that_begins_with_its_category() {
        let ids: BTreeSet<&str> = all().map(|(_, test)| test.id).collect();
        assert_eq!(ids.len(), all().count());
        for (category, test) in all() {
            assert!(
                test.id.strip_prefix(category.name).is_some_and(|rest| rest.starts_with('.')),
                "{}",
                test.id
            );
            assert!(test.title.ends_with(|letter: char| letter.is_alphanumeric()), "{}", test.title);
        }
    }
}
