//! Requests and responses.

use serde::{Deserialize, Serialize};

use super::WireMessage;
use crate::claim::SignedClaim;
use crate::digest::{BlobId, Digest, Sha256Digest};
use crate::groups::{GroupRange, RangeError};
use crate::limits::{
    GROUP_BYTES, MAX_AGENT_BYTES, MAX_BLOB_BYTES, MAX_ENCODED_EXTENT_BYTES, MAX_EXTENT_GROUPS,
    MAX_NARINFO_BYTES, MAX_RUNS,
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
    /// Whether the peer holds a blob and will share it. Answered by `Have`, `Partial` or `NotFound`.
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
    /// The narinfo of a store path, asked of the origins when it is not held: sent to the leader of a site.
    /// Answered by `NarInfo`, `NotFound` or `Busy`.
    Resolve {
        /// The hash part of the store path.
        hash: StoreHash,
    },
    /// The bytes of a NAR from an offset on, fetched from the origins when it is not held: sent to the leader of a
    /// site. Answered by `Arriving`, `NotFound` or `Busy`.
    Follow {
        /// The hash part of the store path; its narinfo says where the NAR is.
        hash: StoreHash,
        /// The NAR.
        nar: Sha256Digest,
        /// The first byte wanted.
        offset: u64,
    },
    /// Which groups the peer holds, now and each time it has more. Answered by `NotFound`, or by one `Groups` after
    /// the other until the blob is whole; nothing else may be asked on this substream.
    Watch {
        /// The blob.
        blob: BlobId,
        /// Its size in bytes.
        size: u64,
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
    /// The blob is on its way here: what has arrived of it may be asked for. Not a claim: the peer repeats the root
    /// that it was told.
    Partial {
        /// The root that the peer verifies against.
        blob: BlobId,
        /// The size in bytes.
        size: u64,
    },
    /// The bytes follow as they arrive, from the offset asked for to the end, in pieces: the length of each as a
    /// little-endian `u32`, at most [`MAX_ARRIVING_CHUNK_BYTES`](crate::limits::MAX_ARRIVING_CHUNK_BYTES). A length of 0
    /// says that the peer is waiting for bytes itself. Nobody has verified them: the receiver checks the hash of the
    /// whole. A stream that ends early is a fetch that failed.
    Arriving {
        /// Size of the whole in bytes.
        size: u64,
    },
    /// Groups that are here and verified: ascending runs, neither empty nor touching, at most [`MAX_RUNS`].
    Groups {
        /// The runs. Fewer than there are is no lie.
        runs: Vec<GroupRange>,
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
    /// An offset or a size beyond any blob.
    #[error("{bytes} bytes in a message about a blob: blobs have at most {MAX_BLOB_BYTES}")]
    Size {
        /// The number.
        bytes: u64,
    },
    /// Runs of groups that are empty, touch, go backwards or are too many.
    #[error("{count} runs of groups: at most {MAX_RUNS} are allowed, ascending and apart")]
    Runs {
        /// How many.
        count: usize,
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
            Self::NarInfo { .. } | Self::Lookup { .. } | Self::Resolve { .. } => Ok(()),
            Self::Follow { offset: bytes, .. } | Self::Watch { size: bytes, .. } => check_size(*bytes),
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
            Self::Partial { size, .. } | Self::Arriving { size } => check_size(*size),
            Self::Groups { runs } => check_runs(runs),
        }
    }
}

fn check_size(bytes: u64) -> Result<(), MessageError> {
    if bytes > MAX_BLOB_BYTES { Err(MessageError::Size { bytes }) } else { Ok(()) }
}

fn check_runs(runs: &[GroupRange]) -> Result<(), MessageError> {
    let count = runs.len();
    let apart = runs.windows(2).all(|pair| pair[0].end < pair[1].start);
    let filled = runs.iter().all(|run| run.start < run.end && run.end <= MAX_BLOB_BYTES / GROUP_BYTES);
    if count <= MAX_RUNS && apart && filled { Ok(()) } else { Err(MessageError::Runs { count }) }
}
