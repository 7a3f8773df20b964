//! Background jobs on tables that a migration changes: unscheduled meanwhile, and given back, also after a kill.
//!
//! The intent is committed together with the change, in public.migration_paused_jobs; whoever holds the run's lock next
//! finds it there and gives the jobs back.

use postgres::error::SqlState;

use super::Version;
use crate::db::client::Client;

use crate::db::server_error::reasons;

type SqlResult<T> = Result<T, postgres::Error>;

/// Unschedules the jobs of `tables` (as SQL text), or of all hypertables where None: the policies of the table itself
/// and of continuous aggregates over it. Gives the names of those that were running by schedule until now.
///
/// A job that cannot be unscheduled, as it is another role's, is a WARN: the file then waits for it as for any other
/// session.
///
/// # Errors
/// The client's, where the jobs cannot be read.
pub fn pause(client: &mut Client, tables: Option<&[String]>, run_id: &str) -> SqlResult<Vec<String>> {
    let rows = client.query(
        "SELECT DISTINCT j.job_id, j.application_name,
                (SELECT quote_ident(n.nspname) FROM pg_catalog.pg_extension e
                 JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'timescaledb')
         FROM timescaledb_information.jobs j
         LEFT JOIN timescaledb_information.continuous_aggregates c
             ON (j.hypertable_schema, j.hypertable_name) IN
                ((c.materialization_hypertable_schema, c.materialization_hypertable_name), (c.view_schema, c.view_name))
         WHERE j.scheduled AND j.hypertable_name IS NOT NULL
           AND ($1::text[] IS NULL OR EXISTS (
                SELECT FROM unnest($1) t WHERE to_regclass(t) IN (
                    to_regclass(format('%I.%I', j.hypertable_schema, j.hypertable_name)),
                    to_regclass(quote_ident(c.hypertable_schema) || '.' || quote_ident(c.hypertable_name)),
                    to_regclass(quote_ident(c.view_schema) || '.' || quote_ident(c.view_name)))))
         ORDER BY j.job_id",
        &[&tables],
    )?;
    let mut paused = Vec::new();
    for row in rows {
        let (id, job, schema): (i32, String, String) = (row.get(0), row.get(1), row.get(2));
        let result = client.transaction("").and_then(|mut transaction| {
            transaction.execute(
                "INSERT INTO public.migration_paused_jobs (job_id, job, run_id) VALUES ($1, $2, $3)
                 ON CONFLICT (job_id) DO NOTHING",
                &[&id, &job, &run_id],
            )?;
            schedule(&mut transaction, &schema, id, false)?;
            transaction.commit()
        });
        match result {
            Ok(()) => paused.push(job),
            Err(error) => {
                log::warn!("cannot pause the background job {job}: {}; going on", reasons(&error).join("; "));
            }
        }
    }
    Ok(paused)
}

/// Lets a job run by schedule or not; `schema` is that of TimescaleDB's functions. alter_job() forgets the time zone that is not
/// given along; before 2.12 it takes none, and forgets none.
fn schedule(client: &mut Client, schema: &str, id: i32, run: bool) -> SqlResult<()> {
    let row = client.query_typed_one(
        "SELECT coalesce(to_regclass('_timescaledb_catalog.bgw_job'), to_regclass('_timescaledb_config.bgw_job'))::text,
                (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'timescaledb')",
        &[],
    )?;
    let (table, version): (String, String) = (row.get(0), row.get(1));
    let zone = if Version::parse(&version).is_some_and(|version| version >= Version::JOB_TIMEZONE) {
        format!(", timezone => (SELECT timezone FROM {table} WHERE id = $1)")
    } else {
        String::new()
    };
    client.execute(&format!("SELECT {schema}.alter_job($1, scheduled => {run}{zone})"), &[&id])?;
    Ok(())
}

/// Schedules again what [`pause`] of a run has unscheduled, or of any run where None; a job that is gone by now is forgotten.
/// Gives the names of the jobs that run again.
///
/// # Errors
/// The client's; what could not be given back stays on record for the next run.
pub fn give_back(client: &mut Client, run_id: Option<&str>) -> SqlResult<Vec<String>> {
    let paused = client.query(
        "SELECT job_id, job FROM public.migration_paused_jobs WHERE $1::text IS NULL OR run_id = $1 ORDER BY job_id",
        &[&run_id],
    )?;
    let mut given = Vec::new();
    for row in paused {
        let (id, job): (i32, String) = (row.get(0), row.get(1));
        let mut transaction = client.transaction("")?;
        transaction.execute("DELETE FROM public.migration_paused_jobs WHERE job_id = $1", &[&id])?;
        let schema = transaction.query_opt(
            "SELECT quote_ident(n.nspname) FROM pg_catalog.pg_extension e
             JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
             WHERE e.extname = 'timescaledb'
               AND EXISTS (SELECT FROM timescaledb_information.jobs WHERE job_id = $1)",
            &[&id],
        );
        // Without the extension, or without its view, there is no job either.
        let schema = match schema {
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => {
                drop(transaction);
                client.execute("DELETE FROM public.migration_paused_jobs WHERE job_id = $1", &[&id])?;
                continue;
            }
            other => other?,
        };
        if let Some(schema) = schema {
            let schema: String = schema.get(0);
            schedule(&mut transaction, &schema, id, true)?;
            given.push(job);
        }
        transaction.commit()?;
    }
    Ok(given)
}

/// The jobs that an earlier run has paused and not given back.
///
/// # Errors
/// The client's.
pub fn paused(client: &mut Client) -> SqlResult<Vec<String>> {
    let rows = client.query("SELECT job FROM public.migration_paused_jobs ORDER BY job_id", &[])?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
