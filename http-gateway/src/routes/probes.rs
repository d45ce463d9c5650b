//! Small pages: what kind of cache this is, and how the node does.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use prometheus_client::encoding::text::encode;

use super::{App, Connection};
use crate::Status;
use crate::answer::Refusal;

const NO_STORE: (HeaderName, HeaderValue) = (CACHE_CONTROL, HeaderValue::from_static("no-store"));

/// `/nix-cache-info`.
pub(super) async fn cache_info(State(app): State<Arc<App>>) -> ([(HeaderName, HeaderValue); 1], Bytes) {
    let kind = HeaderValue::from_static("text/x-nix-cache-info");
    ([(CONTENT_TYPE, kind)], app.cache_info.clone())
}

/// `/healthz`: the process answers.
pub(super) async fn healthz() -> Response {
    ([NO_STORE], "ok\n").into_response()
}

/// `/readyz`: the node can serve. A probe, not a read of content: 503 is what its callers expect of "not yet".
pub(super) async fn readyz(State(app): State<Arc<App>>) -> Response {
    if app.status.ready() {
        ([NO_STORE], "ready\n").into_response()
    } else {
        ([NO_STORE], Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "not ready")).into_response()
    }
}

/// `/metrics`: OpenMetrics text. Every label is a word of the program's own, so that any machine may read it.
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Result<Response, Refusal> {
    let mut text = String::new();
    encode(&mut text, &app.registry).map_err(|error| {
        tracing::error!(%error, "cannot write the metrics");
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error")
    })?;
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    Ok(([(CONTENT_TYPE, kind), NO_STORE], text).into_response())
}

/// `/api/v1/status`: [`Status`] as JSON, as far as the machine of the client may know it.
pub(super) async fn status(
    State(app): State<Arc<App>>,
    connection: Option<Extension<Arc<Connection>>>,
) -> ([(HeaderName, HeaderValue); 1], Json<Status>) {
    let status = app.status.status().await;
    let is_ours = connection.is_some_and(|connection| connection.is_loopback);
    ([NO_STORE], Json(if is_ours { status } else { status.for_other_machines() }))
}
