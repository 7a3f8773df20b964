//! Rollback points: a full backup, and a script that brings it back with nothing but sh, gunzip, psql and sha256sum.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use ms5_common::config::{Settings, absolute};
use ms5_common::db::clients;
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::rollback_points::{self, REFERENCE, SCRIPT, SHORT};
use ms5_common::success;
use ms5_common::tool::Context;
use serde_json::{Value, json};

use crate::args::{IDENTITY, Options};
use crate::folder::metadata::Kind;
use crate::folder::{Entry, write_whole};
use crate::restore::server::{Maintenance, Needs, create_options, lock_key};
use crate::restore::swap::kept_prefix;
use crate::sessions::{RESTORE_PASSWORD, restorer};
use crate::{dump, restore};

/// The script, with a line of values in place of this word.
const TEMPLATE: &str = include_str!("rollback.sh");
const VALUES: &str = "@VALUES@\n";
/// What the caller says, before the script says it itself.
const CALLER: &str = "\n# The caller's, to be compared\nCALLER_ENVIRONMENT=${ENVIRONMENT:-}\n";

/// `rollback-point NAME`; gives its backup.
pub(crate) fn point(context: &Context, options: &Options, settings: &Settings, name: &str) -> Result<Entry> {
    let restorer = restorer(settings, &context.variables, options.restore_user.as_deref());
    // Before a row is read: a point that nobody could go back to is none.
    let could_restore = |needs: Needs<'_>| {
        Maintenance::open(&restorer, &options.maintenance)
            .and_then(|mut server| server.check(needs))
            .map_err(|error| error.because("so there is no rollback point"))
    };
    let entry = dump::run(context, options, settings, name, Kind::Full, could_restore)?;
    let folder = settings.backup_dir.join(rollback_points::FOLDER).join(&entry.name);
    let failed = |error: std::io::Error| {
        Error::new(Exit::Failed, format!("cannot write the rollback point {}", folder.display()))
            .because(error)
            .because(format!("the backup {} is complete", entry.name))
            .hint(format!("restore it by its name: backup-manager restore {} --force", entry.name))
    };
    let script = script(options, settings, &entry)?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(failed)?;
    write_whole(&folder.join(REFERENCE), &format!("{}\n", entry.name), 0o600).map_err(failed)?;
    write_whole(&folder.join(SCRIPT), &script, 0o700).map_err(failed)?;
    let link = rollback_points::link(settings, &entry.name, &folder).map_err(failed)?;
    context.recorder.emit(
        "rollback_point",
        json!({ "name": entry.name, "path": absolute(&folder).display().to_string() }),
    );
    let key = if entry.is_sealed() { format!(" {IDENTITY}=KEY_FILE") } else { String::new() };
    if entry.is_sealed() {
        log::warn!("The backup is encrypted: {SCRIPT} needs age and the key, where it is called");
        if !clients::is_on_path("age", &context.variables) {
            log::warn!("  age is not on PATH here: install it (Debian: apt install age)");
        }
    }
    log::info!("Go back with: {}{key} --force", link.display());
    log::info!("or, faster:   backup-manager rollback {}{key} --force", entry.name);
    success!("✅ Rollback point created: {}", entry.name);
    Ok(entry)
}

/// `rollback NAME`: the same as a restore of the point's backup.
pub(crate) fn back(context: &Context, options: &Options, settings: &Settings, name: &str) -> Result<Exit> {
    let points = settings.backup_dir.join(rollback_points::FOLDER);
    let named = fs::read_to_string(points.join(name).join(REFERENCE)).ok();
    let backup = match named.as_deref().map(str::trim).filter(|text| !text.is_empty()) {
        Some(backup) => backup.to_owned(),
        None => name.to_owned(),
    };
    log::info!("Rolling back to {backup}");
    restore::run(context, options, settings, &backup)
}

/// The backups that rollback points need: those that clean must not remove.
///
/// # Errors
/// [`Exit::Config`] where the points cannot be read: then nothing may be removed.
pub(crate) fn needed(backups: &Path, home: &Path) -> Result<BTreeSet<String>> {
    let mut needed = BTreeSet::new();
    for folder in [backups.join(rollback_points::FOLDER), home.join(SHORT)] {
        let listed = match fs::read_dir(&folder) {
            Ok(listed) => listed,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(unreadable(&folder, &error)),
        };
        for point in listed {
            let path = point.map_err(|error| unreadable(&folder, &error))?.path().join(REFERENCE);
            match fs::read_to_string(&path) {
                Ok(text) => needed.extend(
                    text.lines().map(|line| backup_name(line.trim())).filter(|name| !name.is_empty()),
                ),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(unreadable(&path, &error)),
            }
        }
    }
    Ok(needed)
}

/// The old script may have written a path.
fn backup_name(line: &str) -> String {
    line.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned()
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::new(Exit::Config, format!("cannot read the rollback points in {}", path.display()))
        .because(error)
        .because("which backups they need is not known, so nothing was removed")
}

/// The script with the values of this backup. It holds no password.
fn script(options: &Options, settings: &Settings, entry: &Entry) -> Result<String> {
    let metadata = entry.metadata.as_ref().map_err(|why| Error::new(Exit::Bug, why.clone()))?;
    let more =
        metadata.more.as_ref().ok_or_else(|| Error::new(Exit::Bug, "a new backup without its index"))?;
    let (file, sum) = metadata.files.first().cloned().unwrap_or_default();
    let defaults = settings.environment.defaults();
    let connection = &settings.connection;
    let values = [
        ("ENVIRONMENT", defaults.name.to_owned()),
        ("DB_HOST", connection.host.clone()),
        ("DB_PORT", connection.port.to_string()),
        ("DB_NAME", connection.dbname.clone()),
        ("DB_USER", options.restore_user.clone().unwrap_or_else(|| connection.user.clone())),
        (
            "PASSWORD_VARIABLE",
            if options.restore_user.is_some() { RESTORE_PASSWORD } else { defaults.password_variable }
                .to_owned(),
        ),
        ("MAINTENANCE_DB", options.maintenance.clone()),
        ("CONTAINER", defaults.container.to_owned()),
        ("COMPOSE_FILE", format!("docker-compose.{}.yml", defaults.name)),
        ("BACKUP_NAME", entry.name.clone()),
        ("BACKUP_FILE", absolute(&entry.path).join(&file).display().to_string()),
        ("BACKUP_SHA256", sum),
        ("CREATE_OPTIONS", create_options(&more.database, &more.server)),
        ("LOCK_KEY", lock_key(&connection.dbname).to_string()),
        ("KEPT_PREFIX", kept_prefix(&connection.dbname)),
        ("BACKUP_TIME", metadata.created_at.clone()),
        ("OWNER", text(&more.database, "owner")),
    ];
    let lines: String = values.iter().map(|(name, value)| format!("{name}={}\n", quoted(value))).collect();
    let head = format!(
        "# Created: {}\n# Backup: {}\n{CALLER}\n# Configuration\n{lines}",
        metadata.created_at, entry.name
    );
    Ok(TEMPLATE.replacen(VALUES, &head, 1))
}

fn text(database: &serde_json::Map<String, Value>, key: &str) -> String {
    database.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// A text for sh.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_for_sh() {
        assert_eq!(quoted("a'b$(c)"), "'a'\\''b$(c)'");
        assert!(TEMPLATE.contains(VALUES));
    }

    #[test]
    fn points_name_their_backups() {
        let home = std::env::temp_dir().join(format!("ms5-points-{}", std::process::id()));
        let points = home.join("backups").join(rollback_points::FOLDER);
        for (name, text) in [("a", "x_20240101_000000\n"), ("b", "/srv/backups/y/\n"), ("c", "")] {
            fs::create_dir_all(points.join(name)).unwrap();
            fs::write(points.join(name).join(REFERENCE), text).unwrap();
        }
        let needed = needed(&home.join("backups"), &home).unwrap();
        assert_eq!(needed.into_iter().collect::<Vec<_>>(), ["x_20240101_000000", "y"]);
        fs::remove_dir_all(home).unwrap();
    }
}
