//! Narinfo files: written whole or not at all, bounded in number, the popular ones in memory.

use std::collections::BinaryHeap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use lru::LruCache;
use p2p_cache_protocol::{Digest, MAX_NARINFO_BYTES, NarInfo, Sha256Digest, StoreHash};

use super::error::StoreError;
use super::index::NarinfoRecord;
use super::inner::{StoreInner, lock, saturating_sub};
use super::layout;

/// Narinfos that [`narinfos_of`] reads for one NAR: store paths with equal content are few.
pub(super) const MAX_NARINFOS_OF_ONE_NAR: usize = 64;
/// Share of the narinfos that goes when there are too many: one in this number.
const TRIM_DIVISOR: u64 = 32;
/// Memory that a cached narinfo costs beside its text, roughly, in bytes.
const CACHE_OVERHEAD_BYTES: usize = 512;

/// The narinfo part of a store.
#[derive(Debug)]
pub(super) struct Narinfos {
    cache: Mutex<Cache>,
    /// Held while files and records change together.
    write: Mutex<()>,
    pub(super) count: AtomicU64,
}

#[derive(Debug)]
struct Cache {
    entries: LruCache<StoreHash, (NarInfo, usize)>,
    bytes: usize,
    max_bytes: usize,
}

impl Narinfos {
    pub(super) fn new(cache_bytes: usize) -> Self {
        let cache = Cache { entries: LruCache::unbounded(), bytes: 0, max_bytes: cache_bytes };
        Narinfos { cache: Mutex::new(cache), write: Mutex::new(()), count: AtomicU64::new(0) }
    }

    /// The narinfo when it is in memory. Does not block.
    pub(super) fn cached(&self, hash: StoreHash) -> Option<NarInfo> {
        lock(&self.cache).entries.get(&hash).map(|(narinfo, _)| narinfo.clone())
    }
}

impl Cache {
    fn put(&mut self, narinfo: &NarInfo, text_bytes: usize) {
        let cost = text_bytes + CACHE_OVERHEAD_BYTES;
        if cost > self.max_bytes {
            return;
        }
        self.bytes += cost;
        if let Some((_, old)) = self.entries.put(narinfo.store_path.hash(), (narinfo.clone(), cost)) {
            self.bytes -= old;
        }
        while self.bytes > self.max_bytes {
            let Some((_, (_, cost))) = self.entries.pop_lru() else { break };
            self.bytes -= cost;
        }
    }

    fn remove(&mut self, hash: StoreHash) {
        if let Some((_, cost)) = self.entries.pop(&hash) {
            self.bytes -= cost;
        }
    }
}

/// Writes a narinfo. Blocking; does nothing when the same one is there.
pub(super) fn put(store: &StoreInner, narinfo: &NarInfo) -> Result<(), StoreError> {
    let hash = narinfo.store_path.hash();
    if store.narinfos.cached(hash).is_some_and(|known| known == *narinfo) {
        return Ok(());
    }
    let text = narinfo.to_string();
    let name = store.partials.reserve(usize::MAX)?;
    let temp = store.layout.partials().join(format!("{name}{}", layout::NARINFO_SUFFIX));
    let result = write_synced(&temp, text.as_bytes()).and_then(|()| {
        let _write = lock(&store.narinfos.write);
        let path = store.layout.narinfo(hash);
        fs::rename(&temp, &path).map_err(|e| StoreError::io("cannot move into place", &path, e))?;
        record(store, hash, NarinfoRecord { nar: narinfo.nar_hash, stored_ms: store.now_ms() })?;
        lock(&store.narinfos.cache).put(narinfo, text.len());
        Ok(())
    });
    if result.is_err()
        && let Err(error) = layout::remove_file(&temp)
    {
        tracing::debug!(%error, "cannot remove a temporary narinfo");
    }
    store.partials.forget(&name);
    result?;
    if store.narinfos.count.load(Ordering::Relaxed) > store.config.max_narinfos {
        trim(store)?;
    }
    Ok(())
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let failed = |e| StoreError::io("cannot write", path, e);
    let mut file = File::create(path).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)
}

/// Inserts a record and counts it. The caller holds the write lock.
fn record(store: &StoreInner, hash: StoreHash, new: NarinfoRecord) -> Result<(), StoreError> {
    if store.index.insert_narinfo(hash, &new)?.is_none() {
        store.narinfos.count.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Reads a narinfo, from memory or disk. Blocking. A file that cannot be parsed is removed.
pub(super) fn get(store: &StoreInner, hash: StoreHash) -> Result<Option<NarInfo>, StoreError> {
    if let Some(narinfo) = store.narinfos.cached(hash) {
        return Ok(Some(narinfo));
    }
    let Some(text) = read_text(&store.layout.narinfo(hash))? else { return Ok(None) };
    let _write = lock(&store.narinfos.write);
    match NarInfo::parse(&text) {
        Ok(narinfo) if narinfo.store_path.hash() == hash => {
            // A crash between rename and insert leaves the record of the file before.
            if store.index.narinfo(hash)?.is_none_or(|known| known.nar != narinfo.nar_hash) {
                record(store, hash, NarinfoRecord { nar: narinfo.nar_hash, stored_ms: store.now_ms() })?;
            }
            lock(&store.narinfos.cache).put(&narinfo, text.len());
            Ok(Some(narinfo))
        }
        bad => {
            let reason = bad.err().map_or("it names another store path".to_string(), |e| e.to_string());
            tracing::warn!(%hash, reason, "a narinfo file is damaged: removed");
            remove(store, hash)?;
            Ok(None)
        }
    }
}

/// The text of a narinfo file; `None` when it is missing. An oversized or binary file gives text that cannot be
/// parsed.
fn read_text(path: &Path) -> Result<Option<String>, StoreError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(StoreError::io("cannot open", path, e)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_NARINFO_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| StoreError::io("cannot read", path, e))?;
    Ok(Some(String::from_utf8(bytes).unwrap_or_default()))
}

/// Removes file, record and cache entry. The caller holds the write lock.
fn remove(store: &StoreInner, hash: StoreHash) -> Result<(), StoreError> {
    layout::remove_file(&store.layout.narinfo(hash))?;
    if store.index.remove_narinfo(hash)?.is_some() {
        saturating_sub(&store.narinfos.count, 1);
    }
    lock(&store.narinfos.cache).remove(hash);
    Ok(())
}

/// The narinfos that name this NAR, at most [`MAX_NARINFOS_OF_ONE_NAR`]. Blocking.
pub(super) fn narinfos_of(store: &StoreInner, nar: Sha256Digest) -> Result<Vec<NarInfo>, StoreError> {
    let mut found = Vec::new();
    for hash in store.index.narinfos_of(nar).take(MAX_NARINFOS_OF_ONE_NAR) {
        // A record may be older than its file.
        found.extend(get(store, hash?)?.filter(|narinfo| narinfo.nar_hash == nar));
    }
    Ok(found)
}

/// Removes the oldest narinfos, those without a blob first.
fn trim(store: &StoreInner) -> Result<(), StoreError> {
    let excess = store.narinfos.count.load(Ordering::Relaxed).saturating_sub(store.config.max_narinfos);
    let batch = usize::try_from(excess + store.config.max_narinfos / TRIM_DIVISOR).unwrap_or(usize::MAX);
    let mut oldest: BinaryHeap<(bool, u64, StoreHash)> = BinaryHeap::new();
    for entry in store.index.narinfos() {
        let (hash, record) = entry?;
        let held = store.index.find(Digest::Sha256(record.nar))?.is_some();
        oldest.push((held, record.stored_ms, hash));
        if oldest.len() > batch {
            oldest.pop();
        }
    }
    let _write = lock(&store.narinfos.write);
    for (_, _, hash) in oldest {
        remove(store, hash)?;
    }
    Ok(())
}

/// What [`reconcile`] changed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reconciled {
    pub(super) adopted: u64,
    pub(super) dropped: u64,
}

/// Brings records and files together: files without a record are read, records without a file dropped.
pub(super) fn reconcile(store: &StoreInner) -> Result<Reconciled, StoreError> {
    let mut done = Reconciled::default();
    let dir = store.layout.narinfos();
    for name in layout::file_names(&dir)? {
        let name = name?;
        let hash = name.strip_suffix(layout::NARINFO_SUFFIX).and_then(|stem| stem.parse().ok());
        let Some(hash) = hash else {
            tracing::warn!(file = name, "not a narinfo file: left alone");
            continue;
        };
        if store.index.narinfo(hash)?.is_none() && adopt(store, hash)? {
            done.adopted += 1;
        }
    }
    let mut count = 0;
    for entry in store.index.narinfos() {
        let (hash, _) = entry?;
        let _write = lock(&store.narinfos.write);
        if store.layout.narinfo(hash).exists() {
            count += 1;
        } else {
            store.index.remove_narinfo(hash)?;
            lock(&store.narinfos.cache).remove(hash);
            done.dropped += 1;
        }
    }
    store.narinfos.count.store(count, Ordering::Relaxed);
    Ok(done)
}

/// Reads a file that the index does not know; removes it when it is damaged.
fn adopt(store: &StoreInner, hash: StoreHash) -> Result<bool, StoreError> {
    let path = store.layout.narinfo(hash);
    let Some(text) = read_text(&path)? else { return Ok(false) };
    let _write = lock(&store.narinfos.write);
    match NarInfo::parse(&text) {
        Ok(narinfo) if narinfo.store_path.hash() == hash => {
            let written = fs::metadata(&path).and_then(|meta| meta.modified()).ok();
            let age = written.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
            let stored_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            store.index.insert_narinfo(hash, &NarinfoRecord { nar: narinfo.nar_hash, stored_ms })?;
            Ok(true)
        }
        _ => {
            tracing::warn!(file = %path.display(), "a narinfo file is damaged: removed");
            remove(store, hash)?;
            Ok(false)
        }
    }
}
