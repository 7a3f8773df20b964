//! The end of a run in words: what is applied, what is not, what is half done, how to go on and how to go back.

use ms5_common::called::{called, quoted};
use ms5_common::error::Error;
use ms5_common::exit::Exit;
use ms5_common::interrupt;
use ms5_common::migrations::Migration;
use ms5_common::tool::Context;
use ms5_common::{success, troubleshooting};

use crate::apply::Left;
use crate::args::{ROLLBACK_POINT, TOOL};
use crate::rollback_point::Point;
use crate::run::Input;
use crate::way_back::{self, Before};

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It was applied before.
    Skipped,
    /// This run has applied it.
    Applied,
    /// It failed.
    Failed(Left),
    /// A signal stopped it.
    Interrupted(Left),
    /// Nobody knows whether it was committed.
    Unknown,
}

/// What a run has done so far.
pub(crate) struct Summary<'a> {
    context: &'a Context,
    input: &'a Input,
    point: Option<&'a Point>,
    /// What the run has found, where it has no point of its own.
    before: Option<&'a Before>,
    fates: Vec<(u64, &'a str, Fate)>,
}

/// Prints a failure.
pub(crate) fn say_failure(error: &Error) {
    log::error!("❌ {}", error.message());
    for line in error.reasons() {
        log::error!("{line}");
    }
    for hint in error.hints() {
        log::error!("Next: {hint}");
    }
}

impl<'a> Summary<'a> {
    pub(crate) fn new(
        context: &'a Context,
        input: &'a Input,
        point: Option<&'a Point>,
        before: Option<&'a Before>,
    ) -> Self {
        Self { context, input, point, before, fates: Vec::new() }
    }

    /// Notes what became of a file.
    pub(crate) fn add(&mut self, migration: &Migration, fate: Fate) {
        let found = self.input.migrations.iter().find(|known| known.number == migration.number);
        if let Some(known) = found {
            self.fates.push((known.number, &known.title, fate));
            // Files that ran side by side have ended in any order.
            self.fates.sort_by_key(|(number, ..)| *number);
        }
    }

    /// Whether nothing has gone wrong.
    pub(crate) fn is_well(&self) -> bool {
        self.fates.iter().all(|(_, _, fate)| matches!(fate, Fate::Skipped | Fate::Applied))
    }

    fn titles(&self, matches: impl Fn(&Fate) -> bool) -> Vec<&'a str> {
        self.fates.iter().filter(|(_, _, fate)| matches(fate)).map(|(_, title, _)| *title).collect()
    }

    /// The counts, for people and for the verdict.
    pub(crate) fn say(&self) {
        let recorder = &self.context.recorder;
        let count = |matches: &dyn Fn(&Fate) -> bool| self.titles(matches).len();
        let applied = count(&|fate| *fate == Fate::Applied);
        let skipped = count(&|fate| *fate == Fate::Skipped);
        let failed = count(&|fate| matches!(fate, Fate::Failed(_)));
        let interrupted = count(&|fate| matches!(fate, Fate::Interrupted(_)));
        let within = |migration: &&Migration| {
            self.input.options.target.is_none_or(|target| migration.number <= target)
        };
        let total = self.input.migrations.iter().filter(within).count();
        let not_begun = total.saturating_sub(self.fates.len());
        recorder.count("applied", applied);
        recorder.count("skipped", skipped);
        recorder.count("failed", failed);
        recorder.count("interrupted", interrupted);
        recorder.count("not_begun", not_begun);
        let stopped = if interrupted > 0 { format!(", {interrupted} stopped") } else { String::new() };
        log::info!(
            "Summary: {applied} applied, {skipped} already applied, {failed} failed{stopped}, {not_begun} not begun, of \
             {total} migrations"
        );
    }

    /// The summary, what to do next, and the exit code.
    pub(crate) fn conclude(&self) -> Exit {
        self.say();
        let signal = interrupt::requested();
        if self.is_well() && signal.is_none() {
            if !self.fates.is_empty() && self.fates.iter().all(|(_, _, fate)| *fate == Fate::Skipped) {
                log::info!("To see the ledger: {}", troubleshooting::show_ledger(&self.input.settings));
                log::info!("To execute again: {}", troubleshooting::execute_again(&self.input.settings));
            }
            match self.input.options.target {
                Some(target) => success!("All migrations up to {target:03} are applied"),
                None => success!("🎉 All migrations completed successfully!"),
            }
            return Exit::Done;
        }
        let (first, partly) = self.tell();
        match (first, signal) {
            (Some(first), None) => {
                log::error!("Next: mend the cause of {first}; then go on there with: {}", self.command())
            }
            _ => log::error!("Next: go on where it stopped with: {}", self.command()),
        }
        let changed = partly || self.fates.iter().any(|(_, _, fate)| *fate == Fate::Applied);
        if !changed {
            log::error!("This run has changed nothing: there is nothing to go back from");
        }
        if changed || signal.is_none() {
            self.way_back(signal.is_some());
        }
        log::error!("To see the ledger: {}", troubleshooting::show_ledger(&self.input.settings));
        let unknown = self.fates.iter().any(|(_, _, fate)| *fate == Fate::Unknown);
        match signal {
            // A signal's code says that all is rolled back, which nobody knows here.
            Some(exit) if !unknown => exit,
            Some(_) => Exit::Partial,
            None if partly || self.input.options.force => Exit::Partial,
            None => Exit::Failed,
        }
    }

    /// The summary of a run that something else has stopped than a file, and that error with the right exit code.
    pub(crate) fn stopped(&self, error: Error) -> Error {
        self.say();
        let (_, partly) = self.tell();
        let error = if partly { error.with_exit(Exit::Partial) } else { error };
        self.way_back(interrupt::requested().is_some());
        error
    }

    /// Says how to go back to what was there before.
    fn way_back(&self, stopped: bool) {
        match (self.point, self.before) {
            (Some(point), _) => {
                log::error!("To go back to what was there before this run: {}", self.back_to(point));
            }
            (None, Some(before)) => {
                for line in way_back::lines(self.context, self.input, before, stopped) {
                    log::error!("{line}");
                }
            }
            (None, None) => {}
        }
    }

    fn back_to(&self, point: &Point) -> String {
        log::info!("The rollback point of this run is {}", point.name());
        point.of_failure(&self.input.settings)
    }

    /// Says what is in the database of each file that was begun. Gives the first that did not come to its end, and
    /// whether any is there in part.
    fn tell(&self) -> (Option<&'a str>, bool) {
        let mut partly = false;
        let applied = self.titles(|fate| *fate == Fate::Applied);
        if !applied.is_empty() {
            log::error!("Applied by this run, and staying: {}", applied.join(", "));
        }
        let mut whole = Vec::new();
        let mut first = None;
        for (_, title, fate) in &self.fates {
            match fate {
                Fate::Failed(left) | Fate::Interrupted(left) => {
                    first = first.or(Some(*title));
                    match left {
                        Left::Nothing => whole.push(*title),
                        Left::Part { done, of, notes } => {
                            partly = true;
                            log::error!("Of {title}, {done} of {of} statements are done and stay");
                            for note in notes {
                                log::error!("{title}: {note}");
                            }
                        }
                    }
                }
                Fate::Unknown => {
                    partly = true;
                    first = first.or(Some(*title));
                    log::error!("Stopped: it is not known whether {title} was committed");
                }
                Fate::Skipped | Fate::Applied => {}
            }
        }
        if !whole.is_empty() {
            log::error!("Nothing of {} is in the database: each was rolled back whole", whole.join(", "));
        }
        (first, partly)
    }

    /// The command line of this run, to be given again; without the values of variables, which may be secret, and without another
    /// rollback point, which would be what is half migrated.
    fn command(&self) -> String {
        let mut words = vec![called(TOOL)];
        let mut secret = false;
        let is_point = |word: &&String| word.split('=').next() == Some(ROLLBACK_POINT);
        for word in self.context.words.iter().filter(|word| !is_point(word)) {
            let shown = match word.strip_prefix("--vars=").or(secret.then_some(word)) {
                Some(pair) => {
                    let name = pair.split_once('=').map_or("NAME", |(name, _)| name);
                    let flag = if secret { "" } else { "--vars=" };
                    format!("{flag}{name}=...")
                }
                None => quoted(word),
            };
            secret = word == "--vars";
            words.push(shown);
        }
        words.join(" ")
    }
}
