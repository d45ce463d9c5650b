//! Whole commands, from the command line to the exit code.

mod command_line;
mod faulty;
mod maintenance;
mod transfers;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::console::Console;
use super::run_in;
use crate::config::{Config, Surroundings};

/// What a command left behind.
struct Outcome {
    code: u8,
    out: Vec<u8>,
    err: String,
    /// What `serve` was called with.
    served: Option<Config>,
}

impl Outcome {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.out).unwrap()
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.out).unwrap()
    }
}

/// A home directory of its own.
struct Home {
    directory: tempfile::TempDir,
    surroundings: Surroundings,
}

impl Home {
    fn new() -> Home {
        let directory = tempfile::tempdir().unwrap();
        let mut surroundings = Surroundings::none();
        surroundings.variables.insert("HOME".into(), directory.path().into());
        Home { directory, surroundings }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn set(&mut self, variable: &str, value: &str) {
        self.surroundings.variables.insert(variable.into(), value.into());
    }

    /// Runs `p2p-cache ARGS`; standard output is no terminal.
    fn run<A: Into<OsString>>(&self, args: impl IntoIterator<Item = A>) -> Outcome {
        self.run_on(false, args)
    }

    fn run_on<A: Into<OsString>>(&self, terminal: bool, args: impl IntoIterator<Item = A>) -> Outcome {
        let (out, err) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let mut console = Console::to(out.clone(), err.clone());
        console.out_is_terminal = terminal;
        let mut served = None;
        let args = std::iter::once("p2p-cache".into()).chain(args.into_iter().map(Into::into));
        let code = run_in(args, &self.surroundings, &console, async |startup| {
            served = Some(startup.loaded.config);
            Ok(())
        });
        let (out, err) = (out.lock().unwrap().clone(), err.lock().unwrap().clone());
        Outcome { code, out, err: String::from_utf8(err).unwrap(), served }
    }
}

/// A standard output whose reader has gone.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
