//! Chooses the connection on which a stream is opened.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm,
        behaviour::{ConnectionClosed, ConnectionEstablished},
    },
};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

use super::{
    Incoming, OpenReply,
    handler::{Handler, Open},
};
use crate::{
    error::NetworkError,
    scope::{Scope, is_tcp},
};

struct Link {
    id: ConnectionId,
    tcp: bool,
}

/// The behaviour that owns our substreams on all connections.
pub(crate) struct Behaviour {
    protocol: StreamProtocol,
    incoming: mpsc::Sender<Incoming>,
    /// Established connections in order of age.
    links: HashMap<PeerId, Vec<Link>>,
    commands: VecDeque<ToSwarm<Infallible, Open>>,
}

impl Behaviour {
    pub(crate) fn new(protocol: StreamProtocol, incoming: mpsc::Sender<Incoming>) -> Self {
        Self { protocol, incoming, links: HashMap::new(), commands: VecDeque::new() }
    }

    /// Opens a stream on the best connection with the peer: TCP before QUIC (three times the throughput), and
    /// of those the youngest, which is the least likely to be dead.
    pub(crate) fn open(&mut self, peer: PeerId, reply: OpenReply) {
        // Of equals `max_by_key` gives the last, which is the youngest.
        let best = self.links.get(&peer).and_then(|links| links.iter().max_by_key(|link| link.tcp));
        match best.map(|link| link.id) {
            Some(id) => self.commands.push_back(ToSwarm::NotifyHandler {
                peer_id: peer,
                handler: NotifyHandler::One(id),
                event: Open(reply),
            }),
            None => {
                let reason = "the connection is gone".to_owned();
                let _ = reply.send(Err(NetworkError::Broken { peer, reason }));
            }
        }
    }

    fn handler(&self, peer: PeerId, remote: &Multiaddr) -> Handler {
        Handler::new(
            peer,
            remote.clone(),
            // Connections inside a site cost next to nothing and save the first request its handshake.
            Scope::of(remote) == Scope::Lan,
            self.protocol.clone(),
            PollSender::new(self.incoming.clone()),
        )
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer, remote))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer, remote))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            }) => {
                let link = Link { id: connection_id, tcp: is_tcp(endpoint.get_remote_address()) };
                self.links.entry(peer_id).or_default().push(link);
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, .. }) => {
                if let Some(links) = self.links.get_mut(&peer_id) {
                    links.retain(|link| link.id != connection_id);
                    if links.is_empty() {
                        self.links.remove(&peer_id);
                    }
                }
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        // Commands come from the task that polls the swarm, which polls again after each: no waker is needed.
        match self.commands.pop_front() {
            Some(command) => Poll::Ready(command),
            None => Poll::Pending,
        }
    }
}
