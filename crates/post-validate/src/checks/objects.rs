//! Objects that were there before the migration and are gone, though no file says so.

use std::collections::BTreeSet;

use ms5_common::catalog::{Difference, Inventory};
use ms5_common::check::{Check, Finding, at_most};
use ms5_common::db::server_error::reasons;
use ms5_common::db::session;
use ms5_common::effects;
use ms5_common::sql::{self, Token};

use super::{Bench, SqlResult, number};
use crate::args::TOOL;

/// The objects.
pub(super) const OBJECTS: Check = Check::new(
    "objects",
    "indexes, constraints, triggers, views, sequences, grants and all else that was there before (--against)",
    "nothing is gone but what a file drops or renames",
);

/// The most objects that are named.
const NAMED: usize = 30;

pub(super) fn check(bench: &mut Bench<'_>) -> SqlResult {
    let input = bench.input;
    let Some(objects) = &input.objects else {
        let why =
            if input.before.is_some() { "pre-validate has not noted them" } else { "without --against" };
        bench.add(&OBJECTS, Finding::skipped(why));
        return Ok(());
    };
    // A session of its own, since the list may take longer than a second.
    let now = match session::open_reader(&input.settings, TOOL, "inventory") {
        Ok(mut session) => Inventory::take(&mut session.client).map_err(|error| reasons(&error)),
        Err(error) => Err(error.lines()),
    };
    let now = match now {
        Ok(now) => now,
        Err(why) => {
            let unread = Finding::warn("The objects of the database cannot be listed").because_all(why);
            bench.add(&OBJECTS, unread.remedy("run it again"));
            return Ok(());
        }
    };
    let said: BTreeSet<String> = (input.migrations.iter())
        .flat_map(|migration| migration.statements().flat_map(effects::drops))
        .collect();
    let mut gone = Vec::new();
    for difference in objects.compare(&now) {
        if let Difference::Missing { object, was } = difference
            && !names(&object, &was).iter().any(|name| said.contains(name))
        {
            gone.push(object);
        }
    }
    if gone.is_empty() {
        bench.add(
            &OBJECTS,
            Finding::pass(format!("Objects: nothing is gone of {} that were there", objects.len())),
        );
        return Ok(());
    }
    let lost = Finding::fail(format!("Objects: {} gone, and no file says so", number(gone.len(), "object")));
    let remedy = format!("create them again, or go back: {}", input.go_back());
    bench.add(&OBJECTS, lost.because_all(at_most(NAMED, &gone)).remedy(remedy));
    Ok(())
}

/// The names that a file would have to drop: the object's own and its table's, without schema and quotes.
fn names(object: &str, was: &str) -> Vec<String> {
    // What belongs to a table goes with it; an index and a sequence name it in their definition only.
    let table = match object.split(' ').next() {
        Some("index") => was.split_once(" ON ").map(|(_, behind)| behind.trim_start_matches("ONLY ")),
        Some("sequence") => was.split_once("owned by ").map(|(_, behind)| behind),
        _ => None,
    };
    [Some(object), table].into_iter().flatten().flat_map(parts).collect()
}

/// The parts, behind its schema, of the first name with a dot in it; of the last word where there is none.
fn parts(text: &str) -> Vec<String> {
    let tokens: Vec<Token<'_>> = sql::tokens(text, true).collect();
    let dotted = tokens.windows(2).position(|pair| pair[0].name().is_some() && pair[1].is_symbol("."));
    let (start, skip) = dotted.map_or((tokens.len().saturating_sub(1), 0), |start| (start, 1));
    let name = tokens.iter().skip(start).take_while(|token| token.is_symbol(".") || token.name().is_some());
    // Behind a whole name the next word belongs to something else.
    let mut after_dot = true;
    name.take_while(|token| {
        let goes_on = after_dot || token.is_symbol(".");
        after_dot = token.is_symbol(".");
        goes_on
    })
    .filter_map(Token::name)
    .skip(skip)
    .map(std::borrow::Cow::into_owned)
    .collect()
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn names_of_objects_and_of_their_tables() {
        for (object, was, wanted) in [
            ("constraint a.b.\"C\"", "", vec!["b", "C"]),
            ("materialized view a.m", "", vec!["m"]),
            ("function a.f(text, integer)", "", vec!["f"]),
            ("schema a", "", vec!["a"]),
            ("index a.i", "CREATE INDEX i ON a.t USING btree (x)", vec!["i", "t"]),
            ("sequence a.s", "bigint, owned by a.t.id", vec!["s", "t", "id"]),
            (
                "index \"A b\".\"i x\"",
                "CREATE INDEX \"i x\" ON ONLY \"A b\".\"T, z\" USING btree (x)",
                vec!["i x", "T, z"],
            ),
            ("grant SELECT to \"Bob Y\" on a.t", "", vec!["t"]),
            ("grant EXECUTE to public on a.f(integer, a.b)", "", vec!["f"]),
            ("grant USAGE to joe on schema \"S s\"", "", vec!["S s"]),
            ("comment on table column a.t.c", "text", vec!["t", "c"]),
            ("policy policy_compression on a.t", "every 1 day", vec!["t"]),
        ] {
            assert_eq!(names(object, was), wanted, "{object}");
        }
    }
}
