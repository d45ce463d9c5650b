//! One blob on its way in, shared by everybody who wants it.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use p2p_cache_discovery::PeerId;
use p2p_cache_protocol::{BlobId, Digest, NarInfo};
use tokio::sync::{Notify, watch};

use super::FetchError;
use super::provenance::{Contributor, Provenance};
use super::scheduler::ReaderId;
use crate::store::PartialBlob;

/// Bytes at the end of a blob that no reader gets before the hash of the whole was right. A blob not longer than
/// this is verified before its first byte leaves.
pub const HELD_BACK_BYTES: u64 = 256 * 1024;
/// Readers run at most this far ahead of the hash of the whole, so that the tail that waits for it is never long in
/// coming.
const MAX_UNHASHED_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes of one read of the partial file: one chunk of a response body.
const READ_BYTES: u64 = 256 * 1024;
/// A reader tells the scheduler where it is each time it has moved by this much.
const REPORT_BYTES: u64 = 256 * 1024;
/// A body is aborted when nothing of its blob arrives for this long, wherever it is read: an origin that goes through from
/// the front takes its time to the end. Longer than every source's own limit, so that the scheduler has had time to
/// replace the source.
const READER_PATIENCE: Duration = Duration::from_secs(14);

/// Bytes that came through a leader can be verified only with the whole. A client gets none of them before that, unless
/// the fetch takes longer than this; then they flow as those of an origin do, and the tail is held back.
const RELAY_HOLD: Duration = Duration::from_secs(8);
/// But not while nothing has arrived for this long: a fetch that is about to fail should fail with an answer, not
/// with half a body.
const HOLD_WHILE_STILL: Duration = Duration::from_secs(2);

/// Who reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum For {
    /// Somebody who takes what is right or nothing.
    Client,
    /// A node that verifies the whole itself.
    Peer,
}

/// How far a transfer is.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    /// Bytes are arriving; the tail is held back.
    Fetching,
    /// All bytes are present and the whole has the hash that was asked for.
    Verified,
    /// It cannot go on.
    Failed(FetchError),
}

/// A blob on its way in. Readers get its verified bytes in order while the rest is still arriving.
pub struct Transfer {
    digest: Digest,
    partial: PartialBlob,
    phase: watch::Sender<Phase>,
    readers: Mutex<Readers>,
    pub(super) readers_changed: Notify,
    narinfo: Option<Arc<NarInfo>>,
    /// The leader that is being followed.
    following: Mutex<Option<PeerId>>,
    /// Nobody is followed yet: a peer may still say that it holds the whole.
    waits_for_holders: AtomicBool,
    /// Bytes that a leader sent have been stored.
    relayed: AtomicBool,
    /// Clients may have them before the whole is verified.
    hold_is_over: AtomicBool,
    provenance: Mutex<Provenance>,
    /// Another peer wants this blob.
    pub(super) wanted: Notify,
    pub(super) started: Instant,
}

#[derive(Default)]
struct Readers {
    next: u32,
    offsets: BTreeMap<ReaderId, u64>,
    clients: usize,
}

impl Transfer {
    pub(super) fn new(digest: Digest, narinfo: Option<Arc<NarInfo>>, partial: PartialBlob) -> Arc<Self> {
        let provenance = Mutex::new(Provenance::new(partial.size()));
        Arc::new(Self {
            digest,
            partial,
            phase: watch::Sender::new(Phase::Fetching),
            readers: Mutex::default(),
            readers_changed: Notify::new(),
            narinfo,
            following: Mutex::default(),
            waits_for_holders: AtomicBool::new(false),
            relayed: AtomicBool::new(false),
            hold_is_over: AtomicBool::new(false),
            provenance,
            wanted: Notify::new(),
            started: Instant::now(),
        })
    }

    /// What is being fetched.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Length of the whole in bytes.
    pub fn size(&self) -> u64 {
        self.partial.size()
    }

    /// Contiguous bytes that have arrived from the beginning.
    pub fn arrived_bytes(&self) -> u64 {
        self.partial.prefix_bytes()
    }

    /// Clients of this machine that read it now; peers that follow it are none.
    pub fn clients(&self) -> usize {
        self.lock_readers().clients
    }

    /// Whoever reads it now.
    pub fn readers(&self) -> usize {
        self.lock_readers().offsets.len()
    }

    /// The narinfo that led here.
    pub fn narinfo(&self) -> Option<&Arc<NarInfo>> {
        self.narinfo.as_ref()
    }

    /// The root that its groups are verified against, once a holder has said it.
    pub fn blob(&self) -> Option<BlobId> {
        self.partial.blob_id()
    }

    /// The leader of our site that it comes from, if one is being followed.
    pub fn following(&self) -> Option<PeerId> {
        *self.following.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_following(&self, leader: Option<PeerId>) {
        *self.following.lock().unwrap_or_else(PoisonError::into_inner) = leader;
    }

    pub(super) fn set_waiting_for_holders(&self, waits: bool) {
        self.waits_for_holders.store(waits, Ordering::Relaxed);
    }

    pub(super) fn waits_for_holders(&self) -> bool {
        self.waits_for_holders.load(Ordering::Relaxed)
    }

    /// Whether to follow a leader has become a mistake, now that `holder` says that it holds the whole.
    pub(super) fn is_better_fetched_from(&self, holder: PeerId) -> bool {
        self.waits_for_holders() || self.following() == Some(holder)
    }

    /// Calls `look` with who brought what of it so far.
    pub fn with_provenance<T>(&self, look: impl FnOnce(&Provenance) -> T) -> T {
        look(&self.provenance.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn brought(&self, contributor: Contributor, bytes: Range<u64>) {
        self.provenance.lock().unwrap_or_else(PoisonError::into_inner).record(contributor, bytes);
    }

    pub(super) fn set_relayed(&self) {
        self.relayed.store(true, Ordering::Relaxed);
    }

    /// Whether every byte that arrives was checked against the name of the blob, so that no reader waits for the hash
    /// of the whole. No origin takes part in such a transfer: its bytes come without proof.
    pub(super) fn is_proved_by_tree(&self) -> bool {
        matches!(self.digest, Digest::Blake3(_))
    }

    pub(crate) fn partial(&self) -> &PartialBlob {
        &self.partial
    }

    pub(super) fn set_phase(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// The reason for which this transfer ended without a blob, if it did.
    pub fn failure(&self) -> Option<FetchError> {
        match &*self.phase.borrow() {
            Phase::Failed(error) => Some(error.clone()),
            Phase::Fetching | Phase::Verified => None,
        }
    }

    /// Offsets of all readers, by reader.
    pub(super) fn reader_offsets(&self) -> BTreeMap<ReaderId, u64> {
        self.lock_readers().offsets.clone()
    }

    /// Resolves when a reader at `offset` can get its first byte, or with the reason why it never will. Whoever waits
    /// here counts as a reader already: what it waits for is fetched first.
    pub async fn ready(self: &Arc<Self>, offset: u64) -> Result<(), FetchError> {
        let _reader = Reader::new(Arc::clone(self), offset, For::Client);
        self.readable(offset, For::Client).await.map(|_| ())
    }

    /// The bytes of `range` in order, each verified as far as its source allows, the tail only when the whole is.
    /// The stream ends with an error when the transfer fails; `range` must lie within the blob.
    pub fn read(self: Arc<Self>, range: Range<u64>) -> BoxStream<'static, io::Result<Bytes>> {
        self.read_for(range, For::Client)
    }

    /// The same for a peer that follows this transfer and verifies the whole itself.
    pub fn relay(self: Arc<Self>, range: Range<u64>) -> BoxStream<'static, io::Result<Bytes>> {
        self.read_for(range, For::Peer)
    }

    fn read_for(self: Arc<Self>, range: Range<u64>, whom: For) -> BoxStream<'static, io::Result<Bytes>> {
        let reader = Reader::new(self, range.start, whom);
        futures::stream::try_unfold((reader, range.start), move |(mut reader, offset)| async move {
            if offset >= range.end {
                return Ok(None);
            }
            let bytes = reader.next_chunk(offset, range.end).await?;
            let next = offset + bytes.len() as u64;
            reader.moved_to(next);
            Ok(Some((bytes, (reader, next))))
        })
        .boxed()
    }

    /// Waits for bytes at `offset` and returns the end of the run that may be read from there.
    async fn readable(&self, offset: u64, whom: For) -> Result<u64, FetchError> {
        let mut phase = self.phase.subscribe();
        let mut arrivals = self.partial.changes();
        let give_way = tokio::time::Instant::from_std(self.started + RELAY_HOLD);
        let mut moved_at = None;
        loop {
            let held = whom == For::Client && self.is_held(moved_at);
            let mut arrived = self.partial.present_until(offset);
            let limit = match &*phase.borrow_and_update() {
                Phase::Verified => self.size(),
                // An empty blob has no group that would prove it.
                Phase::Fetching if self.is_proved_by_tree() && self.size() > 0 => self.size(),
                Phase::Fetching => {
                    if held {
                        arrived = self.partial.verified_until(offset);
                    }
                    self.size().saturating_sub(HELD_BACK_BYTES)
                }
                Phase::Failed(error) => return Err(error.clone()),
            };
            let end = arrived.min(limit).min(self.hash_limit(offset));
            if end > offset || (limit == self.size() && offset >= limit) {
                return Ok(end);
            }
            tokio::select! {
                changed = phase.changed() => if changed.is_err() { return Err(FetchError::Stopped) },
                changed = arrivals.changed() => if changed.is_ok() {
                    moved_at = Some(Instant::now());
                } else {
                    // No more arrivals: only the phase can still change.
                    phase.changed().await.map_err(|_| FetchError::Stopped)?;
                },
                () = tokio::time::sleep_until(give_way), if held && tokio::time::Instant::now() < give_way => {}
            }
        }
    }

    /// Whether clients have to wait for the hash of the whole, when the reader that asks last saw bytes arrive at
    /// `moved_at`.
    fn is_held(&self, moved_at: Option<Instant>) -> bool {
        if !self.relayed.load(Ordering::Relaxed) || self.hold_is_over.load(Ordering::Relaxed) {
            return false;
        }
        let moves = moved_at.is_some_and(|at| at.elapsed() < HOLD_WHILE_STILL);
        let over = moves && self.started.elapsed() >= RELAY_HOLD;
        self.hold_is_over.fetch_or(over, Ordering::Relaxed);
        !over
    }

    /// How far a reader at `offset` may run. None for one ahead of the contiguous prefix: the hash cannot be there yet.
    fn hash_limit(&self, offset: u64) -> u64 {
        if self.is_proved_by_tree() || self.partial.prefix_bytes() <= offset {
            return u64::MAX;
        }
        self.partial.hashed_bytes().saturating_add(MAX_UNHASHED_BYTES)
    }

    fn lock_readers(&self) -> std::sync::MutexGuard<'_, Readers> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One reader's place in a transfer; leaves when dropped.
struct Reader {
    transfer: Arc<Transfer>,
    id: ReaderId,
    reported: u64,
    whom: For,
}

impl Reader {
    fn new(transfer: Arc<Transfer>, offset: u64, whom: For) -> Self {
        let id = {
            let mut readers = transfer.lock_readers();
            let id = ReaderId(readers.next);
            readers.next = readers.next.wrapping_add(1);
            readers.offsets.insert(id, offset);
            readers.clients += usize::from(whom == For::Client);
            id
        };
        transfer.readers_changed.notify_one();
        Self { transfer, id, reported: offset, whom }
    }

    async fn next_chunk(&mut self, offset: u64, end: u64) -> io::Result<Bytes> {
        let run_end = self.readable_in_time(offset).await?;
        let length = run_end.min(end).saturating_sub(offset).min(READ_BYTES) as usize;
        let transfer = Arc::clone(&self.transfer);
        tokio::task::spawn_blocking(move || {
            let mut buffer = vec![0; length];
            let read = transfer.partial.read_at(offset, &mut buffer)?;
            buffer.truncate(read);
            if buffer.is_empty() {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the partial file is shorter than it said",
                ));
            }
            Ok(Bytes::from(buffer))
        })
        .await
        .map_err(io::Error::other)?
    }

    /// The end of the run that may be read at `offset`, unless the transfer stands still.
    async fn readable_in_time(&self, offset: u64) -> io::Result<u64> {
        let mut arrivals = self.transfer.partial.changes();
        let mut readable = pin!(self.transfer.readable(offset, self.whom));
        loop {
            tokio::select! {
                biased;
                run_end = &mut readable => return run_end.map_err(io::Error::other),
                Ok(()) = arrivals.changed() => {}
                () = tokio::time::sleep(READER_PATIENCE) => {
                    let seconds = READER_PATIENCE.as_secs();
                    let reason = format!("nothing arrived for {seconds} s");
                    return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
                }
            }
        }
    }

    fn moved_to(&mut self, offset: u64) {
        if offset < self.reported + REPORT_BYTES {
            return;
        }
        self.reported = offset;
        self.transfer.lock_readers().offsets.insert(self.id, offset);
        self.transfer.readers_changed.notify_one();
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        {
            let mut readers = self.transfer.lock_readers();
            readers.offsets.remove(&self.id);
            readers.clients -= usize::from(self.whom == For::Client);
        }
        self.transfer.readers_changed.notify_one();
    }
}

#[cfg(test)]
mod tests;
