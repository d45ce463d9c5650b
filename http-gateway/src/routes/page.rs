//! The status page: three files that are part of the program, and the events that keep it up to date.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::{App, Connection};
use crate::Status;
use crate::answer::Refusal;

/// Nothing but its own files and events; no frame around it, no form, no inline script or style.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Time between two looks at the node.
const INTERVAL: Duration = Duration::from_millis(500);

/// `/`.
pub(super) async fn index() -> Response {
    file("text/html; charset=utf-8", include_str!("../page/index.html"))
}

/// `/page/page.css`.
pub(super) async fn style() -> Response {
    file("text/css; charset=utf-8", include_str!("../page/page.css"))
}

/// `/page/page.js`.
pub(super) async fn script() -> Response {
    file("text/javascript; charset=utf-8", include_str!("../page/page.js"))
}

fn file(kind: &'static str, text: &'static str) -> Response {
    let headers: [(HeaderName, HeaderValue); 5] = [
        (CONTENT_TYPE, HeaderValue::from_static(kind)),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        // The files belong to the version that runs.
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, text).into_response()
}

/// `/api/v1/status/events`: [`Status`] as server-sent events, one at first and one after each change.
pub(super) async fn events(
    State(app): State<Arc<App>>,
    connection: Option<Extension<Arc<Connection>>>,
) -> Result<Response, Refusal> {
    let Ok(permit) = Arc::clone(&app.watchers).try_acquire_owned() else {
        return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "too many status pages are open"));
    };
    let is_ours = connection.is_some_and(|connection| connection.is_loopback);
    let watcher = Watcher { app, is_ours, told: None, _permit: permit };
    let events = futures::stream::unfold(watcher, |mut watcher| async move {
        let event = watcher.next().await;
        Some((Ok::<_, Infallible>(event), watcher))
    });
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, Body::from_stream(events)).into_response())
}

/// One open page.
struct Watcher {
    app: Arc<App>,
    is_ours: bool,
    told: Option<Status>,
    _permit: OwnedSemaphorePermit,
}

impl Watcher {
    async fn next(&mut self) -> Bytes {
        loop {
            if self.told.is_some() {
                tokio::time::sleep(INTERVAL).await;
            }
            let status = self.app.status.status().await;
            let status = if self.is_ours { status } else { status.for_other_machines() };
            // The uptime changes each second, so a client that is gone is noticed as soon.
            if self.told.as_ref() != Some(&status) {
                let event = event(&status);
                self.told = Some(status);
                return event;
            }
        }
    }
}

/// JSON has no line breaks of its own, so an event is one line.
fn event(status: &Status) -> Bytes {
    match serde_json::to_string(status) {
        Ok(json) => Bytes::from(format!("data: {json}\n\n")),
        Err(error) => {
            tracing::error!(%error, "cannot write the status");
            Bytes::from_static(b":\n\n")
        }
    }
}
