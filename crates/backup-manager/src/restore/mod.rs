//! `restore`: a new database beside the old one, compared row by row, and the names swapped last.

mod commit;
mod compare;
mod csv;
pub(crate) mod deep;
mod in_place;
mod load;
pub(crate) mod old;
mod rows;
pub(crate) mod server;
pub(crate) mod swap;

use std::time::Instant;

use ms5_common::called::quoted;
use ms5_common::config::Settings;
use ms5_common::db::ledger::{self, RESTORES};
use ms5_common::db::lock::{Mode, RunLock};
use ms5_common::db::session::{self as common, Tuning};
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::record::Identity;
use ms5_common::sql::escape_identifier;
use ms5_common::success;
use ms5_common::tool::Context;
use ms5_common::troubleshooting;
use serde_json::{Map, Value};

use crate::archive::Reader;
use crate::args::{Options, TOOL, own};
use crate::dump::Scheduled;
use crate::folder::metadata::{Kind, Metadata, More, Stage};
use crate::folder::proof::{self, Standing};
use crate::folder::{Entry, Folder, Hold, belonging};
use crate::seal::Key;
use crate::sessions::{self, failed, restorer};
use crate::words::count;
use crate::{dump, sqltext, verify};
use load::Load;
use server::{Maintenance, Needs};

/// How long a table that others use is waited for, where tables are changed in place.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '10s'";

/// The whole command.
pub(crate) fn run(context: &Context, options: &Options, settings: &Settings, name: &str) -> Result<Exit> {
    let _work = sessions::work()?;
    let folder = Folder::open(&settings.backup_dir, Hold::Shared, options.lock_wait)?;
    let entry = folder.find(name, settings)?;
    let name = entry.name.clone();
    belonging::check(&name, entry.whose(), settings, options.other_database)?;
    log::info!("Restoring backup: {name} into {}", settings.database());
    bring_back(context, options, settings, entry).map_err(|error| match error.exit() {
        Exit::Failed | Exit::Partial => {
            troubleshooting::restore_failed(settings, &name).into_iter().fold(error, Error::hint)
        }
        _ => error,
    })
}

/// Checks the backup, and restores it in the way of its type.
fn bring_back(context: &Context, options: &Options, settings: &Settings, entry: Entry) -> Result<Exit> {
    let begun = Instant::now();
    let damage = verify::without_proof(&entry)?;
    if !damage.is_empty() {
        return Err(verify::damaged(&entry, damage));
    }
    if let Standing::Damaged(why) = proof::read(&entry.path) {
        log::warn!("{}: {why}; the backup itself fits its checksums", proof::FILE);
    }
    let entry = entry.open(Key::given(options.identity.as_deref(), &context.variables)?)?;
    let rows = entry.metadata.as_ref().ok().and_then(Metadata::rows).unwrap_or_default();
    log::info!("Checksums fit, {} rows", count(rows));
    let source = Source::of(&entry)?;
    if let Source::Ours(Kind::Schema, _) = source {
        log::warn!("It is of type schema: {} will have its tables, and no rows in them", settings.database());
    }
    let owner = settings.connection.user.clone();
    let settings = restorer(settings, &context.variables, options.restore_user.as_deref());
    match source {
        Source::Ours(Kind::Data, more) => return rows::run(context, options, &settings, &entry, more),
        Source::Ours(Kind::Hypertables, more) => {
            return csv::run(context, options, &settings, &entry, more);
        }
        _ => refuse_parts(options)?,
    }
    if options.in_place {
        return in_place::run(context, options, &settings, &entry, &source);
    }
    let target = settings.connection.dbname.clone();
    let mut maintenance = Maintenance::open(&settings, &options.maintenance)?;
    if target == options.maintenance {
        return Err(Error::new(Exit::Config, format!("{target} is the maintenance database itself"))
            .because("nothing was touched")
            .hint("name another one: --maintenance-db=template1"));
    }
    maintenance.check(source.needs())?;
    maintenance.lock(&target, options.lock_wait)?;
    maintenance.sweep()?;
    let there = maintenance.look(&target)?;
    let held = match there {
        Some(_) => Some(hold(context, options, &settings, &entry.name)?),
        None => {
            context.recorder.start(None, None);
            None
        }
    };
    let database = match &source {
        Source::Ours(_, more) => more.database.clone(),
        Source::Old(_) => database_of(there.is_some(), &maintenance.settings(&target), owner)?,
    };
    let new = maintenance.create(&database)?;
    log::info!("Building it as {new}; {target} stays in service until it is whole");
    let inside = maintenance.settings(&new);
    let built = match &source {
        Source::Ours(_, more) => build(&entry, more, &inside, options),
        Source::Old(dump) => dump.build(&inside, &context.variables, &database, &maintenance.version),
    };
    let swapped = built.and_then(|jobs| {
        if let Err(error) = mark(&inside, &entry, &database) {
            sessions::stopped()?;
            log::warn!(
                "The database could not be marked as restored from {}: {}",
                entry.name,
                error.lines().join("; ")
            );
        }
        if let Some(mut lock) = held {
            lock.check()?;
            // Its sessions would stand in the way.
            drop(lock);
        }
        let kept = swap::kept_name(&mut maintenance, &target)?;
        swap::run(&mut maintenance, &new, &target, there, &kept).map(|()| (kept, jobs))
    });
    let (kept, jobs) = match swapped {
        Ok(done) => done,
        // Whether the names were swapped is not known, and the new database may be the one in service.
        Err(error) if error.exit() == Exit::Partial => return Err(error),
        Err(error) => {
            let error = match maintenance.drop(&new) {
                Ok(()) => error
                    .because(format!("{target} is as it was, in service; the half-made database is dropped")),
                Err(left) => error
                    .because(format!("{target} is as it was, in service"))
                    .because_all(left.lines())
                    .hint("the next restore drops what is left"),
            };
            return Err(error);
        }
    };
    after(options, &mut maintenance, jobs.as_ref(), &target, there.map(|_| kept.as_str()))?;
    context.recorder.emit("backup", crate::list::record(&entry, "restored"));
    success!("✅ Restore completed: {} is {} again ({} ms)", target, entry.name, begun.elapsed().as_millis());
    Ok(Exit::Done)
}

/// A part of the tables or of their rows can be had of CSV alone.
fn refuse_parts(options: &Options) -> Result<()> {
    if options.tables.is_empty() && options.since.is_none() && options.until.is_none() {
        return Ok(());
    }
    Err(Error::new(Exit::Usage, "--tables, --since and --until are for backups of type hypertables")
        .because("nothing was touched")
        .hint(format!("take one of those: {} backup NAME hypertables", own())))
}

/// What is restored from.
enum Source<'a> {
    /// A backup of ours.
    Ours(Kind, &'a More),
    /// A dump of the old script.
    Old(old::Dump),
}

impl<'a> Source<'a> {
    fn of(entry: &'a Entry) -> Result<Self> {
        let ours = entry
            .metadata
            .as_ref()
            .ok()
            .and_then(|metadata| Some((Kind::of(&metadata.kind)?, metadata.more.as_ref()?)));
        match ours {
            Some((kind, more)) => Ok(Self::Ours(kind, more)),
            None => old::Dump::look(entry).map(Self::Old),
        }
    }

    fn needs(&self) -> Needs<'_> {
        match self {
            Self::Ours(kind, more) => Needs::of(*kind, more),
            Self::Old(dump) => dump.needs(),
        }
    }
}

/// TimescaleDB's background jobs, which a restore leaves unscheduled.
struct Jobs {
    /// The statement that lets those run again that did; None where none did.
    start: Option<String>,
}

impl Jobs {
    /// Those that have the numbers they had; `schema` is the extension's, as SQL.
    fn numbered(schema: &str, jobs: &[Scheduled]) -> Self {
        Self { start: (!jobs.is_empty()).then(|| sqltext::start_jobs(schema, jobs)) }
    }
}

/// What a new database is to be like where the backup does not say: the one that it replaces.
fn database_of(there: bool, target: &Settings, owner: String) -> Result<Map<String, Value>> {
    if !there {
        log::warn!(
            "The backup does not say what the database was like: it gets the server's encoding and locale"
        );
        return Ok(Map::from_iter([("owner".to_owned(), Value::String(owner))]));
    }
    let mut session = sessions::open(target, "restore")?;
    let database = dump::database(&mut session.client);
    database.map_err(|error| failed("look at the database that is replaced", &error))
}

/// Opens the files of a backup.
fn reader(entry: &Entry) -> Result<Reader> {
    entry.reader().map_err(|error| {
        Error::new(Exit::Config, format!("cannot open the backup {}", entry.name)).because(error)
    })
}

/// Takes the exclusive lock of a database that is to be replaced, and refuses one that holds data.
fn hold(context: &Context, options: &Options, settings: &Settings, backup: &str) -> Result<RunLock> {
    let connect = |purpose| common::open(settings, TOOL, purpose, &Tuning::default());
    let lock = connect("lock")?;
    let (lock, mut looker) =
        RunLock::acquire(settings, lock, connect("")?, Mode::Exclusive, options.lock_wait)?;
    let identity: Identity = common::identify(&mut looker, settings)?.identity;
    context.recorder.start(Some(&identity), None);
    let row = looker
        .query_typed_one(dump::TABLE_COUNT, &[])
        .map_err(|error| failed("look whether the database holds data", &error))?;
    let tables: i64 = row.get(0);
    if tables > 0 && !options.force {
        let role = options.restore_user.as_ref().map(|role| format!(" --restore-user={}", quoted(role)));
        let (fate, flag) = if options.in_place {
            ("all that it holds goes", " --in-place")
        } else {
            ("it is kept beside under another name", "")
        };
        return Err(Error::new(Exit::Failed, format!("{} holds data: {tables} tables", settings.database()))
            .because("nothing was touched")
            .hint(format!(
                "replace it ({fate}): {}{flag}{}",
                troubleshooting::restore(settings, backup),
                role.unwrap_or_default()
            )));
    }
    Ok(lock)
}

/// Loads, compares, and brings TimescaleDB back to work.
fn build(entry: &Entry, more: &More, settings: &Settings, options: &Options) -> Result<Option<Jobs>> {
    let reader = reader(entry)?;
    let load = Load { settings, more, reader: &reader, jobs: options.jobs };
    load.all()?;
    let since = Instant::now();
    let differences = compare::all(&load)?;
    if !differences.is_empty() {
        return Err(compare::differs(&differences)
            .hint(format!("verify {} --deep shows whether it is the backup", entry.name)));
    }
    log::info!("Every row and every object is as it was backed up ({} ms)", since.elapsed().as_millis());
    let mut session = load.session(false)?;
    load.run(&mut session, Stage::Finish)?;
    load.run(&mut session, Stage::Settings)?;
    load.run(&mut session, Stage::Last)?;
    if more.start_jobs.is_some() {
        return Ok(Some(Jobs { start: more.start_jobs.clone() }));
    }
    // Older backups name the jobs alone.
    let jobs: Vec<Scheduled> = more.jobs.iter().map(|id| Scheduled { id: *id, timezone: None }).collect();
    let schema = more.extension_schema.as_deref().filter(|_| more.superuser);
    Ok(schema.map(|schema| Jobs::numbered(schema, &jobs)))
}

/// Writes down in the database where it is from.
fn mark(settings: &Settings, entry: &Entry, database: &Map<String, Value>) -> Result<()> {
    // Who froze the database before the backup has it frozen again.
    let mut session = sessions::open_again(settings, "restore", &[("default_transaction_read_only", "off")])?;
    // Nor do its event triggers hear of what is not theirs, where there can be any.
    let there = session
        .client
        .query_typed_one(
            "SELECT pg_catalog.to_regnamespace('public') IS NOT NULL, CASE WHEN rolsuper
                    THEN pg_catalog.set_config('session_replication_role', 'replica', false) END
             FROM pg_catalog.pg_roles WHERE rolname = current_user",
            &[],
        )
        .map_err(|error| failed("look for the schema public", &error))?;
    if !there.get::<_, bool>(0) {
        log::warn!("There is no schema public, so {RESTORES} cannot tell which backup this database is from");
        return Ok(());
    }
    let owner = database.get("owner").and_then(Value::as_str);
    let created = entry.metadata.as_ref().map(|metadata| metadata.created_at.as_str());
    let statements = ledger::note_restore(&entry.name, created.ok(), owner);
    let statements: Vec<&str> = statements.iter().map(String::as_str).collect();
    load::run_all(&mut session.client, &statements)
}

/// What is left once the new database is in service. A failure here changes nothing of that.
fn after(
    options: &Options,
    maintenance: &mut Maintenance,
    jobs: Option<&Jobs>,
    target: &str,
    kept: Option<&str>,
) -> Result<()> {
    if let Some(Jobs { start }) = jobs {
        let session = sessions::open_again(&maintenance.settings(target), "restore", &[]);
        let session = session.map(|mut session| {
            if let Err(error) = start_workers(&mut session) {
                log::warn!("TimescaleDB's workers could not be started: {}", error.lines().join("; "));
            }
            session
        });
        match (start, session) {
            (_, Err(error)) => {
                log::warn!("Cannot look after the background jobs: {}", error.lines().join("; "))
            }
            (None, Ok(_)) => {}
            (Some(start), Ok(mut session)) if options.start_jobs => {
                match load::run_all(&mut session.client, &[start]) {
                    Ok(()) => log::info!("The background jobs run again"),
                    Err(error) => log::warn!("The background jobs do not run: {}", error.lines().join("; ")),
                }
            }
            (Some(start), Ok(_)) => {
                log::warn!(
                    "The background jobs are unscheduled, so that no policy deletes rows. To let them run again:"
                );
                log::warn!("  {start}");
            }
        }
    }
    log::info!("Now: ANALYZE; in it: statistics are in no backup, and plans are poor without");
    let Some(kept) = kept else { return Ok(()) };
    if options.drop_old {
        maintenance.drop(kept).map_err(|error| {
            error
                .with_exit(Exit::Partial)
                .because(format!("{target} is restored and in service; {kept} is left"))
        })?;
        log::info!("The old database is dropped");
    } else {
        log::info!("The old database is kept, closed, as {kept}");
        log::info!("  to look into it: ALTER DATABASE {} ALLOW_CONNECTIONS true;", escape_identifier(kept));
        log::info!("  to drop it:      DROP DATABASE {};", escape_identifier(kept));
    }
    Ok(())
}

/// The swap has ended the workers with the other sessions.
fn start_workers(session: &mut sessions::Session) -> Result<()> {
    let rows = session
        .client
        .query_typed(
            "SELECT p.oid::pg_catalog.regproc::text FROM pg_catalog.pg_proc p
             JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
             WHERE n.nspname ~ '^_timescaledb_' AND p.proname = 'start_background_workers' AND p.pronargs = 0
             ORDER BY n.nspname LIMIT 1",
            &[],
        )
        .map_err(|error| failed("look for TimescaleDB's workers", &error))?;
    match rows.first() {
        Some(row) => load::run_all(&mut session.client, &[&format!("SELECT {}()", row.get::<_, String>(0))]),
        None => Ok(()),
    }
}
