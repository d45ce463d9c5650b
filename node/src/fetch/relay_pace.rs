//! Whether a leader that is being followed gives enough.

use std::time::Duration;

/// Over so much time that was spent waiting for the leader: as long as one may say that it waits itself.
pub(super) const WINDOW: Duration = Duration::from_secs(10);
/// Less than this within the window is as good as nothing.
const LEAST_BYTES: u64 = 16 * 1024;
/// One that gives less than this part of what the origins gave us lately is slower than its origin can be, even when
/// many hosts share the uplink: our own streams, by which it is measured, share it with them.
const LEAST_PART_OF_ORIGIN: f64 = 1.0 / 32.0;

/// What a leader gave within the window.
#[derive(Debug)]
pub(super) struct RelayPace {
    least_bytes: u64,
    waited: Duration,
    bytes: u64,
}

impl RelayPace {
    /// `origin_bytes_per_second` is what the origins gave us lately, if they did.
    pub(super) fn new(origin_bytes_per_second: Option<f64>) -> Self {
        let of_origin = origin_bytes_per_second.unwrap_or(0.0) * WINDOW.as_secs_f64() * LEAST_PART_OF_ORIGIN;
        // Converts what is negative or not a number to 0.
        Self { least_bytes: LEAST_BYTES.max(of_origin as u64), waited: Duration::ZERO, bytes: 0 }
    }

    /// Counts `bytes` that came after `waited`. False when a window was too lean.
    pub(super) fn keeps_up(&mut self, waited: Duration, bytes: u64) -> bool {
        self.waited += waited;
        self.bytes = self.bytes.saturating_add(bytes);
        if self.waited < WINDOW {
            return true;
        }
        self.waited = Duration::ZERO;
        std::mem::take(&mut self.bytes) >= self.least_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Seconds until a leader that gives so many bytes a second is too slow, a minute at most.
    fn endures(bytes: u64, origin_bytes_per_second: Option<f64>) -> u64 {
        let mut pace = RelayPace::new(origin_bytes_per_second);
        (1..=60).find(|_| !pace.keeps_up(SECOND, bytes)).unwrap_or(u64::MAX)
    }

    #[test]
    fn a_trickle_ends_with_the_first_window() {
        assert_eq!(endures(1, None), WINDOW.as_secs());
        assert_eq!(endures(1600, None), WINDOW.as_secs());
        assert_eq!(endures(1700, None), u64::MAX);
    }

    #[test]
    fn what_is_enough_depends_on_what_origins_give() {
        assert_eq!(endures(100_000, None), u64::MAX);
        assert_eq!(endures(100_000, Some(12e6)), WINDOW.as_secs());
        assert_eq!(endures(400_000, Some(12e6)), u64::MAX);
        assert_eq!(endures(1700, Some(10e3)), u64::MAX);
        assert_eq!(endures(1700, Some(f64::NAN)), u64::MAX);
    }

    #[test]
    fn a_pause_within_a_window_is_forgiven() {
        let mut pace = RelayPace::new(None);
        for _ in 0..10 {
            assert!(pace.keeps_up(SECOND * 9, 10) && pace.keeps_up(SECOND, LEAST_BYTES));
        }
    }

    #[test]
    fn time_that_was_not_spent_waiting_does_not_count() {
        let mut pace = RelayPace::new(Some(1e9));
        assert!((0..1_000_000).all(|_| pace.keeps_up(Duration::ZERO, 1)));
    }
}
