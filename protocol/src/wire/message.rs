//! Requests and responses.

use serde::{Deserialize, Serialize};

use super::WireMessage;
use crate::claim::SignedClaim;
use crate::digest::{BlobId, Digest};
use crate::groups::{GroupRange, RangeError};
use crate::limits::{
    MAX_AGENT_BYTES, MAX_BLOB_BYTES, MAX_ENCODED_EXTENT_BYTES, MAX_EXTENT_GROUPS, MAX_NARINFO_BYTES,
};
use crate::store_path::StoreHash;

/// What one node asks of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The narinfo of a store path. Answered by `NarInfo` or `NotFound`.
    NarInfo {
        /// The hash part of the store path.
        hash: StoreHash,
    },
    /// Whether the peer holds a blob and will share it. Answered by `Have` or `NotFound`.
    Lookup {
        /// The name of the blob.
        digest: Digest,
    },
    /// Groups of a blob with their proof. Answered by `Data` or `NotFound`.
    Range {
        /// The blob.
        blob: BlobId,
        /// Its size in bytes, from the claim; the tree's shape depends on it.
        size: u64,
        /// 1 to [`MAX_EXTENT_GROUPS`] groups within the blob.
        range: GroupRange,
    },
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// Not held, or not to be shared: the two are not told apart.
    NotFound,
    /// A narinfo. Nothing about it has been checked but its length.
    NarInfo {
        /// Its text, at most [`MAX_NARINFO_BYTES`] bytes.
        text: String,
    },
    /// The blob is here. The claim is to be verified by the receiver.
    Have {
        /// What the peer says the blob is.
        claim: SignedClaim,
    },
    /// The range follows: exactly this many raw bytes after the frame.
    Data {
        /// [`encoded_bytes`](crate::tree::encoded_bytes) of the range, at most [`MAX_ENCODED_EXTENT_BYTES`].
        encoded_bytes: u32,
    },
    /// The peer is at its limits. Ask again later, or somebody else.
    Busy {
        /// When to ask again, in milliseconds.
        retry_after_ms: u32,
    },
}

/// A well-formed message with a value that the protocol does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The oldest version is newer than the newest.
    #[error("a hello with versions {min} to {max}")]
    Versions {
        /// Oldest.
        min: u16,
        /// Newest.
        max: u16,
    },
    /// The agent is too long or has control characters.
    #[error("a hello with an agent of {length} bytes: {MAX_AGENT_BYTES} printable ones are allowed")]
    Agent {
        /// Bytes of the agent.
        length: usize,
    },
    /// A range that is empty or larger than an extent.
    #[error("a request for groups {range}: 1 to {MAX_EXTENT_GROUPS} groups are allowed")]
    Extent {
        /// The range.
        range: GroupRange,
    },
    /// A range that does not lie in its blob.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// A narinfo that is too long.
    #[error("a narinfo of {length} bytes: at most {MAX_NARINFO_BYTES} are allowed")]
    NarInfo {
        /// Bytes of the narinfo.
        length: usize,
    },
    /// A claim about a blob larger than any.
    #[error("a claim of {size} bytes: blobs have at most {MAX_BLOB_BYTES}")]
    Claim {
        /// Bytes of the blob, as claimed.
        size: u64,
    },
    /// An announcement of more raw bytes than any range takes.
    #[error("an announcement of {length} bytes of data: at most {MAX_ENCODED_EXTENT_BYTES} are allowed")]
    Data {
        /// Bytes announced.
        length: u32,
    },
}

impl WireMessage for Request {
    fn validate(&self) -> Result<(), MessageError> {
        match self {
            Self::NarInfo { .. } | Self::Lookup { .. } => Ok(()),
            Self::Range { size, range, .. } => {
                range.check(*size)?;
                if range.is_empty() || range.len() > MAX_EXTENT_GROUPS {
                    return Err(MessageError::Extent { range: *range });
                }
                Ok(())
            }
        }
    }
}

impl WireMessage for Response {
    fn validate(&self) -> Result<(), MessageError> {
        match self {
            Self::NotFound | Self::Busy { .. } => Ok(()),
            Self::NarInfo { text } if text.len() > MAX_NARINFO_BYTES => {
                Err(MessageError::NarInfo { length: text.len() })
            }
            Self::Have { claim } if claim.claim.size > MAX_BLOB_BYTES => {
                Err(MessageError::Claim { size: claim.claim.size })
            }
            Self::Data { encoded_bytes } if u64::from(*encoded_bytes) > MAX_ENCODED_EXTENT_BYTES => {
                Err(MessageError::Data { length: *encoded_bytes })
            }
            Self::NarInfo { .. } | Self::Have { .. } | Self::Data { .. } => Ok(()),
        }
    }
}
