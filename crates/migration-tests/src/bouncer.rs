//! PgBouncer in front of a private server: started by scripts/sandbox.sh, ended with the server.

use std::collections::BTreeMap;

use postgres::{Client, NoTls};

use crate::server::{Database, Server, exports};

/// A PgBouncer that leads to every database of its server, for the server's roles and with their passwords.
#[derive(Debug)]
pub struct Bouncer<'a> {
    server: &'a Server,
    variables: BTreeMap<String, String>,
}

impl<'a> Bouncer<'a> {
    /// Starts one with `settings` (`key=value`) of PgBouncer's own, such as `pool_mode=transaction`.
    ///
    /// # Errors
    /// What the script said.
    pub fn start(server: &'a Server, settings: &[&str]) -> Result<Self, String> {
        let settings: Vec<String> = settings.iter().map(|setting| format!("--set={setting}")).collect();
        let arguments: Vec<&str> =
            std::iter::once("bouncer").chain(settings.iter().map(String::as_str)).collect();
        Ok(Self { server, variables: exports(&server.sandbox(&arguments)?) })
    }

    /// The variables that lead a tool through it, to be set after those of a database.
    #[must_use]
    pub fn variables(&self) -> Vec<(String, String)> {
        ["DB_HOST", "DB_PORT"].map(|name| (name.to_owned(), self.variable(name).to_owned())).to_vec()
    }

    /// A session through it of the role that owns the database.
    ///
    /// # Errors
    /// The client's.
    pub fn connect(&self, database: &Database<'_>) -> Result<Client, postgres::Error> {
        postgres::Config::new()
            .host(self.variable("DB_HOST"))
            .port(self.variable("DB_PORT").parse().unwrap_or_default())
            .user(self.server.variable("DB_USER"))
            .password(self.server.variable("POSTGRES_PASSWORD_TEST"))
            .dbname(&database.name)
            .connect(NoTls)
    }

    /// What it has logged so far.
    ///
    /// # Errors
    /// The operating system's.
    pub fn log(&self) -> std::io::Result<String> {
        std::fs::read_to_string(format!("{}/log", self.variable("MS5_BOUNCER_DIR")))
    }

    fn variable(&self, name: &str) -> &str {
        self.variables.get(name).map_or("", String::as_str)
    }
}
