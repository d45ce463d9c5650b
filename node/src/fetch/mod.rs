//! Fetching one blob from several sources at once.
//!
//! [`FetchEngine::fetch`] starts a [`Transfer`] or joins the one that runs. A driver for each transfer runs
//! what the pure [`scheduler`] decides: look-ups, requests to peers, the stream of an origin, writing, verification
//! and the commit to the store.

mod driver;
mod error;
mod extent;
mod interests;
pub mod leader;
mod links;
mod lookup;
mod origin_pump;
mod provenance;
mod relay;
pub mod relay_tree;
pub mod scheduler;
mod speed;
mod suspicions;
mod transfer;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use p2p_cache_discovery::PeerId;
use p2p_cache_protocol::{Digest, NarInfo};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::error::FetchError;
use self::interests::Interests;
pub use self::links::{Leader, Offer, Peers};
use self::lookup::Lookup;
pub use self::provenance::{Contributor, Provenance};
use self::speed::OriginSpeed;
use self::suspicions::Suspicions;
pub use self::transfer::{HELD_BACK_BYTES, Transfer};
use crate::metrics::Metrics;
use crate::origin::{OriginId, Origins};
use crate::store::{BlobMeta, BlobStore};

/// Transfers at once; further ones wait for a place. Each costs two file descriptors and at most 64 MiB in flight.
pub const MAX_TRANSFERS: usize = 64;
/// What to fetch and what is known of it.
#[derive(Debug, Clone)]
pub struct FetchRequest {
    /// Its name.
    pub digest: Digest,
    /// Its length when a signed narinfo or the caller knows it; peers' claims must agree with it.
    pub size_bytes: Option<u64>,
    /// The narinfo that led here, kept with the blob; origins are asked only when there is one.
    pub narinfo: Option<Arc<NarInfo>>,
    /// The origin that answered with this narinfo, if one did: its URL is used without asking again.
    pub origin: Option<OriginId>,
    /// Fetched for a node of our site, which has asked all others whether they hold it.
    pub leading: bool,
}

/// Called after each commit with what was committed, and with the narinfo that says what it is, if there is one.
pub type OnCommit = Box<dyn Fn(&BlobMeta, Option<&NarInfo>) + Send + Sync>;

/// Starts, shares and ends transfers. Cheap to clone.
#[derive(Clone)]
pub struct FetchEngine {
    shared: Arc<Shared>,
}

struct Shared {
    store: BlobStore,
    origins: Origins,
    peers: Arc<dyn Peers>,
    metrics: Metrics,
    on_commit: OnCommit,
    transfers: Mutex<HashMap<Digest, Arc<Transfer>>>,
    suspicions: Suspicions,
    interests: Interests,
    origin_speed: OriginSpeed,
    places: Arc<Semaphore>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl FetchEngine {
    /// An engine that stores into `store` and tells `on_commit` of every blob that became whole.
    pub fn new(
        store: BlobStore,
        origins: Origins,
        peers: Arc<dyn Peers>,
        metrics: Metrics,
        on_commit: OnCommit,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                store,
                origins,
                peers,
                metrics,
                on_commit,
                transfers: Mutex::default(),
                suspicions: Suspicions::default(),
                interests: Interests::default(),
                origin_speed: OriginSpeed::default(),
                places: Arc::new(Semaphore::new(MAX_TRANSFERS)),
                stop: CancellationToken::new(),
                tasks: TaskTracker::new(),
            }),
        }
    }

    /// The transfer of `request.digest`: the running one, or a new one.
    ///
    /// # Errors
    /// When no peer knows the length of a blob whose length the request does not give, when the store has no room,
    /// or when the engine is stopping.
    pub async fn fetch(&self, request: FetchRequest) -> Result<Arc<Transfer>, FetchError> {
        if let Some(transfer) = self.running(&request.digest) {
            return Ok(transfer);
        }
        let place = Arc::clone(&self.shared.places).acquire_owned().await.map_err(|_| FetchError::Stopped)?;
        let size_bytes = match request.size_bytes {
            Some(size) => size,
            None => self.size_of(request.digest).await?,
        };
        // To create a file takes milliseconds while the disk syncs others: peers are asked meanwhile.
        let lookup = lookup::begin(Arc::clone(&self.shared.peers), request.digest);
        let partial = self.shared.store.create_partial(request.digest, size_bytes).await?;
        let transfer = Transfer::new(request.digest, request.narinfo.clone(), partial);
        self.start(request, transfer, lookup, place)
    }

    /// The length of a blob that a peer claims to hold; nothing is fetched.
    ///
    /// # Errors
    /// [`FetchError::NotFound`] when no peer claims it.
    pub async fn size_of(&self, digest: Digest) -> Result<u64, FetchError> {
        lookup::size_of(self.shared.peers.as_ref(), digest, &self.shared.suspicions).await
    }

    /// The transfer of `digest` that runs now; one that has failed runs no more.
    pub fn running(&self, digest: &Digest) -> Option<Arc<Transfer>> {
        self.lock_transfers().get(digest).filter(|transfer| transfer.failure().is_none()).cloned()
    }

    /// All transfers that run now.
    pub fn transfers(&self) -> Vec<Arc<Transfer>> {
        self.lock_transfers().values().cloned().collect()
    }

    /// `peer` wants `digest`. If we fetch it too, now or soon, it will have parts of it.
    pub fn wanted(&self, digest: Digest, peer: PeerId) {
        self.shared.interests.note(digest, peer);
        if let Some(transfer) = self.running(&digest) {
            transfer.wanted.notify_one();
        }
    }

    /// Ends all transfers at a verified boundary and waits for their tasks. Their readers get an error.
    pub async fn shutdown(&self) {
        self.shared.places.close();
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    /// Registers and drives `new`, unless somebody else began the same transfer in the meantime.
    fn start(
        &self,
        request: FetchRequest,
        new: Arc<Transfer>,
        lookup: Lookup,
        place: OwnedSemaphorePermit,
    ) -> Result<Arc<Transfer>, FetchError> {
        if self.shared.tasks.is_closed() {
            return Err(FetchError::Stopped);
        }
        let digest = request.digest;
        {
            let mut transfers = self.lock_transfers();
            if let Some(running) = transfers.get(&digest).filter(|running| running.failure().is_none()) {
                return Ok(Arc::clone(running));
            }
            transfers.insert(digest, Arc::clone(&new));
        }
        let shared = Arc::clone(&self.shared);
        let transfer = Arc::clone(&new);
        self.shared.tasks.spawn(async move {
            driver::drive(&shared, request, &transfer, lookup).await;
            shared.forget(&digest, &transfer);
            drop(place);
        });
        Ok(new)
    }

    fn lock_transfers(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Arc<Transfer>>> {
        self.shared.transfers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Takes an ended transfer out of the table, unless another attempt stands there already.
    fn forget(&self, digest: &Digest, ended: &Arc<Transfer>) {
        let mut transfers = self.transfers.lock().unwrap_or_else(PoisonError::into_inner);
        if transfers.get(digest).is_some_and(|transfer| Arc::ptr_eq(transfer, ended)) {
            transfers.remove(digest);
        }
    }
}
