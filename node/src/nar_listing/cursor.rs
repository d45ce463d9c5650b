//! A position in a NAR.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use p2p_cache_http_gateway::{Artifact, BodyStream};

/// Reads strings in order, and passes over contents.
pub(super) struct Cursor {
    nar: Arc<dyn Artifact>,
    size: u64,
    /// Where in the NAR `chunk` begins.
    at: u64,
    chunk: Bytes,
    body: Option<BodyStream>,
    max_read_over_bytes: u64,
}

impl Cursor {
    pub(super) fn new(nar: Arc<dyn Artifact>, max_read_over_bytes: u64) -> Self {
        let size = nar.size();
        Self { nar, size, at: 0, chunk: Bytes::new(), body: None, max_read_over_bytes }
    }

    /// Where the next byte stands.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// A string and its padding.
    pub(super) async fn string(&mut self, max_bytes: u64) -> io::Result<Bytes> {
        let length = self.number().await?;
        if length > max_bytes {
            return Err(super::bad(format!("a string of {length} bytes at {}", self.at)));
        }
        let mut text = self.take(length.next_multiple_of(8)).await?;
        text.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        Ok(text)
    }

    /// A length.
    pub(super) async fn number(&mut self) -> io::Result<u64> {
        let bytes = self.take(8).await?;
        bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)).ok_or_else(|| self.ended())
    }

    /// Passes over contents and their padding.
    pub(super) async fn skip_padded(&mut self, length: u64) -> io::Result<()> {
        let end = length.checked_next_multiple_of(8).and_then(|length| self.at.checked_add(length));
        let end = end.filter(|end| *end <= self.size).ok_or_else(|| self.ended())?;
        loop {
            let wanted = end - self.at;
            if wanted <= self.chunk.len() as u64 {
                self.advance(wanted);
                return Ok(());
            }
            if wanted > self.max_read_over_bytes {
                (self.at, self.chunk, self.body) = (end, Bytes::new(), None);
                return Ok(());
            }
            self.advance(self.chunk.len() as u64);
            self.more().await?;
        }
    }

    /// Nothing follows.
    pub(super) fn expect_end(&self) -> io::Result<()> {
        if self.at == self.size {
            Ok(())
        } else {
            Err(super::bad(format!("more bytes follow at {}", self.at)))
        }
    }

    /// The next bytes, which are few.
    async fn take(&mut self, length: u64) -> io::Result<Bytes> {
        if length > self.size.saturating_sub(self.at) {
            return Err(self.ended());
        }
        if length <= self.chunk.len() as u64 {
            return Ok(self.advance(length));
        }
        let mut bytes = BytesMut::new();
        while (bytes.len() as u64) < length {
            if self.chunk.is_empty() {
                self.more().await?;
            }
            let part = (length - bytes.len() as u64).min(self.chunk.len() as u64);
            bytes.extend_from_slice(&self.advance(part));
        }
        Ok(bytes.freeze())
    }

    /// At most what the chunk has.
    fn advance(&mut self, length: u64) -> Bytes {
        self.at += length;
        self.chunk.split_to(usize::try_from(length).unwrap_or(usize::MAX).min(self.chunk.len()))
    }

    /// The next chunk, when this one is used up.
    async fn more(&mut self) -> io::Result<()> {
        let rest = self.at..self.size;
        let body = self.body.get_or_insert_with(|| Arc::clone(&self.nar).read(rest));
        match body.next().await {
            Some(chunk) => self.chunk = chunk?,
            None => return Err(self.ended()),
        }
        Ok(())
    }

    fn ended(&self) -> io::Error {
        super::bad(format!("it ends at {}", self.at))
    }
}
