//! `--status`: how each file stands, and what the ledger tells beside them. Changes nothing.

use ms5_common::record::Recorder;
use serde_json::json;

use crate::look::Seen;
use crate::plan::{Known, Standing, entry_of, last_of};

/// Shows every file, then the rows of the ledger that belong to none.
pub(crate) fn show(recorder: &Recorder, files: &[Known<'_>], standings: &[Standing], seen: &Seen) {
    let entries = &seen.entries;
    for (known, standing) in files.iter().zip(standings) {
        let entry = entry_of(known, entries);
        let when =
            entry.map(|entry| format!(" ({} by {})", entry.applied_at, entry.applied_by)).unwrap_or_default();
        let note = match standing {
            Standing::Unverified => "; another tool wrote that, which proves nothing",
            Standing::Changed => "; the file is not what was applied",
            Standing::OutOfOrder => "; a later number is applied",
            Standing::Applied | Standing::Failed | Standing::Interrupted | Standing::Pending => "",
        };
        let last = last_of(known, &seen.last).filter(|last| !last.applied);
        let ended =
            last.filter(|_| *standing == Standing::Interrupted).and_then(|last| last.message.as_deref());
        let ended = match (standing, ended) {
            (Standing::Interrupted, Some(message)) => format!("; {message}"),
            (Standing::Interrupted, None) => {
                "; its runner has not said how it ended, or still runs".to_owned()
            }
            _ => String::new(),
        };
        let left = match last {
            Some(last) if last.steps > 0 && matches!(standing, Standing::Applied | Standing::Changed) => {
                "; a later attempt at it stopped midway, a run with --force goes on there"
            }
            Some(last) if last.steps > 0 => "; a part of its statements is done, a run goes on behind them",
            Some(_) if *standing == Standing::Interrupted => "; its transaction is rolled back",
            _ => "",
        };
        log::info!("{}: {}{when}{note}{ended}{left}", known.name, standing.word());
        if *standing == Standing::Failed
            && let Some(message) = entry.and_then(|entry| entry.error_message.as_deref())
        {
            for line in message.lines() {
                log::info!("    {line}");
            }
        }
        recorder.emit(
            "migration",
            json!({
                "name": known.name,
                "file": known.file,
                "checksum": known.checksum,
                "standing": standing.word(),
                "applied_at": entry.map(|entry| &entry.applied_at),
                "applied_by": entry.map(|entry| &entry.applied_by),
            }),
        );
    }
    for job in &seen.paused {
        log::warn!(
            "the background job {job} is paused by a run that has not given it back; the next run does"
        );
    }
    for entry in entries {
        if !files.iter().any(|known| known.name == entry.name || known.file == entry.file) {
            log::warn!("{}: in the ledger, but its file {} is not in the folder", entry.name, entry.file);
        }
    }
    for word in Standing::ALL.map(Standing::word) {
        let number = standings.iter().filter(|standing| standing.word() == word).count();
        recorder.count(word, number);
    }
}
