//! Whether a key has signed a store path, remembered: a verification is far longer than a look at a table, which costs
//! time and could tell a held path from an unknown one.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use lru::LruCache;
use p2p_cache_protocol::{NarInfo, TrustedKeys};

/// Verdicts kept, about 100 bytes each.
const MAX_VERDICTS: NonZeroUsize = NonZeroUsize::new(32 * 1024).unwrap();

/// A hash of all that a verdict depends on: it never changes for the same keys, so that none is ever out of date.
type Question = [u8; 32];

/// Signatures that have been looked at.
#[derive(Debug)]
pub(super) struct Verdicts(Mutex<LruCache<Question, bool>>);

impl Default for Verdicts {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX_VERDICTS)))
    }
}

impl Verdicts {
    /// Whether one of `keys`, the same ones at every call, has signed what `narinfo` says.
    pub(super) fn is_signed(&self, narinfo: &NarInfo, keys: &TrustedKeys) -> bool {
        let question = question(narinfo);
        if let Some(known) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&question) {
            return *known;
        }
        let signed = narinfo.verified_by(keys).is_some();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).put(question, signed);
        signed
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// Over the signed text and the signatures, each with its length in front.
fn question(narinfo: &NarInfo) -> Question {
    let mut hasher = blake3::Hasher::new();
    let fingerprint = narinfo.fingerprint();
    let signatures = narinfo.signatures.iter().map(|signature| signature.as_str());
    for text in std::iter::once(fingerprint.as_str()).chain(signatures) {
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }
    *hasher.finalize().as_bytes()
}
