//! The holdings as the owner's policy lets a peer see them. The server has no other way to the store.
//!
//! What is held and private takes the same steps as what is not held: neither is in the table of public names, so
//! neither is looked for.

use std::io;
use std::sync::Arc;

use p2p_cache_discovery::Scope;
use p2p_cache_protocol::claim::Claim;
use p2p_cache_protocol::digest::{BlobId, Digest, Sha256Digest};
use p2p_cache_protocol::narinfo::NarInfo;
use p2p_cache_protocol::store_path::StoreHash;

use super::super::transport::Visitor;
use super::holdings::{Held, HeldBlob, Holdings};
use super::site::{ArrivingBlob, Led, Site};
use crate::sharing::{SharingPolicy, Subject};

/// The holdings as a peer may see them: `None` for what is not held, not shared, or cannot be read.
pub(super) struct Shareable {
    policy: Arc<SharingPolicy>,
    holdings: Arc<dyn Holdings>,
    site: Arc<dyn Site>,
}

impl Shareable {
    pub(super) fn new(policy: Arc<SharingPolicy>, holdings: Arc<dyn Holdings>, site: Arc<dyn Site>) -> Self {
        Self { policy, holdings, site }
    }

    /// The claim for a blob.
    pub(super) async fn claim(&self, digest: Digest, scope: Scope) -> Option<Claim> {
        if !self.policy.serves(scope) || !self.policy.may_know(digest) {
            return None;
        }
        let held = readable("look up a blob", self.holdings.find(digest).await)?;
        self.may_leave(&held, scope).await.then_some(held.claim)
    }

    /// An open blob of exactly this size.
    pub(super) async fn blob(&self, blob: BlobId, size: u64, scope: Scope) -> Option<Arc<dyn HeldBlob>> {
        // Opening takes longer than looking: only what may leave is opened.
        self.claim(Digest::Blake3(blob), scope).await.filter(|claim| claim.size == size)?;
        let open = readable("open a blob", self.holdings.open(blob).await)?;
        let claim = open.held().claim;
        (claim.blob == blob && claim.size == size).then_some(open)
    }

    /// A narinfo, reduced to what is public.
    pub(super) async fn narinfo(&self, hash: StoreHash, scope: Scope) -> Option<NarInfo> {
        if !self.policy.serves(scope) || !self.policy.may_know(hash) {
            return None;
        }
        let narinfo = readable("read a narinfo", self.holdings.narinfo(hash).await)?;
        self.policy.may_share(&Subject::path(&narinfo), scope).then(|| self.policy.public_part(narinfo))
    }

    /// A narinfo of the origins, for a site that we lead; reduced to what is public.
    pub(super) async fn resolve(&self, hash: StoreHash, scope: Scope) -> Option<NarInfo> {
        let narinfo = self.led_narinfo(hash, scope).await?;
        Some(self.policy.public_part(narinfo))
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

    /// Only for the local network, and only for what is public.
    async fn led_narinfo(&self, hash: StoreHash, scope: Scope) -> Option<NarInfo> {
        if scope != Scope::Lan || !self.policy.serves(scope) {
            return None;
        }
        let narinfo = self.site.narinfo(hash).await?;
        self.policy.may_share(&Subject::path(&narinfo), scope).then_some(narinfo)
    }

    /// A blob that is on its way here.
    pub(super) fn arriving(&self, digest: Digest, scope: Scope) -> Option<Arc<dyn ArrivingBlob>> {
        if !self.policy.serves(scope) {
            return None;
        }
        let arriving = self.site.arriving(digest)?;
        let narinfo = arriving.narinfo()?;
        let public = self.policy.may_share(&Subject::path(&narinfo), scope);
        (public && narinfo.nar_size == arriving.size()).then_some(arriving)
    }

    /// A peer that we serve asks for a blob.
    pub(super) fn wanted(&self, digest: Digest, visitor: Visitor) {
        if self.policy.serves(visitor.scope) {
            self.site.wanted(digest, visitor.peer);
        }
    }

    async fn may_leave(&self, held: &Held, scope: Scope) -> bool {
        let Claim { sha256, size, .. } = held.claim;
        let paths = self.holdings.narinfos_of(sha256).await;
        let mut paths = readable("read the narinfos of a blob", paths.map(Some)).unwrap_or_default();
        paths.retain(|narinfo| narinfo.nar_hash == sha256 && narinfo.nar_size == size);
        self.policy.may_share(&Subject::blob(&paths, held.published), scope)
    }
}

/// A store that fails is a store that does not hold; the log knows better.
fn readable<T>(what: &'static str, result: io::Result<Option<T>>) -> Option<T> {
    result.unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot {what} for a peer; it is told that we do not have it");
        None
    })
}
