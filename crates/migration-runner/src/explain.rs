//! `--plan`: what would run, statement by statement, and what each would do to those who work meanwhile.

use ms5_common::error::Result;
use ms5_common::exit::Exit;
use ms5_common::success;
use ms5_common::tool::Context;
use serde_json::json;

use crate::look::Seen;
use crate::plan::Step;
use crate::run::Input;
use crate::words::first_words;

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
            log::info!("    {}:{place} {}", migration.file, first_words(&statement.text));
            log::info!("        {transaction}");
            context.recorder.emit(
                "statement",
                json!({
                    "migration": migration.title, "file": migration.file, "line": place.line, "column": place.column,
                    "statement": first_words(&statement.text), "in_transaction": outside.is_none(),
                }),
            );
        }
    }
    context.recorder.count("statements", count);
    success!("Plan: {count} statements would be executed; nothing was changed");
    Ok(Exit::Done)
}
