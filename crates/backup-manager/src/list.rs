//! `list`: what backups there are, how old, how large, whole or damaged, proven or not.

use std::collections::BTreeMap;

use ms5_common::backups::{Kin, Whose};
use ms5_common::config::{Settings, absolute};
use ms5_common::error::Result;
use ms5_common::exit::Exit;
use ms5_common::tool::Context;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::archive::free;
use crate::args::Options;
use crate::folder::metadata::Metadata;
use crate::folder::proof::{self, Standing};
use crate::folder::{Entry, Folder, Hold};
use crate::store::{self, Used};
use crate::words::{bytes, count};

/// The whole command.
pub(crate) fn run(context: &Context, options: &Options, settings: &Settings) -> Result<Exit> {
    let folder = Folder::open(&settings.backup_dir, Hold::Shared, options.lock_wait)?;
    context.recorder.start(None, None);
    let entries = folder.entries()?;
    let used = store::used(entries.iter());
    let stored: u64 = used.values().map(|piece| piece.bytes).sum();
    let total: u64 = entries.iter().map(|entry| entry.size).sum::<u64>() + stored;
    if entries.is_empty() {
        log::info!("No backups in {}", absolute(folder.path()).display());
    } else {
        log::info!("Backups in {}, the newest first:", absolute(folder.path()).display());
        let width = entries.iter().map(|entry| entry.name.chars().count()).max().unwrap_or(0);
        log::info!(
            "{:width$}  {:12} {:20} {:>9} {:>9} {:>6} {:>14}  state",
            "name",
            "type",
            "created",
            "own",
            "shared",
            "age",
            "rows"
        );
        for entry in &entries {
            log::info!("{}", line(entry, width, &used, Whose::of(settings)));
            context.recorder.emit(
                "backup",
                with_shares(record(entry, if entry.complete() { "listed" } else { "damaged" }), entry, &used),
            );
            for why in &entry.damage {
                log::warn!("  {}: {why}", entry.name);
            }
        }
    }
    let space = free(folder.path()).map_or_else(|| "unknown".to_owned(), bytes);
    log::info!("Total: {} backups, {}; free: {space}", entries.len(), bytes(total));
    context.recorder.count("backups", entries.len());
    context.recorder.count("damaged", entries.iter().filter(|entry| !entry.complete()).count());
    Ok(Exit::Done)
}

fn line(entry: &Entry, width: usize, used: &BTreeMap<String, Used>, ours: Whose<'_>) -> String {
    let (own, shared) = shares(entry, used);
    let metadata = entry.metadata.as_ref().ok();
    let rows = metadata.and_then(Metadata::rows);
    let others = match ours.kin(entry.whose()) {
        Kin::Others => format!("; of {}", entry.whose()),
        Kin::Ours | Kin::Unknown => String::new(),
    };
    let created = metadata.map_or("?", |metadata| metadata.created_at.as_str());
    format!(
        "{:width$}  {:12} {created:20} {:>9} {:>9} {:>6} {:>14}  {}{others}",
        entry.name,
        metadata.map_or("?", |metadata| metadata.kind.as_str()),
        bytes(own),
        if entry.is_incremental() { bytes(shared) } else { "-".to_owned() },
        age(entry).unwrap_or_else(|| "?".to_owned()),
        rows.map_or_else(|| "?".to_owned(), count),
        state(entry),
    )
}

fn state(entry: &Entry) -> String {
    if !entry.complete() {
        return "DAMAGED".to_owned();
    }
    let complete = match (entry.is_sealed(), entry.is_incremental()) {
        (true, _) => "complete, encrypted",
        (false, true) => "complete, incremental",
        (false, false) => "complete",
    };
    match proof::read(&entry.path) {
        Standing::Proven(proof) => format!("{complete}, verified {}", proof.verified_at),
        Standing::None => complete.to_owned(),
        Standing::Damaged(_) => format!("{complete}, its proof is damaged"),
    }
}

/// Bytes that would be free without a backup, and those that others need too.
fn shares(entry: &Entry, used: &BTreeMap<String, Used>) -> (u64, u64) {
    let mut files: Vec<&str> = entry.pieces().iter().map(|piece| piece.file.as_str()).collect();
    files.sort_unstable();
    files.dedup();
    let (mut own, mut shared) = (entry.size, 0);
    for piece in files.iter().filter_map(|file| used.get(*file)) {
        *(if piece.backups > 1 { &mut shared } else { &mut own }) += piece.bytes;
    }
    (own, shared)
}

/// A record that says so too.
fn with_shares(mut record: Value, entry: &Entry, used: &BTreeMap<String, Used>) -> Value {
    let (own, shared) = shares(entry, used);
    record["own_bytes"] = json!(own);
    record["shared_bytes"] = json!(shared);
    record
}

/// `5d`, `3h`, `12m`.
fn age(entry: &Entry) -> Option<String> {
    let age = OffsetDateTime::now_utc() - entry.created?;
    Some(match (age.whole_days(), age.whole_hours()) {
        (0, 0) => format!("{}m", age.whole_minutes()),
        (0, hours) => format!("{hours}h"),
        (days, _) => format!("{days}d"),
    })
}

/// How many tables have rows in it, where that is not to be read with a key alone.
pub(crate) fn tables(metadata: &Metadata) -> Option<usize> {
    let more = metadata.more.as_ref()?;
    (more.sealed.is_none() || !more.tables.is_empty()).then_some(more.tables.len())
}

/// A backup as a record.
pub(crate) fn record(entry: &Entry, outcome: &str) -> Value {
    let metadata = entry.metadata.as_ref().ok();
    let verified = match proof::read(&entry.path) {
        Standing::Proven(proof) => Some(proof.verified_at),
        _ => None,
    };
    json!({
        "name": entry.name,
        "outcome": outcome,
        "backup_type": metadata.map(|metadata| metadata.kind.as_str()),
        "environment": metadata.map(|metadata| metadata.environment.as_str()),
        "database": metadata.map(|metadata| metadata.whose().database),
        "created_at": metadata.map(|metadata| metadata.created_at.as_str()),
        "path": absolute(&entry.path).display().to_string(),
        "bytes": entry.size,
        "tables": metadata.and_then(tables),
        "rows": metadata.and_then(Metadata::rows),
        "verified_at": verified,
        "recipients": metadata.and_then(Metadata::recipients),
        "damage": entry.damage,
    })
}
