//! Origins as sources: one sequential stream at a time, started and stopped by expected time.

use std::time::Duration;

use super::FetchScheduler;
use super::blob_map::Held;
use super::config::SchedulerConfig;
use super::estimate::{RateEstimate, transfer_time};
use super::groups::{GROUP_BYTES, GroupRange};
use super::requests::Request;
use super::types::{Action, DropReason, LookupPhase, SourceId, SourceKind};

/// A reader this close in front of a stream is served by it.
const STREAM_LEAD: Duration = Duration::from_millis(250);
/// A first byte may take this many times as long as expected before its stream counts as silent.
const FIRST_BYTE_SLACK: u32 = 3;
/// A stream that goes on after such a gap was waiting itself, and was not slow.
const CATCHING_UP: Duration = Duration::from_secs(1);
/// The rest of an origin that was left doubles at most this often.
const MAX_DOUBLINGS: u32 = 5;

/// What becomes of a running stream.
enum Verdict {
    /// It goes on.
    Keep,
    /// It has nothing more to give, or peers have become much faster.
    Stop,
    /// Another origin takes its place.
    Leave,
    /// It starts again behind what is there already.
    Skip { to_byte: u64 },
}

/// One origin and its stream.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) source: SourceId,
    ranged: bool,
    relay: bool,
    expected_bytes_per_second: f64,
    expected_first_byte: Duration,
    /// The expectation rests on something that was seen.
    is_known: bool,
    rests_until: Duration,
    left: u32,
    pub(super) running: bool,
    started_at: Duration,
    from_byte: u64,
    /// Stored up to here. Kept after a stop: the last report may still be on its way.
    at_byte: u64,
    /// When it last gave a sign of life, and when bytes.
    progress_at: Duration,
    bytes_at: Duration,
    rate: RateEstimate,
}

impl Upstream {
    /// `None` unless `kind` is an origin.
    pub(super) fn new(source: SourceId, kind: &SourceKind, config: &SchedulerConfig) -> Option<Self> {
        let SourceKind::Origin { ranged, expected_bytes_per_second, expected_first_byte, relay } = kind
        else {
            return None;
        };
        let rate = expected_bytes_per_second.filter(|rate| rate.is_finite() && *rate > 0.0);
        Some(Self {
            source,
            ranged: *ranged,
            relay: *relay,
            expected_bytes_per_second: rate.unwrap_or(config.expected_origin_bytes_per_second),
            expected_first_byte: expected_first_byte.unwrap_or(config.expected_origin_first_byte),
            is_known: rate.is_some(),
            rests_until: Duration::ZERO,
            left: 0,
            running: false,
            started_at: Duration::ZERO,
            from_byte: 0,
            at_byte: 0,
            progress_at: Duration::ZERO,
            bytes_at: Duration::ZERO,
            rate: RateEstimate::default(),
        })
    }

    fn start(&mut self, now: Duration, from_byte: u64) {
        self.running = true;
        self.started_at = now;
        self.progress_at = now;
        self.from_byte = from_byte;
        self.at_byte = from_byte;
        self.rate = RateEstimate::default();
    }

    /// The stream is over; what it showed is expected of the next one.
    pub(super) fn stop(&mut self) {
        self.running = false;
        if let Some(rate) = self.rate.get() {
            self.expected_bytes_per_second = rate;
            self.is_known = true;
        }
    }

    /// It was silent or far too slow: it is tried again after a while, and with less hope.
    fn leave(&mut self, now: Duration, config: &SchedulerConfig) {
        self.stop();
        self.expected_bytes_per_second =
            self.rate.effective(now).unwrap_or(self.expected_bytes_per_second / 2.0);
        self.rests_until = now + config.origin_pause * (1 << self.left.min(MAX_DOUBLINGS));
        self.left += 1;
    }

    /// When it counts as silent.
    pub(super) fn silent_at(&self, config: &SchedulerConfig) -> Duration {
        let first =
            if self.has_begun() { Duration::ZERO } else { self.expected_first_byte * FIRST_BYTE_SLACK };
        self.progress_at + config.stream_patience.max(first)
    }

    /// The stream has come to `offset`; returns the groups that have become whole.
    pub(super) fn advance(&mut self, now: Duration, offset: u64, size_bytes: u64) -> Option<GroupRange> {
        let offset = offset.min(size_bytes);
        if offset <= self.at_byte {
            // A relay that waits itself says so.
            self.progress_at = now;
            return None;
        }
        if self.at_byte == self.from_byte {
            // The wait for the first byte is not part of the rate.
            self.expected_first_byte = now.saturating_sub(self.started_at);
            self.rate.begin(now);
        } else if now.saturating_sub(self.bytes_at) > CATCHING_UP {
            // Nor is the time in which a relay had nothing to pass on.
            self.rate.begin(now);
        } else {
            self.rate.add(now, offset - self.at_byte);
        }
        self.progress_at = now;
        self.bytes_at = now;
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
        let silence = now.saturating_sub(self.progress_at);
        let first = match age.checked_sub(self.expected_first_byte) {
            _ if self.has_begun() && silence < STREAM_LEAD => Duration::ZERO,
            _ if self.has_begun() => silence,
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
        let Some(stream) = self.stream() else {
            return self.origin_is_wanted(now) && self.start_stream(now, None, actions);
        };
        let source = stream.source;
        match self.verdict(now, stream) {
            Verdict::Keep => return false,
            Verdict::Stop => {
                self.stop_stream();
                actions.push(Action::StopOrigin { source });
                // With nobody else at work, gaps that it left behind are its own to fill.
                if self.requests.is_empty() && self.origin_is_wanted(now) {
                    self.start_stream(now, None, actions);
                }
            }
            Verdict::Leave => {
                let config = &self.config;
                self.upstreams.iter_mut().filter(|u| u.running).for_each(|stream| stream.leave(now, config));
                actions.push(Action::StopOrigin { source });
                self.start_stream(now, None, actions);
            }
            Verdict::Skip { to_byte } => {
                self.stop_stream();
                actions.push(Action::StopOrigin { source });
                self.start_stream(now, Some((source, to_byte)), actions);
            }
        }
        true
    }

    fn verdict(&self, now: Duration, stream: &Upstream) -> Verdict {
        if self.stream_is_spent(now, stream) || self.peers_outrun(now, stream) {
            return Verdict::Stop;
        }
        if self.is_worth_leaving(now, stream) {
            return Verdict::Leave;
        }
        let head = stream.at_byte / GROUP_BYTES;
        let next = self.map.first_missing(head).filter(|next| stream.ranged && *next > head);
        let Some(next) = next else { return Verdict::Keep };
        let saved = transfer_time((next - head) * GROUP_BYTES, stream.bytes_per_second(now));
        if saved > stream.expected_first_byte + self.config.min_skip_gain {
            return Verdict::Skip { to_byte: next * GROUP_BYTES };
        }
        Verdict::Keep
    }

    /// It is silent and there is another one, or another one is known to be much faster.
    fn is_worth_leaving(&self, now: Duration, stream: &Upstream) -> bool {
        let Some(other) = self.best_upstream(now).filter(|other| now >= other.rests_until) else {
            return false;
        };
        if now >= stream.silent_at(&self.config) {
            return true;
        }
        // One that lives and has nothing yet is catching up; to begin at another one would take as long.
        let trickles = stream.rate.get().is_some() && now < stream.bytes_at + self.config.stream_patience;
        if !other.is_known || !trickles || now < stream.started_at + self.config.compare_after {
            return false;
        }
        let end = (self.map.missing_end() * GROUP_BYTES).min(self.map.size_bytes());
        let rest = stream.reaches(now, end).unwrap_or_default();
        rest > self.needs(other).mul_f64(self.config.origin_yield)
    }

    /// How long an origin that is not running would need for what is missing.
    fn needs(&self, upstream: &Upstream) -> Duration {
        let missing = self.map.missing_bytes();
        let end = (self.map.missing_end() * GROUP_BYTES).min(self.map.size_bytes());
        let bytes = if upstream.ranged { missing } else { end };
        upstream.expected_first_byte + transfer_time(bytes, upstream.expected_bytes_per_second)
    }

    /// The idle origin to start next: one that does not rest, a relay before the others, and the quickest of those.
    fn best_upstream(&self, now: Duration) -> Option<&Upstream> {
        let idle = self.upstreams.iter().filter(|upstream| !upstream.running);
        idle.min_by_key(|u| (u.rests_until.saturating_sub(now), !u.relay, self.needs(u)))
    }

    fn start_stream(
        &mut self,
        now: Duration,
        at: Option<(SourceId, u64)>,
        actions: &mut Vec<Action>,
    ) -> bool {
        let Some((source, start)) =
            at.or_else(|| Some((self.best_upstream(now)?.source, self.stream_start(now))))
        else {
            return false;
        };
        let Some(upstream) = self.upstreams.iter_mut().find(|upstream| upstream.source == source) else {
            return false;
        };
        let from_byte = if upstream.ranged { start } else { 0 };
        upstream.start(now, from_byte);
        actions.push(Action::StartOrigin { source, from_byte });
        true
    }

    /// Where a stream that may start anywhere is of most use: the first gap at or behind the first reader, and of
    /// the gaps those that nobody was asked for, unless nothing comes from whom they were asked.
    fn stream_start(&self, now: Duration) -> u64 {
        let reader = self.readers.iter().map(|reader| reader.offset_bytes() / GROUP_BYTES).min().unwrap_or(0);
        let open = || self.map.first_open_group(reader).or_else(|| self.map.first_open_group(0));
        let missing = || self.map.first_missing(reader).or_else(|| self.map.first_missing(0));
        let group = if self.is_starved(now) { missing() } else { open().or_else(missing) };
        group.unwrap_or(0) * GROUP_BYTES
    }

    pub(super) fn stop_stream(&mut self) {
        self.upstreams.iter_mut().filter(|upstream| upstream.running).for_each(Upstream::stop);
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
        let idle = self.idle_since.is_some_and(|since| now >= since + self.idle_patience());
        idle || self.is_starved(now) || self.peers_are_too_slow(now)
    }

    fn is_starved(&self, now: Duration) -> bool {
        now >= self.progress_at + self.config.starve_after
    }

    /// How long nothing may be in flight: no time at all when no peer could change that soon.
    fn idle_patience(&self) -> Duration {
        if self.swarm > 0 {
            return self.config.relay_patience;
        }
        let could_help = |held: Option<&Held>| self.map.open_in(0..self.map.groups(), held).is_some();
        if self.lookup == LookupPhase::Near || self.peers.values().any(|p| could_help(p.held.as_ref())) {
            return self.config.origin_patience;
        }
        Duration::ZERO
    }

    /// Compares the rest of the fetch with and without the origin.
    fn peers_are_too_slow(&self, now: Duration) -> bool {
        let Some(upstream) = self.best_upstream(now) else { return false };
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

    pub(super) fn origin_at(
        &mut self,
        now: Duration,
        source: SourceId,
        from_byte: u64,
        offset: u64,
        actions: &mut Vec<Action>,
    ) {
        let size = self.map.size_bytes();
        let Some(upstream) = self.upstreams.iter_mut().find(|upstream| upstream.source == source) else {
            return;
        };
        if upstream.from_byte != from_byte {
            // The last words of an earlier stream.
            return;
        }
        if let Some(groups) = upstream.advance(now, offset, size) {
            self.progress_at = now;
            self.groups_present(now, &groups, actions);
        }
    }

    /// Whoever is there now has a moment to show what it can do before the stream is thought of again.
    pub(super) fn origin_left(&mut self, now: Duration, source: SourceId) {
        let running = |upstream: &&mut Upstream| upstream.source == source && upstream.running;
        if let Some(upstream) = self.upstreams.iter_mut().find(running) {
            upstream.stop();
            self.progress_at = now;
        }
    }

    pub(super) fn origin_ended(
        &mut self,
        now: Duration,
        source: SourceId,
        from_byte: u64,
        ok: bool,
        actions: &mut Vec<Action>,
    ) {
        if ok {
            self.origin_at(now, source, from_byte, self.map.size_bytes(), actions);
        }
        let running = |u: &&mut Upstream| u.source == source && u.from_byte == from_byte && u.running;
        let Some(upstream) = self.upstreams.iter_mut().find(running) else { return };
        upstream.stop();
        if !ok {
            self.remove_source(source);
            actions.push(Action::DropSource { source, reason: DropReason::OriginFailed });
        }
    }
}
