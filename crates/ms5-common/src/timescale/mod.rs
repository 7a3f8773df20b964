//! TimescaleDB's catalog: every query on it, typed, with the version gates. Nowhere else.

pub mod definition;
pub mod hypertables;
pub mod jobs;
pub mod overview;
pub mod policies;
pub mod support;

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
    /// The schema that its functions stand in, quoted where SQL wants that; None where it is not created.
    pub schema: Option<String>,
}

/// A version, as far as gates ask for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 2 of `2.19.3`.
    pub major: u32,
    /// 19 of `2.19.3`.
    pub minor: u32,
}

impl Version {
    /// The oldest that the tools support.
    pub const OLDEST: Self = Self { major: 2, minor: 11 };
    /// alter_job() takes a time zone.
    pub const JOB_TIMEZONE: Self = Self { major: 2, minor: 12 };
    /// Chunks know the least and the greatest value of columns.
    pub const CHUNK_SKIPPING: Self = Self { major: 2, minor: 16 };
    /// The catalog names the table that holds what was compressed of a chunk.
    pub const COMPRESS_RELID: Self = Self { major: 2, minor: 19 };
    /// The table of background jobs is in _timescaledb_catalog, no more in _timescaledb_config.
    pub const JOBS_IN_CATALOG: Self = Self { major: 2, minor: 25 };
    /// Compression is called columnstore, with views and functions of that name.
    pub const COLUMNSTORE: Self = Self { major: 2, minor: 18 };

    /// Reads `2.19.3`, `2.20.0-dev`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(['.', '-']);
        Some(Self { major: parts.next()?.parse().ok()?, minor: parts.next()?.parse().ok()? })
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}.{}", self.major, self.minor)
    }
}

impl Extension {
    /// The installed version; None where the extension is not created, or its version is no number.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        self.installed.as_deref().and_then(Version::parse)
    }

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
                coalesce(current_setting('timescaledb.restoring', true), 'off') = 'on',
                (SELECT quote_ident(n.nspname) FROM pg_catalog.pg_extension e
                 JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'timescaledb')",
        &[],
    )?;
    Ok(Extension {
        installed: row.get(0),
        available: row.get(1),
        license: row.get(2),
        restoring: row.get(3),
        schema: row.get(4),
    })
}

/// Whether there is any hypertable, without the extension too.
///
/// # Errors
/// The client's.
pub fn has_hypertables(client: &mut Client) -> std::result::Result<bool, postgres::Error> {
    let there = "SELECT to_regclass('_timescaledb_catalog.hypertable') IS NOT NULL";
    if !client.query_typed_one(there, &[])?.get::<_, bool>(0) {
        return Ok(false);
    }
    Ok(client.query_typed_one("SELECT EXISTS (SELECT FROM _timescaledb_catalog.hypertable)", &[])?.get(0))
}

/// What a tool says of a database that was left in the middle of a restore: rows that are there cannot be seen, and new ones are
/// lost. The background jobs start with the end of that state, and a retention policy has deleted its rows three seconds later:
/// so they are unscheduled first, in their table, as a restore by backup-manager does.
#[must_use]
pub fn left_restoring(extension: &Extension) -> Error {
    let schema = extension.schema.as_deref().unwrap_or("public");
    let version = extension.version();
    let jobs = if version.is_some_and(|version| version >= Version::JOBS_IN_CATALOG) {
        "_timescaledb_catalog.bgw_job"
    } else {
        "_timescaledb_config.bgw_job"
    };
    let zone = if version.is_some_and(|version| version >= Version::JOB_TIMEZONE) {
        format!(", timezone => (SELECT timezone FROM {jobs} WHERE id = ID)")
    } else {
        String::new()
    };
    Error::new(Exit::Failed, "this database was left in the middle of a restore")
        .because("timescaledb.restoring is on: compressed rows are hidden and inserts are swallowed")
        .because("nothing was touched")
        .hint("finish the restore, or restore again; to end that state by hand, as a superuser and in this order:")
        .hint(format!(
            "1. unschedule the background jobs, which start at once else and may delete rows, and keep the list: \
             UPDATE {jobs} SET scheduled = false WHERE scheduled AND id >= 1000 RETURNING id, application_name;"
        ))
        .hint(format!("2. SELECT {schema}.timescaledb_post_restore();"))
        .hint(format!(
            "3. when the rows are found to be whole, for each ID of that list: \
             SELECT {schema}.alter_job(ID, scheduled => true{zone});"
        ))
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

#[cfg(test)]
mod tests {
    use super::Version;

    #[test]
    fn versions_compare_by_number() {
        let of = |text| Version::parse(text).unwrap();
        assert!(of("2.9.1") < Version::OLDEST && of("2.11.0") >= Version::OLDEST);
        assert!(of("2.18.0-dev") >= Version::COLUMNSTORE && of("2.17.9") < Version::COLUMNSTORE);
        assert!(of("10.0") > of("2.99") && Version::parse("unknown").is_none());
    }
}
