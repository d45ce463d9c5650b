//! Answers that go on for as long as a blob arrives at the peer. Each has a substream of its own, so that short
//! answers never wait behind it; dropping the stream closes it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{BoxStream, try_unfold};
use p2p_cache_discovery::PeerId;
use p2p_cache_protocol::GroupRange;
use p2p_cache_protocol::limits::{MAX_ARRIVING_CHUNK_BYTES, MAX_FRAME_BYTES};
use p2p_cache_protocol::wire::{Request, Response};
use tokio::io::{AsyncReadExt, BufReader, ReadHalf, WriteHalf};
use tokio::time::{Instant, timeout};

use super::super::error::PeerError;
use super::super::frames::{read_frame, write_frame};
use super::super::limits::{ARRIVAL_PATIENCE, ARRIVAL_TIMEOUT, CLIENT_READ_BUFFER_BYTES, LEADER_TIMEOUT};
use super::super::transport::{BoxStream as Substream, Dialer};
use super::link::{greet, open, peer_error};

/// The bytes of a blob as a peer gets them.
pub struct Arriving {
    /// Size of the whole in bytes.
    pub size: u64,
    /// From the offset asked for to the end, in order, verified by nobody. Ends early with an error.
    pub bytes: BoxStream<'static, Result<Bytes, PeerError>>,
}

/// Which groups of a blob a peer holds, each time it has more; ends when it has all of them.
pub type Watched = BoxStream<'static, Result<Vec<GroupRange>, PeerError>>;

/// A substream with one question on it.
struct Subscription {
    peer: PeerId,
    read: BufReader<ReadHalf<Substream>>,
    /// Closing it would end the subscription.
    _write: WriteHalf<Substream>,
}

impl Subscription {
    /// Opens the substream, asks, and reads the first answer, all within [`LEADER_TIMEOUT`].
    async fn ask(
        peer: PeerId,
        dialer: Arc<dyn Dialer>,
        request: Request,
    ) -> Result<(Self, Response), PeerError> {
        let asking = async {
            let (read, mut write) = tokio::io::split(open(peer, dialer).await?);
            let mut read = BufReader::with_capacity(CLIENT_READ_BUFFER_BYTES, read);
            greet(peer, &mut read, &mut write).await?;
            write_frame(&mut write, &request).await.map_err(|fault| peer_error(peer, fault))?;
            let mut subscription = Self { peer, read, _write: write };
            let first = subscription.response().await?;
            Ok((subscription, first))
        };
        match timeout(LEADER_TIMEOUT, asking).await {
            Ok(answer) => answer,
            Err(_) => Err(PeerError::Timeout { peer, what: "first answer", after: LEADER_TIMEOUT }),
        }
    }

    async fn response(&mut self) -> Result<Response, PeerError> {
        let peer = self.peer;
        read_frame(&mut self.read, MAX_FRAME_BYTES).await.map_err(|fault| peer_error(peer, fault))
    }

    /// The next bytes, at most `remaining`. A peer that sends nothing for [`ARRIVAL_TIMEOUT`] has stalled; one that
    /// says that it waits itself is given [`ARRIVAL_PATIENCE`].
    async fn chunk(&mut self, remaining: u64) -> Result<Bytes, PeerError> {
        let peer = self.peer;
        let stalled = |after| PeerError::Timeout { peer, what: "more of the blob", after };
        let broken = |error: io::Error| PeerError::Closed { peer, reason: error.to_string() };
        let patience = Instant::now() + ARRIVAL_PATIENCE;
        loop {
            let header = timeout(ARRIVAL_TIMEOUT, self.read.read_u32_le()).await;
            let length = header.map_err(|_| stalled(ARRIVAL_TIMEOUT))?.map_err(broken)?;
            if length == 0 {
                if Instant::now() >= patience {
                    return Err(stalled(ARRIVAL_PATIENCE));
                }
                continue;
            }
            if length as usize > MAX_ARRIVING_CHUNK_BYTES || u64::from(length) > remaining {
                return Err(unexpected(peer));
            }
            let mut piece = vec![0; length as usize];
            let read = timeout(ARRIVAL_TIMEOUT, self.read.read_exact(&mut piece)).await;
            read.map_err(|_| stalled(ARRIVAL_TIMEOUT))?.map_err(broken)?;
            return Ok(piece.into());
        }
    }
}

/// See [`PeerClient::follow`](super::PeerClient::follow).
pub(super) async fn follow(
    peer: PeerId,
    dialer: Arc<dyn Dialer>,
    request: Request,
    offset: u64,
) -> Result<Arriving, PeerError> {
    let (subscription, first) = Subscription::ask(peer, dialer, request).await?;
    let size = match first {
        Response::Arriving { size } if size >= offset => size,
        Response::NotFound => return Err(PeerError::NotHeld { peer }),
        Response::Busy { retry_after_ms } => {
            return Err(PeerError::Busy { peer, retry_after: Duration::from_millis(retry_after_ms.into()) });
        }
        _ => return Err(unexpected(peer)),
    };
    let bytes = try_unfold((subscription, size - offset), |(mut subscription, remaining)| async move {
        if remaining == 0 {
            return Ok(None);
        }
        let chunk = subscription.chunk(remaining).await?;
        let remaining = remaining - chunk.len() as u64;
        Ok(Some((chunk, (subscription, remaining))))
    });
    Ok(Arriving { size, bytes: bytes.boxed() })
}

/// See [`PeerClient::watch`](super::PeerClient::watch).
pub(super) async fn watch(
    peer: PeerId,
    dialer: Arc<dyn Dialer>,
    request: Request,
    groups: u64,
) -> Result<Watched, PeerError> {
    let (subscription, first) = Subscription::ask(peer, dialer, request).await?;
    let runs = match first {
        Response::NotFound => return Err(PeerError::NotHeld { peer }),
        first => runs_of(peer, first, groups)?,
    };
    let rest =
        try_unfold((subscription, is_whole(&runs, groups)), move |(mut subscription, done)| async move {
            if done {
                return Ok(None);
            }
            let response = subscription.response().await?;
            let runs = runs_of(peer, response, groups)?;
            let done = is_whole(&runs, groups);
            Ok(Some((runs, (subscription, done))))
        });
    Ok(futures::stream::iter([Ok(runs)]).chain(rest).boxed())
}

fn runs_of(peer: PeerId, response: Response, groups: u64) -> Result<Vec<GroupRange>, PeerError> {
    match response {
        // Decoding has checked that they ascend.
        Response::Groups { runs } if runs.last().is_none_or(|run| run.end <= groups) => Ok(runs),
        _ => Err(unexpected(peer)),
    }
}

fn is_whole(runs: &[GroupRange], groups: u64) -> bool {
    runs == [GroupRange::new(0, groups)]
}

fn unexpected(peer: PeerId) -> PeerError {
    PeerError::Protocol { peer, reason: "it sent another kind of answer than was due".to_owned() }
}
