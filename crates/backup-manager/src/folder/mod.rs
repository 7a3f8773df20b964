//! The folder of the backups and what lies in it: names, locks, half-made backups, and what a backup says of itself.

pub(crate) mod belonging;
pub(crate) mod checksums;
pub(crate) mod hypertables;
pub(crate) mod metadata;
pub(crate) mod name;
pub(crate) mod partial;
pub(crate) mod proof;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ms5_common::backups::{Kin, Whose};
use ms5_common::clock;
use ms5_common::config::Settings;
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::interrupt;
use ms5_common::rollback_points;
use rustix::fs::{FlockOperation, flock};
use time::OffsetDateTime;

use crate::archive::Reader;
use crate::args::{IDENTITY, own};
use crate::seal::{self, Key};
use crate::sessions::stopped;
use crate::store;
use metadata::{Metadata, Piece};

/// The file whose lock keeps `clean` away from what others use.
const LOCK: &str = ".lock";

/// The folder of the backups, held for use (shared) or for removal (exclusive).
pub(crate) struct Folder {
    path: PathBuf,
    _lock: File,
}

/// How the folder is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Beside others that read or add.
    Shared,
    /// Alone: backups are removed.
    Alone,
}

impl Folder {
    /// Opens the folder, which is made if it is not there, and holds it.
    ///
    /// # Errors
    /// [`Exit::Config`] where it cannot be made or written; [`Exit::Unreachable`] where another holds it for too long.
    pub(crate) fn open(path: &Path, hold: Hold, wait: Duration) -> Result<Self> {
        let failed = |error: io::Error| {
            Error::new(Exit::Config, format!("cannot use the folder of the backups {}", path.display()))
                .because(error)
                .because("nothing was touched")
                .hint("name a folder that you may write to: --backup-dir=DIR")
        };
        if !path.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        }
        let mut options = OpenOptions::new();
        let lock = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(LOCK))
            .map_err(failed)?;
        let operation = match hold {
            Hold::Shared => FlockOperation::NonBlockingLockShared,
            Hold::Alone => FlockOperation::NonBlockingLockExclusive,
        };
        let deadline = Instant::now() + wait;
        while let Err(error) = flock(&lock, operation) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(failed(error.into()));
            }
            if Instant::now() >= deadline || !interrupt::sleep(Duration::from_millis(100)) {
                stopped()?;
                return Err(Error::new(
                    Exit::Unreachable,
                    format!("another backup-manager works in {}", path.display()),
                )
                .because("clean waits for backups, restores and checks, and they for clean")
                .because("nothing was touched")
                .hint("run it again when that has ended, or give more time with --lock-wait=SECONDS"));
            }
        }
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Every folder that may be a backup, those that cannot be read among them; the newest first.
    ///
    /// # Errors
    /// [`Exit::Config`] where the folder cannot be listed.
    pub(crate) fn entries(&self) -> Result<Vec<Entry>> {
        let cannot_list = |error: io::Error| {
            Error::new(Exit::Config, format!("cannot list {}", self.path.display())).because(error)
        };
        let listed = fs::read_dir(&self.path).map_err(cannot_list)?;
        let mut entries = Vec::new();
        for entry in listed {
            let entry = entry.map_err(cannot_list)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == rollback_points::FOLDER || name.starts_with('.') {
                continue;
            }
            // A link to a folder is as good as one; what it is cannot be said of one that leads nowhere.
            let kind = fs::metadata(entry.path());
            if kind.map_or(true, |kind| kind.is_dir()) {
                entries.push(Entry::read(name, entry.path()));
            }
        }
        entries.sort_by(|one, other| (other.created, &other.name).cmp(&(one.created, &one.name)));
        Ok(entries)
    }

    /// The backup that a name means: the folder of that name, or the newest one of this database whose name it is without the
    /// stamp. A folder that is named in full may be any database's.
    ///
    /// # Errors
    /// [`Exit::Config`] where there is none, with what there is.
    pub(crate) fn find(&self, name: &str, settings: &Settings) -> Result<Entry> {
        let mut entries = self.entries()?;
        let ours = Whose::of(settings);
        let means = |entry: &Entry| entry.name == name || name::without_stamp(&entry.name) == Some(name);
        let newest =
            || entries.iter().position(|entry| means(entry) && ours.kin(entry.whose()) != Kin::Others);
        let named = || entries.iter().position(|entry| entry.name == name);
        // A full name with a stamp means itself; without one, the newest of its kind.
        let found = match name::without_stamp(name) {
            Some(_) => named().or_else(newest),
            None => newest().or_else(named),
        };
        let Some(found) = found else {
            return Err(match entries.iter().any(means) {
                true => belonging::only_of_others(name, ours, entries.iter().filter(|entry| means(entry))),
                false => self.not_there(name, &entries),
            });
        };
        let entry = entries.swap_remove(found);
        if entry.name != name {
            log::info!("Backup: {} (the newest of {name})", entry.name);
            belonging::warn_of_unknown(&entry, ours);
        }
        Ok(entry)
    }

    fn not_there(&self, name: &str, entries: &[Entry]) -> Error {
        let error =
            Error::new(Exit::Config, format!("there is no backup {name:?} in {}", self.path.display()))
                .because("nothing was touched");
        match entries.first() {
            None => {
                error.because("there is none at all").hint(format!("take one: {} backup NAME full", own()))
            }
            Some(newest) => {
                error.hint(format!("{own} list shows them; the newest is {}", newest.name, own = own()))
            }
        }
    }
}

/// A folder that may be a backup.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// The folder's name.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// What it says of itself; why that cannot be read, otherwise.
    pub(crate) metadata: std::result::Result<Metadata, String>,
    /// When it was made, by its own word.
    pub(crate) created: Option<OffsetDateTime>,
    /// Bytes of all its files.
    pub(crate) size: u64,
    /// What a look without reading the large files finds wrong.
    pub(crate) damage: Vec<String>,
    /// Whether what it says of itself is what was written.
    pub(crate) index_fits: bool,
    /// What opens its files, where they are encrypted and that was given.
    pub(crate) key: Option<Key>,
}

impl Entry {
    /// Reads what a folder says of itself.
    pub(crate) fn read(name: String, path: PathBuf) -> Self {
        let metadata = read_text(&path.join(metadata::FILE)).and_then(|text| Metadata::parse(&text));
        let created =
            metadata.as_ref().ok().and_then(|metadata| clock::parse_record_time(&metadata.created_at));
        let size = fs::read_dir(&path).map_or(0, |files| {
            files
                .filter_map(|file| file.ok()?.metadata().ok())
                .filter(fs::Metadata::is_file)
                .map(|file| file.len())
                .sum()
        });
        let mut damage = Vec::new();
        let mut index_fits = false;
        match &metadata {
            Err(why) => damage.push(format!("{}: {why}", metadata::FILE)),
            Ok(metadata) => {
                checksums::index(&path, &name, metadata, &mut damage);
                index_fits = damage.is_empty();
                checksums::glance(&path, metadata, &mut damage);
                let backups = path.parent().unwrap_or(Path::new("."));
                let pieces = metadata.pieces().iter();
                damage.extend(pieces.filter_map(|piece| store::glance(backups, piece).err()));
            }
        }
        if created.is_none() && metadata.is_ok() {
            damage.push(format!("{}: created_at is no time", metadata::FILE));
        }
        Self { name, path, metadata, created, size, damage, index_fits, key: None }
    }

    /// The database that it is of, by its own word.
    pub(crate) fn whose(&self) -> Whose<'_> {
        self.metadata.as_ref().map_or(Whose { environment: "", database: "" }, Metadata::whose)
    }

    /// What of its rows lies in the store.
    pub(crate) fn pieces(&self) -> &[Piece] {
        self.metadata.as_ref().map(Metadata::pieces).unwrap_or_default()
    }

    /// Whether it shares the store with others.
    pub(crate) fn is_incremental(&self) -> bool {
        self.metadata.as_ref().is_ok_and(Metadata::is_incremental)
    }

    /// The folder of the backups that it is in.
    pub(crate) fn backups(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    /// Whether it is encrypted.
    pub(crate) fn is_sealed(&self) -> bool {
        self.recipients().is_some()
    }

    fn recipients(&self) -> Option<&[String]> {
        self.metadata.as_ref().ok()?.recipients()
    }

    /// The same backup with what an encrypted one says inside; as it is where it is not encrypted.
    ///
    /// # Errors
    /// [`Exit::Config`] where the key is missing or another one's; [`Exit::Failed`] where what it opens is no index.
    pub(crate) fn open(mut self, key: Option<Key>) -> Result<Self> {
        let Some(recipients) = self.recipients() else { return Ok(self) };
        let Some(key) = key else {
            return Err(Error::new(Exit::Config, format!("the backup {} is encrypted", self.name))
                .because_all(recipients.iter().map(|one| format!("for {one}")))
                .because("nothing was touched")
                .hint(format!(
                    "give the file with the key: {IDENTITY}=KEY_FILE, or {}=KEY_FILE",
                    seal::VARIABLE
                )));
        };
        self.key = Some(key);
        let index = self.text(metadata::INDEX).map_err(|error| {
            let closed = error.kind() == io::ErrorKind::PermissionDenied;
            let exit = if closed { Exit::Config } else { Exit::Failed };
            Error::new(exit, format!("cannot open the encrypted backup {}", self.name))
                .because(error)
                .because("nothing was touched")
                .hint("metadata.json names those whom it is encrypted for; age-keygen -y KEY_FILE shows whose key a file holds")
        })?;
        if let Ok(metadata) = &mut self.metadata {
            metadata.read_index(&index).map_err(|why| {
                Error::new(Exit::Failed, format!("the backup {} is damaged", self.name))
                    .because(format!("{}: {why}", metadata::INDEX))
                    .because("nothing was touched")
            })?;
        }
        Ok(self)
    }

    /// A small file of the backup, in the clear.
    ///
    /// # Errors
    /// The system's, or that the key does not open it.
    pub(crate) fn text(&self, file: &str) -> io::Result<String> {
        let Some(key) = &self.key else { return fs::read_to_string(self.path.join(file)) };
        let mut text = String::new();
        key.open(File::open(self.path.join(format!("{file}{}", seal::ENDING)))?)?
            .read_to_string(&mut text)?;
        Ok(text)
    }

    /// Its files, to read members of.
    ///
    /// # Errors
    /// The system's, with the path.
    pub(crate) fn reader(&self) -> io::Result<Reader> {
        let files = self.metadata.as_ref().map(|metadata| metadata.files.as_slice()).unwrap_or_default();
        let files = files.iter().map(|(file, _)| self.path.join(file));
        let pieces = self.pieces().iter().map(|piece| self.backups().join(store::place(&piece.file)));
        Reader::open(&files.chain(pieces).collect::<Vec<PathBuf>>(), self.key.as_ref())
    }

    /// Whether nothing is known to be wrong with it.
    pub(crate) fn complete(&self) -> bool {
        self.damage.is_empty()
    }
}

/// A small file, as text.
///
/// # Errors
/// Why it cannot be read, in words.
pub(crate) fn read_text(path: &Path) -> std::result::Result<String, String> {
    fs::read_to_string(path).map_err(|error| error.to_string())
}

/// Writes a small file under another name first, synced, its owner's alone.
///
/// # Errors
/// The system's.
pub(crate) fn write_whole(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    use std::io::Write;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let beside = path.with_file_name(name);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    sync_folder(path.parent().unwrap_or(Path::new(".")))
}

/// Writes what a backup says of itself: metadata.json and checksums.sha256.
///
/// # Errors
/// The system's.
pub(crate) fn write_index(folder: &Path, metadata: &Metadata) -> io::Result<()> {
    let text = metadata.render();
    write_whole(&folder.join(metadata::FILE), &text, 0o600)?;
    write_whole(&folder.join(checksums::FILE), &checksums::render(&text, metadata), 0o600)
}

/// Makes a folder's entries durable.
///
/// # Errors
/// The system's.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
