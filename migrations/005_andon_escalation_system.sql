-- 005 - Andon Escalation System
-- ms5: idempotent
--
-- What happens when nobody answers a call from the line: escalations, their history, rules and recipients.

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

-- A call that waits for somebody.
CREATE TABLE ms5_shape.andon_escalations (
    id                              uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    event_id                        uuid         NOT NULL REFERENCES factory_telemetry.andon_events (id) ON DELETE CASCADE,
    priority                        text         NOT NULL
                                                 CHECK (priority IN ('low', 'medium', 'high', 'critical')),
    acknowledgment_timeout_minutes  integer      NOT NULL DEFAULT 15,
    resolution_timeout_minutes      integer      NOT NULL DEFAULT 60,
    escalation_recipients           text[]       NOT NULL DEFAULT '{}',
    escalation_level                integer      NOT NULL DEFAULT 1,
    status                          text         NOT NULL DEFAULT 'active'
                                                 CHECK (status IN ('active', 'acknowledged', 'escalated', 'cancelled',
                                                                   'resolved')),
    created_at                      timestamptz  DEFAULT now(),
    acknowledged_at                 timestamptz,
    escalated_at                    timestamptz,
    cancelled_at                    timestamptz,
    resolved_at                     timestamptz,
    escalation_notes                text,
    escalated_by                    uuid         REFERENCES factory_telemetry.users (id),
    acknowledged_by                 uuid         REFERENCES factory_telemetry.users (id)
);
CREATE INDEX idx_andon_escalations_created_at ON ms5_shape.andon_escalations (created_at);
CREATE INDEX idx_andon_escalations_event_id ON ms5_shape.andon_escalations (event_id);
CREATE INDEX idx_andon_escalations_priority ON ms5_shape.andon_escalations (priority);
CREATE INDEX idx_andon_escalations_status ON ms5_shape.andon_escalations (status);

CREATE TABLE ms5_shape.andon_escalation_history (
    id                   uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    escalation_id        uuid         NOT NULL REFERENCES ms5_shape.andon_escalations (id) ON DELETE CASCADE,
    action               text         NOT NULL
                                      CHECK (action IN ('created', 'acknowledged', 'escalated', 'cancelled', 'resolved',
                                                        'timeout')),
    performed_by         uuid         REFERENCES factory_telemetry.users (id),
    performed_at         timestamptz  DEFAULT now(),
    notes                text,
    escalation_level     integer,
    recipients_notified  text[],
    notification_method  text         CHECK (notification_method IN ('email', 'sms', 'phone', 'websocket', 'push'))
);
CREATE INDEX idx_andon_escalation_history_escalation_id ON ms5_shape.andon_escalation_history (escalation_id);
CREATE INDEX idx_andon_escalation_history_performed_at ON ms5_shape.andon_escalation_history (performed_at);

-- Who is told at which level, how, and after how long.
CREATE TABLE ms5_shape.andon_escalation_rules (
    id                           uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    priority                     text         NOT NULL
                                              CHECK (priority IN ('low', 'medium', 'high', 'critical')),
    escalation_level             integer      NOT NULL,
    delay_minutes                integer      NOT NULL DEFAULT 0,
    recipients                   text[]       NOT NULL DEFAULT '{}',
    notification_methods         text[]       NOT NULL DEFAULT '{email,websocket}',
    escalation_message_template  text,
    enabled                      boolean      DEFAULT true,
    created_at                   timestamptz  DEFAULT now(),
    updated_at                   timestamptz  DEFAULT now()
);
CREATE INDEX idx_andon_escalation_rules_priority ON ms5_shape.andon_escalation_rules (priority);

CREATE TABLE ms5_shape.andon_escalation_recipients (
    id                 uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    role               text         NOT NULL UNIQUE,
    name               text         NOT NULL,
    email              text,
    phone              text,
    sms_enabled        boolean      DEFAULT false,
    email_enabled      boolean      DEFAULT true,
    websocket_enabled  boolean      DEFAULT true,
    push_enabled       boolean      DEFAULT false,
    escalation_levels  integer[]    DEFAULT '{1,2,3,4}',
    enabled            boolean      DEFAULT true,
    created_at         timestamptz  DEFAULT now(),
    updated_at         timestamptz  DEFAULT now()
);
CREATE INDEX idx_andon_escalation_recipients_role ON ms5_shape.andon_escalation_recipients (role);

-- How far a call has gone; the table is from 003.
CREATE TABLE ms5_shape.andon_events (
    escalation_level   integer  DEFAULT 0,
    escalation_status  text     DEFAULT 'none'
                                CHECK (escalation_status IN ('none', 'escalated', 'timeout', 'resolved'))
);

-- ---------------------------------------------------------------------------------------------------------------------
-- From what is there to the shape
-- ---------------------------------------------------------------------------------------------------------------------

SELECT pg_temp.ms5_tables();
SELECT pg_temp.ms5_keys();

-- ---------------------------------------------------------------------------------------------------------------------
-- Reference rows: for a table that has none. One with rows is the operator's.
-- ---------------------------------------------------------------------------------------------------------------------

INSERT INTO factory_telemetry.andon_escalation_rules
    (priority, escalation_level, delay_minutes, recipients, notification_methods, escalation_message_template)
SELECT priority, level, delay, recipients::text[], methods::text[],
       CASE level WHEN 1 THEN initcap(priority) || ' priority call from the line: {event_description}'
                  ELSE format('Escalated after %s minutes, %s priority: {event_description}', delay, priority) END
  FROM (VALUES
        ('low',      1,  0, '{shift_manager,engineer}',                          '{email,websocket}'),
        ('low',      2, 15, '{production_manager}',                              '{email,websocket,sms}'),
        ('medium',   1,  0, '{shift_manager,engineer,production_manager}',       '{email,websocket,sms}'),
        ('medium',   2, 10, '{admin}',                                           '{email,websocket,sms,phone}'),
        ('high',     1,  0, '{shift_manager,engineer,production_manager,admin}', '{email,websocket,sms,phone}'),
        ('high',     2,  5, '{all_managers}',                                    '{email,websocket,sms,phone}'),
        ('critical', 1,  0, '{all_managers,admin}',                              '{email,websocket,sms,phone}'),
        ('critical', 2,  2, '{all_managers,admin}',                              '{email,websocket,sms,phone}')
       ) AS reference (priority, level, delay, recipients, methods)
 WHERE NOT EXISTS (SELECT FROM factory_telemetry.andon_escalation_rules);

-- Addresses are placeholders (RFC 2606): put in your own.
INSERT INTO factory_telemetry.andon_escalation_recipients
    (role, name, email, phone, sms_enabled, push_enabled, escalation_levels)
SELECT role, name, email, phone, true, true, levels::integer[]
  FROM (VALUES
        ('shift_manager',      'Shift Manager',        'shift.manager@example.com',      '+15550100', '{1,2,3,4}'),
        ('engineer',           'Maintenance Engineer', 'engineer@example.com',           '+15550101', '{1,2,3,4}'),
        ('production_manager', 'Production Manager',   'production.manager@example.com', '+15550102', '{2,3,4}'),
        ('admin',              'System Administrator', 'admin@example.com',              '+15550103', '{2,3,4}'),
        ('all_managers',       'All Managers',         'managers@example.com',           '+15550104', '{3,4}')
       ) AS reference (role, name, email, phone, levels)
 WHERE NOT EXISTS (SELECT FROM factory_telemetry.andon_escalation_recipients)
ON CONFLICT (role) DO NOTHING;

-- ---------------------------------------------------------------------------------------------------------------------
-- Functions and views
-- ---------------------------------------------------------------------------------------------------------------------

-- Raises every escalation that nobody acknowledged, or resolved, in its time to the next level.
-- field: the notification method 'auto' is none that the history takes, so the first one due made the call fail.
-- now: the history gets a row for each method of the rule. Two callers at once do not escalate the same call twice.
CREATE FUNCTION ms5_shape.auto_escalate_andon_events() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    due record;
    rule record;
BEGIN
    FOR due IN
        SELECT escalation.id, escalation.priority, escalation.status, escalation.escalation_level + 1 AS next_level
          FROM factory_telemetry.andon_escalations escalation
         WHERE escalation.status = 'active' AND escalation.acknowledged_at IS NULL
               AND escalation.created_at < now() - escalation.acknowledgment_timeout_minutes * interval '1 minute'
            OR escalation.status IN ('active', 'acknowledged')
               AND escalation.acknowledged_at IS NOT NULL AND escalation.resolved_at IS NULL
               AND escalation.created_at < now() - escalation.resolution_timeout_minutes * interval '1 minute'
           FOR UPDATE SKIP LOCKED
    LOOP
        SELECT r.recipients, r.notification_methods INTO rule
          FROM factory_telemetry.andon_escalation_rules r
         WHERE r.priority = due.priority AND r.escalation_level = due.next_level AND r.enabled
         ORDER BY r.delay_minutes
         LIMIT 1;

        IF NOT FOUND THEN
            UPDATE factory_telemetry.andon_escalations
               SET status = 'escalated', escalated_at = now(), escalation_level = due.next_level
             WHERE id = due.id;
            INSERT INTO factory_telemetry.andon_escalation_history (escalation_id, action, notes, escalation_level)
            VALUES (due.id, 'escalated', 'No rule for this level: the highest is reached', due.next_level);
        ELSE
            UPDATE factory_telemetry.andon_escalations
               SET status = CASE due.status WHEN 'active' THEN 'escalated' ELSE due.status END,
                   escalated_at = now(), escalation_level = due.next_level, escalation_recipients = rule.recipients
             WHERE id = due.id;
            INSERT INTO factory_telemetry.andon_escalation_history
                (escalation_id, action, notes, escalation_level, recipients_notified, notification_method)
            SELECT due.id, 'escalated', format('Level %s after a timeout', due.next_level), due.next_level,
                   rule.recipients, method
              FROM unnest(rule.notification_methods) AS method
             WHERE method IN ('email', 'sms', 'phone', 'websocket', 'push');
        END IF;
    END LOOP;
END;
$$;

CREATE FUNCTION ms5_shape.get_escalation_recipients(recipient_roles text[])
RETURNS TABLE (role text, name text, email text, phone text,
               sms_enabled boolean, email_enabled boolean, websocket_enabled boolean, push_enabled boolean)
LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY
    SELECT recipient.role, recipient.name, recipient.email, recipient.phone,
           recipient.sms_enabled, recipient.email_enabled, recipient.websocket_enabled, recipient.push_enabled
      FROM factory_telemetry.andon_escalation_recipients recipient
     WHERE recipient.role = ANY (recipient_roles) AND recipient.enabled;
END;
$$;

SELECT pg_temp.ms5_adopt('factory_telemetry');

CREATE VIEW ms5_shape.v_andon_escalation_statistics AS
SELECT date(escalation.created_at) AS date,
       escalation.priority,
       count(*) AS total_escalations,
       count(*) FILTER (WHERE escalation.status = 'resolved') AS resolved_escalations,
       count(*) FILTER (WHERE escalation.status = 'escalated') AS escalated_escalations,
       count(*) FILTER (WHERE escalation.status = 'active') AS active_escalations,
       avg(extract(epoch FROM escalation.acknowledged_at - escalation.created_at) / 60)
           AS avg_acknowledgment_time_minutes,
       avg(extract(epoch FROM escalation.resolved_at - escalation.created_at) / 60)
           AS avg_resolution_time_minutes,
       max(escalation.escalation_level) AS max_escalation_level_reached
  FROM factory_telemetry.andon_escalations escalation
 WHERE escalation.created_at >= current_date - interval '30 days'
 GROUP BY date(escalation.created_at), escalation.priority
 ORDER BY date(escalation.created_at) DESC, escalation.priority;

SELECT pg_temp.ms5_adopt('public');

DROP SCHEMA ms5_shape;
