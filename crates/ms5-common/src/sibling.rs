//! Another tool of ours, started by a tool: the one of the same build, never whatever PATH finds.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Output;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use duct::{Handle, cmd};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::config::{IGNORED, Variables};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::interrupt;
use crate::logging;
use crate::progress;
use crate::tool::Context;

/// How often it is looked whether the other tool has ended.
const POLL: Duration = Duration::from_millis(50);
/// How long the lines of a tool that has ended are waited for.
const LAST_WORDS: Duration = Duration::from_secs(2);

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

/// Runs a tool with `--json` to its end. Its human lines appear among ours as it writes them, in our log file too; its records are
/// kept. A signal that comes to us is passed on to it, once, and it unwinds.
///
/// # Errors
/// [`Exit::Config`] where the tool is not there or cannot be started.
pub fn run(tool: &str, arguments: &[String], context: &Context) -> Result<Told> {
    let path = find(tool, &context.variables)?;
    let words = arguments.iter().map(OsString::from).chain([OsString::from("--json")]);
    let cannot = |error: std::io::Error| {
        Error::new(Exit::Config, format!("cannot run {}", path.display())).because(error)
    };
    let (lines, writer) = std::io::pipe().map_err(cannot)?;
    let mut program = cmd(&path, words).stderr_file(writer);
    // We have said already that these are ignored.
    for name in IGNORED {
        program = program.env_remove(name);
    }
    let program = program
        // Its code is wanted as it is, whatever our caller wants of ours.
        .env_remove("MS5_EXIT")
        .stdin_null()
        .stdout_capture()
        .unchecked()
        // A group of its own: Ctrl-C on the terminal comes to it once, from us.
        .before_spawn(|command| {
            command.process_group(0);
            Ok(())
        });
    let handle = program.start().map_err(cannot)?;
    let (ended, all_said) = mpsc::channel();
    let name = tool.to_owned();
    thread::spawn(move || {
        pass_on(lines, &name);
        let _ = ended.send(());
    });
    let output = wait(&handle).map_err(cannot)?;
    // Both hold the end that the tool has written to: its lines would have no end.
    drop((program, handle));
    // Something that it has started and left behind may hold it too.
    let _ = all_said.recv_timeout(LAST_WORDS);
    Ok(told(&output))
}

/// The tool's lines, as ours.
fn pass_on(lines: impl Read, tool: &str) {
    // What it would draw on a terminal it does not see.
    let line = progress::Line::new();
    line.begin(tool);
    for text in BufReader::new(lines).split(b'\n').map_while(std::result::Result::ok) {
        logging::pass_on(&String::from_utf8_lossy(&text));
    }
}

/// Waits for the tool's end, and passes a signal on.
fn wait(handle: &Handle) -> std::io::Result<Output> {
    loop {
        if let Some(output) = handle.try_wait()? {
            return Ok(output.clone());
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
            return Ok(handle.wait()?.clone());
        }
    }
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
