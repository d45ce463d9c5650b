//! Keeping the store below its size limit: the least recently used blobs go first, pinned ones never.

use std::collections::BinaryHeap;
use std::sync::atomic::Ordering;

use p2p_cache_protocol::{BlobId, MAX_BLOB_BYTES, tree};

use super::error::StoreError;
use super::inner::{StoreInner, lock};
use super::leftovers;

/// Candidates gathered in one pass over the index: 64 bytes each.
const CANDIDATES: usize = 4096;
/// Above this number of blobs an eviction frees a little more than it must, so that not every commit scans the index.
const MANY_BLOBS: u64 = 4096;
/// What it frees more: this fraction of the limit.
const SLACK_DIVISOR: u64 = 64;

/// What an eviction did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Evicted {
    pub(super) blobs: u64,
    pub(super) bytes: u64,
}

/// Evicts when blobs and leftovers are over the limit. `keep` is the blob whose commit caused the call.
pub(super) fn evict_over_limit(store: &StoreInner, keep: Option<BlobId>) -> Result<Evicted, StoreError> {
    let Some(max) = store.config.max_bytes else { return Ok(Evicted::default()) };
    if !is_over(store, max) {
        return Ok(Evicted::default());
    }
    let slack = if store.totals.blobs.load(Ordering::Relaxed) > MANY_BLOBS { max / SLACK_DIVISOR } else { 0 };
    let evicted =
        evict_to(store, max.saturating_sub(store.partials.idle_bytes()).saturating_sub(slack), keep)?;
    // What is left is pinned, or was committed just now.
    while is_over(store, max) && leftovers::make_room(store) {}
    Ok(evicted)
}

/// True when blobs and leftovers together take more than `max` bytes.
fn is_over(store: &StoreInner, max: u64) -> bool {
    store.totals.bytes.load(Ordering::Relaxed).saturating_add(store.partials.idle_bytes()) > max
}

/// Evicts until at most `target_bytes` are held, or only pinned blobs are left.
pub(super) fn evict_to(
    store: &StoreInner,
    target_bytes: u64,
    keep: Option<BlobId>,
) -> Result<Evicted, StoreError> {
    let _one_at_a_time = lock(&store.evicting);
    store.flush_touches()?;
    let mut evicted = Evicted::default();
    while store.totals.bytes.load(Ordering::Relaxed) > target_bytes {
        let mut progress = false;
        for (last_access_ms, id) in oldest(store, keep)? {
            if store.totals.bytes.load(Ordering::Relaxed) <= target_bytes {
                break;
            }
            if let Some(bytes) = evict(store, id, last_access_ms)? {
                progress = true;
                evicted.blobs += 1;
                evicted.bytes += bytes;
            }
        }
        if !progress {
            break;
        }
    }
    Ok(evicted)
}

/// The least recently used blobs that may go, oldest first.
fn oldest(store: &StoreInner, keep: Option<BlobId>) -> Result<Vec<(u64, BlobId)>, StoreError> {
    let mut heap = BinaryHeap::with_capacity(CANDIDATES + 1);
    for entry in store.index.blobs() {
        let (id, record) = entry?;
        if record.pinned || Some(id) == keep {
            continue;
        }
        heap.push((record.last_access_ms, id));
        if heap.len() > CANDIDATES {
            heap.pop();
        }
    }
    Ok(heap.into_sorted_vec())
}

/// Removes one blob unless it was pinned, used or committed anew since it was chosen.
fn evict(store: &StoreInner, id: BlobId, last_access_ms: u64) -> Result<Option<u64>, StoreError> {
    let _shard = store.lock_shard(id.0[0]);
    let Some(record) = store.index.get(id)? else { return Ok(None) };
    if record.pinned || record.last_access_ms != last_access_ms {
        return Ok(None);
    }
    store.remove_locked(id, &record)?;
    tracing::debug!(blob = %id, bytes = record.size, "evicted");
    Ok(Some(record.stored_bytes()))
}

/// Refuses a blob that cannot fit however much is evicted.
pub(super) fn check_limit(store: &StoreInner, size: u64) -> Result<(), StoreError> {
    let pinned_bytes = store.totals.pinned_bytes.load(Ordering::Relaxed);
    let max_bytes = store.config.max_bytes.unwrap_or(u64::MAX);
    let needed = size.saturating_add(tree::outboard_bytes(size));
    if size > MAX_BLOB_BYTES || needed.saturating_add(pinned_bytes) > max_bytes {
        let max_bytes = max_bytes.min(MAX_BLOB_BYTES);
        return Err(StoreError::TooLarge { size_bytes: size, max_bytes, pinned_bytes });
    }
    Ok(())
}

/// Refuses to write `more_bytes` when the disk has no room for them beside what unfinished blobs were promised, not
/// even without leftovers. The index must never meet a full disk: sled refuses everything from then on.
pub(super) fn check_free(store: &StoreInner, more_bytes: u64) -> Result<(), StoreError> {
    let path = store.layout.partials();
    loop {
        let free = fs4::available_space(&path)
            .map_err(|e| StoreError::io("cannot ask for the free space of", &path, e))?;
        let promised = store.partials.promised_bytes.load(Ordering::Relaxed);
        let needed = more_bytes.saturating_add(promised).saturating_add(store.config.min_free_bytes);
        if free >= needed {
            return Ok(());
        }
        // What all leftovers together could not make possible costs none of them.
        if free.saturating_add(store.partials.idle_bytes()) < needed || !leftovers::make_room(store) {
            return Err(StoreError::NoSpace { path, needed_bytes: Some(needed) });
        }
    }
}

/// The eviction that follows a commit. Its failure is no failure of the commit.
pub(super) async fn after_commit(store: &std::sync::Arc<StoreInner>, committed: BlobId) {
    if store.config.max_bytes.is_none_or(|max| !is_over(store, max)) {
        return;
    }
    let evicting = store.clone();
    match store.blocking.long("eviction", move || evict_over_limit(&evicting, Some(committed))).await {
        Ok(evicted) if evicted.blobs > 0 => {
            tracing::info!(
                blobs = evicted.blobs,
                bytes = evicted.bytes,
                "evicted blobs to stay below the size limit"
            );
        }
        Ok(_) => {}
        Err(error) => tracing::error!(%error, "eviction failed: the store is over its size limit"),
    }
}
