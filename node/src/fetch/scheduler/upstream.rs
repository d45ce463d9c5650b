//! Origins as sources: one sequential stream at a time, started and stopped by expected time.

use std::time::Duration;

use super::FetchScheduler;
use super::config::SchedulerConfig;
use super::estimate::{RateEstimate, transfer_time};
use super::groups::{GROUP_BYTES, GroupRange};
use super::requests::Request;
use super::types::{Action, LookupPhase, SourceId};

/// A reader this close in front of a stream is served by it.
const STREAM_LEAD: Duration = Duration::from_millis(250);

/// One origin and its stream.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) source: SourceId,
    ranged: bool,
    expected_bytes_per_second: f64,
    expected_first_byte: Duration,
    pub(super) running: bool,
    started_at: Duration,
    from_byte: u64,
    /// Stored up to here. Kept after a stop: the last report may still be on its way.
    at_byte: u64,
    rate: RateEstimate,
}

impl Upstream {
    pub(super) fn new(
        source: SourceId,
        ranged: bool,
        bytes_per_second: Option<f64>,
        first_byte: Option<Duration>,
        config: &SchedulerConfig,
    ) -> Self {
        let rate = bytes_per_second.filter(|rate| rate.is_finite() && *rate > 0.0);
        Self {
            source,
            ranged,
            expected_bytes_per_second: rate.unwrap_or(config.expected_origin_bytes_per_second),
            expected_first_byte: first_byte.unwrap_or(config.expected_origin_first_byte),
            running: false,
            started_at: Duration::ZERO,
            from_byte: 0,
            at_byte: 0,
            rate: RateEstimate::default(),
        }
    }

    fn start(&mut self, now: Duration, from_byte: u64) {
        self.running = true;
        self.started_at = now;
        self.from_byte = from_byte;
        self.at_byte = from_byte;
        self.rate = RateEstimate::default();
    }

    /// The stream is over; what it showed is expected of the next one.
    pub(super) fn stop(&mut self) {
        self.running = false;
        self.expected_bytes_per_second = self.rate.get().unwrap_or(self.expected_bytes_per_second);
    }

    /// The stream has come to `offset`; returns the groups that have become whole.
    pub(super) fn advance(&mut self, now: Duration, offset: u64, size_bytes: u64) -> Option<GroupRange> {
        let offset = offset.min(size_bytes);
        if offset <= self.at_byte {
            return None;
        }
        if self.at_byte == self.from_byte {
            // The wait for the first byte is not part of the rate.
            self.expected_first_byte = now.saturating_sub(self.started_at);
            self.rate.begin(now);
        } else {
            self.rate.add(now, offset - self.at_byte);
        }
        let start = self.at_byte / GROUP_BYTES;
        let end = if offset == size_bytes { offset.div_ceil(GROUP_BYTES) } else { offset / GROUP_BYTES };
        self.at_byte = offset;
        (start < end).then_some(GroupRange { start, end })
    }

    fn has_begun(&self) -> bool {
        self.at_byte > self.from_byte
    }

    /// Bytes per second now: measured, less when silent, or expected when nothing was measured.
    pub(super) fn bytes_per_second(&self, now: Duration) -> f64 {
        self.rate.effective(now).unwrap_or(self.expected_bytes_per_second)
    }

    /// The time until the running stream has delivered everything before `byte`; `None` when it will not, because it
    /// is not running or began behind it.
    pub(super) fn reaches(&self, now: Duration, byte: u64) -> Option<Duration> {
        if !self.running || byte < self.from_byte {
            return None;
        }
        let age = now.saturating_sub(self.started_at);
        let first = match age.checked_sub(self.expected_first_byte) {
            _ if self.has_begun() => Duration::ZERO,
            // Late: expect it to be late for as long again.
            Some(late) => late,
            None => self.expected_first_byte - age,
        };
        Some(first + transfer_time(byte.saturating_sub(self.at_byte), self.bytes_per_second(now)))
    }

    /// True when a reader at `byte` gets its bytes from the stream, so that peers need not hurry for it.
    pub(super) fn serves(&self, now: Duration, byte: u64) -> bool {
        self.has_begun() && self.reaches(now, byte).is_some_and(|time| time < STREAM_LEAD)
    }
}

impl FetchScheduler {
    /// The origin whose stream runs, if one does.
    pub(super) fn stream(&self) -> Option<&Upstream> {
        self.upstreams.iter().find(|upstream| upstream.running)
    }

    /// Starts or stops a stream. Returns true when something changed, so that peers have to be planned anew.
    pub(super) fn plan_origin(&mut self, now: Duration, actions: &mut Vec<Action>) -> bool {
        if let Some(stream) = self.stream() {
            let source = stream.source;
            let stop = self.stream_is_spent(now, stream) || self.peers_outrun(now, stream);
            if stop {
                self.stop_stream();
                actions.push(Action::StopOrigin { source });
            }
            return stop;
        }
        if !self.origin_is_wanted(now) {
            return false;
        }
        let start = self.stream_start();
        let Some(upstream) = self.upstreams.first_mut() else { return false };
        let from_byte = if upstream.ranged { start } else { 0 };
        upstream.start(now, from_byte);
        actions.push(Action::StartOrigin { source: upstream.source, from_byte });
        true
    }

    /// Where a stream that may start anywhere is of most use: the first gap at or behind the first reader.
    fn stream_start(&self) -> u64 {
        let reader = self.readers.iter().map(|reader| reader.offset_bytes() / GROUP_BYTES).min().unwrap_or(0);
        let ahead = self.map.first_missing(reader).or_else(|| self.map.first_missing(0));
        ahead.unwrap_or(0) * GROUP_BYTES
    }

    pub(super) fn stop_stream(&mut self) {
        self.upstreams.iter_mut().for_each(Upstream::stop);
    }

    /// The policy of starting: when no peer can serve, when nothing comes from those that could, or when they are too
    /// slow for what the origin is expected to give.
    fn origin_is_wanted(&self, now: Duration) -> bool {
        if self.upstreams.is_empty() {
            return false;
        }
        if self.peers.is_empty() {
            return self.lookup != LookupPhase::Near
                || now >= self.lookup_since + self.config.origin_patience;
        }
        let idle = self.idle_since.is_some_and(|since| now >= since + self.config.origin_patience);
        let starved = now >= self.progress_at + self.config.starve_after;
        idle || starved || self.peers_are_too_slow(now)
    }

    /// Compares the rest of the fetch with and without the origin.
    fn peers_are_too_slow(&self, now: Duration) -> bool {
        let Some(upstream) = self.upstreams.first() else { return false };
        if self.first_request_at.is_none_or(|first| now < first + self.config.compare_after) {
            return false;
        }
        let (missing, peers) = (self.map.missing_bytes(), self.peer_bytes_per_second(now, false));
        let alone = transfer_time(missing, peers);
        let together = transfer_time(missing, peers + upstream.expected_bytes_per_second);
        alone > (upstream.expected_first_byte + together).mul_f64(self.config.origin_gain)
    }

    /// Nothing open lies ahead of the stream, and what is asked of peers there comes sooner from them.
    fn stream_is_spent(&self, now: Duration, stream: &Upstream) -> bool {
        let head = stream.at_byte / GROUP_BYTES;
        if self.map.first_missing(head).is_none() {
            return true;
        }
        if self.map.first_open(head).is_some() {
            return false;
        }
        let ahead = self.requests.iter().filter(|request| request.extent.end > head);
        let peers = ahead.map(|request: &Request| request.remaining(now)).max().unwrap_or(Duration::MAX);
        let end = (self.map.missing_end() * GROUP_BYTES).min(self.map.size_bytes());
        stream.reaches(now, end).is_none_or(|stream| peers <= stream)
    }

    /// The peers hold all that is missing and are so fast that the stream hardly shortens the fetch.
    fn peers_outrun(&self, now: Duration, stream: &Upstream) -> bool {
        let complete = self.peers.values().any(|peer| peer.held.is_none() && peer.is_measured());
        let all_held = complete || self.map.open_is_held_in_parts();
        let peers = self.peer_bytes_per_second(now, true);
        all_held && peers >= stream.bytes_per_second(now) * self.config.origin_yield && peers > 0.0
    }

    /// What the peers give together; on request only those whose rate rests on several extents.
    fn peer_bytes_per_second(&self, now: Duration, measured_only: bool) -> f64 {
        let active = self.peers.values().filter(|peer| !peer.is_paused(now));
        active
            .filter(|peer| !measured_only || peer.is_measured())
            .filter_map(|peer| if peer.in_flight > 0 { peer.rate.effective(now) } else { peer.rate.get() })
            .sum()
    }
}
