//! The host's name and the server's port, each within a time limit.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use ms5_common::check::{Finding, Report};
use ms5_common::config::Settings;
use ms5_common::exit::Exit;
use ms5_common::troubleshooting;

use super::{NAME, PORT};

/// What was found before anything is logged: the connection is looked at before the first record is written.
pub(crate) struct Network {
    name: Finding,
    port: Finding,
    /// Whether it is worth logging in.
    pub(crate) open: bool,
}

impl Network {
    /// Looks.
    pub(crate) fn look(settings: &Settings, limit: Duration) -> Self {
        let connection = &settings.connection;
        let (host, port) = (connection.host.as_str(), connection.port);
        if connection.is_socket() {
            let why = || Finding::skipped("the server is reached by a socket file");
            return Self { name: why(), port: why(), open: true };
        }
        let troubles = |finding: Finding| {
            finding.ends_with(Exit::Unreachable).remedies(troubleshooting::connection_failed(settings))
        };
        let addresses = match resolve(host, port, limit) {
            Ok(addresses) => addresses,
            Err(why) => {
                return Self {
                    name: troubles(
                        Finding::fail(format!("The name {host} has no address"))
                            .because(why)
                            .remedy("check DB_HOST and this machine's name service"),
                    ),
                    port: Finding::skipped("the host has no address"),
                    open: false,
                };
            }
        };
        let shown: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
        let name = Finding::pass(format!("The name {host} is {}", shown.join(", ")));
        let began = Instant::now();
        let mut refusals = Vec::new();
        for address in addresses {
            match TcpStream::connect_timeout(&address, limit) {
                Ok(_) => {
                    let line = format!("Port {port} of {host} answers ({} ms)", began.elapsed().as_millis());
                    return Self { name, port: Finding::pass(line), open: true };
                }
                Err(error) => refusals.push(format!("{address}: {error}")),
            }
        }
        let closed = Finding::fail(format!("Port {port} of {host} does not answer"))
            .because_all(refusals)
            .remedy("check DB_PORT, that the server runs, and the firewalls on the way");
        Self { name, port: troubles(closed), open: false }
    }

    /// Reports what was found.
    pub(crate) fn report(self, report: &mut Report<'_>) {
        report.add(&NAME, self.name);
        report.add(&PORT, self.port);
    }
}

/// The resolver knows no time limit, so a thread waits for it.
fn resolve(host: &str, port: u16, limit: Duration) -> Result<Vec<SocketAddr>, String> {
    let (sender, receiver) = mpsc::channel();
    let name = host.to_owned();
    thread::spawn(move || {
        let found = (name.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
        let _ = sender.send(found);
    });
    match receiver.recv_timeout(limit) {
        Ok(Ok(addresses)) if !addresses.is_empty() => Ok(addresses),
        Ok(Ok(_)) => Err("the resolver gave none".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", limit.as_secs())),
    }
}
