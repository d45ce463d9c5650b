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

#[cfg(test)]
mod tests {
    use p2p_cache_protocol::{Claim, SecretKey};

    use super::*;

    /// A place that knows one narinfo, or fails.
    struct Place(io::Result<NarInfo>);

    impl Place {
        fn answer(&self) -> io::Result<Option<NarInfo>> {
            match &self.0 {
                Ok(narinfo) => Ok(Some(narinfo.clone())),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            }
        }
    }

    #[async_trait]
    impl Holdings for Place {
        async fn find(&self, digest: Digest) -> io::Result<Option<Held>> {
            let narinfo = self.answer()?.filter(|narinfo| Digest::Sha256(narinfo.nar_hash) == digest);
            let claim = |narinfo: NarInfo| Claim {
                sha256: narinfo.nar_hash,
                blob: BlobId::of(b"blob"),
                size: narinfo.nar_size,
            };
            Ok(narinfo.map(|narinfo| Held { claim: claim(narinfo), published: false }))
        }

        async fn open(&self, _: BlobId) -> io::Result<Option<Arc<dyn HeldBlob>>> {
            self.answer().map(|_| None)
        }

        async fn narinfo(&self, _: StoreHash) -> io::Result<Option<NarInfo>> {
            self.answer()
        }

        async fn narinfos_of(&self, _: Sha256Digest) -> io::Result<Vec<NarInfo>> {
            self.answer().map(|narinfo| narinfo.into_iter().collect())
        }
    }

    /// A narinfo with this NarSize, signed by these keys.
    fn narinfo(size: u64, keys: &[&str]) -> NarInfo {
        let text = format!(
            "StorePath: /nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-hello\nURL: nar/x.nar\nCompression: none\n\
             NarHash: sha256:1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s\nNarSize: {size}\nReferences: \n"
        );
        let mut narinfo = NarInfo::parse(&text).unwrap();
        for name in keys {
            narinfo.sign(&SecretKey::from_seed(name, &[name.len() as u8; 32]).unwrap());
        }
        narinfo
    }

    fn failing() -> Place {
        Place(Err(io::Error::other("no disk")))
    }

    fn union(first: Place, second: Place) -> Union<2> {
        Union::new([Arc::new(first), Arc::new(second)])
    }

    fn key_names(narinfo: &NarInfo) -> Vec<&str> {
        narinfo.signatures.iter().map(|signature| signature.key_name()).collect()
    }

    #[tokio::test]
    async fn the_first_place_that_has_it_answers() {
        let (first, second) = (narinfo(1, &[]), narinfo(2, &[]));
        let digest = Digest::Sha256(first.nar_hash);
        let both = union(Place(Ok(first)), Place(Ok(second)));
        assert_eq!(both.find(digest).await.unwrap().unwrap().claim.size, 1);
        let unknown = Digest::Sha256(Sha256Digest::of(b"unknown"));
        assert!(both.find(unknown).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_place_that_fails_does_not_keep_the_other_from_answering() {
        let known = narinfo(1, &[]);
        let (hash, digest) = (known.store_path.hash(), Digest::Sha256(known.nar_hash));
        for places in [union(failing(), Place(Ok(known.clone()))), union(Place(Ok(known.clone())), failing())]
        {
            assert!(places.find(digest).await.unwrap().is_some());
            assert!(places.narinfo(hash).await.unwrap().is_some());
        }
        let neither = union(failing(), failing());
        assert!(neither.find(digest).await.is_err() && neither.narinfo(hash).await.is_err());
        let unknown = Digest::Sha256(Sha256Digest::of(b"unknown"));
        assert!(union(failing(), Place(Ok(known))).find(unknown).await.is_err(), "nobody knows");
    }

    #[tokio::test]
    async fn signatures_of_all_places_are_joined_when_they_say_the_same() {
        let hash = narinfo(1, &[]).store_path.hash();
        let same = union(Place(Ok(narinfo(1, &["a-1"]))), Place(Ok(narinfo(1, &["a-1", "bb-1"]))));
        assert_eq!(key_names(&same.narinfo(hash).await.unwrap().unwrap()), ["a-1", "bb-1"]);
        let other = union(Place(Ok(narinfo(1, &["a-1"]))), Place(Ok(narinfo(2, &["bb-1"]))));
        assert_eq!(key_names(&other.narinfo(hash).await.unwrap().unwrap()), ["a-1"]);
    }

    /// One that cannot be read may know a reason not to share.
    #[tokio::test]
    async fn the_narinfos_of_a_blob_are_those_of_all_places_or_of_none() {
        let known = narinfo(1, &[]);
        let hash = known.nar_hash;
        let both = union(Place(Ok(known.clone())), Place(Ok(narinfo(2, &[]))));
        assert_eq!(both.narinfos_of(hash).await.unwrap().len(), 2);
        assert!(union(Place(Ok(known)), failing()).narinfos_of(hash).await.is_err());
    }
}
