//! The file of a backup: members one behind the other, each a gzip file of its own that any gunzip reads, in any order of
//! writing; and members read back.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::folder::checksums::hex;
use crate::folder::metadata::{Member, Stage};

/// About how many bytes of rows make a member.
pub(crate) const BLOCK: usize = 4 << 20;
/// How often the free space is looked at, in bytes written.
pub(crate) const LOOK: u64 = 64 << 20;
/// What is left to others on the file system.
pub(crate) const RESERVE: u64 = 32 << 20;

/// A file that is being written.
pub(crate) struct Archive {
    path: PathBuf,
    /// None: no compression.
    level: Option<u32>,
    state: Mutex<State>,
    /// Told when the gate moves.
    gate: Condvar,
}

/// Whether rows of tables may be added: they stand behind what they need, and may be read before that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    Closed,
    Open,
    /// What stands before the rows could not be written.
    GivenUp,
}

/// Whoever writes what stands before the rows: they wait until it is opened, and fail when it is dropped before.
pub(crate) struct RowsGate<'a>(&'a Archive);

impl RowsGate<'_> {
    /// Lets the rows in.
    pub(crate) fn open(self) {
        self.0.move_gate(Gate::Open);
    }
}

impl Drop for RowsGate<'_> {
    fn drop(&mut self) {
        self.0.move_gate(Gate::GivenUp);
    }
}

struct State {
    gate: Gate,
    file: File,
    hash: Sha256,
    offset: u64,
    looked: u64,
    members: Vec<Member>,
}

/// A file that was written.
pub(crate) struct Written {
    pub(crate) members: Vec<Member>,
    pub(crate) sha256: String,
    pub(crate) bytes: u64,
}

impl Archive {
    /// A new file, its owner's alone.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn create(path: &Path, level: Option<u32>) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let state = State {
            gate: Gate::Closed,
            file,
            hash: Sha256::new(),
            offset: 0,
            looked: 0,
            members: Vec::new(),
        };
        Ok(Self { path: path.to_owned(), level, state: Mutex::new(state), gate: Condvar::new() })
    }

    /// What opens the archive for the rows of tables.
    pub(crate) fn rows_gate(&self) -> RowsGate<'_> {
        RowsGate(self)
    }

    /// Once it is open, it stays so.
    fn move_gate(&self, to: Gate) {
        let mut state = self.state();
        if state.gate == Gate::Closed {
            state.gate = to;
        }
        self.gate.notify_all();
    }

    /// Adds a member that holds `sql`, compressed by the thread that calls; nothing where it is empty. Rows of tables wait for
    /// [`RowsGate::open`].
    ///
    /// # Errors
    /// The system's, a full disk among them; that the gate was given up.
    pub(crate) fn append(&self, stage: Stage, table: Option<usize>, rows: u64, sql: &[u8]) -> io::Result<()> {
        self.append_part(stage, table, rows, None, sql)
    }

    /// The same for rows of a stretch of time.
    ///
    /// # Errors
    /// As above.
    pub(crate) fn append_part(
        &self,
        stage: Stage,
        table: Option<usize>,
        rows: u64,
        range: Option<(i64, i64)>,
        sql: &[u8],
    ) -> io::Result<()> {
        if sql.is_empty() {
            return Ok(());
        }
        let packed;
        let bytes = match self.level {
            None => sql,
            Some(level) => {
                let mut encoder = GzEncoder::new(Vec::with_capacity(sql.len() / 4), Compression::new(level));
                encoder.write_all(sql)?;
                packed = encoder.finish()?;
                &packed
            }
        };
        let mut state = self.state();
        if stage == Stage::Table {
            state = self
                .gate
                .wait_while(state, |state| state.gate == Gate::Closed)
                .unwrap_or_else(PoisonError::into_inner);
            if state.gate == Gate::GivenUp {
                return Err(io::Error::other("what stands before the rows could not be written"));
            }
        }
        let offset = state.offset;
        state.put(&self.path, bytes)?;
        let length = state.offset - offset;
        let raw = sql.len() as u64;
        let member = Member { file: 0, stage, table, range, offset, length, raw, rows, hash: xxh3_64(sql) };
        state.members.push(member);
        Ok(())
    }

    /// Adds a member whose SQL is written bit by bit; no other can be added meanwhile.
    ///
    /// # Errors
    /// The system's, or what `fill` gives.
    pub(crate) fn append_stream(
        &self,
        stage: Stage,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut state = self.state();
        let offset = state.offset;
        let sink = Counted { state: &mut state, path: &self.path };
        let (raw, hash) = match self.level {
            None => Tally::of(sink).fill(fill)?,
            Some(level) => {
                let mut tally = Tally::of(GzEncoder::new(sink, Compression::new(level)));
                fill(&mut tally)?;
                tally.inner.try_finish()?;
                tally.sums()
            }
        };
        let length = state.offset - offset;
        let member = Member { file: 0, stage, table: None, range: None, offset, length, raw, rows: 0, hash };
        state.members.push(member);
        Ok(())
    }

    /// Makes it durable, and gives what is in it.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn finish(self) -> io::Result<Written> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        state.file.sync_all()?;
        Ok(Written { members: state.members, sha256: hex(&state.hash.finalize()), bytes: state.offset })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn put(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        if self.offset >= self.looked {
            self.looked = self.offset + LOOK;
            room(path)?;
        }
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.offset += bytes.len() as u64;
        Ok(())
    }
}

/// Leaves others what they need of a file system; asked for every [`LOOK`] bytes that are written.
///
/// # Errors
/// That it is as good as full.
pub(crate) fn room(path: &Path) -> io::Result<()> {
    if free(path).is_some_and(|free| free < RESERVE) {
        return Err(io::Error::new(io::ErrorKind::StorageFull, "less than 32 MiB are left"));
    }
    Ok(())
}

/// What an ordinary user can still write there.
pub(crate) fn free(path: &Path) -> Option<u64> {
    let there = path.ancestors().find(|above| above.exists())?;
    let stat = rustix::fs::statvfs(there).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

struct Counted<'a> {
    state: &'a mut State,
    path: &'a Path,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.state.put(self.path, bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Counts and hashes what goes through.
struct Tally<W> {
    inner: W,
    count: u64,
    hash: Xxh3,
}

impl<W: Write> Tally<W> {
    fn of(inner: W) -> Self {
        Self { inner, count: 0, hash: Xxh3::new() }
    }

    fn sums(&self) -> (u64, u64) {
        (self.count, self.hash.digest())
    }

    fn fill(mut self, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<(u64, u64)> {
        fill(&mut self)?;
        Ok(self.sums())
    }
}

impl<W: Write> Write for Tally<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.count += count as u64;
        self.hash.update(bytes.get(..count).unwrap_or_default());
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The files of a backup, read member by member, by any number of threads.
pub(crate) struct Reader(Vec<Part>);

/// One of the files.
struct Part {
    path: PathBuf,
    file: File,
    packed: bool,
}

impl Reader {
    /// Opens them; members name them by their places.
    ///
    /// # Errors
    /// The system's, with the path.
    pub(crate) fn open(paths: &[PathBuf]) -> io::Result<Self> {
        let part = |path: &PathBuf| {
            let file = File::open(path)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
            let packed = path.extension().is_some_and(|end| end == "gz");
            Ok(Part { path: path.clone(), file, packed })
        };
        paths.iter().map(part).collect::<io::Result<_>>().map(Self)
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
        let Part { file, packed, .. } = self.part(member)?;
        let size = file.metadata()?.len();
        if member.offset.checked_add(member.length).is_none_or(|end| end > size) {
            return Err(wrong(format!("it ends behind the file's end at {size}")));
        }
        let length = usize::try_from(member.length).map_err(|_| wrong("it is too long".to_owned()))?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, member.offset)?;
        let sql = if *packed {
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

    /// The SQL of a member that may be longer than memory.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn stream(&self, member: &Member) -> io::Result<Box<dyn Read + Send>> {
        let Part { path, packed, .. } = self.part(member)?;
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(member.offset))?;
        let bytes = BufReader::with_capacity(1 << 16, file.take(member.length));
        Ok(if *packed { Box::new(GzDecoder::new(bytes)) } else { Box::new(bytes) })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn file(level: Option<u32>) -> (PathBuf, Vec<Member>) {
        let end = if level.is_some() { "sql.gz" } else { "sql" };
        let path = std::env::temp_dir().join(format!("ms5-archive-{}-{level:?}.{end}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let archive = Archive::create(&path, level).unwrap();
        // The rows are there first, and stand behind what they need.
        std::thread::scope(|scope| {
            let gate = archive.rows_gate();
            let rows = scope.spawn(|| archive.append(Stage::Table, Some(0), 2, b"1\n2\n"));
            std::thread::sleep(std::time::Duration::from_millis(50));
            archive.append(Stage::Begin, None, 0, b"begin\n").unwrap();
            gate.open();
            rows.join().unwrap().unwrap();
        });
        archive.append(Stage::Sequences, None, 0, b"").unwrap();
        archive.append_stream(Stage::LargeObjects, |out| out.write_all(b"large")).unwrap();
        let written = archive.finish().unwrap();
        assert_eq!(written.bytes, path.metadata().unwrap().len());
        assert_eq!(written.members.len(), 3, "an empty member is none");
        (path, written.members)
    }

    #[test]
    fn rows_do_not_wait_for_what_will_not_come() {
        let path = std::env::temp_dir().join(format!("ms5-archive-gate-{}.sql", std::process::id()));
        let archive = Archive::create(&path, None).unwrap();
        std::thread::scope(|scope| {
            let gate = archive.rows_gate();
            let rows = scope.spawn(|| archive.append(Stage::Table, Some(0), 1, b"1\n"));
            drop(gate);
            assert!(rows.join().unwrap().is_err());
        });
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn members_are_read_back_and_the_whole_is_one_text() {
        for level in [Some(1), Some(6), None] {
            let (path, members) = file(level);
            let reader = Reader::open(std::slice::from_ref(&path)).unwrap();
            let texts: Vec<Vec<u8>> = members.iter().map(|member| reader.member(member).unwrap()).collect();
            assert_eq!(texts.concat(), b"begin\n1\n2\nlarge");
            let mut text = String::new();
            assert_eq!(members[2].hash, xxh3_64(b"large"));
            reader.stream(&members[2]).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "large");
            if level.is_some() {
                let mut all = String::new();
                let whole = BufReader::new(File::open(&path).unwrap());
                flate2::bufread::MultiGzDecoder::new(whole).read_to_string(&mut all).unwrap();
                assert_eq!(all, "begin\n1\n2\nlarge");
            }
            for wrong in [
                Member { raw: members[1].raw + 1, ..members[1].clone() },
                Member { raw: members[1].raw - 1, ..members[1].clone() },
                Member { length: 1 << 40, ..members[1].clone() },
                Member { hash: members[1].hash ^ 1, ..members[1].clone() },
            ] {
                assert!(reader.member(&wrong).is_err(), "{wrong:?}");
            }
            std::fs::remove_file(path).unwrap();
        }
    }
}
