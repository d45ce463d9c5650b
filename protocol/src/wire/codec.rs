//! Frames and the encoding within them. Nothing outside of this file knows which encoding that is.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{FRAME_HEADER_BYTES, MessageError};
use crate::limits::MAX_FRAME_BYTES;

/// A message that may stand in a frame.
pub trait WireMessage: Serialize + DeserializeOwned {
    /// Whether its values are ones that the protocol allows. Called on every message that is sent or
    /// received, so that no other code has to doubt them.
    fn validate(&self) -> Result<(), MessageError>;
}

/// Why a frame cannot be written or read. Whoever sent such a frame does not speak our protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length of zero, or above the limit.
    #[error("a frame of {length} bytes: frames have 1 to {MAX_FRAME_BYTES} bytes")]
    Length {
        /// Bytes of the frame without its header.
        length: usize,
    },
    /// The message cannot be encoded.
    #[error("the message cannot be encoded: {reason}")]
    Encode {
        /// What the encoder said.
        reason: String,
    },
    /// The bytes are not a message of the expected kind.
    #[error("the frame is not a message: {reason}")]
    Decode {
        /// What the decoder said.
        reason: String,
    },
    /// Bytes are left after the message.
    #[error("{extra} bytes are left in the frame after its message")]
    Trailing {
        /// Bytes that are left.
        extra: usize,
    },
    /// The message says something that it must not.
    #[error(transparent)]
    Message(#[from] MessageError),
}

const fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<MAX_FRAME_BYTES>()
}

/// The message as a frame, with its header.
pub fn encode_frame<T: WireMessage>(message: &T) -> Result<Vec<u8>, FrameError> {
    message.validate()?;
    let payload = bincode::serde::encode_to_vec(message, config())
        .map_err(|error| FrameError::Encode { reason: error.to_string() })?;
    if payload.is_empty() || payload.len() > MAX_FRAME_BYTES {
        return Err(FrameError::Length { length: payload.len() });
    }
    let mut frame = Vec::with_capacity(FRAME_HEADER_BYTES + payload.len());
    frame.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    frame.extend_from_slice(&payload);
    Ok(frame)
}

/// The bytes that follow a header. Check it before anything is allocated for them.
pub fn frame_len(header: [u8; FRAME_HEADER_BYTES]) -> Result<usize, FrameError> {
    let length = u32::from_le_bytes(header) as usize;
    if length == 0 || length > MAX_FRAME_BYTES { Err(FrameError::Length { length }) } else { Ok(length) }
}

/// Reads the message in a frame, given without its header.
///
/// All of the bytes must belong to the message, and the message must be valid. No byte sequence makes this
/// allocate more than about the size of the frame.
pub fn decode_frame<T: WireMessage>(payload: &[u8]) -> Result<T, FrameError> {
    if payload.is_empty() || payload.len() > MAX_FRAME_BYTES {
        return Err(FrameError::Length { length: payload.len() });
    }
    let (message, used) = bincode::serde::decode_from_slice::<T, _>(payload, config())
        .map_err(|error| FrameError::Decode { reason: error.to_string() })?;
    if used != payload.len() {
        return Err(FrameError::Trailing { extra: payload.len() - used });
    }
    message.validate()?;
    Ok(message)
}
