//! The paths of `\i` and `\ir`, as psql makes them: on their text alone.
//!
//! Sources: `process_file` in `src/bin/psql/command.c`, `canonicalize_path` and others in `src/port/path.c`.

/// `canonicalize_path`: no empty parts, no `.`, and `..` taken together with the part before it.
pub(super) fn canonical(path: &str) -> String {
    if path.is_empty() {
        return String::new();
    }
    let absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if absolute => {}
            part => parts.push(part),
        }
    }
    match (absolute, parts.join("/")) {
        (true, rest) => format!("/{rest}"),
        (false, rest) if rest.is_empty() => ".".to_owned(),
        (false, rest) => rest,
    }
}

/// The path of `\ir path` in the file `including`.
pub(super) fn relative_to(including: &str, path: &str) -> String {
    if path.starts_with('/') {
        return canonical(path);
    }
    match including.rsplit_once('/') {
        Some((folder, _)) => canonical(&format!("{folder}/{path}")),
        None => canonical(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_paths() {
        for (path, expected) in [
            ("a.sql", "a.sql"),
            ("./a//b/../c.sql", "a/c.sql"),
            ("../../a", "../../a"),
            ("a/../..", ".."),
            ("../a/..", ".."),
            ("/../a/./", "/a"),
            ("/..", "/"),
            ("a/..", "."),
            ("", ""),
        ] {
            assert_eq!(canonical(path), expected, "{path}");
        }
    }

    #[test]
    fn relative_paths() {
        for (including, path, expected) in [
            ("migrations/001.sql", "data.sql", "migrations/data.sql"),
            ("001.sql", "data.sql", "data.sql"),
            ("/001.sql", "../data.sql", "/data.sql"),
            ("a/b/c.sql", "../d.sql", "a/d.sql"),
            ("a/b.sql", "/c.sql", "/c.sql"),
        ] {
            assert_eq!(relative_to(including, path), expected, "{including} {path}");
        }
    }
}
