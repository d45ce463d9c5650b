//! Store paths that the owner shares though no key vouches for them.

use std::fmt;
use std::str::FromStr;

use p2p_cache_protocol::StoreHash;
use p2p_cache_protocol::store_path::{StorePath, split_base_name};

/// A store path that the owner named: `/nix/store/HASH-NAME`, `HASH-NAME`, or the hash alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedPath {
    hash: StoreHash,
    name: Option<String>,
}

/// The text names no store path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is neither a store path nor the hash of one")]
pub struct PublishedPathError;

impl PublishedPath {
    /// The part that decides.
    #[must_use]
    pub fn hash(&self) -> StoreHash {
        self.hash
    }

    /// The name, where it was given.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }
}

impl fmt::Display for PublishedPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{}-{name}", self.hash),
            None => write!(f, "{}", self.hash),
        }
    }
}

impl FromStr for PublishedPath {
    type Err = PublishedPathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(hash) = text.parse() {
            return Ok(Self { hash, name: None });
        }
        if let Ok((hash, name)) = split_base_name(text) {
            return Ok(Self { hash, name: Some(name.to_owned()) });
        }
        let path: StorePath = text.parse().map_err(|_| PublishedPathError)?;
        Ok(Self { hash: path.hash(), name: Some(path.name().to_owned()) })
    }
}
