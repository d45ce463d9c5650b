//! The readers and the windows in front of them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use super::config::SchedulerConfig;
use super::estimate::{Random, RateEstimate, seconds};
use super::types::ReaderId;

#[derive(Debug)]
pub(super) struct Reader {
    offset_bytes: u64,
    moved_at: Duration,
    rate: RateEstimate,
}

impl Reader {
    /// True when it has not moved for its patience. That is spread so far that of `others` fetches whose readers stand
    /// at the same place one asks, and the others see what came of it: `answer` is how long that takes.
    pub(super) fn stands_still(
        &self,
        now: Duration,
        seed: u64,
        others: usize,
        answer: Duration,
        config: &SchedulerConfig,
    ) -> bool {
        let share = Random(seed ^ self.offset_bytes).below(1024) as f64 / 1024.0;
        let spread = answer.max(config.reader_patience).mul_f64(share * others as f64);
        now >= self.moved_at + config.reader_patience + spread.min(config.max_reader_patience)
    }

    /// The bytes that it wants soon.
    pub(super) fn window(&self, config: &SchedulerConfig) -> Range<u64> {
        let by_rate = self.rate.get().unwrap_or(0.0) * config.window_time.as_secs_f64();
        let length = (by_rate as u64).min(config.max_window_bytes).max(config.min_window_bytes);
        self.offset_bytes..self.offset_bytes.saturating_add(length)
    }

    pub(super) fn offset_bytes(&self) -> u64 {
        self.offset_bytes
    }

    /// When it will want a byte, if it goes on as before; at once when its pace is not known.
    pub(super) fn wants_in(&self, at_byte: u64) -> Duration {
        let distance = at_byte.saturating_sub(self.offset_bytes) as f64;
        self.rate.get().filter(|rate| *rate > 0.0).map_or(Duration::ZERO, |rate| seconds(distance / rate))
    }
}

#[derive(Debug, Default)]
pub(super) struct Readers {
    table: BTreeMap<ReaderId, Reader>,
}

impl Readers {
    /// A reader has come to an offset; a new one beyond the bound is not followed.
    pub(super) fn moved(&mut self, now: Duration, id: ReaderId, offset_bytes: u64, config: &SchedulerConfig) {
        if let Some(reader) = self.table.get_mut(&id) {
            let step = offset_bytes.checked_sub(reader.offset_bytes);
            match step.filter(|step| *step <= config.max_window_bytes) {
                Some(step) => reader.rate.add(now, step),
                // A jump says nothing about the pace.
                None => reader.rate.begin(now),
            }
            if reader.offset_bytes != offset_bytes {
                reader.moved_at = now;
            }
            reader.offset_bytes = offset_bytes;
        } else if self.table.len() < config.max_readers {
            let mut rate = RateEstimate::default();
            rate.begin(now);
            self.table.insert(id, Reader { offset_bytes, moved_at: now, rate });
        }
    }

    pub(super) fn gone(&mut self, id: ReaderId) {
        self.table.remove(&id);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Reader> {
        self.table.values()
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.table.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn the_window_is_two_seconds_of_the_readers_pace_within_its_bounds() {
        let config = SchedulerConfig::default();
        let mut readers = Readers::default();
        let window = |readers: &Readers| readers.iter().next().unwrap().window(&config);
        readers.moved(Duration::ZERO, ReaderId(1), 0, &config);
        assert_eq!(window(&readers), 0..config.min_window_bytes);
        for step in 1..=50u32 {
            readers.moved(Duration::from_millis(100) * step, ReaderId(1), u64::from(step) * MIB, &config);
        }
        let (start, end) = (window(&readers).start, window(&readers).end);
        assert_eq!(start, 50 * MIB);
        assert!((19 * MIB..=21 * MIB).contains(&(end - start)));
        readers.moved(Duration::from_secs(6), ReaderId(1), 7, &config);
        assert_eq!(window(&readers).start, 7, "a reader may jump back");
    }

    #[test]
    fn surplus_readers_are_not_followed() {
        let config = SchedulerConfig::default();
        let mut readers = Readers::default();
        for id in 0..100 {
            readers.moved(Duration::ZERO, ReaderId(id), 0, &config);
        }
        assert_eq!(readers.len(), config.max_readers);
        readers.gone(ReaderId(0));
        readers.moved(Duration::ZERO, ReaderId(99), 0, &config);
        assert_eq!(readers.len(), config.max_readers);
    }
}
