//! Type `schema`: the definitions, hypertables made anew from what the catalog says of them, not a row.

use std::time::Instant;

use ms5_common::catalog::Inventory;
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::timescale::definition::{self, Definition};

use super::copy::put;
use super::definitions::{self, LEFT_OUT};
use super::plan::Plan;
use super::{Files, Job, Source, finish};
use crate::folder::metadata::{self, More, Stage};
use crate::sessions::failed;
use crate::{remake, sqltext};

impl Job<'_> {
    /// Writes the members of a schema backup.
    pub(super) fn schema(&self, source: Source, plan: &Plan, more: &mut More) -> Result<Files> {
        let since = Instant::now();
        let Source { mut aside, .. } = source;
        let client = &mut aside.client;
        let made = definition::read(client, &plan.extension)
            .map_err(|error| failed("read what TimescaleDB knows of hypertables", &error))?;
        can_be_made(&made)?;
        if plan.large_objects > 0 {
            log::warn!(
                "{} large objects are not in a schema backup; a full one has them",
                plan.large_objects
            );
        }
        let functions = plan.extension.schema.as_deref().unwrap_or_default();
        let file = self.named(&self.kind.file(self.options.compress));
        let archive = self.archive(&file)?;
        let put = |stage, sql: &str| put(&archive, stage, sql);
        put(Stage::Begin, &sqltext::begin(self.kind, self.partial.name(), &file, false))?;
        let (pre, post) = self.sections(&more.snapshot, &LEFT_OUT)?;
        put(Stage::PreData, &definitions::before_rows(&pre, &made, functions)?)?;
        put(Stage::PostData, &definitions::after_rows(&post, &made)?)?;
        put(Stage::Hypertables, &definitions::hypertables(&made, functions))?;
        put(Stage::Settings, &sqltext::settings(&plan.database))?;
        put(Stage::Last, &sqltext::last(&plan.database))?;
        more.start_jobs = remake::start(functions, &made.jobs, None);
        put(Stage::End, &sqltext::end(more.start_jobs.as_deref()))?;
        more.inventory =
            Inventory::of(client).map_err(|error| failed("take the inventory of the database", &error))?;
        more.time(metadata::TIMINGS[1], since.elapsed().as_millis());
        finish(vec![(file, archive)])
    }
}

/// Refuses what would be missing from a database made of it.
fn can_be_made(definition: &Definition) -> Result<()> {
    let unknown = remake::unknown(&definition.jobs);
    if unknown.is_empty() {
        return Ok(());
    }
    Err(Error::new(Exit::Failed, "a schema backup cannot hold jobs of a kind that this tool does not know")
        .because_all(unknown)
        .because("nothing of the backup is kept")
        .hint("take a full backup: backup NAME full"))
}
