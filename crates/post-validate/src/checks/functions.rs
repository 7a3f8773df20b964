//! TimescaleDB's functions give what they should.

use ms5_common::check::{Check, Finding};

use super::{Bench, SqlResult};

/// time_bucket and its kin.
pub(super) const TIMESCALE_FUNCTIONS: Check = Check::new(
    "timescaledb-functions",
    "time_bucket, and time_bucket_gapfill under the licence timescale",
    "they give the buckets that they should",
);

pub(super) fn check(bench: &mut Bench<'_>) -> SqlResult {
    let schema = bench.functions_in().to_owned();
    let bucket: bool = bench
        .client
        .query_typed_one(
            &format!(
                "SELECT {schema}.time_bucket(INTERVAL '1 hour', TIMESTAMPTZ '2024-01-15 10:30:00+00')
                        = TIMESTAMPTZ '2024-01-15 10:00:00+00'"
            ),
            &[],
        )?
        .get(0);
    let mut right = bucket;
    let mut seen = vec!["time_bucket"];
    if bench.extension.community() {
        let buckets: i64 = bench
            .client
            .query_typed_one(
                &format!(
                    "SELECT count(*) FROM (
                         SELECT {schema}.time_bucket_gapfill(INTERVAL '1 hour', t, TIMESTAMPTZ '2024-01-15 10:00+00',
                                                             TIMESTAMPTZ '2024-01-15 13:00+00') AS b
                         FROM (VALUES (TIMESTAMPTZ '2024-01-15 10:30+00')) v (t)
                         WHERE t >= TIMESTAMPTZ '2024-01-15 10:00+00' AND t < TIMESTAMPTZ '2024-01-15 13:00+00'
                         GROUP BY b) g"
                ),
                &[],
            )?
            .get(0);
        right &= buckets == 3;
        seen.push("time_bucket_gapfill");
    }
    let finding = if right {
        Finding::pass("TimescaleDB functions validated").because(seen.join(", "))
    } else {
        Finding::fail(format!("TimescaleDB's functions give wrong buckets: {}", seen.join(", ")))
            .remedy("look whether another function of that name stands in the extension's schema")
    };
    bench.add(&TIMESCALE_FUNCTIONS, finding);
    Ok(())
}
