//! Which groups of a partial blob are present, and the watches that wake its readers.

use std::sync::{Arc, Mutex};

use p2p_cache_protocol::{GROUP_BYTES, GroupRange, GroupSet, tree};
use tokio::sync::watch;

use crate::store::inner::lock;

#[derive(Debug)]
pub(super) struct Progress {
    size: u64,
    groups: u64,
    state: Mutex<State>,
    prefix: watch::Sender<u64>,
    generation: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    present: GroupSet,
    /// Those of `present` that came with their path in the hash tree, so that the outboard has it.
    verified: GroupSet,
    failure: Option<Arc<str>>,
}

impl Progress {
    pub(super) fn new(size: u64) -> Self {
        let groups = tree::group_count(size);
        Progress {
            size,
            groups,
            state: Mutex::new(State {
                present: GroupSet::new(groups),
                verified: GroupSet::new(groups),
                failure: None,
            }),
            prefix: watch::Sender::new(0),
            generation: watch::Sender::new(0),
        }
    }

    pub(super) fn group_count(&self) -> u64 {
        self.groups
    }

    /// Marks a group whose bytes are in the file. Readers see it at once but are woken by [`Progress::notify`].
    pub(super) fn insert(&self, group: u64, verified: bool) {
        self.insert_range(GroupRange { start: group, end: group + 1 }, verified);
    }

    /// As [`Progress::insert`], for many groups.
    pub(super) fn insert_range(&self, range: GroupRange, verified: bool) {
        let mut state = lock(&self.state);
        state.present.insert(range);
        if verified {
            state.verified.insert(range);
        }
    }

    /// Marks the groups of a leftover that may be used.
    pub(super) fn insert_set(&self, groups: &GroupSet, verified: bool) {
        let mut state = lock(&self.state);
        for run in groups.present() {
            state.present.insert(run);
            if verified {
                state.verified.insert(run);
            }
        }
    }

    /// Wakes readers after a batch of [`Progress::insert`].
    pub(super) fn notify(&self) {
        // The lock keeps the prefix from going backwards when two writers notify at once.
        let state = lock(&self.state);
        let prefix = self.prefix_of(&state);
        self.prefix.send_if_modified(|now| std::mem::replace(now, prefix) != prefix);
        drop(state);
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// The first failure stays; everybody who waits is woken. True when it was the first.
    pub(super) fn fail(&self, reason: Arc<str>) -> bool {
        let first = {
            let mut state = lock(&self.state);
            let first = state.failure.is_none();
            state.failure.get_or_insert(reason);
            first
        };
        self.prefix.send_modify(|_| ());
        self.generation.send_modify(|generation| *generation += 1);
        first
    }

    pub(super) fn failure(&self) -> Option<Arc<str>> {
        lock(&self.state).failure.clone()
    }

    pub(super) fn prefix_bytes(&self) -> u64 {
        self.prefix_of(&lock(&self.state))
    }

    fn prefix_of(&self, state: &State) -> u64 {
        state.present.prefix().saturating_mul(GROUP_BYTES).min(self.size)
    }

    /// Contiguous bytes present from `offset` on.
    pub(super) fn available_from(&self, offset: u64) -> u64 {
        self.run_from(offset, |state| &state.present)
    }

    /// Contiguous verified bytes from `offset` on.
    pub(super) fn verified_from(&self, offset: u64) -> u64 {
        self.run_from(offset, |state| &state.verified)
    }

    fn run_from(&self, offset: u64, of: impl Fn(&State) -> &GroupSet) -> u64 {
        if offset >= self.size {
            return 0;
        }
        let end = of(&lock(&self.state)).prefix_from(offset / GROUP_BYTES).saturating_mul(GROUP_BYTES);
        end.min(self.size).saturating_sub(offset)
    }

    pub(super) fn has_group(&self, group: u64) -> bool {
        lock(&self.state).present.contains(GroupRange { start: group, end: group + 1 })
    }

    pub(super) fn is_verified(&self, range: GroupRange) -> bool {
        lock(&self.state).verified.contains(range)
    }

    pub(super) fn verified(&self) -> Vec<GroupRange> {
        lock(&self.state).verified.present().collect()
    }

    /// The groups that came verified, and those that did not.
    pub(super) fn by_proof(&self) -> (GroupSet, GroupSet) {
        let state = lock(&self.state);
        let mut unproven = GroupSet::new(self.groups);
        for run in state.present.present() {
            for gap in state.verified.missing_within(run) {
                unproven.insert(gap);
            }
        }
        (state.verified.clone(), unproven)
    }

    pub(super) fn missing(&self) -> Vec<GroupRange> {
        lock(&self.state).present.missing().collect()
    }

    pub(super) fn groups(&self) -> GroupSet {
        lock(&self.state).present.clone()
    }

    pub(super) fn is_complete(&self) -> bool {
        lock(&self.state).present.is_complete()
    }

    pub(super) fn all_verified(&self) -> bool {
        lock(&self.state).verified.is_complete()
    }

    pub(super) fn watch_prefix(&self) -> watch::Receiver<u64> {
        self.prefix.subscribe()
    }

    pub(super) fn watch_generation(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }
}
