//! `--status`: how each file stands, and what the ledger tells beside them. Changes nothing.

use ms5_common::db::ledger::Entry;
use ms5_common::record::Recorder;
use serde_json::json;

use crate::plan::{Known, Standing, entry_of};

/// Shows every file, then the rows of the ledger that belong to none.
pub(crate) fn show(recorder: &Recorder, files: &[Known<'_>], standings: &[Standing], entries: &[Entry]) {
    for (known, standing) in files.iter().zip(standings) {
        let entry = entry_of(known, entries);
        let when =
            entry.map(|entry| format!(" ({} by {})", entry.applied_at, entry.applied_by)).unwrap_or_default();
        let note = match standing {
            Standing::Unverified => "; another tool wrote that, which proves nothing",
            Standing::Changed => "; the file is not what was applied",
            Standing::Interrupted => "; its runner ended without a word, its transaction was rolled back",
            Standing::OutOfOrder => "; a later number is applied",
            Standing::Applied | Standing::Failed | Standing::Pending => "",
        };
        log::info!("{}: {}{when}{note}", known.name, standing.word());
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
