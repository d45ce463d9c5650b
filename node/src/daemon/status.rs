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
    network: Network,
    store: BlobStore,
    max_store_bytes: Option<u64>,
    /// The live store, and where it is when the owner wants it offered.
    nix: (NixStore, Option<PathBuf>),
    origins: Origins,
    engine: FetchEngine,
    metrics: Metrics,
    started: Instant,
    ready: AtomicBool,
    reloader: Reloader,
}

impl StatusReporter {
    pub(super) fn new(
        network: Network,
        store: BlobStore,
        max_store_bytes: Option<u64>,
        nix: (NixStore, Option<PathBuf>),
        origins: Origins,
        engine: FetchEngine,
        metrics: Metrics,
        reloader: Reloader,
    ) -> Self {
        let started = Instant::now();
        let ready = AtomicBool::new(false);
        Self { network, store, max_store_bytes, nix, origins, engine, metrics, started, ready, reloader }
    }

    pub(super) fn reloader(&self) -> &Reloader {
        &self.reloader
    }

    fn live_store(&self) -> Option<LiveStoreStatus> {
        let (nix, root) = (&self.nix.0, self.nix.1.as_ref()?);
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
        self.reloader.reload().await
    }

    async fn status(&self) -> Status {
        let usage = self.store.usage();
        let origins = self.origins.health().into_iter().map(|origin| OriginStatus {
            url: origin.url,
            healthy: origin.healthy,
            last_error: origin.last_error,
        });
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            peer_id: self.network.local_peer_id().to_string(),
            uptime_seconds: self.started.elapsed().as_secs(),
            listen: self.network.listen_addrs().iter().map(ToString::to_string).collect(),
            peers: self.network.peers().iter().map(peer_status).collect(),
            store: StoreStatus { bytes: usage.bytes, max_bytes: self.max_store_bytes, blobs: usage.blobs },
            nix_store: self.live_store(),
            origins: origins.collect(),
            transfers: self.engine.transfers().iter().map(|transfer| transfer_status(transfer)).collect(),
            totals: Totals {
                received_origin_bytes: self.metrics.received(Source::origin).get(),
                received_peer_bytes: self.metrics.received(Source::peer).get(),
                served_client_bytes: self.metrics.served(Sink::client).get(),
                served_peer_bytes: self.metrics.served(Sink::peer).get(),
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
