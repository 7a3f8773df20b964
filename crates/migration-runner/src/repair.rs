//! `--repair`: accepts files that changed since they were applied, after showing what changed. Runs none of them.

use ms5_common::db::ledger::{self, Attempt, End};
use ms5_common::db::server_error::reasons;
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::machine;
use ms5_common::migrations::Migration;
use ms5_common::success;
use ms5_common::tool::Context;
use serde_json::json;

use crate::args::TOOL_VERSION;
use crate::kept;
use crate::plan::{Standing, entry_of};
use crate::prepare::Ready;
use crate::run::{Input, unreadable};
use crate::secret::{first_words, first_words_of};

/// Shows and records every changed file.
pub(crate) fn run(context: &Context, input: &Input, mut ready: Ready) -> Result<Exit> {
    let known = input.known();
    let standings = ready.seen.standings(&known);
    let host = machine::host_name();
    let kept = kept::texts(input);
    let mut repaired = 0;
    for (index, migration) in input.migrations.iter().enumerate() {
        let beyond = input.options.target.is_some_and(|target| migration.number > target);
        if standings[index] != Standing::Changed || beyond {
            continue;
        }
        let entry = entry_of(&known[index], &ready.seen.entries);
        let name = entry.map_or(migration.title.as_str(), |entry| entry.name.as_str());
        let was = entry.and_then(|entry| entry.checksum.clone()).unwrap_or_default();
        log::info!("{} has changed since it was applied", migration.file);
        log::info!("    checksum then: {was}");
        log::info!("    checksum now:  {}", migration.checksum);
        let client = &mut ready.session.client;
        match ledger::kept_text(client, &was).map_err(unreadable("the applied text"))? {
            Some(before) => show(&before, migration),
            None => log::warn!("    the text that was applied was not kept, so what changed cannot be shown"),
        }
        let attempt = Attempt {
            name,
            file: &migration.file,
            checksum: &migration.checksum,
            kept: kept[index].as_deref(),
            continues: None,
            run_id: context.recorder.run_id(),
            tool_version: TOOL_VERSION,
            host: &host,
        };
        let message = format!("accepted by --repair; checksum {was} before");
        ledger::record(client, attempt, &ready.session.backend, End::Repaired, &message).map_err(
            |error| {
                Error::new(Exit::Failed, format!("cannot record the repair of {name}"))
                    .because_all(reasons(&error))
                    .hint("run it again")
            },
        )?;
        success!("Migration {name} accepted as it is now; nothing of it was executed");
        context.recorder.emit(
            "migration",
            json!({
                "name": name, "file": migration.file, "checksum": migration.checksum,
                "outcome": "repaired", "milliseconds": 0, "statements": migration.statement_count(),
            }),
        );
        repaired += 1;
    }
    context.recorder.count("repaired", repaired);
    if repaired == 0 {
        success!("No applied file has changed; nothing to repair");
    }
    Ok(Exit::Done)
}

/// The statements that only one of the two has.
fn show(before: &[String], migration: &Migration) {
    let now: Vec<&str> = migration.statements().map(|statement| statement.text.as_str()).collect();
    let gone = before.iter().filter(|text| !now.contains(&text.as_str()));
    let added = migration.statements().filter(|statement| !before.contains(&statement.text));
    let mut same = true;
    for text in gone {
        same = false;
        log::info!("    - {}", first_words_of(text));
    }
    for statement in added {
        same = false;
        log::info!("    + {}:{} {}", migration.file, statement.head(), first_words(statement));
    }
    if same {
        log::info!("    the statements are the same: comments, blanks or their order changed");
    }
}
