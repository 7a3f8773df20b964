//! `--prove`: which tables a file may convert, as far as its text tells. No I/O.

use ms5_common::called::called;
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::expected::Expected;
use ms5_common::migrations::Migration;
use ms5_common::sql::TableName;

use crate::touched;

/// A table that is promised to become a hypertable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Promised {
    pub(crate) table: TableName,
    pub(crate) time_column: String,
}

/// A promised table, as one file sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim<'a> {
    pub(crate) promised: &'a Promised,
    /// The file names it, so it may be what the file converts.
    pub(crate) named: bool,
}

/// The tables that expected.json promises to become hypertables.
pub(crate) fn promised(expected: &Expected) -> Vec<Promised> {
    let promised = expected.hypertables.iter().filter_map(|hypertable| {
        let table = TableName::parse(&hypertable.table)?;
        Some(Promised { table, time_column: hypertable.time_column.clone() })
    });
    promised.collect()
}

/// What a file claims; nothing where it does not call create_hypertable. Names count wherever they stand: also in strings, in
/// bodies of functions, and in strings in those.
///
/// # Errors
/// [`Exit::Failed`]: the file runs statement by statement, so there is no transaction to prove it in.
pub(crate) fn claims<'a>(migration: &Migration, promised: &'a [Promised]) -> Result<Vec<Claim<'a>>> {
    let names = touched::names(migration);
    if promised.is_empty() || !names.contains("create_hypertable") {
        return Ok(Vec::new());
    }
    if migration.stepwise {
        return Err(Error::new(Exit::Failed, format!("{} cannot be proven", migration.file))
            .because("it runs statement by statement, and --prove compares rows inside one transaction")
            .because("nothing was touched")
            .hint(format!(
                "put create_hypertable into a file of its own, or leave --prove and compare with {} --against",
                called("post-validate")
            )));
    }
    let claim = |promised: &'a Promised| Claim { promised, named: names.contains(&promised.table.table) };
    Ok(promised.iter().map(claim).collect())
}
