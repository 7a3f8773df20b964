//! `clean`: which backups are old, and may go; the decision is apart from the removal.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use ms5_common::config::Settings;
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::success;
use ms5_common::tool::Context;
use time::{Duration, OffsetDateTime};

use crate::args::Options;
use crate::folder::{Entry, Folder, Hold, name, partial};
use crate::words::bytes;
use crate::{export, rollback, store};

/// What is known of a backup, as far as its fate depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    name: String,
    /// Its type: one does not stand in for another.
    kind: String,
    /// Environment and name of the database that it is of: nor does another's.
    whose: [String; 2],
    /// None: it does not say.
    created: Option<OffsetDateTime>,
    /// Bytes of its own files.
    size: u64,
    /// What of the store it needs: files and their bytes.
    stored: Vec<(String, u64)>,
    complete: bool,
    /// Whether we made it: one of the old script's is complete where its file is there, and cannot stand in for one of ours.
    ours: bool,
    /// A rollback point leads to it.
    needed: bool,
}

/// Why a backup stays or goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Young,
    /// The newest complete ones of a type and a database.
    Last,
    Needed,
    /// Damaged or foreign: a person decides.
    Odd,
    Old,
    /// All together are too large.
    TooMuch,
}

impl Fate {
    fn goes(self) -> bool {
        matches!(self, Self::Old | Self::TooMuch)
    }

    fn words(self) -> &'static str {
        match self {
            Self::Young => "is younger than that",
            Self::Last => "is among the newest complete backups of its type and database",
            Self::Needed => "is needed by a rollback point",
            Self::Odd => "is damaged or no backup: look at it, and remove it by hand",
            Self::Old => "is older than that",
            Self::TooMuch => "is the oldest, and all take more than --max-total",
        }
    }
}

/// Decides for each. The candidates are given the newest first, and answered in that order.
fn decide(
    candidates: &[Candidate],
    now: OffsetDateTime,
    days: u64,
    keep_last: usize,
    max_total: Option<u64>,
) -> Vec<Fate> {
    // One complete backup of each type and database always stays, whatever is asked for.
    let keep_last = keep_last.max(1);
    let limit = Duration::days(i64::try_from(days).unwrap_or(i64::MAX / 86_400_000));
    let mut kept: BTreeMap<(&str, &[String; 2], bool), usize> = BTreeMap::new();
    let mut fates: Vec<Fate> = candidates
        .iter()
        .map(|backup| {
            let Some(created) = backup.created.filter(|_| backup.complete) else { return Fate::Odd };
            let kept = kept.entry((&backup.kind, &backup.whose, backup.ours)).or_default();
            *kept += 1;
            if backup.needed {
                Fate::Needed
            } else if *kept <= keep_last {
                Fate::Last
            } else if now - created > limit {
                Fate::Old
            } else {
                Fate::Young
            }
        })
        .collect();
    if let Some(most) = max_total {
        for number in (0..candidates.len()).rev() {
            if fates[number] == Fate::Young && total(candidates, &fates) > most {
                fates[number] = Fate::TooMuch;
            }
        }
    }
    fates
}

/// What those that stay take, each file of the store once.
fn total(candidates: &[Candidate], fates: &[Fate]) -> u64 {
    let stay = || candidates.iter().zip(fates).filter(|(_, fate)| !fate.goes()).map(|(backup, _)| backup);
    let stored: BTreeMap<&str, u64> =
        stay().flat_map(|backup| &backup.stored).map(|(file, bytes)| (file.as_str(), *bytes)).collect();
    stay().map(|backup| backup.size).sum::<u64>() + stored.values().sum::<u64>()
}

/// The whole command.
pub(crate) fn run(context: &Context, options: &Options, settings: &Settings, days: u64) -> Result<Exit> {
    let folder = Folder::open(&settings.backup_dir, Hold::Alone, options.lock_wait)?;
    context.recorder.start(None, None);
    if !options.dry_run {
        partial::sweep(&folder);
    }
    let needed: BTreeSet<String> = rollback::needed(folder.path(), &settings.home)?;
    let entries = folder.entries()?;
    let candidates: Vec<Candidate> = entries
        .iter()
        .map(|entry| Candidate {
            name: entry.name.clone(),
            kind: entry.metadata.as_ref().map(|metadata| metadata.kind.clone()).unwrap_or_default(),
            whose: [entry.whose().environment, entry.whose().database].map(str::to_owned),
            created: age_of(entry),
            size: entry.size,
            stored: entry.pieces().iter().map(|piece| (piece.file.clone(), piece.bytes)).collect(),
            complete: entry.complete(),
            ours: entry.metadata.as_ref().is_ok_and(|metadata| metadata.more.is_some()),
            needed: needed.contains(&entry.name),
        })
        .collect();
    let fates = decide(&candidates, OffsetDateTime::now_utc(), days, options.keep_last, options.max_total);
    log::info!("Cleaning backups older than {days} days");
    let (mut removed, mut freed, mut failed) = (0, 0, Vec::new());
    for (entry, fate) in entries.iter().zip(&fates) {
        let outcome = match (fate.goes(), options.dry_run) {
            (true, true) => "would be removed",
            (true, false) => match remove(&folder, entry) {
                Ok(()) => "removed",
                Err(error) => {
                    failed.push(format!("{}: {error}", entry.name));
                    "not removed"
                }
            },
            (false, _) => "kept",
        };
        let line = format!("{}: {outcome}, it {}", entry.name, fate.words());
        if *fate == Fate::Odd {
            log::warn!("{line}")
        } else {
            log::info!("{line}")
        }
        if outcome == "removed" || outcome == "would be removed" {
            removed += 1;
            freed += entry.size;
        }
        context.recorder.emit("backup", crate::list::record(entry, outcome));
    }
    context.recorder.count("removed", removed);
    freed += empty_store(&folder, options.dry_run, &entries, &fates, &mut failed)?;
    if !failed.is_empty() {
        return Err(Error::new(Exit::Partial, "some backups could not be removed").because_all(failed));
    }
    let what = if options.dry_run { "would be removed" } else { "removed" };
    success!("✅ {removed} backups {what}, {}", bytes(freed));
    Ok(Exit::Done)
}

/// From when on a backup is as old as it says. An export says when its rows were read, and was wanted when it was made.
fn age_of(entry: &Entry) -> Option<OffsetDateTime> {
    let exported = name::without_stamp(&entry.name).is_some_and(|plain| plain.ends_with(export::ENDING));
    if exported { entry.created.max(name::time(&entry.name)) } else { entry.created }
}

/// Removes what no backup needs of the store that they share; gives the bytes.
fn empty_store(
    folder: &Folder,
    dry_run: bool,
    entries: &[Entry],
    fates: &[Fate],
    failed: &mut Vec<String>,
) -> Result<u64> {
    let cannot = |error: std::io::Error| {
        Error::new(Exit::Config, format!("cannot look into {}", folder.path().join(store::FOLDER).display()))
            .because(error)
    };
    let left = |why: &str| {
        log::warn!("What no backup needs of {} is not removed: {why}", store::FOLDER);
        Ok(0)
    };
    // What could not be removed needs its pieces still.
    let there: Vec<Entry> = if dry_run { Vec::new() } else { folder.entries()? };
    // What cannot be read may need any of it: now, or when it was looked at first.
    let unknown = |entry: &&Entry| match &entry.metadata {
        Ok(metadata) => metadata.more.is_some() && !entry.index_fits,
        Err(_) => true,
    };
    if let Some(odd) = entries.iter().chain(&there).find(unknown) {
        return left(&format!("{} cannot be read, or is not as it was written", odd.name));
    }
    let stay = entries.iter().zip(fates).filter(|(_, fate)| !fate.goes()).map(|(entry, _)| entry);
    let needed = if dry_run { store::needed(stay) } else { store::needed(there.iter()) };
    let needed = match needed {
        Ok(needed) => needed,
        Err(error) => return left(&error.to_string()),
    };
    let unused = store::unused(folder.path(), &needed).map_err(cannot)?;
    let mut freed = 0;
    for (path, bytes) in &unused {
        let removed = if dry_run { Ok(()) } else { fs::remove_file(path) };
        match removed {
            Ok(()) => freed += bytes,
            Err(error) => failed.push(format!("{}: {error}", path.display())),
        }
    }
    if !unused.is_empty() {
        let what = if dry_run { "would be removed" } else { "removed" };
        log::info!(
            "{}: {} pieces that no backup needs: {what}, {}",
            store::FOLDER,
            unused.len(),
            bytes(freed)
        );
    }
    Ok(freed)
}

/// Out of sight first: what is half removed is no backup any more.
fn remove(folder: &Folder, entry: &Entry) -> std::io::Result<()> {
    let hidden = folder.path().join(format!(".partial-{}.removed", entry.name));
    fs::rename(&entry.path, &hidden)?;
    fs::remove_dir_all(&hidden)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup(name: &str, age: i64) -> Candidate {
        let created = OffsetDateTime::UNIX_EPOCH + Duration::days(1000 - age);
        Candidate {
            name: name.into(),
            kind: "full".into(),
            whose: ["production", "plant"].map(Into::into),
            created: Some(created),
            size: 10,
            stored: Vec::new(),
            complete: true,
            ours: true,
            needed: false,
        }
    }

    fn fates(all: &[Candidate], days: u64, keep: usize, most: Option<u64>) -> Vec<Fate> {
        decide(all, OffsetDateTime::UNIX_EPOCH + Duration::days(1000), days, keep, most)
    }

    #[test]
    fn old_ones_go_and_the_newest_complete_one_never() {
        use Fate::*;
        let all = [backup("a", 1), backup("b", 8), backup("c", 40)];
        assert_eq!(fates(&all, 30, 1, None), [Last, Young, Old]);
        assert_eq!(fates(&all, 0, 0, None), [Last, Old, Old]);
        assert_eq!(fates(&all, 0, 2, None), [Last, Last, Old]);
        assert_eq!(fates(&all, u64::MAX, 1, None), [Last, Young, Young]);
        let mut damaged = all.clone();
        damaged[0].complete = false;
        assert_eq!(fates(&damaged, 0, 1, None), [Odd, Last, Old], "a damaged one counts for nothing");
        let mut needed = all.clone();
        needed[2].needed = true;
        assert_eq!(fates(&needed, 7, 1, None), [Last, Old, Needed]);
        let mut types = all.clone();
        types[0].kind = "hypertables".into();
        assert_eq!(fates(&types, 0, 1, None), [Last, Last, Old], "rows are no way back");
        let mut others = all.clone();
        others[0].whose = ["staging", "plant"].map(Into::into);
        assert_eq!(fates(&others, 0, 1, None), [Last, Last, Old], "staging's is no way back for production");
        let mut unknown = all;
        unknown[2].created = None;
        assert_eq!(fates(&unknown, 0, 1, None), [Last, Old, Odd]);
    }

    #[test]
    fn one_of_the_old_script_does_not_stand_in_for_ours() {
        let theirs = Candidate { ours: false, ..backup("b", 0) };
        assert_eq!(fates(&[theirs, backup("a", 40)], 30, 1, None), [Fate::Last, Fate::Last]);
        assert_eq!(fates(&[backup("b", 0), backup("a", 40)], 30, 1, None), [Fate::Last, Fate::Old]);
    }

    #[test]
    fn too_much_takes_the_oldest_first_and_leaves_the_newest() {
        use Fate::*;
        let all = [backup("a", 1), backup("b", 2), backup("c", 3)];
        assert_eq!(fates(&all, 30, 1, Some(30)), [Last, Young, Young]);
        assert_eq!(fates(&all, 30, 1, Some(20)), [Last, Young, TooMuch]);
        assert_eq!(fates(&all, 30, 1, Some(0)), [Last, TooMuch, TooMuch]);
        // What two need goes with the last of them.
        let mut shared = all;
        shared[1].stored = vec![("x".into(), 100)];
        shared[2].stored = vec![("x".into(), 100), ("y".into(), 100)];
        assert_eq!(fates(&shared, 30, 1, Some(230)), [Last, Young, Young]);
        assert_eq!(fates(&shared, 30, 1, Some(229)), [Last, Young, TooMuch]);
        assert_eq!(fates(&shared, 30, 1, Some(119)), [Last, TooMuch, TooMuch]);
    }
}
