//! Storing a body of unknown length: spooled to a temporary file, hashed on the way, committed when it is what it
//! was said to be.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use p2p_cache_protocol::Digest;

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

/// The spooled part of a body.
struct Spool {
    files: TempFiles,
    data: File,
    outboard: File,
    sha256: Sha256,
    size: u64,
}

pub(super) async fn put<S>(
    store: &Arc<StoreInner>,
    expected: Digest,
    mut body: S,
    publish: bool,
) -> Result<BlobMeta, StoreError>
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
    let owned = store.clone();
    let meta = store.blocking.long("commit", move || spool.finish(&owned, expected, publish)).await?;
    store.index.flush().await?;
    evict::after_commit(store, meta.id).await;
    Ok(meta)
}

impl Spool {
    fn create(store: &Arc<StoreInner>) -> Result<Spool, StoreError> {
        let files = TempFiles::reserve(store)?;
        let create = |path: &std::path::Path| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(path)
                .map_err(|e| StoreError::io("cannot create", path, e))
        };
        let (data, outboard) = (create(&files.data)?, create(&files.outboard)?);
        Ok(Spool { data, outboard, files, sha256: Sha256::default(), size: 0 })
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

    fn finish(self, store: &StoreInner, expected: Digest, publish: bool) -> Result<BlobMeta, StoreError> {
        let sha256 = self.sha256.finish();
        if let Digest::Sha256(_) = expected
            && expected != Digest::Sha256(sha256)
        {
            return Err(StoreError::Mismatch { expected, actual: Digest::Sha256(sha256) });
        }
        let id = outboard::build(&self.data, self.size, &self.outboard)
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
                data: &self.data,
                outboard: &self.outboard,
                id,
                sha256,
                size: self.size,
                publish,
            },
        )
    }
}
