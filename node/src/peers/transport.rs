//! What the peer wire needs of the network: byte streams, both ways. Tests use in-memory twins.

use std::io;

use async_trait::async_trait;
use p2p_cache_discovery::{IncomingStreams, Network, NetworkPrefix, PeerId, Scope};
use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream to a peer.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// A stream whose kind is known at run time only.
pub type BoxStream = Box<dyn Stream>;

/// Opens streams to peers.
#[async_trait]
pub trait Dialer: Send + Sync + 'static {
    /// A new substream to `peer`, dialled when it is not connected; bounded in time.
    async fn open(&self, peer: PeerId) -> io::Result<BoxStream>;
}

#[async_trait]
impl Dialer for Network {
    async fn open(&self, peer: PeerId) -> io::Result<BoxStream> {
        let stream = self.open_stream(peer).await.map_err(io::Error::other)?;
        Ok(Box::new(stream))
    }
}

/// Who is at the other end of a stream that came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Visitor {
    /// The peer, authenticated by the transport.
    pub peer: PeerId,
    /// Where it was met.
    pub scope: Scope,
    /// The network that it was met in.
    pub network: NetworkPrefix,
}

/// Streams that peers open to us.
#[async_trait]
pub trait Incoming: Send + 'static {
    /// The next stream; `None` when the network has shut down.
    async fn next(&mut self) -> Option<(Visitor, BoxStream)>;
}

#[async_trait]
impl Incoming for IncomingStreams {
    async fn next(&mut self) -> Option<(Visitor, BoxStream)> {
        let (info, stream) = IncomingStreams::next(self).await?;
        let network = NetworkPrefix::of(&info.address, info.scope);
        Some((Visitor { peer: info.peer, scope: info.scope, network }, Box::new(stream)))
    }
}
