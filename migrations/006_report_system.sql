-- 006 - Report System
-- ms5: idempotent
--
-- Report templates, jobs that make reports, schedules, permissions, and who read what.

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

CREATE TABLE ms5_shape.report_templates (
    id             uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    name           text         NOT NULL,
    description    text         NOT NULL,
    template_type  text         NOT NULL
                                CHECK (template_type IN ('production', 'oee', 'downtime', 'quality', 'maintenance',
                                                         'custom')),
    parameters     jsonb        NOT NULL DEFAULT '[]',
    sections       jsonb        NOT NULL DEFAULT '[]',
    is_active      boolean      DEFAULT true,
    created_at     timestamptz  DEFAULT now(),
    updated_at     timestamptz  DEFAULT now(),
    created_by     uuid         REFERENCES factory_telemetry.users (id),
    updated_by     uuid         REFERENCES factory_telemetry.users (id)
);
CREATE INDEX idx_report_templates_active ON ms5_shape.report_templates (is_active);
CREATE INDEX idx_report_templates_created_by ON ms5_shape.report_templates (created_by);
CREATE INDEX idx_report_templates_type ON ms5_shape.report_templates (template_type);

-- A report that is to be made; the highest priority first.
CREATE TABLE ms5_shape.report_generation_jobs (
    id                   uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    template_id          uuid         REFERENCES ms5_shape.report_templates (id),
    report_type          text         NOT NULL,
    parameters           jsonb        NOT NULL DEFAULT '{}',
    status               text         DEFAULT 'pending'
                                      CHECK (status IN ('pending', 'processing', 'completed', 'failed', 'cancelled')),
    priority             integer      DEFAULT 0,
    created_at           timestamptz  DEFAULT now(),
    started_at           timestamptz,
    completed_at         timestamptz,
    created_by           uuid         REFERENCES factory_telemetry.users (id),
    error_message        text,
    progress_percentage  integer      DEFAULT 0 CHECK (progress_percentage BETWEEN 0 AND 100)
);
CREATE INDEX idx_report_generation_jobs_created_at ON ms5_shape.report_generation_jobs (created_at);
CREATE INDEX idx_report_generation_jobs_priority ON ms5_shape.report_generation_jobs (priority DESC);
CREATE INDEX idx_report_generation_jobs_status ON ms5_shape.report_generation_jobs (status);
CREATE INDEX idx_report_generation_jobs_template_id ON ms5_shape.report_generation_jobs (template_id);

-- How a report was made and how often it was read; the table is from 003.
CREATE TABLE ms5_shape.production_reports (
    template_id            uuid         REFERENCES ms5_shape.report_templates (id),
    generation_job_id      uuid         REFERENCES ms5_shape.report_generation_jobs (id),
    file_size              bigint,
    file_hash              text,
    generation_parameters  jsonb        DEFAULT '{}',
    status                 text         DEFAULT 'completed'
                                        CHECK (status IN ('generating', 'completed', 'failed', 'deleted')),
    download_count         integer      DEFAULT 0,
    last_downloaded_at     timestamptz
);
CREATE INDEX idx_production_reports_template_id ON ms5_shape.production_reports (template_id);
CREATE INDEX idx_production_reports_status ON ms5_shape.production_reports (status);

CREATE TABLE ms5_shape.report_access_logs (
    id               uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    report_id        uuid         REFERENCES factory_telemetry.production_reports (id) ON DELETE CASCADE,
    user_id          uuid         REFERENCES factory_telemetry.users (id),
    action           text         NOT NULL CHECK (action IN ('viewed', 'downloaded', 'shared', 'deleted')),
    accessed_at      timestamptz  DEFAULT now(),
    ip_address       inet,
    user_agent       text,
    additional_data  jsonb        DEFAULT '{}'
);
CREATE INDEX idx_report_access_logs_accessed_at ON ms5_shape.report_access_logs (accessed_at);
CREATE INDEX idx_report_access_logs_report_id ON ms5_shape.report_access_logs (report_id);
CREATE INDEX idx_report_access_logs_user_id ON ms5_shape.report_access_logs (user_id);

CREATE TABLE ms5_shape.report_favorites (
    id           uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id      uuid         REFERENCES factory_telemetry.users (id) ON DELETE CASCADE,
    template_id  uuid         REFERENCES ms5_shape.report_templates (id) ON DELETE CASCADE,
    name         text         NOT NULL,
    parameters   jsonb        NOT NULL DEFAULT '{}',
    created_at   timestamptz  DEFAULT now(),
    UNIQUE (user_id, template_id, name)
);
CREATE INDEX idx_report_favorites_template_id ON ms5_shape.report_favorites (template_id);
CREATE INDEX idx_report_favorites_user_id ON ms5_shape.report_favorites (user_id);

CREATE TABLE ms5_shape.report_schedules (
    id             uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    name           text         NOT NULL,
    description    text,
    template_id    uuid         REFERENCES ms5_shape.report_templates (id),
    parameters     jsonb        NOT NULL DEFAULT '{}',
    schedule_cron  text         NOT NULL,
    is_active      boolean      DEFAULT true,
    next_run_at    timestamptz,
    last_run_at    timestamptz,
    created_at     timestamptz  DEFAULT now(),
    updated_at     timestamptz  DEFAULT now(),
    created_by     uuid         REFERENCES factory_telemetry.users (id),
    updated_by     uuid         REFERENCES factory_telemetry.users (id)
);
CREATE INDEX idx_report_schedules_active ON ms5_shape.report_schedules (is_active);
CREATE INDEX idx_report_schedules_next_run ON ms5_shape.report_schedules (next_run_at);
CREATE INDEX idx_report_schedules_template_id ON ms5_shape.report_schedules (template_id);

CREATE TABLE ms5_shape.report_schedule_runs (
    id                 uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    schedule_id        uuid         REFERENCES ms5_shape.report_schedules (id) ON DELETE CASCADE,
    generation_job_id  uuid         REFERENCES ms5_shape.report_generation_jobs (id),
    report_id          uuid         REFERENCES factory_telemetry.production_reports (id),
    status             text         DEFAULT 'pending'
                                    CHECK (status IN ('pending', 'running', 'completed', 'failed', 'skipped')),
    started_at         timestamptz,
    completed_at       timestamptz,
    error_message      text,
    created_at         timestamptz  DEFAULT now()
);
CREATE INDEX idx_report_schedule_runs_created_at ON ms5_shape.report_schedule_runs (created_at);
CREATE INDEX idx_report_schedule_runs_schedule_id ON ms5_shape.report_schedule_runs (schedule_id);
CREATE INDEX idx_report_schedule_runs_status ON ms5_shape.report_schedule_runs (status);

CREATE TABLE ms5_shape.report_categories (
    id           uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    name         text         NOT NULL UNIQUE,
    description  text,
    color        text,
    icon         text,
    sort_order   integer      DEFAULT 0,
    is_active    boolean      DEFAULT true,
    created_at   timestamptz  DEFAULT now(),
    updated_at   timestamptz  DEFAULT now()
);
CREATE INDEX idx_report_categories_active ON ms5_shape.report_categories (is_active);
CREATE INDEX idx_report_categories_sort_order ON ms5_shape.report_categories (sort_order);

CREATE TABLE ms5_shape.report_template_categories (
    template_id  uuid  NOT NULL REFERENCES ms5_shape.report_templates (id) ON DELETE CASCADE,
    category_id  uuid  NOT NULL REFERENCES ms5_shape.report_categories (id) ON DELETE CASCADE,
    PRIMARY KEY (template_id, category_id)
);

-- What a role may do with a template.
CREATE TABLE ms5_shape.report_permissions (
    id            uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    template_id   uuid         REFERENCES ms5_shape.report_templates (id) ON DELETE CASCADE,
    role          text         NOT NULL,
    can_generate  boolean      DEFAULT false,
    can_view      boolean      DEFAULT false,
    can_edit      boolean      DEFAULT false,
    can_delete    boolean      DEFAULT false,
    can_schedule  boolean      DEFAULT false,
    created_at    timestamptz  DEFAULT now(),
    updated_at    timestamptz  DEFAULT now(),
    UNIQUE (template_id, role)
);
CREATE INDEX idx_report_permissions_role ON ms5_shape.report_permissions (role);
CREATE INDEX idx_report_permissions_template_id ON ms5_shape.report_permissions (template_id);

CREATE TABLE ms5_shape.report_notifications (
    id                 uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    report_id          uuid         REFERENCES factory_telemetry.production_reports (id) ON DELETE CASCADE,
    user_id            uuid         REFERENCES factory_telemetry.users (id),
    notification_type  text         NOT NULL
                                    CHECK (notification_type IN ('generated', 'failed', 'scheduled', 'shared')),
    title              text         NOT NULL,
    message            text         NOT NULL,
    is_read            boolean      DEFAULT false,
    sent_at            timestamptz  DEFAULT now(),
    read_at            timestamptz
);
CREATE INDEX idx_report_notifications_is_read ON ms5_shape.report_notifications (is_read);
CREATE INDEX idx_report_notifications_sent_at ON ms5_shape.report_notifications (sent_at);
CREATE INDEX idx_report_notifications_user_id ON ms5_shape.report_notifications (user_id);

-- ---------------------------------------------------------------------------------------------------------------------
-- From what is there to the shape
-- ---------------------------------------------------------------------------------------------------------------------

SELECT pg_temp.ms5_tables();
SELECT pg_temp.ms5_keys();

-- ---------------------------------------------------------------------------------------------------------------------
-- Reference rows: for a table that has none. One with rows is the operator's.
-- ---------------------------------------------------------------------------------------------------------------------

INSERT INTO factory_telemetry.report_categories (name, description, color, icon, sort_order)
SELECT name, description, color, icon, sort_order
  FROM (VALUES
        ('Production',  'Output of lines and shifts',      '#2196F3', 'factory',      1),
        ('OEE',         'Overall equipment effectiveness', '#4CAF50', 'trending_up',  2),
        ('Downtime',    'When and why lines stood',        '#F44336', 'warning',      3),
        ('Quality',     'Checks and defects',              '#FF9800', 'check_circle', 4),
        ('Maintenance', 'Work orders and tasks',           '#9C27B0', 'build',        5),
        ('Custom',      'Made by users',                   '#607D8B', 'tune',         6)
       ) AS reference (name, description, color, icon, sort_order)
 WHERE NOT EXISTS (SELECT FROM factory_telemetry.report_categories)
ON CONFLICT (name) DO NOTHING;

INSERT INTO factory_telemetry.report_templates (name, description, template_type, parameters, sections)
SELECT name, description, template_type, parameters::jsonb, sections::jsonb
  FROM (VALUES
        ('Daily Production Report', 'A day of a line: output, OEE, downtime, quality', 'production',
         '[{"name": "line_id",     "type": "uuid",   "required": true,  "description": "Line"},
           {"name": "report_date", "type": "date",   "required": true,  "description": "Day"},
           {"name": "shift",       "type": "string", "required": false, "description": "Shift"}]',
         '[{"type": "header",     "title": "Report Header"},
           {"type": "summary",    "title": "Executive Summary"},
           {"type": "oee",        "title": "OEE Analysis"},
           {"type": "downtime",   "title": "Downtime Analysis"},
           {"type": "production", "title": "Production Details"},
           {"type": "quality",    "title": "Quality Analysis"},
           {"type": "equipment",  "title": "Equipment Status"}]'),
        ('OEE Analysis Report', 'OEE of a line over a range of days', 'oee',
         '[{"name": "line_id",    "type": "uuid", "required": true, "description": "Line"},
           {"name": "start_date", "type": "date", "required": true, "description": "First day"},
           {"name": "end_date",   "type": "date", "required": true, "description": "Last day"}]',
         '[{"type": "header",               "title": "Report Header"},
           {"type": "oee_overview",         "title": "OEE Overview"},
           {"type": "oee_trends",           "title": "OEE Trends"},
           {"type": "performance_analysis", "title": "Performance Analysis"},
           {"type": "recommendations",      "title": "Recommendations"}]'),
        ('Downtime Analysis Report', 'Downtime of a line over a range of days', 'downtime',
         '[{"name": "line_id",    "type": "uuid", "required": true, "description": "Line"},
           {"name": "start_date", "type": "date", "required": true, "description": "First day"},
           {"name": "end_date",   "type": "date", "required": true, "description": "Last day"}]',
         '[{"type": "header",                   "title": "Report Header"},
           {"type": "downtime_overview",        "title": "Downtime Overview"},
           {"type": "downtime_breakdown",       "title": "Downtime Breakdown"},
           {"type": "top_reasons",              "title": "Top Downtime Reasons"},
           {"type": "equipment_downtime",       "title": "Equipment Downtime"},
           {"type": "downtime_recommendations", "title": "Recommendations"}]')
       ) AS reference (name, description, template_type, parameters, sections)
 WHERE NOT EXISTS (SELECT FROM factory_telemetry.report_templates);

INSERT INTO factory_telemetry.report_permissions
    (template_id, role, can_generate, can_view, can_edit, can_delete, can_schedule)
SELECT template.id, may.role, may.generate, true, may.edit, may.delete, may.schedule
  FROM factory_telemetry.report_templates template
 CROSS JOIN (VALUES
        ('admin',              true,  true,  true,  true),
        ('production_manager', true,  true,  false, true),
        ('shift_manager',      true,  false, false, true),
        ('engineer',           true,  false, false, false),
        ('operator',           false, false, false, false)
       ) AS may (role, generate, edit, delete, schedule)
 WHERE NOT EXISTS (SELECT FROM factory_telemetry.report_permissions)
ON CONFLICT (template_id, role) DO NOTHING;

-- ---------------------------------------------------------------------------------------------------------------------
-- Functions, the trigger, views
-- ---------------------------------------------------------------------------------------------------------------------

-- field: a download_count that is NULL stayed NULL. now: it counts from 0.
CREATE FUNCTION ms5_shape.update_report_download_count() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.action = 'downloaded' THEN
        UPDATE factory_telemetry.production_reports
           SET download_count = COALESCE(download_count, 0) + 1, last_downloaded_at = NEW.accessed_at
         WHERE id = NEW.report_id;
    END IF;
    RETURN NEW;
END;
$$;

-- Removes what nobody needs any more; gives the number of reports removed.
-- field: one report that a schedule run points to, or one job that a report points to, and every call failed.
-- now: the run stays without its report, and a job stays as long as anything points to it.
CREATE FUNCTION ms5_shape.cleanup_old_reports() RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    removed integer;
BEGIN
    UPDATE factory_telemetry.report_schedule_runs run
       SET report_id = NULL
      FROM factory_telemetry.production_reports report
     WHERE report.id = run.report_id AND report.generated_at < now() - interval '1 year'
       AND COALESCE(report.download_count, 0) = 0 AND report.status = 'completed';
    DELETE FROM factory_telemetry.production_reports report
     WHERE report.generated_at < now() - interval '1 year'
       AND COALESCE(report.download_count, 0) = 0 AND report.status = 'completed';
    GET DIAGNOSTICS removed = ROW_COUNT;

    DELETE FROM factory_telemetry.report_access_logs WHERE accessed_at < now() - interval '6 months';

    DELETE FROM factory_telemetry.report_generation_jobs job
     WHERE job.created_at < now() - interval '3 months' AND job.status IN ('completed', 'failed', 'cancelled')
       AND NOT EXISTS (SELECT FROM factory_telemetry.production_reports WHERE generation_job_id = job.id)
       AND NOT EXISTS (SELECT FROM factory_telemetry.report_schedule_runs WHERE generation_job_id = job.id);
    RETURN removed;
END;
$$;

-- The queue of the last seven days.
CREATE FUNCTION ms5_shape.get_report_queue_status()
RETURNS TABLE (pending_jobs integer, processing_jobs integer, completed_today integer, failed_today integer,
               average_generation_time interval)
LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY
    SELECT count(*) FILTER (WHERE job.status = 'pending')::integer,
           count(*) FILTER (WHERE job.status = 'processing')::integer,
           count(*) FILTER (WHERE job.status = 'completed' AND job.completed_at >= current_date)::integer,
           count(*) FILTER (WHERE job.status = 'failed' AND job.created_at >= current_date)::integer,
           avg(job.completed_at - job.started_at)
      FROM factory_telemetry.report_generation_jobs job
     WHERE job.created_at >= now() - interval '7 days';
END;
$$;

CREATE VIEW ms5_shape.report_generation_status AS
SELECT job.id AS job_id,
       job.template_id,
       template.name AS template_name,
       job.report_type,
       job.status,
       job.priority,
       job.progress_percentage,
       job.created_at,
       job.started_at,
       job.completed_at,
       job.error_message,
       author.username AS created_by_username,
       CASE WHEN job.status = 'completed' THEN report.id END AS report_id
  FROM factory_telemetry.report_generation_jobs job
  LEFT JOIN factory_telemetry.report_templates template ON template.id = job.template_id
  LEFT JOIN factory_telemetry.users author ON author.id = job.created_by
  LEFT JOIN factory_telemetry.production_reports report ON report.generation_job_id = job.id;

CREATE VIEW ms5_shape.report_statistics AS
SELECT count(*) AS total_reports,
       count(*) FILTER (WHERE report.generated_at >= now() - interval '1 day') AS reports_today,
       count(*) FILTER (WHERE report.generated_at >= now() - interval '7 days') AS reports_this_week,
       count(*) FILTER (WHERE report.generated_at >= now() - interval '30 days') AS reports_this_month,
       sum(report.file_size) AS total_storage_used,
       avg(report.file_size) AS average_file_size,
       count(*) FILTER (WHERE report.status = 'completed') AS completed_reports,
       count(*) FILTER (WHERE report.status = 'failed') AS failed_reports,
       count(*) FILTER (WHERE report.status = 'generating') AS generating_reports
  FROM factory_telemetry.production_reports report;

SELECT pg_temp.ms5_adopt('factory_telemetry');

CREATE OR REPLACE TRIGGER trigger_update_report_download_count
    AFTER INSERT ON factory_telemetry.report_access_logs
    FOR EACH ROW EXECUTE FUNCTION factory_telemetry.update_report_download_count();

DROP SCHEMA ms5_shape;
