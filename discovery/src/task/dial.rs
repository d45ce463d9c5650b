//! Getting connected: static peers, peers of the local network, and peers that a stream is wanted with.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId,
    swarm::{
        ConnectionId, DialError,
        dial_opts::{DialOpts, PeerCondition},
    },
};

use super::{Task, listen::dial_reason, resolve::Resolution};
use crate::{
    error::NetworkError,
    redial::{Due, Target, TargetId},
    scope::is_tcp,
    streams::OpenReply,
};

/// Head start of TCP before QUIC is tried too. QUIC's handshake is quicker, its data a third as fast.
const TCP_HEAD_START: Duration = Duration::from_millis(1000);
/// Streams that may wait for one peer's dial.
const MAX_WAITING_OPENS: usize = 1024;
/// Peers that are dialled at a time on request.
const MAX_ATTEMPTS: usize = 256;

/// A dial of a known peer.
pub(super) struct Attempt {
    dials: HashSet<ConnectionId>,
    /// Addresses kept back for when TCP does not answer.
    rest: Vec<Multiaddr>,
    pub(super) fall_back_at: Option<Instant>,
    waiting: Vec<OpenReply>,
    last_error: String,
}

impl Task {
    /// Opens a stream, on a connection that stands or on one to be made.
    pub(super) fn open(&mut self, peer: PeerId, reply: OpenReply) {
        // A caller that has gone needs no answer.
        if let Some(reason) = self.swarm.behaviour().access.refusal(&peer, Instant::now()) {
            let _ = reply.send(Err(NetworkError::Refused { peer, reason }));
        } else if self.peers.is_connected(&peer) {
            self.open_on_connection(peer, reply);
        } else {
            self.dial_for(peer, reply);
        }
    }

    fn open_on_connection(&mut self, peer: PeerId, reply: OpenReply) {
        self.swarm.behaviour_mut().streams.open(peer, reply);
    }

    fn dial_for(&mut self, peer: PeerId, reply: OpenReply) {
        if peer == *self.swarm.local_peer_id() {
            let reason = "it is this node itself".to_owned();
            let _ = reply.send(Err(NetworkError::Unreachable { peer, reason }));
            return;
        }
        if !self.attempts.contains_key(&peer) && self.attempts.len() >= MAX_ATTEMPTS {
            let busy =
                NetworkError::Busy { peer, queue: "the list of peers being dialled", limit: MAX_ATTEMPTS };
            let _ = reply.send(Err(busy));
            return;
        }
        self.dial(peer, Some(reply));
    }

    /// Dials a peer at all its known addresses unless that is going on already.
    pub(super) fn dial(&mut self, peer: PeerId, reply: Option<OpenReply>) {
        if let Some(attempt) = self.attempts.get_mut(&peer) {
            if let Some(reply) = reply {
                attempt.waiting.retain(|waiting| !waiting.is_closed());
                if attempt.waiting.len() < MAX_WAITING_OPENS {
                    attempt.waiting.push(reply);
                } else {
                    let queue = "the queue of streams that wait for its dial";
                    let _ = reply.send(Err(NetworkError::Busy { peer, queue, limit: MAX_WAITING_OPENS }));
                }
            }
            return;
        }
        let (tcp, rest): (Vec<_>, Vec<_>) = self.known_addresses(peer).into_iter().partition(is_tcp);
        let (first, rest) = if tcp.is_empty() { (rest, Vec::new()) } else { (tcp, rest) };
        let fall_back_at = (!rest.is_empty()).then(|| Instant::now() + TCP_HEAD_START);
        let attempt = Attempt {
            dials: HashSet::new(),
            rest,
            fall_back_at,
            waiting: reply.into_iter().collect(),
            last_error: "no address of it is known".to_owned(),
        };
        self.attempts.insert(peer, attempt);
        self.dial_addresses(peer, first);
        self.settle_attempt(peer);
    }

    fn known_addresses(&mut self, peer: PeerId) -> Vec<Multiaddr> {
        let mut addresses = self.book.of(&peer).to_vec();
        if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() {
            addresses.extend(kad.addresses_of(peer));
        }
        addresses
    }

    fn dial_addresses(&mut self, peer: PeerId, mut addresses: Vec<Multiaddr>) {
        addresses.retain(|address| self.interfaces.lead_to(address));
        if addresses.is_empty() {
            return;
        }
        let options = DialOpts::peer_id(peer)
            .addresses(addresses)
            .condition(PeerCondition::Always)
            // See `dht::guard`: dialling from the listening port can join two dials into a broken one.
            .allocate_new_port()
            .build();
        let id = options.connection_id();
        let result = self.swarm.dial(options);
        if let Some(attempt) = self.attempts.get_mut(&peer) {
            match result {
                Ok(()) => {
                    attempt.dials.insert(id);
                }
                Err(error) => attempt.last_error = dial_reason(&error),
            }
        }
    }

    /// Goes on with an attempt of which no dial runs any more: the kept-back addresses, or failure.
    fn settle_attempt(&mut self, peer: PeerId) {
        let Some(attempt) = self.attempts.get_mut(&peer) else { return };
        if !attempt.dials.is_empty() {
            return;
        }
        let rest = std::mem::take(&mut attempt.rest);
        attempt.fall_back_at = None;
        self.dial_addresses(peer, rest);
        if let Some(attempt) = self.attempts.get(&peer)
            && attempt.dials.is_empty()
        {
            let reason = attempt.last_error.clone();
            self.fail_attempt(peer, &reason);
            self.redial.on_unreachable(peer, Instant::now(), rand::random());
        }
    }

    /// Dials by QUIC what TCP has not reached in its head start.
    pub(super) fn fall_back_due(&mut self, now: Instant) {
        let due: Vec<_> = self
            .attempts
            .iter_mut()
            .filter(|(_, attempt)| attempt.fall_back_at.is_some_and(|at| at <= now))
            .map(|(peer, attempt)| {
                attempt.fall_back_at = None;
                (*peer, std::mem::take(&mut attempt.rest))
            })
            .collect();
        for (peer, rest) in due {
            self.dial_addresses(peer, rest);
        }
    }

    /// Answers everybody who waits for a peer that cannot be had.
    pub(super) fn fail_attempt(&mut self, peer: PeerId, reason: &str) {
        let Some(attempt) = self.attempts.remove(&peer) else { return };
        for waiting in attempt.waiting {
            let _ = waiting.send(Err(NetworkError::Unreachable { peer, reason: reason.to_owned() }));
        }
    }

    /// A peer is connected: whoever waited for it gets a stream.
    pub(super) fn finish_attempt(&mut self, peer: PeerId) {
        let Some(attempt) = self.attempts.remove(&peer) else { return };
        for waiting in attempt.waiting.into_iter().filter(|waiting| !waiting.is_closed()) {
            self.open_on_connection(peer, waiting);
        }
    }

    /// A dial of ours or of a behaviour failed.
    pub(super) fn on_dial_failure(&mut self, id: ConnectionId, peer: Option<PeerId>, error: &DialError) {
        let now = Instant::now();
        if let Some(target) = self.target_dials.remove(&id) {
            self.on_target_failure(target, error, now);
        }
        let Some(peer) = peer else { return };
        if let DialError::Transport(failed) = error {
            tracing::debug!(%peer, reason = dial_reason(error), tried = failed.len(), "dial failed");
        }
        if let Some(attempt) = self.attempts.get_mut(&peer)
            && attempt.dials.remove(&id)
        {
            attempt.last_error = dial_reason(error);
            self.settle_attempt(peer);
        }
    }

    fn on_target_failure(&mut self, target: TargetId, error: &DialError, now: Instant) {
        if let DialError::LocalPeerId { address } = error {
            tracing::warn!(%address, "this configured peer is this node itself: not dialled again");
            self.redial.on_self(target);
            return;
        }
        if let DialError::WrongPeerId { obtained, address } = error {
            tracing::warn!(
                %address, %obtained,
                "another peer than the configured one answers there: correct the id in `peers`, or leave it out"
            );
        } else {
            tracing::info!(
                reason = dial_reason(error),
                "a configured peer is not reachable; it is tried again"
            );
        }
        self.redial.on_failure(target, now, rand::random());
    }

    /// Dials the targets that are due.
    pub(super) fn redial_due(&mut self, now: Instant) {
        for Due { id, target, failures } in self.redial.due(now, &mut rand::random::<f64>) {
            match target {
                Target::Static { address, peer } => match peer.filter(|peer| self.peers.is_connected(peer)) {
                    Some(peer) => self.redial.on_answer(id, peer, now),
                    None => self.resolutions.start(Resolution { id, address, peer, failures }),
                },
                Target::Lan(peer) if self.peers.is_connected(&peer) => self.redial.on_connected(peer, now),
                Target::Lan(peer) => self.dial(peer, None),
            }
        }
    }

    /// Dials a static peer whose name has been resolved.
    pub(super) fn on_resolved(&mut self, resolution: Resolution, resolved: Result<Vec<Multiaddr>, String>) {
        let Resolution { id, address, peer, failures } = resolution;
        let now = Instant::now();
        let addresses = match resolved {
            Ok(mut addresses) if !addresses.is_empty() => {
                addresses.retain(|address| self.interfaces.lead_to(address));
                if addresses.is_empty() {
                    let reason = "the way there leads over none of the configured interfaces";
                    return self.on_unresolved(id, &address, reason, now);
                }
                addresses
            }
            Ok(_) => return self.on_unresolved(id, &address, "it has no address of the wanted kind", now),
            Err(reason) => return self.on_unresolved(id, &address, &reason, now),
        };
        // One at a time, the system's favourite first: each failure moves on to the next.
        let index = usize::try_from(failures).unwrap_or(0) % addresses.len();
        let address = addresses[index].clone();
        let options = match peer {
            Some(peer) => DialOpts::peer_id(peer)
                .addresses(vec![address])
                .condition(PeerCondition::Always)
                .allocate_new_port()
                .build(),
            None => DialOpts::unknown_peer_id().address(address).allocate_new_port().build(),
        };
        let connection = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => {
                self.target_dials.insert(connection, id);
            }
            Err(error) => self.on_target_failure(id, &error, now),
        }
    }

    fn on_unresolved(&mut self, id: TargetId, address: &Multiaddr, reason: &str, now: Instant) {
        tracing::info!(%address, reason, "the name of a configured peer cannot be resolved; it is tried again");
        self.redial.on_failure(id, now, rand::random());
    }
}
