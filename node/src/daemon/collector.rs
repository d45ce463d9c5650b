//! Gauges that are read when somebody asks for metrics.

use p2p_cache_discovery::{Network, Scope};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use crate::store::BlobStore;

/// `p2p_cache_peers{scope}`, `p2p_cache_store_bytes`, `p2p_cache_blobs`.
#[derive(Debug)]
pub(super) struct NodeCollector {
    network: Network,
    store: BlobStore,
}

impl NodeCollector {
    pub(super) fn new(network: Network, store: BlobStore) -> Self {
        Self { network, store }
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
