//! What one session loads before it takes the next: a table as a whole, or a part of one that is large.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::plan::Build;
use crate::folder::metadata::Member;

/// From how many bytes of rows on a table's rows are frozen: below, a transaction of its own costs more.
const FREEZE: u64 = 1 << 20;

/// What one session loads before it takes the next.
pub(super) struct Unit<'a> {
    pub(super) members: Vec<&'a Member>,
    /// They are all that the table has.
    pub(super) whole: bool,
    /// What is built on the table once they are there.
    pub(super) builds: Vec<Build<'a>>,
}

impl Unit<'_> {
    /// The rows are frozen: the first to read them need not look up whether they were committed and write that down, which
    /// takes longer than reading them. The server does so only in the transaction that has emptied the table.
    pub(super) fn frozen(&self) -> bool {
        self.whole && size(&self.members) >= FREEZE
    }
}

/// How many bytes of rows, as the index says, which may be anything.
fn size(members: &[&Member]) -> u64 {
    members.iter().fold(0, |sum, member| sum.saturating_add(member.raw))
}

/// Each table as a whole, the largest first; one that holds more than a session's share goes member by member.
pub(super) fn units<'a>(members: &[&'a Member], jobs: usize) -> Vec<Unit<'a>> {
    let mut tables: BTreeMap<Option<usize>, Vec<&'a Member>> = BTreeMap::new();
    for member in members {
        tables.entry(member.table).or_default().push(member);
    }
    let share = size(members) / jobs.max(1) as u64;
    let mut units = Vec::new();
    for members in tables.into_values() {
        let unit = |members, whole| Unit { members, whole, builds: Vec::new() };
        if size(&members) <= share {
            units.push(unit(members, true));
        } else {
            units.extend(members.into_iter().map(|member| unit(vec![member], false)));
        }
    }
    units.sort_by_key(|unit| Reverse(size(&unit.members)));
    units
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::metadata::Stage;

    #[test]
    fn tables_go_whole_unless_they_are_more_than_a_share() {
        let member = |table, raw| Member {
            file: 0,
            stage: Stage::Table,
            table: Some(table),
            range: None,
            offset: 0,
            length: 0,
            raw,
            rows: 0,
            hash: 0,
        };
        let members = [
            member(0, FREEZE),
            member(0, 6 * FREEZE),
            member(1, 2 * FREEZE),
            member(1, FREEZE),
            member(2, 9),
        ];
        let members: Vec<&Member> = members.iter().collect();
        let shape = |jobs| -> Vec<(Option<usize>, usize, bool)> {
            let units = units(&members, jobs);
            units.iter().map(|unit| (unit.members[0].table, unit.members.len(), unit.frozen())).collect()
        };
        assert_eq!(shape(1), [(Some(0), 2, true), (Some(1), 2, true), (Some(2), 1, false)]);
        assert_eq!(
            shape(2),
            [(Some(0), 1, false), (Some(1), 2, true), (Some(0), 1, false), (Some(2), 1, false)]
        );
        assert!(units(&[], 2).is_empty());
    }
}
