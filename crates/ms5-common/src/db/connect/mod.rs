//! Connects to PostgreSQL by libpq's rules: sslmode, certificates, password file, timeouts, several addresses.
//!
//! `connect` takes plain `Settings` (nothing here reads the environment) and gives a `Connected`: the
//! client, what can cancel its statement, and warnings; or a `ConnectError` that says what was tried, why it
//! failed and what to do next, whose kind decides the exit code. No text of this module holds a secret.

mod error;
mod frames;
mod negotiate;
mod passfile;
mod settings;
mod tls;
mod verify;

use std::error::Error as _;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use postgres::config::{SslMode as CrateSslMode, SslNegotiation};
use postgres::error::DbError;
use tokio_postgres::{CancelToken, Config};

use crate::db::client::{self, Client};

pub use self::error::{Cause, ConnectError, Failure, Kind, ServerMessage, Target};
pub use self::passfile::{FoundPassword, PasswordSource, find_password};
pub use self::settings::{BadSetting, Secret, Settings, SslMode, parse_connect_timeout};

use self::error::{Circumstances, os_cause};
use self::negotiate::{Opener, Opening, Watch, broken, certificate_refused, is_tls, tls_failure};
use self::tls::TlsSetup;

/// Silence after which TCP asks whether the other side is still there. A statement may run for hours
/// without a byte, and firewalls forget a silent connection sooner than Linux's default of two hours.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 6;

/// How long a cancel request may take where no connect timeout says otherwise.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

/// A session, and what came with it.
pub struct Connected {
    /// The session.
    pub client: Client,
    /// Cancels the session's running statement, from any thread.
    pub canceller: Canceller,
    /// Whether the session is encrypted.
    pub tls: bool,
    /// The address that answered: `127.0.0.1:5432`, or the socket's path.
    pub address: String,
    /// The pid of the backend as the log-in told it; none on a socket file, where the log-in is not seen. A pooler
    /// tells a number of its own.
    pub backend: Option<i32>,
    /// Where the password came from, if one was at hand.
    pub password_source: PasswordSource,
    /// What the user should hear: a password file that was passed over, a TLS file that is missing, a
    /// fall-back to no encryption.
    pub warnings: Vec<String>,
}

impl std::fmt::Debug for Connected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connected")
            .field("address", &self.address)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

/// Cancels a session's running statement through a connection of its own, encrypted as the session is.
#[derive(Clone)]
pub struct Canceller {
    token: CancelToken,
    opener: Opener,
    timeout: Duration,
    target: Target,
    settings: Arc<Settings>,
}

impl Canceller {
    /// Asks the server to cancel what the session is running; nothing happens if it runs nothing.
    ///
    /// Over TCP this returns when the server has passed the request on, so that it cannot hit a later
    /// statement. Over a socket file it returns when the request is sent.
    ///
    /// # Errors
    /// The server could not be reached; whether it had anything to cancel is not told.
    pub fn cancel(&self) -> Result<(), ConnectError> {
        let watch = Arc::new(Watch::default());
        let mut opener = self.opener.clone();
        opener.watch = Arc::clone(&watch);
        opener.deadline = Instant::now().checked_add(self.timeout);
        let socket = self.settings.is_socket();
        let asked = client::runtime().map_err(|error| no_loop(&error)).and_then(|runtime| {
            runtime.block_on(self.token.cancel_query(opener)).map_err(|error| judge(&error, &watch, socket))
        });
        asked.map_err(|failure| {
            let circumstances = Circumstances {
                settings: &self.settings,
                passfile: None,
                password_from_file: false,
                password_given: false,
            };
            ConnectError {
                target: Box::new(self.target.clone()),
                next: circumstances.next_step(&failure),
                failure: Box::new(failure),
                others: Vec::new(),
                warnings: Vec::new(),
            }
        })
    }
}

impl std::fmt::Debug for Canceller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Canceller").field("target", &self.target).finish_non_exhaustive()
    }
}

/// Who hears the server's notices.
type Notices = Arc<dyn Fn(DbError) + Send + Sync>;

/// Connects and logs in. The server's notices go to `notice` for as long as the client lives.
///
/// # Errors
/// Everything that keeps a session from standing, with its next step.
pub fn connect(
    settings: &Settings,
    notice: impl Fn(DbError) + Send + Sync + 'static,
) -> Result<Connected, ConnectError> {
    let places = places(settings);
    connect_to(settings, places, Arc::new(notice))
}

/// Connects to the first of the places that lets it.
fn connect_to(
    settings: &Settings,
    places: Result<Vec<Place>, Failure>,
    notice: Notices,
) -> Result<Connected, ConnectError> {
    let found = find_password(settings);
    let mut run = Run {
        settings,
        password: found.password.as_ref(),
        notice,
        tls: None,
        failures: Vec::new(),
        warnings: found.warnings.clone(),
    };
    match run.connect(places) {
        Some(session) => Ok(Connected {
            client: session.client,
            canceller: session.canceller,
            tls: session.tls,
            address: session.address,
            backend: session.backend,
            password_source: found.source,
            warnings: run.warnings,
        }),
        None => Err(run.into_error(&found)),
    }
}

/// A session on its way out.
struct Session {
    client: Client,
    canceller: Canceller,
    tls: bool,
    address: String,
    backend: Option<i32>,
}

/// Where one attempt goes.
#[derive(Clone)]
enum Place {
    Tcp(IpAddr),
    Socket(PathBuf),
}

/// What to do after a failed attempt.
#[derive(PartialEq, Eq)]
enum After {
    Stop,
    NextAddress,
    /// TLS failed, or the server turned the encrypted log-in down.
    WithoutTls,
    /// The server turned the unencrypted log-in down.
    WithTls,
}

/// One call of `connect`.
struct Run<'a> {
    settings: &'a Settings,
    password: Option<&'a Secret>,
    notice: Notices,
    /// The TLS files, read at most once.
    tls: Option<Result<TlsSetup, Failure>>,
    failures: Vec<Failure>,
    warnings: Vec<String>,
}

impl Run<'_> {
    fn connect(&mut self, places: Result<Vec<Place>, Failure>) -> Option<Session> {
        let places = match places {
            Ok(places) => places,
            Err(failure) => {
                self.failures.push(failure);
                return None;
            }
        };
        for place in places {
            match self.try_place(&place) {
                Ok(session) => return Some(session),
                Err(After::NextAddress) => {}
                Err(_) => return None,
            }
        }
        None
    }

    /// One address: at most twice, with and without TLS. The connect timeout holds for both together.
    fn try_place(&mut self, place: &Place) -> Result<Session, After> {
        let deadline = self.settings.connect_timeout.and_then(|limit| Instant::now().checked_add(limit));
        let mode = self.settings.effective_sslmode();
        let tls_first = mode != SslMode::Disable && mode != SslMode::Allow && !self.settings.is_socket();
        match self.attempt(place, tls_first, deadline) {
            Err(After::WithoutTls) => {
                let session = self.attempt(place, false, deadline).map_err(no_third)?;
                if let Some(first) = self.failures.last() {
                    self.warnings.push(format!(
                        "the session is not encrypted: with TLS it failed, and sslmode={mode} allows to do without: {first}"
                    ));
                }
                Ok(session)
            }
            Err(After::WithTls) => self.attempt(place, true, deadline).map_err(no_third),
            other => other,
        }
    }

    fn attempt(&mut self, place: &Place, tls: bool, deadline: Option<Instant>) -> Result<Session, After> {
        let mode = self.settings.effective_sslmode();
        let opening = if !tls {
            Opening::Plain
        } else {
            let setup = self.tls.get_or_insert_with(|| tls::setup(self.settings)).clone();
            if let Ok(setup) = &setup {
                for warning in &setup.warnings {
                    if !self.warnings.contains(warning) {
                        self.warnings.push(warning.clone());
                    }
                }
            }
            if mode.demands_tls() { Opening::TlsOrFail(setup) } else { Opening::TlsIfOffered(setup) }
        };
        let Settings { host, port, .. } = self.settings;
        let shown = match place {
            Place::Tcp(IpAddr::V4(ip)) => format!("{ip}:{port}"),
            Place::Tcp(IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
            Place::Socket(_) => format!("{host}/.s.PGSQL.{port}"),
        };
        let server_name = match place {
            Place::Tcp(ip) => Opener::server_name(host, &ip.to_string()),
            Place::Socket(_) => String::new(),
        };
        let watch = Arc::new(Watch::default());
        let opener = Opener { opening, server_name, deadline, watch: Arc::clone(&watch), await_close: false };
        let socket = matches!(place, Place::Socket(_));
        let outcome = match self.config(place, deadline) {
            None => Err(Failure::new(Cause::TimedOut, "no time was left of the connect timeout")),
            Some(config) if socket => open_socket(config, opener.clone(), &self.notice),
            Some(config) => log_in(&config, opener.clone(), &self.notice, false),
        };
        match outcome {
            Ok(client) => {
                watch.settle();
                let seen = watch.seen();
                let (tls, backend) = (seen.tls, seen.backend);
                drop(seen);
                let canceller = self.canceller(&client, opener, tls);
                Ok(Session { canceller, client, tls, address: shown, backend })
            }
            Err(mut failure) => {
                let seen = watch.seen();
                let encrypted = seen.tls || seen.tls_failed;
                drop(seen);
                failure.attempt = match place {
                    Place::Tcp(_) if encrypted => format!("{shown} with TLS"),
                    Place::Tcp(_) if !tls => format!("{shown} without TLS"),
                    _ => shown,
                };
                let after = after(&failure, &watch, mode, tls, socket);
                self.failures.push(failure);
                Err(after)
            }
        }
    }

    /// The engine's configuration for one attempt; none if no time is left for it.
    fn config(&self, place: &Place, deadline: Option<Instant>) -> Option<Config> {
        let settings = self.settings;
        let mut config = Config::new();
        config.port(settings.port).user(&settings.user).dbname(&settings.dbname);
        match place {
            Place::Tcp(ip) => {
                // The name is for the crate's eyes only; the address is where it goes.
                config.host("postgresql").hostaddr(*ip);
                config.ssl_mode(CrateSslMode::Require).ssl_negotiation(SslNegotiation::Direct);
                config
                    .keepalives(true)
                    .keepalives_idle(KEEPALIVE_IDLE)
                    .keepalives_interval(KEEPALIVE_INTERVAL)
                    .keepalives_retries(KEEPALIVE_RETRIES);
            }
            Place::Socket(folder) => {
                config.host_path(folder).ssl_mode(CrateSslMode::Disable);
            }
        }
        if let Some(password) = self.password {
            config.password(password.expose());
        }
        if let Some(options) = &settings.options {
            config.options(options);
        }
        if let Some(name) = &settings.application_name {
            config.application_name(name);
        }
        if let Some(deadline) = deadline {
            let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            config.connect_timeout(left);
        }
        Some(config)
    }

    fn canceller(&self, client: &Client, mut opener: Opener, tls: bool) -> Canceller {
        opener.opening = match opener.opening {
            Opening::TlsIfOffered(setup) | Opening::TlsOrFail(setup) if tls => Opening::TlsOrFail(setup),
            _ => Opening::Plain,
        };
        opener.await_close = true;
        Canceller {
            token: client.cancel_token(),
            opener,
            timeout: self.settings.connect_timeout.unwrap_or(CANCEL_TIMEOUT),
            target: Target::of(self.settings),
            settings: Arc::new(Settings { password: None, ..self.settings.clone() }),
        }
    }

    fn into_error(mut self, found: &FoundPassword) -> ConnectError {
        let circumstances = Circumstances {
            settings: self.settings,
            passfile: found.file.as_ref().map(|file| file.display().to_string()),
            password_from_file: matches!(found.source, PasswordSource::File(_)),
            password_given: found.password.is_some(),
        };
        // The last failure decides, unless it only says that pg_hba.conf has no line for the other way to
        // encrypt: then what the first way said is the real reason.
        let last = self.failures.pop().unwrap_or_else(|| Failure::new(Cause::Network, "nothing was tried"));
        let real = match self.failures.last() {
            Some(before) if last.cause == Cause::Rejected && same_address(before, &last) => {
                self.failures.pop()
            }
            _ => None,
        };
        let failure = match real {
            Some(real) => {
                self.failures.push(last);
                real
            }
            None => last,
        };
        ConnectError {
            target: Box::new(Target::of(self.settings)),
            next: circumstances.next_step(&failure),
            failure: Box::new(failure),
            others: self.failures,
            warnings: self.warnings,
        }
    }
}

/// The addresses in the resolver's order, which is libpq's order.
fn places(settings: &Settings) -> Result<Vec<Place>, Failure> {
    check(settings)?;
    let Settings { host, port, .. } = settings;
    if settings.is_socket() {
        // An abstract socket's name begins with a NUL for the system, with @ for people.
        let folder = match host.strip_prefix('@') {
            Some(name) => format!("\0{name}"),
            None => host.clone(),
        };
        return Ok(vec![Place::Socket(folder.into())]);
    }
    let unresolved = |why: &str| {
        Failure::new(Cause::NameNotResolved, format!("the host name {host:?} cannot be resolved: {why}"))
    };
    let addresses = (host.as_str(), *port).to_socket_addrs().map_err(|error| {
        let text = error.to_string();
        unresolved(text.strip_prefix("failed to lookup address information: ").unwrap_or(&text))
    })?;
    let places: Vec<Place> = addresses.map(|address| Place::Tcp(address.ip())).collect();
    if places.is_empty() { Err(unresolved("it has no address")) } else { Ok(places) }
}

fn same_address(one: &Failure, other: &Failure) -> bool {
    let address = |failure: &Failure| failure.attempt.split(' ').next().map(str::to_owned);
    address(one) == address(other)
}

/// After the second way to encrypt there is no third.
fn no_third(after: After) -> After {
    if after == After::NextAddress { after } else { After::Stop }
}

/// Settings that cannot work, before anything is tried.
fn check(settings: &Settings) -> Result<(), Failure> {
    let bad = |message: String| Err(Failure::new(Cause::BadSetting, message));
    let texts = [
        ("host", Some(&settings.host)),
        ("database name", Some(&settings.dbname)),
        ("user name", Some(&settings.user)),
        ("options (PGOPTIONS)", settings.options.as_ref()),
        ("application name (PGAPPNAME)", settings.application_name.as_ref()),
    ];
    for (what, text) in texts {
        if text.is_some_and(|text| text.contains('\0')) {
            return bad(format!("the {what} contains a NUL character"));
        }
    }
    for (what, text) in texts.iter().take(3) {
        if text.is_some_and(String::is_empty) {
            return bad(format!("the {what} is empty"));
        }
    }
    if settings.password.as_ref().is_some_and(|password| password.expose().contains(&0)) {
        return bad("the password contains a NUL character".to_owned());
    }
    if settings.host.contains(',') && !settings.is_socket() {
        return bad(format!("the host {:?} is a list; the tools connect to one host", settings.host));
    }
    if settings.port == 0 {
        return bad("the port is 0; it has to be from 1 to 65535".to_owned());
    }
    if settings.is_socket() && format!("{}/.s.PGSQL.{}", settings.host, settings.port).len() > 107 {
        return bad(format!(
            "the socket's path under {} is longer than the system's 107 bytes",
            settings.host
        ));
    }
    let mode = settings.effective_sslmode();
    if settings.roots_are_system() && mode != SslMode::VerifyFull {
        return bad(format!(
            "sslmode={mode} is too weak for sslrootcert=system, where anybody's certificate is good for its own name; use verify-full"
        ));
    }
    Ok(())
}

/// Connects, as far as to the first answer to a log-in that went well.
fn log_in(config: &Config, opener: Opener, notice: &Notices, socket: bool) -> Result<Client, Failure> {
    let (watch, notice) = (Arc::clone(&opener.watch), Arc::clone(notice));
    let runtime = client::runtime().map_err(|error| no_loop(&error))?;
    Client::open(runtime, config, opener, move |message| notice(message))
        .map_err(|error| judge(&error, &watch, socket))
}

fn no_loop(error: &io::Error) -> Failure {
    Failure::new(Cause::Network, format!("the system has no event loop left to connect with: {error}"))
}

/// Connects to a socket file. There the crate gives the opener no say, so if there is a deadline, a thread
/// does the waiting; should the server answer it later, that session is dropped.
fn open_socket(config: Config, opener: Opener, notice: &Notices) -> Result<Client, Failure> {
    let Some(deadline) = opener.deadline else {
        return log_in(&config, opener, notice, true);
    };
    let (send, receive) = sync_channel(1);
    let notice = Arc::clone(notice);
    let worker = thread::Builder::new().name("connect".to_owned()).spawn(move || {
        let _ = send.send(log_in(&config, opener, &notice, true));
    });
    if let Err(error) = worker {
        return Err(Failure::new(
            Cause::Network,
            format!("no thread could be started to connect in: {error}"),
        ));
    }
    match receive.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(outcome) => outcome,
        Err(_) => Err(Failure::new(Cause::TimedOut, "no answer to the log-in within the connect timeout")),
    }
}

/// What a failed attempt was, from the crate's error and what was seen meanwhile.
fn judge(error: &postgres::Error, watch: &Watch, socket: bool) -> Failure {
    let seen = &mut *watch.seen();
    if let Some(failure) = seen.failure.take() {
        return failure;
    }
    if let Some(server) = error.as_db_error() {
        return Failure::from_server(server);
    }
    let source = error.source();
    let text = source.map(ToString::to_string).unwrap_or_default();
    if let Some(os) = source.and_then(|source| source.downcast_ref::<io::Error>()) {
        if is_tls(os) {
            return tls_failure(os);
        }
        if !seen.connected {
            return Failure::new(os_cause(os, socket), format!("the connection could not be made: {os}"));
        }
        let failure = broken(os, "before the session stood");
        // With TLS 1.3 the client learns after its handshake what the server thinks of its certificate, and
        // the alert is often lost to the reset that follows it.
        if failure.cause == Cause::ConnectionCut && seen.tls && seen.identity_shown && !seen.heard {
            return certificate_refused();
        }
        return failure;
    }
    if error.is_closed() {
        return Failure::new(
            Cause::ConnectionCut,
            "the server closed the connection before the session stood",
        );
    }
    let method = seen.method.as_deref().unwrap_or("a method that the tools cannot name here");
    match text.as_str() {
        "password missing" => {
            Failure::new(Cause::PasswordMissing, "the server wants a password and none was given")
        }
        "unsupported authentication method" | "unsupported SASL mechanism" => Failure::new(
            Cause::AuthenticationUnsupported,
            format!("the server wants authentication by {method}, which the tools do not have"),
        ),
        _ if error.to_string() == "authentication error" => {
            Failure::new(Cause::ServerNotAuthentic, format!("the log-in by {method} failed: {text}"))
        }
        _ if text.is_empty() => Failure::new(Cause::NotPostgres, error.to_string()),
        _ => Failure::new(Cause::NotPostgres, format!("{error}: {text}")),
    }
}

/// libpq's choice after a failure.
///
/// Source: `PQconnectPoll` in fe-connect.c, PostgreSQL 15: a connect that fails or times out goes to the
/// next address; a failed handshake or an error in place of a log-in goes the other way about TLS, once,
/// where the mode allows both; everything else ends the matter.
fn after(failure: &Failure, watch: &Watch, mode: SslMode, tls_asked: bool, socket: bool) -> After {
    let seen = watch.seen();
    if !seen.connected || failure.cause == Cause::TimedOut {
        return After::NextAddress;
    }
    let turned_down =
        failure.server.is_some() && !seen.authenticated && failure.cause != Cause::ServerNotReady;
    match mode {
        SslMode::Prefer if seen.tls_failed || (seen.tls && turned_down) => After::WithoutTls,
        SslMode::Allow if !tls_asked && !socket && turned_down => After::WithTls,
        _ => After::Stop,
    }
}

#[cfg(test)]
mod tests {
    //! libpq's way through several addresses, on loopback addresses that share a port.

    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// What a listener does with a connection once it has read something.
    #[derive(Clone, Copy)]
    enum Manner {
        /// Lets everybody in.
        Trust,
        /// Nothing.
        Silent,
        /// Ends the connection.
        Cut,
        /// Sends an error with this SQLSTATE, before or after letting in.
        Error(&'static str),
        LateError(&'static str),
        /// Nobody listens.
        Absent,
    }

    const LET_IN: &[u8] = b"R\0\0\0\x08\0\0\0\0";
    const READY: &[u8] = b"K\0\0\0\x0c\0\0\0\x01\0\0\0\x02Z\0\0\0\x05I";

    fn error_message(sqlstate: &str) -> Vec<u8> {
        let body = format!("SFATAL\0VFATAL\0C{sqlstate}\0Mno\0\0");
        let mut message = vec![b'E'];
        message.extend_from_slice(&u32::try_from(body.len() + 4).unwrap_or(0).to_be_bytes());
        message.extend_from_slice(body.as_bytes());
        message
    }

    fn serve(listener: TcpListener, manner: Manner, count: Arc<AtomicUsize>) {
        thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                count.fetch_add(1, Ordering::SeqCst);
                thread::spawn(move || {
                    let mut scrap = [0; 1024];
                    let mut read = stream.read(&mut scrap).unwrap_or(0);
                    // Whoever asks for TLS hears that there is none.
                    if read == 8 {
                        let _ = stream.write_all(b"N");
                        read = stream.read(&mut scrap).unwrap_or(0);
                    }
                    let _ = match manner {
                        Manner::Trust => stream.write_all(&[LET_IN, READY].concat()),
                        Manner::Error(code) => stream.write_all(&error_message(code)),
                        Manner::LateError(code) => stream.write_all(&[LET_IN, &error_message(code)].concat()),
                        Manner::Cut | Manner::Absent => return,
                        Manner::Silent => Ok(()),
                    };
                    while read > 0 {
                        read = stream.read(&mut scrap).unwrap_or(0);
                    }
                });
            }
        });
    }

    /// Connects to 127.0.0.1, .2 and so on, one address for each manner, and tells the address that
    /// answered or the cause, and how often each was called.
    fn walk(mode: SslMode, manners: &[Manner]) -> (String, Vec<usize>) {
        let mut port = 0;
        let (mut places, mut counts) = (Vec::new(), Vec::new());
        for (last, manner) in (1..).zip(manners) {
            let ip = IpAddr::from([127, 0, 0, last]);
            places.push(Place::Tcp(ip));
            let count = Arc::new(AtomicUsize::new(0));
            counts.push(Arc::clone(&count));
            let Ok(listener) = TcpListener::bind((ip, port)) else {
                continue;
            };
            port = listener.local_addr().map_or(0, |address| address.port());
            if !matches!(manner, Manner::Absent) {
                serve(listener, *manner, count);
            }
        }
        let mut settings = Settings::new("several.example", port, "db", "me");
        settings.sslmode = Some(mode);
        settings.connect_timeout = Some(Duration::from_secs(1));
        let outcome = match connect_to(&settings, Ok(places), Arc::new(|_| {})) {
            Ok(session) => session.address,
            Err(error) => format!("{:?}", error.cause()),
        };
        let outcome = outcome.trim_end_matches(&format!(":{port}")).to_owned();
        (outcome, counts.iter().map(|count| count.load(Ordering::SeqCst)).collect())
    }

    #[test]
    fn addresses_in_turn() {
        use Manner::{Absent, Cut, Error, LateError, Silent, Trust};
        for (mode, manners, expect, calls) in [
            (SslMode::Disable, vec![Trust, Trust], "127.0.0.1", vec![1, 0]),
            (SslMode::Disable, vec![Absent, Trust], "127.0.0.2", vec![0, 1]),
            (SslMode::Prefer, vec![Absent, Absent, Trust], "127.0.0.3", vec![0, 0, 1]),
            (SslMode::Disable, vec![Silent, Trust], "127.0.0.2", vec![1, 1]),
            (SslMode::Prefer, vec![Silent, Trust], "127.0.0.2", vec![1, 1]),
            (SslMode::Disable, vec![Silent, Silent], "TimedOut", vec![1, 1]),
            // What a server says, or breaks off, is the end of it.
            (SslMode::Disable, vec![Cut, Trust], "ConnectionCut", vec![1, 0]),
            (SslMode::Disable, vec![Error("28P01"), Trust], "PasswordRefused", vec![1, 0]),
            (SslMode::Prefer, vec![Error("57P03"), Trust], "ServerNotReady", vec![1, 0]),
            // `allow` asks once more, with TLS; here there is none, so it hears the same again.
            (SslMode::Allow, vec![Error("28000"), Trust], "Rejected", vec![2, 0]),
            (SslMode::Allow, vec![LateError("3D000"), Trust], "DatabaseMissing", vec![1, 0]),
            (SslMode::Allow, vec![Error("57P03")], "ServerNotReady", vec![1]),
            // `prefer` already went on without TLS on the same connection.
            (SslMode::Prefer, vec![Error("28000")], "Rejected", vec![1]),
            (SslMode::Require, vec![Trust, Trust], "TlsRefused", vec![1, 0]),
        ] {
            assert_eq!(walk(mode, &manners), (expect.to_owned(), calls), "{mode}");
        }
    }
}
