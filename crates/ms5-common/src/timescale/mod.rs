//! TimescaleDB's catalog: every query on it, typed, with the version gates. Nowhere else.

pub mod jobs;

use crate::db::client::Client;

use crate::db::server_error::{connection_lost, reasons};
use crate::error::{Error, Result};
use crate::exit::Exit;

/// What the server offers and what the database has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    /// `pg_extension.extversion`; None where the extension is not created.
    pub installed: Option<String>,
    /// The version that CREATE EXTENSION would make; None where the server's disk has none.
    pub available: Option<String>,
    /// `timescaledb.license`: `timescale` or `apache`; None until the library is loaded.
    pub license: Option<String>,
    /// `timescaledb.restoring` is on: compressed rows are hidden and inserts are swallowed.
    pub restoring: bool,
}

impl Extension {
    /// Whether compression, policies and continuous aggregates exist here.
    #[must_use]
    pub fn community(&self) -> bool {
        self.license.as_deref() == Some("timescale")
    }
}

/// Looks, without touching anything.
///
/// # Errors
/// The client's.
pub fn extension(client: &mut Client) -> std::result::Result<Extension, postgres::Error> {
    let row = client.query_one(
        "SELECT (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'timescaledb'),
                (SELECT default_version::text FROM pg_catalog.pg_available_extensions WHERE name = 'timescaledb'),
                current_setting('timescaledb.license', true),
                coalesce(current_setting('timescaledb.restoring', true), 'off') = 'on'",
        &[],
    )?;
    Ok(Extension { installed: row.get(0), available: row.get(1), license: row.get(2), restoring: row.get(3) })
}

/// Creates the extension, in a transaction of its own, on a session that has done nothing else.
///
/// # Errors
/// [`Exit::Failed`] with what to install or to configure.
pub fn create_extension(client: &mut Client) -> Result<()> {
    client.batch_execute("CREATE EXTENSION IF NOT EXISTS timescaledb").map_err(|error| {
        let failure = Error::new(Exit::Failed, "cannot create the extension timescaledb in this database")
            .because_all(reasons(&error))
            .because("no migration was begun")
            .with_sqlstate(error.code().map(|code| code.code().to_owned()));
        match error.code().map(postgres::error::SqlState::code) {
            Some("42501") => failure.hint(
                "let a superuser run CREATE EXTENSION timescaledb in this database, or give the role CREATE on it",
            ),
            // The library ends the session when it is not preloaded.
            _ if connection_lost(&error) || reasons(&error).iter().any(|line| line.contains("preload")) => failure
                .hint("add timescaledb to shared_preload_libraries in postgresql.conf and restart the server"),
            _ => failure.hint("create it by hand to see more: CREATE EXTENSION timescaledb"),
        }
    })
}
