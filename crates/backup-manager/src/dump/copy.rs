//! Rows: read by COPY over several sessions, cut at row ends into blocks, each of which becomes a member.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;

use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;

use crate::archive::{Archive, BLOCK};
use crate::folder::metadata::{Stage, Table};
use crate::rows::RowSum;
use crate::sessions::{Session, failed, stopped};
use crate::sqltext::{ROWS_END, rows_begin};

/// Why a COPY ended early.
enum Stop {
    Server(postgres::Error),
    File(io::Error),
    Signal(Error),
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
}

/// Reads one table into the archive.
///
/// # Errors
/// What the server or the disk says, or a signal's exit.
pub(crate) fn table(
    session: &mut Session,
    table: &Table,
    stage: Stage,
    number: usize,
    archive: &Archive,
    progress: &Progress,
) -> Result<RowSum> {
    let begin = rows_begin(table);
    let mut sum = RowSum::default();
    let mut block: Vec<u8> = Vec::with_capacity(BLOCK + (BLOCK >> 3));
    block.extend_from_slice(begin.as_bytes());
    let flush = |block: &mut Vec<u8>, sum: &mut RowSum| -> std::result::Result<(), Stop> {
        if block.len() == begin.len() {
            return Ok(());
        }
        stopped().map_err(Stop::Signal)?;
        let mut part = RowSum::default();
        let rows = block.get(begin.len()..).unwrap_or_default();
        part.add(rows);
        progress.bytes.fetch_add(rows.len() as u64, Ordering::Relaxed);
        progress.rows.fetch_add(part.rows, Ordering::Relaxed);
        block.extend_from_slice(ROWS_END.as_bytes());
        archive.append(stage, Some(number), part.rows, block).map_err(Stop::File)?;
        sum.join(part);
        block.truncate(begin.len());
        // A row of hundreds of megabytes needs its room once.
        block.shrink_to(BLOCK * 2);
        Ok(())
    };
    let sql = format!("COPY {} TO STDOUT", table.source());
    let mut take = |data: &[u8]| {
        block.extend_from_slice(data);
        // Only whole rows come, so a block ends with one.
        if block.len() >= BLOCK && data.ends_with(b"\n") { flush(&mut block, &mut sum) } else { Ok(()) }
    };
    let done = session.client.copy_out(&sql, &mut take).and_then(|()| flush(&mut block, &mut sum));
    match done {
        Ok(()) => Ok(sum),
        Err(stop) => {
            session.give_up();
            Err(match stop {
                Stop::Server(error) => failed(&format!("read the rows of {}", table.name), &error),
                Stop::File(error) => cannot_write(&error),
                Stop::Signal(error) => error,
            })
        }
    }
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
        failure.hint("make room (backup-manager clean), or write elsewhere: --backup-dir=DIR")
    } else {
        failure.hint("look at the file system of --backup-dir")
    }
}

/// Reads all tables over all sessions, each the next one that nobody has; what each holds, by its number.
///
/// # Errors
/// The first failure; the others end early.
pub(crate) fn all(
    sessions: Vec<Session>,
    tables: &[(Table, u64)],
    first_number: usize,
    archive: &Archive,
    progress: &Progress,
) -> Result<Vec<RowSum>> {
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let work = |mut session: Session| -> Result<Vec<(usize, RowSum)>> {
        let mut sums = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some((wanted, _)) = tables.get(number) else { break };
            match table(&mut session, wanted, Stage::Table, first_number + number, archive, progress) {
                Ok(sum) => sums.push((number, sum)),
                Err(error) => {
                    stop.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
        Ok(sums)
    };
    let results: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = sessions.into_iter().map(|session| scope.spawn(|| work(session))).collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let mut sums = vec![RowSum::default(); tables.len()];
    for result in results {
        for (number, sum) in result? {
            sums[number] = sum;
        }
    }
    Ok(sums)
}
