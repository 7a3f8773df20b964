//! Type `full`: definitions, TimescaleDB's catalog, rows as they are stored, keys and indexes.

use std::fs::File;
use std::io::{Read as _, Seek};
use std::thread;
use std::time::Instant;

use ms5_common::catalog::Inventory;
use ms5_common::error::Result;
use rustix::fs::{MemfdFlags, memfd_create};

use super::copy::{self, Form, Progress, Read, cannot_write, put};
use super::pieces::Pieces;
use super::plan::Plan;
use super::{Files, Job, Source, finish, sections};
use crate::archive::Archive;
use crate::export::whole_name;
use crate::folder::metadata::{self, More, Stage, Table};
use crate::rows::RowSum;
use crate::sessions::{Session, failed, stopped};
use crate::sqltext;

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

impl Job<'_> {
    /// Writes the members of a full backup.
    pub(super) fn full(
        &self,
        source: Source,
        plan: &Plan,
        more: &mut More,
        pieces: Option<&Pieces<'_>>,
    ) -> Result<Files> {
        let file = self.base(self.named(&self.kind.file(self.options.compress)));
        let archive = self.archive(&file)?;
        more.superuser = plan.superuser;
        more.extension_schema = plan.extension.schema.clone();
        more.jobs = plan.jobs.iter().map(|job| job.id).collect();
        more.large_objects = plan.large_objects;
        let since = Instant::now();
        let put = |stage, sql: &str| put(&archive, stage, sql);
        put(
            Stage::Begin,
            &sqltext::begin(self.kind, self.partial.name(), whole_name(&file), plan.superuser),
        )?;
        let Source { mut aside, readers } = source;
        let (beside, rows) = self.rows(readers, &mut aside, plan, &archive, &more.snapshot, pieces)?;
        more.time(metadata::TIMINGS[1], beside.took);
        more.time(metadata::TIMINGS[2], since.elapsed().as_millis());
        let catalog = plan.catalog.iter().zip(beside.catalog.iter().copied());
        more.tables = catalog
            .chain(plan.tables.iter().map(|(table, _)| table).zip(rows))
            .map(|(table, sum)| Table { rows: sum.rows, hash: sum.hash, ..table.clone() })
            .collect();
        more.inventory = beside.inventory;
        put(Stage::Sequences, &sqltext::sequences(&plan.sequences))?;
        if plan.large_objects > 0 {
            self.large_objects(&archive, &more.snapshot)?;
        }
        drop(aside);
        let post = sections::after_rows(&beside.post, &plan.hypertables)?;
        put(Stage::PostData, &(post.rest() + &sqltext::added(&plan.added)))?;
        put(Stage::Check, &sqltext::check(&more.tables))?;
        let schema = plan.extension.schema.as_deref();
        if let Some(schema) = schema.filter(|_| plan.superuser) {
            put(Stage::Finish, &sqltext::finish(schema, plan.jobs_table.as_deref()))?;
        }
        put(Stage::Refresh, &post.refresh_and_last())?;
        put(Stage::Settings, &sqltext::settings(&plan.database))?;
        put(Stage::Last, &sqltext::last(&plan.database))?;
        let start = schema.filter(|_| !plan.jobs.is_empty());
        more.start_jobs = start.map(|schema| sqltext::start_jobs(schema, &plan.jobs));
        put(Stage::End, &sqltext::end(more.start_jobs.as_deref()))?;
        finish(vec![(file, archive)])
    }

    fn definitions(&self, plan: &Plan, text: &str) -> Result<String> {
        let extension = plan.extension.installed.as_deref().zip(plan.extension.schema.as_deref());
        let extension = extension.map(|(version, schema)| sections::Extension {
            version,
            schema,
            superuser: plan.superuser,
        });
        sections::before_rows(text, extension.as_ref())
    }

    /// Rows over all sessions, what each table holds; beside them what stands before and behind them in the file.
    fn rows(
        &self,
        sessions: Vec<Session>,
        aside: &mut Session,
        plan: &Plan,
        archive: &Archive,
        snapshot: &str,
        pieces: Option<&Pieces<'_>>,
    ) -> Result<(Beside, Vec<RowSum>)> {
        let first = plan.catalog.len();
        let reads = copy::whole(&plan.tables, first);
        thread::scope(|scope| {
            let beside = scope.spawn(|| self.beside(aside, plan, archive, snapshot));
            let rows = copy::all_shown(sessions, &reads, std::slice::from_ref(archive), pieces);
            let beside = beside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            // Without what stands before them the rows have failed too, and do not know why.
            let (beside, rows) = (beside?, rows?);
            let each = first..first + plan.tables.len();
            Ok((beside, each.map(|number| rows.get(&number).copied().unwrap_or_default()).collect()))
        })
    }

    /// What stands before the rows, then what is written behind them.
    fn beside(&self, aside: &mut Session, plan: &Plan, archive: &Archive, snapshot: &str) -> Result<Beside> {
        let since = Instant::now();
        let gate = archive.rows_gate();
        // Rows wait for the first, where there are any to wait: then the second can wait too.
        let (pre, early) = if self.options.incremental {
            let (pre, post) = self.sections(snapshot, &[])?;
            (pre, Some(post))
        } else {
            (self.section(snapshot, "pre-data", &[])?, None)
        };
        put(archive, Stage::PreData, &self.definitions(plan, &pre)?)?;
        let mut catalog = Vec::with_capacity(plan.catalog.len());
        for (number, table) in plan.catalog.iter().enumerate() {
            let read = Read {
                number,
                table,
                source: table.source(),
                relation: table.name.clone(),
                bytes: 0,
                form: Form::Sql,
            };
            catalog.push(copy::read(aside, &read, Stage::Catalog, archive, &Progress::default(), None)?);
        }
        gate.open();
        let took = since.elapsed().as_millis();
        let inventory = Inventory::of(&mut aside.client)
            .map_err(|error| failed("take the inventory of the database", &error))?;
        let post = early.map_or_else(|| self.section(snapshot, "post-data", &[]), Ok)?;
        Ok(Beside { catalog, took, inventory, post })
    }

    /// Large objects as pg_dump writes them, without anything else.
    fn large_objects(&self, archive: &Archive, snapshot: &str) -> Result<()> {
        let section = "data (large objects)";
        let arguments = ["--section=data", "--exclude-table-data=*.*", "--blobs"];
        // What it says to stderr must not wait for a reader, nor be on a disk.
        let (words, theirs) = words().map_err(|error| cannot_write(&error))?;
        let told = || {
            let mut text = String::new();
            let _ = (&words).rewind().and_then(|()| (&words).read_to_string(&mut text));
            text
        };
        let failed = |error: std::io::Error| {
            sections::cannot(self.pg_dump, section)
                .because_all(told().lines().map(str::to_owned).collect::<Vec<_>>())
                .because(error)
        };
        let reader = self.pg_dump_call(snapshot, &arguments).stderr_file(theirs).reader().map_err(failed)?;
        let written = archive
            .append_stream(Stage::LargeObjects, |out| sections::large_objects(reader, out))
            .map_err(failed);
        stopped()?;
        written
    }
}

/// A file in memory, twice.
fn words() -> std::io::Result<(File, File)> {
    let file = File::from(memfd_create("pg_dump", MemfdFlags::CLOEXEC)?);
    Ok((file.try_clone()?, file))
}
