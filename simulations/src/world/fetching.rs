//! What happens to the schedulers: sources, answers, streams, and the actions they take.

use p2p_cache::fetch::scheduler::{Action, Event, Fault, Holdings, SourceId, SourceKind};
use p2p_cache_protocol::{GroupRange, GroupSet};

use super::node::Stream;
use super::uplink::Piece;
use super::{Happening, ORIGIN, TELL_EVERY, World};
use crate::report::Outcome;

/// The id of the origin; peers have their index, and the streams of nodes their index beyond this.
const ORIGIN_ID: u32 = u32::MAX;
const FIRST_RELAY_ID: u32 = 1 << 20;

/// Who stands behind the source of a stream.
fn server_of(source: SourceId) -> usize {
    match source.0 {
        ORIGIN_ID => ORIGIN,
        id if id >= FIRST_RELAY_ID => (id - FIRST_RELAY_ID) as usize,
        id => id as usize,
    }
}

fn is_stream(source: SourceId) -> bool {
    source.0 >= FIRST_RELAY_ID
}

impl World {
    pub(super) fn tell(&mut self, node: usize, event: Event) {
        if !self.nodes[node].is_fetching() {
            return;
        }
        let now = self.queue.now();
        for action in self.nodes[node].scheduler.on_event(now, event) {
            self.act(node, action);
        }
    }

    fn act(&mut self, node: usize, action: Action) {
        let now = self.queue.now();
        match action {
            Action::Request { source, extent } => {
                let server = server_of(source);
                self.nodes[node].waiting.insert((server, extent));
                let at = now + self.half_trip(node, server);
                self.queue.push(at, Happening::Asked { server, by: node, extent });
            }
            Action::Cancel { source, extent } => {
                self.nodes[node].waiting.remove(&(server_of(source), extent));
            }
            Action::StartOrigin { source, from_byte } => self.start_stream(node, source, from_byte),
            Action::StopOrigin { .. } => self.stop_stream(node),
            Action::DropSource { source, .. } => self.let_go(node, source, false),
            Action::BanSource { source } => self.let_go(node, source, true),
            Action::WakeAt(at) => {
                self.nodes[node].timer = at;
                self.queue.push(at, Happening::Timer(node, at));
            }
            Action::Complete => self.end(node, Outcome::Complete),
            Action::Failed(_) => self.end(node, Outcome::Failed),
        }
    }

    fn end(&mut self, node: usize, outcome: Outcome) {
        let now = self.queue.now();
        (self.nodes[node].outcome, self.nodes[node].ended_at) = (Some(outcome), now);
        self.nodes[node].waiting.clear();
        if outcome == Outcome::Complete {
            self.tell_neighbours(node);
        }
    }

    fn let_go(&mut self, node: usize, source: SourceId, banned: bool) {
        let server = server_of(source);
        if is_stream(source) {
            self.nodes[node].knows_streams.remove(&server);
            if self.nodes[node].stream.is_some_and(|stream| stream.source == source) {
                self.stop_stream(node);
            }
            return;
        }
        self.nodes[node].waiting.retain(|(of, _)| *of != server);
        self.nodes[node].knows.remove(&server);
        let tally = &mut self.nodes[server].tally;
        if banned {
            tally.banned_by += 1;
            self.nodes[node].refuses.insert(server);
        } else {
            tally.dropped_by += 1;
        }
    }

    /// `by` learns what `of` has. On a site that fetches from an origin there is no hash tree before the whole has
    /// come, and so nothing that could be checked piece by piece: only whole blobs count there.
    pub(super) fn introduce(&mut self, by: usize, of: usize) {
        let other = &self.nodes[of];
        let has_parts = !self.cast.is_site && other.is_fetching();
        if !other.alive || !(other.present.is_complete() || has_parts) || !self.nodes[by].is_fetching() {
            return;
        }
        let holdings = if other.present.is_complete() {
            Holdings::Complete
        } else {
            Holdings::Partial(other.present.clone())
        };
        if self.nodes[by].refuses.contains(&of) || !self.nodes[by].knows.insert(of) {
            return;
        }
        let rtt = Some(self.half_trip(by, of) * 2);
        let kind = SourceKind::Peer { holdings, rtt, prefix: None };
        self.tell(by, Event::SourceAdded { source: SourceId(of as u32), kind });
    }

    pub(super) fn tell_neighbours(&mut self, index: usize) {
        let node = &self.nodes[index];
        if !node.alive {
            return;
        }
        let is_whole = node.present.is_complete();
        if node.present.len() > node.told && (is_whole || !self.cast.is_site) {
            for by in node.neighbours.clone() {
                if self.nodes[by].is_fetching() {
                    let at = self.queue.now() + self.half_trip(index, by);
                    let holds = self.nodes[index].present.clone();
                    self.queue.push(at, Happening::Heard { by, of: index, holds });
                }
            }
            self.nodes[index].told = self.nodes[index].present.len();
        }
        if self.nodes[index].is_fetching() {
            self.show_life(index);
            self.queue.push_in(TELL_EVERY, Happening::Tells(index));
        }
    }

    /// Those who follow the stream of a node hear that it is alive, also while it has nothing to pass on.
    fn show_life(&mut self, index: usize) {
        for (stream, by) in self.nodes[index].passes_on.clone() {
            let at = self.queue.now() + self.half_trip(index, by);
            self.queue.push(at, Happening::Alive { by, stream });
        }
    }

    pub(super) fn life_shown(&mut self, by: usize, stream: u32) {
        if let Some(current) = self.nodes[by].stream.filter(|current| current.number == stream) {
            let (source, from_byte) = (current.source, current.from_byte);
            self.tell(by, Event::OriginAt { source, from_byte, offset_bytes: from_byte });
        }
    }

    pub(super) fn heard(&mut self, by: usize, of: usize, holds: GroupSet) {
        if !self.nodes[by].knows.contains(&of) {
            self.introduce(by, of);
            return;
        }
        let holdings = if holds.is_complete() { Holdings::Complete } else { Holdings::Partial(holds) };
        self.tell(by, Event::HoldingsChanged { source: SourceId(of as u32), holdings });
    }

    pub(super) fn extent_received(&mut self, by: usize, server: usize, extent: GroupRange, corrupt: bool) {
        if !self.nodes[by].waiting.remove(&(server, extent)) {
            return;
        }
        let source = SourceId(server as u32);
        if corrupt {
            self.tell(by, Event::ExtentFailed { source, extent, fault: Fault::Corrupt });
            return;
        }
        let useful = self.nodes[by].store(extent, self.cast.size_bytes);
        self.nodes[server].tally.sent_useful_bytes += useful;
        self.tell(by, Event::ExtentDone { source, extent, timing: None });
        self.after_store(by);
    }

    /// New bytes move the reader and the streams that the node passes on.
    fn after_store(&mut self, node: usize) {
        let prefix = self.nodes[node].prefix_bytes(self.cast.size_bytes);
        let now = self.queue.now();
        if let Some(event) = self.nodes[node].reader.advance(now, prefix) {
            self.tell(node, event);
        }
        if !self.nodes[node].passes_on.is_empty() {
            self.send_next(node);
        }
    }

    /// Tells a node of the streams that it may take: the origin, or by the rule of the site.
    pub(super) fn add_streams(&mut self, index: usize) {
        let Some(origin) = &self.cast.origin else { return };
        // What was seen of it lately: the truth, give or take.
        let expected = (origin.bytes_per_second * 0.8, origin.first_byte.mul_f64(1.2));
        let ranged = origin.ranged;
        let alive: Vec<usize> = (0..self.nodes.len())
            .filter(|other| {
                *other == index || self.nodes[*other].alive && !self.nodes[index].refuses.contains(other)
            })
            .collect();
        let (follows, asks_origin) =
            if self.cast.is_site { self.site.upstreams(index, &alive) } else { (Vec::new(), true) };
        for other in follows {
            if self.nodes[index].knows_streams.insert(other) {
                let kind = SourceKind::Origin {
                    ranged: true,
                    expected_bytes_per_second: None,
                    expected_first_byte: None,
                    relay: true,
                };
                let source = SourceId(FIRST_RELAY_ID + other as u32);
                self.tell(index, Event::SourceAdded { source, kind });
            }
        }
        if asks_origin && self.nodes[index].knows_streams.insert(ORIGIN) {
            let kind = SourceKind::Origin {
                ranged,
                expected_bytes_per_second: Some(expected.0),
                expected_first_byte: Some(expected.1),
                relay: false,
            };
            self.tell(index, Event::SourceAdded { source: SourceId(ORIGIN_ID), kind });
        }
    }

    fn start_stream(&mut self, node: usize, source: SourceId, from_byte: u64) {
        self.stop_stream(node);
        self.streams += 1;
        let (server, stream) = (server_of(source), self.streams);
        self.nodes[node].stream = Some(Stream { number: stream, source, from_byte });
        let first_byte =
            self.cast.origin.as_ref().map(|origin| origin.first_byte).filter(|_| server == ORIGIN);
        let wait = first_byte.unwrap_or_else(|| self.half_trip(node, server));
        self.queue.push_in(wait, Happening::StreamAsked { server, by: node, stream, from_byte });
    }

    fn stop_stream(&mut self, node: usize) {
        if let Some(stream) = self.nodes[node].stream.take() {
            let server = server_of(stream.source);
            let wait = self.half_trip(node, server);
            self.queue.push_in(wait, Happening::StreamStopped { server, by: node, stream: stream.number });
        }
    }

    pub(super) fn stream_received(&mut self, by: usize, server: usize, stream: u32, from: u64, piece: Piece) {
        let Some(current) = self.nodes[by].stream.filter(|current| current.number == stream) else { return };
        let (size, to) = (self.cast.size_bytes, from + piece.bytes);
        let groups = GroupRange::whole_in_bytes(current.from_byte..to, size);
        let useful = self.nodes[by].store(groups, size);
        if let Some(node) = self.nodes.get_mut(server) {
            node.tally.sent_useful_bytes += useful;
        }
        let (source, from_byte) = (current.source, current.from_byte);
        self.tell(by, Event::OriginAt { source, from_byte, offset_bytes: to });
        if to == size && self.nodes[by].is_fetching() {
            self.nodes[by].stream = None;
            self.tell(by, Event::OriginEnded { source, from_byte, ok: true });
        }
        self.after_store(by);
    }

    pub(super) fn disconnected(&mut self, at: usize, from: usize) {
        self.nodes[at].uplink.forget(from);
        self.nodes[at].passes_on.retain(|_, to| *to != from);
        self.nodes[at].refuses.insert(from);
        if !self.nodes[at].is_fetching() {
            return;
        }
        // First who takes its place, then that it is gone, so that the fetch never seems lost.
        self.add_streams(at);
        if self.nodes[at].knows.remove(&from) {
            self.nodes[at].waiting.retain(|(of, _)| *of != from);
            self.tell(at, Event::SourceGone { source: SourceId(from as u32) });
        }
        if self.nodes[at].knows_streams.remove(&from) {
            let source = SourceId(FIRST_RELAY_ID + from as u32);
            self.nodes[at].stream.take_if(|stream| stream.source == source);
            self.tell(at, Event::SourceGone { source });
        }
        self.send_next(at);
    }
}
