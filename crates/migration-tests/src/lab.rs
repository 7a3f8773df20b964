//! A migration in a test tube: a database, a folder of files, the runner on both.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use postgres::Client;

use crate::program::{Program, Ran, TempDir};
use crate::server::{Database, Server};

/// Tells what runs beside a test to stop, when it is dropped: so also where an assertion fails.
pub struct Stops<'a>(pub &'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A database of its own with a home folder of its own.
pub struct Lab<'a> {
    /// The database.
    pub database: Database<'a>,
    home: TempDir,
}

impl<'a> Lab<'a> {
    /// A new empty database on `server`, and a home with the migrations given as (file, text).
    ///
    /// # Panics
    /// Where either cannot be made.
    #[must_use]
    #[allow(clippy::expect_used)]
    pub fn new(server: &'a Server, files: &[(&str, &str)]) -> Self {
        let lab = Self {
            database: server.database().expect("a new database"),
            home: TempDir::new("lab").expect("a new folder"),
        };
        fs::create_dir_all(lab.migrations()).expect("a folder for migrations");
        for (file, text) in files {
            lab.write(file, text.as_bytes());
        }
        lab
    }

    /// MS5_HOME.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The folder of the migrations.
    #[must_use]
    pub fn migrations(&self) -> PathBuf {
        self.home().join("migrations")
    }

    /// Writes a migration.
    ///
    /// # Panics
    /// Where it cannot be written.
    #[allow(clippy::expect_used)]
    pub fn write(&self, file: &str, bytes: &[u8]) {
        fs::write(self.migrations().join(file), bytes).expect("a migration is written");
    }

    /// The runner for this database and home, with arguments separated by blanks.
    #[must_use]
    pub fn runner(&self, arguments: &str) -> Program {
        Program::tool("migration-runner")
            .envs(&self.database.variables())
            .env("MS5_HOME", self.home())
            .current_dir(self.home())
            .args(arguments.split_whitespace())
    }

    /// Runs the runner.
    #[must_use]
    pub fn run(&self, arguments: &str) -> Ran {
        self.runner(arguments).run()
    }

    /// A session of the role that owns the database.
    ///
    /// # Panics
    /// Where the server refuses.
    #[must_use]
    #[allow(clippy::expect_used)]
    pub fn client(&self) -> Client {
        self.database.connect().expect("a session")
    }

    /// The one value that a query gives, as text; empty for NULL.
    ///
    /// # Panics
    /// Where the query fails or gives no row.
    #[must_use]
    #[allow(clippy::expect_used)]
    pub fn ask(&self, query: &str) -> String {
        let text = format!("SELECT ({query})::text");
        self.client().query_one(&text, &[]).expect("one row").get::<_, Option<String>>(0).unwrap_or_default()
    }

    /// Waits until a condition holds in the database.
    ///
    /// # Panics
    /// Where it does not within a minute.
    pub fn wait_for(&self, condition: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.ask(condition) != "true" {
            assert!(Instant::now() < deadline, "it never holds: {condition}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a session of this database sleeps in pg_sleep.
    pub fn wait_for_sleep(&self) {
        self.wait_for(
            "SELECT EXISTS (SELECT FROM pg_stat_activity
                            WHERE datname = current_database() AND wait_event = 'PgSleep')",
        );
    }

    /// Runs SQL as the role that owns the database.
    ///
    /// # Panics
    /// Where it fails.
    #[allow(clippy::expect_used)]
    pub fn sql(&self, text: &str) {
        self.client().batch_execute(text).expect("the SQL runs");
    }

    /// The text of the newest log file.
    ///
    /// # Panics
    /// Where there is none.
    #[must_use]
    #[allow(clippy::expect_used)]
    pub fn log(&self) -> String {
        let folder = self.home().join("logs/migrations");
        let mut files: Vec<_> = fs::read_dir(folder)
            .expect("a log folder")
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        files.sort_by_key(|file| file.metadata().and_then(|data| data.modified()).ok());
        fs::read_to_string(files.last().expect("a log file")).expect("a readable log file")
    }
}
