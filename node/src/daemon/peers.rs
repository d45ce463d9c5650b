//! The network as transfers and narinfo look-ups see it.

use std::time::Duration;

use async_trait::async_trait;
use p2p_cache_discovery::{Network, PeerId, ProviderDirectory, ProviderKey};
use p2p_cache_protocol::{BlobId, Claim, Digest, GroupRange, StoreHash};

use crate::fetch::Peers;
use crate::peers::{BanReason, Bans, PeerClient, PeerError};

/// Connected peers asked for one thing, nearest first.
const MAX_CONNECTED_ASKED: usize = 64;
/// Providers wanted of one look-up in the directory.
const MAX_PROVIDERS: usize = 16;

/// Peers reached through the swarm.
pub(super) struct Swarm {
    network: Network,
    client: PeerClient,
    bans: Bans,
    salt: Vec<u8>,
    directory: bool,
}

impl Swarm {
    pub(super) fn new(
        network: Network,
        client: PeerClient,
        bans: Bans,
        salt: &[u8],
        directory: bool,
    ) -> Self {
        Self { network, client, bans, salt: salt.to_vec(), directory }
    }
}

#[async_trait]
impl Peers for Swarm {
    fn connected(&self) -> Vec<(PeerId, Option<Duration>)> {
        let mut peers: Vec<_> = self
            .network
            .peers()
            .into_iter()
            .filter(|info| info.speaks_p2p_cache && !self.bans.is_banned(info.peer))
            .map(|info| (info.peer, info.rtt))
            .collect();
        peers.sort_by_key(|(_, rtt)| rtt.unwrap_or(Duration::MAX));
        peers.truncate(MAX_CONNECTED_ASKED);
        peers
    }

    async fn providers(&self, digest: Digest) -> Vec<PeerId> {
        if !self.directory {
            return Vec::new();
        }
        let key = ProviderKey::new(&self.salt, &digest);
        match self.network.find_providers(key, MAX_PROVIDERS).await {
            Ok(providers) => providers.into_iter().filter(|peer| !self.bans.is_banned(*peer)).collect(),
            Err(error) => {
                tracing::debug!(%digest, %error, "directory look-up failed");
                Vec::new()
            }
        }
    }

    async fn lookup(&self, peer: PeerId, digest: Digest) -> Result<Option<Claim>, PeerError> {
        Ok(self.client.lookup(peer, digest).await?.map(|signed| signed.claim))
    }

    async fn range(
        &self,
        peer: PeerId,
        blob: BlobId,
        size_bytes: u64,
        range: GroupRange,
    ) -> Result<Vec<u8>, PeerError> {
        Ok(self.client.range(peer, blob, size_bytes, range).await?.encoded)
    }

    async fn narinfo(&self, peer: PeerId, hash: StoreHash) -> Result<Option<String>, PeerError> {
        self.client.narinfo(peer, hash).await
    }

    async fn ban(&self, peer: PeerId, reason: BanReason) {
        self.bans.ban(peer, reason).await;
    }
}
