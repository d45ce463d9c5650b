//! Peers of the local network, found by multicast DNS.

use std::time::{Duration, Instant};

use libp2p::{
    Multiaddr, PeerId,
    core::transport::ListenerId,
    mdns,
    swarm::{FromSwarm, NetworkBehaviour, behaviour::NewListenAddr},
};

use super::Task;
use crate::{behaviour::multicast, scope::Reach};

/// Longest pause by which the peer with the greater id lets the other dial first, in milliseconds: two that
/// discover each other at once need one connection, not two.
const TIE_BREAK_MS: u64 = 500;
/// Addresses that may be known by multicast DNS at a time. Anybody on the network can send thousands, libp2p
/// keeps them all and searches them one by one.
const MAX_DISCOVERED: usize = 2048;
/// Pause after more than that were told.
const FLOOD_PAUSE: Duration = Duration::from_secs(60);

/// State of the multicast DNS.
#[derive(Debug, Default)]
pub(super) struct Multicast {
    /// When it is taken up again after a flood.
    pub(super) resume_at: Option<Instant>,
}

impl Task {
    pub(super) fn on_mdns(&mut self, event: mdns::Event) {
        let now = Instant::now();
        match event {
            mdns::Event::Discovered(found) => {
                found.into_iter().for_each(|(peer, address)| self.on_discovered(peer, address, now));
                let known =
                    self.swarm.behaviour().mdns.as_ref().map_or(0, |mdns| mdns.discovered_nodes().len());
                if known > MAX_DISCOVERED {
                    self.pause_multicast(now);
                }
            }
            mdns::Event::Expired(gone) => {
                for (peer, address) in gone {
                    self.book.remove(&peer, &address);
                    if self.book.of(&peer).is_empty() {
                        self.redial.remove_lan(peer);
                    }
                }
            }
        }
    }

    fn on_discovered(&mut self, peer: PeerId, address: Multiaddr, now: Instant) {
        let local = *self.swarm.local_peer_id();
        if peer == local || !self.interfaces.lead_to(&address) {
            return;
        }
        self.book.add(peer, [address], Reach::Link, now);
        if self.book.of(&peer).is_empty() {
            return;
        }
        let connected = self.peers.is_connected(&peer);
        let yields_ms = if connected || local < peer { 0 } else { rand::random_range(0..TIE_BREAK_MS) };
        if self.redial.add_lan(peer, now + Duration::from_millis(yields_ms), connected) {
            tracing::debug!(%peer, "found on the local network");
        }
    }

    /// Forgets everything that was told by multicast DNS and does not listen to it for a while.
    fn pause_multicast(&mut self, now: Instant) {
        tracing::warn!(
            seconds = FLOOD_PAUSE.as_secs(),
            "more than {MAX_DISCOVERED} addresses by multicast DNS: somebody floods the local network; it is ignored for a while"
        );
        self.swarm.behaviour_mut().mdns = None.into();
        self.redial.remove_absent_lan();
        self.multicast.resume_at = Some(now + FLOOD_PAUSE);
    }

    /// Takes multicast DNS up again.
    pub(super) fn resume_multicast(&mut self, now: Instant) {
        if self.multicast.resume_at.is_none_or(|at| at > now) {
            return;
        }
        self.multicast.resume_at = None;
        let mut fresh = multicast(*self.swarm.local_peer_id());
        if let Some(mdns) = fresh.as_mut() {
            // It learns what to announce from events that have passed already.
            for addr in self.swarm.listeners() {
                mdns.on_swarm_event(FromSwarm::NewListenAddr(NewListenAddr {
                    listener_id: ListenerId::next(),
                    addr,
                }));
            }
        }
        self.swarm.behaviour_mut().mdns = fresh.into();
    }
}
