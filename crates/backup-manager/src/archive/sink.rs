//! A file of a backup as bytes: encrypted where that is asked for, and hashed as it gets to the disk. What is to be encrypted is
//! nowhere on it in the clear, not for a moment.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use age::stream::StreamWriter;
use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::Xxh3;

use super::{LOOK, Written, room};
use crate::folder::checksums::hex;
use crate::seal::Recipients;

/// A file that is being written.
pub(super) struct Sink {
    to: To,
    /// Bytes of clear text.
    offset: u64,
    looked: u64,
}

enum To {
    Clear(Hashed),
    Sealed(Box<StreamWriter<Hashed>>),
}

/// The file as it is on the disk.
struct Hashed {
    file: File,
    hash: Sha256,
    quick: Box<Xxh3>,
    bytes: u64,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        let written = bytes.get(..count).unwrap_or_default();
        self.hash.update(written);
        self.quick.update(written);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Sink {
    /// A new file, its owner's alone; encrypted where there are recipients.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn create(path: &Path, recipients: Option<&Recipients>) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let hashed = Hashed { file, hash: Sha256::new(), quick: Box::new(Xxh3::new()), bytes: 0 };
        let to = match recipients {
            None => To::Clear(hashed),
            Some(recipients) => To::Sealed(Box::new(recipients.seal(hashed)?)),
        };
        Ok(Self { to, offset: 0, looked: 0 })
    }

    /// Where in the clear text the next byte stands.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Adds bytes, as long as there is room for others on the file system of `path`.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn put(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        if self.offset >= self.looked {
            self.looked = self.offset + LOOK;
            room(path)?;
        }
        match &mut self.to {
            To::Clear(file) => file.write_all(bytes)?,
            To::Sealed(file) => file.write_all(bytes)?,
        }
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// Makes it durable; what it is on the disk.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn finish(self) -> io::Result<Written> {
        let Hashed { file, hash, quick, bytes } = match self.to {
            To::Clear(file) => file,
            To::Sealed(file) => file.finish()?,
        };
        file.sync_all()?;
        Ok(Written { members: Vec::new(), sha256: hex(&hash.finalize()), quick: quick.digest128(), bytes })
    }
}

/// Writes a small file that has no members.
///
/// # Errors
/// The system's.
pub(crate) fn small(path: &Path, recipients: Option<&Recipients>, text: &str) -> io::Result<Written> {
    let mut sink = Sink::create(path, recipients)?;
    sink.put(path, text.as_bytes())?;
    sink.finish()
}
