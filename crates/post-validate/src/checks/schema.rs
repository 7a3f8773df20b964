//! Schemas, tables, columns, functions, triggers, reference rows, indexes and constraints: all that is promised, or broken.

use std::collections::BTreeMap;

use ms5_common::check::{Check, Finding};
use ms5_common::expected;

use super::{Bench, SqlResult, number, present, schema_of};
use crate::catalog;

/// Schemas.
pub(super) const SCHEMAS: Check = Check::new("schemas", "the schemas promised", "all are there");
/// Tables.
pub(super) const TABLES: Check =
    Check::new("tables", "the tables promised, schema by schema", "all are there");
/// Columns.
pub(super) const COLUMNS: Check =
    Check::new("columns", "the columns of those tables", "all are there, with the types promised");
/// Functions.
pub(super) const FUNCTIONS: Check = Check::new("functions", "the functions promised", "all are there");
/// Triggers.
pub(super) const TRIGGERS: Check =
    Check::new("triggers", "the triggers promised", "all are there and enabled");
/// Reference rows.
pub(super) const REFERENCE_ROWS: Check = Check::new(
    "reference-rows",
    "tables that begin with rows",
    "as many as an empty database is given (fewer is INFO: they are the operator's)",
);
/// Indexes.
pub(super) const INDEXES: Check =
    Check::new("indexes", "indexes of those schemas and of chunks", "none is invalid");
/// Constraints.
pub(super) const CONSTRAINTS: Check =
    Check::new("constraints", "constraints of those schemas", "all are validated");

pub(super) fn schemas(bench: &mut Bench<'_>) -> SqlResult {
    let promised = &bench.expected().schemas;
    let missing = catalog::missing_schemas(&mut bench.client, promised)?;
    for schema in &missing {
        let finding = Finding::fail(format!("The schema {schema} is missing"))
            .on(schema)
            .remedy(bench.input.runner("--force"));
        bench.add(&SCHEMAS, finding);
    }
    if missing.is_empty() {
        let finding =
            Finding::pass("All expected schemas validated").wanted(bench.expected().schemas.join(", "));
        bench.add(&SCHEMAS, finding);
    }
    Ok(())
}

pub(super) fn tables(bench: &mut Bench<'_>) -> SqlResult {
    let schemas = bench.schemas();
    let relations = catalog::relations(&mut bench.client, &schemas)?;
    let is_table =
        |name: &str| relations.get(name).is_some_and(|kind| matches!(kind.as_str(), "r" | "p" | "f"));
    let mut promised: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
    for table in bench.expected().tables.keys() {
        promised.entry(schema_of(table)).or_default().push(table);
    }
    for (schema, tables) in promised {
        let missing: Vec<&&String> = tables.iter().filter(|table| !is_table(table)).collect();
        let found = relations.keys().filter(|name| schema_of(name) == schema && is_table(name)).count();
        let seen = format!("Found {found} tables in {schema} schema");
        for table in &missing {
            let finding = Finding::fail(format!("The table {table} is missing"))
                .on(**table)
                .remedy(format!("look whether it was renamed or dropped; {}", bench.input.runner("--force")));
            bench.add(&TABLES, finding);
        }
        if missing.is_empty() {
            let finding =
                Finding::pass(seen).on(schema).wanted(format!("all {} promised are there", tables.len()));
            bench.add(&TABLES, finding);
        }
    }
    let there: Vec<String> =
        bench.expected().tables.keys().filter(|table| is_table(table)).cloned().collect();
    let columns = catalog::columns(&mut bench.client, &there)?;
    let mut right = 0;
    for table in &there {
        let Some(wanted) = bench.expected().tables.get(table) else { continue };
        let findings = compare(table, wanted, columns.get(table), true, &bench.input.runner("--force"));
        right += usize::from(findings.is_empty());
        findings.into_iter().for_each(|finding| bench.add(&COLUMNS, finding));
    }
    if right == there.len() {
        let promised: usize = bench.expected().tables.values().map(BTreeMap::len).sum();
        let finding = Finding::pass(format!("Every column promised is there: {promised} in {right} tables"));
        bench.add(&COLUMNS, finding);
    }
    Ok(())
}

/// How the columns of a relation differ from what is promised. `nulls`: whether NOT NULL is a promise too.
pub(super) fn compare(
    relation: &str,
    wanted: &expected::Columns,
    seen: Option<&BTreeMap<String, (String, bool)>>,
    nulls: bool,
    remedy: &str,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (column, promised) in wanted {
        let object = format!("{relation}.{column}");
        let (kind, not_null) = match promised.strip_suffix(" not null") {
            Some(kind) => (kind, true),
            None => (promised.as_str(), false),
        };
        let Some((is, is_not_null)) = seen.and_then(|seen| seen.get(column)) else {
            findings.push(
                Finding::fail(format!("The column {object} is missing"))
                    .on(object)
                    .wanted(promised)
                    .remedy(remedy),
            );
            continue;
        };
        if is != kind {
            let finding = Finding::fail(format!("The column {object} is {is}, not {kind}"));
            findings.push(finding.on(object).wanted(promised).remedy(remedy));
        } else if nulls && not_null && !is_not_null {
            let finding = Finding::fail(format!("The column {object} may be NULL"));
            findings.push(finding.on(object).wanted(promised).remedy(remedy));
        } else if nulls && *is_not_null && !not_null {
            findings.push(
                Finding::warn(format!("The column {object} must not be NULL, which nobody has promised"))
                    .on(&object)
                    .wanted(promised)
                    .because("applications that leave it out are refused")
                    .remedy(format!(
                        "ALTER TABLE {relation} ALTER COLUMN {column} DROP NOT NULL, unless it is meant"
                    )),
            );
        }
    }
    findings
}

pub(super) fn functions(bench: &mut Bench<'_>) -> SqlResult {
    let promised = &bench.expected().functions;
    let missing = catalog::missing_functions(&mut bench.client, promised)?;
    for function in &missing {
        let finding = Finding::fail(format!("The function {function} is missing"))
            .on(function)
            .remedy(bench.input.runner("--force"));
        bench.add(&FUNCTIONS, finding);
    }
    if missing.is_empty() && !promised.is_empty() {
        let finding = Finding::pass(format!("Functions promised and there: {}", promised.len()));
        bench.add(&FUNCTIONS, finding);
    }
    Ok(())
}

pub(super) fn triggers(bench: &mut Bench<'_>) -> SqlResult {
    let promised = &bench.expected().triggers;
    let amiss = catalog::triggers_amiss(&mut bench.client, promised)?;
    for (trigger, disabled) in &amiss {
        let what = if *disabled { "disabled" } else { "missing" };
        let finding =
            Finding::fail(format!("The trigger {trigger} is {what}")).on(trigger).remedy(if *disabled {
                "ALTER TABLE ... ENABLE TRIGGER ...".to_owned()
            } else {
                bench.input.runner("--force")
            });
        bench.add(&TRIGGERS, finding);
    }
    if amiss.is_empty() && !promised.is_empty() {
        let finding = Finding::pass(format!("Triggers promised and there: {}", promised.len()));
        bench.add(&TRIGGERS, finding);
    }
    Ok(())
}

pub(super) fn reference_rows(bench: &mut Bench<'_>) -> SqlResult {
    let promised = &bench.expected().reference_rows;
    let there = present(bench, promised.keys())?;
    let asked: Vec<(&str, u64)> =
        there.iter().filter_map(|table| Some((table.as_str(), *promised.get(*table)?))).collect();
    let counted = catalog::rows_up_to(&mut bench.client, &asked)?;
    let mut enough = 0;
    for (table, rows) in counted {
        let wanted = promised.get(&table).copied().unwrap_or_default();
        if u64::try_from(rows).unwrap_or_default() >= wanted {
            enough += 1;
            continue;
        }
        let finding = Finding::info(format!("{table} has {rows} rows; an empty database is given {wanted}"))
            .on(&table)
            .wanted(format!("{wanted} rows, unless the operator has fewer"));
        bench.add(&REFERENCE_ROWS, finding);
    }
    if enough > 0 {
        let finding = Finding::pass(format!("Reference rows are there in {}", number(enough, "table")));
        bench.add(&REFERENCE_ROWS, finding);
    }
    Ok(())
}

pub(super) fn indexes(bench: &mut Bench<'_>) -> SqlResult {
    let schemas = bench.schemas();
    let amiss = catalog::invalid_indexes(&mut bench.client, &schemas)?;
    for index in &amiss {
        let finding = if index.building {
            Finding::warn(format!("The index {} is being built", index.name))
                .remedy("run it again when that is done")
        } else {
            Finding::fail(format!("The index {} of {} is invalid", index.name, index.table))
                .because("queries do not use it, and IF NOT EXISTS takes it for a good one")
                .because(&index.definition)
                .remedy(format!(
                    "DROP INDEX {}; then build it again: {}",
                    index.name,
                    bench.input.runner("--force")
                ))
        };
        bench.add(&INDEXES, finding.on(&index.name));
    }
    if amiss.is_empty() {
        bench.add(&INDEXES, Finding::pass("No index is invalid"));
    }
    Ok(())
}

pub(super) fn constraints(bench: &mut Bench<'_>) -> SqlResult {
    let schemas = bench.schemas();
    let amiss = catalog::unvalidated(&mut bench.client, &schemas)?;
    for constraint in &amiss {
        let (table, name) = (&constraint.table, &constraint.name);
        let finding = Finding::fail(format!("The constraint {name} of {table} is not validated"))
            .on(format!("{table}.{name}"))
            .because(&constraint.definition)
            .because("rows that were there before it may break it")
            .remedy(format!(
                "ALTER TABLE {table} VALIDATE CONSTRAINT {name}; it names the first row that does"
            ));
        bench.add(&CONSTRAINTS, finding);
    }
    if amiss.is_empty() {
        bench.add(&CONSTRAINTS, Finding::pass("Every constraint is validated"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ms5_common::check::Verdict;

    #[test]
    fn columns_are_compared_by_type_and_null() {
        let wanted: expected::Columns =
            [("a", "integer not null"), ("b", "text"), ("c", "text"), ("d", "uuid not null"), ("e", "text")]
                .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
                .into();
        let seen: BTreeMap<String, (String, bool)> = [
            ("a", "integer", true),
            ("b", "integer", false),
            ("d", "uuid", false),
            ("e", "text", true),
            ("more", "text", true),
        ]
        .map(|(name, kind, not_null)| (name.to_owned(), (kind.to_owned(), not_null)))
        .into();
        let verdicts: Vec<Verdict> =
            compare("s.t", &wanted, Some(&seen), true, "").iter().map(Finding::verdict).collect();
        assert_eq!(verdicts, [Verdict::Fail, Verdict::Fail, Verdict::Fail, Verdict::Warn]);
        assert_eq!(compare("s.v", &wanted, Some(&seen), false, "").len(), 2);
        assert_eq!(compare("s.v", &wanted, None, false, "").len(), 5);
    }
}
