//! The stream that callers hold.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use libp2p::PeerId;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::OwnedSemaphorePermit,
};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

/// A byte stream with a peer, both ways, ordered and reliable. Dropping it resets it; `shutdown` closes the
/// writing half and leaves the reading half open.
pub struct PeerStream {
    inner: Compat<libp2p::Stream>,
    peer: PeerId,
    /// Pays for an inbound stream as long as it lives.
    _permit: Option<OwnedSemaphorePermit>,
}

impl PeerStream {
    pub(super) fn new(stream: libp2p::Stream, peer: PeerId, permit: Option<OwnedSemaphorePermit>) -> Self {
        Self { inner: stream.compat(), peer, _permit: permit }
    }

    /// The peer at the other end, authenticated by the connection.
    pub fn peer(&self) -> PeerId {
        self.peer
    }
}

impl std::fmt::Debug for PeerStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerStream").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
