//! The gate: a tool reads the records of the tools before it and refuses to start unless they end well.
//!
//! A pipeline starts all its tools at once, so a gate reads to the end of its input before its tool connects
//! or locks anything. That makes the chain safe without `set -o pipefail`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal};
use std::time::Duration;

use serde_json::Value;
use time::OffsetDateTime;

use crate::called::called;
use crate::clock;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::record::Identity;

/// Refuses a `flag` that is given as `-` where nobody feeds it; a tool asks before it writes a log file.
///
/// # Errors
/// [`Exit::Usage`], with `example` as the hint.
pub fn refuse_terminal(flag: &str, example: &str) -> Result<()> {
    if io::stdin().is_terminal() {
        return Err(Error::new(
            Exit::Usage,
            format!("{flag}=- reads records from stdin, which is a terminal"),
        )
        .hint(example));
    }
    Ok(())
}

/// The records of the tools before this one.
#[derive(Debug, Default)]
pub struct Story {
    lines: Vec<String>,
    records: Vec<Value>,
}

impl Story {
    /// Reads what `--gate` names, a file or stdin (`-`), to its end.
    ///
    /// # Errors
    /// [`Exit::Config`] for a file that cannot be read, and those of [`Story::read`].
    pub fn of(gate: &str) -> Result<Self> {
        if gate == "-" {
            return Self::read(io::stdin().lock());
        }
        let file = File::open(gate).map_err(|error| {
            Error::new(Exit::Config, format!("cannot read the records of {gate}"))
                .because(error)
                .hint("--json > FILE writes them; then --gate=FILE")
        })?;
        Self::read(BufReader::new(file))
    }

    /// Reads records to the end of the input.
    ///
    /// # Errors
    /// [`Exit::Failed`] when a line is not a record: the tool before was cut off, or it is another program.
    pub fn read(input: impl BufRead) -> Result<Self> {
        let mut story = Self::default();
        for (index, line) in input.lines().enumerate() {
            let refuse = |why: String| {
                Error::new(Exit::Failed, format!("the gate's input is not a record at line {}", index + 1))
                    .because(why)
                    .hint("run the tool before this one with --json and look at how it ended")
            };
            let line = line.map_err(|error| refuse(error.to_string()))?;
            if line.trim().is_empty() {
                continue;
            }
            let record: Value = serde_json::from_str(&line).map_err(|error| refuse(error.to_string()))?;
            if record.get("type").and_then(Value::as_str).is_none() {
                return Err(refuse("it has no type".to_owned()));
            }
            story.lines.push(line);
            story.records.push(record);
        }
        Ok(story)
    }

    /// The lines as they came, to be passed on.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// The records of a type that the newest run of `tool` has written, in their order.
    pub fn records<'a>(&'a self, tool: &str, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        let start = self.records.iter().rfind(|record| record["tool"] == tool && record["type"] == "start");
        self.records.iter().filter(move |record| {
            record["type"] == kind && start.is_some_and(|start| record["run_id"] == start["run_id"])
        })
    }

    /// Checks that `tool` ended well on these migration files, not too long ago; answers with the run to
    /// compare the database with, once that is known.
    ///
    /// # Errors
    /// [`Exit::Failed`], naming what is missing or wrong.
    pub fn require(&self, tool: &str, migrations_digest: &str, max_age: Duration) -> Result<Passed<'_>> {
        let refuse = |why: String| {
            Error::new(Exit::Failed, format!("the gate is closed: {why}"))
                .because("nothing was touched")
                .hint(format!("run {tool} --json on this database and pass its output to --gate"))
        };
        // The newest run of the tool counts: an older verdict says nothing about a run that was cut off.
        let start = self
            .records
            .iter()
            .rfind(|record| record["tool"] == tool && record["type"] == "start")
            .ok_or_else(|| refuse(format!("there is no record of {tool}")))?;
        let verdict = self
            .records
            .iter()
            .rfind(|record| record["type"] == "verdict" && record["run_id"] == start["run_id"])
            .ok_or_else(|| refuse(format!("{tool} did not come to a verdict")))?;
        if verdict["ok"] != Value::Bool(true) {
            return Err(refuse(format!("{tool} did not pass (exit {})", verdict["exit"])));
        }
        if start["migrations_digest"] != migrations_digest {
            return Err(refuse(format!("{tool} looked at other migration files")));
        }
        let time = verdict["time"].as_str().and_then(clock::parse_record_time);
        let age = time.map(|time| OffsetDateTime::now_utc() - time);
        match age.map(Duration::try_from) {
            Some(Ok(age)) if age <= max_age => Ok(Passed { tool: tool.to_owned(), start }),
            // A clock that is a little ahead on the machine that wrote the record is no reason to refuse.
            Some(Err(_)) if age.is_some_and(|age| age.whole_seconds() > -300) => {
                Ok(Passed { tool: tool.to_owned(), start })
            }
            Some(Ok(age)) => Err(refuse(format!(
                "{tool} passed {} minutes ago, more than {} minutes (--gate-max-age)",
                age.as_secs() / 60,
                max_age.as_secs() / 60
            ))),
            _ => Err(refuse(format!("the verdict of {tool} has no usable time"))),
        }
    }
}

impl Story {
    /// When the newest run of migration-runner began its first file; where it had none to do, when pre-validate began. Whatever
    /// was lost since pre-validate looked is in a backup from before.
    #[must_use]
    pub fn began(&self) -> Option<OffsetDateTime> {
        let time = |record: &Value| clock::parse_record_time(record["time"].as_str()?);
        // A record stands at a file's end.
        let begins = self.records("migration-runner", "migration").filter_map(|record| {
            let took = i64::try_from(record["milliseconds"].as_u64()?).ok()?;
            Some(time(record)? - time::Duration::milliseconds(took))
        });
        begins.min().or_else(|| self.records("pre-validate", "start").next().and_then(time))
    }

    /// As [`Story::require`] for migration-runner: a run that was to change the database, not one that only looked.
    ///
    /// # Errors
    /// [`Exit::Failed`], naming what is missing or wrong.
    pub fn require_migrated(&self, migrations_digest: &str, max_age: Duration) -> Result<Passed<'_>> {
        let passed = self.require("migration-runner", migrations_digest, max_age)?;
        let of_run = |record: &&Value| record["run_id"] == passed.start["run_id"];
        // What each way to run leaves: a dry run says what it would do, --status how files stand, --plan statements.
        let looked = self.records.iter().filter(of_run).find_map(|record| {
            let counts = &record["counts"];
            if record["outcome"] == "would run" || counts.get("would_run").is_some() {
                Some("it was a dry run")
            } else if record.get("standing").is_some() || counts.get("pending").is_some() {
                Some("it only showed the status")
            } else if record["type"] == "statement" || counts.get("statements").is_some() {
                Some("it only showed the plan")
            } else {
                None
            }
        });
        match looked {
            None => Ok(passed),
            Some(why) => Err(Error::new(
                Exit::Failed,
                format!("the gate is closed: migration-runner changed nothing: {why}"),
            )
            .because("nothing was touched")
            .hint(format!(
                "run {} --json without --dry-run, --status and --plan, and pass its output to --gate",
                called("migration-runner")
            ))),
        }
    }
}

/// A tool that ended well, for a database still to be compared.
#[derive(Debug)]
pub struct Passed<'a> {
    tool: String,
    start: &'a Value,
}

impl Passed<'_> {
    /// Checks that the tool looked at the same database.
    ///
    /// # Errors
    /// [`Exit::Failed`], naming both databases. Host and port may differ: one server has many names.
    pub fn same_database(&self, here: &Identity) -> Result<()> {
        let there = &self.start["database"];
        let here_json = here.to_json();
        let same = ["system_identifier", "oid", "name"].iter().all(|key| there[key] == here_json[key]);
        if same {
            return Ok(());
        }
        Err(Error::new(Exit::Failed, format!("the gate is closed: {} looked at another database", self.tool))
            .because(format!("there: {there}"))
            .because(format!("here: {here_json}"))
            .because("nothing was touched")
            .hint("give both tools the same DB_HOST, DB_PORT and DB_NAME"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn start() -> String {
        format!(
            r#"{{"type":"start","tool":"pre-validate","run_id":"r","time":"{}","migrations_digest":"d","database":{{"system_identifier":"7","oid":5,"name":"db","host":"h","port":1}}}}"#,
            clock::record_time()
        )
    }

    fn verdict(ok: bool, time: &str) -> String {
        format!(
            r#"{{"type":"verdict","tool":"pre-validate","run_id":"r","time":"{time}","ok":{ok},"exit":0}}"#
        )
    }

    fn identity() -> Identity {
        Identity {
            system_identifier: "7".into(),
            oid: 5,
            name: "db".into(),
            host: "other".into(),
            port: 2,
            server_version: "17.1".into(),
        }
    }

    fn check(text: &str) -> Result<()> {
        Story::read(text.as_bytes())?.require("pre-validate", "d", DAY)?.same_database(&identity())
    }

    #[test]
    fn a_runner_that_only_looked_does_not_open_it() {
        let now = clock::record_time();
        let run = |between: &str, counts: &str| {
            let text = format!("{}\n{between}{}\n", start(), verdict(true, &now))
                .replace("pre-validate", "migration-runner")
                .replace("\"exit\":0", &format!("\"exit\":0,\"counts\":{counts}"));
            Story::read(text.as_bytes())
                .unwrap()
                .require_migrated("d", DAY)
                .map(|_| ())
                .map_err(|e| e.message().to_owned())
        };
        run("", r#"{"applied":0,"skipped":9}"#).unwrap();
        let line = |text: &str| format!("{text}\n");
        run(&line(r#"{"type":"migration","run_id":"r","outcome":"applied"}"#), r#"{"applied":1}"#).unwrap();
        for (record, counts, why) in [
            (r#"{"type":"migration","run_id":"r","outcome":"would run"}"#, "{}", "dry run"),
            ("", r#"{"would_run":0}"#, "dry run"),
            (r#"{"type":"migration","run_id":"r","standing":"applied"}"#, "{}", "status"),
            (r#"{"type":"statement","run_id":"r"}"#, "{}", "plan"),
        ] {
            assert!(run(&line(record), counts).unwrap_err().contains(why), "{why}");
        }
    }

    #[test]
    fn opens_for_a_good_verdict_only() {
        let now = clock::record_time();
        let good = format!("{}\n{}\n", start(), verdict(true, &now));
        check(&good).unwrap();
        for (text, why) in [
            (String::new(), "no record of"),
            (start(), "did not come to a verdict"),
            (verdict(true, &now), "no record of"),
            (format!("{}\n{}\n", start(), verdict(false, &now)), "did not pass"),
            (format!("{}\n{}\n", start(), verdict(true, "2001-01-01T00:00:00Z")), "minutes ago"),
            (format!("{}\n{}\n", start(), verdict(true, "x")), "no usable time"),
            (format!("{good}{}", start().replace("\"r\"", "\"s\"")), "did not come to a verdict"),
            (good.replace("\"d\"", "\"e\""), "other migration files"),
            (good.replace("\"7\"", "\"8\""), "another database"),
            (good[..good.len() - 12].to_owned(), "not a record"),
            (good.replace("pre-validate", "something"), "no record of"),
        ] {
            let error = check(&text).unwrap_err();
            assert!(error.message().contains(why), "{why}: {error}");
            assert_eq!(error.exit(), Exit::Failed);
        }
    }
}
