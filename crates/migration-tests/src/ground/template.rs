//! Databases that others are copied from: each is made once, by the first test that wants one like it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ms5_common::db::clients;
use ms5_common::interrupt;
use postgres::error::SqlState;

use super::Ground;
use crate::case::{Case, Stop, ask, launch, refused};
use crate::suite::Start;

/// What the database in the field is made of, in this order.
const FIELD: [&str; 3] = ["schema.sql", "reference.sql", "data.sql"];
/// How long a session of somebody else's in a template is waited for: TimescaleDB's own look in now and then.
const PATIENCE: Duration = Duration::from_secs(60);

/// More than this of the server's disk, in bytes, is taken only where that is said.
const MOST: u64 = 20_000_000_000;

/// What was made, or why it could not be.
type Made = Option<Result<String, String>>;

/// The templates.
#[derive(Default)]
pub(super) struct Templates {
    field: Mutex<Made>,
    migrated: Mutex<Made>,
}

impl Templates {
    /// A new database like that.
    pub(super) fn copy(&self, ground: &Ground<'_>, start: Start) -> Result<String, Stop> {
        let template = self.prepare(ground, start)?;
        copied(ground, &template)
    }

    /// What is copied; made where it is not there yet.
    pub(super) fn prepare(&self, ground: &Ground<'_>, start: Start) -> Result<String, Stop> {
        match start {
            Start::Field if ground.has_field() => once(&self.field, || field(ground)),
            Start::Migrated => once(&self.migrated, || migrated(ground)),
            Start::Nothing | Start::Empty | Start::Field => Ok("template0".to_owned()),
        }
    }
}

/// Makes it, or gives what was made; a second test that wants it waits.
fn once(made: &Mutex<Made>, make: impl FnOnce() -> Result<String, Stop>) -> Result<String, Stop> {
    let mut made = made.lock().unwrap_or_else(PoisonError::into_inner);
    if made.is_none() {
        *made = Some(match make() {
            Ok(name) => Ok(name),
            Err(Stop::Failed(reasons)) => Err(reasons.join("; ")),
            Err(stop) => return Err(stop),
        });
    }
    match made.as_ref() {
        Some(Ok(name)) => Ok(name.clone()),
        Some(Err(why)) => Err(Stop::Failed(vec![
            "the database that the test begins with cannot be made".to_owned(),
            why.clone(),
        ])),
        None => Err(Stop::Signal),
    }
}

/// Copies a database; nobody may be in the one that is copied.
fn copied(ground: &Ground<'_>, template: &str) -> Result<String, Stop> {
    let name = ground.name();
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ground.maintenance.create(&name, template)? {
            Ok(()) => return Ok(name),
            Err(error) if error.code() == Some(&SqlState::OBJECT_IN_USE) && Instant::now() < deadline => {
                if !interrupt::sleep(Duration::from_millis(200)) {
                    return Err(Stop::Signal);
                }
            }
            Err(error) => return Err(refused(&format!("CREATE DATABASE {name}"), &error)),
        }
    }
}

/// Those of the files that are there.
pub(super) fn field_files(folder: &Path) -> Vec<PathBuf> {
    FIELD.iter().map(|file| folder.join(file)).filter(|file| file.is_file()).collect()
}

/// The database in the field: what the old scripts have left on plain PostgreSQL.
fn field(ground: &Ground<'_>) -> Result<String, Stop> {
    let name = copied(ground, "template0")?;
    let settings = ground.settings(&name);
    let variables = ms5_common::config::Variables::default().with(ground.variables(&name, &ground.folder));
    let psql = clients::find(
        "psql",
        clients::major(&ground.server.version).unwrap_or_default(),
        &settings,
        &variables,
    )?;
    let mut sql = Vec::new();
    for file in &field_files(&ground.field) {
        sql.append(&mut fs::read(file)?);
        sql.push(b'\n');
    }
    // By its input: it may run in a container, where the files are not.
    let words = ["-X", "-q", "-v", "ON_ERROR_STOP=1", "--single-transaction", "-f", "-"];
    let call = psql.call(&settings, &variables, &words).stdin_bytes(sql);
    let line = format!("{} on the SQL of the field in {}", psql.place(), ground.field.display());
    let (ran, _, stopped) = launch(call, line, ground.output(), Instant::now() + ground.timeout)?.wait()?;
    if let Some(stop) = stopped {
        return Err(stop);
    }
    ran.exits(0)?;
    has_room(ground, &name)?;
    closed(ground, &name)
}

/// Says how large the database is that tests get copies of, and refuses to fill the server's disk with them unasked.
fn has_room(ground: &Ground<'_>, name: &str) -> Result<(), Stop> {
    let size = ask(&mut *ground.session(name)?, "SELECT pg_database_size(current_database())")?;
    let size: u64 =
        size.parse().map_err(|_| Stop::failed("the size of the database in the field is not known"))?;
    let all = copies(size, ground.jobs);
    log::info!(
        "The database in the field takes {}; with its copies up to {} of the server's disk",
        megabytes(size),
        megabytes(all)
    );
    if all > MOST && !ground.yes {
        return Err(Stop::failed(format!(
            "the database in the field takes {}, and its copies would take up to {} of the server's disk: give fewer rows in --field-dir, \
             fewer tests at once, or --yes where there is room",
            megabytes(size),
            megabytes(all)
        )));
    }
    Ok(())
}

/// What a database and its copies take: both templates, and for each test its own, a restored one and the one that it replaces.
const fn copies(size: u64, jobs: usize) -> u64 {
    size.saturating_mul(2 + 3 * jobs as u64)
}

fn megabytes(bytes: u64) -> String {
    format!("{} MB", bytes.div_ceil(1_000_000))
}

/// Closes a database to all, since only what nobody is in can be copied; gives its new name. TimescaleDB's scheduler leaves a
/// database that gets another name, and does not come back to one that takes no connections.
fn closed(ground: &Ground<'_>, name: &str) -> Result<String, Stop> {
    let template = ground.name();
    for sql in [
        format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"),
        format!("ALTER DATABASE {name} RENAME TO {template}"),
    ] {
        let deadline = Instant::now() + PATIENCE;
        let run = || ground.maintenance.with(&sql, |client| Ok(client.batch_execute(&sql)));
        while let Err(error) = run()? {
            if error.code() != Some(&SqlState::OBJECT_IN_USE) || Instant::now() >= deadline {
                return Err(refused(&sql, &error));
            }
            if !interrupt::sleep(Duration::from_millis(200)) {
                return Err(Stop::Signal);
            }
        }
    }
    Ok(template)
}

/// The same after the migrations.
fn migrated(ground: &Ground<'_>) -> Result<String, Stop> {
    let mut case = Case::new(ground, Start::Field, ground.timeout)?;
    let done = case.tool("migration-runner", "").and_then(|ran| ran.exits(0));
    let name = case.database().to_owned();
    match done {
        Ok(_) => {
            case.keep();
            closed(ground, &name)
        }
        Err(stop) => {
            case.end();
            Err(stop)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plants_whole_database_is_not_copied_unasked() {
        assert!(copies(40_000_000, 4) < MOST && copies(2_000_000_000, 4) > MOST);
        assert_eq!(megabytes(40_000_001), "41 MB");
    }
}
