//! What of the definitions that stand behind the rows is built when.

use std::collections::BTreeMap;

use ms5_common::db::client::Client;
use ms5_common::sql::{Facts, TokenKind};

use crate::dump::Piece;

/// A statement that builds an index, and the tablespace it is built in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Build<'a> {
    tablespace: Option<&'a str>,
    pub(super) text: &'a str,
    /// Of columns alone: a function in an index may read other tables, and their rows must be there.
    plain: bool,
}

impl Build<'_> {
    /// Builds it.
    ///
    /// # Errors
    /// The server's.
    pub(super) fn run(&self, client: &mut Client) -> Result<(), postgres::Error> {
        match self.tablespace {
            Some(set) => client.pipeline(&[set, self.text], |_| ()).map(|_| ()).map_err(|(_, error)| error),
            None => client.batch_execute(self.text),
        }
    }
}

/// What of the definitions after the rows can be done side by side.
pub(super) struct Plan<'a> {
    /// Those of each table, in their order.
    pub(super) builds: BTreeMap<String, Vec<Build<'a>>>,
    /// Everything else, in its order.
    pub(super) rest: Vec<&'a str>,
}

impl<'a> Plan<'a> {
    /// Sorts the statements.
    pub(super) fn of(all: &'a [Piece]) -> Self {
        let mut plan = Self { builds: BTreeMap::new(), rest: Vec::new() };
        let mut tablespace = None;
        for piece in all {
            let text = piece.statement.text.as_str();
            let facts = Facts::of(text, true);
            if facts.setting().is_some_and(|setting| setting.name == "default_tablespace") {
                tablespace = Some(text);
            }
            match builds_on(&facts) {
                Some(table) => {
                    let plain = is_plain(&facts);
                    plan.builds.entry(table).or_default().push(Build { tablespace, text, plain });
                }
                None => plan.rest.push(text),
            }
        }
        plan
    }

    /// Takes out the builds on a table whose rows are there, where all of them are plain.
    pub(super) fn take_plain(&mut self, table: &str) -> Vec<Build<'a>> {
        match self.builds.get(table) {
            Some(builds) if builds.iter().all(|build| build.plain) => {
                self.builds.remove(table).unwrap_or_default()
            }
            _ => Vec::new(),
        }
    }
}

/// Whether an index is of columns alone: no parentheses within parentheses, no condition, no operators of its own.
fn is_plain(facts: &Facts<'_>) -> bool {
    let mut open = false;
    for token in facts.tokens() {
        match token.text {
            "(" if open => return false,
            "(" => open = true,
            ")" => open = false,
            _ if token.is_word("where") || token.is_word("exclude") => return false,
            _ => {}
        }
    }
    true
}

/// The table that a statement builds an index on, as its text.
fn builds_on(facts: &Facts<'_>) -> Option<String> {
    let tokens: Vec<_> = facts.tokens().take(40).collect();
    let words: Vec<bool> = tokens.iter().map(|token| token.kind == TokenKind::Word).collect();
    let is = |at: usize, word: &str| words.get(at) == Some(&true) && tokens[at].is_word(word);
    let name = |from: usize, end: usize| -> String {
        tokens.get(from..end).unwrap_or_default().iter().map(|token| token.text).collect()
    };
    if facts.begins_with(&["create", "index"]) || facts.begins_with(&["create", "unique", "index"]) {
        let on = (0..tokens.len()).find(|at| is(*at, "on"))?;
        let from = if is(on + 1, "only") { on + 2 } else { on + 1 };
        let end = (from..tokens.len()).find(|at| is(*at, "using"))?;
        return Some(name(from, end));
    }
    if facts.begins_with(&["alter", "table"]) {
        let from = if is(2, "only") { 3 } else { 2 };
        let add = (from..tokens.len()).find(|at| is(*at, "add"))?;
        let kind = add + 3;
        let key =
            is(add + 1, "constraint") && (is(kind, "primary") || is(kind, "unique") || is(kind, "exclude"));
        return key.then(|| name(from, add));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dump::pieces;

    fn on(text: &str) -> Option<String> {
        builds_on(&Facts::of(text, true))
    }

    #[test]
    fn what_builds_an_index_and_on_which_table() {
        for (text, table) in [
            ("CREATE INDEX i ON f.m USING btree (ts)", "f.m"),
            ("CREATE UNIQUE INDEX \"on\" ON ONLY f.\"a b\" USING btree (lower(x))", "f.\"a b\""),
            ("ALTER TABLE ONLY f.m\n    ADD CONSTRAINT m_pkey PRIMARY KEY (id)", "f.m"),
            ("ALTER TABLE f.m ADD CONSTRAINT \"primary\" UNIQUE (id)", "f.m"),
            ("ALTER TABLE ONLY f.m ADD CONSTRAINT e EXCLUDE USING gist (r WITH &&)", "f.m"),
        ] {
            assert_eq!(on(text).as_deref(), Some(table), "{text}");
        }
        for text in [
            "ALTER TABLE ONLY f.m ADD CONSTRAINT fk FOREIGN KEY (a) REFERENCES f.n(a)",
            "ALTER TABLE f.m ADD CONSTRAINT c CHECK (true) NOT VALID",
            "ALTER TABLE f.m CLUSTER ON i",
            "ALTER INDEX a ATTACH PARTITION b",
            "CREATE TRIGGER t AFTER INSERT ON f.m FOR EACH ROW EXECUTE FUNCTION g()",
            "COMMENT ON INDEX i IS 'CREATE INDEX i ON f.m USING'",
        ] {
            assert_eq!(on(text), None, "{text}");
        }
    }

    #[test]
    fn only_indexes_of_columns_alone_follow_their_rows() {
        for (text, plain) in [
            ("CREATE INDEX i ON f.m USING btree (ts DESC, v) INCLUDE (q) WITH (fillfactor='70')", true),
            ("ALTER TABLE ONLY f.m ADD CONSTRAINT p PRIMARY KEY (id, \"where\")", true),
            ("CREATE INDEX i ON f.m USING btree (lower(x))", false),
            ("CREATE INDEX i ON f.m USING btree (x) WHERE (x > 0)", false),
            ("ALTER TABLE f.m ADD CONSTRAINT e EXCLUDE USING gist (r WITH &&)", false),
        ] {
            assert_eq!(is_plain(&Facts::of(text, true)), plain, "{text}");
        }
        let all =
            pieces("CREATE INDEX i ON a USING btree (x);\nCREATE INDEX j ON b USING btree (x);\nCREATE INDEX k ON b USING btree (lower(x));\n").unwrap();
        let mut plan = Plan::of(&all);
        assert_eq!(plan.take_plain("a").len(), 1);
        assert_eq!(plan.take_plain("b").len(), 0, "one waits for the other rows, so all do, in their order");
        assert_eq!(plan.builds["b"].len(), 2);
        assert!(!plan.builds.contains_key("a"));
    }

    #[test]
    fn an_index_is_built_in_its_tablespace() {
        let all = pieces("SET default_tablespace = fast;\nCREATE INDEX i ON m USING btree (a);\nSELECT 1;\n")
            .unwrap();
        let plan = Plan::of(&all);
        assert_eq!(plan.builds["m"][0].tablespace, Some("SET default_tablespace = fast"));
        assert_eq!(plan.rest, ["SET default_tablespace = fast", "SELECT 1"]);
    }
}
