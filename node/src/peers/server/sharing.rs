//! The one place that decides what a peer may see. The server has no other way to the store.

use std::io;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use p2p_cache_discovery::Scope;
use p2p_cache_protocol::claim::Claim;
use p2p_cache_protocol::digest::{BlobId, Digest, Sha256Digest};
use p2p_cache_protocol::narinfo::{Compression, NarInfo};
use p2p_cache_protocol::signature::TrustedKeys;
use p2p_cache_protocol::store_path::StoreHash;

use super::super::limits::MAX_CACHED_VERDICTS;
use super::super::policy::Share;
use super::super::transport::Visitor;
use super::holdings::{Held, HeldBlob, Holdings};
use super::site::{ArrivingBlob, Led, Site};

/// The owner's rules.
pub struct SharingPolicy {
    /// Who is served at all.
    pub share: Share,
    /// Whose signature makes a store path public.
    pub trusted_keys: TrustedKeys,
}

impl SharingPolicy {
    /// Whether a peer met at `scope` is served at all.
    #[must_use]
    pub fn serves(&self, scope: Scope) -> bool {
        match (self.share, scope) {
            (Share::None, Scope::Lan | Scope::Public) | (Share::Lan, Scope::Public) => false,
            (Share::Lan, Scope::Lan) | (Share::Public, Scope::Lan | Scope::Public) => true,
        }
    }

    /// Whether a public key vouches for a store path.
    fn covers(&self, narinfo: &NarInfo) -> bool {
        narinfo.verified_by(&self.trusted_keys).is_some()
    }
}

/// The holdings as a peer may see them: `None` for what is not held, not shared, or cannot be read.
pub(super) struct Shareable {
    policy: SharingPolicy,
    holdings: Arc<dyn Holdings>,
    site: Arc<dyn Site>,
    /// Blobs covered by a trusted signature; true for good, since neither keys nor signatures change.
    covered: Mutex<LruCache<(Sha256Digest, u64), ()>>,
}

impl Shareable {
    pub(super) fn new(policy: SharingPolicy, holdings: Arc<dyn Holdings>, site: Arc<dyn Site>) -> Self {
        let remembered = NonZeroUsize::new(MAX_CACHED_VERDICTS).unwrap_or(NonZeroUsize::MIN);
        Self { policy, holdings, site, covered: Mutex::new(LruCache::new(remembered)) }
    }

    /// The claim for a blob.
    pub(super) async fn claim(&self, digest: Digest, scope: Scope) -> Option<Claim> {
        if !self.policy.serves(scope) {
            return None;
        }
        let held = readable("look up a blob", self.holdings.find(digest).await)?;
        self.may_leave(&held).await.then_some(held.claim)
    }

    /// An open blob of exactly this size.
    pub(super) async fn blob(&self, blob: BlobId, size: u64, scope: Scope) -> Option<Arc<dyn HeldBlob>> {
        if !self.policy.serves(scope) {
            return None;
        }
        let open = readable("open a blob", self.holdings.open(blob).await)?;
        let held = open.held();
        (held.claim.blob == blob && held.claim.size == size && self.may_leave(&held).await).then_some(open)
    }

    /// A narinfo, reduced to what is public.
    pub(super) async fn narinfo(&self, hash: StoreHash, scope: Scope) -> Option<NarInfo> {
        if !self.policy.serves(scope) {
            return None;
        }
        let narinfo = readable("read a narinfo", self.holdings.narinfo(hash).await)?;
        self.policy.covers(&narinfo).then(|| public_part(narinfo))
    }

    /// A narinfo of the origins, for a site that we lead; reduced to what is public.
    pub(super) async fn resolve(&self, hash: StoreHash, scope: Scope) -> Option<NarInfo> {
        let narinfo = self.led_narinfo(hash, scope).await?;
        Some(public_part(narinfo))
    }

    /// The bytes of a NAR, for a site that we lead.
    pub(super) async fn follow(
        &self,
        hash: StoreHash,
        nar: Sha256Digest,
        offset: u64,
        visitor: Visitor,
    ) -> Option<Led> {
        let narinfo = self.led_narinfo(hash, visitor.scope).await?;
        if narinfo.nar_hash != nar || narinfo.nar_size < offset {
            return None;
        }
        self.site.nar(narinfo, offset, visitor.peer).await
    }

    /// Only for the local network, and only for what a public key covers.
    async fn led_narinfo(&self, hash: StoreHash, scope: Scope) -> Option<NarInfo> {
        if scope != Scope::Lan || !self.policy.serves(scope) {
            return None;
        }
        let narinfo = self.site.narinfo(hash).await?;
        self.policy.covers(&narinfo).then_some(narinfo)
    }

    /// A blob that is on its way here.
    pub(super) fn arriving(&self, digest: Digest, scope: Scope) -> Option<Arc<dyn ArrivingBlob>> {
        if !self.policy.serves(scope) {
            return None;
        }
        let arriving = self.site.arriving(digest)?;
        let narinfo = arriving.narinfo()?;
        (narinfo.nar_size == arriving.size() && self.policy.covers(&narinfo)).then_some(arriving)
    }

    /// A peer that we serve asks for a blob.
    pub(super) fn wanted(&self, digest: Digest, visitor: Visitor) {
        if self.policy.serves(visitor.scope) {
            self.site.wanted(digest, visitor.peer);
        }
    }

    async fn may_leave(&self, held: &Held) -> bool {
        if held.published {
            return true;
        }
        let Claim { sha256, size, .. } = held.claim;
        let key = (sha256, size);
        if self.covered.lock().unwrap_or_else(PoisonError::into_inner).get(&key).is_some() {
            return true;
        }
        let narinfos = self.holdings.narinfos_of(sha256).await;
        let covered = readable("read the narinfos of a blob", narinfos.map(Some))
            .unwrap_or_default()
            .iter()
            .any(|narinfo| {
                narinfo.nar_hash == sha256 && narinfo.nar_size == size && self.policy.covers(narinfo)
            });
        if covered {
            self.covered.lock().unwrap_or_else(PoisonError::into_inner).put(key, ());
        }
        covered
    }
}

/// What the origin's narinfo says beyond the signed facts may be private: its address, tokens in it, fields of its
/// own. The NAR that we offer is the plain one.
fn public_part(narinfo: NarInfo) -> NarInfo {
    let url = format!("nar/{}-{}.nar", narinfo.store_path.hash(), narinfo.nar_hash.to_nix32());
    NarInfo {
        url,
        compression: Compression::None,
        file_hash: Some(narinfo.nar_hash),
        file_size: Some(narinfo.nar_size),
        unknown: Vec::new(),
        ..narinfo
    }
}

/// A store that fails is a store that does not hold; the log knows better.
fn readable<T>(what: &'static str, result: io::Result<Option<T>>) -> Option<T> {
    result.unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot {what} for a peer; it is told that we do not have it");
        None
    })
}
