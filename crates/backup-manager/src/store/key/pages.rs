//! What a table's pages begin with: the place in the WAL of the last change of each.
//!
//! Pages are read from the files, as long as a file has them as they are: reading all of a database through the server's
//! buffers would drive out of them what production works with, and takes three times as long. What was changed in a buffer and
//! is not written yet is in no file: tables that had any such page when that was asked, after the snapshot, are read through
//! the buffers. A page that was not among them is in its file with all that the snapshot shows; what is changed after that
//! question can only give a later place. Where all fits into the buffers, they are as fast, and asking would take longer.

use std::collections::BTreeSet;

use ms5_common::db::client::Client;
use postgres::types::{ToSql, Type};

/// The function that gives a page, for the session alone: nothing is made in the database that others see.
const PAGE: &str = "CREATE FUNCTION pg_temp.ms5_page(text, text, bigint) RETURNS bytea
     AS '$libdir/pageinspect', 'get_raw_page_fork_1_9' LANGUAGE c STRICT";
/// The function that tells what is in the buffers, likewise.
const BUFFERS: &str = "CREATE FUNCTION pg_temp.ms5_buffers() RETURNS SETOF record
     AS '$libdir/pg_buffercache', 'pg_buffercache_pages' LANGUAGE c";
/// How many bytes of a file are read at once.
const PART: i64 = 1 << 18;

/// A table or what lies beside it, and its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Relation {
    pub(super) oid: u32,
    /// As pg_relation_filenode() calls it.
    pub(super) file: u32,
}

/// Where pages are read.
#[derive(Debug)]
pub(super) enum Pages {
    Buffers,
    /// In files, but for these: some of their pages are not written yet.
    Files(BTreeSet<u32>),
}

/// Makes a session one that can look at pages. Where event triggers can be left out, none hears of the function.
///
/// # Errors
/// The server's.
pub(super) fn prepare(client: &mut Client) -> Result<(), postgres::Error> {
    client.batch_execute(
        "SELECT pg_catalog.set_config('event_triggers', 'off', false) FROM pg_catalog.pg_settings WHERE name = 'event_triggers'",
    )?;
    // Its COMMIT is durable when it is answered, whatever the database's settings say; a standby is not waited for.
    client.batch_execute("SET synchronous_commit = local")?;
    client.batch_execute(PAGE)
}

impl Pages {
    /// Where they are read best; to be asked in the snapshot's time or after it, and after the names of files.
    pub(super) fn ask(client: &mut Client) -> Self {
        unwritten(client).unwrap_or_else(|error| {
            log::debug!("which pages are not written yet is not known: {error}");
            Self::Buffers
        })
    }

    /// For each relation the places that its pages begin with, in order; None where it has another file by now.
    ///
    /// # Errors
    /// The server's: a file that is cut meanwhile, say.
    pub(super) fn places(
        &self,
        client: &mut Client,
        relations: &[Relation],
    ) -> Result<Option<Vec<Vec<u8>>>, postgres::Error> {
        let mut all = Vec::with_capacity(relations.len());
        for Relation { oid, file } in relations {
            let sql = match self {
                Self::Files(unwritten) if !unwritten.contains(file) => FROM_FILE,
                _ => FROM_BUFFERS,
            };
            let mut parameters: Vec<(&(dyn ToSql + Sync), Type)> = vec![(oid, Type::OID), (file, Type::OID)];
            if sql == FROM_FILE {
                parameters.push((&PART, Type::INT8));
            }
            let row = client.query_typed(sql, &parameters)?.into_iter().next();
            let Some(row) = row else { return Ok(None) };
            let places = row.get::<_, Option<Vec<u8>>>(0).unwrap_or_default();
            // A file that ends early gives fewer, without an error.
            if usize::try_from(row.get::<_, i64>(1)).ok() != Some(places.len()) {
                return Ok(None);
            }
            all.push(places);
        }
        Ok(Some(all))
    }
}

const FROM_BUFFERS: &str = "SELECT (SELECT pg_catalog.string_agg(pg_catalog.substr(
                pg_temp.ms5_page(c.oid::pg_catalog.regclass::text, 'main', page), 1, 8), ''::bytea)
             FROM pg_catalog.generate_series(0, pg_catalog.pg_relation_size(c.oid)
                  / pg_catalog.current_setting('block_size')::bigint - 1) page),
            8 * (pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::bigint)
     FROM pg_catalog.pg_class c WHERE c.oid = $1 AND pg_catalog.pg_relation_filenode(c.oid) = $2";

/// A file is in segments, the first without a number.
const FROM_FILE: &str = "SELECT (SELECT pg_catalog.string_agg(
                pg_catalog.substr(part, (1 + page * pg_catalog.current_setting('block_size')::bigint)::int4, 8), ''::bytea)
             FROM (SELECT pg_catalog.pg_relation_filepath(c.oid) AS path, pg_catalog.pg_relation_size(c.oid) AS size,
                          pg_catalog.pg_size_bytes(pg_catalog.current_setting('segment_size')) AS segment OFFSET 0) f,
                  pg_catalog.generate_series(0, size - 1, $3) begin,
                  LATERAL (SELECT pg_catalog.pg_read_binary_file(
                      CASE WHEN begin < segment THEN path ELSE path || '.' || begin / segment END,
                      begin % segment, least($3, size - begin)) AS part OFFSET 0) p,
                  pg_catalog.generate_series(0, least($3, size - begin)
                      / pg_catalog.current_setting('block_size')::bigint - 1) page),
            8 * (pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::bigint)
     FROM pg_catalog.pg_class c WHERE c.oid = $1 AND pg_catalog.pg_relation_filenode(c.oid) = $2";

/// The files with pages that were changed and are not written yet; that pages are read through the buffers, where they hold
/// more than the database has.
fn unwritten(client: &mut Client) -> Result<Pages, postgres::Error> {
    // No part may reach from one segment into the next.
    let small: bool = client
        .query_typed_one(
            "SELECT pg_catalog.pg_size_bytes(pg_catalog.current_setting('shared_buffers'))
                    > pg_catalog.pg_database_size(pg_catalog.current_database())
                 OR pg_catalog.pg_size_bytes(pg_catalog.current_setting('segment_size')) % $1 <> 0",
            &[(&PART, Type::INT8)],
        )?
        .get(0);
    if small {
        log::debug!("pages are looked at through the buffers: they hold more than the database has");
        return Ok(Pages::Buffers);
    }
    client.batch_execute(BUFFERS)?;
    let rows = client.query_typed(
        "SELECT DISTINCT file FROM pg_temp.ms5_buffers()
             b (buffer int4, file oid, tablespace oid, database oid, fork int2, page int8, unwritten bool, uses int2, pins int4)
         WHERE unwritten AND fork = 0
           AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())",
        &[],
    )?;
    log::debug!("pages are looked at in files, but for {} that are not wholly written", rows.len());
    Ok(Pages::Files(rows.iter().map(|row| row.get(0)).collect()))
}
