//! The command line of backup-manager.

use std::time::Duration;

use ms5_common::called::called;
use ms5_common::cli::{
    BACKUP_DIR, ENVIRONMENT, Flag, HELP, HTML, JOBS, JSON, LOG_DIR, MAINTENANCE_DB, Parsed, REPORT,
    RESTORE_USER, Spec, VERBOSE, VERSION, nearest,
};
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::machine;

use crate::folder::metadata::Kind;

/// The tool's name, as it stands in records and in pg_stat_activity.
pub(crate) const TOOL: &str = "backup-manager";
/// The tool's version.
pub(crate) const TOOL_VERSION: &str = env!("CARGO_PKG_VERSION");

/// This tool as an operator calls it, for the commands that messages print.
pub(crate) fn own() -> String {
    called(TOOL)
}

const INCREMENTAL: &str = "--incremental";
const NO_COMPRESSION: &str = "--no-compression";
const FORCE: &str = "--force";
const RETENTION: &str = "--retention-days";
const LEVEL: &str = "--level";
const DEEP: &str = "--deep";
const DROP_OLD: &str = "--drop-old";
const IN_PLACE: &str = "--in-place";
const START_JOBS: &str = "--start-jobs";
const KEEP_LAST: &str = "--keep-last";
const MAX_TOTAL: &str = "--max-total";
const DRY_RUN: &str = "--dry-run";
const TABLES: &str = "--tables";
const SINCE: &str = "--since";
const UNTIL: &str = "--until";
const LOCK_WAIT: &str = "--lock-wait";
const LOCK_TIMEOUT: &str = "--lock-timeout";
/// That another database's backup is meant.
pub(crate) const OTHER_DATABASE: &str = "--other-database";
/// The backup that a rollback point is made of.
const OF: &str = "--of";
const PIPE_TO: &str = "--pipe-to";
const FROM: &str = "--from";
/// Whom a backup is encrypted for.
pub(crate) const ENCRYPT_TO: &str = "--encrypt-to";
/// The file of the key that opens an encrypted backup.
pub(crate) const IDENTITY: &str = "--identity";

/// More sessions than this gain nothing anywhere, and a server has not many more to give.
const MOST_JOBS: usize = 64;

/// The level that took the least time in all on COPY text; README, Measurements.
pub(crate) const DEFAULT_LEVEL: u32 = 1;

/// Flags as the old script had them, and what all tools share.
pub(crate) const SPEC: Spec = Spec {
    tool: TOOL,
    about: "Backs the database up, proves the backup, and brings it back.",
    usage: "[FLAGS] backup [NAME] [TYPE] | restore NAME | list | verify NAME | clean [DAYS] | rollback-point NAME | rollback NAME | export NAME | send NAME | fetch [NAME]",
    flags: &[
        ENVIRONMENT.default("production"),
        Flag::switch(
            INCREMENTAL,
            "backup of full or hypertables: rows that have not changed since another one are taken from the store that they share",
        ),
        Flag::switch(NO_COMPRESSION, "backup: write a plain .sql file instead of .sql.gz"),
        Flag::value(LEVEL, "N", "backup: how hard to compress, 1 (fast) to 9 (small)").default("1"),
        Flag::value(JOBS, "N", "Sessions that read or load at once").default("number of cores"),
        Flag::value(LOCK_TIMEOUT, "SECONDS", "backup: how long a table that others lock is waited for")
            .default("60"),
        Flag::value(LOCK_WAIT, "SECONDS", "How long to wait while another run holds the database's lock")
            .default("10"),
        Flag::switch(FORCE, "restore, rollback: replace a database that holds data"),
        Flag::switch(DEEP, "verify: restore into a scratch database and compare every table's rows"),
        Flag::switch(DROP_OLD, "restore, rollback: drop the replaced database instead of keeping it"),
        Flag::switch(START_JOBS, "restore, rollback: let TimescaleDB's jobs run again at once"),
        Flag::switch(
            IN_PLACE,
            "restore, rollback: in one transaction inside the database itself, for a role without CREATEDB",
        ),
        Flag::value(OF, "BACKUP", "rollback-point: write the script of a backup that is there, and make none"),
        Flag::switch(
            OTHER_DATABASE,
            "restore, rollback: the backup may be of another environment or database, such as production's into staging",
        ),
        Flag::value(TABLES, "LIST", "restore of hypertables: only these, as schema.table,schema.table"),
        Flag::value(SINCE, "TIME", "restore of hypertables: only rows from this time on, in UTC"),
        Flag::value(UNTIL, "TIME", "restore of hypertables: only rows before this time"),
        RESTORE_USER,
        MAINTENANCE_DB,
        Flag::value(RETENTION, "N", "clean: the age in days from which a backup is removed").default("30"),
        Flag::value(KEEP_LAST, "N", "clean: keep the N newest backups of each type, however old").default("1"),
        Flag::value(
            MAX_TOTAL,
            "SIZE",
            "clean: remove the oldest until all take no more than this, such as 50GB",
        ),
        Flag::switch(DRY_RUN, "clean: say what would be removed, remove nothing"),
        Flag::value(
            ENCRYPT_TO,
            "RECIPIENT|FILE",
            "backup, rollback-point: encrypt every file with age, for these recipients (age1..., files of them, with commas)",
        ),
        Flag::value(
            IDENTITY,
            "FILE",
            "restore, rollback, verify: the file of the key that opens an encrypted backup (or MS5_IDENTITY)",
        ),
        Flag::value(
            PIPE_TO,
            "COMMAND",
            "send, backup, rollback-point: pipe the finished backup into it, as one tar (its name: MS5_BACKUP_NAME)",
        ),
        Flag::value(
            FROM,
            "COMMAND",
            "fetch, restore, verify: the tar comes out of it; verify writes nothing, NAME may be left out",
        ),
        BACKUP_DIR,
        REPORT,
        HTML,
        VERBOSE,
        JSON,
        LOG_DIR,
        HELP,
        VERSION,
    ],
    positionals: &["COMMAND", "NAME", "TYPE"],
    epilog: "TYPE is full (default), schema (definitions, hypertables and policies), data (rows, for a database that
has them) or hypertables (a CSV file for each).
NAME is a folder's full name, or the name without its stamp: then the newest of that name among the backups of
this environment and database.
A restore builds a new database beside the old one, compares every row, and swaps the names last.
It exits with 1 where something failed, is damaged, or holds data; with 3 where a backup is of another database, or there is none;
with 5 where the replaced database could not be dropped, a COMMIT was not answered, or clean could not remove all.

Variables of its own: MS5_IDENTITY as --identity; MS5_BACKUP_NAME and MS5_BACKUP_BYTES are set for the COMMAND of --pipe-to and --from.",
};

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// `backup [NAME] [TYPE]`.
    Backup { name: String, kind: Kind },
    /// `restore NAME`.
    Restore { name: String },
    /// `list`.
    List,
    /// `verify NAME`.
    Verify { name: String },
    /// `clean [DAYS]`.
    Clean { days: u64 },
    /// `rollback-point NAME`.
    RollbackPoint { name: String },
    /// `rollback NAME`.
    Rollback { name: String },
    /// `export NAME`.
    Export { name: String },
    /// `send NAME --pipe-to=COMMAND`.
    Send { name: String },
    /// `fetch [NAME] --from=COMMAND`.
    Fetch { name: Option<String> },
    /// `restore [NAME] --from=COMMAND`.
    RestoreFrom { name: Option<String> },
    /// `verify [NAME] --from=COMMAND`.
    VerifyFrom { name: Option<String> },
}

impl Command {
    /// As it stands on the command line.
    const fn word(&self) -> &'static str {
        match self {
            Self::Backup { .. } => "backup",
            Self::Restore { .. } | Self::RestoreFrom { .. } => "restore",
            Self::List => "list",
            Self::Verify { .. } | Self::VerifyFrom { .. } => "verify",
            Self::Clean { .. } => "clean",
            Self::RollbackPoint { .. } => "rollback-point",
            Self::Rollback { .. } => "rollback",
            Self::Export { .. } => "export",
            Self::Send { .. } => "send",
            Self::Fetch { .. } => "fetch",
        }
    }
}

/// The command line, understood.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) command: Command,
    pub(crate) incremental: bool,
    pub(crate) compress: bool,
    pub(crate) level: u32,
    pub(crate) jobs: usize,
    pub(crate) lock_timeout: Duration,
    pub(crate) lock_wait: Duration,
    pub(crate) force: bool,
    pub(crate) deep: bool,
    pub(crate) drop_old: bool,
    pub(crate) start_jobs: bool,
    pub(crate) in_place: bool,
    pub(crate) other_database: bool,
    /// The backup that a rollback point is made of, instead of a new one.
    pub(crate) of: Option<String>,
    /// Of a backup of hypertables; all where it is empty.
    pub(crate) tables: Vec<String>,
    pub(crate) since: Option<String>,
    pub(crate) until: Option<String>,
    pub(crate) restore_user: Option<String>,
    pub(crate) maintenance: String,
    pub(crate) keep_last: usize,
    pub(crate) max_total: Option<u64>,
    pub(crate) dry_run: bool,
    pub(crate) encrypt_to: Option<String>,
    pub(crate) identity: Option<String>,
    pub(crate) pipe_to: Option<String>,
    pub(crate) from: Option<String>,
}

const COMMANDS: [&str; 10] =
    ["backup", "restore", "list", "verify", "clean", "rollback-point", "rollback", "export", "send", "fetch"];

impl Options {
    /// Understands a command line that is well formed.
    ///
    /// # Errors
    /// A command, a type or a number that makes no sense, or a flag of another command.
    pub(crate) fn of(arguments: &Parsed) -> Result<Self> {
        let command = command(arguments)?;
        refuse_foreign(arguments, &command)?;
        let level = arguments.number(LEVEL)?.unwrap_or(DEFAULT_LEVEL.into());
        if !(1..=9).contains(&level) {
            return Err(usage(format!("{LEVEL} is 1 to 9, not {level}")));
        }
        if arguments.has(IN_PLACE) && arguments.has(DROP_OLD) {
            return Err(usage(format!("{IN_PLACE} keeps nothing that {DROP_OLD} could drop")));
        }
        Ok(Self {
            command,
            incremental: arguments.has(INCREMENTAL),
            compress: !arguments.has(NO_COMPRESSION),
            level: u32::try_from(level).unwrap_or(DEFAULT_LEVEL),
            jobs: arguments.jobs()?.unwrap_or_else(machine::processors).min(MOST_JOBS),
            lock_timeout: Duration::from_secs(arguments.number(LOCK_TIMEOUT)?.unwrap_or(60)),
            lock_wait: Duration::from_secs(arguments.number(LOCK_WAIT)?.unwrap_or(10)),
            force: arguments.has(FORCE),
            deep: arguments.has(DEEP),
            drop_old: arguments.has(DROP_OLD),
            start_jobs: arguments.has(START_JOBS),
            in_place: arguments.has(IN_PLACE),
            other_database: arguments.has(OTHER_DATABASE),
            of: arguments.value(OF).map(str::to_owned),
            tables: list(arguments.value(TABLES).unwrap_or_default()),
            since: arguments.value(SINCE).map(str::to_owned),
            until: arguments.value(UNTIL).map(str::to_owned),
            restore_user: arguments.value(RESTORE_USER.name).map(str::to_owned),
            maintenance: arguments.value(MAINTENANCE_DB.name).unwrap_or("postgres").to_owned(),
            keep_last: usize::try_from(arguments.number(KEEP_LAST)?.unwrap_or(1)).unwrap_or(usize::MAX),
            max_total: arguments.value(MAX_TOTAL).map(size).transpose()?,
            dry_run: arguments.has(DRY_RUN),
            encrypt_to: arguments.value(ENCRYPT_TO).map(str::to_owned),
            identity: arguments.value(IDENTITY).map(str::to_owned),
            pipe_to: shell(arguments, PIPE_TO)?,
            from: shell(arguments, FROM)?,
        })
    }
}

fn usage(message: impl Into<String>) -> Error {
    Error::new(Exit::Usage, message).hint(format!("{} --help lists commands and flags", own()))
}

fn command(arguments: &Parsed) -> Result<Command> {
    let words = arguments.positionals();
    let Some(word) = words.first() else {
        return Err(usage(format!("a command is missing: one of {}", COMMANDS.join(", "))));
    };
    let most = |number: usize| match words.get(number) {
        Some(extra) => Err(usage(format!("{word} takes no {extra:?}"))),
        None => Ok(()),
    };
    let name = || {
        words
            .get(1)
            .cloned()
            .ok_or_else(|| usage(format!("{word} wants the name of a backup")).hint("list shows them"))
    };
    let from = arguments.value(FROM).is_some();
    // What comes says its own name; the one that is given says which is wanted.
    let perhaps = || words.get(1).cloned();
    let wants = |flag: &str, given: bool| match given {
        true => Ok(()),
        false => Err(usage(format!("{word} wants {flag}=COMMAND"))),
    };
    match word.as_str() {
        "export" => most(2).and_then(|()| Ok(Command::Export { name: name()? })),
        "send" => {
            most(2)?;
            wants(PIPE_TO, arguments.value(PIPE_TO).is_some())?;
            Ok(Command::Send { name: name()? })
        }
        "fetch" => {
            most(2)?;
            wants(FROM, from)?;
            Ok(Command::Fetch { name: perhaps() })
        }
        "restore" if from => most(2).map(|()| Command::RestoreFrom { name: perhaps() }),
        "verify" if from => most(2).map(|()| Command::VerifyFrom { name: perhaps() }),
        "backup" => Ok(Command::Backup {
            name: words.get(1).map_or_else(|| "backup".to_owned(), String::clone),
            kind: kind(words.get(2).map_or("full", String::as_str))?,
        }),
        "restore" => most(2).and_then(|()| Ok(Command::Restore { name: name()? })),
        "verify" => most(2).and_then(|()| Ok(Command::Verify { name: name()? })),
        "rollback-point" => most(2).and_then(|()| Ok(Command::RollbackPoint { name: name()? })),
        "rollback" => most(2).and_then(|()| Ok(Command::Rollback { name: name()? })),
        "list" => most(1).map(|()| Command::List),
        "clean" => {
            most(2)?;
            let flag = arguments.number(RETENTION)?;
            let days = words.get(1).map(|text| {
                text.parse().map_err(|_| usage(format!("clean takes a number of days, not {text:?}")))
            });
            match (days.transpose()?, flag) {
                (Some(_), Some(_)) => {
                    Err(usage(format!("give the days once: clean DAYS or {RETENTION}=DAYS")))
                }
                (days, flag) => Ok(Command::Clean { days: days.or(flag).unwrap_or(30) }),
            }
        }
        other => {
            let error = usage(format!("unknown command {other:?}: it is one of {}", COMMANDS.join(", ")));
            Err(match nearest(other, COMMANDS.into_iter()) {
                Some(known) => error.hint(format!("did you mean {known}?")),
                None => error,
            })
        }
    }
}

/// The types of the old script.
fn kind(word: &str) -> Result<Kind> {
    if let Some(kind) = Kind::of(word) {
        return Ok(kind);
    }
    let types = Kind::ALL.map(Kind::word).join(", ");
    Err(match word {
        "incremental" => {
            Error::new(Exit::Usage, "incremental is no type: a backup of type full or hypertables can be it")
                .hint("backup NAME full --incremental")
        }
        other => usage(format!("unknown type {other:?}: it is one of {types}")),
    })
}

/// Flags of some commands alone, and those commands.
const OF_SOME: [(&str, &[&str]); 20] = [
    (DEEP, &["verify"]),
    (DROP_OLD, &["restore", "rollback"]),
    (START_JOBS, &["restore", "rollback"]),
    (IN_PLACE, &["restore", "rollback"]),
    (OTHER_DATABASE, &["restore", "rollback"]),
    (OF, &["rollback-point"]),
    (TABLES, &["restore"]),
    (SINCE, &["restore"]),
    (UNTIL, &["restore"]),
    (KEEP_LAST, &["clean"]),
    (MAX_TOTAL, &["clean"]),
    (DRY_RUN, &["clean"]),
    (LEVEL, &["backup", "rollback-point"]),
    (LOCK_TIMEOUT, &["backup", "rollback-point"]),
    (INCREMENTAL, &["backup"]),
    (ENCRYPT_TO, &["backup", "rollback-point"]),
    (IDENTITY, &["restore", "rollback", "verify", "rollback-point"]),
    (PIPE_TO, &["backup", "rollback-point", "send"]),
    (FROM, &["restore", "verify", "fetch"]),
    // The old script took it anywhere.
    (FORCE, &["backup", "restore", "list", "verify", "clean", "rollback-point", "rollback"]),
];

/// A flag that the command does not know would be a wish that nobody hears.
fn refuse_foreign(arguments: &Parsed, command: &Command) -> Result<()> {
    let word = command.word();
    let given = |flag: &str| arguments.has(flag) || arguments.value(flag).is_some();
    if let Some((flag, _)) = OF_SOME.iter().find(|(flag, known)| given(flag) && !known.contains(&word)) {
        return Err(usage(format!("{flag} is nothing that {word} knows")));
    }
    if let Some(flag) = [ENCRYPT_TO, PIPE_TO].into_iter().find(|flag| given(INCREMENTAL) && given(flag)) {
        return Err(usage(format!("{INCREMENTAL} and {flag} do not go together"))
            .because("others could not share what one is encrypted for, and the far end would not have what is shared")
            .hint("take a backup that holds all by itself; or export NAME makes one of an incremental one"));
    }
    if word == "rollback-point" && given(IDENTITY) && !given(OF) {
        return Err(usage(format!("{IDENTITY} is nothing that {word} without {OF} knows")));
    }
    let of_making = [LEVEL, LOCK_TIMEOUT, ENCRYPT_TO, PIPE_TO, NO_COMPRESSION];
    if let Some(flag) = of_making.into_iter().find(|flag| given(OF) && given(flag)) {
        return Err(usage(format!("{OF} and {flag} do not go together"))
            .because(format!("{word} {OF} makes no backup: it takes one as it is")));
    }
    // A scratch database is filled from a folder, and what passes by is read once, from its beginning.
    let of_a_folder =
        [DEEP, IDENTITY].into_iter().filter(|flag| given(flag)).find(|_| word == "verify" && given(FROM));
    if let Some(flag) = of_a_folder {
        return Err(usage(format!("{flag} is nothing that {word} {FROM} knows"))
            .hint(format!("fetch it first, then verify NAME {flag}")));
    }
    Ok(())
}

/// Names separated by commas; a comma inside quotes is a name's.
fn list(text: &str) -> Vec<String> {
    let mut quoted = false;
    let parts = text.split(|letter| {
        quoted ^= letter == '"';
        letter == ',' && !quoted
    });
    parts.map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

/// A command for sh. An empty one would take everything, and do nothing with it.
fn shell(arguments: &Parsed, flag: &str) -> Result<Option<String>> {
    match arguments.value(flag) {
        Some(text) if text.trim().is_empty() => Err(usage(format!("{flag} wants a command"))),
        other => Ok(other.map(str::to_owned)),
    }
}

/// `50GB`, `500MB`, `1000`: bytes, by 1024.
fn size(text: &str) -> Result<u64> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let factor = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => Some(1),
        "K" | "KB" | "KIB" => Some(1 << 10),
        "M" | "MB" | "MIB" => Some(1 << 20),
        "G" | "GB" | "GIB" => Some(1_u64 << 30),
        "T" | "TB" | "TIB" => Some(1_u64 << 40),
        _ => None,
    };
    let number: Option<u64> = digits.parse().ok();
    number
        .zip(factor)
        .and_then(|(number, factor)| number.checked_mul(factor))
        .ok_or_else(|| usage(format!("{MAX_TOTAL} takes a size such as 50GB, not {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ms5_common::cli;

    fn options(line: &str) -> Result<Options> {
        Options::of(&cli::parse(&SPEC, line.split_whitespace().map(Into::into).collect())?)
    }

    #[test]
    fn commands_as_the_old_script_took_them() {
        assert_eq!(
            options("backup").unwrap().command,
            Command::Backup { name: "backup".into(), kind: Kind::Full }
        );
        let backup = options("--no-compression backup pre_migration full").unwrap();
        assert_eq!(backup.command, Command::Backup { name: "pre_migration".into(), kind: Kind::Full });
        assert!(!backup.compress);
        let schema = Command::Backup { name: "x".into(), kind: Kind::Schema };
        assert_eq!(options("backup x schema").unwrap().command, schema);
        assert_eq!(options("clean").unwrap().command, Command::Clean { days: 30 });
        assert_eq!(options("clean 7").unwrap().command, Command::Clean { days: 7 });
        assert_eq!(options("clean --retention-days=9").unwrap().command, Command::Clean { days: 9 });
        assert_eq!(options("clean --max-total=2GB").unwrap().max_total, Some(2 << 30));
    }

    #[test]
    fn lists_of_tables() {
        assert_eq!(list(r#"a.b, f."x,y" ,"#), ["a.b", r#"f."x,y""#]);
        assert!(list("").is_empty());
    }

    #[test]
    fn what_comes_from_a_command_needs_no_name() {
        for (line, command) in [
            ("send a --pipe-to=cat", Command::Send { name: "a".into() }),
            ("fetch --from=cat", Command::Fetch { name: None }),
            ("fetch a --from=cat", Command::Fetch { name: Some("a".into()) }),
            ("restore --from cat --force", Command::RestoreFrom { name: None }),
            ("verify a --from=cat", Command::VerifyFrom { name: Some("a".into()) }),
        ] {
            assert_eq!(options(line).unwrap().command, command, "{line}");
        }
        let words = ["send", "a", "--pipe-to", "ssh host 'cat > x'"].map(Into::into).to_vec();
        let options = Options::of(&cli::parse(&SPEC, words).unwrap()).unwrap();
        assert_eq!(options.pipe_to.as_deref(), Some("ssh host 'cat > x'"));
        let blank = ["send", "a", "--pipe-to= "].map(Into::into).to_vec();
        assert_eq!(Options::of(&cli::parse(&SPEC, blank).unwrap()).unwrap_err().exit(), Exit::Usage);
    }

    #[test]
    fn wrong_usage_is_refused() {
        for line in [
            "",
            "restor x",
            "restore",
            "restore a b",
            "backup x incremental",
            "backup x y",
            "backup --deep",
            "clean x",
            "clean 7 --retention-days=8",
            "clean --max-total=lots",
            "backup --level=0",
            "backup --jobs=0",
            "restore x --in-place --drop-old",
            "list x",
            "send x",
            "send --pipe-to=cat",
            "send x --pipe-to=cat --from=cat",
            "fetch",
            "fetch x y --from=cat",
            "fetch x --from=cat --force",
            "backup x --from=cat",
            "restore --pipe-to=cat",
            "rollback x --from=cat",
            "verify x --from=cat --deep",
            "verify x --from=cat --identity=key",
            "backup x --identity=key",
            "restore x --encrypt-to=age1x",
            "list --from=cat",
            "verify x --other-database",
            "backup x --of=y",
            "rollback-point x --identity=key",
            "rollback-point x --of=y --pipe-to=cat",
        ] {
            assert_eq!(options(line).unwrap_err().exit(), Exit::Usage, "{line}");
        }
    }
}
