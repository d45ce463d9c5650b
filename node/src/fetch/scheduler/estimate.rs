//! What is learned of a source: its rate, its usual latency. Plain arithmetic, so that a seed replays exactly.

use std::collections::VecDeque;
use std::time::Duration;

/// Samples of latency kept per peer.
const LATENCY_SAMPLES: usize = 32;
/// A rate sample covers at least this time; bursts of completions say little one by one.
const RATE_SAMPLE: Duration = Duration::from_millis(50);
/// The rate follows a change with this time constant.
const RATE_TIME_CONSTANT: Duration = Duration::from_millis(500);
/// It follows a rise faster: what is in flight is sized by it, and has to grow before the rate can.
const RISING_WEIGHT: f64 = 0.5;
/// A source that was silent for longer than this counts less and less, as if it had been slow all the time.
const SILENCE: Duration = Duration::from_millis(500);
/// Longest time that an estimate may say.
const MAX_ESTIMATE_SECONDS: f64 = 1e6;

/// A duration of so many seconds, whatever the arithmetic before it came to.
pub(super) fn seconds(value: f64) -> Duration {
    if value.is_nan() || value <= 0.0 {
        return Duration::ZERO;
    }
    Duration::from_secs_f64(value.min(MAX_ESTIMATE_SECONDS))
}

/// The time that `bytes` take at a rate.
pub(super) fn transfer_time(bytes: u64, bytes_per_second: f64) -> Duration {
    seconds(bytes as f64 / bytes_per_second.max(1e-3))
}

/// Exponentially weighted mean rate, counting only the time in which something was asked for.
#[derive(Debug, Clone, Default)]
pub(super) struct RateEstimate {
    bytes_per_second: Option<f64>,
    settled: bool,
    /// The value rests on a guess; the first whole sample is averaged into it.
    guessed: bool,
    mark: Duration,
    bytes: u64,
    last: Duration,
}

impl RateEstimate {
    /// From now on the source has something to do: idle time does not count.
    pub(super) fn begin(&mut self, now: Duration) {
        self.mark = now;
        self.last = now;
        self.bytes = 0;
    }

    /// So many bytes have come since the last call.
    pub(super) fn add(&mut self, now: Duration, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.last = now;
        let elapsed = now.saturating_sub(self.mark);
        if elapsed < RATE_SAMPLE && (self.settled || elapsed.is_zero()) {
            return;
        }
        let sample = self.bytes as f64 / elapsed.as_secs_f64();
        let weight = elapsed.as_secs_f64() / (elapsed + RATE_TIME_CONSTANT).as_secs_f64();
        self.bytes_per_second = Some(match self.bytes_per_second {
            Some(old) if self.settled && sample > old => old + (sample - old) * weight.max(RISING_WEIGHT),
            Some(old) if self.settled => old + (sample - old) * weight,
            Some(old) if self.guessed => old + (sample - old) * weight,
            _ => sample,
        });
        if elapsed >= RATE_SAMPLE {
            self.settled = true;
            self.mark = now;
            self.bytes = 0;
        }
    }

    /// What the connection measured, if that is more than is known so far: the first samples count the round trip.
    pub(super) fn guess(&mut self, bytes_per_second: f64) {
        if !self.settled && bytes_per_second.is_finite() {
            let known = self.bytes_per_second.unwrap_or(0.0);
            self.bytes_per_second = Some(known.max(bytes_per_second));
            self.guessed = true;
        }
    }

    /// The mean, as measured.
    pub(super) fn get(&self) -> Option<f64> {
        self.bytes_per_second
    }

    /// The mean, made smaller by a silence that lasts.
    pub(super) fn effective(&self, now: Duration) -> Option<f64> {
        let silent = now.saturating_sub(self.last).max(SILENCE);
        self.bytes_per_second.map(|rate| rate * SILENCE.as_secs_f64() / silent.as_secs_f64())
    }

    /// A stall says that the rate was wrong.
    pub(super) fn halve(&mut self) {
        self.bytes_per_second = self.bytes_per_second.map(|rate| rate / 2.0);
    }
}

/// The last latencies of a peer's extents, from request to verified bytes, and the smallest ever.
#[derive(Debug, Clone, Default)]
pub(super) struct LatencyEstimate {
    samples: VecDeque<Duration>,
    min: Option<Duration>,
    p95: Option<Duration>,
}

impl LatencyEstimate {
    pub(super) fn add(&mut self, sample: Duration) {
        if self.samples.len() >= LATENCY_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
        self.min = Some(self.min.map_or(sample, |min| min.min(sample)));
        let mut sorted: Vec<Duration> = self.samples.iter().copied().collect();
        sorted.sort_unstable();
        self.p95 = sorted.get((sorted.len() * 95).div_ceil(100).saturating_sub(1)).copied();
    }

    /// The smallest latency ever seen: round trip, turn-around and one extent on an idle link.
    pub(super) fn min(&self) -> Option<Duration> {
        self.min
    }

    /// 95 of 100 extents took at most this.
    pub(super) fn p95(&self) -> Option<Duration> {
        self.p95
    }
}

/// SplitMix64: the little randomness that the scheduler needs, from its seed alone.
#[derive(Debug, Clone)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform enough below `bound`; 0 when that is 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next().checked_rem(bound).unwrap_or(0)
    }

    /// `time`, longer by up to a quarter, so that peers that failed together do not come back together.
    pub(super) fn jitter(&mut self, time: Duration) -> Duration {
        time + time.mul_f64(self.below(256) as f64 / 1024.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn rate_follows_a_change_and_does_not_count_idle_time() {
        let mut rate = RateEstimate::default();
        rate.begin(Duration::ZERO);
        for step in 1..=40u32 {
            rate.add(MS * 50 * step, 50_000);
        }
        assert!((rate.get().unwrap() - 1e6).abs() < 1.0);
        rate.begin(MS * 60_000);
        assert!((rate.effective(MS * 60_000).unwrap() - 1e6).abs() < 1.0);
        for step in 1..=60u32 {
            rate.add(MS * 60_000 + MS * 50 * step, 500_000);
        }
        assert!(rate.get().unwrap() > 9.5e6, "{:?}", rate.get());
        assert!(rate.effective(MS * 68_000).unwrap() < 1.1e6, "five seconds of silence");
    }

    #[test]
    fn bursts_at_one_instant_do_not_look_infinitely_fast() {
        let mut rate = RateEstimate::default();
        rate.begin(Duration::ZERO);
        rate.add(Duration::ZERO, 1 << 20);
        assert_eq!(rate.get(), None);
        rate.add(MS * 100, 0);
        rate.add(MS * 100, 1 << 20);
        assert!(rate.get().unwrap() < 11e6);
    }

    #[test]
    fn p95_ignores_the_one_outlier_of_many_and_forgets() {
        let mut latency = LatencyEstimate::default();
        assert_eq!(latency.p95(), None);
        latency.add(MS * 900);
        for _ in 0..31 {
            latency.add(MS * 10);
        }
        assert_eq!(latency.p95(), Some(MS * 10));
        assert_eq!(latency.min(), Some(MS * 10));
    }

    #[test]
    fn impossible_estimates_become_bounded_times() {
        assert_eq!(seconds(f64::NAN), Duration::ZERO);
        assert_eq!(seconds(-1.0), Duration::ZERO);
        assert!(transfer_time(u64::MAX, 0.0) <= Duration::from_secs(1_000_000));
    }
}
