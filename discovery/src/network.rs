//! The handle of a running swarm.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use libp2p::{Multiaddr, PeerId, identity::PublicKey};
use p2p_cache_protocol::claim::NodeKey;
use tokio::{
    sync::{Mutex, broadcast, mpsc, oneshot},
    task::JoinHandle,
};

use crate::{
    behaviour::Behaviour,
    config::NetworkConfig,
    directory::{MAX_PROVIDERS, ProviderDirectory, ProviderKey},
    error::{DirectoryError, NetworkError},
    identity::Identity,
    peers::{Announced, PeerEvent, PeerInfo},
    scope::Scope,
    streams::{INCOMING_QUEUE_STREAMS, Incoming, PeerStream},
    task::{Command, Task},
    transport::build_swarm,
};

/// Requests of handles that may wait for the task; more wait in their callers.
const COMMAND_QUEUE: usize = 1024;

/// Addresses listened on, shared between task and handles.
pub(crate) type ListenAddresses = Arc<RwLock<Vec<Multiaddr>>>;

/// Handle of a swarm: cheap to clone. The swarm ends with [`Network::shutdown`], or when every handle is gone.
#[derive(Debug, Clone)]
pub struct Network {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    local: PeerId,
    commands: mpsc::Sender<Command>,
    announced: Arc<Announced>,
    listening: ListenAddresses,
    open_timeout: Duration,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Network {
    /// Starts a swarm; resolves when all listen addresses are bound.
    ///
    /// # Errors
    /// A bad setting, a listen address that cannot be bound, or transports that cannot be built.
    pub async fn start(
        config: NetworkConfig,
        identity: &Identity,
    ) -> Result<(Self, IncomingStreams), NetworkError> {
        config.check()?;
        let (incoming, incoming_receiver) = mpsc::channel(INCOMING_QUEUE_STREAMS);
        let (commands, command_receiver) = mpsc::channel(COMMAND_QUEUE);
        let swarm = build_swarm(&config, identity, Behaviour::new(&config, identity, incoming))?;
        let announced = Announced::new();
        let listening = ListenAddresses::default();
        let open_timeout = config.open_timeout;
        let mut task = Task::new(swarm, config, command_receiver, announced.clone(), listening.clone());
        task.listen().await?;
        let network = Self {
            inner: Arc::new(Inner {
                local: identity.peer_id(),
                commands,
                announced: announced.clone(),
                listening,
                open_timeout,
                task: Mutex::new(Some(tokio::spawn(task.run()))),
            }),
        };
        Ok((network, IncomingStreams { receiver: incoming_receiver, announced }))
    }

    /// This node's name.
    pub fn local_peer_id(&self) -> PeerId {
        self.inner.local
    }

    /// The addresses listened on right now, one for each interface where the configuration says "any", without
    /// `/p2p`.
    pub fn listen_addrs(&self) -> Vec<Multiaddr> {
        self.inner.listening.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The connected peers that have identified themselves (or have failed to for three seconds).
    pub fn peers(&self) -> Vec<PeerInfo> {
        self.inner.announced.all()
    }

    /// What is known of one connected peer.
    pub fn peer(&self, peer: &PeerId) -> Option<PeerInfo> {
        self.inner.announced.get(peer)
    }

    /// Whether the task behind this handle answers. It does as long as it runs, however long that takes under load;
    /// a caller with no time sets its own limit.
    pub async fn responds(&self) -> bool {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Respond { reply }).await.is_ok() && answer.await.is_ok()
    }

    /// Other static peers from now on. One that is left out is not dialled again; its connection stays while it is used.
    ///
    /// # Errors
    /// Addresses that are none of a peer, or too many of them.
    pub async fn set_static_peers(&self, peers: Vec<Multiaddr>) -> Result<(), NetworkError> {
        NetworkConfig { peers: peers.clone(), ..NetworkConfig::default() }.check()?;
        self.send(Command::SetPeers { peers }).await.map_err(|Closed| NetworkError::Closed)
    }

    /// Arrivals and departures from now on. A subscriber that lags by more than 1024 events misses some and is
    /// told so.
    pub fn subscribe(&self) -> broadcast::Receiver<PeerEvent> {
        self.inner.announced.subscribe()
    }

    /// Opens a byte stream with a peer; one that is not connected is dialled at its known addresses, TCP first.
    /// Any number of calls may run at once, each gets its own stream or its own error.
    ///
    /// # Errors
    /// Each within [`NetworkConfig::open_timeout`] (5 s).
    pub async fn open_stream(&self, peer: PeerId) -> Result<PeerStream, NetworkError> {
        let after = self.inner.open_timeout;
        let opened = async {
            match self.try_open(peer).await {
                // A connection may break, or be the dead one of a peer that has just restarted: there may be
                // another one, or one to be made.
                Err(NetworkError::Broken { .. }) => self.try_open(peer).await,
                other => other,
            }
        };
        tokio::time::timeout(after, opened).await.unwrap_or(Err(NetworkError::Timeout { peer, after }))
    }

    /// Closes all connections with a peer and refuses new ones, both ways, for this long. The table is bounded
    /// (4096 peers): at the bound the ban that would end first ends at once.
    pub async fn ban(&self, peer: PeerId, duration: Duration) {
        let (done, finished) = oneshot::channel();
        if self.send(Command::Ban { peer, duration, done }).await.is_ok() {
            // Fails only when the swarm has ended, which disconnects too.
            let _ = finished.await;
        }
    }

    /// The ed25519 key that is inlined in a peer id, if it is such a one.
    pub fn node_key_of(peer: &PeerId) -> Option<NodeKey> {
        /// Multihash code of "the hash is the input itself".
        const IDENTITY_HASH: u64 = 0;
        let hash = peer.as_ref();
        if hash.code() != IDENTITY_HASH {
            return None;
        }
        let key = PublicKey::try_decode_protobuf(hash.digest()).ok()?.try_into_ed25519().ok()?;
        Some(NodeKey(key.to_bytes()))
    }

    /// Closes listeners and connections and joins the task. May be called more than once; each call returns
    /// when all is closed.
    pub async fn shutdown(&self) {
        // Not sent when the task has ended already.
        let _ = self.send(Command::Shutdown).await;
        let mut task = self.inner.task.lock().await;
        if let Some(running) = task.as_mut() {
            if let Err(error) = running.await {
                tracing::error!(%error, "the network task did not end by itself");
            }
            *task = None;
        }
    }

    async fn try_open(&self, peer: PeerId) -> Result<PeerStream, NetworkError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Open { peer, reply }).await.map_err(|Closed| NetworkError::Closed)?;
        let reason = "the connection was closed".to_owned();
        answer.await.unwrap_or(Err(NetworkError::Broken { peer, reason }))
    }

    async fn send(&self, command: Command) -> Result<(), Closed> {
        self.inner.commands.send(command).await.map_err(|_| Closed)
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, DirectoryError>>) -> Command,
    ) -> Result<T, DirectoryError> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply)).await.map_err(|Closed| DirectoryError::Closed)?;
        answer.await.unwrap_or(Err(DirectoryError::Closed))
    }
}

/// The task has ended.
struct Closed;

#[async_trait]
impl ProviderDirectory for Network {
    async fn advertise(&self, key: ProviderKey) -> Result<(), DirectoryError> {
        self.ask(|reply| Command::Advertise { key, reply }).await
    }

    async fn withdraw(&self, key: ProviderKey) -> Result<(), DirectoryError> {
        self.ask(|reply| Command::Withdraw { key, reply }).await
    }

    async fn find_providers(&self, key: ProviderKey, limit: usize) -> Result<Vec<PeerId>, DirectoryError> {
        let limit = limit.min(MAX_PROVIDERS);
        self.ask(|reply| Command::Find { key, limit, reply }).await
    }
}

/// The streams that peers open. While nobody takes them they wait, at most 256 a connection; beyond that, and
/// when this is dropped, they are refused.
#[derive(Debug)]
pub struct IncomingStreams {
    receiver: mpsc::Receiver<Incoming>,
    announced: Arc<Announced>,
}

impl IncomingStreams {
    /// The next stream and who opened it; `None` when the network has been shut down.
    pub async fn next(&mut self) -> Option<(PeerInfo, PeerStream)> {
        let Incoming { stream, remote } = self.receiver.recv().await?;
        let peer = stream.peer();
        let mut info = self.announced.get(&peer).unwrap_or_else(|| PeerInfo {
            peer,
            scope: Scope::of(&remote),
            rtt: None,
            address: remote,
            speaks_p2p_cache: true,
            agent: None,
        });
        // It has just spoken it, whatever it may have told.
        info.speaks_p2p_cache = true;
        Some((info, stream))
    }
}
