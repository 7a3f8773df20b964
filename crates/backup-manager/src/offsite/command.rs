//! The operator's command that a tar goes into or comes out of: run by sh without our passwords, ended together with all that it
//! has started, its words among our lines.
//!
//! Of its text nothing but the first word is ever shown: the rest may hold a token.

use std::collections::VecDeque;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use duct::{Expression, Handle, cmd};
use ms5_common::config::Variables;
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::interrupt;
use rustix::io::ioctl_fionread;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process_group, test_kill_process_group, waitid,
};

use crate::sessions::stopped;

/// The variable that names the backup, so that one line serves for all.
pub(super) const NAME: &str = "MS5_BACKUP_NAME";
/// The variable that tells how long its input will be, which some stores ask for.
const BYTES: &str = "MS5_BACKUP_BYTES";
/// How often it is looked for a signal, and for what the command is doing.
const POLL: Duration = Duration::from_millis(20);
/// How long a command that is ended may take to clear away what it has begun at the far end.
const GRACE: Duration = Duration::from_secs(5);
/// How many of its last lines an error repeats.
const LAST: usize = 10;
/// How much of a line is shown, in bytes.
const LINE: usize = 1000;

/// A command that sh understands.
pub(super) struct Shell<'a> {
    text: &'a str,
    called: String,
    variables: &'a Variables,
}

/// Why nothing came of feeding a command.
pub(super) enum Unfed {
    /// What was to be sent is not as it should be.
    Ours(Error),
    /// The command did not take it.
    Theirs(Error),
}

/// Why what was sent is not all of it.
pub(super) enum Unsent {
    /// What is read is not as it should be.
    Source(Error),
    /// The command does not read on.
    Sink(io::Error),
}

/// How far a command's output was read.
pub(super) enum Taken<T> {
    /// To its end.
    Whole(T),
    /// As far as it was wanted: what becomes of the command is all the same.
    Early(T),
}

/// Why a command's output was not taken.
pub(super) enum Untaken {
    /// It ends too early: the command may know why.
    CutOff(Error),
    /// It is not what is wanted, or has no place here.
    Wrong(Error),
}

impl<'a> Shell<'a> {
    /// Looks at a command without running it.
    ///
    /// # Errors
    /// [`Exit::Config`] where sh does not understand it, or finds no program of its first word's name.
    pub(super) fn check(text: &'a str, variables: &'a Variables) -> Result<Self> {
        let shell = Self { text, called: called(text), variables };
        let asked = |arguments: &[&str]| {
            shell
                .without_passwords(cmd("sh", arguments))
                .stdin_null()
                .stdout_null()
                .stderr_null()
                .unchecked()
                .run()
                .map_err(|error| shell.cannot_start(error))
        };
        if !asked(&["-n", "-c", text])?.status.success() {
            return Err(Error::new(
                Exit::Config,
                format!("sh does not understand the command ({})", shell.called),
            )
            .because("nothing was touched")
            .hint("look at its quotes: sh -n -c 'COMMAND' says more"));
        }
        if shell.is_named() && !asked(&["-c", "command -v \"$1\"", "sh", &shell.called])?.status.success() {
            return Err(Error::new(Exit::Config, format!("there is no program {} here", shell.called))
                .because("nothing was touched")
                .hint("install it, put its folder on PATH, or give its whole path"));
        }
        Ok(shell)
    }

    /// As messages call it.
    pub(super) fn called(&self) -> &str {
        &self.called
    }

    /// Runs it with what `write` writes as its input. It has taken all of it only where it has read to the end and ends with 0.
    ///
    /// # Errors
    /// Whose fault it is, and a signal's exit.
    pub(super) fn feed<T>(
        &self,
        backup: &str,
        bytes: u64,
        write: impl FnOnce(&mut PipeWriter) -> std::result::Result<T, Unsent>,
    ) -> std::result::Result<T, Unfed> {
        let (input, mut output) = io::pipe().map_err(|error| Unfed::Theirs(self.cannot_start(error)))?;
        let wired = |call: Expression, words: PipeWriter| {
            Ok(call.stdin_file(input).stdout_file(words.try_clone()?).stderr_file(words))
        };
        let running = self.start(Some(backup), Some(bytes), wired).map_err(Unfed::Theirs)?;
        let (written, ended) = running.watched(|| {
            let written = write(&mut output).and_then(|done| running.has_read(&output).map(|()| done));
            if written.as_ref().is_err_and(|why| matches!(why, Unsent::Source(_))) {
                // Before its input ends: what has come must not look like all there was to come.
                running.end();
            }
            drop(output);
            (written, running.wait())
        });
        let theirs = |error: Error| {
            Unfed::Theirs(stopped().err().unwrap_or_else(|| error.because_all(running.last_words())))
        };
        match (written, self.ended_well(&running, ended)) {
            (Ok(done), Ok(())) => Ok(done),
            (Err(Unsent::Source(error)), _) => Err(Unfed::Ours(stopped().err().unwrap_or(error))),
            (_, Err(error)) => Err(theirs(error)),
            (Err(Unsent::Sink(why)), Ok(())) => {
                let error = format!("{} ended with 0 and has not read all of the tar", self.called);
                let error = Error::new(Exit::Failed, error);
                Err(theirs(match why.kind() {
                    io::ErrorKind::BrokenPipe => error,
                    _ => error.because(why),
                }))
            }
        }
    }

    /// Runs it with its output read by `read`. It has given all of it only where it ends with 0.
    ///
    /// # Errors
    /// What is wrong with the output or the command, and a signal's exit.
    pub(super) fn drain<T>(
        &self,
        backup: Option<&str>,
        read: impl FnOnce(&mut PipeReader) -> std::result::Result<Taken<T>, Untaken>,
    ) -> Result<T> {
        let (mut input, output) = io::pipe().map_err(|error| self.cannot_start(error))?;
        let running = self.start(backup, None, |call, words| {
            Ok(call.stdin_null().stdout_file(output).stderr_file(words))
        })?;
        let (taken, ended) = running.watched(|| {
            let taken = read(&mut input);
            if matches!(taken, Ok(Taken::Early(_)) | Err(Untaken::Wrong(_))) {
                running.end();
            }
            drop(input);
            (taken, running.wait())
        });
        let theirs = |error: Error| {
            stopped().err().unwrap_or_else(|| {
                error
                    .because_all(running.last_words())
                    .because("nothing of what it gave is kept")
                    .hint("try the command by itself: COMMAND | tar -tv shows what comes out of it")
            })
        };
        match (taken, self.ended_well(&running, ended)) {
            (Ok(Taken::Early(done)), _) | (Ok(Taken::Whole(done)), Ok(())) => Ok(done),
            (Ok(Taken::Whole(_)), Err(why)) => Err(theirs(why.because("it had given a whole tar before"))),
            (Err(Untaken::CutOff(error)), Ok(())) => Err(theirs(error)),
            (Err(Untaken::CutOff(error)), Err(why)) => Err(theirs(why.because(error.message()))),
            (Err(Untaken::Wrong(error)), _) => Err(stopped().err().unwrap_or(error)),
        }
    }

    fn ended_well(&self, running: &Running, ended: io::Result<ExitStatus>) -> Result<()> {
        if running.wants_terminal.load(Ordering::Relaxed) {
            return Err(Error::new(Exit::Failed, format!("{} asks for something on the terminal, which it cannot have", self.called))
                .because("it was ended")
                .hint("let it do without a question: a key or an agent for ssh, a configuration file for a password"));
        }
        let failed = |how: String| Error::new(Exit::Failed, format!("{} {how}", self.called));
        let status = ended.map_err(|error| failed("was lost".to_owned()).because(error))?;
        match (status.code(), status.signal()) {
            (Some(0), _) => Ok(()),
            (Some(code @ (126 | 127)), _) => Err(failed(format!("ended with exit code {code}"))
                .hint("a program in the command is missing or may not be executed")),
            (Some(code), _) => Err(failed(format!("ended with exit code {code}"))),
            (None, Some(signal)) => Err(failed(format!("was ended by signal {signal}"))),
            (None, None) => Err(failed(format!("ended with {status}"))),
        }
    }

    fn start(
        &self,
        backup: Option<&str>,
        bytes: Option<u64>,
        wire: impl FnOnce(Expression, PipeWriter) -> io::Result<Expression>,
    ) -> Result<Running> {
        let begin = || -> io::Result<Running> {
            let (words, told) = io::pipe()?;
            let call = self.without_passwords(cmd("sh", ["-c", self.text]));
            let told_of = [(NAME, backup.map(str::to_owned)), (BYTES, bytes.map(|bytes| bytes.to_string()))];
            let call = told_of.into_iter().fold(call, |call, (name, value)| match value {
                Some(value) => call.env(name, value),
                None => call.env_remove(name),
            });
            // A group of its own: it is ended as a whole, and Ctrl-C on the terminal comes to it once, from us.
            let call = call.unchecked().before_spawn(|command| {
                command.process_group(0);
                Ok(())
            });
            let handle = wire(call, told)?.start()?;
            let group = handle.pids().first().and_then(|pid| Pid::from_raw(i32::try_from(*pid).ok()?));
            Ok(Running {
                words: Words::of(words, &self.called),
                handle,
                group,
                wants_terminal: AtomicBool::new(false),
            })
        };
        begin().map_err(|error| self.cannot_start(error))
    }

    fn cannot_start(&self, error: io::Error) -> Error {
        Error::new(Exit::Failed, format!("cannot start {}", self.called)).because(error)
    }

    fn is_named(&self) -> bool {
        self.called != UNNAMED
    }

    /// It has its own secrets in its environment, and none of ours.
    fn without_passwords(&self, call: Expression) -> Expression {
        self.variables.passwords().into_iter().fold(call, |call, name| call.env_remove(name))
    }
}

/// What a command is called that does not begin with a program's name.
const UNNAMED: &str = "the command";

/// A command's first word where it is plainly a program's name: an assignment or what is quoted may be a secret.
fn called(text: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "_./+-".contains(letter);
    match text.split_whitespace().next() {
        Some(first) if first.chars().all(plain) => first.to_owned(),
        _ => UNNAMED.to_owned(),
    }
}

/// A command that runs.
struct Running {
    handle: Handle,
    /// The group of its processes.
    group: Option<Pid>,
    words: Words,
    wants_terminal: AtomicBool,
}

impl Running {
    /// Works with the command, which a signal ends meanwhile, and a question on the terminal that nobody could answer.
    fn watched<T>(&self, work: impl FnOnce() -> T) -> T {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    if !interrupt::sleep(POLL) || self.stands_at_terminal() {
                        self.end();
                        return;
                    }
                }
            });
            // Also where the work panics, or the scope would wait for ever.
            let _ended = OnDrop(&done);
            work()
        })
    }

    /// Waits until the command has read what was written. What fits into the pipe would otherwise count as read.
    fn has_read(&self, output: &PipeWriter) -> std::result::Result<(), Unsent> {
        let mut pause = Duration::from_millis(1);
        while ioctl_fionread(output).is_ok_and(|unread| unread > 0) {
            if self.handle.try_wait().is_ok_and(|ended| ended.is_some()) {
                return Err(Unsent::Sink(io::ErrorKind::BrokenPipe.into()));
            }
            thread::sleep(pause);
            pause = (pause * 2).min(POLL);
        }
        Ok(())
    }

    fn wait(&self) -> io::Result<ExitStatus> {
        self.handle.wait().map(|output| output.status)
    }

    /// Ends all its processes: asks them, and after a while does not ask.
    fn end(&self) {
        let Some(group) = self.group else {
            let _ = self.handle.kill();
            return;
        };
        let _ = kill_process_group(group, Signal::TERM);
        // One that is stopped would hear of it only later.
        let _ = kill_process_group(group, Signal::CONT);
        let deadline = Instant::now() + GRACE;
        while test_kill_process_group(group).is_ok() && Instant::now() < deadline {
            // A process that has ended is there until it is waited for.
            let _ = self.handle.try_wait();
            thread::sleep(Duration::from_millis(10));
        }
        let _ = kill_process_group(group, Signal::KILL);
    }

    /// Whether the command was stopped for reading from the terminal: its group is not the one that may.
    fn stands_at_terminal(&self) -> bool {
        let Some(group) = self.group else { return false };
        // Its end is not taken from who waits for it.
        let how = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let stopped =
            waitid(WaitId::Pid(group), how).ok().flatten().and_then(|status| status.stopping_signal());
        let stands = [Signal::TTIN, Signal::TTOU].iter().any(|signal| stopped == Some(signal.as_raw()));
        if stands {
            self.wants_terminal.store(true, Ordering::Relaxed);
        }
        stands
    }

    fn last_words(&self) -> Vec<String> {
        self.words.last()
    }
}

/// Says that something is done when it is dropped.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a command says, line by line as it comes, and its last lines for an error.
struct Words {
    last: Arc<Mutex<VecDeque<String>>>,
    /// Closed when it has said all.
    end: Mutex<mpsc::Receiver<()>>,
}

impl Words {
    fn of(mut from: PipeReader, called: &str) -> Self {
        let last = Arc::new(Mutex::new(VecDeque::new()));
        let (saying, end) = mpsc::channel();
        let (kept, called) = (Arc::clone(&last), called.to_owned());
        // It may be read longer than the command lives, by what it has left in the background: nobody waits for that.
        thread::spawn(move || {
            let _saying = saying;
            lines(&mut from, |line| {
                log::info!("{called}: {line}");
                let mut last = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if last.len() == LAST {
                    last.pop_front();
                }
                last.push_back(line);
            });
        });
        Self { last, end: Mutex::new(end) }
    }

    fn last(&self) -> Vec<String> {
        let _ = self.end.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(Duration::from_secs(1));
        self.last.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// Takes lines as a terminal would show them in the end: what a carriage return goes back over, such as a line of progress, is
/// not said.
fn lines(from: &mut impl Read, mut say: impl FnMut(String)) {
    let mut line: Vec<u8> = Vec::new();
    let mut back = false;
    let mut put = |line: &mut Vec<u8>| {
        let text = String::from_utf8_lossy(line);
        let text: String =
            text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
        if !text.trim().is_empty() {
            say(text.trim_end().to_owned());
        }
        line.clear();
    };
    let mut piece = [0; 4096];
    loop {
        match from.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) | Ok(0) => return put(&mut line),
            Ok(count) => {
                for byte in &piece[..count] {
                    match byte {
                        b'\n' => put(&mut line),
                        b'\r' => back = true,
                        _ => {
                            if std::mem::take(&mut back) {
                                line.clear();
                            }
                            if line.len() < LINE {
                                line.push(*byte);
                            }
                        }
                    }
                    back &= *byte == b'\r';
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_programs_name_is_shown() {
        for (text, shown) in [
            ("rclone rcat far:token", "rclone"),
            ("  /opt/bin/restic backup", "/opt/bin/restic"),
            ("TOKEN=secret curl x", UNNAMED),
            ("'secret' x", UNNAMED),
            ("$SECRET", UNNAMED),
            ("(secret)", UNNAMED),
            ("", UNNAMED),
        ] {
            assert_eq!(called(text), shown);
        }
    }

    #[test]
    fn lines_as_a_terminal_shows_them() {
        let mut said = Vec::new();
        let long = "x".repeat(5000);
        let text = format!("one\r\n\n10 %\r20 %\r100 %\ntwo\x1b[1m\t!\n{long}\nno end");
        lines(&mut text.as_bytes(), |line| said.push(line));
        assert_eq!(said, ["one", "100 %", "two [1m !", &long[..LINE], "no end"]);
    }

    #[test]
    fn what_sh_does_not_understand_is_refused_before() {
        let variables = Variables::default();
        for text in ["cat 'x", "no_such_program_of_ours x", "/no/such/program"] {
            assert_eq!(
                Shell::check(text, &variables).err().map(|error| error.exit()),
                Some(Exit::Config),
                "{text}"
            );
        }
        for text in
            ["cat", "TOKEN=x no_such_program", "if true; then cat; fi", "exec cat", ". /dev/null; cat"]
        {
            assert!(Shell::check(text, &variables).is_ok(), "{text}");
        }
    }
}
