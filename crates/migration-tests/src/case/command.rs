//! A program that a test runs: its line as one would type it, what it printed, how it ended.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use duct::{Expression, cmd};
use ms5_common::interrupt;
use ms5_common::record;
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use serde_json::{Value, json};

use super::{Done, Stop};

/// How much of what a command printed is kept for the report, in bytes.
const KEPT: usize = 24 << 10;
/// How long a command that is asked to end may take: it rolls back, and ends what it has started.
const UNWINDING: Duration = Duration::from_secs(10);
/// How long the kernel may take to end what is killed.
const DYING: Duration = Duration::from_secs(1);
/// How often it is looked whether a command has ended.
const POLL: Duration = Duration::from_millis(5);

/// A command that was run, as the report shows it.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    line: String,
    exit: i32,
    seconds: Duration,
    output: String,
}

/// What stands in a secret's place.
pub(super) const HIDDEN: &str = "***";

impl Shown {
    /// As in the record of its test.
    pub(crate) fn to_json(&self) -> Value {
        let cut = self.output.len() > KEPT;
        let output = if cut { middle_left_out(&self.output) } else { self.output.clone() };
        json!({ "line": self.line, "exit": self.exit, "seconds": seconds(self.seconds), "output": output, "cut": cut })
    }

    /// Hides what must not be read, and tells whether it was there.
    pub(crate) fn hide(&mut self, secret: &str) -> bool {
        let shown = self.output.contains(secret) || self.line.contains(secret);
        if shown {
            self.output = self.output.replace(secret, HIDDEN);
            self.line = self.line.replace(secret, HIDDEN);
        }
        shown
    }
}

/// A duration as records have it.
pub(crate) fn seconds(duration: Duration) -> Value {
    record::seconds(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// The beginning and the end of a long text, in whole lines where it has any.
fn middle_left_out(text: &str) -> String {
    let boundary =
        |from: usize| (from..=text.len()).find(|place| text.is_char_boundary(*place)).unwrap_or(text.len());
    let (head, _) = text.split_at(boundary(KEPT / 2));
    let (_, tail) = text.split_at(boundary(text.len() - KEPT / 2));
    let head = head.rfind('\n').map_or(head, |end| &head[..end]);
    let tail = tail.find('\n').map_or(tail, |begin| &tail[begin + 1..]);
    format!("{head}\n[...]\n{tail}")
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    line: String,
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

impl Ran {
    /// Hides what must not be read.
    pub(super) fn hide(&mut self, secret: &str) {
        for text in [&mut self.line, &mut self.stdout, &mut self.stderr] {
            *text = text.replace(secret, HIDDEN);
        }
    }

    /// That it ended with this code.
    pub(crate) fn exits(self, code: i32) -> Result<Self, Stop> {
        if self.code == code {
            return Ok(self);
        }
        Err(self.wrong(&format!("ended with {} instead of {code}", self.code)))
    }

    /// That it printed lines that hold these words, in this order.
    pub(crate) fn says(self, words: &[&str]) -> Result<Self, Stop> {
        let mut lines = self.stdout.lines().chain(self.stderr.lines());
        match words.iter().find(|wanted| !lines.any(|line| line.contains(**wanted))) {
            None => Ok(self),
            Some(missing) => Err(self.wrong(&format!("does not say {missing:?}, or not in that order"))),
        }
    }

    /// The records that it wrote, of one type.
    pub(crate) fn records(&self, kind: &str) -> Vec<Value> {
        let records = self.stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        records.filter(|record| record["type"] == kind).collect()
    }

    /// That something of it is not as it should be.
    pub(crate) fn wrong(&self, what: &str) -> Stop {
        let lines = [&self.stdout, &self.stderr].map(|stream| stream.lines().collect::<Vec<_>>());
        let mut reasons = vec![format!("{} {what}", self.line)];
        let told = lines.concat();
        let errors = told.iter().filter(|line| line.contains("[ERROR]") || line.contains("[WARN]")).take(4);
        reasons.extend(errors.map(|line| format!("it said: {line}")));
        if reasons.len() == 1 {
            reasons.extend(told.last().map(|line| format!("it said last: {line}")));
        }
        Stop::Failed(reasons)
    }
}

/// How a command is started.
pub(super) struct Call<'a> {
    pub(super) program: &'a Path,
    /// As one would type it.
    pub(super) line: String,
    pub(super) words: &'a [&'a str],
    pub(super) environment: BTreeMap<String, String>,
    pub(super) folder: &'a Path,
    /// A file for what it prints to stdout, and one for stderr: what it has started may outlive it, and hold a pipe open.
    pub(super) output: [PathBuf; 2],
    pub(super) deadline: Instant,
}

/// A command that runs; killed where nobody waits for it.
pub(crate) struct Running {
    line: String,
    handle: duct::Handle,
    output: [PathBuf; 2],
    begun: Instant,
    deadline: Instant,
    /// It has ended, and what it had started has, or is left to itself.
    over: bool,
}

impl Call<'_> {
    /// Starts it, with nothing to read.
    pub(super) fn start(self) -> Result<Running, Stop> {
        let call = cmd(self.program, self.words).full_env(self.environment).dir(self.folder).stdin_null();
        launch(call, self.line, self.output, self.deadline)
    }
}

/// Starts a program in a process group of its own; `line` is how one would type it.
pub(crate) fn launch(
    call: Expression,
    line: String,
    output: [PathBuf; 2],
    deadline: Instant,
) -> Result<Running, Stop> {
    let cannot = |error: std::io::Error| Stop::failed(format!("cannot run {line}: {error}"));
    let [stdout, stderr] = output.each_ref().map(File::create);
    let handle = call
        .stdout_file(stdout.map_err(cannot)?)
        .stderr_file(stderr.map_err(cannot)?)
        .unchecked()
        .before_spawn(|command| {
            command.process_group(0);
            Ok(())
        })
        .start()
        .map_err(cannot)?;
    Ok(Running { line, handle, output, begun: Instant::now(), deadline, over: false })
}

impl Running {
    /// The process groups of its own: of sh, also those that it has started are in it.
    fn groups(&self) -> impl Iterator<Item = Pid> {
        self.handle.pids().into_iter().filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?))
    }

    /// Whether anybody is left in them.
    fn is_peopled(&self) -> bool {
        self.groups().any(|group| test_kill_process_group(group).is_ok())
    }

    /// Waits for the others of a command that was stopped: sh dies at once, and the tools of its pipeline unwind. What has not
    /// ended in time is killed.
    fn unwind(&self, until: Instant) {
        let wait = |until: Instant| {
            while self.is_peopled() && Instant::now() < until {
                std::thread::sleep(POLL);
            }
        };
        wait(until);
        if self.is_peopled() {
            let _ = self.signal(Signal::KILL);
            wait(Instant::now() + DYING);
        }
    }

    /// Sends a signal to it and to what it has started.
    pub(crate) fn signal(&self, signal: Signal) -> Done {
        for pid in self.groups() {
            kill_process_group(pid, signal)
                .map_err(|error| Stop::failed(format!("cannot signal {}: {error}", self.line)))?;
        }
        Ok(())
    }

    /// Whether it has ended, and how.
    pub(super) fn ended(&self) -> Result<Option<ExitStatus>, Stop> {
        let ended =
            self.handle.try_wait().map_err(|error| Stop::failed(format!("lost {}: {error}", self.line)))?;
        Ok(ended.map(|output| output.status))
    }

    /// Waits for its end; where the test's time is over or a signal has come, it is asked to end, and killed when it does not.
    /// Gives why it was stopped too, where it was.
    pub(crate) fn wait(mut self) -> Result<(Ran, Shown, Option<Stop>), Stop> {
        let mut stopped = None;
        let mut patience = self.deadline;
        let status = loop {
            if let Some(status) = self.ended()? {
                break status;
            }
            let late = Instant::now() >= patience;
            if stopped.is_some() {
                if late {
                    let _ = self.signal(Signal::KILL);
                }
            } else if late || interrupt::requested().is_some() {
                let why =
                    || Stop::failed(format!("{} had not ended when the test's time was over", self.line));
                stopped = Some(if interrupt::requested().is_some() { Stop::Signal } else { why() });
                let _ = self.signal(Signal::TERM);
                patience = Instant::now() + UNWINDING;
            }
            std::thread::sleep(POLL);
        };
        if stopped.is_some() {
            self.unwind(patience);
        }
        self.over = true;
        let took = self.begun.elapsed();
        let [stdout, stderr] = self.output.each_ref().map(|file| {
            let text = fs::read(file).unwrap_or_default();
            let _ = fs::remove_file(file);
            String::from_utf8_lossy(&text).into_owned()
        });
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1);
        let output = match (stdout.is_empty(), stderr.is_empty()) {
            (_, true) => stdout.clone(),
            (true, false) => stderr.clone(),
            (false, false) => format!("{stdout}--- stderr\n{stderr}"),
        };
        let shown = Shown { line: self.line.clone(), exit: code, seconds: took, output };
        Ok((Ran { line: self.line.clone(), code, stdout, stderr, took }, shown, stopped))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.over {
            let _ = self.signal(Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_is_cut_in_the_middle_at_whole_lines() {
        let text: String = (0..9000).map(|number| format!("zeile ü {number}\n")).collect();
        let shown = Shown { line: "x".into(), exit: 0, seconds: Duration::ZERO, output: text };
        let value = shown.to_json();
        let kept = value["output"].as_str().unwrap();
        assert!(kept.len() <= KEPT + 20 && value["cut"] == true);
        assert!(
            kept.starts_with("zeile ü 0\n")
                && kept.ends_with("zeile ü 8999\n")
                && kept.contains("\n[...]\nzeile")
        );
    }

    /// Of a pipeline sh dies at once, and the tools in it unwind; or do not.
    #[test]
    fn what_a_stopped_command_has_started_is_waited_for_and_killed_in_the_end() {
        let folder = std::env::temp_dir().join(format!("ms5-group-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let run = |script: &str| {
            let output = ["out", "err"].map(|end| folder.join(end));
            let call = cmd("sh", ["-c", script]).dir(&folder).stdin_null();
            let deadline = Instant::now() + Duration::from_millis(500);
            let (_, _, stopped) = launch(call, "x".to_owned(), output, deadline).unwrap().wait().unwrap();
            assert!(stopped.is_some());
        };
        run("bash -c 'trap \"sleep 1; touch unwound; exit\" TERM; while :; do sleep 0.1; done' | cat; true");
        assert!(folder.join("unwound").exists(), "it was not waited for");
        run("bash -c 'trap \"\" TERM; echo $$ > pid; while :; do sleep 0.1; done' | cat; true");
        let pid = fs::read_to_string(folder.join("pid")).unwrap();
        let state = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") Z "), "it runs on: {state}");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_secret_is_hidden() {
        let mut shown =
            Shown { line: "x".into(), exit: 0, seconds: Duration::ZERO, output: "a hunter2 b".into() };
        assert!(shown.hide("hunter2") && !shown.hide("hunter2"));
        assert_eq!(shown.to_json()["output"], "a *** b");
    }
}
