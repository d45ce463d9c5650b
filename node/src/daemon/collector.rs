//! Gauges that are read when somebody asks for metrics.

use p2p_cache_discovery::{Network, Scope};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::nix_store::NixStore;
use crate::store::BlobStore;

/// `p2p_cache_peers{scope}`, `p2p_cache_store_bytes`, `p2p_cache_blobs`, `p2p_cache_live_paths{state}`.
#[derive(Debug)]
pub(super) struct NodeCollector {
    network: Network,
    store: BlobStore,
    nix: NixStore,
}

impl NodeCollector {
    pub(super) fn new(network: Network, store: BlobStore, nix: NixStore) -> Self {
        Self { network, store, nix }
    }
}

impl Collector for NodeCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let peers = self.network.peers();
        let lan = peers.iter().filter(|peer| peer.scope == Scope::Lan).count();
        let of_scope = |count: usize| ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
        let gauge = of_scope(0);
        let mut family =
            encoder.encode_descriptor("p2p_cache_peers", "Connected peers", None, gauge.metric_type())?;
        of_scope(lan).encode(family.encode_family(&[("scope", "lan")])?)?;
        of_scope(peers.len() - lan).encode(family.encode_family(&[("scope", "public")])?)?;

        let live = self.nix.usage().counts;
        let help = "Paths of the live Nix store that may be offered: offered, pending until they are hashed, or bad, \
                    since their bytes are wrong";
        let mut family =
            encoder.encode_descriptor("p2p_cache_live_paths", help, None, gauge.metric_type())?;
        for (state, count) in [("offered", live.offered), ("pending", live.pending), ("bad", live.bad)] {
            let gauge = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
            gauge.encode(family.encode_family(&[("state", state)])?)?;
        }

        let usage = self.store.usage();
        let bytes = ConstGauge::new(i64::try_from(usage.bytes).unwrap_or(i64::MAX));
        let blobs = ConstGauge::new(i64::try_from(usage.blobs).unwrap_or(i64::MAX));
        let help = "Bytes of committed blobs and their outboards";
        bytes.encode(encoder.encode_descriptor(
            "p2p_cache_store",
            help,
            Some(&Unit::Bytes),
            gauge.metric_type(),
        )?)?;
        blobs.encode(encoder.encode_descriptor(
            "p2p_cache_blobs",
            "Committed blobs",
            None,
            gauge.metric_type(),
        )?)
    }
}
