//! Frames over an asynchronous stream, and the exchange that opens every substream. The format of a frame is the
//! protocol's; here are the bounds in time and size that a socket needs.

use std::io;
use std::time::Duration;

use p2p_cache_protocol::wire::{Hello, WireMessage, decode_frame, encode_frame, frame_len, negotiate};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::limits::{FRAME_TIMEOUT, HELLO_TIMEOUT, MAX_HELLO_FRAME_BYTES};

/// Why a frame could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameFault {
    /// The transport broke or ended.
    #[error("{0}")]
    Closed(String),
    /// The rest of the frame did not come, or was not taken, in time.
    #[error("no {0} within {1:?}")]
    Timeout(&'static str, Duration),
    /// The bytes are not a frame that is allowed here.
    #[error("{0}")]
    Garbage(String),
    /// Both sides speak the protocol, but no common version.
    #[error("{0}")]
    Incompatible(String),
}

impl From<io::Error> for FrameFault {
    fn from(error: io::Error) -> Self {
        FrameFault::Closed(error.to_string())
    }
}

/// Reads one frame of at most `max_bytes`. Not cancel safe: a timeout around it must end the stream.
pub(super) async fn read_frame<T: WireMessage>(
    reader: &mut (impl AsyncRead + Unpin),
    max_bytes: usize,
) -> Result<T, FrameFault> {
    let mut header = [0; 4];
    reader.read_exact(&mut header).await?;
    let length = frame_len(header).map_err(|error| FrameFault::Garbage(error.to_string()))?;
    if length > max_bytes {
        return Err(FrameFault::Garbage(format!("a frame of {length} bytes where {max_bytes} are allowed")));
    }
    let mut payload = vec![0; length];
    reader.read_exact(&mut payload).await?;
    decode_frame(&payload).map_err(|error| FrameFault::Garbage(error.to_string()))
}

/// Writes one frame and flushes it, within [`FRAME_TIMEOUT`].
pub(super) async fn write_frame(
    writer: &mut (impl AsyncWrite + Unpin),
    message: &impl WireMessage,
) -> Result<(), FrameFault> {
    let frame = encode_frame(message).map_err(|error| FrameFault::Closed(error.to_string()))?;
    write_all(writer, &frame).await
}

/// Writes encoded bytes and flushes them, within [`FRAME_TIMEOUT`].
pub(super) async fn write_all(
    writer: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
) -> Result<(), FrameFault> {
    let write = async {
        writer.write_all(bytes).await?;
        writer.flush().await
    };
    match timeout(FRAME_TIMEOUT, write).await {
        Ok(written) => Ok(written?),
        Err(_) => Err(FrameFault::Timeout("room for a frame", FRAME_TIMEOUT)),
    }
}

/// The program and its version, for the people on the other side.
const AGENT: &str = concat!("p2p-cache/", env!("CARGO_PKG_VERSION"));

/// Sends our `Hello`, reads theirs and agrees on a version, all within [`HELLO_TIMEOUT`].
pub(super) async fn exchange_hello(
    reader: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
) -> Result<u16, FrameFault> {
    let ours = Hello::new(AGENT);
    let both =
        async { tokio::try_join!(write_frame(writer, &ours), read_frame(reader, MAX_HELLO_FRAME_BYTES)) };
    let ((), theirs): ((), Hello) = match timeout(HELLO_TIMEOUT, both).await {
        Ok(exchanged) => exchanged?,
        Err(_) => return Err(FrameFault::Timeout("hello", HELLO_TIMEOUT)),
    };
    negotiate(&ours, &theirs).map_err(|error| FrameFault::Incompatible(error.to_string()))
}
