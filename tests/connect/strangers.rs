//! Things that listen on a port and are no PostgreSQL, or only half of one.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

pub(crate) const SSL_REQUEST: usize = 8;

/// What a stranger does, in order; then it closes the connection.
#[derive(Clone)]
pub(crate) enum Step {
    /// Read exactly so many bytes.
    Read(usize),
    /// Read whatever comes first.
    ReadSome,
    Write(Vec<u8>),
    /// Say nothing until the other side goes.
    Silence,
}

pub(crate) struct Stranger {
    pub(crate) port: u16,
}

impl Stranger {
    pub(crate) fn start(steps: Vec<Step>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let steps = steps.clone();
                thread::spawn(move || act(stream, steps));
            }
        });
        Self { port }
    }
}

fn act(mut stream: TcpStream, steps: Vec<Step>) {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    for step in steps {
        let done = match step {
            Step::Read(count) => stream.read_exact(&mut vec![0; count]).is_ok(),
            Step::ReadSome => stream.read(&mut [0; 4096]).is_ok_and(|n| n > 0),
            Step::Write(bytes) => stream.write_all(&bytes).is_ok(),
            Step::Silence => {
                while stream.read(&mut [0; 4096]).is_ok_and(|n| n > 0) {}
                false
            }
        };
        if !done {
            return;
        }
    }
    // Take in what is on its way, so that closing does not reset the connection.
    let _ = stream.shutdown(std::net::Shutdown::Write);
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    while stream.read(&mut [0; 4096]).is_ok_and(|n| n > 0) {}
}

/// A TLS server that offers SCRAM with and without channel binding, and tells what the client answers.
pub(crate) fn tls_scram(cert: &str, key: &str) -> (u16, Receiver<String>) {
    let certs = CertificateDer::pem_slice_iter(cert.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certs, key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (send, receive) = channel();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; SSL_REQUEST]).unwrap();
        stream.write_all(b"S").unwrap();
        let mut tls = StreamOwned::new(ServerConnection::new(Arc::new(config)).unwrap(), stream);
        let mut length = [0; 4];
        tls.read_exact(&mut length).unwrap();
        let rest = usize::try_from(u32::from_be_bytes(length)).unwrap() - 4;
        tls.read_exact(&mut vec![0; rest]).unwrap();
        let mut body = vec![0, 0, 0, 10];
        body.extend_from_slice(b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0");
        let mut message = vec![b'R'];
        message.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        message.extend_from_slice(&body);
        tls.write_all(&message).unwrap();
        tls.flush().unwrap();
        let mut header = [0; 5];
        tls.read_exact(&mut header).unwrap();
        let rest =
            usize::try_from(u32::from_be_bytes([header[1], header[2], header[3], header[4]])).unwrap() - 4;
        let mut answer = vec![0; rest];
        tls.read_exact(&mut answer).unwrap();
        send.send(String::from_utf8_lossy(&answer).into_owned()).unwrap();
    });
    (port, receive)
}
