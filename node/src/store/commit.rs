//! Moving finished files into place so that a crash at any instant leaves either the whole blob or no trace of it.
//!
//! Order: sync data and outboard; rename the outboard, then the data (a data file in place implies its outboard);
//! marker; sync the directory; index insert; index flush. The blob counts from the moment its data file has its
//! final name: the next start adopts it when the index had not heard of it yet.

use std::fs::{self, File};
use std::path::Path;

use p2p_cache_protocol::{BlobId, Digest, Sha256Digest};

use super::blob::BlobMeta;
use super::error::StoreError;
use super::index::BlobRecord;
use super::inner::StoreInner;
use super::layout;
use super::leftovers;
use super::temp_files::TempFiles;

/// The instants between the steps of a commit, for tests that look at the disk there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum CommitStep {
    Written,
    Synced,
    OutboardInPlace,
    DataInPlace,
    Marked,
    DirectorySynced,
    Indexed,
}

/// A verified blob in its temporary files.
pub(super) struct Finished<'a> {
    pub(super) files: &'a TempFiles,
    pub(super) data: &'a File,
    pub(super) outboard: &'a File,
    pub(super) id: BlobId,
    pub(super) sha256: Sha256Digest,
    pub(super) size: u64,
    pub(super) publish: bool,
}

/// Puts a verified blob into the store; the caller flushes the index afterwards. Blocking. Writing a blob that is
/// there already replaces its files by equal ones (and thereby heals damaged ones).
pub(super) fn place(store: &StoreInner, blob: &Finished<'_>) -> Result<BlobMeta, StoreError> {
    store.step(CommitStep::Written);
    sync(blob.data, &blob.files.data)?;
    sync(blob.outboard, &blob.files.outboard)?;
    store.step(CommitStep::Synced);

    let shard = store.layout.shard(blob.id.0[0]);
    let _lock = store.lock_shard(blob.id.0[0]);
    make_shard(store, &shard)?;
    rename(&blob.files.outboard, &store.layout.outboard(blob.id, blob.sha256))?;
    store.step(CommitStep::OutboardInPlace);
    rename(&blob.files.data, &store.layout.data(blob.id, blob.sha256))?;
    blob.files.keep();
    store.step(CommitStep::DataInPlace);
    let old = store.index.get(blob.id)?;
    if blob.publish {
        layout::create_marker(&store.layout.published_marker(blob.id))?;
    }
    store.step(CommitStep::Marked);
    layout::sync_dir(&shard)?;
    store.step(CommitStep::DirectorySynced);
    let record = BlobRecord {
        sha256: blob.sha256,
        size: blob.size,
        last_access_ms: store.now_ms(),
        published: blob.publish || old.is_some_and(|old| old.published),
        pinned: old.is_some_and(|old| old.pinned),
    };
    store.record(blob.id, &record)?;
    store.step(CommitStep::Indexed);
    leftovers::forget(store, [Digest::Sha256(blob.sha256), Digest::Blake3(blob.id)], blob.size);
    Ok(BlobMeta::new(blob.id, &record))
}

fn make_shard(store: &StoreInner, shard: &Path) -> Result<(), StoreError> {
    match fs::create_dir(shard) {
        Ok(()) => layout::sync_dir(&store.layout.blobs()),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(StoreError::io("cannot create directory", shard, e)),
    }
}

fn sync(file: &File, path: &Path) -> Result<(), StoreError> {
    file.sync_all().map_err(|e| StoreError::io("cannot sync", path, e))
}

fn rename(from: &Path, to: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(|e| StoreError::io("cannot move into place", to, e))
}
