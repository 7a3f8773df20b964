//! Rows for the store: taken from it where they have not changed since another backup, else read and written beside the backup
//! until it is whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use ms5_common::config::Settings;
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use super::copy::{self, Progress, Read, cannot_write};
use crate::archive::Archive;
use crate::folder::checksums::hex;
use crate::folder::metadata::{Kind, Member, Piece, Stage};
use crate::folder::{Entry, Folder};
use crate::rows::RowSum;
use crate::sessions::{Session, failed};
use crate::store;
use crate::store::key::{Key, Keys};

/// From how many bytes on the server on rows go into the store: smaller ones are written with less than they are looked for.
const SMALL: u64 = 32 << 10;

/// Up to how many bytes on the server a piece is read that its pages call unchanged, to see whether they are right.
const WITNESS: u64 = 256 << 20;

/// The store as a backup uses it.
pub(super) struct Pieces<'a> {
    settings: &'a Settings,
    /// The folder of the backups, and that of the one that is being made.
    backups: &'a Path,
    folder: &'a Path,
    level: Option<u32>,
    /// What other backups of this type have in the store, by what was read; the newest first.
    known: BTreeMap<String, Vec<Found>>,
    keys: Option<Keys>,
    done: Mutex<Vec<Done>>,
    number: AtomicUsize,
    told_by_key: AtomicUsize,
    /// After how many that are unchanged by their pages one is read all the same; and whether that was done. What pages say
    /// wrongly nothing else would ever show.
    witness: usize,
    witnessed: AtomicBool,
    told_by_content: AtomicUsize,
    saved: [AtomicU64; 2],
}

/// A piece of another backup.
struct Found {
    piece: Piece,
    members: Vec<Member>,
}

/// A piece of the backup that is being made.
pub(super) struct Done {
    pub(super) piece: Piece,
    pub(super) members: Vec<Member>,
    /// Where it was written; None: it was in the store, and was read and checked there.
    pub(super) fresh: Option<PathBuf>,
    /// Its key was taken in this snapshot, and not in that of the backup it is from.
    new_key: bool,
}

impl<'a> Pieces<'a> {
    /// Reads what other backups have.
    ///
    /// # Errors
    /// That the folder cannot be listed.
    pub(super) fn of(
        settings: &'a Settings,
        folder: &'a Folder,
        partial: &'a Path,
        kind: Kind,
        level: Option<u32>,
        keys: Option<Keys>,
    ) -> Result<Self> {
        let mut known: BTreeMap<String, Vec<Found>> = BTreeMap::new();
        for entry in folder.entries()? {
            // What is not as it was written would spread from here.
            let Entry { metadata: Ok(metadata), index_fits: true, .. } = entry else { continue };
            let Some(more) = metadata.more.filter(|_| metadata.kind == kind.word()) else { continue };
            let mut members: BTreeMap<usize, Vec<Member>> = BTreeMap::new();
            for member in more.members {
                if let Some(number) = member.file.checked_sub(metadata.files.len()) {
                    members.entry(number).or_default().push(member);
                }
            }
            for (number, piece) in more.pieces.unwrap_or_default().into_iter().enumerate() {
                // One file may hold what is packed, or what is not.
                if piece.file.ends_with(".gz") == level.is_some() {
                    let members = members.remove(&number).unwrap_or_default();
                    known.entry(piece.source.clone()).or_default().push(Found { piece, members });
                }
            }
        }
        let second = usize::try_from(OffsetDateTime::now_utc().unix_timestamp()).unwrap_or_default();
        let witness = second % known.len().max(1);
        Ok(Self {
            settings,
            backups: folder.path(),
            folder: partial,
            level,
            known,
            keys,
            done: Mutex::new(Vec::new()),
            number: AtomicUsize::new(0),
            told_by_key: AtomicUsize::new(0),
            witness,
            witnessed: AtomicBool::new(false),
            told_by_content: AtomicUsize::new(0),
            saved: Default::default(),
        })
    }

    /// Whether these rows go into the store.
    pub(super) fn wants(&self, read: &Read<'_>) -> bool {
        read.bytes >= SMALL && read.table.condition.is_none()
    }

    /// A session that can look at pages, where that helps.
    ///
    /// # Errors
    /// The server's.
    pub(super) fn session(&self) -> Result<Option<Session>> {
        self.keys.as_ref().map(|keys| keys.session(self.settings)).transpose()
    }

    /// Sees to it that the store has these rows.
    ///
    /// # Errors
    /// What the server or the disk says, or a signal's exit.
    pub(super) fn take(
        &self,
        session: &mut Session,
        pages: Option<&mut Session>,
        read: &Read<'_>,
        stage: Stage,
        progress: &Progress,
    ) -> Result<RowSum> {
        let key = match (&self.keys, pages) {
            (Some(keys), Some(pages)) => keys.of(pages, &read.relation, read.table.by_select)?,
            _ => None,
        };
        let known = self.known.get(&read.source).map(Vec::as_slice).unwrap_or_default();
        let whole = |found: &&Found| store::is_whole(self.backups, &found.piece);
        let equal =
            |key: &Key| known.iter().filter(|found| found.piece.key.as_ref() == Some(&key.text)).find(whole);
        if let Some(found) = key.as_ref().and_then(equal) {
            let before = self.told_by_key.fetch_add(1, Ordering::Relaxed);
            if before >= self.witness
                && read.bytes <= WITNESS
                && !self.witnessed.swap(true, Ordering::Relaxed)
            {
                bear_out(session, read, &found.piece)?;
            }
            return Ok(self.reuse(found, read, None, progress));
        }
        // Other pages are as good as other rows; and where they are not, what is packed anew has the same name.
        let by_content = known.iter().any(|found| match (&key, &found.piece.key) {
            (Some(key), Some(before)) => key.is_of_another_start(before),
            _ => true,
        });
        let key = key.filter(|key| key.settled).map(|key| key.text);
        if by_content {
            let text = content(session, read)?;
            if let Some(found) = known.iter().filter(|found| found.piece.text == text).find(whole) {
                self.told_by_content.fetch_add(1, Ordering::Relaxed);
                return Ok(self.reuse(found, read, key, progress));
            }
        }
        self.write(session, read, stage, key, progress)
    }

    /// Takes a piece of another backup, with the key that it had or one of now.
    fn reuse(&self, found: &Found, read: &Read<'_>, key: Option<String>, progress: &Progress) -> RowSum {
        let Found { piece, members } = found;
        let raw = members.iter().map(|member| member.raw).sum();
        progress.bytes.fetch_add(raw, Ordering::Relaxed);
        progress.rows.fetch_add(piece.rows, Ordering::Relaxed);
        for (saved, more) in self.saved.iter().zip([piece.bytes, piece.took]) {
            saved.fetch_add(more, Ordering::Relaxed);
        }
        // Where it lies is as it is now: the same rows may be of another chunk.
        let range = read.range();
        let members = members
            .iter()
            .map(|member| Member { table: Some(read.number), range, ..member.clone() })
            .collect();
        let new_key = key.is_some();
        let piece = Piece { table: read.number, key: key.or_else(|| piece.key.clone()), ..piece.clone() };
        let sum = RowSum { rows: piece.rows, hash: piece.hash };
        self.note(Done { piece, members, fresh: None, new_key });
        sum
    }

    fn write(
        &self,
        session: &mut Session,
        read: &Read<'_>,
        stage: Stage,
        key: Option<String>,
        progress: &Progress,
    ) -> Result<RowSum> {
        let begun = Instant::now();
        let path = self.folder.join(format!(".piece-{}", self.number.fetch_add(1, Ordering::Relaxed)));
        let archive = Archive::create(&path, self.level, None).map_err(|error| cannot_write(&error))?;
        archive.rows_gate().open();
        let mut hash = Sha256::new();
        let sum = copy::read(session, read, stage, &archive, progress, Some(&mut hash))?;
        let written = archive.finish().map_err(|error| cannot_write(&error))?;
        if written.members.is_empty() {
            std::fs::remove_file(&path).map_err(|error| cannot_write(&error))?;
            return Ok(sum);
        }
        let piece = Piece {
            file: format!("{}{}", written.sha256, if self.level.is_some() { ".gz" } else { "" }),
            bytes: written.bytes,
            table: read.number,
            source: read.source.clone(),
            text: hex(&hash.finalize()),
            quick: Some(written.quick),
            rows: sum.rows,
            hash: sum.hash,
            key,
            took: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        self.note(Done { piece, members: written.members, fresh: Some(path), new_key: true });
        Ok(sum)
    }

    fn note(&self, done: Done) {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).push(done);
    }

    /// Brings what was written into the store; gives all pieces in order.
    ///
    /// # Errors
    /// The system's, or the server's.
    pub(super) fn settle(&self) -> Result<Vec<Done>> {
        let mut all = std::mem::take(&mut *self.done.lock().unwrap_or_else(PoisonError::into_inner));
        all.sort_by(|one, other| {
            (one.piece.table, &one.piece.source).cmp(&(other.piece.table, &other.piece.source))
        });
        if let Some(doubt) = self.keys.as_ref().map(Keys::doubt).transpose()?.flatten() {
            log::info!("What was told of pages now is not kept for the next backup: {doubt}");
            all.iter_mut().filter(|done| done.new_key).for_each(|done| done.piece.key = None);
        }
        let fresh = || all.iter().filter_map(|done| Some((done.fresh.clone()?, done.piece.file.as_str())));
        store::adopt(self.backups, fresh()).map_err(|error| cannot_write(&error))?;
        let written = all.iter().filter(|done| done.fresh.is_some()).map(|done| done.piece.bytes).sum();
        let [by_key, by_content] =
            [&self.told_by_key, &self.told_by_content].map(|number| number.load(Ordering::Relaxed));
        let [bytes, took] = self.saved.each_ref().map(|saved| saved.load(Ordering::Relaxed));
        log::info!(
            "{} of {} pieces are unchanged ({by_key} by their pages, {by_content} by their content): {} and {}.{:03} s of reading and packing saved, {} new",
            by_key + by_content,
            all.len(),
            crate::words::bytes(bytes),
            took / 1000,
            took % 1000,
            crate::words::bytes(written)
        );
        Ok(all)
    }
}

/// Reads rows that are unchanged by their pages.
///
/// # Errors
/// That they have changed.
fn bear_out(session: &mut Session, read: &Read<'_>, piece: &Piece) -> Result<()> {
    if content(session, read)? == piece.text {
        log::debug!("{} was read too, and is what its pages say", read.relation);
        return Ok(());
    }
    Err(Error::new(Exit::Failed, format!("the rows of {} are not those that its pages stand for", read.relation))
        .because("no page of it was changed since another backup, by what the server says, and its rows are other ones")
        .because("pages were changed behind the server's back, its folder was set back, or this is a bug of ours")
        .because("nothing of the backup is kept, and the incremental ones before it may hold old rows")
        .hint("take one that reads everything: the same without --incremental; then start anew in an empty --backup-dir"))
}

/// The sha256 of rows as they are read.
fn content(session: &mut Session, read: &Read<'_>) -> Result<String> {
    let mut hash = Sha256::new();
    let done = session.client.copy_out(&read.sql(), |rows| {
        hash.update(rows);
        crate::sessions::stopped().map_err(Stop::Signal)
    });
    match done {
        Ok(()) => Ok(hex(&hash.finalize())),
        Err(stop) => {
            session.give_up();
            Err(match stop {
                Stop::Server(error) => failed(&format!("read the rows of {}", read.table.name), &error),
                Stop::Signal(error) => error,
            })
        }
    }
}

enum Stop {
    Server(postgres::Error),
    Signal(Error),
}

impl From<postgres::Error> for Stop {
    fn from(error: postgres::Error) -> Self {
        Self::Server(error)
    }
}

/// Refuses what an incremental backup cannot be of.
///
/// # Errors
/// [`Exit::Usage`].
pub(super) fn can_be_of(kind: Kind) -> Result<()> {
    match kind {
        Kind::Full | Kind::Hypertables => Ok(()),
        Kind::Schema | Kind::Data => {
            Err(Error::new(Exit::Usage, format!("a backup of type {} is never incremental", kind.word()))
                .hint("--incremental is for the types full and hypertables"))
        }
    }
}
