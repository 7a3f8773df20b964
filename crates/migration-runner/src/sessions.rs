//! The sessions that work, all opened alike.

use ms5_common::config::Settings;
use ms5_common::db::backend::{Backend, RUN};
use ms5_common::db::client::Client;
use ms5_common::db::connect::{Canceller, Connected};
use ms5_common::db::ledger::Prepared;
use ms5_common::db::server_error::reasons;
use ms5_common::db::session::{self, Tuning};
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;

use crate::args::{Options, TOOL};

/// Where sessions come from.
#[derive(Debug)]
pub(crate) struct Sessions<'a> {
    pub(crate) settings: &'a Settings,
    tuning: Tuning,
}

/// A session, what cancels its statement, the server process behind it, and whether it has the ledger's statements prepared.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) canceller: Canceller,
    pub(crate) backend: Backend,
    pub(crate) prepared: Prepared,
}

impl<'a> Sessions<'a> {
    /// Sessions with the time limits and the memory that the flags ask for.
    pub(crate) fn new(settings: &'a Settings, options: &Options) -> Self {
        let mut tuning = Tuning::default();
        let limit = |seconds: f64| format!("{}ms", milliseconds(seconds));
        match options.lock_timeout {
            Some(seconds) => tuning.demand("lock_timeout", &limit(seconds)),
            None => tuning.prefer("lock_timeout", &limit(crate::args::LOCK_TIMEOUT_DEFAULT)),
        }
        match options.statement_timeout {
            Some(seconds) => tuning.demand("statement_timeout", &limit(seconds)),
            None => tuning.prefer("statement_timeout", "0"),
        }
        // The files are read so.
        tuning.demand("standard_conforming_strings", "on");
        if let Some(size) = &options.maintenance_work_mem {
            tuning.demand("maintenance_work_mem", size);
        }
        Self { settings, tuning }
    }

    /// The same sessions, to another database.
    pub(crate) fn to<'b>(&self, settings: &'b Settings) -> Sessions<'b> {
        Sessions { settings, tuning: self.tuning.clone() }
    }

    /// Opens a session for reading, or for the lock.
    pub(crate) fn connect(&self, purpose: &str) -> Result<Connected> {
        session::open(self.settings, TOOL, purpose, &self.tuning)
    }

    /// Opens a session that applies files.
    pub(crate) fn open(&self) -> Result<Session> {
        let Connected { client, canceller, .. } = self.connect(RUN)?;
        Session::of(client, canceller)
    }

    /// Opens another one in the middle of the work.
    ///
    /// # Errors
    /// [`Exit::Failed`]: it is not the start any more, at which nothing is touched yet.
    pub(crate) fn open_again(&self) -> Result<Session> {
        self.open().map_err(Error::amid)
    }

    /// Opens a session in which nothing has run yet, in the middle of the work.
    pub(crate) fn open_untouched(&self) -> Result<Session> {
        let Connected { client, canceller, .. } = self.connect(RUN).map_err(Error::amid)?;
        Ok(Session { client, canceller, backend: Backend::unknown(), prepared: Prepared::default() })
    }
}

impl Session {
    /// Makes a working session of an open connection.
    pub(crate) fn of(mut client: Client, canceller: Canceller) -> Result<Self> {
        let backend = Backend::of(&mut client).map_err(|error| {
            Error::new(Exit::Unreachable, "cannot ask the session which server process it has")
                .because_all(reasons(&error))
                .hint("run it again")
        })?;
        Ok(Self { client, canceller, backend, prepared: Prepared::default() })
    }

    /// Rolls back; false where the session is gone.
    pub(crate) fn roll_back(&mut self) -> bool {
        // Once more where a cancel that was meant for the statement before comes late.
        (0..3).any(|_| self.client.batch_execute("ROLLBACK").is_ok())
    }
}

/// Whole milliseconds; a limit above zero stays above zero, since zero means none.
fn milliseconds(seconds: f64) -> u64 {
    let text = format!("{:.0}", (seconds * 1000.0).ceil());
    text.parse().unwrap_or(u64::MAX)
}
