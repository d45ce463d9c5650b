//! The daemon's own metrics; the gateway and the ban list register theirs in the same registry.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Where bytes came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Source {
    /// A central upstream; compressed bytes as they crossed the wire.
    #[allow(non_camel_case_types, reason = "label values are lower case")]
    origin,
    /// Another node; verified or not, as they crossed the wire.
    #[allow(non_camel_case_types, reason = "label values are lower case")]
    peer,
}

/// Whom bytes went to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Sink {
    /// An HTTP client of the gateway.
    #[allow(non_camel_case_types, reason = "label values are lower case")]
    client,
    /// Another node.
    #[allow(non_camel_case_types, reason = "label values are lower case")]
    peer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabel {
    source: Source,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SinkLabel {
    to: Sink,
}

/// Counters of bytes and of transfers; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    received: Family<SourceLabel, Counter>,
    served: Family<SinkLabel, Counter>,
    fetch_seconds: Arc<Histogram>,
}

impl Metrics {
    /// Registers `p2p_cache_received_bytes_total`, `p2p_cache_served_bytes_total` and `p2p_cache_fetch_seconds`.
    pub fn register(registry: &mut Registry) -> Self {
        let received = Family::<SourceLabel, Counter>::default();
        let served = Family::<SinkLabel, Counter>::default();
        // 5 ms to about 80 s.
        let fetch_seconds = Histogram::new(exponential_buckets(0.005, 2.0, 15));
        registry.register_with_unit(
            "p2p_cache_received",
            "Bytes received for blobs and narinfos, as they crossed the wire",
            Unit::Bytes,
            received.clone(),
        );
        registry.register_with_unit(
            "p2p_cache_served",
            "Bytes of blobs and narinfos served",
            Unit::Bytes,
            served.clone(),
        );
        registry.register_with_unit(
            "p2p_cache_fetch",
            "Time from the first request for a blob until the whole of it was verified",
            Unit::Seconds,
            fetch_seconds.clone(),
        );
        // A series that has not happened yet reads 0, not nothing.
        for source in [Source::origin, Source::peer] {
            let _ = received.get_or_create(&SourceLabel { source });
        }
        for to in [Sink::client, Sink::peer] {
            let _ = served.get_or_create(&SinkLabel { to });
        }
        Self { received, served, fetch_seconds: Arc::new(fetch_seconds) }
    }

    /// The counter of bytes received from `source`.
    pub fn received(&self, source: Source) -> Counter {
        self.received.get_or_create(&SourceLabel { source }).clone()
    }

    /// The counter of bytes served to `to`.
    pub fn served(&self, to: Sink) -> Counter {
        self.served.get_or_create(&SinkLabel { to }).clone()
    }

    /// A transfer ended with a verified blob after `elapsed`.
    pub fn fetched(&self, elapsed: Duration) {
        self.fetch_seconds.observe(elapsed.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;

    #[test]
    fn names_are_those_that_dashboards_rely_on_and_start_at_zero() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics.received(Source::origin).inc_by(7);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        assert!(text.contains("p2p_cache_received_bytes_total{source=\"origin\"} 7"), "{text}");
        assert!(text.contains("p2p_cache_received_bytes_total{source=\"peer\"} 0"), "{text}");
        assert!(text.contains("p2p_cache_served_bytes_total{to=\"client\"} 0"), "{text}");
        assert!(text.contains("p2p_cache_fetch_seconds_count 0"), "{text}");
    }
}
