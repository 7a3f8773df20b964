//! Lines as the page shows them: plain text, with a few names in angle brackets for what differs from run to run.

/// Whether a line is what the page says, from its first letter to its last. A name that is not known stands for itself.
pub(crate) fn fits(pattern: &str, line: &str) -> bool {
    let Some((before, kind, after)) = next(pattern) else {
        return pattern == line;
    };
    let Some(rest) = line.strip_prefix(before) else {
        return false;
    };
    // From the longest: what stands behind has to find its place too.
    let ends = rest.char_indices().map(|(at, _)| at).chain([rest.len()]).rev();
    ends.into_iter().any(|end| kind(&rest[..end]) && fits(after, &rest[end..]))
}

type Kind = fn(&str) -> bool;

const KINDS: [(&str, Kind); 7] = [
    ("<time>", |text| shaped(text, "0000-00-00 00:00:00")),
    ("<utc>", |text| shaped(text, "0000-00-00T00:00:00Z")),
    ("<stamp>", |text| shaped(text, "00000000_000000")),
    ("<n>", |text| made_of(text, |letter| letter.is_ascii_digit() || ".,".contains(letter))),
    ("<size>", |text| made_of(text, |letter| letter.is_ascii_alphanumeric() || letter == '.')),
    ("<sha256>", |text| text.len() == 64 && made_of(text, |letter| letter.is_ascii_hexdigit())),
    ("<text>", |_| true),
];

fn next(pattern: &str) -> Option<(&str, Kind, &str)> {
    let found = |(name, kind): (&'static str, Kind)| Some((pattern.find(name)?, name, kind));
    let (at, name, kind) = KINDS.into_iter().filter_map(found).min_by_key(|(at, _, _)| *at)?;
    Some((&pattern[..at], kind, &pattern[at + name.len()..]))
}

fn made_of(text: &str, letter: fn(char) -> bool) -> bool {
    !text.is_empty() && text.chars().all(letter)
}

fn shaped(text: &str, shape: &str) -> bool {
    let same = |(letter, wanted): (char, char)| {
        if wanted == '0' { letter.is_ascii_digit() } else { letter == wanted }
    };
    text.len() == shape.len() && text.chars().zip(shape.chars()).all(same)
}

#[test]
fn a_pattern_is_the_whole_line() {
    let pattern = "[<time>] [INFO] done (<n>ms): <text>.sql";
    assert!(fits(pattern, "[2024-01-15 10:30:00] [INFO] done (1250ms): a.sql.sql"));
    for other in [
        "[2024-01-15 10:30:00] [INFO] done (1250ms): a.sql ",
        " [2024-01-15 10:30:00] [INFO] done (1250ms): a.sql",
        "[2024-01-15T10:30:00] [INFO] done (1250ms): a.sql",
        "[2024-01-15 10:30:00] [INFO] done (ms): a.sql",
        "[2024-01-15 10:30:00] [INFO] done (1250ms): ",
    ] {
        assert!(!fits(pattern, other), "{other}");
    }
    assert!(fits("<unknown> <stamp><text>", "<unknown> 20240115_103000"));
}
