//! The rows as they are before the migration, for the proof afterwards that none was lost.

use ms5_common::check::{Finding, Report};
use ms5_common::config::Settings;
use ms5_common::db::session;
use ms5_common::expected::Expected;
use ms5_common::fingerprint::{self, Fingerprint as Print, Wanted};
use ms5_common::record::Recorder;
use ms5_common::sql::TableName;

use super::FINGERPRINT;
use crate::args::{Fingerprint, Options, TOOL};

/// Takes the fingerprints; each is a record of type `table`.
pub(crate) fn check(
    report: &mut Report<'_>,
    recorder: &Recorder,
    settings: &Settings,
    options: &Options,
    expected: Option<&Expected>,
) {
    let tables: Vec<(TableName, Option<String>)> = match &options.fingerprint {
        Fingerprint::None(flag) => {
            report.add(&FINGERPRINT, Finding::skipped(*flag));
            return;
        }
        Fingerprint::Tables(tables) => {
            tables.iter().map(|table| (table.clone(), time_column(expected, table))).collect()
        }
        Fingerprint::Hypertables => (expected.iter().flat_map(|expected| &expected.hypertables))
            .filter_map(|promised| {
                Some((TableName::parse(&promised.table)?, Some(promised.time_column.clone())))
            })
            .collect(),
    };
    if tables.is_empty() {
        report.add(&FINGERPRINT, Finding::skipped("no table is promised to become a hypertable"));
        return;
    }
    let wanted: Vec<Wanted<'_>> = (tables.iter())
        .map(|(table, time_column)| Wanted::First {
            table: table.clone(),
            time_column: time_column.clone(),
            changing: false,
        })
        .collect();
    let how = fingerprint::Options { jobs: options.jobs, patience: options.writers };
    match fingerprint::take(&how, &wanted, || session::open_reader(settings, TOOL, "fingerprint")) {
        Err(error) => report.add(&FINGERPRINT, Finding::failed(&error)),
        Ok(prints) => {
            for ((table, _), print) in tables.iter().zip(prints) {
                report.add(&FINGERPRINT, found(table, print.as_ref()).on(table.to_string()));
                if let Some(print) = print {
                    recorder.emit("table", print.to_json());
                }
            }
        }
    }
}

fn time_column(expected: Option<&Expected>, table: &TableName) -> Option<String> {
    let promised = expected?
        .hypertables
        .iter()
        .find(|promised| TableName::parse(&promised.table).as_ref() == Some(table));
    Some(promised?.time_column.clone())
}

fn found(table: &TableName, print: Option<&Print>) -> Finding {
    let Some(print) = print else {
        return Finding::info(format!("Rows of {table}: the table is not there yet"));
    };
    let up_to = match (&print.key, print.highest) {
        (Some(key), Some(highest)) => format!(" up to {key} {highest}"),
        _ => String::new(),
    };
    let line = format!("Rows of {table}: {} counted and hashed{up_to}", print.rows);
    if print.proven() {
        return Finding::pass(line);
    }
    Finding::warn(format!("{line}; whether rows are lost later can be proven in part only"))
        .because_all(print.why_not.iter().cloned())
        .remedy("stop what writes to it, then run this again")
}
