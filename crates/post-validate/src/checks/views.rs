//! Views, materialized views and continuous aggregates: there, with their columns, and each can be selected from.

use ms5_common::check::{Check, Finding};
use ms5_common::db::server_error::reasons;
use ms5_common::expected;
use ms5_common::timescale::policies;

use super::schema::compare;
use super::{Bench, SqlResult, is_busy, jobs, number, present};
use crate::catalog;

/// Continuous aggregates.
pub(super) const AGGREGATES: Check = Check::new(
    "continuous-aggregates",
    "each continuous aggregate promised",
    "there; under the licence apache a plain view",
);
/// Views.
pub(super) const VIEWS: Check = Check::new(
    "views",
    "views and materialized views promised, continuous aggregates too",
    "all are there, with the columns promised",
);
/// Selected from.
pub(super) const SELECTED: Check =
    Check::new("views-select", "a SELECT from each of them that reads no row", "the server takes it");

/// How long a view is waited for, but for the first that is locked: many may read the one table that somebody holds.
const SHORT: &str = "SET LOCAL lock_timeout = '50ms'; ";

pub(super) fn aggregates(bench: &mut Bench<'_>) -> SqlResult {
    let promised: Vec<&String> = bench.expected().continuous_aggregates.keys().collect();
    if promised.is_empty() {
        return Ok(());
    }
    if !bench.extension.community() {
        let finding = Finding::info("The license has no continuous aggregates: plain views stand for them")
            .because_all(promised.into_iter().cloned());
        bench.add(&AGGREGATES, finding);
        return Ok(());
    }
    let seen = policies::continuous_aggregates(&mut bench.client)?;
    let relations = present(bench, promised.iter().copied())?;
    let (there, not): (Vec<&String>, Vec<&String>) =
        promised.iter().copied().partition(|name| seen.contains(name));
    let again = format!("run the migrations again under this license: {}", bench.input.runner("--force"));
    for view in not {
        let finding = if relations.contains(&view) {
            Finding::warn(format!("{view} is a plain view, left from the apache license")).remedy(&again)
        } else {
            Finding::fail(format!("The continuous aggregate {view} is missing"))
                .remedy(bench.input.runner("--force"))
        };
        bench.report.add(&AGGREGATES, finding.on(view));
    }
    if there.len() == promised.len() {
        let finding = Finding::pass(format!("Continuous aggregates promised and there: {}", there.len()));
        bench.add(&AGGREGATES, finding);
    }
    let there: Vec<String> = there.into_iter().cloned().collect();
    jobs::refresh(bench, &there)
}

/// Every view with its columns.
fn promised<'a>(bench: &Bench<'a>) -> Vec<(&'a String, &'a expected::Columns)> {
    let expected = bench.expected();
    let aggregates = expected.continuous_aggregates.iter().map(|(name, of)| (name, &of.columns));
    expected.views.iter().chain(&expected.materialized_views).chain(aggregates).collect()
}

pub(super) fn views(bench: &mut Bench<'_>) -> SqlResult {
    let promised = promised(bench);
    let names: Vec<String> = promised.iter().map(|(name, _)| (*name).clone()).collect();
    let columns = catalog::columns(&mut bench.client, &names)?;
    let remedy = bench.input.runner("--force");
    let mut right = 0;
    for (view, wanted) in &promised {
        let findings = if columns.contains_key(*view) {
            compare(view, wanted, columns.get(*view), false, &remedy)
        } else {
            vec![Finding::fail(format!("The view {view} is missing")).on(*view).remedy(&remedy)]
        };
        right += usize::from(findings.is_empty());
        findings.into_iter().for_each(|finding| bench.add(&VIEWS, finding));
    }
    if right == promised.len() && right > 0 {
        bench.add(&VIEWS, Finding::pass(format!("Views promised and there: {right}")));
    }
    Ok(())
}

pub(super) fn selected(bench: &mut Bench<'_>) -> SqlResult {
    let promised = promised(bench);
    let there = present(bench, promised.iter().map(|(name, _)| *name))?;
    let message = |view: &String| format!("SELECT * FROM {view} LIMIT 0");
    let messages: Vec<String> = there.iter().map(|view| format!("{SHORT}{}", message(view))).collect();
    // All are sent at once; behind one that fails the others are asked one by one.
    let mut right =
        match bench.client.pipeline(&messages.iter().map(String::as_str).collect::<Vec<_>>(), |_| {}) {
            Ok(_) => there.len(),
            Err((failed, _)) => failed,
        };
    let mut patience = "";
    for view in there.iter().skip(right) {
        let Err(error) = bench.client.batch_execute(&format!("{patience}{}", message(view))) else {
            right += 1;
            continue;
        };
        if error.as_db_error().is_none() {
            return Err(error);
        }
        if is_busy(&error) {
            patience = SHORT;
        }
        bench.report.add(&SELECTED, refused(view, &error, &bench.input.runner("--force")).on(*view));
    }
    if right == there.len() && right > 0 {
        bench.add(&SELECTED, Finding::pass(format!("{} can be selected from", number(right, "view"))));
    }
    Ok(())
}

/// What the server's refusal of a SELECT means.
fn refused(view: &str, error: &postgres::Error, again: &str) -> Finding {
    let finding = if is_busy(error) {
        Finding::warn(format!("Busy: {view} cannot be selected from now"))
            .remedy("run it again when what it reads is no longer locked")
    } else if error.code().is_some_and(|code| code.code() == "55000") {
        Finding::fail(format!("{view} cannot be selected from"))
            .remedy(format!("REFRESH MATERIALIZED VIEW {view};"))
    } else {
        Finding::fail(format!("{view} cannot be selected from"))
            .remedy(format!("mend what the server names, or make it anew: {again}"))
    };
    finding.because_all(reasons(error))
}
