//! Claims, signed once and kept.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use p2p_cache_discovery::Identity;
use p2p_cache_protocol::claim::{Claim, SignedClaim};
use p2p_cache_protocol::digest::Sha256Digest;

use super::super::limits::MAX_CACHED_CLAIMS;

/// Signs claims with the node's key.
pub type ClaimSigner = Arc<dyn Fn(Claim) -> SignedClaim + Send + Sync>;

/// The signer of a node.
#[must_use]
pub fn claim_signer(identity: &Identity) -> ClaimSigner {
    let key = identity.signing_key();
    Arc::new(move |claim| SignedClaim::sign(claim, &key))
}

pub(super) struct SignedClaims {
    signer: ClaimSigner,
    signed: Mutex<LruCache<Sha256Digest, SignedClaim>>,
}

impl SignedClaims {
    pub(super) fn new(signer: ClaimSigner) -> Self {
        let kept = NonZeroUsize::new(MAX_CACHED_CLAIMS).unwrap_or(NonZeroUsize::MIN);
        Self { signer, signed: Mutex::new(LruCache::new(kept)) }
    }

    pub(super) fn sign(&self, claim: Claim) -> SignedClaim {
        let known = self.signed.lock().unwrap_or_else(PoisonError::into_inner).get(&claim.sha256).copied();
        if let Some(known) = known.filter(|known| known.claim == claim) {
            return known;
        }
        let signed = (self.signer)(claim);
        self.signed.lock().unwrap_or_else(PoisonError::into_inner).put(claim.sha256, signed);
        signed
    }
}
