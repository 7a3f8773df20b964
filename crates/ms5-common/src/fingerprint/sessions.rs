//! The sessions that fingerprints are read over.

use crate::config::Settings;
use crate::db::connect::Connected;
use crate::db::session::{self, Tuning};
use crate::error::Result;

/// Opens one: it changes nothing, gives up a lock after a second, and may read for as long as it takes.
///
/// # Errors
/// Those of [`session::open`].
pub fn open(settings: &Settings, tool: &str) -> Result<Connected> {
    let mut tuning = Tuning::default();
    for (name, value) in
        [("lock_timeout", "1s"), ("statement_timeout", "0"), ("default_transaction_read_only", "on")]
    {
        tuning.demand(name, value);
    }
    session::open(settings, tool, "fingerprint", &tuning)
}
