//! backup-manager: that a backup is whole, that it comes back as it was, and that damage is found.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Start, Test};
use crate::case::{Case, Done, Stop, must, refused as server_refuses, rows};

pub(super) const TESTS: &[Test] = &[
    Test {
        id: "backup.create",
        title: "A full backup has its files, its sums and its metadata, and is its owner's only",
        start: Start::Field,
        run: create,
    },
    Test {
        id: "backup.verify",
        title: "verify passes a backup that is whole; --deep restores it, and finds what only a restore can show",
        start: Start::Field,
        run: verify,
    },
    Test {
        id: "backup.verify-hypertables",
        title: "verify --deep restores a backup with hypertables, and finds what only a restore can show",
        start: Start::Migrated,
        run: verify_hypertables,
    },
    Test {
        id: "backup.restore",
        title: "The database in the field comes back with every row and every object",
        start: Start::Field,
        run: restore,
    },
    Test {
        id: "backup.restore-hypertables",
        title: "The migrated database comes back with its hypertables, chunks and rows",
        start: Start::Migrated,
        run: restore_hypertables,
    },
    Test {
        id: "backup.types",
        title: "Backups of the types schema, data and hypertables come back in an empty database with every row",
        start: Start::Migrated,
        run: types,
    },
    Test {
        id: "backup.rollback",
        title: "rollback.sh of a rollback point brings the database back by psql alone",
        start: Start::Field,
        run: rollback,
    },
    Test {
        id: "backup.rollback-hypertables",
        title: "rollback.sh brings the migrated database back with its hypertables and chunks",
        start: Start::Migrated,
        run: rollback_hypertables,
    },
    Test {
        id: "backup.damage",
        title: "A changed byte, a cut file and a missing one are found by verify, and nothing is restored of them",
        start: Start::Field,
        run: damage,
    },
    Test {
        id: "backup.refuses",
        title: "A database that holds data is not replaced without --force",
        start: Start::Field,
        run: refuses,
    },
    Test {
        id: "backup.list-and-clean",
        title: "Backups are listed, and only old ones are cleaned away",
        start: Start::Empty,
        run: list_and_clean,
    },
];

/// Makes a backup; gives its folder.
pub(super) fn made(case: &mut Case<'_>, name: &str, kind: &str) -> Result<PathBuf, Stop> {
    let ran = case.tool("backup-manager", &format!("backup {name} {kind}"))?.exits(0)?;
    let folder = fs::read_dir(case.home().join("backups"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&format!("{name}_")))
        });
    folder
        .ok_or_else(|| ran.wrong(&format!("and there is no folder {name}_... in the folder of the backups")))
}

/// The file with the rows.
fn dump(folder: &Path) -> PathBuf {
    folder.join("full_database.sql.gz")
}

fn create(case: &mut Case<'_>) -> Done {
    let folder = made(case, "pre_migration", "full")?;
    for file in ["full_database.sql.gz", "metadata.json", "checksums.sha256"] {
        must(folder.join(file).is_file(), || format!("the backup has no {file}"))?;
    }
    let mode = fs::metadata(dump(&folder))?.permissions().mode() & 0o077;
    must(mode == 0, || "others may read the backup".to_owned())?;
    let metadata: Value = serde_json::from_str(&fs::read_to_string(folder.join("metadata.json"))?)
        .map_err(|error| Stop::failed(format!("metadata.json is not JSON: {error}")))?;
    must(metadata["backup_type"] == "full" && metadata["database"]["name"] == case.database(), || {
        "metadata.json does not name the type and the database".to_owned()
    })?;
    let sums = fs::read_to_string(folder.join("checksums.sha256"))?;
    let told = sum(&fs::read(dump(&folder))?);
    must(sums.lines().any(|line| line == format!("{told}  full_database.sql.gz")), || {
        "checksums.sha256 does not hold the sum of the dump".to_owned()
    })?;
    must(metadata["checksums"]["full_database.sql.gz"] == format!("sha256:{told}"), || {
        "metadata.json does not hold the sum of the dump".to_owned()
    })
}

/// The sha256 of bytes, in hexadecimal.
fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn verify(case: &mut Case<'_>) -> Done {
    // Rows that are changed in the dump are found by verify itself, which hashes each; what it cannot see is whether the
    // definitions make what was there. So it is the note of what was there that is changed, and every sum made anew.
    case.sql("CREATE VIEW public.ms5_suite_told AS SELECT 'the suite: as it was'::text AS told")?;
    let folder = made(case, "pre_migration", "full")?;
    case.tool("backup-manager", "verify pre_migration")?.exits(0)?;
    let who = case.ground.restore_flags(holds_hypertables(case)?)?;
    case.tool("backup-manager", &format!("verify pre_migration --deep {who}"))?.exits(0)?;
    let (metadata, sums) = (folder.join("metadata.json"), folder.join("checksums.sha256"));
    let text = fs::read_to_string(&metadata)?;
    let other = text.replace("the suite: as it was", "the suite: as it is");
    must(other != text, || "metadata.json does not note what the database held".to_owned())?;
    let old = fs::read_to_string(&sums)?;
    fs::write(&sums, old.replace(&sum(text.as_bytes()), &sum(other.as_bytes())))?;
    fs::write(&metadata, other)?;
    // The proof that it was restored is of what it was.
    let _ = fs::remove_file(folder.join("verified.json"));
    case.tool("backup-manager", "verify pre_migration")?.exits(0)?;
    let ran = case.tool("backup-manager", &format!("verify pre_migration --deep {who}"))?;
    if ran.code != 1 {
        return Err(ran.wrong("does not find that what is restored is not what was backed up"));
    }
    ran.says(&["ms5_suite_told"]).map(drop)
}

fn holds_hypertables(case: &Case<'_>) -> Result<bool, Stop> {
    Ok(case.ask("SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb')")? == "true")
}

fn restore(case: &mut Case<'_>) -> Done {
    let who = case.ground.restore_flags(holds_hypertables(case)?)?;
    round_trip(case, &who)
}

fn restore_hypertables(case: &mut Case<'_>) -> Done {
    has_hypertables(case)?;
    let who = case.ground.restore_flags(true)?;
    let before = case.ask(CHUNKS)?;
    round_trip(case, &who)?;
    must(case.ask(CHUNKS)? == before, || "the chunks of the hypertables are not what they were".to_owned())
}

/// Every chunk of every hypertable, and whether it is compressed.
const CHUNKS: &str = "SELECT string_agg(format('%s.%s %s %s', hypertable_schema, hypertable_name, chunk_name, is_compressed), ',' ORDER BY 1)
     FROM (SELECT * FROM timescaledb_information.chunks ORDER BY chunk_schema, chunk_name) x";

fn rollback_hypertables(case: &mut Case<'_>) -> Done {
    has_hypertables(case)?;
    let before = case.ask(CHUNKS)?;
    rollback(case)?;
    must(case.ask(CHUNKS)? == before, || "the chunks of the hypertables are not what they were".to_owned())
}

fn verify_hypertables(case: &mut Case<'_>) -> Done {
    has_hypertables(case)?;
    verify(case)
}

/// That there is somebody who can restore hypertables, and that there are any.
fn has_hypertables(case: &Case<'_>) -> Done {
    case.ground.restore_flags(true)?;
    if super::hypertables(case)?.is_empty() {
        return Err(Stop::Skipped("the migrations make no hypertable".to_owned()));
    }
    Ok(())
}

/// A backup, everything in the database changed, and the backup restored in its place.
fn round_trip(case: &mut Case<'_>, who: &str) -> Done {
    case.needs_field()?;
    // Whatever the field has: a sequence that has given numbers, and a view that keeps its rows.
    case.sql(
        "CREATE SEQUENCE public.ms5_suite_counter; SELECT setval('public.ms5_suite_counter', 4711);
         CREATE MATERIALIZED VIEW public.ms5_suite_sum AS SELECT sum(i) FROM generate_series(1, 100) i",
    )?;
    let (objects, state) = (case.inventory()?, case.state()?);
    made(case, "before", "full")?;
    wreck(case)?;
    case.tool("backup-manager", &format!("restore before --force --drop-old {who}"))?.exits(0)?;
    as_before(case, &objects, &state)
}

/// Takes away what a migration that went wrong would.
pub(super) fn wreck(case: &Case<'_>) -> Done {
    case.needs_field()?;
    let tables = case.rows()?;
    let name = |line: &String| line.split(": ").next().unwrap_or_default().to_owned();
    let filled: Vec<String> = tables.iter().filter(|line| !line.contains(": 0 ")).map(name).collect();
    let Some(first) = filled.first() else {
        return Err(Stop::failed("the database has no rows that could be lost"));
    };
    case.sql(&format!("DROP TABLE {first} CASCADE; DROP MATERIALIZED VIEW IF EXISTS public.ms5_suite_sum"))?;
    if let Some(last) = filled.last().filter(|last| *last != first) {
        case.sql(&format!("TRUNCATE {last} CASCADE"))?;
    }
    case.sql("CREATE TABLE public.ms5_suite_half_done (id int)")
}

/// That every object, every row and every sequence is as it was.
pub(super) fn as_before(case: &Case<'_>, objects: &ms5_common::catalog::Inventory, state: &[String]) -> Done {
    same_state(case, state)?;
    let differences = objects.as_restored().compare_restored(&case.inventory()?.as_restored());
    must(differences.is_empty(), || {
        format!("{} objects are not as they were, such as {}", differences.len(), differences[0])
    })
}

/// That every row and every sequence is as it was.
pub(super) fn same_state(case: &Case<'_>, before: &[String]) -> Done {
    let now = case.state()?;
    let of = |line: &String| line.split(": ").next().unwrap_or_default().to_owned();
    let lost = before.iter().find(|line| !now.contains(line));
    must(lost.is_none(), || {
        let was = lost.map_or("", String::as_str);
        let is = now.iter().find(|line| lost.is_some_and(|lost| of(lost) == of(line)));
        format!("the content is not what it was: {was}; now {}", is.map_or("it is gone", String::as_str))
    })?;
    let new = now.iter().find(|line| !before.contains(line));
    must(new.is_none(), || format!("there is what was not there: {}", new.map_or("", String::as_str)))
}

fn types(case: &mut Case<'_>) -> Done {
    let tables = super::hypertables(case)?;
    // Files are named without SQL's quotes.
    let csv: Vec<String> = tables.iter().map(|table| format!("{}.csv.gz", table.replace('"', ""))).collect();
    let csv: Vec<&str> = csv.iter().map(String::as_str).collect();
    let mut kinds = vec![("schema", &["schema.sql.gz"][..]), ("data", &["data.sql.gz"])];
    if !csv.is_empty() {
        kinds.push(("hypertables", &csv));
    }
    let mut full_names = Vec::new();
    for (kind, files) in kinds {
        let folder = made(case, &format!("of_{kind}"), kind)?;
        let missing = files.iter().find(|file| !folder.join(file).is_file());
        must(missing.is_none(), || {
            format!("a backup of type {kind} has no file {}", missing.copied().unwrap_or_default())
        })?;
        case.tool("backup-manager", &format!("verify of_{kind}"))?.exits(0)?;
        full_names.push(folder.file_name().unwrap_or_default().to_string_lossy().into_owned());
    }
    let who = case.ground.restore_flags(false)?;
    let other = case.ground.database(Start::Empty)?.unwrap_or_default();
    let target = [("DB_NAME", other.as_str())];
    // One database's backup gets into another only where that is said.
    let refused = format!("restore {} {who}", full_names[0]);
    case.tool_with("backup-manager", &refused, &target)?.exits(3)?.says(&["--other-database"])?;
    for name in &full_names[..2] {
        let words = format!("restore {name} --other-database {who}");
        case.tool_with("backup-manager", &words, &target)?.exits(0)?;
    }
    let before = case.rows()?;
    let same = |case: &Case<'_>, kind: &str| -> Done {
        let now = rows(&mut *case.ground.session(&other)?)?;
        let lost = before.iter().find(|table| !now.contains(table));
        must(lost.is_none(), || {
            format!("a backup of type {kind} does not bring back {}", lost.map_or("", String::as_str))
        })
    };
    same(case, "data")?;
    if csv.is_empty() {
        return Ok(());
    }
    for table in &tables {
        let sql = format!("DELETE FROM {table}");
        let mut session = case.ground.session(&other)?;
        session.batch_execute(&sql).map_err(|error| server_refuses(&sql, &error))?;
    }
    let words = format!("restore {} --other-database --force {who}", full_names[2]);
    case.tool_with("backup-manager", &words, &target)?.exits(0)?;
    same(case, "hypertables")
}

fn rollback(case: &mut Case<'_>) -> Done {
    case.needs_field()?;
    let who = case.ground.restore_flags(holds_hypertables(case)?)?;
    let (objects, state) = (case.inventory()?, case.state()?);
    case.tool("backup-manager", &format!("rollback-point before_all {who}"))?.exits(0)?;
    let script = find(&case.home().join("backups"), "rollback.sh")
        .ok_or_else(|| Stop::failed("there is no rollback.sh"))?;
    wreck(case)?;
    // By sh: the folder may be on a file system that runs nothing.
    let line = format!("sh {} --force", from_home(case, &script));
    case.sh_without_tools(&line)?.exits(0)?;
    as_before(case, &objects, &state)
}

/// A path as it is typed in the test's home.
pub(super) fn from_home(case: &Case<'_>, path: &Path) -> String {
    crate::ground::quoted(path.strip_prefix(case.home()).unwrap_or(path))
}

fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(folder).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        if path.is_dir() { find(&path, name) } else { (entry.file_name() == *name).then_some(path) }
    })
}

fn damage(case: &mut Case<'_>) -> Done {
    let folder = made(case, "before", "full")?;
    let file = dump(&folder);
    let whole = fs::read(&file)?;
    let before = case.state()?;
    let changed = |place: usize| {
        let mut bytes = whole.clone();
        bytes[place] ^= 0x10;
        bytes
    };
    let cases = [
        ("its first byte", changed(0)),
        ("a byte in the middle", changed(whole.len() / 2)),
        ("its last byte", changed(whole.len() - 1)),
        ("nothing behind its middle", whole[..whole.len() / 2].to_vec()),
        ("nothing in it", Vec::new()),
    ];
    for (what, bytes) in cases {
        fs::write(&file, bytes)?;
        refused(case, &format!("a dump that was changed ({what})"))?;
    }
    fs::remove_file(&file)?;
    refused(case, "a backup whose dump is gone")?;
    fs::write(&file, &whole)?;
    for name in ["metadata.json", "checksums.sha256"] {
        let file = folder.join(name);
        let whole = fs::read(&file)?;
        let mut bytes = whole.clone();
        let place = bytes.len() / 2;
        bytes[place] ^= 1;
        fs::write(&file, bytes)?;
        refused(case, &format!("a backup whose {name} was changed"))?;
        fs::write(&file, whole)?;
    }
    case.tool("backup-manager", "verify before")?.exits(0)?;
    same_state(case, &before)
}

/// That neither verify nor restore takes what is there.
fn refused(case: &mut Case<'_>, what: &str) -> Done {
    let ran = case.tool("backup-manager", "verify before")?;
    must(ran.code == 1, || format!("verify of {what} ends with {} instead of 1", ran.code))?;
    let who = case.ground.restore_flags(holds_hypertables(case)?)?;
    let ran = case.tool("backup-manager", &format!("restore before --force {who}"))?;
    must(ran.code == 1, || format!("restore of {what} ends with {} instead of 1", ran.code))
}

fn refuses(case: &mut Case<'_>) -> Done {
    case.needs_field()?;
    made(case, "before", "full")?;
    let before = case.state()?;
    let who = case.ground.restore_flags(holds_hypertables(case)?)?;
    case.tool("backup-manager", &format!("restore before {who}"))?.exits(1)?.says(&["--force"])?;
    same_state(case, &before)?;
    let ran = case.tool("backup-manager", &format!("restore nothing_of_that_name --force {who}"))?;
    ran.exits(3)?.says(&["nothing_of_that_name"]).map(drop)
}

fn list_and_clean(case: &mut Case<'_>) -> Done {
    case.sql("CREATE TABLE a AS SELECT generate_series(1, 10) id")?;
    let folder = made(case, "today", "full")?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    case.tool("backup-manager", "list")?.exits(0)?.says(&[&name])?;
    case.tool("backup-manager", "clean 7")?.exits(0)?;
    must(folder.is_dir(), || "clean 7 has removed a backup of today".to_owned())?;
    // Their age is told by the second.
    std::thread::sleep(Duration::from_millis(1100));
    let newer = made(case, "later", "full")?;
    case.tool("backup-manager", "clean 0 --keep-last=1")?.exits(0)?.says(&[&name])?;
    must(!folder.exists() && newer.is_dir(), || {
        "clean 0 --keep-last=1 has not removed the older one of two backups, or not that alone".to_owned()
    })
}
