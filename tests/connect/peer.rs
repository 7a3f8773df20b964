//! The same case through psql and through `connect`: a case is a set of PG* variables and a home folder.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use ms5_common::db::connect::{ConnectError, Connected, Secret, Settings, connect, parse_connect_timeout};

use crate::server::{bin, fresh_folder};

/// Whether there is a session, encrypted or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Plain,
    Tls,
    Failed,
}

/// A case: host, port and so on as libpq's variables, and the files of the user's home.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) vars: BTreeMap<&'static str, String>,
    pub(crate) home: PathBuf,
}

impl Case {
    pub(crate) fn new(host: &str, port: u16, user: &str) -> Self {
        let case = Self { vars: BTreeMap::new(), home: fresh_folder("home") };
        case.set("PGHOST", host).set("PGPORT", port).set("PGUSER", user).set("PGDATABASE", "postgres")
    }

    pub(crate) fn set(mut self, name: &'static str, value: impl ToString) -> Self {
        self.vars.insert(name, value.to_string());
        self
    }

    /// Puts a file into the home folder and gives its path.
    pub(crate) fn file(&self, name: &str, text: impl AsRef<[u8]>, mode: u32) -> PathBuf {
        let path = self.home.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    pub(crate) fn with(self, name: &str, text: impl AsRef<[u8]>, mode: u32) -> Self {
        self.file(name, text, mode);
        self
    }

    /// What config.rs does.
    pub(crate) fn settings(&self) -> Settings {
        let var = |name: &str| self.vars.get(name).cloned();
        let path = |name: &str| var(name).map(PathBuf::from);
        let mut settings = Settings::new(
            var("PGHOST").unwrap(),
            var("PGPORT").unwrap().parse().unwrap(),
            var("PGDATABASE").unwrap(),
            var("PGUSER").unwrap(),
        );
        settings.password = var("PGPASSWORD").map(Secret::new);
        settings.password_variables = vec!["POSTGRES_PASSWORD_TEST".to_owned(), "PGPASSWORD".to_owned()];
        settings.sslmode = var("PGSSLMODE").map(|mode| mode.parse().unwrap());
        settings.sslrootcert = path("PGSSLROOTCERT");
        settings.sslcrl = path("PGSSLCRL");
        settings.sslcert = path("PGSSLCERT");
        settings.sslkey = path("PGSSLKEY");
        settings.connect_timeout = var("PGCONNECT_TIMEOUT").and_then(|t| parse_connect_timeout(&t).unwrap());
        settings.options = var("PGOPTIONS");
        settings.application_name = var("PGAPPNAME");
        settings.passfile = path("PGPASSFILE");
        settings.home = Some(self.home.clone());
        settings
    }

    pub(crate) fn connect(&self) -> Result<Connected, ConnectError> {
        let outcome = connect(&self.settings(), |_| {});
        if let Err(error) = &outcome {
            self.check_secrecy(error);
        }
        outcome
    }

    /// No text of an error holds the password.
    fn check_secrecy(&self, error: &ConnectError) {
        let texts = format!("{error} {error:?} {error:#?} {}", error.next_step());
        for secret in [self.vars.get("PGPASSWORD").map_or("s3cret", String::as_str), "s3cret"] {
            assert!(secret.is_empty() || !texts.contains(secret), "the password is in: {texts}");
        }
    }

    pub(crate) fn ours(&self) -> (Outcome, String) {
        match self.connect() {
            Ok(mut session) => {
                let row = session.client.query_one(SSL_QUERY, &[]).unwrap();
                assert_eq!(row.get::<_, bool>(0), session.tls, "{session:?}");
                let outcome = if session.tls { Outcome::Tls } else { Outcome::Plain };
                (outcome, session.warnings.join(" / "))
            }
            Err(error) => (Outcome::Failed, format!("{:?}: {error}", error.cause())),
        }
    }

    pub(crate) fn psqls(&self) -> (Outcome, String) {
        let out = Command::new(format!("{}/psql", bin()))
            .env_clear()
            .env("LC_ALL", "C")
            .env("HOME", &self.home)
            .envs(&self.vars)
            .args(["-X", "-w", "-At", "-c", SSL_QUERY])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stderr).trim().replace('\n', " / ");
        match (out.status.success(), out.stdout.as_slice()) {
            (true, b"t\n") => (Outcome::Tls, text),
            (true, b"f\n") => (Outcome::Plain, text),
            _ => (Outcome::Failed, text),
        }
    }
}

const SSL_QUERY: &str = "select coalesce((select ssl from pg_stat_ssl where pid = pg_backend_pid()), false)";

/// A table of cases, each run both ways.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<(String, Case, Option<Outcome>)>,
}

impl Table {
    pub(crate) fn row(&mut self, name: impl Into<String>, case: Case) {
        self.rows.push((name.into(), case, None));
    }

    /// A row whose outcome is known beforehand.
    pub(crate) fn expect(&mut self, name: impl Into<String>, case: Case, outcome: Outcome) {
        self.rows.push((name.into(), case, Some(outcome)));
    }

    /// Runs all rows; both ways have to agree in each.
    pub(crate) fn run(self, title: &str) {
        let next = std::sync::atomic::AtomicUsize::new(0);
        let rows = Arc::new(self.rows);
        let mut lines: Vec<(usize, String, bool, Outcome)> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        let mut done = Vec::new();
                        while let Some((index, (name, case, expect))) = {
                            let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                            rows.get(index).map(|row| (index, row))
                        } {
                            let (theirs, their_text) = case.psqls();
                            let (ours, our_text) = case.ours();
                            let good = ours == theirs && expect.is_none_or(|expect| expect == ours);
                            let mark = if good { "ok  " } else { "DIFF" };
                            let line = format!(
                                "{mark} {name}\n       psql {theirs:?} {their_text}\n       ours {ours:?} {our_text}\n       expected {expect:?}"
                            );
                            done.push((index, line, good, ours));
                        }
                        done
                    })
                })
                .collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
        });
        lines.sort();
        let count = |outcome| lines.iter().filter(|line| line.3 == outcome).count();
        let summary = format!(
            "{title}: {} rows, {} encrypted, {} plain, {} failed, {} differ",
            lines.len(),
            count(Outcome::Tls),
            count(Outcome::Plain),
            count(Outcome::Failed),
            lines.iter().filter(|line| !line.2).count()
        );
        if let Some(folder) = std::env::var_os("CONNECT_TABLES") {
            let all: Vec<_> = lines.iter().map(|line| line.1.clone()).collect();
            let path = Path::new(&folder).join(format!("{}.txt", title.replace(' ', "-")));
            fs::write(path, format!("{summary}\n{}\n", all.join("\n"))).unwrap();
        }
        println!("{summary}");
        let bad: Vec<_> = lines.iter().filter(|line| !line.2).map(|line| line.1.as_str()).collect();
        assert!(bad.is_empty(), "{summary}\n{}", bad.join("\n"));
    }
}

impl PartialOrd for Outcome {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Outcome {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (*self as u8).cmp(&(*other as u8))
    }
}

/// A short wait for what happens in the background.
pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{what} does not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}
