//! A file that has its name once it is whole: what was there before stays until then, and half a file is never taken for one.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::interrupt;

/// A file that is being written beside the name that it will have. Its owner's only: records and output quote what servers say,
/// and that may quote data.
#[derive(Debug)]
pub struct WholeFile {
    file: File,
    path: PathBuf,
    /// None for what is no regular file (a pipe, a device): it is written in place.
    beside: Option<PathBuf>,
    failed: Option<io::Error>,
}

/// How long a pipe may be without a reader: it may be started after us.
const READER: Duration = Duration::from_secs(10);
/// How many files beside the name may be there already.
const OTHERS: u32 = 100;

impl WholeFile {
    /// Begins it. A symbolic link stays one: the file is where it leads.
    ///
    /// # Errors
    /// The system's.
    pub fn create(path: &Path) -> io::Result<Self> {
        let path = followed(path)?;
        match fs::metadata(&path) {
            Ok(there) if there.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(there) if !there.is_file() => {
                let file = open_in_place(&path, there.file_type().is_fifo(), READER)?;
                return Ok(Self { file, path, beside: None, failed: None });
            }
            _ => {}
        }
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        for number in 0..OTHERS {
            let mut name = name.clone();
            name.push(match number {
                0 => format!(".{}.part", std::process::id()),
                _ => format!(".{}.{number}.part", std::process::id()),
            });
            let beside = path.with_file_name(name);
            // Nothing that is there is written to: it may be a link that somebody has laid.
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside) {
                Ok(file) => return Ok(Self { file, path, beside: Some(beside), failed: None }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Adds a line; that it cannot be written is said by [`WholeFile::finish`].
    pub fn put(&mut self, line: &str) {
        if self.failed.is_none() {
            self.failed = writeln!(self.file, "{line}").err();
        }
    }

    /// Makes it durable, and gives it its name.
    ///
    /// # Errors
    /// Whatever could not be written. Nothing of it is left then, and nothing of what had the name before: an earlier run's file
    /// would be taken for this one's.
    pub fn finish(self) -> Result<(), Unfinished> {
        let Self { file, path, beside, failed } = self;
        let Some(beside) = beside else {
            return failed.map_or(Ok(()), |error| Err(Unfinished { path, error, earlier: Earlier::None }));
        };
        let done = match failed {
            Some(error) => Err(error),
            None => file.sync_all().and_then(|()| fs::rename(&beside, &path)),
        };
        done.map_err(|error| {
            let _ = fs::remove_file(&beside);
            let earlier = match fs::remove_file(&path) {
                Ok(()) => Earlier::Removed,
                Err(removed) if removed.kind() == io::ErrorKind::NotFound => Earlier::None,
                Err(_) => Earlier::Left,
            };
            Unfinished { path, error, earlier }
        })
    }
}

/// A file that could not be finished.
#[derive(Debug)]
pub struct Unfinished {
    path: PathBuf,
    error: io::Error,
    earlier: Earlier,
}

/// What became of the file that had the name before.
#[derive(Debug, PartialEq, Eq)]
enum Earlier {
    None,
    Removed,
    Left,
}

impl fmt::Display for Unfinished {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, error, earlier } = self;
        let path = path.display();
        write!(out, "cannot finish {path}: {error}; ")?;
        match earlier {
            Earlier::None => write!(out, "there is no such file of this run"),
            Earlier::Removed => {
                write!(out, "what had that name before was removed, as it is an earlier run's")
            }
            Earlier::Left => {
                write!(out, "what is there is an earlier run's and cannot be removed: do not use it")
            }
        }
    }
}

/// Where a path leads, also where there is nothing yet.
fn followed(path: &Path) -> io::Result<PathBuf> {
    /// As many as Linux follows.
    const LINKS: usize = 40;
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        // What /dev/fd and /proc show as links lead to what has no name.
        if !fs::symlink_metadata(&path).is_ok_and(|there| there.is_symlink())
            || fs::metadata(&path).is_ok_and(|there| !there.is_file() && !there.is_dir())
        {
            return Ok(path);
        }
        path = path.parent().unwrap_or(Path::new("")).join(fs::read_link(&path)?);
    }
    Err(io::ErrorKind::InvalidInput.into())
}

/// Opens a pipe or a device. A pipe that nobody reads would hold us up for ever.
fn open_in_place(path: &Path, pipe: bool, patience: Duration) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true);
    if !pipe {
        return options.open(path);
    }
    let nonblock = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let deadline = Instant::now() + patience;
    let file = loop {
        match options.custom_flags(nonblock).open(path) {
            Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => {
                if Instant::now() >= deadline || !interrupt::sleep(Duration::from_millis(50)) {
                    return Err(io::Error::other(format!(
                        "nobody reads that pipe, after {} s",
                        patience.as_secs()
                    )));
                }
            }
            opened => break opened?,
        }
    };
    // From here on a slow reader is waited for.
    rustix::fs::fcntl_setfl(&file, OFlags::empty())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::{Command, Stdio};

    #[test]
    fn it_has_its_name_once_it_is_whole_and_is_its_owners_only() {
        let folder = std::env::temp_dir().join(format!("ms5-whole-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("junit.xml");
        fs::write(&path, "of yesterday").unwrap();
        let mut file = WholeFile::create(&path).unwrap();
        file.put("of today");
        assert_eq!(fs::read_to_string(&path).unwrap(), "of yesterday");
        file.finish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "of today\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        WholeFile::create(Path::new("/dev/null")).unwrap().finish().unwrap();
        let file = WholeFile::create(&path).unwrap();
        fs::remove_file(file.beside.as_ref().unwrap()).unwrap();
        assert!(file.finish().unwrap_err().to_string().ends_with("as it is an earlier run's"));
        assert!(!path.exists(), "the file of another run passes for this one's");
        assert!(WholeFile::create(&folder).is_err() && WholeFile::create(&folder.join("no/x.xml")).is_err());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn links_are_followed_and_nothing_that_lies_in_the_way_is_written_to() {
        let folder = std::env::temp_dir().join(format!("ms5-links-{}", std::process::id()));
        fs::create_dir_all(folder.join("far")).unwrap();
        let (path, other) = (folder.join("report"), folder.join("precious"));
        symlink("far/report", &path).unwrap();
        fs::write(&other, "precious").unwrap();
        symlink(&other, folder.join(format!("far/report.{}.part", std::process::id()))).unwrap();
        for text in ["one", "two"] {
            let mut file = WholeFile::create(&path).unwrap();
            file.put(text);
            file.finish().unwrap();
            assert_eq!(fs::read_to_string(folder.join("far/report")).unwrap(), format!("{text}\n"));
            assert!(fs::symlink_metadata(&path).unwrap().is_symlink(), "the link is replaced");
        }
        assert_eq!(fs::read_to_string(&other).unwrap(), "precious");
        symlink("round", folder.join("round")).unwrap();
        assert!(WholeFile::create(&folder.join("round")).is_err());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_pipe_is_waited_for_and_stays_one() {
        let folder = std::env::temp_dir().join(format!("ms5-pipe-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("pipe");
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        let error = open_in_place(&path, true, Duration::ZERO).unwrap_err().to_string();
        assert!(error.contains("nobody reads that pipe"), "{error}");
        let reader = Command::new("wc").arg("-c").arg(&path).stdout(Stdio::piped()).spawn().unwrap();
        let mut file = WholeFile::create(&path).unwrap();
        file.put(&"x".repeat(1 << 20));
        file.finish().unwrap();
        assert!(
            String::from_utf8(reader.wait_with_output().unwrap().stdout).unwrap().starts_with("1048577 ")
        );
        assert!(fs::metadata(&path).unwrap().file_type().is_fifo());
        fs::remove_dir_all(folder).unwrap();
    }
}
