//! Type `hypertables`: the rows of each hypertable as CSV, in a file of its own; what is needed to make it anew beside them.

use std::collections::BTreeMap;
use std::time::Instant;

use ms5_common::db::client::Client;
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::sql::escape_identifier;
use ms5_common::timescale::definition::{self, Definition, Dimension, Hypertable};
use ms5_common::timescale::hypertables::{self, Chunk};

use super::copy::{self, Form, Read};
use super::definitions::{LEFT_OUT, Name, of_tables};
use super::pieces::Pieces;
use super::plan::Plan;
use super::{Files, Job, Source, finish};
use crate::archive::Archive;
use crate::folder::hypertables::{FILE, Outline, file_name, render};
use crate::folder::metadata::{self, More, Stage, Table};
use crate::remake;
use crate::sessions::failed;

impl Job<'_> {
    /// Writes the files of a backup of hypertables.
    pub(super) fn hypertables(
        &self,
        source: Source,
        plan: &Plan,
        more: &mut More,
        pieces: Option<&Pieces<'_>>,
    ) -> Result<Files> {
        let since = Instant::now();
        let Source { mut aside, readers } = source;
        let theirs = Theirs::read(&mut aside.client, plan)
            .map_err(|error| failed("read what TimescaleDB knows of hypertables", &error))?;
        if theirs.definition.hypertables.is_empty() {
            return Err(Error::new(Exit::Config, "there is no hypertable in this database")
                .because("nothing of the backup is kept")
                .hint("for plain tables: backup NAME data, or backup NAME full"));
        }
        let functions = plan.extension.schema.as_deref().unwrap_or_default();
        let mut statements = self.statements(&theirs, functions, &more.snapshot)?;
        let (mut tables, mut outlines, mut archives) = (Vec::new(), Vec::new(), Vec::new());
        for hypertable in &theirs.definition.hypertables {
            let known = theirs.sql_name(hypertable);
            let found = plan.tables.iter().map(|(table, _)| table).find(|table| table.name == known);
            let table = found.ok_or_else(|| Error::new(Exit::Bug, format!("{known} is no table")))?;
            let table = Table { by_select: true, ..table.clone() };
            let file = self.named(&file_name(&hypertable.schema, &hypertable.name, self.options.compress));
            let base = self.base(file.clone());
            let archive = self.archive(&base)?;
            header(&archive, &theirs.columns(hypertable))?;
            archives.push((base, archive));
            let mut outline = outline(hypertable, &table, file, plan, &theirs, functions);
            outline.make = statements.remove(&name_of(hypertable)).unwrap_or_default();
            outlines.push(outline);
            tables.push(table);
        }
        let reads = reads(&tables, &theirs);
        let (names, archives): (Vec<String>, Vec<Archive>) = archives.into_iter().unzip();
        let sums = copy::all_shown(readers, &reads, &archives, pieces)?;
        drop(reads);
        for (number, (table, outline)) in tables.iter_mut().zip(&mut outlines).enumerate() {
            let sum = sums.get(&number).copied().unwrap_or_default();
            (table.rows, table.hash, outline.rows) = (sum.rows, sum.hash, sum.rows);
        }
        more.tables = tables;
        more.time(metadata::TIMINGS[2], since.elapsed().as_millis());
        let mut files = finish(names.into_iter().zip(archives).collect())?;
        files.push(self.small(FILE, &render(&outlines))?);
        Ok(files)
    }

    /// What makes each hypertable anew, by its name.
    fn statements(
        &self,
        theirs: &Theirs,
        functions: &str,
        snapshot: &str,
    ) -> Result<BTreeMap<Name, Vec<String>>> {
        // A pattern in quotes means itself.
        let patterns: Vec<String> = theirs
            .definition
            .hypertables
            .iter()
            .map(|table| format!("--table={}", remake::name(&table.schema, &table.name)))
            .collect();
        let arguments: Vec<&str> = patterns.iter().map(String::as_str).chain(LEFT_OUT).collect();
        let (pre, post) = self.sections(snapshot, &arguments)?;
        of_tables(&pre, &post, &theirs.definition, &theirs.sequences, functions)
    }
}

/// What is read of the catalog beside the plan.
struct Theirs {
    definition: Definition,
    chunks: Vec<Chunk>,
    ranges: BTreeMap<String, (i64, i64)>,
    /// Sequences of columns, and the table of each.
    sequences: Vec<(Name, Name)>,
    /// The same by their names as SQL.
    owners: BTreeMap<String, Name>,
    /// schema and name, name as SQL, names of columns.
    names: Vec<(Name, String, Vec<String>)>,
}

fn name_of(table: &Hypertable) -> Name {
    (table.schema.clone(), table.name.clone())
}

impl Theirs {
    fn read(client: &mut Client, plan: &Plan) -> std::result::Result<Self, postgres::Error> {
        let definition = definition::read(client, &plan.extension)?;
        let version = plan.extension.version();
        let names = client.query_typed(
            "SELECT n.nspname::text, c.relname::text, format('%I.%I', n.nspname, c.relname),
                    ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
                          WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
                          ORDER BY a.attnum)
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relkind = 'r' AND n.nspname !~ '^(pg_|_timescaledb_)'",
            &[],
        )?;
        let sequences = client.query_typed(
            "SELECT n.nspname::text, s.relname::text, m.nspname::text, t.relname::text,
                    format('%I.%I', n.nspname, s.relname)
             FROM pg_catalog.pg_depend d
             JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
             JOIN pg_catalog.pg_namespace n ON n.oid = s.relnamespace
             JOIN pg_catalog.pg_class t ON t.oid = d.refobjid
             JOIN pg_catalog.pg_namespace m ON m.oid = t.relnamespace
             WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype IN ('a', 'i')
               AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass",
            &[],
        )?;
        Ok(Self {
            definition,
            chunks: match version {
                Some(version) => hypertables::chunks_with_sizes(client, version)?,
                None => Vec::new(),
            },
            ranges: if version.is_some() { hypertables::chunk_ranges(client)? } else { BTreeMap::new() },
            owners: sequences.iter().map(|row| (row.get(4), (row.get(2), row.get(3)))).collect(),
            sequences: sequences
                .iter()
                .map(|row| ((row.get(0), row.get(1)), (row.get(2), row.get(3))))
                .collect(),
            names: names.iter().map(|row| ((row.get(0), row.get(1)), row.get(2), row.get(3))).collect(),
        })
    }

    fn found(&self, table: &Hypertable) -> Option<&(Name, String, Vec<String>)> {
        let name = name_of(table);
        self.names.iter().find(|(known, ..)| *known == name)
    }

    /// As the server quotes it.
    fn sql_name(&self, table: &Hypertable) -> String {
        self.found(table).map(|(_, sql, _)| sql.clone()).unwrap_or_default()
    }

    fn columns(&self, table: &Hypertable) -> Vec<String> {
        self.found(table).map(|(_, _, columns)| columns.clone()).unwrap_or_default()
    }
}

/// The line of names, as COPY writes it.
fn header(archive: &Archive, columns: &[String]) -> Result<()> {
    let quoted = |name: &String| {
        let plain = !name.is_empty() && !name.contains([',', '"', '\n', '\r']) && name.trim() == name;
        if plain { name.clone() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
    };
    let line = columns.iter().map(quoted).collect::<Vec<_>>().join(",");
    copy::put(archive, Stage::Header, &format!("{line}\n"))
}

fn outline(
    hypertable: &Hypertable,
    table: &Table,
    file: String,
    plan: &Plan,
    theirs: &Theirs,
    functions: &str,
) -> Outline {
    let time = hypertable.dimensions.first().cloned().unwrap_or_default();
    let name = name_of(hypertable);
    let is_own = |sequence: &str| theirs.owners.get(sequence) == Some(&name);
    let jobs: Vec<_> = (theirs.definition.jobs.iter())
        .filter(|job| job.on.as_deref() == Some(table.name.as_str()))
        .cloned()
        .collect();
    Outline {
        table: table.name.clone(),
        file,
        columns: table.columns.clone(),
        rows: 0,
        time: (escape_identifier(&time.column), time.column_type.clone()),
        dimensions: hypertable.dimensions.iter().map(in_words).collect(),
        compression: hypertable.compression.as_ref().map(|compression| {
            let segments = compression.segmentby.as_deref().unwrap_or_default();
            format!("segment by ({segments}), order by ({})", compression.orderby)
        }),
        sequences: plan.sequences.iter().filter(|(name, ..)| is_own(name)).cloned().collect(),
        make: Vec::new(),
        jobs: remake::jobs(functions, &jobs),
        start_jobs: remake::start(functions, &jobs, Some(&table.name)),
    }
}

fn in_words(dimension: &Dimension) -> String {
    match (dimension.interval, dimension.partitions) {
        (Some(interval), _) => format!("{} {} by {interval}", dimension.column, dimension.column_type),
        (None, Some(number)) => {
            format!("{} {} in {number} parts", dimension.column, dimension.column_type)
        }
        _ => dimension.column.clone(),
    }
}

fn reads<'a>(tables: &'a [Table], theirs: &Theirs) -> Vec<Read<'a>> {
    let range = |chunk: &Chunk| theirs.ranges.get(&chunk.table).copied();
    let reads = tables.iter().enumerate().flat_map(|(number, table)| {
        copy::selected(number, table, 0, &theirs.chunks, |chunk| Form::Csv(number, chunk.and_then(range)))
    });
    copy::largest_first(reads.collect())
}
