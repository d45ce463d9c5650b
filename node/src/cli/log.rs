//! Log events to standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

use crate::config::{Loaded, Source, Surroundings};

/// What the commands log that do one thing and end, unless the setting says otherwise.
const QUIET: &str = "warn";

/// Starts logging for the whole process. Does nothing when it has been started before, as in tests.
pub(super) fn start(loaded: &Loaded, is_serve: bool, surroundings: &Surroundings) {
    let log = loaded.values.iter().find(|value| value.setting.key == "log");
    let is_chosen = log.is_some_and(|log| log.source != Source::Default);
    let filter = if is_serve || is_chosen { loaded.config.log.as_str() } else { QUIET };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // The journal stamps every line itself.
    let _ = if surroundings.is_in_journal() {
        subscriber.without_time().try_init()
    } else {
        subscriber.with_timer(SystemTime).try_init()
    };
}
