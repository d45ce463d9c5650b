//! What a transfer needs of the outside: peers to ask, and a place to report liars.

use std::time::Duration;

use async_trait::async_trait;
use p2p_cache_discovery::PeerId;
use p2p_cache_protocol::{BlobId, Claim, Digest, GroupRange, StoreHash};

use crate::peers::{BanReason, PeerError};

/// Other nodes, as a transfer sees them.
#[async_trait]
pub trait Peers: Send + Sync + 'static {
    /// Connected nodes that speak our protocol, nearest first; bounded.
    fn connected(&self) -> Vec<(PeerId, Option<Duration>)>;

    /// Nodes that a directory names for `digest`; empty when the directory knows none or does not answer.
    async fn providers(&self, digest: Digest) -> Vec<PeerId>;

    /// Asks `peer` whether it holds `digest`. The claim's signature and its digest have been checked.
    async fn lookup(&self, peer: PeerId, digest: Digest) -> Result<Option<Claim>, PeerError>;

    /// The bao response for `range` of `blob`; its length is right, its content is unverified.
    async fn range(
        &self,
        peer: PeerId,
        blob: BlobId,
        size_bytes: u64,
        range: GroupRange,
    ) -> Result<Vec<u8>, PeerError>;

    /// The text of a narinfo that `peer` holds; anything may stand in it.
    async fn narinfo(&self, peer: PeerId, hash: StoreHash) -> Result<Option<String>, PeerError>;

    /// Refuses `peer` from now on.
    async fn ban(&self, peer: PeerId, reason: BanReason);
}
