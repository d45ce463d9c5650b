//! Checking a proof, group by group.

use std::io;

use bao_tree::iter::BaoChunk;

use super::encode::pair_offset;
use super::encoded_bytes;
use super::geometry::{bao_tree, chunk_ranges};
use super::hashes::{group_hash, halves, parent_hash};
use crate::digest::BlobId;
use crate::groups::{GroupRange, RangeError};

/// Takes what has been verified. Called in pre-order; groups come in ascending order.
pub trait RangeSink {
    /// The bytes of one group, and where they stand in the blob.
    fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// A hash pair, and where it stands in the outboard.
    fn parent(&mut self, outboard_offset: u64, pair: &[u8; 64]) -> io::Result<()>;
}

/// Why a range could not be taken over. What had been verified before is with the sink.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// A hash does not match. The sender lied or its disk did.
    #[error("group {group} does not match the hash tree")]
    Corrupt {
        /// The group that failed, or the first one that a failing inner node would have proved.
        group: u64,
    },
    /// The encoding ends too early.
    #[error("the encoded range ends before group {group}: {got} of {expected} bytes")]
    Truncated {
        /// The first group that is missing.
        group: u64,
        /// Bytes that came.
        got: u64,
        /// Bytes that the range takes.
        expected: u64,
    },
    /// The encoding is longer than the range. Nothing of it was used.
    #[error("the encoded range has {got} bytes where {expected} belong")]
    TooLong {
        /// Bytes that came.
        got: u64,
        /// Bytes that the range takes.
        expected: u64,
    },
    /// The range is not one of this blob.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// The sink failed.
    #[error("a verified group could not be stored: {0}")]
    Sink(#[source] io::Error),
}

/// Verifies an encoded `range` of `blob` and hands groups and hash pairs to `sink`, each as soon as it is
/// proved and none before.
///
/// A wrong `size` is found as soon as the shape of the tree gives it away, at the latest with the last group;
/// until then ranges of a blob whose size is a lie may verify. No copies are made.
pub fn decode_range(
    blob: BlobId,
    size: u64,
    range: GroupRange,
    encoded: &[u8],
    sink: &mut impl RangeSink,
) -> Result<(), DecodeError> {
    range.check(size)?;
    let (got, expected) = (encoded.len() as u64, encoded_bytes(size, range));
    if got > expected {
        return Err(DecodeError::TooLong { got, expected });
    }
    if range.is_empty() {
        // Nothing to prove, except that a blob without bytes is the hash of nothing.
        return if size == 0 && blob != BlobId::of(&[]) {
            Err(DecodeError::Corrupt { group: 0 })
        } else {
            Ok(())
        };
    }
    let mut group = range.start;
    let mut rest = encoded;
    // The hashes that are to be met, nearest on top.
    let mut pending: Vec<[u8; 32]> = Vec::with_capacity(64);
    pending.push(blob.0);
    let ranges = chunk_ranges(size, range);
    for chunk in bao_tree(size).ranges_pre_order_chunks_iter_ref(&ranges, 0) {
        let truncated = || DecodeError::Truncated { group, got, expected };
        let wanted = pending.pop().ok_or(DecodeError::Corrupt { group })?;
        match chunk {
            BaoChunk::Parent { node, is_root, left, right, .. } => {
                let (pair, after) = rest.split_first_chunk::<64>().ok_or_else(truncated)?;
                rest = after;
                let [left_hash, right_hash] = halves(pair);
                if parent_hash(&left_hash, &right_hash, is_root) != wanted {
                    return Err(DecodeError::Corrupt { group });
                }
                pending.extend([(right, right_hash), (left, left_hash)].iter().filter(|c| c.0).map(|c| c.1));
                let offset = pair_offset(size, node).map_err(DecodeError::Sink)?;
                sink.parent(offset, pair).map_err(DecodeError::Sink)?;
            }
            BaoChunk::Leaf { start_chunk, size, is_root, .. } => {
                let (bytes, after) = rest.split_at_checked(size).ok_or_else(truncated)?;
                rest = after;
                if group_hash(start_chunk, bytes, is_root) != wanted {
                    return Err(DecodeError::Corrupt { group });
                }
                sink.data(start_chunk.to_bytes(), bytes).map_err(DecodeError::Sink)?;
                group += 1;
            }
        }
    }
    Ok(())
}
