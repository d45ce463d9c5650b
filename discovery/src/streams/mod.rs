//! Byte streams between peers: `/p2p-cache/1` substreams of the libp2p connections.
//!
//! Every open request carries its own answer channel down to the connection and back, so that any number of
//! concurrent opens finish independently; every queue is bounded and says so when it is full.

mod behaviour;
mod handler;
mod stream;

pub(crate) use behaviour::Behaviour;
pub(crate) use handler::Incoming;
pub use stream::PeerStream;

/// Open requests that may wait on one connection.
pub(crate) const MAX_QUEUED_OPENS: usize = 1024;
/// Streams that one connection negotiates outwards at a time; the rest wait in the queue.
pub(crate) const MAX_NEGOTIATING_OPENS: usize = 64;
/// Inbound streams that one connection may have alive at a time; more are reset.
pub const MAX_INBOUND_STREAMS_PER_CONNECTION: usize = 256;
/// Accepted streams of all connections that wait for [`IncomingStreams::next`](crate::IncomingStreams::next);
/// beyond it each connection keeps its own waiting, so that nothing is lost in a burst.
pub(crate) const INCOMING_QUEUE_STREAMS: usize = 64;

/// Answer to an open request.
pub(crate) type OpenReply = tokio::sync::oneshot::Sender<Result<PeerStream, crate::error::NetworkError>>;
