//! What no origin had a moment ago. Peers are asked each time all the same: what one of them has come to hold is found at
//! once, whatever the origins said.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use p2p_cache_protocol::StoreHash;
use tokio::time::Instant;

/// Store paths remembered, about 100 bytes each.
const MAX_MISSING: NonZeroUsize = NonZeroUsize::new(32 * 1024).unwrap();

/// Store paths of which the origins said that they have none.
pub(super) struct Missing {
    remembered_for: Duration,
    table: Mutex<LruCache<StoreHash, Instant>>,
}

impl Missing {
    pub(super) fn new(remembered_for: Duration) -> Self {
        Self { remembered_for, table: Mutex::new(LruCache::new(MAX_MISSING)) }
    }

    /// Whether asking again would be in vain.
    pub(super) fn is_known(&self, hash: StoreHash) -> bool {
        let mut table = self.table();
        let known = table.get(&hash).is_some_and(|since| since.elapsed() < self.remembered_for);
        if !known {
            table.pop(&hash);
        }
        known
    }

    pub(super) fn note(&self, hash: StoreHash) {
        self.table().put(hash, Instant::now());
    }

    pub(super) fn forget(&self, hash: StoreHash) {
        self.table().pop(&hash);
    }

    fn table(&self) -> MutexGuard<'_, LruCache<StoreHash, Instant>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_missing_is_remembered_for_a_while_or_until_it_comes() {
        let missing = Missing::new(Duration::from_secs(10));
        let hashes: [StoreHash; 2] = ["7rjj86a15146cq1d3qy068lml7n7ykzm", "8rjj86a15146cq1d3qy068lml7n7ykzm"]
            .map(|hash| hash.parse().unwrap());
        missing.note(hashes[0]);
        missing.note(hashes[1]);
        assert!(missing.is_known(hashes[0]) && missing.is_known(hashes[1]));
        missing.forget(hashes[1]);
        assert!(missing.is_known(hashes[0]) && !missing.is_known(hashes[1]));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(!missing.is_known(hashes[0]));
    }
}
