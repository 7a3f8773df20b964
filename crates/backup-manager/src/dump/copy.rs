//! Rows: read by COPY over several sessions, cut at row ends into blocks, each of which becomes a member.

use std::collections::BTreeMap;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::progress::{self, Line};
use ms5_common::timescale::hypertables::Chunk;
use sha2::{Digest, Sha256};

use super::pieces::Pieces;
use crate::archive::{Archive, BLOCK};
use crate::args::own;
use crate::folder::metadata::{Stage, Table};
use crate::rows::RowSum;
use crate::sessions::{Session, failed, stopped};
use crate::sqltext::{ROWS_END, rows_begin};
use crate::words::{bytes, count};

/// Why a COPY ended early.
enum Stop {
    Server(postgres::Error),
    File(io::Error),
    Signal(Error),
    /// Another session has failed.
    Other,
}

impl From<postgres::Error> for Stop {
    fn from(error: postgres::Error) -> Self {
        Self::Server(error)
    }
}

/// How far the rows are, for whoever shows it.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Bytes of rows read.
    pub(crate) bytes: AtomicU64,
    pub(crate) rows: AtomicU64,
    /// Somebody has failed: the others end as well.
    stop: AtomicBool,
}

/// Rows that one session reads: of a table, or of a part of it.
pub(super) struct Read<'a> {
    /// The table's number in `tables`.
    pub(super) number: usize,
    pub(super) table: &'a Table,
    /// What COPY ... TO reads.
    pub(super) source: String,
    /// The table or chunk that its rows lie in.
    pub(super) relation: String,
    /// How many bytes it takes on the server.
    pub(super) bytes: u64,
    pub(super) form: Form,
}

impl Read<'_> {
    /// The COPY.
    pub(super) fn sql(&self) -> String {
        let options = if self.form == Form::Sql { "" } else { " WITH (FORMAT csv)" };
        format!("COPY {} TO STDOUT{options}", self.source)
    }

    /// The stretch of time that its members are of, where that is known.
    pub(super) fn range(&self) -> Option<(i64, i64)> {
        match self.form {
            Form::Sql => None,
            Form::Csv(_, range) => range,
        }
    }
}

/// How rows stand in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Behind a COPY, in the text that it has by itself.
    Sql,
    /// By themselves, in the archive of that number, of that stretch of time where it is known.
    Csv(usize, Option<(i64, i64)>),
}

/// Tables as they are stored, each by itself; `first` is the number of the first.
pub(super) fn whole(tables: &[(Table, u64)], first: usize) -> Vec<Read<'_>> {
    let numbered = (first..).zip(tables);
    numbered
        .map(|(number, (table, bytes))| Read {
            number,
            table,
            source: table.source(),
            relation: table.name.clone(),
            bytes: *bytes,
            form: Form::Sql,
        })
        .collect()
}

/// A table as SELECT gives it: chunk by chunk, so that all sessions have work (a compressed chunk gives its rows to a SELECT),
/// and what lies in itself, which takes `bytes`. `form` is asked for each chunk, and once without one.
pub(super) fn selected<'a>(
    number: usize,
    table: &'a Table,
    bytes: u64,
    chunks: &[Chunk],
    form: impl Fn(Option<&Chunk>) -> Form,
) -> Vec<Read<'a>> {
    let itself = Read {
        number,
        table,
        source: table.source_of(&format!("ONLY {}", table.name)),
        relation: table.name.clone(),
        bytes,
        form: form(None),
    };
    let of_it = chunks.iter().filter(|chunk| chunk.hypertable == table.name);
    of_it
        .map(|chunk| Read {
            number,
            table,
            source: table.source_of(&chunk.table),
            relation: chunk.table.clone(),
            bytes: chunk.bytes,
            form: form(Some(chunk)),
        })
        .chain([itself])
        .collect()
}

/// The largest first, so that no session is left alone with one at the end.
pub(super) fn largest_first(mut reads: Vec<Read<'_>>) -> Vec<Read<'_>> {
    reads.sort_by_key(|read| std::cmp::Reverse(read.bytes));
    reads
}

/// Reads one into the archive; `hash` is of the rows' text.
///
/// # Errors
/// What the server or the disk says, or a signal's exit.
pub(super) fn read(
    session: &mut Session,
    read: &Read<'_>,
    stage: Stage,
    archive: &Archive,
    progress: &Progress,
    mut hash: Option<&mut Sha256>,
) -> Result<RowSum> {
    let Read { number, table, form, .. } = read;
    let range = read.range();
    let (begin, end) = match form {
        Form::Sql => (rows_begin(table), ROWS_END),
        Form::Csv(..) => (String::new(), ""),
    };
    let mut sum = RowSum::default();
    let mut block: Vec<u8> = Vec::with_capacity(BLOCK + (BLOCK >> 3));
    block.extend_from_slice(begin.as_bytes());
    let mut flush = |block: &mut Vec<u8>, sum: &mut RowSum| -> std::result::Result<(), Stop> {
        if block.len() == begin.len() {
            return Ok(());
        }
        stopped().map_err(Stop::Signal)?;
        if progress.stop.load(Ordering::Relaxed) {
            return Err(Stop::Other);
        }
        let mut part = RowSum::default();
        let rows = block.get(begin.len()..).unwrap_or_default();
        match form {
            Form::Sql => part.add(rows),
            Form::Csv(..) => part.add_csv(rows),
        }
        if let Some(hash) = &mut hash {
            hash.update(rows);
        }
        progress.bytes.fetch_add(rows.len() as u64, Ordering::Relaxed);
        progress.rows.fetch_add(part.rows, Ordering::Relaxed);
        block.extend_from_slice(end.as_bytes());
        archive.append_part(stage, Some(*number), part.rows, range, block).map_err(Stop::File)?;
        sum.join(part);
        block.truncate(begin.len());
        // A row of hundreds of megabytes needs its room once.
        block.shrink_to(BLOCK * 2);
        Ok(())
    };
    let mut take = |data: &[u8]| {
        block.extend_from_slice(data);
        // Only whole rows come, so a block ends with one.
        if block.len() >= BLOCK && data.ends_with(b"\n") { flush(&mut block, &mut sum) } else { Ok(()) }
    };
    let done = session.client.copy_out(&read.sql(), &mut take).and_then(|()| flush(&mut block, &mut sum));
    match done {
        Ok(()) => Ok(sum),
        Err(stop) => {
            session.give_up();
            Err(match stop {
                Stop::Server(error) => failed(&format!("read the rows of {}", table.name), &error),
                Stop::File(error) => cannot_write(&error),
                Stop::Signal(error) => error,
                // Whose failure is told, for it came first.
                Stop::Other => Error::new(Exit::Failed, "another session has failed"),
            })
        }
    }
}

/// Adds a member that holds no rows.
///
/// # Errors
/// What the disk says.
pub(super) fn put(archive: &Archive, stage: Stage, sql: &str) -> Result<()> {
    archive.append(stage, None, 0, sql.as_bytes()).map_err(|error| cannot_write(&error))
}

/// That the backup's file cannot be written.
pub(crate) fn cannot_write(error: &io::Error) -> Error {
    let failure = Error::new(Exit::Failed, "cannot write the backup").because(error);
    let full = matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    );
    let failure = failure.because("nothing of it is kept; the backups that were there are untouched");
    if full {
        failure.hint(format!("make room ({} clean), or write elsewhere: --backup-dir=DIR", own()))
    } else {
        failure.hint("look at the file system of --backup-dir")
    }
}

/// Reads all, as [`all`] does, with a line that shows how far it is.
///
/// # Errors
/// Those of [`all`].
pub(super) fn all_shown(
    sessions: Vec<Session>,
    reads: &[Read<'_>],
    archives: &[Archive],
    pieces: Option<&Pieces<'_>>,
) -> Result<BTreeMap<usize, RowSum>> {
    let progress = Progress::default();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        if progress::shown() {
            scope.spawn(|| show(&progress, reads, &done));
        }
        let rows = all(sessions, reads, archives, pieces, &progress);
        done.store(true, Ordering::Relaxed);
        rows
    })
}

/// Reads all over all sessions into the archives, each session the next one that nobody has; what was read, by the tables' numbers.
///
/// # Errors
/// The first failure; the others end early.
fn all(
    sessions: Vec<Session>,
    reads: &[Read<'_>],
    archives: &[Archive],
    pieces: Option<&Pieces<'_>>,
    progress: &Progress,
) -> Result<BTreeMap<usize, RowSum>> {
    let next = AtomicUsize::new(0);
    let first = OnceLock::new();
    let work = |mut session: Session| -> Result<Vec<(usize, RowSum)>> {
        let mut sums = Vec::new();
        let mut pages = pieces.map(Pieces::session).transpose()?.flatten();
        while !progress.stop.load(Ordering::Relaxed) {
            let Some(wanted) = reads.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            let (place, stage) = match wanted.form {
                Form::Sql => (0, Stage::Table),
                Form::Csv(place, _) => (place, Stage::Csv),
            };
            let done = match pieces.filter(|pieces| pieces.wants(wanted)) {
                Some(pieces) => pieces.take(&mut session, pages.as_mut(), wanted, stage, progress),
                None => read(&mut session, wanted, stage, &archives[place], progress, None),
            };
            sums.push((wanted.number, done?));
        }
        Ok(sums)
    };
    let run = |session: Session| {
        work(session).unwrap_or_else(|error| {
            let _ = first.set(error);
            progress.stop.store(true, Ordering::Relaxed);
            Vec::new()
        })
    };
    let results: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = sessions.into_iter().map(|session| scope.spawn(|| run(session))).collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    if let Some(error) = first.into_inner() {
        return Err(error);
    }
    let mut sums: BTreeMap<usize, RowSum> = BTreeMap::new();
    for (number, sum) in results.into_iter().flatten() {
        sums.entry(number).or_default().join(sum);
    }
    Ok(sums)
}

/// A line on a terminal: how much is read, how fast, and how long it may still take.
fn show(progress: &Progress, reads: &[Read<'_>], done: &AtomicBool) {
    let total: u64 = reads.iter().map(|read| read.bytes).sum();
    let line = Line::new();
    line.begin("rows");
    let begun = Instant::now();
    while !done.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(200));
        let read = progress.bytes.load(Ordering::Relaxed);
        let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = read.saturating_mul(1000) / milliseconds;
        let left = total.saturating_sub(read) / rate.max(1);
        line.update(&format!(
            "{} rows, {} of about {}, {}/s, about {left} s left",
            count(progress.rows.load(Ordering::Relaxed)),
            bytes(read),
            bytes(total),
            bytes(rate)
        ));
    }
}
