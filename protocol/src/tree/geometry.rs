//! The shape of a tree: how many groups, how many hash pairs, where each stands.

use bao_tree::{BaoTree, BlockSize, ChunkNum, ChunkRanges};

use super::PAIR_BYTES;
use crate::groups::GroupRange;
use crate::limits::GROUP_BYTES;

/// log2 of the BLAKE3 chunks (1 KiB) in a group.
const GROUP_CHUNK_LOG: u8 = 4;
const GROUP_CHUNKS: u64 = 1 << GROUP_CHUNK_LOG;
const _: () = assert!(GROUP_CHUNKS * 1024 == GROUP_BYTES);

/// The number of groups in a blob of `size` bytes; none for the empty blob.
pub const fn group_count(size: u64) -> u64 {
    size.div_ceil(GROUP_BYTES)
}

/// The size of the outboard of a blob of `size` bytes: a hash pair between every two neighbouring groups.
pub const fn outboard_bytes(size: u64) -> u64 {
    group_count(size).saturating_sub(1) * PAIR_BYTES
}

/// The exact length of what [`encode_range_into`](super::encode_range_into) writes for `range`, which must lie in a
/// blob of `size` bytes.
pub fn encoded_bytes(size: u64, range: GroupRange) -> u64 {
    let bytes = range.bytes(size);
    bytes.end - bytes.start + parents_above(group_count(size), range) * PAIR_BYTES
}

/// The inner nodes of a tree of `count` groups that have a group of `range` below them.
fn parents_above(count: u64, range: GroupRange) -> u64 {
    let range = range.intersection(GroupRange::new(0, count));
    if range.is_empty() {
        return 0;
    }
    let mut parents = 0;
    let mut level = 1;
    // A node of a level spans 2^level groups. Where the blob ends in its left half there is no such node:
    // that half hangs from the node above. This can be so for the last node of a level only.
    while 1 << (level - 1) < count {
        let (first, last) = (range.start >> level, (range.end - 1) >> level);
        let last_exists = (last << level) + (1 << (level - 1)) < count;
        parents += last - first + u64::from(last_exists);
        level += 1;
    }
    parents
}

/// The groups below the left half of an inner node that has `count` of them below it, two at least: a complete tree,
/// as large as leaves something for the right half.
pub(super) const fn left_groups(count: u64) -> u64 {
    1 << (count - 1).ilog2()
}

/// The place in pre-order, among all inner nodes of a tree of `count` groups, of the one above the groups from `start`
/// to `end`, which must be one.
pub(super) const fn pre_order_index(count: u64, start: u64, end: u64) -> u64 {
    let (mut first, mut last, mut index) = (0, count, 0);
    while first < start || last > end {
        let middle = first + left_groups(last - first);
        if start < middle {
            last = middle;
            index += 1;
        } else {
            // This node, and all those below its left half.
            index += middle - first;
            first = middle;
        }
    }
    index
}

/// The first chunk of a group.
pub(super) const fn first_chunk(group: u64) -> ChunkNum {
    ChunkNum(group * GROUP_CHUNKS)
}

pub(super) fn bao_tree(size: u64) -> BaoTree {
    BaoTree::new(size, BlockSize::from_chunk_log(GROUP_CHUNK_LOG))
}

/// `range` in chunks. Open at the end when it reaches the end of the blob, the form that bao-tree wants.
pub(super) fn chunk_ranges(size: u64, range: GroupRange) -> ChunkRanges {
    let start = ChunkNum(range.start * GROUP_CHUNKS);
    if range.end >= group_count(size) {
        ChunkRanges::from(start..)
    } else {
        ChunkRanges::from(start..ChunkNum(range.end * GROUP_CHUNKS))
    }
}
