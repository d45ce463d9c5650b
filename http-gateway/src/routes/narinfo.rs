//! `/{hash}.narinfo`.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use axum::http::{Method, Uri};
use axum::response::Response;
use bytes::Bytes;
use p2p_cache_protocol::{Compression, NarInfo, StoreHash};

use super::{App, Connection, nar};
use crate::SourceError;
use crate::answer::{Access, Refusal, refuse, within};

/// Most narinfos are shorter than this; it saves the string from growing.
const TYPICAL_NARINFO_BYTES: usize = 2048;

/// GET and HEAD: both need the text, the one to send it, the other to know its length.
pub(super) async fn get(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Arc<Connection>>,
    method: Method,
    uri: Uri,
) -> Result<Response, Refusal> {
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
