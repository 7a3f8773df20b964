//! Hypertables as they are: time column, chunk interval, chunks, compression. From 2.11 to the newest.

use std::collections::BTreeMap;

use postgres::types::{ToSql, Type};

use super::Version;
use crate::db::client::Client;
use crate::sql::TableName;

type SqlResult<T> = Result<T, postgres::Error>;

/// A hypertable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hypertable {
    /// `schema.name`, quoted where SQL wants that.
    pub table: String,
    /// The column of the first dimension.
    pub time_column: String,
    /// That column's type.
    pub time_type: String,
    /// The chunk interval in microseconds, or in the column's own unit where it is a number.
    pub interval: i64,
    /// The same as the server prints it.
    pub interval_text: String,
    /// How many chunks there are.
    pub chunks: i64,
    /// Whether compression is on.
    pub compression: bool,
}

/// Every hypertable that is not TimescaleDB's own.
///
/// # Errors
/// The client's.
pub fn read(client: &mut Client) -> SqlResult<Vec<Hypertable>> {
    let rows = client.query_typed(
        "SELECT quote_ident(h.hypertable_schema) || '.' || quote_ident(h.hypertable_name), d.column_name::text,
                d.column_type::text, coalesce((extract(epoch FROM d.time_interval) * 1000000)::bigint,
                d.integer_interval::bigint, 0), coalesce(d.time_interval::text, d.integer_interval::text, 'none'),
                h.num_chunks::bigint, h.compression_enabled
         FROM timescaledb_information.hypertables h JOIN timescaledb_information.dimensions d
           ON d.hypertable_schema = h.hypertable_schema AND d.hypertable_name = h.hypertable_name
          AND d.dimension_number = 1
         WHERE h.hypertable_schema !~ '^_timescaledb_' ORDER BY 1",
        &[],
    )?;
    Ok(rows
        .iter()
        .map(|row| Hypertable {
            table: row.get(0),
            time_column: row.get(1),
            time_type: row.get(2),
            interval: row.get(3),
            interval_text: row.get(4),
            chunks: row.get(5),
            compression: row.get(6),
        })
        .collect())
}

/// The names of the same.
///
/// # Errors
/// The client's.
pub fn names(client: &mut Client) -> SqlResult<Vec<TableName>> {
    let rows = client.query_typed(
        "SELECT hypertable_schema::text, hypertable_name::text FROM timescaledb_information.hypertables
         WHERE hypertable_schema !~ '^_timescaledb_' ORDER BY 1, 2",
        &[],
    )?;
    Ok(rows.iter().map(|row| TableName::new(row.get::<_, String>(0), row.get::<_, String>(1))).collect())
}

/// For each table whether it is there and is a plain table: no hypertable, not partitioned, no view.
///
/// # Errors
/// The client's.
pub fn plain_tables(client: &mut Client, tables: &[&TableName]) -> SqlResult<Vec<bool>> {
    let (schemas, names): (Vec<&str>, Vec<&str>) =
        tables.iter().map(|name| (name.schema.as_str(), name.table.as_str())).unzip();
    let rows = client.query_typed(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                        WHERE n.nspname = t.schema AND c.relname = t.name AND c.relkind = 'r')
                AND NOT EXISTS (SELECT FROM timescaledb_information.hypertables h
                                WHERE h.hypertable_schema = t.schema AND h.hypertable_name = t.name)
         FROM unnest($1, $2) WITH ORDINALITY t(schema, name, number) ORDER BY t.number",
        &[(&schemas, Type::TEXT_ARRAY), (&names, Type::TEXT_ARRAY)],
    )?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// How a hypertable is compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compression {
    /// `schema.name`.
    pub table: String,
    /// Columns.
    pub segmentby: Vec<String>,
    /// Columns, with ` DESC` behind those that are.
    pub orderby: Vec<String>,
}

/// The compression settings of every hypertable of users that has them.
///
/// # Errors
/// The client's.
pub fn compression(client: &mut Client, version: Version) -> SqlResult<Vec<Compression>> {
    let all = all_compression(client, version)?;
    Ok(all.into_iter().filter(|settings| !settings.table.starts_with("_timescaledb_")).collect())
}

/// The same with those of materializations. From 2.18 on the view for it is another one, which quotes the columns of `orderby` alone.
pub(super) fn all_compression(client: &mut Client, version: Version) -> SqlResult<Vec<Compression>> {
    if version >= Version::COLUMNSTORE {
        let rows = client.query_typed(
            "SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname),
                    ARRAY(SELECT quote_ident(x) FROM unnest(t.segmentby) WITH ORDINALITY u(x, place) ORDER BY place),
                    coalesce(s.orderby, '')
             FROM timescaledb_information.hypertable_columnstore_settings s
             JOIN _timescaledb_catalog.compression_settings t ON t.relid = s.hypertable
             JOIN pg_catalog.pg_class c ON c.oid = s.hypertable
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace",
            &[],
        )?;
        return Ok(rows
            .iter()
            .map(|row| Compression { table: row.get(0), segmentby: row.get(1), orderby: columns(row.get(2)) })
            .collect());
    }
    let rows = client.query_typed(
        "SELECT quote_ident(hypertable_schema) || '.' || quote_ident(hypertable_name),
                coalesce(array_agg(quote_ident(attname) ORDER BY segmentby_column_index)
                         FILTER (WHERE segmentby_column_index IS NOT NULL), '{}')::text[],
                coalesce(array_agg(quote_ident(attname) || CASE WHEN orderby_asc THEN '' ELSE ' DESC' END
                                   || CASE WHEN orderby_nullsfirst = orderby_asc
                                           THEN CASE WHEN orderby_asc THEN ' NULLS FIRST' ELSE ' NULLS LAST' END
                                           ELSE '' END ORDER BY orderby_column_index)
                         FILTER (WHERE orderby_column_index IS NOT NULL), '{}')::text[]
         FROM timescaledb_information.compression_settings GROUP BY 1",
        &[],
    )?;
    Ok(rows
        .iter()
        .map(|row| Compression { table: row.get(0), segmentby: row.get(1), orderby: row.get(2) })
        .collect())
}

/// A list as the view prints it: `ts DESC,"Code"`.
fn columns(text: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut quoted = false;
    for letter in text.chars() {
        quoted ^= letter == '"';
        match items.last_mut() {
            Some(item) if letter != ',' || quoted => item.push(letter),
            _ => items.push(String::new()),
        }
    }
    items.into_iter().map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
}

/// Where in time rows can be put into two neighbouring chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boundary {
    /// `schema.name`.
    pub table: String,
    /// Where the newer of the two begins, as SQL text of the column's type.
    pub at: String,
    /// Whether both are there already.
    pub both_exist: bool,
}

/// For each of `tables` that has chunks, the newest boundary between two of them, rather uncompressed ones.
///
/// # Errors
/// The client's.
pub fn boundaries(client: &mut Client, tables: &[String]) -> SqlResult<Vec<Boundary>> {
    let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&tables, Type::TEXT_ARRAY)];
    let rows = client.query_typed(
        "WITH c AS (
             SELECT quote_ident(hypertable_schema) || '.' || quote_ident(hypertable_name) AS t,
                    primary_dimension_type::text AS type, range_start AS s, range_end AS e,
                    range_start_integer AS si, range_end_integer AS ei, is_compressed AS z
             FROM timescaledb_information.chunks
             WHERE quote_ident(hypertable_schema) || '.' || quote_ident(hypertable_name) = ANY ($1))
         SELECT DISTINCT ON (n.t) n.t,
                coalesce(n.si::text, CASE n.type WHEN 'timestamp with time zone' THEN n.s::text
                                     ELSE (n.s AT TIME ZONE 'UTC')::text END),
                p.t IS NOT NULL
         FROM c n LEFT JOIN c p ON p.t = n.t AND (p.e = n.s OR p.ei = n.si)
         WHERE n.si IS NOT NULL OR isfinite(n.s)
         ORDER BY n.t, p.t IS NULL, n.z OR coalesce(p.z, false), n.s DESC, n.si DESC",
        &parameters,
    )?;
    Ok(rows
        .iter()
        .map(|row| Boundary { table: row.get(0), at: row.get(1), both_exist: row.get(2) })
        .collect())
}

/// The chunks of every hypertable: `schema.chunk` and the hypertable's `schema.name`.
///
/// # Errors
/// The client's.
pub fn chunks(client: &mut Client) -> SqlResult<Vec<(String, String)>> {
    let rows = client.query_typed(
        "SELECT quote_ident(chunk_schema) || '.' || quote_ident(chunk_name),
                quote_ident(hypertable_schema) || '.' || quote_ident(hypertable_name)
         FROM timescaledb_information.chunks WHERE hypertable_schema !~ '^_timescaledb_'",
        &[],
    )?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// A chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// `schema.name`, quoted where SQL wants that.
    pub table: String,
    /// Its hypertable's.
    pub hypertable: String,
    /// What it takes on disk with its compressed rows, without indexes.
    pub bytes: u64,
}

/// The SELECT that tells of each chunk with compressed rows which relation holds them: two oids a row.
pub(super) fn packed(version: Version) -> &'static str {
    if version >= Version::COMPRESS_RELID {
        "SELECT s.relid::oid, s.compress_relid::oid FROM _timescaledb_catalog.compression_settings s
         WHERE s.compress_relid IS NOT NULL"
    } else {
        "SELECT to_regclass(format('%I.%I', c.schema_name, c.table_name))::oid,
                to_regclass(format('%I.%I', p.schema_name, p.table_name))::oid
         FROM _timescaledb_catalog.chunk c JOIN _timescaledb_catalog.chunk p ON p.id = c.compressed_chunk_id"
    }
}

/// The same with their sizes, which takes longer where there are thousands.
///
/// # Errors
/// The client's.
pub fn chunks_with_sizes(client: &mut Client, version: Version) -> SqlResult<Vec<Chunk>> {
    let rows = client.query_typed(
        &format!(
            "WITH packed (chunk, store) AS ({}),
                  chunks AS (
                      SELECT c.*, to_regclass(format('%I.%I', c.chunk_schema, c.chunk_name))::oid AS oid
                      FROM timescaledb_information.chunks c WHERE hypertable_schema !~ '^_timescaledb_')
             SELECT format('%I.%I', chunk_schema, chunk_name), format('%I.%I', hypertable_schema, hypertable_name),
                    coalesce(pg_table_size(c.oid::regclass), 0) + coalesce(pg_table_size(p.store::regclass), 0)
             FROM chunks c LEFT JOIN packed p ON p.chunk = c.oid",
            packed(version)
        ),
        &[],
    )?;
    Ok(rows
        .iter()
        .map(|row| Chunk {
            table: row.get(0),
            hypertable: row.get(1),
            bytes: u64::try_from(row.get::<_, i64>(2)).unwrap_or_default(),
        })
        .collect())
}

/// Which stretch of time each chunk holds: from and until, in microseconds since 1970 (UTC), or in the column's own unit where it
/// is a number. Without those that have no end, or whose time goes through a function first.
///
/// # Errors
/// The client's.
pub fn chunk_ranges(client: &mut Client) -> SqlResult<BTreeMap<String, (i64, i64)>> {
    let rows = client.query_typed(
        "SELECT format('%I.%I', c.chunk_schema, c.chunk_name),
                coalesce(c.range_start_integer::bigint,
                         CASE WHEN isfinite(c.range_start) THEN (extract(epoch FROM c.range_start) * 1000000)::bigint END),
                coalesce(c.range_end_integer::bigint,
                         CASE WHEN isfinite(c.range_end) THEN (extract(epoch FROM c.range_end) * 1000000)::bigint END)
         FROM timescaledb_information.chunks c
         WHERE c.hypertable_schema !~ '^_timescaledb_'
           AND NOT EXISTS (SELECT FROM _timescaledb_catalog.dimension d JOIN _timescaledb_catalog.hypertable h
                             ON h.id = d.hypertable_id
                           WHERE h.schema_name = c.hypertable_schema AND h.table_name = c.hypertable_name
                             AND d.interval_length IS NOT NULL AND d.partitioning_func IS NOT NULL)",
        &[],
    )?;
    let range = |row: &postgres::Row| {
        let ends: (Option<i64>, Option<i64>) = (row.get(1), row.get(2));
        Some((row.get(0), (ends.0?, ends.1?)))
    };
    Ok(rows.iter().filter_map(range).collect())
}

/// The numbers of chunks, and of their indexes, that stand in schemas of users.
///
/// # Errors
/// The client's.
pub fn chunk_oids(client: &mut Client) -> SqlResult<Vec<u32>> {
    let rows = client.query_typed(
        "WITH c AS (SELECT to_regclass(format('%I.%I', chunk_schema, chunk_name))::oid AS oid
                    FROM timescaledb_information.chunks WHERE chunk_schema !~ '^_timescaledb_')
         SELECT oid FROM c WHERE oid IS NOT NULL
         UNION ALL SELECT i.indexrelid FROM pg_catalog.pg_index i JOIN c ON c.oid = i.indrelid",
        &[],
    )?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// What compression saves on a hypertable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Savings {
    /// Chunks.
    pub chunks: i64,
    /// Compressed ones.
    pub compressed: i64,
    /// Bytes of those before.
    pub before: i64,
    /// Bytes of those after.
    pub after: i64,
}

/// Asks the function that this version has; None where compression was never on. Only the timescale licence has it.
///
/// # Errors
/// The client's.
pub fn savings(
    client: &mut Client,
    version: Version,
    schema: &str,
    table: &str,
) -> SqlResult<Option<Savings>> {
    let function = if version >= Version::COLUMNSTORE {
        "hypertable_columnstore_stats"
    } else {
        "hypertable_compression_stats"
    };
    let rows = client.query_typed(
        &format!(
            "SELECT coalesce(sum(total_chunks), 0)::bigint, coalesce(sum(number_compressed_chunks), 0)::bigint,
                    coalesce(sum(before_compression_total_bytes), 0)::bigint,
                    coalesce(sum(after_compression_total_bytes), 0)::bigint, count(*)
             FROM {schema}.{function}($1::text::regclass)"
        ),
        &[(&table, Type::TEXT)],
    )?;
    Ok(rows.first().filter(|row| row.get::<_, i64>(4) > 0).map(|row| Savings {
        chunks: row.get(0),
        compressed: row.get(1),
        before: row.get(2),
        after: row.get(3),
    }))
}

#[cfg(test)]
mod tests {
    use super::columns;

    #[test]
    fn lists_are_split_outside_quotes() {
        assert_eq!(columns("ts DESC,id DESC"), ["ts DESC", "id DESC"]);
        assert_eq!(columns(r#"line_id, "a,b" DESC"#), ["line_id", r#""a,b" DESC"#]);
        assert!(columns("").is_empty());
    }
}
