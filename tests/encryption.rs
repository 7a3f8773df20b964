//! Encrypted backups: nothing of them can be read without the key, not for a moment; with it they are like any other, by us and
//! by hand.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use migration_tests::backups::{Backups, EVERY_TYPE, HYPERTABLES, PLAIN, content, gunzip};
use migration_tests::program::{Program, Ran, project_root};
use migration_tests::server::{Engine, Server, not_run};
use serde_json::Value;

/// The folder of age and age-keygen.
fn age_bin() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let output = Command::new(project_root().join("scripts/sandbox.sh"))
            .arg("bin-age")
            .env("MS5_SANDBOX", std::env::var_os("MS5_SANDBOX").unwrap_or_else(|| "debian".into()))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().into()
    })
}

/// A key of age-keygen's own: its file, and the recipient that goes with it.
fn keygen(backups: &Backups<'_>, name: &str) -> (PathBuf, String) {
    let file = backups.lab.home().join(name);
    let made = Command::new(age_bin().join("age-keygen")).arg("-o").arg(&file).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let shown = Command::new(age_bin().join("age-keygen")).arg("-y").arg(&file).output().unwrap();
    (file, String::from_utf8(shown.stdout).unwrap().trim().to_owned())
}

/// The clear text of a file, by age itself.
fn decrypt(key: &Path, file: &Path) -> Vec<u8> {
    let output = Command::new(age_bin().join("age")).arg("-d").arg("-i").arg(key).arg(file).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(listed) = fs::read_dir(folder) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in listed.flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// Whether one of the words stands in a file, in the clear or inside gzip.
fn tells(path: &Path, words: &[&str]) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    let unpacked = if bytes.starts_with(&[0x1f, 0x8b]) { b"it is gzip".to_vec() } else { bytes.clone() };
    if unpacked == b"it is gzip" {
        return Some("gzip".to_owned());
    }
    words
        .iter()
        .find(|word| bytes.windows(word.len()).any(|part| part == word.as_bytes()))
        .map(|word| (*word).to_owned())
}

/// Words that only the database knows.
const WORDS: [&str; 6] =
    ["no rows here", "parts_2025", "back\\slash", "CREATE TABLE", "never_called", "COPY "];

#[test]
fn every_type_comes_back_with_the_key_and_says_nothing_without() {
    for (engine, sql) in [
        (Engine::Plain, format!("{PLAIN}{EVERY_TYPE}")),
        (Engine::Pg17, format!("{PLAIN}{EVERY_TYPE}{HYPERTABLES}")),
    ] {
        let backups = Backups::new(engine, &sql);
        let (key, recipient) = keygen(&backups, "key");
        let (other, _) = keygen(&backups, "other");
        let (before, inventory) = (backups.content(), backups.lab.database.inventory());
        let name = backups.lab.database.name.clone();
        let types = if engine == Engine::Plain { 3 } else { 4 };
        for kind in ["full", "schema", "data", "hypertables"].into_iter().take(types) {
            for more in ["", " --no-compression"] {
                let folder = backups.backup(&format!("{kind} {kind} --encrypt-to={recipient}{more}"));
                for file in files(&folder) {
                    let shown = file.file_name().unwrap().to_string_lossy().into_owned();
                    let clear = ["metadata.json", "checksums.sha256"].contains(&shown.as_str());
                    assert_eq!(!clear, shown.ends_with(".age"), "{shown}");
                    assert_eq!(tells(&file, &WORDS), None, "{shown}");
                }
                let text = fs::read_to_string(folder.join("metadata.json")).unwrap();
                let metadata: Value = serde_json::from_str(&text).unwrap();
                assert_eq!(metadata["encryption"]["recipients"], serde_json::json!([recipient]));
                assert!(metadata.get("inventory").is_none() && metadata.get("members").is_none(), "{text}");

                let with =
                    |key: &Path, line: &str| backups.run(&format!("{line} --identity={}", key.display()));
                let _ = backups
                    .run(&format!("verify {kind}"))
                    .expect(0)
                    .shows(&["checksums fit", "It is encrypted"]);
                let _ = with(&key, &format!("verify {kind}")).expect(0).shows(&["members"]);
                let _ =
                    with(&other, &format!("verify {kind}")).expect(3).shows(&["not encrypted for the key"]);
                let _ = backups.run(&format!("restore {kind} --force")).expect(3).shows(&[
                    "is encrypted",
                    &recipient,
                    "nothing was touched",
                    "--identity=KEY_FILE",
                ]);
                let _ = with(&other, &format!("restore {kind} --force"))
                    .expect(3)
                    .shows(&["nothing was touched"]);
                assert_eq!(backups.content(), before);
                // By hand, with age's own program.
                if kind == "full" || kind == "schema" {
                    let _ = backups
                        .restorer(&format!("verify {kind} --deep --identity={}", key.display()))
                        .run()
                        .expect(0);
                    let _ = backups.run(&format!("verify {kind} --deep")).expect(3).shows(&["is encrypted"]);
                    let end = if more.is_empty() { "sql.gz.age" } else { "sql.age" };
                    let stem = if kind == "full" { "full_database" } else { "schema" };
                    let mut sql = decrypt(&key, &folder.join(format!("{stem}.{end}")));
                    if more.is_empty() {
                        sql = gunzip(&sql);
                    }
                    assert!(
                        String::from_utf8_lossy(&sql).contains(&format!("age -d -i KEY_FILE {stem}.{end}"))
                    );
                    let to = backups.empty_database(&format!("{stem}{}", more.len()));
                    let _ = backups.psql(&to, sql).expect(0);
                    if kind == "full" {
                        assert_eq!(content(&mut backups.superuser(&to)), before);
                    }
                }
            }
        }
        let _ = backups.run("list").expect(0).shows(&["complete, encrypted"]);
        // By us: from what is gone to what was there; the key's file by the variable.
        let restore = |line: &str| backups.restorer(line).env("MS5_IDENTITY", &key).run().expect(0);
        let _ = restore("restore full --force --drop-old --jobs=4");
        assert_eq!(backups.content(), before);
        backups.has_objects_of(&inventory);
        let _ = restore("restore schema --force --drop-old");
        let _ = restore("restore data");
        assert_eq!(backups.content(), before, "{name}");
        if engine == Engine::Pg17 {
            backups.lab.sql("TRUNCATE m; DROP TABLE \"M 2\"");
            let _ = restore("restore hypertables").shows(&["made anew"]);
            assert_eq!(backups.content(), before);
        }
    }
}

#[test]
fn nothing_readable_is_on_the_disk_for_a_moment() {
    let backups = Backups::new(
        Engine::Plain,
        "CREATE TABLE secrets (id int, words text);
INSERT INTO secrets SELECT i, 'Geheimrezept ' || md5(i::text) FROM generate_series(1, 30000) i;
SELECT lo_from_bytea(0, convert_to('Geheimrezept of the large object', 'UTF8'));
",
    );
    let (_, recipient) = keygen(&backups, "key");
    let words = ["Geheimrezept", "secrets", "CREATE", "lowrite"];
    let done = AtomicBool::new(false);
    let (killed, looked) = std::thread::scope(|scope| {
        let looker = scope.spawn(|| {
            let mut looked = 0;
            while !done.load(Ordering::Relaxed) {
                for file in files(&backups.folder()) {
                    looked += 1;
                    if let Some(word) = tells(&file, &words) {
                        return Err(format!("{}: {word}", file.display()));
                    }
                }
                std::thread::sleep(Duration::from_millis(3));
            }
            Ok(looked)
        });
        let mut killed = 0;
        // Ever later, until one ends by itself.
        for turn in 0..14 {
            let milliseconds = 40 * (3_u64.pow(turn) / 2_u64.pow(turn)).max(1);
            let mut running = backups
                .tool(&format!("backup x --no-compression --encrypt-to={recipient}"))
                .into_command()
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            std::thread::sleep(Duration::from_millis(milliseconds));
            running.kill().unwrap();
            if running.wait().unwrap().success() {
                break;
            }
            killed += 1;
        }
        done.store(true, Ordering::Relaxed);
        (killed, looker.join().unwrap())
    });
    assert!(killed > 3, "{killed} were killed");
    assert!(looked.unwrap() > 50);
    // The looker finds it where it is.
    let _ = backups.backup("clear --no-compression");
    assert!(files(&backups.folder()).iter().any(|file| tells(file, &words).is_some()));
}

/// rollback.sh where age is, or is not, on PATH.
fn rollback(backups: &Backups<'_>, age: bool, arguments: &str) -> Ran {
    let server = Server::shared(Engine::Pg17);
    // What a plain machine has, and nothing else: this one may have an age of its own.
    let bin = backups.lab.home().join(format!("bin-{age}"));
    if fs::create_dir(&bin).is_ok() {
        for folder in ["/usr/bin", "/bin"] {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                let name = entry.file_name();
                if name != "age" {
                    let _ = symlink(entry.path(), bin.join(name));
                }
            }
        }
        if age {
            symlink(age_bin().join("age"), bin.join("age")).unwrap();
        }
    }
    Program::at(Path::new("/bin/sh"))
        .env("PATH", format!("{}:{}", server.bin().display(), bin.display()))
        .env("POSTGRES_PASSWORD_TEST", server.variable("POSTGRES_PASSWORD_TEST"))
        .env("MS5_RESTORE_PASSWORD", server.variable("MS5_SANDBOX_SUPERUSER_PASSWORD"))
        .env("PGSSLMODE", "disable")
        .current_dir(backups.lab.home())
        .args(["-c", &format!("./backups/rollback_points/*/rollback.sh {arguments}; code=$?; tail -n 5 ./backups/rollback_points/*/rollback.log; exit $code")])
        .run()
}

#[test]
fn a_rollback_point_goes_back_with_age_and_the_key() {
    let backups = Backups::new(Engine::Pg17, &format!("{PLAIN}{HYPERTABLES}"));
    let (key, recipient) = keygen(&backups, "key");
    let (other, _) = keygen(&backups, "other");
    let before = backups.content();
    let _ = backups
        .restorer(&format!("rollback-point here --encrypt-to={recipient}"))
        .env("PATH", format!("{}:/usr/bin:/bin", Server::shared(Engine::Pg17).bin().display()))
        .run()
        .expect(0)
        .shows(&["needs age and the key", "--identity=KEY_FILE --force"]);
    backups.lab.sql("TRUNCATE m; DELETE FROM parts");
    let changed = backups.content();
    let key = key.display();
    for (age, arguments, words) in [
        (false, format!("--force --identity={key}"), "age is not here"),
        (true, "--force".to_owned(), "the backup is encrypted"),
        (true, format!("--force --identity {}", other.display()), "does not open the backup"),
        (true, "--force --identity=/nowhere".to_owned(), "does not open the backup"),
    ] {
        let _ = rollback(&backups, age, &arguments).expect(3).shows(&[words, "nothing was touched"]);
        assert_eq!(backups.content(), changed);
    }
    let _ =
        rollback(&backups, true, &format!("--force --identity={key}")).expect(0).shows(&["✅ Rolled back"]);
    assert_eq!(backups.content(), before);
    backups.lab.sql("DELETE FROM parts");
    let _ = backups.restorer(&format!("rollback here --force --identity={key}")).run().expect(0);
    assert_eq!(backups.content(), before);
}

#[test]
fn what_was_changed_is_found_although_its_sums_were_made_anew() {
    let backups = Backups::new(Engine::Plain, PLAIN);
    let (key, recipient) = keygen(&backups, "key");
    let folder = backups.backup(&format!("x --encrypt-to={recipient}"));
    let file = folder.join("full_database.sql.gz.age");
    let sound = fs::read(&file).unwrap();
    let metadata = fs::read_to_string(folder.join("metadata.json")).unwrap();
    let sum = |bytes: &[u8]| {
        let path = backups.lab.home().join("summed");
        fs::write(&path, bytes).unwrap();
        let output = Command::new("sha256sum").arg(&path).output().unwrap();
        String::from_utf8(output.stdout).unwrap()[..64].to_owned()
    };
    let old = sum(&sound);
    let verify = || backups.run(&format!("verify x --identity={}", key.display()));
    let mut places: Vec<usize> = (0..12).map(|part| part * (sound.len() - 1) / 11).collect();
    places.extend([22, 60, 150]);
    let mut changes: Vec<Vec<u8>> = places
        .iter()
        .map(|at| {
            let mut bytes = sound.clone();
            bytes[*at] ^= 1;
            bytes
        })
        .collect();
    changes.push(sound[..sound.len() - 1].to_vec());
    changes.push([sound.as_slice(), b"x"].concat());
    for bytes in changes {
        fs::write(&file, &bytes).unwrap();
        let forged = metadata
            .replace(&old, &sum(&bytes))
            .replace(&format!(".age\": {}", sound.len()), &format!(".age\": {}", bytes.len()));
        fs::write(folder.join("metadata.json"), &forged).unwrap();
        let mut sums = format!("{}  metadata.json\n", sum(forged.as_bytes()));
        let listed: Value = serde_json::from_str(&forged).unwrap();
        for name in listed["files"].as_array().unwrap() {
            let name = name.as_str().unwrap();
            let hash = listed["checksums"][name].as_str().unwrap().strip_prefix("sha256:").unwrap();
            sums.push_str(&format!("{hash}  {name}\n"));
        }
        fs::write(folder.join("checksums.sha256"), sums).unwrap();
        let _ = backups.run("verify x").expect(0);
        let _ = verify().expect(1).shows(&["is damaged"]);
    }
}

#[test]
fn a_secret_key_in_the_wrong_place_is_refused_and_not_repeated() {
    let backups = Backups::new(Engine::Plain, "CREATE TABLE t (id int);\n");
    let (key, recipient) = keygen(&backups, "key");
    let text = fs::read_to_string(&key).unwrap();
    let secret = text.lines().find(|line| line.starts_with("AGE-SECRET-KEY")).unwrap();
    let ran = backups.run(&format!("backup x --encrypt-to={secret}")).expect(2);
    assert!(!ran.to_string().replace(&format!("--encrypt-to={secret}"), "").contains(secret), "{ran}");
    let _ = backups
        .run(&format!("backup x --encrypt-to={}", key.display()))
        .expect(3)
        .shows(&["is a secret key"]);
    let _ = backups.run("backup x --encrypt-to=age1nobody").expect(3).shows(&["neither a recipient"]);
    assert!(backups.names().is_empty());
    for file in files(backups.lab.home()).iter().filter(|file| **file != key) {
        assert!(!fs::read_to_string(file).unwrap_or_default().contains(secret), "{}", file.display());
    }
    // Two people, each by their own key; one of them by a file.
    let (second, other) = keygen(&backups, "second");
    let list = backups.lab.home().join("recipients");
    fs::write(&list, format!("# the plant's\n{other}\n")).unwrap();
    let _ = backups.backup(&format!("two --encrypt-to={recipient},{}", list.display()));
    for key in [key, second] {
        let _ =
            backups.run(&format!("verify two --identity={}", key.display())).expect(0).shows(&["members"]);
    }
}

#[test]
fn off_the_machine_it_stays_encrypted() {
    let backups = Backups::new(Engine::Plain, PLAIN);
    let (key, recipient) = keygen(&backups, "key");
    let before = backups.content();
    let tar = backups.lab.home().join("far.tar");
    let _ = backups
        .tool(&format!("backup x --encrypt-to={recipient}"))
        .arg("--pipe-to")
        .arg(format!("cat > {}", tar.display()))
        .run()
        .expect(0);
    assert_eq!(tells(&tar, &WORDS), None);
    let from = |line: &str| backups.tool(line).arg("--from").arg(format!("cat {}", tar.display()));
    let _ = from("verify").run().expect(0).shows(&["checksums fit"]);
    fs::remove_dir_all(backups.folder()).unwrap();
    backups.lab.sql("DELETE FROM parts");
    let _ = from("restore --force").run().expect(3).shows(&["is encrypted"]);
    let _ = from(&format!("restore --force --identity={}", key.display())).run().expect(0);
    assert_eq!(backups.content(), before);
}

#[test]
fn compressed_chunks_and_policies_on_a_community_server() {
    let Some(server) = Server::community() else {
        return not_run("compressed_chunks_and_policies_on_a_community_server");
    };
    let backups = Backups::on(&server, &format!("{PLAIN}{HYPERTABLES}"));
    backups.lab.sql(
        "ALTER TABLE m SET (timescaledb.compress, timescaledb.compress_segmentby = 'dev');
         SELECT compress_chunk(c) FROM show_chunks('m', older_than => '2025-01-10'::timestamptz) c;",
    );
    let (key, recipient) = keygen(&backups, "key");
    let before = backups.content();
    for kind in ["full", "hypertables"] {
        let _ = backups.backup(&format!("{kind} {kind} --encrypt-to={recipient}"));
    }
    backups.lab.sql("TRUNCATE m");
    let _ =
        backups.run(&format!("restore hypertables --tables=public.m --identity={}", key.display())).expect(0);
    assert_eq!(backups.content(), before);
    let _ = backups
        .restorer(&format!("restore full --force --drop-old --identity={}", key.display()))
        .run()
        .expect(0);
    assert_eq!(backups.content(), before);
}
