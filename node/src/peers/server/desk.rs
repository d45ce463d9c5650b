//! Finds the answers for one peer.

use std::sync::Arc;

use p2p_cache_protocol::digest::{BlobId, Digest};
use p2p_cache_protocol::limits::MAX_NARINFO_BYTES;
use p2p_cache_protocol::store_path::StoreHash;
use p2p_cache_protocol::tree::{GroupRange, encoded_bytes};
use p2p_cache_protocol::wire::{Request, Response, encode_frame};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::super::limits::{BUSY_RETRY_AFTER, MISS_FLOOR, SLOT_WAIT};
use super::super::pace::millis;
use super::super::transport::Visitor;
use super::Shared;
use super::holdings::HeldBlob;
use super::meters::Meter;

/// What goes back.
pub(super) enum Reply {
    Short(Response),
    /// Not held, or not for this peer: the two take the same time.
    Miss {
        not_before: Instant,
    },
    /// The framed head and the bao response behind it.
    Body {
        bytes: Vec<u8>,
        permits: BodyPermits,
    },
}

/// The right to keep one body in memory, until its last byte is written.
pub(super) struct BodyPermits {
    _of_peer: OwnedSemaphorePermit,
    _of_node: OwnedSemaphorePermit,
}

/// Answers the questions of one peer, from what it may see and within what it may cost.
pub(super) struct Desk<'s> {
    shared: &'s Shared,
    meter: Arc<Meter>,
    visitor: Visitor,
}

impl<'s> Desk<'s> {
    pub(super) fn new(shared: &'s Shared, visitor: Visitor) -> Self {
        Self { shared, meter: shared.meters.of(visitor.peer), visitor }
    }

    /// Waits for the peer's request rate, then looks. Decoding has checked that the request makes sense.
    pub(super) async fn reply(&self, request: Request) -> Reply {
        self.meter.requests.until_ready().await;
        let not_before = Instant::now() + MISS_FLOOR;
        let found = match request {
            Request::NarInfo { hash } => self.narinfo(hash).await,
            Request::Lookup { digest } => self.lookup(digest).await,
            Request::Range { blob, size, range } => self.range(blob, size, range).await,
        };
        found.unwrap_or_else(|| {
            self.meter.misses.miss();
            Reply::Miss { not_before }
        })
    }

    async fn narinfo(&self, hash: StoreHash) -> Option<Reply> {
        if self.meter.misses.is_muted() {
            return None;
        }
        let text = self.shared.shareable.narinfo(hash, self.visitor.scope).await?.to_string();
        // Formatting can make a text longer than the one that was read.
        (text.len() <= MAX_NARINFO_BYTES).then_some(Reply::Short(Response::NarInfo { text }))
    }

    async fn lookup(&self, digest: Digest) -> Option<Reply> {
        if self.meter.misses.is_muted() {
            return None;
        }
        let claim = self.shared.shareable.claim(digest, self.visitor.scope).await?;
        self.meter.grant(claim.blob);
        Some(Reply::Short(Response::Have { claim: self.shared.claims.sign(claim) }))
    }

    async fn range(&self, blob: BlobId, size: u64, range: GroupRange) -> Option<Reply> {
        if !self.meter.may_read(blob) {
            return None;
        }
        let open = self.shared.shareable.blob(blob, size, self.visitor.scope).await?;
        self.meter.grant(blob);
        let Some(permits) = self.body_permits().await else {
            return Some(Reply::Short(Response::Busy { retry_after_ms: millis(BUSY_RETRY_AFTER) }));
        };
        let bytes = self.encode(open, size, range).await?;
        Some(Reply::Body { bytes, permits })
    }

    /// A peer waits for its own bodies as long as they take, for those of others only [`SLOT_WAIT`].
    async fn body_permits(&self) -> Option<BodyPermits> {
        let acquire = |slots: &Arc<Semaphore>| Arc::clone(slots).acquire_owned();
        let of_peer = acquire(&self.meter.bodies).await.ok()?;
        let of_node = timeout(SLOT_WAIT, acquire(&self.shared.slots)).await.ok()?.ok()?;
        Some(BodyPermits { _of_peer: of_peer, _of_node: of_node })
    }

    /// The frame of the head, and the bao response for `range` behind it. `None` when it cannot be read.
    async fn encode(&self, open: Arc<dyn HeldBlob>, size: u64, range: GroupRange) -> Option<Vec<u8>> {
        let peer = self.visitor.peer;
        let length = encoded_bytes(size, range);
        let head = Response::Data { encoded_bytes: u32::try_from(length).ok()? };
        let mut body = encode_frame(&head).ok()?;
        let whole = body.len() + usize::try_from(length).ok()?;
        let encoding = tokio::task::spawn_blocking(move || {
            body.reserve_exact(whole - body.len());
            open.encode(range, &mut body).map(|()| body)
        });
        match encoding.await {
            Ok(Ok(body)) if body.len() == whole => Some(body),
            Ok(Ok(body)) => {
                tracing::error!(%peer, expected = whole, got = body.len(), "a range was encoded to a wrong length");
                None
            }
            Ok(Err(error)) => {
                tracing::warn!(%peer, %error, "cannot read a blob for a peer; it is told that we do not have it");
                None
            }
            Err(error) => {
                tracing::error!(%peer, %error, "reading a blob for a peer failed");
                None
            }
        }
    }
}
