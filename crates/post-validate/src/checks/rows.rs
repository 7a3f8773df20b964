//! The proof that no row was lost: the rows that pre-validate has counted and hashed, counted and hashed again.

use ms5_common::called::called;
use ms5_common::check::{Check, Finding, at_most};
use ms5_common::db::session;
use ms5_common::effects::Class;
use ms5_common::fingerprint::{self, Fingerprint, Verdict, Wanted};
use serde_json::{Value, json};

use super::objects::may_be;
use super::{Bench, SqlResult};
use crate::args::TOOL;

/// The rows.
pub(super) const ROWS: Check = Check::new(
    "rows",
    "the rows that pre-validate has counted and hashed (--against)",
    "each is there as it was, and none fewer; rows added since are told apart; what cannot be proven is WARN",
);

/// The most places of a table that are named.
const NAMED: usize = 20;

pub(super) fn check(bench: &mut Bench<'_>) -> SqlResult {
    let input = bench.input;
    let Some(before) = &input.before else {
        bench.add(&ROWS, Finding::skipped("without --against"));
        return Ok(());
    };
    if before.is_empty() {
        let nothing = Finding::warn("pre-validate has counted no rows: there is nothing to prove against")
            .remedy(format!(
                "run {} without --quick and --no-fingerprint before the next migration",
                called("pre-validate")
            ));
        bench.add(&ROWS, nothing);
        return Ok(());
    }
    let wanted: Vec<Wanted<'_>> = before.iter().map(Wanted::Again).collect();
    let how = fingerprint::Options { jobs: input.options.jobs, ..fingerprint::Options::default() };
    let taken: Vec<Vec<String>> = (input.said().into_iter())
        .filter(|said| matches!(said.class, Class::Rows | Class::Relation))
        .map(|said| said.name)
        .collect();
    match fingerprint::take(&how, &wanted, || session::open_reader(&input.settings, TOOL, "fingerprint")) {
        Err(error) => bench.add(&ROWS, Finding::failed(&error)),
        Ok(now) => {
            let go_back = input.go_back();
            for (before, now) in before.iter().zip(&now) {
                let name = [before.name.schema.clone(), before.name.table.clone()];
                let verdict = fingerprint::compare(before, now.as_ref());
                let verdict = match now {
                    Some(now) if !taken.iter().any(|said| may_be(said, &name)) => {
                        all_told(before, now, verdict)
                    }
                    _ => verdict,
                };
                bench.report.record("rows", side_by_side(before, now.as_ref(), &verdict));
                bench.add(&ROWS, found(before, verdict, &go_back).on(before.name.to_string()));
            }
        }
    }
    Ok(())
}

/// Fewer rows than before are fewer, whatever cannot be told of them one by one, where no file takes any.
fn all_told(before: &Fingerprint, now: &Fingerprint, verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::NotProven { differences, .. } if now.rows < before.rows && !before.changing => {
            Verdict::Different { differences, added: now.above }
        }
        verdict => verdict,
    }
}

/// Before and after as numbers: the rows up to the key that pre-validate has read to, and those beyond it.
fn side_by_side(before: &Fingerprint, now: Option<&Fingerprint>, verdict: &Verdict) -> Value {
    let word = match verdict {
        Verdict::Same { .. } => "equal",
        Verdict::Different { .. } => "different",
        Verdict::NotProven { .. } => "not proven",
    };
    json!({
        "schema": before.name.schema, "table": before.name.table, "before": before.rows,
        "after": now.map(|now| now.rows), "added": now.map_or(0, |now| now.above), "verdict": word,
    })
}

fn found(before: &Fingerprint, verdict: Verdict, go_back: &str) -> Finding {
    let table = &before.name;
    match verdict {
        Verdict::Same { added } => {
            let since = if added == 0 { String::new() } else { format!("; {added} were added since") };
            Finding::pass(format!("Rows of {table}: all {} are there as they were{since}", before.rows))
        }
        Verdict::Different { differences, .. } => {
            Finding::fail(format!("Rows of {table} are lost or are not what they were"))
                .because_all(at_most(NAMED, &differences))
                .remedy(format!("find out what has changed them; to go back: {go_back}"))
        }
        Verdict::NotProven { why, differences } => {
            Finding::warn(format!("Rows of {table}: not proven that all are there as they were"))
                .because_all(why)
                .because_all(at_most(NAMED, &differences))
                .remedy("compare it by hand, or repeat the proof with nobody writing to it")
        }
    }
}
