//! Whether a file runs in one transaction or statement by statement, and what it must not contain then. Pure.

use crate::effects::{self, Outside, Procedures};
use crate::migrations::Migration;
use crate::migrations::rules::Refusal;
use crate::sql::{SessionControl, Statement};

/// Decides from the statements, and from what the file says of itself: `asked` is Some(true) for `-- ms5: transaction`
/// or a BEGIN ... COMMIT around it, Some(false) for `-- ms5: no-transaction`.
///
/// # Errors
/// What contradicts the decision, with its place.
pub(super) fn decide(
    migration: &Migration,
    asked: Option<bool>,
    procedures: &mut Procedures,
) -> Result<(bool, Vec<Option<Outside>>), Box<Refusal>> {
    let statements: Vec<&Statement> = migration.statements().collect();
    let outside = effects::of_file(&statements, procedures);
    let refuse = |statement: &Statement, what: String, hint: &'static str| {
        Err(Box::new(Refusal { statement: statement.clone(), at: statement.head(), what, hint }))
    };
    for (statement, outside) in statements.iter().zip(&outside) {
        match outside {
            Some(Outside::Joined(inner)) => {
                return refuse(
                    statement,
                    format!("{} joined to another statement by \\;", inner.words()),
                    "it cannot run inside a transaction, and the server makes one of each message: end it with a \
                     semicolon of its own",
                );
            }
            Some(outside) if asked == Some(true) => {
                return refuse(
                    statement,
                    format!("{} cannot run inside a transaction, which the file asks for", outside.words()),
                    "move the statement to a file of its own, or take out -- ms5: transaction (or BEGIN and COMMIT)",
                );
            }
            _ => {}
        }
    }
    let stepwise = asked == Some(false) || outside.iter().any(Option::is_some);
    if !stepwise {
        return Ok((false, outside));
    }
    for statement in statements {
        if effects::makes_temporary(statement) {
            return refuse(
                statement,
                "something temporary in a file that runs statement by statement".to_owned(),
                "a later run that goes on in the middle would not find it: use a table, and drop it at the end",
            );
        }
        if effects::set_local(statement) {
            return refuse(
                statement,
                "SET LOCAL in a file that runs statement by statement".to_owned(),
                "it ends with its own statement: use SET, which the runner takes back at the end of the file",
            );
        }
        if statement.facts().any(|facts| facts.session_control() == Some(SessionControl::Role)) {
            return refuse(
                statement,
                "SET ROLE in a file that runs statement by statement".to_owned(),
                "the role may have no right to record the steps: use ALTER ... OWNER TO, or a file in one transaction",
            );
        }
    }
    Ok((true, outside))
}
