//! psql variables for the files: `--vars` and `--vars-file`.

use std::fs;

use crate::cli::{Parsed, VARS, VARS_FILE};
use crate::error::{Error, Result};
use crate::exit::Exit;

/// The variables of a command line, those of `--vars` last, so that they win.
///
/// # Errors
/// [`Exit::Usage`] for a `--vars` that is no NAME=VALUE; [`Exit::Config`] for a file that cannot be read or has a line
/// that is none. No message shows a value.
pub fn variables(arguments: &Parsed) -> Result<Vec<(String, String)>> {
    let mut variables = match arguments.value(VARS_FILE.name) {
        Some(path) => file(path)?,
        None => Vec::new(),
    };
    for text in arguments.values(VARS.name) {
        variables.push(pair(text).ok_or_else(|| {
            Error::new(Exit::Usage, "--vars takes NAME=VALUE, a name of letters, digits and underscores")
                .hint("give it as --vars interval='7 days'; it stands in the files as :'interval'")
        })?);
    }
    Ok(variables)
}

fn file(path: &str) -> Result<Vec<(String, String)>> {
    let text = fs::read_to_string(path).map_err(|error| {
        Error::new(Exit::Config, format!("cannot read the variables of {path}"))
            .because(error)
            .hint("--vars-file=FILE wants a text file with NAME=VALUE on each line")
    })?;
    let mut variables = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        variables.push(pair(line).ok_or_else(|| {
            Error::new(Exit::Config, format!("{path}:{number}: not NAME=VALUE"))
                .hint("a name has letters, digits and underscores; lines that begin with # are comments")
        })?);
    }
    Ok(variables)
}

fn pair(text: &str) -> Option<(String, String)> {
    let (name, value) = text.split_once('=')?;
    let named = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_');
    named.then(|| (name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::pair;

    #[test]
    fn a_pair_is_a_name_and_whatever_follows() {
        assert_eq!(pair("a=b=c"), Some(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(pair("a="), Some(("a".to_owned(), String::new())));
        for wrong in ["a", "=b", "a b=c", "a-b=c"] {
            assert_eq!(pair(wrong), None, "{wrong}");
        }
    }
}
