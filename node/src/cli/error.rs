//! What can go wrong in a command, and with which exit code.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use p2p_cache_discovery::IdentityError;

use crate::config::ConfigError;
use crate::store::StoreError;

/// Exit code of a wrong command line or configuration (EX_USAGE of sysexits.h).
pub const EXIT_USAGE: u8 = 64;
/// Exit code of every other failure.
pub const EXIT_FAILURE: u8 = 1;

/// A command failed. The message ends with what to do.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    /// Also for faults of flags.
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{argument}: {problem}; {remedy}")]
    Argument { argument: &'static str, problem: String, remedy: &'static str },
    #[error("cannot start the asynchronous runtime: {error}; look for a limit on threads (ulimit -u)")]
    Runtime { error: io::Error },
    /// The reader of standard output has gone: it has what it wanted.
    #[error("standard output was closed")]
    OutputClosed,
    #[error("cannot write to standard output: {error}; check where it is redirected to")]
    Output { error: io::Error },
    #[error("cannot write JSON: {error}; run the command without --json and report this")]
    Json { error: serde_json::Error },
    #[error("{0}")]
    Serve(Box<dyn Error + Send + Sync>),
    #[error(
        "no node answers on {url} ({reason}); start one with `p2p-cache serve`, or give its address with --http ADDR:PORT"
    )]
    NoNode { url: String, reason: String },
    #[error("{method} {url}: {reason} after {elapsed_seconds:.1} s; {remedy}")]
    Request { method: &'static str, url: String, reason: String, elapsed_seconds: f64, remedy: &'static str },
    /// The running node says what is wrong with its configuration.
    #[error("nothing was changed: {faults}")]
    NotReloaded { faults: String },
    #[error("{method} {url}: the node answered {status}{}; {remedy}", detail(message))]
    Refused { method: &'static str, url: String, status: u16, message: String, remedy: &'static str },
    #[error("{action} {}: {error}; {remedy}", path.display())]
    File { action: &'static str, path: PathBuf, error: io::Error, remedy: &'static str },
    #[error(
        "the bytes received for {expected} hash to {actual}; nothing was kept: run `p2p-cache verify` on the node that answered"
    )]
    Mismatch { expected: String, actual: String },
    #[error(
        "no state directory {}; `p2p-cache serve` makes it, or name another one with --state-dir",
        path.display()
    )]
    NoState { path: PathBuf },
    #[error(
        "no node key in {}; `p2p-cache serve` makes one at its first start, `p2p-cache id --create` makes it now",
        path.display()
    )]
    NoIdentity { path: PathBuf },
    #[error("{0}; check the owner and the rights of the state directory")]
    Identity(#[from] IdentityError),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error(
        "{bad} of {checked} blobs were bad and are removed; they will be fetched again when they are needed"
    )]
    BadBlobs { bad: u64, checked: u64 },
    #[error("a worker of this command died: {reason}; report this")]
    Worker { reason: String },
    #[error("{failed} of {all} checks failed")]
    Unhealthy { failed: usize, all: usize },
    #[error("interrupted; nothing was kept")]
    Interrupted,
}

fn detail(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(" ({message})") }
}

impl CliError {
    /// A failure of writing to standard output.
    pub(super) fn stdout(error: io::Error) -> CliError {
        if error.kind() == io::ErrorKind::BrokenPipe {
            CliError::OutputClosed
        } else {
            CliError::Output { error }
        }
    }

    /// The exit code of the process.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            CliError::Config(_) | CliError::Argument { .. } | CliError::NotReloaded { .. } => EXIT_USAGE,
            CliError::OutputClosed => 0,
            CliError::Runtime { .. }
            | CliError::Output { .. }
            | CliError::Json { .. }
            | CliError::Serve(_)
            | CliError::NoNode { .. }
            | CliError::Request { .. }
            | CliError::Refused { .. }
            | CliError::File { .. }
            | CliError::Mismatch { .. }
            | CliError::NoState { .. }
            | CliError::NoIdentity { .. }
            | CliError::Identity(_)
            | CliError::Store(_)
            | CliError::BadBlobs { .. }
            | CliError::Worker { .. }
            | CliError::Unhealthy { .. }
            | CliError::Interrupted => EXIT_FAILURE,
        }
    }

    /// The message with those of its causes that it does not repeat itself.
    pub(super) fn message(&self) -> String {
        let mut text = self.to_string();
        let mut cause = match self {
            CliError::Serve(error) => error.source(),
            CliError::Store(error) => error.source(),
            other => other.source(),
        };
        while let Some(error) = cause {
            let more = error.to_string();
            if !text.contains(&more) {
                text = format!("{text}: {more}");
            }
            cause = error.source();
        }
        text
    }
}

impl From<tokio::task::JoinError> for CliError {
    fn from(error: tokio::task::JoinError) -> CliError {
        CliError::Worker { reason: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot bind 127.0.0.1:1")]
    struct Outer {
        source: io::Error,
    }

    #[test]
    fn causes_are_told_once() {
        let source = io::Error::other("address in use");
        let error = CliError::Serve(Box::new(Outer { source }));
        assert_eq!(error.message(), "cannot bind 127.0.0.1:1: address in use");
        let error = CliError::Serve("plain: address in use".into());
        assert_eq!(error.message(), "plain: address in use");
    }

    #[test]
    fn a_closed_pipe_is_no_failure_and_a_full_disk_is_one() {
        assert_eq!(CliError::stdout(io::ErrorKind::BrokenPipe.into()).exit_code(), 0);
        assert_eq!(CliError::stdout(io::ErrorKind::StorageFull.into()).exit_code(), EXIT_FAILURE);
    }
}
