//! What a statement does to transactions, to the session and to locks. Pure.
//!
//! In reading order: `cursor` (a place in a statement's tokens), `name`, `outside` (what no transaction may hold),
//! `routines` (functions and procedures known by name), `body` (blocks and procedures that commit), `enums` (values that
//! a transaction adds and may not use), `file` (all statements of a file), `session` (what lives as long as the session
//! does), `index` (what CREATE INDEX says), `said` (what goes or is made anew, by name); then `locks`, `query`,
//! `alter_table`, `create`, `upkeep` and `statement` (what is locked, what rewritten).
//!
//! Everything is decided on tokens: a statement in a syntax that is newer than this code still has its first words.

mod alter_table;
#[cfg(test)]
mod alter_table_tests;
mod body;
mod create;
mod created;
mod cursor;
mod enums;
mod file;
#[cfg(test)]
mod file_tests;
mod index;
mod locks;
mod name;
mod outside;
mod query;
#[cfg(test)]
mod query_tests;
mod routines;
mod said;
mod session;
mod statement;
#[cfg(test)]
mod statement_tests;
#[cfg(test)]
mod testing;
mod upkeep;

pub use created::creates;
pub use file::{Procedures, of_file};
pub use index::{CreateIndex, create_index};
pub use locks::{Effects, Lock, LockMode, Rewrite};
pub use outside::Outside;
pub use said::{Class, Said, says};
pub use session::{makes_temporary, session_only, set_local};
pub use statement::effects;
