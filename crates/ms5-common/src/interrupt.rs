//! SIGINT, SIGTERM and SIGHUP: the first asks the work to end, a later one ends the process at once.
//!
//! A handler thread hears them. While nothing is being worked on ([`Work`]) the first one ends the process too, after
//! the last record is written and what runs on the server was cancelled once. Otherwise it cancels, on the server, what the sessions under [`cancellable`] are
//! running, again and again until they have noticed; each of them then rolls back and writes down what happened.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::db::connect::Canceller;
use crate::exit::Exit;

/// How often a statement that has not noticed yet is cancelled again: a cancel that arrives between two statements
/// is lost.
const AGAIN: Duration = Duration::from_millis(250);

/// How long cancelling may hold up the end of a process that has nothing to unwind.
const PATIENCE: Duration = Duration::from_secs(2);

/// What follows the first signal within this time is part of it: timeout(1) sends each to the process and to its group.
const ONE_BLOW: Duration = Duration::from_millis(300);

struct State {
    requested: Option<Exit>,
    /// The handler ends the process: nobody else may.
    ending: bool,
    working: usize,
    running: BTreeMap<u64, Canceller>,
    next: u64,
}

static STATE: Mutex<State> =
    Mutex::new(State { requested: None, ending: false, working: 0, running: BTreeMap::new(), next: 0 });
static CHANGED: Condvar = Condvar::new();

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins to listen. `idle` is called when the first signal comes while nothing is worked on, right before the process
/// ends; `code` makes the number that it then ends with.
///
/// A signal that the caller has told the process to ignore (nohup, a shell's background job) stays ignored.
///
/// # Errors
/// The operating system's.
pub fn listen(
    idle: impl Fn(Exit) + Send + 'static,
    code: impl Fn(Exit) -> u8 + Send + 'static,
) -> io::Result<()> {
    let ignored = ignored();
    let heard = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| ignored & (1 << (signal - 1)) == 0);
    let mut signals = Signals::new(heard)?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut first: Option<Instant> = None;
        for signal in signals.forever() {
            let (exit, name) = match signal {
                SIGHUP => (Exit::HangUp, "SIGHUP"),
                SIGINT => (Exit::Interrupt, "SIGINT"),
                _ => (Exit::Terminate, "SIGTERM"),
            };
            let since = first.get_or_insert_with(Instant::now).elapsed();
            if state().requested.is_some() {
                if since < ONE_BLOW {
                    continue;
                }
                log::warn!("{name} again: ending at once; what the server was sent it ends or rolls back by itself (--status tells)");
                end(code(exit));
            }
            let working = {
                let mut state = state();
                state.requested = Some(exit);
                state.ending = state.working == 0;
                CHANGED.notify_all();
                state.working > 0
            };
            if !working {
                log::warn!("{name}: ending; nothing was being changed");
                idle(exit);
                cancel_once();
                end(code(exit));
            }
            log::warn!("{name}: cancelling the running statement and rolling back (once more ends at once)");
            thread::spawn(cancel_for_ever);
        }
    })?;
    Ok(())
}

/// The signals that are ignored, as the kernel tells them; none where it does not.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[allow(clippy::exit)]
fn end(code: u8) -> ! {
    std::process::exit(i32::from(code))
}

/// A server would go on reading for a client that is gone. Where it cannot be reached nobody waits for that.
fn cancel_once() {
    let running: Vec<Canceller> = state().running.values().cloned().collect();
    let (done, all) = mpsc::channel::<()>();
    for canceller in running {
        let done = done.clone();
        thread::spawn(move || {
            let _ = canceller.cancel();
            drop(done);
        });
    }
    drop(done);
    let _ = all.recv_timeout(PATIENCE);
}

fn cancel_for_ever() {
    loop {
        // Under the lock: a session that has left `cancellable` gets no cancel that was meant for what it ran before.
        let state = state();
        for canceller in state.running.values() {
            if let Err(error) = canceller.cancel() {
                log::warn!("cannot cancel the running statement: {error}");
            }
        }
        drop(state);
        thread::sleep(AGAIN);
    }
}

/// Does not return where a signal is ending the process: its exit code is the signal's, whatever became of the work.
pub fn leave_the_end_to_signals() {
    let mut state = state();
    while state.ending {
        state = CHANGED.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
}

/// The exit code that a signal has asked for, if one came.
#[must_use]
pub fn requested() -> Option<Exit> {
    state().requested
}

/// Sleeps; false when a signal ended the sleep.
#[must_use]
pub fn sleep(duration: Duration) -> bool {
    let deadline = Instant::now() + duration;
    let mut state = state();
    while state.requested.is_none() {
        let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        else {
            return true;
        };
        state = CHANGED.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
    }
    false
}

/// Something that must be unwound is going on for as long as this lives: a signal asks, and does not end the process.
#[derive(Debug)]
pub struct Work(());

/// Begins work; None when a signal has already come.
#[must_use]
pub fn work() -> Option<Work> {
    let mut state = state();
    if state.requested.is_some() {
        return None;
    }
    state.working += 1;
    Some(Work(()))
}

impl Drop for Work {
    fn drop(&mut self) {
        state().working -= 1;
    }
}

/// A session whose running statement a signal cancels, for as long as this lives.
#[derive(Debug)]
pub struct Cancellable(u64);

/// Puts a session under the signals.
#[must_use]
pub fn cancellable(canceller: &Canceller) -> Cancellable {
    let mut state = state();
    let key = state.next;
    state.next += 1;
    state.running.insert(key, canceller.clone());
    Cancellable(key)
}

impl Drop for Cancellable {
    fn drop(&mut self) {
        state().running.remove(&self.0);
    }
}
