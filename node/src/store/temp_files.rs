//! The files of one unfinished write.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use p2p_cache_protocol::Digest;

use super::error::StoreError;
use super::evict;
use super::inner::{StoreInner, saturating_sub};
use super::layout;
use super::leftovers::{self, LeftoverName};
use super::partials::{Leftover, Taken};

/// The paths of one temporary file pair; removed when dropped unless [`TempFiles::keep`] or [`TempFiles::suspend`] was
/// called.
#[derive(Debug)]
pub(super) struct TempFiles {
    store: Arc<StoreInner>,
    name: String,
    pub(super) data: PathBuf,
    pub(super) outboard: PathBuf,
    /// Where its progress is noted; `None` for a write that is not taken up again.
    pub(super) sidecar: Option<PathBuf>,
    promised: AtomicU64,
    ended: AtomicBool,
}

impl TempFiles {
    /// Files with a name of no meaning.
    pub(super) fn reserve(store: &Arc<StoreInner>) -> Result<TempFiles, StoreError> {
        let name = store.partials.reserve(store.config.max_partials)?;
        Ok(TempFiles::new(store, name, false))
    }

    /// Files that can be taken up again, and whether an earlier write left any. While another write of the same blob
    /// goes on the files have a name of no meaning. Blocking.
    pub(super) fn for_blob(
        store: &Arc<StoreInner>,
        expected: Digest,
        size: u64,
    ) -> Result<(TempFiles, bool), StoreError> {
        let name = LeftoverName { expected, size }.to_string();
        match store.partials.take(&name, store.config.max_partials)? {
            Taken::Fresh => {
                let files = TempFiles::new(store, name, true);
                files.clear();
                Ok((files, false))
            }
            Taken::Leftover => Ok((TempFiles::new(store, name, true), true)),
            Taken::InUse => Ok((TempFiles::reserve(store)?, false)),
        }
    }

    fn new(store: &Arc<StoreInner>, name: String, named: bool) -> TempFiles {
        let [data, outboard, sidecar] = leftovers::paths(&store.layout, &name);
        TempFiles {
            data,
            outboard,
            sidecar: named.then_some(sidecar),
            store: store.clone(),
            name,
            promised: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        }
    }

    /// The files are complete and wait.
    pub(super) fn park(&self) {
        self.store.partials.park(&self.name);
    }

    /// The data and the outboard have been renamed into place.
    pub(super) fn keep(&self) {
        self.ended.store(true, Ordering::SeqCst);
        if let Some(sidecar) = &self.sidecar
            && let Err(error) = layout::remove_file(sidecar)
        {
            // Without its data it is removed by gc and by the next start.
            tracing::warn!(%error, "cannot remove the progress of a finished write");
        }
        self.store.partials.forget(&self.name);
        self.release();
    }

    /// Announces that the files will be saved or removed: whoever wants this blob next waits for that. False when the
    /// write has ended already.
    pub(super) fn settle(&self) -> bool {
        let first = !self.ended.swap(true, Ordering::SeqCst);
        if first {
            self.store.partials.settle(&self.name);
        }
        first
    }

    /// Leaves the files for another time, after [`TempFiles::settle`]. Blocking.
    pub(super) fn suspend(&self) {
        let bytes = leftovers::disk_bytes(&self.data) + leftovers::disk_bytes(&self.outboard);
        self.store.partials.keep(&self.name, Leftover { bytes, used_ms: self.store.now_ms() });
        self.release();
        leftovers::enforce(&self.store);
        if let Err(error) = evict::evict_over_limit(&self.store, None) {
            tracing::error!(%error, "eviction failed: the store is over its size limit");
        }
    }

    /// Removes the files, after [`TempFiles::settle`]. Blocking.
    pub(super) fn remove(&self) {
        leftovers::remove_files(&self.store.layout, &self.name);
        self.store.partials.forget(&self.name);
        self.release();
    }

    /// Removes the files and goes on without them. Blocking.
    pub(super) fn clear(&self) {
        leftovers::remove_files(&self.store.layout, &self.name);
    }

    /// Sets room aside that will be written to these files.
    pub(super) fn promise(&self, bytes: u64) {
        self.promised.fetch_add(bytes, Ordering::Relaxed);
        self.store.partials.promised_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Some of the promised bytes have been written.
    pub(super) fn fulfil(&self, bytes: u64) {
        saturating_sub(&self.promised, bytes);
        saturating_sub(&self.store.partials.promised_bytes, bytes);
    }

    fn release(&self) {
        saturating_sub(&self.store.partials.promised_bytes, self.promised.swap(0, Ordering::Relaxed));
    }

    /// True when the write has ended: renamed into place, removed, or left for another time.
    pub(super) fn is_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }
}

impl Drop for TempFiles {
    fn drop(&mut self) {
        if !self.settle() {
            return;
        }
        self.release();
        let (store, name) = (self.store.clone(), std::mem::take(&mut self.name));
        // Unlinking gigabytes takes the file system a while.
        off_worker(move || {
            leftovers::remove_files(&store.layout, &name);
            store.partials.forget(&name);
        });
    }
}

/// Runs disk work where it holds up no async worker: what ends a write is often dropped on one.
pub(super) fn off_worker(work: impl FnOnce() + Send + 'static) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(work)),
        Err(_) => work(),
    }
}
