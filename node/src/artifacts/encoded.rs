//! A NAR that is compressed while it is read.

use std::io;
use std::pin::Pin;

use async_compression::Level;
use async_compression::tokio::bufread::{BrotliEncoder, BzEncoder, GzipEncoder, XzEncoder, ZstdEncoder};
use futures::{StreamExt, stream};
use p2p_cache_http_gateway::{BodyStream, SourceError};
use p2p_cache_protocol::Compression;
use tokio::io::AsyncRead;
use tokio::sync::Semaphore;
use tokio_util::io::StreamReader;

use crate::on_thread::{OnThread, read_chunk};

/// NARs that are compressed at once; more wait for their turn. It is rarely asked for, and each takes a processor.
static PLACES: Semaphore = Semaphore::const_new(4);
/// Compressed bytes that are handed on at once.
const CHUNK_BYTES: usize = 128 * 1024;
/// Chunks that the compressing thread may be ahead of the client.
const CHUNKS_AHEAD: usize = 2;

type Encoder = Pin<Box<dyn AsyncRead + Send>>;

/// Compresses `nar`, fast rather than well.
pub(super) async fn encoded(nar: BodyStream, compression: &Compression) -> Result<BodyStream, SourceError> {
    let place = PLACES.acquire().await.map_err(|closed| SourceError::Internal(closed.to_string()))?;
    let encoder = encoder(nar, compression).ok_or(SourceError::NotFound)?;
    let chunks = stream::try_unfold(Some((encoder, place)), |reading| async move {
        let Some((mut encoder, place)) = reading else { return Ok(None) };
        let chunk = read_chunk(&mut encoder, CHUNK_BYTES).await?;
        let more = chunk.len() == CHUNK_BYTES;
        Ok((!chunk.is_empty()).then(|| (chunk, more.then_some((encoder, place)))))
    });
    Ok(OnThread::new(chunks, CHUNKS_AHEAD).into_stream(io::Error::from).boxed())
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
    use bytes::Bytes;
    use futures::TryStreamExt;
    use p2p_cache_http_gateway::conformance::sample_bytes;
    use tokio::io::AsyncReadExt;

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
            assert!(chunks.iter().all(|chunk| chunk.len() <= CHUNK_BYTES));
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
