//! Public keys that can be replaced while the node runs.

use std::sync::{Arc, PoisonError, RwLock};

use p2p_cache_protocol::TrustedKeys;

/// The keys that hold now. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct KeyRing(Arc<RwLock<Arc<TrustedKeys>>>);

impl KeyRing {
    /// Begins with these.
    #[must_use]
    pub fn new(keys: TrustedKeys) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(keys))))
    }

    /// The keys that hold now.
    #[must_use]
    pub fn get(&self) -> Arc<TrustedKeys> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Others hold from now on.
    pub fn set(&self, keys: TrustedKeys) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }
}
