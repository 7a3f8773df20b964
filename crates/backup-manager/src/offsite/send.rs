//! What of a backup goes into its tar: looked at before a byte is sent, each file held against its checksum while it passes.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;

use super::command::Unsent;
use super::meter::{Meter, Metered};
use super::tar::{self, Unwritten, Whole, Writer};
use crate::args::own;
use crate::folder::proof::{self, Standing};
use crate::folder::{Entry, checksums, metadata, name, read_text};
use crate::verify;

/// A backup that may be sent.
pub(super) struct Parcel {
    name: String,
    folder: PathBuf,
    /// When the backup was made, in seconds since 1970.
    modified: u64,
    /// metadata.json and checksums.sha256, which let the far end check all that follows.
    head: [(&'static str, String); 2],
    /// Name, bytes and sha256 of each of the others.
    files: Vec<(String, u64, String)>,
    proof: Option<String>,
}

impl Parcel {
    /// Looks at a backup without reading its large files.
    ///
    /// # Errors
    /// [`Exit::Config`] for a backup of the old script, and for a name that is none; [`Exit::Failed`] where it is damaged.
    pub(super) fn of(entry: &Entry) -> Result<Self> {
        // The command's line is made with it, and another machine's shell may read that line.
        name::check_full(&entry.name).map_err(|error| error.with_exit(Exit::Config))?;
        if !entry.damage.is_empty() {
            return Err(damaged(&entry.name, entry.damage.clone()));
        }
        let metadata = entry.metadata.as_ref().map_err(|why| damaged(&entry.name, vec![why.clone()]))?;
        let Some(more) = &metadata.more else {
            return Err(Error::new(Exit::Config, format!("{} cannot be sent", entry.name))
                .because("the old script made it: it has no sums by which the far end could check all of it")
                .because("nothing was sent")
                .hint(format!("take one of your own: {} backup NAME full --pipe-to=COMMAND", own()))
                .hint(format!("or send its folder by hand: tar -c {} | COMMAND", entry.name)));
        };
        if metadata.is_incremental() {
            return Err(Error::new(
                Exit::Config,
                format!("{} is incremental and cannot be sent", entry.name),
            )
            .because("the far end would not have the rows that it shares with others")
            .because("nothing was sent")
            .hint(format!(
                "make one of it that holds all by itself, and send that: {own} export {}",
                entry.name,
                own = own()
            )));
        }
        if let Ok(metadata) = &entry.metadata {
            verify::strangers(entry, metadata);
        }
        // The damage is empty, so these are the very texts of the files.
        let text = metadata.render();
        let proof = match proof::read(&entry.path) {
            Standing::None => None,
            Standing::Proven(_) => Some(proof_of(entry, &text)?),
            Standing::Damaged(why) => {
                return Err(damaged(&entry.name, vec![format!("{}: {why}", proof::FILE)]));
            }
        };
        let sums = checksums::render(&text, metadata);
        Ok(Self {
            name: entry.name.clone(),
            folder: entry.path.clone(),
            modified: entry
                .created
                .and_then(|at| u64::try_from(at.unix_timestamp()).ok())
                .unwrap_or_default(),
            head: [(metadata::FILE, text), (checksums::FILE, sums)],
            files: (metadata.files.iter().zip(&more.sizes))
                .map(|((file, sum), size)| (file.clone(), *size, sum.clone()))
                .collect(),
            proof,
        })
    }

    /// Bytes of the files that are large.
    pub(super) fn size(&self) -> u64 {
        self.files.iter().map(|(_, size, _)| size).sum()
    }

    /// The backup's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of the tar.
    pub(super) fn length(&self) -> u64 {
        let head = self.head.iter().map(|(file, text)| (*file, text.len() as u64));
        let files = self.files.iter().map(|(file, size, _)| (file.as_str(), *size));
        let proof = self.proof.iter().map(|text| (proof::FILE, text.len() as u64));
        let members: Vec<(String, u64)> =
            head.chain(files).chain(proof).map(|(file, size)| (self.path(file), size)).collect();
        tar::length(members.iter().map(|(path, size)| (path.as_str(), *size)))
    }

    fn path(&self, file: &str) -> String {
        format!("{}/{file}", self.name)
    }

    /// Writes the tar: the same bytes each time, as long as the backup has the same proof or none.
    ///
    /// # Errors
    /// A file that is not what was written, before the tar has its end; that it cannot be written.
    pub(super) fn write(&self, out: impl Write, meter: &mut Meter) -> std::result::Result<Whole, Unsent> {
        let mut tar = Writer::new(out, self.modified);
        let mut put = |file: &str, size: u64, from: &mut dyn std::io::Read| {
            tar.file(&self.path(file), size, from).map_err(|why| match why {
                Unwritten::Sink(error) => Unsent::Sink(error),
                Unwritten::Source(error) => {
                    Unsent::Source(damaged(&self.name, vec![format!("{file}: {error}")]))
                }
            })
        };
        for (file, text) in &self.head {
            put(file, text.len() as u64, &mut text.as_bytes())?;
        }
        meter.of(self.size());
        for (file, size, wanted) in &self.files {
            let unreadable = |error| Unsent::Source(damaged(&self.name, vec![format!("{file}: {error}")]));
            let from = File::open(self.folder.join(file)).map_err(unreadable)?;
            if put(file, *size, &mut Metered(from, meter))? != *wanted {
                let why = format!("{file} is not what was written: its checksum differs");
                return Err(Unsent::Source(damaged(&self.name, vec![why])));
            }
        }
        if let Some(proof) = &self.proof {
            put(proof::FILE, proof.len() as u64, &mut proof.as_bytes())?;
        }
        tar.finish().map_err(|why| match why {
            Unwritten::Sink(error) | Unwritten::Source(error) => Unsent::Sink(error),
        })
    }
}

/// The proof's text, which may have been replaced by a newer one since it was looked at.
fn proof_of(entry: &Entry, metadata: &str) -> Result<String> {
    let damaged = |why: String| damaged(&entry.name, vec![format!("{}: {why}", proof::FILE)]);
    let text = read_text(&entry.path.join(proof::FILE)).map_err(damaged)?;
    match proof::judge(&text, metadata.as_bytes()) {
        Standing::Proven(_) => Ok(text),
        Standing::Damaged(why) => Err(damaged(why)),
        Standing::None => Err(damaged("it is empty".to_owned())),
    }
}

/// That a damaged backup is not sent as a sound one.
fn damaged(name: &str, damage: Vec<String>) -> Error {
    Error::new(Exit::Failed, format!("the backup {name} is damaged, and was not sent as a whole one"))
        .because_all(damage)
        .because("what the far end may have of it has no end: verify --from and restore --from refuse it")
        .hint(format!("remove what is there, and send another one: {} list", own()))
}
