//! NARs on disk that wait for their narinfos.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lru::LruCache;
use p2p_cache_http_gateway::{NarFile, Rejection, SourceError};
use p2p_cache_protocol::{NarInfo, Sha256Digest};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::store::SpooledBlob;

/// Files remembered after their narinfo came, about 200 bytes each: store paths with equal contents share one.
const MAX_FINISHED: NonZeroUsize = NonZeroUsize::new(16 * 1024).unwrap();

/// The bytes that uploads may take on disk before they are blobs.
#[derive(Debug)]
pub(super) struct Budget {
    max_bytes: u64,
    used_bytes: AtomicU64,
}

/// A part of the budget, given back when dropped.
#[derive(Debug)]
pub(super) struct Spending {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    pub(super) fn new(max_bytes: u64) -> Arc<Self> {
        Arc::new(Self { max_bytes, used_bytes: AtomicU64::new(0) })
    }

    pub(super) fn spend(self: &Arc<Self>) -> Spending {
        Spending { budget: Arc::clone(self), bytes: 0 }
    }
}

impl Spending {
    /// False when that would be too much; nothing is taken then.
    pub(super) fn add(&mut self, bytes: u64) -> bool {
        let Budget { max_bytes, used_bytes } = &*self.budget;
        let more = |used: u64| used.checked_add(bytes).filter(|sum| sum <= max_bytes);
        let taken = used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok();
        if taken {
            self.bytes += bytes;
        }
        taken
    }
}

impl Drop for Spending {
    fn drop(&mut self) {
        self.budget.used_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A NAR that has come whole.
#[derive(Debug)]
pub(super) struct WaitingNar {
    pub(super) sha256: Sha256Digest,
    pub(super) size: u64,
    pub(super) file_size: u64,
    pub(super) since: Instant,
    /// Taken by whoever makes a blob of it.
    pub(super) spooled: Mutex<Option<(SpooledBlob, Spending)>>,
}

impl WaitingNar {
    /// Whether a narinfo says of it what is so. That the file has the hash in its name was checked when it came.
    pub(super) fn check(&self, file: &NarFile, narinfo: &NarInfo) -> Result<(), SourceError> {
        let right = narinfo.nar_hash == self.sha256
            && narinfo.nar_size == self.size
            && narinfo.compression == file.compression
            && narinfo.file_hash.is_none_or(|hash| hash == file.file_hash)
            && narinfo.file_size.is_none_or(|size| size == self.file_size);
        if right { Ok(()) } else { Err(SourceError::Rejected(Rejection::NarDiffers)) }
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Table {
    max_waiting: usize,
    waiting: HashMap<NarFile, Arc<WaitingNar>>,
    finished: LruCache<NarFile, Sha256Digest>,
}

impl Table {
    pub(super) fn new(max_waiting: usize) -> Self {
        Self { max_waiting, waiting: HashMap::new(), finished: LruCache::new(MAX_FINISHED) }
    }

    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= self.max_waiting
    }

    pub(super) fn get(&self, file: &NarFile) -> Option<Arc<WaitingNar>> {
        self.waiting.get(file).cloned()
    }

    /// The NAR in a file that has become a blob.
    pub(super) fn finished(&mut self, file: &NarFile) -> Option<Sha256Digest> {
        self.finished.get(file).copied()
    }

    pub(super) fn insert(&mut self, file: NarFile, nar: WaitingNar) -> Result<(), SourceError> {
        if self.is_full() && !self.waiting.contains_key(&file) {
            return Err(SourceError::Rejected(Rejection::TooManyWaiting));
        }
        self.waiting.insert(file, Arc::new(nar));
        Ok(())
    }

    pub(super) fn remove(&mut self, file: &NarFile) {
        self.waiting.remove(file);
    }

    pub(super) fn finish(&mut self, file: &NarFile, nar: &WaitingNar) {
        self.waiting.remove(file);
        self.finished.put(file.clone(), nar.sha256);
    }

    /// Removes what has waited longer than `max_wait`; says how many that were.
    pub(super) fn expire(&mut self, now: Instant, max_wait: Duration) -> usize {
        let before = self.waiting.len();
        self.waiting.retain(|_, nar| now.saturating_duration_since(nar.since) < max_wait);
        before - self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_spent_comes_back() {
        let budget = Budget::new(10);
        let (mut first, mut second) = (budget.spend(), budget.spend());
        assert!(first.add(4) && second.add(6) && !first.add(1) && !second.add(u64::MAX));
        drop(second);
        assert!(first.add(6) && !first.add(1));
        drop(first);
        assert_eq!(budget.used_bytes.load(Ordering::Relaxed), 0);
    }
}
