//! The way back of a run that has made no rollback point: the newest backup of what was there before it, made reachable where the
//! runbook looks for it.

use std::fs;
use std::path::{Path, PathBuf};

use ms5_common::backups::{self, Full, Whose};
use ms5_common::called::called;
use ms5_common::clock::{self, OffsetDateTime};
use ms5_common::config::absolute;
use ms5_common::db::client::Client;
use ms5_common::db::ledger::{self, Entry};
use ms5_common::error::Result;
use ms5_common::rollback_points::{FAILURE, REFERENCE, SCRIPT, SHORT};
use ms5_common::tool::Context;
use ms5_common::troubleshooting;

use crate::rollback_point::{self, BACKUP_MANAGER, Point};
use crate::run::{Input, unreadable};

/// Since when the database is in the state that a run finds, and on which server it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Before {
    changed: Changed,
    /// The backup of the last restore, and when that was.
    restored: Option<(String, OffsetDateTime)>,
    system_identifier: String,
}

/// When the last migration was applied, or the last statement of one that was not applied whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Changed {
    Never,
    At(OffsetDateTime),
    /// The ledger does not say it in a way that can be compared.
    Unknown,
}

impl Before {
    /// Looks, before the first file.
    pub(crate) fn look(client: &mut Client, entries: &[Entry], system_identifier: &str) -> Result<Self> {
        let traces = ledger::traces(client).map_err(unreadable("the ledger"))?;
        let applied = entries.iter().filter(|entry| entry.success).map(|entry| entry.applied_at.as_str());
        let changed = latest(applied.chain(traces.step_done.as_deref()));
        let restored = traces.restored.and_then(|(name, at)| Some((name, clock::parse_record_time(&at)?)));
        Ok(Self { changed, restored, system_identifier: system_identifier.to_owned() })
    }

    /// Whether a backup holds what the run has found.
    fn is_in(&self, full: &Full) -> bool {
        let since = match self.changed {
            Changed::Never => true,
            Changed::At(at) => full.created >= at,
            Changed::Unknown => false,
        };
        since && full.leads_to(&self.system_identifier, self.restored.as_ref())
    }
}

fn latest<'a>(times: impl Iterator<Item = &'a str>) -> Changed {
    times.fold(Changed::Never, |changed, text| match (changed, clock::parse_record_time(text)) {
        (Changed::Unknown, _) | (_, None) => Changed::Unknown,
        (Changed::Never, Some(at)) => Changed::At(at),
        (Changed::At(one), Some(other)) => Changed::At(one.max(other)),
    })
}

/// What to do to go back to what was there before a run that has failed, line by line. Where there is a backup of it,
/// rollback/migration_failure_TIME leads to that from now on, unless a signal has come: then nothing is made any more.
pub(crate) fn lines(context: &Context, input: &Input, before: &Before, stopped: bool) -> Vec<String> {
    let settings = &input.settings;
    let found = backups::fulls(settings).into_iter().find(|full| before.is_in(full));
    let Some(full) = found else { return nothing_fits(input) };
    let script = match reaching(input, &full.name) {
        Some(script) => Ok(Some(script)),
        None if stopped => Ok(None),
        None => rollback_point::of_backup(context, input, &full.name)
            .map(|point| Some(reaching(input, &full.name).unwrap_or_else(|| Point::script(&point)))),
    };
    let command = match script {
        Ok(Some(script)) => format!("{} --force", script.display()),
        Ok(None) => troubleshooting::restore(settings, &full.name),
        Err(error) => {
            log::warn!("{SCRIPT} cannot be made: {}", error.lines().join("; "));
            troubleshooting::restore(settings, &full.name)
        }
    };
    vec![
        format!("To go back to what was there before this run: {command}"),
        format!(
            "That is the backup {} of {}; what was written since then is not in it",
            full.name, full.created_at
        ),
    ]
}

/// The script in rollback/ that brings this backup back already.
fn reaching(input: &Input, backup: &str) -> Option<PathBuf> {
    let is_it = |point: &PathBuf| {
        fs::read_to_string(point.join(REFERENCE)).is_ok_and(|text| text.trim() == backup)
            && point.join(SCRIPT).is_file()
    };
    failures(&input.settings.home).into_iter().find(is_it).map(|point| point.join(SCRIPT))
}

/// What lies in rollback/ of failed runs.
fn failures(home: &Path) -> Vec<PathBuf> {
    let listed = fs::read_dir(absolute(&home.join(SHORT))).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = listed
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(FAILURE))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

/// That no backup holds it, what else is there, and how one is had next time.
fn nothing_fits(input: &Input) -> Vec<String> {
    let settings = &input.settings;
    let mut lines = vec![format!(
        "There is no way back to what was there before this run: no full backup of {} was taken after its last migration and before \
         this run",
        Whose::of(settings)
    )];
    let scripts: Vec<PathBuf> = failures(&settings.home)
        .into_iter()
        .map(|point| point.join(SCRIPT))
        .filter(|file| file.is_file())
        .collect();
    if scripts.is_empty() {
        lines.push(format!("There is no {SHORT}/{FAILURE}*/{SCRIPT} either"));
    }
    for script in scripts {
        let text = fs::read_to_string(&script).unwrap_or_default();
        lines.push(format!("{} is NOT of this run: {}", script.display(), told(&text)));
    }
    let environment = settings.environment.defaults().name;
    lines.push(format!(
        "Next time: first {} backup pre_migration full --environment={environment}; or run this with --rollback-point",
        called(BACKUP_MANAGER)
    ));
    lines
}

/// What a rollback script says of itself, ours or the old script's.
fn told(script: &str) -> String {
    let value = |beginning: &str| {
        let line = script.lines().find_map(|line| line.strip_prefix(beginning))?;
        Some(line.trim().trim_matches(['\'', '"'])).filter(|value| !value.is_empty())
    };
    let known = |beginning: &str| value(beginning).unwrap_or("unknown");
    format!(
        "it brings {} of {} back to the backup {} of {}",
        known("DB_NAME="),
        known("ENVIRONMENT="),
        known("BACKUP_NAME="),
        value("BACKUP_TIME=").unwrap_or_else(|| known("# Created: "))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> OffsetDateTime {
        clock::parse_record_time(text).unwrap()
    }

    fn full(name: &str, created_at: &str, id: Option<&str>) -> Full {
        Full {
            name: name.into(),
            created: at(created_at),
            created_at: created_at.into(),
            system_identifier: id.map(Into::into),
        }
    }

    #[test]
    fn a_backup_holds_what_was_there_if_it_was_taken_since_the_last_change() {
        let changed = latest(
            ["2024-01-15T10:30:00.5+01:00", "2024-01-14T10:30:00Z"]
                .into_iter()
                .chain(Some("2024-01-13T00:00:00Z")),
        );
        assert_eq!(changed, Changed::At(at("2024-01-15T09:30:00.5Z")));
        assert_eq!(latest(["2024-01-15T10:30:00Z", "2024-01-15 10:30:00"].into_iter()), Changed::Unknown);
        let mut before = Before { changed, restored: None, system_identifier: "7".into() };
        for (created, id, fits) in [
            ("2024-01-15T09:30:01Z", Some("7"), true),
            ("2024-01-15T09:30:00Z", Some("7"), false),
            ("2024-01-16T09:30:00Z", Some("8"), false),
            ("2024-01-16T09:30:00Z", None, true),
        ] {
            assert_eq!(before.is_in(&full("a", created, id)), fits, "{created} {id:?}");
        }
        before.restored = Some(("a".into(), at("2024-01-17T00:00:00Z")));
        assert!(before.is_in(&full("a", "2024-01-16T00:00:00Z", None)));
        assert!(
            !before.is_in(&full("b", "2024-01-16T00:00:00Z", None)),
            "it holds what the restore has taken away"
        );
        assert!(before.is_in(&full("b", "2024-01-18T00:00:00Z", None)));
        before.changed = Changed::Unknown;
        assert!(!before.is_in(&full("b", "2024-01-18T00:00:00Z", None)));
        before.changed = Changed::Never;
        assert!(before.is_in(&full("b", "2024-01-18T00:00:00Z", None)));
    }

    #[test]
    fn what_scripts_say_of_themselves() {
        let old = "#!/bin/bash\n# Created: 2024-01-15T10:30:00Z\nENVIRONMENT=\"staging\"\nDB_NAME=\"plant\"\nBACKUP_NAME=\"x\"\n";
        assert_eq!(told(old), "it brings plant of staging back to the backup x of 2024-01-15T10:30:00Z");
        let ours = "# Created: 1\nCALLER_ENVIRONMENT=${ENVIRONMENT:-}\nENVIRONMENT='test'\nDB_NAME='p'\nBACKUP_NAME='y'\nBACKUP_TIME='2'\n";
        assert_eq!(told(ours), "it brings p of test back to the backup y of 2");
        assert_eq!(told(""), "it brings unknown of unknown back to the backup unknown of unknown");
    }
}
