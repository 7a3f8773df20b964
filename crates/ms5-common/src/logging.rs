//! Human lines: `[2024-01-15 10:30:00] [LEVEL] message` to a stream and, the same, to a log file.
//!
//! Output that cannot be written (a closed pipe, a full disk) never changes what is done to the database: the
//! sink that failed is given up, the others go on.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use log::{Level, LevelFilter};

use crate::{clock, progress};

/// The target that turns an INFO line into a SUCCESS line; use it through [`success!`](crate::success).
pub const SUCCESS: &str = "ms5_success";

/// Logs a SUCCESS line: a step is done.
#[macro_export]
macro_rules! success {
    ($($message:tt)+) => { log::info!(target: $crate::logging::SUCCESS, $($message)+) };
}

/// Where human lines go besides the log file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// The normal place.
    Stdout,
    /// With `--json`, where stdout carries records.
    Stderr,
}

struct Sinks {
    stream: Option<Stream>,
    colour: bool,
    file: Option<File>,
    /// Lines written before the log file was opened; they belong into it too.
    early: Option<String>,
}

static SINKS: OnceLock<Mutex<Sinks>> = OnceLock::new();

fn sinks() -> MutexGuard<'static, Sinks> {
    SINKS
        .get_or_init(|| {
            Mutex::new(Sinks {
                stream: Some(Stream::Stdout),
                colour: false,
                file: None,
                early: Some(String::new()),
            })
        })
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

/// Starts logging for the tool whose crate is `module`. Lines of other crates are not shown.
///
/// `colour_allowed` is false under `NO_COLOR` and `TERM=dumb`; colour also wants a terminal.
pub fn init(module: &str, stream: Stream, verbose: bool, colour_allowed: bool) {
    let terminal = match stream {
        Stream::Stdout => io::stdout().is_terminal(),
        Stream::Stderr => io::stderr().is_terminal(),
    };
    {
        let mut sinks = sinks();
        sinks.stream = Some(stream);
        sinks.colour = terminal && colour_allowed;
    }
    let started = env_logger::Builder::new()
        .filter_level(LevelFilter::Off)
        .filter_module("ms5_common", LevelFilter::Debug)
        .filter_module(module, LevelFilter::Debug)
        .filter_module(SUCCESS, LevelFilter::Debug)
        .format(|line, record| {
            let level = match (record.target(), record.level()) {
                (SUCCESS, _) => "SUCCESS",
                (_, Level::Error) => "ERROR",
                (_, Level::Warn) => "WARN",
                (_, Level::Info) => "INFO",
                (_, Level::Debug | Level::Trace) => "DEBUG",
            };
            let time = clock::line_time();
            let message = record.args().to_string();
            for text in message.split('\n') {
                writeln!(line, "[{time}] [{level}] {}", text.trim_end_matches('\r'))?;
            }
            Ok(())
        })
        .target(env_logger::Target::Pipe(Box::new(Tee)))
        .try_init();
    if started.is_ok() {
        log::set_max_level(if verbose { LevelFilter::Debug } else { LevelFilter::Info });
    }
}

/// Opens the log file `folder/name.log` and writes the header block and every line so far to it.
///
/// A log file that cannot be opened is a WARN, never a reason to stop. Two runs in one second get two files.
pub fn open_file(folder: &Path, name: &str, header: &[(&str, String)]) -> Option<PathBuf> {
    match create(folder, name) {
        Ok((mut file, path)) => {
            let rule = "=".repeat(60);
            let mut text = format!("{rule}\n");
            for (key, value) in header {
                text.push_str(&format!("{key}: {value}\n"));
            }
            text.push_str(&format!("{rule}\n"));
            let mut sinks = sinks();
            text.push_str(&sinks.early.take().unwrap_or_default());
            if let Err(error) = file.write_all(text.as_bytes()) {
                drop(sinks);
                log::warn!("cannot write the log file {}: {error}; going on without it", path.display());
                return None;
            }
            sinks.file = Some(file);
            Some(path)
        }
        Err(error) => {
            sinks().early = None;
            log::warn!(
                "cannot open a log file in {}: {error}; going on without it (another folder: --log-dir=DIR)",
                folder.display()
            );
            None
        }
    }
}

fn create(folder: &Path, name: &str) -> io::Result<(File, PathBuf)> {
    std::fs::create_dir_all(folder)?;
    let mut path = folder.join(format!("{name}.log"));
    // Statements and server messages may quote data: the file is its owner's and the group's.
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o640);
    let file = match options.open(&path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            path = folder.join(format!("{name}_{}.log", std::process::id()));
            options.open(&path)?
        }
        other => other?,
    };
    Ok((file, path))
}

/// Writes a line of another tool of ours, which has its time and level already, where ours go.
pub fn pass_on(line: &str) {
    let _ = Tee.write(format!("{line}\n").as_bytes());
}

/// Writes each finished line to the stream and to the file, giving up on what fails.
struct Tee;

impl Write for Tee {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let mut sinks = sinks();
        let text = String::from_utf8_lossy(lines);
        if let Some(stream) = sinks.stream {
            let shown = if sinks.colour { text.lines().map(coloured).collect() } else { text.to_string() };
            let written = progress::suspend(|| match stream {
                Stream::Stdout => write_all(io::stdout().lock(), &shown),
                Stream::Stderr => write_all(io::stderr().lock(), &shown),
            });
            if written.is_err() {
                sinks.stream = None;
            }
        }
        if let Some(early) = &mut sinks.early {
            early.push_str(&text);
        }
        if let Some(file) = &mut sinks.file
            && let Err(error) = file.write_all(lines)
        {
            sinks.file = None;
            if let Some(stream) = sinks.stream {
                let line = format!(
                    "[{}] [WARN] cannot write the log file any more: {error}; going on without it\n",
                    clock::line_time()
                );
                let _ = match stream {
                    Stream::Stdout => write_all(io::stdout().lock(), &line),
                    Stream::Stderr => write_all(io::stderr().lock(), &line),
                };
            }
        }
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_all(mut sink: impl Write, text: &str) -> io::Result<()> {
    sink.write_all(text.as_bytes())?;
    sink.flush()
}

/// A line with its level in colour.
fn coloured(line: &str) -> String {
    let colour = |level: &str| match level {
        "[ERROR]" => "\x1b[31m",
        "[WARN]" => "\x1b[33m",
        "[SUCCESS]" => "\x1b[32m",
        "[DEBUG]" => "\x1b[2m",
        _ => "\x1b[34m",
    };
    match line.split_once("] [").and_then(|(time, rest)| Some((time, rest.split_once("] ")?))) {
        Some((time, (level, message))) => {
            let level = format!("[{level}]");
            format!("{time}] {}{level}\x1b[0m {message}\n", colour(&level))
        }
        None => format!("{line}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_touches_only_the_level() {
        let line = "[2024-01-15 10:30:00] [WARN] disk [x] low";
        assert_eq!(coloured(line), "[2024-01-15 10:30:00] \x1b[33m[WARN]\x1b[0m disk [x] low\n");
    }

    #[test]
    fn two_files_of_one_second_do_not_meet() {
        let folder = std::env::temp_dir().join(format!("ms5-logging-{}", std::process::id()));
        let (_, first) = create(&folder, "migration_test_1").unwrap();
        let (_, second) = create(&folder, "migration_test_1").unwrap();
        assert_ne!(first, second);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
