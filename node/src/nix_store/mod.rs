//! The machine's live Nix store as a source: its paths are blobs whose bytes nobody stores a second time.
//!
//! `database` reads what Nix holds for valid, `nar` makes any range of a path's NAR from its files. What may be offered
//! is hashed once (`hasher`), remembered (`index`, `outboards`) and followed as Nix registers and deletes (`watch`,
//! `sync`). [`NixStore`] answers peers ([`Holdings`](crate::peers::Holdings)) and the local gateway from all of it.
//!
//! Whatever is wrong with the store, the daemon goes on without it and tries again.

mod copies;
mod database;
mod hasher;
mod holdings;
mod index;
pub mod nar;
mod outboards;
mod readers;
mod shared;
mod sync;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod watch;

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use p2p_cache_protocol::{Claim, Digest, NarInfo, Sha256Digest, StoreHash};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::{Semaphore, watch as cell};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use self::copies::SecondCopies;
pub use self::database::{Database, DatabaseError, MAX_SCHEMA, StoredPath};
use self::hasher::{Asked, Hasher};
pub use self::index::Counts;
use self::index::{Index, State};
use self::nar::NarReader;
use self::outboards::Outboards;
pub use self::shared::{Judge, NixStoreOptions, OnClaim, OnOffer, OnPath, PathVisitor, Verdict};
use self::shared::{Shared, Trouble};
use self::watch::Follower;
use crate::damage::{is_damage, unpanic};

/// Look-ups on blocking threads at once.
const MAX_LOOKUPS: usize = 16;

/// A live Nix store. Cheap to clone; stops when [`NixStore::shutdown`] is called.
#[derive(Clone)]
pub struct NixStore {
    /// `None` when there is none, or nowhere to keep its index.
    running: Option<Arc<Running>>,
}

impl fmt::Debug for NixStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NixStore").field("usage", &self.usage()).finish_non_exhaustive()
    }
}

struct Running {
    shared: Arc<Shared>,
    lookups: Arc<Semaphore>,
    tasks: Mutex<Option<Tasks>>,
}

struct Tasks {
    stopping: CancellationToken,
    follower: JoinHandle<()>,
    hasher: Hasher,
}

/// The NAR of a store path, open.
#[derive(Debug, Clone)]
pub struct OpenNar {
    /// Reads any part of it.
    pub reader: Arc<NarReader>,
    /// Its hash, as Nix noted it.
    pub sha256: Sha256Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// What a live store has and does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LiveUsage {
    /// Why it is no source for now, when that is known.
    pub complaint: Option<String>,
    /// Whether its database can be read.
    pub readable: bool,
    /// How many paths are in which state.
    pub counts: Counts,
}

impl NixStore {
    /// No store at all.
    #[must_use]
    pub fn none() -> Self {
        Self { running: None }
    }

    /// Opens the store below `root`, which has `nix/store` and `nix/var/nix/db` below it, and keeps what is known of it in
    /// `live` below `state_dir`. A database that cannot be used yet is tried again every minute; that, and what else
    /// is wrong, is logged and no fault of the caller. Takes no longer for many paths than for a few. Must be
    /// called within a runtime.
    pub async fn open(root: &Path, state_dir: &Path, options: NixStoreOptions) -> Self {
        let (root, live) = (root.to_path_buf(), state_dir.join("live"));
        let opening = tokio::task::spawn_blocking(move || {
            let (index, outboards) = open_state(&live, options.index_cache_bytes)?;
            let shared = Arc::new(Shared::new(root, options, index, outboards));
            let hasher = Hasher::start(&shared)?;
            Ok::<_, io::Error>((shared, hasher))
        });
        let (shared, hasher) = match opening.await.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(opened) => opened,
            Err(error) => {
                let directory = state_dir.join("live");
                tracing::error!(directory = %directory.display(), %error, "the live Nix store is not offered");
                return Self::none();
            }
        };
        let stopping = CancellationToken::new();
        let follower = Follower::open(Arc::clone(&shared)).await;
        let follower = tokio::spawn(follower.run(stopping.clone()));
        let tasks = Mutex::new(Some(Tasks { stopping, follower, hasher }));
        let lookups = Arc::new(Semaphore::new(MAX_LOOKUPS));
        Self { running: Some(Arc::new(Running { shared, lookups, tasks })) }
    }

    /// The narinfo of any valid path, for clients on this machine; its NAR is what [`NixStore::open_nar`] opens.
    ///
    /// # Errors
    /// When the database cannot be read at this moment.
    pub async fn narinfo(&self, hash: StoreHash) -> io::Result<Option<NarInfo>> {
        let found = self.blocking(move |shared| Ok(shared.path_by_hash(hash)?)).await?.flatten();
        Ok(found.map(|path| path.gateway_narinfo()))
    }

    /// The NAR of any valid path, hashed or not, for clients on this machine; `None` for one that is known to be bad, too.
    ///
    /// # Errors
    /// When database or files cannot be read; when the files are plainly not what Nix noted.
    pub async fn open_nar(&self, hash: StoreHash) -> io::Result<Option<OpenNar>> {
        let opened = self.blocking(move |shared| {
            shared.path_by_hash(hash)?.map_or(Ok(None), |path| shared.open_nar(&path))
        });
        Ok(opened.await?.flatten())
    }

    /// The NAR that `digest` names, when it is that of a path that was noted, for clients on this machine.
    ///
    /// # Errors
    /// As [`NixStore::open_nar`].
    pub async fn open_digest(&self, digest: Digest) -> io::Result<Option<OpenNar>> {
        let opened = self.blocking(move |shared| {
            for (hash, record) in shared.index.find(digest)? {
                if let Some(path) = shared.valid_path(hash, record.id)?
                    && let Some(open) = shared.open_nar(&path)?
                {
                    return Ok(Some(open));
                }
            }
            Ok(None)
        });
        Ok(opened.await?.flatten())
    }

    /// A number that changes soon after the database does: what was learnt from this store under another one may not be
    /// so any more.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.running.as_ref().map_or(0, |running| running.shared.generation())
    }

    /// Changes each time that the database was opened: then there may be much that [`NixStore::visit`] did not show.
    #[must_use]
    pub fn opened(&self) -> cell::Receiver<u64> {
        match &self.running {
            Some(running) => running.shared.opened.subscribe(),
            None => cell::Sender::new(0).subscribe(),
        }
    }

    /// Shows every path that is offered or will be. What comes or goes meanwhile may or may not be shown.
    ///
    /// # Errors
    /// When database or index cannot be read.
    pub async fn visit<V: PathVisitor>(&self, mut visitor: V) -> io::Result<V> {
        if self.running.is_none() {
            return Ok(visitor);
        }
        let visited = self.blocking(move |shared| {
            shared.visit(&mut visitor)?;
            Ok(visitor)
        });
        visited.await?.ok_or_else(|| io::Error::other("the live store is gone"))
    }

    /// Registers `p2p_cache_live_hashed_bytes_total`.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Bytes of store paths that were hashed before they are offered";
        registry.register_with_unit("p2p_cache_live_hashed", help, Unit::Bytes, self.hashed_bytes());
    }

    /// Hashes a path before all that nobody waits for.
    pub fn prioritise(&self, hash: StoreHash) {
        if let Some(running) = &self.running {
            running.shared.queue.ask(Asked::Path(hash));
        }
    }

    /// The blob store has a new blob: when a path with the same NAR is offered, or is to be, that copy goes. Does not
    /// block.
    pub fn blob_committed(&self, nar: Sha256Digest) {
        if let Some(running) = &self.running {
            running.shared.queue.ask(Asked::Nar(nar));
        }
    }

    /// What is offered now, at most `limit` claims of about 100 bytes each.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub async fn offers(&self, limit: usize) -> io::Result<Vec<Claim>> {
        Ok(self.blocking(move |shared| shared.offers(limit)).await?.unwrap_or_default())
    }

    /// What the store has and does now. Does not block.
    #[must_use]
    pub fn usage(&self) -> LiveUsage {
        self.running.as_ref().map_or_else(LiveUsage::default, |running| LiveUsage {
            complaint: running.shared.complaint(),
            readable: running.shared.database().is_some(),
            counts: running.shared.index.counts(),
        })
    }

    /// Counts the bytes of NARs that were hashed.
    #[must_use]
    pub fn hashed_bytes(&self) -> Counter {
        self.running.as_ref().map_or_else(Counter::default, |running| running.shared.hashed_bytes.clone())
    }

    /// Another limit of the hashing in the background from now on; `None` is unlimited.
    pub fn set_hash_rate(&self, bytes_per_second: Option<u64>) {
        if let Some(running) = &self.running {
            running.shared.set_hash_rate(bytes_per_second);
        }
    }

    /// The judge would now offer paths that it did not offer before: looks at all of them again, soon.
    pub fn judge_anew(&self) {
        if let Some(running) = &self.running {
            running.shared.judge_anew();
        }
    }

    /// Stops hashing and following. What was hashed is remembered, what was not is taken up at the next start.
    pub async fn shutdown(&self) {
        let Some(running) = &self.running else { return };
        let tasks = running.tasks.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Tasks { stopping, follower, hasher }) = tasks else { return };
        stopping.cancel();
        running.shared.queue.stop();
        let shared = Arc::clone(&running.shared);
        let ending = tokio::task::spawn_blocking(move || {
            hasher.join();
            shared.index.flush()
        });
        if let Err(error) = follower.await {
            tracing::error!(%error, "following the Nix database failed");
        }
        match ending.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "some store paths will be hashed again"),
            Err(error) => tracing::error!(%error, "stopping to hash store paths failed"),
        }
    }

    fn settled(&self) -> Option<cell::Receiver<u64>> {
        self.running.as_ref().map(|running| running.shared.settled.subscribe())
    }

    /// Runs a look-up on a blocking thread; `None` when there is no store.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Shared>) -> Result<T, Trouble> + Send + 'static,
    ) -> io::Result<Option<T>> {
        let Some(running) = &self.running else { return Ok(None) };
        let permit = Arc::clone(&running.lookups).acquire_owned().await.map_err(io::Error::other)?;
        let shared = Arc::clone(&running.shared);
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work(&shared)
        });
        let result = done.await.map_err(io::Error::other)?;
        result.map(Some).map_err(|trouble| match trouble {
            Trouble::Files(error) => error,
            other => io::Error::other(other),
        })
    }
}

impl Shared {
    /// `None` for a path whose bytes are known to be wrong.
    fn open_nar(&self, path: &StoredPath) -> Result<Option<OpenNar>, Trouble> {
        let known = self.index.get(path.store_path.hash())?.filter(|known| known.id == path.id);
        if known.is_some_and(|known| matches!(known.state, State::Bad { .. })) {
            return Ok(None);
        }
        let reader = self.readers.open(&path.store_path, path.id, path.nar_size)?;
        Ok(Some(OpenNar { reader, sha256: path.nar_hash, size: path.nar_size }))
    }
}

/// Opens index and outboards; a damaged index is made anew, and what it knew is hashed again. Blocks.
fn open_state(live: &Path, cache_bytes: u64) -> io::Result<(Index, Outboards)> {
    let (index, outboards) = (live.join("index"), live.join("outboards"));
    fs::create_dir_all(live)?;
    let open = || unpanic(|| Index::open(&index, cache_bytes), |error| error);
    let opened = match open() {
        Err(error) if is_damage(&error) => {
            tracing::warn!(%error, "the index of store paths is unreadable: removed, and all are hashed again");
            for directory in [&index, &outboards] {
                match fs::remove_dir_all(directory) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            open()
        }
        other => other,
    };
    Ok((opened.map_err(io::Error::other)?, Outboards::open(&outboards)?))
}
