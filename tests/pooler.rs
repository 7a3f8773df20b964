//! A run behind a real PgBouncer, and many runs at once on a direct connection: who may take the lock, and that
//! nobody is refused, or let in, by mistake.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use migration_tests::bouncer::Bouncer;
use migration_tests::lab::Lab;
use migration_tests::program::Ran;
use migration_tests::server::{Engine, Server};

const A: (&str, &str) =
    ("001_first.sql", "-- 001 - First Step\nCREATE TABLE a (id int);\nINSERT INTO a VALUES (1);\n");
const B: (&str, &str) =
    ("002_second.sql", "-- 002 - Second Step\nCREATE TABLE b (id int);\nINSERT INTO b VALUES (1);\n");

/// A run that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(240);

const TRANSACTION: &str = "pool_mode=transaction";
const STATEMENT: &str = "pool_mode=statement";
const SESSION: &str = "pool_mode=session";
const IGNORE: &str = "ignore_startup_parameters=options";
const TURNS: &str = "server_round_robin=1";
/// As before PgBouncer 1.21, and by choice since: a prepared statement stays on the backend that prepared it.
const UNPREPARED: &str = "max_prepared_statements=0";

fn lab() -> Lab<'static> {
    Lab::new(Server::shared(Engine::Pg17), &[A, B])
}

fn bouncer(settings: &[&str]) -> Bouncer<'static> {
    Bouncer::start(Server::shared(Engine::Pg17), settings).unwrap()
}

fn run(lab: &Lab<'_>, bouncer: &Bouncer<'_>, arguments: &str) -> Ran {
    lab.runner(arguments).envs(&bouncer.variables()).run_within(LIMIT)
}

/// Leaves the pool with `number` idle server connections for the database.
fn warm(lab: &Lab<'_>, bouncer: &Bouncer<'_>, number: usize) {
    let mut clients: Vec<_> = (0..number).map(|_| bouncer.connect(&lab.database).unwrap()).collect();
    for client in &mut clients {
        client.batch_execute("BEGIN").unwrap();
    }
    for client in &mut clients {
        client.batch_execute("COMMIT").unwrap();
    }
}

/// No ledger, no extension, no table, and no lock left on a backend that the pooler keeps.
fn assert_untouched(lab: &Lab<'_>, what: &str) {
    assert_eq!(
        lab.ask("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"),
        "0",
        "{what}"
    );
    assert_eq!(lab.ask("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'"), "0", "{what}");
    assert_eq!(lab.ask(ADVISORY_LOCKS), "0", "{what}");
}

const ADVISORY_LOCKS: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

fn assert_refused(ran: Ran) -> Ran {
    ran.expect(3).shows(&[
        "a pooler answers for ",
        "does not give a run two backends of its own",
        "transaction mode",
        "nothing was touched",
        "Next: connect to PostgreSQL itself, with DB_HOST and DB_PORT",
        "Next: through a pooler only in session mode",
    ])
}

#[test]
fn transaction_mode_is_refused_whatever_backend_it_hands_out_next() {
    for (settings, idle) in [
        // The backend used last: with one there, all sessions are answered by the same.
        (vec![TRANSACTION, IGNORE], vec![0, 1, 2, 3, 8]),
        (vec![TRANSACTION, IGNORE, UNPREPARED], vec![0, 1, 2, 3, 8]),
        // In turns: what answered once comes again after all others.
        (vec![TRANSACTION, IGNORE, TURNS], vec![0, 1, 2, 3, 4, 5, 8]),
        (vec![TRANSACTION, IGNORE, TURNS, UNPREPARED], vec![0, 1, 2, 3, 8]),
        // One for all.
        (vec![TRANSACTION, IGNORE, "default_pool_size=1"], vec![0, 1]),
        (vec![TRANSACTION, IGNORE, "default_pool_size=2"], vec![0, 2]),
        (vec![TRANSACTION, IGNORE, TURNS, "default_pool_size=2"], vec![0, 2]),
    ] {
        let bouncer = bouncer(&settings);
        for idle in idle {
            let lab = lab();
            warm(&lab, &bouncer, idle);
            for flags in ["", "--force"] {
                let _ = assert_refused(run(&lab, &bouncer, flags));
                assert_untouched(&lab, &format!("{settings:?}, {idle} idle, {flags}"));
            }
            let _ = lab.run("").expect(0);
        }
    }
}

#[test]
fn statement_mode_is_refused() {
    for (settings, idle) in
        [(vec![STATEMENT, IGNORE], vec![0, 1]), (vec![STATEMENT, IGNORE, TURNS], vec![0, 3])]
    {
        let bouncer = bouncer(&settings);
        for idle in idle {
            let lab = lab();
            // No transactions here: connections come to be by queries at the same time.
            thread::scope(|scope| {
                for _ in 0..idle {
                    scope.spawn(|| {
                        bouncer
                            .connect(&lab.database)
                            .unwrap()
                            .batch_execute("SELECT pg_sleep(0.5)")
                            .unwrap();
                    });
                }
            });
            let ran = run(&lab, &bouncer, "").expect(3);
            let _ = ran.shows(&[
                "does not give a run two backends of its own",
                "statement",
                "nothing was touched",
            ]);
            assert_untouched(&lab, &format!("{settings:?}, {idle} idle"));
        }
    }
}

/// The pooler refuses our start-up options before anybody can ask it for its mode: all modes read the same.
#[test]
fn a_pooler_that_refuses_the_start_up_options_is_named_as_the_reason() {
    for settings in [TRANSACTION, STATEMENT, SESSION] {
        let (lab, bouncer) = (lab(), bouncer(&[settings]));
        for flags in ["", "--dry-run", "--status"] {
            let _ = run(&lab, &bouncer, flags).expect(3).shows(&[
                "08P01",
                "unsupported startup parameter",
                "A connection pooler (PgBouncer) answers on 127.0.0.1:",
                "Connect to PostgreSQL itself, with DB_HOST and DB_PORT",
                "ignore_startup_parameters = options",
                "nothing was touched",
            ]);
        }
        assert_untouched(&lab, settings);
    }
}

#[test]
fn two_runs_at_once_through_it_are_both_refused() {
    for settings in [
        vec![TRANSACTION, IGNORE],
        vec![TRANSACTION, IGNORE, UNPREPARED],
        vec![TRANSACTION, IGNORE, TURNS],
        vec![TRANSACTION, IGNORE, "default_pool_size=1"],
        vec![TRANSACTION, IGNORE, "default_pool_size=2"],
    ] {
        let bouncer = bouncer(&settings);
        for _ in 0..5 {
            let lab = lab();
            thread::scope(|scope| {
                let runs = [(); 2].map(|()| scope.spawn(|| run(&lab, &bouncer, "")));
                for ran in runs {
                    let _ = assert_refused(ran.join().unwrap());
                }
            });
            assert_untouched(&lab, &format!("{settings:?}"));
        }
    }
}

/// Other clients of the same role and database take and give back the backends that would have told.
#[test]
fn transaction_mode_is_refused_in_the_traffic_of_others() {
    for settings in [vec![TRANSACTION, IGNORE], vec![TRANSACTION, IGNORE, TURNS]] {
        let (lab, bouncer, over) = (lab(), bouncer(&settings), AtomicBool::new(false));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut client = bouncer.connect(&lab.database).unwrap();
                    while !over.load(Ordering::Relaxed) {
                        client.batch_execute("BEGIN; SELECT pg_sleep(0.001); COMMIT").unwrap();
                    }
                });
            }
            let runs: Vec<_> = (0..10).map(|_| run(&lab, &bouncer, "")).collect();
            over.store(true, Ordering::Relaxed);
            for ran in runs {
                let _ = assert_refused(ran);
            }
        });
        assert_untouched(&lab, &format!("{settings:?}"));
    }
}

#[test]
fn session_mode_works_and_leaves_no_lock_behind() {
    // Without a reset the backend would go to the next client with all that the run had on it.
    for settings in
        [vec![SESSION, IGNORE], vec![SESSION, IGNORE, "server_reset_query="], vec![SESSION, IGNORE, TURNS]]
    {
        let (lab, bouncer) = (lab(), bouncer(&settings));
        warm(&lab, &bouncer, 3);
        let _ = run(&lab, &bouncer, "").expect(0).shows(&["session mode", "2 applied"]);
        assert_eq!(lab.ask(ADVISORY_LOCKS), "0", "{settings:?}");
        let _ = run(&lab, &bouncer, "").expect(0).shows(&["2 already applied"]);
        let _ = lab.run("--lock-wait=0").expect(0).shows(&["2 already applied"]);
    }
}

#[test]
fn session_mode_keeps_the_lock_between_runs_at_once() {
    let (lab, bouncer) = (lab(), bouncer(&[SESSION, IGNORE]));
    let applied = thread::scope(|scope| {
        let runs = [(); 4].map(|()| scope.spawn(|| run(&lab, &bouncer, "--lock-wait=60").expect(0)));
        runs.map(|ran| ran.join().unwrap()).iter().filter(|ran| ran.stdout().contains(" 2 applied")).count()
    });
    assert_eq!(applied, 1);
    assert_eq!(lab.ask("SELECT count(*) FROM migration_attempts"), "2");
}

#[test]
fn session_mode_with_one_connection_to_give_is_refused_instead_of_waited_for() {
    let (lab, bouncer) = (lab(), bouncer(&[SESSION, IGNORE, "default_pool_size=1"]));
    let _ = run(&lab, &bouncer, "").expect(3).shows(&[
        "it had no second connection to PostgreSQL for us within 20 s",
        "two connections free for this role and database",
        "nothing was touched",
    ]);
    assert_untouched(&lab, "one connection");
}

#[test]
fn a_pooler_that_drops_the_start_up_options_is_no_way_for_pgoptions() {
    let (lab, bouncer) = (lab(), bouncer(&[SESSION, IGNORE]));
    let with_options = lab.runner("").envs(&bouncer.variables()).env("PGOPTIONS", "-c search_path=elsewhere");
    let _ = with_options.run_within(LIMIT).expect(3).shows(&["drops PGOPTIONS", "nothing was touched"]);
    assert_untouched(&lab, "PGOPTIONS");
    lab.sql(&format!("ALTER DATABASE {} SET idle_in_transaction_session_timeout = '1h'", lab.database.name));
    let fresh = Bouncer::start(Server::shared(Engine::Pg17), &[SESSION, IGNORE]).unwrap();
    let _ = run(&lab, &fresh, "").expect(0).shows(&["[WARN] The pooler drops what a session"]);
}

#[test]
fn a_direct_connection_is_nobodys_pooler() {
    let lab = lab();
    let ran = lab.run("--verbose").expect(0);
    assert!(!ran.stdout().contains("pooler"), "{ran}");
    let socket = Server::shared(Engine::Pg17).variable("MS5_SANDBOX_SOCKET");
    let ran = lab.runner("--verbose").env("DB_HOST", socket).run_within(LIMIT).expect(0);
    assert!(!ran.stdout().contains("[INFO] The connection goes through a pooler"), "{ran}");
}

#[test]
fn of_twenty_runs_at_once_one_applies_and_none_hangs() {
    const SLOW: (&str, &str) =
        ("003_third.sql", "-- 003 - Third Step\nCREATE TABLE c (id int);\nSELECT pg_sleep(0.3);\n");
    for (repetition, wait) in ["--lock-wait=200", "--lock-wait=0"].iter().cycle().take(10).enumerate() {
        let lab = Lab::new(Server::shared(Engine::Pg17), &[A, B, SLOW]);
        let runs: Vec<Ran> = thread::scope(|scope| {
            let runs: Vec<_> = (0..20).map(|_| scope.spawn(|| lab.runner(wait).run_within(LIMIT))).collect();
            runs.into_iter().map(|ran| ran.join().unwrap()).collect()
        });
        let mut applied = 0;
        for ran in runs {
            match ran.code() {
                0 if ran.stdout().contains("Summary: 3 applied, 0 already applied") => applied += 1,
                0 => drop(ran.shows(&["Summary: 0 applied, 3 already applied"])),
                4 if *wait == "--lock-wait=0" => {
                    drop(ran.shows(&["another run holds the lock of this database", "nothing was touched"]));
                }
                _ => panic!("repetition {repetition}: {ran}"),
            }
        }
        assert_eq!(applied, 1, "repetition {repetition}");
        assert_eq!(
            lab.ask("SELECT string_agg(migration_name || ' ' || outcome, ', ' ORDER BY id) FROM migration_attempts"),
            "001 - First Step applied, 002 - Second Step applied, 003 - Third Step applied"
        );
        assert_eq!(lab.ask("SELECT count(*) FROM migration_log WHERE success"), "3");
        assert_eq!(lab.ask("SELECT (SELECT count(*) FROM a) + (SELECT count(*) FROM b)"), "2");
    }
}

#[test]
fn whoever_has_the_backend_of_a_killed_run_now_is_left_alone() {
    let bouncer = bouncer(&[SESSION, IGNORE]);
    let lab = lab();
    let _ = run(&lab, &bouncer, "").expect(0);
    // The pooler has given the killed run's backend to somebody else.
    let mut innocent = bouncer.connect(&lab.database).unwrap();
    innocent
        .batch_execute(
            "INSERT INTO migration_attempts (migration_name, migration_file, run_id, checksum, tool_version, host,
                                             backend_pid, backend_start)
             SELECT '003 - Killed', '003_killed.sql', 'x', 'x', 'x', 'x', pid, backend_start
             FROM pg_stat_activity WHERE pid = pg_backend_pid();
             SET application_name = 'innocent'",
        )
        .unwrap();
    let _ = run(&lab, &bouncer, "").expect(0).shows(&["0 applied, 2 already applied"]);
    innocent.batch_execute("SELECT 1").unwrap();
    // One that carries the name of a run is ended.
    innocent
        .batch_execute("UPDATE migration_attempts SET outcome = 'running' WHERE run_id = 'x'; SET application_name = 'deploy run'")
        .unwrap();
    let _ =
        run(&lab, &bouncer, "").expect(0).shows(&["An earlier run's session still works on 003 - Killed"]);
    assert!(innocent.batch_execute("SELECT 1").is_err());
}
