//! The reader half of a substream.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use p2p_cache_discovery::PeerId;
use p2p_cache_protocol::limits::MAX_FRAME_BYTES;
use p2p_cache_protocol::wire::Response;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use super::super::error::PeerError;
use super::super::frames::read_frame;
use super::super::limits::{MIN_PROGRESS_BYTES, PROGRESS_TIMEOUT};
use super::link::{Answer, Expected, Failure, Load, Pending, peer_error};
use super::{RangeTiming, Shortest};
use crate::buffers::BufferPool;

pub(super) struct Reader<R> {
    peer: PeerId,
    read: BufReader<R>,
    load: Arc<Load>,
    first_byte: Arc<Shortest>,
    answer_timeout: Duration,
    previous_answer_at: Option<Instant>,
    buffers: Arc<BufferPool>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(super) fn new(
        peer: PeerId,
        read: BufReader<R>,
        load: Arc<Load>,
        first_byte: Arc<Shortest>,
        answer_timeout: Duration,
        buffers: Arc<BufferPool>,
    ) -> Self {
        Self { peer, read, load, first_byte, answer_timeout, previous_answer_at: None, buffers }
    }

    /// Answers requests in their order until none can come any more or the stream fails.
    pub(super) async fn run(&mut self, unanswered: &mut mpsc::Receiver<Pending>) -> Result<(), Failure> {
        while let Some(pending) = self.next_pending(unanswered).await? {
            if self.load.is_wasted() {
                return Err(Failure::Unsent);
            }
            match self.answer(&pending).await {
                Ok(answer) => drop(pending.reply.send(Ok(answer))),
                Err(error) => {
                    drop(pending.reply.send(Err(Failure::Failed(error.clone()))));
                    return Err(error.into());
                }
            }
            self.previous_answer_at = Some(Instant::now());
        }
        Ok(())
    }

    /// The next request to read an answer for; meanwhile, nothing may come from the peer but its end of the stream.
    async fn next_pending(
        &mut self,
        unanswered: &mut mpsc::Receiver<Pending>,
    ) -> Result<Option<Pending>, Failure> {
        let peer = self.peer;
        tokio::select! {
            biased;
            pending = unanswered.recv() => Ok(pending),
            unasked = self.read.fill_buf() => Err(match unasked {
                Ok(bytes) if !bytes.is_empty() => {
                    PeerError::Protocol { peer, reason: "it sent bytes that nobody asked for".to_owned() }.into()
                }
                // It went away while nothing was under way: a request that comes now deserves a new stream.
                Ok(_) | Err(_) => Failure::Unsent,
            }),
        }
    }

    async fn answer(&mut self, pending: &Pending) -> Result<Answer, PeerError> {
        let peer = self.peer;
        let expected = pending.expected;
        let response = match timeout(self.answer_timeout, read_frame(&mut self.read, MAX_FRAME_BYTES)).await {
            Ok(response) => response.map_err(|fault| peer_error(peer, fault))?,
            Err(_) => {
                return Err(PeerError::Timeout { peer, what: expected.what(), after: self.answer_timeout });
            }
        };
        let first_byte_at = Instant::now();
        if self.previous_answer_at.is_none_or(|previous| previous <= pending.sent_at) {
            // Nothing was in front of this request: its latency is the peer's.
            self.first_byte.record(first_byte_at - pending.sent_at);
        }
        match (response, expected) {
            (Response::NotFound, _) => Ok(Answer::NotFound),
            (Response::Busy { retry_after_ms }, Expected::Data { .. } | Expected::NarInfo) => {
                Ok(Answer::Busy(Duration::from_millis(u64::from(retry_after_ms))))
            }
            (Response::NarInfo { text }, Expected::NarInfo) => Ok(Answer::NarInfo(text)),
            (Response::Have { claim }, Expected::Claim) => Ok(Answer::Claim(claim)),
            (Response::Partial { blob, size }, Expected::Claim) => Ok(Answer::Partial { blob, size }),
            (Response::Data { encoded_bytes: promised }, Expected::Data { encoded_bytes }) => {
                if usize::try_from(promised) != Ok(encoded_bytes) {
                    let reason =
                        format!("a range of {encoded_bytes} encoded bytes was answered with {promised}");
                    return Err(PeerError::Protocol { peer, reason });
                }
                let body = self.body(encoded_bytes).await?;
                let timing =
                    RangeTiming { sent_at: pending.sent_at, first_byte_at, finished_at: Instant::now() };
                Ok(Answer::Data(body, timing))
            }
            (
                Response::Busy { .. }
                | Response::NarInfo { .. }
                | Response::Have { .. }
                | Response::Partial { .. }
                | Response::Arriving { .. }
                | Response::Groups { .. }
                | Response::Data { .. },
                _,
            ) => {
                let reason = format!("it sent another kind of answer where an {} was due", expected.what());
                Err(PeerError::Protocol { peer, reason })
            }
        }
    }

    /// Reads exactly `length` bytes, at [`MIN_PROGRESS_BYTES`] in [`PROGRESS_TIMEOUT`] or more.
    async fn body(&mut self, length: usize) -> Result<Bytes, PeerError> {
        let peer = self.peer;
        let mut body = self.buffers.take(length);
        let mut filled = 0;
        let mut deadline = Instant::now() + PROGRESS_TIMEOUT;
        let mut progress_bytes = 0;
        while filled < length {
            match timeout_at(deadline, self.read.read(&mut body[filled..])).await {
                Ok(Ok(0)) => {
                    let reason = format!("it ended after {filled} of {length} bytes of a range");
                    return Err(PeerError::Closed { peer, reason });
                }
                Ok(Ok(read)) => {
                    filled += read;
                    progress_bytes += read;
                }
                Ok(Err(error)) => return Err(PeerError::Closed { peer, reason: error.to_string() }),
                Err(_) => {
                    return Err(PeerError::Stalled { peer, received_bytes: filled, after: PROGRESS_TIMEOUT });
                }
            }
            if progress_bytes >= MIN_PROGRESS_BYTES {
                progress_bytes = 0;
                deadline = Instant::now() + PROGRESS_TIMEOUT;
            }
        }
        Ok(Bytes::from_owner(body))
    }
}
