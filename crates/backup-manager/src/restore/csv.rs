//! Restoring type `hypertables`: CSV files into hypertables, which are made anew where they are missing, in one transaction.

use std::time::Instant;

use bytes::Bytes;
use ms5_common::check::at_most;
use ms5_common::config::Settings;
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::progress::Line;
use ms5_common::sql::{TableName, escape_literal};
use ms5_common::success;
use ms5_common::tool::Context;

use super::commit::commit;
use super::load::{copy_in, run_all};
use super::rows::{filled_in_one, open, replaces_nothing};
use super::{LOCK_TIMEOUT, compare};
use crate::archive::Reader;
use crate::args::{Options, own};
use crate::aside;
use crate::folder::Entry;
use crate::folder::hypertables::{self, Outline};
use crate::folder::metadata::{Member, More, Stage, Table};
use crate::rows::RowSum;
use crate::sessions::{self, Session, failed, stopped};
use crate::words::count;

/// The table that rows wait in while it is asked whether they are wanted.
const WAITING: &str = "pg_temp.ms5_waiting";

/// The whole restore, once the backup's files were checked.
pub(super) fn run(
    context: &Context,
    options: &Options,
    settings: &Settings,
    entry: &Entry,
    more: &More,
) -> Result<Exit> {
    let begun = Instant::now();
    replaces_nothing(options)?;
    let wanted = wanted(options, entry, more)?;
    let held = open(context, options, settings)?;
    let mut session = sessions::open(settings, "restore")?;
    let reader = super::reader(entry)?;
    let load = Load { options, more, reader: &reader };
    let rows = filled_in_one(settings, || load.all(&mut session, &wanted))?;
    commit(settings, &mut session, &held, "look whether the hypertables hold the rows", |_| Ok(()))?;
    for start in
        wanted.iter().filter(|one| one.missing(&rows)).filter_map(|one| one.outline.start_jobs.as_ref())
    {
        log::warn!("The policies that were made anew do not run. To let them run:");
        log::warn!("  {start}");
    }
    context.recorder.emit("backup", crate::list::record(entry, "restored"));
    success!(
        "✅ Restore completed: {} rows of {} hypertables are in {} ({} ms)",
        count(rows.iter().map(|one| one.rows).sum()),
        rows.len(),
        settings.connection.dbname,
        begun.elapsed().as_millis()
    );
    Ok(Exit::Done)
}

/// A hypertable that is to be restored.
struct Wanted<'a> {
    outline: Outline,
    table: &'a Table,
    number: usize,
}

impl Wanted<'_> {
    fn missing(&self, done: &[Done]) -> bool {
        done.iter().any(|one| one.number == self.number && one.made)
    }
}

/// What was done.
struct Done {
    number: usize,
    rows: u64,
    /// It was missing.
    made: bool,
}

/// The hypertables that are asked for; all where none is.
fn wanted<'a>(options: &Options, entry: &Entry, more: &'a More) -> Result<Vec<Wanted<'a>>> {
    let outlines =
        entry.text(hypertables::FILE).ok().and_then(|text| hypertables::parse(&text)).ok_or_else(|| {
            Error::new(Exit::Failed, format!("{} of {} cannot be read", hypertables::FILE, entry.name))
                .because("nothing was touched")
                .hint(format!("{own} verify {} shows whether the backup is damaged", entry.name, own = own()))
        })?;
    let mut all: Vec<Wanted<'_>> = Vec::new();
    for (number, table) in more.tables.iter().enumerate() {
        let Some(outline) = outlines.iter().find(|outline| outline.table == table.name) else {
            return Err(Error::new(
                Exit::Failed,
                format!("{} does not tell of {}", hypertables::FILE, table.name),
            )
            .because("nothing was touched"));
        };
        all.push(Wanted { outline: outline.clone(), table, number });
    }
    if options.tables.is_empty() {
        return Ok(all);
    }
    let names: Vec<String> = all.iter().map(|one| one.table.name.clone()).collect();
    let mut asked = Vec::new();
    for name in &options.tables {
        let parsed = TableName::parse(name);
        let known = |one: &&Wanted<'_>| parsed.is_some() && TableName::parse(&one.table.name) == parsed;
        match all.iter().find(known) {
            Some(one) => asked.push(one.number),
            None => {
                return Err(Error::new(Exit::Config, format!("there is no {name} in {}", entry.name))
                    .because_all(at_most(20, &names))
                    .because("nothing was touched")
                    .hint("a name is schema.table, as SQL writes it: --tables 'factory.metric,factory.\"Odd Name\"'"));
            }
        }
    }
    all.retain(|one| asked.contains(&one.number));
    Ok(all)
}

/// A restore that is going on.
struct Load<'a> {
    options: &'a Options,
    more: &'a More,
    reader: &'a Reader,
}

/// Which rows of a hypertable are wanted.
#[derive(Default)]
struct Span {
    /// What stands behind WHERE; empty: all.
    condition: String,
    /// The same as chunks know it.
    from: Option<i64>,
    until: Option<i64>,
}

impl Load<'_> {
    fn all(&self, session: &mut Session, wanted: &[Wanted<'_>]) -> Result<Vec<Done>> {
        run_all(&mut session.client, &["BEGIN", LOCK_TIMEOUT])?;
        let mut done = Vec::new();
        for one in wanted {
            let made = self.make(session, one)?;
            done.push(Done { number: one.number, rows: 0, made });
        }
        let tables: Vec<Table> = wanted.iter().map(|one| one.table.clone()).collect();
        run_all(&mut session.client, &[&aside::set_aside(&tables)])?;
        let line = Line::new();
        for (one, done) in wanted.iter().zip(&mut done) {
            line.begin(&format!("restore: {}", one.table.name));
            let span = self.span(session, one)?;
            self.clear(session, one, &span)?;
            done.rows = self.rows(session, one, &span)?;
            log::info!(
                "{}: {} rows{}",
                one.table.name,
                count(done.rows),
                if done.made { ", made anew" } else { "" }
            );
        }
        run_all(&mut session.client, &[aside::PUT_BACK])?;
        for (one, done) in wanted.iter().zip(&done) {
            let mut statements: Vec<String> = one.outline.sequences.iter().map(forward).collect();
            if done.made {
                statements.extend(one.outline.jobs.iter().cloned());
            }
            run_all(&mut session.client, &statements.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
        Ok(done)
    }

    /// Makes it where it is missing.
    fn make(&self, session: &mut Session, one: &Wanted<'_>) -> Result<bool> {
        let known = "SELECT pg_catalog.to_regclass($1) IS NULL";
        let row = session
            .client
            .query_one(known, &[&one.table.name])
            .map_err(|error| failed(&format!("look for {}", one.table.name), &error))?;
        let missing: bool = row.get(0);
        if missing {
            let statements: Vec<&str> = one.outline.make.iter().map(String::as_str).collect();
            run_all(&mut session.client, &statements).map_err(|error| {
                error.because(format!("{} is missing, and cannot be made anew", one.table.name)).hint(
                    "types, functions and other tables that it needs must be there: restore a schema or a full backup",
                )
            })?;
        }
        Ok(missing)
    }

    /// Which rows are asked for, as the server understands the times.
    fn span(&self, session: &mut Session, one: &Wanted<'_>) -> Result<Span> {
        let (column, kind) = &one.outline.time;
        let mut span = Span::default();
        let mut parts = Vec::new();
        for (text, operator) in [(&self.options.since, ">="), (&self.options.until, "<")] {
            let Some(text) = text else { continue };
            let literal = escape_literal(text).trim_start().to_owned();
            // Numbers are their own. A time without zone counts as UTC, as chunks do it.
            let (value, known) = match kind.as_str() {
                "smallint" | "integer" | "bigint" => (format!("{literal}::bigint"), None),
                "timestamp with time zone" => (format!("{literal}::timestamptz"), Some("")),
                "timestamp without time zone" | "date" => {
                    (format!("({literal}::timestamptz AT TIME ZONE 'UTC')"), Some(" AT TIME ZONE 'UTC'"))
                }
                other => {
                    return Err(Error::new(
                        Exit::Usage,
                        format!(
                            "--since and --until do not know the time of {}, which is {other}",
                            one.table.name
                        ),
                    )
                    .hint("restore the whole hypertable, or name others: --tables"));
                }
            };
            let sql = match known {
                None => format!("SELECT {value}"),
                Some(zone) => format!(
                    "SELECT CASE WHEN isfinite({value}) THEN (extract(epoch FROM {value}{zone}) * 1000000)::bigint END"
                ),
            };
            let row = session.client.query_typed_one(&sql, &[]).map_err(|error| {
                failed(&format!("understand {text:?} as a time of {}", one.table.name), &error)
                    .with_exit(Exit::Usage)
                    .hint("such as 2025-01-31 or '2025-01-31 06:00:00+01'; a number where the column is one")
            })?;
            let at: Option<i64> = row.get(0);
            if operator == "<" {
                span.until = at
            } else {
                span.from = at
            }
            parts.push(format!("{column} {operator} {value}"));
        }
        if span.from.zip(span.until).is_some_and(|(from, until)| from >= until) {
            return Err(
                Error::new(Exit::Usage, "--until is not after --since").because("no row is of such a time")
            );
        }
        if !parts.is_empty() {
            span.condition = format!(" WHERE {}", parts.join(" AND "));
        }
        Ok(span)
    }

    /// Rows that are there already are refused; with --force they go.
    fn clear(&self, session: &mut Session, one: &Wanted<'_>, span: &Span) -> Result<()> {
        let table = &one.table.name;
        let sql = format!("SELECT EXISTS (SELECT FROM {table}{})", span.condition);
        let row = session
            .client
            .query_typed_one(&sql, &[])
            .map_err(|error| failed(&format!("look whether {table} holds rows"), &error))?;
        if !row.get::<_, bool>(0) {
            return Ok(());
        }
        if !self.options.force {
            let what = if span.condition.is_empty() { "rows" } else { "rows of that time" };
            return Err(Error::new(Exit::Failed, format!("{table} holds {what}")).hint(
                "replace them: restore NAME --force; or restore what is missing: --tables, --since, --until",
            ));
        }
        let sql = if span.condition.is_empty() {
            format!("TRUNCATE {table}")
        } else {
            format!("DELETE FROM {table}{}", span.condition)
        };
        run_all(&mut session.client, &[&sql])
    }

    /// Loads the rows; gives how many. What is loaded as a whole is read back and compared.
    fn rows(&self, session: &mut Session, one: &Wanted<'_>, span: &Span) -> Result<u64> {
        let members = self
            .more
            .members
            .iter()
            .filter(|member| member.stage == Stage::Csv && member.table == Some(one.number))
            .filter(|member| span.may_hold(member));
        if span.condition.is_empty() {
            for member in members {
                self.member(session, member, one.table, &one.table.target())?;
            }
            return match compare::rows_of(session, one.table)? {
                Some(what) => Err(compare::differs(&[what])
                    .hint("a rule, a type or a generated column of the table may differ")),
                None => Ok(one.table.rows),
            };
        }
        // Those that are loaded wait to be asked for their time.
        let columns = &one.table.columns;
        let list = columns.trim_start_matches('(').trim_end_matches(')');
        let waiting =
            format!("CREATE TEMPORARY TABLE ms5_waiting AS SELECT {list} FROM {} LIMIT 0", one.table.name);
        run_all(&mut session.client, &[&waiting])?;
        for member in members {
            self.member(session, member, one.table, &format!("{WAITING} {columns}"))?;
        }
        let insert = format!(
            "INSERT INTO {} {columns} OVERRIDING SYSTEM VALUE SELECT {list} FROM {WAITING}{}",
            one.table.name, span.condition
        );
        let rows = session
            .client
            .execute(&insert, &[])
            .map_err(|error| failed(&format!("load rows of {}", one.table.name), &error))?;
        run_all(&mut session.client, &[&format!("DROP TABLE {WAITING}")])?;
        Ok(rows)
    }

    fn member(&self, session: &mut Session, member: &Member, table: &Table, target: &str) -> Result<()> {
        stopped()?;
        let damaged = |why: String| {
            Error::new(Exit::Failed, format!("cannot read rows of {}", table.name))
                .because(why)
                .hint(format!("{} verify shows whether the backup is damaged", own()))
        };
        let rows = self.reader.member(member).map_err(|error| damaged(error.to_string()))?;
        let mut sum = RowSum::default();
        sum.add_csv(&rows);
        if sum.rows != member.rows {
            return Err(damaged(format!("a member holds {} rows instead of {}", sum.rows, member.rows)));
        }
        let sql = format!("COPY {target} FROM STDIN WITH (FORMAT csv)");
        let loaded = copy_in(&mut session.client, &sql, &Bytes::from(rows))
            .map_err(|error| failed(&format!("load rows of {}", table.name), &error))?;
        if loaded == member.rows {
            return Ok(());
        }
        Err(Error::new(Exit::Failed, format!("cannot load the rows of {}", table.name))
            .because(format!("the server has taken {loaded} of {}", member.rows)))
    }
}

impl Span {
    /// Whether rows of a member may be asked for.
    fn may_hold(&self, member: &Member) -> bool {
        let Some((from, until)) = member.range else { return true };
        self.from.is_none_or(|since| until > since) && self.until.is_none_or(|end| from < end)
    }
}

/// Puts a sequence forward to where it stood, never back.
fn forward((name, value, called): &(String, i64, bool)) -> String {
    format!(
        "SELECT pg_catalog.setval({}, {value}, {called}) FROM {name}
         WHERE last_value < {value} OR (last_value = {value} AND NOT is_called)",
        escape_literal(name).trim_start()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_another_time_are_left_out() {
        let member = |range| Member {
            file: 0,
            stage: Stage::Csv,
            table: Some(0),
            range,
            offset: 0,
            length: 0,
            raw: 0,
            rows: 0,
            hash: 0,
        };
        let span = |from, until| Span { condition: " WHERE x".into(), from, until };
        for (span, range, held) in [
            (span(Some(10), None), Some((0, 10)), false),
            (span(Some(10), None), Some((0, 11)), true),
            (span(None, Some(10)), Some((10, 20)), false),
            (span(None, Some(10)), Some((9, 20)), true),
            (span(Some(0), Some(5)), None, true),
            (span(None, None), Some((1, 2)), true),
        ] {
            assert_eq!(span.may_hold(&member(range)), held, "{range:?}");
        }
    }
}
