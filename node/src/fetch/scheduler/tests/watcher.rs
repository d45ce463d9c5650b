//! Runs a scheduler and checks every action that it returns against the rules.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::groups::{GROUP_BYTES, MAX_EXTENT_GROUPS, group_count};
use super::super::*;
use p2p_cache_protocol::{GroupRange, GroupSet};

/// A scheduler under watch, with its own account of what is in flight and present.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) scheduler: FetchScheduler,
    pub(super) config: SchedulerConfig,
    pub(super) size: u64,
    pub(super) in_flight: BTreeMap<(SourceId, GroupRange), Duration>,
    pub(super) present: GroupSet,
    pub(super) peers: BTreeSet<SourceId>,
    pub(super) origins: BTreeSet<SourceId>,
    pub(super) running: Option<SourceId>,
    origin_from: u64,
    origin_at: u64,
    lookup: LookupPhase,
    pub(super) outcome: Option<Action>,
    pub(super) duplicate_bytes: u64,
    pub(super) requests: u64,
}

impl Watched {
    pub(super) fn new(config: SchedulerConfig, size: u64, seed: u64) -> Self {
        Self {
            scheduler: FetchScheduler::new(config.clone(), size, seed),
            config,
            size,
            in_flight: BTreeMap::new(),
            present: GroupSet::new(group_count(size)),
            peers: BTreeSet::new(),
            origins: BTreeSet::new(),
            running: None,
            origin_from: 0,
            origin_at: 0,
            lookup: LookupPhase::Near,
            outcome: None,
            duplicate_bytes: 0,
            requests: 0,
        }
    }

    fn bytes_of(&self, extent: &GroupRange) -> u64 {
        let bytes = extent.bytes(self.size);
        bytes.end - bytes.start
    }

    /// What the driver knows when it reports an event.
    fn note(&mut self, event: &Event) {
        match event {
            Event::SourceAdded { source, kind } => {
                let known = self.peers.contains(source) || self.origins.contains(source);
                match kind {
                    _ if known => {}
                    SourceKind::Peer { .. } => drop(self.peers.insert(*source)),
                    SourceKind::Origin { .. } => drop(self.origins.insert(*source)),
                }
            }
            Event::SourceGone { source } => self.forget(*source),
            Event::ExtentDone { source, extent, .. } => {
                if self.in_flight.remove(&(*source, *extent)).is_some() {
                    let new: u64 = self.present.missing_within(*extent).map(|run| self.bytes_of(&run)).sum();
                    self.duplicate_bytes += self.bytes_of(extent) - new;
                }
                self.present.insert(*extent);
            }
            Event::ExtentFailed { source, extent, .. } => drop(self.in_flight.remove(&(*source, *extent))),
            Event::OriginAt { source, from_byte, offset_bytes } => {
                self.origin_stored(*source, *from_byte, *offset_bytes);
            }
            Event::OriginEnded { source, from_byte, ok } => {
                if *ok {
                    self.origin_stored(*source, *from_byte, self.size);
                }
                if self.running == Some(*source) && self.origin_from == *from_byte {
                    self.running = None;
                }
            }
            Event::OriginLeft { source } => {
                self.running = self.running.filter(|running| running != source);
            }
            Event::Present { groups } => drop(self.present.insert(*groups)),
            Event::Lookup(phase) => self.lookup = *phase,
            Event::HoldingsChanged { .. }
            | Event::ReaderAt { .. }
            | Event::ReaderGone { .. }
            | Event::Tick => {}
        }
    }

    /// Where the running stream began; now and then some other place, as the last words of an earlier one would say.
    pub(super) fn origin_from(&self, id: u32) -> u64 {
        if id == 7 { self.origin_from + GROUP_BYTES } else { self.origin_from }
    }

    fn origin_stored(&mut self, source: SourceId, from_byte: u64, offset: u64) {
        let offset = offset.min(self.size);
        if self.running == Some(source) && self.origin_from == from_byte && offset > self.origin_at {
            let from = self.origin_at / GROUP_BYTES * GROUP_BYTES;
            self.present.insert(GroupRange::whole_in_bytes(from..offset, self.size));
            self.origin_at = offset;
        }
    }

    fn forget(&mut self, source: SourceId) {
        self.in_flight.retain(|(of, _), _| *of != source);
        self.peers.remove(&source);
        self.origins.remove(&source);
        if self.running == Some(source) {
            self.running = None;
        }
    }

    pub(super) fn on_event(&mut self, now: Duration, event: Event) -> Vec<Action> {
        let over = self.outcome.is_some();
        if !over {
            self.note(&event);
        }
        let actions = self.scheduler.on_event(now, event);
        assert!(!over || actions.is_empty(), "nothing follows the end, not {actions:?}");
        for action in &actions {
            assert!(self.outcome.is_none(), "nothing follows the end, not {action:?}");
            self.check(now, action);
        }
        self.check_bounds();
        assert_eq!(
            self.outcome == Some(Action::Complete),
            self.present.is_complete() && !matches!(self.outcome, Some(Action::Failed(_))),
            "complete exactly when all groups are present"
        );
        actions
    }

    fn check(&mut self, now: Duration, action: &Action) {
        match action {
            Action::Request { source, extent } => self.check_request(now, *source, *extent),
            Action::Cancel { source, extent } => {
                assert!(self.in_flight.remove(&(*source, *extent)).is_some(), "{action:?} of no request");
            }
            Action::StartOrigin { source, from_byte } => {
                assert!(self.origins.contains(source), "{action:?} of an unknown origin");
                assert_eq!(self.running, None, "one stream at a time");
                assert!(from_byte.is_multiple_of(GROUP_BYTES) && *from_byte < self.size.max(1));
                self.running = Some(*source);
                self.origin_from = *from_byte;
                self.origin_at = *from_byte;
            }
            Action::StopOrigin { source } => {
                assert_eq!(self.running.take(), Some(*source), "{action:?} of a stream that does not run");
            }
            Action::DropSource { source, .. } | Action::BanSource { source } => {
                let known = self.peers.contains(source) || self.origins.contains(source);
                assert!(known, "{action:?} of an unknown source");
                self.forget(*source);
            }
            Action::WakeAt(time) => assert!(*time > now, "a timer in the past"),
            Action::Complete => {
                assert!(self.in_flight.is_empty() && self.running.is_none(), "all is cancelled first");
                self.outcome = Some(action.clone());
            }
            Action::Failed(_) => {
                assert_eq!(self.lookup, LookupPhase::Finished);
                assert!(self.peers.is_empty() && self.origins.is_empty(), "sources are left");
                self.outcome = Some(action.clone());
            }
        }
    }

    fn check_request(&mut self, now: Duration, source: SourceId, extent: GroupRange) {
        assert!(self.peers.contains(&source), "a request to the unknown source {source}");
        assert!(!extent.is_empty() && extent.end <= group_count(self.size));
        assert_eq!(
            extent.start / MAX_EXTENT_GROUPS,
            (extent.end - 1) / MAX_EXTENT_GROUPS,
            "{extent} crosses"
        );
        assert!(!self.present.contains(extent), "{extent} is present");
        let overlapping = || self.in_flight.keys().filter(|(_, e)| !e.intersection(extent).is_empty());
        assert!(overlapping().all(|(of, _)| *of != source), "{source} is asked twice for {extent}");
        assert!(overlapping().count() <= 1, "{extent} is asked for a third time");
        self.in_flight.insert((source, extent), now);
        self.requests += 1;
    }

    fn check_bounds(&self) {
        let mut bytes: BTreeMap<SourceId, (usize, u64)> = BTreeMap::new();
        for (source, extent) in self.in_flight.keys() {
            let entry = bytes.entry(*source).or_default();
            *entry = (entry.0 + 1, entry.1 + self.bytes_of(extent));
        }
        for (source, (count, bytes)) in &bytes {
            assert!(*count <= self.config.max_requests_per_peer, "{source}: {count} requests");
            assert!(*bytes <= self.config.max_in_flight_bytes, "{source}: {bytes} bytes");
        }
        let total: u64 = bytes.values().map(|(_, bytes)| bytes).sum();
        assert!(total <= self.config.max_total_in_flight_bytes, "{total} bytes in flight");
        assert!(self.peers.len() <= self.config.max_peers && self.origins.len() <= self.config.max_origins);
        let stats = self.scheduler.stats();
        if self.outcome.is_none() {
            assert_eq!(stats.in_flight_bytes, total);
            assert_eq!(stats.peers, self.peers.len());
            assert_eq!(stats.origins, self.origins.len());
            assert_eq!(stats.origin_running, self.running.is_some());
        }
        assert!(stats.hedged_bytes <= stats.hedge_budget_bytes, "{stats:?}");
    }
}
