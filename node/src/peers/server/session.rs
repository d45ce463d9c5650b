//! One substream of a peer. One half reads requests and finds the answers, the other writes them in their order, so
//! that the disk works while the line is busy and a run of pipelined misses costs one delay, not many.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use p2p_cache_protocol::GroupRange;
use p2p_cache_protocol::limits::{MAX_ARRIVING_CHUNK_BYTES, MAX_RUNS};
use p2p_cache_protocol::wire::Response;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::super::bans::BanReason;
use super::super::frames::{FrameFault, exchange_hello, read_frame, write_all, write_frame};
use super::super::limits::{
    ARRIVAL_HEARTBEAT, FRAME_TIMEOUT, MAX_BODY_WRITE, MAX_QUEUED_REPLIES, MAX_REQUEST_FRAME_BYTES,
    SERVER_IDLE_TIMEOUT, SERVER_READ_BUFFER_BYTES, WATCH_INTERVAL, WRITE_PROGRESS_TIMEOUT,
};
use super::super::transport::{BoxStream, Visitor};
use super::Shared;
use super::desk::{Desk, Reply};
use super::site::{ArrivingBlob, Led};

/// Serves one substream to its end. A peer that breaks the protocol is banned.
pub(super) async fn run(shared: &Arc<Shared>, visitor: Visitor, stream: BoxStream) {
    let peer = visitor.peer;
    match serve(shared, visitor, stream).await {
        Ok(()) => {}
        Err(FrameFault::Garbage(reason)) => {
            tracing::info!(%peer, reason, "a peer broke the protocol");
            shared.bans.ban(peer, BanReason::ProtocolViolation).await;
        }
        Err(fault @ (FrameFault::Closed(_) | FrameFault::Timeout(..) | FrameFault::Incompatible(_))) => {
            tracing::debug!(%peer, %fault, "closed a stream of a peer");
        }
    }
}

async fn serve(shared: &Arc<Shared>, visitor: Visitor, stream: BoxStream) -> Result<(), FrameFault> {
    let (read, mut write) = tokio::io::split(stream);
    let mut read = BufReader::with_capacity(SERVER_READ_BUFFER_BYTES, read);
    exchange_hello(&mut read, &mut write).await?;
    let desk = Desk::new(Arc::clone(shared), visitor);
    let (replies, queue) = mpsc::channel(MAX_QUEUED_REPLIES);
    tokio::try_join!(
        take_requests(shared, &desk, read, replies),
        write_replies(shared, visitor, write, queue)
    )?;
    Ok(())
}

/// Ends well when the peer closes its side, is idle for too long, or we are shutting down; the replies that are
/// queued then still go out.
async fn take_requests(
    shared: &Shared,
    desk: &Desk,
    mut read: BufReader<impl AsyncRead + Unpin>,
    replies: mpsc::Sender<Reply>,
) -> Result<(), FrameFault> {
    while wait_for_request(shared, &mut read).await? {
        let request = match timeout(FRAME_TIMEOUT, read_frame(&mut read, MAX_REQUEST_FRAME_BYTES)).await {
            Ok(request) => request?,
            Err(_) => return Err(FrameFault::Timeout("rest of a request", FRAME_TIMEOUT)),
        };
        let reply = desk.reply(request).await;
        if replies.send(reply).await.is_err() {
            break;
        }
    }
    Ok(())
}

async fn wait_for_request(
    shared: &Shared,
    read: &mut BufReader<impl AsyncRead + Unpin>,
) -> Result<bool, FrameFault> {
    tokio::select! {
        biased;
        () = shared.stopping.cancelled() => Ok(false),
        first = timeout(SERVER_IDLE_TIMEOUT, read.fill_buf()) => match first {
            Ok(bytes) => Ok(!bytes?.is_empty()),
            Err(_) => Ok(false),
        },
    }
}

async fn write_replies(
    shared: &Shared,
    visitor: Visitor,
    mut write: impl AsyncWrite + Unpin,
    mut queue: mpsc::Receiver<Reply>,
) -> Result<(), FrameFault> {
    while let Some(mut reply) = queue.recv().await {
        while let Reply::Later(work) = reply {
            // A task that panicked has no answer; the peer goes on elsewhere.
            reply = work.await.map_err(|error| FrameFault::Closed(error.to_string()))?;
        }
        match reply {
            Reply::Short(response) => write_frame(&mut write, &response).await?,
            Reply::Miss { not_before } => {
                sleep_exactly_until(not_before).await;
                write_frame(&mut write, &Response::NotFound).await?;
            }
            Reply::Body { bytes, permits } => {
                write_body(shared, visitor, &mut write, &bytes).await?;
                drop(permits);
            }
            Reply::Arriving { led, permits } => {
                write_arriving(shared, visitor, &mut write, led).await?;
                drop(permits);
            }
            Reply::Watch(blob) => write_news(shared, &mut write, blob.as_ref()).await?,
            Reply::Later(_) => {}
        }
    }
    Ok(())
}

/// The runtime's timer is good for milliseconds only, and whoever asks waits for this before it asks the origin.
async fn sleep_exactly_until(instant: Instant) {
    let rest = instant.saturating_duration_since(Instant::now());
    if !rest.is_zero() {
        let _ = tokio::task::spawn_blocking(move || std::thread::sleep(rest)).await;
    }
}

/// Streams a blob as it arrives. A fetch that fails ends the substream: that is how the peer learns of it.
async fn write_arriving(
    shared: &Shared,
    visitor: Visitor,
    write: &mut (impl AsyncWrite + Unpin),
    mut led: Led,
) -> Result<(), FrameFault> {
    write_frame(write, &Response::Arriving { size: led.size }).await?;
    loop {
        let chunk = tokio::select! {
            biased;
            () = shared.stopping.cancelled() => return Err(FrameFault::Closed("shutting down".to_owned())),
            chunk = led.bytes.next() => chunk,
            () = tokio::time::sleep(ARRIVAL_HEARTBEAT) => {
                write_all(write, &0_u32.to_le_bytes()).await?;
                continue;
            }
        };
        let Some(chunk) = chunk.transpose()? else { return Ok(()) };
        for piece in chunk.chunks(MAX_ARRIVING_CHUNK_BYTES) {
            // A piece is short, so its length fits.
            let length = u32::try_from(piece.len()).unwrap_or(u32::MAX);
            write.write_all(&length.to_le_bytes()).await?;
            write_body(shared, visitor, write, piece).await?;
        }
    }
}

/// Tells what has arrived, at first and each time there is more, until all of it has.
async fn write_news(
    shared: &Shared,
    write: &mut (impl AsyncWrite + Unpin),
    blob: &dyn ArrivingBlob,
) -> Result<(), FrameFault> {
    let whole = GroupRange::all(blob.size());
    let mut changes = blob.changes();
    let mut told = None;
    loop {
        changes.borrow_and_update();
        if blob.is_abandoned() {
            return Err(FrameFault::Closed("the fetch was given up".to_owned()));
        }
        let mut runs = blob.runs();
        runs.truncate(MAX_RUNS);
        let complete = runs == [whole];
        if told.as_ref() != Some(&runs) {
            write_frame(write, &Response::Groups { runs: runs.clone() }).await?;
            told = Some(runs);
        }
        if complete {
            return Ok(());
        }
        tokio::select! {
            biased;
            () = shared.stopping.cancelled() => return Err(FrameFault::Closed("shutting down".to_owned())),
            changed = changes.changed() => {
                changed.map_err(|_| FrameFault::Closed("the fetch is gone".to_owned()))?;
            }
        }
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

/// Writes a body at the upload rate. A reader that is too slow loses the stream, and the slot is free again.
async fn write_body(
    shared: &Shared,
    visitor: Visitor,
    write: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
) -> Result<(), FrameFault> {
    let mut waited = Duration::ZERO;
    let mut left = bytes;
    while !left.is_empty() {
        // Asked each time: the owner may set another rate in the middle of a body.
        let most = shared.uplink.chunk_bytes(visitor.scope).clamp(1, left.len());
        let (chunk, behind) = left.split_at(most);
        left = behind;
        shared.uplink.acquire(visitor.peer, visitor.scope, chunk.len()).await;
        let mut rest = chunk;
        while !rest.is_empty() {
            let before = Instant::now();
            let written = match timeout(WRITE_PROGRESS_TIMEOUT, write.write(rest)).await {
                Ok(written) => written?,
                Err(_) => {
                    return Err(FrameFault::Timeout("room for a chunk of a body", WRITE_PROGRESS_TIMEOUT));
                }
            };
            if written == 0 {
                return Err(FrameFault::Closed("it takes no more of a body".to_owned()));
            }
            rest = &rest[written..];
            shared.served_bytes.inc_by(written as u64);
            waited += before.elapsed();
            if waited > MAX_BODY_WRITE {
                return Err(FrameFault::Timeout("end of a body", MAX_BODY_WRITE));
            }
        }
    }
    write_all(write, &[]).await
}
