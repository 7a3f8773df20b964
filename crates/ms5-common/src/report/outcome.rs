//! How something ended, always as a sign, a word and a colour: the colour alone says nothing.

use serde_json::Value;

use super::html::{Markup, el};
use super::words::figure;

/// The kinds of ends, the one that wants attention most first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    Bad,
    Warn,
    Skipped,
    Note,
    Good,
}

impl Outcome {
    /// Of any word that a record says it with.
    pub(super) fn of(word: &str) -> Self {
        match word {
            "pass" | "passed" | "applied" | "repaired" | "adopted" | "equal" | "created" | "intact"
            | "proven" | "restored" | "sent" | "fetched" | "already here" | "kept" | "listed" | "removed" => {
                Self::Good
            }
            "warn" | "warned" | "not proven" | "unverified" | "interrupted" | "not removed" => Self::Warn,
            "skipped" | "pending" | "not compared" => Self::Skipped,
            "info" | "would run" | "would be removed" => Self::Note,
            _ => Self::Bad,
        }
    }

    /// Its class, which is its colour.
    pub(super) const fn class(self) -> &'static str {
        match self {
            Self::Bad => "bad",
            Self::Warn => "warn",
            Self::Skipped => "skip",
            Self::Note => "note",
            Self::Good => "good",
        }
    }

    const fn sign(self) -> &'static str {
        match self {
            Self::Bad => "✗",
            Self::Warn => "!",
            Self::Skipped => "–",
            Self::Note => "·",
            Self::Good => "✓",
        }
    }

    /// The sign, for eyes alone.
    pub(super) fn mark(self) -> Markup {
        el("span", &[("class", "sign"), ("aria-hidden", "true")], self.sign())
    }

    /// Sign and word.
    pub(super) fn badge(self, word: &str) -> Markup {
        el("span", &[("class", &format!("badge {}", self.class()))], [self.mark(), " ".into(), word.into()])
    }
}

/// The word of a record's field as a badge.
pub(super) fn badge_in(record: &Value, name: &str) -> Markup {
    match record[name].as_str() {
        None => "–".into(),
        Some(word) => figure(name, &record[name], Outcome::of(word).badge(said(word))),
    }
}

/// Words that records shorten.
fn said(word: &str) -> &str {
    match word {
        "pass" => "passed",
        "warn" => "warning",
        "warned" => "warning",
        "fail" => "failed",
        word => word,
    }
}

/// The outcome of a record's field.
pub(super) fn outcome_in(record: &Value, name: &str) -> Outcome {
    record[name].as_str().map_or(Outcome::Skipped, Outcome::of)
}
