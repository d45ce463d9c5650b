//! Clearing up on demand: leftovers, orphans, and blobs down to a size.

use super::error::StoreError;
use super::evict;
use super::inner::StoreInner;
use super::reconcile::{self, When};

/// What a garbage collection shall do beside removing leftovers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GcOptions {
    /// Evict, least recently used first, until at most this many bytes are held. `None`: down to the size limit of
    /// the store, if it has one. Pinned blobs stay.
    pub target_bytes: Option<u64>,
}

/// What a garbage collection did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Blobs evicted.
    pub removed_blobs: u64,
    /// Bytes of those, with their outboards.
    pub freed_bytes: u64,
    /// Unfinished writes whose files were removed, leftovers that could have been taken up again among them.
    pub removed_partials: u64,
    /// Outboards, markers and damaged files that belonged to nothing.
    pub removed_orphans: u64,
    /// Blobs and narinfos on disk that the index had not known rightly.
    pub adopted: u64,
    /// Index entries whose files were gone.
    pub dropped: u64,
    /// Outboards made anew.
    pub repaired: u64,
}

/// Blocking.
pub(super) fn gc(store: &StoreInner, options: GcOptions) -> Result<GcReport, StoreError> {
    let cleared = reconcile::reconcile(store, When::Running)?;
    let evicted = match options.target_bytes {
        Some(target) => evict::evict_to(store, target.min(store.config.max_bytes.unwrap_or(target)), None)?,
        None => evict::evict_over_limit(store, None)?,
    };
    Ok(GcReport {
        removed_blobs: evicted.blobs,
        freed_bytes: evicted.bytes,
        removed_partials: cleared.partials,
        removed_orphans: cleared.orphans,
        adopted: cleared.adopted,
        dropped: cleared.dropped,
        repaired: cleared.repaired,
    })
}
