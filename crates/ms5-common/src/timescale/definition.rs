//! What makes hypertables, continuous aggregates and jobs what they are, beside their tables and views: all that is needed
//! to make them anew in another database. From 2.11 to the newest.

use super::{Extension, Version};
use crate::db::client::Client;

type SqlResult<T> = Result<T, postgres::Error>;

/// Everything that TimescaleDB knows of a database and a dump of its tables does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Definition {
    /// Hypertables that users made.
    pub hypertables: Vec<Hypertable>,
    /// Continuous aggregates.
    pub aggregates: Vec<Aggregate>,
    /// Jobs of users, policies among them, in the order in which they were made.
    pub jobs: Vec<Job>,
    /// Chunks that stand in schemas of users: `schema` and `name`, unquoted.
    pub chunks: Vec<(String, String)>,
}

/// A hypertable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hypertable {
    /// Unquoted.
    pub schema: String,
    /// Unquoted.
    pub name: String,
    /// The first is the one of time.
    pub dimensions: Vec<Dimension>,
    /// Where its chunks stand and how their names begin, where somebody chose that.
    pub chunk_schema: Option<String>,
    /// See `chunk_schema`.
    pub chunk_prefix: Option<String>,
    /// Tablespaces that chunks are put in, in turn.
    pub tablespaces: Vec<String>,
    /// None: compression is off.
    pub compression: Option<Compression>,
    /// Columns whose least and greatest value each chunk knows.
    pub skipping: Vec<String>,
}

/// What rows are cut into chunks by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dimension {
    /// Unquoted.
    pub column: String,
    /// Its type, as SQL.
    pub column_type: String,
    /// Of a chunk, in microseconds, or in the column's own unit where it is a number; None for a dimension of hashes.
    pub interval: Option<i64>,
    /// How many parts a dimension of hashes has.
    pub partitions: Option<i32>,
    /// The function that values go through, as SQL, where it is the user's.
    pub function: Option<String>,
    /// The function that says what time it is, as SQL and with its empty list of arguments, where the column is a number.
    pub now: Option<String>,
}

/// How chunks are compressed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compression {
    /// Columns as SQL, separated by commas; None where nobody chose, which newer versions keep apart from none.
    pub segmentby: Option<String>,
    /// The same with ` DESC` and the place of NULLs; empty where nobody chose.
    pub orderby: String,
    /// Up to which length chunks are merged when they are compressed, in microseconds or the column's unit.
    pub merge_up_to: Option<i64>,
    /// Sparse indexes that were asked for: `bloom(a),minmax(b)`.
    pub sparse_index: String,
}

/// A continuous aggregate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Aggregate {
    /// Unquoted.
    pub schema: String,
    /// Unquoted.
    pub name: String,
    /// Its query, all names in it qualified.
    pub query: String,
    /// Whether it shows what was materialized, and nothing newer.
    pub materialized_only: bool,
    /// Of the chunks of its materialization, as in [`Dimension`].
    pub interval: Option<i64>,
    /// The type of its time, as SQL.
    pub time_type: String,
    /// None: compression is off.
    pub compression: Option<Compression>,
    /// Indexes of the materialization: as the server prints them, on [`Aggregate::materialization`].
    pub indexes: Vec<String>,
    /// The table that holds what was materialized, as SQL.
    pub materialization: String,
}

/// A job that runs by schedule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Job {
    /// Its number.
    pub id: i32,
    /// Without its number: `Retention Policy`.
    pub label: String,
    /// Of its procedure, unquoted.
    pub schema: String,
    /// Unquoted.
    pub procedure: String,
    /// The hypertable or the continuous aggregate that it is about, as SQL.
    pub on: Option<String>,
    /// As text: intervals, a boolean.
    pub schedule_interval: String,
    /// As text.
    pub max_runtime: String,
    /// -1: without end.
    pub max_retries: i32,
    /// As text.
    pub retry_period: String,
    /// As SQL.
    pub owner: String,
    /// Whether it runs at all.
    pub scheduled: bool,
    /// Whether it runs at fixed times, whatever the last run took.
    pub fixed_schedule: bool,
    /// With offset.
    pub initial_start: Option<String>,
    /// Of fixed times.
    pub timezone: Option<String>,
    /// JSON text, without the numbers of hypertables.
    pub config: Option<String>,
    /// The function that checks the configuration, as SQL, where it is the user's.
    pub check: Option<String>,
}

/// Reads it. Queries are printed with all names qualified where search_path is empty.
///
/// # Errors
/// The client's.
pub fn read(client: &mut Client, extension: &Extension) -> SqlResult<Definition> {
    let Some(version) = extension.version() else { return Ok(Definition::default()) };
    let settings = compression(client, version)?;
    let compression = |relation: &str| {
        settings.iter().find(|(name, _)| name == relation).map(|(_, compression)| compression.clone())
    };
    Ok(Definition {
        hypertables: hypertables(client, version, &compression)?,
        aggregates: aggregates(client, &compression)?,
        jobs: jobs(client)?,
        chunks: chunks(client)?,
    })
}

fn hypertables(
    client: &mut Client,
    version: Version,
    compression: &dyn Fn(&str) -> Option<Compression>,
) -> SqlResult<Vec<Hypertable>> {
    let rows = client.query_typed(
        "SELECT h.id, h.schema_name::text, h.table_name::text, format('%I.%I', h.schema_name, h.table_name),
                NULLIF(h.associated_schema_name::text, '_timescaledb_internal'),
                NULLIF(h.associated_table_prefix::text, '_hyper_' || h.id),
                ARRAY(SELECT t.tablespace_name::text FROM _timescaledb_catalog.tablespace t
                      WHERE t.hypertable_id = h.id ORDER BY t.id)
         FROM _timescaledb_catalog.hypertable h
         WHERE h.schema_name !~ '^_timescaledb_' ORDER BY h.id",
        &[],
    )?;
    let mut dimensions = dimensions(client)?;
    let mut skipping = if version >= Version::CHUNK_SKIPPING { skipping(client)? } else { Vec::new() };
    Ok(rows
        .iter()
        .map(|row| {
            let id: i32 = row.get(0);
            Hypertable {
                schema: row.get(1),
                name: row.get(2),
                dimensions: of(&mut dimensions, id),
                chunk_schema: row.get(4),
                chunk_prefix: row.get(5),
                tablespaces: row.get(6),
                compression: compression(row.get(3)),
                skipping: of(&mut skipping, id),
            }
        })
        .collect())
}

/// Takes out what belongs to a number.
fn of<T>(all: &mut Vec<(i32, T)>, id: i32) -> Vec<T> {
    all.extract_if(.., |(whose, _)| *whose == id).map(|(_, item)| item).collect()
}

fn dimensions(client: &mut Client) -> SqlResult<Vec<(i32, Dimension)>> {
    let rows = client.query_typed(
        "SELECT d.hypertable_id, d.column_name::text, d.column_type::text, d.interval_length, d.num_slices::int,
                CASE WHEN d.partitioning_func_schema !~ '^_timescaledb_'
                     THEN format('%I.%I', d.partitioning_func_schema, d.partitioning_func) END,
                CASE WHEN d.integer_now_func IS NOT NULL
                     THEN format('%I.%I()', d.integer_now_func_schema, d.integer_now_func) END
         FROM _timescaledb_catalog.dimension d ORDER BY d.id",
        &[],
    )?;
    Ok(rows
        .iter()
        .map(|row| {
            let dimension = Dimension {
                column: row.get(1),
                column_type: row.get(2),
                interval: row.get(3),
                partitions: row.get(4),
                function: row.get(5),
                now: row.get(6),
            };
            (row.get(0), dimension)
        })
        .collect())
}

fn skipping(client: &mut Client) -> SqlResult<Vec<(i32, String)>> {
    let rows = client.query_typed(
        "SELECT DISTINCT hypertable_id, column_name::text FROM _timescaledb_catalog.chunk_column_stats ORDER BY 1, 2",
        &[],
    )?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// By the relation as SQL, those of materializations among them.
fn compression(client: &mut Client, version: Version) -> SqlResult<Vec<(String, Compression)>> {
    // The column `index` is newer than the table.
    let (chosen, sparse) = if version >= Version::COLUMNSTORE {
        (
            "(SELECT s.segmentby IS NOT NULL FROM _timescaledb_catalog.compression_settings s
              WHERE s.relid = format('%I.%I', h.schema_name, h.table_name)::pg_catalog.regclass)",
            "(SELECT string_agg(format('%s(%s)', i ->> 'type',
                                   CASE jsonb_typeof(i -> 'column')
                                       WHEN 'array' THEN (SELECT string_agg(quote_ident(c), ',')
                                                          FROM jsonb_array_elements_text(i -> 'column') c)
                                       ELSE quote_ident(i ->> 'column') END), ',')
          FROM _timescaledb_catalog.compression_settings s
          CROSS JOIN LATERAL jsonb_array_elements(NULLIF(to_jsonb(s) -> 'index', 'null')) i
          WHERE s.relid = format('%I.%I', h.schema_name, h.table_name)::pg_catalog.regclass
            AND i ->> 'source' = 'config')",
        )
    } else {
        ("true", "NULL::text")
    };
    let settings = super::hypertables::all_compression(client, version)?;
    let rows = client.query_typed(
        &format!(
            "SELECT format('%I.%I', h.schema_name, h.table_name),
                    (SELECT d.compress_interval_length FROM _timescaledb_catalog.dimension d
                     WHERE d.hypertable_id = h.id ORDER BY d.id LIMIT 1),
                    {sparse}, {chosen}
             FROM _timescaledb_catalog.hypertable h WHERE h.compression_state = 1"
        ),
        &[],
    )?;
    Ok(rows
        .iter()
        .map(|row| {
            let table: String = row.get(0);
            let found = settings.iter().find(|setting| setting.table == table);
            let joined = |list: fn(&super::hypertables::Compression) -> &Vec<String>| {
                found.map(|setting| list(setting).join(",")).unwrap_or_default()
            };
            let compression = Compression {
                segmentby: (row.get::<_, Option<bool>>(3) == Some(true))
                    .then(|| joined(|setting| &setting.segmentby)),
                orderby: joined(|setting| &setting.orderby),
                merge_up_to: row.get(1),
                sparse_index: row.get::<_, Option<String>>(2).unwrap_or_default(),
            };
            (table, compression)
        })
        .collect())
}

fn aggregates(
    client: &mut Client,
    compression: &dyn Fn(&str) -> Option<Compression>,
) -> SqlResult<Vec<Aggregate>> {
    // The index that every hypertable gets on its time is made anew with it.
    let rows = client.query_typed(
        "SELECT a.view_schema::text, a.view_name::text, a.view_definition, a.materialized_only, m.name,
                d.interval_length,
                ARRAY(SELECT pg_get_indexdef(i.indexrelid)
                      FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
                      WHERE i.indrelid = m.name::pg_catalog.regclass
                        AND right(pg_get_indexdef(i.indexrelid), length(t.own)) IS DISTINCT FROM t.own
                      ORDER BY c.relname), d.column_type::text
         FROM timescaledb_information.continuous_aggregates a
         CROSS JOIN LATERAL (SELECT format('%I.%I', a.materialization_hypertable_schema,
                                           a.materialization_hypertable_name) AS name) m
         JOIN _timescaledb_catalog.hypertable h ON h.schema_name = a.materialization_hypertable_schema
                                               AND h.table_name = a.materialization_hypertable_name
         LEFT JOIN LATERAL (SELECT * FROM _timescaledb_catalog.dimension d WHERE d.hypertable_id = h.id
                            ORDER BY d.id LIMIT 1) d ON true
         CROSS JOIN LATERAL (SELECT format(' USING btree (%I DESC)', coalesce(d.column_name, '')) AS own) t
         ORDER BY h.id",
        &[],
    )?;
    Ok(rows
        .iter()
        .map(|row| {
            let materialization: String = row.get(4);
            Aggregate {
                schema: row.get(0),
                name: row.get(1),
                query: row.get(2),
                materialized_only: row.get(3),
                compression: compression(&materialization),
                materialization,
                interval: row.get(5),
                indexes: row.get(6),
                time_type: row.get::<_, Option<String>>(7).unwrap_or_default(),
            }
        })
        .collect())
}

/// Of users. The table of the jobs moved between versions.
fn jobs(client: &mut Client) -> SqlResult<Vec<Job>> {
    let table: String = client
        .query_typed_one(
            "SELECT coalesce(to_regclass('_timescaledb_catalog.bgw_job'), to_regclass('_timescaledb_config.bgw_job'))::text",
            &[],
        )?
        .get(0);
    let rows = client.query_typed(
        &format!(
            "SELECT j.id, regexp_replace(j.application_name::text, ' \\[[0-9]+\\]$', ''), j.proc_schema::text,
                    j.proc_name::text,
                    (SELECT coalesce(quote_ident(a.user_view_schema) || '.' || quote_ident(a.user_view_name),
                                     format('%I.%I', h.schema_name, h.table_name))
                     FROM _timescaledb_catalog.hypertable h
                     LEFT JOIN _timescaledb_catalog.continuous_agg a ON a.mat_hypertable_id = h.id
                     WHERE h.id = j.hypertable_id),
                    j.schedule_interval::text, j.max_runtime::text, j.max_retries, j.retry_period::text,
                    j.owner::text, j.scheduled, j.fixed_schedule, j.initial_start::text, j.timezone::text,
                    (j.config - 'hypertable_id' - 'mat_hypertable_id')::text,
                    CASE WHEN j.check_schema !~ '^_timescaledb_' THEN format('%I.%I', j.check_schema, j.check_name) END
             FROM {table} j WHERE j.id >= 1000 ORDER BY j.id"
        ),
        &[],
    )?;
    Ok(rows
        .iter()
        .map(|row| Job {
            id: row.get(0),
            label: row.get(1),
            schema: row.get(2),
            procedure: row.get(3),
            on: row.get(4),
            schedule_interval: row.get(5),
            max_runtime: row.get(6),
            max_retries: row.get(7),
            retry_period: row.get(8),
            owner: row.get(9),
            scheduled: row.get(10),
            fixed_schedule: row.get(11),
            initial_start: row.get(12),
            timezone: row.get(13),
            config: row.get(14),
            check: row.get(15),
        })
        .collect())
}

fn chunks(client: &mut Client) -> SqlResult<Vec<(String, String)>> {
    let rows = client.query_typed(
        "SELECT chunk_schema::text, chunk_name::text FROM timescaledb_information.chunks
         WHERE chunk_schema !~ '^_timescaledb_' ORDER BY 1, 2",
        &[],
    )?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
