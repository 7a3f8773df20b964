//! Loads a backup into an empty database, member by member, in the order that keeps it whole.
//!
//! Definitions; rows of TimescaleDB's own, one table after the other; tables side by side, each with its plain indexes while its
//! rows are still in memory; sequences and large objects; the other indexes and keys, side by side; what is left, one after the
//! other, foreign keys among it; materialized views.

mod plan;
mod units;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ms5_common::config::Settings;
use ms5_common::db::client::Client;
use ms5_common::db::connect::Canceller;
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::progress::Line;
use ms5_common::sql::{Item, Options, Script};
use postgres::error::SqlState;

use crate::archive::Reader;
use crate::args::own;
use crate::dump::{Piece, pieces};
use crate::folder::metadata::{Member, More, Stage, Table};
use crate::sessions::{self, Session, failed, stopped};
use crate::sqltext::{ROWS_END, rows_in, shown_start};
use crate::words::count;
use plan::{Build, Plan};
use units::units;

/// How many statements are sent before the first is answered.
const AHEAD: usize = 100;
/// How many bytes of rows are handed over at once.
const PIECE: usize = 1 << 18;
/// After which time a session that has not ended yet is cancelled again.
const AGAIN: Duration = Duration::from_millis(200);

/// A database that is being loaded.
pub(crate) struct Load<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) more: &'a More,
    pub(crate) reader: &'a Reader,
    pub(crate) jobs: usize,
}

impl Load<'_> {
    /// Everything but what brings the database back into service.
    ///
    /// # Errors
    /// What the server says, or that a member is not what it should be.
    pub(crate) fn all(&self) -> Result<()> {
        let line = Line::new();
        let mut session = self.session(false)?;
        line.begin("restore: definitions");
        self.run(&mut session, Stage::PreData)?;
        for member in self.members(Stage::Catalog) {
            line.begin("restore: TimescaleDB's catalog");
            self.rows(&mut session, member, false)?;
        }
        let mut all: Vec<Piece> = Vec::new();
        for member in self.members(Stage::PostData) {
            all.extend(pieces(&self.text(member)?)?);
        }
        let mut plan = Plan::of(&all);
        let late = Mutex::new(Vec::new());
        let since = Instant::now();
        self.tables(&mut plan, &late)?;
        log::info!("Rows loaded, plain indexes with them ({} ms)", since.elapsed().as_millis());
        line.begin("restore: sequences, large objects");
        self.sequences(&mut session)?;
        self.run_streams(&mut session, Stage::LargeObjects, Around::Theirs)?;
        let since = Instant::now();
        self.post_data(&mut session, plan, late)?;
        self.run(&mut session, Stage::Hypertables)?;
        log::info!("Indexes and constraints made ({} ms)", since.elapsed().as_millis());
        // Views read what is there: with restoring on, compressed rows would be hidden from them.
        if self.members(Stage::Refresh).next().is_some() {
            line.begin("restore: materialized views");
            let mut session = self.session(self.more.superuser)?;
            self.run(&mut session, Stage::Refresh)?;
        }
        Ok(())
    }

    /// The same in one session, in the transaction that it has open; but for the sequences, see [`Load::sequences`].
    ///
    /// # Errors
    /// What the server says, or that a member is not what it should be.
    pub(crate) fn in_one(&self, session: &mut Session) -> Result<()> {
        self.run(session, Stage::PreData)?;
        for member in self.members(Stage::Catalog).chain(self.members(Stage::Table)) {
            stopped()?;
            self.rows(session, member, false)?;
        }
        self.run_streams(session, Stage::LargeObjects, Around::Ours)?;
        self.run(session, Stage::PostData)?;
        self.run(session, Stage::Hypertables)?;
        self.run(session, Stage::Refresh)
    }

    /// Sets the sequences, which no ROLLBACK undoes: in a transaction it is what comes last before the COMMIT.
    ///
    /// # Errors
    /// What the server says, or that a member is not what it should be.
    pub(crate) fn sequences(&self, session: &mut Session) -> Result<()> {
        self.run(session, Stage::Sequences)
    }

    /// A session; with `seeing`, one that is not told of the restore.
    pub(crate) fn session(&self, seeing: bool) -> Result<Session> {
        let demands: &[(&str, &str)] = if seeing {
            &[("synchronous_commit", "off"), ("timescaledb.restoring", "off")]
        } else {
            &[("synchronous_commit", "off")]
        };
        sessions::open_again(self.settings, "restore", demands)
    }

    pub(super) fn members(&self, stage: Stage) -> impl Iterator<Item = &Member> {
        self.more.members.iter().filter(move |member| member.stage == stage)
    }

    fn text(&self, member: &Member) -> Result<String> {
        let sql = self.reader.member(member).map_err(|error| unreadable(member, &error.to_string()))?;
        String::from_utf8(sql).map_err(|error| unreadable(member, &error.to_string()))
    }

    /// Runs the statements of a stage, one after the other.
    ///
    /// # Errors
    /// The first that fails, with its text.
    pub(crate) fn run(&self, session: &mut Session, stage: Stage) -> Result<()> {
        for member in self.members(stage) {
            let all = pieces(&self.text(member)?)?;
            let statements: Vec<&str> = all.iter().map(|piece| piece.statement.text.as_str()).collect();
            run_all(&mut session.client, &statements)?;
        }
        Ok(())
    }

    /// The same for statements that may be longer in all than memory.
    fn run_streams(&self, session: &mut Session, stage: Stage, around: Around) -> Result<()> {
        for member in self.members(stage) {
            let wrong = |error: String| unreadable(member, &error);
            let stream = self.reader.stream(member).map_err(|error| wrong(error.to_string()))?;
            let mut reader = Some(std::io::BufReader::with_capacity(1 << 16, stream));
            let script = Script::open(
                |_: &str| reader.take().ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotFound)),
                Options::default(),
            )
            .map_err(|error| wrong(error.to_string()))?;
            for item in script {
                stopped()?;
                if let Item::Statement(statement) = item.map_err(|error| wrong(error.to_string()))?
                    && (around == Around::Theirs
                        || statement.facts().all(|facts| facts.transaction_control().is_none()))
                {
                    run_all(&mut session.client, &[&statement.text])?;
                }
            }
        }
        Ok(())
    }

    /// Sends a member's rows.
    fn rows(&self, session: &mut Session, member: &Member, frozen: bool) -> Result<()> {
        let table = self.table(member)?;
        let sql = self.reader.member(member).map_err(|error| unreadable(member, &error.to_string()))?;
        let length = rows_in(&sql, table)
            .ok_or_else(|| unreadable(member, "it holds something else than rows"))?
            .len();
        let begin = sql.len() - length - ROWS_END.len();
        let rows = Bytes::from(sql).slice(begin..begin + length);
        let options = if frozen { " WITH (FREEZE)" } else { "" };
        let sql = format!("COPY {} FROM STDIN{options}", table.target());
        let loaded = copy_in(&mut session.client, &sql, &rows)
            .map_err(|error| failed(&format!("load rows of {}", table.name), &error))?;
        // Triggers of TimescaleDB take rows of its catalog aside.
        if loaded == member.rows || member.stage == Stage::Catalog {
            return Ok(());
        }
        let tried = format!("cannot load the rows of {}", table.name);
        Err(Error::new(Exit::Failed, tried)
            .because(format!("the server has taken {loaded} of {}", member.rows))
            .hint(format!("{} verify shows whether the backup is damaged", own())))
    }

    fn table(&self, member: &Member) -> Result<&Table> {
        member
            .table
            .and_then(|number| self.more.tables.get(number))
            .ok_or_else(|| unreadable(member, "it has no table"))
    }

    /// Rows of all tables, side by side, and the builds of `plan` that can follow at once.
    fn tables<'a>(&'a self, plan: &mut Plan<'a>, late: &Mutex<Vec<Build<'a>>>) -> Result<()> {
        let members: Vec<&Member> = self.members(Stage::Table).collect();
        let total = members.iter().fold(0_u64, |sum, member| sum.saturating_add(member.rows));
        let mut units = units(&members, self.jobs);
        for unit in units.iter_mut().filter(|unit| unit.whole) {
            unit.builds = plan.take_plain(&self.table(unit.members[0])?.name);
        }
        let done = AtomicU64::new(0);
        let line = Mutex::new(Line::new());
        side_by_side(self, units.len(), |session, number| {
            let unit = &units[number];
            let frozen = unit.frozen().then(|| self.table(unit.members[0])).transpose()?;
            if let Some(table) = frozen {
                transaction(session, &format!("START TRANSACTION; TRUNCATE ONLY {}", table.name))?;
            }
            for member in &unit.members {
                stopped()?;
                self.rows(session, member, frozen.is_some())?;
                let rows = done.fetch_add(member.rows, Ordering::Relaxed) + member.rows;
                line.lock().unwrap_or_else(PoisonError::into_inner).update(&format!(
                    "restore: {} of {} rows",
                    count(rows),
                    count(total)
                ));
            }
            if frozen.is_some() {
                transaction(session, "COMMIT")?;
            }
            build_all(session, &unit.builds, late)
        })
    }

    /// Indexes and keys side by side, those of one table one after the other; then the rest as it stands.
    fn post_data<'a>(
        &self,
        session: &mut Session,
        plan: Plan<'a>,
        late: Mutex<Vec<Build<'a>>>,
    ) -> Result<()> {
        let rows: BTreeMap<&str, u64> =
            self.more.tables.iter().map(|table| (table.name.as_str(), table.rows)).collect();
        let mut groups: Vec<(String, Vec<Build<'_>>)> = plan.builds.into_iter().collect();
        groups.sort_by_key(|(table, _)| std::cmp::Reverse(rows.get(table.as_str()).copied().unwrap_or(0)));
        side_by_side(self, groups.len(), |session, number| build_all(session, &groups[number].1, &late))?;
        for build in late.into_inner().unwrap_or_else(PoisonError::into_inner) {
            build.run(&mut session.client).map_err(|error| statement_failed(build.text, &error))?;
        }
        run_all(&mut session.client, &plan.rest)
    }
}

/// Builds one after the other; those that stand in another's way are to be done once more, alone.
fn build_all<'a>(session: &mut Session, builds: &[Build<'a>], late: &Mutex<Vec<Build<'a>>>) -> Result<()> {
    for build in builds {
        stopped()?;
        match build.run(&mut session.client) {
            Ok(()) => {}
            Err(error) if error.code() == Some(&SqlState::T_R_DEADLOCK_DETECTED) => {
                late.lock().unwrap_or_else(PoisonError::into_inner).push(*build);
            }
            Err(error) => return Err(statement_failed(build.text, &error)),
        }
    }
    Ok(())
}

fn transaction(session: &mut Session, sql: &str) -> Result<()> {
    session.client.batch_execute(sql).map_err(|error| statement_failed(sql, &error))
}

/// Hands rows over to a COPY ... FROM STDIN; gives how many the server says that it took.
pub(super) fn copy_in(
    client: &mut Client,
    sql: &str,
    rows: &Bytes,
) -> std::result::Result<u64, postgres::Error> {
    let mut copy = client.copy_in(sql)?;
    let mut at = 0;
    while at < rows.len() {
        let end = (at + PIECE).min(rows.len());
        copy.send_owned(rows.slice(at..end))?;
        at = end;
    }
    copy.finish()
}

/// Whose transactions statements run in: pg_dump wraps each large object in one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Around {
    Theirs,
    /// One that is open already: theirs would commit it.
    Ours,
}

/// Runs statements in order, sending ahead.
///
/// # Errors
/// The first that fails, with its text.
pub(crate) fn run_all(client: &mut Client, statements: &[&str]) -> Result<()> {
    for batch in statements.chunks(AHEAD) {
        stopped()?;
        client.pipeline(batch, |_| ()).map_err(|(number, error)| {
            statement_failed(batch.get(number).copied().unwrap_or_default(), &error)
        })?;
    }
    Ok(())
}

fn statement_failed(text: &str, error: &postgres::Error) -> Error {
    let failure = failed("replay a statement of the backup", error).because(shown_start(text));
    match error.code() {
        Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => {
            failure.hint("restore as a role that may do this: --restore-user=ROLE")
        }
        Some(code) if *code == SqlState::UNDEFINED_OBJECT => failure
            .hint("roles and tablespaces are the server's, not the database's: make the missing one first"),
        _ => failure,
    }
}

fn unreadable(member: &Member, why: &str) -> Error {
    Error::new(Exit::Failed, format!("cannot read the member at {} ({})", member.offset, member.stage.word()))
        .because(why)
        .hint(format!("{} verify shows whether the backup is damaged", own()))
}

/// Runs `work` for each number below `many`, over as many sessions as there are jobs.
fn side_by_side(
    load: &Load<'_>,
    many: usize,
    work: impl Fn(&mut Session, usize) -> Result<()> + Sync,
) -> Result<()> {
    if many == 0 {
        return Ok(());
    }
    let sessions: Vec<Session> =
        (0..load.jobs.min(many)).map(|_| load.session(false)).collect::<Result<_>>()?;
    over(sessions, many, work)
}

/// Says of a thread that it has ended, also in a panic.
struct Gone<'a>(&'a AtomicBool);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// The same over sessions that are open.
///
/// # Errors
/// The first failure; what the others are running then is cancelled.
pub(crate) fn over(
    sessions: Vec<Session>,
    many: usize,
    work: impl Fn(&mut Session, usize) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let first: OnceLock<Error> = OnceLock::new();
    let others: Vec<(Canceller, AtomicBool)> =
        sessions.iter().map(|session| (session.canceller(), AtomicBool::new(true))).collect();
    let run = |mut session: Session, place: usize| {
        let _gone = Gone(&others[place].1);
        while first.get().is_none() {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= many {
                break;
            }
            let Err(error) = stopped().and_then(|()| work(&mut session, number)) else { continue };
            session.give_up();
            others[place].1.store(false, Ordering::Relaxed);
            // One of the others may build an index for hours. A cancel between two statements is lost, so it is sent again.
            if first.set(error).is_ok() {
                while others.iter().any(|(_, runs)| runs.load(Ordering::Relaxed)) {
                    let left = others.iter().filter(|(_, runs)| runs.load(Ordering::Relaxed));
                    left.for_each(|(canceller, _)| drop(canceller.cancel()));
                    thread::sleep(AGAIN);
                }
            }
            break;
        }
    };
    thread::scope(|scope| {
        for (place, session) in sessions.into_iter().enumerate() {
            let run = &run;
            scope.spawn(move || run(session, place));
        }
    });
    first.into_inner().map_or(Ok(()), Err)
}
