//! Hash trees: any run of 16 KiB groups of a blob can be proved alone against its [`BlobId`].
//!
//! The tree is BLAKE3's own, cut off at chunk groups of [`GROUP_BYTES`]; a proof is the part of the tree
//! between the root and the groups in pre-order, as in bao. The hash pairs of the whole tree, the outboard,
//! are kept beside the blob in pre-order, 64 bytes a pair, without a size in front.
//!
//! The empty blob has no groups: its outboard is empty, its only range is `0..0`, and the encoding of that is
//! no bytes at all, which decode if the blob is the hash of nothing.

mod build;
mod decode;
mod encode;
mod geometry;
mod hashes;
#[cfg(test)]
mod tests;

pub use bao_tree::io::sync::{ReadAt, Size, WriteAt};

pub use crate::groups::{GroupRange, RangeError};
pub use crate::limits::GROUP_BYTES;
pub use build::OutboardBuilder;
pub use decode::{DecodeError, RangeSink, decode_range};
pub use encode::{check_outboard, create_outboard, encode_range, encode_range_into};
pub use geometry::{encoded_bytes, group_count, outboard_bytes};

#[cfg(doc)]
use crate::digest::BlobId;

/// Bytes of one hash pair.
const PAIR_BYTES: u64 = 64;
