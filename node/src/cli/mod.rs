//! The command line: `p2p-cache serve|status|doctor|reload|put|get|verify|gc|config|id`.
//!
//! Results go to standard output, diagnostics to standard error. Exit codes: 0 success, 64 wrong command
//! line or configuration, 1 anything else.

mod args;
mod client;
mod config;
mod console;
mod doctor;
mod error;
mod flags;
mod generate;
mod get;
mod id;
mod maintain;
mod pin;
mod progress;
mod put;
mod reload;
mod sink;
mod status;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::ffi::OsString;
use std::process::ExitCode;

use clap::FromArgMatches;

use crate::config::{Flags, Loaded, Reader, Source, Surroundings, load};
use crate::daemon::Startup;
use crate::logging;
use args::{Cli, Command};
use console::Console;
use error::CliError;
pub use error::{EXIT_FAILURE, EXIT_USAGE};

/// Runs one command of the given command line (the first argument is the name of the program) and returns
/// the exit code of the process. `serve` is what runs a node; the asynchronous runtime is there by then, and
/// so is logging.
pub fn run(
    args: impl IntoIterator<Item = OsString>,
    serve: impl AsyncFnOnce(Startup) -> Result<(), Box<dyn Error + Send + Sync>>,
) -> ExitCode {
    ExitCode::from(run_in(args, &Surroundings::of_process(), &Console::of_process(), serve))
}

/// [`run`] with everything around the process as arguments.
fn run_in(
    args: impl IntoIterator<Item = OsString>,
    surroundings: &Surroundings,
    console: &Console,
    serve: impl AsyncFnOnce(Startup) -> Result<(), Box<dyn Error + Send + Sync>>,
) -> u8 {
    let parsed =
        args::command().try_get_matches_from(args).and_then(|matches| Cli::from_arg_matches(&matches));
    let outcome = match parsed {
        Ok(cli) => execute(cli.command, surroundings, console, serve),
        Err(error) if error.use_stderr() => {
            console.complain(error.render().to_string().trim_end());
            return EXIT_USAGE;
        }
        // Help and version.
        Err(error) => console.print(&error.render().to_string()),
    };
    match outcome {
        Ok(()) => 0,
        Err(error) => {
            if !matches!(error, CliError::OutputClosed) {
                console.complain(&format!("error: {}", error.message()));
            }
            error.exit_code()
        }
    }
}

fn execute(
    command: Command,
    surroundings: &Surroundings,
    console: &Console,
    serve: impl AsyncFnOnce(Startup) -> Result<(), Box<dyn Error + Send + Sync>>,
) -> Result<(), CliError> {
    if let Command::Generate(args) = &command {
        return generate::run(console, args.what, &args.directory);
    }
    let loaded = load(command.flags(), surroundings)?;
    if let Command::Config(args) = &command {
        return config::run(console, &loaded, args.check, args.json);
    }
    let is_serve = matches!(command, Command::Serve(_));
    let log = logging::start(
        log_filter(&loaded, is_serve),
        loaded.config.log_format,
        surroundings.journal_stream(),
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Runtime { error })?;
    let reader = Reader::new(command.flags().clone(), surroundings.clone());
    runtime.block_on(dispatch(command, Startup { loaded, reader, log }, console, serve))
}

/// What the commands log that do one thing and end, unless the setting says otherwise.
const QUIET: &str = "warn";

fn log_filter(loaded: &Loaded, is_serve: bool) -> &str {
    let log = loaded.values.iter().find(|value| value.setting.key == "log");
    let is_chosen = log.is_some_and(|log| log.source != Source::Default);
    if is_serve || is_chosen { &loaded.config.log } else { QUIET }
}

async fn dispatch(
    command: Command,
    startup: Startup,
    console: &Console,
    serve: impl AsyncFnOnce(Startup) -> Result<(), Box<dyn Error + Send + Sync>>,
) -> Result<(), CliError> {
    if let Command::Serve(_) = command {
        return serve(startup).await.map_err(CliError::Serve);
    }
    let config = startup.loaded.config;
    match command {
        Command::Doctor(args) => doctor::run(console, &config, args.json).await,
        Command::Reload(args) => reload::run(console, config.http, args.json).await,
        Command::Status(args) => status::run(console, config.http, args.json, args.watch).await,
        Command::Put(args) => put::run(console, &config, &args.file, args.private, args.json).await,
        Command::Pin(args) => pin::run(console, &config, &args.names, true).await,
        Command::Unpin(args) => pin::run(console, &config, &args.names, false).await,
        Command::Get(args) => get::run(console, config.http, &args.digest, args.output).await,
        Command::Verify(args) => maintain::verify(console, &config, args.json).await,
        Command::Gc(args) => maintain::gc(console, &config, args.json).await,
        Command::Id(args) => id::run(console, config.state_dir, args.create, args.json).await,
        // Were answered before.
        Command::Serve(_) | Command::Config(_) | Command::Generate(_) => Ok(()),
    }
}

static NO_FLAGS: Flags = Flags { config_file: None, values: Vec::new() };

impl Command {
    fn flags(&self) -> &Flags {
        match self {
            Command::Serve(args) => &args.settings.flags,
            Command::Status(args) => &args.settings.flags,
            Command::Doctor(args) => &args.settings.flags,
            Command::Reload(args) => &args.settings.flags,
            Command::Put(args) => &args.settings.flags,
            Command::Pin(args) | Command::Unpin(args) => &args.settings.flags,
            Command::Get(args) => &args.settings.flags,
            Command::Verify(args) => &args.settings.flags,
            Command::Gc(args) => &args.settings.flags,
            Command::Config(args) => &args.settings.flags,
            Command::Id(args) => &args.settings.flags,
            // Has no settings.
            Command::Generate(_) => &NO_FLAGS,
        }
    }
}
