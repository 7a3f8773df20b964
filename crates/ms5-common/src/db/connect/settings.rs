//! What a connection needs to know, as a plain struct: nothing here reads the environment.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// A password.
///
/// Debug and Display print `***`, so that a secret cannot reach a log by way of a struct that holds one.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Takes a password, as text or as the bytes a file held.
    pub fn new(secret: impl Into<Vec<u8>>) -> Self {
        Self(secret.into())
    }

    /// The password itself, for the protocol or for a child's environment, and for nothing else.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Whether the password is empty; libpq takes an empty one for none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// libpq's `sslmode`: whether to encrypt, and what the server has to prove.
///
/// Source: libpq's documentation, "SSL Support", table "SSL Mode Descriptions".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslMode {
    /// Never encrypt.
    Disable,
    /// Without encryption first; with it if the server turns that down.
    Allow,
    /// With encryption first; without it if the server has none or turns it down. libpq's default.
    Prefer,
    /// Encrypt or fail. With a root certificate file present this checks the issuer like `verify-ca`.
    Require,
    /// Encrypt, and check that the server's certificate was issued by an authority in the root file.
    VerifyCa,
    /// Like `verify-ca`, and the certificate must carry the name that was connected to.
    VerifyFull,
}

impl SslMode {
    /// Every mode, weakest first.
    pub const ALL: [Self; 6] =
        [Self::Disable, Self::Allow, Self::Prefer, Self::Require, Self::VerifyCa, Self::VerifyFull];

    /// The name libpq gives it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    /// Whether a connection without encryption is never good enough.
    #[must_use]
    pub const fn demands_tls(self) -> bool {
        matches!(self, Self::Require | Self::VerifyCa | Self::VerifyFull)
    }

    /// Whether a missing root certificate is an error.
    pub(super) const fn demands_root(self) -> bool {
        matches!(self, Self::VerifyCa | Self::VerifyFull)
    }
}

impl fmt::Display for SslMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that is not what libpq accepts for the setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadSetting {
    message: String,
}

impl fmt::Display for BadSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for BadSetting {}

impl FromStr for SslMode {
    type Err = BadSetting;

    /// Reads libpq's spelling, which knows neither capitals nor surrounding blanks.
    fn from_str(text: &str) -> Result<Self, BadSetting> {
        Self::ALL.into_iter().find(|mode| mode.name() == text).ok_or_else(|| BadSetting {
            message: format!(
                "sslmode {text:?} does not exist; it is one of disable, allow, prefer, require, verify-ca, verify-full"
            ),
        })
    }
}

/// Reads PGCONNECT_TIMEOUT as libpq does: whole seconds, 0 or less for no limit, 1 raised to 2.
///
/// # Errors
/// Text that is no whole number of 32 bits.
pub fn parse_connect_timeout(text: &str) -> Result<Option<Duration>, BadSetting> {
    // strtol, after which libpq allows only white space: " +10 " is a number, "10s" and "" are not.
    let trimmed = text.trim_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
    let seconds: i32 = trimmed.parse().map_err(|_| BadSetting {
        message: format!("connect timeout {text:?} is not a whole number of seconds"),
    })?;
    Ok(match u64::try_from(seconds) {
        Ok(0) | Err(_) => None,
        Ok(1) => Some(Duration::from_secs(2)),
        Ok(more) => Some(Duration::from_secs(more)),
    })
}

/// Where to connect, as whom, and how.
///
/// As in libpq, an empty password or file name counts as none.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A host name, an address, a folder that holds the server's socket (begins with `/`), or the
    /// name of an abstract socket (begins with `@`). One host, not a list.
    pub host: String,
    /// The TCP port, or the number in the socket's name.
    pub port: u16,
    /// The database.
    pub dbname: String,
    /// The role.
    pub user: String,
    /// The password, if a variable held one. It goes before the password file; an empty one counts as none.
    pub password: Option<Secret>,
    /// The variables a password may come from, the best first: errors name them as the cure.
    pub password_variables: Vec<String>,
    /// PGSSLMODE; unset means `prefer`, or `verify-full` where `sslrootcert` is `system`.
    pub sslmode: Option<SslMode>,
    /// PGSSLROOTCERT: a file of trusted issuers, or `system` for the system's own; unset means
    /// `.postgresql/root.crt` in `home`.
    pub sslrootcert: Option<PathBuf>,
    /// PGSSLCRL: a file of revoked certificates; unset means `.postgresql/root.crl` in `home`.
    pub sslcrl: Option<PathBuf>,
    /// PGSSLCERT: the client's certificate; unset means `.postgresql/postgresql.crt` in `home`.
    pub sslcert: Option<PathBuf>,
    /// PGSSLKEY: the certificate's key; unset means `.postgresql/postgresql.key` in `home`.
    pub sslkey: Option<PathBuf>,
    /// How long each address may take until the session stands, log-in included; `None` is no limit.
    /// `parse_connect_timeout` reads libpq's notation.
    pub connect_timeout: Option<Duration>,
    /// PGOPTIONS: options for the server's session, as `-c name=value`.
    pub options: Option<String>,
    /// PGAPPNAME or the tool's name.
    pub application_name: Option<String>,
    /// PGPASSFILE; unset means `.pgpass` in `home`.
    pub passfile: Option<PathBuf>,
    /// The user's home folder, for the defaults above.
    pub home: Option<PathBuf>,
}

impl Settings {
    /// Settings with every choice left at libpq's default and no home folder.
    pub fn new(
        host: impl Into<String>,
        port: u16,
        dbname: impl Into<String>,
        user: impl Into<String>,
    ) -> Self {
        Self {
            host: host.into(),
            port,
            dbname: dbname.into(),
            user: user.into(),
            password: None,
            password_variables: Vec::new(),
            sslmode: None,
            sslrootcert: None,
            sslcrl: None,
            sslcert: None,
            sslkey: None,
            connect_timeout: None,
            options: None,
            application_name: None,
            passfile: None,
            home: None,
        }
    }

    /// Whether the host is a socket on this machine, where TLS is never used.
    #[must_use]
    pub fn is_socket(&self) -> bool {
        self.host.starts_with('/') || self.host.starts_with('@')
    }

    /// Whether the trusted issuers are the system's own (libpq 16's `sslrootcert=system`).
    #[must_use]
    pub fn roots_are_system(&self) -> bool {
        self.sslrootcert.as_deref() == Some(Path::new("system"))
    }

    /// The mode in force.
    #[must_use]
    pub fn effective_sslmode(&self) -> SslMode {
        match self.sslmode {
            Some(mode) => mode,
            None if self.roots_are_system() => SslMode::VerifyFull,
            None => SslMode::Prefer,
        }
    }

    /// The file that a setting names, or libpq's default in the home folder. An empty name names none.
    pub(super) fn file(&self, given: Option<&PathBuf>, default: &str) -> Option<PathBuf> {
        match given.filter(|path| !path.as_os_str().is_empty()) {
            Some(path) => Some(path.clone()),
            None => self.home.as_ref().map(|home| home.join(default)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_prints_as_stars() {
        let mut settings = Settings::new("localhost", 5432, "db", "me");
        settings.password = Some(Secret::new("hunter2"));
        assert!(!format!("{settings:?} {settings:#?}").contains("hunter2"));
        assert_eq!(format!("{:?} {}", Secret::new("x"), Secret::new("y")), "*** ***");
    }

    #[test]
    fn connect_timeout_reads_as_libpq_does() {
        let seconds = |text| parse_connect_timeout(text).map(|t| t.map(|t| t.as_secs()));
        for (text, expect) in [
            ("0", None),
            ("-1", None),
            ("1", Some(2)),
            ("2", Some(2)),
            (" +10\n", Some(10)),
            ("007", Some(7)),
        ] {
            assert_eq!(seconds(text), Ok(expect), "{text:?}");
        }
        for text in ["", " ", "10s", "1.5", "99999999999", "0x10", "１"] {
            assert!(seconds(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn sslmode_reads_libpqs_spelling_only() {
        for mode in SslMode::ALL {
            assert_eq!(mode.name().parse(), Ok(mode));
        }
        for text in ["", "Prefer", " require", "verify_full", "on"] {
            let error = text.parse::<SslMode>().err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains("verify-full"), "{text:?}: {error}");
        }
    }

    #[test]
    fn system_roots_raise_the_default_mode() {
        let mut settings = Settings::new("h", 1, "d", "u");
        assert_eq!(settings.effective_sslmode(), SslMode::Prefer);
        settings.sslrootcert = Some("system".into());
        assert_eq!(settings.effective_sslmode(), SslMode::VerifyFull);
    }
}
