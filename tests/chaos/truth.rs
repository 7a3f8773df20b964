//! What is really in the database, beside what the ledger says of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use migration_tests::server::Database;
use postgres::Client;

use super::files::{Class, File};

/// How often each statement of a file has taken effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    No,
    Once,
    /// Anything else: a part, or more than once.
    Else(i64),
}

/// A file, as the database has it.
#[derive(Debug)]
pub(crate) struct Real {
    /// For each counted statement.
    pub(crate) done: Vec<Done>,
    /// For each counted statement that has a row in migration_steps: whether it is done.
    pub(crate) steps: BTreeMap<usize, bool>,
    /// A statement has two such rows: two stories of one file.
    pub(crate) twice: bool,
    /// The row of migration_log: its success, and whether an attempt of ours stands behind it.
    pub(crate) row: Option<(bool, bool)>,
    /// The outcomes of the attempts, in their order.
    pub(crate) attempts: Vec<String>,
}

impl Real {
    /// Every statement has run once.
    pub(crate) fn is_whole(&self) -> bool {
        self.done.iter().all(|done| *done == Done::Once)
    }

    /// No statement has left anything.
    pub(crate) fn is_untouched(&self) -> bool {
        self.done.iter().all(|done| *done == Done::No)
    }

    /// The ledger says that it is applied.
    pub(crate) fn is_recorded(&self) -> bool {
        self.row == Some((true, true))
    }

    fn applied(&self) -> usize {
        self.attempts.iter().filter(|outcome| *outcome == "applied").count()
    }
}

/// Looks at every file.
pub(crate) fn look(client: &mut Client, files: &[File]) -> Vec<Real> {
    // A run that was struck early has not made it.
    let ledger: bool =
        client.query_one("SELECT to_regclass('migration_attempts') IS NOT NULL", &[]).unwrap().get(0);
    files.iter().map(|file| look_at(client, file, ledger)).collect()
}

fn look_at(client: &mut Client, file: &File, ledger: bool) -> Real {
    let effects = || file.steps().filter_map(|statement| statement.effect.as_ref());
    let queries: Vec<String> = effects().map(|effect| format!("({})", effect.query)).collect();
    let query = format!("SELECT ARRAY[{}]::bigint[]", queries.join(", "));
    let counts: Vec<i64> = client.query_one(&query, &[]).unwrap().get(0);
    let done = (counts.into_iter().zip(effects()))
        .map(|(count, effect)| match count {
            0 => Done::No,
            count if count == effect.whole => Done::Once,
            count => Done::Else(count),
        })
        .collect();
    let mut real = Real { done, steps: BTreeMap::new(), twice: false, row: None, attempts: Vec::new() };
    if !ledger {
        return real;
    }
    let row = client
        .query_opt(
            "SELECT l.success, EXISTS (SELECT FROM migration_attempts a
                 WHERE a.id = l.attempt_id AND a.outcome = 'applied' AND a.finished_at = l.applied_at
                   AND a.checksum = l.checksum AND a.migration_name = l.migration_name)
             FROM migration_log l WHERE l.migration_name = $1",
            &[&file.title],
        )
        .unwrap();
    real.row = row.map(|row| (row.get(0), row.get(1)));
    let attempts = client
        .query("SELECT outcome FROM migration_attempts WHERE migration_name = $1 ORDER BY id", &[&file.title])
        .unwrap();
    real.attempts = attempts.iter().map(|row| row.get(0)).collect();
    let steps = client
        .query(
            "SELECT s.step, bool_or(s.done_at IS NOT NULL), count(*) FROM migration_steps s
             JOIN migration_attempts a ON a.id = s.series WHERE a.migration_name = $1 GROUP BY s.step",
            &[&file.title],
        )
        .unwrap();
    for row in &steps {
        let step: i32 = row.get(0);
        real.twice |= row.get::<_, i64>(2) > 1;
        real.steps.insert(usize::try_from(step).unwrap() - 1, row.get(1));
    }
    real
}

/// What must hold at any time, whatever was struck: nothing of a transactional file or all of it with its row, and of a
/// stepwise one what the ledger says, with at most one statement under way.
pub(crate) fn violations(files: &[File], real: &[Real]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (file, real) in files.iter().zip(real) {
        let mut say = |what: String| wrong.push(format!("{}: {what}: {real:?}", file.name));
        if !file.stepwise && !real.is_whole() && !real.is_untouched() {
            say("a transactional file is there in part".to_owned());
        }
        if !file.stepwise && real.is_whole() != real.is_recorded() {
            say("the ledger's row is not what is there".to_owned());
        }
        if real.is_recorded() && !real.is_whole() {
            say("recorded as applied, but is not".to_owned());
        }
        if real.row.is_some_and(|(success, verified)| success != verified) {
            say("a row without the attempt that it belongs to".to_owned());
        }
        if real.applied() != usize::from(real.is_recorded()) {
            say("the attempts and the row differ".to_owned());
        }
        if file.stepwise {
            steps(file, real, &mut say);
        }
    }
    wrong
}

fn steps(file: &File, real: &Real, say: &mut impl FnMut(String)) {
    let done = real.steps.values().take_while(|done| **done).count();
    let ordered = real.steps.keys().copied().eq(0..real.steps.len());
    if real.twice {
        say("a statement stands in the ledger twice".to_owned());
    }
    if !ordered || real.steps.len() > done + 1 {
        say("the steps are not a prefix with at most one under way".to_owned());
    }
    if real.is_recorded() && done != file.steps().count() {
        say("applied, but not each step is done".to_owned());
    }
    for (index, (statement, effect)) in file.steps().zip(&real.done).enumerate() {
        let well = match (real.steps.get(&index), statement.class) {
            (Some(true), _) => *effect == Done::Once,
            // Under way, and its backend may have come to the end without its runner.
            (Some(false), Class::Bare) => !matches!(effect, Done::Else(_)) || statement.commits,
            (Some(false), _) | (None, _) => *effect == Done::No,
        };
        if !well {
            say(format!("statement {} is {effect:?}, which the ledger does not say", index + 1));
        }
    }
}

/// What must hold besides when everything is applied.
pub(crate) fn unfinished(client: &mut Client, files: &[File], real: &[Real]) -> Vec<String> {
    let mut wrong = violations(files, real);
    for (file, real) in files.iter().zip(real) {
        if !real.is_whole() || !real.is_recorded() {
            wrong.push(format!("{}: is not applied: {real:?}", file.name));
        }
        if real.attempts.iter().any(|outcome| outcome == "running") {
            wrong.push(format!("{}: an attempt is still running: {real:?}", file.name));
        }
    }
    let mut none = |what: &str, query: &str| {
        let text = format!("SELECT coalesce(string_agg(x::text, ', '), '') FROM ({query}) q (x)");
        let found: String = client.query_one(&text, &[]).unwrap().get(0);
        if !found.is_empty() {
            wrong.push(format!("{what}: {found}"));
        }
    };
    none(
        "indexes that are not valid",
        "SELECT indexrelid::regclass FROM pg_index WHERE NOT (indisvalid AND indisready AND indislive)",
    );
    none("left behind by REINDEX", "SELECT relname FROM pg_class WHERE relname ~ '_cc(new|old)[0-9]*$'");
    none(
        "rows of the ledger that are no success",
        "SELECT migration_name FROM migration_log WHERE NOT success",
    );
    none(
        "steps that are not done",
        "SELECT series || '/' || step FROM migration_steps WHERE done_at IS NULL",
    );
    none(
        "effects of no statement",
        "SELECT DISTINCT file FROM effects WHERE statement IS NULL OR file IS NULL",
    );
    wrong
}

/// Waits until no session of a runner is left; what it says is wrong where one stays.
pub(crate) fn orphans_end(database: &Database<'_>) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut client = database.superuser().unwrap();
    loop {
        let left: i64 = client
            .query_one(
                "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name LIKE 'migration-runner%'",
                &[],
            )
            .unwrap()
            .get(0);
        if left == 0 {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err("a session of the killed runner does not end".to_owned());
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// The ledger as text, for the report of a failure.
pub(crate) fn ledger(client: &mut Client) -> String {
    let mut text = String::new();
    for table in ["migration_log", "migration_attempts", "migration_steps"] {
        let rows = client.query(&format!("SELECT t::text FROM {table} t ORDER BY 1"), &[]);
        let _ = writeln!(text, "  {table}:");
        for row in rows.iter().flatten() {
            let _ = writeln!(text, "    {}", row.get::<_, String>(0));
        }
    }
    text
}
