//! The database answers, TimescaleDB is there, and something is promised.

use ms5_common::check::{Check, Finding};
use ms5_common::config::Settings;
use ms5_common::db::session::Server;
use ms5_common::timescale::{self, Version};
use ms5_common::troubleshooting;

use super::{Bench, SqlResult};

/// It answers.
pub(crate) const CONNECTION: Check =
    Check::new("connection", "the connection to the database", "the server answers");
/// TimescaleDB.
pub(crate) const EXTENSION: Check = Check::new(
    "extension",
    "the extension timescaledb in this database",
    "created, version 2.11 or newer, no restore in progress",
);
/// expected.json.
pub(crate) const PROMISES: Check =
    Check::new("promises", "expected.json beside the migrations", "it says what must be there");

/// The connection stands.
pub(crate) fn answered(server: &Server, settings: &Settings) -> Finding {
    Finding::pass("Database connection successful").because(format!(
        "Server: PostgreSQL {}, database {}",
        server.version,
        settings.database()
    ))
}

pub(super) fn extension(bench: &mut Bench<'_>) -> SqlResult {
    let extension = &bench.extension;
    let promised =
        !bench.expected().hypertables.is_empty() || !bench.expected().continuous_aggregates.is_empty();
    // A database that was rolled back has it if its backup has.
    let wanted = promised && bench.restored.is_none();
    let finding = match (&extension.installed, &extension.available) {
        (Some(_), _) if extension.restoring => Finding::failed(&timescale::left_restoring(extension)),
        (Some(version), _) if extension.version().is_none_or(|version| version < Version::OLDEST) => {
            Finding::fail(format!("TimescaleDB {version} is older than what is supported"))
                .remedy("in a fresh session, as its first statement: ALTER EXTENSION timescaledb UPDATE;")
        }
        (Some(version), _) => {
            let finding = Finding::pass(format!("TimescaleDB extension verified (version: {version})"));
            if extension.community() {
                finding
            } else {
                finding.because(format!(
                    "It runs under the {} license: compression, policies and continuous aggregates are not expected",
                    extension.license.as_deref().unwrap_or("apache")
                ))
            }
        }
        (None, Some(version)) if wanted => Finding::fail(format!(
            "The extension timescaledb is not created in this database (version {version} is available)"
        ))
        .remedy(bench.input.runner("")),
        (None, None) if wanted => Finding::fail("The extension timescaledb is not on this server")
            .remedies(troubleshooting::extension_missing(&bench.input.settings)),
        (None, _) => {
            Finding::info("TimescaleDB is not in this database, and nothing that is looked at needs it")
        }
    };
    bench.add(&EXTENSION, finding);
    Ok(())
}

pub(super) fn promises(bench: &mut Bench<'_>) -> SqlResult {
    if bench.input.expected.is_none() {
        let file = bench.input.expected_file.display().to_string();
        let finding = Finding::warn("Nothing is promised: only the ledger and the server's health are looked at")
            .on(&file)
            .because(format!("there is no file {file}"))
            .remedy("write down what must be there, as migrations/README.md shows, or name the file with --expected=FILE");
        bench.add(&PROMISES, finding);
    }
    Ok(())
}
