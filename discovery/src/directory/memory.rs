//! The directory without a network, for tests and simulations.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use libp2p::PeerId;

use super::{MAX_PROVIDERS, ProviderDirectory, ProviderKey};
use crate::{dht::MAX_ADVERTISED_KEYS, error::DirectoryError};

type Records = BTreeMap<ProviderKey, BTreeSet<PeerId>>;

/// What all nodes of one imaginary swarm have told.
#[derive(Debug, Clone, Default)]
pub struct MemoryWorld(Arc<Mutex<Records>>);

impl MemoryWorld {
    /// The directory as one node of this world sees it.
    pub fn node(&self, peer: PeerId) -> MemoryDirectory {
        MemoryDirectory { world: self.clone(), peer }
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        // Nothing in here panics half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A node's view of a [`MemoryWorld`].
#[derive(Debug, Clone)]
pub struct MemoryDirectory {
    world: MemoryWorld,
    peer: PeerId,
}

#[async_trait]
impl ProviderDirectory for MemoryDirectory {
    async fn advertise(&self, key: ProviderKey) -> Result<(), DirectoryError> {
        let mut records = self.world.records();
        let held = records.values().filter(|providers| providers.contains(&self.peer)).count();
        if held >= MAX_ADVERTISED_KEYS {
            return Err(DirectoryError::Full { limit: MAX_ADVERTISED_KEYS });
        }
        records.entry(key).or_default().insert(self.peer);
        Ok(())
    }

    async fn withdraw(&self, key: ProviderKey) -> Result<(), DirectoryError> {
        let mut records = self.world.records();
        if let Some(providers) = records.get_mut(&key) {
            providers.remove(&self.peer);
            if providers.is_empty() {
                records.remove(&key);
            }
        }
        Ok(())
    }

    async fn find_providers(&self, key: ProviderKey, limit: usize) -> Result<Vec<PeerId>, DirectoryError> {
        let records = self.world.records();
        let others = records.get(&key).into_iter().flatten().copied().filter(|peer| *peer != self.peer);
        Ok(others.take(limit.min(MAX_PROVIDERS)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::conformance::{Member, suite};

    #[tokio::test]
    async fn the_directory_in_memory_conforms() {
        suite(async || {
            let world = MemoryWorld::default();
            (0..3)
                .map(|_| {
                    let peer = PeerId::random();
                    Member { peer, directory: Arc::new(world.node(peer)) }
                })
                .collect()
        })
        .await;
    }
}
