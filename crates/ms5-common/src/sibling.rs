//! Another tool of ours, started by a tool: the one of the same build, never whatever PATH finds.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use duct::cmd;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::cli;
use crate::config::Variables;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::interrupt;
use crate::tool::Context;

/// How often it is looked whether the other tool has ended.
const POLL: Duration = Duration::from_millis(50);

/// What another tool has done.
#[derive(Debug)]
pub struct Told {
    /// Its records, as it wrote them.
    pub lines: Vec<String>,
    /// The same, understood.
    pub records: Vec<Value>,
    exit: Exit,
    error: Option<String>,
}

impl Told {
    /// What the other tool says of its failure; nothing where it ended well.
    ///
    /// # Errors
    /// Its own words and exit code, under what `tried` says was tried.
    pub fn ended_well(&self, tried: &str) -> Result<()> {
        if self.exit == Exit::Done {
            return Ok(());
        }
        Err(Error::new(self.exit, tried)
            .because(self.error.as_deref().unwrap_or("it did not come to a verdict")))
    }
}

/// Runs a tool with `--json` to its end. Its human lines appear among ours as it writes them, its records are kept. A signal
/// that comes to us is passed on to it, once, and it unwinds.
///
/// # Errors
/// [`Exit::Config`] where the tool is not there or cannot be started.
pub fn run(tool: &str, arguments: &[String], context: &Context) -> Result<Told> {
    let path = find(tool, &context.variables)?;
    let words = arguments.iter().map(OsString::from).chain([OsString::from("--json")]);
    let cannot = |error: std::io::Error| {
        Error::new(Exit::Config, format!("cannot run {}", path.display())).because(error)
    };
    let mut program = cmd(&path, words);
    if !context.arguments.has(cli::JSON.name) {
        program = program.stderr_file(std::io::stdout().as_fd().try_clone_to_owned().map_err(cannot)?);
    }
    let handle = program
        // Its code is wanted as it is, whatever our caller wants of ours.
        .env_remove("MS5_EXIT")
        .stdin_null()
        .stdout_capture()
        .unchecked()
        // A group of its own: Ctrl-C on the terminal comes to it once, from us.
        .before_spawn(|command| {
            command.process_group(0);
            Ok(())
        })
        .start()
        .map_err(cannot)?;
    let output: Output = loop {
        if let Some(output) = handle.try_wait().map_err(cannot)? {
            break output.clone();
        }
        if !interrupt::sleep(POLL) {
            let signal = match interrupt::requested() {
                Some(Exit::HangUp) => Signal::HUP,
                Some(Exit::Interrupt) => Signal::INT,
                _ => Signal::TERM,
            };
            for pid in handle.pids() {
                if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                    let _ = kill_process(pid, signal);
                }
            }
            break handle.wait().map_err(cannot)?.clone();
        }
    };
    Ok(told(&output))
}

/// The binary: in MS5_BIN_DIR, else beside our own.
///
/// # Errors
/// [`Exit::Config`] where it is in neither.
pub fn find(tool: &str, variables: &Variables) -> Result<PathBuf> {
    let own = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.to_owned()));
    let folders: Vec<PathBuf> =
        variables.get("MS5_BIN_DIR").map(PathBuf::from).into_iter().chain(own).collect();
    folders.iter().map(|folder| folder.join(tool)).find(|path| path.is_file()).ok_or_else(|| {
        let places: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
        Error::new(Exit::Config, format!("the tool {tool} is not here"))
            .because(format!("looked in {}", places.join(", ")))
            .because("nothing was touched")
            .hint("install all tools into one folder, or name it with MS5_BIN_DIR")
    })
}

fn told(output: &Output) -> Told {
    let text = String::from_utf8_lossy(&output.stdout);
    let (lines, records): (Vec<String>, Vec<Value>) =
        text.lines().filter_map(|line| Some((line.to_owned(), serde_json::from_str(line).ok()?))).unzip();
    let verdict = records.iter().rfind(|record| record["type"] == "verdict");
    let error = verdict.and_then(|verdict| verdict["error"].as_str()).map(str::to_owned);
    let exit = output.status.code().and_then(|code| u8::try_from(code).ok()).and_then(Exit::of_code);
    // Without a verdict it was cut off, whatever its code.
    let exit = exit.filter(|_| verdict.is_some()).unwrap_or(Exit::Failed);
    Told { lines, records, exit, error }
}
