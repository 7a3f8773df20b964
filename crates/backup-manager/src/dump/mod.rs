//! `backup`: the database as of one moment, in one file that plain psql restores and that proves itself.

mod copy;
mod csv;
mod data;
mod definitions;
mod full;
mod pieces;
mod plan;
mod schema;
mod sections;
mod snapshot;
mod watch;

pub(crate) use copy::cannot_write;
pub(crate) use plan::{Added, Scheduled, TABLE_COUNT, database, jobs};
pub(crate) use sections::{Piece, creates_timescale, pieces};

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use ms5_common::clock;
use ms5_common::config::Settings;
use ms5_common::db::client::Client;
use ms5_common::db::clients::{self, ClientProgram};
use ms5_common::db::lock::{Mode, RunLock};
use ms5_common::db::session::{self as common, Server, Tuning};
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::machine;
use ms5_common::success;
use ms5_common::timescale;
use ms5_common::tool::Context;
use ms5_common::troubleshooting::with_backups;
use serde_json::json;

use crate::archive::{Archive, Written, free, small};
use crate::args::{Options, TOOL, TOOL_VERSION, own};
use crate::export::BASE;
use crate::folder::metadata::{self, Kind, Member, Metadata, More, Sealed};
use crate::folder::partial::{self, Partial};
use crate::folder::{Entry, Folder, Hold, write_index};
use crate::restore::server::{Needs, Wanted};
use crate::seal::{self, Recipients};
use crate::sessions::{self, Session, failed};
use crate::store::{self, key::Keys};
use crate::verify;
use crate::words::{bytes, count};
use pieces::{Done, Pieces};
use plan::Plan;
use snapshot::Snapshot;

/// The whole command; gives the backup's entry. `accept` is asked before a row is read whether the backup is wanted, by what a
/// restore of it will ask for.
pub(crate) fn run(
    context: &Context,
    options: &Options,
    settings: &Settings,
    name: &str,
    kind: Kind,
    accept: impl FnOnce(Needs<'_>) -> Result<()>,
) -> Result<Entry> {
    crate::folder::name::check(name)?;
    if options.incremental {
        pieces::can_be_of(kind)?;
    }
    let recipients = options.encrypt_to.as_deref().map(Recipients::parse).transpose()?;
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
        return Err(timescale::left_restoring(&extension));
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
    // What there is of the store may make it a small one.
    let small = kind == Kind::Schema || (options.incremental && folder.path().join(store::FOLDER).is_dir());
    if !small {
        enough_space(folder.path(), u64::try_from(database_bytes).unwrap_or_default(), options.compress)?;
    }
    let schemas = schemas(&mut looker)?;
    let name_of_dump = watch::name(&mut looker).map_err(|error| failed("ask who we are", &error))?;
    let dumper = watch::named(settings, &name_of_dump);

    let partial = Partial::create(&folder, name)?;
    log::info!("Creating backup: {} (type {})", partial.name(), kind.word());
    if let Some(recipients) = &recipients {
        recipients.words().iter().for_each(|one| log::info!("Encrypted for {one}"));
    }
    let job = Job {
        context,
        options,
        settings,
        dumper: &dumper,
        kind,
        recipients: recipients.as_ref(),
        server: &server,
        pg_dump: &pg_dump,
        folder: &folder,
        partial: &partial,
    };
    let readers = if kind == Kind::Schema { 0 } else { options.jobs };
    let snapshot = snapshot::take(settings, readers + 1, options.lock_timeout)?;
    let locked = begun.elapsed();
    log::info!("All tables are locked for reading and the snapshot is taken ({} ms)", locked.as_millis());
    let patience = watch::patience(options.lock_timeout);
    let (metadata, reused) = watch::beside(&mut looker, &name_of_dump, patience, || {
        job.dump(snapshot, accept, begun, locked.as_millis())
    })?;
    same_schemas(&schemas, &self::schemas(&mut looker)?)?;
    lock.check()?;
    drop((lock, looker));

    log::info!("Reading the backup back");
    let entry = Entry::read(partial.name().to_owned(), partial.path().to_owned());
    let damage = verify::sums_but(&entry, &reused)?;
    if !damage.is_empty() {
        return Err(Error::new(Exit::Failed, "the backup cannot be read back as it was written")
            .because_all(damage)
            .because("nothing of it is kept")
            .hint("check the disk under --backup-dir"));
    }
    let path = partial.publish(&folder).map_err(|error| cannot_write(&error))?;
    let mut entry = Entry::read(metadata.name.clone(), path);
    report(context, settings, &entry, &metadata, begun.elapsed());
    // An encrypted one says less of itself than who has made it knows.
    entry.metadata = Ok(metadata);
    Ok(entry)
}

/// Every schema and what it is called.
fn schemas(client: &mut Client) -> Result<BTreeMap<String, u32>> {
    let rows = client
        .query_typed(
            "SELECT nspname::text, oid FROM pg_catalog.pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_'",
            &[],
        )
        .map_err(|error| failed("list the schemas", &error))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Refuses what was read while the names of schemas went from one to another: tables are locked, and are read by their names,
/// and no lock keeps a schema's.
fn same_schemas(before: &BTreeMap<String, u32>, after: &BTreeMap<String, u32>) -> Result<()> {
    let moved = before.iter().find(|(name, oid)| after.get(*name).is_some_and(|now| now != *oid));
    moved.map_or(Ok(()), |(name, _)| {
        Err(Error::new(Exit::Failed, "schemas were given other names while the backup was made")
            .because(format!("{name} is another schema now than when its tables were locked"))
            .because("nothing of the backup is kept")
            .hint("run it again when nobody renames schemas"))
    })
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
            .hint(format!("make room ({} clean), or write elsewhere: --backup-dir=DIR", own())));
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

/// What the parts of a backup share.
struct Job<'a> {
    context: &'a Context,
    options: &'a Options,
    settings: &'a Settings,
    /// The same for pg_dump.
    dumper: &'a Settings,
    kind: Kind,
    /// None: it is not encrypted.
    recipients: Option<&'a Recipients>,
    server: &'a Server,
    pg_dump: &'a ClientProgram,
    folder: &'a Folder,
    partial: &'a Partial,
}

/// Files of a backup that were written, by their names.
type Files = Vec<(String, Written)>;

/// Makes files durable.
fn finish(archives: Vec<(String, Archive)>) -> Result<Files> {
    let finished = archives.into_iter().map(|(name, archive)| Ok((name, archive.finish()?)));
    finished.collect::<std::io::Result<_>>().map_err(|error| cannot_write(&error))
}

/// The sessions that see the snapshot.
struct Source {
    /// For everything but rows of tables.
    aside: Session,
    readers: Vec<Session>,
}

impl Job<'_> {
    /// The name of a file of the backup, as it is on the disk.
    fn named(&self, file: &str) -> String {
        format!("{file}{}", if self.recipients.is_some() { seal::ENDING } else { "" })
    }

    /// The name of a file that holds what is not in the store, where there is one: whoever finds it must not take it for all.
    fn base(&self, file: String) -> String {
        if self.options.incremental { format!("{BASE}{file}") } else { file }
    }

    fn level(&self) -> Option<u32> {
        self.options.compress.then_some(self.options.level)
    }

    /// What an incremental backup takes from the store, and puts there.
    fn pieces(&self, inserted: Option<&str>, writers: &[u32]) -> Result<Option<Pieces<'_>>> {
        if !self.options.incremental {
            return Ok(None);
        }
        let keys = match Keys::read(self.settings, inserted, writers)? {
            Ok(keys) => Some(keys),
            Err(why) => {
                log::info!("What has changed is told by reading it: {why}");
                None
            }
        };
        let Self { settings, folder, partial, kind, .. } = *self;
        Pieces::of(settings, folder, partial.path(), kind, self.level(), keys).map(Some)
    }

    /// A new file of the backup.
    fn archive(&self, file: &str) -> Result<Archive> {
        Archive::create(&self.partial.path().join(file), self.level(), self.recipients)
            .map_err(|error| cannot_write(&error))
    }

    /// A small file of the backup, as a whole.
    fn small(&self, file: &str, text: &str) -> Result<(String, Written)> {
        let name = self.named(file);
        let written = small(&self.partial.path().join(&name), self.recipients, text);
        Ok((name, written.map_err(|error| cannot_write(&error))?))
    }

    /// Writes the files, and what they say of themselves; gives that, and what it has found whole in the store.
    fn dump(
        &self,
        snapshot: Snapshot,
        accept: impl FnOnce(Needs<'_>) -> Result<()>,
        begun: Instant,
        locks: u128,
    ) -> Result<(Metadata, BTreeSet<String>)> {
        let Snapshot { sessions, id, wal_position, inserted, writers } = snapshot;
        let mut more = More { snapshot: id, wal_position, ..More::default() };
        more.time(metadata::TIMINGS[0], locks);
        let mut sessions = sessions.into_iter();
        // It exported the snapshot, so it stays to the end.
        let Some(aside) = sessions.next() else { return Err(never()) };
        let mut source = Source { aside, readers: sessions.collect() };
        let (plan, pieces) = thread::scope(|scope| {
            let pieces = scope.spawn(|| self.pieces(inserted.as_deref(), &writers));
            let plan = Plan::read(&mut source.aside.client);
            (plan, pieces.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        let (plan, pieces) = (plan.map_err(|error| failed("read the catalog", &error))?, pieces?);
        if self.kind != Kind::Full && !plan.strange_schemas.is_empty() {
            return Err(Error::new(
                Exit::Config,
                format!(
                    "a backup of type {} cannot hold schemas with names of TimescaleDB's",
                    self.kind.word()
                ),
            )
            .because_all(plan.strange_schemas)
            .because("they begin with _timescaledb_ and are none of its own; nothing of the backup is kept")
            .hint("give them other names, or take a full backup: backup NAME full"));
        }
        accept(Needs {
            superuser: plan.superuser,
            timescaledb: Wanted::exactly(plan.extension.installed.as_deref()),
        })?;
        let files = match self.kind {
            Kind::Full => self.full(source, &plan, &mut more, pieces.as_ref())?,
            Kind::Schema => self.schema(source, &plan, &mut more)?,
            Kind::Data => self.data(source, &plan, &mut more)?,
            Kind::Hypertables => self.hypertables(source, &plan, &mut more, pieces.as_ref())?,
        };
        let pieces = pieces.map(|pieces| pieces.settle()).transpose()?;
        more.time(metadata::TIMINGS[3], begun.elapsed().as_millis());
        // What was written now is read back, also where rows that were there already have the same file.
        let of = |fresh: bool| {
            let done = pieces.iter().flatten().filter(move |done| done.fresh.is_some() == fresh);
            done.map(|done| done.piece.file.clone()).collect::<BTreeSet<_>>()
        };
        let reused = of(false).difference(&of(true)).cloned().collect();
        Ok((self.describe(plan, more, files, pieces)?, reused))
    }

    /// Both of pg_dump's sections, of the same arguments.
    fn sections(&self, snapshot: &str, arguments: &[&str]) -> Result<(String, String)> {
        thread::scope(|scope| {
            let post = scope.spawn(|| self.section(snapshot, "post-data", arguments));
            let pre = self.section(snapshot, "pre-data", arguments);
            let post = post.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok((pre?, post?))
        })
    }

    /// One of pg_dump's sections.
    fn section(&self, snapshot: &str, section: &str, arguments: &[&str]) -> Result<String> {
        let name = format!("--section={section}");
        let arguments: Vec<&str> = std::iter::once(&*name).chain(arguments.iter().copied()).collect();
        sections::text(self.pg_dump, self.pg_dump_call(snapshot, &arguments), section)
    }

    /// Calls pg_dump for what the snapshot shows.
    fn pg_dump_call(&self, snapshot: &str, more: &[&str]) -> duct::Expression {
        let snapshot = format!("--snapshot={snapshot}");
        let wait = format!("--lock-wait-timeout={}", watch::patience(self.options.lock_timeout).as_millis());
        let mut arguments = vec![&*snapshot, &*wait, "--no-password", "--encoding=UTF8"];
        arguments.extend(more);
        self.pg_dump.call(self.dumper, &self.context.variables, &arguments).stdin_null()
    }

    /// Writes metadata.json and checksums.sha256.
    fn describe(
        &self,
        plan: Plan,
        mut more: More,
        written: Files,
        pieces: Option<Vec<Done>>,
    ) -> Result<Metadata> {
        let identity = &self.server.identity;
        more.tool_version = TOOL_VERSION.to_owned();
        more.server = self.server.version.clone();
        more.timescaledb = plan.extension.installed.clone();
        more.pg_dump = self.pg_dump.version.clone();
        more.system_identifier = identity.system_identifier.clone();
        more.sizes = written.iter().map(|(_, file)| file.bytes).collect();
        more.database = plan.database;
        let mut files = Vec::with_capacity(written.len());
        for (place, (name, file)) in written.into_iter().enumerate() {
            files.push((name, file.sha256));
            more.members.extend(file.members.into_iter().map(|member| Member { file: place, ..member }));
        }
        // Their places go on behind those of the files.
        more.pieces = pieces.map(|pieces| {
            let placed = (files.len()..).zip(pieces).map(|(place, Done { piece, members, .. })| {
                more.members.extend(members.into_iter().map(|member| Member { file: place, ..member }));
                piece
            });
            placed.collect()
        });
        let connection = &self.settings.connection;
        more.sealed =
            (self.recipients).map(|recipients| Sealed { recipients: recipients.words(), rows: more.rows() });
        let mut metadata = Metadata {
            name: self.partial.name().to_owned(),
            kind: self.kind.word().to_owned(),
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
            files,
            more: Some(more),
        };
        if self.recipients.is_some() {
            let (name, index) = self.small(metadata::INDEX, &metadata.render_index())?;
            metadata.files.push((name, index.sha256));
            metadata.more.iter_mut().for_each(|more| more.sizes.push(index.bytes));
        }
        write_index(self.partial.path(), &metadata).map_err(|error| cannot_write(&error))?;
        Ok(metadata)
    }
}

fn report(context: &Context, settings: &Settings, entry: &Entry, metadata: &Metadata, took: Duration) {
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
        "{} stored rows of {} tables, {} as text, {} in the backup, {}.{:03} s",
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
    for index in more.inventory.invalid_indexes() {
        log::warn!(
            "The index {index} is not valid (a CREATE INDEX CONCURRENTLY that failed?): pg_dump leaves it out, and a restored database will not have it"
        );
    }
    if metadata.can_be_proven() {
        let prove = with_backups(settings, &format!("verify {} --deep", metadata.name));
        log::info!("Prove it by restoring it: {prove}");
    }
    success!("✅ Backup completed: {}", metadata.name);
    log::debug!("at {}, {} processors", clock::record_time(), machine::processors());
}
