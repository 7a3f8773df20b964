//! SQL text: what psql would make of a file, without psql.
//!
//! A migration file is written for `psql -f`. This module splits it into exactly the statements that psql would send,
//! carries out or refuses psql's own commands, and answers questions on a statement's tokens. It does no input or
//! output: [`Splitter`] is pushed the file and says what it needs, [`Script`] drives it through a trait.
//!
//! In reading order: `rules` (characters and simple tokens), `lexer` (psqlscan.l), `slash` (psqlscanslash.l), `meta`
//! (command.c), `conditional`, `variables`, `path`, `source` (lines and COPY data), `string_setting`, `item`, `split`
//! (mainloop.c), `script`; then what is asked of one statement: `tokens`, `facts`; and of a file's head: `directives`.
//!
//! # Where it differs from psql
//!
//! The model is psql 18.6, whose scanner 17.11 and 15.20 share. Equal are the text of each message and the data of each
//! COPY. Different on purpose:
//!
//! - Messages without any token (`;`, comments) are left out: the server answers them with nothing.
//! - An error ends the reading where psql reports and goes on: unknown commands, wrong arguments, `\if` with a word that
//!   is not boolean, `\endif` too many or missing, an open quote in an argument, a wrong `\unrestrict`.
//! - An error is what psql sends to the server in pieces or not at all: a quote, comment, parenthesis or function body
//!   that is open at the end of the file or at `\q`; COPY data without `\.`, in binary, or with a NUL byte.
//! - Refused are commands that need a terminal, another connection, files, a shell or the results of statements, settings
//!   that change what psql sends (AUTOCOMMIT, ON_ERROR_ROLLBACK, SINGLELINE, SINGLESTEP), backticks, encodings other than
//!   UTF8, `~` in included paths, and variables that psql alone knows (DBNAME, ROW_COUNT and others, unless given).
//! - COPY data in a skipped `\if` branch is skipped as data; psql reads it as SQL, so that a quote in it swallows `\endif`.
//! - After a COPY ... FROM STDIN, psql 15.20 to 18.6 take a statement without a word outside of parentheses (`;`,
//!   `(select 1);`) for a second COPY and swallow the lines behind it up to `\.`. Here they are statements.
//! - A file that includes itself is an error at once.
//! - standard_conforming_strings is followed on the statements' tokens; see `string_setting` for what is not seen.

mod conditional;
mod directives;
mod error;
mod facts;
mod item;
mod lexer;
mod meta;
mod path;
mod position;
#[cfg(test)]
mod properties;
mod rules;
mod script;
mod slash;
mod source;
mod split;
mod string_setting;
mod table_name;
mod tokens;
mod variables;

pub use directives::{DirectiveError, Head};
pub use error::{ErrorKind, SqlError};
pub use facts::{Facts, Scope, SessionControl, Setting, TransactionControl};
pub use item::{CopyData, Item, Statement};
pub use meta::Stream;
pub use position::{FileId, Pos};
pub use script::{IncludeReader, Script};
pub use split::{Options, Splitter, Step};
pub use table_name::TableName;
pub use tokens::{Token, TokenKind, Tokens, tokens};

/// Quoting as libpq does it: `PQescapeIdentifier` and `PQescapeLiteral` (behind a blank where it holds a backslash).
pub use postgres_protocol::escape::{escape_identifier, escape_literal};
pub(crate) use variables::parse_bool;
