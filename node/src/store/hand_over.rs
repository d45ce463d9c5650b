//! Giving up blobs whose bytes stand elsewhere on this machine. All of it blocks, for callers on threads of their own.

use std::fs;
use std::io;
use std::path::Path;

use p2p_cache_protocol::{BlobId, Digest};

use super::BlobStore;
use super::blob::BlobMeta;
use super::error::StoreError;

impl BlobStore {
    /// [`BlobStore::find`]. Blocking.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn find_blocking(&self, digest: Digest) -> Result<Option<BlobMeta>, StoreError> {
        let found = self.inner.index.find(digest)?;
        Ok(found.map(|(id, record)| BlobMeta::new(id, &record)))
    }

    /// Makes the outboard of a blob appear at `to` too, as a second name of the same file where the file system allows
    /// that. False when the blob is not held. Blocking.
    ///
    /// # Errors
    /// [`StoreError::Io`], also when there is something at `to`.
    pub fn export_outboard(&self, id: BlobId, to: &Path) -> Result<bool, StoreError> {
        let _shard = self.inner.lock_shard(id.0[0]);
        let Some(record) = self.inner.index.get(id)? else { return Ok(false) };
        let from = self.inner.layout.outboard(id, record.sha256);
        let exported = match fs::hard_link(&from, to) {
            Err(e) if matches!(e.kind(), io::ErrorKind::CrossesDevices | io::ErrorKind::PermissionDenied) => {
                fs::copy(&from, to).map(|_| ())
            }
            linked => linked,
        };
        exported.map_err(|e| StoreError::io("cannot link the outboard to", to, e))?;
        Ok(true)
    }

    /// Removes a blob that nobody has pinned or published by hand; true when it is gone. Readers that have it open go on.
    /// Blocking; that it is gone may be forgotten in a crash, and is found out again at the next start.
    ///
    /// # Errors
    /// When files or index refuse.
    pub fn give_up(&self, id: BlobId) -> Result<bool, StoreError> {
        let _shard = self.inner.lock_shard(id.0[0]);
        let Some(record) = self.inner.index.get(id)? else { return Ok(false) };
        if record.pinned || record.published {
            return Ok(false);
        }
        self.inner.remove_locked(id, &record)?;
        Ok(true)
    }
}
