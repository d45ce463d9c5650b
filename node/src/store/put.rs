//! Storing a body of unknown length: spooled to a temporary file, hashed on the way, committed when it is what it
//! was said to be.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use p2p_cache_protocol::{Digest, Sha256Digest};

use super::blob::BlobMeta;
use super::commit::{self, Finished};
use super::error::StoreError;
use super::evict;
use super::inner::StoreInner;
use super::outboard;
use super::temp_files::TempFiles;
use crate::sha256::Sha256;

/// Bytes gathered from the body before they are hashed and written in one turn on a blocking thread.
const SPOOL_BYTES: usize = 1024 * 1024;

/// A body that is on disk whole and hashed, and is no blob yet. Its files are removed when it is dropped, and at the next
/// start of the node. It holds no descriptor, and no place among the unfinished writes.
#[derive(Debug)]
pub struct SpooledBlob {
    files: TempFiles,
    sha256: Sha256Digest,
    size: u64,
}

impl SpooledBlob {
    /// SHA-256 of the bytes.
    pub fn sha256(&self) -> Sha256Digest {
        self.sha256
    }

    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

pub(super) async fn put<S>(
    store: &Arc<StoreInner>,
    expected: Digest,
    body: S,
    publish: bool,
) -> Result<BlobMeta, StoreError>
where
    S: Stream<Item = io::Result<Bytes>> + Send + Unpin,
{
    let spooled = spool(store, body).await?;
    if let Digest::Sha256(expected_sha256) = expected
        && expected_sha256 != spooled.sha256
    {
        return Err(StoreError::Mismatch { expected, actual: Digest::Sha256(spooled.sha256) });
    }
    commit(store, spooled, expected, publish).await
}

/// Reads a body to its end.
pub(super) async fn spool<S>(store: &Arc<StoreInner>, mut body: S) -> Result<SpooledBlob, StoreError>
where
    S: Stream<Item = io::Result<Bytes>> + Send + Unpin,
{
    let owned = store.clone();
    let mut spool = store.blocking.short("put", move || Spool::create(&owned)).await?;
    let mut received_bytes = 0;
    let mut ended = false;
    while !ended {
        let mut batch = Vec::new();
        let mut batch_bytes = 0;
        while batch_bytes < SPOOL_BYTES {
            match body.next().await {
                Some(Ok(bytes)) => {
                    batch_bytes += bytes.len();
                    batch.push(bytes);
                }
                Some(Err(source)) => return Err(StoreError::Body { received_bytes, source }),
                None => {
                    ended = true;
                    break;
                }
            }
        }
        received_bytes += batch_bytes as u64;
        let owned = store.clone();
        spool = store.blocking.long("put", move || spool.append(&owned, &batch)).await?;
    }
    let Spool { files, sha256, size, .. } = spool;
    files.park();
    Ok(SpooledBlob { files, sha256: sha256.finish(), size })
}

/// Makes a blob of it, if its bytes are the expected ones.
pub(super) async fn commit(
    store: &Arc<StoreInner>,
    spooled: SpooledBlob,
    expected: Digest,
    publish: bool,
) -> Result<BlobMeta, StoreError> {
    let owned = store.clone();
    let meta = store.blocking.long("commit", move || spooled.place(&owned, expected, publish)).await?;
    store.index.flush().await?;
    evict::after_commit(store, meta.id).await;
    Ok(meta)
}

/// A body that is being spooled.
struct Spool {
    files: TempFiles,
    data: File,
    sha256: Sha256,
    size: u64,
}

impl Spool {
    fn create(store: &Arc<StoreInner>) -> Result<Spool, StoreError> {
        let files = TempFiles::reserve(store)?;
        let data = create(&files.data)?;
        Ok(Spool { data, files, sha256: Sha256::default(), size: 0 })
    }

    fn append(mut self, store: &StoreInner, batch: &[Bytes]) -> Result<Spool, StoreError> {
        let more: u64 = batch.iter().map(|bytes| bytes.len() as u64).sum();
        evict::check_limit(store, self.size.saturating_add(more))?;
        evict::check_free(store, more)?;
        for bytes in batch {
            self.sha256.update(bytes);
            self.data
                .write_all_at(bytes, self.size)
                .map_err(|e| StoreError::io("cannot write", &self.files.data, e))?;
            self.size += bytes.len() as u64;
        }
        Ok(self)
    }
}

impl SpooledBlob {
    fn place(self, store: &StoreInner, expected: Digest, publish: bool) -> Result<BlobMeta, StoreError> {
        let data = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&self.files.data)
            .map_err(|e| StoreError::io("cannot open", &self.files.data, e))?;
        let outboard = create(&self.files.outboard)?;
        let id = outboard::build(&data, self.size, &outboard)
            .map_err(|e| StoreError::io("cannot build the hash tree of", &self.files.data, e))?;
        if let Digest::Blake3(_) = expected
            && expected != Digest::Blake3(id)
        {
            return Err(StoreError::Mismatch { expected, actual: Digest::Blake3(id) });
        }
        commit::place(
            store,
            &Finished {
                files: &self.files,
                data: &data,
                outboard: &outboard,
                id,
                sha256: self.sha256,
                size: self.size,
                publish,
            },
        )
    }
}

fn create(path: &Path) -> Result<File, StoreError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    options.open(path).map_err(|e| StoreError::io("cannot create", path, e))
}
