//! Records put in order: which runs there were, and how they ended.

use serde_json::Value;
use time::OffsetDateTime;

use super::outcome::{Outcome, outcome_in};
use super::words::{list, text, time_of};

/// One run of one tool.
pub(super) struct Run<'a> {
    pub(super) tool: &'a str,
    pub(super) id: &'a str,
    /// Its records in order.
    pub(super) records: Vec<&'a Value>,
}

/// All runs, in the order in which their first records stand.
pub(super) struct Story<'a> {
    pub(super) runs: Vec<Run<'a>>,
}

impl<'a> Run<'a> {
    pub(super) fn of(&self, kind: &str) -> impl Iterator<Item = &'a Value> {
        self.records.iter().copied().filter(move |record| record["type"] == kind)
    }

    pub(super) fn start(&self) -> Option<&'a Value> {
        self.of("start").next()
    }

    pub(super) fn verdict(&self) -> Option<&'a Value> {
        self.of("verdict").last()
    }

    pub(super) fn began(&self) -> Option<OffsetDateTime> {
        self.records.iter().find_map(|record| time_of(record))
    }

    pub(super) fn ended(&self) -> Option<OffsetDateTime> {
        self.records.iter().rev().find_map(|record| time_of(record))
    }

    pub(super) fn outcome(&self) -> Outcome {
        let warned = || {
            let warns = |record: &&Value| match record["type"].as_str() {
                // What a test that was not made would show is not proven.
                Some("test") => outcome_in(record, "outcome") <= Outcome::Skipped,
                Some("check" | "rows") => outcome_in(record, "verdict") <= Outcome::Warn,
                Some("measure") => record["regressed"] == true,
                _ => false,
            };
            self.records.iter().any(warns)
        };
        match self.verdict() {
            Some(verdict) if verdict["ok"] == true && !warned() => Outcome::Good,
            Some(verdict) if verdict["ok"] == true => Outcome::Warn,
            _ => Outcome::Bad,
        }
    }

    /// How it ended, in a word or two.
    pub(super) fn word(&self) -> &'static str {
        match (self.outcome(), self.verdict()) {
            (_, None) => "no verdict",
            (Outcome::Good, _) => "passed",
            (Outcome::Warn, _)
                if self.of("test").any(|test| outcome_in(test, "outcome") == Outcome::Skipped) =>
            {
                "passed, not all made"
            }
            (Outcome::Warn, _) => "passed, with warnings",
            _ => "failed",
        }
    }
}

impl<'a> Story<'a> {
    pub(super) fn of(records: &'a [Value]) -> Self {
        let mut runs: Vec<Run<'a>> = Vec::new();
        for record in records.iter().filter(|record| record["type"].is_string()) {
            let (tool, id) = (text(record, "tool"), text(record, "run_id"));
            match runs.iter_mut().find(|run| run.tool == tool && run.id == id) {
                Some(run) => run.records.push(record),
                None => runs.push(Run { tool, id, records: vec![record] }),
            }
        }
        Self { runs }
    }

    /// Every record of a type.
    pub(super) fn kind(&self, kind: &str) -> Vec<&'a Value> {
        self.runs.iter().flat_map(|run| run.of(kind)).collect()
    }

    /// The same of the last run of each tool.
    pub(super) fn last(&self, kind: &str) -> Vec<&'a Value> {
        self.last_runs().into_iter().flat_map(|run| run.of(kind)).collect()
    }

    pub(super) fn has(&self, tool: &str) -> bool {
        self.runs.iter().any(|run| run.tool == tool)
    }

    /// The runs of a tool.
    pub(super) fn of_tool<'s>(&'s self, tool: &'s str) -> impl Iterator<Item = &'s Run<'a>> {
        self.runs.iter().filter(move |run| run.tool == tool)
    }

    /// The last run of each tool: what an earlier one said is history.
    pub(super) fn last_runs(&self) -> Vec<&Run<'a>> {
        let later =
            |place: usize, run: &Run<'_>| self.runs[place + 1..].iter().any(|other| other.tool == run.tool);
        self.runs.iter().enumerate().filter(|(place, run)| !later(*place, run)).map(|(_, run)| run).collect()
    }

    /// How all of it ended.
    pub(super) fn outcome(&self) -> Outcome {
        self.last_runs().iter().map(|run| run.outcome()).min().unwrap_or(Outcome::Skipped)
    }

    /// The database that the runs were for, as the last of them saw it.
    pub(super) fn database(&self) -> Option<&'a Value> {
        let seen = |run: &Run<'a>| {
            run.start().map(|start| &start["database"]).filter(|database| database.is_object())
        };
        self.runs.iter().rev().find_map(seen)
    }

    /// The files of a migration that were begun in a run.
    pub(super) fn migrations(&self) -> Vec<&'a Value> {
        self.kind("migration")
    }

    /// The seconds from the first record to the last.
    pub(super) fn took(&self) -> Option<f64> {
        let began = self.runs.iter().filter_map(Run::began).min()?;
        let ended = self.runs.iter().filter_map(Run::ended).max()?;
        Some((ended - began).as_seconds_f64())
    }

    /// The migrations whose rows were proven while they ran: table, and how many rows there were.
    pub(super) fn proven(&self) -> Vec<(&'a str, &'a Value)> {
        let tables = self.migrations().into_iter().flat_map(|record| list(&record["proof"], "tables"));
        tables.map(|table| (text(table, "table"), table)).collect()
    }
}
