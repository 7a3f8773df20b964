//! Policies and other jobs, made anew without being scheduled: a policy of retention deletes at once.

use ms5_common::timescale::definition::Job;
use serde_json::Value;

use crate::sqltext::{literal, quoted_block};

/// What a policy is made by.
struct Policy {
    /// The procedure that its job runs.
    procedure: &'static str,
    function: &'static str,
    /// Keys of its configuration, and the argument that each is given as; anything else goes into the configuration.
    arguments: &'static [(&'static str, &'static str)],
    /// Whether the function takes the schedule too.
    scheduled: bool,
}

const POLICIES: [Policy; 4] = [
    Policy {
        procedure: "policy_compression",
        function: "add_compression_policy",
        arguments: &[
            ("compress_after", "compress_after"),
            ("compress_created_before", "compress_created_before"),
        ],
        scheduled: false,
    },
    Policy {
        procedure: "policy_retention",
        function: "add_retention_policy",
        arguments: &[("drop_after", "drop_after"), ("drop_created_before", "drop_created_before")],
        scheduled: false,
    },
    Policy {
        procedure: "policy_reorder",
        function: "add_reorder_policy",
        arguments: &[("index_name", "index_name")],
        scheduled: false,
    },
    Policy {
        procedure: "policy_refresh_continuous_aggregate",
        function: "add_continuous_aggregate_policy",
        arguments: &[("start_offset", "start_offset"), ("end_offset", "end_offset")],
        scheduled: true,
    },
];

fn policy(job: &Job) -> Option<&'static Policy> {
    let theirs = job.schema.starts_with("_timescaledb_");
    POLICIES.iter().find(|policy| theirs && policy.procedure == job.procedure)
}

/// The jobs that cannot be made anew, in words: TimescaleDB has functions of its own that this tool does not know.
pub(crate) fn unknown(jobs: &[Job]) -> Vec<String> {
    jobs.iter()
        .filter(|job| job.schema.starts_with("_timescaledb_") && policy(job).is_none())
        .map(|job| format!("the job {} ({}.{})", job.id, job.schema, job.procedure))
        .collect()
}

/// A block for each job; `schema` is that of TimescaleDB's functions, as SQL.
pub(crate) fn jobs(schema: &str, jobs: &[Job]) -> Vec<String> {
    jobs.iter().map(|job| block(schema, job)).collect()
}

fn block(schema: &str, job: &Job) -> String {
    let config: Value =
        job.config.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null);
    let mut arguments = Vec::new();
    let mut named = |key: &str, value: Option<String>| {
        arguments.extend(value.map(|value| format!("{key} => {value}")));
    };
    let interval = format!("{}::interval", literal(&job.schedule_interval));
    let start = job.initial_start.as_deref().filter(|_| job.fixed_schedule);
    let function = match policy(job) {
        Some(policy) => {
            for (key, argument) in policy.arguments {
                // An offset that is missing or null has no end.
                let value = match config.get(key) {
                    Some(Value::String(text)) if *key == "index_name" => Some(literal(text)),
                    Some(Value::String(text)) => Some(format!("{}::interval", literal(text))),
                    Some(Value::Number(number)) => Some(format!("{number}::bigint")),
                    _ => policy.scheduled.then(|| "NULL::interval".to_owned()),
                };
                named(argument, value);
            }
            if policy.scheduled {
                named("schedule_interval", Some(interval.clone()));
            }
            policy.function
        }
        None => {
            named("schedule_interval", Some(interval.clone()));
            named("config", job.config.as_deref().map(|text| format!("{}::jsonb", literal(text))));
            named("scheduled", Some("false".to_owned()));
            named("check_config", job.check.as_deref().map(|name| format!("{}::regproc", literal(name))));
            named("fixed_schedule", Some(job.fixed_schedule.to_string()));
            // Older versions know no names of jobs, and have none to bring along.
            named("job_name", Some(literal(&job.label)).filter(|_| job.label != "User-Defined Action"));
            "add_job"
        }
    };
    named("initial_start", start.map(literal));
    let timezone = job.timezone.as_deref().map(literal);
    named("timezone", timezone.clone());
    let subject = match &job.on {
        Some(relation) if policy(job).is_some() => literal(relation),
        _ => procedure(job),
    };
    arguments.insert(0, subject);
    let config = match (policy(job), &job.config) {
        (Some(_), Some(text)) => format!(
            ",\n        config => (SELECT config FROM timescaledb_information.jobs WHERE job_id = made) || {}::jsonb",
            literal(text)
        ),
        _ => String::new(),
    };
    quoted_block_with(
        "made integer;",
        &format!(
            "    made := {schema}.{function}({});
    PERFORM {schema}.alter_job(made, scheduled => false, schedule_interval => {interval}, max_runtime => {}::interval,
        max_retries => {}, retry_period => {}::interval{}{config});\n",
            arguments.join(", "),
            literal(&job.max_runtime),
            job.max_retries,
            literal(&job.retry_period),
            // It forgets the time zone that is not given along.
            timezone.map(|zone| format!(", timezone => {zone}")).unwrap_or_default(),
        ),
        // Who makes a policy is not asked: it is the table's owner's.
        policy(job).is_none().then_some(job.owner.as_str()),
    )
}

/// The procedure of a job, whose arguments are always these: there may be others of its name.
fn procedure(job: &Job) -> String {
    let name = format!("{}(integer, jsonb)", super::name(&job.schema, &job.procedure));
    format!("{}::regprocedure::oid::regproc", literal(&name))
}

/// A block that runs as a role: who makes a job owns it.
fn quoted_block_with(variable: &str, lines: &str, owner: Option<&str>) -> String {
    let role = owner.map(|owner| format!(
        "    IF pg_catalog.quote_ident(current_user) <> {} THEN\n        SET LOCAL ROLE {owner};\n    END IF;\n",
        literal(owner)
    ));
    let block = match role {
        Some(role) => quoted_block(&format!("{role}{lines}    RESET ROLE;\n")),
        None => quoted_block(lines),
    };
    block.replacen("\nBEGIN\n", &format!("\nDECLARE\n    {variable}\nBEGIN\n"), 1)
}

/// The statement that lets those jobs run that did, of all that there are by then or of those on one relation; None where none
/// did.
pub(crate) fn start(schema: &str, jobs: &[Job], on: Option<&str>) -> Option<String> {
    // They were made in this order, and nothing else tells two of one procedure apart.
    let run: Vec<String> = jobs
        .iter()
        .enumerate()
        .filter(|(_, job)| job.scheduled)
        .map(|(place, job)| {
            // alter_job() forgets the time zone that is not given along.
            let zone = job.timezone.as_deref().map_or_else(|| "NULL".to_owned(), literal);
            format!("({}, {}, {zone})", place + 1, literal(&job.procedure))
        })
        .collect();
    if run.is_empty() {
        return None;
    }
    let zone = if jobs.iter().any(|job| job.scheduled && job.timezone.is_some()) {
        ", timezone => w.zone::text"
    } else {
        ""
    };
    let only = on.map_or_else(String::new, |relation| {
        let relation = literal(relation);
        format!(" AND format('%I.%I', hypertable_schema, hypertable_name)::regclass = {relation}::regclass")
    });
    Some(format!(
        "SELECT {schema}.alter_job(j.job_id, scheduled => true{zone}) FROM (SELECT job_id, proc_name, row_number() OVER (ORDER BY job_id) AS place FROM timescaledb_information.jobs WHERE job_id >= 1000{only}) j JOIN (VALUES {}) w (place, proc, zone) ON w.place = j.place AND w.proc = j.proc_name;",
        run.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(procedure: &str, config: &str) -> Job {
        Job {
            id: 1000,
            label: "User-Defined Action".into(),
            schema: "_timescaledb_functions".into(),
            procedure: procedure.into(),
            on: Some("f.m".into()),
            schedule_interval: "1 day".into(),
            max_runtime: "00:00:00".into(),
            max_retries: -1,
            retry_period: "00:05:00".into(),
            owner: "\"O\"".into(),
            scheduled: true,
            config: Some(config.into()),
            ..Job::default()
        }
    }

    #[test]
    fn policies_are_made_by_their_functions() {
        for (procedure, config, call) in [
            (
                "policy_retention",
                r#"{"drop_after": "7 days"}"#,
                "add_retention_policy('f.m', drop_after => '7 days'::interval)",
            ),
            (
                "policy_retention",
                r#"{"drop_after": 500}"#,
                "add_retention_policy('f.m', drop_after => 500::bigint)",
            ),
            ("policy_reorder", r#"{"index_name": "i"}"#, "add_reorder_policy('f.m', index_name => 'i')"),
            (
                "policy_refresh_continuous_aggregate",
                r#"{"start_offset": null, "end_offset": "01:00:00"}"#,
                "add_continuous_aggregate_policy('f.m', start_offset => NULL::interval, end_offset => '01:00:00'::interval, \
                 schedule_interval => '1 day'::interval)",
            ),
        ] {
            let text = block("public", &job(procedure, config));
            assert!(text.contains(&format!("made := public.{call};")), "{text}");
            assert!(text.contains("scheduled => false") && !text.contains("SET LOCAL ROLE"), "{text}");
        }
        assert!(unknown(&[job("policy_retention", "{}")]).is_empty());
        assert_eq!(unknown(&[job("policy_new", "{}")]), ["the job 1000 (_timescaledb_functions.policy_new)"]);
    }

    #[test]
    fn jobs_of_users() {
        let mine = Job {
            schema: "f".into(),
            on: None,
            label: "nightly".into(),
            initial_start: Some("2030-01-01 00:00:00+00".into()),
            fixed_schedule: true,
            timezone: Some("Europe/Berlin".into()),
            ..job("it's", "{}")
        };
        let text = block("public", &mine);
        for piece in [
            "add_job('\"f\".\"it''s\"(integer, jsonb)'::regprocedure::oid::regproc, ",
            "job_name => 'nightly'",
            ", timezone => 'Europe/Berlin');",
            "initial_start => '2030",
            "SET LOCAL ROLE \"O\"",
        ] {
            assert!(text.contains(piece), "{text}");
        }
        let quiet = Job { scheduled: false, timezone: None, ..mine.clone() };
        assert_eq!(start("public", std::slice::from_ref(&quiet), None), None);
        let plain = Job { timezone: None, ..mine.clone() };
        let text = start("public", &[quiet, mine, plain.clone()], Some("f.m")).unwrap();
        assert!(
            text.contains(
                "1000 AND format('%I.%I', hypertable_schema, hypertable_name)::regclass = 'f.m'::regclass"
            ),
            "{text}"
        );
        assert!(text.contains("VALUES (2, 'it''s', 'Europe/Berlin'), (3, 'it''s', NULL)) w"), "{text}");
        assert!(text.contains("timezone => w.zone"), "{text}");
        assert!(!start("public", &[plain], None).unwrap().contains("timezone"));
    }
}
