//! A blob while it is being fetched: sparse files that are filled from any end and read at the same time.

mod batch;
mod ending;
mod hasher;
mod opening;
mod progress;
#[cfg(test)]
mod resume_tests;
mod reverify;
mod sidecar;
#[cfg(test)]
mod tests;
mod write;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use p2p_cache_protocol::{BlobId, Digest, GroupRange, GroupSet, Sha256Digest, tree};
use tokio::sync::watch;

use self::ending::Saver;

use self::hasher::{MIN_SLICE_BYTES, PrefixHasher, SLICE_BYTES};
use self::progress::Progress;
use self::write::SequentialFill;
use super::blob::BlobMeta;
use super::commit::{self, Finished};
use super::error::{StoreError, WriteError};
use super::evict;
use super::inner::{StoreInner, lock};
use super::outboard;
use super::temp_files::TempFiles;

pub(super) use self::opening::Begun;
pub(super) use self::sidecar::Sidecar;

/// A blob that is being fetched. Clones share it; two file descriptors and one bit a group in memory.
///
/// [`PartialBlob::suspend`], and a kill of the process, leave what has arrived for the next
/// [`BlobStore::create_partial`](super::BlobStore::create_partial) of the same blob. [`PartialBlob::abort`] removes it.
/// When the last clone goes without either and without a commit, it is removed too, unless an earlier fetch had left it.
#[derive(Debug, Clone)]
pub struct PartialBlob {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<StoreInner>,
    temp: Arc<TempFiles>,
    data: Arc<File>,
    outboard: File,
    expected: Digest,
    size: u64,
    blob: Mutex<Option<BlobId>>,
    write: Mutex<SequentialFill>,
    progress: Progress,
    hasher: PrefixHasher,
    saver: Mutex<Saver>,
    /// True when an earlier fetch left some of it.
    taken_up: bool,
    /// True when some of that was never checked against a hash tree.
    kept_unproven: bool,
    /// True when the whole turned out to be something else.
    spoiled: AtomicBool,
    /// The outcome of the files' move, which goes on when the caller of `commit` stops waiting.
    sealed: Mutex<Option<BlobMeta>>,
    committed: tokio::sync::Mutex<Option<BlobMeta>>,
}

impl PartialBlob {
    /// Length of the whole blob in bytes.
    pub fn size(&self) -> u64 {
        self.inner.size
    }

    /// What the caller asked for.
    pub fn expected(&self) -> Digest {
        self.inner.expected
    }

    /// The BLAKE3 root that groups are verified against: claimed or asked for, proved only by the commit.
    pub fn blob_id(&self) -> Option<BlobId> {
        *lock(&self.inner.blob)
    }

    /// Fixes the BLAKE3 root that groups are verified against. The first [`PartialBlob::write_groups`] does so too.
    ///
    /// # Errors
    /// [`WriteError::OtherBlob`] when another root is in use already.
    pub fn set_blob_id(&self, given: BlobId) -> Result<(), WriteError> {
        let known = *lock(&self.inner.blob).get_or_insert(given);
        if known == given { Ok(()) } else { Err(WriteError::OtherBlob { known, given }) }
    }

    /// Contiguous bytes present from offset 0.
    pub fn prefix_bytes(&self) -> u64 {
        self.inner.progress.prefix_bytes()
    }

    /// Contiguous bytes present from `offset` on.
    pub fn available_from(&self, offset: u64) -> u64 {
        self.inner.progress.available_from(offset)
    }

    /// End of the run of present bytes that begins at `offset`; `offset` itself when that byte is missing.
    pub fn present_until(&self, offset: u64) -> u64 {
        offset.saturating_add(self.available_from(offset))
    }

    /// The same for bytes that came verified against [`PartialBlob::blob_id`].
    pub fn verified_until(&self, offset: u64) -> u64 {
        offset.saturating_add(self.inner.progress.verified_from(offset))
    }

    /// True when all bytes of the range are present (an empty range always is).
    pub fn has(&self, range: std::ops::Range<u64>) -> bool {
        range.is_empty()
            || (range.end <= self.inner.size && self.available_from(range.start) >= range.end - range.start)
    }

    /// True when all groups of the range came verified against [`PartialBlob::blob_id`].
    pub fn is_verified(&self, range: GroupRange) -> bool {
        range.end <= self.inner.progress.group_count() && self.inner.progress.is_verified(range)
    }

    /// The runs of groups that came verified against [`PartialBlob::blob_id`], in order.
    pub fn verified(&self) -> Vec<GroupRange> {
        self.inner.progress.verified()
    }

    /// An empty set of groups, of this blob's length.
    pub fn no_groups(&self) -> GroupSet {
        GroupSet::new(self.inner.progress.group_count())
    }

    /// True when an earlier fetch left bytes that only the hash of the whole can check: when that is wrong, nobody who
    /// took part in this one need be at fault.
    pub fn has_kept_unproven(&self) -> bool {
        self.inner.kept_unproven
    }

    /// True when every group is present.
    pub fn is_complete(&self) -> bool {
        self.inner.progress.is_complete()
    }

    /// The runs of groups that are not present, in order.
    pub fn missing(&self) -> Vec<GroupRange> {
        self.inner.progress.missing()
    }

    /// A snapshot of the groups that are present.
    pub fn groups(&self) -> GroupSet {
        self.inner.progress.groups()
    }

    /// Watches [`PartialBlob::prefix_bytes`]. Also woken by [`PartialBlob::abort`]: look at
    /// [`PartialBlob::failure`] after each change.
    pub fn progress(&self) -> watch::Receiver<u64> {
        self.inner.progress.watch_prefix()
    }

    /// Changes whenever any group arrives, and on [`PartialBlob::abort`].
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.progress.watch_generation()
    }

    /// Waits until at least one byte at `offset` is present; returns the contiguous bytes from there (0 at the end
    /// of the blob). Dropping the future is harmless.
    ///
    /// # Errors
    /// [`StoreError::Aborted`] when the fetch fails while waiting.
    pub async fn readable(&self, offset: u64) -> Result<u64, StoreError> {
        let mut changed = self.changes();
        loop {
            changed.borrow_and_update();
            self.check_alive()?;
            let available = self.available_from(offset);
            if available > 0 || offset >= self.inner.size {
                return Ok(available);
            }
            if changed.changed().await.is_err() {
                return Err(StoreError::Aborted { reason: "the store is gone".into() });
            }
        }
    }

    /// Reads present bytes at `offset` into `buffer`, as many as are there in one run; 0 at the end of the blob.
    /// Blocking.
    ///
    /// # Errors
    /// `WouldBlock` when the first byte is not present yet; any error after [`PartialBlob::abort`].
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(reason) = self.failure() {
            return Err(io::Error::other(format!("fetch abandoned: {reason}")));
        }
        if offset >= self.inner.size || buffer.is_empty() {
            return Ok(0);
        }
        let available = self.available_from(offset);
        if available == 0 {
            return Err(io::Error::new(
                io::ErrorKind::WouldBlock,
                format!("byte {offset} has not arrived yet"),
            ));
        }
        let length = usize::try_from(available).unwrap_or(usize::MAX).min(buffer.len());
        self.inner.data.read_at(&mut buffer[..length], offset)
    }

    /// Fills `out`, which must have exactly that length, with the bao response for a range, when all of it came
    /// verified; false otherwise. This is how an unfinished blob is passed on. Blocking.
    ///
    /// # Errors
    /// Any read error.
    pub fn encode_verified(&self, range: GroupRange, out: &mut [u8]) -> io::Result<bool> {
        let (Some(blob), true) = (self.blob_id(), self.is_verified(range)) else { return Ok(false) };
        tree::encode_range_into(blob, self.inner.size, &*self.inner.data, &self.inner.outboard, range, out)?;
        Ok(true)
    }

    /// Why the fetch was given up, if it was.
    pub fn failure(&self) -> Option<Arc<str>> {
        self.inner.progress.failure()
    }

    fn check_alive(&self) -> Result<(), StoreError> {
        self.failure().map_or(Ok(()), |reason| Err(StoreError::Aborted { reason }))
    }

    /// Bytes that [`PartialBlob::verify_whole`] has hashed so far.
    pub fn hashed_bytes(&self) -> u64 {
        self.inner.hasher.offset()
    }

    /// Hashes the contiguous prefix as it grows, in slices on blocking threads, and returns the SHA-256 when the
    /// whole blob is present. Holds no thread while it waits. Any number of callers share one pass; dropping the
    /// future loses nothing.
    ///
    /// # Errors
    /// [`StoreError::Aborted`] when the fetch is given up; read errors of the disk.
    pub async fn verify_whole(&self) -> Result<Sha256Digest, StoreError> {
        let inner = &*self.inner;
        let mut prefix = self.progress();
        let _turn = inner.hasher.turn.lock().await;
        loop {
            self.check_alive()?;
            let (hashed, present) = (inner.hasher.offset(), *prefix.borrow_and_update());
            if hashed == inner.size {
                return Ok(inner.hasher.digest());
            }
            let end = present.min(hashed.saturating_add(SLICE_BYTES));
            if end > hashed && (end - hashed >= MIN_SLICE_BYTES || present == inner.size) {
                let slice = inner.hasher.slice(end);
                let (data, path) = (inner.data.clone(), inner.temp.data.clone());
                inner
                    .store
                    .blocking
                    .long("hashing", move || {
                        slice(&data).map_err(|e| StoreError::io("cannot read", &path, e))
                    })
                    .await?;
                // Readers wait for the hash, too.
                inner.progress.notify();
            } else if prefix.changed().await.is_err() {
                return Err(StoreError::Aborted { reason: "the store is gone".into() });
            }
        }
    }

    /// Commits the blob: returns when it would survive a crash. `sha256` is what the caller believes it to be; the
    /// store hashes for itself (what [`PartialBlob::verify_whole`] has done already is not done again). The
    /// returned id is computed from the bytes: compare it with the claim. Readers of this handle go on reading.
    /// Repeated and concurrent calls are harmless.
    ///
    /// # Errors
    /// [`StoreError::Incomplete`], [`StoreError::Mismatch`] (nothing is kept), or the disk's.
    pub async fn commit(&self, sha256: Sha256Digest, publish: bool) -> Result<BlobMeta, StoreError> {
        let mut committed = self.inner.committed.lock().await;
        if let Some(meta) = *committed {
            return require(Digest::Sha256(sha256), Digest::Sha256(meta.sha256)).map(|()| meta);
        }
        self.check_alive()?;
        if !self.is_complete() {
            let (present_bytes, size_bytes) = (self.prefix_bytes(), self.inner.size);
            return Err(StoreError::Incomplete { present_bytes, size_bytes });
        }
        let actual = self.verify_whole().await?;
        self.require(Digest::Sha256(sha256), Digest::Sha256(actual))?;
        if let expected @ Digest::Sha256(_) = self.inner.expected {
            self.require(expected, Digest::Sha256(actual))?;
        }
        let store = &self.inner.store;
        let partial = self.clone();
        let meta = store.blocking.long("commit", move || partial.seal(sha256, publish)).await?;
        store.index.flush().await?;
        *committed = Some(meta);
        drop(committed);
        evict::after_commit(store, meta.id).await;
        Ok(meta)
    }

    /// Completes the outboard and moves the files into place.
    fn seal(&self, sha256: Sha256Digest, publish: bool) -> Result<BlobMeta, StoreError> {
        let inner = &*self.inner;
        let mut sealed = lock(&inner.sealed);
        if let Some(meta) = *sealed {
            return Ok(meta);
        }
        if inner.temp.is_ended() {
            let reason = self.failure().unwrap_or_else(|| "the files were given up".into());
            return Err(StoreError::Aborted { reason });
        }
        let id = match self.blob_id() {
            // Every group came with its path, so every node of the tree has been written and checked.
            Some(blob) if inner.size > 0 && inner.progress.all_verified() => blob,
            _ => outboard::build(&inner.data, inner.size, &inner.outboard)
                .map_err(|e| StoreError::io("cannot build the hash tree of", &inner.temp.data, e))?,
        };
        if let expected @ Digest::Blake3(_) = inner.expected {
            self.require(expected, Digest::Blake3(id))?;
        }
        // Nobody may note progress beside files that are being moved.
        let _saver = lock(&inner.saver);
        let finished = Finished {
            files: &inner.temp,
            data: &inner.data,
            outboard: &inner.outboard,
            id,
            sha256,
            size: inner.size,
            publish,
        };
        let meta = commit::place(&inner.store, &finished)?;
        *sealed = Some(meta);
        Ok(meta)
    }

    /// Compares, and remembers a difference: such bytes are not left for another fetch.
    fn require(&self, expected: Digest, actual: Digest) -> Result<(), StoreError> {
        let result = require(expected, actual);
        if result.is_err() {
            self.inner.spoiled.store(true, Ordering::SeqCst);
        }
        result
    }
}

fn require(expected: Digest, actual: Digest) -> Result<(), StoreError> {
    if expected == actual { Ok(()) } else { Err(StoreError::Mismatch { expected, actual }) }
}
