//! A file that has its name once it is whole: what was there before stays until then, and half a file is never taken for one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

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

impl WholeFile {
    /// Begins it.
    ///
    /// # Errors
    /// The system's.
    pub fn create(path: &Path) -> io::Result<Self> {
        if fs::metadata(path).is_ok_and(|there| !there.is_file() && !there.is_dir()) {
            let file = OpenOptions::new().write(true).open(path)?;
            return Ok(Self { file, path: path.to_owned(), beside: None, failed: None });
        }
        if path.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        name.push(format!(".{}.part", std::process::id()));
        let beside = path.with_file_name(name);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        Ok(Self { file, path: path.to_owned(), beside: Some(beside), failed: None })
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
    /// The path and the system's, whatever could not be written; nothing of it is left then.
    pub fn finish(self) -> Result<(), (PathBuf, io::Error)> {
        let Self { file, path, beside, failed } = self;
        let Some(beside) = beside else {
            return failed.map_or(Ok(()), |error| Err((path, error)));
        };
        let done = match failed {
            Some(error) => Err(error),
            None => file.sync_all().and_then(|()| fs::rename(&beside, &path)),
        };
        done.map_err(|error| {
            let _ = fs::remove_file(&beside);
            (path, error)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

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
        assert!(WholeFile::create(&folder).is_err() && WholeFile::create(&folder.join("no/x.xml")).is_err());
        fs::remove_dir_all(folder).unwrap();
    }
}
