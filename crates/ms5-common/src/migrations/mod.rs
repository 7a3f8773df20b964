//! The folder of migrations as a plan: which files there are, in which order, what they are called, what is in them.

mod folder;
mod mode;
mod read;
mod rules;
mod variables;

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::effects::Outside;
use crate::sql::{FileId, Statement};

pub use folder::{FileName, parse_file_name, read_folder};
pub use read::{checksum, read_file};
pub use variables::variables;

/// One thing that applying a migration does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Sends a statement as one message, with the rows of the file behind it where it is a COPY.
    Run(Statement),
    /// Prints a line: `\echo`, `\qecho`, `\warn`.
    Say(String),
}

/// A migration, read and found to be well formed.
#[derive(Debug, Clone)]
pub struct Migration {
    /// The file's name without folder: `001_init_telemetry.sql`.
    pub file: String,
    /// The number in front of it.
    pub number: u64,
    /// The ledger's name: `001 - Initialize Telemetry`, from the file's first comment, else made of its name.
    pub title: String,
    /// sha256 of the file, line ends normalised to LF, in lower-case hexadecimal; where it includes others, of it with them.
    pub checksum: String,
    /// The file says `-- ms5: idempotent`: it may run again.
    pub idempotent: bool,
    /// The numbers of migrations that it may run beside: `-- ms5: independent-of 004 005`.
    pub independent_of: Vec<u64>,
    /// It cannot run in one transaction, or must not: each statement by itself.
    pub stepwise: bool,
    /// What to do, in order.
    pub actions: Vec<Action>,
    /// What an operator should hear, such as a byte-order mark.
    pub warnings: Vec<String>,
    /// The file and those that it includes; a [`FileId`] is an index of this list.
    pub(crate) paths: Vec<PathBuf>,
    /// For each statement, what keeps it out of a transaction.
    pub(crate) outside: Vec<Option<Outside>>,
}

impl Migration {
    /// The statements, in order.
    pub fn statements(&self) -> impl Iterator<Item = &Statement> {
        self.actions.iter().filter_map(|action| match action {
            Action::Run(statement) => Some(statement),
            Action::Say(_) => None,
        })
    }

    /// How many statements there are.
    #[must_use]
    pub fn statement_count(&self) -> usize {
        self.statements().count()
    }

    /// For each statement, in order, what keeps it out of a transaction.
    #[must_use]
    pub fn outside(&self) -> &[Option<Outside>] {
        &self.outside
    }

    /// The path of the file that a statement stands in.
    #[must_use]
    pub fn path_of(&self, file: FileId) -> &Path {
        let index = usize::try_from(file.0).unwrap_or(usize::MAX);
        self.paths.get(index).map_or(Path::new(&self.file), PathBuf::as_path)
    }
}

/// One checksum for the whole set: of the names and checksums in order, so that two tools can tell whether they
/// looked at the same files.
#[must_use]
pub fn digest(migrations: &[Migration]) -> String {
    let mut hash = Sha256::new();
    for migration in migrations {
        hash.update(format!("{}  {}\n", migration.checksum, migration.file));
    }
    hex(&hash.finalize())
}

/// sha256 of a statement's text, to tell whether what was executed is still what the file says.
#[must_use]
pub fn statement_checksum(statement: &Statement) -> String {
    hex(&Sha256::digest(statement.text.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
