//! What the parts of a [`NixStore`](super::NixStore) share, and the few steps that more than one of them takes.

use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use p2p_cache_protocol::{BlobId, Claim, StoreHash};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::watch;

use super::copies::SecondCopies;
use super::database::{Database, DatabaseError, StoredPath};
use super::hasher::{Queue, changed_ns};
use super::index::{Index, State};
use super::outboards::Outboards;
use super::readers::Readers;

/// Whether a path may be offered to anybody at all; only such paths are hashed.
pub type Eligible = Arc<dyn Fn(&StoredPath) -> bool + Send + Sync>;
/// Told of a claim. Called on threads that may block, and should not do so for long.
pub type OnClaim = Box<dyn Fn(&Claim) + Send + Sync>;

/// Settings of a [`NixStore`](super::NixStore).
pub struct NixStoreOptions {
    /// Which paths may be offered.
    pub eligible: Eligible,
    /// Where second copies of store paths may lie.
    pub copies: Option<Arc<dyn SecondCopies>>,
    /// A path was hashed and is offered from now on. Those of an earlier run are listed by
    /// [`NixStore::offers`](super::NixStore::offers).
    pub on_offered: OnClaim,
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
    pub fn new(eligible: Eligible) -> Self {
        Self {
            eligible,
            copies: None,
            on_offered: Box::new(|_| ()),
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
    database: RwLock<Option<Arc<Database>>>,
}

impl Shared {
    pub(super) fn new(root: PathBuf, options: NixStoreOptions, index: Index, outboards: Outboards) -> Self {
        let readers = Readers::new(&root, options.layout_cache_bytes);
        Self {
            root,
            options,
            index,
            outboards,
            readers,
            queue: Queue::default(),
            hashed_bytes: Counter::default(),
            settled: watch::Sender::new(0),
            database: RwLock::new(None),
        }
    }

    /// The database; `None` while it cannot be used.
    pub(super) fn database(&self) -> Option<Arc<Database>> {
        self.database.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_database(&self, database: Option<Arc<Database>>) {
        *self.database.write().unwrap_or_else(PoisonError::into_inner) = database;
    }

    /// What the database says of a path, if it still stands in the row `id`.
    pub(super) fn valid_path(&self, hash: StoreHash, id: i64) -> Result<Option<StoredPath>, DatabaseError> {
        Ok(self.path_by_hash(hash)?.filter(|path| path.id == id))
    }

    /// Notes a path of the database that is to be hashed, if it is one.
    pub(super) fn note(&self, path: &StoredPath) -> Result<(), Trouble> {
        let hash = path.store_path.hash();
        if !(self.options.eligible)(path) && self.copy_of(path)?.is_none() {
            return Ok(());
        }
        if let Some(known) = self.index.get(hash)?.filter(|known| known.id != path.id) {
            self.withdraw(hash, known.id)?;
        }
        if self.index.note(hash, path.id, path.nar_hash, path.nar_size)? {
            self.queue.noted(path.id);
        }
        Ok(())
    }

    fn copy_of(&self, path: &StoredPath) -> io::Result<Option<Claim>> {
        self.options.copies.as_ref().map_or(Ok(None), |copies| copies.held(path.nar_hash))
    }

    /// Offers a path whose outboard is in its place.
    pub(super) fn offer(&self, path: &StoredPath, blob: BlobId) -> Result<(), Trouble> {
        let hash = path.store_path.hash();
        if self.index.settle(hash, path.id, State::Offered(blob))? {
            let claim = Claim { sha256: path.nar_hash, blob, size: path.nar_size };
            tracing::debug!(path = %path.store_path, %blob, "a store path is offered");
            (self.options.on_offered)(&claim);
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
            self.queue.ask(hash);
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
