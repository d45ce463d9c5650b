//! Several places that hold blobs, as one.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use p2p_cache_protocol::{BlobId, Digest, NarInfo, Sha256Digest, StoreHash};

use crate::peers::{Held, HeldBlob, Holdings};

/// Asks one after the other. One that fails does not keep the others from answering.
pub(super) struct Union<const N: usize> {
    places: [Arc<dyn Holdings>; N],
}

impl<const N: usize> Union<N> {
    /// The first one is asked first.
    pub(super) fn new(places: [Arc<dyn Holdings>; N]) -> Self {
        Self { places }
    }
}

/// The first answer there is; a failure only when there is none.
struct First<T> {
    failure: Option<io::Error>,
    found: Option<T>,
}

impl<T> First<T> {
    fn new() -> Self {
        Self { failure: None, found: None }
    }

    /// True when there is an answer now.
    fn take(&mut self, answer: io::Result<Option<T>>) -> bool {
        match answer {
            Ok(Some(found)) => self.found = Some(found),
            Ok(None) => {}
            Err(error) => self.failure = Some(error),
        }
        self.found.is_some()
    }

    fn result(self) -> io::Result<Option<T>> {
        match (self.found, self.failure) {
            (None, Some(failure)) => Err(failure),
            (found, failure) => {
                if let Some(error) = failure {
                    tracing::warn!(%error, "one of the stores cannot be read");
                }
                Ok(found)
            }
        }
    }
}

#[async_trait]
impl<const N: usize> Holdings for Union<N> {
    async fn find(&self, digest: Digest) -> io::Result<Option<Held>> {
        let mut first = First::new();
        for place in &self.places {
            if first.take(place.find(digest).await) {
                break;
            }
        }
        first.result()
    }

    async fn open(&self, blob: BlobId) -> io::Result<Option<Arc<dyn HeldBlob>>> {
        let mut first = First::new();
        for place in &self.places {
            if first.take(place.open(blob).await) {
                break;
            }
        }
        first.result()
    }

    /// With the signatures of all places that say the same of the path: it may be signed in one and not in the other.
    async fn narinfo(&self, hash: StoreHash) -> io::Result<Option<NarInfo>> {
        let mut first = First::new();
        for place in &self.places {
            match (place.narinfo(hash).await, &mut first.found) {
                (Ok(Some(more)), Some(known)) => add_signatures(known, more),
                (answer, _) => drop(first.take(answer)),
            }
        }
        first.result()
    }

    async fn narinfos_of(&self, nar_hash: Sha256Digest) -> io::Result<Vec<NarInfo>> {
        // Of all places, or of none: one that cannot be read may know why it must not be shared.
        let mut all = Vec::new();
        for place in &self.places {
            all.extend(place.narinfos_of(nar_hash).await?);
        }
        Ok(all)
    }
}

fn add_signatures(known: &mut NarInfo, more: NarInfo) {
    if known.fingerprint() == more.fingerprint() {
        let new = more.signatures.into_iter().filter(|signature| !known.signatures.contains(signature));
        let new: Vec<_> = new.collect();
        known.signatures.extend(new);
    }
}
