//! What a migration may contain: SQL, inside one transaction that the runner opens and commits. Pure.

use crate::migrations::Action;
use crate::sql::{Facts, Pos, SessionControl, Setting, Statement, TransactionControl};

/// Something a migration must not contain, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The statement's place.
    pub(super) statement: Statement,
    /// Where in the file.
    pub(super) at: Pos,
    /// What is wrong.
    pub(super) what: String,
    /// What to do about it.
    pub(super) hint: &'static str,
}

/// The words that a statement of PostgreSQL begins with (src/backend/parser/gram.y, `stmt`).
const COMMANDS: [&str; 57] = [
    "abort",
    "alter",
    "analyse",
    "analyze",
    "begin",
    "call",
    "checkpoint",
    "close",
    "cluster",
    "comment",
    "commit",
    "copy",
    "create",
    "deallocate",
    "declare",
    "delete",
    "discard",
    "do",
    "drop",
    "end",
    "execute",
    "explain",
    "fetch",
    "grant",
    "import",
    "insert",
    "listen",
    "load",
    "lock",
    "merge",
    "move",
    "notify",
    "prepare",
    "reassign",
    "refresh",
    "reindex",
    "release",
    "repack",
    "reset",
    "revoke",
    "rollback",
    "savepoint",
    "security",
    "select",
    "set",
    "show",
    "start",
    "table",
    "truncate",
    "unlisten",
    "update",
    "vacuum",
    "values",
    "wait",
    "with",
    "add",
    "property",
];

/// Checks every statement, and takes out one BEGIN ... COMMIT around the whole file: the runner's own
/// transaction stands for it. Gives the rest, and whether there was one.
pub(super) fn check(mut actions: Vec<Action>) -> Result<(Vec<Action>, bool), Box<Refusal>> {
    let absorbed = absorb(&mut actions);
    for action in &actions {
        if let Action::Run(statement) = action {
            check_statement(statement)?;
        }
    }
    Ok((actions, absorbed))
}

fn absorb(actions: &mut Vec<Action>) -> bool {
    let is_run = |action: &Action| matches!(action, Action::Run(_));
    let (Some(first), Some(last)) = (actions.iter().position(is_run), actions.iter().rposition(is_run))
    else {
        return false;
    };
    let plain = |index: usize, control: TransactionControl| match &actions[index] {
        Action::Run(statement) => {
            let mut parts = statement.facts();
            // With options (an isolation level, AND CHAIN) it means more than the runner's transaction does.
            let only =
                parts.next().filter(|facts| facts.transaction_control() == Some(control) && is_plain(facts));
            only.is_some() && parts.next().is_none()
        }
        Action::Say(_) => false,
    };
    let around =
        first < last && plain(first, TransactionControl::Begin) && plain(last, TransactionControl::Commit);
    if around {
        actions.remove(last);
        actions.remove(first);
    }
    around
}

/// BEGIN, COMMIT, END, START TRANSACTION, with WORK or TRANSACTION at most.
fn is_plain(facts: &Facts<'_>) -> bool {
    facts.tokens().skip(1).all(|token| token.is_word("work") || token.is_word("transaction"))
}

fn check_statement(statement: &Statement) -> Result<(), Box<Refusal>> {
    let refuse = |at: Pos, what: String, hint: &'static str| {
        Err(Box::new(Refusal { statement: statement.clone(), at, what, hint }))
    };
    if statement.copy_data.len() > 1 {
        return refuse(
            statement.head(),
            "several COPY ... FROM STDIN in one message (joined by \\;)".to_owned(),
            "end each COPY with a semicolon of its own",
        );
    }
    for ((offset, _), facts) in statement.parts().zip(statement.facts()) {
        let Some(first) = facts.tokens().next() else { continue };
        let at = statement.pos_at(offset + first.range.start);
        let known = first.is_symbol("(") || COMMANDS.iter().any(|command| first.is_word(command));
        if !known {
            return refuse(
                at,
                format!("{:?} is not the beginning of an SQL statement", shortened(first.text)),
                "check that the file is SQL for PostgreSQL, and that the statement before it ends with a semicolon",
            );
        }
        if let Some(control) = facts.transaction_control() {
            return refuse(
                at,
                format!("{} in a migration", control_name(control)),
                "take it out: the runner applies a file in one transaction of its own, with its ledger row (one plain \
                 BEGIN at the start with its COMMIT at the end is accepted)",
            );
        }
        if facts.session_control() == Some(SessionControl::SessionAuthorization) {
            return refuse(
                at,
                "SESSION AUTHORIZATION in a migration".to_owned(),
                "use SET ROLE: the runner takes it back at the end of the file",
            );
        }
        if facts.is_copy_to_stdout() {
            return refuse(
                at,
                "COPY ... TO STDOUT in a migration".to_owned(),
                "take it out, or write to a table: the rows would go to the runner, which has no use for them",
            );
        }
        let foreign =
            facts.setting().into_iter().chain(facts.set_config_calls()).find(Setting::is_foreign_encoding);
        if let Some(Setting { name, value: Some(value), .. }) = foreign {
            return refuse(
                at,
                format!("{name} {value} in a migration"),
                "take it out, and save the file as UTF-8: that is what is sent, and the server would misread it",
            );
        }
        if let Some(call) = facts.advisory_unlocks().first() {
            return refuse(
                statement.pos_at(offset + call.start),
                "an advisory unlock in a migration".to_owned(),
                "use pg_advisory_xact_lock, which is given up by itself at the end of the transaction",
            );
        }
    }
    Ok(())
}

fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

fn control_name(control: TransactionControl) -> &'static str {
    match control {
        TransactionControl::Begin => "BEGIN",
        TransactionControl::Commit => "COMMIT",
        TransactionControl::Rollback => "ROLLBACK",
        TransactionControl::Savepoint => "SAVEPOINT",
        TransactionControl::Release => "RELEASE SAVEPOINT",
        TransactionControl::RollbackTo => "ROLLBACK TO SAVEPOINT",
        TransactionControl::PrepareTransaction => "PREPARE TRANSACTION",
        TransactionControl::CommitPrepared => "COMMIT PREPARED",
        TransactionControl::RollbackPrepared => "ROLLBACK PREPARED",
        TransactionControl::SetTransaction => "SET TRANSACTION",
        TransactionControl::SetSessionCharacteristics => "SET SESSION CHARACTERISTICS",
    }
}
