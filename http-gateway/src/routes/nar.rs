//! `/nar/{store hash}-{NarHash}.nar`: URLs that hold all there is to know, so that any node can answer them at any
//! time, also long after the node that wrote the narinfo is gone.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use p2p_cache_protocol::{Sha256Digest, StoreHash};

use super::artifact::{self, Wanted};
use super::{App, Connection};
use crate::answer::Refusal;

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
    artifact::get(&app, &client, wanted(uri.path()).ok_or(Refusal::NOT_FOUND)?, &headers).await
}

pub(super) async fn head(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Arc<Connection>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    artifact::head(&app, &client, wanted(uri.path()).ok_or(Refusal::NOT_FOUND)?, &headers).await
}

fn wanted(path: &str) -> Option<Wanted> {
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
