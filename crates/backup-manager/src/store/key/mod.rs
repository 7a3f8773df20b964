//! Has a table changed since another backup? Its key tells without reading its rows: equal keys, equal rows.
//!
//! The key holds which server and database it is of and since when the server runs, the relation, its file, its pages, and the
//! place in the WAL of the last change of every page, of the table and of what lies beside it (TOAST, the compressed rows of a
//! chunk). Every change that is logged moves a page's place, so equal keys mean equal pages. Equal rows they mean only where all
//! that was on the pages was decided when the key was taken: so one is kept only if no page was changed after the WAL position
//! that was read before the snapshot, no session then held a lock to write, what was committed was durable (a crash could take
//! it back), and no schema got another name meanwhile (rows are read by name).
//!
//! Since when it runs: a copy of the server's folder that is put back goes on from the same place in the WAL as the first time,
//! and the same statement with another value then leaves the same places on the same pages.
//!
//! Rows are texts, and a text may change without its page: the label of an enum, the name of a table in a regclass. Tables
//! with any but plain built-in types have no key. Then, and where pages cannot be looked at (no superuser, no pageinspect, a
//! standby), content is read and hashed. What is compressed is of the types of its chunk.

mod pages;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use ms5_common::config::Settings;
use ms5_common::db::client::Client;
use ms5_common::db::server_error::reasons;
use ms5_common::error::Result;
use xxhash_rust::xxh3::xxh3_128;

use self::pages::{Pages, Relation};
use crate::sessions::{self, Session, failed, stopped};

/// The version of what is in a key.
const VERSION: u32 = 2;
/// How long any question waits for a lock: these sessions have none of the snapshot's, so behind somebody who wants a table for
/// himself they would wait for their own backup.
const PATIENCE: (&str, &str) = ("lock_timeout", "200ms");
/// Pages have not been laid out otherwise up to this version of PostgreSQL.
const NEWEST: u32 = 18;

/// What can be said of tables as they are in one snapshot.
pub(crate) struct Keys {
    /// It asked for all this, and will ask what became durable.
    session: Mutex<Session>,
    /// Server, timeline, database, and since when the server runs.
    origin: String,
    /// The schemas by their names, as they were before anything was read.
    schemas: String,
    /// Where the WAL was before the snapshot.
    before: u64,
    /// Where it was when everything that the snapshot shows was committed.
    committed: String,
    /// Who was being written to.
    writers: BTreeSet<u32>,
    tables: BTreeMap<String, Known>,
    /// A table's file and that of its TOAST.
    files: BTreeMap<u32, Vec<Relation>>,
    pages: Pages,
    /// The table with the compressed rows of a chunk.
    compressed: BTreeMap<u32, u32>,
    /// And the other way round.
    chunks: BTreeMap<u32, u32>,
}

struct Known {
    oid: u32,
    /// None: its rows' text may change while its pages do not.
    columns: Option<String>,
}

/// A key, and whether it may be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) text: String,
    pub(crate) settled: bool,
}

impl Key {
    /// Whether only the server's start lies between: what is on the pages is likely to be the same, and is no proof.
    pub(crate) fn is_of_another_start(&self, other: &str) -> bool {
        let pages = |text: &str| text.split_once('|').map(|(_, pages)| pages.to_owned());
        self.text != other && pages(&self.text) == pages(other)
    }
}

impl Keys {
    /// Asks for what all tables need. Why there are no keys, where there are none.
    ///
    /// # Errors
    /// The server's.
    pub(crate) fn read(
        settings: &Settings,
        before: Option<&str>,
        writers: &[u32],
    ) -> Result<std::result::Result<Self, String>> {
        let mut session = sessions::open_with(settings, "keys", &[PATIENCE])?;
        match Self::ask(&mut session.client, before, writers) {
            Ok(Ok(Asked { origin, schemas, before, committed, writers, tables, pages })) => {
                let Tables { tables, files, compressed } = tables;
                let chunks = compressed.iter().map(|(chunk, packed)| (*packed, *chunk)).collect();
                let session = Mutex::new(session);
                Ok(Ok(Self {
                    session,
                    origin,
                    schemas,
                    before,
                    committed,
                    writers,
                    tables,
                    files,
                    pages,
                    compressed,
                    chunks,
                }))
            }
            Ok(Err(why)) => Ok(Err(why)),
            Err(error) => {
                stopped()?;
                Ok(Err(format!("the catalog cannot be read: {}", reasons(&error).join("; "))))
            }
        }
    }

    fn ask(
        client: &mut Client,
        before: Option<&str>,
        writers: &[u32],
    ) -> std::result::Result<std::result::Result<Asked, String>, postgres::Error> {
        let row = client
            .query_typed_one(
                "SELECT pg_catalog.current_setting('is_superuser') = 'on', pg_catalog.pg_is_in_recovery(),
                        pg_catalog.version() ~ '(x86_64|aarch64)', pg_catalog.current_setting('server_version_num')::int4 / 10000",
                &[],
            )?;
        let (superuser, standby, known_pages, major): (bool, bool, bool, i32) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        if !superuser {
            return Ok(Err("only a superuser can look at pages".to_owned()));
        }
        if standby {
            return Ok(Err("a standby does not know who is writing".to_owned()));
        }
        if !known_pages || u32::try_from(major).is_ok_and(|major| major > NEWEST) {
            return Ok(Err("pages of this server may be laid out in another way".to_owned()));
        }
        let Some(before) = before.and_then(position) else {
            return Ok(Err("the WAL position is not known".to_owned()));
        };
        let row = client.query_typed_one(
            "SELECT (SELECT system_identifier::text FROM pg_catalog.pg_control_system()),
                    pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8),
                    (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()),
                    (extract(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)::int8,
                    pg_catalog.pg_current_wal_insert_lsn()::text",
            &[],
        )?;
        let (system, timeline): (String, String) = (row.get(0), row.get(1));
        let (database, start): (u32, i64) = (row.get(2), row.get(3));
        let origin = format!("{VERSION}:{system}:{timeline}:{database}:{start}");
        let committed = row.get(4);
        // This commits, and what it has written makes all before it durable.
        if let Err(error) = pages::prepare(client) {
            return Ok(Err(format!(
                "pageinspect (postgresql-contrib) cannot be used: {}",
                reasons(&error).join("; ")
            )));
        }
        let schemas = schemas(client)?;
        let tables = tables(client)?;
        let pages = Pages::ask(client);
        let writers = writers.iter().copied().collect();
        Ok(Ok(Asked { origin, schemas, before, committed, writers, tables, pages }))
    }

    /// A session that can look at pages.
    ///
    /// # Errors
    /// The server's.
    pub(crate) fn session(&self, settings: &Settings) -> Result<Session> {
        let mut session = sessions::open_with(settings, "keys", &[PATIENCE])?;
        pages::prepare(&mut session.client).map_err(|error| failed("look at pages", &error))?;
        Ok(session)
    }

    /// The key of a table as it is now, which must be after the snapshot; None: it has none.
    ///
    /// # Errors
    /// The server's.
    pub(crate) fn of(&self, session: &mut Session, table: &str, by_select: bool) -> Result<Option<Key>> {
        let Some(Known { oid, columns: Some(columns) }) = self.tables.get(table) else { return Ok(None) };
        let packed = self.compressed.get(oid).filter(|_| by_select);
        let mut relations: Vec<Relation> = [Some(oid), packed]
            .into_iter()
            .flatten()
            .filter_map(|oid| self.files.get(oid))
            .flatten()
            .copied()
            .collect();
        relations.sort_by_key(|relation| relation.oid);
        let places = match self.pages.places(&mut session.client, &relations) {
            Ok(Some(places)) => places,
            Ok(None) => return Ok(None),
            Err(error) => {
                stopped()?;
                // Somebody wants the table for himself; or a vacuum cut the end of what lies beside it, which no lock keeps.
                log::debug!("the pages of {table} cannot be looked at: {error}");
                return Ok(None);
            }
        };
        let mut text = format!("{}|{columns}", self.origin);
        // Whoever writes to compressed rows holds the chunk, and the other way round.
        let mut settled = !self.related(*oid).any(|other| self.writers.contains(&other));
        for (Relation { oid, file }, places) in relations.iter().zip(&places) {
            let Some(last) = last(places) else { return Ok(None) };
            settled &= last <= self.before && !self.writers.contains(oid);
            let pages = places.len() / 8;
            text.push_str(&format!(":{oid}.{file}.{pages}.{last:X}.{:032x}", xxh3_128(places)));
        }
        Ok(Some(Key { text, settled }))
    }

    /// The chunk of compressed rows, and the compressed rows of a chunk.
    fn related(&self, oid: u32) -> impl Iterator<Item = u32> {
        [self.compressed.get(&oid), self.chunks.get(&oid)].into_iter().flatten().copied()
    }

    /// Why keys that were taken now may not be kept; None: they may. Waits a little for what is not durable yet.
    ///
    /// # Errors
    /// The server's.
    pub(crate) fn doubt(&self) -> Result<Option<&'static str>> {
        let client = &mut self.session.lock().unwrap_or_else(PoisonError::into_inner).client;
        let now = schemas(client).map_err(|error| failed("ask for the schemas", &error))?;
        if now != self.schemas {
            return Ok(Some("schemas were changed meanwhile"));
        }
        for _ in 0..20 {
            let row = client
                .query_one(
                    "SELECT pg_catalog.pg_current_wal_flush_lsn() >= $1::text::pg_catalog.pg_lsn",
                    &[&self.committed],
                )
                .map_err(|error| failed("ask whether all is durable", &error))?;
            if row.get(0) {
                return Ok(None);
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(Some("not all that was committed is durable yet"))
    }
}

/// What [`Keys`] is made of.
struct Asked {
    origin: String,
    schemas: String,
    before: u64,
    committed: String,
    writers: BTreeSet<u32>,
    tables: Tables,
    pages: Pages,
}

/// Every schema with its name and its last change: a schema can get another name though its tables are locked, and one that
/// was swapped and swapped back is another row.
fn schemas(client: &mut Client) -> std::result::Result<String, postgres::Error> {
    let row = client.query_typed_one(
        "SELECT md5(string_agg(format('%s %s %s', oid, nspname, xmin), ',' ORDER BY oid))
         FROM pg_catalog.pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_'",
        &[],
    )?;
    Ok(row.get(0))
}

/// What [`Keys`] has of the same names.
struct Tables {
    tables: BTreeMap<String, Known>,
    files: BTreeMap<u32, Vec<Relation>>,
    compressed: BTreeMap<u32, u32>,
}

/// All tables, their files, and the compressed rows of chunks.
fn tables(client: &mut Client) -> std::result::Result<Tables, postgres::Error> {
    // A table without columns has no rows' text that could change.
    let rows = client.query_typed(
        "SELECT c.oid, format('%I.%I', n.nspname, c.relname),
                c.relpersistence = 'p' AND c.relam = (SELECT oid FROM pg_catalog.pg_am WHERE amname = 'heap'),
                coalesce(bool_and(t.typnamespace = 'pg_catalog'::pg_catalog.regnamespace AND t.typtype = 'b'
                                  AND t.typname !~ '^_?(reg|aclitem)'), true),
                coalesce(bool_and((t.typnamespace = 'pg_catalog'::pg_catalog.regnamespace AND t.typtype = 'b'
                                   AND t.typname !~ '^_?(reg|aclitem)')
                                  OR t.oid IN (pg_catalog.to_regtype('_timescaledb_internal.compressed_data'),
                                            pg_catalog.to_regtype('_timescaledb_internal.bloom1'))), true),
                md5(coalesce(string_agg(format('%s %s %s %s %s %s', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attgenerated,
                                               a.attmissingval::text), ',' ORDER BY a.attnum), '')),
                pg_catalog.pg_relation_filenode(c.oid), c.reltoastrelid, pg_catalog.pg_relation_filenode(c.reltoastrelid)
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         LEFT JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
         WHERE c.relkind = 'r' AND n.nspname !~ '^pg_'
         GROUP BY c.oid, n.nspname, c.relname",
        &[],
    )?;
    let mapped: bool = client
        .query_typed_one(
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_attribute
                            WHERE attrelid = pg_catalog.to_regclass('_timescaledb_catalog.compression_settings')
                              AND attname = 'compress_relid')",
            &[],
        )?
        .get(0);
    let mut compressed: BTreeMap<u32, u32> = BTreeMap::new();
    if mapped {
        let rows = client.query_typed(
            "SELECT relid::oid, compress_relid::oid FROM _timescaledb_catalog.compression_settings
             WHERE compress_relid IS NOT NULL",
            &[],
        )?;
        compressed.extend(rows.iter().map(|row| (row.get::<_, u32>(0), row.get::<_, u32>(1))));
    } else {
        // Before 2.19 it is not written there which table holds what of a chunk was compressed.
        let there = "SELECT pg_catalog.to_regclass('_timescaledb_catalog.chunk') IS NOT NULL";
        if client.query_typed_one(there, &[])?.get(0) {
            let packed = "SELECT EXISTS (SELECT FROM timescaledb_information.chunks WHERE is_compressed)";
            if client.query_typed_one(packed, &[])?.get(0) {
                return Ok(Tables { tables: BTreeMap::new(), files: BTreeMap::new(), compressed });
            }
        }
    }
    let plain: BTreeSet<u32> =
        rows.iter().filter(|row| row.get::<_, bool>(3)).map(|row| row.get(0)).collect();
    let of_plain: BTreeSet<u32> =
        compressed.iter().filter(|(chunk, _)| plain.contains(chunk)).map(|(_, packed)| *packed).collect();
    let known = |row: &postgres::Row| {
        let (oid, stored, packed): (u32, bool, bool) = (row.get(0), row.get(2), row.get(4));
        let told = stored && (plain.contains(&oid) || (packed && of_plain.contains(&oid)));
        (row.get(1), Known { oid, columns: told.then(|| row.get(5)) })
    };
    let files = rows.iter().map(|row| (row.get(0), files(row))).collect();
    Ok(Tables { tables: rows.iter().map(known).collect(), files, compressed })
}

/// What a row of [`tables`] says of files.
fn files(row: &postgres::Row) -> Vec<Relation> {
    let of = |oid: usize, file: usize| {
        Some(Relation { oid: row.get(oid), file: row.get::<_, Option<u32>>(file)? })
    };
    [of(0, 6), of(7, 8)].into_iter().flatten().collect()
}

/// A place in the WAL, as the server writes it: `4/1E8ACF90`.
fn position(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    Some((u64::from_str_radix(high, 16).ok()? << 32) | u64::from_str_radix(low, 16).ok()?)
}

/// The last of the places that pages begin with; None where they are no such places.
fn last(places: &[u8]) -> Option<u64> {
    let (pieces, rest) = places.as_chunks::<8>();
    if !rest.is_empty() {
        return None;
    }
    let place = |bytes: &[u8; 8]| {
        let [a, b, c, d, e, f, g, h] = *bytes;
        (u64::from(u32::from_le_bytes([a, b, c, d])) << 32) | u64::from(u32::from_le_bytes([e, f, g, h]))
    };
    Some(pieces.iter().map(place).max().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_the_wal() {
        assert_eq!(position("4/1E8ACF90"), Some(0x4_1E8A_CF90));
        assert_eq!(position("x"), None);
        let bytes = [4, 0, 0, 0, 0x90, 0xCF, 0x8A, 0x1E, 3, 0, 0, 0, 255, 255, 255, 255];
        assert_eq!(last(&bytes), Some(0x4_1E8A_CF90));
        assert_eq!(last(&[]), Some(0));
        assert_eq!(last(&bytes[..9]), None);
    }

    #[test]
    fn a_restart_leaves_pages_alike_and_no_proof() {
        let key = Key { text: "2:7:00000001:5:100|cols:16384.16384.1.F0.aa".into(), settled: true };
        assert!(key.is_of_another_start("2:7:00000001:5:200|cols:16384.16384.1.F0.aa"));
        assert!(!key.is_of_another_start(&key.text.clone()));
        assert!(!key.is_of_another_start("2:7:00000001:5:200|cols:16384.16384.2.F0.aa"));
        // What an older version wrote.
        assert!(!key.is_of_another_start("1:7:00000001:5:cols:16384.16384.1.F0.aa"));
    }
}
