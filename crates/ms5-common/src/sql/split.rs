//! Splits a file of SQL into the statements that psql would send, one by one.
//!
//! Sources: `MainLoop` in `src/bin/psql/mainloop.c`, `process_file` and `exec_command_*` in `command.c`, `handleCopyIn`
//! in `copy.c` (PostgreSQL 18). The splitter does no input or output: [`Splitter::step`] says what it found or
//! what it needs, and the caller pushes the file in pieces of any size. Nothing is kept of a file but the statement
//! that is being read.

use std::collections::VecDeque;

use super::conditional::{Conditionals, Saved};
use super::error::{ErrorKind, Problem, SqlError};
use super::item::{CopyData, Item, Query, Statement};
use super::lexer::{OpenKind, ReferenceKind, Scanner, StopKind};
use super::meta::{self, Command};
use super::path::{canonical, relative_to};
use super::position::{FileId, Pos, advance, saturating_u32};
use super::slash::{Arguments, Expansion, Input, resolve};
use super::source::{CopyEnd, Next, Source};
use super::string_setting::StringSetting;
use super::tokens::is_blank;
use super::variables::Variables;

/// How a file is to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The file's path, for error messages and for `\ir`.
    pub path: String,
    /// The session's standard_conforming_strings.
    pub standard_conforming_strings: bool,
    /// The file runs inside of a transaction that the caller begins: its own BEGIN and COMMIT count for nothing
    /// where a SET LOCAL or ROLLBACK is followed.
    pub in_transaction: bool,
    /// Variables that are set beforehand, as with `psql -v`. Those that psql sets from its connection (DBNAME, USER,
    /// SERVER_VERSION_NUM and others) are known only if they are given here.
    pub variables: Vec<(String, String)>,
    /// How deep `\i` may nest.
    pub include_depth: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            path: "<input>".to_owned(),
            standard_conforming_strings: true,
            in_transaction: false,
            variables: Vec::new(),
            include_depth: 32,
        }
    }
}

/// What the splitter found, or needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The next thing in the file.
    Item(Item),
    /// More of this file: call [`Splitter::push`] or [`Splitter::end_input`].
    NeedInput(FileId),
    /// Another file is included: call [`Splitter::enter`] and push that file, or [`Splitter::read_error`].
    Include {
        /// The path, relative to the current folder if it is not absolute.
        path: String,
    },
    /// The end.
    Done,
}

/// The splitter: see the module's description.
#[derive(Debug)]
pub struct Splitter {
    variables: Variables,
    strings: StringSetting,
    /// The key of `\restrict`, where one is in force.
    restricted: Option<String>,
    include_depth: usize,
    frames: Vec<Frame>,
    paths: Vec<String>,
    pending: Option<(String, Pos)>,
    items: VecDeque<Item>,
}

/// One file that is being read; psql runs a `MainLoop` for each.
#[derive(Debug)]
struct Frame {
    file: FileId,
    source: Source,
    scanner: Scanner,
    query: Query,
    conditionals: Conditionals,
    input: Input,
    clock: Clock,
    /// Where the outermost variable that is being read is referred to.
    variable_at: Pos,
    /// The length of the text behind the newline that was added for the current line, while nothing follows it
    /// (`added_nl_pos`).
    added_newline: Option<usize>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// A new line is wanted.
    Idle,
    /// In the middle of a line.
    InLine,
    /// The lines that follow are data; then the line goes on.
    CopyData {
        /// None in a skipped branch.
        statement: Option<Box<Statement>>,
        remaining: u32,
        current: CopyData,
    },
}

/// Knows the place of each byte of the current line, cheap for ascending bytes.
#[derive(Debug, Clone)]
struct Clock {
    line: Pos,
    last: (usize, Pos),
}

impl Clock {
    fn new(line: Pos) -> Self {
        Self { line, last: (0, line) }
    }

    fn at(&mut self, line: &str, byte: usize) -> Pos {
        if byte < self.last.0 {
            self.last = (0, self.line);
        }
        let between = line.get(self.last.0..byte).unwrap_or_default();
        self.last = (byte, advance(self.last.1, between));
        self.last.1
    }
}

impl Frame {
    fn new(file: FileId, standard_conforming_strings: bool) -> Self {
        Self {
            file,
            source: Source::default(),
            scanner: Scanner::new(standard_conforming_strings),
            query: Query::default(),
            conditionals: Conditionals::default(),
            input: Input::default(),
            clock: Clock::new(Pos::START),
            variable_at: Pos::START,
            added_newline: None,
            phase: Phase::Idle,
        }
    }

    fn saved(&self) -> Saved {
        Saved { text: self.query.text.len(), nesting: self.scanner.nesting() }
    }

    /// Goes back to what a skipped branch began with (`discard_query_text`).
    fn restore(&mut self, saved: Option<Saved>) {
        if let Some(saved) = saved {
            self.query.truncate(saved.text);
            self.scanner.set_nesting(saved.nesting);
        }
    }
}

impl Splitter {
    /// A splitter at the start of a file.
    pub fn new(options: Options) -> Self {
        let strings = StringSetting::new(options.standard_conforming_strings, options.in_transaction);
        Self {
            variables: Variables::new(&options.variables),
            frames: vec![Frame::new(FileId(0), strings.get())],
            strings,
            restricted: None,
            include_depth: options.include_depth,
            paths: vec![options.path],
            pending: None,
            items: VecDeque::new(),
        }
    }

    /// Gives the next piece of the file that was asked for; it may end anywhere.
    pub fn push(&mut self, text: &str) {
        if let Some(frame) = self.frames.last_mut() {
            frame.source.push(text);
        }
    }

    /// Says that the file that was asked for is complete.
    pub fn end_input(&mut self) {
        if let Some(frame) = self.frames.last_mut() {
            frame.source.end();
        }
    }

    /// Begins the file of a [`Step::Include`]; what is pushed then is that file's.
    pub fn enter(&mut self) -> Option<FileId> {
        let (path, at) = self.pending.take()?;
        let from = self.frames.last().map_or(FileId(0), |frame| frame.file);
        let file = FileId(saturating_u32(self.paths.len()));
        self.paths.push(path.clone());
        self.frames.push(Frame::new(file, self.strings.get()));
        self.items.push_back(Item::IncludeStart { file, path, from, at });
        Some(file)
    }

    /// The error for a file that cannot be opened (after [`Step::Include`]) or read on. Nothing follows it.
    pub fn read_error(&mut self, reason: &str) -> SqlError {
        match self.pending.take() {
            Some((path, at)) => {
                self.error(Problem::new(ErrorKind::Include, format!("cannot include {path}: {reason}")), at)
            }
            None => {
                let at = self.frames.last().map_or(Pos::START, |frame| frame.source.end_pos());
                self.error(Problem::new(ErrorKind::Read, reason), at)
            }
        }
    }

    /// The path of a file that was begun.
    pub fn path(&self, file: FileId) -> Option<&str> {
        usize::try_from(file.0).ok().and_then(|index| self.paths.get(index)).map(String::as_str)
    }

    /// Goes on to the next item or need. After an error there is nothing more.
    pub fn step(&mut self) -> Result<Step, SqlError> {
        loop {
            if let Some(item) = self.items.pop_front() {
                return Ok(Step::Item(item));
            }
            if let Some((path, _)) = &self.pending {
                return Ok(Step::Include { path: path.clone() });
            }
            let Some(frame) = self.frames.last() else { return Ok(Step::Done) };
            let file = frame.file;
            let goes_on = match frame.phase {
                Phase::Idle => self.next_line()?,
                Phase::InLine => {
                    self.scan_line()?;
                    true
                }
                Phase::CopyData { .. } => self.copy_lines()?,
            };
            if !goes_on {
                return Ok(Step::NeedInput(file));
            }
        }
    }

    /// Begins the next line; false if there is none yet.
    fn next_line(&mut self) -> Result<bool, SqlError> {
        let standard_conforming_strings = self.strings.get();
        let Some(frame) = self.frames.last_mut() else { return Ok(true) };
        let (mut line, mut at) = match frame.source.next_line() {
            Next::Line(line, at) => (line, at),
            Next::NeedInput => return Ok(false),
            Next::End => {
                self.end_file(false)?;
                return Ok(true);
            }
            Next::Nul(at) => return Err(self.nul(at)),
        };
        if at.offset == 0 {
            if let Some(rest) = line.strip_prefix('\u{feff}') {
                self.items.push_back(Item::ByteOrderMark { file: frame.file });
                at.offset = 3;
                line = rest;
            }
            if line.starts_with("PGDMP") {
                let problem =
                    Problem::new(ErrorKind::NotSql, "the file is a custom-format dump of pg_dump, not SQL")
                        .hint("turn it into SQL with pg_restore -f");
                return Err(self.error(problem, at));
            }
        }
        // psql drops empty lines outside of quotes.
        if line.is_empty() && !frame.scanner.in_quote() {
            return Ok(true);
        }
        frame.added_newline = None;
        if !frame.query.text.is_empty() {
            let (clock, last) = (&mut frame.clock, &frame.input.line);
            let end = clock.line.offset.saturating_add(u64::try_from(last.len()).unwrap_or(u64::MAX));
            frame.query.follow("\n", end, || clock.at(last, last.len()));
            frame.added_newline = Some(frame.query.text.len());
        }
        frame.input.line.clear();
        frame.input.line.push_str(line);
        frame.input.at = 0;
        frame.clock = Clock::new(at);
        frame.scanner.set_standard_conforming_strings(standard_conforming_strings);
        frame.phase = Phase::InLine;
        Ok(true)
    }

    /// Scans the current line up to the next point where something is to be done.
    fn scan_line(&mut self) -> Result<(), SqlError> {
        let Some(frame) = self.frames.last_mut() else { return Ok(()) };
        let Frame { input, scanner, query, clock, conditionals, .. } = frame;
        let active = conditionals.active();
        let in_variable = !input.expansions.is_empty();
        let (text, at) = input.current();
        let from = if query.text.is_empty() { scanner.skip_blank(text, at) } else { at };
        let mut scan_from = from;
        let mut value = None;
        let stop = loop {
            let stop = scanner.scan(text, scan_from, query.text.len() + (scan_from - from));
            let StopKind::Variable(reference) = &stop.kind else { break stop };
            let name = text.get(reference.name.clone()).unwrap_or_default();
            let recursive = reference.kind == ReferenceKind::Plain
                && input.expansions.iter().any(|expansion| expansion.name == name);
            let resolved =
                if recursive { Ok(None) } else { resolve(&self.variables, active, reference.kind, name) };
            match resolved {
                // What psql does not know stays as it is.
                Ok(None) => scan_from = stop.next,
                Ok(Some(text)) => {
                    value = Some((reference.kind, name.to_owned(), text));
                    break stop;
                }
                Err(problem) => {
                    let at = if in_variable { frame.variable_at } else { clock.at(text, stop.at) };
                    return Err(self.error(problem, at));
                }
            }
        };
        let piece = text.get(from..stop.at).unwrap_or_default();
        let offset_of = |clock: &Clock, byte: usize| {
            clock.line.offset.saturating_add(u64::try_from(byte).unwrap_or(u64::MAX))
        };
        // Places are worked out only where they are needed: they cost a look at the line's characters.
        let here = if in_variable {
            query.fix(piece, frame.variable_at);
            frame.variable_at
        } else {
            query.follow(piece, offset_of(clock, from), || clock.at(text, from));
            match stop.kind {
                StopKind::End | StopKind::Semicolon => clock.line,
                _ => clock.at(text, stop.at),
            }
        };
        let end_offset = if in_variable { here.offset } else { offset_of(clock, stop.next) };
        input.seek(stop.next);
        match stop.kind {
            StopKind::End => {
                if input.expansions.pop().is_none() {
                    frame.phase = Phase::Idle;
                }
            }
            StopKind::Semicolon => self.end_statement(end_offset, true)?,
            StopKind::Escaped(letter, separates) => {
                if separates {
                    query.joints.push(query.text.len());
                }
                query.fix(letter.encode_utf8(&mut [0; 4]), here);
            }
            StopKind::Variable(_) => {
                if let Some((kind, name, text)) = value {
                    if kind == ReferenceKind::Plain {
                        frame.variable_at = here;
                        input.expansions.push(Expansion { name, text, at: 0 });
                    } else {
                        query.fix(&text, here);
                    }
                }
            }
            StopKind::Backslash => {
                // A line that holds only a command leaves no trace in the statement around it.
                if frame.added_newline.take() == Some(query.text.len()) {
                    query.truncate(query.text.len() - 1);
                }
                self.command(here)?;
            }
        }
        Ok(())
    }

    /// Carries out the command behind a backslash at `at`.
    fn command(&mut self, at: Pos) -> Result<(), SqlError> {
        let Some(frame) = self.frames.last_mut() else { return Ok(()) };
        let mut arguments = Arguments {
            active: frame.conditionals.active(),
            input: &mut frame.input,
            variables: &self.variables,
        };
        let read = meta::read(&mut arguments, &frame.conditionals, self.restricted.is_some());
        frame.scanner.reselect();
        let (name, command) = match read {
            Ok(read) => read,
            Err(problem) => return Err(self.error(problem, at)),
        };
        let file = frame.file;
        let now = frame.saved();
        let done = match command {
            Command::If(value) => {
                frame.conditionals.begin(value, now, at);
                Ok(())
            }
            Command::Elif(value) => frame.conditionals.elif(value, now).map(|saved| frame.restore(saved)),
            Command::Else => frame.conditionals.otherwise(now).map(|saved| frame.restore(saved)),
            Command::EndIf => frame.conditionals.end().map(|saved| frame.restore(saved)),
            Command::Set { name, value } => self.variables.set(&name, &value),
            Command::Unset { name } => self.variables.unset(&name),
            Command::Echo { stream, text } => {
                self.items.push_back(Item::Echo { stream, text, file, at });
                Ok(())
            }
            Command::Ignored => {
                self.items.push_back(Item::Ignored { command: name, file, at });
                Ok(())
            }
            Command::Skipped => Ok(()),
            Command::Include { path, relative } => self.include(&path, relative, at),
            Command::Quit => return self.end_file(true),
            Command::Restrict { key } => {
                self.restricted = Some(key);
                Ok(())
            }
            Command::Unrestrict { key } => match &self.restricted {
                Some(expected) if *expected == key => {
                    self.restricted = None;
                    Ok(())
                }
                Some(_) => Err(Problem::new(ErrorKind::Restricted, "\\unrestrict: wrong key")),
                None => {
                    Err(Problem::new(ErrorKind::Restricted, "\\unrestrict: not currently in restricted mode"))
                }
            },
        };
        done.map_err(|problem| self.error(problem, at))
    }

    fn include(&mut self, path: &str, relative: bool, at: Pos) -> Result<(), Problem> {
        let refuse = |message: String| Err(Problem::new(ErrorKind::Include, message));
        if path == "-" || path.starts_with('~') {
            return refuse(format!("\\i {path} is not supported"));
        }
        let including = self.frames.last().and_then(|frame| self.path(frame.file)).unwrap_or_default();
        let path = if relative { relative_to(including, path) } else { canonical(path) };
        if self.frames.iter().any(|frame| self.path(frame.file).is_some_and(|open| canonical(open) == path)) {
            return refuse(format!("{path} includes itself"));
        }
        if self.frames.len() > self.include_depth {
            return refuse(format!("{path}: files are included more than {} deep", self.include_depth));
        }
        self.pending = Some((path, at));
        Ok(())
    }

    /// Ends a statement: it is sent, or forgotten in a skipped branch.
    fn end_statement(&mut self, end_offset: u64, terminated: bool) -> Result<(), SqlError> {
        let standard_conforming_strings = self.strings.get();
        let Some(frame) = self.frames.last_mut() else { return Ok(()) };
        let (statement, copies) = if let Some(saved) = frame.conditionals.skipping_from() {
            frame.query.truncate(saved.text);
            (None, frame.scanner.skip_statement(&saved.nesting))
        } else {
            let copies = frame.scanner.count_copy_from_stdin();
            let query = std::mem::take(&mut frame.query);
            frame.scanner.reset();
            frame.added_newline = None;
            if is_blank(&query.text, standard_conforming_strings) {
                return Ok(());
            }
            let statement = Statement {
                start: query.pos_at(0),
                text: query.text,
                file: frame.file,
                end_offset,
                terminated,
                standard_conforming_strings,
                copy_data: Vec::new(),
                joints: query.joints,
                map: query.map,
            };
            (Some(statement), copies)
        };
        if copies == 0 {
            if let Some(statement) = statement {
                self.send(statement);
            }
            return Ok(());
        }
        if let Some(statement) = &statement {
            let problem = if !terminated {
                Problem::new(
                    ErrorKind::CopyData,
                    "the file ends where the data of COPY ... FROM STDIN is expected",
                )
                .hint("end the statement with a semicolon; the data follows in the next line, up to \\.")
            } else if statement.facts().any(|facts| facts.is_binary_copy()) {
                Problem::new(ErrorKind::CopyData, "binary data for COPY cannot stand in a SQL file")
            } else {
                let current = frame.source.copy_data();
                let statement = Some(Box::new(statement.clone()));
                frame.phase = Phase::CopyData { statement, remaining: copies, current };
                return Ok(());
            };
            let at = statement.head();
            return Err(self.error(problem, at));
        }
        let current = frame.source.copy_data();
        frame.phase = Phase::CopyData { statement: None, remaining: copies, current };
        Ok(())
    }

    fn send(&mut self, statement: Statement) {
        for (_, text) in statement.parts() {
            self.strings.observe(text);
        }
        self.variables.note_success();
        self.items.push_back(Item::Statement(statement));
    }

    /// Passes over COPY data; false if there is no whole line yet.
    fn copy_lines(&mut self) -> Result<bool, SqlError> {
        let Some(Frame { source, phase, .. }) = self.frames.last_mut() else { return Ok(true) };
        let Phase::CopyData { statement, remaining, current } = phase else { return Ok(true) };
        match source.copy_lines(current) {
            CopyEnd::NeedInput => Ok(false),
            CopyEnd::Marker => {
                if let Some(statement) = statement {
                    statement.copy_data.push(*current);
                }
                *current = source.copy_data();
                *remaining -= 1;
                if *remaining == 0 {
                    let statement = statement.take();
                    *phase = Phase::InLine;
                    if let Some(statement) = statement {
                        self.send(*statement);
                    }
                }
                Ok(true)
            }
            CopyEnd::End => {
                let problem =
                    Problem::new(ErrorKind::CopyData, "the data of this COPY ... FROM STDIN has no end")
                        .hint("a line that holds only \\. ends it");
                let first = Pos { offset: current.offset, line: current.first_line, column: 1 };
                let at = statement.as_ref().map_or(first, |statement| statement.head());
                Err(self.error(problem, at))
            }
            CopyEnd::Nul(at) => Err(self.nul(at)),
        }
    }

    /// Ends a file, at its end or at `\q`: what is left of a statement is sent, as psql does.
    fn end_file(&mut self, quit: bool) -> Result<(), SqlError> {
        let Some(frame) = self.frames.last_mut() else { return Ok(()) };
        if let Some(open) = frame.scanner.open() {
            let what = match open.kind {
                OpenKind::String => "a string in quotes",
                OpenKind::Identifier => "a quoted identifier",
                OpenKind::DollarQuote => "a dollar-quoted string",
                OpenKind::Comment => "a /* comment",
                OpenKind::Parenthesis => "a parenthesis",
                OpenKind::Block => "the BEGIN of a function body",
            };
            let at = frame.query.pos_at(open.at);
            let until = if quit { "\\q" } else { "the end of the file" };
            return Err(self.error(
                Problem::new(ErrorKind::Unterminated, format!("{what} is not closed before {until}")),
                at,
            ));
        }
        if let Some(at) = frame.conditionals.open()
            && !quit
        {
            return Err(self.error(Problem::new(ErrorKind::Conditional, "this \\if has no \\endif"), at));
        }
        let end_offset = if quit {
            frame.clock.line.offset.saturating_add(u64::try_from(frame.input.at).unwrap_or(u64::MAX))
        } else {
            frame.source.end_pos().offset
        };
        self.end_statement(end_offset, false)?;
        if let Some(frame) = self.frames.pop()
            && !self.frames.is_empty()
        {
            self.items.push_back(Item::IncludeEnd { file: frame.file });
        }
        Ok(())
    }

    fn nul(&mut self, at: Pos) -> SqlError {
        self.error(Problem::new(ErrorKind::NotSql, "a NUL byte"), at)
    }

    /// Gives a problem its place, and stops.
    fn error(&mut self, problem: Problem, at: Pos) -> SqlError {
        let file = self.frames.last().map_or(FileId(0), |frame| frame.file);
        let path = self.path(file).unwrap_or_default().to_owned();
        self.frames.clear();
        self.pending = None;
        SqlError { kind: problem.kind, file, path, at, message: problem.message, hint: problem.hint }
    }
}
