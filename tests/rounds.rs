//! Statements are sent one behind the other without waiting, and a file begins in the message that commits the one before:
//! what that must not change.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use migration_tests::lab::Lab;
use migration_tests::server::{Engine, Server};

const A: (&str, &str) = ("001_a.sql", "CREATE TABLE a (id int);");
const B: (&str, &str) = ("002_b.sql", "CREATE TABLE b (id int);");

/// The attempts, each with what migration_log says of it.
const ATTEMPTS: &str = "SELECT string_agg(a.migration_name || ' ' || outcome || coalesce(' ' || success::text, ''), ', ' ORDER BY a.id)
     FROM migration_attempts a LEFT JOIN migration_log l ON l.attempt_id = a.id";

fn lab(files: &[(&str, &str)]) -> Lab<'static> {
    Lab::new(Server::shared(Engine::Pg17), files)
}

#[test]
fn the_statement_that_failed_is_named_and_nothing_behind_it_was_executed() {
    let statements: Vec<String> = (1..=60)
        .map(|n| if n == 37 { "SELECT 1 / 0;".to_owned() } else { "SELECT nextval('counter');".to_owned() })
        .collect();
    let lab = lab(&[("001_count.sql", &statements.join("\n"))]);
    lab.sql("CREATE SEQUENCE counter");
    let _ = lab.run("").expect(1).shows(&["failed at 001_count.sql:37:1", "22012"]);
    // A sequence does not roll back.
    assert_eq!(lab.ask("SELECT last_value FROM counter"), "36");
    assert_eq!(lab.ask(ATTEMPTS), "001 - Count failed false");
}

/// It would make a transaction well again in which a statement has failed, and what was sent behind would be committed.
#[test]
fn no_file_with_a_rollback_to_a_savepoint_runs() {
    for back in ["ROLLBACK TO s;", "/* . */ rollback work to savepoint s;", "SELECT 1\\; ROLLBACK TO s;"] {
        let text = format!(
            "CREATE TABLE t (id int);\nINSERT INTO t VALUES (1 / 0);\n{back}\nINSERT INTO t VALUES (2);"
        );
        let _ =
            lab(&[("001_back.sql", &text)]).run("").expect(3).shows(&["001_back.sql:3:", "in a migration"]);
    }
}

#[test]
fn what_is_said_and_logged_keeps_the_order_of_the_file() {
    let lab = lab(&[(
        "001_say.sql",
        "\\echo first\nDO $$ BEGIN RAISE WARNING 'second'; END $$;\n\\echo third\nSELECT pg_sleep(0.2);\n\\echo fourth\n",
    )]);
    let out = lab.run("").expect(0).stdout();
    let places: Vec<_> = ["first", "second", "third", "fourth", "completed successfully"]
        .iter()
        .map(|word| out.find(word).unwrap_or_else(|| panic!("{word}\n{out}")))
        .collect();
    assert!(places.is_sorted(), "{places:?}\n{out}");
}

#[test]
fn a_file_may_throw_away_what_the_ledger_has_prepared() {
    let lab = lab(&[
        ("001_all.sql", "CREATE TABLE a (id int); DEALLOCATE ALL; INSERT INTO a VALUES (1);"),
        ("002_hidden.sql", "DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$; INSERT INTO a VALUES (2);"),
        ("003_stepwise.sql", "VACUUM a; DISCARD ALL; INSERT INTO a VALUES (3);"),
        ("004_plain.sql", "INSERT INTO a VALUES (4);"),
        ("005_plain.sql", "INSERT INTO a VALUES (5);"),
    ]);
    let _ = lab.run("").expect(0).shows(&["5 applied"]);
    assert_eq!(lab.ask("SELECT string_agg(id::text, ',' ORDER BY id) FROM a"), "1,2,3,4,5");
    assert_eq!(lab.ask("SELECT count(*) FROM migration_attempts WHERE outcome = 'applied'"), "5");
    assert_eq!(lab.ask("SELECT count(*) FROM migration_attempts"), "5");
    let _ = lab.run("").expect(0).shows(&["0 applied, 5 already applied"]);
}

#[test]
fn a_commit_that_fails_begins_nothing() {
    let lab = lab(&[
        A,
        (
            "002_deferred.sql",
            "CREATE TABLE p (id int PRIMARY KEY);
             CREATE TABLE c (id int REFERENCES p DEFERRABLE INITIALLY DEFERRED);
             INSERT INTO c VALUES (1);",
        ),
        ("003_c.sql", "CREATE TABLE after_it (id int);"),
    ]);
    let _ = lab.run("").expect(1).shows(&["002 - Deferred failed at its COMMIT", "23503", "1 not begun"]);
    assert_eq!(lab.ask(ATTEMPTS), "001 - A applied true, 002 - Deferred failed false");
    // With --force what comes behind it goes on, in a transaction of its own.
    let ran = lab.run("--force").expect(5).shows(&["002 - Deferred failed at its COMMIT", "1 applied"]);
    assert!(!ran.stdout().contains("no transaction in progress"), "{ran}");
    assert_eq!(lab.ask("SELECT to_regclass('p') IS NULL AND to_regclass('after_it') IS NOT NULL"), "true");
}

#[test]
fn a_signal_during_a_commit_lets_it_end_and_takes_back_the_beginning_of_the_next() {
    let lab = lab(&[
        (
            "001_slow.sql",
            "CREATE TABLE e (id int);
             CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(8); RETURN NULL; END $$;
             CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON e DEFERRABLE INITIALLY DEFERRED
                 FOR EACH ROW EXECUTE FUNCTION slow();
             INSERT INTO e VALUES (1);",
        ),
        B,
    ]);
    let run = lab.runner("").start();
    lab.wait_for_sleep();
    run.signal("TERM");
    let _ = run.wait().expect(143).shows(&["001 - Slow completed successfully", "1 applied", "1 not begun"]);
    assert_eq!(lab.ask(ATTEMPTS), "001 - Slow applied true");
    let _ = lab.run("").expect(0).shows(&["1 applied, 1 already applied"]);
}

/// A way to the server that, once, keeps the answer to a message for itself and ends the connection instead.
struct Thief {
    port: u16,
    done: Arc<AtomicBool>,
}

impl Thief {
    /// Steals what the server answers once `words` have passed by, and all that follows.
    fn of_answers_to(server: &Server, words: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, upstream) = (listener.local_addr().unwrap().port(), server.port());
        let done = Arc::new(AtomicBool::new(false));
        let stolen = Arc::clone(&done);
        thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", upstream)) else { return };
                let stolen = Arc::clone(&stolen);
                thread::spawn(move || carry(&client, &server, words, &stolen));
            }
        });
        Self { port, done }
    }
}

fn carry(client: &TcpStream, server: &TcpStream, words: &str, stolen: &AtomicBool) {
    let steals = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut from, mut to) = (client, server);
            let mut buffer = vec![0; 1 << 20];
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]);
                if text.contains(words) && !stolen.swap(true, Ordering::SeqCst) {
                    steals.store(true, Ordering::SeqCst);
                }
                if to.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
            let _ = server.shutdown(Shutdown::Write);
        });
        let (mut from, mut to) = (server, client);
        let mut buffer = vec![0; 1 << 16];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if steals.load(Ordering::SeqCst) {
                // The server has time to come to its end.
                thread::sleep(Duration::from_secs(3));
                break;
            }
            if to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
    });
}

#[test]
fn silence_behind_a_commit_that_was_sent_is_looked_up_and_the_run_goes_on() {
    let lab = lab(&[
        ("001_many.sql", "CREATE TABLE m (id int); INSERT INTO m VALUES (1); INSERT INTO m VALUES (2);"),
        B,
        ("003_c.sql", "CREATE TABLE c (id int);"),
    ]);
    // The whole file and its COMMIT are on their way when the first answer is stolen.
    let thief = Thief::of_answers_to(Server::shared(Engine::Pg17), "INSERT INTO m VALUES (2)");
    let ran = lab.runner("").env("DB_PORT", thief.port.to_string()).run().expect(0);
    let _ = ran.shows(&["The connection was lost during the COMMIT of 001 - Many", "3 applied"]);
    assert!(thief.done.load(Ordering::SeqCst), "nothing was stolen");
    assert_eq!(lab.ask("SELECT count(*) FROM m"), "2");
    assert_eq!(
        lab.ask(ATTEMPTS),
        "001 - Many applied true, 002 - B applied true, 003 - C applied true",
        "the beginning of 002 that was lost with the answer is taken back"
    );
}
