//! Applies one migration: its statements and its ledger row in one transaction, each statement its own message.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::thread;
use std::time::{Duration, Instant};

use ms5_common::config::Settings;
use ms5_common::db::ledger::{self, Attempt, Begun};
use ms5_common::db::lock::RunLock;
use ms5_common::db::server_error::{ServerError, connection_lost, reasons};
use ms5_common::db::session;
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::migrations::{Action, Migration};
use ms5_common::sql::{CopyData, Statement};
use postgres::Client;

use crate::args::TOOL;
use crate::failure::{self, Failure};

/// How long a lost COMMIT is looked into before the outcome counts as unknown.
const LOST_COMMIT_PATIENCE: Duration = Duration::from_secs(60);

/// How an attempt ended. The milliseconds are the attempt's whole time.
pub(crate) enum Outcome {
    /// Committed, with its ledger row.
    Applied { milliseconds: u64 },
    /// Rolled back.
    Failed { failure: Failure, milliseconds: u64 },
    /// The answer to COMMIT was lost and could not be learned.
    Unknown { error: Error },
}

/// The session that works, and the one that holds the lock.
pub(crate) struct Worker<'a> {
    settings: &'a Settings,
    client: Client,
    lock: Option<RunLock>,
}

impl<'a> Worker<'a> {
    /// A worker on an open session. `lock` is None only on a server with a single session.
    pub(crate) fn new(settings: &'a Settings, client: Client, lock: Option<RunLock>) -> Self {
        Self { settings, client, lock }
    }

    /// The working session.
    pub(crate) fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Runs one migration to its end, and records how it ended.
    ///
    /// `keep` is true where the ledger tells of an earlier success of ours, which a failure does not undo.
    ///
    /// # Errors
    /// Where it could not even begin: the lock is lost, or the session.
    pub(crate) fn apply(
        &mut self,
        migration: &Migration,
        attempt: Attempt<'_>,
        keep: bool,
    ) -> Result<Outcome> {
        self.check_lock()?;
        let clock = Instant::now();
        let begun = ledger::begin(&mut self.client, attempt).map_err(|error| {
            Error::new(Exit::Failed, format!("cannot begin migration {}", migration.title))
                .because_all(reasons(&error))
                .because("nothing of it was applied")
        })?;
        let worked = self.statements(migration).and_then(|()| Ok(self.check_lock()?));
        let outcome = match worked {
            Ok(()) => self.commit(migration, attempt, &begun, clock),
            Err(failure) => Outcome::Failed { failure, milliseconds: elapsed(clock) },
        };
        if let Outcome::Failed { failure, milliseconds } = &outcome {
            self.record_failure(attempt, &begun, &failure.error, *milliseconds, keep);
        }
        Ok(outcome)
    }

    fn check_lock(&mut self) -> Result<()> {
        self.lock.as_mut().map_or(Ok(()), RunLock::check)
    }

    fn statements(&mut self, migration: &Migration) -> std::result::Result<(), Failure> {
        for action in &migration.actions {
            match action {
                Action::Say(text) => log::info!("{text}"),
                Action::Run(statement) => {
                    log::debug!("{}:{} {}", migration.file, statement.head(), first_words(&statement.text));
                    match statement.copy_data.first() {
                        None => self.client.batch_execute(&statement.text),
                        Some(data) => self.copy_in(migration, statement, *data)?,
                    }
                    .map_err(|error| failure::of_statement(migration, statement, &error))?;
                }
            }
        }
        Ok(())
    }

    /// Streams the rows that stand in the file behind a COPY ... FROM STDIN.
    fn copy_in(
        &mut self,
        migration: &Migration,
        statement: &Statement,
        data: CopyData,
    ) -> Result<std::result::Result<(), postgres::Error>> {
        let path = migration.path_of(statement.file);
        let unreadable = |error: io::Error| {
            Error::new(
                Exit::Failed,
                format!("Migration {} failed: cannot read the COPY data", migration.title),
            )
            .because(format!("{} from line {}: {error}", path.display(), data.first_line))
        };
        let mut file = File::open(path).map_err(unreadable)?;
        file.seek(SeekFrom::Start(data.offset)).map_err(unreadable)?;
        let mut rows = file.take(data.length);
        let mut writer = match self.client.copy_in(&statement.text) {
            Ok(writer) => writer,
            Err(error) => return Ok(Err(error)),
        };
        // A failed write is the server's refusal (finish tells why) or the file's.
        let mut buffer = vec![0; 256 * 1024];
        let mut sent = 0;
        loop {
            let length = rows.read(&mut buffer).map_err(unreadable)?;
            if length == 0 {
                break;
            }
            sent += u64::try_from(length).unwrap_or(u64::MAX);
            if let Err(error) = writer.write_all(&buffer[..length]) {
                return match error.downcast::<postgres::Error>() {
                    Ok(error) => Ok(Err(error)),
                    Err(error) => Err(Error::new(
                        Exit::Failed,
                        format!(
                            "Migration {} failed: the connection broke while rows were sent",
                            migration.title
                        ),
                    )
                    .because(error)),
                };
            }
        }
        if sent != data.length {
            return Err(unreadable(io::Error::other("the file was shortened while it ran")));
        }
        Ok(writer.finish().map(|_| ()))
    }

    fn commit(
        &mut self,
        migration: &Migration,
        attempt: Attempt<'_>,
        begun: &Begun,
        clock: Instant,
    ) -> Outcome {
        let milliseconds = elapsed(clock);
        match ledger::commit(&mut self.client, attempt, begun, milliseconds) {
            Ok(()) => Outcome::Applied { milliseconds },
            Err(error) if connection_lost(&error) => self.look_up(migration, begun, &error, milliseconds),
            Err(error) => Outcome::Failed {
                failure: Error::new(
                    Exit::Failed,
                    format!("Migration {} failed at its COMMIT", migration.title),
                )
                .because_all(reasons(&error))
                .with_sqlstate(ServerError::of(&error).map(|server| server.sqlstate))
                .into(),
                milliseconds,
            },
        }
    }

    /// The connection was lost during COMMIT: only the server knows how that ended.
    fn look_up(
        &mut self,
        migration: &Migration,
        begun: &Begun,
        lost: &postgres::Error,
        milliseconds: u64,
    ) -> Outcome {
        log::warn!(
            "The connection was lost during the COMMIT of {}; asking the server how it ended",
            migration.title
        );
        let deadline = Instant::now() + LOST_COMMIT_PATIENCE;
        loop {
            let answer = session::open(self.settings, TOOL, "run").and_then(|mut connected| {
                let answer = ledger::committed(&mut connected.client, begun);
                self.client = connected.client;
                answer.map_err(|error| {
                    Error::new(Exit::Partial, "the server did not say").because_all(reasons(&error))
                })
            });
            match answer {
                Ok(Some(true)) => return Outcome::Applied { milliseconds },
                Ok(Some(false)) => {
                    return Outcome::Failed {
                        failure: Error::new(
                            Exit::Failed,
                            format!(
                                "Migration {} failed: the connection was lost before its COMMIT",
                                migration.title
                            ),
                        )
                        .because_all(reasons(lost))
                        .into(),
                        milliseconds,
                    };
                }
                Ok(None) | Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_secs(1)),
                Ok(None) | Err(_) => {
                    return Outcome::Unknown {
                        error: Error::new(
                            Exit::Partial,
                            format!("it is not known whether migration {} was committed", migration.title),
                        )
                        .because_all(reasons(lost))
                        .because(format!("the server gave no answer for {} s", LOST_COMMIT_PATIENCE.as_secs()))
                        .hint("once the server is back, --status tells; then run it again: it goes on from there"),
                    };
                }
            }
        }
    }

    /// Rolls back and writes the failure down; what cannot be written is a warning, since the rollback stands.
    fn record_failure(
        &mut self,
        attempt: Attempt<'_>,
        begun: &Begun,
        error: &Error,
        milliseconds: u64,
        keep: bool,
    ) {
        let message = error.lines().join("\n");
        let mut recorded =
            self.client.batch_execute("ROLLBACK; RESET SESSION AUTHORIZATION").and_then(|()| {
                ledger::fail(
                    &mut self.client,
                    attempt,
                    begun,
                    milliseconds,
                    error.sqlstate(),
                    &message,
                    !keep,
                )
            });
        if recorded.as_ref().is_err_and(connection_lost)
            && let Ok(connected) = session::open(self.settings, TOOL, "run")
        {
            self.client = connected.client;
            recorded = ledger::fail(
                &mut self.client,
                attempt,
                begun,
                milliseconds,
                error.sqlstate(),
                &message,
                !keep,
            );
        }
        if let Err(error) = recorded {
            log::warn!("the failure could not be recorded in the ledger: {}", reasons(&error).join("; "));
        }
    }
}

fn elapsed(clock: Instant) -> u64 {
    u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// The beginning of a statement, on one line.
pub(crate) fn first_words(text: &str) -> String {
    // Only a prefix is looked at: a statement may be megabytes long.
    let prefix: String = text.trim().chars().take(200).collect();
    let mut line: String =
        prefix.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(100).collect();
    if line.len() < text.trim().len() {
        line.push_str(" ...");
    }
    line
}
