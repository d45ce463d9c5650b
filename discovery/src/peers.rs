//! Connected peers: what is known of each, seen by the task and by the handle.

use std::{
    collections::HashMap,
    sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, PeerId, swarm::ConnectionId};
use tokio::sync::broadcast;

use crate::scope::{Reach, Scope, is_tcp};

/// Longest agent text kept of a peer, in characters.
pub(crate) const MAX_AGENT_CHARS: usize = 64;
/// Events that a slow subscriber may lag behind before it misses some.
pub(crate) const EVENT_QUEUE: usize = 1024;
/// A peer that does not identify itself is shown after this nevertheless.
pub(crate) const IDENTIFY_GRACE: Duration = Duration::from_secs(3);
/// Pings in a row that must fail before a connection counts as dead.
pub(crate) const MAX_FAILED_PINGS: u32 = 2;

/// A connected peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerInfo {
    /// Its name.
    pub peer: PeerId,
    /// [`Scope::Lan`] when any of its connections is of the local network.
    pub scope: Scope,
    /// Round-trip time of the last ping.
    pub rtt: Option<Duration>,
    /// Remote address of its best connection (TCP before QUIC, the youngest of those).
    pub address: Multiaddr,
    /// Whether it has told that it speaks our protocol, or has spoken it.
    pub speaks_p2p_cache: bool,
    /// What it says it is; cut to 64 printable characters.
    pub agent: Option<String>,
}

/// A peer came or went. Each is told once however many connections there are, and a peer only after it has
/// identified itself (or has failed to for three seconds).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerEvent {
    /// The peer can be asked for streams.
    Connected(PeerInfo),
    /// Its last connection is gone.
    Disconnected(PeerId),
}

#[derive(Debug)]
struct Link {
    id: ConnectionId,
    remote: Multiaddr,
    dialled: bool,
    failed_pings: u32,
}

#[derive(Debug)]
struct Entry {
    links: Vec<Link>,
    since: Instant,
    announced: bool,
    rtt: Option<Duration>,
    speaks: bool,
    agent: Option<String>,
}

/// The handle's view: announced peers.
#[derive(Debug)]
pub(crate) struct Announced {
    peers: RwLock<HashMap<PeerId, PeerInfo>>,
    events: broadcast::Sender<PeerEvent>,
}

impl Announced {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { peers: RwLock::default(), events: broadcast::Sender::new(EVENT_QUEUE) })
    }

    pub(crate) fn all(&self) -> Vec<PeerInfo> {
        self.read().values().cloned().collect()
    }

    pub(crate) fn get(&self, peer: &PeerId) -> Option<PeerInfo> {
        self.read().get(peer).cloned()
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<PeerEvent> {
        self.events.subscribe()
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<PeerId, PeerInfo>> {
        // Nothing panics half-way through a change of the table.
        self.peers.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<PeerId, PeerInfo>> {
        self.peers.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The task's table of all connections.
#[derive(Debug)]
pub(crate) struct Peers {
    entries: HashMap<PeerId, Entry>,
    announced: Arc<Announced>,
}

impl Peers {
    pub(crate) fn new(announced: Arc<Announced>) -> Self {
        Self { entries: HashMap::new(), announced }
    }

    pub(crate) fn is_connected(&self, peer: &PeerId) -> bool {
        self.entries.contains_key(peer)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The nearest from which a peer is connected.
    pub(crate) fn reach(&self, peer: &PeerId) -> Option<Reach> {
        let links = &self.entries.get(peer)?.links;
        links.iter().map(|link| reach_of(&link.remote)).min()
    }

    /// Reach of one connection.
    pub(crate) fn reach_of_link(&self, peer: &PeerId, id: ConnectionId) -> Option<Reach> {
        let links = &self.entries.get(peer)?.links;
        links.iter().find(|link| link.id == id).map(|link| reach_of(&link.remote))
    }

    /// The addresses at which we have dialled a connected peer: they work.
    pub(crate) fn dialled(&self, peer: &PeerId) -> Vec<Multiaddr> {
        let links = self.entries.get(peer).map_or(&[][..], |entry| &entry.links);
        links.iter().filter(|link| link.dialled).map(|link| link.remote.clone()).collect()
    }

    /// A connection has been made. True for a peer's first.
    pub(crate) fn on_connection(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        remote: Multiaddr,
        dialled: bool,
        now: Instant,
    ) -> bool {
        let first = !self.entries.contains_key(&peer);
        let entry = self.entries.entry(peer).or_insert_with(|| Entry {
            links: Vec::new(),
            since: now,
            announced: false,
            rtt: None,
            speaks: false,
            agent: None,
        });
        entry.links.push(Link { id, remote, dialled, failed_pings: 0 });
        self.refresh(&peer);
        first
    }

    /// A connection has gone. True for a peer's last.
    pub(crate) fn on_closed(&mut self, peer: &PeerId, id: ConnectionId) -> bool {
        let Some(entry) = self.entries.get_mut(peer) else { return false };
        entry.links.retain(|link| link.id != id);
        if !entry.links.is_empty() {
            self.refresh(peer);
            return false;
        }
        let announced = entry.announced;
        self.entries.remove(peer);
        if announced {
            self.announced.write().remove(peer);
            // Fails when nobody listens, which is fine.
            let _ = self.announced.events.send(PeerEvent::Disconnected(*peer));
        }
        true
    }

    /// The peer told what it is.
    pub(crate) fn on_identified(&mut self, peer: &PeerId, speaks: bool, agent: &str) {
        if let Some(entry) = self.entries.get_mut(peer) {
            entry.speaks = speaks;
            entry.agent = Some(clean(agent));
            self.announce(peer);
        }
    }

    /// A ping ended. True when the connection counts as dead now.
    pub(crate) fn on_ping(&mut self, peer: &PeerId, id: ConnectionId, result: Option<Duration>) -> bool {
        let Some(entry) = self.entries.get_mut(peer) else { return false };
        let Some(link) = entry.links.iter_mut().find(|link| link.id == id) else { return false };
        match result {
            Some(rtt) => {
                link.failed_pings = 0;
                entry.rtt = Some(rtt);
                self.refresh(peer);
                false
            }
            None => {
                link.failed_pings += 1;
                link.failed_pings >= MAX_FAILED_PINGS
            }
        }
    }

    /// Announces peers that have not identified themselves in time.
    pub(crate) fn announce_overdue(&mut self, now: Instant) {
        let overdue: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| !entry.announced && entry.since + IDENTIFY_GRACE <= now)
            .map(|(peer, _)| *peer)
            .collect();
        overdue.iter().for_each(|peer| self.announce(peer));
    }

    /// When the next such peer is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.entries.values().filter(|entry| !entry.announced).map(|entry| entry.since + IDENTIFY_GRACE).min()
    }

    fn announce(&mut self, peer: &PeerId) {
        let Some(entry) = self.entries.get_mut(peer) else { return };
        let first = !std::mem::replace(&mut entry.announced, true);
        self.refresh(peer);
        if first && let Some(info) = self.announced.get(peer) {
            let _ = self.announced.events.send(PeerEvent::Connected(info));
        }
    }

    /// Brings the handle's view of a peer up to date.
    fn refresh(&self, peer: &PeerId) {
        let Some(entry) = self.entries.get(peer).filter(|entry| entry.announced) else { return };
        // Of equals `max_by_key` gives the last, which is the youngest.
        let Some(best) = entry.links.iter().max_by_key(|link| is_tcp(&link.remote)) else { return };
        let scope = entry.links.iter().map(|link| Scope::of(&link.remote)).min().unwrap_or(Scope::Public);
        let info = PeerInfo {
            peer: *peer,
            scope,
            rtt: entry.rtt,
            address: best.remote.clone(),
            speaks_p2p_cache: entry.speaks,
            agent: entry.agent.clone(),
        };
        self.announced.write().insert(*peer, info);
    }
}

fn reach_of(remote: &Multiaddr) -> Reach {
    Reach::of(remote).unwrap_or(Reach::Public)
}

/// A stranger's text made fit for logs and terminals.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .take(MAX_AGENT_CHARS)
        .map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(id: usize) -> ConnectionId {
        ConnectionId::new_unchecked(id)
    }

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn two_connections_with_a_peer_are_one_arrival_and_one_departure() {
        let announced = Announced::new();
        let mut events = announced.subscribe();
        let mut peers = Peers::new(announced.clone());
        let (peer, now) = (PeerId::random(), Instant::now());
        assert!(peers.on_connection(peer, connection(1), address("/ip4/10.0.0.1/udp/1/quic-v1"), true, now));
        assert!(!peers.on_connection(peer, connection(2), address("/ip4/10.0.0.1/tcp/1"), true, now));
        assert!(announced.all().is_empty(), "not before it is identified");
        peers.on_identified(&peer, true, "p2p-cache/1");
        peers.on_identified(&peer, true, "p2p-cache/1");
        assert!(!peers.on_closed(&peer, connection(2)));
        assert_eq!(announced.get(&peer).unwrap().address, address("/ip4/10.0.0.1/udp/1/quic-v1"));
        assert!(peers.on_closed(&peer, connection(1)));
        let PeerEvent::Connected(info) = events.try_recv().unwrap() else { panic!("not an arrival") };
        assert_eq!(info.address, address("/ip4/10.0.0.1/tcp/1"));
        assert_eq!(events.try_recv().unwrap(), PeerEvent::Disconnected(peer));
        assert!(events.try_recv().is_err());
    }

    #[test]
    fn a_peer_that_never_identifies_itself_is_announced_late() {
        let announced = Announced::new();
        let mut peers = Peers::new(announced.clone());
        let (peer, now) = (PeerId::random(), Instant::now());
        peers.on_connection(peer, connection(1), address("/ip4/8.8.8.8/tcp/1"), true, now);
        assert_eq!(peers.deadline(), Some(now + IDENTIFY_GRACE));
        peers.announce_overdue(now + IDENTIFY_GRACE);
        let info = announced.get(&peer).unwrap();
        assert_eq!((info.scope, info.speaks_p2p_cache, info.agent), (Scope::Public, false, None));
        assert_eq!(peers.deadline(), None);
    }

    #[test]
    fn a_connection_is_dead_after_pings_failed_in_a_row() {
        let mut peers = Peers::new(Announced::new());
        let peer = PeerId::random();
        peers.on_connection(peer, connection(1), address("/ip4/8.8.8.8/tcp/1"), true, Instant::now());
        assert!(!peers.on_ping(&peer, connection(1), None));
        assert!(!peers.on_ping(&peer, connection(1), Some(Duration::from_millis(1))));
        assert!(!peers.on_ping(&peer, connection(1), None));
        assert!(peers.on_ping(&peer, connection(1), None));
    }

    #[test]
    fn a_hostile_agent_text_is_cut_and_cleaned() {
        let cleaned = clean(&"\x1b[2J\n\u{202e}evil ".repeat(100));
        assert_eq!(cleaned.chars().count(), MAX_AGENT_CHARS);
        assert!(cleaned.chars().all(|c| c.is_ascii_graphic() || c == ' '));
    }
}
