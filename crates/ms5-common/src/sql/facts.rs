//! What a statement does to its transaction and its session, decided on its tokens.

use std::borrow::Cow;
use std::ops::Range;

use super::meta::is_utf8;
use super::tokens::{Token, TokenKind, Tokens, tokens};
use super::variables::parse_bool;

/// Statements that begin, end or shape a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransactionControl {
    /// BEGIN, START TRANSACTION.
    Begin,
    /// COMMIT, END.
    Commit,
    /// ROLLBACK, ABORT.
    Rollback,
    /// SAVEPOINT.
    Savepoint,
    /// `RELEASE [SAVEPOINT]`.
    Release,
    /// `ROLLBACK TO [SAVEPOINT]`.
    RollbackTo,
    /// PREPARE TRANSACTION.
    PrepareTransaction,
    /// COMMIT PREPARED.
    CommitPrepared,
    /// ROLLBACK PREPARED.
    RollbackPrepared,
    /// SET [LOCAL|SESSION] TRANSACTION ...
    SetTransaction,
    /// SET SESSION CHARACTERISTICS AS TRANSACTION ...
    SetSessionCharacteristics,
}

/// Statements that change the session beyond the transaction, other than by a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SessionControl {
    /// SET [LOCAL|SESSION] SESSION AUTHORIZATION, RESET SESSION AUTHORIZATION.
    SessionAuthorization,
    /// SET [LOCAL|SESSION] ROLE, RESET ROLE.
    Role,
    /// RESET ALL.
    ResetAll,
    /// DISCARD ALL.
    DiscardAll,
    /// DISCARD PLANS, SEQUENCES, TEMP.
    Discard,
    /// LISTEN.
    Listen,
    /// UNLISTEN.
    Unlisten,
    /// NOTIFY.
    Notify,
    /// PREPARE.
    Prepare,
    /// DEALLOCATE.
    Deallocate,
    /// DECLARE ... CURSOR.
    DeclareCursor,
    /// LOAD.
    Load,
}

/// How long a setting holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// To the end of the session, if the transaction commits.
    Session,
    /// To the end of the transaction.
    Local,
}

/// A setting that a statement changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// How long it holds.
    pub scope: Scope,
    /// The parameter, in lower case.
    pub name: String,
    /// The value as one text, a list joined by ", "; None for DEFAULT and RESET.
    pub value: Option<String>,
}

impl Setting {
    /// Does it set client_encoding to something other than UTF8? Files are UTF-8 here, so the server would
    /// misread them.
    pub fn is_foreign_encoding(&self) -> bool {
        self.name == "client_encoding" && self.value.as_ref().is_some_and(|value| !is_utf8(value))
    }

    /// Does it set standard_conforming_strings, and to what (None: back to the default)?
    pub fn standard_conforming_strings(&self) -> Option<Option<bool>> {
        if self.name != "standard_conforming_strings" {
            return None;
        }
        match &self.value {
            None => Some(None),
            // A value that the server refuses changes nothing.
            Some(value) => parse_bool(value).map(Some),
        }
    }
}

/// The facts on one statement: a message, or one part of it where `\;` joins several.
///
/// Only its first tokens are kept, so a statement of many megabytes costs no more than a short one, unless something is
/// asked that needs them all.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    text: &'a str,
    std_strings: bool,
    head: Vec<Token<'a>>,
}

/// As many tokens as any keyword that is looked at can have before it.
const HEAD: usize = 8;

impl<'a> Facts<'a> {
    /// The facts on one statement, read under this setting of standard_conforming_strings.
    pub fn of(text: &'a str, standard_conforming_strings: bool) -> Self {
        let head = tokens(text, standard_conforming_strings).take(HEAD).collect();
        Self { text, std_strings: standard_conforming_strings, head }
    }

    /// The statement's tokens.
    pub fn tokens(&self) -> Tokens<'a> {
        tokens(self.text, self.std_strings)
    }

    /// Up to `most` words that the statement begins with, in lower case: keywords and names without quotes,
    /// ended by anything else.
    pub fn first_words(&self, most: usize) -> Vec<Cow<'a, str>> {
        self.tokens()
            .take(most)
            .take_while(|token| token.kind == TokenKind::Word)
            .filter_map(|token| token.name())
            .collect()
    }

    /// Does the statement begin with these words, given in lower case?
    pub fn begins_with(&self, words: &[&str]) -> bool {
        let mut tokens = self.tokens();
        words.iter().all(|word| tokens.next().is_some_and(|token| token.is_word(word)))
    }

    fn is_word(&self, index: usize, word: &str) -> bool {
        self.head.get(index).is_some_and(|token| token.is_word(word))
    }

    /// The transaction control that the statement is.
    pub fn transaction_control(&self) -> Option<TransactionControl> {
        use TransactionControl as Control;
        let first = self.head.first().filter(|token| token.kind == TokenKind::Word)?.name()?;
        let is = |index, word| self.is_word(index, word);
        match first.as_ref() {
            "begin" => Some(Control::Begin),
            "start" if is(1, "transaction") => Some(Control::Begin),
            "commit" if is(1, "prepared") => Some(Control::CommitPrepared),
            "commit" | "end" => Some(Control::Commit),
            "rollback" if is(1, "prepared") => Some(Control::RollbackPrepared),
            "rollback" | "abort" => {
                let behind = if is(1, "work") || is(1, "transaction") { 2 } else { 1 };
                Some(if is(behind, "to") { Control::RollbackTo } else { Control::Rollback })
            }
            "savepoint" => Some(Control::Savepoint),
            "release" => Some(Control::Release),
            "prepare" if is(1, "transaction") => Some(Control::PrepareTransaction),
            "set" if is(1, "session") && is(2, "characteristics") => Some(Control::SetSessionCharacteristics),
            "set" if is(self.behind_scope(), "transaction") => Some(Control::SetTransaction),
            _ => None,
        }
    }

    /// The session control that the statement is.
    pub fn session_control(&self) -> Option<SessionControl> {
        use SessionControl as Control;
        let first = self.head.first().filter(|token| token.kind == TokenKind::Word)?.name()?;
        let is = |index, word| self.is_word(index, word);
        let name = self.behind_scope();
        match first.as_ref() {
            "set" if is(name, "session") && is(name + 1, "authorization") => {
                Some(Control::SessionAuthorization)
            }
            "set" if is(1, "session") && is(2, "authorization") => Some(Control::SessionAuthorization),
            "set" if is(name, "role") => Some(Control::Role),
            "reset" if is(1, "session") && is(2, "authorization") => Some(Control::SessionAuthorization),
            "reset" if is(1, "role") => Some(Control::Role),
            "reset" if is(1, "all") => Some(Control::ResetAll),
            "discard" if is(1, "all") => Some(Control::DiscardAll),
            "discard" => Some(Control::Discard),
            "listen" => Some(Control::Listen),
            "unlisten" => Some(Control::Unlisten),
            "notify" => Some(Control::Notify),
            "prepare" if !is(1, "transaction") => Some(Control::Prepare),
            "deallocate" => Some(Control::Deallocate),
            "declare" => Some(Control::DeclareCursor),
            "load" => Some(Control::Load),
            _ => None,
        }
    }

    /// The index of the token behind SET and SESSION or LOCAL.
    fn behind_scope(&self) -> usize {
        if self.is_word(1, "session") || self.is_word(1, "local") { 2 } else { 1 }
    }

    /// The setting that a SET or RESET statement changes. SET TRANSACTION, ROLE and SESSION AUTHORIZATION are not
    /// settings here, though the server keeps them as such.
    pub fn setting(&self) -> Option<Setting> {
        if self.transaction_control().is_some() || self.session_control().is_some() {
            return None;
        }
        let reset = self.is_word(0, "reset");
        if !reset && !self.is_word(0, "set") {
            return None;
        }
        let tokens: Vec<_> = self.tokens().collect();
        if reset {
            return Some(Setting { scope: Scope::Session, name: parameter(&tokens, 1)?.0, value: None });
        }
        let at = self.behind_scope();
        let scope = if self.is_word(1, "local") { Scope::Local } else { Scope::Session };
        let is_assignment =
            |index: usize| tokens.get(index).is_some_and(|token| token.is_symbol("=") || token.is_word("to"));
        // The forms with words of their own.
        for (words, name) in [
            (&["time", "zone"][..], "timezone"),
            (&["names"], "client_encoding"),
            (&["schema"], "search_path"),
        ] {
            let matches = words.iter().enumerate().all(|(index, word)| self.is_word(at + index, word));
            // but "set schema = ..." sets a parameter of that name
            let value = at + words.len();
            if matches && !is_assignment(value) {
                return Some(Setting {
                    scope,
                    name: name.to_owned(),
                    value: setting_value(tokens.get(value..)?),
                });
            }
        }
        let (name, behind) = parameter(&tokens, at)?;
        let value = tokens.get(behind + 1..).unwrap_or_default();
        is_assignment(behind).then(|| Setting { scope, name, value: setting_value(value) })
    }

    /// Calls `set_config('name', 'value', is_local)` with constants, which change settings as SET does.
    pub fn set_config_calls(&self) -> Vec<Setting> {
        let tokens: Vec<_> = self.tokens().collect();
        let call = |window: &[Token<'_>]| {
            let [function, open, name, comma, value, another_comma, local] = window else { return None };
            let is_call = function.name().as_deref() == Some("set_config")
                && open.is_symbol("(")
                && comma.is_symbol(",")
                && another_comma.is_symbol(",")
                && (local.is_word("true") || local.is_word("false"));
            is_call.then_some(Setting {
                scope: if local.is_word("true") { Scope::Local } else { Scope::Session },
                name: name.string_value()?.to_ascii_lowercase(),
                value: Some(value.string_value()?.into_owned()),
            })
        };
        tokens.windows(7).filter_map(call).collect()
    }

    /// Is it COPY ... FROM STDIN, which waits for data?
    pub fn is_copy_from_stdin(&self) -> bool {
        self.is_copy_with_client("from")
    }

    /// Is it COPY ... TO STDOUT, which sends data?
    pub fn is_copy_to_stdout(&self) -> bool {
        self.is_copy_with_client("to")
    }

    fn is_copy_with_client(&self, direction: &str) -> bool {
        if !self.is_word(0, "copy") {
            return false;
        }
        let mut depth = 0_u32;
        let mut words = self.tokens().filter(|token| {
            if token.is_symbol("(") {
                depth = depth.saturating_add(1);
            } else if token.is_symbol(")") {
                depth = depth.saturating_sub(1);
            }
            depth == 0 && token.kind == TokenKind::Word
        });
        // The server's grammar takes each of the two words for the other.
        words.any(|word| word.is_word(direction))
            && words.next().is_some_and(|word| word.is_word("stdin") || word.is_word("stdout"))
    }

    /// Does a COPY statement ask for the binary format, whose data no text file can hold?
    pub fn is_binary_copy(&self) -> bool {
        if !self.is_word(0, "copy") {
            return false;
        }
        // COPY BINARY t ...; a table may have that name as well.
        if self.is_word(1, "binary") && !self.is_word(2, "from") && !self.is_word(2, "to") {
            return self.head.get(2).is_some_and(|token| token.name().is_some());
        }
        // COPY t FROM STDIN [WITH] BINARY, COPY t FROM STDIN (FORMAT BINARY)
        let is_binary = |token: &Token<'_>| {
            token
                .name()
                .or_else(|| token.string_value())
                .is_some_and(|name| name.eq_ignore_ascii_case("binary"))
        };
        let options = self.tokens().skip_while(|token| !token.is_word("stdin") && !token.is_word("stdout"));
        options.clone().zip(options.skip(1)).any(|(key, value)| {
            let before = ["stdin", "stdout", "with"].iter().any(|word| key.is_word(word));
            before && value.is_word("binary") || key.name().as_deref() == Some("format") && is_binary(&value)
        })
    }

    /// Where advisory locks are given up: calls of pg_advisory_unlock, pg_advisory_unlock_shared and
    /// pg_advisory_unlock_all, in the statement or in the body of a DO statement, as ranges of its text.
    pub fn advisory_unlocks(&self) -> Vec<Range<usize>> {
        let mut calls: Vec<_> = unlock_calls(self.tokens()).collect();
        if self.is_word(0, "do") {
            calls.extend(self.tokens().filter_map(|token| {
                let body = token.string_value()?;
                unlock_calls(tokens(&body, self.std_strings)).next().is_some().then_some(token.range)
            }));
        }
        calls
    }
}

/// A parameter's name, which may have dots, and the index of the token behind it.
fn parameter(tokens: &[Token<'_>], mut index: usize) -> Option<(String, usize)> {
    let mut name = tokens.get(index)?.name()?.to_ascii_lowercase();
    while tokens.get(index + 1).is_some_and(|token| token.is_symbol(".")) {
        index += 2;
        name.push('.');
        name.push_str(&tokens.get(index)?.name()?);
    }
    Some((name, index + 1))
}

fn setting_value(tokens: &[Token<'_>]) -> Option<String> {
    if let [only] = tokens
        && (only.is_word("default") || only.is_word("local"))
    {
        return None;
    }
    let mut value = String::new();
    for token in tokens.iter().take_while(|token| !token.is_symbol(";")) {
        if token.is_symbol(",") {
            value.push_str(", ");
        } else if let Some(text) = token.string_value().or_else(|| token.name()) {
            value.push_str(&text);
        } else {
            value.push_str(token.text);
        }
    }
    Some(value)
}

fn unlock_calls<'a>(tokens: Tokens<'a>) -> impl Iterator<Item = Range<usize>> + 'a {
    const NAMES: [&str; 3] = ["pg_advisory_unlock", "pg_advisory_unlock_shared", "pg_advisory_unlock_all"];
    let mut function = None;
    tokens.filter_map(move |token| {
        let call = function.take().filter(|_| token.is_symbol("("));
        if token.name().is_some_and(|name| NAMES.contains(&name.as_ref())) {
            function = Some(token.range);
        }
        call
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(text: &str) -> Facts<'_> {
        Facts::of(text, true)
    }

    #[test]
    fn transaction_control() {
        use TransactionControl as Control;
        for (text, expected) in [
            ("BEGIN", Some(Control::Begin)),
            ("/* c */ begin isolation level serializable", Some(Control::Begin)),
            ("start transaction", Some(Control::Begin)),
            ("commit work and chain", Some(Control::Commit)),
            ("end", Some(Control::Commit)),
            ("rollback", Some(Control::Rollback)),
            ("abort transaction", Some(Control::Rollback)),
            ("rollback to a", Some(Control::RollbackTo)),
            ("rollback work to savepoint a", Some(Control::RollbackTo)),
            ("savepoint a", Some(Control::Savepoint)),
            ("release a", Some(Control::Release)),
            ("prepare transaction 'a'", Some(Control::PrepareTransaction)),
            ("commit prepared 'a'", Some(Control::CommitPrepared)),
            ("rollback prepared 'a'", Some(Control::RollbackPrepared)),
            ("set transaction read only", Some(Control::SetTransaction)),
            ("set local transaction isolation level serializable", Some(Control::SetTransaction)),
            (
                "set session characteristics as transaction read only",
                Some(Control::SetSessionCharacteristics),
            ),
            ("prepare a as select 1", None),
            ("\"begin\"", None),
            ("select 'commit'", None),
            ("set transaction_timeout = 1", None),
            ("", None),
        ] {
            assert_eq!(facts(text).transaction_control(), expected, "{text}");
        }
    }

    #[test]
    fn session_control() {
        use SessionControl as Control;
        for (text, expected) in [
            ("set session authorization bob", Some(Control::SessionAuthorization)),
            ("set local session authorization bob", Some(Control::SessionAuthorization)),
            ("SET SESSION SESSION AUTHORIZATION DEFAULT", Some(Control::SessionAuthorization)),
            ("reset session authorization", Some(Control::SessionAuthorization)),
            ("set role bob", Some(Control::Role)),
            ("set local role none", Some(Control::Role)),
            ("reset role", Some(Control::Role)),
            ("reset all", Some(Control::ResetAll)),
            ("discard all", Some(Control::DiscardAll)),
            ("discard temp", Some(Control::Discard)),
            ("listen a", Some(Control::Listen)),
            ("declare c cursor for select 1", Some(Control::DeclareCursor)),
            ("set roles = 1", None),
            ("select discard from all_", None),
        ] {
            assert_eq!(facts(text).session_control(), expected, "{text}");
        }
    }

    #[test]
    fn settings() {
        for (text, expected) in [
            ("set a = 'b'", Some((Scope::Session, "a", Some("b")))),
            ("SET SESSION A.B TO c, 'd'", Some((Scope::Session, "a.b", Some("c, d")))),
            ("set local a = -1", Some((Scope::Local, "a", Some("-1")))),
            ("set a to default", Some((Scope::Session, "a", None))),
            ("reset a", Some((Scope::Session, "a", None))),
            ("set names 'latin1'", Some((Scope::Session, "client_encoding", Some("latin1")))),
            ("set time zone 'UTC'", Some((Scope::Session, "timezone", Some("UTC")))),
            ("set time zone local", Some((Scope::Session, "timezone", None))),
            ("set schema 'a'", Some((Scope::Session, "search_path", Some("a")))),
            (
                "set \"Standard_Conforming_Strings\" to off",
                Some((Scope::Session, "standard_conforming_strings", Some("off"))),
            ),
            ("set a", None),
            ("set role x", None),
            ("update t set a = 1", None),
        ] {
            let expected = expected.map(|(scope, name, value): (_, &str, Option<&str>)| Setting {
                scope,
                name: name.to_owned(),
                value: value.map(str::to_owned),
            });
            assert_eq!(facts(text).setting(), expected, "{text}");
        }
        let foreign = |text| facts(text).setting().is_some_and(|setting| setting.is_foreign_encoding());
        assert!(foreign("set client_encoding to latin1"));
        assert!(foreign("set names 'SQL_ASCII'"));
        assert!(!foreign("set client_encoding = 'UTF-8'"));
        assert!(!foreign("set client_encoding to default"));
        let calls = facts("select pg_catalog.set_config('search_path', '', false), set_config(a, 'b', true)")
            .set_config_calls();
        assert_eq!(
            calls,
            [Setting { scope: Scope::Session, name: "search_path".to_owned(), value: Some(String::new()) }]
        );
    }

    #[test]
    fn copies() {
        for (text, stdin, binary) in [
            ("copy t from stdin", true, false),
            ("copy t (a, b) from stdin with (format csv, header)", true, false),
            ("copy binary t from stdin", true, true),
            ("copy binary from stdin", true, false),
            ("copy t from stdin binary", true, true),
            ("copy t from stdin with binary", true, true),
            ("copy t from stdin (format 'binary')", true, true),
            ("copy t from stdin (null 'binary')", true, false),
            ("copy t to stdout", false, false),
            ("copy (select a from stdin) to stdout", false, false),
            ("copy t from program 'cat'", false, false),
            ("select 'copy t from stdin'", false, false),
        ] {
            let facts = facts(text);
            assert_eq!((facts.is_copy_from_stdin(), facts.is_binary_copy()), (stdin, binary), "{text}");
        }
    }

    #[test]
    fn copies_to_the_client() {
        for (text, is_one) in [
            ("copy t to stdout", true),
            ("COPY t (a, b) TO STDIN (FORMAT csv)", true),
            ("copy (select a from stdin) to stdout with csv", true),
            ("copy t to '/tmp/stdout'", false),
            ("copy t to program 'cat'", false),
            ("copy t from stdout", false),
            ("select 'copy t to stdout'", false),
        ] {
            assert_eq!(facts(text).is_copy_to_stdout(), is_one, "{text}");
        }
    }

    #[test]
    fn advisory_unlocks() {
        for (text, expected) in [
            ("select pg_advisory_unlock(1)", 1),
            ("select PG_ADVISORY_UNLOCK_ALL ()", 1),
            ("select pg_catalog.\"pg_advisory_unlock_shared\"(1, 2)", 1),
            ("do $$ begin perform pg_advisory_unlock_all(); end $$", 1),
            ("select 'pg_advisory_unlock(1)' -- pg_advisory_unlock(1)", 0),
            ("select pg_advisory_unlock", 0),
            ("select pg_advisory_lock(1)", 0),
            ("select pg_try_advisory_lock(1), my_pg_advisory_unlock(1)", 0),
        ] {
            assert_eq!(facts(text).advisory_unlocks().len(), expected, "{text}");
        }
    }

    #[test]
    fn first_words() {
        assert_eq!(facts("Create UNIQUE index \"a\" on t").first_words(5), ["create", "unique", "index"]);
        assert!(facts("create index concurrently x on t (a)").begins_with(&[
            "create",
            "index",
            "concurrently"
        ]));
        assert!(!facts("create").begins_with(&["create", "index"]));
    }
}
