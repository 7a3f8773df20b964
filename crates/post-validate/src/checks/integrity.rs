//! Rows written to each hypertable over a chunk boundary, read back, and rolled back at once.

use std::collections::BTreeSet;

use ms5_common::check::{Check, Finding, Verdict};
use ms5_common::db::server_error::{connection_lost, reasons};
use ms5_common::timescale::hypertables::{self, Boundary, Hypertable};
use postgres::SimpleQueryMessage;

use super::{Bench, SqlResult, is_busy, number};
use crate::catalog::{self, Column, ForeignKey};
use crate::probe::{self, Target};

/// Each hypertable.
pub(super) const INTEGRITY: Check = Check::new(
    "data-integrity",
    "two rows written to each hypertable, in two neighbouring chunks, read back and rolled back at once",
    "both are read, from two chunks",
);

/// What the catalog tells of the tables that are probed.
struct Facts {
    columns: std::collections::BTreeMap<String, Vec<Column>>,
    keys: Vec<ForeignKey>,
    triggers: Vec<(String, String)>,
    boundaries: Vec<Boundary>,
    /// Tables that keys lead to and that have no row.
    empty: Vec<String>,
    superuser: bool,
}

pub(super) fn check(bench: &mut Bench<'_>) -> SqlResult {
    if !bench.input.options.integrity {
        bench.add(&INTEGRITY, Finding::skipped("--no-data-integrity leaves it out"));
        return Ok(());
    }
    let targets = bench.hypertables.clone();
    if targets.is_empty() {
        bench.add(&INTEGRITY, Finding::skipped("there is no hypertable to write to"));
        return Ok(());
    }
    let facts = facts(bench, &targets)?;
    let (mut written, mut left_out, mut well) = (0, 0, true);
    for target in &targets {
        let finding = probe(bench, target, &facts)?;
        match finding.verdict() {
            Verdict::Pass => {
                written += 1;
                continue;
            }
            Verdict::Info => left_out += 1,
            _ => well = false,
        }
        bench.add(&INTEGRITY, finding.on(&target.table));
    }
    if well && written > 0 {
        let finding = Finding::pass("Data integrity test passed").because(format!(
            "Two rows written, read back and rolled back in each of {}{}",
            number(written, "hypertable"),
            if left_out > 0 { format!("; {left_out} left out, as said above") } else { String::new() }
        ));
        bench.add(&INTEGRITY, finding);
    }
    Ok(())
}

fn facts(bench: &mut Bench<'_>, targets: &[Hypertable]) -> Result<Facts, postgres::Error> {
    let client = &mut bench.client;
    let tables: Vec<String> = targets.iter().map(|target| target.table.clone()).collect();
    let columns = catalog::probe_columns(client, &tables)?;
    let keys = catalog::foreign_keys(client, &tables)?;
    let triggers = catalog::insert_triggers(client, &tables)?;
    let boundaries = hypertables::boundaries(client, &tables)?;
    let used: BTreeSet<&str> = columns
        .values()
        .zip(columns.keys())
        .flat_map(|(columns, table)| {
            let of_table: Vec<&ForeignKey> = keys.iter().filter(|key| key.table == *table).collect();
            of_table
                .into_iter()
                .filter(|key| !probe::keys_in_use(columns, std::slice::from_ref(*key)).is_empty())
        })
        .map(|key| key.to.as_str())
        .collect();
    let empty = catalog::empty_tables(client, &used.into_iter().collect::<Vec<_>>())?;
    let superuser = catalog::is_superuser(client)?;
    Ok(Facts { columns, keys, triggers, boundaries, empty, superuser })
}

/// Writes, reads, rolls back.
fn probe(bench: &mut Bench<'_>, hypertable: &Hypertable, facts: &Facts) -> Result<Finding, postgres::Error> {
    let table = hypertable.table.as_str();
    let columns = facts.columns.get(table).map_or(&[][..], Vec::as_slice);
    let keys: Vec<ForeignKey> = facts.keys.iter().filter(|key| key.table == table).cloned().collect();
    let trigger = facts.triggers.iter().find(|(of, _)| of == table);
    let empty = probe::keys_in_use(columns, &keys).into_iter().find(|key| facts.empty.contains(&key.to));
    let not_checked = |why: String| Finding::info(format!("Data integrity of {table} is not checked: {why}"));
    if !facts.superuser {
        // What a trigger does may outlive the rollback: a value of a sequence, a message to elsewhere.
        if let Some((_, trigger)) = trigger {
            return Ok(not_checked(format!(
                "its trigger {trigger} would fire, which only a superuser may prevent"
            )));
        }
        if let Some(key) = empty {
            return Ok(not_checked(format!("{} has no row that a new row could refer to", key.to)));
        }
    }
    let boundary = facts.boundaries.iter().find(|boundary| boundary.table == table);
    let target = Target {
        table,
        time_column: &hypertable.time_column,
        time_type: &hypertable.time_type,
        interval: hypertable.interval,
        boundary: boundary.map(|boundary| boundary.at.as_str()),
        columns,
        keys: &keys,
        replica: facts.superuser && (trigger.is_some() || empty.is_some()),
    };
    let message = match probe::message(&target) {
        Ok(message) => message,
        Err(why) => return Ok(not_checked(why)),
    };
    log::debug!("{message}");
    let answers = match bench.client.simple_query(&message) {
        Ok(answers) => answers,
        Err(error) => {
            if connection_lost(&error) {
                return Err(error);
            }
            bench.client.batch_execute("ROLLBACK")?;
            return Ok(refused(table, &error, not_checked));
        }
    };
    let counts: Vec<i64> = answers
        .iter()
        .filter_map(|answer| match answer {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        })
        .flat_map(|row| (0..row.len()).filter_map(|index| row.get(index)?.parse().ok()))
        .collect();
    Ok(match counts[..] {
        [before, after, chunks] if after - before == 2 && chunks == 2 => Finding::pass("written and read"),
        [before, after, 1] if after - before == 2 => {
            Finding::fail(format!("Two rows of {table} that belong into two chunks were read from one"))
                .remedy("look at its chunks: SELECT * FROM timescaledb_information.chunks")
        }
        [before, after, chunks] => {
            Finding::fail(format!("Of two rows written to {table}, {} were read back", after - before))
                .because(format!("from {chunks} chunks; all is rolled back"))
                .remedy("look for triggers, rules and row security that swallow rows")
        }
        _ => Finding::fail(format!("The rows written to {table} could not be counted"))
            .remedy("run it again with --verbose"),
    })
}

/// What the server's refusal means.
fn refused(table: &str, error: &postgres::Error, not_checked: impl Fn(String) -> Finding) -> Finding {
    let finding = match error.code().map(postgres::error::SqlState::code) {
        _ if is_busy(error) => {
            Finding::warn(format!("Busy: {table} could not be written to within a second"))
                .remedy("run it again when it is no longer locked: SELECT * FROM pg_locks WHERE NOT granted")
        }
        Some("23514") => not_checked("a check refuses the row that was made up".to_owned()),
        Some("25006") => not_checked("the server is read-only".to_owned()),
        Some("42501") => {
            Finding::warn(format!("Data integrity of {table} is not checked: the role may not write to it"))
                .remedy("run it as the role that owns the tables")
        }
        _ => Finding::fail(format!("A row cannot be written to {table} and read back"))
            .remedy("mend what the server names, then run it again"),
    };
    finding.because_all(reasons(error))
}
