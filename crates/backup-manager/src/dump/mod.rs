//! `backup`: the database as of one moment, in one file that plain psql restores and that proves itself.

mod copy;
mod plan;
mod schema;
mod snapshot;

pub(crate) use copy::cannot_write;
pub(crate) use plan::{TABLE_COUNT, database, jobs};
pub(crate) use schema::{Piece, creates_timescale, pieces};

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ms5_common::catalog::Inventory;
use ms5_common::clock;
use ms5_common::config::Settings;
use ms5_common::db::clients::{self, ClientProgram};
use ms5_common::db::lock::{Mode, RunLock};
use ms5_common::db::session::{self as common, Server, Tuning};
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::machine;
use ms5_common::progress::{self, Line};
use ms5_common::success;
use ms5_common::timescale;
use ms5_common::tool::Context;
use serde_json::json;

use crate::archive::{Archive, Written, free};
use crate::args::{Options, TOOL, TOOL_VERSION};
use crate::folder::metadata::{self, Metadata, More, Stage, Table};
use crate::folder::partial::{self, Partial};
use crate::folder::{Entry, Folder, Hold, checksums, write_whole};
use crate::restore::server::Needs;
use crate::rows::RowSum;
use crate::sessions::{self, Session, failed, stopped};
use crate::words::{bytes, count};
use crate::{sqltext, verify};
use copy::Progress;
use plan::Plan;
use snapshot::Snapshot;

/// The whole command; gives the backup's entry. `accept` is asked before a row is read whether the backup is wanted, by what a
/// restore of it will ask for.
pub(crate) fn run(
    context: &Context,
    options: &Options,
    settings: &Settings,
    name: &str,
    accept: impl FnOnce(Needs<'_>) -> Result<()>,
) -> Result<Entry> {
    crate::folder::name::check(name)?;
    let begun = Instant::now();
    let _work = sessions::work()?;
    let folder = Folder::open(&settings.backup_dir, Hold::Shared, options.lock_wait)?;
    partial::sweep(&folder);

    let connect = |purpose| common::open(settings, TOOL, purpose, &Tuning::default());
    let lock = connect("lock")?;
    let (mut lock, mut looker) =
        RunLock::acquire(settings, lock, connect("")?, Mode::Shared, options.lock_wait)?;
    let server = common::identify(&mut looker, settings)?;
    context.recorder.start(Some(&server.identity), None);
    let extension =
        timescale::extension(&mut looker).map_err(|error| failed("look for TimescaleDB", &error))?;
    if extension.restoring {
        return Err(timescale::left_restoring());
    }
    let pg_dump = clients::find(
        "pg_dump",
        clients::major(&server.version).unwrap_or_default(),
        settings,
        &context.variables,
    )?;
    log::info!("Database: {}, PostgreSQL {}, {}", settings.database(), server.version, described(&extension));
    log::debug!("pg_dump: {} {}", pg_dump.place(), pg_dump.version);
    let database_bytes: i64 = looker
        .query_typed_one("SELECT pg_catalog.pg_database_size(pg_catalog.current_database())", &[])
        .map_err(|error| failed("ask for the database's size", &error))?
        .get(0);
    enough_space(folder.path(), u64::try_from(database_bytes).unwrap_or_default(), options.compress)?;
    drop(looker);

    let partial = Partial::create(&folder, name)?;
    log::info!("Creating backup: {} (type full)", partial.name());
    let job = Job { context, options, settings, server: &server, pg_dump: &pg_dump, partial: &partial };
    let snapshot = snapshot::take(settings, options.jobs + 1, options.lock_timeout)?;
    let locked = begun.elapsed();
    log::info!("All tables are locked for reading and the snapshot is taken ({} ms)", locked.as_millis());
    let metadata = job.dump(snapshot, accept, begun, locked.as_millis())?;
    lock.check()?;
    drop(lock);

    log::info!("Reading the backup back");
    let entry = Entry::read(partial.name().to_owned(), partial.path().to_owned());
    let damage = verify::sums(&entry)?;
    if !damage.is_empty() {
        return Err(Error::new(Exit::Failed, "the backup cannot be read back as it was written")
            .because_all(damage)
            .because("nothing of it is kept")
            .hint("check the disk under --backup-dir"));
    }
    let path = partial.publish(&folder).map_err(|error| cannot_write(&error))?;
    let entry = Entry::read(metadata.name.clone(), path);
    report(context, &entry, &metadata, begun.elapsed());
    Ok(entry)
}

fn never() -> Error {
    Error::new(Exit::Interrupt, "stopped by a signal")
}

fn described(extension: &timescale::Extension) -> String {
    match &extension.installed {
        Some(version) => {
            format!("TimescaleDB {version} ({})", extension.license.as_deref().unwrap_or("licence unknown"))
        }
        None => "without TimescaleDB".to_owned(),
    }
}

/// Text takes about as much as its table, and a quarter of that when compressed; compressed chunks do not shrink again.
fn enough_space(path: &Path, database: u64, compress: bool) -> Result<()> {
    let likely = if compress { database / 4 } else { database };
    let Some(free) = free(path) else { return Ok(()) };
    if free < likely / 4 {
        return Err(Error::new(Exit::Config, format!("there is too little space in {}", path.display()))
            .because(format!(
                "a database of {} needs about {}, and {} are free",
                bytes(database),
                bytes(likely),
                bytes(free)
            ))
            .because("nothing was touched")
            .hint("make room (backup-manager clean), or write elsewhere: --backup-dir=DIR"));
    }
    if free < likely {
        log::warn!(
            "Space may not suffice: a database of {} needs about {}, and {} are free",
            bytes(database),
            bytes(likely),
            bytes(free)
        );
    }
    Ok(())
}

/// What one session does while the others read rows.
struct Beside {
    /// What TimescaleDB's own tables hold.
    catalog: Vec<RowSum>,
    /// How long the rows would have had to wait for what stands before them, in milliseconds.
    took: u128,
    inventory: Inventory,
    /// pg_dump's section after the rows.
    post: String,
}

/// What the parts of a backup share.
struct Job<'a> {
    context: &'a Context,
    options: &'a Options,
    settings: &'a Settings,
    server: &'a Server,
    pg_dump: &'a ClientProgram,
    partial: &'a Partial,
}

impl Job<'_> {
    fn file(&self) -> &'static str {
        if self.options.compress { "full_database.sql.gz" } else { "full_database.sql" }
    }

    /// Writes the file, and what it says of itself.
    fn dump(
        &self,
        snapshot: Snapshot,
        accept: impl FnOnce(Needs<'_>) -> Result<()>,
        begun: Instant,
        locks: u128,
    ) -> Result<Metadata> {
        let Snapshot { sessions, id, wal_position } = snapshot;
        let mut more = More { snapshot: id, wal_position, ..More::default() };
        more.time(metadata::TIMINGS[0], locks);
        let mut sessions = sessions.into_iter();
        // It exported the snapshot, so it stays to the end.
        let Some(mut aside) = sessions.next() else { return Err(never()) };
        let plan = Plan::read(&mut aside.client).map_err(|error| failed("read the catalog", &error))?;
        accept(Needs { superuser: plan.superuser, timescaledb: plan.extension.installed.as_deref() })?;
        let since = Instant::now();
        let archive = Archive::create(
            &self.partial.path().join(self.file()),
            self.options.compress.then_some(self.options.level),
        )
        .map_err(|error| cannot_write(&error))?;
        let put = |stage, sql: &str| {
            archive.append(stage, None, 0, sql.as_bytes()).map_err(|error| cannot_write(&error))
        };
        put(Stage::Begin, &sqltext::begin(self.partial.name(), self.file(), plan.superuser))?;
        let (beside, rows) = self.rows(sessions.collect(), &mut aside, &plan, &archive, &more.snapshot)?;
        more.time(metadata::TIMINGS[1], beside.took);
        more.time(metadata::TIMINGS[2], since.elapsed().as_millis());
        let tables = plan.catalog.iter().chain(plan.tables.iter().map(|(table, _)| table));
        more.tables = tables
            .zip(beside.catalog.iter().chain(&rows))
            .map(|(table, sum)| Table { rows: sum.rows, hash: sum.hash, ..table.clone() })
            .collect();
        more.inventory = beside.inventory;
        put(Stage::Sequences, &sqltext::sequences(&plan.sequences))?;
        if plan.large_objects > 0 {
            self.large_objects(&archive, &more.snapshot)?;
        }
        drop(aside);
        let (post, refresh) = schema::after_rows(&beside.post)?;
        put(Stage::PostData, &post)?;
        put(Stage::Check, &sqltext::check(&more.tables))?;
        let schema = plan.extension.schema.as_deref();
        if let Some(schema) = schema.filter(|_| plan.superuser) {
            put(Stage::Finish, &sqltext::finish(schema, plan.jobs_table.as_deref()))?;
        }
        put(Stage::Refresh, &refresh)?;
        put(Stage::Settings, &sqltext::settings(&plan.database))?;
        put(Stage::Last, &sqltext::last(&plan.database))?;
        let start =
            schema.filter(|_| !plan.jobs.is_empty()).map(|schema| sqltext::start_jobs(schema, &plan.jobs));
        put(Stage::End, &sqltext::end(start.as_deref()))?;
        more.time(metadata::TIMINGS[3], begun.elapsed().as_millis());
        let written = archive.finish().map_err(|error| cannot_write(&error))?;
        self.describe(plan, more, written)
    }

    fn definitions(&self, plan: &Plan, snapshot: &str) -> Result<String> {
        let text =
            schema::section(self.pg_dump, self.settings, &self.context.variables, snapshot, "pre-data")?;
        let extension = plan.extension.installed.as_deref().zip(plan.extension.schema.as_deref());
        let extension = extension.map(|(version, schema)| schema::Extension {
            version,
            schema,
            superuser: plan.superuser,
        });
        schema::before_rows(&text, extension.as_ref())
    }

    /// Rows over all sessions, what each table holds; beside them what stands before and behind them in the file.
    fn rows(
        &self,
        sessions: Vec<Session>,
        aside: &mut Session,
        plan: &Plan,
        archive: &Archive,
        snapshot: &str,
    ) -> Result<(Beside, Vec<RowSum>)> {
        let progress = Progress::default();
        let done = AtomicBool::new(false);
        let total: u64 = plan.tables.iter().map(|(_, bytes)| bytes).sum();
        thread::scope(|scope| {
            let beside = scope.spawn(|| self.beside(aside, plan, archive, snapshot));
            if progress::shown() {
                scope.spawn(|| show(&progress, total, &done));
            }
            let rows = copy::all(sessions, &plan.tables, plan.catalog.len(), archive, &progress);
            done.store(true, Ordering::Relaxed);
            let beside = beside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            // Without what stands before them the rows have failed too, and do not know why.
            Ok((beside?, rows?))
        })
    }

    /// What stands before the rows, then what is written behind them.
    fn beside(&self, aside: &mut Session, plan: &Plan, archive: &Archive, snapshot: &str) -> Result<Beside> {
        let since = Instant::now();
        let gate = archive.rows_gate();
        archive
            .append(Stage::PreData, None, 0, self.definitions(plan, snapshot)?.as_bytes())
            .map_err(|error| cannot_write(&error))?;
        let mut catalog = Vec::with_capacity(plan.catalog.len());
        for (number, table) in plan.catalog.iter().enumerate() {
            catalog.push(copy::table(aside, table, Stage::Catalog, number, archive, &Progress::default())?);
        }
        gate.open();
        let took = since.elapsed().as_millis();
        let inventory = Inventory::of(&mut aside.client)
            .map_err(|error| failed("take the inventory of the database", &error))?;
        let post =
            schema::section(self.pg_dump, self.settings, &self.context.variables, snapshot, "post-data")?;
        Ok(Beside { catalog, took, inventory, post })
    }

    /// Large objects as pg_dump writes them, without anything else.
    fn large_objects(&self, archive: &Archive, snapshot: &str) -> Result<()> {
        let section = "data (large objects)";
        let arguments = ["--section=data", "--exclude-table-data=*.*", "--large-objects"];
        // What it says to stderr must not wait for a reader, and goes with this folder.
        let words = self.partial.path().join(".pg_dump");
        let told = || std::fs::read_to_string(&words).unwrap_or_default();
        let failed = |error: std::io::Error| {
            schema::cannot(self.pg_dump, section)
                .because_all(told().lines().map(str::to_owned).collect::<Vec<_>>())
                .because(error)
        };
        let reader = schema::call(self.pg_dump, self.settings, &self.context.variables, snapshot, &arguments)
            .stderr_path(&words)
            .reader()
            .map_err(failed)?;
        let written = archive
            .append_stream(Stage::LargeObjects, |out| schema::large_objects(reader, out))
            .map_err(failed);
        stopped()?;
        written?;
        std::fs::remove_file(&words).map_err(|error| cannot_write(&error))
    }

    /// Writes metadata.json and checksums.sha256.
    fn describe(&self, plan: Plan, mut more: More, written: Written) -> Result<Metadata> {
        let identity = &self.server.identity;
        more.tool_version = TOOL_VERSION.to_owned();
        more.server = self.server.version.clone();
        more.timescaledb = plan.extension.installed.clone();
        more.pg_dump = self.pg_dump.version.clone();
        more.system_identifier = identity.system_identifier.clone();
        more.superuser = plan.superuser;
        more.extension_schema = plan.extension.schema.clone();
        more.sizes = vec![written.bytes];
        more.jobs = plan.jobs;
        more.large_objects = plan.large_objects;
        more.database = plan.database;
        more.members = written.members;
        let connection = &self.settings.connection;
        let metadata = Metadata {
            name: self.partial.name().to_owned(),
            kind: "full".to_owned(),
            environment: self.settings.environment.defaults().name.to_owned(),
            database: [
                connection.host.clone(),
                connection.port.to_string(),
                connection.dbname.clone(),
                connection.user.clone(),
            ],
            created_at: self
                .partial
                .created()
                .replace_nanosecond(0)
                .ok()
                .and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok())
                .unwrap_or_default(),
            created_by: crate::run::who(&self.context.variables),
            database_size: bytes(plan.database_bytes),
            table_count: plan.table_count.to_string(),
            hypertable_count: plan.hypertable_count.to_string(),
            files: vec![(self.file().to_owned(), written.sha256)],
            more: Some(more),
        };
        let text = metadata.render();
        let path = self.partial.path();
        write_whole(&path.join(metadata::FILE), &text, 0o600)
            .and_then(|()| {
                write_whole(&path.join(checksums::FILE), &checksums::render(&text, &metadata), 0o600)
            })
            .map_err(|error| cannot_write(&error))?;
        Ok(metadata)
    }
}

/// A line on a terminal: how much is read, how fast, and how long it may still take.
fn show(progress: &Progress, total: u64, done: &AtomicBool) {
    let line = Line::new();
    line.begin("rows");
    let begun = Instant::now();
    while !done.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(200));
        let read = progress.bytes.load(Ordering::Relaxed);
        let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = read.saturating_mul(1000) / milliseconds;
        let left = total.saturating_sub(read) / rate.max(1);
        line.update(&format!(
            "{} rows, {} of about {}, {}/s, about {left} s left",
            count(progress.rows.load(Ordering::Relaxed)),
            bytes(read),
            bytes(total),
            bytes(rate)
        ));
    }
}

fn report(context: &Context, entry: &Entry, metadata: &Metadata, took: Duration) {
    let Some(more) = &metadata.more else { return };
    let milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    for ((file, hash), size) in metadata.files.iter().zip(&more.sizes) {
        context
            .recorder
            .emit("file", json!({ "backup": metadata.name, "file": file, "bytes": size, "sha256": hash }));
    }
    context.recorder.emit("backup", crate::list::record(entry, "created"));
    context.recorder.count("tables", more.tables.iter().filter(|table| table.condition.is_none()).count());
    let raw: u64 = more.members.iter().map(|member| member.raw).sum();
    log::info!(
        "{} stored rows of {} tables, {} as SQL, {} in the backup, {}.{:03} s",
        count(metadata.rows().unwrap_or_default()),
        more.tables.iter().filter(|table| table.condition.is_none()).count(),
        bytes(raw),
        bytes(entry.size),
        milliseconds / 1000,
        milliseconds % 1000
    );
    log::info!("Location: {}", ms5_common::config::absolute(&entry.path).display());
    if more.superuser {
        log::info!(
            "It holds hypertables: a restore needs a superuser (DB_USER, or --restore-user=ROLE with MS5_RESTORE_PASSWORD)"
        );
    }
    log::info!("Prove it by restoring it: backup-manager verify {} --deep", metadata.name);
    success!("✅ Backup completed: {}", metadata.name);
    log::debug!("at {}, {} processors", clock::record_time(), machine::processors());
}
