//! The highest key, and the wait that makes it a proof.
//!
//! A sequence hands out keys when a row is made, not when it is committed. So in any snapshot there may be rows with keys
//! below the highest visible one that are still being written: taken for the fingerprint, they would look gained afterwards.
//! Therefore: read the sequence's last value H first, then note which transactions hold a lock that writers take, then
//! wait until each of them has ended, then take the snapshot. Whoever took a key up to H and had not ended by then was among
//! them: nextval keeps a RowExclusiveLock on the sequence until the end of its transaction (also where a savepoint was rolled
//! back), before it reads the value; an INSERT keeps one on the table. Locks are released after a transaction's rows have
//! become visible. So in the snapshot every row with a key up to H that this way can bring is there, and rows above H are
//! new ones. Locks tell more than transaction numbers (a transaction may have a key before it has a number), and
//! pg_locks tells everybody of them, where pg_stat_activity hides other roles' transactions.
//!
//! What this cannot see: keys that were taken in an earlier transaction than the row's, or given by hand. Where the catalog
//! shows that this happens (CACHE, INCREMENT BY, keys above the sequence) it is not called proven; else it
//! ends as "more rows than before", which is not called a gain either.

use std::time::{Duration, Instant};

use postgres::types::Type;

use super::shape::{Key, family};
use super::sql::PINNED;
use crate::db::client::{Client, Transaction};
use crate::db::server_error::gave_up;
use crate::interrupt;
use crate::sql::{TableName, escape_identifier};

type SqlResult<T> = Result<T, postgres::Error>;

/// How often it is looked whether the writers have ended, at first and at last.
const LOOK: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(250)];

/// The highest key that a table has or its sequence has handed out, and what keeps it from being a proof.
pub(super) fn highest(
    client: &mut Client,
    name: &TableName,
    key: &Key,
    why_not: &mut Vec<String>,
) -> SqlResult<i64> {
    // First the table, then the sequence: a key above the sequence's value was not handed out by it.
    let column = escape_identifier(&key.column);
    let query = format!("SELECT max({column})::bigint FROM {}", name.quoted());
    let visible = probe(client, &query, |row| row.get::<_, Option<i64>>(0))?;
    if visible.is_none() {
        why_not.push(format!("the highest {} cannot be found within a second", key.column));
    }
    let visible = visible.flatten();
    let last = if key.readable {
        let query = format!("SELECT last_value, is_called FROM {}", key.sequence_name.quoted());
        probe(client, &query, |row| {
            let last: i64 = row.get(0);
            // It will be the next one otherwise.
            if row.get(1) { last } else { last.saturating_sub(1) }
        })?
    } else {
        None
    };
    if key.increment != 1 || key.cycle {
        why_not.push(format!("its sequence {} does not count up by one", key.sequence_name));
    }
    if key.cache > 1 {
        why_not.push(format!(
            "its sequence {} hands out {} keys in advance to each session",
            key.sequence_name, key.cache
        ));
    }
    match last {
        None => why_not.push(format!("its sequence {} cannot be read", key.sequence_name)),
        Some(last) if visible.is_some_and(|visible| visible > last) => why_not
            .push(format!("it has keys that its sequence {} has not handed out yet", key.sequence_name)),
        Some(_) => {}
    }
    Ok(last.max(visible).unwrap_or(key.start.saturating_sub(1)))
}

/// A transaction for short looks.
fn pinned(client: &mut Client) -> SqlResult<Transaction<'_>> {
    let mut transaction = client.transaction("READ ONLY")?;
    transaction.batch_execute(PINNED)?;
    transaction.batch_execute("SET LOCAL statement_timeout = '1s'")?;
    Ok(transaction)
}

/// Asks for something that nobody waits long for; None where it is busy.
fn probe<T>(
    client: &mut Client,
    query: &str,
    read: impl FnOnce(&postgres::Row) -> T,
) -> SqlResult<Option<T>> {
    let mut transaction = pinned(client)?;
    match transaction.query_typed_one(query, &[]) {
        Ok(row) => Ok(Some(read(&row))),
        Err(error) if gave_up(&error) && interrupt::requested().is_none() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The locks of a table that writers take: on itself, on its chunks, on the key's sequence.
#[derive(Debug)]
pub(super) struct Watched {
    /// Which of the tables that are asked for.
    pub(super) table: usize,
    oids: Vec<u32>,
}

impl Watched {
    pub(super) fn of(client: &mut Client, table: usize, oid: u32, key: &Key) -> SqlResult<Self> {
        let mut oids = family(&mut *pinned(client)?, oid)?;
        oids.push(key.sequence);
        Ok(Self { table, oids })
    }
}

/// A transaction that writes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Writer {
    /// What names it among all that run.
    transaction: String,
    relation: u32,
    /// PREPARE TRANSACTION has taken it from its session.
    prepared: bool,
    /// For people.
    who: String,
}

impl Writer {
    fn is(&self, other: &Self) -> bool {
        (&self.transaction, self.relation) == (&other.transaction, other.relation)
    }
}

/// Prepared transactions have no process; their locks stand here all the same.
const WRITERS: &str = "SELECT l.virtualtransaction, l.relation, l.pid IS NULL,
            coalesce('pid ' || l.pid, 'a prepared transaction')
                || coalesce(' (' || nullif(a.application_name, '') || ')', '')
                || coalesce(', ' || extract(epoch FROM clock_timestamp() - a.xact_start)::bigint || ' s old', '')
     FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
     WHERE l.locktype = 'relation' AND l.granted AND l.relation = ANY ($1) AND l.pid IS DISTINCT FROM pg_backend_pid()
       AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')";

fn writers(client: &mut Client, oids: &[u32]) -> SqlResult<Vec<Writer>> {
    let rows = pinned(client)?.query_typed(WRITERS, &[(&oids, Type::OID_ARRAY)])?;
    Ok(rows
        .iter()
        .map(|row| Writer {
            transaction: row.get(0),
            relation: row.get(1),
            prepared: row.get(2),
            who: row.get(3),
        })
        .collect())
}

/// Waits until every transaction has ended that is writing to one of the tables now; gives, by table, those that had not
/// after `patience`. Also ends when a signal came.
pub(super) fn for_writers(
    client: &mut Client,
    watched: &[Watched],
    patience: Duration,
    mut waiting: impl FnMut(&str),
) -> SqlResult<Vec<(usize, String)>> {
    let oids: Vec<u32> = watched.iter().flat_map(|watched| watched.oids.iter().copied()).collect();
    let begun = Instant::now();
    let mut pause = LOOK[0];
    let mut left = writers(client, &oids)?;
    while let Some(first) = left.first() {
        waiting(&first.who);
        let rest = patience.saturating_sub(begun.elapsed());
        if rest.is_zero() || !interrupt::sleep(pause.min(rest)) {
            break;
        }
        pause = (pause * 2).min(LOOK[1]);
        // Those that have begun since took later keys.
        let now = writers(client, &oids)?;
        // A transaction that was prepared meanwhile has another name: any new one of these may be it.
        let relations: Vec<u32> = left.iter().map(|writer| writer.relation).collect();
        left = (now.into_iter())
            .filter(|writer| {
                left.iter().any(|known| known.is(writer))
                    || writer.prepared && relations.contains(&writer.relation)
            })
            .collect();
    }
    let mut late: Vec<(usize, String)> = Vec::new();
    for writer in left {
        for watched in watched.iter().filter(|watched| watched.oids.contains(&writer.relation)) {
            // Once for the table and its sequence.
            if !late.iter().any(|(table, who)| *table == watched.table && *who == writer.who) {
                late.push((watched.table, writer.who.clone()));
            }
        }
    }
    Ok(late)
}
