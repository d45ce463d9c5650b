//! Rates, by governor's cell-rate algorithm on tokio's clock, so that tests run in virtual time.

use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::time::Instant;

use super::limits::{MAX_CHUNK_BYTES, PACING_PORTION, PACING_UNIT_BYTES, UNLIMITED_CHUNK_BYTES};

#[derive(Debug, Clone, Copy)]
struct TokioClock;

impl Clock for TokioClock {
    type Instant = std::time::Instant;

    fn now(&self) -> Self::Instant {
        Instant::now().into_std()
    }
}

type Limiter = RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<std::time::Instant>>;

/// A limit on events per second; whoever is over it waits.
pub(super) struct Rate {
    limiter: Limiter,
}

impl Rate {
    /// `per_second` events are allowed on average, and as many at once after a quiet second.
    pub(super) fn per_second(per_second: NonZeroU32) -> Self {
        Self { limiter: Limiter::direct_with_clock(Quota::per_second(per_second), TokioClock) }
    }

    /// Waits until one more event is allowed.
    pub(super) async fn until_ready(&self) {
        while let Err(not_until) = self.limiter.check() {
            tokio::time::sleep(not_until.wait_time_from(TokioClock.now())).await;
        }
    }
}

/// A limit on bytes per second that hands out chunks.
pub(super) struct BytePacer {
    limiter: Option<Limiter>,
    chunk_bytes: usize,
    /// Bytes taken from the limiter, which counts in whole units, and not used.
    credit: Mutex<u64>,
}

impl BytePacer {
    /// `None` means no limit. Rates below [`PACING_UNIT_BYTES`] a second are raised to it.
    pub(super) fn new(bytes_per_second: Option<u64>) -> Self {
        Self::with_chunk(bytes_per_second, 0)
    }

    /// The same, where chunks of at least `chunk_bytes` can be asked for.
    pub(super) fn with_chunk(bytes_per_second: Option<u64>, chunk_bytes: usize) -> Self {
        let Some(rate) = bytes_per_second else {
            // A body goes to the transport whole, which cuts it into frames.
            return Self { limiter: None, chunk_bytes: UNLIMITED_CHUNK_BYTES, credit: Mutex::new(0) };
        };
        let portion = u64::try_from(u128::from(rate) * PACING_PORTION.as_millis() / 1000).unwrap_or(u64::MAX);
        let least = (chunk_bytes as u64).div_ceil(PACING_UNIT_BYTES).max(1);
        let most = (MAX_CHUNK_BYTES as u64 / PACING_UNIT_BYTES).max(least);
        let chunk_units = (portion / PACING_UNIT_BYTES).clamp(least, most);
        let units_per_second = clamp_u32(rate / PACING_UNIT_BYTES);
        // Room for a few chunks at once: several bodies share the limiter and timers have 1 ms resolution.
        let burst = clamp_u32((portion / PACING_UNIT_BYTES).max(chunk_units) * 2);
        let quota = Quota::per_second(units_per_second).allow_burst(burst);
        Self {
            limiter: Some(Limiter::direct_with_clock(quota, TokioClock)),
            chunk_bytes: usize::try_from(chunk_units * PACING_UNIT_BYTES).unwrap_or(MAX_CHUNK_BYTES),
            credit: Mutex::new(0),
        }
    }

    /// The most that may be asked for at once.
    pub(super) fn chunk_bytes(&self) -> usize {
        self.chunk_bytes
    }

    /// Takes `bytes` (at most [`BytePacer::chunk_bytes`]) if they may be sent now, or says how long that takes.
    pub(super) fn try_take(&self, bytes: u64) -> Result<(), Duration> {
        let Some(limiter) = &self.limiter else { return Ok(()) };
        let mut credit = self.credit.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = bytes.saturating_sub(*credit);
        if missing > 0 {
            let units = clamp_u32(missing.div_ceil(PACING_UNIT_BYTES));
            // `Err` of the outer result: more than the burst, which a chunk never is.
            if let Ok(Err(not_until)) = limiter.check_n(units) {
                return Err(not_until.wait_time_from(TokioClock.now()));
            }
            *credit += u64::from(units.get()) * PACING_UNIT_BYTES;
        }
        *credit = credit.saturating_sub(bytes);
        Ok(())
    }

    /// Returns what was taken and not sent.
    pub(super) fn give_back(&self, bytes: u64) {
        if self.limiter.is_some() {
            *self.credit.lock().unwrap_or_else(PoisonError::into_inner) += bytes;
        }
    }

    /// Waits until `bytes` (at most [`BytePacer::chunk_bytes`]) may be sent.
    #[cfg(test)]
    pub(super) async fn until_ready(&self, bytes: usize) {
        while let Err(wait) = self.try_take(bytes as u64) {
            tokio::time::sleep(wait).await;
        }
    }
}

/// Failures that are tolerated in a minute; beyond it the offender is muted until the average is right again.
pub(super) struct MissMeter {
    limiter: Limiter,
    muted_until: Mutex<Option<Instant>>,
}

impl MissMeter {
    pub(super) fn per_minute(per_minute: NonZeroU32) -> Self {
        Self {
            limiter: Limiter::direct_with_clock(Quota::per_minute(per_minute), TokioClock),
            muted_until: Mutex::new(None),
        }
    }

    /// Whether questions are not even looked at for now.
    pub(super) fn is_muted(&self) -> bool {
        let muted = self.muted_until.lock().unwrap_or_else(PoisonError::into_inner);
        muted.is_some_and(|until| Instant::now() < until)
    }

    /// Counts one miss.
    pub(super) fn miss(&self) {
        if let Err(not_until) = self.limiter.check() {
            let wait = not_until.wait_time_from(TokioClock.now());
            *self.muted_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + wait);
        }
    }
}

fn clamp_u32(value: u64) -> NonZeroU32 {
    NonZeroU32::new(u32::try_from(value).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN)
}

/// Whole milliseconds, as `Busy` carries them.
pub(super) fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn seconds_for(rate: u64, total: usize) -> f64 {
        let pacer = BytePacer::new(Some(rate));
        let start = Instant::now();
        let mut left = total;
        while left > 0 {
            let chunk = left.min(pacer.chunk_bytes());
            pacer.until_ready(chunk).await;
            left -= chunk;
        }
        start.elapsed().as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn the_byte_rate_is_kept_over_four_decades() {
        for rate in [16 * 1024, 1_000_000, 12_500_000, 125_000_000_u64] {
            let seconds = seconds_for(rate, usize::try_from(rate).unwrap() * 4).await;
            assert!((3.6..4.4).contains(&seconds), "{rate} B/s: 4 s of bytes took {seconds} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pacing_is_smooth() {
        let pacer = BytePacer::new(Some(1_000_000));
        assert!(pacer.chunk_bytes() <= 20_000);
        for _ in 0..4 {
            pacer.until_ready(pacer.chunk_bytes()).await;
        }
        let before = Instant::now();
        pacer.until_ready(pacer.chunk_bytes()).await;
        assert!(before.elapsed() <= Duration::from_millis(25), "one chunk is one portion of time");
    }

    #[tokio::test(start_paused = true)]
    async fn no_limit_and_tiny_limits_do_not_block_or_panic() {
        let start = Instant::now();
        BytePacer::new(None).until_ready(MAX_CHUNK_BYTES).await;
        BytePacer::new(Some(0)).until_ready(1).await;
        BytePacer::new(Some(u64::MAX)).until_ready(MAX_CHUNK_BYTES).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn misses_beyond_the_allowance_mute_and_time_unmutes() {
        let meter = MissMeter::per_minute(NonZeroU32::new(60).unwrap());
        for _ in 0..60 {
            meter.miss();
            assert!(!meter.is_muted());
        }
        meter.miss();
        assert!(meter.is_muted());
        tokio::time::advance(Duration::from_millis(1100)).await;
        assert!(!meter.is_muted());
        meter.miss();
        meter.miss();
        assert!(meter.is_muted());
    }

    #[tokio::test(start_paused = true)]
    async fn requests_over_the_rate_wait() {
        let rate = Rate::per_second(NonZeroU32::new(10).unwrap());
        let start = Instant::now();
        for _ in 0..30 {
            rate.until_ready().await;
        }
        assert!((1.8..2.2).contains(&start.elapsed().as_secs_f64()));
    }
}
