//! Which side files there are, and which go first.

use std::time::{Duration, SystemTime};

use lru::LruCache;
use p2p_cache_protocol::BlobId;

/// A name, as the disk has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key(BlobId);

impl Key {
    pub(super) fn of(name: &str) -> Self {
        Self(BlobId::of(name.as_bytes()))
    }

    pub(super) fn file_name(&self) -> String {
        self.0.to_string()
    }

    pub(super) fn parse(file_name: &str) -> Option<Self> {
        file_name.parse().ok().map(Self)
    }
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) bytes: u64,
    pub(super) stored: SystemTime,
    /// By a client; otherwise it came from an origin.
    pub(super) uploaded: bool,
}

impl Entry {
    /// How long it has been here; nothing when the clock was set back.
    pub(super) fn age(&self) -> Duration {
        self.stored.elapsed().unwrap_or_default()
    }
}

/// All of them, in order of use.
#[derive(Debug)]
pub(super) struct Table {
    entries: LruCache<Key, Entry>,
    bytes: u64,
    max_bytes: u64,
    max_files: usize,
}

impl Table {
    pub(super) fn new(max_bytes: u64, max_files: usize) -> Self {
        Self { entries: LruCache::unbounded(), bytes: 0, max_bytes, max_files }
    }

    pub(super) fn contains(&self, key: &Key) -> bool {
        self.entries.contains(key)
    }

    /// Looks one up, which counts as a use.
    pub(super) fn touch(&mut self, key: &Key) -> Option<Entry> {
        self.entries.get(key).copied()
    }

    /// Adds one; yields those that have to go, which are never that one alone.
    pub(super) fn insert(&mut self, key: Key, entry: Entry) -> Vec<Key> {
        self.remove(&key);
        self.bytes += entry.bytes;
        self.entries.put(key, entry);
        let mut gone = Vec::new();
        while (self.bytes > self.max_bytes || self.entries.len() > self.max_files) && self.entries.len() > 1 {
            let Some(victim) = self.victim(&key) else { break };
            self.remove(&victim);
            gone.push(victim);
        }
        gone
    }

    pub(super) fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.pop(key) {
            self.bytes -= entry.bytes;
        }
    }

    /// The least recently used of what can be had again from an origin, or else of all; but not `keep`.
    fn victim(&self, keep: &Key) -> Option<Key> {
        let mut oldest_first = self.entries.iter().rev().filter(|(key, _)| *key != keep);
        let again = oldest_first.clone().find(|(_, entry)| !entry.uploaded);
        again.or_else(|| oldest_first.next()).map(|(key, _)| *key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_origin_has_goes_before_what_was_uploaded_and_the_oldest_use_first() {
        let entry = |uploaded| Entry { bytes: 10, stored: SystemTime::now(), uploaded };
        let mut table = Table::new(30, 10);
        let keys = ["a", "b", "c", "d", "e", "f"].map(Key::of);
        assert!(table.insert(keys[0], entry(true)).is_empty());
        assert!(table.insert(keys[1], entry(false)).is_empty());
        assert!(table.insert(keys[2], entry(false)).is_empty());
        assert!(table.touch(&keys[1]).is_some());
        assert_eq!(table.insert(keys[3], entry(true)), [keys[2]]);
        assert_eq!(table.insert(keys[4], entry(true)), [keys[1]]);
        assert_eq!(table.insert(keys[5], entry(true)), [keys[0]]);
        assert_eq!(table.insert(keys[5], entry(true)), [], "again the same");
        let mut few = Table::new(1000, 2);
        few.insert(keys[0], entry(false));
        few.insert(keys[1], entry(false));
        assert_eq!(few.insert(keys[2], entry(false)), [keys[0]]);
    }
}
