//! Fingerprints inside an open transaction, of tables that it has locked against writers: what they prove needs no key.

use super::plan::{Plan, again};
use super::read::{self, Part};
use super::sql::PINNED;
use super::trouble::{failed, stopped};
use super::{Fingerprint, Wanted, shape};
use crate::db::client::Client;
use crate::error::Result;

/// What all of it happens behind: the settings of a fingerprint end with it.
const SAVEPOINT: &str = "ms5_fingerprint";

/// Takes a fingerprint of each table, all of its rows covered, over the session of an open transaction that keeps others from
/// writing to them; None for a table that is not there. The transaction's own settings are what they were afterwards.
///
/// # Errors
/// [`Exit::Failed`](crate::exit::Exit::Failed) where the server refuses or the connection is lost; the signal's exit where one
/// came.
pub fn take_locked(client: &mut Client, wanted: &[Wanted<'_>]) -> Result<Vec<Option<Fingerprint>>> {
    let tried = "take fingerprints in the transaction";
    client
        .batch_execute(&format!("SAVEPOINT {SAVEPOINT}; {PINNED}"))
        .map_err(|error| failed(tried, &error))?;
    let taken = wanted.iter().map(|wanted| one(client, wanted)).collect::<Result<_>>()?;
    client
        .batch_execute(&format!("ROLLBACK TO SAVEPOINT {SAVEPOINT}; RELEASE SAVEPOINT {SAVEPOINT}"))
        .map_err(|error| failed(tried, &error))?;
    Ok(taken)
}

fn one(client: &mut Client, wanted: &Wanted<'_>) -> Result<Option<Fingerprint>> {
    stopped()?;
    let shape = shape::read(client, wanted.table())
        .map_err(|error| failed(&format!("look at {}", wanted.table()), &error))?;
    let Some(shape) = shape else { return Ok(None) };
    let plan = match wanted {
        Wanted::First { table, time_column, changing } => {
            Plan::whole(table, time_column.as_deref(), *changing, shape)
        }
        Wanted::Again(before) => again(before, &shape),
    };
    let relation = plan.name.quoted();
    let sums = read::part(client, &plan, &Part { table: 0, relation, blocks: None, plain: false, size: 0 })?;
    Ok(Some(plan.fingerprint(sums)))
}
