//! One long-lived substream to a peer: a writer that sends requests as they come, a reader that matches the
//! answers to them in order.
//!
//! A caller that goes away leaves its request in its place, and the reader throws the answer away, so the stream
//! stays in step. When the stream breaks, everybody who waits on it learns why; the next request opens another.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use p2p_cache_discovery::PeerId;
use p2p_cache_protocol::BlobId;
use p2p_cache_protocol::claim::SignedClaim;
use p2p_cache_protocol::wire::Request;
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::super::error::PeerError;
use super::super::frames::{FrameFault, exchange_hello, write_frame};
use super::super::limits::{
    CLIENT_IDLE_TIMEOUT, CLIENT_READ_BUFFER_BYTES, MAX_DRAIN_BYTES, MAX_QUEUED_REQUESTS,
    MAX_UNANSWERED_REQUESTS, OPEN_TIMEOUT,
};
use super::super::transport::{BoxStream, Dialer};
use super::reader::Reader;
use super::{RangeTiming, Shortest};
use crate::buffers::BufferPool;

/// What kind of answer the request allows, besides `NotFound` and `Busy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    NarInfo,
    Claim,
    /// A body of exactly this many bytes.
    Data {
        encoded_bytes: usize,
    },
}

impl Expected {
    /// For messages and logs.
    pub(super) fn what(self) -> &'static str {
        match self {
            Expected::NarInfo => "narinfo",
            Expected::Claim => "answer to a look-up",
            Expected::Data { .. } => "answer to a range request",
        }
    }

    fn bytes(self) -> u64 {
        match self {
            Expected::NarInfo | Expected::Claim => 1024,
            Expected::Data { encoded_bytes } => encoded_bytes as u64,
        }
    }
}

/// A well-formed answer of the kind that was expected; its content is not verified yet.
#[derive(Debug)]
pub(super) enum Answer {
    NotFound,
    Busy(Duration),
    NarInfo(String),
    Claim(SignedClaim),
    Partial { blob: BlobId, size: u64 },
    Data(Bytes, RangeTiming),
}

/// Why there is no answer.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// The stream was given up while the request had not been looked at: another one may be tried.
    Unsent,
    Failed(PeerError),
}

impl From<PeerError> for Failure {
    fn from(error: PeerError) -> Self {
        Failure::Failed(error)
    }
}

/// How much a substream has to do, seen by callers and by the reader.
#[derive(Debug, Default)]
pub(super) struct Load {
    /// Bytes of answers that were asked for and have not arrived.
    outstanding_bytes: AtomicU64,
    /// Callers that still want their answer.
    callers: AtomicUsize,
}

impl Load {
    pub(super) fn outstanding_bytes(&self) -> u64 {
        self.outstanding_bytes.load(Ordering::Relaxed)
    }

    /// Whether every answer under way was abandoned, and a new stream is cheaper than reading them.
    pub(super) fn is_wasted(&self) -> bool {
        self.callers.load(Ordering::Relaxed) == 0 && self.outstanding_bytes() > MAX_DRAIN_BYTES
    }
}

/// A request's share of the outstanding bytes, given back wherever the request ends.
struct Weight(Arc<Load>, u64);

impl Drop for Weight {
    fn drop(&mut self) {
        self.0.outstanding_bytes.fetch_sub(self.1, Ordering::Relaxed);
    }
}

/// A caller's presence, which ends when its future is dropped.
struct Presence(Arc<Load>);

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.callers.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Job {
    request: Request,
    pending: Pending,
}

/// A request that was sent, or is about to be.
pub(super) struct Pending {
    pub(super) expected: Expected,
    pub(super) reply: oneshot::Sender<Result<Answer, Failure>>,
    /// Set when it goes out.
    pub(super) sent_at: Instant,
    _weight: Weight,
}

/// The callers' end of a substream; the stream closes itself when all of them are gone.
#[derive(Clone)]
pub(super) struct Link {
    jobs: mpsc::Sender<Job>,
    load: Arc<Load>,
}

impl Link {
    /// A link, and the task that has to run for it.
    pub(super) fn new(
        peer: PeerId,
        dialer: Arc<dyn Dialer>,
        first_byte: Arc<Shortest>,
        answer_timeout: Duration,
        buffers: Arc<BufferPool>,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (jobs, queue) = mpsc::channel(MAX_QUEUED_REQUESTS);
        let load = Arc::new(Load::default());
        let task = run(peer, dialer, queue, Arc::clone(&load), first_byte, answer_timeout, buffers);
        (Self { jobs, load }, task)
    }

    /// Whether the stream is gone, goes away, or is not worth waiting for.
    pub(super) fn is_spent(&self) -> bool {
        self.jobs.is_closed() || self.load.is_wasted()
    }

    pub(super) fn outstanding_bytes(&self) -> u64 {
        self.load.outstanding_bytes()
    }

    /// Sends a request and waits for its answer. Dropping the future leaves the stream usable.
    pub(super) async fn ask(&self, request: Request, expected: Expected) -> Result<Answer, Failure> {
        self.load.callers.fetch_add(1, Ordering::Relaxed);
        let _presence = Presence(Arc::clone(&self.load));
        let weight = Weight(Arc::clone(&self.load), expected.bytes());
        self.load.outstanding_bytes.fetch_add(weight.1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        let pending = Pending { expected, reply, sent_at: Instant::now(), _weight: weight };
        if self.jobs.send(Job { request, pending }).await.is_err() {
            return Err(Failure::Unsent);
        }
        // A task that was cancelled drops the replies: the node is shutting down, or the link was given up.
        answer.await.unwrap_or(Err(Failure::Unsent))
    }
}

/// Opens the stream, serves requests until idle, unused or broken, then tells everybody who still waits.
async fn run(
    peer: PeerId,
    dialer: Arc<dyn Dialer>,
    mut queue: mpsc::Receiver<Job>,
    load: Arc<Load>,
    first_byte: Arc<Shortest>,
    answer_timeout: Duration,
    buffers: Arc<BufferPool>,
) {
    let (sent, mut unanswered) = mpsc::channel(MAX_UNANSWERED_REQUESTS);
    let end = async {
        let stream = open(peer, dialer).await?;
        let (read, mut write) = tokio::io::split(stream);
        let mut read = BufReader::with_capacity(CLIENT_READ_BUFFER_BYTES, read);
        greet(peer, &mut read, &mut write).await?;
        let mut reader = Reader::new(peer, read, Arc::clone(&load), first_byte, answer_timeout, buffers);
        tokio::try_join!(
            send_requests(peer, &mut write, &mut queue, sent, &load),
            reader.run(&mut unanswered)
        )?;
        Ok::<(), Failure>(())
    }
    .await;
    let Err(failure) = end else { return };
    tracing::debug!(%peer, ?failure, "a substream to a peer ended");
    // Closed first: whoever comes later opens a new stream, whoever is in the queue is told here.
    queue.close();
    unanswered.close();
    while let Some(pending) = unanswered.recv().await {
        drop(pending.reply.send(Err(failure.clone())));
    }
    while let Some(job) = queue.recv().await {
        drop(job.pending.reply.send(Err(failure.clone())));
    }
}

pub(super) async fn open(peer: PeerId, dialer: Arc<dyn Dialer>) -> Result<BoxStream, PeerError> {
    match timeout(OPEN_TIMEOUT, dialer.open(peer)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(PeerError::Unreachable { peer, reason: error.to_string() }),
        Err(_) => Err(PeerError::Timeout { peer, what: "substream", after: OPEN_TIMEOUT }),
    }
}

pub(super) async fn greet(
    peer: PeerId,
    read: &mut (impl AsyncRead + Unpin),
    write: &mut (impl AsyncWrite + Unpin),
) -> Result<(), PeerError> {
    let version = exchange_hello(read, write).await.map_err(|fault| peer_error(peer, fault))?;
    tracing::trace!(%peer, version, "opened a substream");
    Ok(())
}

/// A fault of the framing, as a fault of the peer.
pub(super) fn peer_error(peer: PeerId, fault: FrameFault) -> PeerError {
    match fault {
        FrameFault::Closed(reason) => PeerError::Closed { peer, reason },
        FrameFault::Timeout(what, after) => PeerError::Timeout { peer, what, after },
        FrameFault::Garbage(reason) => PeerError::Protocol { peer, reason },
        FrameFault::Incompatible(reason) => PeerError::Incompatible { peer, reason },
    }
}

/// The writer half. Ends well when no caller can come any more; the reader then finishes what is outstanding.
async fn send_requests(
    peer: PeerId,
    write: &mut (impl AsyncWrite + Unpin),
    queue: &mut mpsc::Receiver<Job>,
    sent: mpsc::Sender<Pending>,
    load: &Load,
) -> Result<(), Failure> {
    loop {
        let job = match timeout(CLIENT_IDLE_TIMEOUT, queue.recv()).await {
            Ok(Some(job)) => job,
            Ok(None) => return Ok(()),
            Err(_) => {
                if load.outstanding_bytes() == 0 {
                    // Later callers open a new stream; a request that slipped in is still served.
                    queue.close();
                }
                continue;
            }
        };
        let Job { request, mut pending } = job;
        if pending.reply.is_closed() {
            continue;
        }
        // The reader must know the request before its answer can come.
        let Ok(place) = sent.reserve().await else { return Err(Failure::Unsent) };
        pending.sent_at = Instant::now();
        place.send(pending);
        write_frame(write, &request).await.map_err(|fault| peer_error(peer, fault))?;
    }
}
