//! `--plan`: what would run, statement by statement, and what each would do to those who work meanwhile.

use ms5_common::effects::{self, Effects, Rewrite};
use ms5_common::error::Result;
use ms5_common::exit::Exit;
use ms5_common::success;
use ms5_common::tool::Context;
use serde_json::json;

use crate::locked::words;
use crate::look::Seen;
use crate::plan::Step;
use crate::run::Input;
use crate::secret::first_words;

/// Shows every statement of every file that would run. Touches nothing.
pub(crate) fn show(context: &Context, input: &Input, seen: &Seen) -> Result<Exit> {
    let steps = seen.steps(input)?;
    let mut count = 0;
    for (migration, step) in input.migrations.iter().zip(&steps) {
        if !matches!(step, Step::Apply { .. }) {
            continue;
        }
        let how = if migration.stepwise { "statement by statement" } else { "in one transaction" };
        log::info!("{} ({}), {how}", migration.title, migration.file);
        for (statement, outside) in migration.statements().zip(migration.outside()) {
            count += 1;
            let place = statement.head();
            let transaction = match outside {
                Some(outside) => format!("outside a transaction ({})", outside.words()),
                None if migration.stepwise => "in a transaction of its own".to_owned(),
                None => "in the file's transaction".to_owned(),
            };
            let effects = effects::effects(statement);
            let strongest = effects.locks.first();
            let rewrite = words(effects.rewrite);
            log::info!("    {}:{place} {}", migration.file, first_words(statement));
            log::info!("        {transaction}; {}", described(&effects));
            context.recorder.emit(
                "statement",
                json!({
                    "migration": migration.title, "file": migration.file, "line": place.line, "column": place.column,
                    "statement": first_words(statement), "in_transaction": outside.is_none(),
                    "lock": strongest.map(|lock| lock.mode.to_string()), "on": strongest.map(|lock| &lock.on),
                    "rewrites": rewrite, "unknown": effects.opaque,
                }),
            );
        }
    }
    context.recorder.count("statements", count);
    success!("Plan: {count} statements would be executed; nothing was changed");
    Ok(Exit::Done)
}

/// The locks and the work under them, for people.
fn described(effects: &Effects) -> String {
    let locks: Vec<String> =
        effects.locks.iter().map(|lock| format!("{} on {}", lock.mode, lock.on)).collect();
    let mut parts = Vec::new();
    if !locks.is_empty() {
        parts.push(locks.join(", "));
    } else if effects.opaque.is_none() {
        parts.push("locks no table".to_owned());
    }
    if effects.rewrite != Rewrite::No {
        parts.push(words(effects.rewrite));
    }
    if let Some(opaque) = effects.opaque {
        parts.push(opaque.to_owned());
    }
    parts.join("; ")
}
