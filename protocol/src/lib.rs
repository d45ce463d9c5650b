//! The vocabulary and the rules of p2p-cache.
//!
//! Everything that two nodes, or a node and a Nix client, must agree on lives here: how content is named
//! ([`digest`], [`base32`], [`store_path`]), what a narinfo says and who vouches for it ([`narinfo`],
//! [`signature`]), how a node promises that a SHA-256 is a BLAKE3 tree ([`claim`]), how any range of a blob
//! is proved ([`tree`], [`groups`]) and what travels between nodes ([`wire`], [`limits`]).
//!
//! The crate is pure: bytes in, values out. It opens no files or sockets, starts no tasks and reads no
//! clock. Whatever arrives from outside is checked while it is decoded, so that no sequence of bytes can
//! cause a panic or an allocation larger than the named limits.

pub mod base32;
mod bytes_type;
pub mod claim;
pub mod digest;
pub mod groups;
pub mod limits;
pub mod narinfo;
pub mod signature;
pub mod store_path;
pub mod tree;
pub mod wire;

pub use base32::Base32Error;
pub use claim::{Claim, ClaimError, NodeKey, SignedClaim};
pub use digest::{BlobId, Digest, DigestError, Sha256Digest};
pub use groups::{GroupRange, GroupSet, RangeError};
pub use limits::*;
pub use narinfo::{Compression, NarInfo, NarInfoError};
pub use signature::{KeyError, PublicKey, SecretKey, Signature, SignatureError, TrustedKeys};
pub use store_path::{StoreHash, StorePath, StorePathError};
pub use tree::{
    DecodeError, OutboardBuilder, RangeSink, ReadAt, Size, WriteAt, check_outboard, create_outboard,
    decode_range, encode_range, encode_range_into, encoded_bytes, group_count, outboard_bytes,
};
pub use wire::{
    FrameError, Hello, MessageError, PROTOCOL_NAME, Request, Response, VersionError, WireMessage,
    decode_frame, encode_frame, frame_len, negotiate,
};
