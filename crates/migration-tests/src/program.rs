//! Runs a tool's real binary in a cleared environment and keeps what it printed.

use std::ffi::OsStr;
use std::fmt;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A folder that goes away with the value, made under the system's folder for temporary files.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// Makes a new folder whose name begins with `name`.
    ///
    /// # Errors
    /// The operating system's.
    pub fn new(name: &str) -> std::io::Result<Self> {
        static COUNTER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ms5-{name}-{}-{number}", std::process::id()));
        // A run that was killed may have left one, and had the same number.
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The top of the project's tree.
#[must_use]
pub fn project_root() -> PathBuf {
    // crates/migration-tests lies two folders below the top.
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new("/")).to_owned()
}

/// The folder that holds the tools' binaries: `MS5_BIN_DIR`, or cargo's, brought up to date once a process.
///
/// # Errors
/// Why there is none, in words.
pub fn bin_dir() -> Result<PathBuf, String> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    if let Some(folder) = std::env::var_os("MS5_BIN_DIR") {
        return Ok(PathBuf::from(folder));
    }
    BUILT
        .get_or_init(|| {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let built = Command::new(cargo)
                .args(["build", "--quiet", "--workspace", "--bins"])
                .current_dir(project_root())
                .output()
                .map_err(|error| format!("cannot run cargo build: {error}"))?;
            if !built.status.success() {
                return Err(format!("cargo build failed: {}", String::from_utf8_lossy(&built.stderr)));
            }
            // target/debug/deps/test-1234: the binaries lie one folder up.
            let test = std::env::current_exe().map_err(|error| error.to_string())?;
            Ok(test.ancestors().nth(2).unwrap_or(Path::new(".")).to_owned())
        })
        .clone()
}

/// A command line of a tool, its environment holding nothing but what is added.
pub struct Program {
    command: Command,
    input: Option<Vec<u8>>,
    shown: String,
}

impl Program {
    /// The tool `name`.
    ///
    /// # Panics
    /// Where there is no such binary: a test without its tool must fail.
    #[must_use]
    pub fn tool(name: &str) -> Self {
        match bin_dir() {
            Ok(folder) => Self::at(&folder.join(name)),
            #[allow(clippy::panic)]
            Err(why) => panic!("no binary of {name}: {why}"),
        }
    }

    /// Any program.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        let mut command = Command::new(path);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        Self { command, input: None, shown: path.display().to_string() }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.shown = format!("{} {}", self.shown, argument.as_ref().to_string_lossy());
        self.command.arg(argument);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<T: AsRef<OsStr>>(self, arguments: impl IntoIterator<Item = T>) -> Self {
        arguments.into_iter().fold(self, Self::arg)
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets variables.
    #[must_use]
    pub fn envs<'a>(self, pairs: impl IntoIterator<Item = &'a (String, String)>) -> Self {
        pairs.into_iter().fold(self, |program, (name, value)| program.env(name, value))
    }

    /// Runs in another folder.
    #[must_use]
    pub fn current_dir(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Gives it something to read; without, it reads an empty input.
    #[must_use]
    pub fn input(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.input = Some(text.into());
        self
    }

    /// The command itself, for what the methods above don't cover.
    #[must_use]
    pub fn into_command(self) -> Command {
        self.command
    }

    /// Starts it and goes on. What it prints is kept for [`Started::wait`]; more than a pipe holds makes it wait.
    ///
    /// # Panics
    /// Where it cannot be started.
    #[must_use]
    #[allow(clippy::panic)]
    pub fn start(mut self) -> Started {
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        match self.command.spawn() {
            Ok(child) => Started { shown: self.shown, child },
            Err(error) => panic!("cannot start {}: {error}", self.shown),
        }
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// Where it cannot be started.
    #[must_use]
    #[allow(clippy::panic)]
    pub fn run(mut self) -> Ran {
        self.command
            .stdin(if self.input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = match self.command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("cannot start {}: {error}", self.shown),
        };
        // Fed by a thread of its own, or a tool that prints much before it reads would wait for us for ever.
        let feeder = self.input.take().zip(child.stdin.take()).map(|(input, mut stdin)| {
            std::thread::spawn(move || {
                let _ = stdin.write_all(&input);
            })
        });
        let output = match child.wait_with_output() {
            Ok(output) => output,
            Err(error) => panic!("lost {}: {error}", self.shown),
        };
        if let Some(feeder) = feeder {
            let _ = feeder.join();
        }
        Ran { shown: self.shown, output }
    }

    /// Runs it without input, to its end or for as long as `limit`.
    ///
    /// # Panics
    /// Where it cannot be started, or has not ended by then; it is killed first.
    #[must_use]
    #[allow(clippy::panic)]
    pub fn run_within(mut self, limit: Duration) -> Ran {
        let deadline = Instant::now() + limit;
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = match self.command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("cannot start {}: {error}", self.shown),
        };
        let read = |stream: Option<Box<dyn Read + Send>>| {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                if let Some(mut stream) = stream {
                    let _ = stream.read_to_end(&mut bytes);
                }
                bytes
            })
        };
        let stdout = read(child.stdout.take().map(|stream| Box::new(stream) as _));
        let stderr = read(child.stderr.take().map(|stream| Box::new(stream) as _));
        let mut late = false;
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if late || Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
                Ok(None) => {
                    late = true;
                    let _ = child.kill();
                }
                Err(error) => panic!("lost {}: {error}", self.shown),
            }
        };
        let [stdout, stderr] = [stdout, stderr].map(|reader| reader.join().unwrap_or_default());
        let ran = Ran { shown: self.shown, output: Output { status, stdout, stderr } };
        assert!(!late, "not ended after {limit:?}\n{ran}");
        ran
    }
}

/// A program that runs beside the test.
pub struct Started {
    shown: String,
    child: Child,
}

impl Started {
    /// Sends it a signal: `INT`, `TERM`, `HUP`, `KILL`, `STOP`, `CONT`.
    ///
    /// # Panics
    /// Where it is none of these, or cannot be sent.
    #[allow(clippy::panic)]
    pub fn signal(&self, name: &str) {
        let signal = match name {
            "INT" => Signal::INT,
            "TERM" => Signal::TERM,
            "HUP" => Signal::HUP,
            "KILL" => Signal::KILL,
            "STOP" => Signal::STOP,
            "CONT" => Signal::CONT,
            _ => panic!("no signal of the tests: {name}"),
        };
        let sent = kill_process(Pid::from_child(&self.child), signal);
        assert!(sent.is_ok(), "cannot send SIG{name} to {}: {sent:?}", self.shown);
    }

    /// Kills it at once, and waits for its end.
    #[must_use]
    pub fn kill(mut self) -> Ran {
        let _ = self.child.kill();
        self.wait()
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// Where it is lost.
    #[must_use]
    #[allow(clippy::panic)]
    pub fn wait(self) -> Ran {
        match self.child.wait_with_output() {
            Ok(output) => Ran { shown: self.shown, output },
            Err(error) => panic!("lost {}: {error}", self.shown),
        }
    }
}

/// What a program did.
pub struct Ran {
    shown: String,
    output: Output,
}

impl Ran {
    /// The exit status; 128 and the signal's number where a signal ended it.
    #[must_use]
    pub fn code(&self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        let status = self.output.status;
        status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
    }

    /// What it wrote to stdout.
    #[must_use]
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    /// What it wrote to stderr.
    #[must_use]
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    /// The records on stdout.
    ///
    /// # Panics
    /// Where a line is not JSON.
    #[must_use]
    #[allow(clippy::panic)]
    pub fn records(&self) -> Vec<Value> {
        self.stdout()
            .lines()
            .map(|line| match serde_json::from_str(line) {
                Ok(record) => record,
                Err(error) => panic!("not a record ({error}): {line}\n{self}"),
            })
            .collect()
    }

    /// The same, after checking the exit status.
    ///
    /// # Panics
    /// With everything there is to see, where the status is another one.
    #[must_use]
    #[allow(clippy::panic)]
    pub fn expect(self, code: i32) -> Self {
        if self.code() != code {
            panic!("expected exit {code}\n{self}");
        }
        self
    }

    /// The same, after checking that each text stands in stdout or stderr.
    ///
    /// # Panics
    /// With everything there is to see, where one is missing.
    #[must_use]
    #[allow(clippy::panic)]
    pub fn shows(self, texts: &[&str]) -> Self {
        let all = format!("{}{}", self.stdout(), self.stderr());
        for text in texts {
            if !all.contains(text) {
                panic!("expected to read {text:?}\n{self}");
            }
        }
        self
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "$ {}\nexit {}", self.shown, self.code())?;
        writeln!(out, "--- stdout\n{}--- stderr\n{}---", self.stdout(), self.stderr())
    }
}
