//! FileHash and FileSize of the compressed bytes, checked as they pass.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use p2p_cache_protocol::{Compression, NarInfo, Sha256Digest};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, ReadBuf};

use super::decode::poll_copy;
use super::error::Fault;
use crate::sha256::Sha256;

/// What a file without FileSize may be longer than its NAR: headers, and data that does not compress.
const MAX_COMPRESSION_LOSS_BYTES: u64 = 1024 * 1024;

/// Passes a file on, counting and hashing it.
pub(super) struct FileCheck<R> {
    inner: R,
    /// Bytes of the inner reader's buffer that were counted and hashed but not consumed yet.
    noted: usize,
    seen_bytes: u64,
    ended: bool,
    max_bytes: u64,
    expected_bytes: Option<u64>,
    hash: Option<(Sha256, Sha256Digest)>,
}

impl<R: AsyncBufRead + Unpin> FileCheck<R> {
    pub(super) fn new(inner: R, narinfo: &NarInfo) -> Self {
        // The NAR itself: its hash is checked over the blob anyway, once is enough.
        let same = narinfo.compression == Compression::None && narinfo.file_hash == Some(narinfo.nar_hash);
        let hash = narinfo.file_hash.filter(|_| !same).map(|expected| (Sha256::default(), expected));
        let max_bytes = narinfo.file_size.unwrap_or_else(|| {
            narinfo.nar_size.saturating_add(narinfo.nar_size / 64).saturating_add(MAX_COMPRESSION_LOSS_BYTES)
        });
        Self {
            inner,
            noted: 0,
            seen_bytes: 0,
            ended: false,
            max_bytes,
            expected_bytes: narinfo.file_size,
            hash,
        }
    }

    /// For a file of which nothing but the hash is known.
    pub(super) fn of_file(inner: R, expected: Sha256Digest) -> Self {
        let hash = Some((Sha256::default(), expected));
        Self { inner, noted: 0, seen_bytes: 0, ended: false, max_bytes: u64::MAX, expected_bytes: None, hash }
    }

    /// For the last `bytes` bytes of an uncompressed NAR, of which no hash is known.
    pub(super) fn of_rest(inner: R, bytes: u64) -> Self {
        let (max_bytes, expected_bytes) = (bytes, Some(bytes));
        Self { inner, noted: 0, seen_bytes: 0, ended: false, max_bytes, expected_bytes, hash: None }
    }

    /// Whether the file ended before its FileSize: the better explanation for what a decoder complains about.
    pub(super) fn cut_off(&self) -> Option<Fault> {
        let expected_bytes =
            self.expected_bytes.filter(|expected| self.ended && self.seen_bytes < *expected)?;
        Some(Fault::FileSize { expected_bytes, actual_bytes: self.seen_bytes, at_least: false })
    }

    /// To be called when the decoder is at its end: the file must be at its end too, and be the right one.
    pub(super) async fn finish(&mut self, codec: &'static str) -> io::Result<()> {
        if !self.fill_buf().await?.is_empty() {
            let reason = "bytes follow after the end of the compressed data".to_owned();
            return Err(Fault::Decode { codec, reason }.into());
        }
        if let Some(fault) = self.cut_off() {
            return Err(fault.into());
        }
        if let Some((hasher, expected)) = self.hash.take() {
            let actual = hasher.finish();
            if actual != expected {
                return Err(Fault::FileHash { expected, actual }.into());
            }
        }
        Ok(())
    }

    fn too_long(&self) -> Fault {
        match self.expected_bytes {
            Some(expected_bytes) => {
                Fault::FileSize { expected_bytes, actual_bytes: self.seen_bytes, at_least: true }
            }
            None => Fault::TooLarge { limit_bytes: self.max_bytes },
        }
    }
}

impl<R: AsyncBufRead + Unpin> AsyncBufRead for FileCheck<R> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        // Asked twice because the borrow of the first answer would last over the checks.
        let bytes = std::task::ready!(Pin::new(&mut this.inner).poll_fill_buf(cx))?;
        let fresh = bytes.get(this.noted..).unwrap_or_default();
        if let Some((hasher, _)) = &mut this.hash {
            hasher.update(fresh);
        }
        this.ended = bytes.is_empty();
        this.seen_bytes += fresh.len() as u64;
        this.noted = bytes.len();
        if this.seen_bytes > this.max_bytes {
            return Poll::Ready(Err(this.too_long().into()));
        }
        Pin::new(&mut this.inner).poll_fill_buf(cx)
    }

    fn consume(self: Pin<&mut Self>, amount: usize) {
        let this = self.get_mut();
        this.noted = this.noted.saturating_sub(amount);
        Pin::new(&mut this.inner).consume(amount);
    }
}

impl<R: AsyncBufRead + Unpin> AsyncRead for FileCheck<R> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        poll_copy(self, cx, buf)
    }
}
