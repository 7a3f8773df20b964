//! What is read of each table, and what a fingerprint is made of.

use super::read::Sums;
use super::shape::Shape;
use super::sql::{Content, Days};
use super::wait::{self, Watched};
use super::{Bucket, Column, Fingerprint};
use crate::db::client::Client;
use crate::sql::TableName;

/// A table that is there, and what is read of it.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) name: TableName,
    pub(super) oid: u32,
    pub(super) columns: Vec<Column>,
    pub(super) time_column: Option<(String, Days)>,
    pub(super) key: Option<(String, i64)>,
    /// The locks to look at before the snapshot; None where none is waited for.
    pub(super) watched: Option<Watched>,
    pub(super) why_not: Vec<String>,
    pub(super) changing: bool,
}

impl Plan {
    /// A table as it is, all of its rows: nobody else writes to it.
    pub(super) fn whole(table: &TableName, time_column: Option<&str>, changing: bool, shape: Shape) -> Self {
        let time_column = time_column.and_then(|name| {
            let found = shape.columns.iter().find(|found| found.column.name == name)?;
            Some((name.to_owned(), found.days?))
        });
        Self {
            name: table.clone(),
            oid: shape.oid,
            columns: shape.columns.into_iter().map(|found| found.column).collect(),
            time_column,
            key: None,
            watched: None,
            why_not: Vec::new(),
            changing,
        }
    }

    pub(super) fn content(&self) -> Content<'_> {
        Content {
            columns: &self.columns,
            days: self.time_column.as_ref().map(|(column, days)| (column.as_str(), *days)),
            key: self.key.as_ref().map(|(column, highest)| (column.as_str(), *highest)),
        }
    }

    pub(super) fn fingerprint(self, sums: Sums) -> Fingerprint {
        let buckets: Vec<Bucket> =
            (sums.days.into_iter()).map(|(day, (rows, hash))| Bucket { day, rows, hash }).collect();
        let (key, highest) = self.key.unzip();
        Fingerprint {
            name: self.name,
            columns: self.columns,
            time_column: self.time_column.map(|(column, _)| column),
            key,
            highest,
            why_not: self.why_not,
            changing: self.changing,
            rows: buckets.iter().map(|bucket| bucket.rows).sum(),
            hash: buckets.iter().map(|bucket| bucket.hash).sum(),
            above: sums.above,
            buckets,
        }
    }
}

/// A table as it is, with the highest key that it has now.
pub(super) fn first(
    client: &mut Client,
    number: usize,
    table: &TableName,
    time_column: Option<&str>,
    changing: bool,
    mut shape: Shape,
) -> Result<Plan, postgres::Error> {
    let found = shape.key.take();
    let mut plan = Plan::whole(table, time_column, changing, shape);
    match found {
        None => plan.why_not.push("it has no key that only grows".to_owned()),
        Some(found) => {
            // Before the keys are looked at: chunks made since hold later ones.
            plan.watched = Some(Watched::of(client, number, plan.oid, &found)?);
            let highest = wait::highest(client, table, &found, &mut plan.why_not)?;
            plan.key = Some((found.column, highest));
        }
    }
    Ok(plan)
}

/// The same content as before, as far as it is still there: what is missing, the comparison finds.
pub(super) fn again(before: &Fingerprint, shape: &Shape) -> Plan {
    let find = |name: &str| shape.columns.iter().find(|found| found.column.name == name);
    let columns = before.columns.iter().filter_map(|column| {
        let mut now = find(&column.name)?.column.clone();
        // What went by its text does so again: json that has become jsonb is compared as text, not with nothing.
        now.as_text |= column.as_text;
        Some(now)
    });
    let time_column =
        before.time_column.as_deref().and_then(|name| Some((name.to_owned(), find(name)?.days?)));
    let mut why_not = Vec::new();
    let key = before.key.as_deref().zip(before.highest).filter(|(name, _)| {
        let there = find(name).is_some_and(|found| found.whole);
        if !there {
            why_not.push(format!("its key {name} is gone, so new rows cannot be told from old ones"));
        }
        there
    });
    Plan {
        name: before.name.clone(),
        oid: shape.oid,
        columns: columns.collect(),
        time_column,
        key: key.map(|(name, highest)| (name.to_owned(), highest)),
        watched: None,
        why_not,
        changing: before.changing,
    }
}
