//! Backups of several databases in one folder: none is brought into another's place unless somebody says so.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

use migration_tests::backups::Backups;
use migration_tests::program::{Program, Ran};
use migration_tests::server::{Engine, Server};

const ROWS: &str = "CREATE TABLE whose (of text); INSERT INTO whose VALUES ('production')";

/// Two environments of one plant, with one folder of backups.
struct Plant {
    production: Backups<'static>,
    staging: Backups<'static>,
}

impl Plant {
    fn new() -> Self {
        let plant = Self {
            production: Backups::new(Engine::Plain, ROWS),
            staging: Backups::new(Engine::Plain, &ROWS.replace("production", "staging")),
        };
        fs::create_dir_all(plant.production.folder()).unwrap();
        plant
    }

    fn production(&self, arguments: &str) -> Ran {
        self.production.restorer_or_tool(arguments).run()
    }

    fn staging(&self, arguments: &str) -> Ran {
        self.staging_tool(arguments).run()
    }

    fn staging_tool(&self, arguments: &str) -> Program {
        let password = Server::shared(Engine::Plain).variable("POSTGRES_PASSWORD_TEST");
        self.staging
            .restorer_or_tool(arguments)
            .env("ENVIRONMENT", "staging")
            .env("POSTGRES_PASSWORD_STAGING", password)
            .env("MS5_HOME", self.production.lab.home())
    }

    fn newest(&self) -> String {
        let folder = self.production.folder();
        let made = |name: &String| fs::metadata(folder.join(name)).unwrap().modified().unwrap();
        self.production.names().into_iter().max_by_key(made).unwrap()
    }
}

trait Chosen {
    fn restorer_or_tool(&self, arguments: &str) -> Program;
}

impl Chosen for Backups<'static> {
    /// As the superuser where databases are made.
    fn restorer_or_tool(&self, arguments: &str) -> Program {
        let makes = ["restore", "rollback"].iter().any(|word| arguments.starts_with(word));
        if makes { self.restorer(arguments) } else { self.tool(arguments) }
    }
}

fn whose(backups: &Backups<'_>) -> String {
    backups.lab.ask("SELECT string_agg(of, ' ') FROM whose")
}

#[test]
fn a_name_means_the_newest_of_this_database() {
    let plant = Plant::new();
    let _ = plant.production("backup pre_migration full").expect(0);
    let ours = plant.newest();
    let _ = plant.staging("backup pre_migration full").expect(0);
    let theirs = plant.newest();
    assert_ne!(ours, theirs);

    let _ = plant.production("restore pre_migration --force").expect(0).shows(&[&ours]);
    assert_eq!(whose(&plant.production), "production");
    let _ = plant.staging("restore pre_migration --force").expect(0).shows(&[&theirs]);
    let _ = plant.production("verify pre_migration").expect(0).shows(&[&ours]);
    // Where there are those of others alone, they are named.
    let _ = plant.staging("backup only full").expect(0);
    let only = plant.newest();
    for command in ["restore only --force", "verify only", "rollback only --force", "export only"] {
        let _ = plant.production(command).expect(3).shows(&[
            "there is no backup \"only\" of",
            &format!("{only} is of {} of staging", plant.staging.lab.database.name),
            "nothing was touched",
        ]);
    }
    // list says whose they are, but for our own.
    let listed = plant.production("list").expect(0).to_string();
    let of_staging = format!("; of {} of staging", plant.staging.lab.database.name);
    let line = |name: &str| listed.lines().find(|line| line.contains(name)).unwrap().to_owned();
    assert!(line(&theirs).contains(&of_staging) && !line(&ours).contains("; of "), "{listed}");
}

#[test]
fn a_full_name_of_anothers_wants_a_flag_of_its_own() {
    let plant = Plant::new();
    let _ = plant.production("backup pre_migration full").expect(0);
    let ours = plant.newest();
    let _ = plant.production("backup rows data").expect(0);
    let rows = plant.newest();
    for name in [&ours, &rows] {
        for command in [format!("restore {name} --force"), format!("rollback {name} --force")] {
            let _ = plant.staging(&command).expect(3).shows(&[
                "is a backup of another database",
                &format!("it is of {} of test", plant.production.lab.database.name),
                "nothing was touched",
                "--other-database",
            ]);
        }
        let _ = plant.staging(&format!("verify {name}")).expect(0);
    }
    assert_eq!(whose(&plant.staging), "staging");
    let _ = plant
        .staging(&format!("restore {ours} --force --other-database"))
        .expect(0)
        .shows(&["is a backup of", "✅ Restore completed"]);
    assert_eq!(whose(&plant.staging), "production");

    // What comes from elsewhere is refused before its rows come.
    let far = plant.production.lab.home().join("far.tar");
    let _ = plant
        .production
        .tool(&format!("send {ours}"))
        .arg(format!("--pipe-to=cat > {}", far.display()))
        .run()
        .expect(0);
    let empty = plant.production.lab.home().join("empty");
    let restore = |more: &str| {
        plant
            .staging_tool(&format!("restore --force --backup-dir={} {more}", empty.display()))
            .arg(format!("--from=cat {}", far.display()))
            .run()
    };
    let ran = restore("").expect(3).shows(&["is a backup of another database", "nothing was touched"]);
    assert!(!ran.to_string().contains("Reading the backup back"), "{ran}");
    assert!(!empty.join(&ours).exists());
    let _ = restore("--other-database").expect(0);
}

#[test]
fn a_backup_that_does_not_say_whose_it_is_is_taken_with_a_warning() {
    let plant = Plant::new();
    let folder = plant.production.backup("silent full --no-compression");
    let text = fs::read_to_string(folder.join("metadata.json")).unwrap();
    // As a tool of others may write it: without our index, a dump of psql.
    let mut metadata: serde_json::Value = serde_json::from_str(&text).unwrap();
    let sql = "--\n-- PostgreSQL database dump\n--\nCREATE TABLE public.silent (id int);\n--\n-- PostgreSQL database dump complete\n--\n\n";
    fs::write(folder.join("full_database.sql"), sql).unwrap();
    let sum = sha256(&folder.join("full_database.sql"));
    let all = metadata.as_object_mut().unwrap();
    all.retain(|key, _| {
        ["backup_name", "backup_type", "backup_info", "files", "checksums"].contains(&key.as_str())
    });
    all["checksums"]["full_database.sql"] = sum.into();
    fs::write(folder.join("metadata.json"), metadata.to_string()).unwrap();
    let _ = fs::remove_file(folder.join("checksums.sha256"));
    let _ = plant
        .production("restore silent --force")
        .expect(0)
        .shows(&["[WARN]", "does not say of which environment and database it is"]);
    assert_eq!(plant.production.lab.ask("SELECT to_regclass('silent') IS NOT NULL"), "true");
}

fn sha256(file: &Path) -> String {
    let ran = Program::at(Path::new("/usr/bin/sha256sum")).arg(file.display().to_string()).run().expect(0);
    ran.stdout().split(' ').next().unwrap().to_owned()
}

#[test]
fn clean_keeps_a_way_back_for_each_database() {
    let plant = Plant::new();
    let _ = plant.production("backup pre_migration full").expect(0);
    let ours = plant.newest();
    let _ = plant.staging("backup pre_migration full").expect(0);
    let theirs = plant.newest();
    let _ = plant.staging("clean 0").expect(0).shows(&["of its type and database"]);
    let names = plant.production.names();
    assert!(names.contains(&ours) && names.contains(&theirs), "{names:?}");
}

#[test]
fn a_rollback_script_is_one_environments_and_says_of_what() {
    let plant = Plant::new();
    let _ = plant.production("rollback-point way").expect(0);
    let script = only_script(&plant.production);
    let run = |environment: &str, arguments: &[&str]| {
        let server = Server::shared(Engine::Plain);
        Program::at(&script)
            .env("PATH", format!("{}:/usr/bin:/bin", server.bin().display()))
            .env("MS5_RESTORE_PASSWORD", server.variable("MS5_SANDBOX_SUPERUSER_PASSWORD"))
            .env("PGSSLMODE", "disable")
            .env("ENVIRONMENT", environment)
            .args(arguments.iter().copied())
    };
    let name = &plant.production.lab.database.name;
    let said = format!("Rolling back {name} of test on ");
    let _ = run("staging", &["--force"]).run().expect(3).shows(&[
        &said,
        "to the backup way_",
        "ENVIRONMENT is staging, and this script is for test",
        "nothing was touched",
    ]);
    for arguments in [&["--identity"] as &[&str], &["--identity="], &["--identity", "--force"], &["nonsense"]]
    {
        let _ = run("test", arguments).run().expect(2);
        let _ = run("test", arguments).env("MS5_EXIT", "classic").run().expect(1);
    }
    let _ = run("staging", &["--force"]).env("MS5_EXIT", "classic").run().expect(1);
    for environment in ["test", ""] {
        let _ = run(environment, &["--force"]).run().expect(0).shows(&[&said, "✅ Rolled back"]);
    }
}

/// The script of the only point that there is.
fn only_script(backups: &Backups<'_>) -> PathBuf {
    let points = backups.folder().join("rollback_points");
    let point = fs::read_dir(points).unwrap().next().unwrap().unwrap();
    point.path().join("rollback.sh")
}

#[test]
fn a_rollback_script_ends_with_its_signals_number() {
    let plant = Plant::new();
    let _ = plant.production("rollback-point way").expect(0);
    let script = only_script(&plant.production);
    let server = Server::shared(Engine::Plain);
    // Slow to unpack: there is time for a signal.
    let slow = plant.production.lab.home().join("slow");
    fs::create_dir_all(&slow).unwrap();
    fs::write(slow.join("gunzip"), "#!/bin/sh\nsleep 5\nexec /usr/bin/gunzip \"$@\"\n").unwrap();
    let _ = Program::at(Path::new("/bin/chmod"))
        .args(["755"])
        .arg(slow.join("gunzip").display().to_string())
        .run()
        .expect(0);
    // Its own half-made database: tests beside roll back on the same server.
    let text = fs::read_to_string(&script).unwrap();
    let key = text.lines().find_map(|line| line.strip_prefix("LOCK_KEY=")).unwrap().trim_matches('\'');
    let half = format!("ms5_rollback_{}_", key.trim_start_matches('-'));
    for (signal, classic, code) in
        [("HUP", "", 129), ("INT", "", 130), ("TERM", "", 143), ("TERM", "classic", 1)]
    {
        let run = Program::at(&script)
            .env("PATH", format!("{}:{}:/usr/bin:/bin", slow.display(), server.bin().display()))
            .env("MS5_RESTORE_PASSWORD", server.variable("MS5_SANDBOX_SUPERUSER_PASSWORD"))
            .env("PGSSLMODE", "disable")
            .env("MS5_EXIT", classic)
            .args(["--force"])
            .start();
        plant.production.lab.wait_for(&format!(
            "SELECT EXISTS (SELECT FROM pg_database WHERE starts_with(datname::text, '{half}'))"
        ));
        run.signal(signal);
        let _ = run.wait().expect(code).shows(&["stopped by a signal"]);
        assert_eq!(whose(&plant.production), "production");
    }
}
