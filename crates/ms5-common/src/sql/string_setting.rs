//! Follows standard_conforming_strings through a file, where psql would ask the server.

use super::facts::{Facts, Scope, SessionControl, Setting, TransactionControl};
use super::tokens::{TokenKind, tokens};

/// The value of standard_conforming_strings, as the server's session would have it.
///
/// Seen are SET, SET LOCAL, RESET, RESET ALL, DISCARD ALL, calls of `set_config` with constants in a short SELECT,
/// and the end of a transaction. Not seen are a ROLLBACK TO SAVEPOINT that takes a SET back, `set_config` elsewhere
/// and functions that change the setting.
#[derive(Debug, Clone)]
pub(super) struct StringSetting {
    default: bool,
    session: bool,
    session_at_begin: bool,
    local: Option<bool>,
    /// The file runs in a transaction of the caller's, so its own BEGIN and COMMIT begin and end nothing.
    caller_s_transaction: bool,
    in_transaction: bool,
}

impl StringSetting {
    pub(super) fn new(default: bool, in_transaction: bool) -> Self {
        Self {
            default,
            session: default,
            session_at_begin: default,
            local: None,
            caller_s_transaction: in_transaction,
            in_transaction,
        }
    }

    pub(super) fn get(&self) -> bool {
        self.local.unwrap_or(self.session)
    }

    /// Takes note of a statement that is sent.
    pub(super) fn observe(&mut self, text: &str) {
        const LONGEST_SELECT: usize = 4096;
        // Most statements of a long file are INSERTs: they need no more than a look.
        if text.starts_with(['i', 'I', 'u', 'U']) {
            return;
        }
        let Some(first) = tokens(text, self.get()).next().filter(|first| first.kind == TokenKind::Word)
        else {
            return;
        };
        let concerns = match first.text.len() {
            3 => first.is_word("set") || first.is_word("end"),
            5 => ["reset", "begin", "start", "abort"].iter().any(|word| first.is_word(word)),
            6 => first.is_word("commit") || first.is_word("select") && text.len() <= LONGEST_SELECT,
            7 => first.is_word("discard"),
            8 => first.is_word("rollback"),
            _ => false,
        };
        if !concerns {
            return;
        }
        let facts = Facts::of(text, self.get());
        match facts.transaction_control() {
            Some(TransactionControl::Begin) if !self.in_transaction => {
                self.in_transaction = true;
                self.session_at_begin = self.session;
            }
            Some(TransactionControl::Commit) => self.end(false),
            Some(TransactionControl::Rollback) => self.end(true),
            _ => {}
        }
        if matches!(facts.session_control(), Some(SessionControl::ResetAll | SessionControl::DiscardAll)) {
            (self.session, self.local) = (self.default, None);
        }
        if let Some(setting) = facts.setting() {
            self.apply(&setting);
        }
        if facts.begins_with(&["select"]) {
            facts.set_config_calls().iter().for_each(|setting| self.apply(setting));
        }
    }

    fn apply(&mut self, setting: &Setting) {
        let Some(value) = setting.standard_conforming_strings() else { return };
        let value = value.unwrap_or(self.default);
        match setting.scope {
            Scope::Session => (self.session, self.local) = (value, None),
            Scope::Local if self.in_transaction => self.local = Some(value),
            Scope::Local => {} // the server warns and does nothing
        }
    }

    fn end(&mut self, rolled_back: bool) {
        if self.caller_s_transaction {
            return;
        }
        if rolled_back && self.in_transaction {
            self.session = self.session_at_begin;
        }
        (self.local, self.in_transaction) = (None, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(in_transaction: bool, statements: &[&str]) -> bool {
        let mut setting = StringSetting::new(true, in_transaction);
        statements.iter().for_each(|text| setting.observe(text));
        setting.get()
    }

    #[test]
    fn the_server_s_rules() {
        for (statements, expected) in [
            (&["set standard_conforming_strings = off"][..], false),
            (&["SET Standard_Conforming_Strings TO 'off'"], false),
            (&["set session standard_conforming_strings to 0"], false),
            (&["set standard_conforming_strings = off", "reset standard_conforming_strings"], true),
            (&["set standard_conforming_strings = off", "set standard_conforming_strings to default"], true),
            (&["set standard_conforming_strings = off", "reset all"], true),
            (&["set standard_conforming_strings = off", "discard all"], true),
            (&["set standard_conforming_strings = nonsense"], true),
            (&["set local standard_conforming_strings = off"], true),
            (&["begin", "set local standard_conforming_strings = off"], false),
            (&["begin", "set local standard_conforming_strings = off", "commit"], true),
            (&["begin", "set standard_conforming_strings = off", "commit"], false),
            (&["begin", "set standard_conforming_strings = off", "rollback"], true),
            (&["select set_config('standard_conforming_strings', 'off', false)"], false),
            (&["select 'set standard_conforming_strings = off'"], true),
        ] {
            assert_eq!(after(false, statements), expected, "{statements:?}");
        }
        assert!(!after(true, &["set local standard_conforming_strings = off"]));
        assert!(!after(true, &["begin", "set local standard_conforming_strings = off", "commit"]));
    }
}
