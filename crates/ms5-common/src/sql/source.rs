//! The text of one file that is being fed to the splitter, cut into lines.

use sha2::{Digest, Sha256};

use super::item::CopyData;
use super::position::{Pos, advance};
use super::rules::find;

/// Holds what was pushed and not yet used: usually less than one line.
#[derive(Debug, Clone, Default)]
pub(super) struct Source {
    buffer: String,
    /// The start of the next line in the buffer.
    cursor: usize,
    /// Up to here there is no newline behind the cursor.
    searched: usize,
    /// The offset of the buffer in the file.
    base: u64,
    /// How many lines were taken.
    lines: u32,
    /// The offset of the first NUL byte in the file.
    nul: Option<u64>,
    ended: bool,
    /// Of the COPY data that is being passed over.
    hash: Sha256,
}

/// What [`Source::next_line`] found.
pub(super) enum Next<'a> {
    /// A line without its newline, and the place where it begins.
    Line(&'a str, Pos),
    /// There is no whole line yet.
    NeedInput,
    /// There is nothing left.
    End,
    /// A NUL byte at this place.
    Nul(Pos),
}

/// How a block of COPY data ended.
pub(super) enum CopyEnd {
    /// With `\.`.
    Marker,
    /// There is no whole line yet.
    NeedInput,
    /// The file ended.
    End,
    /// A NUL byte at this place.
    Nul(Pos),
}

impl Source {
    /// Takes a piece of the file of any length.
    pub(super) fn push(&mut self, text: &str) {
        self.buffer.drain(..self.cursor);
        self.base = self.base.saturating_add(length(self.cursor));
        self.searched -= self.cursor;
        self.cursor = 0;
        if self.nul.is_none() {
            self.nul = find(text.as_bytes(), 0).map(|at| self.offset(self.buffer.len() + at));
        }
        self.buffer.push_str(text);
    }

    /// Says that the file is complete.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    /// The next line.
    pub(super) fn next_line(&mut self) -> Next<'_> {
        let start = self.cursor;
        let at = Pos { offset: self.offset(start), line: self.lines.saturating_add(1), column: 1 };
        let (end, next) = match self.newline() {
            Some(newline) => (newline, newline + 1),
            None if !self.ended => return Next::NeedInput,
            None if start == self.buffer.len() => return Next::End,
            None => (self.buffer.len(), self.buffer.len()),
        };
        if self.has_nul_before(end) {
            return Next::Nul(self.nul_pos());
        }
        self.advance_to(next);
        Next::Line(self.buffer.get(start..end).unwrap_or_default(), at)
    }

    /// Takes the lines of a block of COPY data, up to and with the end marker.
    ///
    /// The marker is `\.` with `\n` or `\r\n`, at the beginning of a line (`handleCopyIn` in `copy.c`). At the end of
    /// the file it needs no newline; psql would send it as data there, to the same effect.
    pub(super) fn copy_lines(&mut self, data: &mut CopyData) -> CopyEnd {
        let (from, before) = (self.cursor, data.length);
        let end = self.pass_over(data);
        let taken = usize::try_from(data.length - before).unwrap_or_default();
        self.hash.update(self.buffer.as_bytes().get(from..from + taken).unwrap_or_default());
        if matches!(end, CopyEnd::Marker) {
            data.sha256 = self.hash.finalize_reset().into();
        }
        end
    }

    fn pass_over(&mut self, data: &mut CopyData) -> CopyEnd {
        loop {
            let start = self.cursor;
            let (end, next) = match self.newline() {
                Some(newline) => (newline, newline + 1),
                None if !self.ended => return CopyEnd::NeedInput,
                None if start == self.buffer.len() => return CopyEnd::End,
                None => (self.buffer.len(), self.buffer.len()),
            };
            if self.has_nul_before(end) {
                return CopyEnd::Nul(self.nul_pos());
            }
            self.advance_to(next);
            // A look at the length and the first bytes; most lines need no more.
            if end - start <= 3 && matches!(self.buffer.as_bytes().get(start..end), Some(b"\\." | b"\\.\r")) {
                return CopyEnd::Marker;
            }
            data.length = data.length.saturating_add(length(next - start));
            data.lines = data.lines.saturating_add(1);
        }
    }

    /// The data block that begins with the next line.
    pub(super) fn copy_data(&self) -> CopyData {
        CopyData {
            offset: self.offset(self.cursor),
            length: 0,
            lines: 0,
            first_line: self.lines.saturating_add(1),
            sha256: [0; 32],
        }
    }

    /// Does the file begin so? Known until the first line is taken.
    pub(super) fn begins_with(&self, magic: &str) -> bool {
        self.lines == 0 && self.buffer.starts_with(magic)
    }

    /// The place behind all that was pushed.
    pub(super) fn end_pos(&self) -> Pos {
        let at = Pos { offset: self.offset(self.cursor), line: self.lines.saturating_add(1), column: 1 };
        advance(at, self.buffer.get(self.cursor..).unwrap_or_default())
    }

    fn newline(&mut self) -> Option<usize> {
        let from = self.searched.max(self.cursor);
        let found = self.buffer.as_bytes().get(from..).and_then(|rest| find(rest, b'\n')).map(|at| from + at);
        if found.is_none() {
            self.searched = self.buffer.len();
        }
        found
    }

    fn advance_to(&mut self, next: usize) {
        self.cursor = next;
        self.searched = next;
        self.lines = self.lines.saturating_add(1);
    }

    fn has_nul_before(&self, end: usize) -> bool {
        self.nul.is_some_and(|nul| nul < self.offset(end))
    }

    fn nul_pos(&self) -> Pos {
        let at = Pos { offset: self.offset(self.cursor), line: self.lines.saturating_add(1), column: 1 };
        let before =
            self.buffer.get(self.cursor..).and_then(|rest| rest.split('\0').next()).unwrap_or_default();
        advance(at, before)
    }

    fn offset(&self, at: usize) -> u64 {
        self.base.saturating_add(length(at))
    }
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
