//! Which names in `partial/` are in use, and which leftovers wait to be taken up again.
//!
//! A name is *live* while a write goes on, *parked* while all of it is written and waits to be committed, *settling*
//! while its files are being saved or removed, and *idle* while its files wait for the blob to be asked for again. It is
//! never two of these.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::error::StoreError;
use super::inner::{lock, saturating_sub};

/// The longest wait for files that are being saved or removed; then the new write does without them.
pub(super) const SETTLE_PATIENCE: Duration = Duration::from_secs(2);

/// The unfinished writes of this process and the leftovers of earlier ones.
#[derive(Debug, Default)]
pub(super) struct Partials {
    next: AtomicU64,
    table: Mutex<Table>,
    settled: Condvar,
    /// Bytes that unfinished blobs of known length will still write.
    pub(super) promised_bytes: AtomicU64,
    /// Bytes on disk of all leftovers.
    idle_bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    live: HashSet<String>,
    parked: HashSet<String>,
    settling: HashSet<String>,
    idle: HashMap<String, Leftover>,
}

/// The files of a blob that was not finished, waiting to be taken up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leftover {
    /// Bytes that they take on disk.
    pub(super) bytes: u64,
    /// When they were written last, in milliseconds since the epoch.
    pub(super) used_ms: u64,
}

/// What asking for a name came to; except for `InUse` the name is live now.
#[derive(Debug)]
pub(super) enum Taken {
    Fresh,
    Leftover,
    InUse,
}

impl Partials {
    /// A fresh name for a temporary file; it counts as live until [`Partials::forget`].
    pub(super) fn reserve(&self, limit: usize) -> Result<String, StoreError> {
        let mut table = lock(&self.table);
        table.check(limit)?;
        let name = format!("{:016x}", self.next.fetch_add(1, Ordering::Relaxed));
        table.live.insert(name.clone());
        Ok(name)
    }

    /// Takes a name that stands for what is written. Blocking: waits for files under this name that settle.
    pub(super) fn take(&self, name: &str, limit: usize) -> Result<Taken, StoreError> {
        let mut table = lock(&self.table);
        let give_up = Instant::now() + SETTLE_PATIENCE;
        while table.settling.contains(name) {
            let left = give_up.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Taken::InUse);
            }
            table = self.settled.wait_timeout(table, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        if table.live.contains(name) {
            return Ok(Taken::InUse);
        }
        table.check(limit)?;
        table.live.insert(name.to_owned());
        Ok(match table.idle.remove(name) {
            Some(leftover) => {
                saturating_sub(&self.idle_bytes, leftover.bytes);
                Taken::Leftover
            }
            None => Taken::Fresh,
        })
    }

    /// A live name whose files are complete and wait; it counts no more as a write.
    pub(super) fn park(&self, name: &str) {
        let mut table = lock(&self.table);
        if table.live.remove(name) {
            table.parked.insert(name.to_owned());
        }
    }

    /// A live or parked name whose files go on to be saved or removed; it counts no more as a write.
    pub(super) fn settle(&self, name: &str) {
        let mut table = lock(&self.table);
        if table.live.remove(name) || table.parked.remove(name) {
            table.settling.insert(name.to_owned());
        }
    }

    /// The files of a name are gone, or in their final place.
    pub(super) fn forget(&self, name: &str) {
        let mut table = lock(&self.table);
        table.live.remove(name);
        table.parked.remove(name);
        table.settling.remove(name);
        self.settled.notify_all();
    }

    /// The files of a name wait from now on.
    pub(super) fn keep(&self, name: &str, leftover: Leftover) {
        let mut table = lock(&self.table);
        table.live.remove(name);
        table.settling.remove(name);
        if let Some(old) = table.idle.insert(name.to_owned(), leftover) {
            saturating_sub(&self.idle_bytes, old.bytes);
        }
        self.idle_bytes.fetch_add(leftover.bytes, Ordering::Relaxed);
        self.settled.notify_all();
    }

    /// Chooses one leftover, the least recently used of those that `wanted` is true of, for removal: it is settling
    /// then, and must be forgotten when its files are gone.
    pub(super) fn evict(&self, wanted: impl Fn(&str, &Leftover) -> bool) -> Option<(String, Leftover)> {
        let mut table = lock(&self.table);
        let oldest = table.idle.iter().filter(|(name, leftover)| wanted(name, leftover));
        let name = oldest.min_by_key(|(name, leftover)| (leftover.used_ms, *name))?.0.clone();
        let leftover = table.idle.remove(&name)?;
        saturating_sub(&self.idle_bytes, leftover.bytes);
        table.settling.insert(name.clone());
        Some((name, leftover))
    }

    /// Waits, for a while, until no files are being saved or removed. Blocking.
    pub(super) fn wait_until_settled(&self) {
        let table = lock(&self.table);
        let waited =
            self.settled.wait_timeout_while(table, SETTLE_PATIENCE, |table| !table.settling.is_empty());
        drop(waited);
    }

    /// True for a file of `partial/` that somebody is responsible for.
    pub(super) fn is_known(&self, file_name: &str) -> bool {
        let stem = stem(file_name);
        let table = lock(&self.table);
        let under_way = [&table.live, &table.parked, &table.settling];
        under_way.iter().any(|names| names.contains(stem)) || table.idle.contains_key(stem)
    }

    /// Unfinished writes.
    pub(super) fn count(&self) -> usize {
        lock(&self.table).live.len()
    }

    /// Leftovers.
    pub(super) fn idle_count(&self) -> usize {
        lock(&self.table).idle.len()
    }

    /// Bytes on disk of all leftovers.
    pub(super) fn idle_bytes(&self) -> u64 {
        self.idle_bytes.load(Ordering::Relaxed)
    }
}

impl Table {
    fn check(&self, limit: usize) -> Result<(), StoreError> {
        if self.live.len() >= limit { Err(StoreError::TooManyPartials { limit }) } else { Ok(()) }
    }
}

/// The name to which a file in `partial/` belongs.
pub(super) fn stem(file_name: &str) -> &str {
    file_name.split_once('.').map_or(file_name, |(stem, _)| stem)
}
