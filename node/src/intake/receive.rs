//! The file of a NAR on its way in: hashed, decompressed, and written to disk, in bounded memory.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use p2p_cache_http_gateway::{BodyStream, NarFile, Rejection, SourceError};
use p2p_cache_protocol::Sha256Digest;
use tokio::io::AsyncBufReadExt;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;
use tokio_util::io::StreamReader;

use super::waiting::{Budget, Spending, WaitingNar};
use crate::artifacts::put_error;
use crate::on_thread::{OnThread, read_chunk};
use crate::origin::{Codec, Decoder};
use crate::sha256::Sha256;
use crate::store::{BlobStore, StoreError};

/// Decompressed bytes that are handed on at once.
const CHUNK_BYTES: usize = 128 * 1024;
/// Chunks that the decompressing thread may be ahead of the disk.
const CHUNKS_AHEAD: usize = 4;

type Chunks = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Why a body ends, beside the reasons of its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Trouble {
    #[error("too much waits on disk already")]
    OverBudget,
    #[error("it cannot be decompressed")]
    BadFile,
    #[error("the thread that decompresses it died")]
    Died,
}

/// The file, as far as it has passed.
#[derive(Default)]
struct Passed {
    hash: Sha256,
    bytes: u64,
}

pub(super) async fn receive(
    store: &BlobStore,
    budget: &Arc<Budget>,
    file: &NarFile,
    body: BodyStream,
) -> Result<WaitingNar, SourceError> {
    let codec =
        Codec::of_compression(&file.compression).map_err(|_| SourceError::Rejected(Rejection::BadFile))?;
    let passed = Arc::new(Mutex::new(Passed::default()));
    let body = watched(body, Arc::clone(&passed));
    let nar = match codec {
        Codec::None => body,
        codec => decoded(body, codec),
    };
    let spending = Arc::new(Mutex::new(budget.spend()));
    let spooled =
        store.spool(within_budget(nar, Arc::clone(&spending))).await.map_err(|error| failure(&error))?;

    let Passed { hash, bytes } = std::mem::take(&mut *lock(&passed));
    let file_hash: Sha256Digest = hash.finish();
    if file_hash != file.file_hash {
        return Err(SourceError::Rejected(Rejection::FileDiffers));
    }
    let spending = std::mem::replace(&mut *lock(&spending), budget.spend());
    Ok(WaitingNar {
        sha256: spooled.sha256(),
        size: spooled.size(),
        file_size: bytes,
        since: Instant::now(),
        spooled: AsyncMutex::new(Some((spooled, spending))),
    })
}

/// Hashes and counts what passes.
fn watched(body: BodyStream, passed: Arc<Mutex<Passed>>) -> Chunks {
    let watched = body.inspect(move |chunk| {
        if let Ok(chunk) = chunk {
            let mut passed = lock(&passed);
            passed.hash.update(chunk);
            passed.bytes += chunk.len() as u64;
        }
    });
    // Fused: a decoder may ask again after the end.
    watched.fuse().boxed()
}

/// Fails when there is more than may wait on disk, which also ends what would decompress without an end.
fn within_budget(nar: Chunks, spending: Arc<Mutex<Spending>>) -> Chunks {
    let bounded = nar.map(move |chunk| {
        let chunk = chunk?;
        if lock(&spending).add(chunk.len() as u64) {
            Ok(chunk)
        } else {
            Err(io::Error::other(Trouble::OverBudget))
        }
    });
    bounded.boxed()
}

fn decoded(body: Chunks, codec: Codec) -> Chunks {
    let decoder = Decoder::new(codec, StreamReader::new(body));
    let chunks = stream::try_unfold(Some(decoder), |decoder| async move {
        let Some(mut decoder) = decoder else { return Ok(None) };
        let chunk = read_chunk(&mut decoder, CHUNK_BYTES).await.map_err(explained)?;
        if chunk.len() == CHUNK_BYTES {
            return Ok(Some((chunk, Some(decoder))));
        }
        // What stands behind the end is not part of a NAR.
        if decoder.source_mut().fill_buf().await?.is_empty() {
            Ok((!chunk.is_empty()).then_some((chunk, None)))
        } else {
            Err(io::Error::other(Trouble::BadFile))
        }
    });
    OnThread::new(chunks, CHUNKS_AHEAD).into_stream(|_| io::Error::other(Trouble::Died)).boxed()
}

/// What a decoder complains about is the file; what its reader does is the client.
fn explained(error: io::Error) -> io::Error {
    let of_client = matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::TimedOut);
    if of_client { error } else { io::Error::other(Trouble::BadFile) }
}

fn failure(error: &StoreError) -> SourceError {
    let trouble = match error {
        StoreError::Body { source, .. } => source.get_ref().and_then(|inner| inner.downcast_ref::<Trouble>()),
        _ => None,
    };
    match trouble {
        Some(Trouble::OverBudget) => SourceError::Rejected(Rejection::TooManyWaiting),
        Some(Trouble::BadFile) => SourceError::Rejected(Rejection::BadFile),
        Some(died @ Trouble::Died) => SourceError::Internal(died.to_string()),
        None => put_error(error),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
