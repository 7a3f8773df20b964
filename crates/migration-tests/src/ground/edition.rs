//! Which edition of TimescaleDB the server has: its licence.

use ms5_common::timescale;

use super::Ground;
use crate::suite::Start;

/// The licence. A server tells it only where the extension is created, which it seldom is in the database that others are made from:
/// so it is asked in one of our own, which is there for that moment. None where it cannot be learned; a test says why.
pub(crate) fn license(ground: &Ground<'_>) -> Option<String> {
    if ground.extension.license.is_some() {
        return ground.extension.license.clone();
    }
    ground.extension.available.as_ref()?;
    let database = ground.database(Start::Empty).ok()??;
    let found = asked(ground, &database);
    ground.discard(&database);
    found
}

fn asked(ground: &Ground<'_>, database: &str) -> Option<String> {
    let mut session = ground.session(database).ok()?;
    // Nothing is committed, so that the scheduler finds no extension there and lets the database go.
    session.batch_execute("BEGIN; CREATE EXTENSION timescaledb").ok()?;
    timescale::extension(&mut session).ok()?.license
}
