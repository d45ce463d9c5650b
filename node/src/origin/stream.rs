//! A NAR on its way from an origin.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use p2p_cache_protocol::{NarInfo, Sha256Digest};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinError;
use tokio::time::Instant;
use tokio_util::io::poll_read_buf;

use super::OriginId;
use super::body::{Body, BodyReader};
use super::decode::{Codec, Decoder, fault_of};
use super::error::{Fault, OriginError, RequestError};
use super::file_check::FileCheck;
use super::health::Circuit;
use crate::on_thread::OnThread;

/// Largest chunk that a [`NarStream`] yields.
pub const MAX_CHUNK_BYTES: usize = 128 * 1024;
/// Room below which the next chunk goes into a new allocation.
const MIN_ROOM_BYTES: usize = 16 * 1024;
/// Chunks that the decompressing thread may be ahead of the reader.
const CHUNKS_AHEAD: usize = 4;

/// The decompressed bytes of a NAR, or those of its file as they are, in order and in bounded memory.
///
/// It fails past NarSize, when it ends early, when FileSize or FileHash do not fit the compressed
/// bytes, and when the origin falls silent. NarHash is left to the caller, who hashes the blob
/// anyway. Dropping it closes the connection.
pub struct NarStream {
    origin: OriginId,
    start: u64,
    url: String,
    source: Source,
}

/// Bytes that need no decoding are only copied, and stay on the async worker.
enum Source {
    Direct(Box<Pump>),
    Decoding(OnThread<Bytes, OriginError>),
    Ended,
}

impl NarStream {
    /// The origin that it comes from.
    pub fn origin(&self) -> OriginId {
        self.origin
    }

    /// The byte of the NAR that comes first.
    pub fn starts_at(&self) -> u64 {
        self.start
    }

    /// The next bytes, at most [`MAX_CHUNK_BYTES`]; `None` after NarSize bytes. Nothing follows an error.
    /// Safe to cancel.
    pub async fn next(&mut self) -> Option<Result<Bytes, OriginError>> {
        let result = match &mut self.source {
            Source::Ended => None,
            Source::Direct(pump) => pump.next().await,
            Source::Decoding(chunks) => {
                let url = &self.url;
                let died =
                    |error: JoinError| OriginError::Worker { url: url.clone(), reason: error.to_string() };
                chunks.next(died).await
            }
        };
        if !matches!(result, Some(Ok(_))) {
            self.source = Source::Ended;
        }
        result
    }
}

impl std::fmt::Debug for NarStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NarStream")
            .field("origin", &self.origin)
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// What a stream needs to know about where it came from.
pub(super) struct Provenance {
    pub(super) origin: OriginId,
    pub(super) url: String,
    pub(super) began: Instant,
    pub(super) attempt: u32,
    pub(super) attempts: u32,
    pub(super) circuit: Arc<Circuit>,
    /// The place among the open NARs lasts as long as the body.
    pub(super) _place: OwnedSemaphorePermit,
}

/// What the bytes must be.
#[derive(Clone, Copy)]
pub(super) enum Expected<'a> {
    Nar(&'a NarInfo),
    /// A file with this hash, which stays as it is.
    File(Sha256Digest),
}

impl Expected<'_> {
    pub(super) fn nar_size(self) -> Option<u64> {
        match self {
            Self::Nar(narinfo) => Some(narinfo.nar_size),
            Self::File(_) => None,
        }
    }

    pub(super) fn file_size(self) -> Option<u64> {
        match self {
            Self::Nar(narinfo) => narinfo.file_size,
            Self::File(_) => None,
        }
    }

    fn check(self, file: BodyReader, start: u64) -> FileCheck<BodyReader> {
        match self {
            Self::Nar(narinfo) if start == 0 => FileCheck::new(file, narinfo),
            Self::Nar(narinfo) => FileCheck::of_rest(file, narinfo.nar_size.saturating_sub(start)),
            Self::File(hash) => FileCheck::of_file(file, hash),
        }
    }
}

pub(super) fn nar_stream(
    body: Body,
    encoding: Codec,
    codec: Codec,
    expected: Expected<'_>,
    from: Provenance,
) -> NarStream {
    let (origin, url, start) = (from.origin, from.url.clone(), body.starts_at());
    let raw = body.into_reader();
    let file: BodyReader = match encoding {
        Codec::None => raw,
        encoding => Box::pin(tokio::io::BufReader::new(Decoder::new(encoding, raw))),
    };
    let pump = Pump {
        decoder: Decoder::new(codec, expected.check(file, start)),
        codec,
        encoding,
        nar_size: expected.nar_size(),
        at: start,
        buffer: BytesMut::new(),
        broken: None,
        from,
    };
    let source = if (encoding, codec) == (Codec::None, Codec::None) {
        Source::Direct(Box::new(pump))
    } else {
        let chunks = stream::unfold(pump, |mut pump| async move { Some((pump.next().await?, pump)) });
        Source::Decoding(OnThread::new(chunks, CHUNKS_AHEAD))
    };
    NarStream { origin, start, url, source }
}

/// Reads, decodes and checks.
struct Pump {
    decoder: Decoder<FileCheck<BodyReader>>,
    codec: Codec,
    encoding: Codec,
    /// `None` for a file that is no NAR as it stands.
    nar_size: Option<u64>,
    /// Where in the NAR it has come to.
    at: u64,
    buffer: BytesMut,
    /// An error that came behind bytes that had to be handed on first.
    broken: Option<std::io::Error>,
    from: Provenance,
}

impl Pump {
    async fn next(&mut self) -> Option<Result<Bytes, OriginError>> {
        match self.step().await {
            Ok(Some(bytes)) => Some(Ok(bytes)),
            Ok(None) => None,
            Err(fault) => Some(Err(self.failed(fault))),
        }
    }

    async fn step(&mut self) -> Result<Option<Bytes>, Fault> {
        if let Err(error) = self.fill().await {
            return Err(self.explain(error));
        }
        let bytes = self.buffer.split().freeze();
        if bytes.is_empty() {
            return self.finish().await.map(|()| None);
        }
        self.at += bytes.len() as u64;
        match self.nar_size {
            Some(nar_size_bytes) if self.at > nar_size_bytes => {
                Err(Fault::LongerThanNarSize { nar_size_bytes })
            }
            _ => Ok(Some(bytes)),
        }
    }

    /// Collects what is there, up to a whole chunk; waits only when nothing is. Nothing at the end.
    async fn fill(&mut self) -> std::io::Result<()> {
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        // Small chunks share an allocation; a new one is made when too little of it is left.
        if self.buffer.capacity() < MIN_ROOM_BYTES {
            self.buffer.reserve(MAX_CHUNK_BYTES);
        }
        let room = self.buffer.capacity().min(MAX_CHUNK_BYTES);
        let Self { decoder, buffer, broken, .. } = self;
        poll_fn(|cx| {
            while buffer.len() < room {
                let left = room - buffer.len();
                let mut rest = (&mut *buffer).limit(left);
                match poll_read_buf(Pin::new(&mut *decoder), cx, &mut rest) {
                    Poll::Ready(Ok(0)) => break,
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(error)) if buffer.is_empty() => return Poll::Ready(Err(error)),
                    Poll::Ready(Err(error)) => {
                        *broken = Some(error);
                        break;
                    }
                    Poll::Pending if buffer.is_empty() => return Poll::Pending,
                    Poll::Pending => break,
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    async fn finish(&mut self) -> Result<(), Fault> {
        let checked = self.decoder.source_mut().finish(self.codec.name()).await;
        checked.map_err(|error| self.explain(error))?;
        match self.nar_size {
            Some(nar_size_bytes) if self.at < nar_size_bytes => {
                Err(Fault::Short { at: self.at, nar_size_bytes })
            }
            _ => Ok(()),
        }
    }

    fn explain(&mut self, error: std::io::Error) -> Fault {
        let codec = if self.codec == Codec::None { self.encoding } else { self.codec };
        match fault_of(error, codec) {
            // A decoder that misses the end of its input names its own symptom.
            fault @ Fault::Decode { .. } => self.decoder.source_mut().cut_off().unwrap_or(fault),
            fault => fault,
        }
    }

    fn failed(&self, fault: Fault) -> OriginError {
        let Provenance { url, began, attempt, attempts, circuit, .. } = &self.from;
        let blame = fault.blame();
        let error = RequestError {
            method: "GET",
            url: url.clone(),
            elapsed: began.elapsed(),
            attempt: *attempt,
            attempts: *attempts,
            fault,
        };
        circuit.body_failed(blame, &error.to_string());
        OriginError::Request(Box::new(error))
    }
}
