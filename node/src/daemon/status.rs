//! What the node says of itself.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use async_trait::async_trait;
use p2p_cache_discovery::{Network, PeerInfo, Scope};
use p2p_cache_http_gateway::{
    LiveStoreStatus, NodeStatus, OriginStatus, PeerStatus, Reloaded, SourceStatus, Status, StoreStatus,
    Totals, TransferStatus,
};

use super::reload::Reloader;
use crate::fetch::{Contributor, FetchEngine, Transfer};
use crate::metrics::{Metrics, Sink, Source};
use crate::nix_store::{LiveUsage, NixStore};
use crate::origin::Origins;
use crate::store::BlobStore;

/// Answers `/readyz` and `/api/v1/status`.
pub(super) struct StatusReporter {
    parts: Parts,
    started: Instant,
    ready: AtomicBool,
}

/// What there is to tell of, and what takes another configuration.
pub(super) struct Parts {
    pub(super) network: Network,
    pub(super) store: BlobStore,
    pub(super) max_store_bytes: Option<u64>,
    pub(super) nix: NixStore,
    /// Where the live store is, when the owner wants it offered.
    pub(super) nix_root: Option<PathBuf>,
    pub(super) origins: Origins,
    pub(super) engine: FetchEngine,
    pub(super) metrics: Metrics,
    pub(super) reloader: Reloader,
}

impl StatusReporter {
    pub(super) fn new(parts: Parts) -> Self {
        Self { parts, started: Instant::now(), ready: AtomicBool::new(false) }
    }

    fn live_store(&self) -> Option<LiveStoreStatus> {
        let (nix, root) = (&self.parts.nix, self.parts.nix_root.as_ref()?);
        let LiveUsage { complaint, readable, counts } = nix.usage();
        let unknown = || "it is not open: the log of the node says why".to_owned();
        Some(LiveStoreStatus {
            root: root.display().to_string(),
            readable,
            problem: (!readable).then(|| complaint.unwrap_or_else(unknown)),
            offered: counts.offered,
            offered_bytes: counts.offered_bytes,
            pending: counts.pending,
            bad: counts.bad,
            hashed_bytes: nix.hashed_bytes().get(),
        })
    }

    pub(super) fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }
}

#[async_trait]
impl NodeStatus for StatusReporter {
    fn ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    async fn reload(&self) -> Result<Reloaded, String> {
        self.parts.reloader.reload().await
    }

    async fn status(&self) -> Status {
        let usage = self.parts.store.usage();
        let origins = self.parts.origins.health().into_iter().map(|origin| OriginStatus {
            url: origin.url,
            healthy: origin.healthy,
            last_error: origin.last_error,
        });
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            peer_id: self.parts.network.local_peer_id().to_string(),
            uptime_seconds: self.started.elapsed().as_secs(),
            listen: self.parts.network.listen_addrs().iter().map(ToString::to_string).collect(),
            peers: self.parts.network.peers().iter().map(peer_status).collect(),
            store: StoreStatus {
                bytes: usage.bytes,
                max_bytes: self.parts.max_store_bytes,
                blobs: usage.blobs,
            },
            nix_store: self.live_store(),
            origins: origins.collect(),
            transfers: self
                .parts
                .engine
                .transfers()
                .iter()
                .map(|transfer| transfer_status(transfer))
                .collect(),
            totals: Totals {
                received_origin_bytes: self.parts.metrics.received(Source::origin).get(),
                received_peer_bytes: self.parts.metrics.received(Source::peer).get(),
                served_client_bytes: self.parts.metrics.served(Sink::client).get(),
                served_peer_bytes: self.parts.metrics.served(Sink::peer).get(),
            },
        }
    }
}

fn peer_status(info: &PeerInfo) -> PeerStatus {
    let scope = match info.scope {
        Scope::Lan => "lan",
        Scope::Public => "public",
    };
    PeerStatus {
        peer_id: info.peer.to_string(),
        address: info.address.to_string(),
        scope: scope.to_owned(),
        rtt_ms: info.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
        agent: info.agent.clone(),
    }
}

fn transfer_status(transfer: &Transfer) -> TransferStatus {
    let source = |(contributor, bytes): &(Contributor, u64)| SourceStatus {
        name: match contributor {
            Contributor::Disk => "disk".to_owned(),
            Contributor::Origin => "origin".to_owned(),
            Contributor::Peer(peer) => peer.to_string(),
        },
        bytes: *bytes,
    };
    let (sources, strip) = transfer.with_provenance(|provenance| {
        (provenance.contributors().iter().map(source).collect(), provenance.pieces().to_vec())
    });
    TransferStatus {
        digest: transfer.digest().to_string(),
        size_bytes: transfer.size(),
        present_bytes: transfer.arrived_bytes(),
        readers: transfer.readers() as u64,
        sources,
        strip,
    }
}
