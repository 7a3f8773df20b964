//! SIGKILL at seeded moments of a backup, a deep verify and a restore: the database is in service, no false backup is listed, and
//! nothing is left after the next run.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use migration_tests::backups::{Backups, Dice, half};
use migration_tests::program::Program;
use migration_tests::server::Engine;

/// What a run says when a phase begins, and the phase; before the first of them it is "begin".
type Phases = &'static [(&'static str, &'static str)];

const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY, x text);
    INSERT INTO t SELECT i, repeat(md5(i::text), 3) FROM generate_series(1, 40000) i;
    CREATE TABLE u (id int PRIMARY KEY, t int REFERENCES t);
    INSERT INTO u SELECT i, i FROM generate_series(1, 20000) i;
    CREATE INDEX t_x ON t (x)";

/// One after the other: databases that are made and dropped at once wait for each other's checkpoints, and take longer in all.
static TURN: Mutex<()> = Mutex::new(());

/// A run that was struck, and where.
struct Struck {
    phase: &'static str,
    ended: bool,
    half: Option<String>,
}

/// What there is to strike: a command line, its phases, how long each lasts when nothing strikes it, and the dice.
struct Target<'a> {
    backups: &'a Backups<'static>,
    program: Box<dyn Fn() -> Program + 'a>,
    phases: Phases,
    lengths: BTreeMap<&'static str, Duration>,
    dice: Dice,
    seen: BTreeMap<&'static str, usize>,
}

impl<'a> Target<'a> {
    /// Measures a run that ends well.
    fn new(
        backups: &'a Backups<'static>,
        phases: Phases,
        program: impl Fn() -> Program + 'a,
        seed: u64,
    ) -> Self {
        let logs = backups.lab.home().join("measured");
        let mut run = program().arg("--log-dir").arg(&logs).start();
        let mut lengths = BTreeMap::new();
        let (mut phase, mut since) = ("begin", Instant::now());
        loop {
            let runs = run.runs();
            let now = phase_of(phases, &logs);
            if now != phase || !runs {
                lengths.insert(phase, since.elapsed());
                (phase, since) = (now, Instant::now());
            }
            if !runs {
                break;
            }
            thread::sleep(Duration::from_micros(200));
        }
        let _ = run.wait().expect(0);
        fs::remove_dir_all(logs).unwrap();
        let seen = BTreeMap::new();
        Self { backups, program: Box::new(program), phases, lengths, dice: Dice(seed), seen }
    }

    /// Kills a run at a seeded moment of a phase.
    fn strike(&mut self, aim: &str) -> Struck {
        let logs = self.backups.lab.home().join("struck");
        let _ = fs::remove_dir_all(&logs);
        // The run that was measured may have been a slow one.
        let part = u32::try_from(self.dice.below(800)).unwrap();
        let moment = self.lengths.get(aim).copied().unwrap_or_default() * part / 1000;
        let mut run = (self.program)().arg("--log-dir").arg(&logs).start();
        let line = self.phases.iter().find(|(_, phase)| *phase == aim).map(|(line, _)| line);
        while line.is_some_and(|line| !log(&logs).contains(line)) && run.runs() {
            thread::sleep(Duration::from_micros(200));
        }
        thread::sleep(moment);
        let ran = run.kill();
        assert!([0, 137].contains(&ran.code()), "{ran}");
        let phase = phase_of(self.phases, &logs);
        *self.seen.entry(phase).or_default() += 1;
        // Its sessions end, those in other databases too; what it held is free. There is no other run: TURN sees to it.
        self.backups.lab.wait_for(
            "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name LIKE 'backup-manager%')",
        );
        Struck { phase, ended: ran.code() == 0, half: half(&ran) }
    }

    /// How many runs are still to be struck in a phase; some are hit in the next one, or end before.
    fn wants(&self, aim: &str, many: usize) -> bool {
        self.seen.get(aim).is_none_or(|number| *number < many) && self.seen.values().sum::<usize>() < 300
    }

    /// Prints how many were struck in each phase, and asks for a number in each.
    fn tell(&self, what: &str, wanted: &[(&str, usize)]) {
        let total: usize = self.seen.values().sum();
        println!("{what}: killed {total} times, in {:?}, of {:?}", self.seen, self.lengths);
        for (phase, least) in wanted {
            let enough = self.seen.get(phase).is_some_and(|number| number >= least);
            assert!(enough, "{what}: fewer than {least} in {phase}: {:?}", self.seen);
        }
    }
}

fn log(folder: &Path) -> String {
    let Ok(files) = fs::read_dir(folder.join("backup")) else { return String::new() };
    files.flatten().map(|file| fs::read_to_string(file.path()).unwrap_or_default()).collect()
}

fn phase_of(phases: Phases, logs: &Path) -> &'static str {
    let text = log(logs);
    phases.iter().rev().find(|(line, _)| text.contains(line)).map_or("begin", |(_, phase)| phase)
}

#[test]
fn a_backup_that_is_killed_is_none() {
    const PHASES: Phases = &[
        ("Creating backup", "locks"),
        ("the snapshot is taken", "rows"),
        ("Reading the backup back", "read back and rename"),
        ("stored rows of", "after"),
    ];
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let backups = Backups::new(Engine::Plain, TABLES);
    let mut target = Target::new(&backups, PHASES, || backups.tool("backup killed full"), 20_261_123);
    fs::remove_dir_all(backups.folder().join(&backups.names()[0])).unwrap();
    let wanted = [("begin", 10), ("locks", 10), ("rows", 15), ("read back and rename", 20)];
    for (aim, many) in wanted {
        while target.wants(aim, many) {
            let struck = target.strike(aim);
            let names = backups.names();
            assert!(names.len() <= 1, "{names:?}");
            assert!(!struck.ended || names.len() == 1, "it ended well, and there is no backup");
            // What has a name is whole, whatever its maker came to.
            for name in names {
                let _ = backups.run(&format!("verify {name}")).expect(0);
                fs::remove_dir_all(backups.folder().join(name)).unwrap();
            }
            assert_eq!(backups.lab.ask("SELECT count(*) FROM t"), "40000");
        }
    }
    let _ = backups.backup("after full");
    let left: Vec<String> =
        backups.all_names().into_iter().filter(|name| name.starts_with(".partial")).collect();
    assert!(left.is_empty(), "{left:?}");
    target.tell("backup", &wanted);
}

#[test]
fn a_deep_verify_that_is_killed_proves_nothing_and_leaves_nothing() {
    const PHASES: Phases = &[
        ("Verifying backup", "files"),
        ("into the scratch database", "rows"),
        ("Rows loaded", "indexes"),
        ("Indexes and constraints made", "compare"),
        ("are as they were backed up", "after"),
    ];
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let backups = Backups::new(Engine::Plain, TABLES);
    let folder = backups.backup("proof full");
    let run = || backups.restorer("verify proof --deep");
    let mut target = Target::new(&backups, PHASES, run, 7);
    let proof = folder.join("verified.json");
    let mut halves = Vec::new();
    let wanted = [("files", 5), ("rows", 5), ("indexes", 5), ("compare", 5)];
    for (aim, many) in wanted {
        while target.wants(aim, many) {
            let _ = fs::remove_file(&proof);
            let struck = target.strike(aim);
            // It is written last, and then the whole was compared.
            assert!(!proof.exists() || ["compare", "after"].contains(&struck.phase), "{}", struck.phase);
            halves.extend(struck.half);
        }
    }
    let _ = run().run().expect(0);
    for half in halves {
        assert!(backups.databases(&half).is_empty(), "the next run drops what is left: {half}");
    }
    target.tell("verify --deep", &wanted);
}

#[test]
fn a_restore_that_is_killed_leaves_the_old_database_in_service_or_the_new_one() {
    const PHASES: Phases = &[
        ("Restoring backup", "files"),
        ("Building it as", "rows"),
        ("Rows loaded", "indexes"),
        ("Indexes and constraints made", "compare"),
        ("Every row and every object", "swap"),
        ("The old database is kept", "after"),
    ];
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let backups = Backups::new(Engine::Plain, TABLES);
    let name = backups.lab.database.name.clone();
    let _ = backups.backup("kill full");
    let change = "DELETE FROM u; DELETE FROM t WHERE id > 7";
    let kept = || backups.databases(&format!("{name}_before_restore_"));
    let drop_kept = || {
        for kept in kept() {
            backups.superuser("postgres").batch_execute(&format!("DROP DATABASE {kept}")).unwrap();
        }
    };
    backups.lab.sql(change);
    let mut target = Target::new(&backups, PHASES, || backups.restorer("restore kill --force"), 99);
    drop_kept();
    backups.lab.sql(change);
    let mut halves = Vec::new();
    let wanted = [("files", 5), ("rows", 5), ("indexes", 5), ("compare", 5), ("swap", 10)];
    for (aim, many) in wanted {
        while target.wants(aim, many) {
            let struck = target.strike(aim);
            halves.extend(struck.half);
            // In service: it can be written to, whichever it is.
            let rows = backups.lab.ask("SELECT count(*) FROM t");
            let new = rows == "40000";
            assert!(new || rows == "7", "{rows} rows, killed in {}", struck.phase);
            assert!(new || !struck.ended);
            assert_eq!(kept().len(), usize::from(new), "killed in {}", struck.phase);
            backups.lab.sql("INSERT INTO t VALUES (0, ''); DELETE FROM t WHERE id = 0");
            drop_kept();
            if new {
                backups.lab.sql(change);
            }
        }
    }
    let _ = backups.restorer("restore kill --force --drop-old").run().expect(0);
    assert_eq!(backups.lab.ask("SELECT count(*) FROM t"), "40000");
    for half in halves {
        assert!(backups.databases(&half).is_empty(), "the next run drops what is left: {half}");
    }
    target.tell("restore", &wanted);
}
