//! Penalties that peers of one network share: a thousand addresses of one subnet cost little more than one.

use std::collections::BTreeMap;
use std::time::Duration;

use super::config::SchedulerConfig;

/// Points for a peer that lied.
pub(super) const LIE_POINTS: u32 = 3;
/// Points for a peer that was silent, broke its stream, or was dropped for what it promised.
pub(super) const FAULT_POINTS: u32 = 1;
/// A prefix never has more points than this, so that it is forgiven within minutes.
const MAX_POINTS: f64 = 32.0;
/// The pause of a prefix doubles at most this often.
const MAX_DOUBLINGS: u32 = 3;

#[derive(Debug, Clone, Default)]
struct Prefix {
    members: usize,
    ever: usize,
    /// As of `at`; they shrink with time.
    points: f64,
    at: Duration,
    paused_until: Duration,
}

impl Prefix {
    fn points(&self, now: Duration, config: &SchedulerConfig) -> f64 {
        let elapsed = now.saturating_sub(self.at).as_secs_f64();
        let forgiven = elapsed / config.prefix_forgiveness.as_secs_f64().max(1e-3);
        (self.points - forgiven).max(0.0)
    }
}

/// The prefixes of peers that are or were known.
#[derive(Debug, Default)]
pub(super) struct Prefixes {
    table: BTreeMap<u64, Prefix>,
}

impl Prefixes {
    /// Counts a new member, unless there are enough of its prefix.
    pub(super) fn join(&mut self, now: Duration, key: Option<u64>, config: &SchedulerConfig) -> bool {
        let Some(key) = key else { return true };
        if !self.table.contains_key(&key) && !self.make_room(now, config) {
            return false;
        }
        let prefix = self.table.entry(key).or_default();
        let fits =
            prefix.members < config.max_peers_per_prefix && prefix.ever < config.max_prefix_sources_ever;
        if fits {
            prefix.members += 1;
            prefix.ever += 1;
        }
        fits
    }

    fn make_room(&mut self, now: Duration, config: &SchedulerConfig) -> bool {
        if self.table.len() < config.max_prefixes {
            return true;
        }
        let empty = self.table.iter().filter(|(_, prefix)| prefix.members == 0);
        let least = empty.min_by(|a, b| a.1.points(now, config).total_cmp(&b.1.points(now, config)));
        let Some(key) = least.map(|(key, _)| *key) else { return false };
        self.table.remove(&key);
        true
    }

    pub(super) fn leave(&mut self, key: Option<u64>) {
        if let Some(prefix) = key.and_then(|key| self.table.get_mut(&key)) {
            prefix.members = prefix.members.saturating_sub(1);
        }
    }

    /// A member misbehaved.
    pub(super) fn blame(&mut self, now: Duration, key: Option<u64>, points: u32, config: &SchedulerConfig) {
        let Some(prefix) = key.and_then(|key| self.table.get_mut(&key)) else { return };
        prefix.points = (prefix.points(now, config) + f64::from(points)).min(MAX_POINTS);
        prefix.at = now;
        let beyond = (prefix.points as u32).saturating_sub(config.prefix_tolerance).min(MAX_DOUBLINGS);
        prefix.paused_until = now + config.fault_pause * (1 << beyond);
    }

    /// True when members that have shown nothing yet are on probation.
    pub(super) fn is_doubtful(&self, now: Duration, key: Option<u64>, config: &SchedulerConfig) -> bool {
        let prefix = key.and_then(|key| self.table.get(&key));
        // Rounded up: tolerance is reached for a whole forgiveness time.
        prefix.is_some_and(|prefix| prefix.points(now, config).ceil() >= f64::from(config.prefix_tolerance))
    }

    /// True while members on probation are left alone.
    pub(super) fn is_paused(&self, now: Duration, key: Option<u64>) -> bool {
        key.and_then(|key| self.table.get(&key)).is_some_and(|prefix| now < prefix.paused_until)
    }

    /// When pauses end.
    pub(super) fn pauses(&self) -> impl Iterator<Item = Duration> {
        self.table.values().map(|prefix| prefix.paused_until)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn one_lie_or_three_faults_make_a_prefix_doubtful_until_it_is_forgiven() {
        let config = SchedulerConfig::default();
        let mut prefixes = Prefixes::default();
        assert!(prefixes.join(SECOND, Some(7), &config) && prefixes.join(SECOND, Some(8), &config));
        prefixes.blame(SECOND, Some(7), LIE_POINTS, &config);
        assert!(prefixes.is_doubtful(SECOND, Some(7), &config));
        assert!(prefixes.is_paused(SECOND, Some(7)) && !prefixes.is_paused(SECOND * 2, Some(7)));
        for faults in 1..=3 {
            assert_eq!(prefixes.is_doubtful(SECOND, Some(8), &config), faults > 3);
            prefixes.blame(SECOND, Some(8), FAULT_POINTS, &config);
        }
        assert!(prefixes.is_doubtful(SECOND, Some(8), &config));
        assert!(!prefixes.is_doubtful(SECOND * 60, Some(8), &config));
        assert!(!prefixes.is_doubtful(SECOND, None, &config));
    }

    #[test]
    fn members_and_prefixes_are_bounded() {
        let config = SchedulerConfig { max_prefixes: 4, ..SchedulerConfig::default() };
        let mut prefixes = Prefixes::default();
        let joined = (0..100).filter(|_| prefixes.join(SECOND, Some(7), &config)).count();
        assert_eq!(joined, config.max_peers_per_prefix);
        for key in 0..100 {
            prefixes.join(SECOND, Some(key), &config);
            if key != 7 {
                prefixes.leave(Some(key));
            }
        }
        assert!(prefixes.len() <= 4);
        assert!(!prefixes.join(SECOND, Some(7), &config), "a prefix with members is not forgotten");
    }

    #[test]
    fn a_prefix_that_comes_and_goes_is_taken_on_only_so_often() {
        let config = SchedulerConfig::default();
        let mut prefixes = Prefixes::default();
        let mut joined = 0;
        for _ in 0..1000 {
            if prefixes.join(SECOND, Some(7), &config) {
                joined += 1;
                prefixes.leave(Some(7));
            }
        }
        assert_eq!(joined, config.max_prefix_sources_ever);
    }
}
