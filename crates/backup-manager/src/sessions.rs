//! Sessions of this tool, and what becomes of their failures.

use ms5_common::config::{Settings, Variables};
use ms5_common::db::client::Client;
use ms5_common::db::connect::{Canceller, Connected, Secret};
use ms5_common::db::server_error::reasons;
use ms5_common::db::session::{self, Tuning};
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::interrupt::{self, Cancellable, Work};

use crate::args::TOOL;
use crate::sqltext::{NO_TRANSACTION_TIMEOUT, PINNED};

/// A session that a signal cancels.
pub(crate) struct Session {
    pub(crate) client: Client,
    canceller: Canceller,
    cancellable: Option<Cancellable>,
}

impl Session {
    /// Puts a connection under the signals.
    pub(crate) fn of(connected: Connected) -> Self {
        let Connected { client, canceller, .. } = connected;
        let cancellable = Some(interrupt::cancellable(&canceller));
        Self { client, canceller, cancellable }
    }

    /// Does something that a signal must not cancel: it clears away what was begun.
    pub(crate) fn beyond_signals<T>(&mut self, work: impl FnOnce(&mut Client) -> T) -> T {
        self.cancellable = None;
        let done = work(&mut self.client);
        self.cancellable = Some(interrupt::cancellable(&self.canceller));
        done
    }

    /// What cancels it, for another thread.
    pub(crate) fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }

    /// Ends what the session is doing on the server, so that it can be closed in the middle of a COPY.
    pub(crate) fn give_up(&self) {
        let _ = self.canceller.cancel();
    }
}

/// Opens a session whose texts of values are the same everywhere.
///
/// # Errors
/// That it cannot be opened.
pub(crate) fn open(settings: &Settings, purpose: &str) -> Result<Session> {
    open_with(settings, purpose, &[])
}

/// Another one, in the middle of the work.
///
/// # Errors
/// That it cannot be opened: [`Exit::Failed`], as it is no start any more.
pub(crate) fn open_again(settings: &Settings, purpose: &str, demands: &[(&str, &str)]) -> Result<Session> {
    open_with(settings, purpose, demands).map_err(Error::amid)
}

/// The same as [`open`], started with settings of the server's.
///
/// # Errors
/// That it cannot be opened.
pub(crate) fn open_with(settings: &Settings, purpose: &str, demands: &[(&str, &str)]) -> Result<Session> {
    let mut tuning = Tuning::default();
    // What the database or the role says is for its clients; what is demanded comes later, and wins.
    tuning.demand("lock_timeout", "0");
    for (name, value) in demands {
        tuning.demand(name, value);
    }
    let mut session = Session::of(session::open(settings, TOOL, purpose, &tuning)?);
    let pinned = format!("{PINNED}{NO_TRANSACTION_TIMEOUT};");
    session.client.batch_execute(&pinned).map_err(|error| failed("set a session up", &error))?;
    Ok(session)
}

/// The settings for another database of the same server.
pub(crate) fn elsewhere(settings: &Settings, database: &str) -> Settings {
    let mut settings = settings.clone();
    settings.connection.dbname = database.to_owned();
    settings
}

/// The settings for the role that restores, which may have a password of its own.
pub(crate) fn restorer(settings: &Settings, variables: &Variables, role: Option<&str>) -> Settings {
    let mut settings = settings.clone();
    if let Some(role) = role {
        settings.connection.user = role.to_owned();
        if let Some(password) = variables.get(RESTORE_PASSWORD) {
            settings.connection.password = Some(Secret::new(password));
        }
        settings.connection.password_variables.insert(0, RESTORE_PASSWORD.to_owned());
    }
    settings
}

/// The variable that holds the password of `--restore-user`; without it, it is that of DB_USER.
pub(crate) const RESTORE_PASSWORD: &str = "MS5_RESTORE_PASSWORD";

/// What a statement's failure makes of the work; a signal's exit where one came.
pub(crate) fn failed(tried: &str, error: &postgres::Error) -> Error {
    if let Err(signal) = stopped() {
        return signal;
    }
    Error::new(Exit::Failed, format!("cannot {tried}"))
        .because_all(reasons(error))
        .with_sqlstate(error.code().map(|code| code.code().to_owned()))
}

/// Begins what a signal must unwind.
///
/// # Errors
/// The exit of a signal that has come already.
pub(crate) fn work() -> Result<Work> {
    let late = || Error::new(Exit::Interrupt, "stopped by a signal before anything was begun");
    interrupt::work().ok_or_else(|| stopped().err().unwrap_or_else(late))
}

/// The end that a signal asks for.
///
/// # Errors
/// The signal's exit.
pub(crate) fn stopped() -> Result<()> {
    match interrupt::requested() {
        None => Ok(()),
        Some(exit) => Err(Error::new(exit, "stopped by a signal; what was begun is removed")),
    }
}
