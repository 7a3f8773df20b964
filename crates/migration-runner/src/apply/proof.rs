//! `--prove`: the rows of the tables that a file converts, counted and hashed before its first statement and after its last, in
//! its transaction and under its locks. Where they are not the same, nothing is committed.

use std::time::{Duration, Instant};

use ms5_common::check;
use ms5_common::db::server_error::reasons;
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::fingerprint::{self, Fingerprint, Verdict, Wanted};
use ms5_common::interrupt;
use ms5_common::sql::TableName;
use ms5_common::timescale::hypertables;
use serde_json::{Value, json};

use crate::prove::Claim;
use crate::sessions::Session;

/// Writers wait, readers do not; and no second transaction gets as far, so the stronger lock that follows is not contended by
/// one like it.
const LOCK: &str = "SHARE ROW EXCLUSIVE";

/// The most places of a table that are named.
const NAMED: usize = 20;

/// What was counted and hashed before the file's first statement.
pub(super) struct Begun<'a> {
    title: &'a str,
    before: Vec<Fingerprint>,
    /// Promised and plain, but not named by the file.
    others: Vec<&'a TableName>,
    took: Duration,
}

/// That every row is there as it was, to be said once it is committed.
#[derive(Debug)]
pub(crate) struct Proof {
    tables: Vec<Fingerprint>,
    before: Duration,
    after: Duration,
}

/// Locks the tables that the file may convert, then counts and hashes their rows.
///
/// # Errors
/// A lock that cannot be had, as any of the file's statements; what the server refuses; a signal.
pub(super) fn begin<'a>(session: &mut Session, title: &'a str, claims: &[Claim<'a>]) -> Result<Begun<'a>> {
    let plain = plain(session, title, claims)?;
    let (named, others): (Vec<Claim<'a>>, Vec<Claim<'a>>) = plain.into_iter().partition(|claim| claim.named);
    let others = others.into_iter().map(|claim| &claim.promised.table).collect();
    let begun = Instant::now();
    let _cancellable = interrupt::cancellable(&session.canceller);
    if !named.is_empty() {
        let tables: Vec<String> = named.iter().map(|claim| claim.promised.table.quoted()).collect();
        let lock = format!("LOCK TABLE {} IN {LOCK} MODE", tables.join(", "));
        session.client.batch_execute(&lock).map_err(|error| {
            refused(title, &format!("lock {} against writers", tables.join(", ")), &error)
        })?;
    }
    let wanted: Vec<Wanted<'_>> = named
        .iter()
        .map(|claim| Wanted::First {
            table: claim.promised.table.clone(),
            time_column: Some(claim.promised.time_column.clone()),
            changing: false,
        })
        .collect();
    let before = fingerprint::take_locked(&mut session.client, &wanted)?;
    let before: Vec<Fingerprint> = before.into_iter().flatten().collect();
    Ok(Begun { title, before, others, took: begun.elapsed() })
}

impl Begun<'_> {
    /// Counts and hashes the rows again, before the COMMIT.
    ///
    /// # Errors
    /// They are not what they were, or a table was converted that was not looked at before.
    pub(super) fn end(self, session: &mut Session, claims: &[Claim<'_>]) -> Result<Proof> {
        let Self { title, before, others, took } = self;
        let begun = Instant::now();
        let _cancellable = interrupt::cancellable(&session.canceller);
        // What a constraint trigger would do at the COMMIT it does now, before the rows are looked at.
        (session.client.batch_execute("SET CONSTRAINTS ALL IMMEDIATE"))
            .map_err(|error| refused(title, "check its deferred constraints", &error))?;
        let still = plain(session, title, claims)?;
        let unseen = others.iter().find(|table| !still.iter().any(|claim| claim.promised.table == ***table));
        if let Some(table) = unseen {
            return Err(Error::new(
                Exit::Failed,
                format!("Migration {title} is not proven: it converts {table}"),
            )
            .because("its text does not name that table, so the rows were not counted before")
            .because("the file is rolled back")
            .hint("name the table in the file that converts it, or run without --prove"));
        }
        let wanted: Vec<Wanted<'_>> = before.iter().map(Wanted::Again).collect();
        let now = fingerprint::take_locked(&mut session.client, &wanted)?;
        let mut reasons = Vec::new();
        for (before, now) in before.iter().zip(&now) {
            let of_table = |reason: String| format!("{}: {reason}", before.name);
            match fingerprint::compare(before, now.as_ref()) {
                Verdict::Same { .. } => {}
                // Nobody else could write, so a difference is the file's, whatever may otherwise be said for it.
                Verdict::NotProven { why, differences } if differences.is_empty() => {
                    reasons.extend(why.into_iter().map(of_table));
                }
                Verdict::Different { differences, .. } | Verdict::NotProven { differences, .. } => {
                    reasons.extend(check::at_most(NAMED, &differences).into_iter().map(of_table));
                }
            }
        }
        if !reasons.is_empty() {
            return Err(Error::new(
                Exit::Failed,
                format!("Migration {title} does not leave every row as it was"),
            )
            .because_all(reasons)
            .because("the file is rolled back: the rows are as they were before it")
            .hint("mend the file; where it is meant to change rows, do that in a file of its own, or run without --prove"));
        }
        let proof = Proof { tables: before, before: took, after: begun.elapsed() };
        proof.say();
        Ok(proof)
    }
}

impl Proof {
    fn say(&self) {
        for table in &self.tables {
            log::info!(
                "Rows of {}: all {} are there as they were, proven under the lock",
                table.name,
                table.rows
            );
        }
        if !self.tables.is_empty() {
            log::info!(
                "The proof took {:.1} s before and {:.1} s after, while others could not write",
                self.before.as_secs_f32(),
                self.after.as_secs_f32()
            );
        }
    }

    /// Whether the file had nothing to convert.
    pub(crate) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// As part of the migration's record.
    pub(crate) fn to_json(&self) -> Value {
        let table = |print: &Fingerprint| json!({"table": print.name.to_string(), "rows": print.rows, "hash": print.hash.to_string()});
        json!({
            "tables": self.tables.iter().map(table).collect::<Vec<_>>(),
            "seconds_before": self.before.as_secs_f64(),
            "seconds_after": self.after.as_secs_f64(),
        })
    }
}

/// The tables that are there and are no hypertables.
fn plain<'a>(session: &mut Session, title: &str, claims: &[Claim<'a>]) -> Result<Vec<Claim<'a>>> {
    let tables: Vec<&TableName> = claims.iter().map(|claim| &claim.promised.table).collect();
    let plain = hypertables::plain_tables(&mut session.client, &tables)
        .map_err(|error| refused(title, "look which tables are hypertables", &error))?;
    Ok(claims.iter().zip(plain).filter(|(_, plain)| *plain).map(|(claim, _)| *claim).collect())
}

fn refused(title: &str, what: &str, error: &postgres::Error) -> Error {
    Error::new(Exit::Failed, format!("Migration {title} cannot be proven: cannot {what}"))
        .because_all(reasons(error))
        .because("the file is rolled back")
        .with_sqlstate(error.code().map(|code| code.code().to_owned()))
}
