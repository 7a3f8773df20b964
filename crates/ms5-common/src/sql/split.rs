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
use super::variables::{Variables, parse_bool};

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

    /// The next lines are the data of so many COPY ... FROM STDIN.
    fn expect_copy_data(&mut self, statement: Option<Box<Statement>>, copies: u32) {
        if copies > 0 {
            self.phase = Phase::CopyData { statement, remaining: copies, current: self.source.copy_data() };
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
            None if self.begins_as_dump() => self.error(custom_dump(), Pos::START),
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
            Command::Set { name, value } => {
                if name == "ON_ERROR_STOP" && parse_bool(&value) == Some(false) {
                    let command = format!("set {name} {value}");
                    self.items.push_back(Item::Ignored { command, file, at });
                }
                self.variables.set(&name, &value)
            }
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
        if let Some(saved) = frame.conditionals.skipping_from() {
            frame.query.truncate(saved.text);
            let copies = frame.scanner.skip_statement(&saved.nesting);
            frame.expect_copy_data(None, copies);
            return Ok(());
        }
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
        if copies == 0 {
            self.send(statement);
            return Ok(());
        }
        let problem = if !terminated {
            Problem::new(
                ErrorKind::CopyData,
                "the file ends where the data of COPY ... FROM STDIN is expected",
            )
            .hint("end the statement with a semicolon; the data follows in the next line, up to \\.")
        } else if statement.facts().any(|facts| facts.is_binary_copy()) {
            Problem::new(ErrorKind::CopyData, "binary data for COPY cannot stand in a SQL file")
                .hint("use the text or the CSV format")
        } else {
            frame.expect_copy_data(Some(Box::new(statement)), copies);
            return Ok(());
        };
        let at = statement.head();
        Err(self.error(problem, at))
    }

    fn send(&mut self, statement: Statement) {
        if statement.joints.is_empty() {
            self.strings.observe(&statement.text);
        } else {
            statement.parts().for_each(|(_, text)| self.strings.observe(text));
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
        if self.begins_as_dump() {
            return self.error(custom_dump(), Pos::START);
        }
        self.error(Problem::new(ErrorKind::NotSql, "a NUL byte"), at)
    }

    fn begins_as_dump(&self) -> bool {
        self.frames.last().is_some_and(|frame| frame.source.begins_with(DUMP_MAGIC))
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

/// What files of `pg_dump --format=custom` begin with.
const DUMP_MAGIC: &str = "PGDMP";

fn custom_dump() -> Problem {
    Problem::new(ErrorKind::NotSql, "the file is a custom-format dump of pg_dump, not SQL")
        .hint("turn it into SQL with pg_restore -f")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::io::{self, Cursor};

    use super::super::script::Script;
    use super::*;

    fn split_with(options: Options, text: &str) -> Result<Vec<Item>, SqlError> {
        let mut splitter = Splitter::new(options);
        splitter.push(text);
        splitter.end_input();
        let mut items = Vec::new();
        loop {
            match splitter.step()? {
                Step::Item(item) => items.push(item),
                Step::Done => return Ok(items),
                other => panic!("{other:?}"),
            }
        }
    }

    fn split(text: &str) -> Result<Vec<Item>, SqlError> {
        split_with(Options::default(), text)
    }

    fn statements(text: &str) -> Vec<Statement> {
        let items = split(text).unwrap();
        items
            .into_iter()
            .filter_map(|item| if let Item::Statement(found) = item { Some(found) } else { None })
            .collect()
    }

    fn texts(text: &str) -> Vec<String> {
        statements(text).into_iter().map(|statement| statement.text).collect()
    }

    fn error(text: &str) -> (ErrorKind, String) {
        let error = split(text).unwrap_err();
        (error.kind, format!("{}: {}", error.at, error.message))
    }

    #[test]
    fn statements_have_places() {
        let found = statements("\u{feff}-- one\n/* c */ select 1; sélect 2 ;\r\n\n  select\n\n'x\n\n'");
        let places: Vec<_> = found
            .iter()
            .map(|it| {
                (it.start.to_string(), it.head().to_string(), it.start.offset, it.end_offset, it.terminated)
            })
            .collect();
        assert_eq!(
            places,
            [
                ("2:1".to_owned(), "2:9".to_owned(), 10, 27, true),
                ("2:19".to_owned(), "2:19".to_owned(), 28, 39, true),
                ("4:3".to_owned(), "4:3".to_owned(), 44, 57, false),
            ]
        );
        assert_eq!(found[1].text, "sélect 2 ");
        assert_eq!(found[2].text, "select\n'x\n\n'");
        // The server counts characters, from 1.
        assert_eq!(found[1].pos_of_server_position(8).to_string(), "2:26");
        assert_eq!(found[2].pos_of_server_position(8).to_string(), "6:1");
        assert_eq!(found[2].pos_of_server_position(12).to_string(), "8:1");
        assert_eq!(found[2].pos_of_server_position(99).to_string(), "8:2");
    }

    #[test]
    fn variables_and_commands_leave_places_right() {
        let found = statements("\\set v 'a\\nlong\\nvalue'\nselect :v + 1, :'v',\n\\echo x\n2 \\; select 3;");
        assert_eq!(found[0].text, "select a\nlong\nvalue + 1, 'a\nlong\nvalue',\n2 ; select 3");
        let place = |needle| found[0].pos_at(found[0].text.find(needle).unwrap()).to_string();
        assert_eq!(place("select a"), "2:1");
        assert_eq!(place("value + 1"), "2:8");
        assert_eq!(place("+ 1"), "2:11");
        assert_eq!(place("'a"), "2:16");
        assert_eq!(place("2 ;"), "4:1");
        assert_eq!(place("select 3"), "4:6");
        assert_eq!(
            found[0].parts().map(|(offset, text)| (offset, text.trim())).collect::<Vec<_>>(),
            [(0, &found[0].text[..found[0].text.len() - 11]), (found[0].text.len() - 9, "select 3")]
        );
    }

    #[test]
    fn copy_data_is_a_range_of_the_file() {
        let text = "select 1; copy t from stdin; copy u from stdin \\; copy v from stdin; select 2\na\n'\n\\.\n\\.\nb\r\n\\.\r\n;select 3;";
        let found = statements(text);
        assert_eq!(found.len(), 5);
        let data = |index: usize| -> Vec<(&str, u64, u32)> {
            let range = |data: &CopyData| {
                let start = usize::try_from(data.offset).unwrap();
                (&text[start..start + usize::try_from(data.length).unwrap()], data.lines, data.first_line)
            };
            found[index].copy_data.iter().map(range).collect()
        };
        assert_eq!(data(0), []);
        assert_eq!(data(1), [("a\n'\n", 2, 2)]);
        assert_eq!(data(2), [("", 0, 5), ("b\r\n", 1, 6)]);
        assert_eq!(found[3].text, "select 2\n");
        assert_eq!(found[4].start.to_string(), "8:2");
        // In a skipped branch too: psql would read these lines as SQL.
        assert_eq!(texts("\\if 0\ncopy t from stdin;\n'\n\\.\n\\endif\nselect 1;"), ["select 1"]);
        // What psql loses: a semicolon behind a COPY, and what follows it.
        assert_eq!(texts("copy t from stdin;\na\n\\.\n;\n(select 1);\nselect 2;").len(), 3);
        // The marker may be the end of the file.
        assert_eq!(statements("copy t from stdin;\na\n\\.")[0].copy_data[0].lines, 1);
    }

    #[test]
    fn what_is_left_open_is_named_where_it_began() {
        for (text, expected) in [
            ("select 1;\nselect 'a\n\n;", "2:8: a string in quotes is not closed before the end of the file"),
            ("select e'\\'\n", "1:8: a string in quotes is not closed before the end of the file"),
            ("é \"a;", "1:3: a quoted identifier is not closed before the end of the file"),
            ("select $é$;$e$", "1:8: a dollar-quoted string is not closed before the end of the file"),
            ("\n/* /* */", "2:1: a /* comment is not closed before the end of the file"),
            ("select ((1)\n;", "1:8: a parenthesis is not closed before the end of the file"),
            ("select (\n\\q", "1:8: a parenthesis is not closed before \\q"),
            (
                "create function f()\nbegin atomic select 1;",
                "2:1: the BEGIN of a function body is not closed before the end of the file",
            ),
        ] {
            assert_eq!(error(text), (ErrorKind::Unterminated, expected.to_owned()), "{text}");
        }
        assert_eq!(texts("select 1"), ["select 1"]);
    }

    #[test]
    fn refusals() {
        for (text, kind, start) in [
            ("copy t from stdin;\na\n", ErrorKind::CopyData, "1:1: the data of this COPY"),
            ("\n/* */ copy t from stdin", ErrorKind::CopyData, "2:7: the file ends where"),
            ("copy t from stdin (format binary);\n", ErrorKind::CopyData, "1:1: binary data"),
            ("\\if 0\ncopy t from stdin;\na\n", ErrorKind::CopyData, "3:1: the data of this COPY"),
            ("select 1;\nab\0c", ErrorKind::NotSql, "2:3: a NUL byte"),
            ("copy t from stdin;\nab\0c\n\\.\n", ErrorKind::NotSql, "2:3: a NUL byte"),
            ("PGDMP\u{1}\0\n", ErrorKind::NotSql, "1:1: the file is a custom-format dump"),
            ("select 1;\n \\gexec", ErrorKind::UnsupportedCommand, "2:2: \\gexec is not supported"),
            ("select 1 \\foo", ErrorKind::UnknownCommand, "1:10: invalid command \\foo"),
            ("\\if 0\n\\foo\n\\endif", ErrorKind::UnknownCommand, "2:1: invalid command \\foo"),
            ("\\endif", ErrorKind::Conditional, "1:1: \\endif: no matching \\if"),
            ("select 1;\n\\if 1\n\\if 1\n\\endif\n", ErrorKind::Conditional, "2:1: this \\if has no \\endif"),
            ("\\if maybe\n\\endif", ErrorKind::Arguments, "1:1: unrecognized value"),
            ("select :DBNAME;", ErrorKind::Variable, "1:8: the value of psql's variable DBNAME"),
            ("\\set AUTOCOMMIT off", ErrorKind::Variable, "1:1: \\set AUTOCOMMIT off is not supported"),
            ("\\i ~/x.sql", ErrorKind::Include, "1:1: \\i ~/x.sql is not supported"),
            (
                "\\restrict a\n\\echo\n\\unrestrict a",
                ErrorKind::Restricted,
                "2:1: \\echo: backslash commands are",
            ),
            ("\\restrict a\n\\unrestrict b", ErrorKind::Restricted, "2:1: \\unrestrict: wrong key"),
            ("\\unrestrict a", ErrorKind::Restricted, "1:1: \\unrestrict: not currently"),
        ] {
            let (found, message) = error(text);
            assert_eq!(found, kind, "{text}");
            assert!(message.starts_with(start), "{text}: {message}");
        }
        assert!(split("\\restrict a\n\\if 1\n").is_err());
        assert!(split("\\if 0\n\\gexec\n\\! x\n\\endif").is_ok());
    }

    #[test]
    fn items_come_in_order() {
        let items =
            split("\u{feff}\\echo a\nselect 1; \\warn -n b\n\\timing on\n\\set ON_ERROR_STOP off\nselect 2;")
                .unwrap();
        let kinds: Vec<_> = items
            .iter()
            .map(|item| match item {
                Item::Statement(statement) => statement.text.clone(),
                Item::Echo { stream, text, at, .. } => format!("{stream:?} {text:?} {at}"),
                Item::Ignored { command, at, .. } => format!("\\{command} {at}"),
                Item::ByteOrderMark { .. } => "mark".to_owned(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(
            kinds,
            [
                "mark",
                "Out \"a\\n\" 1:1",
                "select 1",
                "Err \"b\" 2:11",
                "\\timing 3:1",
                "\\set ON_ERROR_STOP off 4:1",
                "select 2"
            ]
        );
    }

    #[test]
    fn empty_statements_are_left_out() {
        for text in ["", ";;\n;", "-- c", "/* c */;", "/* c */", "\\;;", ";/**/\\;--\n;"] {
            assert_eq!(texts(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn strings_follow_the_setting() {
        let text = "set standard_conforming_strings = off; select '\\';\nselect '\\';';";
        // psql asks for the setting once a line.
        let found = statements(text);
        assert_eq!(
            found.iter().map(|it| it.text.as_str()).collect::<Vec<_>>()[1..],
            ["select '\\'", "select '\\';'"]
        );
        assert!(found[0].standard_conforming_strings);
        assert!(!found[1].standard_conforming_strings);
        let options = Options { standard_conforming_strings: false, ..Options::default() };
        assert_eq!(split_with(options, "select '\\';';").unwrap().len(), 1);
    }

    #[test]
    fn given_variables_are_known() {
        let variables = vec![("DBNAME".to_owned(), "factory".to_owned())];
        let options = Options { variables, ..Options::default() };
        let items = split_with(options, "select :'DBNAME';\n\\if :{?DBNAME}\nselect 2;\n\\endif").unwrap();
        assert_eq!(items.len(), 2);
    }

    fn script(files: &[(&str, &str)]) -> Result<Vec<Item>, SqlError> {
        let files: HashMap<String, String> =
            files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        let open = move |path: &str| {
            let text =
                files.get(path).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such file"))?;
            Ok(Cursor::new(text.clone().into_bytes()))
        };
        Script::open(open, Options { path: "m/main.sql".to_owned(), ..Options::default() })?.collect()
    }

    #[test]
    fn included_files_come_in_place() {
        let items = script(&[
            ("m/main.sql", "select 1\n\\ir sub/a.sql\n, 2;\n\\i b.sql \\\\ select :v;"),
            ("m/sub/a.sql", "\\set v 3\nselect 'a';\n\\ir ../../b.sql\n\\q\nnot read"),
            ("b.sql", "select 'b'"),
        ])
        .unwrap();
        let seen: Vec<_> = items
            .iter()
            .map(|item| match item {
                Item::Statement(statement) => format!("{} {}", statement.file.0, statement.text),
                Item::IncludeStart { file, path, from, at } => {
                    format!("{} is {path} from {} {at}", file.0, from.0)
                }
                Item::IncludeEnd { file } => format!("{} ends", file.0),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(
            seen,
            [
                "1 is m/sub/a.sql from 0 2:1",
                "1 select 'a'",
                "2 is b.sql from 1 3:1",
                "2 select 'b'",
                "2 ends",
                "1 ends",
                "0 select 1\n, 2",
                "3 is b.sql from 0 4:1",
                "3 select 'b'",
                "3 ends",
                "0 select 3",
            ]
        );
    }

    #[test]
    fn includes_that_cannot_be() {
        let message = |files: &[(&str, &str)]| script(files).unwrap_err().to_string();
        assert_eq!(message(&[]), "m/main.sql:1:1: no such file");
        assert_eq!(
            message(&[("m/main.sql", "select 1;\n  \\ir x.sql")]),
            "m/main.sql:2:3: cannot include m/x.sql: no such file"
        );
        assert_eq!(
            message(&[("m/main.sql", "\\ir x.sql"), ("m/x.sql", "\n\\i ./m/../m/main.sql")]),
            "m/x.sql:2:1: m/main.sql includes itself"
        );
        assert_eq!(
            message(&[("m/main.sql", "\\ir x.sql"), ("m/x.sql", "\\if 1")]),
            "m/x.sql:1:1: this \\if has no \\endif"
        );
        let mut files: Vec<_> =
            (0..40).map(|n| (format!("m/{n}.sql"), format!("\\ir {}.sql", n + 1))).collect();
        files.push(("m/main.sql".to_owned(), "\\ir 0.sql".to_owned()));
        let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        assert_eq!(message(&files), "m/31.sql:1:1: m/32.sql: files are included more than 32 deep");
    }

    #[test]
    fn a_dump_in_custom_format_is_named() {
        let open = |_: &str| Ok(Cursor::new(b"PGDMP\x01\x0e\0\xff"));
        let items: Vec<_> = Script::open(open, Options::default()).unwrap().collect();
        assert_eq!(
            items[0].as_ref().unwrap_err().message,
            "the file is a custom-format dump of pg_dump, not SQL"
        );
    }

    #[test]
    fn a_file_that_is_not_utf8_is_named_with_the_place() {
        for capacity in [1, 7, 1024] {
            let open =
                |_: &str| Ok(io::BufReader::with_capacity(capacity, Cursor::new(b"select 1;\nab\xffc;\n")));
            let items: Vec<_> = Script::open(open, Options::default()).unwrap().collect();
            let last = items.last().unwrap().as_ref().unwrap_err();
            assert_eq!(last.to_string(), "<input>:2:3: not UTF-8: byte 0xFF", "{capacity}");
        }
    }
}
