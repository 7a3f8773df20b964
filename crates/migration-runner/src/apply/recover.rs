//! A statement that cannot run inside a transaction, before it runs: what an earlier run may have left of it.

use ms5_common::db::client::Client;
use ms5_common::db::ledger::steps::Step;
use ms5_common::db::server_error::reasons;
use ms5_common::effects::{CreateIndex, Outside};
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;

use super::indexes;

/// What to do about the statement.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Run it.
    Run,
    /// An earlier run has done it and was killed before it could write that down.
    Done,
    /// Run this in its place: it finishes what an earlier run began.
    Instead(String),
}

/// How a statement is taken up.
#[derive(Debug)]
pub(super) struct TakenUp {
    pub(super) verdict: Verdict,
    /// For CREATE INDEX: the indexes that the table had before.
    pub(super) before: Option<Vec<String>>,
}

/// Looks what is there, and clears away what must not stay. `started` is the record of an earlier run that began
/// the statement and did not end it; `wanted` is what it says of an index; `again` says that it may run once more whatever it has done.
///
/// # Errors
/// The client's words; a statement of which nobody knows whether it was done.
pub(super) fn take_up(
    client: &mut Client,
    outside: &Outside,
    wanted: Option<&CreateIndex>,
    started: Option<&Step>,
    again: bool,
) -> Result<TakenUp> {
    if let Some(wanted) = wanted {
        return create_index(client, wanted, started);
    }
    if matches!(outside, Outside::Reindex { concurrently: true }) {
        return reindex(client, started);
    }
    if let Outside::ContinuousAggregate { name } = outside {
        return continuous_aggregate(client, name, started);
    }
    let verdict = match started {
        None => Verdict::Run,
        Some(_) if matches!(outside, Outside::Commits { .. }) && again => Verdict::Run,
        // Half of a DETACH stays, and of what commits by itself what it had committed.
        Some(step) if !step.failed || stays_in_part(outside) => taken_up(client, outside, step.failed)?,
        // What is there now was there before, and is why it failed.
        Some(_) => Verdict::Run,
    };
    Ok(TakenUp { verdict, before: None })
}

/// It is made in one transaction and filled in others: what may be missing is the filling.
fn continuous_aggregate(client: &mut Client, name: &str, started: Option<&Step>) -> Result<TakenUp> {
    let there = ask(client, "a continuous aggregate", RELATION, name)?;
    let before = started.and_then(|step| step.before.clone());
    let ours = before.as_ref().is_some_and(|before| !before.iter().any(|known| known == name));
    let verdict = if there && ours {
        let literal = format!("'{}'", name.replace('\'', "''"));
        Verdict::Instead(format!("CALL refresh_continuous_aggregate({literal}, NULL, NULL)"))
    } else {
        Verdict::Run
    };
    let now = if there { vec![name.to_owned()] } else { Vec::new() };
    Ok(TakenUp { verdict, before: before.or(Some(now)) })
}

const RELATION: &str = "SELECT to_regclass($1) IS NOT NULL";

fn ask(client: &mut Client, what: &str, query: &str, name: &str) -> Result<bool> {
    client.query_one(query, &[&name]).map(|row| row.get(0)).map_err(|error| {
        Error::new(Exit::Failed, format!("cannot see whether {what} of {name} was done"))
            .because_all(reasons(&error))
    })
}

fn create_index(client: &mut Client, wanted: &CreateIndex, started: Option<&Step>) -> Result<TakenUp> {
    let there = indexes::of_table(client, wanted)?;
    let before = started.and_then(|step| step.before.clone());
    // Without a name in the statement, ours are those that were not there before we first tried.
    let ours = |index: &indexes::Index| match (&wanted.name, &before) {
        (Some(_), _) => index.named,
        (None, Some(before)) => !before.contains(&index.name),
        (None, None) => false,
    };
    let mut verdict = Verdict::Run;
    let mut dropped = Vec::new();
    for index in there.iter().filter(|index| ours(index)) {
        // One of that name that was there before is why the statement failed, not its result.
        let is_new = !before.as_ref().is_some_and(|before| before.contains(&index.name));
        if !index.valid {
            indexes::drop(client, index)?;
            dropped.push(index.name.clone());
        } else if started.is_some() && is_new {
            verdict = Verdict::Done;
        }
    }
    // Also those that are INVALID: without a name in the statement, they are not ours to drop.
    let names = there.into_iter().map(|index| index.name).filter(|name| !dropped.contains(name)).collect();
    Ok(TakenUp { verdict, before: before.or(Some(names)) })
}

/// REINDEX CONCURRENTLY builds beside the old index and leaves that one INVALID where it breaks off.
fn reindex(client: &mut Client, started: Option<&Step>) -> Result<TakenUp> {
    let there = indexes::of_reindex(client)?;
    let before = started.and_then(|step| step.before.clone());
    if let Some(before) = &before {
        for index in there.iter().filter(|index| !before.contains(&index.qualified)) {
            indexes::drop(client, index)?;
        }
    }
    let names = there.into_iter().map(|index| index.qualified).collect();
    Ok(TakenUp { verdict: Verdict::Run, before: before.or(Some(names)) })
}

/// Whether a failure leaves a part of the statement done.
fn stays_in_part(outside: &Outside) -> bool {
    matches!(outside, Outside::DetachPartition { .. } | Outside::Commits { .. })
}

/// A statement that was begun before.
fn taken_up(client: &mut Client, outside: &Outside, failed: bool) -> Result<Verdict> {
    let mut ask = |query: &str, name: &str| ask(client, outside.words(), query, name);
    let done = |yes: bool| if yes { Verdict::Done } else { Verdict::Run };
    const DATABASE: &str =
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = (parse_ident($1))[1])";
    const TABLESPACE: &str =
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_tablespace WHERE spcname = (parse_ident($1))[1])";
    const SUBSCRIPTION: &str =
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_subscription WHERE subname = (parse_ident($1))[1])";
    Ok(match outside {
        Outside::DropIndex { names } => {
            let mut left = false;
            for name in names {
                left |= ask(RELATION, name)?;
            }
            done(!left)
        }
        Outside::CreateDatabase { name } => done(ask(DATABASE, name)?),
        Outside::DropDatabase { name } => done(!ask(DATABASE, name)?),
        Outside::CreateTablespace { name } => done(ask(TABLESPACE, name)?),
        Outside::DropTablespace { name } => done(!ask(TABLESPACE, name)?),
        Outside::CreateSubscription { name } => done(ask(SUBSCRIPTION, name)?),
        Outside::DropSubscription { name } => done(!ask(SUBSCRIPTION, name)?),
        Outside::DetachPartition { table, partition } => {
            const PENDING: &str = "SELECT coalesce((SELECT inhdetachpending FROM pg_catalog.pg_inherits
                                                    WHERE inhrelid = to_regclass($1)), false)";
            const ATTACHED: &str =
                "SELECT EXISTS (SELECT FROM pg_catalog.pg_inherits WHERE inhrelid = to_regclass($1))";
            if ask(PENDING, partition)? {
                Verdict::Instead(format!("ALTER TABLE {table} DETACH PARTITION {partition} FINALIZE"))
            } else {
                done(!ask(ATTACHED, partition)?)
            }
        }
        Outside::Commits { what } => {
            let end = if failed { "failed midway" } else { "ended without a word" };
            return Err(Error::new(Exit::Failed, format!("it is not known how much of {what} was done"))
                .because(format!("it commits by itself, and the run that began it {end}"))
                .hint(
                    "see in the database how far it came; then put in its place what is missing of it, or SELECT 1 where \
                     it is done, and run it again; --force executes the whole statement once more",
                ));
        }
        _ => Verdict::Run,
    })
}

/// What a statement may have left behind that has failed outside of a transaction, for the operator.
pub(super) fn leftover(outside: &Outside) -> Option<String> {
    Some(match outside {
        Outside::CreateIndex { .. } => {
            "an INVALID index may be left; the next run drops it and builds it again".to_owned()
        }
        Outside::Reindex { concurrently: true } => {
            "an INVALID index may be left (its name ends with _ccnew or _ccold); the next run drops it"
                .to_owned()
        }
        Outside::DropIndex { names } => format!("{} may be there still, INVALID", names.join(", ")),
        Outside::ContinuousAggregate { name } => format!("{name} may be there, filled in part or not at all"),
        Outside::DetachPartition { partition, .. } => {
            format!("{partition} may be detached in part; the next run finishes it")
        }
        Outside::Commits { what } => {
            format!("what {what} had committed stays; the next run does not repeat it by itself")
        }
        _ => return None,
    })
}
