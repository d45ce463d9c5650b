//! Keeps the background pass below its rate.

use std::time::{Duration, Instant};

/// Idle time that is not made up for afterwards.
const MAX_CREDIT: Duration = Duration::from_millis(100);

/// Bytes per second, and how far they have been used up.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_second: Option<u64>,
    /// When the bytes so far would have gone by at that rate.
    due: Instant,
}

impl Pace {
    /// `None` is without a limit.
    pub(super) fn new(bytes_per_second: Option<u64>, now: Instant) -> Self {
        Self { bytes_per_second, due: now }
    }

    /// Another rate from now on.
    pub(super) fn set_rate(&mut self, bytes_per_second: Option<u64>) {
        self.bytes_per_second = bytes_per_second;
    }

    /// How long to wait after these bytes.
    pub(super) fn after(&mut self, bytes: usize, now: Instant) -> Duration {
        let Some(rate) = self.bytes_per_second else { return Duration::ZERO };
        let earliest = now.checked_sub(MAX_CREDIT).unwrap_or(now);
        self.due = self.due.max(earliest) + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        self.due.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_and_idle_time_is_not_saved_up() {
        let start = Instant::now();
        let mut pace = Pace::new(Some(1000), start);
        let mut now = start;
        for _ in 0..10 {
            now += pace.after(100, now);
        }
        assert_eq!(now - start, Duration::from_secs(1));
        now += Duration::from_secs(3600);
        assert_eq!(pace.after(1000, now), Duration::from_millis(900));
        assert_eq!(Pace::new(None, start).after(usize::MAX, start), Duration::ZERO);
    }
}
