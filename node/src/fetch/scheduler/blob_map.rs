//! What is present, what is asked for, and which blocks are still open, rarest first.

use std::collections::BTreeMap;
use std::ops::Range;

use super::bitmap::Bitmap;
use super::estimate::Random;
use super::groups::{GROUP_BYTES, GroupRange, GroupSet, MAX_EXTENT_GROUPS, group_count};

/// Groups of a block, the unit in which open work is kept: 256 KiB, the smallest extent asked for on purpose.
pub(super) const BLOCK_GROUPS: u64 = 16;
/// Rarity is told apart up to this many partial holders.
const RARITY_CLASSES: usize = 4;

/// The part of a blob that a partial holder has.
#[derive(Debug, Clone)]
pub(super) struct Held {
    groups: Bitmap,
    /// Blocks of which at least one group is held.
    blocks: Bitmap,
}

impl Held {
    /// True when the holder (a complete one when `None`) has a group.
    pub(super) fn holds(held: Option<&Self>, group: u64) -> bool {
        held.is_none_or(|h| h.groups.get(group))
    }

    /// Groups held.
    pub(super) fn count(&self) -> u64 {
        self.groups.ones()
    }

    /// True when the holder has every group of a range.
    pub(super) fn covers(held: Option<&Self>, range: &GroupRange) -> bool {
        held.is_none_or(|h| h.groups.count(range.start..range.end) == range.end.saturating_sub(range.start))
    }
}

/// In which order open blocks behind the windows are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Rarest first, ascending from a block and around.
    From(u64),
    /// Rarest first, descending from the end: a stream fills from the front.
    FromBack,
}

#[derive(Debug)]
pub(super) struct BlobMap {
    size_bytes: u64,
    groups: u64,
    blocks: u64,
    first_block: u64,
    present: Bitmap,
    asked: Bitmap,
    /// Blocks with at least one group neither present nor asked for.
    open: Bitmap,
    /// The same, split by the number of partial holders (the last class: that many or more).
    open_by_rarity: [Bitmap; RARITY_CLASSES],
    /// Partial holders per block; those with none have no entry.
    partial_holders: BTreeMap<u64, u16>,
}

impl BlobMap {
    pub(super) fn new(size_bytes: u64, random: &mut Random) -> Self {
        let groups = group_count(size_bytes);
        let blocks = groups.div_ceil(BLOCK_GROUPS);
        let cell_blocks = MAX_EXTENT_GROUPS / BLOCK_GROUPS;
        Self {
            size_bytes,
            groups,
            blocks,
            first_block: random.below(blocks) / cell_blocks * cell_blocks,
            present: Bitmap::new(groups),
            asked: Bitmap::new(groups),
            open: Bitmap::full(blocks),
            open_by_rarity: std::array::from_fn(|class| {
                if class == 0 { Bitmap::full(blocks) } else { Bitmap::new(blocks) }
            }),
            partial_holders: BTreeMap::new(),
        }
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub(super) fn groups(&self) -> u64 {
        self.groups
    }

    pub(super) fn is_complete(&self) -> bool {
        self.present.is_full()
    }

    pub(super) fn missing_bytes(&self) -> u64 {
        (self.groups - self.present.ones()).saturating_mul(GROUP_BYTES).min(self.size_bytes)
    }

    /// Where this fetch begins behind the windows.
    pub(super) fn first_block(&self) -> u64 {
        self.first_block
    }

    /// True when a block has groups that are neither present nor asked for, and no partial holder has any of them.
    pub(super) fn is_rare(&self, block: u64) -> bool {
        self.open_by_rarity[0].get(block)
    }

    /// Any of the open blocks that no partial holder has, each as likely as the others: to take the next one from a
    /// random place on would prefer those behind long runs that everybody has. Without any of them, any block.
    pub(super) fn random_block(&self, random: &mut Random) -> u64 {
        let rare = &self.open_by_rarity[0];
        let any = random.below(rare.ones());
        rare.nth_set(any).unwrap_or_else(|| random.below(self.blocks))
    }

    pub(super) fn has_open(&self) -> bool {
        self.open.ones() > 0
    }

    /// True when every open block has a partial holder.
    pub(super) fn open_is_held_in_parts(&self) -> bool {
        self.open_by_rarity[0].ones() == 0
    }

    pub(super) fn bytes_of(&self, range: &GroupRange) -> u64 {
        let end = range.end.saturating_mul(GROUP_BYTES).min(self.size_bytes);
        end.saturating_sub(range.start.saturating_mul(GROUP_BYTES))
    }

    pub(super) fn all_present(&self, range: &GroupRange) -> bool {
        self.present.first_clear(range.start..range.end).is_none()
    }

    /// The first missing group at or after `group`.
    pub(super) fn first_missing(&self, group: u64) -> Option<u64> {
        self.present.first_clear(group..self.groups)
    }

    /// One past the last missing group.
    pub(super) fn missing_end(&self) -> u64 {
        self.present.last_clear(0..self.groups).map_or(0, |group| group + 1)
    }

    /// The first group at or after `group` that is neither present nor asked for.
    pub(super) fn first_open_group(&self, group: u64) -> Option<u64> {
        let block = self.first_open(group)?;
        let start = self.block_groups(block).start.max(group);
        self.first_wanted(start..self.block_groups(block).end, None).or_else(|| {
            let next = self.first_open((block + 1) * BLOCK_GROUPS)?;
            self.first_wanted(self.block_groups(next), None)
        })
    }

    /// The first open block at or after a group's block.
    pub(super) fn first_open(&self, group: u64) -> Option<u64> {
        self.open.first_set(group / BLOCK_GROUPS..self.blocks, None)
    }

    /// Returns how many groups were missing before.
    pub(super) fn mark_present(&mut self, range: &GroupRange) -> u64 {
        let new = self.present.set_range(range.start..range.end);
        if new > 0 {
            self.refresh(range.start..range.end);
        }
        new
    }

    pub(super) fn mark_asked(&mut self, range: &GroupRange) {
        self.asked.set_range(range.start..range.end);
        self.refresh(range.start..range.end);
    }

    /// `still` are the requests that go on asking for parts of it.
    pub(super) fn mark_unasked(&mut self, range: &GroupRange, still: impl Iterator<Item = GroupRange>) {
        self.asked.clear_range(range.start..range.end);
        for other in still {
            self.asked.set_range(other.start.max(range.start)..other.end.min(range.end));
        }
        self.refresh(range.start..range.end);
    }

    fn refresh(&mut self, groups: Range<u64>) {
        let end = groups.end.min(self.groups);
        if groups.start >= end {
            return;
        }
        for block in groups.start / BLOCK_GROUPS..end.div_ceil(BLOCK_GROUPS) {
            self.refresh_block(block);
        }
    }

    fn refresh_block(&mut self, block: u64) {
        let groups = self.block_groups(block);
        // A block never straddles a word.
        let covered = self.present.word(groups.start / 64) | self.asked.word(groups.start / 64);
        let mask = (1u64 << (groups.end - groups.start)) - 1;
        let open = !covered >> (groups.start % 64) & mask != 0;
        let holders = self.partial_holders.get(&block).copied().unwrap_or(0);
        let class = usize::from(holders).min(RARITY_CLASSES - 1);
        self.open.assign(block, open);
        for (index, bitmap) in self.open_by_rarity.iter_mut().enumerate() {
            bitmap.assign(block, open && index == class);
        }
    }

    pub(super) fn block_groups(&self, block: u64) -> Range<u64> {
        block * BLOCK_GROUPS..((block + 1) * BLOCK_GROUPS).min(self.groups)
    }

    /// A holding of these groups, not yet counted.
    pub(super) fn held(&self, set: &GroupSet) -> Held {
        let mut groups = Bitmap::new(self.groups);
        if set.count() == self.groups {
            groups.set_range(0..self.groups);
            for hole in set.missing_within(GroupRange { start: 0, end: self.groups }) {
                groups.clear_range(hole.start..hole.end);
            }
        }
        self.with_blocks(groups)
    }

    fn with_blocks(&self, groups: Bitmap) -> Held {
        let mut blocks = Bitmap::new(self.blocks);
        let mut at = 0;
        while let Some(group) = groups.first_set(at..groups.len(), None) {
            let block = group / BLOCK_GROUPS;
            blocks.assign(block, true);
            at = (block + 1) * BLOCK_GROUPS;
        }
        Held { groups, blocks }
    }

    /// The same holding (all of the blob when `None`) without some groups, not yet counted.
    pub(super) fn held_without(&self, held: Option<&Held>, range: &GroupRange) -> Held {
        let mut groups = held.map_or_else(|| Bitmap::full(self.groups), |h| h.groups.clone());
        groups.clear_range(range.start..range.end);
        self.with_blocks(groups)
    }

    /// Counts a partial holder whose holding was `old` and is `new` now, for the rarity of its blocks. Only blocks
    /// that differ cost anything: holdings grow a little at a time.
    pub(super) fn recount_holder(&mut self, old: Option<&Held>, new: Option<&Held>) {
        let word = |held: Option<&Held>, index| held.map_or(0, |held| held.blocks.word(index));
        for index in 0..self.blocks.div_ceil(u64::from(u64::BITS)) {
            let (was, is) = (word(old, index), word(new, index));
            let mut changed = was ^ is;
            while changed != 0 {
                let bit = u64::from(changed.trailing_zeros());
                changed &= changed - 1;
                let block = index * u64::from(u64::BITS) + bit;
                if block < self.blocks {
                    self.count_holder(block, is >> bit & 1 == 1);
                }
            }
        }
    }

    fn count_holder(&mut self, block: u64, joins: bool) {
        let holders = self.partial_holders.entry(block).or_insert(0);
        *holders = if joins { holders.saturating_add(1) } else { holders.saturating_sub(1) };
        if *holders == 0 {
            self.partial_holders.remove(&block);
        }
        self.refresh_block(block);
    }

    /// The first open block in a range of groups of which the holder has something.
    pub(super) fn open_in(&self, groups: Range<u64>, held: Option<&Held>) -> Option<u64> {
        let blocks = groups.start / BLOCK_GROUPS..groups.end.div_ceil(BLOCK_GROUPS);
        self.open.first_set(blocks, held.map(|h| &h.blocks))
    }

    /// Open blocks of which the holder has something, rarest first.
    pub(super) fn open_blocks<'a>(
        &'a self,
        held: Option<&'a Held>,
        order: Order,
    ) -> impl Iterator<Item = u64> + 'a {
        let mask = held.map(|h| &h.blocks);
        let parts = match order {
            Order::From(block) => [block..self.blocks, 0..block],
            Order::FromBack => [0..self.blocks, 0..0],
        };
        self.open_by_rarity.iter().flat_map(move |class| {
            parts.clone().into_iter().flat_map(move |part| {
                let mut left = part;
                std::iter::from_fn(move || match order {
                    Order::From(_) => {
                        let block = class.first_set(left.clone(), mask)?;
                        left.start = block + 1;
                        Some(block)
                    }
                    Order::FromBack => {
                        let block = class.last_set(left.clone(), mask)?;
                        left.end = block;
                        Some(block)
                    }
                })
            })
        })
    }

    /// The first group of a range that is open and held.
    pub(super) fn first_wanted(&self, groups: Range<u64>, held: Option<&Held>) -> Option<u64> {
        (groups.start..groups.end.min(self.groups)).find(|group| self.is_wanted(*group, held))
    }

    fn is_wanted(&self, group: u64, held: Option<&Held>) -> bool {
        !self.present.get(group) && !self.asked.get(group) && Held::holds(held, group)
    }

    /// The run of open groups held from `start` on: at most `max_groups` and up to a multiple of them, so that extents
    /// of all nodes are cut alike, and within one cell of 64.
    pub(super) fn run_up(&self, start: u64, held: Option<&Held>, max_groups: u64) -> Option<GroupRange> {
        let max_groups = max_groups.clamp(1, MAX_EXTENT_GROUPS);
        let cell_end = (start / MAX_EXTENT_GROUPS + 1) * MAX_EXTENT_GROUPS;
        let end = ((start / max_groups + 1) * max_groups).min(cell_end).min(self.groups);
        let length = (start..end).take_while(|group| self.is_wanted(*group, held)).count() as u64;
        (length > 0).then_some(GroupRange { start, end: start + length })
    }

    /// The run of open groups held that ends in this block: cut as [`Self::run_up`] does.
    pub(super) fn run_down(&self, block: u64, held: Option<&Held>, max_groups: u64) -> Option<GroupRange> {
        let wanted = |group: &u64| self.is_wanted(*group, held);
        let end = self.block_groups(block).rev().find(wanted)? + 1;
        let cell_start = (end - 1) / MAX_EXTENT_GROUPS * MAX_EXTENT_GROUPS;
        let max_groups = max_groups.clamp(1, MAX_EXTENT_GROUPS);
        let start = cell_start.max((end - 1) / max_groups * max_groups);
        let length = (start..end).rev().take_while(wanted).count() as u64;
        (length > 0).then_some(GroupRange { start: end - length, end })
    }
}
