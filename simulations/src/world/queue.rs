//! Virtual time: what happens next.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::Happening;

#[derive(Debug)]
struct Planned {
    at: Duration,
    sequence: u64,
    happening: Happening,
}

impl Ord for Planned {
    /// The earliest is the greatest: the heap yields it first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}

impl Eq for Planned {}

/// Events in the order of their time; those of one instant in the order in which they were planned.
#[derive(Debug, Default)]
pub(super) struct Queue {
    planned: BinaryHeap<Planned>,
    sequence: u64,
    now: Duration,
}

impl Queue {
    pub(super) fn now(&self) -> Duration {
        self.now
    }

    pub(super) fn push(&mut self, at: Duration, happening: Happening) {
        self.sequence += 1;
        self.planned.push(Planned { at: at.max(self.now), sequence: self.sequence, happening });
    }

    /// After a while.
    pub(super) fn push_in(&mut self, wait: Duration, happening: Happening) {
        self.push(self.now + wait, happening);
    }

    /// The next thing that happens; time moves on to it.
    pub(super) fn pop(&mut self) -> Option<Happening> {
        let next = self.planned.pop()?;
        self.now = next.at;
        Some(next.happening)
    }
}
