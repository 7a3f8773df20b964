//! `connect` against real servers, beside the real psql, and against things that are no servers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "connect/peer.rs"]
mod peer;
#[path = "connect/pki.rs"]
mod pki;
#[path = "connect/server.rs"]
mod server;
#[path = "connect/strangers.rs"]
mod strangers;

use std::os::unix::fs::chown;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use ms5_common::db::connect::{Cause, ConnectError, Kind, PasswordSource, Secret, SslMode, connect};

use peer::{Case, Outcome, Table, eventually};
use pki::{Authority, Pair};
use server::{Options, Server, free_port};

const PASSWORD: &str = r"s3cret: ü\x";
const MODES: [SslMode; 6] = SslMode::ALL;

macro_rules! fixture {
    ($name:literal) => {
        include_str!(concat!("connect/fixtures/", $name))
    };
}

fn lines(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|&line| line.to_owned()).collect()
}

fn roles(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| format!("CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")).collect()
}

fn refused(case: &Case) -> ConnectError {
    match case.connect() {
        Ok(session) => panic!("a session came about: {session:?} for {case:?}"),
        Err(error) => error,
    }
}

/// Asserts the whole verdict on a failure.
fn fails(case: &Case, cause: Cause, kind: Kind, sqlstate: Option<&str>, next: &str) -> ConnectError {
    let error = refused(case);
    let text = format!("{error}\nnext: {}", error.next_step());
    assert_eq!((error.cause(), error.kind(), error.sqlstate()), (cause, kind, sqlstate), "{text}");
    assert!(error.next_step().contains(next), "{next:?} is not in: {text}");
    let user = &case.vars["PGUSER"];
    assert!(error.to_string().contains(&format!("cannot connect to {user}@")), "{text}");
    println!("{text}\n");
    error
}

#[test]
fn modes_and_pg_hba() {
    let ca = Authority::new("plant root");
    let other = Authority::new("other root");
    let hba = lines(&[
        "host all u_any all scram-sha-256",
        "hostssl all u_ssl all scram-sha-256",
        "hostnossl all u_plain all scram-sha-256",
        "host all u_reject all reject",
        "host all u_trust all trust",
        "host all u_md5 all md5",
        "host all u_clear all password",
    ]);
    let users = ["u_any", "u_ssl", "u_plain", "u_reject", "u_trust", "u_md5", "u_clear", "u_nowhere"];
    let mut sql = roles(&users);
    sql.push(format!("SET password_encryption = 'md5'; ALTER ROLE u_md5 PASSWORD '{PASSWORD}'"));
    let with = Server::start(&Options {
        hba: hba.clone(),
        sql: sql.clone(),
        tls: ca.server(&["localhost", "127.0.0.1"]).for_server(),
        ..Options::default()
    });
    let without = Server::start(&Options { hba, sql, ..Options::default() });
    let mut table = Table::default();
    for (server, name) in [(&with, "tls on"), (&without, "tls off")] {
        for user in users.into_iter().chain(["u_missing"]) {
            for mode in MODES {
                for (root, pem) in
                    [("no root", None), ("right root", Some(&ca.pem)), ("other root", Some(&other.pem))]
                {
                    if pem.is_some() && !["u_any", "u_ssl", "u_plain"].contains(&user) {
                        continue;
                    }
                    for password in [Some(PASSWORD), Some("wrong"), None] {
                        if password != Some(PASSWORD) && pem.is_some() {
                            continue;
                        }
                        let mut case = Case::new("localhost", server.port, user).set("PGSSLMODE", mode);
                        if let Some(password) = password {
                            case = case.set("PGPASSWORD", password);
                        }
                        if let Some(pem) = pem {
                            case = case.with(".postgresql/root.crt", pem, 0o644);
                        }
                        let shown = match password {
                            Some(PASSWORD) => "password",
                            Some(_) => "wrong password",
                            None => "no password",
                        };
                        table.row(format!("{name}, {user}, sslmode={mode}, {root}, {shown}"), case);
                    }
                }
            }
        }
    }
    // What the documentation promises, so that the table cannot be all wrong in the same way.
    let any = |server: &Server, mode: SslMode| {
        Case::new("127.0.0.1", server.port, "u_any").set("PGPASSWORD", PASSWORD).set("PGSSLMODE", mode)
    };
    table.expect("by hand: disable", any(&with, SslMode::Disable), Outcome::Plain);
    table.expect("by hand: allow", any(&with, SslMode::Allow), Outcome::Plain);
    table.expect("by hand: prefer", any(&with, SslMode::Prefer), Outcome::Tls);
    table.expect("by hand: require", any(&with, SslMode::Require), Outcome::Tls);
    table.expect("by hand: verify-ca without root", any(&with, SslMode::VerifyCa), Outcome::Failed);
    let trusting = |mode| any(&with, mode).with(".postgresql/root.crt", &ca.pem, 0o644);
    table.expect("by hand: verify-ca", trusting(SslMode::VerifyCa), Outcome::Tls);
    table.expect("by hand: verify-full", trusting(SslMode::VerifyFull), Outcome::Tls);
    table.expect("empty PGSSLROOTCERT", trusting(SslMode::VerifyFull).set("PGSSLROOTCERT", ""), Outcome::Tls);
    table.expect(
        "empty PGSSLCERT and PGSSLKEY",
        any(&with, SslMode::Require).set("PGSSLCERT", "").set("PGSSLKEY", ""),
        Outcome::Tls,
    );
    table.expect(
        "empty PGOPTIONS and PGAPPNAME",
        any(&with, SslMode::Require).set("PGOPTIONS", "").set("PGAPPNAME", ""),
        Outcome::Tls,
    );
    table.expect("by hand: no tls, prefer", any(&without, SslMode::Prefer), Outcome::Plain);
    table.expect("by hand: no tls, require", any(&without, SslMode::Require), Outcome::Failed);
    table.run("modes and pg_hba");
}

#[test]
fn server_certificates() {
    let ca = Authority::new("plant root");
    let other = Authority::new("other root");
    let old = Authority::expired("old root");
    let below = ca.below("plant issuing");
    let leaf = below.server(&["localhost", "127.0.0.1"]);
    let own = |cert: &'static str, key: &'static str| Pair { cert: cert.to_owned(), key: key.to_owned() };
    let chain = Pair { cert: format!("{}{}", leaf.cert, below.pem), key: leaf.key.clone() };
    let self_signed = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let self_signed = Pair { cert: self_signed.cert.pem(), key: self_signed.signing_key.serialize_pem() };
    let docs_self = own(fixture!("docs-selfsigned.crt"), fixture!("docs-selfsigned.key"));
    let both = format!("{}{}", ca.pem, below.pem);
    let roots: [(&str, &str); 14] = [
        ("plant root", &ca.pem),
        ("other root", &other.pem),
        ("old root", &old.pem),
        ("issuing only", &below.pem),
        ("plant and issuing", &both),
        ("two roots", &format!("{}{}", other.pem, ca.pem)),
        ("the server's own certificate", &self_signed.cert),
        ("the documentation's self-signed", &docs_self.cert),
        ("the documentation's root", fixture!("docs-root.crt")),
        ("the documentation's root, version 1", fixture!("docs-root-v1.crt")),
        ("the pss certificate", fixture!("rsa-signed-pss.crt")),
        ("empty", ""),
        ("no certificate", "hello\n"),
        ("broken", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
    ];
    let common = ["plant root", "other root"];
    let ca_leaf = ca.issue(&["localhost"], "x", |params| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    });
    let docs = || own(fixture!("docs-server.crt"), fixture!("docs-server.key"));
    let pss = own(fixture!("rsa-signed-pss.crt"), fixture!("rsa-signed-pss.key"));
    let docs_roots = vec!["the documentation's root", "the documentation's root, version 1", "plant root"];
    let servers: Vec<(&str, Pair, Vec<&str>)> = vec![
        (
            "right names",
            ca.server(&["localhost", "127.0.0.1"]),
            common.into_iter().chain(["two roots", "empty", "no certificate", "broken"]).collect(),
        ),
        ("name only", ca.server(&["localhost"]), common.to_vec()),
        ("address only", ca.issue(&["127.0.0.1"], "", |_| {}), common.to_vec()),
        ("wrong name", ca.server(&["db.plant.example"]), common.to_vec()),
        (
            "wrong name, right common name",
            ca.issue(&["db.plant.example"], "localhost", |_| {}),
            common.to_vec(),
        ),
        (
            "wrong name, address as common name",
            ca.issue(&["db.plant.example"], "127.0.0.1", |_| {}),
            common.to_vec(),
        ),
        ("wrong address, name as common name", ca.issue(&["10.9.8.7"], "localhost", |_| {}), common.to_vec()),
        ("address as a dns name", ca.issue(&[], "x", pki::dns_name("127.0.0.1")), common.to_vec()),
        ("common name only", ca.issue(&[], "localhost", |_| {}), common.to_vec()),
        ("common name only, capitals", ca.issue(&[], "LocalHost", |_| {}), common.to_vec()),
        ("address as common name only", ca.issue(&[], "127.0.0.1", |_| {}), common.to_vec()),
        ("no name", ca.issue(&[], "", |_| {}), common.to_vec()),
        ("expired", ca.issue(&["localhost", "127.0.0.1"], "x", pki::expired), common.to_vec()),
        ("not yet valid", ca.issue(&["localhost", "127.0.0.1"], "x", pki::not_yet), common.to_vec()),
        (
            "for clients only",
            ca.issue(&["localhost", "127.0.0.1"], "x", pki::for_clients_only),
            common.to_vec(),
        ),
        ("expired root", old.server(&["localhost", "127.0.0.1"]), vec!["old root", "plant root"]),
        ("chain", chain, vec!["plant root", "issuing only", "plant and issuing", "other root"]),
        ("chain, leaf alone", leaf, vec!["plant root", "issuing only", "plant and issuing", "other root"]),
        (
            "p-384",
            ca.issue_with(&rcgen::PKCS_ECDSA_P384_SHA384, &["localhost"], "x", |_| {}),
            common.to_vec(),
        ),
        ("self-signed", self_signed.clone(), vec!["the server's own certificate", "plant root"]),
        ("an authority as server", ca_leaf, common.to_vec()),
        (
            "documentation, self-signed",
            docs_self.clone(),
            vec!["the documentation's self-signed", "plant root"],
        ),
        ("documentation, version 1", docs(), docs_roots.clone()),
        ("rsa-pss signature", pss.clone(), vec!["the pss certificate", "plant root"]),
        ("right names, tls 1.2", ca.server(&["localhost", "127.0.0.1"]), common.to_vec()),
        (
            "p-384, tls 1.2",
            ca.issue_with(&rcgen::PKCS_ECDSA_P384_SHA384, &["localhost"], "x", |_| {}),
            common.to_vec(),
        ),
        ("documentation, version 1, tls 1.2", docs(), docs_roots),
        (
            "documentation, self-signed, tls 1.2",
            docs_self.clone(),
            vec!["the documentation's self-signed", "plant root"],
        ),
        ("rsa-pss signature, tls 1.2", pss.clone(), vec!["the pss certificate", "plant root"]),
        ("right names, tls 1.1", ca.server(&["localhost"]), common.to_vec()),
        ("address, version 6", ca.server(&["::1"]), common.to_vec()),
        ("address, version 6, as common name", ca.issue(&[], "::1", |_| {}), common.to_vec()),
    ];
    let mut checked = 0;
    for (name, pair, trusted) in servers {
        let conf = match name.rsplit_once("tls 1.") {
            Some((_, "1")) => {
                vec!["ssl_min_protocol_version = 'TLSv1'", "ssl_max_protocol_version = 'TLSv1.1'"]
            }
            Some((_, "2")) => vec!["ssl_max_protocol_version = 'TLSv1.2'"],
            _ => vec![],
        };
        let hosts = if name.starts_with("address, version 6") {
            ["::1", "localhost"]
        } else {
            ["localhost", "127.0.0.1"]
        };
        let server = Server::start(&Options {
            // With passwords only where channel binding has to cope with an odd signature: they take time.
            hba: lines(&[if name.starts_with("rsa-pss") {
                "host all u_any all scram-sha-256"
            } else {
                "host all u_any all trust"
            }]),
            sql: roles(&["u_any"]),
            tls: pair.for_server(),
            conf: lines(&conf),
            ..Options::default()
        });
        let mut table = Table::default();
        for root in std::iter::once("none").chain(trusted) {
            for host in hosts {
                for mode in [
                    SslMode::Allow,
                    SslMode::Prefer,
                    SslMode::Require,
                    SslMode::VerifyCa,
                    SslMode::VerifyFull,
                ] {
                    let mut case = Case::new(host, server.port, "u_any")
                        .set("PGPASSWORD", PASSWORD)
                        .set("PGSSLMODE", mode);
                    if let Some((_, pem)) = roots.iter().find(|(name, _)| *name == root) {
                        case = case.with(".postgresql/root.crt", pem, 0o644);
                    }
                    table.row(format!("{name}, root file: {root}, host {host}, sslmode={mode}"), case);
                    checked += 1;
                }
            }
        }
        table.run(&format!("certificate {name}"));
    }
    assert!(checked > 900, "{checked} rows in all");

    // The right cause for the likeliest.
    let verdict = |pair: Pair, root: &Authority, mode: SslMode, cause: Cause, next: &str, words: &str| {
        let server = Server::start(&Options {
            hba: lines(&["host all u_any all scram-sha-256"]),
            sql: roles(&["u_any"]),
            tls: pair.for_server(),
            ..Options::default()
        });
        let case = Case::new("localhost", server.port, "u_any").set("PGSSLMODE", mode).with(
            ".postgresql/root.crt",
            &root.pem,
            0o644,
        );
        let error = fails(&case, cause, Kind::Credentials, None, next);
        assert!(error.to_string().contains(words), "{error}");
    };
    verdict(
        ca.server(&["localhost"]),
        &other,
        SslMode::Require,
        Cause::CertificateUntrusted,
        "root.crt",
        "plant root",
    );
    verdict(
        ca.server(&["db.plant.example"]),
        &ca,
        SslMode::VerifyFull,
        Cause::CertificateWrongName,
        "DB_HOST",
        "is for db.plant.example, not for localhost",
    );
    verdict(
        ca.issue(&["localhost"], "x", pki::expired),
        &ca,
        SslMode::VerifyCa,
        Cause::CertificateExpired,
        "renewed",
        "expired at 2002-01-01",
    );
    verdict(
        old.server(&["localhost"]),
        &old,
        SslMode::VerifyCa,
        Cause::CertificateExpired,
        "renewed",
        "old root",
    );
    verdict(
        ca.issue(&["localhost"], "x", pki::for_clients_only),
        &ca,
        SslMode::VerifyCa,
        Cause::CertificateUnusable,
        "",
        "",
    );
}

#[test]
fn revocation() {
    let ca = Authority::new("plant root");
    let other = Authority::new("other root");
    let below = ca.below("plant issuing");
    let leaf = below.issue(&["localhost"], "x", pki::serial(4711));
    let chain = Pair { cert: format!("{}{}", leaf.cert, below.pem), key: leaf.key };
    for (name, pair) in [("direct", ca.issue(&["localhost"], "x", pki::serial(4711))), ("chain", chain)] {
        let server = Server::start(&Options {
            hba: lines(&["hostssl all u_any all trust"]),
            sql: roles(&["u_any"]),
            tls: pair.for_server(),
            ..Options::default()
        });
        let case = |mode: SslMode| {
            Case::new("localhost", server.port, "u_any")
                .set("PGPASSWORD", PASSWORD)
                .set("PGSSLMODE", mode)
                .with(".postgresql/root.crt", &ca.pem, 0o644)
        };
        let mut table = Table::default();
        for mode in [SslMode::Require, SslMode::VerifyFull] {
            for (list, text) in [
                ("empty list", ca.crl(&[], true)),
                ("other certificate's", ca.crl(&[4712], true)),
                ("revoked", ca.crl(&[4711], true)),
                ("out of date", ca.crl(&[], false)),
                ("another authority's", other.crl(&[4711], true)),
                ("issuing's alone", below.crl(&[], true)),
                ("both", ca.crl(&[], true) + &below.crl(&[], true)),
                ("both, revoked", ca.crl(&[], true) + &below.crl(&[4711], true)),
                ("garbage", "hello".to_owned()),
            ] {
                let default = case(mode).with(".postgresql/root.crl", &text, 0o644);
                table.row(format!("{name}, {list}, sslmode={mode}, default file"), default);
                let named = case(mode);
                let path = named.file("my.crl", &text, 0o644);
                table.row(
                    format!("{name}, {list}, sslmode={mode}, PGSSLCRL"),
                    named.set("PGSSLCRL", path.display()),
                );
            }
            table.row(
                format!("{name}, sslmode={mode}, missing list"),
                case(mode).set("PGSSLCRL", "/nowhere/crl"),
            );
        }
        table.run(&format!("revocation {name}"));
    }
}

#[test]
fn client_certificates() {
    client_certificates_with("1.3");
}

#[test]
fn client_certificates_in_tls_1_2() {
    client_certificates_with("1.2");
}

fn client_certificates_with(version: &str) {
    let ca = Authority::new("plant root");
    let clients = Authority::new("client root");
    let other = Authority::new("other root");
    let hba = lines(&[
        "hostssl all u_cert all cert",
        "hostssl all u_both all scram-sha-256 clientcert=verify-full",
        "hostssl all u_ca all scram-sha-256 clientcert=verify-ca",
        "host all u_any all scram-sha-256",
    ]);
    let server = Server::start(&Options {
        hba,
        sql: roles(&["u_cert", "u_both", "u_ca", "u_any"]),
        tls: ca.server(&["localhost"]).for_server(),
        client_ca: Some(format!("{}{}", clients.pem, fixture!("docs-root.crt"))),
        conf: vec![format!("ssl_max_protocol_version = 'TLSv{version}'")],
        ..Options::default()
    });
    let good = clients.issue(&[], "u_cert", |_| {});
    let both = clients.issue(&[], "u_both", |_| {});
    let below = clients.below("client issuing");
    let long = below.issue(&[], "u_cert", |_| {});
    let long = Pair { cert: format!("{}{}", long.cert, below.pem), key: long.key };
    let foreign = other.issue(&[], "u_cert", |_| {});
    let old = clients.issue(&[], "u_cert", pki::expired);
    let docs =
        Pair { cert: fixture!("docs-client.crt").to_owned(), key: fixture!("docs-client.key").to_owned() };
    let encrypted = Pair { key: fixture!("docs-client-encrypted.key").to_owned(), ..docs.clone() };
    let mixed = Pair { cert: good.cert.clone(), key: both.key.clone() };
    let broken_cert = Pair { cert: "hello".to_owned(), key: good.key.clone() };
    let broken_key = Pair { cert: good.cert.clone(), key: "hello".to_owned() };
    let case = |user: &str, mode: SslMode| {
        Case::new("localhost", server.port, user).set("PGPASSWORD", PASSWORD).set("PGSSLMODE", mode)
    };
    let with = |case: Case, pair: &Pair, mode: u32| {
        case.with(".postgresql/postgresql.crt", &pair.cert, 0o644).with(
            ".postgresql/postgresql.key",
            &pair.key,
            mode,
        )
    };
    let mut table = Table::default();
    let modes: &[SslMode] = match version {
        "1.2" => &[SslMode::Prefer, SslMode::Require],
        _ => &[SslMode::Disable, SslMode::Allow, SslMode::Prefer, SslMode::Require],
    };
    for &mode in modes {
        for user in ["u_cert", "u_both", "u_ca", "u_any"] {
            let row = |what: &str| format!("{user}, sslmode={mode}, {what}");
            let case = || case(user, mode);
            table.row(row("no certificate"), case());
            table.row(row("good"), with(case(), &good, 0o600));
            table.row(row("good, mode 0400"), with(case(), &good, 0o400));
            table.row(row("other common name"), with(case(), &both, 0o600));
            table.row(row("with a chain"), with(case(), &long, 0o600));
            table.row(row("foreign authority"), with(case(), &foreign, 0o600));
            table.row(row("expired"), with(case(), &old, 0o600));
            table.row(row("documentation, version 1"), with(case(), &docs, 0o600));
            table.row(row("encrypted key"), with(case(), &encrypted, 0o600));
            table.row(row("key of another"), with(case(), &mixed, 0o600));
            table.row(row("broken certificate"), with(case(), &broken_cert, 0o600));
            table.row(row("broken key"), with(case(), &broken_key, 0o600));
            table.row(row("key open to all"), with(case(), &good, 0o644));
            table.row(row("key open to group"), with(case(), &good, 0o640));
            table.row(row("key writable by group"), with(case(), &good, 0o620));
            let foreign_owner = with(case(), &good, 0o640);
            if chown(foreign_owner.home.join(".postgresql/postgresql.key"), Some(4711), None).is_ok() {
                table.row(row("another's key open to group"), foreign_owner);
            }
            table.row(row("no key"), case().with(".postgresql/postgresql.crt", &good.cert, 0o644));
            let named = case();
            let cert = named.file("my.crt", &good.cert, 0o644);
            let key = named.file("my.key", &good.key, 0o600);
            let named = named.set("PGSSLCERT", cert.display());
            table.row(row("PGSSLCERT and PGSSLKEY"), named.clone().set("PGSSLKEY", key.display()));
            table.row(row("PGSSLCERT without key"), named.clone());
            table.row(row("PGSSLKEY is a folder"), named.clone().set("PGSSLKEY", named.home.display()));
            table.row(row("PGSSLCERT is missing"), case().set("PGSSLCERT", "/nowhere/crt"));
        }
    }
    table.run(&format!("client certificates, tls {version}"));

    let require = || case("u_cert", SslMode::Require);
    fails(&require(), Cause::Rejected, Kind::Credentials, Some("28000"), "PGSSLCERT");
    fails(
        &with(require(), &both, 0o600),
        Cause::Rejected,
        Kind::Credentials,
        Some("28000"),
        "common name u_cert",
    );
    fails(
        &with(require(), &foreign, 0o600),
        Cause::ClientCertificateRefused,
        Kind::Credentials,
        None,
        "ssl_ca_file",
    );
    fails(&with(require(), &good, 0o644), Cause::ClientKeyFile, Kind::Credentials, None, "chmod 06");
    fails(&with(require(), &mixed, 0o600), Cause::ClientKeyFile, Kind::Credentials, None, "PGSSLKEY");
    fails(&with(require(), &encrypted, 0o600), Cause::ClientKeyFile, Kind::Credentials, None, "openssl pkey");
    fails(
        &with(require(), &broken_cert, 0o600),
        Cause::ClientCertificateFile,
        Kind::Credentials,
        None,
        "PGSSLCERT",
    );
    let missing = require().set("PGSSLCERT", "/nowhere/crt");
    let error = fails(&missing, Cause::Rejected, Kind::Credentials, Some("28000"), "");
    assert!(error.warnings.iter().any(|w| w.contains("/nowhere/crt")), "{:?}", error.warnings);
}

#[test]
fn password_file() {
    let server = Server::start(&Options {
        hba: lines(&["host all all all scram-sha-256", "local all all scram-sha-256"]),
        sql: vec![
            format!("CREATE ROLE u_any LOGIN PASSWORD '{PASSWORD}'"),
            format!(r#"CREATE ROLE "u:odd\" LOGIN PASSWORD '{PASSWORD}'"#),
        ],
        ..Options::default()
    });
    let port = server.port;
    let pw = r"s3cret\: ü\\x";
    let case = |host: &str| Case::new(host, port, "u_any");
    let mut table = Table::default();
    let folder = server.folder.display().to_string();
    for (host, text) in [
        ("localhost", format!("localhost:{port}:postgres:u_any:{pw}\n")),
        ("localhost", format!("localhost:{port}:postgres:u_any:{pw}")),
        ("localhost", format!("localhost:{port}:postgres:u_any:{pw}\r\n")),
        ("localhost", format!("localhost:{port}:postgres:u_any:{pw}:rest\n")),
        ("localhost", format!("localhost:{port}:postgres:u_any:{pw} \n")),
        ("localhost", format!("localhost:{port}:postgres:u_any:{PASSWORD}\n")),
        ("localhost", format!("*:*:*:*:{pw}\n")),
        ("localhost", format!("LOCALHOST:*:*:*:{pw}\n")),
        ("localhost", format!("127.0.0.1:*:*:*:{pw}\n")),
        ("127.0.0.1", format!("127.0.0.1:*:*:*:{pw}\n")),
        ("127.0.0.1", format!("localhost:*:*:*:{pw}\n")),
        ("::1", format!(r"\:\:1:*:*:*:{pw}")),
        ("::1", format!("::1:*:*:*:{pw}")),
        ("localhost", format!("# *:*:*:*:wrong\n#\n\n*:*:*:*:{pw}\n")),
        ("localhost", format!("#localhost:*:*:*:wrong\nlocalhost:*:*:*:{pw}\n")),
        ("localhost", format!(" localhost:*:*:*:wrong\nlocalhost:*:*:*:{pw}\n")),
        ("localhost", format!("*:*:*:*:wrong\nlocalhost:{port}:postgres:u_any:{pw}\n")),
        ("localhost", format!("localhost:{port}:postgres:u_any:{pw}\n*:*:*:*:wrong\n")),
        ("localhost", format!("localhost:*:*:*:\n*:*:*:*:{pw}\n")),
        ("localhost", format!("localhost:*:*\nlocalhost:*:*:*:{pw}\n")),
        (
            "localhost",
            format!(
                "localhost:{}:*:*:wrong\nlocalhost:*:other:*:wrong\nlocalhost:*:*:u_other:wrong\n*:*:*:*:{pw}",
                port - 1
            ),
        ),
        ("localhost", format!("local*:*:*:*:wrong\n**:*:*:*:wrong\n*:*:*:*:{pw}\n")),
        ("localhost", format!("localhost:*:post*:*:wrong\n*:*:*:*:{pw}\n")),
        ("localhost", format!("\\localhost:*:*:*:{pw}\n")),
        ("localhost", format!("\u{feff}localhost:*:*:*:{pw}\n")),
        ("localhost", "localhost:*:*:*:\\\n".to_owned()),
        ("localhost", String::new()),
        (&folder, format!("{folder}:*:*:*:{pw}\n")),
        (&folder, format!("localhost:*:*:*:{pw}\n")),
        (&folder, format!("*:*:*:*:{pw}\n")),
        (&format!("@{folder}"), format!("@{folder}:*:*:*:{pw}\n")),
        (&format!("@{folder}"), format!("localhost:*:*:*:{pw}\n")),
    ] {
        table.row(format!("{host}, {text:?}"), case(host).with(".pgpass", &text, 0o600));
    }
    let line = format!("*:*:*:*:{pw}\n");
    for mode in [0o600, 0o400, 0o700, 0o640, 0o604, 0o660, 0o644, 0o610] {
        table.row(format!("mode {mode:o}"), case("localhost").with(".pgpass", &line, mode));
    }
    let elsewhere = case("localhost");
    let path = elsewhere.file("elsewhere", &line, 0o600);
    table.expect("PGPASSFILE", elsewhere.clone().set("PGPASSFILE", path.display()), Outcome::Plain);
    table.expect(
        "empty PGPASSFILE",
        case("localhost").with(".pgpass", &line, 0o600).set("PGPASSFILE", ""),
        Outcome::Plain,
    );
    table.row(
        "PGPASSFILE missing",
        case("localhost").with(".pgpass", &line, 0o600).set("PGPASSFILE", "/nowhere"),
    );
    table.row("PGPASSFILE a folder", elsewhere.clone().set("PGPASSFILE", elsewhere.home.display()));
    table.row(
        "PGPASSWORD before the file",
        case("localhost").with(".pgpass", &line, 0o600).set("PGPASSWORD", "wrong"),
    );
    table.expect(
        "right PGPASSWORD",
        case("localhost").with(".pgpass", "*:*:*:*:wrong", 0o600).set("PGPASSWORD", PASSWORD),
        Outcome::Plain,
    );
    table.expect(
        "empty PGPASSWORD",
        case("localhost").with(".pgpass", &line, 0o600).set("PGPASSWORD", ""),
        Outcome::Plain,
    );
    let odd = |text: String| Case::new("localhost", port, r"u:odd\").with(".pgpass", text, 0o600);
    table.expect("escaped user", odd(format!(r"localhost:*:*:u\:odd\\:{pw}")), Outcome::Plain);
    table.row("unescaped user", odd(format!(r"localhost:*:*:u:odd\:{pw}")));
    let long = "x".repeat(10_000);
    table.row(
        "long lines",
        case("localhost").with(".pgpass", format!("{long}:*:*:*:no\n#{long}\n{line}"), 0o600),
    );
    table.row(
        "bytes that are no text",
        case("localhost").with(".pgpass", [b"\xff\xfe:*:*:*:no\n", line.as_bytes()].concat(), 0o600),
    );
    table.run("password file");

    // The default socket folder counts as localhost. No server need be there to see whether a password is found.
    let default = Case::new("/var/run/postgresql", port, "u_any").with(
        ".pgpass",
        format!("localhost:*:*:*:{pw}"),
        0o600,
    );
    let found = ms5_common::db::connect::find_password(&default.settings());
    assert_eq!(found.password, Some(Secret::new(PASSWORD)));

    // Warnings, sources and cures.
    let open = case("localhost").with(".pgpass", &line, 0o644);
    let error =
        fails(&open, Cause::PasswordMissing, Kind::Credentials, None, "POSTGRES_PASSWORD_TEST or PGPASSWORD");
    assert!(error.warnings.iter().any(|w| w.contains("chmod 0600")), "{:?}", error.warnings);
    let wrong = case("localhost").with(".pgpass", "*:*:*:*:wrong\n", 0o600);
    fails(&wrong, Cause::PasswordRefused, Kind::Credentials, Some("28P01"), ".pgpass");
    let right = case("localhost").with(".pgpass", &line, 0o600);
    let session = right.connect().unwrap();
    assert_eq!(session.password_source, PasswordSource::File(right.home.join(".pgpass")));
    assert!(session.warnings.is_empty());
}

#[test]
fn refusals() {
    let ca = Authority::new("plant root");
    let mut sql = roles(&[
        "u_any",
        "u_ssl",
        "u_plain",
        "u_reject",
        "u_nowhere",
        "u_gss",
        "u_limited",
        "u_poor",
        "u_ldap",
    ]);
    sql.extend(lines(&[
        "CREATE ROLE u_nologin PASSWORD 's3cret'",
        "ALTER ROLE u_limited CONNECTION LIMIT 0",
        "CREATE DATABASE closed ALLOW_CONNECTIONS false",
        "CREATE DATABASE private",
        "REVOKE CONNECT ON DATABASE private FROM PUBLIC",
        "CREATE ROLE u_bare LOGIN",
        "CREATE ROLE u_late LOGIN PASSWORD 's3cret' VALID UNTIL '2001-01-01'",
    ]));
    let server = Server::start(&Options {
        hba: lines(
            &[
                "host all u_any,u_limited,u_poor,u_missing,u_nologin,u_bare,u_late all scram-sha-256",
                "host all u_lost all trust",
                "hostssl all u_ssl all scram-sha-256",
                "hostnossl all u_plain all scram-sha-256",
                "host all u_reject all reject",
                "hostgssenc all u_gss all gss",
                "host all u_gss all gss",
                "host all u_sspi all gss",
                "local all u_peer peer",
            ]
            .map(|line| if line.starts_with("hostgssenc") { "" } else { line }),
        ),
        sql,
        tls: ca.server(&["localhost"]).for_server(),
        ..Options::default()
    });
    let case = |user: &str| Case::new("localhost", server.port, user).set("PGPASSWORD", PASSWORD);
    let without = |user: &str| Case::new("localhost", server.port, user);
    use Cause as C;
    use Kind::{Configuration, Credentials, Unreachable};
    fails(
        &without("u_any"),
        C::PasswordMissing,
        Credentials,
        None,
        "Set POSTGRES_PASSWORD_TEST or PGPASSWORD, or add this line to ",
    );
    fails(
        &case("u_any").set("PGPASSWORD", "wrong-s3cret"),
        C::PasswordRefused,
        Credentials,
        Some("28P01"),
        "POSTGRES_PASSWORD_TEST",
    );
    fails(&case("u_missing"), C::PasswordRefused, Credentials, Some("28P01"), "");
    fails(&case("u_bare"), C::PasswordRefused, Credentials, Some("28P01"), "ALTER ROLE u_bare PASSWORD");
    fails(&case("u_late").set("PGPASSWORD", "s3cret"), C::PasswordRefused, Credentials, Some("28P01"), "");
    fails(&case("u_lost"), C::Rejected, Credentials, Some("28000"), "role exists");
    fails(
        &case("u_nologin").set("PGPASSWORD", "s3cret"),
        C::Rejected,
        Credentials,
        Some("28000"),
        "may log in",
    );
    fails(
        &case("u_reject"),
        C::Rejected,
        Credentials,
        Some("28000"),
        "host postgres u_reject 127.0.0.1/32 scram-sha-256",
    );
    let error = fails(&case("u_nowhere"), C::Rejected, Credentials, Some("28000"), "pg_hba.conf");
    assert_eq!(error.others.len(), 1, "prefer tries both ways: {error}");
    fails(&case("u_ssl").set("PGSSLMODE", "disable"), C::Rejected, Credentials, Some("28000"), "");
    fails(
        &case("u_plain").set("PGSSLMODE", "require"),
        C::Rejected,
        Credentials,
        Some("28000"),
        "hostssl postgres u_plain",
    );
    // The plain attempt that follows must not hide the reason.
    fails(&case("u_ssl").set("PGPASSWORD", "wrong"), C::PasswordRefused, Credentials, Some("28P01"), "");
    fails(&case("u_gss"), C::AuthenticationUnsupported, Credentials, None, "scram-sha-256")
        .to_string()
        .contains("GSSAPI")
        .then_some(())
        .unwrap();
    fails(
        &case("u_any").set("PGDATABASE", "No Such"),
        C::DatabaseMissing,
        Configuration,
        Some("3D000"),
        "CREATE DATABASE \"No Such\"",
    );
    fails(
        &case("u_any").set("PGDATABASE", "closed"),
        C::DatabaseClosed,
        Configuration,
        Some("55000"),
        "ALLOW_CONNECTIONS",
    );
    fails(
        &case("u_poor").set("PGDATABASE", "private"),
        C::NoPrivilege,
        Credentials,
        Some("42501"),
        "GRANT CONNECT ON DATABASE private TO u_poor",
    );
    fails(&case("u_limited"), C::TooManyConnections, Unreachable, Some("53300"), "CONNECTION LIMIT");
    fails(
        &case("u_any").set("PGOPTIONS", "-c no_such=1"),
        C::BadSetting,
        Configuration,
        Some("42704"),
        "PGOPTIONS",
    );
    fails(
        &case("u_any").set("PGOPTIONS", "-c work_mem=much"),
        C::BadSetting,
        Configuration,
        Some("22023"),
        "PGOPTIONS",
    );
    fails(
        &case("u_any").set("PGOPTIONS", "--nonsense"),
        C::BadSetting,
        Configuration,
        Some("42601"),
        "PGOPTIONS",
    );
    fails(
        &case("u_any").set("PGSSLMODE", "verify-ca"),
        C::RootFile,
        Credentials,
        None,
        ".postgresql/root.crt",
    );
    fails(
        &case("u_any").set("PGSSLMODE", "verify-full").set("PGSSLROOTCERT", "/nowhere/ca"),
        C::RootFile,
        Credentials,
        None,
        "/nowhere/ca",
    );
    fails(
        &case("u_any").set("PGSSLROOTCERT", "system").set("PGSSLMODE", "require"),
        C::BadSetting,
        Configuration,
        None,
        "",
    );
    let dead = Case::new("localhost", free_port(), "u_any");
    let error = fails(&dead, C::Refused, Unreachable, None, "listens on localhost:");
    assert_eq!(error.kind().exit_code(), 4);
    fails(
        &Case::new("no-such-host.invalid", 5432, "u_any"),
        C::NameNotResolved,
        Unreachable,
        None,
        "getent hosts",
    );
    fails(&Case::new("a,b", 5432, "u_any"), C::BadSetting, Configuration, None, "");
    fails(&Case::new("", 5432, "u_any"), C::BadSetting, Configuration, None, "");
    fails(&Case::new("localhost", 0, "u_any"), C::BadSetting, Configuration, None, "");
    fails(&case("u_any").set("PGPASSWORD", "s3cret\0"), C::BadSetting, Configuration, None, "");
    fails(&case("u_any").set("PGAPPNAME", "a\0b"), C::BadSetting, Configuration, None, "");
    // Where there is no TLS but it is demanded.
    server.sql("ALTER SYSTEM SET ssl = off");
    server.sql("SELECT pg_reload_conf()");
    eventually("turning TLS off", || {
        refused(&case("u_any").set("PGSSLMODE", "verify-ca")).cause() == C::TlsRefused
    });
    fails(&case("u_any").set("PGSSLMODE", "require"), C::TlsRefused, Configuration, None, "ssl = on");
}

#[test]
fn system_roots() {
    let ca = Authority::new("plant root");
    let server = Server::start(&Options {
        hba: lines(&["host all all all trust"]),
        tls: ca.server(&["localhost"]).for_server(),
        ..Options::default()
    });
    let case = Case::new("localhost", server.port, "super").set("PGSSLROOTCERT", "system");
    let error = refused(&case);
    assert!(matches!(error.cause(), Cause::CertificateUntrusted | Cause::RootFile), "{error}");
    assert_eq!(error.target.sslmode, SslMode::VerifyFull);
}

#[test]
fn busy_and_absent_servers() {
    use Kind::Unreachable;
    let full = Server::start(&Options {
        hba: lines(&["host all u_any all trust"]),
        sql: roles(&["u_any"]),
        conf: lines(&[
            "max_connections = 2",
            "superuser_reserved_connections = 0",
            "max_worker_processes = 0",
        ]),
        ..Options::default()
    });
    let case = Case::new("localhost", full.port, "u_any");
    // The sessions of the set-up end a moment after their clients.
    let mut sessions = Vec::new();
    eventually("two sessions", || {
        sessions.extend(case.connect());
        sessions.len() == 2
    });
    fails(&case, Cause::TooManyConnections, Unreachable, Some("53300"), "max_connections");
    drop(sessions.pop());
    eventually("a free place", || case.connect().is_ok());

    // A smart shutdown waits for the session that is left, and lets nobody in.
    full.signal("TERM");
    eventually("the shutdown", || refused(&case).cause() == Cause::ServerNotReady);
    fails(&case, Cause::ServerNotReady, Unreachable, Some("57P03"), "try again");
    drop(sessions);
    eventually("the end", || refused(&case).cause() == Cause::Refused);

    let recovering = Server::start(&Options {
        hba: lines(&["host all all all trust"]),
        recovering: true,
        ..Options::default()
    });
    let case = Case::new("localhost", recovering.port, "super");
    let error = fails(&case, Cause::ServerNotReady, Unreachable, Some("57P03"), "Wait until");
    assert!(error.others.is_empty(), "no second try for a server that is not ready: {error}");

    // A server that is stopped accepts connections by its kernel and says nothing.
    let frozen = Server::start(&Options { hba: lines(&["host all all all trust"]), ..Options::default() });
    frozen.signal("STOP");
    for host in ["localhost", frozen.folder.to_str().unwrap()] {
        for mode in ["disable", "prefer"] {
            let case =
                Case::new(host, frozen.port, "super").set("PGCONNECT_TIMEOUT", 1).set("PGSSLMODE", mode);
            let begun = Instant::now();
            fails(&case, Cause::TimedOut, Unreachable, None, "PGCONNECT_TIMEOUT");
            let took = begun.elapsed();
            assert!((1900..15_000).contains(&took.as_millis()), "{host}: {took:?}");
        }
    }
    frozen.signal("CONT");
    assert!(Case::new("localhost", frozen.port, "super").connect().is_ok());
}

#[test]
fn sockets() {
    let server = Server::start(&Options {
        hba: lines(&[
            "local all u_any scram-sha-256",
            "local all u_trust trust",
            "local all u_reject reject",
            "local all u_peer peer",
        ]),
        sql: roles(&["u_any", "u_trust", "u_reject", "u_peer"]),
        tls: Authority::new("plant root").server(&["localhost"]).for_server(),
        ..Options::default()
    });
    let folder = server.folder.to_str().unwrap();
    let at = |host: &str, user: &str| Case::new(host, server.port, user).set("PGPASSWORD", PASSWORD);
    let mut table = Table::default();
    for mode in MODES {
        for user in ["u_any", "u_trust", "u_reject", "u_peer"] {
            table.row(format!("socket, {user}, sslmode={mode}"), at(folder, user).set("PGSSLMODE", mode));
        }
        table.expect(
            format!("abstract, {mode}"),
            at(&format!("@{folder}"), "u_any").set("PGSSLMODE", mode),
            Outcome::Plain,
        );
    }
    table.expect("with a timeout", at(folder, "u_any").set("PGCONNECT_TIMEOUT", 5), Outcome::Plain);
    table.expect("final slash", at(&format!("{folder}/"), "u_any"), Outcome::Plain);
    table.row("no folder", at("/nowhere", "u_any"));
    table.row("no abstract socket", at("@/nowhere", "u_any"));
    table.row("long path", at(&format!("/{}", "x".repeat(120)), "u_any"));
    table.run("sockets");

    fails(&at("/nowhere", "u_any"), Cause::SocketMissing, Kind::Unreachable, None, "unix_socket_directories");
    fails(&at("@/nowhere", "u_any"), Cause::Refused, Kind::Unreachable, None, "");
    fails(&at(&format!("/{}", "x".repeat(120)), "u_any"), Cause::BadSetting, Kind::Configuration, None, "");
    fails(
        &at(folder, "u_reject"),
        Cause::Rejected,
        Kind::Credentials,
        Some("28000"),
        "local postgres u_reject",
    );
    fails(&at(folder, "u_peer"), Cause::Rejected, Kind::Credentials, Some("28000"), "");
    let nobody = at(folder, "u_any").set("PGPASSWORD", "");
    fails(&nobody, Cause::PasswordMissing, Kind::Credentials, None, "POSTGRES_PASSWORD_TEST");
    // A socket file that nobody serves.
    let stale = server::fresh_folder("stale");
    drop(std::os::unix::net::UnixListener::bind(stale.join(".s.PGSQL.5432")).unwrap());
    let case = Case::new(stale.to_str().unwrap(), 5432, "u_any");
    fails(&case, Cause::Refused, Kind::Unreachable, None, "server runs");
}

#[test]
fn strangers_at_the_port() {
    use Cause as C;
    use Kind::{Configuration, Credentials, Unreachable};
    use strangers::{SSL_REQUEST, Step, Stranger};
    let silence = || vec![Step::Silence];
    let after = |answer: &[u8], then: Vec<Step>| {
        let mut steps = vec![Step::Read(SSL_REQUEST), Step::Write(answer.to_vec())];
        steps.extend(then);
        steps
    };
    let startup = || Step::ReadSome;
    let check = |name: &str, steps: Vec<Step>, mode: &str, cause: Cause, kind: Kind, parity: bool| {
        let stranger = Stranger::start(steps);
        let case =
            Case::new("127.0.0.1", stranger.port, "u_any").set("PGSSLMODE", mode).set("PGCONNECT_TIMEOUT", 2);
        let begun = Instant::now();
        let error = refused(&case);
        let took = begun.elapsed();
        println!("{name}: {error}\n   next: {}", error.next_step());
        assert_eq!((error.cause(), error.kind()), (cause, kind), "{name}: {error}");
        let limit = if cause == C::TimedOut { 1900..15_000 } else { 0..15_000 };
        assert!(limit.contains(&took.as_millis()), "{name}: {took:?}");
        if parity {
            assert_eq!(case.psqls().0, Outcome::Failed, "{name}");
        }
    };
    check("silence", silence(), "prefer", C::TimedOut, Unreachable, true);
    check("silence, plain", silence(), "disable", C::TimedOut, Unreachable, true);
    check("S, then silence", after(b"S", silence()), "require", C::TimedOut, Unreachable, true);
    check("N, then silence", after(b"N", silence()), "prefer", C::TimedOut, Unreachable, true);
    check(
        "S, then the end",
        after(b"S", vec![Step::ReadSome]),
        "require",
        C::ConnectionCut,
        Unreachable,
        true,
    );
    check(
        "S, then garbage",
        after(b"S", vec![Step::Write(b"HTTP/1.1 400 no\r\n\r\n".to_vec())]),
        "require",
        C::NotPostgres,
        Unreachable,
        true,
    );
    check(
        "S with stuffing",
        after(b"SE\0\0\0\x08abc\0", silence()),
        "require",
        C::NotPostgres,
        Unreachable,
        true,
    );
    check(
        "garbage for S",
        vec![Step::Write(b"HTTP/1.1 400 no\r\n\r\n".to_vec()), Step::Silence],
        "prefer",
        C::NotPostgres,
        Unreachable,
        true,
    );
    check(
        "garbage at once, plain",
        vec![Step::Write(b"SSH-2.0-OpenSSH_9\r\n".to_vec()), Step::Silence],
        "disable",
        C::NotPostgres,
        Unreachable,
        true,
    );
    check(
        "binary garbage",
        vec![Step::Write(vec![0, 1, 2, 3, 255]), Step::Silence],
        "disable",
        C::NotPostgres,
        Unreachable,
        true,
    );
    check(
        "R too long",
        vec![startup(), Step::Write(b"R\0\xff\0\0\0\0\0\x03".to_vec()), Step::Silence],
        "disable",
        C::NotPostgres,
        Unreachable,
        true,
    );
    check("the end at once", vec![], "prefer", C::ConnectionCut, Unreachable, true);
    check("the end at once, plain", vec![], "disable", C::ConnectionCut, Unreachable, true);
    check("the end after the log-in", vec![startup()], "disable", C::ConnectionCut, Unreachable, true);
    check(
        "half an answer",
        vec![startup(), Step::Write(b"R\0\0\0".to_vec())],
        "disable",
        C::ConnectionCut,
        Unreachable,
        true,
    );
    check(
        "E for S",
        after(b"Ecould not fork new process\n\0", vec![]),
        "prefer",
        C::ServerTrouble,
        Unreachable,
        true,
    );
    check("N, demanded", after(b"N", silence()), "require", C::TlsRefused, Configuration, true);
    check(
        "log-in, then silence",
        vec![startup(), Step::Write(b"R\0\0\0\x08\0\0\0\0".to_vec()), Step::Silence],
        "disable",
        C::TimedOut,
        Unreachable,
        true,
    );
    for (code, name) in [(2, "Kerberos V5"), (6, "SCM"), (7, "GSSAPI"), (9, "SSPI"), (13, "13")] {
        let request = vec![b'R', 0, 0, 0, 8, 0, 0, 0, code];
        let stranger = Stranger::start(vec![startup(), Step::Write(request), Step::Silence]);
        let case = Case::new("127.0.0.1", stranger.port, "u_any")
            .set("PGSSLMODE", "disable")
            .set("PGCONNECT_TIMEOUT", 20);
        let error = refused(&case);
        assert_eq!(error.cause(), C::AuthenticationUnsupported, "{name}: {error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    let mut request = b"R\0\0\0\x00\0\0\0\x0aOAUTHBEARER\0\0".to_vec();
    request[4] = u8::try_from(request.len() - 1).unwrap();
    let stranger = Stranger::start(vec![startup(), Step::Write(request), Step::Silence]);
    let case = Case::new("127.0.0.1", stranger.port, "u_any")
        .set("PGSSLMODE", "disable")
        .set("PGPASSWORD", PASSWORD);
    let error = fails(&case, C::AuthenticationUnsupported, Credentials, None, "scram");
    assert!(error.to_string().contains("OAUTHBEARER"), "{error}");

    // A socket that accepts and says nothing.
    let folder = server::fresh_folder("mute");
    let _mute = std::os::unix::net::UnixListener::bind(folder.join(".s.PGSQL.5432")).unwrap();
    let case = Case::new(folder.to_str().unwrap(), 5432, "u_any").set("PGCONNECT_TIMEOUT", 1);
    let begun = Instant::now();
    fails(&case, C::TimedOut, Unreachable, None, "alive");
    assert!((1900..15_000).contains(&begun.elapsed().as_millis()));
}

#[test]
fn scram_is_bound_to_the_channel() {
    let ca = Authority::new("plant root");
    let pair = ca.server(&["localhost"]);
    let port = strangers::tls_scram(&pair.cert, &pair.key);
    let case =
        Case::new("localhost", port.0, "u_any").set("PGPASSWORD", PASSWORD).set("PGSSLMODE", "require");
    let _ = refused(&case);
    let first = port.1.recv_timeout(Duration::from_secs(60)).unwrap();
    assert!(first.starts_with("SCRAM-SHA-256-PLUS\0"), "{first:?}");
    assert!(first.contains("p=tls-server-end-point,,"), "{first:?}");
}

#[test]
fn a_session_works() {
    let ca = Authority::new("plant root");
    let server = Server::start(&Options {
        hba: lines(&["host all all all scram-sha-256", "local all u_any scram-sha-256"]),
        sql: roles(&["u_any"]),
        tls: ca.server(&["localhost"]).for_server(),
        ..Options::default()
    });
    for (host, mode) in
        [("localhost", "verify-full"), ("localhost", "disable"), (server.folder.to_str().unwrap(), "prefer")]
    {
        let case = Case::new(host, server.port, "u_any")
            .set("PGPASSWORD", PASSWORD)
            .set("PGSSLMODE", mode)
            .set("PGCONNECT_TIMEOUT", 5)
            .set("PGOPTIONS", "-c statement_timeout=77s -c search_path=\"a\\ b\"")
            .set("PGAPPNAME", "migration-runner ü")
            .with(".postgresql/root.crt", &ca.pem, 0o644);
        let (send, notices) = channel();
        let mut session = connect(&case.settings(), move |notice| {
            let _ = send.send(format!("{} {}", notice.severity(), notice.message()));
        })
        .unwrap();
        let show = |session: &mut ms5_common::db::connect::Connected, what: &str| -> String {
            session.client.query_one(&format!("SHOW {what}"), &[]).unwrap().get(0)
        };
        assert_eq!(show(&mut session, "statement_timeout"), "77s");
        assert_eq!(show(&mut session, "search_path"), "\"a b\"");
        assert_eq!(
            show(&mut session, "application_name"),
            r"migration-runner \xc3\xbc",
            "the server keeps ASCII only"
        );
        assert!(session.address.contains(&server.port.to_string()));
        session.client.batch_execute("DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; END $$").unwrap();
        assert_eq!(notices.try_iter().collect::<Vec<_>>(), ["NOTICE one", "WARNING two"]);
        // The connect timeout ends with the connecting.
        session.client.batch_execute("SELECT pg_sleep(5.5)").unwrap();
        // Much in both directions.
        let text: String = session
            .client
            .query_one("SELECT repeat('x', 3000000) || $1", &[&"y".repeat(3_000_000)])
            .unwrap()
            .get(0);
        assert_eq!(text.len(), 6_000_000);
        // Cancelling, from another thread.
        let canceller = session.canceller.clone();
        let begun = Instant::now();
        let (done, ended) = channel();
        let helper = std::thread::spawn(move || {
            // One that comes before the statement has begun cancels nothing.
            while ended.recv_timeout(Duration::from_millis(300)) == Err(RecvTimeoutError::Timeout) {
                canceller.cancel()?;
            }
            Ok::<_, ConnectError>(())
        });
        let error = session.client.batch_execute("SELECT pg_sleep(30)").unwrap_err();
        assert_eq!(error.code().map(|code| code.code()), Some("57014"), "{error:?}");
        assert!(begun.elapsed() < Duration::from_secs(25));
        done.send(()).unwrap();
        helper.join().unwrap().unwrap();
        // Cancelling what is not running hits nothing that comes later; on a socket file it may.
        for _ in 0..100 {
            session.canceller.cancel().unwrap();
            let after = session.client.batch_execute("SELECT 1");
            if host == "localhost" {
                after.unwrap();
            }
        }
    }
    // A canceller outlives its server; it says so.
    let case = Case::new("localhost", server.port, "u_any").set("PGPASSWORD", PASSWORD);
    let session = case.connect().unwrap();
    drop(server);
    let error = session.canceller.cancel().unwrap_err();
    assert_eq!(error.cause(), Cause::Refused, "{error}");
}

#[test]
fn falling_back_is_told() {
    let ca = Authority::new("plant root");
    let other = Authority::new("other root");
    let server = Server::start(&Options {
        hba: lines(&["host all all all trust"]),
        tls: ca.server(&["localhost"]).for_server(),
        ..Options::default()
    });
    let case = Case::new("localhost", server.port, "super").with(".postgresql/root.crt", &other.pem, 0o644);
    let session = case.connect().unwrap();
    assert!(!session.tls);
    assert!(
        session.warnings.iter().any(|w| w.contains("not encrypted") && w.contains("plant root")),
        "{:?}",
        session.warnings
    );
    let named = Case::new("localhost", server.port, "super").set("PGSSLROOTCERT", "/nowhere/ca");
    let session = named.connect().unwrap();
    assert!(session.tls);
    assert!(session.warnings.iter().any(|w| w.contains("/nowhere/ca")), "{:?}", session.warnings);
    let quiet = Case::new("localhost", server.port, "super").connect().unwrap();
    assert_eq!(quiet.warnings, Vec::<String>::new());
}

#[test]
fn keys_that_only_openssl_has() {
    // Where this differs from libpq: the report names these.
    for (name, cert, key) in [
        ("p521", fixture!("p521.crt"), fixture!("p521.key")),
        ("rsa-pss", fixture!("rsapss.crt"), fixture!("rsapss.key")),
    ] {
        let server = Server::start(&Options {
            hba: lines(&["host all all all trust"]),
            tls: Some((cert.to_owned(), key.to_owned())),
            ..Options::default()
        });
        let case = Case::new("localhost", server.port, "super").set("PGSSLMODE", "require");
        println!("{name}: psql {:?}, ours {:?}", case.psqls(), case.ours());
        let (outcome, text) = case.ours();
        if outcome == Outcome::Failed {
            assert!(text.starts_with("TlsFailed"), "{text}");
        }
    }
    let server = Server::start(&Options {
        hba: lines(&["host all all all scram-sha-256"]),
        sql: roles(&["u_any"]),
        tls: Some((fixture!("ed25519.crt").to_owned(), fixture!("ed25519.key").to_owned())),
        ..Options::default()
    });
    let case =
        Case::new("localhost", server.port, "u_any").set("PGPASSWORD", PASSWORD).set("PGSSLMODE", "require");
    println!("ed25519: psql {:?}, ours {:?}", case.psqls(), case.ours());
    assert_eq!(case.ours().0, Outcome::Tls);
}

#[test]
fn texts_of_settings() {
    let server = Server::start(&Options { hba: lines(&["host all all all trust"]), ..Options::default() });
    let case = |name: &'static str, text: &str| Case::new("localhost", server.port, "super").set(name, text);
    for text in [
        "",
        " ",
        "0",
        "-1",
        "1",
        "10",
        " +10 ",
        "10s",
        "1.5",
        "0x10",
        "99999999999",
        "2147483647",
        "2147483648",
        "1 0",
    ] {
        let theirs = case("PGCONNECT_TIMEOUT", text).psqls();
        let ours = ms5_common::db::connect::parse_connect_timeout(text);
        assert_eq!(
            theirs.0 != Outcome::Failed,
            ours.is_ok(),
            "PGCONNECT_TIMEOUT={text:?}: {theirs:?}, {ours:?}"
        );
    }
    for text in
        ["", "prefer", "Prefer", " prefer", "verify_full", "verify-full ", "disable", "on", "1", "allow"]
    {
        let theirs = case("PGSSLMODE", text).psqls();
        let ours = text.parse::<SslMode>();
        assert_eq!(theirs.0 != Outcome::Failed, ours.is_ok(), "PGSSLMODE={text:?}: {theirs:?}, {ours:?}");
    }
}

#[test]
fn the_runner_connects_by_the_same_rules() {
    let (ca, other) = (Authority::new("plant root"), Authority::new("other root"));
    // The certificate carries the name and not the address, so 127.0.0.1 is a wrong name.
    let server = Server::start(&Options {
        tls: ca.server(&["localhost"]).for_server(),
        hba: lines(&["hostssl all all all scram-sha-256"]),
        sql: roles(&["ms5_user_test"]),
        ..Options::default()
    });
    let home = migration_tests::program::TempDir::new("tls").unwrap();
    std::fs::create_dir(home.path().join("migrations")).unwrap();
    std::fs::write(home.path().join("migrations/001_a.sql"), "SELECT 1;").unwrap();
    let file = |name: &str, text: &str| {
        let path = home.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (right, wrong) = (file("right.crt", &ca.pem), file("wrong.crt", &other.pem));
    let run = |host: &str, mode: &str, root: &std::path::Path| {
        migration_tests::program::Program::tool("migration-runner")
            .args(["--environment=test", "--status"])
            .env("MS5_HOME", home.path())
            .env("DB_HOST", host)
            .env("DB_PORT", server.port.to_string())
            .env("DB_NAME", "postgres")
            .env("POSTGRES_PASSWORD_TEST", PASSWORD)
            .env("PGSSLMODE", mode)
            .env("PGSSLROOTCERT", root)
            .run()
    };
    let _ = run("localhost", "verify-full", &right).expect(0).shows(&["001 - A: pending"]);
    let _ = run("127.0.0.1", "verify-ca", &right).expect(0);
    let untrusted = run("localhost", "verify-full", &wrong).expect(3).shows(&[
        "certificate",
        "Next: ",
        "nothing was touched",
    ]);
    let wrong_name = run("127.0.0.1", "verify-full", &right).expect(3).shows(&["127.0.0.1", "Next: "]);
    let plain = run("localhost", "disable", &right).expect(3).shows(&["28000", "pg_hba"]);
    for ran in [untrusted, wrong_name, plain] {
        assert!(!ran.to_string().contains(PASSWORD), "{ran}");
    }
}
