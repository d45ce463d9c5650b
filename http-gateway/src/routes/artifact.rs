//! GET and HEAD of immutable bytes with a digest: NARs and blobs alike.

use std::ops::Range;
use std::sync::Arc;

use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, RANGE,
};
use axum::response::{AppendHeaders, IntoResponse, Response};
use p2p_cache_protocol::{Digest, Sha256Digest, StoreHash};

use super::{App, Connection};
use crate::answer::{Access, Refusal, refuse, within};
use crate::body::ArtifactBody;
use crate::conditional::{client_has_it, range_applies, wants_other_content};
use crate::range::{Selection, select};
use crate::{Artifact, ArtifactSource, SourceError};

/// What a URL names. Its digest is in the URL, so the entity tag is known before anybody is asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted {
    Nar { hash: StoreHash, nar_hash: Sha256Digest },
    Blob(Digest),
}

impl Wanted {
    /// A strong entity tag: the digest, quoted.
    fn etag(&self) -> Result<HeaderValue, Refusal> {
        let tag = match self {
            Self::Nar { nar_hash, .. } => format!("\"sha256:{nar_hash}\""),
            Self::Blob(digest) => format!("\"{digest}\""),
        };
        // Hex and a colon always make a header value; there is no way to say so to the type system.
        HeaderValue::try_from(tag).map_err(|_| Refusal::NOT_FOUND)
    }

    fn content_type(&self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Nar { .. } => "application/x-nix-nar",
            Self::Blob(_) => "application/octet-stream",
        })
    }

    async fn size(&self, source: &dyn ArtifactSource) -> Result<u64, SourceError> {
        match *self {
            Self::Nar { hash, nar_hash } => source.nar_size(hash, nar_hash).await,
            Self::Blob(digest) => source.blob_size(digest).await,
        }
    }

    async fn open(&self, source: &dyn ArtifactSource) -> Result<Arc<dyn Artifact>, SourceError> {
        match *self {
            Self::Nar { hash, nar_hash } => source.nar(hash, nar_hash).await,
            Self::Blob(digest) => source.blob(digest).await,
        }
    }
}

/// HEAD: the head of the GET without a range (ranges mean something for GET only), without any fetch.
pub(super) async fn head(
    app: &App,
    client: &Connection,
    wanted: Wanted,
    headers: &HeaderMap,
) -> Result<Response, Refusal> {
    let etag = wanted.etag()?;
    let size = within(app.answer_timeout, wanted.size(&*client.source))
        .await
        .map_err(|e| refuse(&e, Access::Read))?;
    if let Some(answer) = precondition(headers, &etag) {
        return Ok(answer);
    }
    Ok(answer(&wanted, etag, &(0..size), size, Body::empty()))
}

/// GET: the whole or one range. Nothing is sent before the source says that bytes can flow.
pub(super) async fn get(
    app: &App,
    client: &Connection,
    wanted: Wanted,
    headers: &HeaderMap,
) -> Result<Response, Refusal> {
    let etag = wanted.etag()?;
    let prepared = within(app.answer_timeout, prepare(&*client.source, &wanted, headers, &etag)).await;
    let (artifact, range) = match prepared.map_err(|e| refuse(&e, Access::Read))? {
        Prepared::Body(artifact, range) => (artifact, range),
        Prepared::Answer(answer) => return Ok(answer),
    };
    let size = artifact.size();
    let length = range.end - range.start;
    let body = if length == 0 {
        Body::empty()
    } else {
        let (stall, metrics) = (app.source_stall_timeout, app.metrics.clone());
        Body::new(ArtifactBody::new(artifact.read(range.clone()), length, stall, metrics))
    };
    Ok(answer(&wanted, etag, &range, size, body))
}

/// What a GET has come to before its answer begins.
enum Prepared {
    /// These bytes of this artifact, which is ready.
    Body(Arc<dyn Artifact>, Range<u64>),
    /// An answer without a body of ours.
    Answer(Response),
}

async fn prepare(
    source: &dyn ArtifactSource,
    wanted: &Wanted,
    headers: &HeaderMap,
    etag: &HeaderValue,
) -> Result<Prepared, SourceError> {
    let condition = precondition(headers, etag);
    // Who has the content already shall not cause a fetch of it, if it can be known without one that it exists.
    if condition.is_some() && wanted.size(source).await.is_err() {
        wanted.open(source).await?;
    }
    if let Some(answer) = condition {
        return Ok(Prepared::Answer(answer));
    }
    let artifact = wanted.open(source).await?;
    let size = artifact.size();
    let range = match requested(headers, etag, size) {
        Selection::Whole => 0..size,
        Selection::Part(range) => range,
        Selection::Unsatisfiable => return Ok(Prepared::Answer(unsatisfiable(size))),
    };
    artifact.ready().await?;
    Ok(Prepared::Body(artifact, range))
}

/// The answer that a precondition asks for instead of the content, in the order of RFC 9110, section 13.2.2.
fn precondition(headers: &HeaderMap, etag: &HeaderValue) -> Option<Response> {
    if wants_other_content(headers, etag.as_bytes()) {
        return Some(Refusal::new(StatusCode::PRECONDITION_FAILED, "the content is other").into_response());
    }
    client_has_it(headers, etag.as_bytes())
        .then(|| (StatusCode::NOT_MODIFIED, [(ETAG, etag.clone())]).into_response())
}

/// More than one `Range` line is as malformed as an odd one: ignored.
fn requested(headers: &HeaderMap, etag: &HeaderValue, size: u64) -> Selection {
    let mut lines = headers.get_all(RANGE).iter();
    match (lines.next(), lines.next()) {
        (Some(line), None) if range_applies(headers, etag.as_bytes()) => select(line.as_bytes(), size),
        _ => Selection::Whole,
    }
}

/// 200 for the whole, 206 for less.
fn answer(wanted: &Wanted, etag: HeaderValue, range: &Range<u64>, size: u64, body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, wanted.content_type());
    headers.insert(CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(ETAG, etag);
    if range.end - range.start < size {
        let part = format!("bytes {}-{}/{size}", range.start, range.end.saturating_sub(1));
        if let Ok(part) = HeaderValue::try_from(part) {
            headers.insert(CONTENT_RANGE, part);
        }
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    response
}

fn unsatisfiable(size: u64) -> Response {
    let refusal = Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "no such range");
    (AppendHeaders([(CONTENT_RANGE, format!("bytes */{size}"))]), refusal).into_response()
}
