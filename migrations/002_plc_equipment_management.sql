-- 002 - PLC Equipment Management
-- ms5: idempotent
--
-- PLCs, the machines behind them, the people who use the system, and limits for metrics.

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

-- ---------------------------------------------------------------------------------------------------------------------
-- The shape
-- ---------------------------------------------------------------------------------------------------------------------

-- The controllers that are polled.
CREATE TABLE ms5_shape.plc_config (
    id               uuid              PRIMARY KEY DEFAULT gen_random_uuid(),
    name             text              NOT NULL,
    ip_address       text              NOT NULL,
    plc_type         text              NOT NULL CHECK (plc_type IN ('LOGIX', 'SLC')),
    port             integer           DEFAULT 44818,
    enabled          boolean           DEFAULT true,
    poll_interval_s  double precision  DEFAULT 1.0,
    created_at       timestamptz       DEFAULT now(),
    updated_at       timestamptz       DEFAULT now(),
    UNIQUE (ip_address, port)
);
CREATE INDEX idx_plc_config_enabled ON ms5_shape.plc_config (enabled);

-- The machines. (007 and 008 add what production needs to know of them.)
CREATE TABLE ms5_shape.equipment_config (
    id              uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    equipment_code  text         NOT NULL UNIQUE,
    name            text         NOT NULL,
    description     text,
    plc_id          uuid         REFERENCES ms5_shape.plc_config (id),
    enabled         boolean      DEFAULT true,
    created_at      timestamptz  DEFAULT now(),
    updated_at      timestamptz  DEFAULT now()
);
CREATE INDEX idx_equipment_config_enabled ON ms5_shape.equipment_config (enabled);
CREATE INDEX idx_equipment_config_plc_id ON ms5_shape.equipment_config (plc_id);

-- Accounts. (008 adds whether one is active and when it was changed.)
CREATE TABLE ms5_shape.users (
    id              uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    username        text         NOT NULL UNIQUE,
    email           text         NOT NULL UNIQUE,
    password_hash   text         NOT NULL,
    role            text         DEFAULT 'operator'
                                 CHECK (role IN ('admin', 'production_manager', 'shift_manager', 'engineer', 'operator',
                                                 'maintenance', 'quality', 'viewer')),
    created_at      timestamptz  DEFAULT now(),
    last_login      timestamptz,
    first_name      text,
    last_name       text,
    employee_id     text         UNIQUE,
    department      text,
    shift           text,
    skills          text[],
    certifications  text[]
);
CREATE INDEX idx_users_department ON ms5_shape.users (department);
CREATE INDEX idx_users_email ON ms5_shape.users (email);
CREATE INDEX idx_users_employee_id ON ms5_shape.users (employee_id);
CREATE INDEX idx_users_role ON ms5_shape.users (role);
CREATE INDEX idx_users_shift ON ms5_shape.users (shift);
CREATE INDEX idx_users_username ON ms5_shape.users (username);

-- Names and limits of metrics for display; the table is from 001.
CREATE TABLE ms5_shape.metric_def (
    enabled            boolean  DEFAULT true,
    display_name       text,
    min_value          real,
    max_value          real,
    warning_threshold  real,
    alarm_threshold    real,
    unit_display       text
);

-- ---------------------------------------------------------------------------------------------------------------------
-- From what is there to the shape
-- ---------------------------------------------------------------------------------------------------------------------

SELECT pg_temp.ms5_tables();
SELECT pg_temp.ms5_keys();

-- ---------------------------------------------------------------------------------------------------------------------
-- Reference rows: for a table that has none. One with rows is the operator's, renamed and deleted rows included.
-- ---------------------------------------------------------------------------------------------------------------------

INSERT INTO factory_telemetry.plc_config (name, ip_address, plc_type)
SELECT name, ip_address, plc_type
  FROM (VALUES
        ('Bagger 1 PLC',        '16.191.1.131', 'LOGIX'),
        ('Basket Loader 1 PLC', '16.191.1.140', 'SLC')
       ) AS reference (name, ip_address, plc_type)
 WHERE NOT EXISTS (SELECT FROM factory_telemetry.plc_config)
ON CONFLICT (ip_address, port) DO NOTHING;

INSERT INTO factory_telemetry.equipment_config (equipment_code, name, plc_id)
SELECT equipment_code, reference.name, plc.id
  FROM (VALUES
        ('BP01.PACK.BAG1',    'Bagger 1',        '16.191.1.131'),
        ('BP01.PACK.BAG1.BL', 'Basket Loader 1', '16.191.1.140')
       ) AS reference (equipment_code, name, ip_address)
  LEFT JOIN factory_telemetry.plc_config plc USING (ip_address)
 WHERE NOT EXISTS (SELECT FROM factory_telemetry.equipment_config)
ON CONFLICT (equipment_code) DO NOTHING;

-- ---------------------------------------------------------------------------------------------------------------------
-- The account with the known password
-- ---------------------------------------------------------------------------------------------------------------------

-- field: the old file made an account 'admin' whose password stood in its comment, and every site has it.
-- now: none is made. One that is there is named, on every run, until its password is another: it is not locked here,
-- because it is often the only administrator of a running line, and a migration that changes who can log in would be
-- noticed at the worst time.
DO $$
DECLARE
    account text;
BEGIN
    FOR account IN
        SELECT username FROM factory_telemetry.users
         WHERE password_hash = '$2b$12$LQv3c1yqBWVHxkd0LHAkCOYz6TtxMQJqhN8/LewdBPj4J/8KzKz2K'
    LOOP
        RAISE WARNING 'account % still has the password that the old scripts gave it, which is public', account
            USING HINT = format('Give it another one in the application, or lock it: UPDATE factory_telemetry.users '
                                'SET is_active = false, password_hash = ''!'' WHERE username = %L;', account);
    END LOOP;
END;
$$;

DROP SCHEMA ms5_shape;
