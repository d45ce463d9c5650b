//! A blob that is held, as a response body.

use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use p2p_cache_http_gateway::{Artifact, BODY_CHUNK_BYTES, BodyStream, SourceError};
use p2p_cache_protocol::Digest;

use crate::store::StoredBlob;

/// Chunks read ahead of the socket, so that disk and network work at the same time.
const CHUNKS_AHEAD: usize = 2;

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
        let starts = range.clone().step_by(BODY_CHUNK_BYTES);
        let chunks = futures::stream::iter(starts).map(move |start| {
            let length = (range.end - start).min(BODY_CHUNK_BYTES as u64) as usize;
            let blob = self.blob.clone();
            async move {
                let read = move || -> io::Result<Bytes> {
                    let mut buffer = vec![0; length];
                    blob.data().read_exact_at(&mut buffer, start)?;
                    Ok(Bytes::from(buffer))
                };
                tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
            }
        });
        chunks.buffered(CHUNKS_AHEAD).boxed()
    }

    async fn ready(&self) -> Result<(), SourceError> {
        Ok(())
    }
}
