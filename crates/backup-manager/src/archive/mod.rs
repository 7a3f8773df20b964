//! The file of a backup: members one behind the other, each a gzip file of its own that any gunzip reads, in any order of
//! writing; and members read back.

mod read;
mod sink;
mod space;
mod write;

use std::io::{self, Write};

use xxhash_rust::xxh3::Xxh3;

pub(crate) use read::{Reader, sums};
pub(crate) use sink::small;
pub(crate) use space::{LOOK, RESERVE, free, room};
pub(crate) use write::{Archive, Written};

/// About how many bytes of rows make a member.
pub(crate) const BLOCK: usize = 4 << 20;

/// Counts and hashes what goes through.
struct Tally<W> {
    inner: W,
    count: u64,
    hash: Xxh3,
}

impl<W: Write> Tally<W> {
    fn of(inner: W) -> Self {
        Self { inner, count: 0, hash: Xxh3::new() }
    }

    fn sums(&self) -> (u64, u64) {
        (self.count, self.hash.digest())
    }

    fn fill(mut self, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<(u64, u64)> {
        fill(&mut self)?;
        Ok(self.sums())
    }
}

impl<W: Write> Write for Tally<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.count += count as u64;
        self.hash.update(bytes.get(..count).unwrap_or_default());
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::metadata::{Member, Stage};
    use crate::seal::{Key, tests::pair};
    use std::fs::File;
    use std::io::{BufReader, Read};
    use std::path::PathBuf;
    use xxhash_rust::xxh3::xxh3_64;

    /// Begins a file of that compression, and reads what it then holds.
    fn file(level: Option<u32>, sealed: bool) -> (PathBuf, Vec<Member>, Option<Key>) {
        let end = if level.is_some() { "sql.gz" } else { "sql" };
        let end = if sealed { format!("{end}.age") } else { end.to_owned() };
        let path = std::env::temp_dir().join(format!("ms5-archive-{}-{level:?}.{end}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let (recipients, key) = sealed.then(pair).unzip();
        let archive = Archive::create(&path, level, recipients.as_ref()).unwrap();
        // The rows are there first, and stand behind what they need.
        std::thread::scope(|scope| {
            let gate = archive.rows_gate();
            let rows = scope.spawn(|| archive.append(Stage::Table, Some(0), 2, b"1\n2\n"));
            std::thread::sleep(std::time::Duration::from_millis(50));
            archive.append(Stage::Begin, None, 0, b"begin\n").unwrap();
            gate.open();
            rows.join().unwrap().unwrap();
        });
        archive.append(Stage::Sequences, None, 0, b"").unwrap();
        archive.append_stream(Stage::LargeObjects, |out| out.write_all(b"large")).unwrap();
        let written = archive.finish().unwrap();
        assert_eq!(written.bytes, path.metadata().unwrap().len());
        assert_eq!(written.members.len(), 3, "an empty member is none");
        (path, written.members, key)
    }

    #[test]
    fn rows_do_not_wait_for_what_will_not_come() {
        let path = std::env::temp_dir().join(format!("ms5-archive-gate-{}.sql", std::process::id()));
        let archive = Archive::create(&path, None, None).unwrap();
        std::thread::scope(|scope| {
            let gate = archive.rows_gate();
            let rows = scope.spawn(|| archive.append(Stage::Table, Some(0), 1, b"1\n"));
            drop(gate);
            assert!(rows.join().unwrap().is_err());
        });
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn members_are_read_back_and_the_whole_is_one_text() {
        for (level, sealed) in
            [(Some(1), false), (Some(6), false), (None, false), (Some(1), true), (None, true)]
        {
            let (path, members, key) = file(level, sealed);
            let reader = Reader::open(std::slice::from_ref(&path), key.as_ref()).unwrap();
            let texts: Vec<Vec<u8>> = members.iter().map(|member| reader.member(member).unwrap()).collect();
            assert_eq!(texts.concat(), b"begin\n1\n2\nlarge");
            let mut text = String::new();
            assert_eq!(members[2].hash, xxh3_64(b"large"));
            reader.stream(&members[2]).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "large");
            if sealed {
                assert!(Reader::open(std::slice::from_ref(&path), None).is_err());
                assert!(Reader::open(std::slice::from_ref(&path), Some(&pair().1)).is_err());
                let bytes = std::fs::read(&path).unwrap();
                assert!(!bytes.windows(5).any(|part| part == b"large" || part == b"begin"));
            } else if level.is_some() {
                let mut all = String::new();
                let whole = BufReader::new(File::open(&path).unwrap());
                flate2::bufread::MultiGzDecoder::new(whole).read_to_string(&mut all).unwrap();
                assert_eq!(all, "begin\n1\n2\nlarge");
            }
            for wrong in [
                Member { raw: members[1].raw + 1, ..members[1].clone() },
                Member { raw: members[1].raw - 1, ..members[1].clone() },
                Member { length: 1 << 40, ..members[1].clone() },
                Member { hash: members[1].hash ^ 1, ..members[1].clone() },
            ] {
                assert!(reader.member(&wrong).is_err(), "{wrong:?}");
            }
            std::fs::remove_file(path).unwrap();
        }
    }
}
