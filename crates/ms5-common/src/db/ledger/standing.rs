//! How each file of the folder stands in the ledger. Pure.

use super::{Entry, LastAttempt};
use crate::migrations::Migration;

/// What has to be known of a file to tell how it stands, and what is to be done to it.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The number in front of the file's name.
    pub number: u64,
    /// The ledger's name, from the file's title.
    pub name: &'a str,
    /// The file's name without folder.
    pub file: &'a str,
    /// The file's checksum.
    pub checksum: &'a str,
    /// The file says that it may run again.
    pub idempotent: bool,
    /// The numbers that it may run beside.
    pub independent_of: &'a [u64],
}

impl<'a> Known<'a> {
    /// What is known of a migration.
    #[must_use]
    pub fn of(migration: &'a Migration) -> Self {
        Self {
            number: migration.number,
            name: &migration.title,
            file: &migration.file,
            checksum: &migration.checksum,
            idempotent: migration.idempotent,
            independent_of: &migration.independent_of,
        }
    }

    /// Whether the two may run side by side, as either of them says.
    #[must_use]
    pub fn is_independent_of(&self, other: &Self) -> bool {
        self.independent_of.contains(&other.number) || other.independent_of.contains(&self.number)
    }
}

/// How a file stands in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// This tool applied it, and it has not changed since.
    Applied,
    /// This tool applied it, and the file has changed since.
    Changed,
    /// The ledger says success, but this tool did not write that.
    Unverified,
    /// The last attempt failed.
    Failed,
    /// The last attempt has no end.
    Interrupted,
    /// Never tried.
    Pending,
    /// Never tried, though a later number is applied.
    OutOfOrder,
}

impl Standing {
    /// Every one.
    pub const ALL: [Self; 7] = [
        Self::Applied,
        Self::Changed,
        Self::Unverified,
        Self::Failed,
        Self::Interrupted,
        Self::Pending,
        Self::OutOfOrder,
    ];

    /// One word, for people and records.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Changed => "changed",
            Self::Unverified => "unverified",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
            Self::Pending => "pending",
            Self::OutOfOrder => "out of order",
        }
    }
}

/// The ledger's row of a file: by its name, else by its file's name (a title may have been edited).
#[must_use]
pub fn entry_of<'a>(known: &Known<'_>, entries: &'a [Entry]) -> Option<&'a Entry> {
    let named = entries.iter().find(|entry| entry.name == known.name);
    named.or_else(|| entries.iter().find(|entry| entry.file == known.file))
}

/// The last attempt at a file, of `attempts` with the newest first: found as [`entry_of`] finds its row.
#[must_use]
pub fn last_of<'a>(known: &Known<'_>, attempts: &'a [LastAttempt]) -> Option<&'a LastAttempt> {
    let named = attempts.iter().find(|last| last.name == known.name);
    named.or_else(|| attempts.iter().find(|last| last.file == known.file))
}

/// How each file stands. `unfinished` are the names whose last attempt has no end.
#[must_use]
pub fn standings(files: &[Known<'_>], entries: &[Entry], unfinished: &[String]) -> Vec<Standing> {
    let mut standings: Vec<Standing> = files
        .iter()
        .map(|known| {
            let unfinished = unfinished.iter().any(|name| name == known.name);
            match entry_of(known, entries) {
                Some(entry) if entry.verified && entry.checksum.as_deref() == Some(known.checksum) => {
                    Standing::Applied
                }
                Some(entry) if entry.verified => Standing::Changed,
                _ if unfinished => Standing::Interrupted,
                Some(entry) if entry.success => Standing::Unverified,
                Some(_) => Standing::Failed,
                None => Standing::Pending,
            }
        })
        .collect();
    // One that a later file may run beside can be late without being out of order.
    let late = |known: &Known<'_>| {
        files.iter().zip(&standings).any(|(later, standing)| {
            matches!(standing, Standing::Applied | Standing::Changed)
                && later.number > known.number
                && !later.is_independent_of(known)
        })
    };
    let late: Vec<bool> = files.iter().map(late).collect();
    for (late, standing) in late.into_iter().zip(&mut standings) {
        if late && *standing == Standing::Pending {
            *standing = Standing::OutOfOrder;
        }
    }
    standings
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 4] = ["001 - A", "002 - B", "003 - C", "004 - D"];
    const FILES: [&str; 4] = ["001_a.sql", "002_b.sql", "003_c.sql", "004_d.sql"];

    fn files(idempotent: bool) -> Vec<Known<'static>> {
        (0..4)
            .map(|i| Known {
                number: i as u64 + 1,
                name: NAMES[i],
                file: FILES[i],
                checksum: "good",
                idempotent,
                independent_of: &[],
            })
            .collect()
    }

    fn entry(i: usize, verified: bool, success: bool, checksum: &str) -> Entry {
        Entry {
            name: NAMES[i].into(),
            file: FILES[i].into(),
            applied_at: String::new(),
            applied_by: String::new(),
            success,
            error_message: None,
            checksum: Some(checksum.into()),
            verified,
        }
    }

    #[test]
    fn the_ledger_decides_how_a_file_stands() {
        let entries =
            [entry(0, true, true, "good"), entry(1, false, true, "good"), entry(3, true, true, "other")];
        let stand = standings(&files(true), &entries, &[]);
        assert_eq!(stand, [Standing::Applied, Standing::Unverified, Standing::OutOfOrder, Standing::Changed]);
        let stand = standings(&files(true), &[entry(0, false, false, "good")], &[NAMES[1].to_owned()]);
        assert_eq!(stand, [Standing::Failed, Standing::Interrupted, Standing::Pending, Standing::Pending]);
    }

    #[test]
    fn a_row_is_found_by_its_file_when_the_title_was_edited() {
        let mut renamed = entry(0, true, true, "good");
        renamed.name = "001 - Old Title".into();
        assert_eq!(standings(&files(true), &[renamed], &[])[0], Standing::Applied);
    }
}
