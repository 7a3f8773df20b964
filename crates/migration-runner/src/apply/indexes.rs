//! Indexes that a CREATE INDEX has left behind INVALID: they cost every write and serve no query, and IF NOT EXISTS
//! takes them for the index that is wanted.

use ms5_common::db::client::Client;
use ms5_common::db::server_error::reasons;
use ms5_common::effects::{self, CreateIndex};
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::sql::Statement;
use postgres::error::SqlState;

/// An index of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Index {
    /// Without schema.
    pub(super) name: String,
    /// With schema, quoted where that is needed.
    pub(super) qualified: String,
    /// Queries may use it.
    pub(super) valid: bool,
    /// The session that builds it now.
    pub(super) built_by: Option<i32>,
    /// The name is the one that the statement gives.
    pub(super) named: bool,
}

/// The indexes of the table that `wanted` is to be made on; none where there is no such table.
///
/// # Errors
/// The client's words.
pub(super) fn of_table(client: &mut Client, wanted: &CreateIndex) -> Result<Vec<Index>> {
    let rows = client
        .query(
            "SELECT c.relname::text, format('%I.%I', n.nspname, c.relname), i.indisvalid,
                    (SELECT min(p.pid) FROM pg_catalog.pg_stat_progress_create_index p
                     WHERE p.index_relid = c.oid AND p.pid <> pg_catalog.pg_backend_pid()),
                    coalesce(c.relname = (pg_catalog.parse_ident($2))[1], false)
             FROM pg_catalog.pg_index i
             JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE i.indrelid = pg_catalog.to_regclass($1) ORDER BY c.relname",
            &[&wanted.table, &wanted.name],
        )
        .map_err(|error| unreadable(&wanted.table, &error))?;
    Ok(rows
        .iter()
        .map(|row| Index {
            name: row.get(0),
            qualified: row.get(1),
            valid: row.get(2),
            built_by: row.get(3),
            named: row.get(4),
        })
        .collect())
}

/// The INVALID indexes that REINDEX CONCURRENTLY leaves behind, by the names that it gives, in the whole database.
///
/// # Errors
/// The client's words.
pub(super) fn of_reindex(client: &mut Client) -> Result<Vec<Index>> {
    let rows = client
        .query(
            "SELECT c.relname::text, format('%I.%I', n.nspname, c.relname),
                    (SELECT min(p.pid) FROM pg_catalog.pg_stat_progress_create_index p
                     WHERE p.index_relid = c.oid AND p.pid <> pg_catalog.pg_backend_pid())
             FROM pg_catalog.pg_index i
             JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE NOT i.indisvalid AND c.relname ~ '_cc(new|old)[0-9]*$' AND n.nspname <> 'pg_toast'
             ORDER BY 2",
            &[],
        )
        .map_err(|error| unreadable("the database", &error))?;
    Ok(rows
        .iter()
        .map(|row| Index {
            name: row.get(0),
            qualified: row.get(1),
            valid: false,
            built_by: row.get(2),
            named: false,
        })
        .collect())
}

fn unreadable(table: &str, error: &postgres::Error) -> Error {
    Error::new(Exit::Failed, format!("cannot read the indexes of {table}")).because_all(reasons(error))
}

/// The index of a statement before which it is looked whether there is an INVALID one by its name.
fn asked_for(statement: &Statement) -> Option<CreateIndex> {
    effects::create_index(statement).filter(|index| index.if_not_exists)
}

/// Whether [`drop_invalid`] asks the server something before this statement.
pub(super) fn asks(statement: &Statement) -> bool {
    asked_for(statement).is_some()
}

/// Drops the index that `CREATE INDEX IF NOT EXISTS` would take for the wanted one though it is INVALID, inside the
/// file's transaction. Other statements are left alone, without a question to the server.
///
/// # Errors
/// The client's words; an index that another session is building.
pub(super) fn drop_invalid(client: &mut Client, statement: &Statement) -> Result<()> {
    let Some(wanted) = asked_for(statement) else { return Ok(()) };
    for index in of_table(client, &wanted)?.iter().filter(|index| index.named && !index.valid) {
        refuse_building(index)?;
        say(index);
        client
            .batch_execute(&format!("DROP INDEX {}", index.qualified))
            .map_err(|error| undroppable(index, &error))?;
    }
    Ok(())
}

/// Drops an index outside of a transaction, without locking out readers and writers where that is possible.
///
/// # Errors
/// The client's words; an index that another session is building.
pub(super) fn drop(client: &mut Client, index: &Index) -> Result<()> {
    refuse_building(index)?;
    say(index);
    match client.batch_execute(&format!("DROP INDEX CONCURRENTLY IF EXISTS {}", index.qualified)) {
        // Not on hypertables and partitioned tables.
        Err(error) if error.code() == Some(&SqlState::FEATURE_NOT_SUPPORTED) => {
            client.batch_execute(&format!("DROP INDEX IF EXISTS {}", index.qualified))
        }
        other => other,
    }
    .map_err(|error| undroppable(index, &error))
}

fn say(index: &Index) {
    log::warn!(
        "The index {} is INVALID: an earlier build of it broke off; dropping it, to build it again",
        index.qualified
    );
}

fn refuse_building(index: &Index) -> Result<()> {
    match index.built_by {
        None => Ok(()),
        Some(pid) => Err(Error::new(
            Exit::Failed,
            format!("the index {} is being built by another session", index.qualified),
        )
        .because(format!("pid {pid}"))
        .hint("wait for it, or end it, then run it again")),
    }
}

fn undroppable(index: &Index, error: &postgres::Error) -> Error {
    let code = error.code().map(|code| code.code().to_owned());
    Error::new(Exit::Failed, format!("cannot drop the INVALID index {}", index.qualified))
        .because_all(reasons(error))
        .with_sqlstate(code)
}
