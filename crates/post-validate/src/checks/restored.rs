//! A database that was restored from a backup since the last migration: what must be there is what the backup holds.

use std::fs;

use ms5_common::catalog::Inventory;
use ms5_common::check::{Check, Finding, at_most};
use ms5_common::db::server_error::reasons;
use ms5_common::db::session;
use ms5_common::troubleshooting;
use serde_json::{Value, json};

use super::{Bench, SqlResult, number};
use crate::args::TOOL;

/// The backup.
pub(super) const ROLLED_BACK: Check = Check::new(
    "rolled-back",
    "a database that was restored from a backup since the last migration: then in place of files, promises and rows",
    "every object is as in that backup",
);

/// The most objects that are named.
const NAMED: usize = 30;

pub(super) fn check(bench: &mut Bench<'_>) -> SqlResult {
    let Some(restored) = &bench.restored else { return Ok(()) };
    let back = format!("The database is rolled back to {}", restored.backup);
    let restored_at = format!("restored at {}; no migration was tried since", restored.at);
    let finding = match inventory(bench, &restored.backup) {
        Err(why) => Finding::warn(format!("{back}; its objects are not compared")).because(why).remedy(
            "bring the backup's folder here, or give its place as --backup-dir; files, promises and rows are not looked at either",
        ),
        Ok(then) => match now(bench) {
            Err(why) => Finding::warn(format!("{back}; its objects cannot be listed"))
                .because_all(why)
                .remedy("run it again"),
            Ok(now) => {
                // A restore leaves it to the operator to start jobs.
                let differences: Vec<String> = then
                    .as_restored()
                    .compare_restored(&now.as_restored())
                    .iter()
                    .map(ToString::to_string)
                    .collect();
                if differences.is_empty() {
                    Finding::pass(format!("{back}: {} are as they were", number(then.len(), "object")))
                } else {
                    Finding::fail(format!("{back}, and is not what that was"))
                        .because_all(at_most(NAMED, &differences))
                        .remedy(format!(
                            "find out who has changed it since; to begin anew: {}",
                            troubleshooting::restore(&bench.input.settings, &restored.backup)
                        ))
                }
            }
        },
    };
    bench.add(&ROLLED_BACK, finding.because(restored_at));
    Ok(())
}

/// What the backup held, as its metadata.json tells.
fn inventory(bench: &Bench<'_>, backup: &str) -> Result<Inventory, String> {
    // The name is the database's word, and no way out of the folder.
    if backup.contains(['/', '\0']) || backup.starts_with('.') {
        return Err(format!("{backup:?} is no name of a backup"));
    }
    let path = bench.input.settings.backup_dir.join(backup).join("metadata.json");
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let metadata: Value =
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    Inventory::from_json(&json!({"objects": metadata["inventory"]}))
        .ok_or_else(|| format!("{} tells of no objects", path.display()))
}

fn now(bench: &Bench<'_>) -> Result<Inventory, Vec<String>> {
    // A session of its own, since the list may take longer than a second.
    let mut session =
        session::open_reader(&bench.input.settings, TOOL, "inventory").map_err(|error| error.lines())?;
    Inventory::take(&mut session.client).map_err(|error| reasons(&error))
}
