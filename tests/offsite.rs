//! Off the machine and back: a backup as one tar through the commands of others, each of which may fail, stop or lie.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use migration_tests::backups::{Backups, Dice, HYPERTABLES, PLAIN, content};
use migration_tests::program::{Program, Ran, bin_dir};
use migration_tests::server::{Engine, Server};
use serde_json::Value;
use tar::{EntryType, Header};

/// More than a pipe holds, and does not compress.
const LARGE: &str = "CREATE TABLE t (id int, x bytea);
    INSERT INTO t SELECT i, decode(string_agg(md5(i || ' ' || j), ''), 'hex')
    FROM generate_series(1, 100) i, generate_series(1, 500) j GROUP BY i;";

/// A folder that stands for another machine, and the tool with it in FAR.
struct Far<'a> {
    backups: &'a Backups<'static>,
    folder: PathBuf,
}

impl<'a> Far<'a> {
    fn new(backups: &'a Backups<'static>) -> Self {
        let folder = backups.lab.home().join("far");
        fs::create_dir_all(&folder).unwrap();
        Self { backups, folder }
    }

    fn tool(&self, arguments: &str) -> Program {
        self.backups.restorer_if(arguments).env("FAR", &self.folder)
    }

    fn send(&self, name: &str, command: &str) -> Program {
        self.tool(&format!("send {name}")).arg(format!("--pipe-to={command}"))
    }

    /// What the command gives, into a folder of its own.
    fn fetch(&self, to: &Path, command: &str) -> Program {
        self.tool("fetch").arg(format!("--backup-dir={}", to.display())).arg("--from").arg(command)
    }

    fn verify(&self, command: &str) -> Program {
        self.tool("verify").arg(format!("--from={command}"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A tar of a backup, sent to the far end.
    fn tar(&self, name: &str) -> Vec<u8> {
        let _ = self.send(name, "cat > \"$FAR/sent.tar\"").run().expect(0);
        fs::read(self.file("sent.tar")).unwrap()
    }
}

trait Restorer {
    fn restorer_if(&self, arguments: &str) -> Program;
}

impl Restorer for Backups<'static> {
    /// As the superuser where databases are made, else as the role of the environment.
    fn restorer_if(&self, arguments: &str) -> Program {
        let restores =
            ["restore", "verify a --deep", "rollback"].iter().any(|word| arguments.starts_with(word));
        if restores { self.restorer(arguments) } else { self.tool(arguments) }
    }
}

fn name_of(folder: &Path) -> String {
    folder.file_name().unwrap().to_str().unwrap().to_owned()
}

fn files_of(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .map(|path| (name_of(&path), fs::read(&path).unwrap()))
        .collect();
    files.sort();
    files
}

/// What is in a folder of backups, hidden ones among them, but for its lock.
fn all_in(folder: &Path) -> Vec<String> {
    let Ok(listed) = fs::read_dir(folder) else { return Vec::new() };
    listed.map(|entry| name_of(&entry.unwrap().path())).filter(|name| name != ".lock").collect()
}

/// The line of a tar's sum, as sha256sum would print it.
fn sum_line(ran: &Ran) -> String {
    let text = format!("{}{}", ran.stdout(), ran.stderr());
    let line = text.lines().find(|line| line.ends_with(".tar")).unwrap_or_else(|| panic!("{ran}"));
    line.split_once("[INFO] ").unwrap().1.to_owned()
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "it never holds: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A member as anybody could make it.
fn member(path: &str, kind: EntryType, bytes: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(bytes.len() as u64);
    if kind == EntryType::Symlink || kind == EntryType::Link {
        header.as_old_mut().linkname[..11].copy_from_slice(b"/etc/passwd");
    }
    header.set_cksum();
    let mut out = header.as_bytes().to_vec();
    out.extend_from_slice(bytes);
    out.resize(out.len().next_multiple_of(512), 0);
    out
}

#[test]
fn what_was_sent_comes_back_whole_in_another_home() {
    for (engine, sql) in [(Engine::Plain, PLAIN.to_owned()), (Engine::Pg17, format!("{PLAIN}{HYPERTABLES}"))]
    {
        let backups = Backups::new(engine, &sql);
        let far = Far::new(&backups);
        let before = backups.content();
        // So long that no header of a tar holds it.
        let plain = format!("vor-Änderung@2{}", "x".repeat(120));
        let put = "cat > \"$FAR/$MS5_BACKUP_NAME.tar\" && echo stored \"$MS5_BACKUP_BYTES\"";
        let made = far
            .tool(&format!("backup {plain} full"))
            .arg("--pipe-to")
            .arg(put)
            .run()
            .expect(0)
            .shows(&["✅ Backup completed: ", "Sending backup: ", "cat: stored", "✅ Backup sent: "]);
        let name = backups.names().remove(0);
        let folder = backups.folder().join(&name);
        let file = far.file(&format!("{name}.tar"));
        let made = made.shows(&[&format!("cat: stored {}\n", file.metadata().unwrap().len())]);
        let sums = Program::at(Path::new("/usr/bin/sha256sum"))
            .args(["-c", "-"])
            .current_dir(&far.folder)
            .input(format!("{}\n", sum_line(&made)));
        let _ = sums.run().expect(0).shows(&[&format!("{name}.tar: OK")]);
        let listed = Program::at(Path::new("/bin/tar")).arg("-tvf").arg(&file).env("LC_ALL", "C.UTF-8").run();
        let members: Vec<String> = listed
            .stdout()
            .lines()
            .map(|line| {
                assert!(line.starts_with("-rw------- 0/0 "), "{line}");
                line.rsplit('/').next().unwrap().to_owned()
            })
            .collect();
        assert_eq!(members, ["metadata.json", "checksums.sha256", "full_database.sql.gz"], "{listed}");
        // By hand, without any of it.
        let by_hand = far.file("by hand");
        fs::create_dir(&by_hand).unwrap();
        let _ =
            Program::at(Path::new("/bin/tar")).arg("-xf").arg(&file).arg("-C").arg(&by_hand).run().expect(0);
        assert_eq!(files_of(&by_hand.join(&name)), files_of(&folder));
        // The same backup makes the same bytes.
        assert_eq!(far.tar(&name), fs::read(&file).unwrap());

        let get = format!("cat '{}'", file.display());
        let seen = far.verify(&get).run().expect(0).shows(&["checksums fit", "✅ Backup verified: "]);
        assert_eq!(sum_line(&seen), sum_line(&made));
        assert_eq!(backups.names(), std::slice::from_ref(&name), "nothing is written");
        let _ = far.tool(&format!("verify {plain}")).arg(format!("--from={get}")).run().expect(0);

        backups.lab.sql("UPDATE parent SET name = 'changed'; CREATE TABLE later (id int)");
        let home = backups.lab.home().join("other home");
        let restored = far
            .tool(&format!("restore {plain} --force"))
            .args(["--from", "cat \"$FAR/$MS5_BACKUP_NAME\"_2*.tar"])
            .env("MS5_HOME", &home)
            .run()
            .expect(0)
            .shows(&["Every row and every object is as it was backed up", "✅ Restore completed"]);
        assert_eq!(sum_line(&restored), sum_line(&made));
        assert_eq!(content(&mut backups.superuser(&backups.lab.database.name)), before);
        let fetched = home.join("backups").join(&name);
        assert_eq!(files_of(&fetched), files_of(&folder));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&fetched), mode(&fetched.join("metadata.json"))), (0o700, 0o600));
        assert_eq!(mode(&fetched.join("full_database.sql.gz")), 0o600);
        let _ = far.tool(&format!("verify {name}")).env("MS5_HOME", &home).run().expect(0);

        // The proof comes along, and is a proof there.
        let _ = backups.restorer(&format!("verify {name} --deep")).run().expect(0);
        let proven = far.tar(&name);
        let counts = "test \"$(wc -c)\" = \"$MS5_BACKUP_BYTES\"";
        let _ = far.send(&name, counts).run().expect(0);
        assert!(proven.len() > fs::read(&file).unwrap().len());
        let third = far.file("third");
        let sent = "cat \"$FAR/sent.tar\"";
        let _ = far.fetch(&third, sent).run().expect(0).shows(&["✅ Backup fetched: "]);
        assert_eq!(files_of(&third.join(&name)), files_of(&folder));
        let _ = far
            .tool(&format!("verify {name} --backup-dir={}", third.display()))
            .run()
            .expect(0)
            .shows(&["Proven by"]);
        let _ =
            far.fetch(&third, sent).run().expect(0).shows(&["is here already", "✅ Backup already here: "]);
    }
}

#[test]
fn a_rollback_point_is_sent_too() {
    let backups = Backups::new(Engine::Plain, "CREATE TABLE t (id int); INSERT INTO t VALUES (7);");
    let far = Far::new(&backups);
    let _ = far
        .tool("rollback-point point")
        .arg("--pipe-to=cat > \"$FAR/x.tar\"")
        .run()
        .expect(0)
        .shows(&["✅ Rollback point created: point_2", "✅ Backup sent: point_2"]);
    assert!(backups.lab.home().join("rollback").read_dir().unwrap().count() == 1);
    let _ = far.verify("cat \"$FAR/x.tar\"").run().expect(0);
    // Piped from one to the other, packed and unpacked on the way.
    let _ = far
        .send("point", "gzip -1 | openssl enc -aes-256-ctr -pbkdf2 -pass pass:x > \"$FAR/x.enc\"")
        .run()
        .expect(0);
    let back = "openssl enc -d -aes-256-ctr -pbkdf2 -pass pass:x < \"$FAR/x.enc\" | gunzip";
    let _ = far.verify(back).run().expect(0);
}

#[test]
fn the_end_of_the_command_decides() {
    let small = Backups::new(Engine::Plain, "CREATE TABLE t (id int)");
    let large = Backups::new(Engine::Plain, LARGE);
    for backups in [&small, &large] {
        let far = Far::new(backups);
        let folder = backups.backup("ends full");
        let name = name_of(&folder);
        for (command, code, words) in [
            ("cat >/dev/null; exit 7", 1, "ended with exit code 7"),
            ("cat >/dev/null; kill -9 $$", 1, "was ended by signal 9"),
            ("true", 1, "has not read all of the tar"),
            ("exec 0<&-; sleep 0.3", 1, "has not read all of the tar"),
            ("head -c 1000 >/dev/null", 1, "has not read all of the tar"),
            ("cat >/dev/null; no_such_program", 1, "ended with exit code 127"),
            ("cat >/dev/full", 1, "No space left on device"),
            ("no_such_program x", 3, "there is no program no_such_program here"),
            ("cat 'x", 3, "sh does not understand the command"),
        ] {
            let ran = far.send("ends", command).run().expect(code).shows(&[words, "Next: "]);
            let whole_here = ran.stdout().contains(&format!("the backup {name} is whole here"));
            assert_eq!(whole_here, code == 1, "{ran}");
            assert!(!ran.stdout().contains("✅ Backup sent"), "{ran}");
        }
        // The last lines of what it says, and no line of progress.
        let talks = "cat >/dev/null; printf '1%%\\r2%%\\r'; for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo \"line $i\" >&2; done; exit 1";
        let ran = far.send("ends", talks).run().expect(1);
        let errors: Vec<String> =
            ran.stdout().lines().filter(|line| line.contains("[ERROR] line")).map(str::to_owned).collect();
        assert!(
            errors.len() == 10 && errors[0].ends_with("line 3") && errors[9].ends_with("line 12"),
            "{ran}"
        );
        assert!(
            ran.stdout().contains("[INFO] cat: 2%line 1\n") || ran.stdout().contains("[INFO] cat: line 1\n"),
            "{ran}"
        );
        assert!(!ran.stdout().contains("1%"), "{ran}");
        // Where it fails after a backup, that one stays, and is whole.
        let ran = far.tool("backup stays full").arg("--pipe-to=cat >/dev/null; exit 7").run().expect(1);
        let ran =
            ran.shows(&["✅ Backup completed: stays_2", "Next: send it again: backup-manager send stays_2"]);
        let _ = far.tool("verify stays").run().expect(0);
        drop(ran);
        // What cannot be run is found out before a row is read.
        let before = backups.names();
        let _ = far
            .tool("backup never full")
            .arg("--pipe-to=no_such_program")
            .run()
            .expect(3)
            .shows(&["nothing was touched"]);
        assert_eq!(backups.names(), before);
    }
}

#[test]
fn what_is_damaged_is_not_sent_as_whole() {
    let backups = Backups::new(Engine::Plain, LARGE);
    let far = Far::new(&backups);
    let folder = backups.backup("harm full");
    let _ = backups.restorer("verify harm --deep").run().expect(0);
    // Nothing after the command's first line happens, whether it hears of its end or not.
    for command in [
        "cat > \"$FAR/x.tar\"; echo done > \"$FAR/done\"",
        "trap '' TERM; cat > \"$FAR/x.tar\"; echo done > \"$FAR/done\"",
        "cat | cat > \"$FAR/x.tar\" && echo done > \"$FAR/done\"",
    ] {
        let path = folder.join("full_database.sql.gz");
        let sound = fs::read(&path).unwrap();
        let mut bytes = sound.clone();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        let ran = far.send("harm", command).run().expect(1).shows(&[
            "is damaged, and was not sent as a whole one",
            "full_database.sql.gz is not what was written: its checksum differs",
        ]);
        assert!(!far.file("done").exists(), "{ran}");
        let there = fs::read(far.file("x.tar")).unwrap();
        assert!(there.len() > sound.len() / 2, "the damage is at its end");
        assert!(!there.ends_with(&[0; 1024]), "it has no end");
        let _ = far.verify("cat \"$FAR/x.tar\"").run().expect(1).shows(&["no whole backup", "Next: "]);
        let _ =
            far.fetch(&far.file("never"), "cat \"$FAR/x.tar\"").run().expect(1).shows(&["no whole backup"]);
        assert!(all_in(&far.file("never")).is_empty());
        fs::write(&path, sound).unwrap();
        fs::remove_file(far.file("x.tar")).unwrap();
    }
    // What a look finds is not even begun.
    for (file, change) in [
        ("full_database.sql.gz", &(|bytes: &mut Vec<u8>| bytes.push(0)) as &dyn Fn(&mut Vec<u8>)),
        ("metadata.json", &|bytes| bytes[30] ^= 1),
        ("checksums.sha256", &|bytes| bytes[0] ^= 1),
        ("verified.json", &|bytes| bytes[30] ^= 1),
        ("checksums.sha256", &|bytes| bytes.clear()),
    ] {
        let path = folder.join(file);
        let sound = fs::read(&path).unwrap();
        let mut bytes = sound.clone();
        change(&mut bytes);
        fs::write(&path, bytes).unwrap();
        let _ = far.send("harm", "cat > \"$FAR/x.tar\"").run().expect(1).shows(&["is damaged", file]);
        assert!(!far.file("x.tar").exists());
        fs::write(&path, sound).unwrap();
    }
    let _ = far.send("harm", "cat > \"$FAR/x.tar\"").run().expect(0);
    // One of the old script has no sums to check it by.
    let text = fs::read_to_string(folder.join("metadata.json")).unwrap();
    let old: Value = serde_json::from_str(&text).unwrap();
    let keys = ["backup_name", "backup_type", "backup_info", "files", "checksums"];
    let old: serde_json::Map<String, Value> =
        keys.iter().map(|key| ((*key).to_owned(), old[*key].clone())).collect();
    fs::write(folder.join("metadata.json"), Value::Object(old).to_string()).unwrap();
    let _ = far
        .send("harm", "cat")
        .run()
        .expect(3)
        .shows(&["the old script made it", "backup-manager backup NAME full"]);
    // A name that a shell would read something else in.
    fs::rename(&folder, backups.folder().join("a$(touch x)")).unwrap();
    let _ = far
        .tool("send")
        .args(["a$(touch x)", "--pipe-to=cat"])
        .run()
        .expect(3)
        .shows(&["is no name for a backup"]);
    let _ = far.send("nothing", "cat").run().expect(3).shows(&["there is no backup \"nothing\""]);
}

#[test]
fn the_command_gets_no_password_of_ours_and_its_text_is_written_nowhere() {
    let backups = Backups::new(Engine::Plain, "CREATE TABLE t (id int)");
    let server = Server::shared(Engine::Plain);
    let far = Far::new(&backups);
    let name = name_of(&backups.backup("secret full"));
    let ours = ["Pass-A", "Pass-B", "Pass-C"];
    let with = |program: Program| {
        program
            .env("PGPASSWORD", ours[0])
            .env("POSTGRES_PASSWORD_PRODUCTION", ours[1])
            .env("POSTGRES_PASSWORD", ours[2])
            .env("RESTIC_PASSWORD", "theirs")
            .arg(format!("--report={}", far.file("report.jsonl").display()))
            .args(["--verbose", "--json"])
    };
    for end in ["", "; exit 5"] {
        let put = format!("env > \"$FAR/env\"; : Sesame-0pen; cat > \"$FAR/x.tar\"{end}");
        let sent = with(far.send("secret", &put)).run();
        let sent_env = fs::read_to_string(far.file("env")).unwrap();
        let get = format!("env > \"$FAR/env\"; : Sesame-0pen; cat \"$FAR/x.tar\"{end}");
        let seen = with(far.verify(&get)).run();
        let broken = with(far.verify("TOKEN=Sesame-0pen no_such_program Sesame-0pen")).run().expect(1);
        let unknown = with(far.verify("Sesame-0pen' x")).run().expect(3);
        let logs: String = files_of(&backups.lab.home().join("logs/backup"))
            .iter()
            .map(|(_, bytes)| String::from_utf8_lossy(bytes).into_owned())
            .collect();
        let report = fs::read_to_string(far.file("report.jsonl")).unwrap();
        for text in [&sent.to_string(), &seen.to_string(), &broken.to_string(), &unknown.to_string()] {
            // The line that the test itself shows is that of the call.
            let text: String = text.lines().skip(1).collect();
            assert!(!text.contains("0pen"), "{text}");
        }
        assert!(!logs.contains("0pen") && !report.contains("0pen"), "{logs}\n{report}");
        assert!(logs.contains("to env ("), "{logs}");
        let own = server.variable("POSTGRES_PASSWORD_TEST");
        let superuser = server.variable("MS5_SANDBOX_SUPERUSER_PASSWORD");
        for environment in [sent_env.clone(), fs::read_to_string(far.file("env")).unwrap()] {
            for secret in ours.iter().chain([&own, &superuser]) {
                assert!(!environment.contains(secret), "{environment}");
            }
            assert!(environment.contains("RESTIC_PASSWORD=theirs\n"), "its own it needs: {environment}");
        }
        assert!(sent_env.contains(&format!("MS5_BACKUP_NAME={name}\n")), "{sent_env}");
    }
}

#[test]
fn what_is_no_whole_backup_is_refused_and_leaves_nothing() {
    let backups = Backups::new(
        Engine::Plain,
        "CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 200) i;",
    );
    let far = Far::new(&backups);
    let folder = backups.backup("hostile full");
    let name = name_of(&folder);
    let sound = far.tar("hostile");
    let to = far.file("here");
    let (file, get) = (far.file("bad.tar"), "cat \"$FAR/bad.tar\"");
    let refused = |bytes: &[u8], words: &str| {
        fs::write(&file, bytes).unwrap();
        for program in [far.fetch(&to, get), far.verify(get)] {
            let ran = program.run().expect(1).shows(&[words, "is kept", "Next: "]);
            assert!(all_in(&to).is_empty(), "{:?}\n{ran}", all_in(&to));
        }
        assert_eq!(backups.names(), std::slice::from_ref(&name));
    };
    // Cut off anywhere.
    let mut dice = Dice(19);
    let cuts = [1, 511, 512, 513, sound.len() - 1, sound.len() - 512, sound.len() - 1024, sound.len() - 1025];
    for cut in cuts.into_iter().chain((0..8).map(|_| 1 + dice.below(sound.len() - 1))) {
        refused(&sound[..cut], &format!("the tar is cut off: it ends after {cut} bytes"));
    }
    refused(b"", "nothing came");
    // More than there should be.
    refused(&[&sound[..], b"x"].concat(), "something follows the end");
    refused(&[&sound[..], &[0; 512], &sound[..]].concat(), "something follows the end");
    // Another thing.
    refused(&[7; 5000], "this is no tar");
    let packed = Command::new("gzip").arg("-kc").arg(far.file("sent.tar")).output().unwrap().stdout;
    refused(&packed, "this is no tar");
    // Made by hand.
    let bytes = |file: &str| fs::read(folder.join(file)).unwrap();
    let path = |file: &str| format!("{name}/{file}");
    let plain = EntryType::Regular;
    let head = [
        member(&path("metadata.json"), plain, &bytes("metadata.json")),
        member(&path("checksums.sha256"), plain, &bytes("checksums.sha256")),
    ]
    .concat();
    let data = bytes("full_database.sql.gz");
    let end = [0; 1024];
    let with = |members: &[Vec<u8>]| [&head[..], &members.concat(), &end].concat();
    let whole = member(&path("full_database.sql.gz"), plain, &data);
    for (words, members) in [
        ("full_database.sql.gz is missing", vec![]),
        ("is no plain file (Symlink)", vec![member(&path("full_database.sql.gz"), EntryType::Symlink, b"")]),
        ("is no plain file (Link)", vec![member(&path("full_database.sql.gz"), EntryType::Link, b"")]),
        ("is no plain file (Fifo)", vec![member(&path("full_database.sql.gz"), EntryType::Fifo, b"")]),
        ("is no plain file (Char)", vec![member(&path("full_database.sql.gz"), EntryType::Char, b"")]),
        (
            "is no plain file (Directory)",
            vec![whole.clone(), member(&path("sub/"), EntryType::Directory, b"")],
        ),
        (
            "stands where full_database.sql.gz should be",
            vec![member(&path("../full_database.sql.gz"), plain, &data)],
        ),
        ("stands where full_database.sql.gz should be", vec![member("/etc/cron.d/x", plain, &data)]),
        (
            "stands where full_database.sql.gz should be",
            vec![member("other/full_database.sql.gz", plain, &data)],
        ),
        (
            "stands where full_database.sql.gz should be",
            vec![member(&path("sub/full_database.sql.gz"), plain, &data)],
        ),
        ("is no part of the backup", vec![whole.clone(), whole.clone()]),
        ("is no part of the backup", vec![whole.clone(), member(&path("x"), plain, b"x")]),
        (
            "bytes instead of",
            vec![member(&path("full_database.sql.gz"), plain, &[&data[..], b"more"].concat())],
        ),
        ("its checksum differs", vec![member(&path("full_database.sql.gz"), plain, &vec![0; data.len()])]),
    ] {
        refused(&with(&members), words);
    }
    for root in ["/etc", "..", ".hidden", "rollback_points", "a b", "a$(x)"] {
        refused(&member(&format!("{root}/metadata.json"), plain, &bytes("metadata.json")), "it begins with");
    }
    refused(&member("other_20250101_000000/metadata.json", plain, &bytes("metadata.json")), "it is that of");
    // As tar makes it of the folder: whatever comes first is not what we send.
    let by_tar = Command::new("tar")
        .args(["-cf", "-", "-C"])
        .arg(backups.folder())
        .arg(&name)
        .output()
        .unwrap()
        .stdout;
    refused(&by_tar, "is no plain file (Directory)");
    // In our order it is as good as ours; the zeros that tar fills its record with are no garbage.
    let ordered = ["metadata.json", "checksums.sha256", "full_database.sql.gz"].map(path);
    let by_tar = Command::new("tar")
        .args(["-cf", "-", "-C"])
        .arg(backups.folder())
        .args(ordered)
        .output()
        .unwrap()
        .stdout;
    fs::write(&file, by_tar).unwrap();
    let _ = far.verify(get).run().expect(0);
    // A byte that is changed on its way.
    let sum = sum_line(&far.verify("cat \"$FAR/sent.tar\"").run().expect(0));
    for turn in 0..50 {
        let mut changed = sound.clone();
        let at = dice.below(changed.len());
        changed[at] ^= u8::try_from(1 + dice.below(255)).unwrap();
        fs::write(&file, &changed).unwrap();
        let ran = far.verify(get).run();
        assert!(ran.code() == 1 || sum_line(&ran) != sum, "turn {turn}: byte {at} is {}\n{ran}", changed[at]);
    }
    // A proof that is none is left behind; verify says so.
    fs::write(&file, with(&[whole.clone(), member(&path("verified.json"), plain, b"{}")])).unwrap();
    let _ = far.verify(get).run().expect(1).shows(&["verified.json", "the backup itself fits"]);
    let _ = far.fetch(&to, get).run().expect(0).shows(&["is kept without it"]);
    assert_eq!(files_of(&to.join(&name)), files_of(&folder));
}

#[test]
fn a_command_that_fails_gives_nothing_and_a_name_that_is_taken_is_not_overwritten() {
    let backups = Backups::new(Engine::Plain, LARGE);
    let far = Far::new(&backups);
    let folder = backups.backup("taken full");
    let name = name_of(&folder);
    let _ = far.tar("taken");
    let to = far.file("here");
    for (command, code, words) in [
        ("cat \"$FAR/sent.tar\"; echo broken >&2; exit 9", 1, "ended with exit code 9"),
        ("cat \"$FAR/sent.tar\"; kill -9 $$", 1, "it had given a whole tar before"),
        ("head -c 100000 \"$FAR/sent.tar\"; echo broken >&2; exit 9", 1, "the tar is cut off"),
        ("head -c 100000 \"$FAR/sent.tar\"; exit 9", 1, "ended with exit code 9"),
        ("cat \"$FAR/no such file\"", 1, "No such file"),
        ("true", 1, "nothing came"),
        ("no_such_program", 3, "there is no program"),
        ("cat '", 3, "sh does not understand"),
    ] {
        let ran = far.fetch(&to, command).run().expect(code).shows(&[words, "Next: "]);
        assert!(all_in(&to).is_empty(), "{:?}\n{ran}", all_in(&to));
        let restored = far
            .tool("restore --force")
            .arg(format!("--from={command}"))
            .arg(format!("--backup-dir={}", to.display()));
        let _ = restored.run().expect(code).shows(&[words]);
    }
    let get = "cat \"$FAR/sent.tar\"";
    // Another one came than was wanted.
    for wanted in ["other", "taken_20200101_000000"] {
        let fetched =
            far.fetch(&to, get).arg(wanted).run().expect(3).shows(&["was asked for", "MS5_BACKUP_NAME"]);
        assert!(all_in(&to).is_empty(), "{fetched}");
    }
    let _ = far.fetch(&to, get).arg("../x").run().expect(2).shows(&["is no name for a backup"]);
    let _ = far.fetch(&to, get).arg("taken").run().expect(0);
    // The same again: it is used. Damaged or another one: it is left as it is.
    let _ =
        far.fetch(&to, get).arg(&name).run().expect(0).shows(&["is here already, with the same checksums"]);
    let path = to.join(&name).join("full_database.sql.gz");
    let sound = fs::read(&path).unwrap();
    fs::write(&path, b"damaged").unwrap();
    let _ = far.fetch(&to, get).run().expect(3).shows(&[
        "is here already, and is damaged",
        "nothing was touched",
        "move ",
    ]);
    assert_eq!(fs::read(&path).unwrap(), b"damaged");
    fs::write(&path, sound).unwrap();
    let sums = to.join(&name).join("checksums.sha256");
    fs::write(&sums, "another").unwrap();
    let _ = far.fetch(&to, get).run().expect(3).shows(&["there is another", "nothing was touched"]);
    assert_eq!(fs::read_to_string(&sums).unwrap(), "another");
    assert_eq!(all_in(&to), [name]);
}

#[test]
fn a_kill_leaves_nothing_that_is_taken_for_a_backup() {
    let backups = Backups::new(Engine::Plain, LARGE);
    let far = Far::new(&backups);
    let folder = backups.backup("killed full");
    let name = name_of(&folder);
    let sound = far.tar("killed");
    let to = far.file("here");
    let hidden = to.join(format!(".partial-{name}"));
    let fills = || hidden.join("full_database.sql.gz").metadata().is_ok_and(|file| file.len() > 100_000);
    for half in [sound.len() / 2, sound.len()] {
        // Half of it has come, or all but the command's end.
        let slow = format!("head -c {half} \"$FAR/sent.tar\"; exec sleep 60 2>/dev/null");
        let fetch = far.fetch(&to, &slow).start();
        wait_until("half of it is here", fills);
        if half < sound.len() {
            let _ = far
                .fetch(&to, "cat \"$FAR/sent.tar\"")
                .run()
                .expect(4)
                .shows(&["another backup-manager is fetching"]);
        }
        let killed = fetch.kill();
        assert_eq!(killed.code(), 137, "{killed}");
        assert_eq!(all_in(&to), [format!(".partial-{name}")]);
        let listed = far.tool(&format!("list --backup-dir={}", to.display())).run().expect(0);
        assert!(!listed.stdout().contains("killed_2"), "{listed}");
        let next = far.fetch(&to, "cat \"$FAR/no such file\"").run().expect(1);
        assert!(next.stdout().contains("Removed what a killed backup has left"), "{next}");
        assert!(all_in(&to).is_empty());
    }
    // Killed while it sends: the far end has seen its input end, and has a tar without one.
    let slow = "head -c 100000 > \"$FAR/half.tar\"; until [ -e \"$FAR/go\" ]; do sleep 0.1; done; cat >> \"$FAR/half.tar\"; mv \"$FAR/half.tar\" \"$FAR/kept.tar\"";
    let send = far.send("killed", slow).start();
    wait_until("the far end has begun", || {
        far.file("half.tar").metadata().is_ok_and(|file| file.len() >= 100_000)
    });
    send.signal("KILL");
    fs::write(far.file("go"), "").unwrap();
    assert_eq!(send.wait().code(), 137);
    wait_until("the far end is content", || far.file("kept.tar").exists());
    let _ = far.verify("cat \"$FAR/kept.tar\"").run().expect(1).shows(&["the tar is cut off"]);
    let _ = far.fetch(&to, "cat \"$FAR/kept.tar\"").run().expect(1).shows(&["the tar is cut off"]);
    assert!(all_in(&to).is_empty());
    let _ = far.tool("verify killed").run().expect(0);
}

#[test]
fn a_signal_ends_the_command_and_all_it_has_started() {
    let backups = Backups::new(Engine::Plain, LARGE);
    let far = Far::new(&backups);
    let _ = backups.backup("signal full");
    let sound = far.tar("signal");
    let to = far.file("here");
    let pids = far.file("pids");
    let gone = || {
        let text = fs::read_to_string(&pids).unwrap();
        text.split_whitespace().all(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // Dead and not yet taken note of by who inherited it is dead.
            stat.is_empty() || stat.contains(") Z ")
        })
    };
    let body = "sleep 600 & echo $$ $! > \"$FAR/pids.new\"; mv \"$FAR/pids.new\" \"$FAR/pids\"";
    let half = sound.len() / 2;
    for (program, signal, code) in [
        (far.send("signal", &format!("{body}; cat >/dev/null; wait")), "TERM", 143),
        (far.send("signal", &format!("{body}; head -c 1000 >/dev/null; wait")), "INT", 130),
        (far.send("signal", &format!("{body}; cat > \"$FAR/x.tar\"; trap '' TERM; sleep 600")), "HUP", 129),
        (far.fetch(&to, &format!("{body}; wait")), "TERM", 143),
        (far.fetch(&to, &format!("{body}; head -c {half} \"$FAR/sent.tar\"; wait")), "INT", 130),
        (far.verify(&format!("{body}; cat \"$FAR/sent.tar\"; wait")), "TERM", 143),
    ] {
        let _ = fs::remove_file(&pids);
        let run = program.start();
        wait_until("the command works", || pids.exists());
        thread::sleep(Duration::from_millis(300));
        let since = Instant::now();
        run.signal(signal);
        let ran = run.wait().expect(code).shows(&["stopped by a signal"]);
        assert!(since.elapsed() < Duration::from_secs(15), "{ran}");
        wait_until("its processes are gone", gone);
        assert!(all_in(&to).is_empty(), "{ran}");
    }
    // A backup that was made is kept.
    let _ = fs::remove_file(&pids);
    let run = far.tool("backup later full").arg(format!("--pipe-to={body}; cat >/dev/null; wait")).start();
    wait_until("the command works", || pids.exists());
    run.signal("TERM");
    let _ = run.wait().expect(143).shows(&["is whole here"]);
    let _ = far.tool("verify later").run().expect(0);
}

#[test]
fn a_question_on_the_terminal_ends_the_command_instead_of_hanging() {
    let backups = Backups::new(Engine::Plain, "CREATE TABLE t (id int)");
    let _ = backups.backup("asks full");
    let tool = bin_dir().unwrap().join("backup-manager");
    for words in
        ["send asks --pipe-to='read x < /dev/tty; cat >/dev/null'", "verify --from='read x < /dev/tty'"]
    {
        let ran = Program::at(Path::new("/usr/bin/script"))
            .args(["-qec", &format!("{} {words}", tool.display()), "/dev/null"])
            .envs(&backups.lab.database.variables())
            .env("MS5_HOME", backups.lab.home())
            .env("TERM", "dumb")
            .run_within(Duration::from_secs(60));
        let _ = ran.expect(1).shows(&["asks for something on the terminal", "a key or an agent for ssh"]);
    }
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    let backups = Backups::new(Engine::Plain, LARGE);
    let far = Far::new(&backups);
    let folder = backups.backup("disk full");
    let sound = far.tar("disk");
    assert!(sound.len() > 700_000, "{}", sound.len());
    let small = far.file("small");
    fs::create_dir(&small).unwrap();
    let tool = far.tool("").into_command();
    let binary = tool.get_program().to_str().unwrap().to_owned();
    // A file system of its own, in a name space of its own: it goes with the shell.
    let script = format!(
        "mount -t tmpfs -o size=$1 tmpfs {small} && mkdir -m 700 {small}/before_20240101_000000 &&
         echo kept > {small}/before_20240101_000000/notes
         {binary} fetch --backup-dir={small} --from=\"$2\"; code=$?
         rm -f {small}/filling
         find {small} -mindepth 1 -not -name .lock | sort; cat {small}/before*/notes; exit $code",
        small = small.display()
    );
    // The disk fills up while it comes.
    let fills = format!(
        "head -c 300000 \"$FAR/sent.tar\"; sleep 0.3; cat /dev/zero > {}/filling 2>/dev/null; tail -c +300001 \"$FAR/sent.tar\"",
        small.display()
    );
    for (size, command, code, words) in [
        ("32m", "cat \"$FAR/sent.tar\"", 3, ["there is too little space", "are free", "nothing was touched"]),
        (
            "40m",
            &fills,
            1,
            [
                "cannot write the backup",
                "No space left on device",
                "the backups that were there are untouched",
            ],
        ),
    ] {
        let mut shell = Command::new("unshare");
        shell.args(["-rm", "sh", "-c", &script, "sh", size, command]).env_clear();
        shell.envs(tool.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let ran = shell.output().unwrap();
        let text =
            format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        assert_eq!(ran.status.code(), Some(code), "{text}");
        for piece in words.iter().chain(&["--backup-dir=DIR"]) {
            assert!(text.contains(piece), "{piece}\n{text}");
        }
        let left: Vec<&str> = text.lines().rev().take(3).collect();
        assert_eq!(left[0], "kept", "{text}");
        assert!(
            left[1].ends_with("before_20240101_000000/notes") && left[2].ends_with("before_20240101_000000"),
            "{text}"
        );
    }
    assert!(folder.exists());
}
