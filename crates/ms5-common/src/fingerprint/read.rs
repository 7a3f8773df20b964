//! Reads a table, or a part of one, and adds up what its parts give.

use std::collections::BTreeMap;

use super::plan::Plan;
use super::sql::{Blocks, ranges, scan};
use super::trouble::failed;
use crate::db::client::Client;
use crate::error::{Error, Result};
use crate::exit::Exit;

/// A part of a table, read by one statement.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) table: usize,
    pub(super) relation: String,
    pub(super) blocks: Option<Blocks>,
    pub(super) plain: bool,
    /// In blocks.
    pub(super) size: u64,
}

impl Part {
    pub(super) fn alternatives(&self, jobs: usize) -> usize {
        if self.plain { ranges(self.size, jobs).len() } else { 1 }
    }

    pub(super) fn cut(self, jobs: usize) -> Vec<Self> {
        if !self.plain {
            return vec![self];
        }
        let cut = ranges(self.size, jobs);
        let size = self.size / u64::try_from(cut.len()).unwrap_or(1).max(1);
        cut.into_iter().map(|blocks| Self { blocks, size, relation: self.relation.clone(), ..self }).collect()
    }
}

/// What a table's parts add up to.
#[derive(Debug, Clone, Default)]
pub(super) struct Sums {
    pub(super) days: BTreeMap<Option<String>, (u64, i128)>,
    pub(super) above: u64,
}

impl Sums {
    pub(super) fn add(&mut self, other: Self) {
        for (day, (rows, hash)) in other.days {
            let sums = self.days.entry(day).or_default();
            *sums = (sums.0 + rows, sums.1 + hash);
        }
        self.above += other.above;
    }
}

/// Reads one part.
pub(super) fn part(client: &mut Client, plan: &Plan, part: &Part) -> Result<Sums> {
    let tried = || format!("take the fingerprint of {}", plan.name);
    let sql = scan(&part.relation, &plan.content(), part.blocks);
    let rows = client.query_typed(&sql, &[]).map_err(|error| failed(&tried(), &error))?;
    let mut sums = Sums::default();
    for row in rows {
        let count = |column: usize| u64::try_from(row.get::<_, i64>(column)).unwrap_or_default();
        sums.above += count(3);
        if count(1) == 0 {
            continue;
        }
        let hash: Option<&str> = row.get(2);
        let hash = hash.and_then(|hash| hash.parse().ok()).ok_or_else(|| {
            Error::new(Exit::Bug, format!("cannot {}", tried()))
                .because(format!("the server's sum of hashes is not a whole number: {hash:?}"))
        })?;
        sums.days.insert(row.get(0), (count(1), hash));
    }
    Ok(sums)
}
