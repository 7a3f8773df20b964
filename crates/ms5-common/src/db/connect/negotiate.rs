//! The opening of a connection: libpq's request for encryption, the handshake, and an eye on what follows.
//!
//! The `postgres` crate knows three of libpq's six modes, limits only the TCP connect in time, and hides
//! what the server asked for. So it is told to connect with "direct" TLS, in which it hands a fresh socket
//! to its TLS connector and takes back a stream: that connector is `Opener`, which does all of this.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use postgres::Socket;
use postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Sleep, sleep_until, timeout_at};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error::{Cause, Failure, is_cut};
use super::frames::Frames;
use super::tls::TlsSetup;

/// The SSLRequest message: its length, then 1234 and 5679 as 16-bit numbers.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// libpq's limits for the first message; longer ones are no PostgreSQL.
const LONGEST_REQUEST: usize = 2000;
const LONGEST_ERROR: usize = 30_000;

/// How to begin at one address.
#[derive(Clone)]
pub(super) enum Opening {
    /// Without encryption.
    Plain,
    /// Ask for encryption; go on without if the server has none.
    TlsIfOffered(Result<TlsSetup, Failure>),
    /// Ask for encryption; fail if the server has none.
    TlsOrFail(Result<TlsSetup, Failure>),
}

/// What became known about an attempt, gathered where it happens and read where it is judged.
#[derive(Default)]
pub(super) struct Seen {
    /// The socket was connected: what fails now is no longer the network's doing.
    pub(super) connected: bool,
    /// The stream is encrypted.
    pub(super) tls: bool,
    /// TLS was asked for and failed after the server had agreed.
    pub(super) tls_failed: bool,
    /// The server asked for our certificate in the handshake and got it.
    pub(super) identity_shown: bool,
    /// The server said something after the handshake, or without one.
    pub(super) heard: bool,
    /// The server let us in; errors after that are not about encryption.
    pub(super) authenticated: bool,
    /// The pid that came with the key for cancel requests.
    pub(super) backend: Option<i32>,
    /// What the server asked for, as libpq names it.
    pub(super) method: Option<String>,
    /// The failure, where this module found it.
    pub(super) failure: Option<Failure>,
}

/// Shared between the attempt's judge and its stream.
#[derive(Default)]
pub(super) struct Watch {
    seen: Mutex<Seen>,
    /// The session stands: deadlines and curiosity end.
    settled: AtomicBool,
}

impl Watch {
    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn settle(&self) {
        self.settled.store(true, Ordering::Release);
    }

    /// Records a failure and makes the error that stops the `postgres` crate.
    fn stop(&self, failure: Failure, kind: io::ErrorKind) -> io::Error {
        let error = io::Error::new(kind, failure.message.clone());
        self.seen().failure.get_or_insert(failure);
        error
    }

    fn timed_out(&self, when: &str) -> io::Error {
        self.stop(
            Failure::new(Cause::TimedOut, format!("no answer {when} within the connect timeout")),
            io::ErrorKind::TimedOut,
        )
    }
}

/// Opens sockets for the `postgres` crate.
#[derive(Clone)]
pub(super) struct Opener {
    pub(super) opening: Opening,
    /// The name for the server's eyes (SNI): the host, or its address where that is no DNS name.
    pub(super) server_name: String,
    pub(super) deadline: Option<Instant>,
    pub(super) watch: Arc<Watch>,
    /// At the end wait until the server has closed: for cancel requests, which it has handled by then.
    pub(super) await_close: bool,
}

impl Opener {
    /// The name to show the server, which rustls wants to be a DNS name or an address.
    pub(super) fn server_name(host: &str, address: &str) -> String {
        if ServerName::try_from(host).is_ok() { host.to_owned() } else { address.to_owned() }
    }

    async fn open(self, mut socket: Socket) -> Result<Stream, io::Error> {
        let (setup, optional) = match &self.opening {
            Opening::Plain => return Ok(self.watched(Inner::Plain(socket))),
            Opening::TlsIfOffered(setup) => (setup.clone(), true),
            Opening::TlsOrFail(setup) => (setup.clone(), false),
        };
        let answer = self.ask_for_tls(&mut socket).await?;
        match answer {
            b'S' => {}
            b'N' if optional => return Ok(self.watched(Inner::Plain(socket))),
            b'N' => {
                let failure = Failure::new(
                    Cause::TlsRefused,
                    "the server does not support TLS, and sslmode demands it",
                );
                return Err(self.watch.stop(failure, io::ErrorKind::Unsupported));
            }
            // What follows an E would be a message of a server that proved nothing; libpq drops it too.
            b'E' => {
                let failure = Failure::new(
                    Cause::ServerTrouble,
                    "the server answered the request for TLS with an error, as when it cannot start a process",
                );
                return Err(self.watch.stop(failure, io::ErrorKind::ConnectionAborted));
            }
            other => {
                return Err(self
                    .watch
                    .stop(not_postgres(other, "the request for TLS"), io::ErrorKind::InvalidData));
            }
        }
        // libpq opens the files only now, and treats trouble with them as a failed handshake.
        let setup = match setup {
            Ok(setup) => setup,
            Err(failure) => {
                self.watch.seen().tls_failed = true;
                return Err(self.watch.stop(failure, io::ErrorKind::InvalidInput));
            }
        };
        match self.handshake(socket, &setup).await {
            Ok(stream) => {
                let shown = setup.identity_shown.load(Ordering::Acquire);
                let mut seen = self.watch.seen();
                (seen.tls, seen.identity_shown) = (true, shown);
                drop(seen);
                Ok(self.watched(Inner::Tls(Box::new(stream))))
            }
            Err(error) => {
                self.watch.seen().tls_failed = true;
                Err(error)
            }
        }
    }

    async fn ask_for_tls(&self, socket: &mut Socket) -> Result<u8, io::Error> {
        let ask = async {
            socket.write_all(&SSL_REQUEST).await?;
            socket.flush().await?;
            // One byte and no more: whatever else lies in the buffer now came unencrypted (CVE-2021-23222)
            // and goes to the handshake, which it breaks.
            socket.read_u8().await
        };
        match self.in_time(ask).await {
            None => Err(self.watch.timed_out("to the request for TLS")),
            Some(Ok(answer)) => Ok(answer),
            Some(Err(error)) => Err(self.watch.stop(broken(&error, "on the request for TLS"), error.kind())),
        }
    }

    async fn handshake(&self, socket: Socket, setup: &TlsSetup) -> Result<Encrypted, io::Error> {
        let mut rustls = MakeRustlsConnect::new(setup.config.clone());
        let Ok(connect) = MakeTlsConnect::<Socket>::make_tls_connect(&mut rustls, &self.server_name);
        setup.identity_shown.store(false, Ordering::Release);
        match self.in_time(connect.connect(socket)).await {
            None => Err(self.watch.timed_out("in the TLS handshake")),
            Some(Ok(stream)) => Ok(stream),
            Some(Err(error)) => {
                let refusal = setup.refusal.lock().unwrap_or_else(PoisonError::into_inner).take();
                let failure = refusal.unwrap_or_else(|| {
                    let failure = tls_failure(&error);
                    // TLS 1.2: the alert is often lost to the reset that follows it.
                    let shown = setup.identity_shown.load(Ordering::Acquire);
                    if shown && failure.cause == Cause::ConnectionCut {
                        certificate_refused()
                    } else {
                        failure
                    }
                });
                Err(self.watch.stop(failure, error.kind()))
            }
        }
    }

    /// The work's result, or nothing at the deadline.
    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        match self.deadline {
            Some(deadline) => timeout_at(deadline.into(), work).await.ok(),
            None => Some(work.await),
        }
    }

    fn watched(self, inner: Inner) -> Stream {
        let limit = self.deadline.map(|deadline| Box::pin(sleep_until(deadline.into())));
        Stream {
            inner,
            frames: Frames::default(),
            guard: Some(Guard { watch: self.watch, limit, reader: Reader::default() }),
            await_close: self.await_close,
            shut: false,
        }
    }
}

impl MakeTlsConnect<Socket> for Opener {
    type Stream = Stream;
    type TlsConnect = Self;
    type Error = io::Error;

    /// Called when the socket is connected, in every mode: also on a socket file. For a cancel request it is
    /// called before that.
    fn make_tls_connect(&mut self, _host: &str) -> Result<Self, io::Error> {
        self.watch.seen().connected = !self.await_close;
        Ok(self.clone())
    }
}

impl TlsConnect<Socket> for Opener {
    type Stream = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, io::Error>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        self.watch.seen().connected = true;
        Box::pin(self.open(socket))
    }
}

type Encrypted = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

enum Inner {
    Plain(Socket),
    Tls(Box<Encrypted>),
}

/// The stream that the `postgres` crate talks through.
pub(super) struct Stream {
    inner: Inner,
    frames: Frames,
    guard: Option<Guard>,
    await_close: bool,
    shut: bool,
}

/// Keeps the time and reads along until the session stands.
struct Guard {
    watch: Arc<Watch>,
    limit: Option<Pin<Box<Sleep>>>,
    reader: Reader,
}

impl Guard {
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        self.limit.as_mut().is_some_and(|limit| limit.as_mut().poll(cx).is_ready())
    }
}

impl Inner {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl Stream {
    /// The server's messages; nothing at their end.
    fn poll_messages(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.frames.is_empty() {
            let mut room = ReadBuf::new(self.frames.room());
            ready!(self.inner.poll_read(cx, &mut room))?;
            let count = room.filled().len();
            self.frames.filled(count);
        }
        self.frames.give(buf);
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.guard.as_ref().is_some_and(|guard| guard.watch.settled.load(Ordering::Acquire)) {
            this.guard = None;
        }
        let before = buf.filled().len();
        let Some(guard) = &mut this.guard else {
            return this.poll_messages(cx, buf);
        };
        if guard.is_late(cx) {
            return Poll::Ready(Err(guard.watch.timed_out("to the log-in")));
        }
        ready!(this.poll_messages(cx, buf))?;
        let new = buf.filled().get(before..).unwrap_or_default();
        let at_end = new.is_empty() && buf.remaining() > 0;
        if let Some(guard) = &mut this.guard {
            if at_end {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            guard.watch.seen().heard = true;
            guard.reader.read(new, &guard.watch)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.inner {
            Inner::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Inner::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Inner::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Inner::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.shut {
            let shut = match &mut this.inner {
                Inner::Plain(socket) => ready!(Pin::new(socket).poll_shutdown(cx)),
                Inner::Tls(stream) => ready!(Pin::new(stream).poll_shutdown(cx)),
            };
            this.shut = true;
            if !this.await_close {
                return Poll::Ready(shut);
            }
        }
        // A cancel request is on its way. The server answers by closing, once it has passed it on; it may
        // have done so before our side was shut, so errors here mean success too.
        while this.await_close {
            if this.guard.as_mut().is_some_and(|guard| guard.is_late(cx)) {
                break;
            }
            let mut scrap = [0; 256];
            let mut scrap = ReadBuf::new(&mut scrap);
            match ready!(this.inner.poll_read(cx, &mut scrap)) {
                Ok(()) if !scrap.filled().is_empty() => {}
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl TlsStream for Stream {
    fn channel_binding(&self) -> ChannelBinding {
        match &self.inner {
            Inner::Plain(_) => ChannelBinding::none(),
            Inner::Tls(stream) => stream.channel_binding(),
        }
    }
}

/// Reads the server's first messages along, up to the key for cancel requests.
#[derive(Default)]
struct Reader {
    buffer: Vec<u8>,
    authenticated: bool,
    finished: bool,
}

impl Reader {
    fn read(&mut self, bytes: &[u8], watch: &Watch) -> io::Result<()> {
        if self.finished {
            return Ok(());
        }
        self.buffer.extend_from_slice(bytes);
        if !self.authenticated {
            self.read_requests(watch)?;
        }
        if self.authenticated {
            self.read_key(watch);
        }
        if self.finished {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    fn read_requests(&mut self, watch: &Watch) -> io::Result<()> {
        while let Some((&kind, rest)) = self.buffer.split_first() {
            if kind != b'R' && kind != b'E' {
                self.finished = true;
                return Err(watch.stop(not_postgres(kind, "the log-in"), io::ErrorKind::InvalidData));
            }
            let Some(length) = rest.first_chunk::<4>() else {
                break;
            };
            let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
            let longest = if kind == b'R' { LONGEST_REQUEST } else { LONGEST_ERROR };
            if !(8..=longest).contains(&length) {
                self.finished = true;
                return Err(watch.stop(not_postgres(kind, "the log-in"), io::ErrorKind::InvalidData));
            }
            if rest.len() < length {
                break;
            }
            let body = rest.get(4..length).unwrap_or_default();
            self.finished = kind == b'E';
            self.authenticated = !self.finished && note_request(body, watch)?;
            self.buffer.drain(..=length);
            if self.finished || self.authenticated {
                break;
            }
        }
        Ok(())
    }

    /// What follows is the `postgres` crate's to judge; a server need not send a key.
    fn read_key(&mut self, watch: &Watch) {
        while let Some((&kind, rest)) = self.buffer.split_first() {
            let Some(length) = rest.first_chunk::<4>() else {
                break;
            };
            let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
            // Parameters and notices come before it.
            self.finished = !matches!(kind, b'S' | b'N' | b'K') || !(4..=LONGEST_ERROR).contains(&length);
            if self.finished || rest.len() < length {
                break;
            }
            if kind == b'K' {
                let pid = rest.get(4..length).and_then(|body| body.first_chunk::<4>());
                watch.seen().backend = pid.map(|pid| i32::from_be_bytes(*pid));
                self.finished = true;
                break;
            }
            self.buffer.drain(..=length);
        }
    }
}

/// Notes what an authentication request asks for; true once the server is satisfied.
///
/// # Errors
/// A method that the `postgres` crate does not have: it would not name it.
fn note_request(body: &[u8], watch: &Watch) -> io::Result<bool> {
    let Some((code, rest)) = body.split_first_chunk::<4>() else {
        return Ok(false);
    };
    let (method, supported) = match u32::from_be_bytes(*code) {
        0 => {
            watch.seen().authenticated = true;
            return Ok(true);
        }
        // The later steps of what was asked for before.
        8 | 11 | 12 => return Ok(false),
        2 => ("Kerberos V5".to_owned(), false),
        3 => ("password (in clear)".to_owned(), true),
        5 => ("md5".to_owned(), true),
        6 => ("SCM credentials".to_owned(), false),
        7 => ("GSSAPI".to_owned(), false),
        9 => ("SSPI".to_owned(), false),
        10 => {
            let names = rest.split(|&b| b == 0).filter(|name| !name.is_empty());
            let names: Vec<_> = names.map(|name| String::from_utf8_lossy(name).into_owned()).collect();
            let supported = names.iter().any(|name| name == "SCRAM-SHA-256" || name == "SCRAM-SHA-256-PLUS");
            (format!("SASL ({})", names.join(", ")), supported)
        }
        other => (format!("method number {other}"), false),
    };
    if !supported {
        let message = format!("the server wants authentication by {method}, which the tools do not have");
        return Err(
            watch.stop(Failure::new(Cause::AuthenticationUnsupported, message), io::ErrorKind::Unsupported)
        );
    }
    watch.seen().method = Some(method);
    Ok(false)
}

fn not_postgres(byte: u8, what: &str) -> Failure {
    let shown = if byte.is_ascii_graphic() {
        format!("{:?}", char::from(byte))
    } else {
        format!("byte 0x{byte:02x}")
    };
    Failure::new(
        Cause::NotPostgres,
        format!("the answer to {what} is not PostgreSQL's (it begins with {shown})"),
    )
}

/// A conversation that broke off.
pub(super) fn broken(error: &io::Error, when: &str) -> Failure {
    if is_cut(error) {
        Failure::new(Cause::ConnectionCut, format!("the server closed the connection {when}"))
    } else {
        Failure::new(Cause::Network, format!("the connection failed {when}: {error}"))
    }
}

/// A connection that was cut right after the server had seen our certificate.
pub(super) fn certificate_refused() -> Failure {
    Failure::new(
        Cause::ClientCertificateRefused,
        "the server closed the connection when it had seen the client certificate",
    )
}

/// A failed handshake, or a TLS alert later on.
pub(super) fn tls_failure(error: &io::Error) -> Failure {
    use rustls::AlertDescription as Alert;
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return broken(error, "in the TLS handshake");
    };
    let cause = match tls {
        rustls::Error::AlertReceived(
            Alert::CertificateRequired
            | Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::AccessDenied
            | Alert::DecryptError,
        ) => Cause::ClientCertificateRefused,
        rustls::Error::InvalidCertificate(_) => Cause::CertificateUnusable,
        rustls::Error::InvalidMessage(_) => Cause::NotPostgres,
        _ => Cause::TlsFailed,
    };
    Failure::new(cause, format!("the TLS handshake failed: {tls}"))
}

/// Whether an error on a standing stream is TLS's.
pub(super) fn is_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}

#[cfg(test)]
mod tests {
    use super::{Reader, Watch};

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap_or(0).to_be_bytes();
        [&[kind], length.as_slice(), body].concat()
    }

    /// What is known when `messages` came in pieces of `size` bytes: whether we are in, and the backend.
    fn read(messages: &[Vec<u8>], size: usize) -> (bool, Option<i32>) {
        let (mut reader, watch) = (Reader::default(), Watch::default());
        for piece in messages.concat().chunks(size) {
            assert!(reader.read(piece, &watch).is_ok());
        }
        let seen = watch.seen();
        (seen.authenticated, seen.backend)
    }

    #[test]
    fn the_backend_is_read_along_in_pieces_of_any_size() {
        let password = message(b'R', &[0, 0, 0, 3]);
        let in_ = message(b'R', &[0, 0, 0, 0]);
        let parameter = message(b'S', b"server_version\x0017.11\0");
        let notice = message(b'N', b"SNOTICE\0\0");
        let key = message(b'K', &[0, 0, 0x63, 0xba, 1, 2, 3, 4]);
        let short_key = message(b'K', &[0, 0]);
        let ready = message(b'Z', b"I");
        let error = message(b'E', b"SFATAL\0\0");
        let full = [&password, &in_, &parameter, &notice, &key, &ready].map(Clone::clone);
        for size in [1, 2, 3, 5, 7, 1000] {
            assert_eq!(read(&full, size), (true, Some(25530)), "{size}");
            assert_eq!(read(&[in_.clone(), ready.clone(), key.clone()], size), (true, None));
            assert_eq!(read(&[in_.clone(), short_key.clone(), ready.clone()], size), (true, None));
            assert_eq!(read(&[in_.clone(), error.clone(), key.clone()], size), (true, None));
            assert_eq!(read(std::slice::from_ref(&error), size), (false, None));
        }
    }
}
