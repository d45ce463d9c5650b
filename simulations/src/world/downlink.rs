//! The one link that everything arrives through.

use std::time::Duration;

/// First come, first served, at a rate.
#[derive(Debug)]
pub(super) struct Downlink {
    bytes_per_second: f64,
    free_at: Duration,
}

impl Downlink {
    pub(super) fn new(bytes_per_second: f64) -> Self {
        Self { bytes_per_second, free_at: Duration::ZERO }
    }

    /// When bytes that come to its far end at `at` are through.
    pub(super) fn through(&mut self, at: Duration, bytes: u64) -> Duration {
        self.free_at = self.free_at.max(at) + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
        self.free_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_queue_behind_one_another() {
        let mut link = Downlink::new(1000.0);
        let second = Duration::from_secs(1);
        assert_eq!(link.through(second, 1000), second * 2);
        assert_eq!(link.through(second, 1000), second * 3);
        assert_eq!(link.through(second * 9, 500), second * 9 + second / 2);
    }
}
