//! A private server for a run that was given none: the one that scripts/sandbox.sh starts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use migration_tests::server::exports;
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;

/// The server, ended with this value.
#[derive(Debug)]
pub(crate) struct Sandbox {
    script: PathBuf,
    name: String,
    variables: BTreeMap<String, String>,
    /// Whether it ends with this value, and at the latest with this process.
    ends: bool,
}

impl Sandbox {
    /// Starts it; takes a while where its programs have to be fetched first.
    ///
    /// # Errors
    /// [`Exit::Config`] with what the script said.
    pub(crate) fn start(home: &Path, ends: bool) -> Result<Self> {
        let mut sandbox = Self {
            script: home.join("scripts/sandbox.sh"),
            name: format!("suite{}", std::process::id()),
            variables: BTreeMap::new(),
            ends,
        };
        let owner = format!("--owner-pid={}", std::process::id());
        let words = [owner.as_str()];
        sandbox.call("up", if ends { &words } else { &[] })?;
        sandbox.variables = exports(&sandbox.call("env", &["--environment=test"])?);
        Ok(sandbox)
    }

    /// What leads to it.
    pub(crate) fn variables(&self) -> &BTreeMap<String, String> {
        &self.variables
    }

    /// How it is removed by hand.
    pub(crate) fn removal(&self) -> String {
        format!("{} down --name={}", self.script.display(), self.name)
    }

    fn call(&self, command: &str, words: &[&str]) -> Result<String> {
        let cannot = || {
            Error::new(Exit::Config, "cannot start a private server")
                .hint("see that the machine is set up: make setup")
                .hint("or name a server: DB_HOST, DB_PORT, DB_USER and POSTGRES_PASSWORD_TEST")
        };
        let output = Command::new(&self.script)
            .arg(command)
            .arg(format!("--name={}", self.name))
            .args(words)
            .env_remove("ENVIRONMENT")
            .output()
            .map_err(|error| cannot().because(format!("{}: {error}", self.script.display())))?;
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
            let _ = self.call("down", &[]);
        }
    }
}
