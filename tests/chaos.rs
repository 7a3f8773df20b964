//! Runs of the runner that are struck at seeded moments, on real servers, and what the next run makes of them: every
//! statement applied exactly once or its file not at all, ledger and attempts equal to reality.
//!
//! MS5_CHAOS_TRIALS sets how many trials there are (30; `make chaos`: 200), MS5_CHAOS_SEED repeats one of them and shows what
//! its runs print.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[path = "chaos/dice.rs"]
mod dice;
#[path = "chaos/files.rs"]
mod files;
#[path = "chaos/strike.rs"]
mod strike;
#[path = "chaos/trial.rs"]
mod trial;
#[path = "chaos/truth.rs"]
mod truth;

use std::env;
use std::fmt::Write as _;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use migration_tests::server::{Engine, Server};

use dice::Dice;
use strike::{Killer, Kind, Phase};
use trial::{Seen, Trial};

/// Servers side by side: a trial is mostly waiting.
const SERVERS: [Engine; 3] = [Engine::Pg17, Engine::Pg18, Engine::Pg17];

/// What a killed server has promised must be there: the throwaway servers' own settings promise less. And a flush that
/// takes its time, as it does on a disk (where fsync is on, which trials turn on): that is where a COMMIT is neither done
/// nor undone.
const SETTINGS: [&str; 4] =
    ["synchronous_commit=on", "full_page_writes=on", "commit_delay=3000", "commit_siblings=0"];

/// What has been hit so far.
#[derive(Default)]
struct Tally {
    begun: usize,
    /// Blows that fell, by phase and kind; what was aimed at; and how many blows are on their way to each phase.
    hits: [[usize; Kind::ALL.len()]; Phase::ALL.len()],
    aimed: [[usize; Kind::ALL.len()]; Phase::ALL.len()],
    under_way: [usize; Phase::ALL.len()],
    trials: usize,
    missed: usize,
    near_commit: usize,
    refused: usize,
    failures: Vec<String>,
}

impl Tally {
    fn of(&self, phase: usize) -> usize {
        self.hits[phase].iter().sum()
    }

    /// What has been hit least, phase before kind.
    fn wanted(&self) -> (usize, usize) {
        let sum = |phase: usize| self.of(phase) + self.under_way[phase];
        let phase = (0..Phase::ALL.len()).min_by_key(|phase| sum(*phase)).unwrap();
        // What happens most, and leaves the most behind.
        let weight = |kind: usize| if Kind::ALL[kind] == Kind::Runner { 1 } else { 2 };
        let all = |kind: usize| self.aimed.iter().map(|kinds| kinds[kind]).sum::<usize>();
        let kind = (0..Kind::ALL.len()).min_by_key(|kind| {
            let share = weight(*kind) * self.aimed[phase][*kind];
            (share, weight(*kind), all(*kind))
        });
        (phase, kind.unwrap())
    }

    fn add(&mut self, result: Result<Seen, String>) {
        self.trials += 1;
        match result {
            Ok(seen) => {
                self.missed += usize::from(seen.hits.is_empty());
                for (phase, kind) in seen.hits {
                    self.hits[place(&Phase::ALL, phase)][place(&Kind::ALL, kind)] += 1;
                }
                self.near_commit += seen.near_commit;
                self.refused += seen.refused;
            }
            Err(report) => self.failures.push(report),
        }
    }

    fn table(&self) -> String {
        let mut text = format!("{:<36}", "phase");
        for kind in Kind::ALL {
            let _ = write!(text, "{:>14}", kind.words());
        }
        text.push_str("           all\n");
        for (phase, hits) in Phase::ALL.iter().zip(&self.hits) {
            let _ = write!(text, "{:<36}", phase.words());
            for hit in hits {
                let _ = write!(text, "{hit:>14}");
            }
            let _ = writeln!(text, "{:>14}", hits.iter().sum::<usize>());
        }
        let _ = writeln!(
            text,
            "{} trials, {} of them not struck; {} blows within 100 ms of a COMMIT; {} runs refused since nobody could \
             know; {} failures",
            self.trials,
            self.missed,
            self.near_commit,
            self.refused,
            self.failures.len()
        );
        text
    }
}

fn place<T: PartialEq>(all: &[T], one: T) -> usize {
    all.iter().position(|other| *other == one).unwrap()
}

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number")))
}

/// Past the test runner, which keeps back what a test prints that passes.
fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

#[test]
fn a_struck_run_leaves_nothing_half_done_and_the_next_one_finishes_it() {
    let repeated = number("MS5_CHAOS_SEED");
    let trials = number("MS5_CHAOS_TRIALS").unwrap_or(if repeated.is_some() { 1 } else { 30 });
    let trials = usize::try_from(trials).unwrap();
    // Phases that must be hit, and how often; a run for one seed hits what it hits.
    let (floor, near_floor) = match trials {
        _ if repeated.is_some() => (0, 0),
        200.. => (5, 10),
        30.. => (1, 3),
        _ => (0, 0),
    };
    // The tests' own trials are the same every time; those of `make chaos` are others every time.
    let first = if number("MS5_CHAOS_TRIALS").is_some() { Dice::of_the_clock().any() } else { 0 };
    let dice = Mutex::new(Dice::new(repeated.unwrap_or(first)));
    let tally = Mutex::new(Tally::default());
    let clock = Instant::now();
    let work = |engine: Engine| {
        let server = Server::start(engine, &SETTINGS).expect("a server of its own");
        let mut killer = Killer::new();
        loop {
            let (seed, phase) = {
                let mut tally = tally.lock().unwrap();
                let short = (0..Phase::ALL.len()).any(|phase| tally.of(phase) < floor);
                // A blow may miss what it was meant for: some more trials, until each phase has its share.
                let more = short && tally.begun < trials + trials / 2;
                if tally.begun >= trials && !more {
                    break;
                }
                tally.begun += 1;
                let (phase, kind) = tally.wanted();
                tally.aimed[phase][kind] += 1;
                tally.under_way[phase] += 1;
                let cells = Phase::ALL.len() * Kind::ALL.len();
                let cell = (phase * Kind::ALL.len() + kind) as u64;
                let any = dice.lock().unwrap().any() % 1_000_000_000;
                (repeated.unwrap_or(any * cells as u64 + cell), phase)
            };
            let trial = || Trial::of(seed).run(&server, &mut killer);
            // Where the harness itself fails, the seed must not be lost.
            let result = catch_unwind(AssertUnwindSafe(trial)).unwrap_or_else(|_| {
                Err(format!("\n== MS5_CHAOS_SEED={seed}: the trial itself broke off; see above\n"))
            });
            if result.is_err() {
                say(&format!("chaos: failure with MS5_CHAOS_SEED={seed}\n"));
            }
            if let (Some(_), Ok(seen)) = (repeated, &result) {
                say(&seen.told);
            }
            let mut tally = tally.lock().unwrap();
            tally.under_way[phase] -= 1;
            tally.add(result);
        }
    };
    thread::scope(|scope| {
        for engine in SERVERS.iter().take(trials) {
            scope.spawn(|| work(*engine));
        }
    });
    let tally = tally.into_inner().unwrap();
    say(&format!("\nchaos: {:.0} s\n{}", clock.elapsed().as_secs_f32(), tally.table()));
    for report in tally.failures.iter().take(5) {
        say(report);
    }
    assert!(tally.failures.is_empty(), "{} trials failed; see above", tally.failures.len());
    for (index, phase) in Phase::ALL.iter().enumerate() {
        assert!(tally.of(index) >= floor, "{} was hit less than {floor} times", phase.words());
    }
    assert!(tally.near_commit >= near_floor, "only {} blows near a COMMIT", tally.near_commit);
}
