//! Runs of chunk groups, and which groups of a blob are at hand.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::limits::{GROUP_BYTES, MAX_BLOB_BYTES};
use crate::tree::group_count;

/// A half-open run of groups, by index: group `i` holds the bytes from `i * GROUP_BYTES` on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct GroupRange {
    /// Index of the first group.
    pub start: u64,
    /// Index after the last group.
    pub end: u64,
}

/// Why a range does not fit a blob.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// The range ends before it begins, or beyond the last group.
    #[error("groups {range} do not lie in a blob of {size} bytes, which has {groups} groups")]
    OutOfBounds {
        /// The range.
        range: GroupRange,
        /// Size of the blob in bytes.
        size: u64,
        /// Groups of the blob.
        groups: u64,
    },
    /// The blob is larger than any we handle.
    #[error("a blob of {size} bytes is larger than the limit of {MAX_BLOB_BYTES}")]
    BlobSize {
        /// Size in bytes.
        size: u64,
    },
}

impl GroupRange {
    /// The groups from `start` up to, but not including, `end`.
    pub const fn new(start: u64, end: u64) -> Self {
        Self { start, end }
    }

    /// All groups of a blob of `size` bytes.
    pub const fn all(size: u64) -> Self {
        Self { start: 0, end: group_count(size) }
    }

    /// The fewest groups that cover `bytes`; an empty range of bytes gives no group.
    pub const fn of_bytes(bytes: Range<u64>) -> Self {
        let start = bytes.start / GROUP_BYTES;
        let end = if bytes.end > bytes.start { bytes.end.div_ceil(GROUP_BYTES) } else { start };
        Self { start, end }
    }

    /// The groups of a blob of `size` bytes that lie wholly in `bytes`. The last group of the blob is whole
    /// when `bytes` reaches the end of the blob.
    pub const fn whole_in_bytes(bytes: Range<u64>, size: u64) -> Self {
        let start = bytes.start.div_ceil(GROUP_BYTES);
        let end = if bytes.end >= size { group_count(size) } else { bytes.end / GROUP_BYTES };
        if start < end { Self { start, end } } else { Self { start, end: start } }
    }

    /// The number of groups.
    pub const fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether there is no group in it.
    pub const fn is_empty(&self) -> bool {
        self.end <= self.start
    }

    /// Whether `group` lies in it.
    pub const fn contains(&self, group: u64) -> bool {
        self.start <= group && group < self.end
    }

    /// The groups that lie in both.
    pub fn intersection(&self, other: Self) -> Self {
        let start = self.start.max(other.start);
        Self { start, end: self.end.min(other.end).max(start) }
    }

    /// The bytes of a blob of `size` bytes that the groups hold; the last group may be short.
    pub fn bytes(&self, size: u64) -> Range<u64> {
        let start = self.start.saturating_mul(GROUP_BYTES).min(size);
        let end = self.end.saturating_mul(GROUP_BYTES).min(size);
        start..end.max(start)
    }

    /// Whether it is a run, possibly empty, of groups of a blob of `size` bytes.
    pub fn check(&self, size: u64) -> Result<(), RangeError> {
        if size > MAX_BLOB_BYTES {
            return Err(RangeError::BlobSize { size });
        }
        let groups = group_count(size);
        if self.start > self.end || self.end > groups {
            return Err(RangeError::OutOfBounds { range: *self, size, groups });
        }
        Ok(())
    }
}

impl fmt::Display for GroupRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

impl fmt::Debug for GroupRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Which groups of one blob are at hand.
///
/// Kept as sorted runs, not as bits: the memory follows what has arrived, not the size that somebody claims.
#[derive(Clone, PartialEq, Eq)]
pub struct GroupSet {
    count: u64,
    len: u64,
    /// Sorted, neither empty nor touching one another, all within `count`.
    runs: Vec<GroupRange>,
}

impl GroupSet {
    /// None of the `count` groups of a blob (see [`group_count`]).
    pub const fn new(count: u64) -> Self {
        Self { count, len: 0, runs: Vec::new() }
    }

    /// All of the `count` groups of a blob.
    pub fn full(count: u64) -> Self {
        let mut set = Self::new(count);
        set.insert(GroupRange::new(0, count));
        set
    }

    /// Adds groups; what lies beyond the blob is ignored. Returns how many were new.
    pub fn insert(&mut self, range: GroupRange) -> u64 {
        let mut merged = range.intersection(GroupRange::new(0, self.count));
        if merged.is_empty() {
            return 0;
        }
        // The runs that overlap or touch the new one become one with it.
        let first = self.runs.partition_point(|run| run.end < merged.start);
        let last = self.runs.partition_point(|run| run.start <= merged.end);
        let mut known = 0;
        for run in &self.runs[first..last] {
            merged.start = merged.start.min(run.start);
            merged.end = merged.end.max(run.end);
            known += run.len();
        }
        self.runs.splice(first..last, [merged]);
        let added = merged.len() - known;
        self.len += added;
        added
    }

    /// Removes groups, for a part that turned out to be damaged. Returns how many were there.
    pub fn remove(&mut self, range: GroupRange) -> u64 {
        if range.is_empty() {
            return 0;
        }
        let first = self.runs.partition_point(|run| run.end <= range.start);
        let last = self.runs.partition_point(|run| run.start < range.end);
        let mut kept = Vec::with_capacity(2);
        let mut removed = 0;
        for run in &self.runs[first..last] {
            removed += run.intersection(range).len();
            let before = GroupRange::new(run.start, range.start.min(run.end));
            let after = GroupRange::new(range.end.max(run.start), run.end);
            kept.extend([before, after].into_iter().filter(|part| !part.is_empty()));
        }
        self.runs.splice(first..last, kept);
        self.len -= removed;
        removed
    }

    /// Whether every group of `range` is at hand; true of an empty range.
    pub fn contains(&self, range: GroupRange) -> bool {
        if range.is_empty() {
            return true;
        }
        let run = self.runs.partition_point(|run| run.end <= range.start);
        self.runs.get(run).is_some_and(|run| run.start <= range.start && range.end <= run.end)
    }

    /// The number of groups at hand.
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether no group is at hand.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The number of groups that the blob has.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Whether all groups are at hand; true of the empty blob, which has none.
    pub const fn is_complete(&self) -> bool {
        self.len == self.count
    }

    /// The number of groups at hand without a gap from the first on.
    pub fn prefix(&self) -> u64 {
        self.prefix_from(0)
    }

    /// The end of the run of groups at hand that holds `group`, or `group` itself when it is missing.
    pub fn prefix_from(&self, group: u64) -> u64 {
        let run = self.runs.partition_point(|run| run.end <= group);
        self.runs.get(run).filter(|run| run.start <= group).map_or(group, |run| run.end)
    }

    /// The runs at hand, in order.
    pub fn present(&self) -> impl Iterator<Item = GroupRange> + '_ {
        self.runs.iter().copied()
    }

    /// The runs of groups in `range` that are missing, in order.
    pub fn missing_within(&self, range: GroupRange) -> impl Iterator<Item = GroupRange> + '_ {
        let range = range.intersection(GroupRange::new(0, self.count));
        let mut run = self.runs.partition_point(|run| run.end <= range.start);
        let mut at = range.start;
        std::iter::from_fn(move || {
            while at < range.end {
                let gap_start = at;
                let next = self.runs.get(run).copied().unwrap_or(GroupRange::new(range.end, range.end));
                run += 1;
                at = next.end.max(gap_start);
                let gap = GroupRange::new(gap_start, next.start.min(range.end));
                if !gap.is_empty() {
                    return Some(gap);
                }
            }
            None
        })
    }

    /// All runs of missing groups, in order.
    pub fn missing(&self) -> impl Iterator<Item = GroupRange> + '_ {
        self.missing_within(GroupRange::new(0, self.count))
    }
}

impl fmt::Debug for GroupSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GroupSet({} of {}: {:?})", self.len, self.count, self.runs)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const GROUP: u64 = GROUP_BYTES;

    #[test]
    fn bytes_are_covered_by_groups() {
        assert_eq!(GroupRange::of_bytes(0..0), GroupRange::new(0, 0));
        assert_eq!(GroupRange::of_bytes(0..1), GroupRange::new(0, 1));
        assert_eq!(GroupRange::of_bytes(GROUP - 1..GROUP + 1), GroupRange::new(0, 2));
        assert_eq!(GroupRange::of_bytes(GROUP..2 * GROUP), GroupRange::new(1, 2));
        assert!(GroupRange::of_bytes(5..5).is_empty());
        assert_eq!(GroupRange::new(1, 3).bytes(2 * GROUP + 5), GROUP..2 * GROUP + 5);
        assert_eq!(GroupRange::new(u64::MAX - 1, u64::MAX).bytes(7), 7..7);
    }

    #[test]
    fn only_the_last_group_may_be_short() {
        let size = 2 * GROUP + 5;
        assert_eq!(GroupRange::whole_in_bytes(0..size, size), GroupRange::all(size));
        assert_eq!(GroupRange::whole_in_bytes(1..size, size), GroupRange::new(1, 3));
        assert_eq!(GroupRange::whole_in_bytes(0..size - 1, size), GroupRange::new(0, 2));
        assert!(GroupRange::whole_in_bytes(1..GROUP, size).is_empty());
        assert!(GroupRange::whole_in_bytes(0..0, 0).is_empty());
    }

    #[test]
    fn ranges_outside_of_a_blob_are_refused() {
        let size = 2 * GROUP + 5;
        assert!(GroupRange::new(0, 3).check(size).is_ok() && GroupRange::new(3, 3).check(size).is_ok());
        for range in [GroupRange::new(0, 4), GroupRange::new(2, 1), GroupRange::new(4, 4)] {
            assert!(matches!(range.check(size), Err(RangeError::OutOfBounds { .. })), "{range}");
        }
        assert!(matches!(GroupRange::default().check(u64::MAX), Err(RangeError::BlobSize { .. })));
    }

    #[test]
    fn the_empty_blob_is_complete_from_the_start() {
        let set = GroupSet::new(group_count(0));
        assert!(set.is_complete() && set.is_empty());
        assert_eq!((set.prefix(), set.missing().count()), (0, 0));
    }

    proptest! {
        #[test]
        fn a_group_set_is_a_set(
            count in 0u64..70,
            steps in proptest::collection::vec((any::<bool>(), 0u64..80, 0u64..20), 0..40),
            probe in (0u64..80, 0u64..20),
        ) {
            let mut set = GroupSet::new(count);
            let mut model = BTreeSet::new();
            for (insert, start, len) in steps {
                let range = GroupRange::new(start, start + len);
                let before = model.len();
                if insert {
                    model.extend((start..start + len).filter(|group| *group < count));
                    prop_assert_eq!(set.insert(range), (model.len() - before) as u64);
                } else {
                    model.retain(|group| !range.contains(*group));
                    prop_assert_eq!(set.remove(range), (before - model.len()) as u64);
                }
                let runs: Vec<_> = set.present().collect();
                prop_assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start));
                prop_assert!(runs.iter().all(|run| !run.is_empty() && run.end <= count));
            }
            let listed: BTreeSet<u64> = set.present().flat_map(|run| run.start..run.end).collect();
            prop_assert_eq!(&listed, &model);
            prop_assert_eq!(set.len(), model.len() as u64);
            prop_assert_eq!(set.is_complete(), model.len() as u64 == count);
            prop_assert_eq!(set.prefix(), (0..).take_while(|group| model.contains(group)).count() as u64);

            let range = GroupRange::new(probe.0, probe.0 + probe.1);
            let groups = || range.start..range.end;
            prop_assert_eq!(set.contains(range), groups().all(|group| model.contains(&group)));
            prop_assert_eq!(
                set.prefix_from(range.start),
                (range.start..).find(|group| !model.contains(group)).unwrap()
            );
            let missing: Vec<_> = set.missing_within(range).collect();
            prop_assert!(missing.windows(2).all(|pair| pair[0].end < pair[1].start));
            let missing: Vec<u64> = missing.into_iter().flat_map(|run| run.start..run.end).collect();
            let expected: Vec<u64> = groups().filter(|g| *g < count && !model.contains(g)).collect();
            prop_assert_eq!(missing, expected);
        }
    }
}
