//! Looks a password up in the password file, by libpq's rules.
//!
//! Source: libpq's documentation, "The Password File", and `passwordFromFile` in fe-connect.c.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::settings::{Secret, Settings};

/// Folders that PostgreSQL's builds have as their own default: upstream's and the distributions'.
const DEFAULT_SOCKET_FOLDERS: [&str; 2] = ["/tmp", "/var/run/postgresql"];

/// Where a password came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PasswordSource {
    /// There is none: peer, trust and certificates need none.
    None,
    /// `Settings::password`.
    Settings,
    /// This password file.
    File(PathBuf),
}

/// A password, its source, and what the user has to hear about the password file.
#[derive(Clone, Debug)]
pub struct FoundPassword {
    /// The password; an empty one is never given.
    pub password: Option<Secret>,
    /// Where it came from.
    pub source: PasswordSource,
    /// The password file that was looked at or would have been, if there is a place for one.
    pub file: Option<PathBuf>,
    /// Why a password file was passed over.
    pub warnings: Vec<String>,
}

/// Finds the password: the given one, then the password file.
#[must_use]
pub fn find_password(settings: &Settings) -> FoundPassword {
    let file = settings.file(settings.passfile.as_ref(), ".pgpass");
    let mut found =
        FoundPassword { password: None, source: PasswordSource::None, file, warnings: Vec::new() };
    if let Some(given) = settings.password.as_ref().filter(|p| !p.is_empty()) {
        found.password = Some(given.clone());
        found.source = PasswordSource::Settings;
        return found;
    }
    let Some(path) = found.file.clone() else {
        return found;
    };
    // libpq passes over a file that it cannot look at without a word; so do we where there is none,
    // but one that is there and closed to us is worth a line.
    let Ok(meta) = fs::metadata(&path) else {
        return found;
    };
    let shown = path.display();
    if !meta.is_file() {
        found.warnings.push(format!("password file {shown} is ignored: it is not a plain file"));
        return found;
    }
    if meta.permissions().mode() & 0o077 != 0 {
        found.warnings.push(format!(
            "password file {shown} is ignored: group or others have access to it; run: chmod 0600 {shown}"
        ));
        return found;
    }
    match fs::read(&path) {
        Ok(text) => {
            if let Some(secret) = lookup(&text, settings).filter(|secret| !secret.is_empty()) {
                found.password = Some(secret);
                found.source = PasswordSource::File(path);
            }
        }
        Err(error) => found.warnings.push(format!("password file {shown} is ignored: {error}")),
    }
    found
}

/// The first line that fits decides, even one whose password is empty.
fn lookup(text: &[u8], settings: &Settings) -> Option<Secret> {
    let in_default_folder = DEFAULT_SOCKET_FOLDERS.contains(&settings.host.as_str());
    let port = settings.port.to_string();
    text.split(|&b| b == b'\n').find_map(|line| {
        let kept = line.iter().rposition(|&b| b != b'\r').map_or(0, |last| last + 1);
        let line = line.get(..kept).unwrap_or_default();
        // No field can hold a NUL, and no password either.
        if line.first() == Some(&b'#') || line.contains(&0) {
            return None;
        }
        let rest = field(line, settings.host.as_bytes())
            .or_else(|| if in_default_folder { field(line, b"localhost") } else { None })?;
        let rest = field(rest, port.as_bytes())?;
        let rest = field(rest, settings.dbname.as_bytes())?;
        let rest = field(rest, settings.user.as_bytes())?;
        Some(Secret::new(unescape(rest)))
    })
}

/// What follows the line's first field, if that field fits `token` or is `*`.
fn field<'a>(line: &'a [u8], token: &[u8]) -> Option<&'a [u8]> {
    if let Some(rest) = line.strip_prefix(b"*:") {
        return Some(rest);
    }
    let mut token = token.iter();
    let mut bytes = line.iter();
    loop {
        let mut byte = *bytes.next()?;
        if byte == b':' && token.as_slice().is_empty() {
            return Some(bytes.as_slice());
        }
        if byte == b'\\' {
            byte = *bytes.next()?;
        }
        if token.next() != Some(&byte) {
            return None;
        }
    }
}

/// The password field: ends at a bare `:`; a backslash takes what follows as it is.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b':' => break,
            b'\\' => out.push(bytes.next().unwrap_or(b'\\')),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(file: &str, host: &str, expect: Option<&str>) {
        let settings = Settings::new(host, 5432, "db", "me");
        let got =
            lookup(file.as_bytes(), &settings).map(|s| String::from_utf8_lossy(s.expose()).into_owned());
        assert_eq!(got.as_deref(), expect, "{file:?} for {host}");
    }

    #[test]
    fn lines_match_as_in_libpq() {
        check("h:5432:db:me:pw", "h", Some("pw"));
        check("h:5432:db:me:pw\r\n", "h", Some("pw"));
        check("*:*:*:*:pw\n", "h", Some("pw"));
        check("#h:5432:db:me:no\nh:5432:db:me:pw", "h", Some("pw"));
        check(" #h\n\nx\nh:5432:db:me:pw", "h", Some("pw"));
        check("h:5432:db:me:one\nh:5432:db:me:two", "h", Some("one"));
        check("h:5432:db:me:\n*:*:*:*:two", "h", Some(""));
        check("H:5432:db:me:pw", "h", None);
        check("h:5433:db:me:pw", "h", None);
        check("h:5432:db:me", "h", None);
        check("hh:5432:db:me:pw", "h", None);
        check("h:5432:d*:me:pw", "h", None);
        check("**:5432:db:me:pw", "h", None);
    }

    #[test]
    fn escapes() {
        check(r"\:\:1:5432:db:me:pw", "::1", Some("pw"));
        // libpq compares before it looks for the colon, so this fits too.
        check(r"::1:5432:db:me:pw", "::1", Some("pw"));
        check(r"h:5432:db:me:a\:b\\c:rest", "h", Some(r"a:b\c"));
        check(r"h:5432:db:me:a\", "h", Some(r"a\"));
        check(r"\h:5432:db:me:pw", "h", Some("pw"));
        check(r"h:5432:db:me:pä ß", "h", Some("pä ß"));
    }

    #[test]
    fn sockets() {
        check("localhost:5432:db:me:pw", "/var/run/postgresql", Some("pw"));
        check("localhost:5432:db:me:pw", "/tmp", Some("pw"));
        check("localhost:5432:db:me:pw", "/srv/pg", None);
        check("/srv/pg:5432:db:me:pw", "/srv/pg", Some("pw"));
    }
}
