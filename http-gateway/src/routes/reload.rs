//! `POST /api/v1/reload`: the owner has changed the configuration.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, ORIGIN};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};

use super::{App, Connection};
use crate::answer::Refusal;

const NO_STORE: (HeaderName, HeaderValue) = (CACHE_CONTROL, HeaderValue::from_static("no-store"));

/// Only for programs on this machine: browsers tell the page that makes a request, and no page has a reason to make
/// this one.
pub(super) async fn reload(
    State(app): State<Arc<App>>,
    connection: Option<Extension<Arc<Connection>>>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let is_ours = connection.is_some_and(|connection| connection.is_loopback);
    if !is_ours || headers.contains_key(ORIGIN) {
        let reason = "only programs on the machine of the node may reload it";
        return Err(Refusal::new(StatusCode::FORBIDDEN, reason));
    }
    Ok(match app.status.reload().await {
        Ok(reloaded) => ([NO_STORE], Json(reloaded)).into_response(),
        Err(faults) => {
            let kind = HeaderValue::from_static("text/plain; charset=utf-8");
            let headers = [NO_STORE, (CONTENT_TYPE, kind)];
            (StatusCode::UNPROCESSABLE_ENTITY, headers, faults + "\n").into_response()
        }
    })
}
