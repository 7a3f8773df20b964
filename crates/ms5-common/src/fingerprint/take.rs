//! Takes fingerprints: one snapshot, several sessions, each table cut into parts that any of them reads.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::plan::{Plan, again, first};
use super::read::{self, Part, Sums};
use super::sql::PINNED;
use super::trouble::{busy, failed, stopped};
use super::wait::{self, Watched};
use super::watch::{self, Held};
use super::{Fingerprint, shape};
use crate::db::client::Client;
use crate::db::connect::Connected;
use crate::db::server_error::gave_up;
use crate::error::Result;
use crate::interrupt::{self, Cancellable};
use crate::progress::Line;
use crate::sql::TableName;
use crate::timescale;

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
    pub(super) fn table(&self) -> &TableName {
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
/// `open` opens a session: one for each of the jobs at most, and one that watches. Transactions that are writing to a table are
/// waited for first, for tables that have a key. The tables are locked ACCESS SHARE before the snapshot is taken, as any reader
/// locks them, and until the end: a chunk that is compressed or truncated between a snapshot and its reader would look empty. The
/// reading is ended where somebody has waited a second for these locks.
///
/// # Errors
/// What `open` gives; [`Exit::Unreachable`](crate::exit::Exit::Unreachable) where a table stays locked, or somebody had to wait; [`Exit::Failed`](crate::exit::Exit::Failed) where the server refuses, a connection
/// is lost, or a restore was left unfinished, which hides rows; the signal's exit where one came.
pub fn take(
    options: &Options,
    wanted: &[Wanted<'_>],
    mut open: impl FnMut() -> Result<Connected>,
) -> Result<Vec<Option<Fingerprint>>> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let mut first = Session::of(open()?);
    let extension = timescale::extension(&mut first.client);
    let extension = extension.map_err(|error| failed("look at the database", &error))?;
    if extension.restoring {
        return Err(timescale::left_restoring(&extension));
    }
    let mut planned =
        look(&mut first.client, wanted).map_err(|error| failed("look at the tables", &error))?;
    stopped()?;
    wait_for_writers(&mut first.client, &mut planned, options.patience)?;
    let sums = if first.is_alone()? {
        read(options, &planned, first, &mut open, &Held::default())
    } else {
        watch::beside(open()?.client, |held| read(options, &planned, first, &mut open, held))
    }?;
    Ok(planned.into_iter().zip(sums).map(|(plan, sums)| Some(plan?.fingerprint(sums))).collect())
}

/// Locks and reads, in as many sessions as there are parts for; no lock is left when this ends.
fn read(
    options: &Options,
    planned: &[Option<Plan>],
    mut first: Session,
    open: &mut impl FnMut() -> Result<Connected>,
    held: &Held,
) -> Result<Vec<Sums>> {
    held.add(&mut first.client)?;
    let mut parts = begin(&mut first, planned, options.jobs)?;
    let mut sessions = vec![first];
    if options.jobs > 1 && parts.iter().map(|part| part.alternatives(options.jobs)).sum::<usize>() > 1 {
        parts = parts.into_iter().flat_map(|part| part.cut(options.jobs)).collect();
        let snapshot: String = (sessions[0].client)
            .query_typed_one("SELECT pg_export_snapshot()", &[])
            .map_err(|error| failed("export the snapshot", &error))?
            .get(0);
        for _ in 1..options.jobs.min(parts.len()) {
            let mut session = Session::of(open()?);
            held.add(&mut session.client)?;
            join(&mut session.client, planned, &snapshot)?;
            sessions.push(session);
        }
    }
    // The largest first, so that the last ones to end are small.
    parts.sort_by_key(|part| std::cmp::Reverse(part.size));
    read_all(sessions, planned, &parts, held)
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

    /// Whether the server has but this one session (PostgreSQL in WebAssembly): then nobody can wait.
    fn is_alone(&mut self) -> Result<bool> {
        let asked = self.client.query_typed_one("SELECT pg_backend_pid() = 0", &[]);
        Ok(asked.map_err(|error| failed("look at the server", &error))?.get(0))
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

/// Reads all parts, each session the next one that nobody has; what they give, by table.
fn read_all(
    sessions: Vec<Session>,
    planned: &[Option<Plan>],
    parts: &[Part],
    held: &Held,
) -> Result<Vec<Sums>> {
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let work = |mut session: Session| -> Result<Vec<Sums>> {
        let line = Line::new();
        let mut sums = vec![Sums::default(); planned.len()];
        while !failed.load(Ordering::Relaxed) {
            held.may_go_on()?;
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(part) = parts.get(number) else { break };
            let Some(Some(plan)) = planned.get(part.table) else { continue };
            line.begin(&format!("fingerprint of {}: part {} of {}", plan.name, number + 1, parts.len()));
            let read = stopped().and_then(|()| read::part(&mut session.client, plan, part));
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
