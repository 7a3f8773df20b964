//! Members, read back from any place, by any number of threads.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use age::stream::StreamReader;
use flate2::bufread::GzDecoder;
use xxhash_rust::xxh3::xxh3_64;

use super::{BLOCK, Tally};
use crate::folder::metadata::Member;
use crate::seal::{self, Key};

/// The files of a backup, read member by member, by any number of threads.
pub(crate) struct Reader(Vec<Part>);

/// One of the files.
struct Part {
    path: PathBuf,
    /// Bytes of its clear text.
    size: u64,
    text: Text,
    packed: bool,
}

/// Where its clear text is. A backup may have more files than a process may have open, so those in the clear, which pieces of
/// the store are, are opened anew for each read.
enum Text {
    Clear,
    /// Those that are opened and not in use; each is read by one thread at a time.
    Sealed(Key, Mutex<Vec<StreamReader<File>>>),
}

impl Part {
    fn open(path: &Path, key: Option<&Key>) -> io::Result<Self> {
        let file = File::open(path)?;
        let name = path.to_string_lossy();
        let packed = name.trim_end_matches(seal::ENDING).ends_with(".gz");
        let (size, text) = if seal::is_sealed(&name) {
            let key = key.ok_or_else(|| io::Error::other("it is encrypted, and there is no key"))?;
            let mut opened = key.open(file)?;
            (seal::length(&mut opened)?, Text::Sealed(key.clone(), Mutex::new(vec![opened])))
        } else {
            (file.metadata()?.len(), Text::Clear)
        };
        Ok(Self { path: path.to_owned(), size, text, packed })
    }

    /// Fills the buffer from that place.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let (key, opened) = match &self.text {
            Text::Clear => return File::open(&self.path)?.read_exact_at(buffer, offset),
            Text::Sealed(key, opened) => (key, opened),
        };
        let idle = || opened.lock().unwrap_or_else(PoisonError::into_inner);
        let one = idle().pop();
        let mut one = match one {
            Some(one) => one,
            None => key.open(File::open(&self.path)?)?,
        };
        one.seek(SeekFrom::Start(offset))?;
        one.read_exact(buffer)?;
        idle().push(one);
        Ok(())
    }

    /// A reader of its own, from that place.
    fn from(&self, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        let mut file = File::open(&self.path)?;
        Ok(match &self.text {
            Text::Clear => {
                file.seek(SeekFrom::Start(offset))?;
                Box::new(file)
            }
            Text::Sealed(key, _) => {
                let mut text = key.open(file)?;
                text.seek(SeekFrom::Start(offset))?;
                Box::new(text)
            }
        })
    }
}

impl Reader {
    /// Opens them, those that are encrypted with the key; members name them by their places.
    ///
    /// # Errors
    /// The system's, with the path.
    pub(crate) fn open(paths: &[PathBuf], key: Option<&Key>) -> io::Result<Self> {
        let part = |path: &PathBuf| {
            Part::open(path, key)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
        };
        paths.iter().map(part).collect::<io::Result<_>>().map(Self)
    }

    /// Bytes of clear text of the file at that place.
    pub(crate) fn size(&self, place: usize) -> Option<u64> {
        self.0.get(place).map(|part| part.size)
    }

    fn part(&self, member: &Member) -> io::Result<&Part> {
        let none = || io::Error::new(io::ErrorKind::InvalidData, format!("there is no file {}", member.file));
        self.0.get(member.file).ok_or_else(none)
    }

    /// The SQL of a member.
    ///
    /// # Errors
    /// The system's, or that it is not what its index says.
    pub(crate) fn member(&self, member: &Member) -> io::Result<Vec<u8>> {
        let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        let part = self.part(member)?;
        let size = part.size;
        if member.offset.checked_add(member.length).is_none_or(|end| end > size) {
            return Err(wrong(format!("it ends behind the file's end at {size}")));
        }
        let length = usize::try_from(member.length).map_err(|_| wrong("it is too long".to_owned()))?;
        let mut bytes = vec![0; length];
        part.read_at(&mut bytes, member.offset)?;
        let sql = if part.packed {
            let mut sql = Vec::with_capacity(usize::try_from(member.raw).unwrap_or(0).min(BLOCK * 2));
            let mut decoder = GzDecoder::new(bytes.as_slice());
            (&mut decoder).take(member.raw.saturating_add(1)).read_to_end(&mut sql)?;
            let rest = decoder.into_inner().len();
            if rest > 0 && sql.len() as u64 == member.raw {
                return Err(wrong(format!("{rest} bytes follow its end")));
            }
            sql
        } else {
            bytes
        };
        if sql.len() as u64 != member.raw {
            return Err(wrong(format!("it holds {} bytes of SQL instead of {}", sql.len(), member.raw)));
        }
        if xxh3_64(&sql) != member.hash {
            return Err(wrong("its SQL is not what was written".to_owned()));
        }
        Ok(sql)
    }

    /// The bytes of a member as they are stored.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn stored(&self, member: &Member) -> io::Result<impl Read + Send + use<>> {
        Ok(self.part(member)?.from(member.offset)?.take(member.length))
    }

    /// The SQL of a member that may be longer than memory.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn stream(&self, member: &Member) -> io::Result<Box<dyn Read + Send>> {
        let part = self.part(member)?;
        let bytes = BufReader::with_capacity(1 << 16, self.stored(member)?);
        Ok(if part.packed { Box::new(GzDecoder::new(bytes)) } else { Box::new(bytes) })
    }
}

/// Reads to the end; the length and the hash of what was read.
///
/// # Errors
/// The system's, or that it cannot be unpacked.
pub(crate) fn sums(mut from: impl Read) -> io::Result<(u64, u64)> {
    let mut tally = Tally::of(io::sink());
    io::copy(&mut from, &mut tally)?;
    Ok(tally.sums())
}
