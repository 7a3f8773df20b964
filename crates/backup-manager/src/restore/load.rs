//! Loads a backup into an empty database, member by member, in the order that keeps it whole.
//!
//! Definitions; rows of TimescaleDB's own, one table after the other; tables side by side, each with its plain indexes while its
//! rows are still in memory; sequences and large objects; the other indexes and keys, side by side; what is left, one after the
//! other, foreign keys among it; materialized views.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use ms5_common::config::Settings;
use ms5_common::db::client::Client;
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::progress::Line;
use ms5_common::sql::{Facts, Item, Options, Script, TokenKind};
use postgres::error::SqlState;

use crate::archive::Reader;
use crate::dump::{Piece, pieces};
use crate::folder::metadata::{Member, More, Stage, Table};
use crate::sessions::{self, Session, failed, stopped};
use crate::verify::rows_in;
use crate::words::count;

/// How many statements are sent before the first is answered.
const AHEAD: usize = 100;
/// From how many bytes of rows on a table's rows are frozen: below, a transaction of its own costs more.
const FREEZE: u64 = 1 << 20;
/// How many bytes of rows are handed over at once.
const PIECE: usize = 1 << 18;

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
        self.run(&mut session, Stage::Sequences)?;
        self.run_streams(&mut session, Stage::LargeObjects, Around::Theirs)?;
        let since = Instant::now();
        self.post_data(&mut session, plan, late)?;
        log::info!("Indexes and constraints made ({} ms)", since.elapsed().as_millis());
        // Views read what is there: with restoring on, compressed rows would be hidden from them.
        if self.members(Stage::Refresh).next().is_some() {
            line.begin("restore: materialized views");
            let mut session = self.session(self.more.superuser)?;
            self.run(&mut session, Stage::Refresh)?;
        }
        Ok(())
    }

    /// The same in one session, in the transaction that it has open.
    ///
    /// # Errors
    /// What the server says, or that a member is not what it should be.
    pub(crate) fn in_one(&self, session: &mut Session) -> Result<()> {
        self.run(session, Stage::PreData)?;
        for member in self.members(Stage::Catalog).chain(self.members(Stage::Table)) {
            stopped()?;
            self.rows(session, member, false)?;
        }
        self.run(session, Stage::Sequences)?;
        self.run_streams(session, Stage::LargeObjects, Around::Ours)?;
        self.run(session, Stage::PostData)?;
        self.run(session, Stage::Refresh)
    }

    /// A session; with `seeing`, one that is not told of the restore.
    pub(crate) fn session(&self, seeing: bool) -> Result<Session> {
        let demands: &[(&str, &str)] = if seeing {
            &[("synchronous_commit", "off"), ("timescaledb.restoring", "off")]
        } else {
            &[("synchronous_commit", "off")]
        };
        sessions::open_with(self.settings, "restore", demands)
    }

    fn members(&self, stage: Stage) -> impl Iterator<Item = &Member> {
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
        let begin = sql.len() - length - crate::sqltext::ROWS_END.len();
        let rows = Bytes::from(sql).slice(begin..begin + length);
        let send = |client: &mut Client| {
            let options = if frozen { " WITH (FREEZE)" } else { "" };
            let mut copy = client.copy_in(&format!("COPY {} FROM STDIN{options}", table.target()))?;
            let mut at = 0;
            while at < rows.len() {
                let end = (at + PIECE).min(rows.len());
                copy.send_owned(rows.slice(at..end))?;
                at = end;
            }
            copy.finish()
        };
        let loaded = send(&mut session.client)
            .map_err(|error| failed(&format!("load rows of {}", table.name), &error))?;
        // Triggers of TimescaleDB take rows of its catalog aside.
        if loaded == member.rows || member.stage == Stage::Catalog {
            return Ok(());
        }
        let tried = format!("cannot load the rows of {}", table.name);
        Err(Error::new(Exit::Failed, tried)
            .because(format!("the server has taken {loaded} of {}", member.rows))
            .hint("backup-manager verify shows whether the backup is damaged"))
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
        let total: u64 = members.iter().map(|member| member.rows).sum();
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

/// What one session loads before it takes the next.
struct Unit<'a> {
    members: Vec<&'a Member>,
    /// They are all that the table has.
    whole: bool,
    /// What is built on the table once they are there.
    builds: Vec<Build<'a>>,
}

impl Unit<'_> {
    /// The rows are frozen: the first to read them need not look up whether they were committed and write that down, which
    /// takes longer than reading them. The server does so only in the transaction that has emptied the table.
    fn frozen(&self) -> bool {
        self.whole && size(&self.members) >= FREEZE
    }
}

/// How many bytes of rows.
fn size(members: &[&Member]) -> u64 {
    members.iter().map(|member| member.raw).sum()
}

/// Each table as a whole, the largest first; one that holds more than a session's share goes member by member.
fn units<'a>(members: &[&'a Member], jobs: usize) -> Vec<Unit<'a>> {
    let mut tables: BTreeMap<Option<usize>, Vec<&'a Member>> = BTreeMap::new();
    for member in members {
        tables.entry(member.table).or_default().push(member);
    }
    let share = size(members) / jobs.max(1) as u64;
    let mut units = Vec::new();
    for members in tables.into_values() {
        let unit = |members, whole| Unit { members, whole, builds: Vec::new() };
        if size(&members) <= share {
            units.push(unit(members, true));
        } else {
            units.extend(members.into_iter().map(|member| unit(vec![member], false)));
        }
    }
    units.sort_by_key(|unit| std::cmp::Reverse(size(&unit.members)));
    units
}

fn transaction(session: &mut Session, sql: &str) -> Result<()> {
    session.client.batch_execute(sql).map_err(|error| statement_failed(sql, &error))
}

/// Whose transactions statements run in: pg_dump wraps each large object in one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Around {
    Theirs,
    /// One that is open already: theirs would commit it.
    Ours,
}

/// A statement that builds an index, and the tablespace it is built in.
#[derive(Debug, Clone, Copy)]
struct Build<'a> {
    tablespace: Option<&'a str>,
    text: &'a str,
    /// Of columns alone: a function in an index may read other tables, and their rows must be there.
    plain: bool,
}

impl Build<'_> {
    fn run(&self, client: &mut Client) -> std::result::Result<(), postgres::Error> {
        match self.tablespace {
            Some(set) => client.pipeline(&[set, self.text], |_| ()).map(|_| ()).map_err(|(_, error)| error),
            None => client.batch_execute(self.text),
        }
    }
}

/// What of the definitions after the rows can be done side by side.
struct Plan<'a> {
    builds: BTreeMap<String, Vec<Build<'a>>>,
    rest: Vec<&'a str>,
}

impl<'a> Plan<'a> {
    fn of(all: &'a [Piece]) -> Self {
        let mut plan = Self { builds: BTreeMap::new(), rest: Vec::new() };
        let mut tablespace = None;
        for piece in all {
            let text = piece.statement.text.as_str();
            let facts = Facts::of(text, true);
            if facts.setting().is_some_and(|setting| setting.name == "default_tablespace") {
                tablespace = Some(text);
            }
            match builds_on(&facts) {
                Some(table) => {
                    let plain = is_plain(&facts);
                    plan.builds.entry(table).or_default().push(Build { tablespace, text, plain });
                }
                None => plan.rest.push(text),
            }
        }
        plan
    }

    /// Takes out the builds on a table whose rows are there, where all of them are plain.
    fn take_plain(&mut self, table: &str) -> Vec<Build<'a>> {
        match self.builds.get(table) {
            Some(builds) if builds.iter().all(|build| build.plain) => {
                self.builds.remove(table).unwrap_or_default()
            }
            _ => Vec::new(),
        }
    }
}

/// Whether an index is of columns alone: no parentheses within parentheses, no condition, no operators of its own.
fn is_plain(facts: &Facts<'_>) -> bool {
    let mut open = false;
    for token in facts.tokens() {
        match token.text {
            "(" if open => return false,
            "(" => open = true,
            ")" => open = false,
            _ if token.is_word("where") || token.is_word("exclude") => return false,
            _ => {}
        }
    }
    true
}

/// The table that a statement builds an index on, as its text.
fn builds_on(facts: &Facts<'_>) -> Option<String> {
    let tokens: Vec<_> = facts.tokens().take(40).collect();
    let words: Vec<bool> = tokens.iter().map(|token| token.kind == TokenKind::Word).collect();
    let is = |at: usize, word: &str| words.get(at) == Some(&true) && tokens[at].is_word(word);
    let name = |from: usize, end: usize| -> String {
        tokens.get(from..end).unwrap_or_default().iter().map(|token| token.text).collect()
    };
    if facts.begins_with(&["create", "index"]) || facts.begins_with(&["create", "unique", "index"]) {
        let on = (0..tokens.len()).find(|at| is(*at, "on"))?;
        let from = if is(on + 1, "only") { on + 2 } else { on + 1 };
        let end = (from..tokens.len()).find(|at| is(*at, "using"))?;
        return Some(name(from, end));
    }
    if facts.begins_with(&["alter", "table"]) {
        let from = if is(2, "only") { 3 } else { 2 };
        let add = (from..tokens.len()).find(|at| is(*at, "add"))?;
        let kind = add + 3;
        let key =
            is(add + 1, "constraint") && (is(kind, "primary") || is(kind, "unique") || is(kind, "exclude"));
        return key.then(|| name(from, add));
    }
    None
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
    let start: String = text.chars().take(200).collect();
    let failure = failed("replay a statement of the backup", error).because(start);
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
        .hint("backup-manager verify shows whether the backup is damaged")
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

/// The same over sessions that are open.
///
/// # Errors
/// The first failure; the others end early.
pub(crate) fn over(
    sessions: Vec<Session>,
    many: usize,
    work: impl Fn(&mut Session, usize) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let run = |mut session: Session| -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= many {
                break;
            }
            if let Err(error) = stopped().and_then(|()| work(&mut session, number)) {
                stop.store(true, Ordering::Relaxed);
                session.give_up();
                return Err(error);
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let running: Vec<_> = sessions.into_iter().map(|session| scope.spawn(|| run(session))).collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect::<Vec<Result<()>>>()
            .into_iter()
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(text: &str) -> Option<String> {
        builds_on(&Facts::of(text, true))
    }

    #[test]
    fn what_builds_an_index_and_on_which_table() {
        for (text, table) in [
            ("CREATE INDEX i ON f.m USING btree (ts)", "f.m"),
            ("CREATE UNIQUE INDEX \"on\" ON ONLY f.\"a b\" USING btree (lower(x))", "f.\"a b\""),
            ("ALTER TABLE ONLY f.m\n    ADD CONSTRAINT m_pkey PRIMARY KEY (id)", "f.m"),
            ("ALTER TABLE f.m ADD CONSTRAINT \"primary\" UNIQUE (id)", "f.m"),
            ("ALTER TABLE ONLY f.m ADD CONSTRAINT e EXCLUDE USING gist (r WITH &&)", "f.m"),
        ] {
            assert_eq!(on(text).as_deref(), Some(table), "{text}");
        }
        for text in [
            "ALTER TABLE ONLY f.m ADD CONSTRAINT fk FOREIGN KEY (a) REFERENCES f.n(a)",
            "ALTER TABLE f.m ADD CONSTRAINT c CHECK (true) NOT VALID",
            "ALTER TABLE f.m CLUSTER ON i",
            "ALTER INDEX a ATTACH PARTITION b",
            "CREATE TRIGGER t AFTER INSERT ON f.m FOR EACH ROW EXECUTE FUNCTION g()",
            "COMMENT ON INDEX i IS 'CREATE INDEX i ON f.m USING'",
        ] {
            assert_eq!(on(text), None, "{text}");
        }
    }

    #[test]
    fn tables_go_whole_unless_they_are_more_than_a_share() {
        let member = |table, raw| Member {
            stage: Stage::Table,
            table: Some(table),
            offset: 0,
            length: 0,
            raw,
            rows: 0,
            hash: 0,
        };
        let members = [
            member(0, FREEZE),
            member(0, 6 * FREEZE),
            member(1, 2 * FREEZE),
            member(1, FREEZE),
            member(2, 9),
        ];
        let members: Vec<&Member> = members.iter().collect();
        let shape = |jobs| -> Vec<(Option<usize>, usize, bool)> {
            let units = units(&members, jobs);
            units.iter().map(|unit| (unit.members[0].table, unit.members.len(), unit.frozen())).collect()
        };
        assert_eq!(shape(1), [(Some(0), 2, true), (Some(1), 2, true), (Some(2), 1, false)]);
        assert_eq!(
            shape(2),
            [(Some(0), 1, false), (Some(1), 2, true), (Some(0), 1, false), (Some(2), 1, false)]
        );
        assert!(units(&[], 2).is_empty());
    }

    #[test]
    fn only_indexes_of_columns_alone_follow_their_rows() {
        for (text, plain) in [
            ("CREATE INDEX i ON f.m USING btree (ts DESC, v) INCLUDE (q) WITH (fillfactor='70')", true),
            ("ALTER TABLE ONLY f.m ADD CONSTRAINT p PRIMARY KEY (id, \"where\")", true),
            ("CREATE INDEX i ON f.m USING btree (lower(x))", false),
            ("CREATE INDEX i ON f.m USING btree (x) WHERE (x > 0)", false),
            ("ALTER TABLE f.m ADD CONSTRAINT e EXCLUDE USING gist (r WITH &&)", false),
        ] {
            assert_eq!(is_plain(&Facts::of(text, true)), plain, "{text}");
        }
        let all =
            pieces("CREATE INDEX i ON a USING btree (x);\nCREATE INDEX j ON b USING btree (x);\nCREATE INDEX k ON b USING btree (lower(x));\n").unwrap();
        let mut plan = Plan::of(&all);
        assert_eq!(plan.take_plain("a").len(), 1);
        assert_eq!(plan.take_plain("b").len(), 0, "one waits for the other rows, so all do, in their order");
        assert_eq!(plan.builds["b"].len(), 2);
        assert!(!plan.builds.contains_key("a"));
    }

    #[test]
    fn an_index_is_built_in_its_tablespace() {
        let all = pieces("SET default_tablespace = fast;\nCREATE INDEX i ON m USING btree (a);\nSELECT 1;\n")
            .unwrap();
        let plan = Plan::of(&all);
        assert_eq!(plan.builds["m"][0].tablespace, Some("SET default_tablespace = fast"));
        assert_eq!(plan.rest, ["SET default_tablespace = fast", "SELECT 1"]);
    }
}
