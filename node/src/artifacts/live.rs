//! A NAR that is read from the live store, as a response body.
//!
//! To open a file may have to wait for the disk, so most of it happens on a blocking thread: a whole chunk at a time,
//! however many files it has, and one chunk ahead of the socket. Within a large file that is open, what the page cache
//! holds is read at once, without a thread in between.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use p2p_cache_http_gateway::{Artifact, BODY_CHUNK_BYTES, BodyStream, SourceError};
use p2p_cache_protocol::Digest;
use tokio_util::task::AbortOnDropHandle;

use super::buffers::Buffers;
use crate::nix_store::nar::NarReader;

/// What must be left of an open file for its next chunk to be read at once: a chunk that is much smaller costs more
/// than a change of threads.
const MIN_AT_ONCE_BYTES: u64 = BODY_CHUNK_BYTES as u64 / 4;
/// What is read to see whether the store path is still there: the framing and the first file of most.
const PROBE_BYTES: usize = 1024;

/// Reads the NAR of a store path by position. A path that is collected in mid-body breaks the body off.
pub struct LiveArtifact {
    reader: Arc<NarReader>,
    digest: Digest,
}

impl LiveArtifact {
    /// `digest` is that of the NAR, by which it was asked for.
    pub fn new(reader: Arc<NarReader>, digest: Digest) -> Self {
        Self { reader, digest }
    }
}

#[async_trait]
impl Artifact for LiveArtifact {
    fn size(&self) -> u64 {
        self.reader.size()
    }

    fn digest(&self) -> Digest {
        self.digest
    }

    fn read(self: Arc<Self>, range: Range<u64>) -> BodyStream {
        let body =
            Body { reader: Arc::clone(&self.reader), buffers: Arc::default(), rest: range, ahead: None };
        futures::stream::try_unfold(body, |mut body| async move {
            let chunk = body.next().await?;
            Ok(chunk.map(|chunk| (chunk, body)))
        })
        .boxed()
    }

    async fn ready(&self) -> Result<(), SourceError> {
        let reader = Arc::clone(&self.reader);
        let probe = move || reader.read_at(0, &mut [0; PROBE_BYTES]);
        let probed = tokio::task::spawn_blocking(probe).await.map_err(io::Error::other);
        match probed.and_then(|read| read) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(SourceError::NotFound),
            Err(error) => Err(SourceError::Internal(error.to_string())),
        }
    }
}

/// What is left to send.
struct Body {
    reader: Arc<NarReader>,
    buffers: Arc<Buffers>,
    rest: Range<u64>,
    /// The chunk at the start of `rest`, on its way.
    ahead: Option<AbortOnDropHandle<io::Result<Vec<u8>>>>,
}

impl Body {
    /// The next chunk; `None` at the end.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let chunk = match self.ahead.take() {
            Some(ahead) => ahead,
            None => match self.at_once()? {
                Some(chunk) => return Ok(Some(chunk)),
                None => self.fill(),
            },
        };
        let chunk = chunk.await.map_err(io::Error::other)??;
        self.rest.start += chunk.len() as u64;
        if !self.rest.is_empty() && !self.is_open() {
            self.ahead = Some(self.fill());
        }
        Ok(Some(self.buffers.lend(chunk)))
    }

    /// Whether enough of the rest is in a file that is open.
    fn is_open(&self) -> bool {
        self.reader.open_bytes(self.rest.start) >= MIN_AT_ONCE_BYTES
    }

    /// A chunk that the page cache holds.
    fn at_once(&mut self) -> io::Result<Option<Bytes>> {
        if !self.is_open() {
            return Ok(None);
        }
        let mut buffer = self.buffers.take(self.chunk_bytes());
        let read = self.reader.read_cached_at(self.rest.start, &mut buffer)?;
        if read == 0 {
            return Ok(None);
        }
        buffer.truncate(read);
        self.rest.start += read as u64;
        Ok(Some(self.buffers.lend(buffer)))
    }

    /// Begins to read the chunk at the start of the rest.
    fn fill(&self) -> AbortOnDropHandle<io::Result<Vec<u8>>> {
        let (reader, start) = (Arc::clone(&self.reader), self.rest.start);
        let mut buffer = self.buffers.take(self.chunk_bytes());
        let read = move || reader.read_exact_at(start, &mut buffer).map(|()| buffer);
        AbortOnDropHandle::new(tokio::task::spawn_blocking(read))
    }

    fn chunk_bytes(&self) -> usize {
        (self.rest.end - self.rest.start).min(BODY_CHUNK_BYTES as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use futures::TryStreamExt;
    use p2p_cache_protocol::BlobId;

    use super::*;
    use crate::nix_store::nar::{Layout, dump};

    /// A tree of small files before, within and behind large ones; its NAR.
    fn tree(root: &Path) -> Vec<u8> {
        std::fs::create_dir_all(root.join("m")).expect("a directory");
        for n in 0..300usize {
            let contents: Vec<u8> = (0..n * 37).map(|byte| (byte * n) as u8).collect();
            std::fs::write(root.join(format!("{}{n}", ["a", "m/x", "z"][n % 3])), contents).expect("a file");
        }
        let large: Vec<u8> = (0..3_000_000u32).map(|n| (n ^ (n >> 9)) as u8).collect();
        std::fs::write(root.join("b"), &large).expect("a file");
        std::fs::write(root.join("m/large"), &large[..700_001]).expect("a file");
        let mut nar = Vec::new();
        dump(root, &mut nar).expect("dumped");
        nar
    }

    fn artifact(root: &Path, nar: &[u8]) -> Arc<LiveArtifact> {
        let reader = NarReader::open(root, Arc::new(Layout::scan(root).expect("scanned"))).expect("opened");
        Arc::new(LiveArtifact::new(Arc::new(reader), Digest::Blake3(BlobId::of(nar))))
    }

    #[tokio::test]
    async fn whole_and_ranges_are_those_of_the_nar_in_chunks_of_bounded_size() {
        let directory = tempfile::tempdir().expect("a directory");
        let nar = tree(directory.path());
        let artifact = artifact(directory.path(), &nar);
        artifact.ready().await.expect("there");
        let size = nar.len() as u64;
        assert_eq!(artifact.size(), size);
        let chunk = BODY_CHUNK_BYTES as u64;
        let borders = [0, 1, chunk - 1, chunk, 1_000_000, 3_100_000, size - 1, size];
        for start in borders {
            for end in borders.into_iter().filter(|end| *end >= start) {
                let chunks: Vec<Bytes> =
                    Arc::clone(&artifact).read(start..end).try_collect().await.expect("read");
                assert!(chunks.iter().all(|chunk| !chunk.is_empty() && chunk.len() <= BODY_CHUNK_BYTES));
                assert!(chunks.concat() == nar[start as usize..end as usize], "{start}..{end}");
            }
        }
    }

    #[tokio::test]
    async fn path_that_is_collected_in_mid_body_breaks_it_off_and_is_not_found_afterwards() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path().join("path");
        let nar = tree(&root);
        let artifact = artifact(&root, &nar);
        let mut body = Arc::clone(&artifact).read(0..artifact.size());
        let first = body.next().await.expect("a chunk").expect("read");
        assert!(nar.starts_with(&first));
        std::fs::remove_dir_all(&root).expect("removed");
        let rest: Result<Vec<Bytes>, io::Error> = body.try_collect().await;
        assert_eq!(rest.expect_err("no more to be had").kind(), io::ErrorKind::NotFound);
        let fresh = NarReader::open(&root, Arc::clone(artifact.reader.layout()));
        assert!(fresh.expect_err("gone").is_gone());
        assert_eq!(artifact.ready().await, Err(SourceError::NotFound));
    }
}
