//! A fingerprint as it stands in a record of type `table`.

use serde_json::{Value, json};

use super::{Bucket, Column, Fingerprint};
use crate::sql::TableName;

impl Fingerprint {
    /// As JSON. Hashes and the highest key are decimal text: readers of JSON may round numbers beyond 2^53.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let columns: Vec<Value> = (self.columns.iter())
            .map(|column| json!({"name": column.name, "type": column.type_name, "as_text": column.as_text}))
            .collect();
        let buckets: Vec<Value> = (self.buckets.iter())
            .map(|bucket| json!({"day": bucket.day, "rows": bucket.rows, "hash": bucket.hash.to_string()}))
            .collect();
        json!({
            "schema": self.name.schema,
            "table": self.name.table,
            "columns": columns,
            "time_column": self.time_column,
            "key": self.key,
            "highest": self.highest.map(|highest| highest.to_string()),
            "proven": self.proven(),
            "why_not": self.why_not,
            "changing": self.changing,
            "rows": self.rows,
            "hash": self.hash.to_string(),
            "above": self.above,
            "buckets": buckets,
        })
    }

    /// Reads what [`Fingerprint::to_json`] gives; further members are passed over.
    ///
    /// # Errors
    /// The name of the member that is missing or is not what it should be.
    pub fn from_json(value: &Value) -> Result<Self, String> {
        let fingerprint = Self {
            name: TableName { schema: text(value, "schema")?, table: text(value, "table")? },
            columns: (list(value, "columns")?.iter())
                .map(|column| {
                    Ok(Column {
                        name: text(column, "name")?,
                        type_name: text(column, "type")?,
                        as_text: truth(column, "as_text")?,
                    })
                })
                .collect::<Result<_, String>>()?,
            time_column: optional(value, "time_column")?,
            key: optional(value, "key")?,
            highest: optional(value, "highest")?.map(|text| number("highest", &text)).transpose()?,
            why_not: (list(value, "why_not")?.iter())
                .map(|why| why.as_str().map(str::to_owned).ok_or_else(|| wrong("why_not")))
                .collect::<Result<_, String>>()?,
            changing: truth(value, "changing")?,
            rows: count(value, "rows")?,
            hash: number("hash", &text(value, "hash")?)?,
            above: count(value, "above")?,
            buckets: (list(value, "buckets")?.iter())
                .map(|bucket| {
                    Ok(Bucket {
                        day: optional(bucket, "day")?,
                        rows: count(bucket, "rows")?,
                        hash: number("hash", &text(bucket, "hash")?)?,
                    })
                })
                .collect::<Result<_, String>>()?,
        };
        // A key and the number that belongs to it go together, and a verdict without its reason is no verdict.
        if fingerprint.key.is_some() != fingerprint.highest.is_some() {
            return Err(wrong("highest"));
        }
        if truth(value, "proven")? != fingerprint.proven() {
            return Err(wrong("proven"));
        }
        // Cut or mended by hand: what does not add up proves nothing.
        let sums = fingerprint.buckets.iter().try_fold((0_u64, 0_i128), |(rows, hash), bucket| {
            Some((rows.checked_add(bucket.rows)?, hash.checked_add(bucket.hash)?))
        });
        if sums != Some((fingerprint.rows, fingerprint.hash)) {
            return Err("the buckets do not add up to rows and hash".to_owned());
        }
        Ok(fingerprint)
    }
}

fn wrong(name: &str) -> String {
    format!("{name} is missing or is not what it should be")
}

fn text(value: &Value, name: &str) -> Result<String, String> {
    value[name].as_str().map(str::to_owned).ok_or_else(|| wrong(name))
}

fn optional(value: &Value, name: &str) -> Result<Option<String>, String> {
    match value.get(name) {
        Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        _ => Err(wrong(name)),
    }
}

fn truth(value: &Value, name: &str) -> Result<bool, String> {
    value[name].as_bool().ok_or_else(|| wrong(name))
}

fn count(value: &Value, name: &str) -> Result<u64, String> {
    value[name].as_u64().ok_or_else(|| wrong(name))
}

fn list<'a>(value: &'a Value, name: &str) -> Result<&'a Vec<Value>, String> {
    value[name].as_array().ok_or_else(|| wrong(name))
}

fn number<T: std::str::FromStr>(name: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| wrong(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Fingerprint {
        let bucket = |day: Option<&str>, rows, hash| Bucket { day: day.map(str::to_owned), rows, hash };
        Fingerprint {
            name: TableName::new("fäb", "a \"b\""),
            columns: vec![Column { name: "id".to_owned(), type_name: "bigint".to_owned(), as_text: false }],
            time_column: Some("ts".to_owned()),
            key: Some("id".to_owned()),
            highest: Some(i64::MAX),
            why_not: vec!["its sequence hands out keys in advance".to_owned()],
            changing: false,
            rows: 3,
            hash: 27_670_116_110_564_327_421,
            above: 7,
            buckets: vec![
                bucket(None, 1, 9_223_372_036_854_775_807),
                bucket(Some("2025-03-01"), 2, 18_446_744_073_709_551_614),
            ],
        }
    }

    #[test]
    fn comes_back_as_it_went() {
        let value = example().to_json();
        assert_eq!(value["hash"], "27670116110564327421");
        assert_eq!(value["highest"], "9223372036854775807");
        let text = value.to_string();
        assert_eq!(Fingerprint::from_json(&serde_json::from_str(&text).unwrap()), Ok(example()));
    }

    #[test]
    fn what_is_missing_or_does_not_add_up_is_refused_by_name() {
        let whole = example().to_json();
        for name in whole.as_object().unwrap().keys() {
            let mut cut = whole.clone();
            cut.as_object_mut().unwrap().remove(name);
            let why = Fingerprint::from_json(&cut).unwrap_err();
            assert!(why.contains(name.as_str()), "{name}: {why}");
        }
        let mut mended = whole.clone();
        mended["buckets"][0]["rows"] = 2.into();
        assert_eq!(
            Fingerprint::from_json(&mended).unwrap_err(),
            "the buckets do not add up to rows and hash"
        );
        let mut better = whole;
        better["proven"] = true.into();
        assert!(Fingerprint::from_json(&better).is_err());
    }
}
