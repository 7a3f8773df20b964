//! The queries of the inventory. Each gives rows of (kind and name, definition); `$1` are oids that are left out: chunks that
//! stand in schemas of users.

/// Schemas and relations that are the server's, an extension's, TimescaleDB's chunks, or the ledger.
macro_rules! ours {
    ($namespace:literal, $catalog:literal, $oid:literal) => {
        concat!(
            "(", $namespace, ".nspname !~ '^(pg_|_timescaledb_|timescaledb_)' AND ", $namespace,
            ".nspname <> 'information_schema' AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.classid = '",
            $catalog, "'::pg_catalog.regclass AND e.objid = ", $oid, " AND e.deptype = 'e') AND ", $oid,
            " <> ALL ($1))"
        )
    };
}

/// The ledger is bookkeeping, not schema.
macro_rules! not_the_ledger {
    ($class:literal) => {
        concat!(
            "NOT (n.nspname = 'public' AND ",
            $class,
            ".relname ~ '^migration_(log|attempts|steps|texts|paused_jobs|restores)(_|$)')"
        )
    };
}

/// What every PostgreSQL has.
pub(super) const POSTGRES: &[&str] = &[
    concat!(
        "SELECT 'schema ' || quote_ident(n.nspname), ''
         FROM pg_catalog.pg_namespace n WHERE ", ours!("n", "pg_namespace", "n.oid")
    ),
    // The extension's own version may move between two servers; its schema may not.
    "SELECT 'extension ' || quote_ident(extname), 'schema ' || extnamespace::pg_catalog.regnamespace
     FROM pg_catalog.pg_extension",
    concat!(
        "SELECT CASE c.relkind WHEN 'v' THEN 'view ' WHEN 'm' THEN 'materialized view ' WHEN 'f' THEN 'foreign table '
                    WHEN 'p' THEN 'partitioned table ' ELSE 'table ' END
                || quote_ident(n.nspname) || '.' || quote_ident(c.relname),
                CASE c.relpersistence WHEN 'u' THEN 'unlogged; ' ELSE '' END
                || CASE WHEN c.relrowsecurity THEN 'row security; ' ELSE '' END
                || coalesce('options ' || array_to_string(c.reloptions, ',') || '; ', '')
                || coalesce(pg_get_viewdef(c.oid), '')
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND ", ours!("n", "pg_class", "c.oid"),
        " AND ", not_the_ledger!("c")
    ),
    // The position counts the columns that are there: a dropped one before it is no difference.
    concat!(
        "SELECT 'column ' || quote_ident(n.nspname) || '.' || quote_ident(c.relname) || '.' || quote_ident(a.attname),
                format('%s, position %s', format_type(a.atttypid, a.atttypmod),
                       row_number() OVER (PARTITION BY c.oid ORDER BY a.attnum))
                || CASE WHEN a.attnotnull THEN ', not null' ELSE '' END
                || CASE WHEN a.attidentity <> '' THEN ', identity ' || a.attidentity::text ELSE '' END
                || CASE WHEN a.attgenerated <> '' THEN ', generated' ELSE '' END
                || coalesce(', default ' || pg_get_expr(d.adbin, d.adrelid), '')
                || CASE WHEN a.attcollation <> t.typcollation
                        THEN ', collation ' || a.attcollation::pg_catalog.regcollation ELSE '' END
         FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
         LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
         WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
           AND ", ours!("n", "pg_class", "c.oid"), " AND ", not_the_ledger!("c")
    ),
    // PostgreSQL 18 lists NOT NULL as constraints too; the column's line has that fact on every version. A key's rows for partitions
    // are the server's own, as are their names.
    concat!(
        "SELECT 'constraint ' || quote_ident(n.nspname) || '.' || quote_ident(c.relname) || '.' || quote_ident(k.conname),
                pg_get_constraintdef(k.oid) || CASE WHEN k.convalidated THEN '' ELSE ' (not validated)' END
         FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE k.contype <> 'n' AND NOT (k.contype = 'f' AND k.conparentid <> 0) AND k.confrelid <> ALL ($1)
           AND ", ours!("n", "pg_class", "c.oid"), " AND ", not_the_ledger!("c")
    ),
    concat!(
        "SELECT 'index ' || quote_ident(n.nspname) || '.' || quote_ident(c.relname),
                pg_get_indexdef(c.oid) || CASE WHEN i.indisvalid THEN '' ELSE ' (invalid)' END
         FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE ", ours!("n", "pg_class", "c.oid"), " AND ", not_the_ledger!("c")
    ),
    concat!(
        "SELECT 'sequence ' || quote_ident(n.nspname) || '.' || quote_ident(c.relname),
                format('%s, start %s, by %s, min %s, max %s, cache %s, cycle %s, owned by %s',
                       format_type(s.seqtypid, NULL), s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache,
                       s.seqcycle,
                       coalesce((SELECT d.refobjid::pg_catalog.regclass || '.' || a.attname
                                 FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_attribute a
                                   ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                                 WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid
                                   AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
                                   AND d.deptype IN ('a', 'i')), 'nothing'))
         FROM pg_catalog.pg_sequence s JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE ", ours!("n", "pg_class", "c.oid"), " AND ", not_the_ledger!("c")
    ),
    concat!(
        "SELECT 'function ' || quote_ident(n.nspname) || '.' || quote_ident(p.proname) || '('
                || pg_get_function_identity_arguments(p.oid) || ')',
                CASE WHEN p.prokind = 'a' THEN 'aggregate' ELSE pg_get_functiondef(p.oid) END
         FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
         WHERE ", ours!("n", "pg_proc", "p.oid")
    ),
    concat!(
        "SELECT 'trigger ' || quote_ident(n.nspname) || '.' || quote_ident(c.relname) || '.' || quote_ident(t.tgname),
                pg_get_triggerdef(t.oid) || CASE t.tgenabled WHEN 'O' THEN '' ELSE ' (enabled ' || t.tgenabled::text || ')' END
         FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE NOT t.tgisinternal AND t.tgname <> 'ts_insert_blocker' AND t.tgname <> 'ts_cagg_invalidation_trigger'
           AND ", ours!("n", "pg_class", "c.oid"), " AND ", not_the_ledger!("c")
    ),
    concat!(
        "SELECT 'type ' || quote_ident(n.nspname) || '.' || quote_ident(t.typname),
                CASE t.typtype
                    WHEN 'e' THEN 'enum ' || (SELECT string_agg(quote_literal(e.enumlabel), ', ' ORDER BY e.enumsortorder)
                                              FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid)
                    WHEN 'd' THEN 'domain over ' || format_type(t.typbasetype, t.typtypmod)
                                  || coalesce(' default ' || t.typdefault, '')
                                  || coalesce((SELECT ' ' || string_agg(pg_get_constraintdef(k.oid), ' ' ORDER BY k.conname)
                                               FROM pg_catalog.pg_constraint k WHERE k.contypid = t.oid), '')
                    ELSE t.typtype::text END
         FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
         WHERE t.typtype IN ('e', 'd', 'r') AND ", ours!("n", "pg_type", "t.oid")
    ),
    concat!(
        "SELECT 'owner of ' || quote_ident(n.nspname) || '.' || quote_ident(c.relname), c.relowner::pg_catalog.regrole::text
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND ", ours!("n", "pg_class", "c.oid"),
        " AND ", not_the_ledger!("c")
    ),
    // Rights, each by itself; what the owner has by being the owner is left out. The name stands last, as in every line.
    concat!(
        "SELECT format('grant %s to %s on %s.%I', x.privilege_type,
                       CASE x.grantee WHEN 0 THEN 'public' ELSE x.grantee::pg_catalog.regrole::text END,
                       quote_ident(n.nspname), c.relname),
                CASE WHEN bool_or(x.is_grantable) THEN 'with grant option' ELSE '' END
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         CROSS JOIN LATERAL aclexplode(c.relacl) x
         WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND x.grantee <> c.relowner
           AND ", ours!("n", "pg_class", "c.oid"), " AND ", not_the_ledger!("c"), " GROUP BY 1"
    ),
    concat!(
        "SELECT format('grant %s to %s on %s.%I.%I', x.privilege_type,
                       CASE x.grantee WHEN 0 THEN 'public' ELSE x.grantee::pg_catalog.regrole::text END,
                       quote_ident(n.nspname), c.relname, a.attname),
                CASE WHEN bool_or(x.is_grantable) THEN 'with grant option' ELSE '' END
         FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         CROSS JOIN LATERAL aclexplode(a.attacl) x
         WHERE a.attacl IS NOT NULL AND NOT a.attisdropped AND x.grantee <> c.relowner
           AND ", ours!("n", "pg_class", "c.oid"), " AND ", not_the_ledger!("c"), " GROUP BY 1"
    ),
    // Without a list of rights everybody may execute a function.
    concat!(
        "SELECT format('grant %s to %s on %s.%I(%s)', x.privilege_type,
                       CASE x.grantee WHEN 0 THEN 'public' ELSE x.grantee::pg_catalog.regrole::text END,
                       quote_ident(n.nspname), p.proname, pg_get_function_identity_arguments(p.oid)),
                CASE WHEN bool_or(x.is_grantable) THEN 'with grant option' ELSE '' END
         FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
         CROSS JOIN LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) x
         WHERE x.grantee <> p.proowner AND ", ours!("n", "pg_proc", "p.oid"), " GROUP BY 1"
    ),
    concat!(
        "SELECT format('grant %s to %s on schema %I', x.privilege_type,
                       CASE x.grantee WHEN 0 THEN 'public' ELSE x.grantee::pg_catalog.regrole::text END, n.nspname),
                CASE WHEN bool_or(x.is_grantable) THEN 'with grant option' ELSE '' END
         FROM pg_catalog.pg_namespace n CROSS JOIN LATERAL aclexplode(n.nspacl) x
         WHERE x.grantee <> n.nspowner AND ", ours!("n", "pg_namespace", "n.oid"), " GROUP BY 1"
    ),
    // A trigger and a constraint are identified as `name on table`.
    "SELECT 'comment on ' || i.type || ' ' || CASE WHEN i.type IN ('trigger', 'table constraint', 'rule', 'policy')
                                                   THEN regexp_replace(i.identity, '^(.*) on (.*)$', '\\2.\\1')
                                                   ELSE i.identity END,
            d.description
     FROM pg_catalog.pg_description d
     CROSS JOIN LATERAL pg_identify_object(d.classoid, d.objoid, d.objsubid) i
     WHERE d.objoid >= 16384 AND i.type <> 'extension' AND d.objoid <> ALL ($1)
       AND coalesce(i.schema, i.identity) !~ '^(pg_|_timescaledb_|timescaledb_)'
       AND i.identity !~ '^public.migration_(log|attempts|steps|texts|paused_jobs|restores)(_|[.]|$)'
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e
                       WHERE e.classid = d.classoid AND e.objid = d.objoid AND e.deptype = 'e')",
];

/// What TimescaleDB adds, from its information views: 2.11 to the newest have these columns.
pub(super) const TIMESCALE: &[&str] = &[
    "SELECT 'hypertable ' || quote_ident(hypertable_schema) || '.' || quote_ident(hypertable_name),
            format('%s dimensions, compression %s', num_dimensions, compression_enabled)
     FROM timescaledb_information.hypertables WHERE hypertable_schema !~ '^_timescaledb_'",
    "SELECT 'dimension ' || quote_ident(hypertable_schema) || '.' || quote_ident(hypertable_name) || '.'
            || quote_ident(column_name),
            format('%s, %s, interval %s, integer interval %s, slices %s', dimension_type, column_type,
                   time_interval, integer_interval, num_partitions)
     FROM timescaledb_information.dimensions WHERE hypertable_schema !~ '^_timescaledb_'",
    "SELECT 'compression setting ' || quote_ident(hypertable_schema) || '.' || quote_ident(hypertable_name) || '.'
            || quote_ident(attname),
            format('segment by %s, order by %s asc %s nulls first %s', segmentby_column_index, orderby_column_index,
                   orderby_asc, orderby_nullsfirst)
     FROM timescaledb_information.compression_settings WHERE hypertable_schema !~ '^_timescaledb_'",
    "SELECT 'continuous aggregate ' || quote_ident(view_schema) || '.' || quote_ident(view_name),
            format('on %I.%I, materialized only %s: %s', hypertable_schema, hypertable_name, materialized_only,
                   view_definition)
     FROM timescaledb_information.continuous_aggregates",
    // A job's number and its next start are not part of the schema; what it does to which table is. A policy on
    // a continuous aggregate names the materialization table, whose number differs: the view stands for it.
    "SELECT format('policy %s on %s', j.proc_name,
                   coalesce(quote_ident(a.view_schema) || '.' || quote_ident(a.view_name),
                            quote_ident(j.hypertable_schema) || '.' || quote_ident(j.hypertable_name))),
            format('every %s, scheduled %s, %s', j.schedule_interval, j.scheduled,
                   j.config - 'hypertable_id' - 'mat_hypertable_id')
     FROM timescaledb_information.jobs j
     LEFT JOIN timescaledb_information.continuous_aggregates a
       ON (a.materialization_hypertable_schema = j.hypertable_schema
           AND a.materialization_hypertable_name = j.hypertable_name)
       OR (a.view_schema = j.hypertable_schema AND a.view_name = j.hypertable_name)
     WHERE j.job_id >= 1000",
];
