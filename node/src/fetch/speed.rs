//! How fast the origins were lately: what the scheduler expects of them next.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Weight of the newest stream.
const WEIGHT: f64 = 0.3;
/// A stream shorter than this says nothing of the rate.
const MIN_BYTES: u64 = 256 * 1024;

/// Moving averages over the streams that came to their end.
#[derive(Debug, Default)]
pub(super) struct OriginSpeed(Mutex<Averages>);

#[derive(Debug, Default, Clone, Copy)]
struct Averages {
    bytes_per_second: Option<f64>,
    first_byte_seconds: Option<f64>,
}

impl OriginSpeed {
    /// A stream of `bytes` of a blob, whose first byte came after `first_byte` and its last `receiving` later.
    pub(super) fn record(&self, bytes: u64, first_byte: Duration, receiving: Duration) {
        let mut averages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        blend(&mut averages.first_byte_seconds, first_byte.as_secs_f64());
        if bytes >= MIN_BYTES && !receiving.is_zero() {
            blend(&mut averages.bytes_per_second, bytes as f64 / receiving.as_secs_f64());
        }
    }

    /// Bytes of a blob per second.
    pub(super) fn bytes_per_second(&self) -> Option<f64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).bytes_per_second
    }

    /// Time to the first byte.
    pub(super) fn first_byte(&self) -> Option<Duration> {
        let seconds = self.0.lock().unwrap_or_else(PoisonError::into_inner).first_byte_seconds;
        seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
    }
}

fn blend(average: &mut Option<f64>, newest: f64) {
    *average = Some(average.map_or(newest, |old| old + WEIGHT * (newest - old)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_follows_the_streams_and_short_ones_tell_no_rate() {
        let speed = OriginSpeed::default();
        assert_eq!((speed.bytes_per_second(), speed.first_byte()), (None, None));
        speed.record(1000, Duration::from_millis(20), Duration::from_millis(1));
        assert_eq!((speed.bytes_per_second(), speed.first_byte()), (None, Some(Duration::from_millis(20))));
        for _ in 0..50 {
            speed.record(2_000_000, Duration::from_millis(100), Duration::from_secs(1));
        }
        assert!((speed.bytes_per_second().unwrap() - 2e6).abs() < 1e3);
        assert!(speed.first_byte().unwrap().abs_diff(Duration::from_millis(100)) < Duration::from_millis(1));
    }
}
