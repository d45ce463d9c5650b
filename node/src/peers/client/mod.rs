//! Asking peers: look-ups, narinfos and ranges over a few long-lived substreams a peer.

mod link;
mod links;
mod reader;
mod subscribe;
#[cfg(test)]
mod tests;

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use lru::LruCache;
use p2p_cache_discovery::{Network, PeerId};
use p2p_cache_protocol::claim::SignedClaim;
use p2p_cache_protocol::digest::{BlobId, Digest, Sha256Digest};
use p2p_cache_protocol::store_path::StoreHash;
use p2p_cache_protocol::tree::{GroupRange, encoded_bytes, group_count};
use p2p_cache_protocol::wire::{Request, WireMessage};
use tokio::time::{Instant, timeout};

use self::link::{Answer, Expected, Failure};
use self::links::{Lane, PeerLinks};
pub use self::subscribe::{Arriving, Watched};
use super::error::PeerError;
use super::limits::{DATA_STREAMS_PER_PEER, MAX_CLIENT_PEERS, MAX_SPARE_BODIES};
use super::tasks::TaskGroup;
use super::transport::Dialer;
use crate::buffers::BufferPool;

/// Bound of the tasks that serve substreams: those of remembered peers, and as many that are being closed.
const MAX_LINK_TASKS: usize = 2 * MAX_CLIENT_PEERS * (2 + DATA_STREAMS_PER_PEER);

/// Asks peers. A cheap handle: clones share the substreams. Every method may be called from many tasks at once;
/// their requests are pipelined, and dropping a call never harms the others.
#[derive(Clone)]
pub struct PeerClient {
    inner: Arc<Inner>,
}

struct Inner {
    dialer: Arc<dyn Dialer>,
    peers: Mutex<LruCache<PeerId, Arc<PeerLinks>>>,
    tasks: TaskGroup,
    /// Bodies of ranges.
    buffers: Arc<BufferPool>,
}

/// When the parts of an answer to a range request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RangeTiming {
    /// The request went out; earlier requests may still have been unanswered.
    pub sent_at: Instant,
    /// The head of the answer had arrived.
    pub first_byte_at: Instant,
    /// The last byte had arrived.
    pub finished_at: Instant,
}

/// The answer to a range request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeAnswer {
    /// The bao response, of exactly the right length, not yet verified: decode it with
    /// [`p2p_cache_protocol::tree::decode_range`].
    pub encoded: Bytes,
    /// When it came.
    pub timing: RangeTiming,
}

/// What a peer says of a blob that it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offer {
    /// It holds all of it, and vouches for what it is.
    Whole(SignedClaim),
    /// It is fetching it itself, as this blob of this size: parts of it may be asked for.
    Partial {
        /// The root that it was told.
        blob: BlobId,
        /// Size in bytes.
        size: u64,
    },
}

#[cfg(test)]
impl Offer {
    pub(crate) fn whole(self) -> Option<SignedClaim> {
        match self {
            Self::Whole(claim) => Some(claim),
            Self::Partial { .. } => None,
        }
    }
}

impl PeerClient {
    /// A client that opens its substreams through `dialer`, usually the [`Network`].
    #[must_use]
    pub fn new(dialer: Arc<dyn Dialer>) -> Self {
        let remembered = NonZeroUsize::new(MAX_CLIENT_PEERS).unwrap_or(NonZeroUsize::MIN);
        let peers = Mutex::new(LruCache::new(remembered));
        let tasks = TaskGroup::new("peer client", MAX_LINK_TASKS);
        let buffers = BufferPool::new(MAX_SPARE_BODIES);
        Self { inner: Arc::new(Inner { dialer, peers, tasks, buffers }) }
    }

    /// Asks whether `peer` offers `digest`, within 3 s. `None` when it does not. The claim's signature
    /// and signer are verified and it speaks of `digest`; whether it is true shows when the blob is hashed.
    ///
    /// # Errors
    /// [`PeerError::FalseClaim`] and [`PeerError::Protocol`] deserve a ban (see [`PeerError::ban_reason`]).
    pub async fn lookup(&self, peer: PeerId, digest: Digest) -> Result<Option<Offer>, PeerError> {
        let request = Request::Lookup { digest };
        match self.ask_in_time(peer, Lane::Control, request, Expected::Claim).await? {
            Answer::NotFound => Ok(None),
            Answer::Claim(claim) => {
                verify_claim(peer, &digest, &claim)?;
                Ok(Some(Offer::Whole(claim)))
            }
            Answer::Partial { blob, size } => Ok(Some(Offer::Partial { blob, size })),
            Answer::Busy(_) | Answer::NarInfo(_) | Answer::Data(..) => Err(mixed_up(peer)),
        }
    }

    /// Asks `peer` for the narinfo of a store path, within 3 s. The text is what the peer says: use it
    /// only when a trusted key verifies it.
    ///
    /// # Errors
    /// [`PeerError::Protocol`] deserves a ban; the others befall honest peers.
    pub async fn narinfo(&self, peer: PeerId, hash: StoreHash) -> Result<Option<String>, PeerError> {
        match self.ask_narinfo(peer, Lane::Control, Request::NarInfo { hash }).await {
            // What is held costs nothing to say.
            Err(PeerError::Busy { .. }) => Err(mixed_up(peer)),
            answer => answer,
        }
    }

    /// The same, and the peer asks its origins when it does not hold it: for the leader of our site.
    ///
    /// # Errors
    /// Those of [`PeerClient::narinfo`], and [`PeerError::Busy`].
    pub async fn resolve(&self, peer: PeerId, hash: StoreHash) -> Result<Option<String>, PeerError> {
        self.ask_narinfo(peer, Lane::Resolve, Request::Resolve { hash }).await
    }

    async fn ask_narinfo(
        &self,
        peer: PeerId,
        lane: Lane,
        request: Request,
    ) -> Result<Option<String>, PeerError> {
        match self.ask_in_time(peer, lane, request, Expected::NarInfo).await? {
            Answer::NotFound => Ok(None),
            Answer::NarInfo(text) => Ok(Some(text)),
            Answer::Busy(retry_after) => Err(PeerError::Busy { peer, retry_after }),
            Answer::Claim(_) | Answer::Partial { .. } | Answer::Data(..) => Err(mixed_up(peer)),
        }
    }

    /// Asks the leader of our site for the bytes of a NAR from `offset` on, as it gets them. The first answer comes
    /// within 2 s; what is streamed is verified by nobody.
    ///
    /// # Errors
    /// [`PeerError::NotHeld`] and [`PeerError::Busy`] when it is not willing; [`PeerError::Protocol`] deserves a ban.
    pub async fn follow(
        &self,
        peer: PeerId,
        hash: StoreHash,
        nar: Sha256Digest,
        offset: u64,
    ) -> Result<Arriving, PeerError> {
        let request = Request::Follow { hash, nar, offset };
        subscribe::follow(peer, Arc::clone(&self.inner.dialer), request, offset).await
    }

    /// Which groups of a blob `peer` holds, now and each time it has more.
    ///
    /// # Errors
    /// [`PeerError::NotHeld`] when it does not fetch this blob; [`PeerError::Protocol`] deserves a ban.
    pub async fn watch(&self, peer: PeerId, blob: BlobId, size: u64) -> Result<Watched, PeerError> {
        let request = Request::Watch { blob, size };
        subscribe::watch(peer, Arc::clone(&self.inner.dialer), request, group_count(size)).await
    }

    /// Asks `peer` for groups of a blob: `range` is not empty, within the blob and at most
    /// [`MAX_EXTENT_GROUPS`](p2p_cache_protocol::limits::MAX_EXTENT_GROUPS) long.
    /// There is no limit for the whole, only for standing still: the answers in front of it count as progress.
    ///
    /// # Errors
    /// [`PeerError::NotHeld`] and [`PeerError::Busy`] are answers; [`PeerError::Stalled`] when less than 16 KiB came in
    /// 5 s; [`PeerError::Protocol`] (a wrong length, for one) deserves a ban.
    pub async fn range(
        &self,
        peer: PeerId,
        blob: BlobId,
        size: u64,
        range: GroupRange,
    ) -> Result<RangeAnswer, PeerError> {
        let request = Request::Range { blob, size, range };
        request.validate().map_err(|error| PeerError::BadRequest { peer, reason: error.to_string() })?;
        // An extent, so it fits.
        let encoded_bytes = usize::try_from(encoded_bytes(size, range)).unwrap_or(usize::MAX);
        match self.ask(peer, Lane::Data, request, Expected::Data { encoded_bytes }).await? {
            Answer::NotFound => Err(PeerError::NotHeld { peer }),
            Answer::Busy(retry_after) => Err(PeerError::Busy { peer, retry_after }),
            Answer::Data(encoded, timing) => Ok(RangeAnswer { encoded, timing }),
            Answer::NarInfo(_) | Answer::Claim(_) | Answer::Partial { .. } => Err(mixed_up(peer)),
        }
    }

    /// The shortest time from a request to the first byte of its answer that was seen with this peer while nothing
    /// else was under way: the round trip and the peer's own work.
    #[must_use]
    pub fn first_byte(&self, peer: PeerId) -> Option<Duration> {
        self.peers().peek(&peer).and_then(|links| links.first_byte().get())
    }

    /// Closes the substreams to `peer` once what is under way has ended: it was banned or has left.
    pub fn forget(&self, peer: PeerId) {
        self.peers().pop(&peer);
    }

    /// Refuses new requests, lets those under way finish for `grace`, then closes every substream.
    pub async fn shutdown(&self, grace: Duration) {
        self.peers().clear();
        self.inner.tasks.shutdown(grace).await;
    }

    async fn ask_in_time(
        &self,
        peer: PeerId,
        lane: Lane,
        request: Request,
        expected: Expected,
    ) -> Result<Answer, PeerError> {
        let after = lane.answer_timeout();
        match timeout(after, self.ask(peer, lane, request, expected)).await {
            Ok(answer) => answer,
            Err(_) => Err(PeerError::Timeout { peer, what: expected.what(), after }),
        }
    }

    async fn ask(
        &self,
        peer: PeerId,
        lane: Lane,
        request: Request,
        expected: Expected,
    ) -> Result<Answer, PeerError> {
        // A stream that closed itself (idle, or nobody waited) before it looked at the request is replaced once.
        for _ in 0..2 {
            let links = self.links(peer);
            let link = links.link(lane, &self.inner.dialer, &self.inner.tasks)?;
            // Only the link is held while waiting: a forgotten peer's streams then end with their last request.
            drop(links);
            match link.ask(request.clone(), expected).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Failed(error)) => return Err(error),
                Err(Failure::Unsent) => {}
            }
        }
        Err(PeerError::Closed { peer, reason: "it was closed before the request was sent".to_owned() })
    }

    fn links(&self, peer: PeerId) -> Arc<PeerLinks> {
        Arc::clone(
            self.peers()
                .get_or_insert(peer, || Arc::new(PeerLinks::new(peer, Arc::clone(&self.inner.buffers)))),
        )
    }

    fn peers(&self) -> MutexGuard<'_, LruCache<PeerId, Arc<PeerLinks>>> {
        self.inner.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The smallest duration seen.
#[derive(Debug, Default)]
struct Shortest(Mutex<Option<Duration>>);

impl Shortest {
    fn record(&self, duration: Duration) {
        let mut shortest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *shortest = Some(shortest.map_or(duration, |known| known.min(duration)));
    }

    fn get(&self) -> Option<Duration> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn verify_claim(peer: PeerId, digest: &Digest, signed: &SignedClaim) -> Result<(), PeerError> {
    let false_claim = |reason: String| PeerError::FalseClaim { peer, reason };
    if Network::node_key_of(&peer) != Some(signed.signer) {
        return Err(false_claim("it is signed by another node's key".to_owned()));
    }
    let claim = signed.verify().map_err(|error| false_claim(error.to_string()))?;
    let speaks_of_it = match digest {
        Digest::Sha256(sha256) => claim.sha256 == *sha256,
        Digest::Blake3(blob) => claim.blob == *blob,
    };
    if speaks_of_it {
        Ok(())
    } else {
        Err(false_claim(format!("it was asked for {digest}, and speaks of another")))
    }
}

/// The reader lets only the expected kinds through, so this is out of reach; it is an error all the same.
fn mixed_up(peer: PeerId) -> PeerError {
    PeerError::Protocol { peer, reason: "it sent another kind of answer than was due".to_owned() }
}
