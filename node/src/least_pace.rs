//! Whether a source gives enough for the time that is spent waiting for it.

use std::time::Duration;

/// Less than this is as good as nothing, of whatever source.
pub const MIN_BYTES_PER_SECOND: u64 = 1024;

/// Counts what came within the time spent waiting for it, window by window. Time in which nobody asked does not count.
#[derive(Debug)]
pub(crate) struct LeastPace {
    window: Duration,
    bytes_per_second: f64,
    waited: Duration,
    bytes: u64,
}

/// A window was too lean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooSlow {
    /// What came in it.
    pub(crate) bytes: u64,
    /// How long it was.
    pub(crate) waited: Duration,
}

impl LeastPace {
    /// [`MIN_BYTES_PER_SECOND`] over each `window`.
    pub(crate) fn new(window: Duration) -> Self {
        let bytes_per_second = MIN_BYTES_PER_SECOND as f64;
        Self { window, bytes_per_second, waited: Duration::ZERO, bytes: 0 }
    }

    /// So much, if it is more.
    pub(crate) fn or_at_least(mut self, bytes_per_second: f64) -> Self {
        self.bytes_per_second = self.bytes_per_second.max(bytes_per_second);
        self
    }

    /// Counts `bytes` that came after `waited`.
    ///
    /// # Errors
    /// When a window has passed with too little in it.
    pub(crate) fn note(&mut self, waited: Duration, bytes: u64) -> Result<(), TooSlow> {
        self.waited += waited;
        self.bytes = self.bytes.saturating_add(bytes);
        if self.waited < self.window {
            return Ok(());
        }
        let seen = TooSlow { bytes: self.bytes, waited: self.waited };
        (self.waited, self.bytes) = (Duration::ZERO, 0);
        let enough = seen.bytes as f64 >= seen.waited.as_secs_f64() * self.bytes_per_second;
        if enough { Ok(()) } else { Err(seen) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const WINDOW: Duration = Duration::from_secs(10);

    /// Seconds until a source that gives so many bytes a second is too slow, a minute at most.
    fn endures(bytes: u64, mut pace: LeastPace) -> Option<u64> {
        (1..=60).find(|_| pace.note(SECOND, bytes).is_err())
    }

    #[test]
    fn a_drip_ends_with_the_first_window() {
        let mut pace = LeastPace::new(WINDOW);
        pace.note(6 * SECOND, 1).unwrap();
        assert_eq!(pace.note(6 * SECOND, 1), Err(TooSlow { bytes: 2, waited: 12 * SECOND }));
        assert_eq!(endures(MIN_BYTES_PER_SECOND - 1, LeastPace::new(WINDOW)), Some(10));
        assert_eq!(endures(MIN_BYTES_PER_SECOND, LeastPace::new(WINDOW)), None);
    }

    #[test]
    fn more_may_be_wanted_and_never_less() {
        let at_least = |bytes_per_second| LeastPace::new(WINDOW).or_at_least(bytes_per_second);
        assert_eq!(endures(100_000, at_least(200e3)), Some(10));
        assert_eq!(endures(100_000, at_least(100e3)), None);
        assert_eq!(endures(MIN_BYTES_PER_SECOND - 1, at_least(10.0)), Some(10));
        assert_eq!(endures(MIN_BYTES_PER_SECOND, at_least(f64::NAN)), None);
    }

    #[test]
    fn a_pause_within_a_window_is_forgiven() {
        let mut pace = LeastPace::new(WINDOW);
        for _ in 0..10 {
            pace.note(9 * SECOND, 10).unwrap();
            pace.note(SECOND, 10 * MIN_BYTES_PER_SECOND).unwrap();
        }
    }

    #[test]
    fn a_slow_reader_is_not_blamed_on_the_source() {
        let mut pace = LeastPace::new(WINDOW).or_at_least(1e9);
        for _ in 0..1000 {
            pace.note(Duration::from_micros(10), 1).unwrap();
        }
    }
}
