//! A client that reads from the front as fast as bytes are there.

use std::time::Duration;

use p2p_cache::fetch::scheduler::{Event, ReaderId};

/// How often its place is reported, as the daemon does.
const REPORT_BYTES: u64 = 256 * 1024;
const READER: ReaderId = ReaderId(0);

#[derive(Debug, Default)]
pub(super) struct ReaderActor {
    offset: u64,
    reported: u64,
    first_byte: Option<Duration>,
    last_byte: Duration,
    longest_wait: Duration,
}

impl ReaderActor {
    /// It opens the blob.
    pub(super) fn start(&mut self, now: Duration) -> Event {
        self.last_byte = now;
        Event::ReaderAt { reader: READER, offset_bytes: 0 }
    }

    /// Everything up to `prefix` can be read now.
    pub(super) fn advance(&mut self, now: Duration, prefix: u64) -> Option<Event> {
        if prefix <= self.offset {
            return None;
        }
        self.longest_wait = self.longest_wait(now);
        self.first_byte.get_or_insert(now);
        self.last_byte = now;
        self.offset = prefix;
        if prefix - self.reported < REPORT_BYTES {
            return None;
        }
        self.reported = prefix;
        Some(Event::ReaderAt { reader: READER, offset_bytes: prefix })
    }

    pub(super) fn first_byte(&self) -> Option<Duration> {
        self.first_byte
    }

    /// The longest time without a byte, up to now.
    pub(super) fn longest_wait(&self, now: Duration) -> Duration {
        self.longest_wait.max(now.saturating_sub(self.last_byte))
    }
}
