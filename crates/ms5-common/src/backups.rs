//! Backups on disk, as far as more than one tool has to know them: whose they are, of when, and whether their files are there.

use std::fmt;
use std::fs;
use std::path::Path;

use serde_json::Value;
use time::OffsetDateTime;

use crate::clock;
use crate::config::Settings;

/// What a backup says of itself.
const METADATA: &str = "metadata.json";

/// The database that a backup is of, as operators tell them apart. Empty where a backup does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Whose<'a> {
    /// As in `--environment=`.
    pub environment: &'a str,
    /// The database's name.
    pub database: &'a str,
}

/// Whose a backup is, seen from the database that a command is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kin {
    /// It is of this environment and of a database of this name.
    Ours,
    /// It does not say all of it, and nothing that it says is another's.
    Unknown,
    /// It is of another environment, or of a database of another name.
    Others,
}

impl<'a> Whose<'a> {
    /// The database that a command is for.
    #[must_use]
    pub fn of(settings: &'a Settings) -> Self {
        Self { environment: settings.environment.defaults().name, database: &settings.connection.dbname }
    }

    /// Whose the backup of `other` is to us.
    #[must_use]
    pub fn kin(&self, other: Whose<'_>) -> Kin {
        let pairs = [(self.environment, other.environment), (self.database, other.database)];
        if pairs.iter().any(|(ours, theirs)| !theirs.is_empty() && ours != theirs) {
            Kin::Others
        } else if pairs.iter().any(|(_, theirs)| theirs.is_empty()) {
            Kin::Unknown
        } else {
            Kin::Ours
        }
    }
}

impl fmt::Display for Whose<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [database, environment] =
            [self.database, self.environment].map(|word| if word.is_empty() { "unknown" } else { word });
        write!(to, "{database} of {environment}")
    }
}

/// A full backup whose files are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Full {
    /// The folder's name.
    pub name: String,
    /// When it was taken.
    pub created: OffsetDateTime,
    /// The same as it says it.
    pub created_at: String,
    /// The server's, where it says it.
    pub system_identifier: Option<String>,
}

impl Full {
    /// Whether it is of this server, and holds the database as it came about: what was backed up before a restore is not what
    /// was there after it, but for that backup itself.
    #[must_use]
    pub fn leads_to(&self, system_identifier: &str, restored: Option<&(String, OffsetDateTime)>) -> bool {
        let here = self.system_identifier.as_ref().is_none_or(|id| id == system_identifier);
        here && restored.is_none_or(|(name, at)| self.created >= *at || self.name == *name)
    }
}

/// The full backups of this very environment and database name, the newest first. What cannot be read is none.
#[must_use]
pub fn fulls(settings: &Settings) -> Vec<Full> {
    let Ok(folders) = fs::read_dir(&settings.backup_dir) else { return Vec::new() };
    let whose = Whose::of(settings);
    let mut found: Vec<Full> = folders
        .filter_map(|folder| {
            let folder = folder.ok()?;
            let name = folder.file_name().into_string().ok().filter(|name| !name.starts_with('.'))?;
            let text = fs::read_to_string(folder.path().join(METADATA)).ok()?;
            full(&folder.path(), name, &serde_json::from_str(&text).ok()?, whose)
        })
        .collect();
    found.sort_by(|one, other| (other.created, &other.name).cmp(&(one.created, &one.name)));
    found
}

fn full(folder: &Path, name: String, metadata: &Value, whose: Whose<'_>) -> Option<Full> {
    let text = |path: &str| metadata.pointer(path).and_then(Value::as_str);
    let of = Whose {
        environment: text("/environment").unwrap_or_default(),
        database: text("/database/name").unwrap_or_default(),
    };
    if text("/backup_type") != Some("full") || whose.kin(of) != Kin::Ours {
        return None;
    }
    let files = metadata.get("files")?.as_array()?;
    let is_there = |file: &Value| {
        let size = file.as_str().and_then(|file| Some(fs::metadata(folder.join(file)).ok()?.len()));
        let wanted = file.as_str().and_then(|file| metadata.get("sizes")?.get(file)?.as_u64());
        size.is_some_and(|size| wanted.is_none_or(|wanted| wanted == size))
    };
    if files.is_empty() || !files.iter().all(is_there) {
        return None;
    }
    let created_at = text("/backup_info/created_at")?;
    Some(Full {
        name,
        created: clock::parse_record_time(created_at)?,
        created_at: created_at.to_owned(),
        system_identifier: text("/snapshot/system_identifier").map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Choices, Environment, Variables, load};

    #[test]
    fn whose_a_backup_is() {
        let ours = Whose { environment: "staging", database: "plant" };
        for (environment, database, kin) in [
            ("staging", "plant", Kin::Ours),
            ("production", "plant", Kin::Others),
            ("staging", "other", Kin::Others),
            ("", "plant", Kin::Unknown),
            ("staging", "", Kin::Unknown),
            ("", "other", Kin::Others),
            ("", "", Kin::Unknown),
        ] {
            assert_eq!(ours.kin(Whose { environment, database }), kin, "{environment} {database}");
        }
        assert_eq!(Whose { environment: "", database: "x" }.to_string(), "x of unknown");
    }

    #[test]
    fn only_whole_full_ones_of_this_database_count() {
        let home = std::env::temp_dir().join(format!("ms5-fulls-{}", std::process::id()));
        let text = home.display().to_string();
        let settings =
            load(Choices::default(), &Variables::of(&[("MS5_HOME", &text)]), Environment::Test).unwrap();
        let make = |name: &str, change: &dyn Fn(&mut Value)| {
            let folder = settings.backup_dir.join(name);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("x.sql"), "123").unwrap();
            let mut metadata = serde_json::json!({
                "backup_type": "full", "environment": "test", "database": {"name": "factory_telemetry_test"},
                "backup_info": {"created_at": "2024-01-15T10:30:00Z"}, "files": ["x.sql"], "sizes": {"x.sql": 3},
                "snapshot": {"system_identifier": "7"},
            });
            change(&mut metadata);
            fs::write(folder.join(METADATA), metadata.to_string()).unwrap();
        };
        make("a", &|_| ());
        make("newer", &|metadata| metadata["backup_info"]["created_at"] = "2024-01-16T10:30:00Z".into());
        make("old_script", &|metadata| {
            metadata["backup_info"]["created_at"] = "2023-01-16T10:30:00Z".into();
            for key in ["sizes", "snapshot"] {
                metadata.as_object_mut().unwrap().remove(key);
            }
        });
        make("schema", &|metadata| metadata["backup_type"] = "schema".into());
        make("others", &|metadata| metadata["environment"] = "staging".into());
        make("nobodys", &|metadata| metadata["environment"] = "".into());
        make("cut", &|metadata| metadata["sizes"]["x.sql"] = 4.into());
        make("gone", &|metadata| metadata["files"] = serde_json::json!(["y.sql"]));
        make(".half", &|_| ());
        let found = fulls(&settings);
        let names: Vec<&str> = found.iter().map(|full| full.name.as_str()).collect();
        assert_eq!(names, ["newer", "a", "old_script"]);
        assert_eq!((found[0].system_identifier.as_deref(), &found[2].system_identifier), (Some("7"), &None));
        fs::remove_dir_all(home).unwrap();
    }
}
