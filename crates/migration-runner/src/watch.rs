//! Watches a working session from another one, once a statement takes long: who holds it up, and how far it is.

use std::fmt::Write as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ms5_common::config::Settings;
use ms5_common::db::client::Client;
use ms5_common::db::session::{self, Tuning};
use ms5_common::progress::{self, Line};

use crate::args::TOOL;
use crate::secret::first_words_of;

/// How often it is looked whether a statement takes long.
const TICK: Duration = Duration::from_millis(50);
/// How often a long statement is looked at.
const SAMPLE: Duration = Duration::from_secs(2);
/// How often the same blockers are named again.
const REMIND: Duration = Duration::from_secs(30);

/// A thread beside a worker; it ends with this value.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    stopped: Condvar,
}

#[derive(Default)]
struct State {
    running: Option<Running>,
    /// Who held up the statement that runs, or that ran last.
    blockers: Vec<String>,
    stop: bool,
}

#[derive(Clone)]
struct Running {
    pid: i32,
    what: String,
    since: Instant,
}

impl Watch {
    /// Begins to watch, looking first after `patience`.
    pub(crate) fn start(settings: &Settings, patience: Duration) -> Self {
        let shared = Arc::new(Shared { state: Mutex::default(), stopped: Condvar::new() });
        let watcher = Watcher {
            shared: Arc::clone(&shared),
            settings: settings.clone(),
            patience,
            session: None,
            seen: None,
            told: None,
            due: None,
        };
        let thread = thread::Builder::new().name("watch".to_owned()).spawn(|| watcher.run()).ok();
        Self { shared, thread }
    }

    /// A statement begins on the session whose server process is `pid`.
    pub(crate) fn begin(&self, pid: i32, what: impl FnOnce() -> String) {
        let mut state = self.shared.state();
        state.blockers.clear();
        state.running = Some(Running { pid, what: what(), since: Instant::now() });
    }

    /// It has ended.
    pub(crate) fn end(&self) {
        self.shared.state().running = None;
    }

    /// Who held up the last statement, as far as it was seen.
    pub(crate) fn blockers(&self) -> Vec<String> {
        self.shared.state().blockers.clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.state().stop = true;
        self.shared.stopped.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Watcher {
    shared: Arc<Shared>,
    settings: Settings,
    patience: Duration,
    /// Opened when a statement takes long for the first time: most runs never need it.
    session: Option<Client>,
    /// The statement that is being looked at, with its line on the terminal.
    seen: Option<(Instant, Line)>,
    /// What was said of its blockers, and when.
    told: Option<(Vec<String>, Instant)>,
    /// When it is looked at next.
    due: Option<Instant>,
}

impl Watcher {
    fn run(mut self) {
        loop {
            let running = {
                let state = self.shared.state();
                let (state, _) =
                    self.shared.stopped.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner);
                if state.stop {
                    return;
                }
                state.running.clone()
            };
            match running {
                None => self.seen = None,
                Some(running) => self.look(&running),
            }
        }
    }

    fn look(&mut self, running: &Running) {
        if running.since.elapsed() < self.patience {
            return;
        }
        if self.seen.as_ref().is_none_or(|(since, _)| *since != running.since) {
            let line = Line::new();
            line.begin(&running.what);
            self.seen = Some((running.since, line));
            (self.told, self.due) = (None, None);
        }
        if self.due.is_some_and(|due| Instant::now() < due) {
            return;
        }
        self.due = Some(Instant::now() + SAMPLE);
        // A watch that cannot look is no reason to stop the work: it says nothing, and is tried again.
        let Some(sample) = self.sample(running.pid) else { return };
        self.tell(running, sample);
    }

    fn sample(&mut self, pid: i32) -> Option<Sample> {
        if self.session.is_none() {
            self.session = session::open(&self.settings, TOOL, "watch", &Tuning::default())
                .ok()
                .map(|connected| connected.client);
        }
        let sample = Sample::take(self.session.as_mut()?, pid);
        if sample.is_none() {
            self.session = None;
        }
        sample
    }

    fn tell(&mut self, running: &Running, sample: Sample) {
        if let Some((_, line)) = &self.seen {
            let mut text = running.what.clone();
            for part in
                sample.blockers.iter().map(|_| "waiting for a lock").take(1).chain(sample.doing.as_deref())
            {
                let _ = write!(text, ", {part}");
            }
            line.update(&text);
        }
        if sample.blockers.is_empty() {
            return;
        }
        {
            let mut state = self.shared.state();
            // The statement may have ended while it was looked at; its blockers are still those that it met.
            if state.running.as_ref().is_none_or(|now| now.since == running.since) {
                state.blockers.clone_from(&sample.blockers);
            }
        }
        let news =
            self.told.as_ref().is_none_or(|(pids, when)| *pids != sample.pids || when.elapsed() > REMIND);
        if news {
            for blocker in &sample.blockers {
                log::warn!(
                    "{}: waiting for a lock, {} s by now; it is held by {blocker}",
                    running.what,
                    running.since.elapsed().as_secs()
                );
            }
            self.told = Some((sample.pids, Instant::now()));
        }
    }
}

/// One look at a session.
struct Sample {
    blockers: Vec<String>,
    pids: Vec<String>,
    doing: Option<String>,
}

impl Sample {
    fn take(client: &mut Client, pid: i32) -> Option<Self> {
        let rows = client
            .query(
                "SELECT a.pid, coalesce(a.application_name, ''), coalesce(a.usename, '?')::text, coalesce(a.state, '?'),
                        coalesce(extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start), 0)::bigint,
                        coalesce(a.query, '')
                 FROM unnest(pg_catalog.pg_blocking_pids($1)) b JOIN pg_catalog.pg_stat_activity a ON a.pid = b
                 ORDER BY a.pid",
                &[&pid],
            )
            .ok()?;
        let blockers = rows
            .iter()
            .map(|row| {
                format!(
                    "pid {} ({:?}, user {}, {}, transaction {} s old): {}",
                    row.get::<_, i32>(0),
                    row.get::<_, &str>(1),
                    row.get::<_, &str>(2),
                    row.get::<_, &str>(3),
                    row.get::<_, i64>(4),
                    first_words_of(row.get(5))
                )
            })
            .collect();
        let pids = rows.iter().map(|row| row.get::<_, i32>(0).to_string()).collect();
        let doing = if progress::shown() { doing(client, pid)? } else { None };
        Some(Self { blockers, pids, doing })
    }
}

/// How far an index or a COPY is, by the server's own count.
fn doing(client: &mut Client, pid: i32) -> Option<Option<String>> {
    let rows = client
        .query(
            "SELECT format('index: %s%s', phase, CASE WHEN blocks_total > 0 THEN format(', %s %%', 100 * blocks_done / blocks_total)
                                                     WHEN tuples_total > 0 THEN format(', %s %%', 100 * tuples_done / tuples_total)
                                                     ELSE '' END)
             FROM pg_catalog.pg_stat_progress_create_index WHERE pid = $1
             UNION ALL
             SELECT format('COPY: %s rows, %s', tuples_processed, pg_size_pretty(bytes_processed))
             FROM pg_catalog.pg_stat_progress_copy WHERE pid = $1",
            &[&pid],
        )
        .ok()?;
    Some(rows.first().map(|row| row.get(0)))
}
