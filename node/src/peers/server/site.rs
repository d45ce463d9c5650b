//! What the upload server needs to work on behalf of its site: narinfos and NARs that are not held yet, and blobs
//! that are on their way in.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use p2p_cache_discovery::PeerId;
use p2p_cache_protocol::{BlobId, Digest, GroupRange, NarInfo, StoreHash};
use tokio::sync::watch;

/// The bytes of a NAR, held or on their way here.
pub struct Led {
    /// Size of the whole in bytes.
    pub size: u64,
    /// From the offset asked for to the end, in order. The last bytes come only when the whole is verified.
    pub bytes: BoxStream<'static, io::Result<Bytes>>,
}

/// A blob on its way here whose groups are verified as they arrive. What has arrived may be passed on.
pub trait ArrivingBlob: Send + Sync + 'static {
    /// The root that its groups are verified against.
    fn blob(&self) -> BlobId;

    /// Size of the whole in bytes.
    fn size(&self) -> u64;

    /// What makes it public, if anything does.
    fn narinfo(&self) -> Option<Arc<NarInfo>>;

    /// The groups that are here and verified, as ascending runs.
    fn runs(&self) -> Vec<GroupRange>;

    /// Changes when groups arrive, and when the fetch is given up.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Whether the fetch was given up.
    fn is_abandoned(&self) -> bool;

    /// Fills `out`, which has exactly that length, with the bao response for `range` when all of it is here and
    /// verified; false otherwise. Blocking.
    ///
    /// # Errors
    /// When data or outboard cannot be read.
    fn encode(&self, range: GroupRange, out: &mut [u8]) -> io::Result<bool>;
}

/// The part of the node that fetches. Nothing here decides what may be shared: the server puts the owner's
/// [`SharingPolicy`](crate::sharing::SharingPolicy) before every call.
#[async_trait]
pub trait Site: Send + Sync + 'static {
    /// The narinfo of a public store path, asked of the origins when none is held. Never of peers: whoever asks us
    /// believes that we lead.
    async fn narinfo(&self, hash: StoreHash) -> Option<NarInfo>;

    /// The NAR that `narinfo` names from `offset` on, fetched from the origins when it is not held. `None` when it
    /// cannot be had, or when we get it from `asker` ourselves.
    async fn nar(&self, narinfo: NarInfo, offset: u64, asker: PeerId) -> Option<Led>;

    /// The blob that `digest` names, when it is on its way here and its groups can be verified.
    fn arriving(&self, digest: Digest) -> Option<Arc<dyn ArrivingBlob>>;

    /// `peer` wants `digest`: if we want it too, it will soon have parts of it.
    fn wanted(&self, digest: Digest, peer: PeerId);
}

/// A site of one: fetches nothing for others.
#[cfg(test)]
pub(crate) struct Alone;

#[cfg(test)]
#[async_trait]
impl Site for Alone {
    async fn narinfo(&self, _hash: StoreHash) -> Option<NarInfo> {
        None
    }

    async fn nar(&self, _narinfo: NarInfo, _offset: u64, _asker: PeerId) -> Option<Led> {
        None
    }

    fn arriving(&self, _digest: Digest) -> Option<Arc<dyn ArrivingBlob>> {
        None
    }

    fn wanted(&self, _digest: Digest, _peer: PeerId) {}
}
