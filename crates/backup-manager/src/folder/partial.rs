//! A backup that is being made: a hidden folder, locked by its maker, which gets its name once it is whole.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
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
/// The lock in it: free once its maker is gone.
const LOCK: &str = ".lock";

/// A backup that has no name yet. Dropped without [`Partial::publish`], it is removed.
pub(crate) struct Partial {
    path: PathBuf,
    name: String,
    created: OffsetDateTime,
    lock: Option<File>,
    done: bool,
}

impl Partial {
    /// Makes the hidden folder for a backup called `plain` of this second, or of the next one that is free.
    ///
    /// # Errors
    /// [`Exit::Config`] where it cannot be made.
    pub(crate) fn create(folder: &Folder, plain: &str) -> Result<Self> {
        loop {
            let created = OffsetDateTime::now_utc();
            let name = format!("{plain}_{}", name::stamp(created));
            let path = folder.path().join(format!("{PREFIX}{name}"));
            let taken = folder.path().join(&name).exists();
            let made = if taken { Err(io::ErrorKind::AlreadyExists.into()) } else { lock_new(&path) };
            match made {
                Ok(lock) => return Ok(Self { path, name, created, lock: Some(lock), done: false }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if !interrupt::sleep(Duration::from_millis(200)) {
                        return Err(Error::new(
                            interrupt::requested().unwrap_or(Exit::Interrupt),
                            "stopped by a signal before anything was begun",
                        ));
                    }
                }
                Err(error) => {
                    return Err(Error::new(
                        Exit::Config,
                        format!("cannot make the folder {}", path.display()),
                    )
                    .because(error)
                    .because("nothing was touched")
                    .hint("name a folder that you may write to: --backup-dir=DIR"));
                }
            }
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
        fs::remove_file(self.path.join(LOCK))?;
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
        self.lock = None;
    }
}

fn lock_new(path: &Path) -> io::Result<File> {
    DirBuilder::new().mode(0o700).create(path)?;
    let lock = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path.join(LOCK))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    Ok(lock)
}

/// Removes what killed backups have left: hidden folders whose maker is gone. Gives their names.
pub(crate) fn sweep(folder: &Folder) -> Vec<String> {
    let Ok(listed) = fs::read_dir(folder.path()) else { return Vec::new() };
    let mut swept = Vec::new();
    for entry in listed.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(backup) = name.strip_prefix(PREFIX) else { continue };
        let dead = match File::open(entry.path().join(LOCK)) {
            Ok(lock) => flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok(),
            // Killed before it was locked, or right before it got its name; or it is being made in this very moment.
            Err(_) => entry
                .metadata()
                .and_then(|data| data.modified())
                .is_ok_and(|at| at.elapsed().is_ok_and(|age| age > Duration::from_secs(5))),
        };
        if dead && fs::remove_dir_all(entry.path()).is_ok() {
            log::warn!("Removed what a killed backup has left: {backup}");
            swept.push(backup.to_owned());
        }
    }
    swept
}
