//! What no origin had a moment ago: store paths and side files. Peers are asked each time all the same: what one of them
//! has come to hold is found at once, whatever the origins said.

use std::hash::Hash;
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

/// Names of which the origins said that they have none.
pub(crate) struct Missing<K> {
    remembered_for: Duration,
    table: Mutex<LruCache<K, Instant>>,
}

impl<K: Hash + Eq> Missing<K> {
    /// Remembers `most` names; the least recently used are forgotten.
    pub(crate) fn new(remembered_for: Duration, most: NonZeroUsize) -> Self {
        Self { remembered_for, table: Mutex::new(LruCache::new(most)) }
    }

    /// Whether asking again would be in vain.
    pub(crate) fn is_known(&self, name: K) -> bool {
        let mut table = self.table();
        let known = table.get(&name).is_some_and(|since| since.elapsed() < self.remembered_for);
        if !known {
            table.pop(&name);
        }
        known
    }

    pub(crate) fn note(&self, name: K) {
        self.table().put(name, Instant::now());
    }

    pub(crate) fn forget(&self, name: K) {
        self.table().pop(&name);
    }

    fn table(&self) -> MutexGuard<'_, LruCache<K, Instant>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use p2p_cache_protocol::StoreHash;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_missing_is_remembered_for_a_while_or_until_it_comes() {
        let missing = Missing::new(Duration::from_secs(10), NonZeroUsize::new(2).unwrap());
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

    #[tokio::test(start_paused = true)]
    async fn no_more_than_its_number_is_remembered() {
        let missing = Missing::new(Duration::from_secs(10), NonZeroUsize::new(2).unwrap());
        (0..3).for_each(|name| missing.note(name));
        assert_eq!([0, 1, 2].map(|name| missing.is_known(name)), [false, true, true]);
    }
}
