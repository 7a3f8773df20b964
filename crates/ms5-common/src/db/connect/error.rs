//! What can go wrong while connecting: the causes, what each means for the exit code, and what to do next.

use std::error::Error;
use std::fmt;
use std::io;

use postgres::error::DbError;

use super::settings::{Settings, SslMode};
use super::tls::ROOT_FILE;

/// What a failure means for the caller; the contract's exit codes follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nobody there, or nobody free: worth another try. Exit 4.
    Unreachable,
    /// The server wants something else than it got, or we do: password, certificate, pg_hba rule. Exit 3.
    Credentials,
    /// The settings cannot work, with any credentials. Exit 3.
    Configuration,
}

impl Kind {
    /// The exit code of a tool that stops for this.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Unreachable => 4,
            Self::Credentials | Self::Configuration => 3,
        }
    }
}

/// Why a connection failed, as finely as a cure needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The host name has no address.
    NameNotResolved,
    /// Nothing listens at the port, or on the socket.
    Refused,
    /// The socket file is not there.
    SocketMissing,
    /// The socket is closed to this user.
    SocketForbidden,
    /// Another failure of the network.
    Network,
    /// No answer within the connect timeout.
    TimedOut,
    /// The server ended the connection before the session stood.
    ConnectionCut,
    /// What answers does not speak PostgreSQL's protocol.
    NotPostgres,
    /// 53300: all connections are taken.
    TooManyConnections,
    /// 57P03: starting up, shutting down or recovering.
    ServerNotReady,
    /// 57P01, 57P02: stopped while we connected.
    ServerStopping,
    /// Another trouble of the server's own (classes 08, 53, 57, 58, XX).
    ServerTrouble,
    /// The server wants a password and there is none.
    PasswordMissing,
    /// 28P01: the password, or a role that only a password lets in, was turned down.
    PasswordRefused,
    /// 28000 and the like: pg_hba.conf, the role or its right to log in.
    Rejected,
    /// 42501: the role may not connect to this database.
    NoPrivilege,
    /// The server asks for a way of authentication that the tools do not have.
    AuthenticationUnsupported,
    /// The server failed to prove that it knows the password.
    ServerNotAuthentic,
    /// The server has no TLS and sslmode demands it.
    TlsRefused,
    /// The TLS handshake failed for no reason of certificates.
    TlsFailed,
    /// No trusted issuer stands behind the server's certificate.
    CertificateUntrusted,
    /// The server's certificate is for another name.
    CertificateWrongName,
    /// The server's certificate, or its issuer's, is past its time or not yet in it.
    CertificateExpired,
    /// The server's certificate was revoked, or the revocation list cannot tell.
    CertificateRevoked,
    /// The server's certificate is of a form that cannot be checked.
    CertificateUnusable,
    /// The file of trusted issuers is missing or unreadable.
    RootFile,
    /// The client's certificate is unreadable.
    ClientCertificateFile,
    /// The client's key is missing, unreadable, encrypted, not the certificate's, or open to others.
    ClientKeyFile,
    /// The server turned the client's certificate down, or wants one.
    ClientCertificateRefused,
    /// 3D000: no such database.
    DatabaseMissing,
    /// 55000: a database that takes no connections.
    DatabaseClosed,
    /// A setting that cannot work, found before or by the server.
    BadSetting,
    /// A pooler in between refuses a setting of the start-up message, whatever PostgreSQL would say to it.
    PoolerRefusedSetting,
}

impl Cause {
    /// What the cause means for the caller.
    #[must_use]
    pub const fn kind(self) -> Kind {
        match self {
            Self::NameNotResolved
            | Self::Refused
            | Self::SocketMissing
            | Self::Network
            | Self::TimedOut
            | Self::ConnectionCut
            | Self::NotPostgres
            | Self::TooManyConnections
            | Self::ServerNotReady
            | Self::ServerStopping
            | Self::ServerTrouble => Kind::Unreachable,
            Self::PasswordMissing
            | Self::PasswordRefused
            | Self::Rejected
            | Self::NoPrivilege
            | Self::AuthenticationUnsupported
            | Self::ServerNotAuthentic
            | Self::CertificateUntrusted
            | Self::CertificateWrongName
            | Self::CertificateExpired
            | Self::CertificateRevoked
            | Self::CertificateUnusable
            | Self::RootFile
            | Self::ClientCertificateFile
            | Self::ClientKeyFile
            | Self::ClientCertificateRefused => Kind::Credentials,
            Self::SocketForbidden
            | Self::TlsRefused
            | Self::TlsFailed
            | Self::DatabaseMissing
            | Self::DatabaseClosed
            | Self::BadSetting
            | Self::PoolerRefusedSetting => Kind::Configuration,
        }
    }
}

/// What the server said, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerMessage {
    /// FATAL, as a rule.
    pub severity: String,
    /// The SQLSTATE.
    pub sqlstate: String,
    /// The message, in the server's language.
    pub message: String,
    /// Its detail.
    pub detail: Option<String>,
    /// Its hint.
    pub hint: Option<String>,
}

impl fmt::Display for ServerMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.severity, self.sqlstate, self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, "; detail: {detail}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "; hint: {hint}")?;
        }
        Ok(())
    }
}

impl From<&DbError> for ServerMessage {
    fn from(error: &DbError) -> Self {
        Self {
            severity: error.severity().to_owned(),
            sqlstate: error.code().code().to_owned(),
            message: error.message().to_owned(),
            detail: error.detail().map(str::to_owned),
            hint: error.hint().map(str::to_owned),
        }
    }
}

/// One failed try at one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Why.
    pub cause: Cause,
    /// The address and encryption of this try, such as `127.0.0.1:5432 with TLS`; empty before any.
    pub attempt: String,
    /// What went wrong, where the server did not say it.
    pub message: String,
    /// What the server said.
    pub server: Option<Box<ServerMessage>>,
    /// The cure, where it hangs on more than the cause.
    pub(super) cure: Option<String>,
}

impl Failure {
    pub(super) fn new(cause: Cause, message: impl Into<String>) -> Self {
        Self { cause, attempt: String::new(), message: message.into(), server: None, cure: None }
    }

    pub(super) fn with_cure(mut self, cure: impl Into<String>) -> Self {
        self.cure = Some(cure.into());
        self
    }

    /// A server's error while connecting.
    pub(super) fn from_server(error: &DbError) -> Self {
        let cause = server_cause(error.code().code(), error.message());
        let mut failure = Self::new(cause, "");
        failure.server = Some(Box::new(ServerMessage::from(error)));
        failure
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.server {
            Some(server) => server.fmt(f),
            None => f.write_str(&self.message),
        }
    }
}

/// What a SQLSTATE means when it comes instead of a session.
///
/// Source: PostgreSQL's errcodes.txt, and what PgBouncer sends.
fn server_cause(sqlstate: &str, message: &str) -> Cause {
    match sqlstate {
        // PgBouncer's words, which it does not translate; before 1.20 without "in options".
        "08P01" if message.starts_with("unsupported startup parameter") => Cause::PoolerRefusedSetting,
        "28P01" => Cause::PasswordRefused,
        "3D000" => Cause::DatabaseMissing,
        "42501" => Cause::NoPrivilege,
        "53300" => Cause::TooManyConnections,
        "55000" => Cause::DatabaseClosed,
        "57P03" => Cause::ServerNotReady,
        "57P01" | "57P02" => Cause::ServerStopping,
        // A protocol violation will not mend itself; PgBouncer sends it for unknown databases.
        "08P01" => Cause::BadSetting,
        code => match code.get(..2) {
            Some("28") => Cause::Rejected,
            Some("08" | "53" | "57" | "58" | "XX") => Cause::ServerTrouble,
            _ => Cause::BadSetting,
        },
    }
}

/// Who wanted to connect to what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The role.
    pub user: String,
    /// The host, as it was given.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The database.
    pub dbname: String,
    /// The mode in force.
    pub sslmode: SslMode,
}

impl Target {
    pub(super) fn of(settings: &Settings) -> Self {
        Self {
            user: settings.user.clone(),
            host: settings.host.clone(),
            port: settings.port,
            dbname: settings.dbname.clone(),
            sslmode: settings.effective_sslmode(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user, host, port, dbname, sslmode } = self;
        if host.starts_with(['/', '@']) {
            write!(f, "{user}@{host}/.s.PGSQL.{port}, database {dbname}")
        } else {
            write!(f, "{user}@{host}:{port}/{dbname} (sslmode={sslmode})")
        }
    }
}

/// A connection that did not come about: what was tried, why it failed, what to do next.
///
/// Display says the first two in one line; `next_step` is the third. None of it holds a secret.
#[derive(Clone, Debug)]
pub struct ConnectError {
    /// What was tried.
    pub target: Box<Target>,
    /// The try that decides.
    pub failure: Box<Failure>,
    /// The other tries, in their order: other addresses, or the same with and without TLS.
    pub others: Vec<Failure>,
    /// What to hear besides, such as a password file that was passed over.
    pub warnings: Vec<String>,
    pub(super) next: String,
}

impl ConnectError {
    /// Why.
    #[must_use]
    pub fn cause(&self) -> Cause {
        self.failure.cause
    }

    /// What it means for the caller.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.failure.cause.kind()
    }

    /// The SQLSTATE, if the server gave one.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        self.failure.server.as_ref().map(|server| server.sqlstate.as_str())
    }

    /// What to do, in a line or two.
    #[must_use]
    pub fn next_step(&self) -> &str {
        &self.next
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot connect to {}: {}", self.target, self.failure)?;
        if !self.failure.attempt.is_empty() {
            write!(f, " [{}]", self.failure.attempt)?;
        }
        for other in &self.others {
            write!(f, "; also tried {}: {other}", other.attempt)?;
        }
        Ok(())
    }
}

impl Error for ConnectError {}

/// What a failing try was like, for the cures.
pub(super) struct Circumstances<'a> {
    pub(super) settings: &'a Settings,
    /// How the password file was called, and whether the password came from it.
    pub(super) passfile: Option<String>,
    pub(super) password_from_file: bool,
    pub(super) password_given: bool,
}

impl Circumstances<'_> {
    /// The next step after a failure, in a line or two.
    pub(super) fn next_step(&self, failure: &Failure) -> String {
        if let Some(cure) = &failure.cure {
            return cure.clone();
        }
        let Settings { host, port, user, dbname, .. } = self.settings;
        let place = if self.settings.is_socket() {
            format!("the socket {host}/.s.PGSQL.{port}")
        } else {
            format!("{host}:{port}")
        };
        match failure.cause {
            Cause::NameNotResolved => {
                format!("Check the spelling of the host {host:?}, or give an address; `getent hosts {host}` shows what the system knows.")
            }
            Cause::Refused | Cause::SocketMissing => format!(
                "Check that the server runs and listens on {place}: its state, its log, listen_addresses, port and unix_socket_directories."
            ),
            Cause::SocketForbidden => format!(
                "Run as a user who may open {host}, or change unix_socket_permissions on the server."
            ),
            Cause::Network => format!("Check the network between here and {place}: address, routes, firewall."),
            Cause::TimedOut => format!(
                "Check that the server at {place} is alive and no firewall drops the packets; PGCONNECT_TIMEOUT sets how long to wait."
            ),
            Cause::ConnectionCut => {
                "Read the server's log for the reason; a proxy in between, or a server that has just gone down, ends connections like this too.".to_owned()
            }
            Cause::NotPostgres => format!("Check host and port: something else than PostgreSQL answers on {place}."),
            Cause::TooManyConnections => {
                "Wait or end idle sessions (pg_stat_activity), then try again; else raise max_connections or the role's or database's CONNECTION LIMIT.".to_owned()
            }
            Cause::ServerNotReady => {
                "Wait until the server has come up, then try again; its log tells how far it is.".to_owned()
            }
            Cause::ServerStopping => "The server went down meanwhile: start it, or wait, then try again.".to_owned(),
            Cause::ServerTrouble => "Read the server's log, mend what it names, then try again.".to_owned(),
            Cause::PasswordMissing => self.where_to_put_a_password(),
            Cause::PasswordRefused => self.which_password_was_wrong(),
            Cause::Rejected => self.what_pg_hba_needs(failure),
            Cause::NoPrivilege => {
                format!("As the database's owner: GRANT CONNECT ON DATABASE {} TO {};", quoted(dbname), quoted(user))
            }
            Cause::AuthenticationUnsupported => format!(
                "Give the role {user} a line in pg_hba.conf with scram-sha-256, md5, password, cert, peer or trust."
            ),
            Cause::ServerNotAuthentic => {
                "The server could not prove that it knows the password: make sure that this is the right server before you try again.".to_owned()
            }
            Cause::TlsRefused => {
                "Turn TLS on in the server (ssl = on, with a certificate), or set PGSSLMODE=prefer if the network is trusted.".to_owned()
            }
            Cause::TlsFailed => {
                "Check the server's TLS settings: TLS 1.2 or 1.3 with an ECDHE cipher is needed, and a certificate with an RSA key of 2048 bits or more, ECDSA P-256, P-384 or Ed25519.".to_owned()
            }
            Cause::CertificateUntrusted => format!(
                "Put the certificate of the authority that issued the server's into {}, or name its file in PGSSLROOTCERT.",
                self.root_file()
            ),
            Cause::CertificateWrongName => {
                "Connect by a name that the certificate carries (DB_HOST), or have it issued anew with this name; PGSSLMODE=verify-ca checks the issuer alone.".to_owned()
            }
            Cause::CertificateExpired => {
                "Have the server's certificate renewed, and check the clocks of both machines.".to_owned()
            }
            Cause::CertificateRevoked => {
                "Have a new certificate issued for the server, or bring the revocation list (PGSSLCRL) up to date.".to_owned()
            }
            Cause::CertificateUnusable => {
                "Have the server's certificate issued anew: X.509 version 3, valid DER, RSA of 2048 bits or more, ECDSA P-256, P-384 or Ed25519.".to_owned()
            }
            Cause::RootFile => format!(
                "Put the trusted authority's certificate (PEM) into {}, or name its file in PGSSLROOTCERT.",
                self.root_file()
            ),
            Cause::ClientCertificateFile => {
                "Name a readable certificate (PEM) in PGSSLCERT.".to_owned()
            }
            Cause::ClientKeyFile => "Name the certificate's own, unencrypted key (PEM) in PGSSLKEY.".to_owned(),
            Cause::ClientCertificateRefused => {
                "Name a certificate in PGSSLCERT, with its key in PGSSLKEY, whose issuer is in the server's ssl_ca_file.".to_owned()
            }
            Cause::DatabaseMissing => format!(
                "Check the database's name (DB_NAME); `psql -l` lists those there are. To make it: CREATE DATABASE {};",
                quoted(dbname)
            ),
            Cause::DatabaseClosed => format!("As a superuser: ALTER DATABASE {} ALLOW_CONNECTIONS true;", quoted(dbname)),
            Cause::PoolerRefusedSetting => format!(
                "A connection pooler (PgBouncer) answers on {place}, and it refuses what a session of ours is started with, so it cannot even be asked whether it leaves a session on one backend. Connect to PostgreSQL itself, with DB_HOST and DB_PORT; or, if the pooler is in session mode, set ignore_startup_parameters = options in its configuration."
            ),
            Cause::BadSetting => "Mend the setting named above (DB_*, PGOPTIONS, PGAPPNAME), then try again.".to_owned(),
        }
    }

    fn root_file(&self) -> String {
        if self.settings.roots_are_system() {
            return "the system's store".to_owned();
        }
        let file = self.settings.file(self.settings.sslrootcert.as_ref(), ROOT_FILE);
        file.map_or_else(|| "~/.postgresql/root.crt".to_owned(), |file| file.display().to_string())
    }

    fn passfile_line(&self) -> Option<String> {
        let Settings { host, port, user, dbname, .. } = self.settings;
        let escape = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
        let file = self.passfile.as_ref()?;
        Some(format!(
            "{file} (mode 0600): {}:{port}:{}:{}:PASSWORD",
            escape(host),
            escape(dbname),
            escape(user)
        ))
    }

    fn where_to_put_a_password(&self) -> String {
        let variables = match self.settings.password_variables.as_slice() {
            [] => "PGPASSWORD".to_owned(),
            names => names.join(" or "),
        };
        match self.passfile_line() {
            Some(line) => format!("Set {variables}, or add this line to {line}"),
            None => format!("Set {variables}."),
        }
    }

    fn which_password_was_wrong(&self) -> String {
        let role = &self.settings.user;
        if self.password_from_file {
            let file = self.passfile.as_deref().unwrap_or("the password file");
            return format!(
                "The password came from {file}: mend the first line there that fits, or set the role's: ALTER ROLE {} PASSWORD '...';",
                quoted(role)
            );
        }
        if !self.password_given {
            return self.where_to_put_a_password();
        }
        let from = self.settings.password_variables.first().map_or("PGPASSWORD", String::as_str);
        format!(
            "Check {from} and the role {role}; a superuser sets the password with: ALTER ROLE {} PASSWORD '...';",
            quoted(role)
        )
    }

    fn what_pg_hba_needs(&self, failure: &Failure) -> String {
        let Settings { user, dbname, .. } = self.settings;
        let line = if self.settings.is_socket() {
            format!("local {} {} scram-sha-256", hba(dbname), hba(user))
        } else {
            let kind = if self.settings.effective_sslmode().demands_tls() { "hostssl" } else { "host" };
            let from = failure
                .server
                .as_ref()
                .and_then(|server| quoted_address(&server.message))
                .unwrap_or_else(|| "OUR-ADDRESS/32".to_owned());
            format!("{kind} {} {} {from} scram-sha-256", hba(dbname), hba(user))
        };
        // Only a hint hangs on these words, so it does no harm that servers speak other languages too.
        let about_certificates =
            failure.server.as_ref().is_some_and(|server| server.message.contains("certificate"));
        if about_certificates {
            return format!(
                "Name a certificate in PGSSLCERT, with its key in PGSSLKEY: issued by an authority in the server's ssl_ca_file, for the common name {user} (or one that pg_ident.conf maps to it)."
            );
        }
        format!(
            "Check that the role exists and may log in. If pg_hba.conf keeps it out, add before the line that does, then reload: {line}"
        )
    }
}

/// The client's address in "no pg_hba.conf entry for host "10.0.0.7", ...", with its mask.
///
/// The words are the server's language; an address in quotes is the same in all of them.
fn quoted_address(message: &str) -> Option<String> {
    message.split(['"', '«', '»', '„', '“', '”']).find_map(|part| {
        let address: std::net::IpAddr = part.trim().parse().ok()?;
        Some(format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 }))
    })
}

/// An SQL identifier, quoted where it has to be.
fn quoted(name: &str) -> String {
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && name.bytes().next().is_some_and(|b| !b.is_ascii_digit());
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// A name in pg_hba.conf, quoted where it has to be.
fn hba(name: &str) -> String {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        && !["all", "sameuser", "samerole", "replication"].contains(&name);
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// The cause behind an operating system's error before any byte was exchanged.
pub(super) fn os_cause(error: &io::Error, socket: bool) -> Cause {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Cause::Refused,
        io::ErrorKind::TimedOut => Cause::TimedOut,
        io::ErrorKind::NotFound if socket => Cause::SocketMissing,
        io::ErrorKind::PermissionDenied if socket => Cause::SocketForbidden,
        io::ErrorKind::InvalidInput if socket => Cause::BadSetting,
        _ => Cause::Network,
    }
}

/// Whether the other side is gone, by an error in the middle of a conversation.
pub(super) fn is_cut(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NotConnected
    )
}
