//! The skeleton of every tool: parse, start logging and records, run, print the error, end with the code.

use std::any::Any;
use std::ffi::OsString;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;

use crate::called;
use crate::cli::{self, Parsed, Spec};
use crate::clock;
use crate::config::{self, Choices, Environment, Settings, Variables};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::interrupt;
use crate::logging::{self, Stream};
use crate::progress;
use crate::record::Recorder;

/// What a tool is given to work with.
pub struct Context {
    /// The command line.
    pub arguments: Parsed,
    /// The words that it was made of, for the text of a failure.
    pub words: Vec<String>,
    /// The environment's variables, read once.
    pub variables: Variables,
    /// Where records go.
    pub recorder: Arc<Recorder>,
}

/// The log file of a tool's runs.
#[derive(Debug, Clone, Copy)]
pub struct LogFile {
    /// Its folder in the folder of the logs.
    pub folder: &'static str,
    /// What its name begins with; environment and time follow.
    pub name: &'static str,
    /// What it is the log of, in its first line.
    pub title: &'static str,
}

impl Context {
    /// Learns which database is meant, and opens what the run is written to: the files of `--report` and `--html`, and the log
    /// file, which begins with a header block.
    ///
    /// # Errors
    /// What is wrong with the configuration, or with the files of `--report` and `--html`.
    pub fn begin(&self, log: LogFile) -> Result<Settings> {
        let settings = config::load(Choices::of(&self.arguments), &self.variables, Environment::Production)?;
        self.begin_as(&settings, log)?;
        Ok(settings)
    }

    /// The same where the settings are known.
    ///
    /// # Errors
    /// As above.
    pub fn begin_as(&self, settings: &Settings, log: LogFile) -> Result<()> {
        let environment = settings.environment.defaults().name;
        let recorder = &self.recorder;
        recorder.environment(environment);
        let [report, page] = [cli::REPORT, cli::HTML].map(|flag| self.arguments.value(flag.name));
        if report.is_some() && report == page {
            return Err(Error::new(Exit::Usage, "--report and --html name the same file")
                .hint("give each a file of its own: --report=run.jsonl --html=run.html"));
        }
        if let Some(file) = report {
            recorder.report_to(file.as_ref())?;
        }
        if let Some(file) = page {
            recorder.page_to(file.as_ref())?;
        }
        let LogFile { folder, name, title } = log;
        logging::open_file(
            &settings.log_dir.join(folder),
            &format!("{name}_{environment}_{}", clock::file_stamp()),
            &[
                (&format!("MS5.0 {title} log"), recorder.tool().to_owned()),
                ("Environment", environment.to_owned()),
                ("Started", clock::line_time()),
                ("Database", settings.database()),
                ("User", settings.connection.user.clone()),
                ("Version", recorder.version().to_owned()),
                ("Run", recorder.run_id().to_owned()),
            ],
        );
        Ok(())
    }
}

/// Runs a tool: everything between `main`'s first line and the exit code.
///
/// A tool that fails returns an [`Error`]; it is printed here and nowhere else. A tool that did all it could and
/// still has to say no (a failed migration, a partial run) has printed why and returns the exit code.
pub fn run(
    spec: &Spec,
    module: &'static str,
    version: &'static str,
    body: impl FnOnce(&Context) -> Result<Exit>,
) -> ExitCode {
    clock::remember_local_offset();
    let variables = Variables::read();
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let given = |flag: &str| words.iter().any(|word| word == flag);
    let json = given("--json");
    let stream = if json { Stream::Stderr } else { Stream::Stdout };
    logging::init(module, stream, given("--verbose"), variables.colour_allowed());
    progress::init(variables.terminal_can_redraw());
    called::init(variables.get(called::SCRIPTS));

    // Help and version are answered whatever else stands on the line, and without touching anything.
    if given("--help") || given("-h") {
        return shown(&cli::help(spec));
    }
    if given("--version") {
        return shown(&format!("{} {version}\n", spec.tool));
    }

    let recorder = Arc::new(Recorder::new(spec.tool, version, json));
    let classic = variables.classic_exit();
    let code = move |exit: Exit| if classic { exit.classic() } else { exit.code() };
    let last_word = Arc::clone(&recorder);
    if let Err(error) =
        interrupt::listen(move |exit| last_word.verdict(exit, Some("stopped by a signal")), code)
    {
        log::warn!("cannot listen to signals: {error}; one of them ends the tool at once");
    }
    let texts = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let exit = match cli::parse(spec, words) {
        Err(error) => ended(&recorder, Err(error)),
        Ok(arguments) => {
            let context = Context { arguments, words: texts, variables, recorder };
            let outcome = catch_unwind(AssertUnwindSafe(|| body(&context))).unwrap_or_else(|panic| {
                Err(Error::new(Exit::Bug, format!("a bug in {}: {}", spec.tool, panic_text(panic.as_ref())))
                    .hint("please report it with the command line and the log file"))
            });
            ended(&context.recorder, outcome)
        }
    };
    interrupt::leave_the_end_to_signals();
    ExitCode::from(code(exit))
}

fn ended(recorder: &Recorder, outcome: Result<Exit>) -> Exit {
    match outcome {
        Ok(exit) => {
            recorder.verdict(exit, None);
            exit
        }
        Err(error) => {
            for line in error.lines() {
                log::error!("{line}");
            }
            recorder.verdict(error.exit(), Some(error.message()));
            error.exit()
        }
    }
}

fn shown(text: &str) -> ExitCode {
    // A reader that went away (`--help | head -1`) has seen what it wanted.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
