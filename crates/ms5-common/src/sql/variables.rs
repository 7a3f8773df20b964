//! psql's variables: their names, their values, and how a value enters SQL text.
//!
//! Sources: `variables.c`, the hooks in `startup.c`, `psql_get_variable` in `common.c` (PostgreSQL 18).

use std::collections::BTreeMap;

use super::error::{ErrorKind, Problem};
use super::rules::is_variable_char;

/// What psql sets before it reads the first line, as far as it does not depend on the connection.
const DEFAULTS: [(&str, &str); 20] = [
    ("AUTOCOMMIT", "on"),
    ("COMP_KEYWORD_CASE", "preserve-upper"),
    ("ECHO", "none"),
    ("ECHO_HIDDEN", "off"),
    ("ENCODING", "UTF8"),
    ("FETCH_COUNT", "0"),
    ("HIDE_TABLEAM", "off"),
    ("HIDE_TOAST_COMPRESSION", "off"),
    ("HISTCONTROL", "none"),
    ("HISTSIZE", "500"),
    ("IGNOREEOF", "0"),
    ("LAST_ERROR_MESSAGE", ""),
    ("LAST_ERROR_SQLSTATE", "00000"),
    ("ON_ERROR_ROLLBACK", "off"),
    ("ON_ERROR_STOP", "off"),
    ("QUIET", "off"),
    ("SHOW_ALL_RESULTS", "on"),
    ("SHOW_CONTEXT", "errors"),
    ("SINGLELINE", "off"),
    ("SINGLESTEP", "off"),
];

/// Variables with psql's `bool_substitute_hook` and a check for a boolean word.
const BOOLEANS: [&str; 9] = [
    "AUTOCOMMIT",
    "HIDE_TABLEAM",
    "HIDE_TOAST_COMPRESSION",
    "ON_ERROR_ROLLBACK",
    "ON_ERROR_STOP",
    "QUIET",
    "SHOW_ALL_RESULTS",
    "SINGLELINE",
    "SINGLESTEP",
];

/// What psql knows of its connection, itself or the last statement's result, and this module does not.
const KNOWN_TO_PSQL_ONLY: [&str; 20] = [
    "DBNAME",
    "ERROR",
    "HOST",
    "LASTOID",
    "PIPELINE_COMMAND_COUNT",
    "PIPELINE_RESULT_COUNT",
    "PIPELINE_SYNC_COUNT",
    "PORT",
    "PROMPT1",
    "PROMPT2",
    "PROMPT3",
    "ROW_COUNT",
    "SERVER_VERSION_NAME",
    "SERVER_VERSION_NUM",
    "SERVICE",
    "SQLSTATE",
    "USER",
    "VERSION",
    "VERSION_NAME",
    "VERSION_NUM",
];

/// The variables of one run.
#[derive(Debug, Clone)]
pub(super) struct Variables {
    values: BTreeMap<String, String>,
    /// A statement was sent.
    succeeded: bool,
}

impl Variables {
    /// psql's own defaults, then what the caller gives (`psql -v name=value`).
    pub(super) fn new(given: &[(String, String)]) -> Self {
        let mut values: BTreeMap<_, _> =
            DEFAULTS.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        values.extend(given.iter().cloned());
        Self { values, succeeded: false }
    }

    /// The value, or None where psql has none.
    ///
    /// Fails for a variable that psql itself would have set to something that is not known here: leaving the
    /// reference as it stands would send other text than psql does.
    pub(super) fn get(&self, name: &str) -> Result<Option<&str>, Problem> {
        match self.values.get(name) {
            Some(value) => Ok(Some(value)),
            None if KNOWN_TO_PSQL_ONLY.contains(&name) => Err(Problem::new(
                ErrorKind::Variable,
                format!("the value of psql's variable {name} is not known here"),
            )
            .hint("psql sets this variable from its connection or from results; \\set one of your own")),
            None => Ok(None),
        }
    }

    /// `\set name value` (`SetVariable`).
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<(), Problem> {
        if name.is_empty() || !name.bytes().all(is_variable_char) {
            return Err(Problem::new(ErrorKind::Arguments, format!("invalid variable name: \"{name}\"")));
        }
        let value = if value.is_empty() && BOOLEANS.contains(&name) { "on" } else { value };
        check_special(name, value)?;
        self.values.insert(name.to_owned(), value.to_owned());
        Ok(())
    }

    /// `\unset name`: a special variable goes back to what psql then takes.
    pub(super) fn unset(&mut self, name: &str) -> Result<(), Problem> {
        if BOOLEANS.contains(&name) {
            check_special(name, "off")?;
            self.values.insert(name.to_owned(), "off".to_owned());
        } else if let Some((_, value)) =
            DEFAULTS.iter().find(|(default, _)| *default == name && name != "ENCODING")
        {
            self.values.insert(name.to_owned(), (*value).to_owned());
        } else {
            self.values.remove(name);
        }
        Ok(())
    }

    /// What psql knows after a statement that succeeded; the next one is not sent after a failure.
    pub(super) fn note_success(&mut self) {
        if !self.succeeded {
            self.succeeded = true;
            self.values.insert("ERROR".to_owned(), "false".to_owned());
            self.values.insert("SQLSTATE".to_owned(), "00000".to_owned());
        }
    }
}

/// Refuses values that psql refuses, and those that make psql send other statements or send them otherwise.
fn check_special(name: &str, value: &str) -> Result<(), Problem> {
    if name == "ON_ERROR_ROLLBACK" && value.eq_ignore_ascii_case("interactive") || !BOOLEANS.contains(&name) {
        return Ok(());
    }
    let Some(on) = parse_bool(value) else {
        return Err(Problem::new(
            ErrorKind::Arguments,
            format!("unrecognized value \"{value}\" for \"{name}\": Boolean expected"),
        ));
    };
    let changes_sending = match name {
        "AUTOCOMMIT" => !on,
        "ON_ERROR_ROLLBACK" | "SINGLELINE" | "SINGLESTEP" => on,
        _ => false,
    };
    if changes_sending {
        return Err(Problem::new(ErrorKind::Variable, format!("\\set {name} {value} is not supported"))
            .hint("it changes which statements psql sends, and when"));
    }
    Ok(())
}

/// `ParseVariableBool`: true, false, yes, no, on, off and their unique beginnings, 1, 0; any case.
pub(crate) fn parse_bool(value: &str) -> Option<bool> {
    let begins = |word: &str, least: usize| {
        value.len() >= least && word.get(..value.len()).is_some_and(|start| start.eq_ignore_ascii_case(value))
    };
    if begins("true", 1) || begins("yes", 1) || begins("on", 2) || value == "1" {
        Some(true)
    } else if begins("false", 1) || begins("no", 1) || begins("off", 2) || value == "0" {
        Some(false)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::{escape_identifier, escape_literal};

    #[test]
    fn boolean_words() {
        for word in ["true", "T", "tr", "yes", "Y", "on", "ON", "1"] {
            assert_eq!(parse_bool(word), Some(true), "{word}");
        }
        for word in ["false", "f", "no", "N", "off", "of", "0"] {
            assert_eq!(parse_bool(word), Some(false), "{word}");
        }
        for word in ["", "o", "2", "truely", "onn", "01", " on"] {
            assert_eq!(parse_bool(word), None, "{word}");
        }
    }

    #[test]
    fn values_are_escaped_as_libpq_does() {
        assert_eq!(escape_literal("it's"), "'it''s'");
        assert_eq!(escape_literal("a\\b'"), " E'a\\\\b'''");
        assert_eq!(escape_identifier("a\"b"), "\"a\"\"b\"");
    }

    #[test]
    fn special_variables() {
        let mut variables = Variables::new(&[("x".to_owned(), "1".to_owned())]);
        assert_eq!(variables.get("x"), Ok(Some("1")));
        assert_eq!(variables.get("y"), Ok(None));
        assert_eq!(variables.get("ON_ERROR_STOP"), Ok(Some("off")));
        variables.set("ON_ERROR_STOP", "").unwrap();
        assert_eq!(variables.get("ON_ERROR_STOP"), Ok(Some("on")));
        variables.unset("ON_ERROR_STOP").unwrap();
        assert_eq!(variables.get("ON_ERROR_STOP"), Ok(Some("off")));
        variables.set("ON_ERROR_ROLLBACK", "interactive").unwrap();
        variables.set("AUTOCOMMIT", "1").unwrap();
        for (name, value) in [
            ("AUTOCOMMIT", "off"),
            ("ON_ERROR_ROLLBACK", ""),
            ("SINGLELINE", "true"),
            ("SINGLESTEP", "on"),
            ("QUIET", "perhaps"),
            ("a-b", "1"),
            ("", "1"),
        ] {
            assert!(variables.set(name, value).is_err(), "{name} {value}");
        }
        assert!(variables.unset("AUTOCOMMIT").is_err());
        assert!(variables.get("ROW_COUNT").is_err());
        assert!(variables.get("ERROR").is_err());
        variables.note_success();
        assert_eq!(variables.get("ERROR"), Ok(Some("false")));
        variables.set("ROW_COUNT", "7").unwrap();
        assert_eq!(variables.get("ROW_COUNT"), Ok(Some("7")));
    }
}
