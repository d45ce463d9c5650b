//! What the upload server needs of the store.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use p2p_cache_protocol::claim::Claim;
use p2p_cache_protocol::digest::{BlobId, Digest, Sha256Digest};
use p2p_cache_protocol::narinfo::NarInfo;
use p2p_cache_protocol::store_path::StoreHash;
use p2p_cache_protocol::tree::GroupRange;

/// A blob that is held whole and verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// What we say about it.
    pub claim: Claim,
    /// The owner shared it by hand.
    pub published: bool,
}

/// An open blob; it stays readable when the store lets go of it.
pub trait HeldBlob: Send + Sync + 'static {
    /// What is known of it.
    fn held(&self) -> Held;

    /// Fills `out`, which has exactly that length, with the bao response for `range`. Blocking: reads the disk.
    ///
    /// # Errors
    /// When data or outboard cannot be read.
    fn encode(&self, range: GroupRange, out: &mut [u8]) -> io::Result<()>;
}

/// Where the upload server looks. Nothing here decides what may be shared: the server puts the owner's
/// [`SharingPolicy`](crate::sharing::SharingPolicy) before every call.
#[async_trait]
pub trait Holdings: Send + Sync + 'static {
    /// The blob that `digest` names.
    async fn find(&self, digest: Digest) -> io::Result<Option<Held>>;
    /// The blob, open for reading.
    async fn open(&self, blob: BlobId) -> io::Result<Option<Arc<dyn HeldBlob>>>;
    /// The narinfo of a store path, signed or not.
    async fn narinfo(&self, hash: StoreHash) -> io::Result<Option<NarInfo>>;
    /// All narinfos whose NAR has this hash.
    async fn narinfos_of(&self, nar_hash: Sha256Digest) -> io::Result<Vec<NarInfo>>;
}
