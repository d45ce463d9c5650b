//! The index: sled 0.34 under one codec.
//!
//! sled acknowledges an insert before it is on disk, so nothing counts before [`Index::flush`] has returned. All of
//! it can be rebuilt from file names; `reconcile` does so at every start for whatever is missing.
//!
//! | key | value |
//! |---|---|
//! | `b` blake3 | [`BlobRecord`] |
//! | `s` sha256 | blake3 |
//! | `n` store hash (text) | [`NarinfoRecord`] |
//! | `r` sha256, store hash (text) | empty: which narinfos name this NAR |
//! | `v` | one byte: [`FORMAT_VERSION`] |
//!
//! Values begin with a version byte and have a fixed length; integers are little endian.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use p2p_cache_protocol::{BlobId, Digest, Sha256Digest, StoreHash, tree};
use sled::IVec;

use super::error::StoreError;

/// Version of keys and values together; an index of another version is rebuilt.
const FORMAT_VERSION: u8 = 1;
const VERSION_KEY: &[u8] = b"v";
const BLOB: u8 = b'b';
const SHA256: u8 = b's';
const NARINFO: u8 = b'n';
const NARINFO_OF: u8 = b'r';

const FLAG_PUBLISHED: u8 = 1;
const FLAG_PINNED: u8 = 2;

/// What the index knows about one blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlobRecord {
    pub(super) sha256: Sha256Digest,
    pub(super) size: u64,
    /// Milliseconds since the epoch.
    pub(super) last_access_ms: u64,
    pub(super) published: bool,
    pub(super) pinned: bool,
}

impl BlobRecord {
    const BYTES: usize = 1 + 32 + 8 + 8 + 1;

    /// Bytes on disk: data and outboard.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.size.saturating_add(tree::outboard_bytes(self.size))
    }

    fn encode(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[0] = FORMAT_VERSION;
        out[1..33].copy_from_slice(&self.sha256.0);
        out[33..41].copy_from_slice(&self.size.to_le_bytes());
        out[41..49].copy_from_slice(&self.last_access_ms.to_le_bytes());
        out[49] = if self.published { FLAG_PUBLISHED } else { 0 } | if self.pinned { FLAG_PINNED } else { 0 };
        out
    }

    /// `None` for another version, a wrong length or unknown flags: the blob is then re-read from its file name.
    fn decode(bytes: &[u8]) -> Option<BlobRecord> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
        let flags = bytes[49];
        if bytes[0] != FORMAT_VERSION || flags & !(FLAG_PUBLISHED | FLAG_PINNED) != 0 {
            return None;
        }
        Some(BlobRecord {
            sha256: Sha256Digest(bytes[1..33].try_into().ok()?),
            size: u64::from_le_bytes(bytes[33..41].try_into().ok()?),
            last_access_ms: u64::from_le_bytes(bytes[41..49].try_into().ok()?),
            published: flags & FLAG_PUBLISHED != 0,
            pinned: flags & FLAG_PINNED != 0,
        })
    }
}

/// What the index knows about one narinfo file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NarinfoRecord {
    /// NarHash of the narinfo.
    pub(super) nar: Sha256Digest,
    /// When it was written, milliseconds since the epoch.
    pub(super) stored_ms: u64,
}

impl NarinfoRecord {
    const BYTES: usize = 1 + 32 + 8;

    fn encode(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[0] = FORMAT_VERSION;
        out[1..33].copy_from_slice(&self.nar.0);
        out[33..].copy_from_slice(&self.stored_ms.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<NarinfoRecord> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
        if bytes[0] != FORMAT_VERSION {
            return None;
        }
        Some(NarinfoRecord {
            nar: Sha256Digest(bytes[1..33].try_into().ok()?),
            stored_ms: u64::from_le_bytes(bytes[33..].try_into().ok()?),
        })
    }
}

/// The open index. All methods but [`Index::flush`] block for as long as a disk read takes.
#[derive(Debug)]
pub(super) struct Index {
    db: sled::Db,
    /// Flush tickets handed out, and (inside the lock) the last ticket that a finished flush covers.
    tickets: AtomicU64,
    flushed: tokio::sync::Mutex<u64>,
}

impl Index {
    /// Opens or creates the index.
    ///
    /// # Errors
    /// [`StoreError::Index`] when sled cannot read it or it has another version; the caller moves it aside.
    pub(super) fn open(path: &Path, cache_bytes: u64) -> Result<Index, StoreError> {
        let db = sled::Config::new().path(path).cache_capacity(cache_bytes).open().map_err(index("open"))?;
        match db.get(VERSION_KEY).map_err(index("read the version"))? {
            Some(version) if version.as_ref() == [FORMAT_VERSION] => {}
            Some(_) => {
                let text = "written by another version of p2p-cache".to_string();
                return Err(StoreError::Index {
                    action: "read the version",
                    source: sled::Error::Unsupported(text),
                });
            }
            None => {
                db.insert(VERSION_KEY, &[FORMAT_VERSION]).map_err(index("write the version"))?;
            }
        }
        Ok(Index { db, tickets: AtomicU64::new(0), flushed: tokio::sync::Mutex::new(0) })
    }

    /// Looks a blob up by its id.
    pub(super) fn get(&self, id: BlobId) -> Result<Option<BlobRecord>, StoreError> {
        let value = self.db.get(blob_key(id)).map_err(index("look up a blob"))?;
        Ok(value.and_then(|value| BlobRecord::decode(&value)))
    }

    /// Looks a blob up by either name.
    pub(super) fn find(&self, digest: Digest) -> Result<Option<(BlobId, BlobRecord)>, StoreError> {
        let id = match digest {
            Digest::Blake3(id) => id,
            Digest::Sha256(sha256) => {
                let value = self.db.get(sha256_key(sha256)).map_err(index("look up a blob"))?;
                match value.as_deref().and_then(|value| value.try_into().ok()) {
                    Some(id) => BlobId(id),
                    None => return Ok(None),
                }
            }
        };
        Ok(self.get(id)?.map(|record| (id, record)))
    }

    /// Writes a blob's record under both names at once; returns the one that it replaces.
    pub(super) fn insert(&self, id: BlobId, record: &BlobRecord) -> Result<Option<BlobRecord>, StoreError> {
        let old = self.get(id)?;
        let mut batch = sled::Batch::default();
        if let Some(old) = old.filter(|old| old.sha256 != record.sha256) {
            batch.remove(&sha256_key(old.sha256)[..]);
        }
        batch.insert(&blob_key(id)[..], &record.encode()[..]);
        batch.insert(&sha256_key(record.sha256)[..], &id.0);
        self.db.apply_batch(batch).map_err(index("insert a blob"))?;
        Ok(old)
    }

    /// Removes a blob; returns its record.
    pub(super) fn remove(&self, id: BlobId) -> Result<Option<BlobRecord>, StoreError> {
        let Some(record) = self.get(id)? else {
            // A value that cannot be decoded must go as well.
            self.db.remove(blob_key(id)).map_err(index("remove a blob"))?;
            return Ok(None);
        };
        let mut batch = sled::Batch::default();
        batch.remove(&blob_key(id)[..]);
        batch.remove(&sha256_key(record.sha256)[..]);
        self.db.apply_batch(batch).map_err(index("remove a blob"))?;
        Ok(Some(record))
    }

    /// Changes a record in place; does nothing (and returns `None`) when the blob is gone.
    pub(super) fn update(
        &self,
        id: BlobId,
        change: impl Fn(&mut BlobRecord),
    ) -> Result<Option<BlobRecord>, StoreError> {
        let changed = self
            .db
            .update_and_fetch(blob_key(id), |value| {
                let mut record = BlobRecord::decode(value?)?;
                change(&mut record);
                Some(IVec::from(&record.encode()[..]))
            })
            .map_err(index("update a blob"))?;
        Ok(changed.and_then(|value| BlobRecord::decode(&value)))
    }

    /// All blobs whose id begins with `shard`, in order. A record that cannot be decoded comes as `None`.
    pub(super) fn shard(
        &self,
        shard: u8,
    ) -> impl Iterator<Item = Result<(BlobId, Option<BlobRecord>), StoreError>> + use<> {
        self.db.scan_prefix([BLOB, shard]).filter_map(|entry| match entry {
            Ok((key, value)) => {
                let id = key.get(1..)?.try_into().ok()?;
                Some(Ok((BlobId(id), BlobRecord::decode(&value))))
            }
            Err(e) => Some(Err(index("list blobs")(e))),
        })
    }

    /// All blobs in order of their ids.
    pub(super) fn blobs(&self) -> impl Iterator<Item = Result<(BlobId, BlobRecord), StoreError>> + '_ {
        (0..=u8::MAX).flat_map(|shard| self.shard(shard)).filter_map(|entry| match entry {
            Ok((id, record)) => record.map(|record| Ok((id, record))),
            Err(e) => Some(Err(e)),
        })
    }

    /// Looks a narinfo's record up.
    pub(super) fn narinfo(&self, hash: StoreHash) -> Result<Option<NarinfoRecord>, StoreError> {
        let value = self.db.get(narinfo_key(hash)).map_err(index("look up a narinfo"))?;
        Ok(value.and_then(|value| NarinfoRecord::decode(&value)))
    }

    /// Writes a narinfo's record; returns the one that it replaces. Callers hold the narinfo lock.
    pub(super) fn insert_narinfo(
        &self,
        hash: StoreHash,
        record: &NarinfoRecord,
    ) -> Result<Option<NarinfoRecord>, StoreError> {
        let old = self.narinfo(hash)?;
        let mut batch = sled::Batch::default();
        if let Some(old) = old.filter(|old| old.nar != record.nar) {
            batch.remove(narinfo_of_key(old.nar, hash));
        }
        batch.insert(narinfo_key(hash), &record.encode()[..]);
        batch.insert(narinfo_of_key(record.nar, hash), &[]);
        self.db.apply_batch(batch).map_err(index("insert a narinfo"))?;
        Ok(old)
    }

    /// Removes a narinfo's record. Callers hold the narinfo lock.
    pub(super) fn remove_narinfo(&self, hash: StoreHash) -> Result<Option<NarinfoRecord>, StoreError> {
        let old = self.narinfo(hash)?;
        let mut batch = sled::Batch::default();
        if let Some(old) = old {
            batch.remove(narinfo_of_key(old.nar, hash));
        }
        batch.remove(narinfo_key(hash));
        self.db.apply_batch(batch).map_err(index("remove a narinfo"))?;
        Ok(old)
    }

    /// All narinfos in order of their store hashes.
    pub(super) fn narinfos(&self) -> impl Iterator<Item = Result<(StoreHash, NarinfoRecord), StoreError>> {
        self.db.scan_prefix([NARINFO]).filter_map(|entry| match entry {
            Ok((key, value)) => {
                let hash = store_hash(key.get(1..)?)?;
                Some(Ok((hash, NarinfoRecord::decode(&value)?)))
            }
            Err(e) => Some(Err(index("list narinfos")(e))),
        })
    }

    /// The store hashes of the narinfos that name this NAR.
    pub(super) fn narinfos_of(
        &self,
        nar: Sha256Digest,
    ) -> impl Iterator<Item = Result<StoreHash, StoreError>> + use<> {
        let prefix = [&[NARINFO_OF][..], &nar.0].concat();
        self.db.scan_prefix(prefix).filter_map(|entry| match entry {
            Ok((key, _)) => store_hash(key.get(33..)?).map(Ok),
            Err(e) => Some(Err(index("list narinfos")(e))),
        })
    }

    /// Returns when everything that was inserted before the call is on disk. Callers that wait at the same time
    /// share one flush.
    pub(super) async fn flush(&self) -> Result<(), StoreError> {
        let ticket = self.tickets.fetch_add(1, Ordering::SeqCst) + 1;
        let mut flushed = self.flushed.lock().await;
        if *flushed >= ticket {
            return Ok(());
        }
        let covered = self.tickets.load(Ordering::SeqCst);
        self.db.flush_async().await.map_err(index("flush"))?;
        *flushed = covered;
        Ok(())
    }

    /// The same, blocking; for the start.
    pub(super) fn flush_blocking(&self) -> Result<(), StoreError> {
        self.db.flush().map(|_| ()).map_err(index("flush"))
    }
}

fn index(action: &'static str) -> impl Fn(sled::Error) -> StoreError {
    move |source| StoreError::Index { action, source }
}

fn key32(kind: u8, rest: &[u8; 32]) -> [u8; 33] {
    let mut key = [kind; 33];
    key[1..].copy_from_slice(rest);
    key
}

fn blob_key(id: BlobId) -> [u8; 33] {
    key32(BLOB, &id.0)
}

fn sha256_key(sha256: Sha256Digest) -> [u8; 33] {
    key32(SHA256, &sha256.0)
}

fn narinfo_key(hash: StoreHash) -> Vec<u8> {
    [&[NARINFO][..], hash.to_string().as_bytes()].concat()
}

fn narinfo_of_key(nar: Sha256Digest, hash: StoreHash) -> Vec<u8> {
    [&[NARINFO_OF][..], &nar.0, hash.to_string().as_bytes()].concat()
}

fn store_hash(text: &[u8]) -> Option<StoreHash> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn record(n: u8) -> BlobRecord {
        BlobRecord {
            sha256: Sha256Digest([n; 32]),
            size: u64::from(n) * 1000,
            last_access_ms: 7,
            published: false,
            pinned: n.is_multiple_of(2),
        }
    }

    proptest! {
        #[test]
        fn blob_records_round_trip(sha in any::<[u8; 32]>(), size: u64, last_access_ms: u64, published: bool, pinned: bool) {
            let record = BlobRecord { sha256: Sha256Digest(sha), size, last_access_ms, published, pinned };
            prop_assert_eq!(BlobRecord::decode(&record.encode()), Some(record));
        }

        #[test]
        fn foreign_bytes_never_panic_the_codec(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some(record) = BlobRecord::decode(&bytes) {
                prop_assert_eq!(&record.encode()[..], &bytes[..]);
            }
            if let Some(record) = NarinfoRecord::decode(&bytes) {
                prop_assert_eq!(&record.encode()[..], &bytes[..]);
            }
        }
    }

    #[test]
    fn a_blob_is_found_under_both_names_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path(), 1 << 20).unwrap();
        let id = BlobId([9; 32]);
        assert_eq!(index.insert(id, &record(4)).unwrap(), None);
        for digest in [Digest::Blake3(id), Digest::Sha256(record(4).sha256)] {
            assert_eq!(index.find(digest).unwrap(), Some((id, record(4))));
        }
        assert_eq!(index.remove(id).unwrap(), Some(record(4)));
        assert_eq!(index.find(Digest::Sha256(record(4).sha256)).unwrap(), None);
        assert_eq!(index.update(id, |r| r.pinned = true).unwrap(), None);
        assert_eq!(index.get(id).unwrap(), None, "an update must not bring a removed blob back");
    }

    #[test]
    fn an_index_of_another_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(Index::open(dir.path(), 1 << 20).unwrap());
        // sled gives its lock back from a thread of its own, a moment after the last handle is gone.
        let db = (0..500).find_map(|_| {
            sled::open(dir.path()).inspect_err(|_| std::thread::sleep(Duration::from_millis(10))).ok()
        });
        let db = db.expect("the lock is free");
        db.insert(VERSION_KEY, &[FORMAT_VERSION + 1]).unwrap();
        drop(db);
        assert!(matches!(Index::open(dir.path(), 1 << 20), Err(StoreError::Index { .. })));
    }

    #[tokio::test]
    async fn waiting_committers_share_flushes() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(dir.path(), 1 << 20).unwrap();
        let flushes = (0..64u8).map(|n| {
            let index = &index;
            async move {
                index.insert(BlobId([n; 32]), &record(n)).unwrap();
                index.flush().await.unwrap();
            }
        });
        futures::future::join_all(flushes).await;
        assert_eq!(*index.flushed.lock().await, 64);
        assert_eq!(index.blobs().count(), 64);
    }
}
