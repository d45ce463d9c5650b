//! One connection's streams.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    core::upgrade::ReadyUpgrade,
    swarm::{
        ConnectionHandler, ConnectionHandlerEvent, StreamUpgradeError, SubstreamProtocol,
        handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound},
    },
};
use tokio::sync::Semaphore;
use tokio_util::sync::PollSender;

use super::{
    MAX_INBOUND_STREAMS_PER_CONNECTION, MAX_NEGOTIATING_OPENS, MAX_QUEUED_OPENS, OpenReply, PeerStream,
};
use crate::error::NetworkError;

/// A stream that a peer opened, with the address it was reached at.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) stream: PeerStream,
    pub(crate) remote: Multiaddr,
}

/// Request to open a stream on this connection.
#[derive(Debug)]
pub(crate) struct Open(pub(crate) OpenReply);

type Upgrade = ReadyUpgrade<StreamProtocol>;

/// The part of a connection that opens and accepts our streams.
pub(crate) struct Handler {
    peer: PeerId,
    remote: Multiaddr,
    keep_alive: bool,
    protocol: StreamProtocol,
    /// Opens that wait for their turn.
    opens: VecDeque<OpenReply>,
    /// Opens that are being negotiated; their answer channels travel with the negotiation.
    negotiating: usize,
    /// Accepted streams that wait for room in the common queue; bounded by the permits.
    accepted: VecDeque<Incoming>,
    permits: Arc<Semaphore>,
    sink: PollSender<Incoming>,
}

impl Handler {
    pub(super) fn new(
        peer: PeerId,
        remote: Multiaddr,
        keep_alive: bool,
        protocol: StreamProtocol,
        sink: PollSender<Incoming>,
    ) -> Self {
        Self {
            peer,
            remote,
            keep_alive,
            protocol,
            opens: VecDeque::new(),
            negotiating: 0,
            accepted: VecDeque::new(),
            permits: Arc::new(Semaphore::new(MAX_INBOUND_STREAMS_PER_CONNECTION)),
            sink,
        }
    }

    fn on_inbound(&mut self, stream: libp2p::Stream) {
        // Without a permit the stream is dropped, which resets it: the peer sees a refusal at once.
        match self.permits.clone().try_acquire_owned() {
            Ok(permit) => self.accepted.push_back(Incoming {
                stream: PeerStream::new(stream, self.peer, Some(permit)),
                remote: self.remote.clone(),
            }),
            Err(_) => tracing::debug!(
                peer = %self.peer,
                limit = MAX_INBOUND_STREAMS_PER_CONNECTION,
                "inbound stream refused: the connection has as many as it may"
            ),
        }
    }

    fn forward_accepted(&mut self, cx: &mut Context<'_>) {
        while !self.accepted.is_empty() {
            match self.sink.poll_reserve(cx) {
                Poll::Ready(Ok(())) => {
                    if let Some(incoming) = self.accepted.pop_front() {
                        // Fails only when the receiver is gone: then nobody serves, and the stream is reset.
                        let _ = self.sink.send_item(incoming);
                    }
                }
                Poll::Ready(Err(_)) => self.accepted.clear(),
                Poll::Pending => return,
            }
        }
        // A reservation is never held back: room in the common queue belongs to whoever has a stream for it.
        self.sink.abort_send();
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Open;
    type ToBehaviour = Infallible;
    type InboundProtocol = Upgrade;
    type OutboundProtocol = Upgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = OpenReply;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(self.protocol.clone()), ())
    }

    fn connection_keep_alive(&self) -> bool {
        self.keep_alive
    }

    fn on_behaviour_event(&mut self, Open(reply): Open) {
        if self.opens.len() >= MAX_QUEUED_OPENS {
            let queue = "the queue of streams to open on its connection";
            let _ = reply.send(Err(NetworkError::Busy { peer: self.peer, queue, limit: MAX_QUEUED_OPENS }));
        } else {
            self.opens.push_back(reply);
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>> {
        self.forward_accepted(cx);
        while self.negotiating < MAX_NEGOTIATING_OPENS {
            let Some(reply) = self.opens.pop_front() else { break };
            if reply.is_closed() {
                continue; // whoever asked has given up
            }
            self.negotiating += 1;
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: SubstreamProtocol::new(ReadyUpgrade::new(self.protocol.clone()), reply),
            });
        }
        Poll::Pending
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol, (), Self::OutboundOpenInfo>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, info: () }) => {
                self.on_inbound(protocol);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info }) => {
                self.negotiating = self.negotiating.saturating_sub(1);
                // When nobody waits any more the stream is dropped, which resets it.
                let _ = info.send(Ok(PeerStream::new(protocol, self.peer, None)));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                self.negotiating = self.negotiating.saturating_sub(1);
                let peer = self.peer;
                let broken = |reason| NetworkError::Broken { peer, reason };
                let _ = info.send(Err(match error {
                    StreamUpgradeError::NegotiationFailed => NetworkError::Unsupported { peer },
                    StreamUpgradeError::Timeout => broken("the negotiation timed out".to_owned()),
                    StreamUpgradeError::Io(error) => broken(error.to_string()),
                    StreamUpgradeError::Apply(never) => match never {},
                }));
            }
            _ => {}
        }
    }
}
