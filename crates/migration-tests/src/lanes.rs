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
use crate::suite::{self, Category, Test};

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
            "reasons": self.reasons,
            "commands": self.commands,
            "left": self.left,
        })
    }
}

/// Makes tests over so many lanes; `heard` gets each as it ends. None is begun after a signal.
pub(crate) fn run(
    ground: &Ground<'_>,
    tests: &[(&'static Category, &'static Test)],
    lanes: usize,
    patience: Duration,
    begun: Instant,
    heard: impl Fn(Made) + Sync,
) {
    let (alone, beside): (Vec<_>, Vec<_>) = tests.iter().partition(|(category, _)| category.alone);
    for (tests, lanes) in [(beside, lanes), (alone, 1)] {
        let next = AtomicUsize::new(0);
        let ends = Mutex::new(());
        thread::scope(|scope| {
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
    let began = begun.elapsed();
    let mut made = Made {
        id: test.id,
        outcome: Outcome::Passed,
        reasons: Vec::new(),
        took: Duration::ZERO,
        measures: Vec::new(),
        left: Vec::new(),
        category,
        title: test.title,
        began,
        lane,
        commands: Vec::new(),
    };
    let stopped = match Case::new(ground, test.start, patience) {
        Err(stop) => Some(stop),
        Ok(mut case) => {
            let done = catch_unwind(AssertUnwindSafe(|| (test.run)(&mut case)))
                .unwrap_or_else(|_| Err(Stop::failed("a bug in the test itself")));
            made.took = begun.elapsed() - began;
            let (commands, leaked) = case.commands();
            made.commands = commands;
            made.reasons = std::mem::take(&mut case.warnings);
            made.measures = std::mem::take(&mut case.measures);
            made.left = case.end();
            let stopped = done.err();
            if leaked && !matches!(stopped, Some(Stop::Signal)) {
                let mut reasons = vec!["a password is among what was printed; it is hidden here".to_owned()];
                reasons.extend(match stopped {
                    Some(Stop::Failed(others)) => others,
                    _ => Vec::new(),
                });
                Some(Stop::Failed(reasons))
            } else {
                stopped
            }
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
    if made.took.is_zero() {
        made.took = begun.elapsed() - began;
    }
    Some(made)
}
