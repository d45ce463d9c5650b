//! `/blobs/{blake3|sha256}/{hex}`: plain content-addressed bytes.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use p2p_cache_protocol::Digest;
use serde::Serialize;

use super::artifact::{self, Wanted};
use super::receive::{ENCODED, Receiving, encoding};
use super::{App, Connection, guard};
use crate::PutOutcome;
use crate::answer::{Access, Refusal, refuse};

pub(super) async fn get(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Arc<Connection>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    artifact::get(&app, &client, Wanted::Blob(digest_of(uri.path())?), &headers).await
}

pub(super) async fn head(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Arc<Connection>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    artifact::head(&app, &client, Wanted::Blob(digest_of(uri.path())?), &headers).await
}

/// PUT: 201 when the blob is new, 200 when it was held before, with the blob's names as JSON.
pub(super) async fn put(State(app): State<Arc<App>>, request: Request) -> Response {
    let (receiving, parts, upload) = Receiving::begin(&app, request);
    let result = async {
        receiving.admit(&app, &parts.headers)?;
        let digest = digest_of(parts.uri.path())?;
        let publish = publish_of(parts.uri.query().unwrap_or_default())?;
        if encoding(&parts.headers).is_some() {
            return Err(ENCODED);
        }
        let stored = app.source.put_blob(digest, publish, Box::pin(upload)).await;
        stored.map(created).map_err(|error| receiving.failed(&error))
    };
    let result = result.await;
    receiving.answer(result)
}

/// PUT and DELETE of `/api/v1/pins/{blake3|sha256}/{hex}`: 204.
pub(super) async fn pin(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Arc<Connection>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
) -> Result<StatusCode, Refusal> {
    guard::writer(&app, client.is_loopback, &headers)?;
    let digest = digest_below("/api/v1/pins/", uri.path())?;
    let done = app.source.pin_blob(digest, method == Method::PUT).await;
    done.map(|()| StatusCode::NO_CONTENT).map_err(|error| refuse(&error, Access::Write))
}

/// What a PUT answers.
#[derive(Serialize)]
struct Stored {
    sha256: String,
    blake3: String,
    size: u64,
}

fn created(outcome: PutOutcome) -> Response {
    let PutOutcome { created, sha256, blob, size } = outcome;
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    (status, Json(Stored { sha256: sha256.to_string(), blake3: blob.to_string(), size })).into_response()
}

/// The digest that a path names. A digest of another kind cannot be here; one that is no digest is a mistake worth
/// telling.
fn digest_of(path: &str) -> Result<Digest, Refusal> {
    digest_below("/blobs/", path)
}

fn digest_below(prefix: &str, path: &str) -> Result<Digest, Refusal> {
    let name = path.strip_prefix(prefix).and_then(|name| name.split_once('/'));
    let Some((algorithm, hex)) = name else { return Err(Refusal::NOT_FOUND) };
    let bad = |_| Refusal::bad_request("bad digest: 64 lower-case hex digits are needed");
    if !hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)) {
        return Err(bad(()));
    }
    match algorithm {
        "sha256" => hex.parse().map(Digest::Sha256).map_err(|_| bad(())),
        "blake3" => hex.parse().map(Digest::Blake3).map_err(|_| bad(())),
        _ => Err(Refusal::NOT_FOUND),
    }
}

/// `publish` or `publish=true`. What else may stand in a query means nothing here.
fn publish_of(query: &str) -> Result<bool, Refusal> {
    let mut publish = false;
    for pair in query.split('&') {
        publish = match pair.split_once('=').unwrap_or((pair, "true")) {
            ("publish", "true" | "1") => true,
            ("publish", "false" | "0") => false,
            ("publish", _) => return Err(Refusal::bad_request("publish is true or false")),
            _ => publish,
        };
    }
    Ok(publish)
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2p_cache_protocol::{BlobId, Sha256Digest};
    use proptest::prelude::*;

    #[test]
    fn both_kinds_of_digest_are_read() {
        let (sha256, blob) = (Sha256Digest::of(b"x"), BlobId::of(b"x"));
        assert_eq!(digest_of(&format!("/blobs/sha256/{sha256}")), Ok(Digest::Sha256(sha256)));
        assert_eq!(digest_of(&format!("/blobs/blake3/{blob}")), Ok(Digest::Blake3(blob)));
    }

    #[test]
    fn unknown_kinds_are_not_found_and_bad_digests_are_bad_requests() {
        let hex = "a".repeat(64);
        assert_eq!(digest_of(&format!("/blobs/md5/{hex}")), Err(Refusal::NOT_FOUND));
        for bad in ["", "ab", &"g".repeat(64), &"A".repeat(64), &"a".repeat(63), &"a".repeat(65)] {
            let status = digest_of(&format!("/blobs/sha256/{bad}")).unwrap_err().status;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{bad}");
        }
    }

    #[test]
    fn publish_is_read_from_the_query() {
        for (query, expected) in [
            ("", Ok(false)),
            ("publish", Ok(true)),
            ("publish=true", Ok(true)),
            ("x=1&publish=1", Ok(true)),
            ("publish=false", Ok(false)),
            ("republish=true", Ok(false)),
        ] {
            assert_eq!(publish_of(query), expected, "{query}");
        }
        assert!(publish_of("publish=maybe").is_err());
    }

    proptest! {
        #[test]
        fn any_path_and_query_is_read_or_refused_without_a_panic(path in "(/blobs/)?(sha256/|blake3/)?\\PC{0,80}", query in "\\PC{0,40}") {
            let _ = digest_of(&path);
            let _ = publish_of(&query);
        }
    }
}
