//! Committed blobs as callers see them.

use std::fs::File;
use std::sync::Arc;

use p2p_cache_protocol::{BlobId, GroupRange, Sha256Digest, tree};

use super::error::StoreError;
use super::index::BlobRecord;
use super::inner::StoreInner;
use super::layout;

/// What is known about a committed blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobMeta {
    /// BLAKE3 root.
    pub id: BlobId,
    /// SHA-256 of all bytes (NarHash, for a NAR).
    pub sha256: Sha256Digest,
    /// Length in bytes.
    pub size: u64,
    /// The owner shares it by hand.
    pub published: bool,
    /// Never evicted.
    pub pinned: bool,
}

impl BlobMeta {
    pub(super) fn new(id: BlobId, record: &BlobRecord) -> Self {
        BlobMeta {
            id,
            sha256: record.sha256,
            size: record.size,
            published: record.published,
            pinned: record.pinned,
        }
    }
}

/// An open blob for positioned reads by any number of readers. It stays readable when the blob is evicted
/// meanwhile: the files go when the last handle does. Two file descriptors, shared by all clones.
#[derive(Debug, Clone)]
pub struct StoredBlob {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    meta: BlobMeta,
    data: File,
    outboard: File,
}

impl StoredBlob {
    /// What is known about the blob.
    pub fn meta(&self) -> &BlobMeta {
        &self.shared.meta
    }

    /// The bytes; read with positioned reads only.
    pub fn data(&self) -> &File {
        &self.shared.data
    }

    /// The pre-order outboard without size prefix; read with positioned reads only.
    pub fn outboard(&self) -> &File {
        &self.shared.outboard
    }

    /// Fills `out`, which must have exactly that length, with the bao response for a range of chunk groups. Blocking;
    /// does not check the bytes, which the receiver does.
    ///
    /// # Errors
    /// Any read error, also when the range lies outside the blob.
    pub fn encode(&self, range: GroupRange, out: &mut [u8]) -> std::io::Result<()> {
        let meta = self.meta();
        tree::encode_range_into(meta.id, meta.size, self.data(), self.outboard(), range, out)
    }
}

/// Opens the files of a blob. A record whose files are gone or of a wrong length is dropped with a warning.
pub(super) fn open(store: &StoreInner, id: BlobId) -> Result<Option<StoredBlob>, StoreError> {
    let Some(record) = store.index.get(id)? else { return Ok(None) };
    let files = open_files(store, id, &record)?;
    let Some((data, outboard)) = files else {
        let _shard = store.lock_shard(id.0[0]);
        // Look again under the lock: a commit may just be replacing the files.
        let Some(record) = store.index.get(id)? else { return Ok(None) };
        let Some((data, outboard)) = open_files(store, id, &record)? else {
            tracing::warn!(blob = %id, "files of a blob are missing or cut short: dropped from the store");
            store.remove_locked(id, &record)?;
            return Ok(None);
        };
        return finish(store, id, &record, data, outboard);
    };
    finish(store, id, &record, data, outboard)
}

fn finish(
    store: &StoreInner,
    id: BlobId,
    record: &BlobRecord,
    data: File,
    outboard: File,
) -> Result<Option<StoredBlob>, StoreError> {
    store.touch(id)?;
    Ok(Some(StoredBlob { shared: Arc::new(Shared { meta: BlobMeta::new(id, record), data, outboard }) }))
}

/// Both files when they are there with the right lengths.
pub(super) fn open_files(
    store: &StoreInner,
    id: BlobId,
    record: &BlobRecord,
) -> Result<Option<(File, File)>, StoreError> {
    let wanted = [
        (store.layout.data(id, record.sha256), record.size),
        (store.layout.outboard(id, record.sha256), tree::outboard_bytes(record.size)),
    ];
    let mut open = Vec::with_capacity(2);
    for (path, length) in wanted {
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StoreError::io("cannot open", &path, e)),
        };
        let found = file.metadata().map_err(|e| StoreError::io("cannot stat", &path, e))?.len();
        if found != length {
            return Ok(None);
        }
        open.push(file);
    }
    let outboard = open.pop();
    Ok(open.pop().zip(outboard))
}

/// Sets or clears one of the owner's two marks: the marker file first, since it is what a rebuild reads.
pub(super) fn mark(store: &StoreInner, id: BlobId, mark: Mark, on: bool) -> Result<BlobMeta, StoreError> {
    let _shard = store.lock_shard(id.0[0]);
    let Some(old) = store.index.get(id)? else { return Err(StoreError::NotHeld { id }) };
    let path = match mark {
        Mark::Published => store.layout.published_marker(id),
        Mark::Pinned => store.layout.pinned_marker(id),
    };
    if on {
        layout::create_marker(&path)?;
    } else if layout::remove_file(&path)? {
        path.parent().map_or(Ok(()), layout::sync_dir)?;
    }
    let record = store.index.update(id, |record| match mark {
        Mark::Published => record.published = on,
        Mark::Pinned => record.pinned = on,
    })?;
    let Some(record) = record else { return Err(StoreError::NotHeld { id }) };
    store.totals.subtract(&old);
    store.totals.add(&record);
    Ok(BlobMeta::new(id, &record))
}

/// The owner's marks on a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    Published,
    Pinned,
}
