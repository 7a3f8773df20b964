//! metadata.json: what a backup says of itself. One text for one content: what is read must be what would be written.

use ms5_common::backups::Whose;
use ms5_common::catalog::Inventory;
use serde_json::{Map, Value, json};

use crate::store;

/// The file's name.
pub(crate) const FILE: &str = "metadata.json";

/// The file of an encrypted backup that holds what [`FILE`] holds otherwise.
pub(crate) const INDEX: &str = "index.json";

/// What stands in [`INDEX`]: it tells of the database's objects.
const INSIDE: [&str; 5] = ["restore", "database_settings", "tables", "members", "inventory"];

/// The version of the layout that this tool writes.
const FORMAT: u64 = 1;

/// What a backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The whole database.
    Full,
    /// Its definitions.
    Schema,
    /// Its rows, for a database that has the definitions.
    Data,
    /// The rows of its hypertables, as CSV.
    Hypertables,
}

impl Kind {
    /// All of them, as they stand in --help.
    pub(crate) const ALL: [Self; 4] = [Self::Full, Self::Schema, Self::Data, Self::Hypertables];

    /// As on the command line and in metadata.json.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Schema => "schema",
            Self::Data => "data",
            Self::Hypertables => "hypertables",
        }
    }

    /// What a word means.
    pub(crate) fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }

    /// The name of its file of SQL.
    pub(crate) fn file(self, compressed: bool) -> String {
        let stem = if self == Self::Full { "full_database" } else { self.word() };
        format!("{stem}.sql{}", if compressed { ".gz" } else { "" })
    }
}

/// What a backup says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Metadata {
    /// The folder's name.
    pub(crate) name: String,
    /// A [`Kind`] as its word; the old script may have written others.
    pub(crate) kind: String,
    pub(crate) environment: String,
    /// host, port, name, user.
    pub(crate) database: [String; 4],
    /// RFC 3339, UTC.
    pub(crate) created_at: String,
    pub(crate) created_by: String,
    /// As people read it: `2.5GB`.
    pub(crate) database_size: String,
    pub(crate) table_count: String,
    pub(crate) hypertable_count: String,
    /// File and sha256 of each.
    pub(crate) files: Vec<(String, String)>,
    /// What this tool adds; None for a backup of the old script.
    pub(crate) more: Option<More>,
}

/// What this tool adds to the old script's keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct More {
    pub(crate) tool_version: String,
    /// PostgreSQL's, as `17.11`.
    pub(crate) server: String,
    /// The extension's, where it is created.
    pub(crate) timescaledb: Option<String>,
    pub(crate) pg_dump: String,
    pub(crate) snapshot: String,
    pub(crate) wal_position: String,
    pub(crate) system_identifier: String,
    /// Whether a restore needs a superuser: there are rows of TimescaleDB's own.
    pub(crate) superuser: bool,
    /// The schema of TimescaleDB's functions, as SQL.
    pub(crate) extension_schema: Option<String>,
    /// Bytes of each file.
    pub(crate) sizes: Vec<u64>,
    /// Jobs that ran by schedule, where a restore gives them their numbers again.
    pub(crate) jobs: Vec<i64>,
    /// The statement that lets jobs run that did; None where none did.
    pub(crate) start_jobs: Option<String>,
    pub(crate) large_objects: u64,
    /// Owner, encoding, locale and settings of the database, as the catalog has them.
    pub(crate) database: Map<String, Value>,
    /// Milliseconds.
    pub(crate) timings: Vec<(String, u64)>,
    pub(crate) tables: Vec<Table>,
    pub(crate) members: Vec<Member>,
    pub(crate) inventory: Inventory,
    /// What of its rows lies in the store; None: it is not incremental.
    pub(crate) pieces: Option<Vec<Piece>>,
    /// Of an encrypted backup. What tells of the database's objects is in [`INDEX`] then.
    pub(crate) sealed: Option<Sealed>,
}

/// Rows that lie in the store, in a file of their own: those of a table, or of a part of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The file's name in the store.
    pub(crate) file: String,
    /// The file's.
    pub(crate) bytes: u64,
    /// The number of the table in `tables`.
    pub(crate) table: usize,
    /// What COPY read.
    pub(crate) source: String,
    /// The sha256 of the rows' text.
    pub(crate) text: String,
    /// xxh3 of the file, for a look at it that is fast; None: it is older than that.
    pub(crate) quick: Option<u128>,
    pub(crate) rows: u64,
    /// The sum of the rows' hashes.
    pub(crate) hash: u128,
    /// What tells without reading them whether they have changed since; None: nothing does.
    pub(crate) key: Option<String>,
    /// How long it took to read and pack them, in milliseconds.
    pub(crate) took: u64,
}

/// What is said in the clear of an encrypted backup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sealed {
    /// Who can open it, as age writes it.
    pub(crate) recipients: Vec<String>,
    /// Rows of all tables.
    pub(crate) rows: u64,
}

/// A table whose rows are in the backup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Table {
    /// `schema.table`, as SQL.
    pub(crate) name: String,
    /// The columns as SQL, in parentheses; empty for a table without any.
    pub(crate) columns: String,
    /// For a table that belongs to an extension: the rows that are the user's, as a WHERE clause, or nothing for all.
    pub(crate) condition: Option<String>,
    /// Whether its rows are those that a SELECT gives, chunks' among them: they can be loaded into any table.
    pub(crate) by_select: bool,
    pub(crate) rows: u64,
    /// The sum of the rows' hashes.
    pub(crate) hash: u128,
}

impl Table {
    /// What COPY ... TO reads.
    pub(crate) fn source(&self) -> String {
        match self.condition.as_deref() {
            Some(condition) if !condition.trim().is_empty() => {
                format!("(SELECT {} FROM {} {condition})", self.list(), self.name)
            }
            _ if self.by_select => self.source_of(&self.name),
            _ => self.target(),
        }
    }

    /// What COPY ... TO reads of a part of it, such as a chunk.
    pub(crate) fn source_of(&self, part: &str) -> String {
        format!("(SELECT {} FROM {part})", self.list())
    }

    /// The rows that are counted, as they stand behind FROM.
    pub(crate) fn counted(&self) -> String {
        let only = if self.by_select { "" } else { "ONLY " };
        let condition = self.condition.as_deref().unwrap_or_default();
        format!("{only}{} {condition}", self.name).trim_end().to_owned()
    }

    /// The columns without their parentheses.
    fn list(&self) -> &str {
        self.columns.strip_prefix('(').and_then(|list| list.strip_suffix(')')).unwrap_or_default()
    }

    /// What COPY ... FROM writes.
    pub(crate) fn target(&self) -> String {
        format!("{} {}", self.name, self.columns).trim_end().to_owned()
    }
}

/// A part of the file: a gzip member, or a stretch of a plain file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// The place of its file in `files`, or behind those in `pieces`.
    pub(crate) file: usize,
    pub(crate) stage: Stage,
    /// The number of its table in `tables`.
    pub(crate) table: Option<usize>,
    /// Which stretch of time its rows are of, where that is known: from and until, in microseconds since 1970 (UTC), or in the
    /// column's own unit where it is a number.
    pub(crate) range: Option<(i64, i64)>,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    /// Bytes of SQL.
    pub(crate) raw: u64,
    pub(crate) rows: u64,
    /// xxh3 of the SQL.
    pub(crate) hash: u64,
}

/// What a member is for, in the order in which a restore needs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// psql's guards.
    Begin,
    /// Everything that must be there before rows.
    PreData,
    /// Keys and triggers set aside, where rows are loaded into tables that are there.
    Aside,
    /// Rows of extensions' own tables: one after the other.
    Catalog,
    /// Rows of tables: in any order, side by side.
    Table,
    /// The names of the columns, as CSV.
    Header,
    /// Rows as CSV.
    Csv,
    /// Where sequences stand.
    Sequences,
    /// Large objects.
    LargeObjects,
    /// Indexes, constraints, triggers.
    PostData,
    /// Compression, continuous aggregates' indexes and policies, where they are made anew.
    Hypertables,
    /// The self-check.
    Check,
    /// Jobs off, and TimescaleDB back to work.
    Finish,
    /// Materialized views, which read what is there by now.
    Refresh,
    /// Settings and rights of the database.
    Settings,
    /// Its comment and its limit of connections.
    Last,
    /// psql's guard closes.
    End,
}

impl Stage {
    const ALL: [Self; 17] = [
        Self::Begin,
        Self::PreData,
        Self::Aside,
        Self::Catalog,
        Self::Table,
        Self::Header,
        Self::Csv,
        Self::Sequences,
        Self::LargeObjects,
        Self::PostData,
        Self::Hypertables,
        Self::Check,
        Self::Finish,
        Self::Refresh,
        Self::Settings,
        Self::Last,
        Self::End,
    ];

    /// As in metadata.json.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Begin => "begin",
            Self::PreData => "pre-data",
            Self::Aside => "aside",
            Self::Catalog => "catalog",
            Self::Table => "table",
            Self::Header => "header",
            Self::Csv => "csv",
            Self::Sequences => "sequences",
            Self::LargeObjects => "large-objects",
            Self::PostData => "post-data",
            Self::Hypertables => "hypertables",
            Self::Check => "check",
            Self::Finish => "finish",
            Self::Refresh => "refresh",
            Self::Settings => "settings",
            Self::Last => "last",
            Self::End => "end",
        }
    }

    fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.word() == word)
    }
}

impl Metadata {
    /// The file's text: the spec's keys first, as it shows them.
    pub(crate) fn render(&self) -> String {
        let mut keys = self.keys();
        if let Some(sealed) = self.more.as_ref().and_then(|more| more.sealed.as_ref()) {
            keys.retain(|(key, _)| !INSIDE.contains(key));
            let sealed = json!({ "recipients": sealed.recipients, "rows": sealed.rows });
            keys.push(("encryption", sealed.to_string()));
        }
        object(&keys)
    }

    /// The text of [`INDEX`].
    pub(crate) fn render_index(&self) -> String {
        let mut keys = self.keys();
        keys.retain(|(key, _)| INSIDE.contains(key));
        object(&keys)
    }

    /// Takes in what [`INDEX`] says.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(crate) fn read_index(&mut self, text: &str) -> Result<(), String> {
        let value: Value = serde_json::from_str(text).map_err(|error| format!("it is not JSON: {error}"))?;
        self.more.as_mut().ok_or("it is of no such backup")?.read_inside(&value)
    }

    /// Each key with its value as text.
    fn keys(&self) -> Vec<(&'static str, String)> {
        let text = |words: &str| json!(words).to_string();
        let object = |entries: Vec<(String, String)>| {
            let lines: Vec<String> =
                entries.iter().map(|(key, value)| format!("        {}: {value}", json!(key))).collect();
            if lines.is_empty() { "{}".to_owned() } else { format!("{{\n{}\n    }}", lines.join(",\n")) }
        };
        let array = |entries: Vec<String>| {
            let lines: Vec<String> = entries.iter().map(|value| format!("        {value}")).collect();
            if lines.is_empty() { "[]".to_owned() } else { format!("[\n{}\n    ]", lines.join(",\n")) }
        };
        let named = |pairs: &[(&str, &str)]| {
            object(pairs.iter().map(|(key, value)| ((*key).to_owned(), text(value))).collect())
        };
        let [host, port, name, user] = &self.database;
        let mut keys: Vec<(&'static str, String)> = vec![
            ("backup_name", text(&self.name)),
            ("backup_type", text(&self.kind)),
            ("environment", text(&self.environment)),
            ("database", named(&[("host", host), ("port", port), ("name", name), ("user", user)])),
            (
                "backup_info",
                named(&[
                    ("created_at", &self.created_at),
                    ("created_by", &self.created_by),
                    ("database_size", &self.database_size),
                    ("table_count", &self.table_count),
                    ("hypertable_count", &self.hypertable_count),
                ]),
            ),
            ("files", array(self.files.iter().map(|(file, _)| text(file)).collect())),
            (
                "checksums",
                object(
                    (self.files.iter())
                        .map(|(file, hash)| (file.clone(), text(&format!("sha256:{hash}"))))
                        .collect(),
                ),
            ),
        ];
        if let Some(more) = &self.more {
            keys.push(("format", FORMAT.to_string()));
            keys.push(("tool_version", text(&more.tool_version)));
            keys.push((
                "versions",
                object(vec![
                    ("postgresql".to_owned(), text(&more.server)),
                    ("timescaledb".to_owned(), json!(more.timescaledb).to_string()),
                    ("pg_dump".to_owned(), text(&more.pg_dump)),
                ]),
            ));
            keys.push((
                "snapshot",
                named(&[
                    ("id", &more.snapshot),
                    ("wal_position", &more.wal_position),
                    ("system_identifier", &more.system_identifier),
                ]),
            ));
            let mut restore = vec![
                ("superuser".to_owned(), json!(more.superuser).to_string()),
                ("extension_schema".to_owned(), json!(more.extension_schema).to_string()),
                ("jobs".to_owned(), json!(more.jobs).to_string()),
                ("large_objects".to_owned(), more.large_objects.to_string()),
            ];
            restore.extend(more.start_jobs.as_deref().map(|start| ("start_jobs".to_owned(), text(start))));
            keys.push(("restore", object(restore)));
            let sizes = self.files.iter().zip(&more.sizes);
            keys.push((
                "sizes",
                object(sizes.map(|((file, _), size)| (file.clone(), size.to_string())).collect()),
            ));
            let settings = more.database.iter().map(|(key, value)| (key.clone(), value.to_string()));
            keys.push(("database_settings", object(settings.collect())));
            let timings = more.timings.iter().map(|(what, took)| (what.clone(), took.to_string()));
            keys.push(("milliseconds", object(timings.collect())));
            keys.push(("tables", array(more.tables.iter().map(table_text).collect())));
            keys.push(("members", array(more.members.iter().map(member_text).collect())));
            let objects = more.inventory.iter().map(|(name, is)| (name.to_owned(), text(is)));
            keys.push(("inventory", object(objects.collect())));
            if let Some(pieces) = &more.pieces {
                keys.push(("pieces", array(pieces.iter().map(piece_text).collect())));
            }
        }
        keys
    }

    /// Reads what this tool or the old script wrote.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text).map_err(|error| format!("it is not JSON: {error}"))?;
        let words = |path: &str| {
            value
                .pointer(path)
                .and_then(Value::as_str)
                .map(str::to_owned)
                .ok_or_else(|| format!("{path} is missing"))
        };
        let loose = |path: &str| match value.pointer(path) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Null) | None => String::new(),
            Some(other) => other.to_string(),
        };
        let names = value.pointer("/files").and_then(Value::as_array).ok_or("/files is missing")?;
        let mut files = Vec::new();
        for name in names {
            let name = name.as_str().ok_or("/files holds something else than names")?;
            if name.contains('/') || name.starts_with('.') {
                return Err(format!("/files holds {name:?}, which is no file of a backup"));
            }
            // The old script wrote some sums without their prefix.
            let sum = value.get("checksums").and_then(|sums| sums.get(name)).and_then(Value::as_str);
            let sum = sum.ok_or_else(|| format!("the checksum of {name} is missing"))?;
            files.push((name.to_owned(), sum.strip_prefix("sha256:").unwrap_or(sum).to_owned()));
        }
        let more = match value.get("format").map(Value::as_u64) {
            None => None,
            Some(Some(FORMAT)) => Some(More::parse(&value, &files)?),
            Some(other) => {
                return Err(format!(
                    "it is of format {other:?}, which a newer version of this tool has written"
                ));
            }
        };
        Ok(Self {
            name: words("/backup_name")?,
            kind: words("/backup_type")?,
            environment: loose("/environment"),
            database: ["host", "port", "name", "user"].map(|key| loose(&format!("/database/{key}"))),
            created_at: words("/backup_info/created_at")?,
            created_by: loose("/backup_info/created_by"),
            database_size: loose("/backup_info/database_size"),
            table_count: loose("/backup_info/table_count"),
            hypertable_count: loose("/backup_info/hypertable_count"),
            files,
            more,
        })
    }

    /// The database that it is of.
    pub(crate) fn whose(&self) -> Whose<'_> {
        Whose { environment: &self.environment, database: &self.database[2] }
    }

    /// Whether a restore of it alone is a database that can be compared.
    pub(crate) fn can_be_proven(&self) -> bool {
        matches!(Kind::of(&self.kind), Some(Kind::Full | Kind::Schema))
    }

    /// Those who can open it; None where it is not encrypted.
    pub(crate) fn recipients(&self) -> Option<&[String]> {
        Some(&self.more.as_ref()?.sealed.as_ref()?.recipients)
    }

    /// What of its rows lies in the store.
    pub(crate) fn pieces(&self) -> &[Piece] {
        self.more.as_ref().and_then(|more| more.pieces.as_deref()).unwrap_or_default()
    }

    /// Whether it shares the store with others.
    pub(crate) fn is_incremental(&self) -> bool {
        self.more.as_ref().is_some_and(|more| more.pieces.is_some())
    }

    /// Rows of all tables; None where the backup does not say.
    pub(crate) fn rows(&self) -> Option<u64> {
        let more = self.more.as_ref()?;
        if let Some(sealed) = &more.sealed {
            return Some(sealed.rows);
        }
        Some(more.rows())
    }
}

fn object(keys: &[(&str, String)]) -> String {
    let lines: Vec<String> = keys.iter().map(|(key, value)| format!("    \"{key}\": {value}")).collect();
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}

impl More {
    /// Rows of all tables.
    pub(crate) fn rows(&self) -> u64 {
        self.tables.iter().filter(|table| table.condition.is_none()).map(|table| table.rows).sum()
    }
}

fn table_text(table: &Table) -> String {
    let mut value = json!({
        "name": table.name,
        "columns": table.columns,
        "condition": table.condition,
        "rows": table.rows,
        "hash": table.hash.to_string(),
    });
    if table.by_select {
        value["by_select"] = Value::Bool(true);
    }
    value.to_string()
}

fn piece_text(piece: &Piece) -> String {
    json!({
        "file": piece.file,
        "bytes": piece.bytes,
        "table": piece.table,
        "source": piece.source,
        "text": piece.text,
        "xxh3": piece.quick.map(|sum| sum.to_string()),
        "rows": piece.rows,
        "hash": piece.hash.to_string(),
        "key": piece.key,
        "took": piece.took,
    })
    .to_string()
}

fn piece(value: &Value) -> Option<Piece> {
    let text = |key: &str| Some(value.get(key)?.as_str()?.to_owned());
    let number = |key: &str| value.get(key)?.as_u64();
    Some(Piece {
        // No other name leads to a file.
        file: text("file").filter(|file| store::is_name(file))?,
        bytes: number("bytes")?,
        table: usize::try_from(number("table")?).ok()?,
        source: text("source")?,
        text: text("text")?,
        quick: text("xxh3").and_then(|sum| sum.parse().ok()),
        rows: number("rows")?,
        hash: text("hash")?.parse().ok()?,
        key: text("key"),
        took: number("took")?,
    })
}

fn member_text(member: &Member) -> String {
    let mut value = json!({
        "stage": member.stage.word(),
        "table": member.table,
        "offset": member.offset,
        "length": member.length,
        "raw": member.raw,
        "rows": member.rows,
        "xxh3": format!("{:016x}", member.hash),
    });
    if member.file > 0 {
        value["file"] = json!(member.file);
    }
    if let Some((from, until)) = member.range {
        value["range"] = json!([from, until]);
    }
    value.to_string()
}

fn missing(path: &str) -> String {
    format!("{path} is missing or something else than it should be")
}

fn sealed(value: &Value) -> Option<Sealed> {
    let recipients = value.get("recipients")?.as_array()?.iter();
    Some(Sealed {
        recipients: recipients.map(|one| Some(one.as_str()?.to_owned())).collect::<Option<_>>()?,
        rows: value.get("rows")?.as_u64()?,
    })
}

impl More {
    fn parse(value: &Value, files: &[(String, String)]) -> Result<Self, String> {
        let words = |path: &str| {
            value.pointer(path).and_then(Value::as_str).map(str::to_owned).ok_or_else(|| missing(path))
        };
        let maybe = |path: &str| value.pointer(path).and_then(Value::as_str).map(str::to_owned);
        let object = |path: &str| value.pointer(path).and_then(Value::as_object).ok_or_else(|| missing(path));
        let sizes = value.get("sizes").ok_or_else(|| missing("/sizes"))?;
        let size = |(file, _): &(String, String)| sizes.get(file).and_then(Value::as_u64);
        let timings = object("/milliseconds")?;
        let timing = |key: &str| Some((key.to_owned(), timings.get(key)?.as_u64()?));
        let sealed = match value.get("encryption") {
            Some(sealed) => Some(self::sealed(sealed).ok_or_else(|| missing("/encryption"))?),
            None => None,
        };
        let pieces = match value.get("pieces") {
            Some(Value::Array(pieces)) => {
                let pieces = pieces.iter().map(piece).collect::<Option<_>>();
                Some(pieces.ok_or_else(|| missing("/pieces"))?)
            }
            Some(_) => return Err(missing("/pieces")),
            None => None,
        };
        let mut more = Self {
            tool_version: words("/tool_version")?,
            server: words("/versions/postgresql")?,
            timescaledb: maybe("/versions/timescaledb"),
            pg_dump: words("/versions/pg_dump")?,
            snapshot: words("/snapshot/id")?,
            wal_position: words("/snapshot/wal_position")?,
            system_identifier: words("/snapshot/system_identifier")?,
            sizes: files.iter().map(size).collect::<Option<_>>().ok_or_else(|| missing("/sizes"))?,
            timings: TIMINGS.iter().filter_map(|key| timing(key)).collect(),
            pieces,
            sealed,
            ..Self::default()
        };
        if more.sealed.is_none() {
            more.read_inside(value)?;
        }
        Ok(more)
    }

    /// Reads what [`INDEX`] holds where there is one.
    fn read_inside(&mut self, value: &Value) -> Result<(), String> {
        let maybe = |path: &str| value.pointer(path).and_then(Value::as_str).map(str::to_owned);
        let array = |path: &str| value.pointer(path).and_then(Value::as_array).ok_or_else(|| missing(path));
        let object = |path: &str| value.pointer(path).and_then(Value::as_object).ok_or_else(|| missing(path));
        let inventory = json!({ "objects": object("/inventory")? });
        self.superuser = value
            .pointer("/restore/superuser")
            .and_then(Value::as_bool)
            .ok_or_else(|| missing("/restore/superuser"))?;
        self.extension_schema = maybe("/restore/extension_schema");
        self.jobs = array("/restore/jobs")?.iter().filter_map(Value::as_i64).collect();
        self.start_jobs = maybe("/restore/start_jobs");
        self.large_objects = value
            .pointer("/restore/large_objects")
            .and_then(Value::as_u64)
            .ok_or_else(|| missing("/restore/large_objects"))?;
        self.database = object("/database_settings")?.clone();
        self.tables =
            array("/tables")?.iter().map(table).collect::<Option<_>>().ok_or_else(|| missing("/tables"))?;
        self.members = array("/members")?
            .iter()
            .map(member)
            .collect::<Option<_>>()
            .ok_or_else(|| missing("/members"))?;
        self.inventory = Inventory::from_json(&inventory).ok_or_else(|| missing("/inventory"))?;
        Ok(())
    }

    /// The parts of the work that are timed, in their order.
    pub(crate) fn time(&mut self, what: &'static str, milliseconds: u128) {
        self.timings.push((what.to_owned(), u64::try_from(milliseconds).unwrap_or(u64::MAX)));
    }
}

/// The timed parts.
pub(crate) const TIMINGS: [&str; 4] = ["locks", "schema", "rows", "all"];

fn table(value: &Value) -> Option<Table> {
    Some(Table {
        name: value.get("name")?.as_str()?.to_owned(),
        columns: value.get("columns")?.as_str()?.to_owned(),
        condition: value.get("condition")?.as_str().map(str::to_owned),
        by_select: value.get("by_select").is_some_and(|is| *is == Value::Bool(true)),
        rows: value.get("rows")?.as_u64()?,
        hash: value.get("hash")?.as_str()?.parse().ok()?,
    })
}

fn member(value: &Value) -> Option<Member> {
    let number = |key: &str| value.get(key)?.as_u64();
    let range = match value.get("range") {
        Some(range) => Some((range.get(0)?.as_i64()?, range.get(1)?.as_i64()?)),
        None => None,
    };
    Some(Member {
        file: match value.get("file") {
            Some(file) => usize::try_from(file.as_u64()?).ok()?,
            None => 0,
        },
        range,
        stage: Stage::of(value.get("stage")?.as_str()?)?,
        table: match value.get("table")? {
            Value::Null => None,
            other => Some(usize::try_from(other.as_u64()?).ok()?),
        },
        offset: number("offset")?,
        length: number("length")?,
        raw: number("raw")?,
        rows: number("rows")?,
        hash: u64::from_str_radix(value.get("xxh3")?.as_str()?, 16).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Metadata {
        let inventory = json!({ "objects": { "table f.m": "x", "view f.\"v\n\"": "SELECT 'ä'" } });
        Metadata {
            name: "pre_migration_20240115_103000".into(),
            kind: "full".into(),
            environment: "production".into(),
            database: ["localhost", "5432", "factory_telemetry", "ms5_user_production"].map(Into::into),
            created_at: "2024-01-15T10:30:00Z".into(),
            created_by: "admin".into(),
            database_size: "2.5GB".into(),
            table_count: "15".into(),
            hypertable_count: "5".into(),
            files: vec![("full_database.sql.gz".into(), "abc123".into())],
            more: Some(More {
                sizes: vec![7],
                start_jobs: Some("SELECT 1;".into()),
                pieces: Some(vec![Piece {
                    file: format!("{}.gz", "0a".repeat(32)),
                    source: "f.m (a)".into(),
                    quick: Some(u128::MAX),
                    hash: u128::MAX,
                    key: Some("1:2".into()),
                    ..Piece::default()
                }]),
                timings: vec![("locks".into(), 3), ("all".into(), 9)],
                tables: vec![Table {
                    name: "f.m".into(),
                    columns: "(a, \"b\"\"\")".into(),
                    condition: None,
                    by_select: true,
                    rows: 3,
                    hash: u128::MAX,
                }],
                members: vec![Member {
                    file: 1,
                    stage: Stage::Table,
                    table: Some(0),
                    range: Some((i64::MIN, 7)),
                    offset: 1,
                    length: 2,
                    raw: 3,
                    rows: 3,
                    hash: 7,
                }],
                inventory: Inventory::from_json(&inventory).unwrap(),
                ..More::default()
            }),
        }
    }

    #[test]
    fn begins_as_the_spec_shows_it() {
        let text = sample().render();
        let spec = r#"{
    "backup_name": "pre_migration_20240115_103000",
    "backup_type": "full",
    "environment": "production",
    "database": {
        "host": "localhost",
        "port": "5432",
        "name": "factory_telemetry",
        "user": "ms5_user_production"
    },
    "backup_info": {
        "created_at": "2024-01-15T10:30:00Z",
        "created_by": "admin",
        "database_size": "2.5GB",
        "table_count": "15",
        "hypertable_count": "5"
    },
    "files": [
        "full_database.sql.gz"
    ],
    "checksums": {
        "full_database.sql.gz": "sha256:abc123"
    }"#;
        assert!(text.starts_with(spec), "{text}");
    }

    #[test]
    fn is_read_back_as_it_was() {
        let text = sample().render();
        let read = Metadata::parse(&text).unwrap();
        assert_eq!(read, sample());
        assert_eq!(read.render(), text);
        let old = Metadata { more: None, ..sample() };
        assert_eq!(Metadata::parse(&old.render().replace("sha256:", "")).unwrap(), old);
    }

    #[test]
    fn an_encrypted_one_tells_nothing_of_objects() {
        let mut whole = sample();
        let sealed = Sealed { recipients: vec!["age1x".into()], rows: 3 };
        whole.more.as_mut().unwrap().sealed = Some(sealed);
        whole.more.as_mut().unwrap().pieces = None;
        let text = whole.render();
        for word in ["f.m", "SELECT", "inventory", "members", "database_settings"] {
            assert!(!text.contains(word), "{text}");
        }
        let mut read = Metadata::parse(&text).unwrap();
        assert_eq!((read.render(), read.rows()), (text.clone(), Some(3)));
        assert!(read.more.as_ref().unwrap().tables.is_empty());
        assert!(read.read_index(&text).is_err());
        read.read_index(&whole.render_index()).unwrap();
        assert_eq!(read, whole);
        assert_eq!(read.render(), text);
    }

    #[test]
    fn nonsense_is_named() {
        for (from, to) in [
            ("\"backup_name\"", "\"other\""),
            ("\"format\": 1", "\"format\": 2"),
            ("\"stage\":\"table\"", "\"stage\":\"x\""),
            ("full_database.sql.gz\"\n", "../x\"\n"),
            ("\"file\":\"0a0a", "\"file\":\"../../a"),
        ] {
            let text = sample().render().replacen(from, to, 1);
            assert!(Metadata::parse(&text).is_err(), "{text}");
        }
        assert!(Metadata::parse("").is_err());
    }
}
