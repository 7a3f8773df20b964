-- 003 - Production Management
-- ms5: idempotent
--
-- Lines, products, schedules, jobs, checklists, downtime, OEE, andon events and reports.
-- oee_calculations becomes a hypertable on calculation_time.

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

CREATE TABLE ms5_shape.production_lines (
    id               uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    line_code        text         NOT NULL UNIQUE,
    name             text         NOT NULL,
    description      text,
    equipment_codes  text[]       NOT NULL,
    target_speed     real,
    enabled          boolean      DEFAULT true,
    created_at       timestamptz  DEFAULT now(),
    updated_at       timestamptz  DEFAULT now()
);
CREATE INDEX idx_production_lines_enabled ON ms5_shape.production_lines (enabled);

CREATE TABLE ms5_shape.product_types (
    id                  uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    product_code        text         NOT NULL UNIQUE,
    name                text         NOT NULL,
    description         text,
    target_speed        real,
    cycle_time_seconds  real,
    quality_specs       jsonb,
    enabled             boolean      DEFAULT true,
    created_at          timestamptz  DEFAULT now()
);

-- What is to be made when.
CREATE TABLE ms5_shape.production_schedules (
    id               uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    line_id          uuid         REFERENCES ms5_shape.production_lines (id),
    product_type_id  uuid         REFERENCES ms5_shape.product_types (id),
    scheduled_start  timestamptz  NOT NULL,
    scheduled_end    timestamptz  NOT NULL,
    target_quantity  integer      NOT NULL,
    priority         integer      DEFAULT 1,
    status           text         DEFAULT 'scheduled'
                                  CHECK (status IN ('scheduled', 'in_progress', 'completed', 'cancelled', 'paused')),
    created_by       uuid         REFERENCES factory_telemetry.users (id),
    created_at       timestamptz  DEFAULT now(),
    updated_at       timestamptz  DEFAULT now()
);
CREATE INDEX idx_production_schedules_line_id ON ms5_shape.production_schedules (line_id);
CREATE INDEX idx_production_schedules_status ON ms5_shape.production_schedules (status);
CREATE INDEX idx_production_schedules_scheduled_start ON ms5_shape.production_schedules (scheduled_start);

-- Who makes it.
CREATE TABLE ms5_shape.job_assignments (
    id            uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    schedule_id   uuid         REFERENCES ms5_shape.production_schedules (id),
    user_id       uuid         REFERENCES factory_telemetry.users (id),
    assigned_at   timestamptz  DEFAULT now(),
    accepted_at   timestamptz,
    started_at    timestamptz,
    completed_at  timestamptz,
    status        text         DEFAULT 'assigned'
                               CHECK (status IN ('assigned', 'accepted', 'in_progress', 'completed', 'cancelled')),
    notes         text
);
CREATE INDEX idx_job_assignments_user_id ON ms5_shape.job_assignments (user_id);
CREATE INDEX idx_job_assignments_status ON ms5_shape.job_assignments (status);

-- What to check before a machine starts, and what was found.
CREATE TABLE ms5_shape.checklist_templates (
    id               uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    name             text         NOT NULL,
    equipment_codes  text[]       NOT NULL,
    checklist_items  jsonb        NOT NULL,
    enabled          boolean      DEFAULT true,
    created_at       timestamptz  DEFAULT now()
);

CREATE TABLE ms5_shape.checklist_completions (
    id                 uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    job_assignment_id  uuid         REFERENCES ms5_shape.job_assignments (id),
    template_id        uuid         REFERENCES ms5_shape.checklist_templates (id),
    completed_by       uuid         REFERENCES factory_telemetry.users (id),
    completed_at       timestamptz  DEFAULT now(),
    responses          jsonb        NOT NULL,
    signature_data     jsonb,
    status             text         DEFAULT 'completed' CHECK (status IN ('completed', 'failed'))
);

CREATE TABLE ms5_shape.downtime_events (
    id                  uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    line_id             uuid         REFERENCES ms5_shape.production_lines (id),
    equipment_code      text         NOT NULL,
    start_time          timestamptz  NOT NULL,
    end_time            timestamptz,
    duration_seconds    integer,
    reason_code         text         NOT NULL,
    reason_description  text,
    category            text         CHECK (category IN ('planned', 'unplanned', 'changeover', 'maintenance')),
    subcategory         text,
    reported_by         uuid         REFERENCES factory_telemetry.users (id),
    confirmed_by        uuid         REFERENCES factory_telemetry.users (id),
    confirmed_at        timestamptz,
    notes               text,
    created_at          timestamptz  DEFAULT now()
);
CREATE INDEX idx_downtime_events_line_id ON ms5_shape.downtime_events (line_id);
CREATE INDEX idx_downtime_events_start_time ON ms5_shape.downtime_events (start_time);

-- field: PRIMARY KEY (id); the partial indexes that 009 wanted on it called now() in their predicate and never stood.
-- now: the key holds the partition column; no predicates on time, since chunks outside of a query's range are left out.
CREATE TABLE ms5_shape.oee_calculations (
    id                       bigserial,
    line_id                  uuid         REFERENCES ms5_shape.production_lines (id),
    equipment_code           text         NOT NULL,
    calculation_time         timestamptz  NOT NULL,
    availability             real         NOT NULL,
    performance              real         NOT NULL,
    quality                  real         NOT NULL,
    oee                      real         NOT NULL,
    planned_production_time  integer,
    actual_production_time   integer,
    ideal_cycle_time         real,
    actual_cycle_time        real,
    good_parts               integer,
    total_parts              integer,
    PRIMARY KEY (id, calculation_time)
);
CREATE INDEX idx_oee_calculations_calculation_time ON ms5_shape.oee_calculations (calculation_time);
CREATE INDEX idx_oee_calculations_equipment_time ON ms5_shape.oee_calculations (equipment_code, calculation_time);
CREATE INDEX idx_oee_calculations_line_id ON ms5_shape.oee_calculations (line_id);
CREATE INDEX idx_oee_calculations_line_time ON ms5_shape.oee_calculations (line_id, calculation_time DESC);

-- Finished reports. (006 adds templates, jobs and downloads.)
CREATE TABLE ms5_shape.production_reports (
    id                      uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    line_id                 uuid         REFERENCES ms5_shape.production_lines (id),
    report_date             date         NOT NULL,
    shift                   text,
    total_production        integer      DEFAULT 0,
    good_parts              integer      DEFAULT 0,
    scrap_parts             integer      DEFAULT 0,
    rework_parts            integer      DEFAULT 0,
    total_downtime_minutes  integer      DEFAULT 0,
    oee_average             real,
    report_data             jsonb,
    generated_by            uuid         REFERENCES factory_telemetry.users (id),
    generated_at            timestamptz  DEFAULT now(),
    pdf_path                text
);
CREATE INDEX idx_production_reports_line_id ON ms5_shape.production_reports (line_id);
CREATE INDEX idx_production_reports_generated_at ON ms5_shape.production_reports (generated_at);

-- Calls from the line. (005 adds escalation.)
CREATE TABLE ms5_shape.andon_events (
    id                uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    line_id           uuid         REFERENCES ms5_shape.production_lines (id),
    equipment_code    text         NOT NULL,
    event_type        text         NOT NULL
                                   CHECK (event_type IN ('stop', 'quality', 'maintenance', 'material')),
    priority          text         NOT NULL CHECK (priority IN ('low', 'medium', 'high', 'critical')),
    description       text         NOT NULL,
    reported_by       uuid         REFERENCES factory_telemetry.users (id),
    reported_at       timestamptz  DEFAULT now(),
    acknowledged_by   uuid         REFERENCES factory_telemetry.users (id),
    acknowledged_at   timestamptz,
    resolved_by       uuid         REFERENCES factory_telemetry.users (id),
    resolved_at       timestamptz,
    resolution_notes  text,
    status            text         DEFAULT 'open'
                                   CHECK (status IN ('open', 'acknowledged', 'resolved', 'escalated'))
);
CREATE INDEX idx_andon_events_line_id ON ms5_shape.andon_events (line_id);
CREATE INDEX idx_andon_events_status ON ms5_shape.andon_events (status);
CREATE INDEX idx_andon_events_priority ON ms5_shape.andon_events (priority);

-- ---------------------------------------------------------------------------------------------------------------------
-- From what is there to the shape
-- ---------------------------------------------------------------------------------------------------------------------

SELECT pg_temp.ms5_tables();

-- A week a chunk: a machine is calculated every minute, so even 20 machines write 200,000 rows a week, and dashboards
-- ask for the day or the week.
SELECT pg_temp.ms5_hypertable('oee_calculations', 'calculation_time', INTERVAL '7 days');

SELECT pg_temp.ms5_keys();

COMMENT ON TABLE factory_telemetry.oee_calculations IS
    'Availability, performance, quality and OEE of a machine over time; hypertable on calculation_time, a week a chunk';

-- ---------------------------------------------------------------------------------------------------------------------
-- Reference rows: for a table that has none. One with rows is the operator's.
-- ---------------------------------------------------------------------------------------------------------------------

INSERT INTO factory_telemetry.production_lines (line_code, name, description, equipment_codes, target_speed)
SELECT 'L-BAG1', 'Bagger Line 1', 'Primary bagging line', '{BP01.PACK.BAG1,BP01.PACK.BAG1.BL}', 100
 WHERE NOT EXISTS (SELECT FROM factory_telemetry.production_lines)
ON CONFLICT (line_code) DO NOTHING;

INSERT INTO factory_telemetry.product_types (product_code, name, description, target_speed, cycle_time_seconds)
SELECT *
  FROM (VALUES
        ('PROD-001', 'Standard Bread Bags', 'Bags for 500 g bread', 100.0, 0.60),
        ('PROD-002', 'Large Bread Bags',    'Bags for 750 g bread',  80.0, 0.75),
        ('PROD-003', 'Specialty Bags',      'Special packaging',     60.0, 1.00)
       ) AS reference
 WHERE NOT EXISTS (SELECT FROM factory_telemetry.product_types)
ON CONFLICT (product_code) DO NOTHING;

INSERT INTO factory_telemetry.checklist_templates (name, equipment_codes, checklist_items)
SELECT 'Bagger Pre-Start Checklist', '{BP01.PACK.BAG1,BP01.PACK.BAG1.BL}',
       '[{"id": "safety_guards",   "type": "checkbox",    "required": true,  "item": "All safety guards in place"},
         {"id": "emergency_stops", "type": "checkbox",    "required": true,  "item": "Emergency stop buttons tested"},
         {"id": "air_pressure",    "type": "measurement", "required": true,  "item": "Air pressure 4 to 6 bar", "unit": "bar"},
         {"id": "bag_supply",      "type": "checkbox",    "required": true,  "item": "Enough bags for the job"},
         {"id": "product_supply",  "type": "checkbox",    "required": true,  "item": "Product is ready"},
         {"id": "general_notes",   "type": "text",        "required": false, "item": "Observations"}]'
 WHERE NOT EXISTS (SELECT FROM factory_telemetry.checklist_templates);

-- ---------------------------------------------------------------------------------------------------------------------
-- Views
-- ---------------------------------------------------------------------------------------------------------------------

CREATE VIEW ms5_shape.v_production_dashboard AS
SELECT line.id AS line_id,
       line.line_code,
       line.name AS line_name,
       line.target_speed,
       schedule.id AS schedule_id,
       schedule.scheduled_start,
       schedule.scheduled_end,
       schedule.target_quantity,
       schedule.status AS schedule_status,
       product.product_code,
       product.name AS product_name,
       product.cycle_time_seconds,
       job.id AS job_assignment_id,
       job.user_id,
       job.status AS job_status,
       job.assigned_at,
       job.accepted_at,
       job.started_at,
       job.completed_at,
       person.username,
       person.first_name,
       person.last_name
  FROM factory_telemetry.production_lines line
  LEFT JOIN factory_telemetry.production_schedules schedule ON schedule.line_id = line.id
  LEFT JOIN factory_telemetry.product_types product ON product.id = schedule.product_type_id
  LEFT JOIN factory_telemetry.job_assignments job ON job.schedule_id = schedule.id
  LEFT JOIN factory_telemetry.users person ON person.id = job.user_id
 WHERE line.enabled
 ORDER BY line.name, schedule.scheduled_start;

CREATE VIEW ms5_shape.v_downtime_summary AS
SELECT line.line_code,
       line.name AS line_name,
       event.equipment_code,
       event.category,
       event.subcategory,
       event.reason_code,
       event.reason_description,
       event.start_time,
       event.end_time,
       event.duration_seconds,
       event.duration_seconds / 60.0 AS duration_minutes,
       reporter.username AS reported_by,
       confirmer.username AS confirmed_by
  FROM factory_telemetry.downtime_events event
  JOIN factory_telemetry.production_lines line ON line.id = event.line_id
  LEFT JOIN factory_telemetry.users reporter ON reporter.id = event.reported_by
  LEFT JOIN factory_telemetry.users confirmer ON confirmer.id = event.confirmed_by
 WHERE event.end_time IS NOT NULL
 ORDER BY event.start_time DESC;

CREATE VIEW ms5_shape.v_oee_summary AS
SELECT line.line_code,
       line.name AS line_name,
       calculation.equipment_code,
       calculation.calculation_time,
       calculation.availability,
       calculation.performance,
       calculation.quality,
       calculation.oee,
       calculation.good_parts,
       calculation.total_parts,
       CASE WHEN calculation.oee >= 0.85 THEN 'Excellent'
            WHEN calculation.oee >= 0.70 THEN 'Good'
            WHEN calculation.oee >= 0.50 THEN 'Fair'
            ELSE 'Poor'
       END AS oee_rating
  FROM factory_telemetry.oee_calculations calculation
  JOIN factory_telemetry.production_lines line ON line.id = calculation.line_id
 ORDER BY calculation.calculation_time DESC;

SELECT pg_temp.ms5_adopt('public');

DROP SCHEMA ms5_shape;
