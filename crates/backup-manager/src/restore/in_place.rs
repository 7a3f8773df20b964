//! `restore --in-place`, for roles that may not create databases: one session, one transaction. What is there is dropped, the
//! backup is loaded and compared, and all of it is committed at once, or nothing.

use std::time::Instant;

use ms5_common::config::Settings;
use ms5_common::db::client::Client;
use ms5_common::db::ledger;
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::success;
use ms5_common::tool::Context;

use super::commit::commit;
use super::load::{Load, run_all};
use super::{LOCK_TIMEOUT, Source, compare};
use crate::args::Options;
use crate::folder::Entry;
use crate::folder::metadata::More;
use crate::sessions::{self, Session, failed};

/// Schemas and relations first, of whatever kind: CASCADE takes along what hangs on them, so that what comes later may be gone.
const DROPS: &str = "
    WITH mine AS (
        SELECT n.oid, n.nspname FROM pg_catalog.pg_namespace n
        WHERE n.nspname !~ '^(pg_|_timescaledb_|timescaledb_)' AND n.nspname <> 'information_schema'
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass
                          AND d.objid = n.oid AND d.deptype = 'e')),
    free AS (
        SELECT 1 AS turn, c.oid, 'pg_catalog.pg_class'::pg_catalog.regclass AS class, pg_catalog.format('DROP %s IF EXISTS %I.%I CASCADE',
                   CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE'
                                  WHEN 'f' THEN 'FOREIGN TABLE' WHEN 'c' THEN 'TYPE' ELSE 'TABLE' END, m.nspname, c.relname) AS sql,
               c.relkind IN ('r', 'p') AS first
        FROM pg_catalog.pg_class c JOIN mine m ON m.oid = c.relnamespace
        WHERE m.nspname = 'public' AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c')
        UNION ALL
        SELECT 2, p.oid, 'pg_catalog.pg_proc'::pg_catalog.regclass,
               pg_catalog.format('DROP ROUTINE IF EXISTS %s CASCADE', p.oid::pg_catalog.regprocedure), false
        FROM pg_catalog.pg_proc p JOIN mine m ON m.oid = p.pronamespace WHERE m.nspname = 'public'
        UNION ALL
        SELECT 3, t.oid, 'pg_catalog.pg_type'::pg_catalog.regclass, pg_catalog.format('DROP TYPE IF EXISTS %I.%I CASCADE', m.nspname, t.typname),
               false
        FROM pg_catalog.pg_type t JOIN mine m ON m.oid = t.typnamespace
        WHERE m.nspname = 'public' AND t.typtype IN ('d', 'e', 'r'))
    SELECT sql FROM (
        SELECT 0 AS turn, false AS first, pg_catalog.format('DROP SCHEMA IF EXISTS %I CASCADE', nspname) AS sql
        FROM mine WHERE nspname <> 'public'
        UNION ALL
        SELECT turn, first, sql FROM free f
        WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = f.class AND d.objid = f.oid AND d.deptype = 'e')) s
    ORDER BY turn, first DESC, sql";

/// Extensions that the backup has not, and large objects.
const REST: &str = "
    SELECT pg_catalog.format('DROP EXTENSION IF EXISTS %I CASCADE', extname) FROM pg_catalog.pg_extension
    WHERE extname <> 'plpgsql' AND NOT pg_catalog.quote_ident(extname) = ANY ($1)
    UNION ALL
    SELECT pg_catalog.format('SELECT pg_catalog.lo_unlink(%s)', oid) FROM pg_catalog.pg_largeobject_metadata";

/// The whole restore, once the backup's files were checked.
pub(super) fn run(
    context: &Context,
    options: &Options,
    settings: &Settings,
    entry: &Entry,
    source: &Source<'_>,
) -> Result<Exit> {
    let begun = Instant::now();
    let more = fit(entry, source)?;
    log::warn!("In place, as --in-place says. What that cannot promise:");
    log::warn!(
        "  what is replaced is not kept beside: once this has ended well, the way back is another backup"
    );
    log::warn!("  everybody waits while it runs, in one session: no rows and no indexes side by side");
    log::warn!("  encoding, locale, settings and rights of the database stay as they are");
    log::info!("It is one transaction: whatever ends it early leaves the database as it is");
    let held = super::hold(context, options, settings, &entry.name)?;
    let mut session = sessions::open(settings, "restore")?;
    let reader = super::reader(entry)?;
    let load = Load { settings, more, reader: &reader, jobs: 1 };
    replace(&mut session, entry, &load).map_err(|error| {
        error.because(format!("{} is as it was: all was rolled back", settings.database()))
    })?;
    let look = "look whether it has: SELECT backup_name, restored_at FROM migration_restores";
    commit(settings, &mut session, &held, look, |session| load.sequences(session))?;
    context.recorder.emit("backup", crate::list::record(entry, "restored"));
    success!(
        "✅ Restore completed: {} is {} again ({} ms)",
        settings.connection.dbname,
        entry.name,
        begun.elapsed().as_millis()
    );
    Ok(Exit::Done)
}

/// What can be restored in place.
fn fit<'a>(entry: &Entry, source: &Source<'a>) -> Result<&'a More> {
    let refused = |why: &str, hint: &str| {
        Err(Error::new(Exit::Config, format!("{} cannot be restored in place", entry.name))
            .because(why)
            .because("nothing was touched")
            .hint(hint))
    };
    let beside = "restore it without --in-place, as a superuser: --restore-user=ROLE";
    match source {
        Source::Ours(_, more) if more.superuser => refused(
            "it holds hypertables, which only a superuser can load, and who is one can make a database",
            beside,
        ),
        Source::Ours(_, more) => Ok(more),
        Source::Old(_) => refused(
            "it was made by the old script, and what it holds cannot be proven before it is committed",
            beside,
        ),
    }
}

/// Drops, loads, compares and notes, in a transaction that stays open.
fn replace(session: &mut Session, entry: &Entry, load: &Load<'_>) -> Result<()> {
    run_all(&mut session.client, &["BEGIN", LOCK_TIMEOUT])?;
    let kept: Vec<&str> =
        load.more.inventory.iter().filter_map(|(name, _)| name.strip_prefix("extension ")).collect();
    drop_all(&mut session.client, &kept)?;
    load.in_one(session)?;
    let since = Instant::now();
    let differences = compare::in_one(load, session)?;
    if !differences.is_empty() {
        return Err(compare::differs(&differences)
            .hint("what belongs to other roles cannot be replaced by this one: restore as a role that may create databases"));
    }
    log::info!("Every row and every object is as it was backed up ({} ms)", since.elapsed().as_millis());
    let created = entry.metadata.as_ref().map(|metadata| metadata.created_at.as_str());
    let notes = ledger::note_restore(&entry.name, created.ok(), None);
    run_all(&mut session.client, &notes.iter().map(String::as_str).collect::<Vec<_>>())
}

fn drop_all(client: &mut Client, kept: &[&str]) -> Result<()> {
    let read = |error: postgres::Error| failed("read what is there", &error);
    let mut drops: Vec<String> =
        client.query(DROPS, &[]).map_err(read)?.iter().map(|row| row.get(0)).collect();
    drops.extend(client.query(REST, &[&kept]).map_err(read)?.iter().map(|row| row.get::<_, String>(0)));
    log::info!("Dropping what is there: {} objects and all that hangs on them", drops.len());
    run_all(client, &drops.iter().map(String::as_str).collect::<Vec<_>>()).map_err(|error| {
        error.hint(
            "stop what uses the database, then run it again; what belongs to others its owners must drop",
        )
    })
}
