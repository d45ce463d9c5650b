//! One node: the production scheduler for what it fetches, and a link for what it gives.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use p2p_cache::fetch::scheduler::{FetchScheduler, SchedulerConfig, SourceId};
use p2p_cache_protocol::{GroupRange, GroupSet, group_count};

use super::downlink::Downlink;
use super::reader::ReaderActor;
use super::uplink::Uplink;
use crate::cast::NodeSpec;
use crate::report::Outcome;

/// What a node sent and received.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    pub(super) received_bytes: u64,
    pub(super) useful_bytes: u64,
    pub(super) sent_bytes: u64,
    /// Of what it sent, what was missing where it arrived.
    pub(super) sent_useful_bytes: u64,
    pub(super) banned_by: usize,
    pub(super) dropped_by: usize,
}

/// A stream that a node takes from the origin or from another node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stream {
    pub(super) number: u32,
    pub(super) source: SourceId,
    pub(super) from_byte: u64,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) spec: NodeSpec,
    pub(super) scheduler: FetchScheduler,
    pub(super) uplink: Uplink,
    pub(super) downlink: Downlink,
    pub(super) reader: ReaderActor,
    pub(super) present: GroupSet,
    /// Requests that the scheduler waits for.
    pub(super) waiting: BTreeSet<(usize, GroupRange)>,
    pub(super) stream: Option<Stream>,
    /// Streams that it passes on: to whom, by number.
    pub(super) passes_on: BTreeMap<u32, usize>,
    pub(super) neighbours: Vec<usize>,
    /// Nodes that the scheduler knows as peers.
    pub(super) knows: BTreeSet<usize>,
    /// Nodes, and with `usize::MAX` the origin, that it knows as streams.
    pub(super) knows_streams: BTreeSet<usize>,
    pub(super) refuses: BTreeSet<usize>,
    pub(super) joined: bool,
    pub(super) joined_at: Duration,
    pub(super) alive: bool,
    pub(super) timer: Duration,
    pub(super) outcome: Option<Outcome>,
    pub(super) ended_at: Duration,
    /// Groups at hand when its holdings were last told.
    pub(super) told: u64,
    pub(super) tally: Tally,
}

impl Node {
    pub(super) fn new(spec: NodeSpec, size_bytes: u64, seed: u64) -> Self {
        let groups = group_count(size_bytes);
        Self {
            scheduler: FetchScheduler::new(SchedulerConfig::default(), size_bytes, seed),
            uplink: Uplink::new(spec.upload_bytes_per_second()),
            downlink: Downlink::new(spec.down_bytes_per_second),
            reader: ReaderActor::default(),
            present: if spec.holds { GroupSet::full(groups) } else { GroupSet::new(groups) },
            waiting: BTreeSet::new(),
            stream: None,
            passes_on: BTreeMap::new(),
            neighbours: Vec::new(),
            knows: BTreeSet::new(),
            knows_streams: BTreeSet::new(),
            refuses: BTreeSet::new(),
            joined: false,
            joined_at: Duration::ZERO,
            alive: true,
            timer: Duration::MAX,
            outcome: None,
            ended_at: Duration::ZERO,
            told: 0,
            tally: Tally::default(),
            spec,
        }
    }

    /// True while its scheduler is at work.
    pub(super) fn is_fetching(&self) -> bool {
        self.joined && self.alive && !self.spec.holds && self.outcome.is_none()
    }

    /// Stores groups and returns how many bytes of them were missing.
    pub(super) fn store(&mut self, groups: GroupRange, size_bytes: u64) -> u64 {
        let length = |range: &GroupRange| {
            let bytes = range.bytes(size_bytes);
            bytes.end - bytes.start
        };
        let missing = self.present.missing_within(groups).map(|gap| length(&gap)).sum();
        self.present.insert(groups);
        self.tally.useful_bytes += missing;
        missing
    }

    /// The contiguous bytes from the beginning.
    pub(super) fn prefix_bytes(&self, size_bytes: u64) -> u64 {
        GroupRange::new(0, self.present.prefix()).bytes(size_bytes).end
    }
}
