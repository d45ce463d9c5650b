//! What the gateway counts.

use std::time::Duration;

use axum::http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Counted in place of a status when the client was gone before an answer could begin.
const STATUS_CLIENT_GONE: u16 = 499;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    route: &'static str,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cause {
    cause: &'static str,
}

/// Who was at fault when a body broke off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The source failed, stalled or ended early.
    Source,
    /// The client went away or would not read; or the gateway was told to stop.
    Client,
}

/// Counters and histograms of the gateway. Labels are bounded: routes are templates, statuses those that the gateway
/// itself can send.
#[derive(Clone, Debug)]
pub struct GatewayMetrics {
    requests: Family<Answer, Counter>,
    duration: Family<Route, Histogram, Buckets>,
    broken_bodies: Family<Cause, Counter>,
    connections: Gauge,
    refused_connections: Counter,
    served_bytes: Counter,
}

/// 0.25 ms to about four minutes: a narinfo from memory up to a large NAR over a slow line.
#[derive(Clone, Debug)]
struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(exponential_buckets(0.000_25, 4.0, 11))
    }
}

impl GatewayMetrics {
    /// Registers `p2p_cache_requests_total{route,status}`, `p2p_cache_request_duration_seconds{route}` (to the last
    /// byte of the answer), `p2p_cache_broken_bodies_total{cause}`, `p2p_cache_http_connections` and
    /// `p2p_cache_refused_connections_total`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            duration: Family::new_with_constructor(Buckets),
            broken_bodies: Family::default(),
            connections: Gauge::default(),
            refused_connections: Counter::default(),
            served_bytes: Counter::default(),
        };
        registry.register(
            "p2p_cache_requests",
            "Answers by route and status; 499 when the client left before the answer began",
            metrics.requests.clone(),
        );
        registry.register_with_unit(
            "p2p_cache_request_duration",
            "Time from a request's head to the last byte of its answer",
            Unit::Seconds,
            metrics.duration.clone(),
        );
        registry.register(
            "p2p_cache_broken_bodies",
            "Answers that broke off in their body, by who caused it (source or client)",
            metrics.broken_bodies.clone(),
        );
        registry.register(
            "p2p_cache_http_connections",
            "Client connections open now",
            metrics.connections.clone(),
        );
        registry.register(
            "p2p_cache_refused_connections",
            "Client connections closed at once because too many were open",
            metrics.refused_connections.clone(),
        );
        // A series that has not happened yet reads 0, not nothing.
        for cause in ["source", "client"] {
            drop(metrics.broken_bodies.get_or_create(&Cause { cause }));
        }
        metrics
    }

    /// Counts the bytes served to clients (narinfos, NARs and blobs) in `counter`, which the caller registers as
    /// part of a family of its own. Without it they are counted but shown nowhere.
    #[must_use]
    pub fn with_served_bytes(self, counter: Counter) -> Self {
        Self { served_bytes: counter, ..self }
    }

    pub(crate) fn served_bytes(&self) -> &Counter {
        &self.served_bytes
    }

    pub(crate) fn answered(&self, route: &'static str, status: StatusCode) {
        self.requests.get_or_create(&Answer { route, status: status.as_u16() }).inc();
    }

    pub(crate) fn client_gone(&self, route: &'static str) {
        self.requests.get_or_create(&Answer { route, status: STATUS_CLIENT_GONE }).inc();
    }

    pub(crate) fn took(&self, route: &'static str, elapsed: Duration) {
        self.duration.get_or_create(&Route { route }).observe(elapsed.as_secs_f64());
    }

    pub(crate) fn body_broke(&self, broken: Broken) {
        let cause = match broken {
            Broken::Source => "source",
            Broken::Client => "client",
        };
        self.broken_bodies.get_or_create(&Cause { cause }).inc();
    }

    pub(crate) fn connection_opened(&self) {
        self.connections.inc();
    }

    pub(crate) fn connection_closed(&self) {
        self.connections.dec();
    }

    pub(crate) fn connection_refused(&self) {
        self.refused_connections.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::encoding::text::encode;

    #[test]
    fn names_are_those_that_dashboards_rely_on() {
        let mut registry = Registry::default();
        let metrics = GatewayMetrics::register(&mut registry);
        metrics.answered("/x", StatusCode::NOT_FOUND);
        metrics.took("/x", Duration::from_millis(1));
        metrics.body_broke(Broken::Source);
        metrics.connection_refused();
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "p2p_cache_requests_total{route=\"/x\",status=\"404\"} 1",
            "p2p_cache_request_duration_seconds_count{route=\"/x\"} 1",
            "p2p_cache_broken_bodies_total{cause=\"source\"} 1",
            "p2p_cache_http_connections 0",
            "p2p_cache_refused_connections_total 1",
        ] {
            assert!(text.contains(line), "{line} not in {text}");
        }
    }

    #[test]
    fn served_bytes_go_to_the_counter_of_the_caller() {
        let counter = Counter::default();
        let metrics = GatewayMetrics::register(&mut Registry::default()).with_served_bytes(counter.clone());
        metrics.served_bytes().inc_by(3);
        assert_eq!(counter.get(), 3);
    }
}
