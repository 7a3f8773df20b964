//! What a person sees on a terminal while long work goes on, and a pipe does not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;

use migration_tests::lab::Lab;
use migration_tests::program::{Program, Ran, bin_dir};
use migration_tests::server::{Engine, Server};

/// Runs the runner on a terminal of its own, made by script(1).
fn on_a_terminal(lab: &Lab<'_>, term: &str) -> Ran {
    let runner = bin_dir().unwrap().join("migration-runner");
    Program::at(Path::new("/usr/bin/script"))
        .args(["-qec", &runner.display().to_string(), "/dev/null"])
        .envs(&lab.database.variables())
        .env("MS5_HOME", lab.home())
        .env("TERM", term)
        .run()
}

#[test]
fn long_statements_show_where_they_are_on_a_terminal_only() {
    let text = "CREATE TABLE t (id int);\nSELECT pg_sleep(4);\n";
    let shown = "001 - A: statement 2 of 2";
    let server = Server::shared(Engine::Pg17);
    let _ = on_a_terminal(&Lab::new(server, &[("001_a.sql", text)]), "xterm").expect(0).shows(&[shown]);
    let dumb = on_a_terminal(&Lab::new(server, &[("001_a.sql", text)]), "dumb").expect(0);
    assert!(!dumb.stdout().contains(shown), "{dumb}");
    let lab = Lab::new(server, &[("001_a.sql", text)]);
    let piped = lab.run("").expect(0);
    assert!(!piped.stdout().contains(shown) && !piped.stderr().contains(shown), "{piped}");
    assert!(!lab.log().contains(shown));
}

#[test]
fn an_index_that_waits_shows_its_phase() {
    let lab = Lab::new(
        Server::shared(Engine::Pg17),
        &[("001_a.sql", "CREATE INDEX CONCURRENTLY b_id ON busy (id);")],
    );
    lab.sql("CREATE TABLE busy (id int)");
    let mut writer = lab.client();
    writer.batch_execute("BEGIN; INSERT INTO busy VALUES (1)").unwrap();
    let ran = std::thread::scope(|scope| {
        let run = scope.spawn(|| on_a_terminal(&lab, "xterm"));
        lab.wait_for(
            "SELECT EXISTS (SELECT FROM pg_stat_progress_create_index WHERE datname = current_database())",
        );
        std::thread::sleep(std::time::Duration::from_secs(5));
        writer.batch_execute("COMMIT").unwrap();
        run.join().unwrap()
    });
    let _ = ran.expect(0).shows(&["001 - A: step 1", "waiting for a lock", "index: waiting for writers"]);
}
