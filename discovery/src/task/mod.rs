//! The task that owns the swarm: it alone touches it, everything else sends commands.

mod dial;
mod directory;
mod events;
mod follow;
mod listen;
mod multicast;
mod resolve;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt;
use libp2p::{Multiaddr, PeerId, Swarm, core::transport::ListenerId, kad, swarm::ConnectionId};
use tokio::sync::{mpsc, oneshot};

use crate::{
    addresses::AddressBook,
    behaviour::Behaviour,
    config::NetworkConfig,
    dht::Publisher,
    directory::ProviderKey,
    error::DirectoryError,
    interfaces::Interfaces,
    network::ListenAddresses,
    peers::{Announced, Peers},
    redial::{Redial, TargetId},
    streams::OpenReply,
};
use dial::Attempt;
use directory::Lookup;
use multicast::Multicast;
use resolve::Resolutions;

/// Time in which connections are closed in good order at shutdown.
const CLOSE_GRACE: Duration = Duration::from_secs(2);
/// Time between two sweeps of expired records.
const SWEEP_INTERVAL: Duration = Duration::from_secs(600);

/// What handles ask of the task.
#[derive(Debug)]
pub(crate) enum Command {
    /// Open a stream, dialling if need be.
    Open { peer: PeerId, reply: OpenReply },
    /// Disconnect and refuse a peer.
    Ban { peer: PeerId, duration: Duration, done: oneshot::Sender<()> },
    /// Record that we hold something.
    Advertise { key: ProviderKey, reply: oneshot::Sender<Result<(), DirectoryError>> },
    /// Forget that we hold something.
    Withdraw { key: ProviderKey, reply: oneshot::Sender<Result<(), DirectoryError>> },
    /// Ask who holds something.
    Find { key: ProviderKey, limit: usize, reply: oneshot::Sender<Result<Vec<PeerId>, DirectoryError>> },
    /// Stay connected with those who answer at these addresses, and with no others that were named before.
    SetPeers { peers: Vec<Multiaddr> },
    /// Say that the task still takes commands.
    Respond { reply: oneshot::Sender<()> },
    /// End.
    Shutdown,
}

/// The swarm and all that is decided about it.
pub(crate) struct Task {
    swarm: Swarm<Behaviour>,
    config: NetworkConfig,
    commands: mpsc::Receiver<Command>,
    listening: ListenAddresses,
    /// What is listened on, as it was asked for.
    listeners: HashMap<ListenerId, Multiaddr>,
    interfaces: Interfaces,
    next_look: Option<Instant>,
    peers: Peers,
    book: AddressBook,
    redial: Redial,
    resolutions: Resolutions,
    multicast: Multicast,
    /// Dials of static peers by connection.
    target_dials: HashMap<ConnectionId, TargetId>,
    /// Dials of known peers.
    attempts: HashMap<PeerId, Attempt>,
    publisher: Publisher,
    lookups: HashMap<kad::QueryId, Lookup>,
    next_sweep: Instant,
}

impl Task {
    pub(crate) fn new(
        swarm: Swarm<Behaviour>,
        config: NetworkConfig,
        commands: mpsc::Receiver<Command>,
        announced: Arc<Announced>,
        listening: ListenAddresses,
    ) -> Self {
        let now = Instant::now();
        let publisher = Publisher::new(config.provider_ttl, now);
        let mut redial = Redial::default();
        for address in &config.peers {
            redial.add_static(address.clone(), now);
        }
        let interfaces = Interfaces::new(config.interfaces.clone());
        Self {
            swarm,
            config,
            commands,
            listening,
            listeners: HashMap::new(),
            interfaces,
            next_look: None,
            peers: Peers::new(announced),
            book: AddressBook::default(),
            redial,
            resolutions: Resolutions::default(),
            multicast: Multicast::default(),
            target_dials: HashMap::new(),
            attempts: HashMap::new(),
            publisher,
            lookups: HashMap::new(),
            next_sweep: now + SWEEP_INTERVAL,
        }
    }

    /// Runs until a shutdown is asked for or every handle is gone.
    pub(crate) async fn run(mut self) {
        loop {
            self.on_time(Instant::now());
            let deadline = tokio::time::Instant::from_std(self.deadline());
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_swarm_event(event),
                command = self.commands.recv() => match command {
                    Some(Command::Shutdown) | None => break,
                    Some(command) => self.on_command(command),
                },
                (resolution, resolved) = self.resolutions.next() => self.on_resolved(resolution, resolved),
                () = tokio::time::sleep_until(deadline) => {}
            }
        }
        self.close().await;
    }

    /// Does what is due.
    fn on_time(&mut self, now: Instant) {
        self.peers.announce_overdue(now);
        self.redial_due(now);
        self.fall_back_due(now);
        self.publish_due(now);
        self.resume_multicast(now);
        self.follow_interfaces(now);
        self.answer_overdue_lookups(now);
        if self.next_sweep <= now {
            self.next_sweep = now + SWEEP_INTERVAL;
            if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() {
                kad.kad().store_mut().remove_expired(now);
            }
        }
    }

    fn deadline(&self) -> Instant {
        let fallback = self.attempts.values().filter_map(|attempt| attempt.fall_back_at).min();
        let lookup = self.lookups.values().map(|lookup| lookup.deadline).min();
        let publish = self.config.dht.then(|| self.publisher.deadline());
        let own = [self.peers.deadline(), self.redial.deadline(), self.multicast.resume_at, self.next_look];
        let first = own.into_iter().chain([fallback, lookup, publish]).flatten();
        first.fold(self.next_sweep, Instant::min)
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Open { peer, reply } => self.open(peer, reply),
            Command::Ban { peer, duration, done } => {
                self.ban(peer, duration);
                // Whoever asked may have gone.
                let _ = done.send(());
            }
            Command::Advertise { key, reply } => {
                let _ = reply.send(self.advertise(key));
            }
            Command::Withdraw { key, reply } => {
                self.withdraw(key);
                let _ = reply.send(Ok(()));
            }
            Command::Find { key, limit, reply } => self.find(key, limit, reply),
            Command::SetPeers { peers } => {
                // Due on the way to the next event.
                self.redial.set_static(&peers, Instant::now());
                self.config.peers = peers;
            }
            Command::Respond { reply } => {
                // Whoever asked may have gone.
                let _ = reply.send(());
            }
            Command::Shutdown => {}
        }
    }

    fn ban(&mut self, peer: PeerId, duration: Duration) {
        let now = Instant::now();
        // A time beyond what the clock can hold is as good as a year.
        let until = now.checked_add(duration).unwrap_or(now + Duration::from_secs(365 * 24 * 3600));
        tracing::info!(%peer, seconds = duration.as_secs(), "peer banned");
        let behaviour = self.swarm.behaviour_mut();
        behaviour.access.ban(peer, until, now);
        if let Some(kad) = behaviour.kad.as_mut() {
            kad.kad().remove_peer(&peer);
        }
        // Fails when it is not connected, which is what is wanted.
        let _ = self.swarm.disconnect_peer_id(peer);
        self.fail_attempt(peer, "it is banned for a while");
    }

    /// Closes everything in order: nobody new, then those who wait, then the connections.
    async fn close(mut self) {
        self.commands.close();
        self.stop_listening();
        for peer in self.attempts.keys().copied().collect::<Vec<_>>() {
            self.fail_attempt(peer, "the network is being shut down");
        }
        self.lookups.clear();
        for peer in self.swarm.connected_peers().copied().collect::<Vec<_>>() {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let closed = tokio::time::timeout(CLOSE_GRACE, async {
            while self.peers.len() > 0 {
                let event = self.swarm.select_next_some().await;
                self.on_swarm_event(event);
            }
        });
        if closed.await.is_err() {
            tracing::debug!(peers = self.peers.len(), "connections left open at shutdown are dropped");
        }
    }
}
