//! What an inventory may say differently of a database that was made from a dump of another: a server does not print every
//! definition as it has printed it before, once it has read that text, and pg_dump leaves some objects out.
//!
//! Sources: `transformTypeCast` and `makeAndExpr` of PostgreSQL's parser (a cast of an ARRAY is handed to its elements, nested ANDs
//! become one), `getIndexes` of pg_dump (no invalid indexes), `addFkRecurseReferenced` (the server names and orders keys to partitions).

use std::collections::BTreeSet;

use super::{Difference, Inventory};
use crate::sql::{Token, tokens};

/// Words that go on with the name of a type.
const OF_TYPES: [&str; 14] = [
    "varying",
    "precision",
    "with",
    "without",
    "time",
    "zone",
    "year",
    "month",
    "day",
    "hour",
    "minute",
    "second",
    "to",
    "local",
];
/// What the inventory says behind the definition of an index that is not valid.
const INVALID: &str = " (invalid)";

/// What differs, but for what a dump and its restore change of themselves.
pub(super) fn differences(was: &Inventory, is: &Inventory) -> Vec<Difference> {
    let invalid: BTreeSet<&str> = was.invalid_indexes().collect();
    let (was, is) = (was.without_positions(), is.without_positions());
    let mut differences = was.compare(&is);
    differences.retain(|difference| match difference {
        Difference::Missing { object, was } => {
            let name = object.strip_prefix("comment on ").unwrap_or(object);
            !name.strip_prefix("index ").is_some_and(|name| invalid.contains(name))
                && !stands_for_a_partition(object, was, &is)
        }
        Difference::Added { .. } => true,
        Difference::Changed { was, is, .. } => normal(was) != normal(is),
    });
    differences
}

/// Whether a foreign key is missing that another one stands for: an inventory of before has one more for each partition that the
/// table of the key refers to, with a name that the server has chosen.
fn stands_for_a_partition(object: &str, definition: &str, is: &Inventory) -> bool {
    let columns =
        |definition: &str| definition.split_once(" REFERENCES ").map(|(columns, _)| columns.to_owned());
    let table = |object: &str| object.rsplit_once('.').map(|(table, _)| table.to_owned());
    object.starts_with("constraint ")
        && definition.starts_with("FOREIGN KEY")
        && is
            .iter()
            .any(|(other, there)| table(other) == table(object) && columns(there) == columns(definition))
}

/// The tokens of a definition without parentheses and casts.
fn normal(definition: &str) -> Vec<&str> {
    let mut all = tokens(definition, true).peekable();
    let mut kept = Vec::new();
    while let Some(token) = all.next() {
        if token.is_symbol("::") {
            skip_type(&mut all);
        } else if !token.is_symbol("(") && !token.is_symbol(")") {
            kept.push(token.text);
        }
    }
    kept
}

/// Skips the name of a type, such as `pg_catalog."char"`, `timestamp(3) without time zone` or `character varying(9)[]`.
fn skip_type<'a>(tokens: &mut std::iter::Peekable<impl Iterator<Item = Token<'a>>>) {
    tokens.next();
    while let Some(token) = tokens.peek() {
        if token.is_symbol(".") {
            tokens.next();
            tokens.next();
        } else if token.is_symbol("(") {
            while tokens.next_if(|token| !token.is_symbol(")")).is_some() {}
            tokens.next();
        } else if token.is_symbol("[")
            || token.is_symbol("]")
            || OF_TYPES.iter().any(|word| token.is_word(word))
        {
            tokens.next();
        } else {
            break;
        }
    }
}

impl Inventory {
    /// The names of the indexes that are not valid, which no dump holds.
    pub fn invalid_indexes(&self) -> impl Iterator<Item = &str> {
        self.iter()
            .filter(|(_, definition)| definition.ends_with(INVALID))
            .filter_map(|(object, _)| object.strip_prefix("index "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inventory(objects: &[(&str, &str)]) -> Inventory {
        Inventory(objects.iter().map(|(object, is)| ((*object).to_owned(), (*is).to_owned())).collect())
    }

    fn found(was: &[(&str, &str)], is: &[(&str, &str)]) -> Vec<String> {
        inventory(was).compare_restored(&inventory(is)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_a_server_prints_differently_once_it_has_read_it_is_the_same() {
        for (was, is) in [
            (
                "CHECK (((s)::text = ANY ((ARRAY['a'::character varying, 'b'::character varying(3)])::text[])))",
                "CHECK (((s)::text = ANY (ARRAY[('a'::character varying)::text, ('b'::character varying(3))::text])))",
            ),
            (
                "CHECK ((((n >= 1) AND (n <= 5)) AND (n <> 3)))",
                "CHECK (((n >= 1) AND (n <= 5) AND (n <> 3)))",
            ),
            ("SELECT x::timestamp(3) without time zone AS x", "SELECT (x)::timestamp without time zone AS x"),
        ] {
            assert!(found(&[("view v", was)], &[("view v", is)]).is_empty(), "{was}");
        }
        for (was, is) in [
            ("CHECK ((n > 1))", "CHECK ((n > 2))"),
            ("CHECK ((s = 'a'::text))", "CHECK ((s = 'b'::text))"),
            ("UNIQUE (a, b)", "UNIQUE (a)"),
            ("integer, not null", "integer"),
        ] {
            assert_eq!(found(&[("constraint c", was)], &[("constraint c", is)]).len(), 1, "{was}");
        }
    }

    #[test]
    fn an_invalid_index_is_in_no_dump() {
        let index = ("index public.i", "CREATE UNIQUE INDEX i ON public.t USING btree (a) (invalid)");
        assert!(found(&[index, ("comment on index public.i", "x")], &[]).is_empty());
        assert_eq!(found(&[("index public.i", "CREATE INDEX i ON public.t USING btree (a)")], &[]).len(), 1);
        assert_eq!(found(&[], &[index]).len(), 1);
    }

    #[test]
    fn keys_to_partitions_are_those_of_their_tables_key() {
        let whole = ("constraint public.t.t_p_fkey", "FOREIGN KEY (p) REFERENCES public.p(id)");
        let one = ("constraint public.t.t_p_fkey1", "FOREIGN KEY (p) REFERENCES public.p1(id)");
        let other = ("constraint public.t.t_q_fkey", "FOREIGN KEY (q) REFERENCES public.p(id)");
        assert!(found(&[whole, one], &[whole]).is_empty());
        assert_eq!(found(&[whole, one], &[]).len(), 2);
        assert_eq!(found(&[whole, other], &[whole]).len(), 1);
        assert_eq!(found(&[one], &[other]).len(), 2);
    }
}
