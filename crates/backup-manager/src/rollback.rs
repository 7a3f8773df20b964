//! Rollback points: a full backup, and a script that brings it back with nothing but sh, gunzip, psql and sha256sum.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use ms5_common::backups::{Kin, Whose};
use ms5_common::config::{Settings, absolute};
use ms5_common::db::clients;
use ms5_common::db::{lock, name_lock};
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::rollback_points::{self, REFERENCE, SCRIPT, SHORT};
use ms5_common::success;
use ms5_common::tool::Context;
use ms5_common::troubleshooting;
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use crate::args::{IDENTITY, Options};
use crate::folder::metadata::Kind;
use crate::folder::{Entry, Folder, Hold, belonging, name, write_whole};
use crate::restore::server::{Maintenance, Needs, create_options};
use crate::restore::swap::kept_prefix;
use crate::seal::Key;
use crate::sessions::{RESTORE_PASSWORD, restorer};
use crate::{dump, restore, verify};

/// The script, with a line of values in place of this word.
const TEMPLATE: &str = include_str!("rollback.sh");
const VALUES: &str = "@VALUES@\n";
/// What the caller says, before the script says it itself.
const CALLER: &str = "\n# The caller's, to be compared\nCALLER_ENVIRONMENT=${ENVIRONMENT:-}\n";

/// `rollback-point NAME`: its backup, and the script; gives the backup.
pub(crate) fn point(context: &Context, options: &Options, settings: &Settings, name: &str) -> Result<Entry> {
    let restorer = restorer(settings, &context.variables, options.restore_user.as_deref());
    // Before a row is read: a point that nobody could go back to is none.
    let could_restore = |needs: Needs<'_>| {
        Maintenance::open(&restorer, &options.maintenance)
            .and_then(|mut server| server.check(needs))
            .map_err(|error| error.because("so there is no rollback point"))
    };
    let entry = dump::run(context, options, settings, name, Kind::Full, could_restore)?;
    write(context, options, settings, &entry, &entry.name)?;
    success!("✅ Rollback point created: {}", entry.name);
    Ok(entry)
}

/// `rollback-point NAME --of=BACKUP`: a script for a backup that is there. The database is not asked: it may be down.
pub(crate) fn point_of(
    context: &Context,
    options: &Options,
    settings: &Settings,
    name: &str,
    backup: &str,
) -> Result<Exit> {
    name::check_full(name)?;
    let folder = Folder::open(&settings.backup_dir, Hold::Shared, options.lock_wait)?;
    context.recorder.start(None, None);
    let entry = folder.find(backup, settings)?;
    belonging::check(&entry.name, entry.whose(), settings, false)?;
    if !entry.complete() {
        return Err(verify::damaged(&entry, entry.damage.clone()));
    }
    let superuser = can_have_a_script(settings, &entry)?;
    let entry = entry.open(Key::given(options.identity.as_deref(), &context.variables)?)?;
    if superuser && options.restore_user.is_none() {
        log::warn!(
            "It holds hypertables, which only a superuser can load: {SCRIPT} does so as {}; another role: --restore-user=ROLE",
            settings.connection.user
        );
    }
    let name = free_name(settings, name);
    write(context, options, settings, &entry, &name)?;
    success!("✅ Rollback point created: {name}, of the backup {} of {}", entry.name, Whose::of(settings));
    Ok(Exit::Done)
}

/// Refuses a backup that psql alone cannot bring back. Gives whether a superuser has to.
fn can_have_a_script(settings: &Settings, entry: &Entry) -> Result<bool> {
    let metadata = entry.metadata.as_ref().map_err(|why| verify::damaged(entry, vec![why.clone()]))?;
    let why = match &metadata.more {
        None => "the old script made it: psql alone does not bring it back whole",
        Some(_) if metadata.kind != Kind::Full.word() => "it is not a full one",
        Some(_) if metadata.is_incremental() => "it is incremental: its rows are in the store",
        Some(more) => return Ok(more.superuser),
    };
    Err(Error::new(Exit::Config, format!("there can be no {SCRIPT} of {}", entry.name))
        .because(why)
        .because("nothing was touched")
        .hint(format!("go back by its name: {}", troubleshooting::restore(settings, &entry.name))))
}

/// The name with its stamp: that of now, or of the first second to come that has no point of this name.
fn free_name(settings: &Settings, name: &str) -> String {
    if name::without_stamp(name).is_some() {
        return name.to_owned();
    }
    let points = settings.backup_dir.join(rollback_points::FOLDER);
    let mut at = OffsetDateTime::now_utc();
    loop {
        let full = format!("{name}_{}", name::stamp(at));
        if !points.join(&full).exists() {
            return full;
        }
        at += Duration::seconds(1);
    }
}

/// Writes the script of a backup, as the point of this name.
fn write(context: &Context, options: &Options, settings: &Settings, entry: &Entry, name: &str) -> Result<()> {
    let folder = settings.backup_dir.join(rollback_points::FOLDER).join(name);
    let failed = |error: std::io::Error| {
        Error::new(Exit::Failed, format!("cannot write the rollback point {}", folder.display()))
            .because(error)
            .because(format!("the backup {} is complete", entry.name))
            .hint(format!("restore it by its name: {}", troubleshooting::restore(settings, &entry.name)))
    };
    let script = script(options, settings, entry)?;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(failed)?;
    write_whole(&folder.join(REFERENCE), &format!("{}\n", entry.name), 0o600).map_err(failed)?;
    write_whole(&folder.join(SCRIPT), &script, 0o700).map_err(failed)?;
    let link = rollback_points::link(settings, name, &folder).map_err(failed)?;
    context
        .recorder
        .emit("rollback_point", json!({ "name": name, "path": absolute(&folder).display().to_string() }));
    let key = if entry.is_sealed() { format!(" {IDENTITY}=KEY_FILE") } else { String::new() };
    if entry.is_sealed() {
        log::warn!("The backup is encrypted: {SCRIPT} needs age and the key, where it is called");
        if !clients::is_on_path("age", &context.variables) {
            log::warn!("  age is not on PATH here: install it (Debian: apt install age)");
        }
    }
    log::info!("Go back with: {}{key} --force", link.display());
    let rollback = troubleshooting::with_backups(settings, &format!("rollback {}{key} --force", entry.name));
    log::info!("or, faster:   {rollback}");
    Ok(())
}

/// `rollback NAME`: the same as a restore of the point's backup.
pub(crate) fn back(context: &Context, options: &Options, settings: &Settings, name: &str) -> Result<Exit> {
    let backup = backup_of(settings, name).unwrap_or_else(|| name.to_owned());
    log::info!("Rolling back to {backup}");
    restore::run(context, options, settings, &backup)
}

/// The backup of the point that a name means: in rollback/, where the runbook looks, then among all points. Without a stamp it is
/// the newest of this database; of another one where there is no other, which the restore refuses by name. None: no point.
fn backup_of(settings: &Settings, name: &str) -> Option<String> {
    let ours = Whose::of(settings);
    let stamped = |label: &str| name::without_stamp(label) == Some(name);
    for folder in [settings.home.join(SHORT), settings.backup_dir.join(rollback_points::FOLDER)] {
        let mut labels: Vec<String> = fs::read_dir(&folder)
            .into_iter()
            .flatten()
            .filter_map(|point| point.ok()?.file_name().into_string().ok())
            .filter(|label| label == name || stamped(label))
            .collect();
        labels.sort_by(|one, other| (one == name, one).cmp(&(other == name, other)).reverse());
        let backups: Vec<String> = labels
            .iter()
            .filter_map(|label| fs::read_to_string(folder.join(label).join(REFERENCE)).ok())
            .map(|text| backup_name(text.trim()))
            .filter(|backup| !backup.is_empty())
            .collect();
        let is_ours = |backup: &&String| {
            let entry = Entry::read((*backup).clone(), settings.backup_dir.join(backup));
            ours.kin(entry.whose()) != Kin::Others
        };
        if let Some(found) = backups.iter().find(is_ours).or_else(|| backups.first()) {
            return Some(found.clone());
        }
    }
    None
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
        ("PASSWORD_VARIABLES", password_variables(options, settings)),
        ("MAINTENANCE_DB", options.maintenance.clone()),
        ("CONTAINER", defaults.container.to_owned()),
        ("COMPOSE_FILE", format!("docker-compose.{}.yml", defaults.name)),
        ("INSTALLATION", absolute(&settings.home).display().to_string()),
        ("BACKUP_NAME", entry.name.clone()),
        ("BACKUP_FILE", absolute(&entry.path).join(&file).display().to_string()),
        ("BACKUP_SHA256", sum),
        ("CREATE_OPTIONS", create_options(&more.database, &more.server)),
        ("LOCK_KEY", name_lock::key(&connection.dbname).to_string()),
        ("RUN_LOCK_KEY", lock::KEY.to_string()),
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

/// Where the role that restores has its password, in the order in which our own restore looks.
fn password_variables(options: &Options, settings: &Settings) -> String {
    let own = options.restore_user.as_ref().map(|_| RESTORE_PASSWORD.to_owned());
    own.iter().chain(&settings.connection.password_variables).cloned().collect::<Vec<_>>().join(" ")
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
    use ms5_common::config::{Choices, Environment, Variables, load};

    #[test]
    fn texts_for_sh() {
        assert_eq!(quoted("a'b$(c)"), "'a'\\''b$(c)'");
        assert!(TEMPLATE.contains(VALUES));
    }

    #[test]
    fn a_point_is_found_by_its_name_with_and_without_its_stamp() {
        let home = std::env::temp_dir().join(format!("ms5-points-of-{}", std::process::id()));
        let text = home.display().to_string();
        let settings =
            load(Choices::default(), &Variables::of(&[("MS5_HOME", &text)]), Environment::Test).unwrap();
        let points = home.join("backups").join(rollback_points::FOLDER);
        for (folder, label, backup) in [
            (home.join(SHORT), "failed_20240101_000000", "a_20240101_000000"),
            (home.join(SHORT), "failed_20240102_000000", "b_20240102_000000"),
            (points.clone(), "failed_20240103_000000", "c_20240103_000000"),
            (points, "kept_20240101_000000", "/srv/backups/d_20240101_000000/"),
        ] {
            fs::create_dir_all(folder.join(label)).unwrap();
            fs::write(folder.join(label).join(REFERENCE), format!("{backup}\n")).unwrap();
        }
        for (name, backup) in [
            ("failed", Some("b_20240102_000000")),
            ("failed_20240101_000000", Some("a_20240101_000000")),
            ("failed_20240103_000000", Some("c_20240103_000000")),
            ("kept", Some("d_20240101_000000")),
            ("fail", None),
        ] {
            assert_eq!(backup_of(&settings, name).as_deref(), backup, "{name}");
        }
        fs::remove_dir_all(home).unwrap();
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
