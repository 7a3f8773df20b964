//! Restoring type `data`: rows into tables that are there, loaded and compared in one transaction, all of them or none.

use std::time::Instant;

use ms5_common::config::Settings;
use ms5_common::db::client::Client;
use ms5_common::db::lock::{Mode, RunLock};
use ms5_common::db::session::{self as common, Tuning};
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::success;
use ms5_common::timescale::{self, policies};
use ms5_common::tool::Context;

use super::commit::commit;
use super::load::{Load, run_all};
use super::{LOCK_TIMEOUT, compare};
use crate::args::{Options, TOOL};
use crate::aside;
use crate::folder::Entry;
use crate::folder::metadata::More;
use crate::sessions::{self, Session, failed};
use crate::words::count;

/// The whole restore, once the backup's files were checked.
pub(super) fn run(
    context: &Context,
    options: &Options,
    settings: &Settings,
    entry: &Entry,
    more: &More,
) -> Result<Exit> {
    let begun = Instant::now();
    replaces_nothing(options)?;
    super::refuse_parts(options)?;
    let held = open(context, options, settings)?;
    let mut session = sessions::open(settings, "restore")?;
    let reader = super::reader(entry)?;
    let load = Load { settings, more, reader: &reader, jobs: 1 };
    filled_in_one(settings, || fill(&mut session, &load, options.force))?;
    commit(settings, &mut session, &held, "look whether the tables hold the rows", |session| {
        load.sequences(session)
    })?;
    context.recorder.emit("backup", crate::list::record(entry, "restored"));
    let rows = more.tables.iter().map(|table| table.rows).sum();
    log::info!("Now: ANALYZE; and refresh continuous aggregates, where there are any");
    success!(
        "✅ Restore completed: {} rows of {} are in {} ({} ms)",
        count(rows),
        entry.name,
        settings.connection.dbname,
        begun.elapsed().as_millis()
    );
    Ok(Exit::Done)
}

/// Refuses what a restore of rows alone does not do.
///
/// # Errors
/// [`Exit::Usage`].
pub(super) fn replaces_nothing(options: &Options) -> Result<()> {
    if options.drop_old || options.start_jobs {
        return Err(Error::new(Exit::Usage, "a backup of rows alone replaces no database and no jobs")
            .because("--drop-old and --start-jobs are nothing that its restore knows")
            .because("nothing was touched"));
    }
    Ok(())
}

/// Takes the lock of a database that rows are loaded into.
///
/// # Errors
/// That it is held by another run, or that rows would be lost in it.
pub(super) fn open(context: &Context, options: &Options, settings: &Settings) -> Result<RunLock> {
    let connect = |purpose| common::open(settings, TOOL, purpose, &Tuning::default());
    let lock = connect("lock")?;
    let (held, mut looker) =
        RunLock::acquire(settings, lock, connect("")?, Mode::Exclusive, options.lock_wait)?;
    let identity = common::identify(&mut looker, settings)?.identity;
    context.recorder.start(Some(&identity), None);
    look(&mut looker)?;
    log::info!("It is one transaction: whatever ends it early leaves the database as it is");
    Ok(held)
}

/// Says of what fails that nothing has changed.
///
/// # Errors
/// Those of `fill`.
pub(super) fn filled_in_one<T>(settings: &Settings, fill: impl FnOnce() -> Result<T>) -> Result<T> {
    fill().map_err(|error| {
        let error = error.because(format!("{} is as it was: all was rolled back", settings.database()));
        // lock_not_available
        if error.sqlstate() == Some("55P03") {
            error.with_exit(Exit::Unreachable).hint("run it again when nobody else uses the tables")
        } else {
            error
        }
    })
}

/// What would swallow rows, or delete them as soon as they are there.
fn look(client: &mut Client) -> Result<()> {
    let asked = |error: postgres::Error| failed("look for TimescaleDB", &error);
    let extension = timescale::extension(client).map_err(asked)?;
    if extension.restoring {
        return Err(timescale::left_restoring(&extension));
    }
    if extension.installed.is_none() {
        return Ok(());
    }
    for job in policies::jobs(client).map_err(asked)? {
        if job.scheduled && job.kind == policies::Kind::Retention {
            let on = job.on.unwrap_or_default();
            log::warn!(
                "The job {} on {on} runs by schedule: it drops the rows that are old by its rule",
                job.id
            );
        }
    }
    Ok(())
}

/// Loads and compares, in a transaction that stays open.
fn fill(session: &mut Session, load: &Load<'_>, force: bool) -> Result<()> {
    let tables = &load.more.tables;
    // What stands in the file for psql, with the tables emptied between: their keys would forbid it.
    let mut statements = vec!["BEGIN".to_owned(), LOCK_TIMEOUT.to_owned(), aside::set_aside(tables)];
    if force {
        statements.extend(aside::empty(tables));
    }
    statements.push(aside::are_empty(tables));
    run_all(&mut session.client, &statements.iter().map(String::as_str).collect::<Vec<_>>())?;
    load.in_one(session)?;
    let since = Instant::now();
    let differences = compare::rows_in_one(load, session)?;
    if !differences.is_empty() {
        return Err(compare::differs(&differences)
            .hint("a rule, a type or a generated column of the table may differ"));
    }
    log::info!("Every row is as it was backed up ({} ms)", since.elapsed().as_millis());
    Ok(())
}
