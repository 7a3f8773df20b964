//! What the database is doing now: a hint at the hour, and who would hold the migration up.

use std::thread;
use std::time::Duration;

use ms5_common::check::{Finding, Report};
use ms5_common::db::backend;
use ms5_common::db::client::Client;
use ms5_common::db::server_error::reasons;

use super::{ACTIVITY, LONGEST};

/// Makes the checks.
pub(crate) fn check(report: &mut Report<'_>, client: &mut Client, limit: Duration, quick: bool) {
    report.add(&ACTIVITY, if quick { Finding::skipped("--quick") } else { rate(client) });
    report.add(&LONGEST, longest(client, limit));
}

fn rate(client: &mut Client) -> Finding {
    let mut look = || {
        // Within a transaction the statistics would stand still.
        let row = client.query_typed_one(
            "SELECT xact_commit + xact_rollback, extract(epoch FROM clock_timestamp())::float8
             FROM pg_catalog.pg_stat_database WHERE datname = current_database()",
            &[],
        )?;
        Ok((row.get::<_, i64>(0), row.get::<_, f64>(1)))
    };
    let measured = look().and_then(|before| {
        thread::sleep(Duration::from_secs(1));
        Ok::<_, postgres::Error>((before, look()?))
    });
    match measured {
        Ok(((before, begun), (after, ended))) => {
            let count = u32::try_from((after - before).max(0)).unwrap_or(u32::MAX);
            let rate = f64::from(count) / (ended - begun).max(0.001);
            Finding::info(format!("Activity: {rate:.0} transactions a second"))
                .because("migrate in an hour in which there are few: tables are locked meanwhile")
        }
        Err(error) => Finding::warn("Activity: cannot be read").because_all(reasons(&error)),
    }
}

fn longest(client: &mut Client, limit: Duration) -> Finding {
    let open = match backend::open_transactions(client) {
        Ok(open) => open,
        Err(error) => return Finding::warn("Open transactions: cannot be read").because_all(reasons(&error)),
    };
    let Some(oldest) = open.first() else { return Finding::pass("Open transactions: none") };
    let line = format!("Open transactions: the oldest is {} s old", oldest.age.as_secs());
    if oldest.age <= limit {
        return Finding::pass(line);
    }
    Finding::warn(format!("{line}: a migration would wait for it"))
        .because_all(open.iter().map(ToString::to_string))
        .remedy("let it end, or end it: SELECT pg_terminate_backend(PID);")
}
