//! Objects that were there before the migration and are gone, or guard less than they did, though no file says so.

mod excuse;
mod loss;
mod object;

use ms5_common::catalog::{Difference, Inventory};
use ms5_common::check::{Check, Finding, at_most};
use ms5_common::db::server_error::reasons;
use ms5_common::db::session;

use self::excuse::Excuses;
use self::object::Object;
pub(super) use self::object::may_be;
use super::{Bench, SqlResult, number};
use crate::args::TOOL;

/// The objects.
pub(super) const OBJECTS: Check = Check::new(
    "objects",
    "columns, indexes, constraints, triggers, views, sequences, grants and all else that was there before (--against)",
    "nothing is gone, and nothing guards less, but what a file drops, renames or alters; what is another one: WARN",
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
    let found = Found::of(objects, &now, Excuses::of(input.said()));
    if found.gone.is_empty() && found.less.is_empty() {
        bench.add(
            &OBJECTS,
            Finding::pass(format!("Objects: nothing is gone of {} that were there", objects.len())),
        );
    }
    for (what, names) in [("gone", &found.gone), ("changed for the worse", &found.less)] {
        if !names.is_empty() {
            let lost = Finding::fail(format!(
                "Objects: {} {what}, and no file says so",
                number(names.len(), "object")
            ));
            let remedy = format!("make them as they were, or go back: {}", input.go_back());
            bench.add(&OBJECTS, lost.because_all(at_most(NAMED, names)).remedy(remedy));
        }
    }
    if !found.another.is_empty() {
        let count = number(found.another.len(), "object");
        let changed =
            Finding::warn(format!("Objects: {count} defined otherwise than before, and no file says so"));
        let remedy = "look who has changed them, and whether that was wanted";
        bench.add(&OBJECTS, changed.because_all(at_most(NAMED, &found.another)).remedy(remedy));
    }
    Ok(())
}

/// What no file says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    /// What is gone.
    gone: Vec<String>,
    /// What guards less than it did, and how.
    less: Vec<String>,
    /// What is another one under the same name.
    another: Vec<String>,
}

impl Found {
    fn of(before: &Inventory, now: &Inventory, mut excuses: Excuses) -> Self {
        let (mut missing, mut changed, mut added) = (Vec::new(), Vec::new(), Vec::new());
        for difference in before.compare(now) {
            match difference {
                Difference::Missing { object, was } => missing.push((Object::of(&object, &was), was)),
                Difference::Changed { object, was, is } => {
                    changed.push((Object::of(&object, &was), was, is));
                }
                Difference::Added { object, is } => added.push((Object::of(&object, &is), is)),
            }
        }
        // Code that computes names may give a constraint another one, or a table another primary key.
        missing.retain(|(gone, was)| {
            let stands_for_it = |(new, is): &&(Object, String)| {
                let both = |kind: &str| was.starts_with(kind) && is.starts_with(kind);
                new.is(&["constraint"])
                    && new.relation == gone.relation
                    && (is == was || both("PRIMARY KEY "))
            };
            let is_constraint = gone.is(&["constraint"]);
            let Some((_, is)) = added.iter().filter(|_| is_constraint).find(stands_for_it) else {
                return true;
            };
            excuses.add(gone);
            if is != was {
                changed.push((gone.clone(), was.clone(), is.clone()));
            }
            false
        });
        let mut missing: Vec<Object> = missing.into_iter().map(|(object, _)| object).collect();
        excuses.take_from(&mut missing);
        let gone = missing.into_iter().map(|object| object.text).collect();

        let all = |inventory: &Inventory, kind: &str| -> Vec<Object> {
            inventory
                .iter()
                .map(|(name, is)| Object::of(name, is))
                .filter(|object| object.is(&[kind]))
                .collect()
        };
        let (hypertables, constraints) = (all(now, "hypertable"), all(before, "constraint"));
        let mut found = Self { gone, ..Self::default() };
        for (object, was, is) in changed {
            let beside = |other: &Object| other.relation == object.relation;
            // A constraint is told of once, and not as its index too.
            let of_constraint = |key: &Object| beside(key) && key.own() == object.own();
            if excuses.change(&object) || (object.is(&["index"]) && constraints.iter().any(of_constraint)) {
                continue;
            }
            let of_hypertable = hypertables.iter().any(beside);
            if let Some(how) = loss::lost(&object.kind, &was, &is, of_hypertable) {
                found.less.push(format!("{}: {how}", object.text));
            } else if loss::is_another(&object.kind, &was, &is, of_hypertable) {
                found.another.push(object.text);
            }
        }
        found
    }
}
