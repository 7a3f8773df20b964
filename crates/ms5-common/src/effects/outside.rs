//! Statements that cannot run inside a transaction block.
//!
//! Source: the callers of `PreventInTransactionBlock` in PostgreSQL 15 to 18 (utility.c, and cluster.c, dbcommands.c,
//! indexcmds.c, subscriptioncmds.c, tablecmds.c, vacuum.c of commands/) and in TimescaleDB up to 2.27
//! (process_utility.c, indexing.c; refresh.c, chunk_merge.c, reorder.c of tsl/). Not seen is what the text does not
//! tell: CLUSTER of a partitioned table or hypertable, REINDEX of a partitioned table or its index.

use super::cursor::Cursor;
use super::index::{self, CreateIndex};
use super::routines;

/// What a statement is that cannot run inside a transaction, with what a later run needs to take it up again.
///
/// Names are SQL text, with quotes and schema as they are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outside {
    /// CREATE INDEX CONCURRENTLY, or WITH (timescaledb.transaction_per_chunk).
    CreateIndex {
        /// The index, without a schema; None: the server makes its name up.
        name: Option<String>,
        /// The table.
        table: String,
        /// TimescaleDB builds it chunk by chunk.
        per_chunk: bool,
        /// IF NOT EXISTS, which accepts an index that is there but invalid.
        if_not_exists: bool,
    },
    /// DROP INDEX CONCURRENTLY.
    DropIndex {
        /// The indexes.
        names: Vec<String>,
    },
    /// REINDEX CONCURRENTLY, or of a schema, database or system.
    Reindex {
        /// Asked for by the word or the option.
        concurrently: bool,
    },
    /// VACUUM.
    Vacuum,
    /// CLUSTER of all tables.
    Cluster,
    /// ALTER SYSTEM.
    AlterSystem,
    /// DISCARD ALL.
    DiscardAll,
    /// CREATE DATABASE.
    CreateDatabase {
        /// The database.
        name: String,
    },
    /// DROP DATABASE.
    DropDatabase {
        /// The database.
        name: String,
    },
    /// CREATE TABLESPACE.
    CreateTablespace {
        /// The tablespace.
        name: String,
    },
    /// DROP TABLESPACE.
    DropTablespace {
        /// The tablespace.
        name: String,
    },
    /// CREATE SUBSCRIPTION that makes a replication slot.
    CreateSubscription {
        /// The subscription.
        name: String,
    },
    /// DROP SUBSCRIPTION. One without a slot could be dropped in a transaction as well.
    DropSubscription {
        /// The subscription.
        name: String,
    },
    /// ALTER SUBSCRIPTION that refreshes, or that changes the slot.
    AlterSubscription,
    /// ALTER DATABASE ... SET TABLESPACE.
    AlterDatabase,
    /// ALTER EXTENSION timescaledb UPDATE: no transaction forbids it, but it must be a session's first statement.
    UpdateExtension {
        /// The extension.
        name: String,
    },
    /// CREATE MATERIALIZED VIEW ... WITH (timescaledb.continuous) without WITH NO DATA.
    ContinuousAggregate {
        /// The view.
        name: String,
    },
    /// CALL refresh_continuous_aggregate, which may run again.
    Refresh,
    /// ALTER TABLE ... DETACH PARTITION ... CONCURRENTLY.
    DetachPartition {
        /// The partitioned table.
        table: String,
        /// The partition.
        partition: String,
    },
    /// ALTER TYPE ... ADD VALUE: it may run inside, but a later statement uses the value, which must be committed then.
    EnumValue {
        /// The type.
        type_name: String,
        /// The value, or the SQL text of it where that has escapes.
        value: String,
    },
    /// A DO block or procedure that commits inside, or a function that refuses to run in a transaction block.
    Commits {
        /// COMMIT, ROLLBACK, or the procedure or function.
        what: String,
    },
    /// One of several statements in one message (joined by `\;`), which the server makes one transaction: it fails
    /// wherever it is run.
    Joined(Box<Outside>),
}

impl Outside {
    /// The statement's keywords, for messages.
    #[must_use]
    pub fn words(&self) -> &'static str {
        match self {
            Self::CreateIndex { per_chunk: true, .. } => {
                "CREATE INDEX ... WITH (timescaledb.transaction_per_chunk)"
            }
            Self::CreateIndex { .. } => "CREATE INDEX CONCURRENTLY",
            Self::DropIndex { .. } => "DROP INDEX CONCURRENTLY",
            Self::Reindex { concurrently: true } => "REINDEX CONCURRENTLY",
            Self::Reindex { .. } => "REINDEX of a whole schema or database",
            Self::Vacuum => "VACUUM",
            Self::Cluster => "CLUSTER of all tables",
            Self::AlterSystem => "ALTER SYSTEM",
            Self::DiscardAll => "DISCARD ALL",
            Self::CreateDatabase { .. } => "CREATE DATABASE",
            Self::DropDatabase { .. } => "DROP DATABASE",
            Self::CreateTablespace { .. } => "CREATE TABLESPACE",
            Self::DropTablespace { .. } => "DROP TABLESPACE",
            Self::CreateSubscription { .. } => "CREATE SUBSCRIPTION",
            Self::DropSubscription { .. } => "DROP SUBSCRIPTION",
            Self::AlterSubscription => "ALTER SUBSCRIPTION",
            Self::AlterDatabase => "ALTER DATABASE ... SET TABLESPACE",
            Self::UpdateExtension { .. } => "ALTER EXTENSION timescaledb UPDATE",
            Self::ContinuousAggregate { .. } => "CREATE MATERIALIZED VIEW ... WITH DATA",
            Self::Refresh => "CALL refresh_continuous_aggregate",
            Self::DetachPartition { .. } => "ALTER TABLE ... DETACH PARTITION ... CONCURRENTLY",
            Self::EnumValue { .. } => "ALTER TYPE ... ADD VALUE",
            Self::Commits { .. } => "a block, procedure or function that needs transactions of its own",
            Self::Joined(inner) => inner.words(),
        }
    }
}

/// What the statement is by its own text; the cursor stands at its first token.
pub(super) fn of_text(mut cursor: Cursor<'_, '_>) -> Option<Outside> {
    if cursor.take(&["create"]) {
        create(cursor)
    } else if cursor.take(&["drop"]) {
        drop(cursor)
    } else if cursor.take(&["alter"]) {
        alter(cursor)
    } else if cursor.take(&["reindex"]) {
        reindex(cursor)
    } else if cursor.is("vacuum") {
        Some(Outside::Vacuum)
    } else if cursor.take(&["cluster"]) {
        cursor.take(&["verbose"]);
        cursor.group();
        cursor.is_at_end().then_some(Outside::Cluster)
    } else if cursor.are(&["discard", "all"]) {
        Some(Outside::DiscardAll)
    } else {
        routines::refusing_function(cursor)
    }
}

fn create(mut cursor: Cursor<'_, '_>) -> Option<Outside> {
    if cursor.take(&["database"]) {
        return cursor.name_text().map(|name| Outside::CreateDatabase { name });
    }
    if cursor.take(&["tablespace"]) {
        return cursor.name_text().map(|name| Outside::CreateTablespace { name });
    }
    if cursor.take(&["subscription"]) {
        let name = cursor.name_text()?;
        let is_off = |item: &str| {
            let options = cursor.with_options();
            options.iter().any(|option| option.name.parts == [item] && !option.is_on())
        };
        // Without a connection there is no slot either.
        let makes_slot = !is_off("create_slot") && !is_off("connect");
        return makes_slot.then_some(Outside::CreateSubscription { name });
    }
    if cursor.take(&["materialized", "view"]) {
        return continuous_aggregate(cursor);
    }
    cursor.take(&["unique"]);
    if cursor.take(&["index"]) { create_index(cursor) } else { None }
}

fn create_index(mut cursor: Cursor<'_, '_>) -> Option<Outside> {
    let concurrently = cursor.take(&["concurrently"]);
    let CreateIndex { name, table, if_not_exists } = index::described(&mut cursor)?;
    let per_chunk = cursor
        .with_options()
        .iter()
        .any(|option| option.is_timescale("transaction_per_chunk") && option.is_on());
    let is_outside = concurrently || per_chunk;
    is_outside.then_some(Outside::CreateIndex { name, table, per_chunk, if_not_exists })
}

fn continuous_aggregate(mut cursor: Cursor<'_, '_>) -> Option<Outside> {
    cursor.take_if();
    let name = cursor.name_text()?;
    let mut is_continuous = false;
    while cursor.seek(&["with", "as"]) && !cursor.is("as") {
        cursor.advance(1);
        is_continuous |=
            cursor.options().iter().any(|option| option.is_timescale("continuous") && option.is_on());
    }
    let is_empty = cursor.rest().split_last_chunk::<3>().is_some_and(|(_, end)| {
        end.iter().zip(["with", "no", "data"]).all(|(token, word)| token.is_word(word))
    });
    (is_continuous && !is_empty).then_some(Outside::ContinuousAggregate { name })
}

fn drop(mut cursor: Cursor<'_, '_>) -> Option<Outside> {
    if cursor.take(&["index", "concurrently"]) {
        cursor.take_if();
        let names = cursor.by_commas().into_iter().filter_map(|mut item| item.name_text()).collect();
        return Some(Outside::DropIndex { names });
    }
    let kind: fn(String) -> Outside = if cursor.take(&["database"]) {
        |name| Outside::DropDatabase { name }
    } else if cursor.take(&["tablespace"]) {
        |name| Outside::DropTablespace { name }
    } else if cursor.take(&["subscription"]) {
        |name| Outside::DropSubscription { name }
    } else {
        return None;
    };
    cursor.take_if();
    cursor.name_text().map(kind)
}

fn alter(mut cursor: Cursor<'_, '_>) -> Option<Outside> {
    if cursor.is("system") {
        return Some(Outside::AlterSystem);
    }
    if cursor.take(&["database"]) {
        cursor.name()?;
        // but "set tablespace = x" is a parameter of that name
        let is_move = cursor.take(&["set", "tablespace"])
            && !cursor.is("to")
            && !cursor.peek().is_some_and(|token| token.is_symbol("="));
        return is_move.then_some(Outside::AlterDatabase);
    }
    if cursor.take(&["extension"]) {
        let name = cursor.name()?;
        let is_outside = name.last() == "timescaledb" && cursor.is("update");
        return is_outside.then_some(Outside::UpdateExtension { name: name.text });
    }
    if cursor.take(&["subscription"]) {
        cursor.name()?;
        return alter_subscription(cursor).then_some(Outside::AlterSubscription);
    }
    if cursor.take(&["table"]) {
        cursor.take_if();
        let table = cursor.relation()?.text;
        if cursor.take(&["detach", "partition"]) {
            let partition = cursor.name_text()?;
            return cursor.is("concurrently").then_some(Outside::DetachPartition { table, partition });
        }
    }
    None
}

fn alter_subscription(mut cursor: Cursor<'_, '_>) -> bool {
    if cursor.is("refresh") {
        return true;
    }
    if ["set", "add", "drop"].iter().any(|word| cursor.take(&[word, "publication"])) {
        let options = cursor.with_options();
        return !options.iter().any(|option| option.name.parts == ["refresh"] && !option.is_on());
    }
    // From 17 and 18: they change the slot on the publisher.
    cursor.take(&["set"])
        && cursor.options().iter().any(|option| matches!(option.name.last(), "failover" | "two_phase"))
}

fn reindex(mut cursor: Cursor<'_, '_>) -> Option<Outside> {
    let options = cursor.options();
    let is_whole = cursor.take_any(&["schema", "database", "system"]);
    if !is_whole {
        cursor.take_any(&["index", "table"]);
    }
    let concurrently = cursor.is("concurrently")
        || options.iter().any(|option| option.name.parts == ["concurrently"] && option.is_on());
    (is_whole || concurrently).then_some(Outside::Reindex { concurrently })
}
