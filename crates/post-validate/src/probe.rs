//! The rows that a probe writes: which columns get which value, and the message that writes, reads and rolls back. Pure.

use ms5_common::sql::escape_literal;

use crate::catalog::{Column, ForeignKey};

/// A hypertable that is probed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) table: &'a str,
    pub(crate) time_column: &'a str,
    /// The time column's type.
    pub(crate) time_type: &'a str,
    /// The chunk interval, in microseconds or in the column's unit.
    pub(crate) interval: i64,
    /// Where the newer of two neighbouring chunks begins; None where there is no chunk yet.
    pub(crate) boundary: Option<&'a str>,
    pub(crate) columns: &'a [Column],
    pub(crate) keys: &'a [ForeignKey],
    /// Keys and triggers are switched off, as only a superuser may.
    pub(crate) replica: bool,
}

/// The foreign keys whose columns get a value: a row of the table they lead to must be there.
pub(crate) fn keys_in_use<'a>(columns: &[Column], keys: &'a [ForeignKey]) -> Vec<&'a ForeignKey> {
    let given = |name: &String| columns.iter().any(|column| &column.name == name && column.not_null);
    keys.iter().filter(|key| key.columns.iter().any(given)).collect()
}

/// The message that writes two rows into neighbouring chunks, reads them back and rolls back at once. Its answers hold two
/// rows: the count before, then the count after and the number of chunks.
///
/// # Errors
/// Why no row can be made up.
pub(crate) fn message(target: &Target<'_>) -> Result<String, String> {
    let Target { table, time_column, columns, replica, .. } = *target;
    let times = times(target)?;
    let keys = if replica { Vec::new() } else { keys_in_use(columns, target.keys) };
    let mut names = Vec::new();
    let mut rows = [Vec::new(), Vec::new()];
    for column in columns.iter().filter(|column| !column.generated) {
        let referenced = keys.iter().enumerate().find_map(|(number, key)| {
            let place = key.columns.iter().position(|name| *name == column.name)?;
            Some(format!("k{number}.{}", key.to_columns.get(place)?))
        });
        let values = if column.name == time_column {
            times.clone()
        } else if let Some(referenced) = referenced {
            [referenced.clone(), referenced]
        } else if !column.not_null {
            // Said aloud where the default might do something, such as take a value of a sequence.
            if !column.has_default {
                continue;
            }
            ["NULL".to_owned(), "NULL".to_owned()]
        } else if column.has_default && !column.takes_sequence {
            // The default keeps to the table's checks better than anything made up.
            continue;
        } else {
            let value = |row| value(column, row).ok_or_else(|| unknown(column));
            [value(0)?, value(1)?]
        };
        names.push(column.name.as_str());
        rows[0].push(values[0].clone());
        rows[1].push(values[1].clone());
    }
    let from: Vec<String> = keys
        .iter()
        .enumerate()
        .map(|(number, key)| {
            format!("(SELECT {} FROM {} LIMIT 1) k{number}", key.to_columns.join(", "), key.to)
        })
        .collect();
    let from = if from.is_empty() { String::new() } else { format!(" FROM {}", from.join(", ")) };
    let select = |row: &[String]| format!("SELECT {}{from}", row.join(", "));
    let off = if replica { "SET LOCAL session_replication_role = replica;\n" } else { "" };
    let there = format!("FROM {table} WHERE {time_column} IN ({}, {})", times[0], times[1]);
    Ok(format!(
        "START TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ WRITE;
SET LOCAL lock_timeout = '1s'; SET LOCAL statement_timeout = '1s';
{off}SELECT count(*) {there};
INSERT INTO {table} ({}) OVERRIDING SYSTEM VALUE {} UNION ALL {};
SELECT count(*), count(DISTINCT tableoid) {there};
ROLLBACK",
        names.join(", "),
        select(&rows[0]),
        select(&rows[1]),
    ))
}

/// Two times in neighbouring chunks, the older first.
fn times(target: &Target<'_>) -> Result<[String; 2], String> {
    let Target { time_type, interval, .. } = *target;
    let cast = |text: &str| format!("CAST({text} AS {time_type})");
    // A second, since a column may round what is finer.
    let (begin, step, next) = match time_type {
        "timestamp with time zone" | "timestamp without time zone" => {
            ("now()", "INTERVAL '1 second'", format!("INTERVAL '{interval} microseconds'"))
        }
        "date" => ("CURRENT_DATE", "INTERVAL '1 day'", format!("INTERVAL '{interval} microseconds'")),
        "smallint" | "integer" | "bigint" => ("0", "1", interval.to_string()),
        other => return Err(format!("no value is known for the time column's type {other}")),
    };
    Ok(match target.boundary {
        Some(boundary) => {
            let at = cast(&escape_literal(boundary));
            [cast(&format!("{at} - {step}")), at]
        }
        None => [cast(begin), cast(&format!("{begin} + {next}"))],
    })
}

fn unknown(column: &Column) -> String {
    format!("no value is known for the column {} of type {}", column.name, column.type_text)
}

/// A value of the column's type; keys differ from row to row and lie where no sequence counts.
fn value(column: &Column, row: u32) -> Option<String> {
    let plain = match (column.type_name.as_str(), column.category.as_str()) {
        ("uuid", _) => return Some("gen_random_uuid()".to_owned()),
        ("int2", _) if column.takes_sequence => (-32_000 - i64::from(row)).to_string(),
        (_, "N") if column.takes_sequence => (-2_000_000_000 - i64::from(row)).to_string(),
        // numeric(3,3) has no room for a 1.
        ("numeric", _) => "0".to_owned(),
        ("json" | "jsonb", _) => "{}".to_owned(),
        ("hstore", _) => String::new(),
        ("bytea", _) => "\\x".to_owned(),
        ("xml", _) => "<probe/>".to_owned(),
        ("tsvector", _) => String::new(),
        ("macaddr", _) => "00:00:00:00:00:00".to_owned(),
        ("point", _) => "(0,0)".to_owned(),
        (_, "N") => "1".to_owned(),
        (_, "S") => "ms5-probe".to_owned(),
        (_, "B") => "false".to_owned(),
        (_, "D") => "now".to_owned(),
        (_, "T") => "0 seconds".to_owned(),
        (_, "A") => "{}".to_owned(),
        (_, "E") => column.label.clone()?,
        (_, "I") => "127.0.0.1".to_owned(),
        (_, "V") => "0".to_owned(),
        (_, "R") => "empty".to_owned(),
        _ => return None,
    };
    // An explicit cast cuts to length what is too long.
    Some(format!("CAST({} AS {})", escape_literal(&plain), column.type_text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, type_text: &str, type_name: &str, category: &str) -> Column {
        Column {
            name: name.into(),
            not_null: true,
            type_text: type_text.into(),
            type_name: type_name.into(),
            category: category.into(),
            ..Column::default()
        }
    }

    fn target<'a>(columns: &'a [Column], keys: &'a [ForeignKey], boundary: Option<&'a str>) -> Target<'a> {
        Target {
            table: "s.t",
            time_column: "ts",
            time_type: "timestamp with time zone",
            interval: 86_400_000_000,
            boundary,
            columns,
            keys,
            replica: false,
        }
    }

    #[test]
    fn rows_have_what_they_must_and_nothing_else() {
        let mut id = column("id", "bigint", "int8", "N");
        (id.has_default, id.takes_sequence) = (true, true);
        let mut status = column("status", "text", "text", "S");
        status.has_default = true;
        let mut note = column("note", "text", "text", "S");
        note.not_null = false;
        let mut made = note.clone();
        (made.name, made.has_default) = ("made".into(), true);
        let columns = [
            id,
            column("ts", "timestamp with time zone", "timestamptz", "D"),
            column("def", "uuid", "uuid", "U"),
            column("code", "character varying(3)", "varchar", "S"),
            status,
            note,
            made,
        ];
        let key = ForeignKey {
            table: "s.t".into(),
            columns: vec!["def".into()],
            to: "s.defs".into(),
            to_columns: vec!["id".into()],
        };
        let text = message(&target(&columns, &[key], Some("2024-01-02 00:00:00+00"))).unwrap();
        assert!(text.contains("INSERT INTO s.t (id, ts, def, code, made) OVERRIDING SYSTEM VALUE"), "{text}");
        assert!(
            text.contains("CAST('-2000000000' AS bigint)") && text.contains("CAST('-2000000001' AS bigint)")
        );
        assert!(text.contains("k0.id") && text.contains("FROM (SELECT id FROM s.defs LIMIT 1) k0"));
        assert!(text.contains("CAST('ms5-probe' AS character varying(3)), NULL"));
        assert!(text.ends_with("ROLLBACK") && text.contains("- INTERVAL '1 second'"));
    }

    #[test]
    fn what_is_not_known_is_said() {
        let columns = [column("shape", "s.geometry", "geometry", "U")];
        let why = message(&target(&columns, &[], None)).unwrap_err();
        assert_eq!(why, "no value is known for the column shape of type s.geometry");
        let mut odd = target(&columns, &[], None);
        odd.time_type = "uuid";
        assert!(message(&odd).unwrap_err().contains("time column"));
    }
}
