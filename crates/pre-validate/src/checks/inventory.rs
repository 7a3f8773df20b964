//! Every object of the database as it is before the migration, for post-validate to see what is gone.

use ms5_common::catalog::Inventory;
use ms5_common::check::{Finding, Report};
use ms5_common::config::Settings;
use ms5_common::db::server_error::reasons;
use ms5_common::db::session;
use ms5_common::record::Recorder;

use super::INVENTORY;
use crate::args::TOOL;

/// Takes the inventory, over a session that may take its time; it is a record of type `inventory`.
pub(crate) fn check(report: &mut Report<'_>, recorder: &Recorder, settings: &Settings, quick: bool) {
    if quick {
        report.add(&INVENTORY, Finding::skipped("--quick"));
        return;
    }
    let taken = match session::open_reader(settings, TOOL, "inventory") {
        Ok(mut session) => Inventory::take(&mut session.client).map_err(|error| reasons(&error)),
        Err(error) => Err(error.lines()),
    };
    match taken {
        Ok(inventory) => {
            report.add(
                &INVENTORY,
                Finding::pass(format!("Objects of the database: {} noted", inventory.len())),
            );
            recorder.emit("inventory", inventory.to_json());
        }
        Err(why) => report.add(
            &INVENTORY,
            Finding::warn("The objects of the database cannot be listed")
                .because_all(why)
                .remedy("run it again; without the list post-validate cannot tell what is gone"),
        ),
    }
}
