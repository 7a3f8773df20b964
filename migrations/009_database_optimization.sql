-- 009 - Database Optimization
-- ms5: idempotent
--
-- Indexes for dashboards, materialized views, upkeep functions; and what TimescaleDB adds: roll-ups as continuous
-- aggregates, compression. The last two exist under the licence "timescale" only: under "apache" the roll-ups are plain
-- views with the same columns, and running this file again after the licence has changed replaces them.
-- field: indexes were built CONCURRENTLY (not on a hypertable, not in a transaction), some with a predicate that calls
-- now() (it has to be immutable) or over columns that no table has (context.timestamp), and none of those ever stood.
-- now: plain CREATE INDEX, and no predicates on time, since chunks outside of a query's range are left out anyway.

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
-- The shape: tables that are complete and get indexes, and the log of upkeep
-- ---------------------------------------------------------------------------------------------------------------------

CREATE TABLE ms5_shape.production_lines (LIKE factory_telemetry.production_lines INCLUDING DEFAULTS);
CREATE INDEX idx_production_lines_active ON ms5_shape.production_lines (line_code) WHERE enabled = true;
CREATE INDEX idx_production_lines_target_speed ON ms5_shape.production_lines (target_speed) WHERE enabled = true;

CREATE TABLE ms5_shape.production_schedules (LIKE factory_telemetry.production_schedules INCLUDING DEFAULTS);
CREATE INDEX idx_production_schedules_status_priority ON ms5_shape.production_schedules (status, priority)
    WHERE status IN ('scheduled', 'in_progress');
CREATE INDEX idx_production_schedules_active ON ms5_shape.production_schedules (scheduled_start, priority)
    WHERE status = 'in_progress';
CREATE INDEX idx_production_dashboard_composite ON ms5_shape.production_schedules (line_id, status, scheduled_start DESC, priority)
    WHERE status IN ('scheduled', 'in_progress');

CREATE TABLE ms5_shape.job_assignments (LIKE factory_telemetry.job_assignments INCLUDING DEFAULTS);
CREATE INDEX idx_job_assignments_schedule_status ON ms5_shape.job_assignments (schedule_id, status);
CREATE INDEX idx_job_assignments_started_at ON ms5_shape.job_assignments (started_at) WHERE started_at IS NOT NULL;
CREATE INDEX idx_job_dashboard_composite ON ms5_shape.job_assignments (user_id, status, assigned_at DESC)
    WHERE status IN ('assigned', 'accepted', 'in_progress');

CREATE TABLE ms5_shape.downtime_events (LIKE factory_telemetry.downtime_events INCLUDING DEFAULTS);
CREATE INDEX idx_downtime_events_line_category ON ms5_shape.downtime_events (line_id, category, start_time DESC);
CREATE INDEX idx_downtime_events_equipment_active ON ms5_shape.downtime_events (equipment_code, start_time DESC)
    WHERE end_time IS NULL;
CREATE INDEX idx_downtime_events_duration ON ms5_shape.downtime_events (duration_seconds) WHERE duration_seconds > 300;
CREATE INDEX idx_downtime_events_long ON ms5_shape.downtime_events (line_id, start_time DESC)
    WHERE duration_seconds > 1800;

CREATE TABLE ms5_shape.andon_events (LIKE factory_telemetry.andon_events INCLUDING DEFAULTS);
CREATE INDEX idx_andon_events_priority_active ON ms5_shape.andon_events (priority, reported_at DESC)
    WHERE status IN ('open', 'acknowledged');
CREATE INDEX idx_andon_events_equipment_active ON ms5_shape.andon_events (equipment_code, status, reported_at DESC)
    WHERE status IN ('open', 'acknowledged');
CREATE INDEX idx_andon_events_high_priority ON ms5_shape.andon_events (reported_at DESC, line_id)
    WHERE priority IN ('high', 'critical') AND status IN ('open', 'acknowledged');

CREATE TABLE ms5_shape.quality_checks (LIKE factory_telemetry.quality_checks INCLUDING DEFAULTS);
CREATE INDEX idx_quality_checks_line_result ON ms5_shape.quality_checks (line_id, check_result, check_time DESC);
CREATE INDEX idx_quality_checks_product_result ON ms5_shape.quality_checks (product_type_id, check_result, check_time DESC)
   ;
CREATE INDEX idx_quality_checks_defect_codes ON ms5_shape.quality_checks USING gin (defect_codes)
    WHERE check_result = 'fail';

CREATE TABLE ms5_shape.production_reports (LIKE factory_telemetry.production_reports INCLUDING DEFAULTS);
CREATE INDEX idx_production_reports_date_line ON ms5_shape.production_reports (report_date DESC, line_id);
CREATE INDEX idx_production_reports_oee_range ON ms5_shape.production_reports (oee_average) WHERE oee_average < 0.8;

CREATE TABLE ms5_shape.equipment_config (LIKE factory_telemetry.equipment_config INCLUDING DEFAULTS);
CREATE INDEX idx_equipment_config_line_enabled ON ms5_shape.equipment_config (production_line_id, enabled)
    WHERE enabled = true;
CREATE INDEX idx_equipment_config_target_speed ON ms5_shape.equipment_config (target_speed) WHERE enabled = true;

-- When upkeep ran and how it ended.
CREATE TABLE ms5_shape.maintenance_log (
    id                uuid         PRIMARY KEY DEFAULT gen_random_uuid(),
    maintenance_type  text         NOT NULL,
    started_at        timestamptz  NOT NULL,
    completed_at      timestamptz,
    status            text         NOT NULL DEFAULT 'running',
    notes             text,
    created_at        timestamptz  DEFAULT now()
);
CREATE INDEX idx_maintenance_log_type_date ON ms5_shape.maintenance_log (maintenance_type, started_at DESC);

SELECT pg_temp.ms5_tables();
SELECT pg_temp.ms5_keys();

-- ---------------------------------------------------------------------------------------------------------------------
-- Materialized views: a dashboard's page in one read, as of the last refresh. One that is right is not built again.
-- ---------------------------------------------------------------------------------------------------------------------

CREATE MATERIALIZED VIEW ms5_shape.mv_production_dashboard AS
SELECT line.id AS line_id,
       line.line_code,
       line.name AS line_name,
       line.target_speed,
       schedule.id AS schedule_id,
       schedule.status AS schedule_status,
       schedule.priority,
       schedule.scheduled_start,
       schedule.scheduled_end,
       schedule.target_quantity,
       product.product_code,
       product.name AS product_name,
       job.id AS job_id,
       job.status AS job_status,
       person.username,
       person.first_name,
       person.last_name,
       job.assigned_at,
       job.accepted_at,
       job.started_at,
       job.completed_at,
       newest.oee AS current_oee,
       newest.availability AS current_availability,
       newest.performance AS current_performance,
       newest.quality AS current_quality
  FROM factory_telemetry.production_lines line
  LEFT JOIN factory_telemetry.production_schedules schedule
         ON schedule.line_id = line.id AND schedule.status IN ('scheduled', 'in_progress')
  LEFT JOIN factory_telemetry.product_types product ON product.id = schedule.product_type_id
  LEFT JOIN factory_telemetry.job_assignments job
         ON job.schedule_id = schedule.id AND job.status IN ('assigned', 'accepted', 'in_progress')
  LEFT JOIN factory_telemetry.users person ON person.id = job.user_id
  LEFT JOIN LATERAL (SELECT calculation.oee, calculation.availability, calculation.performance, calculation.quality
                       FROM factory_telemetry.oee_calculations calculation
                      WHERE calculation.line_id = line.id
                      ORDER BY calculation.calculation_time DESC
                      LIMIT 1) AS newest ON true
 WHERE line.enabled
  WITH NO DATA;
CREATE INDEX idx_mv_production_dashboard_line ON ms5_shape.mv_production_dashboard (line_id);
CREATE INDEX idx_mv_production_dashboard_status ON ms5_shape.mv_production_dashboard (schedule_status, job_status);

CREATE MATERIALIZED VIEW ms5_shape.mv_downtime_summary AS
SELECT event.line_id,
       line.line_code,
       line.name AS line_name,
       event.equipment_code,
       event.category,
       count(*) AS event_count,
       sum(event.duration_seconds) AS total_duration_seconds,
       avg(event.duration_seconds) AS avg_duration_seconds,
       min(event.start_time) AS first_event,
       max(event.start_time) AS last_event
  FROM factory_telemetry.downtime_events event
  JOIN factory_telemetry.production_lines line ON line.id = event.line_id
 WHERE event.start_time > now() - interval '30 days'
 GROUP BY event.line_id, line.line_code, line.name, event.equipment_code, event.category
  WITH NO DATA;
CREATE INDEX idx_mv_downtime_summary_line ON ms5_shape.mv_downtime_summary (line_id, category);

CREATE MATERIALIZED VIEW ms5_shape.mv_oee_summary AS
SELECT calculation.line_id,
       line.line_code,
       line.name AS line_name,
       date(calculation.calculation_time) AS calculation_date,
       avg(calculation.oee) AS avg_oee,
       avg(calculation.availability) AS avg_availability,
       avg(calculation.performance) AS avg_performance,
       avg(calculation.quality) AS avg_quality,
       count(*) AS calculation_count
  FROM factory_telemetry.oee_calculations calculation
  JOIN factory_telemetry.production_lines line ON line.id = calculation.line_id
 WHERE calculation.calculation_time > now() - interval '30 days'
 GROUP BY calculation.line_id, line.line_code, line.name, date(calculation.calculation_time)
  WITH NO DATA;
CREATE INDEX idx_mv_oee_summary_line_date ON ms5_shape.mv_oee_summary (line_id, calculation_date DESC);

-- ---------------------------------------------------------------------------------------------------------------------
-- Functions for dashboards
-- ---------------------------------------------------------------------------------------------------------------------

-- A line over the last hours. Output and downtime are of the days that these hours touch.
-- field: the key figures of a day were added up once for every OEE calculation of that day.
-- now: once.
CREATE FUNCTION ms5_shape.get_line_performance_summary(p_line_id uuid, p_hours integer DEFAULT 24)
RETURNS TABLE (line_id uuid, avg_oee real, total_production integer, total_downtime_minutes integer,
               availability real, performance real, quality real)
LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY
    SELECT p_line_id, calculation.oee, kpi.total_production, kpi.total_downtime_minutes,
           calculation.availability, calculation.performance, calculation.quality
      FROM (SELECT avg(o.oee)::real AS oee, avg(o.availability)::real AS availability,
                   avg(o.performance)::real AS performance, avg(o.quality)::real AS quality
              FROM factory_telemetry.oee_calculations o
             WHERE o.line_id = p_line_id
               AND o.calculation_time > now() - make_interval(hours => p_hours)) AS calculation,
           (SELECT COALESCE(sum(k.total_production), 0)::integer AS total_production,
                   COALESCE(sum(k.total_downtime_minutes), 0)::integer AS total_downtime_minutes
              FROM factory_telemetry.production_kpis k
             WHERE k.line_id = p_line_id
               AND k.kpi_date >= date(now() - make_interval(hours => p_hours))) AS kpi;
END;
$$;

-- field: round(double precision, integer) does not exist. now: round(numeric, integer).
CREATE FUNCTION ms5_shape.get_equipment_downtime_summary(p_equipment_code text, p_days integer DEFAULT 7)
RETURNS TABLE (equipment_code text, total_downtime_minutes integer, planned_downtime_minutes integer,
               unplanned_downtime_minutes integer, avg_downtime_duration_minutes real, downtime_events_count integer)
LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY
    SELECT p_equipment_code,
           COALESCE(sum(event.duration_seconds / 60), 0)::integer,
           COALESCE(sum(event.duration_seconds / 60) FILTER (WHERE event.category = 'planned'), 0)::integer,
           COALESCE(sum(event.duration_seconds / 60) FILTER (WHERE event.category = 'unplanned'), 0)::integer,
           round(avg(event.duration_seconds) / 60, 2)::real,
           count(*)::integer
      FROM factory_telemetry.downtime_events event
     WHERE event.equipment_code = p_equipment_code AND event.start_time > now() - make_interval(days => p_days);
END;
$$;

CREATE FUNCTION ms5_shape.get_production_efficiency_metrics(p_line_id uuid, p_days integer DEFAULT 7)
RETURNS TABLE (line_id uuid, total_scheduled_hours real, actual_production_hours real, efficiency_percentage real,
               target_vs_actual_percentage real)
LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY
    SELECT p_line_id, (p_days * 24)::real, calculation.hours, calculation.percentage, calculation.percentage
      FROM (SELECT COALESCE(sum(o.actual_production_time) / 3600.0, 0)::real AS hours,
                   CASE WHEN max(line.target_speed) > 0 THEN (avg(o.performance) * 100)::real ELSE 0 END AS percentage
              FROM factory_telemetry.oee_calculations o
              JOIN factory_telemetry.production_lines line ON line.id = o.line_id
             WHERE o.line_id = p_line_id AND o.calculation_time > now() - make_interval(days => p_days)) AS calculation;
END;
$$;

-- ---------------------------------------------------------------------------------------------------------------------
-- Functions for upkeep
-- ---------------------------------------------------------------------------------------------------------------------

-- field: CONCURRENTLY, which wants a unique index that none of the three has.
-- now: a plain refresh; a reader waits for the moment it takes.
CREATE FUNCTION ms5_shape.refresh_materialized_views() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    REFRESH MATERIALIZED VIEW factory_telemetry.mv_production_dashboard;
    REFRESH MATERIALIZED VIEW factory_telemetry.mv_downtime_summary;
    REFRESH MATERIALIZED VIEW factory_telemetry.mv_oee_summary;
    RAISE NOTICE 'materialized views refreshed';
END;
$$;

-- field: read pg_stat_statements, which need not be there, and pg_stat_user_indexes.indexname, which does not exist.
-- now: statistics only, of every table of the schema.
CREATE FUNCTION ms5_shape.update_table_statistics() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    table_name text;
BEGIN
    FOR table_name IN
        SELECT tablename FROM pg_catalog.pg_tables WHERE schemaname = 'factory_telemetry' ORDER BY tablename
    LOOP
        EXECUTE format('ANALYZE factory_telemetry.%I', table_name);
    END LOOP;
    RAISE NOTICE 'statistics updated';
END;
$$;

-- field: VACUUM, which cannot run inside a function.
-- now: statistics, and a NOTICE for each table whose dead rows autovacuum has left lying.
CREATE FUNCTION ms5_shape.maintain_tables() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    untidy record;
BEGIN
    PERFORM factory_telemetry.update_table_statistics();
    FOR untidy IN
        SELECT relname, n_dead_tup FROM pg_catalog.pg_stat_user_tables
         WHERE schemaname = 'factory_telemetry' AND n_dead_tup > 10000 AND n_dead_tup > n_live_tup / 5
    LOOP
        RAISE NOTICE '% has % dead rows: VACUUM factory_telemetry.%;',
            untidy.relname, untidy.n_dead_tup, untidy.relname;
    END LOOP;
END;
$$;

-- field: ALTER SYSTEM, which cannot run inside a function, with values that fit no particular server.
-- now: says what is set and what the documentation of PostgreSQL starts from; changes nothing.
CREATE FUNCTION ms5_shape.configure_connection_pooling() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE NOTICE 'max_connections is % and shared_buffers is %: put a pooler in front rather than raise the first, and'
        ' give the second a quarter of the machine''s memory. Both are set in postgresql.conf and need a restart.',
        current_setting('max_connections'), current_setting('shared_buffers');
END;
$$;

-- field: both functions it calls failed, and the log said one minute whatever it took.
CREATE FUNCTION ms5_shape.daily_maintenance() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    started timestamptz := clock_timestamp();
BEGIN
    PERFORM factory_telemetry.update_table_statistics();
    PERFORM factory_telemetry.refresh_materialized_views();
    INSERT INTO factory_telemetry.maintenance_log (maintenance_type, started_at, completed_at, status, notes)
    VALUES ('daily_maintenance', started, clock_timestamp(), 'completed', 'Statistics and materialized views');
END;
$$;

SELECT pg_temp.ms5_adopt('factory_telemetry');

-- ---------------------------------------------------------------------------------------------------------------------
-- Roll-ups: what dashboards draw over weeks and months. Buckets begin at full hours and days in UTC.
-- ---------------------------------------------------------------------------------------------------------------------

CREATE VIEW ms5_shape.oee_hourly AS
SELECT time_bucket(INTERVAL '1 hour', calculation_time) AS bucket,
       line_id,
       equipment_code,
       count(*) AS calculations,
       avg(oee) AS avg_oee,
       min(oee) AS min_oee,
       max(oee) AS max_oee,
       avg(availability) AS avg_availability,
       avg(performance) AS avg_performance,
       avg(quality) AS avg_quality,
       sum(good_parts) AS good_parts,
       sum(total_parts) AS total_parts
  FROM factory_telemetry.oee_calculations
 GROUP BY 1, line_id, equipment_code;

CREATE VIEW ms5_shape.oee_daily AS
SELECT time_bucket(INTERVAL '1 day', calculation_time) AS bucket,
       line_id,
       equipment_code,
       count(*) AS calculations,
       avg(oee) AS avg_oee,
       min(oee) AS min_oee,
       max(oee) AS max_oee,
       avg(availability) AS avg_availability,
       avg(performance) AS avg_performance,
       avg(quality) AS avg_quality,
       sum(good_parts) AS good_parts,
       sum(total_parts) AS total_parts
  FROM factory_telemetry.oee_calculations
 GROUP BY 1, line_id, equipment_code;

CREATE VIEW ms5_shape.kpi_daily AS
SELECT time_bucket(INTERVAL '1 day', created_at) AS bucket,
       line_id,
       shift_id,
       count(*) AS kpis,
       avg(oee) AS avg_oee,
       avg(availability) AS avg_availability,
       avg(performance) AS avg_performance,
       avg(quality) AS avg_quality,
       sum(total_production) AS total_production,
       sum(good_parts) AS good_parts,
       sum(scrap_parts) AS scrap_parts,
       sum(rework_parts) AS rework_parts,
       sum(total_downtime_minutes) AS total_downtime_minutes,
       sum(unplanned_downtime_minutes) AS unplanned_downtime_minutes,
       sum(energy_consumption_kwh) AS energy_consumption_kwh
  FROM factory_telemetry.production_kpis
 GROUP BY 1, line_id, shift_id;

-- Makes the three above continuous aggregates where the licence allows it.
-- materialized_only = false: what is not materialized yet is computed on reading, so nothing is missing before the
-- first refresh, nor in the current hour. WITH NO DATA: filling cannot run in a transaction; the policies do it.
DO $$
DECLARE
    licensed boolean := current_setting('timescaledb.license', true) IS NOT DISTINCT FROM 'timescale';
    rollup record;
    live regclass;
    dependents text;
    grants text[];
    sql text;
BEGIN
    FOR rollup IN
        SELECT c.oid::regclass AS shape, relname AS name, pg_get_viewdef(c.oid) AS def,
               array_agg(format('%I %s', attname, format_type(atttypid, atttypmod)) ORDER BY attnum) AS columns
          FROM pg_class c JOIN pg_attribute ON attrelid = c.oid AND attnum > 0
         WHERE relnamespace = 'ms5_shape'::regnamespace
         GROUP BY c.oid ORDER BY c.oid
    LOOP
        live := to_regclass(format('factory_telemetry.%I', rollup.name));
        IF EXISTS (SELECT FROM timescaledb_information.continuous_aggregates
                    WHERE view_schema = 'factory_telemetry' AND view_name = rollup.name) THEN
            IF rollup.columns <> (SELECT array_agg(format('%I %s', attname, format_type(atttypid, atttypmod))
                                                   ORDER BY attnum)
                                    FROM pg_attribute WHERE attrelid = live AND attnum > 0) THEN
                RAISE EXCEPTION 'continuous aggregate % has other columns than it must have', live
                    USING HINT = 'It may hold history whose rows are gone, so it is not dropped: rename it, run again.';
            END IF;
            EXECUTE format('DROP VIEW %s', rollup.shape);
            CONTINUE;
        ELSIF NOT licensed THEN
            RAISE NOTICE '% is a plain view: continuous aggregates need the licence timescale', rollup.name;
            CONTINUE;
        END IF;
        EXECUTE format('DROP VIEW %s', rollup.shape);
        grants := '{}';
        IF live IS NOT NULL THEN
            RAISE NOTICE 'the plain view % becomes a continuous aggregate', live;
            SELECT array_agg(format('GRANT %s ON %s TO %s', privilege_type, live,
                                    CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END))
              INTO grants
              FROM pg_class, aclexplode(relacl) WHERE oid = live AND grantee <> relowner;
            BEGIN
                EXECUTE format('DROP VIEW %s', live);
            EXCEPTION WHEN dependent_objects_still_exist THEN
                GET STACKED DIAGNOSTICS dependents = PG_EXCEPTION_DETAIL;
                RAISE EXCEPTION 'view % is to become a continuous aggregate, and other objects depend on it', live
                    USING ERRCODE = 'dependent_objects_still_exist', DETAIL = dependents,
                          HINT = 'Keep their definitions, drop them, run the file again, make them again.';
            END;
        END IF;
        EXECUTE format('CREATE MATERIALIZED VIEW factory_telemetry.%I '
                       'WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS %s WITH NO DATA',
                       rollup.name, rtrim(rollup.def, '; '));
        FOREACH sql IN ARRAY COALESCE(grants, '{}') LOOP EXECUTE sql; END LOOP;
    END LOOP;

    IF NOT licensed THEN
        RETURN;
    END IF;
    -- start_offset NULL: the whole history is materialized, first all of it, then what has changed. A start that moves
    -- would leave older rows out for good: below the newest materialized bucket nothing is computed on reading. For the
    -- same reason releases that materialize in batches (2.20 and later) are told to begin with the oldest.
    FOR rollup IN
        SELECT *
          FROM (VALUES
                ('oee_hourly', INTERVAL '1 hour', INTERVAL '30 minutes'),
                ('oee_daily',  INTERVAL '1 day',  INTERVAL '3 hours'),
                ('kpi_daily',  INTERVAL '1 day',  INTERVAL '3 hours')
               ) AS v (name, end_offset, every)
    LOOP
        EXECUTE format('SELECT add_continuous_aggregate_policy(''factory_telemetry.%I'', start_offset => NULL, '
                       'end_offset => %L::interval, schedule_interval => %L::interval, if_not_exists => true %s)',
                       rollup.name, rollup.end_offset, rollup.every,
                       (SELECT DISTINCT ', refresh_newest_first => false' FROM pg_proc
                         WHERE proname = 'add_continuous_aggregate_policy'
                           AND 'refresh_newest_first' = ANY (proargnames)));
    END LOOP;
END;
$$;

SELECT pg_temp.ms5_adopt('factory_telemetry');

-- ---------------------------------------------------------------------------------------------------------------------
-- Compression. No retention: nothing is deleted unless somebody asks for it.
-- ---------------------------------------------------------------------------------------------------------------------

-- segment_by is what queries ask for, and holds every foreign key column, which older releases want. order_by holds the
-- rest of the primary key. Chunks are compressed when nobody changes them any more: metrics after a week, what people
-- correct by hand later.
DO $$
DECLARE
    wanted record;
BEGIN
    IF current_setting('timescaledb.license', true) IS DISTINCT FROM 'timescale' THEN
        RAISE NOTICE 'no compression: it needs the licence timescale';
        RETURN;
    END IF;
    FOR wanted IN
        SELECT *
          FROM (VALUES
                ('metric_hist',                'metric_def_id',              'ts',               INTERVAL '7 days'),
                ('oee_calculations',           'line_id, equipment_code',    'calculation_time', INTERVAL '30 days'),
                ('energy_consumption',         'equipment_code',             'consumption_time', INTERVAL '30 days'),
                ('production_kpis',            'line_id, shift_id',          'created_at',       INTERVAL '180 days'),
                ('production_context_history', 'equipment_code, changed_by', 'changed_at',       INTERVAL '90 days')
               ) AS v (name, segment_by, time_column, after)
    LOOP
        IF (SELECT relrowsecurity FROM pg_class WHERE oid = format('factory_telemetry.%I', wanted.name)::regclass) THEN
            RAISE WARNING '% has row security, which excludes compression: it stays uncompressed', wanted.name;
            CONTINUE;
        END IF;
        IF NOT (SELECT compression_enabled FROM timescaledb_information.hypertables
                 WHERE hypertable_schema = 'factory_telemetry' AND hypertable_name = wanted.name) THEN
            EXECUTE format('ALTER TABLE factory_telemetry.%I SET (timescaledb.compress, '
                           'timescaledb.compress_segmentby = %L, timescaledb.compress_orderby = %L)',
                           wanted.name, wanted.segment_by, wanted.time_column || ' DESC, id DESC');
        END IF;
        -- It starts the night after, so that there is a day to look at what the migration did before anything else
        -- changes. A policy that is there already is the operator's, whatever its age.
        PERFORM add_compression_policy(format('factory_telemetry.%I', wanted.name)::regclass, wanted.after,
                                       if_not_exists => true,
                                       initial_start => date_trunc('day', now()) + INTERVAL '1 day 2 hours');
    END LOOP;
END;
$$;

-- ---------------------------------------------------------------------------------------------------------------------
-- Statistics of tables that have just become hypertables: autovacuum takes care of chunks, never of the whole. Here and
-- not where they were converted, because there everybody was locked out.
-- ---------------------------------------------------------------------------------------------------------------------

DO $$
DECLARE
    hypertable text;
BEGIN
    FOR hypertable IN
        SELECT hypertable_name FROM timescaledb_information.hypertables
         WHERE hypertable_schema = 'factory_telemetry'
           AND NOT EXISTS (SELECT FROM pg_stats WHERE schemaname = hypertable_schema AND tablename = hypertable_name)
    LOOP
        EXECUTE format('ANALYZE factory_telemetry.%I', hypertable);
    END LOOP;
END;
$$;

DROP SCHEMA ms5_shape;
