//! checksums.sha256, as sha256sum reads it: every file of a backup but itself and the proof.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::metadata::{self, Metadata};
use super::read_text;
use crate::store;

/// The file's name.
pub(crate) const FILE: &str = "checksums.sha256";

/// The file's text: the metadata first, then the files in its order, then what lies in the store.
pub(crate) fn render(metadata_text: &str, metadata: &Metadata) -> String {
    let mut text = format!("{}  {}\n", hex_of(metadata_text.as_bytes()), metadata::FILE);
    for (file, hash) in &metadata.files {
        text.push_str(&format!("{hash}  {file}\n"));
    }
    for piece in metadata.pieces() {
        text.push_str(&format!("{}  ../{}\n", store::sum_of(&piece.file), store::place(&piece.file)));
    }
    text
}

/// The files of the store that checksums.sha256 names, whatever else says; none where there is no such file, as in backups of
/// the old script.
///
/// # Errors
/// That it is there and cannot be read.
pub(crate) fn stored(path: &Path) -> io::Result<Vec<String>> {
    let path = path.join(FILE);
    let text = match read_text(&path) {
        Ok(text) => text,
        Err(_) if !path.exists() => String::new(),
        Err(why) => return Err(io::Error::other(format!("{}: {why}", path.display()))),
    };
    let names = text.lines().filter_map(|line| line.rsplit('/').next());
    Ok(names.filter(|name| store::is_name(name)).map(str::to_owned).collect())
}

/// The sha256 of bytes, in hexadecimal.
pub(crate) fn hex_of(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The sha256 of a file, in hexadecimal; `read` hears how many bytes were read.
///
/// # Errors
/// The system's.
pub(crate) fn of_file(path: &Path, mut read: impl FnMut(u64)) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            count => {
                hash.update(&buffer[..count]);
                read(count as u64);
            }
        }
    }
}

/// What is wrong with a backup's files as far as it shows without reading the large ones.
pub(crate) fn glance(path: &Path, metadata: &Metadata, damage: &mut Vec<String>) {
    for (number, (file, _)) in metadata.files.iter().enumerate() {
        let there = path.join(file).metadata().ok().filter(std::fs::Metadata::is_file);
        let wanted = metadata.more.as_ref().and_then(|more| more.sizes.get(number).copied());
        match (there, wanted) {
            (None, _) => damage.push(format!("{file} is missing")),
            (Some(is), Some(was)) if is.len() != was => {
                damage.push(format!("{file} has {} bytes instead of {was}", is.len()));
            }
            _ => {}
        }
    }
}

/// What is wrong with what a backup says of itself. Nothing of it may be believed then.
pub(crate) fn index(path: &Path, name: &str, metadata: &Metadata, damage: &mut Vec<String>) {
    // The old script's have neither of what follows.
    if metadata.more.is_none() {
        return;
    }
    if metadata.name != name {
        damage.push(format!("the folder's name is not {:?}, which the backup was made as", metadata.name));
    }
    let text = read_text(&path.join(metadata::FILE)).unwrap_or_default();
    if metadata.render() != text {
        damage.push(format!("{} is not as it was written", metadata::FILE));
    }
    match read_text(&path.join(FILE)) {
        Err(why) => damage.push(format!("{FILE}: {why}")),
        Ok(sums) if sums != render(&text, metadata) => {
            damage.push(format!("{FILE} and {} do not fit each other", metadata::FILE));
        }
        Ok(_) => {}
    }
}
