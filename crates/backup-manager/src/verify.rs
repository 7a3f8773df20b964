//! `verify`: every file of a backup against its checksum, every member against the index, every row against its table's hash.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use ms5_common::config::Settings;
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::success;
use ms5_common::tool::Context;
use ms5_common::troubleshooting::with_backups;

use crate::archive::{self, Reader};
use crate::args::{IDENTITY, Options, own};
use crate::folder::metadata::{Member, Metadata, More, Stage, Table};
use crate::folder::proof::{self, Standing};
use crate::folder::{Entry, Folder, Hold, checksums, metadata};
use crate::restore::old;
use crate::rows::RowSum;
use crate::seal::Key;
use crate::sessions::stopped;
use crate::sqltext::rows_in;
use crate::store;
use crate::words::{bytes, count};

/// What was looked at, and what is wrong.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    pub(crate) damage: Vec<String>,
    pub(crate) members: usize,
    pub(crate) rows: u64,
}

/// The whole command.
pub(crate) fn run(context: &Context, options: &Options, settings: &Settings, name: &str) -> Result<Exit> {
    let folder = Folder::open(&settings.backup_dir, Hold::Shared, options.lock_wait)?;
    let entry = folder.find(name, settings)?;
    if !options.deep {
        context.recorder.start(None, None);
    }
    log::info!("Verifying backup: {}", entry.name);
    let key = Key::given(options.identity.as_deref(), &context.variables)?;
    let checked = files(&entry, options.jobs, key.as_ref())?;
    if !checked.damage.is_empty() {
        for line in &checked.damage {
            log::error!("{line}");
        }
        context.recorder.emit("backup", crate::list::record(&entry, "damaged"));
        log::error!("❌ Backup {} is damaged", entry.name);
        log::error!("Next: keep it apart and use another one: {} list", own());
        return Ok(Exit::Failed);
    }
    if entry.is_sealed() && key.is_none() {
        log::info!("{}: checksums fit, {}", entry.name, bytes(entry.size));
        log::info!("It is encrypted; with {IDENTITY}=KEY_FILE its rows are looked at too");
    } else {
        log::info!(
            "{}: checksums fit, {} members, {} rows, {}",
            entry.name,
            checked.members,
            count(checked.rows),
            bytes(entry.size)
        );
    }
    if options.deep {
        return crate::restore::deep::run(context, options, settings, &folder, entry.open(key)?);
    }
    if let Standing::Proven(proof) = proof::read(&entry.path) {
        log::info!("Proven by restoring it at {} on PostgreSQL {}", proof.verified_at, proof.server);
    } else if entry
        .metadata
        .as_ref()
        .is_ok_and(|metadata| metadata.more.is_some() && metadata.can_be_proven())
    {
        let prove = with_backups(settings, &format!("verify {} --deep", entry.name));
        log::info!("Not yet proven by restoring it: {prove}");
    }
    context.recorder.emit("backup", crate::list::record(&entry, "intact"));
    success!("✅ Backup verified: {}", entry.name);
    Ok(Exit::Done)
}

/// Reads all of a backup's files and holds them against each other; inside an encrypted one with its key alone.
///
/// # Errors
/// A signal's exit, or that the key does not open it. What is wrong with the backup is no error of the reading.
fn files(entry: &Entry, jobs: usize, key: Option<&Key>) -> Result<Checked> {
    let mut checked = Checked { damage: whole(entry)?, ..Checked::default() };
    let Ok(metadata) = &entry.metadata else { return Ok(checked) };
    strangers(entry, metadata);
    // What does not fit its checksum need not be taken apart.
    if !checked.damage.is_empty() || (entry.is_sealed() && key.is_none()) {
        return Ok(checked);
    }
    let entry = entry.clone().open(key.cloned())?;
    if let Ok(metadata) = &entry.metadata
        && let Some(more) = &metadata.more
    {
        members(&entry, metadata, more, jobs, &mut checked)?;
    }
    Ok(checked)
}

/// What is wrong with a backup, a line each, without a look at what its members hold.
///
/// # Errors
/// A signal's exit.
pub(crate) fn whole(entry: &Entry) -> Result<Vec<String>> {
    let mut damage = without_proof(entry)?;
    if let Standing::Damaged(why) = proof::read(&entry.path) {
        damage.push(format!("{}: {why}", proof::FILE));
    }
    Ok(damage)
}

/// The same as far as it must be known before a restore of it is begun: what was said of an earlier one changes no row of it.
/// Each member is held against the index when it is loaded.
///
/// # Errors
/// A signal's exit.
pub(crate) fn without_proof(entry: &Entry) -> Result<Vec<String>> {
    let mut damage = sums(entry)?;
    if let Ok(metadata) = &entry.metadata
        && metadata.more.is_none()
        && damage.is_empty()
    {
        dumps(entry, metadata, &mut damage);
    }
    Ok(damage)
}

/// Reads all of a backup's files and holds them against their checksums only; what is wrong, a line each.
///
/// # Errors
/// A signal's exit.
pub(crate) fn sums(entry: &Entry) -> Result<Vec<String>> {
    sums_but(entry, &BTreeSet::new())
}

/// The same without those of the store that were read just now.
///
/// # Errors
/// A signal's exit.
pub(crate) fn sums_but(entry: &Entry, known: &BTreeSet<String>) -> Result<Vec<String>> {
    let mut damage = entry.damage.clone();
    let Ok(metadata) = &entry.metadata else { return Ok(damage) };
    for (file, wanted) in &metadata.files {
        match checksums::of_file(&entry.path.join(file), |_| ()) {
            Ok(hash) if hash == *wanted => {}
            Ok(_) => damage.push(format!("{file} is not what was written: its checksum differs")),
            Err(error) => damage.push(format!("{file} cannot be read: {error}")),
        }
        stopped()?;
    }
    for piece in entry.pieces().iter().filter(|piece| !known.contains(&piece.file)) {
        damage.extend(store::check(entry.backups(), piece).err());
        stopped()?;
    }
    Ok(damage)
}

/// Dumps of the old script have a checksum also where pg_dump was cut off before it was taken.
fn dumps(entry: &Entry, metadata: &Metadata, damage: &mut Vec<String>) {
    let is_dump = |file: &str| {
        ["full_database.sql", "schema.sql", "data.sql"].iter().any(|name| file.starts_with(name))
    };
    for (file, _) in metadata.files.iter().filter(|(file, _)| is_dump(file)) {
        match old::is_whole(&entry.path.join(file)) {
            Ok(true) => {}
            Ok(false) => {
                damage.push(format!("{file} is cut off: the line that pg_dump writes last is missing"));
            }
            Err(error) => damage.push(format!("{file} cannot be read: {error}")),
        }
    }
}

/// Files that are none of the backup's are named; whoever put them there knows why.
pub(crate) fn strangers(entry: &Entry, metadata: &Metadata) {
    let Ok(listed) = std::fs::read_dir(&entry.path) else { return };
    for file in listed.flatten() {
        let name = file.file_name().to_string_lossy().into_owned();
        let known = [metadata::FILE, checksums::FILE, proof::FILE].contains(&name.as_str())
            || metadata.files.iter().any(|(file, _)| *file == name);
        if !known {
            log::warn!("{name:?} is no part of the backup {}", entry.name);
        }
    }
}

/// What a thread has found: sums of tables by their numbers, and damage.
type Found = (Vec<(usize, RowSum)>, Vec<String>);

/// The index against the file: no gap, no overlap, each member whole, its rows those of its table.
fn members(
    entry: &Entry,
    metadata: &Metadata,
    more: &More,
    jobs: usize,
    checked: &mut Checked,
) -> Result<()> {
    let reader = match entry.reader() {
        Ok(reader) => reader,
        Err(error) => {
            checked.damage.push(format!("it cannot be read: {error}"));
            return Ok(());
        }
    };
    let files: Vec<&str> = (metadata.files.iter().map(|(file, _)| file.as_str()))
        .chain(entry.pieces().iter().map(|piece| piece.file.as_str()))
        .collect();
    for (place, file) in files.iter().enumerate() {
        let mut of_file = more.members.iter().filter(|member| member.file == place).peekable();
        // A file without members is small, and its checksum says all.
        if of_file.peek().is_none() && files.len() > 1 {
            continue;
        }
        let mut end = 0;
        for member in of_file {
            if member.offset != end {
                checked.damage.push(format!("{file}: the index has a gap at {end}"));
                return Ok(());
            }
            end = end.saturating_add(member.length);
        }
        if reader.size(place) != Some(end) {
            checked.damage.push(format!("{file}: the index ends at {end}"));
        }
    }
    let named = |member: &Member| files.get(member.file).copied().unwrap_or("?");
    let next = AtomicUsize::new(0);
    let work = || -> Result<Found> {
        let (mut sums, mut damage) = (Vec::new(), Vec::new());
        loop {
            stopped()?;
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(member) = more.members.get(number) else { return Ok((sums, damage)) };
            match rows_of(&reader, member, &more.tables) {
                Ok(Some(sum)) => sums.push((member.table.unwrap_or_default(), sum)),
                Ok(None) => {}
                Err(why) => {
                    damage.push(format!(
                        "{}: member {number} ({}): {why}",
                        named(member),
                        member.stage.word()
                    ));
                }
            }
        }
    };
    let results: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let mut sums = vec![RowSum::default(); more.tables.len()];
    for result in results {
        let (done, damage) = result?;
        checked.damage.extend(damage);
        for (table, sum) in done {
            sums[table].join(sum);
        }
    }
    for (table, sum) in more.tables.iter().zip(&sums) {
        if (sum.rows, sum.hash) != (table.rows, table.hash) {
            checked.damage.push(format!(
                "the rows of {} are not those that were written: {} instead of {}",
                table.name, sum.rows, table.rows
            ));
        }
    }
    checked.members = more.members.len();
    checked.rows = metadata.rows().unwrap_or_default();
    Ok(())
}

/// Reads a member; the sum of its rows, where it holds rows.
fn rows_of(
    reader: &Reader,
    member: &Member,
    tables: &[Table],
) -> std::result::Result<Option<RowSum>, String> {
    if member.stage == Stage::LargeObjects {
        let stream = reader.stream(member).map_err(|error| error.to_string())?;
        let read = archive::sums(stream).map_err(|error| error.to_string())?;
        let wrong = "its SQL is not what was written".to_owned();
        return if read == (member.raw, member.hash) { Ok(None) } else { Err(wrong) };
    }
    let sql = reader.member(member).map_err(|error| error.to_string())?;
    if !matches!(member.stage, Stage::Catalog | Stage::Table | Stage::Csv) {
        return Ok(None);
    }
    let table = member.table.and_then(|number| tables.get(number)).ok_or("it has no table")?;
    let mut sum = RowSum::default();
    if member.stage == Stage::Csv {
        sum.add_csv(&sql);
    } else {
        let rows = rows_in(&sql, table).ok_or_else(|| format!("it does not hold rows of {}", table.name))?;
        sum.add(rows);
    }
    if sum.rows == member.rows { Ok(Some(sum)) } else { Err(format!("it holds {} rows", sum.rows)) }
}

/// That a backup must not be used.
pub(crate) fn damaged(entry: &Entry, damage: Vec<String>) -> Error {
    Error::new(Exit::Failed, format!("the backup {} is damaged", entry.name))
        .because_all(damage)
        .because("nothing was touched")
        .hint(format!("use another one: {} list", own()))
}
