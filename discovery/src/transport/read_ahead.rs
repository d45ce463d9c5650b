//! A socket that is read in large pieces, because TLS asks for a few KiB at a time.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite};

/// Size of the buffer of a quiet connection, in bytes.
const MIN_BYTES: usize = 8 * 1024;
/// Size up to which it grows while the socket fills it; what one busy connection costs in memory.
const MAX_BYTES: usize = 256 * 1024;
/// After so many reads in a row that would have fitted the smallest buffer, the large one is given back.
const QUIET_READS: u32 = 64;

/// Reads ahead; writes pass through.
pub(crate) struct ReadAhead<S> {
    socket: S,
    buffer: Vec<u8>,
    taken: usize,
    filled: usize,
    quiet_reads: u32,
}

impl<S> ReadAhead<S> {
    pub(super) fn new(socket: S) -> Self {
        Self { socket, buffer: vec![0; MIN_BYTES], taken: 0, filled: 0, quiet_reads: 0 }
    }

    /// Fits the empty buffer to what the last reads brought.
    fn resize(&mut self) {
        if self.filled == self.buffer.len() && self.buffer.len() < MAX_BYTES {
            self.buffer = vec![0; (2 * self.buffer.len()).min(MAX_BYTES)];
        } else if self.quiet_reads >= QUIET_READS && self.buffer.len() > MIN_BYTES {
            self.buffer = vec![0; MIN_BYTES];
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.taken == this.filled {
            this.resize();
            (this.taken, this.filled) = (0, 0);
            this.filled = ready!(Pin::new(&mut this.socket).poll_read(cx, &mut this.buffer))?;
            this.quiet_reads = if this.filled <= MIN_BYTES { this.quiet_reads.saturating_add(1) } else { 0 };
        }
        let ahead = &this.buffer[this.taken..this.filled];
        let length = ahead.len().min(into.len());
        into[..length].copy_from_slice(&ahead[..length]);
        this.taken += length;
        Poll::Ready(Ok(length))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadAhead<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::{AsyncReadExt, executor::block_on, io::Cursor};

    use super::*;

    #[test]
    fn everything_comes_through_in_order_and_the_buffer_grows_to_its_bound() {
        let bytes: Vec<u8> =
            (0..3_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let mut ahead = ReadAhead::new(Cursor::new(bytes.clone()));
        let mut back = Vec::new();
        let mut piece = [0; 4099];
        loop {
            let read = block_on(ahead.read(&mut piece)).expect("reads");
            if read == 0 {
                break;
            }
            back.extend_from_slice(&piece[..read]);
        }
        assert!(back == bytes);
        assert_eq!(ahead.buffer.len(), MAX_BYTES);
    }

    #[test]
    fn a_connection_that_becomes_quiet_gives_its_large_buffer_back() {
        struct Burst(usize);
        impl AsyncRead for Burst {
            fn poll_read(
                mut self: Pin<&mut Self>,
                _: &mut Context<'_>,
                into: &mut [u8],
            ) -> Poll<io::Result<usize>> {
                let length = into.len().min(if self.0 > 0 { MAX_BYTES } else { 100 });
                self.0 = self.0.saturating_sub(1);
                Poll::Ready(Ok(length))
            }
        }
        let mut ahead = ReadAhead::new(Burst(20));
        let mut piece = vec![0; MAX_BYTES];
        for _ in 0..20 {
            block_on(ahead.read(&mut piece)).expect("reads");
        }
        assert_eq!(ahead.buffer.len(), MAX_BYTES);
        for _ in 0..=QUIET_READS {
            block_on(ahead.read(&mut piece)).expect("reads");
        }
        assert_eq!(ahead.buffer.len(), MIN_BYTES);
    }
}
