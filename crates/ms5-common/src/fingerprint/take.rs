//! Takes fingerprints: one snapshot, several sessions, each table cut into parts that any of them reads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::shape::{self, Shape};
use super::sql::{Blocks, Content, Days, PINNED, ranges, scan};
use super::wait::{self, Watched};
use super::{Bucket, Column, Fingerprint, TableName};
use crate::db::client::Client;
use crate::db::connect::Connected;
use crate::db::server_error::{gave_up, reasons};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::interrupt::{self, Cancellable};
use crate::progress::Line;

/// How fingerprints are taken.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many sessions read, at least one.
    pub jobs: usize,
    /// How long transactions that write to the tables are waited for before the snapshot.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { jobs: 1, patience: Duration::from_secs(30) }
    }
}

/// What is to be fingerprinted.
#[derive(Debug, Clone)]
pub enum Wanted<'a> {
    /// A table as it is.
    First {
        /// Which table.
        table: TableName,
        /// The column whose days are the buckets; one of another type than a time's, or that is not there, makes none.
        time_column: Option<String>,
        /// Whether old rows are known to change in normal work.
        changing: bool,
    },
    /// The same rows and columns as an earlier fingerprint, for [`compare`](fn@super::compare).
    Again(&'a Fingerprint),
}

impl Wanted<'_> {
    fn table(&self) -> &TableName {
        match self {
            Self::First { table, .. } => table,
            Self::Again(before) => &before.name,
        }
    }
}

/// How often a busy table is tried again before the snapshot, a second each.
const TRIES: usize = 3;

/// Takes a fingerprint of each table, all in one snapshot; None for a table that is not there. Nothing is written.
///
/// `open` opens a session; it is called once for each of the jobs at most. Transactions that are writing to a table are waited
/// for first, for tables that have a key. The tables are locked ACCESS SHARE before the snapshot is taken, as any reader
/// locks them, and until the end: a chunk that is compressed or truncated between a snapshot and its reader would look empty.
///
/// # Errors
/// What `open` gives; [`Exit::Unreachable`] where a table stays locked; [`Exit::Failed`] where the server refuses or a
/// connection is lost; the signal's exit where one came.
pub fn take(
    options: &Options,
    wanted: &[Wanted<'_>],
    mut open: impl FnMut() -> Result<Connected>,
) -> Result<Vec<Option<Fingerprint>>> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let mut sessions = vec![Session::of(open()?)];
    let mut planned =
        look(&mut sessions[0].client, wanted).map_err(|error| failed("look at the tables", &error))?;
    stopped()?;
    wait_for_writers(&mut sessions[0].client, &mut planned, options.patience)?;
    let mut parts = begin(&mut sessions[0], &planned, options.jobs)?;
    if options.jobs > 1 && parts.iter().map(|part| part.alternatives(options.jobs)).sum::<usize>() > 1 {
        parts = parts.into_iter().flat_map(|part| part.cut(options.jobs)).collect();
        let snapshot: String = (sessions[0].client)
            .query_typed_one("SELECT pg_export_snapshot()", &[])
            .map_err(|error| failed("export the snapshot", &error))?
            .get(0);
        for _ in 1..options.jobs.min(parts.len()) {
            let mut session = Session::of(open()?);
            join(&mut session.client, &planned, &snapshot)?;
            sessions.push(session);
        }
    }
    // The largest first, so that the last ones to end are small.
    parts.sort_by_key(|part| std::cmp::Reverse(part.size));
    let sums = read(sessions, &planned, &parts)?;
    Ok(planned.into_iter().zip(sums).map(|(plan, sums)| Some(plan?.fingerprint(sums))).collect())
}

/// A session that a signal ends.
struct Session {
    client: Client,
    _cancellable: Cancellable,
}

impl Session {
    fn of(connected: Connected) -> Self {
        let Connected { client, canceller, .. } = connected;
        Self { client, _cancellable: interrupt::cancellable(&canceller) }
    }
}

/// A table that is there, and what is read of it.
#[derive(Debug)]
struct Plan {
    name: TableName,
    oid: u32,
    columns: Vec<Column>,
    time_column: Option<(String, Days)>,
    key: Option<(String, i64)>,
    /// The locks to look at before the snapshot; None where none is waited for.
    watched: Option<Watched>,
    why_not: Vec<String>,
    changing: bool,
}

impl Plan {
    fn content(&self) -> Content<'_> {
        Content {
            columns: &self.columns,
            days: self.time_column.as_ref().map(|(column, days)| (column.as_str(), *days)),
            key: self.key.as_ref().map(|(column, highest)| (column.as_str(), *highest)),
        }
    }

    fn fingerprint(self, sums: Sums) -> Fingerprint {
        let buckets: Vec<Bucket> =
            (sums.days.into_iter()).map(|(day, (rows, hash))| Bucket { day, rows, hash }).collect();
        let (key, highest) = self.key.unzip();
        Fingerprint {
            name: self.name,
            columns: self.columns,
            time_column: self.time_column.map(|(column, _)| column),
            key,
            highest,
            why_not: self.why_not,
            changing: self.changing,
            rows: buckets.iter().map(|bucket| bucket.rows).sum(),
            hash: buckets.iter().map(|bucket| bucket.hash).sum(),
            above: sums.above,
            buckets,
        }
    }
}

/// Reads the catalog and the keys. The highest keys are read last of all: the wait for writers begins there.
fn look(
    client: &mut Client,
    wanted: &[Wanted<'_>],
) -> std::result::Result<Vec<Option<Plan>>, postgres::Error> {
    let mut shapes = Vec::new();
    {
        let mut transaction = client.transaction("READ ONLY")?;
        transaction.batch_execute(PINNED)?;
        for wanted in wanted {
            shapes.push(shape::read(&mut transaction, wanted.table())?);
        }
    }
    let mut planned = Vec::new();
    for (number, (wanted, shape)) in wanted.iter().zip(shapes).enumerate() {
        planned.push(match (wanted, shape) {
            (_, None) => None,
            (Wanted::First { table, time_column, changing }, Some(shape)) => {
                Some(first(client, number, table, time_column.as_deref(), *changing, shape)?)
            }
            (Wanted::Again(before), Some(shape)) => Some(again(before, &shape)),
        });
    }
    Ok(planned)
}

fn first(
    client: &mut Client,
    number: usize,
    table: &TableName,
    time_column: Option<&str>,
    changing: bool,
    shape: Shape,
) -> std::result::Result<Plan, postgres::Error> {
    let time_column = time_column.and_then(|name| {
        let found = shape.columns.iter().find(|found| found.column.name == name)?;
        Some((name.to_owned(), found.days?))
    });
    let mut why_not = Vec::new();
    let (mut key, mut watched) = (None, None);
    match shape.key {
        None => why_not.push("it has no key that only grows".to_owned()),
        Some(found) => {
            // Before the keys are looked at: chunks made since hold later ones.
            watched = Some(Watched::of(client, number, shape.oid, &found)?);
            let highest = wait::highest(client, table, &found, &mut why_not)?;
            key = Some((found.column, highest));
        }
    }
    Ok(Plan {
        name: table.clone(),
        oid: shape.oid,
        columns: shape.columns.into_iter().map(|found| found.column).collect(),
        time_column,
        key,
        watched,
        why_not,
        changing,
    })
}

/// The same content as before, as far as it is still there: what is missing, the comparison finds.
fn again(before: &Fingerprint, shape: &Shape) -> Plan {
    let find = |name: &str| shape.columns.iter().find(|found| found.column.name == name);
    let columns = before.columns.iter().filter_map(|column| {
        let mut now = find(&column.name)?.column.clone();
        // What went by its text does so again: json that has become jsonb is compared as text, not with nothing.
        now.as_text |= column.as_text;
        Some(now)
    });
    let time_column =
        before.time_column.as_deref().and_then(|name| Some((name.to_owned(), find(name)?.days?)));
    let mut why_not = Vec::new();
    let key = before.key.as_deref().zip(before.highest).filter(|(name, _)| {
        let there = find(name).is_some_and(|found| found.whole);
        if !there {
            why_not.push(format!("its key {name} is gone, so new rows cannot be told from old ones"));
        }
        there
    });
    Plan {
        name: before.name.clone(),
        oid: shape.oid,
        columns: columns.collect(),
        time_column,
        key: key.map(|(name, highest)| (name.to_owned(), highest)),
        watched: None,
        why_not,
        changing: before.changing,
    }
}

fn wait_for_writers(client: &mut Client, planned: &mut [Option<Plan>], patience: Duration) -> Result<()> {
    let watched: Vec<Watched> = planned.iter_mut().flatten().filter_map(|plan| plan.watched.take()).collect();
    if watched.is_empty() {
        return Ok(());
    }
    let line = Line::new();
    let mut told = false;
    let late = wait::for_writers(client, &watched, patience, |who| {
        if told {
            return;
        }
        told = true;
        line.begin(&format!("fingerprint: waiting for {who} to end its transaction"));
    })
    .map_err(|error| failed("wait for transactions that write", &error))?;
    stopped()?;
    for (table, who) in late {
        if let Some(Some(plan)) = planned.get_mut(table) {
            plan.why_not.push(format!(
                "{who} was writing to it and had not ended after {} s: its rows may come later",
                patience.as_secs()
            ));
        }
    }
    Ok(())
}

/// A part of a table, read by one statement.
#[derive(Debug)]
struct Part {
    table: usize,
    relation: String,
    blocks: Option<Blocks>,
    plain: bool,
    /// In blocks.
    size: u64,
}

impl Part {
    fn alternatives(&self, jobs: usize) -> usize {
        if self.plain { ranges(self.size, jobs).len() } else { 1 }
    }

    fn cut(self, jobs: usize) -> Vec<Self> {
        if !self.plain {
            return vec![self];
        }
        let cut = ranges(self.size, jobs);
        let size = self.size / u64::try_from(cut.len()).unwrap_or(1).max(1);
        cut.into_iter().map(|blocks| Self { blocks, size, relation: self.relation.clone(), ..self }).collect()
    }
}

/// Locks the tables and everything below them, before there is a snapshot: LOCK takes none.
fn lock(client: &mut Client, planned: &[Option<Plan>]) -> std::result::Result<(), postgres::Error> {
    client
        .batch_execute(&format!("START TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; {PINNED}"))?;
    for plan in planned.iter().flatten() {
        client.batch_execute(&format!("LOCK TABLE {} IN ACCESS SHARE MODE", plan.name.quoted()))?;
    }
    Ok(())
}

/// Begins the transaction whose snapshot all share, and lists what there is to read.
fn begin(session: &mut Session, planned: &[Option<Plan>], jobs: usize) -> Result<Vec<Part>> {
    let client = &mut session.client;
    for turn in 1.. {
        stopped()?;
        match lock(client, planned) {
            Ok(()) => break,
            Err(error) if turn < TRIES && gave_up(&error) => {
                client.batch_execute("ROLLBACK").map_err(|error| failed("begin a snapshot", &error))?;
            }
            Err(error) => return Err(busy("lock the tables for reading", &error)),
        }
    }
    let mut parts = Vec::new();
    for (table, plan) in planned.iter().enumerate() {
        let Some(plan) = plan else { continue };
        if jobs <= 1 {
            // With its chunks, by one statement, which the server may give parallel workers.
            let relation = plan.name.quoted();
            parts.push(Part { table, relation, blocks: None, plain: false, size: 0 });
            continue;
        }
        let members = shape::members(client, plan.oid)
            .map_err(|error| failed(&format!("list the parts of {}", plan.name), &error))?;
        parts.extend(members.into_iter().map(|member| Part {
            table,
            relation: member.relation,
            blocks: None,
            plain: member.plain,
            size: member.blocks,
        }));
    }
    Ok(parts)
}

/// Begins another session's transaction in the same snapshot. It locks for itself, and waits no longer than the others would:
/// it might stand behind somebody who waits for the first session to end.
fn join(client: &mut Client, planned: &[Option<Plan>], snapshot: &str) -> Result<()> {
    lock(client, planned).map_err(|error| busy("lock the tables for reading", &error))?;
    client
        .batch_execute(&format!("SET TRANSACTION SNAPSHOT '{snapshot}'"))
        .map_err(|error| failed("share the snapshot", &error))
}

/// What a table's parts add up to.
#[derive(Debug, Clone, Default)]
struct Sums {
    days: BTreeMap<Option<String>, (u64, i128)>,
    above: u64,
}

impl Sums {
    fn add(&mut self, other: Self) {
        for (day, (rows, hash)) in other.days {
            let sums = self.days.entry(day).or_default();
            *sums = (sums.0 + rows, sums.1 + hash);
        }
        self.above += other.above;
    }
}

/// Reads all parts, each session the next one that nobody has; what they give, by table.
fn read(sessions: Vec<Session>, planned: &[Option<Plan>], parts: &[Part]) -> Result<Vec<Sums>> {
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let work = |mut session: Session| -> Result<Vec<Sums>> {
        let line = Line::new();
        let mut sums = vec![Sums::default(); planned.len()];
        while !failed.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(part) = parts.get(number) else { break };
            let Some(Some(plan)) = planned.get(part.table) else { continue };
            line.begin(&format!("fingerprint of {}: part {} of {}", plan.name, number + 1, parts.len()));
            let read = stopped().and_then(|()| read_part(&mut session.client, plan, part));
            match read {
                Ok(more) => sums[part.table].add(more),
                Err(error) => {
                    failed.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
        }
        // Nothing was written, so nothing is lost where this fails.
        let _ = session.client.batch_execute("ROLLBACK");
        Ok(sums)
    };
    let results: Vec<Result<Vec<Sums>>> = thread::scope(|scope| {
        // The first session's transaction holds the snapshot until all have it: each has it since `join`.
        let running: Vec<_> = sessions.into_iter().map(|session| scope.spawn(|| work(session))).collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let mut total = vec![Sums::default(); planned.len()];
    for sums in results {
        for (total, sums) in total.iter_mut().zip(sums?) {
            total.add(sums);
        }
    }
    Ok(total)
}

fn read_part(client: &mut Client, plan: &Plan, part: &Part) -> Result<Sums> {
    let tried = || format!("take the fingerprint of {}", plan.name);
    let sql = scan(&part.relation, &plan.content(), part.blocks);
    let rows = client.query_typed(&sql, &[]).map_err(|error| failed(&tried(), &error))?;
    let mut sums = Sums::default();
    for row in rows {
        let count = |column: usize| u64::try_from(row.get::<_, i64>(column)).unwrap_or_default();
        sums.above += count(3);
        if count(1) == 0 {
            continue;
        }
        let hash: Option<&str> = row.get(2);
        let hash = hash.and_then(|hash| hash.parse().ok()).ok_or_else(|| {
            Error::new(Exit::Bug, format!("cannot {}", tried()))
                .because(format!("the server's sum of hashes is not a whole number: {hash:?}"))
        })?;
        sums.days.insert(row.get(0), (count(1), hash));
    }
    Ok(sums)
}

/// The end that a signal asks for.
fn stopped() -> Result<()> {
    match interrupt::requested() {
        None => Ok(()),
        Some(exit) => {
            Err(Error::new(exit, "stopped by a signal while tables were read for their fingerprints"))
        }
    }
}

fn failed(tried: &str, error: &postgres::Error) -> Error {
    if let Err(signal) = stopped() {
        return signal;
    }
    Error::new(Exit::Failed, format!("cannot {tried}"))
        .because_all(reasons(error))
        .because("nothing was changed")
        .with_sqlstate(error.code().map(|code| code.code().to_owned()))
}

fn busy(tried: &str, error: &postgres::Error) -> Error {
    let failure = failed(tried, error);
    if gave_up(error) && interrupt::requested().is_none() {
        return failure
            .with_exit(Exit::Unreachable)
            .hint("another session locks a table or waits to: run it again when that has ended");
    }
    failure
}
