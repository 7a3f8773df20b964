//! SQL that makes hypertables, continuous aggregates and jobs anew in a database that has their tables. No I/O.
//!
//! It goes through TimescaleDB's own functions, not through its catalog: so the owner may run it, on any version that
//! has these functions.

mod jobs;

use ms5_common::sql::TableName;
use ms5_common::timescale::definition::{Aggregate, Compression, Hypertable};

use crate::sqltext::{literal, quoted_block};

pub(crate) use jobs::{jobs, start, unknown};

/// `schema.name` as SQL.
pub(crate) fn name(schema: &str, name: &str) -> String {
    TableName::new(schema, name).quoted()
}

/// Makes a table a hypertable; `schema` is that of TimescaleDB's functions, as SQL.
pub(crate) fn hypertable(schema: &str, table: &Hypertable) -> String {
    let relation = literal(&name(&table.schema, &table.name));
    let mut lines = String::new();
    for (number, dimension) in table.dimensions.iter().enumerate() {
        let function = if number == 0 { "create_hypertable" } else { "add_dimension" };
        let mut arguments = vec![relation.clone(), literal(&dimension.column)];
        let mut named = |key: &str, value: Option<String>| {
            arguments.extend(value.map(|value| format!("{key} => {value}")));
        };
        named("chunk_time_interval", dimension.interval.map(|interval| format!("{interval}::bigint")));
        named("number_partitions", dimension.partitions.map(|number| number.to_string()));
        let of_values = if number == 0 { "time_partitioning_func" } else { "partitioning_func" };
        named(of_values, dimension.function.as_deref().map(literal));
        if number == 0 {
            named("associated_schema_name", table.chunk_schema.as_deref().map(literal));
            named("associated_table_prefix", table.chunk_prefix.as_deref().map(literal));
            named("create_default_indexes", Some("false".to_owned()));
        }
        lines.push_str(&format!("    PERFORM {schema}.{function}({});\n", arguments.join(", ")));
    }
    for tablespace in &table.tablespaces {
        lines.push_str(&format!(
            "    PERFORM {schema}.attach_tablespace({}, {relation});\n",
            literal(tablespace)
        ));
    }
    quoted_block(&lines)
}

/// Tells a hypertable whose time is a number what time it is; nothing for others.
pub(crate) fn now(schema: &str, table: &Hypertable) -> Option<String> {
    let now = table.dimensions.first()?.now.as_deref()?;
    Some(quoted_block(&format!(
        "    PERFORM {schema}.set_integer_now_func({}, {}::regprocedure::oid::regproc);\n",
        literal(&name(&table.schema, &table.name)),
        literal(now)
    )))
}

/// What a hypertable gets once its keys and indexes are there.
pub(crate) fn settings(schema: &str, table: &Hypertable) -> Vec<String> {
    let relation = name(&table.schema, &table.name);
    let mut statements = Vec::new();
    if let Some(compression) = &table.compression {
        let time = table.dimensions.first().map(|time| time.column_type.as_str());
        let options = options(compression, time);
        statements.push(format!("ALTER TABLE {relation} SET ({options})"));
    }
    if !table.skipping.is_empty() {
        let lines: String = (table.skipping.iter())
            .map(|column| {
                format!(
                    "    PERFORM {schema}.enable_chunk_skipping({}, {});\n",
                    literal(&relation),
                    literal(column)
                )
            })
            .collect();
        let switch = "    SET LOCAL timescaledb.enable_chunk_skipping = on;\n";
        statements.push(quoted_block(&format!("{switch}{lines}")));
    }
    statements
}

/// Makes a continuous aggregate, without a row of it.
pub(crate) fn aggregate(aggregate: &Aggregate) -> String {
    format!(
        "CREATE MATERIALIZED VIEW {} WITH (timescaledb.continuous, timescaledb.materialized_only = {},
    timescaledb.create_group_indexes = false) AS\n{}\nWITH NO DATA",
        name(&aggregate.schema, &aggregate.name),
        aggregate.materialized_only,
        aggregate.query.trim().trim_end_matches(';')
    )
}

/// What a continuous aggregate gets once it is there.
pub(crate) fn aggregate_settings(schema: &str, aggregate: &Aggregate) -> Vec<String> {
    let relation = name(&aggregate.schema, &aggregate.name);
    let mut statements = Vec::new();
    if let Some(interval) = aggregate.interval {
        statements.push(quoted_block(&format!(
            "    PERFORM {schema}.set_chunk_time_interval({}, {interval}::bigint);\n",
            literal(&relation)
        )));
    }
    statements.extend(aggregate.indexes.iter().filter_map(|index| {
        let (make, columns) = index.split_once(&format!(" ON {} ", aggregate.materialization))?;
        // A name that the server chose holds the number of a table, which is another one there.
        let make = ["CREATE INDEX", "CREATE UNIQUE INDEX"]
            .into_iter()
            .find(|words| {
                let name = make.strip_prefix(words).map(str::trim_start);
                name.is_some_and(|name| name.starts_with("_materialized_hypertable_"))
            })
            .unwrap_or(make);
        Some(format!("{make} ON {relation} {columns}"))
    }));
    if let Some(compression) = &aggregate.compression {
        let options = options(compression, Some(&aggregate.time_type));
        statements.push(format!("ALTER MATERIALIZED VIEW {relation} SET ({options})"));
    }
    statements
}

fn options(compression: &Compression, time: Option<&str>) -> String {
    let mut options = vec!["timescaledb.compress = true".to_owned()];
    if let Some(columns) = &compression.segmentby {
        options.push(format!("timescaledb.compress_segmentby = {}", literal(columns)));
    }
    if !compression.orderby.is_empty() {
        options.push(format!("timescaledb.compress_orderby = {}", literal(&compression.orderby)));
    }
    // It takes an interval, and a column of numbers has none.
    let numbers = ["smallint", "integer", "bigint"];
    if let Some(length) = compression.merge_up_to.filter(|length| *length > 0)
        && time.is_some_and(|time| !numbers.contains(&time))
    {
        options.push(format!("timescaledb.compress_chunk_time_interval = '{length} microseconds'"));
    }
    if !compression.sparse_index.is_empty() {
        options.push(format!("timescaledb.sparse_index = {}", literal(&compression.sparse_index)));
    }
    options.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ms5_common::timescale::definition::Dimension;

    #[test]
    fn a_hypertable_of_all_there_is() {
        let time = Dimension {
            column: "t's".into(),
            column_type: "bigint".into(),
            interval: Some(100),
            now: Some("f.now()".into()),
            ..Dimension::default()
        };
        let space = Dimension {
            column: "dev".into(),
            partitions: Some(3),
            function: Some("f.\"Part\"".into()),
            ..Dimension::default()
        };
        let table = Hypertable {
            schema: "f".into(),
            name: "N 2".into(),
            dimensions: vec![time, space],
            chunk_prefix: Some("_zz".into()),
            tablespaces: vec!["fast".into()],
            compression: Some(Compression {
                segmentby: Some("dev".into()),
                merge_up_to: Some(1000),
                ..Compression::default()
            }),
            ..Hypertable::default()
        };
        assert_eq!(
            hypertable("public", &table),
            "DO $ms5$\nBEGIN\n    PERFORM public.create_hypertable('\"f\".\"N 2\"', 't''s', chunk_time_interval => 100::bigint, \
             associated_table_prefix => '_zz', create_default_indexes => false);\n    \
             PERFORM public.add_dimension('\"f\".\"N 2\"', 'dev', number_partitions => 3, partitioning_func => 'f.\"Part\"');\n    \
             PERFORM public.attach_tablespace('fast', '\"f\".\"N 2\"');\nEND\n$ms5$"
        );
        assert!(
            now("public", &table)
                .unwrap()
                .contains("set_integer_now_func('\"f\".\"N 2\"', 'f.now()'::regprocedure::oid::regproc)")
        );
        assert_eq!(
            settings("public", &table),
            [
                "ALTER TABLE \"f\".\"N 2\" SET (timescaledb.compress = true, timescaledb.compress_segmentby = 'dev')"
            ]
        );
    }

    #[test]
    fn an_aggregate_and_its_indexes() {
        let day = Aggregate {
            schema: "f".into(),
            name: "per day".into(),
            query: " SELECT 1;".into(),
            materialized_only: true,
            interval: Some(7),
            indexes: vec![
                "CREATE INDEX \"i ON\" ON _timescaledb_internal.m USING btree (a)".into(),
                "CREATE INDEX _materialized_hypertable_5_a_idx ON _timescaledb_internal.m USING btree (a DESC)".into(),
            ],
            materialization: "_timescaledb_internal.m".into(),
            ..Aggregate::default()
        };
        assert!(aggregate(&day).ends_with("AS\nSELECT 1\nWITH NO DATA"), "{}", aggregate(&day));
        assert_eq!(
            aggregate_settings("public", &day)[1..],
            [
                "CREATE INDEX \"i ON\" ON \"f\".\"per day\" USING btree (a)",
                "CREATE INDEX ON \"f\".\"per day\" USING btree (a DESC)"
            ]
        );
    }
}
