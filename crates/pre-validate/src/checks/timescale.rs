//! TimescaleDB: there, loaded, of a version that fits, and working.

use ms5_common::check::{Finding, Report};
use ms5_common::config::Settings;
use ms5_common::db::client::Client;
use ms5_common::db::server_error::{connection_lost, gave_up, reasons};
use ms5_common::timescale::{self, Extension, Version, support};
use ms5_common::troubleshooting;
use postgres::error::SqlState;
use postgres::types::Type;

use super::server::Facts;
use super::{EXTENSION, HYPERTABLE, LICENCE, MATRIX, PRELOAD, RESTORING};

/// Makes the checks. The probe comes last: a library that is not preloaded ends the session.
pub(crate) fn check(
    report: &mut Report<'_>,
    client: &mut Client,
    settings: &Settings,
    facts: &Facts,
    single_session: bool,
    quick: bool,
) {
    let extension = match timescale::extension(client) {
        Ok(extension) => extension,
        Err(error) => {
            report.add(
                &EXTENSION,
                Finding::fail("The extension's state cannot be read").because_all(reasons(&error)),
            );
            return;
        }
    };
    report.add(&EXTENSION, there(client, &extension, settings));
    report.add(
        &PRELOAD,
        if single_session {
            Finding::skipped("PostgreSQL in WebAssembly has nothing to preload")
        } else {
            preloaded(client, &extension)
        },
    );
    report.add(&MATRIX, fits(&extension, facts));
    report.add(
        &LICENCE,
        match extension.license.as_deref() {
            None => Finding::skipped("the library is not loaded before the extension is there"),
            Some("timescale") => Finding::info("TimescaleDB license: timescale (Community)"),
            Some(license) => Finding::info(format!(
                "TimescaleDB license: {license}; compression, policies and continuous aggregates are left out"
            )),
        },
    );
    report.add(
        &RESTORING,
        if extension.restoring {
            Finding::failed(&timescale::left_restoring(&extension))
        } else {
            Finding::pass("No restore was left unfinished")
        },
    );
    report.add(&HYPERTABLE, works(client, &extension, quick));
}

fn there(client: &mut Client, extension: &Extension, settings: &Settings) -> Finding {
    match (&extension.installed, &extension.available) {
        (Some(version), _) => Finding::pass(format!("TimescaleDB extension verified (version: {version})")),
        (None, Some(version)) => {
            let line = format!("TimescaleDB extension: version {version} is available and not created yet");
            // A trusted extension is created by whoever may create in the database.
            let may = client.query_typed_one(
                "SELECT coalesce(bool_or((SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)
                            OR (trusted OR NOT superuser) AND has_database_privilege(current_database(), 'CREATE')),
                        false)
                 FROM pg_catalog.pg_available_extension_versions WHERE name = 'timescaledb' AND version = $1",
                &[(version, Type::TEXT)],
            );
            match may.map(|row| row.get::<_, bool>(0)) {
                Ok(true) => Finding::info(format!("{line}; the runner creates it")),
                Ok(false) => Finding::fail(format!("{line}, and this role may not create it")).remedy(
                    "let a superuser run CREATE EXTENSION timescaledb in this database, or give the role CREATE on it",
                ),
                Err(error) => Finding::fail(format!("{line}; whether the role may create it is not told"))
                    .because_all(reasons(&error)),
            }
        }
        (None, None) => Finding::fail("This server has no TimescaleDB")
            .remedies(troubleshooting::extension_missing(settings)),
    }
}

/// The preloaded library defines this setting in every session; where it is absent, so is the library.
fn preloaded(client: &mut Client, extension: &Extension) -> Finding {
    if extension.available.is_none() {
        return Finding::skipped("the server has no TimescaleDB");
    }
    let asked =
        client.query_typed_one("SELECT current_setting('timescaledb.disable_load', true) IS NOT NULL", &[]);
    match asked.map(|row| row.get::<_, bool>(0)) {
        Ok(true) => Finding::pass("TimescaleDB is preloaded"),
        Ok(false) => Finding::fail("TimescaleDB is not preloaded")
            .remedy("add timescaledb to shared_preload_libraries in postgresql.conf and restart the server"),
        Err(error) => {
            Finding::fail("The server's libraries cannot be asked for").because_all(reasons(&error))
        }
    }
}

fn fits(extension: &Extension, facts: &Facts) -> Finding {
    let Some(version) = extension.installed.as_ref().or(extension.available.as_ref()) else {
        return Finding::skipped("the server has no TimescaleDB");
    };
    let line = format!("TimescaleDB {version} on PostgreSQL {}", facts.major);
    match support::judge(version, facts.major) {
        support::Support::Yes => Finding::pass(format!("{line}: supported")),
        support::Support::TooOld => Finding::fail(format!("{line}: older than {}", Version::OLDEST))
            .remedy("install a newer TimescaleDB, then ALTER EXTENSION timescaledb UPDATE first thing in a fresh session"),
        support::Support::NotThisPair(versions) => {
            Finding::warn(format!("{line}: this pair is not supported")).because(versions).remedy(
                "upgrade one of the two; TimescaleDB first, while this PostgreSQL still has a version of it",
            )
        }
        support::Support::Unknown => {
            Finding::warn(format!("{line}: this version is not known here")).remedy("look into its release notes")
        }
    }
}

/// A hypertable in a schema of its own, with a row in it, rolled back at once.
fn works(client: &mut Client, extension: &Extension, quick: bool) -> Finding {
    if quick {
        return Finding::skipped("--quick");
    }
    if extension.available.is_none() && extension.installed.is_none() {
        return Finding::skipped("the server has no TimescaleDB");
    }
    let (probe, passed) = match &extension.installed {
        // In the second that a session of a validator has.
        Some(_) => (
            "CREATE SCHEMA ms5_probe;
             CREATE TABLE ms5_probe.probe (at timestamptz NOT NULL, value float8);
             DO $probe$ BEGIN
                 EXECUTE (SELECT format('SELECT %I.create_hypertable(''ms5_probe.probe'', ''at'')', n.nspname)
                          FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
                          WHERE e.extname = 'timescaledb');
             END $probe$;
             INSERT INTO ms5_probe.probe VALUES (now(), 1), (now() - interval '30 days', 2);
             SELECT count(*) FROM ms5_probe.probe",
            "TimescaleDB functionality verified",
        ),
        // The functions work from the next session on only, so this is as far as a rolled back try gets. Its script is long, and
        // locks nothing that is there.
        None => (
            "SET LOCAL statement_timeout = '10s'; CREATE EXTENSION timescaledb",
            "TimescaleDB extension can be created, tried and rolled back",
        ),
    };
    let tried = client.batch_execute(&format!("BEGIN; {probe}"));
    let rolled_back = client.batch_execute("ROLLBACK");
    match tried.and(rolled_back) {
        Ok(()) => Finding::pass(passed),
        Err(error) if gave_up(&error) => {
            Finding::warn("TimescaleDB functionality: busy, so it was not tried")
                .because_all(reasons(&error))
                .remedy("run it again")
        }
        Err(error) if error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION) => {
            Finding::skipped("nothing can be written here")
        }
        Err(error) => {
            let failed =
                Finding::fail("TimescaleDB does not work in this database").because_all(reasons(&error));
            if connection_lost(&error) {
                failed.remedy(
                    "add timescaledb to shared_preload_libraries in postgresql.conf and restart the server",
                )
            } else {
                failed.remedy("try it by hand in a scratch database: CREATE EXTENSION timescaledb; create_hypertable(...)")
            }
        }
    }
}
