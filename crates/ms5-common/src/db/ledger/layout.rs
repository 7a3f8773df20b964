//! The ledger's tables: which layout a database has, and how it is brought up to date.

use crate::db::client::Client;

use super::SqlResult;

/// The layout that this version writes, noted as the comment of migration_attempts.
const LAYOUT: &str = "ledger of the MS5.0 migration tools, layout 2";

/// Creates what is missing and adds what an older ledger lacks. Each step is a no-op on a current ledger.
const ENSURE: &str = "
CREATE TABLE IF NOT EXISTS public.migration_log (
    id serial PRIMARY KEY,
    migration_name varchar(255) UNIQUE NOT NULL,
    migration_file varchar(255) NOT NULL,
    applied_at timestamptz DEFAULT now(),
    applied_by varchar(255) DEFAULT current_user,
    execution_time_ms integer,
    success boolean NOT NULL DEFAULT true,
    error_message text,
    checksum varchar(64)
);
CREATE TABLE IF NOT EXISTS public.migration_attempts (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    migration_name varchar(255) NOT NULL,
    migration_file varchar(255) NOT NULL,
    run_id text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz,
    outcome text NOT NULL DEFAULT 'running',
    sqlstate varchar(5),
    message text,
    checksum varchar(64) NOT NULL,
    tool_version text NOT NULL,
    host text NOT NULL,
    applied_by varchar(255) NOT NULL DEFAULT current_user,
    replaced jsonb
);
ALTER TABLE public.migration_attempts
    ADD COLUMN IF NOT EXISTS backend_pid integer,
    ADD COLUMN IF NOT EXISTS backend_start timestamptz,
    ADD COLUMN IF NOT EXISTS continues bigint,
    DROP CONSTRAINT IF EXISTS migration_attempts_outcome_check,
    ADD CONSTRAINT migration_attempts_outcome_check
        CHECK (outcome IN ('running', 'applied', 'failed', 'interrupted', 'adopted', 'repaired'));
COMMENT ON COLUMN public.migration_attempts.replaced IS
    'the row of migration_log that this attempt replaced, as it was';
COMMENT ON COLUMN public.migration_attempts.backend_start IS
    'with backend_pid: the session that worked on it, to tell whether it still does';
COMMENT ON COLUMN public.migration_attempts.continues IS
    'the first attempt of a file that runs statement by statement, whose steps this one goes on with';
CREATE INDEX IF NOT EXISTS migration_attempts_name_idx ON public.migration_attempts (migration_name);
ALTER TABLE public.migration_log
    ADD COLUMN IF NOT EXISTS applied_at timestamptz DEFAULT now(),
    ADD COLUMN IF NOT EXISTS applied_by varchar(255) DEFAULT current_user,
    ADD COLUMN IF NOT EXISTS execution_time_ms integer,
    ADD COLUMN IF NOT EXISTS success boolean NOT NULL DEFAULT true,
    ADD COLUMN IF NOT EXISTS error_message text,
    ADD COLUMN IF NOT EXISTS checksum varchar(64),
    ADD COLUMN IF NOT EXISTS attempt_id bigint;
CREATE TABLE IF NOT EXISTS public.migration_steps (
    series bigint NOT NULL,
    step integer NOT NULL,
    attempt_id bigint NOT NULL,
    checksum varchar(64) NOT NULL,
    started_at timestamptz NOT NULL,
    done_at timestamptz,
    failed_at timestamptz,
    before text[],
    PRIMARY KEY (series, step)
);
COMMENT ON COLUMN public.migration_steps.failed_at IS
    'the server has said that it failed; where this is not set either, nobody knows how far it came';
COMMENT ON TABLE public.migration_steps IS
    'statements of files that run statement by statement; series is the first attempt at the file';
COMMENT ON COLUMN public.migration_steps.before IS
    'for CREATE INDEX outside a transaction: the indexes that the table had before';
CREATE TABLE IF NOT EXISTS public.migration_texts (
    checksum varchar(64) PRIMARY KEY,
    statements text[] NOT NULL
);
COMMENT ON TABLE public.migration_texts IS
    'the statements of applied files, for --repair to show what a changed file changes';
CREATE TABLE IF NOT EXISTS public.migration_paused_jobs (
    job_id integer PRIMARY KEY,
    job text NOT NULL,
    run_id text NOT NULL,
    paused_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE public.migration_paused_jobs IS
    'background jobs that a run has unscheduled; the next run of any tool gives them back';
";

/// What stands in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No ledger at all.
    Absent,
    /// The old scripts' ledger, without our columns and tables.
    Old,
    /// A ledger of an earlier version of this tool: attempts are there, later tables are not.
    Earlier,
    /// A ledger of this version.
    Current,
}

/// Looks which ledger there is, without touching anything.
///
/// # Errors
/// The client's.
pub fn state(client: &mut Client) -> SqlResult<State> {
    let row = client.query_one(
        "SELECT to_regclass('public.migration_log') IS NOT NULL,
                to_regclass('public.migration_attempts') IS NOT NULL AND EXISTS (
                    SELECT FROM pg_catalog.pg_attribute
                    WHERE attrelid = to_regclass('public.migration_log') AND attname = 'attempt_id'
                      AND NOT attisdropped),
                pg_catalog.obj_description(to_regclass('public.migration_attempts'), 'pg_class')",
        &[],
    )?;
    Ok(match (row.get(0), row.get(1), row.get::<_, Option<&str>>(2)) {
        (false, ..) => State::Absent,
        (true, false, _) => State::Old,
        (true, true, Some(LAYOUT)) => State::Current,
        (true, true, _) => State::Earlier,
    })
}

/// Makes the ledger current, in one transaction.
///
/// # Errors
/// The client's.
pub fn ensure(client: &mut Client) -> SqlResult<()> {
    let mut transaction = client.transaction("")?;
    transaction.batch_execute(ENSURE)?;
    transaction.batch_execute(&format!("COMMENT ON TABLE public.migration_attempts IS '{LAYOUT}'"))?;
    transaction.commit()
}
