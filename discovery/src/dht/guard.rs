//! Kademlia dials whoever a look-up names. This wrapper keeps those dials from pointing into our own site on
//! the word of strangers, and makes them prefer TCP.

use std::{
    collections::HashMap,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    kad,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm,
        behaviour::{ConnectionClosed, ConnectionEstablished},
        dial_opts::{DialOpts, PeerCondition},
    },
};

use super::{LOOKUP_TIMEOUT, store::ProviderStore};
use crate::{
    addresses::filter,
    scope::{Reach, is_tcp},
};

/// Addresses that a look-up was told live as long as the look-up; a bootstrap chains many look-ups.
const TAINT: Duration = Duration::from_secs(16 * LOOKUP_TIMEOUT.as_secs());

type Inner = kad::Behaviour<ProviderStore>;

/// Kademlia whose dials are filtered.
///
/// Inside Kademlia it is not visible who told an address. So: while any peer of the wide area has spoken to our
/// Kademlia lately, only public addresses are dialled on its word; in a swarm of one site, addresses of that
/// site are dialled too. (Peers of the site that are known by mDNS, identify or configuration are dialled by
/// the address book in either case.)
pub(crate) struct Guarded {
    inner: Inner,
    reaches: HashMap<ConnectionId, Reach>,
    /// The widest that a connected or recently heard Kademlia peer was from, and when that ends to count.
    tainted_until: Option<Instant>,
}

impl Guarded {
    pub(super) fn new(inner: Inner) -> Self {
        Self { inner, reaches: HashMap::new(), tainted_until: None }
    }

    /// Kademlia itself.
    pub(crate) fn kad(&mut self) -> &mut Inner {
        &mut self.inner
    }

    /// Addresses that Kademlia knows for a peer, from the routing table and from running look-ups: those that
    /// may be dialled.
    pub(crate) fn addresses_of(&mut self, peer: PeerId) -> Vec<Multiaddr> {
        self.filtered(ConnectionId::new_unchecked(0), peer, Endpoint::Dialer).unwrap_or_default()
    }

    fn trusted_reach(&self, now: Instant) -> Reach {
        if self.tainted_until.is_some_and(|until| until > now) {
            return Reach::Public;
        }
        self.reaches.values().copied().max().unwrap_or(Reach::Public)
    }

    fn filtered(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let told = self.inner.handle_pending_outbound_connection(id, Some(peer), &[], role)?;
        let mut addresses = filter(peer, self.routed(peer), Reach::Loopback);
        for address in filter(peer, told, self.trusted_reach(Instant::now())) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        Ok(addresses)
    }

    /// The addresses of a peer in the routing table: we put them there ourselves, after our filter.
    fn routed(&mut self, peer: PeerId) -> Vec<Multiaddr> {
        let Some(bucket) = self.inner.kbucket(peer) else { return Vec::new() };
        let entries: Vec<_> = bucket.iter().collect();
        entries
            .iter()
            .filter(|entry| *entry.node.key.preimage() == peer)
            .flat_map(|entry| entry.node.value.iter().cloned())
            .collect()
    }
}

impl NetworkBehaviour for Guarded {
    type ConnectionHandler = <Inner as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = kad::Event;

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let Some(peer) = peer else { return Ok(Vec::new()) };
        let mut addresses = self.filtered(id, peer, role)?;
        // All addresses are dialled at once and the quickest handshake wins, which is QUIC's: leave it out
        // where there is TCP, which moves three times the bytes.
        if addresses.iter().any(is_tcp) {
            addresses.retain(is_tcp);
        }
        Ok(addresses)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_outbound_connection(id, peer, address, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match &event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { connection_id, endpoint, .. }) => {
                let reach = Reach::of(endpoint.get_remote_address()).unwrap_or(Reach::Public);
                self.reaches.insert(*connection_id, reach);
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. }) => {
                self.reaches.remove(connection_id);
            }
            _ => {}
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        if self.reaches.get(&id).is_none_or(|reach| *reach == Reach::Public) {
            self.tainted_until = Some(Instant::now() + TAINT);
        }
        self.inner.on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.inner.poll(cx).map(|action| match action {
            // A fresh port for each dial: when both ends dial from their listening ports at once, TCP joins the
            // two into one connection in which both believe to be the dialler, and the handshake fails.
            ToSwarm::Dial { opts } => match opts.get_peer_id() {
                Some(peer) => ToSwarm::Dial {
                    opts: DialOpts::peer_id(peer)
                        .condition(PeerCondition::DisconnectedAndNotDialing)
                        .allocate_new_port()
                        .build(),
                },
                None => ToSwarm::Dial { opts },
            },
            other => other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libp2p::core::ConnectedPoint;

    fn guard() -> Guarded {
        super::super::kademlia(PeerId::random(), Duration::from_secs(60))
    }

    fn connect(guard: &mut Guarded, id: usize, address: &str) {
        let endpoint = ConnectedPoint::Listener {
            local_addr: "/ip4/10.0.0.1/tcp/1".parse().unwrap(),
            send_back_addr: address.parse().unwrap(),
        };
        guard.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
            peer_id: PeerId::random(),
            connection_id: ConnectionId::new_unchecked(id),
            endpoint: &endpoint,
            failed_addresses: &[],
            other_established: 0,
        }));
    }

    #[test]
    fn look_ups_may_name_addresses_of_the_site_only_while_nobody_of_the_wide_area_is_connected() {
        let (mut guard, now) = (guard(), Instant::now());
        assert_eq!(guard.trusted_reach(now), Reach::Public);
        connect(&mut guard, 1, "/ip4/127.0.0.1/tcp/1");
        assert_eq!(guard.trusted_reach(now), Reach::Loopback);
        connect(&mut guard, 2, "/ip4/192.168.1.2/tcp/1");
        assert_eq!(guard.trusted_reach(now), Reach::Private);
        connect(&mut guard, 3, "/ip4/9.9.9.9/tcp/1");
        assert_eq!(guard.trusted_reach(now), Reach::Public);
    }

    #[test]
    fn what_was_heard_from_the_wide_area_counts_for_as_long_as_look_ups_remember_it() {
        let (mut guard, now) = (guard(), Instant::now());
        connect(&mut guard, 1, "/ip4/127.0.0.1/tcp/1");
        guard.tainted_until = Some(now + TAINT);
        assert_eq!(guard.trusted_reach(now + TAINT / 2), Reach::Public);
        assert_eq!(guard.trusted_reach(now + TAINT), Reach::Loopback);
    }

    #[test]
    fn peers_of_the_routing_table_are_dialled_at_their_checked_addresses_and_by_tcp_first() {
        let (mut guard, peer) = (guard(), PeerId::random());
        for address in ["/ip4/192.168.1.2/udp/1/quic-v1", "/ip4/192.168.1.2/tcp/1"] {
            guard.kad().add_address(&peer, address.parse().unwrap());
        }
        assert_eq!(guard.addresses_of(peer).len(), 2);
        let id = ConnectionId::new_unchecked(1);
        let dialled =
            guard.handle_pending_outbound_connection(id, Some(peer), &[], Endpoint::Dialer).unwrap();
        assert_eq!(dialled, ["/ip4/192.168.1.2/tcp/1".parse().unwrap()]);
        assert!(guard.addresses_of(PeerId::random()).is_empty());
    }
}
