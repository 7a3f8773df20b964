//! `verify --deep`: restored into a scratch database and compared there, which nobody but us ever sees.
//!
//! timescaledb_post_restore() is never called, so no job can run in it: a retention policy would delete what is to be
//! compared.

use std::time::Instant;

use ms5_common::clock;
use ms5_common::config::Settings;
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::success;
use ms5_common::tool::Context;

use super::load::Load;
use super::server::{Maintenance, Needs};
use super::{Source, compare};
use crate::archive::Reader;
use crate::args::{Options, own};
use crate::folder::metadata::Kind;
use crate::folder::proof::{self, Proof};
use crate::folder::{Entry, Folder};
use crate::sessions::{self, restorer};
use crate::words::count;

/// Restores, compares, drops; writes the proof.
pub(crate) fn run(
    context: &Context,
    options: &Options,
    settings: &Settings,
    _folder: &Folder,
    entry: Entry,
) -> Result<Exit> {
    context.recorder.start(None, None);
    let cannot = |why: &str, so: &str| {
        Error::new(Exit::Config, format!("{} cannot be proven by restoring it alone", entry.name))
            .because(why.to_owned())
            .because(so.to_owned())
    };
    let (kind, more) = match Source::of(&entry)? {
        Source::Ours(Kind::Data | Kind::Hypertables, _) => {
            return Err(cannot(
                "it holds rows alone: there are no tables in it to load them into",
                "its checksums are right, and every row is as it was read",
            )
            .hint("restore it into a database that has the tables: what is loaded is compared before it is committed"));
        }
        Source::Ours(kind, more) => (kind, more),
        Source::Old(_) => {
            return Err(cannot(
                "it was made by the old script, which counted no rows",
                "there is nothing to compare a restored database with; its checksums are right",
            )
            .hint(format!("take a backup of your own: {} backup NAME full", own())));
        }
    };
    let begun = Instant::now();
    let _work = sessions::work()?;
    let settings = restorer(settings, &context.variables, options.restore_user.as_deref());
    let mut maintenance = Maintenance::open(&settings, &options.maintenance)?;
    maintenance.check(Needs::of(kind, more))?;
    maintenance.sweep()?;
    let scratch = maintenance.create(&more.database)?;
    log::info!("Restoring it into the scratch database {scratch}");
    let result = prove(&entry, more, &maintenance.settings(&scratch), options.jobs);
    let dropped = maintenance.drop(&scratch);
    let differences = result?;
    dropped?;
    if !differences.is_empty() {
        for line in compare::differs(&differences).lines() {
            log::error!("{line}");
        }
        context.recorder.emit("backup", crate::list::record(&entry, "damaged"));
        log::error!("❌ Backup {} does not restore to what was backed up", entry.name);
        log::error!("Next: keep it apart and take another one: {} backup NAME full", own());
        return Ok(Exit::Failed);
    }
    let rows = more.tables.iter().map(|table| table.rows).sum();
    let proven = Proof {
        verified_at: clock::record_time(),
        by: crate::run::who(&context.variables),
        server: maintenance.version.clone(),
        tables: more.tables.len() as u64,
        rows,
    };
    proof::write(&entry.path, &proven).map_err(|error| {
        Error::new(Exit::Failed, format!("cannot write {}", proof::FILE))
            .because(error)
            .because("the backup is proven")
    })?;
    log::info!(
        "Every row of {} tables ({} rows) and {} objects are as they were backed up ({} ms)",
        more.tables.len(),
        count(rows),
        more.inventory.len(),
        begun.elapsed().as_millis()
    );
    context.recorder.emit("backup", crate::list::record(&entry, "proven"));
    success!("✅ Backup verified by restoring it: {}", entry.name);
    Ok(Exit::Done)
}

fn prove(
    entry: &Entry,
    more: &crate::folder::metadata::More,
    settings: &Settings,
    jobs: usize,
) -> Result<Vec<String>> {
    let reader = super::reader(entry)?;
    let reader: &Reader = &reader;
    let load = Load { settings, more, reader, jobs };
    load.all()?;
    compare::all(&load)
}
