//! What keeps a fingerprint from being taken: the server, a lock, a signal.

use crate::db::server_error::{gave_up, reasons};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::interrupt;

/// The end that a signal asks for.
pub(super) fn stopped() -> Result<()> {
    match interrupt::requested() {
        None => Ok(()),
        Some(exit) => {
            Err(Error::new(exit, "stopped by a signal while tables were read for their fingerprints"))
        }
    }
}

/// The error of something that was tried.
pub(super) fn failed(tried: &str, error: &postgres::Error) -> Error {
    if let Err(signal) = stopped() {
        return signal;
    }
    Error::new(Exit::Failed, format!("cannot {tried}"))
        .because_all(reasons(error))
        .because("nothing was changed")
        .with_sqlstate(error.code().map(|code| code.code().to_owned()))
}

/// The same, where it may have been a lock that nobody waits for.
pub(super) fn busy(tried: &str, error: &postgres::Error) -> Error {
    let failure = failed(tried, error);
    if gave_up(error) && interrupt::requested().is_none() {
        return failure
            .with_exit(Exit::Unreachable)
            .hint("another session locks a table or waits to: run it again when that has ended");
    }
    failure
}
