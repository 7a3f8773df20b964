//! Rollback points on disk: `backups/rollback_points/NAME/`, with a script and the name of its backup, and `rollback/NAME`
//! beside the backups' folder, a link to it, through which runbooks reach the script.
//!
//! rollback/ holds the newest `migration_failure_*` only, so that `./rollback/migration_failure_*/rollback.sh --force` can mean
//! but one.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use crate::config::{Settings, absolute};

/// The folder of the points, in the folder of the backups.
pub const FOLDER: &str = "rollback_points";
/// The script of a point.
pub const SCRIPT: &str = "rollback.sh";
/// The file of a point that names its backup.
pub const REFERENCE: &str = "backup_reference.txt";
/// The folder through which runbooks reach the points, in MS5_HOME.
pub const SHORT: &str = "rollback";
/// What the names of points begin with that a failed migration was left with.
pub const FAILURE: &str = "migration_failure_";

/// Makes rollback/NAME lead to a point, and gives the path of the script there. A `migration_failure_*` that was there before
/// goes: a link is removed, a folder (the old script made those) moves to the other points.
///
/// # Errors
/// The file system's, where the link cannot be made. An older failure that cannot be moved is a warning.
pub fn link(settings: &Settings, name: &str, point: &Path) -> io::Result<PathBuf> {
    let short = absolute(&settings.home.join(SHORT));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&short)?;
    let link = short.join(name);
    match fs::remove_file(&link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => symlink(absolute(point), &link)?,
    }
    if name.starts_with(FAILURE) {
        let points = settings.backup_dir.join(FOLDER);
        for older in older_failures(&short, name)? {
            if let Err(error) = move_away(&older, &points) {
                log::warn!("{} cannot be moved to {}: {error}", older.display(), points.display());
                log::warn!("Next: move it yourself: the runbook's rollback/{FAILURE}*/ must mean one");
            }
        }
    }
    Ok(link.join(SCRIPT))
}

fn older_failures(short: &Path, newest: &str) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(short)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with(FAILURE) && name != newest {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn move_away(older: &Path, points: &Path) -> io::Result<()> {
    if older.is_symlink() {
        return fs::remove_file(older);
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(points)?;
    let to = points.join(older.file_name().unwrap_or_default());
    if to.exists() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} is there", to.display())));
    }
    fs::rename(older, to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Choices, Environment, Variables, load};

    #[test]
    fn the_newest_failure_is_the_only_one() {
        let home = std::env::temp_dir().join(format!("ms5-rollback-{}", std::process::id()));
        let text = home.display().to_string();
        let settings =
            load(Choices::default(), &Variables::of(&[("MS5_HOME", &text)]), Environment::Test).unwrap();
        let point = settings.backup_dir.join(FOLDER).join("point");
        fs::create_dir_all(&point).unwrap();
        fs::write(point.join(SCRIPT), "#!/bin/sh\n").unwrap();
        let old = home.join(SHORT).join("migration_failure_of_the_old_script");
        fs::create_dir_all(&old).unwrap();
        for name in ["migration_failure_1", "migration_failure_1", "kept", "migration_failure_2"] {
            let script = link(&settings, name, &point).unwrap();
            assert_eq!(fs::read_to_string(script).unwrap(), "#!/bin/sh\n");
        }
        let mut names: Vec<_> =
            fs::read_dir(home.join(SHORT)).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["kept", "migration_failure_2"]);
        assert!(settings.backup_dir.join(FOLDER).join("migration_failure_of_the_old_script").is_dir());
        assert!(point.join(SCRIPT).exists(), "what a link led to stays");
        fs::remove_dir_all(home).unwrap();
    }
}
