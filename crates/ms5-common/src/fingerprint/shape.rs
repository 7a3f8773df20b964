//! The shape of a table as the catalog tells it: its columns, what can be hashed, its days, its key.

use postgres::Row;
use postgres::types::Type;

use super::Column;
use super::sql::Days;
use crate::db::client::Client;
use crate::sql::TableName;

type SqlResult<T> = Result<T, postgres::Error>;

/// A table that can be read.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub(super) oid: u32,
    pub(super) columns: Vec<Found>,
    pub(super) key: Option<Key>,
}

/// A column, and what it may serve as.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) column: Column,
    pub(super) days: Option<Days>,
    /// smallint, integer or bigint.
    pub(super) whole: bool,
}

/// The column whose values a sequence hands out, and that sequence.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) column: String,
    pub(super) sequence: u32,
    pub(super) sequence_name: TableName,
    pub(super) start: i64,
    pub(super) increment: i64,
    pub(super) cache: i64,
    pub(super) cycle: bool,
    /// Whether this role may read the sequence.
    pub(super) readable: bool,
}

const TABLE: &str = "SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')";

/// Types are taken apart down to those that are made of nothing else. hash_record_extended takes a type if each of these has a
/// default hash operator class, its own or that of a type it is stored alike with (varchar, text), with the extended
/// function (2). Enums are hashed by the oid of the label, which is another one in a restored database. The types of
/// extensions (oids from 16384 on) may call different values equal, as citext does.
const COLUMNS: &str = "WITH RECURSIVE parts(attnum, type) AS (
         SELECT a.attnum, a.atttypid FROM pg_attribute a
         WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
       UNION
         SELECT p.attnum, inner_type.type FROM parts p JOIN pg_type t ON t.oid = p.type
         CROSS JOIN LATERAL (
             SELECT t.typbasetype WHERE t.typtype = 'd'
             UNION ALL SELECT t.typelem WHERE t.typelem <> 0 AND t.typcategory = 'A'
             UNION ALL SELECT r.rngsubtype FROM pg_range r WHERE r.rngtypid = t.oid
             UNION ALL SELECT r.rngtypid FROM pg_range r WHERE r.rngmultitypid = t.oid
             UNION ALL SELECT f.atttypid FROM pg_attribute f
                       WHERE t.typtype = 'c' AND f.attrelid = t.typrelid AND f.attnum > 0 AND NOT f.attisdropped
         ) inner_type(type)),
     hashed(attnum, good) AS (
         SELECT p.attnum,
                bool_and(t.typtype IN ('d', 'r', 'm', 'c') OR t.typcategory = 'A'
                         OR t.typtype = 'b' AND t.oid < 16384 AND EXISTS (
                             SELECT FROM pg_opclass o JOIN pg_am m ON m.oid = o.opcmethod AND m.amname = 'hash'
                             JOIN pg_amproc f ON f.amprocfamily = o.opcfamily AND f.amproclefttype = o.opcintype
                                             AND f.amprocrighttype = o.opcintype AND f.amprocnum = 2
                             WHERE o.opcdefault AND (o.opcintype = t.oid OR EXISTS (
                                 SELECT FROM pg_cast c WHERE c.castsource = t.oid AND c.casttarget = o.opcintype
                                 AND c.castmethod = 'b' AND c.castcontext = 'i'))))
         FROM parts p JOIN pg_type t ON t.oid = p.type GROUP BY p.attnum)
     SELECT a.attname::text, format_type(a.atttypid, a.atttypmod),
            NOT (h.good AND coalesce(l.collisdeterministic, true)),
            CASE b.base WHEN 'timestamptz'::regtype THEN 'z' WHEN 'timestamp'::regtype THEN 'p' WHEN 'date'::regtype THEN 'd' ELSE '' END,
            a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)
     FROM pg_attribute a JOIN hashed h USING (attnum) LEFT JOIN pg_collation l ON l.oid = a.attcollation
     CROSS JOIN LATERAL (
         SELECT CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END AS base FROM pg_type t WHERE t.oid = a.atttypid) b
     WHERE a.attrelid = $1 ORDER BY a.attname COLLATE \"C\"";

/// A column that owns its sequence (serial) or is an identity, is never NULL, and is unique or part of the primary key: so the same
/// column is found before a conversion (`PRIMARY KEY (id)`) and after it (`PRIMARY KEY (id, ts)`).
const KEY: &str = "SELECT a.attname::text, s.seqrelid, n.nspname::text, c.relname::text,
            s.seqstart, s.seqincrement, s.seqcache, s.seqcycle, has_sequence_privilege(s.seqrelid, 'SELECT')
     FROM pg_depend d
     JOIN pg_sequence s ON s.seqrelid = d.objid
     JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
     JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
     JOIN pg_index i ON i.indrelid = a.attrelid AND a.attnum = ANY (i.indkey)
     WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = $1
       AND d.deptype IN ('a', 'i') AND a.attnotnull
       AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)
     GROUP BY a.attnum, a.attname, s.seqrelid, n.nspname, c.relname, s.seqstart, s.seqincrement, s.seqcache, s.seqcycle
     HAVING bool_or(i.indisprimary OR i.indisunique AND i.indisvalid AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum AND i.indpred IS NULL)
     ORDER BY bool_or(i.indisprimary) DESC, a.attnum LIMIT 1";

/// Reads the shape; None where there is no such table. The session's settings are the pinned ones.
pub(super) fn read(client: &mut Client, name: &TableName) -> SqlResult<Option<Shape>> {
    let table = client.query_typed(TABLE, &[(&name.schema, Type::TEXT), (&name.table, Type::TEXT)])?;
    let Some(table) = table.first() else { return Ok(None) };
    let oid: u32 = table.get(0);
    let columns = client.query_typed(COLUMNS, &[(&oid, Type::OID)])?.iter().map(found).collect();
    let key = client.query_typed(KEY, &[(&oid, Type::OID)])?.first().map(key);
    Ok(Some(Shape { oid, columns, key }))
}

fn found(row: &Row) -> Found {
    Found {
        column: Column { name: row.get(0), type_name: row.get(1), as_text: row.get(2) },
        days: match row.get(3) {
            "z" => Some(Days::Zoned),
            "p" => Some(Days::Plain),
            "d" => Some(Days::Date),
            _ => None,
        },
        whole: row.get(4),
    }
}

fn key(row: &Row) -> Key {
    Key {
        column: row.get(0),
        sequence: row.get(1),
        sequence_name: TableName { schema: row.get(2), table: row.get(3) },
        start: row.get(4),
        increment: row.get(5),
        cache: row.get(6),
        cycle: row.get(7),
        readable: row.get(8),
    }
}

/// Something that holds rows of a table: the table itself, a partition, a chunk.
#[derive(Debug, Clone)]
pub(super) struct Member {
    /// As SQL text, with ONLY where its own children are counted by themselves.
    pub(super) relation: String,
    /// Its size in blocks, where it is a heap that can be cut into ranges of them.
    pub(super) blocks: u64,
    /// Whether it may be cut: rows of a compressed chunk have no place in the chunk's own blocks.
    pub(super) plain: bool,
}

/// Chunks and partitions are children in the catalog, whoever made them. A chunk is read without ONLY, which would leave out
/// its compressed rows.
const MEMBERS: &str = "WITH RECURSIVE family(oid) AS (
         SELECT $1::oid UNION SELECT i.inhrelid FROM pg_inherits i JOIN family f ON i.inhparent = f.oid)
     SELECT CASE WHEN EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid) THEN 'ONLY ' ELSE '' END
                || format('%I.%I', n.nspname, c.relname),
            CASE WHEN c.relkind = 'r' THEN pg_relation_size(c.oid) / current_setting('block_size')::bigint ELSE 0 END,
            c.oid = $1::oid AND m.amname IS NOT DISTINCT FROM 'heap'
                AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid)
     FROM family f JOIN pg_class c USING (oid) JOIN pg_namespace n ON n.oid = c.relnamespace
     LEFT JOIN pg_am m ON m.oid = c.relam
     WHERE c.relkind IN ('r', 'f') ORDER BY 2 DESC, 1";

/// Where a table's rows are, the largest first.
pub(super) fn members(client: &mut Client, oid: u32) -> SqlResult<Vec<Member>> {
    let rows = client.query_typed(MEMBERS, &[(&oid, Type::OID)])?;
    Ok(rows
        .iter()
        .map(|row| Member {
            relation: row.get(0),
            blocks: u64::try_from(row.get::<_, Option<i64>>(1).unwrap_or(0)).unwrap_or(0),
            plain: row.get(2),
        })
        .collect())
}

/// The table and whatever holds rows of it.
pub(super) fn family(client: &mut Client, oid: u32) -> SqlResult<Vec<u32>> {
    let rows = client.query_typed(
        "WITH RECURSIVE family(oid) AS (
             SELECT $1::oid UNION SELECT i.inhrelid FROM pg_inherits i JOIN family f ON i.inhparent = f.oid)
         SELECT oid FROM family",
        &[(&oid, Type::OID)],
    )?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
