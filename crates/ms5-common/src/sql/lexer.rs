//! The scanner that finds where statements end, as psql's does.
//!
//! A port of `src/fe_utils/psqlscan.l` as it is in PostgreSQL 18.6, 17.11 and 15.20; before these, psql took COPY data
//! when the server asked for it and looked at words in parentheses too. psql feeds it one line at a time, without the
//! newline; what a line leaves open (a quote, a comment, parentheses, a `BEGIN ATOMIC` body) lives in [`Scanner`] between
//! lines. The scanner copies no text: it reports where it stopped and why, and the caller takes the text up to there.

use std::ops::Range;

use super::rules::{
    blank_end, dollar_delimiter_end, find_from, is_ident_cont, is_ident_start, is_pair, is_space,
    is_variable_char, line_comment_end, number_end, quote_continues, run_end,
};

/// The start conditions of psqlscan.l.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// `INITIAL`: outside of everything.
    Initial,
    /// `xb`: bit string `B'...'`.
    BitString,
    /// `xh`: hexadecimal string `X'...'`.
    HexString,
    /// `xq`: standard string, backslashes are ordinary.
    Quote,
    /// `xe`: string with backslash escapes.
    EscapeQuote,
    /// `xus`: string with Unicode escapes `U&'...'`.
    UnicodeQuote,
    /// `xqs`: behind a closing quote, where the string may go on after a newline.
    QuoteStop,
    /// `xd`: quoted identifier.
    Identifier,
    /// `xui`: quoted identifier with Unicode escapes.
    UnicodeIdentifier,
    /// `xdolq`: `$tag$...$tag$`.
    DollarQuote,
    /// `xc`: `/* ... */`, which nests.
    Comment,
}

/// Why [`Scanner::scan`] stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StopKind {
    /// `LEXRES_EOL`: the text is used up.
    End,
    /// `LEXRES_SEMI`: a semicolon that ends a statement.
    Semicolon,
    /// `LEXRES_BACKSLASH`: a psql command follows.
    Backslash,
    /// `\;` or `\:`, which put the bare character into the statement; the flag says whether it is a semicolon
    /// that separates two statements of one message.
    Escaped(char, bool),
    /// A reference to a psql variable.
    Variable(Reference),
}

/// How a variable is referred to, and the place of its name in the scanned text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    /// The form of the reference.
    pub(super) kind: ReferenceKind,
    /// Where the bare name stands.
    pub(super) name: Range<usize>,
}

/// The four forms of a variable reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReferenceKind {
    /// `:name`: the value as it is.
    Plain,
    /// `:'name'`: the value as a string literal.
    Literal,
    /// `:"name"`: the value as a quoted identifier.
    Identifier,
    /// `:{?name}`: TRUE or FALSE, whether the variable exists.
    Test,
}

/// Where and why [`Scanner::scan`] stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stop {
    /// The end of the text that belongs to the statement as it stands.
    pub(super) at: usize,
    /// Where to go on.
    pub(super) next: usize,
    /// The reason.
    pub(super) kind: StopKind,
}

/// What is open where the text ended, and the text offset (see [`Scanner::scan`]) where that began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Open {
    /// What is open.
    pub(super) kind: OpenKind,
    /// The text offset of its first character.
    pub(super) at: usize,
}

/// What can be left open at the end of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OpenKind {
    /// A string in single quotes of any kind.
    String,
    /// A quoted identifier.
    Identifier,
    /// A dollar-quoted string.
    DollarQuote,
    /// A block comment.
    Comment,
    /// A parenthesis.
    Parenthesis,
    /// The body of a function between `BEGIN` and `END`.
    Block,
}

/// The part of the state that `\if` saves and `\else`, `\elif`, `\endif` restore (`PsqlScanStateSave`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Nesting {
    paren_depth: u32,
    paren_at: usize,
    begin_depth: u32,
    begin_at: usize,
    copy_stdin_count: u32,
    init_idents_count: usize,
    init_idents: [u8; 8],
    /// Cached: do the initial identifiers say CREATE [OR REPLACE] FUNCTION or PROCEDURE?
    create_routine: bool,
}

/// How far a part of the scanner came.
enum Scanned {
    UpTo(usize),
    Stop(Stop),
}

/// The state of psql's scanner between lines (`PsqlScanStateData`).
#[derive(Debug, Clone)]
pub(super) struct Scanner {
    std_strings: bool,
    state: State,
    state_before_str_stop: State,
    xcdepth: u32,
    dolqstart: Vec<u8>,
    /// Text offset of the quote or comment that is open.
    opened_at: usize,
    nesting: Nesting,
}

impl Scanner {
    /// A scanner at the start of a statement.
    pub(super) fn new(standard_conforming_strings: bool) -> Self {
        Self {
            std_strings: standard_conforming_strings,
            state: State::Initial,
            state_before_str_stop: State::Initial,
            xcdepth: 0,
            dolqstart: Vec::new(),
            opened_at: 0,
            nesting: Nesting::default(),
        }
    }

    /// Says how `'...'` is to be read from here on. psql asks once a line (`psql_scan_setup`).
    pub(super) fn set_standard_conforming_strings(&mut self, on: bool) {
        self.std_strings = on;
    }

    /// Forgets the statement so far (`psql_scan_reset`).
    pub(super) fn reset(&mut self) {
        self.reselect();
        self.nesting = Nesting::default();
    }

    /// Returns to `INITIAL` after a psql command (`psql_scan_reselect_sql_lexer`).
    pub(super) fn reselect(&mut self) {
        self.state = State::Initial;
    }

    /// Is the scanner inside a quote or comment (`psql_scan_in_quote`)?
    pub(super) fn in_quote(&self) -> bool {
        !matches!(self.state, State::Initial | State::QuoteStop)
    }

    /// The nesting to be saved by `\if` (`psql_scan_get_lex_state`).
    pub(super) fn nesting(&self) -> Nesting {
        self.nesting
    }

    /// Restores what [`Scanner::nesting`] gave (`psql_scan_set_lex_state`).
    pub(super) fn set_nesting(&mut self, nesting: Nesting) {
        self.nesting = nesting;
    }

    /// How many `COPY ... FROM STDIN` the finished statement holds (`psql_scan_count_copy_from_stdin`).
    pub(super) fn count_copy_from_stdin(&mut self) -> u32 {
        self.end_statement();
        self.nesting.copy_stdin_count
    }

    /// Ends a statement of a skipped `\if` branch that began with this nesting: it counts for nothing, and only
    /// the number of its `COPY ... FROM STDIN` is told.
    pub(super) fn skip_statement(&mut self, began_with: &Nesting) -> u32 {
        let skipped = self.nesting.copy_stdin_count.saturating_sub(began_with.copy_stdin_count);
        self.nesting.copy_stdin_count = began_with.copy_stdin_count;
        skipped
    }

    /// What is still open, the innermost thing first asked.
    pub(super) fn open(&self) -> Option<Open> {
        let kind = match self.state {
            State::Initial | State::QuoteStop => {
                let Nesting { paren_depth, paren_at, begin_depth, begin_at, .. } = self.nesting;
                return if paren_depth > 0 {
                    Some(Open { kind: OpenKind::Parenthesis, at: paren_at })
                } else if begin_depth > 0 {
                    Some(Open { kind: OpenKind::Block, at: begin_at })
                } else {
                    None
                };
            }
            State::Identifier | State::UnicodeIdentifier => OpenKind::Identifier,
            State::DollarQuote => OpenKind::DollarQuote,
            State::Comment => OpenKind::Comment,
            State::BitString | State::HexString | State::Quote | State::EscapeQuote | State::UnicodeQuote => {
                OpenKind::String
            }
        };
        Some(Open { kind, at: self.opened_at })
    }

    /// The end of the whitespace and `--` comments at `from`, which psql drops before a statement's first
    /// token; `from` itself inside quotes.
    pub(super) fn skip_blank(&self, text: &str, from: usize) -> usize {
        match self.state {
            State::Initial => blank_end(text.as_bytes(), from),
            _ => from,
        }
    }

    /// Scans `text` from `from` to the next point where the caller has to act.
    ///
    /// `text_at` is the offset that `text[from]` will have in the statement's text; positions kept for
    /// [`Scanner::open`] count from there.
    pub(super) fn scan(&mut self, text: &str, from: usize, text_at: usize) -> Stop {
        let bytes = text.as_bytes();
        let mut at = from;
        while at < bytes.len() {
            at = match self.state {
                State::Initial => match self.initial(bytes, at, from, text_at) {
                    Scanned::UpTo(end) => end,
                    Scanned::Stop(stop) => return stop,
                },
                State::QuoteStop => match quote_continues(bytes, at) {
                    Some(next) => {
                        self.state = self.state_before_str_stop;
                        next
                    }
                    None => {
                        self.state = State::Initial;
                        at
                    }
                },
                State::BitString | State::HexString => self.quoted(bytes, at, false, false),
                State::Quote | State::UnicodeQuote => self.quoted(bytes, at, true, false),
                State::EscapeQuote => self.quoted(bytes, at, true, true),
                State::Identifier | State::UnicodeIdentifier => self.quoted_identifier(bytes, at),
                State::DollarQuote => self.dollar_quoted(bytes, at),
                State::Comment => self.comment(bytes, at),
            };
        }
        Stop { at, next: at, kind: StopKind::End }
    }

    /// Tokens in `INITIAL`, up to a reason to stop, the end of the text or the start of another state.
    fn initial(&mut self, text: &[u8], mut at: usize, from: usize, text_at: usize) -> Scanned {
        let stop = |at, next, kind| Scanned::Stop(Stop { at, next, kind });
        while let Some(&byte) = text.get(at) {
            let next = text.get(at + 1).copied();
            at = match byte {
                b' ' | b'\t'..=b'\r' => run_end(text, at + 1, is_space),
                b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80.. => {
                    match (byte, next) {
                        (b'b' | b'B', Some(b'\'')) => {
                            return self.open_quote(State::BitString, text_at + at - from, at + 2);
                        }
                        (b'x' | b'X', Some(b'\'')) => {
                            return self.open_quote(State::HexString, text_at + at - from, at + 2);
                        }
                        (b'e' | b'E', Some(b'\'')) => {
                            return self.open_quote(State::EscapeQuote, text_at + at - from, at + 2);
                        }
                        // xnstart: the quote is read next
                        (b'n' | b'N', Some(b'\'')) => at + 1,
                        (b'u' | b'U', Some(b'&')) => match text.get(at + 2) {
                            Some(b'\'') => {
                                return self.open_quote(State::UnicodeQuote, text_at + at - from, at + 3);
                            }
                            Some(b'"') => {
                                return self.open_quote(
                                    State::UnicodeIdentifier,
                                    text_at + at - from,
                                    at + 3,
                                );
                            }
                            // xufailed, which psql does not track as an identifier
                            _ => at + 1,
                        },
                        _ => {
                            let end = run_end(text, at + 1, is_ident_cont);
                            if self.nesting.paren_depth == 0
                                && let Some(word) = text.get(at..end)
                            {
                                self.track_identifier(word, text_at + at - from);
                            }
                            end
                        }
                    }
                }
                b'0'..=b'9' => number_end(text, at),
                b'.' => match next {
                    Some(b'0'..=b'9') => number_end(text, at),
                    Some(b'.') => at + 2,
                    _ => at + 1,
                },
                b'\'' => {
                    let state = if self.std_strings { State::Quote } else { State::EscapeQuote };
                    return self.open_quote(state, text_at + at - from, at + 1);
                }
                b'"' => return self.open_quote(State::Identifier, text_at + at - from, at + 1),
                b'$' => {
                    if let Some(end) = dollar_delimiter_end(text, at) {
                        self.dolqstart.clear();
                        self.dolqstart.extend_from_slice(text.get(at..end).unwrap_or_default());
                        return self.open_quote(State::DollarQuote, text_at + at - from, end);
                    }
                    parameter_end(text, at)
                }
                b'-' if next == Some(b'-') => line_comment_end(text, at + 2),
                b'/' if next == Some(b'*') => {
                    self.xcdepth = 0;
                    return self.open_quote(State::Comment, text_at + at - from, at + 2);
                }
                b'(' => {
                    if self.nesting.paren_depth == 0 {
                        self.nesting.paren_at = text_at + at - from;
                    }
                    self.nesting.paren_depth = self.nesting.paren_depth.saturating_add(1);
                    at + 1
                }
                b')' => {
                    self.nesting.paren_depth = self.nesting.paren_depth.saturating_sub(1);
                    at + 1
                }
                b';' => {
                    if self.at_outer_level() {
                        self.end_statement();
                        return stop(at, at + 1, StopKind::Semicolon);
                    }
                    at + 1
                }
                b'\\' => {
                    return match next {
                        Some(b';') => {
                            let separates = self.at_outer_level();
                            if separates {
                                self.end_statement();
                            }
                            stop(at, at + 2, StopKind::Escaped(';', separates))
                        }
                        Some(b':') => stop(at, at + 2, StopKind::Escaped(':', false)),
                        _ => stop(at, at + 1, StopKind::Backslash),
                    };
                }
                b':' => match variable_reference(text, at) {
                    Some((reference, next)) => return stop(at, next, StopKind::Variable(reference)),
                    None if matches!(next, Some(b':' | b'=')) => at + 2, // typecast, colon_equals
                    None => at + 1,
                },
                // Operators one character at a time: `operator` is cut before "/*" and "--" anyway.
                _ => at + 1,
            };
        }
        Scanned::UpTo(at)
    }

    fn open_quote(&mut self, state: State, here: usize, next: usize) -> Scanned {
        self.state = state;
        self.opened_at = here;
        Scanned::UpTo(next)
    }

    /// Up to and with the closing quote of `'...'`, or the end of the text.
    fn quoted(&mut self, text: &[u8], mut at: usize, doubles: bool, escapes: bool) -> usize {
        loop {
            at = if escapes {
                run_end(text, at, |byte| byte != b'\'' && byte != b'\\')
            } else {
                find_from(text, at, b'\'')
            };
            match text.get(at) {
                None => return text.len(),
                // A backslash at the end of the text escapes nothing: psql sees the newline only in part.
                Some(b'\\') => at = (at + 2).min(text.len()),
                Some(_) if doubles && text.get(at + 1) == Some(&b'\'') => at += 2,
                Some(_) => {
                    self.state_before_str_stop = self.state;
                    self.state = State::QuoteStop;
                    return at + 1;
                }
            }
        }
    }

    fn quoted_identifier(&mut self, text: &[u8], mut at: usize) -> usize {
        loop {
            at = find_from(text, at, b'"');
            if at == text.len() {
                return at;
            }
            if text.get(at + 1) != Some(&b'"') {
                self.state = State::Initial;
                return at + 1;
            }
            at += 2;
        }
    }

    fn dollar_quoted(&mut self, text: &[u8], mut at: usize) -> usize {
        loop {
            at = find_from(text, at, b'$');
            match text.get(at..) {
                Some(rest) if rest.starts_with(&self.dolqstart) => {
                    self.state = State::Initial;
                    return at + self.dolqstart.len();
                }
                Some([_, ..]) => at += 1,
                _ => return text.len(),
            }
        }
    }

    fn comment(&mut self, text: &[u8], mut at: usize) -> usize {
        loop {
            at = run_end(text, at, |byte| byte != b'*' && byte != b'/');
            if is_pair(text, at, b'*', b'/') {
                at += 2;
                if self.xcdepth == 0 {
                    self.state = State::Initial;
                    return at;
                }
                self.xcdepth -= 1;
            } else if is_pair(text, at, b'/', b'*') {
                self.xcdepth = self.xcdepth.saturating_add(1);
                at += 2;
            } else if at < text.len() {
                at += 1;
            } else {
                return at;
            }
        }
    }

    fn at_outer_level(&self) -> bool {
        self.nesting.paren_depth == 0 && self.nesting.begin_depth == 0
    }

    /// Counts the statement that ends here if it is a COPY FROM STDIN.
    ///
    /// psql 18.6 and its like count even where no word was seen since the last semicolon, and so take a second `;`
    /// behind a COPY for another COPY and swallow what follows. That loses statements; it is not copied here.
    fn end_statement(&mut self) {
        if self.nesting.init_idents_count > 0 && is_copy_from_stdin(&self.nesting.init_idents) {
            self.nesting.copy_stdin_count = self.nesting.copy_stdin_count.saturating_add(1);
        }
        self.nesting.init_idents_count = 0;
    }

    /// `psqlscan_track_identifier`, outside of parentheses: notes the statement's first words, and counts BEGIN, CASE and END in what
    /// begins with CREATE [OR REPLACE] FUNCTION or PROCEDURE, so that semicolons in there don't end it.
    fn track_identifier(&mut self, word: &[u8], here: usize) {
        let nesting = &mut self.nesting;
        if nesting.init_idents_count == 0 {
            nesting.init_idents = [0; 8];
            nesting.create_routine = false;
        }
        if let Some(slot) = nesting.init_idents.get_mut(nesting.init_idents_count) {
            *slot = initial_keyword(word);
            nesting.init_idents_count += 1;
            nesting.create_routine = is_create_routine(&nesting.init_idents);
        }
        if !nesting.create_routine {
            return;
        }
        if word.eq_ignore_ascii_case(b"begin") {
            if nesting.begin_depth == 0 {
                nesting.begin_at = here;
            }
            nesting.begin_depth = nesting.begin_depth.saturating_add(1);
        } else if word.eq_ignore_ascii_case(b"case") {
            // CASE ends with END too; it matters inside a BEGIN only.
            if nesting.begin_depth >= 1 {
                nesting.begin_depth = nesting.begin_depth.saturating_add(1);
            }
        } else if word.eq_ignore_ascii_case(b"end") {
            nesting.begin_depth = nesting.begin_depth.saturating_sub(1);
        }
    }
}

/// `psqlscan_record_initial_keyword`: one letter for each keyword of interest, 0 for all other words.
fn initial_keyword(word: &[u8]) -> u8 {
    let keywords: &[(&[u8], u8)] = match word.len() {
        2 => &[(b"or", b'o')],
        4 => &[(b"copy", b'C'), (b"from", b'F')],
        5 => &[(b"stdin", b'S')],
        6 => &[(b"create", b'c'), (b"stdout", b'S')], // the server's grammar takes STDOUT for STDIN
        7 => &[(b"replace", b'r')],
        8 => &[(b"function", b'f')],
        9 => &[(b"procedure", b'p')],
        _ => &[],
    };
    keywords.iter().find(|(keyword, _)| word.eq_ignore_ascii_case(keyword)).map_or(0, |&(_, letter)| letter)
}

/// `psqlscan_is_create_routine`.
fn is_create_routine(idents: &[u8; 8]) -> bool {
    matches!(idents, [b'c', b'f' | b'p', ..] | [b'c', b'o', b'r', b'f' | b'p', ..])
}

/// `psqlscan_is_copy_from_stdin`: COPY first, up to five words, then FROM STDIN. Words in parentheses are not
/// among the recorded ones, so a column list does not disturb and `COPY (query) TO` is never taken for it.
fn is_copy_from_stdin(idents: &[u8; 8]) -> bool {
    let [b'C', rest @ ..] = idents else { return false };
    match rest.iter().position(|&letter| letter == b'F') {
        Some(from) => rest.get(from + 1) == Some(&b'S'),
        None => false,
    }
}

/// `param` and `param_junk`, or a lone dollar sign.
fn parameter_end(text: &[u8], at: usize) -> usize {
    let end = run_end(text, at + 1, |byte| byte.is_ascii_digit());
    match text.get(end) {
        Some(&byte) if end > at + 1 && is_ident_start(byte) => run_end(text, end, is_ident_cont),
        _ => end,
    }
}

/// The variable reference at `at`, where a colon stands, and its end.
pub(super) fn variable_reference(text: &[u8], at: usize) -> Option<(Reference, usize)> {
    let (kind, start, closing) = match text.get(at + 1)? {
        &byte if is_variable_char(byte) => (ReferenceKind::Plain, at + 1, None),
        b'\'' => (ReferenceKind::Literal, at + 2, Some(b'\'')),
        b'"' => (ReferenceKind::Identifier, at + 2, Some(b'"')),
        b'{' if text.get(at + 2) == Some(&b'?') => (ReferenceKind::Test, at + 3, Some(b'}')),
        _ => return None,
    };
    let end = run_end(text, start, is_variable_char);
    let closed = closing.is_none_or(|byte| text.get(end) == Some(&byte));
    (closed && end > start)
        .then(|| (Reference { kind, name: start..end }, end + usize::from(closing.is_some())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds lines and returns the kinds of stops, line ends left out, and the scanner.
    fn run(std_strings: bool, lines: &[&str]) -> (Vec<StopKind>, Scanner) {
        let mut scanner = Scanner::new(std_strings);
        let mut stops = Vec::new();
        for line in lines {
            let mut at = 0;
            loop {
                let stop = scanner.scan(line, at, at);
                at = stop.next;
                if stop.kind == StopKind::End {
                    break;
                }
                stops.push(stop.kind);
            }
        }
        (stops, scanner)
    }

    fn semicolons(lines: &[&str]) -> usize {
        run(true, lines).0.iter().filter(|kind| **kind == StopKind::Semicolon).count()
    }

    #[test]
    fn semicolons_count_outside_of_quotes_comments_and_parentheses() {
        for (lines, expected) in [
            (&["select 1; select 2;"][..], 2),
            (&["select ';', \";\", $$;$$, (;), /* ; /* ; */ ; */ 1; -- ;"], 1),
            (&["select 'a", ";b';"], 1),
            (&["select E'\\';';"], 1),
            (&["select '\\';"], 1),
            (&["select U&'\\';"], 1),
            (&["select U&\"a;\";"], 1),
            (&["select n'a;' , b'1;' , x'f;';"], 1),
            (&["select $a$ $b$ ; $a $ $a$;"], 1),
            (&["select $ä$;$ä$;"], 1),
            (&["select a$b$; select c$b$;"], 2),
            (&["select 1a$x$; select 2;"], 2),
            (&["select 1$x$;$x$;"], 1),
            (&["select $1$x$;$x$;"], 1),
            (&["select 1e'\\'; select 2;"], 2),
            (&["select @-- ;", "1;"], 1),
            (&["select 1+/* ; */2;"], 1),
            (&["select /*/ ; */ 1;"], 1),
            (&["select ((1);"], 0),
            (&["select 1);"], 1),
        ] {
            assert_eq!(semicolons(lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn begin_atomic_bodies_hold_semicolons() {
        let body = "begin atomic select 1; select case when a then 1 end; end;";
        assert_eq!(semicolons(&[&format!("create function f() returns int {body}")]), 1);
        assert_eq!(semicolons(&[&format!("create or replace procedure f() {body}")]), 1);
        assert_eq!(semicolons(&[&format!("create view f {body}")]), 3);
        // Words in parentheses are not looked at, nor is CASE outside of BEGIN.
        assert_eq!(semicolons(&["create function f(\"begin\" int, begin int) as case;"]), 1);
        let (_, scanner) = run(true, &["create function f() begin atomic select 1;"]);
        assert_eq!(scanner.open(), Some(Open { kind: OpenKind::Block, at: 20 }));
    }

    #[test]
    fn a_string_is_not_continued_across_lines_but_within_one_buffer() {
        // psql hands its scanner one line at a time, so the second line begins a standard string.
        let (stops, scanner) = run(true, &["select e'a'", "'b\\'; select 2;"]);
        assert_eq!(stops, [StopKind::Semicolon, StopKind::Semicolon]);
        assert!(!scanner.in_quote());
        let (stops, _) = run(true, &["select e'a'\r'b\\'; select 2;'"]);
        assert_eq!(stops, []);
    }

    #[test]
    fn standard_conforming_strings_off_makes_backslashes_escape() {
        assert_eq!(run(false, &["select '\\';';"]).0, [StopKind::Semicolon]);
        assert_eq!(run(false, &["select n'\\';';"]).0, [StopKind::Semicolon]);
        assert_eq!(run(true, &["select '\\';';"]).0, [StopKind::Semicolon]);
        assert!(run(true, &["select '\\';';"]).1.in_quote());
    }

    #[test]
    fn variables_are_seen_outside_of_quotes_only() {
        let (stops, _) =
            run(true, &[":a :'b' :\"c\" :{?d} ::e :=f ':g' \":h\" $$:i$$ /*:j*/ :'k :{?l :- --:m"]);
        let kinds: Vec<_> = stops
            .iter()
            .map(|kind| match kind {
                StopKind::Variable(reference) => reference.kind,
                other => panic!("{other:?}"),
            })
            .collect();
        // the quote of :'k swallows the rest
        assert_eq!(
            kinds,
            [ReferenceKind::Plain, ReferenceKind::Literal, ReferenceKind::Identifier, ReferenceKind::Test]
        );
    }

    #[test]
    fn backslashes() {
        let (stops, _) = run(true, &["a \\; b \\: c (\\;) \\d"]);
        assert_eq!(
            stops,
            [
                StopKind::Escaped(';', true),
                StopKind::Escaped(':', false),
                StopKind::Escaped(';', false),
                StopKind::Backslash
            ]
        );
    }

    #[test]
    fn copy_from_stdin_is_counted() {
        for (text, expected) in [
            ("copy t from stdin", 1),
            ("copy binary a.b.c from stdin with (format csv)", 1),
            ("copy t (a, \"from\") FROM STDIN", 1),
            ("copy t from stdout", 1),
            ("copy t to stdout", 0),
            ("copy (select * from stdin) to stdout", 0),
            ("copy t from 'stdin'", 0),
            ("copy t from program 'stdin'", 0),
            ("select copy from stdin", 0),
            ("copy a from stdin \\; select 1 \\; copy b from stdin", 2),
            ("copy a from stdin \\; \\; (values (1)) \\;", 1),
            ("/* c */ copy copy from stdin -- c", 1),
        ] {
            let (_, mut scanner) = run(true, &[text]);
            assert_eq!(scanner.count_copy_from_stdin(), expected, "{text}");
            assert_eq!(scanner.count_copy_from_stdin(), expected, "asked twice: {text}");
        }
    }

    #[test]
    fn what_is_open_is_named_with_its_place() {
        for (text, kind, at) in [
            ("select 'a", OpenKind::String, 7),
            ("select e'a\\'", OpenKind::String, 7),
            ("select \"a", OpenKind::Identifier, 7),
            ("select $a$ $b$", OpenKind::DollarQuote, 7),
            ("select /* /* */", OpenKind::Comment, 7),
            ("select (1, (2)", OpenKind::Parenthesis, 7),
        ] {
            assert_eq!(run(true, &[text]).1.open(), Some(Open { kind, at }), "{text}");
        }
        assert_eq!(run(true, &["select 'a'"]).1.open(), None);
    }
}
