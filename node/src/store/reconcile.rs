//! Making index and files agree: at every start, and in `gc`. The files are the truth.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::time::UNIX_EPOCH;

use p2p_cache_protocol::{BlobId, Sha256Digest, tree};

use super::error::StoreError;
use super::index::BlobRecord;
use super::inner::StoreInner;
use super::layout::{self, BlobFile, OUTBOARD_SUFFIX};
use super::leftovers;
use super::narinfos;
use super::outboard;

/// When a reconciliation runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// Totals are counted afresh, and no write is under way.
    Start,
    /// Beside running writes.
    Running,
}

/// What a reconciliation changed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reconciled {
    /// Blobs and narinfos on disk that the index did not know, or knew otherwise.
    pub(super) adopted: u64,
    /// Index entries whose files are gone.
    pub(super) dropped: u64,
    /// Files that belong to nothing, removed.
    pub(super) orphans: u64,
    /// Outboards made anew from the data.
    pub(super) repaired: u64,
    /// Unfinished writes whose files were removed.
    pub(super) partials: u64,
}

#[derive(Debug, Default)]
struct Found {
    data_bytes: Option<u64>,
    modified_ms: u64,
    outboard_bytes: Option<u64>,
}

type ShardFiles = BTreeMap<(BlobId, Sha256Digest), Found>;

/// The owner's marks as the marker files have them.
struct Marks {
    published: HashSet<BlobId>,
    pinned: HashSet<BlobId>,
}

/// Runs over the whole store. Memory: one shard at a time, and the marks.
pub(super) fn reconcile(store: &StoreInner, when: When) -> Result<Reconciled, StoreError> {
    let partials = match when {
        When::Start => leftovers::adopt(store)?,
        When::Running => leftovers::clear(store) + clear_strays(store)?,
    };
    let mut done = Reconciled { partials, ..Reconciled::default() };
    let marks = Marks {
        published: read_markers(&store.layout.published())?,
        pinned: read_markers(&store.layout.pinned())?,
    };
    for shard in 0..=u8::MAX {
        let _lock = store.lock_shard(shard);
        reconcile_shard(store, shard, when, &marks, &mut done)?;
    }
    done.orphans += remove_stray_markers(store, &marks)?;
    let narinfos = narinfos::reconcile(store)?;
    done.adopted += narinfos.adopted;
    done.dropped += narinfos.dropped;
    Ok(done)
}

/// Removes what nobody is responsible for in `partial/`, such as the files of a failed removal.
fn clear_strays(store: &StoreInner) -> Result<u64, StoreError> {
    let dir = store.layout.partials();
    let mut removed = 0;
    for name in layout::file_names(&dir)? {
        let name = name?;
        if !store.partials.is_known(&name) && layout::remove_file(&dir.join(&name))? {
            removed += 1;
        }
    }
    Ok(removed)
}

fn reconcile_shard(
    store: &StoreInner,
    shard: u8,
    when: When,
    marks: &Marks,
    done: &mut Reconciled,
) -> Result<(), StoreError> {
    let dir = store.layout.shard(shard);
    let mut known = HashMap::new();
    for entry in store.index.shard(shard) {
        let (id, record) = entry?;
        if let (When::Start, Some(record)) = (when, &record) {
            store.totals.add(record);
        }
        known.insert(id, record);
    }
    for ((id, sha256), found) in list_shard(&dir, shard)? {
        let data = store.layout.data(id, sha256);
        let Some(size) = found.data_bytes else {
            done.orphans += u64::from(layout::remove_file(&store.layout.outboard(id, sha256))?);
            continue;
        };
        if found.outboard_bytes != Some(tree::outboard_bytes(size)) {
            if !repair(store, id, sha256, size)? {
                tracing::warn!(file = %data.display(), "the bytes of a blob do not match its name: removed");
                layout::remove_file(&data)?;
                layout::remove_file(&store.layout.outboard(id, sha256))?;
                done.orphans += 1;
                continue;
            }
            done.repaired += 1;
        }
        let old = known.remove(&id).flatten();
        let (published, pinned) = match when {
            When::Start => (marks.published.contains(&id), marks.pinned.contains(&id)),
            // The sets may be older than a mark that was set meanwhile.
            When::Running => {
                (store.layout.published_marker(id).exists(), store.layout.pinned_marker(id).exists())
            }
        };
        let last_access_ms = old.map_or(found.modified_ms, |old| old.last_access_ms);
        let record = BlobRecord { sha256, size, last_access_ms, published, pinned };
        if old != Some(record) {
            store.record(id, &record)?;
            done.adopted += 1;
        }
    }
    for (id, record) in known {
        match record {
            Some(record) => drop(store.remove_locked(id, &record)?),
            None => drop(store.index.remove(id)?),
        }
        done.dropped += 1;
    }
    Ok(())
}

fn list_shard(dir: &Path, shard: u8) -> Result<ShardFiles, StoreError> {
    let mut files = ShardFiles::new();
    for name in layout::file_names(dir)? {
        let name = name?;
        let path = dir.join(&name);
        let Some(file) = BlobFile::parse(&name).filter(|file| file.id.0[0] == shard) else {
            tracing::warn!(file = %path.display(), "not a blob file: left alone");
            continue;
        };
        let meta = match fs::metadata(&path) {
            Ok(meta) => meta,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(StoreError::io("cannot stat", &path, e)),
        };
        let found = files.entry((file.id, file.sha256)).or_default();
        if file.outboard {
            found.outboard_bytes = Some(meta.len());
        } else {
            found.data_bytes = Some(meta.len());
            let age = meta.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            found.modified_ms = u64::try_from(age.unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
        }
    }
    Ok(files)
}

/// Makes a missing or cut outboard anew; false when the data is not what its name says.
fn repair(store: &StoreInner, id: BlobId, sha256: Sha256Digest, size: u64) -> Result<bool, StoreError> {
    let data_path = store.layout.data(id, sha256);
    let data = File::open(&data_path).map_err(|e| StoreError::io("cannot open", &data_path, e))?;
    let name = store.partials.reserve(usize::MAX)?;
    let temp = store.layout.partials().join(format!("{name}{OUTBOARD_SUFFIX}"));
    let result = (|| {
        let failed = |e| StoreError::io("cannot write", &temp, e);
        let outboard = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temp)
            .map_err(failed)?;
        let actual = outboard::build(&data, size, &outboard)
            .map_err(|e| StoreError::io("cannot build the hash tree of", &data_path, e))?;
        if actual != id {
            return Ok(false);
        }
        outboard.sync_all().map_err(failed)?;
        let path = store.layout.outboard(id, sha256);
        fs::rename(&temp, &path).map_err(|e| StoreError::io("cannot move into place", &path, e))?;
        layout::sync_dir(&store.layout.shard(id.0[0]))?;
        Ok(true)
    })();
    if !matches!(result, Ok(true)) {
        layout::remove_file(&temp)?;
    }
    store.partials.forget(&name);
    result
}

fn read_markers(dir: &Path) -> Result<HashSet<BlobId>, StoreError> {
    let mut marked = HashSet::new();
    for name in layout::file_names(dir)? {
        let name = name?;
        match name.parse() {
            Ok(id) => drop(marked.insert(id)),
            Err(_) => tracing::warn!(file = name, dir = %dir.display(), "not a marker: left alone"),
        }
    }
    Ok(marked)
}

/// Removes marks of blobs that are not held.
fn remove_stray_markers(store: &StoreInner, marks: &Marks) -> Result<u64, StoreError> {
    let mut removed = 0;
    for id in marks.published.union(&marks.pinned) {
        let _lock = store.lock_shard(id.0[0]);
        if store.index.get(*id)?.is_none() {
            removed += u64::from(layout::remove_file(&store.layout.published_marker(*id))?);
            removed += u64::from(layout::remove_file(&store.layout.pinned_marker(*id))?);
        }
    }
    Ok(removed)
}
