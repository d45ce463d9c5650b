//! A blob that is held, as a response body.
//!
//! What the page cache holds is read at once, without a thread in between; only what has to come from the disk goes to
//! a blocking thread. Buffers are used again: a body has one chunk with the socket and one being filled.

use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use p2p_cache_http_gateway::{Artifact, BODY_CHUNK_BYTES, BodyStream, SourceError};
use p2p_cache_protocol::Digest;

use super::buffers::Buffers;
use crate::store::StoredBlob;
use crate::system::read_cached;

/// Reads a committed blob by position; eviction in mid-body does not disturb it.
pub(super) struct StoredArtifact {
    blob: StoredBlob,
    digest: Digest,
}

impl StoredArtifact {
    pub(super) fn new(blob: StoredBlob, digest: Digest) -> Self {
        Self { blob, digest }
    }
}

#[async_trait]
impl Artifact for StoredArtifact {
    fn size(&self) -> u64 {
        self.blob.meta().size
    }

    fn digest(&self) -> Digest {
        self.digest
    }

    fn read(self: Arc<Self>, range: Range<u64>) -> BodyStream {
        let buffers = Arc::new(Buffers::default());
        let chunks = futures::stream::try_unfold(range, move |rest| {
            let (blob, buffers) = (self.blob.clone(), Arc::clone(&buffers));
            async move {
                if rest.is_empty() {
                    return Ok::<_, io::Error>(None);
                }
                let chunk = read_chunk(blob, &buffers, rest.clone()).await?;
                let next = rest.start + chunk.len() as u64..rest.end;
                Ok(Some((chunk, next)))
            }
        });
        chunks.boxed()
    }

    async fn ready(&self) -> Result<(), SourceError> {
        Ok(())
    }
}

/// The first bytes of `range`, which is not empty: at most a chunk, and less when only less is in the page cache.
async fn read_chunk(blob: StoredBlob, buffers: &Arc<Buffers>, range: Range<u64>) -> io::Result<Bytes> {
    let wanted = (range.end - range.start).min(BODY_CHUNK_BYTES as u64) as usize;
    let mut buffer = buffers.take(wanted);
    let at_once = read_cached(blob.data(), &mut buffer, range.start)?;
    if at_once > 0 {
        buffer.truncate(at_once);
        return Ok(buffers.lend(buffer));
    }
    let read = move || blob.data().read_exact_at(&mut buffer, range.start).map(|()| buffer);
    let buffer = tokio::task::spawn_blocking(read).await.map_err(io::Error::other)??;
    Ok(buffers.lend(buffer))
}
