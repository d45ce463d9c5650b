//! Joins the header of a yamux frame with its body. Written one by one, each header would become a TLS record and a
//! system call of its own.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite};

/// Writes of at most this many bytes wait for the next one, or for a flush. A yamux header has 12.
const SMALL_BYTES: usize = 32;

/// Holds back small writes; reads pass through.
#[derive(Debug)]
pub(super) struct Coalesce<S> {
    stream: S,
    held: [u8; SMALL_BYTES],
    length: usize,
}

impl<S> Coalesce<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, held: [0; SMALL_BYTES], length: 0 }
    }

    fn release(&mut self, written: usize) {
        self.held.copy_within(written..self.length, 0);
        self.length -= written;
    }
}

impl<S: AsyncWrite + Unpin> Coalesce<S> {
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.length > 0 {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.held[..self.length]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.release(written.min(self.length));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Coalesce<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        loop {
            if this.length == 0 {
                if bytes.len() > SMALL_BYTES {
                    return Pin::new(&mut this.stream).poll_write(cx, bytes);
                }
                this.held[..bytes.len()].copy_from_slice(bytes);
                this.length = bytes.len();
                return Poll::Ready(Ok(bytes.len()));
            }
            if bytes.len() <= SMALL_BYTES {
                ready!(this.poll_held(cx))?;
                continue;
            }
            let both = [IoSlice::new(&this.held[..this.length]), IoSlice::new(bytes)];
            let written = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, &both))?;
            if written == 0 {
                return Poll::Ready(Ok(0));
            }
            let of_held = written.min(this.length);
            this.release(of_held);
            if written > of_held {
                return Poll::Ready(Ok(written - of_held));
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_held(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_held(cx))?;
        Pin::new(&mut this.stream).poll_close(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Coalesce<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

#[cfg(test)]
mod tests {
    use futures::{AsyncWriteExt, executor::block_on};
    use proptest::prelude::*;

    use super::*;

    /// Takes at most `at_most` bytes at a time and is busy every third time.
    struct Trickle {
        at_most: usize,
        calls: usize,
        got: Vec<Vec<u8>>,
    }

    impl AsyncWrite for Trickle {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.calls += 1;
            if self.calls.is_multiple_of(3) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let length = bytes.len().min(self.at_most);
            self.got.push(bytes[..length].to_vec());
            Poll::Ready(Ok(length))
        }

        fn poll_write_vectored(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let joined: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
            self.poll_write(cx, &joined)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn write(at_most: usize, pieces: &[Vec<u8>], flush_each: bool) -> Vec<Vec<u8>> {
        let mut stream = Coalesce::new(Trickle { at_most, calls: 0, got: Vec::new() });
        block_on(async {
            for piece in pieces {
                stream.write_all(piece).await.expect("writes");
                if flush_each {
                    stream.flush().await.expect("flushes");
                }
            }
            stream.close().await.expect("closes");
        });
        stream.stream.got
    }

    #[test]
    fn a_header_leaves_with_its_body_and_a_lone_one_with_the_flush() {
        let pieces = [vec![1; 12], vec![2; 1000]];
        assert_eq!(write(usize::MAX, &pieces, false), [pieces.concat()]);
        assert_eq!(write(usize::MAX, &pieces[..1], false), pieces[..1]);
        assert_eq!(write(usize::MAX, &pieces, true), pieces);
    }

    proptest! {
        #[test]
        fn bytes_keep_their_order_whatever_is_taken_at_once(
            at_most in 1..80_usize,
            lengths in prop::collection::vec(1..100_usize, 0..20),
            flush_each: bool,
        ) {
            let mut next = 0_u8;
            let pieces: Vec<Vec<u8>> = lengths
                .iter()
                .map(|length| {
                    (0..*length).map(|_| { next = next.wrapping_add(1); next }).collect()
                })
                .collect();
            prop_assert_eq!(write(at_most, &pieces, flush_each).concat(), pieces.concat());
        }
    }
}
