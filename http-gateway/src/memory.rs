//! A small [`ArtifactSource`] in memory: the twin of the daemon's, for tests and examples.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use p2p_cache_protocol::{BlobId, Compression, Digest, NarInfo, Sha256Digest, StoreHash};

use crate::{
    Artifact, ArtifactSource, BODY_CHUNK_BYTES, BodyStream, NarFile, PutOutcome, Rejection, SideFile,
    SideFileName, SourceError, Uploader, Uploads,
};

/// What a [`MemorySource::new`] takes at most, in bytes of blobs.
pub const DEFAULT_MAX_BYTES: u64 = 64 * 1024 * 1024;

/// Narinfos, NARs and blobs in memory. It hashes in the calling task, so it is for small blobs.
/// Clones share what they hold.
#[derive(Clone, Debug)]
pub struct MemorySource {
    max_bytes: u64,
    shelf: Arc<RwLock<Shelf>>,
}

#[derive(Debug, Default)]
struct Shelf {
    narinfos: HashMap<StoreHash, NarInfo>,
    blobs: HashMap<Sha256Digest, Held>,
    by_blake3: HashMap<BlobId, Sha256Digest>,
    side_files: HashMap<SideFileName, SideFile>,
    /// Uploaded NARs without a narinfo.
    waiting: HashMap<Sha256Digest, Bytes>,
    used_bytes: u64,
}

#[derive(Clone, Debug)]
struct Held {
    bytes: Bytes,
    published: bool,
}

impl Default for MemorySource {
    fn default() -> Self {
        Self::new()
    }
}

impl MemorySource {
    /// An empty source of [`DEFAULT_MAX_BYTES`].
    pub fn new() -> Self {
        Self::with_max_bytes(DEFAULT_MAX_BYTES)
    }

    /// An empty source that takes blobs of `max_bytes` together.
    pub fn with_max_bytes(max_bytes: u64) -> Self {
        Self { max_bytes, shelf: Arc::default() }
    }

    /// Adds a store path.
    ///
    /// # Errors
    /// [`SourceError::Mismatch`] when `nar` is not what the narinfo says; [`SourceError::TooLarge`] and
    /// [`SourceError::NoSpace`] when it does not fit.
    pub fn insert_nar(&self, narinfo: NarInfo, nar: Bytes) -> Result<(), SourceError> {
        if narinfo.nar_size != nar.len() as u64 || narinfo.nar_hash != Sha256Digest::of(&nar) {
            return Err(SourceError::Mismatch("the NAR is not that of its narinfo".to_owned()));
        }
        self.insert_blob(nar, false)?;
        self.write().narinfos.insert(narinfo.store_path.hash(), narinfo);
        Ok(())
    }

    /// Adds a blob.
    ///
    /// # Errors
    /// [`SourceError::TooLarge`] and [`SourceError::NoSpace`] when it does not fit.
    pub fn insert_blob(&self, bytes: Bytes, publish: bool) -> Result<PutOutcome, SourceError> {
        let (sha256, blob, size) = (Sha256Digest::of(&bytes), BlobId::of(&bytes), bytes.len() as u64);
        if size > self.max_bytes {
            return Err(SourceError::TooLarge);
        }
        let mut shelf = self.write();
        if let Some(held) = shelf.blobs.get_mut(&sha256) {
            held.published |= publish;
            return Ok(PutOutcome { created: false, sha256, blob, size });
        }
        if shelf.used_bytes + size > self.max_bytes {
            return Err(SourceError::NoSpace);
        }
        shelf.used_bytes += size;
        shelf.by_blake3.insert(blob, sha256);
        shelf.blobs.insert(sha256, Held { bytes, published: publish });
        Ok(PutOutcome { created: true, sha256, blob, size })
    }

    /// Whether a blob was put with `publish`.
    pub fn is_published(&self, digest: Digest) -> bool {
        self.held(digest).is_ok_and(|held| held.published)
    }

    async fn collect(&self, mut body: BodyStream) -> Result<Bytes, SourceError> {
        let mut bytes = BytesMut::new();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| SourceError::Invalid(format!("the upload failed: {error}")))?;
            if (bytes.len() + chunk.len()) as u64 > self.max_bytes {
                return Err(SourceError::TooLarge);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }

    fn held(&self, digest: Digest) -> Result<Held, SourceError> {
        let shelf = self.read();
        let sha256 = match &digest {
            Digest::Sha256(sha256) => Some(sha256),
            Digest::Blake3(blob) => shelf.by_blake3.get(blob),
        };
        sha256.and_then(|sha256| shelf.blobs.get(sha256)).cloned().ok_or(SourceError::NotFound)
    }

    /// The NAR of a path, if it is the one that the path has.
    fn nar_of(&self, hash: StoreHash, nar_hash: Sha256Digest) -> Result<Held, SourceError> {
        let known = self.read().narinfos.get(&hash).is_some_and(|narinfo| narinfo.nar_hash == nar_hash);
        if known { self.held(Digest::Sha256(nar_hash)) } else { Err(SourceError::NotFound) }
    }

    // Nothing panics while it holds the lock, and the shelf is whole between any two statements.
    fn read(&self) -> RwLockReadGuard<'_, Shelf> {
        self.shelf.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Shelf> {
        self.shelf.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl ArtifactSource for MemorySource {
    async fn narinfo(&self, hash: StoreHash) -> Result<NarInfo, SourceError> {
        self.read().narinfos.get(&hash).cloned().ok_or(SourceError::NotFound)
    }

    async fn nar(&self, hash: StoreHash, nar_hash: Sha256Digest) -> Result<Arc<dyn Artifact>, SourceError> {
        let held = self.nar_of(hash, nar_hash)?;
        Ok(Arc::new(MemoryArtifact { digest: Digest::Sha256(nar_hash), bytes: held.bytes }))
    }

    async fn nar_size(&self, hash: StoreHash, nar_hash: Sha256Digest) -> Result<u64, SourceError> {
        Ok(self.nar_of(hash, nar_hash)?.bytes.len() as u64)
    }

    async fn blob(&self, digest: Digest) -> Result<Arc<dyn Artifact>, SourceError> {
        let bytes = self.held(digest)?.bytes;
        Ok(Arc::new(MemoryArtifact { digest, bytes }))
    }

    async fn blob_size(&self, digest: Digest) -> Result<u64, SourceError> {
        Ok(self.held(digest)?.bytes.len() as u64)
    }

    async fn put_blob(
        &self,
        digest: Digest,
        publish: bool,
        body: BodyStream,
    ) -> Result<PutOutcome, SourceError> {
        let bytes = self.collect(body).await?;
        let actual = match digest {
            Digest::Sha256(_) => Digest::Sha256(Sha256Digest::of(&bytes)),
            Digest::Blake3(_) => Digest::Blake3(BlobId::of(&bytes)),
        };
        if actual != digest {
            return Err(SourceError::Mismatch(format!(
                "{} bytes hash to {actual}, not {digest}",
                bytes.len()
            )));
        }
        self.insert_blob(bytes, publish)
    }

    /// Nothing is ever evicted here.
    async fn pin_blob(&self, digest: Digest, _pinned: bool) -> Result<(), SourceError> {
        self.held(digest).map(|_| ())
    }

    async fn side_file(&self, name: &SideFileName) -> Result<SideFile, SourceError> {
        self.read().side_files.get(name).cloned().ok_or(SourceError::NotFound)
    }

    fn uploads(&self) -> Option<Arc<dyn Uploads>> {
        Some(Arc::new(self.clone()))
    }
}

#[async_trait]
impl Uploads for MemorySource {
    async fn nar_file_size(&self, file: &NarFile) -> Result<u64, SourceError> {
        let waiting = self.read().waiting.get(&file.file_hash).map(|bytes| bytes.len() as u64);
        waiting.map_or_else(|| Ok(self.held(Digest::Sha256(file.file_hash))?.bytes.len() as u64), Ok)
    }

    async fn put_nar_file(&self, file: NarFile, body: BodyStream) -> Result<(), SourceError> {
        let bytes = self.collect(body).await?;
        if file.compression != Compression::None {
            return Err(SourceError::Rejected(Rejection::BadFile));
        }
        if Sha256Digest::of(&bytes) != file.file_hash {
            return Err(SourceError::Rejected(Rejection::FileDiffers));
        }
        self.write().waiting.insert(file.file_hash, bytes);
        Ok(())
    }

    async fn put_narinfo(&self, narinfo: NarInfo, _from: Uploader) -> Result<bool, SourceError> {
        let file = NarFile::parse(&narinfo.url).map(|file| file.file_hash);
        let waiting = file.and_then(|file| self.read().waiting.get(&file).cloned());
        let nar = match waiting {
            Some(bytes) => bytes,
            None => {
                let held = self.held(Digest::Sha256(narinfo.nar_hash));
                held.map_err(|_| SourceError::Rejected(Rejection::NarMissing))?.bytes
            }
        };
        let is_new = !self.read().narinfos.contains_key(&narinfo.store_path.hash());
        self.insert_nar(narinfo, nar).map_err(|error| match error {
            SourceError::Mismatch(_) => SourceError::Rejected(Rejection::NarDiffers),
            other => other,
        })?;
        Ok(is_new)
    }

    async fn put_side_file(&self, name: SideFileName, file: SideFile) -> Result<bool, SourceError> {
        Ok(self.write().side_files.insert(name, file).is_none())
    }
}

/// Bytes in memory as an [`Artifact`].
#[derive(Clone, Debug)]
pub struct MemoryArtifact {
    digest: Digest,
    bytes: Bytes,
}

impl MemoryArtifact {
    /// Takes the caller's word that `digest` is that of `bytes`.
    pub fn new(digest: Digest, bytes: Bytes) -> Self {
        Self { digest, bytes }
    }
}

#[async_trait]
impl Artifact for MemoryArtifact {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn digest(&self) -> Digest {
        self.digest
    }

    fn read(self: Arc<Self>, range: Range<u64>) -> BodyStream {
        let length = self.bytes.len();
        let inside = |at: u64| usize::try_from(at).map_or(length, |at| at.min(length));
        let mut rest = self.bytes.slice(inside(range.start).min(inside(range.end))..inside(range.end));
        let chunks = std::iter::from_fn(move || {
            (!rest.is_empty()).then(|| Ok::<_, io::Error>(rest.split_to(rest.len().min(BODY_CHUNK_BYTES))))
        });
        Box::pin(stream::iter(chunks))
    }

    async fn ready(&self) -> Result<(), SourceError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{Fixture, suite, uploads_suite};

    #[test]
    fn it_is_bounded() {
        let source = MemorySource::with_max_bytes(10);
        assert_eq!(source.insert_blob(Bytes::from_static(b"01234567890"), false), Err(SourceError::TooLarge));
        assert!(source.insert_blob(Bytes::from_static(b"012345"), false).is_ok());
        assert_eq!(source.insert_blob(Bytes::from_static(b"abcdef"), false), Err(SourceError::NoSpace));
    }

    #[tokio::test]
    async fn it_conforms() {
        let make = |fixture: Fixture| async move {
            let source = MemorySource::new();
            for (narinfo, nar) in fixture.paths {
                source.insert_nar(narinfo, nar).unwrap();
            }
            Arc::new(source) as Arc<dyn ArtifactSource>
        };
        suite(make).await.unwrap();
    }

    #[tokio::test]
    async fn it_takes_uploads_as_it_should() {
        uploads_suite(async |_| Arc::new(MemorySource::new()) as Arc<dyn ArtifactSource>).await.unwrap();
    }
}
