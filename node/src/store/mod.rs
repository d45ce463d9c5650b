//! The blob store: files on disk, an index that can be rebuilt from them, and blobs that are still on their way.
//!
//! A blob is *committed* when its data and outboard are on disk under their final names and the index has been
//! flushed. A crash at any instant leaves either a whole blob or no trace of it among the committed ones. What had
//! arrived of a blob that was being fetched is a *leftover*, which the next fetch of the same blob takes up; other
//! unfinished writes are cleared at the next start. `layout.rs` shows the directory, `commit.rs` the order of a commit.
//!
//! All disk work runs on blocking threads, a bounded number at a time; the few methods that say "Blocking" are for
//! callers that are on such a thread already.

mod blob;
mod blocking;
mod commit;
mod config;
mod error;
mod evict;
mod gc;
mod hand_over;
mod index;
mod inner;
mod layout;
mod leftovers;
mod narinfos;
mod open;
mod outboard;
mod partial;
mod partials;
mod put;
mod reconcile;
mod temp_files;
#[cfg(test)]
mod tests;
mod verify;
mod visit;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures::Stream;
use p2p_cache_protocol::{BlobId, Digest, NarInfo, Sha256Digest, StoreHash};

pub use self::blob::{BlobMeta, StoredBlob};
pub use self::config::{
    DEFAULT_INDEX_CACHE_BYTES, DEFAULT_MAX_LEFTOVER_AGE, DEFAULT_MAX_LEFTOVER_BYTES, DEFAULT_MAX_LEFTOVERS,
    DEFAULT_MAX_NARINFOS, DEFAULT_MAX_PARTIALS, DEFAULT_MIN_FREE_BYTES, DEFAULT_NARINFO_CACHE_BYTES,
    DEFAULT_SHORT_PERMITS, StoreConfig,
};
pub(crate) use self::error::is_no_space;
pub use self::error::{StoreError, WriteError};
pub use self::gc::{GcOptions, GcReport};
pub use self::partial::PartialBlob;
pub use self::put::SpooledBlob;
pub use self::verify::{BadBlob, VerifyProgress, VerifyReport};
pub use self::visit::Visitor;

use self::blob::Mark;
use self::inner::StoreInner;
use self::partial::Begun;

/// A handle to the store of one state directory. Cheap to clone; the directory is locked until the last handle,
/// [`PartialBlob`] and running operation are gone.
#[derive(Debug, Clone)]
pub struct BlobStore {
    inner: Arc<StoreInner>,
}

/// What the store holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of committed blobs and their outboards.
    pub bytes: u64,
    /// Committed blobs.
    pub blobs: u64,
    /// The part of `bytes` that eviction leaves alone.
    pub pinned_bytes: u64,
    /// Narinfo files.
    pub narinfos: u64,
    /// Blobs being written.
    pub partials: u64,
    /// Unfinished blobs that nobody writes now, kept to be taken up again.
    pub leftovers: u64,
    /// Bytes on disk of those. They count towards the size limit.
    pub leftover_bytes: u64,
    /// The size limit, if there is one.
    pub max_bytes: Option<u64>,
}

impl BlobStore {
    /// Opens or creates the store of a state directory: takes its lock, opens the index (an unreadable one is moved
    /// to `index.damaged` and rebuilt) and brings index and files into agreement, which takes a few seconds for a
    /// million blobs.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process uses the directory; otherwise the disk's.
    pub async fn open(config: StoreConfig) -> Result<Self, StoreError> {
        let opening = tokio::task::spawn_blocking(move || open::open(config));
        let inner =
            opening.await.map_err(|e| StoreError::Worker { action: "open", reason: e.to_string() })??;
        Ok(BlobStore { inner })
    }

    /// Looks a blob up by either of its names. Does not count as a use.
    pub async fn find(&self, digest: Digest) -> Result<Option<BlobMeta>, StoreError> {
        self.short("look-up", move |store| {
            Ok(store.index.find(digest)?.map(|(id, record)| BlobMeta::new(id, &record)))
        })
        .await
    }

    /// At most `limit` blobs, in order of their ids; about 100 bytes of memory each.
    pub async fn blobs(&self, limit: usize) -> Result<Vec<BlobMeta>, StoreError> {
        self.short("listing blobs", move |store| {
            let metas = store.index.blobs().map(|entry| entry.map(|(id, record)| BlobMeta::new(id, &record)));
            metas.take(limit).collect()
        })
        .await
    }

    /// Opens a blob for reading, which counts as a use for eviction. `None` when it is not held, or turns out to
    /// have lost its files (it is dropped then).
    pub async fn open_blob(&self, id: BlobId) -> Result<Option<StoredBlob>, StoreError> {
        self.short("opening a blob", move |store| blob::open(store, id)).await
    }

    /// Begins a blob of known length, with what an earlier fetch of it left; [`PartialBlob::groups`] tells. That is
    /// hashed before it counts, which may take up to five seconds.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] and [`StoreError::NoSpace`] for what cannot fit, [`StoreError::TooManyPartials`].
    pub async fn create_partial(&self, expected: Digest, size: u64) -> Result<PartialBlob, StoreError> {
        match self.short("creating a blob", move |store| PartialBlob::begin(store, expected, size)).await? {
            Begun::Fresh(partial) => Ok(partial),
            Begun::Leftover(leftover) => {
                self.inner.blocking.long("taking up a blob again", move || leftover.take_up()).await
            }
        }
    }

    /// Stores a body of unknown length under the digest that the caller expects. Memory: about 1 MiB.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`] when the body is something else, [`StoreError::Body`] when it breaks off,
    /// [`StoreError::TooLarge`] and [`StoreError::NoSpace`]. Nothing is kept then.
    pub async fn put<S>(&self, expected: Digest, body: S, publish: bool) -> Result<BlobMeta, StoreError>
    where
        S: Stream<Item = io::Result<Bytes>> + Send + Unpin,
    {
        put::put(&self.inner, expected, body, publish).await
    }

    /// Writes a body of unknown length to disk without making a blob of it. Memory: about 1 MiB.
    ///
    /// # Errors
    /// As [`BlobStore::put`], but for the mismatch.
    pub async fn spool<S>(&self, body: S) -> Result<SpooledBlob, StoreError>
    where
        S: Stream<Item = io::Result<Bytes>> + Send + Unpin,
    {
        put::spool(&self.inner, body).await
    }

    /// Makes a blob of a spooled body, which is gone afterwards either way.
    pub async fn commit(&self, spooled: SpooledBlob) -> Result<BlobMeta, StoreError> {
        let sha256 = Digest::Sha256(spooled.sha256());
        put::commit(&self.inner, spooled, sha256, false).await
    }

    /// Keeps a narinfo; replaces the one of the same store path.
    pub async fn put_narinfo(&self, narinfo: &NarInfo) -> Result<(), StoreError> {
        let narinfo = narinfo.clone();
        self.short("storing a narinfo", move |store| narinfos::put(store, &narinfo)).await
    }

    /// The narinfo of a store path. A disk error is logged and counts as a miss: there are other sources.
    pub async fn narinfo(&self, hash: StoreHash) -> Option<NarInfo> {
        if let Some(narinfo) = self.inner.narinfos.cached(hash) {
            return Some(narinfo);
        }
        let read = self.short("reading a narinfo", move |store| narinfos::get(store, hash)).await;
        read.unwrap_or_else(|error| {
            tracing::warn!(%hash, %error, "cannot read a narinfo");
            None
        })
    }

    /// The narinfos (at most 64) whose NarHash is `nar`: what says whether a blob may be shared. Empty on a disk
    /// error, which is logged.
    pub async fn narinfos_of(&self, nar: Sha256Digest) -> Vec<NarInfo> {
        let read = self.short("reading narinfos", move |store| narinfos::narinfos_of(store, nar)).await;
        read.unwrap_or_else(|error| {
            tracing::warn!(%nar, %error, "cannot read narinfos");
            Vec::new()
        })
    }

    /// What the store holds now. Does not block.
    pub fn usage(&self) -> Usage {
        let totals = &self.inner.totals;
        Usage {
            bytes: totals.bytes.load(Ordering::Relaxed),
            blobs: totals.blobs.load(Ordering::Relaxed),
            pinned_bytes: totals.pinned_bytes.load(Ordering::Relaxed),
            narinfos: self.inner.narinfos.count.load(Ordering::Relaxed),
            partials: self.inner.partials.count() as u64,
            leftovers: self.inner.partials.idle_count() as u64,
            leftover_bytes: self.inner.partials.idle_bytes(),
            max_bytes: self.inner.config.max_bytes,
        }
    }

    /// Protects a blob from eviction, durably.
    ///
    /// # Errors
    /// [`StoreError::NotHeld`] when it is not there.
    pub async fn pin(&self, id: BlobId) -> Result<BlobMeta, StoreError> {
        self.mark(id, Mark::Pinned, true).await
    }

    /// Undoes [`BlobStore::pin`].
    ///
    /// # Errors
    /// [`StoreError::NotHeld`] when the blob is not there.
    pub async fn unpin(&self, id: BlobId) -> Result<BlobMeta, StoreError> {
        self.mark(id, Mark::Pinned, false).await
    }

    /// Notes, durably, that the owner shares this blob by hand.
    ///
    /// # Errors
    /// [`StoreError::NotHeld`] when the blob is not there.
    pub async fn publish(&self, id: BlobId) -> Result<BlobMeta, StoreError> {
        self.mark(id, Mark::Published, true).await
    }

    /// Undoes [`BlobStore::publish`].
    ///
    /// # Errors
    /// [`StoreError::NotHeld`] when the blob is not there.
    pub async fn unpublish(&self, id: BlobId) -> Result<BlobMeta, StoreError> {
        self.mark(id, Mark::Published, false).await
    }

    /// Removes a blob, also a pinned one. True when it was held. Readers that have it open go on.
    pub async fn remove(&self, id: BlobId) -> Result<bool, StoreError> {
        let removed = self
            .short("removing a blob", move |store| {
                let _shard = store.lock_shard(id.0[0]);
                let Some(record) = store.index.get(id)? else { return Ok(false) };
                store.remove_locked(id, &record)?;
                Ok(true)
            })
            .await?;
        self.inner.index.flush().await?;
        Ok(removed)
    }

    /// Removes leftovers and orphans, then evicts as the options say.
    pub async fn gc(&self, options: GcOptions) -> Result<GcReport, StoreError> {
        let store = self.inner.clone();
        let report = self.inner.blocking.long("gc", move || gc::gc(&store, options)).await?;
        self.inner.index.flush().await?;
        Ok(report)
    }

    /// Reads every blob back and checks SHA-256, BLAKE3 and outboard. Damaged blobs are removed and reported.
    /// `progress` is called after each blob and a few times a second. Dropping the future stops the reading.
    pub async fn verify(
        &self,
        progress: impl FnMut(VerifyProgress) + Send,
    ) -> Result<VerifyReport, StoreError> {
        verify::verify(&self.inner, progress).await
    }

    /// Shows `visitor` everything that is held, on a blocking thread, and gives it back. Reads every narinfo file.
    pub async fn visit<V: Visitor>(&self, visitor: V) -> Result<V, StoreError> {
        let store = self.inner.clone();
        self.inner.blocking.long("listing", move || visit::visit(&store, visitor)).await
    }

    /// Writes pending access times and flushes the index, and waits for the files of fetches that have just ended. To
    /// be called before the process ends.
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.short("flush", |store| {
            store.partials.wait_until_settled();
            store.flush_touches()
        })
        .await?;
        self.inner.index.flush().await
    }

    /// [`BlobStore::flush`], giving this handle up. The directory stays locked until all others are gone too.
    pub async fn close(self) -> Result<(), StoreError> {
        self.flush().await
    }

    async fn mark(&self, id: BlobId, mark: Mark, on: bool) -> Result<BlobMeta, StoreError> {
        let meta = self.short("marking a blob", move |store| blob::mark(store, id, mark, on)).await?;
        self.inner.index.flush().await?;
        Ok(meta)
    }

    async fn short<T: Send + 'static>(
        &self,
        action: &'static str,
        work: impl FnOnce(&Arc<StoreInner>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.inner.clone();
        self.inner.blocking.short(action, move || work(&store)).await
    }
}
