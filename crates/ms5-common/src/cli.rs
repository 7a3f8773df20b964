//! Arguments: one table of flags a tool, from which parsing, `--help` and the hints for typos are made.
//!
//! The first of two stages: nothing here looks at the system, so wrong usage is refused before anything is
//! touched. `--key=value` and `--key value` are alike, in any order around the positionals.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use crate::called::called;
use crate::error::{Error, Result};
use crate::exit::Exit;

/// How a flag takes its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// Nothing: the flag is there or not.
    Nothing,
    /// One value, once; the name stands for it in `--help`.
    Value(&'static str),
    /// One value each time it is given.
    Values(&'static str),
    /// One value or none: `--name` or `--name=value`, never `--name value`.
    Perhaps(&'static str),
}

/// A flag as parsed and as shown by `--help`.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// With its leading dashes: `--dry-run`.
    pub name: &'static str,
    /// Whether a value follows.
    pub takes: Takes,
    /// One sentence for `--help`.
    pub help: &'static str,
    /// The default, as text for `--help`.
    pub default: Option<&'static str>,
}

impl Flag {
    /// A flag without a value.
    #[must_use]
    pub const fn switch(name: &'static str, help: &'static str) -> Self {
        Self { name, takes: Takes::Nothing, help, default: None }
    }

    /// A flag with one value.
    #[must_use]
    pub const fn value(name: &'static str, meta: &'static str, help: &'static str) -> Self {
        Self { name, takes: Takes::Value(meta), help, default: None }
    }

    /// A flag that may be given more than once, with a value each time.
    #[must_use]
    pub const fn values(name: &'static str, meta: &'static str, help: &'static str) -> Self {
        Self { name, takes: Takes::Values(meta), help, default: None }
    }

    /// A flag that may have a value: [`Parsed::has`] tells whether it was given, [`Parsed::value`] what with.
    #[must_use]
    pub const fn perhaps(name: &'static str, meta: &'static str, help: &'static str) -> Self {
        Self { name, takes: Takes::Perhaps(meta), help, default: None }
    }

    /// The same flag with its default shown.
    #[must_use]
    pub const fn default(mut self, default: &'static str) -> Self {
        self.default = Some(default);
        self
    }
}

/// `--environment=ENV`, the same in every tool.
pub const ENVIRONMENT: Flag =
    Flag::value("--environment", "ENV", "Target environment: production, staging, development or test");
/// `--verbose`, the same in every tool.
pub const VERBOSE: Flag = Flag::switch("--verbose", "Show DEBUG lines too");
/// `--json`, the same in every tool.
pub const JSON: Flag =
    Flag::switch("--json", "Write records (one JSON object a line) to stdout; human lines move to stderr");
/// `--log-dir=DIR`, the same in every tool.
pub const LOG_DIR: Flag = Flag::value("--log-dir", "DIR", "Folder of the log files").default("MS5_HOME/logs");
/// `--backup-dir=DIR`, the same in every tool that looks at backups.
pub const BACKUP_DIR: Flag =
    Flag::value("--backup-dir", "DIR", "Folder of the backups").default("MS5_HOME/backups");
/// `--restore-user=ROLE`, the same in every tool that restores or has to know who could.
pub const RESTORE_USER: Flag = Flag::value(
    "--restore-user",
    "ROLE",
    "The role to restore as, its password in MS5_RESTORE_PASSWORD (a superuser for hypertables)",
)
.default("DB_USER");
/// `--maintenance-db=NAME`, the same in every tool that makes databases.
pub const MAINTENANCE_DB: Flag =
    Flag::value("--maintenance-db", "NAME", "The database from which others are made, renamed and dropped")
        .default("postgres");
/// `--migrations-dir=DIR`, the same in every tool that reads the files.
pub const MIGRATIONS_DIR: Flag =
    Flag::value("--migrations-dir", "DIR", "Folder of the migration files").default("MS5_HOME/migrations");
/// `--vars=NAME=VALUE`, the same in every tool that reads the files; [`crate::migrations::variables`] reads both.
pub const VARS: Flag =
    Flag::values("--vars", "NAME=VALUE", "Set a psql variable for the files; may be given again");
/// `--vars-file=FILE`, beside [`VARS`].
pub const VARS_FILE: Flag =
    Flag::value("--vars-file", "FILE", "Read psql variables from a file, NAME=VALUE a line (for secrets)");
/// `--report=FILE`, the same in every tool; [`crate::tool::Context::begin`] opens it.
pub const REPORT: Flag =
    Flag::value("--report", "FILE", "Write the records to this file too, with or without --json");
/// `--html=FILE`, the same in every tool; [`crate::tool::Context::begin`] opens it.
pub const HTML: Flag = Flag::value(
    "--html",
    "FILE",
    "Write the records as one page too, for people: the whole chain's behind a gate",
);
/// `--jobs=N`, the name that every tool uses; what the sessions do is the tool's to say. See [`Parsed::jobs`].
pub const JOBS: &str = "--jobs";
/// `--help`, the same in every tool.
pub const HELP: Flag = Flag::switch("--help", "Show this help");
/// `--version`, the same in every tool.
pub const VERSION: Flag = Flag::switch("--version", "Show the version");

/// What a tool accepts on its command line.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// The binary's name.
    pub tool: &'static str,
    /// One sentence: what it is for.
    pub about: &'static str,
    /// What stands after the tool's name in the usage line.
    pub usage: &'static str,
    /// Every flag.
    pub flags: &'static [Flag],
    /// Names of the positionals, for messages; empty when none is taken.
    pub positionals: &'static [&'static str],
    /// What follows the flags in `--help`: variables, exit codes, examples.
    pub epilog: &'static str,
}

/// A command line, taken apart and found to be well formed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    switches: BTreeSet<&'static str>,
    values: BTreeMap<&'static str, Vec<String>>,
    positionals: Vec<String>,
}

impl Parsed {
    /// Whether a switch was given, or a flag that may have a value.
    #[must_use]
    pub fn has(&self, flag: &str) -> bool {
        self.switches.contains(flag)
    }

    /// The value of a flag, where it was given.
    #[must_use]
    pub fn value(&self, flag: &str) -> Option<&str> {
        self.values.get(flag).and_then(|all| all.last()).map(String::as_str)
    }

    /// Every value of a flag that may be given more than once.
    #[must_use]
    pub fn values(&self, flag: &str) -> &[String] {
        self.values.get(flag).map_or(&[], Vec::as_slice)
    }

    /// A value that must be a whole number.
    ///
    /// # Errors
    /// Wrong usage, naming the flag, when it is anything else.
    pub fn number(&self, flag: &str) -> Result<Option<u64>> {
        self.value(flag)
            .map(|text| {
                text.parse().map_err(|_| {
                    Error::new(Exit::Usage, format!("{flag} takes a whole number, not {text:?}"))
                        .hint(format!("give it as {flag}=10"))
                })
            })
            .transpose()
    }

    /// How many sessions [`JOBS`] asks for; None where it is not given.
    ///
    /// # Errors
    /// Wrong usage: no whole number, or none at all.
    pub fn jobs(&self) -> Result<Option<usize>> {
        match self.number(JOBS)? {
            Some(0) => Err(Error::new(Exit::Usage, format!("{JOBS}=0 would do nothing"))
                .hint(format!("give it as {JOBS}=2, or leave it out for one a core"))),
            number => Ok(number.map(|number| usize::try_from(number).unwrap_or(usize::MAX))),
        }
    }

    /// A value that must be a number of seconds, with a fraction if need be.
    ///
    /// # Errors
    /// Wrong usage, naming the flag, when it is anything else.
    pub fn seconds(&self, flag: &str) -> Result<Option<f64>> {
        self.value(flag)
            .map(|text| {
                let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
                text.parse().ok().filter(|_| plain).ok_or_else(|| {
                    Error::new(Exit::Usage, format!("{flag} takes a number of seconds, not {text:?}"))
                        .hint(format!("give it as {flag}=2 or {flag}=0.5"))
                })
            })
            .transpose()
    }

    /// What stood outside the flags, in order.
    #[must_use]
    pub fn positionals(&self) -> &[String] {
        &self.positionals
    }
}

/// Takes a command line apart.
///
/// # Errors
/// [`Exit::Usage`] for an unknown flag (with the nearest known one as a hint), a missing or repeated value, a
/// value given to a switch, a positional too many or one that looks like a flag, and text that is not UTF-8.
pub fn parse(spec: &Spec, arguments: Vec<OsString>) -> Result<Parsed> {
    check_shape(spec, &arguments)?;
    let mut parsed = Parsed::default();
    let mut rest = pico_args::Arguments::from_vec(take_values(spec, &arguments, &mut parsed)?);
    for flag in spec.flags.iter().filter(|flag| flag.takes == Takes::Nothing) {
        while rest.contains(flag.name) {
            parsed.switches.insert(flag.name);
        }
    }
    for word in rest.finish() {
        let word = word.to_string_lossy().into_owned();
        if word.starts_with('-') {
            return Err(unknown_flag(spec, &word));
        }
        if parsed.positionals.len() == spec.positionals.len() {
            let error = usage(spec, format!("one argument too many: {word:?}"));
            return Err(match perhaps_before(spec, &arguments, &word) {
                Some(flag) => error.hint(format!("give it as {flag}={word}")),
                None => error,
            });
        }
        parsed.positionals.push(word);
    }
    Ok(parsed)
}

/// Takes out the flags that have a value, or may have one; gives what is left for pico-args, which would strip the quotes of a value
/// behind `=`. The shape was looked at before: a word behind a flag that wants a value is that value.
fn take_values(spec: &Spec, arguments: &[OsString], parsed: &mut Parsed) -> Result<Vec<OsString>> {
    let mut rest = Vec::new();
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        let (name, attached) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text.as_ref(), None),
        };
        let known = spec.flags.iter().find(|flag| flag.name == name && flag.takes != Takes::Nothing);
        let Some(flag) = known else {
            rest.push(word.clone());
            continue;
        };
        let value = match flag.takes {
            Takes::Perhaps(_) => {
                if !parsed.switches.insert(flag.name) {
                    return Err(usage(spec, format!("{name} is given more than once")));
                }
                attached
            }
            _ => attached.or_else(|| words.next().map(|next| next.to_string_lossy().into_owned())),
        };
        if let Some(value) = value {
            parsed.values.entry(flag.name).or_default().push(value);
        }
    }
    let once = |flag: &&Flag| matches!(flag.takes, Takes::Value(_));
    for flag in spec.flags.iter().filter(once) {
        let times = parsed.values.get(flag.name).map_or(0, Vec::len);
        if times > 1 {
            return Err(usage(spec, format!("{} is given {times} times", flag.name)));
        }
    }
    Ok(rest)
}

/// The flag with a value of its own choice that stands right before this word, which was perhaps meant as its value.
fn perhaps_before(spec: &Spec, arguments: &[OsString], word: &str) -> Option<&'static str> {
    let pair = arguments.windows(2).find(|pair| pair[1] == *word)?;
    let is_it = |flag: &&Flag| matches!(flag.takes, Takes::Perhaps(_)) && pair[0] == *flag.name;
    spec.flags.iter().find(is_it).map(|flag| flag.name)
}

/// What pico-args does not tell apart: a value that is missing because a flag follows, a switch with a value.
fn check_shape(spec: &Spec, arguments: &[OsString]) -> Result<()> {
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let Some(word) = word.to_str() else {
            return Err(usage(spec, format!("the argument {word:?} is not valid UTF-8")));
        };
        let (name, attached) = match word.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, Some(value)),
            _ => (word, None),
        };
        if !name.starts_with('-') || name == "-" {
            continue;
        }
        let Some(flag) = spec.flags.iter().find(|flag| flag.name == name) else {
            return Err(unknown_flag(spec, name));
        };
        match (flag.takes, attached) {
            (Takes::Nothing, Some(_)) => return Err(usage(spec, format!("{name} takes no value"))),
            (Takes::Value(_) | Takes::Values(_) | Takes::Perhaps(_), Some("")) => {
                return Err(usage(spec, format!("{name} wants a value")));
            }
            (Takes::Value(meta) | Takes::Values(meta), None) => {
                match words.next().and_then(|next| next.to_str()) {
                    Some(next) if next == "-" || !(next.is_empty() || next.starts_with('-')) => {}
                    _ => return Err(usage(spec, format!("{name} wants a value: {name}={meta}"))),
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn usage(spec: &Spec, message: impl Into<String>) -> Error {
    Error::new(Exit::Usage, message).hint(format!("{} --help lists the flags", called(spec.tool)))
}

fn unknown_flag(spec: &Spec, given: &str) -> Error {
    let name = given.split_once('=').map_or(given, |(name, _)| name);
    let error = usage(spec, format!("unknown flag {name}"));
    match nearest(name, spec.flags.iter().map(|flag| flag.name)) {
        Some(known) => error.hint(format!("did you mean {known}?")),
        None => error,
    }
}

/// The known word at the smallest edit distance, if it is near enough to be what was meant.
pub fn nearest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|word| (distance(given, word), word))
        .min()
        .filter(|(distance, word)| *distance <= 1 + word.len() / 4)
        .map(|(_, word)| word)
}

/// Levenshtein's edit distance between two short words.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.chars().count()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.chars().enumerate() {
            let substituted = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[row.len() - 1]
}

/// What the end of every tool's `--help` says.
const OF_ALL: &str = "\
Variables of all tools (PGHOST, PGPORT, PGUSER, PGDATABASE and PGSERVICE are ignored, with a warning):
  DB_HOST, DB_PORT, DB_NAME, DB_USER   the database; defaults by environment, DB_HOST localhost (a path is a socket folder)
  POSTGRES_PASSWORD_PRODUCTION, _STAGING, _DEV, _TEST   the password; then PGPASSWORD, then the password file
  PGSSLMODE, PGSSLROOTCERT, PGSSLCERT, PGSSLKEY, PGSSLCRL, PGCONNECT_TIMEOUT, PGOPTIONS, PGAPPNAME, PGPASSFILE   as for libpq
  ENVIRONMENT, MS5_MIGRATIONS_DIR, MS5_LOG_DIR, MS5_BACKUP_DIR   as the flags, which win
  MS5_HOME               the folder of migrations/, logs/, backups/ and rollback/
  MS5_RESTORE_PASSWORD   the password of --restore-user, where a tool has that flag
  MS5_BIN_DIR            where scripts, and tools that call another one, look for the binaries first
  MS5_EXIT=classic       every failure is exit 1, as in the old scripts
  NO_COLOR, TERM=dumb    no colour on a terminal; with TERM=dumb no lines that are redrawn either

Exit codes of all tools:
  0 done, or nothing to do; 1 a check, a migration or a restore failed; 2 wrong usage; 3 wrong configuration or input;
  4 cannot connect, or another run holds the lock; 5 partly done, the output says what; 70 a bug; 129, 130, 143 stopped by a
  hang-up, an interrupt, a termination

-h is --help.
";

/// The text of `--help`.
#[must_use]
pub fn help(spec: &Spec) -> String {
    let shown: Vec<(String, &Flag)> = spec
        .flags
        .iter()
        .map(|flag| match flag.takes {
            Takes::Nothing => (flag.name.to_owned(), flag),
            Takes::Value(meta) | Takes::Values(meta) => (format!("{}={meta}", flag.name), flag),
            Takes::Perhaps(meta) => (format!("{}[={meta}]", flag.name), flag),
        })
        .collect();
    let width = shown.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = format!("{}\n\nUsage: {} {}\n\nFlags:\n", spec.about, spec.tool, spec.usage);
    for (name, flag) in shown {
        let default = flag.default.map(|value| format!(" (default: {value})")).unwrap_or_default();
        text.push_str(&format!("  {name:width$}  {}{default}\n", flag.help));
    }
    if !spec.epilog.is_empty() {
        text.push('\n');
        text.push_str(spec.epilog.trim_end());
        text.push('\n');
    }
    text.push('\n');
    text.push_str(OF_ALL);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: Spec = Spec {
        tool: "tool",
        about: "A tool.",
        usage: "[FLAGS] NAME [TYPE]",
        flags: &[
            ENVIRONMENT,
            Flag::switch("--dry-run", "Show only"),
            Flag::value("--gate", "FILE", "Read records").default("none"),
            Flag::values("--vars", "K=V", "A variable"),
            Flag::perhaps("--point", "NAME", "A point"),
        ],
        positionals: &["NAME", "TYPE"],
        epilog: "",
    };

    fn words(line: &str) -> Result<Parsed> {
        parse(&SPEC, line.split_whitespace().map(OsString::from).collect())
    }

    #[test]
    fn both_spellings_in_any_order() {
        for line in [
            "--environment=test --dry-run a b",
            "a --environment test b --dry-run",
            "a b --dry-run --environment=test",
        ] {
            let parsed = words(line).unwrap();
            assert_eq!(parsed.value("--environment"), Some("test"), "{line}");
            assert!(parsed.has("--dry-run"), "{line}");
            assert_eq!(parsed.positionals(), ["a", "b"], "{line}");
        }
        assert_eq!(words("--gate=-").unwrap().value("--gate"), Some("-"));
        assert_eq!(words("--gate -").unwrap().value("--gate"), Some("-"));
        let named = words("a --point=p=1 b").unwrap();
        assert_eq!((named.has("--point"), named.value("--point")), (true, Some("p=1")));
        let bare = words("--point a b").unwrap();
        assert_eq!((bare.has("--point"), bare.value("--point"), bare.positionals().len()), (true, None, 2));
        assert!(!words("a").unwrap().has("--point"));
        assert_eq!(words("--vars a=1 --vars=b=2").unwrap().values("--vars"), ["a=1", "b=2"]);
    }

    #[test]
    fn a_value_is_what_was_given() {
        for value in
            [r#"'"/opt/x y/put" --z'"#, r#""A b".c"#, r#""""#, "'", "a=b", "--dry-run", "--environment", " "]
        {
            for given in [vec![format!("--gate={value}")], vec!["--gate".to_owned(), value.to_owned()]] {
                // A flag in its own word is a flag.
                if given.len() == 2 && value.starts_with('-') {
                    continue;
                }
                let parsed = parse(&SPEC, given.iter().map(OsString::from).collect()).unwrap();
                assert_eq!(parsed.value("--gate"), Some(value), "{given:?}");
                assert!(!parsed.has("--dry-run") && parsed.value("--environment").is_none());
            }
        }
    }

    #[test]
    fn a_value_that_may_be_is_given_behind_its_sign() {
        let error = parse(&SPEC, ["a", "b", "--point", "mine"].map(OsString::from).to_vec()).unwrap_err();
        assert_eq!(error.message(), "one argument too many: \"mine\"");
        assert!(error.hints().contains(&"give it as --point=mine".to_owned()), "{:?}", error.hints());
        let other = parse(&SPEC, ["a", "b", "c"].map(OsString::from).to_vec()).unwrap_err();
        assert_eq!(other.hints().len(), 1);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, message) in [
            ("--dry-ran", "unknown flag --dry-ran"),
            ("--dryrun=yes", "unknown flag --dryrun"),
            ("-x", "unknown flag -x"),
            ("--", "unknown flag --"),
            ("--environment", "--environment wants a value: --environment=ENV"),
            ("--environment=", "--environment wants a value"),
            ("--environment --dry-run", "--environment wants a value: --environment=ENV"),
            ("--environment=a --environment=b", "--environment is given 2 times"),
            ("--dry-run=yes", "--dry-run takes no value"),
            ("--point=", "--point wants a value"),
            ("--point --point=a", "--point is given more than once"),
            ("--gate --point", "--gate wants a value: --gate=FILE"),
            ("a b c", "one argument too many: \"c\""),
        ] {
            let error = words(line).unwrap_err();
            assert_eq!(error.message(), message, "{line}");
            assert_eq!(error.exit(), Exit::Usage, "{line}");
        }
        assert!(words("--dry-ran").unwrap_err().hints().iter().any(|hint| hint.contains("--dry-run")));
        assert!(!words("--zebra").unwrap_err().hints().iter().any(|hint| hint.contains("did you mean")));
    }

    #[test]
    fn help_names_every_flag_and_default() {
        let text = help(&SPEC);
        for flag in SPEC.flags {
            assert!(text.contains(flag.name) && text.contains(flag.help), "{}", flag.name);
        }
        assert!(text.contains("(default: none)"));
        for word in [
            "MS5_BIN_DIR",
            "MS5_BACKUP_DIR",
            "PGSSLCRL",
            "PGPASSFILE",
            "NO_COLOR",
            "TERM",
            "-h",
            " 70 ",
            "129, 130, 143",
        ] {
            assert!(text.contains(word), "{word}");
        }
    }
}
