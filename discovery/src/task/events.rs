//! What the swarm reports.

use std::time::Instant;

use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    core::ConnectedPoint,
    identify, ping,
    swarm::{ConnectionId, SwarmEvent},
};

use super::Task;
use crate::{
    PROTOCOL_NAME,
    behaviour::BehaviourEvent,
    dht::KAD_PROTOCOL,
    peers::clean,
    scope::{Reach, split_peer},
};

impl Task {
    pub(super) fn on_swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour_event(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_connected(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, .. } => {
                let last = self.peers.on_closed(&peer_id, connection_id);
                tracing::debug!(peer = %peer_id, ?cause, last, "connection closed");
                if last {
                    self.redial.on_disconnected(peer_id, Instant::now(), rand::random());
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                self.on_dial_failure(connection_id, peer_id, &error);
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                tracing::debug!(remote = %send_back_addr, %error, "inbound connection failed");
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                tracing::info!(%address, "listening for peers");
                self.refresh_listening();
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                tracing::info!(%address, "no longer listening for peers");
                self.refresh_listening();
            }
            SwarmEvent::ListenerClosed { listener_id, addresses, reason } => {
                self.listeners.remove(&listener_id);
                if let Err(error) = reason {
                    tracing::error!(?addresses, %error, "a listener has failed: peers cannot connect there any more");
                }
                self.refresh_listening();
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "a listener has trouble"),
            _ => {}
        }
    }

    fn on_behaviour_event(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Identify(identify::Event::Received { connection_id, peer_id, info }) => {
                self.on_identified(peer_id, connection_id, info);
            }
            BehaviourEvent::Identify(_) => {}
            BehaviourEvent::Ping(event) => self.on_ping(event),
            BehaviourEvent::Kad(event) => self.on_kad(event),
            BehaviourEvent::Mdns(event) => self.on_mdns(event),
            BehaviourEvent::Access(never) => match never {},
            BehaviourEvent::Limits(never) => match never {},
            BehaviourEvent::Memory(never) => match never {},
            BehaviourEvent::Streams(never) => match never {},
        }
    }

    fn on_connected(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        let now = Instant::now();
        let (remote, _) = split_peer(endpoint.get_remote_address().clone());
        tracing::debug!(%peer, address = %remote, dialled = endpoint.is_dialer(), "connected");
        self.peers.on_connection(peer, id, remote, endpoint.is_dialer(), now);
        // Worth trying again, whatever the peer will say of itself.
        self.book.add(peer, self.peers.dialled(&peer), Reach::Loopback, now);
        if let Some(target) = self.target_dials.remove(&id) {
            self.redial.on_answer(target, peer, now);
        }
        self.redial.on_connected(peer, now);
        self.finish_attempt(peer);
    }

    fn on_identified(&mut self, peer: PeerId, id: ConnectionId, info: identify::Info) {
        let now = Instant::now();
        let speaks = |name: &StreamProtocol| info.protocols.contains(name);
        let Some(reach) = self.peers.reach_of_link(&peer, id) else { return };
        let routes = speaks(&KAD_PROTOCOL);
        let is_ours = speaks(&StreamProtocol::new(PROTOCOL_NAME));
        if !routes && !is_ours {
            // Multicast DNS finds the nodes of every libp2p application.
            tracing::info!(%peer, agent = clean(&info.agent_version), "not a p2p-cache node: disconnected");
            self.redial.remove_lan(peer);
            // Fails when it is gone already.
            let _ = self.swarm.disconnect_peer_id(peer);
            return;
        }
        let (new, gone) = self.book.replace(peer, info.listen_addrs, reach, now);
        self.book.add(peer, self.peers.dialled(&peer), Reach::Loopback, now);
        if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut().filter(|_| routes) {
            for address in gone.iter().filter(|address| !self.book.of(&peer).contains(address)) {
                kad.kad().remove_address(&peer, address);
            }
            let known: Vec<Multiaddr> = self.book.of(&peer).to_vec();
            tracing::debug!(%peer, addresses = known.len(), new = new.len(), "identified");
            for address in known {
                kad.kad().add_address(&peer, address);
            }
        }
        self.peers.on_identified(&peer, is_ours, &info.agent_version);
    }

    fn on_ping(&mut self, event: ping::Event) {
        let result = match event.result {
            Ok(rtt) => Some(rtt),
            // It answers, if only that it does not know the question.
            Err(ping::Failure::Unsupported) => return,
            // No room for one more stream, for example: that is no silence.
            Err(error @ ping::Failure::Other { .. }) => {
                tracing::debug!(peer = %event.peer, %error, "ping failed");
                return;
            }
            Err(ping::Failure::Timeout) => None,
        };
        if self.peers.on_ping(&event.peer, event.connection, result) {
            tracing::info!(peer = %event.peer, "peer does not answer any more: connection closed");
            self.swarm.close_connection(event.connection);
        }
    }
}
