//! The pure fetch scheduler: what happened and the time go in, what is to be done comes out.
//!
//! One [`FetchScheduler`] decides for one blob which source is asked for what, and when. It knows no sockets, no
//! files and no clock, so that tests and simulations run it in virtual time and a seed replays a whole fetch.
//!
//! How it decides:
//! - *Windows first.* The bytes that a reader wants within about two seconds are asked for in order; a peer that is
//!   much slower than another holder stays out of them. Behind the windows the rarest blocks come first, ascending
//!   from an offset that differs from fetch to fetch, so that nodes that fetch together soon hold different parts.
//! - *In flight* at a peer is twice the product of its rate and its smallest latency, between 512 KiB and 32 MiB.
//! - *Late extents* are hedged: past the p95 of their peer in a window, or by expected time once nothing is left to
//!   be asked for. What that may fetch twice is bounded; the loser is cancelled.
//! - *Faults.* Silence, broken streams and busy answers pause a peer for longer each time and then drop it; a corrupt
//!   answer bans it at once. What it owed is open again in the same instant.
//! - *Network prefixes* answer for their peers: after a lie or a few faults, those of a prefix that have shown nothing
//!   yet have one request in flight together.
//! - *An origin* is one stream, started when peers cannot serve, when nothing comes from them, or when they are too
//!   slow for what it is expected to give: the one that should be done first, a relay on the site before any. While it
//!   runs, peers fill from the back and leave to it what it reaches sooner. It stops where they meet, or when they
//!   have become so fast that it hardly matters. One that may start anywhere begins where a reader waits and skips
//!   what peers have delivered. A silent one is left for the next.
//! - *A swarm* is a fetch with peers that are fetching too. What only complete holders have is then taken in random
//!   order and little at a time, so that they send each block about once and the others spread it; a reader that
//!   stands still is served first.
//!
//! Every event order is legal, and all state is bounded by [`SchedulerConfig`] and the size of the blob.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

mod bitmap;
mod blob_map;
mod config;
mod estimate;
mod faults;
mod fill;
mod groups;
mod hedge;
mod peer;
mod prefixes;
mod readers;
mod requests;
#[cfg(test)]
mod tests;
mod types;
mod upstream;

pub use config::SchedulerConfig;
pub use types::{
    Action, DropReason, Event, FailReason, Fault, Holdings, LookupPhase, ReaderId, SourceId, SourceKind,
    Timing,
};

use blob_map::BlobMap;
use estimate::Random;
use hedge::HedgeScope;
use peer::Peer;
use prefixes::Prefixes;
use readers::Readers;
use requests::Requests;
use upstream::Upstream;

/// Estimates age even when nothing happens: the plan is looked at again at least this often.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// A timer is never set closer than this, so that rounding cannot make it fire without end.
const MIN_WAKE: Duration = Duration::from_millis(1);

/// Decides for one blob which source is asked for what, and when.
#[derive(Debug)]
pub struct FetchScheduler {
    config: SchedulerConfig,
    map: BlobMap,
    requests: Requests,
    peers: BTreeMap<SourceId, Peer>,
    prefixes: Prefixes,
    /// How many of the peers fetch the blob too.
    swarm: usize,
    /// In the order in which they were added.
    upstreams: Vec<Upstream>,
    readers: Readers,
    banned: BTreeSet<SourceId>,
    sources_ever: usize,
    lookup: LookupPhase,
    lookup_since: Duration,
    first_request_at: Option<Duration>,
    /// When bytes last arrived from anywhere, or the first peer did.
    progress_at: Duration,
    /// Since when nothing is in flight and no stream runs.
    idle_since: Option<Duration>,
    hedged_bytes: u64,
    hedges: u64,
    random: Random,
    /// Sets the patience of readers apart from that of other fetches.
    seed: u64,
    now: Duration,
    wake: Option<Duration>,
    over: bool,
}

/// Where a fetch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FetchStats {
    /// Bytes of the blob that are not present yet.
    pub missing_bytes: u64,
    /// Bytes asked of peers and not yet answered.
    pub in_flight_bytes: u64,
    /// Peers in use.
    pub peers: usize,
    /// Origins that have not failed.
    pub origins: usize,
    /// True while an origin streams.
    pub origin_running: bool,
    /// Extents that were asked of a second peer.
    pub hedges: u64,
    /// Bytes of them that were, or may have been, delivered twice.
    pub hedged_bytes: u64,
    /// Upper bound of `hedged_bytes`.
    pub hedge_budget_bytes: u64,
}

impl FetchScheduler {
    /// A scheduler for a blob of `size_bytes`. `seed` decides where behind the windows the fetch begins; give each
    /// fetch its own. Nothing happens before the first event, and the blob of no bytes is complete with it.
    pub fn new(config: SchedulerConfig, size_bytes: u64, seed: u64) -> Self {
        let mut random = Random(seed);
        Self {
            map: BlobMap::new(size_bytes, &mut random),
            config,
            requests: Requests::default(),
            peers: BTreeMap::new(),
            prefixes: Prefixes::default(),
            swarm: 0,
            upstreams: Vec::new(),
            readers: Readers::default(),
            banned: BTreeSet::new(),
            sources_ever: 0,
            lookup: LookupPhase::Near,
            lookup_since: Duration::ZERO,
            first_request_at: None,
            progress_at: Duration::ZERO,
            idle_since: None,
            hedged_bytes: 0,
            hedges: 0,
            random,
            seed,
            now: Duration::ZERO,
            wake: None,
            over: false,
        }
    }

    /// Tells what happened at `now`, the time since the fetch began, and returns what is to be done, in order. A time
    /// before that of the last event counts as that one. After [`Action::Complete`] or [`Action::Failed`] nothing is
    /// returned any more.
    pub fn on_event(&mut self, now: Duration, event: Event) -> Vec<Action> {
        self.on_events(now, [event])
    }

    /// The same for events that happened together: what is to be done is thought about once. With many peers, that
    /// thought costs more than the events.
    pub fn on_events(&mut self, now: Duration, events: impl IntoIterator<Item = Event>) -> Vec<Action> {
        let mut actions = Vec::new();
        self.now = self.now.max(now);
        for event in events {
            if self.over {
                return actions;
            }
            self.apply(self.now, event, &mut actions);
            if self.map.is_complete() {
                self.complete(&mut actions);
            }
        }
        if !self.over {
            self.plan(self.now, &mut actions);
        }
        actions
    }

    /// Where the fetch stands.
    pub fn stats(&self) -> FetchStats {
        FetchStats {
            missing_bytes: self.map.missing_bytes(),
            in_flight_bytes: self.requests.bytes(),
            peers: self.peers.len(),
            origins: self.upstreams.len(),
            origin_running: self.stream().is_some(),
            hedges: self.hedges,
            hedged_bytes: self.hedged_bytes,
            hedge_budget_bytes: self.duplicate_budget(),
        }
    }

    fn apply(&mut self, now: Duration, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::SourceAdded { source, kind } => self.source_added(now, source, kind, actions),
            Event::HoldingsChanged { source, holdings } => self.holdings_changed(now, source, &holdings),
            Event::SourceGone { source } => self.remove_source(source),
            Event::ExtentDone { source, extent, timing } => {
                self.extent_done(now, source, extent, timing, actions);
            }
            Event::ExtentFailed { source, extent, fault } => {
                self.extent_failed(now, source, extent, fault, actions);
            }
            Event::OriginAt { source, from_byte, offset_bytes } => {
                self.origin_at(now, source, from_byte, offset_bytes, actions);
            }
            Event::OriginEnded { source, from_byte, ok } => {
                self.origin_ended(now, source, from_byte, ok, actions);
            }
            Event::OriginLeft { source } => self.origin_left(now, source),
            Event::ReaderAt { reader, offset_bytes } => {
                self.readers.moved(now, reader, offset_bytes, &self.config);
            }
            Event::ReaderGone { reader } => self.readers.gone(reader),
            Event::Present { groups } => self.groups_present(now, &groups, actions),
            Event::Lookup(phase) => {
                if phase != self.lookup {
                    self.lookup = phase;
                    self.lookup_since = now;
                }
            }
            Event::Tick => {}
        }
    }

    fn complete(&mut self, actions: &mut Vec<Action>) {
        self.over = true;
        for request in self.requests.iter() {
            actions.push(Action::Cancel { source: request.source, extent: request.extent });
        }
        if let Some(stream) = self.stream() {
            actions.push(Action::StopOrigin { source: stream.source });
        }
        self.requests = Requests::default();
        self.stop_stream();
        actions.push(Action::Complete);
    }

    fn plan(&mut self, now: Duration, actions: &mut Vec<Action>) {
        self.expire(now, actions);
        self.note_probation(now);
        self.note_swarm(now);
        let in_windows = self.hedge(now, HedgeScope::Windows, actions);
        self.fill(now, actions);
        if self.note_idle(now) && self.plan_origin(now, actions) {
            // Who fills from which side has changed.
            self.fill(now, actions);
            self.note_idle(now);
        }
        let at_end = self.hedge(now, HedgeScope::EndGame, actions);
        if self.give_up(now, actions) {
            return;
        }
        self.set_wake(now, in_windows.into_iter().chain(at_end), actions);
    }

    fn note_swarm(&mut self, now: Duration) {
        self.swarm = self.peers.values().filter(|peer| peer.is_growing(now, &self.config)).count();
        for peer in self.peers.values_mut() {
            peer.spare = self.swarm > 0 && peer.held.is_none();
        }
    }

    /// Keeps `idle_since`; always true, to be read as a step.
    fn note_idle(&mut self, now: Duration) -> bool {
        if !self.requests.is_empty() || self.stream().is_some() {
            self.idle_since = None;
        } else {
            self.idle_since.get_or_insert(now);
        }
        true
    }

    /// Fails the fetch when nobody is left to ask and nobody will come. Peers that hold nothing of use are let go
    /// first, after a while: they may get it yet.
    fn give_up(&mut self, now: Duration, actions: &mut Vec<Action>) -> bool {
        if self.lookup != LookupPhase::Finished || !self.upstreams.is_empty() {
            return false;
        }
        let quiet = self.requests.is_empty() && now >= self.progress_at + self.config.max_idle;
        if quiet {
            let useless: Vec<SourceId> = self.peers.keys().copied().collect();
            for source in useless {
                self.drop_peer(source, DropReason::Idle, actions);
            }
        }
        if self.peers.is_empty() {
            self.over = true;
            let none = self.sources_ever == 0;
            actions.push(Action::Failed(if none { FailReason::NoSource } else { FailReason::SourcesLost }));
        }
        self.over
    }

    fn set_wake(&mut self, now: Duration, hedges: impl Iterator<Item = Duration>, actions: &mut Vec<Action>) {
        let stalls = self.peers.values().filter_map(|peer| peer.stall_deadline(&self.config));
        let pauses = self.peers.values().map(|peer| peer.paused_until).chain(self.prefixes.pauses());
        let patience = [self.config.origin_patience, self.config.relay_patience];
        let idle = self.idle_since.into_iter().flat_map(|since| patience.map(|patience| since + patience));
        let silent = self.stream().map(|stream| stream.silent_at(&self.config));
        let origin = [
            self.lookup_since + self.config.origin_patience,
            self.progress_at + self.config.starve_after,
            now + HEARTBEAT,
        ];
        let times = stalls.chain(pauses).chain(idle).chain(silent).chain(origin).chain(hedges);
        let Some(next) = times.filter(|time| *time > now).min().map(|time| time.max(now + MIN_WAKE)) else {
            return;
        };
        // An earlier timer that is still to come fires too soon, which is harmless, and saves an action per event.
        if self.wake.is_none_or(|wake| wake <= now || next < wake) {
            self.wake = Some(next);
            actions.push(Action::WakeAt(next));
        }
    }
}
