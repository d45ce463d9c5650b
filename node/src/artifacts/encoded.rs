//! A NAR that is compressed while it is read.

use std::io;
use std::pin::Pin;

use async_compression::Level;
use async_compression::tokio::bufread::{BrotliEncoder, BzEncoder, GzipEncoder, XzEncoder, ZstdEncoder};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use p2p_cache_http_gateway::{BodyStream, SourceError};
use p2p_cache_protocol::Compression;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio_util::io::StreamReader;

/// NARs that are compressed at once; more wait for their turn. It is rarely asked for, and each takes a processor.
static PLACES: Semaphore = Semaphore::const_new(4);
/// Compressed bytes that are handed on at once.
const CHUNK_BYTES: usize = 128 * 1024;
/// Chunks that the compressing thread may be ahead of the client.
const CHUNKS_AHEAD: usize = 2;

type Encoder = Pin<Box<dyn AsyncRead + Send>>;

/// What a chunk stands in: an end without the last word is a thread that died.
enum Part {
    Chunk(Bytes),
    End,
}

/// Compresses `nar`, fast rather than well, on a thread of the blocking pool, which ends as soon as the stream is dropped.
pub(super) async fn encoded(nar: BodyStream, compression: &Compression) -> Result<BodyStream, SourceError> {
    let place = PLACES.acquire().await.map_err(|closed| SourceError::Internal(closed.to_string()))?;
    let encoder = encoder(nar, compression).ok_or(SourceError::NotFound)?;
    let (sender, parts) = mpsc::channel(CHUNKS_AHEAD);
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || {
        runtime.block_on(async {
            tokio::select! {
                biased;
                () = sender.closed() => {}
                result = run(encoder, &sender) => {
                    let last = result.map(|()| Part::End);
                    let _ = sender.send(last).await;
                }
            }
        });
    });
    Ok(stream::unfold(Some((parts, place)), next).boxed())
}

type Reading = (mpsc::Receiver<io::Result<Part>>, SemaphorePermit<'static>);

async fn next(reading: Option<Reading>) -> Option<(io::Result<Bytes>, Option<Reading>)> {
    let (mut parts, place) = reading?;
    match parts.recv().await {
        Some(Ok(Part::Chunk(chunk))) => Some((Ok(chunk), Some((parts, place)))),
        Some(Ok(Part::End)) => None,
        Some(Err(error)) => Some((Err(error), None)),
        None => Some((Err(io::Error::other("the thread that compresses a NAR died")), None)),
    }
}

async fn run(mut encoder: Encoder, parts: &mpsc::Sender<io::Result<Part>>) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(CHUNK_BYTES);
    loop {
        let read = encoder.read_buf(&mut buffer).await?;
        if read > 0 && buffer.len() < buffer.capacity() {
            continue;
        }
        let chunk = buffer.split().freeze();
        if !chunk.is_empty() && parts.send(Ok(Part::Chunk(chunk))).await.is_err() {
            return Ok(());
        }
        if read == 0 {
            return Ok(());
        }
        buffer.reserve(CHUNK_BYTES);
    }
}

fn encoder(nar: BodyStream, compression: &Compression) -> Option<Encoder> {
    // Fused: an encoder may ask again after the end.
    let nar = StreamReader::new(nar.fuse());
    let fast = Level::Fastest;
    Some(match compression {
        Compression::None => Box::pin(nar),
        Compression::Xz => Box::pin(XzEncoder::with_quality(nar, fast)),
        Compression::Zstd => Box::pin(ZstdEncoder::with_quality(nar, fast)),
        Compression::Bzip2 => Box::pin(BzEncoder::with_quality(nar, fast)),
        Compression::Gzip => Box::pin(GzipEncoder::with_quality(nar, fast)),
        Compression::Br => Box::pin(BrotliEncoder::with_quality(nar, fast)),
        Compression::Other(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;
    use p2p_cache_http_gateway::conformance::sample_bytes;

    use super::*;
    use crate::origin::{Codec, Decoder};

    #[tokio::test]
    async fn what_is_compressed_decompresses_to_the_same() {
        let nar = sample_bytes(1, 1_000_003);
        for compression in [
            Compression::None,
            Compression::Xz,
            Compression::Zstd,
            Compression::Bzip2,
            Compression::Gzip,
            Compression::Br,
        ] {
            let chunks: Vec<_> = nar.chunks(70_000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
            let body = encoded(Box::pin(stream::iter(chunks)), &compression).await.unwrap();
            let chunks: Vec<Bytes> = body.try_collect().await.unwrap();
            assert!(chunks.iter().all(|chunk| chunk.len() <= 2 * CHUNK_BYTES));
            let mut decoded = Vec::new();
            let codec = Codec::of_compression(&compression).unwrap();
            Decoder::new(codec, &chunks.concat()[..]).read_to_end(&mut decoded).await.unwrap();
            assert!(decoded == nar, "{compression}");
        }
    }

    #[tokio::test]
    async fn a_nar_that_breaks_off_does_not_end_in_good_order() {
        let parts = [Ok(sample_bytes(2, 300_000)), Err(io::Error::other("the disk is gone"))];
        let body = encoded(Box::pin(stream::iter(parts)), &Compression::Zstd).await.unwrap();
        let all: Result<Vec<Bytes>, io::Error> = body.try_collect().await;
        assert!(all.is_err());
    }
}
