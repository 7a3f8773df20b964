//! Checks of the validators: what is looked at, and what was found, alike as lines for people and as records.

use std::io::Write;

use serde_json::json;

use crate::error::Error;
use crate::exit::Exit;
use crate::record::Recorder;
use crate::success;

/// One thing that a validator looks at. docs/checks.md has a line for each, which a test keeps equal to this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Check {
    /// Its name in records: `disk-root`.
    pub id: &'static str,
    /// What is looked at.
    pub about: &'static str,
    /// What has to be found.
    pub wanted: &'static str,
    /// `--quick` and its kin leave it out.
    pub slow: bool,
}

impl Check {
    /// A check that is always made.
    #[must_use]
    pub const fn new(id: &'static str, about: &'static str, wanted: &'static str) -> Self {
        Self { id, about, wanted, slow: false }
    }

    /// Its line in a table, as docs/checks.md has it.
    #[must_use]
    pub fn row(&self) -> String {
        let quick = if self.slow { "; not with --quick" } else { "" };
        format!("| {} | {}{quick} | {} |", self.id, self.about, self.wanted)
    }

    /// The same, left out where there is little time.
    #[must_use]
    pub const fn slow(mut self) -> Self {
        self.slow = true;
        self
    }
}

/// Prints the rows of checks, for `--list-checks`.
pub fn list(checks: &[Check]) {
    let lines: Vec<String> = checks.iter().map(Check::row).collect();
    // A reader that went away has seen what it wanted.
    let _ = writeln!(std::io::stdout().lock(), "{}", lines.join("\n"));
}

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As wanted.
    Pass,
    /// Worth knowing, never a fault.
    Info,
    /// Not as it should be; the work can go on.
    Warn,
    /// Not as wanted: the tool says no.
    Fail,
    /// It could not be looked at, or was not to be.
    Skipped,
}

impl Verdict {
    /// As in records.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Fail => "fail",
            Self::Skipped => "skipped",
        }
    }
}

/// What was found, to be reported under its check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    verdict: Verdict,
    seen: String,
    object: Option<String>,
    wanted: Option<String>,
    reasons: Vec<String>,
    remedies: Vec<String>,
    exit: Exit,
}

impl Finding {
    fn new(verdict: Verdict, seen: impl Into<String>) -> Self {
        Self {
            verdict,
            seen: seen.into(),
            object: None,
            wanted: None,
            reasons: Vec::new(),
            remedies: Vec::new(),
            exit: Exit::Failed,
        }
    }

    /// As wanted. `seen` is what was seen, in the words of the log's line.
    #[must_use]
    pub fn pass(seen: impl Into<String>) -> Self {
        Self::new(Verdict::Pass, seen)
    }

    /// Worth knowing.
    #[must_use]
    pub fn info(seen: impl Into<String>) -> Self {
        Self::new(Verdict::Info, seen)
    }

    /// Not as it should be.
    #[must_use]
    pub fn warn(seen: impl Into<String>) -> Self {
        Self::new(Verdict::Warn, seen)
    }

    /// Not as wanted.
    #[must_use]
    pub fn fail(seen: impl Into<String>) -> Self {
        Self::new(Verdict::Fail, seen)
    }

    /// What came of a look that failed, with its reasons and next steps: the tool ends as the error says. Somebody else's lock
    /// is no more than a warning.
    #[must_use]
    pub fn failed(error: &Error) -> Self {
        let finding = if error.sqlstate() == Some("55P03") {
            Self::warn(format!("Busy: {}", error.message()))
        } else {
            Self::fail(error.message()).ends_with(error.exit())
        };
        finding.because_all(error.reasons().iter().cloned()).remedies(error.hints())
    }

    /// Not looked at; `why` says why.
    #[must_use]
    pub fn skipped(why: impl Into<String>) -> Self {
        Self::new(Verdict::Skipped, why)
    }

    /// What it is about, where a check looks at many things of a kind: a table, a file.
    #[must_use]
    pub fn on(mut self, object: impl Into<String>) -> Self {
        self.object = Some(object.into());
        self
    }

    /// What was wanted, where that is more exact than the check's own words.
    #[must_use]
    pub fn wanted(mut self, wanted: impl Into<String>) -> Self {
        self.wanted = Some(wanted.into());
        self
    }

    /// Adds why: the server's words, the names of what is missing.
    #[must_use]
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reasons.push(reason.into());
        self
    }

    /// Adds several reasons in order.
    #[must_use]
    pub fn because_all(mut self, reasons: impl IntoIterator<Item = String>) -> Self {
        self.reasons.extend(reasons);
        self
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedies.push(remedy.into());
        self
    }

    /// Adds several things to do, in order.
    #[must_use]
    pub fn remedies<T: Into<String>>(self, remedies: impl IntoIterator<Item = T>) -> Self {
        remedies.into_iter().fold(self, Self::remedy)
    }

    /// How the tool ends where this fails: 1 unless said otherwise.
    #[must_use]
    pub fn ends_with(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// What came of it.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }
}

/// At most so many of what was found, as reasons, and how many more there are.
#[must_use]
pub fn at_most<T: ToString>(most: usize, items: &[T]) -> Vec<String> {
    let mut lines: Vec<String> = items.iter().take(most).map(ToString::to_string).collect();
    if items.len() > most {
        lines.push(format!("and {} more", items.len() - most));
    }
    lines
}

/// Takes findings as they come: says each, records it, and counts it for the end.
pub struct Report<'a> {
    recorder: &'a Recorder,
    strict: bool,
    passed: usize,
    warnings: usize,
    failed: usize,
    skipped: usize,
    exit: Exit,
}

impl<'a> Report<'a> {
    /// An empty report. With `strict` a warning counts as a failure.
    #[must_use]
    pub fn new(recorder: &'a Recorder, strict: bool) -> Self {
        Self { recorder, strict, passed: 0, warnings: 0, failed: 0, skipped: 0, exit: Exit::Done }
    }

    /// Says and records what a check has found.
    pub fn add(&mut self, check: &Check, finding: Finding) {
        let Finding { verdict, seen, object, wanted, reasons, remedies, exit } = finding;
        let remedy_lines = remedies.iter().map(|remedy| format!("Next: {remedy}"));
        let details: Vec<String> = reasons.iter().cloned().chain(remedy_lines).collect();
        match verdict {
            Verdict::Pass => {
                self.passed += 1;
                success!("{seen}");
                details.iter().for_each(|line| log::info!("{line}"));
            }
            Verdict::Info => {
                self.passed += 1;
                log::info!("{seen}");
                details.iter().for_each(|line| log::info!("{line}"));
            }
            Verdict::Warn => {
                self.warnings += 1;
                log::warn!("{seen}");
                details.iter().for_each(|line| log::warn!("{line}"));
            }
            Verdict::Fail => {
                self.failed += 1;
                log::error!("❌ {seen}");
                details.iter().for_each(|line| log::error!("{line}"));
            }
            Verdict::Skipped => {
                self.skipped += 1;
                log::info!("Not checked, {}: {seen}", check.about);
            }
        }
        let fails = verdict == Verdict::Fail || self.strict && verdict == Verdict::Warn;
        if fails {
            self.exit = worse(self.exit, exit);
        }
        self.recorder.emit(
            "check",
            json!({
                "id": check.id,
                "verdict": verdict.word(),
                "object": object,
                "seen": seen,
                "wanted": wanted.as_deref().unwrap_or(check.wanted),
                "reasons": reasons,
                "remedy": (!remedies.is_empty()).then(|| remedies.join("; ")),
            }),
        );
    }

    /// Records what goes beyond words: numbers that a check has found.
    pub fn record(&self, kind: &str, fields: serde_json::Value) {
        self.recorder.emit(kind, fields);
    }

    /// The last line, with `what` as its subject (`Pre-migration validation`), the counts, and how the tool ends.
    #[must_use]
    pub fn conclude(self, what: &str) -> Exit {
        let Self { recorder, strict, passed, warnings, failed, skipped, exit } = self;
        for (name, count) in
            [("passed", passed), ("warnings", warnings), ("failed", failed), ("skipped", skipped)]
        {
            recorder.count(name, count);
        }
        let counts = format!("{passed} passed, {warnings} warnings, {failed} failed, {skipped} not checked");
        log::info!("Summary: {counts}");
        if exit == Exit::Done {
            success!("✅ {what} passed");
        } else if failed == 0 && strict {
            log::error!("❌ {what} failed: with --strict a warning is a failure");
        } else {
            log::error!("❌ {what} failed: {failed} of {} checks", passed + warnings + failed);
        }
        exit
    }
}

/// Where the database cannot be reached, or something is configured wrongly, that is the news.
fn worse(one: Exit, other: Exit) -> Exit {
    let rank = |exit: Exit| match exit {
        Exit::Done => 0,
        Exit::Failed => 1,
        Exit::Config => 2,
        _ => 3,
    };
    if rank(other) > rank(one) { other } else { one }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHECK: Check = Check::new("disk", "the disk", "10 GB free");

    fn end(findings: &[Finding], strict: bool) -> Exit {
        let recorder = Recorder::new("tool", "0", false);
        let mut report = Report::new(&recorder, strict);
        findings.iter().for_each(|finding| report.add(&CHECK, finding.clone()));
        report.conclude("Validation")
    }

    #[test]
    fn only_failures_end_badly_and_the_worst_decides() {
        let (pass, info, warn) = (Finding::pass("a"), Finding::info("b"), Finding::warn("c"));
        let (fail, skipped) = (Finding::fail("d"), Finding::skipped("e"));
        assert_eq!(end(&[], false), Exit::Done);
        assert_eq!(end(&[pass.clone(), info.clone(), warn.clone(), skipped.clone()], false), Exit::Done);
        assert_eq!(end(&[pass, info, warn, skipped], true), Exit::Failed);
        let lost = Finding::fail("f").ends_with(Exit::Unreachable);
        assert_eq!(end(&[fail.clone(), lost.clone(), fail.clone()], false), Exit::Unreachable);
        assert_eq!(end(&[fail], false), Exit::Failed);
    }
}
