//! What all handles of one store share, and the few rules that keep files and index in step.
//!
//! A blob's files and its record change only under the lock of its shard (`blobs/<2 hex>`): renaming into place and
//! inserting, unlinking and removing, and reconciling exclude each other there.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use p2p_cache_protocol::BlobId;

use super::blocking::Blocking;
use super::commit::CommitStep;
use super::config::StoreConfig;
use super::error::StoreError;
use super::index::{BlobRecord, Index};
use super::layout::{self, DirLock, Layout};
use super::narinfos::Narinfos;
use super::partials::Partials;

/// Access times kept in memory before they are written in one go.
const MAX_PENDING_TOUCHES: usize = 1024;
/// The longest time an access time stays in memory only while the store is in use.
const TOUCH_WRITE_INTERVAL: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct StoreInner {
    pub(super) config: StoreConfig,
    pub(super) layout: Layout,
    pub(super) index: Index,
    pub(super) blocking: Blocking,
    pub(super) narinfos: Narinfos,
    pub(super) totals: Totals,
    pub(super) partials: Partials,
    /// At most one eviction or gc at a time: a second one would plan with numbers that the first is changing.
    pub(super) evicting: Mutex<()>,
    shard_locks: Vec<Mutex<()>>,
    touches: Mutex<Touches>,
    clock_ms: AtomicU64,
    #[cfg(test)]
    pub(super) on_step: Mutex<Option<StepHook>>,
    _lock: DirLock,
}

/// What a test wants to do between the steps of a commit.
#[cfg(test)]
pub(super) struct StepHook(pub(super) Box<dyn Fn(CommitStep) + Send>);

#[cfg(test)]
impl std::fmt::Debug for StepHook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StepHook")
    }
}

/// Running totals of the committed blobs.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) bytes: AtomicU64,
    pub(super) blobs: AtomicU64,
    pub(super) pinned_bytes: AtomicU64,
}

#[derive(Debug)]
struct Touches {
    pending: HashMap<BlobId, u64>,
    written: Instant,
}

/// Locks without regard to a panic elsewhere: what these mutexes guard is valid at every step.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StoreInner {
    pub(super) fn new(config: StoreConfig, layout: Layout, index: Index, lock: DirLock) -> StoreInner {
        StoreInner {
            blocking: Blocking::new(config.short_permits, config.long_permits),
            narinfos: Narinfos::new(config.narinfo_cache_bytes),
            totals: Totals::default(),
            partials: Partials::default(),
            evicting: Mutex::new(()),
            shard_locks: (0..layout::SHARDS).map(|_| Mutex::new(())).collect(),
            touches: Mutex::new(Touches { pending: HashMap::new(), written: Instant::now() }),
            clock_ms: AtomicU64::new(0),
            #[cfg(test)]
            on_step: Mutex::new(None),
            config,
            layout,
            index,
            _lock: lock,
        }
    }

    /// Marks an instant of a commit; does nothing outside of tests.
    pub(super) fn step(&self, _step: CommitStep) {
        #[cfg(test)]
        if let Some(hook) = &*lock(&self.on_step) {
            (hook.0)(_step);
        }
    }

    pub(super) fn lock_shard(&self, shard: u8) -> MutexGuard<'_, ()> {
        lock(&self.shard_locks[usize::from(shard)])
    }

    /// Milliseconds since the epoch, strictly rising within this process so that accesses have one order.
    pub(super) fn now_ms(&self) -> u64 {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall = u64::try_from(wall.as_millis()).unwrap_or(u64::MAX - 1);
        let previous = self
            .clock_ms
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(wall.max(last + 1)))
            .unwrap_or(0);
        wall.max(previous + 1)
    }

    /// Puts a record into the index and the totals. The caller holds the lock of the shard.
    pub(super) fn record(&self, id: BlobId, record: &BlobRecord) -> Result<(), StoreError> {
        let old = self.index.insert(id, record)?;
        if let Some(old) = old {
            self.totals.subtract(&old);
        }
        self.totals.add(record);
        Ok(())
    }

    /// Removes a blob's files, markers and record; returns its record. The caller holds the lock of the shard.
    pub(super) fn remove_locked(
        &self,
        id: BlobId,
        record: &BlobRecord,
    ) -> Result<Option<BlobRecord>, StoreError> {
        // Data first: an outboard without data is plainly an orphan, data without outboard would be repaired.
        layout::remove_file(&self.layout.data(id, record.sha256))?;
        layout::remove_file(&self.layout.outboard(id, record.sha256))?;
        layout::remove_file(&self.layout.published_marker(id))?;
        layout::remove_file(&self.layout.pinned_marker(id))?;
        let old = self.index.remove(id)?;
        if let Some(old) = &old {
            self.totals.subtract(old);
        }
        Ok(old)
    }

    /// Notes that a blob was used; writes the batch when it is full or old.
    pub(super) fn touch(&self, id: BlobId) -> Result<(), StoreError> {
        let now = self.now_ms();
        let batch = {
            let mut touches = lock(&self.touches);
            touches.pending.insert(id, now);
            if touches.pending.len() < MAX_PENDING_TOUCHES && touches.written.elapsed() < TOUCH_WRITE_INTERVAL
            {
                return Ok(());
            }
            touches.take()
        };
        self.write_touches(batch)
    }

    /// Writes all pending access times into the index.
    pub(super) fn flush_touches(&self) -> Result<(), StoreError> {
        let batch = lock(&self.touches).take();
        self.write_touches(batch)
    }

    fn write_touches(&self, batch: HashMap<BlobId, u64>) -> Result<(), StoreError> {
        for (id, at) in batch {
            self.index.update(id, |record| record.last_access_ms = record.last_access_ms.max(at))?;
        }
        Ok(())
    }
}

impl Touches {
    fn take(&mut self) -> HashMap<BlobId, u64> {
        self.written = Instant::now();
        std::mem::take(&mut self.pending)
    }
}

impl Totals {
    pub(super) fn add(&self, record: &BlobRecord) {
        self.bytes.fetch_add(record.stored_bytes(), Ordering::Relaxed);
        self.blobs.fetch_add(1, Ordering::Relaxed);
        if record.pinned {
            self.pinned_bytes.fetch_add(record.stored_bytes(), Ordering::Relaxed);
        }
    }

    pub(super) fn subtract(&self, record: &BlobRecord) {
        saturating_sub(&self.bytes, record.stored_bytes());
        saturating_sub(&self.blobs, 1);
        if record.pinned {
            saturating_sub(&self.pinned_bytes, record.stored_bytes());
        }
    }
}

pub(super) fn saturating_sub(total: &AtomicU64, amount: u64) {
    // The closure always answers Some, so this cannot fail.
    let _ = total.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| Some(now.saturating_sub(amount)));
}
