//! What the splitter finds in a file.

use std::borrow::Cow;

use super::facts::Facts;
use super::meta::Stream;
use super::position::{FileId, Pos, SourceMap};
use super::tokens::{Tokens, tokens};

/// One thing to do or to know, in the file's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A statement to be sent as one message.
    Statement(Statement),
    /// A line of `\echo`, `\qecho` or `\warn`, its newline included unless `-n` was given.
    Echo {
        /// Where it goes.
        stream: Stream,
        /// The text.
        text: String,
        /// The file of the command.
        file: FileId,
        /// The place of the command.
        at: Pos,
    },
    /// A psql command without effect here: `\timing`, `\pset` and the like, and `\set ON_ERROR_STOP off`, as a run stops
    /// at the first failure.
    Ignored {
        /// The command's name without the backslash.
        command: String,
        /// The file of the command.
        file: FileId,
        /// The place of the command.
        at: Pos,
    },
    /// The file begins with a byte-order mark, which is skipped.
    ByteOrderMark {
        /// The file.
        file: FileId,
    },
    /// An included file begins; what follows up to its [`Item::IncludeEnd`] stands in it.
    IncludeStart {
        /// The included file.
        file: FileId,
        /// Its path: the argument of `\i`, or made of that of `\ir` and the including file's path.
        path: String,
        /// The including file.
        from: FileId,
        /// The place of the command.
        at: Pos,
    },
    /// An included file ends.
    IncludeEnd {
        /// The included file.
        file: FileId,
    },
}

/// A statement as psql sends it, without the semicolon at its end.
///
/// It is more than one statement where `\;` was used; psql sends those as one message too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The text: variables in place, leading whitespace and `--` comments dropped, and with them the empty lines
    /// between its own that psql drops as well.
    pub text: String,
    /// The file.
    pub file: FileId,
    /// Where the text begins, which may be a comment; see also [`Statement::head`].
    pub start: Pos,
    /// The offset in the file behind the statement: of the semicolon's successor, or of the end of the file.
    pub end_offset: u64,
    /// Whether a semicolon ended it, and not the end of the file or `\q`.
    pub terminated: bool,
    /// The setting of standard_conforming_strings when it is sent.
    pub standard_conforming_strings: bool,
    /// The data in the file for each COPY ... FROM STDIN of the statement: none, one, or more after `\;`.
    pub copy_data: Vec<CopyData>,
    /// The offsets in the text of the semicolons that came of `\;`.
    pub(super) joints: Vec<usize>,
    pub(super) map: SourceMap,
}

/// Data of a COPY ... FROM STDIN: whole lines of the file, which the splitter does not keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyData {
    /// Where the data begins, in bytes from the start of the file.
    pub offset: u64,
    /// Its length in bytes, the `\.` line left out.
    pub length: u64,
    /// The number of lines.
    pub lines: u64,
    /// The number of the first line in the file.
    pub first_line: u32,
    /// sha256 of the data, to tell whether the file still holds what was read.
    pub sha256: [u8; 32],
}

impl Statement {
    /// Another text in its place, at the same place of the file.
    #[must_use]
    pub fn with_text(&self, text: &str) -> Self {
        Self { text: text.to_owned(), copy_data: Vec::new(), joints: Vec::new(), ..self.clone() }
    }

    /// The text with `:...` in the place of each variable's value, which may be secret.
    #[must_use]
    pub fn without_values(&self) -> Cow<'_, str> {
        let mut shown = String::new();
        let mut from = 0;
        // What a backslash escapes has a place of its own as well.
        for value in
            self.map.values(self.text.len()).filter(|value| self.text.get(value.clone()) != Some(";"))
        {
            shown.push_str(self.text.get(from..value.start).unwrap_or_default());
            shown.push_str(":...");
            from = value.end;
        }
        if from == 0 {
            return Cow::Borrowed(&self.text);
        }
        shown.push_str(self.text.get(from..).unwrap_or_default());
        Cow::Owned(shown)
    }

    /// The tokens of the text.
    pub fn tokens(&self) -> Tokens<'_> {
        tokens(&self.text, self.standard_conforming_strings)
    }

    /// Where the first token stands, comments before it left out.
    pub fn head(&self) -> Pos {
        self.pos_at(self.tokens().next().map_or(0, |token| token.range.start))
    }

    /// The place in the file of a byte of the text.
    pub fn pos_at(&self, offset: usize) -> Pos {
        self.map.pos_at(&self.text, offset)
    }

    /// The place in the file of what the server calls position: a character of the text, counted from 1.
    pub fn pos_of_server_position(&self, position: u32) -> Pos {
        let index = usize::try_from(position.saturating_sub(1)).unwrap_or(usize::MAX);
        let offset = self.text.char_indices().nth(index).map_or(self.text.len(), |(offset, _)| offset);
        self.pos_at(offset)
    }

    /// The statements of the message, with their offsets in the text: one, or what `\;` separates.
    pub fn parts(&self) -> impl Iterator<Item = (usize, &str)> {
        let starts = std::iter::once(0).chain(self.joints.iter().map(|&joint| joint + 1));
        let ends = self.joints.iter().copied().chain(std::iter::once(self.text.len()));
        starts.zip(ends).map(|(start, end)| (start, self.text.get(start..end).unwrap_or_default()))
    }

    /// The facts on each part.
    pub fn facts(&self) -> impl Iterator<Item = Facts<'_>> {
        self.parts().map(|(_, text)| Facts::of(text, self.standard_conforming_strings))
    }
}

/// Room for most statements, so that few lines are copied twice.
const USUAL_LENGTH: usize = 256;

/// A statement that is being collected (`query_buf`).
#[derive(Debug, Clone, Default)]
pub(super) struct Query {
    pub(super) text: String,
    pub(super) joints: Vec<usize>,
    pub(super) map: SourceMap,
}

impl Query {
    /// Adds a piece of the file.
    pub(super) fn follow(&mut self, piece: &str, offset: u64, at: impl FnOnce() -> Pos) {
        if !piece.is_empty() {
            if self.text.capacity() == 0 {
                self.text.reserve(piece.len().max(USUAL_LENGTH));
            }
            self.map.follow(self.text.len(), offset, at);
            self.text.push_str(piece);
        }
    }

    /// Adds text that a variable at `at` stands for.
    pub(super) fn fix(&mut self, piece: &str, at: Pos) {
        if !piece.is_empty() {
            self.map.fix(self.text.len(), at);
            self.text.push_str(piece);
        }
    }

    /// Goes back to the first `length` bytes.
    pub(super) fn truncate(&mut self, length: usize) {
        self.text.truncate(length);
        self.map.truncate(length);
        self.joints.retain(|&joint| joint < length);
    }

    /// The place of a byte of the text.
    pub(super) fn pos_at(&self, offset: usize) -> Pos {
        self.map.pos_at(&self.text, offset)
    }
}
