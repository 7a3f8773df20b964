//! A private server for a run that was given none: the one that scripts/sandbox.sh starts.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use duct::cmd;
use migration_tests::server::exports;
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::interrupt;
use rustix::process::{Pid, Signal, kill_process_group};

use super::{names, quoted};

/// What a caller has said for another server than this one.
const ANOTHERS: [&str; 14] = [
    "PGHOST",
    "PGPORT",
    "PGUSER",
    "PGDATABASE",
    "PGSERVICE",
    "PGPASSWORD",
    "PGPASSFILE",
    "PGSSLMODE",
    "PGSSLROOTCERT",
    "PGSSLCERT",
    "PGSSLKEY",
    "PGSSLCRL",
    "PGOPTIONS",
    "PGCONNECT_TIMEOUT",
];
/// How long the script may take to unwind, once it is asked to.
const UNWINDING: Duration = Duration::from_secs(20);

/// The server, ended with this value.
#[derive(Debug)]
pub(crate) struct Sandbox {
    script: PathBuf,
    name: String,
    variables: BTreeMap<String, String>,
    /// Whether it ends with this value, and at the latest with this process.
    ends: bool,
    /// Whether it was said how it is removed.
    told: Cell<bool>,
}

impl Sandbox {
    /// Starts it; takes a while where its programs have to be fetched first.
    ///
    /// # Errors
    /// [`Exit::Config`] with what the script said, or a signal's.
    pub(crate) fn start(home: &Path, ends: bool) -> Result<Self> {
        let mut sandbox = Self {
            script: home.join("scripts/sandbox.sh"),
            // In a container each run has the same process id, and one that was kept must not be taken for this one.
            name: format!("suite{:08x}", names::random()),
            variables: BTreeMap::new(),
            ends: false,
            told: Cell::new(true),
        };
        let owner = format!("--owner-pid={}", std::process::id());
        let words = [owner.as_str()];
        sandbox.call("up", if ends { &words } else { &[] }, true)?;
        // Only what it has started itself is removed, or named as left.
        sandbox.ends = ends;
        sandbox.told.set(false);
        sandbox.variables = exports(&sandbox.call("env", &["--environment=test"], true)?);
        for name in ANOTHERS {
            sandbox.variables.entry(name.to_owned()).or_default();
        }
        Ok(sandbox)
    }

    /// What leads to it; empty is what must not lead elsewhere.
    pub(crate) fn variables(&self) -> &BTreeMap<String, String> {
        &self.variables
    }

    /// How it is removed by hand.
    pub(crate) fn removal(&self) -> String {
        self.told.set(true);
        format!("{} down --name={}", quoted(&self.script), self.name)
    }

    fn call(&self, command: &str, words: &[&str], hears: bool) -> Result<String> {
        let cannot = || {
            Error::new(Exit::Config, "cannot start a private server")
                .hint("see that the machine is set up: make setup")
                .hint("or name a server: DB_HOST, DB_PORT, DB_USER and POSTGRES_PASSWORD_TEST")
        };
        let lost = |error: std::io::Error| cannot().because(format!("{}: {error}", self.script.display()));
        let name = format!("--name={}", self.name);
        let all: Vec<&str> = [command, &name].into_iter().chain(words.iter().copied()).collect();
        let mut call = cmd(&self.script, all).env_remove("ENVIRONMENT");
        for name in ANOTHERS {
            call = call.env_remove(name);
        }
        // In a group of its own: a terminal's Ctrl-C is ours to pass on.
        let handle = call
            .stdin_null()
            .stdout_capture()
            .stderr_capture()
            .unchecked()
            .before_spawn(|command| {
                command.process_group(0);
                Ok(())
            })
            .start()
            .map_err(lost)?;
        let signal = |signal: Signal| {
            let pids = handle.pids().into_iter();
            for pid in pids.filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
                let _ = kill_process_group(pid, signal);
            }
        };
        let mut stopped: Option<Instant> = None;
        let output = loop {
            if let Some(output) = handle.try_wait().map_err(lost)? {
                break output;
            }
            match (hears.then(interrupt::requested).flatten(), stopped) {
                (Some(_), None) => {
                    signal(Signal::TERM);
                    stopped = Some(Instant::now());
                }
                (_, Some(since)) if since.elapsed() > UNWINDING => signal(Signal::KILL),
                _ => {}
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        if let Some(exit) = hears.then(interrupt::requested).flatten() {
            return Err(Error::new(exit, "stopped by a signal while a private server was being started"));
        }
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(cannot()
            .because_all(told.lines().rev().take(5).map(str::to_owned).collect::<Vec<_>>().into_iter().rev()))
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if self.ends {
            let _ = self.call("down", &[], false);
        } else if !self.told.get() {
            log::info!("Left as asked; remove it with:");
            log::info!("  {}", self.removal());
        }
    }
}
