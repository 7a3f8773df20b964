//! Background jobs: the refresh policies promised, and how every job last ended.

use ms5_common::check::{Check, Finding};
use ms5_common::timescale::policies::{self, Job, Kind};

use super::hypertables::not_scheduled;
use super::{Bench, SqlResult, number};

/// Refresh policies.
pub(super) const REFRESH_POLICIES: Check = Check::new(
    "refresh-policies",
    "the refresh policy of each continuous aggregate (licence timescale)",
    "there, scheduled, with the offset and the pause promised",
);
/// Last results.
pub(super) const RESULTS: Check =
    Check::new("jobs", "background jobs and how they last ended", "none has failed, none is switched off");

/// Reads them for this and other checks.
pub(super) fn read(bench: &mut Bench<'_>) -> SqlResult {
    bench.jobs = policies::jobs(&mut bench.client)?;
    Ok(())
}

/// The policies of the continuous aggregates that are there.
pub(super) fn refresh(bench: &mut Bench<'_>, there: &[String]) -> SqlResult {
    let remedy = bench.input.runner("--force");
    let mut right = 0;
    for view in there {
        let refresh = bench.expected().continuous_aggregates.get(view).and_then(|one| one.refresh.as_ref());
        let Some(wanted) = refresh else { continue };
        let of_view = |job: &&Job| job.kind == Kind::Refresh && job.on.as_deref() == Some(view.as_str());
        let finding = match bench.jobs.iter().find(of_view) {
            None => Finding::fail(format!("{view} has no refresh policy")).remedy(&remedy),
            Some(job)
                if job.offset != bench.intervals.get(&wanted.end_offset).copied()
                    || Some(job.every) != bench.intervals.get(&wanted.every).copied() =>
            {
                Finding::fail(format!("The refresh policy of {view} is not as promised"))
                    .because(&job.name)
                    .remedy(&remedy)
            }
            Some(job) if !job.scheduled => not_scheduled(job),
            Some(_) => {
                right += 1;
                continue;
            }
        };
        let text = format!("refreshed every {}, up to {} ago", wanted.every, wanted.end_offset);
        bench.report.add(&REFRESH_POLICIES, finding.on(view).wanted(text));
    }
    if right > 0 && right == there.len() {
        let finding = Finding::pass(format!("Refresh policies validated: {}", number(right, "aggregate")));
        bench.add(&REFRESH_POLICIES, finding);
    }
    Ok(())
}

pub(super) fn results(bench: &mut Bench<'_>) -> SqlResult {
    let jobs = std::mem::take(&mut bench.jobs);
    let mut well = true;
    for job in &jobs {
        // TimescaleDB's own: one of them wants to reach the internet, which a plant's server cannot.
        let own = job.id < 1000;
        let finding = if job.last_status.as_deref() == Some("Failed") {
            let seen = format!(
                "The job {} has failed {} of {} times, the last time too",
                job.name, job.runs.1, job.runs.0
            );
            let finding = if own { Finding::info(seen) } else { Finding::warn(seen) };
            let finding = finding.because_all(job.last_error.clone());
            if own {
                finding.because("it is TimescaleDB's own, and nothing here depends on it")
            } else {
                finding.remedy(format!("when the cause is mended: CALL run_job({});", job.id))
            }
        } else if !job.scheduled && !own && matches!(job.kind, Kind::Other | Kind::Retention) {
            not_scheduled(job)
        } else {
            continue;
        };
        well = false;
        bench.report.add(&RESULTS, finding.on(&job.name));
    }
    if well {
        bench.add(
            &RESULTS,
            Finding::pass(format!("No background job has failed: {}", number(jobs.len(), "job"))),
        );
    }
    bench.jobs = jobs;
    Ok(())
}
