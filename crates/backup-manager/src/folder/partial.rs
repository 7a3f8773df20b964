//! A backup that is being made: a hidden folder, locked by its maker, which gets its name once it is whole.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::interrupt;
use rustix::fs::{FlockOperation, flock};
use time::OffsetDateTime;

use super::{Folder, name, sync_folder};

/// What the hidden folder's name begins with.
const PREFIX: &str = ".partial-";
/// A backup that has no name yet. Dropped without [`Partial::publish`], it is removed.
pub(crate) struct Partial {
    path: PathBuf,
    name: String,
    created: OffsetDateTime,
    /// On the folder itself, also under its later name: free once its maker is gone.
    _lock: File,
    done: bool,
}

impl Partial {
    /// Makes the hidden folder for a backup called `plain` of this second, or of the next one that is free. No two are of one
    /// second, whatever they are called: which is the newest decides what `clean` keeps.
    ///
    /// # Errors
    /// [`Exit::Config`] where it cannot be made.
    pub(crate) fn create(folder: &Folder, plain: &str) -> Result<Self> {
        loop {
            let created = OffsetDateTime::now_utc();
            let stamp = name::stamp(created);
            let name = format!("{plain}_{stamp}");
            let path = folder.path().join(format!("{PREFIX}{name}"));
            match lock_new(folder, &path, Some(&stamp)) {
                Ok(lock) => return Ok(Self { path, name, created, _lock: lock, done: false }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if !interrupt::sleep(Duration::from_millis(200)) {
                        return Err(Error::new(
                            interrupt::requested().unwrap_or(Exit::Interrupt),
                            "stopped by a signal before anything was begun",
                        ));
                    }
                }
                Err(error) => return Err(cannot_make(&path, error)),
            }
        }
    }

    /// Makes the hidden folder for a backup that comes from elsewhere, with the name that it has there.
    ///
    /// # Errors
    /// [`Exit::Config`] where it cannot be made; [`Exit::Unreachable`] where another run is fetching the same.
    pub(crate) fn receive(folder: &Folder, name: &str) -> Result<Self> {
        let path = folder.path().join(format!("{PREFIX}{name}"));
        match lock_new(folder, &path, None) {
            Ok(lock) => Ok(Self {
                path,
                name: name.to_owned(),
                created: OffsetDateTime::now_utc(),
                _lock: lock,
                done: false,
            }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(Error::new(Exit::Unreachable, format!("another backup-manager is fetching {name}"))
                    .because("nothing was touched")
                    .hint("run it again when that has ended"))
            }
            Err(error) => Err(cannot_make(&path, error)),
        }
    }

    /// The name that it will have.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// When it was begun.
    pub(crate) fn created(&self) -> OffsetDateTime {
        self.created
    }

    /// Where its files are written.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its name; gives its folder.
    ///
    /// # Errors
    /// The system's; then it is removed.
    pub(crate) fn publish(mut self, folder: &Folder) -> io::Result<PathBuf> {
        let to = folder.path().join(&self.name);
        sync_folder(&self.path)?;
        fs::rename(&self.path, &to)?;
        self.done = true;
        sync_folder(folder.path())?;
        Ok(to)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn cannot_make(path: &Path, error: io::Error) -> Error {
    Error::new(Exit::Config, format!("cannot make the folder {}", path.display()))
        .because(error)
        .because("nothing was touched")
        .hint("name a folder that you may write to: --backup-dir=DIR")
}

/// Makes a folder that nobody sees without its lock; not where there is one with that `stamp`.
fn lock_new(folder: &Folder, path: &Path, stamp: Option<&str>) -> io::Result<File> {
    let _turn = turn(folder)?;
    if let Some(stamp) = stamp {
        for entry in fs::read_dir(folder.path())? {
            if entry?.file_name().as_encoded_bytes().ends_with(stamp.as_bytes()) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
        }
    }
    DirBuilder::new().mode(0o700).create(path)?;
    let lock = File::open(path)?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    Ok(lock)
}

/// A moment in which nobody else makes or removes hidden folders.
fn turn(folder: &Folder) -> io::Result<File> {
    let turn = File::open(folder.path())?;
    flock(&turn, FlockOperation::LockExclusive)?;
    Ok(turn)
}

/// Removes what killed backups have left: hidden folders whose maker is gone. Gives their names.
pub(crate) fn sweep(folder: &Folder) -> Vec<String> {
    let (Ok(_turn), Ok(listed)) = (turn(folder), fs::read_dir(folder.path())) else { return Vec::new() };
    let mut swept = Vec::new();
    for entry in listed.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(backup) = name.strip_prefix(PREFIX) else { continue };
        let dead = File::open(entry.path())
            .is_ok_and(|folder| flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok());
        if dead && fs::remove_dir_all(entry.path()).is_ok() {
            log::warn!("Removed what a killed backup has left: {backup}");
            swept.push(backup.to_owned());
        }
    }
    swept
}
