//! The lock budget: whether the server's lock table has room for the chunks that a conversion makes in one transaction.

use ms5_common::check::{Finding, Report};
use ms5_common::db::client::Client;
use ms5_common::db::server_error::{gave_up, reasons};
use ms5_common::expected::{Expected, Hypertable};
use ms5_common::sql::{TableName, escape_identifier};
use postgres::types::Type;

use super::LOCKS;
use super::server::{Facts, LockRoom};

/// Makes the check for every promised hypertable that is a plain table yet.
pub(crate) fn check(
    report: &mut Report<'_>,
    client: &mut Client,
    facts: &Facts,
    expected: Option<&Expected>,
) {
    let Some(room) = facts.lock_room() else {
        report.add(&LOCKS, Finding::skipped("the server does not tell its settings"));
        return;
    };
    let mut looked = false;
    for promised in expected.iter().flat_map(|expected| &expected.hypertables) {
        let finding = match Span::of(client, promised) {
            Ok(None) => continue,
            Ok(Some(span)) => judge(&promised.table, &span, room),
            Err(error) if gave_up(&error) => Finding::info(format!(
                "Chunks of {}: its first and last {} cannot be found within a second, so they are not forecast",
                promised.table, promised.time_column
            ))
            .because("an index on that column would tell at once"),
            Err(error) => Finding::warn(format!("Chunks of {} cannot be forecast", promised.table))
                .because_all(reasons(&error)),
        };
        looked = true;
        report.add(&LOCKS, finding.on(&promised.table));
    }
    if !looked {
        report.add(&LOCKS, Finding::skipped("no table is there that is to become a hypertable"));
    }
}

/// What a table spans, and what each of its chunks costs.
struct Span {
    first: String,
    last: String,
    /// How many chunk intervals lie between the two, the last one begun included; None where one of the two has no end.
    chunks: Option<u64>,
    /// Objects that creating a chunk locks: the chunk, its indexes with the one that create_hypertable adds, its TOAST
    /// table with its index. Seen in pg_locks: 7.1 a chunk for a table with three indexes and TOAST.
    objects: u64,
    /// Rows before the year 2000, or later than a year from now.
    outliers: bool,
}

impl Span {
    /// Asks; None where the table is not there, is empty, or is a hypertable already (it has chunks instead of rows).
    fn of(client: &mut Client, promised: &Hypertable) -> Result<Option<Self>, postgres::Error> {
        let Some(table) = TableName::parse(&promised.table) else { return Ok(None) };
        let column = client.query_typed(
            "SELECT format_type(a.atttypid, NULL), c.oid::regclass::text,
                    2 + (SELECT count(*) FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid)
                      + CASE WHEN c.reltoastrelid <> 0 THEN 2 ELSE 0 END
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = $3 AND a.attnum > 0
             WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind = 'r'
               AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits h WHERE h.inhparent = c.oid)",
            &[(&table.schema, Type::TEXT), (&table.table, Type::TEXT), (&promised.time_column, Type::TEXT)],
        )?;
        let Some(row) = column.first() else { return Ok(None) };
        let (kind, name): (String, String) = (row.get(0), row.get(1));
        let objects = u64::try_from(row.get::<_, i64>(2)).unwrap_or_default();
        let column = escape_identifier(&promised.time_column);
        let (length, outliers) = if kind.starts_with("timestamp") || kind == "date" {
            (
                "CASE WHEN isfinite(first) AND isfinite(last)
                      THEN extract(epoch FROM last::timestamp - first::timestamp)
                           / extract(epoch FROM $1::text::interval) END",
                "first < '2000-01-01' OR last > now() + interval '1 year'",
            )
        } else {
            ("(last::numeric - first::numeric) / $1::text::numeric", "false")
        };
        let found = client.query_typed(
            &format!(
                "SELECT first::text, last::text, (CASE WHEN n > 1e15 THEN 1e15 ELSE floor(n) + 1 END)::bigint, {outliers}
                 FROM (SELECT min({column}) AS first, max({column}) AS last FROM ONLY {name}) t, LATERAL (SELECT {length} AS n) l
                 WHERE first IS NOT NULL"
            ),
            &[(&promised.chunk_interval, Type::TEXT)],
        )?;
        Ok(found.first().map(|row| Self {
            first: row.get(0),
            last: row.get(1),
            chunks: row.get::<_, Option<i64>>(2).and_then(|chunks| u64::try_from(chunks).ok()),
            objects,
            outliers: row.get(3),
        }))
    }
}

fn judge(table: &str, span: &Span, room: LockRoom) -> Finding {
    let between = format!("its rows lie between {} and {}", span.first, span.last);
    let Some(chunks) = span.chunks else {
        return Finding::warn(format!("{table} has rows at the end of time, which no chunk can hold"))
            .because(between)
            .remedy("give these rows a time, or delete them, before the migration");
    };
    let locks = chunks.saturating_mul(span.objects);
    let line = format!(
        "Locks for {table}: at most {locks} in one transaction, for {chunks} chunks; the server has room for {}",
        room.all()
    );
    // Twice, as others want locks too.
    let (enough, wanted) = room.for_locks(locks.saturating_mul(2));
    let finding = match (enough, span.outliers) {
        (true, false) => return Finding::pass(line),
        (true, true) => Finding::warn(line),
        (false, _) => Finding::warn(line).remedy(format!(
            "ALTER SYSTEM SET max_locks_per_transaction = {wanted}; then restart the server; or promise longer chunks"
        )),
    };
    let finding = finding.because(between);
    if span.outliers {
        return finding
            .because("times before 2000 or more than a year ahead mostly come from clocks that were wrong")
            .remedy("look at these rows first: each lonely one makes a chunk of its own");
    }
    finding
}

#[cfg(test)]
mod tests {
    use ms5_common::check::Verdict;

    use super::*;

    #[test]
    fn chunks_are_held_against_the_lock_table() {
        let of = |chunks, outliers| {
            let span = Span { first: "a".into(), last: "b".into(), chunks, objects: 7, outliers };
            judge("s.t", &span, LockRoom { each: 64, backends: 100 })
        };
        assert_eq!(of(Some(457), false).verdict(), Verdict::Pass);
        assert_eq!(of(Some(458), false).verdict(), Verdict::Warn);
        assert!(format!("{:?}", of(Some(1000), false)).contains("max_locks_per_transaction = 140;"));
        assert_eq!(of(Some(1), true).verdict(), Verdict::Warn);
        assert_eq!(of(None, false).verdict(), Verdict::Warn);
        assert_eq!(of(Some(u64::MAX), false).verdict(), Verdict::Warn);
    }
}
