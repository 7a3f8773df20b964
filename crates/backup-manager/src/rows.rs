//! Rows as COPY writes them, a line each: counted and hashed, whatever their order.

use memchr::{memchr_iter, memchr2_iter};
use xxhash_rust::xxh3::xxh3_64;

/// How many rows there are, and the sum of their hashes: it does not depend on their order, and sums of parts add up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RowSum {
    pub(crate) rows: u64,
    pub(crate) hash: u128,
}

impl RowSum {
    /// Adds whole lines.
    pub(crate) fn add(&mut self, lines: &[u8]) {
        let mut start = 0;
        for end in memchr_iter(b'\n', lines) {
            self.rows += 1;
            self.hash = self.hash.wrapping_add(xxh3_64(&lines[start..end]).into());
            start = end + 1;
        }
    }

    /// Adds whole rows of CSV as COPY writes it: a line end inside quotes is a value's.
    pub(crate) fn add_csv(&mut self, rows: &[u8]) {
        let (mut start, mut quoted) = (0, false);
        for at in memchr2_iter(b'\n', b'"', rows) {
            if rows[at] == b'"' {
                quoted = !quoted;
            } else if !quoted {
                self.rows += 1;
                self.hash = self.hash.wrapping_add(xxh3_64(&rows[start..at]).into());
                start = at + 1;
            }
        }
    }

    /// Adds the sum of another part.
    pub(crate) fn join(&mut self, other: Self) {
        self.rows += other.rows;
        self.hash = self.hash.wrapping_add(other.hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[u8]) -> RowSum {
        let mut sum = RowSum::default();
        sum.add(lines);
        sum
    }

    #[test]
    fn a_row_of_csv_may_have_lines() {
        let csv = |rows: &[u8]| {
            let mut sum = RowSum::default();
            sum.add_csv(rows);
            sum
        };
        assert_eq!(csv(b"1,\"a\nb\"\n2,\"\"\"\n\"\n\n").rows, 3);
        assert_eq!(csv(b"1,\"a\nb\"\n2,c\n"), csv(b"2,c\n1,\"a\nb\"\n"));
        assert_ne!(csv(b"1,\"a\nb\"\n2,\"c\nd\"\n"), csv(b"1,\"a\nd\"\n2,\"c\nb\"\n"));
        assert_eq!(csv(b"1,a\n"), of(b"1,a\n"), "without quotes it is a line");
    }

    #[test]
    fn the_order_does_not_matter_and_each_row_counts() {
        assert_eq!(of(b"1\ta\n2\tb\n"), of(b"2\tb\n1\ta\n"));
        let mut parts = of(b"1\ta\n");
        parts.join(of(b"2\tb\n"));
        assert_eq!(parts, of(b"1\ta\n2\tb\n"));
        // Twice the same is not nothing, as it would be with exclusive or.
        assert_ne!(of(b"x\nx\n"), of(b"y\ny\n"));
        assert_eq!(of(b"\n\n").rows, 2);
        assert_ne!(of(b"1\ta\n"), of(b"1\tb\n"));
    }
}
