//! expected.json: what has to be there after the last migration. It stands beside the files; nothing of it is compiled in.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::cli::{Flag, Parsed};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::sql::{self, Token, TokenKind};

/// The file's name in the folder of the migrations.
const FILE: &str = "expected.json";

/// Columns of a relation: name and type as `format_type` prints it, with ` not null` behind it where it is.
pub type Columns = BTreeMap<String, String>;

/// What is promised. Names of relations are `schema.name`, quoted where SQL wants that.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Expected {
    /// Schemas that must exist.
    pub schemas: Vec<String>,
    /// Hypertables, in the file's order.
    pub hypertables: Vec<Hypertable>,
    /// Tables.
    pub tables: BTreeMap<String, Columns>,
    /// Views.
    pub views: BTreeMap<String, Columns>,
    /// Materialized views.
    pub materialized_views: BTreeMap<String, Columns>,
    /// Continuous aggregates; plain views of these columns where the licence has none.
    pub continuous_aggregates: BTreeMap<String, Aggregate>,
    /// `schema.name(argument types)`.
    pub functions: Vec<String>,
    /// `schema.table.trigger`.
    pub triggers: Vec<String>,
    /// The fewest rows that a database which began empty has.
    pub reference_rows: BTreeMap<String, u64>,
    /// Queries to time.
    pub queries: Vec<Query>,
}

/// A promised hypertable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hypertable {
    /// The table.
    pub table: String,
    /// The column that it is divided by.
    pub time_column: String,
    /// As an interval, or as a number where the column is one.
    pub chunk_interval: String,
    /// Compression, where the licence has it.
    pub compression: Option<Compression>,
}

/// Promised compression of a hypertable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compression {
    /// Columns.
    pub segmentby: Vec<String>,
    /// Columns, with ` DESC` behind those that are.
    pub orderby: Vec<String>,
    /// The age at which the policy compresses a chunk.
    pub after: Option<String>,
}

/// A promised continuous aggregate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aggregate {
    /// Its columns.
    pub columns: Columns,
    /// What its refresh policy leaves out at the end, and how often it runs.
    pub refresh: Option<Refresh>,
}

/// A promised refresh policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refresh {
    /// The interval before now that is not refreshed.
    pub end_offset: String,
    /// The interval between two runs.
    pub every: String,
}

/// A query that must not take long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// For people.
    pub name: String,
    /// One statement.
    pub sql: String,
    /// Milliseconds.
    pub max_ms: u64,
}

/// The flag that names another file.
pub const FLAG: Flag = Flag::value("--expected", "FILE", "What the migrations promise")
    .default("expected.json beside the migrations");

/// Finds and reads the file: the one that [`FLAG`] names, or that of the migrations, which need not be there. Gives its path
/// too, for messages.
///
/// # Errors
/// [`Exit::Config`], naming file and key: unreadable, not JSON, an unknown key, a value of another kind; a file that was named
/// and is not there.
pub fn find(arguments: &Parsed, migrations: &Path) -> Result<(PathBuf, Option<Expected>)> {
    let named = arguments.value(FLAG.name).map(PathBuf::from);
    let path = named.clone().unwrap_or_else(|| migrations.join(FILE));
    let expected = read(&path)?;
    if named.is_some() && expected.is_none() {
        return Err(Error::new(Exit::Config, format!("there is no file {}", path.display()))
            .because(format!("{} names it", FLAG.name))
            .because("nothing was touched")
            .hint("name another one, or leave the flag out for expected.json beside the migrations"));
    }
    Ok((path, expected))
}

/// Reads a file; None where there is none.
fn read(path: &Path) -> Result<Option<Expected>> {
    match fs::read_to_string(path) {
        Ok(text) => parse(&text, &path.display().to_string()).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::new(Exit::Config, format!("cannot read {}", path.display()))
            .because(error)
            .hint("name another one with --expected=FILE")),
    }
}

/// Understands the text of `file`.
///
/// # Errors
/// As [`find`].
pub fn parse(text: &str, file: &str) -> Result<Expected> {
    // A byte-order mark is an editor's, not JSON's.
    let value: Value = serde_json::from_str(text.trim_start_matches('\u{feff}'))
        .map_err(|error| Error::new(Exit::Config, format!("{file} is not JSON")).because(error))?;
    let top = Node { file, key: String::new(), value: &value };
    let keys = top.object(&[
        "schemas",
        "hypertables",
        "tables",
        "views",
        "materialized_views",
        "continuous_aggregates",
        "functions",
        "triggers",
        "reference_rows",
        "queries",
    ])?;
    let of = |name: &str| keys.get(name).map(|value| top.at(name, value));
    Ok(Expected {
        schemas: of("schemas").map_or(Ok(Vec::new()), |node| node.texts())?,
        hypertables: of("hypertables").map_or(Ok(Vec::new()), |node| node.list(hypertable))?,
        tables: of("tables").map_or(Ok(BTreeMap::new()), |node| node.relations(columns))?,
        views: of("views").map_or(Ok(BTreeMap::new()), |node| node.relations(columns))?,
        materialized_views: of("materialized_views")
            .map_or(Ok(BTreeMap::new()), |node| node.relations(columns))?,
        continuous_aggregates: of("continuous_aggregates")
            .map_or(Ok(BTreeMap::new()), |node| node.relations(aggregate))?,
        functions: of("functions").map_or(Ok(Vec::new()), |node| node.texts())?,
        triggers: of("triggers").map_or(Ok(Vec::new()), |node| node.texts())?,
        reference_rows: of("reference_rows")
            .map_or(Ok(BTreeMap::new()), |node| node.relations(|node| node.number()))?,
        queries: of("queries").map_or(Ok(Vec::new()), |node| node.list(query))?,
    })
}

fn hypertable(node: &Node<'_>) -> Result<Hypertable> {
    let keys = node.object(&["table", "time_column", "chunk_interval", "compression"])?;
    let table = node.get(keys, "table")?;
    table.qualified()?;
    let interval = node.get(keys, "chunk_interval")?;
    Ok(Hypertable {
        table: table.text()?,
        time_column: node.get(keys, "time_column")?.text()?,
        chunk_interval: match interval.value {
            Value::Number(number) => number.to_string(),
            _ => interval.text()?,
        },
        compression: keys
            .get("compression")
            .map(|value| compression(&node.at("compression", value)))
            .transpose()?,
    })
}

fn compression(node: &Node<'_>) -> Result<Compression> {
    let keys = node.object(&["segmentby", "orderby", "after"])?;
    let texts = |name: &str| keys.get(name).map_or(Ok(Vec::new()), |value| node.at(name, value).texts());
    Ok(Compression {
        segmentby: texts("segmentby")?,
        orderby: texts("orderby")?,
        after: keys.get("after").map(|value| node.at("after", value).text()).transpose()?,
    })
}

fn aggregate(node: &Node<'_>) -> Result<Aggregate> {
    let keys = node.object(&["columns", "refresh"])?;
    let refresh = |value| -> Result<Refresh> {
        let node = node.at("refresh", value);
        let keys = node.object(&["end_offset", "every"])?;
        Ok(Refresh {
            end_offset: node.get(keys, "end_offset")?.text()?,
            every: node.get(keys, "every")?.text()?,
        })
    };
    Ok(Aggregate {
        columns: columns(&node.get(keys, "columns")?)?,
        refresh: keys.get("refresh").map(refresh).transpose()?,
    })
}

fn query(node: &Node<'_>) -> Result<Query> {
    let keys = node.object(&["name", "sql", "max_ms"])?;
    Ok(Query {
        name: node.get(keys, "name")?.text()?,
        sql: node.get(keys, "sql")?.text()?,
        max_ms: node.get(keys, "max_ms")?.number()?,
    })
}

fn columns(node: &Node<'_>) -> Result<Columns> {
    let object = node.value.as_object().ok_or_else(|| node.wants("an object of columns and types"))?;
    object.iter().map(|(name, value)| Ok((name.clone(), node.at(name, value).text()?))).collect()
}

/// A value of the file, and the way that leads to it.
struct Node<'a> {
    file: &'a str,
    key: String,
    value: &'a Value,
}

impl<'a> Node<'a> {
    fn at(&self, name: &str, value: &'a Value) -> Self {
        let key = if self.key.is_empty() { name.to_owned() } else { format!("{}.{name}", self.key) };
        Self { file: self.file, key, value }
    }

    fn get(&self, keys: &'a Map<String, Value>, name: &str) -> Result<Self> {
        keys.get(name)
            .map(|value| self.at(name, value))
            .ok_or_else(|| self.error(format!("{} has no {name:?}", self.place())))
    }

    fn object(&self, known: &[&str]) -> Result<&'a Map<String, Value>> {
        let object = self.value.as_object().ok_or_else(|| self.wants("an object"))?;
        match object.keys().find(|key| !known.contains(&key.as_str())) {
            None => Ok(object),
            // A key that is not read is a promise that nobody checks.
            Some(key) => {
                let error = self.error(format!("{} has an unknown key {key:?}", self.place()));
                Err(match crate::cli::nearest(key, known.iter().copied()) {
                    Some(known) => error.hint(format!("did you mean {known:?}?")),
                    None => error.hint(format!("known are {}", known.join(", "))),
                })
            }
        }
    }

    fn list<T>(&self, of: impl Fn(&Node<'a>) -> Result<T>) -> Result<Vec<T>> {
        let list = self.value.as_array().ok_or_else(|| self.wants("a list"))?;
        let item = |(index, value)| Self { file: self.file, key: format!("{}[{index}]", self.key), value };
        list.iter().enumerate().map(item).map(|node| of(&node)).collect()
    }

    fn texts(&self) -> Result<Vec<String>> {
        self.list(Node::text)
    }

    fn relations<T>(&self, of: impl Fn(&Node<'a>) -> Result<T>) -> Result<BTreeMap<String, T>> {
        let object = self.value.as_object().ok_or_else(|| self.wants("an object"))?;
        object
            .iter()
            .map(|(name, value)| {
                let node = self.at(name, value);
                if !is_qualified(name) {
                    return Err(self.error(format!("{}: {name:?} is not schema.name", self.place())));
                }
                Ok((name.clone(), of(&node)?))
            })
            .collect()
    }

    fn text(&self) -> Result<String> {
        self.value.as_str().map(str::to_owned).ok_or_else(|| self.wants("a text"))
    }

    fn qualified(&self) -> Result<()> {
        let text = self.text()?;
        if is_qualified(&text) { Ok(()) } else { Err(self.wants("schema.name")) }
    }

    fn number(&self) -> Result<u64> {
        self.value.as_u64().ok_or_else(|| self.wants("a whole number"))
    }

    fn place(&self) -> String {
        if self.key.is_empty() { "the file".to_owned() } else { format!("the key {}", self.key) }
    }

    fn wants(&self, what: &str) -> Error {
        self.error(format!("{} must be {what}", self.place()))
    }

    fn error(&self, why: String) -> Error {
        Error::new(Exit::Config, format!("{} cannot be understood", self.file))
            .because(why)
            .because("nothing was touched")
            .hint("migrations/README.md tells what each key holds")
    }
}

/// Two SQL names with a dot between them, as the catalog prints them. Names go into statements as they are, so nothing else may
/// pass for one.
fn is_qualified(text: &str) -> bool {
    let is_name = |token: &Token<'_>| {
        token.kind == TokenKind::Identifier && token.text.len() > 2
            || token.name().is_some_and(|name| name == token.text)
    };
    let tokens: Vec<Token<'_>> = sql::tokens(text, true).collect();
    let whole = tokens.iter().map(|token| token.text.len()).sum::<usize>() == text.len();
    matches!(&tokens[..], [schema, dot, name] if whole && dot.is_symbol(".") && is_name(schema) && is_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_file_is_understood() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations/expected.json");
        let expected = read(&path).unwrap().unwrap();
        assert_eq!(expected.hypertables.len(), 5);
        assert_eq!(expected.tables.len(), 49);
        assert!(expected.queries.len() > 10 && expected.continuous_aggregates.len() == 3);
        assert_eq!(read(&path.with_file_name("none.json")).unwrap(), None);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_key() {
        for (text, why) in [
            ("{", "is not JSON"),
            ("[]", "the file must be an object"),
            (r#"{"table": {}}"#, "the file has an unknown key \"table\""),
            (r#"{"schemas": [1]}"#, "the key schemas[0] must be a text"),
            (r#"{"tables": {"a": {}}}"#, "the key tables: \"a\" is not schema.name"),
            (r#"{"tables": {"a.b": {"c": 1}}}"#, "the key tables.a.b.c must be a text"),
            (r#"{"hypertables": [{"table": "a.b"}]}"#, "the key hypertables[0] has no \"chunk_interval\""),
            (
                r#"{"queries": [{"name": "n", "sql": "s", "max_ms": -1}]}"#,
                "the key queries[0].max_ms must be",
            ),
        ] {
            let error = parse(text, "x.json").unwrap_err();
            let all = error.lines().join("\n");
            assert!(all.contains(why) && all.contains("x.json"), "{why}: {all}");
            assert_eq!(error.exit(), Exit::Config);
        }
    }

    #[test]
    fn names_are_names() {
        for good in ["a.b", "a1.b_$", r#""A b".c"#, r#"a."x""y""#] {
            assert!(is_qualified(good), "{good}");
        }
        for bad in ["a", "a.", ".b", "a.b.c", "A.b", "a.b; DROP", r#""".a"#, r#"a."b"#, "1.b", ""] {
            assert!(!is_qualified(bad), "{bad}");
        }
    }
}
