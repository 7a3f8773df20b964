//! Reads one migration file: checksum, title, directives, statements.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::effects::Procedures;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::migrations::folder::FileName;
use crate::migrations::rules::Refusal;
use crate::migrations::{Action, Migration, hex, mode, rules};
use crate::sql::{Head, Item, Options, Script, SqlError};

/// Reads a migration whole, with psql variables that are set beforehand and the committing procedures of the files before it, but for the rows behind COPY ... FROM STDIN, of which only the place is kept.
///
/// # Errors
/// [`Exit::Config`] with file, line and column: a file that is missing, unreadable, empty, not UTF-8 or not SQL;
/// a quote, comment or parenthesis without an end; a psql command that is unknown or not supported; what a
/// migration must not contain.
pub fn read_file(
    path: &Path,
    name: &FileName,
    variables: &[(String, String)],
    procedures: &mut Procedures,
) -> Result<Migration> {
    let file = format!("{}_{}.sql", name.digits, name.name);
    let unreadable = |error: io::Error| {
        Error::new(Exit::Config, format!("cannot read {}", path.display()))
            .because(error)
            .hint("check that the file is there and that this user may read it")
    };
    if path.metadata().map_err(unreadable)?.len() == 0 {
        return Err(empty(path));
    }
    let content = content(path, variables).map_err(|error| of_sql(&error))?;
    let checksum = checksum_of_all(&content.paths).map_err(unreadable)?;
    let head = head(path).map_err(|error| match error {
        HeadError::Io(error) => unreadable(error),
        HeadError::Directive(why) => Error::new(Exit::Config, format!("{}: {why}", path.display()))
            .hint("mend the line that begins with -- ms5:"),
    })?;
    let mut migration = Migration {
        title: head.title.unwrap_or_else(|| name.title()),
        file,
        number: name.number,
        checksum,
        idempotent: head.idempotent,
        independent_of: head.independent_of.iter().map(|number| u64::from(*number)).collect(),
        stepwise: false,
        actions: Vec::new(),
        warnings: content.warnings,
        paths: content.paths,
        outside: Vec::new(),
    };
    let refused = |migration: &Migration, refusal: Box<Refusal>| {
        let path = migration.path_of(refusal.statement.file).display();
        Error::new(Exit::Config, format!("{path}:{}: {}", refusal.at, refusal.what)).hint(refusal.hint)
    };
    let (actions, absorbed) =
        rules::check(content.actions).map_err(|refusal| refused(&migration, refusal))?;
    migration.actions = actions;
    if migration.statement_count() == 0 {
        return Err(empty(path));
    }
    let asked = if absorbed { Some(true) } else { head.transaction };
    (migration.stepwise, migration.outside) =
        mode::decide(&migration, asked, procedures).map_err(|refusal| refused(&migration, refusal))?;
    Ok(migration)
}

fn empty(path: &Path) -> Error {
    Error::new(Exit::Config, format!("{} is empty: it holds no SQL statement", path.display()))
        .hint("restore the file, or remove it if it was never meant to do anything")
}

fn of_sql(error: &SqlError) -> Error {
    let failure = Error::new(Exit::Config, error.to_string());
    match error.hint {
        Some(hint) => failure.hint(hint),
        None => failure.hint("mend the file; nothing was touched"),
    }
}

struct Content {
    actions: Vec<Action>,
    warnings: Vec<String>,
    paths: Vec<PathBuf>,
}

fn content(path: &Path, variables: &[(String, String)]) -> std::result::Result<Content, SqlError> {
    // The files in the order in which they were opened, which is the order of their ids.
    let opened = RefCell::new(Vec::new());
    let open = |path: &str| {
        let file = File::open(path)?;
        opened.borrow_mut().push(PathBuf::from(path));
        Ok(BufReader::with_capacity(256 * 1024, file))
    };
    let options = Options {
        path: path.display().to_string(),
        in_transaction: true,
        variables: variables.to_vec(),
        ..Options::default()
    };
    let mut actions = Vec::new();
    let mut warnings = Vec::new();
    for item in Script::open(open, options)? {
        match item? {
            Item::Statement(statement) => actions.push(Action::Run(statement)),
            Item::Echo { text, .. } => actions.push(Action::Say(text.trim_end_matches('\n').to_owned())),
            Item::ByteOrderMark { .. } => {
                warnings
                    .push("begins with a byte-order mark, which is left out; save it without one".to_owned());
            }
            Item::Ignored { .. } | Item::IncludeStart { .. } | Item::IncludeEnd { .. } => {}
        }
    }
    Ok(Content { actions, warnings, paths: opened.into_inner() })
}

enum HeadError {
    Io(io::Error),
    Directive(String),
}

/// The comments that the file begins with. The file is known to be UTF-8 by now.
fn head(path: &Path) -> std::result::Result<Head, HeadError> {
    let reader = BufReader::new(File::open(path).map_err(HeadError::Io)?);
    let mut lines = Vec::new();
    for line in reader.lines() {
        let line = line.map_err(HeadError::Io)?;
        let trimmed = line.trim_start_matches('\u{feff}').trim_start();
        let leading = trimmed.is_empty() || trimmed.starts_with("--") || trimmed.starts_with('\\');
        // Block comments may hold anything; a generous number of lines covers every licence header.
        let beyond = !leading && lines.len() > 200;
        lines.push(line);
        if beyond {
            break;
        }
    }
    Head::read(lines.iter().map(String::as_str)).map_err(|error| HeadError::Directive(error.to_string()))
}

/// The checksum of a file, and where it includes others of it with them: of their checksums in the order in which they are read.
fn checksum_of_all(paths: &[PathBuf]) -> io::Result<String> {
    let sums = paths.iter().map(|path| checksum(path)).collect::<io::Result<Vec<_>>>()?;
    Ok(match sums.as_slice() {
        [alone] => alone.clone(),
        _ => hex(&Sha256::digest(sums.join("\n").as_bytes())),
    })
}

/// sha256 of a file with line ends normalised to LF, so that a checkout on another system is the same file.
///
/// # Errors
/// The operating system's.
pub fn checksum(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    // A CR at the end of a piece waits: it goes only if the next piece begins with LF.
    let mut held = false;
    loop {
        let length = file.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        let mut rest = &buffer[..length];
        if held && rest[0] != b'\n' {
            hash.update(b"\r");
        }
        held = rest.last() == Some(&b'\r');
        if held {
            rest = &rest[..rest.len() - 1];
        }
        while let Some(at) = rest.windows(2).position(|pair| pair == b"\r\n") {
            hash.update(&rest[..at]);
            rest = &rest[at + 1..];
        }
        hash.update(rest);
    }
    if held {
        hash.update(b"\r");
    }
    Ok(hex(&hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrations::parse_file_name;

    fn with_file<T>(bytes: &[u8], use_it: impl FnOnce(&Path) -> T) -> T {
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ms5-read-{}-{number}.sql", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        let result = use_it(&path);
        std::fs::remove_file(path).unwrap();
        result
    }

    fn read(text: &[u8]) -> Result<Migration> {
        with_file(text, |path| {
            read_file(path, &parse_file_name("007_some_name.sql").unwrap(), &[], &mut Procedures::default())
        })
    }

    #[test]
    fn the_checksum_is_blind_to_line_ends_and_to_nothing_else() {
        let sum = |bytes: &[u8]| with_file(bytes, |path| checksum(path).unwrap());
        assert_eq!(sum(b"a\r\nb\r\n"), sum(b"a\nb\n"));
        assert_ne!(sum(b"a\rb\n"), sum(b"a\nb\n"));
        assert_ne!(sum(b"a\nb"), sum(b"a\nb\n"));
        assert_ne!(sum(b"a\r"), sum(b"a"));
        assert_eq!(sum(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        // A pair of CR and LF on the border of two pieces.
        let long = |end: &str| format!("{}{end}x", "y".repeat(256 * 1024 - 1));
        assert_eq!(sum(long("\r\n").as_bytes()), sum(long("\n").as_bytes()));
    }

    #[test]
    fn title_and_directives_come_from_the_first_comments() {
        let migration = read(b"-- 007 - PLC Things\n-- ms5: idempotent\nSELECT 1;").unwrap();
        assert_eq!((migration.title.as_str(), migration.idempotent), ("007 - PLC Things", true));
        let plain = read(b"SELECT 1; -- ms5: idempotent\n").unwrap();
        assert_eq!((plain.title.as_str(), plain.idempotent), ("007 - Some Name", false));
        assert!(read(b"-- ms5: idempotend\nSELECT 1;").unwrap_err().message().contains("line 1"));
    }

    #[test]
    fn one_transaction_around_the_whole_file_is_absorbed() {
        for text in ["BEGIN; SELECT 1; COMMIT;", "\\echo hi\nSTART TRANSACTION; SELECT 1; END;", "SELECT 1;"]
        {
            assert_eq!(read(text.as_bytes()).unwrap().statement_count(), 1, "{text}");
        }
    }

    #[test]
    fn what_a_migration_must_not_contain_is_named_with_its_place() {
        for (text, message) in [
            ("SELECT 1;\nCOMMIT;", ":2:1: COMMIT in a migration"),
            ("BEGIN; SELECT 1; COMMIT; SELECT 2;", ":1:1: BEGIN in a migration"),
            ("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT 1; COMMIT;", ":1:1: BEGIN in a migration"),
            ("SELECT 1; SAVEPOINT a;", ":1:11: SAVEPOINT in a migration"),
            ("ROLLBACK;", ":1:1: ROLLBACK in a migration"),
            ("SET SESSION AUTHORIZATION bob;", ":1:1: SESSION AUTHORIZATION in a migration"),
            ("SELECT pg_advisory_unlock(1);", ":1:8: an advisory unlock in a migration"),
            ("hello world;", ":1:1: \"hello\" is not the beginning of an SQL statement"),
            ("<html>", ":1:1: \"<\" is not the beginning"),
            ("SELECT 'abc;\nSELECT 1;", ":1:8"),
            ("SELECT 1 \\gexec\n", ":1:10"),
            ("\\copy t from x\n", ":1:1"),
            ("COPY t FROM stdin;\n1\n", ":1:1"),
        ] {
            let error = read(text.as_bytes()).unwrap_err();
            assert_eq!(error.exit(), Exit::Config);
            assert!(error.message().contains(message), "{text}: {error}");
            assert!(!error.hints().is_empty(), "{text}");
        }
        for text in ["", "-- nothing\n", ";;;", "\u{feff}"] {
            assert!(read(text.as_bytes()).unwrap_err().message().contains("is empty"), "{text:?}");
        }
        assert!(read(b"SELECT '\xff';").unwrap_err().message().contains("UTF-8"));
        assert!(read(b"\xff\xfeS\0E\0").is_err());
    }

    #[test]
    fn copy_data_is_a_place_in_the_file() {
        let text = b"COPY t FROM stdin;\n1\ta\n2\tb\n\\.\nSELECT 1;\n";
        let migration = read(text).unwrap();
        let copy = migration.statements().next().unwrap().copy_data[0];
        assert_eq!((copy.offset, copy.length, copy.lines), (19, 8, 2));
        assert_eq!(migration.statement_count(), 2);
    }
}
