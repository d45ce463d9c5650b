//! Who has what: the small trait, its key, and its implementations.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod memory;

use async_trait::async_trait;
use libp2p::PeerId;
use p2p_cache_protocol::digest::Digest;

pub use memory::{MemoryDirectory, MemoryWorld};

use crate::error::DirectoryError;

/// Providers that one look-up gives at most, whatever limit the caller names.
pub const MAX_PROVIDERS: usize = 64;

/// Where nodes tell what they hold and ask who holds something.
///
/// Answers are hints: a provider may be gone, may have dropped the blob, or may lie. Nothing is listed: without
/// the key nobody learns anything.
#[async_trait]
pub trait ProviderDirectory: Send + Sync {
    /// Tells that this node holds what the key names. Resolves when the record is kept here and answered to
    /// whoever asks this node; telling others goes on behind it. Advertising again renews the record.
    ///
    /// # Errors
    /// [`DirectoryError::Full`] at the bound, [`DirectoryError::Closed`] after shutdown.
    async fn advertise(&self, key: ProviderKey) -> Result<(), DirectoryError>;

    /// Takes an advertisement back: this node no longer tells it; what other nodes hold of it runs out by
    /// itself. Withdrawing what was never advertised is fine.
    ///
    /// # Errors
    /// [`DirectoryError::Closed`] after shutdown.
    async fn withdraw(&self, key: ProviderKey) -> Result<(), DirectoryError>;

    /// Nodes that hold what the key names, each once, never this node itself, at most `limit` and never more
    /// than [`MAX_PROVIDERS`]. Takes a few seconds at worst, and then gives what was found until then.
    ///
    /// # Errors
    /// [`DirectoryError::Busy`] when too many look-ups run, [`DirectoryError::Closed`] after shutdown.
    async fn find_providers(&self, key: ProviderKey, limit: usize) -> Result<Vec<PeerId>, DirectoryError>;
}

/// What a blob is called in the directory: a second hash, so that who relays or stores a record does not learn
/// the hash of the content, and that swarms with different salts never meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProviderKey([u8; 32]);

impl ProviderKey {
    /// Key of a digest in the swarm with this salt (any bytes; empty for the common swarm).
    pub fn new(swarm_salt: &[u8], digest: &Digest) -> Self {
        let (kind, hash): (u8, &[u8; 32]) = match digest {
            Digest::Sha256(digest) => (1, &digest.0),
            Digest::Blake3(blob) => (2, &blob.0),
        };
        let mut hasher = blake3::Hasher::new_derive_key("p2p-cache 2025 provider directory key v1");
        // The length first: no salt and digest read like another pair.
        hasher.update(&(swarm_salt.len() as u64).to_le_bytes());
        hasher.update(swarm_salt).update(&[kind]).update(hash);
        Self(*hasher.finalize().as_bytes())
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A key made of raw bytes, for tests of directories.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2p_cache_protocol::digest::{BlobId, Sha256Digest};

    #[test]
    fn keys_depend_on_salt_kind_and_hash_and_hide_the_hash() {
        let sha = Digest::Sha256(Sha256Digest([7; 32]));
        let keys = [
            ProviderKey::new(b"", &sha),
            ProviderKey::new(b"office", &sha),
            ProviderKey::new(b"", &Digest::Blake3(BlobId([7; 32]))),
            ProviderKey::new(b"", &Digest::Sha256(Sha256Digest([8; 32]))),
        ];
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[..index].contains(key));
            assert_ne!(key.as_bytes(), &[7; 32]);
        }
        assert_eq!(keys[0], ProviderKey::new(b"", &sha));
    }
}
