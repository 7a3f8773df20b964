//! SQL text: what psql would make of a file, without psql.
//!
//! A migration file is written for `psql -f`. This module splits it into exactly the statements that psql would send,
//! carries out or refuses psql's own commands, and answers questions on a statement's tokens. It does no input or
//! output: [`Splitter`] is pushed the file and says what it needs, [`Script`] drives it through a trait.
//!
//! In reading order: `rules` (characters and simple tokens), [`lexer`] (psqlscan.l), `slash` (psqlscanslash.l), `meta`
//! (command.c), `conditional`, `variables`, `path`, `source` (lines and COPY data), `split` (mainloop.c), `script`;
//! then what is asked of one statement: `tokens`, `facts`; and of a file's head: `directives`.

mod conditional;
mod directives;
mod error;
mod facts;
mod item;
pub mod lexer;
mod meta;
mod path;
mod position;
mod rules;
mod script;
mod slash;
mod source;
mod split;
mod string_setting;
mod tokens;
mod variables;

pub use directives::{DirectiveError, Head};
pub use error::{ErrorKind, SqlError};
pub use facts::{Facts, Scope, SessionControl, Setting, TransactionControl};
pub use item::{CopyData, Item, Statement};
pub use meta::Stream;
pub use position::{FileId, Pos, SourceMap};
pub use script::{IncludeReader, Script};
pub use split::{Options, Splitter, Step};
pub use tokens::{Token, TokenKind, Tokens, tokens};
