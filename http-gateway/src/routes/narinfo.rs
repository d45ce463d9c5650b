//! `/{hash}.narinfo`, and `/{hash}.ls` beside it.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use axum::http::{Method, Uri};
use axum::response::Response;
use bytes::Bytes;
use p2p_cache_protocol::{Compression, MAX_NARINFO_BYTES, NarInfo, StoreHash};

use super::receive::{ENCODED, Receiving, encoding, kept};
use super::{App, Connection, nar, side_files};
use crate::answer::{Access, Refusal, refuse, within};
use crate::{Rejection, SourceError};

/// Most narinfos are shorter than this; it saves the string from growing.
const TYPICAL_NARINFO_BYTES: usize = 2048;

/// GET and HEAD: both need the text, the one to send it, the other to know its length.
pub(super) async fn get(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Arc<Connection>>,
    method: Method,
    uri: Uri,
) -> Result<Response, Refusal> {
    if let Some(hash) = listed_hash(uri.path()) {
        return side_files::listing(&app, &client, &method, hash).await;
    }
    let hash = hash_of(uri.path()).ok_or(Refusal::NOT_FOUND)?;
    let narinfo = within(app.answer_timeout, client.source.narinfo(hash)).await;
    let narinfo = narinfo.and_then(|narinfo| check(narinfo, hash)).map_err(|e| refuse(&e, Access::Read))?;
    let text = render(narinfo, hash);

    let length = text.len() as u64;
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        app.metrics.served_bytes().inc_by(length);
        Body::from(Bytes::from(text))
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/x-nix-narinfo"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    Ok(response)
}

/// PUT.
pub(super) async fn put(State(app): State<Arc<App>>, request: Request) -> Response {
    if listed_hash(request.uri().path()).is_some() {
        return side_files::put_listing(&app, request).await;
    }
    let (receiving, parts, upload) = Receiving::begin(&app, request);
    let result = async {
        let uploader = receiving.admit(&app, &parts.headers)?;
        let hash = hash_of(parts.uri.path()).ok_or(Refusal::NOT_FOUND)?;
        if encoding(&parts.headers).is_some() {
            return Err(ENCODED);
        }
        let text = receiving.read(upload, MAX_NARINFO_BYTES).await?;
        let narinfo = read(&text, hash, &app.store_dir).map_err(|error| refuse(&error, Access::Write))?;
        let stored = side_files::taking(&app)?.put_narinfo(narinfo, uploader).await;
        stored.map(kept).map_err(|error| receiving.failed(&error))
    };
    let result = result.await;
    receiving.answer(result)
}

/// The narinfo of that path in an upload.
fn read(text: &[u8], hash: StoreHash, store_dir: &str) -> Result<NarInfo, SourceError> {
    let invalid = |reason: String| SourceError::Invalid(format!("an uploaded narinfo: {reason}"));
    let text = std::str::from_utf8(text).map_err(|error| invalid(error.to_string()))?;
    let narinfo = NarInfo::parse(text).map_err(|error| invalid(error.to_string()))?;
    if narinfo.store_path.hash() != hash {
        return Err(invalid(format!("it is for {}, not {hash}", narinfo.store_path)));
    }
    if narinfo.store_path.dir() != store_dir {
        return Err(SourceError::Rejected(Rejection::OtherStore));
    }
    Ok(narinfo)
}

fn listed_hash(path: &str) -> Option<StoreHash> {
    path.strip_prefix('/')?.strip_suffix(".ls")?.parse().ok()
}

fn hash_of(path: &str) -> Option<StoreHash> {
    path.strip_prefix('/')?.strip_suffix(".narinfo")?.parse().ok()
}

/// A narinfo of another path would be believed for a month: no slip of a source may get that far.
fn check(narinfo: NarInfo, hash: StoreHash) -> Result<NarInfo, SourceError> {
    let found = narinfo.store_path.hash();
    if found == hash {
        Ok(narinfo)
    } else {
        Err(SourceError::Internal(format!(
            "asked for the narinfo of {hash}, the source gave that of {found}"
        )))
    }
}

/// The narinfo as this cache serves it: its NAR here, raw. The signature does not cover the fields that change.
fn render(mut narinfo: NarInfo, hash: StoreHash) -> String {
    narinfo.url = nar::url(hash, &narinfo.nar_hash);
    narinfo.compression = Compression::None;
    narinfo.file_hash = Some(narinfo.nar_hash);
    narinfo.file_size = Some(narinfo.nar_size);
    let mut text = String::with_capacity(TYPICAL_NARINFO_BYTES);
    // Writing to a string cannot fail.
    let _ = write!(text, "{narinfo}");
    text
}
