//! hypertables.json: what each file of a backup of type hypertables holds, and how to make its hypertable where it is missing.

use serde_json::{Value, json};

use crate::sqltext::shown;

/// The file's name.
pub(crate) const FILE: &str = "hypertables.json";

/// One hypertable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Outline {
    /// `schema.name`, as SQL.
    pub(crate) table: String,
    /// Its file of rows.
    pub(crate) file: String,
    /// As SQL, in parentheses.
    pub(crate) columns: String,
    pub(crate) rows: u64,
    /// The column of time and its type, as SQL.
    pub(crate) time: (String, String),
    /// Each dimension in words: for people.
    pub(crate) dimensions: Vec<String>,
    /// Segment by and order by, in words: for people.
    pub(crate) compression: Option<String>,
    /// Where sequences of its columns stand: name as SQL, last value, whether it was given out.
    pub(crate) sequences: Vec<(String, i64, bool)>,
    /// Statements that make it anew: schema, table, hypertable, keys and indexes, compression.
    pub(crate) make: Vec<String>,
    /// Statements that make its policies anew, which do not run yet.
    pub(crate) jobs: Vec<String>,
    /// The statement that lets those run that did.
    pub(crate) start_jobs: Option<String>,
}

impl Outline {
    /// The command with which plain psql reads the file.
    fn psql(&self) -> String {
        let from = if self.file.ends_with(".csv") {
            format!("'{}'", self.file.replace('\'', "''"))
        } else {
            format!("PROGRAM '{}'", shown(&self.file).replace('\'', "''"))
        };
        format!(
            "\\copy {} {} FROM {from} WITH (FORMAT csv, HEADER true, ENCODING 'UTF8')",
            self.table, self.columns
        )
    }

    fn render(&self) -> Value {
        json!({
            "table": self.table,
            "file": self.file,
            "columns": self.columns,
            "rows": self.rows,
            "time": { "column": self.time.0, "type": self.time.1 },
            "dimensions": self.dimensions,
            "compression": self.compression,
            "psql": self.psql(),
            "sequences": self.sequences,
            "make": self.make,
            "jobs": self.jobs,
            "start_jobs": self.start_jobs,
        })
    }

    fn parse(value: &Value) -> Option<Self> {
        let text = |key: &str| Some(value.get(key)?.as_str()?.to_owned());
        let texts = |key: &str| -> Option<Vec<String>> {
            value.get(key)?.as_array()?.iter().map(|text| Some(text.as_str()?.to_owned())).collect()
        };
        let sequence = |value: &Value| {
            Some((value.get(0)?.as_str()?.to_owned(), value.get(1)?.as_i64()?, value.get(2)?.as_bool()?))
        };
        let time = value.get("time")?;
        Some(Self {
            table: text("table")?,
            file: text("file")?,
            columns: text("columns")?,
            rows: value.get("rows")?.as_u64()?,
            time: (time.get("column")?.as_str()?.to_owned(), time.get("type")?.as_str()?.to_owned()),
            dimensions: texts("dimensions")?,
            compression: text("compression"),
            sequences: value.get("sequences")?.as_array()?.iter().map(sequence).collect::<Option<_>>()?,
            make: texts("make")?,
            jobs: texts("jobs")?,
            start_jobs: text("start_jobs"),
        })
    }
}

/// The file's text.
pub(crate) fn render(outlines: &[Outline]) -> String {
    let all: Vec<Value> = outlines.iter().map(Outline::render).collect();
    format!("{:#}\n", json!({ "hypertables": all }))
}

/// Reads it; None where it is something else.
pub(crate) fn parse(text: &str) -> Option<Vec<Outline>> {
    let value: Value = serde_json::from_str(text).ok()?;
    value.get("hypertables")?.as_array()?.iter().map(Outline::parse).collect()
}

/// The name of a hypertable's file: SCHEMA.TABLE.csv, with whatever a file's name or a shell takes for something else as %XX.
pub(crate) fn file_name(schema: &str, table: &str, compressed: bool) -> String {
    /// What a file system takes, less room for endings.
    const LONGEST: usize = 200;
    let plain = |name: &str| -> String {
        let mut text = String::new();
        for letter in name.chars() {
            if letter.is_alphanumeric() || letter == '_' || (letter == '-' && !text.is_empty()) {
                text.push(letter);
            } else {
                let mut bytes = [0; 4];
                let escaped = letter.encode_utf8(&mut bytes).bytes().map(|byte| format!("%{byte:02X}"));
                text.extend(escaped);
            }
        }
        text
    };
    let mut stem = format!("{}.{}", plain(schema), plain(table));
    if stem.len() > LONGEST {
        let sum = super::checksums::hex_of(stem.as_bytes());
        let mut end = LONGEST - 17;
        while !stem.is_char_boundary(end) {
            end -= 1;
        }
        stem = format!("{}-{}", &stem[..end], &sum[..16]);
    }
    format!("{stem}.csv{}", if compressed { ".gz" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_back_as_it_was() {
        let outline = Outline {
            table: "f.\"N 2\"".into(),
            file: "f.N%202.csv.gz".into(),
            columns: "(t, \"a,b\")".into(),
            rows: 3,
            time: ("t".into(), "bigint".into()),
            dimensions: vec!["t by 100".into()],
            compression: Some("by a".into()),
            sequences: vec![("f.s".into(), -1, true)],
            make: vec!["CREATE TABLE f.\"N 2\" ()".into()],
            jobs: vec!["DO $$ $$".into()],
            start_jobs: None,
        };
        assert_eq!(
            outline.psql(),
            "\\copy f.\"N 2\" (t, \"a,b\") FROM PROGRAM 'gunzip -c f.N%202.csv.gz' WITH (FORMAT csv, HEADER true, ENCODING 'UTF8')"
        );
        let all = vec![outline, Outline { start_jobs: Some("SELECT 1".into()), ..Outline::default() }];
        assert_eq!(parse(&render(&all)), Some(all));
        assert_eq!(parse("{}"), None);
    }

    #[test]
    fn names_of_files_are_names_of_one_table_each() {
        for (schema, table, file) in [
            ("factory_telemetry", "metric_hist", "factory_telemetry.metric_hist.csv.gz"),
            ("a.b", "c", "a%2Eb.c.csv.gz"),
            ("a", "b.c", "a.b%2Ec.csv.gz"),
            ("../..", "/etc/x", "%2E%2E%2F%2E%2E.%2Fetc%2Fx.csv.gz"),
            ("-x", "it's $(x)", "%2Dx.it%27s%20%24%28x%29.csv.gz"),
            ("ü", "%41", "ü.%2541.csv.gz"),
        ] {
            assert_eq!(file_name(schema, table, true), file);
        }
        assert_eq!(file_name("a", "b", false), "a.b.csv");
        let long = |last: &str| file_name(&"ü%".repeat(21), &format!("{}{last}", "$".repeat(62)), true);
        assert!(long("a").len() < 230 && long("a") != long("b"), "{}", long("a"));
    }
}
