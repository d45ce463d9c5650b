//! What is known of one peer, and what it may be asked for.

use std::time::Duration;

use super::blob_map::{BLOCK_GROUPS, Held};
use super::config::SchedulerConfig;
use super::estimate::{LatencyEstimate, RateEstimate, transfer_time};
use super::groups::{GROUP_BYTES, MAX_EXTENT_GROUPS};
use super::types::Timing;

/// Time that an answer takes through the threads, disks and queues of two nodes, whatever the line.
const PIPELINE_TIME: Duration = Duration::from_millis(10);
/// An extent should keep its peer busy for about this long: less wastes requests, more delays the reader.
const EXTENT_TIME: Duration = Duration::from_millis(100);
/// What a reader stands and waits for should take no longer than this.
const URGENT_TIME: Duration = Duration::from_millis(20);
/// Groups of the smallest extent: 64 KiB, for the first byte.
const FIRST_GROUPS: u64 = 4;
/// Requests in flight at a peer that has not delivered anything yet.
const FIRST_REQUESTS: usize = 2;
/// Answers received in less time than this say nothing of the rate: they came in one piece.
const MIN_RECEIVING: Duration = Duration::from_millis(1);
/// Extents to complete before a peer's rate counts when it is compared with an origin's.
const MEASURED_EXTENTS: u32 = 4;
/// Stall time-out in units of the peer's p95.
const STALL_LATENCIES: u32 = 3;
/// The pause after a fault doubles at most this often.
const MAX_DOUBLINGS: u32 = 6;

#[derive(Debug)]
pub(super) struct Peer {
    /// `None`: it holds all of the blob.
    pub(super) held: Option<Held>,
    pub(super) rtt: Option<Duration>,
    pub(super) prefix: Option<u64>,
    /// Its prefix misbehaved and it has shown nothing yet. Kept by the plan.
    pub(super) on_probation: bool,
    /// It holds all of the blob, and others that fetch it are known. Kept by the plan.
    pub(super) spare: bool,
    /// The block that it was asked for last.
    pub(super) last_block: u64,
    /// When its holdings last grew: it fetches the blob itself.
    pub(super) grew_at: Option<Duration>,
    pub(super) rate: RateEstimate,
    pub(super) latency: LatencyEstimate,
    pub(super) in_flight_bytes: u64,
    pub(super) in_flight: usize,
    /// When it last delivered, or got something to do after it had nothing.
    pub(super) last_progress: Duration,
    pub(super) paused_until: Duration,
    pub(super) completed: u32,
    /// Closed or stalled since it last delivered.
    pub(super) faults: u32,
    /// Requests asked up to this time share the blame of the last fault.
    pub(super) blamed_until: Option<Duration>,
    /// Requests that another peer had to answer in its place since it last delivered.
    pub(super) lost: u32,
    /// What of the duplicate budget was spent on them. Given back when it turns out that nothing came of them.
    pub(super) lost_bytes: u64,
    pub(super) not_held: u32,
    pub(super) busy: u32,
}

impl Peer {
    pub(super) fn new(held: Option<Held>, rtt: Option<Duration>, prefix: Option<u64>) -> Self {
        Self {
            held,
            rtt,
            prefix,
            on_probation: false,
            spare: false,
            last_block: 0,
            grew_at: None,
            rate: RateEstimate::default(),
            latency: LatencyEstimate::default(),
            in_flight_bytes: 0,
            in_flight: 0,
            last_progress: Duration::ZERO,
            paused_until: Duration::ZERO,
            completed: 0,
            faults: 0,
            blamed_until: None,
            lost: 0,
            lost_bytes: 0,
            not_held: 0,
            busy: 0,
        }
    }

    /// A request of so many bytes goes out.
    pub(super) fn sent(&mut self, now: Duration, bytes: u64) {
        if self.in_flight == 0 {
            self.last_progress = now;
            self.rate.begin(now);
        }
        self.in_flight += 1;
        self.in_flight_bytes += bytes;
    }

    /// A request is over, whatever came of it.
    pub(super) fn closed(&mut self, bytes: u64) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(bytes);
    }

    /// An extent was delivered: earlier faults are forgiven.
    pub(super) fn delivered(&mut self, now: Duration, bytes: u64, latency: Duration, timing: Option<Timing>) {
        if let Some(timing) = timing {
            self.rtt = Some(self.rtt.map_or(timing.first_byte, |rtt| rtt.min(timing.first_byte)));
            if timing.receiving >= MIN_RECEIVING {
                self.rate.guess(bytes as f64 / timing.receiving.as_secs_f64());
            }
        }
        self.rate.add(now, bytes);
        // What is in flight is sized by the smallest latency: that of a first extent, too small for it, misleads.
        if bytes > FIRST_GROUPS * GROUP_BYTES {
            self.latency.add(latency);
        }
        self.last_progress = now;
        self.completed = self.completed.saturating_add(1);
        self.faults = 0;
        self.lost = 0;
        self.lost_bytes = 0;
        self.not_held = 0;
        self.busy = 0;
    }

    pub(super) fn is_paused(&self, now: Duration) -> bool {
        now < self.paused_until
    }

    /// True when it failed or was too late the last time: until it delivers, it gets one extent at a time, and none
    /// that a reader waits for and another peer could bring.
    pub(super) fn is_suspect(&self) -> bool {
        self.faults > 0 || self.lost > 0 || self.on_probation
    }

    /// True when it holds a part that it is adding to.
    pub(super) fn is_growing(&self, now: Duration, config: &SchedulerConfig) -> bool {
        self.held.is_some() && self.grew_at.is_some_and(|at| now <= at + config.growing_time)
    }

    /// True when its rate rests on more than its first extents.
    pub(super) fn is_measured(&self) -> bool {
        self.completed >= MEASURED_EXTENTS
    }

    /// True when it should be asked for little at a time: it is slow (for others ask it too) and others spread what it
    /// sends, if they do not all ask for the same. What is in flight nobody knows of yet.
    pub(super) fn is_spared(&self) -> bool {
        let block = (BLOCK_GROUPS * GROUP_BYTES) as f64;
        self.spare && self.rate.get().is_some_and(|rate| rate * EXTENT_TIME.as_secs_f64() < block)
    }

    /// Bytes that should be in flight: twice the bandwidth-delay product, where the delay is the smallest latency
    /// ever measured. (A queue of our own making cannot feed on itself that way.) On a fast line with next to no delay
    /// it is our own threads on both sides that have to be kept busy.
    pub(super) fn in_flight_limit(&self, config: &SchedulerConfig) -> u64 {
        if self.is_spared() {
            return BLOCK_GROUPS * GROUP_BYTES;
        }
        let delay = self.latency.min().or(self.rtt).unwrap_or_default().max(PIPELINE_TIME);
        let wanted = self.rate.get().map_or(0.0, |rate| 2.0 * rate * delay.as_secs_f64()) as u64;
        wanted.min(config.max_in_flight_bytes).max(config.min_in_flight_bytes)
    }

    /// Bytes that it may be asked for now; 0 when it has enough to do, is paused or suspect.
    pub(super) fn room(&self, now: Duration, config: &SchedulerConfig) -> u64 {
        let limit = match self.completed {
            _ if self.is_suspect() => 1,
            // What a newcomer does not deliver is late for all.
            0 => config.max_requests_per_peer.min(FIRST_REQUESTS),
            _ => config.max_requests_per_peer,
        };
        if self.is_paused(now) || self.in_flight >= limit {
            return 0;
        }
        self.in_flight_limit(config).saturating_sub(self.in_flight_bytes)
    }

    /// Groups of its next extent: 64 KiB the first time, so that its first byte comes soon, then 256 KiB to 1 MiB, by
    /// its rate, and no more than its fair share.
    pub(super) fn extent_groups(&self, room_bytes: u64, fair_share_bytes: u64) -> u64 {
        if self.completed == 0 && self.in_flight == 0 {
            return FIRST_GROUPS;
        }
        if self.is_suspect() {
            return BLOCK_GROUPS;
        }
        let by_rate = self.rate.get().unwrap_or(0.0) * EXTENT_TIME.as_secs_f64();
        let groups = (by_rate as u64).min(room_bytes).min(fair_share_bytes) / GROUP_BYTES;
        // Powers of two keep extents aligned, so that what several nodes hold is cut alike.
        let rounded = 1u64 << groups.max(1).ilog2();
        rounded.clamp(BLOCK_GROUPS, MAX_EXTENT_GROUPS)
    }

    /// Groups of an extent that a reader stands and waits for: what the peer brings at once.
    pub(super) fn urgent_groups(&self) -> u64 {
        let groups = (self.rate.get().unwrap_or(0.0) * URGENT_TIME.as_secs_f64()) as u64 / GROUP_BYTES;
        (1u64 << groups.max(1).ilog2()).clamp(FIRST_GROUPS, MAX_EXTENT_GROUPS)
    }

    /// How long `bytes` asked now would take, behind what is in flight already.
    pub(super) fn expected(&self, bytes: u64, guessed_rate: f64) -> Duration {
        let rate = self.rate.get().unwrap_or(guessed_rate);
        self.rtt.unwrap_or_default() + transfer_time(self.in_flight_bytes + bytes, rate)
    }

    /// How long it may be silent with requests open.
    pub(super) fn stall_timeout(&self, config: &SchedulerConfig) -> Duration {
        let usual = self.latency.p95().map(|p95| (p95 * STALL_LATENCIES).max(config.min_stall));
        let patient = usual.unwrap_or(config.initial_stall) * (1 << self.faults.min(MAX_DOUBLINGS));
        patient.min(config.max_stall)
    }

    /// When it counts as stalled if nothing comes before.
    pub(super) fn stall_deadline(&self, config: &SchedulerConfig) -> Option<Duration> {
        (self.in_flight > 0).then(|| self.last_progress + self.stall_timeout(config))
    }

    /// How long it rests after its last fault.
    pub(super) fn fault_pause(&self, config: &SchedulerConfig) -> Duration {
        config.fault_pause * (1 << self.faults.saturating_sub(1).min(MAX_DOUBLINGS))
    }

    /// How long it rests after a busy answer.
    pub(super) fn busy_pause(&self, retry_after: Duration, config: &SchedulerConfig) -> Duration {
        let floor = config.min_busy_pause * (1 << self.busy.saturating_sub(1).min(MAX_DOUBLINGS));
        retry_after.max(floor).min(config.max_busy_pause).max(config.min_busy_pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const MIB: u64 = 1 << 20;

    fn peer_at(bytes_per_second: u64, latency: Duration) -> Peer {
        let mut peer = Peer::new(None, Some(latency), None);
        peer.sent(Duration::ZERO, MIB);
        for step in 1..=20u32 {
            peer.delivered(MS * 100 * step, bytes_per_second / 10, latency, None);
        }
        peer
    }

    #[test]
    fn in_flight_follows_rate_times_latency_within_its_bounds() {
        let config = SchedulerConfig::default();
        assert_eq!(Peer::new(None, None, None).in_flight_limit(&config), config.min_in_flight_bytes);
        assert_eq!(peer_at(1_000_000, MS).in_flight_limit(&config), config.min_in_flight_bytes);
        let limit = peer_at(50_000_000, MS * 100).in_flight_limit(&config);
        assert!((9_900_000..=10_100_000).contains(&limit), "{limit}");
        assert_eq!(peer_at(5_000_000_000, MS * 200).in_flight_limit(&config), config.max_in_flight_bytes);
    }

    #[test]
    fn extents_grow_with_the_rate_and_shrink_with_the_share() {
        assert_eq!(Peer::new(None, None, None).extent_groups(8 * MIB, 8 * MIB), FIRST_GROUPS);
        let mut asked = Peer::new(None, None, None);
        asked.sent(Duration::ZERO, FIRST_GROUPS * GROUP_BYTES);
        assert_eq!(asked.extent_groups(8 * MIB, 8 * MIB), 16);
        assert_eq!(peer_at(6_000_000, MS).extent_groups(8 * MIB, 8 * MIB), 32);
        assert_eq!(peer_at(100_000_000, MS).extent_groups(8 * MIB, 8 * MIB), 64);
        assert_eq!(peer_at(100_000_000, MS).extent_groups(8 * MIB, 300_000), 16);
    }

    #[test]
    fn stall_timeout_follows_the_latency_and_is_bounded() {
        let config = SchedulerConfig::default();
        assert_eq!(Peer::new(None, None, None).stall_timeout(&config), config.initial_stall);
        assert_eq!(peer_at(1_000_000, MS).stall_timeout(&config), config.min_stall);
        assert_eq!(peer_at(1_000_000, MS * 800).stall_timeout(&config), MS * 2400);
        assert_eq!(peer_at(1_000_000, MS * 60_000).stall_timeout(&config), config.max_stall);
        let mut twice = peer_at(1_000_000, MS * 800);
        twice.faults = 2;
        assert_eq!(twice.stall_timeout(&config), MS * 9600);
    }

    #[test]
    fn busy_pauses_grow_and_stay_bounded() {
        let config = SchedulerConfig::default();
        let mut peer = Peer::new(None, None, None);
        peer.busy = 1;
        assert_eq!(peer.busy_pause(Duration::ZERO, &config), config.min_busy_pause);
        assert_eq!(peer.busy_pause(MS * 500, &config), MS * 500);
        peer.busy = 40;
        assert_eq!(peer.busy_pause(Duration::ZERO, &config), config.min_busy_pause * 64);
        assert_eq!(peer.busy_pause(Duration::MAX, &config), config.max_busy_pause);
    }
}
