//! Members, written by any number of threads.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use flate2::Compression;
use flate2::write::GzEncoder;
use xxhash_rust::xxh3::xxh3_64;

use super::sink::Sink;
use super::{Reader, Tally};
use crate::folder::metadata::{Member, Stage};
use crate::seal::Recipients;

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
    sink: Sink,
    members: Vec<Member>,
}

/// A file that was written.
pub(crate) struct Written {
    pub(crate) members: Vec<Member>,
    pub(crate) sha256: String,
    /// xxh3 of the file.
    pub(crate) quick: u128,
    pub(crate) bytes: u64,
}

impl Archive {
    /// A new file, its owner's alone; encrypted where there are recipients.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn create(
        path: &Path,
        level: Option<u32>,
        recipients: Option<&Recipients>,
    ) -> io::Result<Self> {
        let sink = Sink::create(path, recipients)?;
        let state = State { gate: Gate::Closed, sink, members: Vec::new() };
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
        let offset = state.sink.offset();
        state.sink.put(&self.path, bytes)?;
        let length = state.sink.offset() - offset;
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
        let offset = state.sink.offset();
        let sink = Counted { sink: &mut state.sink, path: &self.path };
        let (raw, hash) = match self.level {
            None => Tally::of(sink).fill(fill)?,
            Some(level) => {
                let mut tally = Tally::of(GzEncoder::new(sink, Compression::new(level)));
                fill(&mut tally)?;
                tally.inner.try_finish()?;
                tally.sums()
            }
        };
        let length = state.sink.offset() - offset;
        let member = Member { file: 0, stage, table: None, range: None, offset, length, raw, rows: 0, hash };
        state.members.push(member);
        Ok(())
    }

    /// Adds a member of another file as it is stored there.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn append_stored(&self, reader: &Reader, member: &Member) -> io::Result<()> {
        let mut state = self.state();
        let offset = state.sink.offset();
        let mut sink = Counted { sink: &mut state.sink, path: &self.path };
        let length = io::copy(&mut reader.stored(member)?, &mut sink)?;
        if length != member.length {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a member ends early"));
        }
        state.members.push(Member { file: 0, offset, ..member.clone() });
        Ok(())
    }

    /// Makes it durable, and gives what is in it.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn finish(self) -> io::Result<Written> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let written = state.sink.finish()?;
        Ok(Written { members: state.members, ..written })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Counted<'a> {
    sink: &'a mut Sink,
    path: &'a Path,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sink.put(self.path, bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
