//! Is what was restored what was backed up? Every row of every table, and every object of the database.

use std::sync::{Mutex, PoisonError};

use ms5_common::catalog::Inventory;
use ms5_common::check::at_most;
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;

use super::load::{Load, over};
use crate::folder::metadata::{Stage, Table};
use crate::rows::RowSum;
use crate::sessions::{Session, failed, stopped};

/// How many differences are shown.
const SHOWN: usize = 20;

/// Compares all; gives what differs, one line each.
///
/// # Errors
/// The server's.
pub(crate) fn all(load: &Load<'_>) -> Result<Vec<String>> {
    let mut differences = rows(load)?;
    let mut session = load.session(load.more.superuser)?;
    let now = Inventory::take(&mut session.client);
    differences.extend(objects(load, now)?);
    differences.extend(large_objects(load, &mut session)?);
    Ok(differences)
}

/// The same in one session, in the transaction that it has open.
pub(crate) fn in_one(load: &Load<'_>, session: &mut Session) -> Result<Vec<String>> {
    let mut differences = rows_in_one(load, session)?;
    let now = Inventory::of(&mut session.client);
    differences.extend(objects(load, now)?);
    differences.extend(large_objects(load, session)?);
    Ok(differences)
}

/// The rows alone, in one session.
///
/// # Errors
/// The server's.
pub(crate) fn rows_in_one(load: &Load<'_>, session: &mut Session) -> Result<Vec<String>> {
    let mut differences = Vec::new();
    for wanted in &load.more.tables {
        stopped()?;
        differences.extend(table(session, wanted)?);
    }
    Ok(differences)
}

fn large_objects(load: &Load<'_>, session: &mut Session) -> Result<Option<String>> {
    let row = session
        .client
        .query_typed_one("SELECT count(*) FROM pg_catalog.pg_largeobject_metadata", &[])
        .map_err(|error| failed("count the large objects", &error))?;
    let found = u64::try_from(row.get::<_, i64>(0)).unwrap_or_default();
    let wanted = load.more.large_objects;
    Ok((found != wanted).then(|| format!("{found} large objects instead of {wanted}")))
}

/// Reads every table back as it was read for the backup.
fn rows(load: &Load<'_>) -> Result<Vec<String>> {
    let mut tables: Vec<&Table> = load.more.tables.iter().collect();
    tables.sort_by_key(|table| std::cmp::Reverse(table.rows));
    let differences = Mutex::new(Vec::new());
    let sessions: Vec<Session> =
        (0..load.jobs.min(tables.len())).map(|_| load.session(false)).collect::<Result<_>>()?;
    over(sessions, tables.len(), |session, number| {
        if let Some(what) = table(session, tables[number])? {
            differences.lock().unwrap_or_else(PoisonError::into_inner).push(what);
        }
        Ok(())
    })?;
    Ok(differences.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// The rows of one table as CSV.
///
/// # Errors
/// The server's.
pub(crate) fn rows_of(session: &mut Session, wanted: &Table) -> Result<Option<String>> {
    read(session, wanted, " WITH (FORMAT csv)", RowSum::add_csv)
}

/// The rows of one table.
fn table(session: &mut Session, wanted: &Table) -> Result<Option<String>> {
    read(session, wanted, "", RowSum::add)
}

/// Reads one table back; what differs, in words.
fn read(
    session: &mut Session,
    table: &Table,
    options: &str,
    add: impl Fn(&mut RowSum, &[u8]),
) -> Result<Option<String>> {
    let mut sum = RowSum::default();
    session
        .client
        .copy_out(&format!("COPY {} TO STDOUT{options}", table.source()), |rows| {
            add(&mut sum, rows);
            Ok::<(), postgres::Error>(())
        })
        .map_err(|error| failed(&format!("read {} back", table.name), &error))?;
    Ok(if (sum.rows, sum.hash) == (table.rows, table.hash) {
        None
    } else if sum.rows == table.rows {
        Some(format!("{}: {} rows, and their content differs", table.name, sum.rows))
    } else {
        Some(format!("{}: {} rows instead of {}", table.name, sum.rows, table.rows))
    })
}

fn objects(load: &Load<'_>, now: std::result::Result<Inventory, postgres::Error>) -> Result<Vec<String>> {
    let now = now.map_err(|error| failed("take the inventory of what was restored", &error))?;
    // What was made anew has numbers of its own, and its jobs do not run yet.
    let differences = if load.members(Stage::Hypertables).next().is_some() {
        load.more.inventory.as_restored().compare_restored(&now.as_restored())
    } else {
        load.more.inventory.compare_restored(&now)
    };
    Ok(differences.iter().map(ToString::to_string).collect())
}

/// That what was restored is something else than what was backed up.
pub(crate) fn differs(differences: &[String]) -> Error {
    Error::new(Exit::Failed, "what was restored is not what was backed up")
        .because_all(at_most(SHOWN, differences))
}
