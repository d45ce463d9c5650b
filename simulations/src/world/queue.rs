//! Virtual time: what happens next.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Happening;

/// Events in the order of their time; those of one instant in the order in which they were planned.
#[derive(Debug, Default)]
pub(super) struct Queue {
    planned: BTreeMap<(Duration, u64), Happening>,
    sequence: u64,
    now: Duration,
}

impl Queue {
    pub(super) fn now(&self) -> Duration {
        self.now
    }

    pub(super) fn push(&mut self, at: Duration, happening: Happening) {
        self.sequence += 1;
        self.planned.insert((at.max(self.now), self.sequence), happening);
    }

    /// The next thing that happens; time moves on to it.
    pub(super) fn pop(&mut self) -> Option<Happening> {
        let ((at, _), happening) = self.planned.pop_first()?;
        self.now = at;
        Some(happening)
    }
}
