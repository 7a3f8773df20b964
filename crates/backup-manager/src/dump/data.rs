//! Type `data`: rows of tables, those of a hypertable as SELECT gives them, for a database that has the definitions.

use std::collections::BTreeSet;
use std::time::Instant;

use ms5_common::db::client::Client;
use ms5_common::db::ledger::RESTORES;
use ms5_common::error::Result;
use ms5_common::timescale::hypertables::{self, Chunk};
use ms5_common::timescale::policies;

use super::copy::{self, Form, Read, put};
use super::definitions::LEFT_OUT;
use super::plan::Plan;
use super::{Files, Job, Source, finish, sections};
use crate::folder::metadata::{self, More, Stage, Table};
use crate::sessions::failed;
use crate::{aside, sqltext};

/// Whether a table or a sequence, as SQL, is TimescaleDB's own.
fn is_internal(name: &str) -> bool {
    name.starts_with("_timescaledb_")
}

impl Job<'_> {
    /// Writes the members of a data backup.
    pub(super) fn data(&self, source: Source, plan: &Plan, more: &mut More) -> Result<Files> {
        let since = Instant::now();
        let Source { mut aside, readers } = source;
        let client = &mut aside.client;
        let asked = |error: postgres::Error| failed("read what TimescaleDB knows of hypertables", &error);
        let theirs = Theirs::read(client, plan).map_err(asked)?;
        for aggregate in &theirs.aggregates {
            log::warn!(
                "The rows of the continuous aggregate {aggregate} are not in a data backup: refresh it after the restore"
            );
            log::warn!("  what it holds of a time whose rows are gone is in a full backup only");
        }
        if plan.large_objects > 0 {
            log::warn!("{} large objects are not in a data backup; a full one has them", plan.large_objects);
        }
        let tables = tables(plan, &theirs);
        let listed: Vec<Table> = tables.iter().map(|(table, _)| table.clone()).collect();
        let file = self.named(&self.kind.file(self.options.compress));
        let archive = self.archive(&file)?;
        let put = |stage, sql: &str| put(&archive, stage, sql);
        put(Stage::Begin, &sqltext::begin_rows(self.partial.name(), &file))?;
        put(Stage::Aside, &aside::aside(&listed))?;
        archive.rows_gate().open();
        let reads = reads(&tables, &theirs.chunks);
        let rows = copy::all_shown(readers, &reads, std::slice::from_ref(&archive), None)?;
        more.time(metadata::TIMINGS[2], since.elapsed().as_millis());
        let sum = |number| rows.get(&number).copied().unwrap_or_default();
        more.tables = (listed.iter().enumerate())
            .map(|(number, table)| Table { rows: sum(number).rows, hash: sum(number).hash, ..table.clone() })
            .collect();
        put(Stage::PostData, &aside::back())?;
        put(Stage::Check, &sqltext::check(&more.tables))?;
        let sequences: Vec<_> =
            plan.sequences.iter().filter(|(name, ..)| !is_internal(name)).cloned().collect();
        let text = self.section(&more.snapshot, "post-data", &LEFT_OUT)?;
        put(Stage::Refresh, &sections::after_rows(&text, &[])?.refresh())?;
        // Last, as no ROLLBACK sets them back.
        put(Stage::Sequences, &sqltext::sequences(&sequences))?;
        put(Stage::End, &sqltext::end_rows())?;
        finish(vec![(file, archive)])
    }
}

/// What TimescaleDB knows of hypertables.
#[derive(Default)]
struct Theirs {
    /// As SQL.
    hypertables: BTreeSet<String>,
    chunks: Vec<Chunk>,
    aggregates: Vec<String>,
}

impl Theirs {
    fn read(client: &mut Client, plan: &Plan) -> std::result::Result<Self, postgres::Error> {
        let Some(version) = plan.extension.version() else { return Ok(Self::default()) };
        Ok(Self {
            hypertables: hypertables::read(client)?.into_iter().map(|hypertable| hypertable.table).collect(),
            chunks: hypertables::chunks_with_sizes(client, version)?,
            aggregates: policies::continuous_aggregates(client)?,
        })
    }
}

/// Tables of users and rows of theirs in tables of extensions, with their size.
fn tables(plan: &Plan, theirs: &Theirs) -> Vec<(Table, u64)> {
    let chunks: BTreeSet<&str> = theirs.chunks.iter().map(|chunk| chunk.table.as_str()).collect();
    let own = plan.tables.iter().map(|(table, bytes)| {
        // Of a table that others inherit from, SELECT would give their rows too.
        let by_select = !plan.parents.contains(&table.name) || theirs.hypertables.contains(&table.name);
        (Table { by_select, ..table.clone() }, *bytes)
    });
    let of_extensions = plan.catalog.iter().map(|table| (table.clone(), 0));
    of_extensions
        .chain(own)
        .filter(|(table, _)| !is_internal(&table.name) && !chunks.contains(table.name.as_str()))
        // It tells where this very database is from.
        .filter(|(table, _)| table.name != RESTORES)
        .collect()
}

/// A table whose rows a SELECT gives is read so; the others as they are stored.
fn reads<'a>(tables: &'a [(Table, u64)], chunks: &[Chunk]) -> Vec<Read<'a>> {
    let stored = copy::whole(tables, 0).into_iter().flat_map(|read| {
        if read.table.by_select {
            copy::selected(read.number, read.table, read.bytes, chunks, |_| Form::Sql)
        } else {
            vec![read]
        }
    });
    copy::largest_first(stored.collect())
}
