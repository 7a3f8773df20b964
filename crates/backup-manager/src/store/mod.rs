//! The store of rows that incremental backups share: a file for the rows of a chunk (or of any table that is not small), named by
//! its own sha256, so that equal content is there once and every file proves itself.
//!
//! Nothing counts who needs a file: that is read from the backups each time it is asked for. A file is written under another
//! name in the folder of the backup that is being made, and comes here when it is whole; a kill leaves none that is half written.

pub(crate) mod key;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use crate::folder::metadata::Piece;
use crate::folder::{Entry, checksums, sync_folder};

/// Its folder, beside the backups.
pub(crate) const FOLDER: &str = ".chunks";

/// How long the sha256 is in a name.
const SUM: usize = 64;

/// Whether a text is the name of a file of the store: nothing that leads elsewhere is.
pub(crate) fn is_name(file: &str) -> bool {
    let (sum, end) = file.split_at_checked(SUM).unwrap_or_default();
    !sum.is_empty()
        && sum.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        && ["", ".gz"].contains(&end)
}

/// The sha256 that a file must have.
pub(crate) fn sum_of(file: &str) -> &str {
    file.get(..SUM).unwrap_or_default()
}

/// Where a file is, from the folder of the backups on.
pub(crate) fn place(file: &str) -> String {
    format!("{FOLDER}/{}/{file}", file.get(..2).unwrap_or_default())
}

/// Takes files in that are whole and synced, each from its path by its name. One that is there already stays where it is what
/// its name says, since other backups need it and nobody has read the new one back yet; else it is replaced.
///
/// # Errors
/// The system's.
pub(crate) fn adopt<'a>(backups: &Path, files: impl Iterator<Item = (PathBuf, &'a str)>) -> io::Result<()> {
    let mut folders = BTreeSet::new();
    for (from, file) in files {
        let to = backups.join(place(file));
        let folder = to.parent().unwrap_or(backups);
        if folders.insert(folder.to_owned()) && !folder.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        if to.exists() && checksums::of_file(&to, |_| ()).is_ok_and(|sum| sum == sum_of(file)) {
            fs::remove_file(from)?;
        } else {
            fs::rename(from, &to)?;
        }
    }
    if !folders.is_empty() {
        folders.extend([backups.join(FOLDER), backups.to_owned()]);
    }
    folders.iter().try_for_each(|folder| sync_folder(folder))
}

/// What is wrong with a piece, looking at all of its file.
///
/// # Errors
/// In words.
pub(crate) fn check(backups: &Path, piece: &Piece) -> Result<(), String> {
    glance(backups, piece)?;
    match checksums::of_file(&backups.join(place(&piece.file)), |_| ()) {
        Ok(sum) if sum == sum_of(&piece.file) => Ok(()),
        Ok(_) => Err(format!("{} is not what was written: its checksum differs", place(&piece.file))),
        Err(error) => Err(format!("{} cannot be read: {error}", place(&piece.file))),
    }
}

/// Whether a piece is as it was written, by the fastest sum there is of all of its file.
pub(crate) fn is_whole(backups: &Path, piece: &Piece) -> bool {
    match piece.quick {
        None => check(backups, piece).is_ok(),
        Some(sum) => {
            glance(backups, piece).is_ok()
                && quick_sum(&backups.join(place(&piece.file))).is_ok_and(|is| is == sum)
        }
    }
}

fn quick_sum(path: &Path) -> io::Result<u128> {
    let mut file = File::open(path)?;
    let mut sum = Xxh3::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(sum.digest128()),
            count => sum.update(&buffer[..count]),
        }
    }
}

/// What shows without reading it.
///
/// # Errors
/// In words.
pub(crate) fn glance(backups: &Path, piece: &Piece) -> Result<(), String> {
    let file = place(&piece.file);
    match backups.join(&file).metadata() {
        Ok(there) if there.is_file() && there.len() == piece.bytes => Ok(()),
        Ok(there) => Err(format!("{file} has {} bytes instead of {}", there.len(), piece.bytes)),
        Err(_) => Err(format!("{file} is missing")),
    }
}

/// A file of the store that backups need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Used {
    pub(crate) bytes: u64,
    /// By how many backups.
    pub(crate) backups: usize,
}

/// What backups need of the store, as their metadata says.
pub(crate) fn used<'a>(entries: impl Iterator<Item = &'a Entry>) -> BTreeMap<String, Used> {
    let mut used: BTreeMap<String, Used> = BTreeMap::new();
    for entry in entries {
        let mut files: Vec<(&str, u64)> =
            entry.pieces().iter().map(|piece| (piece.file.as_str(), piece.bytes)).collect();
        files.sort_unstable();
        files.dedup_by_key(|(file, _)| *file);
        for (file, bytes) in files {
            used.entry(file.to_owned()).or_insert(Used { bytes, backups: 0 }).backups += 1;
        }
    }
    used
}

/// The files that backups may need: those that their metadata names, and those that their checksums do.
///
/// # Errors
/// That the checksums of one cannot be read.
pub(crate) fn needed<'a>(entries: impl Iterator<Item = &'a Entry>) -> io::Result<BTreeSet<String>> {
    let mut needed = BTreeSet::new();
    for entry in entries {
        needed.extend(entry.pieces().iter().map(|piece| piece.file.clone()));
        needed.extend(checksums::stored(&entry.path)?);
    }
    Ok(needed)
}

/// What no backup needs: its files and their bytes.
///
/// # Errors
/// The system's.
pub(crate) fn unused(backups: &Path, needed: &BTreeSet<String>) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    let folders = match fs::read_dir(backups.join(FOLDER)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        folders => folders?,
    };
    for folder in folders {
        let folder = folder?;
        if !folder.file_type()?.is_dir() {
            continue;
        }
        for file in fs::read_dir(folder.path())? {
            let file = file?;
            let name = file.file_name().to_string_lossy().into_owned();
            // What is not ours is somebody's.
            if is_name(&name) && !needed.contains(&name) {
                found.push((file.path(), file.metadata()?.len()));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sums_and_nothing_else() {
        let sum = "0123456789abcdef".repeat(4);
        assert!(is_name(&sum) && is_name(&format!("{sum}.gz")));
        assert_eq!(place(&format!("{sum}.gz")), format!(".chunks/01/{sum}.gz"));
        for other in ["", "..", &sum[1..], &format!("{sum}/x"), &format!("{sum}.sql"), &sum.to_uppercase()] {
            assert!(!is_name(other), "{other}");
        }
        assert!(!is_name(&format!("../{}", &sum[3..])));
    }
}
