//! A blob that is held, as a response body.
//!
//! What the page cache holds is read at once, without a thread in between; only what has to come from the disk goes to
//! a blocking thread. Buffers are used again: a body has one chunk with the socket and one being filled.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use p2p_cache_http_gateway::{Artifact, BODY_CHUNK_BYTES, BodyStream, SourceError};
use p2p_cache_protocol::Digest;
use rustix::io::{Errno, ReadWriteFlags};

use crate::store::StoredBlob;

/// Buffers of one body that wait to be used again; with the one being filled and the one with the socket this is what
/// a body may cost in memory.
const MAX_SPARE_BUFFERS: usize = 2;

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

/// Reads what can be had without waiting for the disk; 0 when that is nothing, or when the file system cannot tell.
fn read_cached(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    match rustix::io::preadv2(file, &mut [IoSliceMut::new(buffer)], offset, ReadWriteFlags::NOWAIT) {
        Ok(read) => Ok(read),
        Err(Errno::AGAIN | Errno::INTR | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// The buffers of one body, zeroed once and not at every use.
#[derive(Default)]
struct Buffers {
    spare: Mutex<Vec<Vec<u8>>>,
}

impl Buffers {
    fn take(&self, length: usize) -> Vec<u8> {
        let mut buffer = self.lock().pop().unwrap_or_default();
        buffer.resize(length, 0);
        buffer
    }

    /// Gives the bytes away; the buffer comes back when the last of them was sent.
    fn lend(self: &Arc<Self>, buffer: Vec<u8>) -> Bytes {
        Bytes::from_owner(Lent { buffer, home: Arc::clone(self) })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Lent {
    buffer: Vec<u8>,
    home: Arc<Buffers>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut spare = self.home.lock();
        if spare.len() < MAX_SPARE_BUFFERS {
            spare.push(std::mem::take(&mut self.buffer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_and_no_more_are_kept_than_the_bound() {
        let buffers = Arc::new(Buffers::default());
        let lent: Vec<_> = (0..5).map(|_| buffers.lend(buffers.take(1000))).collect();
        let place = lent[0].as_ptr();
        drop(lent);
        assert_eq!(buffers.lock().len(), MAX_SPARE_BUFFERS);
        let again: Vec<_> = (0..MAX_SPARE_BUFFERS).map(|_| buffers.take(10)).collect();
        assert!(again.iter().any(|buffer| buffer.as_ptr() == place && buffer.len() == 10));
    }

    #[test]
    fn what_is_in_the_page_cache_is_read_at_once_and_the_end_of_the_file_is_no_fault() {
        let file = tempfile::tempfile().expect("a file");
        file.write_all_at(b"0123456789", 0).expect("written");
        let mut buffer = [0; 20];
        let read = read_cached(&file, &mut buffer, 4).expect("no fault");
        assert!(read == 0 || buffer[..read] == b"456789"[..read]);
        assert_eq!(read_cached(&file, &mut buffer, 10).expect("no fault"), 0);
    }
}
