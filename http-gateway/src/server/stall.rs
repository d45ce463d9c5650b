//! A client's socket, with a limit on how long its owner may keep us waiting.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::routes::Connection;
use crate::watchdog::Watchdog;

/// How long a connection is kept to take the rest of an upload whose answer is already on its way.
const LINGER_TIME: Duration = Duration::from_secs(2);
/// How much of such a rest is taken.
const LINGER_BYTES: u64 = 64 * 1024 * 1024;
/// It is read into a buffer of this size and forgotten.
const LINGER_BUFFER_BYTES: usize = 16 * 1024;

/// A socket whose writes fail when the client takes nothing for too long. Reads are limited by those who know what
/// they wait for: hyper for heads, the upload for bodies.
pub(super) struct ClientSocket {
    stream: TcpStream,
    connection: Arc<Connection>,
    stall: Watchdog,
    linger: Linger,
}

/// The time after our side of the connection was closed.
struct Linger {
    deadline: Watchdog,
    shut_down: bool,
    taken_bytes: u64,
}

impl ClientSocket {
    pub(super) fn new(stream: TcpStream, connection: Arc<Connection>, stall: Duration) -> Self {
        let linger = Linger { deadline: Watchdog::new(LINGER_TIME), shut_down: false, taken_bytes: 0 };
        Self { stream, connection, stall: Watchdog::new(stall), linger }
    }

    /// Watches the result of a write.
    fn watched(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stall.reset();
            return written;
        }
        ready!(self.stall.poll_expired(cx));
        let text = format!("the client took nothing for {} ms", self.stall.limit().as_millis());
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)))
    }

    /// Takes what the client still sends, so that closing the socket does not reset the connection before the client
    /// has read its answer. Bounded in time and bytes.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut space = [0_u8; LINGER_BUFFER_BYTES];
        while self.linger.taken_bytes < LINGER_BYTES {
            if self.linger.deadline.poll_expired(cx).is_ready() {
                break;
            }
            let mut buffer = ReadBuf::new(&mut space);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {
                    self.linger.taken_bytes += buffer.filled().len() as u64
                }
                Ok(()) | Err(_) => break,
            }
        }
        Poll::Ready(())
    }
}

impl AsyncRead for ClientSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for ClientSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watched(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.watched(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.as_mut().get_mut();
        if !this.linger.shut_down {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            this.linger.shut_down = true;
        }
        if this.connection.linger.load(Ordering::Acquire) {
            ready!(this.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}
