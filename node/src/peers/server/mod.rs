//! Serving peers, within the owner's limits.

mod claims;
#[cfg(test)]
pub(crate) mod conformance;
mod desk;
mod holdings;
mod meters;
mod session;
mod sharing;
mod site;
#[cfg(test)]
mod tests;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use p2p_cache_discovery::Scope;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use self::claims::{ClaimSigner, claim_signer};
pub use self::holdings::{Held, HeldBlob, Holdings};
pub use self::meters::UploadLimits;
#[cfg(test)]
pub(crate) use self::site::Alone;
pub use self::site::{ArrivingBlob, Led, Site};

use self::claims::SignedClaims;
use self::meters::Meters;
use self::sharing::Shareable;
use super::bans::Bans;
use super::limits::{MAX_LED, MAX_SPARE_BODIES, MAX_STREAMS};
use super::tasks::TaskGroup;
use super::transport::{BoxStream, Incoming, Visitor};
use super::uplink::{OwnTraffic, Uplink};
use crate::buffers::BufferPool;
use crate::sharing::SharingPolicy;

/// What the upload server is made of.
pub struct UploadParts {
    /// The store.
    pub holdings: Arc<dyn Holdings>,
    /// What is fetched for others, and what is on its way.
    pub site: Arc<dyn Site>,
    /// What of it may leave, and how far.
    pub policy: Arc<SharingPolicy>,
    /// How much of us peers may use.
    pub limits: UploadLimits,
    /// Whether somebody on this machine waits for a blob: public peers then have half of their rate.
    pub own_traffic: OwnTraffic,
    /// Signs our claims.
    pub signer: ClaimSigner,
    /// Takes those who break the protocol.
    pub bans: Bans,
    /// Counts the bytes of bodies: `p2p_cache_served_bytes_total{to="peer"}`.
    pub served_bytes: Counter,
}

/// What all sessions share.
struct Shared {
    shareable: Shareable,
    claims: SignedClaims,
    meters: Meters,
    uplink: Uplink,
    /// Replaced as a whole when the owner sets other rates; bodies under way keep their places in the old ones.
    slots: RwLock<Slots>,
    led: Arc<Semaphore>,
    bans: Bans,
    served_bytes: Counter,
    /// Bodies of ranges.
    buffers: Arc<BufferPool>,
    stopping: CancellationToken,
}

/// Places for bodies: as many as the upload rate feeds, and fewer for a scope that has a rate of its own.
#[derive(Clone)]
struct Slots {
    all: Arc<Semaphore>,
    lan: Option<Arc<Semaphore>>,
    public: Option<Arc<Semaphore>>,
}

impl Slots {
    fn new(limits: &UploadLimits) -> Self {
        let of = |scope| limits.slots_of(scope).map(|slots| Arc::new(Semaphore::new(slots)));
        let all = limits.usable_slots().min(Semaphore::MAX_PERMITS);
        Self { all: Arc::new(Semaphore::new(all)), lan: of(Scope::Lan), public: of(Scope::Public) }
    }

    fn of(&self, scope: Scope) -> Option<&Arc<Semaphore>> {
        match scope {
            Scope::Lan => self.lan.as_ref(),
            Scope::Public => self.public.as_ref(),
        }
    }
}

impl Shared {
    fn slots(&self) -> Slots {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Sets the upload rates of a server that runs. Cheap to clone.
#[derive(Clone)]
pub struct UploadControl {
    shared: Arc<Shared>,
}

impl UploadControl {
    /// Other rates from now on, for bodies that are under way too. The other limits stay what they were.
    pub fn set_rates(&self, limits: &UploadLimits) {
        self.shared.uplink.set_rates(limits.rates());
        *self.shared.slots.write().unwrap_or_else(PoisonError::into_inner) = Slots::new(limits);
    }
}

/// Serves the streams that peers open. One task a stream, bounded in total and by peer.
pub struct UploadServer {
    shared: Arc<Shared>,
    acceptor: TaskGroup,
    sessions: Arc<TaskGroup>,
}

impl UploadServer {
    /// Starts to serve `incoming`. Must be called within a runtime.
    #[must_use]
    pub fn start(incoming: impl Incoming, parts: UploadParts) -> Self {
        let shared = Arc::new(Shared {
            shareable: Shareable::new(parts.policy, parts.holdings, parts.site),
            claims: SignedClaims::new(parts.signer),
            meters: Meters::new(parts.limits),
            uplink: Uplink::new(parts.limits.rates(), parts.own_traffic),
            slots: RwLock::new(Slots::new(&parts.limits)),
            led: Arc::new(Semaphore::new(MAX_LED)),
            bans: parts.bans,
            served_bytes: parts.served_bytes,
            buffers: BufferPool::new(MAX_SPARE_BODIES),
            stopping: CancellationToken::new(),
        });
        let sessions = Arc::new(TaskGroup::new("upload sessions", MAX_STREAMS));
        let acceptor = TaskGroup::new("upload acceptor", 1);
        let accepting = accept(incoming, Arc::clone(&shared), Arc::clone(&sessions));
        if acceptor.spawn(accepting).is_err() {
            // Out of reach: the group is new and has room for one.
            tracing::error!("the upload server did not start; nothing is shared");
        }
        Self { shared, acceptor, sessions }
    }

    /// Bodies that could begin now.
    #[must_use]
    pub fn free_slots(&self) -> usize {
        self.shared.slots().all.available_permits()
    }

    /// What changes its rates while it runs.
    #[must_use]
    pub fn control(&self) -> UploadControl {
        UploadControl { shared: Arc::clone(&self.shared) }
    }

    /// Stops accepting, lets answers that are under way finish for `grace`, then closes every stream.
    pub async fn shutdown(self, grace: Duration) {
        self.shared.stopping.cancel();
        self.acceptor.shutdown(grace).await;
        self.sessions.shutdown(grace).await;
    }
}

async fn accept(mut incoming: impl Incoming, shared: Arc<Shared>, sessions: Arc<TaskGroup>) {
    loop {
        let next = tokio::select! {
            () = shared.stopping.cancelled() => return,
            next = incoming.next() => next,
        };
        let Some((visitor, stream)) = next else { return };
        admit(&shared, &sessions, visitor, stream);
    }
}

/// Starts a session, or drops the stream when the peer, or all of them together, have too many.
fn admit(shared: &Arc<Shared>, sessions: &TaskGroup, visitor: Visitor, stream: BoxStream) {
    if shared.bans.is_banned(visitor.peer) {
        return;
    }
    let Some(place) = shared.meters.admit(visitor.peer) else {
        tracing::debug!(peer = %visitor.peer, "refused a stream: the peer has too many");
        return;
    };
    let shared = Arc::clone(shared);
    let session = async move {
        let _place = place;
        session::run(&shared, visitor, stream).await;
    };
    if sessions.spawn(session).is_err() {
        tracing::warn!(peer = %visitor.peer, "refused a stream: {MAX_STREAMS} are served already");
    }
}
