//! SQL that loads rows into tables that are there: foreign keys and triggers are set aside and put back, all of it in one
//! transaction. No I/O.
//!
//! Rows come in any order, so foreign keys would refuse them; a trigger would do a second time what it did when the rows were
//! new. Only a superuser may switch off the triggers of keys, but who owns a table may drop what is on it and make it again.
//! The keys are checked when they are made again.

use crate::folder::metadata::Table;
use crate::sqltext::{PINNED, dollar, literal};

/// Sets keys and triggers aside, then refuses tables that hold rows.
pub(crate) fn aside(tables: &[Table]) -> String {
    format!("{PINNED}{};\n\n{};\n\n", set_aside(tables), are_empty(tables))
}

/// Sets keys and triggers aside; a table that is missing is refused.
///
/// They are noted as the statements that make them again, in a temporary table that ends with the transaction. A key or a
/// trigger of a partitioned table belongs to the table that has partitions. Keys of other tables that refer to these go too: where
/// rows are replaced, a cascade would delete theirs. A trigger that is switched off stays.
pub(crate) fn set_aside(tables: &[Table]) -> String {
    let names: Vec<String> = tables.iter().map(|table| literal(&table.name)).collect();
    let quote = dollar(tables.iter().map(|table| table.name.as_str()));
    format!(
        "DO {quote}
DECLARE
    wanted text;
    tables oid[];
BEGIN
    FOREACH wanted IN ARRAY ARRAY[{}]::text[] LOOP
        IF pg_catalog.to_regclass(wanted) IS NULL THEN
            RAISE EXCEPTION 'the table % is missing: nothing was loaded', wanted
                USING HINT = 'Rows are loaded into tables that are there: restore the schema first.';
        END IF;
        tables := tables || pg_catalog.to_regclass(wanted)::oid;
    END LOOP;
    tables := tables || ARRAY(SELECT a.relid::oid FROM unnest(tables) t, pg_catalog.pg_partition_ancestors(t) a);
    CREATE TEMPORARY TABLE ms5_aside (turn serial, away text, back text) ON COMMIT DROP;
    INSERT INTO pg_temp.ms5_aside (away, back)
    SELECT pg_catalog.format('ALTER TABLE %s DROP CONSTRAINT %I', c.conrelid::pg_catalog.regclass, c.conname),
           pg_catalog.format('ALTER TABLE %s ADD CONSTRAINT %I %s', c.conrelid::pg_catalog.regclass, c.conname,
                             pg_catalog.pg_get_constraintdef(c.oid))
               || coalesce(pg_catalog.format('; COMMENT ON CONSTRAINT %I ON %s IS %L', c.conname,
                                             c.conrelid::pg_catalog.regclass,
                                             pg_catalog.obj_description(c.oid, 'pg_constraint')), '')
    FROM pg_catalog.pg_constraint c
    WHERE c.contype = 'f' AND c.conparentid = 0
      AND (c.conrelid = ANY (tables)
           -- A chunk's key goes and comes with its hypertable's.
           OR c.confrelid = ANY (tables)
              AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits i
                              JOIN pg_catalog.pg_constraint p ON p.conrelid = i.inhparent
                              WHERE i.inhrelid = c.conrelid AND p.contype = 'f' AND p.confrelid = c.confrelid))
    ORDER BY c.oid;
    INSERT INTO pg_temp.ms5_aside (away, back)
    SELECT pg_catalog.format('DROP TRIGGER %I ON %s', t.tgname, t.tgrelid::pg_catalog.regclass),
           pg_catalog.pg_get_triggerdef(t.oid)
               || CASE t.tgenabled WHEN 'O' THEN ''
                  ELSE pg_catalog.format('; ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', t.tgrelid::pg_catalog.regclass,
                                         t.tgname) END
               || coalesce(pg_catalog.format('; COMMENT ON TRIGGER %I ON %s IS %L', t.tgname,
                                             t.tgrelid::pg_catalog.regclass,
                                             pg_catalog.obj_description(t.oid, 'pg_trigger')), '')
    FROM pg_catalog.pg_trigger t
    JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND t.tgenabled IN ('O', 'A') AND n.nspname !~ '^_timescaledb_' AND t.tgrelid = ANY (tables)
    ORDER BY t.oid;
    FOR wanted IN SELECT away FROM pg_temp.ms5_aside ORDER BY turn LOOP
        EXECUTE wanted;
    END LOOP;
END
{quote}",
        names.join(", ")
    )
}

/// Refuses tables that hold rows: they would be there twice.
pub(crate) fn are_empty(tables: &[Table]) -> String {
    // Rows that an extension brings are there before.
    let own = tables.iter().filter(|table| table.condition.is_none());
    let counted: Vec<String> = own.map(|table| literal(&table.counted())).collect();
    let quote = dollar(tables.iter().map(|table| table.name.as_str()));
    format!(
        "DO {quote}
DECLARE
    wanted text;
    found boolean;
BEGIN
    FOREACH wanted IN ARRAY ARRAY[{}]::text[] LOOP
        EXECUTE 'SELECT EXISTS (SELECT FROM ' || wanted || ')' INTO found;
        IF found THEN
            RAISE EXCEPTION 'the table % holds rows: nothing was loaded', wanted
                USING HINT = 'Empty the tables first (TRUNCATE), or use backup-manager restore NAME --force.';
        END IF;
    END LOOP;
END
{quote}",
        counted.join(", ")
    )
}

/// Puts back what was set aside: keys are checked over all rows.
pub(crate) fn back() -> String {
    format!("{PINNED}{PUT_BACK};\n\n")
}

/// The same as one statement.
pub(crate) const PUT_BACK: &str = "DO $ms5$
DECLARE
    wanted text;
BEGIN
    FOR wanted IN SELECT back FROM pg_temp.ms5_aside ORDER BY turn LOOP
        EXECUTE wanted;
    END LOOP;
END
$ms5$";

/// Empties the tables, where what they hold is to be replaced.
pub(crate) fn empty(tables: &[Table]) -> Vec<String> {
    let (own, of_extensions): (Vec<&Table>, Vec<&Table>) =
        tables.iter().partition(|table| table.condition.is_none());
    let names: Vec<String> = own
        .iter()
        .map(|table| if table.by_select { table.name.clone() } else { format!("ONLY {}", table.name) })
        .collect();
    let mut statements = Vec::new();
    if !names.is_empty() {
        statements.push(format!("TRUNCATE {}", names.join(", ")));
    }
    statements.extend(of_extensions.iter().map(|table| {
        format!("DELETE FROM {} {}", table.name, table.condition.as_deref().unwrap_or_default())
    }));
    statements
}
