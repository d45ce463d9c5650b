//! Who may connect: an allow-list, bans that expire, and the interfaces on which peers are met.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    task::{Context, Poll},
    time::Instant,
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
        THandlerOutEvent, ToSwarm, dummy,
    },
};

use crate::interfaces::Interfaces;

/// Bans kept at a time; when more are asked for, the one that would end first ends now.
pub(crate) const MAX_BANS: usize = 4096;

/// A connection that is not wanted.
#[derive(Debug, thiserror::Error)]
#[error("peer {peer} is {reason}")]
struct Refused {
    peer: PeerId,
    reason: &'static str,
}

/// The behaviour that refuses connections by peer, in both directions.
pub(crate) struct Behaviour {
    allowed: Option<HashSet<PeerId>>,
    interfaces: Interfaces,
    bans: HashMap<PeerId, Instant>,
}

impl Behaviour {
    pub(crate) fn new(allowed: Option<Vec<PeerId>>, interfaces: Interfaces) -> Self {
        Self { allowed: allowed.map(HashSet::from_iter), interfaces, bans: HashMap::new() }
    }

    /// Refuses a peer until an instant; an earlier ban is never shortened.
    pub(crate) fn ban(&mut self, peer: PeerId, until: Instant, now: Instant) {
        if !self.bans.contains_key(&peer) && self.bans.len() >= MAX_BANS {
            self.bans.retain(|_, end| *end > now);
            if self.bans.len() >= MAX_BANS
                && let Some(first) = self.bans.iter().min_by_key(|(_, end)| **end).map(|(peer, _)| *peer)
            {
                self.bans.remove(&first);
            }
        }
        let end = self.bans.entry(peer).or_insert(until);
        *end = until.max(*end);
    }

    /// Why a peer is refused at an instant, if it is.
    pub(crate) fn refusal(&self, peer: &PeerId, now: Instant) -> Option<&'static str> {
        if self.bans.get(peer).is_some_and(|end| *end > now) {
            return Some("banned for a while");
        }
        match &self.allowed {
            Some(allowed) if !allowed.contains(peer) => Some("not among the allowed peers"),
            _ => None,
        }
    }

    fn check(&self, peer: PeerId) -> Result<(), ConnectionDenied> {
        match self.refusal(&peer, Instant::now()) {
            Some(reason) => Err(ConnectionDenied::new(Refused { peer, reason })),
            None => Ok(()),
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        peer.map_or(Ok(()), |peer| self.check(peer))?;
        Ok(Vec::new())
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.check(peer)?;
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.check(peer)?;
        // The directory dials by itself; what we dial has been looked at before.
        if !self.interfaces.lead_to(address) {
            let reason = "reached over an interface that is not configured";
            return Err(ConnectionDenied::new(Refused { peer, reason }));
        }
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_ban_ends_by_itself_and_is_never_shortened() {
        let mut access = Behaviour::new(None, Interfaces::default());
        let (now, peer) = (Instant::now(), PeerId::random());
        assert_eq!(access.refusal(&peer, now), None);
        access.ban(peer, now + Duration::from_secs(10), now);
        access.ban(peer, now + Duration::from_secs(5), now);
        assert!(access.refusal(&peer, now + Duration::from_secs(9)).is_some());
        assert_eq!(access.refusal(&peer, now + Duration::from_secs(10)), None);
    }

    #[test]
    fn the_table_of_bans_is_bounded_and_loses_the_shortest_first() {
        let mut access = Behaviour::new(None, Interfaces::default());
        let now = Instant::now();
        let short = PeerId::random();
        access.ban(short, now + Duration::from_secs(1), now);
        for _ in 0..MAX_BANS {
            access.ban(PeerId::random(), now + Duration::from_secs(60), now);
        }
        assert_eq!(access.bans.len(), MAX_BANS);
        assert_eq!(access.refusal(&short, now), None);
    }

    #[test]
    fn an_allow_list_refuses_everybody_else() {
        let friend = PeerId::random();
        let access = Behaviour::new(Some(vec![friend]), Interfaces::default());
        assert_eq!(access.refusal(&friend, Instant::now()), None);
        assert!(access.refusal(&PeerId::random(), Instant::now()).is_some());
    }
}
