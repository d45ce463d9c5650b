//! Standard output and standard error, as values, so that tests can read what was written.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::CliError;

type Shared = Arc<Mutex<dyn Write + Send>>;

/// Results go to `out`, diagnostics to `err`. Cheap to clone.
#[derive(Clone)]
pub(super) struct Console {
    out: Shared,
    err: Shared,
    /// Whether standard output is a terminal: no place for binary data.
    pub(super) out_is_terminal: bool,
    /// Whether standard error is a terminal: a place for progress bars.
    pub(super) err_is_terminal: bool,
}

impl Console {
    /// That of this process.
    pub(super) fn of_process() -> Console {
        Console {
            out: unbuffered_stdout(),
            err: Arc::new(Mutex::new(io::stderr())),
            out_is_terminal: io::stdout().is_terminal(),
            err_is_terminal: io::stderr().is_terminal(),
        }
    }

    /// One that writes elsewhere, and is no terminal.
    #[cfg(test)]
    pub(super) fn to(out: Shared, err: Shared) -> Console {
        Console { out, err, out_is_terminal: false, err_is_terminal: false }
    }

    /// Writes a result; the text needs its final newline.
    pub(super) fn print(&self, text: &str) -> Result<(), CliError> {
        self.write(text.as_bytes())
    }

    /// Writes a value as JSON, indented, with a final newline.
    pub(super) fn print_json(&self, value: &impl serde::Serialize) -> Result<(), CliError> {
        let text = serde_json::to_string_pretty(value).map_err(|error| CliError::Json { error })?;
        self.print(&(text + "\n"))
    }

    /// Writes bytes of a result. Blocks as long as the reader does.
    pub(super) fn write(&self, bytes: &[u8]) -> Result<(), CliError> {
        let mut out = lock(&self.out);
        out.write_all(bytes).and_then(|()| out.flush()).map_err(CliError::stdout)
    }

    /// Writes a diagnostic. Nobody is left to tell when that fails.
    pub(super) fn complain(&self, text: &str) {
        let _ = writeln!(lock(&self.err), "{text}");
    }
}

fn lock<'a>(stream: &'a Mutex<dyn Write + Send + 'static>) -> MutexGuard<'a, dyn Write + Send + 'static> {
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `std::io::Stdout` looks for newlines in all it writes, which costs time on blobs.
fn unbuffered_stdout() -> Shared {
    use std::os::fd::AsFd;
    match io::stdout().as_fd().try_clone_to_owned() {
        Ok(descriptor) => Arc::new(Mutex::new(std::fs::File::from(descriptor))),
        Err(_) => Arc::new(Mutex::new(io::stdout())),
    }
}

/// Text of another machine made harmless for a terminal: control characters become `?`.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_of_others_do_not_reach_the_terminal() {
        assert_eq!(printable("evil\x1b[2J\r\nname\u{9b}"), "evil?[2J??name?");
    }
}
