//! Who is asked for what next: windows in order, then rarest first.

use std::ops::Range;
use std::time::Duration;

use super::FetchScheduler;
use super::blob_map::{BLOCK_GROUPS, Held, Order};
use super::estimate::transfer_time;
use super::groups::{GROUP_BYTES, GroupRange};
use super::peer::Peer;
use super::readers::Reader;
use super::requests::Request;
use super::types::{Action, SourceId};

/// Bytes of a block.
pub(super) const BLOCK_BYTES: u64 = BLOCK_GROUPS * GROUP_BYTES;
/// Rate assumed of a peer while none has been measured.
const GUESSED_BYTES_PER_SECOND: f64 = 10e6;
/// Differences in expected time below this do not matter.
const SLACK: Duration = Duration::from_millis(50);
/// A peer that takes this many times as long as the best one gets no block that a reader is waiting for.
const WINDOW_SLOWNESS: u32 = 4;
/// Blocks looked at for one request; what is left over is looked at on the next event.
const MAX_CANDIDATES: usize = 32;

impl FetchScheduler {
    /// Gives every peer with room something to do, the one that would be done first first.
    pub(super) fn fill(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let guessed = self.guessed_rate();
        let mut ready: Vec<SourceId> = self.peers_with_room(now);
        while !ready.is_empty() && self.map.has_open() && self.total_room() >= BLOCK_BYTES {
            let expected = |id: &SourceId| self.peers.get(id).map(|peer| peer.expected(BLOCK_BYTES, guessed));
            let Some(best) = (0..ready.len()).min_by_key(|index| expected(&ready[*index])) else { return };
            let id = ready[best];
            // A request to one peer may close the way to others of its prefix.
            let chosen = if self.has_room(now, id) {
                let start = self.start_block(id);
                self.choose(now, id, guessed, start)
            } else {
                None
            };
            let Some(extent) = chosen else {
                ready.swap_remove(best);
                continue;
            };
            self.send(now, id, extent, guessed, 0, actions);
            if !self.has_room(now, id) {
                ready.swap_remove(best);
            }
        }
        self.fill_in_need(now, guessed, actions);
    }

    /// When every peer stood back for another and nothing is in flight, preferences are void: whoever holds an open
    /// block is asked for it.
    fn fill_in_need(&mut self, now: Duration, guessed: f64, actions: &mut Vec<Action>) {
        if !self.requests.is_empty() || self.stream().is_some() || !self.map.has_open() {
            return;
        }
        for id in self.peers_with_room(now) {
            let held = self.peers.get(&id).and_then(|peer| peer.held.as_ref());
            let first = self
                .map
                .open_blocks(held, Order::From(self.map.first_block()))
                .take(MAX_CANDIDATES)
                .find_map(|block| {
                    let group = self.map.first_wanted(self.map.block_groups(block), held)?;
                    self.map.run_up(group, held, BLOCK_GROUPS)
                });
            if let Some(extent) = first.filter(|_| self.has_room(now, id)) {
                self.send(now, id, extent, guessed, 0, actions);
            }
        }
    }

    pub(super) fn peers_with_room(&self, now: Duration) -> Vec<SourceId> {
        self.peers.keys().copied().filter(|id| self.has_room(now, *id)).collect()
    }

    fn has_room(&self, now: Duration, id: SourceId) -> bool {
        self.room(now, id) >= BLOCK_BYTES
    }

    /// Bytes that a peer may be asked for now. Of a prefix only so many peers are tried at once, and after it has
    /// misbehaved one.
    pub(super) fn room(&self, now: Duration, id: SourceId) -> u64 {
        let Some(peer) = self.peers.get(&id) else { return 0 };
        let crowded = |limit: usize, counts: fn(&Peer) -> bool| {
            let others = self.peers.iter().filter(|(other, _)| **other != id).map(|(_, other)| other);
            others.filter(|p| p.prefix == peer.prefix && p.in_flight > 0 && counts(p)).count() >= limit
        };
        let is_held_back = if peer.prefix.is_none() {
            false
        } else if peer.on_probation {
            self.prefixes.is_paused(now, peer.prefix) || crowded(1, |other| other.on_probation)
        } else {
            peer.completed == 0 && crowded(self.config.max_unproven_per_prefix, |other| other.completed == 0)
        };
        if is_held_back { 0 } else { peer.room(now, &self.config) }
    }

    pub(super) fn total_room(&self) -> u64 {
        self.config.max_total_in_flight_bytes.saturating_sub(self.requests.bytes())
    }

    /// The rate assumed of a peer that has not shown its own: that of the others.
    pub(super) fn guessed_rate(&self) -> f64 {
        let known: Vec<f64> = self.peers.values().filter_map(|peer| peer.rate.get()).collect();
        if known.is_empty() {
            GUESSED_BYTES_PER_SECOND
        } else {
            known.iter().sum::<f64>() / known.len() as f64
        }
    }

    /// Books a request and asks for it. `charged_bytes` is what it takes of the duplicate budget.
    pub(super) fn send(
        &mut self,
        now: Duration,
        source: SourceId,
        extent: GroupRange,
        guessed: f64,
        charged_bytes: u64,
        actions: &mut Vec<Action>,
    ) {
        let bytes = self.map.bytes_of(&extent);
        let Some(peer) = self.peers.get_mut(&source) else { return };
        let planned = peer.expected(bytes, guessed);
        peer.sent(now, bytes);
        peer.last_block = (extent.end - 1) / BLOCK_GROUPS;
        self.requests.insert(Request { source, extent, asked_at: now, planned, charged_bytes }, bytes);
        self.map.mark_asked(&extent);
        self.first_request_at.get_or_insert(now);
        actions.push(Action::Request { source, extent });
    }

    /// Where blocks behind the windows are taken from: ascending in this fetch, but anywhere in a swarm. Fetches that
    /// ascend would meet at the same block sooner or later, and go on with the same blocks at the same time. A block
    /// that was begun is gone on with, unless somebody else has begun it too.
    fn start_block(&mut self, id: SourceId) -> u64 {
        if self.swarm == 0 {
            return self.map.first_block();
        }
        let last = self.peers.get(&id).map_or(0, |peer| peer.last_block);
        if self.map.is_rare(last) { last } else { self.map.random_block(&mut self.random) }
    }

    fn choose(&self, now: Duration, id: SourceId, guessed: f64, start_block: u64) -> Option<GroupRange> {
        let peer = self.peers.get(&id)?;
        let held = peer.held.as_ref();
        let room = peer.room(now, &self.config).min(self.total_room());
        let workers = self.peers.values().filter(|peer| !peer.is_paused(now)).count().max(1) as u64;
        let max_groups = peer.extent_groups(room, self.map.missing_bytes() / (2 * workers));
        let expected = peer.expected(BLOCK_BYTES, guessed);
        if let Some((distance, group)) = self.window_group(now, id, expected, guessed) {
            let urgent = if distance == 0 { peer.urgent_groups() } else { max_groups };
            return self.map.run_up(group, held, max_groups.min(urgent));
        }
        let order = if self.stream().is_some() { Order::FromBack } else { Order::From(start_block) };
        let spares_windows = self.swarm > 0 && held.is_none();
        let windows = if spares_windows { Vec::new() } else { self.waiting_windows(now) };
        // Who may take what a reader waits for has been decided by its window.
        let behind = |block: &u64| {
            let first = self.map.first_wanted(self.map.block_groups(*block), held);
            !first.is_some_and(|group| windows.iter().any(|window| window.contains(&group)))
        };
        let block = self.map.open_blocks(held, order).filter(behind).take(MAX_CANDIDATES).find(|block| {
            let first = self.map.first_wanted(self.map.block_groups(*block), held);
            !self.stream_is_sooner(now, *block, expected)
                && !first.is_some_and(|group| self.rest_is_sooner(now, id, group, expected, guessed))
        })?;
        match order {
            Order::From(_) => {
                let first = self.map.first_wanted(self.map.block_groups(block), held)?;
                self.map.run_up(first, held, max_groups)
            }
            Order::FromBack => self.map.run_down(block, held, max_groups),
        }
    }

    /// The windows, in groups, of the readers that no stream serves.
    fn waiting_windows(&self, now: Duration) -> Vec<Range<u64>> {
        self.readers
            .iter()
            .map(|reader| reader.window(&self.config))
            .filter(|window| !self.stream().is_some_and(|stream| stream.serves(now, window.start)))
            .map(|window| window.start / GROUP_BYTES..window.end.div_ceil(GROUP_BYTES))
            .collect()
    }

    /// The open group that a reader wants most and that this peer may take, and how far it is from the reader.
    fn window_group(
        &self,
        now: Duration,
        id: SourceId,
        expected: Duration,
        guessed: f64,
    ) -> Option<(u64, u64)> {
        // In a swarm a complete holder sends what nobody else has; windows are filled from those that have got it.
        let spares_windows = self.swarm > 0 && self.peers.get(&id)?.held.is_none();
        let of_reader = |reader: &Reader| {
            if spares_windows && !reader.stands_still(now, self.seed, self.swarm, expected, &self.config) {
                return None;
            }
            let offset = reader.offset_bytes();
            if self.stream().is_some_and(|stream| stream.serves(now, offset)) {
                return None;
            }
            let group = self.wanted_in_window(reader, self.peers.get(&id)?).find(|group| {
                let block = group / BLOCK_GROUPS;
                let wanted_in = reader.wants_in(group * GROUP_BYTES);
                !self.stream_is_sooner(now, block, expected)
                    && !self.stays_out(now, id, *group, expected, wanted_in, guessed)
            })?;
            let distance = (group * GROUP_BYTES).saturating_sub(offset);
            (distance < BLOCK_BYTES || !spares_windows).then_some((distance, group))
        };
        self.readers.iter().filter_map(of_reader).min()
    }

    /// Of each open block in a window the first group that the peer could deliver.
    fn wanted_in_window<'a>(&'a self, reader: &Reader, peer: &'a Peer) -> impl Iterator<Item = u64> + 'a {
        let bytes = reader.window(&self.config);
        let mut groups = bytes.start / GROUP_BYTES..bytes.end.div_ceil(GROUP_BYTES);
        let held = peer.held.as_ref();
        let next_block = move || {
            let block = self.map.open_in(groups.clone(), held)?;
            let part = groups.start.max(block * BLOCK_GROUPS)..(block + 1) * BLOCK_GROUPS;
            groups.start = part.end;
            Some(self.map.first_wanted(part, held))
        };
        std::iter::from_fn(next_block).take(MAX_CANDIDATES).flatten()
    }

    /// A running stream gets to this block before the peer would deliver it.
    fn stream_is_sooner(&self, now: Duration, block: u64, expected: Duration) -> bool {
        self.stream()
            .and_then(|stream| stream.reaches(now, (block + 1) * BLOCK_BYTES))
            .is_some_and(|time| time <= expected)
    }

    /// In a window: another peer with this group, even if it has enough to do for now, would deliver it much sooner,
    /// or is not as doubtful. A peer that is in time for the reader need not stand back.
    fn stays_out(
        &self,
        now: Duration,
        id: SourceId,
        group: u64,
        expected: Duration,
        wanted_in: Duration,
        guessed: f64,
    ) -> bool {
        // Only a peer that does not stand back itself is a reason to do so, so that somebody always takes it.
        let mut sound = self.other_holders(now, id, group).filter(|peer| !peer.is_suspect());
        if self.peers.get(&id).is_some_and(Peer::is_suspect) {
            return sound.next().is_some();
        }
        let best = sound.map(|peer| peer.expected(BLOCK_BYTES, guessed)).min();
        expected > wanted_in && best.is_some_and(|best| expected > best * WINDOW_SLOWNESS + SLACK)
    }

    fn best_other(&self, now: Duration, id: SourceId, group: u64, guessed: f64) -> Option<Duration> {
        self.other_holders(now, id, group).map(|peer| peer.expected(BLOCK_BYTES, guessed)).min()
    }

    fn other_holders(&self, now: Duration, id: SourceId, group: u64) -> impl Iterator<Item = &Peer> {
        self.peers
            .iter()
            .filter(move |(other, peer)| {
                **other != id && !peer.is_paused(now) && Held::holds(peer.held.as_ref(), group)
            })
            .map(|(_, peer)| peer)
    }

    /// Near the end: the others would have fetched all that is missing, this group too, before this peer has
    /// delivered it. The peer that would be quickest never stands back, so that somebody always takes it.
    fn rest_is_sooner(
        &self,
        now: Duration,
        id: SourceId,
        group: u64,
        expected: Duration,
        guessed: f64,
    ) -> bool {
        if self.best_other(now, id, group, guessed).is_none_or(|best| best >= expected) {
            return false;
        }
        let peers: f64 =
            self.other_holders(now, id, group).map(|peer| peer.rate.get().unwrap_or(guessed)).sum();
        let stream = self.stream().map_or(0.0, |stream| stream.bytes_per_second(now));
        let rest = transfer_time(self.map.missing_bytes(), peers + stream);
        expected > rest.mul_f64(1.5) + SLACK
    }
}
