//! What is hashed next.

use std::collections::{HashSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use p2p_cache_protocol::{Sha256Digest, StoreHash};

use crate::nix_store::index::Index;

/// What was asked for and waits; more is hashed in its turn.
const MAX_ASKED: usize = 1024;

/// What somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::nix_store) enum Asked {
    /// A path.
    Path(StoreHash),
    /// All paths with this NAR.
    Nar(Sha256Digest),
}

/// Two lines: paths that somebody asked for, and all others, from the newest to the oldest.
#[derive(Debug, Default)]
pub(in crate::nix_store) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    asked: VecDeque<Asked>,
    /// The same, for finding out whether one is in it already.
    in_asked: HashSet<Asked>,
    /// The ids at and above this one were looked at; `None` before the first look.
    below: Option<i64>,
    /// Counts what was noted, so that nobody waits for what came while he looked.
    noted: u64,
    stopped: bool,
}

impl Queue {
    /// Somebody waits for this.
    pub(in crate::nix_store) fn ask(&self, asked: Asked) {
        let mut state = self.lock();
        if state.asked.len() < MAX_ASKED && state.in_asked.insert(asked) {
            state.asked.push_back(asked);
            self.changed.notify_all();
        }
    }

    /// The path with this id is to be hashed, when its turn comes.
    pub(in crate::nix_store) fn noted(&self, id: i64) {
        let mut state = self.lock();
        if state.below.is_none_or(|below| below <= id) {
            state.below = id.checked_add(1);
        }
        state.noted += 1;
        self.changed.notify_all();
    }

    /// Wakes everybody up for good.
    pub(in crate::nix_store) fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    pub(in crate::nix_store) fn is_stopped(&self) -> bool {
        self.lock().stopped
    }

    /// What was asked for next; `None` when it is time to stop.
    pub(super) fn next_asked(&self) -> Option<Asked> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            if let Some(asked) = state.asked.pop_front() {
                state.in_asked.remove(&asked);
                return Some(asked);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next path of all others; `None` when it is time to stop.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub(super) fn next(&self, index: &Index) -> sled::Result<Option<StoreHash>> {
        loop {
            let (below, noted) = {
                let state = self.lock();
                if state.stopped {
                    return Ok(None);
                }
                (state.below.unwrap_or(i64::MAX), state.noted)
            };
            // Without the lock: it may take a while.
            let found = index.pending_below(below)?;
            let mut state = self.lock();
            if state.noted != noted {
                continue;
            }
            match found {
                Some(next) => {
                    state.below = Some(next.id);
                    return Ok(Some(next.hash));
                }
                None => {
                    state.below = Some(0);
                    while state.noted == noted && !state.stopped {
                        state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                    }
                }
            }
        }
    }

    /// Waits for this long, or until it is time to stop; true then.
    pub(super) fn pause(&self, duration: Duration) -> bool {
        let until = Instant::now() + duration;
        let mut state = self.lock();
        while !state.stopped {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.stopped
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use p2p_cache_protocol::BlobId;

    use super::*;
    use crate::nix_store::index::State as Progress;

    fn hash(number: u8) -> StoreHash {
        StoreHash::from([number; 20])
    }

    fn note(index: &Index, queue: &Queue, number: u8) {
        index.note(hash(number), number.into(), Sha256Digest([number; 32]), 1, Progress::Pending).unwrap();
        queue.noted(number.into());
    }

    #[test]
    fn each_path_has_its_turn_once_and_new_ones_come_first() {
        let directory = tempfile::tempdir().unwrap();
        let index = Index::open(directory.path(), 1 << 20).unwrap();
        let queue = Queue::default();
        for number in [1, 2, 3] {
            note(&index, &queue, number);
        }
        let next = || queue.next(&index).unwrap();
        assert_eq!(next(), Some(hash(3)));
        note(&index, &queue, 9);
        // Hashed by another thread meanwhile.
        index.settle(hash(2), 2, Progress::Offered(BlobId([0; 32]))).unwrap();
        assert_eq!((next(), next()), (Some(hash(9)), Some(hash(3))));
        assert_eq!(next(), Some(hash(1)));
        queue.stop();
        assert_eq!(next(), None);
    }

    #[test]
    fn a_path_that_was_asked_for_twice_waits_once_and_no_more_wait_than_the_bound() {
        let queue = Queue::default();
        for number in 0..2 * MAX_ASKED as u64 {
            let mut bytes = [0; 20];
            bytes[..8].copy_from_slice(&number.to_le_bytes());
            queue.ask(Asked::Path(StoreHash::from(bytes)));
            queue.ask(Asked::Path(StoreHash::from(bytes)));
        }
        assert_eq!(queue.lock().asked.len(), MAX_ASKED);
        let first = Asked::Path(StoreHash::from([0; 20]));
        assert_eq!(queue.next_asked(), Some(first));
        queue.ask(first);
        assert_eq!(queue.lock().asked.len(), MAX_ASKED, "it may be asked for again");
    }

    #[test]
    fn whoever_waits_is_woken_by_what_comes_and_by_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let index = Index::open(directory.path(), 1 << 20).unwrap();
        let queue = Queue::default();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| queue.next(&index).unwrap());
            let asked = scope.spawn(|| queue.next_asked());
            let paused = scope.spawn(|| queue.pause(Duration::from_secs(600)));
            note(&index, &queue, 5);
            queue.ask(Asked::Nar(Sha256Digest([6; 32])));
            assert_eq!(waiting.join().unwrap(), Some(hash(5)));
            assert_eq!(asked.join().unwrap(), Some(Asked::Nar(Sha256Digest([6; 32]))));
            queue.stop();
            assert!(paused.join().unwrap());
        });
        assert!(!Queue::default().pause(Duration::from_millis(1)));
    }
}
