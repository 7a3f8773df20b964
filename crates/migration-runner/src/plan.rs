//! What to do with each file, from the files and the ledger alone.

use ms5_common::db::ledger::Entry;
pub(crate) use ms5_common::db::ledger::standing::{Known, Standing, entry_of, last_of, standings};
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;

/// What happens to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing: it is applied.
    Skip,
    /// Nothing: its number is above `--target`.
    Beyond,
    /// It runs; `again` says that the ledger already tells of a success.
    Apply {
        /// Why it runs though the ledger tells of a success.
        again: Option<&'static str>,
        /// Whether that success is this tool's and stays true should the new attempt fail.
        keep: bool,
    },
}

/// What may be done beyond the default.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Permissions {
    /// `--force`.
    pub(crate) force: bool,
    /// `--allow-out-of-order`.
    pub(crate) out_of_order: bool,
    /// `--target`: no file with a higher number.
    pub(crate) target: Option<u64>,
}

/// The plan of a run, or every reason why there can be none.
///
/// # Errors
/// [`Exit::Failed`] before anything is touched: a changed file, an unverified row whose file must not run
/// twice, a number out of order, an applied migration whose file is gone.
pub(crate) fn steps(
    files: &[Known<'_>],
    standings: &[Standing],
    entries: &[Entry],
    may: Permissions,
) -> Result<Vec<Step>> {
    let mut reasons = Vec::new();
    let mut hints = Vec::new();
    let mut refuse = |reason: String, hint: &str| {
        reasons.push(reason);
        if !hints.iter().any(|known| known == hint) {
            hints.push(hint.to_owned());
        }
    };
    let mut steps = Vec::with_capacity(files.len());
    for (known, standing) in files.iter().zip(standings) {
        if may.target.is_some_and(|target| known.number > target) {
            steps.push(Step::Beyond);
            continue;
        }
        let step = match standing {
            Standing::Applied if may.force => Step::Apply { again: Some("--force"), keep: true },
            Standing::Applied => Step::Skip,
            Standing::Unverified if known.idempotent => {
                Step::Apply { again: Some("the old scripts' word alone is not trusted"), keep: false }
            }
            Standing::Unverified if may.force => Step::Apply { again: Some("--force"), keep: false },
            Standing::Failed | Standing::Interrupted | Standing::Pending => {
                Step::Apply { again: None, keep: false }
            }
            Standing::OutOfOrder if may.out_of_order => Step::Apply { again: None, keep: false },
            Standing::Changed => {
                let was =
                    entry_of(known, entries).and_then(|entry| entry.checksum.clone()).unwrap_or_default();
                refuse(
                    format!(
                        "{} has changed since it was applied: checksum {was} then, {} now",
                        known.file, known.checksum
                    ),
                    "restore the file as it was applied and put the change into a new migration, or accept it with --repair",
                );
                Step::Skip
            }
            Standing::Unverified => {
                refuse(
                    format!(
                        "{} is recorded as applied by another tool, which proves nothing, and the file does not say \
                         that it may run twice",
                        known.file
                    ),
                    "if it may run again, add the line `-- ms5: idempotent` to the file's first comment, or use --force; if it was \
                     applied, --adopt proves and records that",
                );
                Step::Skip
            }
            Standing::OutOfOrder => {
                refuse(
                    format!("{} was never applied, but a later number is", known.file),
                    "give it a new number, or apply it out of order with --allow-out-of-order",
                );
                Step::Skip
            }
        };
        steps.push(step);
    }
    for entry in entries.iter().filter(|entry| entry.verified && !may.out_of_order) {
        if !files.iter().any(|known| known.name == entry.name || known.file == entry.file) {
            refuse(
                format!("{} is applied, but its file {} is not in the folder", entry.name, entry.file),
                "bring the file back, or go on without it with --allow-out-of-order",
            );
        }
    }
    if reasons.is_empty() {
        return Ok(steps);
    }
    let mut error =
        Error::new(Exit::Failed, "the files and the ledger do not fit together; nothing was touched")
            .because_all(reasons);
    for hint in hints {
        error = error.hint(hint);
    }
    Err(error)
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
    fn an_unverified_row_is_never_skipped_on_its_word() {
        let entries: Vec<Entry> = (0..4).map(|i| entry(i, false, true, "good")).collect();
        let stand = standings(&files(true), &entries, &[]);
        let plan = steps(&files(true), &stand, &entries, Permissions::default()).unwrap();
        assert!(plan.iter().all(|step| matches!(step, Step::Apply { again: Some(_), keep: false })));
        let error = steps(&files(false), &stand, &entries, Permissions::default()).unwrap_err();
        assert_eq!((error.exit(), error.reasons().len()), (Exit::Failed, 4));
        let forced = Permissions { force: true, ..Permissions::default() };
        assert!(steps(&files(false), &stand, &entries, forced).is_ok());
    }

    #[test]
    fn force_runs_again_but_never_accepts_a_changed_file() {
        let forced = Permissions { force: true, out_of_order: true, ..Permissions::default() };
        let entries = [entry(0, true, true, "other")];
        let stand = standings(&files(true), &entries, &[]);
        assert!(
            steps(&files(true), &stand, &entries, forced).unwrap_err().reasons()[0].contains("001_a.sql")
        );
        let entries = [entry(0, true, true, "good")];
        let stand = standings(&files(true), &entries, &[]);
        assert_eq!(
            steps(&files(true), &stand, &entries, forced).unwrap()[0],
            Step::Apply { again: Some("--force"), keep: true }
        );
    }

    #[test]
    fn nothing_beyond_the_target_and_nothing_late_that_is_independent() {
        let target = Permissions { target: Some(2), ..Permissions::default() };
        let stand = standings(&files(true), &[], &[]);
        let plan = steps(&files(true), &stand, &[], target).unwrap();
        assert_eq!(plan[2..], [Step::Beyond, Step::Beyond]);
        assert!(plan[..2].iter().all(|step| matches!(step, Step::Apply { .. })));
        let mut files = files(true);
        files[3].independent_of = &[3];
        let stand = standings(&files, &[entry(3, true, true, "good")], &[]);
        assert_eq!(stand, [Standing::OutOfOrder, Standing::OutOfOrder, Standing::Pending, Standing::Applied]);
    }

    #[test]
    fn out_of_order_and_missing_files_want_permission() {
        let entries = [entry(3, true, true, "good")];
        let stand = standings(&files(true), &entries, &[]);
        assert_eq!(
            steps(&files(true), &stand, &entries, Permissions::default()).unwrap_err().reasons().len(),
            3
        );
        let fewer = &files(true)[..3];
        let stand = standings(fewer, &entries, &[]);
        let error = steps(fewer, &stand, &entries, Permissions::default()).unwrap_err();
        assert!(error.reasons()[0].contains("004_d.sql is not in the folder"), "{:?}", error.reasons());
        let may = Permissions { out_of_order: true, ..Permissions::default() };
        assert!(steps(fewer, &stand, &entries, may).is_ok());
    }
}
