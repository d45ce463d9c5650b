//! The routes, and what every request goes through.

mod artifact;
mod blobs;
mod guard;
mod nar;
mod narinfo;
mod page;
mod probes;
mod receive;
mod reload;
mod side_files;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::handler::Handler;
use axum::http::StatusCode;
use axum::http::header::HOST;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post, put};
use bytes::Bytes;
use prometheus_client::registry::Registry;
use tokio::sync::Semaphore;
use tracing::Instrument;

use crate::access::AccessControl;
use crate::answer::Refusal;
use crate::body::{Stopwatch, Timed};
use crate::metrics::GatewayMetrics;
use crate::{ArtifactSource, GatewayConfig, NodeStatus};

/// Status pages that are kept up to date at once.
const MAX_WATCHERS: usize = 32;

/// What handlers share.
pub(crate) struct App {
    source: Arc<dyn ArtifactSource>,
    status: Arc<dyn NodeStatus>,
    registry: Arc<Registry>,
    metrics: GatewayMetrics,
    cache_info: Bytes,
    store_dir: String,
    access: AccessControl,
    answer_timeout: Duration,
    source_stall_timeout: Duration,
    client_stall_timeout: Duration,
    requests: AtomicU64,
    /// Places for open status pages.
    watchers: Arc<Semaphore>,
}

/// What a handler may know and say about the connection that its request came in on.
pub(crate) struct Connection {
    /// The client runs on this machine.
    pub(crate) is_loopback: bool,
    /// What its client may read.
    pub(crate) source: Arc<dyn ArtifactSource>,
    /// Set by a handler that answers before it has read all of the request's body: the connection then takes the
    /// rest for a short while, so that the client reads the answer instead of a reset.
    pub(crate) linger: AtomicBool,
    /// Whether any request has arrived on it.
    pub(crate) used: AtomicBool,
}

impl Connection {
    /// Of a client with this address.
    pub(crate) fn new(app: &App, client: IpAddr) -> Self {
        let client = client.to_canonical();
        let is_loopback = client.is_loopback();
        let seen = if is_loopback { None } else { app.source.seen_from(client) };
        let source = seen.unwrap_or_else(|| Arc::clone(&app.source));
        Self { is_loopback, source, linger: AtomicBool::new(false), used: AtomicBool::new(false) }
    }
}

impl App {
    pub(crate) fn new(
        config: &GatewayConfig,
        source: Arc<dyn ArtifactSource>,
        status: Arc<dyn NodeStatus>,
        registry: Arc<Registry>,
        metrics: GatewayMetrics,
    ) -> Self {
        let GatewayConfig { store_dir, priority, .. } = config;
        let cache_info = format!("StoreDir: {store_dir}\nWantMassQuery: 1\nPriority: {priority}\n");
        Self {
            source,
            status,
            registry,
            metrics,
            cache_info: Bytes::from(cache_info),
            store_dir: store_dir.clone(),
            access: config.access.clone(),
            answer_timeout: config.answer_timeout,
            source_stall_timeout: config.source_stall_timeout,
            client_stall_timeout: config.client_stall_timeout,
            requests: AtomicU64::new(0),
            watchers: Arc::new(Semaphore::new(MAX_WATCHERS)),
        }
    }
}

/// The label of requests for paths that mean nothing here.
pub(crate) const ROUTE_OTHER: &str = "other";

/// What monitoring asks for all the time: its answers would drown all others in the log.
const POLLED: [&str; 4] = ["/metrics", "/healthz", "/readyz", "/api/v1/status"];

/// All routes. Labels of metrics are the templates, so their number is fixed.
pub(crate) fn router(app: Arc<App>) -> Router {
    let route = |label, methods: MethodRouter<Arc<App>>| {
        methods.fallback(wrong_method).layer(from_fn_with_state((Arc::clone(&app), label), observe))
    };
    let side_file = || get(side_files::get).head(side_files::get).put(side_files::put);
    // A path parameter is a whole segment: the handlers of `/{file}` take what ends in `.narinfo` or `.ls`.
    Router::new()
        .route("/nix-cache-info", route("/nix-cache-info", get(probes::cache_info)))
        .route("/{file}", route("/{hash}.narinfo", get(narinfo::get).head(narinfo::get).put(narinfo::put)))
        .route("/nar/{file}", route("/nar/{name}.nar", get(nar::get).head(nar::head).put(nar::put)))
        .route("/log/{name}", route("/log/{name}", side_file()))
        .route("/realisations/{name}", route("/realisations/{name}", side_file()))
        .route("/build-trace-v2/{drv}/{output}", route("/build-trace-v2/{drv}/{output}", side_file()))
        .route("/debuginfo/{name}", route("/debuginfo/{name}", side_file()))
        .route(
            "/blobs/{algorithm}/{hex}",
            route("/blobs/{algorithm}/{hex}", get(blobs::get).head(blobs::head).put(blobs::put)),
        )
        .route(
            "/api/v1/pins/{algorithm}/{hex}",
            route("/api/v1/pins/{algorithm}/{hex}", put(blobs::pin).delete(blobs::pin)),
        )
        .route("/", route("/", get(page::index)))
        .route("/page/page.css", route("/page", get(page::style)))
        .route("/page/page.js", route("/page", get(page::script)))
        .route("/api/v1/status/events", route("/api/v1/status/events", get(page::events)))
        .route("/api/v1/reload", route("/api/v1/reload", post(reload::reload)))
        .route("/healthz", route("/healthz", get(probes::healthz)))
        .route("/readyz", route("/readyz", get(probes::readyz)))
        .route("/metrics", route("/metrics", get(probes::metrics)))
        .route("/api/v1/status", route("/api/v1/status", get(probes::status)))
        .fallback(unknown.layer(from_fn_with_state((Arc::clone(&app), ROUTE_OTHER), observe)))
        .with_state(app)
}

async fn wrong_method() -> Refusal {
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed")
}

async fn unknown() -> Refusal {
    Refusal::NOT_FOUND
}

/// Gives every request an id in the log, and counts and times its answer.
async fn observe(
    State((app, route)): State<(Arc<App>, &'static str)>,
    request: Request,
    next: Next,
) -> Response {
    let id = app.requests.fetch_add(1, Ordering::Relaxed);
    let span =
        tracing::info_span!("request", id, method = %request.method(), path = %Shown(request.uri().path()));
    let connection = request.extensions().get::<Arc<Connection>>().cloned();
    if let Some(connection) = &connection {
        connection.used.store(true, Ordering::Release);
    }
    let metrics = app.metrics.clone();
    let mut stopwatch = Stopwatch { route, metrics, started: Instant::now(), answered: false };
    let response = match guard::require_own_host(&app, connection.as_deref(), &request) {
        Ok(()) => next.run(request).instrument(span.clone()).await,
        Err(refusal) => {
            span.in_scope(
                || tracing::warn!(host = %Shown(host_of(&request)), reason = refusal.reason, "refused"),
            );
            refusal.into_response()
        }
    };

    let status = response.status();
    app.metrics.answered(route, status);
    stopwatch.answered = true;
    span.in_scope(|| {
        let (status, elapsed) = (status.as_u16(), stopwatch.started.elapsed());
        if POLLED.contains(&route) {
            tracing::trace!(status, ?elapsed, "answered");
        } else {
            tracing::debug!(status, ?elapsed, "answered");
        }
    });
    response.map(|body| Body::new(Timed { body, _stopwatch: stopwatch }))
}

fn host_of(request: &Request) -> &str {
    let header = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    request.uri().host().or(header).unwrap_or_default()
}

/// A path as the log shows it: of bounded length. (A URI holds no control characters.)
struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Longer than every path that means something.
        const MAX_SHOWN_CHARS: usize = 160;
        match self.0.char_indices().nth(MAX_SHOWN_CHARS) {
            Some((end, _)) => write!(f, "{}...", &self.0[..end]),
            None => f.write_str(self.0),
        }
    }
}
