-- 004 - Advanced Production Features
-- ms5: idempotent
--
-- Shifts, targets, quality, maintenance, material, energy, alerts and KPIs.
-- energy_consumption becomes a hypertable on consumption_time, production_kpis on created_at.

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

-- field: created_at of production_kpis may be NULL, and a hypertable's time may not.
-- now: a migration does not invent a time, so it stops here, before anything is changed.
DO $$
DECLARE
    missing bigint := 0;
BEGIN
    IF to_regclass('factory_telemetry.production_kpis') IS NOT NULL THEN
        EXECUTE 'SELECT count(*) FROM factory_telemetry.production_kpis WHERE created_at IS NULL' INTO missing;
    END IF;
    IF missing > 0 THEN
        RAISE EXCEPTION '% rows of factory_telemetry.production_kpis have no created_at', missing
            USING ERRCODE = 'not_null_violation',
                  HINT = 'Decide what their time is. If the end of the day they count is right: UPDATE '
                         'factory_telemetry.production_kpis SET created_at = kpi_date + 1 WHERE created_at IS NULL; '
                         'To part with them instead, copy them to another table and delete them here.';
    END IF;
END;
$$;

-- ---------------------------------------------------------------------------------------------------------------------
-- The shape
-- ---------------------------------------------------------------------------------------------------------------------

CREATE TABLE ms5_shape.production_shifts (
    id           uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    name         text         NOT NULL,
    start_time   time         NOT NULL,
    end_time     time         NOT NULL,
    description  text,
    enabled      boolean      DEFAULT true,
    created_at   timestamptz  DEFAULT now()
);

CREATE TABLE ms5_shape.shift_assignments (
    id             uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id        uuid         REFERENCES factory_telemetry.users (id),
    shift_id       uuid         REFERENCES ms5_shape.production_shifts (id),
    line_id        uuid         REFERENCES factory_telemetry.production_lines (id),
    assigned_date  date         NOT NULL,
    is_primary     boolean      DEFAULT true,
    created_at     timestamptz  DEFAULT now()
);
CREATE INDEX idx_shift_assignments_date ON ms5_shape.shift_assignments (assigned_date);
CREATE INDEX idx_shift_assignments_user_id ON ms5_shape.shift_assignments (user_id);

CREATE TABLE ms5_shape.production_targets (
    id                   uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    line_id              uuid         REFERENCES factory_telemetry.production_lines (id),
    product_type_id      uuid         REFERENCES factory_telemetry.product_types (id),
    target_date          date         NOT NULL,
    shift_id             uuid         REFERENCES ms5_shape.production_shifts (id),
    target_quantity      integer      NOT NULL,
    target_oee           real         CHECK (target_oee BETWEEN 0 AND 1),
    target_availability  real         CHECK (target_availability BETWEEN 0 AND 1),
    target_performance   real         CHECK (target_performance BETWEEN 0 AND 1),
    target_quality       real         CHECK (target_quality BETWEEN 0 AND 1),
    created_by           uuid         REFERENCES factory_telemetry.users (id),
    created_at           timestamptz  DEFAULT now(),
    UNIQUE (line_id, product_type_id, target_date, shift_id)
);
CREATE INDEX idx_production_targets_line_date ON ms5_shape.production_targets (line_id, target_date);

CREATE TABLE ms5_shape.quality_checks (
    id                uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    line_id           uuid         REFERENCES factory_telemetry.production_lines (id),
    product_type_id   uuid         REFERENCES factory_telemetry.product_types (id),
    check_time        timestamptz  NOT NULL,
    check_type        text         NOT NULL CHECK (check_type IN ('incoming', 'in_process', 'final', 'audit')),
    check_result      text         NOT NULL CHECK (check_result IN ('pass', 'fail', 'conditional')),
    quantity_checked  integer      NOT NULL,
    quantity_passed   integer      NOT NULL,
    quantity_failed   integer      NOT NULL,
    defect_codes      text[],
    notes             text,
    checked_by        uuid         REFERENCES factory_telemetry.users (id),
    created_at        timestamptz  DEFAULT now()
);
CREATE INDEX idx_quality_checks_line_date ON ms5_shape.quality_checks (line_id, check_time);
CREATE INDEX idx_quality_checks_result ON ms5_shape.quality_checks (check_result);

CREATE TABLE ms5_shape.defect_codes (
    id           uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    code         text         NOT NULL UNIQUE,
    name         text         NOT NULL,
    description  text,
    category     text         NOT NULL
                              CHECK (category IN ('dimensional', 'visual', 'functional', 'packaging')),
    severity     text         NOT NULL CHECK (severity IN ('minor', 'major', 'critical')),
    enabled      boolean      DEFAULT true,
    created_at   timestamptz  DEFAULT now()
);

CREATE TABLE ms5_shape.maintenance_work_orders (
    id                        uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    work_order_number         text         NOT NULL UNIQUE,
    equipment_code            text         NOT NULL,
    title                     text         NOT NULL,
    description               text,
    priority                  text         NOT NULL CHECK (priority IN ('low', 'medium', 'high', 'critical')),
    status                    text         DEFAULT 'open'
                                           CHECK (status IN ('open', 'assigned', 'in_progress', 'completed',
                                                             'cancelled')),
    work_type                 text         NOT NULL
                                           CHECK (work_type IN ('preventive', 'corrective', 'predictive', 'emergency')),
    scheduled_start           timestamptz,
    scheduled_end             timestamptz,
    actual_start              timestamptz,
    actual_end                timestamptz,
    estimated_duration_hours  real,
    actual_duration_hours     real,
    assigned_to               uuid         REFERENCES factory_telemetry.users (id),
    created_by                uuid         REFERENCES factory_telemetry.users (id),
    created_at                timestamptz  DEFAULT now(),
    updated_at                timestamptz  DEFAULT now()
);
CREATE INDEX idx_maintenance_work_orders_equipment ON ms5_shape.maintenance_work_orders (equipment_code);
CREATE INDEX idx_maintenance_work_orders_priority ON ms5_shape.maintenance_work_orders (priority);
CREATE INDEX idx_maintenance_work_orders_status ON ms5_shape.maintenance_work_orders (status);

CREATE TABLE ms5_shape.maintenance_tasks (
    id                          uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    work_order_id               uuid         REFERENCES ms5_shape.maintenance_work_orders (id),
    task_name                   text         NOT NULL,
    description                 text,
    task_order                  integer      NOT NULL,
    estimated_duration_minutes  integer,
    actual_duration_minutes     integer,
    status                      text         DEFAULT 'pending'
                                             CHECK (status IN ('pending', 'in_progress', 'completed', 'skipped')),
    completed_by                uuid         REFERENCES factory_telemetry.users (id),
    completed_at                timestamptz,
    notes                       text,
    created_at                  timestamptz  DEFAULT now()
);

CREATE TABLE ms5_shape.material_consumption (
    id                 uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    line_id            uuid         REFERENCES factory_telemetry.production_lines (id),
    material_code      text         NOT NULL,
    material_name      text         NOT NULL,
    consumption_date   date         NOT NULL,
    shift_id           uuid         REFERENCES ms5_shape.production_shifts (id),
    quantity_consumed  real         NOT NULL,
    unit_of_measure    text         NOT NULL,
    cost_per_unit      real,
    total_cost         real,
    recorded_by        uuid         REFERENCES factory_telemetry.users (id),
    created_at         timestamptz  DEFAULT now()
);
CREATE INDEX idx_material_consumption_line_date ON ms5_shape.material_consumption (line_id, consumption_date);

-- field: PRIMARY KEY (id). now: the key holds the partition column.
CREATE TABLE ms5_shape.energy_consumption (
    id                      bigserial,
    equipment_code          text         NOT NULL,
    consumption_time        timestamptz  NOT NULL,
    power_consumption_kw    real         NOT NULL,
    energy_consumption_kwh  real         NOT NULL,
    voltage_v               real,
    current_a               real,
    power_factor            real,
    temperature_c           real,
    humidity_percent        real,
    PRIMARY KEY (id, consumption_time)
);
CREATE INDEX idx_energy_consumption_equipment_time ON ms5_shape.energy_consumption (equipment_code, consumption_time);
CREATE INDEX energy_consumption_consumption_time_idx ON ms5_shape.energy_consumption (consumption_time DESC);

CREATE TABLE ms5_shape.production_alerts (
    id                uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    line_id           uuid         REFERENCES factory_telemetry.production_lines (id),
    equipment_code    text,
    alert_type        text         NOT NULL
                                   CHECK (alert_type IN ('oee_low', 'downtime_high', 'quality_issue', 'maintenance_due',
                                                         'target_missed')),
    severity          text         NOT NULL CHECK (severity IN ('info', 'warning', 'error', 'critical')),
    title             text         NOT NULL,
    message           text         NOT NULL,
    threshold_value   real,
    actual_value      real,
    is_acknowledged   boolean      DEFAULT false,
    acknowledged_by   uuid         REFERENCES factory_telemetry.users (id),
    acknowledged_at   timestamptz,
    is_resolved       boolean      DEFAULT false,
    resolved_by       uuid         REFERENCES factory_telemetry.users (id),
    resolved_at       timestamptz,
    resolution_notes  text,
    created_at        timestamptz  DEFAULT now()
);
CREATE INDEX idx_production_alerts_acknowledged ON ms5_shape.production_alerts (is_acknowledged);
CREATE INDEX idx_production_alerts_line_id ON ms5_shape.production_alerts (line_id);
CREATE INDEX idx_production_alerts_severity ON ms5_shape.production_alerts (severity);

-- field: PRIMARY KEY (id), created_at may be NULL. now: the key holds the partition column, which is NOT NULL.
CREATE TABLE ms5_shape.production_kpis (
    id                          bigserial,
    line_id                     uuid         REFERENCES factory_telemetry.production_lines (id),
    kpi_date                    date         NOT NULL,
    shift_id                    uuid         REFERENCES ms5_shape.production_shifts (id),
    oee                         real,
    availability                real,
    performance                 real,
    quality                     real,
    total_production            integer,
    good_parts                  integer,
    scrap_parts                 integer,
    rework_parts                integer,
    total_downtime_minutes      integer,
    planned_downtime_minutes    integer,
    unplanned_downtime_minutes  integer,
    changeover_time_minutes     integer,
    maintenance_time_minutes    integer,
    energy_consumption_kwh      real,
    material_waste_percent      real,
    first_pass_yield            real,
    created_at                  timestamptz  NOT NULL DEFAULT now(),
    PRIMARY KEY (id, created_at)
);
CREATE INDEX idx_production_kpis_line_date ON ms5_shape.production_kpis (line_id, kpi_date);
CREATE INDEX production_kpis_created_at_idx ON ms5_shape.production_kpis (created_at DESC);

-- ---------------------------------------------------------------------------------------------------------------------
-- From what is there to the shape
-- ---------------------------------------------------------------------------------------------------------------------

SELECT pg_temp.ms5_tables();

-- A week a chunk: a meter reports every ten seconds at most, 60,000 rows a machine and week.
SELECT pg_temp.ms5_hypertable('energy_consumption', 'consumption_time', INTERVAL '7 days');

-- 30 days a chunk: a row a line and shift, or an hour at the busiest sites. Smaller chunks would hold next to nothing.
SELECT pg_temp.ms5_hypertable('production_kpis', 'created_at', INTERVAL '30 days');

SELECT pg_temp.ms5_keys();

COMMENT ON TABLE factory_telemetry.energy_consumption IS
    'Power and energy of a machine over time; hypertable on consumption_time, a week a chunk';
COMMENT ON TABLE factory_telemetry.production_kpis IS
    'Key figures of a line, a row a day and shift; hypertable on created_at, 30 days a chunk';

-- ---------------------------------------------------------------------------------------------------------------------
-- Reference rows: for a table that has none. One with rows is the operator's.
-- ---------------------------------------------------------------------------------------------------------------------

INSERT INTO factory_telemetry.production_shifts (name, start_time, end_time, description)
SELECT name, start_time::time, end_time::time, description
  FROM (VALUES
        ('Day Shift',       '06:00', '14:00', 'Early shift'),
        ('Afternoon Shift', '14:00', '22:00', 'Late shift'),
        ('Night Shift',     '22:00', '06:00', 'Night shift')
       ) AS reference (name, start_time, end_time, description)
 WHERE NOT EXISTS (SELECT FROM factory_telemetry.production_shifts);

INSERT INTO factory_telemetry.defect_codes (code, name, description, category, severity)
SELECT *
  FROM (VALUES
        ('DIM-001', 'Length Too Short',   'Shorter than specified',         'dimensional', 'major'),
        ('DIM-002', 'Length Too Long',    'Longer than specified',          'dimensional', 'major'),
        ('VIS-001', 'Print Quality Poor', 'Print below standard',           'visual',      'minor'),
        ('VIS-002', 'Color Variation',    'Color out of range',             'visual',      'minor'),
        ('FUN-001', 'Seal Failure',       'Seal not closed',                'functional',  'critical'),
        ('FUN-002', 'Leakage',            'Leaks when tested',              'functional',  'critical'),
        ('PAC-001', 'Label Misaligned',   'Label not where it belongs',     'packaging',   'minor'),
        ('PAC-002', 'Tear in Package',    'Package damaged',                'packaging',   'major')
       ) AS reference
 WHERE NOT EXISTS (SELECT FROM factory_telemetry.defect_codes)
ON CONFLICT (code) DO NOTHING;

-- ---------------------------------------------------------------------------------------------------------------------
-- Views
-- ---------------------------------------------------------------------------------------------------------------------

CREATE VIEW ms5_shape.v_production_performance AS
SELECT line.line_code,
       line.name AS line_name,
       kpi.kpi_date,
       shift.name AS shift_name,
       kpi.oee,
       kpi.availability,
       kpi.performance,
       kpi.quality,
       kpi.total_production,
       kpi.good_parts,
       kpi.scrap_parts,
       kpi.rework_parts,
       kpi.total_downtime_minutes,
       kpi.unplanned_downtime_minutes,
       kpi.energy_consumption_kwh,
       kpi.material_waste_percent,
       kpi.first_pass_yield
  FROM factory_telemetry.production_kpis kpi
  JOIN factory_telemetry.production_lines line ON line.id = kpi.line_id
  LEFT JOIN factory_telemetry.production_shifts shift ON shift.id = kpi.shift_id
 ORDER BY kpi.kpi_date DESC, line.line_code;

CREATE VIEW ms5_shape.v_maintenance_overview AS
SELECT work.id,
       work.work_order_number,
       work.equipment_code,
       work.title,
       work.priority,
       work.status,
       work.work_type,
       work.scheduled_start,
       work.scheduled_end,
       work.actual_start,
       work.actual_end,
       work.estimated_duration_hours,
       work.actual_duration_hours,
       assignee.username AS assigned_to,
       author.username AS created_by,
       tasks.total AS total_tasks,
       tasks.completed AS completed_tasks
  FROM factory_telemetry.maintenance_work_orders work
  LEFT JOIN factory_telemetry.users assignee ON assignee.id = work.assigned_to
  LEFT JOIN factory_telemetry.users author ON author.id = work.created_by
 CROSS JOIN LATERAL (SELECT count(*) AS total, count(*) FILTER (WHERE task.status = 'completed') AS completed
                       FROM factory_telemetry.maintenance_tasks task
                      WHERE task.work_order_id = work.id) AS tasks
 ORDER BY work.created_at DESC;

SELECT pg_temp.ms5_adopt('public');

DROP SCHEMA ms5_shape;
