//! Tells the wide-area directory what this node holds and may share there.

use std::sync::Arc;

use p2p_cache_discovery::{DirectoryError, MAX_ADVERTISED_KEYS, ProviderDirectory, ProviderKey, Scope};
use p2p_cache_protocol::{Claim, Digest};
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

enum News {
    Held(Held),
    Gone(Claim),
}

/// Where what has come and what has gone is reported. Cheap to clone.
#[derive(Clone)]
pub(super) struct Announcements {
    queue: Option<mpsc::Sender<News>>,
}

/// The other end, and the salt of our swarm.
pub(super) struct ToAnnounce {
    waiting: mpsc::Receiver<News>,
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
        self.tell(News::Held(held));
    }

    /// A blob stands in one place less.
    pub(super) fn gone(&self, claim: Claim) {
        self.tell(News::Gone(claim));
    }

    fn tell(&self, news: News) {
        if let Some(queue) = &self.queue
            && queue.try_send(news).is_err()
        {
            tracing::debug!("too many blobs wait to be announced or withdrawn; one is left out");
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
        network: Arc<dyn ProviderDirectory>,
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
    network: Arc<dyn ProviderDirectory>,
    holdings: Arc<dyn Holdings>,
    policy: Arc<SharingPolicy>,
    salt: Arc<[u8]>,
}

impl Directory {
    async fn announce_all(self, (store, nix): (BlobStore, NixStore), mut waiting: mpsc::Receiver<News>) {
        let blobs = store.blobs(MAX_ADVERTISED_KEYS).await.unwrap_or_default();
        let left = MAX_ADVERTISED_KEYS - blobs.len();
        for meta in blobs {
            self.announce(held(&meta)).await;
        }
        for claim in nix.offers(left).await.unwrap_or_default() {
            self.announce(Held { claim, published: false }).await;
        }
        while let Some(news) = waiting.recv().await {
            match news {
                News::Held(held) => self.announce(held).await,
                News::Gone(claim) => self.withdraw(claim).await,
            }
        }
    }

    /// Unless it is held somewhere else. When that cannot be known the record stays: it runs out by itself, and is a hint.
    async fn withdraw(&self, claim: Claim) {
        if !matches!(self.holdings.find(Digest::Sha256(claim.sha256)).await, Ok(None)) {
            return;
        }
        let withdrawn = self.network.withdraw(self.key(claim)).await;
        log_failure(claim, "not withdrawn", withdrawn);
    }

    fn key(&self, claim: Claim) -> ProviderKey {
        ProviderKey::new(&self.salt, &Digest::Sha256(claim.sha256))
    }

    /// Only what the sharing policy lets out.
    async fn announce(&self, held: Held) {
        let claim = held.claim;
        let mut paths = self.holdings.narinfos_of(claim.sha256).await.unwrap_or_default();
        paths.retain(|narinfo| narinfo.nar_size == claim.size);
        if !self.policy.may_share(&Subject::blob(&paths, held.published), Scope::Public) {
            return;
        }
        log_failure(claim, "not announced", self.network.advertise(self.key(claim)).await);
    }
}

fn log_failure(claim: Claim, what: &'static str, result: Result<(), DirectoryError>) {
    if let Err(error) = result {
        tracing::debug!(blob = %claim.blob, %error, "{what}");
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use async_trait::async_trait;
    use p2p_cache_discovery::{MemoryWorld, PeerId};
    use p2p_cache_protocol::{BlobId, NarInfo, Sha256Digest, StoreHash};

    use super::*;
    use crate::peers::HeldBlob;

    /// Holds what it holds, or cannot say.
    enum Place {
        Holds(Vec<Held>),
        Fails,
    }

    #[async_trait]
    impl Holdings for Place {
        async fn find(&self, digest: Digest) -> io::Result<Option<Held>> {
            match self {
                Self::Holds(all) => {
                    Ok(all.iter().find(|held| Digest::Sha256(held.claim.sha256) == digest).copied())
                }
                Self::Fails => Err(io::Error::other("no disk")),
            }
        }

        async fn open(&self, _: BlobId) -> io::Result<Option<Arc<dyn HeldBlob>>> {
            Ok(None)
        }

        async fn narinfo(&self, _: StoreHash) -> io::Result<Option<NarInfo>> {
            Ok(None)
        }

        async fn narinfos_of(&self, _: Sha256Digest) -> io::Result<Vec<NarInfo>> {
            Ok(Vec::new())
        }
    }

    fn published(bytes: &[u8]) -> Held {
        let claim =
            Claim { sha256: Sha256Digest::of(bytes), blob: BlobId::of(bytes), size: bytes.len() as u64 };
        Held { claim, published: true }
    }

    fn directory(world: &MemoryWorld, us: PeerId, holdings: Place) -> Directory {
        let rules =
            crate::sharing::SharingRules { share: crate::sharing::Share::Public, ..Default::default() };
        Directory {
            network: Arc::new(world.node(us)),
            holdings: Arc::new(holdings),
            policy: Arc::new(SharingPolicy::new(rules)),
            salt: Arc::from(&b"salt"[..]),
        }
    }

    #[tokio::test]
    async fn what_stands_nowhere_any_more_is_withdrawn_and_nothing_else() {
        let (world, us) = (MemoryWorld::default(), PeerId::random());
        let (gone, kept) = (published(b"gone"), published(b"in two places"));
        let providers = async |held: Held| {
            let key = ProviderKey::new(b"salt", &Digest::Sha256(held.claim.sha256));
            world.node(PeerId::random()).find_providers(key, 8).await.unwrap()
        };
        let directory = directory(&world, us, Place::Holds(vec![kept]));
        for held in [gone, kept] {
            directory.announce(held).await;
            assert_eq!(providers(held).await, [us]);
        }
        for held in [gone, kept] {
            directory.withdraw(held.claim).await;
        }
        assert!(providers(gone).await.is_empty());
        assert_eq!(providers(kept).await, [us]);
    }

    #[tokio::test]
    async fn a_store_that_cannot_be_read_withdraws_nothing() {
        let (world, us) = (MemoryWorld::default(), PeerId::random());
        let held = published(b"a blob");
        let directory = directory(&world, us, Place::Fails);
        directory.announce(held).await;
        directory.withdraw(held.claim).await;
        let key = ProviderKey::new(b"salt", &Digest::Sha256(held.claim.sha256));
        assert_eq!(world.node(PeerId::random()).find_providers(key, 8).await.unwrap(), [us]);
    }
}
