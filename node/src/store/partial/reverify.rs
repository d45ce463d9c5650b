//! Checking the groups of a leftover against its hash tree.

use std::fs::File;
use std::io;
use std::time::Instant;

use p2p_cache_protocol::limits::MAX_EXTENT_GROUPS;
use p2p_cache_protocol::{BlobId, GroupRange, GroupSet, tree};

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reverified {
    /// Groups whose bytes and whose path in the outboard are right.
    pub(super) good: GroupSet,
    /// Groups that were looked at and are not.
    pub(super) damaged: u64,
    /// False when time ran out before the last group.
    pub(super) finished: bool,
}

/// Hashes the groups of `claimed`, in order, until `deadline`. Memory: one extent.
pub(super) fn reverify(
    data: &File,
    outboard: &File,
    blob: BlobId,
    size: u64,
    claimed: &GroupSet,
    deadline: Instant,
) -> Reverified {
    let mut result = Reverified { good: GroupSet::new(claimed.count()), damaged: 0, finished: true };
    let mut buffer = Vec::new();
    for run in claimed.present() {
        let mut start = run.start;
        while start < run.end {
            if Instant::now() >= deadline {
                result.finished = false;
                return result;
            }
            // Whole extents share the upper part of their paths.
            let end = (start / MAX_EXTENT_GROUPS + 1).saturating_mul(MAX_EXTENT_GROUPS).min(run.end);
            check_extent(data, outboard, blob, size, GroupRange { start, end }, &mut buffer, &mut result);
            start = end;
        }
    }
    result
}

/// An extent is checked as one; when it has a fault, each group by itself.
fn check_extent(
    data: &File,
    outboard: &File,
    blob: BlobId,
    size: u64,
    extent: GroupRange,
    buffer: &mut Vec<u8>,
    result: &mut Reverified,
) {
    let mut proves = |range: GroupRange| {
        buffer.clear();
        tree::encode_range(blob, size, data, outboard, range, buffer).is_ok()
            && tree::decode_range(blob, size, range, buffer, &mut Nowhere).is_ok()
    };
    if proves(extent) {
        result.good.insert(extent);
        return;
    }
    for group in extent.start..extent.end {
        let alone = GroupRange { start: group, end: group + 1 };
        if proves(alone) {
            result.good.insert(alone);
        } else {
            result.damaged += 1;
        }
    }
}

/// The bytes are on disk already.
struct Nowhere;

impl tree::RangeSink for Nowhere {
    fn data(&mut self, _offset: u64, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn parent(&mut self, _outboard_offset: u64, _pair: &[u8; 64]) -> io::Result<()> {
        Ok(())
    }
}
