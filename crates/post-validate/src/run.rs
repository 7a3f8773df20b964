//! The flow: read everything, connect, make every check, say how it ended.

use std::path::PathBuf;

use ms5_common::called::called;
use ms5_common::catalog::Inventory;
use ms5_common::check::{self, Report};
use ms5_common::clock::{self, OffsetDateTime};
use ms5_common::config::Settings;
use ms5_common::db::client::Client;
use ms5_common::db::ledger;
use ms5_common::db::server_error::reasons;
use ms5_common::db::session::{self, Tuning};
use ms5_common::effects::{self, Said};
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::expected::{self, Expected};
use ms5_common::fingerprint::Fingerprint;
use ms5_common::gate::{self, Story};
use ms5_common::migrations::{self, Migration};
use ms5_common::timescale::{self, overview};
use ms5_common::tool::{Context, LogFile};
use ms5_common::{success, troubleshooting};

use crate::args::{Options, TOOL};
use crate::checks::{self, Bench, connection};

/// Where a run is written down.
const LOG: LogFile =
    LogFile { folder: "validation", name: "post_migration_validation", title: "post-migration validation" };
/// What feeds `--gate=-`.
fn chain() -> String {
    let [before, runner, own] = ["pre-validate", "migration-runner", TOOL].map(called);
    format!("{before} --json | {runner} --gate=- --json | {own} --against=- --json")
}

/// Everything that is read before a server is asked.
pub(crate) struct Input {
    pub(crate) options: Options,
    pub(crate) settings: Settings,
    pub(crate) migrations: Vec<Migration>,
    /// Where the promises stand, or would.
    pub(crate) expected_file: PathBuf,
    /// None: nothing is promised.
    pub(crate) expected: Option<Expected>,
    /// With `--against`: the rows as pre-validate has seen them.
    pub(crate) before: Option<Vec<Fingerprint>>,
    /// With `--against`: the objects of the database as pre-validate has noted them.
    pub(crate) objects: Option<Inventory>,
    digest: String,
    story: Option<Story>,
    /// Which server it is, and the last restore: what a backup has to fit to.
    system_identifier: String,
    last_restore: Option<(String, OffsetDateTime)>,
}

impl Input {
    /// How to go back to what was there when the migration began, or that nothing leads there.
    pub(crate) fn go_back(&self) -> String {
        let began = self.story.as_ref().and_then(Story::began).unwrap_or_else(OffsetDateTime::now_utc);
        troubleshooting::go_back(&self.settings, began, &self.system_identifier, self.last_restore.as_ref())
    }

    /// What the files say that goes or is made anew.
    pub(crate) fn said(&self) -> Vec<Said> {
        self.migrations.iter().flat_map(|migration| migration.statements().flat_map(effects::says)).collect()
    }

    /// The runner's command line for this environment.
    pub(crate) fn runner(&self, flags: &str) -> String {
        let environment = self.settings.environment.defaults().name;
        format!("{} --environment={environment} {flags}", called("migration-runner")).trim_end().to_owned()
    }
}

/// The whole tool.
pub(crate) fn run(context: &Context) -> Result<Exit> {
    let options = Options::of(&context.arguments)?;
    if options.list_checks {
        check::list(checks::ALL);
        return Ok(Exit::Done);
    }
    let mut input = read(context, options)?;
    let mut client = session::open(&input.settings, TOOL, "check", &tuning())?.client;
    let server = session::identify(&mut client, &input.settings)?;
    context.recorder.start(Some(&server.identity), Some(&input.digest));
    let wanted =
        [("lock_timeout", "1s"), ("statement_timeout", "1s"), ("default_transaction_read_only", "on")];
    session::demand_settings(&mut client, &input.settings, &server, &wanted)?;
    if server.single_session && input.options.against {
        return Err(Error::new(
            Exit::Config,
            "--against cannot compare on this server: it has one session only",
        )
        .because("rows are counted and hashed in a session of their own")
        .because("nothing was touched")
        .hint("take --gate instead: it opens for the same records and compares nothing"));
    }
    if let Some(story) = &input.story {
        let max_age = input.options.gate_max_age;
        story.require("pre-validate", &input.digest, max_age)?.same_database(&server.identity)?;
        story.require_migrated(&input.digest, max_age)?.same_database(&server.identity)?;
    }
    let mut report = Report::new(&context.recorder, input.options.strict);
    report.add(&connection::CONNECTION, connection::answered(&server, &input.settings));
    if input.story.is_some() {
        success!(
            "The gate is open: pre-validate passed and migration-runner ran, on this database and these files"
        );
    }
    let extension = look(&mut client, timescale::extension)?;
    let wal = look(&mut client, checks::health::wal_position)?;
    // Behind a gate a migration has just run.
    let restored = if input.story.is_none() { look(&mut client, ledger::restored)? } else { None };
    input.system_identifier = server.identity.system_identifier;
    if input.story.is_some() {
        // A ledger that is older than its tables of today knows of no restore.
        let last = ledger::traces(&mut client).ok().and_then(|traces| traces.restored);
        input.last_restore = last.and_then(|(name, at)| Some((name, clock::parse_record_time(&at)?)));
    }
    let mut bench = Bench::new(client, report, &input, extension, restored, wal);
    checks::all(&mut bench)?;
    overview::record(&mut bench.client, bench.extension.version(), &context.recorder);
    Ok(bench.report.conclude("Post-migration validation"))
}

/// Sessions that nobody has to wait for, and that change nothing unless a probe says so aloud.
fn tuning() -> Tuning {
    let mut tuning = Tuning::default();
    for (name, value) in [
        ("lock_timeout", "1s"),
        ("statement_timeout", "1s"),
        ("default_transaction_read_only", "on"),
        // What is read as text goes back as text.
        ("datestyle", "ISO"),
        ("intervalstyle", "postgres"),
    ] {
        tuning.demand(name, value);
    }
    tuning
}

fn look<T>(
    client: &mut Client,
    what: impl FnOnce(&mut Client) -> std::result::Result<T, postgres::Error>,
) -> Result<T> {
    what(client).map_err(|error| {
        Error::new(Exit::Failed, "cannot read the state of the server")
            .because_all(reasons(&error))
            .because("nothing was touched")
            .with_sqlstate(error.code().map(|code| code.code().to_owned()))
            .hint("give the role the rights that the server names, then run it again")
    })
}

/// Flags, variables, files and the gate: all that can be wrong before a server is asked.
fn read(context: &Context, options: Options) -> Result<Input> {
    if options.gate.as_deref() == Some("-") {
        gate::refuse_terminal(if options.against { "--against" } else { "--gate" }, &chain())?;
    }
    let settings = context.begin(LOG)?;
    log::info!("Starting MS5.0 post-migration validation");
    log::info!("Environment: {}", settings.environment.defaults().name);
    // To the end, before anything is connected: the whole pipeline started at once.
    let story = options.gate.as_deref().map(Story::of).transpose()?;
    for line in story.iter().flat_map(Story::lines) {
        context.recorder.pass_on(line);
    }
    // Gaps are the runner's business: here the ledger tells whether each file that is there was applied.
    let variables = migrations::variables(&context.arguments)?;
    let migrations = migrations::read_folder(&settings.migrations_dir, true, &variables)?;
    let digest = migrations::digest(&migrations);
    if let Some(story) = &story {
        story.require("pre-validate", &digest, options.gate_max_age)?;
        story.require_migrated(&digest, options.gate_max_age)?;
    }
    let (expected_file, expected) = expected::find(&context.arguments, &settings.migrations_dir)?;
    let before = story.as_ref().filter(|_| options.against).map(fingerprints).transpose()?;
    let noted =
        |story: &Story| story.records("pre-validate", "inventory").last().and_then(Inventory::from_json);
    let objects = story.as_ref().filter(|_| options.against).and_then(noted);
    Ok(Input {
        options,
        settings,
        migrations,
        expected_file,
        expected,
        before,
        objects,
        digest,
        story,
        system_identifier: String::new(),
        last_restore: None,
    })
}

/// What pre-validate has counted and hashed.
fn fingerprints(story: &Story) -> Result<Vec<Fingerprint>> {
    let read = |record| {
        Fingerprint::from_json(record).map_err(|why| {
            Error::new(Exit::Failed, "the gate is closed: a record of type table cannot be read")
                .because(why)
                .because("nothing was touched")
                .hint(format!(
                    "run {} of this version again before the next migration",
                    called("pre-validate")
                ))
        })
    };
    story.records("pre-validate", "table").map(read).collect()
}
