//! Which TimescaleDB is made for which PostgreSQL.

use super::Version;

/// What is known of a pair of versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Support {
    /// Made for each other.
    Yes,
    /// Older than the tools know.
    TooOld,
    /// Not made for each other; with the versions that are.
    NotThisPair(String),
    /// No version number.
    Unknown,
}

/// Per major version of PostgreSQL, the first and the last minor version of TimescaleDB 2 that runs on it (None: the last is
/// not out yet). Source: the release notes in its CHANGELOG.
const MATRIX: &[(i32, u32, Option<u32>)] = &[
    (13, 0, Some(15)),
    (14, 5, Some(19)),
    (15, 9, Some(28)),
    (16, 13, None),
    (17, 17, None),
    (18, 23, None),
];

/// Looks a pair up.
#[must_use]
pub fn judge(timescale: &str, postgres: i32) -> Support {
    let minor = match Version::parse(timescale) {
        Some(version) if version < Version::OLDEST => return Support::TooOld,
        Some(Version { major: 2, minor }) => minor,
        _ => return Support::Unknown,
    };
    match MATRIX.iter().find(|(version, ..)| *version == postgres) {
        Some((_, first, last)) if minor >= *first && last.is_none_or(|last| minor <= last) => Support::Yes,
        Some((_, first, None)) => {
            Support::NotThisPair(format!("PostgreSQL {postgres} wants TimescaleDB 2.{first} or newer"))
        }
        Some((_, first, Some(last))) => {
            Support::NotThisPair(format!("PostgreSQL {postgres} is for TimescaleDB 2.{first} to 2.{last}"))
        }
        None => Support::NotThisPair(format!("no TimescaleDB known here runs on PostgreSQL {postgres}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs() {
        for (timescale, postgres) in [
            ("2.19.3", 17),
            ("2.31.0", 18),
            ("2.27.2", 15),
            ("2.19.0", 14),
            ("2.11.0", 15),
            ("2.20.0-dev", 16),
        ] {
            assert_eq!(judge(timescale, postgres), Support::Yes, "{timescale} {postgres}");
        }
        for (timescale, postgres) in
            [("2.20.0", 14), ("2.16.1", 17), ("2.29.0", 15), ("2.19.3", 18), ("2.19.3", 12)]
        {
            assert!(matches!(judge(timescale, postgres), Support::NotThisPair(_)), "{timescale} {postgres}");
        }
        assert_eq!(judge("2.10.3", 15), Support::TooOld);
        assert_eq!(judge("1.7.5", 12), Support::TooOld);
        assert_eq!(judge("devel", 17), Support::Unknown);
    }
}
