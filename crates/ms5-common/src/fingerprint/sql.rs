//! The statements of a fingerprint. No I/O.

use super::Column;
use crate::sql::escape_identifier;

/// What every transaction of a fingerprint begins with. Texts of values depend on settings, and those of the database, of the
/// role or of PGOPTIONS must not move them. Waiting for a lock would make those behind us wait as well. A policy on rows would
/// hide rows: without it the server refuses instead. JIT compiles again for each part, and gains nothing.
pub(super) const PINNED: &str = "SET LOCAL search_path = pg_catalog; SET LOCAL TimeZone = 'UTC'; \
     SET LOCAL DateStyle = 'ISO, YMD'; SET LOCAL IntervalStyle = postgres; SET LOCAL extra_float_digits = 3; \
     SET LOCAL bytea_output = hex; SET LOCAL lc_monetary = 'C'; SET LOCAL xmlbinary = base64; \
     SET LOCAL quote_all_identifiers = off; SET LOCAL row_security = off; SET LOCAL lock_timeout = '1s'; \
     SET LOCAL statement_timeout = 0; SET LOCAL jit = off";

/// How the days of a column are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Days {
    /// timestamp with time zone.
    Zoned,
    /// timestamp without time zone.
    Plain,
    /// date.
    Date,
}

/// What is counted and hashed of a table.
#[derive(Debug, Clone)]
pub(super) struct Content<'a> {
    pub(super) columns: &'a [Column],
    pub(super) days: Option<(&'a str, Days)>,
    /// The key and the highest one that is covered.
    pub(super) key: Option<(&'a str, i64)>,
}

/// A part of a table: all of it, or a range of its blocks, whose end may be open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Blocks {
    pub(super) begin: u64,
    pub(super) end: Option<u64>,
}

/// Rows, hash and rows above the highest key, for each day. `relation` is SQL text, with ONLY where its children are not meant.
///
/// Columns come through a subquery that is not pulled up, for the planner's sake: of a grouping by an expression it
/// thinks as many groups as the time column has values, and sorts; of a column of such a subquery it thinks 200, and hashes, also
/// in parallel workers. (`OFFSET '0'` is a constant of the right type before planning; the `OFFSET 0` that people write is
/// not yet one when parallel workers are decided on, and excludes them.)
pub(super) fn scan(relation: &str, content: &Content<'_>, blocks: Option<Blocks>) -> String {
    let mut inner: Vec<String> = (content.columns.iter().enumerate())
        .map(|(number, column)| {
            let name = escape_identifier(&column.name);
            if column.as_text {
                format!("(t.{name})::text COLLATE \"C\" AS c{number}")
            } else {
                format!("t.{name} AS c{number}")
            }
        })
        .collect();
    let names: Vec<String> = (0..content.columns.len()).map(|number| format!("c{number}")).collect();
    let day = match content.days {
        None => "NULL::text",
        Some((column, days)) => {
            let column = escape_identifier(column);
            inner.push(match days {
                // Counting from midnight in days of 24 hours is much cheaper than a calendar's date.
                Days::Zoned => {
                    format!("date_bin('1 day', t.{column}, '2000-01-01 00:00:00+00'::timestamptz) AS d")
                }
                Days::Plain => {
                    format!("date_bin('1 day', t.{column}, '2000-01-01 00:00:00'::timestamp) AS d")
                }
                Days::Date => format!("t.{column} AS d"),
            });
            "d::date::text"
        }
    };
    let (covered, above) = match content.key {
        None => (String::new(), "0::bigint".to_owned()),
        Some((key, highest)) => {
            inner.push(format!("t.{} AS k", escape_identifier(key)));
            // In quotes: the lowest of all numbers is no number with a sign before it.
            let covered = format!(" FILTER (WHERE k <= '{highest}'::bigint)");
            (covered, format!("count(*) FILTER (WHERE k > '{highest}'::bigint)"))
        }
    };
    let blocks = blocks.map_or_else(String::new, |Blocks { begin, end }| {
        let end = end.map_or_else(String::new, |end| format!(" AND t.ctid < '({end},0)'::tid"));
        format!(" WHERE t.ctid >= '({begin},0)'::tid{end}")
    });
    let group = if content.days.is_some() { " GROUP BY d" } else { "" };
    format!(
        "SELECT {day}, count(*){covered}, \
         (sum(hash_record_extended(ROW({names}), 0)){covered})::text, {above} \
         FROM (SELECT {inner} FROM {relation} t{blocks} OFFSET '0') s{group}",
        names = names.join(", "),
        inner = inner.join(", "),
    )
}

/// Cuts a table of so many blocks into ranges for `jobs` sessions: several for each, so that none waits long for the last.
pub(super) fn ranges(blocks: u64, jobs: usize) -> Vec<Option<Blocks>> {
    /// 8 MiB: less is not worth a statement.
    const LEAST: u64 = 1024;
    let parts = u64::try_from(jobs).unwrap_or(1).saturating_mul(4);
    let size = blocks.div_ceil(parts.max(1)).max(LEAST);
    // Parallel workers, which one session may be given, take no ranges of blocks.
    if jobs <= 1 || blocks <= size {
        return vec![None];
    }
    let mut ranges = Vec::new();
    let mut begin = 0;
    while begin < blocks {
        let end = begin.saturating_add(size);
        // Blocks that are added meanwhile hold nothing that the snapshot sees; rows are not missed if it is otherwise.
        ranges.push(Some(Blocks { begin, end: (end < blocks).then_some(end) }));
        begin = end;
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, as_text: bool) -> Column {
        Column { name: name.to_owned(), type_name: "x".to_owned(), as_text }
    }

    #[test]
    fn a_scan_names_its_columns_in_quotes_and_covers_keys_up_to_the_highest() {
        let columns = [column("a \"b\"", false), column("id", false), column("Ökö", true)];
        let content = Content { columns: &columns, days: Some(("ts", Days::Zoned)), key: Some(("id", -7)) };
        assert_eq!(
            scan("ONLY \"s\".\"t\"", &content, Some(Blocks { begin: 5, end: Some(9) })),
            "SELECT d::date::text, count(*) FILTER (WHERE k <= '-7'::bigint), \
             (sum(hash_record_extended(ROW(c0, c1, c2), 0)) FILTER (WHERE k <= '-7'::bigint))::text, \
             count(*) FILTER (WHERE k > '-7'::bigint) \
             FROM (SELECT t.\"a \"\"b\"\"\" AS c0, t.\"id\" AS c1, (t.\"Ökö\")::text COLLATE \"C\" AS c2, \
             date_bin('1 day', t.\"ts\", '2000-01-01 00:00:00+00'::timestamptz) AS d, t.\"id\" AS k \
             FROM ONLY \"s\".\"t\" t WHERE t.ctid >= '(5,0)'::tid AND t.ctid < '(9,0)'::tid OFFSET '0') s GROUP BY d"
        );
    }

    #[test]
    fn without_key_and_time_all_rows_are_one_group() {
        let columns = [column("a", false)];
        let content = Content { columns: &columns, days: None, key: None };
        assert_eq!(
            scan("\"s\".\"t\"", &content, None),
            "SELECT NULL::text, count(*), (sum(hash_record_extended(ROW(c0), 0)))::text, 0::bigint \
             FROM (SELECT t.\"a\" AS c0 FROM \"s\".\"t\" t OFFSET '0') s"
        );
    }

    #[test]
    fn ranges_cover_every_block_once_and_the_last_is_open() {
        assert_eq!(ranges(1_000_000, 1), [None]);
        assert_eq!(ranges(1024, 8), [None]);
        assert_eq!(ranges(0, 8), [None]);
        for (blocks, jobs) in [(1025, 4), (29_269, 2), (1_000_000, 8), (4096, 3)] {
            let cut: Vec<Blocks> = ranges(blocks, jobs).into_iter().map(Option::unwrap).collect();
            assert_eq!(cut[0].begin, 0);
            assert_eq!(cut.last().unwrap().end, None);
            assert!(cut.last().unwrap().begin < blocks);
            assert!(cut.windows(2).all(|pair| pair[0].end == Some(pair[1].begin)));
            assert!(cut.len() <= jobs * 4);
        }
    }
}
