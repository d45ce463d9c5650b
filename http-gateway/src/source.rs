//! What the gateway needs from the layer above: artifacts by name, as streams of bytes.

use std::io;
use std::net::IpAddr;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use p2p_cache_protocol::{BlobId, Digest, NarInfo, Sha256Digest, StoreHash};
use thiserror::Error;

use crate::upload::{NarFile, Rejection, SideFile, SideFileName, Uploads};

/// Bytes on their way in or out. Chunks are handed to the socket as they are, without a copy.
pub type BodyStream = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// The size of chunk that an [`Artifact`] should yield: large enough that the cost of a chunk does not matter, small
/// enough that a slow client pins little memory (about two chunks a connection).
pub const BODY_CHUNK_BYTES: usize = 256 * 1024;

/// Where artifacts come from. One instance serves every connection.
///
/// Dropping a future or an artifact is how the gateway says that its client is gone; implementations stop what they
/// did for that client alone.
#[async_trait]
pub trait ArtifactSource: Send + Sync + 'static {
    /// What another machine, with this address, gets to see instead; `None` where there is nothing to hide. Asked once
    /// for each connection that is not of this machine.
    fn seen_from(&self, client: IpAddr) -> Option<Arc<dyn ArtifactSource>> {
        let _ = client;
        None
    }

    /// The narinfo of a store path, already verified where it has to be. The gateway rewrites `url`, `compression`,
    /// `file_hash` and `file_size`, so their values do not matter.
    async fn narinfo(&self, hash: StoreHash) -> Result<NarInfo, SourceError>;

    /// The uncompressed NAR of a store path, named by the URL that the gateway wrote into its narinfo: any node can
    /// be asked for it, at any time, with no narinfo request before.
    async fn nar(&self, hash: StoreHash, nar_hash: Sha256Digest) -> Result<Arc<dyn Artifact>, SourceError>;

    /// The length of that NAR in bytes. Never starts a fetch of the NAR itself.
    async fn nar_size(&self, hash: StoreHash, nar_hash: Sha256Digest) -> Result<u64, SourceError>;

    /// A blob by its digest.
    async fn blob(&self, digest: Digest) -> Result<Arc<dyn Artifact>, SourceError>;

    /// The length of that blob in bytes. Never starts a fetch.
    async fn blob_size(&self, digest: Digest) -> Result<u64, SourceError>;

    /// Stores a blob whose bytes must hash to `digest`; with `publish` the owner also allows its sharing. `body` may
    /// fail half way, and then nothing is kept. An implementation that already holds the blob need not read `body`.
    async fn put_blob(
        &self,
        digest: Digest,
        publish: bool,
        body: BodyStream,
    ) -> Result<PutOutcome, SourceError>;

    /// Keeps a blob, however much room others need, or no longer. `NotFound` when it is not on this machine: nothing is
    /// fetched. Repeating it changes nothing.
    async fn pin_blob(&self, digest: Digest, pinned: bool) -> Result<(), SourceError> {
        let _ = (digest, pinned);
        Err(SourceError::NotFound)
    }

    /// What is in the NAR of a store path, as the JSON of a `.ls` file.
    async fn listing(&self, hash: StoreHash) -> Result<Bytes, SourceError> {
        let _ = hash;
        Err(SourceError::NotFound)
    }

    /// A build log, a realisation or the like.
    async fn side_file(&self, name: &SideFileName) -> Result<SideFile, SourceError> {
        let _ = name;
        Err(SourceError::NotFound)
    }

    /// The file of a NAR that was uploaded compressed, or another that decompresses to the same: clients remember for a
    /// month under which name they uploaded it. Or that of an origin. Its length is not known before.
    async fn nar_file(&self, file: &NarFile) -> Result<BodyStream, SourceError> {
        let _ = file;
        Err(SourceError::NotFound)
    }

    /// Where uploads of binary caches go; `None` where none are taken.
    fn uploads(&self) -> Option<Arc<dyn Uploads>> {
        None
    }
}

/// Bytes of known length, perhaps still on their way here.
#[async_trait]
pub trait Artifact: Send + Sync {
    /// Length of the whole in bytes.
    fn size(&self) -> u64;

    /// A digest of the whole; the one it was asked by where there is a choice.
    fn digest(&self) -> Digest;

    /// The bytes of `range` (half open, within `0..size()`) in order, in chunks of about [`BODY_CHUNK_BYTES`]. The
    /// stream yields exactly `range.end - range.start` bytes or an error; nothing wrong is ever yielded.
    fn read(self: Arc<Self>, range: Range<u64>) -> BodyStream;

    /// Resolves when the first bytes can flow, or fails when it is clear that they cannot. Called before a 200 is
    /// sent, so that a fetch that fails at once is answered with 404 and not with a 200 that breaks off.
    async fn ready(&self) -> Result<(), SourceError>;
}

/// A blob that was taken in by [`ArtifactSource::put_blob`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutOutcome {
    /// False when the same bytes were held before.
    pub created: bool,
    /// SHA-256 of the bytes.
    pub sha256: Sha256Digest,
    /// BLAKE3 of the bytes.
    pub blob: BlobId,
    /// Length in bytes.
    pub size: u64,
}

/// Why a source could not do what it was asked. The text is for the log; clients see a reason phrase only.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SourceError {
    /// Nobody who could be asked has it.
    #[error("not found")]
    NotFound,
    /// It may exist, but peers and origins could not deliver it.
    #[error("upstream: {0}")]
    Upstream(String),
    /// The request makes no sense.
    #[error("invalid: {0}")]
    Invalid(String),
    /// Uploaded bytes do not hash to the name they were sent under.
    #[error("mismatch: {0}")]
    Mismatch(String),
    /// An upload that is not taken; the client is told why.
    #[error("{0}")]
    Rejected(Rejection),
    /// Larger than this node takes, whatever is evicted.
    #[error("too large for this node")]
    TooLarge,
    /// The disk is full.
    #[error("no space left for it")]
    NoSpace,
    /// A fault of this node.
    #[error("internal: {0}")]
    Internal(String),
}
