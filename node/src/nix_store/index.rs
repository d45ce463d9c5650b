//! What is known of the paths that may be offered, across restarts: sled 0.34 under one codec.
//!
//! | key | value |
//! |---|---|
//! | `p` store hash | [`Record`] |
//! | `i` database id, big endian | store hash, state byte |
//! | `s` sha256, store hash | empty: which paths have this NAR |
//! | `b` blake3 | sha256 |
//! | `v` | one byte: [`FORMAT_VERSION`] |
//!
//! Nothing here is waited for until it is on disk: what a crash loses is hashed again. Store hashes are 20 bytes, values
//! of records have a fixed length, integers that are no key are little endian. All methods block for as long as a read
//! of the disk takes; memory is sled's page cache and a few numbers.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use p2p_cache_protocol::{BlobId, Claim, Digest, Sha256Digest, StoreHash};
use sled::Batch;

/// Version of keys and values together; an index of another version is made anew.
const FORMAT_VERSION: u8 = 1;
const VERSION_KEY: &[u8] = b"v";
const PATH: u8 = b'p';
const ID: u8 = b'i';
const SHA256: u8 = b's';
const BLAKE3: u8 = b'b';

/// Paths with the same NAR that are looked at for one digest.
const MAX_SAME_NAR: usize = 64;

/// How far a path has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// To be hashed.
    Pending,
    /// Hashed and right, with this root; there is an outboard for it.
    Offered(BlobId),
    /// Never offered; known because what has the same NAR must not be offered either.
    Private,
    /// Its bytes are not those that Nix noted. Looked at again when the root of the path has another change time.
    Bad {
        /// Nanoseconds since the epoch.
        changed_ns: i64,
    },
}

impl State {
    const fn tag(self) -> u8 {
        match self {
            Self::Pending => 0,
            Self::Offered(_) => 1,
            Self::Bad { .. } => 2,
            Self::Private => 3,
        }
    }
}

/// What is known of one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    /// The row of the path in the database of Nix.
    pub(super) id: i64,
    pub(super) nar_hash: Sha256Digest,
    pub(super) nar_size: u64,
    pub(super) state: State,
}

impl Record {
    const BYTES: usize = 2 + 8 + 32 + 8 + 32;

    /// What is claimed of it, once it is offered.
    pub(super) fn claim(&self) -> Option<Claim> {
        match self.state {
            State::Offered(blob) => Some(Claim { sha256: self.nar_hash, blob, size: self.nar_size }),
            State::Pending | State::Private | State::Bad { .. } => None,
        }
    }

    fn encode(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        (out[0], out[1]) = (FORMAT_VERSION, self.state.tag());
        out[2..10].copy_from_slice(&self.id.to_le_bytes());
        out[10..42].copy_from_slice(&self.nar_hash.0);
        out[42..50].copy_from_slice(&self.nar_size.to_le_bytes());
        match self.state {
            State::Pending | State::Private => {}
            State::Offered(blob) => out[50..82].copy_from_slice(&blob.0),
            State::Bad { changed_ns } => out[50..58].copy_from_slice(&changed_ns.to_le_bytes()),
        }
        out
    }

    /// `None` for what this version did not write; the path is then looked at anew.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
        let state = match (bytes[0], bytes[1]) {
            (FORMAT_VERSION, 0) => State::Pending,
            (FORMAT_VERSION, 1) => State::Offered(BlobId(bytes[50..82].try_into().ok()?)),
            (FORMAT_VERSION, 2) => {
                State::Bad { changed_ns: i64::from_le_bytes(bytes[50..58].try_into().ok()?) }
            }
            (FORMAT_VERSION, 3) => State::Private,
            _ => return None,
        };
        Some(Self {
            id: i64::from_le_bytes(bytes[2..10].try_into().ok()?),
            nar_hash: Sha256Digest(bytes[10..42].try_into().ok()?),
            nar_size: u64::from_le_bytes(bytes[42..50].try_into().ok()?),
            state,
        })
    }
}

/// What a removal leaves to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Removed {
    pub(super) record: Record,
    /// No other path has the same NAR: its outboard belongs to nothing.
    pub(super) last_of_nar: bool,
}

/// An entry by the id of its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) id: i64,
    pub(super) hash: StoreHash,
    /// [`State::Bad`].
    pub(super) is_bad: bool,
    /// [`State::Private`].
    pub(super) is_private: bool,
}

/// How many paths are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Hashed, and offered as far as the owner shares.
    pub offered: u64,
    /// NAR bytes of those.
    pub offered_bytes: u64,
    /// Waiting to be hashed.
    pub pending: u64,
    /// Never offered, since their bytes are wrong.
    pub bad: u64,
}

impl Counts {
    fn count(&mut self, record: &Record, change: impl Fn(u64, u64) -> u64) {
        match record.state {
            State::Pending => self.pending = change(self.pending, 1),
            State::Bad { .. } => self.bad = change(self.bad, 1),
            State::Private => {}
            State::Offered(_) => {
                self.offered = change(self.offered, 1);
                self.offered_bytes = change(self.offered_bytes, record.nar_size);
            }
        }
    }
}

/// The open index.
#[derive(Debug)]
pub(super) struct Index {
    db: sled::Db,
    /// Held while a record changes, since that concerns several keys.
    writing: Mutex<()>,
    /// `None` before they were counted.
    counts: Mutex<Option<Counts>>,
}

impl Index {
    /// Opens or creates the index. Takes longer for more paths, but counts none of them.
    pub(super) fn open(path: &Path, cache_bytes: u64) -> sled::Result<Self> {
        let db = sled::Config::new().path(path).cache_capacity(cache_bytes).open()?;
        match db.get(VERSION_KEY)? {
            Some(version) if version.as_ref() == [FORMAT_VERSION] => {}
            Some(_) => return Err(sled::Error::Unsupported("written by another version".to_owned())),
            None => drop(db.insert(VERSION_KEY, &[FORMAT_VERSION])?),
        }
        Ok(Self { db, writing: Mutex::default(), counts: Mutex::default() })
    }

    /// How many paths are in which state; nothing before [`Self::count`] has counted. Does not block.
    pub(super) fn counts(&self) -> Counts {
        lock(&self.counts).unwrap_or_default()
    }

    /// Counts all paths, unless that was done: a second for a million of them.
    pub(super) fn count(&self) -> sled::Result<()> {
        let _writing = lock(&self.writing);
        if lock(&self.counts).is_some() {
            return Ok(());
        }
        let mut counts = Counts::default();
        for entry in self.db.scan_prefix([PATH]) {
            if let Some(record) = Record::decode(&entry?.1) {
                counts.count(&record, u64::saturating_add);
            }
        }
        *lock(&self.counts) = Some(counts);
        Ok(())
    }

    fn recount(&self, gone: Option<&Record>, come: Option<&Record>) {
        if let Some(counts) = &mut *lock(&self.counts) {
            gone.inspect(|record| counts.count(record, u64::saturating_sub));
            come.inspect(|record| counts.count(record, u64::saturating_add));
        }
    }

    pub(super) fn get(&self, hash: StoreHash) -> sled::Result<Option<Record>> {
        Ok(self.db.get(path_key(hash))?.and_then(|value| Record::decode(&value)))
    }

    /// The paths whose NAR `digest` names, those that are offered first; at most [`MAX_SAME_NAR`] are looked at.
    pub(super) fn find(&self, digest: Digest) -> sled::Result<Vec<(StoreHash, Record)>> {
        let nar = match digest {
            Digest::Sha256(nar) => Some(nar),
            Digest::Blake3(blob) => self.nar_of(blob)?,
        };
        let Some(nar) = nar else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for key in self.db.scan_prefix(nar_prefix(nar)).keys().take(MAX_SAME_NAR) {
            let Some(hash) = key?.get(33..).and_then(store_hash) else { continue };
            found.extend(self.get(hash)?.map(|record| (hash, record)));
        }
        found.sort_by_key(|(_, record)| record.claim().is_none());
        Ok(found)
    }

    /// Notes a path that was not known, as [`State::Pending`] or [`State::Private`]. False when it is known under this id already; what was known under another
    /// one must have been removed before.
    pub(super) fn note(
        &self,
        hash: StoreHash,
        id: i64,
        nar_hash: Sha256Digest,
        nar_size: u64,
        state: State,
    ) -> sled::Result<bool> {
        let _writing = lock(&self.writing);
        if self.get(hash)?.is_some() {
            return Ok(false);
        }
        let record = Record { id, nar_hash, nar_size, state };
        let mut batch = Batch::default();
        batch.insert(nar_key(nar_hash, hash), &[]);
        self.write(&mut batch, hash, &record);
        self.db.apply_batch(batch)?;
        self.recount(None, Some(&record));
        Ok(true)
    }

    /// Notes how far a path has come; false when it is not known under this id any more.
    pub(super) fn settle(&self, hash: StoreHash, id: i64, state: State) -> sled::Result<bool> {
        let _writing = lock(&self.writing);
        let Some(old) = self.get(hash)?.filter(|record| record.id == id) else { return Ok(false) };
        let record = Record { state, ..old };
        let mut batch = Batch::default();
        self.write(&mut batch, hash, &record);
        if let State::Offered(blob) = state {
            batch.insert(&blob_key(blob)[..], &record.nar_hash.0);
        }
        self.db.apply_batch(batch)?;
        self.recount(Some(&old), Some(&record));
        Ok(true)
    }

    /// Forgets a path. `before` is called with what is removed while that is still known, so that nothing else can come
    /// to rely on it in between.
    pub(super) fn remove(
        &self,
        hash: StoreHash,
        id: i64,
        before: impl FnOnce(&Removed),
    ) -> sled::Result<Option<Removed>> {
        let _writing = lock(&self.writing);
        let mut batch = Batch::default();
        batch.remove(&id_key(id)[..]);
        let Some(record) = self.get(hash)?.filter(|record| record.id == id) else {
            self.db.apply_batch(batch)?;
            return Ok(None);
        };
        batch.remove(path_key(hash));
        batch.remove(nar_key(record.nar_hash, hash));
        let last_of_nar = self.db.scan_prefix(nar_prefix(record.nar_hash)).take(2).count() < 2;
        if let (true, State::Offered(blob)) = (last_of_nar, record.state) {
            batch.remove(&blob_key(blob)[..]);
        }
        let removed = Removed { record, last_of_nar };
        before(&removed);
        self.db.apply_batch(batch)?;
        self.recount(Some(&record), None);
        Ok(Some(removed))
    }

    /// The entries with ids from `first` to `last`, ascending.
    pub(super) fn between(&self, first: i64, last: i64) -> sled::Result<Vec<Listed>> {
        let entries = self.db.range(id_key(first)..=id_key(last));
        entries.filter_map(|entry| entry.map(|(key, value)| listed(&key, &value)).transpose()).collect()
    }

    /// The highest id that is known; 0 when there is none.
    pub(super) fn last_id(&self) -> sled::Result<i64> {
        let last = self.db.range(id_key(0)..=id_key(i64::MAX)).next_back().transpose()?;
        Ok(last.and_then(|(key, value)| listed(&key, &value)).map_or(0, |entry| entry.id))
    }

    /// The next path to be hashed below an id: the newest ones come first, as they are most likely what others want.
    pub(super) fn pending_below(&self, id: i64) -> sled::Result<Option<Listed>> {
        for entry in self.db.range(id_key(0)..id_key(id)).rev() {
            let (key, value) = entry?;
            if value.last() == Some(&State::Pending.tag()) {
                return Ok(listed(&key, &value));
            }
        }
        Ok(None)
    }

    /// Calls `each` with what is claimed of the offered paths, until it breaks off.
    pub(super) fn claims(&self, mut each: impl FnMut(Claim) -> ControlFlow<()>) -> sled::Result<()> {
        for entry in self.db.scan_prefix([PATH]) {
            if let Some(claim) = Record::decode(&entry?.1).and_then(|record| record.claim())
                && each(claim).is_break()
            {
                break;
            }
        }
        Ok(())
    }

    /// Waits until all of it is on disk.
    pub(super) fn flush(&self) -> sled::Result<()> {
        self.db.flush().map(|_| ())
    }

    fn nar_of(&self, blob: BlobId) -> sled::Result<Option<Sha256Digest>> {
        let value = self.db.get(blob_key(blob))?;
        Ok(value.and_then(|value| value.as_ref().try_into().ok()).map(Sha256Digest))
    }

    fn write(&self, batch: &mut Batch, hash: StoreHash, record: &Record) {
        let mut value = [0; 21];
        value[..20].copy_from_slice(hash.as_bytes());
        value[20] = record.state.tag();
        batch.insert(&id_key(record.id)[..], &value[..]);
        batch.insert(path_key(hash), &record.encode()[..]);
    }
}

/// What these mutexes guard is valid at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn listed(key: &[u8], value: &[u8]) -> Option<Listed> {
    let id = i64::from_be_bytes(key.get(1..)?.try_into().ok()?);
    let hash = store_hash(value.get(..20)?)?;
    let is = |state: State| value.get(20) == Some(&state.tag());
    Some(Listed { id, hash, is_bad: is(State::Bad { changed_ns: 0 }), is_private: is(State::Private) })
}

fn store_hash(bytes: &[u8]) -> Option<StoreHash> {
    <[u8; 20]>::try_from(bytes).ok().map(StoreHash::from)
}

fn path_key(hash: StoreHash) -> Vec<u8> {
    [&[PATH][..], hash.as_bytes()].concat()
}

/// Ids are never negative in a database of Nix, so that their bytes are in their order.
fn id_key(id: i64) -> [u8; 9] {
    let mut key = [ID; 9];
    key[1..].copy_from_slice(&id.max(0).to_be_bytes());
    key
}

fn blob_key(blob: BlobId) -> [u8; 33] {
    let mut key = [BLAKE3; 33];
    key[1..].copy_from_slice(&blob.0);
    key
}

fn nar_prefix(nar: Sha256Digest) -> Vec<u8> {
    [&[SHA256][..], &nar.0].concat()
}

fn nar_key(nar: Sha256Digest, hash: StoreHash) -> Vec<u8> {
    [&[SHA256][..], &nar.0, hash.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAR: Sha256Digest = Sha256Digest([1; 32]);
    const BLOB: BlobId = BlobId([2; 32]);

    fn open() -> (tempfile::TempDir, Index) {
        let directory = tempfile::tempdir().unwrap();
        let index = Index::open(directory.path(), 1 << 20).unwrap();
        index.count().unwrap();
        (directory, index)
    }

    fn hash(number: u8) -> StoreHash {
        StoreHash::from([number; 20])
    }

    proptest! {
        #[test]
        fn records_round_trip(id in 0..=i64::MAX, nar: [u8; 32], nar_size: u64, root: [u8; 32], changed_ns: i64) {
            for state in [State::Pending, State::Private, State::Offered(BlobId(root)), State::Bad { changed_ns }] {
                let record = Record { id, nar_hash: Sha256Digest(nar), nar_size, state };
                prop_assert_eq!(Record::decode(&record.encode()), Some(record));
            }
        }

        #[test]
        fn foreign_bytes_never_panic_the_codec(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = (Record::decode(&bytes), listed(&bytes, &bytes));
        }
    }

    #[test]
    fn a_path_is_found_under_its_names_from_when_it_is_offered_until_it_is_removed() {
        let (_directory, index) = open();
        assert!(index.note(hash(1), 5, NAR, 100, State::Pending).unwrap());
        assert!(!index.note(hash(1), 5, NAR, 100, State::Pending).unwrap(), "known already");
        assert_eq!(index.find(NAR.into()).unwrap()[0].1.claim(), None);
        assert_eq!(index.find(BLOB.into()).unwrap(), []);

        assert!(index.settle(hash(1), 5, State::Offered(BLOB)).unwrap());
        let claim = Some(Claim { sha256: NAR, blob: BLOB, size: 100 });
        for digest in [NAR.into(), BLOB.into()] {
            assert_eq!(index.find(digest).unwrap()[0].1.claim(), claim);
        }
        assert!(!index.settle(hash(1), 6, State::Pending).unwrap(), "of another row");
        assert_eq!(index.counts(), Counts { offered: 1, offered_bytes: 100, ..Counts::default() });

        assert_eq!(index.remove(hash(1), 6, |_| ()).unwrap(), None);
        let removed = index.remove(hash(1), 5, |_| ()).unwrap().unwrap();
        assert_eq!((removed.record.claim(), removed.last_of_nar), (claim, true));
        assert_eq!(index.find(NAR.into()).unwrap(), []);
        assert_eq!(index.find(BLOB.into()).unwrap(), []);
        assert_eq!(index.between(0, i64::MAX).unwrap(), []);
        assert_eq!(index.counts(), Counts::default());
        assert!(!index.settle(hash(1), 5, State::Pending).unwrap(), "a removed path does not come back");
    }

    #[test]
    fn paths_with_the_same_nar_share_its_names() {
        let (_directory, index) = open();
        for number in 1..=3 {
            index.note(hash(number), number.into(), NAR, 100, State::Pending).unwrap();
        }
        index.settle(hash(2), 2, State::Offered(BLOB)).unwrap();
        let found = index.find(NAR.into()).unwrap();
        assert_eq!((found.len(), found[0].0), (3, hash(2)), "the offered one first");
        index.settle(hash(3), 3, State::Offered(BLOB)).unwrap();
        assert!(!index.remove(hash(2), 2, |_| ()).unwrap().unwrap().last_of_nar);
        assert_eq!(index.find(BLOB.into()).unwrap()[0].0, hash(3));
    }

    #[test]
    fn the_newest_pending_path_is_next() {
        let (_directory, index) = open();
        for number in 1..=5u8 {
            let (id, nar) = (i64::from(number) * 100, Sha256Digest([number; 32]));
            index.note(hash(number), id, nar, 1, State::Pending).unwrap();
        }
        index.note(hash(6), 600, NAR, 1, State::Private).unwrap();
        index.settle(hash(5), 500, State::Bad { changed_ns: 7 }).unwrap();
        index.settle(hash(3), 300, State::Offered(BLOB)).unwrap();
        let mut order = Vec::new();
        let mut below = i64::MAX;
        while let Some(next) = index.pending_below(below).unwrap() {
            order.push(next.id);
            below = next.id;
        }
        assert_eq!(order, [400, 200, 100]);
        assert_eq!(index.last_id().unwrap(), 600);
        let listed = index.between(300, 500).unwrap();
        assert_eq!(listed.iter().map(|entry| entry.id).collect::<Vec<_>>(), [300, 400, 500]);
        assert!(listed[2].is_bad && !listed[0].is_bad);
    }

    #[test]
    fn it_is_all_there_after_a_restart() {
        let (directory, index) = open();
        index.note(hash(1), 1, NAR, 100, State::Pending).unwrap();
        index.settle(hash(1), 1, State::Offered(BLOB)).unwrap();
        index.note(hash(2), 2, NAR, 100, State::Pending).unwrap();
        let (counts, record) = (index.counts(), index.get(hash(1)).unwrap());
        index.flush().unwrap();
        drop(index);
        let index = Index::open(directory.path(), 1 << 20).unwrap();
        assert_eq!(index.counts(), Counts::default(), "not counted yet");
        index.count().unwrap();
        assert_eq!((index.counts(), index.get(hash(1)).unwrap()), (counts, record));
        let mut claims = Vec::new();
        index
            .claims(|claim| {
                claims.push(claim);
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(claims.len(), 1);
    }

    #[test]
    fn an_index_of_another_version_is_refused() {
        let (directory, index) = open();
        index.db.insert(VERSION_KEY, &[FORMAT_VERSION + 1]).unwrap();
        drop(index);
        assert!(Index::open(directory.path(), 1 << 20).is_err());
    }
}
