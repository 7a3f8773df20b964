//! What a terminal shows while a tar goes through.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use ms5_common::progress::{self, Line};

use crate::words::bytes;

/// How often the line is redrawn.
const OFTEN: Duration = Duration::from_millis(200);

/// How much has gone through, of how much.
pub(super) struct Meter {
    line: Line,
    done: u64,
    total: u64,
    begun: Instant,
    shown: Instant,
}

impl Meter {
    /// Begins with nothing.
    pub(super) fn new(what: &str) -> Self {
        let line = Line::new();
        line.begin(what);
        Self { line, done: 0, total: 0, begun: Instant::now(), shown: Instant::now() }
    }

    /// Says how much there will be.
    pub(super) fn of(&mut self, total: u64) {
        self.total = total;
    }

    /// Adds what has gone through.
    pub(super) fn add(&mut self, count: usize) {
        self.done += count as u64;
        if progress::shown() && self.shown.elapsed() >= OFTEN {
            self.shown = Instant::now();
            let milliseconds = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
            let rate = self.done.saturating_mul(1000) / milliseconds;
            self.line.update(&format!("{} of {}, {}/s", bytes(self.done), bytes(self.total), bytes(rate)));
        }
    }
}

/// A file whose bytes are counted while they are read.
pub(super) struct Metered<'a, R>(pub(super) R, pub(super) &'a mut Meter);

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        self.1.add(count);
        Ok(count)
    }
}
