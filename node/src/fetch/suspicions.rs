//! Who is suspected of wrong content, where it cannot be proved: bounded, and forgotten after a while.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;
use p2p_cache_discovery::PeerId;
use p2p_cache_protocol::{BlobId, Digest, Sha256Digest};

use crate::origin::OriginId;

/// NARs for which an origin, or blobs for which a claim, is remembered.
const MAX_SUSPICIONS: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// How long an origin is not asked for a NAR again, and a claim is followed only when nobody else can help.
const MEMORY: Duration = Duration::from_secs(600);

/// What earlier transfers found out about origins and claims.
pub(super) struct Suspicions {
    bad_nars: Mutex<LruCache<(Sha256Digest, OriginId), Instant>>,
    doubtful: Mutex<LruCache<(Digest, Claimed), Doubt>>,
    misled: Mutex<LruCache<Digest, Instant>>,
}

/// What a blob is said to be: the root of its tree and its length in bytes.
pub(super) type Claimed = (BlobId, u64);

/// A claim that led to no whole.
struct Doubt {
    claimants: Vec<PeerId>,
    since: Instant,
}

impl Default for Suspicions {
    fn default() -> Self {
        Self {
            bad_nars: Mutex::new(LruCache::new(MAX_SUSPICIONS)),
            doubtful: Mutex::new(LruCache::new(MAX_SUSPICIONS)),
            misled: Mutex::new(LruCache::new(MAX_SUSPICIONS)),
        }
    }
}

impl Suspicions {
    /// `origin` alone sent a whole that was not `nar`.
    pub(super) fn remember_bad_nar(&self, nar: Sha256Digest, origin: OriginId) {
        lock(&self.bad_nars).put((nar, origin), Instant::now());
    }

    pub(super) fn is_bad_nar(&self, nar: Sha256Digest, origin: OriginId) -> bool {
        lock(&self.bad_nars).get(&(nar, origin)).is_some_and(|since| since.elapsed() < MEMORY)
    }

    /// It was not the origins after all.
    pub(super) fn clear_bad_nar(&self, nar: Sha256Digest) {
        let mut bad = lock(&self.bad_nars);
        let keys: Vec<_> = bad.iter().map(|(key, _)| *key).filter(|(of, _)| *of == nar).collect();
        for key in keys {
            bad.pop(&key);
        }
    }

    /// What leaders sent of `digest` had a part in a wrong whole.
    pub(super) fn distrust_leaders(&self, digest: Digest) {
        lock(&self.misled).put(digest, Instant::now());
    }

    pub(super) fn distrusts_leaders(&self, digest: Digest) -> bool {
        lock(&self.misled).get(&digest).is_some_and(|since| since.elapsed() < MEMORY)
    }

    /// The claim that `digest` is `claimed` led to no whole; `claimants` made it.
    pub(super) fn doubt(&self, digest: Digest, claimed: Claimed, claimants: &[PeerId]) {
        let doubt = Doubt { claimants: claimants.to_vec(), since: Instant::now() };
        lock(&self.doubtful).put((digest, claimed), doubt);
    }

    pub(super) fn is_doubtful(&self, digest: Digest, claimed: Claimed) -> bool {
        lock(&self.doubtful).get(&(digest, claimed)).is_some_and(|doubt| doubt.since.elapsed() < MEMORY)
    }

    /// The whole turned out to be `proved`: forgets the doubts about `digest`, and names who claimed otherwise.
    pub(super) fn disproved(&self, digest: Digest, proved: Claimed) -> Vec<PeerId> {
        let mut doubtful = lock(&self.doubtful);
        let keys: Vec<_> = doubtful.iter().map(|(key, _)| *key).filter(|(of, _)| *of == digest).collect();
        let ended = keys.into_iter().filter_map(|key| Some((key.1, doubtful.pop(&key)?.claimants)));
        ended.filter(|(claimed, _)| *claimed != proved).flat_map(|(_, claimants)| claimants).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proved_whole_ends_the_doubts_and_names_only_those_who_claimed_otherwise() {
        let suspicions = Suspicions::default();
        let digest = Digest::Sha256(Sha256Digest::of(b"whole"));
        let (right, wrong) = ((BlobId::of(b"whole"), 5), (BlobId::of(b"other"), 5));
        let (honest, liar) = (PeerId::random(), PeerId::random());
        suspicions.doubt(digest, right, &[honest]);
        suspicions.doubt(digest, wrong, &[liar]);
        suspicions.doubt(digest, (right.0, 6), &[liar]);
        assert!(suspicions.is_doubtful(digest, wrong));
        assert_eq!(suspicions.disproved(digest, right), [liar, liar]);
        assert!(!suspicions.is_doubtful(digest, wrong) && !suspicions.is_doubtful(digest, right));
    }

    #[test]
    fn suspicions_are_bounded() {
        let suspicions = Suspicions::default();
        for number in 0..2 * MAX_SUSPICIONS.get() {
            let bytes = number.to_le_bytes();
            suspicions.doubt(Digest::Sha256(Sha256Digest::of(&bytes)), (BlobId::of(&bytes), 8), &[]);
        }
        assert_eq!(lock(&suspicions.doubtful).len(), MAX_SUSPICIONS.get());
    }
}
