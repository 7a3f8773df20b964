-- 007 - PLC Integration Phase 1
-- ms5: idempotent
--
-- Joins machines and production: which machine stands in which line, what is made on it now, and what that was before.
-- production_context_history becomes a hypertable on changed_at.

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

-- field: changed_at may be NULL, and a hypertable's time may not.
-- now: a migration does not invent a time, so it stops here, before anything is changed.
DO $$
DECLARE
    missing bigint := 0;
BEGIN
    IF to_regclass('factory_telemetry.production_context_history') IS NOT NULL THEN
        EXECUTE 'SELECT count(*) FROM factory_telemetry.production_context_history WHERE changed_at IS NULL'
           INTO missing;
    END IF;
    IF missing > 0 THEN
        RAISE EXCEPTION '% rows of factory_telemetry.production_context_history have no changed_at', missing
            USING ERRCODE = 'not_null_violation',
                  HINT = 'Decide what their time is. If that of the row before is near enough: '
                         'UPDATE factory_telemetry.production_context_history h SET changed_at = '
                         '(SELECT max(b.changed_at) FROM factory_telemetry.production_context_history b '
                         'WHERE b.id < h.id) WHERE changed_at IS NULL; '
                         'To part with them instead, copy them to another table and delete them here.';
    END IF;
END;
$$;

-- ---------------------------------------------------------------------------------------------------------------------
-- The shape
-- ---------------------------------------------------------------------------------------------------------------------

-- What production needs to know of a machine; the table is from 002.
CREATE TABLE ms5_shape.equipment_config (
    production_line_id          uuid         REFERENCES factory_telemetry.production_lines (id),
    equipment_type              text         DEFAULT 'production'
                                             CHECK (equipment_type IN ('production', 'utility', 'support', 'conveyor',
                                                                       'packaging')),
    criticality_level           integer      DEFAULT 3 CHECK (criticality_level BETWEEN 1 AND 5),
    target_speed                real,
    oee_targets                 jsonb        DEFAULT '{"oee": 0.73, "quality": 0.95, "performance": 0.85, "availability": 0.90}',
    fault_thresholds            jsonb        DEFAULT '{}',
    andon_settings              jsonb        DEFAULT '{"auto_generate_events": true, "escalation_timeout_minutes": 15}',
    location                    text,
    department                  text,
    maintenance_interval_hours  integer      DEFAULT 168,
    last_maintenance_date       timestamptz,
    next_maintenance_date       timestamptz
);
CREATE INDEX idx_equipment_config_production_line ON ms5_shape.equipment_config (production_line_id);
CREATE INDEX idx_equipment_config_equipment_type ON ms5_shape.equipment_config (equipment_type);
CREATE INDEX idx_equipment_config_criticality ON ms5_shape.equipment_config (criticality_level);

-- What is produced on a machine now; the table is from 001.
CREATE TABLE ms5_shape.context (
    current_job_id           uuid         REFERENCES factory_telemetry.job_assignments (id),
    production_schedule_id   uuid         REFERENCES factory_telemetry.production_schedules (id),
    target_speed             real,
    current_product_type_id  uuid         REFERENCES factory_telemetry.product_types (id),
    production_line_id       uuid         REFERENCES factory_telemetry.production_lines (id),
    shift_id                 uuid         REFERENCES factory_telemetry.production_shifts (id),
    target_quantity          integer      DEFAULT 0,
    actual_quantity          integer      DEFAULT 0,
    production_efficiency    real         DEFAULT 0.0,
    quality_rate             real         DEFAULT 0.0,
    changeover_status        text         DEFAULT 'none'
                                          CHECK (changeover_status IN ('none', 'in_progress', 'completed', 'failed')),
    changeover_start_time    timestamptz,
    changeover_end_time      timestamptz,
    last_production_update   timestamptz  DEFAULT now()
);
CREATE INDEX idx_context_production_line ON ms5_shape.context (production_line_id);
CREATE INDEX idx_context_current_job ON ms5_shape.context (current_job_id);
CREATE INDEX idx_context_production_schedule ON ms5_shape.context (production_schedule_id);
CREATE INDEX idx_context_shift ON ms5_shape.context (shift_id);

-- Where in its line a machine stands.
CREATE TABLE ms5_shape.equipment_line_mapping (
    id                  uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    equipment_code      text         NOT NULL REFERENCES factory_telemetry.equipment_config (equipment_code),
    production_line_id  uuid         NOT NULL REFERENCES factory_telemetry.production_lines (id),
    position_in_line    integer,
    is_primary          boolean      DEFAULT false,
    created_at          timestamptz  DEFAULT now(),
    UNIQUE (equipment_code, production_line_id)
);
CREATE INDEX idx_equipment_line_mapping_equipment ON ms5_shape.equipment_line_mapping (equipment_code);
CREATE INDEX idx_equipment_line_mapping_line ON ms5_shape.equipment_line_mapping (production_line_id);

-- Every change of the context.
-- field: PRIMARY KEY (id), changed_at may be NULL. now: the key holds the partition column, which is NOT NULL.
CREATE TABLE ms5_shape.production_context_history (
    id              bigserial,
    equipment_code  text         NOT NULL,
    context_data    jsonb        NOT NULL,
    change_reason   text,
    changed_by      uuid         REFERENCES factory_telemetry.users (id),
    changed_at      timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (id, changed_at)
);
CREATE INDEX idx_production_context_history_changed_at ON ms5_shape.production_context_history (changed_at);
CREATE INDEX idx_production_context_history_equipment ON ms5_shape.production_context_history (equipment_code);

-- ---------------------------------------------------------------------------------------------------------------------
-- From what is there to the shape
-- ---------------------------------------------------------------------------------------------------------------------

SELECT pg_temp.ms5_tables();

-- 30 days a chunk: an operator or a changeover writes a row, some hundred a day.
SELECT pg_temp.ms5_hypertable('production_context_history', 'changed_at', INTERVAL '30 days');

SELECT pg_temp.ms5_keys();

COMMENT ON TABLE factory_telemetry.production_context_history IS
    'Every change of what is produced on a machine; hypertable on changed_at, 30 days a chunk';

-- ---------------------------------------------------------------------------------------------------------------------
-- Reference rows: the two machines of 002 stand in the line of 003, unless somebody has placed machines already.
-- ---------------------------------------------------------------------------------------------------------------------

UPDATE factory_telemetry.equipment_config machine
   SET production_line_id = line.id, criticality_level = 4, target_speed = 100,
       location = 'Production Floor - Line 1', department = 'Packaging'
  FROM factory_telemetry.production_lines line
 WHERE line.line_code = 'L-BAG1' AND machine.equipment_code IN ('BP01.PACK.BAG1', 'BP01.PACK.BAG1.BL')
   AND machine.production_line_id IS NULL
   AND NOT EXISTS (SELECT FROM factory_telemetry.equipment_line_mapping);

INSERT INTO factory_telemetry.equipment_line_mapping (equipment_code, production_line_id, position_in_line, is_primary)
SELECT equipment_code, machine.production_line_id, position_in_line, position_in_line = 1
  FROM (VALUES ('BP01.PACK.BAG1', 1), ('BP01.PACK.BAG1.BL', 2)) AS reference (equipment_code, position_in_line)
  JOIN factory_telemetry.equipment_config machine USING (equipment_code)
 WHERE machine.production_line_id IS NOT NULL AND NOT EXISTS (SELECT FROM factory_telemetry.equipment_line_mapping)
ON CONFLICT (equipment_code, production_line_id) DO NOTHING;

-- ---------------------------------------------------------------------------------------------------------------------
-- Functions and views
-- ---------------------------------------------------------------------------------------------------------------------

-- Sets the whole context of a machine, what is left out becomes NULL, as applications expect, and keeps it in the
-- history.
-- field: planned_stop is NOT NULL, so every call that left p_planned_stop out failed.
-- now: leaving it out leaves it as it is. (008 has the other function of this name, which changes only what is given.)
CREATE FUNCTION ms5_shape.update_equipment_production_context(
    p_equipment_code text,
    p_production_line_id uuid DEFAULT NULL,
    p_current_job_id uuid DEFAULT NULL,
    p_production_schedule_id uuid DEFAULT NULL,
    p_target_speed real DEFAULT NULL,
    p_current_product_type_id uuid DEFAULT NULL,
    p_shift_id uuid DEFAULT NULL,
    p_target_quantity integer DEFAULT NULL,
    p_actual_quantity integer DEFAULT NULL,
    p_production_efficiency real DEFAULT NULL,
    p_quality_rate real DEFAULT NULL,
    p_changeover_status text DEFAULT NULL,
    p_current_operator text DEFAULT NULL,
    p_current_shift text DEFAULT NULL,
    p_planned_stop boolean DEFAULT NULL,
    p_planned_stop_reason text DEFAULT NULL,
    p_change_reason text DEFAULT 'system_update'
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO factory_telemetry.context AS live (
        equipment_code, production_line_id, current_job_id, production_schedule_id, target_speed,
        current_product_type_id, shift_id, target_quantity, actual_quantity, production_efficiency, quality_rate,
        changeover_status, current_operator, current_shift, planned_stop, planned_stop_reason, last_production_update
    ) VALUES (
        p_equipment_code, p_production_line_id, p_current_job_id, p_production_schedule_id, p_target_speed,
        p_current_product_type_id, p_shift_id, p_target_quantity, p_actual_quantity, p_production_efficiency,
        p_quality_rate, p_changeover_status, p_current_operator, p_current_shift, COALESCE(p_planned_stop, false),
        p_planned_stop_reason, now()
    )
    ON CONFLICT (equipment_code) DO UPDATE
       SET production_line_id = p_production_line_id,
           current_job_id = p_current_job_id,
           production_schedule_id = p_production_schedule_id,
           target_speed = p_target_speed,
           current_product_type_id = p_current_product_type_id,
           shift_id = p_shift_id,
           target_quantity = p_target_quantity,
           actual_quantity = p_actual_quantity,
           production_efficiency = p_production_efficiency,
           quality_rate = p_quality_rate,
           changeover_status = p_changeover_status,
           current_operator = p_current_operator,
           current_shift = p_current_shift,
           planned_stop = COALESCE(p_planned_stop, live.planned_stop),
           planned_stop_reason = p_planned_stop_reason,
           last_production_update = now(),
           updated_at = now();

    INSERT INTO factory_telemetry.production_context_history (equipment_code, context_data, change_reason)
    VALUES (p_equipment_code,
            jsonb_build_object(
                'equipment_code', p_equipment_code, 'production_line_id', p_production_line_id,
                'current_job_id', p_current_job_id, 'production_schedule_id', p_production_schedule_id,
                'target_speed', p_target_speed, 'current_product_type_id', p_current_product_type_id,
                'shift_id', p_shift_id, 'target_quantity', p_target_quantity, 'actual_quantity', p_actual_quantity,
                'production_efficiency', p_production_efficiency, 'quality_rate', p_quality_rate,
                'changeover_status', p_changeover_status, 'current_operator', p_current_operator,
                'current_shift', p_current_shift, 'planned_stop', p_planned_stop,
                'planned_stop_reason', p_planned_stop_reason, 'updated_at', now()),
            p_change_reason);
END;
$$;

CREATE FUNCTION ms5_shape.get_equipment_production_context(p_equipment_code text)
RETURNS TABLE (equipment_code text, production_line_id uuid, line_code text, line_name text, current_job_id uuid,
               production_schedule_id uuid, target_speed real, current_product_type_id uuid, product_code text,
               product_name text, shift_id uuid, shift_name text, target_quantity integer, actual_quantity integer,
               production_efficiency real, quality_rate real, changeover_status text, current_operator text,
               current_shift text, planned_stop boolean, planned_stop_reason text, last_production_update timestamptz)
LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY
    SELECT now_on.equipment_code, now_on.production_line_id, line.line_code, line.name, now_on.current_job_id,
           now_on.production_schedule_id, now_on.target_speed, now_on.current_product_type_id, product.product_code,
           product.name, now_on.shift_id, shift.name, now_on.target_quantity, now_on.actual_quantity,
           now_on.production_efficiency, now_on.quality_rate, now_on.changeover_status, now_on.current_operator,
           now_on.current_shift, now_on.planned_stop, now_on.planned_stop_reason, now_on.last_production_update
      FROM factory_telemetry.context now_on
      LEFT JOIN factory_telemetry.production_lines line ON line.id = now_on.production_line_id
      LEFT JOIN factory_telemetry.product_types product ON product.id = now_on.current_product_type_id
      LEFT JOIN factory_telemetry.production_shifts shift ON shift.id = now_on.shift_id
     WHERE now_on.equipment_code = p_equipment_code;
END;
$$;

SELECT pg_temp.ms5_adopt('factory_telemetry');

CREATE VIEW ms5_shape.v_equipment_production_status AS
SELECT machine.id,
       machine.equipment_code,
       machine.name AS equipment_name,
       machine.equipment_type,
       machine.criticality_level,
       machine.target_speed,
       machine.enabled AS equipment_enabled,
       line.id AS production_line_id,
       line.line_code,
       line.name AS line_name,
       line.target_speed AS line_target_speed,
       now_on.current_operator,
       now_on.current_shift,
       now_on.current_job_id,
       now_on.production_schedule_id,
       now_on.target_quantity,
       now_on.actual_quantity,
       now_on.production_efficiency,
       now_on.quality_rate,
       now_on.changeover_status,
       now_on.planned_stop,
       now_on.planned_stop_reason,
       now_on.last_production_update,
       product.product_code,
       product.name AS product_name,
       schedule.scheduled_start,
       schedule.scheduled_end,
       schedule.status AS schedule_status,
       job.status AS job_status,
       person.username AS assigned_operator
  FROM factory_telemetry.equipment_config machine
  LEFT JOIN factory_telemetry.production_lines line ON line.id = machine.production_line_id
  LEFT JOIN factory_telemetry.context now_on ON now_on.equipment_code = machine.equipment_code
  LEFT JOIN factory_telemetry.product_types product ON product.id = now_on.current_product_type_id
  LEFT JOIN factory_telemetry.production_schedules schedule ON schedule.id = now_on.production_schedule_id
  LEFT JOIN factory_telemetry.job_assignments job ON job.id = now_on.current_job_id
  LEFT JOIN factory_telemetry.users person ON person.id = job.user_id
 WHERE machine.enabled
 ORDER BY line.line_code, machine.equipment_code;

CREATE VIEW ms5_shape.v_production_line_equipment AS
SELECT line.id AS line_id,
       line.line_code,
       line.name AS line_name,
       line.target_speed AS line_target_speed,
       count(machine.id) AS total_equipment,
       count(*) FILTER (WHERE machine.enabled) AS active_equipment,
       count(*) FILTER (WHERE machine.equipment_type = 'production') AS production_equipment,
       count(*) FILTER (WHERE machine.criticality_level >= 4) AS critical_equipment,
       avg(machine.target_speed) AS avg_equipment_speed,
       string_agg(machine.equipment_code, ', ' ORDER BY place.position_in_line) AS equipment_codes
  FROM factory_telemetry.production_lines line
  LEFT JOIN factory_telemetry.equipment_config machine ON machine.production_line_id = line.id
  LEFT JOIN factory_telemetry.equipment_line_mapping place
         ON place.equipment_code = machine.equipment_code AND place.production_line_id = line.id
 GROUP BY line.id
 ORDER BY line.line_code;

SELECT pg_temp.ms5_adopt('public');

DROP SCHEMA ms5_shape;
