//! The sending side of a node: answers and streams, shared among those who asked by deficit round robin.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use p2p_cache_protocol::GroupRange;
use rand::Rng;
use rand::rngs::StdRng;

/// Bytes that are sent in one piece: the grain at which everything is shared.
pub(super) const PIECE_BYTES: u64 = 64 * 1024;
/// Bytes on their way to one node that have not come through its downlink: more are not sent, as by a transport with
/// this window.
const WINDOW_BYTES: u64 = 2 * 1024 * 1024;

/// What a piece belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    /// The answer to a request for an extent.
    Extent { extent: GroupRange, corrupt: bool },
    /// The n-th stream of all: bytes of the blob from `from` on.
    Stream { stream: u32, from: u64 },
}

/// A part of an answer or of a stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub(super) load: Load,
    pub(super) bytes: u64,
    /// The answer, or the blob, ends with it.
    pub(super) last: bool,
}

#[derive(Debug)]
enum Job {
    Extent { extent: GroupRange, left_bytes: u64, corrupt: bool },
    Stream { stream: u32, at: u64 },
}

/// What is queued for one node.
#[derive(Debug, Default)]
struct Lane {
    jobs: VecDeque<Job>,
    /// Bytes that it may send before it is the next one's turn again.
    deficit: u64,
    unacknowledged: u64,
}

#[derive(Debug)]
pub(super) struct Uplink {
    pub(super) bytes_per_second: f64,
    lanes: BTreeMap<usize, Lane>,
    /// Whose turn it is; every node with a job is in it once.
    turns: VecDeque<usize>,
    is_sending: bool,
    is_silent: bool,
}

impl Uplink {
    pub(super) fn new(bytes_per_second: f64) -> Self {
        Self {
            bytes_per_second,
            lanes: BTreeMap::new(),
            turns: VecDeque::new(),
            is_sending: false,
            is_silent: false,
        }
    }

    /// Nothing more comes from it.
    pub(super) fn fall_silent(&mut self) {
        self.is_silent = true;
        self.lanes.clear();
        self.turns.clear();
    }

    pub(super) fn is_silent(&self) -> bool {
        self.is_silent
    }

    pub(super) fn add_extent(&mut self, to: usize, extent: GroupRange, bytes: u64, corrupt: bool) {
        self.add(to, Job::Extent { extent, left_bytes: bytes, corrupt });
    }

    pub(super) fn add_stream(&mut self, to: usize, stream: u32, from: u64) {
        self.add(to, Job::Stream { stream, at: from });
    }

    fn add(&mut self, to: usize, job: Job) {
        if self.is_silent {
            return;
        }
        let lane = self.lanes.entry(to).or_default();
        lane.jobs.push_back(job);
        if !self.turns.contains(&to) {
            self.turns.push_back(to);
        }
    }

    pub(super) fn stop_stream(&mut self, to: usize, stream: u32) {
        if let Some(lane) = self.lanes.get_mut(&to) {
            lane.jobs.retain(|job| !matches!(job, Job::Stream { stream: of, .. } if *of == stream));
        }
    }

    /// A node is gone.
    pub(super) fn forget(&mut self, to: usize) {
        self.lanes.remove(&to);
        self.turns.retain(|turn| *turn != to);
    }

    /// A piece has come through the downlink of `to`.
    pub(super) fn acknowledge(&mut self, to: usize, bytes: u64) {
        if let Some(lane) = self.lanes.get_mut(&to) {
            lane.unacknowledged = lane.unacknowledged.saturating_sub(bytes);
        }
    }

    /// Begins the next piece, unless one is on its way already or there is none: to whom, what, and how long it
    /// takes. `until` says how far the blob can be streamed from a byte on; `size_bytes` is its length.
    pub(super) fn start(
        &mut self,
        random: &mut StdRng,
        size_bytes: u64,
        until: impl Fn(u64) -> u64,
    ) -> Option<(usize, Piece, Duration)> {
        if self.is_sending || self.is_silent {
            return None;
        }
        for _ in 0..self.turns.len() {
            let to = *self.turns.front()?;
            let lane = self.lanes.get_mut(&to)?;
            let mut piece = lane.next_piece(size_bytes, &until);
            if piece.is_none() && lane.jobs.len() > 1 {
                // A stream that waits does not hold up what is behind it.
                lane.jobs.rotate_left(1);
                piece = lane.next_piece(size_bytes, &until);
            }
            let piece = piece.filter(|_| lane.unacknowledged < WINDOW_BYTES);
            let Some(piece) = piece else {
                lane.deficit = 0;
                self.turns.rotate_left(1);
                if self.lanes.get(&to).is_some_and(|lane| lane.jobs.is_empty()) {
                    self.turns.pop_back();
                }
                continue;
            };
            if lane.deficit < piece.bytes {
                lane.deficit += PIECE_BYTES;
            }
            lane.deficit -= piece.bytes;
            let spent = lane.deficit < PIECE_BYTES;
            lane.take(&piece);
            if spent {
                self.turns.rotate_left(1);
            }
            self.is_sending = true;
            // Uplinks are not metronomes; the mean is the rate.
            let seconds = piece.bytes as f64 / self.bytes_per_second * random.random_range(0.9..1.1);
            return Some((to, piece, Duration::from_secs_f64(seconds)));
        }
        None
    }

    /// The piece that was begun is out.
    pub(super) fn sent(&mut self) {
        self.is_sending = false;
    }
}

impl Lane {
    fn next_piece(&self, size_bytes: u64, until: impl Fn(u64) -> u64) -> Option<Piece> {
        match self.jobs.front()? {
            Job::Extent { extent, left_bytes, corrupt } => {
                let bytes = (*left_bytes).min(PIECE_BYTES);
                let load = Load::Extent { extent: *extent, corrupt: *corrupt };
                Some(Piece { load, bytes, last: bytes == *left_bytes })
            }
            Job::Stream { stream, at } => {
                let bytes = until(*at).saturating_sub(*at).min(PIECE_BYTES);
                let load = Load::Stream { stream: *stream, from: *at };
                (bytes > 0).then_some(Piece { load, bytes, last: *at + bytes == size_bytes })
            }
        }
    }

    fn take(&mut self, piece: &Piece) {
        self.unacknowledged += piece.bytes;
        match self.jobs.front_mut() {
            Some(Job::Extent { left_bytes, .. }) => *left_bytes -= piece.bytes,
            Some(Job::Stream { at, .. }) => *at += piece.bytes,
            None => {}
        }
        if piece.last {
            self.jobs.pop_front();
        } else if matches!(self.jobs.front(), Some(Job::Stream { .. })) {
            // Streams and answers to the same node take turns.
            self.jobs.rotate_left(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn drain(uplink: &mut Uplink, pieces: usize) -> BTreeMap<usize, u64> {
        let mut random = StdRng::seed_from_u64(1);
        let mut sent = BTreeMap::new();
        for _ in 0..pieces {
            let Some((to, piece, _)) = uplink.start(&mut random, 1 << 30, |at| at) else { break };
            *sent.entry(to).or_default() += piece.bytes;
            uplink.sent();
            uplink.acknowledge(to, piece.bytes);
        }
        sent
    }

    #[test]
    fn who_asks_for_more_gets_no_more_at_a_time() {
        let mut uplink = Uplink::new(1e6);
        for extent in 0..20 {
            uplink.add_extent(1, GroupRange::new(extent * 64, extent * 64 + 64), 1 << 20, false);
        }
        uplink.add_extent(2, GroupRange::new(0, 64), 1 << 20, false);
        uplink.add_extent(3, GroupRange::new(0, 1), 16384, false);
        let sent = drain(&mut uplink, 25);
        assert_eq!(sent[&3], 16384);
        assert!(sent[&1].abs_diff(sent[&2]) <= PIECE_BYTES, "{sent:?}");
    }

    #[test]
    fn a_node_that_takes_nothing_off_holds_up_only_itself() {
        let mut uplink = Uplink::new(1e6);
        let mut random = StdRng::seed_from_u64(1);
        for to in [1, 2] {
            for extent in 0..8 {
                uplink.add_extent(to, GroupRange::new(extent * 64, extent * 64 + 64), 1 << 20, false);
            }
        }
        let mut sent = BTreeMap::<usize, u64>::new();
        while let Some((to, piece, _)) = uplink.start(&mut random, 1 << 30, |at| at) {
            *sent.entry(to).or_default() += piece.bytes;
            uplink.sent();
            if to == 1 {
                uplink.acknowledge(to, piece.bytes);
            }
        }
        assert_eq!((sent[&1], sent[&2]), (8 << 20, WINDOW_BYTES));
    }

    #[test]
    fn a_stream_goes_as_far_as_there_is_something_to_pass_on() {
        let mut uplink = Uplink::new(1e6);
        let mut random = StdRng::seed_from_u64(1);
        uplink.add_stream(1, 0, 100_000);
        let (_, piece, _) = uplink.start(&mut random, 200_000, |_| 120_000).unwrap();
        assert_eq!((piece.bytes, piece.last), (20_000, false));
        uplink.sent();
        assert!(uplink.start(&mut random, 200_000, |_| 120_000).is_none());
        uplink.add_extent(2, GroupRange::new(0, 1), 16384, false);
        assert_eq!(uplink.start(&mut random, 200_000, |_| 120_000).unwrap().0, 2, "others are not held up");
        uplink.sent();
        let (to, piece, _) = uplink.start(&mut random, 200_000, |_| 200_000).unwrap();
        assert_eq!((to, piece.bytes), (1, PIECE_BYTES));
    }
}
