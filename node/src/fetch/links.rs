//! What a transfer needs of the outside: peers to ask, and a place to report liars.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use p2p_cache_discovery::PeerId;
use p2p_cache_protocol::{BlobId, Claim, Digest, GroupRange, Sha256Digest, StoreHash};

use super::scheduler::Timing;
use crate::peers::{Arriving, BanReason, PeerError, Watched};

/// What a peer says of a blob that it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// It holds all of it. The claim's signature and its digest have been checked.
    Whole(Claim),
    /// It is fetching it itself, and may be asked for what it has, if this is the root.
    Partial(BlobId),
}

/// A member of our site, as the one who asks the origins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leader {
    /// This node.
    Us,
    /// Another one.
    Peer(PeerId),
}

/// Other nodes, as a transfer sees them.
#[async_trait]
pub trait Peers: Send + Sync + 'static {
    /// Connected nodes that speak our protocol, nearest first; bounded.
    fn connected(&self) -> Vec<(PeerId, Option<Duration>)>;

    /// Nodes that a directory names for `digest`; empty when the directory knows none or does not answer.
    async fn providers(&self, digest: Digest) -> Vec<PeerId>;

    /// Asks `peer` whether it holds `digest`.
    async fn lookup(&self, peer: PeerId, digest: Digest) -> Result<Option<Offer>, PeerError>;

    /// The bao response for `range` of `blob`, and how it came in; its length is right, its content is unverified.
    async fn range(
        &self,
        peer: PeerId,
        blob: BlobId,
        size_bytes: u64,
        range: GroupRange,
    ) -> Result<(Bytes, Option<Timing>), PeerError>;

    /// The text of a narinfo that `peer` holds; anything may stand in it.
    async fn narinfo(&self, peer: PeerId, hash: StoreHash) -> Result<Option<String>, PeerError>;

    /// Who asks the origins for `hash`: a member of our site that was not passed over lately. `None` when there is nobody
    /// but us.
    fn leader(&self, hash: StoreHash) -> Option<Leader>;

    /// From whom we take a NAR that nobody of our site holds, best first; empty when asking the origins is up to us.
    fn relays(&self, hash: StoreHash) -> Vec<PeerId>;

    /// `peer` led for us and failed: it is left out of [`Peers::leader`] and [`Peers::relays`] for a while.
    fn pass_over(&self, peer: PeerId);

    /// A leader knew nothing of what the origins then had, as one does that has no origins, or does not share.
    fn declined(&self, peer: PeerId);

    /// Asks a leader for a narinfo of the origins; anything may stand in it.
    async fn resolve(&self, peer: PeerId, hash: StoreHash) -> Result<Option<String>, PeerError>;

    /// The bytes of a NAR from `offset` on, as a leader gets them from the origins.
    async fn follow(
        &self,
        peer: PeerId,
        hash: StoreHash,
        nar: Sha256Digest,
        offset: u64,
    ) -> Result<Arriving, PeerError>;

    /// What of a blob has arrived at a peer, each time there is more.
    async fn watch(&self, peer: PeerId, blob: BlobId, size_bytes: u64) -> Result<Watched, PeerError>;

    /// Refuses `peer` from now on.
    async fn ban(&self, peer: PeerId, reason: BanReason);
}
