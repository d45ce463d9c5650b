//! When which of our keys is published again. Pure: time is an argument.

use std::{
    collections::{HashSet, VecDeque},
    time::{Duration, Instant},
};

use crate::directory::ProviderKey;

/// Keys that one node advertises at most; each takes about 300 bytes here and one look-up a round.
pub const MAX_ADVERTISED_KEYS: usize = 65_536;
/// Publications that run at a time. One costs about 12 ms of CPU over all nodes that it reaches.
pub(crate) const MAX_PUBLISHING: usize = 4;
/// Pause between the starts of two publications.
const PACE: Duration = Duration::from_millis(20);
/// Pause between a change of the routing table and the round it causes: peers come in bursts.
const SETTLE: Duration = Duration::from_millis(500);
/// Shortest time between two rounds caused by new peers.
const MIN_ROUND_GAP: Duration = Duration::from_secs(60);

/// The schedule of publications.
#[derive(Debug)]
pub(crate) struct Publisher {
    keys: HashSet<ProviderKey>,
    queue: VecDeque<ProviderKey>,
    queued: HashSet<ProviderKey>,
    running: usize,
    next_start: Instant,
    next_round: Instant,
    last_round: Option<Instant>,
    interval: Duration,
}

impl Publisher {
    /// Publishes each key anew every half `ttl`.
    pub(crate) fn new(ttl: Duration, now: Instant) -> Self {
        let interval = ttl / 2;
        Self {
            keys: HashSet::new(),
            queue: VecDeque::new(),
            queued: HashSet::new(),
            running: 0,
            next_start: now,
            next_round: now + interval,
            last_round: None,
            interval,
        }
    }

    /// Adds a key and queues it. False when the bound is reached.
    pub(crate) fn add(&mut self, key: ProviderKey) -> bool {
        if self.keys.len() >= MAX_ADVERTISED_KEYS && !self.keys.contains(&key) {
            return false;
        }
        self.keys.insert(key);
        self.enqueue(key);
        true
    }

    /// Forgets a key.
    pub(crate) fn remove(&mut self, key: &ProviderKey) {
        self.keys.remove(key);
    }

    /// A peer has joined the routing table: what was published to fewer is published again soon.
    pub(crate) fn on_new_peer(&mut self, now: Instant) {
        let earliest = self.last_round.map_or(now, |last| (last + MIN_ROUND_GAP).max(now));
        self.next_round = self.next_round.min(earliest + SETTLE);
    }

    /// A publication has ended.
    pub(crate) fn on_done(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// The keys whose publication starts now.
    pub(crate) fn due(&mut self, now: Instant) -> Option<ProviderKey> {
        if self.next_round <= now {
            self.last_round = Some(now);
            self.next_round = now + self.interval;
            let keys: Vec<_> = self.keys.iter().copied().collect();
            keys.into_iter().for_each(|key| self.enqueue(key));
        }
        while self.running < MAX_PUBLISHING && self.next_start <= now {
            let key = self.queue.pop_front()?;
            self.queued.remove(&key);
            if self.keys.contains(&key) {
                self.running += 1;
                self.next_start = now + PACE;
                return Some(key);
            }
        }
        None
    }

    /// When `due` has something to say next, unless a publication ends before.
    pub(crate) fn deadline(&self) -> Instant {
        if self.queue.is_empty() || self.running >= MAX_PUBLISHING {
            self.next_round
        } else {
            self.next_start.min(self.next_round)
        }
    }

    fn enqueue(&mut self, key: ProviderKey) {
        if self.queued.insert(key) {
            self.queue.push_back(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(24 * 3600);

    fn key(index: u8) -> ProviderKey {
        ProviderKey::from_bytes([index; 32])
    }

    /// Runs the publisher to an instant and gives what it published.
    fn drain(publisher: &mut Publisher, mut now: Instant, until: Instant) -> Vec<ProviderKey> {
        let mut published = Vec::new();
        while now <= until {
            while let Some(key) = publisher.due(now) {
                published.push(key);
                publisher.on_done();
            }
            now = publisher.deadline().max(now + Duration::from_millis(1));
        }
        published
    }

    #[test]
    fn a_key_is_published_at_once_and_again_within_its_lifetime() {
        let start = Instant::now();
        let mut publisher = Publisher::new(TTL, start);
        assert!(publisher.add(key(1)));
        assert_eq!(drain(&mut publisher, start, start + Duration::from_secs(1)), [key(1)]);
        let later = drain(&mut publisher, start + Duration::from_secs(1), start + TTL);
        assert_eq!(later, [key(1), key(1)]);
    }

    #[test]
    fn peers_that_join_cause_one_round_and_not_one_each() {
        let start = Instant::now();
        let mut publisher = Publisher::new(TTL, start);
        (0..10).for_each(|index| assert!(publisher.add(key(index))));
        drain(&mut publisher, start, start + Duration::from_secs(1));
        let mut now = start + Duration::from_secs(2);
        for _ in 0..50 {
            publisher.on_new_peer(now);
            now += Duration::from_millis(2);
        }
        assert_eq!(drain(&mut publisher, now, now + Duration::from_secs(10)).len(), 10);
        publisher.on_new_peer(now + Duration::from_secs(10));
        assert!(
            drain(&mut publisher, now, now + Duration::from_secs(20)).is_empty(),
            "too soon after the last"
        );
        assert_eq!(drain(&mut publisher, now, now + Duration::from_secs(90)).len(), 10);
    }

    #[test]
    fn a_withdrawn_key_is_not_published_again() {
        let start = Instant::now();
        let mut publisher = Publisher::new(TTL, start);
        publisher.add(key(1));
        publisher.add(key(2));
        publisher.remove(&key(1));
        assert_eq!(drain(&mut publisher, start, start + TTL / 4), [key(2)]);
    }

    #[test]
    fn few_publications_run_at_a_time() {
        let start = Instant::now();
        let mut publisher = Publisher::new(TTL, start);
        (0..100).for_each(|index| assert!(publisher.add(key(index))));
        let mut now = start;
        let mut running = 0;
        for _ in 0..1000 {
            running += usize::from(publisher.due(now).is_some());
            now += PACE;
        }
        assert_eq!(running, MAX_PUBLISHING);
        publisher.on_done();
        assert!(publisher.due(now).is_some());
    }
}
