//! Log events to standard error.

use std::fmt;
use std::io::IsTerminal;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, layer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// As text; in the journal of systemd without the time, which it knows, and with the priority, which it reads.
    Auto,
    /// As text, wherever it goes.
    Human,
    /// One JSON object a line.
    Json,
}

/// Changes the filter of a log that was started. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct LogControl(Option<reload::Handle<EnvFilter, Registry>>);

impl LogControl {
    /// Which events are logged from now on. Nothing where no log was started, as in tests.
    pub fn set_filter(&self, filter: &str) {
        let Some(handle) = &self.0 else { return };
        if let Err(error) = handle.reload(EnvFilter::new(filter)) {
            tracing::error!(%error, "the filter of the log cannot be changed");
        }
    }
}

/// Starts logging for the whole process; does nothing when it has been started before, as in tests. `journal` names the
/// file that leads to the journal of systemd (`JOURNAL_STREAM`).
pub fn start(filter: &str, format: LogFormat, journal: Option<&str>) -> LogControl {
    let (filter, handle) = reload::Layer::new(EnvFilter::new(filter));
    let stderr = layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let to_journal = format == LogFormat::Auto && journal.is_some_and(is_stderr);
    let lines = match (format, to_journal) {
        (LogFormat::Json, _) => stderr.json().flatten_event(true).with_span_list(false).boxed(),
        (_, true) => stderr.event_format(Journal::new()).boxed(),
        (_, false) => stderr.boxed(),
    };
    match tracing_subscriber::registry().with(filter).with(lines).try_init() {
        Ok(()) => LogControl(Some(handle)),
        Err(_) => LogControl::default(),
    }
}

/// Whether standard error is this file: it may have been redirected, and a child may have inherited the variable.
fn is_stderr(device_and_inode: &str) -> bool {
    let Ok(status) = rustix::fs::fstat(std::io::stderr()) else { return false };
    device_and_inode == format!("{}:{}", status.st_dev, status.st_ino)
}

/// Lines as the journal reads them from a stream: a priority, then the text.
struct Journal(Format<Full, ()>);

impl Journal {
    fn new() -> Self {
        Self(Format::default().without_time().with_level(false).with_ansi(false))
    }
}

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

/// That of syslog. "Notice" is left out: nothing of ours lies between a warning and information.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_journal_gets_priorities_and_the_fields_of_spans() {
        let lines = Lines::default();
        let writer = lines.clone();
        let stream =
            layer().with_writer(move || writer.clone()).with_ansi(false).event_format(Journal::new());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(stream), || {
            tracing::error!("broken");
            let _span = tracing::info_span!("request", id = 7).entered();
            tracing::info!(status = 200, "answered");
            tracing::trace!("detail");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let starts: Vec<_> = text.lines().map(|line| &line[..3]).collect();
        assert_eq!(starts, ["<3>", "<6>", "<7>"], "{text}");
        assert!(text.contains("request{id=7}") && text.contains("answered status=200"), "{text}");
    }

    #[test]
    fn another_file_is_not_the_journal() {
        let own = rustix::fs::fstat(io::stderr()).unwrap();
        assert!(is_stderr(&format!("{}:{}", own.st_dev, own.st_ino)));
        for other in ["", "0:0", "nonsense", &format!("{}:{}", own.st_dev, own.st_ino + 1)] {
            assert!(!is_stderr(other), "{other}");
        }
    }
}
