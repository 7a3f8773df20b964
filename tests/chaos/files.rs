//! The files of a trial: transactional and stepwise ones, made of statements whose effects can be counted.

use std::fmt::Write as _;

use super::dice::Dice;
use super::strike::Phase;

/// How a statement runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// In a transaction: the file's, or one of its own.
    Inside,
    /// Outside of any transaction.
    Bare,
    /// Sets up the session; is not counted as a step.
    Session,
}

/// How an effect is counted: what `query` gives is 0 before and `whole` after, and anything else is a failure.
#[derive(Debug, Clone)]
pub(crate) struct Effect {
    /// Gives one bigint, whatever stands in the database.
    pub(crate) query: String,
    /// After the statement has run exactly once.
    pub(crate) whole: i64,
}

/// What can be wrong with a statement while the switch is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fails {
    /// It divides by the switch.
    AtOnce,
    /// A deferred trigger divides by the switch, so that only the COMMIT fails.
    AtCommit,
    /// A unique index finds the same key twice, and leaves an INVALID index behind.
    Duplicates,
}

/// A statement of a file.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    /// Where it stands, from 1.
    pub(crate) line: usize,
    /// With its semicolon, and with the rows of a COPY.
    pub(crate) text: String,
    pub(crate) class: Class,
    /// None for what only sets up the session.
    pub(crate) effect: Option<Effect>,
    pub(crate) fails: Option<Fails>,
    /// A block that commits: where its run was killed, nobody knows how far it came, and the runner must say so.
    pub(crate) commits: bool,
}

/// A file.
#[derive(Debug, Clone)]
pub(crate) struct File {
    pub(crate) number: usize,
    /// Its name on disk.
    pub(crate) name: String,
    /// Its name in the ledger.
    pub(crate) title: String,
    pub(crate) stepwise: bool,
    /// The numbers that it may run beside.
    pub(crate) independent_of: Vec<usize>,
    pub(crate) statements: Vec<Statement>,
    /// What must be there before it runs.
    pub(crate) setup: String,
    /// What else makes its statement fail, and what mends that.
    pub(crate) off: String,
    pub(crate) on: String,
}

impl File {
    /// The statements that the ledger counts.
    pub(crate) fn steps(&self) -> impl Iterator<Item = &Statement> {
        self.statements.iter().filter(|statement| statement.class != Class::Session)
    }

    /// The statement that fails while the switch is off.
    pub(crate) fn failing(&self) -> Option<&Statement> {
        self.statements.iter().find(|statement| statement.fails.is_some())
    }

    /// The file as it is written to disk.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("-- {}\n", self.title);
        if !self.independent_of.is_empty() {
            let numbers: Vec<String> = self.independent_of.iter().map(|n| format!("{n:03}")).collect();
            let _ = writeln!(text, "-- ms5: independent-of {}", numbers.join(" "));
        }
        for statement in &self.statements {
            text.push_str(&statement.text);
            text.push('\n');
        }
        text
    }
}

/// A line that the runner prints while it applies the files, with the phase that begins with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    /// How the line begins, behind its time and level.
    pub(crate) line: String,
    pub(crate) phase: Phase,
}

/// What every database of a trial holds beside the files' own tables.
pub(crate) const SETUP: &str = "
CREATE TABLE effects (file int, statement int);
CREATE TABLE switch (value int);
CREATE TABLE slow (file int, statement int, ms int, risky boolean);
CREATE TABLE before (name text, oid oid);
-- A COMMIT that takes a while: a killed runner's backend goes on with it.
CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_sleep(NEW.ms / 1000.0);
    IF NEW.risky THEN PERFORM 1 / value FROM switch; END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON slow DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION at_commit();
-- An index that takes a while: a millisecond for each row.
CREATE FUNCTION lazy(integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    PERFORM pg_catalog.pg_sleep(0.001);
    RETURN $1;
END $$;
";

/// Three to six files, at least one of each kind; one statement that can fail where `failing` says so. With `slow`, each
/// file begins with a statement whose COMMIT takes so many milliseconds.
pub(crate) fn generate(dice: &mut Dice, parallel: bool, failing: bool, slow: Option<u64>) -> Vec<File> {
    let count = dice.between(3, 6);
    let count = usize::try_from(count).unwrap();
    let first_stepwise = dice.once_in(2);
    let mut files: Vec<File> = (1..=count)
        .map(|number| {
            let stepwise = match number {
                1 => first_stepwise,
                2 => !first_stepwise,
                _ => dice.once_in(2),
            };
            let independent_of =
                if parallel && !dice.once_in(3) { (1..number).collect() } else { Vec::new() };
            let mut file = Builder::new(dice, number, stepwise, independent_of);
            if let Some(ms) = slow {
                file.slow_and_set(ms);
            }
            file.fill();
            file.file
        })
        .collect();
    if failing {
        let unlucky = usize::try_from(dice.between(1, count as u64)).unwrap() - 1;
        fail(dice, &mut files[unlucky]);
    }
    files
}

/// Makes one statement of a file fail while the switch is off.
fn fail(dice: &mut Dice, file: &mut File) {
    let able: Vec<usize> = (0..file.statements.len()).filter(|i| risk(file, *i).is_some()).collect();
    if able.is_empty() {
        return;
    }
    let index = *dice.pick(&able);
    let Some((text, fails)) = risk(file, index) else { return };
    if fails == Fails::Duplicates
        && let Some((_, column)) = text.trim_end_matches(");").rsplit_once('(')
    {
        let (number, column) = (file.number, column.trim_end_matches(')'));
        file.off = format!("UPDATE big_{number} SET {column} = 1;");
        file.on = format!("UPDATE big_{number} SET {column} = id;");
    }
    file.statements[index].text = text;
    file.statements[index].fails = Some(fails);
}

/// How a statement reads when it can fail; None where it cannot be made to.
fn risk(file: &File, index: usize) -> Option<(String, Fails)> {
    let text = &file.statements[index].text;
    if text.contains("pg_sleep(") && text.starts_with("INSERT INTO effects") {
        return Some((text.replace(';', ", switch WHERE 1 / value = 1;"), Fails::AtOnce));
    }
    if text.starts_with("INSERT INTO slow") {
        return Some((text.replace("false", "true"), Fails::AtCommit));
    }
    if file.stepwise && text.starts_with("CREATE INDEX CONCURRENTLY") && !text.contains("IF NOT") {
        return Some((text.replace("CREATE INDEX", "CREATE UNIQUE INDEX"), Fails::Duplicates));
    }
    None
}

struct Builder<'d> {
    dice: &'d mut Dice,
    file: File,
    line: usize,
    /// Statements so far: what they make is named after it.
    id: usize,
    /// Columns of the file's table that are indexed already: each index has one for itself.
    columns: usize,
}

impl<'d> Builder<'d> {
    fn new(dice: &'d mut Dice, number: usize, stepwise: bool, independent_of: Vec<usize>) -> Self {
        let file = File {
            number,
            name: format!("{number:03}_chaos.sql"),
            title: format!("{number:03} - Chaos {number}"),
            stepwise,
            setup: format!(
                "CREATE TABLE big_{number} (id int, c0 int, c1 int, c2 int, c3 int, c4 int, c5 int, c6 int, c7 int,
                     c8 int, c9 int) WITH (autovacuum_enabled = off);
                 INSERT INTO big_{number} SELECT g, g, g, g, g, g, g, g, g, g, g FROM generate_series(1, 20) g;
                 CREATE TYPE mood_{number} AS ENUM ('calm');
                 CREATE TABLE moods_{number} (mood mood_{number}, statement int);"
            ),
            statements: Vec::new(),
            independent_of,
            off: String::new(),
            on: String::new(),
        };
        let line = if file.independent_of.is_empty() { 2 } else { 3 };
        Self { dice, file, line, id: 0, columns: 0 }
    }

    fn fill(&mut self) {
        if !self.file.stepwise {
            for _ in 0..self.dice.between(3, 6) {
                self.inside();
            }
            return;
        }
        // At least one of each, or there would be nothing to strike.
        self.inside();
        self.bare();
        for _ in 0..self.dice.between(2, 5) {
            match self.dice.between(1, 7) {
                1..=3 => self.inside(),
                4..=5 => self.bare(),
                6 => self.setting(),
                _ => self.mood(),
            }
        }
        if self.dice.once_in(4) {
            self.block_that_commits();
        }
        self.bare();
    }

    fn add(&mut self, class: Class, text: String, effect: Option<(String, i64)>) {
        let statement = Statement {
            line: self.line,
            class,
            effect: effect.map(|(query, whole)| Effect { query, whole }),
            fails: None,
            commits: false,
            text,
        };
        self.line += statement.text.lines().count();
        self.file.statements.push(statement);
    }

    /// File, statement, and how the rows of `effects` are counted that belong to them.
    fn next(&mut self) -> (usize, usize, String) {
        self.id += 1;
        let (file, id) = (self.file.number, self.id);
        (file, id, format!("SELECT count(*) FROM effects WHERE file = {file} AND statement = {id}"))
    }

    fn inside(&mut self) {
        let (file, id, rows) = self.next();
        let seconds = format!("0.0{}", self.dice.between(10, 40));
        let (text, query, whole) = match self.dice.between(1, 8) {
            1 => (
                format!("CREATE TABLE made_{file}_{id} (id int PRIMARY KEY, note text);"),
                format!("SELECT count(*) FROM pg_class WHERE relname = 'made_{file}_{id}'"),
                1,
            ),
            2 => (format!("INSERT INTO effects VALUES ({file}, {id});"), rows, 1),
            3 => {
                let many = self.dice.between(1, 2000);
                let data = format!("{file}\t{id}\n").repeat(usize::try_from(many).unwrap());
                let text = format!("COPY effects (file, statement) FROM stdin;\n{data}\\.");
                (text, rows, i64::try_from(many).unwrap())
            }
            4 => (
                format!(
                    "DO $$ BEGIN PERFORM pg_sleep({seconds}); INSERT INTO effects VALUES ({file}, {id}); END $$;"
                ),
                rows,
                1,
            ),
            5 => (
                format!("ALTER TABLE big_{file} ADD COLUMN extra_{id} int;"),
                format!(
                    "SELECT count(*) FROM pg_attribute
                     WHERE attrelid = to_regclass('big_{file}') AND attname = 'extra_{id}' AND NOT attisdropped"
                ),
                1,
            ),
            6 => {
                let ms = self.dice.between(5, 300);
                return self.slow(ms);
            }
            7 if self.columns < 10 => {
                let column = self.column();
                (
                    format!("CREATE INDEX made_{file}_{id}_idx ON big_{file} (lazy({column}));"),
                    valid_indexes(file, &column),
                    1,
                )
            }
            _ => (format!("INSERT INTO effects SELECT {file}, {id} FROM pg_sleep({seconds});"), rows, 1),
        };
        self.add(Class::Inside, text, Some((query, whole)));
    }

    /// In a stepwise file between a setting and what needs it: a session that is lost here is replaced by one that has to
    /// be set up again.
    fn slow_and_set(&mut self, ms: u64) {
        if !self.file.stepwise {
            return self.slow(ms);
        }
        self.setting();
        let needs = self.file.statements.pop();
        self.line -= 1;
        self.slow(ms);
        if let Some(needs) = needs {
            self.add(needs.class, needs.text, needs.effect.map(|effect| (effect.query, effect.whole)));
        }
    }

    fn slow(&mut self, ms: u64) {
        let (file, id, _) = self.next();
        self.add(
            Class::Inside,
            format!("INSERT INTO slow VALUES ({file}, {id}, {ms}, false);"),
            Some((format!("SELECT count(*) FROM slow WHERE file = {file} AND statement = {id}"), 1)),
        );
    }

    fn column(&mut self) -> String {
        self.columns += 1;
        format!("c{}", self.columns - 1)
    }

    fn bare(&mut self) {
        let (file, id, _) = self.next();
        let kind = if self.columns < 10 { self.dice.between(1, 8) } else { self.dice.between(6, 8) };
        let (text, query) = match kind {
            1..=2 => {
                let column = self.column();
                (
                    format!("CREATE INDEX CONCURRENTLY made_{file}_{id}_idx ON big_{file} (lazy({column}));"),
                    valid_indexes(file, &column),
                )
            }
            3 => {
                let column = self.column();
                (
                    format!(
                        "CREATE INDEX CONCURRENTLY IF NOT EXISTS made_{file}_{id}_idx ON big_{file} (lazy({column}));"
                    ),
                    valid_indexes(file, &column),
                )
            }
            4..=5 => {
                let column = self.column();
                (
                    format!("CREATE INDEX CONCURRENTLY ON big_{file} (lazy({column}));"),
                    valid_indexes(file, &column),
                )
            }
            6 => {
                let name = format!("old_{file}_{id}_idx");
                self.file.setup.push_str(&format!("CREATE INDEX {name} ON big_{file} (id);\n"));
                (
                    format!("DROP INDEX CONCURRENTLY {name};"),
                    format!("SELECT 1 - count(*) FROM pg_class WHERE relname = '{name}'"),
                )
            }
            7 => {
                let name = format!("keep_{file}_{id}");
                self.file.setup.push_str(&format!(
                    "CREATE TABLE {name} (a int);
                     INSERT INTO {name} SELECT generate_series(1, 20);
                     CREATE INDEX {name}_idx ON {name} (lazy(a));
                     INSERT INTO before SELECT relname, oid FROM pg_class WHERE relname = '{name}_idx';\n"
                ));
                let what = if self.dice.once_in(2) {
                    format!("REINDEX INDEX CONCURRENTLY {name}_idx;")
                } else {
                    format!("REINDEX TABLE CONCURRENTLY {name};")
                };
                // It may run twice, so that is not counted; but it must have run.
                (
                    what,
                    format!(
                        "SELECT count(*) FROM pg_class c JOIN before b ON b.name = c.relname WHERE c.relname = '{name}_idx'
                         AND b.oid <> c.oid"
                    ),
                )
            }
            _ => {
                let name = format!("vac_{file}_{id}");
                self.file.setup.push_str(&format!(
                    "CREATE TABLE {name} (a int) WITH (autovacuum_enabled = off);
                     INSERT INTO {name} SELECT generate_series(1, 3000);\n"
                ));
                (
                    format!("VACUUM {name};"),
                    format!("SELECT count(*) FROM pg_class WHERE relname = '{name}' AND relallvisible > 0"),
                )
            }
        };
        self.add(Class::Bare, text, Some((query, 1)));
    }

    /// A setting, and a statement that fails in a session that has not got it.
    fn setting(&mut self) {
        let (file, id, rows) = self.next();
        self.add(Class::Session, format!("SET chaos.mark TO '{file}_{id}';"), None);
        self.add(
            Class::Inside,
            format!(
                "INSERT INTO effects SELECT {file}, {id} WHERE current_setting('chaos.mark') = '{file}_{id}';"
            ),
            Some((rows, 1)),
        );
    }

    /// A value of an enum, and a statement that uses it.
    fn mood(&mut self) {
        let (file, id, _) = self.next();
        self.add(
            Class::Inside,
            format!("ALTER TYPE mood_{file} ADD VALUE 'mood_{id}';"),
            Some((
                format!(
                    "SELECT count(*) FROM pg_enum WHERE enumtypid = to_regtype('mood_{file}') AND enumlabel = 'mood_{id}'"
                ),
                1,
            )),
        );
        self.add(
            Class::Inside,
            format!("INSERT INTO moods_{file} VALUES ('mood_{id}', {id});"),
            Some((format!("SELECT count(*) FROM moods_{file} WHERE statement = {id}"), 1)),
        );
    }

    fn block_that_commits(&mut self) {
        let (file, id, rows) = self.next();
        let insert = format!("INSERT INTO effects VALUES ({file}, {id}); COMMIT;");
        let text = format!("DO $$ BEGIN {insert} PERFORM pg_sleep(0.03); {insert} END $$;");
        self.add(Class::Bare, text, Some((rows, 2)));
        if let Some(block) = self.file.statements.last_mut() {
            block.commits = true;
        }
    }
}

/// How many indexes are there of what only one statement asks for, under whatever name.
fn valid_indexes(file: usize, column: &str) -> String {
    format!(
        "SELECT count(*) FROM pg_index WHERE indrelid = to_regclass('big_{file}') AND indisvalid AND indisready
         AND pg_get_indexdef(indexrelid) LIKE '%({column})%'"
    )
}

/// The lines that the runner prints for these files, up to the statement that fails.
pub(crate) fn marks(files: &[File], switch_is_on: bool) -> Vec<Mark> {
    let mut marks = Vec::new();
    let mut mark = |line: String, phase| marks.push(Mark { line, phase });
    for file in files {
        mark(format!("Executing migration {} ", file.title), Phase::Between);
        let mut step = 0;
        for statement in &file.statements {
            let line = format!("{}:{}:", file.name, statement.line);
            step += usize::from(statement.class != Class::Session);
            let fails = statement.fails.filter(|_| !switch_is_on);
            match (file.stepwise, statement.class) {
                (_, Class::Session) => continue,
                (false, _) => mark(line, Phase::Statement),
                (true, Class::Inside) => {
                    mark(line, Phase::Step);
                    if fails != Some(Fails::AtOnce) {
                        mark(format!("COMMIT of step {step} of {}", file.title), Phase::StepCommit);
                    }
                }
                (true, Class::Bare) => {
                    mark(line, if statement.commits { Phase::Block } else { Phase::Bare });
                    if fails.is_none() {
                        mark(
                            format!("recording that step {step} of {} is done", file.title),
                            Phase::Recording,
                        );
                    }
                }
            }
            if fails.is_some() && (file.stepwise || fails == Some(Fails::AtOnce)) {
                return marks;
            }
        }
        if file.stepwise {
            mark(format!("recording that {} is applied", file.title), Phase::Final);
        } else {
            mark(format!("COMMIT of {}", file.title), Phase::Commit);
            if file.failing().is_some() && !switch_is_on {
                return marks;
            }
        }
        mark(format!("✅ Migration {} completed", file.title), Phase::Between);
    }
    marks
}
