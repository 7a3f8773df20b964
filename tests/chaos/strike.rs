//! The runner, struck while it works: its lines are read as it prints them, and the blow falls after one of them.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use migration_tests::server::{Database, Server};
use postgres::Client;

use super::files::{File, Mark};

/// What the runner was doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Opens its sessions, takes the lock.
    Connecting,
    /// Looks for orphans, makes the extension and the ledger.
    Preparing,
    /// A statement of a file in one transaction.
    Statement,
    /// The COMMIT of such a file, with its ledger row.
    Commit,
    /// Between two files: the attempt is being recorded, or the run ends.
    Between,
    /// A statement of a stepwise file, in a transaction of its own.
    Step,
    /// The COMMIT of that one.
    StepCommit,
    /// Either COMMIT is done, and its answer is held back: the server waits for a standby that does not answer.
    Answer,
    /// A statement outside of any transaction.
    Bare,
    /// The same, of a block that commits inside: nothing in the database tells how far it came.
    Block,
    /// After that one: that it is done is being recorded.
    Recording,
    /// The ledger row of a stepwise file.
    Final,
}

impl Phase {
    pub(crate) const ALL: [Self; 12] = [
        Self::Connecting,
        Self::Preparing,
        Self::Statement,
        Self::Commit,
        Self::Between,
        Self::Step,
        Self::StepCommit,
        Self::Answer,
        Self::Bare,
        Self::Block,
        Self::Recording,
        Self::Final,
    ];

    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Connecting => "connecting, lock",
            Self::Preparing => "extension, ledger",
            Self::Statement => "statement of a transactional file",
            Self::Commit => "COMMIT of a transactional file",
            Self::Between => "between files",
            Self::Step => "step in a transaction",
            Self::StepCommit => "COMMIT of a step",
            Self::Answer => "committed, and not yet answered",
            Self::Bare => "bare statement",
            Self::Block => "block that commits inside",
            Self::Recording => "recording a bare statement",
            Self::Final => "ledger row of a stepwise file",
        }
    }
}

/// How it is struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// SIGKILL to the runner; its backends live on for a while.
    Runner,
    /// The session that works is ended, as by pg_terminate_backend.
    Terminate,
    /// SIGKILL to the backend of the session that works, as the kernel does where memory ends: the server ends every
    /// session and recovers.
    Backend,
    /// The session that holds the lock is ended in the same way.
    Lock,
    /// An immediate shutdown of the server, which is started again at once.
    Server,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] =
        [Self::Runner, Self::Terminate, Self::Backend, Self::Lock, Self::Server];

    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Runner => "kill runner",
            Self::Terminate => "terminate",
            Self::Backend => "kill backend",
            Self::Lock => "end lock",
            Self::Server => "immediate",
        }
    }
}

/// When and how to strike.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The blow falls after this line ...
    pub(crate) after: String,
    /// ... and after this time, ...
    pub(crate) delay: Duration,
    /// ... but not before the COMMIT of that line is done and its answer is held back.
    pub(crate) held: bool,
    pub(crate) kind: Kind,
}

impl fmt::Display for Plan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} us after the line {:?}", self.kind.words(), self.delay.as_micros(), self.after)
    }
}

/// A line of the runner, with the time at which it was read.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) at: Instant,
    pub(crate) text: String,
}

impl Line {
    /// Behind `[time] [LEVEL] `.
    fn body(&self) -> &str {
        self.text.splitn(3, "] ").nth(2).unwrap_or(&self.text)
    }
}

/// A run that was to be struck.
pub(crate) struct Struck {
    /// When the blow began to fall; None where the line never came, or no session of that kind was there.
    pub(crate) at: Option<Instant>,
    pub(crate) kind: Kind,
    /// It fell while the answer to a COMMIT was held back.
    pub(crate) held: bool,
    pub(crate) lines: Vec<Line>,
    pub(crate) code: i32,
}

impl Struck {
    /// Everything it printed, times left out.
    pub(crate) fn text(&self) -> String {
        self.lines.iter().map(|line| format!("  {}\n", line.text)).collect()
    }

    /// What it was doing, from its own lines: those before the first that tells of the blow, where one does, else those
    /// before the blow.
    pub(crate) fn phase(&self, files: &[File], marks: &[Mark]) -> Option<Phase> {
        let at = self.at?;
        if self.held {
            return Some(Phase::Answer);
        }
        let tells = |line: &Line| {
            line.at >= at && (line.text.contains("] [ERROR] ") || line.text.contains("connection was lost"))
        };
        let end = match self.lines.iter().position(tells) {
            Some(first) => first,
            // A killed runner prints nothing more: all of it came before.
            None if self.kind == Kind::Runner => self.lines.len(),
            None => self.lines.iter().take_while(|line| line.at <= at).count(),
        };
        self.lines[..end].iter().rev().find_map(|line| phase_of(line.body(), files, marks))
    }

    /// How far from a COMMIT the blow fell.
    pub(crate) fn to_commit(&self) -> Option<Duration> {
        let at = self.at?;
        let commits = self.lines.iter().filter(|line| line.body().starts_with("COMMIT of "));
        commits.map(|line| if line.at > at { line.at - at } else { at - line.at }).min()
    }
}

/// The lines before the first file.
pub(crate) const CONNECTING: [&str; 3] = ["Found ", "Database connection successful", "Server: "];
pub(crate) const PREPARING: [&str; 3] =
    ["Creating the extension", "TimescaleDB extension verified", "Migration log table created"];

fn phase_of(body: &str, files: &[File], marks: &[Mark]) -> Option<Phase> {
    if let Some(mark) = marks.iter().find(|mark| body.starts_with(&mark.line)) {
        return Some(mark.phase);
    }
    let begins = |lines: &[&str]| lines.iter().any(|line| body.starts_with(line));
    if begins(&CONNECTING) || begins(&["Starting MS5.0", "Environment: "]) {
        return Some(Phase::Connecting);
    }
    // A file of an earlier part of the trial.
    let skips = files.iter().any(|file| body.starts_with(&format!("Migration {} already", file.title)));
    if skips {
        return Some(Phase::Between);
    }
    begins(&PREPARING).then_some(Phase::Preparing)
}

/// A shell that waits for orders: a signal is sent by its own `kill`, without the time that starting a program takes.
pub(crate) struct Killer {
    shell: Child,
    orders: ChildStdin,
}

impl Killer {
    pub(crate) fn new() -> Self {
        let mut shell = Command::new("sh")
            .args(["-c", "while read -r signal pid; do kill -$signal $pid; done"])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let orders = shell.stdin.take().unwrap();
        Self { shell, orders }
    }

    fn kill(&mut self, signal: &str, pid: i32) {
        writeln!(self.orders, "{signal} {pid}").unwrap();
    }
}

impl Drop for Killer {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// Whether a process of this machine is the server's: its number may be another's by now.
fn is_of(server: &Server, pid: i32) -> bool {
    let data = fs::canonicalize(server.variable("MS5_SANDBOX_DATA"));
    let works_in = fs::read_link(format!("/proc/{pid}/cwd"));
    data.is_ok_and(|data| works_in.is_ok_and(|folder| folder == data))
}

fn postmaster(server: &Server) -> Option<i32> {
    let file = Path::new(server.variable("MS5_SANDBOX_DATA")).join("postmaster.pid");
    let pid = fs::read_to_string(file).ok()?.lines().next()?.trim().parse().ok()?;
    is_of(server, pid).then_some(pid)
}

/// Processes that are known before the blow, so that asking does not put it off.
struct Known {
    postmaster: Option<i32>,
    run: Option<i32>,
    lock: Option<i32>,
}

/// A session of the runner in this database.
fn pid_of(eyes: &mut Client, purpose: &str) -> Option<i32> {
    let name = format!("migration-runner {purpose}");
    let query =
        "SELECT max(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1";
    eyes.query_one(query, &[&name]).ok()?.get(0)
}

/// Starts the runner, strikes it, waits for its end, and sees that the server runs again.
pub(crate) fn run(
    server: &Server,
    database: &Database<'_>,
    killer: &mut Killer,
    mut runner: Command,
    plan: &Plan,
) -> Struck {
    let mut eyes = database.superuser().unwrap();
    let mut known = Known { postmaster: postmaster(server), run: None, lock: None };
    runner.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = runner.spawn().unwrap();
    let lines = follow(&mut child);
    let mut seen = Vec::new();
    let mut at = None;
    let mut held = false;
    while let Some(line) = next(&lines, &mut child) {
        let strikes = at.is_none() && line.body().starts_with(&plan.after);
        let due = line.at + plan.delay;
        if line.body().starts_with("Migration log table created") {
            known.run = pid_of(&mut eyes, "run");
            known.lock = pid_of(&mut eyes, "lock");
        }
        seen.push(line);
        if strikes {
            if plan.held {
                held = hold_back(&mut eyes);
            }
            wait_until(due);
            if held || !plan.held {
                at = blow(server, killer, &mut child, &mut eyes, &known, plan.kind);
            }
            if plan.held {
                let_go(database);
            }
            if at.is_none() {
                break;
            }
        }
    }
    while let Some(line) = next(&lines, &mut child) {
        seen.push(line);
    }
    let code = exit_code(&mut child);
    if matches!(plan.kind, Kind::Backend | Kind::Server) {
        wait_for_server(database);
    }
    Struck { at, kind: plan.kind, held, lines: seen, code }
}

/// Makes COMMITs wait for a standby that there is not, as they do where one is lost, and waits until the runner's waits:
/// it is done then, and nobody has been told. False where it was over before.
fn hold_back(eyes: &mut Client) -> bool {
    eyes.batch_execute("ALTER SYSTEM SET synchronous_standby_names TO 'nobody'").unwrap();
    eyes.batch_execute("SELECT pg_reload_conf()").unwrap();
    let deadline = Instant::now() + Duration::from_secs(2);
    while Instant::now() < deadline {
        let waiting: i64 = eyes
            .query_one(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                 AND application_name = 'migration-runner run' AND wait_event = 'SyncRep'",
                &[],
            )
            .unwrap()
            .get(0);
        if waiting > 0 {
            return true;
        }
    }
    false
}

fn let_go(database: &Database<'_>) {
    wait_for_server(database);
    let mut client = database.superuser().unwrap();
    client.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").unwrap();
    client.batch_execute("SELECT pg_reload_conf()").unwrap();
}

/// Strikes; the time at which it was done, None where there was nothing to hit.
fn blow(
    server: &Server,
    killer: &mut Killer,
    child: &mut Child,
    eyes: &mut Client,
    known: &Known,
    kind: Kind,
) -> Option<Instant> {
    let at = Instant::now();
    let pid = match kind {
        Kind::Runner | Kind::Server => None,
        Kind::Lock => known.lock.or_else(|| pid_of(eyes, "lock")),
        Kind::Terminate | Kind::Backend => known.run.or_else(|| pid_of(eyes, "run")),
    };
    let hit = match kind {
        Kind::Runner => child.kill().is_ok(),
        Kind::Terminate | Kind::Lock | Kind::Backend => {
            // SIGTERM is what pg_terminate_backend sends.
            let signal = if kind == Kind::Backend { "KILL" } else { "TERM" };
            pid.filter(|pid| is_of(server, *pid)).is_some_and(|pid| {
                killer.kill(signal, pid);
                true
            })
        }
        Kind::Server => {
            if let Some(pid) = known.postmaster {
                killer.kill("QUIT", pid);
            }
            true
        }
    };
    if kind == Kind::Server {
        // Also where the postmaster could not be reached by a signal; and it waits until it is gone.
        server.sandbox(&["stop", "--mode=immediate"]).unwrap();
        server.sandbox(&["start"]).unwrap();
    }
    hit.then_some(at)
}

/// The lines of the runner as they come, each with its time.
fn follow(child: &mut Child) -> Receiver<Line> {
    let (sender, receiver) = channel();
    let streams: [Box<dyn Read + Send>; 2] =
        [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
    for stream in streams {
        let sender = sender.clone();
        thread::spawn(move || {
            for text in BufReader::new(stream).lines() {
                let Ok(text) = text else { break };
                if sender.send(Line { at: Instant::now(), text }).is_err() {
                    break;
                }
            }
        });
    }
    receiver
}

/// None at the end. A runner that says nothing for two minutes hangs.
fn next(lines: &Receiver<Line>, child: &mut Child) -> Option<Line> {
    match lines.recv_timeout(Duration::from_secs(120)) {
        Ok(line) => Some(line),
        Err(RecvTimeoutError::Disconnected) => None,
        Err(RecvTimeoutError::Timeout) => {
            let _ = child.kill();
            Some(Line { at: Instant::now(), text: "HANGS: killed by the test".to_owned() })
        }
    }
}

fn exit_code(child: &mut Child) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    let status = child.wait().unwrap();
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}

fn wait_until(due: Instant) {
    // The scheduler is late by a part of a millisecond, which is what this is about.
    if let Some(long) =
        due.checked_duration_since(Instant::now()).and_then(|left| left.checked_sub(Duration::from_millis(1)))
    {
        thread::sleep(long);
    }
    while Instant::now() < due {
        std::hint::spin_loop();
    }
}

/// Waits until the server takes sessions again.
fn wait_for_server(database: &Database<'_>) {
    let deadline = Instant::now() + Duration::from_secs(60);
    // A backend that was killed is seen by the postmaster a moment later: until then the old server still answers.
    thread::sleep(Duration::from_millis(300));
    while database.superuser().is_err() {
        assert!(Instant::now() < deadline, "the server does not come back");
        thread::sleep(Duration::from_millis(20));
    }
}
