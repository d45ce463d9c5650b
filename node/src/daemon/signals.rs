//! The signals that the daemon heeds.

use std::io::{self, IsTerminal};

use tokio::signal::unix::{self, SignalKind, signal};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// To end; with the signal's name.
    End(&'static str),
    /// To read the configuration again.
    Reload,
}

/// SIGTERM, SIGINT and SIGHUP, caught from the moment this exists.
pub(super) struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hangup: unix::Signal,
    had_terminal: bool,
}

impl Signals {
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            had_terminal: io::stderr().is_terminal(),
        })
    }

    /// The next one that comes.
    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::End("SIGTERM"),
            _ = self.interrupt.recv() => Signal::End("SIGINT"),
            _ = self.hangup.recv() => match self.had_terminal && !io::stderr().is_terminal() {
                // The terminal itself has gone, which is what the signal once meant.
                true => Signal::End("SIGHUP"),
                false => Signal::Reload,
            },
        }
    }
}
