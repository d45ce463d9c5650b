//! Who broke the rules, why, and the consequence.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use lru::LruCache;
use p2p_cache_discovery::{Network, PeerId};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use super::limits::{BAN_DURATION, MAX_REMEMBERED_BANS};

/// What a peer is banned for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BanReason {
    /// It sent bytes that do not belong to the hash tree of the blob.
    CorruptData,
    /// It signed a claim that is not true, or that it was not asked for.
    FalseClaim,
    /// It sent what the protocol does not allow at that point.
    ProtocolViolation,
}

impl BanReason {
    /// Every reason.
    pub const ALL: [BanReason; 3] =
        [BanReason::CorruptData, BanReason::FalseClaim, BanReason::ProtocolViolation];

    /// The value of the `reason` label of `p2p_cache_bans_total`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            BanReason::CorruptData => "corrupt_data",
            BanReason::FalseClaim => "false_claim",
            BanReason::ProtocolViolation => "protocol_violation",
        }
    }
}

impl fmt::Display for BanReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What [`Bans`] needs of the network: to disconnect a peer and to refuse it for a while.
#[async_trait]
pub trait Gatekeeper: Send + Sync + 'static {
    /// Disconnects `peer` and refuses it, both ways, for `duration`.
    async fn ban(&self, peer: PeerId, duration: Duration);
}

#[async_trait]
impl Gatekeeper for Network {
    async fn ban(&self, peer: PeerId, duration: Duration) {
        Network::ban(self, peer, duration).await;
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BanLabels {
    reason: &'static str,
}

/// Bans peers for [`BAN_DURATION`], says so in the log and counts it. A cheap handle: clones share their state.
#[derive(Clone)]
pub struct Bans {
    gatekeeper: Arc<dyn Gatekeeper>,
    total: Family<BanLabels, Counter>,
    until: Arc<Mutex<LruCache<PeerId, Instant>>>,
}

impl Bans {
    /// Bans through `gatekeeper`, usually the [`Network`].
    #[must_use]
    pub fn new(gatekeeper: Arc<dyn Gatekeeper>) -> Self {
        let total = Family::<BanLabels, Counter>::default();
        for reason in BanReason::ALL {
            // A series that exists from the start lets a rate be computed over the first ban.
            drop(total.get_or_create(&BanLabels { reason: reason.as_str() }));
        }
        let remembered = NonZeroUsize::new(MAX_REMEMBERED_BANS).unwrap_or(NonZeroUsize::MIN);
        Self { gatekeeper, total, until: Arc::new(Mutex::new(LruCache::new(remembered))) }
    }

    /// Registers `p2p_cache_bans_total{reason}`; `registry` must add no prefix of its own.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("p2p_cache_bans", "Peers banned, by reason", self.total.clone());
    }

    /// Bans `peer`; a peer that is banned already is neither counted nor banned again.
    pub async fn ban(&self, peer: PeerId, reason: BanReason) {
        if !self.remember(peer) {
            return;
        }
        self.total.get_or_create(&BanLabels { reason: reason.as_str() }).inc();
        tracing::warn!(%peer, %reason, minutes = BAN_DURATION.as_secs() / 60, "banned a peer");
        self.gatekeeper.ban(peer, BAN_DURATION).await;
    }

    /// Whether `peer` is banned at this moment.
    #[must_use]
    pub fn is_banned(&self, peer: PeerId) -> bool {
        let until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.peek(&peer).is_some_and(|until| Instant::now() < *until)
    }

    /// Bans counted so far for `reason`.
    #[must_use]
    pub fn count(&self, reason: BanReason) -> u64 {
        self.total.get_or_create(&BanLabels { reason: reason.as_str() }).get()
    }

    /// False when the peer is banned already.
    fn remember(&self, peer: PeerId) -> bool {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if until.peek(&peer).is_some_and(|until| now < *until) {
            return false;
        }
        until.put(peer, now + BAN_DURATION);
        true
    }
}
