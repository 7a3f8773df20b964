//! Names of objects, as they are written and as they compare.

/// A name of one or more parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    /// As SQL text: quotes kept, blanks and comments around the dots left out.
    pub(super) text: String,
    /// The parts: quotes taken off, in lower case without them.
    pub(super) parts: Vec<String>,
}

impl Name {
    /// The part that is not a schema.
    pub(super) fn last(&self) -> &str {
        self.parts.last().map_or("", String::as_str)
    }

    /// May both mean the same object? The search path, which could say more, is not known: `a.p` may be `p`.
    pub(super) fn may_be(&self, other: &Self) -> bool {
        self.parts.iter().rev().zip(other.parts.iter().rev()).all(|(one, another)| one == another)
    }
}
