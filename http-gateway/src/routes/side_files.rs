//! `/{hash}.ls`, `/log/...`, `/realisations/...`, `/build-trace-v2/...` and `/debuginfo/...`.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use axum::http::{Method, StatusCode, Uri};
use axum::response::Response;
use bytes::Bytes;
use p2p_cache_protocol::StoreHash;

use super::receive::{Receiving, encoding, kept};
use super::{App, Connection};
use crate::answer::{Access, Refusal, refuse, within};
use crate::upload::{MAX_SIDE_FILE_BYTES, SideFile, SideFileName, Uploads};

/// What an uploaded side file may be compressed with.
const ENCODINGS: [&str; 5] = ["gzip", "br", "zstd", "xz", "bzip2"];

/// GET and HEAD of what is in a NAR.
pub(super) async fn listing(
    app: &App,
    client: &Connection,
    method: &Method,
    hash: StoreHash,
) -> Result<Response, Refusal> {
    let bytes = within(app.answer_timeout, client.source.listing(hash)).await;
    let bytes = bytes.map_err(|error| refuse(&error, Access::Read))?;
    Ok(answer(app, method, "application/json", bytes))
}

/// PUT of what is in a NAR: taken and dropped, since it is made from the NAR itself whenever it is asked for.
pub(super) async fn put_listing(app: &App, request: Request) -> Response {
    let (receiving, parts, upload) = Receiving::begin(app, request);
    let result = match receiving.admit(app, &parts.headers) {
        Ok(_) => receiving.discard(upload).await,
        Err(refusal) => Err(refusal),
    };
    receiving.answer(result.map(|()| StatusCode::OK))
}

pub(super) async fn get(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Arc<Connection>>,
    method: Method,
    uri: Uri,
) -> Result<Response, Refusal> {
    let name = name_of(&uri)?;
    let file = within(app.answer_timeout, client.source.side_file(&name)).await;
    let file = file.map_err(|error| refuse(&error, Access::Read))?;
    let mut response = answer(&app, &method, name.content_type(), file.bytes);
    if let Some(encoding) = file.encoding.and_then(|encoding| HeaderValue::try_from(encoding).ok()) {
        response.headers_mut().insert(CONTENT_ENCODING, encoding);
    }
    Ok(response)
}

pub(super) async fn put(State(app): State<Arc<App>>, request: Request) -> Response {
    let (receiving, parts, upload) = Receiving::begin(&app, request);
    let result = async {
        receiving.admit(&app, &parts.headers)?;
        let (name, uploads) = (name_of(&parts.uri)?, taking(&app)?);
        let encoding = known_encoding(&parts.headers)?;
        let bytes = receiving.read(upload, MAX_SIDE_FILE_BYTES).await?;
        let stored = uploads.put_side_file(name, SideFile { bytes, encoding }).await;
        stored.map(kept).map_err(|error| receiving.failed(&error))
    };
    let result = result.await;
    receiving.answer(result)
}

/// Where uploads go, if anywhere.
pub(super) fn taking(app: &App) -> Result<Arc<dyn Uploads>, Refusal> {
    app.source
        .uploads()
        .ok_or(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this node takes no uploads of caches"))
}

fn known_encoding(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(given) = encoding(headers) else { return Ok(None) };
    let known = ENCODINGS.iter().find(|known| given.as_bytes().eq_ignore_ascii_case(known.as_bytes()));
    let unknown = Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unknown Content-Encoding");
    known.map(|known| Some((*known).to_owned())).ok_or(unknown)
}

/// Percent-encoded names are those of other tools: Nix sends `!` and `:` as they are, others do not.
fn name_of(uri: &Uri) -> Result<SideFileName, Refusal> {
    let path = uri.path().replace("%21", "!").replace("%3A", ":").replace("%3a", ":");
    SideFileName::parse(path.trim_start_matches('/')).ok_or(Refusal::NOT_FOUND)
}

fn answer(app: &App, method: &Method, kind: &'static str, bytes: Bytes) -> Response {
    let length = bytes.len() as u64;
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        app.metrics.served_bytes().inc_by(length);
        Body::from(bytes)
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    response
}
