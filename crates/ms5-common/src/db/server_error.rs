//! A server's error, whole: SQLSTATE, message, detail, hint, context. (The client library's own text drops most
//! of it.)

use std::error::Error as _;

use postgres::error::{DbError, ErrorPosition, SqlState};

/// What the server said, as plain text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerError {
    /// `ERROR` or `FATAL`.
    pub severity: String,
    /// Five characters; see "PostgreSQL Error Codes".
    pub sqlstate: String,
    /// The primary message.
    pub message: String,
    /// DETAIL.
    pub detail: Option<String>,
    /// HINT.
    pub hint: Option<String>,
    /// CONTEXT: the call stack of functions.
    pub context: Option<String>,
    /// Where in the statement's text, in characters from 1.
    pub position: Option<u32>,
    /// The statement that a function ran when it failed, with the position in it.
    pub internal: Option<(u32, String)>,
    /// The constraint, column or table that the error names, as `constraint x`.
    pub objects: Vec<String>,
}

impl ServerError {
    /// The server's error inside a client error; None where the connection itself failed.
    #[must_use]
    pub fn of(error: &postgres::Error) -> Option<Self> {
        error.as_db_error().map(Self::from)
    }

    /// The lines to print: the message with its SQLSTATE, then what else the server gave.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("{} {}: {}", self.severity, self.sqlstate, self.message)];
        let mut add = |name: &str, text: &Option<String>| {
            if let Some(text) = text {
                lines.push(format!("{name}: {text}"));
            }
        };
        add("DETAIL", &self.detail);
        add("HINT", &self.hint);
        if let Some((_, query)) = &self.internal {
            add("QUERY", &Some(query.clone()));
        }
        add("CONTEXT", &self.context);
        if !self.objects.is_empty() {
            lines.push(format!("CONCERNS: {}", self.objects.join(", ")));
        }
        lines
    }
}

impl From<&DbError> for ServerError {
    fn from(error: &DbError) -> Self {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let (position, internal) = match error.position() {
            Some(ErrorPosition::Original(position)) => (Some(*position), None),
            Some(ErrorPosition::Internal { position, query }) => (None, Some((*position, query.clone()))),
            None => (None, None),
        };
        let object = |kind: &str, name: Option<&str>| name.map(|name| format!("{kind} {name}"));
        let table = match (error.schema(), error.table()) {
            (Some(schema), Some(table)) => Some(format!("table {schema}.{table}")),
            (_, table) => object("table", table),
        };
        Self {
            severity: error.severity().to_owned(),
            sqlstate: error.code().code().to_owned(),
            message: error.message().to_owned(),
            detail: owned(error.detail()),
            hint: owned(error.hint()),
            context: owned(error.where_()),
            position,
            internal,
            objects: [
                table,
                object("column", error.column()),
                object("constraint", error.constraint()),
                object("type", error.datatype()),
            ]
            .into_iter()
            .flatten()
            .collect(),
        }
    }
}

/// Why a call on a connection failed, as lines: the server's error whole, or the chain of client errors.
#[must_use]
pub fn reasons(error: &postgres::Error) -> Vec<String> {
    if let Some(server) = ServerError::of(error) {
        return server.lines();
    }
    let mut lines = vec![error.to_string()];
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !lines.iter().any(|line| line.contains(&text)) {
            lines.push(text);
        }
        source = cause.source();
    }
    lines
}

/// Whether the server gave up a wait: for a lock, or with a statement that took too long. (A cancelled statement looks the
/// same.)
#[must_use]
pub fn gave_up(error: &postgres::Error) -> bool {
    matches!(error.code(), Some(code) if *code == SqlState::LOCK_NOT_AVAILABLE || *code == SqlState::QUERY_CANCELED)
}

/// Whether the session is gone: no answer from the server, or one of the classes that end a session
/// (08 connection exception, 57P01..57P05 shutdown and termination, 25P03 and 25P04 a session or transaction that took too long).
#[must_use]
pub fn connection_lost(error: &postgres::Error) -> bool {
    if error.is_closed() {
        return true;
    }
    match error.as_db_error() {
        Some(server) => ends_session(server.code()),
        // Not the server's words and not ours (a bad argument): the transport failed.
        None => error.source().is_some_and(|source| source.is::<std::io::Error>()),
    }
}

fn ends_session(code: &SqlState) -> bool {
    let code = code.code();
    code.starts_with("08")
        || matches!(code, "57P01" | "57P02" | "57P03" | "57P04" | "57P05" | "25P03" | "25P04")
}
