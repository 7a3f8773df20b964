//! What the database is doing now: a hint at the hour, and who would hold the migration up.

use std::thread;
use std::time::Duration;

use ms5_common::check::{Finding, Report};
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
    let rows = client.query_typed(
        "SELECT pid, coalesce(nullif(application_name, ''), '?'), coalesce(usename::text, '?'), coalesce(state, '?'),
                extract(epoch FROM clock_timestamp() - xact_start)::float8
         FROM pg_catalog.pg_stat_activity
         WHERE datname = current_database() AND xact_start IS NOT NULL AND pid <> pg_backend_pid()
           AND backend_type = 'client backend'
         ORDER BY xact_start LIMIT 3",
        &[],
    );
    let rows = match rows {
        Ok(rows) => rows,
        Err(error) => return Finding::warn("Open transactions: cannot be read").because_all(reasons(&error)),
    };
    let oldest = rows.first().map_or(0.0, |row| row.get::<_, f64>(4));
    let line = if rows.is_empty() {
        "Open transactions: none".to_owned()
    } else {
        format!("Open transactions: the oldest is {oldest:.0} s old")
    };
    if oldest <= limit.as_secs_f64() {
        return Finding::pass(line);
    }
    let who = rows.iter().map(|row| {
        let (pid, application, user, state): (i32, &str, &str, &str) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        format!("pid {pid}, {application}, user {user}, {state}, {:.0} s", row.get::<_, f64>(4))
    });
    Finding::warn(format!("{line}: a migration would wait for it"))
        .because_all(who.collect::<Vec<_>>())
        .remedy("let it end, or end it: SELECT pg_terminate_backend(PID);")
}
