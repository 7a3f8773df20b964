//! Names of backups: what may be one, its stamp, and which folder a name means.

use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

const STAMP: &[BorrowedFormatItem<'_>] = format_description!("[year][month][day]_[hour][minute][second]");

/// How long a stamp is.
pub(crate) const STAMP_LENGTH: usize = 15;

/// The longest name that leaves room for its stamp and our endings in a file name.
const LONGEST: usize = 180;

/// Refuses what cannot be a folder's name everywhere, or would mean something else to a shell or a path.
///
/// # Errors
/// [`Exit::Usage`] with the rule.
pub(crate) fn check(name: &str) -> Result<()> {
    let allowed = |letter: char| letter.is_alphanumeric() || "._-+@".contains(letter);
    let wrong = if name.is_empty() {
        "it is empty".to_owned()
    } else if name.starts_with(['.', '-']) {
        format!("it begins with {:?}", &name[..1])
    } else if let Some(letter) = name.chars().find(|letter| !allowed(*letter)) {
        format!("it holds {letter:?}")
    } else if name.len() > LONGEST {
        format!("it is longer than {LONGEST} bytes")
    } else if name == ms5_common::rollback_points::FOLDER {
        "it is the folder of the rollback points".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::new(Exit::Usage, format!("{name:?} is no name for a backup"))
        .because(wrong)
        .hint("a name is made of letters, digits and . _ - + @, such as pre_migration"))
}

/// The same for a name that may have its stamp already.
///
/// # Errors
/// [`Exit::Usage`] with the rule.
pub(crate) fn check_full(name: &str) -> Result<()> {
    check(without_stamp(name).unwrap_or(name))
}

/// The stamp of a moment, in UTC: `20240115_103000`.
pub(crate) fn stamp(at: OffsetDateTime) -> String {
    at.to_offset(time::UtcOffset::UTC).format(STAMP).unwrap_or_default()
}

/// The moment of a name's stamp, in UTC; None where there is none at its end.
pub(crate) fn time(name: &str) -> Option<OffsetDateTime> {
    let at = without_stamp(name)?.len() + 1;
    time::PrimitiveDateTime::parse(name.get(at..)?, STAMP).ok().map(time::PrimitiveDateTime::assume_utc)
}

/// The name without its stamp; None where there is none at its end.
pub(crate) fn without_stamp(name: &str) -> Option<&str> {
    let at = name.len().checked_sub(STAMP_LENGTH + 1)?;
    let (rest, stamp) = (name.get(..at)?, name.get(at..)?);
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let shaped =
        stamp.starts_with('_') && stamp.as_bytes()[9] == b'_' && digits(&stamp[1..9]) && digits(&stamp[10..]);
    (shaped && !rest.is_empty()).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["pre_migration", "vor-Änderung", "a.b@c+d", "7"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "-x",
            ".x",
            "a/b",
            "..",
            "a b",
            "a'b",
            "a\"b",
            "a\nb",
            "a$b",
            "a\\b",
            "rollback_points",
            "a\0",
        ] {
            assert_eq!(check(bad).unwrap_err().exit(), Exit::Usage, "{bad:?}");
        }
        assert!(check(&"x".repeat(200)).is_err());
        let longest = format!("{}_20240115_103000", "x".repeat(LONGEST));
        assert!(check(&longest).is_err() && check_full(&longest).is_ok());
        assert!(check_full(".x_20240115_103000").is_err() && check_full("_20240115_103000").is_ok());
    }

    #[test]
    fn stamps() {
        assert_eq!(without_stamp("pre_migration_20240115_103000"), Some("pre_migration"));
        assert_eq!(without_stamp("a_b_20240115_103000_20240115_103001"), Some("a_b_20240115_103000"));
        for none in ["pre_migration", "_20240115_103000", "x_20240115-103000", "ä0240115_103000", ""] {
            assert_eq!(without_stamp(none), None, "{none}");
        }
        assert_eq!(stamp(OffsetDateTime::UNIX_EPOCH), "19700101_000000");
        assert_eq!(time("x_19700101_000000"), Some(OffsetDateTime::UNIX_EPOCH));
        assert_eq!((time("x"), time("x_19701301_000000")), (None, None));
        assert_eq!(stamp(OffsetDateTime::now_utc()).len(), STAMP_LENGTH);
    }
}
