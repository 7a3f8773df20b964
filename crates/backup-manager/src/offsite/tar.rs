//! A tar of plain files as GNU tar writes it, over any stream: block by block, hashed on its way, never more than a piece in memory.
//!
//! The crate's own writer puts the end of a tar behind whatever was written, also after an error, and its reader takes a stream
//! that stops between two members for a whole one. Both would hide a tar that was cut off; so only its headers are used here.

use std::fmt;
use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use crate::folder::checksums::hex;

/// What a tar is made of, in bytes.
const BLOCK: usize = 512;
/// How much is passed on at once.
const PIECE: usize = 1 << 18;
/// The longest path that is read; ours are shorter than 400 bytes.
const LONGEST: u64 = 4096;
/// How many zeros may follow a tar's end: programs fill up their last record.
const FILLING: u64 = 1 << 20;
/// The longest path that a header holds.
const SHORT: usize = 100;
/// The path of a member whose content is the path of the next one.
const LONG_LINK: &str = "././@LongLink";

/// A whole tar that went through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Whole {
    pub(super) sha256: String,
    pub(super) bytes: u64,
}

/// Why a file could not be put into a tar.
#[derive(Debug)]
pub(super) enum Unwritten {
    /// The file is not as it should be, or cannot be read.
    Source(io::Error),
    /// The tar cannot be written.
    Sink(io::Error),
}

/// Writes a tar. Dropped without [`Writer::finish`] it has no end, by which every reader knows that it is not whole.
pub(super) struct Writer<W> {
    out: W,
    modified: u64,
    hash: Sha256,
    bytes: u64,
    piece: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// A tar whose members all are of the same time, in seconds since 1970: the same files make the same bytes.
    pub(super) fn new(out: W, modified: u64) -> Self {
        Self { out, modified, hash: Sha256::new(), bytes: 0, piece: vec![0; PIECE] }
    }

    /// Adds a file of so many bytes; gives their sha256.
    ///
    /// # Errors
    /// Those of the file and of the tar, and that the file has more bytes, or fewer.
    pub(super) fn file(&mut self, path: &str, size: u64, mut from: impl Read) -> Result<String, Unwritten> {
        self.head(path, size)?;
        let mut hash = Sha256::new();
        let mut left = size;
        let mut piece = std::mem::take(&mut self.piece);
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE);
            let count = read_some(&mut from, &mut piece[..most]).map_err(Unwritten::Source)?;
            if count == 0 {
                return Err(wrong_size(format!("it has {} bytes instead of {size}", size - left)));
            }
            hash.update(&piece[..count]);
            self.put(&piece[..count])?;
            left -= count as u64;
        }
        if read_some(&mut from, &mut piece[..1]).map_err(Unwritten::Source)? > 0 {
            return Err(wrong_size(format!("it has more than {size} bytes")));
        }
        self.piece = piece;
        self.put(&[0; BLOCK][..padding(size)])?;
        Ok(hex(&hash.finalize()))
    }

    /// Writes the tar's end.
    ///
    /// # Errors
    /// That it cannot be written.
    pub(super) fn finish(mut self) -> Result<Whole, Unwritten> {
        self.put(&[0; 2 * BLOCK])?;
        self.out.flush().map_err(Unwritten::Sink)?;
        Ok(Whole { sha256: hex(&self.hash.finalize()), bytes: self.bytes })
    }

    fn head(&mut self, path: &str, size: u64) -> Result<(), Unwritten> {
        let mut header = self.header(size, EntryType::Regular);
        if header.set_path(path).is_err() {
            let length = path.len() as u64 + 1;
            let mut link = self.header(length, EntryType::GNULongName);
            link.set_path(LONG_LINK).map_err(Unwritten::Source)?;
            link.set_cksum();
            self.put(link.as_bytes())?;
            self.put(path.as_bytes())?;
            self.put(&[0; BLOCK + 1][..1 + padding(length)])?;
            let beginning: String = path.chars().take(20).collect();
            header.set_path(beginning).map_err(Unwritten::Source)?;
        }
        header.set_cksum();
        self.put(header.as_bytes())
    }

    fn header(&self, size: u64, kind: EntryType) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o600);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(self.modified);
        header
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Unwritten> {
        self.out.write_all(bytes).map_err(Unwritten::Sink)?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

fn wrong_size(what: String) -> Unwritten {
    Unwritten::Source(io::Error::new(io::ErrorKind::InvalidData, what))
}

/// Bytes of a tar with these files, before it is written.
pub(super) fn length<'a>(files: impl IntoIterator<Item = (&'a str, u64)>) -> u64 {
    let filled = |size: u64| size + padding(size) as u64;
    let block = BLOCK as u64;
    let member = |(path, size): (&str, u64)| {
        let link = if path.len() > SHORT { block + filled(path.len() as u64 + 1) } else { 0 };
        link + block + filled(size)
    };
    files.into_iter().map(member).sum::<u64>() + 2 * block
}

/// Why a tar could not be read.
#[derive(Debug)]
pub(super) enum Unread {
    /// It ends before its end, after so many bytes.
    CutOff(u64),
    /// It is not what is wanted, in words.
    Wrong(String),
    /// The stream cannot be read.
    Stream(io::Error),
}

impl fmt::Display for Unread {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CutOff(0) => out.write_str("nothing came"),
            Self::CutOff(bytes) => {
                write!(out, "the tar is cut off: it ends after {bytes} bytes, before its end")
            }
            Self::Wrong(what) => out.write_str(what),
            Self::Stream(error) => write!(out, "the tar cannot be read: {error}"),
        }
    }
}

/// A plain file in a tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) path: String,
    pub(super) size: u64,
}

/// Reads a tar that holds plain files alone.
pub(super) struct Reader<R> {
    from: R,
    hash: Sha256,
    bytes: u64,
    /// Of the member's content, what was not read yet.
    left: u64,
    /// What fills its last block.
    padding: usize,
    piece: Vec<u8>,
}

impl<R: Read> Reader<R> {
    /// Nothing is read yet.
    pub(super) fn new(from: R) -> Self {
        Self { from, hash: Sha256::new(), bytes: 0, left: 0, padding: 0, piece: vec![0; PIECE] }
    }

    /// The next member; None at the tar's end. The content of the one before must have been read.
    ///
    /// # Errors
    /// That the tar is cut off or damaged, or that the member is no plain file.
    pub(super) fn next(&mut self) -> Result<Option<Member>, Unread> {
        let Some(mut header) = self.header()? else { return Ok(None) };
        let mut path = header.path_bytes().into_owned();
        if header.entry_type() == EntryType::GNULongName {
            let size = size_of(&header)?;
            if size > LONGEST {
                return Err(Unread::Wrong(format!("a path of {size} bytes is in the tar")));
            }
            (self.left, self.padding) = (size, padding(size));
            path.clear();
            self.each(|piece| {
                path.extend_from_slice(piece);
                Ok(())
            })?;
            while path.last() == Some(&0) {
                path.pop();
            }
            header = self
                .header()?
                .ok_or_else(|| Unread::Wrong("a path without a member is in the tar".to_owned()))?;
        }
        let path = String::from_utf8(path).map_err(|error| {
            Unread::Wrong(format!("{:?} is no path", String::from_utf8_lossy(error.as_bytes())))
        })?;
        if header.entry_type() != EntryType::Regular {
            return Err(Unread::Wrong(format!("{path:?} is no plain file ({:?})", header.entry_type())));
        }
        let size = size_of(&header)?;
        (self.left, self.padding) = (size, padding(size));
        Ok(Some(Member { path, size }))
    }

    /// Hands out the content of the member that was asked for last, piece by piece.
    ///
    /// # Errors
    /// That the tar is cut off, and what `take` gives.
    pub(super) fn each<E: From<Unread>>(
        &mut self,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut piece = std::mem::take(&mut self.piece);
        while self.left > 0 {
            let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(PIECE);
            let count = self.fill(&mut piece[..most])?;
            if count == 0 {
                return Err(Unread::CutOff(self.bytes).into());
            }
            self.left -= count as u64;
            take(&piece[..count])?;
        }
        self.piece = piece;
        Ok(())
    }

    /// Reads on behind the end, to the end of the stream.
    ///
    /// # Errors
    /// That something follows.
    pub(super) fn finish(mut self) -> Result<Whole, Unread> {
        // The end is two blocks of zeros; the first was seen by `next`.
        if !self.block()?.iter().all(|byte| *byte == 0) {
            return Err(Unread::Wrong("something follows the end of the tar".to_owned()));
        }
        let mut filling = 0;
        let mut piece = std::mem::take(&mut self.piece);
        loop {
            let count = self.fill(&mut piece)?;
            if count == 0 {
                return Ok(Whole { sha256: hex(&self.hash.finalize()), bytes: self.bytes });
            }
            filling += count as u64;
            if filling > FILLING || piece[..count].iter().any(|byte| *byte != 0) {
                return Err(Unread::Wrong("something follows the end of the tar".to_owned()));
            }
        }
    }

    /// The next header; None for a block of zeros.
    fn header(&mut self) -> Result<Option<Header>, Unread> {
        let mut filling = [0; BLOCK];
        let padding = std::mem::take(&mut self.padding);
        self.exactly(&mut filling[..padding])?;
        if filling.iter().any(|byte| *byte != 0) {
            return Err(Unread::Wrong("something stands between two members of the tar".to_owned()));
        }
        let block = self.block()?;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let mut header = Header::new_old();
        header.as_mut_bytes().copy_from_slice(&block);
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(at, byte)| u32::from(if CHECKSUM.contains(&at) { b' ' } else { *byte }))
            .sum();
        match header.cksum() {
            Ok(wanted) if wanted == sum => Ok(Some(header)),
            _ => Err(Unread::Wrong(format!("this is no tar, or it is damaged before byte {}", self.bytes))),
        }
    }

    fn block(&mut self) -> Result<[u8; BLOCK], Unread> {
        let mut block = [0; BLOCK];
        self.exactly(&mut block)?;
        Ok(block)
    }

    fn exactly(&mut self, buffer: &mut [u8]) -> Result<(), Unread> {
        let mut at = 0;
        while at < buffer.len() {
            match self.fill(&mut buffer[at..])? {
                0 => return Err(Unread::CutOff(self.bytes)),
                count => at += count,
            }
        }
        Ok(())
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, Unread> {
        let count = read_some(&mut self.from, buffer).map_err(Unread::Stream)?;
        self.hash.update(&buffer[..count]);
        self.bytes += count as u64;
        Ok(count)
    }
}

/// Where a header's own sum stands in it; it counts as blanks.
const CHECKSUM: std::ops::Range<usize> = 148..156;

fn size_of(header: &Header) -> Result<u64, Unread> {
    header.entry_size().map_err(|error| Unread::Wrong(format!("a member of the tar has no size: {error}")))
}

/// What fills the last block of so many bytes.
fn padding(size: u64) -> usize {
    // Below a block, so it fits.
    usize::try_from(size.wrapping_neg() % BLOCK as u64).unwrap_or(0)
}

fn read_some(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match from.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn tar(files: &[(&str, &[u8])]) -> (Vec<u8>, Whole) {
        let mut out = Vec::new();
        let mut writer = Writer::new(&mut out, 1_700_000_000);
        for (path, bytes) in files {
            let sum = writer.file(path, bytes.len() as u64, *bytes).unwrap();
            assert_eq!(sum, crate::folder::checksums::hex_of(bytes));
        }
        let whole = writer.finish().unwrap();
        (out, whole)
    }

    type Files = Vec<(String, Vec<u8>)>;

    fn read(bytes: &[u8]) -> Result<(Files, Whole), Unread> {
        let mut reader = Reader::new(bytes);
        let mut files = Vec::new();
        while let Some(member) = reader.next()? {
            let mut content = Vec::new();
            reader.each::<Unread>(|piece| {
                content.extend_from_slice(piece);
                Ok(())
            })?;
            assert_eq!(content.len() as u64, member.size);
            files.push((member.path, content));
        }
        Ok((files, reader.finish()?))
    }

    /// Around a block, a piece, and a path that no header holds.
    fn files() -> Files {
        let mut files = vec![("vor-Änderung@2/metadata.json".to_owned(), b"{}".to_vec())];
        for size in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, PIECE, PIECE + 1] {
            files.push((format!("{}/{size}", "x".repeat(85 + size % 200)), vec![b'a'; size]));
        }
        for length in [SHORT - 1, SHORT, SHORT + 1] {
            files.push((
                format!("{length}/{}", "y".repeat(length - length.to_string().len() - 1)),
                b"y".to_vec(),
            ));
        }
        files
    }

    #[test]
    fn what_is_written_is_read_by_us_and_by_tar() {
        let files = files();
        let list: Vec<(&str, &[u8])> =
            files.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
        let (bytes, whole) = tar(&list);
        assert_eq!(bytes.len() as u64, whole.bytes);
        assert_eq!(length(list.iter().map(|(path, bytes)| (*path, bytes.len() as u64))), whole.bytes);
        assert_eq!(tar(&list), (bytes.clone(), whole.clone()), "the same files make the same tar");
        let (ours, seen) = read(&bytes).unwrap();
        assert_eq!((ours, seen), (files.clone(), whole));
        let folder = std::env::temp_dir().join(format!("ms5-tar-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut child =
            Command::new("tar").args(["-xf", "-", "-C"]).arg(&folder).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        assert!(child.wait().unwrap().success());
        for (path, content) in files {
            assert_eq!(std::fs::read(folder.join(path)).unwrap(), content);
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_tar_that_ends_anywhere_else_than_at_its_end_is_cut_off() {
        let (bytes, _) = tar(&[("a/b", b"content"), (&format!("{}/c", "d".repeat(120)), &[7; 600])]);
        for end in 0..bytes.len() {
            let cut = read(&bytes[..end]).unwrap_err();
            assert!(matches!(cut, Unread::CutOff(at) if at == end as u64), "{end}: {cut}");
        }
        // The padding of other programs is no garbage.
        assert!(read(&[&bytes[..], &[0; 10_240]].concat()).is_ok());
        for garbage in [&b"x"[..], &[0; 2 << 20], &bytes] {
            assert!(matches!(read(&[&bytes[..], garbage].concat()), Err(Unread::Wrong(_))));
        }
    }

    #[test]
    fn a_changed_byte_is_wrong_or_changes_what_is_read() {
        let (bytes, whole) = tar(&[("a/b", b"content"), ("a/c", &[7; 600])]);
        let files = read(&bytes).unwrap().0;
        for at in 0..bytes.len() {
            for change in [1, 0x20, 0x80] {
                let mut changed = bytes.clone();
                changed[at] ^= change;
                if let Ok((read, seen)) = read(&changed) {
                    let in_sum = CHECKSUM.contains(&(at % BLOCK));
                    assert!(read != files || in_sum, "byte {at}");
                    assert_ne!(seen.sha256, whole.sha256);
                }
            }
        }
    }

    #[test]
    fn only_plain_files_are_read() {
        for kind in [
            EntryType::Link,
            EntryType::Symlink,
            EntryType::Char,
            EntryType::Block,
            EntryType::Directory,
            EntryType::Fifo,
            EntryType::GNUSparse,
            EntryType::XHeader,
            EntryType::XGlobalHeader,
        ] {
            let mut header = Header::new_gnu();
            header.set_entry_type(kind);
            header.set_path("a/b").unwrap();
            header.set_size(0);
            header.set_cksum();
            let bytes = [&header.as_bytes()[..], &[0; 1024]].concat();
            let error = read(&bytes).unwrap_err().to_string();
            assert!(error.contains("\"a/b\" is no plain file"), "{error}");
        }
        // A path that would fill the memory, and one that leads to another.
        let mut link = Header::new_gnu();
        link.set_entry_type(EntryType::GNULongName);
        link.set_path(LONG_LINK).unwrap();
        link.set_size(1 << 40);
        link.set_cksum();
        assert!(matches!(read(link.as_bytes()), Err(Unread::Wrong(_))));
        link.set_size(2);
        link.set_cksum();
        let mut path = [0; BLOCK];
        path[0] = b'x';
        let twice = [&link.as_bytes()[..], &path, link.as_bytes(), &path, &[0; 1024]].concat();
        assert!(matches!(read(&twice), Err(Unread::Wrong(_))));
    }

    #[test]
    fn a_file_that_is_not_as_long_as_was_said_is_not_written() {
        for size in [6, 8] {
            let mut writer = Writer::new(Vec::new(), 0);
            assert!(matches!(writer.file("a", size, &b"content"[..]), Err(Unwritten::Source(_))));
        }
        let mut large = Writer::new(Vec::new(), 0);
        let size = 9 << 30;
        assert!(large.head("a", size).is_ok());
        assert_eq!(Reader::new(large.out.as_slice()).next().unwrap().unwrap().size, size);
    }
}
