//! The migration files: whether the runner could run them, and in this order.

use std::collections::BTreeSet;

use ms5_common::check::{Finding, Report};
use ms5_common::db::client::Client;
use ms5_common::db::server_error::reasons;
use ms5_common::effects::{self, LockMode};
use ms5_common::error::Result;
use ms5_common::migrations::Migration;

use super::{DEPENDENCIES, FILES};

/// Makes the checks. `client` is None where there is no session.
pub(crate) fn check(
    report: &mut Report<'_>,
    files: &Result<Vec<Migration>>,
    folder: &str,
    client: Option<&mut Client>,
) {
    match files {
        Err(error) => {
            report.add(&FILES, Finding::failed(error).on(folder));
            report.add(&DEPENDENCIES, Finding::skipped("the files cannot be read"));
        }
        Ok(files) => {
            report.add(&FILES, sound(files).on(folder));
            report.add(
                &DEPENDENCIES,
                match client {
                    None => Finding::skipped("there is no session"),
                    Some(client) => dependencies(files, client),
                },
            );
        }
    }
}

fn sound(files: &[Migration]) -> Finding {
    let statements: usize = files.iter().map(Migration::statement_count).sum();
    let warnings: Vec<String> = files
        .iter()
        .flat_map(|migration| {
            migration.warnings.iter().map(|warning| format!("{}: {warning}", migration.file))
        })
        .collect();
    Finding::pass("All migration files validated")
        .because(format!("{} files with {statements} statements", files.len()))
        .because_all(warnings)
}

/// Tables that are altered before any file creates them, and that the database does not have. A block of code may create
/// anything, so after one nothing is certain any more.
fn dependencies(files: &[Migration], client: &mut Client) -> Finding {
    let mut made = BTreeSet::new();
    let (mut wanted, mut hidden) = (Vec::new(), false);
    for migration in files {
        for statement in migration.statements() {
            made.extend(effects::creates(statement).iter().map(|name| last_name(name).to_owned()));
            let effects = effects::effects(statement);
            if hidden {
                continue;
            }
            for lock in effects.locks.iter().filter(|lock| lock.mode >= LockMode::ShareUpdateExclusive) {
                if !made.contains(last_name(&lock.on)) {
                    wanted.push((lock.on.clone(), format!("{}:{}", migration.file, statement.head())));
                }
            }
            hidden |= effects.opaque.is_some();
        }
    }
    let names: Vec<&str> = wanted.iter().map(|(name, _)| name.as_str()).collect();
    let missing = client.query("SELECT n FROM unnest($1::text[]) n WHERE to_regclass(n) IS NULL", &[&names]);
    let missing: BTreeSet<String> = match missing {
        Ok(rows) => rows.iter().map(|row| row.get(0)).collect(),
        Err(error) => return Finding::warn("The tables cannot be asked for").because_all(reasons(&error)),
    };
    let lines: Vec<String> = wanted
        .into_iter()
        .filter(|(name, _)| missing.contains(name))
        .map(|(name, place)| {
            format!("{place} works on {name}, which is not there and which no file creates before")
        })
        .collect();
    if !lines.is_empty() {
        return Finding::warn("Files depend on what is not there")
            .because_all(lines)
            .remedy("bring the file that creates it, or change the order");
    }
    if hidden {
        return Finding::pass("No file depends on what is not there, as far as their text tells")
            .because("blocks of code were not looked into");
    }
    Finding::pass("No file depends on what is not there")
}

/// The table's own name of what stands in SQL text as `schema.table`.
fn last_name(text: &str) -> &str {
    text.rsplit('.').next().unwrap_or(text).trim_matches('"')
}
