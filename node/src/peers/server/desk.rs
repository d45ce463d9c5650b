//! Finds the answers for one peer.

use std::sync::{Arc, Mutex, PoisonError};

use p2p_cache_protocol::digest::{BlobId, Digest, Sha256Digest};
use p2p_cache_protocol::limits::MAX_NARINFO_BYTES;
use p2p_cache_protocol::store_path::StoreHash;
use p2p_cache_protocol::tree::{GroupRange, encoded_bytes};
use p2p_cache_protocol::wire::{Request, Response, encode_frame};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::super::limits::{BUSY_RETRY_AFTER, MISS_FLOOR, REFUSAL_GRID, SLOT_WAIT};
use super::super::pace::{MissMeter, millis};
use super::super::transport::Visitor;
use super::Shared;
use super::holdings::HeldBlob;
use super::meters::Meter;
use super::site::{ArrivingBlob, Led};
use crate::buffers::Buffer;

/// What goes back.
pub(super) enum Reply {
    Short(Response),
    /// Not held, or not for this peer: the two take the same time.
    Miss {
        not_before: Instant,
    },
    /// The framed head and the bao response behind it.
    Body {
        bytes: Buffer,
        permits: BodyPermits,
    },
    /// A blob that is streamed while it arrives.
    Arriving {
        led: Led,
        permits: LedPermits,
    },
    /// News of a blob that arrives here.
    Watch(Arc<dyn ArrivingBlob>),
    /// An answer that is being worked on, and the requests behind it meanwhile: a run of refusals takes as long as one,
    /// so that the work for it does not add up to something that can be measured.
    Later(AbortOnDropHandle<Reply>),
}

/// The right to keep one body in memory, until its last byte is written.
pub(super) struct BodyPermits {
    _of_peer: OwnedSemaphorePermit,
    _of_scope: Option<OwnedSemaphorePermit>,
    _of_node: OwnedSemaphorePermit,
}

/// The right to have something done on one's behalf, until it is done.
pub(super) struct LedPermits {
    _of_peer: OwnedSemaphorePermit,
    _of_node: OwnedSemaphorePermit,
}

/// A blob that may be read by whoever asked for it first.
struct OpenBlob {
    id: BlobId,
    size: u64,
    open: Arc<dyn HeldBlob>,
}

/// Answers the questions of one peer, from what it may see and within what it may cost.
#[derive(Clone)]
pub(super) struct Desk {
    shared: Arc<Shared>,
    meter: Arc<Meter>,
    /// What the peer's network has in common.
    network: Arc<MissMeter>,
    visitor: Visitor,
    /// What the last range was read from: the next one is most likely of the same blob. Two file descriptors.
    last: Arc<Mutex<Option<OpenBlob>>>,
}

impl Desk {
    pub(super) fn new(shared: Arc<Shared>, visitor: Visitor) -> Self {
        let meter = shared.meters.of(visitor.peer);
        let network = shared.meters.of_network(visitor.network);
        Self { shared, meter, network, visitor, last: Arc::default() }
    }

    /// Waits for the peer's request rate, then looks. Decoding has checked that the request makes sense.
    pub(super) async fn reply(&self, request: Request) -> Reply {
        self.meter.requests.until_ready().await;
        let arrived = Instant::now();
        let desk = self.clone();
        match request {
            Request::NarInfo { hash } => self.later(arrived, async move { desk.narinfo(hash).await }),
            Request::Lookup { digest } => self.later(arrived, async move { desk.lookup(digest).await }),
            // Bodies are made in order: one that waits for a slot must not have those behind it hold all of them.
            Request::Range { blob, size, range } => {
                self.range(blob, size, range).await.unwrap_or_else(|| self.miss(arrived + MISS_FLOOR))
            }
            Request::Watch { blob, size } => {
                self.watch(blob, size).unwrap_or_else(|| self.miss(arrived + MISS_FLOOR))
            }
            Request::Resolve { hash } => {
                self.lead(arrived, |permits| async move { desk.resolve(hash, permits).await })
            }
            Request::Follow { hash, nar, offset } => self
                .lead(arrived, move |permits| async move { desk.follow(hash, nar, offset, permits).await }),
        }
    }

    /// Works without holding up what the peer asks next. The replies' queue bounds how much of it runs.
    fn later(&self, arrived: Instant, work: impl Future<Output = Option<Reply>> + Send + 'static) -> Reply {
        let desk = self.clone();
        let work = async move { work.await.unwrap_or_else(|| desk.miss(arrived + MISS_FLOOR)) };
        Reply::Later(AbortOnDropHandle::new(tokio::spawn(work)))
    }

    /// Works on behalf of the peer, asking origins if need be.
    fn lead<W>(&self, arrived: Instant, work: impl FnOnce(LedPermits) -> W) -> Reply
    where
        W: Future<Output = Option<Reply>> + Send + 'static,
    {
        let Some(permits) = self.led_permits() else { return busy() };
        let (desk, work) = (self.clone(), work(permits));
        let work = async move {
            let found = work.await;
            found.or_else(|| Some(desk.miss(refusal_on_grid(arrived, Instant::now()))))
        };
        self.later(arrived, work)
    }

    /// Counts a failed look-up, for the peer and for its network. What was not looked at does not count: whoever asks again
    /// and again would stay muted for ever, when peer and network are forgiven at different times.
    fn miss(&self, not_before: Instant) -> Reply {
        if !self.is_muted() {
            self.meter.misses.miss();
            self.network.miss();
        }
        Reply::Miss { not_before }
    }

    /// Whether questions are not even looked at for now.
    fn is_muted(&self) -> bool {
        self.meter.misses.is_muted() || self.network.is_muted()
    }

    /// Whether a blob is looked at: a muted peer may go on with what it was told of before, so that failed look-ups do
    /// not break its transfers.
    fn may_read(&self, blob: BlobId) -> bool {
        !self.is_muted() || self.meter.is_granted(blob)
    }

    fn led_permits(&self) -> Option<LedPermits> {
        let of_peer = Arc::clone(&self.meter.led).try_acquire_owned().ok()?;
        let of_node = Arc::clone(&self.shared.led).try_acquire_owned().ok()?;
        Some(LedPermits { _of_peer: of_peer, _of_node: of_node })
    }

    async fn resolve(&self, hash: StoreHash, _permits: LedPermits) -> Option<Reply> {
        if self.is_muted() {
            return None;
        }
        let text = self.shared.shareable.resolve(hash, self.visitor.scope).await?.to_string();
        (text.len() <= MAX_NARINFO_BYTES).then_some(Reply::Short(Response::NarInfo { text }))
    }

    async fn follow(
        &self,
        hash: StoreHash,
        nar: Sha256Digest,
        offset: u64,
        permits: LedPermits,
    ) -> Option<Reply> {
        if self.is_muted() {
            return None;
        }
        let led = self.shared.shareable.follow(hash, nar, offset, self.visitor).await?;
        Some(Reply::Arriving { led, permits })
    }

    fn watch(&self, blob: BlobId, size: u64) -> Option<Reply> {
        if !self.may_read(blob) {
            return None;
        }
        let arriving = self.shared.shareable.arriving(Digest::Blake3(blob), self.visitor.scope)?;
        (arriving.size() == size).then_some(Reply::Watch(arriving))
    }

    async fn narinfo(&self, hash: StoreHash) -> Option<Reply> {
        if self.is_muted() {
            return None;
        }
        let text = self.shared.shareable.narinfo(hash, self.visitor.scope).await?.to_string();
        // Formatting can make a text longer than the one that was read.
        (text.len() <= MAX_NARINFO_BYTES).then_some(Reply::Short(Response::NarInfo { text }))
    }

    async fn lookup(&self, digest: Digest) -> Option<Reply> {
        if self.is_muted() {
            return None;
        }
        self.shared.shareable.wanted(digest, self.visitor);
        if let Some(claim) = self.shared.shareable.claim(digest, self.visitor.scope).await {
            self.meter.grant(claim.blob);
            return Some(Reply::Short(Response::Have { claim: self.shared.claims.sign(claim) }));
        }
        let arriving = self.shared.shareable.arriving(digest, self.visitor.scope)?;
        let (blob, size) = (arriving.blob(), arriving.size());
        self.meter.grant(blob);
        Some(Reply::Short(Response::Partial { blob, size }))
    }

    async fn range(&self, blob: BlobId, size: u64, range: GroupRange) -> Option<Reply> {
        if !self.may_read(blob) {
            return None;
        }
        // What arrives is known without a look at the disk.
        let open = match self.shared.shareable.arriving(Digest::Blake3(blob), self.visitor.scope) {
            Some(arriving) if arriving.size() == size => Readable::Arriving(arriving),
            _ => Readable::Held(self.held(blob, size).await?),
        };
        self.meter.grant(blob);
        let Some(permits) = self.body_permits().await else { return Some(busy()) };
        let bytes = self.encode(open, size, range).await?;
        Some(Reply::Body { bytes, permits })
    }

    /// A blob that is held whole, open; opened once for a run of requests.
    async fn held(&self, blob: BlobId, size: u64) -> Option<Arc<dyn HeldBlob>> {
        if let Some(last) = &*self.last.lock().unwrap_or_else(PoisonError::into_inner)
            && (last.id, last.size) == (blob, size)
        {
            return Some(Arc::clone(&last.open));
        }
        let open = self.shared.shareable.blob(blob, size, self.visitor.scope).await?;
        let last = Some(OpenBlob { id: blob, size, open: Arc::clone(&open) });
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = last;
        Some(open)
    }

    /// A peer waits for its own bodies as long as they take, for those of others only [`SLOT_WAIT`].
    async fn body_permits(&self) -> Option<BodyPermits> {
        let acquire = |slots: &Arc<Semaphore>| Arc::clone(slots).acquire_owned();
        let of_peer = acquire(&self.meter.bodies).await.ok()?;
        let slots = self.shared.slots();
        let of_scope = match slots.of(self.visitor.scope) {
            Some(slots) => Some(timeout(SLOT_WAIT, acquire(slots)).await.ok()?.ok()?),
            None => None,
        };
        let of_node = timeout(SLOT_WAIT, acquire(&slots.all)).await.ok()?.ok()?;
        Some(BodyPermits { _of_peer: of_peer, _of_scope: of_scope, _of_node: of_node })
    }

    /// The frame of the head, and the bao response for `range` behind it. `None` when it cannot be read.
    async fn encode(&self, open: Readable, size: u64, range: GroupRange) -> Option<Buffer> {
        let peer = self.visitor.peer;
        let length = encoded_bytes(size, range);
        let head = Response::Data { encoded_bytes: u32::try_from(length).ok()? };
        let head = encode_frame(&head).ok()?;
        let mut body = self.shared.buffers.take(head.len() + usize::try_from(length).ok()?);
        let encoding = tokio::task::spawn_blocking(move || {
            let (front, rest) = body.split_at_mut(head.len());
            front.copy_from_slice(&head);
            open.encode(range, rest).map(|there| there.then_some(body))
        });
        match encoding.await {
            Ok(Ok(body)) => body,
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

/// When a refusal is sent for which origins may have been asked until `now`: as early as any other, else at the next point
/// of a grid, since a private cache takes a little longer to say that it has something than that it has not.
fn refusal_on_grid(arrived: Instant, now: Instant) -> Instant {
    let work = now.saturating_duration_since(arrived);
    if work <= MISS_FLOOR {
        return arrived + MISS_FLOOR;
    }
    let steps = work.as_nanos().div_ceil(REFUSAL_GRID.as_nanos());
    arrived + REFUSAL_GRID * u32::try_from(steps).unwrap_or(u32::MAX)
}

fn busy() -> Reply {
    Reply::Short(Response::Busy { retry_after_ms: millis(BUSY_RETRY_AFTER) })
}

/// Where ranges are read from.
enum Readable {
    Held(Arc<dyn HeldBlob>),
    Arriving(Arc<dyn ArrivingBlob>),
}

impl Readable {
    /// False when the range has not arrived yet.
    fn encode(&self, range: GroupRange, out: &mut [u8]) -> std::io::Result<bool> {
        match self {
            Self::Held(blob) => blob.encode(range, out).map(|()| true),
            Self::Arriving(blob) => blob.encode(range, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn refusals_after_questions_to_origins_end_on_a_grid() {
        let arrived = Instant::now();
        let after = |work: Duration| refusal_on_grid(arrived, arrived + work) - arrived;
        for work in [Duration::ZERO, Duration::from_micros(10), MISS_FLOOR] {
            assert_eq!(after(work), MISS_FLOOR);
        }
        for (micros, steps) in [(401, 1), (3_999, 1), (4_000, 1), (4_001, 2), (20_500, 6), (22_100, 6)] {
            assert_eq!(after(Duration::from_micros(micros)), REFUSAL_GRID * steps, "{micros} us");
        }
    }
}
