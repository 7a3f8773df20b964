//! Places in files, and the way back from a statement's text to the file it came from.

use std::fmt;
use std::ops::Range;

/// Names a file of one run of the splitter: 0 is the file it began with, included files follow in the order
/// in which they were entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FileId(pub u32);

/// A place in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pos {
    /// Bytes from the start of the file, a byte-order mark counted.
    pub offset: u64,
    /// The line, counted from 1.
    pub line: u32,
    /// The column, counted from 1 in characters; a byte-order mark is not counted.
    pub column: u32,
}

impl Pos {
    /// The first character of a file.
    pub const START: Self = Self { offset: 0, line: 1, column: 1 };
}

impl fmt::Display for Pos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// From here on, a text corresponds to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Anchor {
    /// The offset in the text.
    text: usize,
    /// The place in the file.
    at: Pos,
    /// All of the text up to the next anchor came out of a variable that is referred to at that place.
    fixed: bool,
}

/// Maps a statement's text to the file: one anchor for each point where text and file part company (dropped
/// empty lines, variables, `\;`, psql commands in the middle of a statement), so usually a single one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct SourceMap {
    anchors: Vec<Anchor>,
}

impl SourceMap {
    /// Says that the text from `text` on is the file's from `offset` on. `at` is asked only where this does not
    /// follow from the anchors so far.
    pub(super) fn follow(&mut self, text: usize, offset: u64, at: impl FnOnce() -> Pos) {
        let follows = self.anchors.last().is_some_and(|last| {
            !last.fixed && last.at.offset.checked_add(distance(last.text, text)) == Some(offset)
        });
        if !follows {
            self.push(Anchor { text, at: at(), fixed: false });
        }
    }

    /// Says that the text from `text` on is a variable's that is referred to at `at`.
    pub(super) fn fix(&mut self, text: usize, at: Pos) {
        if !self.anchors.last().is_some_and(|last| last.fixed && last.at == at) {
            self.push(Anchor { text, at, fixed: true });
        }
    }

    fn push(&mut self, anchor: Anchor) {
        // An anchor for no text at all is of no use.
        if self.anchors.last().is_some_and(|last| last.text == anchor.text) {
            self.anchors.pop();
        }
        self.anchors.push(anchor);
    }

    /// Where the values of variables stand in a text of that length.
    pub(super) fn values(&self, length: usize) -> impl Iterator<Item = Range<usize>> {
        let ends = self.anchors.iter().skip(1).map(|next| next.text).chain(std::iter::once(length));
        self.anchors.iter().zip(ends).filter(|(anchor, _)| anchor.fixed).map(|(anchor, end)| anchor.text..end)
    }

    /// Forgets what lies behind `text`.
    pub(super) fn truncate(&mut self, text: usize) {
        while self.anchors.last().is_some_and(|last| last.text >= text && last.text > 0) {
            self.anchors.pop();
        }
        if text == 0 {
            self.anchors.clear();
        }
    }

    /// The place in the file of the byte `offset` of `text`, which must be the text this map was made for.
    pub(super) fn pos_at(&self, text: &str, offset: usize) -> Pos {
        let index = self.anchors.partition_point(|anchor| anchor.text <= offset);
        let Some(anchor) = index.checked_sub(1).and_then(|index| self.anchors.get(index)) else {
            return Pos::START;
        };
        if anchor.fixed {
            return anchor.at;
        }
        let between = text.get(anchor.text..offset.min(text.len())).unwrap_or_default();
        advance(anchor.at, between)
    }
}

/// The place behind `text`, which begins at `from`.
pub(super) fn advance(from: Pos, text: &str) -> Pos {
    if text.is_empty() {
        return from;
    }
    let newlines = text.bytes().filter(|&byte| byte == b'\n').count();
    let (column, tail) = match text.rfind('\n') {
        Some(newline) => (1, text.get(newline + 1..).unwrap_or_default()),
        None => (from.column, text),
    };
    Pos {
        offset: from.offset.saturating_add(distance(0, text.len())),
        line: from.line.saturating_add(saturating_u32(newlines)),
        column: column.saturating_add(saturating_u32(tail.chars().count())),
    }
}

/// `value` as u32, or the greatest u32.
pub(super) fn saturating_u32(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// The distance of two offsets as a file offset.
fn distance(from: usize, to: usize) -> u64 {
    u64::try_from(to.saturating_sub(from)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pos(offset: u64, line: u32, column: u32) -> Pos {
        Pos { offset, line, column }
    }

    #[test]
    fn one_anchor_serves_text_that_is_the_file_s() {
        let mut map = SourceMap::default();
        map.follow(0, 10, || pos(10, 3, 5));
        map.follow(4, 14, || unreachable!());
        assert_eq!(map.anchors.len(), 1);
        assert_eq!(map.pos_at("aä\nbc", 3), pos(13, 3, 7));
        assert_eq!(map.pos_at("aä\nbc", 5), pos(15, 4, 2));
        assert_eq!(map.pos_at("aä\nbc", 99), pos(16, 4, 3));
    }

    #[test]
    fn text_of_a_variable_is_at_its_reference() {
        let mut map = SourceMap::default();
        map.follow(0, 0, || pos(0, 1, 1));
        map.fix(7, pos(7, 1, 8));
        map.follow(20, 10, || pos(10, 1, 11));
        let text = "select a long value there + 1";
        assert_eq!(map.pos_at(text, 6), pos(6, 1, 7));
        assert_eq!(map.pos_at(text, 7), pos(7, 1, 8));
        assert_eq!(map.pos_at(text, 19), pos(7, 1, 8));
        assert_eq!(map.pos_at(text, 22), pos(12, 1, 13));
        map.truncate(7);
        assert_eq!(map.anchors.len(), 1);
    }
}
