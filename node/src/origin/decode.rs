//! Codecs of NARs and of `Content-Encoding`, in bounded memory.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_compression::tokio::bufread::{BrotliDecoder, BzDecoder, GzipDecoder, XzDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use p2p_cache_protocol::Compression;
use tokio::io::{AsyncBufRead, AsyncRead, ReadBuf};

use super::error::Fault;

/// Enough for `xz -9` (65 MiB); a hostile header could ask for 4 GiB.
pub const MAX_XZ_MEMORY_BYTES: u64 = 128 * 1024 * 1024;
/// log2 of the largest zstd window, 128 MiB: what the `zstd` tool accepts without being told.
pub const MAX_ZSTD_WINDOW_LOG: u32 = 27;
/// The low seven bits of the first byte that announce a brotli window of up to 1 GiB. The format of
/// the web (RFC 7932) ends at 16 MiB and calls this pattern invalid, but the decoder would accept it.
const LARGE_WINDOW_BROTLI: u8 = 0x11;

/// A compression that can be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    None,
    Xz,
    Zstd,
    Bzip2,
    Gzip,
    Br,
}

impl Codec {
    pub(crate) fn of_compression(compression: &Compression) -> Result<Self, Fault> {
        match compression {
            Compression::None => Ok(Self::None),
            Compression::Xz => Ok(Self::Xz),
            Compression::Zstd => Ok(Self::Zstd),
            Compression::Bzip2 => Ok(Self::Bzip2),
            Compression::Gzip => Ok(Self::Gzip),
            Compression::Br => Ok(Self::Br),
            Compression::Other(name) => Err(Fault::Unsupported { what: "compression", name: name.clone() }),
        }
    }

    /// `encoding` is a `Content-Encoding` in lower case. Two on top of each other are refused: nobody
    /// sends that but to multiply.
    pub(super) fn of_content_encoding(encoding: Option<&str>) -> Result<Self, Fault> {
        match encoding {
            None => Ok(Self::None),
            Some("gzip" | "x-gzip") => Ok(Self::Gzip),
            Some("br") => Ok(Self::Br),
            Some("zstd") => Ok(Self::Zstd),
            Some("xz") => Ok(Self::Xz),
            Some("bzip2" | "x-bzip2") => Ok(Self::Bzip2),
            Some(name) => Err(Fault::Unsupported { what: "Content-Encoding", name: name.to_owned() }),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
            Self::Gzip => "gzip",
            Self::Br => "br",
        }
    }
}

/// The decompressed bytes of a reader.
pub(crate) enum Decoder<R> {
    None(R),
    Xz(XzDecoder<R>),
    Zstd(ZstdDecoder<R>),
    Bzip2(BzDecoder<R>),
    Gzip(GzipDecoder<R>),
    Br(BrotliDecoder<StrictBrotli<R>>),
}

impl<R: AsyncBufRead + Unpin> Decoder<R> {
    pub(crate) fn new(codec: Codec, reader: R) -> Self {
        // Files made of several members (pigz, pxz, pzstd, `cat a.xz b.xz`) are one stream to Nix.
        macro_rules! members {
            ($variant:ident, $decoder:expr) => {{
                let mut decoder = $decoder;
                decoder.multiple_members(true);
                Self::$variant(decoder)
            }};
        }
        match codec {
            Codec::None => Self::None(reader),
            Codec::Xz => members!(Xz, XzDecoder::with_mem_limit(reader, MAX_XZ_MEMORY_BYTES)),
            Codec::Zstd => {
                let window = DParameter::window_log_max(MAX_ZSTD_WINDOW_LOG);
                members!(Zstd, ZstdDecoder::with_params(reader, &[window]))
            }
            Codec::Bzip2 => members!(Bzip2, BzDecoder::new(reader)),
            Codec::Gzip => members!(Gzip, GzipDecoder::new(reader)),
            Codec::Br => Self::Br(BrotliDecoder::new(StrictBrotli { inner: reader, begun: false })),
        }
    }

    /// The reader of the compressed bytes.
    pub(crate) fn source_mut(&mut self) -> &mut R {
        match self {
            Self::None(reader) => reader,
            Self::Xz(decoder) => decoder.get_mut(),
            Self::Zstd(decoder) => decoder.get_mut(),
            Self::Bzip2(decoder) => decoder.get_mut(),
            Self::Gzip(decoder) => decoder.get_mut(),
            Self::Br(decoder) => &mut decoder.get_mut().inner,
        }
    }
}

impl<R: AsyncBufRead + Unpin> AsyncRead for Decoder<R> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::None(reader) => Pin::new(reader).poll_read(cx, buf),
            Self::Xz(decoder) => Pin::new(decoder).poll_read(cx, buf),
            Self::Zstd(decoder) => Pin::new(decoder).poll_read(cx, buf),
            Self::Bzip2(decoder) => Pin::new(decoder).poll_read(cx, buf),
            Self::Gzip(decoder) => Pin::new(decoder).poll_read(cx, buf),
            Self::Br(decoder) => Pin::new(decoder).poll_read(cx, buf),
        }
    }
}

/// Refuses brotli streams that ask for a window beyond RFC 7932.
pub(crate) struct StrictBrotli<R> {
    inner: R,
    begun: bool,
}

impl<R: AsyncBufRead + Unpin> AsyncBufRead for StrictBrotli<R> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        let bytes = std::task::ready!(Pin::new(&mut this.inner).poll_fill_buf(cx))?;
        if let (false, Some(first)) = (this.begun, bytes.first()) {
            if first & 0x7f == LARGE_WINDOW_BROTLI {
                let reason = "its window is larger than 16 MiB".to_owned();
                return Poll::Ready(Err(Fault::Decode { codec: Codec::Br.name(), reason }.into()));
            }
            this.begun = true;
        }
        Poll::Ready(Ok(bytes))
    }

    fn consume(self: Pin<&mut Self>, amount: usize) {
        Pin::new(&mut self.get_mut().inner).consume(amount);
    }
}

impl<R: AsyncBufRead + Unpin> AsyncRead for StrictBrotli<R> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        poll_copy(self, cx, buf)
    }
}

/// Reads by copying out of the reader's own buffer.
pub(super) fn poll_copy<R: AsyncBufRead>(
    mut reader: Pin<&mut R>,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    let bytes = std::task::ready!(reader.as_mut().poll_fill_buf(cx))?;
    let amount = bytes.len().min(buf.remaining());
    buf.put_slice(&bytes[..amount]);
    reader.consume(amount);
    Poll::Ready(Ok(()))
}

/// The fault inside an I/O error of a [`Decoder`]: the reader's own, or the codec's complaint.
pub(super) fn fault_of(error: io::Error, codec: Codec) -> Fault {
    let text = error.to_string();
    match error.into_inner().map(|inner| inner.downcast::<Fault>()) {
        Some(Ok(fault)) => *fault,
        _ => Fault::Decode { codec: codec.name(), reason: text },
    }
}
