//! What one peer may cost us.

use std::collections::HashMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use p2p_cache_discovery::{NetworkPrefix, PeerId, Scope};
use p2p_cache_protocol::digest::BlobId;
use tokio::sync::Semaphore;

use super::super::limits::{
    MAX_BODIES_PER_PEER, MAX_GRANTED_BLOBS_PER_PEER, MAX_LED_PER_PEER, MAX_METERED_NETWORKS,
    MAX_METERED_PEERS, MAX_STREAMS_PER_PEER, MIN_BYTES_PER_SECOND_PER_SLOT,
};
use super::super::pace::{MissMeter, Rate};
use super::super::uplink::UploadRates;

/// How much is given to peers. Every setting has a default that suits a workstation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadLimits {
    /// Bytes of bodies per second to all peers together; `None` for no limit. Peers that are being served have equal
    /// shares of it, however many streams they open.
    pub upload_rate_bytes_per_second: Option<u64>,
    /// The same for the peers of the LAN, within the rate of all.
    pub lan_rate_bytes_per_second: Option<u64>,
    /// The same for public peers, within the rate of all. While somebody on this machine waits for a blob they have half
    /// of what they are limited to.
    pub public_rate_bytes_per_second: Option<u64>,
    /// Bodies under way at once; each holds up to 1 MiB of memory. Further requests are answered with `Busy`.
    pub slots: NonZeroUsize,
    /// Requests per second of one peer; beyond it they wait.
    pub requests_per_second_per_peer: NonZeroU32,
    /// Failed look-ups of one peer in a minute; beyond it everything it asks for is "not found" for a while.
    pub failed_lookups_per_minute_per_peer: NonZeroU32,
    /// The same for all peers of one network together: identities cost nothing, networks do.
    pub failed_lookups_per_minute_per_network: NonZeroU32,
}

impl Default for UploadLimits {
    fn default() -> Self {
        const SLOTS: NonZeroUsize = NonZeroUsize::new(16).unwrap();
        const REQUESTS: NonZeroU32 = NonZeroU32::new(2_000).unwrap();
        const FAILED_LOOKUPS: NonZeroU32 = NonZeroU32::new(3_000).unwrap();
        const FAILED_LOOKUPS_PER_NETWORK: NonZeroU32 = NonZeroU32::new(12_000).unwrap();
        Self {
            upload_rate_bytes_per_second: None,
            lan_rate_bytes_per_second: None,
            public_rate_bytes_per_second: None,
            slots: SLOTS,
            requests_per_second_per_peer: REQUESTS,
            failed_lookups_per_minute_per_peer: FAILED_LOOKUPS,
            failed_lookups_per_minute_per_network: FAILED_LOOKUPS_PER_NETWORK,
        }
    }
}

impl UploadLimits {
    /// The slots that the upload rate can feed: with more of them, each body would be so slow that it looks stalled.
    pub(super) fn usable_slots(&self) -> usize {
        self.upload_rate_bytes_per_second.map_or(self.slots.get(), |rate| self.fed_by(rate))
    }

    /// The slots for peers of a scope that has a rate of its own.
    pub(super) fn slots_of(&self, scope: Scope) -> Option<usize> {
        let rate = match scope {
            Scope::Lan => self.lan_rate_bytes_per_second,
            Scope::Public => self.public_rate_bytes_per_second,
        };
        rate.map(|rate| self.fed_by(rate).min(self.usable_slots()))
    }

    /// All rates.
    pub(super) fn rates(&self) -> UploadRates {
        UploadRates {
            total: self.upload_rate_bytes_per_second,
            lan: self.lan_rate_bytes_per_second,
            public: self.public_rate_bytes_per_second,
        }
    }

    fn fed_by(&self, bytes_per_second: u64) -> usize {
        let fed = usize::try_from(bytes_per_second / MIN_BYTES_PER_SECOND_PER_SLOT).unwrap_or(usize::MAX);
        self.slots.get().min(fed.max(1))
    }

    /// The slots that one peer may use: never all of them, when there are several.
    fn bodies_per_peer(&self) -> usize {
        (self.usable_slots() / 2).clamp(1, MAX_BODIES_PER_PEER)
    }
}

/// The rates of one peer.
pub(super) struct Meter {
    pub(super) requests: Rate,
    pub(super) misses: MissMeter,
    /// Bodies of this peer in memory at once.
    pub(super) bodies: Arc<Semaphore>,
    /// Things done on behalf of this peer at once.
    pub(super) led: Arc<Semaphore>,
    granted: Mutex<LruCache<BlobId, ()>>,
}

impl Meter {
    fn new(limits: &UploadLimits) -> Self {
        let granted = NonZeroUsize::new(MAX_GRANTED_BLOBS_PER_PEER).unwrap_or(NonZeroUsize::MIN);
        Self {
            requests: Rate::per_second(limits.requests_per_second_per_peer),
            misses: MissMeter::per_minute(limits.failed_lookups_per_minute_per_peer),
            bodies: Arc::new(Semaphore::new(limits.bodies_per_peer())),
            led: Arc::new(Semaphore::new(MAX_LED_PER_PEER)),
            granted: Mutex::new(LruCache::new(granted)),
        }
    }

    /// Remembers that the peer knows of this blob from us.
    pub(super) fn grant(&self, blob: BlobId) {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner).put(blob, ());
    }

    /// Whether the peer was told of this blob before.
    pub(super) fn is_granted(&self, blob: BlobId) -> bool {
        self.granted.lock().unwrap_or_else(PoisonError::into_inner).contains(&blob)
    }
}

/// The meters of the peers and networks seen last, and the open streams.
pub(super) struct Meters {
    limits: UploadLimits,
    by_peer: Mutex<LruCache<PeerId, Arc<Meter>>>,
    by_network: Mutex<LruCache<NetworkPrefix, Arc<MissMeter>>>,
    streams: Arc<Mutex<HashMap<PeerId, usize>>>,
}

impl Meters {
    pub(super) fn new(limits: UploadLimits) -> Self {
        let peers = NonZeroUsize::new(MAX_METERED_PEERS).unwrap_or(NonZeroUsize::MIN);
        let networks = NonZeroUsize::new(MAX_METERED_NETWORKS).unwrap_or(NonZeroUsize::MIN);
        Self {
            limits,
            by_peer: Mutex::new(LruCache::new(peers)),
            by_network: Mutex::new(LruCache::new(networks)),
            streams: Arc::default(),
        }
    }

    /// The meter of a peer; all its streams share it.
    pub(super) fn of(&self, peer: PeerId) -> Arc<Meter> {
        let mut by_peer = self.by_peer.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(by_peer.get_or_insert(peer, || Arc::new(Meter::new(&self.limits))))
    }

    /// The failed look-ups of a network; all its peers share them.
    pub(super) fn of_network(&self, network: NetworkPrefix) -> Arc<MissMeter> {
        let mut by_network = self.by_network.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = self.limits.failed_lookups_per_minute_per_network;
        Arc::clone(by_network.get_or_insert(network, || Arc::new(MissMeter::per_minute(limit))))
    }

    #[cfg(test)]
    pub(super) fn networks(&self) -> usize {
        self.by_network.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// A place for one more stream of `peer`, given back when dropped; `None` when it has enough.
    pub(super) fn admit(&self, peer: PeerId) -> Option<StreamPlace> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let open = streams.entry(peer).or_insert(0);
        if *open >= MAX_STREAMS_PER_PEER {
            return None;
        }
        *open += 1;
        Some(StreamPlace { peer, streams: Arc::clone(&self.streams) })
    }
}

/// One stream of a peer.
pub(super) struct StreamPlace {
    peer: PeerId,
    streams: Arc<Mutex<HashMap<PeerId, usize>>>,
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = streams.get_mut(&self.peer) {
            *open -= 1;
            if *open == 0 {
                streams.remove(&self.peer);
            }
        }
    }
}
