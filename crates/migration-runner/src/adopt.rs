//! `--adopt`: takes over files that another tool applied. They are applied to a scratch database, and recorded only if
//! every object that is there then is in the target too, defined alike.

use ms5_common::catalog::{Difference, Inventory};
use ms5_common::config::Settings;
use ms5_common::db::client::Client;
use ms5_common::db::ledger::{self, Attempt, End};
use ms5_common::db::name_lock;
use ms5_common::db::server_error::{ServerError, reasons};
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::interrupt;
use ms5_common::machine;
use ms5_common::migrations::Migration;
use ms5_common::tool::Context;
use ms5_common::{success, timescale};
use serde_json::json;

use crate::apply::{Background, Job, Outcome, SharedLock, Worker};
use crate::args::TOOL_VERSION;
use crate::plan::Standing;
use crate::prepare::Ready;
use crate::run::{Input, unreadable};
use crate::sessions::{Session, Sessions};
use crate::{cluster_wide, kept};

/// How the names of scratch databases begin.
const PREFIX: &str = "ms5_adopt_";

/// How many differences are printed.
const SHOWN: usize = 20;

/// Proves and records every unverified file.
pub(crate) fn run(
    context: &Context,
    input: &Input,
    sessions: &Sessions<'_>,
    mut ready: Ready,
) -> Result<Exit> {
    sweep(&mut ready.session.client);
    let standings = ready.seen.standings(&input.known());
    let within = |migration: &Migration| input.options.target.is_none_or(|target| migration.number <= target);
    let of = |wanted: &[Standing]| -> Vec<&Migration> {
        let pairs = input.migrations.iter().zip(&standings);
        pairs.filter(|(m, standing)| wanted.contains(standing) && within(m)).map(|(m, _)| m).collect()
    };
    let adopted = of(&[Standing::Unverified]);
    if adopted.is_empty() {
        success!("Every row of the ledger is this tool's own; nothing to adopt");
        return Ok(Exit::Done);
    }
    let last = adopted.last().map_or(0, |migration| migration.number);
    let mut files = of(&[Standing::Unverified, Standing::Applied]);
    files.retain(|migration| migration.number <= last);

    cluster_wide::refuse(&files)?;
    let client = &mut ready.session.client;
    let scratch = Scratch::create(client, &input.settings)?;
    let wanted = build(context, &scratch, sessions, &files, ready.extension.installed.is_some());
    let dropped = scratch.drop(client);
    let wanted = wanted?;
    dropped?;
    let there = Inventory::take(client).map_err(unreadable("the catalog"))?;
    prove(&wanted, &there)?;

    let host = machine::host_name();
    let message = format!("adopted: applied to a scratch database, {} objects compared", wanted.len());
    for migration in &adopted {
        let kept = if input.has_variables { None } else { kept::statements(migration) };
        let attempt = attempt(context, migration, kept.as_deref(), &host);
        ledger::record(client, attempt, &ready.session.backend, End::Adopted, &message).map_err(|error| {
            Error::new(Exit::Failed, format!("cannot record {}", migration.title))
                .because_all(reasons(&error))
                .hint("run it again")
        })?;
        success!("Migration {} adopted; nothing of it was executed here", migration.title);
        context.recorder.emit(
            "migration",
            json!({
                "name": migration.title, "file": migration.file, "checksum": migration.checksum,
                "outcome": "adopted", "milliseconds": 0, "statements": migration.statement_count(),
            }),
        );
    }
    context.recorder.count("adopted", adopted.len());
    Ok(Exit::Done)
}

fn attempt<'a>(
    context: &'a Context,
    migration: &'a Migration,
    kept: Option<&'a [&'a str]>,
    host: &'a str,
) -> Attempt<'a> {
    Attempt {
        name: &migration.title,
        file: &migration.file,
        checksum: &migration.checksum,
        kept,
        continues: None,
        run_id: context.recorder.run_id(),
        tool_version: TOOL_VERSION,
        host,
    }
}

/// A database beside the target, for the time of the proof.
struct Scratch {
    name: String,
    settings: Settings,
}

impl Scratch {
    fn create(client: &mut Client, settings: &Settings) -> Result<Self> {
        let name = format!("{PREFIX}{}_{}", std::process::id(), ms5_common::clock::file_stamp());
        let failed = |error: postgres::Error| {
            let mut failure = Error::new(Exit::Failed, "cannot create a scratch database on this server")
                .because_all(reasons(&error))
                .because("nothing was touched");
            if ServerError::of(&error).is_some_and(|server| server.sqlstate == "42501") {
                failure = failure.hint(format!(
                    "let the role create one: ALTER ROLE {} CREATEDB;",
                    settings.connection.user
                ));
            }
            failure
        };
        let row = client
            .query_one(
                "SELECT format('TEMPLATE template0 ENCODING %L LC_COLLATE %L LC_CTYPE %L',
                               pg_encoding_to_char(encoding), datcollate, datctype)
                 FROM pg_catalog.pg_database WHERE datname = current_database()",
                &[],
            )
            .map_err(failed)?;
        let like: String = row.get(0);
        // Held as long as this session lives: nobody takes the database for one that a killed run has left.
        if !name_lock::try_lock(client, &name).map_err(failed)? {
            return Err(Error::new(Exit::Unreachable, format!("somebody else makes the database {name}"))
                .because("nothing was touched")
                .hint("run it again"));
        }
        log::info!("Creating the scratch database {name}");
        client.batch_execute(&format!("CREATE DATABASE {name} {like}")).map_err(failed)?;
        let mut settings = settings.clone();
        settings.connection.dbname.clone_from(&name);
        Ok(Self { name, settings })
    }

    fn drop(self, client: &mut Client) -> Result<()> {
        client.batch_execute(&format!("DROP DATABASE {} WITH (FORCE)", self.name)).map_err(|error| {
            Error::new(Exit::Failed, format!("cannot drop the scratch database {}", self.name))
                .because_all(reasons(&error))
                .hint(format!("drop it by hand: DROP DATABASE {} WITH (FORCE);", self.name))
        })
    }
}

/// Drops the scratch databases that killed runs of this role have left. One that somebody is connected to stays: an earlier version
/// of this tool took no lock on its name.
fn sweep(client: &mut Client) {
    let swept = client
        .query(
            "SELECT datname::text FROM pg_catalog.pg_database
             WHERE datname ~ ('^' || $1 || '[0-9]+_[0-9]{8}_[0-9]{6}$')
               AND pg_catalog.pg_get_userbyid(datdba) = current_user",
            &[&PREFIX],
        )
        .and_then(|rows| rows.iter().try_for_each(|row| sweep_one(client, row.get(0))));
    if let Err(error) = swept {
        log::warn!("cannot clear away what killed runs have left: {}", reasons(&error).join("; "));
    }
}

fn sweep_one(client: &mut Client, name: &str) -> std::result::Result<(), postgres::Error> {
    if !name_lock::try_lock(client, name)? {
        return Ok(());
    }
    match client.batch_execute(&format!("DROP DATABASE IF EXISTS {name}")) {
        Ok(()) => log::warn!("Dropped what a killed run has left: the scratch database {name}"),
        Err(error) => log::warn!("Cannot drop the scratch database {name}: {}", reasons(&error).join("; ")),
    }
    name_lock::unlock(client, name)
}

/// Applies the files to the scratch database and tells what is in it then.
fn build(
    context: &Context,
    scratch: &Scratch,
    sessions: &Sessions<'_>,
    files: &[&Migration],
    extension: bool,
) -> Result<Inventory> {
    let sessions = sessions.to(&scratch.settings);
    let mut session = sessions.open()?;
    if extension {
        timescale::create_extension(&mut session.client)?;
        // The library is loaded from the first statement on in a new session only.
        session = sessions.open()?;
    }
    ledger::ensure(&mut session.client).map_err(unreadable("the scratch database"))?;
    let lock = SharedLock::new(None);
    let mut worker = Worker::new(&sessions, session, &lock, None, 0);
    let host = machine::host_name();
    for migration in files {
        log::info!("Applying {} to the scratch database", migration.title);
        let job = Job {
            migration,
            attempt: attempt(context, migration, None, &host),
            keep: false,
            steps: migration.stepwise.then(Default::default),
            force: false,
            claims: Vec::new(),
            background: Background::Leave,
        };
        let report = worker.apply(&job, None)?;
        match report.outcome {
            Outcome::Applied { .. } => {}
            Outcome::Failed { failure, .. } => {
                return Err(Error::new(
                    Exit::Failed,
                    format!("{} cannot be proven: it fails in an empty scratch database", migration.title),
                )
                .because_all(failure.error.lines())
                .because("nothing was touched")
                .hint("apply it with --force if it may run again"));
            }
            Outcome::Interrupted { .. } | Outcome::Unknown { .. } => {
                let exit = interrupt::requested().unwrap_or(Exit::Failed);
                return Err(
                    Error::new(exit, "stopped before anything was recorded").because("nothing was touched")
                );
            }
        }
    }
    let Session { client, .. } = worker.session();
    client
        .batch_execute("RESET ALL; RESET SESSION AUTHORIZATION")
        .map_err(unreadable("the scratch database"))?;
    Inventory::take(client).map_err(unreadable("the scratch database"))
}

/// Every object of the scratch database is in the target, defined alike; what the target has beside them is its own.
fn prove(wanted: &Inventory, there: &Inventory) -> Result<()> {
    let differences: Vec<Difference> = wanted
        .without_positions()
        .compare(&there.without_positions())
        .into_iter()
        .filter(|difference| !matches!(difference, Difference::Added { .. }))
        .collect();
    if differences.is_empty() {
        return Ok(());
    }
    let mut error = Error::new(
        Exit::Failed,
        format!(
            "{} objects that the files make are not in this database as the files make them",
            differences.len()
        ),
    )
    .because_all(differences.iter().take(SHOWN).map(ToString::to_string));
    if differences.len() > SHOWN {
        error = error.because(format!("and {} more", differences.len() - SHOWN));
    }
    Err(error.because("nothing was recorded").hint(
        "what the old scripts recorded as applied is not all there: run the files (--force where they do not say -- ms5: \
         idempotent), or mend the objects and adopt again",
    ))
}
