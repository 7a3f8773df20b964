//! Reads a file and what it includes through the splitter, as an iterator of items.

use std::io::{self, BufRead};

use super::error::SqlError;
use super::item::Item;
use super::split::{Options, Splitter, Step};

/// Opens the files of a script; the caller decides what a path means.
pub trait IncludeReader {
    /// What a file is read from.
    type Reader: BufRead;

    /// Opens the file at `path`, which is relative to the current folder if it is not absolute.
    fn open(&mut self, path: &str) -> io::Result<Self::Reader>;
}

impl<R: BufRead, F: FnMut(&str) -> io::Result<R>> IncludeReader for F {
    type Reader = R;

    fn open(&mut self, path: &str) -> io::Result<R> {
        self(path)
    }
}

/// The items of a file, those of included files in place. Ends after the first error.
#[derive(Debug)]
pub struct Script<I: IncludeReader> {
    splitter: Splitter,
    files: I,
    readers: Vec<I::Reader>,
}

impl<I: IncludeReader> Script<I> {
    /// A script that begins with the file at `options.path`, opened through `files`.
    pub fn open(mut files: I, options: Options) -> Result<Self, SqlError> {
        let path = options.path.clone();
        let mut splitter = Splitter::new(options);
        match files.open(&path) {
            Ok(reader) => Ok(Self { splitter, files, readers: vec![reader] }),
            Err(error) => Err(splitter.read_error(&error.to_string())),
        }
    }

    /// The splitter, for the paths of the files.
    pub fn splitter(&self) -> &Splitter {
        &self.splitter
    }

    fn fill(&mut self) -> Result<(), SqlError> {
        let Some(reader) = self.readers.last_mut() else {
            self.splitter.end_input();
            return Ok(());
        };
        match read_lines(reader, |text| self.splitter.push(text)) {
            Ok(true) => {}
            Ok(false) => self.splitter.end_input(),
            Err(error) => return Err(self.splitter.read_error(&error.to_string())),
        }
        Ok(())
    }
}

impl<I: IncludeReader> Iterator for Script<I> {
    type Item = Result<Item, SqlError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.splitter.step() {
                Ok(Step::Item(item)) => {
                    if matches!(item, Item::IncludeEnd { .. }) {
                        self.readers.pop();
                    }
                    return Some(Ok(item));
                }
                Ok(Step::NeedInput(_)) => {
                    if let Err(error) = self.fill() {
                        return Some(Err(error));
                    }
                }
                Ok(Step::Include { path }) => match self.files.open(&path) {
                    Ok(reader) => {
                        self.readers.push(reader);
                        self.splitter.enter();
                    }
                    Err(error) => return Some(Err(self.splitter.read_error(&error.to_string()))),
                },
                Ok(Step::Done) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// Takes whole lines out of the reader's buffer, or one line that is longer than that; false at the end.
///
/// What is UTF-8 before an error is pushed, so that the error's place is known.
fn read_lines(reader: &mut impl BufRead, mut push: impl FnMut(&str)) -> io::Result<bool> {
    while let Err(error) = reader.fill_buf() {
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    let available = reader.fill_buf()?;
    if available.is_empty() {
        return Ok(false);
    }
    let used = match available.iter().rposition(|&byte| byte == b'\n') {
        Some(newline) => {
            push_utf8(available.get(..=newline).unwrap_or_default(), &mut push)?;
            newline + 1
        }
        None => {
            let mut line = Vec::new();
            reader.read_until(b'\n', &mut line)?;
            push_utf8(&line, &mut push)?;
            0
        }
    };
    reader.consume(used);
    Ok(true)
}

fn push_utf8(bytes: &[u8], push: &mut impl FnMut(&str)) -> io::Result<()> {
    let error = match std::str::from_utf8(bytes) {
        Ok(text) => {
            push(text);
            return Ok(());
        }
        Err(error) => error,
    };
    if let Some(Ok(text)) = bytes.get(..error.valid_up_to()).map(std::str::from_utf8) {
        push(text);
    }
    let byte = bytes.get(error.valid_up_to()).copied().unwrap_or_default();
    Err(io::Error::new(io::ErrorKind::InvalidData, format!("not UTF-8: byte 0x{byte:02X}")))
}
