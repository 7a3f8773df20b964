//! The flow: look at everything, in the order of the list, whatever fails on the way.

use std::time::Duration;

use ms5_common::check::{self, Finding, Report};
use ms5_common::config::{self, Settings};
use ms5_common::db::client::Client;
use ms5_common::db::connect::Connected;
use ms5_common::db::server_error::reasons;
use ms5_common::db::session::{self, Server, Tuning};
use ms5_common::error::Result;
use ms5_common::exit::Exit;
use ms5_common::expected::{self, Expected};
use ms5_common::machine::FreeSpace;
use ms5_common::migrations::{self, Migration};
use ms5_common::tool::{Context, LogFile};

use crate::args::{Options, TOOL};
use crate::checks::network::Network;
use crate::checks::rights::{self, Role};
use crate::checks::server::{self, Facts};
use crate::checks::{
    self, activity, container, conversion, files, fingerprint, inventory, locks, machine, security,
    timescale, way_back,
};

/// Where a run is written down.
const LOG: LogFile =
    LogFile { folder: "validation", name: "pre_migration_validation", title: "pre-migration validation" };
/// How long a check may wait for a lock or work in the database.
const PROBE: &str = "1s";

/// The whole tool.
pub(crate) fn run(context: &Context) -> Result<Exit> {
    let mut options = Options::of(&context.arguments, &context.variables)?;
    if options.list {
        check::list(checks::ALL);
        return Ok(Exit::Done);
    }
    let variables = migrations::variables(&context.arguments)?;
    let settings = context.begin(LOG)?;
    log::info!("Starting MS5.0 pre-migration validation");
    log::info!("Environment: {}", settings.environment.defaults().name);
    let (_, expected) = expected::find(&context.arguments, &settings.migrations_dir)?;
    let migrations = migrations::read_folder(&settings.migrations_dir, options.out_of_order, &variables);
    // The first record names the database, so the way there is looked at before anything is reported.
    let network = Network::look(&settings, options.limits.network);
    let session = network.open.then(|| connect(&settings, options.limits.network));
    let identity = match &session {
        Some(Ok((_, server))) => Some(&server.identity),
        _ => None,
    };
    let digest = migrations.as_ref().ok().map(|files| migrations::digest(files));
    context.recorder.start(identity, digest.as_deref());

    let mut report = Report::new(&context.recorder, options.strict);
    let space = FreeSpace::look();
    machine::check(&mut report, &space, &settings.home, options.limits);
    network.report(&mut report);
    let client = match session {
        None => {
            report.add(&checks::CONNECTION, Finding::skipped("the server's port does not answer"));
            None
        }
        Some(Err(error)) => {
            report.add(&checks::CONNECTION, Finding::failed(&error));
            None
        }
        Some(Ok((connected, server))) => {
            let line = Finding::pass("Database connection successful");
            report.add(
                &checks::CONNECTION,
                line.because(format!("PostgreSQL {}, database {}", server.version, settings.database())),
            );
            Some((connected, server.single_session))
        }
    };
    match client {
        None => {
            container::check(&mut report, &settings, &context.variables);
            files::check(&mut report, &migrations, &folder(&settings), None);
        }
        Some((mut connected, single_session)) => {
            let files = migrations.as_ref().ok().map(Vec::as_slice);
            let asked = Asked { settings: &settings, options: &options, space: &space, single_session };
            database(&mut report, &mut connected, &asked, files, expected.as_ref());
            container::check(&mut report, &settings, &context.variables);
            files::check(&mut report, &migrations, &folder(&settings), Some(&mut connected.client));
            // What follows takes its time, in sessions of its own; a server may have but one.
            drop(connected);
            if single_session {
                options.jobs = 1;
            }
            inventory::check(&mut report, &context.recorder, &settings, options.quick);
            fingerprint::check(&mut report, &context.recorder, &settings, &options, expected.as_ref());
        }
    }
    Ok(report.conclude("Pre-migration validation"))
}

fn folder(settings: &Settings) -> String {
    config::absolute(&settings.migrations_dir).display().to_string()
}

fn connect(settings: &Settings, limit: Duration) -> Result<(Connected, Server)> {
    let mut tuning = Tuning::default();
    tuning.demand("lock_timeout", PROBE);
    tuning.demand("statement_timeout", PROBE);
    let mut settings = settings.clone();
    settings.connection.connect_timeout.get_or_insert(limit);
    let mut connected = session::open(&settings, TOOL, "", &tuning)?;
    let server = session::identify(&mut connected.client, &settings)?;
    let wanted = [("lock_timeout", PROBE), ("statement_timeout", PROBE)];
    session::demand_settings(&mut connected.client, &settings, &server, &wanted)?;
    Ok((connected, server))
}

/// What is known before the server is asked.
struct Asked<'a> {
    settings: &'a Settings,
    options: &'a Options,
    space: &'a FreeSpace,
    single_session: bool,
}

/// Everything that is asked of the server.
fn database(
    report: &mut Report<'_>,
    connected: &mut Connected,
    asked: &Asked<'_>,
    files: Option<&[Migration]>,
    expected: Option<&Expected>,
) {
    let Asked { settings, options, space, single_session } = *asked;
    let tls = connected.tls;
    let client = &mut connected.client;
    let (facts, role) = match ask(client, settings) {
        Ok(asked) => asked,
        Err(error) => {
            report.add(
                &checks::VERSION,
                Finding::fail("The server does not tell what it is").because_all(reasons(&error)),
            );
            return;
        }
    };
    server::check_way(report, &facts, client, options.limits);
    rights::check(report, client, settings, &role, files);
    way_back::check(report, client, &role, options.restore_user.as_deref());
    timescale::check(report, client, settings, &facts, single_session, options.quick);
    server::check_settings(report, &facts, space, options.limits);
    locks::check(report, client, &facts, expected);
    conversion::check(report, client, files, expected);
    activity::check(report, client, options.limits.transaction, options.quick);
    security::check(report, client, settings, &facts, &role, tls, options.quick);
}

fn ask(client: &mut Client, settings: &Settings) -> std::result::Result<(Facts, Role), postgres::Error> {
    Ok((Facts::ask(client, settings)?, Role::ask(client)?))
}
