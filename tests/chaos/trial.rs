//! One trial: files, a blow, what it left, and the runs that finish the work.

use std::fmt::Write as _;
use std::time::Duration;

use migration_tests::lab::Lab;
use migration_tests::program::Ran;
use migration_tests::server::Server;

use super::dice::Dice;
use super::files::{self, File, Mark, Statement};
use super::strike::{self, CONNECTING, Killer, Kind, PREPARING, Phase, Plan, Struck};
use super::truth::{self, Real};

/// What is to be hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Aim {
    pub(crate) phase: Phase,
    pub(crate) kind: Kind,
}

/// Everything about a trial that its seed decides.
pub(crate) struct Trial {
    pub(crate) seed: u64,
    files: Vec<File>,
    /// A statement fails until the switch is on.
    failing: bool,
    parallel: bool,
    /// The first file is applied by a run of its own, so that extension and ledger are there before the blow.
    grown: bool,
    /// The next run begins at once, while the backends of the killed one may still work.
    hasty: bool,
    /// The run that is to finish the work is struck too.
    second: Option<(Kind, Duration)>,
    /// Once refused for a statement that commits by itself, it is tried again as it is.
    stubborn: bool,
    plan: Plan,
}

/// What a trial tells the table.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Where each blow fell.
    pub(crate) hits: Vec<(Phase, Kind)>,
    /// How many of them fell within 100 ms of a COMMIT.
    pub(crate) near_commit: usize,
    /// Runs that were refused because nobody could know.
    pub(crate) refused: usize,
    /// What the runs have printed.
    pub(crate) told: String,
}

impl Trial {
    /// The trial of a seed. What it aims at stands in the seed too.
    pub(crate) fn of(seed: u64) -> Self {
        let cells = (Phase::ALL.len() * Kind::ALL.len()) as u64;
        let cell = usize::try_from(seed % cells).unwrap();
        let aim = Aim { phase: Phase::ALL[cell / Kind::ALL.len()], kind: Kind::ALL[cell % Kind::ALL.len()] };
        let mut dice = Dice::new(seed);
        let parallel = dice.once_in(4);
        // A killed runner's backend that goes on with its COMMIT when the next run has begun; or time to hold it back.
        let slow = match (aim.phase, aim.kind) {
            (Phase::Commit | Phase::StepCommit, Kind::Runner) => Some(700),
            (Phase::Answer, _) => Some(200),
            (Phase::Commit | Phase::StepCommit, _) if dice.once_in(2) => Some(60),
            _ => None,
        };
        let failing = slow.is_none() && dice.once_in(3);
        let grown = aim.phase != Phase::Preparing && dice.once_in(4) || dice.once_in(8);
        let mut files = files::generate(&mut dice, parallel, failing, slow);
        let mut failing = failing && files.iter().any(|file| file.failing().is_some());
        let aims = |marks: &[Mark]| -> Vec<Mark> {
            let is_slow =
                |mark: &Mark| mark.phase == Phase::Commit || mark.line.starts_with("COMMIT of step 1 of ");
            let wanted = |mark: &&Mark| match (aim.phase, slow) {
                (Phase::Answer, _) => is_slow(mark),
                (phase, Some(_)) => mark.phase == phase && is_slow(mark),
                (phase, None) => mark.phase == phase,
            };
            marks.iter().filter(wanted).cloned().collect()
        };
        let struck = |files: &[File]| if grown { files[1..].to_vec() } else { files.to_vec() };
        let mut marks = aims(&files::marks(&struck(&files), !failing));
        while marks.is_empty() && !matches!(aim.phase, Phase::Connecting | Phase::Preparing) {
            // The failure comes before what is aimed at, or the first file was the only one of its kind.
            failing = false;
            files = files::generate(&mut dice, parallel, false, slow);
            marks = aims(&files::marks(&struck(&files), true));
        }
        let mut plan = plan(&mut dice, aim, &marks, grown);
        if slow == Some(700) {
            // In the middle of it: what comes first in that message looks whether the lock is still held.
            plan.delay = Duration::from_micros(dice.between(15_000, 100_000));
        }
        let second = dice
            .once_in(3)
            .then(|| (*dice.pick(&Kind::ALL), Duration::from_micros(dice.between(0, 600_000))));
        // A bare statement that is left alone comes to its end without its runner, and the next run has to find that out.
        let haste = if aim.phase == Phase::Bare { 4 } else { 2 };
        let hasty = aim.kind == Kind::Runner && (dice.once_in(haste) || slow == Some(700));
        let stubborn = dice.once_in(2);
        Self { seed, files, failing, parallel, grown, hasty, second, stubborn, plan }
    }

    /// Runs it; where something is wrong, everything that is needed to see why.
    pub(crate) fn run(&self, server: &Server, killer: &mut Killer) -> Result<Seen, String> {
        let texts: Vec<(String, String)> =
            self.files.iter().map(|file| (file.name.clone(), file.text())).collect();
        let files: Vec<(&str, &str)> = texts.iter().map(|(name, text)| (&**name, &**text)).collect();
        let lab = Lab::new(server, &files);
        let mut course =
            Course { trial: self, lab: &lab, server, killer, seen: Seen::default(), told: String::new() };
        let result = course.run();
        let (seen, told) = (course.seen, course.told);
        let result = match result {
            Ok(()) => Ok(Seen { told, ..seen }),
            Err(why) => Err(self.report(&lab, &why, &told)),
        };
        // Each database with the extension has background workers.
        let drop = format!("DROP DATABASE {} WITH (FORCE)", lab.database.name);
        server.superuser("postgres").unwrap().batch_execute(&drop).unwrap();
        result
    }

    fn report(&self, lab: &Lab<'_>, why: &str, told: &str) -> String {
        let mut text = format!("\n== MS5_CHAOS_SEED={}: {why}\n-- strike: {}\n", self.seed, self.plan);
        let _ = writeln!(
            text,
            "   failing {}, parallel {}, first file before {}, hasty {}, second blow {:?}",
            self.failing, self.parallel, self.grown, self.hasty, self.second
        );
        for file in &self.files {
            let _ = writeln!(text, "-- {} (setup: {})", file.name, file.setup.replace('\n', " "));
            // The rows of a COPY are all alike.
            let mut last = String::new();
            for line in file.text().lines().map(str::to_owned) {
                if line != last {
                    let _ = writeln!(text, "  {line}");
                }
                last = line;
            }
        }
        text.push_str(told);
        match lab.database.superuser() {
            Ok(mut client) => {
                text.push_str("-- the ledger\n");
                text.push_str(&truth::ledger(&mut client));
                text.push_str("-- what is there\n");
                for (file, real) in self.files.iter().zip(truth::look(&mut client, &self.files)) {
                    let _ = writeln!(text, "  {}: {real:?}", file.name);
                }
            }
            Err(error) => {
                let _ = writeln!(text, "-- the database cannot be asked: {error}");
            }
        }
        text
    }
}

fn plan(dice: &mut Dice, aim: Aim, marks: &[Mark], grown: bool) -> Plan {
    let line = |lines: &[&str], dice: &mut Dice| (*dice.pick(lines)).to_owned();
    let after = match aim.phase {
        // Without a session there is nothing that could be ended.
        Phase::Connecting if aim.kind == Kind::Lock => "Server: ".to_owned(),
        Phase::Connecting if aim.kind == Kind::Runner => line(&CONNECTING, dice),
        Phase::Connecting => line(&CONNECTING[1..], dice),
        Phase::Preparing if grown => line(&PREPARING[1..], dice),
        Phase::Preparing => line(&PREPARING, dice),
        _ => dice.pick(marks).line.clone(),
    };
    let most = match (aim.phase, after.as_str()) {
        (_, "Creating the extension") => 300_000,
        // The lock's session is opened behind that line.
        (Phase::Connecting, _) => 30_000,
        (Phase::Preparing, _) => 6_000,
        (Phase::Statement | Phase::Step, _) => 25_000,
        (Phase::Commit | Phase::StepCommit | Phase::Answer, _) => 8_000,
        (Phase::Between, _) => 4_000,
        (Phase::Bare | Phase::Block, _) => 60_000,
        (Phase::Recording | Phase::Final, _) => 3_000,
    };
    // Half of the blows at once: the short windows are behind the line.
    let short = dice.once_in(2) && (aim.phase, aim.kind) != (Phase::Bare, Kind::Runner);
    let most = if short { most / 20 } else { most };
    Plan {
        after,
        delay: Duration::from_micros(dice.between(0, most)),
        kind: aim.kind,
        held: aim.phase == Phase::Answer,
    }
}

/// A trial under way.
struct Course<'t, 's> {
    trial: &'t Trial,
    lab: &'t Lab<'s>,
    server: &'s Server,
    killer: &'t mut Killer,
    seen: Seen,
    /// What the runs have printed, for a report.
    told: String,
}

impl Course<'_, '_> {
    fn run(&mut self) -> Result<(), String> {
        let trial = self.trial;
        let setup: String = trial.files.iter().map(|file| file.setup.as_str()).collect();
        self.lab.sql(&format!("{}{setup}", files::SETUP));
        self.switch(!trial.failing);
        let marks = files::marks(&trial.files, true);
        if trial.grown {
            let ran = self.run_once("--verbose --target=1");
            let fails = trial.failing && trial.files[0].failing().is_some();
            if (ran.code() == 0) == fails {
                return Err(format!("the run up to the first file ended with {}", ran.code()));
            }
        }
        let before = self.look();
        let struck = self.strike(&trial.plan, &marks);
        self.after(&struck, &before, trial.hasty)?;
        if let Some((kind, delay)) = trial.second {
            let plan = Plan { after: "Found ".to_owned(), delay, kind, held: false };
            let before = self.look();
            let struck = self.strike(&plan, &marks);
            self.after(&struck, &before, false)?;
        }
        self.finish()
    }

    fn switch(&mut self, on: bool) {
        let mut text = format!("TRUNCATE switch; INSERT INTO switch VALUES ({});", u8::from(on));
        for file in &self.trial.files {
            text.push_str(if on { &file.on } else { &file.off });
        }
        self.lab.sql(&text);
    }

    fn arguments(&self, arguments: &str) -> String {
        let parallel = if self.trial.parallel { " --parallel --jobs=3" } else { "" };
        format!("{arguments}{parallel}")
    }

    fn run_once(&mut self, arguments: &str) -> Ran {
        let ran = self.lab.run(&self.arguments(arguments));
        let _ = writeln!(self.told, "-- a run\n{ran}");
        ran
    }

    fn strike(&mut self, plan: &Plan, marks: &[Mark]) -> Struck {
        let runner = self.lab.runner(&self.arguments("--verbose")).into_command();
        let struck = strike::run(self.server, &self.lab.database, self.killer, runner, plan);
        let phase = struck.phase(&self.trial.files, marks);
        let _ = writeln!(self.told, "-- struck: {plan}: {phase:?}, exit {}\n{}", struck.code, struck.text());
        if let Some(phase) = phase {
            self.seen.hits.push((phase, plan.kind));
            let near = struck.to_commit().is_some_and(|time| time <= Duration::from_millis(100));
            self.seen.near_commit += usize::from(near);
        }
        struck
    }

    fn look(&self) -> Vec<Real> {
        truth::look(&mut self.lab.client(), &self.trial.files)
    }

    /// What a blow has left, with no other run in between.
    fn after(&mut self, struck: &Struck, before: &[Real], hasty: bool) -> Result<(), String> {
        let allowed: &[i32] = match (struck.at, struck.kind) {
            (Some(_), Kind::Runner) => &[137, 0, 1, 5],
            _ => &[0, 1, 4, 5],
        };
        if !allowed.contains(&struck.code) {
            return Err(format!("the struck run ended with {}", struck.code));
        }
        if hasty {
            return Ok(());
        }
        truth::orphans_end(&self.lab.database)?;
        let real = self.look();
        let mut wrong = truth::violations(&self.trial.files, &real);
        // The server was back at once: it could be asked.
        if struck.lines.iter().any(|line| line.text.contains("it is not known whether")) {
            wrong.push("a COMMIT whose outcome the run did not learn".to_owned());
        }
        // Only the session is gone, and the COMMIT is done: the run goes on behind it.
        if struck.held && struck.kind == Kind::Terminate && !self.trial.parallel && struck.code != 0 {
            wrong.push(format!(
                "a COMMIT was done and its answer lost, and the run ended with {}",
                struck.code
            ));
        }
        for ((file, real), before) in self.trial.files.iter().zip(&real).zip(before) {
            if struck.code == 0 && !real.is_recorded() {
                wrong.push(format!("exit 0, but {} is not applied", file.name));
            }
            if struck.code == 4 && real.done != before.done {
                wrong.push(format!("exit 4, but something of {} is there", file.name));
            }
            if struck.code == 1 && !real.is_recorded() && real.done != before.done {
                wrong.push(format!("exit 1 means rolled back, but something of {} is there", file.name));
            }
        }
        wrong.extend(self.status(&real));
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n   ")) }
    }

    /// Whether `--status` tells the truth.
    fn status(&mut self, real: &[Real]) -> Vec<String> {
        let ran = self.run_once("--status");
        if ran.code() != 0 {
            return vec![format!("--status ended with {}", ran.code())];
        }
        let mut wrong = Vec::new();
        for (file, real) in self.trial.files.iter().zip(real) {
            let says = ran.stdout().lines().find_map(|line| {
                let rest = line.split_once(&format!("{}: ", file.title))?.1;
                Some(rest.split([' ', ';']).next().unwrap_or(rest).to_owned())
            });
            let last = real.attempts.last().map(String::as_str);
            let is = match last {
                _ if real.is_recorded() => "applied",
                None => "pending",
                Some("running" | "interrupted") => "interrupted",
                Some(_) => "failed",
            };
            if says.as_deref() != Some(is) {
                wrong.push(format!("--status says {says:?} of {}, which is {is}", file.name));
            }
            if is == "pending" && !real.is_untouched() {
                wrong.push(format!("{} is pending, but something of it is there", file.name));
            }
        }
        wrong
    }

    /// Runs until everything is applied.
    fn finish(&mut self) -> Result<(), String> {
        let mut off = self.trial.failing;
        let mut runs = 0;
        loop {
            let ran = self.run_once("--verbose");
            if self.is_refused(&ran)? {
                self.seen.refused += 1;
                if self.trial.stubborn {
                    let again = self.run_once("--verbose");
                    if !self.is_refused(&again)? {
                        return Err("refused once, and then run all the same".to_owned());
                    }
                }
                self.mend_block();
                continue;
            }
            runs += 1;
            if off {
                self.at_the_right_place(&ran)?;
                off = false;
                self.switch(true);
                continue;
            }
            if ran.code() == 0 {
                break;
            }
            // Nothing stands in the way any more: one run is enough.
            return Err(format!("run {runs} after the blow ended with {}", ran.code()));
        }
        let real = self.look();
        let wrong = truth::unfinished(&mut self.lab.client(), &self.trial.files, &real);
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n   ")) }
    }

    /// With the switch off, a run ends at the statement that fails, and with the exit code that tells what is left.
    fn at_the_right_place(&self, ran: &Ran) -> Result<(), String> {
        let real = self.look();
        let wrong = truth::violations(&self.trial.files, &real);
        if !wrong.is_empty() {
            return Err(wrong.join("\n   "));
        }
        let Some((file, real)) =
            self.trial.files.iter().zip(&real).find(|(file, _)| file.failing().is_some())
        else {
            return Ok(());
        };
        let partly = file.stepwise && real.done.iter().any(|done| *done != truth::Done::No);
        let expected = if partly { 5 } else { 1 };
        // A bare statement that failed may have left something: the runner cannot know, and says 5.
        let bare = file.failing().is_some_and(|statement| statement.fails == Some(files::Fails::Duplicates));
        if ran.code() != expected && !(bare && ran.code() == 5) {
            return Err(format!("the statement of {} fails, exit {}, not {expected}", file.name, ran.code()));
        }
        let place = file.failing().map(|statement| format!("{}:{}:", file.name, statement.line));
        let named = ran.stdout().contains(&format!("Migration {} failed", file.title));
        let placed = place.is_some_and(|place| ran.stdout().contains(&place));
        if real.is_recorded() || !named || !placed {
            return Err(format!("the failure of {} is not told, or not at its place", file.name));
        }
        Ok(())
    }

    /// The block that commits by itself, of which the ledger does not know how far it came.
    fn open_block(&self) -> Option<(&File, usize, &Statement)> {
        let real = self.look();
        self.trial.files.iter().zip(&real).find_map(|(file, real)| {
            let (index, statement) = file.steps().enumerate().find(|(_, statement)| statement.commits)?;
            (real.steps.get(&index) == Some(&false)).then_some((file, index, statement))
        })
    }

    /// Whether the run has refused to run such a block again; it may only where there is one.
    fn is_refused(&self, ran: &Ran) -> Result<bool, String> {
        if !ran.stdout().contains("it is not known how much of") {
            return Ok(false);
        }
        if self.open_block().is_none() || !matches!(ran.code(), 1 | 5) {
            return Err(format!("refused with exit {}, though everything is known", ran.code()));
        }
        Ok(true)
    }

    /// What the operator is told to do: look how far it came, and put in its place what is missing.
    fn mend_block(&mut self) {
        let Some((file, index, statement)) = self.open_block() else { return };
        let rows: i64 =
            statement.effect.as_ref().map_or(0, |effect| self.lab.ask(&effect.query).parse().unwrap());
        let id = statement.effect.as_ref().and_then(|effect| effect.query.rsplit(' ').next()).unwrap_or("0");
        let number = file.number;
        let missing =
            format!("INSERT INTO effects SELECT {number}, {id} FROM generate_series(1, {});", 2 - rows);
        let text = file.text().replace(&statement.text, &missing);
        let name = file.name.clone();
        let _ = writeln!(self.told, "-- {name}, statement {}: {missing}", index + 1);
        self.lab.write(&name, text.as_bytes());
    }
}
