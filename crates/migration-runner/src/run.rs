//! The flow of a run: read everything, check everything, then do what the flags ask for.

use ms5_common::called::called;
use ms5_common::config::Settings;
use ms5_common::db::backend::RUN;
use ms5_common::db::connect::Connected;
use ms5_common::db::server_error::reasons;
use ms5_common::db::session::{self, Server};
use ms5_common::error::{Error, Result};
use ms5_common::exit::Exit;
use ms5_common::expected;
use ms5_common::gate::{self, Story};
use ms5_common::migrations::{self, Migration};
use ms5_common::success;
use ms5_common::tool::{Context, LogFile};

use crate::args::{Mode, Options, TOOL};
use crate::plan::{Known, Permissions};
use crate::prove::{self, Promised};
use crate::sessions::Sessions;
use crate::{adopt, execute, explain, look, prepare, repair, rollback_point, system};

/// What feeds `--gate=-`.
fn chain() -> String {
    format!("{} --json | {} --gate=-", called("pre-validate"), called(TOOL))
}

/// Everything a run has read before it connects.
pub(crate) struct Input {
    pub(crate) options: Options,
    pub(crate) settings: Settings,
    pub(crate) migrations: Vec<Migration>,
    /// With `--prove`: the tables to prove.
    pub(crate) promised: Vec<Promised>,
    /// psql variables were given: what stands in the files after them may hold secrets.
    pub(crate) has_variables: bool,
    digest: String,
    story: Option<Story>,
}

impl Input {
    pub(crate) fn known(&self) -> Vec<Known<'_>> {
        self.migrations.iter().map(Known::of).collect()
    }

    pub(crate) fn permissions(&self) -> Permissions {
        let Options { force, out_of_order, target, .. } = self.options;
        Permissions { force, out_of_order, target }
    }
}

/// The whole tool.
pub(crate) fn run(context: &Context) -> Result<Exit> {
    let input = read(context)?;
    let sessions = Sessions::new(&input.settings, &input.options);
    let mut connected = sessions.connect(RUN)?;
    let server = identify(context, &input, &mut connected)?;
    if input.options.mode.only_looks() {
        let seen = look::Seen::take(&mut connected.client, &input)?;
        return match input.options.mode {
            Mode::Status => Ok(look::status(context, &input, &seen)),
            Mode::Plan => explain::show(context, &input, &seen),
            _ => look::dry_run(context, &input, &seen),
        };
    }
    let (point, before) = rollback_point::make(context, &input, &mut connected.client)?.unzip();
    // As long as this lives, a signal asks for a clean end instead of ending the process.
    let (ready, _work) = prepare::prepare(context, &input, &sessions, connected, &server, before.as_ref())?;
    match input.options.mode {
        Mode::Repair => repair::run(context, &input, ready),
        Mode::Adopt => adopt::run(context, &input, &sessions, ready),
        _ => execute::run(context, &input, &sessions, ready, point.as_ref(), &server),
    }
}

/// Who answers, told to the log and to the records; and whether the gate is for this database.
fn identify(context: &Context, input: &Input, connected: &mut Connected) -> Result<Server> {
    let server = session::identify(&mut connected.client, &input.settings)?;
    success!("Database connection successful");
    log::info!("Server: PostgreSQL {}, database {}", server.version, input.settings.database());
    context.recorder.start(Some(&server.identity), Some(&input.digest));
    if let Some(story) = &input.story {
        story
            .require("pre-validate", &input.digest, input.options.gate_max_age)?
            .same_database(&server.identity)?;
        success!("The gate is open: pre-validate passed on this database and these files");
    }
    Ok(server)
}

/// Flags, variables, files and the gate: all that can be wrong before a server is asked.
fn read(context: &Context) -> Result<Input> {
    let options = Options::of(&context.arguments)?;
    if options.gate.as_deref() == Some("-") {
        gate::refuse_terminal("--gate", &chain())?;
    }
    let settings = context.begin(LogFile { folder: "migrations", name: "migration", title: "migration" })?;
    log::info!("Starting MS5.0 database migration process");
    log::info!("Environment: {}", settings.environment.defaults().name);
    log::info!("Dry run: {}", options.mode == Mode::DryRun);
    // To the end, before anything is connected or locked: the whole pipeline started at once.
    let story = options.gate.as_deref().map(Story::of).transpose()?;
    for line in story.iter().flat_map(Story::lines) {
        context.recorder.pass_on(line);
    }
    system::check(&settings.home);
    let variables = migrations::variables(&context.arguments)?;
    let migrations = migrations::read_folder(&settings.migrations_dir, options.out_of_order, &variables)?;
    if let Some(target) = options.target.filter(|target| !migrations.iter().any(|m| m.number == *target)) {
        return Err(Error::new(Exit::Usage, format!("--target={target}: no migration has that number"))
            .hint(format!("the files are in {}", settings.migrations_dir.display())));
    }
    let digest = migrations::digest(&migrations);
    if let Some(story) = &story {
        story.require("pre-validate", &digest, options.gate_max_age)?;
    }
    let promised = promised(context, &options, &settings)?;
    let statements: usize = migrations.iter().map(Migration::statement_count).sum();
    log::info!(
        "Found {} migration files with {statements} statements in {}",
        migrations.len(),
        settings.migrations_dir.display()
    );
    Ok(Input { options, settings, migrations, promised, has_variables: !variables.is_empty(), digest, story })
}

/// With `--prove`, the tables that are promised to become hypertables.
fn promised(context: &Context, options: &Options, settings: &Settings) -> Result<Vec<Promised>> {
    if !options.prove {
        return Ok(Vec::new());
    }
    let (file, expected) = expected::find(&context.arguments, &settings.migrations_dir)?;
    let promised = expected.as_ref().map(prove::promised).unwrap_or_default();
    if promised.is_empty() {
        return Err(Error::new(Exit::Config, "--prove has nothing to prove")
            .because(format!("{} promises no hypertable, or is not there", file.display()))
            .because("nothing was touched")
            .hint("write down which tables become hypertables, as migrations/README.md shows"));
    }
    Ok(promised)
}

/// A failed look at the database, before anything was touched.
pub(crate) fn unreadable(what: &str) -> impl Fn(postgres::Error) -> Error + '_ {
    move |error| {
        Error::new(Exit::Failed, format!("cannot read {what}"))
            .because_all(reasons(&error))
            .because("nothing was touched")
            .hint("give the role the rights that the server names, then run it again")
    }
}
