//! `/nar/{store hash}-{NarHash}.nar`: URLs that hold all there is to know, so that any node can answer them at any
//! time, also long after the node that wrote the narinfo is gone.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use futures::TryStreamExt;
use p2p_cache_protocol::{Compression, Digest, Sha256Digest, StoreHash};

use super::artifact::{self, Wanted};
use super::receive::{ENCODED, Receiving, encoding};
use super::side_files::taking;
use super::{App, Connection, guard};
use crate::answer::{Access, Refusal, refuse, within};
use crate::upload::NarFile;

/// The `URL` of a narinfo, relative to the root of the cache.
pub(super) fn url(hash: StoreHash, nar_hash: &Sha256Digest) -> String {
    format!("nar/{hash}-{}.nar", nar_hash.to_nix32())
}

pub(super) async fn get(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Arc<Connection>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    if let Some(file) = file(uri.path()).filter(|file| file.compression != Compression::None) {
        return compressed(&app, &client, &file).await;
    }
    artifact::get(&app, &client, wanted(uri.path()).ok_or(Refusal::NOT_FOUND)?, &headers).await
}

/// HEAD. What has the name of an upload is there when it need not be uploaded: it is asked for before that.
pub(super) async fn head(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Arc<Connection>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    if let Some(file) = file(uri.path()) {
        // Others are not told what is here.
        guard::writer(&app, client.is_loopback, &headers).map_err(|_| Refusal::NOT_FOUND)?;
        let size = within(app.answer_timeout, taking(&app)?.nar_file_size(&file)).await;
        let size = size.map_err(|error| refuse(&error, Access::Read))?;
        let mut response = Response::new(Body::empty());
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(size));
        return Ok(response);
    }
    artifact::head(&app, &client, wanted(uri.path()).ok_or(Refusal::NOT_FOUND)?, &headers).await
}

/// GET of a NAR under the name that it was uploaded by: compressed anew, so that its length is known at its end only.
async fn compressed(app: &App, client: &Connection, file: &NarFile) -> Result<Response, Refusal> {
    let body = within(app.answer_timeout, client.source.nar_file(file)).await;
    let body = body.map_err(|error| refuse(&error, Access::Read))?;
    let served = app.metrics.served_bytes().clone();
    let counted = body.inspect_ok(move |chunk| _ = served.inc_by(chunk.len() as u64));
    let mut response = Response::new(Body::from_stream(counted));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-nix-nar"));
    Ok(response)
}

/// PUT of the file of a NAR, under the name that its narinfo will have for it.
pub(super) async fn put(State(app): State<Arc<App>>, request: Request) -> Response {
    let (receiving, parts, upload) = Receiving::begin(&app, request);
    let result = async {
        receiving.admit(&app, &parts.headers)?;
        let file = file(parts.uri.path()).ok_or(NO_FILE)?;
        if encoding(&parts.headers).is_some() {
            return Err(ENCODED);
        }
        let stored = taking(&app)?.put_nar_file(file, Box::pin(upload)).await;
        stored.map(|()| StatusCode::CREATED).map_err(|error| receiving.failed(&error))
    };
    let result = result.await;
    receiving.answer(result)
}

const NO_FILE: Refusal = Refusal::bad_request(
    "a NAR is uploaded as nar/FILEHASH.nar, with the ending of its compression: .xz, .zst, .bz2, .gz, .br or none",
);

fn file(path: &str) -> Option<NarFile> {
    NarFile::parse(path.strip_prefix('/')?)
}

/// A NAR in this cache's own URL, or an uncompressed one under the name it was uploaded by: clients remember that.
fn wanted(path: &str) -> Option<Wanted> {
    if let Some(NarFile { file_hash, compression: Compression::None }) = file(path) {
        return Some(Wanted::Blob(Digest::Sha256(file_hash)));
    }
    let name = path.strip_prefix("/nar/")?.strip_suffix(".nar")?;
    let (hash, nar_hash) = name.split_once('-')?;
    Some(Wanted::Nar { hash: hash.parse().ok()?, nar_hash: Sha256Digest::from_nix32(nar_hash).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_url_that_is_written_is_the_url_that_is_read() {
        let hash: StoreHash = "7rjj86a15146cq1d3qy068lml7n7ykzm".parse().unwrap();
        let digest = Sha256Digest::of(b"nar");
        let url = url(hash, &digest);
        assert_eq!(url.len(), "nar/".len() + 32 + 1 + 52 + ".nar".len());
        let Some(Wanted::Nar { hash: read_hash, nar_hash }) = wanted(&format!("/{url}")) else {
            panic!("{url} is not read");
        };
        assert_eq!((read_hash, nar_hash), (hash, digest));
    }

    proptest! {
        #[test]
        fn any_path_is_read_or_refused_without_a_panic(path in "(/nar/)?[0-9a-z%.-]{0,100}(\\.nar)?") {
            let _ = wanted(&path);
        }
    }
}
