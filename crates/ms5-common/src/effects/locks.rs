//! What is said of a statement's locks, and of the work it does under them.

use std::fmt;

use super::name::Name;

/// A table-level lock of PostgreSQL, the weaker before the stronger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LockMode {
    /// Taken by SELECT; waits for ACCESS EXCLUSIVE alone.
    AccessShare,
    /// Taken by SELECT FOR UPDATE.
    RowShare,
    /// Taken by INSERT, UPDATE, DELETE, MERGE.
    RowExclusive,
    /// Taken by VACUUM, CREATE INDEX CONCURRENTLY: reads and writes go on, but not another of this kind.
    ShareUpdateExclusive,
    /// Taken by CREATE INDEX: reads go on, writes wait.
    Share,
    /// Taken by CREATE TRIGGER, ADD FOREIGN KEY: reads go on, writes wait.
    ShareRowExclusive,
    /// Taken by REFRESH MATERIALIZED VIEW CONCURRENTLY: plain reads go on.
    Exclusive,
    /// Taken by most of ALTER TABLE, DROP, TRUNCATE: everything waits.
    AccessExclusive,
}

impl fmt::Display for LockMode {
    /// As in `pg_locks.mode`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::AccessShare => "AccessShareLock",
            Self::RowShare => "RowShareLock",
            Self::RowExclusive => "RowExclusiveLock",
            Self::ShareUpdateExclusive => "ShareUpdateExclusiveLock",
            Self::Share => "ShareLock",
            Self::ShareRowExclusive => "ShareRowExclusiveLock",
            Self::Exclusive => "ExclusiveLock",
            Self::AccessExclusive => "AccessExclusiveLock",
        })
    }
}

/// A lock on a relation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// How strong it is.
    pub mode: LockMode,
    /// The relation as it is written, or words for relations that the text does not name: "the table of i".
    pub on: String,
}

/// Whether a statement goes through all rows of a table that was there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rewrite {
    /// It does not.
    No,
    /// It reads them all: a check, an index, a foreign key.
    Scan,
    /// It may write them all, which the text alone does not tell; with the words for what decides.
    Perhaps(&'static str),
    /// It writes them all anew.
    Yes,
}

impl Rewrite {
    /// The greater of two amounts of work.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        let rank = |rewrite: &Self| match rewrite {
            Self::No => 0,
            Self::Scan => 1,
            Self::Perhaps(_) => 2,
            Self::Yes => 3,
        };
        if rank(&other) > rank(&self) { other } else { self }
    }
}

/// What a statement locks and rewrites.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effects {
    /// The strongest lock on each relation, the strongest of all first.
    pub locks: Vec<Lock>,
    /// Whether a table is rewritten.
    pub rewrite: Rewrite,
    /// Why there may be more than is said here: words to follow the statement, such as "runs code that is not
    /// looked into".
    pub opaque: Option<&'static str>,
}

impl Effects {
    /// A statement that locks nothing.
    pub(super) const NONE: Self = Self { locks: Vec::new(), rewrite: Rewrite::No, opaque: None };

    /// A statement of which nothing is known.
    pub(super) fn opaque(why: &'static str) -> Self {
        Self { opaque: Some(why), ..Self::NONE }
    }

    /// Adds a lock on what was named, if it could be read.
    pub(super) fn lock(&mut self, mode: LockMode, name: Option<Name>) {
        match name {
            Some(name) => self.lock_on(mode, name.text),
            None => self.opaque = Some(UNREAD),
        }
    }

    /// Adds a lock, or makes the one that is there stronger.
    pub(super) fn lock_on(&mut self, mode: LockMode, on: String) {
        match self.locks.iter_mut().find(|lock| lock.on == on) {
            Some(lock) => lock.mode = lock.mode.max(mode),
            None => self.locks.push(Lock { mode, on }),
        }
        self.locks.sort_by_key(|lock| std::cmp::Reverse(lock.mode));
    }

    /// Adds what another statement does.
    pub(super) fn merge(&mut self, other: Self) {
        for lock in other.locks {
            self.lock_on(lock.mode, lock.on);
        }
        self.rewrite = self.rewrite.or(other.rewrite);
        self.opaque = self.opaque.or(other.opaque);
    }

    /// The same with this amount of work at least.
    pub(super) fn with(mut self, rewrite: Rewrite) -> Self {
        self.rewrite = self.rewrite.or(rewrite);
        self
    }
}

/// For statements in a syntax that is not known here.
pub(super) const UNREAD: &str = "is not known well enough to say what it locks";
