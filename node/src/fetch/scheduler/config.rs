//! Settings of the scheduler. Each part of the daemon owns its settings; the defaults are the measured ones.

use std::time::Duration;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Settings of one [`FetchScheduler`](super::FetchScheduler). All of them bound something; `Default` is what the
/// daemon uses.
#[derive(Debug, Clone, PartialEq)]
pub struct SchedulerConfig {
    /// Peers known at once; more are answered with [`Action::DropSource`](super::Action::DropSource).
    pub max_peers: usize,
    /// Origins known at once.
    pub max_origins: usize,
    /// Sources ever taken on by one fetch, counting every return of one that had left. Bounds what flapping peers
    /// can cost.
    pub max_sources_ever: usize,
    /// Peers of one network prefix known at once.
    pub max_peers_per_prefix: usize,
    /// Sources ever taken on from one network prefix.
    pub max_prefix_sources_ever: usize,
    /// Network prefixes remembered at once; those without members and with the least penalty are forgotten first.
    pub max_prefixes: usize,
    /// Peers of one prefix that have not delivered anything yet and are asked at once.
    pub max_unproven_per_prefix: usize,
    /// Penalty points (a fault is one, a lie three) from which on the peers of a prefix that have not shown what they
    /// can do are on probation: together they have one request in flight.
    pub prefix_tolerance: u32,
    /// A prefix is forgiven one point in this time.
    pub prefix_forgiveness: Duration,
    /// Readers followed at once; the surplus is read along without a window of its own.
    pub max_readers: usize,
    /// Extents in flight at one peer, whatever their size.
    pub max_requests_per_peer: usize,
    /// Bytes in flight at one peer are at least this, in bytes: two small extents, so that one is on the wire while
    /// the other is being asked for.
    pub min_in_flight_bytes: u64,
    /// Bytes in flight at one peer are at most this.
    pub max_in_flight_bytes: u64,
    /// Bytes in flight at all peers together. This is what a fetch may hold in memory.
    pub max_total_in_flight_bytes: u64,
    /// The window in front of a reader covers this much of its time...
    pub window_time: Duration,
    /// ...but at least this many bytes...
    pub min_window_bytes: u64,
    /// ...and at most this many.
    pub max_window_bytes: u64,
    /// A partial holder whose holdings grew within this time is fetching the blob itself.
    pub growing_time: Duration,
    /// With others fetching the blob too, what only complete holders have is taken in random order, so that each of
    /// them is sent to somebody else. A reader that stands still for this long, and some more, so that not
    /// all readers of a swarm ask for the same, gets its next bytes first all the same.
    pub reader_patience: Duration,
    /// How much longer it may take before it does.
    pub max_reader_patience: Duration,
    /// A peer that is silent for this long with requests open has stalled, whatever was measured. Lower bound.
    pub min_stall: Duration,
    /// The same before anything was measured.
    pub initial_stall: Duration,
    /// Upper bound of the stall time-out.
    pub max_stall: Duration,
    /// Pause of a peer after its first fault; doubles with each further one.
    pub fault_pause: Duration,
    /// Late extents in a row that others delivered in a peer's place; then it counts as stalled.
    pub max_lost: u32,
    /// Consecutive faults (a closed stream is one) after which a peer is dropped.
    pub max_faults: u32,
    /// Faults that a silence counts for: a broken stream costs a round trip, a silence seconds.
    pub stall_faults: u32,
    /// Extents that a peer may deny to hold, one after the other, before it is dropped.
    pub max_not_held: u32,
    /// Busy answers in a row after which a peer is dropped.
    pub max_busy: u32,
    /// Shortest and longest pause after a busy answer.
    pub min_busy_pause: Duration,
    /// See `min_busy_pause`.
    pub max_busy_pause: Duration,
    /// Bytes that hedging may fetch twice, as a share of the blob.
    pub duplicate_share: f64,
    /// ...but at least this many, so that small blobs, where one late extent is the whole delay, can be hedged.
    pub min_duplicate_bytes: u64,
    /// No hedge before an extent is this old, however quick its peer usually is.
    pub min_hedge_delay: Duration,
    /// How long the origin waits for peers while the look-up among connected peers runs, and after it while a peer
    /// that could help pauses. Peers that cannot help are not waited for.
    pub origin_patience: Duration,
    /// The same while partial holders are getting more of the blob: their next report is worth waiting for.
    pub relay_patience: Duration,
    /// A stream that is silent for this long is left for another origin, if there is one.
    pub stream_patience: Duration,
    /// How long an origin that was left rests; doubles each time.
    pub origin_pause: Duration,
    /// What a stream gains by skipping what is already there, beyond the time to the first byte, to be worth a new
    /// request.
    pub min_skip_gain: Duration,
    /// How long nothing may arrive from peers before an idle origin is started beside them.
    pub starve_after: Duration,
    /// How long peers are measured before their speed is compared with the origin's.
    pub compare_after: Duration,
    /// Bytes per second the origin is expected to give when the driver knows no better.
    pub expected_origin_bytes_per_second: f64,
    /// Time to the first byte expected from an origin when the driver knows no better.
    pub expected_origin_first_byte: Duration,
    /// An idle origin is started when it would shorten the rest of the fetch by this factor.
    pub origin_gain: f64,
    /// A running origin is stopped when the peers together are this many times as fast and hold all that is missing:
    /// its bytes cost somebody, and hardly shorten the fetch.
    pub origin_yield: f64,
    /// Sources that hold nothing of what is missing are let go when nothing has happened for this long.
    pub max_idle: Duration,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            max_peers: 64,
            max_origins: 8,
            max_sources_ever: 1024,
            max_peers_per_prefix: 16,
            max_prefix_sources_ever: 128,
            max_prefixes: 256,
            max_unproven_per_prefix: 4,
            prefix_tolerance: 3,
            prefix_forgiveness: Duration::from_secs(10),
            max_readers: 16,
            max_requests_per_peer: 64,
            min_in_flight_bytes: 512 * KIB,
            max_in_flight_bytes: 32 * MIB,
            max_total_in_flight_bytes: 64 * MIB,
            window_time: Duration::from_secs(2),
            min_window_bytes: 4 * MIB,
            max_window_bytes: 64 * MIB,
            growing_time: Duration::from_secs(3),
            reader_patience: Duration::from_millis(500),
            max_reader_patience: Duration::from_secs(8),
            min_stall: Duration::from_secs(1),
            initial_stall: Duration::from_secs(4),
            max_stall: Duration::from_secs(20),
            fault_pause: Duration::from_millis(200),
            max_lost: 3,
            max_faults: 3,
            stall_faults: 2,
            max_not_held: 16,
            max_busy: 12,
            min_busy_pause: Duration::from_millis(20),
            max_busy_pause: Duration::from_secs(5),
            duplicate_share: 0.02,
            min_duplicate_bytes: MIB,
            min_hedge_delay: Duration::from_millis(20),
            origin_patience: Duration::from_millis(50),
            relay_patience: Duration::from_millis(300),
            stream_patience: Duration::from_millis(1500),
            origin_pause: Duration::from_secs(2),
            min_skip_gain: Duration::from_millis(50),
            starve_after: Duration::from_millis(750),
            compare_after: Duration::from_secs(1),
            expected_origin_bytes_per_second: 4e6,
            expected_origin_first_byte: Duration::from_millis(200),
            origin_gain: 2.0,
            origin_yield: 4.0,
            max_idle: Duration::from_secs(30),
        }
    }
}
