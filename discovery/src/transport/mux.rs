//! The `/yamux/1.0.0` upgrade: many streams over one connection, in frames that are large enough for bulk data.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Ready, ready},
    pin::Pin,
    task::{Context, Poll, Waker},
};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::{
    muxing::{StreamMuxer, StreamMuxerEvent},
    upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo},
};
use yamux::{Connection, ConnectionError, Mode, Stream};

use super::coalesce::Coalesce;

const PROTOCOL: &str = "/yamux/1.0.0";
/// Largest frame that is sent, header included: a whole number of TLS records of 16 KiB. Larger ones would save
/// little and make a small answer wait longer behind bulk data.
const FRAME_BYTES: usize = 64 * 1024;
const HEADER_BYTES: usize = 12;
/// Streams that one connection may have. A peer that opens more loses the connection; ours never come near.
const MAX_STREAMS: usize = 512;
/// What yamux grants each stream from the start, in bytes.
const INITIAL_WINDOW_BYTES: usize = 256 * 1024;
/// By how much the windows of all streams of a connection may grow together, in bytes, when its streams are read as
/// fast as they fill them: enough for 1 Gbit/s over 128 ms. Bytes in a window that nobody reads are memory of this
/// node; a stream that nobody reads never grows beyond [`INITIAL_WINDOW_BYTES`].
const WINDOW_GROWTH_BYTES: usize = 16 * 1024 * 1024;
/// Inbound streams that wait until the swarm has a place for one in negotiation; more are reset.
const MAX_WAITING_INBOUND: usize = 256;

/// The upgrade, for both sides of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Mux(yamux::Config);

impl Default for Mux {
    fn default() -> Self {
        let mut config = yamux::Config::default();
        config
            .set_max_num_streams(MAX_STREAMS)
            .set_max_connection_receive_window(Some(MAX_STREAMS * INITIAL_WINDOW_BYTES + WINDOW_GROWTH_BYTES))
            .set_split_send_size(FRAME_BYTES - HEADER_BYTES);
        Self(config)
    }
}

impl UpgradeInfo for Mux {
    type Info = &'static str;
    type InfoIter = std::iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once(PROTOCOL)
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> InboundConnectionUpgrade<C> for Mux {
    type Output = Muxer<C>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, stream: C, _: Self::Info) -> Self::Future {
        ready(Ok(Muxer::new(stream, self.0, Mode::Server)))
    }
}

impl<C: AsyncRead + AsyncWrite + Send + Unpin + 'static> OutboundConnectionUpgrade<C> for Mux {
    type Output = Muxer<C>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, stream: C, _: Self::Info) -> Self::Future {
        ready(Ok(Muxer::new(stream, self.0, Mode::Client)))
    }
}

/// A connection with its streams.
pub(crate) struct Muxer<C> {
    connection: Connection<Coalesce<C>>,
    /// Streams that came while only the connection was driven and nobody took any.
    waiting: VecDeque<Stream>,
    taker: Option<Waker>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Muxer<C> {
    fn new(stream: C, config: yamux::Config, mode: Mode) -> Self {
        let connection = Connection::new(Coalesce::new(stream), config, mode);
        Self { connection, waiting: VecDeque::new(), taker: None }
    }

    /// Drives the whole connection; what comes out is a stream that the peer opened.
    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Stream, ConnectionError>> {
        self.connection.poll_next_inbound(cx).map(|next| next.unwrap_or(Err(ConnectionError::Closed)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Muxer<C> {
    type Substream = Stream;
    type Error = ConnectionError;

    fn poll_inbound(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        let this = self.get_mut();
        if let Some(stream) = this.waiting.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        let next = this.drive(cx);
        if next.is_pending() {
            this.taker = Some(cx.waker().clone());
        }
        next
    }

    fn poll_outbound(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::Substream, Self::Error>> {
        self.get_mut().connection.poll_new_outbound(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.get_mut().connection.poll_close(cx)
    }

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, Self::Error>> {
        let this = self.get_mut();
        match this.drive(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Ready(Ok(stream)) if this.waiting.len() < MAX_WAITING_INBOUND => {
                this.waiting.push_back(stream);
                if let Some(taker) = this.taker.take() {
                    taker.wake();
                }
            }
            Poll::Ready(Ok(stream)) => {
                tracing::warn!(%stream, limit = MAX_WAITING_INBOUND, "inbound stream reset: too many wait");
            }
        }
        // There may be more; others get their turn first.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
