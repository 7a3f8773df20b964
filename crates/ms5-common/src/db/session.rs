//! Sessions as the tools use them: connected by libpq's rules, notices in the log, and the database's identity.

use crate::db::client::Client;
use postgres::error::{DbError, Severity, SqlState};

use crate::config::Settings;
use crate::db::connect::{self, Connected, Kind};
use crate::db::server_error::reasons;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::record::Identity;
use crate::troubleshooting;

/// What a session of ours is started with, beside the operator's PGOPTIONS: a migration may think for hours
/// between two messages, and RESET ALL must come back to this.
const OPTIONS: &str = "-c idle_in_transaction_session_timeout=0 -c idle_session_timeout=0";

/// Server settings that a tool starts its sessions with, so that RESET ALL comes back to them at no cost.
#[derive(Debug, Clone, Default)]
pub struct Tuning {
    defaults: String,
    demands: String,
}

impl Tuning {
    /// Adds a setting that the operator's PGOPTIONS may override.
    pub fn prefer(&mut self, name: &str, value: &str) {
        add(&mut self.defaults, name, value);
    }

    /// Adds a setting that the operator has asked for by a flag; it wins over PGOPTIONS.
    pub fn demand(&mut self, name: &str, value: &str) {
        add(&mut self.demands, name, value);
    }
}

fn add(options: &mut String, name: &str, value: &str) {
    // The server splits the text at blanks and takes backslashes as escapes.
    let value = value.replace('\\', "\\\\").replace(' ', "\\ ");
    options.push_str(&format!(" -c {name}={value}"));
}

/// Opens a session for `purpose` (shown in pg_stat_activity as `tool purpose`).
///
/// # Errors
/// [`Exit::Unreachable`] or [`Exit::Config`], with the spec's troubleshooting commands filled in.
pub fn open(settings: &Settings, tool: &str, purpose: &str, tuning: &Tuning) -> Result<Connected> {
    let mut connection = settings.connection.clone();
    let given = connection.options.take().unwrap_or_default();
    connection.options =
        Some(format!("{OPTIONS}{} {given}{}", tuning.defaults, tuning.demands).trim_end().to_owned());
    let name = connection.application_name.take().unwrap_or_else(|| tool.to_owned());
    connection.application_name = Some(format!("{name} {purpose}").trim_end().to_owned());
    let connected = connect::connect(&connection, notice).map_err(|error| {
        let exit = match error.kind() {
            Kind::Unreachable => Exit::Unreachable,
            Kind::Credentials | Kind::Configuration => Exit::Config,
        };
        for warning in &error.warnings {
            log::warn!("{warning}");
        }
        let mut failure = Error::new(exit, error.to_string())
            .with_sqlstate(error.sqlstate().map(str::to_owned))
            .because("nothing was touched")
            .hint(error.next_step());
        for command in troubleshooting::connection_failed(settings) {
            failure = failure.hint(command);
        }
        failure
    })?;
    for warning in &connected.warnings {
        log::warn!("{warning}");
    }
    Ok(connected)
}

/// Opens a session that changes nothing and gives up a lock after a second, but may read for as long as it takes. It is one more
/// beside that of a tool at work: a server that refuses it is no failure to reach the database.
///
/// # Errors
/// Those of [`open`], as in the middle of the work.
pub fn open_reader(settings: &Settings, tool: &str, purpose: &str) -> Result<Connected> {
    let mut tuning = Tuning::default();
    for (name, value) in
        [("lock_timeout", "1s"), ("statement_timeout", "0"), ("default_transaction_read_only", "on")]
    {
        tuning.demand(name, value);
    }
    open(settings, tool, purpose, &tuning).map_err(Error::amid)
}

/// The server's notices: WARNING and above as WARN, the rest as DEBUG.
fn notice(message: DbError) {
    let text = [Some(message.message()), message.detail(), message.hint()]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join("; ");
    // The server translates the severity's word; the parsed one it does not.
    match message.parsed_severity() {
        // Our own ROLLBACK, to be sure, behind a COMMIT that has failed.
        Some(Severity::Warning) if *message.code() == SqlState::NO_ACTIVE_SQL_TRANSACTION => {
            log::debug!("server: {text}");
        }
        Some(Severity::Warning | Severity::Error | Severity::Fatal | Severity::Panic) => {
            log::warn!("server: {} {}: {text}", message.severity(), message.code().code());
        }
        _ => log::debug!("server: {}: {text}", message.severity()),
    }
}

/// Refuses a session that has not come up with these settings: a pooler in between has dropped what it was started with.
/// Setting them later is no way out, since the backend is somebody else's next. A server with one session alone has nobody
/// to protect, and PostgreSQL in WebAssembly starts without settings.
///
/// # Errors
/// [`Exit::Config`], or [`Exit::Unreachable`] when it does not answer.
pub fn demand_settings(
    client: &mut Client,
    settings: &Settings,
    server: &Server,
    wanted: &[(&str, &str)],
) -> Result<()> {
    if server.single_session {
        return Ok(());
    }
    let conditions: Vec<String> =
        wanted.iter().map(|(name, value)| format!("current_setting('{name}') = '{value}'")).collect();
    let row =
        client.query_typed_one(&format!("SELECT {}", conditions.join(" AND ")), &[]).map_err(|error| {
            Error::new(Exit::Unreachable, format!("cannot ask {} for its settings", settings.database()))
                .because_all(reasons(&error))
                .because("nothing was touched")
                .hint("run it again")
        })?;
    if row.get(0) {
        return Ok(());
    }
    Err(Error::new(
        Exit::Config,
        format!("{} drops the settings that this tool's sessions begin with", settings.database()),
    )
    .because("a pooler in between: without lock_timeout and statement_timeout somebody might have to wait for a check")
    .because("nothing was touched")
    .hint("connect to the server itself: DB_HOST and DB_PORT name it"))
}

/// Why nothing can be written over a session, as an error before anything is touched; None where it can.
///
/// # Errors
/// The client's.
pub fn read_only(client: &mut Client) -> std::result::Result<Option<Error>, postgres::Error> {
    let row = client.query_typed_one(
        "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('transaction_read_only') = 'on', s.source,
                pg_catalog.quote_ident(pg_catalog.current_database()), pg_catalog.quote_ident(current_user)
         FROM pg_catalog.pg_settings s WHERE s.name = 'default_transaction_read_only'",
        &[],
    )?;
    let (standby, read_only, source): (bool, bool, &str) = (row.get(0), row.get(1), row.get(2));
    let (database, role): (&str, &str) = (row.get(3), row.get(4));
    let refused = |message: &str| Error::new(Exit::Config, message).because("nothing was touched");
    if standby {
        return Ok(Some(
            refused("this server takes no writes: it is a standby, or still recovers from a backup")
                .hint("connect to the primary: DB_HOST and DB_PORT name it")
                .hint("whether it is one: SELECT pg_is_in_recovery();"),
        ));
    }
    if !read_only {
        return Ok(None);
    }
    let reset = match source {
        "client" => "take default_transaction_read_only out of PGOPTIONS".to_owned(),
        "database" => format!("ALTER DATABASE {database} RESET default_transaction_read_only;"),
        "user" => format!("ALTER ROLE {role} RESET default_transaction_read_only;"),
        "database user" => {
            format!("ALTER ROLE {role} IN DATABASE {database} RESET default_transaction_read_only;")
        }
        _ => "ALTER SYSTEM SET default_transaction_read_only = off; SELECT pg_reload_conf();".to_owned(),
    };
    Ok(Some(
        refused("this database takes no writes: default_transaction_read_only is on")
            .because(format!("where that is set, by pg_settings: {source}"))
            .hint(format!("find out who wanted that and why, then: {reset}")),
    ))
}

/// Which database a session is connected to, and what kind of server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// For records and gates.
    pub identity: Identity,
    /// `server_version`, such as `17.11`.
    pub version: String,
    /// Whether the server has but one session and no backends of its own (PostgreSQL in WebAssembly).
    pub single_session: bool,
}

/// Asks the server who it is.
///
/// # Errors
/// [`Exit::Unreachable`] when it does not answer.
pub fn identify(client: &mut Client, settings: &Settings) -> Result<Server> {
    let row = client
        // Without a named statement, which some poolers lose before the run can be refused for the pooler.
        .query_typed_one(
            "SELECT (SELECT system_identifier::text FROM pg_catalog.pg_control_system()), d.oid, d.datname::text,
                    current_setting('server_version'), pg_backend_pid()
             FROM pg_catalog.pg_database d WHERE d.datname = current_database()",
            &[],
        )
        .map_err(|error| {
            Error::new(Exit::Unreachable, format!("cannot ask {} who it is", settings.database()))
                .because_all(reasons(&error))
                .because("nothing was touched")
                .hint("run it again")
        })?;
    let version: String = row.get(3);
    Ok(Server {
        identity: Identity {
            system_identifier: row.get(0),
            oid: row.get(1),
            name: row.get(2),
            host: settings.connection.host.clone(),
            port: settings.connection.port,
            server_version: version.clone(),
        },
        version,
        single_session: row.get::<_, i32>(4) == 0,
    })
}
