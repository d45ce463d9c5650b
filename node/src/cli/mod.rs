//! The command line: `p2p-cache serve|status|put|get|verify|gc|config|id`.
//!
//! Results go to standard output, diagnostics to standard error. Exit codes: 0 success, 64 wrong command
//! line or configuration, 1 anything else.

mod args;
mod client;
mod config;
mod console;
mod error;
mod flags;
mod generate;
mod get;
mod id;
mod log;
mod maintain;
mod progress;
mod put;
mod sink;
mod status;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::ffi::OsString;
use std::process::ExitCode;

use clap::FromArgMatches;

use crate::config::{Config, Flags, Loaded, Surroundings, load};
use args::{Cli, Command};
use console::Console;
use error::CliError;
pub use error::{EXIT_FAILURE, EXIT_USAGE};

/// Runs one command of the given command line (the first argument is the name of the program) and returns
/// the exit code of the process. `serve` is what runs a node; the asynchronous runtime is there by then, and
/// so is logging.
pub fn run(
    args: impl IntoIterator<Item = OsString>,
    serve: impl AsyncFnOnce(Config) -> Result<(), Box<dyn Error + Send + Sync>>,
) -> ExitCode {
    ExitCode::from(run_in(args, &Surroundings::of_process(), &Console::of_process(), serve))
}

/// [`run`] with everything around the process as arguments.
fn run_in(
    args: impl IntoIterator<Item = OsString>,
    surroundings: &Surroundings,
    console: &Console,
    serve: impl AsyncFnOnce(Config) -> Result<(), Box<dyn Error + Send + Sync>>,
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
    serve: impl AsyncFnOnce(Config) -> Result<(), Box<dyn Error + Send + Sync>>,
) -> Result<(), CliError> {
    if let Command::Generate(args) = &command {
        return generate::run(console, args.what, &args.directory);
    }
    let loaded = load(command.flags(), surroundings)?;
    if let Command::Config(args) = &command {
        return config::run(console, &loaded, args.check, args.json);
    }
    let is_serve = matches!(command, Command::Serve(_));
    log::start(&loaded, is_serve, surroundings);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Runtime { error })?;
    runtime.block_on(dispatch(command, loaded, console, serve))
}

async fn dispatch(
    command: Command,
    loaded: Loaded,
    console: &Console,
    serve: impl AsyncFnOnce(Config) -> Result<(), Box<dyn Error + Send + Sync>>,
) -> Result<(), CliError> {
    let config = loaded.config;
    match command {
        Command::Serve(_) => serve(config).await.map_err(CliError::Serve),
        Command::Status(args) => status::run(console, config.http, args.json).await,
        Command::Put(args) => put::run(console, &config, &args.file, args.private, args.json).await,
        Command::Get(args) => get::run(console, config.http, &args.digest, args.output).await,
        Command::Verify(args) => maintain::verify(console, &config, args.json).await,
        Command::Gc(args) => maintain::gc(console, &config, args.json).await,
        Command::Id(args) => id::run(console, config.state_dir, args.create, args.json).await,
        // Need no runtime and were answered before.
        Command::Config(_) | Command::Generate(_) => Ok(()),
    }
}

static NO_FLAGS: Flags = Flags { config_file: None, values: Vec::new() };

impl Command {
    fn flags(&self) -> &Flags {
        match self {
            Command::Serve(args) => &args.settings.flags,
            Command::Status(args) => &args.settings.flags,
            Command::Put(args) => &args.settings.flags,
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
