//! Which files of a folder are migrations, and in which order.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::effects::Procedures;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::migrations::{Migration, read_file};

/// A file name of the form `NNN_name.sql`, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileName {
    /// The number as it is written: `007`.
    pub digits: String,
    /// The number.
    pub number: u64,
    /// What stands between the number and `.sql`.
    pub name: String,
}

impl FileName {
    /// A title for a file whose comments give none: `007_plc_phase1.sql` is `007 - Plc Phase1`.
    #[must_use]
    pub fn title(&self) -> String {
        let words: Vec<String> = self
            .name
            .split('_')
            .filter(|word| !word.is_empty())
            .map(|word| {
                let mut letters = word.chars();
                letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
            })
            .collect();
        format!("{} - {}", self.digits, words.join(" "))
    }
}

/// Takes a file name apart; None where it is not of the form `NNN_name.sql` (three digits or more).
#[must_use]
pub fn parse_file_name(file: &str) -> Option<FileName> {
    let (digits, name) = file.strip_suffix(".sql")?.split_once('_')?;
    let numeric = digits.len() >= 3 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !numeric || name.is_empty() {
        return None;
    }
    Some(FileName { digits: digits.to_owned(), number: digits.parse().ok()?, name: name.to_owned() })
}

/// Reads every migration of a folder, ordered by number. Nothing is read lazily: what is wrong with the last
/// file is known before the first one runs.
///
/// `gaps` accepts missing numbers; `variables` are psql's, as with `psql -v`.
///
/// # Errors
/// [`Exit::Config`], naming every file that is wrong, not only the first: a folder that cannot be read or holds
/// no migration, a `.sql` file of another form, a duplicate or missing number, and all of [`read_file`].
pub fn read_folder(folder: &Path, gaps: bool, variables: &[(String, String)]) -> Result<Vec<Migration>> {
    let files = list(folder)?;
    let mut problems = numbering(&files, gaps);
    let mut migrations = Vec::new();
    let mut procedures = Procedures::default();
    for (name, path) in files {
        match read_file(&path, &name, variables, &mut procedures) {
            Ok(migration) => migrations.push(migration),
            Err(error) => problems.push(error),
        }
    }
    let titles =
        migrations.iter().map(|migration| (migration.title.clone(), migration.file.clone())).collect();
    problems.extend(twins(titles));
    match problems.len() {
        0 => Ok(migrations),
        1 => Err(problems.remove(0)),
        number => {
            let mut all =
                Error::new(Exit::Config, format!("{number} things are wrong with the migration files"));
            for problem in problems {
                all = all.because(problem.message()).because_all(problem.reasons().iter().cloned());
                for hint in problem.hints() {
                    all = all.hint(hint);
                }
            }
            Err(all)
        }
    }
}

/// The migrations of a folder, by number.
fn list(folder: &Path) -> Result<Vec<(FileName, PathBuf)>> {
    let unreadable = |error: std::io::Error| {
        Error::new(Exit::Config, format!("cannot read the migrations folder {}", folder.display()))
            .because(error)
            .hint("name another one with --migrations-dir=DIR or MS5_HOME")
    };
    let mut files = Vec::new();
    let mut strangers = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Editors' and hidden files are nobody's migrations.
        if !name.ends_with(".sql") || name.starts_with('.') {
            continue;
        }
        match parse_file_name(&name) {
            Some(parsed) => files.push((parsed, path)),
            None => strangers.push(name),
        }
    }
    if !strangers.is_empty() {
        strangers.sort();
        return Err(Error::new(Exit::Config, format!("{} is not a migration's name", strangers.join(", ")))
            .because(format!("in {}", folder.display()))
            .hint("name it NNN_name.sql (three digits or more), or move it out of the folder"));
    }
    if files.is_empty() {
        return Err(Error::new(Exit::Config, format!("there is no migration in {}", folder.display()))
            .because("no file there has a name of the form NNN_name.sql")
            .hint("name another folder with --migrations-dir=DIR or MS5_HOME"));
    }
    files.sort_by(|(a, _), (b, _)| (a.number, &a.name).cmp(&(b.number, &b.name)));
    Ok(files)
}

/// Duplicate and missing numbers. The numbers begin at 1 (or at 0, as some folders have it).
fn numbering(files: &[(FileName, PathBuf)], gaps: bool) -> Vec<Error> {
    let mut problems = Vec::new();
    let mut expected = 1;
    let file = |name: &FileName| format!("{}_{}.sql", name.digits, name.name);
    for (index, (name, _)) in files.iter().enumerate() {
        let before = index.checked_sub(1).map(|before| &files[before].0);
        if let Some(before) = before.filter(|before| before.number == name.number) {
            problems.push(
                Error::new(Exit::Config, format!("the number {} is there twice", name.digits))
                    .because(format!("{} and {}", file(before), file(name)))
                    .hint("give one of them the next free number"),
            );
        } else if name.number > expected && !gaps {
            problems.push(
                Error::new(
                    Exit::Config,
                    format!("the number {expected:03} is missing before {}", file(name)),
                )
                .hint("bring the file back, or accept the gap with --allow-out-of-order"),
            );
        }
        expected = name.number + 1;
    }
    problems
}

/// Titles that two files share: the ledger tells migrations apart by them.
fn twins(titles: Vec<(String, String)>) -> Vec<Error> {
    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (title, file) in titles {
        files.entry(title).or_default().push(file);
    }
    files
        .into_iter()
        .filter(|(_, files)| files.len() > 1)
        .map(|(title, files)| {
            Error::new(Exit::Config, format!("{} carry the same title {title:?}", files.join(" and ")))
                .hint("the first comment line of a file is its title and must be its own")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_taken_apart() {
        let name = parse_file_name("007_plc_integration_phase1.sql").unwrap();
        assert_eq!((name.number, name.digits.as_str()), (7, "007"));
        assert_eq!(name.title(), "007 - Plc Integration Phase1");
        assert_eq!(parse_file_name("20240115103000_add.sql").unwrap().number, 20_240_115_103_000);
        for wrong in ["7_x.sql", "007-x.sql", "007_.sql", "007_x.SQL", "x.sql", "007.sql", "00a_x.sql"] {
            assert_eq!(parse_file_name(wrong), None, "{wrong}");
        }
    }

    fn names(files: &[&str]) -> Vec<(FileName, PathBuf)> {
        files.iter().map(|file| (parse_file_name(file).unwrap(), PathBuf::new())).collect()
    }

    #[test]
    fn duplicates_and_gaps_are_named() {
        let messages = |files: &[&str], gaps| -> Vec<String> {
            numbering(&names(files), gaps).iter().map(|error| error.message().to_owned()).collect()
        };
        assert!(messages(&["001_a.sql", "002_b.sql"], false).is_empty());
        assert!(messages(&["000_a.sql", "001_b.sql"], false).is_empty());
        assert_eq!(messages(&["001_a.sql", "001_b.sql"], true), ["the number 001 is there twice"]);
        assert_eq!(
            messages(&["001_a.sql", "003_b.sql"], false),
            ["the number 002 is missing before 003_b.sql"]
        );
        assert_eq!(messages(&["002_a.sql"], false), ["the number 001 is missing before 002_a.sql"]);
        assert!(messages(&["002_a.sql", "007_b.sql"], true).is_empty());
    }
}
