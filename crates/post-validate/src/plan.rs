//! Plans as EXPLAIN (FORMAT JSON) prints them: how long, which tables were read. Pure.

use std::collections::BTreeSet;

use serde_json::Value;

/// What a plan tells.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    /// Planning and execution, in milliseconds; None without ANALYZE.
    pub(crate) milliseconds: Option<f64>,
    /// `schema.name` of what is scanned; what ANALYZE saw never executed is left out.
    pub(crate) scanned: BTreeSet<String>,
}

/// Reads a plan; None where the text is none.
pub(crate) fn read(text: &str) -> Option<Plan> {
    let value: Value = serde_json::from_str(text).ok()?;
    let top = value.get(0)?;
    let number = |key: &str| top.get(key).and_then(Value::as_f64);
    let mut scanned = BTreeSet::new();
    walk(top.get("Plan")?, &mut scanned);
    let milliseconds = number("Execution Time").map(|time| time + number("Planning Time").unwrap_or(0.0));
    Some(Plan { milliseconds, scanned })
}

fn walk(node: &Value, scanned: &mut BTreeSet<String>) {
    let executed = node.get("Actual Loops").and_then(Value::as_f64).is_none_or(|loops| loops > 0.0);
    if executed && let Some(name) = node.get("Relation Name").and_then(Value::as_str) {
        let schema = node.get("Schema").and_then(Value::as_str).unwrap_or_default();
        scanned.insert(format!("{schema}.{name}"));
    }
    for child in node.get("Plans").and_then(Value::as_array).into_iter().flatten() {
        walk(child, scanned);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_what_was_executed() {
        let text = r#"[{"Plan": {"Node Type": "Append", "Actual Loops": 1, "Plans": [
            {"Relation Name": "c1", "Schema": "i", "Actual Loops": 1},
            {"Relation Name": "c2", "Schema": "i", "Actual Loops": 0}]},
            "Planning Time": 0.5, "Execution Time": 1.25}]"#;
        let plan = read(text).unwrap();
        assert_eq!(plan.milliseconds, Some(1.75));
        assert_eq!(plan.scanned.into_iter().collect::<Vec<_>>(), ["i.c1"]);
        let plain = read(r#"[{"Plan": {"Relation Name": "c", "Schema": "i"}}]"#).unwrap();
        assert_eq!((plain.milliseconds, plain.scanned.len()), (None, 1));
        assert_eq!(read("no plan"), None);
    }
}
