-- 001 - Initialize Telemetry
-- ms5: idempotent
--
-- The extension, the schema, and what the PLC poller writes: metrics, faults, operator context.
-- metric_hist becomes a hypertable on ts.
-- Runs in one transaction of the runner, or by psql -v ON_ERROR_STOP=1 -f. Nobody has to be superuser for it: the
-- owner of the database may create the extension, which is trusted.

CREATE EXTENSION IF NOT EXISTS timescaledb SCHEMA public;

-- ---------------------------------------------------------------------------------------------------------------------
-- The tools: the same block in every file, so that each file stands alone. README.md tells the idea.
--
-- What a file wants is first built in the scratch schema ms5_shape, in plain SQL. The functions below then bring the
-- live schema to that shape: what is missing is made, what differs is changed with a NOTICE, what is right is not
-- touched, what is not ours stays. PostgreSQL prints both sides, so definitions are compared and not names, and the
-- same code runs on an empty database, on one with rows and on one that a broken run left behind.
-- ---------------------------------------------------------------------------------------------------------------------

SET search_path = public;                 -- where the extension lives; all other names below come with their schema
DROP SCHEMA IF EXISTS ms5_shape CASCADE;  -- there only after a run of plain psql that broke off
CREATE SCHEMA ms5_shape;
CREATE SCHEMA IF NOT EXISTS factory_telemetry;

-- Tables, columns, types, defaults, NOT NULL, sequences. Never drops a column, never converts a type.
CREATE OR REPLACE FUNCTION pg_temp.ms5_tables() RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $ms5$
DECLARE
    shape record;
    want record;
    have record;
    live regclass;
    sequence text;
    nulls bigint;
BEGIN
    FOR shape IN
        SELECT oid, relname FROM pg_class WHERE relnamespace = 'ms5_shape'::regnamespace AND relkind = 'r' ORDER BY oid
    LOOP
        IF to_regclass(format('factory_telemetry.%I', shape.relname)) IS NULL THEN
            EXECUTE format('CREATE TABLE factory_telemetry.%1$I (LIKE ms5_shape.%1$I)', shape.relname);
        END IF;
        live := format('factory_telemetry.%I', shape.relname)::regclass;

        FOR want IN
            SELECT attname AS name, format_type(atttypid, atttypmod) AS type, attnotnull AS required,
                   replace(pg_get_expr(adbin, adrelid), 'ms5_shape.', 'factory_telemetry.') AS fallback,
                   pg_get_serial_sequence(attrelid::regclass::text, attname) AS sequence,
                   EXISTS (SELECT FROM pg_index
                            WHERE indrelid = attrelid AND indisprimary AND attnum = ANY (indkey)) AS in_key
              FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
             WHERE attrelid = shape.oid AND attnum > 0 AND NOT attisdropped
             ORDER BY attnum
        LOOP
            SELECT format_type(atttypid, atttypmod) AS type, attnotnull AS required,
                   pg_get_expr(adbin, adrelid) AS fallback, attgenerated <> '' OR attidentity <> '' AS generated
              INTO have
              FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
             WHERE attrelid = live AND attname = want.name AND NOT attisdropped;

            sequence := replace(want.sequence, 'ms5_shape.', 'factory_telemetry.');
            IF sequence IS NOT NULL AND to_regclass(sequence) IS NULL THEN
                EXECUTE format('CREATE SEQUENCE %s AS %s', sequence, want.type);
            END IF;

            IF have.type IS NULL THEN
                EXECUTE format('ALTER TABLE %s ADD COLUMN %I %s %s %s', live, want.name, want.type,
                               'DEFAULT ' || want.fallback, CASE WHEN want.required THEN 'NOT NULL' END);
            ELSIF have.type <> want.type THEN
                RAISE EXCEPTION 'column % of % is %, not %', want.name, live, have.type, want.type
                    USING ERRCODE = 'datatype_mismatch',
                          HINT = format('Look at what it holds; ALTER TABLE %s ALTER COLUMN %I TYPE %s USING ...;',
                                        live, want.name, want.type);
            ELSIF NOT have.generated THEN
                IF have.fallback IS DISTINCT FROM want.fallback THEN
                    EXECUTE format('ALTER TABLE %s ALTER COLUMN %I %s', live, want.name,
                                   COALESCE('SET DEFAULT ' || want.fallback, 'DROP DEFAULT'));
                END IF;
                -- Columns of the primary key become NOT NULL with it: no lock is taken here on a table to be converted.
                IF have.required <> want.required AND NOT want.in_key THEN
                    EXECUTE format('SELECT count(*) FROM %s WHERE %I IS NULL', live, want.name) INTO nulls;
                    IF nulls > 0 THEN
                        RAISE EXCEPTION '% rows of % have no %', nulls, live, want.name
                            USING ERRCODE = 'not_null_violation',
                                  HINT = format('Decide what it is: UPDATE %s SET %I = ... WHERE %2$I IS NULL;',
                                                live, want.name);
                    END IF;
                    EXECUTE format('ALTER TABLE %s ALTER COLUMN %I %s NOT NULL', live, want.name,
                                   CASE WHEN want.required THEN 'SET' ELSE 'DROP' END);
                END IF;
            END IF;

            IF sequence IS DISTINCT FROM pg_get_serial_sequence(live::text, want.name) AND sequence IS NOT NULL THEN
                EXECUTE format('ALTER SEQUENCE %s OWNED BY %s.%I', sequence, live, want.name);
                EXECUTE format('SELECT setval(%L, max(%I)) FROM %s HAVING max(%2$I) > (SELECT last_value FROM %1$s)',
                               sequence, want.name, live);
            END IF;
        END LOOP;
    END LOOP;
END;
$ms5$;

-- Indexes that no constraint owns, of a table or a materialized view.
CREATE OR REPLACE FUNCTION pg_temp.ms5_indexes(shape regclass, target name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS $ms5$
DECLARE
    want record;
    have record;
BEGIN
    FOR want IN
        SELECT relname AS name,
               replace(pg_get_indexdef(oid), ' ON ms5_shape.', format(' ON %I.', target)) AS def
          FROM pg_index JOIN pg_class ON oid = indexrelid
         WHERE indrelid = shape AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)
         ORDER BY oid
    LOOP
        SELECT pg_get_indexdef(indexrelid) AS def, indisvalid AS valid, indrelid::regclass AS owner,
               (SELECT conname FROM pg_constraint WHERE conindid = indexrelid AND contype IN ('p', 'u', 'x')) AS key
          INTO have
          FROM pg_index WHERE indexrelid = to_regclass(format('%I.%I', target, want.name));
        CONTINUE WHEN have.def = want.def AND have.valid AND have.key IS NULL;
        IF have.def IS NOT NULL THEN
            RAISE NOTICE 'index % had another definition or was not valid and is built anew: %', want.name, have.def;
            EXECUTE COALESCE(format('ALTER TABLE %s DROP CONSTRAINT ', have.owner) || quote_ident(have.key),
                             format('DROP INDEX %I.%I', target, want.name));
        END IF;
        EXECUTE want.def;
    END LOOP;
END;
$ms5$;

-- Keys, checks, indexes and foreign keys: of one table, or of all, after which the shapes are dropped.
CREATE OR REPLACE FUNCTION pg_temp.ms5_keys(only_table name DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS $ms5$
DECLARE
    want record;
    have record;
BEGIN
    FOR want IN
        SELECT c.oid AS shape, conname AS name, contype AS kind,
               format('factory_telemetry.%I', c.relname)::regclass AS live,
               to_regclass('factory_telemetry.' || quote_ident(target.relname)) AS points_to,
               replace(pg_get_constraintdef(k.oid), 'ms5_shape.', 'factory_telemetry.') AS def
          FROM pg_constraint k JOIN pg_class c ON c.oid = conrelid LEFT JOIN pg_class target ON target.oid = confrelid
         WHERE c.relnamespace = 'ms5_shape'::regnamespace AND contype IN ('p', 'u', 'x', 'c', 'f')
           AND (only_table IS NULL OR c.relname = only_table)
         ORDER BY contype = 'f', contype <> 'p', k.oid  -- foreign keys last: the keys they point to must stand
    LOOP
        CONTINUE WHEN EXISTS (SELECT FROM pg_constraint WHERE conrelid = want.live AND conname = want.name
                                 AND pg_get_constraintdef(oid) = want.def);
        -- One table alone leaves a foreign key for later whose target has no key yet.
        CONTINUE WHEN only_table IS NOT NULL AND want.kind = 'f' AND NOT EXISTS (
            SELECT FROM pg_constraint WHERE conrelid = want.points_to AND contype IN ('p', 'u'));
        -- In the way: the name with another definition, another primary key, or the definition under another name.
        FOR have IN
            SELECT conname AS name, pg_get_constraintdef(oid) AS def FROM pg_constraint k
             WHERE conrelid = want.live AND contype IN ('p', 'u', 'x', 'c', 'f')
               AND (conname = want.name OR contype = 'p' AND want.kind = 'p'
                    OR pg_get_constraintdef(oid) = want.def AND NOT EXISTS (
                        SELECT FROM pg_constraint s WHERE s.conrelid = want.shape AND s.conname = k.conname))
             ORDER BY conname <> want.name
        LOOP
            IF have.def <> want.def THEN
                RAISE NOTICE '%: constraint % was %, becomes %', want.live, have.name, have.def, want.def;
                EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', want.live, have.name);
            ELSE
                EXECUTE format('ALTER TABLE %s RENAME CONSTRAINT %I TO %I', want.live, have.name, want.name);
                EXIT;
            END IF;
        END LOOP;
        IF NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = want.live AND conname = want.name) THEN
            EXECUTE format('ALTER TABLE %s ADD CONSTRAINT %I %s', want.live, want.name, want.def);
        END IF;
    END LOOP;

    FOR want IN
        SELECT oid::regclass AS shape FROM pg_class
         WHERE relnamespace = 'ms5_shape'::regnamespace AND relkind = 'r'
           AND (only_table IS NULL OR relname = only_table)
         ORDER BY oid
    LOOP
        PERFORM pg_temp.ms5_indexes(want.shape, 'factory_telemetry');
    END LOOP;

    IF only_table IS NULL THEN
        EXECUTE (SELECT 'DROP TABLE ' || string_agg(oid::regclass::text, ', ') FROM pg_class
                  WHERE relnamespace = 'ms5_shape'::regnamespace AND relkind = 'r');
    END IF;
END;
$ms5$;

-- Everything else that stands in ms5_shape goes over to the schema TARGET: functions, views, materialized views.
CREATE OR REPLACE FUNCTION pg_temp.ms5_adopt(target name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS $ms5$
DECLARE
    want record;
    have record;
    grants text[];
    word text;
    sql text;
BEGIN
    -- Functions are replaced in place; one whose result or parameter names differ has to go first.
    FOR want IN
        SELECT oid::regprocedure AS shape, pg_get_functiondef(oid) AS def,
               to_regprocedure(format('%I.%I(%s)', target, proname, oidvectortypes(proargtypes))) AS live
          FROM pg_proc WHERE pronamespace = 'ms5_shape'::regnamespace ORDER BY oid
    LOOP
        sql := replace(want.def, 'FUNCTION ms5_shape.', format('FUNCTION %I.', target));
        BEGIN
            EXECUTE sql;
        EXCEPTION WHEN invalid_function_definition THEN
            RAISE NOTICE 'function % had another result or other parameter names and is made anew', want.live;
            SELECT array_agg(format('GRANT EXECUTE ON FUNCTION %s TO %s', want.live,
                                    CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END))
              INTO grants
              FROM pg_proc, aclexplode(proacl) WHERE oid = want.live AND grantee <> proowner;
            EXECUTE format('DROP FUNCTION %s', want.live);
            EXECUTE sql;
            FOREACH sql IN ARRAY COALESCE(grants, '{}') LOOP EXECUTE sql; END LOOP;
        END;
        EXECUTE format('DROP FUNCTION %s', want.shape);
    END LOOP;

    -- A view with the same columns is replaced in place, with others dropped and moved over; never with CASCADE.
    FOR want IN
        SELECT c.oid::regclass AS shape, relname AS name, relkind AS kind, pg_get_viewdef(c.oid) AS def,
               array_agg(format('%I %s', attname, format_type(atttypid, atttypmod)) ORDER BY attnum) AS columns
          FROM pg_class c JOIN pg_attribute ON attrelid = c.oid AND attnum > 0
         WHERE relnamespace = 'ms5_shape'::regnamespace AND relkind IN ('v', 'm')
         GROUP BY c.oid ORDER BY c.oid
    LOOP
        SELECT c.oid::regclass AS live, relkind AS kind, pg_get_viewdef(c.oid) AS def, relacl AS acl, relowner AS owner,
               relispopulated AS filled,
               array_agg(format('%I %s', attname, format_type(atttypid, atttypmod)) ORDER BY attnum) AS columns
          INTO have
          FROM pg_class c JOIN pg_attribute ON attrelid = c.oid AND attnum > 0
         WHERE c.oid = to_regclass(format('%I.%I', target, want.name))
         GROUP BY c.oid;

        word := CASE want.kind WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'VIEW' END;
        IF have.kind = want.kind AND have.def = want.def AND have.columns = want.columns THEN
            IF want.kind = 'm' THEN
                PERFORM pg_temp.ms5_indexes(want.shape, target);
            END IF;
            IF NOT have.filled THEN
                EXECUTE format('REFRESH MATERIALIZED VIEW %s', have.live);
            END IF;
            EXECUTE format('DROP %s %s', word, want.shape);
            CONTINUE;
        ELSIF have.kind = 'v' AND want.kind = 'v' AND have.columns = want.columns THEN
            EXECUTE format('CREATE OR REPLACE VIEW %s AS %s', have.live, want.def);
            EXECUTE format('DROP VIEW %s', want.shape);
            CONTINUE;
        ELSIF have.kind IN ('v', 'm') THEN
            RAISE NOTICE 'view % had another shape and is made anew', have.live;
            BEGIN
                EXECUTE format('DROP %s %s', CASE have.kind WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'VIEW' END,
                               have.live);
            EXCEPTION WHEN dependent_objects_still_exist THEN
                GET STACKED DIAGNOSTICS sql = PG_EXCEPTION_DETAIL;
                RAISE EXCEPTION 'view % has other columns than it must have, and other objects depend on it', have.live
                    USING ERRCODE = 'dependent_objects_still_exist', DETAIL = sql,
                          HINT = 'Keep their definitions, drop them, run the file again, make them again.';
            END;
        ELSIF have.kind IS NOT NULL THEN
            RAISE EXCEPTION '% is no view', have.live USING HINT = 'Rename it, then run the file again.';
        END IF;

        EXECUTE format('ALTER %s %s SET SCHEMA %I', word, want.shape, target);
        IF want.kind = 'm' THEN
            EXECUTE format('REFRESH MATERIALIZED VIEW %I.%I', target, want.name);
        END IF;
        FOR sql IN
            SELECT format('GRANT %s ON %I.%I TO %s', privilege_type, target, want.name,
                          CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END)
              FROM aclexplode(have.acl) WHERE grantee <> have.owner
        LOOP EXECUTE sql; END LOOP;
    END LOOP;
END;
$ms5$;

-- Makes a table a hypertable, rows and all, or says everything that stands in the way. One statement, so that it is all
-- or nothing under autocommit too.
CREATE OR REPLACE FUNCTION pg_temp.ms5_hypertable(tbl name, time_column name, chunk interval) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog AS $ms5$
DECLARE
    live regclass := format('factory_telemetry.%I', tbl);
    shape regclass := format('ms5_shape.%I', tbl);
    extension_schema text := (SELECT quote_ident(nspname) FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace
                               WHERE extname = 'timescaledb');
    obstacles text[];
    cures text[];
    stats record;
    item record;
    rows_before bigint;
    rows_after bigint;
    slots bigint := current_setting('max_locks_per_transaction')::bigint
                    * (SELECT sum(setting::bigint) FROM pg_settings
                        WHERE name IN ('max_connections', 'max_prepared_transactions', 'max_worker_processes',
                                       'max_wal_senders', 'autovacuum_max_workers'));
    locks_per_chunk bigint;
    chunks bigint;
    setting_needed bigint;
BEGIN
    IF extension_schema IS NULL THEN
        RAISE EXCEPTION 'this database has no extension timescaledb' USING HINT = 'Run 001_init_telemetry.sql first.';
    END IF;
    PERFORM set_config('search_path', extension_schema || ', pg_catalog', true);  -- SET above gives it back

    SELECT column_name, time_interval INTO stats FROM timescaledb_information.dimensions
     WHERE hypertable_schema = 'factory_telemetry' AND hypertable_name = tbl AND dimension_number = 1;
    IF stats.column_name = time_column THEN
        IF stats.time_interval <> chunk THEN
            RAISE NOTICE '%: new chunks span %, not %', live, chunk, stats.time_interval;
            PERFORM set_chunk_time_interval(live, chunk);
        END IF;
        RETURN;
    ELSIF stats.column_name IS NOT NULL THEN
        RAISE EXCEPTION '% is a hypertable already, on column % and not %', live, stats.column_name, time_column;
    END IF;

    -- Writers that hold a referenced table and wait for this one would deadlock with us: those first, then this one.
    FOR item IN SELECT DISTINCT confrelid::regclass AS target FROM pg_constraint
                 WHERE conrelid = live AND contype = 'f' ORDER BY 1
    LOOP
        EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', item.target);
    END LOOP;
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', live);

    -- What create_hypertable would refuse, or take and harm: all of it at once.
    FOR item IN
        SELECT format('publication %I publishes it', pubname) AS obstacle,
               CASE WHEN puballtables THEN format('DROP PUBLICATION %I; make it again for the other tables.', pubname)
                    WHEN prrelid IS NOT NULL THEN format('ALTER PUBLICATION %I DROP TABLE %s;', pubname, live)
                    ELSE format('ALTER PUBLICATION %I DROP TABLES IN SCHEMA factory_telemetry;', pubname) END AS cure
          FROM pg_publication p
          LEFT JOIN pg_publication_rel r ON prpubid = p.oid AND prrelid = live
          LEFT JOIN pg_publication_namespace n ON pnpubid = p.oid AND pnnspid = 'factory_telemetry'::regnamespace
         WHERE puballtables OR r.oid IS NOT NULL OR n.oid IS NOT NULL
        UNION ALL
        SELECT format('row trigger %I uses transition tables', tgname),
               format('DROP TRIGGER %I ON %s; make it a statement trigger.', tgname, live)
          FROM pg_trigger
         WHERE tgrelid = live AND tgtype & 1 = 1 AND (tgoldtable IS NOT NULL OR tgnewtable IS NOT NULL)
        UNION ALL
        SELECT format('foreign key %I of %s points to it', conname, conrelid::regclass),
               format('ALTER TABLE %s DROP CONSTRAINT %I;', conrelid::regclass, conname)
          FROM pg_constraint WHERE confrelid = live AND contype = 'f'
        UNION ALL
        SELECT format('it has the rule %I', rulename), format('DROP RULE %I ON %s;', rulename, live)
          FROM pg_rewrite WHERE ev_class = live
        UNION ALL
        SELECT format('%s inherits from %s', inhrelid::regclass, inhparent::regclass),
               format('ALTER TABLE %s NO INHERIT %s;', inhrelid::regclass, inhparent::regclass)
          FROM pg_inherits WHERE live IN (inhrelid, inhparent)
        UNION ALL
        SELECT format('check %I is NO INHERIT', conname),
               format('ALTER TABLE %s DROP CONSTRAINT %I; add it without NO INHERIT.', live, conname)
          FROM pg_constraint WHERE conrelid = live AND contype = 'c' AND connoinherit
        UNION ALL
        SELECT format('its time column %I is generated', attname),
               format('ALTER TABLE %s ALTER COLUMN %I DROP EXPRESSION;', live, attname)
          FROM pg_attribute WHERE attrelid = live AND attname = time_column AND attgenerated <> ''
        UNION ALL
        SELECT 'it is unlogged', format('ALTER TABLE %s SET LOGGED;', live)
          FROM pg_class WHERE oid = live AND relpersistence = 'u'
        UNION ALL
        -- A rule of uniqueness that is not ours and leaves the time out: only its owner can say what becomes of it.
        SELECT format('unique index %I does not hold %I', i.relname, time_column),
               format('Drop %I, or make it anew with %I as its last column; look for ON CONFLICT in applications.',
                      i.relname, time_column)
          FROM pg_index x JOIN pg_class i ON i.oid = indexrelid
         WHERE indrelid = live AND (indisunique OR indisexclusion) AND NOT indisprimary
           AND NOT EXISTS (SELECT FROM pg_attribute
                            WHERE attrelid = live AND attname = time_column AND attnum = ANY (x.indkey))
           AND NOT EXISTS (SELECT FROM pg_index s JOIN pg_class o ON o.oid = s.indexrelid
                            WHERE s.indrelid = shape AND o.relname = i.relname)
    LOOP
        obstacles := obstacles || item.obstacle;
        cures := cures || item.cure;
    END LOOP;

    EXECUTE format('SELECT count(*) AS rows, count(*) FILTER (WHERE %1$I IS NULL) AS nulls, min(%1$I), max(%1$I),
                           count(*) FILTER (WHERE NOT isfinite(%1$I)) AS infinite
                      FROM %2$s', time_column, live) INTO stats;
    rows_before := stats.rows;
    IF stats.nulls > 0 THEN
        obstacles := obstacles || format('%s of its rows have no %I', stats.nulls, time_column);
        cures := cures || format('Decide on their time: UPDATE %s SET %I = ... WHERE %2$I IS NULL;', live, time_column);
    END IF;
    IF stats.infinite > 0 THEN
        obstacles := obstacles || format('%s of its rows lie at infinity', stats.infinite);
        cures := cures || format('Give them a time or take them out: ... WHERE NOT isfinite(%I);', time_column);
    ELSIF stats.rows > 0 THEN
        -- Every chunk costs locks (measured: 6, and one an index), all held until the end of the transaction. The
        -- server promises room for slots of them and in practice has about twice that.
        locks_per_chunk := 6 + (SELECT count(*) FROM pg_index WHERE indrelid = shape);
        chunks := ceil(extract(epoch FROM stats.max - stats.min) / extract(epoch FROM chunk)) + 1;
        IF chunks * locks_per_chunk > slots OR stats.max - stats.min > interval '5 years'
           OR stats.max > now() + interval '5 years' THEN
            EXECUTE format('SELECT count(*) FROM (SELECT DISTINCT floor(extract(epoch FROM %I) / %s) FROM %s) AS b',
                           time_column, extract(epoch FROM chunk), live) INTO chunks;
            -- A clock that was never set writes 1970, one set wrong a far future: times with years of nothing between.
            FOR item IN EXECUTE format($$
                SELECT lag(last) OVER w AS before, first AS after, sum(n) OVER w - n AS rows_before,
                       sum(n) OVER () - sum(n) OVER w + n AS rows_after
                  FROM (SELECT min(%1$I) AS first, max(%1$I) AS last, count(*) AS n FROM %2$s
                         GROUP BY date_trunc('month', %1$I, 'UTC')
                        UNION ALL SELECT now(), now(), 0) AS month
                WINDOW w AS (ORDER BY first)$$, time_column, live)
            LOOP
                CONTINUE WHEN item.before IS NULL OR item.after - item.before < interval '5 years' OR item.rows_after = 0;
                IF item.rows_before < item.rows_after THEN
                    obstacles := obstacles || format('%s of its rows lie at %s and before, years away from the others',
                                                     item.rows_before, item.before);
                    cures := cures || format('Correct or take out what a wrong clock wrote: ... WHERE %I <= %L;',
                                             time_column, item.before);
                ELSE
                    obstacles := obstacles || format('%s of its rows lie at %s and after, years away from the others',
                                                     item.rows_after, item.after);
                    cures := cures || format('Correct or take out what a wrong clock wrote: ... WHERE %I >= %L;',
                                             time_column, item.after);
                END IF;
            END LOOP;
        END IF;
        setting_needed := 1 + chunks * locks_per_chunk * current_setting('max_locks_per_transaction')::bigint / slots;
        IF chunks * locks_per_chunk > 2 * slots THEN
            obstacles := obstacles || format('its times from %s to %s make %s chunks, more than this server can lock',
                                             stats.min, stats.max, chunks);
            cures := cures || format('Set max_locks_per_transaction to %s and restart the server.', setting_needed);
        ELSIF chunks * locks_per_chunk > slots THEN
            RAISE WARNING '% becomes % chunks: their locks may not fit, and then nothing is changed', live, chunks
                USING HINT = format('If so, set max_locks_per_transaction to %s and restart.', setting_needed);
        END IF;
    END IF;

    IF obstacles IS NOT NULL THEN
        RAISE EXCEPTION '% cannot become a hypertable: %', live, array_to_string(obstacles, '; ')
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = array_to_string(cures, ' ');
    END IF;

    -- Rows move five times faster into chunks that have no keys yet (5 million rows: 16 s in all instead of 82 s), so
    -- ours come off before and go back on after. Indexes of others stay.
    FOR item IN SELECT conname FROM pg_constraint k
                 WHERE conrelid = live AND contype IN ('p', 'u', 'f')
                   AND (contype = 'p' OR EXISTS (SELECT FROM pg_constraint s
                                                  WHERE s.conrelid = shape AND s.conname = k.conname))
    LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', live, item.conname);
    END LOOP;
    FOR item IN SELECT i.oid::regclass AS index FROM pg_index JOIN pg_class i ON i.oid = indexrelid
                 WHERE indrelid = live
                   AND EXISTS (SELECT FROM pg_index JOIN pg_class s ON s.oid = indexrelid
                                WHERE indrelid = shape AND s.relname = i.relname)
    LOOP
        EXECUTE format('DROP INDEX %s', item.index);
    END LOOP;

    PERFORM create_hypertable(live, time_column, chunk_time_interval => chunk, migrate_data => true,
                              create_default_indexes => false);
    EXECUTE format('SELECT count(*) FROM %s', live) INTO rows_after;
    IF rows_after <> rows_before THEN
        RAISE EXCEPTION '% had % rows and would have %: nothing is changed', live, rows_before, rows_after;
    END IF;
    PERFORM pg_temp.ms5_keys(tbl);
END;
$ms5$;

-- ---------------------------------------------------------------------------------------------------------------------
-- The shape
-- ---------------------------------------------------------------------------------------------------------------------

-- What can be measured, once per machine and metric. (002 adds limits and names for display.)
CREATE TABLE ms5_shape.metric_def (
    id              uuid  PRIMARY KEY DEFAULT gen_random_uuid(),
    equipment_code  text  NOT NULL,
    metric_key      text  NOT NULL,
    value_type      text  NOT NULL CHECK (value_type IN ('BOOL', 'INT', 'REAL', 'TEXT', 'JSON')),
    unit            text,
    description     text  NOT NULL,
    UNIQUE (equipment_code, metric_key)
);

-- Where the value of a metric comes from: a PLC address, or a computation.
CREATE TABLE ms5_shape.metric_binding (
    id             uuid     PRIMARY KEY DEFAULT gen_random_uuid(),
    metric_def_id  uuid     NOT NULL REFERENCES ms5_shape.metric_def (id) ON DELETE CASCADE,
    plc_kind       text     NOT NULL CHECK (plc_kind IN ('LOGIX', 'SLC', 'COMPUTED')),
    address        text     NOT NULL,
    bit_index      integer,
    parse_hint     text,
    transform_sql  text
);

-- The newest value of each metric, updated every second.
CREATE TABLE ms5_shape.metric_latest (
    metric_def_id  uuid              PRIMARY KEY REFERENCES ms5_shape.metric_def (id) ON DELETE CASCADE,
    ts             timestamptz       NOT NULL,
    value_bool     boolean,
    value_int      bigint,
    value_real     double precision,
    value_text     text,
    value_json     jsonb
);

-- Every value ever read.
-- field: PRIMARY KEY (id), and no index on the time alone.
-- now: the key holds the partition column, and "the last hour of everything" finds an index.
CREATE TABLE ms5_shape.metric_hist (
    id             bigserial,
    metric_def_id  uuid              NOT NULL REFERENCES ms5_shape.metric_def (id) ON DELETE CASCADE,
    ts             timestamptz       NOT NULL,
    value_bool     boolean,
    value_int      bigint,
    value_real     double precision,
    value_text     text,
    value_json     jsonb,
    PRIMARY KEY (id, ts)
);
CREATE INDEX ix_metric_hist_def_ts ON ms5_shape.metric_hist (metric_def_id, ts DESC);
CREATE INDEX metric_hist_ts_idx ON ms5_shape.metric_hist (ts DESC);

-- What the fault bits of a machine mean.
CREATE TABLE ms5_shape.fault_catalog (
    id              uuid     PRIMARY KEY DEFAULT gen_random_uuid(),
    equipment_code  text     NOT NULL,
    bit_index       integer  NOT NULL CHECK (bit_index BETWEEN 0 AND 63),
    name            text     NOT NULL,
    description     text,
    marker          text     NOT NULL CHECK (marker IN ('INTERNAL', 'UPSTREAM', 'DOWNSTREAM')),
    UNIQUE (equipment_code, bit_index)
);

-- The fault bits of this second.
CREATE TABLE ms5_shape.fault_active (
    equipment_code  text         NOT NULL,
    bit_index       integer      NOT NULL,
    ts              timestamptz  NOT NULL,
    is_active       boolean      NOT NULL,
    PRIMARY KEY (equipment_code, bit_index)
);

-- When each fault came and went.
CREATE TABLE ms5_shape.fault_event (
    id              bigserial         PRIMARY KEY,
    equipment_code  text              NOT NULL,
    bit_index       integer           NOT NULL,
    ts_on           timestamptz       NOT NULL,
    ts_off          timestamptz,
    duration_s      double precision
);

-- Who works at a machine and whether it stands by plan. (007 adds what is produced there.)
CREATE TABLE ms5_shape.context (
    equipment_code       text         PRIMARY KEY,
    current_operator     text,
    current_shift        text,
    planned_stop         boolean      NOT NULL DEFAULT false,
    planned_stop_reason  text,
    updated_at           timestamptz  NOT NULL DEFAULT now()
);

-- ---------------------------------------------------------------------------------------------------------------------
-- From what is there to the shape
-- ---------------------------------------------------------------------------------------------------------------------

SELECT pg_temp.ms5_tables();

-- A day a chunk. The poller reads every metric once a second: two PLCs with 40 metrics write 3.5 million rows a day,
-- about 500 MB with indexes, which is what should stay in memory while it is written and can be dropped or compressed
-- in one piece. A small site has small chunks, but not many of them: 365 a year.
SELECT pg_temp.ms5_hypertable('metric_hist', 'ts', INTERVAL '1 day');

SELECT pg_temp.ms5_keys();

COMMENT ON TABLE factory_telemetry.metric_hist IS
    'Every metric value read, one row a metric and second; hypertable on ts, a day a chunk';

-- ---------------------------------------------------------------------------------------------------------------------
-- Views
-- ---------------------------------------------------------------------------------------------------------------------

-- value is the text of whichever value column is set; numbers and booleans as JSON text, as applications know it.
CREATE VIEW ms5_shape.v_equipment_latest AS
SELECT def.equipment_code,
       def.metric_key,
       latest.ts,
       COALESCE(latest.value_text,
                to_jsonb(COALESCE(latest.value_bool::text, latest.value_int::text, latest.value_real::text))::text
               ) AS value,
       latest.value_bool,
       latest.value_int,
       latest.value_real,
       latest.value_json
  FROM factory_telemetry.metric_def def
  JOIN factory_telemetry.metric_latest latest ON latest.metric_def_id = def.id;

CREATE VIEW ms5_shape.v_faults_active AS
SELECT active.equipment_code,
       active.bit_index,
       active.ts,
       active.is_active,
       catalog.name,
       catalog.description,
       catalog.marker
  FROM factory_telemetry.fault_active active
  LEFT JOIN factory_telemetry.fault_catalog catalog USING (equipment_code, bit_index)
 WHERE active.is_active;

SELECT pg_temp.ms5_adopt('public');

DROP SCHEMA ms5_shape;
