//! Tells the wide-area directory what this node holds and may share there.

use std::sync::Arc;

use p2p_cache_discovery::{MAX_ADVERTISED_KEYS, Network, ProviderDirectory, ProviderKey, Scope};
use p2p_cache_protocol::Digest;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::holdings::held;
use crate::config::Config;
use crate::nix_store::NixStore;
use crate::peers::{Held, Holdings};
use crate::sharing::{SharingPolicy, Subject};
use crate::store::BlobStore;

/// Blobs waiting to be announced. More are left out: the directory is a hint, connected peers are asked directly.
const MAX_WAITING: usize = 4096;

/// Where what has come is reported. Cheap to clone.
#[derive(Clone)]
pub(super) struct Announcements {
    queue: Option<mpsc::Sender<Held>>,
}

/// The other end, and the salt of our swarm.
pub(super) struct ToAnnounce {
    waiting: mpsc::Receiver<Held>,
    salt: Arc<[u8]>,
}

impl Announcements {
    /// Nobody listens unless the owner shares with everybody and takes part in the directory.
    pub(super) fn new(policy: &SharingPolicy, config: &Config) -> (Self, Option<ToAnnounce>) {
        if !policy.serves(Scope::Public) || !config.dht {
            return (Self { queue: None }, None);
        }
        let (queue, waiting) = mpsc::channel(MAX_WAITING);
        let salt = Arc::from(config.swarm_salt.as_bytes());
        (Self { queue: Some(queue) }, Some(ToAnnounce { waiting, salt }))
    }

    /// A blob is held from now on.
    pub(super) fn held(&self, held: Held) {
        if let Some(queue) = &self.queue
            && queue.try_send(held).is_err()
        {
            tracing::debug!(blob = %held.claim.blob, "too many blobs wait to be announced; this one is not");
        }
    }
}

/// A task that announces what is held, and what comes, one after the other.
pub(super) struct Announcer {
    task: Option<JoinHandle<()>>,
}

impl Announcer {
    /// `stores` list what is held from before, `holdings` know what is said of it.
    pub(super) fn start(
        to_announce: Option<ToAnnounce>,
        network: Network,
        stores: (BlobStore, NixStore),
        holdings: Arc<dyn Holdings>,
        policy: Arc<SharingPolicy>,
    ) -> Self {
        let task = to_announce.map(|ToAnnounce { waiting, salt }| {
            let directory = Directory { network, holdings, policy, salt };
            tokio::spawn(directory.announce_all(stores, waiting))
        });
        Self { task }
    }

    /// Announcements that wait are dropped; the directory forgets by itself what is not renewed.
    pub(super) async fn shutdown(self) {
        if let Some(task) = self.task {
            task.abort();
            let _ = task.await;
        }
    }
}

struct Directory {
    network: Network,
    holdings: Arc<dyn Holdings>,
    policy: Arc<SharingPolicy>,
    salt: Arc<[u8]>,
}

impl Directory {
    async fn announce_all(self, (store, nix): (BlobStore, NixStore), mut waiting: mpsc::Receiver<Held>) {
        let blobs = store.blobs(MAX_ADVERTISED_KEYS).await.unwrap_or_default();
        let left = MAX_ADVERTISED_KEYS - blobs.len();
        for meta in blobs {
            self.announce(held(&meta)).await;
        }
        for claim in nix.offers(left).await.unwrap_or_default() {
            self.announce(Held { claim, published: false }).await;
        }
        while let Some(held) = waiting.recv().await {
            self.announce(held).await;
        }
    }

    /// Only what the sharing policy lets out.
    async fn announce(&self, held: Held) {
        let claim = held.claim;
        let mut paths = self.holdings.narinfos_of(claim.sha256).await.unwrap_or_default();
        paths.retain(|narinfo| narinfo.nar_size == claim.size);
        if !self.policy.may_share(&Subject::blob(&paths, held.published), Scope::Public) {
            return;
        }
        let key = ProviderKey::new(&self.salt, &Digest::Sha256(claim.sha256));
        if let Err(error) = self.network.advertise(key).await {
            tracing::debug!(blob = %claim.blob, %error, "not announced");
        }
    }
}
