//! What comes out of a tar, held against the backup's own sums while it passes: one backup, in the order in which it is sent, and
//! nothing else. So there is no path that could lead elsewhere, and no name that is not known before it comes.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ms5_common::clock;
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use sha2::{Digest, Sha256};

use super::command::{Taken, Untaken};
use super::meter::Meter;
use super::tar::{Member, Reader, Unread, Whole};
use crate::archive::{LOOK, room};
use crate::args::own;
use crate::dump::cannot_write;
use crate::folder::checksums::hex;
use crate::folder::metadata::{Metadata, More};
use crate::folder::proof::{self, Standing};
use crate::folder::{checksums, metadata, name, write_whole};

/// The largest of the small files that are read into memory: an object or a member of the index takes some hundred bytes.
const METADATA: u64 = 256 << 20;
const CHECKSUMS: u64 = 1 << 20;
const PROOF: u64 = 1 << 16;

/// What a backup says of itself, read before its rows come.
pub(super) struct Head {
    pub(super) metadata: Metadata,
    /// The text of metadata.json.
    pub(super) text: String,
    /// The text of checksums.sha256.
    pub(super) sums: String,
}

impl Head {
    /// Bytes of the files that follow.
    pub(super) fn size(&self) -> u64 {
        self.metadata
            .more
            .as_ref()
            .map_or(0, |more| more.sizes.iter().fold(0, |sum, size| sum.saturating_add(*size)))
    }
}

/// What becomes of a backup, once it is known which one it is.
pub(super) enum Fate {
    /// It is checked, and written nowhere.
    Checked,
    /// Its files are written into a folder.
    Kept(PathBuf),
    /// It is not needed.
    Unneeded,
}

/// A backup that has passed, whole.
pub(super) struct Passed {
    pub(super) head: Head,
    pub(super) proof: Standing,
    pub(super) whole: Whole,
}

/// Reads a stream to its end; None where `decide` has no need of it.
///
/// # Errors
/// Whatever is not as [`mod@super::send`] sends it, and what `decide` gives.
pub(super) fn read(
    from: impl Read,
    meter: &mut Meter,
    decide: impl FnOnce(&Head) -> Result<Fate>,
) -> std::result::Result<Taken<Option<Passed>>, Untaken> {
    let mut tar = Reader::new(from);
    let head = head(&mut tar)?;
    let folder = match decide(&head).map_err(Untaken::Wrong)? {
        Fate::Checked => None,
        Fate::Kept(folder) => Some(folder),
        Fate::Unneeded => return Ok(Taken::Early(None)),
    };
    let unwritten = |error: io::Error| Untaken::Wrong(cannot_write(&error));
    if let Some(folder) = &folder {
        for (file, text) in [(metadata::FILE, &head.text), (checksums::FILE, &head.sums)] {
            write_whole(&folder.join(file), text, 0o600).map_err(unwritten)?;
        }
    }
    meter.of(head.size());
    let sizes = head.metadata.more.iter().flat_map(|more| &more.sizes);
    for ((file, wanted), size) in head.metadata.files.iter().zip(sizes) {
        expect(tar.next()?, &head.metadata.name, file, *size)?;
        let mut to =
            folder.as_deref().map(|folder| Kept::create(folder, file)).transpose().map_err(unwritten)?;
        let mut hash = Sha256::new();
        tar.each(|piece| {
            hash.update(piece);
            meter.add(piece.len());
            to.as_mut().map_or(Ok(()), |to| to.put(piece)).map_err(unwritten)
        })?;
        if hex(&hash.finalize()) != *wanted {
            return Err(wrong(format!("{file} is not what was written: its checksum differs")));
        }
        if let Some(to) = to {
            to.file.sync_all().map_err(unwritten)?;
        }
    }
    let mut standing = Standing::None;
    if let Some(member) = tar.next()? {
        if member.path != format!("{}/{}", head.metadata.name, proof::FILE) {
            return Err(wrong(format!("{:?} is no part of the backup", member.path)));
        }
        let text = small(&mut tar, &member, PROOF)?;
        standing = proof::judge(&text, head.text.as_bytes());
        if let (Standing::Proven(_), Some(folder)) = (&standing, &folder) {
            write_whole(&folder.join(proof::FILE), &text, 0o600).map_err(unwritten)?;
        }
        if let Some(member) = tar.next()? {
            return Err(wrong(format!("{:?} is no part of the backup", member.path)));
        }
    }
    let whole = tar.finish()?;
    Ok(Taken::Whole(Some(Passed { head, proof: standing, whole })))
}

/// metadata.json and checksums.sha256: from there on it is known what must come.
fn head(tar: &mut Reader<impl Read>) -> std::result::Result<Head, Untaken> {
    let foreign = |path: &str| {
        wrong(format!("it begins with {path:?}, and what --pipe-to sends with NAME/{}", metadata::FILE))
    };
    let member = tar.next()?.ok_or_else(|| wrong("it is an empty tar".to_owned()))?;
    let (root, file) = member.path.split_once('/').ok_or_else(|| foreign(&member.path))?;
    if file != metadata::FILE || name::check_full(root).is_err() {
        return Err(foreign(&member.path));
    }
    let text = small(tar, &member, METADATA)?;
    let odd = |why: String| wrong(format!("{}: {why}", metadata::FILE));
    let metadata = Metadata::parse(&text).map_err(odd)?;
    let Some(more) = &metadata.more else { return Err(odd("it is one of the old script".to_owned())) };
    if metadata.name != root {
        return Err(odd(format!("it is that of {:?}, and the tar is of {root:?}", metadata.name)));
    }
    // One text for one content: nothing is in it that is not understood.
    if metadata.render() != text || clock::parse_record_time(&metadata.created_at).is_none() {
        return Err(odd("it is not as it was written".to_owned()));
    }
    if metadata.is_incremental() {
        return Err(odd("it is incremental: its rows are where it was made".to_owned()));
    }
    files_are_sound(&metadata, more).map_err(odd)?;
    let member = tar.next()?;
    let sums = checksums::render(&text, &metadata);
    let member = expect(member, root, checksums::FILE, sums.len() as u64)?;
    if small(tar, &member, CHECKSUMS)? != sums {
        return Err(wrong(format!("{} and {} do not fit each other", checksums::FILE, metadata::FILE)));
    }
    Ok(Head { metadata, text, sums })
}

/// No file twice, and none in the place of those that every backup has.
fn files_are_sound(metadata: &Metadata, more: &More) -> std::result::Result<(), String> {
    let mut seen = BTreeSet::from([metadata::FILE, checksums::FILE, proof::FILE]);
    for (file, _) in &metadata.files {
        if !seen.insert(file) {
            return Err(format!("{file:?} is in it twice"));
        }
    }
    if metadata.files.is_empty() || more.sizes.len() != metadata.files.len() {
        return Err("it has no files".to_owned());
    }
    Ok(())
}

fn expect(member: Option<Member>, root: &str, file: &str, size: u64) -> std::result::Result<Member, Untaken> {
    match member {
        None => Err(wrong(format!("{file} is missing"))),
        Some(member) if member.path != format!("{root}/{file}") => {
            Err(wrong(format!("{:?} stands where {file} should be", member.path)))
        }
        Some(member) if member.size != size => {
            Err(wrong(format!("{file} has {} bytes instead of {size}", member.size)))
        }
        Some(member) => Ok(member),
    }
}

/// The content of a small file, as text.
fn small(tar: &mut Reader<impl Read>, member: &Member, most: u64) -> std::result::Result<String, Untaken> {
    if member.size > most {
        return Err(wrong(format!("{:?} has {} bytes, which is too much", member.path, member.size)));
    }
    let mut bytes = Vec::new();
    tar.each::<Untaken>(|piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    })?;
    String::from_utf8(bytes).map_err(|_| wrong(format!("{:?} is no text", member.path)))
}

/// A file of a backup that is coming.
struct Kept {
    path: PathBuf,
    file: File,
    written: u64,
    looked: u64,
}

impl Kept {
    fn create(folder: &Path, file: &str) -> io::Result<Self> {
        let path = folder.join(file);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self { path, file, written: 0, looked: 0 })
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.written >= self.looked {
            self.looked = self.written + LOOK;
            room(&self.path)?;
        }
        self.file.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

impl From<Unread> for Untaken {
    fn from(why: Unread) -> Self {
        match why {
            Unread::CutOff(_) => Self::CutOff(refused(&why.to_string())),
            Unread::Wrong(_) | Unread::Stream(_) => wrong(why.to_string()),
        }
    }
}

fn wrong(why: String) -> Untaken {
    Untaken::Wrong(refused(&why).because("nothing of it is kept"))
}

fn refused(why: &str) -> Error {
    Error::new(Exit::Failed, format!("what came is no whole backup: {why}")).hint(format!(
        "look at what the far end has; where the backup is, send it again: {} send NAME --pipe-to=COMMAND",
        own()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::checksums::hex_of;

    const DATA: &[u8] = b"rows and rows";

    type Members = Vec<(String, Vec<u8>)>;

    fn metadata() -> Metadata {
        Metadata {
            name: "a_20240115_103000".into(),
            kind: "full".into(),
            created_at: "2024-01-15T10:30:00Z".into(),
            files: vec![("x.sql.gz".into(), hex_of(DATA)), ("y.csv.gz".into(), hex_of(b""))],
            more: Some(More { sizes: vec![DATA.len() as u64, 0], ..More::default() }),
            ..Metadata::default()
        }
    }

    /// The members that a sender would make of it.
    fn members(metadata: &Metadata) -> Members {
        let text = metadata.render();
        let sums = checksums::render(&text, metadata);
        let path = |file: &str| format!("{}/{file}", metadata.name);
        vec![
            (path("metadata.json"), text.into_bytes()),
            (path("checksums.sha256"), sums.into_bytes()),
            (path("x.sql.gz"), DATA.to_vec()),
            (path("y.csv.gz"), Vec::new()),
        ]
    }

    /// A tar as anybody could make it: the crate's own headers refuse paths that lead elsewhere.
    fn tar(members: &[(String, Vec<u8>)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (path, bytes) in members {
            let mut header = ::tar::Header::new_gnu();
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(::tar::EntryType::Regular);
            header.set_size(bytes.len() as u64);
            header.set_cksum();
            out.extend_from_slice(header.as_bytes());
            out.extend_from_slice(bytes);
            out.resize(out.len().next_multiple_of(512), 0);
        }
        out.resize(out.len() + 1024, 0);
        out
    }

    fn taken(bytes: &[u8]) -> std::result::Result<Passed, String> {
        match read(bytes, &mut Meter::new(""), |_| Ok(Fate::Checked)) {
            Ok(Taken::Whole(Some(passed))) => Ok(passed),
            Ok(_) => Err("early".to_owned()),
            Err(Untaken::CutOff(error)) => Err(format!("cut off: {error}")),
            Err(Untaken::Wrong(error)) => Err(error.to_string()),
        }
    }

    #[test]
    fn what_is_sent_passes() {
        let bytes = tar(&members(&metadata()));
        let passed = taken(&bytes).unwrap();
        assert_eq!((passed.head.metadata, passed.proof), (metadata(), Standing::None));
        assert_eq!(passed.whole.sha256, hex_of(&bytes));
        // A proof that is none of this backup's is noticed, and what follows it refused.
        let mut more = members(&metadata());
        more.push(("a_20240115_103000/verified.json".into(), b"{}".to_vec()));
        assert!(matches!(taken(&tar(&more)).unwrap().proof, Standing::Damaged(_)));
        more.push(("a_20240115_103000/verified.json".into(), b"{}".to_vec()));
        assert!(taken(&tar(&more)).err().unwrap().contains("no part of the backup"));
    }

    #[test]
    fn anything_else_is_refused() {
        let sound = members(&metadata());
        let changed = |change: &dyn Fn(&mut Members)| {
            let mut members = sound.clone();
            change(&mut members);
            taken(&tar(&members))
                .err()
                .unwrap_or_else(|| panic!("it passes: {:?}", members.iter().map(|member| &member.0)))
        };
        let root = |name: &str| {
            let other = Metadata { name: name.into(), ..metadata() };
            taken(&tar(&members(&other))).err().unwrap_or_else(|| panic!("{name} passes"))
        };
        for name in ["..", ".", "", "/etc", ".hidden", "a b", "rollback_points", "a\nb"] {
            assert!(root(name).contains("it begins with"), "{name:?}: {}", root(name));
        }
        for (words, change) in [
            ("it is an empty tar", &(|all: &mut Members| all.clear()) as &dyn Fn(&mut Members)),
            ("it begins with", &|all| all[0].0 = "metadata.json".into()),
            ("it begins with", &|all| all[0].0 = "/a_20240115_103000/metadata.json".into()),
            ("it begins with", &|all| all[0].0 = "a_20240115_103000/sub/metadata.json".into()),
            ("it begins with", &|all| all.swap(0, 1)),
            ("is that of", &|all| all[0].0 = "b_20240115_103000/metadata.json".into()),
            ("it is not JSON", &|all| all[0].1 = b"{".to_vec()),
            ("not as it was written", &|all| all[0].1.push(b' ')),
            ("is no text", &|all| all[0].1 = vec![0xff]),
            ("stands where checksums.sha256", &|all| all.swap(1, 2)),
            ("do not fit each other", &|all| all[1].1[0] ^= 1),
            ("stands where x.sql.gz", &|all| all[2].0 = "a_20240115_103000/../x.sql.gz".into()),
            ("stands where x.sql.gz", &|all| all[2].0 = "b_20240115_103000/x.sql.gz".into()),
            ("stands where y.csv.gz", &|all| all.insert(3, all[2].clone())),
            ("y.csv.gz is missing", &|all| drop(all.pop())),
            ("instead of 13", &|all| all[2].1.push(0)),
            ("its checksum differs", &|all| all[2].1[5] ^= 1),
            ("is no part of the backup", &|all| all.push(("a_20240115_103000/z".into(), Vec::new()))),
        ] {
            let error = changed(change);
            assert!(error.contains(words), "{words}: {error}");
        }
        for files in [vec!["metadata.json"], vec!["verified.json"], vec!["x", "x"], vec![]] {
            let files: Vec<(String, String)> =
                files.iter().map(|file| ((*file).to_owned(), hex_of(DATA))).collect();
            let sizes = vec![DATA.len() as u64; files.len()];
            let other = Metadata { files, more: Some(More { sizes, ..More::default() }), ..metadata() };
            assert!(taken(&tar(&members(&other))).is_err());
        }
        let old = Metadata { more: None, ..metadata() };
        assert!(taken(&tar(&members(&old))).err().unwrap().contains("old script"));
        assert_eq!(taken(b"").err().unwrap(), "cut off: what came is no whole backup: nothing came");
    }

    #[test]
    fn a_changed_byte_anywhere_is_found_or_changes_the_sum() {
        let sound = tar(&members(&metadata()));
        let sum = hex_of(&sound);
        for at in 0..sound.len() {
            let mut changed = sound.clone();
            changed[at] ^= 1;
            if let Ok(passed) = taken(&changed) {
                assert_eq!(passed.head.metadata, metadata());
                assert_ne!(passed.whole.sha256, sum, "byte {at}");
            }
        }
    }
}
