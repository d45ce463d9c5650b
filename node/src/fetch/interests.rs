//! Who asked us for what: whoever asks for a blob fetches it, and will soon have parts of it to give.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;
use p2p_cache_discovery::PeerId;
use p2p_cache_protocol::Digest;

/// Blobs for which it is remembered.
const MAX_BLOBS: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// Peers remembered for one blob; the oldest goes.
const MAX_PEERS: usize = 32;
/// How long a peer is taken to be fetching what it asked for.
const MEMORY: Duration = Duration::from_secs(60);

/// What peers want.
pub(super) struct Interests(Mutex<LruCache<Digest, Vec<(PeerId, Instant)>>>);

impl Default for Interests {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX_BLOBS)))
    }
}

impl Interests {
    pub(super) fn note(&self, digest: Digest, peer: PeerId) {
        let mut blobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let peers = blobs.get_or_insert_mut(digest, Vec::new);
        peers.retain(|(known, _)| *known != peer);
        if peers.len() >= MAX_PEERS {
            peers.remove(0);
        }
        peers.push((peer, Instant::now()));
    }

    pub(super) fn of(&self, digest: &Digest) -> Vec<PeerId> {
        let mut blobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = |since: &Instant| since.elapsed() < MEMORY;
        let peers = blobs.get(digest).into_iter().flatten();
        peers.filter(|(_, since)| fresh(since)).map(|(peer, _)| *peer).collect()
    }
}

#[cfg(test)]
mod tests {
    use p2p_cache_protocol::BlobId;

    use super::*;

    #[test]
    fn peers_are_remembered_once_and_the_oldest_goes() {
        let interests = Interests::default();
        let digest = Digest::Blake3(BlobId([1; 32]));
        let peers: Vec<_> = (0..=MAX_PEERS).map(|_| PeerId::random()).collect();
        for peer in &peers {
            interests.note(digest, *peer);
            interests.note(digest, *peer);
        }
        assert_eq!(interests.of(&digest), peers[1..]);
        assert_eq!(interests.of(&Digest::Blake3(BlobId([2; 32]))), []);
    }
}
