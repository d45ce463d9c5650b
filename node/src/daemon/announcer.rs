//! Tells the wide-area directory what this node holds and may share there.

use std::sync::Arc;

use p2p_cache_discovery::{MAX_ADVERTISED_KEYS, Network, ProviderDirectory, ProviderKey, Scope};
use p2p_cache_protocol::Digest;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::sharing::{SharingPolicy, Subject};
use crate::store::{BlobMeta, BlobStore};

/// Blobs waiting to be announced. More are left out: the directory is a hint, connected peers are asked directly.
const MAX_WAITING: usize = 4096;

/// A task that announces committed blobs one after the other.
pub(super) struct Announcer {
    handle: AnnouncerHandle,
    task: Option<JoinHandle<()>>,
}

/// Where commits are reported. Cheap to clone.
#[derive(Clone)]
pub(super) struct AnnouncerHandle {
    queue: Option<mpsc::Sender<BlobMeta>>,
}

impl AnnouncerHandle {
    /// A blob is held from now on.
    pub(super) fn committed(&self, meta: &BlobMeta) {
        if let Some(queue) = &self.queue
            && queue.try_send(*meta).is_err()
        {
            tracing::debug!(blob = %meta.id, "too many blobs wait to be announced; this one is not");
        }
    }
}

impl Announcer {
    /// Idle unless the owner shares with everybody and takes part in the directory.
    pub(super) fn start(
        network: Network,
        store: BlobStore,
        policy: Arc<SharingPolicy>,
        config: &Config,
    ) -> Self {
        if !policy.serves(Scope::Public) || !config.dht {
            return Self { handle: AnnouncerHandle { queue: None }, task: None };
        }
        let (queue, waiting) = mpsc::channel(MAX_WAITING);
        let salt: Arc<[u8]> = Arc::from(config.swarm_salt.as_bytes());
        let task = tokio::spawn(announce_all(network, store, policy, salt, waiting));
        Self { handle: AnnouncerHandle { queue: Some(queue) }, task: Some(task) }
    }

    pub(super) fn handle(&self) -> AnnouncerHandle {
        self.handle.clone()
    }

    /// Announcements that wait are dropped; the directory forgets by itself what is not renewed.
    pub(super) async fn shutdown(self) {
        if let Some(task) = self.task {
            task.abort();
            let _ = task.await;
        }
    }
}

async fn announce_all(
    network: Network,
    store: BlobStore,
    policy: Arc<SharingPolicy>,
    salt: Arc<[u8]>,
    mut waiting: mpsc::Receiver<BlobMeta>,
) {
    for meta in store.blobs(MAX_ADVERTISED_KEYS).await.unwrap_or_default() {
        announce(&network, &store, &policy, &salt, &meta).await;
    }
    while let Some(meta) = waiting.recv().await {
        announce(&network, &store, &policy, &salt, &meta).await;
    }
}

/// Only what the sharing policy lets out.
async fn announce(
    network: &Network,
    store: &BlobStore,
    policy: &SharingPolicy,
    salt: &[u8],
    meta: &BlobMeta,
) {
    let mut paths = store.narinfos_of(meta.sha256).await;
    paths.retain(|narinfo| narinfo.nar_size == meta.size);
    if !policy.may_share(&Subject::blob(&paths, meta.published), Scope::Public) {
        return;
    }
    let key = ProviderKey::new(salt, &Digest::Sha256(meta.sha256));
    if let Err(error) = network.advertise(key).await {
        tracing::debug!(blob = %meta.id, %error, "not announced");
    }
}
