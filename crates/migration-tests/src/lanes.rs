//! Tests in order, or several at once: each lane takes the next one that nobody has. What is measured is measured alone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ms5_common::interrupt;
use serde_json::{Value, json};

use crate::case::{Case, Stop, seconds};
use crate::ground::Ground;
use crate::measures::Measure;
use crate::suite::{self, Category, Start, Test};

/// How a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All is as it should be.
    Passed,
    /// Nothing is wrong, but something is not as it was or should be.
    Warned,
    /// Something is wrong.
    Failed,
    /// It could not be made here.
    Skipped,
}

impl Outcome {
    /// All, in the order in which they are counted.
    pub(crate) const ALL: [Self; 4] = [Self::Passed, Self::Warned, Self::Failed, Self::Skipped];

    /// As in records.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Warned => "warned",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// A test that was made.
pub(crate) struct Made {
    pub(crate) id: &'static str,
    pub(crate) outcome: Outcome,
    pub(crate) reasons: Vec<String>,
    /// What is worth knowing, whatever came of it.
    pub(crate) notes: Vec<String>,
    pub(crate) took: Duration,
    pub(crate) measures: Vec<Measure>,
    /// What is left of it, and how that is removed.
    pub(crate) left: Vec<String>,
    category: &'static Category,
    title: &'static str,
    began: Duration,
    lane: usize,
    commands: Vec<Value>,
}

impl Made {
    /// Its record.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "id": self.id,
            "category": self.category.name,
            "order": suite::all().position(|(_, test)| test.id == self.id),
            "title": self.title,
            "outcome": self.outcome.word(),
            "seconds": seconds(self.took),
            "began": seconds(self.began),
            "lane": self.lane,
            "reasons": self.reasons.iter().chain(&self.notes).collect::<Vec<_>>(),
            "commands": self.commands,
            "left": self.left,
        })
    }
}

/// Categories whose tests take long, the longest first: side by side they begin before the others.
const LONG: [&str; 4] = ["integration", "backup", "validators", "runner"];

/// Makes tests over so many lanes; `heard` gets each as it ends. None is begun after a signal.
pub(crate) fn run(
    ground: &Ground<'_>,
    tests: &[(&'static Category, &'static Test)],
    lanes: usize,
    patience: Duration,
    begun: Instant,
    heard: impl Fn(Made) + Sync,
) {
    let (alone, mut beside): (Vec<_>, Vec<_>) = tests.iter().partition(|(category, _)| category.alone);
    if lanes > 1 {
        let place = |name: &str| LONG.iter().position(|long| *long == name).unwrap_or(LONG.len());
        beside.sort_by_key(|(category, _)| place(category.name));
    }
    for (tests, lanes) in [(beside, lanes), (alone, 1)] {
        let next = AtomicUsize::new(0);
        let ends = Mutex::new(());
        thread::scope(|scope| {
            // What tests are copied from is made while others run that need none of it.
            if lanes > 1 && tests.iter().any(|(_, test)| test.start == Start::Migrated) {
                scope.spawn(|| ground.prepare(Start::Migrated));
            }
            for lane in 0..lanes.min(tests.len()) {
                let (next, tests, heard, ends) = (&next, &tests, &heard, &ends);
                scope.spawn(move || {
                    while let Some((category, test)) = tests.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if interrupt::requested().is_some() {
                            break;
                        }
                        if let Some(made) = make(ground, category, test, lane, patience, begun) {
                            let _one = ends.lock();
                            heard(made);
                        }
                    }
                });
            }
        });
    }
}

/// Makes one; None where a signal has ended it.
fn make(
    ground: &Ground<'_>,
    category: &'static Category,
    test: &'static Test,
    lane: usize,
    patience: Duration,
    begun: Instant,
) -> Option<Made> {
    let mut made = Made {
        id: test.id,
        outcome: Outcome::Passed,
        reasons: Vec::new(),
        notes: Vec::new(),
        took: Duration::ZERO,
        measures: Vec::new(),
        left: Vec::new(),
        category,
        title: test.title,
        began: begun.elapsed(),
        lane,
        commands: Vec::new(),
    };
    let stopped = match Case::new(ground, test.start, patience) {
        Err(stop) => {
            made.took = begun.elapsed() - made.began;
            Some(stop)
        }
        Ok(mut case) => {
            // What it is copied from may have been made for it first, and is no part of it.
            log::debug!("{}: what it begins with took {:?}", test.id, begun.elapsed() - made.began);
            made.began = begun.elapsed();
            let mut stopped = catch_unwind(AssertUnwindSafe(|| (test.run)(&mut case)))
                .unwrap_or_else(|_| Err(Stop::failed("a bug in the test itself")))
                .err();
            made.took = begun.elapsed() - made.began;
            made.commands = case.commands();
            made.reasons = std::mem::take(&mut case.warnings);
            made.notes = std::mem::take(&mut case.notes);
            made.measures = std::mem::take(&mut case.measures);
            case.hide(&mut made.reasons);
            if let Some(Stop::Failed(reasons)) = &mut stopped {
                case.hide(reasons);
            }
            let mut leaks = case.leaks();
            made.left = case.end();
            if ground.cleans_up() && !made.left.is_empty() {
                made.reasons.extend(
                    made.left.iter().map(|line| format!("it could not be removed; do it by hand: {line}")),
                );
            }
            if !leaks.is_empty() && !matches!(stopped, Some(Stop::Signal)) {
                if let Some(Stop::Failed(others)) = stopped {
                    leaks.extend(others);
                }
                stopped = Some(Stop::Failed(leaks));
            }
            stopped
        }
    };
    if !made.reasons.is_empty() {
        made.outcome = Outcome::Warned;
    }
    match stopped {
        None => {}
        Some(Stop::Signal) => return None,
        Some(Stop::Failed(reasons)) => {
            made.outcome = Outcome::Failed;
            made.reasons.splice(..0, reasons);
        }
        Some(Stop::Skipped(why)) => {
            made.outcome = Outcome::Skipped;
            made.reasons = vec![why];
        }
    }
    Some(made)
}
