//! The network as transfers and narinfo look-ups see it.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use lru::LruCache;
use p2p_cache_discovery::{Network, PeerId, ProviderDirectory, ProviderKey, Scope};
use p2p_cache_protocol::{BlobId, Digest, GroupRange, Sha256Digest, StoreHash};

use crate::fetch::scheduler::Timing;
use crate::fetch::{Leader, Offer, Peers, leader, relay_tree};
use crate::peers::{self, Arriving, BanReason, Bans, PeerClient, PeerError, RangeAnswer, Watched};

/// Connected peers asked for one thing, nearest first.
const MAX_CONNECTED_ASKED: usize = 64;
/// Providers wanted of one look-up in the directory.
const MAX_PROVIDERS: usize = 16;

/// A node that failed to lead is not asked to again for this long.
const PASSED_OVER_FOR: Duration = Duration::from_secs(30);
/// The same for one that declined this many times since it last led: it has no origins, or does not share.
const MAX_DECLINED: u32 = 3;
/// Such nodes that are remembered.
const MAX_PASSED_OVER: NonZeroUsize = NonZeroUsize::new(256).unwrap();

/// Peers reached through the swarm.
pub(super) struct Swarm {
    network: Network,
    client: PeerClient,
    bans: Bans,
    salt: Vec<u8>,
    directory: bool,
    passed_over: PassedOver,
}

/// Members of our site that failed to lead.
struct PassedOver {
    since: Mutex<LruCache<PeerId, Instant>>,
    declined: Mutex<LruCache<PeerId, u32>>,
}

impl PassedOver {
    fn new() -> Self {
        let since = Mutex::new(LruCache::new(MAX_PASSED_OVER));
        Self { since, declined: Mutex::new(LruCache::new(MAX_PASSED_OVER)) }
    }

    fn insert(&self, peer: PeerId) {
        self.since.lock().unwrap_or_else(PoisonError::into_inner).put(peer, Instant::now());
    }

    fn contains(&self, peer: PeerId) -> bool {
        let since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        since.peek(&peer).is_some_and(|since| since.elapsed() < PASSED_OVER_FOR)
    }

    fn declined(&self, peer: PeerId) {
        let mut declined = self.declined.lock().unwrap_or_else(PoisonError::into_inner);
        let times = declined.get_or_insert_mut(peer, || 0);
        *times += 1;
        if *times >= MAX_DECLINED {
            // The next time is one too many at once: what it is does not change every half minute.
            *times = MAX_DECLINED - 1;
            self.insert(peer);
        }
    }

    fn led(&self, peer: PeerId) {
        self.declined.lock().unwrap_or_else(PoisonError::into_inner).pop(&peer);
    }
}

impl Swarm {
    pub(super) fn new(
        network: Network,
        client: PeerClient,
        bans: Bans,
        salt: &[u8],
        directory: bool,
    ) -> Self {
        Self { network, client, bans, salt: salt.to_vec(), directory, passed_over: PassedOver::new() }
    }
}

impl Swarm {
    /// The members of our site, ourselves included, in the order in which they lead for `hash`.
    fn ranking(&self, hash: StoreHash) -> Vec<PeerId> {
        let others = self.network.peers().into_iter().filter(|info| {
            info.speaks_p2p_cache
                && info.scope == Scope::Lan
                && !self.bans.is_banned(info.peer)
                && !self.passed_over.contains(info.peer)
        });
        let members: Vec<_> = others.map(|info| info.peer).collect();
        if members.is_empty() {
            return Vec::new();
        }
        leader::ranking(hash, members.into_iter().chain([self.network.local_peer_id()]))
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
            .map(|info| (info.peer, info.rtt.or_else(|| self.client.first_byte(info.peer))))
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

    async fn lookup(&self, peer: PeerId, digest: Digest) -> Result<Option<Offer>, PeerError> {
        Ok(self.client.lookup(peer, digest).await?.map(|offer| match offer {
            peers::Offer::Whole(signed) => Offer::Whole(signed.claim),
            peers::Offer::Partial { blob, .. } => Offer::Partial(blob),
        }))
    }

    async fn range(
        &self,
        peer: PeerId,
        blob: BlobId,
        size_bytes: u64,
        range: GroupRange,
    ) -> Result<(Bytes, Option<Timing>), PeerError> {
        let RangeAnswer { encoded, timing } = self.client.range(peer, blob, size_bytes, range).await?;
        let timing = Timing {
            first_byte: timing.first_byte_at - timing.sent_at,
            receiving: timing.finished_at - timing.first_byte_at,
        };
        Ok((encoded, Some(timing)))
    }

    async fn narinfo(&self, peer: PeerId, hash: StoreHash) -> Result<Option<String>, PeerError> {
        self.client.narinfo(peer, hash).await
    }

    fn leader(&self, hash: StoreHash) -> Option<Leader> {
        let first = *self.ranking(hash).first()?;
        Some(if first == self.network.local_peer_id() { Leader::Us } else { Leader::Peer(first) })
    }

    fn relays(&self, hash: StoreHash) -> Vec<PeerId> {
        relay_tree::relays(&self.ranking(hash), self.network.local_peer_id())
    }

    fn pass_over(&self, peer: PeerId) {
        self.passed_over.insert(peer);
    }

    fn declined(&self, peer: PeerId) {
        self.passed_over.declined(peer);
    }

    async fn resolve(&self, peer: PeerId, hash: StoreHash) -> Result<Option<String>, PeerError> {
        let resolved = self.client.resolve(peer, hash).await;
        if let Ok(Some(_)) = resolved {
            self.passed_over.led(peer);
        }
        resolved
    }

    async fn follow(
        &self,
        peer: PeerId,
        hash: StoreHash,
        nar: Sha256Digest,
        offset: u64,
    ) -> Result<Arriving, PeerError> {
        self.client.follow(peer, hash, nar, offset).await
    }

    async fn watch(&self, peer: PeerId, blob: BlobId, size_bytes: u64) -> Result<Watched, PeerError> {
        self.client.watch(peer, blob, size_bytes).await
    }

    async fn ban(&self, peer: PeerId, reason: BanReason) {
        self.bans.ban(peer, reason).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_declines_three_times_in_a_row_is_passed_over_and_the_next_time_at_once() {
        let (passed_over, peer) = (PassedOver::new(), PeerId::random());
        for _ in 0..2 {
            passed_over.declined(peer);
        }
        passed_over.led(peer);
        for times in 1..=3 {
            assert!(!passed_over.contains(peer), "{times}");
            passed_over.declined(peer);
        }
        assert!(passed_over.contains(peer));
        passed_over.since.lock().unwrap().pop(&peer);
        passed_over.declined(peer);
        assert!(passed_over.contains(peer));
    }
}
