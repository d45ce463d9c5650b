//! What the parts of a [`NixStore`](super::NixStore) share, and the few steps that more than one of them takes.

use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use p2p_cache_protocol::{BlobId, Claim, StoreHash};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{Notify, watch};

use super::copies::SecondCopies;
use super::database::{Database, DatabaseError, StoredPath};
use super::hasher::{Asked, Queue, changed_ns};
use super::index::{Index, State};
use super::outboards::Outboards;
use super::readers::Readers;

/// What is to become of a valid path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Hashed and offered.
    Offer,
    /// Not offered, but named as one of the paths that have its NAR, since that NAR must not be offered either.
    Remember,
    /// Left alone.
    Ignore,
}

/// Judges a path. It is asked again about each path that it does not offer whenever the database has changed, and about
/// each that it does before it is given away.
pub type Judge = Arc<dyn Fn(&StoredPath) -> Verdict + Send + Sync>;
/// Told of a path. Called on threads that may block, and should not do so for long.
pub type OnPath = Box<dyn Fn(&StoredPath) + Send + Sync>;
/// Told of a path and what is claimed of it, or of a claim alone; likewise.
pub type OnOffer = Box<dyn Fn(&StoredPath, &Claim) + Send + Sync>;
/// See [`OnOffer`].
pub type OnClaim = Box<dyn Fn(&Claim) + Send + Sync>;

/// Is shown the paths of a store; a break ends it.
pub trait PathVisitor: Send + 'static {
    /// A path that is offered or will be, with its blob once it is hashed.
    fn path(&mut self, path: &StoredPath, blob: Option<BlobId>) -> ControlFlow<()>;
}

/// Settings of a [`NixStore`](super::NixStore).
pub struct NixStoreOptions {
    /// Which paths may be offered.
    pub judge: Judge,
    /// Where second copies of store paths may lie.
    pub copies: Option<Arc<dyn SecondCopies>>,
    /// A path will be hashed and offered. Those that are known are shown by [`NixStore::visit`](super::NixStore::visit).
    pub on_noted: OnPath,
    /// A path was hashed and is offered from now on. Those of an earlier run are listed by
    /// [`NixStore::offers`](super::NixStore::offers).
    pub on_offered: OnOffer,
    /// No path has this NAR any more.
    pub on_withdrawn: OnClaim,
    /// Limit of the hashing in the background; `None` is unlimited. Paths that are asked for do not count.
    pub hash_rate_bytes_per_second: Option<u64>,
    /// Where the kernel lists power supplies: `/sys/class/power_supply`.
    pub power_supplies: PathBuf,
    /// sled's page cache in bytes.
    pub index_cache_bytes: u64,
    /// Memory for the layouts of trees that were read lately, in bytes.
    pub layout_cache_bytes: usize,
}

impl NixStoreOptions {
    /// Everything but what may be offered, which is for the caller to say.
    #[must_use]
    pub fn new(judge: Judge) -> Self {
        Self {
            judge,
            copies: None,
            on_noted: Box::new(|_| ()),
            on_offered: Box::new(|_, _| ()),
            on_withdrawn: Box::new(|_| ()),
            hash_rate_bytes_per_second: None,
            power_supplies: PathBuf::from(super::hasher::power::POWER_SUPPLIES),
            index_cache_bytes: 8 * 1024 * 1024,
            layout_cache_bytes: 32 * 1024 * 1024,
        }
    }
}

/// Why something could not be done for now.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error("the index of store paths: {0}")]
    Index(#[from] sled::Error),
    #[error("the hash trees of store paths: {0}")]
    Files(#[from] io::Error),
}

pub(super) struct Shared {
    pub(super) root: PathBuf,
    pub(super) options: NixStoreOptions,
    pub(super) index: Index,
    pub(super) outboards: Outboards,
    pub(super) readers: Readers,
    pub(super) queue: Queue,
    /// Bytes of NARs that went through the hashes.
    pub(super) hashed_bytes: Counter,
    /// Counts the paths that came to an end, for those who wait for one.
    pub(super) settled: watch::Sender<u64>,
    /// Counts the times that the database was opened.
    pub(super) opened: watch::Sender<u64>,
    /// Changes whenever the database has changed.
    generation: AtomicU64,
    /// The limit that holds now; `u64::MAX` is none.
    hash_rate: AtomicU64,
    /// The judge has changed its mind: all paths are to be looked at again.
    judged_anew: AtomicBool,
    /// Why the database cannot be used.
    complaint: Mutex<Option<String>>,
    /// Wakes the follower.
    pub(super) wake: Notify,
    database: RwLock<Option<Arc<Database>>>,
}

impl Shared {
    pub(super) fn new(root: PathBuf, options: NixStoreOptions, index: Index, outboards: Outboards) -> Self {
        let readers = Readers::new(&root, options.layout_cache_bytes);
        let hash_rate = AtomicU64::new(options.hash_rate_bytes_per_second.unwrap_or(u64::MAX));
        Self {
            root,
            options,
            hash_rate,
            judged_anew: AtomicBool::new(false),
            complaint: Mutex::default(),
            wake: Notify::new(),
            index,
            outboards,
            readers,
            queue: Queue::default(),
            hashed_bytes: Counter::default(),
            settled: watch::Sender::new(0),
            opened: watch::Sender::new(0),
            generation: AtomicU64::new(0),
            database: RwLock::new(None),
        }
    }

    pub(super) fn hash_rate(&self) -> Option<u64> {
        Some(self.hash_rate.load(Ordering::Relaxed)).filter(|rate| *rate != u64::MAX)
    }

    pub(super) fn set_hash_rate(&self, bytes_per_second: Option<u64>) {
        self.hash_rate.store(bytes_per_second.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn complaint(&self) -> Option<String> {
        self.complaint.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_complaint(&self, complaint: Option<String>) {
        *self.complaint.lock().unwrap_or_else(PoisonError::into_inner) = complaint;
    }

    pub(super) fn judge_anew(&self) {
        self.judged_anew.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// Whether all paths are to be looked at again; said once.
    pub(super) fn is_judged_anew(&self) -> bool {
        self.judged_anew.swap(false, Ordering::Relaxed)
    }

    /// The database; `None` while it cannot be used.
    pub(super) fn database(&self) -> Option<Arc<Database>> {
        self.database.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_database(&self, database: Option<Arc<Database>>) {
        let is_open = database.is_some();
        *self.database.write().unwrap_or_else(PoisonError::into_inner) = database;
        self.changed();
        if is_open {
            self.opened.send_modify(|count| *count += 1);
        }
    }

    /// What was read of the database before may not be so any more.
    pub(super) fn changed(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// What the database says of a path, if it still stands in the row `id`.
    pub(super) fn valid_path(&self, hash: StoreHash, id: i64) -> Result<Option<StoredPath>, DatabaseError> {
        Ok(self.path_by_hash(hash)?.filter(|path| path.id == id))
    }

    /// Whether a path may be offered to anybody at all.
    pub(super) fn may_offer(&self, path: &StoredPath) -> bool {
        (self.options.judge)(path) == Verdict::Offer
    }

    /// Notes a path of the database, if there is something to be done with it.
    pub(super) fn note(&self, path: &StoredPath) -> Result<(), Trouble> {
        let (hash, id) = (path.store_path.hash(), path.id);
        let verdict = (self.options.judge)(path);
        let state = match verdict {
            Verdict::Offer => State::Pending,
            // Not for others, but needed no second time.
            _ if self.copy_of(path)?.is_some() => State::Pending,
            Verdict::Remember => State::Private,
            Verdict::Ignore => return Ok(()),
        };
        let known = self.index.get(hash)?;
        if let Some(known) = known.filter(|known| known.id != id) {
            self.withdraw(hash, known.id)?;
        }
        let noted = match known.filter(|known| known.id == id) {
            Some(known) if known.state == State::Private && state == State::Pending => {
                self.index.settle(hash, id, state)?
            }
            Some(_) => false,
            None => self.index.note(hash, id, path.nar_hash, path.nar_size, state)?,
        };
        if noted && state == State::Pending {
            if verdict == Verdict::Offer {
                (self.options.on_noted)(path);
            }
            self.queue.noted(id);
        }
        Ok(())
    }

    /// The copy that the blob store has of a path and would give up.
    pub(super) fn copy_of(&self, path: &StoredPath) -> io::Result<Option<Claim>> {
        self.options.copies.as_ref().map_or(Ok(None), |copies| copies.held(path.nar_hash))
    }

    /// Offers a path whose outboard is in its place.
    pub(super) fn offer(&self, path: &StoredPath, blob: BlobId) -> Result<(), Trouble> {
        let hash = path.store_path.hash();
        if self.index.settle(hash, path.id, State::Offered(blob))? {
            let claim = Claim { sha256: path.nar_hash, blob, size: path.nar_size };
            tracing::debug!(path = %path.store_path, %blob, "a store path is offered");
            if self.may_offer(path) {
                (self.options.on_offered)(path, &claim);
            }
            self.announce_settled();
        }
        Ok(())
    }

    /// Offers a path no more.
    pub(super) fn withdraw(&self, hash: StoreHash, id: i64) -> Result<(), Trouble> {
        let mut failed = Ok(());
        let removed = self.index.remove(hash, id, |removed| {
            if let (true, State::Offered(blob)) = (removed.last_of_nar, removed.record.state) {
                failed = self.outboards.remove(blob);
            }
        })?;
        failed?;
        self.readers.forget(hash, id);
        self.announce_settled();
        if let Some(removed) = removed.filter(|removed| removed.last_of_nar)
            && let Some(claim) = removed.record.claim()
        {
            tracing::debug!(%hash, blob = %claim.blob, "a store path is offered no more");
            (self.options.on_withdrawn)(&claim);
        }
        Ok(())
    }

    /// What the database says of a path.
    pub(super) fn path_by_hash(&self, hash: StoreHash) -> Result<Option<StoredPath>, DatabaseError> {
        self.database().map_or(Ok(None), |database| database.path_by_hash(hash))
    }

    /// Forgets that a path was hashed.
    pub(super) fn hash_again(&self, hash: StoreHash, id: i64) -> Result<(), Trouble> {
        if self.index.settle(hash, id, State::Pending)? {
            self.queue.noted(id);
            self.queue.ask(Asked::Path(hash));
        }
        Ok(())
    }

    /// Has another look at a bad path whose files were replaced since.
    pub(super) fn reconsider(&self, hash: StoreHash, id: i64) -> Result<(), Trouble> {
        let Some(State::Bad { changed_ns: seen }) = self.index.get(hash)?.map(|record| record.state) else {
            return Ok(());
        };
        let Some(path) = self.valid_path(hash, id)? else { return Ok(()) };
        if changed_ns(&self.readers.real_path(&path.store_path)) != seen
            && self.index.settle(hash, id, State::Pending)?
        {
            self.queue.noted(id);
        }
        Ok(())
    }

    /// Drops the copy that the blob store has of a path, once the path is offered.
    pub(super) fn drop_copy(&self, path: &StoredPath) -> Result<(), Trouble> {
        let Some(copies) = &self.options.copies else { return Ok(()) };
        let record = self.index.get(path.store_path.hash())?.filter(|record| record.id == path.id);
        let Some(claim) = record.and_then(|record| record.claim()) else { return Ok(()) };
        if copies.held(claim.sha256)? == Some(claim)
            && self.readers.open(&path.store_path, path.id, path.nar_size).is_ok()
            && copies.give_up(claim.blob)?
        {
            tracing::info!(path = %path.store_path, bytes = claim.size, "dropped a blob that stands in the Nix store");
        }
        Ok(())
    }

    /// Up to `limit` claims of what is offered.
    pub(super) fn offers(&self, limit: usize) -> Result<Vec<Claim>, Trouble> {
        let mut claims = Vec::new();
        self.index.claims(|claim| {
            claims.push(claim);
            if claims.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        claims.truncate(limit);
        Ok(claims)
    }

    pub(super) fn announce_settled(&self) {
        self.settled.send_modify(|count| *count += 1);
    }
}
