//! What travels between nodes.
//!
//! A substream begins with one [`Hello`] each way, which settles the version. After that the side that
//! opened it sends [`Request`]s, as many as it likes without waiting, and gets one [`Response`] for each in
//! the same order; only [`Request::Watch`] is answered by many. A message is a frame: its length as a little-endian `u32`, then the message in the
//! encoding that [`encode_frame`] hides. [`Response::Data`] is followed by exactly as many raw bytes as it
//! says, the proof of the range, outside of any frame, so that bulk data is never copied into a message; so is
//! [`Response::Arriving`], to the end of the blob.

mod codec;
mod hello;
mod message;
#[cfg(test)]
mod tests;

pub use codec::{FrameError, WireMessage, decode_frame, encode_frame, frame_len};
pub use hello::{Hello, MAX_VERSION, MIN_VERSION, VersionError, negotiate};
pub use message::{MessageError, Request, Response};

/// The name of the protocol, as libp2p negotiates it for a substream.
pub const PROTOCOL_NAME: &str = "/p2p-cache/1";

pub use crate::limits::MAX_FRAME_BYTES;

/// Bytes of the length in front of a frame.
pub const FRAME_HEADER_BYTES: usize = 4;
