//! What `/readyz` and `/api/v1/status` tell about the node.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

/// Where the gateway learns how the node is.
#[async_trait]
pub trait NodeStatus: Send + Sync + 'static {
    /// Whether the node can serve: store open, listeners bound, not shutting down.
    fn ready(&self) -> bool;

    /// A snapshot for people and scripts on this machine. Others see [`Status::for_other_machines`] of it.
    async fn status(&self) -> Status;

    /// Reads the configuration again and applies what can be changed in a running node. Nothing is changed when any of
    /// it is faulty; the text then names every fault.
    async fn reload(&self) -> Result<Reloaded, String> {
        Err("this node does not read its configuration again".to_owned())
    }
}

/// The answer of `/api/v1/reload`: keys of settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// They have changed, and the change holds.
    pub applied: Vec<String>,
    /// They have changed since the start, and the change needs a restart.
    pub needs_restart: Vec<String>,
}

/// The answer of `/api/v1/status`. Counters are since the start of the process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// The node's libp2p peer id.
    pub peer_id: String,
    /// Whole seconds since the process began to serve.
    pub uptime_seconds: u64,
    /// Addresses this node listens on for peers, as multiaddrs.
    pub listen: Vec<String>,
    /// Connected peers.
    pub peers: Vec<PeerStatus>,
    /// The blob store.
    pub store: StoreStatus,
    /// The live Nix store, when the node is to offer one; not told to other machines.
    #[serde(default)]
    pub nix_store: Option<LiveStoreStatus>,
    /// Origins in order of priority.
    pub origins: Vec<OriginStatus>,
    /// Fetches under way; none is told to other machines.
    pub transfers: Vec<TransferStatus>,
    /// Bytes moved.
    pub totals: Totals,
}

impl Status {
    /// What may be told to other machines: counts, and nothing that names or measures a single blob. A size is as good
    /// as a name, and messages about origins name store paths.
    #[must_use]
    pub fn for_other_machines(mut self) -> Self {
        self.transfers.clear();
        self.nix_store = None;
        for origin in &mut self.origins {
            origin.last_error = None;
        }
        self
    }
}

/// One connected peer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its peer id.
    pub peer_id: String,
    /// The multiaddr it is reached at.
    pub address: String,
    /// `lan` or `public`.
    pub scope: String,
    /// Round trip in milliseconds, once measured.
    pub rtt_ms: Option<f64>,
    /// What it says it runs.
    pub agent: Option<String>,
}

/// The blob store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Bytes of blobs on disk.
    pub bytes: u64,
    /// The limit that eviction keeps, if there is one.
    pub max_bytes: Option<u64>,
    /// Number of blobs.
    pub blobs: u64,
}

/// The live Nix store of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveStoreStatus {
    /// The directory that has `nix/store` and `nix/var/nix/db` below it.
    pub root: String,
    /// Whether its database can be read now.
    pub readable: bool,
    /// What keeps it from being read.
    pub problem: Option<String>,
    /// Paths that are hashed and offered as far as the owner shares.
    pub offered: u64,
    /// Bytes of NARs of those.
    pub offered_bytes: u64,
    /// Paths that will be offered when they have been hashed.
    pub pending: u64,
    /// Paths whose bytes are not what Nix noted; never offered.
    pub bad: u64,
    /// Bytes hashed since the start of the process.
    pub hashed_bytes: u64,
}

/// One origin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginStatus {
    /// Its URL, without credentials.
    pub url: String,
    /// False while it is skipped because it failed a short while ago.
    pub healthy: bool,
    /// Its last failure, if it had one; not told to other machines.
    pub last_error: Option<String>,
}

/// One fetch under way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferStatus {
    /// The digest it is fetched by.
    pub digest: String,
    /// Length of the blob in bytes.
    pub size_bytes: u64,
    /// Bytes present so far.
    pub present_bytes: u64,
    /// Clients that wait for it.
    pub readers: u64,
    /// Who brought what of it.
    pub sources: Vec<SourceStatus>,
    /// The blob in pieces of equal length: for each the index in `sources` of the one that brought its last part, or
    /// nothing where nobody has brought any.
    pub strip: Vec<Option<u16>>,
}

/// A source of a fetch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// `origin`, `disk` for what an earlier fetch left, or a peer id.
    pub name: String,
    /// Bytes that came from it, some of them perhaps twice.
    pub bytes: u64,
}

/// Bytes moved since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Received from origins.
    pub received_origin_bytes: u64,
    /// Received from peers.
    pub received_peer_bytes: u64,
    /// Served to HTTP clients.
    pub served_client_bytes: u64,
    /// Served to peers.
    pub served_peer_bytes: u64,
}
