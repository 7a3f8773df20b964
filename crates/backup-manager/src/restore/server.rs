//! The server that is restored on: who we are there, databases that are made, marked by their names, and swept.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, Instant};

use ms5_common::config::Settings;
use ms5_common::db::client::Client;
use ms5_common::db::clients;
use ms5_common::db::name_lock;
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::interrupt;
use ms5_common::sql::{escape_identifier, escape_literal};
use postgres::error::SqlState;
use serde_json::{Map, Value};
use time::OffsetDateTime;

use crate::folder::metadata::{Kind, More};
use crate::folder::name::stamp;
use crate::sessions::{self, Session, elsewhere, failed, stopped};

/// What the names of databases that are being made begin with. Nobody else's do; a lock on the name tells whether the one who
/// made it still lives.
const HALF: &str = "ms5_half_";

/// A session on the maintenance database, from which others are made, renamed and dropped.
pub(crate) struct Maintenance {
    session: Session,
    settings: Settings,
    /// PostgreSQL's version.
    pub(crate) version: String,
    /// Whether our role may do everything.
    pub(crate) superuser: bool,
    creates: bool,
}

/// What a backup asks of the server and the role that restore it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Needs<'a> {
    /// TimescaleDB has rows of its own in it.
    pub(crate) superuser: bool,
    pub(crate) timescaledb: Wanted<'a>,
}

/// What version of TimescaleDB a backup asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted<'a> {
    Nothing,
    /// What it makes goes through functions that every version has.
    Any,
    /// Its catalog is in it.
    Exactly(&'a str),
}

impl<'a> Wanted<'a> {
    /// The version that was installed, where it was.
    pub(crate) fn exactly(version: Option<&'a str>) -> Self {
        version.map_or(Self::Nothing, Self::Exactly)
    }
}

impl<'a> Needs<'a> {
    /// What a backup that is there asks for.
    pub(crate) fn of(kind: Kind, more: &'a More) -> Self {
        let timescaledb = match (kind, more.timescaledb.as_deref()) {
            (Kind::Schema, Some(_)) => Wanted::Any,
            (_, version) => Wanted::exactly(version),
        };
        Self { superuser: more.superuser, timescaledb }
    }
}

/// What is known of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct There {
    pub(crate) oid: u32,
}

impl Maintenance {
    /// Connects.
    ///
    /// # Errors
    /// That it cannot be connected to; the database may be named by `--maintenance-db`.
    pub(crate) fn open(settings: &Settings, database: &str) -> Result<Self> {
        let settings = elsewhere(settings, database);
        let mut session = sessions::open(&settings, "maintenance").map_err(|error| {
            error.hint(format!("databases are made from {database}; another one: --maintenance-db=NAME"))
        })?;
        let row = session
            .client
            .query_typed_one(
                "SELECT current_setting('server_version'), r.rolsuper, r.rolcreatedb
                 FROM pg_catalog.pg_roles r WHERE r.rolname = current_user",
                &[],
            )
            .map_err(|error| failed("ask the server who we are", &error))?;
        let (version, superuser, creates) = (row.get(0), row.get(1), row.get(2));
        Ok(Self { session, settings, version, superuser, creates })
    }

    /// The session itself.
    pub(crate) fn client(&mut self) -> &mut Client {
        &mut self.session.client
    }

    /// The settings that lead to another database of this server as this role.
    pub(crate) fn settings(&self, database: &str) -> Settings {
        elsewhere(&self.settings, database)
    }

    /// A second session.
    ///
    /// # Errors
    /// That it cannot be opened.
    pub(crate) fn second(&self) -> Result<Session> {
        sessions::open_again(&self.settings, "maintenance", &[])
    }

    /// Refuses what this role or this server cannot restore, before anything is touched.
    ///
    /// # Errors
    /// [`Exit::Config`] with who could, or what is missing.
    pub(crate) fn check(&mut self, needs: Needs<'_>) -> Result<()> {
        let role = self.settings.connection.user.clone();
        let refused = |why: String| {
            Error::new(Exit::Config, "this backup cannot be restored as things are")
                .because(why)
                .because("nothing was touched")
        };
        if !self.creates && !self.superuser {
            return Err(refused(format!("the role {role} may not create databases")).hint(format!(
                "let a superuser run: ALTER ROLE {} CREATEDB; or restore as another role: --restore-user=ROLE",
                escape_identifier(&role)
            )));
        }
        if needs.superuser && !self.superuser {
            return Err(refused(format!(
                "it holds hypertables, which only a superuser can load, and {role} is none"
            ))
            .hint("restore as a superuser: --restore-user=ROLE, its password in MS5_RESTORE_PASSWORD"));
        }
        let (Wanted::Any | Wanted::Exactly(_)) = needs.timescaledb else { return Ok(()) };
        let versions: Vec<String> = self
            .client()
            .query(
                "SELECT version FROM pg_catalog.pg_available_extension_versions WHERE name = 'timescaledb' ORDER BY 1 DESC",
                &[],
            )
            .map_err(|error| failed("ask for the versions of TimescaleDB", &error))?
            .iter()
            .map(|row| row.get(0))
            .collect();
        match needs.timescaledb {
            Wanted::Exactly(version) if !versions.iter().any(|there| there == version) => {
                let there = if versions.is_empty() { "none".to_owned() } else { versions.join(", ") };
                Err(refused(format!("it was made with TimescaleDB {version}, and this server has: {there}")).hint(
                    format!("install TimescaleDB {version} on the server; afterwards ALTER EXTENSION timescaledb UPDATE"),
                ))
            }
            Wanted::Any if versions.is_empty() => {
                Err(refused("it makes hypertables, and this server has no TimescaleDB".to_owned())
                    .hint("install TimescaleDB on the server"))
            }
            _ => Ok(()),
        }
    }

    /// Looks for a database.
    ///
    /// # Errors
    /// The server's.
    pub(crate) fn look(&mut self, database: &str) -> Result<Option<There>> {
        let rows = self
            .client()
            .query("SELECT oid FROM pg_catalog.pg_database WHERE datname = $1", &[&database])
            .map_err(|error| failed("look for the database", &error))?;
        Ok(rows.first().map(|row| There { oid: row.get(0) }))
    }

    /// Takes a lock on a name, for as long as this session lives; others give up at once.
    ///
    /// # Errors
    /// [`Exit::Unreachable`] where another restore has it.
    pub(crate) fn lock(&mut self, name: &str, wait: Duration) -> Result<()> {
        let deadline = Instant::now() + wait;
        loop {
            if self.try_lock(name)? {
                return Ok(());
            }
            if Instant::now() >= deadline || !interrupt::sleep(Duration::from_millis(200)) {
                stopped()?;
                return Err(Error::new(Exit::Unreachable, format!("another restore of {name} is going on"))
                    .because("it holds the lock of that name")
                    .because("nothing was touched")
                    .hint("wait for it to end, or give more time with --lock-wait=SECONDS"));
            }
        }
    }

    fn try_lock(&mut self, name: &str) -> Result<bool> {
        name_lock::try_lock(self.client(), name)
            .map_err(|error| failed("take the lock of the database's name", &error))
    }

    fn unlock(&mut self, name: &str) -> Result<()> {
        name_lock::unlock(self.client(), name)
            .map_err(|error| failed("give the lock of a database's name back", &error))
    }

    /// Drops what killed restores have left: half-made databases whose maker is gone.
    ///
    /// # Errors
    /// The server's, where they cannot be listed.
    pub(crate) fn sweep(&mut self) -> Result<()> {
        let rows = self
            .client()
            .query(
                "SELECT datname::text FROM pg_catalog.pg_database
                 WHERE datname ~ ('^' || $1 || '[0-9]{8}_[0-9]{6}_[0-9a-f]{8}$')",
                &[&HALF],
            )
            .map_err(|error| failed("look for what killed restores have left", &error))?;
        for name in rows.iter().map(|row| row.get::<_, String>(0)) {
            if !self.try_lock(&name)? {
                continue;
            }
            match self.drop(&name) {
                Ok(()) => log::warn!("Dropped what a killed restore has left: the database {name}"),
                Err(error) => {
                    log::warn!("Cannot drop what a killed restore has left: {}", error.lines().join("; "))
                }
            }
            self.unlock(&name)?;
        }
        Ok(())
    }

    /// Makes a database of its own, with the owner, encoding and locale of the one that was backed up.
    ///
    /// # Errors
    /// The server's.
    pub(crate) fn create(&mut self, database: &Map<String, Value>) -> Result<String> {
        let random = RandomState::new().build_hasher().finish();
        let name = format!("{HALF}{}_{:08x}", stamp(OffsetDateTime::now_utc()), random >> 32);
        self.lock(&name, Duration::ZERO)?;
        let owner = database.get("owner").and_then(Value::as_str);
        let owner = owner.map(|owner| format!("OWNER {} ", escape_identifier(owner)));
        let sql = format!(
            "CREATE DATABASE {} {}{}",
            escape_identifier(&name),
            owner.unwrap_or_default(),
            create_options(database, &self.version)
        );
        self.client().batch_execute(&sql).map_err(|error| {
            failed("make a new database beside the old one", &error)
                .because(sql.clone())
                .because("nothing was changed")
        })?;
        Ok(name)
    }

    /// Drops a database, its sessions with it.
    ///
    /// # Errors
    /// The server's.
    pub(crate) fn drop(&mut self, name: &str) -> Result<()> {
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", escape_identifier(name));
        let drop = |client: &mut Client| match client.batch_execute(&sql) {
            // A cancel that was on its way for what the session ran before.
            Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => client.batch_execute(&sql),
            other => other,
        };
        self.session
            .beyond_signals(drop)
            .map_err(|error| failed(&format!("drop the database {name}"), &error))
    }
}

/// What follows CREATE DATABASE, a name and its owner, for one like that which was backed up, on a server of this version.
pub(crate) fn create_options(database: &Map<String, Value>, version: &str) -> String {
    let text = |key: &str| database.get(key).and_then(Value::as_str);
    let mut sql = "TEMPLATE template0".to_owned();
    let mut literal = |word: &str, value: Option<&str>| {
        if let Some(value) = value {
            sql.push_str(&format!(" {word} {}", escape_literal(value).trim_start()));
        }
    };
    literal("ENCODING", text("encoding"));
    let since = |wanted| clients::major(version).is_some_and(|major| major >= wanted);
    let (since_15, since_17) = (since(15), since(17));
    match text("provider") {
        Some("i") => {
            literal("LOCALE_PROVIDER", Some("icu"));
            literal("ICU_LOCALE", text("locale"));
            literal("ICU_RULES", text("icu_rules"));
        }
        Some("b") if since_17 => {
            literal("LOCALE_PROVIDER", Some("builtin"));
            literal("BUILTIN_LOCALE", text("locale"));
        }
        // Left out, it is that of template0, which need not be the same.
        Some("c") if since_15 => literal("LOCALE_PROVIDER", Some("libc")),
        _ => {}
    }
    literal("LC_COLLATE", text("collate"));
    literal("LC_CTYPE", text("ctype"));
    if let Some(space) = text("tablespace").filter(|space| *space != "pg_default") {
        sql.push_str(&format!(" TABLESPACE {}", escape_identifier(space)));
    }
    sql
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_database_like_the_one_that_was() {
        let options = |database: Value, version| create_options(database.as_object().unwrap(), version);
        let like = json!({"encoding": "UTF8", "collate": "C.UTF-8", "ctype": "C.UTF-8", "provider": "c",
                          "tablespace": "pg_default"});
        assert_eq!(
            options(like.clone(), "17.1"),
            "TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER 'libc' LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8'"
        );
        assert_eq!(
            options(like, "14.1"),
            "TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8'"
        );
        let icu = json!({"provider": "i", "locale": "de-DE", "tablespace": "fast"});
        assert_eq!(
            options(icu, "15.1"),
            "TEMPLATE template0 LOCALE_PROVIDER 'icu' ICU_LOCALE 'de-DE' TABLESPACE \"fast\""
        );
        let builtin = json!({"provider": "b", "locale": "C.UTF-8"});
        assert_eq!(
            options(builtin, "17.1"),
            "TEMPLATE template0 LOCALE_PROVIDER 'builtin' BUILTIN_LOCALE 'C.UTF-8'"
        );
    }
}
