//! What nodes and the origin do when they are asked.

use p2p_cache_protocol::GroupRange;
use rand::Rng;

use super::uplink::{Load, Piece, Uplink};
use super::{Happening, ORIGIN, World};
use crate::cast::Fate;

impl World {
    fn uplink(&mut self, server: usize) -> &mut Uplink {
        match self.nodes.get_mut(server) {
            Some(node) => &mut node.uplink,
            None => &mut self.origin,
        }
    }

    pub(super) fn asked(&mut self, server: usize, by: usize, extent: GroupRange) {
        let node = &mut self.nodes[server];
        if node.uplink.is_silent() {
            return;
        }
        let corrupt = match node.spec.fate {
            Fate::Lies { share } => self.random.random_bool(share),
            Fate::Steady | Fate::Dies { .. } | Fate::FallsSilent { .. } | Fate::Slows { .. } => false,
        };
        let bytes = extent.bytes(self.cast.size_bytes);
        node.uplink.add_extent(by, extent, bytes.end - bytes.start, corrupt);
        self.send_next(server);
    }

    pub(super) fn stream_asked(&mut self, server: usize, by: usize, stream: u32, from_byte: u64) {
        if server != ORIGIN {
            // Who is asked to lead does so, even before it wants the blob itself.
            self.join(server);
            if self.nodes[server].uplink.is_silent() {
                return;
            }
            self.nodes[server].passes_on.insert(stream, by);
        }
        if self.nodes[by].stream.is_some_and(|current| current.number == stream) {
            self.uplink(server).add_stream(by, stream, from_byte);
            self.send_next(server);
        }
    }

    pub(super) fn stream_stopped(&mut self, server: usize, by: usize, stream: u32) {
        self.uplink(server).stop_stream(by, stream);
        if let Some(node) = self.nodes.get_mut(server) {
            node.passes_on.remove(&stream);
        }
        self.send_next(server);
    }

    /// Begins the next piece if there is one and the uplink is free.
    pub(super) fn send_next(&mut self, server: usize) {
        let size = self.cast.size_bytes;
        let started = match self.nodes.get_mut(server) {
            Some(node) => {
                let present = &node.present;
                let until = |at: u64| {
                    let group = at / p2p_cache_protocol::GROUP_BYTES;
                    GroupRange::new(0, present.prefix_from(group)).bytes(size).end
                };
                node.uplink.start(&mut self.random, size, until)
            }
            None => self.origin.start(&mut self.random, size, |_| size),
        };
        if let Some((to, piece, time)) = started {
            self.queue.push_in(time, Happening::Sent { server, to, piece });
        }
    }

    /// A piece is out; it goes through the network and the downlink.
    pub(super) fn sent(&mut self, server: usize, to: usize, piece: Piece) {
        self.uplink(server).sent();
        if !self.uplink(server).is_silent() {
            match self.nodes.get_mut(server) {
                Some(node) => node.tally.sent_bytes += piece.bytes,
                None => self.origin_sent_bytes += piece.bytes,
            }
            let arrives = self.queue.now() + self.half_trip(server, to);
            let at = self.nodes[to].downlink.through(arrives, piece.bytes);
            self.queue.push(at, Happening::Received { server, by: to, piece });
        }
        self.send_next(server);
    }

    pub(super) fn received(&mut self, server: usize, by: usize, piece: Piece) {
        self.uplink(server).acknowledge(by, piece.bytes);
        self.send_next(server);
        if !self.nodes[by].alive {
            return;
        }
        self.nodes[by].tally.received_bytes += piece.bytes;
        match piece.load {
            Load::Extent { extent, corrupt } if piece.last => {
                self.extent_received(by, server, extent, corrupt)
            }
            Load::Extent { .. } => {}
            Load::Stream { stream, from } => self.stream_received(by, server, stream, from, piece),
        }
    }
}
