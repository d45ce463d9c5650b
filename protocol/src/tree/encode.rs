//! Making outboards, and proofs from them.

use std::io::{self, Read};

use bao_tree::TreeNode;
use bao_tree::io::outboard::PreOrderOutboard;
use bao_tree::io::sync::{ReadAt, WriteAt, outboard as write_outboard};
use bao_tree::iter::BaoChunk;

use super::geometry::{bao_tree, chunk_ranges, left_groups};
use super::hashes::{halves, parent_hash};
use super::{PAIR_BYTES, encoded_bytes, group_count, outboard_bytes};
use crate::digest::BlobId;
use crate::groups::GroupRange;

/// Hashes a blob and writes its outboard of [`outboard_bytes`]`(size)` bytes.
///
/// Reads exactly `size` bytes; fewer are an error of kind `UnexpectedEof`. Memory: one group.
pub fn create_outboard(data: impl Read, size: u64, outboard: impl WriteAt) -> io::Result<BlobId> {
    check(size, GroupRange::default())?;
    let tree = bao_tree(size);
    let mut outboard = PreOrderOutboard { root: blake3::Hash::from([0; 32]), tree, data: outboard };
    let root = write_outboard(data, tree, &mut outboard)?;
    outboard.data.flush()?;
    Ok(BlobId(*root.as_bytes()))
}

/// Fills `out` with the `range` of a blob and its proof: exactly [`encoded_bytes`]`(size, range)` bytes.
///
/// Does not hash: damage on disk is found by the receiver. What must be there is the data of `range` and the
/// hash pairs above it, so a partial blob can be served too, but only ranges that were verified: a hole in
/// the data file reads as zeros. A hole in the outboard is an error of kind `InvalidData`, a file that is too
/// short `UnexpectedEof`, a range outside of the blob or an `out` of another length `InvalidInput`. On error `out`
/// holds anything.
///
/// `blob` is not part of the encoding; it is named in errors.
pub fn encode_range_into(
    blob: BlobId,
    size: u64,
    data: impl ReadAt,
    outboard: impl ReadAt,
    range: GroupRange,
    out: &mut [u8],
) -> io::Result<()> {
    check(size, range)?;
    if out.len() as u64 != encoded_bytes(size, range) {
        let reason = format!("{} bytes of room for groups {range} of {blob}", out.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    fill_range(size, data, outboard, range, out)
        .map_err(|error| io::Error::new(error.kind(), format!("reading groups {range} of {blob}: {error}")))
}

/// [`encode_range_into`] the end of a vector. On error `out` is as it was.
pub fn encode_range(
    blob: BlobId,
    size: u64,
    data: impl ReadAt,
    outboard: impl ReadAt,
    range: GroupRange,
    out: &mut Vec<u8>,
) -> io::Result<()> {
    check(size, range)?;
    let before = out.len();
    let length = usize::try_from(encoded_bytes(size, range)).map_err(io::Error::other)?;
    out.resize(before + length, 0);
    let result = encode_range_into(blob, size, data, outboard, range, &mut out[before..]);
    if result.is_err() {
        out.truncate(before);
    }
    result
}

fn fill_range(
    size: u64,
    data: impl ReadAt,
    outboard: impl ReadAt,
    range: GroupRange,
    mut out: &mut [u8],
) -> io::Result<()> {
    if range.is_empty() {
        return Ok(());
    }
    let tree = bao_tree(size);
    let mut pairs = PairReader::new(outboard, outboard_bytes(size));
    let ranges = chunk_ranges(size, range);
    for chunk in tree.ranges_pre_order_chunks_iter_ref(&ranges, 0) {
        match chunk {
            BaoChunk::Parent { node, .. } => {
                let pair = pairs.read(pair_offset(size, node)?)?;
                take(&mut out, pair.len())?.copy_from_slice(pair);
            }
            BaoChunk::Leaf { start_chunk, size, .. } => {
                data.read_exact_at(start_chunk.to_bytes(), take(&mut out, size)?)?;
            }
        }
    }
    Ok(())
}

/// The next `length` bytes of the output.
fn take<'a>(out: &mut &'a mut [u8], length: usize) -> io::Result<&'a mut [u8]> {
    out.split_off_mut(..length).ok_or_else(|| io::Error::other("an encoding is longer than was computed"))
}

/// Checks every hash pair of a whole outboard against the root: then it is the outboard of `blob`, whatever happened to
/// the file. Reads the 0.4 % that an outboard is of its blob, and none of the blob.
///
/// # Errors
/// `InvalidData` for a wrong pair, `UnexpectedEof` for one that is missing, and what reading yields.
pub fn check_outboard(blob: BlobId, size: u64, outboard: impl ReadAt) -> io::Result<()> {
    check(size, GroupRange::default())?;
    let mut pairs = PairReader::new(outboard, outboard_bytes(size));
    let mut offset = 0;
    // Hashes that are to be met with the groups below them, the next in pre-order on top.
    let mut pending = vec![(blob.0, group_count(size))];
    while let Some((wanted, groups)) = pending.pop() {
        if groups < 2 {
            continue;
        }
        let [left, right] = halves(pairs.read(offset)?);
        if parent_hash(&left, &right, offset == 0) != wanted {
            let reason = format!("the outboard of {blob} has a wrong hash pair at offset {offset}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        offset += PAIR_BYTES;
        let of_left = left_groups(groups);
        pending.extend([(right, groups - of_left), (left, of_left)]);
    }
    Ok(())
}

/// Where the hash pair of `node` stands in the outboard.
pub(super) fn pair_offset(size: u64, node: TreeNode) -> io::Result<u64> {
    match bao_tree(size).pre_order_offset(node) {
        Some(index) => Ok(index * PAIR_BYTES),
        None => Err(io::Error::other(format!("the tree node {node} has no hash pair"))),
    }
}

pub(super) fn check(size: u64, range: GroupRange) -> io::Result<()> {
    range.check(size).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

/// One read of hash pairs.
const PAIR_BUFFER_BYTES: usize = 64 * PAIR_BYTES as usize;

/// Reads hash pairs in batches: those of an aligned extent stand side by side in pre-order, and one read for
/// them is cheaper than 63.
struct PairReader<R> {
    outboard: R,
    outboard_bytes: u64,
    start: u64,
    filled: usize,
    buffer: [u8; PAIR_BUFFER_BYTES],
}

impl<R> PairReader<R> {
    fn new(outboard: R, outboard_bytes: u64) -> Self {
        Self { outboard, outboard_bytes, start: 0, filled: 0, buffer: [0; PAIR_BUFFER_BYTES] }
    }
}

impl<R: ReadAt> PairReader<R> {
    fn read(&mut self, offset: u64) -> io::Result<&[u8; 64]> {
        const PAIR: usize = PAIR_BYTES as usize;
        if offset < self.start || offset + PAIR_BYTES > self.start + self.filled as u64 {
            self.fill(offset)?;
        }
        let at = (offset - self.start) as usize;
        match self.buffer.get(at..at + PAIR).and_then(|pair| pair.first_chunk()) {
            Some(pair) if *pair != [0; PAIR] => Ok(pair),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the outboard has no hash pair at offset {offset}"),
            )),
        }
    }

    fn fill(&mut self, offset: u64) -> io::Result<()> {
        (self.start, self.filled) = (offset, 0);
        let rest = self.outboard_bytes.saturating_sub(offset);
        let wanted = usize::try_from(rest).unwrap_or(usize::MAX).min(PAIR_BUFFER_BYTES);
        while self.filled < wanted {
            match self.outboard.read_at(offset + self.filled as u64, &mut self.buffer[self.filled..wanted]) {
                // The outboard of a partial blob may end early; the pair that is wanted must be there.
                Ok(0) if self.filled >= PAIR_BYTES as usize => return Ok(()),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
