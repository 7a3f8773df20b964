//! What a file locks and rewrites, of all its statements together. No I/O.

use std::cmp::Reverse;

use ms5_common::effects::{self, LockMode, Rewrite};
use ms5_common::migrations::Migration;
use serde_json::{Map, Value, json};

/// What a file does to one relation.
struct Touch {
    on: String,
    mode: LockMode,
    statements: usize,
    rewrite: Rewrite,
}

/// The members `locks` and `unknown` of a migration's record: the strongest lock on each relation, the strongest of all first.
pub(crate) fn members(migration: &Migration) -> Map<String, Value> {
    let mut touched: Vec<Touch> = Vec::new();
    let mut unknown: Vec<&str> = Vec::new();
    for statement in migration.statements() {
        let effects = effects::effects(statement);
        unknown.extend(effects.opaque);
        for (place, lock) in effects.locks.into_iter().enumerate() {
            // The first, the strongest, is on the table that is read or written anew.
            let rewrite = if place == 0 { effects.rewrite } else { Rewrite::No };
            match touched.iter_mut().find(|touch| touch.on == lock.on) {
                Some(touch) => {
                    touch.mode = touch.mode.max(lock.mode);
                    touch.statements += 1;
                    touch.rewrite = touch.rewrite.or(rewrite);
                }
                None => touched.push(Touch { on: lock.on, mode: lock.mode, statements: 1, rewrite }),
            }
        }
    }
    touched.sort_by_key(|touch| Reverse(touch.mode));
    unknown.sort_unstable();
    unknown.dedup();
    let locks: Vec<Value> = touched
        .into_iter()
        .map(|Touch { on, mode, statements, rewrite }| {
            json!({"on": on, "lock": mode.to_string(), "statements": statements, "rewrites": words(rewrite)})
        })
        .collect();
    Map::from_iter([("locks".to_owned(), json!(locks)), ("unknown".to_owned(), json!(unknown))])
}

/// How much of a table is read or written anew, in words.
pub(crate) fn words(rewrite: Rewrite) -> String {
    match rewrite {
        Rewrite::No => "no".to_owned(),
        Rewrite::Scan => "reads the whole table".to_owned(),
        Rewrite::Perhaps(what) => format!("may rewrite the table: {what}"),
        Rewrite::Yes => "rewrites the whole table".to_owned(),
    }
}
