//! The hypertables promised: time column, chunk interval, compression and the policy that does it.

use std::collections::BTreeMap;

use ms5_common::check::{Check, Finding};
use ms5_common::expected;
use ms5_common::timescale::hypertables::{self, Compression};
use ms5_common::timescale::policies::{Job, Kind};

use super::{Bench, SqlResult};
use crate::catalog;

/// Each hypertable.
pub(super) const HYPERTABLES: Check = Check::new(
    "hypertables",
    "each hypertable promised",
    "it is one, divided by the column and the interval promised",
);
/// Compression settings.
pub(super) const COMPRESSION: Check = Check::new(
    "compression",
    "the compression settings of each hypertable (licence timescale)",
    "segmentby and orderby as promised",
);
/// Compression policies.
pub(super) const COMPRESSION_POLICIES: Check = Check::new(
    "compression-policies",
    "the compression policy of each hypertable (licence timescale)",
    "there, scheduled, after the age promised",
);

pub(super) fn check(bench: &mut Bench<'_>) -> SqlResult {
    bench.intervals = intervals(bench)?;
    let all = hypertables::read(&mut bench.client)?;
    let promised = &bench.expected().hypertables;
    let mut right = 0;
    for wanted in promised {
        let seen = all.iter().find(|seen| seen.table == wanted.table);
        let finding = match seen {
            None => Finding::fail(format!("{} is not a hypertable", wanted.table))
                .remedy(bench.input.runner("--force")),
            Some(seen) if seen.time_column != wanted.time_column => Finding::fail(format!(
                "{} is divided by {}, not by {}",
                wanted.table, seen.time_column, wanted.time_column
            ))
            .remedy("this cannot be changed in place: copy the rows into a new hypertable"),
            Some(seen) => {
                let interval = bench.intervals.get(&wanted.chunk_interval).copied();
                if interval.or_else(|| wanted.chunk_interval.parse().ok()) == Some(seen.interval) {
                    right += 1;
                    Finding::pass(format!("Hypertable validated: {}", wanted.table))
                } else {
                    let argument = match wanted.chunk_interval.parse::<i64>() {
                        Ok(number) => number.to_string(),
                        Err(_) => format!("INTERVAL '{}'", wanted.chunk_interval),
                    };
                    Finding::fail(format!(
                        "{} makes chunks of {}, not of {}",
                        wanted.table, seen.interval_text, wanted.chunk_interval
                    ))
                    .remedy(format!(
                        "SELECT set_chunk_time_interval('{}', {argument}); it holds for new chunks",
                        wanted.table
                    ))
                }
            }
        };
        let wanted_text =
            format!("a hypertable by {}, chunks of {}", wanted.time_column, wanted.chunk_interval);
        bench.report.add(&HYPERTABLES, finding.on(&wanted.table).wanted(wanted_text));
    }
    if right == promised.len() {
        bench.add(&HYPERTABLES, Finding::pass("All expected hypertables validated"));
    }
    bench.hypertables =
        all.into_iter().filter(|seen| promised.iter().any(|wanted| wanted.table == seen.table)).collect();
    Ok(())
}

/// What the intervals of expected.json mean.
fn intervals(bench: &mut Bench<'_>) -> Result<BTreeMap<String, i64>, postgres::Error> {
    let expected = bench.expected();
    let of_tables = expected.hypertables.iter().flat_map(|table| {
        let after = table.compression.as_ref().and_then(|compression| compression.after.as_ref());
        [Some(&table.chunk_interval), after]
    });
    let of_aggregates = expected.continuous_aggregates.values().flat_map(|aggregate| {
        let refresh = aggregate.refresh.as_ref();
        [refresh.map(|refresh| &refresh.end_offset), refresh.map(|refresh| &refresh.every)]
    });
    // A number is the interval of a table that is divided by one.
    let texts: Vec<String> = of_tables
        .chain(of_aggregates)
        .flatten()
        .filter(|text| text.parse::<i64>().is_err())
        .cloned()
        .collect();
    catalog::intervals(&mut bench.client, &texts)
}

pub(super) fn compression(bench: &mut Bench<'_>) -> SqlResult {
    let promised: Vec<(&str, &expected::Compression)> = bench
        .expected()
        .hypertables
        .iter()
        .filter_map(|table| Some((table.table.as_str(), table.compression.as_ref()?)))
        .collect();
    if promised.is_empty() {
        return Ok(());
    }
    if !bench.extension.community() {
        let license = bench.extension.license.as_deref().unwrap_or("apache").to_owned();
        let finding = Finding::info(format!("The {license} license has no compression and no policies"));
        bench.add(&COMPRESSION, finding);
        return Ok(());
    }
    let version = bench.version();
    let seen = hypertables::compression(&mut bench.client, version)?;
    let none = promised
        .iter()
        .all(|(table, _)| !bench.hypertables.iter().any(|seen| seen.table == *table && seen.compression));
    if none {
        // The migrations ran under the other licence, which is no fault of theirs.
        let finding =
            Finding::warn("No hypertable is compressed: the migrations ran under the apache license")
                .remedy(format!("run them again under this one: {}", bench.input.runner("--force")));
        bench.add(&COMPRESSION, finding);
        return Ok(());
    }
    let remedy = bench.input.runner("--force");
    let (mut settings, mut policies) = (0, 0);
    for (table, wanted) in &promised {
        match settings_differ(wanted, seen.iter().find(|seen| seen.table == *table)) {
            None => settings += 1,
            Some(how) => {
                let finding = Finding::fail(format!("The compression of {table} is not as promised: {how}"))
                    .on(*table)
                    .wanted(format!(
                        "segmentby {}; orderby {}",
                        wanted.segmentby.join(", "),
                        wanted.orderby.join(", ")
                    ))
                    .remedy(&remedy);
                bench.report.add(&COMPRESSION, finding);
            }
        }
        let Some(after) = &wanted.after else { continue };
        let of_table = |job: &&Job| job.kind == Kind::Compression && job.on.as_deref() == Some(*table);
        let finding = match bench.jobs.iter().find(of_table) {
            None => Finding::fail(format!("{table} has no compression policy")).remedy(&remedy),
            Some(job) if job.offset != bench.intervals.get(after).copied() => {
                Finding::fail(format!("The compression policy of {table} does not wait for {after}"))
                    .because(&job.name)
                    .remedy(&remedy)
            }
            Some(job) if !job.scheduled => not_scheduled(job),
            Some(_) => {
                policies += 1;
                continue;
            }
        };
        let finding = finding.on(*table).wanted(format!("compresses chunks older than {after}"));
        bench.report.add(&COMPRESSION_POLICIES, finding);
    }
    if settings == promised.len() {
        let finding = Finding::pass(format!("Compression settings validated: {settings} hypertables"));
        bench.add(&COMPRESSION, finding);
    }
    if policies > 0 && policies == promised.iter().filter(|(_, wanted)| wanted.after.is_some()).count() {
        let finding = Finding::pass(format!("Compression policies validated: {policies} hypertables"));
        bench.add(&COMPRESSION_POLICIES, finding);
    }
    Ok(())
}

/// A job that is switched off.
pub(super) fn not_scheduled(job: &Job) -> Finding {
    Finding::warn(format!("The job {} is switched off", job.name))
        .remedy(format!("SELECT alter_job({}, scheduled => true);", job.id))
}

/// How the settings differ; None where they do not.
fn settings_differ(wanted: &expected::Compression, seen: Option<&Compression>) -> Option<String> {
    let Some(seen) = seen else { return Some("it is not compressed".to_owned()) };
    let (mut by, mut wanted_by) = (seen.segmentby.clone(), wanted.segmentby.clone());
    by.sort();
    wanted_by.sort();
    if by != wanted_by {
        return Some(format!("segmentby is {}", seen.segmentby.join(", ")));
    }
    let plain = |order: &[String]| -> Vec<String> {
        order.iter().map(|item| item.strip_suffix(" ASC").unwrap_or(item).to_owned()).collect()
    };
    (plain(&seen.orderby) != plain(&wanted.orderby))
        .then(|| format!("orderby is {}", seen.orderby.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_compared() {
        let texts = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
        let wanted = expected::Compression {
            segmentby: texts(&["a", "b"]),
            orderby: texts(&["ts DESC", "id"]),
            after: None,
        };
        let seen = |by: &[&str], order: &[&str]| Compression {
            table: "s.t".into(),
            segmentby: texts(by),
            orderby: texts(order),
        };
        assert_eq!(settings_differ(&wanted, Some(&seen(&["b", "a"], &["ts DESC", "id ASC"]))), None);
        assert!(
            settings_differ(&wanted, Some(&seen(&["a"], &["ts DESC", "id"]))).unwrap().contains("segmentby")
        );
        assert!(
            settings_differ(&wanted, Some(&seen(&["a", "b"], &["ts", "id"]))).unwrap().contains("orderby")
        );
        assert!(settings_differ(&wanted, None).is_some());
    }
}
